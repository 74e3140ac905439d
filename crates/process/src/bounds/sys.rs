//! The system calls of this folder: locks on parts of a file, and being told when a file changes.
//!
//! Invariant: no pointer outlives its call; descriptors are owned and closed on `exec`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn part(kind: libc::c_int, start: u64, length: u64) -> libc::flock {
    // SAFETY: all-zero bytes are a valid `flock`; OFD locks need its `l_pid` to be zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start as libc::off_t;
    lock.l_len = length as libc::off_t;
    lock
}

/// Locks a part of a file for this open file alone; answers whether it was free. The lock ends when the file is closed, however its
/// process ends.
pub(super) fn try_lock(file: &File, start: u64, length: u64) -> io::Result<bool> {
    let lock = part(libc::F_WRLCK, start, length);
    // SAFETY: the descriptor is open while `file` is borrowed, and the pointer is valid for the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match result {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            error => Err(error),
        },
    }
}

/// Whether another open file has a lock on a part of this file.
pub(super) fn is_locked(file: &File, start: u64, length: u64) -> io::Result<bool> {
    let mut lock = part(libc::F_WRLCK, start, length);
    // SAFETY: the descriptor is open while `file` is borrowed, and the pointer is valid and writable for the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    match result {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The user of this process.
pub(super) fn user() -> u32 {
    // SAFETY: a call without pointers that cannot fail.
    unsafe { libc::geteuid() }
}

/// A descriptor that becomes readable when somebody writes the file, or closes it having been able to.
pub(super) fn watch_writes(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers.
    let watcher = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
    if watcher < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let watcher = unsafe { OwnedFd::from_raw_fd(watcher) };
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let events = libc::IN_MODIFY | libc::IN_CLOSE_WRITE;
    // SAFETY: the path is NUL-terminated and lives for the call.
    let watch = unsafe { libc::inotify_add_watch(watcher.as_raw_fd(), path.as_ptr(), events) };
    if watch < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(watcher)
}
