//! Hedged calls: the one that answers well first counts, the other is dropped.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use flyball_core::time::Source;
use flyball_policy::limit as policy;
use flyball_policy::limit::{HedgeConfig, HedgeStats};

use crate::error::Error;
use crate::shell::lock;

#[derive(Debug)]
struct Inner {
    clock: Source,
    policy: Mutex<policy::Hedge>,
}

/// Makes slow calls a second time. Only for calls that may be made twice. Cheap to clone; all clones know the same latencies.
#[derive(Clone, Debug)]
pub struct Hedge {
    inner: Arc<Inner>,
}

impl Hedge {
    /// Makes one that knows no latencies.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn new(config: HedgeConfig) -> Result<Self, Error> {
        Self::with_clock(config, Source::best())
    }

    /// As [`new`](Self::new), on a clock: for tests. (The second call is sent by tokio's clock all the same.)
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn with_clock(config: HedgeConfig, clock: Source) -> Result<Self, Error> {
        let policy = Mutex::new(policy::Hedge::new(config)?);
        Ok(Self {
            inner: Arc::new(Inner { clock, policy }),
        })
    }

    /// Makes a call, and after the delay a second one if the budget allows; the first that answers well is the answer, and the other one is dropped. If both
    /// fail, the error is that of the last; one that fails before the second went out is not repeated (retrying is another policy).
    ///
    /// # Errors
    /// The call's own.
    pub async fn call<T, E, F>(&self, call: impl Fn() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let clock = &self.inner.clock;
        let began = clock.now();
        let delay = lock(&self.inner.policy).begin(began);
        let mut first = pin!(call());
        let result = match delay {
            None => first.as_mut().await,
            Some(delay) => match tokio::time::timeout(delay, first.as_mut()).await {
                Ok(result) => result,
                Err(_) if lock(&self.inner.policy).second(clock.now()) => {
                    let (result, won) = race(first, pin!(call())).await;
                    self.end(began, won);
                    return result;
                }
                Err(_) => first.await,
            },
        };
        self.end(began, false);
        result
    }

    /// What it did.
    #[must_use]
    pub fn stats(&self) -> HedgeStats {
        let now = self.inner.clock.now();
        lock(&self.inner.policy).stats(now)
    }

    /// When a second call would go out now; `None` as long as too few latencies are known.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.stats().delay
    }

    fn end(&self, began: flyball_core::time::Timestamp, won: bool) {
        let now = self.inner.clock.now();
        lock(&self.inner.policy).end(now, now.duration_since(began), won);
    }
}

/// The first that succeeds, else the last error; and whether it was the second's.
async fn race<T, E, F>(mut first: Pin<&mut F>, mut second: Pin<&mut F>) -> (Result<T, E>, bool)
where
    F: Future<Output = Result<T, E>>,
{
    let mut failed = [false; 2];
    poll_fn(|context| {
        for (index, future) in [first.as_mut(), second.as_mut()].into_iter().enumerate() {
            if failed[index] {
                continue;
            }
            if let Poll::Ready(result) = future.poll(context) {
                failed[index] = true;
                if result.is_ok() || failed == [true; 2] {
                    return Poll::Ready((result, index == 1));
                }
            }
        }
        Poll::Pending
    })
    .await
}
