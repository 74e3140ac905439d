//! Durable tasks over HTTP.

use crate::support::Daemon;

/// API-4: without a folder to keep tasks in, calls say so; what is wrong with a body is said first.
#[test]
fn without_a_queue_calls_say_so() {
    let daemon = Daemon::start();
    for (method, path, body) in [
        ("POST", "/v1/tasks", r#"{"kind":"a"}"#),
        ("POST", "/v1/cpu/scheduler/task", r#"{"kind":"a"}"#),
        ("GET", "/v1/cpu/scheduler/task?worker=w", ""),
        ("POST", "/v1/tasks/lease", r#"{"worker":"w"}"#),
        ("GET", "/v1/tasks", ""),
        ("GET", "/v1/tasks/1", ""),
        ("GET", "/v1/tasks/stats", ""),
    ] {
        let problem = daemon.admin(method, path, body).problem(501);
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("queue.state_dir"),
            "{method} {path}: {detail}"
        );
    }
    daemon.admin("GET", "/v1/tasks/x", "").problem(404);
    daemon
        .admin("POST", "/v1/tasks", r#"{"kind":""}"#)
        .problem(422);
}
