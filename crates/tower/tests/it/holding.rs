//! How long a request holds its slot.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use axum::routing::get as route;
use axum::{Extension, Router};
use bytes::Bytes;
use flyball_tower::{AdaptiveConfig, Algorithm, GateConfig, layer};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::{mpsc, oneshot};

use crate::{advance, call, gate, gate_of, get, run_to_a_halt, text};

/// A body that is what a channel sends.
struct Sent(mpsc::Receiver<Bytes>);

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// An app that answers with a body from a channel, and the channels' ends.
fn streaming(layer: flyball_tower::OverloadLayer) -> (Router, mpsc::Receiver<mpsc::Sender<Bytes>>) {
    let (senders, ends) = mpsc::channel(8);
    let handler = move || {
        let (sender, receiver) = mpsc::channel(8);
        senders.try_send(sender).unwrap();
        async move { Response::new(Body::new(Sent(receiver))) }
    };
    (Router::new().route("/", route(handler)).layer(layer), ends)
}

/// CPU-23: the slot is held until the body has ended.
#[tokio::test(start_paused = true)]
async fn until_the_body_ends() {
    let (_clock, gate) = gate(1);
    let (app, mut ends) = streaming(layer(&gate));
    let answer = call(&app, get("/")).await;
    let sender = ends.recv().await.unwrap();
    assert_eq!(gate.in_flight(), 1);
    sender.send(Bytes::from_static(b"part")).await.unwrap();
    let mut body = answer.into_body();
    assert!(body.frame().await.is_some());
    assert_eq!(gate.in_flight(), 1);
    drop(sender);
    assert!(body.frame().await.is_none());
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-23: or is dropped, as when the client has gone.
#[tokio::test(start_paused = true)]
async fn or_is_dropped() {
    let (_clock, gate) = gate(1);
    let (app, mut ends) = streaming(layer(&gate));
    let answer = call(&app, get("/")).await;
    let _sender = ends.recv().await.unwrap();
    assert_eq!(call(&app, get("/")).await.status(), 503);
    drop(answer);
    assert_eq!(gate.in_flight(), 0);
    assert_eq!(call(&app, get("/")).await.status(), 200);
}

/// CPU-23: an empty body ends with the head.
#[tokio::test(start_paused = true)]
async fn no_body_holds_nothing() {
    let (_clock, gate) = gate(1);
    let app: Router = Router::new()
        .route("/", route(|| async {}))
        .layer(layer(&gate));
    let _answer = call(&app, get("/")).await;
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-23: a long stream gives no latency sample, a short one does.
#[tokio::test(start_paused = true)]
async fn long_streams_give_no_sample() {
    let config = AdaptiveConfig::new(Algorithm::vegas());
    let (clock, gate) = gate_of(GateConfig::with_limit(config));
    let (app, mut ends) = streaming(layer(&gate));
    for (lasts, succeeded, ignored) in [(900, 1, 0), (1_100, 1, 1)] {
        let answer = call(&app, get("/")).await;
        let sender = ends.recv().await.unwrap();
        advance(&clock, Duration::from_millis(lasts)).await;
        drop(sender);
        answer.into_body().collect().await.unwrap();
        let stats = gate.status().adaptive;
        assert_eq!((stats.succeeded, stats.ignored), (succeeded, ignored));
    }
}

/// CPU-23: a panic in a handler gives the slot back.
#[tokio::test(start_paused = true)]
async fn panics_give_the_slot_back() {
    async fn panics() {
        panic!("on purpose")
    }
    let (_clock, gate) = gate(1);
    let app: Router = Router::new().route("/", route(panics)).layer(layer(&gate));
    let task = tokio::spawn(async move { call(&app, get("/")).await });
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-22: handlers find what tells the gate of work that they have a pool do: it counts as the requests' own, not as a wait for something else.
#[tokio::test(start_paused = true)]
async fn handlers_can_tell_of_a_pools_work() {
    let config = AdaptiveConfig::new(Algorithm::RunDelay { cpus: 2 }).with_bounds(1, 100);
    let (clock, gate) = gate_of(GateConfig::with_limit(config));
    let (jobs, mut pool) = mpsc::channel::<Box<dyn FnOnce() + Send>>(1);
    let handler = move |Extension(offload): Extension<flyball_tower::Offload>| async move {
        let (done, result) = oneshot::channel();
        let work = offload.wrap(move || {
            clock.advance(Duration::from_millis(10));
            "done"
        });
        let job = Box::new(move || done.send(work()).unwrap());
        jobs.send(job).await.unwrap();
        result.await.unwrap()
    };
    let app = Router::new().route("/", route(handler)).layer(layer(&gate));
    for _ in 0..64 {
        let mut answer = Box::pin(call(&app, get("/")));
        assert!(run_to_a_halt(&mut answer).await.is_none());
        pool.recv().await.unwrap()();
        assert_eq!(text(answer.await).await, "done");
    }
    let last = gate.status().adaptive.last.unwrap();
    // How much of it was a wait for a CPU is this machine's to say.
    let own = last.run_share.unwrap() + last.run_delay_share.unwrap();
    assert!(own > 0.9, "{last:?}");
    assert_eq!(gate.in_flight(), 0);
}
