//! Family 1: the CPU manager.

use super::Shared;
use super::page::{Page, PageQuery};
use crate::access::Caller;
use crate::http::json::Json;
use crate::http::query::Query;
use crate::problem::Problem;
use axum::extract::State;
use axum::http::StatusCode;
use flyball_engine::view::{
    BalancerStats, CpuHealth, CpuProfile, CpuStatus, QueueView, SchedulerStats, UsageStats,
    WorkerView,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// When a client that came before the first interval tries again, s.
const FIRST_SAMPLE_S: u32 = 1;

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(profile))
        .routes(routes!(history))
        .routes(routes!(usage))
        .routes(routes!(balancer))
        .routes(routes!(balancer_workers))
        .routes(routes!(scheduler))
        .routes(routes!(queues))
        .routes(routes!(status))
        .routes(routes!(health))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(set_strategy))
        .routes(routes!(rebalance))
}

/// The CPUs over the last sampling interval.
#[utoipa::path(get, path = "/v1/cpu/profile", tag = "cpu", responses(
    (status = 200, body = CpuProfile),
    (status = 409, description = "Monitoring is switched off", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The first interval has not passed", body = Problem, content_type = "application/problem+json"),
))]
async fn profile(State(app): State<Shared>) -> Result<Json<CpuProfile>, Problem> {
    match app.engine.cpu_profile()? {
        Some(profile) => Ok(Json(profile)),
        None => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the first sampling interval has not passed",
        )
        .retry_after(FIRST_SAMPLE_S)),
    }
}

/// Profiles of the past, newest last; the first page is the newest, the next one what came before.
#[utoipa::path(get, path = "/v1/cpu/profile/history", tag = "cpu", params(PageQuery), responses(
    (status = 200, body = Page<CpuProfile>),
    (status = 409, description = "Monitoring is switched off", body = Problem, content_type = "application/problem+json"),
))]
async fn history(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<CpuProfile>>, Problem> {
    let limit = page.limit(&app)?;
    let before = page.number()?.unwrap_or(u64::MAX);
    // The first page needs the newest only; others begin somewhere in what is kept, which is bounded.
    let kept = match page.cursor {
        None => limit + 1,
        Some(_) => usize::MAX,
    };
    let mut items = app.engine.cpu_history(kept)?;
    items.retain(|profile| profile.timestamp.unix_nanos() < before);
    let surplus = items.len().saturating_sub(limit);
    items.drain(..surplus);
    let oldest = items.first().map(|profile| profile.timestamp.unix_nanos());
    Ok(Json(Page {
        next_cursor: oldest
            .filter(|_| surplus > 0)
            .map(|oldest| oldest.to_string()),
        items,
    }))
}

/// What CPU use was over the history: quantiles, spikes and drops, CPUs that are bottlenecks.
#[utoipa::path(get, path = "/v1/cpu/usage/stats", tag = "cpu", responses(
    (status = 200, body = UsageStats),
    (status = 409, description = "Monitoring is switched off", body = Problem, content_type = "application/problem+json"),
))]
async fn usage(State(app): State<Shared>) -> Result<Json<UsageStats>, Problem> {
    Ok(Json(app.engine.usage_stats()?))
}

/// How work is spread over the workers.
#[utoipa::path(get, path = "/v1/cpu/load-balancer/stats", tag = "cpu", responses((status = 200, body = BalancerStats)))]
async fn balancer(State(app): State<Shared>) -> Json<BalancerStats> {
    Json(app.engine.balancer_stats())
}

/// Every worker.
#[utoipa::path(get, path = "/v1/cpu/load-balancer/workers", tag = "cpu", params(PageQuery), responses((status = 200, body = Page<WorkerView>)))]
async fn balancer_workers(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<WorkerView>>, Problem> {
    page.cut(&app, app.engine.workers()).map(Json)
}

/// A strategy to choose.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChooseStrategy {
    /// `pull`, or one that places at submission: `round_robin`, `least_loaded`, `affinity`, …
    #[schema(example = "pull")]
    strategy: String,
}

/// The strategy in force.
#[derive(Serialize, ToSchema)]
struct Strategy {
    /// In force now.
    strategy: String,
    /// In force before.
    previous: String,
}

/// Chooses which worker a task is meant for. Takes effect at once; nothing queued is lost.
#[utoipa::path(post, path = "/v1/cpu/load-balancer/strategy", tag = "cpu", request_body = ChooseStrategy, responses((status = 200, body = Strategy)))]
async fn set_strategy(
    State(app): State<Shared>,
    caller: Caller,
    Json(choice): Json<ChooseStrategy>,
) -> Result<Json<Strategy>, Problem> {
    let previous = app.engine.config().load_balancer.strategy.to_string();
    let change = json!({ "load_balancer": { "strategy": choice.strategy } });
    app.engine
        .configure(&change, &caller.to_string(), false)
        .map_err(|error| Problem::from(error).below("/load_balancer"))?;
    Ok(Json(Strategy {
        strategy: app.engine.config().load_balancer.strategy.to_string(),
        previous,
    }))
}

/// What a rebalance did.
#[derive(Serialize, ToSchema)]
struct Rebalanced {
    /// Tasks that were moved.
    moved: usize,
}

/// Moves queued tasks so that the workers' queues differ by at most one where affinity allows.
#[utoipa::path(post, path = "/v1/cpu/load-balancer/rebalance", tag = "cpu", responses(
    (status = 200, body = Rebalanced),
    (status = 409, description = "Load balancing is switched off", body = Problem, content_type = "application/problem+json"),
))]
async fn rebalance(State(app): State<Shared>, caller: Caller) -> Result<Json<Rebalanced>, Problem> {
    let moved = app.engine.rebalance(&caller.to_string())?;
    Ok(Json(Rebalanced { moved }))
}

/// How classes share the workers, and what each received.
#[utoipa::path(get, path = "/v1/cpu/scheduler/stats", tag = "cpu", responses((status = 200, body = SchedulerStats)))]
async fn scheduler(State(app): State<Shared>) -> Json<SchedulerStats> {
    Json(app.engine.scheduler_stats())
}

/// Every class's queue.
#[utoipa::path(get, path = "/v1/cpu/scheduler/queues", tag = "cpu", params(PageQuery), responses((status = 200, body = Page<QueueView>)))]
async fn queues(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<QueueView>>, Problem> {
    page.cut(&app, app.engine.scheduler_queues()).map(Json)
}

/// A flag and a line for each part.
#[utoipa::path(get, path = "/v1/cpu/status", tag = "cpu", responses((status = 200, body = CpuStatus)))]
async fn status(State(app): State<Shared>) -> Json<CpuStatus> {
    Json(app.engine.cpu_status())
}

/// How well the CPUs and workers are, and what speaks against it.
#[utoipa::path(get, path = "/v1/cpu/health", tag = "cpu", responses((status = 200, body = CpuHealth)))]
async fn health(State(app): State<Shared>) -> Json<CpuHealth> {
    Json(app.engine.health())
}
