//! A copy of a thread's registers and of the top of its stack.

use super::{COPY_BYTES, signal};
use crate::{Error, sys};
use std::time::Duration;

/// The registers that unwinding needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) pc: u64,
    pub(crate) sp: u64,
    pub(crate) fp: u64,
    /// The link register of AArch64; zero on x86-64.
    pub(crate) lr: u64,
}

/// What a thread copied.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) registers: Registers,
    /// The address of the first byte: the stack pointer, less what a function may use below it.
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    /// Whether `address` is in the copied part of the stack.
    pub(crate) fn holds(&self, address: u64) -> bool {
        address
            .checked_sub(self.start)
            .is_some_and(|offset| offset < self.bytes.len() as u64)
    }

    /// The word at `address`, if it was copied.
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.start)?).ok()?;
        let bytes = self.bytes.get(offset..offset.checked_add(8)?)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }
}

/// Copies stacks of threads of this process, by a signal that it owns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    signal: i32,
}

/// Ignored by default, so that one that arrives when nobody expects it does no harm; the kernel sends it only for urgent data on
/// sockets that asked for it (`F_SETOWN`). Go's runtime chose it for the same reasons.
pub(crate) const SIGNAL: i32 = libc::SIGURG;

/// How long a thread may take to answer. A running thread answers when the kernel next lets it run; this is many of the
/// scheduler's turns on a crowded machine.
const PATIENCE: Duration = Duration::from_millis(250);

impl Sampler {
    /// Takes `signal`, whose handler stays for the life of the process.
    ///
    /// # Errors
    /// [`Error::SignalInUse`], [`Error::Signal`]; [`Error::Unavailable`] where memory cannot be read through the kernel.
    pub(crate) fn new(signal: i32) -> Result<Self, Error> {
        let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
        let usable = [
            libc::SIGURG,
            libc::SIGPROF,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGVTALRM,
            libc::SIGIO,
        ];
        if !usable.contains(&signal) && !real_time.contains(&signal) {
            return Err(Error::Signal { signal });
        }
        sys::can_read_memory()?;
        signal::install(signal)?;
        Ok(Sampler { signal })
    }

    /// Copies the stack of `thread`, up to [`COPY_BYTES`]; waits a bounded time for its answer.
    ///
    /// # Errors
    /// [`Error::ThreadEnded`], [`Error::NoAnswer`], and [`Error::SignalInUse`] if somebody has taken the signal since.
    pub(crate) fn capture(&self, thread: u32) -> Result<Raw, Error> {
        debug_assert_ne!(thread, sys::thread_id(), "a thread does not ask itself");
        signal::ask(self.signal, thread, PATIENCE, |registers, start, bytes| {
            debug_assert!(bytes.len() <= COPY_BYTES);
            Raw {
                registers,
                start,
                bytes: bytes.to_vec(),
            }
        })
    }
}
