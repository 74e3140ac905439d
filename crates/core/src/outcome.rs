//! Why work was not taken.
//!
//! A [`Rejection`] is an answer, not a failure: nothing was done, nothing changed, and it says why and when trying again
//! makes sense.

use alloc::sync::Arc;
use core::time::Duration;

/// Says why a task was refused. Nothing of it has run and nothing ever will.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The class already has as many waiting tasks as it may.
    #[error(
        "class {class} has {limit} tasks waiting, its queue limit; try again when some have run"
    )]
    QueueFull {
        /// The class.
        class: Arc<str>,
        /// The queue limit, in tasks.
        limit: usize,
    },
    /// The key already has as many waiting tasks as it may.
    #[error(
        "the key has {limit} tasks waiting in class {class}, its limit; try again when some have run"
    )]
    KeyQueueFull {
        /// The class.
        class: Arc<str>,
        /// The key's limit, in tasks.
        limit: u32,
    },
    /// The engine takes no new work because it is stopping.
    #[error("the engine is shutting down; do not try again")]
    ShuttingDown,
    /// The class was removed; the handle that was used is of no use any more.
    #[error("class {class} was removed; do not try again")]
    ClassRemoved {
        /// The class.
        class: Arc<str>,
    },
    /// The task could not be done in time even if everything went as usual.
    #[error(
        "the deadline of the task for class {class} cannot be met: it is {available:?} away and the task needs {needed:?}; \
         try again with more time or when less work waits"
    )]
    DeadlineUnmeetable {
        /// The class.
        class: Arc<str>,
        /// The expected wait and run time together.
        needed: Duration,
        /// The time left until the deadline.
        available: Duration,
    },
    /// The class sheds load.
    #[error("class {class} sheds load: {reason}; try again in {retry_after:?}")]
    Shed {
        /// The class.
        class: Arc<str>,
        /// What was exceeded, with figures.
        reason: Arc<str>,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// As many threads as may be are held by work that does not return.
    #[error(
        "{limit} threads are held by work that does not return, the most allowed; try again when some has returned"
    )]
    ThreadsExhausted {
        /// The most threads that may be held.
        limit: usize,
    },
}

impl Rejection {
    /// Returns when trying again makes sense: a time where one is known, zero where it depends on other work only,
    /// `None` where it is pointless.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ShuttingDown | Self::ClassRemoved { .. } => None,
            Self::Shed { retry_after, .. } => Some(*retry_after),
            Self::DeadlineUnmeetable {
                needed, available, ..
            } => Some(needed.saturating_sub(*available)),
            Self::QueueFull { .. } | Self::KeyQueueFull { .. } | Self::ThreadsExhausted { .. } => {
                Some(Duration::ZERO)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    /// CPU-3, CPU-21: every refusal says why and when to try again.
    #[test]
    fn every_rejection_says_why_and_when() {
        let class: Arc<str> = "batch".into();
        let ms = Duration::from_millis;
        let cases = [
            (
                Rejection::QueueFull {
                    class: class.clone(),
                    limit: 7,
                },
                "has 7 tasks waiting",
                Some(Duration::ZERO),
            ),
            (
                Rejection::KeyQueueFull {
                    class: class.clone(),
                    limit: 3,
                },
                "3 tasks waiting in class batch, its limit",
                Some(Duration::ZERO),
            ),
            (Rejection::ShuttingDown, "do not try again", None),
            (
                Rejection::ClassRemoved {
                    class: class.clone(),
                },
                "batch was removed",
                None,
            ),
            (
                Rejection::DeadlineUnmeetable {
                    class: class.clone(),
                    needed: ms(30),
                    available: ms(10),
                },
                "10ms away and the task needs 30ms",
                Some(ms(20)),
            ),
            (
                Rejection::Shed {
                    class,
                    reason: "waited 80ms, target 5ms".into(),
                    retry_after: ms(250),
                },
                "waited 80ms, target 5ms; try again in 250ms",
                Some(ms(250)),
            ),
            (
                Rejection::ThreadsExhausted { limit: 4 },
                "4 threads are held",
                Some(Duration::ZERO),
            ),
        ];
        for (rejection, part, retry) in cases {
            assert!(rejection.to_string().contains(part), "{rejection}");
            assert!(rejection.to_string().contains("try again"));
            assert_eq!(rejection.retry_after(), retry);
        }
    }
}
