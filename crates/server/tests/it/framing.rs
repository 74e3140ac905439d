//! Where requests begin and end: what is ambiguous or too much is refused, and the connection closed.

use crate::support::Daemon;
use std::time::Duration;

/// API-6: requests whose end is ambiguous, without or with two Hosts, or malformed, are refused with 400 and the connection closed.
#[test]
fn ambiguous_heads_are_refused_and_the_connection_closed() {
    let daemon = Daemon::start();
    let host = format!("Host: {}\r\n", daemon.address);
    for (head, status) in [
        (
            format!(
                "POST /livez HTTP/1.1\r\n{host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            400,
        ),
        (
            format!(
                "POST /livez HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
            ),
            400,
        ),
        (
            format!("POST /livez HTTP/1.1\r\n{host}Content-Length: 4\r\nContent-Length: 5\r\n\r\n"),
            400,
        ),
        (
            format!("POST /livez HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n\r\n"),
            501,
        ),
        (
            format!("GET /livez HTTP/1.1\r\n{host}X: a\r\n  folded\r\n\r\n"),
            400,
        ),
        (format!("GET /livez HTTP/1.1\r\n{host}X : a\r\n\r\n"), 400),
        (format!("GET /livez HTTP/1.1\r\n{host}X\r\n\r\n"), 400),
        (format!("GET  /livez HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /livez HTTP/3.0\r\n{host}\r\n"), 400),
        (format!("GET /li\0vez HTTP/1.1\r\n{host}\r\n"), 400),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\n\n".to_owned(), 400),
    ] {
        let mut client = daemon.connect();
        // What follows would be a request of its own if the server took the head.
        client.send(format!("{head}0\r\n\r\nGET /readyz HTTP/1.1\r\n{host}\r\n"));
        let reply = client.receive();
        reply.problem(status);
        assert_eq!(reply.field("connection"), Some("close"), "{head:?}");
        assert!(client.is_closed(), "{head:?}");
    }
    for head in [
        "GET /livez HTTP/1.1\r\n\r\n".to_owned(),
        "GET /livez HTTP/1.0\r\n\r\n".to_owned(),
        format!("GET /livez HTTP/1.1\r\n{host}{host}\r\n"),
        format!("GET http://evil.example/livez HTTP/1.1\r\n{host}\r\n"),
        format!("CONNECT {0} HTTP/1.1\r\n{host}\r\n", daemon.address),
        format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"),
    ] {
        let mut client = daemon.connect();
        client.send(&head);
        client.receive().problem(400);
    }
    // HTTP/1.0 with a Host is served, and a target that names the same host.
    let mut client = daemon.connect();
    client.send(format!("GET /livez HTTP/1.0\r\n{host}\r\n"));
    assert_eq!(client.receive().status, 200);
    let mut client = daemon.connect();
    client.send(format!(
        "GET http://{}/livez HTTP/1.1\r\n{host}\r\n",
        daemon.address
    ));
    assert_eq!(client.receive().status, 200);
}

/// API-6 (V5): too many fields or bytes of a head are 431, a target too long is 414.
#[test]
fn large_heads_are_refused() {
    let daemon = Daemon::start();
    let host = format!("host: {}\r\n", daemon.address);
    let many: String = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = "a".repeat(64 * 1024);
    for (head, status) in [
        (format!("GET /livez HTTP/1.1\r\n{host}{many}\r\n"), 431),
        (
            format!("GET /livez HTTP/1.1\r\n{host}x: {long}\r\n\r\n"),
            431,
        ),
        (
            format!("GET /livez HTTP/1.1\r\n{host}{}", "\r".repeat(20_000)),
            431,
        ),
        (
            format!("GET /{} HTTP/1.1\r\n{host}\r\n", &long[..9000]),
            414,
        ),
        (format!("GET /{long} HTTP/1.1\r\n{host}\r\n"), 414),
    ] {
        let mut client = daemon.connect();
        client.send(head);
        client.receive().problem(status);
        assert!(client.is_closed());
    }
    let fits: String = (0..31).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert_eq!(daemon.ask("GET", "/livez", &fits[..0], "").status, 200);
    let mut client = daemon.connect();
    client.send(format!("GET /livez HTTP/1.1\r\n{host}{fits}\r\n"));
    assert_eq!(client.receive().status, 200);
}

/// API-6 (V1): a head that comes byte by byte is given up after its time, a connection that says nothing, too.
#[test]
fn slow_heads_are_given_up() {
    let daemon = Daemon::with(|options| options.limits.header_timeout = Duration::from_millis(300));
    let mut silent = daemon.connect();
    let mut slow = daemon.connect();
    let mut half = daemon.connect();
    half.send("GET /livez HTTP/1.1\r\nhost:");
    let mut sent = 0;
    for byte in b"GET /livez HTTP/1.1\r\nx: "
        .iter()
        .chain(std::iter::repeat(&b'a'))
    {
        if slow.try_send([*byte]).is_err() || !slow.is_silent_for(Duration::from_millis(20)) {
            break;
        }
        sent += 1;
        assert!(sent < 10_000, "the head is never given up");
    }
    slow.receive().problem(408);
    half.receive().problem(408);
    assert!(half.is_closed());
    assert!(silent.is_closed());
    // Between requests a connection may be silent for longer.
    let mut idle = daemon.connect();
    assert_eq!(
        idle.ask("GET", "/livez", daemon.address, "", "").status,
        200
    );
    assert!(idle.is_silent_for(Duration::from_millis(600)));
    assert_eq!(
        idle.ask("GET", "/livez", daemon.address, "", "").status,
        200
    );
}

/// API-6: a connection without requests ends after the idle time.
#[test]
fn idle_connections_end() {
    let daemon = Daemon::with(|options| options.limits.idle_timeout = Duration::from_millis(50));
    let mut idle = daemon.connect();
    assert_eq!(
        idle.ask("GET", "/livez", daemon.address, "", "").status,
        200
    );
    assert!(idle.is_closed());
}

/// API-1: requests sent without waiting are answered in order, bodies of both framings between them.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start();
    let host = format!("host: {}\r\n", daemon.address);
    let round = format!(
        "GET /livez HTTP/1.1\r\n{host}\r\n\
         POST /readyz HTTP/1.1\r\n{host}content-length: 5\r\n\r\nhello\
         GET /nothing HTTP/1.1\r\n{host}\r\n\
         HEAD /livez HTTP/1.1\r\n{host}\r\n\
         POST /livez HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n3\r\nGET\r\n0\r\nx: y\r\n\r\n"
    );
    let mut client = daemon.connect();
    let rounds = 20;
    client.send(round.repeat(rounds));
    for _ in 0..rounds {
        assert_eq!(client.receive().status, 200);
        client.receive().problem(405);
        client.receive().problem(404);
        assert_eq!(client.receive_to("HEAD").status, 200);
        client.receive().problem(405);
    }
    // Byte by byte it is the same. (Without bodies: a refusal may be sent, and the connection closed, before such a body has come.)
    let mut client = daemon.connect();
    let bare = format!(
        "GET /livez HTTP/1.1\r\n{host}\r\nGET /nothing HTTP/1.1\r\n{host}\r\nPOST /livez HTTP/1.1\r\n{host}\r\n"
    );
    for byte in bare.as_bytes() {
        client.send([*byte]);
    }
    for status in [200, 404, 405] {
        assert_eq!(client.receive().status, status);
    }
    // A bad head after good ones: they are answered, then it is refused.
    let mut client = daemon.connect();
    client.send(format!(
        "GET /livez HTTP/1.1\r\n{host}\r\nGET /livez HTTP/1.1\r\n{host}content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n"
    ));
    assert_eq!(client.receive().status, 200);
    client.receive().problem(400);
    assert!(client.is_closed());
}
