//! A task in the making: what a program says of it, and the configuration's word on everything else.

use crate::Engine;
use crate::error::Error;
use crate::tasks::settings;
use flyball_core::time::WallTime;
use flyball_tasks::{
    Accepted, Batch, CommandSpec, Dependency, Head, HttpSpec, Idempotency, Needs, NewTask,
    RetryPolicy, Run, TaskId, Unique, UniqueConflict, Via, When,
};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// A task that has not been submitted yet; made by [`Engine::new_task`].
///
/// What is said last of a field holds. Mistakes are told by [`submit`](Draft::submit), before anything is written.
#[must_use = "a draft does nothing until it is submitted"]
pub struct Draft<'a> {
    engine: &'a Engine,
    task: NewTask,
    idempotency: Option<Idempotency>,
    /// As it was set.
    timeout: Option<Duration>,
    /// The first thing that is wrong with it.
    fault: Option<Error>,
}

impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The payload may hold what no log should.
        f.debug_struct("Draft")
            .field("head", &self.task.head)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Begins a durable task of a kind. Class `normal`, timeout and attempts as configured, unless it says otherwise.
    ///
    /// ```no_run
    /// # async fn f(engine: &flyball_engine::Engine) -> Result<(), Box<dyn std::error::Error>> {
    /// let task = engine.new_task("resize").class("batch").payload(&("cat.jpg", 640)).submit().await?;
    /// println!("task {} is on disk", task.id);
    /// # Ok(()) }
    /// ```
    pub fn new_task(&self, kind: &str) -> Draft<'_> {
        let config = self.config();
        Draft {
            engine: self,
            task: NewTask {
                head: Head {
                    kind: kind.into(),
                    via: Via::Handler,
                    class: "normal".into(),
                    priority: 0,
                    deadline: None,
                    not_before: None,
                    cron: None,
                    timeout: None,
                    retry: settings::retry_policy(&config),
                    after: Vec::new(),
                    on_parent_failure: flyball_tasks::OnParentFailure::default(),
                    needs: Needs::default(),
                    affinity_key: None,
                    key: None,
                    unique: None,
                    group: None,
                    after_group: None,
                },
                after: Vec::new(),
                reference: None,
                run: Run::Handler,
                payload: "null".into(),
                labels: Vec::new(),
                secrets: Vec::new(),
            },
            idempotency: None,
            timeout: None,
            fault: None,
        }
    }
}

impl Draft<'_> {
    fn wrong(mut self, field: &'static str, found: String, expected: &str) -> Self {
        self.fault.get_or_insert(Error::Invalid {
            field,
            found,
            expected: expected.to_owned(),
        });
        self
    }

    /// What its handler or worker is given, as JSON.
    pub fn payload(mut self, payload: &impl Serialize) -> Self {
        match serde_json::to_vec(payload) {
            Ok(json) => {
                self.task.payload = json.into();
                self
            }
            Err(error) => self.wrong("payload", error.to_string(), "what JSON can hold"),
        }
    }

    /// The scheduling class; `normal` unless set.
    pub fn class(mut self, class: &str) -> Self {
        self.task.head.class = class.into();
        self
    }

    /// Within the class, higher goes first; 0 unless set.
    pub fn priority(mut self, priority: i32) -> Self {
        self.task.head.priority = priority;
        self
    }

    /// It must have started by then, or fails.
    pub fn deadline(mut self, at: WallTime) -> Self {
        self.task.head.deadline = Some(at);
        self
    }

    /// It must not start before.
    pub fn not_before(mut self, at: WallTime) -> Self {
        self.task.head.not_before = Some(at);
        self
    }

    /// It must not start before so much time has passed.
    pub fn delay(self, delay: Duration) -> Self {
        self.not_before(WallTime::now().saturating_add(delay))
    }

    /// How long an attempt may run; `cpu_scheduler.task_timeout` unless set, of commands `commands.timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// When a failed attempt is followed by another; as `scheduler.retry_…` unless set.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.task.head.retry = policy;
        self
    }

    /// All attempts, the first included, 1 to 1,000; `scheduler.retry_attempts` unless set.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.task.head.retry.max_attempts = attempts;
        self
    }

    /// It waits until another task has completed, and is skipped if that does not. May be said several times.
    pub fn after(self, parent: TaskId) -> Self {
        self.after_when(parent, When::Success)
    }

    /// It waits until another task has ended in a certain way. May be said several times.
    pub fn after_when(mut self, parent: TaskId, when: When) -> Self {
        self.task.head.after.push(Dependency { parent, when });
        self
    }

    /// Tasks of one class take turns by this key.
    pub fn key(mut self, key: &str) -> Self {
        self.task.head.key = Some(key.into());
        self
    }

    /// At most one task of this key runs and one waits.
    pub fn unique(mut self, key: &str, on_conflict: UniqueConflict) -> Self {
        self.task.head.unique = Some(Box::new(Unique {
            key: key.into(),
            on_conflict,
        }));
        self
    }

    /// The group it is counted in.
    pub fn group(mut self, group: &str) -> Self {
        self.task.head.group = Some(group.into());
        self
    }

    /// CPUs that must be free before it starts.
    pub fn cpus(mut self, cpus: f64) -> Self {
        if !(0.0..=10_000.0).contains(&cpus) {
            return self.wrong("cpu", cpus.to_string(), "0 to 10000");
        }
        self.task.head.needs.cpu_millis = (cpus * 1e3).ceil() as u32;
        self
    }

    /// Memory that must be free before it starts, bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.task.head.needs.memory_bytes = bytes;
        self
    }

    /// So many of a named resource must be free before it starts. May be said once for each name.
    pub fn resource(mut self, name: &str, count: u32) -> Self {
        let resources = &mut self.task.head.needs.resources;
        match resources.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(at) => resources[at].1 = count,
            Err(at) => resources.insert(at, (name.into(), count)),
        }
        self
    }

    /// A label to find it by. May be said up to 64 times.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.task.labels.push((name.into(), value.into()));
        self
    }

    /// A field of the payload, as a JSON pointer, that only administrators may read. May be said several times.
    pub fn secret(mut self, pointer: &str) -> Self {
        self.task.secrets.push(pointer.into());
        self
    }

    /// It runs as a child process, by no handler.
    pub fn command(mut self, command: CommandSpec) -> Self {
        self.task.head.via = Via::Command;
        self.task.run = Run::Command(Box::new(command));
        self
    }

    /// It runs as a call of a URL, by no handler.
    pub fn http(mut self, call: HttpSpec) -> Self {
        self.task.head.via = Via::Http;
        self.task.run = Run::Http(Box::new(call));
        self
    }

    /// Submitting the same again under this key, 1 to 255 bytes, answers the first task; another task under it is refused.
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.idempotency = Some(Idempotency {
            key: key.into(),
            fingerprint: [0; 32],
        });
        self
    }

    /// What was said, to be put into a [`Batch`] with others.
    ///
    /// # Errors
    /// What is wrong with it, as far as that can be told without the queue.
    pub fn build(mut self) -> Result<NewTask, Error> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let defaults = self.engine.task_defaults();
        self.task.head.timeout = self.timeout.or(match self.task.head.via {
            Via::Command => defaults.command_timeout,
            _ => defaults.timeout,
        });
        Ok(self.task)
    }

    /// Puts it into the queue. When this answers, it is on disk.
    ///
    /// # Errors
    /// What is wrong with it; that there is no queue, or that the queue is full, closing or has stopped. Nothing was taken then.
    pub async fn submit(mut self) -> Result<Accepted, Error> {
        let queue = self.engine.tasks()?;
        let idempotency = self.idempotency.take().map(|idempotency| Idempotency {
            fingerprint: super::fingerprint(&self.task),
            ..idempotency
        });
        let batch = Batch {
            tasks: vec![self.build()?],
            idempotency,
        };
        let accepted = queue.enqueue(batch).await?;
        // One task was given, so that one is answered.
        accepted.into_iter().next().ok_or_else(|| {
            flyball_tasks::Error::Stopped {
                why: "it answered no task".to_owned(),
            }
            .into()
        })
    }
}
