//! Trying again, within a budget.
//!
//! A retry is paid for before its wait, so that a call fails at once where the budget is empty; if its future is dropped in the wait, the payment comes back.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flyball_core::rng::Rng;
use flyball_core::time::Source;
use flyball_policy::limit as policy;
use flyball_policy::limit::{Backoff, RetryBudgetConfig, RetryBudgetStats};

use crate::error::Error;
use crate::shell::{lock, park_until, seed};

/// Whether an error is worth another attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// No: it would fail again.
    No,
    /// Yes.
    Yes,
    /// Yes, but not before this time has passed, as the dependency asks (`Retry-After`).
    After(Duration),
}

impl Again {
    /// [`Again::Yes`] if so, else [`Again::No`].
    #[must_use]
    pub fn if_so(worth_it: bool) -> Self {
        if worth_it { Again::Yes } else { Again::No }
    }
}

/// A budget that several calls share: those of one dependency, say. Cheap to clone; all clones are one budget.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    inner: Arc<(Source, Mutex<policy::RetryBudget>)>,
}

impl Default for RetryBudget {
    /// A fifth of the calls, and 3 a second.
    fn default() -> Self {
        match Self::new(RetryBudgetConfig::default()) {
            Ok(budget) => budget,
            Err(error) => unreachable!("the defaults are in their range: {error}"),
        }
    }
}

impl RetryBudget {
    /// Makes a budget.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn new(config: RetryBudgetConfig) -> Result<Self, Error> {
        Self::with_clock(config, Source::best())
    }

    /// As [`new`](Self::new), on a clock: for tests.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn with_clock(config: RetryBudgetConfig, clock: Source) -> Result<Self, Error> {
        let policy = policy::RetryBudget::new(config)?;
        Ok(Self {
            inner: Arc::new((clock, Mutex::new(policy))),
        })
    }

    /// Counts a call, as it is made.
    pub fn deposit(&self) {
        lock(&self.inner.1).deposit();
    }

    /// Pays for a retry if it can.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        let now = self.inner.0.now();
        lock(&self.inner.1).withdraw(now)
    }

    /// Gives back a retry that was paid for and not made.
    pub fn refund(&self) {
        lock(&self.inner.1).refund();
    }

    /// What it did, and what it could do now.
    #[must_use]
    pub fn stats(&self) -> RetryBudgetStats {
        let now = self.inner.0.now();
        lock(&self.inner.1).stats(now)
    }

    /// Changes the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range; nothing has changed then.
    pub fn set_config(&self, config: RetryBudgetConfig) -> Result<(), Error> {
        Ok(lock(&self.inner.1).set_config(config)?)
    }
}

/// A retry that was paid for.
struct Paid<'a>(Option<&'a RetryBudget>);

impl Paid<'_> {
    fn spend(mut self) {
        self.0 = None;
    }
}

impl Drop for Paid<'_> {
    fn drop(&mut self) {
        if let Some(budget) = self.0 {
            budget.refund();
        }
    }
}

/// How calls are tried again. Cheap to clone; clones share budget and randomness.
#[derive(Clone, Debug)]
pub struct Retry {
    backoff: Backoff,
    budget: Option<RetryBudget>,
    rng: Arc<Mutex<Rng>>,
}

impl Retry {
    /// Tries again by this backoff, without a budget.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn new(backoff: Backoff) -> Result<Self, Error> {
        backoff.check()?;
        Ok(Self {
            backoff,
            budget: None,
            rng: Arc::new(Mutex::new(Rng::seeded(seed()))),
        })
    }

    /// Pays for retries from this budget; without one, an outage multiplies the load by the attempts.
    #[must_use]
    pub fn with_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Makes all waits depend on this seed: for tests.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.rng = Arc::new(Mutex::new(Rng::seeded(seed)));
        self
    }

    /// Makes a call, and again while it fails with errors that `judge` thinks worth it, as often as attempts and budget allow. `call` is told the number of the
    /// attempt, from 1.
    ///
    /// # Errors
    /// That of the last attempt.
    pub async fn call<T, E, F>(
        &self,
        mut call: impl FnMut(u32) -> F,
        mut judge: impl FnMut(&E) -> Again,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.begin();
        let mut attempt = 1;
        loop {
            let error = match call(attempt).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some((wait, paid)) = self.next(attempt, judge(&error)) else {
                return Err(error);
            };
            tokio::time::sleep(wait).await;
            paid.spend();
            attempt += 1;
        }
    }

    /// As [`call`](Self::call), on this thread, which waits.
    ///
    /// # Errors
    /// That of the last attempt.
    pub fn call_blocking<T, E>(
        &self,
        mut call: impl FnMut(u32) -> Result<T, E>,
        mut judge: impl FnMut(&E) -> Again,
    ) -> Result<T, E> {
        self.begin();
        let mut attempt = 1;
        loop {
            let error = match call(attempt) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some((wait, paid)) = self.next(attempt, judge(&error)) else {
                return Err(error);
            };
            let clock = Source::best();
            let until = clock.now().saturating_add(wait);
            let _: Option<()> = park_until(&clock, until, || None);
            paid.spend();
            attempt += 1;
        }
    }

    fn begin(&self) {
        if let Some(budget) = &self.budget {
            budget.deposit();
        }
    }

    /// How long to wait for the next attempt, which is paid for then; none if there is none.
    fn next(&self, attempt: u32, again: Again) -> Option<(Duration, Paid<'_>)> {
        let asked = match again {
            Again::No => return None,
            Again::Yes => None,
            Again::After(asked) => Some(asked),
        };
        let wait = self.backoff.delay(attempt, asked, &mut lock(&self.rng))?;
        match &self.budget {
            Some(budget) if !budget.withdraw() => None,
            budget => Some((wait, Paid(budget.as_ref()))),
        }
    }
}
