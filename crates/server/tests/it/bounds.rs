//! Bodies: bounded in size, time and slowness.

use crate::flood::Small;
use crate::support::{Client, Daemon};
use std::time::Duration;

/// API-6 (V3): a body that is too large is refused, plain or chunked, with an answer that the client gets although it still sends, and
/// without being held in memory.
#[test]
fn large_bodies_are_refused_and_not_held() {
    let server = Small::start(256, None);
    let head = format!(
        "PATCH /v1/config HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        server.address, server.token
    );
    let body = vec![b' '; 2 << 20];
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.chunks(64 * 1024) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let mut plain = format!("{head}content-length: {}\r\n\r\n", body.len()).into_bytes();
    plain.extend(&body);
    let ask = |bytes: &[u8]| {
        let mut client = Client::tcp(server.address);
        client.send(bytes);
        client.receive().problem(413);
    };
    // What the first of each costs (code that is read in, arenas of threads) is no memory held.
    ask(&plain);
    ask(&chunked);
    let before = server.resident();
    for _ in 0..10 {
        ask(&plain);
        ask(&chunked);
    }
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
}

/// API-6: a body that stops coming is given up, and nothing of it counts.
#[test]
fn slow_bodies_are_given_up() {
    let daemon = Daemon::with(|options| options.limits.body_timeout = Duration::from_millis(200));
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut client = daemon.connect();
        client.send(format!(
            "PATCH /v1/config HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\n{framing}\r\n\r\n2\r\n{{}}",
            daemon.address, daemon.token
        ));
        client.receive().problem(408);
        assert!(client.is_closed());
    }
}

/// API-6: who may not send a body is refused before it is sent, and a client that asks first is told to send only what is taken.
#[test]
fn bodies_are_not_waited_for_in_vain() {
    let daemon = Daemon::start();
    let head = format!("PATCH /v1/config HTTP/1.1\r\nhost: {}\r\n", daemon.address);
    let token = format!(
        "authorization: Bearer {}\r\ncontent-type: application/json\r\n",
        daemon.token
    );
    for (fields, status) in [
        ("content-length: 100\r\n".to_owned(), 401),
        (format!("{token}content-length: 1048577\r\n"), 413),
        (
            format!("{token}content-length: 1048577\r\nexpect: 100-continue\r\n"),
            413,
        ),
        (
            format!(
                "content-type: text/plain\r\nauthorization: Bearer {}\r\ncontent-length: 9\r\n",
                daemon.token
            ),
            415,
        ),
        (
            format!("content-encoding: gzip\r\n{token}content-length: 9\r\n"),
            415,
        ),
    ] {
        let mut client = daemon.connect();
        client.send(format!("{head}{fields}\r\n"));
        let reply = client.head().unwrap();
        assert_eq!(reply.status, status, "{fields}");
    }
    let mut client = daemon.connect();
    client.send(format!(
        "{head}{token}content-length: 2\r\nexpect: 100-continue\r\n\r\n"
    ));
    assert_eq!(client.head().unwrap().status, 100);
    client.send("{}");
    assert_eq!(client.receive().status, 200);
    // A broken chunk is a bad request.
    let mut client = daemon.connect();
    client.send(format!(
        "{head}{token}transfer-encoding: chunked\r\n\r\nxyz\r\n"
    ));
    client.receive().problem(400);
    assert!(client.is_closed());
}
