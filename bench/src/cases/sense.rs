//! What one look at the machine costs: CPU overall and by core, memory, load, the own process, and pressure.
//!
//! Peers do what their users would write who want these facts and nothing more, with everything that can be kept between
//! two looks kept. procfs tells all of them but for the control groups, which flyball reads besides (`all`). sysinfo has no
//! call for pressure and context switches, so flyball is held against it without pressure and control groups (`basic`). It
//! declines to read CPU times again within 200 ms, so its hot figure covers less; the pause of the cold case is longer.
//!
//! `preads` makes the system calls of flyball's basic look on files kept open and does not read their answers: cheaper it
//! cannot be had.
//!
//! The figure is CPU time of the looking thread. Hot, it is the median over batches; cold, over single looks, each after
//! a pause and after a walk through more memory than caches hold, as other programs would do in between.

use super::{Facts, Look, Sample};
use crate::subjects::Subject;
use crate::{alloc, stats, sys};
use anyhow::{Result, bail};
use std::hint::black_box;

/// More than the 200 ms that sysinfo waits between two readings of CPU times.
pub const PAUSE_SECONDS: f64 = 0.26;

/// Walked through before each cold look. Larger than the share of the last cache that a core usually has.
const THRASHED_BYTES: usize = 64 << 20;

const BATCHES: usize = 20;

/// Somebody who can look.
trait Looker {
    fn look(&mut self);
}

fn thrash(memory: &mut [u64]) {
    for word in memory.iter_mut().step_by(8) {
        *word = black_box(word.wrapping_add(1));
    }
}

fn hot(looker: &mut impl Looker, samples: usize) -> f64 {
    let each = (samples / BATCHES).max(1);
    let costs: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let begun = sys::thread_cpu_ns();
            (0..each).for_each(|_| looker.look());
            (sys::thread_cpu_ns() - begun) as f64 / each as f64
        })
        .collect();
    stats::median(&costs)
}

fn cold(looker: &mut impl Looker, samples: usize) -> f64 {
    let mut memory = vec![0; THRASHED_BYTES / size_of::<u64>()];
    let costs: Vec<f64> = (0..samples)
        .map(|_| {
            sys::sleep_until_ns(sys::now_ns() + (PAUSE_SECONDS * 1e9) as u64);
            thrash(&mut memory);
            let begun = sys::thread_cpu_ns();
            looker.look();
            (sys::thread_cpu_ns() - begun) as f64
        })
        .collect();
    stats::median(&costs)
}

fn measure(mut looker: impl Looker, look: Look, samples: usize) -> Sample {
    const COUNTED: i64 = 10;
    // The first look makes room for all others.
    looker.look();
    let ns = match look {
        Look::Cold(_) => cold(&mut looker, samples),
        Look::Hot(_) | Look::Tick => hot(&mut looker, samples),
    };
    let requests = alloc::requests(|| (0..COUNTED).for_each(|_| looker.look()));
    Sample::default()
        .with("us_per_sample", ns / 1000.0)
        .with("allocations_per_sample", requests as f64 / COUNTED as f64)
}

#[cfg(feature = "flyball")]
mod flyball {
    use super::{Looker, black_box};
    use flyball_core::time::{Clock, OsClock};
    use flyball_sense::{Readings, Root, Sample, Sensors};

    pub struct Full {
        pub sensors: Sensors,
        pub readings: Readings,
        pub sample: Sample,
    }

    impl Looker for Full {
        fn look(&mut self) {
            self.sensors
                .sample_only(self.readings, OsClock.now(), &mut self.sample);
            black_box(&self.sample);
        }
    }

    pub struct Tick(pub Sensors);

    impl Looker for Tick {
        fn look(&mut self) {
            black_box(self.0.tick(OsClock.now()));
        }
    }

    /// What sysinfo tells.
    pub fn basic() -> Readings {
        Readings::CPU | Readings::LOAD | Readings::MEMORY | Readings::PROCESS
    }

    pub fn open() -> Sensors {
        Sensors::open(&Root::default())
    }
}

mod preads {
    use super::{Looker, black_box, sys};
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;

    pub struct Floor {
        files: Vec<File>,
        folders: Vec<File>,
        buffer: Vec<u8>,
    }

    impl Floor {
        pub fn open() -> io::Result<Self> {
            let open = |paths: &[&str]| paths.iter().map(File::open).collect::<io::Result<_>>();
            Ok(Self {
                files: open(&[
                    "/proc/stat",
                    "/proc/self/statm",
                    "/proc/loadavg",
                    "/proc/meminfo",
                ])?,
                folders: open(&["/proc/self/task", "/proc/self/fd"])?,
                buffer: vec![0; 16 << 10],
            })
        }
    }

    impl Looker for Floor {
        fn look(&mut self) {
            black_box((sys::now_ns(), sys::process_cpu_ns()));
            sys::ask_rusage();
            for file in &self.files {
                black_box(file.read_at(&mut self.buffer, 0).ok());
            }
            for folder in &self.folders {
                black_box(folder.metadata().ok());
            }
        }
    }
}

#[cfg(feature = "sysinfo")]
mod sysinfo {
    use super::{Looker, black_box};
    use ::sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

    pub struct Peer {
        pub system: System,
        pub pid: Pid,
    }

    impl Looker for Peer {
        fn look(&mut self) {
            self.system.refresh_cpu_usage();
            self.system
                .refresh_memory_specifics(MemoryRefreshKind::everything());
            self.system.refresh_processes_specifics(
                ProcessesToUpdate::Some(&[self.pid]),
                false,
                ProcessRefreshKind::nothing().with_cpu().with_memory(),
            );
            black_box((&self.system, System::load_average().ok()));
        }
    }
}

#[cfg(feature = "procfs")]
mod procfs {
    use super::{Looker, black_box};
    use ::procfs::process::Process;
    use ::procfs::{
        CpuPressure, Current, CurrentSI, IoPressure, KernelStats, LoadAverage, Meminfo,
        MemoryPressure,
    };

    pub struct Peer {
        pub process: Process,
        pub pressure: bool,
    }

    impl Looker for Peer {
        fn look(&mut self) {
            black_box((
                KernelStats::current().ok(),
                Meminfo::current().ok(),
                LoadAverage::current().ok(),
                self.process.stat().ok(),
            ));
            if self.pressure {
                black_box((
                    CpuPressure::current().ok(),
                    MemoryPressure::current().ok(),
                    IoPressure::current().ok(),
                ));
            }
        }
    }
}

/// Looks `samples` times.
pub fn run(subject: Subject, look: Look, samples: usize) -> Result<Sample> {
    Ok(match (subject, look) {
        #[cfg(feature = "flyball")]
        (Subject::Flyball, Look::Tick) => measure(flyball::Tick(flyball::open()), look, samples),
        #[cfg(feature = "flyball")]
        (Subject::Flyball, Look::Hot(facts) | Look::Cold(facts)) => {
            let looker = flyball::Full {
                sensors: flyball::open(),
                readings: match facts {
                    Facts::Basic => flyball::basic(),
                    Facts::All => flyball_sense::Readings::ALL,
                },
                sample: Default::default(),
            };
            measure(looker, look, samples)
        }
        #[cfg(feature = "sysinfo")]
        (Subject::Sysinfo, Look::Hot(Facts::Basic) | Look::Cold(Facts::Basic)) => {
            let pid = ::sysinfo::Pid::from_u32(std::process::id());
            let system = ::sysinfo::System::new()?;
            measure(sysinfo::Peer { system, pid }, look, samples)
        }
        #[cfg(feature = "procfs")]
        (Subject::Procfs, Look::Hot(facts) | Look::Cold(facts)) => {
            let process = ::procfs::process::Process::myself()?;
            let pressure = facts == Facts::All;
            measure(procfs::Peer { process, pressure }, look, samples)
        }
        (Subject::Preads, Look::Hot(Facts::Basic) | Look::Cold(Facts::Basic)) => {
            measure(preads::Floor::open()?, look, samples)
        }
        (other, _) => bail!(
            "{} cannot run this case, or this build lacks it",
            other.name()
        ),
    })
}
