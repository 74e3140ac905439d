//! Tasks in words: what they are, how they ended.

use flyball_engine::view::Time;
use flyball_engine::view::tasks::{TaskState, TaskView};

use super::filter::{has_ended, name};
use crate::quote;
use crate::show::{Ink, UNKNOWN, inert, millis};

/// Longest text of a payload in a line, characters.
const PAYLOAD_MAX: usize = 80;

/// What a task does, in a line: its command, its call, or its payload.
pub(super) fn what(task: &TaskView) -> String {
    if let Some(command) = &task.command {
        return quote::line(command.argv.iter().map(|word| word.0.as_encoded_bytes()));
    }
    if let Some(call) = &task.http {
        return format!("{} {}", call.method, call.url);
    }
    let payload = task.payload.get();
    let mut text: String = payload.chars().take(PAYLOAD_MAX).collect();
    if payload.chars().nth(PAYLOAD_MAX).is_some() {
        text.push('…');
    }
    text
}

pub(super) fn state_ink(state: TaskState) -> Ink {
    match state {
        TaskState::Completed => Ink::Good,
        TaskState::Running => Ink::Strong,
        TaskState::Paused | TaskState::Cancelled | TaskState::Skipped => Ink::Doubtful,
        TaskState::Failed | TaskState::Dead => Ink::Bad,
        TaskState::Scheduled | TaskState::Blocked | TaskState::Pending => Ink::Plain,
    }
}

/// From one instant to the other: these are known to the millisecond.
pub(super) fn span(from: Time, to: Time) -> String {
    let nanos = to.unix_nanos().saturating_sub(from.unix_nanos());
    match nanos / 1_000_000 {
        ms @ 0..1000 => format!("{ms} ms"),
        ms => millis(ms as f64),
    }
}

/// Why a task did not succeed, where it left no words of its own.
fn reason_words(reason: &str) -> &str {
    match reason {
        "error" => "it failed",
        "timed_out" => "it ran past its timeout",
        "deadline_missed" => "its deadline passed before it could start",
        "panicked" => "its handler panicked",
        "lease_expired" => "its worker was not heard of any more",
        "crashed" => "the daemon died while it ran",
        "parent" => "a parent did not end as asked",
        "replaced" => "the next run of its calendar took its place",
        other => other,
    }
}

/// How long it ran, or has been running.
pub(super) fn ran(task: &TaskView) -> String {
    match (task.started_at, task.ended_at, task.state) {
        (Some(from), Some(to), _) => span(from, to),
        (Some(from), None, TaskState::Running | TaskState::Paused) => span(from, Time::now()),
        _ => UNKNOWN.to_owned(),
    }
}

/// `dead: exit status 3 (attempt 3 of 3)`: how it is, or how it ended, in a line.
pub(super) fn state_line(task: &TaskView) -> String {
    let mut line = name(task.state).to_owned();
    // The daemon's words for who cancelled it begin with the state.
    if let (TaskState::Cancelled, Some(error)) = (task.state, &task.error) {
        return inert(error);
    }
    if task.state == TaskState::Completed {
        if task.started_at.is_some() {
            line.push_str(&format!(" in {}", ran(task)));
        }
        return line;
    }
    if task.cancel_requested && !has_ended(task.state) {
        line.push_str(", asked to stop");
    }
    match (&task.error, &task.reason) {
        (Some(error), _) => line.push_str(&format!(": {}", inert(error))),
        (None, Some(reason)) => line.push_str(&format!(": {}", inert(reason_words(reason)))),
        (None, None) => {}
    }
    if matches!(task.state, TaskState::Failed | TaskState::Dead) && task.attempt > 1 {
        line.push_str(&format!(" (after {} attempts)", task.attempt));
    }
    line
}

/// The exit status that stands for a task's end: its command's own, 128 and the signal as shells have it, else 0 or 1.
pub(crate) fn exit_status(task: &TaskView) -> u8 {
    if task.state == TaskState::Completed {
        return 0;
    }
    let status = match (task.usage.exit_status, task.usage.signal) {
        (Some(status), _) => u8::try_from(status).ok(),
        (None, Some(signal)) => u8::try_from(128 + i64::from(signal)).ok(),
        (None, None) => None,
    };
    status.filter(|status| *status != 0).unwrap_or(1)
}

/// `task 7 dead: exit status 3`.
pub(crate) fn ending(task: &TaskView) -> String {
    format!("task {} {}", inert(&task.id), state_line(task))
}
