//! Blocked workers are reported, with what they are doing.

use crate::support::*;
use flyball_profile::watch::{Options, Report, State};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// CPU-28: a task that waits in the standard library is reported with the function, the call it is in, and its recovery.
#[test]
fn a_waiting_task_is_named() {
    let runtime = runtime(2);
    let (watch, reports) = watched(runtime.handle());
    let release = block_a_worker(runtime.handle());
    let blocked = next_blocked(&reports);
    let stack = blocked.stack.as_ref().expect("a stack");
    assert!(stack.mentions("waits_for_a_message"), "{stack:#}");
    assert!(stack.is_complete(), "{stack:#}");
    let culprit = stack.culprit().expect("a function of the program");
    assert!(culprit.function().unwrap().contains("waits_for_a_message"));
    if cfg!(debug_assertions) {
        assert!(culprit.file().unwrap().ends_with("support.rs"));
        assert!(culprit.line().is_some());
    }
    let short = stack.to_string();
    assert!(!short.contains("tokio::runtime"), "{short}");
    assert!(short.lines().count() >= 2, "{short}");
    let call = Some("futex".into());
    assert_eq!(blocked.state, State::Waiting { call });
    assert!(blocked.blocked_for >= Duration::from_millis(100));
    assert_eq!(blocked.report, 1);
    assert!(blocked.thread_name.starts_with("tokio"), "{blocked}");
    assert!(blocked.worker < 2);
    let again = next_blocked(&reports);
    assert_eq!((again.episode, again.report), (blocked.episode, 2));
    assert_eq!(again.thread_id, blocked.thread_id);
    drop(release);
    let recovered = next_recovered(&reports);
    assert_eq!(recovered.episode, blocked.episode);
    assert!(recovered.blocked_for >= blocked.blocked_for);
    assert!(watch.reports().len() >= 3);
}

/// CPU-28: a task that computes without end is reported as running, in its function.
#[test]
fn a_computing_task_is_named() {
    let runtime = runtime(2);
    let (_watch, reports) = watched(runtime.handle());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    runtime.spawn(async move { computes_for_long(&stopped) });
    let blocked = next_blocked(&reports);
    stop.store(true, Ordering::Relaxed);
    let stack = blocked.stack.as_ref().expect("a stack");
    assert!(stack.mentions("computes_for_long"), "{stack:#}");
    let culprit = stack.culprit().and_then(|frame| frame.function()).unwrap();
    assert!(culprit.contains("computes_for_long"), "{stack:#}");
    assert_eq!(blocked.state, State::Running);
    next_recovered(&reports);
}

/// CPU-28: workers that were blocked before the watch began are found, all of them, on threads of their own.
#[test]
fn workers_blocked_before_the_watch_are_found() {
    let runtime = runtime(3);
    let _held: Vec<_> = (0..3).map(|_| block_a_worker(runtime.handle())).collect();
    let (_watch, reports) = watched(runtime.handle());
    let (mut workers, mut threads) = (HashSet::new(), HashSet::new());
    while workers.len() < 3 {
        let blocked = next_blocked(&reports);
        let stack = blocked.stack.as_ref().expect("a stack");
        assert!(stack.mentions("waits_for_a_message"), "{stack:#}");
        workers.insert(blocked.worker);
        threads.insert(blocked.thread_id);
    }
    assert_eq!(threads.len(), 3);
}

/// CPU-28: two runtimes with the same thread names are told apart.
#[test]
fn two_runtimes_are_told_apart() {
    let (one, other) = (runtime(2), runtime(2));
    // Blocked before the watches know any thread, so that only the stacks tell whose they are.
    let held = block_a_worker(one.handle());
    let held_too = block_a_worker(one.handle());
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..2 {
        let (begun, begins) = channel();
        let stop = Arc::clone(&stop);
        other.spawn(async move {
            let _ = begun.send(());
            computes_for_long(&stop)
        });
        begins.recv_timeout(LIMIT).expect("the task begins");
    }
    let (_watch, reports) = watched(one.handle());
    let (_other_watch, other_reports) = watched(other.handle());
    for _ in 0..4 {
        let blocked = next_blocked(&reports);
        let stack = blocked.stack.expect("a stack");
        assert!(stack.mentions("waits_for_a_message"), "{stack:#}");
        let blocked = next_blocked(&other_reports);
        let stack = blocked.stack.expect("a stack");
        assert!(stack.mentions("computes_for_long"), "{stack:#}");
    }
    stop.store(true, Ordering::Relaxed);
    drop((held, held_too));
}

/// CPU-28: a blocked worker beside a saturated one is the one that is reported.
#[test]
fn a_blocked_worker_beside_a_busy_one() {
    let runtime = runtime(2);
    let load = Load::default();
    for _ in 0..3 {
        load.spawn(runtime.handle());
    }
    until(|| load.polls.load(Ordering::Relaxed) > 3);
    let (_watch, reports) = watched(runtime.handle());
    let release = block_a_worker(runtime.handle());
    let blocked = next_blocked(&reports);
    let stack = blocked.stack.expect("a stack");
    assert!(stack.mentions("waits_for_a_message"), "{stack:#}");
    drop(release);
    next_recovered(&reports);
}

/// CPU-28: the worker that took over from a `block_in_place` is found on its new thread, and the old thread is left alone.
#[test]
fn a_worker_that_was_handed_over_is_found() {
    let runtime = runtime(1);
    let (_watch, reports) = watched(runtime.handle());
    let (release_first, first) = channel::<()>();
    let (begun, begins) = channel();
    runtime.spawn(async move {
        tokio::task::block_in_place(|| {
            let _ = begun.send(());
            let _ = first.recv();
        });
    });
    begins.recv_timeout(LIMIT).expect("the task begins");
    let release = block_a_worker(runtime.handle());
    let blocked = next_blocked(&reports);
    let stack = blocked.stack.expect("a stack");
    assert!(stack.mentions("waits_for_a_message"), "{stack:#}");
    drop((release, release_first));
}

/// CPU-28: a callback that panics is called again, and the watch goes on.
#[test]
fn a_panic_in_the_callback_is_caught() {
    let runtime = runtime(1);
    let (sender, seen) = channel();
    let watch = Options::new()
        .on_report(move |_| {
            let _ = sender.send(());
            panic!("a mistake in the callback");
        })
        .watch(runtime.handle())
        .expect("a watch");
    let _release = block_a_worker(runtime.handle());
    for _ in 0..2 {
        seen.recv_timeout(LIMIT).expect("a report");
    }
    until(|| watch.figures().callback_panics >= 2);
}

/// CPU-28: a watch may be dropped at any moment of a capture, and by its own callback.
#[test]
fn a_watch_can_be_dropped_while_it_reports() {
    let runtime = runtime(2);
    let _release = block_a_worker(runtime.handle());
    for _ in 0..20 {
        let watch = Options::new()
            .threshold(Duration::from_millis(10))
            .watch(runtime.handle())
            .expect("a watch");
        until(|| watch.figures().captures > 0);
        drop(watch);
    }
    let slot = Arc::new(Mutex::new(None));
    let own = Arc::clone(&slot);
    let (sender, seen) = channel();
    let watch = Options::new()
        .on_report(move |_| {
            let watch = own.lock().unwrap().take();
            drop(watch);
            let _ = sender.send(());
        })
        .watch(runtime.handle())
        .expect("a watch");
    *slot.lock().unwrap() = Some(watch);
    seen.recv_timeout(LIMIT).expect("a report");
}

/// CPU-28: a worker that keeps its runtime from shutting down is still reported; the watch ends when it is done.
#[test]
fn a_runtime_that_shuts_down_is_watched_to_its_end() {
    let runtime = runtime(2);
    let (watch, reports) = watched(runtime.handle());
    let release = block_a_worker(runtime.handle());
    next_blocked(&reports);
    runtime.shutdown_background();
    let blocked = next_blocked(&reports);
    assert!(
        blocked
            .stack
            .expect("a stack")
            .mentions("waits_for_a_message")
    );
    drop(release);
    until(|| !watch.is_watching());
    assert!(
        reports
            .iter()
            .all(|report| matches!(report, Report::Recovered(_)))
    );
}
