//! What the parts of the runners share: the queue, the settings, what runs, what is reserved, the breakers, the figures.
//!
//! Invariant: the lock is held for looks and for bookkeeping, never across a wait.

use crate::error::Error;
use crate::queue::TaskQueue;
use crate::run::breakers::Breakers;
use crate::run::context::{Live, Stop};
use crate::run::ended::Ended;
use crate::run::figures::{Figures, Happened};
use crate::run::gates::Gates;
use crate::run::handlers::Handlers;
use crate::run::ledger::Ledger;
use crate::run::line::{Attempt, Line};
use crate::run::settings::RunSettings;
use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_executor::Class;
use flyball_policy::limit::Verdict;
use flyball_policy::queue::{BATCH_MAX, Outcome, Reason, TaskId, Token};
use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// Finds the executor's class of a name.
pub type Classes = Arc<dyn Fn(&str) -> Option<Class> + Send + Sync>;

/// The class whose rule stands for classes that are not known.
pub(crate) const NORMAL: &str = "normal";

pub(crate) struct State {
    pub(crate) settings: Arc<RunSettings>,
    pub(crate) running: BTreeMap<Token, Arc<Live>>,
    pub(crate) ledger: Ledger,
    pub(crate) breakers: Breakers,
    pub(crate) gates: Gates,
    /// Those who wait for dependencies with a gate.
    pub(crate) lines: BTreeMap<Box<str>, Line>,
    pub(crate) figures: Figures,
    /// Tasks of which the queue had news while they were out, the newest: one that is only now heard to be ours may be among them.
    pub(crate) told: VecDeque<TaskId>,
    /// When those that still run are told to end.
    pub(crate) drain: Option<Timestamp>,
}

pub(crate) struct Hub {
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) handlers: Arc<Handlers>,
    pub(crate) classes: Classes,
    pub(crate) worker: Box<str>,
    runtime: tokio::runtime::Handle,
    state: Mutex<State>,
    /// There is something for the dispatcher to look at.
    pub(crate) poke: Notify,
    /// Whether all are gone after a drain.
    pub(crate) drained: watch::Sender<bool>,
}

impl Hub {
    pub(crate) fn new(
        queue: Arc<dyn TaskQueue>,
        handlers: Arc<Handlers>,
        classes: Classes,
        worker: Box<str>,
        settings: RunSettings,
        runtime: tokio::runtime::Handle,
    ) -> Hub {
        let mut ledger = Ledger::default();
        ledger.set(&settings);
        let mut breakers = Breakers::new(flyball_core::time::unix_nanos());
        breakers.set(&settings);
        Hub {
            queue,
            handlers,
            classes,
            worker,
            runtime,
            state: Mutex::new(State {
                settings: Arc::new(settings),
                running: BTreeMap::new(),
                ledger,
                breakers,
                gates: Gates::default(),
                lines: BTreeMap::new(),
                figures: Figures::default(),
                told: VecDeque::new(),
                drain: None,
            }),
            poke: Notify::new(),
            drained: watch::Sender::new(false),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn settings(&self) -> Arc<RunSettings> {
        Arc::clone(&self.state().settings)
    }

    pub(crate) fn set(&self, settings: RunSettings) {
        let mut state = self.state();
        state.ledger.set(&settings);
        state.breakers.set(&settings);
        state.settings = Arc::new(settings);
        drop(state);
        self.poke.notify_one();
    }

    /// The class of that name, or the one that stands for unknown ones. Who looks it up is the program: its panic, which the panic hook tells of, must not end what
    /// runs all other tasks.
    pub(crate) fn class(&self, name: &str) -> Option<Class> {
        let find = |name| {
            let found = std::panic::catch_unwind(AssertUnwindSafe(|| (self.classes)(name)));
            found.ok().flatten()
        };
        find(name).or_else(|| find(NORMAL))
    }

    /// Runs something on the runners' own thread.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// Has tasks come back that were given back for a time.
    pub(crate) fn call_back(self: &Arc<Hub>, waits: Vec<Attempt>) {
        if waits.is_empty() {
            return;
        }
        let hub = Arc::clone(self);
        self.spawn(async move {
            for some in waits.chunks(BATCH_MAX) {
                if let Err(error) = hub.queue.call_back(some.to_vec()).await {
                    // They come back in their time.
                    hub.queue_failed(&error);
                    return;
                }
            }
        });
    }

    pub(crate) fn happened(&self, what: Happened) {
        self.state().figures.happened(what);
    }

    pub(crate) fn queue_failed(&self, error: &Error) {
        let why = error.to_string().into();
        self.happened(Happened::QueueFailed { why });
    }

    /// The lease of a run is over.
    pub(crate) fn lose(&self, live: &Live) {
        if live.stop(Stop::Lost) {
            let mut state = self.state();
            state.figures.count(&live.kind, |counts| counts.lost += 1);
            state.figures.happened(Happened::Lost { id: live.id });
        }
    }

    pub(crate) fn count_end(&self, live: &Live, ended: &Ended) {
        let stopped = live.stopped();
        self.state()
            .figures
            .count(&live.kind, |counts| match ended.outcome {
                _ if stopped == Some(Stop::Lost) => {}
                Some(Outcome::Done) => counts.completed += 1,
                _ if stopped == Some(Stop::Cancelled) => counts.cancelled += 1,
                Some(Outcome::Failed { reason, .. }) => {
                    counts.failed += 1;
                    counts.timed_out += u64::from(reason == Reason::TimedOut);
                    counts.panicked += u64::from(reason == Reason::Panicked);
                }
                Some(Outcome::Returned { .. }) | None => counts.returned += 1,
            });
    }

    /// A run has ended, and nothing of it is left.
    pub(crate) fn gone(&self, live: &Live, verdict: Verdict) {
        let now = OsClock.now();
        let mut state = self.state();
        state.running.remove(&live.token);
        state.ledger.take_back(live.token);
        state.ledger.release(&live.grant);
        if let Some(pass) = live.pass.get() {
            let change = state.breakers.leave(now, pass, verdict);
            if let Some(change) = change {
                state.figures.happened(change);
            }
        }
        drop(state);
        self.poke.notify_one();
    }
}

/// A run, until nothing of it is left: that is noted however it ends, its own panic included, as a drain waits for it.
pub(crate) struct Entered {
    pub(crate) hub: Arc<Hub>,
    pub(crate) live: Arc<Live>,
    pub(crate) verdict: Verdict,
}

impl Entered {
    /// It has ended, and says that of what it depends on.
    pub(crate) fn leave(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.hub.gone(&self.live, self.verdict);
    }
}
