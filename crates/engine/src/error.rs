//! What can go wrong in the engine.

use crate::config;
use flyball_executor as executor;

/// Why the engine did not do something. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration, or a change of it, is wrong.
    #[error("{0}")]
    Config(#[source] config::Errors),
    /// The executor refused.
    #[error(transparent)]
    Executor(#[from] executor::Error),
    /// The system refused.
    #[error("cannot {what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no such thing.
    #[error("there is no {what} {name:?}{known}")]
    Unknown {
        /// `class`, `worker`, `knob`, …
        what: &'static str,
        /// The name that was given.
        name: String,
        /// `; there are …`, or nothing.
        known: String,
    },
    /// It exists already.
    #[error("{what} {name:?} exists already")]
    Exists {
        /// `class`, …
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The part is switched off.
    #[error("{part} is switched off; {setting} switches it on")]
    Off {
        /// The part.
        part: &'static str,
        /// The setting that switches it on.
        setting: &'static str,
    },
    /// There is no such part here.
    #[error("{part} is not available: {why}")]
    Unavailable {
        /// The part.
        part: &'static str,
        /// Why.
        why: String,
    },
    /// A body is wrong.
    #[cfg(feature = "tasks")]
    #[error("{} places are wrong", .0.list().len())]
    Body(crate::view::tasks::Faults),
    /// Whoever asked may not do that.
    #[error("{why}")]
    Forbidden {
        /// The place in the body, as a JSON pointer.
        pointer: String,
        /// Why.
        why: String,
    },
    /// The queue of durable tasks refused.
    #[cfg(feature = "tasks")]
    #[error(transparent)]
    Tasks(#[from] flyball_tasks::Error),
    /// What runs durable tasks cannot be started.
    #[cfg(feature = "tasks")]
    #[error(transparent)]
    Runners(#[from] flyball_tasks::run::StartError),
    /// There is no such dependency, or its breaker cannot be set so.
    #[cfg(feature = "tasks")]
    #[error(transparent)]
    Dependency(#[from] flyball_tasks::run::DependencyError),
    /// A handler cannot be registered.
    #[cfg(feature = "tasks")]
    #[error(transparent)]
    Register(#[from] flyball_tasks::run::RegisterError),
    /// It does not go together with how things are now.
    #[error("{0}")]
    Conflict(String),
    /// A value that is well-formed and yet not possible.
    #[error("{}found {found}, expected {expected}", place(.field))]
    Invalid {
        /// The field; empty for the whole.
        field: &'static str,
        /// What was given.
        found: String,
        /// What would be accepted.
        expected: String,
    },
}

fn place(field: &str) -> String {
    match field {
        "" => String::new(),
        field => format!("{field}: "),
    }
}

impl From<config::Errors> for Error {
    fn from(errors: config::Errors) -> Self {
        Error::Config(errors)
    }
}

impl From<config::Wrong> for Error {
    fn from(wrong: config::Wrong) -> Self {
        Error::Invalid {
            field: wrong.field,
            found: wrong.found,
            expected: wrong.expected,
        }
    }
}

#[cfg(feature = "tasks")]
impl From<crate::view::tasks::Faults> for Error {
    fn from(faults: crate::view::tasks::Faults) -> Self {
        Error::Body(faults)
    }
}
