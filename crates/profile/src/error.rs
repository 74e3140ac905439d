//! The crate's error.

use std::time::Duration;

/// Why a watch could not be started, or a stack not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The threshold is outside of what can be told apart.
    #[error("the threshold must be between {min:?} and {max:?}, not {given:?}")]
    Threshold {
        /// What was asked for.
        given: Duration,
        /// The least.
        min: Duration,
        /// The most.
        max: Duration,
    },
    /// A current-thread runtime has no workers: its figures stand still as well while nobody drives it, so that a blocked
    /// one cannot be told from one at rest.
    #[error(
        "a current-thread runtime cannot be watched: its figures do not tell a blocked thread from one that does not drive it"
    )]
    CurrentThread,
    /// The signal is not one that may be used: unknown, reserved, or one that programs need.
    #[error("signal {signal} cannot be used to look at threads")]
    Signal {
        /// The number.
        signal: i32,
    },
    /// Somebody else handles the signal; it stays theirs.
    #[error("signal {signal} has a handler already, which is left in place; choose another signal")]
    SignalInUse {
        /// The number.
        signal: i32,
    },
    /// The kernel, or a filter of system calls, refuses what is needed.
    #[error("{what} is not possible here: {reason}")]
    Unavailable {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        reason: String,
    },
    /// The watcher's thread could not be started.
    #[error("the watcher's thread could not be started: {reason}")]
    Thread {
        /// The system's reason.
        reason: String,
    },
    /// The thread ended before its stack was copied.
    #[error("the thread has ended")]
    ThreadEnded,
    /// The thread did not take the signal in time: it blocks it, or is inside an uninterruptible system call, or gets no CPU.
    #[error("the thread did not take the signal within {waited:?}")]
    NoAnswer {
        /// How long was waited.
        waited: Duration,
    },
}
