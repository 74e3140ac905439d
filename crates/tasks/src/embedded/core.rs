//! What the writer does with a group of requests, without the thread.
//!
//! A group is all that has come in while the last one was written: the state machine is told each request in turn, what it answers is written in
//! one transaction, with one sync if any of it must survive a power cut, and only then everybody is answered. So nobody learns of what is not on
//! disk, and the cost of a sync is shared by all who wait for it.
//!
//! What fails, by [`Fault`]:
//! - *No space*: the group is refused, and the machine is made anew from the disk, where nothing of the group is.
//! - *Damage* under a known task: that task is left out from now on, the group is sent back to be tried again, the machine is made anew.
//! - *Anything else*, a failed sync above all: nobody knows what is on disk, and no later sync would prove anything. Nothing is taken or acknowledged any
//!   more until the queue is opened anew; what was committed before can still be read.

mod absorb;
mod leases;
mod opening;
mod requests;

use super::cache::RowCache;
use super::code::record;
use super::code::wire::Sealed;
use super::message::{Asker, Message, Return};
use super::options::Limits;
use super::ring::{Kept, Names};
use super::rows::{Added, Fault, Rows, Writes};
use super::shared::Shared;
use crate::ClassRule;
use crate::clock::Clocks;
use crate::error::Error;
use flyball_policy::queue::{
    Calendar, Command, Effects, Figures, Granted, Now, Opening, Queue, Settings, TaskId,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How often in a group the machine is told to do what is due; what is left is done in the next.
const TICKS: usize = 8;

/// How long who is refused for a fault of the store is told to wait.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The file is asked for its size when so much was written since, bytes, and before anything is refused: asking takes locks, a tenth of the
/// cost of writing one task.
const MEASURE_BYTES: u64 = 1 << 20;
/// What a removed task counts for in that, bytes.
const REMOVED_BYTES: u64 = 512;

/// Answers when it is known whether the group is on disk.
type Settle = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Tasks for somebody who asked.
struct Grant {
    asker: Asker,
    granted: Vec<Granted>,
}

/// The writer.
pub(super) struct Core {
    queue: Queue,
    settings: Settings,
    calendar: Arc<dyn Calendar + Send + Sync>,
    classes: Vec<ClassRule>,
    rows: Box<dyn Rows>,
    clocks: Arc<dyn Clocks>,
    limits: Limits,
    shared: Arc<Shared>,
    cache: RowCache,
    names: Names,

    /// What the machine answered to the command at hand.
    effects: Effects,
    /// New tasks of the group, in the order of their ids, and tasks that were given anew.
    added: Vec<(TaskId, Sealed)>,
    changed: Vec<TaskId>,
    writes: Writes,
    events: Vec<Kept>,
    settle: Vec<Settle>,
    grants: Vec<Grant>,
    /// Whether the group must survive a power cut before it is answered.
    sync: bool,
    /// Whether there may be something for those who wait.
    ready: bool,

    askers: VecDeque<Asker>,
    /// Of this process; written, so that no later one has it.
    epoch: u32,
    /// As the file said when it was last asked, …
    used_bytes: u64,
    /// … what has come since, about, …
    grown_bytes: u64,
    /// … and what tasks of this group bring.
    coming_bytes: u64,
    /// How much has been written and removed since the file was asked, bytes, about.
    unmeasured_bytes: u64,
    /// Figures of machines before this one.
    before: Figures,
    refused: u64,
    /// Why nothing is written any more.
    stopped: Option<String>,
    /// Why no new tasks are taken.
    blocked: Option<String>,
    closed: bool,
}

#[cfg(test)]
impl Core {
    /// What a task is for the machine.
    pub(super) fn state(&self, id: TaskId) -> Option<flyball_policy::queue::State> {
        self.queue.state(id)
    }

    /// Whether no task is left that could run.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.live() == 0
    }
}

impl Core {
    /// Does all that was asked, and what is due.
    pub(super) fn run(&mut self, messages: &mut Vec<Message>, returns: &mut Vec<Return>) {
        if self.stopped.is_some() || self.closed {
            for message in messages.drain(..) {
                self.run_stopped(message);
            }
            returns.clear();
            return;
        }
        let now = self.clocks.now();
        self.tick(now);
        for back in returns.drain(..) {
            self.take_back(now, back);
        }
        for message in messages.drain(..) {
            self.apply(now, message);
        }
        self.serve_askers(now);
        self.finish_group();
    }

    /// When there is something to do though nobody asks: in how long, at most.
    pub(super) fn wait(&self) -> Option<Duration> {
        /// The wall clock may be set meanwhile; so long it may take until that is noticed.
        const WALL_WAIT: Duration = Duration::from_secs(5);
        if self.stopped.is_some() || self.closed {
            return None;
        }
        if self.ready && !self.askers.is_empty() {
            // A task came free after those who wait had been asked, or the group that gave it away was taken back.
            return Some(Duration::ZERO);
        }
        let now = self.clocks.now();
        let (mono, wall) = self.queue.next_deadline();
        let asked = self.askers.iter().map(|asker| asker.until).min();
        let mono = [mono, asked]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.duration_since(now.mono));
        let wall = wall.map(|at| at.duration_since(now.wall).min(WALL_WAIT));
        [mono, wall].into_iter().flatten().min()
    }

    /// Ends, as nobody can ask any more: cleanly, unless it has ended or stopped before.
    pub(super) fn end(&mut self) {
        if self.stopped.is_none() && !self.closed {
            let (reply, _) = tokio::sync::oneshot::channel();
            self.run(&mut vec![Message::Close { reply }], &mut Vec::new());
        }
    }

    /// Answers what can be answered by a store that writes no more.
    fn run_stopped(&mut self, message: Message) {
        match message {
            Message::Stats { reply } => drop(reply.send(Ok(self.stats()))),
            Message::Why { id, reply } => drop(reply.send(self.why(id))),
            Message::Close { reply } => {
                self.closed = true;
                drop(reply.send(match &self.stopped {
                    None => Ok(()),
                    Some(why) => Err(Error::Stopped { why: why.clone() }),
                }));
            }
            other => other.refuse(self.refusal()),
        }
    }

    fn refusal(&self) -> Error {
        match &self.stopped {
            Some(why) => Error::Stopped { why: why.clone() },
            None => Error::Closing,
        }
    }

    fn tick(&mut self, now: Now) {
        for _ in 0..TICKS {
            let (mono, wall) = self.queue.next_deadline();
            let due =
                mono.is_some_and(|at| at <= now.mono) || wall.is_some_and(|at| at <= now.wall);
            if !due {
                break;
            }
            let done = self.queue.apply(now, Command::Tick, &mut self.effects);
            self.absorb(now, &mut []);
            if done.is_err() {
                break;
            }
        }
    }

    /// Puts the group on disk and answers.
    fn finish_group(&mut self) {
        let closing = self.closed;
        match self.write() {
            Ok(()) => {
                let news = !self.events.is_empty();
                self.shared.ring.push(&mut self.events);
                for settle in self.settle.drain(..) {
                    settle(Ok(()));
                }
                self.hand_out();
                if news {
                    self.shared.ring.announce();
                }
            }
            Err(fault) => self.fail(fault),
        }
        if self.stopped.is_none() {
            match self.rows.upkeep() {
                // Nothing is to be taken back: the group is on disk, in the log, and is moved when there is space.
                Ok(()) | Err(Fault::NoSpace(_)) => {}
                Err(fault) => self.fail(fault),
            }
        }
        if closing {
            self.closed = true;
            for asker in self.askers.drain(..) {
                drop(asker.reply.send(Err(Error::Closing)));
            }
            if self.stopped.is_none()
                && let Err(fault) = self.rows.close()
            {
                self.stop(fault.to_string());
            }
        }
    }

    /// Writes what the group changed.
    fn write(&mut self) -> Result<(), Fault> {
        self.changed.sort_unstable();
        self.changed.dedup();
        for (id, rows) in self.added.drain(..) {
            // A task may be forgotten in the group that brought it.
            let Some(record) = self.queue.record(id) else {
                continue;
            };
            let part = self.writes.part(|row| record::encode(row, &record, id));
            self.cache.put(id, rows.clone());
            self.writes.added.push(Added {
                id,
                state: record.state,
                rows,
                record: part,
            });
        }
        for id in self.changed.drain(..) {
            let added = &self.writes.added;
            if added.binary_search_by_key(&id, |added| added.id).is_ok() {
                continue;
            }
            let Some(record) = self.queue.record(id) else {
                continue;
            };
            let part = self.writes.part(|row| record::encode(row, &record, id));
            self.writes.changed.push((id, record.state, part));
        }
        let coming_bytes = std::mem::take(&mut self.coming_bytes);
        if self.writes.is_empty() {
            self.sync = false;
            return Ok(());
        }
        let sync = std::mem::take(&mut self.sync);
        let written = self.rows.commit(&self.writes, sync);
        if written.is_ok() {
            self.grown_bytes += coming_bytes;
            self.unmeasured_bytes +=
                coming_bytes + self.writes.removed.len() as u64 * REMOVED_BYTES;
            if self.unmeasured_bytes >= MEASURE_BYTES {
                self.measure()?;
            }
            self.shared.note_states(&self.writes);
        }
        let blamed = match &written {
            Err(Fault::Damaged { id: Some(id), .. }) => {
                self.writes.added.iter().any(|added| added.id == *id)
            }
            _ => false,
        };
        self.writes.clear();
        match written {
            Err(Fault::Damaged { what, .. }) if blamed => {
                self.blocked = Some(format!(
                    "the file is damaged where new tasks would go ({what}); restore a backup"
                ));
                Err(Fault::NoSpace(what))
            }
            other => other,
        }
    }

    /// Asks the file how much of it is used.
    fn measure(&mut self) -> Result<(), Fault> {
        self.used_bytes = self.rows.used_bytes()?;
        (self.grown_bytes, self.unmeasured_bytes) = (0, 0);
        Ok(())
    }

    /// Takes the group back, and goes on if that can be.
    fn fail(&mut self, fault: Fault) {
        let error = match &fault {
            Fault::NoSpace(why) => Error::NoSpace { why: why.clone() },
            Fault::Damaged { id: Some(id), what } => {
                self.shared.damaged().tasks.insert(*id, what.clone());
                Error::Full {
                    what: format!(
                        "damage of task {id} was found, and what was asked with it taken back"
                    ),
                    retry_after: TRY_AGAIN,
                }
            }
            Fault::Damaged {
                id: None,
                what: why,
            }
            | Fault::Failed(why) => {
                self.stop(why.clone());
                self.refusal()
            }
        };
        self.events.clear();
        self.added.clear();
        self.changed.clear();
        self.writes.clear();
        self.cache.clear();
        self.sync = false;
        for settle in self.settle.drain(..) {
            settle(Err(error.clone()));
        }
        for grant in self.grants.drain(..) {
            drop(grant.asker.reply.send(Err(error.clone())));
        }
        if self.stopped.is_some() {
            for asker in self.askers.drain(..) {
                drop(asker.reply.send(Err(error.clone())));
            }
            return;
        }
        self.add_figures();
        // Nobody was given the leases of this group, but tokens that were made are not made again.
        let token = self.queue.next_token();
        // What loading found to do stays to be written with the next group.
        if let Err(fault) = self.load(Opening::Again { token }) {
            self.stop(fault.to_string());
            self.fail(fault);
        }
    }

    fn add_figures(&mut self) {
        let figures = self.queue.figures();
        self.before.accepted += figures.accepted;
        self.before.completed += figures.completed;
        self.before.failed_attempts += figures.failed_attempts;
        self.before.expired_leases += figures.expired_leases;
        self.before.refused += figures.refused;
        self.before.key_excess += figures.key_excess;
        self.before.retry_excess += figures.retry_excess;
    }

    fn stop(&mut self, why: String) {
        if self.stopped.is_none() {
            self.shared.stop(&why);
            self.stopped = Some(why);
        }
    }
}
