//! Control groups for commands: one for all of a program's commands, and below it one for each keeper.
//!
//! A keeper enters its group when it is made, by itself, and everything that it starts is born there; so a command costs nothing
//! for being bounded. Groups are made below that of the program itself (version 1), or below the nearest one around it that hands
//! the memory controller on (version 2, where a group with processes of its own may not).
//!
//! Invariants:
//! - a group is removed when its program ends, and what a killed program left is removed by the next: each holds a lock on its
//!   group's directory, which the kernel releases whatever happens;
//! - a keeper that cannot enter its group ends instead of running commands outside of it.
//!
//! Leaves out: CPU and I/O controllers; freezing (SIGSTOP to the tree works without a group).
//!
//! Follows the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `Documentation/admin-guide/cgroup-v1/memory.rst`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flyball_sense::{ControlGroup, Root};

/// How the names of our groups begin.
const PREFIX: &str = "flyball-";

/// Largest file of a group that is read, bytes. `memory.stat` has 2 to 4 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Groups that a killed program may have left and that one start removes at most.
const SWEPT_MAX: usize = 1024;

/// A group for all commands of a program. Cheap to clone; the group is removed with the last clone, when nothing runs in it any more.
#[derive(Clone, Debug)]
pub struct CgroupPool {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    version: u8,
    directory: PathBuf,
    /// Held for as long as the group is ours.
    _lock: File,
    next: AtomicU64,
    /// Groups whose keeper was let go, to be removed once it has ended.
    retired: Mutex<Vec<PathBuf>>,
}

impl CgroupPool {
    /// Makes a group without a bound.
    ///
    /// # Errors
    /// Why there can be none, for people: no memory controller, or no permission.
    pub fn make() -> Result<CgroupPool, String> {
        CgroupPool::make_below(&Root::default())
    }

    /// The same with the files of another system's `/proc` and `/sys`.
    ///
    /// # Errors
    /// As [`make`](CgroupPool::make).
    pub fn make_below(root: &Root) -> Result<CgroupPool, String> {
        let ControlGroup {
            version,
            directories,
            ..
        } = flyball_sense::control_group(root, "memory")?;
        let parent = match version {
            1 => directories.first(),
            _ => directories.iter().find(|level| hands_memory_on(level)),
        }
        .ok_or("no control group around this one hands the memory controller on")?;
        let refused = |error: io::Error| format!("{}: {error}", parent.display());
        if version != 1 {
            // Moving a process needs this of the group above both places, and it is better known now than at the first command.
            let procs = parent.join("cgroup.procs");
            OpenOptions::new()
                .write(true)
                .open(&procs)
                .map_err(|error| format!("{}: {error}", procs.display()))?;
        }
        let (directory, lock) = make_own(parent).map_err(refused)?;
        sweep(parent, &directory);
        let pool = CgroupPool {
            pool: Arc::new(Pool {
                version,
                directory,
                _lock: lock,
                next: AtomicU64::new(0),
                retired: Mutex::new(Vec::new()),
            }),
        };
        if version != 1 {
            pool.pool
                .write("cgroup.subtree_control", "+memory")
                .map_err(refused)?;
        }
        // A group that does not count would bound nothing.
        pool.used()
            .ok_or_else(|| format!("{}: its memory is not counted", parent.display()))?;
        Ok(pool)
    }

    /// 1 or 2.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.pool.version
    }

    /// Bounds the memory of all commands together; the kernel reclaims caches first, then kills the largest process of the group.
    /// Swap does not widen it.
    ///
    /// # Errors
    /// From the system: `ResourceBusy` when more than that is in use already.
    pub fn set_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        set_memory(self.pool.version, &self.pool.directory, bytes)
    }

    /// Memory of all commands together that cannot simply be dropped: anonymous and shared memory, bytes.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        used(self.pool.version, &self.pool.directory)
    }

    /// The most that was charged to the group so far, caches included, bytes; `None` before Linux 5.19 under version 2.
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        let name = match self.pool.version {
            1 => "memory.max_usage_in_bytes",
            _ => "memory.peak",
        };
        read(&self.pool.directory.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Where the group is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.pool.directory
    }

    /// A group for a keeper.
    pub(crate) fn leaf(&self) -> io::Result<Leaf> {
        self.remove_retired();
        let number = self.pool.next.fetch_add(1, Ordering::Relaxed);
        let directory = self.pool.directory.join(number.to_string());
        fs::create_dir(&directory)?;
        let leaf = Leaf {
            pool: Arc::clone(&self.pool),
            procs: OpenOptions::new()
                .write(true)
                .open(directory.join("cgroup.procs"))?,
            events: File::open(directory.join(events_of(self.pool.version)))?,
            directory,
            bound: Mutex::new(None),
            kills: AtomicU64::new(0),
        };
        Ok(leaf)
    }

    /// Removes groups whose keepers have ended.
    pub(crate) fn remove_retired(&self) {
        self.pool.remove_retired();
    }
}

impl Pool {
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        write(&self.directory.join(name), text)
    }

    fn remove_retired(&self) {
        self.retired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|directory| match fs::remove_dir(directory) {
                Ok(()) => false,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.remove_retired();
        let _ = fs::remove_dir(&self.directory);
    }
}

/// The group of one keeper.
#[derive(Debug)]
pub(crate) struct Leaf {
    pool: Arc<Pool>,
    directory: PathBuf,
    procs: File,
    /// Kept open, as it is read at the end of every command.
    events: File,
    bound: Mutex<Option<u64>>,
    /// Kills for want of memory that were told already.
    kills: AtomicU64,
}

impl Leaf {
    /// What a process writes `0` to in order to enter.
    pub(crate) fn entrance(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }

    /// Bounds the next command; costs nothing when the last had the same bound.
    pub(crate) fn set_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if *bound != bytes {
            set_memory(self.pool.version, &self.directory, bytes)?;
            *bound = bytes;
        }
        Ok(())
    }

    pub(crate) fn used(&self) -> Option<u64> {
        used(self.pool.version, &self.directory)
    }

    /// Whether the kernel killed a process of the group for want of memory since the last time this was asked. `None` where it does
    /// not count that.
    pub(crate) fn was_killed_for_memory(&self) -> Option<bool> {
        let mut text = [0; 512];
        let length = self.events.read_at(&mut text, 0).ok()?;
        let kills = keyed(std::str::from_utf8(&text[..length]).ok()?, "oom_kill")?;
        Some(self.kills.swap(kills, Ordering::Relaxed) < kills)
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if fs::remove_dir(&self.directory).is_err() {
            // Its keeper is on its way out.
            self.pool
                .retired
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(std::mem::take(&mut self.directory));
        }
    }
}

fn events_of(version: u8) -> &'static str {
    match version {
        1 => "memory.oom_control",
        _ => "memory.events",
    }
}

fn hands_memory_on(level: &Path) -> bool {
    read(&level.join("cgroup.subtree_control"))
        .is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
}

/// Makes a group with a name that nobody has, and locks it.
fn make_own(parent: &Path) -> io::Result<(PathBuf, File)> {
    /// Names that are tried: other programs of the same process id, in other namespaces, and pools of this one.
    const TRIES: u32 = 1000;
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 0..TRIES {
        let directory = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        match fs::create_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                last = error;
                continue;
            }
            Err(error) => return Err(error),
        }
        let lock = File::open(&directory)?;
        // A sweep between the two calls above would have taken it for one that was left behind.
        if lock.try_lock().is_ok() && directory.is_dir() {
            return Ok((directory, lock));
        }
    }
    Err(last)
}

/// Removes groups whose programs were killed. Groups with processes in them stay: the kernel does not remove those.
fn sweep(parent: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    let left = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .filter(|path| path != own)
        .take(SWEPT_MAX);
    for directory in left {
        let Ok(lock) = File::open(&directory) else {
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        for leaf in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if leaf.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_dir(leaf.path());
            }
        }
        let _ = fs::remove_dir(&directory);
    }
}

fn set_memory(version: u8, directory: &Path, bytes: Option<u64>) -> io::Result<()> {
    let text = |none: &str| bytes.map_or_else(|| none.to_owned(), |bytes| bytes.to_string());
    if version != 1 {
        write_if_there(&directory.join("memory.swap.max"), "0")?;
        return write(&directory.join("memory.max"), &text("max"));
    }
    let (memory, with_swap) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
    let text = text("-1");
    // The kernel refuses a bound on memory above that on both; so the one that gets wider goes first, and which one that is depends
    // on what stands there.
    if write(&directory.join(memory), &text).is_ok() {
        return write_if_there(&directory.join(with_swap), &text);
    }
    write_if_there(&directory.join(with_swap), &text)?;
    write(&directory.join(memory), &text)
}

/// The bound on the memory of a group, bytes; `None` when it has none.
pub(super) fn bound(version: u8, directory: &Path) -> Option<u64> {
    /// From here on a bound of version 1 means none: the kernel tells the largest multiple of a page below 2^63.
    const UNLIMITED: u64 = 1 << 62;
    let name = match version {
        1 => "memory.limit_in_bytes",
        _ => "memory.max",
    };
    let text = read(&directory.join(name)).ok()?;
    text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
}

pub(super) fn used(version: u8, directory: &Path) -> Option<u64> {
    let stat = read(&directory.join("memory.stat")).ok()?;
    let (anonymous, shared) = match version {
        1 => ("total_rss", "total_shmem"),
        _ => ("anon", "shmem"),
    };
    // Old kernels do not tell shared memory apart from caches under version 1.
    Some(keyed(&stat, anonymous)?.saturating_add(keyed(&stat, shared).unwrap_or(0)))
}

/// The number after a word at the start of a line.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

fn write_if_there(path: &Path, text: &str) -> io::Result<()> {
    match write(path, text) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
