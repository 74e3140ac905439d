//! What the machine wants written, and what it says happened.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::WallTime;

use super::command::Scope;
use super::task::{Attempts, Reason, State, TaskId, Token};

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

/// The part of a task that changes, as it is written. The rest is its [`Head`](super::Head).
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
    /// It lives, and reads its rows again: leases that are out are honoured, and tokens go on.
    Again {
        /// No lease has had this token or a greater one: [`Queue::next_token`](super::Queue::next_token) of the machine before.
        token: Token,
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
    /// Starts since then beyond limits of keys that only observe.
    pub key_excess: u64,
    /// Retries since then beyond budgets that only observe.
    pub retry_excess: u64,
    /// About how much memory it takes, bytes.
    pub memory_bytes: u64,
}
