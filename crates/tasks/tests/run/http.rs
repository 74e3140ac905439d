//! Calls of URLs, against a server on this machine.

use crate::Test;
use crate::stage::{Stage, call, quiet, spec_of};
use flyball_policy::limit::HedgeDelay;
use flyball_tasks::run::Reach;
use flyball_tasks::{Completion, Outcome, Reason, State};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use std::convert::Infallible;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    (
        "http::answers_decide_what_becomes_of_a_task",
        answers_decide_what_becomes_of_a_task,
    ),
    ("http::calls_carry_who_they_are", calls_carry_who_they_are),
    ("http::large_answers_are_cut", large_answers_are_cut),
    (
        "http::what_does_not_answer_times_out",
        what_does_not_answer_times_out,
    ),
    (
        "http::cancelling_drops_the_connection",
        cancelling_drops_the_connection,
    ),
    (
        "http::what_is_no_call_is_refused",
        what_is_no_call_is_refused,
    ),
    (
        "http::calls_of_others_reach_what_they_may",
        calls_of_others_reach_what_they_may,
    ),
    (
        "http::slow_calls_are_hedged_where_allowed",
        slow_calls_are_hedged_where_allowed,
    ),
];

pub(crate) struct Server {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// What came in, its body read.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) method: String,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer; `None`: none ever.
pub(crate) type Reply = Option<Response<Full<Bytes>>>;

pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Some(response.body(Full::new(body.into())).unwrap())
}

pub(crate) fn server(answer: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> Server {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let answer = Arc::new(answer);
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move {
                    let (head, body) = request.into_parts();
                    let asked = Asked {
                        path: head.uri.path().to_owned(),
                        method: head.method.to_string(),
                        headers: head.headers,
                        body: body.collect().await.unwrap().to_bytes(),
                    };
                    match answer(asked) {
                        Some(response) => Ok::<_, Infallible>(response),
                        None => std::future::pending().await,
                    }
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            tokio::spawn(async move {
                let _ = connection.await;
            });
        }
    });
    Server {
        address,
        _runtime: runtime,
    }
}

fn json(end: &Completion) -> serde_json::Value {
    serde_json::from_slice(end.result.as_deref().unwrap()).unwrap()
}

/// TASK-2, TASK-7: 200s are done; 429 and 503 come back when they say; 500s and connections that fail may pass; the rest, redirects too, will not.
fn answers_decide_what_becomes_of_a_task() {
    let elsewhere = Arc::new(AtomicU32::new(0));
    let its = Arc::clone(&elsewhere);
    let server = server(move |asked| match &asked.path[1..] {
        "429" => answer(429, &[("retry-after", "17")], "later"),
        "302" => answer(302, &[("location", "/elsewhere")], ""),
        "elsewhere" => {
            its.fetch_add(1, Ordering::SeqCst);
            answer(200, &[], "")
        }
        status => answer(status.parse().unwrap(), &[], "said"),
    });
    let stage = Stage::new(quiet());
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let end = |url: &str| {
        let id = stage.queue.add(call(url));
        stage.queue.wait_end(id, 1)
    };
    let done = end(&server.url("/201"));
    assert_eq!(
        (done.outcome, &json(&done)["status"], &json(&done)["body"]),
        (Some(Outcome::Done), &201.into(), &"said".into())
    );
    for (url, again, after) in [
        (server.url("/429"), true, Some(17)),
        (server.url("/503"), true, None),
        (server.url("/500"), true, None),
        (server.url("/404"), false, None),
        (server.url("/302"), false, None),
        (format!("http://{gone}/"), true, None),
        // Speaks no TLS.
        (server.url("/200").replace("http:", "https:"), true, None),
    ] {
        let end = end(&url);
        let expected = Outcome::Failed {
            reason: Reason::Error,
            retryable: again,
            after: after.map(Duration::from_secs),
        };
        assert_eq!(end.outcome, Some(expected), "{url}: {:?}", end.error);
    }
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0);
    stage.wait_idle();
}

/// TASK-2: method, header fields and body are the task's; each attempt says which task and attempt it is, under one key.
fn calls_carry_who_they_are() {
    let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let its = Arc::clone(&seen);
    let server = server(move |asked| {
        let mut seen = its.lock().unwrap();
        seen.push(asked);
        answer(if seen.len() == 1 { 500 } else { 200 }, &[], "")
    });
    let stage = Stage::new(quiet());
    let mut task = call(&server.url("/hook"));
    task.head.retry.max_attempts = 2;
    let spec = spec_of(&mut task);
    spec.method = "POST".to_owned();
    spec.headers = vec![
        ("X-Two".to_owned(), "a".to_owned()),
        ("X-Two".to_owned(), "b".to_owned()),
    ];
    spec.body = Some(Bytes::from_static(b"\xff body"));
    let id = stage.queue.add(task);
    stage.queue.wait_end(id, 2);
    let seen = seen.lock().unwrap();
    for (index, asked) in seen.iter().enumerate() {
        let field = |name: &str| asked.headers[name].to_str().unwrap().to_owned();
        assert_eq!(
            (&asked.method[..], &asked.path[..], &asked.body[..]),
            ("POST", "/hook", &b"\xff body"[..])
        );
        assert_eq!(field("flyball-task-id"), "1");
        assert_eq!(field("flyball-attempt"), (index + 1).to_string());
        assert_eq!(field("idempotency-key"), "flyball-task-1");
        assert_eq!(asked.headers.get_all("x-two").iter().count(), 2);
    }
}

/// TASK-11: of a long answer the first mebibyte is kept, and it says so; what is no text is kept as it is.
fn large_answers_are_cut() {
    let server = server(|asked| match &asked.path[..] {
        "/bytes" => answer(200, &[], &b"\xff\0"[..]),
        _ => answer(200, &[], vec![b'x'; 5 << 20]),
    });
    let stage = Stage::new(quiet());
    let id = stage.queue.add(call(&server.url("/large")));
    let end = stage.queue.wait_end(id, 1);
    assert!(end.result.as_ref().unwrap().len() <= 1 << 20);
    let large = json(&end);
    assert_eq!(large["truncated"], true);
    assert!(large["body"].as_str().unwrap().len() > 800_000);
    let id = stage.queue.add(call(&server.url("/bytes")));
    assert_eq!(json(&stage.queue.wait_end(id, 1))["body_base64"], "/wA=");
}

/// TASK-9: a call that is not answered ends at its timeout, and may be tried again.
fn what_does_not_answer_times_out() {
    let server = server(|_| None);
    let stage = Stage::new(quiet());
    let mut task = call(&server.url("/"));
    task.head.timeout = Some(Duration::from_millis(50));
    let id = stage.queue.add(task);
    let end = stage.queue.wait_end(id, 1);
    assert!(
        matches!(
            end.outcome,
            Some(Outcome::Failed {
                reason: Reason::TimedOut,
                retryable: true,
                ..
            })
        ),
        "{end:?}"
    );
}

/// TASK-4: a call whose task is cancelled drops its connection.
fn cancelling_drops_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let stage = Stage::new(quiet());
    let id = stage.queue.add(call(&url));
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    stage.queue.cancel_one(id);
    stage.queue.wait_state(id, State::Cancelled);
    // Its end, whatever of the request came before.
    assert!(stream.read_to_end(&mut Vec::new()).is_ok());
}

/// What cannot be called is refused before anything is sent, and not tried again.
fn what_is_no_call_is_refused() {
    let stage = Stage::new(quiet());
    type Spoil = fn(&mut flyball_tasks::HttpSpec);
    let cases: [(Spoil, &str); 5] = [
        (
            |spec| spec.url = "ftp://host/".to_owned(),
            "begins with http://",
        ),
        (|spec| spec.url = "not a url".to_owned(), "is no URL"),
        (|spec| spec.method = "GE T".to_owned(), "is no method"),
        (
            |spec| spec.headers = vec![("a b".to_owned(), String::new())],
            "no name of a header field",
        ),
        (
            |spec| spec.headers = vec![("Content-Length".to_owned(), "7".to_owned())],
            "not the task's to set",
        ),
    ];
    for (spoil, expected) in cases {
        let mut task = call("http://127.0.0.1:9/");
        spoil(spec_of(&mut task));
        let id = stage.queue.add(task);
        let end = stage.queue.wait_end(id, 1);
        assert!(end.error.as_deref().unwrap().contains(expected), "{end:?}");
        assert!(matches!(
            end.outcome,
            Some(Outcome::Failed {
                retryable: false,
                ..
            })
        ));
    }
}

/// TASK-11: a call that was submitted over a network does not reach this machine, whatever its URL calls it, unless the list names it; what a name stands for
/// is judged where it is connected to.
fn calls_of_others_reach_what_they_may() {
    let count = Arc::new(AtomicU32::new(0));
    let its = Arc::clone(&count);
    let server = server(move |_| {
        its.fetch_add(1, Ordering::SeqCst);
        answer(200, &[], "")
    });
    let port = server.address.port();
    let stage = Stage::new(quiet());
    let end_of = |host: &str, remote| {
        let mut task = call(&format!("http://{host}:{port}/"));
        spec_of(&mut task).remote = remote;
        let id = stage.queue.add(task);
        stage.queue.wait_end(id, 1)
    };
    // The resolver takes the last two for numbers of 127.0.0.1.
    let hosts = ["127.0.0.1", "localhost", "127.1", "2130706433"];
    for host in hosts {
        let end = end_of(host, true);
        let error = end.error.as_deref().unwrap_or_default();
        assert!(error.contains("calls.hosts names them"), "{host}: {end:?}");
        assert!(
            matches!(
                end.outcome,
                Some(Outcome::Failed {
                    retryable: false,
                    ..
                })
            ),
            "{end:?}"
        );
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    for host in &hosts[..2] {
        let end = end_of(host, false);
        assert_eq!(end.outcome, Some(Outcome::Done), "{end:?}");
    }
    let set = |entries: &[&str]| {
        let mut settings = quiet();
        settings.calls = Reach::parse(entries).unwrap();
        stage.runners.set(settings).unwrap();
    };
    // By its name, or by the address that a name stands for.
    for (entry, host) in [("127.1", "127.1"), ("127.0.0.0/8", "2130706433")] {
        set(&[entry]);
        let end = end_of(host, true);
        assert_eq!(end.outcome, Some(Outcome::Done), "{end:?}");
    }
    set(&["10.0.0.0/8"]);
    let end = end_of("127.1", true);
    let error = end.error.as_deref().unwrap_or_default();
    assert!(error.contains("calls.hosts does not name it"), "{end:?}");
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

/// TASK-9: a slow call is made a second time where its task allows it, within the budget; the first answer counts.
fn slow_calls_are_hedged_where_allowed() {
    let count = Arc::new(AtomicU32::new(0));
    let its = Arc::clone(&count);
    let (seen, sees) = mpsc::channel();
    let server = server(move |asked| {
        let first = its.fetch_add(1, Ordering::SeqCst) == 0;
        seen.send(asked.path).unwrap();
        // The first of all never answers.
        if first {
            None
        } else {
            answer(200, &[], "second")
        }
    });
    let mut settings = quiet();
    settings.hedge.delay = HedgeDelay::Fixed(Duration::from_millis(20));
    settings.hedge.ratio = 1.0;
    let stage = Stage::new(settings);
    let mut task = call(&server.url("/hedged"));
    spec_of(&mut task).hedge = true;
    let id = stage.queue.add(task);
    assert_eq!(json(&stage.queue.wait_end(id, 1))["body"], "second");
    assert_eq!(
        [sees.recv().unwrap(), sees.recv().unwrap()],
        ["/hedged", "/hedged"]
    );
    let plain = stage.queue.add(call(&server.url("/plain")));
    stage.queue.wait_end(plain, 1);
    assert_eq!(count.load(Ordering::SeqCst), 3);
}
