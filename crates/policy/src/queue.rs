//! Durable tasks: what becomes of them, decided without a clock, a disk or a thread.
//!
//! A backend keeps tasks on disk and asks the machine ([`Queue`]) what happens next; it writes what the machine answers ([`Effects`]) before
//! anybody learns of it. All of a task that decides about its life is its [`Head`]; payloads and commands are bytes that only the backend knows.
//!
//! Two times are told with every command ([`Now`]): leases, backoff and timeouts follow the clock that never jumps, and calendar entries
//! (not-before, deadline, cron, retention) the wall clock.
//!
//! Invariants
//! - A task that was accepted ends exactly once, until people have it retried; nothing but a command or the time changes it.
//! - A task has one lessee at most, and each lease a token greater than those before. Who has another token changes nothing.
//! - What is refused has changed nothing.
//! - No command costs more with more tasks, but for a logarithm. Work that one command may cause without bound (children of a task that
//!   ended, tasks to be forgotten) is done in parts, by [`Command::Tick`]; a crash between them loses nothing, as opening finds what is left to do.
//!
//! Rules that are not obvious
//! - *Attempts.* A failure that may be retried, a lease that ran out and a crash of the daemon count. With none left, the task is dead. A
//!   failure that may not be retried makes it failed. Returned tasks count nothing and stand in front.
//! - *Retries* wait with full jitter, and are at most a fifth of the calls of their kind, with a floor of some a second
//!   ([`RetryBudget`](crate::limit::RetryBudget)): a retry that cannot be afforded waits on, it is not given up.
//! - *Unique keys.* Who has started holds the key until it ends for good, through all its attempts; one more may wait for it.
//! - *Room.* A task that does not fit lets others go first. Once others were given room in its place for [`PATIENCE`], it is given
//!   precedence: nobody is given more of what it lacks, until it fits or [`PRECEDENCE_MAX`] is over, which begins a new wait. Who needs more than
//!   there was ever room for gets no precedence.
//! - *Timeouts* are for who runs the task to keep. The machine lets no lease outlast the timeout by more than [`TIMEOUT_GRACE`]; time in which
//!   a task was paused, or of which a sign of life says that it stood still, does not count.
//! - *People's retries* begin anew: attempts are counted from zero, the deadline is void, and only those parents are waited for that live.
//!
//! Leaves out: what runs tasks, breakers, and how many run at once over all.

mod admit;
mod attempt;
mod check;
mod command;
mod cron;
mod effects;
mod enqueue;
mod entry;
mod index;
mod lease;
mod life;
mod line;
mod names;
mod parents;
mod people;
mod room;
mod slab;
mod store;
mod task;
mod tick;
mod valid;
mod why;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::rng::Rng;
use flyball_core::time::{Timestamp, WallTime};

use entry::{Entry, Group, NONE, Run, Spec, UniqueKey};
use index::Index;
use line::Lines;
use names::Shared;
use slab::Slab;

pub use command::{
    Ask, Calendar, ClassRule, Command, Entering, Granted, Kinds, Refused, Reply, RequestKey, Room,
    Scope, Settings, Taken, Waiting,
};
pub use effects::{
    Body, Cause, Closed, Effects, Event, Figures, LeaseRecord, MetaChange, Opening, Pause, Placed,
    Record, Remembered,
};
pub use task::{
    Attempts, Cron, Dependency, GroupEnd, Head, InvalidTask, Missed, Needs, Now, OnParentFailure,
    Outcome, Overlap, Reason, RetryPolicy, State, TaskId, Token, Unique, UniqueConflict, Via, When,
};

/// The most tasks of one request: of a batch, a lease, a call back, a cancel or a retry.
pub const BATCH_MAX: usize = 1_000;
/// The longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How much longer than its timeout a lease may last: time to end a process tree and to say so.
pub const TIMEOUT_GRACE: Duration = Duration::from_secs(30);
/// How long others may be given room in the place of a task that does not fit.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long room is kept free for one task.
pub const PRECEDENCE_MAX: Duration = Duration::from_secs(600);
/// Somebody who asked for tasks within this time counts as there.
const ASKED_WITHIN: Duration = Duration::from_secs(60);
/// The most lessees that are remembered, to say who takes what.
const ASKERS_MAX: usize = 256;
/// Children told, tasks forgotten and timers served by one command.
const STEPS_MAX: usize = 1_000;

/// Tasks that ended, in the order of their ends.
#[derive(Clone, Copy, Debug)]
struct EndedList {
    head: u32,
    tail: u32,
    len: usize,
}

impl EndedList {
    const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
        len: 0,
    };
}

/// Who asked for tasks.
#[derive(Debug)]
struct Asker {
    handlers: Kinds,
    commands: Kinds,
    http: Kinds,
    /// Until then it waits for an answer.
    until: Timestamp,
    at: WallTime,
}

/// A request that may be repeated.
#[derive(Debug)]
struct Request {
    remembered: Remembered,
    /// Tasks of it that are still there.
    left: usize,
}

/// What remains to be done after something ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// The children of a task.
    Children(TaskId),
    /// Those who wait for a group.
    Group(u32),
}

/// Room of who asked last, for people to read and for tasks that do not fit.
#[derive(Debug, Default)]
struct Seen {
    free: Room,
    /// The most there ever was: what was free and what was held.
    cpu_millis: u64,
    memory_bytes: u64,
    resources: BTreeMap<Box<str>, u64>,
    any: bool,
}

/// What leases hold that were given with a room.
#[derive(Debug, Default)]
struct Held {
    cpu_millis: u64,
    memory_bytes: u64,
    resources: BTreeMap<Box<str>, u64>,
}

/// The state machine of durable tasks. See the [module](self).
pub struct Queue {
    settings: Settings,
    calendar: Box<dyn Calendar + Send>,
    rng: Rng,
    epoch: u32,
    next_token: u64,
    last_id: u64,
    tasks: Slab<Entry>,
    index: Index,
    lines: Lines,
    specs: Shared<Spec, ()>,
    runs: Slab<Run>,
    workers: Shared<Box<str>, ()>,
    groups: Shared<Box<str>, Group>,
    uniques: Shared<Box<str>, UniqueKey>,
    requests: Shared<Box<str>, Request>,
    /// Requests by the tasks they were answered with.
    requests_of: BTreeSet<(TaskId, u32)>,
    pauses: BTreeMap<Scope, Pause>,
    /// Ends of leases.
    leases: BTreeSet<(Timestamp, u32)>,
    /// Ends of waits before the next attempt.
    backoffs: BTreeSet<(Timestamp, u32)>,
    /// Not-before times, and ticks of the calendar.
    waits: BTreeSet<(WallTime, u32)>,
    deadlines: BTreeSet<(WallTime, u32)>,
    /// When a kind can afford a retry that waits for it.
    budgets: Option<Timestamp>,
    backlog: VecDeque<Told>,
    ended: EndedList,
    dead: EndedList,
    /// Restored tasks that opening looks at again.
    restored: Vec<u32>,
    /// Groups that are held for opening.
    restored_groups: usize,
    figures: Figures,
    askers: BTreeMap<Box<str>, Asker>,
    seen: Seen,
    held: Held,
    /// The lane that has precedence, and since when.
    first: Option<(u32, Timestamp)>,
    extras: usize,
}

impl core::fmt::Debug for Queue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Queue")
            .field("settings", &self.settings)
            .field("figures", &self.figures)
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// Makes an empty queue. Its rows, if there are any, are told by [`restore_meta`](Self::restore_meta) and [`restore`](Self::restore);
    /// [`opened`](Self::opened) must follow, before the first command.
    #[must_use]
    pub fn new(settings: Settings, calendar: Box<dyn Calendar + Send>) -> Self {
        Self {
            rng: Rng::seeded(settings.seed),
            settings,
            calendar,
            epoch: 0,
            next_token: 1,
            last_id: 0,
            tasks: Slab::new(),
            index: Index::default(),
            lines: Lines::new(),
            specs: Shared::new(),
            runs: Slab::new(),
            workers: Shared::new(),
            groups: Shared::new(),
            uniques: Shared::new(),
            requests: Shared::new(),
            requests_of: BTreeSet::new(),
            pauses: BTreeMap::new(),
            leases: BTreeSet::new(),
            backoffs: BTreeSet::new(),
            waits: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            budgets: None,
            backlog: VecDeque::new(),
            ended: EndedList::EMPTY,
            dead: EndedList::EMPTY,
            restored: Vec::new(),
            restored_groups: 0,
            figures: Figures::default(),
            askers: BTreeMap::new(),
            seen: Seen::default(),
            held: Held::default(),
            first: None,
            extras: 0,
        }
    }

    /// Does what it is told.
    ///
    /// # Errors
    /// [`Refused`] says why not; nothing has changed then, and `effects` is as it was.
    pub fn apply(
        &mut self,
        now: Now,
        command: Command<'_>,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        let reply = match command {
            Command::Enqueue { tasks, idempotency } => {
                self.enqueue(now, tasks, idempotency, effects)
            }
            Command::Lease(ask) => self.lease(now, &ask, effects),
            Command::Heartbeat {
                id,
                token,
                lease,
                paused,
                stood,
            } => self.heartbeat(now, id, token, lease, (paused, stood), effects),
            Command::Finish { id, token, outcome } => self.finish(now, id, token, outcome, effects),
            Command::CallBack { waits } => self.call_back(now, waits, effects),
            Command::Cancel { ids, strict } => self.cancel(now, ids, strict, effects),
            Command::Retry { ids, strict } => self.retry(now, ids, strict, effects),
            Command::Pause { scope, by } => self.pause(now, scope, by, effects),
            Command::Resume { scope } => self.resume(scope, effects),
            Command::Tick => Ok(Reply::Done(self.tick(now, effects))),
        };
        match &reply {
            Ok(_) => self.tell(now, effects),
            Err(Refused::Full { .. }) => self.figures.refused += 1,
            Err(_) => {}
        }
        reply
    }

    /// When [`Command::Tick`] is due next: by the clock that never jumps, and by the wall clock.
    #[must_use]
    pub fn next_deadline(&self) -> (Option<Timestamp>, Option<WallTime>) {
        let mono = [
            self.leases.first().map(|(at, _)| *at),
            self.backoffs.first().map(|(at, _)| *at),
            self.budgets,
            (!self.backlog.is_empty()).then_some(Timestamp::from_nanos(0)),
        ];
        let wall = [
            self.waits.first().map(|(at, _)| *at),
            self.deadlines.first().map(|(at, _)| *at),
            self.forget_at(),
        ];
        (
            mono.into_iter().flatten().min(),
            wall.into_iter().flatten().min(),
        )
    }

    /// Changes the bounds. What is beyond smaller ones is forgotten by and by; tasks that have not ended stay.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The bounds.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn live(&self) -> usize {
        self.tasks.len() - self.ended.len - self.dead.len
    }

    /// Figures, all counted as things happen.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let memory_bytes = self.tasks.bytes()
            + self.index.bytes()
            + self.lines.bytes()
            + self.runs.bytes()
            + self.extras * size_of::<entry::Extra>()
            + (self.leases.len() + self.backoffs.len() + self.waits.len() + self.deadlines.len())
                * 24
            + self.requests.len() * 256;
        Figures {
            memory_bytes: memory_bytes as u64,
            ..self.figures.clone()
        }
    }

    /// Classes with tasks, or with a rule, and their tasks by state in the order of [`State::ALL`]; ended ones are not counted.
    pub fn classes(&self) -> impl Iterator<Item = (&str, &[u64; 10])> {
        self.lines
            .classes
            .iter()
            .map(|(_, name, class)| (&**name, &class.counts))
    }

    /// As [`classes`](Self::classes), by kind.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, &[u64; 10])> {
        self.lines
            .kinds
            .iter()
            .map(|(_, name, kind)| (&**name, &kind.counts))
    }

    /// What is paused.
    #[must_use]
    pub fn pauses(&self) -> &BTreeMap<Scope, Pause> {
        &self.pauses
    }

    /// What a task is now; none if it is not there or was forgotten.
    #[must_use]
    pub fn state(&self, id: TaskId) -> Option<State> {
        Some(self.tasks[self.index.get(id)?].state)
    }

    /// What most tasks do not have of a task that has it from now on.
    fn extra(&mut self, slot: u32) -> &mut entry::Extra {
        let entry = &mut self.tasks[slot];
        self.extras += usize::from(entry.extra.is_none());
        entry.extra_mut()
    }

    /// Kind and class of a task.
    #[must_use]
    pub fn names(&self, id: TaskId) -> Option<(&str, &str)> {
        let lane = self.lines.lane_of(self.tasks[self.index.get(id)?].line);
        Some((
            self.lines.kinds.key(lane.kind),
            self.lines.classes.key(lane.class),
        ))
    }
}
