//! What writer, readers and the queue's handle all see.

use super::inbox::Inbox;
use super::message::{Message, Return};
use super::ring::Ring;
use super::rows::Writes;
use flyball_policy::queue::{State, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What turned out to be damaged.
#[derive(Debug, Default)]
pub(super) struct DamageFound {
    /// Tasks, and what does not fit.
    pub(super) tasks: BTreeMap<TaskId, String>,
    /// Rows that belong to no task.
    pub(super) meta: u64,
    /// What was wrong with the log when it was opened.
    pub(super) log: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inbox: Inbox<Message>,
    pub(super) ring: Ring,
    damaged: Mutex<DamageFound>,
    /// Tasks that are leased: no index of the file tells, as each task would pass through it.
    running: Mutex<BTreeSet<TaskId>>,
    /// Leases that come back. As many as are out at most.
    returns: Mutex<Vec<Return>>,
    stopped: Mutex<Option<String>>,
    /// Whether the writer shall end as if the process had died.
    #[cfg(test)]
    pub(super) dies: std::sync::atomic::AtomicBool,
}

impl Shared {
    pub(super) fn new(inbox_units: u32, events: usize) -> Shared {
        Shared {
            inbox: Inbox::new(inbox_units),
            ring: Ring::new(events),
            damaged: Mutex::default(),
            running: Mutex::default(),
            returns: Mutex::default(),
            stopped: Mutex::default(),
            #[cfg(test)]
            dies: std::sync::atomic::AtomicBool::default(),
        }
    }

    pub(super) fn damaged(&self) -> MutexGuard<'_, DamageFound> {
        lock(&self.damaged)
    }

    pub(super) fn running(&self) -> MutexGuard<'_, BTreeSet<TaskId>> {
        lock(&self.running)
    }

    /// Notes which tasks run, after a commit.
    pub(super) fn note_states(&self, writes: &Writes) {
        let mut running = self.running();
        let mut note = |id: TaskId, state: State| {
            if matches!(state, State::Running | State::Paused) {
                running.insert(id);
            } else {
                running.remove(&id);
            }
        };
        for added in &writes.added {
            if added.state == State::Running {
                note(added.id, added.state);
            }
        }
        for (id, state, _) in &writes.changed {
            note(*id, *state);
        }
        for id in &writes.removed {
            running.remove(id);
        }
    }

    /// Brings a lease back.
    pub(super) fn return_lease(&self, back: Return) {
        lock(&self.returns).push(back);
        self.inbox.wake();
    }

    /// Takes the leases that came back.
    pub(super) fn take_returns(&self, into: &mut Vec<Return>) {
        into.append(&mut lock(&self.returns));
    }

    pub(super) fn stop(&self, why: &str) {
        lock(&self.stopped).get_or_insert_with(|| why.to_owned());
    }

    pub(super) fn stopped(&self) -> Option<String> {
        lock(&self.stopped).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
