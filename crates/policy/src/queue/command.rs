//! What the machine is told, and what it answers.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::WallTime;

use super::task::{
    Attempts, Cron, Head, InvalidTask, OnParentFailure, Outcome, Reason, State, TaskId, Token, Via,
    When,
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
    /// Retries that a kind may make, in thousandths of its attempts, 0 to 1,000; a few a second are always free. It holds for kinds that have not
    /// started anything yet.
    pub retry_permille: u16,
    /// Of the jitter of retries.
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

/// Where the body (what the machine does not know of a task: payload, command, labels) of a new task comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// From this place of the batch.
    Batch(usize),
    /// From this task, which made it: its calendar's entry.
    Copy(TaskId),
}

/// A task that was not there before, or waits with a new body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The task.
    pub id: TaskId,
    /// Where its body comes from.
    pub body: Body,
}

/// A pause, by whom and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Who.
    pub by: Box<str>,
    /// Since when.
    pub since: WallTime,
}

/// What is known of a request that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Of its body.
    pub fingerprint: [u8; 32],
    /// The tasks it was answered with, and how those ended that have been forgotten.
    pub tasks: Vec<(TaskId, Option<State>)>,
    /// When it came.
    pub at: WallTime,
}

/// What is kept beside tasks: a value by name, or its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaChange {
    /// A pause; `None` ends it.
    Pause(Scope, Option<Pause>),
    /// A request by its idempotency key; `None` forgets it.
    Idempotency(Box<str>, Option<Remembered>),
    /// Tasks of a group that have been forgotten, by how they ended: completed, failed, cancelled, skipped, dead; `None` forgets the group.
    Group(Box<str>, Option<[u64; 5]>),
    /// The newest name that a task has had: no later one gets it or one below it, though that task be forgotten.
    LastId(TaskId),
}

/// Why a task's state changed, or what else happened to it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cause {
    /// It came in.
    Enqueued,
    /// A tick of the calendar made it, meant for this time.
    CronTick(WallTime),
    /// A newer one took the place of what waited for the unique key.
    Swapped,
    /// What it waited for is over.
    Ready,
    /// Somebody has it.
    Leased,
    /// Who has it holds it.
    Held,
    /// Who has it goes on with it.
    Continued,
    /// It succeeded.
    Done,
    /// The attempt failed; another follows after this long.
    RetryIn {
        /// How it failed.
        reason: Reason,
        /// The wait.
        wait: Duration,
        /// The attempts that count, and the most there may be.
        counted: u32,
        /// See `counted`.
        max: u32,
    },
    /// The attempt failed; no other follows.
    Ended(Reason),
    /// It came back without having run to its end, at no cost.
    Returned,
    /// It was to be cancelled, and has stopped or is not running.
    Cancelled,
    /// Somebody wants it cancelled; it runs still.
    CancelRequested,
    /// Somebody had it retried.
    Retried,
    /// The tick of this time started nothing, as the last run goes on.
    TickOverlapped(WallTime),
    /// Ticks up to this time started nothing, as nobody was there.
    TicksMissed(WallTime),
    /// The tick of this time started nothing, as the queue is full.
    TickRefused(WallTime),
    /// The calendar has no further tick.
    CalendarOver,
    /// It was running as the process ended.
    Crashed,
    /// It was kept long enough, and is forgotten.
    Forgotten,
}

impl core::fmt::Display for Cause {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Cause::RetryIn {
                reason,
                wait,
                counted,
                max,
            } => {
                let millis = wait.as_millis();
                return write!(
                    f,
                    "{}; retry {counted} of {} in {}.{:03} s",
                    words(*reason),
                    max.saturating_sub(1),
                    millis / 1000,
                    millis % 1000
                );
            }
            Cause::Ended(reason) => words(*reason),
            Cause::CronTick(_) => "made by its calendar",
            Cause::TickOverlapped(_) => "skipped a tick: the last run goes on",
            Cause::TicksMissed(_) => "skipped ticks at which nobody was there to start anything",
            Cause::TickRefused(_) => "skipped a tick: the queue is full",
            Cause::CalendarOver => "the calendar has no further tick",
            Cause::Enqueued => "enqueued",
            Cause::Swapped => "replaced by a newer one with its unique key",
            Cause::Ready => "what it waited for is over",
            Cause::Leased => "leased",
            Cause::Held => "held",
            Cause::Continued => "continued",
            Cause::Done => "done",
            Cause::Returned => "returned before its end, at no cost of an attempt",
            Cause::Cancelled => "cancelled",
            Cause::CancelRequested => "shall be cancelled",
            Cause::Retried => "retried",
            Cause::Crashed => "the daemon died while it ran",
            Cause::Forgotten => "forgotten",
        })
    }
}

/// A reason as a part of a sentence.
fn words(reason: Reason) -> &'static str {
    match reason {
        Reason::Error => "failed",
        Reason::TimedOut => "timed out",
        Reason::DeadlineMissed => "deadline missed",
        Reason::Panicked => "panicked",
        Reason::LeaseExpired => "lease expired",
        Reason::Crashed => "the daemon died while it ran",
        Reason::Parent => "a parent did not end as asked",
        Reason::Replaced => "replaced by the next tick",
    }
}

/// Something that happened to a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The task.
    pub id: TaskId,
    /// What it was; none for a new task.
    pub from: Option<State>,
    /// What it is.
    pub to: State,
    /// The number of the attempt.
    pub attempt: u32,
    /// Why.
    pub cause: Cause,
}

/// A group that closed: all of its tasks have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its name.
    pub group: Box<str>,
    /// Its tasks by how they ended: completed, failed, cancelled, skipped, dead.
    pub ended: [u64; 5],
}

/// What must be on disk before anybody is answered, and what happened.
///
/// For one commit: what a later command of the same commit says comes after what an earlier one said. Who puts more than one enqueue into a
/// commit takes `added` and `swapped` out between them, as places of batches mean the last one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// New tasks: head, record and body are to be written.
    pub added: Vec<Placed>,
    /// Waiting tasks that were replaced: head, record and body are to be written anew, and what was kept of progress is void.
    pub swapped: Vec<Placed>,
    /// Tasks whose record is to be written; the same may be there more than once.
    pub changed: Vec<TaskId>,
    /// Forgotten tasks: everything of them is to be removed.
    pub removed: Vec<TaskId>,
    /// What else is to be written.
    pub meta: Vec<MetaChange>,
    /// What happened, in order. Kinds and classes are asked for by [`Queue::names`](super::Queue::names), before the next command.
    pub events: Vec<Event>,
    /// Groups that closed.
    pub closed: Vec<Closed>,
    /// Whether there may be something to lease that was not there before: those who wait for a lease should ask again.
    pub ready: bool,
}

impl Effects {
    /// Makes it empty, and keeps its memory.
    pub fn clear(&mut self) {
        self.added.clear();
        self.swapped.clear();
        self.changed.clear();
        self.removed.clear();
        self.meta.clear();
        self.events.clear();
        self.closed.clear();
        self.ready = false;
    }

    /// Whether there is anything to write.
    #[must_use]
    pub fn writes(&self) -> bool {
        !(self.added.is_empty()
            && self.swapped.is_empty()
            && self.changed.is_empty()
            && self.removed.is_empty()
            && self.meta.is_empty())
    }
}

/// The lease of a task, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Proves whose it is.
    pub token: Token,
    /// Who has it.
    pub worker: Box<str>,
    /// When it ends, for people to read: what counts is a clock that no restart keeps, so a clean start gives each lease its full length again.
    pub expires_at: WallTime,
    /// Its length.
    pub length: Duration,
}

/// The part of a task that changes, as it is written. The rest is its [`Head`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub state: State,
    /// Why its last attempt or it ended without success.
    pub reason: Option<Reason>,
    /// How often it was started.
    pub attempts: Attempts,
    /// When it was taken.
    pub created_at: WallTime,
    /// When it may start or start again, while it is scheduled.
    pub ready_at: Option<WallTime>,
    /// If it waits for another attempt: the whole wait. A start later than that ends it, whatever the wall clock says.
    pub backoff: Option<Duration>,
    /// When the last attempt began.
    pub started_at: Option<WallTime>,
    /// When it ended for good.
    pub ended_at: Option<WallTime>,
    /// The lease, while it runs or is held.
    pub lease: Option<LeaseRecord>,
    /// Whether it shall stop: cancelled while it runs.
    pub cancel_requested: bool,
    /// Whether its next attempt is a retry that the budget must pay for.
    pub again: bool,
    /// Whether people had it retried: its deadline and its group's end no longer count.
    pub retried: bool,
    /// Whether the unique key is its own, as it has started.
    pub holds_unique: bool,
    /// For a blocked task: the parents it waits for still. (Another may have ended as asked, and been retried since.)
    pub waits_for: Vec<TaskId>,
    /// For a blocked task: whether it waits for its group to close.
    pub waits_for_group: bool,
    /// The entry of the calendar that made it.
    pub cron_of: Option<TaskId>,
    /// For an entry of the calendar: its ticks are done up to this time.
    pub ticked: Option<WallTime>,
}

/// How the last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It closed the store: leases that are out are honoured.
    Clean {
        /// Greater than that of any process before.
        epoch: u32,
    },
    /// It did not: leases that were out are void, and their attempts count.
    Crashed {
        /// As for `Clean`.
        epoch: u32,
    },
}

/// Figures of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Figures {
    /// Tasks by state, in the order of [`State::ALL`].
    pub by_state: [u64; 10],
    /// Tasks accepted since the queue was made.
    pub accepted: u64,
    /// Tasks completed since then.
    pub completed: u64,
    /// Attempts that failed since then.
    pub failed_attempts: u64,
    /// Leases that ran out since then.
    pub expired_leases: u64,
    /// Requests refused as the queue was full, since then.
    pub refused: u64,
    /// About how much memory it takes, bytes.
    pub memory_bytes: u64,
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
