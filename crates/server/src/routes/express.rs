//! The calls that may go the short way, without router: the same bodies, checks and answers as in `tasks`.

use super::Shared;
use super::tasks;
use crate::access::Caller;
use crate::problem::Problem;
use axum::http::StatusCode;
use std::future::Future;
use std::pin::Pin;

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Submit,
    Lease,
    Finish,
}

impl Call {
    /// The call at a path; queries go the ordinary way.
    pub(crate) fn at(path: &str) -> Option<Self> {
        match path {
            "/v1/tasks" => Some(Call::Submit),
            "/v1/tasks/lease" => Some(Call::Lease),
            "/v1/tasks/finish" => Some(Call::Finish),
            _ => None,
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Call::Submit => "/v1/tasks",
            Call::Lease => "/v1/tasks/lease",
            Call::Finish => "/v1/tasks/finish",
        }
    }

    /// The status of its success.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Call::Submit => StatusCode::CREATED,
            Call::Lease | Call::Finish => StatusCode::OK,
        }
    }
}

/// The queue was asked; the JSON of its answer is to come.
pub(crate) type Asked = Pin<Box<dyn Future<Output = Result<Vec<u8>, Problem>> + Send>>;

/// Reads and checks a body, and makes the future that asks the queue. None if anything is wrong with the body: the ordinary way says what.
pub(crate) fn ask(
    app: &Shared,
    call: Call,
    caller: Caller,
    key: Option<&[u8]>,
    body: &[u8],
) -> Option<Asked> {
    let app = app.clone();
    match call {
        Call::Submit => {
            let key = match key {
                Some(key) => Some(tasks::idempotency_of(std::str::from_utf8(key).ok()?, body)?),
                None => None,
            };
            let (submission, batch) = tasks::submission(&app, caller, body).ok()?;
            Some(Box::pin(async move {
                let submitted = tasks::submit_checked(&app, submission, batch, key).await?;
                tasks::json_of(&submitted)
            }))
        }
        Call::Lease => {
            let request = tasks::lease_request(&app, body).ok()?;
            Some(Box::pin(async move {
                let leased = tasks::leased(&app, request).await?;
                tasks::json_of(&leased)
            }))
        }
        Call::Finish => {
            let ends = tasks::ends(&app, body).ok()?;
            Some(Box::pin(async move {
                let finished = tasks::finished(&app, ends).await?;
                tasks::json_of(&finished)
            }))
        }
    }
}
