//! The calls, as a client makes them.

use crate::support::Daemon;
use serde_json::{Value, json};
use std::sync::mpsc::channel;

fn keys(value: &Value) -> Vec<&str> {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("{value} is no object"));
    object.keys().map(String::as_str).collect()
}

#[track_caller]
fn has(value: &Value, names: &[&str]) {
    let known = keys(value);
    for name in names {
        assert!(known.contains(name), "no {name} in {known:?}");
    }
}

/// A list of family 3.
#[track_caller]
fn page(daemon: &Daemon, path: &str) -> Vec<Value> {
    let reply = daemon.get(path);
    assert_eq!(
        reply.status,
        200,
        "{path}: {}",
        String::from_utf8_lossy(&reply.body)
    );
    let value = reply.json();
    has(&value, &["items", "next_cursor"]);
    value["items"].as_array().unwrap().clone()
}

/// Asks until the first sample is there.
fn sampled(daemon: &Daemon, path: &str) -> Value {
    let mut client = daemon.connect();
    client.send(format!(
        "GET /v1/events?types=sample HTTP/1.1\r\nhost: {}\r\n\r\n",
        daemon.address
    ));
    assert_eq!(client.head().unwrap().status, 200);
    loop {
        let reply = daemon.get(path);
        if reply.status == 200 {
            return reply.json();
        }
        reply.problem(503);
        assert!(reply.field("retry-after").is_some());
        client.chunk().unwrap().expect("samples go on");
    }
}

/// API-2, API-5: the profile has the fields that clients rely on.
#[test]
fn the_cpu_profile_has_its_fields() {
    let daemon = Daemon::start();
    let profile = sampled(&daemon, "/v1/cpu/profile");
    has(
        &profile,
        &[
            "timestamp",
            "overall_percent",
            "user_percent",
            "system_percent",
            "idle_percent",
            "iowait_percent",
            "steal_percent",
            "per_core_percent",
            "load1",
            "load5",
            "load15",
            "cores",
            "parallelism",
            "tasks",
            "threads",
            "process_percent",
            "pressure",
        ],
    );
    let timestamp = profile["timestamp"].as_str().unwrap();
    assert!(
        timestamp.ends_with('Z') && timestamp.contains('T'),
        "{timestamp}"
    );
    let history = page(&daemon, "/v1/cpu/profile/history?limit=1");
    assert_eq!(history.len(), 1);
    has(
        &daemon.get("/v1/cpu/usage/stats").json(),
        &[
            "average_percent",
            "peak_percent",
            "minimum_percent",
            "variance",
            "p50_percent",
            "p95_percent",
            "p99_percent",
            "events",
        ],
    );
}

/// API-2: the history is paged from the newest back, each page newest last.
#[test]
fn the_history_is_paged_backwards() {
    let daemon = Daemon::start();
    daemon.admin(
        "PATCH",
        "/v1/config",
        r#"{"monitor": {"collection_interval": "100ms"}}"#,
    );
    let mut newest = sampled(&daemon, "/v1/cpu/profile/history?limit=2");
    while newest["next_cursor"].is_null() {
        newest = sampled(&daemon, "/v1/cpu/profile/history?limit=2");
    }
    let cursor = newest["next_cursor"].as_str().unwrap();
    let older = daemon
        .get(&format!("/v1/cpu/profile/history?limit=2&cursor={cursor}"))
        .json();
    let time =
        |page: &Value, item: usize| page["items"][item]["timestamp"].as_str().map(str::to_owned);
    assert!(time(&older, 0).is_some());
    assert!(time(&older, 0) < time(&newest, 0), "{older} {newest}");
    assert!(time(&newest, 0) < time(&newest, 1));
}

/// API-2: the figures of family 1.
#[test]
fn the_figures_of_the_cpu_manager() {
    let daemon = Daemon::start();
    has(
        &daemon.get("/v1/cpu/load-balancer/stats").json(),
        &[
            "strategy",
            "total_dispatched",
            "per_worker",
            "mean_load",
            "load_variance",
            "jain_fairness",
            "steals",
            "rebalances",
            "last_rebalance",
        ],
    );
    let workers = page(&daemon, "/v1/cpu/load-balancer/workers");
    has(
        &workers[0],
        &[
            "id",
            "state",
            "status",
            "weight",
            "load",
            "cpu_percent",
            "last_heartbeat",
            "queue_length",
            "affinity_cores",
            "affinity_keys",
            "tasks_processed",
            "errors",
            "throughput_per_second",
            "mean_run_ms",
            "p95_run_ms",
            "error_rate_percent",
            "cpu_time_ms",
            "memory_bytes",
            "health",
            "current_task",
            "last_activity",
            "uptime_ms",
        ],
    );
    has(
        &daemon.get("/v1/cpu/scheduler/stats").json(),
        &[
            "algorithm",
            "totals",
            "classes",
            "preemptions",
            "starvation_guard_activations",
        ],
    );
    let queues = page(&daemon, "/v1/cpu/scheduler/queues");
    has(
        &queues[0],
        &[
            "class",
            "priority",
            "length",
            "oldest_wait_ms",
            "time_slice_ms",
            "shares",
        ],
    );
    has(
        &daemon.get("/v1/cpu/status").json(),
        &[
            "cpu_profiling",
            "load_balancing",
            "cpu_scheduling",
            "cpu_throttling",
            "parallelism_optimization",
            "allocator_optimization",
            "task_optimization",
            "gomaxprocs_optimization",
            "gc_optimization",
            "goroutine_optimization",
        ],
    );
    let health = daemon.get("/v1/cpu/health").json();
    has(&health, &["status", "score", "reasons"]);
    assert_eq!(health["status"], "healthy", "{health}");
}

/// API-2: strategies are switched, unknown ones refused with nothing changed; a rebalance says what it moved.
#[test]
fn the_balancer_is_changed() {
    let daemon = Daemon::start();
    let path = "/v1/cpu/load-balancer/strategy";
    let reply = daemon.admin("POST", path, r#"{"strategy": "least_loaded"}"#);
    assert_eq!(
        reply.json(),
        json!({"strategy": "least_loaded", "previous": "pull"})
    );
    assert_eq!(
        daemon.get("/v1/cpu/load-balancer/stats").json()["strategy"],
        "least_loaded"
    );
    for (body, pointer) in [
        (r#"{"strategy": "best"}"#, "/strategy"),
        (r#"{"strategy": 7}"#, "/strategy"),
        (r#"{"strategy": "pull", "x": 1}"#, "/x"),
        ("{}", ""),
    ] {
        let problem = daemon.admin("POST", path, body).problem(422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    assert_eq!(
        daemon.get("/v1/cpu/load-balancer/stats").json()["strategy"],
        "least_loaded"
    );
    let moved = daemon.admin("POST", "/v1/cpu/load-balancer/rebalance", "");
    assert_eq!(moved.json(), json!({"moved": 0}));
    daemon.admin(
        "PATCH",
        "/v1/config",
        r#"{"load_balancer": {"enabled": false}}"#,
    );
    daemon
        .admin("POST", "/v1/cpu/load-balancer/rebalance", "")
        .problem(409);
}

/// API-4, CPU-22, CPU-24: adaptive limits are added, shown, changed, reset and removed; what is wrong is named field by field, and nothing has changed then.
#[test]
fn adaptive_limits_are_added_and_changed() {
    let daemon = Daemon::with_queue("");
    let path = "/v1/limits/batch";
    daemon.get(path).problem(404);
    daemon.admin("PUT", path, r#"{"max": 3}"#).problem(404);
    let body = r#"{"scope": "class:batch", "mode": "observe", "max": 40}"#;
    let reply = daemon.admin("PUT", path, body);
    assert_eq!(reply.status, 200, "{}", reply.json());
    let limit = reply.json();
    has(
        &limit,
        &[
            "limit",
            "in_flight",
            "waiting",
            "level",
            "calls_per_second",
            "shed_percent",
            "changes",
            "classes",
        ],
    );
    assert_eq!(
        (&limit["algorithm"], &limit["mode"], &limit["max"]),
        (&json!("vegas"), &json!("observe"), &json!(40))
    );
    for (body, status, pointer) in [
        (r#"{"max": 0}"#, 422, "/max"),
        (r#"{"min": "many"}"#, 422, "/min"),
        (r#"{"algorithm": "magic"}"#, 422, "/algorithm"),
        (r#"{"mode": 1}"#, 422, "/mode"),
        (r#"{"deadline": "soon"}"#, 422, "/deadline"),
        (r#"{"deadline": "1s"}"#, 422, "/deadline"),
        (r#"{"maximum": 1}"#, 422, ""),
        (r#"{"name": "other"}"#, 422, "/name"),
    ] {
        let problem = daemon.admin("PUT", path, body).problem(status);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    daemon
        .admin("PUT", path, r#"{"scope": "class:idle"}"#)
        .problem(409);
    daemon
        .admin("PUT", "/v1/limits/x", r#"{"scope": "class:none"}"#)
        .problem(404);
    let now = daemon.get(path).json();
    for field in ["scope", "mode", "algorithm", "min", "max"] {
        assert_eq!(now[field], limit[field], "{field}");
    }
    let changed = daemon.admin("PUT", path, r#"{"limit": 4, "mode": null}"#);
    let changed = changed.json();
    assert_eq!(
        (&changed["algorithm"], &changed["limit"], &changed["mode"]),
        (&json!("fixed"), &json!(4), &json!("enforce"))
    );
    let reset = "/v1/limits/batch/reset";
    let problem = daemon.admin("POST", reset, "").problem(409);
    assert_eq!(
        problem["detail"],
        "limit batch is fixed: it has learnt nothing that it could forget"
    );
    let found = r#"{"limit": null, "initial": 6}"#;
    assert_eq!(daemon.admin("PUT", path, found).status, 200);
    assert_eq!(daemon.admin("POST", reset, "").json()["limit"], 6);
    daemon.admin("POST", "/v1/limits/x/reset", "").problem(404);
    assert_eq!(page(&daemon, "/v1/limits/adaptive")[0]["name"], "batch");
    let all = page(&daemon, "/v1/limits");
    let is_it = |limit: &Value| limit["name"] == "adaptive/batch" && limit["kind"] == "adaptive";
    assert!(all.iter().any(is_it), "{all:?}");
    assert_eq!(daemon.get("/v1/status").json()["level"], "normal");
    assert_eq!(daemon.admin("DELETE", path, "").status, 204);
    daemon.admin("DELETE", path, "").problem(404);
    // Without durable tasks it would bound nothing.
    let off = r#"{"scheduler": {"enabled": false}}"#;
    assert_eq!(daemon.admin("PATCH", "/v1/config", off).status, 200);
    let problem = daemon.admin("PUT", path, body).problem(409);
    assert_eq!(
        problem["detail"],
        "the queue of tasks is switched off; scheduler.enabled switches it on"
    );
    daemon.get(path).problem(404);
}

/// API-2, CPU-20: throttles are listed, added and changed; names that are taken, unknown ones and values out of range are refused, and
/// nothing has changed then.
#[test]
fn throttles_are_added_and_changed() {
    let daemon = Daemon::start();
    let path = "/v1/cpu/throttler/throttle";
    let body =
        r#"{"name": "night", "scope": "process", "threshold_percent": 50, "mode": "observe"}"#;
    let reply = daemon.admin("POST", path, body);
    assert_eq!(reply.status, 201, "{}", reply.json());
    let throttle = reply.json();
    has(
        &throttle,
        &[
            "enabled",
            "scope",
            "threshold_percent",
            "usage_percent",
            "level",
            "state",
            "throttled_ms",
            "throughput_effect_percent",
        ],
    );
    assert_eq!(
        (&throttle["mode"], &throttle["acts_on"]),
        (
            &json!("observe"),
            &json!(["interactive", "normal", "batch", "idle"])
        )
    );
    daemon.admin("POST", path, body).problem(409);
    for (body, status, pointer) in [
        (
            r#"{"name": "x", "scope": "process", "threshold_percent": 101}"#,
            422,
            Some("/threshold_percent"),
        ),
        (
            r#"{"name": "x", "scope": "process", "threshold_percent": "NaN"}"#,
            422,
            Some("/threshold_percent"),
        ),
        (
            r#"{"name": "x", "scope": "process", "threshold_percent": 10, "hysteresis_percent": 50}"#,
            422,
            Some("/hysteresis_percent"),
        ),
        (
            r#"{"name": "x", "scope": "galaxy", "threshold_percent": 50}"#,
            422,
            Some("/scope"),
        ),
        (
            r#"{"name": "x", "scope": "process", "threshold_percent": 50, "bogus": 1}"#,
            422,
            Some(""),
        ),
        (
            r#"{"name": "machine", "scope": "process", "threshold_percent": 50}"#,
            409,
            None,
        ),
        (
            r#"{"name": "x", "scope": "class:none", "threshold_percent": 50}"#,
            404,
            None,
        ),
    ] {
        let problem = daemon.admin("POST", path, body).problem(status);
        if let Some(pointer) = pointer {
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        }
    }
    daemon
        .admin("PUT", path, r#"{"name": "day", "enabled": false}"#)
        .problem(404);
    for (body, pointer, said) in [
        (
            r#"{"name": "machine", "scope": "process"}"#,
            "/scope",
            "found \"process\", expected nothing: of machine threshold_percent, mode and enabled can be changed",
        ),
        (
            r#"{"name": "quota", "threshold_percent": 50}"#,
            "/threshold_percent",
            "found 50, expected nothing: of quota mode and enabled can be changed",
        ),
        (
            r#"{"name": "machine", "bogus": 1}"#,
            "",
            "found the field \"bogus\", expected threshold_percent, mode and enabled",
        ),
        (
            r#"{"name": "machine", "enabled": "perhaps"}"#,
            "/enabled",
            "found \"perhaps\"",
        ),
        (
            r#"{"name": "night", "threshold_percent": 150}"#,
            "/threshold_percent",
            "found 150, expected 1 to 100",
        ),
        // What is wrong with a body counts first, here, too.
        (
            r#"{"name": "day", "threshold_percent": "NaN"}"#,
            "/threshold_percent",
            "found \"NaN\", expected 1 to 100",
        ),
        (
            r#"{"name": "day", "bogus": 1}"#,
            "",
            "found the field \"bogus\"",
        ),
    ] {
        let problem = daemon.admin("PUT", path, body).problem(422);
        let error = &problem["errors"][0];
        assert_eq!(error["pointer"], pointer, "{problem}");
        let detail = error["detail"].as_str().unwrap();
        assert!(detail.starts_with(said), "{problem}");
    }
    // What is wrong with a body counts before what it would change.
    let garbage = r#"{"name": "night", "scope": "galaxy", "bogus": 1}"#;
    daemon.admin("POST", path, garbage).problem(422);
    daemon
        .admin("PUT", path, r#"{"mode": "observe"}"#)
        .problem(422);
    let change = r#"{"name": "night", "threshold_percent": 40, "mode": null, "enabled": false}"#;
    let changed = daemon.admin("PUT", path, change).json();
    assert_eq!(
        (
            &changed["threshold_percent"],
            &changed["mode"],
            &changed["state"]
        ),
        (&json!(40.0), &json!("enforce"), &json!("off"))
    );
    let all = page(&daemon, "/v1/cpu/throttler/throttles");
    assert!(
        all.iter().any(|throttle| throttle["name"] == "night"),
        "{all:?}"
    );
    let off = r#"{"throttling": {"enabled": false}}"#;
    assert_eq!(daemon.admin("PATCH", "/v1/config", off).status, 200);
    let dusk = r#"{"name": "dusk", "scope": "process", "threshold_percent": 50}"#;
    let added = daemon.admin("POST", path, dusk);
    assert_eq!((added.status, &added.json()["state"]), (201, &json!("off")));
    let removed = daemon.admin("DELETE", &format!("{path}/dusk"), "");
    assert_eq!(removed.status, 204);
    daemon
        .admin("DELETE", &format!("{path}/dusk"), "")
        .problem(404);
    has(
        &daemon.get("/v1/cpu/throttler/stats").json(),
        &[
            "enabled",
            "throttles",
            "active",
            "throttled_ms",
            "kernel_throttled_ms",
            "events",
        ],
    );
}

/// API-2: parts that this build does not have say so.
#[test]
fn absent_parts_say_so() {
    let daemon = Daemon::start();
    for (method, path) in [
        ("GET", "/v1/cpu/optimizer/stats"),
        ("GET", "/v1/cpu/optimizer/history"),
        ("POST", "/v1/cpu/optimizer/optimize"),
        ("POST", "/v1/cpu/optimizer/strategy"),
    ] {
        let problem = daemon.admin(method, path, "").problem(501);
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("this build has no")
        );
        assert_eq!(problem["instance"], path);
    }
}

/// API-4: workers are listed, changed, sized, restarted and drained.
#[test]
fn workers_are_sized_and_changed() {
    let daemon = Daemon::start();
    let workers = page(&daemon, "/v1/workers");
    let id = workers[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/workers/{id}");
    assert_eq!(daemon.get(&path).json()["id"], id);
    daemon.get("/v1/workers/9999").problem(404);
    let changed = daemon.admin("PUT", &path, r#"{"weight": 2.5, "affinity_keys": [7]}"#);
    assert_eq!(changed.json()["weight"], 2.5);
    assert_eq!(daemon.get(&path).json()["affinity_keys"], json!([7]));
    for body in [
        r#"{"weight": -1}"#,
        r#"{"affinity_cores": [99999]}"#,
        r#"{"wait": 1}"#,
    ] {
        daemon.admin("PUT", &path, body).problem(422);
    }
    assert_eq!(daemon.get(&path).json()["weight"], 2.5);

    let scaled = daemon.admin("POST", "/v1/workers/scale", r#"{"target": 2}"#);
    assert_eq!(
        scaled.status,
        200,
        "{}",
        String::from_utf8_lossy(&scaled.body)
    );
    assert_eq!(scaled.json()["decisions"][0]["to"], 2.0);
    for body in [
        "{}",
        r#"{"target": 100000}"#,
        r#"{"target": -1}"#,
        r#"{"min": 100000}"#,
        r#"{"group": "side", "target": 1}"#,
    ] {
        daemon.admin("POST", "/v1/workers/scale", body).problem(422);
    }
    let problem = daemon
        .admin("POST", "/v1/workers/scale", r#"{"max": 0, "min": 100000}"#)
        .problem(422);
    assert_eq!(problem["errors"][0]["pointer"], "/min", "{problem}");
    assert_eq!(
        daemon.admin("POST", &format!("{path}/restart"), "").status,
        200
    );
    daemon
        .admin("POST", "/v1/workers/9999/restart", "")
        .problem(404);
    daemon.admin("POST", "/v1/workers/x/drain", "").problem(404);

    let events = page(&daemon, "/v1/workers/events");
    assert!(!events.is_empty());
    has(
        &events[0],
        &["number", "timestamp", "worker", "kind", "reason"],
    );
    // Page by page it is the same.
    let mut paged = Vec::new();
    let mut next = daemon.get("/v1/workers/events?limit=1").json();
    while paged.len() < events.len() {
        paged.push(next["items"][0]["number"].clone());
        let Some(cursor) = next["next_cursor"].as_str() else {
            break;
        };
        next = daemon
            .get(&format!("/v1/workers/events?limit=1&cursor={cursor}"))
            .json();
    }
    let numbers: Vec<_> = events.iter().map(|event| event["number"].clone()).collect();
    assert_eq!(paged, numbers);
}

/// API-4: classes are created, changed, paused, resumed and deleted; what is wrong changes nothing.
#[test]
fn classes_come_change_and_go() {
    let daemon = Daemon::start();
    let before = page(&daemon, "/v1/classes").len();
    let created = daemon.admin(
        "POST",
        "/v1/classes",
        r#"{"name": "reports", "shares": 50}"#,
    );
    assert_eq!(
        created.status,
        201,
        "{}",
        String::from_utf8_lossy(&created.body)
    );
    assert_eq!(created.field("location"), Some("/v1/classes/reports"));
    assert_eq!(created.json()["shares"], 50);
    daemon
        .admin("POST", "/v1/classes", r#"{"name": "reports"}"#)
        .problem(409);
    for (body, pointer) in [
        (r#"{"name": "other", "shares": -1}"#, "/shares"),
        (r#"{"name": "other", "share": 1}"#, "/share"),
        (r#"{"shares": 1}"#, ""),
        (r#"{"name": "a b\u0007"}"#, "/name"),
        // A file may say `name: 7`; here it is not taken for "7", and then not found.
        (r#"{"name": 7}"#, "/name"),
        (r#"{"name": null}"#, "/name"),
        (r#"{"name": true}"#, "/name"),
    ] {
        let problem = daemon.admin("POST", "/v1/classes", body).problem(422);
        let found = problem["errors"][0]["pointer"].as_str().unwrap();
        assert!(found == pointer || found == "/name", "{problem}");
    }
    daemon.admin("POST", "/v1/classes", "[]").problem(422);
    assert_eq!(page(&daemon, "/v1/classes").len(), before + 1);
    let changed = daemon.admin("PUT", "/v1/classes/reports", r#"{"shares": 70}"#);
    assert_eq!(changed.json()["shares"], 70);
    daemon
        .admin("PUT", "/v1/classes/nothing", r#"{"shares": 70}"#)
        .problem(404);
    assert_eq!(
        daemon.admin("POST", "/v1/classes/reports/pause", "").json()["paused"],
        true
    );
    assert_eq!(daemon.get("/v1/classes/reports").json()["paused"], true);
    assert_eq!(
        daemon
            .admin("POST", "/v1/classes/reports/resume", "")
            .json()["paused"],
        false
    );
    assert_eq!(
        daemon.admin("DELETE", "/v1/classes/reports", "").status,
        204
    );
    daemon.get("/v1/classes/reports").problem(404);
    daemon
        .admin("DELETE", "/v1/classes/normal", "")
        .problem(409);
    assert_eq!(page(&daemon, "/v1/classes").len(), before);
}

/// API-4: decisions are listed by part and time, knobs pinned and unpinned, limits shown.
#[test]
fn people_decide_and_it_is_listed() {
    let daemon = Daemon::start();
    let knobs = page(&daemon, "/v1/knobs");
    let knob = &knobs[0];
    has(
        knob,
        &["name", "about", "unit", "min", "max", "value", "pinned"],
    );
    let name = knob["name"].as_str().unwrap();
    let pin = format!("/v1/knobs/{name}/pin");
    let decision = daemon.admin("POST", &pin, &json!({"value": knob["max"]}).to_string());
    assert_eq!(
        decision.status,
        200,
        "{}",
        String::from_utf8_lossy(&decision.body)
    );
    assert_eq!(
        page(&daemon, "/v1/knobs")[0]["pinned"]["by"]
            .as_str()
            .map(|by| by.starts_with("admin token from 127.0.0.1")),
        Some(true)
    );
    daemon.admin("POST", &pin, r#"{"value": 1e6}"#).problem(409);
    daemon
        .admin("POST", &pin, r#"{"value": null}"#)
        .problem(422);
    daemon
        .admin("POST", "/v1/knobs/nothing/pin", r#"{"value": 1}"#)
        .problem(404);
    assert_eq!(
        daemon
            .admin("POST", &format!("/v1/knobs/{name}/unpin"), "")
            .status,
        200
    );
    let problem = daemon
        .admin("POST", &format!("/v1/knobs/{name}/unpin"), "")
        .problem(409);
    assert_eq!(
        problem["detail"],
        format!("nobody has pinned {name}"),
        "{problem}"
    );

    let decisions = page(&daemon, "/v1/decisions");
    assert!(decisions.len() >= 2);
    has(
        &decisions[0],
        &[
            "number",
            "timestamp",
            "part",
            "knob",
            "from",
            "to",
            "applied",
            "reason",
            "evidence",
        ],
    );
    let part = decisions[0]["part"].as_str().unwrap();
    for decision in page(&daemon, &format!("/v1/decisions?part={part}")) {
        assert_eq!(decision["part"], part);
    }
    assert!(page(&daemon, "/v1/decisions?since=2500-01-01T00:00:00Z").is_empty());
    let first = daemon.get("/v1/decisions?limit=1").json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = daemon
        .get(&format!("/v1/decisions?limit=1&cursor={cursor}"))
        .json();
    assert_ne!(first["items"], second["items"]);
    has(
        &page(&daemon, "/v1/limits")[0],
        &[
            "name", "kind", "unit", "limit", "used", "refused", "setting",
        ],
    );
}

/// API-4: the configuration is shown, changed with old and new values, tried without doing it, and guarded by its version.
#[test]
fn the_configuration_is_shown_and_changed() {
    let daemon = Daemon::start();
    let shown = daemon.admin("GET", "/v1/config", "");
    let version = shown.field("etag").unwrap().to_owned();
    assert_eq!(shown.json()["worker_pool"]["max_workers"], 3);
    let change = r#"{"worker_pool": {"max_workers": 2}}"#;
    let tried = daemon
        .admin("PATCH", "/v1/config?dry_run=true", change)
        .json();
    let expected =
        json!([{"key": "worker_pool.max_workers", "old": 3, "new": 2, "restart": false}]);
    assert_eq!(
        (&tried["dry_run"], &tried["changes"]),
        (&json!(true), &expected)
    );
    assert_eq!(
        daemon.admin("GET", "/v1/config", "").field("etag"),
        Some(version.as_str())
    );

    let guarded = |version: &str, body: &str| {
        let fields = format!(
            "authorization: Bearer {}\r\ncontent-type: application/json\r\nif-match: {version}\r\n",
            daemon.token
        );
        daemon.ask("PATCH", "/v1/config", &fields, body)
    };
    guarded("\"0123\"", change).problem(412);
    let done = guarded(&version, change);
    assert_eq!(done.json()["changes"], expected);
    assert_ne!(done.field("etag"), Some(version.as_str()));
    guarded(&version, change).problem(412);
    assert_eq!(
        daemon.admin("GET", "/v1/config", "").json()["worker_pool"]["max_workers"],
        2
    );

    // The CPU part, and only that.
    assert_eq!(
        daemon.admin("GET", "/v1/cpu/config", "").json()["worker_pool"]["max_workers"],
        2
    );
    assert!(daemon.admin("GET", "/v1/cpu/config", "").json()["server"].is_null());
    let done = daemon.admin(
        "POST",
        "/v1/cpu/config",
        r#"{"worker_pool": {"max_workers": null}}"#,
    );
    assert_eq!(done.json()["changes"][0]["new"], 3);
    let problem = daemon
        .admin("POST", "/v1/cpu/config", r#"{"server": {}}"#)
        .problem(422);
    assert_eq!(problem["errors"][0]["pointer"], "/server");
    // What takes a restart changes nothing.
    daemon
        .admin(
            "PATCH",
            "/v1/config",
            r#"{"server": {"listen": "127.0.0.1:1"}}"#,
        )
        .problem(409);

    let schema = daemon.admin("GET", "/v1/config/schema", "").json();
    assert!(schema.as_array().is_some_and(|keys| keys.len() > 50));
    let origins = daemon
        .admin("GET", "/v1/config/origins?limit=1000", "")
        .json();
    let pool = origins["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["key"] == "worker_pool.min_workers");
    assert!(
        pool.unwrap()["origin"]
            .as_str()
            .unwrap()
            .starts_with("test.yaml:1:")
    );
}

/// API-4: status and health of the whole; both families tell the same figures.
#[test]
fn status_and_health_of_the_whole() {
    let daemon = Daemon::start();
    has(
        &daemon.get("/v1/status").json(),
        &[
            "parts",
            "utilisation",
            "queue_length",
            "response_time_ms",
            "throughput_per_second",
            "error_rate_percent",
        ],
    );
    let health = daemon.get("/v1/health").json();
    has(&health, &["status", "score", "ready", "reasons", "parts"]);
    assert_eq!(health["ready"], true);
    daemon.engine.drain();
    daemon.get("/readyz").problem(503);
    assert_eq!(daemon.get("/v1/health").json()["ready"], false);
    assert_eq!(daemon.get("/livez").json(), json!({"status": "ok"}));
    assert_eq!(
        page(&daemon, "/v1/workers").len(),
        page(&daemon, "/v1/cpu/load-balancer/workers").len()
    );
}

/// API-1: figures are read while every worker is busy: the API does not wait for the pool.
#[test]
fn figures_are_read_while_the_pool_is_saturated() {
    let daemon = Daemon::start();
    let class = daemon.engine.class("normal").unwrap();
    let (go, gate) = channel::<()>();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
    for _ in 0..64 {
        let gate = gate.clone();
        class
            .execute(move || {
                let _ = gate.lock().map(|gate| gate.recv());
            })
            .unwrap();
    }
    for path in [
        "/v1/status",
        "/v1/workers",
        "/v1/classes",
        "/v1/cpu/scheduler/stats",
        "/v1/limits",
        "/v1/health",
    ] {
        assert_eq!(daemon.get(path).status, 200, "{path}");
    }
    let class = daemon.get("/v1/classes/normal").json();
    assert!(class["totals"]["queued"].as_u64().unwrap() > 0, "{class}");
    drop(go);
}

/// API-6: after a shutdown the server holds the engine no longer.
#[test]
fn a_shutdown_gives_the_engine_back() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect();
    stream.send(format!(
        "GET /v1/events HTTP/1.1\r\nhost: {}\r\n\r\n",
        daemon.address
    ));
    assert_eq!(stream.head().unwrap().status, 200);
    let Daemon {
        server,
        engine,
        folder,
        ..
    } = daemon;
    assert_eq!(server.shutdown(std::time::Duration::from_secs(60)), 0);
    assert!(std::sync::Arc::into_inner(engine).is_some());
    drop(folder);
}
