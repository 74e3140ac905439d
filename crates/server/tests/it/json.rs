//! JSON bodies.

use crate::support::Daemon;

/// API-1 (V4): malformed JSON is 400 with a position; what is well-formed and does not fit is 422 with a pointer.
#[test]
fn json_is_read_strictly() {
    let daemon = Daemon::start();
    let before = daemon.admin("GET", "/v1/config", "").body;
    let patch = |body: &str| daemon.admin("PATCH", "/v1/config", body);
    for body in [
        "[".repeat(100_000),
        format!("{}{}", "{\"a\":".repeat(1000), "}".repeat(1000)),
        r#"{"worker_pool": {"target_load": 1e999}}"#.to_owned(),
        r#"{"worker_pool": {"target_load": NaN}}"#.to_owned(),
        r#"{"worker_pool": {"target_load": 0.5, "target_load": 0.6}}"#.to_owned(),
        r#"{"worker_pool": "\ud800"}"#.to_owned(),
        "{".to_owned(),
        "{} x".to_owned(),
        "\u{feff}{}".to_owned(),
    ] {
        let problem = patch(&body).problem(400);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("line 1 column"), "{detail}");
    }
    for (body, pointer) in [
        (
            r#"{"worker_pool": {"target_load": -0.5}}"#,
            "/worker_pool/target_load",
        ),
        (
            r#"{"worker_pool": {"target_load": "much"}}"#,
            "/worker_pool/target_load",
        ),
        (
            r#"{"worker_pool": {"min_worker": 2}}"#,
            "/worker_pool/min_worker",
        ),
        (
            r#"{"worker_pool": {"max_workers": 1e300}}"#,
            "/worker_pool/max_workers",
        ),
        (r#"{"worker_pol": {}}"#, "/worker_pol"),
        (r#"{"worker_pool": 7}"#, "/worker_pool"),
        ("[]", ""),
        ("null", ""),
        ("7", ""),
    ] {
        let problem = patch(body).problem(422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    // All faults at once, and nothing changed.
    let problem = patch(
        r#"{"worker_pool": {"min_workers": 2, "target_load": 9, "x": 1}, "load_balancer": {"strategy": "best"}}"#,
    )
    .problem(422);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3, "{problem}");
    assert_eq!(daemon.admin("GET", "/v1/config", "").body, before);
}

/// API-1: parameters of the query are read as strictly.
#[test]
fn queries_are_read_strictly() {
    let daemon = Daemon::start();
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=1&limit=2",
        "limt=1",
        "cursor=x",
        "limit=",
        "limit=99999999999999999999",
    ] {
        let problem = daemon.get(&format!("/v1/workers?{query}")).problem(422);
        let pointer = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
        assert!(
            pointer.starts_with('?') || problem["errors"].is_null(),
            "{problem}"
        );
    }
    daemon.get("/v1/decisions?since=yesterday").problem(422);
    for bad in ["%ff", "%00", "%0a", "..%2f..%2fetc%2fpasswd", "%zz"] {
        let status = daemon.get(&format!("/v1/classes/{bad}")).status;
        assert!(status == 404 || status == 400, "{bad}: {status}");
        let status = daemon.get(&format!("/v1/workers/{bad}")).status;
        assert!(status == 404 || status == 400, "{bad}: {status}");
    }
    let long = "a".repeat(4096);
    for path in [
        format!("/v1/classes/{long}"),
        format!("/v1/workers/{long}"),
        format!("/{long}"),
    ] {
        let reply = daemon.get(&path);
        reply.problem(404);
        assert!(reply.body.len() < 2000, "{} bytes", reply.body.len());
    }
}
