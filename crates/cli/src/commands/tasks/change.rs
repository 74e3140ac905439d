//! Cancelling and retrying: by id all or none; by filter after a count, so that nobody means more than they think.

use std::collections::HashSet;
use std::io::{BufRead, IsTerminal, Write};

use flyball_engine::view::tasks::{
    FilterBody, FinishedItem, FinishedView, SelectionBody, TaskState,
};
use hyper::Method;

use super::Selection;
use super::filter::{has_ended, name};
use super::look::newest;
use crate::client::Failure;
use crate::commands::{Session, document, with_query};
use crate::show::inert;

/// Tasks that are counted before asking; beyond them it is "more than".
const COUNT_MAX: usize = 10_000;
/// Tasks that one call changes, at most: the API's bound.
const CALL_MAX: u32 = 1000;
/// Calls for one filter, at most.
const CALLS_MAX: usize = 10_000;

/// What to do to tasks.
pub(super) enum Change {
    Cancel { reason: Option<String> },
    Retry,
}

impl Change {
    fn path(&self) -> String {
        match self {
            Change::Cancel { reason: None } => "/v1/tasks/cancel".to_owned(),
            Change::Cancel {
                reason: Some(reason),
            } => with_query("/v1/tasks/cancel", &[("reason", reason.clone())]),
            Change::Retry => "/v1/tasks/retry".to_owned(),
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Change::Cancel { .. } => "cancel",
            Change::Retry => "retry",
        }
    }

    fn fits(&self, state: TaskState) -> bool {
        match self {
            Change::Cancel { .. } => !has_ended(state),
            Change::Retry => has_ended(state) && state != TaskState::Completed,
        }
    }

    /// What became of one, in a line.
    fn line(&self, item: &FinishedItem) -> String {
        let id = inert(&item.id);
        match (self, item.state) {
            (_, None) => {
                let why = item.detail.as_deref().unwrap_or("it was not changed");
                format!("task {id}: {}\n", inert(why))
            }
            (Change::Cancel { .. }, Some(TaskState::Running | TaskState::Paused)) => {
                format!("task {id} was asked to stop\n")
            }
            (_, Some(state)) => format!("task {id} is {}\n", name(state)),
        }
    }
}

pub(super) fn run(
    session: &Session,
    change: &Change,
    selection: &Selection,
) -> Result<Vec<u8>, Failure> {
    match (selection.ids.is_empty(), selection.which.is_empty()) {
        (true, true) => Err(Failure::Usage(format!(
            "which tasks? Name their ids, or choose them by --state, --class, --kind, --group or --label (`flyball tasks {} --help`)",
            change.verb()
        ))),
        (false, false) => Err(Failure::Usage(
            "ids and filters exclude each other".to_owned(),
        )),
        (false, true) => by_id(session, change, &selection.ids),
        (true, false) => by_filter(session, change, selection),
    }
}

fn by_id(session: &Session, change: &Change, ids: &[u64]) -> Result<Vec<u8>, Failure> {
    let body = SelectionBody {
        ids: Some(ids.iter().map(u64::to_string).collect()),
        ..SelectionBody::default()
    };
    let reply = send(session, change, &body)?;
    if session.json {
        return Ok(document(&reply));
    }
    let changed: FinishedView = reply.read()?;
    let lines = changed.tasks.iter().map(|item| change.line(item));
    Ok(lines.collect::<String>().into_bytes())
}

fn send(
    session: &Session,
    change: &Change,
    body: &SelectionBody,
) -> Result<crate::client::Reply, Failure> {
    // Plain data: writing it cannot fail.
    let body = serde_json::to_value(body).unwrap_or_default();
    session.client.send(Method::POST, &change.path(), &body)
}

fn by_filter(
    session: &Session,
    change: &Change,
    selection: &Selection,
) -> Result<Vec<u8>, Failure> {
    let none = || {
        let text = if session.json {
            "{\"tasks\":[]}\n"
        } else {
            "no task fits\n"
        };
        Ok(text.as_bytes().to_vec())
    };
    let Some(filter) = selection.which.among(|state| change.fits(state)) else {
        return none();
    };
    if !selection.yes {
        let mut fit = 0_usize;
        let more = newest(session, &filter, COUNT_MAX, |_| fit += 1)?;
        if fit == 0 {
            return none();
        }
        if !confirmed(change, fit, more)? {
            return Err(Failure::Refused("nothing was changed".to_owned()));
        }
    }
    let changed = all(session, change, &filter)?;
    if session.json {
        let view = FinishedView { tasks: changed };
        let mut text = serde_json::to_vec(&view).unwrap_or_default();
        text.push(b'\n');
        return Ok(text);
    }
    if changed.is_empty() {
        return none();
    }
    let running =
        |item: &&FinishedItem| matches!(item.state, Some(TaskState::Running | TaskState::Paused));
    let stopping = changed.iter().filter(running).count();
    let tasks = |count: usize| format!("{count} task{}", if count == 1 { "" } else { "s" });
    Ok(match change {
        Change::Retry => format!("retrying {}\n", tasks(changed.len())),
        Change::Cancel { .. } if stopping == 0 => format!("cancelled {}\n", tasks(changed.len())),
        Change::Cancel { .. } => format!(
            "cancelled {}, asked {} to stop\n",
            tasks(changed.len() - stopping),
            stopping
        ),
    }
    .into_bytes())
}

/// Changes all that fit, call by call.
fn all(
    session: &Session,
    change: &Change,
    filter: &FilterBody,
) -> Result<Vec<FinishedItem>, Failure> {
    let body = SelectionBody {
        filter: Some(filter.clone()),
        limit: Some(CALL_MAX),
        ids: None,
    };
    let (mut changed, mut seen) = (Vec::new(), HashSet::new());
    for _ in 0..CALLS_MAX {
        let answer: FinishedView = send(session, change, &body)?.read()?;
        let full = answer.tasks.len() >= CALL_MAX as usize;
        // One that runs on until its next sign of life fits again.
        let fresh = answer
            .tasks
            .into_iter()
            .filter(|item| seen.insert(item.id.clone()));
        let before = changed.len();
        changed.extend(fresh);
        if !full || changed.len() == before {
            break;
        }
    }
    Ok(changed)
}

/// Asks at a terminal; elsewhere `--yes` is what says so.
fn confirmed(change: &Change, fit: usize, more: bool) -> Result<bool, Failure> {
    let count = if more {
        format!("more than {fit} tasks")
    } else if fit == 1 {
        "1 task".to_owned()
    } else {
        format!("{fit} tasks")
    };
    let verb = change.verb();
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "this would {verb} {count}; add --yes to do it"
        )));
    }
    let _ = write!(std::io::stderr(), "{verb} {count}? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}
