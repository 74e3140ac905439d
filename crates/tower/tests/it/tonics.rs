//! Before tonic.

use std::convert::Infallible;
use std::future::Ready;
use std::task::{Context, Poll};

use flyball_tower::{Gate, layer};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::{Layer as _, Service, ServiceExt as _};

use crate::gate;

/// A service that answers `internal`.
#[derive(Clone)]
struct Faulty;

impl NamedService for Faulty {
    const NAME: &'static str = "test.Faulty";
}

impl Service<Request<Body>> for Faulty {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        std::future::ready(Ok(tonic::Status::internal("on purpose").into_http()))
    }
}

fn request(timeout: Option<&str>) -> Request<Body> {
    let mut request = Request::post("/test.Faulty/Call").header("content-type", "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    request.body(Body::empty()).unwrap()
}

async fn call(gate: &Gate, request: Request<Body>) -> http::HeaderMap {
    let routes = layer(gate).layer(Routes::new(Faulty).prepare());
    let answer: Result<_, Infallible> = routes.oneshot(request).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    assert_eq!(headers["content-type"], "application/grpc");
    let body = answer.into_body().collect().await.unwrap();
    assert!(body.to_bytes().is_empty());
    headers
}

/// CPU-21, CPU-23: a gRPC call that is shed has a gRPC status and says when to try again.
#[tokio::test(start_paused = true)]
async fn a_shed_is_a_status() {
    let (_clock, gate) = gate(1);
    assert_eq!(call(&gate, request(None)).await["grpc-status"], "13");
    let permit = gate.try_enter(&flyball_tower::Ask::default()).unwrap();
    let headers = call(&gate, request(None)).await;
    assert_eq!(headers["grpc-status"], "14");
    let pushback: i32 = headers["grpc-retry-pushback-ms"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(pushback > 0);
    assert!(
        headers["grpc-message"]
            .to_str()
            .unwrap()
            .contains("overloaded")
    );
    drop(permit);
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-23: the deadline is that of `grpc-timeout`.
#[tokio::test(start_paused = true)]
async fn the_deadline_is_grpcs() {
    let (_clock, gate) = gate(1);
    assert_eq!(call(&gate, request(Some("0m"))).await["grpc-status"], "4");
    assert_eq!(call(&gate, request(Some("1S"))).await["grpc-status"], "13");
}
