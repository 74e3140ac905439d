//! Who may ask what.

use crate::support::{Daemon, Folder, engine, options};
use flyball_server::{Error, Server};

/// API-6 (V6): requests for other hosts are 421, whatever the route; the allowed ones are served.
#[test]
fn only_known_hosts_are_served() {
    let daemon = Daemon::with(|options| {
        options.allowed_hosts = vec!["Flyball.Example.org".into(), "box:8080".into()];
    });
    let port = daemon.address.port();
    let with = |path: &str, host: &str| {
        let mut client = daemon.connect();
        client.ask("GET", path, host, "", "")
    };
    for host in [
        "evil.com".to_owned(),
        format!("evil.com:{port}"),
        "127.0.0.1".to_owned(),
        "127.0.0.1:1".to_owned(),
        format!("127.0.0.1:{port}.evil.com"),
        format!("evil.com@127.0.0.1:{port}"),
        format!("localhost.:{port}"),
        "box".to_owned(),
        String::new(),
        "é".to_owned(),
    ] {
        for path in ["/livez", "/docs", "/openapi.json", "/nothing"] {
            let reply = with(path, &host);
            reply.problem(421);
        }
    }
    for host in [
        format!("127.0.0.1:{port}"),
        format!("LOCALHOST:{port}"),
        format!("[::1]:{port}"),
        "flyball.example.org".to_owned(),
        "box:8080".to_owned(),
    ] {
        assert_eq!(with("/livez", &host).status, 200, "{host}");
    }
}

/// API-6 (V7): what a page of another site causes is refused, whatever the method, even with the token; no CORS fields are sent.
#[test]
fn other_sites_change_nothing() {
    let daemon = Daemon::start();
    let token = format!("authorization: Bearer {}\r\n", daemon.token);
    let own = format!("origin: http://{}\r\n", daemon.address);
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        for fields in [
            "origin: http://evil.com\r\n".to_owned(),
            "origin: null\r\n".to_owned(),
            format!("origin: http://{}.evil.com\r\n", daemon.address),
            format!("origin: http://{}/\r\n", daemon.address),
            "sec-fetch-site: cross-site\r\n".to_owned(),
            "sec-fetch-site: same-site\r\n".to_owned(),
            format!("{own}sec-fetch-site: cross-site\r\n"),
            format!("{own}{own}"),
        ] {
            let fields = format!("{fields}{token}content-type: text/plain\r\n");
            let reply = daemon.ask(method, "/v1/events", &fields, "{}");
            reply.problem(403);
            assert!(reply.field("access-control-allow-origin").is_none());
        }
        let fields = format!("{own}sec-fetch-site: same-origin\r\n{token}");
        daemon.ask(method, "/v1/events", &fields, "").problem(405);
    }
    let reply = daemon.ask("GET", "/livez", "origin: http://evil.com\r\n", "");
    assert_eq!(reply.status, 200);
    assert!(reply.field("access-control-allow-origin").is_none());
}

/// API-6: another address than loopback is refused at start, before anything is made.
#[test]
fn other_addresses_are_refused_at_start() {
    let folder = Folder::new();
    let mut options = options(&folder);
    options.listen.push("0.0.0.0:0".parse().unwrap());
    let error = Server::start(options, engine()).unwrap_err();
    assert!(matches!(error, Error::NotLoopback { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
}

/// API-6: every answer forbids a browser to guess types, to run or to frame anything; errors are problem documents.
#[test]
fn answers_are_inert_in_a_browser() {
    let daemon = Daemon::start();
    for path in [
        "/livez",
        "/docs",
        "/docs/docs.js",
        "/openapi.json",
        "/<script>",
        "/%0d%0aX:1",
    ] {
        let reply = daemon.get(path);
        assert_eq!(reply.field("x-content-type-options"), Some("nosniff"));
        let policy = reply.field("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"));
    }
    daemon.get("/v1/nothing").problem(404);
    let reply = daemon.ask("DELETE", "/livez", "", "");
    reply.problem(405);
    assert_eq!(reply.field("allow"), Some("GET,HEAD"));
    let page = daemon.get("/docs");
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let text = String::from_utf8(page.body).unwrap();
    for foreign in ["http://", "https://", "onclick", "<style", "javascript:"] {
        assert!(!text.contains(foreign), "{foreign}");
    }
}
