//! The kept-open files, and taking samples from them.

use crate::cgroup::Groups;
use crate::error::Error;
use crate::proc;
use crate::root::Root;
use crate::sample::{Process, Sample, Tick};
use crate::source::{Buffer, Source};
use crate::sys;
use flyball_core::time::{Timestamp, process_cpu_nanos};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A reading that cannot be had, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unavailable {
    /// What: `cpu`, `cores`, `context switches`, `load`, `memory`, `process memory`, `threads`, `open files`,
    /// `cgroup memory`, `cpu quota`, `cpu pressure`, `memory pressure` or `io pressure`.
    pub what: &'static str,
    /// The file and what is wrong with it.
    pub reason: String,
}

/// Groups of readings, to be added up with `|`, so that what is dear or slow to change can be looked at less often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Readings(u8);

impl Readings {
    /// [`Sample::cpu`], [`Sample::cores`] and [`Sample::context_switches`].
    pub const CPU: Self = Self(1);
    /// [`Sample::load`].
    pub const LOAD: Self = Self(1 << 1);
    /// [`Sample::process`].
    pub const PROCESS: Self = Self(1 << 2);
    /// [`Sample::memory`].
    pub const MEMORY: Self = Self(1 << 3);
    /// [`Sample::cpu_pressure`], [`Sample::memory_pressure`] and [`Sample::io_pressure`].
    pub const PRESSURE: Self = Self(1 << 4);
    /// [`Sample::cgroup_memory`] and [`Sample::quota`].
    pub const CGROUP: Self = Self(1 << 5);
    /// Everything.
    pub const ALL: Self = Self((1 << 6) - 1);

    /// Whether all of `others` are among these.
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl std::ops::BitOr for Readings {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The readings that can fail, in the order of [`NAMES`].
#[derive(Clone, Copy)]
enum Reading {
    Cpu,
    Cores,
    ContextSwitches,
    Load,
    Memory,
    ProcessMemory,
    Threads,
    OpenFiles,
    CgroupMemory,
    Quota,
    CpuPressure,
    MemoryPressure,
    IoPressure,
}

const NAMES: [&str; 13] = [
    "cpu",
    "cores",
    "context switches",
    "load",
    "memory",
    "process memory",
    "threads",
    "open files",
    "cgroup memory",
    "cpu quota",
    "cpu pressure",
    "memory pressure",
    "io pressure",
];

/// What failed at the last sample.
#[derive(Debug, Default)]
struct Faults {
    errors: [Option<Error>; NAMES.len()],
    changed: bool,
}

impl Faults {
    fn note<T>(&mut self, reading: Reading, result: Result<T, Error>) -> Option<T> {
        let error = result.as_ref().err().copied();
        let known = &mut self.errors[reading as usize];
        if *known != error {
            *known = error;
            self.changed = true;
        }
        result.ok()
    }
}

/// A directory of `/proc/self` whose attributes are figures.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    file: Result<File, Error>,
}

impl Directory {
    fn open(path: PathBuf) -> Self {
        let file =
            File::open(&path)
                .map_err(Error::from)
                .and_then(|file| match sys::is_procfs(&file) {
                    true => Ok(file),
                    false => Err(Error::Absent("is not the kernel's own")),
                });
        Self { path, file }
    }

    fn attribute(&self, read: impl Fn(&std::fs::Metadata) -> Option<u64>) -> Result<u64, Error> {
        let file = self.file.as_ref().map_err(|error| *error)?;
        read(&file.metadata()?).ok_or(Error::Absent("is not counted by this kernel"))
    }
}

/// The kernel's files, kept open. See the [crate's documentation](crate).
///
/// About 20 descriptors, closed on `exec`. What stands below `/proc/self` is of the process that opened it: a child that
/// goes on after `fork` opens its own.
#[derive(Debug)]
pub struct Sensors {
    stat: Source,
    load: Source,
    memory: Source,
    statm: Source,
    tasks: Directory,
    descriptors: Directory,
    /// CPU, memory, input and output.
    pressure: [Source; 3],
    groups: Groups,
    page_bytes: u64,
    buffer: Buffer,
    faults: Faults,
    unavailable: Vec<Unavailable>,
}

impl Sensors {
    /// Opens everything below `root` and looks at it once, so that [`unavailable`](Self::unavailable) is known and later
    /// samples find their memory ready. Never fails: what is missing is missing.
    pub fn open(root: &Root) -> Self {
        let at = |path: &str| root.join(Path::new(path));
        let open = |path: &str| Source::open(at(path));
        let mut sensors = Self {
            stat: open("proc/stat"),
            load: open("proc/loadavg"),
            memory: open("proc/meminfo"),
            statm: open("proc/self/statm"),
            tasks: Directory::open(at("proc/self/task")),
            descriptors: Directory::open(at("proc/self/fd")),
            pressure: [
                "proc/pressure/cpu",
                "proc/pressure/memory",
                "proc/pressure/io",
            ]
            .map(open),
            groups: Groups::open(root),
            page_bytes: sys::page_bytes(),
            buffer: Buffer::new(),
            faults: Faults::default(),
            unavailable: Vec::new(),
        };
        sensors.sample(Timestamp::ZERO, &mut Sample::default());
        sensors
    }

    /// What could not be read at the last sample and why, each reading once.
    pub fn unavailable(&self) -> &[Unavailable] {
        &self.unavailable
    }

    /// Reads everything into `into`, whose memory is used again. `now` is kept as [`Sample::at`], the base of rates, and
    /// decides when failed files are tried anew.
    ///
    /// Allocates nothing as long as `into` has held a sample before, no CPU came, the process stays in its control groups
    /// and the same readings are available as at the last sample.
    pub fn sample(&mut self, now: Timestamp, into: &mut Sample) {
        self.sample_only(Readings::ALL, now, into);
    }

    /// The same for some readings; the others are `None`.
    pub fn sample_only(&mut self, wanted: Readings, now: Timestamp, into: &mut Sample) {
        let mut cores = std::mem::take(&mut into.cores);
        cores.clear();
        *into = Sample {
            at: now,
            cores,
            ..Sample::default()
        };
        // First what moves fastest, nearest to `now`.
        if wanted.contains(Readings::PROCESS) {
            into.process = Some(self.process(now));
        }
        if wanted.contains(Readings::CPU) {
            self.cpu(now, into);
        }
        let Self {
            buffer,
            faults,
            groups,
            ..
        } = self;
        if wanted.contains(Readings::LOAD) {
            let load = self.load.read(buffer, now).and_then(proc::load);
            into.load = faults.note(Reading::Load, load);
        }
        if wanted.contains(Readings::MEMORY) {
            let memory = self.memory.read(buffer, now).and_then(proc::memory);
            into.memory = faults.note(Reading::Memory, memory);
        }
        if wanted.contains(Readings::PRESSURE) {
            let [cpu, memory, io] = &mut self.pressure;
            let mut pressure = |source: &mut Source, reading| {
                let pressure = source.read(buffer, now).and_then(proc::pressure);
                faults.note(reading, pressure)
            };
            into.cpu_pressure = pressure(cpu, Reading::CpuPressure);
            into.memory_pressure = pressure(memory, Reading::MemoryPressure);
            into.io_pressure = pressure(io, Reading::IoPressure);
        }
        if wanted.contains(Readings::CGROUP) {
            groups.follow(buffer, now);
            let (memory, quota) = (groups.memory(buffer, now), groups.quota(buffer, now));
            into.cgroup_memory = faults.note(Reading::CgroupMemory, memory);
            into.quota = faults.note(Reading::Quota, quota).flatten();
        }
        if self.faults.changed {
            self.list_faults();
        }
    }

    fn cpu(&mut self, now: Timestamp, into: &mut Sample) {
        let stat = match self.stat.read(&mut self.buffer, now) {
            Ok(text) => proc::stat(text, &mut into.cores),
            Err(error) => proc::Stat {
                cpu: Err(error),
                cores: Err(error),
                context_switches: Err(error),
            },
        };
        let faults = &mut self.faults;
        into.cpu = faults.note(Reading::Cpu, stat.cpu);
        faults.note(Reading::Cores, stat.cores);
        into.context_switches = faults.note(Reading::ContextSwitches, stat.context_switches);
    }

    fn process(&mut self, now: Timestamp) -> Process {
        let cpu_ns = process_cpu_nanos();
        let rusage = sys::rusage();
        let pages = self.statm.read(&mut self.buffer, now).and_then(proc::statm);
        let faults = &mut self.faults;
        let pages = faults.note(Reading::ProcessMemory, pages);
        let bytes = |pages: u64| pages.checked_mul(self.page_bytes);
        // The kernel counts a directory for `.`, one for `..` and one a thread.
        let threads = self
            .tasks
            .attribute(|task| task.nlink().checked_sub(2).filter(|threads| *threads > 0));
        // From Linux 6.2 on the size of this directory is the number of its entries, and at least this descriptor is
        // one; before it is zero.
        let open_files = self
            .descriptors
            .attribute(|descriptors| Some(descriptors.len()).filter(|count| *count > 0));
        Process {
            cpu_ns,
            user_ns: rusage.user_ns,
            system_ns: rusage.system_ns,
            threads: faults.note(Reading::Threads, threads),
            voluntary_switches: rusage.voluntary_switches,
            involuntary_switches: rusage.involuntary_switches,
            minor_faults: rusage.minor_faults,
            major_faults: rusage.major_faults,
            resident_bytes: pages.and_then(|(_, resident)| bytes(resident)),
            virtual_bytes: pages.and_then(|(mapped, _)| bytes(mapped)),
            open_files: faults.note(Reading::OpenFiles, open_files),
        }
    }

    /// Reads what a control loop needs many times a second: two system calls, no file, no allocation.
    pub fn tick(&self, now: Timestamp) -> Tick {
        let cpu_ns = process_cpu_nanos();
        let rusage = sys::rusage();
        Tick {
            at: now,
            cpu_ns,
            voluntary_switches: rusage.voluntary_switches,
            involuntary_switches: rusage.involuntary_switches,
            major_faults: rusage.major_faults,
        }
    }

    fn list_faults(&mut self) {
        let [cpu, memory, io] = &self.pressure;
        let stat = self.stat.path();
        // In the order of `NAMES`.
        let paths: [&Path; NAMES.len()] = [
            stat,
            stat,
            stat,
            self.load.path(),
            self.memory.path(),
            self.statm.path(),
            &self.tasks.path,
            &self.descriptors.path,
            self.groups.memory_path(),
            self.groups.cpu_path(),
            cpu.path(),
            memory.path(),
            io.path(),
        ];
        self.unavailable.clear();
        for ((what, path), error) in NAMES.into_iter().zip(paths).zip(self.faults.errors) {
            if let Some(error) = error {
                self.unavailable.push(Unavailable {
                    what,
                    reason: format!("{}: {error}", path.display()),
                });
            }
        }
        self.faults.changed = false;
    }
}
