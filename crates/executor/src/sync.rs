//! The synchronisation primitives of the wake-up protocol: the standard library's, or loom's under the `loom` feature.
//!
//! Only [`ring`](crate::ring), [`stack`](crate::stack), [`queue`](crate::queue) and [`signals`](crate::signals) use this module; they are the parts
//! that `tests/loom.rs` explores exhaustively.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::{Condvar, Mutex, atomic};
#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::{Condvar, Mutex, atomic};

/// Orders earlier writes before later reads of other locations, for loom only.
///
/// The protocol's two-sided checks ("write mine, then read yours") use sequentially consistent accesses, which the memory
/// model orders totally. loom treats such accesses as acquire-release, so under loom a real fence takes their place.
#[inline(always)]
pub(crate) fn sc_fence() {
    #[cfg(feature = "loom")]
    atomic::fence(atomic::Ordering::SeqCst);
}

/// Waits until notified or until the time has passed, whichever is first; a spurious wake-up counts as either.
///
/// loom's `wait_timeout` never times out. In the model the time passes as soon as the lock is had again: it is free in between,
/// so whatever others may do before the time is over is explored.
#[cfg(not(feature = "loom"))]
pub(crate) fn wait_timeout<'a>(
    _: &'a Mutex<()>,
    condvar: &Condvar,
    guard: std::sync::MutexGuard<'a, ()>,
    timeout: std::time::Duration,
) -> std::sync::MutexGuard<'a, ()> {
    condvar
        .wait_timeout(guard, timeout)
        .unwrap_or_else(|e| e.into_inner())
        .0
}
#[cfg(feature = "loom")]
pub(crate) fn wait_timeout<'a>(
    mutex: &'a Mutex<()>,
    _: &Condvar,
    guard: loom::sync::MutexGuard<'a, ()>,
    _: std::time::Duration,
) -> loom::sync::MutexGuard<'a, ()> {
    drop(guard);
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
