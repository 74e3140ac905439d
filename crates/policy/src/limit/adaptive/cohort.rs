//! Calls grouped by when they began.
//!
//! The first so many calls that *end* after an instant are the short ones, whatever the load: a latency measured on them says that all is
//! well just after the limit grew, and a latency without a queue measured on them is one that no mean ever reaches again. So latencies
//! are compared between groups of calls that *began* together, each measured when all of it has ended.
//!
//! Invariants: at most one group fills and one drains; a group that does not drain counts those still out with twice the time that they
//! have taken so far.

use flyball_core::time::Timestamp;

use super::window::{Latencies, Occupancy, Window};

/// A group that has taken so long to drain since it closed, in multiples of its mean latency and at least of the time it took to fill, is
/// measured as it is.
const DRAIN_MAX: u64 = 8;
/// A group is also measured when no more than one in so many are still out: the last ones of many take several times as long as most.
const OUT: u64 = 32;
/// No group fills longer than this once it has [`FEW`] calls.
const FILL_MAX_NANOS: u64 = 5_000_000_000;
/// No group is shorter than this: clocks and timers have granularities.
const FILL_MIN_NANOS: u64 = 20_000_000;
/// With fewer calls there is nothing to compare.
const FEW: u64 = 16;

#[derive(Clone, Debug)]
struct Cohort {
    number: u32,
    began: u64,
    out: u64,
    /// Sum of the starts of those that are out, relative to `occupancy.from`, ns.
    out_started: u128,
    occupancy: Occupancy,
    latencies: Latencies,
    blocked: bool,
}

impl Cohort {
    fn new(now: Timestamp, number: u32, in_flight: u32) -> Self {
        Self {
            number,
            began: 0,
            out: 0,
            out_started: 0,
            occupancy: Occupancy::new(now, in_flight),
            latencies: Latencies::default(),
            blocked: false,
        }
    }

    fn end(&mut self, now: Timestamp, began: Timestamp, counted: bool, failed: bool) {
        self.out = self.out.saturating_sub(1);
        let offset = began.saturating_nanos_since(self.occupancy.from());
        self.out_started = self.out_started.saturating_sub(u128::from(offset));
        if counted {
            self.latencies.add(now.saturating_nanos_since(began));
        }
        self.latencies.failures += u64::from(failed);
    }

    /// Counts those still out with twice what they have taken so far, which is what can be expected of a heavy tail; not where no latency counted
    /// and more have failed than are out, since these may be about to fail.
    fn give_up(&mut self, now: Timestamp) {
        if self.out > 0 && (self.latencies.count > 0 || self.out > self.latencies.failures) {
            let age = now.saturating_nanos_since(self.occupancy.from());
            let sum = u128::from(age) * u128::from(self.out);
            let mean = sum.saturating_sub(self.out_started) / u128::from(self.out);
            let twice = u64::try_from(2 * mean).unwrap_or(u64::MAX);
            self.latencies.add_many(twice, self.out);
            self.out = 0;
        }
    }
}

/// The group that fills and the one that drains.
#[derive(Clone, Debug)]
pub(super) struct Cohorts {
    filling: Cohort,
    draining: Option<(Cohort, Timestamp)>,
}

impl Cohorts {
    pub(super) fn new(now: Timestamp, in_flight: u32) -> Self {
        Self {
            filling: Cohort::new(now, 0, in_flight),
            draining: None,
        }
    }

    /// Begins a call and names its group.
    pub(super) fn start(&mut self, now: Timestamp, in_flight: u32) -> u32 {
        let cohort = &mut self.filling;
        cohort.began += 1;
        cohort.out += 1;
        cohort.out_started += u128::from(now.saturating_nanos_since(cohort.occupancy.from()));
        cohort.occupancy.seen(in_flight);
        cohort.number
    }

    pub(super) fn advance(&mut self, now: Timestamp, in_flight: u32, full: bool) {
        self.filling.occupancy.advance(now, in_flight, full);
    }

    pub(super) fn end(
        &mut self,
        now: Timestamp,
        number: u32,
        began: Timestamp,
        counted: bool,
        failed: bool,
    ) {
        if self.filling.number == number {
            self.filling.end(now, began, counted, failed);
        } else if let Some((cohort, _)) = &mut self.draining
            && cohort.number == number
        {
            cohort.end(now, began, counted, failed);
        }
    }

    pub(super) fn block(&mut self) {
        self.filling.blocked = true;
    }

    /// Drops what is being measured: calls that begin from now on are the next group.
    pub(super) fn restart(&mut self, now: Timestamp, in_flight: u32) {
        let next = self.filling.number.wrapping_add(1);
        self.filling = Cohort::new(now, next, in_flight);
        self.draining = None;
    }

    /// Closes the group that fills once it has `wanted` calls; returns the one before once it has drained.
    pub(super) fn step(&mut self, now: Timestamp, in_flight: u32, wanted: u64) -> Option<Window> {
        let drained = match &mut self.draining {
            None => None,
            Some((cohort, closed)) => {
                let waited = now.saturating_nanos_since(*closed);
                let usual = (cohort.latencies.mean_nanos() as u64).max(cohort.occupancy.nanos());
                let overdue = waited > usual.saturating_mul(DRAIN_MAX).max(FILL_MIN_NANOS);
                if cohort.out > cohort.began / OUT && !overdue {
                    return None;
                }
                cohort.give_up(now);
                Some(cohort.latencies.window(&cohort.occupancy, cohort.blocked))
            }
        };
        if drained.is_some() {
            self.draining = None;
        }
        let fills = self.filling.occupancy.nanos();
        let enough = self.filling.began >= wanted && fills >= FILL_MIN_NANOS;
        if self.draining.is_none()
            && (enough || (self.filling.began >= FEW && fills >= FILL_MAX_NANOS))
        {
            let next = Cohort::new(now, self.filling.number.wrapping_add(1), in_flight);
            self.draining = Some((core::mem::replace(&mut self.filling, next), now));
        }
        drained
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    const MS: u64 = 1_000_000;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * MS)
    }

    /// A call begins each millisecond and ends so many milliseconds later, if at all, counted or failed; answers the first groups that are measured within a
    /// minute.
    fn groups(
        count: usize,
        wanted: u64,
        takes: impl Fn(u64) -> Option<u64>,
        fails: impl Fn(u64) -> bool,
    ) -> alloc::vec::Vec<Window> {
        let mut cohorts = Cohorts::new(at(0), 0);
        let mut ends: BTreeMap<(u64, u64), (u32, bool)> = BTreeMap::new();
        let mut windows = alloc::vec::Vec::new();
        let mut in_flight = 0;
        for now in 0..60_000 {
            cohorts.advance(at(now), in_flight, true);
            in_flight += 1;
            let cohort = cohorts.start(at(now), in_flight);
            if let Some(takes) = takes(now) {
                ends.insert((now + takes, now), (cohort, fails(now)));
            }
            while let Some(entry) = ends.first_entry()
                && entry.key().0 <= now
            {
                let ((_, began), (cohort, failed)) = entry.remove_entry();
                cohorts.end(at(now), cohort, at(began), !failed, failed);
                in_flight -= 1;
            }
            windows.extend(cohorts.step(at(now), in_flight, wanted));
            if windows.len() >= count {
                break;
            }
        }
        windows
    }

    /// CPU-22: groups are of calls that began together, so that a mean is of short and long ones alike; of those that end first nearly all are short.
    #[test]
    fn groups_are_by_order_of_starts() {
        let windows = groups(
            20,
            100,
            |call| Some(if call % 2 == 0 { 1 } else { 99 }),
            |_| false,
        );
        assert_eq!(windows.len(), 20);
        for window in windows {
            let mean = window.latency_mean.as_millis();
            assert!((48..=56).contains(&mean), "{window:?}");
            assert!(window.completions >= 100, "{window:?}");
        }
    }

    /// CPU-22: a group does not wait for ever for its last calls: those still out count with twice what they have taken.
    #[test]
    fn a_group_gives_up_those_that_do_not_end() {
        let windows = groups(3, 100, |call| (call % 10 != 0).then_some(10), |_| false);
        assert_eq!(windows.len(), 3);
        for window in windows {
            assert!(window.completions >= 100, "{window:?}");
            // A tenth of them, each with at least twice the time that the group was given to drain.
            assert!(window.latency_mean.as_millis() > 100, "{window:?}");
        }
        let never = groups(1, 100, |_| None, |_| false);
        assert!(never[0].latency_mean.as_millis() > 100, "{never:?}");
    }

    /// CPU-22: where all that ended failed without a latency, and more of them than are out, those are not counted as slow: they may be about to fail.
    #[test]
    fn a_group_that_fails_gives_up_nobody() {
        let windows = groups(3, 100, |call| (call % 10 != 0).then_some(1), |_| true);
        assert_eq!(windows.len(), 3);
        for window in windows {
            assert_eq!(window.completions, 0, "{window:?}");
            assert!(window.failures >= 90, "{window:?}");
        }
    }
}
