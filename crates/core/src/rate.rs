//! How much happens a second: events, tasks, bytes, nanoseconds of CPU.
//!
//! Two views of a stream of amounts, both told the time. [`Rate`] forgets smoothly: the amount of the past, each part
//! weighted by its age, over the length of that memory. [`Window`] counts exactly over the last 16 buckets of a fixed
//! span. Both answer `None` while they have seen too little time to say.

use core::time::Duration;

use crate::ewma::half_power;
use crate::time::{Timestamp, nanos_of};

/// A rate that forgets half of the past every half-life.
#[derive(Clone, Debug)]
pub struct Rate {
    half_life_ns: u64,
    /// Decayed amount, and the decayed time over which it came, in nanoseconds.
    amount: f64,
    time_ns: f64,
    last: Option<Timestamp>,
}

impl Rate {
    /// Makes a rate that forgets half of the past in `half_life` (at least 1 ns).
    pub fn new(half_life: Duration) -> Self {
        Self {
            half_life_ns: nanos_of(half_life).max(1),
            amount: 0.0,
            time_ns: 0.0,
            last: None,
        }
    }

    /// Counts an amount. The first call starts the time.
    pub fn add(&mut self, now: Timestamp, amount: f64) {
        self.advance(now);
        self.amount += amount;
    }

    /// Returns the amount a second as of `now`; `None` until some time has passed.
    pub fn per_second(&mut self, now: Timestamp) -> Option<f64> {
        self.last?;
        self.advance(now);
        (self.time_ns > 0.0).then(|| self.amount / self.time_ns * 1e9)
    }

    fn advance(&mut self, now: Timestamp) {
        let elapsed = match self.last {
            None => 0,
            Some(last) => now.saturating_nanos_since(last),
        };
        self.last = Some(self.last.map_or(now, |last| last.max(now)));
        if elapsed > 0 {
            let kept = half_power(elapsed, self.half_life_ns);
            // The memory of the elapsed stretch: the integral of 2^(−t/h) over it.
            let stretch = self.half_life_ns as f64 / core::f64::consts::LN_2 * (1.0 - kept);
            self.amount *= kept;
            self.time_ns = self.time_ns * kept + stretch;
        }
    }
}

/// Buckets of a [`Window`].
const BUCKETS: u64 = 16;

/// An exact sum over the recent past, in steps of a sixteenth of its span.
#[derive(Clone, Debug)]
pub struct Window {
    bucket_ns: u64,
    sums: [u64; BUCKETS as usize],
    /// The number of the newest bucket: time divided by the length of a bucket.
    newest: u64,
    start: Option<Timestamp>,
}

impl Window {
    /// Makes a window over the last `span` (at least 16 ns).
    pub fn new(span: Duration) -> Self {
        Self {
            bucket_ns: (nanos_of(span) / BUCKETS).max(1),
            sums: [0; BUCKETS as usize],
            newest: 0,
            start: None,
        }
    }

    /// Counts an amount; sums saturate. A time before the newest bucket counts as that bucket.
    pub fn add(&mut self, now: Timestamp, amount: u64) {
        self.advance(now);
        let sum = &mut self.sums[(self.newest % BUCKETS) as usize];
        *sum = sum.saturating_add(amount);
    }

    /// Returns the sum over the window as of `now`.
    pub fn sum(&mut self, now: Timestamp) -> u64 {
        self.advance(now);
        self.sums
            .iter()
            .fold(0u64, |sum, part| sum.saturating_add(*part))
    }

    /// Returns the amount a second over the window, or over the time since the first call if that is shorter; `None`
    /// until some time has passed.
    pub fn per_second(&mut self, now: Timestamp) -> Option<f64> {
        let start = self.start?;
        let sum = self.sum(now);
        let in_newest = now.as_nanos() % self.bucket_ns;
        let covered =
            ((BUCKETS - 1) * self.bucket_ns + in_newest).min(now.saturating_nanos_since(start));
        (covered > 0).then(|| sum as f64 / covered as f64 * 1e9)
    }

    fn advance(&mut self, now: Timestamp) {
        let bucket = now.as_nanos() / self.bucket_ns;
        if self.start.is_none() {
            self.start = Some(now);
            self.newest = bucket;
        }
        if bucket >= self.newest.saturating_add(BUCKETS) {
            self.sums = [0; BUCKETS as usize];
            self.newest = bucket;
        }
        while self.newest < bucket {
            self.newest += 1;
            self.sums[(self.newest % BUCKETS) as usize] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn at(ns: u64) -> Timestamp {
        Timestamp::from_nanos(ns)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A steady stream is measured exactly, however it is cut into calls and whatever the half-life.
        #[test]
        fn a_steady_stream_has_its_rate(step_us in 1u64..10_000, steps in 50u64..300, half_life_ms in 1u64..1_000) {
            let mut rate = Rate::new(Duration::from_millis(half_life_ms));
            rate.add(at(0), 0.0);
            for i in 1..=steps {
                // Half before and half after the middle of the step makes the stream even at any scale.
                rate.add(at((i * 2 - 1) * step_us * 500), step_us as f64);
            }
            let seen = rate.per_second(at(steps * step_us * 1_000)).unwrap();
            // One step against the memory is the unevenness that is left.
            let memory_us = (half_life_ms as f64 * 1_443.0).min((steps * step_us) as f64);
            let slack = step_us as f64 / memory_us;
            prop_assert!((seen / 1e6 - 1.0).abs() <= slack + 1e-6, "{seen} {slack}");
        }

        /// The window against a list of all amounts.
        #[test]
        fn a_window_sums_its_buckets(events in proptest::collection::vec((0u64..3_000, 0u64..100), 1..100)) {
            let mut window = Window::new(Duration::from_nanos(1_600));
            let mut list: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (gap, amount) in events {
                now += gap;
                window.add(at(now), amount);
                list.push((now / 100, amount));
                let expected: u64 = list.iter().filter(|(bucket, _)| bucket + 16 > now / 100).map(|(_, a)| a).sum();
                prop_assert_eq!(window.sum(at(now)), expected);
            }
        }
    }

    #[test]
    fn unknown_until_time_has_passed() {
        let mut rate = Rate::new(Duration::from_secs(1));
        assert_eq!(rate.per_second(at(5)), None);
        rate.add(at(5), 10.0);
        assert_eq!(rate.per_second(at(5)), None);
        assert!(rate.per_second(at(6)).is_some());
        let mut window = Window::new(Duration::from_secs(1));
        assert_eq!(window.per_second(at(5)), None);
        window.add(at(5), 10);
        assert_eq!(window.per_second(at(5)), None);
        assert_eq!(window.per_second(at(500_000_005)), Some(20.0));
        assert_eq!(window.sum(at(u64::MAX)), 0);
    }
}
