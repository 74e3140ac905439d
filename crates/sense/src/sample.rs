//! What a sample holds: counters and gauges as the kernel tells them, with their units.

use flyball_core::time::Timestamp;

/// What CPUs did since the machine started, nanoseconds. The kernel counts in hundredths of a second.
///
/// Time in virtual machines is inside `user_ns` and `nice_ns`, where the kernel counts it, and stands here only once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Programs at normal priority or better.
    pub user_ns: u64,
    /// Programs with a positive nice value.
    pub nice_ns: u64,
    /// The kernel on behalf of programs.
    pub system_ns: u64,
    /// Nothing to do.
    pub idle_ns: u64,
    /// Nothing to do while some task waited for a disk. The kernel moves time between this and `idle_ns`, so that it may go
    /// backwards.
    pub iowait_ns: u64,
    /// Interrupts.
    pub irq_ns: u64,
    /// Work that interrupts left behind.
    pub softirq_ns: u64,
    /// Wanted to run, but the hypervisor ran something else.
    pub steal_ns: u64,
}

impl CpuTimes {
    /// All time that was not idle, that which was stolen included: nobody else could have had it.
    pub fn busy_ns(&self) -> u64 {
        [
            self.user_ns,
            self.nice_ns,
            self.system_ns,
            self.irq_ns,
            self.softirq_ns,
            self.steal_ns,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// One logical CPU that is online.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreTimes {
    /// The kernel's number.
    pub cpu: u32,
    /// What it did.
    pub times: CpuTimes,
}

/// The machine's load averages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Tasks that ran, wanted to run or waited for a disk, averaged over about one minute.
    pub one: f64,
    /// Over about five minutes.
    pub five: f64,
    /// Over about fifteen minutes.
    pub fifteen: f64,
    /// Threads of the whole machine that run or want to at this moment.
    pub runnable: u64,
    /// Threads of the whole machine.
    pub threads: u64,
}

/// The calling process, all its threads, those that ended included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// CPU time, exact to the nanosecond.
    pub cpu_ns: u64,
    /// Of it in the program's own code; to the microsecond, scaled by the kernel from what it sees at ticks.
    pub user_ns: u64,
    /// Of it in the kernel; as `user_ns`.
    pub system_ns: u64,
    /// Threads now.
    pub threads: Option<u64>,
    /// Times that a thread gave up its CPU to wait.
    pub voluntary_switches: u64,
    /// Times that a thread lost its CPU to another.
    pub involuntary_switches: u64,
    /// Page faults served from memory.
    pub minor_faults: u64,
    /// Page faults that read from a disk.
    pub major_faults: u64,
    /// Memory that is resident now.
    pub resident_bytes: Option<u64>,
    /// Address space that is mapped now.
    pub virtual_bytes: Option<u64>,
    /// Open files; from Linux 6.2 on, as counting them was dear before.
    pub open_files: Option<u64>,
}

/// The machine's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// What the kernel has to give.
    pub total_bytes: u64,
    /// The kernel's estimate of what programs could get without swapping.
    pub available_bytes: u64,
    /// Not used for anything.
    pub free_bytes: u64,
    /// Buffers of block devices.
    pub buffers_bytes: u64,
    /// Files in memory, `shared_bytes` included.
    pub cached_bytes: u64,
    /// Of `cached_bytes` what no file stands behind: shared memory and tmpfs.
    pub shared_bytes: u64,
    /// Swap space.
    pub swap_total_bytes: u64,
    /// Swap space that is free.
    pub swap_free_bytes: u64,
    /// Waits to be written to a disk.
    pub dirty_bytes: u64,
}

/// The memory control group of the calling process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CgroupMemory {
    /// The kind of hierarchy, 1 or 2.
    pub version: u8,
    /// What the group uses, its files in memory included.
    pub current_bytes: u64,
    /// The tightest limit of the group and of those around it; absent when there is none.
    pub limit_bytes: Option<u64>,
    /// How much the group may grow before it or one around it, which others share, reaches its limit; absent when there is
    /// no limit.
    pub headroom_bytes: Option<u64>,
    /// The most that the group ever used; absent before Linux 5.19 under version 2.
    pub peak_bytes: Option<u64>,
    /// Processes of the group that the kernel killed for want of memory; absent before Linux 4.13.
    pub oom_kills: Option<u64>,
}

/// The CPU quota of the control groups around the calling process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Quota {
    /// CPUs' worth of time that the tightest quota allows, such as 1.5.
    pub cpus: f64,
    /// Which group has it: 0 the process's own, 1 the one around it, and so on.
    pub level: u32,
    /// Periods of this group in which something ran.
    pub periods: u64,
    /// Of these, periods in which the quota was spent before the end.
    pub throttled_periods: u64,
    /// Time for which this group was kept from running, added up over CPUs.
    pub throttled_ns: u64,
    /// The same of all other groups around the process that have a quota, added up.
    pub other_throttled_ns: u64,
}

/// Tasks that had to wait for a resource, from the kernel's pressure stall information.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks that were not idle waited; the kernel does not tell it for CPUs before Linux 5.13.
    pub full: Option<Stall>,
}

/// One line of pressure stall information.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// Stalled time since the machine started.
    pub total_ns: u64,
}

/// Everything that [`Sensors::sample`](crate::Sensors::sample) reads. What is unknown is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// When it was taken, as the caller said.
    pub at: Timestamp,
    /// All CPUs together.
    pub cpu: Option<CpuTimes>,
    /// The CPUs that are online, by number; empty when they are unknown.
    pub cores: Vec<CoreTimes>,
    /// Context switches of the whole machine since it started.
    pub context_switches: Option<u64>,
    /// Load averages.
    pub load: Option<Load>,
    /// The calling process.
    pub process: Option<Process>,
    /// The machine's memory.
    pub memory: Option<Memory>,
    /// The process's memory control group.
    pub cgroup_memory: Option<CgroupMemory>,
    /// The CPU quota; also `None` when there is none, which then is not in
    /// [`unavailable`](crate::Sensors::unavailable).
    pub quota: Option<Quota>,
    /// Waiting for CPUs.
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory.
    pub memory_pressure: Option<Pressure>,
    /// Waiting for disks.
    pub io_pressure: Option<Pressure>,
}

/// What a control loop needs many times a second, from two system calls: see [`Sensors::tick`](crate::Sensors::tick).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tick {
    /// When it was taken, as the caller said.
    pub at: Timestamp,
    /// CPU time of the process, exact to the nanosecond.
    pub cpu_ns: u64,
    /// Times that a thread gave up its CPU to wait.
    pub voluntary_switches: u64,
    /// Times that a thread lost its CPU to another.
    pub involuntary_switches: u64,
    /// Page faults that read from a disk.
    pub major_faults: u64,
}

impl Tick {
    /// CPUs' worth of time that the process used since `earlier`; `None` when no time passed or a counter went back.
    pub fn process_cpus_since(&self, earlier: &Tick) -> Option<f64> {
        let wall_ns = self.at.saturating_nanos_since(earlier.at);
        let cpu_ns = self.cpu_ns.checked_sub(earlier.cpu_ns)?;
        (wall_ns > 0).then(|| cpu_ns as f64 / wall_ns as f64)
    }
}
