//! The thread that follows the queue: it passes its events on, keeps it in step with the classes, and looks how it is.
//!
//! It sleeps until something happens. While nobody follows the engine's events, those of tasks are counted as seen and go nowhere.

use crate::config::Config;
use crate::events::EventKind;
use crate::shared::Shared;
use crate::tasks::open::Open;
use crate::tasks::settings;
use crate::view::{TaskEventView, Time};
use flyball_core::time::{Timestamp, WallTime};
use flyball_limit::Gate;
use flyball_tasks::run::{Gates, Happened};
use flyball_tasks::{ClassRule, Filter, Query, State, Stats, TaskId, Waiting};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Events are passed on at most this often, so that a queue of many thousand tasks a second costs no more than a slower one.
const PACE: Duration = Duration::from_millis(50);
/// Events that are passed on at once; of more, the newest.
const BATCH: usize = 512;
/// Kinds of which one look finds out whether anybody takes them; the others are looked at the next times.
const KINDS: usize = 64;
/// A kind that nobody takes for so long is told of (TASK-16).
pub(crate) const UNTAKEN: Duration = Duration::from_secs(60);

/// How often outputs of tasks that are forgotten are looked for.
const SWEEP: Duration = Duration::from_secs(600);

/// What the thread is told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Orders {
    /// Grows with each change of configuration or classes.
    pub(crate) changes: u64,
    /// To end, and until when tasks that run may go on.
    pub(crate) end: Option<Timestamp>,
}

/// How the queue was at the last look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Look {
    /// Why nothing can be put into it or taken out of it.
    pub(crate) stopped: Option<String>,
    /// Rows that turned out to be damaged.
    pub(crate) damaged: u64,
    /// Tasks that could start, by class.
    pub(crate) pending: BTreeMap<Box<str>, u64>,
    /// Tasks by state.
    pub(crate) by_state: BTreeMap<State, u64>,
    /// Kinds that nobody has taken for at least [`UNTAKEN`], since when, and how many tasks wait.
    pub(crate) untaken: BTreeMap<Box<str>, (WallTime, u64)>,
}

/// Follows what comes after the event `seen` until it is told to end; then drains and closes.
pub(crate) fn run(shared: &Arc<Shared>, open: &Open, seen: u64, orders: watch::Receiver<Orders>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(Follow::new(shared, open, seen).run(orders)),
        Err(error) => {
            tracing::error!(%error, "the queue of tasks is not followed");
            shared.tasks.set_look(Look {
                stopped: Some(format!("it is not followed: {error}")),
                ..Look::default()
            });
        }
    }
}

struct Follow<'a> {
    shared: &'a Arc<Shared>,
    open: &'a Open,
    /// The newest event that was passed on.
    seen: u64,
    /// What the queue was last told of classes.
    rules: Vec<ClassRule>,
    /// The configuration that store and processes follow.
    bounded: Option<Arc<Config>>,
    /// The number of the newest event of the runners that was told.
    told: u64,
    /// When outputs of tasks that are forgotten are next looked for.
    sweep: Timestamp,
    /// The kind that the last look ended with.
    turn: Option<Box<str>>,
    /// The limits of classes and dependencies.
    gates: Gates,
    look: Look,
}

impl<'a> Follow<'a> {
    fn new(shared: &'a Arc<Shared>, open: &'a Open, seen: u64) -> Self {
        Follow {
            shared,
            open,
            seen,
            rules: Vec::new(),
            bounded: None,
            told: 0,
            sweep: Timestamp::ZERO,
            turn: None,
            gates: Gates::default(),
            look: Look::default(),
        }
    }

    async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        let mut news = self.open.queue.watch();
        // There may be some already.
        news.mark_changed();
        let mut changes = None;
        let end = loop {
            let order = *orders.borrow_and_update();
            if let Some(end) = order.end {
                break end;
            }
            if changes != Some(order.changes) {
                changes = Some(order.changes);
                self.configure().await;
            }
            let interval = self.shared.config().worker_pool.health_check_interval;
            tokio::select! {
                biased;
                changed = orders.changed() => {
                    if changed.is_err() {
                        break Timestamp::ZERO;
                    }
                }
                _ = news.changed() => {
                    self.pass_on();
                    self.tell_of_runners();
                    self.follow_limits().await;
                    // Those that come meanwhile go together; an order does not wait for them.
                    tokio::select! {
                        () = tokio::time::sleep(PACE) => {}
                        _ = orders.changed() => orders.mark_changed(),
                    }
                }
                () = tokio::time::sleep(interval) => self.examine().await,
            }
        };
        self.end(end).await;
    }

    /// Tells queue and runners what the configuration means for them.
    async fn configure(&mut self) {
        let config = self.shared.config();
        if self.bounded.as_deref() != Some(&*config) {
            self.open.follow_config(&config).await;
            self.bounded = Some(config);
        }
        self.open.follow_classes(&self.shared.executor);
        self.gates = self.shared.task_gates();
        self.open.runners.set_gates(self.gates.clone());
        self.set_rules().await;
        self.examine().await;
    }

    /// Tells the queue of classes what it does not know yet.
    async fn set_rules(&mut self) {
        let rules = settings::class_rules(&self.shared.executor, &self.limits());
        if rules != self.rules {
            match self.open.queue.set_classes(rules.clone()).await {
                Ok(()) => self.rules = rules,
                Err(error) => {
                    tracing::warn!(%error, "the queue does not know the classes as they are now")
                }
            }
        }
    }

    /// How many tasks of a class may run at once, of the classes with a limit that acts.
    fn limits(&self) -> BTreeMap<Box<str>, u32> {
        let gates = self.gates.classes.iter();
        let acting = gates.filter(|(_, gate)| !gate.observes());
        acting
            .map(|(class, gate)| (class.clone(), gate.limit()))
            .collect()
    }

    /// Has the queue go by the limits of classes as they are now, and tells those that are reached whether anybody waits: they grow only then.
    async fn follow_limits(&mut self) {
        if self.gates.classes.is_empty() {
            return;
        }
        self.set_rules().await;
        let full = |gate: &Gate| gate.in_flight() >= gate.limit();
        if !self.gates.classes.values().any(full) {
            return;
        }
        let Ok(stats) = self.open.queue.stats().await else {
            return;
        };
        let pending = pending(&stats);
        for (class, gate) in &self.gates.classes {
            if full(gate) && pending.get(class).is_some_and(|waiting| *waiting > 0) {
                gate.note_blocked();
            }
        }
        if self.look.pending != pending {
            self.look.pending = pending;
            self.shared.tasks.set_look(self.look.clone());
        }
    }

    fn pass_on(&mut self) {
        let events = &self.shared.events;
        if !events.is_followed() {
            self.seen = *self.open.queue.watch().borrow();
            return;
        }
        let newest = *self.open.queue.watch().borrow();
        let first = newest.saturating_sub(BATCH as u64).max(self.seen);
        let changes = self.open.queue.changes(first, BATCH);
        let missed = (first - self.seen) + changes.missed;
        if missed > 0 {
            let time = Time::now();
            events.push(
                EventKind::Task,
                time,
                serde_json::json!({ "missed": missed }),
            );
        }
        self.seen = first + changes.missed + changes.events.len() as u64;
        for event in changes.events {
            let time = Time::from_unix_nanos(event.at.unix_nanos());
            let view = TaskEventView::of(event);
            events.push(
                EventKind::Task,
                time,
                serde_json::to_value(view).unwrap_or_default(),
            );
        }
    }

    /// Looks how the queue is, and tells what is new of that.
    async fn examine(&mut self) {
        // A program may have added classes of its own.
        self.set_rules().await;
        let mut look = Look::default();
        match self.open.queue.stats().await {
            Ok(stats) => {
                look.untaken = self.untaken(&stats).await;
                look.pending = pending(&stats);
                look.stopped = stats.stopped;
                look.damaged = stats.damaged;
                look.by_state = stats.by_state;
            }
            Err(error) => look.stopped = Some(error.to_string()),
        }
        self.tell(&look);
        self.look = look.clone();
        self.shared.tasks.set_look(look);
        self.tell_of_runners();
        if self.sweep <= self.shared.now() {
            self.sweep = self.shared.now().saturating_add(SWEEP);
            self.sweep().await;
        }
    }

    /// Tells what happened to runs, beside what the queue says of their tasks.
    fn tell_of_runners(&mut self) {
        for event in self.open.runners.events_after(self.told) {
            self.told = event.number;
            let (what, text, troubling) = told(&event.what);
            if troubling {
                tracing::warn!(what, "{text}");
            } else {
                tracing::info!(what, "{text}");
            }
            let data = serde_json::json!({ "what": what, "reason": text });
            let time = Time::from_unix_nanos(event.at.unix_nanos());
            self.shared.events.push(EventKind::Task, time, data);
        }
    }

    /// Removes outputs of tasks that the queue has forgotten.
    async fn sweep(&self) {
        let Some(outputs) = self.open.runners.outputs() else {
            return;
        };
        let mut gone = BTreeSet::new();
        for id in outputs.tasks() {
            if let Err(flyball_tasks::Error::UnknownTask { .. }) = self.open.queue.task(id).await {
                gone.insert(id);
            }
        }
        outputs.sweep(|id| !gone.contains(&id));
    }

    /// Kinds whose tasks could start and that nobody takes.
    async fn untaken(&mut self, stats: &Stats) -> BTreeMap<Box<str>, (WallTime, u64)> {
        let waiting =
            |states: &BTreeMap<State, u64>| states.get(&State::Pending).copied().unwrap_or(0);
        let kinds: BTreeMap<&str, u64> = stats
            .by_kind
            .iter()
            .map(|(kind, states)| (&**kind, waiting(states)))
            .filter(|(_, waiting)| *waiting > 0)
            .collect();
        // Those not looked at this time are as they were.
        let mut untaken = self.look.untaken.clone();
        untaken.retain(|kind, _| kinds.contains_key(&**kind));
        let turn = self.turn.take();
        let after = |kind: &str| turn.as_deref().is_none_or(|turn| kind > turn);
        let ahead = kinds.iter().filter(|(kind, _)| after(kind));
        let behind = kinds.iter().filter(|(kind, _)| !after(kind));
        for (kind, waiting) in ahead.chain(behind).take(KINDS) {
            match self.untaken_since(kind).await {
                Some(since) if WallTime::now().duration_since(since) >= UNTAKEN => {
                    untaken.insert((*kind).into(), (since, *waiting));
                }
                _ => {
                    untaken.remove(*kind);
                }
            }
            self.turn = Some((*kind).into());
        }
        untaken
    }

    async fn untaken_since(&self, kind: &str) -> Option<WallTime> {
        let id = self.one_pending(kind).await?;
        let reasons = self.open.queue.why(id).await.ok()?;
        reasons.into_iter().find_map(|reason| match reason {
            Waiting::NobodyTakes { since } => Some(since),
            _ => None,
        })
    }

    async fn one_pending(&self, kind: &str) -> Option<TaskId> {
        let query = Query {
            filter: Filter {
                states: vec![State::Pending],
                kind: Some(kind.into()),
                ..Filter::default()
            },
            before: None,
            limit: 1,
        };
        let page = self.open.queue.list(query).await.ok()?;
        page.tasks.first().map(|task| task.id)
    }

    fn tell(&self, look: &Look) {
        match (&self.look.stopped, &look.stopped) {
            (None, Some(why)) => tracing::error!("the queue of tasks has stopped: {why}"),
            (Some(_), None) => tracing::info!("the queue of tasks works again"),
            _ => {}
        }
        if look.damaged > self.look.damaged {
            tracing::error!(rows = look.damaged, "the queue of tasks has damaged rows");
        }
        let before: BTreeSet<&str> = self.look.untaken.keys().map(|kind| &**kind).collect();
        for (kind, (since, waiting)) in &look.untaken {
            if !before.contains(&**kind) {
                let reason = untaken_reason(kind, WallTime::now().duration_since(*since), *waiting);
                tracing::warn!(kind = &**kind, waiting, "{reason}");
                let event = serde_json::json!({ "kind": kind, "nobody_takes_since": Time::from_unix_nanos(since.unix_nanos()), "reason": reason });
                self.shared.tell(EventKind::Task, &event);
            }
        }
        for kind in before {
            if !look.untaken.contains_key(kind) {
                tracing::info!(
                    kind,
                    "somebody takes the kind again, or nothing of it waits"
                );
            }
        }
    }

    /// Ends what runs and closes the queue.
    async fn end(self, until: Timestamp) {
        let within = until.duration_since(self.shared.now());
        self.open.drain(within).await;
        if let Err(error) = self.open.queue.close().await {
            tracing::warn!(%error, "the queue of tasks could not be closed cleanly; it recovers at the next start");
        }
    }
}

/// Tasks that could start, by class.
fn pending(stats: &Stats) -> BTreeMap<Box<str>, u64> {
    let waiting = |states: &BTreeMap<State, u64>| states.get(&State::Pending).copied();
    let classes = stats.by_class.iter();
    classes
        .filter_map(|(class, states)| Some((class.clone(), waiting(states)?)))
        .collect()
}

/// Says that nobody takes a kind.
pub(crate) fn untaken_reason(kind: &str, passed: Duration, waiting: u64) -> String {
    let minutes = passed.as_secs() / 60;
    let tasks = if waiting == 1 {
        "task waits"
    } else {
        "tasks wait"
    };
    format!(
        "nobody has taken tasks of kind {kind:?} for {minutes} min: {waiting} {tasks}, with no handler and no worker for them"
    )
}

/// What happened to a run: its name, a sentence, and whether people should see it.
fn told(what: &Happened) -> (&'static str, String, bool) {
    match what {
        Happened::Preempted { id, by } => {
            let text = format!("the command of task {id} is held, so that task {by} gets its slot");
            ("preempted", text, false)
        }
        Happened::Resumed { id } => (
            "resumed",
            format!("the command of task {id} goes on"),
            false,
        ),
        Happened::Lost { id } => {
            let text = format!("task {id} was no longer ours while it ran, and was ended");
            ("lost", text, true)
        }
        Happened::Stuck { id, kind } => {
            let text = format!(
                "the handler of task {id} ({kind}) does not end and keeps its thread; the task was reported without it"
            );
            ("stuck", text, true)
        }
        Happened::Survivors { id, count } => {
            let text = format!("{count} processes of task {id} could not be killed");
            ("survivors", text, true)
        }
        Happened::BreakerOpened { key, observed } => {
            let but = match observed {
                true => "; it only observes, and calls go on",
                false => "",
            };
            let text = format!("the breaker of {key} opened: calls of it fail or are slow{but}");
            ("breaker_opened", text, true)
        }
        Happened::BreakerClosed { key } => (
            "breaker_closed",
            format!("the breaker of {key} closed"),
            false,
        ),
        Happened::QueueFailed { why } => (
            "queue_failed",
            format!("the queue did not answer as it should: {why}"),
            true,
        ),
        Happened::Draining { running } => {
            let text = format!("no more tasks are taken; {running} run");
            ("draining", text, false)
        }
        other => ("other", format!("{other:?}"), false),
    }
}
