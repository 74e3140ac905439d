//! A queue in memory, in the order of submission, that a test can look into and tell to fail.

use flyball_core::class::ClassSpec;
use flyball_core::time::{Clock, OsClock, WallTime};
use flyball_tasks::{
    Accepted, Answer, Attempts, Batch, Beat, Beaten, Brief, Changes, ClassRule, Completion, Error,
    Event, Kinds, Lease, LeaseRequest, NewTask, Outcome, Page, Query, Reason, Run, Scope,
    Selection, State, Stats, Task, TaskId, TaskQueue, Token, Usage, Waiting,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longer than anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Entry {
    pub(crate) task: NewTask,
    pub(crate) state: State,
    pub(crate) attempts: Attempts,
    pub(crate) token: Option<Token>,
    pub(crate) checkpoint: Option<bytes::Bytes>,
    pub(crate) beats: Vec<Beat>,
    pub(crate) ends: Vec<Completion>,
    pub(crate) cancel: bool,
    /// Each state it was in, in order.
    pub(crate) went: Vec<State>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) tasks: BTreeMap<u64, Entry>,
    /// By state, so that ten thousand tasks are no trouble.
    by_state: BTreeMap<State, BTreeSet<u64>>,
    events: Vec<Event>,
    tokens: u64,
    /// What the next operations that end something answer.
    pub(crate) finish_fails: u32,
    pub(crate) leases_seen: u64,
    /// Whether signs of life end in a panic of the queue.
    pub(crate) beats_panic: bool,
}

impl Inner {
    fn turn(&mut self, id: u64, to: State) {
        let entry = self.tasks.get_mut(&id).unwrap();
        let from = std::mem::replace(&mut entry.state, to);
        self.by_state.entry(from).or_default().remove(&id);
        self.by_state.entry(to).or_default().insert(id);
        entry.went.push(to);
        let event = Event {
            number: self.events.len() as u64 + 1,
            at: WallTime::now(),
            id: TaskId(id),
            kind: entry.task.head.kind.clone(),
            class: entry.task.head.class.clone(),
            from: Some(from),
            to,
            attempt: entry.attempts.started,
            reason: "".into(),
        };
        self.events.push(event);
    }

    fn leased(&mut self, id: TaskId, token: Token) -> Result<&mut Entry, Error> {
        let entry = self.tasks.get_mut(&id.0).ok_or(Error::UnknownTask { id })?;
        if entry.token != Some(token) {
            return Err(Error::StaleToken {
                id,
                state: entry.state,
            });
        }
        Ok(entry)
    }

    pub(crate) fn count(&self, state: State) -> usize {
        self.by_state.get(&state).map_or(0, BTreeSet::len)
    }
}

pub(crate) struct Fake {
    inner: Mutex<Inner>,
    changed: Condvar,
    number: watch::Sender<u64>,
    /// Anything happened at all, for those who wait for tasks.
    stir: watch::Sender<u64>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            inner: Mutex::default(),
            changed: Condvar::new(),
            number: watch::Sender::new(0),
            stir: watch::Sender::new(0),
        }
    }
}

impl Fake {
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = change(&mut inner);
        let number = inner.events.len() as u64;
        drop(inner);
        self.changed.notify_all();
        self.stir.send_modify(|stir| *stir += 1);
        self.number.send_if_modified(|known| {
            let news = *known != number;
            *known = number;
            news
        });
        answer
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, task: NewTask) -> TaskId {
        self.change(|inner| {
            let id = inner.tasks.len() as u64 + 1;
            let entry = Entry {
                task,
                state: State::Pending,
                attempts: Attempts::default(),
                token: None,
                checkpoint: None,
                beats: Vec::new(),
                ends: Vec::new(),
                cancel: false,
                went: Vec::new(),
            };
            inner.tasks.insert(id, entry);
            let pending = inner.by_state.entry(State::Pending).or_default();
            pending.insert(id);
            TaskId(id)
        })
    }

    pub(crate) fn cancel_one(&self, id: TaskId) {
        self.change(|inner| {
            let entry = inner.tasks.get_mut(&id.0).unwrap();
            entry.cancel = true;
            let state = entry.state;
            inner.turn(id.0, state);
        });
    }

    /// Takes a lease away, as if it had run out.
    pub(crate) fn expire(&self, id: TaskId) {
        self.change(|inner| {
            inner.tasks.get_mut(&id.0).unwrap().token = None;
            inner.turn(id.0, State::Scheduled);
        });
    }

    /// What was given back for a while may be taken again, as if the while were over.
    pub(crate) fn wake_returned(&self) {
        self.change(|inner| {
            let returned = inner
                .tasks
                .iter()
                .filter(|(_, entry)| entry.state == State::Scheduled);
            let returned: Vec<u64> = returned.map(|(id, _)| *id).collect();
            for id in returned {
                inner.turn(id, State::Pending);
            }
        });
    }

    /// Blocks until something is so.
    pub(crate) fn wait<T>(&self, mut look: impl FnMut(&Inner) -> Option<T>) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = OsClock.now().saturating_add(PATIENCE);
        loop {
            if let Some(found) = look(&inner) {
                return found;
            }
            let left = ends.duration_since(OsClock.now());
            inner = self
                .changed
                .wait_timeout(inner, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if left.is_zero() {
                let states: Vec<_> = inner
                    .tasks
                    .iter()
                    .map(|(id, entry)| (*id, entry.state, entry.went.clone(), entry.ends.clone()))
                    .take(20)
                    .collect();
                drop(inner);
                panic!("it did not happen; tasks: {states:?}");
            }
        }
    }

    pub(crate) fn wait_state(&self, id: TaskId, state: State) {
        self.wait(|inner| (inner.tasks[&id.0].state == state).then_some(()));
    }

    /// The end of its last attempt, once there were so many.
    pub(crate) fn wait_end(&self, id: TaskId, count: usize) -> Completion {
        self.wait(|inner| {
            let ends = &inner.tasks[&id.0].ends;
            (ends.len() >= count).then(|| ends[count - 1].clone())
        })
    }

    fn give(&self, request: &LeaseRequest) -> Vec<Lease> {
        let takes = |kinds: &Kinds, kind: &str| match kinds {
            Kinds::None => false,
            Kinds::All => true,
            Kinds::Only(only) => only.iter().any(|only| **only == *kind),
            Kinds::Except(except) => except.iter().all(|except| **except != *kind),
        };
        let priority = |class: &str| {
            let classes = ClassSpec::built_in();
            classes
                .iter()
                .find(|spec| spec.name == class)
                .unwrap()
                .priority
        };
        let fits = |entry: &Entry| {
            let head = &entry.task.head;
            let kinds = match entry.task.run {
                Run::Command(_) => &request.commands,
                Run::Http(_) => &request.http,
                Run::Handler => &request.handlers,
            };
            let room = request.room.as_ref().unwrap();
            let named = |(name, count): &(Box<str>, u32)| {
                room.resources.get(name).is_some_and(|free| count <= free)
            };
            entry.state == State::Pending
                && takes(kinds, &head.kind)
                && request
                    .above
                    .is_none_or(|above| priority(&head.class) > above)
                && head.needs.resources.iter().all(named)
        };
        self.change(|inner| {
            inner.leases_seen += 1;
            let pending = inner.by_state.get(&State::Pending).into_iter().flatten();
            let fitting = pending.filter(|id| fits(&inner.tasks[id])).copied();
            // One at a time where somebody needs something, as what is free is not counted down here.
            let max = match request.room.as_ref() {
                Some(room) if !room.resources.is_empty() => 1,
                _ => request.max as usize,
            };
            let ids: Vec<u64> = fitting.take(max).collect();
            let mut leases = Vec::new();
            for id in ids {
                inner.tokens += 1;
                let token = Token {
                    epoch: 1,
                    number: inner.tokens,
                };
                let entry = inner.tasks.get_mut(&id).unwrap();
                entry.attempts.started += 1;
                entry.token = Some(token);
                leases.push(Lease {
                    id: TaskId(id),
                    token,
                    expires_at: WallTime::now().saturating_add(request.lease),
                    attempts: entry.attempts,
                    head: entry.task.head.clone(),
                    run: entry.task.run.clone(),
                    payload: entry.task.payload.clone(),
                    checkpoint: entry.checkpoint.clone(),
                });
                inner.turn(id, State::Running);
            }
            leases
        })
    }
}

fn not_here<T>(what: &'static str) -> Result<T, Error> {
    Err(Error::Unsupported { what })
}

impl TaskQueue for Fake {
    fn enqueue(&self, _: Batch) -> Answer<'_, Vec<Accepted>> {
        Box::pin(async { not_here("enqueue") })
    }

    fn lease(&self, request: LeaseRequest) -> Answer<'_, Vec<Lease>> {
        let mut stir = self.stir.subscribe();
        Box::pin(async move {
            let waited = tokio::time::timeout(request.wait, async {
                loop {
                    stir.borrow_and_update();
                    let pending = self.inner().count(State::Pending) > 0;
                    let leases = if pending {
                        self.give(&request)
                    } else {
                        Vec::new()
                    };
                    if !leases.is_empty() {
                        return leases;
                    }
                    // Its own look stirred.
                    stir.borrow_and_update();
                    if stir.changed().await.is_err() {
                        return Vec::new();
                    }
                }
            });
            Ok(waited.await.unwrap_or_default())
        })
    }

    fn heartbeat(&self, id: TaskId, token: Token, beat: Beat) -> Answer<'_, Beaten> {
        Box::pin(async move {
            self.change(|inner| {
                assert!(!inner.beats_panic, "the test says so");
                let entry = inner.leased(id, token)?;
                if let Some(checkpoint) = &beat.checkpoint {
                    entry.checkpoint = Some(checkpoint.clone());
                }
                let paused = beat.paused;
                entry.beats.push(beat);
                let cancelled = entry.cancel;
                match (entry.state, paused) {
                    (State::Running, Some(true)) => inner.turn(id.0, State::Paused),
                    (State::Paused, Some(false)) => inner.turn(id.0, State::Running),
                    _ => {}
                }
                Ok(Beaten {
                    expires_at: WallTime::now(),
                    cancelled,
                })
            })
        })
    }

    fn finish(&self, ends: Vec<Completion>) -> Answer<'_, Vec<Result<Brief, Error>>> {
        Box::pin(async move {
            self.change(|inner| {
                if inner.finish_fails > 0 {
                    inner.finish_fails -= 1;
                    return Err(Error::NoSpace {
                        why: "the test says so".to_owned(),
                    });
                }
                let mut finish = |end: Completion| {
                    let entry = inner.leased(end.id, end.token)?;
                    entry.token = None;
                    let counted = matches!(end.outcome, Some(Outcome::Failed { .. }));
                    entry.attempts.counted += u32::from(counted);
                    let left = entry.attempts.counted < entry.task.head.retry.max_attempts;
                    let (state, reason) = match end.outcome {
                        Some(Outcome::Done) => (State::Completed, None),
                        _ if entry.cancel => (State::Cancelled, None),
                        Some(Outcome::Failed {
                            retryable, reason, ..
                        }) => (
                            match (retryable, left) {
                                (true, true) => State::Pending,
                                (true, false) => State::Dead,
                                (false, _) => State::Failed,
                            },
                            Some(reason),
                        ),
                        Some(Outcome::Returned { .. }) => (State::Scheduled, None::<Reason>),
                        None => (State::Pending, None),
                    };
                    let brief = Brief {
                        id: end.id,
                        state,
                        reason,
                        attempts: entry.attempts,
                        ready_at: None,
                    };
                    let id = end.id.0;
                    entry.ends.push(end);
                    inner.turn(id, state);
                    Ok(brief)
                };
                Ok(ends.into_iter().map(&mut finish).collect())
            })
        })
    }

    fn call_back(&self, waits: Vec<(TaskId, u32)>) -> Answer<'_, Vec<Brief>> {
        Box::pin(async move {
            self.change(|inner| {
                for (id, started) in waits {
                    let entry = &inner.tasks[&id.0];
                    if entry.state == State::Scheduled && entry.attempts.started == started {
                        inner.turn(id.0, State::Pending);
                    }
                }
            });
            Ok(Vec::new())
        })
    }

    fn cancel(&self, _: Selection, _: String) -> Answer<'_, Vec<Brief>> {
        Box::pin(async { not_here("cancel") })
    }

    fn retry(&self, _: Selection) -> Answer<'_, Vec<Brief>> {
        Box::pin(async { not_here("retry") })
    }

    fn pause(&self, _: Scope, _: String) -> Answer<'_, bool> {
        Box::pin(async { not_here("pause") })
    }

    fn resume(&self, _: Scope) -> Answer<'_, bool> {
        Box::pin(async { not_here("resume") })
    }

    fn task(&self, id: TaskId) -> Answer<'_, Task> {
        Box::pin(async move {
            let inner = self.inner();
            let entry = inner.tasks.get(&id.0).ok_or(Error::UnknownTask { id })?;
            Ok(Task {
                id,
                head: entry.task.head.clone(),
                run: entry.task.run.clone(),
                payload: entry.task.payload.clone(),
                labels: Vec::new(),
                secrets: Vec::new(),
                state: entry.state,
                reason: None,
                attempts: entry.attempts,
                created_at: WallTime::now(),
                ready_at: None,
                started_at: None,
                ended_at: None,
                worker: None,
                lease_expires_at: None,
                progress: None,
                message: None,
                result: None,
                error: None,
                usage: Usage::default(),
                cancel_requested: entry.cancel,
                cron_of: None,
            })
        })
    }

    fn list(&self, _: Query) -> Answer<'_, Page> {
        Box::pin(async { not_here("list") })
    }

    fn why(&self, _: TaskId) -> Answer<'_, Vec<Waiting>> {
        Box::pin(async { not_here("why") })
    }

    fn stats(&self) -> Answer<'_, Stats> {
        Box::pin(async { not_here("stats") })
    }

    fn changes(&self, after: u64, limit: usize) -> Changes {
        let inner = self.inner();
        let newer = inner.events.iter().skip(after as usize).take(limit);
        Changes {
            missed: 0,
            events: newer.cloned().collect(),
        }
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    fn set_classes(&self, _: Vec<ClassRule>) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
