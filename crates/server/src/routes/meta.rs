//! Calls about the server itself: whether it lives, whether it is ready, what it offers.

use super::Shared;
use crate::problem::Problem;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Calls that orchestrators make; they tell nothing but that.
pub(super) fn open() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(livez))
        .routes(routes!(readyz))
}

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(openapi))
}

/// One word.
#[derive(Serialize, ToSchema)]
pub(crate) struct Word {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether the daemon lives: it answers.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, body = Word)))]
async fn livez() -> impl IntoResponse {
    crate::http::json::Json(Word { status: "ok" })
}

/// Whether the daemon takes work: 503 while it drains.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = Word),
    (status = 503, description = "Draining: the daemon will stop soon", body = Problem, content_type = "application/problem+json"),
))]
async fn readyz(State(app): State<Shared>) -> Result<impl IntoResponse, Problem> {
    if app.is_ready() {
        Ok(crate::http::json::Json(Word { status: "ok" }))
    } else {
        Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon is draining and will stop soon",
        ))
    }
}

/// This description of the API (OpenAPI 3.1).
#[utoipa::path(get, path = "/openapi.json", tag = "meta", responses((status = 200, body = serde_json::Value)))]
async fn openapi(State(app): State<Shared>) -> impl IntoResponse {
    let document = app.description.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], document)
}
