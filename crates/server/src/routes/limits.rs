//! Limits: the bounds that are in force, and adaptive limits: look, change, reset. Breakers have a module of their own.

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
use flyball_engine::config::LimitSpec;
use flyball_engine::view::{GateView, LimitView};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(limits))
        .routes(routes!(adaptive))
        .routes(routes!(get))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(change, remove))
        .routes(routes!(reset))
}

/// Fields of an adaptive limit. One that is left out stays; a null takes back what was said of it.
#[derive(Deserialize)]
#[serde(transparent)]
struct LimitFields(Map<String, Value>);

impl PartialSchema for LimitFields {
    fn schema() -> RefOr<Schema> {
        fields::schema(&LimitSpec::FIELDS)
    }
}

impl ToSchema for LimitFields {}

fn refused(error: Error) -> Problem {
    fields::refused(error, "/limits/adaptive", &[])
}

/// The bounds that are in force, adaptive limits and breakers among them, and how near each is; also adaptive limits that bound nothing, with the reason.
#[utoipa::path(get, path = "/v1/limits", tag = "limits", operation_id = "list_limits", params(PageQuery), responses((status = 200, body = Page<LimitView>)))]
async fn limits(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<LimitView>>, Problem> {
    page.cut(&app, app.engine.limits()).map(Json)
}

/// Every adaptive limit and what it does.
#[utoipa::path(get, path = "/v1/limits/adaptive", tag = "limits", operation_id = "list_adaptive_limits", params(PageQuery), responses((status = 200, body = Page<GateView>)))]
async fn adaptive(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<GateView>>, Problem> {
    page.cut(&app, app.engine.adaptive_limits()).map(Json)
}

/// An adaptive limit and what it does.
#[utoipa::path(get, path = "/v1/limits/{name}", tag = "limits", operation_id = "get_limit", params(("name" = String, Path, description = "The adaptive limit")), responses(
    (status = 200, body = GateView),
    (status = 404, description = "There is no such adaptive limit", body = Problem, content_type = "application/problem+json"),
))]
async fn get(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<GateView>, Problem> {
    Ok(Json(app.engine.adaptive_limit(&name)?))
}

/// Changes fields of an adaptive limit, or adds one where `scope` says of which class or dependency.
#[utoipa::path(put, path = "/v1/limits/{name}", tag = "limits", operation_id = "change_limit", params(("name" = String, Path, description = "The adaptive limit")), request_body = LimitFields, responses(
    (status = 200, body = GateView),
    (status = 404, description = "There is no such adaptive limit, or no such class", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It does not go together with how things are", body = Problem, content_type = "application/problem+json"),
))]
async fn change(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    Json(LimitFields(fields)): Json<LimitFields>,
) -> Result<Json<GateView>, Problem> {
    app.engine
        .change_limit(&name, &fields, &caller.to_string())
        .map_err(refused)?;
    Ok(Json(app.engine.adaptive_limit(&name)?))
}

/// Takes back what the configuration says of an adaptive limit; one of a class or a dependency is gone then.
#[utoipa::path(delete, path = "/v1/limits/{name}", tag = "limits", operation_id = "remove_limit", params(("name" = String, Path, description = "The adaptive limit")), responses(
    (status = 204, description = "Done"),
    (status = 404, description = "There is no such adaptive limit", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It is as the program made it", body = Problem, content_type = "application/problem+json"),
))]
async fn remove(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    app.engine
        .remove_limit(&name, &caller.to_string())
        .map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has an adaptive limit forget what it learnt and begin anew; counts go on.
#[utoipa::path(post, path = "/v1/limits/{name}/reset", tag = "limits", operation_id = "reset_limit", params(("name" = String, Path, description = "The adaptive limit")), responses(
    (status = 200, body = GateView),
    (status = 404, description = "There is no such adaptive limit", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It is fixed, and has learnt nothing", body = Problem, content_type = "application/problem+json"),
))]
async fn reset(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<GateView>, Problem> {
    app.engine.reset_limit(&name, &caller.to_string())?;
    Ok(Json(app.engine.adaptive_limit(&name)?))
}
