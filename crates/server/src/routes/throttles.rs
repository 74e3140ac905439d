//! Throttles of family 1: what holds use at a threshold.

use super::Shared;
use super::fields;
use super::page::{Page, PageQuery};
use crate::access::Caller;
use crate::http::json::Json;
use crate::http::query::Query;
use crate::problem::Problem;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use flyball_engine::Error;
use flyball_engine::config::ThrottleSpec;
use flyball_engine::view::{ThrottleView, ThrottlerStats};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(throttler_stats))
        .routes(routes!(throttles))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(add_throttle, change_throttle))
        .routes(routes!(remove_throttle))
}

/// Fields of a throttle. One that is left out has its default when a throttle is added, and stays when one is changed; a null gives it
/// its default back.
#[derive(Deserialize)]
#[serde(transparent)]
struct ThrottleFields(Map<String, Value>);

impl PartialSchema for ThrottleFields {
    fn schema() -> RefOr<Schema> {
        fields::schema(&ThrottleSpec::FIELDS)
    }
}

impl ToSchema for ThrottleFields {}

/// Fields of the daemon's own throttles, and where the configuration has them.
const OWN: [(&str, &str); 3] = [
    ("threshold_percent", "/throttling/threshold_percent"),
    ("mode", "/throttling/mode"),
    ("enabled", "/throttling/own"),
];

fn refused(error: Error) -> Problem {
    fields::refused(error, "/throttling/throttles", &OWN)
}

fn find(app: &Shared, fields: &Map<String, Value>) -> Result<ThrottleView, Problem> {
    let name = fields.get("name").and_then(Value::as_str);
    let all = app.engine.throttles();
    let found = all
        .into_iter()
        .find(|throttle| Some(&*throttle.name) == name);
    // Somebody else took it away in this very moment.
    found.ok_or_else(|| Problem::new(StatusCode::CONFLICT, "the throttle is not there any more"))
}

/// Totals of the throttles, and their last events.
#[utoipa::path(get, path = "/v1/cpu/throttler/stats", tag = "cpu", responses((status = 200, body = ThrottlerStats)))]
async fn throttler_stats(State(app): State<Shared>) -> Json<ThrottlerStats> {
    Json(app.engine.throttler_stats())
}

/// Every throttle and what it does.
#[utoipa::path(get, path = "/v1/cpu/throttler/throttles", tag = "cpu", params(PageQuery), responses((status = 200, body = Page<ThrottleView>)))]
async fn throttles(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<ThrottleView>>, Problem> {
    page.cut(&app, app.engine.throttles()).map(Json)
}

/// Adds a throttle.
#[utoipa::path(post, path = "/v1/cpu/throttler/throttle", tag = "cpu", request_body = ThrottleFields, responses(
    (status = 201, description = "Added", body = ThrottleView),
    (status = 404, description = "There is no such class", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "A throttle of this name exists", body = Problem, content_type = "application/problem+json"),
))]
async fn add_throttle(
    State(app): State<Shared>,
    caller: Caller,
    Json(ThrottleFields(fields)): Json<ThrottleFields>,
) -> Result<(StatusCode, Json<ThrottleView>), Problem> {
    app.engine
        .add_throttle(&fields, &caller.to_string())
        .map_err(refused)?;
    Ok((StatusCode::CREATED, Json(find(&app, &fields)?)))
}

/// Changes fields of the throttle with the name in the body. Of `machine` its threshold, and of it and `quota` together `mode` and `enabled`.
#[utoipa::path(put, path = "/v1/cpu/throttler/throttle", tag = "cpu", request_body = ThrottleFields, responses(
    (status = 200, body = ThrottleView),
    (status = 404, description = "There is no such throttle", body = Problem, content_type = "application/problem+json"),
))]
async fn change_throttle(
    State(app): State<Shared>,
    caller: Caller,
    Json(ThrottleFields(fields)): Json<ThrottleFields>,
) -> Result<Json<ThrottleView>, Problem> {
    app.engine
        .change_throttle(&fields, &caller.to_string())
        .map_err(refused)?;
    Ok(Json(find(&app, &fields)?))
}

/// Takes a throttle away; one of the daemon's own can be switched off only.
#[utoipa::path(delete, path = "/v1/cpu/throttler/throttle/{name}", tag = "cpu", params(("name" = String, Path, description = "The throttle")), responses(
    (status = 204, description = "Done"),
    (status = 404, description = "There is no such throttle", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It is the daemon's own", body = Problem, content_type = "application/problem+json"),
))]
async fn remove_throttle(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    app.engine
        .remove_throttle(&name, &caller.to_string())
        .map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}
