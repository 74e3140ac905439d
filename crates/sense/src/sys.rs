//! System calls about the calling process. The only `unsafe` module of this crate.

#![allow(unsafe_code)]

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// What `getrusage` tells of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rusage {
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
}

fn nanos(time: libc::timeval) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000
}

/// Asks the kernel what this process used.
pub(crate) fn rusage() -> Rusage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid and writable for the call. The call can only fail for a bad pointer or an unknown
    // `who`; all-zero bytes are a valid rusage in any case.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    Rusage {
        user_ns: nanos(usage.ru_utime),
        system_ns: nanos(usage.ru_stime),
        voluntary_switches: usage.ru_nvcsw as u64,
        involuntary_switches: usage.ru_nivcsw as u64,
        minor_faults: usage.ru_minflt as u64,
        major_faults: usage.ru_majflt as u64,
    }
}

/// The size of a page, bytes.
pub(crate) fn page_bytes() -> u64 {
    // SAFETY: a call without pointers.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Whether the file is the kernel's own and not a copy in a captured tree.
#[cfg(target_os = "linux")]
pub(crate) fn is_procfs(file: &File) -> bool {
    let mut answer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open while `file` is borrowed, the pointer is valid and writable for the call, and
    // all-zero bytes are a valid statfs if the call fails.
    let (status, answer) = unsafe {
        (
            libc::fstatfs(file.as_raw_fd(), answer.as_mut_ptr()),
            answer.assume_init(),
        )
    };
    // The type of both depends on the C library.
    #[allow(clippy::unnecessary_cast)]
    let same = answer.f_type as i64 == libc::PROC_SUPER_MAGIC as i64;
    status == 0 && same
}

/// See above; elsewhere there is none.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_procfs(file: &File) -> bool {
    let _ = file.as_raw_fd();
    false
}
