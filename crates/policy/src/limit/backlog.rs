//! How many may wait in a queue that others empty, so that nobody's turn comes too late.
//!
//! For queues whose order and speed are another's, such as that of a scheduling class: how fast it empties depends on what else runs. What waits behind L
//! others where R a second leave waits for L/R (Little, "A Proof for the Queuing Formula: L = λW", 1961). So as many may wait as leave within the time that
//! one may wait, and more are refused: at once and with an answer, rather than later and in vain. Unlike an age at which the head of the queue is dropped
//! (CoDel, RFC 8289), this needs no overload that lasts first, and refuses who can still turn elsewhere.
//!
//! The speed is that of times in which the queue was never empty; while it is empty now and then there is no overload, and its speed says nothing of what it
//! could be. It is measured over 16 departures, or over the time that one may wait (1 s at most), whichever takes longer, and averaged over four of these.
//!
//! Invariants: the bound is at least the least that was asked for, and unlimited until a speed is known; no arithmetic leaves the finite; memory is constant.

use core::time::Duration;

use flyball_core::time::{Timestamp, nanos_of};

use super::admission::{Degradation, Levels};
use crate::Error;

/// Departures over which the speed is measured at least.
const LEFT_MIN: u64 = 16;
/// It is measured at most over so long, however few leave.
const MEASURE_MAX_NANOS: u64 = 1_000_000_000;
/// Weight of a new measurement.
const WEIGHT: f64 = 0.25;
/// Looks that are further apart have seen nothing of what was between them.
const GAP_NANOS: u64 = 1_000_000_000;
/// The longest hint.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// What was seen of a queue since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BacklogLook {
    /// Who came, those that were refused included.
    pub arrived: u64,
    /// Those of them that were refused because of the bound.
    pub refused: u64,
    /// Who left the queue because it was their turn.
    pub left: u64,
    /// Who waits now.
    pub waiting: u64,
}

/// Bounds a queue by the time that one waits in it. As many may wait as leave within the target.
#[derive(Clone, Debug)]
pub struct Backlog {
    target: Duration,
    looked: Timestamp,
    /// The queue was not empty at the last look.
    busy: bool,
    /// Of the measurement that goes on: departures, and the time without an empty queue, ns.
    left: u64,
    nanos: u64,
    /// Departures a second.
    rate: Option<f64>,
    /// Who would wait if the bound were kept, for who only observes.
    imagined: f64,
    levels: Levels,
}

impl Backlog {
    /// The least and the greatest target.
    pub const TARGET: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3_600));

    /// Makes one of a queue of which nothing is known, in which one may wait for `target`.
    ///
    /// # Errors
    /// [`Error::Limit`] unless the target is 1 ms to 1 h.
    pub fn new(now: Timestamp, target: Duration) -> Result<Self, Error> {
        Self::check(target)?;
        Ok(Self {
            target,
            looked: now,
            busy: false,
            left: 0,
            nanos: 0,
            rate: None,
            imagined: 0.0,
            levels: Levels::new(now),
        })
    }

    /// Says whether one may be made with this target.
    ///
    /// # Errors
    /// [`Error::Limit`] unless it is 1 ms to 1 h.
    pub fn check(target: Duration) -> Result<(), Error> {
        let (least, most) = Self::TARGET;
        if (least..=most).contains(&target) {
            return Ok(());
        }
        Err(Error::Limit {
            of: "backlog",
            field: "target",
            expected: "1 ms to 1 h",
        })
    }

    /// How long one may wait.
    #[must_use]
    pub fn target(&self) -> Duration {
        self.target
    }

    /// Changes how long one may wait; what is known of the queue stays.
    ///
    /// # Errors
    /// As [`check`](Self::check); nothing has changed then.
    pub fn set_target(&mut self, target: Duration) -> Result<(), Error> {
        Self::check(target)?;
        self.target = target;
        Ok(())
    }

    /// Departures a second while somebody waited, if that is known.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// How many may wait, at least `least`; `None` until the speed of the queue is known.
    #[must_use]
    pub fn limit(&self, least: u64) -> Option<u64> {
        let within = self.rate? * self.target.as_secs_f64();
        Some((within as u64).max(least))
    }

    /// What a service should do without.
    #[must_use]
    pub fn level(&self) -> Degradation {
        self.levels.level()
    }

    /// A look at the queue, to be taken some ten times within the target or more, while there is work.
    pub fn look(&mut self, now: Timestamp, seen: &BacklogLook) {
        let passed = self.pass(now);
        self.measure(passed, seen);
        self.levels.answered(seen.arrived, seen.refused);
        self.levels.tick(now);
    }

    /// The same where nobody is refused: answers how many would have been.
    pub fn observe(&mut self, now: Timestamp, seen: &BacklogLook, least: u64) -> u64 {
        let passed = self.pass(now);
        self.measure(passed, seen);
        let would = self.imagine(seen, least);
        self.levels.answered(seen.arrived, would);
        self.levels.tick(now);
        would
    }

    /// The queue stood still for a reason of its own, such as a pause: what was being measured is dropped.
    pub fn skip(&mut self, now: Timestamp) {
        self.looked = now;
        (self.busy, self.left, self.nanos) = (false, 0, 0);
        self.levels.tick(now);
    }

    /// When who is refused should come back: when those who came before have had their turns, longer the more are refused. `spread`, any number, tells those
    /// refused apart, so that they do not come back together.
    #[must_use]
    pub fn retry_after(&self, spread: u64) -> Duration {
        let served = (1.0 - self.levels.pressure()).max(0.01);
        let nanos = nanos_of(self.target) as f64 / served;
        // The golden ratio's fraction spreads consecutive numbers evenly (Knuth, The Art of Computer Programming 3, 6.4).
        let part = (spread.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1u64 << 24) as f64;
        let nanos = nanos.clamp(0.0, nanos_of(RETRY_AFTER_MAX) as f64) * (1.0 + part);
        Duration::from_nanos(nanos as u64)
    }

    fn pass(&mut self, now: Timestamp) -> u64 {
        let passed = now.saturating_nanos_since(self.looked);
        self.looked = self.looked.max(now);
        passed
    }

    fn measure(&mut self, passed: u64, seen: &BacklogLook) {
        let busy = seen.waiting > 0;
        let was_busy = core::mem::replace(&mut self.busy, busy);
        if !(busy && was_busy) || passed > GAP_NANOS {
            (self.left, self.nanos) = (0, 0);
            return;
        }
        self.left = self.left.saturating_add(seen.left);
        self.nanos = self.nanos.saturating_add(passed);
        let least = nanos_of(self.target).min(MEASURE_MAX_NANOS);
        let enough = self.nanos >= least && self.left >= LEFT_MIN;
        if self.nanos == 0 || !(enough || self.nanos >= MEASURE_MAX_NANOS) {
            return;
        }
        let rate = self.left as f64 * 1e9 / self.nanos as f64;
        let before = self.rate.unwrap_or(rate);
        self.rate = Some(before + (rate - before) * WEIGHT);
        (self.left, self.nanos) = (0, 0);
    }

    /// Follows the queue that there would be, as a fluid: what comes beyond the bound is refused.
    fn imagine(&mut self, seen: &BacklogLook, least: u64) -> u64 {
        if seen.waiting == 0 {
            self.imagined = 0.0;
            return 0;
        }
        let waits = (self.imagined + seen.arrived as f64 - seen.left as f64).max(0.0);
        let most = self.limit(least).map_or(f64::MAX, |limit| limit as f64);
        self.imagined = waits.min(most);
        ((waits - most).max(0.0) as u64).min(seen.arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyball_core::rng::Rng;

    const TICK: Duration = Duration::from_millis(10);
    const TARGET: Duration = Duration::from_millis(100);

    /// A queue that others empty at a rate, fed at another, looked at each 10 ms.
    struct Bench {
        now: Timestamp,
        backlog: Backlog,
        /// Arrival times.
        queue: alloc::collections::VecDeque<Timestamp>,
        /// What could leave and did not make up one yet.
        credit: f64,
        refused: u64,
        served: u64,
        longest: Duration,
    }

    impl Bench {
        fn new() -> Self {
            let now = Timestamp::from_nanos(1);
            Self {
                now,
                backlog: Backlog::new(now, TARGET).unwrap(),
                queue: alloc::collections::VecDeque::new(),
                credit: 0.0,
                refused: 0,
                served: 0,
                longest: Duration::ZERO,
            }
        }

        fn run(&mut self, ticks: u32, arrive: impl Fn(u32) -> u64, leave: f64) {
            (self.refused, self.served, self.longest) = (0, 0, Duration::ZERO);
            for tick in 0..ticks {
                let limit = self.backlog.limit(2).unwrap_or(u64::MAX);
                let arrived = arrive(tick);
                let (mut refused, mut left) = (0, 0);
                for _ in 0..arrived {
                    if self.queue.len() as u64 >= limit {
                        refused += 1;
                    } else {
                        self.queue.push_back(self.now);
                    }
                }
                self.now = self.now.saturating_add(TICK);
                self.credit += leave;
                while self.credit >= 1.0 {
                    self.credit -= 1.0;
                    match self.queue.pop_front() {
                        Some(since) => {
                            left += 1;
                            self.longest = self.longest.max(self.now.duration_since(since));
                        }
                        None => self.credit = 0.0,
                    }
                }
                self.refused += refused;
                self.served += left;
                let seen = BacklogLook {
                    arrived,
                    refused,
                    left,
                    waiting: self.queue.len() as u64,
                };
                self.backlog.look(self.now, &seen);
            }
        }
    }

    /// CPU-21: below capacity nobody is refused, above it as many as are too many, and those who are served waited for no longer than they may.
    #[test]
    fn waits_stay_short_and_no_capacity_is_lost() {
        let mut bench = Bench::new();
        bench.run(500, |_| 8, 10.0);
        assert_eq!(bench.refused, 0);
        for overload in [2, 3, 10] {
            bench.run(300, |_| 10 * overload, 10.0);
            bench.run(1_000, |_| 10 * overload, 10.0);
            assert_eq!(bench.served, 10_000, "{overload}");
            assert_eq!(bench.refused, 10_000 * (overload - 1), "{overload}");
            assert!(bench.longest <= TARGET.mul_f64(1.3), "{:?}", bench.longest);
            assert!(bench.backlog.level() > Degradation::Normal);
            let hint = bench.backlog.retry_after(bench.refused);
            assert!(hint >= TARGET.mul_f64(overload as f64 * 0.9), "{hint:?}");
        }
        // A fifth of the speed: who waits then waits too long, who comes later does not.
        bench.run(300, |_| 10, 2.0);
        bench.run(500, |_| 10, 2.0);
        assert!(bench.longest <= TARGET.mul_f64(1.3), "{:?}", bench.longest);
        assert_eq!(bench.served, 1_000);
        bench.run(2_000, |_| 1, 10.0);
        assert_eq!(
            (bench.refused, bench.backlog.level()),
            (0, Degradation::Normal)
        );
    }

    /// CPU-21: bursts that are worked off within the time are let in whole.
    #[test]
    fn short_bursts_are_let_in() {
        let mut bench = Bench::new();
        bench.run(300, |_| 20, 10.0);
        bench.run(200, |_| 0, 10.0);
        bench.run(1_000, |tick| if tick % 20 == 0 { 90 } else { 0 }, 10.0);
        assert_eq!((bench.refused, bench.served), (0, 4_500));
    }

    /// CPU-30: who observes counts about what would have been refused, and nobody is.
    #[test]
    fn observing_counts_about_the_same() {
        let now = |tick: u64| Timestamp::from_nanos(1 + tick * 10_000_000);
        let mut backlog = Backlog::new(now(0), TARGET).unwrap();
        let (mut waiting, mut would) = (0, 0);
        for tick in 1..=1_000 {
            waiting += 30 - 10;
            let seen = BacklogLook {
                arrived: 30,
                refused: 0,
                left: 10,
                waiting,
            };
            would += backlog.observe(now(tick), &seen, 2);
        }
        let expected = 20 * 1_000;
        assert!(
            (expected - 500..=expected).contains(&would),
            "{would} of about {expected}"
        );
        assert!(backlog.level() > Degradation::Normal);
    }

    /// CPU-21: a queue that stands still for long lets in the least that was asked for; a pause is no overload.
    #[test]
    fn standing_still() {
        let mut bench = Bench::new();
        assert_eq!(bench.backlog.limit(2), None);
        bench.run(1_000, |_| 1, 0.0);
        assert_eq!(bench.backlog.limit(2), Some(2));
        let before = bench.backlog.rate();
        for _ in 0..1_000 {
            bench.now = bench.now.saturating_add(TICK);
            bench.backlog.skip(bench.now);
        }
        assert_eq!(bench.backlog.rate(), before);
        assert!(Backlog::new(bench.now, Duration::ZERO).is_err());
        assert!(bench.backlog.set_target(Duration::MAX).is_err());
        assert_eq!(bench.backlog.target(), TARGET);
    }

    /// CPU-21: whatever is seen, in whatever order of time, limits and hints stay finite.
    #[test]
    fn anything_leaves_it_sane() {
        let mut rng = Rng::seeded(21);
        let mut backlog = Backlog::new(Timestamp::ZERO, TARGET).unwrap();
        let any = |rng: &mut Rng| match rng.below(4) {
            0 => 0,
            1 => rng.below(100),
            2 => rng.below(1 << 40),
            _ => u64::MAX,
        };
        for round in 0..20_000 {
            let now = Timestamp::from_nanos(any(&mut rng));
            let seen = BacklogLook {
                arrived: any(&mut rng),
                refused: any(&mut rng),
                left: any(&mut rng),
                waiting: any(&mut rng),
            };
            match round % 3 {
                0 => backlog.look(now, &seen),
                1 => assert!(backlog.observe(now, &seen, 3) <= seen.arrived),
                _ => backlog.skip(now),
            }
            assert!(backlog.limit(3).is_none_or(|limit| limit >= 3));
            assert!(
                backlog
                    .rate()
                    .is_none_or(|rate| rate.is_finite() && rate >= 0.0)
            );
            assert!(backlog.retry_after(any(&mut rng)) <= 2 * RETRY_AFTER_MAX);
        }
    }
}
