//! A bulkhead: so many calls of one kind at once, so many more that wait, and for so long, so that one dependency that became slow does not take
//! all threads, connections and memory of its caller.
//!
//! Who waits is served in order of arrival. Whoever leaves hands the place to the first who waits, so that no newcomer overtakes.
//!
//! Where it only *observes*, the same is decided and counted, and whoever asks lets everybody in: who would have waited waits in the line while its call runs
//! already, and has a place from the moment at which it would have had one; who would have been refused has none.
//!
//! Invariants: in flight ≤ concurrency, but after it was lowered or began to observe; somebody waits only while in flight ≥ concurrency; waiting ≤ queue.
//!
//! Source: M. Nygard, "Release It!" (2007).
//!
//! Leaves out how a waiter is woken: [`leave`](Bulkhead::leave) names it.

use alloc::collections::BTreeMap;
use core::time::Duration;

use flyball_core::time::Timestamp;

use crate::Error;

/// Settings of a [`Bulkhead`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BulkheadConfig {
    /// Calls at once, 1 to 1,000,000.
    pub concurrency: u32,
    /// Calls that may wait, up to 1,000,000: none unless set.
    pub queue: u32,
    /// How long each may wait: 1 s unless set.
    pub max_wait: Duration,
    /// Whoever asks lets everybody in at once, whatever is answered, and tells how it goes on as if they waited. Off unless set.
    pub observe: bool,
}

impl BulkheadConfig {
    /// So many calls at once, and none that wait.
    #[must_use]
    pub fn new(concurrency: u32) -> Self {
        Self {
            concurrency,
            queue: 0,
            max_wait: Duration::from_secs(1),
            observe: false,
        }
    }

    /// Lets so many wait, each for so long.
    #[must_use]
    pub fn with_queue(mut self, queue: u32, max_wait: Duration) -> Self {
        self.queue = queue;
        self.max_wait = max_wait;
        self
    }

    /// Only decides and counts.
    #[must_use]
    pub fn observing(mut self) -> Self {
        self.observe = true;
        self
    }

    fn check(&self) -> Result<(), Error> {
        const MOST: u32 = 1_000_000;
        let fault = |field, expected| {
            Err(Error::Limit {
                of: "bulkhead",
                field,
                expected,
            })
        };
        if !(1..=MOST).contains(&self.concurrency) {
            return fault("concurrency", "1 to 1,000,000");
        }
        if self.queue > MOST {
            return fault("queue", "at most 1,000,000");
        }
        Ok(())
    }
}

/// Names somebody who waits. Later waiters have greater ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WaiterId(u64);

/// The answer to who wants in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Go on, and leave afterwards.
    Admitted,
    /// Wait until [`Bulkhead::leave`] or [`Bulkhead::set_config`] names you, at most until then.
    Wait(WaiterId, Timestamp),
    /// There is no room, not to wait either.
    Full,
}

/// Figures of a bulkhead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct BulkheadStats {
    /// Calls that are in.
    pub in_flight: u32,
    /// Calls that wait.
    pub waiting: u32,
    /// Calls that came in since it was made.
    pub admitted: u64,
    /// Calls for which there was no room, since it was made.
    pub full: u64,
    /// Calls that gave up waiting, since it was made; while it observes, also those that ended before they would have come in.
    pub gave_up: u64,
}

/// A bound on calls at once, with a bounded wait.
#[derive(Clone, Debug)]
pub struct Bulkhead {
    config: BulkheadConfig,
    /// By arrival, with the end of each wait.
    waiting: BTreeMap<WaiterId, Timestamp>,
    next: u64,
    stats: BulkheadStats,
}

impl Bulkhead {
    /// Makes an empty one.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range.
    pub fn new(config: BulkheadConfig) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            config,
            waiting: BTreeMap::new(),
            next: 0,
            stats: BulkheadStats::default(),
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &BulkheadConfig {
        &self.config
    }

    /// Changes the settings. Who is in stays in and who waits goes on waiting, until then; who may come in now is named to `admitted`. When it begins to observe,
    /// all who wait come in.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range; nothing has changed then.
    pub fn set_config(
        &mut self,
        now: Timestamp,
        config: BulkheadConfig,
        mut admitted: impl FnMut(WaiterId),
    ) -> Result<(), Error> {
        config.check()?;
        let lets_all_in = config.observe && !self.config.observe;
        self.config = config;
        while lets_all_in || self.stats.in_flight < self.config.concurrency {
            let Some(waiter) = self.first(now) else { break };
            self.stats.in_flight += 1;
            admitted(waiter);
        }
        Ok(())
    }

    /// Wants in.
    pub fn enter(&mut self, now: Timestamp) -> Entry {
        if self.stats.in_flight < self.config.concurrency {
            self.stats.in_flight += 1;
            self.stats.admitted += 1;
            return Entry::Admitted;
        }
        if self.waiting.len() >= self.config.queue as usize {
            // Those whose time is over but who have not said so yet hold no place.
            self.forget_late(now);
        }
        if self.waiting.len() >= self.config.queue as usize || self.config.max_wait.is_zero() {
            self.stats.full += 1;
            return Entry::Full;
        }
        let id = WaiterId(self.next);
        self.next += 1;
        let until = now.saturating_add(self.config.max_wait);
        self.waiting.insert(id, until);
        Entry::Wait(id, until)
    }

    /// Somebody who was admitted is done; answers who comes in instead.
    pub fn leave(&mut self, now: Timestamp) -> Option<WaiterId> {
        if self.stats.in_flight <= self.config.concurrency
            && let Some(waiter) = self.first(now)
        {
            return Some(waiter);
        }
        self.stats.in_flight = self.stats.in_flight.saturating_sub(1);
        None
    }

    /// Gives up waiting; false if it was named already (then it is in, and must leave) or its time was over.
    pub fn withdraw(&mut self, waiter: WaiterId) -> bool {
        let waited = self.waiting.remove(&waiter).is_some();
        self.stats.gave_up += u64::from(waited);
        waited
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> BulkheadStats {
        BulkheadStats {
            waiting: self.waiting.len() as u32,
            ..self.stats
        }
    }

    /// Takes the first who still waits.
    fn first(&mut self, now: Timestamp) -> Option<WaiterId> {
        while let Some((waiter, until)) = self.waiting.pop_first() {
            if until > now {
                self.stats.admitted += 1;
                return Some(waiter);
            }
            self.stats.gave_up += 1;
        }
        None
    }

    fn forget_late(&mut self, now: Timestamp) {
        while let Some(first) = self.waiting.first_entry() {
            if *first.get() > now {
                break;
            }
            first.remove();
            self.stats.gave_up += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::vec::Vec;

    use proptest::prelude::{ProptestConfig, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn so_many_run_so_many_wait_and_the_rest_is_refused() {
        let config = BulkheadConfig::new(2).with_queue(1, Duration::from_millis(100));
        let mut bulkhead = Bulkhead::new(config).unwrap();
        assert_eq!(bulkhead.enter(at(0)), Entry::Admitted);
        assert_eq!(bulkhead.enter(at(0)), Entry::Admitted);
        let Entry::Wait(waiter, until) = bulkhead.enter(at(0)) else {
            panic!("it should wait")
        };
        assert_eq!(until, at(100));
        assert_eq!(bulkhead.enter(at(1)), Entry::Full);
        assert_eq!(bulkhead.leave(at(2)), Some(waiter));
        assert!(!bulkhead.withdraw(waiter), "it is in");
        assert_eq!(bulkhead.leave(at(3)), None);
        assert_eq!(bulkhead.leave(at(3)), None);
        let stats = bulkhead.stats();
        assert_eq!((stats.in_flight, stats.admitted, stats.full), (0, 3, 1));
    }

    #[test]
    fn who_waited_too_long_is_passed_over() {
        let config = BulkheadConfig::new(1).with_queue(2, Duration::from_millis(100));
        let mut bulkhead = Bulkhead::new(config).unwrap();
        assert_eq!(bulkhead.enter(at(0)), Entry::Admitted);
        let Entry::Wait(late, _) = bulkhead.enter(at(0)) else {
            panic!()
        };
        let Entry::Wait(next, _) = bulkhead.enter(at(50)) else {
            panic!()
        };
        // A place in the queue is free again although nobody has said so.
        assert!(matches!(bulkhead.enter(at(100)), Entry::Wait(..)));
        assert!(!bulkhead.withdraw(late));
        assert_eq!(bulkhead.leave(at(149)), Some(next));
        assert_eq!(bulkhead.leave(at(1_000)), None);
        assert_eq!(bulkhead.stats().in_flight, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// TASK-9: never more than the bound at once, never more that wait, served in order, and nobody waits beside a free place.
        #[test]
        fn it_is_the_model(
            concurrency in 1u32..4, queue in 0u32..4, wait in 0u64..50,
            steps in prop::collection::vec((0u8..5, 0u64..30, 0usize..4), 1..120),
        ) {
            let config = BulkheadConfig::new(concurrency).with_queue(queue, Duration::from_millis(wait));
            let mut bulkhead = Bulkhead::new(config).unwrap();
            let (mut limit, mut running, mut now) = (concurrency, 0u32, 0u64);
            let mut line: VecDeque<(WaiterId, u64)> = VecDeque::new();
            for (what, millis, which) in steps {
                now += millis;
                match what {
                    0 | 1 => {
                        let live: Vec<_> = line.iter().copied().filter(|(_, until)| *until > now).collect();
                        match bulkhead.enter(at(now)) {
                            Entry::Admitted => { prop_assert!(running < limit); running += 1; }
                            Entry::Wait(id, until) => {
                                prop_assert!(running >= limit && (live.len() as u32) < queue);
                                prop_assert_eq!(until, at(now + wait));
                                line.push_back((id, now + wait));
                            }
                            Entry::Full => prop_assert!(running >= limit && (live.len() as u32 >= queue || wait == 0)),
                        }
                    }
                    2 if running > 0 => {
                        line.retain(|(_, until)| *until > now);
                        let next = if running <= limit { line.pop_front() } else { None };
                        prop_assert_eq!(bulkhead.leave(at(now)), next.map(|(id, _)| id));
                        if next.is_none() { running -= 1; }
                    }
                    3 if which < line.len() => {
                        let (id, _) = line.remove(which).unwrap();
                        bulkhead.withdraw(id);
                    }
                    4 => {
                        limit = which as u32 + 1;
                        line.retain(|(_, until)| *until > now);
                        let mut named = Vec::new();
                        let config = BulkheadConfig { concurrency: limit, ..*bulkhead.config() };
                        bulkhead.set_config(at(now), config, |id| named.push(id)).unwrap();
                        let room = limit.saturating_sub(running).min(line.len() as u32);
                        let expected: Vec<_> = line.drain(..room as usize).map(|(id, _)| id).collect();
                        running += room;
                        prop_assert_eq!(named, expected);
                    }
                    _ => {}
                }
                prop_assert_eq!(bulkhead.stats().in_flight, running);
                prop_assert!(bulkhead.stats().waiting <= queue);
            }
        }
    }
}
