//! An average that forgets: each value counts half as much after every half-life.
//!
//! Values come at irregular times, so a fixed weight a value would make the memory depend on how often someone looks.
//! Here the weight follows from the time since the last value (passed as an argument): the average of a signal sampled
//! twice as often is the same. Until the first value the average is unknown, not zero.

use core::time::Duration;

use crate::time::{Timestamp, nanos_of};

/// An exponentially weighted moving average over time.
#[derive(Clone, Debug)]
pub struct Ewma {
    half_life_ns: u64,
    /// The average and when it was brought up to date.
    state: Option<(f64, Timestamp)>,
}

impl Ewma {
    /// Makes an average that forgets half of the past in `half_life` (at least 1 ns).
    pub fn new(half_life: Duration) -> Self {
        Self {
            half_life_ns: nanos_of(half_life).max(1),
            state: None,
        }
    }

    /// Takes in the value that the signal has had since the last call; the first value is the average. A time before
    /// that of the last call counts as that time; a value that is not finite is ignored.
    pub fn update(&mut self, now: Timestamp, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.state = Some(match self.state {
            None => (value, now),
            Some((average, last)) => {
                let kept = half_power(now.saturating_nanos_since(last), self.half_life_ns);
                (value + (average - value) * kept, now.max(last))
            }
        });
    }

    /// Returns the average; `None` before the first value.
    pub fn get(&self) -> Option<f64> {
        self.state.map(|(average, _)| average)
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.state = None;
    }
}

/// Returns 2^(−elapsed/half_life), which `core` cannot.
///
/// Whole half-lives halve; the rest is a Taylor series of e^(−x·ln 2) with x < 1, whose terms after the twelfth are
/// below 10^-11.
pub fn half_power(elapsed_ns: u64, half_life_ns: u64) -> f64 {
    let half_life_ns = half_life_ns.max(1);
    let whole = elapsed_ns / half_life_ns;
    if whole >= 1_000 {
        return 0.0;
    }
    let exponent =
        -((elapsed_ns % half_life_ns) as f64 / half_life_ns as f64) * core::f64::consts::LN_2;
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..=12u32 {
        term *= exponent / f64::from(n);
        sum += term;
    }
    // 2^-whole from its exponent bits; below the smallest normal number it is zero for our purposes.
    sum * f64::from_bits(1023u64.saturating_sub(whole) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_power_is_exact(elapsed in 0u64..1_000_000_000_000, half_life in 1_000_000u64..10_000_000_000) {
            let truth = (-(elapsed as f64) / half_life as f64).exp2();
            prop_assert!((half_power(elapsed, half_life) - truth).abs() < 1e-10);
        }

        /// Sampling a constant signal more often does not change the average.
        #[test]
        fn the_average_does_not_depend_on_how_often_one_looks(start in -1e6f64..1e6, level in -1e6f64..1e6, parts in 1u64..50) {
            let at = |ns| Timestamp::from_nanos(ns);
            let total = 700_000 * parts;
            let (mut once, mut often) = (Ewma::new(Duration::from_millis(3)), Ewma::new(Duration::from_millis(3)));
            once.update(at(0), start);
            often.update(at(0), start);
            once.update(at(total), level);
            for part in 1..=parts {
                often.update(at(total * part / parts), level);
            }
            let (once, often) = (once.get().unwrap(), often.get().unwrap());
            prop_assert!((once - often).abs() < 1e-6 * (start.abs() + level.abs() + 1.0));
        }
    }

    #[test]
    fn half_is_forgotten_in_a_half_life() {
        let mut average = Ewma::new(Duration::from_secs(1));
        assert_eq!(average.get(), None);
        average.update(Timestamp::from_nanos(5), 10.0);
        assert_eq!(average.get(), Some(10.0));
        average.update(Timestamp::from_nanos(1_000_000_005), 0.0);
        assert!((average.get().unwrap() - 5.0).abs() < 1e-9);
        average.update(Timestamp::ZERO, 1_000.0);
        average.update(Timestamp::ZERO, f64::NAN);
        assert!(
            (average.get().unwrap() - 5.0).abs() < 1e-9,
            "the past and what is no number change nothing"
        );
        average.update(Timestamp::MAX, 7.0);
        assert_eq!(average.get(), Some(7.0));
        average.reset();
        assert_eq!(average.get(), None);
    }
}
