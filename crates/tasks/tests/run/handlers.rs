//! Handlers: types, classes, panics, timeouts, cancellation, signs of life.

use crate::Test;
use crate::stage::{Stage, handled, quiet};
use flyball_tasks::run::{Happened, Phase, RunSettings, TaskContext, TaskError};
use flyball_tasks::{Outcome, Reason, RetryPolicy, State, TaskId};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    (
        "handlers::panics_of_the_program_end_nothing_else",
        panics_of_the_program_end_nothing_else,
    ),
    (
        "handlers::typed_handlers_run_in_their_class",
        typed_handlers_run_in_their_class,
    ),
    (
        "handlers::errors_say_whether_to_try_again",
        errors_say_whether_to_try_again,
    ),
    (
        "handlers::ten_thousand_panics_end_ten_thousand_attempts",
        ten_thousand_panics_end_ten_thousand_attempts,
    ),
    (
        "handlers::timeouts_end_futures_and_report_closures",
        timeouts_end_futures_and_report_closures,
    ),
    (
        "handlers::cancelling_is_heard_of_at_once",
        cancelling_is_heard_of_at_once,
    ),
    (
        "handlers::checkpoints_reach_the_next_attempt",
        checkpoints_reach_the_next_attempt,
    ),
    (
        "handlers::a_lost_lease_ends_the_run_in_silence",
        a_lost_lease_ends_the_run_in_silence,
    ),
    ("handlers::no_more_run_than_may", no_more_run_than_may),
    (
        "handlers::instances_belong_to_one_at_a_time",
        instances_belong_to_one_at_a_time,
    ),
    (
        "handlers::kinds_without_a_handler_are_left_to_others",
        kinds_without_a_handler_are_left_to_others,
    ),
    (
        "handlers::a_full_disk_delays_a_report",
        a_full_disk_delays_a_report,
    ),
];

#[derive(serde::Deserialize)]
struct Resize {
    width: u32,
}

/// TASK-2: a handler gets its payload typed, runs as a future or a closure in its task's class, and its result is JSON.
fn typed_handlers_run_in_their_class() {
    let stage = Stage::new(quiet());
    let named = || std::thread::current().name().unwrap_or_default().to_owned();
    stage
        .handlers
        .register("resize", move |context: TaskContext, input: Resize| async move {
            Ok(serde_json::json!({"area": input.width * 2, "class": context.class(), "thread": named()}))
        })
        .unwrap();
    stage
        .handlers
        .register_blocking("sum", |_, input: Vec<u64>| Ok(input.iter().sum::<u64>()))
        .unwrap();
    let mut future = handled("resize", r#"{"width": 21}"#);
    future.head.class = "interactive".into();
    let (future, closure) = (
        stage.queue.add(future),
        stage.queue.add(handled("sum", "[1,2,3]")),
    );
    let bad = stage.queue.add(handled("resize", r#"{"width": "wide"}"#));
    let result = stage.queue.wait_end(future, 1).result.unwrap();
    let result: serde_json::Value = serde_json::from_slice(&result).unwrap();
    assert_eq!(
        (&result["area"], &result["class"]),
        (&42.into(), &"interactive".into())
    );
    assert!(
        result["thread"].as_str().unwrap().starts_with("flyball"),
        "{result}"
    );
    assert_eq!(
        stage.queue.wait_end(closure, 1).result.as_deref(),
        Some(&b"6"[..])
    );
    let end = stage.queue.wait_end(bad, 1);
    assert!(end.error.unwrap().contains("at width"));
    assert!(matches!(
        end.outcome,
        Some(Outcome::Failed {
            retryable: false,
            ..
        })
    ));
    stage.queue.wait_state(bad, State::Failed);
    stage.wait_idle();
    let counts = stage.runners.counts();
    assert_eq!(
        (counts["resize"].completed, counts["resize"].failed),
        (1, 1)
    );
}

/// TASK-7: an error is tried again only where the handler says so, and not before it says.
fn errors_say_whether_to_try_again() {
    let stage = Stage::new(quiet());
    stage
        .handlers
        .register("flaky", |context: TaskContext, (): ()| async move {
            match context.attempts().started {
                1 => Err(TaskError::retry("busy").after(Duration::from_secs(7))),
                2 => Err("x".parse::<u32>().unwrap_err().into()),
                _ => Ok(()),
            }
        })
        .unwrap();
    let mut task = handled("flaky", "null");
    task.head.retry.max_attempts = 5;
    let id = stage.queue.add(task);
    let end = stage.queue.wait_end(id, 2);
    let first = stage.queue.wait_end(id, 1);
    assert!(matches!(
        first.outcome,
        Some(Outcome::Failed { retryable: true, after: Some(after), .. }) if after == Duration::from_secs(7)
    ));
    assert_eq!(end.error.as_deref(), Some("invalid digit found in string"));
    assert!(matches!(
        end.outcome,
        Some(Outcome::Failed {
            retryable: false,
            after: None,
            ..
        })
    ));
    assert_eq!(stage.queue.inner().tasks[&id.0].state, State::Failed);
}

/// TASK-2, TASK-3: a handler that panics ends its attempt with that reason, and nothing else: ten thousand times, by futures and by closures.
fn ten_thousand_panics_end_ten_thousand_attempts() {
    const COUNT: usize = 10_000;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut settings = quiet();
    settings.circuit_breaker = false;
    let stage = Stage::new(settings);
    stage
        .handlers
        .register("future", |_, (): ()| async {
            if std::hint::black_box(true) {
                panic!("as told");
            }
            Ok(())
        })
        .unwrap();
    stage
        .handlers
        .register_blocking("closure", |_, (): ()| -> Result<(), TaskError> {
            panic!("as told")
        })
        .unwrap();
    stage
        .handlers
        .register("well", |_, (): ()| async { Ok(()) })
        .unwrap();
    for number in 0..COUNT {
        let kind = if number % 2 == 0 { "future" } else { "closure" };
        stage.queue.add(handled(kind, "null"));
    }
    stage
        .queue
        .wait(|inner| (inner.count(State::Failed) == COUNT).then_some(()));
    let well = stage.queue.add(handled("well", "null"));
    stage.queue.wait_state(well, State::Completed);
    stage.wait_idle();
    std::panic::set_hook(hook);
    let counts = stage.runners.counts();
    assert_eq!(
        (counts["future"].panicked, counts["closure"].panicked),
        (5_000, 5_000)
    );
    let inner = stage.queue.inner();
    let ends = inner.tasks.values().flat_map(|entry| &entry.ends);
    let panicked = |end: &&flyball_tasks::Completion| {
        matches!(
            end.outcome,
            Some(Outcome::Failed {
                reason: Reason::Panicked,
                retryable: false,
                ..
            })
        ) && end
            .error
            .as_deref()
            .is_some_and(|text| text.ends_with("as told"))
    };
    assert_eq!(ends.filter(panicked).count(), COUNT);
}

/// TASK-9: a run past its timeout ends: a future is dropped; a closure that does not end is reported without it, and keeps its slot until it does.
fn timeouts_end_futures_and_report_closures() {
    struct Told(mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let stage = Stage::new(quiet());
    let (dropped, was_dropped) = mpsc::channel();
    stage
        .handlers
        .register("hangs", move |_, (): ()| {
            let told = Told(dropped.clone());
            async move {
                let _told = told;
                std::future::pending::<()>().await;
                Ok(())
            }
        })
        .unwrap();
    let release = Arc::new(Barrier::new(2));
    let held = Arc::clone(&release);
    stage
        .handlers
        .register_blocking("stuck", move |_, (): ()| {
            held.wait();
            Ok(())
        })
        .unwrap();
    let mut tasks = [handled("hangs", "null"), handled("stuck", "null")];
    for task in &mut tasks {
        task.head.timeout = Some(Duration::from_millis(20));
    }
    let [hangs, stuck] = tasks.map(|task| stage.queue.add(task));
    for id in [hangs, stuck] {
        let end = stage.queue.wait_end(id, 1);
        assert!(
            matches!(
                end.outcome,
                Some(Outcome::Failed {
                    reason: Reason::TimedOut,
                    ..
                })
            ),
            "{end:?}"
        );
    }
    was_dropped.recv().unwrap();
    let events = stage.runners.events_after(0);
    assert!(
        events
            .iter()
            .any(|event| matches!(&event.what, Happened::Stuck { id, .. } if *id == stuck))
    );
    // Nobody waits for it.
    assert_eq!(stage.runners.drain_blocking(Duration::ZERO).stuck, 1);
    let running = stage.runners.running();
    assert_eq!(
        (running.len(), running[0].id, running[0].phase),
        (1, stuck, Phase::Ending)
    );
    release.wait();
}

/// TASK-4, TASK-6: cancelling a running task ends it at once: a future, a closure that looks, one that waits for room. No sign of life is needed for that.
fn cancelling_is_heard_of_at_once() {
    let mut settings = quiet();
    settings.max_concurrency = 2;
    let stage = Stage::new(settings);
    stage
        .handlers
        .register("future", |_, (): ()| async {
            std::future::pending::<()>().await;
            Ok(())
        })
        .unwrap();
    stage
        .handlers
        .register_blocking("closure", |context, (): ()| {
            while !context.is_cancelled() {
                std::thread::yield_now();
            }
            Ok(())
        })
        .unwrap();
    let ids = ["future", "closure"].map(|kind| stage.queue.add(handled(kind, "null")));
    for id in ids {
        stage.queue.wait_state(id, State::Running);
        stage.queue.cancel_one(id);
    }
    stage.queue.wait_state(ids[0], State::Cancelled);
    // A closure that ended well although it was told to is done: its work is.
    stage
        .queue
        .wait(|inner| inner.tasks[&ids[1].0].state.is_terminal().then_some(()));
    stage.wait_idle();
}

/// TASK-4: progress, text and checkpoint are taken with signs of life; the next attempt receives the checkpoint.
fn checkpoints_reach_the_next_attempt() {
    let stage = Stage::new(quiet());
    stage
        .handlers
        .register("steps", |context: TaskContext, (): ()| async move {
            match context.last_checkpoint() {
                None => {
                    context.progress(140.0);
                    context.message("half of it");
                    context.checkpoint("step 1").await?;
                    Err(TaskError::retry("again"))
                }
                Some(left) => Ok(String::from_utf8_lossy(left).into_owned()),
            }
        })
        .unwrap();
    let mut task = handled("steps", "null");
    task.head.retry = RetryPolicy {
        max_attempts: 2,
        ..task.head.retry
    };
    let id = stage.queue.add(task);
    let end = stage.queue.wait_end(id, 2);
    assert_eq!(end.result.as_deref(), Some(&br#""step 1""#[..]));
    let inner = stage.queue.inner();
    // One sign of life or several, as it comes.
    let beats = &inner.tasks[&id.0].beats;
    let said = (
        beats.iter().find_map(|beat| beat.progress),
        beats.iter().find_map(|beat| beat.message.as_deref()),
    );
    assert_eq!(said, (Some(100.0), Some("half of it")));
}

/// TASK-4: who lost a lease ends its run and reports nothing.
fn a_lost_lease_ends_the_run_in_silence() {
    let stage = Stage::new(quiet());
    let (says, said) = mpsc::channel();
    stage
        .handlers
        .register_blocking("long", move |context, (): ()| {
            let _ = says.send("began");
            while !context.is_cancelled() {
                std::thread::yield_now();
            }
            let _ = says.send("ended");
            Ok(())
        })
        .unwrap();
    let id = stage.queue.add(handled("long", "null"));
    assert_eq!(said.recv(), Ok("began"));
    stage.queue.expire(id);
    assert_eq!(said.recv(), Ok("ended"));
    stage.wait_idle();
    assert!(stage.queue.inner().tasks[&id.0].ends.is_empty());
    assert_eq!(stage.runners.counts()["long"].lost, 1);
}

/// TASK-6: at most so many tasks run at once; a new bound holds from then on.
fn no_more_run_than_may() {
    let mut settings = quiet();
    settings.max_concurrency = 3;
    let stage = Stage::new(settings);
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (its_now, its_most) = (Arc::clone(&now), Arc::clone(&most));
    stage
        .handlers
        .register("counted", move |_, (): ()| {
            let (now, most) = (Arc::clone(&its_now), Arc::clone(&its_most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .unwrap();
    let run = |count: usize| {
        let before = stage.queue.inner().count(State::Completed);
        for _ in 0..count {
            stage.queue.add(handled("counted", "null"));
        }
        stage
            .queue
            .wait(|inner| (inner.count(State::Completed) == before + count).then_some(()));
    };
    run(300);
    assert!((1..=3).contains(&most.swap(0, Ordering::SeqCst)));
    let mut settings = quiet();
    settings.max_concurrency = 1;
    stage.runners.set(settings.clone()).unwrap();
    run(100);
    assert_eq!(most.load(Ordering::SeqCst), 1);
    settings.max_concurrency = 0;
    assert_eq!(
        &*stage.runners.set(settings).unwrap_err().field,
        "max_concurrency"
    );
    assert_eq!(stage.runners.settings().max_concurrency, 1);
    stage.wait_idle();
}

/// TASK-17: instances of a resource are held by one task at a time and named to it; tasks that need none go past those that wait.
fn instances_belong_to_one_at_a_time() {
    let mut settings = quiet();
    settings.resources = [("gpu".into(), 2)].into();
    let stage = Stage::new(settings);
    let held: Arc<[AtomicU32; 2]> = Arc::default();
    let its = Arc::clone(&held);
    stage
        .handlers
        .register("gpu", move |context: TaskContext, (): ()| {
            let held = Arc::clone(&its);
            async move {
                let &[instance] = context.resource("gpu") else {
                    return Err(TaskError::fatal("one instance was asked for"));
                };
                let instance = &held[instance as usize];
                assert_eq!(instance.fetch_add(1, Ordering::SeqCst), 0);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                instance.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .unwrap();
    let ids: Vec<TaskId> = (0..100)
        .map(|_| {
            let mut task = handled("gpu", "null");
            task.head.needs.resources = vec![("gpu".into(), 1)];
            stage.queue.add(task)
        })
        .collect();
    let mut huge = handled("gpu", "null");
    huge.head.needs.resources = vec![("gpu".into(), 3)];
    let huge = stage.queue.add(huge);
    for id in ids {
        stage.queue.wait_state(id, State::Completed);
    }
    assert_eq!(stage.queue.inner().tasks[&huge.0].state, State::Pending);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let task = runtime
        .block_on(flyball_tasks::TaskQueue::task(&*stage.queue, huge))
        .unwrap();
    // TASK-16: it waits for ever, and why says so.
    let why = stage.runners.why(&task);
    assert!(
        why.iter().any(|wait| matches!(
            wait,
            flyball_tasks::Waiting::Resource {
                needs: 3,
                total: 2,
                ..
            }
        )),
        "{why:?}"
    );
    stage.wait_idle();
}

/// TASK-2: a kind that nobody registered waits for outside workers; one that is registered later is taken then.
fn kinds_without_a_handler_are_left_to_others() {
    let stage = Stage::new(RunSettings::default());
    stage
        .handlers
        .register("known", |_, (): ()| async { Ok(()) })
        .unwrap();
    let (unknown, known) = (
        stage.queue.add(handled("unknown", "null")),
        stage.queue.add(handled("known", "null")),
    );
    stage.queue.wait_state(known, State::Completed);
    assert_eq!(stage.queue.inner().tasks[&unknown.0].state, State::Pending);
    stage
        .handlers
        .register("unknown", |_, (): ()| async { Ok(()) })
        .unwrap();
    stage.queue.wait_state(unknown, State::Completed);
}

/// TASK-1: a report that the store has no room for is made again while the lease lasts.
fn a_full_disk_delays_a_report() {
    let stage = Stage::new(quiet());
    stage
        .handlers
        .register("once", |_, (): ()| async { Ok(1) })
        .unwrap();
    stage.queue.inner().finish_fails = 2;
    let id = stage.queue.add(handled("once", "null"));
    assert_eq!(stage.queue.wait_end(id, 1).outcome, Some(Outcome::Done));
    assert_eq!(stage.queue.inner().tasks[&id.0].attempts.started, 1);
    let events = stage.runners.events_after(0);
    assert!(events.iter().any(
        |event| matches!(&event.what, Happened::QueueFailed { why } if why.contains("no space"))
    ));
}

/// TASK-2: where what looks classes up panics, the task runs in the usual class; where the program's own queue does at a sign of life, that run is over and gone, and its
/// slot is another's.
fn panics_of_the_program_end_nothing_else() {
    let mut settings = quiet();
    settings.max_concurrency = 1;
    let stage = Stage::new(settings);
    stage
        .handlers
        .register("quick", |_, (): ()| async { Ok(()) })
        .unwrap();
    let mut cursed = handled("quick", "null");
    cursed.head.class = "cursed".into();
    let id = stage.queue.add(cursed);
    stage.queue.wait_state(id, State::Completed);
    stage
        .handlers
        .register("says", |context: TaskContext, (): ()| async move {
            let _ = context.checkpoint("x").await;
            std::future::pending::<()>().await;
            Ok(())
        })
        .unwrap();
    stage.queue.change(|inner| inner.beats_panic = true);
    stage.queue.add(handled("says", "null"));
    let next = stage.queue.add(handled("quick", "null"));
    stage.queue.wait_state(next, State::Completed);
    stage.wait_idle();
}
