//! The front group: never made to wait within what it is entitled to, made to wait beyond it.

use alloc::vec::Vec;

use flyball_core::class::{ClassSpec, Group};
use flyball_core::id::{ClassId, ClassSet};
use flyball_core::rng::Rng;
use flyball_core::time::Timestamp;
use proptest::prelude::*;

use super::machine::{MS, Machine, TICK, US, id, params};
use crate::sched::{Algorithm, ClassParams, Pick, Scheduler};

const INTERACTIVE: usize = 1;

fn built_in(algorithm: Algorithm, cpus: usize) -> Machine {
    let classes: Vec<ClassParams> = ClassSpec::built_in()
        .iter()
        .map(ClassParams::from)
        .collect();
    Machine::split(algorithm, cpus, &classes)
}

/// Submits front tasks at random times, `load` of the machine on average, for `nanos`.
fn arrive(machine: &mut Machine, rng: &mut Rng, load: f64, cpus: usize, task_ns: u64, nanos: u64) {
    let end = machine.now.saturating_add_nanos(nanos);
    let mean = task_ns as f64 / (load * cpus as f64);
    let mut next = machine.now.as_nanos() as f64 + rng.exp(mean);
    while machine.now < end {
        while next <= machine.now.as_nanos() as f64 {
            machine.submit(INTERACTIVE, task_ns);
            next += rng.exp(mean);
        }
        machine.step();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// CPU-6: front arrivals of up to half of the machine are never answered `Wait` while all built-in back classes
    /// are backlogged, whatever the algorithm and the length of back tasks, also after a long sleep, also when other
    /// processes leave the back group nothing.
    #[test]
    fn arrivals_within_the_entitlement_never_wait(
        seed: u64,
        algorithm in 0usize..4,
        task in 2u64..=200,
        back_task in prop_oneof![Just(10u64), Just(100), Just(1_000), Just(1_000_000)],
        load in 0.02f64..=0.5,
        foreign in any::<bool>(),
        sleep in any::<bool>(),
    ) {
        let cpus = 2;
        let mut rng = Rng::seeded(seed);
        let mut machine = built_in(Algorithm::ALL[algorithm], cpus);
        for back in 2..5 {
            machine.loads[back].backlog_ns = back_task * TICK;
        }
        // Other processes take all that the front group leaves: the back group starves, the front group must not wait.
        machine.foreign = 0;
        if sleep {
            machine.run_for(100 * MS);
        }
        let load = if foreign { machine.foreign = 2; load / 2.0 } else { load };
        arrive(&mut machine, &mut rng, load, cpus, task * TICK, 300 * MS);
        prop_assert_eq!(machine.loads[INTERACTIVE].waits, 0);
        prop_assert!(machine.loads[INTERACTIVE].finished > 0 || load * 600.0 * (MS as f64) < 20.0 * (task * TICK) as f64);
    }
}

/// CPU-6: while a back class holds both workers for ten seconds, the front group never waits within its entitlement.
#[test]
fn a_ten_second_grant_does_not_make_the_front_wait() {
    for algorithm in Algorithm::ALL {
        let mut machine = built_in(algorithm, 2);
        for back in 2..5 {
            machine.loads[back].backlog_ns = 10_000 * MS;
        }
        arrive(&mut machine, &mut Rng::seeded(3), 0.5, 2, MS, 3_000 * MS);
        assert_eq!(machine.loads[INTERACTIVE].waits, 0, "{algorithm}");
    }
}

/// CPU-11: when front and back classes are all backlogged, shares hold between the groups too, each second after the
/// first, within a point.
#[test]
fn shares_hold_between_the_groups() {
    for algorithm in [Algorithm::Cfs, Algorithm::ProportionalShare] {
        let mut machine = built_in(algorithm, 2);
        for (load, task) in machine.loads.iter_mut().zip([0, 100, 100, 1000, 500]) {
            load.backlog_ns = task * US;
        }
        machine.run_for(300 * MS);
        for _ in 0..2 {
            let before = machine.used();
            machine.run_for(1_000 * MS);
            let parts = machine.parts_since(&before);
            for (part, shares) in parts.iter().zip([0.0, 2048.0, 1024.0, 256.0, 16.0]) {
                assert!(
                    (part - shares / 3344.0).abs() < 0.01,
                    "{algorithm} {parts:?}"
                );
            }
        }
        assert!(machine.loads[INTERACTIVE].waits > 0);
    }
}

/// CPU-7: equal turns also between the groups once the front group has a backlog.
#[test]
fn round_robin_is_equal_between_the_groups() {
    let mut machine = built_in(Algorithm::RoundRobin, 2);
    for load in &mut machine.loads[1..] {
        load.backlog_ns = 100 * US;
    }
    machine.run_for(500 * MS);
    let before = machine.used();
    machine.run_for(1_000 * MS);
    let parts = machine.parts_since(&before);
    assert!(
        parts[1..].iter().all(|part| (part - 0.25).abs() < 0.01),
        "{parts:?}"
    );
}

/// CPU-8: a front group that would take everything leaves the aged back classes a tenth, and no more.
#[test]
fn priority_keeps_a_tenth_for_aged_back_classes() {
    let mut machine = built_in(Algorithm::Priority, 2);
    for load in &mut machine.loads[1..] {
        load.backlog_ns = 100 * US;
    }
    machine.run_for(1_000 * MS);
    let before = machine.used();
    machine.run_for(3_000 * MS);
    let parts = machine.parts_since(&before);
    assert!((0.89..0.999).contains(&parts[INTERACTIVE]), "{parts:?}");
    for back in 2..5 {
        assert!(machine.loads[back].finished > 0, "{back}");
        assert!(
            machine.loads[back].longest_wait_ns < 1_000 * MS,
            "{}",
            machine.loads[back].longest_wait_ns
        );
    }
}

/// Waits of the front group are 0.2 to 5 ms, and only for back work that can run.
#[test]
fn waits_are_bounded_and_only_for_back_work() {
    let front = ClassParams {
        group: Group::Front,
        ..params(10)
    };
    let capped = ClassParams {
        concurrency: 1,
        ..params(1000)
    };
    let mut scheduler = Scheduler::new(Algorithm::Cfs, 1);
    scheduler.insert(Timestamp::ZERO, id(0), front).unwrap();
    scheduler.insert(Timestamp::ZERO, id(1), capped).unwrap();
    let (fronts, backs) = (ClassSet::only(id(0)), ClassSet::only(id(1)));
    let both = fronts | backs;
    let mut now = Timestamp::ZERO;
    let mut waits = 0;
    for _ in 0..200 {
        match scheduler.pick(now, both, fronts) {
            Pick::Run(grant) => {
                now = now.saturating_add_nanos(MS);
                scheduler.settle(now, grant, MS);
            }
            Pick::Wait { until } => {
                let wait = until.saturating_nanos_since(now);
                assert!((200 * US..=5 * MS).contains(&wait), "{wait}");
                waits += 1;
                // Without back work there is nothing to wait for.
                assert!(matches!(
                    scheduler.clone().pick(now, fronts, fronts),
                    Pick::Run(_)
                ));
                // Neither with back work that has all the grants it may have.
                let mut full = scheduler.clone();
                assert!(matches!(full.pick(now, both, backs), Pick::Run(_)));
                assert!(matches!(full.pick(now, both, fronts), Pick::Run(_)));
                now = until;
            }
            Pick::Idle => panic!("front work is ready"),
        }
    }
    assert!(waits > 50);
    let mixed = ClassSet::ALL;
    assert!(
        matches!(scheduler.pick(now, both, mixed), Pick::Run(grant) if grant.class == ClassId::new(1))
    );
}

/// CPU-6, CPU-11: tasks of the front group that are seen to rest do not use up its entitlement, for as long as they rest; those that
/// compute do; and when the last of them has been settled, nothing of it is remembered.
#[test]
fn resting_tasks_use_up_nothing() {
    let classes: Vec<ClassParams> = ClassSpec::built_in()
        .iter()
        .map(ClassParams::from)
        .collect();
    let (front, back) = (id(INTERACTIVE), id(3));
    let both = ClassSet::only(front) | ClassSet::only(back);
    let second = 1_000 * MS;
    for (rest, waits) in [(None, true), (Some(1024), false), (Some(0), true)] {
        let mut scheduler = Scheduler::new(Algorithm::Cfs, 2);
        for (index, params) in classes.iter().enumerate() {
            scheduler
                .insert(Timestamp::ZERO, id(index), params.clone())
                .unwrap();
        }
        let at = |nanos: u64| Timestamp::from_nanos(nanos);
        let grants: Vec<_> = (0..2)
            .map(
                |_| match scheduler.pick(at(MS), both, ClassSet::only(front)) {
                    Pick::Run(grant) => grant,
                    other => panic!("{other:?}"),
                },
            )
            .collect();
        // A second later both still run: they computed all the time, rested all the time, or rested and now compute again.
        if let Some(resting) = rest {
            scheduler.note_rest(at(second), front, 2 * (second - MS), 2 * resting);
        }
        // A resting task stays resting until it is looked at again.
        let later = at(2 * second);
        let answer = scheduler.pick(later, both, ClassSet::only(front));
        assert_eq!(
            matches!(answer, Pick::Wait { .. }),
            waits,
            "{rest:?}: {answer:?}"
        );
        for grant in grants {
            scheduler.settle(later, grant, 1_000);
        }
        if let Pick::Run(grant) = answer {
            scheduler.settle(later, grant, 1_000);
        }
        let after = scheduler.pick(at(2 * second + 100 * MS), both, ClassSet::only(front));
        assert!(matches!(after, Pick::Run(_)), "{rest:?}: {after:?}");
    }
}
