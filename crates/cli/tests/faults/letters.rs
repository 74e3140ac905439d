//! Tasks that take the daemon along.

use crate::client::Client;
use crate::daemon::{Folder, Setup};
use serde_json::json;

/// TASK-1, TASK-7, TASK-10: a command that kills the daemon on every run ends as a dead letter; the daemon comes up each time, and other tasks run.
#[test]
fn a_task_that_kills_the_daemon_ends_as_a_dead_letter() {
    let folder = Folder::new("letters");
    let setup = Setup::new(&folder);
    let mut daemon = setup.start();
    let lock = setup.state.join("lock");
    // The daemon's number stands in its lock.
    let script = r#"kill -9 "$(cat "$1")"; sleep 900"#;
    let argv = json!(["/bin/sh", "-c", script, "sh", lock.to_string_lossy()]);
    let deadly = json!({"kind": "deadly", "command": {"argv": argv}, "retry": {"max_attempts": 3, "base_ms": 1}});
    // What runs beside it is not taken along as often as it dies.
    let other = json!({"kind": "other", "command": {"argv": ["/bin/true"]}, "not_before": "2020-01-01T00:00:00Z"});
    let mut client = daemon.client();
    // It may die before it answers.
    let answer = client.post("/v1/tasks", &json!({"tasks": [deadly, other]}));
    drop(answer);
    daemon.wait();
    let mut starts = 1;
    let daemon = loop {
        starts += 1;
        assert!(starts <= 4, "it is never set aside");
        // It may die of it before it says that it is ready.
        let Ok(mut daemon) = setup.spawn().ready() else {
            continue;
        };
        let state = Client::connect(&daemon.socket())
            .and_then(|mut client| client.get("/v1/tasks?kind=deadly"))
            .map(|(_, page)| page["items"][0].clone());
        match state {
            Ok(task) if task["state"] == "dead" => {
                assert_eq!(task["reason"], "crashed", "{task}");
                assert_eq!(task["attempts_counted"], 3, "{task}");
                break daemon;
            }
            _ => daemon.wait(),
        }
    };
    assert_eq!(starts, 4, "each attempt counts");
    crate::wait_until("the other task runs", || {
        let page = daemon.expect("GET", "/v1/tasks?kind=other&state=completed", "", 200);
        page["items"]
            .as_array()
            .is_some_and(|items| items.len() == 1)
    });
    // It stays dead until somebody says otherwise.
    drop(daemon);
    let daemon = setup.start();
    let page = daemon.expect("GET", "/v1/tasks?state=dead", "", 200);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "{page}");
}
