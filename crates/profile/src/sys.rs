//! System calls: memory read through the kernel, the thread's own id, what a thread is doing.
//!
//! The unsafe code is the calls themselves. Reading goes through `process_vm_readv` on this very process: where nothing is mapped, or is
//! no longer, the kernel says so instead of the process dying.

#![allow(unsafe_code)]

use crate::Error;
use std::mem::MaybeUninit;

/// Returns the calling thread's id in the kernel.
pub(crate) fn thread_id() -> u32 {
    // SAFETY: no arguments, always succeeds.
    let id = unsafe { libc::syscall(libc::SYS_gettid) };
    id as u32
}

/// Copies memory of this process at `address` into `into`; returns how many bytes were copied before the first that is not
/// mapped. Another thread may be writing there: what is copied is then a mixture of old and new.
pub(crate) fn read_memory(address: u64, into: &mut [u8]) -> usize {
    let len = into.len();
    // SAFETY: bytes need no initialisation, and `into` is writable for `len` of them.
    unsafe { copy(address, into.as_mut_ptr(), len) }
}

/// Most pieces of one read: one a page, so that a page that is missing costs only itself.
const PIECES: usize = 18;
const PAGE: u64 = 4096;

/// Copies up to `len` bytes, at most [`PIECES`] - 1 pages' worth in one go, repeated until something is missing. Safe to call in a
/// signal handler: it is a system call and arithmetic on its own stack.
///
/// # Safety
/// `into` must be writable for `len` bytes.
pub(crate) unsafe fn copy(address: u64, into: *mut u8, len: usize) -> usize {
    let mut done = 0usize;
    while done < len {
        let mut pieces: [MaybeUninit<libc::iovec>; PIECES] = [MaybeUninit::uninit(); PIECES];
        let mut count = 0;
        let mut asked = 0usize;
        while count < PIECES && done + asked < len {
            let Some(at) = address.checked_add((done + asked) as u64) else {
                break;
            };
            let piece = (PAGE - at % PAGE).min((len - done - asked) as u64) as usize;
            pieces[count].write(libc::iovec {
                iov_base: at as *mut libc::c_void,
                iov_len: piece,
            });
            count += 1;
            asked += piece;
        }
        if asked == 0 {
            break;
        }
        let local = libc::iovec {
            // SAFETY: `done` is below `len`, so the sum stays inside the caller's buffer.
            iov_base: unsafe { into.add(done) }.cast(),
            iov_len: asked,
        };
        // SAFETY: the first `count` pieces are initialised; the kernel checks the remote addresses and writes only into `local`,
        // which the caller vouches for.
        let copied = unsafe {
            libc::syscall(
                libc::SYS_process_vm_readv,
                libc::getpid(),
                &raw const local,
                1usize,
                pieces.as_ptr(),
                count,
                0usize,
            )
        };
        if copied <= 0 {
            break;
        }
        done += copied as usize;
        if (copied as usize) < asked {
            break;
        }
    }
    done
}

/// Says whether memory can be read through the kernel here; filters of system calls may forbid it.
pub(crate) fn can_read_memory() -> Result<(), Error> {
    let probe = 0x5eed_u64;
    let mut seen = [0u8; 8];
    if read_memory((&raw const probe) as u64, &mut seen) == 8 && u64::from_ne_bytes(seen) == probe {
        Ok(())
    } else {
        Err(Error::Unavailable {
            what: "reading a stack through the kernel (process_vm_readv)",
            reason: std::io::Error::last_os_error().to_string(),
        })
    }
}

/// Sends `signal` to one thread of this process.
pub(crate) fn send(signal: i32, thread: u32) -> Result<(), Error> {
    // SAFETY: three integers; with the group given, the kernel reaches only threads of this process.
    let status = unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            libc::getpid(),
            thread as libc::pid_t,
            signal,
        )
    };
    if status == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        Err(Error::ThreadEnded)
    } else {
        Err(Error::Unavailable {
            what: "signalling a thread",
            reason: error.to_string(),
        })
    }
}

/// Keeps signals that are sent to the process away from the calling thread; the program's own threads take them.
pub(crate) fn block_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises the set; the mask changes only for the calling thread, and the old one is not asked for.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}
