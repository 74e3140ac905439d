//! What commands of one kind have needed at most, as a reservation for the next.
//!
//! The reservation is the 98th percentile of the peaks seen, where each peak counts 1 % less with every later one, and 15 % more
//! of that (Google's Autopilot reserves memory this way: a decayed histogram, a high percentile, a margin). A percentile forgets
//! a single outlier of long ago, and the decay follows inputs that grow.
//!
//! Peaks are kept in buckets, eight to a doubling, so that the whole history is a few dozen numbers and a reservation is at most
//! an eighth too high from that.

use alloc::collections::BTreeMap;

/// Peaks that must have been seen before they are a base for reservations. With fewer, one command that happens to be small would
/// let many large ones start.
pub const SAMPLES_NEEDED: u64 = 8;

/// What is left of the weight of a peak after the next one: half is left after about 70.
const KEPT: f64 = 0.99;

/// The part of the peaks, by weight, that a reservation covers.
const COVERED: f64 = 0.98;

/// Weights below this are forgotten: some 900 later peaks have come.
const FORGOTTEN: f64 = 1e-4;

/// No program takes less: an executable, its stack and page tables.
const RESERVE_MIN: u64 = 1 << 20;

/// The lowest bucket: what needs less than 64 KiB is counted there.
const LOWEST: u32 = 16;

/// Buckets in all: eight for each doubling from 2^16 to 2^64.
const BUCKETS: u16 = (64 - LOWEST as u16) * 8;

/// Peaks of commands of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peaks {
    /// Weight by bucket.
    weights: BTreeMap<u16, f64>,
    seen: u64,
}

impl Peaks {
    /// None seen so far.
    #[must_use]
    pub fn new() -> Peaks {
        Peaks::default()
    }

    /// Takes in the peak of a command that has ended, in bytes.
    pub fn add(&mut self, bytes: u64) {
        self.weights.retain(|_, weight| {
            *weight *= KEPT;
            *weight >= FORGOTTEN
        });
        *self.weights.entry(bucket_of(bytes)).or_insert(0.0) += 1.0;
        self.seen = self.seen.saturating_add(1);
    }

    /// How many have been seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Bytes to reserve for the next command; `None` before [`SAMPLES_NEEDED`] have been seen.
    #[must_use]
    pub fn reserve(&self) -> Option<u64> {
        if self.seen < SAMPLES_NEEDED {
            return None;
        }
        let all: f64 = self.weights.values().sum();
        let mut below = 0.0;
        let covering = self.weights.iter().find(|(_, weight)| {
            below += **weight;
            below >= all * COVERED
        });
        let bucket = covering.or_else(|| self.weights.iter().next_back())?.0;
        let edge = upper_edge(*bucket);
        Some((edge.saturating_add(edge / 100 * 15)).max(RESERVE_MIN))
    }

    /// Buckets and their weights, lowest first, to be kept for later.
    pub fn buckets(&self) -> impl Iterator<Item = (u16, f64)> + '_ {
        self.weights
            .iter()
            .map(|(bucket, weight)| (*bucket, *weight))
    }

    /// What [`buckets`](Peaks::buckets) and [`seen`](Peaks::seen) told. `None` for what they never tell: a bucket out of range or named
    /// twice, a weight that is not above zero and at most 100, none seen with a weight or the other way round.
    #[must_use]
    pub fn from_buckets(seen: u64, buckets: impl IntoIterator<Item = (u16, f64)>) -> Option<Peaks> {
        /// The sum of a geometric series with factor `KEPT`.
        const HEAVIEST: f64 = 100.0;
        let mut weights = BTreeMap::new();
        for (bucket, weight) in buckets {
            let fine = bucket < BUCKETS && weight > 0.0 && weight <= HEAVIEST;
            if !fine || weights.insert(bucket, weight).is_some() {
                return None;
            }
        }
        (weights.is_empty() == (seen == 0)).then_some(Peaks { weights, seen })
    }
}

fn bucket_of(bytes: u64) -> u16 {
    let bytes = bytes.max(1 << LOWEST);
    let doubling = bytes.ilog2();
    let eighth = (bytes >> (doubling - 3)) & 7;
    ((doubling - LOWEST) * 8) as u16 + eighth as u16
}

/// The most that a bucket holds.
fn upper_edge(bucket: u16) -> u64 {
    let (doubling, eighth) = (u32::from(bucket) / 8 + LOWEST, u64::from(bucket) % 8);
    ((u128::from(9 + eighth) << doubling) / 8 - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// TASK-12: nothing is learned from a few commands.
    #[test]
    fn a_few_commands_teach_nothing() {
        let mut peaks = Peaks::new();
        for _ in 1..SAMPLES_NEEDED {
            peaks.add(100 << 20);
            assert_eq!(peaks.reserve(), None);
        }
        peaks.add(100 << 20);
        let reserve = peaks.reserve().unwrap();
        assert!(((115 << 20)..(130 << 20)).contains(&reserve), "{reserve}");
    }

    /// TASK-12: one outlier in a hundred does not count for ever, and growth is followed.
    #[test]
    fn outliers_fade_and_growth_is_followed() {
        let mut peaks = Peaks::new();
        peaks.add(8 << 30);
        for _ in 0..20 {
            peaks.add(50 << 20);
        }
        assert!(peaks.reserve().unwrap() > 8 << 30, "one of twenty is much");
        for _ in 0..200 {
            peaks.add(50 << 20);
        }
        assert!(peaks.reserve().unwrap() < 70 << 20);
        for _ in 0..10 {
            peaks.add(200 << 20);
        }
        assert!(peaks.reserve().unwrap() > 200 << 20);
    }

    proptest! {
        /// The reservation covers the newest of equal peaks and is at most 1.15 × 9/8 of it.
        #[test]
        fn equal_peaks_are_covered_closely(bytes in 1_u64..u64::MAX / 2) {
            let mut peaks = Peaks::new();
            (0..20).for_each(|_| peaks.add(bytes));
            let reserve = peaks.reserve().unwrap();
            prop_assert!(reserve >= bytes);
            prop_assert!(reserve <= RESERVE_MIN.max((bytes.max(1 << LOWEST) as f64 * 1.15 * 1.125) as u64 + 2));
        }

        /// What is written is read back, and garbage is refused.
        #[test]
        fn buckets_go_and_come_back(all in prop::collection::vec(any::<u64>(), 0..300), bucket in any::<u16>(), weight in any::<f64>()) {
            let mut peaks = Peaks::new();
            all.iter().for_each(|bytes| peaks.add(*bytes));
            let back = Peaks::from_buckets(peaks.seen(), peaks.buckets());
            prop_assert_eq!(back.as_ref(), Some(&peaks));
            if let Some(odd) = Peaks::from_buckets(9, [(bucket, weight)]) {
                prop_assert!(odd.reserve().is_some());
            }
        }
    }
}
