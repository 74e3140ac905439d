//! Refusals as answers: for HTTP a status with `Retry-After` and a problem document (RFC 9457), for gRPC a status with
//! `grpc-retry-pushback-ms` (gRFC A6) in an answer that is only a head.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::body::Body;

/// What a caller that is shed is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShedStatus {
    /// 503, for gRPC `UNAVAILABLE`: the service has too much to do. Load balancers take it as a reason to try another server.
    #[default]
    Unavailable,
    /// 429, for gRPC `RESOURCE_EXHAUSTED`: the caller asks too much.
    TooMany,
}

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The gate shed it.
    Shed {
        why: &'static str,
        retry_after: Duration,
    },
    /// The breaker is open.
    Broken { retry_after: Option<Duration> },
    /// Its caller's deadline passed before it was served.
    Late,
}

/// gRPC, "Status codes and their use in gRPC".
const DEADLINE_EXCEEDED: u8 = 4;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNAVAILABLE: u8 = 14;

impl Refusal {
    pub(crate) fn answer<B: http_body::Body>(
        self,
        grpc: bool,
        shed: ShedStatus,
    ) -> Response<Body<B>> {
        let (status, code, why, retry_after) = match (self, shed) {
            (Refusal::Shed { why, retry_after }, ShedStatus::Unavailable) => (
                StatusCode::SERVICE_UNAVAILABLE,
                UNAVAILABLE,
                why,
                Some(retry_after),
            ),
            (Refusal::Shed { why, retry_after }, ShedStatus::TooMany) => (
                StatusCode::TOO_MANY_REQUESTS,
                RESOURCE_EXHAUSTED,
                why,
                Some(retry_after),
            ),
            (Refusal::Broken { retry_after }, _) => {
                let retry_after = retry_after.unwrap_or(Duration::from_secs(1));
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    UNAVAILABLE,
                    "what it depends on is failing",
                    Some(retry_after),
                )
            }
            (Refusal::Late, _) => (
                StatusCode::GATEWAY_TIMEOUT,
                DEADLINE_EXCEEDED,
                "the caller's deadline passed",
                None,
            ),
        };
        if grpc {
            only_a_head(code, why, retry_after)
        } else {
            problem(status, why, retry_after)
        }
    }
}

fn problem<B: http_body::Body>(
    status: StatusCode,
    why: &str,
    retry_after: Option<Duration>,
) -> Response<Body<B>> {
    let title = status.canonical_reason().unwrap_or_default();
    // `why` is one of our own texts: nothing in it needs escaping.
    let words = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{},\"detail\":\"{why}\"}}\n",
        status.as_u16()
    );
    let mut response = Response::new(Body::words(Bytes::from(words)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if let Some(after) = retry_after {
        // Whole seconds, never too early (RFC 9110, 10.2.3).
        let seconds = after
            .as_secs()
            .saturating_add(u64::from(after.subsec_nanos() > 0));
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

fn only_a_head<B: http_body::Body>(
    code: u8,
    why: &'static str,
    retry_after: Option<Duration>,
) -> Response<Body<B>> {
    let mut response = Response::new(Body::words(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    headers.insert("grpc-message", HeaderValue::from_static(why));
    if let Some(after) = retry_after {
        // A signed number of 32 bits; what is negative would forbid to retry.
        let millis = i32::try_from(after.as_millis()).unwrap_or(i32::MAX).max(1);
        headers.insert("grpc-retry-pushback-ms", HeaderValue::from(millis));
    }
    response
}
