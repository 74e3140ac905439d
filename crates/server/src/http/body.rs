//! A request's body, bounded in bytes, time and slowness.
//!
//! It is not read before a handler asks for it, so nobody without the right to send it is listened to.

use super::head::Refusal;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Time that a body may take before its rate is judged: a client on a slow link needs some to get going.
const GRACE: Duration = Duration::from_secs(2);

/// Bounds on a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Time for all of it.
    pub(crate) time: Duration,
    /// Least rate, bytes a second; 0 for none.
    pub(crate) rate: u64,
}

impl Bounds {
    /// When so many bytes become too few, since the body was waited for.
    fn patience(&self, received: u64) -> Duration {
        if self.rate == 0 {
            return self.time;
        }
        let earned = Duration::from_secs_f64(received as f64 / self.rate as f64);
        (GRACE + earned).min(self.time)
    }
}

/// Why reading a body stopped.
#[derive(Debug)]
pub(crate) enum UploadError {
    Refused(Refusal),
    /// The peer went away or broke the coding.
    Broken(hyper::Error),
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UploadError::Refused(refusal) => f.write_str(&refusal.detail),
            UploadError::Broken(_) => f.write_str("the body is broken"),
        }
    }
}

impl std::error::Error for UploadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UploadError::Refused(_) => None,
            UploadError::Broken(error) => Some(error),
        }
    }
}

/// A body as it arrives.
pub(crate) struct Upload {
    inner: hyper::body::Incoming,
    bounds: Bounds,
    received: u64,
    /// Since the first time that somebody waited for it.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Upload {
    pub(crate) fn new(inner: hyper::body::Incoming, bounds: Bounds) -> Self {
        Upload {
            inner,
            bounds,
            received: 0,
            waiting: None,
        }
    }

    fn too_large(&self) -> UploadError {
        UploadError::Refused(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a body may have {} bytes", self.bounds.bytes),
        ))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.get_mut();
        if this.inner.size_hint().lower() + this.received > this.bounds.bytes {
            return Poll::Ready(Some(Err(this.too_large())));
        }
        let patience = this.bounds.patience(this.received);
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.received += data.len() as u64;
                    if this.received > this.bounds.bytes {
                        return Poll::Ready(Some(Err(this.too_large())));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(UploadError::Broken(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let (began, timer) = this.waiting.get_or_insert_with(|| {
                    let now = Instant::now();
                    (now, Box::pin(tokio::time::sleep_until(now + patience)))
                });
                let due = *began + patience;
                if timer.deadline() != due {
                    timer.as_mut().reset(due);
                }
                ready!(timer.as_mut().poll(cx));
                let detail = format!(
                    "a body must arrive within {} ms and at {} bytes a second",
                    this.bounds.time.as_millis(),
                    this.bounds.rate
                );
                let refusal = Refusal::new(StatusCode::REQUEST_TIMEOUT, detail);
                Poll::Ready(Some(Err(UploadError::Refused(refusal))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-6: a body needs a least rate after its first seconds, and never more than its time.
    #[test]
    fn patience_is_earned_by_bytes_up_to_the_whole_time() {
        let bounds = Bounds {
            bytes: 1 << 20,
            time: Duration::from_secs(10),
            rate: 1024,
        };
        for (received, seconds) in [
            (0, 2),
            (1024, 3),
            (5 * 1024, 7),
            (8 * 1024, 10),
            (1 << 20, 10),
        ] {
            assert_eq!(bounds.patience(received), Duration::from_secs(seconds));
        }
        assert_eq!(Bounds { rate: 0, ..bounds }.patience(0), bounds.time);
    }
}
