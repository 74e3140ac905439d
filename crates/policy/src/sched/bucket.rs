//! A bucket of CPU time that fills with the wall clock: a ceiling of a class, the entitlement of the front group.
//!
//! Levels are in 1/1024 ns, so that the rounding of a refill (below one unit) stays under one part in a million even
//! when a bucket is refilled a million times a second. A level may go negative without bound on the amount (work that
//! overran is owed), only limited so that no sum can overflow.

use flyball_core::time::Timestamp;

/// Fractional bits of a level.
const FRACTION: u32 = 10;
/// Fractional bits of a rate.
const RATE_FRACTION: u32 = 20;
/// The deepest debt: 12 days of CPU time.
const FLOOR: i64 = -(1 << 60);
/// Time beyond which a refill counts no more than this: any bucket is full by then, or its debt is limited to days.
const MAX_STEP_NS: u64 = 1 << 40;

#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    level: i64,
    /// CPU nanoseconds a wall nanosecond, in 2^-20.
    rate: u64,
    /// How long a full bucket takes to fill at its rate.
    depth_ns: u64,
    refilled: Timestamp,
}

impl Bucket {
    /// Makes a full bucket. `rate` is in CPU nanoseconds a wall nanosecond.
    pub(crate) fn full(now: Timestamp, rate: f64, depth_ns: u64) -> Self {
        let mut bucket = Self {
            level: 0,
            rate: fixed_rate(rate),
            depth_ns,
            refilled: now,
        };
        bucket.level = bucket.capacity();
        bucket
    }

    fn capacity(&self) -> i64 {
        let units =
            (u128::from(self.depth_ns) * u128::from(self.rate)) >> (RATE_FRACTION - FRACTION);
        units.min(1 << 60) as i64
    }

    /// Counts the time until `now`.
    #[inline]
    pub(crate) fn refill(&mut self, now: Timestamp) {
        self.refill_beside(now, 0);
    }

    /// Counts the time until `now` while `pending_ns` are on their way. What is on its way has left the bucket already, so
    /// it makes room: else a bucket that is less deep than a task is long would overflow while the task runs and the
    /// entitlement of that time would be lost.
    #[inline]
    pub(crate) fn refill_beside(&mut self, now: Timestamp, pending_ns: u64) {
        let elapsed = now.saturating_nanos_since(self.refilled);
        if elapsed > 0 {
            self.refilled = now;
            let elapsed = u128::from(elapsed.min(MAX_STEP_NS));
            let gain = (elapsed * u128::from(self.rate)) >> (RATE_FRACTION - FRACTION);
            self.level = self
                .level
                .saturating_add(gain.min(1 << 61) as i64)
                .min(self.capacity().saturating_add_unsigned(units(pending_ns)));
        }
    }

    /// Changes rate and depth from `now` on; what is above the new depth is lost.
    #[inline]
    pub(crate) fn reshape(&mut self, now: Timestamp, rate: u64, depth_ns: u64) {
        self.reshape_beside(now, rate, depth_ns, 0);
    }

    /// The same while `pending_ns` are on their way: see [`refill_beside`](Self::refill_beside).
    #[inline]
    pub(crate) fn reshape_beside(
        &mut self,
        now: Timestamp,
        rate: u64,
        depth_ns: u64,
        pending_ns: u64,
    ) {
        self.refill_beside(now, pending_ns);
        if rate != self.rate || depth_ns != self.depth_ns {
            self.rate = rate;
            self.depth_ns = depth_ns;
            let most = self.capacity().saturating_add_unsigned(units(pending_ns));
            self.level = self.level.min(most);
        }
    }

    /// Takes CPU time that was used.
    #[inline]
    pub(crate) fn take(&mut self, used_ns: u64) {
        self.level = self
            .level
            .saturating_sub_unsigned(units(used_ns))
            .max(FLOOR);
    }

    /// Gives CPU time that is going to be taken and is not to count, beyond the depth.
    pub(crate) fn give(&mut self, free_ns: u64) {
        self.level = self
            .level
            .saturating_add_unsigned(units(free_ns))
            .min(1 << 61);
    }

    /// Returns what is left in nanoseconds when `pending_ns` more are on their way; negative if owed.
    #[inline]
    pub(crate) fn left_ns(&self, pending_ns: u64) -> i64 {
        self.level.saturating_sub_unsigned(units(pending_ns)) >> FRACTION
    }

    /// Returns how long it takes until `want_ns` nanoseconds are left, with `pending_ns` on their way.
    pub(crate) fn nanos_until(&self, want_ns: u64, pending_ns: u64) -> u64 {
        let lacking =
            i128::from(units(want_ns)) + i128::from(units(pending_ns)) - i128::from(self.level);
        if lacking <= 0 {
            return 0;
        }
        let scaled = (lacking as u128) << (RATE_FRACTION - FRACTION);
        u64::try_from(scaled.div_ceil(u128::from(self.rate.max(1)))).unwrap_or(u64::MAX)
    }
}

#[inline]
fn units(nanos: u64) -> u64 {
    nanos.min(1 << 50) << FRACTION
}

/// Returns a rate in 2^-20 CPU nanoseconds a wall nanosecond, at least one unit.
pub(crate) fn fixed_rate(rate: f64) -> u64 {
    ((rate * (1u64 << RATE_FRACTION) as f64) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ns: u64) -> Timestamp {
        Timestamp::from_nanos(ns)
    }

    #[test]
    fn fills_at_its_rate_up_to_its_depth() {
        let mut bucket = Bucket::full(at(0), 0.5, 100 * MS);
        assert_eq!(bucket.left_ns(0), 50 * MS as i64);
        bucket.take(60 * MS);
        assert_eq!(bucket.left_ns(5 * MS), -15 * MS as i64);
        assert_eq!(bucket.nanos_until(0, 0), 20 * MS);
        assert_eq!(bucket.nanos_until(MS, MS), 24 * MS);
        bucket.refill(at(20 * MS));
        assert_eq!((bucket.left_ns(0), bucket.nanos_until(0, 0)), (0, 0));
        bucket.refill(at(10_000 * MS));
        assert_eq!(bucket.left_ns(0), 50 * MS as i64);
    }

    #[test]
    fn small_refills_lose_nothing_that_matters() {
        let mut bucket = Bucket::full(at(0), 0.3, 1_000 * MS);
        bucket.take(300 * MS);
        for step in 1..=1_000_000 {
            bucket.refill(at(step * 100));
        }
        let lost = 30 * MS as i64 - bucket.left_ns(0);
        assert!((0..3_000).contains(&lost), "{lost}");
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut bucket = Bucket::full(at(0), 1e-9, u64::MAX);
        bucket.take(u64::MAX);
        bucket.take(u64::MAX);
        assert_eq!(bucket.nanos_until(u64::MAX, u64::MAX), u64::MAX);
        bucket.refill(Timestamp::MAX);
        let mut fast = Bucket::full(at(0), 65_536.0, u64::MAX);
        fast.refill(Timestamp::MAX);
        assert!(fast.left_ns(u64::MAX) <= fast.left_ns(0));
    }
}
