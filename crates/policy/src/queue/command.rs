//! What the machine is told, and what it answers.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::WallTime;

use super::task::{
    Attempts, Cron, Head, InvalidTask, OnParentFailure, Outcome, State, TaskId, Token, Via, When,
};

/// Which kinds a lessee takes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Kinds {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// These.
    Only(Vec<Box<str>>),
    /// All but these.
    Except(Vec<Box<str>>),
}

impl Kinds {
    /// Whether a kind is taken.
    #[must_use]
    pub fn takes(&self, kind: &str) -> bool {
        match self {
            Kinds::None => false,
            Kinds::All => true,
            Kinds::Only(these) => these.iter().any(|one| &**one == kind),
            Kinds::Except(these) => !these.iter().any(|one| &**one == kind),
        }
    }
}

/// What a lessee has room for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Room {
    /// CPUs, thousandths; `None`: not counted.
    pub cpu_millis: Option<u32>,
    /// Memory, bytes; `None`: not counted.
    pub memory_bytes: Option<u64>,
    /// Named resources that are free; a task that needs another one is not given.
    pub resources: BTreeMap<Box<str>, u32>,
}

/// What is paused or resumed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything.
    All,
    /// A class.
    Class(Box<str>),
    /// A kind.
    Kind(Box<str>),
}

/// What a class means for the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassRule {
    /// Its name.
    pub name: Box<str>,
    /// 0 to 7.
    pub priority: u8,
    /// Its weight against others that have tasks waiting.
    pub shares: u32,
    /// Tasks of it that run at once.
    pub concurrency: Option<u32>,
    /// Tasks of one fairness key that run at once.
    pub key_concurrency: Option<u32>,
    /// Only to count what that would hold back.
    pub key_observe: bool,
    /// Tasks of it that may wait.
    pub queue_limit: usize,
}

/// What a task waits for now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Waiting {
    /// For a time.
    Until(WallTime),
    /// For the wait before the next attempt.
    Backoff(WallTime),
    /// For retries to be affordable: they are at most a fifth of the calls of a kind.
    RetryBudget,
    /// For a parent.
    Parent {
        /// Which.
        id: TaskId,
        /// What it is.
        state: State,
        /// How it must end.
        when: When,
        /// What happens else.
        otherwise: OnParentFailure,
    },
    /// For a group to close.
    Group {
        /// Which.
        name: Box<str>,
        /// Tasks of it that have not ended.
        open: u64,
    },
    /// Something is paused.
    Paused(Scope),
    /// So many of the class run already.
    ClassLimit {
        /// Run now.
        running: u32,
        /// May.
        limit: u32,
    },
    /// So many of the fairness key run already.
    KeyLimit {
        /// Run now.
        running: u32,
        /// May.
        limit: u32,
    },
    /// The unique key is in use.
    Unique {
        /// By this task.
        by: TaskId,
    },
    /// Everything that may run at once runs.
    Slots {
        /// Run now.
        running: u32,
        /// May.
        limit: u32,
    },
    /// A named resource, `cpu` or `memory` is not free.
    Resource {
        /// Which.
        name: Box<str>,
        /// How much it needs.
        needs: u64,
        /// How much is free.
        free: u64,
        /// How much there is at all; if that is less, it waits for ever.
        total: u64,
    },
    /// A breaker is open.
    Breaker {
        /// Of which dependency.
        key: Box<str>,
        /// Until then.
        until: Option<WallTime>,
    },
    /// As many calls of what it depends on are out as may.
    CallLimit {
        /// Of which dependency.
        key: Box<str>,
        /// Out now.
        running: u32,
        /// May be.
        limit: u32,
    },
    /// Nobody takes its kind.
    NobodyTakes {
        /// For so long.
        since: WallTime,
    },
    /// Who would run it cannot now.
    Unready {
        /// Why, in words.
        why: Box<str>,
    },
    /// Others go first.
    Turn {
        /// So many, at least, in its class.
        ahead: u64,
    },
    /// It runs.
    Running {
        /// Who has it.
        worker: Box<str>,
    },
    /// It has ended.
    Ended(State),
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tasks that have not ended, 1 to 2^31; more are refused.
    pub max_tasks: usize,
    /// Ended tasks (completed, cancelled, skipped) that are kept; the oldest go first.
    pub max_ended: usize,
    /// How long those are kept.
    pub retention: Duration,
    /// Failed tasks and dead letters that are kept; the oldest go first.
    pub max_dead: usize,
    /// How long those are kept.
    pub retention_dead: Duration,
    /// Idempotency keys that are remembered. A key is kept as long as a task of its request is; requests with a new key are refused beyond.
    pub max_idempotency: usize,
    /// Retries that a kind may make, in thousandths of its attempts, 0 to 1,000; a few a second are always free.
    pub retry_permille: u16,
    /// Only to count the retries that would wait because of that.
    pub retry_observe: bool,
    /// Of the jitter of retries. A store takes 0 for: draw one.
    pub seed: u64,
}

impl Default for Settings {
    /// A million tasks; 100,000 ended ones and as many dead letters, for 7 and 30 days; a fifth of the attempts may be retries.
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            max_tasks: 1_000_000,
            max_ended: 100_000,
            retention: Duration::from_secs(7 * DAY),
            max_dead: 100_000,
            retention_dead: Duration::from_secs(30 * DAY),
            max_idempotency: 1_000_000,
            retry_permille: 200,
            retry_observe: false,
            seed: 0,
        }
    }
}

/// Who can read calendar expressions.
pub trait Calendar {
    /// Says in words what is wrong with an entry's expression or time zone.
    ///
    /// # Errors
    /// The fault, and what was expected.
    fn check(&self, cron: &Cron) -> Result<(), String>;

    /// The first tick after an instant. MUST be later than `after`; none if there is no further one.
    fn next(&self, cron: &Cron, after: WallTime) -> Option<WallTime>;
}

/// A task that comes in.
#[derive(Clone, Copy, Debug)]
pub struct Entering<'a> {
    /// All that decides about its life.
    pub head: &'a Head,
    /// Parents in the same batch, by their place in it.
    pub parents: &'a [(usize, When)],
}

/// What makes a repeated request one.
#[derive(Clone, Copy, Debug)]
pub struct RequestKey<'a> {
    /// 1 to 255 bytes.
    pub key: &'a str,
    /// Of the body, so that the same key with another body is found out.
    pub fingerprint: [u8; 32],
}

/// Asks for tasks to run.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who asks, 1 to 128 bytes.
    pub worker: &'a str,
    /// Kinds that it takes as a handler or worker.
    pub handlers: &'a Kinds,
    /// Kinds of commands that it takes.
    pub commands: &'a Kinds,
    /// Kinds of calls of URLs that it takes.
    pub http: &'a Kinds,
    /// How many at most, 1 to 1,000.
    pub max: u32,
    /// How long each is its own without a heartbeat, 1 ms to 24 h.
    pub lease: Duration,
    /// How long it waits for the first: so long its kinds count as taken by somebody.
    pub wait: Duration,
    /// What is free; `None`: tasks are given whatever they need.
    pub room: Option<&'a Room>,
    /// Only tasks of classes with a priority above this one.
    pub above: Option<u8>,
}

/// What the machine is told.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Takes tasks, all or none. At most 1,000. Answers [`Reply::Accepted`].
    Enqueue {
        /// The tasks.
        tasks: &'a [Entering<'a>],
        /// Who repeats the request is answered as before.
        idempotency: Option<RequestKey<'a>>,
    },
    /// Hands tasks out, best first. Answers [`Reply::Leased`].
    Lease(Ask<'a>),
    /// Extends a lease. Answers [`Reply::Beaten`].
    Heartbeat {
        /// The task.
        id: TaskId,
        /// Of its lease.
        token: Token,
        /// How long the lease shall last from now, at most 24 h; zero: as long as it was taken for.
        lease: Duration,
        /// Whether the task is held (true) or goes on (false).
        paused: Option<bool>,
        /// How long in all it has stood still under this lease without being paused, as who may run for a part of the time does: its timeout does not
        /// count that. Less than was told before changes nothing.
        stood: Duration,
    },
    /// Ends an attempt. Answers [`Reply::State`].
    Finish {
        /// The task.
        id: TaskId,
        /// Of its lease.
        token: Token,
        /// How it went; `None`: it waits again, at no cost of an attempt.
        outcome: Option<Outcome>,
    },
    /// Ends waits before the next attempt, as what they were for is there. Answers [`Reply::Changed`].
    CallBack {
        /// Which tasks, at most 1,000, each with how often it was started: one that was started since, or does not wait so, is passed over.
        waits: &'a [(TaskId, u32)],
    },
    /// Cancels tasks. Answers [`Reply::Changed`].
    Cancel {
        /// Which, at most 1,000.
        ids: &'a [TaskId],
        /// Whether an unknown or ended task is an error, and changes nothing; else it is passed over.
        strict: bool,
    },
    /// Gives ended tasks that were not completed fresh attempts. Answers [`Reply::Changed`].
    Retry {
        /// Which, at most 1,000.
        ids: &'a [TaskId],
        /// As for [`Command::Cancel`].
        strict: bool,
    },
    /// Hands out no more tasks of a scope. Answers [`Reply::Done`]: whether it was not paused before.
    Pause {
        /// What.
        scope: &'a Scope,
        /// Who, for people to read; at most 128 bytes.
        by: &'a str,
    },
    /// Takes a pause back. Answers [`Reply::Done`]: whether there was one.
    Resume {
        /// What.
        scope: &'a Scope,
    },
    /// Does what is due: leases that ran out, waits that are over, deadlines, ticks of calendars, children of ended tasks, and forgetting. Bounded;
    /// if there is more to do, [`Queue::next_deadline`](super::Queue::next_deadline) is due at once. Answers [`Reply::Done`]: whether it did
    /// anything.
    Tick,
}

/// A task that is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its name.
    pub id: TaskId,
    /// What it is now.
    pub state: State,
    /// When it was taken; for a repeated request, the first time.
    pub created_at: WallTime,
    /// Whether it was there already: a repeated request, or a unique task that waits.
    pub existing: bool,
}

/// A task that is somebody's to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The task.
    pub id: TaskId,
    /// Proves that it is theirs.
    pub token: Token,
    /// When it is no longer, without a heartbeat.
    pub expires_at: WallTime,
    /// The number of the attempt, and how many count.
    pub attempts: Attempts,
}

/// What the machine answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The tasks of a batch, in its order.
    Accepted(Vec<Taken>),
    /// Tasks to run.
    Leased(Vec<Granted>),
    /// A lease goes on.
    Beaten {
        /// When it ends now.
        expires_at: WallTime,
        /// Whether the task shall stop: somebody cancelled it.
        cancelled: bool,
    },
    /// What a task has become.
    State(State),
    /// Tasks that were changed.
    Changed(Vec<TaskId>),
    /// Whether anything changed.
    Done(bool),
}

/// Says why the machine did not do what it was told. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A task of a batch cannot be taken.
    #[error(transparent)]
    Invalid(#[from] InvalidTask),
    /// A field of a request is out of its range.
    #[error("{field} must be {expected}")]
    Request {
        /// The field.
        field: &'static str,
        /// The range.
        expected: &'static str,
    },
    /// There is no such task, or it has been forgotten.
    #[error("there is no task {id}")]
    UnknownTask {
        /// The task.
        id: TaskId,
    },
    /// The token is not that of the task's lease.
    #[error("the lease of task {id} is over: the task is {} now", state.name())]
    StaleToken {
        /// The task.
        id: TaskId,
        /// What it is now.
        state: State,
    },
    /// The task is in a state in which this cannot be done.
    #[error("task {id} is {}: {expected}", state.name())]
    WrongState {
        /// The task.
        id: TaskId,
        /// What it is.
        state: State,
        /// What it would have to be.
        expected: &'static str,
    },
    /// The idempotency key was used for another body.
    #[error("the idempotency key was used before, with another body")]
    KeyReused,
    /// The queue is full.
    #[error("the queue is full: {what}; try again in {retry_after:?}")]
    Full {
        /// Which bound, with its figure.
        what: String,
        /// When trying again makes sense.
        retry_after: Duration,
    },
}

impl Ask<'_> {
    /// Whether it takes tasks of a kind that run this way.
    #[must_use]
    pub fn takes(&self, via: Via, kind: &str) -> bool {
        match via {
            Via::Command => self.commands.takes(kind),
            Via::Http => self.http.takes(kind),
            Via::Handler => self.handlers.takes(kind),
        }
    }
}
