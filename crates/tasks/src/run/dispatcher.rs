//! Takes tasks from the queue for which there is room, starts them, and sees to those that are to end.
//!
//! One at a time a request for tasks is out, which names what is taken now and how much room there is; when either changes so that
//! the request no longer fits it is dropped and made anew. A second one is out only while all slots, or all process slots, are taken and one of them could be had by
//! pausing its command: it asks for commands of higher classes alone.
//!
//! Invariants
//! - What a task needs is reserved before it starts; what does not fit after all goes back at no cost of an attempt.
//! - Kinds whose breaker is open are not asked for, so that they go on as soon as it is not; where only the host of a URL is known to fail, its tasks go back for as
//!   long as the breaker is open.
//! - A cancelled task is told at once, not at its next sign of life.
//!
//! Leaves out which of the waiting tasks goes first: that is the queue's.

use crate::error::Error;
use crate::run::context::{Live, Phase, Stop};
use crate::run::drive::{Body, Drive, drive};
use crate::run::gates;
use crate::run::handle;
use crate::run::hub::{Entered, Hub};
use crate::run::parts::Ways;
use crate::task::{Completion, Kinds, Lease, LeaseRequest, Run, Usage};
use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_policy::limit::Verdict;
use flyball_policy::queue::{Outcome, State, TaskId, Via};
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a request waits in the queue before it is made anew.
const LEASE_WAIT: Duration = Duration::from_secs(30);
/// After the queue could not answer.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The dispatcher looks around this often at least: for slots that others gave back, and for checks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most tasks of one answer: the queue's bound.
const LEASES_MAX: u32 = 1_000;
/// What has happened in the queue is looked at this often at most: of thousands of events a second few have to do with what runs here.
const NEWS_EVERY: Duration = Duration::from_millis(2);
/// Outputs of forgotten tasks are looked for this often, so many at once: ten thousand take a quarter of an hour, at no cost to speak of.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
const SWEPT_AT_ONCE: usize = 100;
/// The most tasks that are remembered for having been in the news: more than can be given out between two looks.
const TOLD_MAX: usize = 1_000;
/// Events looked at in one go.
const EVENTS_MAX: usize = 1_000;

type Leasing = Pin<Box<dyn Future<Output = Result<Vec<Lease>, Error>> + Send>>;

/// A request that is out.
#[derive(Default)]
struct Asked {
    out: Option<(LeaseRequest, Leasing)>,
    not_before: Timestamp,
}

impl Asked {
    /// Makes the wanted request the one that is out.
    fn want(&mut self, hub: &Hub, wanted: Option<LeaseRequest>) {
        let keep = match (&self.out, &wanted) {
            (Some((out, _)), Some(wanted)) => still_fits(out, wanted),
            (None, None) => true,
            _ => false,
        };
        if keep {
            return;
        }
        self.out = wanted.map(|request| {
            let (queue, asked) = (Arc::clone(&hub.queue), request.clone());
            let leasing: Leasing = Box::pin(async move { queue.lease(asked).await });
            (request, leasing)
        });
    }

    async fn answer(&mut self) -> Result<Vec<Lease>, Error> {
        match &mut self.out {
            Some((_, leasing)) => {
                let answer = leasing.await;
                self.out = None;
                answer
            }
            None => std::future::pending().await,
        }
    }
}

/// A request for fewer tasks than there is room for now need not be made anew: while it waits there are none.
fn still_fits(out: &LeaseRequest, wanted: &LeaseRequest) -> bool {
    let alike = LeaseRequest {
        max: wanted.max,
        ..out.clone()
    };
    out.max <= wanted.max && alike == *wanted
}

/// Runs until it is told to stop and everything has been given back.
pub(crate) async fn dispatch(hub: Arc<Hub>, ways: Arc<Ways>, mut stop: watch::Receiver<bool>) {
    let mut news = hub.queue.watch();
    let mut seen = *news.borrow_and_update();
    let mut next_look = Timestamp::ZERO;
    let mut registered = hub.handlers.watch();
    let (mut general, mut higher) = (Asked::default(), Asked::default());
    // Ends with the runtime.
    tokio::spawn(sweep(Arc::clone(&hub), Arc::clone(&ways)));
    loop {
        let now = OsClock.now();
        if *stop.borrow() {
            let mut state = hub.state();
            state.drain = Some(state.drain.unwrap_or(now).min(now));
        }
        if ended_by_drain(&hub, now) {
            general.want(&hub, None);
            higher.want(&hub, None);
            hub.drained.send_replace(true);
            if *stop.borrow() {
                return;
            }
        }
        check(&hub, &ways, now);
        take_back(&hub, &ways).await;
        let (wanted, above, wake) = wanted(&hub, &ways, now);
        general.want(&hub, wanted.filter(|_| now >= general.not_before));
        higher.want(&hub, above.filter(|_| now >= higher.not_before));
        let wake = wake
            .into_iter()
            .chain([now.saturating_add(LOOK_EVERY)])
            .min()
            .map_or(LOOK_EVERY, |wake| wake.duration_since(now));
        tokio::select! {
            answer = general.answer() => take(&hub, &ways, &mut general, answer, false).await,
            answer = higher.answer() => take(&hub, &ways, &mut higher, answer, true).await,
            changed = changed_after(&mut news, next_look) => {
                if changed.is_err() {
                    // The queue is gone; what runs goes on until its lease is over.
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                news.borrow_and_update();
                seen = look(&hub, seen);
                next_look = OsClock.now().saturating_add(NEWS_EVERY);
            }
            _ = registered.changed() => {}
            _ = stop.changed() => {}
            () = hub.poke.notified() => {}
            () = tokio::time::sleep(wake + Duration::from_millis(1)) => {}
        }
    }
}

/// Waits until there is news, but not before a time.
async fn changed_after(
    news: &mut watch::Receiver<u64>,
    at: Timestamp,
) -> Result<(), watch::error::RecvError> {
    let early = at.duration_since(OsClock.now());
    if !early.is_zero() {
        tokio::time::sleep(early).await;
    }
    news.changed().await
}

/// Tells those that still run after the drain's time to end. Answers whether a drain is over.
fn ended_by_drain(hub: &Hub, now: Timestamp) -> bool {
    let state = hub.state();
    let Some(drain) = state.drain else {
        return false;
    };
    if now >= drain {
        for live in state.running.values() {
            live.stop(Stop::Drained);
        }
    }
    // One whose task was reported without it is not waited for: nobody can end it.
    state.running.values().all(|live| live.is_abandoned())
}

/// What is taken now: in general, and for what something else would be paused; and when that changes by itself.
fn wanted(
    hub: &Hub,
    ways: &Ways,
    now: Timestamp,
) -> (
    Option<LeaseRequest>,
    Option<LeaseRequest>,
    Option<Timestamp>,
) {
    let mut state = hub.state();
    let settings = Arc::clone(&state.settings);
    let (open, changes) = state.breakers.refused(now);
    let wake = [changes, state.drain.filter(|drain| *drain > now)]
        .into_iter()
        .flatten()
        .min();
    let free = state.ledger.free_slots().min(LEASES_MAX);
    let free_processes = ways.free_processes();
    let above = match (free, free_processes) {
        (0, Some(_)) | (_, Some(0)) => ways.weakest_running(),
        _ => None,
    };
    let takes = settings.enabled && state.drain.is_none();
    if !takes || (free == 0 && above.is_none()) {
        return (None, None, wake);
    }
    // A kind that has a fallback is taken all the same.
    let open: Vec<Box<str>> = open
        .into_iter()
        .filter(|kind| !hub.handlers.has_fallback(kind))
        .collect();
    let but_open = || match &open[..] {
        [] => Kinds::All,
        open => Kinds::Except(open.to_vec()),
    };
    let handled: Vec<Box<str>> = hub
        .handlers
        .kinds()
        .into_iter()
        .filter(|kind| !open.contains(kind))
        .collect();
    let request = |max: u32| LeaseRequest {
        worker: hub.worker.clone(),
        handlers: Kinds::None,
        commands: Kinds::None,
        http: Kinds::None,
        max,
        lease: settings.lease,
        wait: LEASE_WAIT,
        room: Some(state.ledger.room()),
        above: None,
    };
    let general = LeaseRequest {
        handlers: match &handled[..] {
            [] => Kinds::None,
            kinds => Kinds::Only(kinds.to_vec()),
        },
        commands: match free_processes {
            Some(1..) => but_open(),
            _ => Kinds::None,
        },
        http: if ways.calls_urls() {
            Kinds::All
        } else {
            Kinds::None
        },
        ..request(match free_processes {
            Some(free_processes @ 1..) => free.min(free_processes),
            _ => free,
        })
    };
    let takes_some = free > 0
        && [&general.handlers, &general.commands, &general.http]
            .into_iter()
            .any(|kinds| *kinds != Kinds::None);
    let higher = above.map(|above| LeaseRequest {
        commands: but_open(),
        above: Some(above),
        ..request(1)
    });
    (takes_some.then_some(general), higher, wake)
}

/// Gives free slots to waiting commands of higher classes than those paused, then to the paused ones.
async fn take_back(hub: &Arc<Hub>, ways: &Arc<Ways>) {
    if hub.state().ledger.free_slots() == 0 {
        return;
    }
    let Some(above) = ways.next_back() else {
        return;
    };
    // A paused command that goes on and is paused again at once would have nothing but the trouble.
    let request = {
        let mut state = hub.state();
        let open = state.breakers.refused(OsClock.now()).0;
        let takes = state.settings.enabled && state.drain.is_none();
        (takes && state.ledger.free_slots() > 0).then(|| LeaseRequest {
            worker: hub.worker.clone(),
            handlers: Kinds::None,
            commands: Kinds::Except(open),
            http: Kinds::None,
            max: 1,
            lease: state.settings.lease,
            wait: Duration::ZERO,
            room: Some(state.ledger.room()),
            above: Some(above),
        })
    };
    if let Some(request) = request {
        let answer = hub.queue.lease(request).await;
        take(hub, ways, &mut Asked::default(), answer, false).await;
    }
    ways.resume(hub);
}

async fn take(
    hub: &Arc<Hub>,
    ways: &Arc<Ways>,
    asked: &mut Asked,
    answer: Result<Vec<Lease>, Error>,
    instead: bool,
) {
    match answer {
        Ok(leases) => {
            let mut back = Vec::new();
            for lease in leases {
                back.extend(start(hub, ways, lease, instead));
            }
            give_back(hub, back).await;
        }
        Err(error) => {
            asked.not_before = OsClock.now().saturating_add(AFTER_FAILURE);
            hub.queue_failed(&error);
        }
    }
}

async fn give_back(hub: &Hub, ends: Vec<Completion>) {
    if ends.is_empty() {
        return;
    }
    if let Err(error) = hub.queue.finish(ends).await {
        // They come back when their leases run out.
        hub.queue_failed(&error);
    }
}

/// Starts a task, or says how it goes back.
fn start(hub: &Arc<Hub>, ways: &Arc<Ways>, lease: Lease, instead: bool) -> Option<Completion> {
    let now = OsClock.now();
    let back = |outcome: Option<Outcome>, error: Option<Box<str>>| Completion {
        id: lease.id,
        token: lease.token,
        outcome,
        result: None,
        error,
        usage: Usage::default(),
    };
    let class = hub.class(&lease.head.class);
    let Some(class) = class else {
        let why = format!(
            "there is no class {:?} here, and no normal one",
            lease.head.class
        );
        return Some(back(None, Some(why.into())));
    };
    let key = dependency(&lease);
    let mut state = hub.state();
    let settings = Arc::clone(&state.settings);
    if !settings.enabled || state.drain.is_some() {
        return Some(back(None, None));
    }
    let gate = state.gates.dependencies.get(&key);
    let gate = gate.filter(|_| matches!(lease.run, Run::Http(_))).cloned();
    if gate.is_some()
        && let Some(line) = state.lines.get_mut(&key)
    {
        line.back(lease.id);
    }
    let entered = match &gate {
        Some(_) => state.breakers.look(now, &key).map(|()| None),
        None => state.breakers.enter(now, &key).map(Some),
    };
    let (pass, fallback) = match entered {
        Ok(pass) => (pass, None),
        Err(refused) => match hub.handlers.fallback(&lease.head.kind) {
            Some(fallback) => (None, Some(fallback)),
            None => {
                state
                    .figures
                    .count(&lease.head.kind, |counts| counts.returned += 1);
                // A kind is not asked for until its breaker changes: it need not wait for a time.
                let left_out =
                    lease.head.via != Via::Http && state.breakers.refusal(now, &key).is_some();
                let after = (!left_out).then_some(Outcome::Returned {
                    after: refused.wait,
                });
                return Some(back(after, None));
            }
        },
    };
    let Some(grant) = state.ledger.reserve(&lease.head.needs, instead) else {
        if let Some(pass) = &pass {
            state.breakers.leave(now, pass, Verdict::Unknown);
        }
        return Some(back(None, None));
    };
    // Last, so that what does not run is no call of the limit's.
    let Ok(permit) = state.gates.enter(&lease.head.class) else {
        state.ledger.release(&grant);
        if let Some(pass) = &pass {
            state.breakers.leave(now, pass, Verdict::Unknown);
        }
        state
            .figures
            .count(&lease.head.kind, |counts| counts.returned += 1);
        let after = gates::AGAIN;
        return Some(back(Some(Outcome::Returned { after }), None));
    };
    let live = Live::new(&lease, grant);
    if let Some(pass) = pass {
        // It is new, so it has none.
        let _ = live.pass.set(pass);
    }
    // Cancelled between the queue's giving it and our hearing of that.
    if state.told.contains(&live.id) {
        live.look();
    }
    state.running.insert(live.token, Arc::clone(&live));
    state
        .figures
        .count(&live.kind, |counts| counts.started += 1);
    drop(state);

    let timeout = lease.head.timeout.unwrap_or(settings.timeout);
    let work = match (fallback, &lease.run) {
        (Some(fallback), _) => Some(fallback),
        (None, Run::Handler) => hub.handlers.work(&lease.head.kind),
        (None, _) => None,
    };
    let (body, timeout, obeys): (Body, _, _) = match (work, lease.run) {
        (Some(work), _) => {
            let affinity = lease.head.affinity_key.clone();
            let payload = lease.payload;
            let body = handle::run(work, class, Arc::clone(&live), payload, affinity);
            (Box::pin(body), Some(timeout), false)
        }
        (None, Run::Command(command)) => {
            let body = ways.command(hub, &class, &live, *command, timeout, instead);
            (body, None, true)
        }
        (None, Run::Http(call)) => {
            let body = ways.call(&live, *call);
            let body = match gate {
                Some(gate) => gates::behind(gate, key, Arc::clone(hub), Arc::clone(&live), body),
                None => body,
            };
            (body, Some(timeout), true)
        }
        // Its handler was removed since the request went out.
        (None, Run::Handler) => (
            Box::pin(async { super::ended::Ended::returned(None) }),
            None,
            true,
        ),
    };
    let entered = Entered {
        hub: Arc::clone(hub),
        live: Arc::clone(&live),
        verdict: Verdict::Unknown,
    };
    let lease = settings.lease;
    let driven = Drive {
        live,
        body,
        timeout,
        obeys,
        lease,
        permit,
    };
    tokio::spawn(async move {
        let verdict = drive(Arc::clone(&entered.hub), driven).await;
        entered.leave(verdict);
    });
    None
}

/// What a task depends on, as breakers tell it apart.
fn dependency(lease: &Lease) -> Box<str> {
    of(lease.head.via, &lease.head.kind, &lease.run)
}

pub(crate) fn of(via: Via, kind: &str, run: &Run) -> Box<str> {
    match (via, run) {
        (_, Run::Http(call)) => match &call.dependency {
            Some(named) => named.clone(),
            None => super::url::authority(&call.url).unwrap_or_else(|| kind.into()),
        },
        _ => kind.into(),
    }
}

/// Looks at what the queue says has happened: whoever has to do with something that runs here asks for its lease at once.
fn look(hub: &Hub, mut seen: u64) -> u64 {
    loop {
        let changes = hub.queue.changes(seen, EVENTS_MAX);
        let Some(last) = changes.events.last() else {
            return seen;
        };
        let mut state = hub.state();
        // That it was leased, and that it was paused or goes on, is our own doing.
        let told = changes.events.iter().filter(|event| {
            event
                .from
                .is_some_and(|from| is_out(from) && !own(from, event.to))
        });
        let told: HashSet<TaskId> = told.map(|event| event.id).collect();
        for live in state.running.values() {
            if changes.missed > 0 || told.contains(&live.id) {
                live.look();
            }
        }
        for id in told {
            if state.told.len() == TOLD_MAX {
                state.told.pop_front();
            }
            state.told.push_back(id);
        }
        let full = changes.events.len() >= EVENTS_MAX;
        seen = last.number;
        drop(state);
        if !full {
            return seen;
        }
    }
}

fn is_out(state: State) -> bool {
    matches!(state, State::Running | State::Paused)
}

fn own(from: State, to: State) -> bool {
    matches!(
        (from, to),
        (State::Running, State::Paused) | (State::Paused, State::Running)
    )
}

/// Forgets the outputs of tasks that the queue has forgotten: a few at a time, round and round.
async fn sweep(hub: Arc<Hub>, ways: Arc<Ways>) {
    let mut last = TaskId(0);
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let ids = ways.outputs_after(last, SWEPT_AT_ONCE);
        last = ids.last().copied().unwrap_or(TaskId(0));
        for id in ids {
            if let Err(Error::UnknownTask { .. }) = hub.queue.task(id).await {
                ways.forget_output(id);
            }
        }
    }
}

/// Begins the checks that are due.
fn check(hub: &Arc<Hub>, ways: &Arc<Ways>, now: Timestamp) {
    loop {
        let next = hub.state().breakers.next_check(now);
        let Some((key, check)) = next else {
            return;
        };
        let (hub, ways) = (Arc::clone(hub), Arc::clone(ways));
        tokio::spawn(async move {
            let found = ways.check(check).await;
            hub.state().breakers.checked(OsClock.now(), &key, found);
            hub.poke.notify_one();
        });
    }
}

/// A run as people see it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Running {
    /// The task.
    pub id: TaskId,
    /// Its kind.
    pub kind: Box<str>,
    /// Its class.
    pub class: Box<str>,
    /// Which attempt it is.
    pub attempt: u32,
    /// When it was taken.
    pub since: flyball_core::time::WallTime,
    /// Where it is.
    pub phase: Phase,
    /// What it holds.
    pub grant: crate::run::ledger::Grant,
    /// Memory of the tree of a command now, bytes; `None` for others.
    pub memory_bytes: Option<u64>,
}
