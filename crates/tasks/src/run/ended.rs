//! How a run ended, as who ran it says.

use crate::task::Usage;
use bytes::Bytes;
use flyball_policy::limit::Verdict;
use flyball_policy::queue::{Outcome, Reason};
use std::time::Duration;

/// The end of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    /// [`None`]: given back.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) result: Option<Bytes>,
    pub(crate) error: Option<Box<str>>,
    pub(crate) usage: Usage,
    /// What it says of the dependency.
    pub(crate) verdict: Verdict,
    /// The dependency said that it has too much to do, or it took too long.
    pub(crate) overload: bool,
}

impl Ended {
    pub(crate) fn done(result: Option<Bytes>) -> Ended {
        Ended {
            outcome: Some(Outcome::Done),
            result,
            error: None,
            usage: Usage::default(),
            verdict: Verdict::Success,
            overload: false,
        }
    }

    /// Failed. Only failures that may pass speak against the dependency: the others would fail with any.
    pub(crate) fn failed(reason: Reason, retryable: bool, error: impl Into<Box<str>>) -> Ended {
        Ended {
            outcome: Some(Outcome::Failed {
                reason,
                retryable,
                after: None,
            }),
            result: None,
            error: Some(error.into()),
            usage: Usage::default(),
            verdict: if retryable || reason != Reason::Error {
                Verdict::Failure
            } else {
                Verdict::Unknown
            },
            overload: reason == Reason::TimedOut,
        }
    }

    pub(crate) fn fatal(error: impl Into<Box<str>>) -> Ended {
        Ended::failed(Reason::Error, false, error)
    }

    /// Not run to its end for a cause that was not its own.
    pub(crate) fn returned(after: Option<Duration>) -> Ended {
        Ended {
            outcome: after.map(|after| Outcome::Returned { after }),
            result: None,
            error: None,
            usage: Usage::default(),
            verdict: Verdict::Unknown,
            overload: false,
        }
    }

    /// Not before this long has passed, if it failed.
    pub(crate) fn after(mut self, wait: Option<Duration>) -> Ended {
        if let Some(Outcome::Failed { after, .. }) = &mut self.outcome {
            *after = wait;
        }
        self
    }

    pub(crate) fn is_timed_out(&self) -> bool {
        matches!(
            self.outcome,
            Some(Outcome::Failed {
                reason: Reason::TimedOut,
                ..
            })
        )
    }

    pub(crate) fn is_done(&self) -> bool {
        self.outcome == Some(Outcome::Done)
    }
}
