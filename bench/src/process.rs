//! Other processes: starting one that is measured, and reading in /proc what it used.
//!
//! The reader shares no code with flyball's own sensors, so that a fault in them cannot hide in the figures.

use crate::sys;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

/// Counters of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThreadUse {
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// Voluntary and involuntary context switches.
    pub switches: u64,
}

/// What a process has used so far.
#[derive(Clone, Debug, Default)]
pub struct Use {
    /// CPU time in clock ticks (10 ms), threads that have ended included.
    pub ticks: u64,
    /// By thread id; those that live.
    pub threads: BTreeMap<u32, ThreadUse>,
}

/// What a process used between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    pub ticks: u64,
    /// CPU time of the threads that lived at the second reading, nanoseconds.
    pub cpu_ns: u64,
    /// Their context switches.
    pub switches: u64,
}

/// Sum of user and system time, fields 14 and 15 of stat(5).
fn ticks_in(stat: &str) -> Result<u64> {
    // The name, field 2, may hold anything; the state, field 3, comes first after it.
    let (_, after_name) = stat.rsplit_once(") ").context("a stat file has a name")?;
    let fields = after_name.split_whitespace().skip(11).take(2);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>()?;
    ensure!(ticks.len() == 2, "a stat file ends early");
    Ok(ticks.iter().sum())
}

/// Sum of the two kinds of context switches in status(5).
fn switches_in(status: &str) -> Result<u64> {
    let counts = status
        .lines()
        .filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
    let counts: Vec<u64> = counts
        .map(|(_, count)| count.trim().parse())
        .collect::<Result<_, _>>()?;
    ensure!(counts.len() == 2, "a status file lacks context switches");
    Ok(counts.iter().sum())
}

fn thread_use(thread: &Path) -> Result<ThreadUse> {
    let schedstat = fs::read_to_string(thread.join("schedstat"))?;
    let cpu_ns = schedstat
        .split_whitespace()
        .next()
        .context("a schedstat file has fields")?
        .parse()?;
    let switches = switches_in(&fs::read_to_string(thread.join("status"))?)?;
    Ok(ThreadUse { cpu_ns, switches })
}

impl Use {
    /// Reads all threads of a process.
    pub fn of(pid: u32) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let ticks = ticks_in(&fs::read_to_string(folder.join("stat"))?)?;
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(folder.join("task"))? {
            let thread = thread?;
            let id = thread.file_name().to_string_lossy().parse()?;
            // One that has ended since it was listed is not among those that live.
            if let Ok(used) = thread_use(&thread.path()) {
                threads.insert(id, used);
            }
        }
        ensure!(!threads.is_empty(), "process {pid} has ended");
        Ok(Use { ticks, threads })
    }

    /// Leaves one thread out of what is counted by thread.
    pub fn without(mut self, thread: u32) -> Self {
        self.threads.remove(&thread);
        self
    }

    pub fn since(&self, before: &Use) -> Used {
        let mut used = Used {
            ticks: self.ticks.saturating_sub(before.ticks),
            ..Used::default()
        };
        for (id, now) in &self.threads {
            let then = before.threads.get(id).copied().unwrap_or_default();
            used.cpu_ns += now.cpu_ns.saturating_sub(then.cpu_ns);
            used.switches += now.switches.saturating_sub(then.switches);
        }
        used
    }
}

/// CPU time of a process and of the processes that it has started and that still live, in clock ticks of 10 ms.
pub fn tree_ticks(root: u32) -> Result<u64> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // One that has ended since it was listed has no file.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if pid == root || parent_in(&stat) == Some(root) {
            ticks += ticks_in(&stat)?;
        }
    }
    Ok(ticks)
}

/// The parent, field 4 of stat(5).
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// Bytes that the files of a folder and of the folders in it take on disk.
pub fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() {
            disk_bytes(&entry.path())?
        } else {
            about.blocks() * 512
        };
    }
    Ok(bytes)
}

/// Memory of a process, bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Everything that is resident, shared pages as a whole.
    pub resident: u64,
    /// Shared pages in equal parts among those who share them.
    pub proportional: u64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)
    }

    fn parse(rollup: &str) -> Result<Self> {
        let bytes = |name: &str| {
            let value = rollup.lines().find_map(|line| line.strip_prefix(name));
            let value = value.with_context(|| format!("smaps_rollup lacks {name}"))?;
            let kib = value.trim().trim_end_matches(" kB").parse::<u64>();
            Ok::<u64, anyhow::Error>(kib? * 1024)
        };
        Ok(Memory {
            resident: bytes("Rss:")?,
            proportional: bytes("Pss:")?,
        })
    }
}

/// A process that is measured. It ends with this value, and with this process.
pub struct Program(Child);

impl Program {
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = sys::spawn_bound(command).with_context(|| format!("starting {command:?}"))?;
        Ok(Program(child))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Fails when it has ended.
    pub fn check(&mut self) -> Result<()> {
        let ended = self.0.try_wait()?;
        ensure!(
            ended.is_none(),
            "the measured process ended: {}",
            ended.unwrap_or_default()
        );
        Ok(())
    }

    /// Asks it to end and waits for that, at most `limit_ns`.
    pub fn end(&mut self, limit_ns: u64) -> Result<ExitStatus> {
        sys::ask_to_end(self.0.id())?;
        let deadline = sys::now_ns() + limit_ns;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            let now = sys::now_ns();
            ensure!(now < deadline, "did not end when it was asked to");
            sys::sleep_until_ns(now + 500_000);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended; then there is only its status left to collect.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for the state of a measured process; it goes with this value.
pub struct Folder(PathBuf);

impl Folder {
    /// `number` tells those of one process apart.
    pub fn new(number: usize) -> Result<Self> {
        let name = format!("flyball-bench-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Folder(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left in the system's folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_after_a_hostile_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194304 1 2 3 4 500 60 7 8 20 0 9 0 1";
        assert_eq!(ticks_in(stat).unwrap(), 560);
        assert_eq!(parent_in(stat), Some(1));
        assert!(ticks_in("7 (a) S 1").is_err());
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches_in(status).unwrap(), 7);
        assert!(switches_in("Name:\tx\n").is_err());
        let rollup = "0-1 ---p 0 00:00 0 [rollup]\nRss:   1756 kB\nPss:   203 kB\n";
        let memory = Memory::parse(rollup).unwrap();
        assert_eq!((memory.resident, memory.proportional), (1_798_144, 207_872));
    }

    #[test]
    fn threads_that_come_count_and_those_that_went_do_not() {
        let thread = |cpu_ns, switches| ThreadUse { cpu_ns, switches };
        let before = Use {
            ticks: 1,
            threads: BTreeMap::from([(1, thread(10, 1)), (2, thread(20, 2))]),
        };
        let after = Use {
            ticks: 4,
            threads: BTreeMap::from([(1, thread(15, 3)), (3, thread(7, 1))]),
        };
        let used = after.since(&before);
        assert_eq!((used.ticks, used.cpu_ns, used.switches), (3, 12, 3));
        assert_eq!(after.without(3).since(&before).cpu_ns, 5);
    }

    #[test]
    fn this_process_can_be_read() {
        let own = Use::of(std::process::id()).unwrap();
        assert!(own.threads.contains_key(&std::process::id()));
        assert!(Memory::of(std::process::id()).unwrap().resident > 0);
    }
}
