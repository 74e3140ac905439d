//! A task as it is shown.

use super::command::{CommandBody, HttpBody};
use super::mask;
use super::submit::{
    AfterBody, AfterGroupBody, ConflictName, MissedName, OnParentFailureName, OverlapName,
};
use super::work::base64_of;
use crate::view::Time;
use flyball_core::time::WallTime;
use flyball_tasks::{Accepted, OnParentFailure, Run, State, Task, Usage};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for a time.
    Scheduled,
    /// Waits for parents.
    Blocked,
    /// May start.
    Pending,
    /// Leased.
    Running,
    /// Leased, and held.
    Paused,
    /// Done.
    Completed,
    /// Ended without success.
    Failed,
    /// Taken back.
    Cancelled,
    /// Never run, as a parent did not end as asked.
    Skipped,
    /// A dead letter.
    Dead,
}

impl From<State> for TaskState {
    fn from(state: State) -> Self {
        match state {
            State::Scheduled => TaskState::Scheduled,
            State::Blocked => TaskState::Blocked,
            State::Pending => TaskState::Pending,
            State::Running => TaskState::Running,
            State::Paused => TaskState::Paused,
            State::Completed => TaskState::Completed,
            State::Failed => TaskState::Failed,
            State::Cancelled => TaskState::Cancelled,
            State::Skipped => TaskState::Skipped,
            State::Dead => TaskState::Dead,
        }
    }
}

pub(super) fn time(at: WallTime) -> Time {
    Time::from_unix_nanos(at.unix_nanos())
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// JSON that was kept; bytes that a program left there and that are none are shown as `{"base64": "…"}`.
pub(super) fn json_of(bytes: &[u8]) -> Box<RawValue> {
    serde_json::from_slice(bytes).unwrap_or_else(|_| base64_of(bytes))
}

/// A task that was taken: it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AcceptedView {
    /// Its name.
    pub id: String,
    /// Its kind.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: Box<str>,
    /// What it is now.
    pub state: TaskState,
    /// Its class.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub class: Box<str>,
    /// How often it was started.
    pub attempt: u32,
    /// When it was taken.
    pub created_at: Time,
    /// Whether it was there already: a repeated request, or a unique task that waits.
    pub existing: bool,
}

impl AcceptedView {
    /// A task that was taken, of a kind and class.
    #[must_use]
    pub fn new(accepted: &Accepted, kind: Box<str>, class: Box<str>) -> Self {
        AcceptedView {
            id: accepted.id.to_string(),
            kind,
            state: accepted.state.into(),
            class,
            attempt: 0,
            created_at: time(accepted.created_at),
            existing: accepted.existing,
        }
    }
}

/// A parent.
pub type ParentView = AfterBody;

/// When a failed attempt is followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetryView {
    /// All attempts, the first included.
    pub max_attempts: u32,
    /// The longest wait before the second attempt.
    pub base_ms: u64,
    /// The longest wait of all.
    pub cap_ms: u64,
}

/// A calendar of starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CronView {
    /// Its fields.
    pub expression: String,
    /// IANA name.
    pub time_zone: String,
    /// What happens at a tick while the last run goes on.
    pub overlap: OverlapName,
    /// What happens to missed ticks.
    pub missed: MissedName,
    /// A tick counts as missed when it is later than this.
    pub grace_ms: u64,
}

/// At most one running and one waiting task of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UniqueView {
    /// The key.
    pub key: String,
    /// What happens to the one that waits.
    pub on_conflict: ConflictName,
}

/// What the last attempt used; null where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttemptUsage {
    /// CPU time, user and system.
    pub cpu_ms: Option<f64>,
    /// Most memory of its processes.
    pub peak_memory_bytes: Option<u64>,
    /// Read from storage.
    pub read_bytes: Option<u64>,
    /// Written to storage.
    pub written_bytes: Option<u64>,
    /// Exit status of a command.
    pub exit_status: Option<i32>,
    /// Signal that ended a command.
    pub signal: Option<i32>,
}

impl From<&Usage> for AttemptUsage {
    fn from(usage: &Usage) -> Self {
        AttemptUsage {
            cpu_ms: usage.cpu.map(|time| time.as_micros() as f64 / 1e3),
            peak_memory_bytes: usage.peak_memory_bytes,
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
            exit_status: usage.exit_status,
            signal: usage.signal,
        }
    }
}

/// All that is known of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskView {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// What it is now.
    pub state: TaskState,
    /// Why, where it did not succeed: `error`, `timed_out`, `deadline_missed`, `panicked`, `lease_expired`, `crashed`, `parent`, `replaced`.
    pub reason: Option<String>,
    /// Its class.
    pub class: String,
    /// Within the class, higher first.
    pub priority: i32,
    /// The number of the attempt: how often it was started.
    pub attempt: u32,
    /// Attempts that count against the limit.
    pub attempts_counted: u32,
    /// When a failed attempt is followed by another.
    pub retry: RetryView,
    /// When it was taken.
    pub created_at: Time,
    /// When it may start or start again, while it is scheduled.
    pub ready_at: Option<Time>,
    /// When the last attempt began.
    pub started_at: Option<Time>,
    /// When it ended for good.
    pub ended_at: Option<Time>,
    /// It must have started by then.
    pub deadline: Option<Time>,
    /// It must not start before.
    pub not_before: Option<Time>,
    /// How long an attempt may run.
    pub timeout_ms: Option<u64>,
    /// Its calendar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronView>,
    /// The entry of the calendar that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron_of: Option<String>,
    /// Its parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<AfterBody>,
    /// It starts when this group has closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_group: Option<AfterGroupBody>,
    /// What becomes of it when a parent ends otherwise: `skip` or `fail`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub on_parent_failure: OnParentFailureName,
    /// The group it is counted in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// To find it by.
    pub labels: BTreeMap<String, String>,
    /// Fairness key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where it likes to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_key: Option<String>,
    /// At most one running and one waiting of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<UniqueView>,
    /// CPUs that must be free before it starts.
    pub cpu: f64,
    /// Memory that must be free before it starts.
    pub memory_bytes: u64,
    /// Named resources that must be free before it starts.
    pub resources: BTreeMap<String, u32>,
    /// The command it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandBody>,
    /// The call it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpBody>,
    /// For its handler or worker; secret fields are masked for who may not read them.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Box<RawValue>,
    /// Fields of the payload that only administrators may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Who has it.
    pub worker: Option<String>,
    /// When the lease ends.
    pub lease_expires_at: Option<Time>,
    /// How far it is.
    pub progress_percent: Option<f32>,
    /// The last line of text with a sign of life.
    pub message: Option<String>,
    /// What came of it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>))]
    pub result: Option<Box<RawValue>>,
    /// The text of the last failure.
    pub error: Option<String>,
    /// What the last attempt used.
    pub usage: AttemptUsage,
    /// Whether it shall stop: it was cancelled while it runs.
    pub cancel_requested: bool,
}

fn text(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

/// A task as it is shown; `reveal` to who may read secrets.
#[must_use]
pub fn task_view(task: &Task, reveal: bool) -> TaskView {
    let head = &task.head;
    let (command, http) = match &task.run {
        Run::Command(spec) => (Some(CommandBody::of(spec)), None),
        Run::Http(spec) => (None, Some(HttpBody::of(spec))),
        Run::Handler => (None, None),
    };
    TaskView {
        id: task.id.to_string(),
        kind: head.kind.to_string(),
        state: task.state.into(),
        reason: task.reason.map(|reason| reason.name().to_owned()),
        class: head.class.to_string(),
        priority: head.priority,
        attempt: task.attempts.started,
        attempts_counted: task.attempts.counted,
        retry: RetryView {
            max_attempts: head.retry.max_attempts,
            base_ms: millis(head.retry.base),
            cap_ms: millis(head.retry.cap),
        },
        created_at: time(task.created_at),
        ready_at: task.ready_at.map(time),
        started_at: task.started_at.map(time),
        ended_at: task.ended_at.map(time),
        deadline: head.deadline.map(time),
        not_before: head.not_before.map(time),
        timeout_ms: head.timeout.map(millis),
        cron: head.cron.as_deref().map(|cron| CronView {
            expression: cron.expression.to_string(),
            time_zone: cron.time_zone.to_string(),
            overlap: cron.overlap.into(),
            missed: cron.missed.into(),
            grace_ms: millis(cron.grace),
        }),
        cron_of: task.cron_of.map(|id| id.to_string()),
        after: head
            .after
            .iter()
            .map(|dependency| AfterBody {
                id: dependency.parent.to_string(),
                on: dependency.when.into(),
            })
            .collect(),
        after_group: head.after_group.as_deref().map(|end| AfterGroupBody {
            group: end.group.clone(),
            on: end.when.into(),
        }),
        on_parent_failure: match head.on_parent_failure {
            OnParentFailure::Skip => OnParentFailureName::Skip,
            OnParentFailure::Fail => OnParentFailureName::Fail,
        },
        group: text(head.group.as_deref()),
        labels: task
            .labels
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        key: text(head.key.as_deref()),
        affinity_key: text(head.affinity_key.as_deref()),
        unique: head.unique.as_deref().map(|unique| UniqueView {
            key: unique.key.to_string(),
            on_conflict: unique.on_conflict.into(),
        }),
        cpu: f64::from(head.needs.cpu_millis) / 1e3,
        memory_bytes: head.needs.memory_bytes,
        resources: head
            .needs
            .resources
            .iter()
            .map(|(name, count)| (name.to_string(), *count))
            .collect(),
        command,
        http,
        payload: if reveal || task.secrets.is_empty() {
            json_of(&task.payload)
        } else {
            mask::masked(&task.payload, &task.secrets)
        },
        secrets: task.secrets.iter().map(|s| s.to_string()).collect(),
        worker: text(task.worker.as_deref()),
        lease_expires_at: task.lease_expires_at.map(time),
        progress_percent: task.progress,
        message: text(task.message.as_deref()),
        result: task.result.as_ref().map(|bytes| json_of(bytes)),
        error: text(task.error.as_deref()),
        usage: (&task.usage).into(),
        cancel_requested: task.cancel_requested,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_named_as_in_the_queue() {
        for state in State::ALL {
            let name = serde_json::to_string(&TaskState::from(state)).unwrap();
            assert_eq!(name, format!("\"{}\"", state.name()));
        }
    }

    /// TASK-4: what a program left that is no JSON can still be shown.
    #[test]
    fn bytes_that_are_no_json_are_shown() {
        assert_eq!(json_of(br#" {"a": 1} "#).get().trim(), r#"{"a": 1}"#);
        assert_eq!(json_of(b"\xff").get(), r#"{"base64":"/w=="}"#);
        assert_eq!(json_of(b"").get(), r#"{"base64":""}"#);
    }
}
