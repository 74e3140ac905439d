//! Ceilings that several classes have together.

use flyball_core::id::ClassSet;
use flyball_core::time::Timestamp;

use super::machine::{MS, Machine, TICK, id, params};
use crate::sched::{Algorithm, ClassParams, MAX_JOINT, Pick, Scheduler};

fn set(classes: &[usize]) -> ClassSet {
    classes.iter().fold(ClassSet::EMPTY, |all, class| {
        all | ClassSet::only(id(*class))
    })
}

fn machine(algorithm: Algorithm, cpus: usize, classes: &[ClassParams], ticks: u64) -> Machine {
    let mut machine = Machine::whole(algorithm, cpus, classes);
    for load in &mut machine.loads {
        load.backlog_ns = ticks * TICK;
    }
    machine
}

/// CPU-20: under every algorithm a set of classes gets what it may use together, to 2 % of a CPU, the others get the
/// rest, and when the ceiling is lifted all is as before.
#[test]
fn a_set_gets_its_allowance_and_no_more() {
    for algorithm in Algorithm::ALL {
        for cpus in [0.1, 0.8, 1.0, 1.5] {
            let mut machine = machine(algorithm, 2, &[params(1024), params(256), params(16)], 20);
            let now = machine.now;
            machine
                .scheduler
                .set_joint_ceiling(now, 3, Some((set(&[1, 2]), cpus)));
            machine.loads[0].backlog_ns = 0;
            machine.run_for(300 * MS);
            let before = machine.used();
            machine.run_for(2_000 * MS);
            let used = machine.used();
            let part = (used[1] + used[2] - before[1] - before[2]) / (2_000.0 * MS as f64);
            assert!((part - cpus).abs() < 0.02, "{algorithm} {cpus}: {part}");
            let now = machine.now;
            machine.scheduler.set_joint_ceiling(now, 3, None);
            let before = machine.used();
            machine.run_for(500 * MS);
            let used = machine.used();
            let part = (used[1] + used[2] - before[1] - before[2]) / (500.0 * MS as f64);
            assert!(part > 1.98, "{algorithm}: {part}");
        }
    }
}

/// CPU-20: tasks that are long against the cycle do not run all at once and then not at all: the workers that run are no more than
/// the allowance has CPUs, rounded up.
#[test]
fn long_tasks_run_on_fewer_workers() {
    let mut machine = machine(Algorithm::Cfs, 8, &[params(256)], 400_000);
    let now = machine.now;
    machine
        .scheduler
        .set_joint_ceiling(now, 0, Some((set(&[0]), 3.0)));
    for _ in 0..40 {
        machine.run_for(50 * MS);
        let running = machine.scheduler.stats(id(0)).map(|stats| stats.in_flight);
        assert!(running <= Some(3), "{running:?}");
    }
}

/// CPU-20: what is guaranteed is not withheld, and a class of a higher priority finds something left.
#[test]
fn guarantees_and_higher_classes_come_first() {
    let promised = ClassParams {
        guarantee: 0.5,
        ..params(256)
    };
    let mut machine = machine(Algorithm::Cfs, 2, &[promised], 20);
    let now = machine.now;
    machine
        .scheduler
        .set_joint_ceiling(now, 0, Some((set(&[0]), 0.01)));
    machine.run_for(200 * MS);
    let before = machine.used();
    machine.run_for(1_000 * MS);
    let part = (machine.used()[0] - before[0]) / (1_000.0 * MS as f64);
    assert!((part - 1.0).abs() < 0.02, "{part}");

    let mut scheduler = Scheduler::new(Algorithm::Cfs, 4);
    let t = Timestamp::from_nanos(1);
    for (class, priority) in [(0, 2), (1, 1)] {
        scheduler
            .insert(
                t,
                id(class),
                ClassParams {
                    priority,
                    ..params(256)
                },
            )
            .unwrap();
    }
    scheduler.set_joint_ceiling(t, 0, Some((set(&[0, 1]), 2.0)));
    let lower = |now, scheduler: &mut Scheduler| scheduler.pick(now, set(&[1]), ClassSet::ALL);
    let Pick::Run(grant) = lower(t, &mut scheduler) else {
        panic!("the bucket is full")
    };
    // The lower class has used all that it may: 100 ms of 200.
    scheduler.settle(t, grant, 100 * MS);
    assert!(matches!(lower(t, &mut scheduler), Pick::Wait { .. }));
    assert!(
        matches!(scheduler.pick(t, set(&[0, 1]), ClassSet::ALL), Pick::Run(grant) if grant.class == id(0))
    );
}

/// CPU-20: a class that goes leaves its sets; places beyond the last, empty sets and odd figures do nothing.
#[test]
fn odd_orders_do_no_harm() {
    let mut scheduler = Scheduler::new(Algorithm::Cfs, 2);
    let t = Timestamp::from_nanos(1);
    scheduler.insert(t, id(0), params(1)).unwrap();
    for cpus in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
        scheduler.set_joint_ceiling(t, MAX_JOINT, Some((set(&[0]), cpus)));
        scheduler.set_joint_ceiling(t, 0, Some((set(&[5]), cpus)));
        assert!(scheduler.held_jointly(t).is_empty());
        scheduler.set_joint_ceiling(t, 0, Some((set(&[0]), cpus)));
        if let Pick::Run(grant) = scheduler.pick(t, set(&[0]), ClassSet::ALL) {
            scheduler.settle(t, grant, 0);
        }
    }
    scheduler.remove(t, id(0)).unwrap();
    assert!(scheduler.held_jointly(t).is_empty());
}

/// CPU-20: a task that goes on for seconds is held by what it uses: when the allowance changes, nothing of what it had before is owed,
/// and what was used before there was a ceiling is not owed either.
#[test]
fn a_long_task_owes_nothing_for_what_it_had() {
    let mut scheduler = Scheduler::new(Algorithm::Cfs, 2);
    let at = |ms: u64| Timestamp::from_nanos(1 + ms * MS);
    scheduler.insert(at(0), id(0), params(256)).unwrap();
    let Pick::Run(grant) = scheduler.pick(at(0), set(&[0]), ClassSet::ALL) else {
        panic!("nothing forbids it")
    };
    let (mut used, mut last, mut running) = (1_000 * MS, 1_000, true);
    for tick in 100..700u64 {
        let now = tick * 10;
        if running {
            used += (now - last) * MS;
        }
        last = now;
        let idle = now * MS - used;
        scheduler.note_rest(at(now), id(0), idle, if running { 0 } else { 1024 });
        // A new allowance four times a second.
        let cpus = 0.5 + 0.01 * ((tick / 25) % 2) as f64;
        if tick.is_multiple_of(25) {
            scheduler.set_joint_ceiling(at(now), 0, Some((set(&[0]), cpus)));
        }
        running = scheduler.held_jointly(at(now)).is_empty();
    }
    let part = (used - 1_000 * MS) as f64 / (6_000 * MS) as f64;
    assert!((0.48..0.54).contains(&part), "{part}");
    scheduler.settle(at(7_000), grant, used);
    assert!(scheduler.held_jointly(at(7_200)).is_empty());
}
