//! Durable tasks over HTTP.

use crate::support::{Client, Daemon, Reply};
use serde_json::{Value, json};
use std::time::Duration;

fn daemon() -> Daemon {
    Daemon::with_queue("{}")
}

/// With a field that sends it the ordinary way rather than the short one.
fn ordinary(daemon: &Daemon, path: &str, body: &str) -> Reply {
    let fields = format!(
        "authorization: Bearer {}\r\ncontent-type: application/json\r\nx-way: long\r\n",
        daemon.token
    );
    daemon.ask("POST", path, &fields, body)
}

#[track_caller]
fn submit(daemon: &Daemon, body: &str) -> Value {
    let reply = daemon.admin("POST", "/v1/tasks", body);
    assert_eq!(
        reply.status,
        201,
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    reply.json()
}

#[track_caller]
fn ok(daemon: &Daemon, method: &str, path: &str, body: &str) -> Value {
    let reply = daemon.admin(method, path, body);
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status, 200, "{method} {path}: {text}");
    reply.json()
}

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

/// API-4, API-5, TASK-3: a task is submitted, shown, listed and counted, with the fields that clients rely on; both ways answer alike.
#[test]
fn tasks_are_submitted_and_shown() {
    let daemon = daemon();
    let body = r#"{"kind":"thumbnail","payload":{"a": [1, 2.50]},"class":"batch","labels":{"team":"video"},"key":"tenant-7","cpu":1.0,
        "resources":{"gpu":1},"timeout_ms":30000,"retry":{"max_attempts":5},"group":"g"}"#;
    let short = daemon.admin("POST", "/v1/tasks", body);
    let long = ordinary(&daemon, "/v1/tasks", body);
    assert_eq!((short.status, long.status), (201, 201));
    let names = |reply: &Reply| {
        let mut names: Vec<String> = reply.fields.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&short), names(&long));
    let (short, long) = (short.json(), long.json());
    for (task, id) in [(&short, "1"), (&long, "2")] {
        assert_eq!(task["id"], id);
        assert_eq!(task["kind"], "thumbnail");
        assert_eq!(task["class"], "batch");
        assert_eq!(task["state"], "pending");
        assert_eq!(task["attempt"], 0);
        assert!(task["created_at"].as_str().unwrap().ends_with('Z'));
    }
    let task = ok(&daemon, "GET", "/v1/tasks/1", "");
    assert_eq!(task["payload"], json!({"a": [1, 2.5]}));
    assert_eq!(task["labels"], json!({"team": "video"}));
    assert_eq!(task["resources"], json!({"gpu": 1}));
    assert_eq!(task["retry"]["max_attempts"], 5);
    assert_eq!(task["timeout_ms"], 30_000);
    let page = ok(
        &daemon,
        "GET",
        "/v1/tasks?state=pending&kind=thumbnail&label=team%3Dvideo&limit=1",
        "",
    );
    assert_eq!(page["items"][0]["id"], "2");
    let next = page["next_cursor"].as_str().unwrap();
    let page = ok(
        &daemon,
        "GET",
        &format!("/v1/tasks?limit=1&cursor={next}"),
        "",
    );
    assert_eq!(page["items"][0]["id"], "1");
    let none = ok(&daemon, "GET", "/v1/tasks?group=other", "");
    assert_eq!(
        (&none["items"], &none["next_cursor"]),
        (&json!([]), &Value::Null)
    );
    let stats = daemon.get("/v1/tasks/stats").json();
    assert_eq!(stats["by_state"]["pending"], 2);
    daemon.get("/v1/tasks/1").problem(401);
    daemon.admin("GET", "/v1/tasks/3", "").problem(404);
    for (query, pointer) in [
        ("state=undead", "?state"),
        ("label=x", "?label"),
        ("limit=0", "?limit"),
        ("cursor=x", "?cursor"),
        ("kind=", "?kind"),
    ] {
        let problem = daemon
            .admin("GET", &format!("/v1/tasks?{query}"), "")
            .problem(422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

/// API-1, TASK-5: what is wrong with a body is pointed to, by either way; nothing of it is taken.
#[test]
fn wrong_tasks_are_refused_with_pointers() {
    let daemon = daemon();
    let deep = format!(
        r#"{{"kind":"a","payload":{}{}}}"#,
        "[".repeat(128),
        "]".repeat(128)
    );
    for (body, status, pointer) in [
        (r#"{"kind":"a","timeout_ms":-1}"#, 422, "/timeout_ms"),
        (r#"{"kind":"a","timeout_ms":0}"#, 422, "/timeout_ms"),
        (
            r#"{"kind":"a","timeout_ms":18446744073709551616}"#,
            422,
            "/timeout_ms",
        ),
        (r#"{"kind":"a","cpu":-1}"#, 422, "/cpu"),
        (r#"{"kind":"a","colour":"red"}"#, 422, "/colour"),
        (r#"{"kind":"a","class":"nope"}"#, 422, "/class"),
        (r#"{"kind":"a\u0000"}"#, 422, "/kind"),
        (
            r#"{"kind":"a","deadline":"2020-01-01T00:00:00Z"}"#,
            422,
            "/deadline",
        ),
        (r#"{"kind":"a","cron":"every day"}"#, 422, "/cron"),
        (
            r#"{"kind":"a","cron":{"expression":"* * * * *","time_zone":"Mars/Base"}}"#,
            422,
            "/cron",
        ),
        (r#"{"kind":"a","after":["99"]}"#, 422, "/after/0"),
        (r#"{"kind":"a","after":["b"]}"#, 422, "/after/0"),
        (
            r#"{"tasks":[{"kind":"a","ref":"x","after":["y"]},{"kind":"b","ref":"y","after":["x"]}]}"#,
            422,
            "/tasks/",
        ),
        (
            r#"{"tasks":[{"kind":"a"},{"kind":"b","retry":{"max_attempts":0}}]}"#,
            422,
            "/tasks/1/retry/max_attempts",
        ),
        (r#"{"tasks":[]}"#, 422, "/tasks"),
        (r#"{"kind":"a","kind":"b"}"#, 400, ""),
        (r#"{"kind":"a","labels":{"x":"1","x":"2"}}"#, 400, ""),
        (r#"{"kind":"a","cpu":NaN}"#, 400, ""),
        (r#"{"kind":"a","cpu":1e999}"#, 400, ""),
        (r#"{"kind":"a","payload":{"x":}}"#, 400, ""),
        (&deep, 400, ""),
        ("[]", 422, ""),
    ] {
        for reply in [
            daemon.admin("POST", "/v1/tasks", body),
            ordinary(&daemon, "/v1/tasks", body),
        ] {
            let problem = reply.problem(status);
            if !pointer.is_empty() {
                let found = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
                assert!(found.starts_with(pointer), "{body}: {problem}");
            }
        }
    }
    let huge = format!(r#"{{"kind":"a","payload":"{}"}}"#, "x".repeat(1 << 20));
    daemon.admin("POST", "/v1/tasks", &huge).problem(413);
    let stats = daemon.get("/v1/tasks/stats").json();
    assert_eq!(stats["accepted"], 0, "{stats}");
}

/// TASK-4: outside workers lease, show life and finish; a stale token is refused.
#[test]
fn workers_lease_and_finish() {
    let daemon = daemon();
    submit(
        &daemon,
        r#"{"tasks":[{"kind":"a","payload":1},{"kind":"a","payload":{"b":2}},{"kind":"other"}]}"#,
    );
    let body = r#"{"worker":"w1","kinds":["a"],"max":10,"lease_ms":30000}"#;
    let leased = ok(&daemon, "POST", "/v1/tasks/lease", body);
    let tasks = leased["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 2);
    assert_eq!(
        (&tasks[0]["payload"], &tasks[1]["payload"]),
        (&json!(1), &json!({"b": 2}))
    );
    assert_eq!(tasks[0]["attempt"], 1);
    let (one, two) = (
        tasks[0]["token"].as_str().unwrap(),
        tasks[1]["token"].as_str().unwrap(),
    );
    let beat = format!(
        r#"{{"token":"{one}","progress_percent":50,"message":"half","checkpoint":{{"at":7}}}}"#
    );
    let task = ok(&daemon, "POST", "/v1/tasks/1/heartbeat", &beat);
    assert_eq!(
        (&task["state"], &task["progress_percent"], &task["message"]),
        (&json!("running"), &json!(50.0), &json!("half"))
    );
    let failed = format!(r#"{{"token":"{one}","error":"no","retryable":true}}"#);
    let task = ok(&daemon, "POST", "/v1/tasks/1/fail", &failed);
    assert!(
        ["scheduled", "pending"].contains(&task["state"].as_str().unwrap()),
        "{task}"
    );
    assert_eq!(task["error"], "no");
    daemon
        .admin("POST", "/v1/tasks/1/heartbeat", &beat)
        .problem(409);
    daemon
        .admin(
            "POST",
            "/v1/tasks/1/complete",
            &format!(r#"{{"token":"{one}"}}"#),
        )
        .problem(409);
    let ends = format!(
        r#"{{"tasks":[{{"id":"1","token":"{one}"}},{{"id":"2","token":"{two}","result":{{"ok":true}}}}]}}"#
    );
    for (way, status) in [("short", Value::Null), ("long", json!(409))] {
        let reply = match way {
            "short" => daemon.admin("POST", "/v1/tasks/finish", &ends),
            _ => ordinary(&daemon, "/v1/tasks/finish", &ends),
        };
        assert_eq!(reply.status, 200);
        let finished = reply.json();
        assert_eq!(finished["tasks"][0]["status"], 409, "{finished}");
        assert_eq!(finished["tasks"][1]["status"], status, "{finished}");
    }
    let done = ok(&daemon, "GET", "/v1/tasks/2", "");
    assert_eq!(
        (&done["state"], &done["result"]),
        (&json!("completed"), &json!({"ok": true}))
    );
    // A task that is given back costs no attempt.
    let leased = ok(
        &daemon,
        "POST",
        "/v1/tasks/lease",
        r#"{"worker":"w2","kinds":["other"]}"#,
    );
    let token = leased["tasks"][0]["token"].as_str().unwrap();
    let task = ok(
        &daemon,
        "POST",
        "/v1/tasks/3/release",
        &format!(r#"{{"token":"{token}"}}"#),
    );
    assert_eq!(
        (&task["state"], &task["attempts_counted"]),
        (&json!("pending"), &json!(0))
    );
    let none = ok(
        &daemon,
        "POST",
        "/v1/tasks/lease",
        r#"{"worker":"w2","kinds":["nothing"]}"#,
    );
    assert_eq!(none, json!({"tasks": []}));
    for (path, body, pointer) in [
        ("/v1/tasks/lease", r#"{"worker":"w","max":0}"#, "/max"),
        ("/v1/tasks/lease", r#"{"worker":"w","kinds":[]}"#, "/kinds"),
        (
            "/v1/tasks/finish",
            r#"{"tasks":[{"id":"1","token":"x"}]}"#,
            "/tasks/0/token",
        ),
        ("/v1/tasks/3/complete", r#"{"token":"x"}"#, "/token"),
        (
            "/v1/tasks/3/complete",
            r#"{"token":"1-1","result":1,"extra":2}"#,
            "/extra",
        ),
    ] {
        let problem = daemon.admin("POST", path, body).problem(422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

/// API-2: the scheduler's own calls do the same; leasing by GET counts as a change.
#[test]
fn the_scheduler_takes_and_gives_tasks() {
    let daemon = daemon();
    let path = "/v1/cpu/scheduler/task";
    assert_eq!(
        daemon.admin("GET", &format!("{path}?worker=w"), "").status,
        204
    );
    let task = daemon.admin("POST", path, r#"{"kind":"a"}"#);
    assert_eq!(task.status, 201);
    let lease = format!("{path}?worker=w&kinds=a,b&wait_ms=1000");
    daemon.get(&lease).problem(401);
    let fields = format!(
        "authorization: Bearer {}\r\nsec-fetch-site: cross-site\r\n",
        daemon.token
    );
    daemon.ask("GET", &lease, &fields, "").problem(403);
    let leased = ok(&daemon, "GET", &lease, "");
    assert_eq!((&leased["id"], &leased["kind"]), (&json!("1"), &json!("a")));
    assert!(leased["token"].is_string());
    let problem = daemon
        .admin("GET", &format!("{path}?worker=&kinds=a"), "")
        .problem(422);
    assert_eq!(problem["errors"][0]["pointer"], "?worker");
}

/// TASK-3, API-1: a repeated request is answered as before; its key with another body is refused.
#[test]
fn repeated_requests_are_one() {
    let daemon = daemon();
    let with_key = |way: &str, body: &str| {
        let fields = format!(
            "authorization: Bearer {}\r\ncontent-type: application/json\r\nidempotency-key: k 1\r\n{way}",
            daemon.token
        );
        daemon.ask("POST", "/v1/tasks", &fields, body)
    };
    let first = with_key("", r#"{"kind":"a"}"#).json();
    assert_eq!(first["existing"], false);
    for way in ["", "x-way: long\r\n"] {
        let again = with_key(way, r#"{"kind":"a"}"#);
        assert_eq!(again.status, 201);
        let again = again.json();
        assert_eq!(
            (&again["id"], &again["existing"]),
            (&first["id"], &json!(true))
        );
        assert_eq!(again["created_at"], first["created_at"]);
        with_key(way, r#"{"kind":"b"}"#).problem(409);
        with_key(
            &format!("{way}idempotency-key: other\r\n"),
            r#"{"kind":"a"}"#,
        )
        .problem(400);
    }
    assert_eq!(daemon.get("/v1/tasks/stats").json()["accepted"], 1);
}

/// TASK-6, TASK-10, TASK-16: tasks are cancelled, retried, paused and resumed, and say what they wait for.
#[test]
fn tasks_are_cancelled_retried_and_paused() {
    let daemon = daemon();
    submit(
        &daemon,
        r#"{"tasks":[{"kind":"a","ref":"x"},{"kind":"b","after":["x"]},{"kind":"a","labels":{"l":"1"}}]}"#,
    );
    let why = ok(&daemon, "GET", "/v1/tasks/2/why", "");
    assert_eq!(
        (&why["waiting"][0]["for"], &why["waiting"][0]["task"]),
        (&json!("parent"), &json!("1"))
    );
    let paused = ok(&daemon, "POST", "/v1/tasks/pause", r#"{"kind":"a"}"#);
    assert_eq!(
        (&paused["changed"], &paused["paused"][0]["name"]),
        (&json!(true), &json!("a"))
    );
    let lease = r#"{"worker":"w","max":10}"#;
    assert_eq!(
        ok(&daemon, "POST", "/v1/tasks/lease", lease),
        json!({"tasks": []})
    );
    let why = ok(&daemon, "GET", "/v1/tasks/1/why", "");
    assert!(
        why["waiting"]
            .as_array()
            .unwrap()
            .iter()
            .any(|wait| wait["for"] == "paused"),
        "{why}"
    );
    let resumed = ok(&daemon, "POST", "/v1/tasks/resume", r#"{"kind":"a"}"#);
    assert_eq!(resumed["paused"], json!([]));
    daemon.admin("POST", "/v1/tasks/pause", "{}").problem(422);
    daemon
        .admin("POST", "/v1/tasks/pause", r#"{"class":"nope"}"#)
        .problem(422);
    // A class that is paused is paused in the queue, too.
    ok(&daemon, "POST", "/v1/classes/normal/pause", "");
    assert_eq!(
        ok(&daemon, "POST", "/v1/tasks/lease", lease),
        json!({"tasks": []})
    );
    ok(&daemon, "POST", "/v1/classes/normal/resume", "");

    let task = ok(&daemon, "DELETE", "/v1/tasks/1?reason=wrong%20file", "");
    assert_eq!(task["state"], "cancelled");
    daemon.admin("DELETE", "/v1/tasks/1", "").problem(409);
    daemon.admin("DELETE", "/v1/tasks/77", "").problem(404);
    assert_eq!(ok(&daemon, "GET", "/v1/tasks/2", "")["state"], "skipped");
    assert_eq!(
        ok(&daemon, "POST", "/v1/tasks/1/retry", "")["state"],
        "pending"
    );
    daemon.admin("POST", "/v1/tasks/1/retry", "").problem(409);
    let many = ok(
        &daemon,
        "POST",
        "/v1/tasks/cancel",
        r#"{"filter":{"kind":"a"}}"#,
    );
    assert_eq!(many["tasks"].as_array().unwrap().len(), 2, "{many}");
    daemon
        .admin("POST", "/v1/tasks/cancel", r#"{"ids":["99"]}"#)
        .problem(404);
    let many = ok(
        &daemon,
        "POST",
        "/v1/tasks/retry",
        r#"{"filter":{"states":["cancelled"],"labels":{"l":"1"}}}"#,
    );
    assert_eq!(many["tasks"][0]["id"], "3");
    daemon
        .admin("POST", "/v1/tasks/cancel", r#"{"filter":{}}"#)
        .problem(422);
}

/// TASK-23: over the socket the local user runs any command; over TCP the list of allowed programs is asked.
#[test]
fn commands_need_the_socket_or_the_list() {
    let daemon = daemon();
    let body = r#"{"kind":"a","not_before":"2100-01-01T00:00:00Z","command":{"argv":["/bin/true",{"base64":"/w=="}],"cwd":"/tmp","env":{"A":"b"},"clear_env":true,"umask":"027"}}"#;
    for reply in [
        daemon.admin("POST", "/v1/tasks", body),
        ordinary(&daemon, "/v1/tasks", body),
    ] {
        let problem = reply.problem(403);
        assert_eq!(problem["errors"][0]["pointer"], "/command", "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("commands.enabled"), "{detail}");
    }
    let mut client = Client::unix(daemon.server.socket());
    let json = "content-type: application/json\r\n";
    let reply = client.ask("POST", "/v1/tasks", "x", json, body);
    assert_eq!(
        reply.status,
        201,
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    let task = client.ask("GET", "/v1/tasks/1", "x", "", "").json();
    assert_eq!(
        task["command"]["argv"],
        json!(["/bin/true", {"base64": "/w=="}])
    );
    assert_eq!(task["command"]["umask"], "027");
}

/// TASK-16, TASK-17: what would wait for ever, as there is not so much here, is refused with what there is; what others run is not judged.
#[test]
fn needs_that_nobody_can_meet_are_refused() {
    let daemon = Daemon::with_queue(
        "{scheduler: {resources: {gpu: 2, disc: 1}, max_cpus: 2, max_memory: 1MiB}}",
    );
    let call =
        r#""kind":"a","not_before":"2100-01-01T00:00:00Z","http":{"url":"http://example.com"}"#;
    for (needs, pointer, said) in [
        (
            r#""resources":{"gpuu":1}"#,
            "/resources/gpuu",
            "scheduler.resources has disc, gpu",
        ),
        (
            r#""resources":{"c.d/e":1}"#,
            "/resources/c.d~1e",
            "no such resource",
        ),
        (
            r#""resources":{"gpu":3}"#,
            "/resources/gpu",
            "found 3, expected at most 2",
        ),
        (r#""cpu":2.5"#, "/cpu", "found 2.5, expected at most 2"),
        (
            r#""memory_bytes":1048577"#,
            "/memory_bytes",
            "at most 1048576",
        ),
    ] {
        let body = format!("{{{call},{needs}}}");
        let batch = format!(r#"{{"tasks":[{{"kind":"a"}},{body}]}}"#);
        for (body, pointer) in [
            (body, pointer.to_owned()),
            (batch, format!("/tasks/1{pointer}")),
        ] {
            for reply in [
                daemon.admin("POST", "/v1/tasks", &body),
                ordinary(&daemon, "/v1/tasks", &body),
            ] {
                let problem = reply.problem(422);
                let error = &problem["errors"][0];
                assert_eq!(error["pointer"], pointer.as_str(), "{problem}");
                assert!(
                    error["detail"].as_str().unwrap().contains(said),
                    "{problem}"
                );
            }
        }
    }
    submit(
        &daemon,
        &format!(r#"{{{call},"resources":{{"gpu":2,"disc":1}},"cpu":2,"memory_bytes":1048576}}"#),
    );
    submit(&daemon, r#"{"kind":"pulled","resources":{"gpuu":7}}"#);
}

/// TASK-11, TASK-23: calls that come over the network do not reach this machine unless the configuration names it; those of the local user do.
#[test]
fn calls_over_the_network_reach_what_they_may() {
    let daemon = daemon();
    let call = |url: &str| {
        let later = "2100-01-01T00:00:00Z";
        json!({"kind": "a", "not_before": later, "http": {"url": url}}).to_string()
    };
    let metadata = call("http://169.254.169.254/latest/meta-data");
    for body in [
        &metadata,
        &call("http://localhost:22"),
        &call("http://[::ffff:7f00:1]/"),
    ] {
        for reply in [
            daemon.admin("POST", "/v1/tasks", body),
            ordinary(&daemon, "/v1/tasks", body),
        ] {
            let problem = reply.problem(403);
            assert_eq!(problem["errors"][0]["pointer"], "/http/url", "{problem}");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("calls.hosts"), "{detail}");
        }
    }
    submit(&daemon, &call("http://example.com"));
    let mut client = Client::unix(daemon.server.socket());
    let json = "content-type: application/json\r\n";
    let reply = client.ask("POST", "/v1/tasks", "x", json, &metadata);
    assert_eq!(reply.status, 201);
    ok(
        &daemon,
        "PATCH",
        "/v1/config",
        r#"{"calls":{"hosts":["localhost:22"]}}"#,
    );
    submit(&daemon, &call("http://localhost:22"));
    for other in ["http://localhost:23", "http://example.com"] {
        daemon.admin("POST", "/v1/tasks", &call(other)).problem(403);
    }
}

/// TASK-6: a full queue refuses with the time to try again, by either way, and loses nothing.
#[test]
fn a_full_queue_says_when_to_try_again() {
    let daemon = Daemon::with_queue("queue: { max_tasks: 2 }");
    let body = r#"{"tasks":[{"kind":"a"},{"kind":"a"}]}"#;
    submit(&daemon, body);
    for reply in [
        daemon.admin("POST", "/v1/tasks", r#"{"kind":"a"}"#),
        ordinary(&daemon, "/v1/tasks", r#"{"kind":"a"}"#),
    ] {
        let problem = reply.problem(429);
        let seconds: u32 = reply.field("retry-after").unwrap().parse().unwrap();
        assert!(seconds > 0 && reply.field("date").is_some(), "{problem}");
        assert_eq!(problem["instance"], "/v1/tasks");
    }
    assert_eq!(
        daemon.get("/v1/tasks/stats").json()["by_state"]["pending"],
        2
    );
}

/// API-6: requests that go the short way and others on one connection are answered in order, also when they come at once.
#[test]
fn both_ways_keep_their_order_on_one_connection() {
    let daemon = daemon();
    let fields = format!(
        "host: {}\r\nauthorization: Bearer {}\r\n",
        daemon.address, daemon.token
    );
    let body = r#"{"kind":"a"}"#;
    let post = format!(
        "POST /v1/tasks HTTP/1.1\r\n{fields}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let get = format!("GET /v1/tasks/1 HTTP/1.1\r\n{fields}\r\n");
    let wrong = post.replace("Bearer ", "Bearer x");
    let mut client = daemon.connect();
    for _ in 0..20 {
        client.send(format!("{post}{get}{post}{post}{wrong}{get}{post}"));
        for status in [201, 200, 201, 201, 401, 200, 201] {
            assert_eq!(client.receive().status, status);
        }
    }
    // Cut anywhere, it is the same request.
    for cut in (1..post.len()).step_by(7) {
        let (first, rest) = post.split_at(cut);
        client.send(first);
        assert!(client.is_silent_for(Duration::from_millis(1)));
        client.send(rest);
        assert_eq!(client.receive().status, 201, "{cut}");
    }
}

/// API-6, TASK-4: a worker that waits for a task is answered when the server stops, and gets the task that comes meanwhile.
#[test]
fn waiting_workers_are_answered() {
    let daemon = daemon();
    let fields = format!(
        "host: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        daemon.address, daemon.token
    );
    let body = r#"{"worker":"w","kinds":["a"],"wait_ms":60000}"#;
    let lease = format!(
        "POST /v1/tasks/lease HTTP/1.1\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut waits = daemon.connect();
    waits.send(&lease);
    submit(&daemon, r#"{"kind":"a"}"#);
    assert_eq!(waits.receive().json()["tasks"][0]["id"], "1");
    // Both in one piece: when the first is answered, the second is waited for.
    let body = r#"{"kind":"b"}"#;
    waits.send(format!(
        "POST /v1/tasks HTTP/1.1\r\n{fields}content-length: {}\r\n\r\n{body}{lease}",
        body.len()
    ));
    assert_eq!(waits.receive().status, 201);
    let Daemon { server, .. } = daemon;
    let stopped = std::thread::spawn(move || server.shutdown(Duration::from_secs(30)));
    assert_eq!(waits.receive().json(), json!({"tasks": []}));
    assert!(waits.is_closed());
    assert_eq!(stopped.join().unwrap(), 0);
}

/// TASK-19: the queue is copied while it is in use, into a file over the socket, or as the answer.
#[test]
fn the_queue_is_copied_while_in_use() {
    let daemon = daemon();
    submit(&daemon, r#"{"kind":"a"}"#);
    let copy = daemon.admin("POST", "/v1/backup", "{}");
    assert_eq!(copy.status, 200);
    assert!(copy.body.starts_with(b"SQLite format 3\0"));
    let left: Vec<_> = std::fs::read_dir(&daemon.folder.0).unwrap().collect();
    let names = left.iter().map(|entry| entry.as_ref().unwrap().file_name());
    assert!(!names.into_iter().any(|name| name == "backup.part"));
    let path = daemon.folder.0.join("copy.db");
    let body = json!({ "path": path }).to_string();
    daemon.admin("POST", "/v1/backup", &body).problem(403);
    let mut client = Client::unix(daemon.server.socket());
    let json = "content-type: application/json\r\n";
    let written = client.ask("POST", "/v1/backup", "x", json, &body);
    assert_eq!(
        written.status,
        200,
        "{}",
        String::from_utf8_lossy(&written.body)
    );
    assert_eq!(
        written.json()["bytes"],
        std::fs::metadata(&path).unwrap().len()
    );
    client
        .ask("POST", "/v1/backup", "x", json, &body)
        .problem(409);
    let folder = daemon.folder.0.display();
    for path in [
        "here".to_owned(),
        format!("{folder}/none/copy.db"),
        format!("{folder}/new/"),
        format!("{folder}/copy.db/inside"),
    ] {
        let body = json!({ "path": path }).to_string();
        let problem = client
            .ask("POST", "/v1/backup", "x", json, &body)
            .problem(422);
        assert_eq!(problem["errors"][0]["pointer"], "/path", "{path}");
    }
}

/// API-1: a list is never taken for the fields of a structure, by no way; what is wrong with a body as a whole is said plainly.
#[test]
fn lists_are_no_bodies() {
    let daemon = daemon();
    let fields = format!(r#"["a"{}]"#, ",null".repeat(23));
    for (path, body) in [
        ("/v1/tasks", fields.as_str()),
        ("/v1/tasks", r#"[{"kind":"a"}]"#),
        ("/v1/tasks/lease", r#"["w",["a"],1,1000,0]"#),
        ("/v1/tasks/pause", r#"["a",null,null]"#),
        ("/v1/cpu/load-balancer/strategy", r#"["least_loaded"]"#),
    ] {
        for reply in [
            daemon.admin("POST", path, body),
            ordinary(&daemon, path, body),
        ] {
            let problem = reply.problem(422);
            let detail = &problem["errors"][0]["detail"];
            assert_eq!(detail, "found a list, expected an object", "{path} {body}");
        }
    }
    let problem = daemon.admin("POST", "/v1/tasks/pause", "{}").problem(422);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("expected exactly one of"), "{detail}");
    let problem = daemon.admin("GET", "/v1/tasks?state=foo", "").problem(422);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("?state: expected one of"), "{detail}");
    let body = r#"{"kind":"a","not_before":"9999-12-31T23:59:59Z"}"#;
    let problem = daemon.admin("POST", "/v1/tasks", body).problem(422);
    let detail = problem["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("1970 to 2554"), "{detail}");
}

/// TASK-4: a task and a lease have one name each.
#[test]
fn names_of_tasks_and_leases_are_written_one_way() {
    let daemon = daemon();
    submit(&daemon, r#"{"kind":"a"}"#);
    let leased = ok(&daemon, "POST", "/v1/tasks/lease", r#"{"worker":"w"}"#);
    let token = leased["tasks"][0]["token"].as_str().unwrap();
    let done = |token: &str| json!({ "token": token }).to_string();
    daemon
        .admin("POST", "/v1/tasks/1/complete", &done(&format!("0{token}")))
        .problem(422);
    daemon
        .admin("POST", "/v1/tasks/01/complete", &done(token))
        .problem(404);
    daemon.admin("GET", "/v1/tasks/0001", "").problem(404);
    ok(&daemon, "POST", "/v1/tasks/1/complete", &done(token));
}

/// TASK-3: changes of tasks are told to who follows.
#[test]
fn changes_of_tasks_are_events() {
    let daemon = daemon();
    let mut client = daemon.connect();
    client.send(format!(
        "GET /v1/events?types=task HTTP/1.1\r\nhost: {}\r\n\r\n",
        daemon.address
    ));
    assert_eq!(client.head().unwrap().status, 200);
    client.chunk().unwrap();
    submit(&daemon, r#"{"kind":"a","payload":"secret"}"#);
    let chunk = client.chunk().unwrap().unwrap();
    let text = String::from_utf8(chunk).unwrap();
    assert!(
        text.contains("event: task") && text.contains("\"to\":\"pending\""),
        "{text}"
    );
    assert!(!text.contains("secret"));
}

/// TASK-8: breakers are listed; one that nothing was called under is unknown.
#[test]
fn breakers_are_listed() {
    let daemon = daemon();
    assert_eq!(
        daemon.get("/v1/limits/breakers").json(),
        json!({"items": [], "next_cursor": null})
    );
    daemon.get("/v1/limits/breakers/a%2Fb").problem(404);
    daemon
        .admin("PUT", "/v1/limits/breakers/a", r#"{"force":"open"}"#)
        .problem(404);
    daemon
        .admin("PUT", "/v1/limits/breakers/a", r#"{"force":"ajar"}"#)
        .problem(422);
    daemon
        .admin("POST", "/v1/limits/breakers/a/reset", "")
        .problem(404);
}
