//! One size against another: windows A B B A, their differences, an interval, a verdict.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::tally::Tally;
use crate::control::Evidence;
use crate::math::square_root;

/// What a time in a worker that is longer by a part takes from the gain, in that part.
pub const STAY_WEIGHT: f64 = 0.1;

/// After how many pairs a verdict is looked for, and the quantile of Student's t for a two-sided 99 % with so many pairs.
pub const LOOKS: [(usize, f64); 5] = [
    (4, 5.841),
    (6, 4.032),
    (10, 3.250),
    (14, 3.012),
    (20, 2.861),
];

/// A pair in which the other size is worse by this much...
const HARM: f64 = 0.15;
/// ...so many times in a row ends the trial.
const HARM_TIMES: u32 = 2;

/// What came out of a trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It goes on.
    Open,
    /// The other size is better.
    Better,
    /// It is not.
    NoBetter,
    /// It cannot be told.
    Unclear,
}

/// A trial that goes on.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    base: u32,
    pub(super) other: u32,
    /// Which window of A B B A is next.
    phase: u32,
    /// The window that waits for its neighbour.
    first: Tally,
    differences: Vec<f64>,
    harmed: u32,
    all_base: Tally,
    all_other: Tally,
}

/// Returns the difference of two figures over their mean, from −2 to 2: to the third order the logarithm of their ratio, and finite.
pub(super) fn difference(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if sum > 0.0 && sum.is_finite() {
        2.0 * (a - b) / sum
    } else {
        0.0
    }
}

/// Returns by how much `other` is better than `base`.
fn gain(base: &Tally, other: &Tally) -> f64 {
    let stays = match (other.stay(), base.stay()) {
        (Some(other), Some(base)) => difference(other, base),
        _ => 0.0,
    };
    difference(other.rate(), base.rate()) - STAY_WEIGHT * stays
}

impl Trial {
    pub(super) fn new(base: u32, other: u32) -> Self {
        Self {
            base,
            other,
            phase: 0,
            first: Tally::default(),
            differences: Vec::new(),
            harmed: 0,
            all_base: Tally::default(),
            all_other: Tally::default(),
        }
    }

    /// Returns the size of the next window.
    pub(super) fn size(&self) -> u32 {
        match self.phase {
            0 | 3 => self.base,
            _ => self.other,
        }
    }

    /// Takes in a window of the size that was asked for.
    pub(super) fn take(&mut self, window: &Tally) -> Verdict {
        if self.size() == self.base {
            self.all_base = self.all_base.sum(window);
        } else {
            self.all_other = self.all_other.sum(window);
        }
        let gained = match self.phase {
            1 => Some(gain(&self.first, window)),
            3 => Some(gain(window, &self.first)),
            _ => {
                self.first = *window;
                None
            }
        };
        self.phase = (self.phase + 1) % 4;
        let Some(gained) = gained else {
            return Verdict::Open;
        };
        self.differences.push(gained);
        self.harmed = if gained < -HARM { self.harmed + 1 } else { 0 };
        if self.harmed >= HARM_TIMES {
            return Verdict::NoBetter;
        }
        let Some(half_width) = self.half_width() else {
            return Verdict::Open;
        };
        let mean = self.mean();
        if mean - half_width > 0.0 {
            Verdict::Better
        } else if mean + half_width < 0.0 {
            Verdict::NoBetter
        } else if self.differences.len() >= LOOKS[LOOKS.len() - 1].0 {
            Verdict::Unclear
        } else {
            Verdict::Open
        }
    }

    fn mean(&self) -> f64 {
        self.differences.iter().sum::<f64>() / (self.differences.len() as f64).max(1.0)
    }

    /// Returns half the width of the interval, if this is a time to look.
    fn half_width(&self) -> Option<f64> {
        let n = self.differences.len();
        let (_, quantile) = LOOKS.iter().find(|(pairs, _)| *pairs == n)?;
        let mean = self.mean();
        let squares: f64 = self
            .differences
            .iter()
            .map(|d| (d - mean) * (d - mean))
            .sum();
        let n = n as f64;
        Some(quantile * square_root(squares / (n - 1.0) / n))
    }

    /// Says what is tried.
    pub(super) fn about(&self) -> String {
        let next = self.differences.len() + 1;
        format!(
            "{} workers are tried against {}, pair {next}",
            self.other, self.base
        )
    }

    /// Says how it came out.
    pub(super) fn in_words(&self, verdict: Verdict) -> String {
        let (other, base) = (self.other, self.base);
        let more = 100.0 * difference(self.all_other.rate(), self.all_base.rate());
        let pairs = self.differences.len();
        let but = match verdict {
            Verdict::Better => "which is better",
            Verdict::NoBetter => "which is no better",
            Verdict::Open | Verdict::Unclear => "which cannot be told from chance",
        };
        format!("{other} workers did {more:+.1}% against {base} in {pairs} pairs, {but}")
    }

    /// Returns the figures of [`Trial::in_words`].
    pub(super) fn evidence(&self) -> Vec<Evidence> {
        let mut evidence = alloc::vec![
            Evidence::new("throughput", self.all_base.rate(), "tasks/s"),
            Evidence::new("throughput_other", self.all_other.rate(), "tasks/s"),
            Evidence::new("gain", self.mean(), ""),
            Evidence::new("pairs", self.differences.len() as f64, ""),
        ];
        if let Some(half_width) = self.half_width() {
            evidence.push(Evidence::new("gain_uncertain_by", half_width, ""));
        }
        evidence
    }
}

#[cfg(test)]
mod tests {
    use flyball_core::rng::Rng;

    use super::super::super::PoolView;
    use super::*;

    fn window(rate: f64, size: u32) -> Tally {
        let mut tally = Tally::default();
        let view = PoolView {
            busy: f64::from(size),
            ran: rate,
            backlog: 1,
            ..PoolView::default()
        };
        tally.add(1.0, &view);
        tally
    }

    fn run(seed: u64, noise: f64, drift: f64, rate: impl Fn(u32) -> f64) -> Verdict {
        let mut rng = Rng::seeded(seed);
        let mut trial = Trial::new(10, 12);
        let mut level = 1.0;
        loop {
            let size = trial.size();
            let normal = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
            level *= 1.0 + drift;
            let verdict = trial.take(&window(rate(size) * level * (1.0 + noise * normal), size));
            if verdict != Verdict::Open {
                return verdict;
            }
        }
    }

    /// CPU-17: sizes that make no difference are adopted hardly ever, whatever the noise, and while the load drifts.
    #[test]
    fn no_effect_is_not_adopted() {
        for noise in [0.001, 0.03, 0.3] {
            for drift in [0.0, 0.01, -0.02] {
                // As many as would be no better: throughput grows by what the longer stay takes.
                let rate = |size: u32| if size == 10 { 100.0 } else { 101.667 };
                let adopted =
                    (0..200).filter(|seed| run(*seed, noise, drift, rate) == Verdict::Better);
                let adopted = adopted.count();
                assert!(
                    adopted <= 10,
                    "{adopted} of 200 at noise {noise}, drift {drift}"
                );
            }
        }
    }

    /// CPU-17: a real gain is found.
    #[test]
    fn gains_are_adopted() {
        let rate = |size: u32| f64::from(size);
        let adopted = (0..200).filter(|seed| run(*seed, 0.05, 0.001, rate) == Verdict::Better);
        assert!(adopted.count() >= 190);
        let worse = |size: u32| 1.0 / f64::from(size);
        let adopted = (0..200).filter(|seed| run(*seed, 0.05, 0.001, worse) == Verdict::Better);
        assert_eq!(adopted.count(), 0);
    }
}
