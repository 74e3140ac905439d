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

use super::cache::RowCache;
use super::code::wire::{Damage, Sealed, Unsealed};
use super::code::{body, head, meta, note, record};
use super::message::{Asker, Handed, Incoming, Message, Reply, Return};
use super::options::Limits;
use super::ring::{Kept, Names};
use super::rows::{Added, Fault, NoteColumn, Rows, Writes};
use super::shared::Shared;
use crate::clock::Clocks;
use crate::error::Error;
use crate::{Accepted, Beat, Beaten, Brief, ClassRule, Completion, Idempotency, Stats, Usage};
use flyball_policy::queue::{
    Ask, Body, Calendar, Cause, Command, Effects, Entering, Event, Figures, Granted, InvalidTask,
    MetaChange, Now, Opening, Outcome, Placed, Queue, Reason, Refused, RequestKey, Settings, State,
    TaskId, Token,
};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How often in a group the machine is told to do what is due; what is left is done in the next.
const TICKS: usize = 8;

/// Epochs that an opening takes at once, so that making the machine anew needs no write.
const EPOCHS: u32 = 1024;

/// How long who is refused for a fault of the store is told to wait.
const TRY_AGAIN: Duration = Duration::from_millis(100);

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
    /// Taken epochs: the next, and the last.
    epochs: (u32, u32),
    used_bytes: u64,
    /// Of tasks of the group that are not counted in `used_bytes`.
    coming_bytes: u64,
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
    pub(super) fn state(&self, id: TaskId) -> Option<State> {
        self.queue.state(id)
    }

    /// Whether no task is left that could run.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.live() == 0
    }
}

struct SharedCalendar(Arc<dyn Calendar + Send + Sync>);

impl Calendar for SharedCalendar {
    fn check(&self, cron: &flyball_policy::queue::Cron) -> Result<(), String> {
        self.0.check(cron)
    }

    fn next(
        &self,
        cron: &flyball_policy::queue::Cron,
        after: flyball_core::time::WallTime,
    ) -> Option<flyball_core::time::WallTime> {
        self.0.next(cron, after)
    }
}

impl Core {
    /// Reads what is on disk and makes it ready.
    pub(super) fn open(
        mut rows: Box<dyn Rows>,
        settings: Settings,
        limits: Limits,
        calendar: Arc<dyn Calendar + Send + Sync>,
        clocks: Arc<dyn Clocks>,
        shared: Arc<Shared>,
    ) -> Result<Core, Fault> {
        let life = read_life(&mut *rows)?;
        let first = life.epoch.saturating_add(1);
        let last = first.saturating_add(EPOCHS);
        let mut writes = Writes::default();
        write_life(
            &mut writes,
            meta::Life {
                epoch: last,
                clean: false,
            },
        );
        // Before anything else: who dies from here on has crashed, and its epochs are used up.
        rows.commit(&writes, true)?;
        let used_bytes = rows.used_bytes()?;
        let mut core = Core {
            queue: Queue::new(settings, Box::new(SharedCalendar(calendar.clone()))),
            settings,
            calendar,
            classes: Vec::new(),
            rows,
            clocks,
            cache: RowCache::new(limits.cache_bytes),
            limits,
            shared,
            names: Names::default(),
            effects: Effects::default(),
            added: Vec::new(),
            changed: Vec::new(),
            writes: Writes::default(),
            events: Vec::new(),
            settle: Vec::new(),
            grants: Vec::new(),
            sync: false,
            ready: false,
            askers: VecDeque::new(),
            epochs: (first, last),
            used_bytes,
            coming_bytes: 0,
            before: Figures::default(),
            refused: 0,
            stopped: None,
            blocked: None,
            closed: false,
        };
        let epoch = core.epoch();
        core.load(if life.clean {
            Opening::Clean { epoch }
        } else {
            Opening::Crashed { epoch }
        })?;
        // What opening changed (attempts of tasks that ran, ticks that were missed) is on disk before anybody asks.
        core.sync = true;
        core.write()?;
        core.shared.ring.push(&mut core.events);
        Ok(core)
    }

    fn epoch(&mut self) -> u32 {
        let epoch = self.epochs.0;
        self.epochs.0 = epoch.saturating_add(1);
        epoch
    }

    /// Makes the machine from what is on disk.
    fn load(&mut self, opening: Opening) -> Result<(), Fault> {
        let mut queue = Queue::new(
            self.settings,
            Box::new(SharedCalendar(self.calendar.clone())),
        );
        queue.set_classes(&self.classes);
        let mut damaged_meta = 0u64;
        let mut requests = Vec::new();
        let read = self
            .rows
            .load_meta(&mut |key, value| match meta::decode(key, value) {
                // They name tasks, which come first.
                Ok(meta::Meta::Queue(change @ MetaChange::Idempotency(..))) => {
                    requests.push(change)
                }
                Ok(meta::Meta::Queue(change)) => queue.restore_meta(change),
                Ok(meta::Meta::Life(_)) => {}
                Err(_) => damaged_meta += 1,
            });
        match read {
            Ok(()) => {}
            // Tasks are more than pauses and remembered requests.
            Err(Fault::Damaged { .. }) => damaged_meta += 1,
            Err(other) => return Err(other),
        }
        let shared = self.shared.clone();
        let mut damaged = shared.damaged();
        damaged.meta = damaged_meta;
        let mut running = BTreeSet::new();
        let lost = self.rows.load(&mut |id, sealed_head, sealed_record| {
            if damaged.tasks.contains_key(&id) {
                return;
            }
            let read = head::decode(sealed_head, id)
                .and_then(|head| Ok((head, record::decode(sealed_record, id)?)));
            match read {
                Ok((head, record)) => {
                    if matches!(record.state, State::Running | State::Paused) {
                        running.insert(id);
                    }
                    queue.restore(id, &head, &record);
                }
                Err(Damage(what)) => {
                    damaged.tasks.insert(id, what.to_owned());
                }
            }
        })?;
        for id in lost {
            damaged
                .tasks
                .entry(id)
                .or_insert_with(|| "its page cannot be read".to_owned());
        }
        drop(damaged);
        for request in requests {
            queue.restore_meta(request);
        }
        // No new task gets the name of one that is on disk, readable or not.
        queue.restore_meta(MetaChange::LastId(TaskId(self.rows.last_id()?)));
        self.queue = queue;
        let now = self.clocks.now();
        self.effects.clear();
        self.queue.opened(now, opening, &mut self.effects);
        self.absorb(now, &mut []);
        self.ready = true;
        *self.shared.running() = running;
        Ok(())
    }

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
            // Two starts for one tick of a calendar are never: what a tick made is on disk for good before it can start.
            self.sync |= !self.effects.added.is_empty();
            self.absorb(now, &mut []);
            if done.is_err() {
                break;
            }
        }
    }

    fn take_back(&mut self, now: Now, back: Return) {
        let (id, token, outcome, why) = match back {
            Return::Unused(id, token) => (id, token, None, None),
            Return::Damaged(id, token, what) => {
                let outcome = Outcome::Failed {
                    reason: Reason::Error,
                    retryable: false,
                    after: None,
                };
                self.shared.damaged().tasks.insert(id, what.clone());
                (id, token, Some(outcome), Some(what))
            }
        };
        let command = Command::Finish { id, token, outcome };
        // Refused if the lease has run out meanwhile: it has come back by itself then.
        if self.queue.apply(now, command, &mut self.effects).is_ok() {
            if let Some(what) = why {
                let text = format!("what was kept of it is damaged: {what}");
                self.note(id, NoteColumn::Failure, |row| {
                    note::encode_failure(row, &text, id);
                });
            }
            self.absorb(now, &mut []);
        }
    }

    fn apply(&mut self, now: Now, message: Message) {
        match message {
            Message::Enqueue {
                tasks,
                idempotency,
                reply,
            } => {
                let answer = self.enqueue(now, tasks, idempotency);
                self.settle(reply, answer);
            }
            Message::Lease(asker) => {
                self.ready = true;
                self.askers.push_back(asker);
            }
            Message::Heartbeat {
                id,
                token,
                beat,
                reply,
            } => {
                let answer = self.heartbeat(now, id, token, beat);
                self.settle(reply, answer);
            }
            Message::Finish { ends, reply } => {
                let answer = ends.into_iter().map(|end| self.finish(now, end)).collect();
                self.sync = true;
                self.settle(reply, Ok(answer));
            }
            Message::Cancel {
                ids,
                strict,
                why,
                reply,
            } => {
                let command = Command::Cancel { ids: &ids, strict };
                let answer = self.change(now, command);
                if let (Ok(changed), false) = (&answer, why.is_empty()) {
                    for brief in changed {
                        self.note(brief.id, NoteColumn::Failure, |row| {
                            note::encode_failure(row, &why, brief.id);
                        });
                    }
                }
                self.settle(reply, answer);
            }
            Message::Retry { ids, strict, reply } => {
                let answer = self.change(now, Command::Retry { ids: &ids, strict });
                self.settle(reply, answer);
            }
            Message::Pause { scope, by, reply } => {
                let answer = self.switch(
                    now,
                    Command::Pause {
                        scope: &scope,
                        by: &by,
                    },
                );
                self.settle(reply, answer);
            }
            Message::Resume { scope, reply } => {
                let answer = self.switch(now, Command::Resume { scope: &scope });
                self.settle(reply, answer);
            }
            Message::SetBounds {
                settings,
                max_bytes,
                reply,
            } => {
                self.queue.set_settings(settings);
                self.settings = settings;
                self.limits.max_bytes = max_bytes;
                let set = self.rows.set_max_bytes(max_bytes);
                self.settle(
                    reply,
                    set.map_err(|fault| Error::Stopped {
                        why: fault.to_string(),
                    }),
                );
            }
            Message::SetClasses { classes, reply } => {
                self.queue.set_classes(&classes);
                self.classes = classes;
                self.ready = true;
                self.settle(reply, Ok(()));
            }
            Message::Why { id, reply } => drop(reply.send(self.why(id))),
            Message::Stats { reply } => drop(reply.send(Ok(self.stats()))),
            Message::Close { reply } => {
                self.closed = true;
                write_life(
                    &mut self.writes,
                    meta::Life {
                        epoch: self.epochs.1,
                        clean: true,
                    },
                );
                self.sync = true;
                self.settle(reply, Ok(()));
            }
        }
    }

    fn settle<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Error>) {
        self.settle.push(Box::new(move |written| {
            // Who asked may have gone.
            drop(reply.send(written.and(answer)));
        }));
    }

    fn enqueue(
        &mut self,
        now: Now,
        mut tasks: Vec<Incoming>,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<Accepted>, Error> {
        if let Some(why) = &self.blocked {
            return Err(Error::Stopped { why: why.clone() });
        }
        let bytes: u64 = tasks.iter().map(|task| task.bytes() as u64).sum();
        if let Some(most) = self.limits.max_bytes
            && self.used_bytes + self.coming_bytes + bytes > most
        {
            self.refused += 1;
            return Err(Error::Full {
                what: format!(
                    "{} of {most} bytes are used, {bytes} more were asked for",
                    self.used_bytes + self.coming_bytes
                ),
                retry_after: Duration::from_secs(1),
            });
        }
        let reply = {
            let entering: Vec<Entering<'_>> = tasks
                .iter()
                .map(|task| Entering {
                    head: &task.head,
                    parents: &task.parents,
                })
                .collect();
            let command = Command::Enqueue {
                tasks: &entering,
                idempotency: idempotency.as_ref().map(|request| RequestKey {
                    key: &request.key,
                    fingerprint: request.fingerprint,
                }),
            };
            self.queue.apply(now, command, &mut self.effects)
        };
        let reply = reply.map_err(|refused| self.error(refused))?;
        self.coming_bytes += bytes;
        self.sync = true;
        self.absorb(now, &mut tasks);
        match reply {
            flyball_policy::queue::Reply::Accepted(taken) => Ok(taken
                .into_iter()
                .map(|taken| Accepted {
                    id: taken.id,
                    state: taken.state,
                    created_at: taken.created_at,
                    existing: taken.existing,
                })
                .collect()),
            _ => Ok(Vec::new()),
        }
    }

    fn heartbeat(
        &mut self,
        now: Now,
        id: TaskId,
        token: Token,
        beat: Beat,
    ) -> Result<Beaten, Error> {
        let command = Command::Heartbeat {
            id,
            token,
            lease: beat.lease,
            paused: beat.paused,
        };
        let reply = self
            .queue
            .apply(now, command, &mut self.effects)
            .map_err(|refused| self.error(refused))?;
        self.absorb(now, &mut []);
        if let Some(checkpoint) = &beat.checkpoint {
            self.note(id, NoteColumn::Checkpoint, |row| {
                note::encode_checkpoint(row, checkpoint, id);
            });
        }
        if beat.progress.is_some() || beat.message.is_some() {
            let attempt = self
                .queue
                .record(id)
                .map_or(0, |record| record.attempts.started);
            let progress = note::Progress {
                attempt,
                percent: beat.progress,
                message: beat.message,
            };
            self.note(id, NoteColumn::Beat, |row| {
                note::encode_progress(row, &progress, id);
            });
        }
        match reply {
            flyball_policy::queue::Reply::Beaten {
                expires_at,
                cancelled,
            } => Ok(Beaten {
                expires_at,
                cancelled,
            }),
            _ => Err(Error::UnknownTask { id }),
        }
    }

    fn finish(&mut self, now: Now, end: Completion) -> Result<Brief, Error> {
        let id = end.id;
        let command = Command::Finish {
            id,
            token: end.token,
            outcome: end.outcome,
        };
        self.queue
            .apply(now, command, &mut self.effects)
            .map_err(|refused| self.error(refused))?;
        self.absorb(now, &mut []);
        let brief = self.brief(id)?;
        if let Some(error) = &end.error {
            self.note(id, NoteColumn::Failure, |row| {
                note::encode_failure(row, error, id);
            });
        }
        // The first attempt of most tasks leaves nothing to keep; what a later one leaves must replace what an earlier one left.
        if end.outcome.is_some()
            && (end.result.is_some() || end.usage != Usage::default() || brief.attempts.started > 1)
        {
            self.note(id, NoteColumn::Outcome, |row| {
                note::encode_outcome(row, &end.usage, end.result.as_deref(), id);
            });
        }
        Ok(brief)
    }

    fn change(&mut self, now: Now, command: Command<'_>) -> Result<Vec<Brief>, Error> {
        let reply = self
            .queue
            .apply(now, command, &mut self.effects)
            .map_err(|refused| self.error(refused))?;
        self.sync = true;
        self.absorb(now, &mut []);
        match reply {
            flyball_policy::queue::Reply::Changed(ids) => {
                ids.into_iter().map(|id| self.brief(id)).collect()
            }
            _ => Ok(Vec::new()),
        }
    }

    fn switch(&mut self, now: Now, command: Command<'_>) -> Result<bool, Error> {
        let reply = self
            .queue
            .apply(now, command, &mut self.effects)
            .map_err(|refused| self.error(refused))?;
        self.sync = true;
        self.absorb(now, &mut []);
        Ok(matches!(reply, flyball_policy::queue::Reply::Done(true)))
    }

    fn brief(&self, id: TaskId) -> Result<Brief, Error> {
        let record = self.queue.record(id).ok_or(Error::UnknownTask { id })?;
        Ok(Brief {
            id,
            state: record.state,
            reason: record.reason,
            attempts: record.attempts,
            ready_at: record.ready_at,
        })
    }

    fn why(&self, id: TaskId) -> Result<Vec<crate::Waiting>, Error> {
        let now = self.clocks.now();
        self.queue.why(id, now.mono).ok_or_else(|| self.unknown(id))
    }

    /// Why a task is not there.
    fn unknown(&self, id: TaskId) -> Error {
        match self.shared.damaged().tasks.get(&id) {
            Some(what) => Error::Damaged {
                id,
                what: what.clone(),
            },
            None => Error::UnknownTask { id },
        }
    }

    fn error(&self, refused: Refused) -> Error {
        match refused {
            Refused::Invalid(invalid) => Error::Invalid(invalid),
            Refused::Request { field, expected } => {
                Error::Invalid(InvalidTask::new(0, field, format!("must be {expected}")))
            }
            Refused::UnknownTask { id } => self.unknown(id),
            Refused::StaleToken { id, state } => Error::StaleToken { id, state },
            Refused::WrongState {
                id,
                state,
                expected,
            } => Error::WrongState {
                id,
                state,
                expected,
            },
            Refused::KeyReused => Error::KeyReused,
            Refused::Full { what, retry_after } => Error::Full { what, retry_after },
            other => Error::Stopped {
                why: other.to_string(),
            },
        }
    }

    fn note(&mut self, id: TaskId, column: NoteColumn, write: impl FnOnce(&mut Vec<u8>)) {
        let part = self.writes.part(write);
        self.writes.notes.push((id, column, part));
    }

    /// Takes over what the machine answered to a command, before the next.
    fn absorb(&mut self, now: Now, batch: &mut [Incoming]) {
        let effects = std::mem::take(&mut self.effects);
        for placed in &effects.added {
            self.place(*placed, batch);
        }
        for placed in &effects.swapped {
            self.writes.cleared.push(placed.id);
            self.place(*placed, batch);
        }
        self.changed.extend_from_slice(&effects.changed);
        self.writes.removed.extend_from_slice(&effects.removed);
        for change in &effects.meta {
            let key = meta::key(change);
            let value = meta::keeps(change)
                .then(|| self.writes.part(|row| meta::encode(row, change, &key)));
            self.writes.meta.push((key, value));
        }
        self.ready |= effects.ready;
        for event in &effects.events {
            self.tell(now, event);
        }
        self.effects = effects;
        self.effects.clear();
    }

    fn tell(&mut self, now: Now, event: &Event) {
        if event.cause == Cause::Forgotten {
            return;
        }
        let Some((kind, class)) = self.queue.names(event.id) else {
            return;
        };
        self.events.push(Kept {
            at: now.wall,
            kind: self.names.get(kind),
            class: self.names.get(class),
            event: event.clone(),
        });
    }

    /// Finds the rows of a new task, or of one that was given anew.
    fn place(&mut self, placed: Placed, batch: &mut [Incoming]) {
        let id = placed.id;
        let rows = match placed.body {
            Body::Batch(place) => batch.get_mut(place).and_then(|task| {
                let rows = task.rows.take()?;
                // Parents of the same batch have ids only now.
                if task.parents.is_empty() {
                    Some(rows.seal(id))
                } else {
                    let head = self.queue.head(id)?;
                    Some(rows.seal_with(id, |put| head::write(put, &head)))
                }
            }),
            Body::Copy(entry) => self.copy(id, entry),
        };
        match rows {
            Some(rows) => match self.added.last() {
                Some((last, _)) if *last >= id => {
                    match self.added.binary_search_by_key(&id, |(id, _)| *id) {
                        Ok(place) => self.added[place].1 = rows,
                        Err(place) => self.added.insert(place, (id, rows)),
                    }
                }
                _ => self.added.push((id, rows)),
            },
            // The entry's own rows are damaged, so the task has no body: it is named as damaged when somebody leases it.
            None => drop(
                self.shared
                    .damaged()
                    .tasks
                    .insert(id, "the body to copy is damaged".to_owned()),
            ),
        }
    }

    /// The rows of a task that another one made.
    fn copy(&mut self, id: TaskId, entry: TaskId) -> Option<Sealed> {
        let head = self.queue.head(id)?;
        let there = self
            .added
            .binary_search_by_key(&entry, |(id, _)| *id)
            .ok()
            .map(|place| self.added[place].1.body_bytes());
        let sealed = match there {
            Some(sealed) => sealed,
            None => self.rows.body(entry).ok()??,
        };
        let body = body::decode(&sealed, entry).ok()?;
        let rows = Unsealed::new(
            96 + sealed.len(),
            |put| head::write(put, &head),
            |put| body::write(put, &body.run, &body.payload, &body.labels, &body.secrets),
        );
        Some(rows.seal(id))
    }

    /// Gives tasks to those who wait, in the order in which they came.
    fn serve_askers(&mut self, now: Now) {
        if std::mem::take(&mut self.ready) {
            // Who asks for the same as one who got nothing gets nothing either.
            let mut empty: Vec<usize> = Vec::new();
            let mut place = 0;
            while place < self.askers.len() {
                let asker = &self.askers[place];
                if asker.reply.is_closed() {
                    self.askers.remove(place);
                    continue;
                }
                let request = &asker.request;
                if empty
                    .iter()
                    .any(|other| same_demand(&self.askers[*other].request, request))
                {
                    place += 1;
                    continue;
                }
                let ask = Ask {
                    worker: &request.worker,
                    handlers: &request.handlers,
                    commands: &request.commands,
                    http: &request.http,
                    max: request.max,
                    lease: request.lease,
                    wait: request.wait,
                    room: request.room.as_ref(),
                    above: request.above,
                };
                let reply = self
                    .queue
                    .apply(now, Command::Lease(ask), &mut self.effects);
                match reply {
                    Ok(flyball_policy::queue::Reply::Leased(granted)) if !granted.is_empty() => {
                        self.absorb(now, &mut []);
                        if let Some(asker) = self.askers.remove(place) {
                            self.grants.push(Grant { asker, granted });
                        }
                    }
                    Ok(_) => {
                        self.absorb(now, &mut []);
                        empty.push(place);
                        place += 1;
                    }
                    Err(refused) => {
                        let error = self.error(refused);
                        if let Some(asker) = self.askers.remove(place) {
                            self.settle(asker.reply, Err(error));
                        }
                    }
                }
            }
        }
        // Those who have waited long enough, and those for whom there is no room to wait, get none.
        let most = self.limits.max_waiting;
        let mut kept = 0;
        let mut place = 0;
        while place < self.askers.len() {
            let asker = &self.askers[place];
            if asker.until > now.mono && kept < most && !self.closed {
                kept += 1;
                place += 1;
            } else if let Some(asker) = self.askers.remove(place) {
                self.settle(asker.reply, Ok(Vec::new()));
            }
        }
    }

    /// Puts the group on disk and answers.
    fn finish_group(&mut self) {
        let closing = self.closed;
        match self.write() {
            Ok(()) => {
                self.shared.ring.push(&mut self.events);
                for settle in self.settle.drain(..) {
                    settle(Ok(()));
                }
                self.hand_out();
            }
            Err(fault) => self.fail(fault),
        }
        if self.stopped.is_none() {
            let kept = self.rows.upkeep();
            if let Err(fault) = kept {
                self.fail(fault);
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
        if self.writes.is_empty() {
            self.sync = false;
            return Ok(());
        }
        let sync = std::mem::take(&mut self.sync);
        let written = self.rows.commit(&self.writes, sync);
        if written.is_ok() {
            if !self.writes.added.is_empty() || !self.writes.removed.is_empty() {
                self.used_bytes = self.rows.used_bytes()?;
            }
            self.shared.note_states(&self.writes);
        }
        self.coming_bytes = 0;
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
        let anew = if self.epochs.0 >= self.epochs.1 {
            Err(Fault::Failed(
                "the store has failed too often since it was opened".to_owned(),
            ))
        } else {
            let epoch = self.epoch();
            self.load(Opening::Clean { epoch })
        };
        // What loading found to do stays to be written with the next group.
        if let Err(fault) = anew {
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
    }

    fn stop(&mut self, why: String) {
        if self.stopped.is_none() {
            self.shared.stop(&why);
            self.stopped = Some(why);
        }
    }

    /// Gives granted tasks away, with their rows.
    fn hand_out(&mut self) {
        if self.grants.is_empty() {
            return;
        }
        self.rows.begin_reads();
        let mut failed = None;
        for Grant { asker, granted } in std::mem::take(&mut self.grants) {
            let mut handed = Vec::with_capacity(granted.len());
            for granted in granted {
                let first = granted.attempts.started <= 1;
                match self.rows_of(granted.id, first) {
                    Ok((rows, checkpoint)) => handed.push(Handed {
                        granted,
                        rows,
                        checkpoint,
                    }),
                    Err(Fault::Failed(why)) => failed = Some(why),
                    Err(Fault::NoSpace(what) | Fault::Damaged { what, .. }) => {
                        self.shared
                            .return_lease(Return::Damaged(granted.id, granted.token, what));
                    }
                }
            }
            if let Some(why) = &failed {
                // The leases are void at the next start, which may read them.
                let why = format!("cannot read: {why}");
                self.stop(why.clone());
                drop(asker.reply.send(Err(Error::Stopped { why })));
                continue;
            }
            if let Err(Ok(handed)) = asker.reply.send(Ok(handed)) {
                for one in handed {
                    self.shared
                        .return_lease(Return::Unused(one.granted.id, one.granted.token));
                }
            }
        }
        self.rows.end_reads();
    }

    fn rows_of(
        &mut self,
        id: TaskId,
        first: bool,
    ) -> Result<(Sealed, Option<bytes::Bytes>), Fault> {
        let rows = match self.cache.take(id) {
            Some(rows) => rows,
            None => {
                let (head, body) = self.rows.given(id)?.ok_or_else(|| Fault::Damaged {
                    id: Some(id),
                    what: "its rows are not there".to_owned(),
                })?;
                Sealed::of(&head, &body)
            }
        };
        if first {
            return Ok((rows, None));
        }
        // A checkpoint that cannot be read costs the next attempt time, not the task.
        let checkpoint = self
            .rows
            .whole(id)
            .ok()
            .flatten()
            .and_then(|whole| whole.notes.checkpoint)
            .and_then(|sealed| note::decode_checkpoint(&sealed, id).ok());
        Ok((rows, checkpoint))
    }

    fn stats(&mut self) -> Stats {
        let figures = self.queue.figures();
        let counted = |counts: &[u64; 10]| {
            State::ALL
                .into_iter()
                .zip(*counts)
                .filter(|(_, count)| *count > 0)
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        let damaged = self.shared.damaged();
        Stats {
            by_state: State::ALL.into_iter().zip(figures.by_state).collect(),
            by_class: self
                .queue
                .classes()
                .map(|(name, counts)| (Box::from(name), counted(counts)))
                .filter(|(_, counts)| !counts.is_empty())
                .collect(),
            by_kind: self
                .queue
                .kinds()
                .map(|(name, counts)| (Box::from(name), counted(counts)))
                .filter(|(_, counts)| !counts.is_empty())
                .take(1000)
                .collect(),
            accepted: self.before.accepted + figures.accepted,
            completed: self.before.completed + figures.completed,
            failed_attempts: self.before.failed_attempts + figures.failed_attempts,
            expired_leases: self.before.expired_leases + figures.expired_leases,
            refused: self.before.refused + figures.refused + self.refused,
            disk_bytes: self.rows.disk_bytes(),
            memory_bytes: Some(figures.memory_bytes + self.cache.memory_bytes() as u64),
            pauses: self
                .queue
                .pauses()
                .iter()
                .map(|(scope, pause)| (scope.clone(), (pause.by.clone(), pause.since)))
                .collect(),
            stopped: self.stopped.clone(),
            damaged: damaged.tasks.len() as u64 + damaged.meta,
        }
    }
}

/// Whether two ask for the same, so that where one gets nothing the other does not either.
fn same_demand(a: &crate::LeaseRequest, b: &crate::LeaseRequest) -> bool {
    a.handlers == b.handlers
        && a.commands == b.commands
        && a.http == b.http
        && a.room == b.room
        && a.above == b.above
}

fn read_life(rows: &mut dyn Rows) -> Result<meta::Life, Fault> {
    let mut life = None;
    let mut damaged = false;
    let key = meta::life_key();
    let read = rows.load_meta(&mut |found, value| {
        if found == key {
            match meta::decode(found, value) {
                Ok(meta::Meta::Life(read)) => life = Some(read),
                _ => damaged = true,
            }
        }
    });
    match read {
        Ok(()) => {}
        Err(Fault::Damaged { .. }) => damaged = true,
        Err(other) => return Err(other),
    }
    match life {
        Some(life) => Ok(life),
        // Epochs must grow, and the last one is not known: one that no store reaches by itself.
        None if damaged => Ok(meta::Life {
            epoch: u32::MAX / 2,
            clean: false,
        }),
        None => Ok(meta::Life {
            epoch: 0,
            clean: true,
        }),
    }
}

fn write_life(writes: &mut Writes, life: meta::Life) {
    let part = writes.part(|row| meta::encode_life(row, life));
    writes.meta.push((meta::life_key(), Some(part)));
}
