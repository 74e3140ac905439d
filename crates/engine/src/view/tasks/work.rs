//! Leases, signs of life and ends, as outside workers send them and read them.

use super::command::{base64, bytes_of};
use super::select::is_number;
use super::task::{TaskState, json_of};
use super::{At, Faults, MAX_NAME, check_name, parse_id};
use crate::view::Time;
use flyball_tasks::{
    Beat, Brief, Completion, Kinds, Lease, LeaseRequest, Outcome, Reason, TaskId, Token, Usage,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;

/// Most tasks leased or finished at once.
const MAX_TASKS: usize = 1000;
/// Most kinds of a worker.
const MAX_KINDS: usize = 1000;
/// A lease unless a worker says otherwise, and the longest, ms.
const DEFAULT_LEASE_MS: u64 = 30_000;
const MAX_LEASE_MS: u64 = 24 * 3600 * 1000;
/// The longest wait for a task, ms: proxies and clients give up on answers that take longer.
const MAX_WAIT_MS: u64 = 60_000;
/// Longest line of text with a sign of life, bytes.
const MAX_MESSAGE: usize = 1000;
/// Longest checkpoint, bytes.
const MAX_CHECKPOINT: usize = 64 << 10;
/// Longest result, bytes.
const MAX_RESULT: usize = 1 << 20;
/// Longest error that is kept, bytes.
const MAX_ERROR: usize = 16 << 10;
/// Longest wait that who failed may ask for, ms: a week.
const MAX_RETRY_AFTER_MS: u64 = 7 * 24 * 3600 * 1000;

/// Reads the token of a lease.
#[must_use]
pub fn parse_token(text: &str) -> Option<Token> {
    let (epoch, number) = text.split_once('-')?;
    (is_number(epoch) && is_number(number)).then_some(())?;
    Some(Token {
        epoch: epoch.parse().ok()?,
        number: number.parse().ok()?,
    })
}

fn token(at: At<'_>, text: &str, faults: &mut Faults) -> Token {
    parse_token(text).unwrap_or_else(|| {
        faults.add(
            at.key("token").pointer(),
            "is no token of a lease: it comes with the lease",
        );
        Token {
            epoch: 0,
            number: 0,
        }
    })
}

fn millis(
    at: At<'_>,
    found: Option<u64>,
    least: u64,
    most: u64,
    faults: &mut Faults,
) -> Option<Duration> {
    let found = found?;
    if !(least..=most).contains(&found) {
        faults.add(
            at.pointer(),
            format!("found {found}, expected {least} to {most}"),
        );
    }
    Some(Duration::from_millis(found))
}

/// Asks for tasks to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LeaseBody {
    /// Who asks: for people to read.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "w1"))]
    pub worker: Box<str>,
    /// The kinds that it takes; all that no registered handler takes where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub kinds: Option<Vec<Box<str>>>,
    /// How many at most; 1 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub max: Option<u32>,
    /// How long each is its own without a heartbeat; 30 s unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86400000))]
    pub lease_ms: Option<u64>,
    /// How long to wait for the first if there is none; 0 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 60000))]
    pub wait_ms: Option<u64>,
}

impl LeaseBody {
    /// Checks it. `handled`: the kinds that registered handlers take, which a worker that takes all kinds leaves to them.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(self, handled: Vec<Box<str>>) -> Result<LeaseRequest, Faults> {
        let mut faults = Faults::default();
        let at = At::ROOT;
        check_name(at.key("worker"), &self.worker, MAX_NAME, &mut faults);
        let max = self.max.unwrap_or(1);
        if !(1..=MAX_TASKS as u32).contains(&max) {
            faults.add(
                at.key("max").pointer(),
                format!("found {max}, expected 1 to {MAX_TASKS}"),
            );
        }
        let place = at.key("kinds");
        if let Some(kinds) = &self.kinds {
            if kinds.is_empty() || kinds.len() > MAX_KINDS {
                faults.add(
                    place.pointer(),
                    format!("found {}, expected 1 to {MAX_KINDS}", kinds.len()),
                );
            }
            for (index, kind) in kinds.iter().enumerate() {
                check_name(place.index(index), kind, MAX_NAME, &mut faults);
            }
        }
        let lease = self.lease_ms.unwrap_or(DEFAULT_LEASE_MS);
        let lease = millis(
            at.key("lease_ms"),
            Some(lease),
            1,
            MAX_LEASE_MS,
            &mut faults,
        );
        let wait = millis(at.key("wait_ms"), self.wait_ms, 0, MAX_WAIT_MS, &mut faults);
        let handlers = match self.kinds {
            Some(kinds) => Kinds::Only(kinds),
            None if handled.is_empty() => Kinds::All,
            None => Kinds::Except(handled),
        };
        faults.or(LeaseRequest {
            worker: self.worker,
            handlers,
            commands: Kinds::None,
            http: Kinds::None,
            max,
            lease: lease.unwrap_or_default(),
            wait: wait.unwrap_or_default(),
            room: None,
            above: None,
        })
    }
}

/// A task that is somebody's to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseView {
    /// The task.
    pub id: String,
    /// Its kind.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: Box<str>,
    /// Its class.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub class: Box<str>,
    /// As it was given, secrets included.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Box<RawValue>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Proves that the task is its own: to be sent with heartbeats and the end.
    pub token: String,
    /// When it is no longer, without a heartbeat.
    pub lease_expires_at: Time,
    /// How long the attempt may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// It must have started by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// What the last attempt left.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>))]
    pub checkpoint: Option<Box<RawValue>>,
}

impl From<Lease> for LeaseView {
    fn from(lease: Lease) -> Self {
        LeaseView {
            id: lease.id.to_string(),
            payload: json_of(&lease.payload),
            attempt: lease.attempts.started,
            token: lease.token.to_string(),
            lease_expires_at: Time::from_unix_nanos(lease.expires_at.unix_nanos()),
            timeout_ms: lease.head.timeout.map(|time| time.as_millis() as u64),
            deadline: lease
                .head
                .deadline
                .map(|at| Time::from_unix_nanos(at.unix_nanos())),
            checkpoint: lease.checkpoint.as_ref().map(|bytes| json_of(bytes)),
            kind: lease.head.kind,
            class: lease.head.class,
        }
    }
}

/// Tasks that were leased; none where there was none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeasesView {
    /// The tasks, to be run in this order.
    pub tasks: Vec<LeaseView>,
}

/// What the next attempt receives: any JSON, at most 64 KiB.
pub type CheckpointBody = Box<RawValue>;

/// A sign of life.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HeartbeatBody {
    /// Of the lease.
    pub token: String,
    /// How long the lease shall last from now; as long as it was taken for unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86400000))]
    pub lease_ms: Option<u64>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 100))]
    pub progress_percent: Option<f32>,
    /// A line of text, at most 1,000 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub message: Option<Box<str>>,
    /// What the next attempt receives: any JSON, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>))]
    pub checkpoint: Option<CheckpointBody>,
    /// Whether the task is held or goes on; time held does not count for its timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

impl HeartbeatBody {
    /// Checks it.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(self) -> Result<(Token, Beat), Faults> {
        let mut faults = Faults::default();
        let at = At::ROOT;
        let token = token(at, &self.token, &mut faults);
        let lease = millis(
            at.key("lease_ms"),
            self.lease_ms,
            1,
            MAX_LEASE_MS,
            &mut faults,
        );
        if let Some(progress) = self.progress_percent
            && !(0.0..=100.0).contains(&progress)
        {
            faults.add(
                at.key("progress_percent").pointer(),
                format!("found {progress}, expected 0 to 100"),
            );
        }
        if let Some(message) = &self.message
            && !message.is_empty()
        {
            check_name(at.key("message"), message, MAX_MESSAGE, &mut faults);
        }
        let checkpoint = bounded(
            at.key("checkpoint"),
            self.checkpoint,
            MAX_CHECKPOINT,
            &mut faults,
        );
        faults.or((
            token,
            Beat {
                lease: lease.unwrap_or_default(),
                progress: self.progress_percent,
                message: self.message,
                checkpoint,
                paused: self.paused,
                stood: Duration::ZERO,
            },
        ))
    }
}

/// JSON of a bounded length.
fn bounded(
    at: At<'_>,
    json: Option<Box<RawValue>>,
    most: usize,
    faults: &mut Faults,
) -> Option<bytes::Bytes> {
    let bytes = bytes_of(json?);
    if bytes.len() > most {
        faults.add(
            at.pointer(),
            format!("found {} bytes, expected at most {most}", bytes.len()),
        );
    }
    Some(bytes)
}

/// What an attempt used, as far as who ran it knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UsageBody {
    /// CPU time, user and system.
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    /// Most memory.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// Read from storage.
    #[serde(default)]
    pub read_bytes: Option<u64>,
    /// Written to storage.
    #[serde(default)]
    pub written_bytes: Option<u64>,
}

impl From<UsageBody> for Usage {
    fn from(body: UsageBody) -> Self {
        Usage {
            cpu: body.cpu_ms.map(Duration::from_millis),
            peak_memory_bytes: body.peak_memory_bytes,
            read_bytes: body.read_bytes,
            written_bytes: body.written_bytes,
            ..Usage::default()
        }
    }
}

/// A task is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CompleteBody {
    /// Of the lease.
    pub token: String,
    /// What came of it: any JSON, at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>))]
    pub result: Option<Box<RawValue>>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageBody>,
}

impl CompleteBody {
    /// Checks it.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(self, id: TaskId) -> Result<Completion, Faults> {
        let mut faults = Faults::default();
        let completion = done(
            At::ROOT,
            id,
            &self.token,
            self.result,
            self.usage,
            &mut faults,
        );
        faults.or(completion)
    }
}

fn done(
    at: At<'_>,
    id: TaskId,
    its_token: &str,
    result: Option<Box<RawValue>>,
    usage: Option<UsageBody>,
    faults: &mut Faults,
) -> Completion {
    Completion {
        id,
        token: token(at, its_token, faults),
        outcome: Some(Outcome::Done),
        result: bounded(at.key("result"), result, MAX_RESULT, faults),
        error: None,
        usage: usage.unwrap_or_default().into(),
    }
}

/// An attempt failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FailBody {
    /// Of the lease.
    pub token: String,
    /// What went wrong; cut at 16 KiB.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub error: Box<str>,
    /// Whether another attempt may help; `false` unless set.
    #[serde(default)]
    pub retryable: bool,
    /// No other attempt before this long has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageBody>,
}

impl FailBody {
    /// Checks it.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(self, id: TaskId) -> Result<Completion, Faults> {
        let mut faults = Faults::default();
        let completion = failed(At::ROOT, id, self, &mut faults);
        faults.or(completion)
    }
}

fn failed(at: At<'_>, id: TaskId, body: FailBody, faults: &mut Faults) -> Completion {
    let after = millis(
        at.key("retry_after_ms"),
        body.retry_after_ms,
        0,
        MAX_RETRY_AFTER_MS,
        faults,
    );
    Completion {
        id,
        token: token(at, &body.token, faults),
        outcome: Some(Outcome::Failed {
            reason: Reason::Error,
            retryable: body.retryable,
            after,
        }),
        result: None,
        error: Some(cut(body.error)),
        usage: body.usage.unwrap_or_default().into(),
    }
}

/// Cuts a text at its bound.
fn cut(text: Box<str>) -> Box<str> {
    if text.len() <= MAX_ERROR {
        return text;
    }
    let end = (0..=MAX_ERROR)
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].into()
}

/// Gives a task back that was not run to its end for a cause that is not its own, at no cost of an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleaseBody {
    /// Of the lease.
    pub token: String,
}

impl ReleaseBody {
    /// Checks it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(self, id: TaskId) -> Result<Completion, Faults> {
        let mut faults = Faults::default();
        let completion = Completion {
            id,
            token: token(At::ROOT, &self.token, &mut faults),
            outcome: None,
            result: None,
            error: None,
            usage: Usage::default(),
        };
        faults.or(completion)
    }
}

/// The end of one attempt of many: done with a `result` or nothing, failed with an `error`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FinishItem {
    /// The task.
    pub id: String,
    /// Of its lease.
    pub token: String,
    /// What came of it: any JSON, at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>))]
    pub result: Option<Box<RawValue>>,
    /// What went wrong; cut at 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub error: Option<Box<str>>,
    /// Whether another attempt may help; `false` unless set.
    #[serde(default)]
    pub retryable: bool,
    /// No other attempt before this long has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageBody>,
}

/// Ends of many attempts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FinishBody {
    /// 1 to 1,000.
    pub tasks: Vec<FinishItem>,
}

impl FinishBody {
    /// Checks it.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(self) -> Result<Vec<Completion>, Faults> {
        let mut faults = Faults::default();
        let at = At::ROOT.key("tasks");
        let count = self.tasks.len();
        if !(1..=MAX_TASKS).contains(&count) {
            return Err(Faults::one(
                at.pointer(),
                format!("found {count} tasks, expected 1 to {MAX_TASKS}"),
            ));
        }
        let ends = self
            .tasks
            .into_iter()
            .enumerate()
            .map(|(index, item)| {
                let at = at.index(index);
                let id = parse_id(&item.id).unwrap_or_else(|| {
                    faults.add(at.key("id").pointer(), "is no id of a task");
                    TaskId(0)
                });
                match item.error {
                    None => {
                        if item.retryable || item.retry_after_ms.is_some() {
                            faults.add(at.key("error").pointer(), "is missing");
                        }
                        done(at, id, &item.token, item.result, item.usage, &mut faults)
                    }
                    Some(error) => {
                        if item.result.is_some() {
                            faults.add(at.key("result").pointer(), "excludes `error`");
                        }
                        let body = FailBody {
                            token: item.token,
                            error,
                            retryable: item.retryable,
                            retry_after_ms: item.retry_after_ms,
                            usage: item.usage,
                        };
                        failed(at, id, body, &mut faults)
                    }
                }
            })
            .collect();
        faults.or(ends)
    }
}

/// What a task became by a change, or why it was not changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FinishedItem {
    /// The task.
    pub id: String,
    /// What it is now; null where nothing was changed.
    pub state: Option<TaskState>,
    /// Why, where it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of the attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// When it starts again, if it waits for another attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,
    /// The status that a call for this task alone would have had, where it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl From<Brief> for FinishedItem {
    fn from(brief: Brief) -> Self {
        FinishedItem {
            id: brief.id.to_string(),
            state: Some(brief.state.into()),
            reason: brief.reason.map(|reason| reason.name().to_owned()),
            attempt: Some(brief.attempts.started),
            ready_at: brief
                .ready_at
                .map(|at| Time::from_unix_nanos(at.unix_nanos())),
            status: None,
            detail: None,
        }
    }
}

/// What became of each, in the order of the request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FinishedView {
    /// The tasks.
    pub tasks: Vec<FinishedItem>,
}

/// Bytes that are no JSON, as JSON.
pub(super) fn base64_of(bytes: &[u8]) -> Box<RawValue> {
    let text = format!("{{\"base64\":\"{}\"}}", base64::encode(bytes));
    // Base64 needs no escapes.
    RawValue::from_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers<T: std::fmt::Debug>(result: Result<T, Faults>) -> Vec<String> {
        let faults = result.expect_err("something is wrong");
        faults.list().iter().map(|f| f.pointer.clone()).collect()
    }

    /// TASK-4: tokens are read strictly.
    #[test]
    fn tokens_are_read_back() {
        let token = Token {
            epoch: 3,
            number: u64::MAX,
        };
        assert_eq!(parse_token(&token.to_string()), Some(token));
        for bad in ["", "3", "3-", "-3", "+3-1", "3-+1", "3-1 ", "4294967296-1"] {
            assert_eq!(parse_token(bad), None, "{bad:?}");
        }
    }

    /// TASK-4: leases have ranges; what is left out has a default; a worker of all kinds leaves handlers theirs.
    #[test]
    fn leases_are_checked() {
        let body: LeaseBody = serde_json::from_str(r#"{"worker":"w1"}"#).unwrap();
        let request = body.clone().check(vec!["own".into()]).unwrap();
        assert_eq!(request.handlers, Kinds::Except(vec!["own".into()]));
        assert_eq!((request.max, request.lease), (1, Duration::from_secs(30)));
        assert!(request.wait.is_zero());
        for (fields, pointer) in [
            (r#""kinds":[]"#, "/kinds"),
            (r#""kinds":["a",""]"#, "/kinds/1"),
            (r#""max":0"#, "/max"),
            (r#""max":1001"#, "/max"),
            (r#""lease_ms":0"#, "/lease_ms"),
            (r#""lease_ms":86400001"#, "/lease_ms"),
            (r#""wait_ms":60001"#, "/wait_ms"),
        ] {
            let body = format!(r#"{{"worker":"w1",{fields}}}"#);
            let body: LeaseBody = serde_json::from_str(&body).unwrap();
            assert_eq!(pointers(body.check(vec![])), [pointer], "{fields}");
        }
    }

    /// TASK-4: signs of life are checked, with progress, text and checkpoint.
    #[test]
    fn heartbeats_are_checked() {
        let body =
            r#"{"token":"1-2","progress_percent":50,"message":"half","checkpoint":{"at": 7}}"#;
        let body: HeartbeatBody = serde_json::from_str(body).unwrap();
        let (token, beat) = body.check().unwrap();
        assert_eq!(token.to_string(), "1-2");
        assert_eq!(beat.checkpoint.as_deref(), Some(br#"{"at": 7}"#.as_slice()));
        let long = format!(r#""checkpoint":"{}""#, "x".repeat(MAX_CHECKPOINT));
        for (fields, pointer) in [
            (r#""progress_percent":101"#, "/progress_percent"),
            (r#""progress_percent":-1"#, "/progress_percent"),
            (r#""message":"a\nb""#, "/message"),
            (&long, "/checkpoint"),
        ] {
            let body = format!(r#"{{"token":"1-2",{fields}}}"#);
            let body: HeartbeatBody = serde_json::from_str(&body).unwrap();
            assert_eq!(pointers(body.check()), [pointer]);
        }
    }

    /// TASK-4: ends of many attempts are checked, each pointed to.
    #[test]
    fn ends_are_checked() {
        let body = r#"{"tasks":[{"id":"7","token":"1-2","result":{"a":1}},{"id":"8","token":"1-3","error":"x","retryable":true,"retry_after_ms":5}]}"#;
        let body: FinishBody = serde_json::from_str(body).unwrap();
        let ends = body.check().unwrap();
        assert_eq!(ends[0].outcome, Some(Outcome::Done));
        let expected = Outcome::Failed {
            reason: Reason::Error,
            retryable: true,
            after: Some(Duration::from_millis(5)),
        };
        assert_eq!(ends[1].outcome, Some(expected));
        for (item, pointer) in [
            (r#"{"id":"x","token":"1-2"}"#, "/tasks/0/id"),
            (r#"{"id":"1","token":"2"}"#, "/tasks/0/token"),
            (
                r#"{"id":"1","token":"1-2","retryable":true}"#,
                "/tasks/0/error",
            ),
            (
                r#"{"id":"1","token":"1-2","result":1,"error":"a"}"#,
                "/tasks/0/result",
            ),
        ] {
            let body = format!(r#"{{"tasks":[{item}]}}"#);
            let body: FinishBody = serde_json::from_str(&body).unwrap();
            assert_eq!(pointers(body.check()), [pointer]);
        }
        let none: FinishBody = serde_json::from_str(r#"{"tasks":[]}"#).unwrap();
        assert_eq!(pointers(none.check()), ["/tasks"]);
        let long = "é".repeat(MAX_ERROR);
        assert!(cut(long.into()).len() <= MAX_ERROR);
    }
}
