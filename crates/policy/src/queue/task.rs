//! What a task is, as far as its life is concerned.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::num::ParseIntError;
use core::str::FromStr;
use core::time::Duration;
use flyball_core::time::{Timestamp, WallTime};

/// The time as a command is told it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Of the clock that never jumps: leases, timeouts, backoff.
    pub mono: Timestamp,
    /// Of the calendar, which may jump either way: not-before, deadline, cron, and what people read.
    pub wall: WallTime,
}

/// Names a task: its running number in the store, from 1. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId(pub u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// The fencing token of a lease: the store's epoch, which grows with every start after a crash, and the lease's number in it. A later
/// lease of the same task has a greater token.
///
/// Source: M. Kleppmann, "How to do distributed locking" (2016).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token {
    /// Of the store.
    pub epoch: u32,
    /// In the epoch, from 1.
    pub number: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

/// Who can run it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Via {
    /// The daemon, as a child process.
    Command,
    /// The daemon, by a call of a URL.
    Http,
    /// A registered handler of its kind; failing that, outside workers that lease it.
    Handler,
}

/// Where a task is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Waits for a time: not-before, the next attempt, the next tick of its cron.
    Scheduled,
    /// Waits for parents.
    Blocked,
    /// May start.
    Pending,
    /// Leased.
    Running,
    /// Leased, and held by who runs it.
    Paused,
    /// Done.
    Completed,
    /// Ended without success; its [`Reason`] says how.
    Failed,
    /// Taken back by people or programs.
    Cancelled,
    /// Never run, as a parent did not end as asked.
    Skipped,
    /// Failed for good after its attempts, and kept to be looked at and retried: a dead letter.
    Dead,
}

impl State {
    /// All states.
    pub const ALL: [State; 10] = [
        State::Scheduled,
        State::Blocked,
        State::Pending,
        State::Running,
        State::Paused,
        State::Completed,
        State::Failed,
        State::Cancelled,
        State::Skipped,
        State::Dead,
    ];

    /// Its name in API, log and store.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Scheduled => "scheduled",
            State::Blocked => "blocked",
            State::Pending => "pending",
            State::Running => "running",
            State::Paused => "paused",
            State::Completed => "completed",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Skipped => "skipped",
            State::Dead => "dead",
        }
    }

    /// Whether nothing more happens to it by itself.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            State::Completed | State::Failed | State::Cancelled | State::Skipped | State::Dead
        )
    }
}

/// Why an attempt or a task ended without success.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// It said so.
    Error,
    /// Ran past its timeout.
    TimedOut,
    /// Its deadline passed before it could start or start again.
    DeadlineMissed,
    /// Its handler panicked.
    Panicked,
    /// The lease ran out: nobody was heard of.
    LeaseExpired,
    /// The daemon died while it ran.
    Crashed,
    /// A parent did not end as asked.
    Parent,
    /// Its cron had the next tick take its place.
    Replaced,
}

impl Reason {
    /// Its name in API, log and store.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Error => "error",
            Reason::TimedOut => "timed_out",
            Reason::DeadlineMissed => "deadline_missed",
            Reason::Panicked => "panicked",
            Reason::LeaseExpired => "lease_expired",
            Reason::Crashed => "crashed",
            Reason::Parent => "parent",
            Reason::Replaced => "replaced",
        }
    }
}

/// How an attempt ended, as who ran it says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Outcome {
    /// With success.
    Done,
    /// Without.
    Failed {
        /// How.
        reason: Reason,
        /// Whether another attempt may help.
        retryable: bool,
        /// Not before this long has passed, as the one who failed asks (`Retry-After`).
        after: Option<Duration>,
    },
    /// It was not run, for a cause that is not its own and lasts (a breaker is open): it waits again, for so long at least, at no cost of an
    /// attempt.
    Returned {
        /// Not before this long has passed.
        after: Duration,
    },
}

/// When a failed attempt is followed by another: exponential backoff with full jitter.
///
/// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    /// All attempts, the first included, 1 to 1,000.
    pub max_attempts: u32,
    /// The wait before the second attempt is between nothing and this; it doubles with each attempt.
    pub base: Duration,
    /// The most that it grows to.
    pub cap: Duration,
}

/// How many attempts there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attempts {
    /// Starts, those that cost nothing included: the number of the attempt.
    pub started: u32,
    /// Those that count against the limit: failures and crashes, not drains and preemptions.
    pub counted: u32,
}

/// After which end of a parent a task is let go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum When {
    /// Completed.
    #[default]
    Success,
    /// Failed, dead, cancelled or skipped.
    Failure,
    /// Any end.
    Any,
}

/// A parent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Dependency {
    /// The task that must end first.
    pub parent: TaskId,
    /// How.
    pub when: When,
}

/// The end of a group, to start one last task.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GroupEnd {
    /// The group; it must have had a task. From then on it takes tasks without parents only, until it closes: a task with parents could wait
    /// for the last task, and that one for the group.
    pub group: Box<str>,
    /// All of its tasks completed, at least one did not, or any end.
    pub when: When,
}

/// What becomes of a task when a parent ends otherwise than asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnParentFailure {
    /// It is skipped.
    #[default]
    Skip,
    /// It fails, with [`Reason::Parent`].
    Fail,
}

/// What must be free before it starts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Needs {
    /// CPUs, thousandths.
    pub cpu_millis: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Named countable resources, by name, each at least 1; sorted, no name twice.
    pub resources: Vec<(Box<str>, u32)>,
}

impl Needs {
    /// Whether nothing must be free.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.cpu_millis == 0 && self.memory_bytes == 0 && self.resources.is_empty()
    }
}

/// At most one running and one waiting task of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unique {
    /// The key, over all kinds.
    pub key: Box<str>,
    /// What happens to the one that waits when another comes.
    pub on_conflict: UniqueConflict,
}

/// What happens to the task that waits for a unique key when another one comes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum UniqueConflict {
    /// The one that waits stays as it is; the new one is answered with its id.
    #[default]
    Keep,
    /// The one that waits takes the new one's payload and settings.
    Replace,
    /// As replace, and its not-before moves to the new one's (a debounce).
    Extend,
}

/// A calendar of starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cron {
    /// Five or six fields, or a nickname such as `@daily`; checked by who can read it.
    pub expression: Box<str>,
    /// IANA name, such as `Europe/Berlin`; UTC if none was given.
    pub time_zone: Box<str>,
    /// What happens at a tick while the last run goes on.
    pub overlap: Overlap,
    /// What happens to ticks at which nobody was there to start anything.
    pub missed: Missed,
    /// A tick counts as missed when it is later than this, and than a second.
    pub grace: Duration,
}

/// What happens at a tick while the last run goes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Overlap {
    /// The tick is skipped.
    #[default]
    Skip,
    /// The tick's run waits for the last one.
    Queue,
    /// The last run is cancelled.
    Replace,
}

/// What happens to ticks at which nobody was there to start anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Missed {
    /// Nothing.
    #[default]
    Skip,
    /// One run for all of them.
    Once,
    /// A run for each, at most 100.
    All,
}

/// All of a task that decides about its life.
#[derive(Clone, PartialEq, Debug)]
pub struct Head {
    /// The name people chose: 1 to 128 bytes, no control characters.
    pub kind: Box<str>,
    /// Who can run it.
    pub via: Via,
    /// The scheduling class.
    pub class: Box<str>,
    /// Within the class, higher first.
    pub priority: i32,
    /// Must have started by then.
    pub deadline: Option<WallTime>,
    /// Must not start before.
    pub not_before: Option<WallTime>,
    /// Starts by a calendar; the task itself is then the calendar's entry, and each tick makes a task of its own.
    pub cron: Option<Box<Cron>>,
    /// How long an attempt may run, time paused not counted.
    pub timeout: Option<Duration>,
    /// When a failed attempt is followed by another.
    pub retry: RetryPolicy,
    /// Its parents.
    pub after: Vec<Dependency>,
    /// What becomes of it when one of them ends otherwise than asked.
    pub on_parent_failure: OnParentFailure,
    /// What must be free before it starts.
    pub needs: Needs,
    /// Where it likes to run.
    pub affinity_key: Option<Box<str>>,
    /// Fairness key: inside a class keys take turns.
    pub key: Option<Box<str>>,
    /// At most one running and one waiting of this.
    pub unique: Option<Box<Unique>>,
    /// The group it is counted in; a group closes when all of its tasks have ended.
    pub group: Option<Box<str>>,
    /// The group that must close first: this is its last task.
    pub after_group: Option<Box<GroupEnd>>,
}

/// Says why a task cannot be taken. Nothing has changed then.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
#[error("{field} {fault}")]
pub struct InvalidTask {
    /// Which task of the batch, from 0.
    pub index: usize,
    /// The field as the API names it, such as `retry.max_attempts` or `after[0]`.
    pub field: Box<str>,
    /// What is wrong and what was expected.
    pub fault: Box<str>,
}

impl InvalidTask {
    /// Makes one, for what only a backend can check.
    #[must_use]
    pub fn new(index: usize, field: impl Into<Box<str>>, fault: impl Into<Box<str>>) -> Self {
        Self {
            index,
            field: field.into(),
            fault: fault.into(),
        }
    }
}
