//! Trees of files in the shape of the kernel's, as they would be captured on another machine.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use flyball_core::time::Timestamp;
use flyball_sense::{Root, Sample, Sensors};

/// A tree that is removed at the end.
pub(crate) struct Tree(PathBuf);

impl Tree {
    /// An empty one.
    pub(crate) fn empty() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "tree-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A small machine with everything: two CPUs, pressure, and control groups of version 2 two levels deep.
    pub(crate) fn whole() -> Self {
        let tree = Self::empty();
        for (path, text) in WHOLE {
            tree.write(path, text);
        }
        tree
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Writes a file in place, so that those who have it open see the new text.
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Removes a file or a folder with all that is in it.
    pub(crate) fn remove(&self, path: &str) -> &Self {
        let path = self.path(path);
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
        self
    }

    pub(crate) fn sensors(&self) -> Sensors {
        Sensors::open(&Root::at(&self.0))
    }

    /// What sensors that are opened now see.
    pub(crate) fn sample(&self) -> Sample {
        sample_at(&mut self.sensors(), 1)
    }

    /// The same with the list of what could not be read.
    pub(crate) fn look(&self) -> (Sample, Vec<&'static str>) {
        let mut sensors = self.sensors();
        let sample = sample_at(&mut sensors, 1);
        (sample, missing(&sensors))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What is left of a tree stands in the build folder and harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn sample_at(sensors: &mut Sensors, second: u64) -> Sample {
    let mut sample = Sample::default();
    sensors.sample(Timestamp::from_nanos(second * 1_000_000_000), &mut sample);
    sample
}

/// What is unavailable, but for what only the kernel's own files tell.
pub(crate) fn missing(sensors: &Sensors) -> Vec<&'static str> {
    sensors
        .unavailable()
        .iter()
        .map(|unavailable| unavailable.what)
        .filter(|what| !["threads", "open files"].contains(what))
        .collect()
}

/// `/proc/stat` with these CPUs; CPU n has n ticks of every kind more than the base.
pub(crate) fn stat_of(cpus: impl IntoIterator<Item = u32>, interrupts: usize) -> String {
    let mut text = "cpu  1000 200 300 4000 50 6 7 8 0 0\n".to_owned();
    for cpu in cpus {
        let ticks: Vec<String> = [1000, 200, 300, 4000, 50, 6, 7, 8, 9, 10]
            .map(|base| (base + cpu).to_string())
            .to_vec();
        writeln!(text, "cpu{cpu} {}", ticks.join(" ")).unwrap();
    }
    text += "intr 15077004";
    for _ in 0..interrupts {
        text += " 0";
    }
    text +=
        "\nctxt 33922213\nbtime 1795266856\nprocesses 874614\nprocs_running 3\nprocs_blocked 0\n";
    text += "softirq 6763493 0 684984 4 2201487 275720 0 411 758865 0 2842022\n";
    text
}

pub(crate) const WHOLE: &[(&str, &str)] = &[
    (
        "proc/stat",
        "cpu  454330 545615 253176 1122553 3313 1 1160 2115 7 8\n\
         cpu0 223809 262866 123094 578918 850 1 424 1016 3 4\n\
         cpu1 230521 282749 130081 543634 2462 0 736 1098 4 4\n\
         intr 15077004 0 0 17 2388\n\
         ctxt 33922213\n\
         btime 1795266856\n\
         processes 874614\n\
         procs_running 3\n\
         procs_blocked 0\n\
         softirq 6763493 0 684984 4 2201487 275720 0 411 758865 0 2842022\n",
    ),
    ("proc/loadavg", "2.16 1.05 0.10 3/122 874614\n"),
    (
        "proc/meminfo",
        "MemTotal:       24684096 kB\n\
         MemFree:        23190420 kB\n\
         MemAvailable:   24051960 kB\n\
         Buffers:            6908 kB\n\
         Cached:           883536 kB\n\
         SwapCached:            0 kB\n\
         Active:           306864 kB\n\
         SwapTotal:       2097148 kB\n\
         SwapFree:        2097140 kB\n\
         Zswap:                 0 kB\n\
         Dirty:            110076 kB\n\
         Writeback:             0 kB\n\
         Shmem:              8788 kB\n\
         HugePages_Total:       0\n\
         Hugepagesize:       2048 kB\n",
    ),
    ("proc/self/statm", "787 549 511 99 0 93 0\n"),
    (
        "proc/pressure/cpu",
        "some avg10=2.16 avg60=1.16 avg300=1.12 total=3258506048\n\
         full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    ),
    (
        "proc/pressure/memory",
        "some avg10=0.10 avg60=0.20 avg300=0.30 total=40\n\
         full avg10=0.01 avg60=0.02 avg300=0.03 total=4\n",
    ),
    (
        "proc/pressure/io",
        "some avg10=1.19 avg60=0.32 avg300=0.12 total=38082747\n\
         full avg10=100.00 avg60=0.32 avg300=0.11 total=21976468\n",
    ),
    ("proc/self/cgroup", "0::/app.slice/job.service\n"),
    (
        "proc/self/mountinfo",
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
         31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
    ),
    ("sys/fs/cgroup/app.slice/cpu.max", "400000 100000\n"),
    (
        "sys/fs/cgroup/app.slice/cpu.stat",
        "usage_usec 90\nnr_periods 1000\nnr_throttled 5\nthrottled_usec 70\nnr_bursts 0\n",
    ),
    ("sys/fs/cgroup/app.slice/memory.max", "8000000\n"),
    ("sys/fs/cgroup/app.slice/memory.current", "7500000\n"),
    (
        "sys/fs/cgroup/app.slice/job.service/cpu.max",
        "150000 100000\n",
    ),
    (
        "sys/fs/cgroup/app.slice/job.service/cpu.stat",
        "usage_usec 80\nuser_usec 50\nsystem_usec 30\nnr_periods 100\nnr_throttled 20\nthrottled_usec 3000\n",
    ),
    ("sys/fs/cgroup/app.slice/job.service/memory.max", "max\n"),
    (
        "sys/fs/cgroup/app.slice/job.service/memory.current",
        "1048576\n",
    ),
    (
        "sys/fs/cgroup/app.slice/job.service/memory.peak",
        "2097152\n",
    ),
    (
        "sys/fs/cgroup/app.slice/job.service/memory.events",
        "low 0\nhigh 0\nmax 0\noom 3\noom_kill 2\noom_group_kill 0\n",
    ),
];
