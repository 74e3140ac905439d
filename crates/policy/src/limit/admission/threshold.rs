//! Who may wait at all under overload: θ over (class, cohort).
//!
//! Calls have a place in an order: by class, and inside a class by a hash of the cohort that is drawn anew each hour, so that nobody is
//! last for ever. Of the calls that find no room, the first part in that order may wait, as large as the part that was served lately and
//! a little more: too large a part costs some a wait in vain and is what brings θ back up; too small a one would let CPUs idle.
//!
//! Invariants: a call with room is never asked; more important classes pass wherever lesser ones do; θ falls only after calls were not served,
//! and is back within seconds once all are.

use alloc::boxed::Box;

use flyball_core::time::Timestamp;

use super::PRIORITIES;

/// Cohorts of a class: the grain of θ where there is one class (Cinnamon has as many).
const COHORTS: usize = 128;
/// θ is decided anew so often, if enough calls came.
const INTERVAL_NANOS: u64 = 100_000_000;
/// With fewer calls an interval is prolonged, up to ten times.
const CALLS: f64 = 32.0;
/// How many more may wait than were served.
const MARGIN: f64 = 1.25;
/// Weight of a new interval, and what is left of the distribution after each.
const WEIGHT: f64 = 0.5;
/// A part refused below this is none.
const REFUSES_MIN: f64 = 0.02;
const HOUR_NANOS: u64 = 3_600_000_000_000;

#[derive(Clone, Debug)]
pub(super) struct Threshold {
    /// Calls that found no room, by place in the order, forgetting.
    wanted_by_place: Box<[f32; PRIORITIES * COHORTS]>,
    /// Of this interval.
    wanted: f64,
    served: f64,
    began: Timestamp,
    refuses: f64,
    /// Places before this one pass.
    up_to: usize,
}

impl Threshold {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            wanted_by_place: Box::new([0.0; PRIORITIES * COHORTS]),
            wanted: 0.0,
            served: 0.0,
            began: now,
            refuses: 0.0,
            up_to: PRIORITIES * COHORTS,
        }
    }

    /// A call found no room: whether it may wait.
    pub(super) fn passes(&mut self, now: Timestamp, rank: usize, cohort: u64) -> bool {
        let hour = now.as_nanos() / HOUR_NANOS;
        let drawn = mix(cohort ^ mix(hour)) as usize % COHORTS;
        let place = (rank * COHORTS + drawn).min(PRIORITIES * COHORTS - 1);
        self.wanted_by_place[place] += 1.0;
        self.wanted += 1.0;
        place < self.up_to
    }

    /// A call that waited came in.
    pub(super) fn served(&mut self) {
        self.served += 1.0;
    }

    /// The part of those who find no room that is refused.
    pub(super) fn refuses(&self) -> f64 {
        self.refuses
    }

    pub(super) fn tick(&mut self, now: Timestamp) {
        let nanos = now.saturating_nanos_since(self.began);
        if nanos < INTERVAL_NANOS || (self.wanted < CALLS && nanos < 10 * INTERVAL_NANOS) {
            return;
        }
        let served = if self.wanted > 0.0 {
            (self.served / self.wanted).min(1.0)
        } else {
            1.0
        };
        let refuses = (1.0 - served * MARGIN).max(0.0);
        self.refuses += (refuses - self.refuses) * WEIGHT;
        if self.refuses < REFUSES_MIN {
            self.refuses = 0.0;
        }
        self.began = now;
        self.wanted = 0.0;
        self.served = 0.0;
        self.place();
    }

    /// Finds the place before which the part that may wait lies.
    fn place(&mut self) {
        let all: f32 = self.wanted_by_place.iter().sum();
        let may_wait = all * (1.0 - self.refuses) as f32;
        let mut before = 0.0;
        self.up_to = self.wanted_by_place.len();
        for (place, wanted) in self.wanted_by_place.iter_mut().enumerate() {
            if before >= may_wait && self.refuses > 0.0 {
                self.up_to = self.up_to.min(place);
            }
            before += *wanted;
            *wanted *= WEIGHT as f32;
        }
    }
}

/// Spreads a number over all bits (SplitMix64; Steele, Lea, Flood, 2014).
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
