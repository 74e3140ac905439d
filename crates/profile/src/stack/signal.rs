//! The signal handler, and its one buffer.
//!
//! A request is one word, `number << 2 | phase`, beside the id of the thread that shall answer. The asking thread holds [`ASKING`] and takes the word from
//! *idle* to *requested*; the handler, if it runs on that thread, takes it to *copying* by a compare-and-swap, fills the buffer, and sets *done*.
//! Giving up is a compare-and-swap back to *idle*; if it fails the handler is at work and is waited for. So the buffer has one user at a
//! time, and a signal that arrives late finds a word that is not for it and does nothing. The number makes every request's word
//! different: a handler that was held up between reading and swapping cannot answer a later request.
//!
//! The handler calls `gettid`, `process_vm_readv` and `futex` and touches nothing else; it allocates nothing, takes no lock, and keeps
//! `errno`. The handler stays installed for the life of the process, so that a signal under way never meets the default action.

#![allow(unsafe_code)]

use super::COPY_BYTES;
use super::capture::Registers;
use crate::{Error, sys};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const IDLE: u32 = 0;
const REQUESTED: u32 = 1;
const COPYING: u32 = 2;
const DONE: u32 = 3;
const PHASE: u32 = 3;
const NUMBER: u32 = !PHASE;

/// Bytes below the stack pointer that a function may use without moving it (the System V ABI of x86-64; none on AArch64).
const RED_ZONE: u64 = if cfg!(target_arch = "x86_64") { 128 } else { 0 };

static REQUEST: AtomicU32 = AtomicU32::new(IDLE);
static TARGET: AtomicU32 = AtomicU32::new(0);
/// Held by the thread that asks; there is one buffer.
static ASKING: Mutex<()> = Mutex::new(());

struct Buffer {
    registers: Registers,
    start: u64,
    len: usize,
    bytes: [u8; COPY_BYTES],
}

struct Shared(UnsafeCell<Buffer>);

// SAFETY: the phases of `REQUEST` give the cell one user at a time: the handler between *copying* and *done*, the holder of
// `ASKING` otherwise. The swaps to and from these phases are acquire and release.
unsafe impl Sync for Shared {}

static BUFFER: Shared = Shared(UnsafeCell::new(Buffer {
    registers: Registers {
        pc: 0,
        sp: 0,
        fp: 0,
        lr: 0,
    },
    start: 0,
    len: 0,
    bytes: [0; COPY_BYTES],
}));

/// Makes the handler that of `signal`.
///
/// # Errors
/// [`Error::SignalInUse`] if somebody else's is there; [`Error::Signal`] if the kernel refuses the number.
pub(super) fn install(signal: i32) -> Result<(), Error> {
    let _turn = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    match installed(signal)? {
        Handler::Ours => Ok(()),
        Handler::Foreign => Err(Error::SignalInUse { signal }),
        Handler::None => {
            // SAFETY: an all-zero sigaction is a valid value: no flags, empty mask, default action.
            let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            action.sa_sigaction = handler as *const () as usize;
            // Calls that can be restarted are; the alternate stack is used where a thread has one, so that a thread near the end of its stack survives.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            // SAFETY: `action` is initialised, and `handler` has the signature that SA_SIGINFO asks for.
            if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
                return Err(Error::Signal { signal });
            }
            Ok(())
        }
    }
}

#[derive(PartialEq, Eq)]
pub(super) enum Handler {
    None,
    Ours,
    Foreign,
}

/// Says whose handler `signal` has.
pub(super) fn installed(signal: i32) -> Result<Handler, Error> {
    // SAFETY: as above, zero is a valid value; the call overwrites it.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: with no new action the call only writes to `action`.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } != 0 {
        return Err(Error::Signal { signal });
    }
    Ok(match action.sa_sigaction {
        libc::SIG_DFL => Handler::None,
        ours if ours == handler as *const () as usize => Handler::Ours,
        // Ignored on purpose is somebody's decision, too.
        _ => Handler::Foreign,
    })
}

/// Has `thread` copy its registers and stack, for at most `patience`; `take` gets the registers, the address of the first byte,
/// and the bytes.
pub(super) fn ask<T>(
    signal: i32,
    thread: u32,
    patience: Duration,
    take: impl FnOnce(Registers, u64, &[u8]) -> T,
) -> Result<T, Error> {
    let _turn = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    if installed(signal)? != Handler::Ours {
        return Err(Error::SignalInUse { signal });
    }
    let before = REQUEST.load(Ordering::Acquire);
    if before & PHASE == COPYING {
        // An earlier thread was stopped in the middle of its answer; the buffer is its own until it goes on.
        return Err(Error::NoAnswer {
            waited: Duration::ZERO,
        });
    }
    let number = (before & NUMBER).wrapping_add(PHASE + 1);
    TARGET.store(thread, Ordering::Relaxed);
    REQUEST.store(number | REQUESTED, Ordering::Release);
    if let Err(error) = sys::send(signal, thread) {
        REQUEST.store(number | IDLE, Ordering::Release);
        return Err(error);
    }
    wait(number | REQUESTED, patience);
    if REQUEST
        .compare_exchange(
            number | REQUESTED,
            number | IDLE,
            Ordering::AcqRel,
            Ordering::Acquire,
        )
        .is_ok()
    {
        return Err(Error::NoAnswer { waited: patience });
    }
    wait(number | COPYING, patience);
    if REQUEST.load(Ordering::Acquire) != number | DONE {
        return Err(Error::NoAnswer {
            waited: 2 * patience,
        });
    }
    // SAFETY: the phase is *done*, so no handler uses the buffer, and this thread holds `ASKING`, so nobody asks again.
    let buffer = unsafe { &*BUFFER.0.get() };
    let taken = take(
        buffer.registers,
        buffer.start,
        &buffer.bytes[..buffer.len.min(COPY_BYTES)],
    );
    REQUEST.store(number | IDLE, Ordering::Release);
    Ok(taken)
}

/// Sleeps until the word is no longer `value`, or `patience` has passed.
fn wait(value: u32, patience: Duration) {
    // The kernel may wake without reason; a few rounds of the whole patience bound the wait all the same.
    for _ in 0..4 {
        if REQUEST.load(Ordering::Acquire) != value {
            return;
        }
        let timeout = libc::timespec {
            tv_sec: patience.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(patience.subsec_nanos() as i32),
        };
        // SAFETY: the word is static and the timeout lives through the call.
        let status = unsafe {
            libc::syscall(
                libc::SYS_futex,
                REQUEST.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                value,
                &raw const timeout,
            )
        };
        if status != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT) {
            return;
        }
    }
}

extern "C" fn handler(
    _signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let request = REQUEST.load(Ordering::Acquire);
    if request & PHASE != REQUESTED || TARGET.load(Ordering::Relaxed) != sys::thread_id() {
        return;
    }
    if REQUEST
        .compare_exchange(
            request,
            request & NUMBER | COPYING,
            Ordering::AcqRel,
            Ordering::Relaxed,
        )
        .is_err()
    {
        return;
    }
    // SAFETY: the address of this thread's own errno, which is always valid.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid ucontext to a handler installed with SA_SIGINFO.
    let registers = unsafe { registers(context) };
    let start = registers.sp.saturating_sub(RED_ZONE);
    // SAFETY: the phase is *copying* and was set by this handler, so the buffer is this handler's alone. It is reached by raw
    // pointers, as no reference to it may live across the phases.
    unsafe {
        let buffer = BUFFER.0.get();
        (*buffer).registers = registers;
        (*buffer).start = start;
        (*buffer).len = sys::copy(start, (&raw mut (*buffer).bytes).cast(), COPY_BYTES);
    }
    REQUEST.store(request & NUMBER | DONE, Ordering::Release);
    // SAFETY: the word is static; waking nobody is fine.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            REQUEST.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            i32::MAX,
        );
        *libc::__errno_location() = errno;
    }
}

/// # Safety
/// `context` must be what the kernel passed to a signal handler.
#[cfg(target_arch = "x86_64")]
unsafe fn registers(context: *mut libc::c_void) -> Registers {
    // SAFETY: promised by the caller.
    let machine = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    Registers {
        pc: machine.gregs[libc::REG_RIP as usize] as u64,
        sp: machine.gregs[libc::REG_RSP as usize] as u64,
        fp: machine.gregs[libc::REG_RBP as usize] as u64,
        lr: 0,
    }
}

/// # Safety
/// `context` must be what the kernel passed to a signal handler.
#[cfg(target_arch = "aarch64")]
unsafe fn registers(context: *mut libc::c_void) -> Registers {
    // SAFETY: promised by the caller.
    let machine = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    Registers {
        pc: machine.pc,
        sp: machine.sp,
        fp: machine.regs[29],
        lr: machine.regs[30],
    }
}
