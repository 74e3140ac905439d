//! How many retries all calls together may make.
//!
//! Attempts are limited call by call ([`RetryPolicy`](crate::queue::RetryPolicy)); that bounds nothing when all calls fail at once: three
//! attempts each are three times the load, on a dependency that is failing under load. So each call earns a part of a retry, and a retry
//! must be paid for: with a ratio of 20 % an outage adds at most a fifth. Callers so rare that they never earn one have a floor, by time.
//!
//! Invariant: from the start to any instant `t`, retries ≤ ratio × calls + floor × (t + 1 s), and never more than `saved_max` of the earned ones at
//! once, however calm it was before.
//!
//! A budget that only *observes* refuses nobody: a retry that cannot be paid for is counted as refused and made all the same, unpaid.
//!
//! Sources: Twitter Finagle, `RetryBudget` (20 % and 10 a second); Google, "Site Reliability Engineering", chapter 22 (a tenth).
//!
//! Leaves out which errors may be retried, and when (`backoff`). Only one layer of a program should retry: budgets in a row multiply.

use core::time::Duration;

use flyball_core::time::Timestamp;

use crate::Error;

/// A retry, in the unit of account.
const RETRY: u64 = 1_000_000;
/// No floor refills faster than this many a second.
const FLOOR_MAX: f64 = 1e6;
/// Nobody saves more retries than this.
const SAVED_MAX: u32 = 1_000_000;

/// Settings of a [`RetryBudget`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryBudgetConfig {
    /// Retries a call, 0 to 1: 0.2 unless set.
    pub ratio: f64,
    /// Retries a second that cost no calls, 0 to 1,000,000: 3 unless set.
    pub floor_per_second: f64,
    /// Earned retries that can be saved for later, 1 to 1,000,000: 100 unless set. So much a failure may add at once to the ratio after a calm.
    pub saved_max: u32,
    /// Only to count what would be refused: false unless set.
    pub observe: bool,
}

impl Default for RetryBudgetConfig {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            floor_per_second: 3.0,
            saved_max: 100,
            observe: false,
        }
    }
}

impl RetryBudgetConfig {
    fn check(&self) -> Result<(), Error> {
        let fault = |field, expected| {
            Err(Error::Limit {
                of: "retry budget",
                field,
                expected,
            })
        };
        if !(0.0..=1.0).contains(&self.ratio) {
            return fault("ratio", "0 to 1");
        }
        if !(0.0..=FLOOR_MAX).contains(&self.floor_per_second) {
            return fault("floor_per_second", "0 to 1,000,000");
        }
        if !(1..=SAVED_MAX).contains(&self.saved_max) {
            return fault("saved_max", "1 to 1,000,000");
        }
        Ok(())
    }

    fn earned_per_call(&self) -> u64 {
        (self.ratio * RETRY as f64) as u64
    }

    /// What the floor can hold: a second's worth, and one retry at least, else a slow floor never paid for any.
    fn floor_cap(&self) -> u64 {
        match (self.floor_per_second * RETRY as f64) as u64 {
            0 => 0,
            second => second.max(RETRY),
        }
    }
}

/// What a budget did.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct RetryBudgetStats {
    /// Calls, retries not counted.
    pub calls: u64,
    /// Retries that were paid for, those given back left out.
    pub retries: u64,
    /// Retries that were refused; of a budget that observes, those that would have been.
    pub refused: u64,
    /// Whole retries that could be made now.
    pub available: u64,
}

/// A budget of retries for calls that can fail for one cause: of a dependency, or of a kind of task.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    config: RetryBudgetConfig,
    /// By calls, in [`RETRY`]s.
    earned: u64,
    /// By time, in [`RETRY`]s.
    floor: u64,
    /// Up to when the floor has been paid out.
    floor_at: Option<Timestamp>,
    /// Retries that were let through without pay, those given back left out.
    unpaid: u64,
    stats: RetryBudgetStats,
}

impl RetryBudget {
    /// Makes a budget with a full floor and nothing earned.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range.
    pub fn new(config: RetryBudgetConfig) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            config,
            earned: 0,
            floor: config.floor_cap(),
            floor_at: None,
            unpaid: 0,
            stats: RetryBudgetStats::default(),
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &RetryBudgetConfig {
        &self.config
    }

    /// Changes the settings. What was saved stays, cut to the new bounds.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range; nothing has changed then.
    pub fn set_config(&mut self, config: RetryBudgetConfig) -> Result<(), Error> {
        config.check()?;
        self.config = config;
        self.earned = self.earned.min(self.saved_cap());
        self.floor = self.floor.min(config.floor_cap());
        Ok(())
    }

    /// Counts a call: a first attempt, as it is made.
    pub fn deposit(&mut self) {
        self.stats.calls += 1;
        self.earned = (self.earned + self.config.earned_per_call()).min(self.saved_cap());
    }

    /// Asks for a retry and pays for it. Ask when the retry is made, not when it is planned; a refusal means that the call fails now. One that observes
    /// refuses none.
    #[must_use]
    pub fn withdraw(&mut self, now: Timestamp) -> bool {
        self.refill(now);
        // The floor first: it comes back by itself.
        if self.floor >= RETRY {
            self.floor -= RETRY;
        } else if self.earned >= RETRY {
            self.earned -= RETRY;
        } else {
            self.stats.refused += 1;
            self.unpaid += u64::from(self.config.observe);
            return self.config.observe;
        }
        self.stats.retries += 1;
        true
    }

    /// Gives back a retry that was not made. Where some went unpaid, as it observes, it counts as one of those.
    pub fn refund(&mut self) {
        if self.unpaid > 0 {
            self.unpaid -= 1;
            self.stats.refused -= 1;
        } else if self.stats.retries > 0 {
            self.stats.retries -= 1;
            self.earned = (self.earned + RETRY).min(self.saved_cap());
        }
    }

    /// What it did, and what it could do now.
    #[must_use]
    pub fn stats(&mut self, now: Timestamp) -> RetryBudgetStats {
        self.refill(now);
        RetryBudgetStats {
            available: self.floor / RETRY + self.earned / RETRY,
            ..self.stats
        }
    }

    /// When the floor will pay for a retry; `now` if one can be made, `None` if only calls can earn one.
    #[must_use]
    pub fn next_retry_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.refill(now);
        if self.config.observe || self.floor >= RETRY || self.earned >= RETRY {
            return Some(now);
        }
        if self.config.floor_cap() == 0 {
            return None;
        }
        let missing = (RETRY - self.floor) as f64 / RETRY as f64;
        let seconds = missing / self.config.floor_per_second;
        // Rounded up, so that who comes then is not too early.
        Some(now.saturating_add(Duration::from_nanos((seconds * 1e9) as u64 + 1_000)))
    }

    fn saved_cap(&self) -> u64 {
        u64::from(self.config.saved_max) * RETRY
    }

    fn refill(&mut self, now: Timestamp) {
        let Some(last) = self.floor_at else {
            self.floor_at = Some(now);
            return;
        };
        let elapsed = now.saturating_nanos_since(last);
        let gained = (elapsed as f64 * (self.config.floor_per_second * RETRY as f64 / 1e9)) as u64;
        let cap = self.config.floor_cap();
        if self.floor.saturating_add(gained) >= cap {
            self.floor = cap;
            self.floor_at = Some(now.max(last));
        } else if gained > 0 {
            // Only the time that was paid out is used up: many looks in a row earn as much as one.
            self.floor += gained;
            let used = gained as f64 * 1e9 / (self.config.floor_per_second * RETRY as f64);
            self.floor_at = Some(last.saturating_add_nanos((used as u64 + 1).min(elapsed)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::{Just, ProptestConfig, prop, prop_assert, prop_oneof, proptest};

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn budget(ratio: f64, floor_per_second: f64, saved_max: u32) -> RetryBudget {
        RetryBudget::new(RetryBudgetConfig {
            ratio,
            floor_per_second,
            saved_max,
            observe: false,
        })
        .unwrap()
    }

    /// CPU-30: one that observes lets every retry through, and counts as refused what one that enforces refuses; what it let through unpaid earns nothing when
    /// it is given back.
    #[test]
    fn observing_refuses_nobody_and_counts_the_same() {
        let mut enforces = budget(0.2, 1.0, 5);
        let mut observes = enforces.clone();
        let config = *observes.config();
        let observing = RetryBudgetConfig {
            observe: true,
            ..config
        };
        observes.set_config(observing).unwrap();
        for call in 0..2_000 {
            let now = at(call * 7);
            enforces.deposit();
            observes.deposit();
            for _attempt in 1..3 {
                let _ = enforces.withdraw(now);
                assert!(observes.withdraw(now));
                assert_eq!(observes.next_retry_at(now), Some(now));
            }
            assert_eq!(enforces.stats(now), observes.stats(now));
        }
        let before = observes.stats(at(14_000));
        assert!(before.refused > 0 && before.retries > 0);
        observes.refund();
        let after = observes.stats(at(14_000));
        assert_eq!(after.refused, before.refused - 1);
        assert_eq!(
            (after.retries, after.available),
            (before.retries, before.available)
        );
        // From now on it is kept to.
        observes.set_config(config).unwrap();
        while observes.withdraw(at(14_000)) {}
        assert!(!observes.withdraw(at(14_000)));
    }

    /// TASK-7: when every call fails, at most a fifth is added to the load.
    #[test]
    fn an_outage_adds_a_fifth() {
        let mut budget = budget(0.2, 0.0, 100);
        let mut retries = 0;
        for call in 0..10_000 {
            budget.deposit();
            for _attempt in 1..3 {
                retries += u32::from(budget.withdraw(at(call)));
            }
        }
        assert_eq!(retries, 2_000);
        let stats = budget.stats(at(10_000));
        assert_eq!(
            (stats.calls, stats.retries, stats.refused, stats.available),
            (10_000, 2_000, 18_000, 0)
        );
    }

    #[test]
    fn a_calm_pays_for_no_more_than_what_may_be_saved() {
        let mut budget = budget(0.2, 0.0, 7);
        for _ in 0..1_000_000 {
            budget.deposit();
        }
        assert_eq!((0..100).filter(|_| budget.withdraw(at(0))).count(), 7);
    }

    #[test]
    fn who_calls_rarely_has_a_floor() {
        let mut budget = budget(0.2, 0.5, 100);
        assert!(budget.withdraw(at(0)), "the floor starts full");
        assert!(!budget.withdraw(at(1_990)));
        let next = budget.next_retry_at(at(1_990)).unwrap();
        assert!(next >= at(2_000) && next < at(2_001), "{next}");
        assert!(budget.withdraw(next));
        // A week later it has saved one, no more.
        let later = at(604_800_000);
        assert!(budget.withdraw(later) && !budget.withdraw(later));
    }

    #[test]
    fn without_a_floor_only_calls_pay() {
        let mut budget = budget(1.0, 0.0, 1);
        assert_eq!(budget.next_retry_at(at(0)), None);
        assert!(!budget.withdraw(Timestamp::MAX));
        budget.deposit();
        assert!(budget.withdraw(at(0)));
        budget.refund();
        assert!(budget.withdraw(at(0)) && !budget.withdraw(at(0)));
    }

    #[test]
    fn settings_are_checked_and_changed_as_a_whole() {
        let mut budget = budget(0.2, 10.0, 100);
        for bad in [
            RetryBudgetConfig {
                ratio: f64::NAN,
                ..RetryBudgetConfig::default()
            },
            RetryBudgetConfig {
                ratio: 1.1,
                ..RetryBudgetConfig::default()
            },
            RetryBudgetConfig {
                floor_per_second: -1.0,
                ..RetryBudgetConfig::default()
            },
            RetryBudgetConfig {
                saved_max: 0,
                ..RetryBudgetConfig::default()
            },
        ] {
            let error = budget.set_config(bad).unwrap_err();
            assert!(
                std::format!("{error}").contains("of the retry budget must be"),
                "{error}"
            );
        }
        assert_eq!(budget.stats(at(0)).available, 10);
        let config = RetryBudgetConfig {
            floor_per_second: 2.0,
            ..RetryBudgetConfig::default()
        };
        budget.set_config(config).unwrap();
        assert_eq!(budget.stats(at(0)).available, 2);
    }

    /// TASK-7: a budget that nobody asked for years has a full floor, and no more.
    #[test]
    fn a_clock_that_jumps_fills_the_floor() {
        let mut budget = budget(0.0, 1e6, 1);
        assert!(budget.withdraw(at(0)));
        assert!(budget.withdraw(Timestamp::MAX));
        assert_eq!(budget.stats(Timestamp::MAX).available, 999_999);
        assert!(budget.withdraw(at(1)), "and not less if it goes back");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// TASK-7: whatever comes when, retries stay below ratio × calls + floor × (time + 1 s), and no retry that a bucket counted in fractions
        /// would allow is refused.
        #[test]
        fn it_keeps_to_the_model(
            ratio in 0.0f64..=1.0,
            floor in prop_oneof![Just(0.0), 0.01f64..50.0],
            saved in 1u32..20,
            steps in prop::collection::vec((0u64..3_000, 0u8..4), 1..200),
        ) {
            let mut budget = budget(ratio, floor, saved);
            let floor_cap = if floor == 0.0 { 0.0 } else { floor.max(1.0) };
            let (mut model_earned, mut model_floor) = (0.0f64, floor_cap);
            let (mut now, mut calls, mut retries) = (0u64, 0u64, 0u64);
            let mut log = Vec::new();
            for (millis, what) in steps {
                now += millis;
                model_floor = (model_floor + floor * millis as f64 / 1e3).min(floor_cap);
                // A look in between changes nothing.
                let _ = budget.stats(at(now));
                if what == 0 {
                    let allowed = budget.withdraw(at(now));
                    retries += u64::from(allowed);
                    // Millionths are cut off, so the exact bucket may be a little ahead.
                    if allowed {
                        prop_assert!(model_floor.max(model_earned) > 0.99, "{log:?}");
                    } else {
                        prop_assert!(model_floor < 1.01 && model_earned < 1.01, "{log:?}");
                    }
                    if allowed && model_floor >= 0.99 {
                        model_floor -= 1.0;
                    } else if allowed {
                        model_earned -= 1.0;
                    }
                } else {
                    calls += 1;
                    budget.deposit();
                    model_earned = (model_earned + ratio).min(f64::from(saved));
                }
                log.push((now, what));
                let most = ratio * calls as f64 + floor * (now as f64 / 1e3) + floor_cap + 1e-3;
                prop_assert!(retries as f64 <= most, "{retries} of at most {most}");
            }
        }
    }
}
