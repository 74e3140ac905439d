//! The description of the API: complete, and true about who may call what.

use crate::support::{Client, Daemon};
use serde_json::Value;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Method, path, and the description of each call.
fn calls(api: &Value) -> Vec<(String, String, Value)> {
    let paths = api["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            METHODS.iter().filter_map(move |method| {
                let call = item.get(method)?;
                Some((method.to_uppercase(), path.clone(), call.clone()))
            })
        })
        .collect()
}

fn concrete(path: &str) -> String {
    path.replace("{id}", "0").replace("{name}", "normal")
}

/// Whether this build has no such part.
fn is_absent(call: &Value) -> bool {
    let answers = call["responses"].as_object().unwrap();
    answers.contains_key("501") && !answers.keys().any(|status| status.starts_with('2'))
}

fn needs_token(call: &Value) -> bool {
    let Some(security) = call["security"].as_array() else {
        return false;
    };
    !security
        .iter()
        .any(|one| one.as_object().is_some_and(serde_json::Map::is_empty))
}

/// API-1: the description is OpenAPI 3.1; every call has an id of its own, a summary, a tag and answers; every reference resolves.
#[test]
fn the_description_is_complete() {
    let daemon = Daemon::start();
    let reply = daemon.get("/openapi.json");
    assert_eq!(reply.field("content-type"), Some("application/json"));
    let api = reply.json();
    assert!(
        api["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        api["openapi"]
    );
    let calls = calls(&api);
    let mut ids: Vec<_> = calls
        .iter()
        .map(|(_, _, call)| call["operationId"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), calls.len(), "{ids:?}");
    for (method, path, call) in &calls {
        assert!(
            call["summary"].is_string(),
            "{method} {path} has no summary"
        );
        assert!(call["tags"][0].is_string(), "{method} {path} has no tag");
        let answers = call["responses"].as_object().unwrap();
        let good = answers
            .keys()
            .any(|status| status.starts_with('2') || status == "501");
        assert!(good, "{method} {path} never succeeds");
        for (status, answer) in answers {
            assert!(answer["description"].is_string());
            if status.starts_with(['4', '5']) {
                let document = &answer["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(
                    document, "#/components/schemas/Problem",
                    "{method} {path} {status}"
                );
            }
        }
        for status in ["400", "408", "414", "421", "431", "500"] {
            assert!(answers.contains_key(status), "{method} {path} {status}");
        }
        assert_eq!(
            answers.contains_key("401"),
            call["security"].is_array(),
            "{method} {path}"
        );
        if call["requestBody"].is_object() {
            for status in ["413", "415", "422"] {
                assert!(answers.contains_key(status), "{method} {path} {status}");
            }
        }
    }
    let text = api.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = &part[..part.find('"').unwrap()];
        assert!(api.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}

/// API-2, API-4: every call of the two families that this build answers is described.
#[test]
fn every_call_is_described() {
    let daemon = Daemon::start();
    let api = daemon.get("/openapi.json").json();
    let described: Vec<String> = calls(&api)
        .into_iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    for call in [
        "GET /v1/cpu/profile",
        "GET /v1/cpu/profile/history",
        "GET /v1/cpu/usage/stats",
        "GET /v1/cpu/load-balancer/stats",
        "GET /v1/cpu/load-balancer/workers",
        "POST /v1/cpu/load-balancer/strategy",
        "POST /v1/cpu/load-balancer/rebalance",
        "GET /v1/cpu/scheduler/stats",
        "GET /v1/cpu/scheduler/queues",
        "POST /v1/cpu/scheduler/task",
        "GET /v1/cpu/scheduler/task",
        "GET /v1/cpu/throttler/stats",
        "GET /v1/cpu/throttler/throttles",
        "DELETE /v1/cpu/throttler/throttle/{name}",
        "POST /v1/cpu/throttler/throttle",
        "PUT /v1/cpu/throttler/throttle",
        "GET /v1/cpu/optimizer/stats",
        "GET /v1/cpu/optimizer/history",
        "POST /v1/cpu/optimizer/optimize",
        "POST /v1/cpu/optimizer/strategy",
        "GET /v1/cpu/status",
        "GET /v1/cpu/health",
        "GET /v1/cpu/config",
        "POST /v1/cpu/config",
        "GET /v1/workers",
        "GET /v1/workers/{id}",
        "GET /v1/workers/sizing",
        "PUT /v1/workers/{id}",
        "POST /v1/workers/scale",
        "POST /v1/workers/{id}/restart",
        "POST /v1/workers/{id}/drain",
        "GET /v1/workers/events",
        "GET /v1/classes",
        "POST /v1/classes",
        "GET /v1/classes/{name}",
        "PUT /v1/classes/{name}",
        "DELETE /v1/classes/{name}",
        "POST /v1/classes/{name}/pause",
        "POST /v1/classes/{name}/resume",
        "POST /v1/tasks",
        "GET /v1/tasks",
        "GET /v1/tasks/stats",
        "GET /v1/tasks/{id}",
        "DELETE /v1/tasks/{id}",
        "GET /v1/tasks/{id}/why",
        "POST /v1/tasks/{id}/retry",
        "POST /v1/tasks/{id}/heartbeat",
        "POST /v1/tasks/{id}/complete",
        "POST /v1/tasks/{id}/fail",
        "POST /v1/tasks/{id}/release",
        "GET /v1/tasks/{id}/output",
        "POST /v1/backup",
        "GET /v1/limits/breakers",
        "GET /v1/limits/breakers/{name}",
        "PUT /v1/limits/breakers/{name}",
        "POST /v1/limits/breakers/{name}/reset",
        "POST /v1/tasks/lease",
        "POST /v1/tasks/finish",
        "POST /v1/tasks/cancel",
        "POST /v1/tasks/retry",
        "POST /v1/tasks/pause",
        "POST /v1/tasks/resume",
        "GET /v1/limits",
        "GET /v1/limits/adaptive",
        "GET /v1/limits/{name}",
        "PUT /v1/limits/{name}",
        "DELETE /v1/limits/{name}",
        "POST /v1/limits/{name}/reset",
        "GET /v1/decisions",
        "GET /v1/knobs",
        "POST /v1/knobs/{name}/pin",
        "POST /v1/knobs/{name}/unpin",
        "GET /v1/config",
        "PATCH /v1/config",
        "GET /v1/config/schema",
        "GET /v1/config/origins",
        "GET /v1/status",
        "GET /v1/health",
        "GET /livez",
        "GET /readyz",
        "GET /openapi.json",
        "GET /v1/events",
    ] {
        assert!(
            described.iter().any(|known| known == call),
            "{call} is not described"
        );
    }
}

/// API-1: a parameter that a call does not know is refused on every call but those for orchestrators, with nothing changed: a change
/// that does not know `dry_run` is not made.
#[test]
fn unknown_parameters_are_refused_everywhere() {
    let daemon = Daemon::start();
    let api = daemon.get("/openapi.json").json();
    let before = daemon.admin("GET", "/v1/config", "").body;
    for (method, path, call) in calls(&api) {
        if call.get("security").is_none() || is_absent(&call) {
            continue;
        }
        let path = concrete(&path);
        let problem = daemon
            .admin(&method, &format!("{path}?&nonsense=1"), "")
            .problem(422);
        assert_eq!(problem["errors"][0]["pointer"], "?nonsense", "{problem}");
    }
    for (method, path, body) in [
        ("POST", "/v1/classes?dry_run=true", r#"{"name": "x"}"#),
        ("POST", "/v1/classes/batch/pause?dry_run=true", ""),
        ("POST", "/v1/workers/scale?dry_run=true", r#"{"max": 2}"#),
    ] {
        daemon.admin(method, path, body).problem(422);
        daemon.ask(method, path, "", body).problem(401);
    }
    assert_eq!(daemon.get("/v1/classes/batch").json()["paused"], false);
    assert_eq!(daemon.admin("GET", "/v1/config", "").body, before);
    assert_eq!(daemon.get("/v1/status?").status, 200);
    assert_eq!(daemon.get("/livez?verbose").status, 200);
}

/// API-6 (V8): without, with a wrong and with a truncated token every change and every reading of the configuration is 401, with nothing
/// changed; figures are open, but not to a wrong token. The description says the same.
#[test]
fn tokens_are_asked_for_on_every_route_that_needs_one() {
    let daemon = Daemon::start();
    let api = daemon.get("/openapi.json").json();
    let before = daemon.admin("GET", "/v1/config", "").body;
    let truncated = &daemon.token[..daemon.token.len() - 1];
    let mut open = Vec::new();
    for (method, path, call) in calls(&api) {
        let locked = needs_token(&call);
        assert!(locked || method == "GET", "{method} {path} is open");
        let path = concrete(&path);
        let ask = |fields: &str| {
            let mut client = daemon.connect();
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n{fields}content-length: 2\r\n\r\n{{}}",
                daemon.address
            ));
            client.head().unwrap()
        };
        for wrong in [
            format!("authorization: Bearer {}\r\n", "0".repeat(64)),
            format!("authorization: Bearer {truncated}\r\n"),
            format!("authorization: Basic {}\r\n", daemon.token),
            format!("authorization: {}\r\n", daemon.token),
            "authorization: Bearer \r\n".to_owned(),
            format!(
                "authorization: Bearer {0}\r\nauthorization: Bearer {0}\r\n",
                daemon.token
            ),
        ] {
            let reply = ask(&wrong);
            assert_eq!(reply.status, 401, "{method} {path} {wrong}");
            assert!(reply.field("www-authenticate").is_some());
        }
        let reply = ask("");
        assert_eq!(
            reply.status == 401,
            locked,
            "{method} {path}: {}",
            reply.status
        );
        if !locked {
            open.push(path);
        }
    }
    for closed in [
        "/v1/config",
        "/v1/cpu/config",
        "/v1/config/schema",
        "/v1/cpu/scheduler/task",
    ] {
        assert!(!open.iter().any(|path| path == closed), "{closed} is open");
    }
    assert_eq!(daemon.admin("GET", "/v1/config", "").body, before);
    // On the socket the local user needs none.
    let mut client = Client::unix(daemon.server.socket());
    assert_eq!(client.ask("GET", "/v1/config", "x", "", "").status, 200);
}

/// API-6: behind a proxy, figures need the token, too; only what an orchestrator asks is open.
#[test]
fn behind_a_proxy_figures_need_the_token() {
    let daemon = Daemon::with(|options| options.behind_tls_proxy = true);
    let api = daemon.admin("GET", "/openapi.json", "").json();
    for (method, path, _) in calls(&api) {
        let open = matches!(path.as_str(), "/livez" | "/readyz");
        let status = daemon.ask(&method, &concrete(&path), "", "").status;
        assert_eq!(status != 401, open, "{method} {path}: {status}");
    }
    assert_eq!(daemon.admin("GET", "/v1/status", "").status, 200);
}

/// The table of calls as docs/api.md has it.
fn table(api: &Value) -> String {
    let mut table = String::from("| call | | over TCP on loopback |\n|---|---|---|\n");
    for (method, path, call) in calls(api) {
        let summary = call["summary"].as_str().unwrap().trim_end_matches('.');
        let who = match () {
            () if is_absent(&call) => "not in this build",
            () if needs_token(&call) => "token",
            () => "open",
        };
        table.push_str(&format!("| `{method} {path}` | {summary} | {who} |\n"));
    }
    table
}

/// API-1: the page lists exactly the calls that there are. `WRITE_DOCS=1` in the environment of the test writes them anew.
#[test]
fn the_page_is_in_step() {
    const BEGIN: &str = "<!-- begin calls -->\n";
    const END: &str = "<!-- end calls -->";
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");
    let found = std::fs::read_to_string(page).expect("docs/api.md");
    let (before, rest) = found.split_once(BEGIN).expect("the mark");
    let (_, after) = rest.split_once(END).expect("the mark");
    let api = Daemon::start().get("/openapi.json").json();
    let expected = format!("{before}{BEGIN}{}{END}{after}", table(&api));
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(page, &expected).expect("docs/api.md can be written");
        return;
    }
    assert!(
        found == expected,
        "docs/api.md does not list the calls that there are: run this test with WRITE_DOCS=1"
    );
}
