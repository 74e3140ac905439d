//! Runners over the embedded queue: crashes and restarts.

use crate::Test;
use crate::stage::{embedded, folder, handled};
use flyball_tasks::run::{Handlers, TaskContext};
use flyball_tasks::{Batch, Selection, State, TaskId, TaskQueue};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    (
        "durable::a_handler_that_kills_the_process_ends_as_a_dead_letter",
        a_handler_that_kills_the_process_ends_as_a_dead_letter,
    ),
    (
        "durable::tasks_go_on_where_the_last_program_left_them",
        tasks_go_on_where_the_last_program_left_them,
    ),
];

/// TASK-7, TASK-10: a task that kills its process each time it runs is a dead letter after its attempts, not a crash loop; others of the program are done.
fn a_handler_that_kills_the_process_ends_as_a_dead_letter() {
    let folder = folder();
    let mut deaths = 0;
    let said = loop {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--helper", "crashes"])
            .arg(&folder)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        if run.status.success() {
            break String::from_utf8(run.stdout).unwrap();
        }
        deaths += 1;
        assert!(deaths <= 3, "a crash loop");
    };
    assert_eq!((deaths, &said[..]), (3, "dead crashed 3 completed\n"));
    std::fs::remove_dir_all(folder).unwrap();
}

/// TASK-1, TASK-4, TASK-7: what a drain gave back goes on in the next program from its checkpoint, at no cost of an attempt; cancelling works through the queue.
fn tasks_go_on_where_the_last_program_left_them() {
    let folder = folder();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (began, has_begun) = std::sync::mpsc::channel();
    let handlers = || {
        let handlers = Handlers::new();
        let began = began.clone();
        handlers
            .register("steps", move |context: TaskContext, (): ()| {
                let began = began.clone();
                async move {
                    if context.last_checkpoint().is_none() {
                        context.checkpoint("half").await?;
                        began.send(()).unwrap();
                        std::future::pending::<()>().await;
                    }
                    Ok(context.attempts().counted)
                }
            })
            .unwrap();
        handlers
    };
    let (runners, queue, executor) = embedded(&folder, &handlers());
    let tasks = vec![handled("steps", "null"), handled("steps", "null")];
    let batch = Batch {
        tasks,
        idempotency: None,
    };
    runtime.block_on(queue.enqueue(batch)).unwrap();
    has_begun.recv().unwrap();
    has_begun.recv().unwrap();
    let cancel = Selection::Ids(vec![TaskId(2)]);
    runtime
        .block_on(queue.cancel(cancel, "the test says so".to_owned()))
        .unwrap();
    let ends = |queue: &Arc<flyball_tasks::Embedded>, id: TaskId| {
        runtime.block_on(async {
            let mut number = queue.watch();
            loop {
                let task = queue.task(id).await.unwrap();
                if task.state.is_terminal() {
                    return task;
                }
                number.changed().await.unwrap();
            }
        })
    };
    // No sign of life is due for twenty minutes: it hears of it through the queue's events.
    assert_eq!(ends(&queue, TaskId(2)).state, State::Cancelled);
    assert_eq!(runners.drain_blocking(Duration::ZERO).stuck, 0);
    drop(runners);
    runtime.block_on(queue.close()).unwrap();
    drop((queue, executor));

    let (runners, queue, _executor) = embedded(&folder, &handlers());
    let task = ends(&queue, TaskId(1));
    assert_eq!((task.state, task.attempts.started), (State::Completed, 2));
    assert_eq!(task.result.as_deref(), Some(&b"0"[..]));
    drop(runners);
    std::fs::remove_dir_all(folder).unwrap();
}
