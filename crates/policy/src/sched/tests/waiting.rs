//! `priority`: strictness, ageing and the bound on waiting.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::machine::{MS, Machine, TICK, US, id, params};
use crate::sched::{Algorithm, ClassParams, waiting_bound_ns};

fn with_priority(priority: u8) -> ClassParams {
    ClassParams {
        priority,
        ..params(1024)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// CPU-8: no ready class waits longer than the stated bound, whatever priorities and task lengths.
    #[test]
    fn no_class_waits_longer_than_the_bound(classes in proptest::collection::vec((0u8..8, 1u64..500), 2..9), cpus in 1usize..4) {
        let all: Vec<_> = classes.iter().map(|(p, _)| with_priority(*p)).collect();
        let mut machine = Machine::whole(Algorithm::Priority, cpus, &all);
        for (load, (_, ticks)) in machine.loads.iter_mut().zip(&classes) {
            load.backlog_ns = ticks * TICK;
        }
        machine.run_for(1_500 * MS);
        let highest = classes.iter().map(|(p, _)| *p).max().unwrap();
        let longest_turn = 100 * US + classes.iter().map(|(_, t)| t * TICK).max().unwrap();
        for (load, (priority, _)) in machine.loads.iter().zip(&classes) {
            let bound = waiting_bound_ns(highest - priority, classes.len() as u32, longest_turn);
            prop_assert!(load.longest_wait_ns <= bound, "{} > {bound}", load.longest_wait_ns);
            prop_assert!(load.finished > 0 || bound > 1_500 * MS);
        }
    }
}

/// CPU-8: the higher level gets all but what ageing gives to the lower, and ageing is counted.
#[test]
fn levels_are_strict_but_for_ageing() {
    let mut machine = Machine::whole(
        Algorithm::Priority,
        1,
        &[with_priority(3), with_priority(2), with_priority(0)],
    );
    for load in &mut machine.loads {
        load.backlog_ns = 100 * US;
    }
    machine.run_for(3_000 * MS);
    let parts = machine.parts_since(&[0.0; 3]);
    assert!(parts[0] > 0.998, "{parts:?}");
    let grants = |class| machine.scheduler.stats(id(class)).unwrap().grants;
    assert!(
        (28..=31).contains(&grants(1)),
        "every 100 ms: {}",
        grants(1)
    );
    assert!((9..=11).contains(&grants(2)), "every 300 ms: {}", grants(2));
    for class in [1, 2] {
        assert_eq!(
            machine.scheduler.stats(id(class)).unwrap().ageings,
            grants(class)
        );
    }
    assert_eq!(machine.scheduler.stats(id(0)).unwrap().ageings, 0);
}

/// CPU-6, CPU-8: a class of higher rank that wakes is served when the slice that runs ends.
#[test]
fn a_higher_class_waits_at_most_one_slice() {
    let mut machine = Machine::whole(
        Algorithm::Priority,
        1,
        &[with_priority(4), with_priority(1)],
    );
    machine.loads[1].backlog_ns = 50 * US;
    for pause in 1..50 {
        machine.run_for(pause * 70 * US);
        machine.submit(0, 20 * US);
    }
    machine.run_for(MS);
    assert_eq!(machine.loads[0].finished, 49);
    assert!(machine.loads[0].longest_wait_ns <= 100 * US);
}
