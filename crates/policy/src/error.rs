//! The error of the crate.

use alloc::string::String;

use flyball_core::id::ClassId;

/// Says why a policy refused what it was told. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The class is already there.
    #[error("class {class} exists already")]
    DuplicateClass {
        /// The class.
        class: ClassId,
    },
    /// The class is not there.
    #[error("class {class} does not exist")]
    UnknownClass {
        /// The class.
        class: ClassId,
    },
    /// All guarantees together would promise more than there is.
    #[error("guarantees would add up to {:.1} % of the CPU, with {:.1} % for class {class}: at most 100 % can be promised", total * 100.0, given * 100.0)]
    GuaranteesOverWhole {
        /// The class that was to be added or changed.
        class: ClassId,
        /// Its guarantee, 0 to 1.
        given: f64,
        /// The sum with it.
        total: f64,
    },
    /// A parameter of a class is out of its range.
    #[error("{field} of class {class} must be {expected}")]
    Parameter {
        /// The class.
        class: ClassId,
        /// The field.
        field: &'static str,
        /// The range.
        expected: &'static str,
    },
    /// A setting of a throttle is out of its range.
    #[error("{field} of a throttle must be {expected}")]
    Throttle {
        /// The setting.
        field: &'static str,
        /// The range.
        expected: &'static str,
    },
    /// A limit of keys is out of its range.
    #[error("{field} of a key's limits must be {expected}")]
    KeyLimit {
        /// The field.
        field: &'static str,
        /// The range.
        expected: &'static str,
    },
    /// No more keys can have limits of their own.
    #[error(
        "no further key can have limits of its own: at most {most} may, and only while the table of keys has room"
    )]
    TooManyKeyLimits {
        /// The most keys with their own limits.
        most: usize,
    },
    /// No algorithm has this name.
    #[error("unknown algorithm {given:?}: expected one of {known}")]
    UnknownAlgorithm {
        /// What was given.
        given: String,
        /// The names that exist.
        known: &'static str,
    },
    /// No placement strategy has this name.
    #[error("unknown strategy {given:?}: expected one of {known}")]
    UnknownStrategy {
        /// What was given.
        given: String,
        /// The names that exist.
        known: &'static str,
    },
    /// No way to size a pool has this name.
    #[error("unknown sizing {given:?}: expected one of {known}")]
    UnknownSizing {
        /// What was given.
        given: String,
        /// The names that exist.
        known: &'static str,
    },
    /// A knob cannot be added.
    #[error("knob {name:?} cannot be added: {fault}")]
    Knob {
        /// Its name, cut if it is too long.
        name: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// A setting of the pool controller is out of its range.
    #[error("{field} of the worker pool must be {expected}")]
    Pool {
        /// The setting.
        field: &'static str,
        /// The range.
        expected: &'static str,
    },
    /// A setting of a limit is out of its range.
    #[error("{field} of the {of} must be {expected}")]
    Limit {
        /// Which limit: `retry budget`, `breaker`, …
        of: &'static str,
        /// The setting.
        field: &'static str,
        /// The range.
        expected: &'static str,
    },
}
