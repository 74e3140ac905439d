//! What the engine refuses, as problems.

use crate::problem::{Problem, echo};
use axum::http::StatusCode;
use flyball_engine::Error;
use flyball_engine::config::{Errors, Problem as Wrong};
use flyball_engine::view::tasks::Faults;
use flyball_executor::Error as ExecutorError;
use flyball_tasks::Error as TaskError;
use flyball_tasks::run::DependencyError;

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
                match field {
                    "" => String::new(),
                    field => format!("/{field}"),
                },
                format!("found {}, expected {expected}", echo(&found)),
            ),
            Error::Unavailable { .. } => Problem::not_implemented(text),
            Error::Body(faults) => body(&faults),
            Error::Forbidden { pointer, why } => {
                Problem::new(StatusCode::FORBIDDEN, why.clone()).at(pointer, why)
            }
            Error::Tasks(error) => tasks(error, text),
            Error::Dependency(DependencyError::Unknown { .. }) => Problem::not_found(text),
            Error::Dependency(_) => Problem::invalid(text),
            _ => failed(&text),
        }
    }
}

/// Everything that is wrong with a body.
fn body(faults: &Faults) -> Problem {
    let problem = match faults.list() {
        [only] if only.pointer.is_empty() => Problem::invalid(only.detail.clone()),
        [only] => Problem::invalid(format!("{}: {}", only.pointer, only.detail)),
        all => Problem::invalid(format!("{} places are wrong", all.len())),
    };
    faults.list().iter().fold(problem, |problem, fault| {
        problem.at(&fault.pointer, &fault.detail)
    })
}

/// What the queue of tasks refused.
fn tasks(error: TaskError, text: String) -> Problem {
    match error {
        TaskError::Invalid(invalid) => Problem::invalid("a task cannot be taken").at(
            flyball_engine::view::tasks::pointer_of(None, &invalid.field),
            invalid.fault,
        ),
        TaskError::UnknownTask { .. } => Problem::not_found(text),
        TaskError::StaleToken { .. } | TaskError::WrongState { .. } | TaskError::KeyReused => {
            Problem::conflict(text)
        }
        TaskError::Full { retry_after, .. } => {
            let seconds = retry_after.as_secs_f64().ceil().clamp(1.0, 86_400.0);
            Problem::new(StatusCode::TOO_MANY_REQUESTS, text).retry_after(seconds as u32)
        }
        TaskError::NoSpace { .. } => Problem::new(StatusCode::INSUFFICIENT_STORAGE, text),
        TaskError::Stopped { .. } | TaskError::Closing => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, text)
        }
        TaskError::Unsupported { .. } => Problem::not_implemented(text),
        // What is kept is broken; the client can do nothing about it, and may know which task it is.
        TaskError::Damaged { .. } => {
            tracing::error!(error = text, "a request met a damaged task");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
        _ => failed(&text),
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
