//! What the kernel says about the threads of this process (`/proc/self/task`).

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::time::Duration;

/// Most threads that are looked at.
const THREADS_MAX: usize = 4096;

/// A thread, told from a later one that got the same number by the time of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Thread {
    pub(super) id: u32,
    /// Clock ticks since boot.
    started: u64,
}

/// What a blocked worker's thread is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// On a CPU, or waiting for one.
    Running,
    /// Asleep in a system call, or in the kernel for another reason.
    Waiting {
        /// The call's name, or its number where it has none here; `None` if it is not in a call or the kernel does not say.
        call: Option<Cow<'static, str>>,
    },
    /// Stopped by a debugger or a signal.
    Stopped,
    /// The kernel does not say.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Running => f.write_str("running"),
            State::Waiting { call: Some(call) } => write!(f, "waiting in {call}"),
            State::Waiting { call: None } => f.write_str("waiting in the kernel"),
            State::Stopped => f.write_str("stopped"),
            State::Unknown => f.write_str("in an unknown state"),
        }
    }
}

/// The threads of this process.
pub(super) fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(THREADS_MAX)
        .collect()
}

/// The thread that has the number now.
pub(super) fn find(id: u32) -> Option<Thread> {
    let (_, started) = stat(id)?;
    Some(Thread { id, started })
}

/// Whether the thread is still there.
pub(super) fn is_alive(thread: Thread) -> bool {
    find(thread.id) == Some(thread)
}

/// The thread's name, at most 15 bytes as the kernel keeps it.
pub(super) fn name(id: u32) -> Option<String> {
    let name = fs::read(format!("/proc/self/task/{id}/comm")).ok()?;
    Some(
        String::from_utf8_lossy(&name)
            .trim_end_matches('\n')
            .to_owned(),
    )
}

/// What the thread does at the moment.
pub(super) fn state(id: u32) -> State {
    match stat(id) {
        Some(('R', _)) => State::Running,
        Some(('T' | 't', _)) => State::Stopped,
        Some(('S' | 'D', _)) => State::Waiting {
            call: fs::read_to_string(format!("/proc/self/task/{id}/syscall"))
                .ok()
                .and_then(|line| call_of(&line)),
        },
        _ => State::Unknown,
    }
}

/// The CPU time that the thread has used.
pub(super) fn cpu_time(id: u32) -> Option<Duration> {
    let line = fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
    let nanos = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// State and start, the third and the 22nd field. The second is the name in parentheses, which may hold anything.
fn stat(id: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read(format!("/proc/self/task/{id}/stat")).ok()?)
}

fn parse_stat(line: &[u8]) -> Option<(char, u64)> {
    let end = line.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

/// The call in a line of `/proc/…/syscall`: its number first, or `running`, or `-1` outside of calls.
fn call_of(line: &str) -> Option<Cow<'static, str>> {
    let number: i64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    if number < 0 {
        return None;
    }
    Some(match name_of(number) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("system call {number}")),
    })
}

/// Names of the calls that threads wait in.
fn name_of(number: i64) -> Option<&'static str> {
    macro_rules! names {
        ($($constant:ident $name:literal),* $(,)?) => {
            [$((libc::$constant as i64, $name)),*]
        };
    }
    let common = names![
        SYS_futex "futex", SYS_nanosleep "nanosleep", SYS_clock_nanosleep "clock_nanosleep",
        SYS_read "read", SYS_write "write", SYS_readv "readv", SYS_writev "writev",
        SYS_pread64 "pread64", SYS_pwrite64 "pwrite64", SYS_openat "openat", SYS_close "close",
        SYS_fsync "fsync", SYS_fdatasync "fdatasync", SYS_ppoll "ppoll", SYS_pselect6 "pselect6",
        SYS_epoll_pwait "epoll_pwait", SYS_connect "connect", SYS_accept "accept",
        SYS_accept4 "accept4", SYS_recvfrom "recvfrom", SYS_recvmsg "recvmsg",
        SYS_sendto "sendto", SYS_sendmsg "sendmsg", SYS_wait4 "wait4", SYS_waitid "waitid",
        SYS_flock "flock", SYS_fcntl "fcntl", SYS_ioctl "ioctl", SYS_getdents64 "getdents64",
        SYS_munmap "munmap", SYS_mmap "mmap", SYS_madvise "madvise", SYS_sched_yield "sched_yield",
        SYS_io_uring_enter "io_uring_enter", SYS_getrandom "getrandom", SYS_statx "statx",
        SYS_renameat2 "renameat2", SYS_unlinkat "unlinkat", SYS_rt_sigtimedwait "rt_sigtimedwait",
    ];
    #[cfg(target_arch = "x86_64")]
    let older = names![
        SYS_poll "poll", SYS_select "select", SYS_epoll_wait "epoll_wait", SYS_open "open",
        SYS_pause "pause", SYS_stat "stat", SYS_rename "rename", SYS_unlink "unlink",
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let older: [(i64, &str); 0] = [];
    common
        .iter()
        .chain(&older)
        .find(|(known, _)| *known == number)
        .map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_parentheses_and_spaces() {
        let line = b"7 (a) R 1 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99 20";
        assert_eq!(parse_stat(line), Some(('S', 99)));
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b"7 (a) S 1"), None);
    }

    #[test]
    fn calls_are_named() {
        let line = format!("{} 0x1 0x2", libc::SYS_futex);
        assert_eq!(call_of(&line).as_deref(), Some("futex"));
        assert_eq!(call_of("99999 0x0").as_deref(), Some("system call 99999"));
        assert_eq!(call_of("running"), None);
        assert_eq!(call_of("-1 0x7ffd 0x7f"), None);
    }

    #[test]
    fn the_calling_thread_is_found_and_runs() {
        let id = crate::sys::thread_id();
        assert!(all().contains(&id));
        let thread = find(id).expect("the calling thread exists");
        assert!(is_alive(thread));
        let reused = Thread {
            started: thread.started + 1,
            ..thread
        };
        assert!(!is_alive(reused));
        assert_eq!(state(id), State::Running);
    }
}
