//! Calls of the last while, counted exactly in ten buckets of time.
//!
//! A call is counted when it begins, in the bucket of that time, and when it ends, in the bucket of that time. So what is still out is known by the
//! bucket in which it began.

use core::time::Duration;

use flyball_core::time::{Timestamp, nanos_of};

use super::Verdict;

const BUCKETS: usize = 10;

#[derive(Clone, Copy, Default, Debug)]
struct Bucket {
    /// Calls that began here and were let through.
    started: u64,
    /// Those of them that have ended, whenever.
    returned: u64,
    /// Calls that were refused here.
    refused: u64,
    /// Calls that ended here, and how.
    successes: u64,
    failures: u64,
    /// Given up when they were slow already.
    abandoned: u64,
    slow: u64,
}

/// What a window holds.
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
    pub(super) in_flight: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Window {
    bucket_ns: u64,
    buckets: [Bucket; BUCKETS],
    /// The number of the bucket that is filled now, counted from the epoch of the clock.
    current: u64,
    /// Sums over the buckets.
    sum: Bucket,
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            bucket_ns: (nanos_of(length) / BUCKETS as u64).max(1),
            buckets: [Bucket::default(); BUCKETS],
            current: 0,
            sum: Bucket::default(),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS];
        self.sum = Bucket::default();
    }

    /// Forgets what is too old. A time before the last one counts as that.
    pub(super) fn move_to(&mut self, now: Timestamp) {
        let to = (now.as_nanos() / self.bucket_ns).max(self.current);
        if to - self.current >= BUCKETS as u64 {
            self.clear();
        } else {
            for number in self.current + 1..=to {
                let old = core::mem::take(&mut self.buckets[(number % BUCKETS as u64) as usize]);
                self.sum.started -= old.started;
                self.sum.returned -= old.returned;
                self.sum.refused -= old.refused;
                self.sum.successes -= old.successes;
                self.sum.failures -= old.failures;
                self.sum.abandoned -= old.abandoned;
                self.sum.slow -= old.slow;
            }
        }
        self.current = to;
    }

    fn now(&mut self) -> &mut Bucket {
        &mut self.buckets[(self.current % BUCKETS as u64) as usize]
    }

    pub(super) fn started(&mut self) {
        self.now().started += 1;
        self.sum.started += 1;
    }

    pub(super) fn refused(&mut self) {
        self.now().refused += 1;
        self.sum.refused += 1;
    }

    pub(super) fn ended(&mut self, started: Timestamp, verdict: Verdict, slow: bool) {
        let begun = (started.as_nanos() / self.bucket_ns).min(self.current);
        if self.current - begun < BUCKETS as u64 {
            let bucket = &mut self.buckets[(begun % BUCKETS as u64) as usize];
            // A ticket can be handed back twice only by mistake; the sums must stay sums all the same.
            if bucket.returned < bucket.started {
                bucket.returned += 1;
                self.sum.returned += 1;
            }
        }
        let now = &mut self.buckets[(self.current % BUCKETS as u64) as usize];
        match verdict {
            Verdict::Success => {
                now.successes += 1;
                self.sum.successes += 1;
            }
            Verdict::Failure => {
                now.failures += 1;
                self.sum.failures += 1;
            }
            Verdict::Unknown if slow => {
                now.abandoned += 1;
                self.sum.abandoned += 1;
            }
            Verdict::Unknown => {}
        }
        if slow {
            now.slow += 1;
            self.sum.slow += 1;
        }
    }

    /// Requests made, refused ones included, and those accepted: all that a throttle asks.
    pub(super) fn requests(&self) -> (u64, u64) {
        (self.sum.started + self.sum.refused, self.sum.successes)
    }

    /// What counts now. A call that is out for `slow_call` counts as slow.
    pub(super) fn counts(&self, now: Timestamp, slow_call: Option<Duration>) -> Counts {
        let in_flight = self.sum.started - self.sum.returned;
        let mut overdue = 0;
        if let (Some(slow_call), true) = (slow_call, in_flight > 0) {
            let oldest = self.current.saturating_sub(BUCKETS as u64 - 1);
            for number in oldest..=self.current {
                // The last instant of the bucket, so that no call of it is younger.
                let end = Timestamp::from_nanos((number + 1).saturating_mul(self.bucket_ns));
                if end.saturating_add(slow_call) > now {
                    break;
                }
                let bucket = &self.buckets[(number % BUCKETS as u64) as usize];
                overdue += bucket.started - bucket.returned;
            }
        }
        Counts {
            calls: self.sum.successes + self.sum.failures + self.sum.abandoned + overdue,
            failures: self.sum.failures,
            slow: self.sum.slow + overdue,
            in_flight,
        }
    }
}
