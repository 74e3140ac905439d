//! What commands wrote, in ranges, and as it is written.

use super::Shared;
use super::tasks::id_of;
use crate::http::query::Query;
use crate::problem::Problem;
use crate::server::Stage;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flyball_tasks::run::{OutputError, OutputReader, Stream};
use http_body::{Frame, SizeHint};
use serde::Deserialize;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;
/// When who found all streams taken tries again, s.
const RETRY_AFTER_S: u32 = 5;

const OPEN: HeaderName = HeaderName::from_static("flyball-output-open");
const DROPPED: HeaderName = HeaderName::from_static("flyball-output-dropped");

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(output))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// `stdout` (the default) or `stderr`.
    stream: Option<String>,
    /// The first byte; `Range` excludes it.
    from: Option<u64>,
    /// Whether to go on until the command has ended; `Range` excludes it.
    follow: Option<bool>,
}

/// What a command wrote to its standard output or standard error, byte for byte.
///
/// `Flyball-Output-Open` says whether more may come, `Flyball-Output-Dropped` how many bytes were beyond the bound. A stream that follows ends when the
/// command has ended.
#[utoipa::path(get, path = "/v1/tasks/{id}/output", tag = "tasks", operation_id = "task_output",
    params(("id" = String, Path, description = "The task"), Which, ("Range" = Option<String>, Header, description = "One range of bytes")),
    responses(
    (status = 200, description = "The output", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 206, description = "The range", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 404, description = "There is no such task, or it wrote nothing", body = Problem, content_type = "application/problem+json"),
    (status = 416, description = "The output has no such bytes", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "All streams are taken", body = Problem, content_type = "application/problem+json"),
))]
async fn output(
    State(app): State<Shared>,
    Query(which): Query<Which>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stream = match which.stream.as_deref() {
        None => Stream::Stdout,
        Some(name) => Stream::ALL
            .into_iter()
            .find(|stream| stream.name() == name)
            .ok_or_else(|| {
                Problem::invalid("there is no such stream")
                    .at("?stream", "expected stdout or stderr")
            })?,
    };
    let id = id_of(&id)?;
    let follow = which.follow.unwrap_or(false);
    let range = match headers.get(header::RANGE) {
        Some(_) if follow || which.from.is_some() => {
            return Err(Problem::invalid("Range excludes `from` and `follow`"));
        }
        Some(range) => parse_range(range.to_str().unwrap_or_default()),
        None => None,
    };
    let outputs = app.engine.task_outputs()?;
    let status = outputs.status(id, stream).map_err(refused)?;
    let mut fields = HeaderMap::new();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let open = if status.open { "true" } else { "false" };
    fields.insert(OPEN, HeaderValue::from_static(open));
    if let Some(dropped) = status.dropped {
        fields.insert(DROPPED, HeaderValue::from(dropped));
    }
    let reader = |from| outputs.reader(id, stream, from).map_err(refused);
    if follow {
        let permit = app.streams.clone().try_acquire_owned().map_err(|_| {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "all streams are taken")
                .retry_after(RETRY_AFTER_S)
        })?;
        let reader = reader(which.from.unwrap_or(0))?;
        let body = Following {
            next: next(reader, app.stage.clone()),
            stage: app.stage.clone(),
            _permit: permit,
        };
        return Ok((fields, Body::new(body)).into_response());
    }
    let (code, from, end) = match range {
        None => {
            let from = which.from.unwrap_or(0).min(status.kept);
            (StatusCode::OK, from, status.kept)
        }
        Some(range) => {
            let Some((from, end)) = range.within(status.kept) else {
                return Err(Problem::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    format!("the output has {} bytes so far", status.kept),
                ));
            };
            let text = format!("bytes {from}-{}/{}", end - 1, status.kept);
            // Digits and signs only.
            if let Ok(value) = HeaderValue::try_from(text) {
                fields.insert(header::CONTENT_RANGE, value);
            }
            (StatusCode::PARTIAL_CONTENT, from, end)
        }
    };
    let body = Part {
        reader: reader(from)?,
        left: end - from,
    };
    Ok((code, fields, Body::new(body)).into_response())
}

fn refused(error: OutputError) -> Problem {
    match error {
        OutputError::None { .. } => Problem::not_found(error.to_string()),
        other => {
            tracing::error!(error = ?other, "an output cannot be read");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the output cannot be read; the daemon's log says why",
            )
        }
    }
}

/// A range of bytes as it was asked for (RFC 9110 §14.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    /// First and, if it was named, last.
    From(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

/// Reads one range. Several ranges, other units and nonsense are ignored, as the standard has it.
fn parse_range(text: &str) -> Option<Range> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    match (first, last) {
        ("", last) => number(last).map(Range::Last),
        (first, "") => number(first).map(|first| Range::From(first, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Range::From(first, Some(last)))
        }
    }
}

impl Range {
    /// The first byte, and the one behind the last, of so many; none if there are none.
    fn within(self, length: u64) -> Option<(u64, u64)> {
        let (from, end) = match self {
            Range::From(from, last) => {
                let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                (from, end)
            }
            Range::Last(count) => (length.saturating_sub(count), length),
        };
        (from < end).then_some((from, end))
    }
}

/// A part of an output.
struct Part {
    reader: OutputReader,
    left: u64,
}

impl http_body::Body for Part {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut space = vec![0; self.left.min(CHUNK as u64) as usize];
        let read = self.reader.read(&mut space);
        Poll::Ready(Some(read.and_then(|count| {
            if count == 0 {
                // The output was replaced meanwhile; the length that was promised cannot be kept.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            space.truncate(count);
            self.left -= count as u64;
            Ok(Frame::data(space.into()))
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

type Next = Pin<Box<dyn Future<Output = (OutputReader, io::Result<Bytes>)> + Send>>;

/// What comes next; nothing at the end, or when the server stops.
fn next(mut reader: OutputReader, mut stage: watch::Receiver<Stage>) -> Next {
    Box::pin(async move {
        let mut space = vec![0; CHUNK];
        let read = tokio::select! {
            read = reader.follow(&mut space) => read,
            _ = stage.wait_for(|stage| stage.is_stopping()) => Ok(0),
        };
        let bytes = read.map(|count| {
            space.truncate(count);
            space.into()
        });
        (reader, bytes)
    })
}

/// An output as it is written.
struct Following {
    next: Next,
    stage: watch::Receiver<Stage>,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Following {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let (reader, read) = ready!(self.next.as_mut().poll(cx));
        self.next = next(reader, self.stage.clone());
        Poll::Ready(match read {
            Ok(bytes) if bytes.is_empty() => None,
            read => Some(read.map(Frame::data)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-4: ranges are those of the standard; what is not understood is ignored.
    #[test]
    fn ranges_are_those_of_the_standard() {
        for (text, range) in [
            ("bytes=0-9", Some((0, 10))),
            ("bytes=5-", Some((5, 20))),
            ("bytes=-5", Some((15, 20))),
            ("bytes=-50", Some((0, 20))),
            ("bytes=10-100", Some((10, 20))),
            ("bytes=20-", None),
            ("bytes=-0", None),
        ] {
            let parsed = parse_range(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(parsed.within(20), range, "{text}");
        }
        for text in [
            "",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=+1-2",
            "lines=1-2",
            "bytes=0-1,3-4",
        ] {
            assert_eq!(parse_range(text), None, "{text}");
        }
        assert_eq!(parse_range("bytes=0-").unwrap().within(0), None);
    }
}
