//! How long the threads that serve waited for a CPU.
//!
//! The kernel counts, for each thread, the time it ran and the time it was ready to run and did not (`/proc/self/task/TID/schedstat`, the first two
//! numbers, nanoseconds; Linux documentation, scheduler/sched-stats). The two together are all the time that the thread was not asleep, also on an
//! overloaded machine, so `waited ÷ (ran + waited)` is the part by which work on these threads is drawn out. A reading costs 1 to 2 µs.
//!
//! A thread makes itself known when it first serves a call that is looked at. Files stay open; a thread that is gone fails its next reading and is forgotten.
//! All gates of a process share the table and its running totals, so a thread is read at most once each [`FRESH`], whatever number of gates ask.
//!
//! Where the files are missing (other systems, a sandbox, a kernel without the counters) nothing is known, which is told as `None`.

use std::cell::Cell;
use std::fs::File;
use std::sync::Mutex;
use std::time::Duration;

use flyball_core::time::Timestamp;

use crate::shell::lock;

/// The most threads that are read; further ones are left out.
const MAX_THREADS: usize = 512;
/// Totals that are younger are as good as new ones: a quarter of the shortest window of a limit.
const FRESH: Duration = Duration::from_millis(5);

/// What threads have done since they were known, nanoseconds; only differences mean something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) ran: u64,
    pub(crate) waited: u64,
}

impl Totals {
    fn since(self, earlier: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(earlier.ran),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }

    /// The part of the time awake that was waiting, 0 to 1; `None` if all slept.
    pub(crate) fn share(self) -> Option<f64> {
        let awake = self.ran.saturating_add(self.waited);
        (awake > 0).then(|| self.waited as f64 / awake as f64)
    }
}

/// The two numbers.
fn parse(text: &[u8]) -> Option<Totals> {
    let text = std::str::from_utf8(text).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let ran = fields.next()?.parse().ok()?;
    let waited = fields.next()?.parse().ok()?;
    Some(Totals { ran, waited })
}

#[derive(Debug)]
struct Thread {
    file: File,
    last: Totals,
}

#[derive(Debug)]
struct Table {
    threads: Vec<Thread>,
    totals: Totals,
    read_at: Timestamp,
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    threads: Vec::new(),
    totals: Totals { ran: 0, waited: 0 },
    read_at: Timestamp::ZERO,
});

impl Table {
    fn read(&mut self) {
        let totals = &mut self.totals;
        self.threads.retain_mut(|thread| {
            let Some(now) = read(&thread.file) else {
                return false;
            };
            let step = now.since(thread.last);
            totals.ran = totals.ran.saturating_add(step.ran);
            totals.waited = totals.waited.saturating_add(step.waited);
            thread.last = now;
            true
        });
    }
}

fn read(file: &File) -> Option<Totals> {
    // Three numbers of at most 20 digits.
    let mut text = [0; 80];
    #[cfg(unix)]
    let length = std::os::unix::fs::FileExt::read_at(file, &mut text, 0).ok()?;
    #[cfg(not(unix))]
    let length = std::io::Read::read(&mut &*file, &mut text).ok()?;
    parse(&text[..length])
}

thread_local! {
    static KNOWN: Cell<bool> = const { Cell::new(false) };
}

/// This thread serves. A load after the first time.
#[inline]
pub(crate) fn this_one_serves() {
    if !KNOWN.get() {
        KNOWN.set(true);
        add_this();
    }
}

#[cold]
fn add_this() {
    // The link is resolved as the file is opened: it stays this thread's.
    let Ok(file) = File::open("/proc/thread-self/schedstat") else {
        return;
    };
    let Some(last) = read(&file) else { return };
    let mut table = lock(&TABLE);
    if table.threads.len() >= MAX_THREADS {
        // Those that are gone make room.
        table.read();
    }
    if table.threads.len() < MAX_THREADS {
        table.threads.push(Thread { file, last });
    }
}

/// The running totals, at most [`FRESH`] old; `None` if no thread can be read.
fn totals(now: Timestamp) -> Option<Totals> {
    let mut table = lock(&TABLE);
    if now.duration_since(table.read_at) >= FRESH {
        table.read();
        table.read_at = now;
    }
    (!table.threads.is_empty()).then_some(table.totals)
}

/// What one gate read last.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    last: Option<Totals>,
}

impl Reader {
    /// What threads that serve have done since the last call; `None` if it is not known.
    pub(crate) fn step(&mut self, now: Timestamp) -> Option<Totals> {
        let now = totals(now)?;
        let last = self.last.replace(now)?;
        Some(now.since(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_read() {
        let read = parse(b"2503182 148913 14\n").unwrap();
        assert_eq!((read.ran, read.waited), (2_503_182, 148_913));
        for broken in [&b""[..], b"12", b"12 x 3", b"-1 2 3", b"\xff 2 3"] {
            assert_eq!(parse(broken), None);
        }
    }

    #[test]
    fn a_share_is_of_the_time_awake() {
        let (early, late) = (
            Totals { ran: 10, waited: 5 },
            Totals {
                ran: 40,
                waited: 15,
            },
        );
        assert_eq!(late.since(early).share(), Some(0.25));
        assert_eq!(early.since(late).share(), None, "a counter that fell back");
    }

    /// Whether the table has the file of the thread of this folder.
    #[cfg(target_os = "linux")]
    fn knows(table: &Table, folder: &std::path::Path) -> bool {
        use std::os::fd::AsRawFd as _;
        table.threads.iter().any(|thread| {
            let link = format!("/proc/self/fd/{}", thread.file.as_raw_fd());
            std::fs::read_link(link).is_ok_and(|path| path.starts_with(folder))
        })
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_that_are_gone_are_forgotten() {
        let (sender, folder) = std::sync::mpsc::channel();
        let (go, may_go) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            add_this();
            let link = std::fs::read_link("/proc/thread-self").unwrap();
            sender
                .send(std::path::Path::new("/proc").join(link))
                .unwrap();
            may_go.recv().unwrap();
        });
        let folder = folder.recv().unwrap();
        let still_known = || {
            let mut table = lock(&TABLE);
            table.read();
            knows(&table, &folder)
        };
        assert!(still_known(), "{}", folder.display());
        go.send(()).unwrap();
        thread.join().unwrap();
        // The kernel takes a thread away a moment after it was joined.
        for _ in 0..100_000 {
            if !still_known() {
                return;
            }
            std::thread::yield_now();
        }
        panic!("a thread that is gone stays");
    }
}
