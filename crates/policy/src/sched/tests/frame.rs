//! What holds under every algorithm: errors, accounting, work conservation, limits.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use flyball_core::class::Group;
use flyball_core::id::ClassSet;
use flyball_core::time::Timestamp;
use proptest::prelude::*;

use super::machine::{MS, Machine, US, id, params};
use crate::Error;
use crate::sched::{Algorithm, ClassParams, Grant, Pick, Scheduler};

#[derive(Clone, Debug)]
enum Event {
    Pick {
        ready: u64,
        allowed: u64,
        later: u64,
    },
    Settle {
        which: usize,
        used: u64,
        later: u64,
    },
    Algorithm(usize),
    Parallelism(u32),
    Replace {
        class: usize,
        shares: u32,
        guarantee: f64,
        ceiling: f64,
        concurrency: u32,
    },
    Remove(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let time = || prop_oneof![Just(0u64), 0..200 * US, 0..200 * MS, Just(u64::MAX / 4)];
    prop_oneof![
        6 => (any::<u64>(), any::<u64>(), time()).prop_map(|(ready, allowed, later)| Event::Pick { ready, allowed, later }),
        6 => (0usize..64, prop_oneof![0..300 * US, Just(0), Just(u64::MAX)], time()).prop_map(|(which, used, later)| Event::Settle { which, used, later }),
        1 => (0usize..4).prop_map(Event::Algorithm),
        1 => (0u32..200).prop_map(Event::Parallelism),
        2 => (0usize..12, 1u32..1_000_000, 0.0f64..0.3, 0.0f64..1.0, 1u32..5).prop_map(|(class, shares, guarantee, ceiling, concurrency)|
            Event::Replace { class, shares, guarantee, ceiling: guarantee + (1.0 - guarantee) * ceiling + 1e-9, concurrency }),
        1 => (0usize..12).prop_map(Event::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any sequence of calls, with any times and amounts: only a class that is ready, allowed and below its concurrency
    /// is granted; `Idle` only when nothing allowed is ready; a wait ends later than now; all service is on record.
    #[test]
    fn any_sequence_of_calls_is_sound(events in proptest::collection::vec(event(), 1..120)) {
        let mut scheduler = Scheduler::new(Algorithm::Cfs, 2);
        let mut now = Timestamp::ZERO;
        let mut out: Vec<(Grant, u64)> = Vec::new();
        let mut limits: BTreeMap<usize, u32> = BTreeMap::new();
        let mut births: BTreeMap<usize, u64> = BTreeMap::new();
        let mut service: BTreeMap<usize, u64> = BTreeMap::new();
        let mut born = 0;
        for event in events {
            match event {
                Event::Pick { ready, allowed, later } => {
                    now = now.saturating_add_nanos(later);
                    let known: ClassSet = limits.keys().map(|c| id(*c)).collect();
                    let (ready, allowed) = (ClassSet::from_bits(ready), ClassSet::from_bits(allowed));
                    match scheduler.pick(now, ready, allowed) {
                        Pick::Run(grant) => {
                            let class = grant.class.index();
                            prop_assert!((ready & allowed & known).contains(grant.class));
                            prop_assert!(grant.slice_ns > 0);
                            let birth = births[&class];
                            let already = out.iter().filter(|(g, b)| g.class == grant.class && *b == birth).count() as u32;
                            prop_assert!(already < limits[&class]);
                            out.push((grant, birth));
                        }
                        Pick::Wait { until } => {
                            prop_assert!(until > now || now == Timestamp::MAX);
                            prop_assert!(!(ready & allowed & known).is_empty());
                        }
                        Pick::Idle => prop_assert!((ready & allowed & known).is_empty()),
                    }
                }
                Event::Settle { which, used, later } if !out.is_empty() => {
                    now = now.saturating_add_nanos(later);
                    let (grant, birth) = out.swap_remove(which % out.len());
                    let class = grant.class.index();
                    if births.get(&class) == Some(&birth) {
                        let total = service.get_mut(&class).unwrap();
                        *total = total.saturating_add(used);
                    }
                    scheduler.settle(now, grant, used);
                }
                Event::Settle { .. } => {}
                Event::Algorithm(which) => scheduler.set_algorithm(now, Algorithm::ALL[which]),
                Event::Parallelism(count) => scheduler.set_parallelism(count),
                Event::Replace { class, shares, guarantee, ceiling, concurrency } => {
                    let group = if class % 3 == 0 { Group::Front } else { Group::Back };
                    let changed = ClassParams { guarantee, ceiling: ceiling.min(1.0), concurrency, group, ..params(shares) };
                    let result = if limits.contains_key(&class) {
                        scheduler.update(now, id(class), changed)
                    } else {
                        scheduler.insert(now, id(class), changed)
                    };
                    match result {
                        Ok(()) => {
                            if limits.insert(class, concurrency).is_none() {
                                born += 1;
                                births.insert(class, born);
                                service.insert(class, 0);
                            }
                        }
                        Err(error) => {
 let over = matches!(error, Error::GuaranteesOverWhole { .. });
 prop_assert!(over);
 }
                    }
                }
                Event::Remove(class) => {
                    let existed = limits.remove(&class).is_some();
                    births.remove(&class);
                    service.remove(&class);
                    prop_assert_eq!(scheduler.remove(now, id(class)).is_ok(), existed);
                }
            }
            for class in 0..12 {
                let stats = scheduler.stats(id(class));
                prop_assert_eq!(stats.map(|s| s.service_ns), service.get(&class).copied());
                if let Some(promised) = stats.and_then(|s| s.promised) {
                    prop_assert!((0.0..=1.0).contains(&promised));
                }
            }
        }
    }
}

/// CPU-2: duplicate classes, guarantees over 100 % and values out of range are refused with a clear error, and change
/// nothing.
#[test]
fn bad_classes_are_refused() {
    let mut scheduler = Scheduler::new(Algorithm::Cfs, 2);
    let now = Timestamp::ZERO;
    let guaranteed = |guarantee| ClassParams {
        guarantee,
        ..params(100)
    };
    scheduler.insert(now, id(0), guaranteed(0.7)).unwrap();
    assert_eq!(
        scheduler.insert(now, id(0), params(1)),
        Err(Error::DuplicateClass { class: id(0) })
    );
    let error = scheduler
        .insert(now, id(1), guaranteed(0.4))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("110.0 %") && error.contains("class 1"),
        "{error}"
    );
    assert_eq!(scheduler.stats(id(1)), None);
    scheduler.insert(now, id(1), guaranteed(0.3)).unwrap();
    assert!(scheduler.update(now, id(1), guaranteed(0.31)).is_err());
    scheduler.update(now, id(0), guaranteed(0.6)).unwrap();
    scheduler.update(now, id(1), guaranteed(0.4)).unwrap();
    assert_eq!(
        scheduler.update(now, id(9), params(1)),
        Err(Error::UnknownClass { class: id(9) })
    );
    assert_eq!(
        scheduler.remove(now, id(9)),
        Err(Error::UnknownClass { class: id(9) })
    );
    let bad = [
        ClassParams {
            shares: 0,
            ..params(1)
        },
        ClassParams {
            priority: 8,
            ..params(1)
        },
        ClassParams {
            guarantee: f64::NAN,
            ..params(1)
        },
        ClassParams {
            ceiling: 0.0,
            ..params(1)
        },
        ClassParams {
            ceiling: 0.2,
            guarantee: 0.3,
            ..params(1)
        },
        ClassParams {
            slice_ns: 0,
            ..params(1)
        },
        ClassParams {
            latency_target_ns: 0,
            ..params(1)
        },
        ClassParams {
            concurrency: 0,
            ..params(1)
        },
    ];
    for params in bad {
        let error = scheduler.insert(now, id(2), params).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{error}");
    }
    assert_eq!(
        scheduler.pick(now, ClassSet::only(id(2)), ClassSet::ALL),
        Pick::Idle
    );
}

/// A class that is removed and added again does not inherit grants that are still out.
#[test]
fn grants_of_a_removed_class_are_void() {
    let mut scheduler = Scheduler::new(Algorithm::Cfs, 1);
    let now = Timestamp::ZERO;
    scheduler.insert(now, id(0), params(1)).unwrap();
    let Pick::Run(grant) = scheduler.pick(now, ClassSet::ALL, ClassSet::ALL) else {
        panic!("ready")
    };
    scheduler.remove(now, id(0)).unwrap();
    scheduler.insert(now, id(0), params(1)).unwrap();
    scheduler.settle(now, grant, 5);
    let stats = scheduler.stats(id(0)).unwrap();
    assert_eq!((stats.service_ns, stats.in_flight), (0, 0));
}

/// CPU-2: a class never has more grants out than its concurrency, what it cannot use goes to others, and it is promised
/// no more than it can use.
#[test]
fn concurrency_limits_grants_and_promise() {
    for algorithm in Algorithm::ALL {
        let serial = ClassParams {
            concurrency: 1,
            priority: 7,
            ..params(10_000)
        };
        let mut machine = Machine::whole(algorithm, 4, &[serial, params(1)]);
        machine.loads[0].backlog_ns = 50 * US;
        machine.loads[1].backlog_ns = 50 * US;
        machine.run_for(200 * MS);
        let parts = machine.parts_since(&[0.0, 0.0]);
        assert!(parts[0] <= 0.2501, "{algorithm} {parts:?}");
        if algorithm != Algorithm::RoundRobin {
            assert!(parts[0] >= 0.245, "{algorithm} {parts:?}");
        }
        let used: f64 = machine.used().iter().sum();
        assert!(used >= 0.999 * 800.0 * MS as f64, "no CPU idles: {used}");
    }
}

/// Classes that are all closed by their ceilings are answered with the time at which one opens.
#[test]
fn a_spent_ceiling_says_when_to_come_back() {
    let mut scheduler = Scheduler::new(Algorithm::Cfs, 2);
    let limited = ClassParams {
        ceiling: 0.1,
        ..params(1)
    };
    scheduler.insert(Timestamp::ZERO, id(0), limited).unwrap();
    let Pick::Run(grant) = scheduler.pick(Timestamp::ZERO, ClassSet::ALL, ClassSet::ALL) else {
        panic!("open")
    };
    let now = Timestamp::from_nanos(100 * MS);
    // A tenth of two CPUs for 0.1 s is 20 ms, which the bucket holds; 60 ms more take 300 ms.
    scheduler.settle(now, grant, 80 * MS);
    let Pick::Wait { until } = scheduler.pick(now, ClassSet::ALL, ClassSet::ALL) else {
        panic!("spent")
    };
    let wait = until.saturating_nanos_since(now);
    assert!((200 * MS..=301 * MS).contains(&wait), "{wait}");
    assert!(matches!(
        scheduler.pick(until, ClassSet::ALL, ClassSet::ALL),
        Pick::Run(_)
    ));
}
