//! Shares against the ideal fluid machine that gives every class its part at every moment.

use alloc::vec::Vec;

use flyball_core::class::MAX_CLASSES;
use proptest::prelude::*;

use super::machine::{MS, Machine, TICK, US, id, params};
use crate::sched::place::jain;
use crate::sched::weights::{Demand, WHOLE, part, solve};
use crate::sched::{Algorithm, ClassParams};

/// Classes that are all backlogged, with tasks of these lengths in ticks.
fn backlogged(
    algorithm: Algorithm,
    cpus: usize,
    classes: &[ClassParams],
    tasks: &[u64],
) -> Machine {
    let mut machine = Machine::whole(algorithm, cpus, classes);
    for (load, ticks) in machine.loads.iter_mut().zip(tasks) {
        load.backlog_ns = ticks * TICK;
    }
    machine
}

/// Runs and checks at every moment that each class is within `workers × (slice + longest task)` of its part.
fn check_bound(
    machine: &mut Machine,
    cpus: usize,
    promised: &[f64],
    longest: u64,
    nanos: u64,
) -> Result<(), TestCaseError> {
    let slice = 100 * US;
    let bound = (cpus as u64 * (slice + longest)) as f64;
    let end = machine.now.saturating_add_nanos(nanos);
    while machine.now < end {
        machine.step();
        let total: f64 = machine.used().iter().sum();
        for (class, used) in machine.used().iter().enumerate() {
            let off = used - total * promised[class];
            prop_assert!(
                off.abs() <= bound,
                "class {class} is off by {off} ns of {bound} at {}",
                machine.now
            );
        }
    }
    Ok(())
}

fn shares(max: usize) -> impl Strategy<Value = Vec<(u32, u64)>> {
    proptest::collection::vec((prop_oneof![1u32..20, 1u32..5000], 1u64..80), 1..max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// CPU-9, CPU-11: under `cfs` every backlogged class is at any moment within workers × (slice + longest task) of what
    /// it was promised, whatever weights, task lengths and number of workers.
    #[test]
    fn cfs_keeps_within_the_bound(classes in shares(9), cpus in 1usize..5) {
        let all: Vec<_> = classes.iter().map(|(s, _)| params(*s)).collect();
        let tasks: Vec<_> = classes.iter().map(|(_, t)| *t).collect();
        let total: f64 = classes.iter().map(|(s, _)| f64::from(*s)).sum();
        let promised: Vec<_> = classes.iter().map(|(s, _)| f64::from(*s) / total).collect();
        let mut machine = backlogged(Algorithm::Cfs, cpus, &all, &tasks);
        check_bound(&mut machine, cpus, &promised, tasks.iter().max().unwrap() * TICK, 150 * MS)?;
    }

    /// CPU-10, CPU-11: the same under `proportional_share`, with guarantees and any latency targets.
    #[test]
    fn proportional_share_keeps_within_the_bound(
        classes in shares(9), cpus in 1usize..5, guarantee in 0.0f64..0.9, targets in proptest::collection::vec(1u64..10_000, 9)
    ) {
        let mut all: Vec<_> = classes.iter().map(|(s, _)| params(*s)).collect();
        all[0].guarantee = guarantee;
        for (class, target) in all.iter_mut().zip(targets) {
            class.latency_target_ns = target * MS / 10;
        }
        let tasks: Vec<_> = classes.iter().map(|(_, t)| *t).collect();
        let mut machine = backlogged(Algorithm::ProportionalShare, cpus, &all, &tasks);
        machine.step();
        let promised: Vec<_> = (0..all.len()).map(|i| machine.scheduler.stats(id(i)).unwrap().promised.unwrap()).collect();
        prop_assert!(promised[0] >= guarantee - 0.005);
        check_bound(&mut machine, cpus, &promised, tasks.iter().max().unwrap() * TICK, 150 * MS)?;
    }

    /// CPU-7, CPU-11: `round_robin` gives every backlogged class the same, within the same bound and one turn of the others.
    #[test]
    fn round_robin_is_equal(classes in shares(9), cpus in 1usize..5) {
        let all: Vec<_> = classes.iter().map(|(s, _)| params(*s)).collect();
        let tasks: Vec<_> = classes.iter().map(|(_, t)| *t).collect();
        let mut machine = backlogged(Algorithm::RoundRobin, cpus, &all, &tasks);
        let promised = alloc::vec![1.0 / all.len() as f64; all.len()];
        check_bound(&mut machine, cpus, &promised, tasks.iter().max().unwrap() * TICK, 150 * MS)?;
    }

    /// CPU-9: two classes that stay backlogged keep their ratio while others come and go as they like.
    #[test]
    fn others_that_come_and_go_do_not_disturb_the_ratio(
        a in 1u32..1000, b in 1u32..1000, other in 1u32..5000, bursts in proptest::collection::vec((1u64..200, 1usize..20, 1u64..30), 5..30), cpus in 1usize..4
    ) {
        let mut machine = Machine::whole(Algorithm::Cfs, cpus, &[params(a), params(b), params(other)]);
        machine.loads[0].backlog_ns = 50 * US;
        machine.loads[1].backlog_ns = 200 * US;
        for (pause, count, ticks) in bursts {
            for _ in 0..count {
                machine.submit(2, ticks * TICK);
            }
            machine.run_for(pause * 100 * US);
            let used = machine.used();
            let (a, b) = (f64::from(a), f64::from(b));
            // Each may be off by the bound; compared by virtual time.
            let bound = cpus as f64 * (100.0 * US as f64 + 300.0 * US as f64);
            let gap = (used[0] / a - used[1] / b).abs();
            prop_assert!(gap <= bound / a + bound / b, "{gap} {a} {b} {used:?}");
        }
    }

    /// CPU-10: water filling against bisection for the level.
    #[test]
    fn weights_are_the_water_level(demands in proptest::collection::vec((1u64..5000, 0.0f64..1.0, 0.0f64..1.0), 1..10)) {
        let guarantees: f64 = demands.iter().map(|(_, g, _)| g).sum();
        let scale = if guarantees > 0.9 { 0.9 / guarantees } else { 1.0 };
        let mut table = [Demand::default(); MAX_CLASSES];
        let mut model = Vec::new();
        for (i, (shares, guarantee, cap)) in demands.iter().enumerate() {
            let floor = guarantee * scale;
            let cap = floor + (1.0 - floor) * cap + 1e-6;
            table[i] = Demand { shares: *shares, floor: part(floor), cap: part(cap) };
            model.push((*shares as f64, floor, cap));
        }
        let set = (0..demands.len()).map(id).collect();
        let weights = solve(set, &table);
        let total: u64 = weights[..demands.len()].iter().sum();
        let fill = |level: f64| model.iter().map(|(s, low, high)| (s * level).clamp(*low, *high)).collect::<Vec<_>>();
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if fill(middle).iter().sum::<f64>() > 1.0 { high = middle } else { low = middle }
        }
        let parts = fill(high);
        let whole: f64 = parts.iter().sum();
        // Where all caps together are below one there is no level that fills the whole; parts are relative then.
        for (i, part) in parts.iter().enumerate() {
            let given = weights[i] as f64 / total as f64;
            let rounding = 1.0 / weights[i] as f64;
            prop_assert!((given - part / whole).abs() <= 0.002 + rounding * given, "{i}: {given} {parts:?} {weights:?}");
        }
    }
}

/// CPU-10: guarantees that leave nothing are cut so that the rest keeps half a percent.
#[test]
fn guarantees_leave_something_to_the_others() {
    let mut table = [Demand::default(); MAX_CLASSES];
    table[0] = Demand {
        shares: 1,
        floor: WHOLE / 2,
        cap: WHOLE,
    };
    table[1] = Demand {
        shares: 1,
        floor: WHOLE / 2,
        cap: WHOLE,
    };
    table[2] = Demand {
        shares: 1000,
        floor: 0,
        cap: WHOLE,
    };
    let weights = solve((0..3).map(id).collect(), &table);
    let total = (weights[0] + weights[1] + weights[2]) as f64;
    assert!(
        (weights[2] as f64 / total - 0.005).abs() < 1e-4,
        "{weights:?}"
    );
    assert_eq!(weights[0], weights[1]);
}

/// CPU-11: Jain's index over equal classes is at least 0.99 under every algorithm, over 0.5 s, also with 64 classes.
#[test]
fn equal_classes_are_served_equally() {
    for algorithm in Algorithm::ALL {
        for count in [2, 8, 64] {
            let classes: Vec<_> = (0..count).map(|_| params(1024)).collect();
            let mut machine = backlogged(algorithm, 2, &classes, &alloc::vec![10; count]);
            machine.run_for(500 * MS);
            let index = jain(&machine.used());
            assert!(index >= 0.99, "{algorithm} {count}: {index}");
        }
    }
}

/// CPU-9: a class that sleeps for a moment whenever it can gains nothing by it.
#[test]
fn naps_gain_nothing() {
    let mut machine = Machine::whole(Algorithm::Cfs, 1, &[params(1000), params(1000)]);
    machine.loads[0].backlog_ns = 100 * US;
    while machine.now.as_nanos() < 1_000 * MS {
        // Five tasks of 1 ms, then a nap of 100 µs.
        for _ in 0..5 {
            machine.submit(1, MS);
        }
        while !machine.loads[1].queue.is_empty() {
            machine.step();
        }
        machine.run_for(1_100 * US);
    }
    let used = machine.used();
    assert!(used[1] <= used[0] * 1.05, "{used:?}");
}

/// CPU-9: a class that mostly waits is served next when it wakes, and no lag is hoarded over a long sleep.
#[test]
fn a_class_that_mostly_waits_goes_next_and_hoards_nothing() {
    let mut machine = Machine::whole(
        Algorithm::Cfs,
        1,
        &[params(1024), params(1024), params(1024)],
    );
    machine.loads[0].backlog_ns = 100 * US;
    machine.loads[1].backlog_ns = 100 * US;
    machine.run_for(20 * MS);
    for round in 0..40 {
        machine.submit(2, 50 * US);
        machine.run_for(5 * MS);
        if round == 5 {
            // Its habits are known now.
            machine.loads[2].longest_wait_ns = 0;
        }
    }
    assert_eq!(machine.loads[2].finished, 40);
    assert!(
        machine.loads[2].longest_wait_ns <= 100 * US,
        "{}",
        machine.loads[2].longest_wait_ns
    );
    machine.run_for(10_000 * MS);
    let before = machine.used();
    machine.loads[2].backlog_ns = 100 * US;
    machine.run_for(3 * MS);
    let gained = machine.used()[2] - before[2];
    assert!(
        gained <= 1.3 * MS as f64,
        "its third and no more than a slice or two: {gained}"
    );
}

/// CPU-10: a guarantee holds against any shares; a ceiling holds when there is nobody else; both in the long run.
#[test]
fn guarantees_and_ceilings_hold() {
    for algorithm in [Algorithm::Cfs, Algorithm::ProportionalShare] {
        let mut promised = params(1);
        promised.guarantee = 0.3;
        let mut limited = params(10_000);
        limited.ceiling = 0.25;
        let mut machine = backlogged(
            algorithm,
            2,
            &[promised, limited, params(1000)],
            &[20, 20, 20],
        );
        machine.run_for(1_000 * MS);
        let parts = machine.parts_since(&[0.0; 3]);
        assert!((parts[0] - 0.30).abs() < 0.01, "{algorithm} {parts:?}");
        assert!((parts[1] - 0.25).abs() < 0.01, "{algorithm} {parts:?}");
        machine.loads[0].backlog_ns = 0;
        machine.loads[2].backlog_ns = 0;
        machine.run_for(200 * MS);
        let before = machine.loads[1].used_ns;
        machine.run_for(1_000 * MS);
        let alone = (machine.loads[1].used_ns - before) as f64 / (2_000.0 * MS as f64);
        assert!((alone - 0.25).abs() < 0.005, "{algorithm} {alone}");
    }
}

/// CPU-11: over consecutive seconds every class is within a point of its promise, also when the algorithm is switched
/// back and forth before, and switching loses no service record.
#[test]
fn switching_algorithms_under_load_keeps_records_and_shares() {
    let shares = [2048, 1024, 256, 16];
    let classes: Vec<_> = shares.iter().map(|s| params(*s)).collect();
    let mut machine = backlogged(Algorithm::Cfs, 2, &classes, &[10, 50, 100, 30]);
    for round in 0..20 {
        machine
            .scheduler
            .set_algorithm(machine.now, Algorithm::ALL[round % 4]);
        machine.run_for(15 * MS);
    }
    for algorithm in [Algorithm::Cfs, Algorithm::ProportionalShare] {
        machine.scheduler.set_algorithm(machine.now, algorithm);
        for _ in 0..2 {
            let before = machine.used();
            machine.run_for(1_000 * MS);
            let parts = machine.parts_since(&before);
            for (share, part) in shares.iter().zip(&parts) {
                assert!(
                    (f64::from(*share) / 3344.0 - part).abs() < 0.01,
                    "{algorithm} {parts:?}"
                );
            }
        }
    }
    for (i, load) in machine.loads.iter().enumerate() {
        assert_eq!(
            machine.scheduler.stats(id(i)).unwrap().service_ns,
            load.settled_ns
        );
    }
}

/// CPU-9: a grant of seconds counts while it is out, so others are neither starved nor showered afterwards.
#[test]
fn a_long_grant_is_made_up_for() {
    let mut machine = Machine::whole(Algorithm::Cfs, 2, &[params(1024), params(1024)]);
    machine.submit(0, 2_000 * MS);
    machine.step();
    machine.loads[0].backlog_ns = 100 * US;
    machine.loads[1].backlog_ns = 100 * US;
    machine.run_for(2_000 * MS);
    let parts = machine.parts_since(&[0.0, 0.0]);
    assert!((parts[0] - 0.5).abs() < 0.001, "{parts:?}");
    machine.run_for(1_000 * MS);
    let parts = machine.parts_since(&[0.0, 0.0]);
    assert!((parts[0] - 0.5).abs() < 0.001, "{parts:?}");
}
