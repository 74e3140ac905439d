//! The spawn server's own process: makes keepers, and is the last one to look after what they leave.
//!
//! It is small, because it is this binary executed anew and does nothing else; so a fork of it is cheap, and the peak memory that
//! the kernel reports for a child (which starts at that of its parent) is true.
//!
//! Invariants: one thread; subreaper above the keepers, so a tree whose keeper was killed falls to it and is killed; it ends when
//! the program's end of its socket closes, however the program ended, and not before everything below it is gone (or cannot be
//! killed).

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flyball_core::time::{Clock, OsClock};

use crate::keeper::{self, Surroundings};
use crate::sys::{self, Peek, Watch};
use crate::tree;
use crate::wire::{self, Inbox, Kind, Received};

/// Set in the environment of a process that is to be the server; holds the folder for spilled output.
pub(crate) const ROLE_VARIABLE: &str = "FLYBALL_SPAWN_SERVER";

/// How long keepers have to end their trees after the program is gone, before the server kills whatever is left.
const KEEPERS_END_NS: u64 = 10_000_000_000;

/// Between two rounds of killing.
const ROUND: Duration = Duration::from_millis(20);

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Whether `init` ran in this process.
pub(crate) fn initialised() -> bool {
    INITIALISED.load(Ordering::Relaxed)
}

/// Makes this binary able to serve as its own spawn server. Call it first thing in `main`, before threads, logging or arguments.
///
/// In the process that a [`SpawnServer`](crate::SpawnServer) starts it becomes the server and never returns; everywhere else it
/// returns at once and costs a look at the environment.
pub fn init() {
    INITIALISED.store(true, Ordering::Relaxed);
    if let Some(spill_directory) = std::env::var_os(ROLE_VARIABLE) {
        serve(spill_directory.into());
        sys::exit_now(0);
    }
}

fn serve(spill_directory: std::path::PathBuf) {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else {
        return;
    };
    let null = OwnedFd::from(null);
    let mask = sys::quiet_signals();
    let Ok(socket) = sys::take_stdin(null.as_fd()) else {
        return;
    };
    let socket = UnixStream::from(socket);
    sys::own_process_group();
    sys::set_name(c"flyball-spawn");
    if sys::become_subreaper().is_err() {
        return;
    }
    let mut inbox = Inbox::default();
    let stdin = match inbox.next(socket.as_fd(), true) {
        Ok(Received::Message(mut message))
            if message.kind == Kind::Hello && message.fds.len() == 1 =>
        {
            message.fds.remove(0)
        }
        _ => return,
    };
    if wire::send(&socket, Kind::Ready, &std::process::id().to_le_bytes(), &[]).is_err() {
        return;
    }
    let around = Surroundings {
        mask,
        env: inherited_environment(),
        stdin,
        null,
        spill_directory,
    };
    let mut keepers = Vec::new();
    'serving: loop {
        // All that has come, before waiting for more: several messages may come in one piece.
        loop {
            match inbox.next(socket.as_fd(), false) {
                Ok(Received::Message(mut message))
                    if message.kind == Kind::Keeper && matches!(message.fds.len(), 1 | 2) =>
                {
                    let theirs = UnixStream::from(message.fds.remove(0));
                    let entrance = message.fds.pop();
                    match sys::fork() {
                        Ok(None) => {
                            // The server's socket must have one holder, or its closing would go unseen.
                            drop(socket);
                            let _ = sys::become_subreaper();
                            sys::set_name(c"flyball-keeper");
                            // Outside of its control group it would run commands without their bound.
                            if entrance.is_some_and(|group| enter(group).is_err()) {
                                sys::exit_now(1);
                            }
                            keeper::serve(theirs, &around);
                            sys::exit_now(0);
                        }
                        Ok(Some(pid)) => keepers.push(pid),
                        // Dropping the socket tells the program that there is no keeper.
                        Err(_) => {}
                    }
                }
                Ok(Received::Later) => break,
                Ok(Received::Message(_) | Received::Closed) | Err(_) => break 'serving,
            }
        }
        reap(&mut keepers);
        let _ = sys::wait_input(&mut [Watch::input(socket.as_raw_fd())], None, true);
    }
    drop(socket);
    end(&mut keepers);
}

/// Enters a control group by its file of processes.
fn enter(group: OwnedFd) -> std::io::Result<()> {
    // `0` is whoever writes it.
    File::from(group).write_all(b"0")
}

fn inherited_environment() -> Vec<CString> {
    std::env::vars_os()
        .filter(|(name, _)| name != ROLE_VARIABLE)
        .filter_map(|(name, value)| {
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend(value.into_vec());
            CString::new(entry).ok()
        })
        .collect()
}

/// Reaps; when a keeper has gone, kills what it left. Answers whether there is anybody left.
fn reap(keepers: &mut Vec<i32>) -> bool {
    let me = std::process::id() as i32;
    loop {
        match sys::peek_child() {
            Ok(Peek::Ended(pid)) => {
                let _ = sys::reap(pid);
                keepers.retain(|keeper| *keeper != pid);
                kill_strays(me, keepers);
            }
            Ok(Peek::Running) => return true,
            Ok(Peek::Nobody) | Err(_) => return false,
        }
    }
}

/// Kills children that are not keepers: trees whose keeper was killed. Their own children come here when they end, and only this
/// process reaps its children, so no id can have been reused.
fn kill_strays(me: i32, keepers: &[i32]) {
    for pid in tree::children(me) {
        if !keepers.contains(&pid)
            && let Ok(process) = sys::pidfd_open(pid)
        {
            let _ = sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
        }
    }
}

/// Waits for the keepers, then kills whatever is left.
fn end(keepers: &mut Vec<i32>) {
    let me = std::process::id() as i32;
    // One that was stopped would not see that the program has gone.
    for pid in tree::children(me) {
        if keepers.contains(&pid)
            && let Ok(process) = sys::pidfd_open(pid)
        {
            let _ = sys::pidfd_signal(process.as_fd(), libc::SIGCONT);
        }
    }
    let limit = OsClock.now().saturating_add_nanos(KEEPERS_END_NS);
    while reap(keepers) {
        let now = OsClock.now();
        if now >= limit.saturating_add_nanos(KEEPERS_END_NS) {
            return;
        }
        if now >= limit {
            tree::signal(me, libc::SIGKILL);
        }
        let _ = sys::wait_input(&mut [], Some(ROUND), true);
    }
}
