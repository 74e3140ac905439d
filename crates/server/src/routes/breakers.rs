//! Breakers of the dependencies that tasks call: look, force, change, reset.

use super::Shared;
use super::page::{Page, PageQuery};
use crate::access::Caller;
use crate::http::json::Json;
use crate::http::query::Query;
use crate::problem::{Problem, echo};
use axum::extract::{Path, State};
use flyball_engine::Error;
use flyball_engine::view::tasks::{BreakerBody, BreakerView};
use flyball_tasks::run::DependencyStatus;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(get))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(change))
        .routes(routes!(reset))
}

fn find(app: &Shared, name: &str) -> Result<DependencyStatus, Problem> {
    let mut all = app.engine.breakers()?.into_iter();
    all.find(|status| &*status.key == name)
        .ok_or_else(|| Problem::not_found(format!("no dependency {:?} is known", echo(name))))
}

/// The breakers of all dependencies that tasks have called.
#[utoipa::path(get, path = "/v1/limits/breakers", tag = "limits", operation_id = "list_breakers", params(PageQuery), responses((status = 200, body = Page<BreakerView>)))]
async fn list(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<BreakerView>>, Problem> {
    let all = app.engine.breakers()?;
    page.cut(&app, all.iter().map(BreakerView::from).collect())
        .map(Json)
}

/// One breaker.
#[utoipa::path(get, path = "/v1/limits/breakers/{name}", tag = "limits", operation_id = "get_breaker", params(("name" = String, Path, description = "The dependency")), responses(
    (status = 200, body = BreakerView),
    (status = 404, description = "Nothing was called under that name yet", body = Problem, content_type = "application/problem+json"),
))]
async fn get(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<BreakerView>, Problem> {
    Ok(Json((&find(&app, &name)?).into()))
}

/// Decides in place of a breaker, or changes its settings until the next start.
#[utoipa::path(put, path = "/v1/limits/breakers/{name}", tag = "limits", operation_id = "change_breaker", params(("name" = String, Path, description = "The dependency")), request_body = BreakerBody, responses(
    (status = 200, body = BreakerView),
    (status = 404, description = "Nothing was called under that name yet", body = Problem, content_type = "application/problem+json"),
))]
async fn change(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    Json(body): Json<BreakerBody>,
) -> Result<Json<BreakerView>, Problem> {
    let status = find(&app, &name)?;
    let who = caller.to_string();
    if let Some(config) = body.config {
        let config = config
            .map(|config| config.over(&status.config))
            .transpose()
            .map_err(Error::Body)?;
        app.engine.configure_breaker(&name, config, &who)?;
    }
    if let Some(force) = body.force {
        app.engine.force_breaker(&name, force.into(), &who)?;
    }
    Ok(Json((&find(&app, &name)?).into()))
}

/// Closes a breaker and forgets what it counted.
#[utoipa::path(post, path = "/v1/limits/breakers/{name}/reset", tag = "limits", operation_id = "reset_breaker", params(("name" = String, Path, description = "The dependency")), responses(
    (status = 200, body = BreakerView),
    (status = 404, description = "Nothing was called under that name yet", body = Problem, content_type = "application/problem+json"),
))]
async fn reset(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<BreakerView>, Problem> {
    app.engine.reset_breaker(&name, &caller.to_string())?;
    Ok(Json((&find(&app, &name)?).into()))
}
