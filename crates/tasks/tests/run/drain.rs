//! Ending: what runs may finish, the rest goes back.

use crate::Test;
use crate::stage::{Stage, call, handled, quiet, shell};
use flyball_tasks::State;
use flyball_tasks::run::{Phase, TaskContext};
use std::net::TcpListener;
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    (
        "drain::a_drain_lets_finish_what_does",
        a_drain_lets_finish_what_does,
    ),
    (
        "drain::what_does_not_finish_goes_back_at_no_cost",
        what_does_not_finish_goes_back_at_no_cost,
    ),
    (
        "drain::it_ends_though_the_queue_takes_no_ends",
        it_ends_though_the_queue_takes_no_ends,
    ),
    (
        "drain::switched_off_nothing_is_taken",
        switched_off_nothing_is_taken,
    ),
];

/// TASK-7: a drain takes no more tasks and waits for those that run.
fn a_drain_lets_finish_what_does() {
    let stage = Stage::new(quiet());
    let (go, gate) = tokio::sync::watch::channel(false);
    let (began, has_begun) = std::sync::mpsc::channel();
    stage
        .handlers
        .register("gated", move |_, (): ()| {
            let mut gate = gate.clone();
            began.send(()).unwrap();
            async move {
                gate.wait_for(|open| *open).await?;
                Ok(())
            }
        })
        .unwrap();
    let id = stage.queue.add(handled("gated", "null"));
    has_begun.recv().unwrap();
    let draining = stage.runners.drain(Duration::from_secs(600));
    let late = stage.queue.add(handled("gated", "null"));
    go.send_replace(true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let drained = runtime.block_on(draining);
    assert_eq!((drained.ended, drained.stuck), (1, 0));
    assert_eq!(stage.queue.inner().tasks[&id.0].state, State::Completed);
    assert_eq!(stage.queue.inner().tasks[&late.0].state, State::Pending);
}

/// TASK-7: what still runs when the time is over is ended and given back, at no cost of an attempt: a handler, a command, a call.
fn what_does_not_finish_goes_back_at_no_cost() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", server.local_addr().unwrap());
    let stage = Stage::new(quiet());
    stage
        .handlers
        .register("waits", |context: TaskContext, (): ()| async move {
            context.cancelled().await;
            std::future::pending::<()>().await;
            Ok(())
        })
        .unwrap();
    let ids = [
        stage.queue.add(handled("waits", "null")),
        stage.queue.add(shell("sleep 600")),
        stage.queue.add(call(&url)),
    ];
    while stage.runners.running().len() < 3 {
        std::thread::yield_now();
    }
    let drained = stage.runners.drain_blocking(Duration::ZERO);
    assert_eq!((drained.ended, drained.stuck), (3, 0));
    let inner = stage.queue.inner();
    for id in ids {
        let entry = &inner.tasks[&id.0];
        assert_eq!(
            (entry.state, entry.attempts.counted, entry.ends[0].outcome),
            (State::Pending, 0, None)
        );
    }
}

/// TASK-7: a drain ends when its time is over also where the disk is full, so that no end can be written: not of a handler that is done, not of one that was cancelled before.
fn it_ends_though_the_queue_takes_no_ends() {
    let stage = Stage::new(quiet());
    stage
        .handlers
        .register("waits", |context: TaskContext, (): ()| async move {
            context.cancelled().await;
            Ok(())
        })
        .unwrap();
    stage
        .handlers
        .register("quick", |_, (): ()| async { Ok(()) })
        .unwrap();
    stage.queue.change(|inner| inner.finish_fails = u32::MAX);
    let waits = stage.queue.add(handled("waits", "null"));
    stage.queue.add(handled("quick", "null"));
    stage.queue.wait_state(waits, State::Running);
    stage.queue.cancel_one(waits);
    let reporting = || {
        let running = stage.runners.running();
        running
            .iter()
            .filter(|run| run.phase == Phase::Reporting)
            .count()
    };
    while reporting() < 2 {
        std::thread::yield_now();
    }
    let drained = stage.runners.drain_blocking(Duration::ZERO);
    assert_eq!((drained.ended, drained.stuck), (2, 0));
}

/// TASK-6: switched off, nothing more is taken; switched on again, it is.
fn switched_off_nothing_is_taken() {
    let mut settings = quiet();
    settings.enabled = false;
    let stage = Stage::new(settings);
    stage
        .handlers
        .register("quick", |_, (): ()| async { Ok(()) })
        .unwrap();
    let id = stage.queue.add(handled("quick", "null"));
    assert_eq!(stage.queue.inner().leases_seen, 0);
    stage.runners.set(quiet()).unwrap();
    stage.queue.wait_state(id, State::Completed);
}
