//! Admission against a machine of commands that grow, pause and end as told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use std::vec::Vec;

use flyball_core::time::Timestamp;
use proptest::prelude::*;

use super::*;

const SETTLE: Duration = Duration::from_millis(100);

fn at(ms: u64) -> Timestamp {
    Timestamp::from_nanos(ms * 1_000_000)
}

fn start(admission: &mut Admission, now: Timestamp, id: u64, expected: Expected) -> bool {
    match admission.ask(now, expected, None) {
        Answer::Start { reserved } => {
            admission.started(now, id, reserved, expected == Expected::Alone);
            true
        }
        Answer::Wait { .. } => false,
    }
}

/// TASK-12: reservations add up to the bound and no further.
#[test]
fn reservations_are_summed_before_the_start() {
    let mut admission = Admission::new(Some(100), SETTLE);
    let thirty = Expected::Bytes(30);
    assert!((1..=3).all(|id| start(&mut admission, at(0), id, thirty)));
    assert_eq!(
        admission.ask(at(0), thirty, None),
        Answer::Wait {
            why: Why::Reserved,
            until: None
        }
    );
    // What one uses beyond its reservation counts, too.
    admission.measured(at(50), 1, 50);
    admission.ended(2);
    assert!(!start(&mut admission, at(50), 4, thirty));
    admission.ended(1);
    assert!(start(&mut admission, at(50), 4, thirty));
}

/// TASK-12: where nothing is known the next start waits for the measured effect of the last, its end, or a short time.
#[test]
fn the_effect_of_the_last_start_is_waited_for() {
    let mut admission = Admission::new(Some(100), SETTLE);
    assert!(start(&mut admission, at(0), 1, Expected::Unknown));
    assert_eq!(
        admission.ask(at(10), Expected::Unknown, None),
        Answer::Wait {
            why: Why::Effect,
            until: Some(at(100))
        }
    );
    admission.measured(at(10), 1, 40);
    assert!(
        !start(&mut admission, at(20), 2, Expected::Unknown),
        "a look right after the start has seen nothing"
    );
    admission.measured(at(60), 1, 40);
    assert!(start(&mut admission, at(60), 2, Expected::Unknown));
    // The second has not been measured, but the time is over; a third like the first would not fit.
    admission.measured(at(120), 2, 30);
    assert!(!start(&mut admission, at(170), 3, Expected::Unknown));
    admission.ended(1);
    assert!(start(&mut admission, at(170), 3, Expected::Unknown));
    // What has ended has no effect to wait for.
    let mut trivial = Admission::new(Some(100), SETTLE);
    for id in 1..1000 {
        assert!(start(&mut trivial, at(0), id, Expected::Unknown));
        trivial.ended(id);
    }
}

/// TASK-12: the memory that the machine has counts, less what was promised and is not used yet.
#[test]
fn the_machine_bounds_reservations() {
    let mut admission = Admission::new(None, SETTLE);
    let fifty = Expected::Bytes(50);
    assert!(start(&mut admission, at(0), 1, fifty), "one always may");
    assert_eq!(
        admission.ask(at(0), fifty, Some(90)),
        Answer::Wait {
            why: Why::Machine,
            until: None
        }
    );
    admission.measured(at(50), 1, 45);
    assert_eq!(
        admission.ask(at(50), fifty, Some(90)),
        Answer::Start { reserved: 50 }
    );
}

/// TASK-20: near the bound the youngest is paused, at the bound ended; it runs again alone, and fails if it is too large by itself.
#[test]
fn the_youngest_is_paused_then_ended_then_runs_alone() {
    let mut admission = Admission::new(Some(3200), SETTLE);
    for id in 1..=3 {
        assert!(start(&mut admission, at(0), id, Expected::Bytes(1000)));
    }
    let measure = |admission: &mut Admission, all: [u64; 3]| {
        (1..)
            .zip(all)
            .for_each(|(id, bytes)| admission.measured(at(50), id, bytes));
    };
    measure(&mut admission, [900, 900, 900]);
    assert_eq!(admission.judge(), Verdict::Fine);
    measure(&mut admission, [1000, 900, 900]);
    assert_eq!(admission.judge(), Verdict::Pause(3));
    measure(&mut admission, [1000, 950, 900]);
    assert_eq!(admission.judge(), Verdict::Pause(2));
    assert_eq!(admission.judge(), Verdict::Fine, "the oldest goes on");
    measure(&mut admission, [1300, 950, 900]);
    assert_eq!(admission.judge(), Verdict::End(3));
    assert_eq!(admission.judge(), Verdict::Fine, "one at a time");
    admission.ended(3);
    assert_eq!(admission.judge(), Verdict::Resume(2));
    assert!(!start(&mut admission, at(60), 4, Expected::Alone));
    admission.ended(1);
    admission.ended(2);
    assert!(start(&mut admission, at(60), 4, Expected::Alone));
    assert!(!start(&mut admission, at(60), 5, Expected::Bytes(1)));
    admission.measured(at(100), 4, 3200);
    assert_eq!(admission.judge(), Verdict::Fine, "alone it may use all");
    admission.measured(at(150), 4, 3201);
    assert_eq!(admission.judge(), Verdict::Fail(4));
}

/// A command as the machine runs it: what it needs at each step, and how far it is.
#[derive(Clone, Debug)]
struct Hog {
    grows_by: u64,
    steps: u64,
    expected: Option<u64>,
}

fn hog() -> impl Strategy<Value = Hog> {
    (0_u64..60, 1_u64..12, prop::option::of(0_u64..1200)).prop_map(|(grows_by, steps, expected)| {
        Hog {
            grows_by,
            steps,
            expected,
        }
    })
}

proptest! {
    /// TASK-12, TASK-20: whatever commands need, each ends by itself or by needing more than the bound alone; reservations keep to
    /// the bound; the oldest is not paused while it is measured; at most one leaves at a time, and none is ended twice.
    #[test]
    fn every_command_comes_to_its_end(bound in 100_u64..1000, hogs in prop::collection::vec(hog(), 1..25), slots in 1_usize..6) {
        let mut admission = Admission::new(Some(bound), SETTLE);
        let mut waiting: Vec<(usize, bool)> = (0..hogs.len()).rev().map(|index| (index, false)).collect();
        // By id: which, how far, whether it stands still, whether alone.
        let mut running: BTreeMap<u64, (usize, u64, bool, bool)> = BTreeMap::new();
        let (mut done, mut failed, mut sent_back) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut next_id = 1;
        let mut turns: u64 = 0;
        while done.len() + failed.len() < hogs.len() {
            turns += 1;
            prop_assert!(turns < 20_000, "it does not end: {running:?} {admission:?}");
            let now = at(turns * 50);
            while running.len() < slots && let Some(&(index, alone)) = waiting.last() {
                let expected = match hogs[index].expected {
                    _ if alone => Expected::Alone,
                    Some(bytes) => Expected::Bytes(bytes),
                    None => Expected::Unknown,
                };
                if !start(&mut admission, now, next_id, expected) {
                    prop_assert!(!running.is_empty(), "nothing runs and nothing may start");
                    break;
                }
                waiting.pop();
                running.insert(next_id, (index, 0, false, alone));
                next_id += 1;
            }
            for (_, (_, step, still, _)) in running.iter_mut() {
                *step += u64::from(!*still);
            }
            let over: Vec<u64> = running.iter().filter(|(_, (index, step, ..))| *step > hogs[*index].steps).map(|(id, _)| *id).collect();
            for id in over {
                admission.ended(id);
                done.insert(running.remove(&id).unwrap().0);
            }
            for (id, (index, step, ..)) in &running {
                admission.measured(now, *id, step * hogs[*index].grows_by);
            }
            match admission.judge() {
                Verdict::Fine => {}
                Verdict::Pause(id) => {
                    prop_assert!(running.keys().next() != Some(&id), "the oldest was paused");
                    running.get_mut(&id).unwrap().2 = true;
                }
                Verdict::Resume(id) => running.get_mut(&id).unwrap().2 = false,
                Verdict::End(id) => {
                    prop_assert!(running.len() > 1 && running.keys().next_back() == Some(&id));
                    let (index, ..) = running.remove(&id).unwrap();
                    admission.ended(id);
                    prop_assert!(sent_back.insert(index), "ended twice");
                    waiting.push((index, true));
                }
                Verdict::Fail(id) => {
                    prop_assert_eq!(running.len(), 1);
                    let (index, step, ..) = running.remove(&id).unwrap();
                    prop_assert!(step * hogs[index].grows_by > bound);
                    admission.ended(id);
                    failed.insert(index);
                }
            }
            prop_assert!(admission.committed() >= admission.measured_sum());
        }
        prop_assert_eq!((admission.under_way(), admission.committed()), (0, 0));
    }
}
