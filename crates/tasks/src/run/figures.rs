//! What was run, counted by kind, and what happened that the queue does not know.
//!
//! Invariants: at most [`KINDS_MAX`] kinds are counted by themselves, later ones as `other`; the newest [`EVENTS_MAX`] events are kept.

use flyball_core::time::WallTime;
use flyball_policy::queue::TaskId;
use std::collections::{BTreeMap, VecDeque};

const KINDS_MAX: usize = 1_000;
const OTHER: &str = "other";
/// The newest events that are kept.
pub const EVENTS_MAX: usize = 1_024;

/// Runs of a kind since the runners were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KindCounts {
    /// Taken and started.
    pub started: u64,
    /// Ended with success.
    pub completed: u64,
    /// Ended without, all causes.
    pub failed: u64,
    /// Of those, past their timeout.
    pub timed_out: u64,
    /// Of those, by a panic.
    pub panicked: u64,
    /// Ended because somebody cancelled the task.
    pub cancelled: u64,
    /// Given back unrun or unfinished, at no cost of an attempt.
    pub returned: u64,
    /// Ended because the lease was over.
    pub lost: u64,
    /// Paused for a higher class.
    pub preempted: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// A command was paused so that one of a higher class could run.
    Preempted {
        /// The task that was paused.
        id: TaskId,
        /// The task that got its slot.
        by: TaskId,
    },
    /// A paused command goes on.
    Resumed {
        /// The task.
        id: TaskId,
    },
    /// A task was no longer ours while it ran, and was ended.
    Lost {
        /// The task.
        id: TaskId,
    },
    /// A handler did not end when it was told to, and still occupies its thread; the task was reported without it.
    Stuck {
        /// The task.
        id: TaskId,
        /// Its kind.
        kind: Box<str>,
    },
    /// Processes of a command could not be killed.
    Survivors {
        /// The task.
        id: TaskId,
        /// How many.
        count: u32,
    },
    /// The breaker of a dependency opened.
    BreakerOpened {
        /// Of which.
        key: Box<str>,
        /// It only observes: calls go on.
        observed: bool,
    },
    /// The breaker of a dependency closed.
    BreakerClosed {
        /// Of which.
        key: Box<str>,
    },
    /// The queue did not answer as it should; asked again.
    QueueFailed {
        /// What it said.
        why: Box<str>,
    },
    /// No more tasks are taken; those that run may finish.
    Draining {
        /// How many run.
        running: u32,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEvent {
    /// Running number, from 1.
    pub number: u64,
    /// When.
    pub at: WallTime,
    /// What.
    pub what: Happened,
}

#[derive(Default)]
pub(crate) struct Figures {
    kinds: BTreeMap<Box<str>, KindCounts>,
    events: VecDeque<RunEvent>,
    last: u64,
}

impl Figures {
    pub(crate) fn count(&mut self, kind: &str, change: impl FnOnce(&mut KindCounts)) {
        let known = self.kinds.contains_key(kind) || self.kinds.len() < KINDS_MAX;
        let name = if known { kind } else { OTHER };
        if let Some(counts) = self.kinds.get_mut(name) {
            change(counts);
        } else {
            change(self.kinds.entry(name.into()).or_default());
        }
    }

    pub(crate) fn happened(&mut self, what: Happened) {
        // The same failure of the queue once a second would push everything else out.
        if let (Some(last), Happened::QueueFailed { .. }) = (self.events.back(), &what)
            && last.what == what
        {
            return;
        }
        self.last += 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(RunEvent {
            number: self.last,
            at: WallTime::now(),
            what,
        });
    }

    pub(crate) fn kinds(&self) -> BTreeMap<Box<str>, KindCounts> {
        self.kinds.clone()
    }

    pub(crate) fn events_after(&self, number: u64) -> Vec<RunEvent> {
        let newer = self.events.iter().filter(|event| event.number > number);
        newer.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_events_are_bounded() {
        let mut figures = Figures::default();
        for number in 0..2 * KINDS_MAX as u64 {
            figures.count(&number.to_string(), |counts| counts.started += 1);
            figures.happened(Happened::Resumed { id: TaskId(number) });
        }
        let kinds = figures.kinds();
        assert_eq!(kinds.len(), KINDS_MAX + 1);
        assert_eq!(kinds[OTHER].started, KINDS_MAX as u64);
        assert_eq!(figures.events_after(0).len(), EVENTS_MAX);
        assert_eq!(figures.events_after(2 * KINDS_MAX as u64 - 1).len(), 1);
    }
}
