//! Signals, the terminal and the ends of pipes: the system calls of the command, and all of its `unsafe`.

use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;
use std::time::Duration;

/// Signals that ask the run to stop.
const STOPPING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Signals that come one by one to whoever waits, in place of what they do by themselves.
#[derive(Clone, Copy)]
pub(crate) struct Blocked(libc::sigset_t);

impl Blocked {
    /// Holds signals back. Call it before other threads start, so that they hold them back, too.
    pub(crate) fn new(signals: &[i32]) -> Blocked {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set before it is used; the other calls get it initialised.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for signal in signals {
                libc::sigaddset(&mut set, *signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            Blocked(set)
        }
    }

    /// Waits for one of them; `None` when the time is over, or when the wait was broken off.
    pub(crate) fn next(&self, within: Option<Duration>) -> Option<i32> {
        let time = within.map(|within| libc::timespec {
            tv_sec: within.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: within.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the set is initialised, no information is asked for, and the time is null (no bound) or lives until the call is over.
        let signal = unsafe { libc::sigtimedwait(&self.0, std::ptr::null_mut(), time) };
        (signal > 0).then_some(signal)
    }
}

/// Hands signals that ask to stop to `tell`, on a thread of its own, in place of ending the process. Call it before other threads
/// start, so that they inherit the closed signals.
pub(crate) fn watch(mut tell: impl FnMut(i32) -> bool + Send + 'static) -> io::Result<()> {
    let blocked = Blocked::new(&STOPPING);
    std::thread::Builder::new()
        .name("flyball-signals".to_owned())
        .spawn(move || {
            loop {
                if let Some(signal) = blocked.next(None)
                    && !tell(signal)
                {
                    return;
                }
            }
        })?;
    Ok(())
}

/// Ends the process at once: nothing is dropped, no other thread is waited for.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(status) }
}

/// The user whose rights this process has.
pub(crate) fn user() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() }
}

/// The process group of this process.
pub(crate) fn process_group() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::getpgrp() as u32 }
}

/// Whether standard output is a pipe or socket that nobody reads any more.
pub(crate) fn stdout_is_closed() -> bool {
    let mut watched = libc::pollfd {
        fd: 1,
        events: 0,
        revents: 0,
    };
    // SAFETY: one entry, valid for the call, which does not wait.
    unsafe { libc::poll(&mut watched, 1, 0) > 0 && watched.revents & libc::POLLERR != 0 }
}

/// Which of these descriptors can be read or have ended; waits for the first one, `within` milliseconds at most.
pub(crate) fn readable(descriptors: &[i32], within: Option<u32>) -> Vec<bool> {
    let mut watched: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let wait = within.map_or(-1, |wait| wait.try_into().unwrap_or(i32::MAX));
    // SAFETY: as many entries as are told, valid for the call.
    unsafe { libc::poll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, wait) };
    watched.iter().map(|watched| watched.revents != 0).collect()
}

/// Puts all that was written to the filesystem of this file on disk.
pub(crate) fn sync_filesystem(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as the file is borrowed.
    match unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(file)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// So many bytes standard error takes at least without a wait when it takes any: a pipe has room for a page or is full.
pub(crate) const STDERR_TAKES: usize = libc::PIPE_BUF;

/// Waits at most so long until standard error takes more; answers whether it does. It also does when nobody will ever read it.
pub(crate) fn stderr_takes_more(within: Duration) -> bool {
    let mut watched = libc::pollfd {
        fd: 2,
        events: libc::POLLOUT,
        revents: 0,
    };
    let wait = within.as_millis().try_into().unwrap_or(i32::MAX);
    // SAFETY: one entry, valid for the call.
    unsafe { libc::poll(&mut watched, 1, wait) != 0 }
}

/// Whether standard error is a terminal that knows how to clear a line and to colour. Emacs' shell and the like say `dumb`.
pub(crate) fn can_redraw() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Most descriptors that this process may have; `None` where that is not known or has no bound.
pub(crate) fn descriptors_max() -> Option<u64> {
    // SAFETY: all-zero bytes are a valid `rlimit`, which the call fills.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return None;
        }
        limit
    };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Width of the terminal on standard error, in columns.
pub(crate) fn terminal_width() -> Option<usize> {
    width(2)
}

/// Width of the terminal on standard output, in columns.
pub(crate) fn stdout_width() -> Option<usize> {
    width(1)
}

fn width(descriptor: i32) -> Option<usize> {
    // SAFETY: all-zero bytes are a valid `winsize`, which the call fills.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        if libc::ioctl(descriptor, libc::TIOCGWINSZ, &mut size) != 0 {
            return None;
        }
        size
    };
    (size.ws_col > 0).then_some(size.ws_col.into())
}
