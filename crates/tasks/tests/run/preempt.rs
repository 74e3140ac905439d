//! Commands that are paused for those of a higher class.

use crate::Test;
use crate::stage::{Stage, handled, quiet, shell};
use flyball_tasks::run::{Happened, RunSettings, TaskContext};
use flyball_tasks::{NewTask, Outcome, State};
use std::path::Path;

pub(crate) const TESTS: &[Test] = &[
    (
        "preempt::a_higher_class_gets_the_slot_and_gives_it_back",
        a_higher_class_gets_the_slot_and_gives_it_back,
    ),
    (
        "preempt::a_paused_command_does_not_count",
        a_paused_command_does_not_count,
    ),
    (
        "preempt::a_command_gives_way_where_handlers_have_the_rest",
        a_command_gives_way_where_handlers_have_the_rest,
    ),
    (
        "preempt::classes_that_are_not_marked_are_not_paused",
        classes_that_are_not_marked_are_not_paused,
    ),
    (
        "preempt::a_paused_command_can_be_cancelled",
        a_paused_command_can_be_cancelled,
    ),
];

fn of_class(class: &str, script: &str) -> NewTask {
    let mut task = shell(script);
    task.head.class = class.into();
    task
}

/// Ends when somebody writes into the pipe.
fn gated(gate: &Path) -> String {
    format!("read x < {}; echo $x", gate.display())
}

fn gate(stage: &Stage, name: &str) -> std::path::PathBuf {
    let path = stage.folder.join(name);
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    path
}

/// TASK-11: with one slot taken by a class that may be paused, a command of a higher class runs at once; the paused one shows as paused and goes on after.
fn a_higher_class_gets_the_slot_and_gives_it_back() {
    gives_way(RunSettings::default().max_concurrency);
}

/// TASK-11: also where as many tasks may run as there are process slots, as in the engine: what is paused does not run.
fn a_paused_command_does_not_count() {
    gives_way(1);
}

fn gives_way(max_concurrency: u32) {
    let mut settings = quiet();
    settings.max_concurrency = max_concurrency;
    let stage = Stage::with_slots(settings, 1);
    let (low, high) = (gate(&stage, "low"), gate(&stage, "high"));
    let batch = stage.queue.add(of_class("batch", &gated(&low)));
    stage.queue.wait_state(batch, State::Running);
    let interactive = stage.queue.add(of_class("interactive", &gated(&high)));
    stage.queue.wait_state(interactive, State::Running);
    stage.queue.wait_state(batch, State::Paused);
    let running = stage.runners.running();
    assert!(running.iter().any(|run| run.id == batch && run.is_paused()));
    // A second of the class that waits for nothing but the slot goes next: the paused one is not let on in between.
    let next = stage.queue.add(of_class("interactive", "true"));
    std::fs::write(&high, "x\n").unwrap();
    assert_eq!(stage.queue.wait_end(next, 1).outcome, Some(Outcome::Done));
    stage.queue.wait_state(batch, State::Running);
    std::fs::write(&low, "went on\n").unwrap();
    assert_eq!(stage.queue.wait_end(batch, 1).outcome, Some(Outcome::Done));
    assert_eq!(stage.stdout(batch), b"went on\n");
    let inner = stage.queue.inner();
    use State::{Completed, Paused, Running};
    assert_eq!(
        inner.tasks[&batch.0].went,
        [Running, Paused, Running, Completed]
    );
    drop(inner);
    let preempted = |what: &Happened| matches!(what, Happened::Preempted { id, by } if *id == batch && *by == interactive);
    assert_eq!(
        stage
            .runners
            .events_after(0)
            .iter()
            .filter(|event| preempted(&event.what))
            .count(),
        1
    );
    assert_eq!(stage.runners.counts()["command"].preempted, 1);
    stage.wait_idle();
    assert_eq!(stage.slots.free(), 1);
}

/// TASK-11: a command gives way also where process slots are free and handlers have all others; then two never run beside the handler.
fn a_command_gives_way_where_handlers_have_the_rest() {
    let mut settings = quiet();
    settings.max_concurrency = 2;
    let stage = Stage::with_slots(settings, 4);
    let (go, opened) = tokio::sync::watch::channel(false);
    let handler = move |_: TaskContext, (): ()| {
        let mut opened = opened.clone();
        async move {
            opened.wait_for(|open| *open).await?;
            Ok(())
        }
    };
    stage.handlers.register("gated", handler).unwrap();
    let handled = stage.queue.add(handled("gated", "null"));
    stage.queue.wait_state(handled, State::Running);
    let (low, high) = (gate(&stage, "low"), gate(&stage, "high"));
    let batch = stage.queue.add(of_class("batch", &gated(&low)));
    stage.queue.wait_state(batch, State::Running);
    let interactive = stage.queue.add(of_class("interactive", &gated(&high)));
    stage.queue.wait_state(batch, State::Paused);
    let other = stage.queue.add(of_class("batch", "true"));
    // The handler's slot is free again: the paused one goes on in it, and the other waits.
    go.send_replace(true);
    stage.queue.wait_state(batch, State::Running);
    assert_eq!(stage.queue.inner().tasks[&other.0].state, State::Pending);
    for path in [&high, &low] {
        std::fs::write(path, "x\n").unwrap();
    }
    for id in [handled, batch, interactive, other] {
        assert_eq!(stage.queue.wait_end(id, 1).outcome, Some(Outcome::Done));
    }
    stage.wait_idle();
    assert_eq!(stage.slots.free(), 4);
}

/// TASK-11: only classes marked so are paused.
fn classes_that_are_not_marked_are_not_paused() {
    let stage = Stage::with_slots(quiet(), 1);
    let low = gate(&stage, "low");
    let normal = stage.queue.add(of_class("normal", &gated(&low)));
    stage.queue.wait_state(normal, State::Running);
    let critical = stage.queue.add(of_class("critical", "true"));
    std::fs::write(&low, "x\n").unwrap();
    stage.queue.wait_state(critical, State::Completed);
    let inner = stage.queue.inner();
    assert_eq!(
        inner.tasks[&normal.0].went,
        [State::Running, State::Completed]
    );
}

/// TASK-11: a paused command that is cancelled ends, and its slot is not counted twice.
fn a_paused_command_can_be_cancelled() {
    let stage = Stage::with_slots(quiet(), 1);
    let (low, high) = (gate(&stage, "low"), gate(&stage, "high"));
    let batch = stage.queue.add(of_class("batch", &gated(&low)));
    stage.queue.wait_state(batch, State::Running);
    let interactive = stage.queue.add(of_class("interactive", &gated(&high)));
    stage.queue.wait_state(batch, State::Paused);
    stage.queue.cancel_one(batch);
    stage.queue.wait_state(batch, State::Cancelled);
    stage.queue.wait_state(interactive, State::Running);
    assert_eq!(stage.slots.free(), 0);
    std::fs::write(&high, "x\n").unwrap();
    stage.queue.wait_state(interactive, State::Completed);
    stage.wait_idle();
    assert_eq!(stage.slots.free(), 1);
}
