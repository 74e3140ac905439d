//! What has to be asked of the system itself: whose process this is, and how many files it may have open.
//!
//! The unsafe code is system calls without pointers, or with one to a structure on the stack.

#![allow(unsafe_code)]

/// The user this process acts as.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Most files that this process may have open now; `None` if the system does not say or sets no limit.
pub(crate) fn open_files() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid, writable structure for the duration of the call.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (status == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}
