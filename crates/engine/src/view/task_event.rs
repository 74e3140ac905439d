//! A change of a durable task as streams tell it.

use super::Time;
use serde::{Deserialize, Serialize};

/// A change of a task's state, or what else happened to it. It holds nothing of the task's payload, result or output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskEventView {
    /// The task.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Its class.
    pub class: String,
    /// What it was; null for a new task.
    pub from: Option<String>,
    /// What it is.
    pub to: String,
    /// The number of the attempt, 0 before the first.
    pub attempt: u32,
    /// When.
    pub at: Time,
    /// Why, in words.
    pub reason: String,
}

impl TaskEventView {
    pub(crate) fn of(event: flyball_tasks::Event) -> Self {
        TaskEventView {
            id: event.id.to_string(),
            kind: event.kind.into(),
            class: event.class.into(),
            from: event.from.map(|state| state.name().to_owned()),
            to: event.to.name().to_owned(),
            attempt: event.attempt,
            at: Time::from_unix_nanos(event.at.unix_nanos()),
            reason: event.reason.into(),
        }
    }
}
