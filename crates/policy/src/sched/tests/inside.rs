//! Order of tasks and fair clocks inside a class.

use alloc::vec::Vec;

use flyball_core::time::Timestamp;
use proptest::prelude::*;

use super::machine::{MS, US};
use crate::sched::Algorithm;
use crate::sched::order::{AGEING_STEP_NS, MAX_PATIENCE_NS, due};
use crate::sched::tasks::{BONUS_NS, FairClock};

fn at(ns: u64) -> Timestamp {
    Timestamp::from_nanos(ns)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// CPU-8: the static key orders tasks as ageing does at every moment: by priority plus time waited in steps.
    #[test]
    fn the_key_is_the_order_of_ageing(
        tasks in proptest::collection::vec((0u64..10_000 * MS, any::<i8>()), 2..20), later in 0u64..100_000 * MS
    ) {
        let now = 10_000 * MS + later;
        let aged = |(enqueued, priority): (u64, i8)| {
            i128::from(priority) * i128::from(AGEING_STEP_NS) + i128::from(now - enqueued)
        };
        for a in &tasks {
            for b in &tasks {
                let key = |(enqueued, priority): (u64, i8)| due(at(enqueued), priority, None, 1, Algorithm::Cfs);
                prop_assert_eq!(key(*a).cmp(&key(*b)), aged(*b).cmp(&aged(*a)));
            }
        }
    }

    /// CPU-8: a task is passed only by those that came less than (their priority − its own) steps after it.
    #[test]
    fn nobody_is_passed_for_long(enqueued in 0u64..1_000 * MS, later in 0u64..5_000 * MS, p: i8, q: i8, algorithm in 0usize..4) {
        let algorithm = Algorithm::ALL[algorithm];
        let mine = due(at(enqueued), p, None, 5, algorithm);
        let other = due(at(enqueued + later), q, None, 5, algorithm);
        let levels = i64::from(q) - i64::from(p);
        let passed = other < mine;
        prop_assert_eq!(passed, (later as i64) < levels * AGEING_STEP_NS as i64);
    }

    /// CPU-10: earliest deadline first; a deadline far away counts for a minute at most.
    #[test]
    fn deadlines_order_tasks(a in 0u64..50_000 * MS, b in 0u64..50_000 * MS, far: u64) {
        let of = |deadline| due(at(7), 0, Some(at(deadline)), 1, Algorithm::ProportionalShare);
        prop_assert_eq!(of(a).cmp(&of(b)), a.cmp(&b));
        prop_assert!(of(far) <= of(7 + MAX_PATIENCE_NS));
        let by_target = due(at(7), 0, None, a, Algorithm::ProportionalShare);
        prop_assert_eq!(by_target, of(7 + a));
    }

    /// CPU-9: futures that are always ready share the time of their class equally, whatever the lengths of their polls:
    /// none is ahead by more than a poll or behind by more than a poll of each other; driven as the clock asks: eligible in order of arrival, else the least virtual time.
    #[test]
    fn ready_futures_share_equally(polls in proptest::collection::vec(1u64..500, 1..12)) {
        let longest = polls.iter().max().unwrap() * US;
        let mut clock = FairClock::new();
        let mut virtual_ns: Vec<u64> = polls.iter().map(|_| clock.now()).collect();
        let mut queue: Vec<usize> = (0..polls.len()).collect();
        for _ in 0..2_000 {
            let least = queue.iter().map(|f| virtual_ns[*f]).min().unwrap();
            let position = match queue.iter().position(|f| clock.is_eligible(virtual_ns[*f])) {
                Some(position) => position,
                None => {
                    clock.catch_up(least);
                    queue.iter().position(|f| virtual_ns[*f] == least).unwrap()
                }
            };
            let future = queue.remove(position);
            virtual_ns[future] = clock.charge(virtual_ns[future], polls[future] * US, polls.len());
            queue.push(future);
            for v in &virtual_ns {
                prop_assert!(v.saturating_sub(clock.now()) <= longest, "{} {virtual_ns:?}", clock.now());
                let others = polls.len() as u64 - 1;
                prop_assert!(clock.now().saturating_sub(*v) <= others * longest, "{} {virtual_ns:?}", clock.now());
            }
        }
    }
}

/// CPU-9: a future that slept comes back eligible, with the bonus and no more; one that ran too much keeps its debt.
#[test]
fn waking_gives_the_bonus_and_forgives_nothing() {
    let mut clock = FairClock::new();
    let sleeper = clock.now();
    let greedy = clock.charge(clock.now(), 50 * MS, 5);
    assert_eq!((clock.now(), greedy), (10 * MS, 50 * MS));
    assert!(clock.is_eligible(sleeper) && !clock.is_eligible(greedy));
    assert_eq!(clock.wake(sleeper), 10 * MS - BONUS_NS);
    assert_eq!(clock.wake(greedy), greedy);
    let mut odd = FairClock::new();
    for _ in 0..3 {
        odd.charge(0, 1, 3);
    }
    assert_eq!(odd.now(), 1, "remainders are carried");
    assert_eq!(odd.charge(u64::MAX, 7, 0), u64::MAX);
}
