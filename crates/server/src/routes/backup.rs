//! A copy of the queue of tasks, taken while it is in use: into a file, or as the answer.
//!
//! Copying blocks, so it has a thread of the runtime's own for it; one copy is taken at a time. A copy that is sent is first written whole into the
//! state folder, and its file has no name any more when sending begins: however that ends, nothing is left behind.

use super::Shared;
use super::file::FileBody;
use crate::access::Caller;
use crate::http::json::Json;
use crate::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flyball_engine::Error;
use flyball_engine::view::tasks::OsText;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// When who meets another copy tries again, s.
const RETRY_AFTER_S: u32 = 10;
/// The file of a copy that is sent, in the state folder.
const FILE: &str = "backup.part";

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(backup))
}

/// Where the copy goes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BackupBody {
    /// A new file, by absolute path; over the socket only. Left out: the copy is the answer.
    #[serde(default)]
    path: Option<OsText>,
}

/// A copy that was written.
#[derive(Serialize, ToSchema)]
struct BackupView {
    /// The file.
    path: OsText,
    /// Its length.
    bytes: u64,
}

/// Copies the queue of tasks as it is now, while it is in use: into a new file of the daemon's machine, or as the answer.
#[utoipa::path(post, path = "/v1/backup", tag = "tasks", operation_id = "backup", request_body = BackupBody, responses(
    (status = 200, description = "Written, or the copy itself", content((BackupView = "application/json"), (Vec<u8> = "application/octet-stream"))),
    (status = 403, description = "A path was named over TCP, or a page of another site", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "There is such a file, or the queue is switched off", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Another copy is being taken", body = Problem, content_type = "application/problem+json"),
    (status = 501, description = "This queue cannot be copied from here", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "The disk is full", body = Problem, content_type = "application/problem+json"),
))]
async fn backup(
    State(app): State<Shared>,
    caller: Caller,
    Json(body): Json<BackupBody>,
) -> Result<Response, Problem> {
    let permit = app.backups.clone().try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "another copy is being taken")
            .retry_after(RETRY_AFTER_S)
    })?;
    match body.path {
        Some(path) => written(&app, caller, path, permit).await,
        None => sent(&app, caller, permit).await,
    }
}

async fn written(
    app: &Shared,
    caller: Caller,
    path: OsText,
    permit: OwnedSemaphorePermit,
) -> Result<Response, Problem> {
    if !caller.is_local() {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "a file is named over the socket only; without `path` the copy is the answer",
        )
        .at("/path", "is not for callers over TCP"));
    }
    let to = PathBuf::from(&path.0);
    if !to.is_absolute() || path.0.as_encoded_bytes().contains(&0) {
        return Err(
            Problem::invalid("this is no file to write").at("/path", "expected an absolute path")
        );
    }
    if to.symlink_metadata().is_ok() {
        return Err(Problem::conflict("there is such a file"));
    }
    let unwritable =
        |why: String| Problem::invalid("the copy cannot be written there").at("/path", why);
    if path.0.as_encoded_bytes().ends_with(b"/") || !to.parent().is_some_and(Path::is_dir) {
        return Err(unwritable(
            "expected a new file in a folder that is there".to_owned(),
        ));
    }
    let (app, who) = (app.clone(), caller.to_string());
    let copied = spawn_blocking(move || {
        let _one = permit;
        app.engine.backup(&to, &who)
    });
    match ended(copied).await? {
        Ok(bytes) => Ok(Json(BackupView { path, bytes }).into_response()),
        // Who named the path is the local user, and may know what the system said of it.
        Err(Error::Tasks(flyball_tasks::Error::Open { why, .. })) => Err(unwritable(why)),
        Err(error) => Err(error.into()),
    }
}

async fn sent(
    app: &Shared,
    caller: Caller,
    permit: OwnedSemaphorePermit,
) -> Result<Response, Problem> {
    let (path, who) = (app.state_dir.join(FILE), caller.to_string());
    let app = app.clone();
    let copied = spawn_blocking(move || {
        // What a daemon that died in the middle has left.
        let _ = fs::remove_file(&path);
        let bytes = app.engine.backup(&path, &who);
        let file = bytes.and_then(|bytes| Ok((open(&path)?, bytes)));
        let _ = fs::remove_file(&path);
        file
    });
    let (mut file, bytes) = ended(copied).await??;
    let body = FileBody::new(move |into: &mut [u8]| file.read(into), bytes, Some(permit));
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], Body::new(body)).into_response())
}

fn open(path: &std::path::Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Os {
        what: "open the copy",
        source,
    })
}

async fn ended<T>(copied: JoinHandle<Result<T, Error>>) -> Result<Result<T, Error>, Problem> {
    copied.await.map_err(|error| {
        tracing::error!(%error, "copying the queue of tasks broke off");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "copying broke off; the daemon's log says more",
        )
    })
}
