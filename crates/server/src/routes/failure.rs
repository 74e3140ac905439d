//! What the engine refuses, as problems.

use crate::problem::{Problem, echo};
use axum::http::StatusCode;
use flyball_engine::Error;
use flyball_engine::config::{Errors, Problem as Wrong};
use flyball_executor::Error as ExecutorError;

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = text(&error);
        match error {
            Error::Config(errors) => config(&errors),
            Error::Executor(error) => executor(&error, text),
            Error::Unknown { .. } => Problem::not_found(text),
            Error::Exists { .. } | Error::Off { .. } | Error::Conflict(_) => {
                Problem::conflict(text)
            }
            Error::Invalid {
                field,
                found,
                expected,
            } => Problem::invalid("a value is not possible").at(
                format!("/{field}"),
                format!("found {}, expected {expected}", echo(&found)),
            ),
            _ => failed(&text),
        }
    }
}

/// The error with its causes, bounded.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors print their cause, too.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Everything that is wrong with a change of the configuration. What only a start can set conflicts with the daemon's running.
fn config(errors: &Errors) -> Problem {
    let restart = |wrong: &Wrong| matches!(wrong, Wrong::NeedsRestart { .. });
    let problem = if errors.faults().iter().all(|fault| restart(&fault.problem)) {
        Problem::conflict("this takes a restart of the daemon; nothing was changed")
    } else {
        let more = match errors.more() {
            0 => String::new(),
            more => format!("; {more} more places are wrong than are listed"),
        };
        Problem::invalid(format!("the configuration would be wrong{more}"))
    };
    errors.faults().iter().fold(problem, |problem, fault| {
        problem.at(&fault.pointer, fault.detail())
    })
}

fn executor(error: &ExecutorError, text: String) -> Problem {
    match error {
        ExecutorError::UnknownClass { .. } | ExecutorError::UnknownWorker(_) => {
            Problem::not_found(echo(&text).into_owned())
        }
        ExecutorError::Class { .. } | ExecutorError::Schedule { .. } => Problem::invalid(text),
        ExecutorError::Config {
            key,
            found,
            expected,
        } => Problem::invalid("a value is not possible").at(
            format!("/{key}"),
            format!("found {}, expected {expected}", echo(found)),
        ),
        ExecutorError::ShuttingDown => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping")
        }
        ExecutorError::Os { .. } => failed(&text),
        _ => Problem::conflict(text),
    }
}

/// The system refused the daemon something; the client can do nothing about it, and learns no more.
fn failed(text: &str) -> Problem {
    tracing::error!(error = text, "a request failed");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the system refused; the daemon's log says more",
    )
}
