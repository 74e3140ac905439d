//! Durable tasks: submit, lease, finish, look, cancel, retry, pause.
//!
//! Bodies are read straight into what they mean, payloads as the bytes they are; only one that is wrong is looked at a second time, to say where.
//! Everything that waits for the queue is woken through the relay, as the queue answers many at once.

use super::Shared;
use super::page::PageQuery;
use crate::access::Caller;
use crate::http::json::{self, Json, JsonBytes};
use crate::http::query::Query;
use crate::problem::Problem;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flyball_engine::Error;
use flyball_engine::view::tasks::{
    self as view, AcceptedView, CompleteBody, FailBody, Faults, FilterBody, FinishBody,
    FinishedItem, FinishedView, HeartbeatBody, LeaseBody, LeaseView, LeasesView, PauseBody,
    PausesView, ReleaseBody, SelectionBody, Submission, SubmitBody, TaskStatsView, TaskView,
    WhyView,
};
use flyball_tasks::{
    Completion, Filter, Idempotency, LeaseRequest, Query as TaskQuery, Selection, TaskId,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::future::Future;
use std::pin::pin;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest idempotency key, bytes.
const MAX_IDEMPOTENCY_KEY: usize = 255;
/// Longest reason of a cancellation, bytes.
const MAX_REASON: usize = 1000;

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(stats))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(submit, list))
        .routes(routes!(lease))
        .routes(routes!(finish))
        .routes(routes!(cancel_many))
        .routes(routes!(retry_many))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(get, cancel))
        .routes(routes!(why))
        .routes(routes!(retry))
        .routes(routes!(heartbeat))
        .routes(routes!(complete))
        .routes(routes!(fail))
        .routes(routes!(release))
        .routes(routes!(submit_to_scheduler, lease_of_scheduler))
}

/// Waits for the queue; woken through the relay.
pub(super) async fn answer<T>(
    app: &Shared,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, Problem> {
    Ok(app.relay.through(pin!(asked)).await?)
}

/// The task that a path names. What is no id names no task.
pub(super) fn id_of(path: &str) -> Result<TaskId, Problem> {
    view::parse_id(path).ok_or_else(|| {
        Problem::not_found(format!("there is no task {:?}", crate::problem::echo(path)))
    })
}

/// A body that was read straight into what it means, and checked.
fn body<T: serde::de::DeserializeOwned>(app: &Shared, bytes: &[u8]) -> Result<T, Problem> {
    json::direct(bytes, app.json_depth - 1)
}

fn checked<T>(checked: Result<T, Faults>) -> Result<T, Problem> {
    checked.map_err(|faults| Error::Body(faults).into())
}

fn idempotency(headers: &HeaderMap, body: &[u8]) -> Result<Option<Idempotency>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    let made = match keys.next() {
        None => idempotency_of(key.to_str().unwrap_or_default(), body),
        Some(_) => None,
    };
    made.map(Some).ok_or_else(|| {
        Problem::bad_request(format!(
            "Idempotency-Key must be given once, with 1 to {MAX_IDEMPOTENCY_KEY} visible characters"
        ))
    })
}

/// A key with the fingerprint of its body; none if it is no key.
pub(super) fn idempotency_of(key: &str, body: &[u8]) -> Option<Idempotency> {
    let visible = key.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    (visible && (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())).then(|| Idempotency {
        key: key.into(),
        fingerprint: Sha256::digest(body).into(),
    })
}

/// Tasks that were taken: one, or a batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Submitted {
    /// Answers a task.
    One(AcceptedView),
    /// Answers a batch, in its order.
    Batch {
        /// The tasks.
        tasks: Vec<AcceptedView>,
    },
}

/// Reads and checks what is submitted; whether it is a batch.
pub(super) fn submission(
    app: &Shared,
    caller: Caller,
    bytes: &[u8],
) -> Result<(Submission, bool), Problem> {
    let local = caller.is_local();
    let batch = SubmitBody::is_batch(bytes);
    let submission = if batch {
        app.engine.check_batch(body(app, bytes)?, local)
    } else {
        app.engine.check_task(body(app, bytes)?, local)
    }?;
    Ok((submission, batch))
}

/// Puts what was checked into the queue.
pub(super) async fn submit_checked(
    app: &Shared,
    submission: Submission,
    batch: bool,
    idempotency: Option<Idempotency>,
) -> Result<Submitted, Problem> {
    let asked = pin!(app.engine.submit(submission, idempotency));
    let asked = app.relay.through(asked);
    let mut tasks = asked.await.map_err(|error| refused(error, batch))?;
    Ok(match tasks.pop() {
        Some(task) if !batch => Submitted::One(task),
        Some(last) => {
            tasks.push(last);
            Submitted::Batch { tasks }
        }
        None => Submitted::Batch { tasks },
    })
}

async fn submitted(
    app: &Shared,
    caller: Caller,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<Response, Problem> {
    let idempotency = idempotency(headers, bytes)?;
    let (submission, batch) = submission(app, caller, bytes)?;
    let submitted = submit_checked(app, submission, batch, idempotency).await?;
    Ok((StatusCode::CREATED, Json(submitted)).into_response())
}

/// An answer as JSON.
pub(super) fn json_of<T: Serialize>(answer: &T) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(answer).map_err(|error| {
        tracing::error!(%error, "a reply cannot be written as JSON");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the reply cannot be written",
        )
    })
}

/// Says of a task that the queue refused where it is in the body.
fn refused(error: Error, batch: bool) -> Problem {
    match error {
        Error::Tasks(flyball_tasks::Error::Invalid(invalid)) => {
            let index = batch.then_some(invalid.index);
            Problem::invalid("a task cannot be taken")
                .at(view::pointer_of(index, &invalid.field), invalid.fault)
        }
        other => other.into(),
    }
}

/// Submits a task, or a batch that is taken whole or not at all. When it answers, what was taken is on disk.
///
/// Who repeats a request with the same `Idempotency-Key` is answered as before. How a task runs is said by `command` or `http`; with neither it is
/// for a registered handler of its kind, else for outside workers that lease it. Commands over TCP must be among those that the configuration allows;
/// over the socket the local user may run any.
#[utoipa::path(post, path = "/v1/tasks", tag = "tasks", operation_id = "submit_tasks", request_body = SubmitBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request one, 1 to 255 characters")),
    responses(
    (status = 201, description = "Taken, and on disk", body = Submitted),
    (status = 403, description = "A command that is not allowed, or a page of another site", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The idempotency key was used with another body, or the queue is switched off", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "The queue is full; Retry-After says when to try again", body = Problem, content_type = "application/problem+json"),
))]
async fn submit(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, Problem> {
    submitted(&app, caller, &headers, &bytes).await
}

/// Submits a task; the same as `POST /v1/tasks`.
#[utoipa::path(post, path = "/v1/cpu/scheduler/task", tag = "cpu", operation_id = "submit_to_scheduler", request_body = SubmitBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request one, 1 to 255 characters")),
    responses(
    (status = 201, description = "Taken, and on disk", body = Submitted),
    (status = 403, description = "A command that is not allowed, or a page of another site", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The idempotency key was used with another body, or the queue is switched off", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "The queue is full; Retry-After says when to try again", body = Problem, content_type = "application/problem+json"),
))]
async fn submit_to_scheduler(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, Problem> {
    submitted(&app, caller, &headers, &bytes).await
}

/// Hands tasks out, unless the server stops before there are any.
pub(super) async fn leased(app: &Shared, request: LeaseRequest) -> Result<LeasesView, Problem> {
    if request.wait.is_zero() {
        return answer(app, app.engine.lease(request)).await;
    }
    let mut stage = app.stage.clone();
    tokio::select! {
        biased;
        leased = answer(app, app.engine.lease(request)) => leased,
        _ = stage.wait_for(|stage| stage.is_stopping()) => Ok(LeasesView { tasks: Vec::new() }),
    }
}

/// Hands tasks out to an outside worker, best first; none if there is none within the wait.
#[utoipa::path(post, path = "/v1/tasks/lease", tag = "tasks", operation_id = "lease_tasks", request_body = LeaseBody, responses(
    (status = 200, body = LeasesView),
))]
async fn lease(
    State(app): State<Shared>,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<LeasesView>, Problem> {
    let request = lease_request(&app, &bytes)?;
    leased(&app, request).await.map(Json)
}

/// Reads and checks what a worker asks for.
pub(super) fn lease_request(app: &Shared, bytes: &[u8]) -> Result<LeaseRequest, Problem> {
    let asked: LeaseBody = body(app, bytes)?;
    checked(asked.check(app.engine.handled_kinds()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Next {
    /// Who asks: for people to read.
    worker: String,
    /// The kinds that it takes, separated by commas; all that no registered handler takes where it is left out.
    kinds: Option<String>,
    /// How long to wait for one if there is none, at most 60,000.
    wait_ms: Option<u64>,
    /// How long it is its own without a heartbeat; 30 s unless set.
    lease_ms: Option<u64>,
}

/// Leases the next task by the scheduler's order; counts as a change.
#[utoipa::path(get, path = "/v1/cpu/scheduler/task", tag = "cpu", operation_id = "lease_of_scheduler", params(Next), responses(
    (status = 200, body = LeaseView),
    (status = 204, description = "There is none"),
    (status = 403, description = "A page of another site caused it", body = Problem, content_type = "application/problem+json"),
))]
async fn lease_of_scheduler(
    State(app): State<Shared>,
    Query(next): Query<Next>,
) -> Result<Response, Problem> {
    let kinds = |text: String| text.split(',').map(Box::from).collect();
    let asked = LeaseBody {
        worker: next.worker.into(),
        kinds: next.kinds.map(kinds),
        max: Some(1),
        lease_ms: next.lease_ms,
        wait_ms: next.wait_ms,
    };
    let request = asked
        .check(app.engine.handled_kinds())
        .map_err(|faults| of_query(Error::Body(faults).into()))?;
    let mut leased = leased(&app, request).await?;
    Ok(match leased.tasks.pop() {
        Some(task) => Json(task).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// The places in a body that a query stands for are parameters: `/kinds/1` is `?kinds`.
fn of_query(problem: Problem) -> Problem {
    problem.moved(|pointer| {
        let name = pointer.split('/').nth(1).unwrap_or_default();
        format!("?{name}")
    })
}

/// Ends many attempts, each for itself: a stale token does not spoil the others.
#[utoipa::path(post, path = "/v1/tasks/finish", tag = "tasks", operation_id = "finish_tasks", request_body = FinishBody, responses(
    (status = 200, description = "What became of each, in the order of the request", body = FinishedView),
))]
async fn finish(
    State(app): State<Shared>,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<FinishedView>, Problem> {
    let ends = ends(&app, &bytes)?;
    finished(&app, ends).await.map(Json)
}

/// Reads and checks ends of attempts.
pub(super) fn ends(app: &Shared, bytes: &[u8]) -> Result<Vec<Completion>, Problem> {
    let ends: FinishBody = body(app, bytes)?;
    checked(ends.check())
}

/// Ends attempts.
pub(super) async fn finished(app: &Shared, ends: Vec<Completion>) -> Result<FinishedView, Problem> {
    let ended = answer(app, app.engine.finish(ends)).await?;
    let tasks = ended
        .into_iter()
        .map(|ended| {
            ended.unwrap_or_else(|(id, error)| {
                let problem = Problem::from(error);
                FinishedItem {
                    id: id.to_string(),
                    state: None,
                    reason: None,
                    attempt: None,
                    ready_at: None,
                    status: Some(problem.status),
                    detail: Some(problem.detail),
                }
            })
        })
        .collect();
    Ok(FinishedView { tasks })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// States, separated by commas; any where it is left out.
    #[param(example = "pending,running")]
    state: Option<String>,
    /// The class.
    class: Option<String>,
    /// The kind.
    kind: Option<String>,
    /// Labels as `name=value`, separated by commas: tasks with all of them.
    #[param(example = "team=video")]
    label: Option<String>,
    /// The group.
    group: Option<String>,
    /// Most items to answer, 1 to 1,000; 100 unless set.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl Which {
    fn filter(&self) -> Result<Filter, Problem> {
        let list = |text: &Option<String>| -> Vec<String> {
            let parts = text.iter().flat_map(|text| text.split(','));
            parts.map(str::to_owned).collect()
        };
        let mut filter = FilterBody {
            states: list(&self.state),
            class: self.class.clone(),
            kind: self.kind.clone(),
            group: self.group.clone(),
            ..FilterBody::default()
        };
        for label in list(&self.label) {
            let Some((name, value)) = view::parse_label(&label) else {
                return Err(Problem::invalid("this is no label").at(
                    "?label",
                    "expected name=value, several of them separated by commas",
                ));
            };
            filter.labels.insert(name.into(), value.into());
        }
        let named = |pointer: &str| match pointer.split('/').nth(1) {
            Some("states") => "?state".to_owned(),
            Some("labels") => "?label".to_owned(),
            name => format!("?{}", name.unwrap_or_default()),
        };
        checked(filter.filter()).map_err(|problem| problem.moved(named))
    }
}

/// A page of tasks, newest first.
#[derive(Serialize, ToSchema)]
struct TaskPage {
    /// The tasks.
    items: Vec<TaskView>,
    /// What to send as `cursor` for the next page; null when there is none.
    next_cursor: Option<String>,
    /// Tasks that were met on the way and that cannot be read, as their row is damaged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<String>,
}

/// Tasks, newest first.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", operation_id = "list_tasks", params(Which), responses((status = 200, body = TaskPage)))]
async fn list(
    State(app): State<Shared>,
    Query(which): Query<Which>,
    caller: Caller,
) -> Result<Json<TaskPage>, Problem> {
    let page = PageQuery {
        limit: which.limit,
        cursor: which.cursor.clone(),
    };
    let query = TaskQuery {
        filter: which.filter()?,
        before: page.number()?.map(TaskId),
        limit: page.limit(&app)? as u32,
    };
    let asked = app.engine.list_tasks(query, caller.sees_secrets());
    let page = answer(&app, asked).await?;
    Ok(Json(TaskPage {
        items: page.items,
        next_cursor: page.next.map(|id| id.to_string()),
        damaged: page.damaged.iter().map(TaskId::to_string).collect(),
    }))
}

/// Figures of the queue.
#[utoipa::path(get, path = "/v1/tasks/stats", tag = "tasks", operation_id = "task_stats", responses((status = 200, body = TaskStatsView)))]
async fn stats(State(app): State<Shared>) -> Result<Json<TaskStatsView>, Problem> {
    answer(&app, app.engine.task_stats()).await.map(Json)
}

/// All that is known of a task.
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "get_task", params(("id" = String, Path, description = "The task")), responses(
    (status = 200, body = TaskView),
    (status = 404, description = "There is no such task, or it has been forgotten", body = Problem, content_type = "application/problem+json"),
))]
async fn get(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<TaskView>, Problem> {
    let asked = app.engine.task(id_of(&id)?, caller.sees_secrets());
    answer(&app, asked).await.map(Json)
}

/// What a task waits for now.
#[utoipa::path(get, path = "/v1/tasks/{id}/why", tag = "tasks", operation_id = "why_task", params(("id" = String, Path, description = "The task")), responses(
    (status = 200, body = WhyView),
    (status = 404, description = "There is no such task, or it has been forgotten", body = Problem, content_type = "application/problem+json"),
))]
async fn why(State(app): State<Shared>, Path(id): Path<String>) -> Result<Json<WhyView>, Problem> {
    answer(&app, app.engine.why(id_of(&id)?)).await.map(Json)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Cause {
    /// Why, for people to read.
    reason: Option<String>,
}

fn cause(reason: Option<String>, caller: Caller) -> Result<String, Problem> {
    match reason {
        None => Ok(format!("cancelled by {caller}")),
        Some(text) if text.len() <= MAX_REASON && !text.contains(char::is_control) => {
            Ok(format!("cancelled by {caller}: {text}"))
        }
        Some(_) => Err(Problem::invalid("this is no reason").at(
            "?reason",
            format!("expected plain text, at most {MAX_REASON} bytes"),
        )),
    }
}

/// Cancels a task: at once where it does not run, at its next sign of life where it does.
#[utoipa::path(delete, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "cancel_task", params(("id" = String, Path, description = "The task"), Cause), responses(
    (status = 200, body = TaskView),
    (status = 404, description = "There is no such task, or it has been forgotten", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It has ended", body = Problem, content_type = "application/problem+json"),
))]
async fn cancel(
    State(app): State<Shared>,
    Query(Cause { reason }): Query<Cause>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<TaskView>, Problem> {
    let (id, cause) = (id_of(&id)?, cause(reason, caller)?);
    let asked = app.engine.cancel_tasks(Selection::Ids(vec![id]), cause);
    answer(&app, asked).await?;
    let asked = app.engine.task(id, caller.sees_secrets());
    answer(&app, asked).await.map(Json)
}

/// Gives a task that ended without success fresh attempts.
#[utoipa::path(post, path = "/v1/tasks/{id}/retry", tag = "tasks", operation_id = "retry_task", params(("id" = String, Path, description = "The task")), responses(
    (status = 200, body = TaskView),
    (status = 404, description = "There is no such task, or it has been forgotten", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It has not ended, or with success", body = Problem, content_type = "application/problem+json"),
))]
async fn retry(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<TaskView>, Problem> {
    let id = id_of(&id)?;
    let asked = app.engine.retry_tasks(Selection::Ids(vec![id]));
    answer(&app, asked).await?;
    let asked = app.engine.task(id, caller.sees_secrets());
    answer(&app, asked).await.map(Json)
}

/// Cancels many tasks, by id or by filter.
#[utoipa::path(post, path = "/v1/tasks/cancel", tag = "tasks", operation_id = "cancel_tasks", params(Cause), request_body = SelectionBody, responses(
    (status = 200, description = "Those that were changed", body = FinishedView),
    (status = 404, description = "A task of the list is unknown; nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "A task of the list has ended; nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn cancel_many(
    State(app): State<Shared>,
    Query(Cause { reason }): Query<Cause>,
    caller: Caller,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<FinishedView>, Problem> {
    let which: SelectionBody = body(&app, &bytes)?;
    let asked = app
        .engine
        .cancel_tasks(checked(which.check())?, cause(reason, caller)?);
    let tasks = answer(&app, asked).await?;
    Ok(Json(FinishedView { tasks }))
}

/// Gives many tasks that ended without success fresh attempts, by id or by filter.
#[utoipa::path(post, path = "/v1/tasks/retry", tag = "tasks", operation_id = "retry_tasks", request_body = SelectionBody, responses(
    (status = 200, description = "Those that were changed", body = FinishedView),
    (status = 404, description = "A task of the list is unknown; nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "A task of the list has not ended, or with success; nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn retry_many(
    State(app): State<Shared>,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<FinishedView>, Problem> {
    let which: SelectionBody = body(&app, &bytes)?;
    let tasks = answer(&app, app.engine.retry_tasks(checked(which.check())?)).await?;
    Ok(Json(FinishedView { tasks }))
}

/// Hands out no more tasks of a kind, of a class, or at all; survives restarts. What runs goes on.
#[utoipa::path(post, path = "/v1/tasks/pause", tag = "tasks", operation_id = "pause_tasks", request_body = PauseBody, responses((status = 200, body = PausesView)))]
async fn pause(
    State(app): State<Shared>,
    caller: Caller,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<PausesView>, Problem> {
    let what: PauseBody = body(&app, &bytes)?;
    let who = caller.to_string();
    let asked = app.engine.pause_tasks(checked(what.check())?, true, &who);
    answer(&app, asked).await.map(Json)
}

/// Takes a pause of a kind, of a class, or of all back.
#[utoipa::path(post, path = "/v1/tasks/resume", tag = "tasks", operation_id = "resume_tasks", request_body = PauseBody, responses((status = 200, body = PausesView)))]
async fn resume(
    State(app): State<Shared>,
    caller: Caller,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<PausesView>, Problem> {
    let what: PauseBody = body(&app, &bytes)?;
    let who = caller.to_string();
    let asked = app.engine.pause_tasks(checked(what.check())?, false, &who);
    answer(&app, asked).await.map(Json)
}

/// Takes a sign of life of who has a task: extends the lease, and keeps progress, a line of text, and a checkpoint for the next attempt.
#[utoipa::path(post, path = "/v1/tasks/{id}/heartbeat", tag = "tasks", operation_id = "heartbeat_task", params(("id" = String, Path, description = "The task")), request_body = HeartbeatBody, responses(
    (status = 200, description = "The task; `cancel_requested` says whether it shall stop", body = TaskView),
    (status = 404, description = "There is no such task, or it has been forgotten", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The token is stale", body = Problem, content_type = "application/problem+json"),
))]
async fn heartbeat(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<TaskView>, Problem> {
    let id = id_of(&id)?;
    let sign: HeartbeatBody = body(&app, &bytes)?;
    let (token, beat) = checked(sign.check())?;
    let asked = app.engine.heartbeat(id, token, beat, caller.sees_secrets());
    answer(&app, asked).await.map(Json)
}

async fn end(
    app: &Shared,
    caller: Caller,
    end: Result<Completion, Faults>,
) -> Result<Json<TaskView>, Problem> {
    let asked = app.engine.finish_one(checked(end)?, caller.sees_secrets());
    answer(app, asked).await.map(Json)
}

/// Acknowledges a task: it is done.
#[utoipa::path(post, path = "/v1/tasks/{id}/complete", tag = "tasks", operation_id = "complete_task", params(("id" = String, Path, description = "The task")), request_body = CompleteBody, responses(
    (status = 200, body = TaskView),
    (status = 404, description = "There is no such task, or it has been forgotten", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The token is stale", body = Problem, content_type = "application/problem+json"),
))]
async fn complete(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<TaskView>, Problem> {
    let id = id_of(&id)?;
    let done: CompleteBody = body(&app, &bytes)?;
    end(&app, caller, done.check(id)).await
}

/// Says that an attempt failed.
#[utoipa::path(post, path = "/v1/tasks/{id}/fail", tag = "tasks", operation_id = "fail_task", params(("id" = String, Path, description = "The task")), request_body = FailBody, responses(
    (status = 200, description = "The task: it waits for another attempt, or has ended", body = TaskView),
    (status = 404, description = "There is no such task, or it has been forgotten", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The token is stale", body = Problem, content_type = "application/problem+json"),
))]
async fn fail(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<TaskView>, Problem> {
    let id = id_of(&id)?;
    let failed: FailBody = body(&app, &bytes)?;
    end(&app, caller, failed.check(id)).await
}

/// Gives a task back that was not run to its end for a cause that is not its own; costs it no attempt.
#[utoipa::path(post, path = "/v1/tasks/{id}/release", tag = "tasks", operation_id = "release_task", params(("id" = String, Path, description = "The task")), request_body = ReleaseBody, responses(
    (status = 200, body = TaskView),
    (status = 404, description = "There is no such task, or it has been forgotten", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The token is stale", body = Problem, content_type = "application/problem+json"),
))]
async fn release(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<TaskView>, Problem> {
    let id = id_of(&id)?;
    let back: ReleaseBody = body(&app, &bytes)?;
    end(&app, caller, back.check(id)).await
}
