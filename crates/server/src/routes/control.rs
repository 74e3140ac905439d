//! Decisions, knobs, and the whole at a glance.

use super::Shared;
use super::page::{Page, PageQuery};
use crate::access::Caller;
use crate::http::json::Json;
use crate::http::query::Query;
use crate::problem::Problem;
use axum::extract::{Path, State};
use flyball_engine::DecisionQuery;
use flyball_engine::view::{DecisionView, HealthState, KnobView, PartHealth, StatusView, Time};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(decisions))
        .routes(routes!(knobs))
        .routes(routes!(status))
        .routes(routes!(health))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(pin))
        .routes(routes!(unpin))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only those of this part: `pool`, `people`, `safety`, …
    part: Option<String>,
    /// Only those not made before; RFC 3339.
    #[param(example = "2026-11-21T16:21:01.250Z")]
    since: Option<String>,
    /// Most items to answer, 1 to 1,000; 100 unless set.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What was decided, oldest first: on what evidence, and what came of it.
#[utoipa::path(get, path = "/v1/decisions", tag = "decisions", params(Which), responses((status = 200, body = Page<DecisionView>)))]
async fn decisions(
    State(app): State<Shared>,
    Query(which): Query<Which>,
) -> Result<Json<Page<DecisionView>>, Problem> {
    let since = which.since.map(|text| {
        Time::parse(&text).ok_or_else(|| {
            Problem::invalid("this is no time")
                .at("?since", "expected RFC 3339, such as 2026-11-21T16:21:01Z")
        })
    });
    let mut query = DecisionQuery {
        part: which.part,
        after: None,
        since: since.transpose()?,
    };
    let page = PageQuery {
        limit: which.limit,
        cursor: which.cursor,
    };
    page.after(
        &app,
        |after, limit| {
            query.after = after;
            app.engine.decisions(&query, limit)
        },
        |decision| decision.number,
    )
    .map(Json)
}

/// The numbers that controllers turn.
#[utoipa::path(get, path = "/v1/knobs", tag = "decisions", params(PageQuery), responses((status = 200, body = Page<KnobView>)))]
async fn knobs(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<KnobView>>, Problem> {
    page.cut(&app, app.engine.knobs()).map(Json)
}

/// A value to hold a knob at.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Pin {
    /// The value, within the knob's bounds.
    value: f64,
}

/// Holds a knob at a value, whatever the controllers want, until it is unpinned.
#[utoipa::path(post, path = "/v1/knobs/{name}/pin", tag = "decisions", params(("name" = String, Path, description = "The knob")), request_body = Pin, responses(
    (status = 200, body = DecisionView),
    (status = 404, description = "There is no such knob", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The decision was refused", body = Problem, content_type = "application/problem+json"),
))]
async fn pin(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    Json(pin): Json<Pin>,
) -> Result<Json<DecisionView>, Problem> {
    Ok(Json(app.engine.pin(
        &name,
        pin.value,
        &caller.to_string(),
    )?))
}

/// Gives a knob back to its controllers.
#[utoipa::path(post, path = "/v1/knobs/{name}/unpin", tag = "decisions", params(("name" = String, Path, description = "The knob")), responses(
    (status = 200, body = DecisionView),
    (status = 404, description = "There is no such knob", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Nobody had pinned it", body = Problem, content_type = "application/problem+json"),
))]
async fn unpin(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<DecisionView>, Problem> {
    Ok(Json(app.engine.unpin(&name, &caller.to_string())?))
}

/// The whole at a glance.
#[utoipa::path(get, path = "/v1/status", tag = "status", operation_id = "daemon_status", responses((status = 200, body = StatusView)))]
async fn status(State(app): State<Shared>) -> Json<StatusView> {
    Json(app.engine.status())
}

/// How well everything is.
#[derive(Serialize, ToSchema)]
struct Health {
    /// The verdict.
    status: HealthState,
    /// 0 to 1.
    score: f64,
    /// Whether the daemon takes work.
    ready: bool,
    /// What speaks against full health.
    reasons: Vec<String>,
    /// Every part.
    parts: Vec<PartHealth>,
}

/// How well everything is, part by part.
#[utoipa::path(get, path = "/v1/health", tag = "health", operation_id = "daemon_health", responses((status = 200, body = Health)))]
async fn health(State(app): State<Shared>) -> Json<Health> {
    let whole = app.engine.health();
    Json(Health {
        status: whole.status,
        score: whole.score,
        ready: app.is_ready(),
        reasons: whole.reasons,
        parts: app.engine.part_health(),
    })
}
