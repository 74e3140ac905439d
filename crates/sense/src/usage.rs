//! From counters to percentages and rates: what happened between two samples.
//!
//! Pure. Every figure is a difference of counters over the window, so it holds for exactly that window; a counter that is
//! unknown in either sample, or went backwards, gives `None`.

use crate::sample::{CoreTimes, CpuTimes, Pressure, Sample};

/// How all CPUs together spent the window, percent of their time.
///
/// `user`, `system`, `idle`, `iowait` and `steal` add up to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuShares {
    /// Everything but idle and waiting for disks, stolen time included: what is no longer to be had.
    pub overall_percent: f64,
    /// Programs, `nice_percent` included.
    pub user_percent: f64,
    /// The kernel, `interrupt_percent` included.
    pub system_percent: f64,
    /// Nothing to do.
    pub idle_percent: f64,
    /// Nothing to do while some task waited for a disk.
    pub iowait_percent: f64,
    /// Wanted to run while the hypervisor ran something else.
    pub steal_percent: f64,
    /// Of `user_percent` the programs with a positive nice value.
    pub nice_percent: f64,
    /// Of `system_percent` interrupts and what they left behind.
    pub interrupt_percent: f64,
}

/// How one CPU spent the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CoreUsage {
    /// The kernel's number.
    pub cpu: u32,
    /// As [`CpuShares::overall_percent`]; absent for a CPU that came meanwhile, whose counters went backwards, or of which
    /// no tick was counted.
    pub busy_percent: Option<f64>,
}

/// What happened between two samples.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// All CPUs.
    pub cpu: Option<CpuShares>,
    /// Each CPU that is online at the end of the window, by number.
    pub per_core: Vec<CoreUsage>,
    /// CPU time of the process, percent of the whole machine: at 100 it had every CPU all the time.
    pub process_percent: Option<f64>,
    /// CPU time of the process in CPUs' worth: at 1.5 it had one and a half CPUs.
    pub process_cpus: Option<f64>,
    /// Context switches of the whole machine a second.
    pub context_switches_per_second: Option<f64>,
    /// Times a second that a thread of the process gave up its CPU to wait.
    pub voluntary_switches_per_second: Option<f64>,
    /// Times a second that a thread of the process lost its CPU to another.
    pub involuntary_switches_per_second: Option<f64>,
    /// Page faults of the process a second that were served from memory.
    pub minor_faults_per_second: Option<f64>,
    /// Page faults of the process a second that read from a disk.
    pub major_faults_per_second: Option<f64>,
    /// Of the quota's periods in which something ran, the share in which the quota was spent too early, 0 to 1; 0 when
    /// nothing ran.
    pub throttled_ratio: Option<f64>,
    /// Time that quotas kept the process's groups from running, added up over CPUs and groups, in CPUs' worth.
    pub throttled_cpus: Option<f64>,
    /// Percent of the window in which some task waited for a CPU.
    pub cpu_stalled_percent: Option<f64>,
    /// Percent of the window in which some task waited for memory.
    pub memory_stalled_percent: Option<f64>,
    /// Percent of the window in which some task waited for a disk.
    pub io_stalled_percent: Option<f64>,
}

/// Nanoseconds of a window, by kind.
struct Spent {
    user: u64,
    nice: u64,
    system: u64,
    interrupts: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
}

impl Spent {
    fn between(before: &CpuTimes, after: &CpuTimes) -> Option<Self> {
        let (idle, iowait) = idle_between(before, after)?;
        Some(Self {
            user: after.user_ns.checked_sub(before.user_ns)?,
            nice: after.nice_ns.checked_sub(before.nice_ns)?,
            system: after.system_ns.checked_sub(before.system_ns)?,
            interrupts: (after.irq_ns.checked_sub(before.irq_ns)?)
                .checked_add(after.softirq_ns.checked_sub(before.softirq_ns)?)?,
            idle,
            iowait,
            steal: after.steal_ns.checked_sub(before.steal_ns)?,
        })
    }

    fn busy(&self) -> f64 {
        [
            self.user,
            self.nice,
            self.system,
            self.interrupts,
            self.steal,
        ]
        .into_iter()
        .map(|part| part as f64)
        .sum()
    }

    fn idle(&self) -> f64 {
        self.idle as f64 + self.iowait as f64
    }

    /// Percent of the window that was not idle; `None` when it holds no tick.
    fn busy_percent(&self) -> Option<f64> {
        let total = self.busy() + self.idle();
        (total > 0.0).then(|| percent(self.busy(), total))
    }
}

/// Idle time and time waiting for disks. The kernel moves time between the two after the fact, so one of them may go
/// backwards while both together do not: what one lost is then part of what the other gained.
fn idle_between(before: &CpuTimes, after: &CpuTimes) -> Option<(u64, u64)> {
    let gain = |before: u64, after: u64| i128::from(after) - i128::from(before);
    let idle = gain(before.idle_ns, after.idle_ns);
    let iowait = gain(before.iowait_ns, after.iowait_ns);
    let both = u64::try_from(idle + iowait).ok()?;
    let idle = idle.clamp(0, both.into()) as u64;
    Some((idle, both - idle))
}

fn percent(part: f64, whole: f64) -> f64 {
    (100.0 * part / whole).clamp(0.0, 100.0)
}

fn shares(before: &CpuTimes, after: &CpuTimes) -> Option<CpuShares> {
    let spent = Spent::between(before, after)?;
    let overall_percent = spent.busy_percent()?;
    let total = spent.busy() + spent.idle();
    let of = |part: u64| percent(part as f64, total);
    Some(CpuShares {
        overall_percent,
        user_percent: percent(spent.user as f64 + spent.nice as f64, total),
        system_percent: percent(spent.system as f64 + spent.interrupts as f64, total),
        idle_percent: of(spent.idle),
        iowait_percent: of(spent.iowait),
        steal_percent: of(spent.steal),
        nice_percent: of(spent.nice),
        interrupt_percent: of(spent.interrupts),
    })
}

fn core(before: &[CoreTimes], after: &CoreTimes) -> CoreUsage {
    let earlier = before
        .binary_search_by_key(&after.cpu, |core| core.cpu)
        .map(|index| &before[index].times);
    let busy_percent = earlier
        .ok()
        .and_then(|earlier| Spent::between(earlier, &after.times)?.busy_percent());
    CoreUsage {
        cpu: after.cpu,
        busy_percent,
    }
}

/// What happened from `before` to `after`, two samples of the same [`Sensors`](crate::Sensors). Rates need
/// `after.at` to be later than `before.at`; what has none is `None`. Every figure is finite and not negative, percentages
/// are at most 100.
pub fn usage(before: &Sample, after: &Sample) -> Usage {
    let wall_ns = after.at.saturating_nanos_since(before.at);
    let seconds = (wall_ns > 0).then(|| wall_ns as f64 / 1e9);
    let gain = |of: &dyn Fn(&Sample) -> Option<u64>| of(after)?.checked_sub(of(before)?);
    let per_second = |of: &dyn Fn(&Sample) -> Option<u64>| Some(gain(of)? as f64 / seconds?);

    let process_cpus = per_second(&|sample| Some(sample.process?.cpu_ns)).map(|ns| ns / 1e9);
    let process_percent = process_cpus
        .filter(|_| !after.cores.is_empty())
        .map(|cpus| percent(cpus, after.cores.len() as f64));

    let stalled = |of: &dyn Fn(&Sample) -> Option<Pressure>| {
        let ns = gain(&|sample| Some(of(sample)?.some.total_ns))?;
        Some(percent(ns as f64, seconds? * 1e9))
    };

    // Counters of different groups have nothing to do with each other.
    let same_quota = match (&before.quota, &after.quota) {
        (Some(before), Some(after)) => before.level == after.level,
        _ => false,
    };
    let of_quota = |of: fn(&crate::Quota) -> u64| {
        same_quota
            .then(|| gain(&|sample| sample.quota.as_ref().map(of)))
            .flatten()
    };
    let throttled_ratio = of_quota(|quota| quota.periods)
        .zip(of_quota(|quota| quota.throttled_periods))
        .map(|(periods, throttled)| match periods {
            0 => 0.0,
            _ => (throttled as f64 / periods as f64).min(1.0),
        });
    let throttled_cpus = of_quota(|quota| quota.throttled_ns)
        .zip(of_quota(|quota| quota.other_throttled_ns))
        .zip(seconds)
        .map(|((own, other), seconds)| (own as f64 + other as f64) / 1e9 / seconds);

    Usage {
        cpu: before
            .cpu
            .as_ref()
            .zip(after.cpu.as_ref())
            .and_then(|(before, after)| shares(before, after)),
        per_core: after
            .cores
            .iter()
            .map(|after| core(&before.cores, after))
            .collect(),
        process_percent,
        process_cpus,
        context_switches_per_second: per_second(&|sample| sample.context_switches),
        voluntary_switches_per_second: per_second(&|sample| {
            Some(sample.process?.voluntary_switches)
        }),
        involuntary_switches_per_second: per_second(&|sample| {
            Some(sample.process?.involuntary_switches)
        }),
        minor_faults_per_second: per_second(&|sample| Some(sample.process?.minor_faults)),
        major_faults_per_second: per_second(&|sample| Some(sample.process?.major_faults)),
        throttled_ratio,
        throttled_cpus,
        cpu_stalled_percent: stalled(&|sample| sample.cpu_pressure),
        memory_stalled_percent: stalled(&|sample| sample.memory_pressure),
        io_stalled_percent: stalled(&|sample| sample.io_pressure),
    }
}

#[cfg(test)]
mod tests;
