//! Who is not blocked is not reported.

use crate::support::*;
use flyball_profile::watch::{Options, Watch};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

/// A hundred times the CPU time of a poll, so that one is far below it also on a crowded machine; half of it, when a worker becomes suspect, is
/// below the 61 polls that tokio takes between two renewals of its figures.
const THRESHOLD: Duration = Duration::from_millis(500);

/// Lets the watch look until it has copied a stack. How soon a worker becomes suspect depends on how the machine is used; if none ever does, nothing is tested.
fn until_suspect(watch: &Watch) {
    for _ in 0..10 {
        after_samples(watch, 40);
        if watch.figures().captures > 0 {
            return;
        }
    }
    panic!("nobody was suspect");
}

/// CPU-28: workers saturated with short polls stand still in tokio's figures for longer than the threshold; their loops do not.
#[test]
fn saturated_workers_are_not_blocked() {
    let runtime = runtime(2);
    let load = Load::default();
    for _ in 0..5 {
        load.spawn(runtime.handle());
    }
    until(|| load.polls.load(Ordering::Relaxed) > 5);
    let watch = Options::new()
        .threshold(THRESHOLD)
        .watch(runtime.handle())
        .expect("a watch");
    until_suspect(&watch);
    assert!(watch.reports().is_empty(), "{:?}", watch.reports());
}

/// CPU-28: one task that always gives way, on a worker of an otherwise idle runtime, is not blocked either.
#[test]
fn one_task_that_gives_way_is_not_blocked() {
    let runtime = runtime(2);
    let load = Load::default();
    load.spawn(runtime.handle());
    until(|| load.polls.load(Ordering::Relaxed) > 5);
    let watch = Options::new()
        .threshold(THRESHOLD)
        .watch(runtime.handle())
        .expect("a watch");
    until_suspect(&watch);
    assert!(watch.reports().is_empty(), "{:?}", watch.reports());
}

/// CPU-28: work in `spawn_blocking` and `block_in_place` may block.
#[test]
fn work_that_may_block_is_not_reported() {
    let runtime = runtime(2);
    let (watch, _reports) = watched(runtime.handle());
    let (begun, begins) = channel();
    let mut held = Vec::new();
    for _ in 0..2 {
        let (release, messages) = channel::<()>();
        let begun = begun.clone();
        held.push(release);
        runtime.spawn_blocking(move || {
            let _ = begun.send(());
            waits_for_a_message(&messages);
        });
    }
    for _ in 0..2 {
        let (release, messages) = channel::<()>();
        let begun = begun.clone();
        held.push(release);
        runtime.spawn(async move {
            tokio::task::block_in_place(|| {
                let _ = begun.send(());
                waits_for_a_message(&messages);
            });
        });
    }
    for _ in 0..4 {
        begins.recv_timeout(LIMIT).expect("the work begins");
    }
    after_samples(&watch, 40);
    assert!(watch.reports().is_empty(), "{:?}", watch.reports());
    drop(held);
}

/// CPU-28: an idle runtime is not reported, costs no stack, and soon no probe either.
#[test]
fn an_idle_runtime_is_left_alone() {
    let runtime = runtime(2);
    let watch = Options::new().watch(runtime.handle()).expect("a watch");
    after_samples(&watch, 40);
    let figures = watch.figures();
    assert!(watch.reports().is_empty());
    assert_eq!(figures.captures, 0, "{figures:?}");
    assert!(figures.probes <= 2 * 8, "{figures:?}");
}

/// CPU-28: a runtime that shuts down ends its watch without a report.
#[test]
fn a_runtime_that_shut_down_is_not_blocked() {
    let runtime = runtime(2);
    let watch = Options::new().watch(runtime.handle()).expect("a watch");
    after_samples(&watch, 4);
    drop(runtime);
    until(|| !watch.is_watching());
    assert!(watch.reports().is_empty(), "{:?}", watch.reports());
}
