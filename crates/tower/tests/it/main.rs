//! The layer before axum, hyper and tonic. What the gate decides is tested with the gate; here it is that requests are told it, hold their slots as long as they should, and
//! give them back.

mod holding;
mod hypers;
mod refusing;
mod tonics;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use flyball_core::time::{ManualClock, Source};
use flyball_tower::{AdmissionConfig, Gate, GateConfig};
use http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

/// A gate of so many slots and no waiting, on a clock that tests move together with tokio's.
fn gate(limit: u32) -> (ManualClock, Gate) {
    gate_of(GateConfig::fixed(limit).with_admission(AdmissionConfig {
        queue_max: 0,
        ..AdmissionConfig::default()
    }))
}

fn gate_of(config: GateConfig) -> (ManualClock, Gate) {
    let clock = ManualClock::new();
    let gate = Gate::with_clock(config, Source::Manual(clock.clone())).unwrap();
    (clock, gate)
}

async fn advance(clock: &ManualClock, by: Duration) {
    clock.advance(by);
    tokio::time::advance(by).await;
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn call(app: &Router, request: Request<Body>) -> Response {
    let answer: Result<Response, Infallible> = app.clone().oneshot(request).await;
    answer.unwrap()
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Polls a future as often as it takes to come to a halt; whether it has ended.
async fn run_to_a_halt<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    for _ in 0..20 {
        let mut future = pin!(&mut future);
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}
