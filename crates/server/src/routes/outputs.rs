//! What commands wrote, in ranges, and as it is written.

use super::Shared;
use super::file::{CHUNK, FileBody};
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
use http_body::Frame;
use serde::Deserialize;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::spawn_blocking;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Between two looks of who follows an output: fast for people, cheap for the disk.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
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
    // Looking into files blocks.
    let opened = spawn_blocking(move || {
        let status = outputs.status(id, stream)?;
        Ok((status, outputs.reader(id, stream, 0)?))
    });
    let (status, mut reader) = match opened.await {
        Ok(opened) => opened.map_err(refused)?,
        Err(error) => return Err(unreadable(&error)),
    };
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
    if follow {
        let permit = app.streams.clone().try_acquire_owned().map_err(|_| {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "all streams are taken")
                .retry_after(RETRY_AFTER_S)
        })?;
        reader.seek(which.from.unwrap_or(0));
        let body = Following {
            next: Some(next(reader, app.stage.clone())),
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
    reader.seek(from);
    let body = FileBody::new(move |into: &mut [u8]| reader.read(into), end - from, None);
    Ok((code, fields, Body::new(body)).into_response())
}

fn refused(error: OutputError) -> Problem {
    match error {
        OutputError::None { .. } => Problem::not_found(error.to_string()),
        other => unreadable(&other),
    }
}

fn unreadable(error: &dyn std::fmt::Debug) -> Problem {
    tracing::error!(?error, "an output cannot be read");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the output cannot be read; the daemon's log says why",
    )
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

/// Bytes, with what they were read from; none of that if reading broke off.
type Next = Pin<Box<dyn Future<Output = (Option<OutputReader>, io::Result<Bytes>)> + Send>>;

/// What comes next; nothing at the end, or when the server stops.
fn next(mut reader: OutputReader, mut stage: watch::Receiver<Stage>) -> Next {
    Box::pin(async move {
        let mut last = false;
        loop {
            let read = spawn_blocking(move || {
                // In this order: what was written before the end is read after it was seen.
                let open = reader.is_open();
                let mut space = vec![0; CHUNK];
                let read = reader.read(&mut space).map(|count| {
                    space.truncate(count);
                    Bytes::from(space)
                });
                (reader, open, read)
            });
            let (back, open, read) = match read.await {
                Ok(read) => read,
                Err(error) => return (None, Err(io::Error::other(error))),
            };
            reader = back;
            let waits = open && matches!(&read, Ok(bytes) if bytes.is_empty());
            if !waits || last {
                return (Some(reader), read);
            }
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
                // What was written meanwhile is still told.
                _ = stage.wait_for(|stage| stage.is_stopping()) => last = true,
            }
        }
    })
}

/// An output as it is written.
struct Following {
    /// None after the end.
    next: Option<Next>,
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
        let Some(coming) = self.next.as_mut() else {
            return Poll::Ready(None);
        };
        let (reader, read) = ready!(coming.as_mut().poll(cx));
        self.next = None;
        Poll::Ready(match read {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => {
                self.next = reader.map(|reader| next(reader, self.stage.clone()));
                Some(Ok(Frame::data(bytes)))
            }
            Err(error) => Some(Err(error)),
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
