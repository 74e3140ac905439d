//! The stream of events.

use crate::support::{Client, Daemon};
use flyball_engine::events::{EventKind, MAX_EVENTS};
use flyball_engine::view::Time;
use std::net::TcpStream;

fn push(daemon: &Daemon, kind: EventKind, number: u64) {
    daemon
        .engine
        .events()
        .push(kind, Time::from_unix_nanos(number), number.into());
}

struct Events {
    client: Client<TcpStream>,
    text: String,
}

#[derive(Debug, PartialEq)]
struct Event {
    kind: String,
    id: String,
    data: serde_json::Value,
}

impl Events {
    fn open(daemon: &Daemon, query: &str, fields: &str) -> Self {
        let mut client = daemon.connect();
        client.send(format!(
            "GET /v1/events{query} HTTP/1.1\r\nhost: {}\r\n{fields}\r\n",
            daemon.address
        ));
        let head = client.head().unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        let mut events = Events {
            client,
            text: String::new(),
        };
        assert!(events.block().starts_with("retry:"));
        events
    }

    fn block(&mut self) -> String {
        loop {
            if let Some(at) = self.text.find("\n\n") {
                let block = self.text[..at].to_owned();
                self.text.drain(..at + 2);
                return block;
            }
            let chunk = self.client.chunk().unwrap().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    fn next(&mut self) -> Event {
        let block = self.block();
        let field = |name: &str| {
            block
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .unwrap_or_default()
                .to_owned()
        };
        Event {
            kind: field("event"),
            id: field("id"),
            data: serde_json::from_str(&field("data")).unwrap(),
        }
    }
}

/// API-1: events are streamed by kind, and a client resumes where it was.
#[test]
fn events_are_streamed_and_resumed() {
    let daemon = Daemon::start();
    push(&daemon, EventKind::Worker, 1);
    let mut all = Events::open(&daemon, "", "");
    let mut some = Events::open(&daemon, "?types=config", "");
    for number in 2..=4 {
        push(&daemon, EventKind::Worker, number);
    }
    push(&daemon, EventKind::Config, 5);
    let first = all.next();
    assert_eq!(
        (first.kind.as_str(), &first.data["data"]),
        ("worker", &2.into())
    );
    assert_eq!(some.next().data["data"], 5);
    drop(all);
    let mut resumed = Events::open(&daemon, "", &format!("last-event-id: {}\r\n", first.id));
    let numbers: Vec<_> = (0..3)
        .map(|_| resumed.next().data["data"].clone())
        .collect();
    assert_eq!(numbers, [3, 4, 5]);
    daemon.get("/v1/events?types=nonsense").problem(422);
    daemon.get("/v1/events?tipes=worker").problem(422);
}

/// API-1: a client that comes too late is told how much it missed; one of an earlier run, that this is not known.
#[test]
fn clients_learn_what_they_missed() {
    let daemon = Daemon::start();
    let mut first = Events::open(&daemon, "", "");
    push(&daemon, EventKind::Worker, 0);
    let seen = first.next();
    drop(first);
    for number in 0..MAX_EVENTS as u64 + 7 {
        push(&daemon, EventKind::Worker, number);
    }
    let mut late = Events::open(&daemon, "", &format!("last-event-id: {}\r\n", seen.id));
    let missed = late.next();
    assert_eq!(
        (missed.kind.as_str(), &missed.data["missed"]),
        ("missed", &7.into())
    );
    assert_eq!(late.next().data["data"], 7);
    let mut foreign = Events::open(&daemon, "", "last-event-id: 1-1\r\n");
    let missed = foreign.next();
    assert_eq!(missed.kind, "missed");
    assert!(missed.data["missed"].is_null());
}

/// API-1: a client that does not read holds up nobody and costs no more than its buffers; then it is told what it missed.
#[test]
fn a_slow_client_holds_up_nobody() {
    let daemon = Daemon::start();
    let mut slow = Events::open(&daemon, "", "");
    let text = "x".repeat(10_000);
    let rounds = 4 * MAX_EVENTS as u64;
    for _ in 0..rounds {
        daemon.engine.events().push(
            EventKind::Worker,
            Time::from_unix_nanos(0),
            text.as_str().into(),
        );
        if daemon.engine.events().last().is_multiple_of(512) {
            assert_eq!(daemon.get("/livez").status, 200);
        }
    }
    let (mut missed, mut seen) = (0, 0);
    while missed + seen < rounds {
        let event = slow.next();
        match event.kind.as_str() {
            "missed" => missed += event.data["missed"].as_u64().unwrap(),
            _ => seen += 1,
        }
    }
    assert_eq!(missed + seen, rounds);
    assert!(missed > 0 && seen > 0, "{missed} {seen}");
}

/// API-6: so many streams and no more; one that ends makes room.
#[test]
fn streams_are_bounded() {
    let daemon = Daemon::with(|options| options.limits.event_streams = 2);
    let one = Events::open(&daemon, "", "");
    let _two = Events::open(&daemon, "", "");
    let refused = daemon.get("/v1/events");
    refused.problem(429);
    assert!(refused.field("retry-after").is_some());
    drop(one);
    // The server learns of the end when it next looks at the socket.
    let freed = (0..100_000).any(|_| daemon.ask("HEAD", "/v1/events", "", "").status == 200);
    assert!(freed);
}

/// API-6: streams never take all connections, however few there are.
#[test]
fn streams_leave_connections_to_others() {
    let daemon = Daemon::with(|options| options.limits.connections = 4);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut client = daemon.connect();
        client.send(format!(
            "GET /v1/events HTTP/1.1\r\nhost: {}\r\n\r\n",
            daemon.address
        ));
        assert_eq!(client.head().unwrap().status, 200);
        streams.push(client);
    }
    daemon.get("/v1/events").problem(429);
    assert_eq!(daemon.get("/v1/status").status, 200);
}
