//! What this binary does when a test runs it as a program.

use crate::stage::{Stage, quiet, shell};
use flyball_tasks::State;
use std::io::Read;

/// Runs a helper, if this process is one.
pub(crate) fn run() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, name, ..] = arguments.as_slice() else {
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
            println!("ready");
            // Until the test closes its end, which it does not: it kills.
            let _ = std::io::stdin().read(&mut [0]);
        }
        other => panic!("no helper {other}"),
    }
    true
}
