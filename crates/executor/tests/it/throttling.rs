//! Ceilings that several classes have together.

use crate::{PATIENCE, small};
use flyball_executor::{Executor, TaskError, checkpoint};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::mpsc::{TryRecvError, channel};

/// CPU-20: a closure that goes on for long stands still at its checkpoints while its classes' ceiling is spent, other classes run
/// meanwhile, and it goes on when the ceiling is lifted.
#[test]
fn a_long_closure_stands_still_at_its_checkpoints() {
    let executor = Executor::start(small()).unwrap();
    let batch = executor.class("batch").unwrap();
    let (rounds, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (seen, until) = (rounds.clone(), stop.clone());
    // A thousandth of a CPU: after 0.1 ms it owes for as long as it takes to see it stand still.
    executor
        .set_joint_ceiling(0, Some((&["batch", "idle"], 0.001)))
        .unwrap();
    let mut handle = batch.run(move || {
        while !until.load(SeqCst) && checkpoint().is_ok() {
            seen.fetch_add(1, SeqCst);
        }
    });
    // It stands still once it makes no round in which tasks of another class run a hundred times.
    let normal = executor.class("normal").unwrap();
    let (mut before, mut still) = (u64::MAX, false);
    for _ in 0..10_000 {
        for _ in 0..100 {
            normal.run(std::thread::yield_now).join().unwrap();
        }
        let now = rounds.load(SeqCst);
        still = now == before;
        if still {
            break;
        }
        before = now;
    }
    assert!(still, "it never stood still");
    executor.set_joint_ceiling(0, None).unwrap();
    let at = rounds.load(SeqCst);
    while rounds.load(SeqCst) == at {
        std::thread::yield_now();
    }
    stop.store(true, SeqCst);
    handle.join().unwrap();
    executor.shutdown(PATIENCE).unwrap();
}

/// CPU-20: what stands still can be cancelled, and a shutdown lets everything go on that was accepted.
#[test]
fn cancelling_and_shutdown_go_before_a_ceiling() {
    let executor = Executor::start(small()).unwrap();
    let batch = executor.class("batch").unwrap();
    executor
        .set_joint_ceiling(3, Some((&["batch"], 0.001)))
        .unwrap();
    let (began, begun) = channel();
    let mut handle = batch.run(move || {
        began.send(()).unwrap();
        while checkpoint().is_ok() {}
    });
    begun.recv_timeout(PATIENCE).unwrap();
    handle.cancel();
    assert!(matches!(handle.join(), Err(TaskError::Cancelled)));
    let ran = Arc::new(AtomicU64::new(0));
    for _ in 0..1_000 {
        let ran = ran.clone();
        batch
            .execute(move || {
                ran.fetch_add(1, SeqCst);
            })
            .unwrap();
    }
    let report = executor.shutdown(PATIENCE).unwrap();
    assert!(report.left_running.is_empty(), "{report:?}");
    assert_eq!(ran.load(SeqCst), 1_000);
}

/// CPU-20: a class that there is not is refused, and nothing has changed; what classes have used is told, running tasks included.
#[test]
fn ceilings_name_classes_that_exist() {
    let executor = Executor::start(small()).unwrap();
    let error = executor
        .set_joint_ceiling(0, Some((&["batch", "none"], 0.001)))
        .unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    let batch = executor.class("batch").unwrap();
    let (gate, opened) = channel::<()>();
    let mut handle =
        batch.run(move || while opened.try_recv() != Err(TryRecvError::Disconnected) {});
    let used = |name: &str| {
        let times = executor.class_times();
        times
            .iter()
            .find(|(class, _)| class == name)
            .map(|(_, used)| *used)
    };
    while used("batch") < Some(1_000_000) {
        std::thread::yield_now();
    }
    assert_eq!(used("idle"), Some(0));
    // It sees the other end go.
    drop(gate);
    handle.join().unwrap();
    executor.shutdown(PATIENCE).unwrap();
}
