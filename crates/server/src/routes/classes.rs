//! Classes: look, create, change, delete, pause, resume.

use super::Shared;
use super::config::ClassFields;
use super::page::{Page, PageQuery};
use super::tasks;
use crate::access::Caller;
use crate::http::json::Json;
use crate::http::query::Query;
use crate::problem::Problem;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flyball_engine::Error;
use flyball_engine::view::ClassView;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(get))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(change, delete))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Says of a refused field where it is in the body rather than in the configuration: `/classes/5/shares` is `/shares`.
fn refused(error: Error) -> Problem {
    Problem::from(error).moved(|pointer| {
        let mut parts = pointer.splitn(4, '/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(""), Some("classes"), Some(_), rest) => {
                rest.map_or(String::new(), |rest| format!("/{rest}"))
            }
            _ => pointer.to_owned(),
        }
    })
}

/// Every class, with its settings and what it does now.
#[utoipa::path(get, path = "/v1/classes", tag = "classes", operation_id = "list_classes", params(PageQuery), responses((status = 200, body = Page<ClassView>)))]
async fn list(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<ClassView>>, Problem> {
    page.cut(&app, app.engine.classes()).map(Json)
}

/// One class.
#[utoipa::path(get, path = "/v1/classes/{name}", tag = "classes", operation_id = "get_class", params(("name" = String, Path, description = "The class")), responses(
    (status = 200, body = ClassView),
    (status = 404, description = "There is no such class", body = Problem, content_type = "application/problem+json"),
))]
async fn get(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<ClassView>, Problem> {
    Ok(Json(app.engine.class_view(&name)?))
}

/// Creates a class; what the body leaves out is as in `normal`.
#[utoipa::path(post, path = "/v1/classes", tag = "classes", operation_id = "create_class", request_body = ClassFields, responses(
    (status = 201, description = "Created; Location names it", body = ClassView),
    (status = 409, description = "A class of this name exists", body = Problem, content_type = "application/problem+json"),
))]
async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Json(ClassFields(fields)): Json<ClassFields>,
) -> Result<Response, Problem> {
    app.engine
        .create_class(&fields, &caller.to_string())
        .map_err(refused)?;
    let name = fields
        .get("name")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    let view = app.engine.class_view(name)?;
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    // Names of classes are plain words, so they need no escaping.
    if let Ok(location) = HeaderValue::try_from(format!("/v1/classes/{name}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Changes fields of a class; what the body leaves out stays.
#[utoipa::path(put, path = "/v1/classes/{name}", tag = "classes", operation_id = "change_class", params(("name" = String, Path, description = "The class")), request_body = ClassFields, responses(
    (status = 200, body = ClassView),
    (status = 404, description = "There is no such class", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It does not go together with how things are", body = Problem, content_type = "application/problem+json"),
))]
async fn change(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    Json(ClassFields(fields)): Json<ClassFields>,
) -> Result<Json<ClassView>, Problem> {
    app.engine
        .change_class(&name, &fields, &caller.to_string())
        .map_err(refused)?;
    Ok(Json(app.engine.class_view(&name)?))
}

/// Removes a class, or takes back what was changed of a built-in one.
#[utoipa::path(delete, path = "/v1/classes/{name}", tag = "classes", operation_id = "delete_class", params(("name" = String, Path, description = "The class")), responses(
    (status = 204, description = "Done"),
    (status = 404, description = "There is no such class", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It has tasks, or is built in", body = Problem, content_type = "application/problem+json"),
))]
async fn delete(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    app.engine
        .delete_class(&name, &caller.to_string())
        .map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Holds a class back, closures and durable tasks alike: what is queued stays queued, nothing of it starts.
#[utoipa::path(post, path = "/v1/classes/{name}/pause", tag = "classes", operation_id = "pause_class", params(("name" = String, Path, description = "The class")), responses(
    (status = 200, body = ClassView),
    (status = 404, description = "There is no such class", body = Problem, content_type = "application/problem+json"),
))]
async fn pause(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<ClassView>, Problem> {
    let who = caller.to_string();
    app.engine.pause_class(&name, &who)?;
    tasks::answer(&app, app.engine.pause_queued_class(&name, true, &who)).await?;
    Ok(Json(app.engine.class_view(&name)?))
}

/// Lets a class run again.
#[utoipa::path(post, path = "/v1/classes/{name}/resume", tag = "classes", operation_id = "resume_class", params(("name" = String, Path, description = "The class")), responses(
    (status = 200, body = ClassView),
    (status = 404, description = "There is no such class", body = Problem, content_type = "application/problem+json"),
))]
async fn resume(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<ClassView>, Problem> {
    let who = caller.to_string();
    app.engine.resume_class(&name, &who)?;
    tasks::answer(&app, app.engine.pause_queued_class(&name, false, &who)).await?;
    Ok(Json(app.engine.class_view(&name)?))
}
