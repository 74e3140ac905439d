//! What this binary does when a test runs it as a program.

use crate::stage::{Stage, embedded, handled, quiet, shell};
use flyball_tasks::run::Handlers;
use flyball_tasks::run::TaskError;
use flyball_tasks::{Batch, State, TaskId, TaskQueue};
use std::io::{Read, Write};

/// Runs a helper, if this process is one.
pub(crate) fn run() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, name, rest @ ..] = arguments.as_slice() else {
        return false;
    };
    if flag != "--helper" {
        return false;
    }
    match name.as_str() {
        // A program that runs tasks and waits to be killed. Descriptor 2 is held by the spawn server below it.
        "daemon" => {
            let stage = Stage::new(quiet());
            for script in [
                "trap '' TERM; echo $$ > \"$FLYBALL_TASK_CHECKPOINT\"; exec 3>&-; sleep 600 & wait; sleep 600",
                "setsid sh -c 'sleep 600' & sleep 600",
            ] {
                let id = stage.queue.add(shell(script));
                stage.queue.wait_state(id, State::Running);
            }
            stage
                .queue
                .wait(|inner| inner.tasks[&1].checkpoint.is_some().then_some(()));
            let _ = writeln!(std::io::stdout(), "ready");
            // Until the test closes its end, which it does not: it kills.
            let _ = std::io::stdin().read(&mut [0]);
        }
        // A program whose handler kills it whenever it runs; says what has become of the task once it is over.
        "crashes" => crashes(std::path::Path::new(&rest[0])),
        other => panic!("no helper {other}"),
    }
    true
}

fn crashes(folder: &std::path::Path) {
    let handlers = Handlers::new();
    handlers
        .register_blocking("deadly", |_, (): ()| -> Result<(), TaskError> {
            std::process::abort()
        })
        .unwrap();
    handlers
        .register("well", |_, (): ()| async { Ok(()) })
        .unwrap();
    let (runners, queue, _executor) = embedded(folder, &handlers);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut number = queue.watch();
        if queue.task(TaskId(1)).await.is_err() {
            let mut deadly = handled("deadly", "null");
            deadly.head.retry.max_attempts = 3;
            // It may run beside the deadly one, and die of it each time.
            let mut well = handled("well", "null");
            well.head.retry.max_attempts = 5;
            let tasks = vec![deadly, well];
            let batch = Batch {
                tasks,
                idempotency: None,
            };
            queue.enqueue(batch).await.unwrap();
        }
        loop {
            let (deadly, well) = (
                queue.task(TaskId(1)).await.unwrap(),
                queue.task(TaskId(2)).await.unwrap(),
            );
            if deadly.state.is_terminal() && well.state.is_terminal() {
                let reason = deadly.reason.map_or("none", flyball_tasks::Reason::name);
                let _ = writeln!(
                    std::io::stdout(),
                    "{} {reason} {} {}",
                    deadly.state.name(),
                    deadly.attempts.started,
                    well.state.name()
                );
                return;
            }
            number.changed().await.unwrap();
        }
    });
    drop(runners);
}
