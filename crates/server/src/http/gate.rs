//! Between the HTTP library and the routes: every request passes here, and every answer leaves here.
//!
//! On the way in: the verdict on the head, the rules of access. On the way out: problem documents, header fields for browsers, the log of
//! changes. A handler that panics costs its request, not the connection's thread.

use super::body::{Bounds, Upload};
use super::connections::Link;
use crate::access::{self, Access, Caller, Peer};
use crate::problem::{self, Problem};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Gates {
    pub(crate) router: Router,
    pub(crate) access: Arc<Access>,
    pub(crate) body: Bounds,
}

/// The gate of one connection.
pub(crate) struct Gate {
    pub(crate) gates: Gates,
    pub(crate) link: Arc<Link>,
    pub(crate) peer: Peer,
}

impl hyper::service::Service<hyper::Request<Incoming>> for Gate {
    type Response = hyper::Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let verdict = self.link.verdict();
        let answered = Answered(self.link.clone());
        let gates = self.gates.clone();
        let peer = self.peer;
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let response = match verdict {
                Some(None) => gates.pass(peer, request).await,
                Some(Some(refusal)) => {
                    tracing::debug!(?peer, status = refusal.status.as_u16(), detail = %refusal.detail, "refused a head");
                    let problem = Problem::new(refusal.status, refusal.detail);
                    closing(problem.into_response())
                }
                // The library saw a request where the wire saw none: one of the two is wrong about where the last one ended.
                None => closing(
                    Problem::bad_request("it is not clear where this request begins")
                        .into_response(),
                ),
            };
            let response = dress(problem::complete(response, &path));
            Ok(response.map(|body| Answer {
                body,
                _answered: answered,
            }))
        })
    }
}

impl Gates {
    async fn pass(mut self, peer: Peer, request: hyper::Request<Incoming>) -> Response {
        let caller = match self.access.judge(
            peer,
            request.method(),
            request.uri(),
            request.headers(),
        ) {
            Ok(caller) => caller,
            Err(problem) => {
                tracing::debug!(?peer, method = %request.method(), path = request.uri().path(), status = problem.status, "refused");
                return problem.into_response();
            }
        };
        let change = access::is_change(request.method(), request.uri().path());
        let told = change.then(|| (request.method().clone(), request.uri().path().to_owned()));

        let (mut parts, incoming) = request.into_parts();
        parts.extensions.insert(caller);
        let body = Body::new(Upload::new(incoming, self.body));
        let request = Request::from_parts(parts, body);
        let routed = Service::call(&mut self.router, request);
        let response = match Guarded(Box::pin(routed)).await {
            Some(Ok(response)) => response,
            Some(Err(never)) => match never {},
            None => failed(),
        };
        if let Some((method, path)) = told {
            log_change(caller, &method, &path, &response);
        }
        response
    }
}

/// Whether a call is the daily traffic of the queue of tasks, which keeps a record of each task itself: who looks after a daemon does not want a line
/// of the log for each.
fn is_traffic(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/v1/tasks") else {
        return path == "/v1/cpu/scheduler/task";
    };
    let call = rest.rsplit('/').next().unwrap_or_default();
    matches!(
        call,
        "" | "lease" | "finish" | "heartbeat" | "complete" | "fail" | "release"
    )
}

fn log_change(caller: Caller, method: &Method, path: &str, response: &Response) {
    let status = response.status();
    let traffic = is_traffic(path);
    let path = problem::echo(path);
    if traffic {
        tracing::debug!(by = %caller, %method, %path, status = status.as_u16(), "asked of the queue");
    } else if status.is_success() {
        tracing::info!(by = %caller, %method, %path, status = status.as_u16(), "changed");
    } else {
        let detail = response
            .extensions()
            .get::<Problem>()
            .map(|problem| problem.detail.as_str())
            .unwrap_or_default();
        tracing::info!(by = %caller, %method, %path, status = status.as_u16(), detail, "refused a change");
    }
}

/// The answer of a handler that panicked.
fn failed() -> Response {
    failure().into_response()
}

/// What somebody is told whose handler panicked.
pub(super) fn failure() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the server failed at this request; its log says more",
    )
}

/// Tells the library to close the connection after this answer.
fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Field values of all answers, that keep a browser from doing more with one than showing it.
pub(super) const FIXED: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];
/// The same, for answers that have none of their own.
pub(super) const DEFAULTS: [(&str, &str); 2] = [
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

/// Gives an answer the fields of all.
pub(super) fn dress(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in FIXED {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    for (name, value) in DEFAULTS {
        headers
            .entry(HeaderName::from_static(name))
            .or_insert(HeaderValue::from_static(value));
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"flyball\""),
        );
    }
    response
}

/// A handler's future whose panic becomes `None`.
pub(super) struct Guarded<F: ?Sized>(pub(super) Pin<Box<F>>);

impl<F: Future + ?Sized> Future for Guarded<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A future that panicked is never polled again, so nobody sees what it left half done; what handlers share is behind
        // locks of the engine.
        match catch_unwind(AssertUnwindSafe(|| pin!(&mut self.0).poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(payload) => {
                let text = payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| payload.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                tracing::error!(panic = ?problem::echo(&text), "a handler panicked");
                Poll::Ready(None)
            }
        }
    }
}

/// Tells the table of connections that a request was answered, when its answer has been handed over or given up.
struct Answered(Arc<Link>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The body of an answer.
pub(crate) struct Answer {
    body: Body,
    _answered: Answered,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::ready;
    use std::task::Waker;

    fn polled<F: Future>(future: F) -> Poll<Option<F::Output>> {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(Guarded(Box::pin(future))).poll(&mut cx)
    }

    /// API-1: a handler that panics costs its request an answer of 500, not the thread, and the answer tells nothing of the panic.
    #[test]
    fn panics_of_handlers_are_caught() {
        assert_eq!(polled(ready(7)), Poll::Ready(Some(7)));
        for text in ["fixed", "formatted"] {
            let panicking = async {
                assert_ne!(text, "fixed", "secret {text}");
                panic!("secret");
            };
            assert_eq!(polled::<_>(panicking), Poll::Ready(None::<()>));
        }
        assert_eq!(failed().status(), 500);
        let problem = failed().into_parts().0.extensions.remove::<Problem>();
        assert!(problem.is_some_and(|problem| !problem.detail.contains("secret")));
    }
}
