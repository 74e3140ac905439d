//! What a client submits, checked and made into tasks of the queue.

use super::command::{CommandBody, HttpBody, bytes_of};
use super::{At, Faults, MAX_KEY, MAX_NAME, check_name, mask};
use crate::view::Time;
use bytes::Bytes;
use flyball_core::time::WallTime;
use flyball_tasks::{
    Cron, Dependency, GroupEnd, Head, Missed, Needs, NewTask, OnParentFailure, Overlap, Parent,
    RetryPolicy, Run, TaskId, Unique, UniqueConflict, Via, When,
};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

/// Most tasks of a batch.
pub(crate) const MAX_BATCH: usize = 1000;
/// Most parents of a task.
const MAX_PARENTS: usize = 1000;
/// Most labels of a task.
pub(crate) const MAX_LABELS: usize = 64;
/// Longest name of a label, or of a named resource, bytes.
pub(crate) const MAX_LABEL_NAME: usize = 64;
/// Most named resources, and most secret fields, of a task.
const MAX_RESOURCES: usize = 64;
/// Longest payload, bytes: as long as a body may be unless the configuration says otherwise.
const MAX_PAYLOAD: usize = 1 << 20;
/// Longest expression of a calendar, bytes.
const MAX_CRON: usize = 256;
/// Longest timeout and grace, ms: a year.
const MAX_TIMEOUT_MS: u64 = 365 * 24 * 3600 * 1000;
/// Longest wait before another attempt, ms: a week.
const MAX_BACKOFF_MS: u64 = 7 * 24 * 3600 * 1000;
/// The most CPUs and the most memory that a task may ask for.
const MAX_CPU: f64 = 100_000.0;
const MAX_MEMORY: u64 = 1 << 50;

/// What holds for tasks that say nothing else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// When a failed attempt is followed by another.
    pub retry: RetryPolicy,
    /// How long an attempt may run.
    pub timeout: Option<Duration>,
    /// How long an attempt of a command may run.
    pub command_timeout: Option<Duration>,
}

/// A task to submit. How it runs is said by `command` or `http`; with neither it is for the registered handler of its kind, else for outside
/// workers.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewTaskBody {
    /// A name people choose; it groups figures, limits and breakers. 1 to 128 bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "thumbnail"))]
    pub kind: Box<str>,
    /// For its handler or worker: any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Value>))]
    pub payload: Option<Box<RawValue>>,
    /// Run as a child process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Box<CommandBody>>,
    /// Run as a call of a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Box<HttpBody>>,
    /// The class; `normal` unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "batch"))]
    pub class: Option<Box<str>>,
    /// Within the class, higher first; 0 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Its parents: ids, references of others in the batch, or either with the outcome that lets it go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<AfterBody>>,
    /// What becomes of it when a parent ends otherwise: `skip` (the default) or `fail`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "skip"))]
    pub on_parent_failure: Option<OnParentFailureName>,
    /// It must have started by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// It must not start before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// It starts by a calendar: each tick makes a task of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronBody>,
    /// How long an attempt may run, time paused not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, example = 30000))]
    pub timeout_ms: Option<u64>,
    /// When a failed attempt is followed by another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryBody>,
    /// To find it by; at most 64.
    #[serde(
        default,
        deserialize_with = "super::strict::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub labels: Option<BTreeMap<String, String>>,
    /// Fairness key: inside a class keys take turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "tenant-7"))]
    pub key: Option<Box<str>>,
    /// CPUs that must be free before it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, example = 1.0))]
    pub cpu: Option<f64>,
    /// Memory that must be free before it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Named countable resources that must be free before it starts, each at least 1.
    #[serde(
        default,
        deserialize_with = "super::strict::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub resources: Option<BTreeMap<String, u32>>,
    /// Where it likes to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub affinity_key: Option<Box<str>>,
    /// At most one running and one waiting task of a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<UniqueBody>,
    /// The group it is counted in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub group: Option<Box<str>>,
    /// It starts when a group has closed: one last task for all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_group: Option<AfterGroupBody>,
    /// The name by which others of the batch call it.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "a"))]
    pub reference: Option<Box<str>>,
    /// Fields of the payload that only administrators may read: JSON pointers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>, example = json!(["/password"])))]
    pub secrets: Option<Vec<Box<str>>>,
}

/// What becomes of a task when a parent ends otherwise than asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnParentFailureName {
    /// It is skipped.
    Skip,
    /// It fails.
    Fail,
}

/// After which end of a parent a task is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Completed.
    #[default]
    Success,
    /// Failed, dead, cancelled or skipped.
    Failure,
    /// Any end.
    Any,
}

impl From<Outcome> for When {
    fn from(on: Outcome) -> When {
        match on {
            Outcome::Success => When::Success,
            Outcome::Failure => When::Failure,
            Outcome::Any => When::Any,
        }
    }
}

impl From<When> for Outcome {
    fn from(when: When) -> Outcome {
        match when {
            When::Success => Outcome::Success,
            When::Failure => Outcome::Failure,
            When::Any => Outcome::Any,
        }
    }
}

/// A parent: its id or its reference in the batch, alone or as `{"id": "…", "on": "failure"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AfterBody {
    /// An id, or a reference in the same batch.
    pub id: String,
    /// `success` (the default), `failure` or `any`.
    pub on: Outcome,
}

impl<'de> Deserialize<'de> for AfterBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            id: String,
            #[serde(default)]
            on: Outcome,
        }
        either(
            deserializer,
            "an id or reference, or {\"id\": …, \"on\": …}",
            |id| AfterBody {
                id,
                on: Outcome::Success,
            },
            |fields: Fields| AfterBody {
                id: fields.id,
                on: fields.on,
            },
        )
    }
}

/// The end of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AfterGroupBody {
    /// The group; it must have had a task.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub group: Box<str>,
    /// `success`: all of its tasks completed; `failure`: at least one did not; `any` (the default): however they ended.
    #[serde(default = "any")]
    pub on: Outcome,
}

fn any() -> Outcome {
    Outcome::Any
}

/// A calendar of starts: an expression, or an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct CronBody(pub CronFields);

/// A calendar of starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CronFields {
    /// Five or six fields, or a nickname such as `@daily`.
    pub expression: String,
    /// IANA name; `UTC` unless set.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// What happens at a tick while the last run goes on: `skip` (the default), `queue` or `replace`.
    #[serde(default)]
    pub overlap: OverlapName,
    /// What happens to ticks at which nobody was there to start anything: `skip` (the default), `once` or `all`.
    #[serde(default)]
    pub missed: MissedName,
    /// A tick counts as missed when it is later than this; a minute unless set.
    #[serde(default = "minute")]
    pub grace_ms: u64,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn minute() -> u64 {
    60_000
}

/// What happens at a tick while the last run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OverlapName {
    /// The tick is skipped.
    #[default]
    Skip,
    /// The tick's run waits.
    Queue,
    /// The last run is cancelled.
    Replace,
}

/// What happens to missed ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MissedName {
    /// Nothing.
    #[default]
    Skip,
    /// One run for all.
    Once,
    /// A run for each, at most 100.
    All,
}

impl From<Overlap> for OverlapName {
    fn from(overlap: Overlap) -> Self {
        match overlap {
            Overlap::Skip => OverlapName::Skip,
            Overlap::Queue => OverlapName::Queue,
            Overlap::Replace => OverlapName::Replace,
        }
    }
}

impl From<Missed> for MissedName {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Skip => MissedName::Skip,
            Missed::Once => MissedName::Once,
            Missed::All => MissedName::All,
        }
    }
}

impl<'de> Deserialize<'de> for CronBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        either(
            deserializer,
            "an expression, or an object with one",
            |expression| {
                CronBody(CronFields {
                    expression,
                    time_zone: utc(),
                    overlap: OverlapName::Skip,
                    missed: MissedName::Skip,
                    grace_ms: minute(),
                })
            },
            CronBody,
        )
    }
}

/// When a failed attempt is followed by another: after a random part of a wait that doubles up to a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RetryBody {
    /// All attempts, the first included; `scheduler.retry_attempts` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000, example = 3))]
    pub max_attempts: Option<u32>,
    /// The longest wait before the second attempt; a second unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ms: Option<u64>,
    /// The longest wait of all; five minutes unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_ms: Option<u64>,
}

/// At most one running and one waiting task of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UniqueBody {
    /// The key, over all kinds.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub key: Box<str>,
    /// What happens to the one that waits: `keep` (the default), `replace`, or `extend` (a debounce).
    #[serde(default)]
    pub on_conflict: ConflictName,
}

/// What happens to the task that waits for a unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ConflictName {
    /// It stays.
    #[default]
    Keep,
    /// It takes the new one's payload and settings.
    Replace,
    /// As replace, and its time moves to the new one's.
    Extend,
}

impl From<UniqueConflict> for ConflictName {
    fn from(conflict: UniqueConflict) -> Self {
        match conflict {
            UniqueConflict::Keep => ConflictName::Keep,
            UniqueConflict::Replace => ConflictName::Replace,
            UniqueConflict::Extend => ConflictName::Extend,
        }
    }
}

/// Tasks that are taken all or none.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskBatchBody {
    /// 1 to 1,000.
    pub tasks: Vec<NewTaskBody>,
}

/// One task, or a batch.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "read and taken apart at once")]
pub enum SubmitBody {
    /// A batch.
    Batch(TaskBatchBody),
    /// One.
    One(NewTaskBody),
}

impl SubmitBody {
    /// Whether a body is meant as a batch: its first key is `tasks`, the only one that a batch has.
    #[must_use]
    pub fn is_batch(body: &[u8]) -> bool {
        let body = body.trim_ascii_start();
        let inner = body.strip_prefix(b"{").unwrap_or_default();
        inner.trim_ascii_start().starts_with(b"\"tasks\"")
    }
}

/// Tasks that were checked, and how to answer.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The tasks.
    pub tasks: Vec<NewTask>,
    /// Whether they came as a batch.
    pub batch: bool,
}

/// Text or an object.
fn either<'de, D, T, F>(
    deserializer: D,
    expected: &'static str,
    of_text: impl FnOnce(String) -> T,
    of_fields: impl FnOnce(F) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    F: Deserialize<'de>,
{
    struct Either<A, B, F>(&'static str, A, B, std::marker::PhantomData<F>);

    impl<'de, T, F, A, B> Visitor<'de> for Either<A, B, F>
    where
        F: Deserialize<'de>,
        A: FnOnce(String) -> T,
        B: FnOnce(F) -> T,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            Ok((self.1)(text.to_owned()))
        }

        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<T, M::Error> {
            F::deserialize(de::value::MapAccessDeserializer::new(map)).map(self.2)
        }
    }

    deserializer.deserialize_any(Either(
        expected,
        of_text,
        of_fields,
        std::marker::PhantomData,
    ))
}

/// What checks share over the tasks of a submission.
struct Checker<'a> {
    now: WallTime,
    local: bool,
    defaults: &'a Defaults,
    is_class: &'a dyn Fn(&str) -> bool,
    references: HashMap<&'a str, usize>,
    faults: Faults,
}

impl Submission {
    /// Checks one task.
    ///
    /// `local`: whether the caller is the local user, so that commands need no allow-list. `is_class` tells which classes there are.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn one(
        body: NewTaskBody,
        now: WallTime,
        local: bool,
        defaults: &Defaults,
        is_class: &dyn Fn(&str) -> bool,
    ) -> Result<Self, Faults> {
        let mut checker = Checker {
            now,
            local,
            defaults,
            is_class,
            references: HashMap::new(),
            faults: Faults::default(),
        };
        let task = checker.task(At::ROOT, body);
        checker.faults.or(Submission {
            tasks: vec![task],
            batch: false,
        })
    }

    /// Checks a batch; the rest is as with [`one`](Self::one).
    ///
    /// # Errors
    /// All that is wrong.
    pub fn batch(
        body: TaskBatchBody,
        now: WallTime,
        local: bool,
        defaults: &Defaults,
        is_class: &dyn Fn(&str) -> bool,
    ) -> Result<Self, Faults> {
        let at = At::ROOT.key("tasks");
        let count = body.tasks.len();
        if count == 0 || count > MAX_BATCH {
            return Err(Faults::one(
                at.pointer(),
                format!("found {count} tasks, expected 1 to {MAX_BATCH}"),
            ));
        }
        let names: Vec<Option<Box<str>>> = body
            .tasks
            .iter()
            .map(|task| task.reference.clone())
            .collect();
        let mut checker = Checker {
            now,
            local,
            defaults,
            is_class,
            references: HashMap::new(),
            faults: Faults::default(),
        };
        for (index, name) in names.iter().enumerate() {
            let Some(name) = name else { continue };
            if let Some(first) = checker.references.insert(name, index) {
                checker.faults.add(
                    at.index(index).key("ref").pointer(),
                    format!("is the reference of task {first}, too"),
                );
            }
        }
        let tasks = body
            .tasks
            .into_iter()
            .enumerate()
            .map(|(index, task)| checker.task(at.index(index), task))
            .collect();
        checker.faults.or(Submission { tasks, batch: true })
    }
}

impl Checker<'_> {
    fn name(&mut self, at: At<'_>, text: Option<&str>, most: usize) {
        if let Some(text) = text {
            check_name(at, text, most, &mut self.faults);
        }
    }

    fn task(&mut self, at: At<'_>, body: NewTaskBody) -> NewTask {
        check_name(at.key("kind"), &body.kind, MAX_NAME, &mut self.faults);
        if let Some(class) = &body.class
            && !(self.is_class)(class)
        {
            let at = at.key("class");
            check_name(at, class, MAX_NAME, &mut self.faults);
            self.faults.add(
                at.pointer(),
                "there is no such class; GET /v1/classes lists them",
            );
        }
        self.name(at.key("key"), body.key.as_deref(), MAX_KEY);
        self.name(
            at.key("affinity_key"),
            body.affinity_key.as_deref(),
            MAX_KEY,
        );
        self.name(at.key("group"), body.group.as_deref(), MAX_KEY);
        self.name(at.key("ref"), body.reference.as_deref(), MAX_NAME);
        self.times(at, &body);
        let (after, parents) = self.parents(at.key("after"), body.after.unwrap_or_default());
        let retry = self.retry(at.key("retry"), body.retry.unwrap_or_default());
        let timeout = match body.timeout_ms {
            None if body.command.is_some() => self.defaults.command_timeout,
            None => self.defaults.timeout,
            Some(ms) => self
                .range(at.key("timeout_ms"), ms, 1, MAX_TIMEOUT_MS)
                .map(Duration::from_millis),
        };
        let needs = self.needs(at, body.cpu, body.memory_bytes, body.resources);
        let labels = self.labels(at.key("labels"), body.labels.unwrap_or_default());
        let cron = body.cron.map(|cron| self.cron(at.key("cron"), cron.0));
        let after_group = body.after_group.map(|after| {
            let place = at.key("after_group");
            check_name(place.key("group"), &after.group, MAX_KEY, &mut self.faults);
            Box::new(GroupEnd {
                group: after.group,
                when: after.on.into(),
            })
        });
        let unique = body.unique.map(|unique| {
            let place = at.key("unique");
            check_name(place.key("key"), &unique.key, MAX_KEY, &mut self.faults);
            Box::new(Unique {
                key: unique.key,
                on_conflict: match unique.on_conflict {
                    ConflictName::Keep => UniqueConflict::Keep,
                    ConflictName::Replace => UniqueConflict::Replace,
                    ConflictName::Extend => UniqueConflict::Extend,
                },
            })
        });
        let (payload, secrets) = self.payload(at, body.payload, body.secrets.unwrap_or_default());
        let (via, run) = match (body.command, body.http) {
            (None, None) => (Via::Handler, Run::Handler),
            (Some(command), None) => {
                let spec = command.check(at.key("command"), self.local, &mut self.faults);
                (Via::Command, Run::Command(Box::new(spec)))
            }
            (None, Some(call)) => {
                let spec = call.check(at.key("http"), self.local, &mut self.faults);
                (Via::Http, Run::Http(Box::new(spec)))
            }
            (Some(_), Some(_)) => {
                self.faults.add(
                    at.key("http").pointer(),
                    "a task runs as a command or as a call of a URL, not as both",
                );
                (Via::Handler, Run::Handler)
            }
        };
        NewTask {
            head: Head {
                kind: body.kind,
                via,
                class: body.class.unwrap_or_else(|| "normal".into()),
                priority: body.priority.unwrap_or(0),
                deadline: body.deadline.map(wall),
                not_before: body.not_before.map(wall),
                cron,
                timeout,
                retry,
                after,
                on_parent_failure: match body.on_parent_failure {
                    Some(OnParentFailureName::Fail) => OnParentFailure::Fail,
                    _ => OnParentFailure::Skip,
                },
                needs,
                affinity_key: body.affinity_key,
                key: body.key,
                unique,
                group: body.group,
                after_group,
            },
            after: parents,
            reference: body.reference,
            run,
            payload,
            labels,
            secrets,
        }
    }

    /// A number in its range.
    fn range(&mut self, at: At<'_>, found: u64, least: u64, most: u64) -> Option<u64> {
        if (least..=most).contains(&found) {
            return Some(found);
        }
        self.faults.add(
            at.pointer(),
            format!("found {found}, expected {least} to {most}"),
        );
        None
    }

    fn times(&mut self, at: At<'_>, body: &NewTaskBody) {
        let Some(deadline) = body.deadline else {
            return;
        };
        let place = at.key("deadline");
        if deadline.unix_nanos() <= self.now.unix_nanos() {
            self.faults
                .add(place.pointer(), "cannot be met: it has passed");
        } else if body.not_before.is_some_and(|start| start >= deadline) {
            self.faults.add(
                place.pointer(),
                "cannot be met: `not_before` is not earlier",
            );
        }
    }

    fn parents(&mut self, at: At<'_>, after: Vec<AfterBody>) -> (Vec<Dependency>, Vec<Parent>) {
        let (mut known, mut in_batch) = (Vec::new(), Vec::new());
        if after.len() > MAX_PARENTS {
            self.faults.add(
                at.pointer(),
                format!(
                    "found {} parents, expected at most {MAX_PARENTS}",
                    after.len()
                ),
            );
            return (known, in_batch);
        }
        for (index, parent) in after.into_iter().enumerate() {
            let when = parent.on.into();
            if self.references.contains_key(parent.id.as_str()) {
                in_batch.push(Parent {
                    reference: parent.id.into_boxed_str(),
                    when,
                });
            } else if let Some(parent) = super::parse_id(&parent.id) {
                known.push(Dependency { parent, when });
            } else {
                self.faults.add(
                    at.index(index).pointer(),
                    "is no id of a task and no `ref` in this batch",
                );
            }
        }
        (known, in_batch)
    }

    fn retry(&mut self, at: At<'_>, body: RetryBody) -> RetryPolicy {
        let mut retry = self.defaults.retry;
        if let Some(most) = body.max_attempts
            && let Some(most) = self.range(at.key("max_attempts"), most.into(), 1, 1000)
        {
            retry.max_attempts = most as u32;
        }
        if let Some(base) = body.base_ms
            && let Some(base) = self.range(at.key("base_ms"), base, 0, MAX_BACKOFF_MS)
        {
            retry.base = Duration::from_millis(base);
        }
        match body.cap_ms {
            Some(cap) => {
                let least = retry.base.as_millis() as u64;
                if let Some(cap) = self.range(at.key("cap_ms"), cap, least, MAX_BACKOFF_MS) {
                    retry.cap = Duration::from_millis(cap);
                }
            }
            None => retry.cap = retry.cap.max(retry.base),
        }
        retry
    }

    fn needs(
        &mut self,
        at: At<'_>,
        cpu: Option<f64>,
        memory: Option<u64>,
        resources: Option<BTreeMap<String, u32>>,
    ) -> Needs {
        let mut needs = Needs::default();
        if let Some(cpu) = cpu {
            if (0.0..=MAX_CPU).contains(&cpu) {
                // Rounded up: what is asked for is never taken for nothing.
                needs.cpu_millis = (cpu * 1000.0).ceil() as u32;
            } else {
                self.faults.add(
                    at.key("cpu").pointer(),
                    format!("found {cpu}, expected 0 to {MAX_CPU}"),
                );
            }
        }
        if let Some(memory) = memory {
            needs.memory_bytes = self
                .range(at.key("memory_bytes"), memory, 0, MAX_MEMORY)
                .unwrap_or_default();
        }
        let Some(resources) = resources else {
            return needs;
        };
        let place = at.key("resources");
        if resources.len() > MAX_RESOURCES {
            self.faults.add(
                place.pointer(),
                format!(
                    "found {}, expected at most {MAX_RESOURCES}",
                    resources.len()
                ),
            );
        }
        for (name, count) in resources {
            check_name(place.key(&name), &name, MAX_LABEL_NAME, &mut self.faults);
            if count == 0 {
                self.faults
                    .add(place.key(&name).pointer(), "found 0, expected 1 or more");
            }
            needs.resources.push((name.into_boxed_str(), count));
        }
        needs
    }

    fn labels(
        &mut self,
        at: At<'_>,
        labels: BTreeMap<String, String>,
    ) -> Vec<(Box<str>, Box<str>)> {
        if labels.len() > MAX_LABELS {
            self.faults.add(
                at.pointer(),
                format!("found {}, expected at most {MAX_LABELS}", labels.len()),
            );
        }
        let mut checked = Vec::with_capacity(labels.len());
        for (name, value) in labels {
            check_name(at.key(&name), &name, MAX_LABEL_NAME, &mut self.faults);
            if !value.is_empty() {
                check_name(at.key(&name), &value, MAX_KEY, &mut self.faults);
            }
            checked.push((name.into_boxed_str(), value.into_boxed_str()));
        }
        checked
    }

    fn cron(&mut self, at: At<'_>, body: CronFields) -> Box<Cron> {
        check_name(
            at.key("expression"),
            &body.expression,
            MAX_CRON,
            &mut self.faults,
        );
        check_name(
            at.key("time_zone"),
            &body.time_zone,
            MAX_LABEL_NAME,
            &mut self.faults,
        );
        let grace = self.range(at.key("grace_ms"), body.grace_ms, 0, MAX_TIMEOUT_MS);
        Box::new(Cron {
            expression: body.expression.into_boxed_str(),
            time_zone: body.time_zone.into_boxed_str(),
            overlap: match body.overlap {
                OverlapName::Skip => Overlap::Skip,
                OverlapName::Queue => Overlap::Queue,
                OverlapName::Replace => Overlap::Replace,
            },
            missed: match body.missed {
                MissedName::Skip => Missed::Skip,
                MissedName::Once => Missed::Once,
                MissedName::All => Missed::All,
            },
            grace: Duration::from_millis(grace.unwrap_or_default()),
        })
    }

    fn payload(
        &mut self,
        at: At<'_>,
        payload: Option<Box<RawValue>>,
        secrets: Vec<Box<str>>,
    ) -> (Bytes, Vec<Box<str>>) {
        let place = at.key("payload");
        let payload = match payload {
            Some(payload) => bytes_of(payload),
            None => Bytes::from_static(b"null"),
        };
        if payload.len() > MAX_PAYLOAD {
            self.faults.add(
                place.pointer(),
                format!(
                    "found {} bytes, expected at most {MAX_PAYLOAD}",
                    payload.len()
                ),
            );
        }
        let at = at.key("secrets");
        if secrets.len() > MAX_RESOURCES {
            self.faults.add(
                at.pointer(),
                format!("found {}, expected at most {MAX_RESOURCES}", secrets.len()),
            );
        }
        for (index, pointer) in secrets.iter().enumerate() {
            if pointer.len() > MAX_KEY || !mask::is_pointer(pointer) {
                self.faults.add(
                    at.index(index).pointer(),
                    format!(
                        "expected a JSON pointer such as \"/password\", at most {MAX_KEY} bytes"
                    ),
                );
            }
        }
        // What shall be masked must be readable, numbers included.
        if !secrets.is_empty()
            && let Err(error) = serde_json::from_slice::<Value>(&payload)
        {
            self.faults.add(
                place.pointer(),
                format!("holds secrets and cannot be read: {error}"),
            );
        }
        (payload, secrets)
    }
}

pub(crate) fn wall(time: Time) -> WallTime {
    WallTime::from_unix_nanos(time.unix_nanos())
}

#[cfg(feature = "openapi")]
mod schema {
    use super::{AfterBody, CronBody, CronFields};
    use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
    use utoipa::openapi::{Ref, RefOr, Schema};
    use utoipa::{PartialSchema, ToSchema};

    impl PartialSchema for AfterBody {
        fn schema() -> RefOr<Schema> {
            OneOfBuilder::new()
                .item(ObjectBuilder::new().schema_type(Type::String))
                .item(
                    ObjectBuilder::new()
                        .property("id", ObjectBuilder::new().schema_type(Type::String))
                        .property(
                            "on",
                            ObjectBuilder::new()
                                .schema_type(Type::String)
                                .enum_values(Some(["success", "failure", "any"])),
                        )
                        .required("id"),
                )
                .description(Some("An id or a reference in the batch, alone or with the outcome that lets the task go"))
                .into()
        }
    }

    impl ToSchema for AfterBody {}

    impl PartialSchema for CronBody {
        fn schema() -> RefOr<Schema> {
            OneOfBuilder::new()
                .item(ObjectBuilder::new().schema_type(Type::String))
                .item(Ref::from_schema_name(CronFields::name()))
                .description(Some("An expression, or an object with one"))
                .into()
        }
    }

    impl ToSchema for CronBody {
        fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
            schemas.push((CronFields::name().into_owned(), CronFields::schema()));
            CronFields::schemas(schemas);
        }
    }
}

/// A task id that is in the queue, for tests and callers that have the number.
impl From<TaskId> for AfterBody {
    fn from(id: TaskId) -> Self {
        AfterBody {
            id: id.to_string(),
            on: Outcome::Success,
        }
    }
}

#[cfg(test)]
mod tests;
