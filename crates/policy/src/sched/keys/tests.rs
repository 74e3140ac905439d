use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use flyball_core::time::Timestamp;
use proptest::prelude::*;

use super::{DEFAULT_CAPACITY, Excess, KeyLimits, KeyState, KeyTable, OVERFLOW, Place, Pop};
use crate::Error;

const MS: u64 = 1_000_000;

fn at(ns: u64) -> Timestamp {
    Timestamp::from_nanos(ns)
}

fn pop<T>(table: &mut KeyTable<T>, now: u64) -> Pop<T> {
    table.pop(at(now), |_| true, |_| ())
}

fn take<T>(table: &mut KeyTable<T>, now: u64) -> Option<(Place, T)> {
    match pop(table, now) {
        Pop::Task(place, task) | Pop::Again(place, task) => Some((place, task)),
        Pop::Wait { .. } | Pop::Empty => None,
    }
}

/// CPU-29: 100,000 tasks of one key delay another's first by one task, whenever that comes.
#[test]
fn a_flood_delays_another_key_by_one_task() {
    let mut table = KeyTable::new(DEFAULT_CAPACITY);
    for n in 0..100_000u64 {
        table.push(at(n), 1, "flood", n, (1, n));
    }
    for round in 0..1000u64 {
        table.push(at(0), 2, "light", round, (2, round));
        let next: Vec<_> = (0..2).filter_map(|_| take(&mut table, 0)).collect();
        assert!(next.iter().any(|&(_, task)| task == (2, round)));
        for (place, _) in next {
            table.finished(place);
        }
    }
    assert_eq!(table.len(), 99_000);
    assert_eq!(table.turns(), 1);
}

/// CPU-29: among keys that all have tasks, none has two turns between two of another.
#[test]
fn keys_share_in_turn() {
    let mut table = KeyTable::new(DEFAULT_CAPACITY);
    for key in 0..10u64 {
        for n in 0..=key * 10 {
            table.push(at(0), key, "k", n, (key, n));
        }
    }
    let mut last = [None; 10];
    let mut turn = 0u64;
    while let Some((place, (key, n))) = take(&mut table, 0) {
        table.finished(place);
        assert_eq!(last[key as usize].map_or(0, |(_, before)| before + 1), n);
        if let Some((before, _)) = last[key as usize] {
            assert!(turn - before <= 10);
        }
        last[key as usize] = Some((turn, n));
        turn += 1;
    }
    assert_eq!((table.len(), table.known()), (0, 0));
}

/// CPU-29: the rate by key: a burst, then one task an interval; who asks is told when the next may go.
#[test]
fn a_rate_is_kept_by_key() {
    let mut table = KeyTable::new(16);
    let limits = KeyLimits {
        rate: Some(100.0),
        burst: 3,
        ..KeyLimits::default()
    };
    table.set_limits(at(0), limits).unwrap();
    for n in 0..6u64 {
        table.push(at(5 * MS), 7, "seven", n, n);
    }
    for expected in 0..3 {
        assert_eq!(take(&mut table, 5 * MS).unwrap().1, expected);
    }
    assert_eq!(pop(&mut table, 5 * MS), Pop::Wait { until: at(15 * MS) });
    assert_eq!(
        table.keys().next().unwrap().state,
        KeyState::Refilling(at(15 * MS))
    );
    table.push(at(6 * MS), 8, "eight", 0, 80);
    assert_eq!(take(&mut table, 6 * MS).unwrap().1, 80);
    assert_eq!(take(&mut table, 15 * MS).unwrap().1, 3);
    assert_eq!(take(&mut table, 16 * MS), None);
    // A long pause fills the bucket, no more.
    for n in 6..12u64 {
        table.push(at(1000 * MS), 7, "seven", n, n);
    }
    let burst = std::iter::from_fn(|| take(&mut table, 1000 * MS)).count();
    assert_eq!(burst, 3);
}

/// CPU-29: tasks that are no longer wanted leave a key that is held once they are half of what waits, and cost at most two looks each.
#[test]
fn unwanted_tasks_leave_a_key_that_is_held() {
    let mut table = KeyTable::new(16);
    let limits = KeyLimits {
        concurrency: Some(1),
        queued: Some(10),
        ..KeyLimits::default()
    };
    table.set_limits(at(0), limits).unwrap();
    table.push(at(0), 1, "one", 0, 0);
    let (place, _) = take(&mut table, 0).unwrap();
    let mut looks = 0;
    for round in 1..100u64 {
        for n in 0..10 {
            assert_eq!(table.check_room(1), Ok(()), "round {round}, task {n}");
            table.push(at(0), 1, "one", 0, round * 10 + n);
        }
        assert_eq!(table.check_room(1), Err(10));
        for dead in 0..10 {
            let keep = |&task: &u64| {
                looks += 1;
                task > round * 10 + dead
            };
            table.note_dead(1, keep, |task| assert!(task <= round * 10 + dead));
            let left = table.len() - (9 - dead as usize);
            assert!(
                left == 0 || left * 2 < table.len(),
                "{left} of {}",
                table.len()
            );
        }
        assert!(table.is_empty());
    }
    assert!(looks <= 2 * 99 * 10, "{looks}");
    table.finished(place);
    assert_eq!((table.known(), table.turns()), (0, 0));
    table.note_dead(1, |_| true, |_| ());
}

/// CPU-29: concurrency by key holds from the start of a task to its end; what was started goes on all the same.
#[test]
fn concurrency_is_kept_by_key() {
    let mut table = KeyTable::new(16);
    let limits = KeyLimits {
        concurrency: Some(2),
        ..KeyLimits::default()
    };
    table.set_limits(at(0), limits).unwrap();
    for n in 0..5u64 {
        table.push(at(0), 1, "one", n, n);
    }
    let (first, _) = take(&mut table, 0).unwrap();
    take(&mut table, 0).unwrap();
    assert_eq!(pop(&mut table, 0), Pop::Empty);
    assert_eq!(table.keys().next().unwrap().state, KeyState::Held);
    table.push_started(first, 9, 100);
    assert_eq!(take(&mut table, 0).unwrap().1, 100);
    assert_eq!(pop(&mut table, 0), Pop::Empty);
    table.finished(first);
    assert_eq!(take(&mut table, 0).unwrap().1, 2);
    // Its own limits go before; without them it falls back.
    let wide = KeyLimits::default();
    table.set_limit(at(0), 1, "one", Some(wide)).unwrap();
    assert_eq!(take(&mut table, 0).unwrap().1, 3);
    table.set_limit(at(0), 1, "one", None).unwrap();
    assert_eq!(take(&mut table, 0), None);
}

/// CPU-29: ranks order a key's own tasks, and no rank helps against other keys.
#[test]
fn ranks_count_inside_a_key() {
    let mut table = KeyTable::new(16);
    for (key, rank) in [(1, 50), (1, 40), (1, 60), (1, 45), (2, 99), (2, 98)] {
        table.push(at(0), key, "", rank, (key, rank));
    }
    let order: Vec<_> = std::iter::from_fn(|| take(&mut table, 0).map(|(_, task)| task)).collect();
    assert_eq!(
        order,
        [(1, 40), (2, 98), (1, 45), (2, 99), (1, 50), (1, 60)]
    );
}

/// CPU-29: dead tasks cost their key neither turn nor token nor permit, and can be dropped at any time.
#[test]
fn dead_tasks_cost_nothing() {
    let mut table = KeyTable::new(16);
    let limits = KeyLimits {
        rate: Some(1.0),
        concurrency: Some(1),
        ..KeyLimits::default()
    };
    table.set_limits(at(0), limits).unwrap();
    for n in 0..100u64 {
        table.push(at(0), 1, "one", n, n);
    }
    let mut dropped = 0;
    let popped = table.pop(at(0), |&n| n >= 60, |_| dropped += 1);
    assert!(matches!(popped, Pop::Task(_, 60)), "{popped:?}");
    assert_eq!((dropped, table.len()), (60, 39));
    table.retain(|&n| n >= 90, |_| dropped += 1);
    assert_eq!((dropped, table.len()), (89, 10));
    table.drain(|_| dropped += 1);
    assert_eq!((dropped, table.len()), (99, 0));
    assert_eq!(table.keys().next().unwrap().running, 1);
}

/// CPU-29: the table is bounded; further keys share buckets, which is counted, and all of it ends when they are done.
#[test]
fn a_full_table_shares_buckets() {
    let mut table = KeyTable::new(32);
    let spread = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for n in 0..10_000u64 {
        table.push(at(0), spread(n), &n.to_string(), 0, n);
    }
    assert_eq!(table.known(), 32);
    assert_eq!(table.keys().count(), 32 + OVERFLOW);
    let shared = table.keys().filter(|key| key.shared).count();
    assert_eq!(shared, OVERFLOW);
    // Some of those met a bucket that was in use already before the table was full.
    assert_eq!(table.overflowed(), 10_000 - 32);
    // All 96 have their turns.
    let first: Vec<_> = (0..96).map(|_| take(&mut table, 0).unwrap().0).collect();
    let mut places: Vec<_> = first.iter().map(|place| place.get()).collect();
    places.sort_unstable();
    assert_eq!(places, (0..96).collect::<Vec<u32>>());
    for place in first {
        table.finished(place);
    }
    while let Some((place, _)) = take(&mut table, 0) {
        table.finished(place);
    }
    assert_eq!(
        (table.known(), table.keys().count(), table.len()),
        (0, 0, 0)
    );
    table.push(at(0), 5, "five", 0, 0);
    assert!(!table.keys().next().unwrap().shared);
}

/// CPU-29: a bound on what waits of a key; limits are checked before anything changes.
#[test]
fn limits_are_checked() {
    let mut table = KeyTable::new(4);
    let good = KeyLimits {
        queued: Some(2),
        ..KeyLimits::default()
    };
    table.set_limits(at(0), good).unwrap();
    for bad in [
        KeyLimits {
            rate: Some(f64::NAN),
            ..good
        },
        KeyLimits {
            rate: Some(0.0),
            ..good
        },
        KeyLimits {
            rate: Some(1e7),
            ..good
        },
        KeyLimits { burst: 0, ..good },
        KeyLimits {
            burst: 100_001,
            ..good
        },
        KeyLimits {
            concurrency: Some(0),
            ..good
        },
        KeyLimits {
            queued: Some(0),
            ..good
        },
    ] {
        assert!(matches!(
            table.set_limits(at(0), bad),
            Err(Error::KeyLimit { .. })
        ));
        assert!(table.set_limit(at(0), 1, "one", Some(bad)).is_err());
    }
    assert_eq!((table.limits(), table.known()), (good, 0));
    for _ in 0..2 {
        assert_eq!(table.check_room(9), Ok(()));
        table.push(at(0), 9, "nine", 0, ());
    }
    assert_eq!(table.check_room(9), Err(2));
    assert_eq!(table.check_room(8), Ok(()));
    for key in [1, 2] {
        table.set_limit(at(0), key, "own", Some(good)).unwrap();
    }
    let full = table.set_limit(at(0), 9, "nine", Some(good));
    assert_eq!(full, Err(Error::TooManyKeyLimits { most: 2 }));
    assert_eq!(table.set_limit(at(0), 77, "none", None), Ok(()));
    table.set_limit(at(0), 1, "own", None).unwrap();
    assert_eq!(table.known(), 2);
}

/// A key that spent its rate is not forgotten, and so not given a new bucket, before its bucket is full again.
#[test]
fn a_spent_rate_is_remembered() {
    let mut table = KeyTable::new(16);
    let limits = KeyLimits {
        rate: Some(1.0),
        ..KeyLimits::default()
    };
    table.set_limits(at(0), limits).unwrap();
    table.push(at(0), 1, "one", 0, 0);
    let (place, _) = take(&mut table, 0).unwrap();
    table.finished(place);
    table.push(at(1), 1, "one", 0, 1);
    assert_eq!(
        pop(&mut table, 1),
        Pop::Wait {
            until: at(1000 * MS)
        }
    );
    let (place, _) = take(&mut table, 1000 * MS).unwrap();
    table.finished(place);
    assert_eq!(table.known(), 1);
    table.push(at(2000 * MS), 2, "two", 0, 2);
    assert_eq!(table.known(), 1);
}

/// CPU-30: limits that observe hold nobody and refuse nobody, and count what those that are kept to would have; kept to again, they hold.
#[test]
fn observing_counts_what_would_be_held() {
    let mut table = KeyTable::new(8);
    let limits = KeyLimits {
        rate: Some(1.0),
        burst: 2,
        concurrency: Some(3),
        queued: Some(4),
        observe: true,
    };
    table.set_limits(at(0), limits).unwrap();
    for task in 0..6 {
        assert_eq!(table.check_room(1), Ok(()));
        table.push(at(0), 1, "one", 0, task);
    }
    let pop = |table: &mut KeyTable<u32>| table.pop(at(0), |_| true, |_| ());
    for _ in 0..5 {
        assert!(matches!(pop(&mut table), Pop::Task(..)));
    }
    let excess = Excess {
        rate: 3,
        concurrency: 2,
        queued: 2,
    };
    assert_eq!(table.excess(), excess);
    let limits = KeyLimits {
        observe: false,
        ..limits
    };
    table.set_limits(at(0), limits).unwrap();
    assert_eq!(pop(&mut table), Pop::Empty);
    for task in 6..9 {
        table.push(at(0), 1, "one", 0, task);
    }
    assert_eq!(table.check_room(1), Err(4));
    assert_eq!(table.excess(), excess);
}

/// One key of the model: lists of what waits, a bucket in which an interval is a token, and who runs.
#[derive(Default)]
struct Key {
    limits: KeyLimits,
    own: bool,
    waiting: Vec<(u64, u64, u64)>,
    started: Vec<(u64, u64, u64)>,
    running: u32,
    /// What lacks of a full bucket, ns.
    spent: u64,
    /// When it last became ready or had its turn.
    ready_since: Option<u64>,
}

impl Key {
    fn interval(&self) -> u64 {
        self.limits.rate.map_or(0, |rate| (1e9 / rate + 0.5) as u64)
    }

    fn has_token(&self) -> bool {
        let depth = self.interval() * u64::from(self.limits.burst);
        depth - self.spent.min(depth) >= self.interval()
    }

    fn may_start(&self) -> bool {
        self.limits.observe || self.has_token() && self.has_place()
    }

    fn has_place(&self) -> bool {
        self.limits
            .concurrency
            .is_none_or(|most| self.running < most)
    }

    fn is_ready(&self) -> bool {
        !self.started.is_empty() || !self.waiting.is_empty() && self.may_start()
    }

    /// The task that goes first, and whether it was started before.
    fn first(&self) -> (bool, (u64, u64, u64)) {
        let again = self.started.iter().min().map(|&task| (task, true));
        let new = self.waiting.iter().min().filter(|_| self.may_start());
        let (task, started) = again
            .into_iter()
            .chain(new.map(|&task| (task, false)))
            .min()
            .unwrap();
        (started, task)
    }
}

/// The naive model: everything is looked up and decided anew each time.
#[derive(Default)]
struct Model {
    keys: BTreeMap<u64, Key>,
    now: u64,
    step: u64,
    sequence: u64,
    default: KeyLimits,
}

impl Model {
    fn refresh(&mut self) {
        self.step += 1;
        for key in self.keys.values_mut() {
            if !key.is_ready() {
                key.ready_since = None;
            } else if key.ready_since.is_none() {
                key.ready_since = Some(self.step);
            }
        }
    }

    fn advance(&mut self, by: u64) {
        self.now += by;
        for key in self.keys.values_mut() {
            key.spent = key.spent.saturating_sub(by);
        }
        self.refresh();
    }

    fn key(&mut self, key: u64) -> &mut Key {
        let default = self.default;
        self.keys.entry(key).or_insert_with(|| Key {
            limits: default,
            ..Key::default()
        })
    }

    fn next_refill(&self) -> Option<u64> {
        self.keys
            .values()
            .filter(|key| {
                key.started.is_empty()
                    && !key.waiting.is_empty()
                    && !key.limits.observe
                    && key.has_place()
                    && !key.has_token()
            })
            .map(|key| {
                let depth = key.interval() * u64::from(key.limits.burst);
                self.now + key.spent + key.interval() - depth
            })
            .min()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push { key: u64, rank: u64 },
    Pop,
    Finish(usize),
    Again(usize, u64),
    Kill(u64),
    Purge,
    Pass(u64),
    Limits(KeyLimits),
    Own(u64, Option<KeyLimits>),
}

fn limits() -> impl Strategy<Value = KeyLimits> {
    (
        proptest::option::of(1.0f64..2000.0),
        1u32..5,
        proptest::option::of(1u32..4),
        proptest::bool::weighted(0.3),
    )
        .prop_map(|(rate, burst, concurrency, observe)| KeyLimits {
            rate,
            burst,
            concurrency,
            observe,
            ..KeyLimits::default()
        })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (0u64..6, 0u64..20).prop_map(|(key, rank)| Op::Push { key, rank }),
        8 => Just(Op::Pop),
        4 => any::<usize>().prop_map(Op::Finish),
        2 => (any::<usize>(), 0u64..20).prop_map(|(which, rank)| Op::Again(which, rank)),
        1 => any::<u64>().prop_map(Op::Kill),
        1 => Just(Op::Purge),
        4 => (0u64..3 * MS).prop_map(Op::Pass),
        1 => limits().prop_map(Op::Limits),
        1 => (0u64..6, proptest::option::of(limits())).prop_map(|(key, limits)| Op::Own(key, limits)),
    ];
    proptest::collection::vec(op, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// CPU-29: the table does what the naive model does: who is next, who waits and how long, who runs; permits are neither
    /// lost nor made, whatever tasks do.
    #[test]
    fn the_table_is_the_model(ops in ops()) {
        let mut table = KeyTable::new(64);
        let mut model = Model { now: 1000, ..Model::default() };
        let mut running: Vec<(u64, Place, u64)> = Vec::new();
        let mut dead: Vec<u64> = Vec::new();
        let mut excess = Excess::default();
        for op in ops {
            match op {
                Op::Push { key, rank } => {
                    model.sequence += 1;
                    let id = model.sequence;
                    model.key(key).waiting.push((rank, id, id));
                    model.refresh();
                    table.push(at(model.now), key, "", rank, id);
                }
                Op::Pop => {
                    let mut dropped = Vec::new();
                    let popped = table.pop(at(model.now), |id| !dead.contains(id), |id| dropped.push(id));
                    let came_back = matches!(popped, Pop::Again(..));
                    match popped {
                        Pop::Task(place, id) | Pop::Again(place, id) => {
                            prop_assert!(!dead.contains(&id));
                            let (&key, _) = model.keys.iter().find(|(_, key)| {
                                key.is_ready() && key.first().1.2 == id
                                    || !dropped.is_empty() && key.waiting.iter().chain(&key.started).any(|task| task.2 == id)
                            }).expect("a task that goes first in its key");
                            // What was dropped before the turn is gone from the model, too.
                            for key in model.keys.values_mut() {
                                key.waiting.retain(|task| !dropped.contains(&task.2));
                                key.started.retain(|task| !dropped.contains(&task.2));
                                if !key.is_ready() {
                                    key.ready_since = None;
                                }
                            }
                            let since = model.keys[&key].ready_since;
                            let longest = model.keys.values().filter_map(|key| key.ready_since).min();
                            prop_assert_eq!(since, longest, "the key that waited longest has its turn");
                            model.step += 1;
                            let step = model.step;
                            let entry = model.keys.get_mut(&key).unwrap();
                            let (again, task) = entry.first();
                            prop_assert_eq!((again, task.2), (came_back, id));
                            if again {
                                entry.started.retain(|other| other.2 != id);
                            } else {
                                entry.waiting.retain(|other| other.2 != id);
                                prop_assert!(entry.limits.observe || entry.has_place() && entry.has_token());
                                excess.concurrency += u64::from(!entry.has_place());
                                entry.running += 1;
                                if entry.has_token() {
                                    entry.spent += entry.interval();
                                } else {
                                    excess.rate += 1;
                                }
                            }
                            entry.ready_since = entry.is_ready().then_some(step);
                            running.push((key, place, id));
                        }
                        other => {
                            for key in model.keys.values_mut() {
                                key.waiting.retain(|task| !dropped.contains(&task.2));
                                key.started.retain(|task| !dropped.contains(&task.2));
                            }
                            model.refresh();
                            prop_assert!(model.keys.values().all(|key| !key.is_ready()));
                            match other {
                                Pop::Wait { until } => prop_assert_eq!(Some(until.as_nanos()), model.next_refill()),
                                _ => prop_assert_eq!(model.next_refill(), None),
                            }
                        }
                    }
                }
                Op::Finish(which) if !running.is_empty() => {
                    let (key, place, _) = running.swap_remove(which % running.len());
                    model.key(key).running -= 1;
                    model.refresh();
                    table.finished(place);
                }
                Op::Again(which, rank) if !running.is_empty() => {
                    let (key, place, id) = running[which % running.len()];
                    let waits = model.keys[&key].started.iter().any(|task| task.2 == id);
                    if !waits && !dead.contains(&id) {
                        running.swap_remove(which % running.len());
                        model.sequence += 1;
                        let sequence = model.sequence;
                        model.key(key).started.push((rank, sequence, id));
                        model.refresh();
                        table.push_started(place, rank, id);
                    }
                }
                Op::Kill(which) => {
                    let waiting: Vec<u64> = model.keys.values()
                        .flat_map(|key| key.waiting.iter())
                        .map(|task| task.2)
                        .filter(|id| !dead.contains(id))
                        .collect();
                    if !waiting.is_empty() {
                        dead.push(waiting[which as usize % waiting.len()]);
                    }
                }
                Op::Purge => {
                    let mut dropped = vec![];
                    table.retain(|id| !dead.contains(id), |id| dropped.push(id));
                    for key in model.keys.values_mut() {
                        key.waiting.retain(|task| !dead.contains(&task.2));
                    }
                    model.refresh();
                    prop_assert!(dropped.iter().all(|id| dead.contains(id)));
                    dead.retain(|id| !dropped.contains(id));
                }
                Op::Pass(by) => {
                    model.advance(by);
                    table.advance(at(model.now));
                }
                Op::Limits(limits) => {
                    model.default = limits;
                    for key in model.keys.values_mut().filter(|key| !key.own) {
                        key.limits = limits;
                        key.spent = key.spent.min(key.interval() * u64::from(limits.burst));
                    }
                    model.refresh();
                    table.set_limits(at(model.now), limits).unwrap();
                }
                Op::Own(key, limits) => {
                    let default = model.default;
                    let entry = model.key(key);
                    entry.limits = limits.unwrap_or(default);
                    entry.own = limits.is_some();
                    entry.spent = entry.spent.min(entry.interval() * u64::from(entry.limits.burst));
                    model.refresh();
                    table.set_limit(at(model.now), key, "", limits).unwrap();
                }
                Op::Finish(_) | Op::Again(..) => {}
            }
            let waiting: usize = model.keys.values().map(|key| key.waiting.len() + key.started.len()).sum();
            prop_assert_eq!(table.len(), waiting);
            prop_assert_eq!(table.excess(), excess);
            for view in table.keys() {
                let key = &model.keys[&view.key];
                prop_assert_eq!(view.running, key.running);
                prop_assert_eq!(view.waiting, key.waiting.len() + key.started.len());
            }
            let shown: u32 = table.keys().map(|view| view.running).sum();
            prop_assert_eq!(shown, model.keys.values().map(|key| key.running).sum::<u32>());
        }
    }

    /// CPU-29: in a table of any load, also a full one, every task comes out once, and at the end nothing is left.
    #[test]
    fn nothing_is_lost(
        capacity in 2usize..40,
        pushes in proptest::collection::vec((any::<u64>(), 0u64..50), 1..400),
        concurrency in proptest::option::of(1u32..3),
    ) {
        let mut table = KeyTable::new(capacity);
        table.set_limits(at(0), KeyLimits { concurrency, ..KeyLimits::default() }).unwrap();
        let mut seen = vec![false; pushes.len()];
        let mut running = Vec::new();
        for (id, &(key, rank)) in pushes.iter().enumerate() {
            table.push(at(0), ((key % 97) << 57) | (key % 97), "", rank, id);
            prop_assert!(table.known() <= capacity);
            if id % 3 == 0 && let Some((place, id)) = take(&mut table, 0) {
                prop_assert!(!std::mem::replace(&mut seen[id], true));
                running.push(place);
            }
        }
        loop {
            match take(&mut table, 0) {
                Some((place, id)) => {
                    prop_assert!(!std::mem::replace(&mut seen[id], true));
                    running.push(place);
                }
                None => match running.pop() {
                    Some(place) => table.finished(place),
                    None => break,
                },
            }
        }
        prop_assert!(seen.iter().all(|&seen| seen));
        prop_assert_eq!((table.len(), table.known(), table.keys().count(), table.turns()), (0, 0, 0, 0));
    }
}
