//! The error of the crate.

/// Why a simulation did not run or did not end as it must.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number of the configuration is outside its range.
    #[error("{what} must be {expected}, not {given}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// What was given.
        given: String,
        /// The range.
        expected: String,
    },
    /// A name is not one of a closed list.
    #[error("unknown {what} {given:?}; known: {known}")]
    UnknownName {
        /// What the name stands for.
        what: &'static str,
        /// What was given.
        given: String,
        /// All names.
        known: String,
    },
    /// A class breaks one of its bounds.
    #[error(transparent)]
    Class(#[from] flyball_core::class::SpecError),
    /// A policy refuses what it was told.
    #[error(transparent)]
    Policy(#[from] flyball_policy::Error),
    /// The policy broke a promise. A bug in the policy or in the simulator; the seed reproduces it.
    #[error("broken promise at {at_ns} ns, task {task}: {what}")]
    Broken {
        /// Simulated time.
        at_ns: u64,
        /// How many tasks had arrived.
        task: u64,
        /// Which promise.
        what: &'static str,
    },
}
