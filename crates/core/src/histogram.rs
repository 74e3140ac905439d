//! Histograms of durations and sizes in bounded memory.
//!
//! Buckets are log-linear: values below 32 are exact, above that each power of two is cut into 16 equal parts, so that a
//! quantile is wrong by at most one part in 16 (6.25 %) over the whole range of a `u64` with 976 buckets (7.6 KiB).
//! Quantiles answer the upper end of a bucket, limited to the largest value seen: never below the truth, at most 6.25 %
//! above it.
//!
//! [`Histogram`] is plain data; [`AtomicHistogram`] is written by one thread and read by any, with relaxed loads and
//! stores only, as a locked instruction (20 cycles) would cost more than the record itself. Counts saturate.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// Sub-buckets of an octave, as a power of two.
const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// Buckets: 16 for the values below 16, then 16 for each of the 60 octaves from 2^4 on.
const BUCKETS: usize = SUB + (64 - SUB_BITS as usize) * SUB;

/// Returns the bucket of a value.
#[inline]
const fn bucket_of(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let octave = 63 - value.leading_zeros();
    let sub = (value >> (octave - SUB_BITS)) as usize & (SUB - 1);
    (octave - SUB_BITS + 1) as usize * SUB + sub
}

/// Returns the largest value of a bucket.
const fn upper_end(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let shift = (bucket / SUB - 1) as u32;
    let low = ((SUB + bucket % SUB) as u64) << shift;
    low + ((1u64 << shift) - 1)
}

/// A histogram of `u64` values.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// Makes an empty histogram.
    pub fn new() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    /// Counts a value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts a value `times` times.
    #[inline]
    pub fn record_many(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        let bucket = &mut self.counts[bucket_of(value)];
        *bucket = bucket.saturating_add(times);
        self.count = self.count.saturating_add(times);
        self.sum = self
            .sum
            .saturating_add(u128::from(value) * u128::from(times));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds the values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Returns how many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the smallest value, exactly; `None` if there is none.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min)
    }

    /// Returns the largest value, exactly; `None` if there is none.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// Returns the sum of all values.
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// Returns the mean; `None` if there is no value.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Returns the value that a part `q` (0 to 1, limited to that) of the values does not exceed, at most 6.25 % too
    /// high and never too low; `None` if there is no value.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let exact = q.clamp(0.0, 1.0) * self.count as f64;
        // Rounded up by hand, as `core` has no `ceil`; a NaN counts as zero.
        let mut rank = exact as u64;
        if (rank as f64) < exact {
            rank += 1;
        }
        let rank = rank.clamp(1, self.count);
        let mut seen = 0u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                return Some(upper_end(bucket).clamp(self.min, self.max));
            }
        }
        Some(self.max)
    }
}

/// A histogram that one thread writes and any thread reads.
///
/// A second writer at the same time would not be unsafe, only lose counts.
#[derive(Debug)]
pub struct AtomicHistogram {
    counts: Box<[AtomicU64; BUCKETS]>,
    /// Wraps after 584 years of nanoseconds.
    sum: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
}

impl Default for AtomicHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl AtomicHistogram {
    /// Makes an empty histogram.
    pub fn new() -> Self {
        Self {
            counts: Box::new([const { AtomicU64::new(0) }; BUCKETS]),
            sum: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
        }
    }

    /// Counts a value. Call it from one thread only.
    #[inline]
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts a value `times` times. Call it from one thread only.
    #[inline]
    pub fn record_many(&self, value: u64, times: u64) {
        add(&self.counts[bucket_of(value)], times);
        add(&self.sum, value.saturating_mul(times));
        if value < self.min.load(Ordering::Relaxed) {
            self.min.store(value, Ordering::Relaxed);
        }
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
    }

    /// Forgets all values. Call it from the thread that records.
    pub fn clear(&self) {
        for count in self.counts.iter() {
            count.store(0, Ordering::Relaxed);
        }
        self.sum.store(0, Ordering::Relaxed);
        self.min.store(u64::MAX, Ordering::Relaxed);
        self.max.store(0, Ordering::Relaxed);
    }

    /// Returns the values so far. While the writer writes, the figures may differ by the values being written.
    pub fn snapshot(&self) -> Histogram {
        let mut snapshot = Histogram::new();
        for (copy, count) in snapshot.counts.iter_mut().zip(self.counts.iter()) {
            *copy = count.load(Ordering::Relaxed);
            snapshot.count = snapshot.count.saturating_add(*copy);
        }
        if snapshot.count > 0 {
            snapshot.sum = u128::from(self.sum.load(Ordering::Relaxed));
            let (min, max) = (
                self.min.load(Ordering::Relaxed),
                self.max.load(Ordering::Relaxed),
            );
            // A reader may meet the count before the bounds; then the bounds are not bounds yet.
            snapshot.min = min.min(max);
            snapshot.max = max;
        }
        snapshot
    }
}

#[inline]
fn add(cell: &AtomicU64, by: u64) {
    cell.store(
        cell.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Values spread over all magnitudes.
    fn value() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0u32..64).prop_map(|(bits, shift)| bits >> shift)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Quantiles against a sorted list: never below the truth, at most one part in 16 above.
        #[test]
        fn quantiles_are_close_to_the_sorted_list(values in proptest::collection::vec(value(), 1..200), q in 0.0f64..=1.0) {
            let mut histogram = Histogram::new();
            let atomic = AtomicHistogram::new();
            for v in &values {
                histogram.record(*v);
                atomic.record(*v);
            }
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let truth = sorted[rank - 1];
            for h in [histogram.clone(), atomic.snapshot()] {
                let answer = h.quantile(q).unwrap();
                prop_assert!(answer >= truth);
                prop_assert!(answer - truth <= truth / 16);
                prop_assert_eq!(h.min(), sorted.first().copied());
                prop_assert_eq!(h.max(), sorted.last().copied());
                prop_assert_eq!(h.count(), sorted.len() as u64);
            }
            prop_assert_eq!(histogram.sum(), values.iter().map(|v| u128::from(*v)).sum::<u128>());
        }

        /// Merging is the same as recording everything in one place.
        #[test]
        fn merging_is_recording_together(left in proptest::collection::vec(value(), 0..50), right in proptest::collection::vec(value(), 0..50)) {
            let of = |values: &[u64]| {
                let mut h = Histogram::new();
                values.iter().for_each(|v| h.record(*v));
                h
            };
            let mut merged = of(&left);
            merged.merge(&of(&right));
            let together = of(&[left, right].concat());
            prop_assert_eq!(&merged.counts[..], &together.counts[..]);
            prop_assert_eq!((merged.count(), merged.sum(), merged.min(), merged.max()),
                            (together.count(), together.sum(), together.min(), together.max()));
        }
    }

    #[test]
    fn buckets_tile_the_whole_range() {
        let mut next = 0u64;
        for bucket in 0..BUCKETS {
            let end = upper_end(bucket);
            assert_eq!((bucket_of(next), bucket_of(end)), (bucket, bucket));
            next = end.wrapping_add(1);
        }
        assert_eq!(next, 0, "the last bucket ends at the largest value");
    }

    #[test]
    fn an_empty_histogram_knows_nothing() {
        for h in [Histogram::new(), AtomicHistogram::new().snapshot()] {
            assert_eq!(
                (h.count(), h.min(), h.max(), h.mean(), h.quantile(0.5)),
                (0, None, None, None, None)
            );
        }
        let mut h = Histogram::new();
        h.record_many(9, 0);
        assert_eq!(h.count(), 0);
        h.record_many(9, u64::MAX);
        h.record(9);
        assert_eq!(h.count(), u64::MAX);
        let quantiles: Vec<_> = [f64::NAN, -1.0, 2.0]
            .iter()
            .map(|q| h.quantile(*q))
            .collect();
        assert_eq!(quantiles, [Some(9); 3]);
        h.clear();
        assert_eq!(h.count(), 0);
    }
}
