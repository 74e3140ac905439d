//! What an answer says about the service: to the limit, and to the breaker.
//!
//! The limit wants to hear of overload: an answer "too much" or "too late" is one, a fault of the program says nothing about load and its latency
//! nothing either. The breaker wants to hear of faults of any kind, but not of those of the caller.

use flyball_limit::{Outcome, Verdict};
use http::{HeaderMap, StatusCode};

/// How an answer was, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) outcome: Outcome,
    pub(crate) verdict: Verdict,
}

const GOOD: Judged = Judged {
    outcome: Outcome::Succeeded,
    verdict: Verdict::Success,
};
const OVERLOADED: Judged = Judged {
    outcome: Outcome::Failed,
    verdict: Verdict::Failure,
};
const FAULTY: Judged = Judged {
    outcome: Outcome::Ignored,
    verdict: Verdict::Failure,
};

impl Judged {
    /// By the head. A gRPC answer that is only a head has its status there, others have it in their trailers.
    pub(crate) fn by_head(status: StatusCode, headers: &HeaderMap) -> Self {
        if let Some(judged) = Self::by_trailers(headers) {
            return judged;
        }
        match status {
            StatusCode::TOO_MANY_REQUESTS => Judged {
                outcome: Outcome::Failed,
                verdict: Verdict::Success,
            },
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => OVERLOADED,
            status if status.is_server_error() => FAULTY,
            _ => GOOD,
        }
    }

    /// By `grpc-status` (gRPC, "Status codes and their use in gRPC"), if it is there.
    pub(crate) fn by_trailers(trailers: &HeaderMap) -> Option<Self> {
        let status = trailers.get("grpc-status")?.to_str().ok()?;
        Some(match status.trim() {
            // Deadline exceeded, resource exhausted, unavailable.
            "4" | "8" | "14" => OVERLOADED,
            // Unknown, internal, data loss.
            "2" | "13" | "15" => FAULTY,
            _ => GOOD,
        })
    }

    /// The answer never came whole.
    pub(crate) const BROKEN: Self = FAULTY;
    /// The caller went away, or the answer was too late for it. How long it waits is its own choice, and says nothing about the service; that the answer took
    /// long is known to the breaker all the same.
    pub(crate) const DROPPED: Self = Judged {
        outcome: Outcome::Ignored,
        verdict: Verdict::Unknown,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_and_faults_are_told_apart() {
        let by =
            |status: u16| Judged::by_head(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
        for status in [200, 204, 301, 400, 404] {
            assert_eq!(by(status), GOOD, "{status}");
        }
        assert_eq!(by(500), FAULTY);
        assert_eq!(by(503), OVERLOADED);
        assert_eq!(by(504), OVERLOADED);
        assert_eq!(
            (by(429).outcome, by(429).verdict),
            (Outcome::Failed, Verdict::Success)
        );
        let mut trailers = HeaderMap::new();
        assert_eq!(Judged::by_trailers(&trailers), None);
        for (status, expected) in [("0", GOOD), ("5", GOOD), ("13", FAULTY), ("14", OVERLOADED)] {
            trailers.insert("grpc-status", status.parse().unwrap());
            assert_eq!(Judged::by_trailers(&trailers), Some(expected));
            assert_eq!(Judged::by_head(StatusCode::OK, &trailers), expected);
        }
    }
}
