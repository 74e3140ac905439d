//! When a failed call is tried again: exponential backoff with full jitter.
//!
//! The wait before attempt n + 1 is drawn evenly from nothing to min(cap, base × 2ⁿ⁻¹). Full jitter spreads those who failed together
//! over the whole span; anything less keeps them in waves. Who was told when to come back (`Retry-After`) waits that long and then draws,
//! as everybody else was told the same.
//!
//! Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015).
//!
//! Leaves out whether all retries together are too many (`retry_budget`), and which errors may be retried.

use core::time::Duration;

use flyball_core::rng::Rng;
use flyball_core::time::nanos_of;

use crate::Error;
use crate::queue::RetryPolicy;

/// When, and how often, a failed call is tried again.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Backoff {
    /// All attempts, the first included, 1 to 1,000: 3 unless set.
    pub max_attempts: u32,
    /// The most that is waited before the second attempt; it doubles with each further one. 100 ms unless set.
    pub base: Duration,
    /// The most that it grows to: 10 s unless set.
    pub cap: Duration,
    /// A dependency that asks for a longer wait than this is not called again: 60 s unless set.
    pub retry_after_max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(10),
            retry_after_max: Duration::from_secs(60),
        }
    }
}

impl From<RetryPolicy> for Backoff {
    /// A durable task waits as long as it is asked to.
    fn from(policy: RetryPolicy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            base: policy.base,
            cap: policy.cap,
            retry_after_max: Duration::MAX,
        }
    }
}

impl Backoff {
    /// Says whether the settings make sense.
    ///
    /// # Errors
    /// [`Error::Limit`] for one that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let fault = |field, expected| {
            Err(Error::Limit {
                of: "backoff",
                field,
                expected,
            })
        };
        if !(1..=1_000).contains(&self.max_attempts) {
            return fault("max_attempts", "1 to 1,000");
        }
        if self.cap < self.base {
            return fault("cap", "at least base");
        }
        Ok(())
    }

    /// The most that is waited after the attempt of this number (from 1) has failed.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(63);
        let nanos = u128::from(nanos_of(self.base)) << doublings;
        Duration::from_nanos(nanos.min(u128::from(nanos_of(self.cap))) as u64)
    }

    /// Draws the wait after the attempt of this number (from 1) has failed; `None` if no attempt follows: there were enough, or the dependency
    /// asks for more patience than there is.
    #[must_use]
    pub fn delay(
        &self,
        attempt: u32,
        retry_after: Option<Duration>,
        rng: &mut Rng,
    ) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let asked = retry_after.unwrap_or_default();
        if asked > self.retry_after_max {
            return None;
        }
        let drawn = rng.between(0, nanos_of(self.ceiling(attempt)));
        Some(asked.saturating_add(Duration::from_nanos(drawn)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// TASK-7: waits are spread over the whole span, which doubles up to the cap; attempts are counted with the first.
    #[test]
    fn waits_double_up_to_the_cap() {
        let backoff = Backoff {
            max_attempts: 6,
            base: Duration::from_millis(100),
            cap: Duration::from_millis(1_000),
            ..Backoff::default()
        };
        let mut rng = Rng::seeded(1);
        for (attempt, ceiling) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000)] {
            let ceiling = Duration::from_millis(ceiling);
            assert_eq!(backoff.ceiling(attempt), ceiling);
            let (mut low, mut high) = (Duration::MAX, Duration::ZERO);
            for _ in 0..1_000 {
                let delay = backoff.delay(attempt, None, &mut rng).unwrap();
                (low, high) = (low.min(delay), high.max(delay));
            }
            assert!(low < ceiling / 50 && high > ceiling * 49 / 50 && high <= ceiling);
        }
        assert_eq!(backoff.delay(6, None, &mut rng), None);
    }

    /// TASK-7: `Retry-After` is respected, and who is told to come back later than makes sense does not.
    #[test]
    fn who_is_told_when_waits_that_long() {
        let backoff = Backoff::default();
        let mut rng = Rng::seeded(1);
        for _ in 0..100 {
            let delay = backoff
                .delay(1, Some(Duration::from_secs(30)), &mut rng)
                .unwrap();
            assert!(delay >= Duration::from_secs(30) && delay <= Duration::from_millis(30_100));
        }
        assert_eq!(
            backoff.delay(1, Some(Duration::from_secs(61)), &mut rng),
            None
        );
    }

    #[test]
    fn settings_are_checked() {
        let bad = |backoff: Backoff| backoff.check().unwrap_err();
        bad(Backoff {
            max_attempts: 0,
            ..Backoff::default()
        });
        bad(Backoff {
            cap: Duration::ZERO,
            ..Backoff::default()
        });
        Backoff::default().check().unwrap();
    }

    proptest! {
        #[test]
        fn no_setting_overflows(
            attempt: u32, max_attempts: u32, base: u64, cap: u64, after in prop::option::of(any::<u64>()), seed: u64
        ) {
            let backoff = Backoff {
                max_attempts,
                base: Duration::from_nanos(base),
                cap: Duration::from_nanos(cap),
                retry_after_max: Duration::MAX,
            };
            let after = after.map(Duration::from_secs);
            let delay = backoff.delay(attempt, after, &mut Rng::seeded(seed));
            prop_assert_eq!(delay.is_some(), attempt < max_attempts);
            if let Some(delay) = delay {
                let asked = after.unwrap_or_default();
                prop_assert!(delay >= asked);
                prop_assert!(delay <= asked.saturating_add(Duration::from_nanos(cap)));
            }
        }
    }
}
