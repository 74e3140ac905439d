//! What all shells share.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flyball_core::time::{Source, Timestamp};

/// A lock whose poison says nothing: no caller's code runs under it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that differs from one policy and process to the next, so that their jitter does.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Blocks this thread until `ready` answers something or the time is over. Whoever makes it ready unparks the thread.
pub(crate) fn park_until<T>(
    clock: &Source,
    until: Timestamp,
    mut ready: impl FnMut() -> Option<T>,
) -> Option<T> {
    loop {
        if let Some(value) = ready() {
            return Some(value);
        }
        let left = until.duration_since(clock.now());
        if left.is_zero() {
            return None;
        }
        // A clock that is moved by hand is looked at now and then.
        let nap = if matches!(clock, Source::Manual(_)) {
            Duration::from_millis(1)
        } else {
            left
        };
        std::thread::park_timeout(nap);
    }
}
