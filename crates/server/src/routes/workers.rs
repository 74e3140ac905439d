//! Workers: look, size, restart, drain.

use super::Shared;
use super::page::{Page, PageQuery};
use crate::access::Caller;
use crate::http::json::Json;
use crate::http::query::Query;
use crate::problem::Problem;
use axum::extract::{Path, State};
use flyball_core::class::Group;
use flyball_engine::view::{DecisionView, PoolSizing, WorkerEventView, WorkerView};
use flyball_engine::{ScaleRequest, WorkerChange};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(events))
        .routes(routes!(sizing))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(change))
        .routes(routes!(scale))
        .routes(routes!(restart))
        .routes(routes!(drain))
}

/// Every worker.
#[utoipa::path(get, path = "/v1/workers", tag = "workers", operation_id = "list_workers", params(PageQuery), responses((status = 200, body = Page<WorkerView>)))]
async fn list(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<WorkerView>>, Problem> {
    page.cut(&app, app.engine.workers()).map(Json)
}

/// How the number of workers is found, and where that stands.
#[utoipa::path(get, path = "/v1/workers/sizing", tag = "workers", operation_id = "get_pool_sizing", responses((status = 200, body = PoolSizing)))]
async fn sizing(State(app): State<Shared>) -> Json<PoolSizing> {
    Json(app.engine.pool_sizing())
}

/// One worker.
#[utoipa::path(get, path = "/v1/workers/{id}", tag = "workers", operation_id = "get_worker", params(("id" = String, Path, description = "The worker")), responses(
    (status = 200, body = WorkerView),
    (status = 404, description = "There is no such worker", body = Problem, content_type = "application/problem+json"),
))]
async fn get(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<WorkerView>, Problem> {
    Ok(Json(app.engine.worker(&id)?))
}

/// What may be changed of a worker; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeWorker {
    /// Its weight for the strategies that weigh; one of 0 gets nothing while others can take it.
    weight: Option<f64>,
    /// Keys that belong to it under the strategy `affinity`.
    affinity_keys: Option<Vec<u64>>,
    /// CPUs it may run on; empty for all.
    affinity_cores: Option<Vec<u32>>,
}

/// Changes a worker: all of it, or nothing.
#[utoipa::path(put, path = "/v1/workers/{id}", tag = "workers", operation_id = "change_worker", params(("id" = String, Path, description = "The worker")), request_body = ChangeWorker, responses(
    (status = 200, body = WorkerView),
    (status = 404, description = "There is no such worker", body = Problem, content_type = "application/problem+json"),
))]
async fn change(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
    Json(change): Json<ChangeWorker>,
) -> Result<Json<WorkerView>, Problem> {
    let change = WorkerChange {
        weight: change.weight,
        affinity_keys: change.affinity_keys,
        affinity_cores: change.affinity_cores,
    };
    Ok(Json(app.engine.change_worker(
        &id,
        &change,
        &caller.to_string(),
    )?))
}

/// A group of workers.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum GroupName {
    /// Those that run the classes whose latency matters.
    Front,
    /// The others.
    #[default]
    Back,
}

/// How many workers; at least one of `target`, `min` and `max`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Scale {
    /// Which group: `back` unless set.
    #[serde(default)]
    group: GroupName,
    /// So many, whatever the load, until the knob is unpinned.
    target: Option<u32>,
    /// At least so many: `worker_pool.min_workers`.
    min: Option<u32>,
    /// At most so many: `worker_pool.max_workers`.
    max: Option<u32>,
}

/// What a scaling did.
#[derive(Serialize, ToSchema)]
struct Scaled {
    /// What was decided; empty where only bounds were set.
    decisions: Vec<DecisionView>,
}

/// Sizes a group of workers.
#[utoipa::path(post, path = "/v1/workers/scale", tag = "workers", request_body = Scale, responses(
    (status = 200, body = Scaled),
    (status = 409, description = "The decision was refused", body = Problem, content_type = "application/problem+json"),
))]
async fn scale(
    State(app): State<Shared>,
    caller: Caller,
    Json(scale): Json<Scale>,
) -> Result<Json<Scaled>, Problem> {
    let group = match scale.group {
        GroupName::Front => Group::Front,
        GroupName::Back => Group::Back,
    };
    let request = ScaleRequest {
        target: scale.target,
        min: scale.min,
        max: scale.max,
    };
    let decisions = app
        .engine
        .scale(group, request, &caller.to_string())
        .map_err(|error| {
            Problem::from(error).moved(|pointer| match pointer {
                "/worker_pool/min_workers" => "/min".to_owned(),
                "/worker_pool/max_workers" => "/max".to_owned(),
                other => other.to_owned(),
            })
        })?;
    Ok(Json(Scaled { decisions }))
}

/// Lets a worker finish its task, ends its thread and starts another in its place.
#[utoipa::path(post, path = "/v1/workers/{id}/restart", tag = "workers", operation_id = "restart_worker", params(("id" = String, Path, description = "The worker")), responses(
    (status = 200, body = WorkerView),
    (status = 404, description = "There is no such worker", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It cannot be restarted now", body = Problem, content_type = "application/problem+json"),
))]
async fn restart(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<WorkerView>, Problem> {
    app.engine.restart_worker(&id, &caller.to_string())?;
    Ok(Json(app.engine.worker(&id)?))
}

/// Lets a worker finish its task and ends its thread; its group keeps one worker less until the knob is unpinned.
#[utoipa::path(post, path = "/v1/workers/{id}/drain", tag = "workers", operation_id = "drain_worker", params(("id" = String, Path, description = "The worker")), responses(
    (status = 200, body = DecisionView),
    (status = 404, description = "There is no such worker", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Its group is as small as it may be", body = Problem, content_type = "application/problem+json"),
))]
async fn drain(
    State(app): State<Shared>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<DecisionView>, Problem> {
    Ok(Json(app.engine.drain_worker(&id, &caller.to_string())?))
}

/// What happened to workers and pool, oldest first.
#[utoipa::path(get, path = "/v1/workers/events", tag = "workers", operation_id = "worker_events", params(PageQuery), responses((status = 200, body = Page<WorkerEventView>)))]
async fn events(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<WorkerEventView>>, Problem> {
    page.after(
        &app,
        |after, limit| app.engine.worker_events(after, limit),
        |event| event.number,
    )
    .map(Json)
}
