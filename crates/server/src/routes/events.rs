//! The stream of events, as server-sent events.
//!
//! A client has a place in the engine's ring, not a buffer of its own: it is sent what came after its place as fast as it reads, and if
//! the ring has moved on meanwhile it is told how much it missed. So a client that does not read costs what the socket and
//! the HTTP library hold, and nobody waits for it.

use super::Shared;
use crate::http::query::Query;
use crate::problem::Problem;
use crate::server::Stage;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flyball_engine::events::EventKind;
use http_body::Frame;
use serde::Deserialize;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// A comment is sent after so long without an event, so that both ends learn when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events handed over at once.
const BATCH: usize = 64;
/// When a client that lost its connection tries again, ms; and how long one that found all streams taken waits, s.
const RETRY_MS: u32 = 2000;
const RETRY_AFTER_S: u32 = 5;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(events))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Kinds to send, separated by commas; all where it is left out.
    #[param(example = "worker,decision")]
    types: Option<String>,
}

/// What happens, as it happens.
///
/// A stream of server-sent events of the types `worker`, `decision`, `throttle`, `limit`, `config`, `sample` and `task`. Each has an `id`; a client that
/// sends the last one it saw as `Last-Event-ID` gets what came after it. One that was too slow, or whose id is of an earlier run, gets
/// an event `missed` with `{"missed": n}`, null where the number is not known.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(Filter, ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event seen")),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 429, description = "All streams are taken", body = Problem, content_type = "application/problem+json"),
    ))]
async fn events(
    State(app): State<Shared>,
    Query(filter): Query<Filter>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let kinds = kinds(filter.types.as_deref())?;
    let permit = app.streams.clone().try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "all event streams are taken")
            .retry_after(RETRY_AFTER_S)
    })?;
    if app.stage.borrow().is_stopping() {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon is stopping",
        ));
    }
    let follower = app.engine.events().follow();
    let mut head = format!("retry: {RETRY_MS}\n\n");
    let last = headers
        .get(LAST_EVENT_ID)
        .map(|id| id.to_str().unwrap_or_default());
    let seen = match last.map(|id| parse_id(id, app.run)) {
        None => app.engine.events().last(),
        Some(Some(seen)) => seen.min(app.engine.events().last()),
        Some(None) => {
            head.push_str(&missed(None));
            0
        }
    };
    let stream = Stream {
        seen,
        kinds,
        head: Some(head.into()),
        wait: wait(follower, app.stage.clone()),
        app,
        _permit: permit,
    };
    let fields = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // Proxies that gather a reply before they pass it on would gather this one forever.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((fields, Body::new(stream)).into_response())
}

fn kinds(types: Option<&str>) -> Result<Vec<EventKind>, Problem> {
    let Some(types) = types else {
        return Ok(EventKind::ALL.to_vec());
    };
    let known = || EventKind::ALL.map(EventKind::name).join(", ");
    types
        .split(',')
        .map(|name| {
            let found = EventKind::ALL.into_iter().find(|kind| kind.name() == name);
            found.ok_or_else(|| {
                Problem::invalid("unknown type of event")
                    .at("?types", format!("expected some of {}", known()))
            })
        })
        .collect()
}

/// The number in an event's id, if it is of this run.
fn parse_id(id: &str, run: u64) -> Option<u64> {
    let (its_run, number) = id.split_once('-')?;
    (its_run.parse() == Ok(run)).then_some(())?;
    number.parse().ok()
}

fn missed(count: Option<u64>) -> String {
    let count = count.map_or("null".to_owned(), |count| count.to_string());
    format!("event: missed\ndata: {{\"missed\":{count}}}\n\n")
}

enum Woken {
    News(watch::Receiver<u64>),
    Quiet(watch::Receiver<u64>),
    End,
}

type Wait = Pin<Box<dyn Future<Output = Woken> + Send>>;

fn wait(mut follower: watch::Receiver<u64>, mut stage: watch::Receiver<Stage>) -> Wait {
    Box::pin(async move {
        tokio::select! {
            changed = follower.changed() => match changed {
                Ok(()) => Woken::News(follower),
                Err(_) => Woken::End,
            },
            _ = stage.wait_for(|stage| stage.is_stopping()) => Woken::End,
            () = tokio::time::sleep(KEEP_ALIVE) => Woken::Quiet(follower),
        }
    })
}

/// One client's stream.
struct Stream {
    app: Shared,
    seen: u64,
    kinds: Vec<EventKind>,
    head: Option<Bytes>,
    wait: Wait,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    /// What came since, if anything that this client wants did.
    fn news(&mut self) -> Option<Bytes> {
        loop {
            let batch = self.app.engine.events().since(self.seen, BATCH);
            let mut text = String::new();
            if batch.missed > 0 {
                text.push_str(&missed(Some(batch.missed)));
            }
            let newest = batch.events.last()?.id;
            self.seen = newest;
            for event in &batch.events {
                if !self.kinds.iter().any(|kind| kind.name() == event.kind) {
                    continue;
                }
                // JSON has no raw line breaks, so an event's data is one line.
                let data = serde_json::to_string(event).unwrap_or_default();
                let (run, id, kind) = (self.app.run, event.id, &event.kind);
                text.push_str(&format!("id: {run}-{id}\nevent: {kind}\ndata: {data}\n\n"));
            }
            if !text.is_empty() {
                return Some(text.into());
            }
        }
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let some = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(head) = self.head.take() {
            return some(head);
        }
        loop {
            if let Some(news) = self.news() {
                return some(news);
            }
            let (follower, quiet) = match ready!(self.wait.as_mut().poll(cx)) {
                Woken::End => return Poll::Ready(None),
                Woken::News(follower) => (follower, false),
                Woken::Quiet(follower) => (follower, true),
            };
            self.wait = wait(follower, self.app.stage.clone());
            if quiet {
                return some(Bytes::from_static(b":\n\n"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_other_runs_are_not_taken_for_ours() {
        assert_eq!(parse_id("17-4", 17), Some(4));
        for other in ["16-4", "4", "17-", "17-x", "", "17-4-5", "-17-4"] {
            assert_eq!(parse_id(other, 17), None, "{other}");
        }
    }

    #[test]
    fn kinds_are_chosen_by_name() {
        assert_eq!(kinds(None).unwrap().len(), EventKind::ALL.len());
        assert_eq!(
            kinds(Some("config,worker")).unwrap(),
            [EventKind::Config, EventKind::Worker]
        );
        let problem = kinds(Some("worker,x")).unwrap_err();
        assert_eq!(problem.status, 422);
        assert!(problem.errors[0].detail.contains("worker, decision"));
    }
}
