//! Who is refused, and what it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::routing::get as route;
use flyball_tower::{Breaker, BreakerConfig, Deadline, Gate, GateConfig, Mode, ShedStatus, layer};
use http::{HeaderName, Request, StatusCode};

use crate::{advance, call, gate, gate_of, get, run_to_a_halt, text};

/// A handler that never answers, and one that does.
fn app() -> Router {
    Router::new()
        .route("/stuck", route(std::future::pending::<()>))
        .route("/quick", route(|| async { "done" }))
}

/// CPU-21, CPU-23: a request that is shed is answered with a status, a reason and a hint, on a plain router, with the router's own error type.
#[tokio::test(start_paused = true)]
async fn a_shed_is_an_answer() {
    let (_clock, gate) = gate(1);
    let app = app().layer(layer(&gate));
    assert_eq!(text(call(&app, get("/quick")).await).await, "done");
    let stuck = Box::pin(call(&app, get("/stuck")));
    let mut stuck = stuck;
    assert!(run_to_a_halt(&mut stuck).await.is_none());
    let shed = call(&app, get("/quick")).await;
    assert_eq!(shed.status(), StatusCode::SERVICE_UNAVAILABLE);
    let after: u64 = shed.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=20).contains(&after));
    assert_eq!(shed.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&text(shed).await).unwrap();
    assert_eq!(problem["status"], 503);
    assert!(problem["detail"].as_str().unwrap().contains("overloaded"));
    // The client of the first goes away.
    drop(stuck);
    assert_eq!(call(&app, get("/quick")).await.status(), StatusCode::OK);
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-23: one state over routes and clones; a shed may be a 429.
#[tokio::test(start_paused = true)]
async fn routes_share_the_gate() {
    let (_clock, gate) = gate(1);
    let app: Router = Router::new()
        .route("/a", route(std::future::pending::<()>).layer(layer(&gate)))
        .route(
            "/b",
            route(|| async {}).layer(layer(&gate).shed_status(ShedStatus::TooMany)),
        );
    let mut stuck = Box::pin(call(&app, get("/a")));
    assert!(run_to_a_halt(&mut stuck).await.is_none());
    let shed = call(&app, get("/b")).await;
    assert_eq!(shed.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(shed.headers().contains_key("retry-after"));
}

/// CPU-23: the class is found by the request.
#[tokio::test(start_paused = true)]
async fn requests_have_classes() {
    let (_clock, gate) = gate(4);
    let batch = gate.class("batch").unwrap();
    let app = app().layer(
        layer(&gate)
            .classify(move |head| (head.header("x-kind") == Some("import")).then_some(batch))
            .cohort_header(HeaderName::from_static("x-tenant")),
    );
    let import = Request::get("/quick").header("x-kind", "import");
    call(&app, import.body(Body::empty()).unwrap()).await;
    call(&app, get("/quick")).await;
    let classes = gate.status().classes;
    let entered = |name| {
        classes
            .iter()
            .find(|class| class.name == name)
            .unwrap()
            .entered
    };
    assert_eq!(
        (entered("batch"), entered("interactive"), entered("normal")),
        (1, 1, 0)
    );
}

/// CPU-23: a deadline in a header reaches the handler; past it the request is answered and its handler dropped.
#[tokio::test(start_paused = true)]
async fn deadlines_end_requests() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (clock, gate) = gate(1);
    let dropped = Arc::new(AtomicBool::new(false));
    let handler = {
        let dropped = Arc::clone(&dropped);
        move |Extension(deadline): Extension<Deadline>| {
            let guard = Dropped(Arc::clone(&dropped));
            async move {
                assert_eq!(deadline.at().as_nanos(), 300_000_000);
                assert_eq!(deadline.left(), Duration::from_millis(300));
                let _guard = guard;
                std::future::pending::<()>().await;
            }
        }
    };
    let app: Router = Router::new()
        .route("/", route(handler))
        .layer(layer(&gate).deadline_header(HeaderName::from_static("x-timeout-ms")));
    let request = || {
        Request::get("/")
            .header("x-timeout-ms", "300")
            .body(Body::empty())
            .unwrap()
    };
    let mut answer = Box::pin(call(&app, request()));
    assert!(run_to_a_halt(&mut answer).await.is_none());
    advance(&clock, Duration::from_millis(299)).await;
    assert!(run_to_a_halt(&mut answer).await.is_none());
    advance(&clock, Duration::from_millis(2)).await;
    let late = answer.await;
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(gate.in_flight(), 0);
    // A deadline of nothing has passed when it arrives.
    let request = Request::get("/")
        .header("x-timeout-ms", "0")
        .body(Body::empty())
        .unwrap();
    assert_eq!(
        call(&app, request).await.status(),
        StatusCode::GATEWAY_TIMEOUT
    );
}

/// CPU-23: answers that are failures open the breaker, and requests are then refused with the time that it stays open.
#[tokio::test(start_paused = true)]
async fn a_breaker_guards_the_service() {
    let (_clock, gate) = gate(4);
    let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    let app = Router::new()
        .route("/", route(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .layer(layer(&gate).breaker(breaker.clone()));
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(call(&app, get("/")).await);
    }
    assert_eq!(statuses[0].status(), StatusCode::INTERNAL_SERVER_ERROR);
    let refused = statuses.last().unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(breaker.status().opened, 1);
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-23: callers with deadlines that nothing can meet open the breaker for nobody, and say nothing to the limit.
#[tokio::test(start_paused = true)]
async fn short_deadlines_open_no_breaker() {
    let (clock, gate) = gate(1);
    let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    let app = app().layer(layer(&gate).breaker(breaker.clone()));
    for _ in 0..40 {
        let request = Request::get("/stuck").header("grpc-timeout", "1m");
        let mut answer = Box::pin(call(&app, request.body(Body::empty()).unwrap()));
        assert!(run_to_a_halt(&mut answer).await.is_none());
        advance(&clock, Duration::from_millis(2)).await;
        assert_eq!(answer.await.status(), StatusCode::GATEWAY_TIMEOUT);
    }
    assert_eq!(breaker.status().opened, 0);
    let stats = gate.status().adaptive;
    assert_eq!((stats.failed, stats.ignored), (0, 40));
    assert_eq!(call(&app, get("/quick")).await.status(), StatusCode::OK);
}

/// CPU-23: the time that requests wait at the gate is not the service's: overload opens no breaker.
#[tokio::test(start_paused = true)]
async fn waiting_at_the_gate_opens_no_breaker() {
    let (clock, gate) = gate_of(GateConfig::fixed(1));
    let config = BreakerConfig {
        slow_call: Some(Duration::from_millis(50)),
        ..BreakerConfig::default()
    };
    let source = flyball_core::time::Source::Manual(clock.clone());
    let breaker = Breaker::with_clock(config, source, 1).unwrap();
    let app = app().layer(layer(&gate).breaker(breaker.clone()));
    let mut stuck = Box::pin(call(&app, get("/stuck")));
    assert!(run_to_a_halt(&mut stuck).await.is_none());
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let mut answer = Box::pin(call(&app, get("/quick")));
        assert!(run_to_a_halt(&mut answer).await.is_none());
        waiting.push(answer);
    }
    advance(&clock, Duration::from_millis(80)).await;
    for answer in waiting {
        assert_eq!(answer.await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(breaker.status().opened, 0);
    drop(stuck);
    assert_eq!(call(&app, get("/quick")).await.status(), StatusCode::OK);
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-30: neither gate nor deadline nor breaker refuses anything, and all count.
#[tokio::test(start_paused = true)]
async fn observing_refuses_nothing() {
    let (clock, gate): (_, Gate) = gate_of(GateConfig::fixed(1).with_mode(Mode::Observe));
    let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    let app = Router::new()
        .route("/stuck", route(std::future::pending::<()>))
        .route("/", route(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .layer(layer(&gate).breaker(breaker.clone()));
    let request = Request::get("/stuck")
        .header("grpc-timeout", "10m")
        .body(Body::empty())
        .unwrap();
    let mut stuck = Box::pin(call(&app, request));
    assert!(run_to_a_halt(&mut stuck).await.is_none());
    for _ in 0..40 {
        let answer = call(&app, get("/")).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    advance(&clock, Duration::from_secs(1)).await;
    assert!(run_to_a_halt(&mut stuck).await.is_none());
    assert!(breaker.status().refused > 0);
    let status = gate.status();
    assert_eq!((status.in_flight, status.classes[1].waited), (1, 40));
    drop(stuck);
    assert_eq!(gate.in_flight(), 0);
}
