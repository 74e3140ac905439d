//! Hedged calls: a call that takes longer than nearly all others is made a second time, and the first answer counts.
//!
//! It helps where slowness is the server's mood and not the request's, and only for calls that may be made twice. The second call goes out
//! when the first has taken as long as 95 % of the calls of the last while, so that few are doubled; a budget bounds them whatever the latencies do,
//! for a dependency that became slow as a whole would otherwise get twice the load.
//!
//! Latencies that are recorded are those of first calls, also where the second won: then the time until that is a lower bound that lies above the
//! quantile, as it must. Recording the winner's would lower the quantile with each win.
//!
//! Source: J. Dean, L. A. Barroso, "The Tail at Scale" (2013).
//!
//! Leaves out making the calls and dropping the one that lost.

use core::time::Duration;

use flyball_core::histogram::Histogram;
use flyball_core::time::{Timestamp, nanos_of};

use super::retry_budget::{RetryBudget, RetryBudgetConfig};
use crate::Error;

/// Fewer latencies say nothing of the slowest twentieth.
const SAMPLES_MIN: u64 = 100;

/// When the second call goes out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum HedgeDelay {
    /// After this time.
    Fixed(Duration),
    /// When the first has taken longer than this part of the calls, 0.5 to 0.999. Until 100 calls are known, none is hedged.
    Quantile(f64),
}

/// Settings of a [`Hedge`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HedgeConfig {
    /// When the second call goes out: at the 95th percentile unless set.
    pub delay: HedgeDelay,
    /// The least delay of a quantile: 1 ms unless set. Below, the second call costs more than the wait.
    pub delay_min: Duration,
    /// The part of the calls that may be hedged, 0 to 1: 0.1 unless set.
    pub ratio: f64,
    /// How far back latencies count, 1 s to 1 h: 60 s unless set.
    pub window: Duration,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self {
            delay: HedgeDelay::Quantile(0.95),
            delay_min: Duration::from_millis(1),
            ratio: 0.1,
            window: Duration::from_secs(60),
        }
    }
}

impl HedgeConfig {
    fn check(&self) -> Result<(), Error> {
        let fault = |field, expected| {
            Err(Error::Limit {
                of: "hedge",
                field,
                expected,
            })
        };
        if let HedgeDelay::Quantile(quantile) = self.delay
            && !(0.5..=0.999).contains(&quantile)
        {
            return fault("delay", "a quantile of 0.5 to 0.999, or a time");
        }
        if !(0.0..=1.0).contains(&self.ratio) {
            return fault("ratio", "0 to 1");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&self.window) {
            return fault("window", "1 s to 1 h");
        }
        Ok(())
    }

    fn budget(&self) -> RetryBudgetConfig {
        RetryBudgetConfig {
            ratio: self.ratio,
            floor_per_second: 0.0,
            // A burst of slow calls after a calm is what hedging is for; ten thousand calls' worth is not.
            saved_max: 100,
            observe: false,
        }
    }
}

/// What hedging did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct HedgeStats {
    /// Calls, second ones not counted.
    pub calls: u64,
    /// Second calls.
    pub hedged: u64,
    /// Second calls that answered first.
    pub won: u64,
    /// Second calls that the budget refused.
    pub refused: u64,
    /// When a second call would go out now.
    pub delay: Option<Duration>,
}

/// Decides when a call is made a second time.
#[derive(Clone, Debug)]
pub struct Hedge {
    config: HedgeConfig,
    budget: RetryBudget,
    /// Latencies in nanoseconds of this half of the window, and of the one before.
    halves: [Histogram; 2],
    /// When this half began.
    began: Option<Timestamp>,
    won: u64,
}

impl Hedge {
    /// Makes one that knows no latencies.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range.
    pub fn new(config: HedgeConfig) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            config,
            budget: RetryBudget::new(config.budget())?,
            halves: [Histogram::new(), Histogram::new()],
            began: None,
            won: 0,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &HedgeConfig {
        &self.config
    }

    /// Begins a call: answers after which time a second one is due, if at all.
    pub fn begin(&mut self, now: Timestamp) -> Option<Duration> {
        self.budget.deposit();
        self.delay(now)
    }

    /// The delay is over and the call still out: may the second one be made?
    #[must_use]
    pub fn second(&mut self, now: Timestamp) -> bool {
        self.budget.withdraw(now)
    }

    /// A call has ended after this time since its first attempt; `won` if by its second.
    pub fn end(&mut self, now: Timestamp, took: Duration, won: bool) {
        self.rotate(now);
        self.halves[0].record(nanos_of(took));
        self.won += u64::from(won);
    }

    /// What it did.
    #[must_use]
    pub fn stats(&mut self, now: Timestamp) -> HedgeStats {
        let budget = self.budget.stats(now);
        HedgeStats {
            calls: budget.calls,
            hedged: budget.retries,
            won: self.won,
            refused: budget.refused,
            delay: self.delay(now),
        }
    }

    fn delay(&mut self, now: Timestamp) -> Option<Duration> {
        match self.config.delay {
            HedgeDelay::Fixed(delay) => Some(delay),
            HedgeDelay::Quantile(quantile) => {
                self.rotate(now);
                // The fuller half alone: merging two histograms for each call would cost more than it tells.
                let half = if self.halves[0].count() >= SAMPLES_MIN {
                    &self.halves[0]
                } else {
                    &self.halves[1]
                };
                if half.count() < SAMPLES_MIN {
                    return None;
                }
                let nanos = half.quantile(quantile)?;
                Some(Duration::from_nanos(nanos).max(self.config.delay_min))
            }
        }
    }

    fn rotate(&mut self, now: Timestamp) {
        let half = self.config.window / 2;
        let began = *self.began.get_or_insert(now);
        let age = now.duration_since(began);
        if age < half {
            return;
        }
        self.halves.swap(0, 1);
        self.halves[0].clear();
        if age >= self.config.window {
            self.halves[1].clear();
        }
        self.began = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use flyball_core::rng::Rng;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    /// A dependency with a slow tail: the time a call would take, as hedging sees it.
    fn run(hedge: &mut Hedge, calls: u64, slow_part: f64, seed: u64) -> (Histogram, u64) {
        let mut rng = Rng::seeded(seed);
        let mut taken = Histogram::new();
        let mut load = 0;
        let mut draw = || {
            let mean = if rng.chance(slow_part) { 500e6 } else { 10e6 };
            rng.exp(mean) as u64 + 1_000_000
        };
        for call in 0..calls {
            let now = at(call * 10);
            let first = draw();
            load += 1;
            let (mut took, mut won) = (first, false);
            if let Some(delay) = hedge.begin(now)
                && first > nanos_of(delay)
                && hedge.second(now)
            {
                load += 1;
                let second = nanos_of(delay) + draw();
                won = second < first;
                took = first.min(second);
            }
            hedge.end(now, Duration::from_nanos(took), won);
            taken.record(took);
        }
        (taken, load)
    }

    /// TASK-9: a slow tail is cut, at the price of few calls.
    #[test]
    fn the_tail_is_cut_for_few_calls() {
        let config = HedgeConfig {
            ratio: 0.0,
            ..HedgeConfig::default()
        };
        let (plain, _) = run(&mut Hedge::new(config).unwrap(), 20_000, 0.03, 1);
        let mut hedge = Hedge::new(HedgeConfig::default()).unwrap();
        let (hedged, load) = run(&mut hedge, 20_000, 0.03, 1);
        let p99 = |latencies: &Histogram| latencies.quantile(0.99).unwrap();
        assert!(p99(&hedged) * 4 < p99(&plain));
        assert!(load < 20_000 * 108 / 100, "{load}");
        let stats = hedge.stats(at(0));
        assert!(stats.won > 0 && stats.hedged + 20_000 == load, "{stats:?}");
    }

    /// TASK-9: a dependency that is slow as a whole gets no more than the budget on top.
    #[test]
    fn a_dependency_that_became_slow_is_not_doubled() {
        let mut hedge = Hedge::new(HedgeConfig {
            delay: HedgeDelay::Fixed(Duration::from_millis(20)),
            ..HedgeConfig::default()
        })
        .unwrap();
        let (_, load) = run(&mut hedge, 20_000, 1.0, 2);
        assert!(load <= 22_000, "{load}");
        assert!(hedge.stats(at(0)).refused > 10_000);
    }

    #[test]
    fn nothing_is_hedged_until_latencies_are_known_and_old_ones_are_forgotten() {
        let mut hedge = Hedge::new(HedgeConfig::default()).unwrap();
        for _ in 0..99 {
            assert_eq!(hedge.begin(at(0)), None);
            hedge.end(at(0), Duration::from_millis(10), false);
        }
        hedge.end(at(0), Duration::from_millis(10), false);
        let delay = hedge.begin(at(1)).unwrap();
        assert!(delay >= Duration::from_millis(10) && delay < Duration::from_millis(11));
        assert!(hedge.begin(at(59_999)).is_some(), "the half before");
        assert_eq!(hedge.begin(at(200_000)), None);
    }

    #[test]
    fn settings_are_checked() {
        for config in [
            HedgeConfig {
                delay: HedgeDelay::Quantile(0.2),
                ..HedgeConfig::default()
            },
            HedgeConfig {
                ratio: 2.0,
                ..HedgeConfig::default()
            },
            HedgeConfig {
                window: Duration::ZERO,
                ..HedgeConfig::default()
            },
        ] {
            Hedge::new(config).unwrap_err();
        }
    }
}
