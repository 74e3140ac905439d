//! The errors of the crate.

use std::time::Duration;

use flyball_policy::limit::Refusal;

/// Says why something could not be set up or changed. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range.
    #[error(transparent)]
    Setting(#[from] flyball_policy::Error),
    /// The classes of a gate do not fit together.
    #[error("classes of a gate: {0}")]
    Classes(String),
    /// A gate has no class of this name.
    #[error("there is no class {name:?}; there are: {known}")]
    UnknownClass {
        /// The one that was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// No more breakers can be kept: all there are, are in use.
    #[error("there are {most} breakers already, all in use: no room for {key:?}")]
    TooManyBreakers {
        /// The bound.
        most: usize,
        /// The one that was asked for.
        key: String,
    },
    /// There is no breaker of this key.
    #[error("there is no breaker {key:?}")]
    UnknownBreaker {
        /// The one that was asked for.
        key: String,
    },
}

/// A breaker did not let a call through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// When trying again makes sense, if that is known.
    pub retry_after: Option<Duration>,
}

impl Refused {
    fn text(&self) -> String {
        match (self.reason, self.retry_after) {
            (Refusal::Open(_), Some(after)) => {
                format!("the breaker is open, for another {after:.1?}")
            }
            (Refusal::Open(_), None) => "the breaker is open".to_owned(),
            (Refusal::Probing, _) => {
                "the breaker is half-open, and enough calls are out to try".to_owned()
            }
            (Refusal::Forced, _) => "the breaker is forced open".to_owned(),
            (Refusal::Throttled, _) => {
                "the dependency is overloaded, and this call one of those that spare it".to_owned()
            }
            (_, _) => "the breaker refused the call".to_owned(),
        }
    }
}

/// How a guarded call went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// It was not made.
    #[error(transparent)]
    Refused(Refused),
    /// It took too long and was dropped.
    #[error("the call took longer than {0:?}")]
    TimedOut(Duration),
    /// It was made and failed.
    #[error("{0}")]
    Failed(#[source] E),
}

impl<E> CallError<E> {
    /// The call's own error, if it was made and failed.
    pub fn into_failed(self) -> Option<E> {
        match self {
            CallError::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// A bulkhead had no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Crowded {
    /// As many calls run, and as many wait, as may.
    #[error("{concurrency} calls run and {waiting} wait: there is no room")]
    Full {
        /// Calls that may run at once.
        concurrency: u32,
        /// Calls that wait.
        waiting: u32,
    },
    /// It waited as long as it may.
    #[error("no place was free within {0:?}")]
    TimedOut(Duration),
}
