//! A breaker for calls.
//!
//! [`call`](Breaker::call) and its kin are made of [`enter`](Breaker::enter), which programs that call otherwise use by themselves: a [`Pass`] is told how
//! the call ended, and one that is dropped untold is given back.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flyball_core::time::Source;
use flyball_policy::limit as policy;
use flyball_policy::limit::{BreakerConfig, BreakerStatus, Forced, Refusal, Ticket, Verdict};

use crate::error::{CallError, Error, Refused};
use crate::shell::{lock, seed};

#[derive(Debug)]
struct Inner {
    clock: Source,
    policy: Mutex<policy::Breaker>,
}

/// A circuit breaker of one dependency. Cheap to clone; all clones are one breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    inner: Arc<Inner>,
}

impl Breaker {
    /// Makes a closed breaker.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn new(config: BreakerConfig) -> Result<Self, Error> {
        Self::with_clock(config, Source::best(), seed())
    }

    /// As [`new`](Self::new), on a clock and with a seed: for tests.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn with_clock(config: BreakerConfig, clock: Source, seed: u64) -> Result<Self, Error> {
        let policy = Mutex::new(policy::Breaker::new(config, seed)?);
        Ok(Self {
            inner: Arc::new(Inner { clock, policy }),
        })
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// Why it shall not be made, and when it may; never while it observes.
    pub fn enter(&self) -> Result<Pass, Refused> {
        let now = self.inner.clock.now();
        let entered = lock(&self.inner.policy).enter(now);
        match entered {
            Ok(ticket) => Ok(Pass {
                breaker: self.clone(),
                ticket: Some(ticket),
            }),
            Err(reason) => Err(self.refused(reason)),
        }
    }

    /// Makes a call if it may be made. Every error of it is a failure of the dependency.
    ///
    /// # Errors
    /// [`CallError::Refused`] if it was not made, [`CallError::Failed`] with its own error.
    pub async fn call<T, E, F>(&self, call: impl FnOnce() -> F) -> Result<T, CallError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.call_judged(call, every_error).await
    }

    /// As [`call`](Self::call), and `judge` says which results are the dependency's failures: an answer "not found" is none, an answer that says "later" is one.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_judged<T, E, F>(
        &self,
        call: impl FnOnce() -> F,
        judge: impl FnOnce(&Result<T, E>) -> Verdict,
    ) -> Result<T, CallError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let pass = self.enter().map_err(CallError::Refused)?;
        let result = call().await;
        pass.end(judge(&result));
        result.map_err(CallError::Failed)
    }

    /// As [`call`](Self::call), and a call that takes longer than `timeout` is dropped and has failed. Put the timeout here rather than around: a call that is
    /// dropped from outside says nothing about the dependency.
    ///
    /// # Errors
    /// As [`call`](Self::call), and [`CallError::TimedOut`].
    pub async fn call_within<T, E, F>(
        &self,
        timeout: Duration,
        call: impl FnOnce() -> F,
    ) -> Result<T, CallError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let pass = self.enter().map_err(CallError::Refused)?;
        match tokio::time::timeout(timeout, call()).await {
            Ok(result) => {
                pass.end(every_error(&result));
                result.map_err(CallError::Failed)
            }
            Err(_) => {
                pass.end(Verdict::Failure);
                Err(CallError::TimedOut(timeout))
            }
        }
    }

    /// As [`call`](Self::call), and where it was refused or failed `fallback` answers instead: what was known before, a default, another dependency.
    ///
    /// # Errors
    /// Those of the fallback.
    pub async fn call_or<T, E, F, G, D>(
        &self,
        call: impl FnOnce() -> F,
        fallback: impl FnOnce(CallError<E>) -> G,
    ) -> Result<T, D>
    where
        F: Future<Output = Result<T, E>>,
        G: Future<Output = Result<T, D>>,
    {
        match self.call(call).await {
            Ok(value) => Ok(value),
            Err(error) => fallback(error).await,
        }
    }

    /// As [`call`](Self::call), on this thread.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_blocking<T, E>(
        &self,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, CallError<E>> {
        let pass = self.enter().map_err(CallError::Refused)?;
        let result = call();
        pass.end(every_error(&result));
        result.map_err(CallError::Failed)
    }

    /// Why a call would be refused now, if it would for certain; takes nothing. One that observes refuses none.
    #[must_use]
    pub fn refusal(&self) -> Option<Refused> {
        let now = self.inner.clock.now();
        let reason = lock(&self.inner.policy).refusal(now);
        reason.map(|reason| self.refused(reason))
    }

    /// As [`refusal`](Self::refusal), and of one that observes what it would be.
    #[must_use]
    pub fn verdict(&self) -> Option<Refused> {
        let now = self.inner.clock.now();
        let reason = lock(&self.inner.policy).verdict(now);
        reason.map(|reason| self.refused(reason))
    }

    /// All that is known of it.
    #[must_use]
    pub fn status(&self) -> BreakerStatus {
        let now = self.inner.clock.now();
        lock(&self.inner.policy).status(now)
    }

    /// Decides in its place, until it is called with `None`: then it begins anew, closed.
    pub fn force(&self, forced: Option<Forced>) {
        let now = self.inner.clock.now();
        lock(&self.inner.policy).force(now, forced);
    }

    /// Closes it and forgets what was counted. What was forced stays forced.
    pub fn reset(&self) {
        let now = self.inner.clock.now();
        lock(&self.inner.policy).reset(now);
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> BreakerConfig {
        *lock(&self.inner.policy).config()
    }

    /// Changes the settings while it works. The state stays.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range; nothing has changed then.
    pub fn set_config(&self, config: BreakerConfig) -> Result<(), Error> {
        Ok(lock(&self.inner.policy).set_config(config)?)
    }

    /// Whether anybody but one holds it.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    fn refused(&self, reason: Refusal) -> Refused {
        let retry_after = match reason {
            Refusal::Open(until) => Some(until.duration_since(self.inner.clock.now())),
            _ => None,
        };
        Refused {
            reason,
            retry_after,
        }
    }
}

fn every_error<T, E>(result: &Result<T, E>) -> Verdict {
    match result {
        Ok(_) => Verdict::Success,
        Err(_) => Verdict::Failure,
    }
}

/// A call that was let through. Dropped untold it counts as [`Verdict::Unknown`], while its thread panics as a failure.
#[derive(Debug)]
#[must_use = "dropped, it says nothing about the call"]
pub struct Pass {
    breaker: Breaker,
    /// Taken when it was handed back.
    ticket: Option<Ticket>,
}

impl Pass {
    /// The call has ended so.
    pub fn end(mut self, verdict: Verdict) {
        self.hand_back(verdict);
    }

    fn hand_back(&mut self, verdict: Verdict) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.breaker.inner.clock.now();
            lock(&self.breaker.inner.policy).leave(now, ticket, verdict);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.hand_back(if std::thread::panicking() {
            Verdict::Failure
        } else {
            Verdict::Unknown
        });
    }
}
