//! A task in memory. What most tasks do not have stands apart ([`Extra`]), so that a plain one that waits takes little.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::{Timestamp, WallTime};

use super::task::{
    Attempts, Cron, Dependency, OnParentFailure, Reason, RetryPolicy, State, TaskId, Token,
    UniqueConflict, When,
};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// Its next attempt is a retry that the budget must pay for.
pub(super) const AGAIN: u8 = 1;
/// It shall stop.
pub(super) const CANCEL: u8 = 2;
/// People had it retried.
pub(super) const RETRIED: u8 = 4;
/// A request with an idempotency key was answered with it.
pub(super) const KEYED: u8 = 8;
/// It stands in its line.
pub(super) const LINED: u8 = 16;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: TaskId,
    pub(super) created: WallTime,
    /// Scheduled: the wall time at which it is ready; in line: its order; ended: the wall time of it.
    pub(super) moment: u64,
    /// Wall time at which the last attempt began; 0: none did.
    pub(super) started: u64,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) line: u32,
    /// Neighbours in its line, or among the ended.
    pub(super) prev: u32,
    pub(super) next: u32,
    pub(super) spec: u32,
    /// Of its lease.
    pub(super) run: u32,
    pub(super) attempts: Attempts,
    pub(super) state: State,
    pub(super) reason: Option<Reason>,
    pub(super) flags: u8,
}

impl Entry {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    pub(super) fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(super) fn deadline(&self) -> Option<WallTime> {
        if self.has(RETRIED) {
            return None;
        }
        self.extra.as_ref()?.deadline
    }

    pub(super) fn leased(&self) -> bool {
        matches!(self.state, State::Running | State::Paused)
    }
}

#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) deadline: Option<WallTime>,
    pub(super) not_before: Option<WallTime>,
    /// When the wait before the next attempt is over, and how long it is.
    pub(super) backoff: Option<(Timestamp, Duration)>,
    pub(super) after: Vec<Parent>,
    /// Parents that are waited for.
    pub(super) open: u32,
    /// In the order of their names: who came first is told first.
    pub(super) children: BTreeSet<TaskId>,
    /// How many children there may be before those that wait no longer are taken out.
    pub(super) prune_at: usize,
    pub(super) group: Option<u32>,
    pub(super) after_group: Option<(u32, When)>,
    /// Whether it waits for that.
    pub(super) waits_group: bool,
    pub(super) unique: Option<(u32, UniqueConflict)>,
    pub(super) affinity: Option<Box<str>>,
    pub(super) cron: Option<Box<Entries>>,
    pub(super) cron_of: Option<TaskId>,
}

/// A parent, and whether it is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parent {
    pub(super) dependency: Dependency,
    pub(super) waits: bool,
}

/// An entry of the calendar.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) cron: Cron,
    /// Ticks are done up to this time.
    pub(super) ticked: WallTime,
    /// Runs that have not ended, at most `RUNS_MAX` and those that people had retried.
    pub(super) runs: BTreeSet<TaskId>,
}

/// What tasks have in common beside their line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spec {
    pub(super) timeout: Option<Duration>,
    pub(super) max_attempts: u32,
    pub(super) base: Duration,
    pub(super) cap: Duration,
    pub(super) skip: bool,
}

impl Spec {
    pub(super) fn new(
        timeout: Option<Duration>,
        retry: RetryPolicy,
        otherwise: OnParentFailure,
    ) -> Self {
        Self {
            timeout,
            max_attempts: retry.max_attempts,
            base: retry.base,
            cap: retry.cap,
            skip: otherwise == OnParentFailure::Skip,
        }
    }

    pub(super) fn retry(&self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts,
            base: self.base,
            cap: self.cap,
        }
    }

    pub(super) fn otherwise(&self) -> OnParentFailure {
        if self.skip {
            OnParentFailure::Skip
        } else {
            OnParentFailure::Fail
        }
    }
}

/// A lease.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) token: Token,
    pub(super) worker: u32,
    pub(super) expires: Timestamp,
    pub(super) expires_wall: WallTime,
    pub(super) length: Duration,
    /// How long it ran, up to `since`.
    pub(super) ran: Duration,
    /// Since when it runs; none while it is held.
    pub(super) since: Option<Timestamp>,
    /// How long of that it stood still, as far as it was told.
    pub(super) stood: Duration,
    /// What its class was charged in advance, in virtual time.
    pub(super) charged: u128,
    /// Whether its needs count as held.
    pub(super) counted: bool,
}

impl Run {
    pub(super) fn ran(&self, now: Timestamp) -> Duration {
        self.ran
            + self
                .since
                .map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// What of that counts for its timeout.
    pub(super) fn worked(&self, now: Timestamp) -> Duration {
        self.ran(now).saturating_sub(self.stood)
    }
}

/// Tasks that must stop waiting for the unique key, or do wait for it.
#[derive(Debug, Default)]
pub(super) struct UniqueKey {
    /// Has started, and has not ended.
    pub(super) holder: Option<u32>,
    /// Has not started.
    pub(super) waiting: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    /// Tasks of it that have not ended.
    pub(super) live: u64,
    /// Tasks of it that have, forgotten ones included.
    pub(super) ended: [u64; 5],
    pub(super) forgotten: [u64; 5],
    /// Last tasks that wait for it.
    pub(super) waiters: BTreeSet<TaskId>,
}

impl Group {
    pub(super) fn closed_as(&self, when: When) -> bool {
        let done = self.ended[1..].iter().all(|count| *count == 0);
        match when {
            When::Success => done,
            When::Failure => !done,
            When::Any => true,
        }
    }
}

/// The place of a final state in the counts of a group.
pub(super) fn ended_index(state: State) -> usize {
    match state {
        State::Completed => 0,
        State::Failed => 1,
        State::Cancelled => 2,
        State::Skipped => 3,
        _ => 4,
    }
}

/// The place of a state in [`State::ALL`].
pub(super) const fn state_index(state: State) -> usize {
    state as usize
}

/// Whether an end lets a child go that waits for it so.
pub(super) fn lets_go(state: State, when: When) -> bool {
    match when {
        When::Success => state == State::Completed,
        When::Failure => state != State::Completed,
        When::Any => true,
    }
}
