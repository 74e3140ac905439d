//! The queue that is open, or why there is none; and what was opened with it.
//!
//! A part is switched on by [`Part::open`] and [`Part::take`], in two steps, so that what can fail is done before anything else changes;
//! and off by [`Part::switch_off`], which returns at once: the thread that follows the queue lets what runs come to its end, then closes it.

use crate::config::{Config, QueueBackend};
use crate::error::Error;
use crate::shared::Shared;
use crate::tasks::follow::{self, Look, Orders};
use crate::tasks::open::{Open, Start, Store};
use crate::tasks::verdict;
use crate::view::{CpuHealth, PartFlag};
use arc_swap::{ArcSwap, ArcSwapOption};
use flyball_core::time::{Timestamp, WallTime};
use flyball_sense::Root;
use flyball_tasks::TaskQueue;
use flyball_tasks::run::Handlers;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::watch;

const NOWHERE: &str = "no folder was named to keep tasks in: queue.state_dir names one";

/// What a program has said of tasks beside the configuration.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) queue: Option<Arc<dyn TaskQueue>>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) commands: Option<flyball_process::Options>,
    pub(crate) root: Root,
}

/// The part of the engine that durable tasks are.
pub(crate) struct Part {
    given: Given,
    /// Kept while the part is off: they run when it is on again.
    pub(crate) handlers: Arc<Handlers>,
    state: ArcSwap<State>,
    /// How the queue was at the last look.
    look: ArcSwapOption<Look>,
    follower: Mutex<Option<Follower>>,
}

enum State {
    /// It is open.
    Open(Arc<Open>),
    /// The configuration has switched it off.
    Off,
    /// Nobody has said where to keep tasks.
    Nowhere,
}

struct Follower {
    orders: watch::Sender<Orders>,
    thread: JoinHandle<()>,
}

impl Part {
    /// Nothing is open yet.
    pub(crate) fn new(given: Given) -> Self {
        Part {
            given,
            handlers: Handlers::new(),
            state: ArcSwap::from_pointee(State::Off),
            look: ArcSwapOption::empty(),
            follower: Mutex::default(),
        }
    }

    /// Opens what the configuration asks for; `None` if it asks for nothing, or nobody said where.
    ///
    /// # Errors
    /// The folder cannot be used, another daemon has it, or the store in it cannot be read.
    pub(crate) fn open(
        &self,
        shared: &Arc<Shared>,
        config: &Config,
    ) -> Result<Option<Open>, Error> {
        if !config.scheduler.enabled {
            return Ok(None);
        }
        let folder = self.given.state_dir.as_ref();
        let folder = folder.or(config.queue.state_dir.as_ref());
        let store = match (&self.given.queue, folder) {
            (Some(queue), _) => Store::Given(queue.clone()),
            (None, _) if config.queue.backend != QueueBackend::Embedded => {
                return Err(Error::Unavailable {
                    part: "the queue of tasks",
                    why: format!("this build has no backend {}", config.queue.backend),
                });
            }
            (None, Some(folder)) => Store::embedded(folder, config)?,
            (None, None) => return Ok(None),
        };
        Open::start(Start {
            shared,
            config,
            store,
            folder: folder.map(PathBuf::as_path),
            handlers: self.handlers.clone(),
            commands: self.given.commands.as_ref(),
            root: &self.given.root,
        })
        .map(Some)
    }

    /// Says that it is to be on, and that nobody named a folder for it.
    pub(crate) fn lack(&self) {
        self.state.store(Arc::new(State::Nowhere));
    }

    /// Takes what was opened, and begins to follow it.
    ///
    /// # Errors
    /// The thread cannot be started; nothing is on then.
    pub(crate) fn take(&self, shared: &Arc<Shared>, open: Open) -> Result<(), Error> {
        let open = Arc::new(open);
        let mut follower = self.follower();
        let (orders, orders_here) = watch::channel(Orders::default());
        let (owned, followed) = (shared.clone(), open.clone());
        // Read here: what is submitted before the thread has begun is news to it.
        let seen = *open.queue.watch().borrow();
        let thread = std::thread::Builder::new()
            .name("flyball-tasks".to_owned())
            .spawn(move || follow::run(&owned, &followed, seen, orders_here))
            .map_err(|source| Error::Os {
                what: "start the thread that follows the queue of tasks",
                source,
            })?;
        *follower = Some(Follower { orders, thread });
        self.state.store(Arc::new(State::Open(open)));
        Ok(())
    }

    /// Tells the runners what the configuration means for them; `enabled` is whether they take tasks.
    pub(crate) fn set_runners(&self, config: &Config, enabled: bool) {
        if let Some(open) = self.opened()
            && let Err(fault) = open.runners.set(open.run_settings(config, enabled))
        {
            tracing::error!(%fault, "the runners of tasks keep the settings they had");
        }
    }

    /// What is open.
    pub(crate) fn opened(&self) -> Option<Arc<Open>> {
        self.open_or_why().ok()
    }

    /// What is open.
    ///
    /// # Errors
    /// Why nothing is.
    pub(crate) fn open_or_why(&self) -> Result<Arc<Open>, Error> {
        let part = "the queue of tasks";
        match &**self.state.load() {
            State::Open(open) => Ok(open.clone()),
            State::Off => Err(Error::Off {
                part,
                setting: "scheduler.enabled",
            }),
            State::Nowhere => Err(Error::Unavailable {
                part,
                why: NOWHERE.to_owned(),
            }),
        }
    }

    /// How well the queue is; `None` while there is none.
    pub(crate) fn health(&self) -> Option<CpuHealth> {
        Some(verdict::judge(&self.look()?, WallTime::now()))
    }

    /// What people are told of it in one line.
    pub(crate) fn flag(&self) -> PartFlag {
        let (enabled, detail) = match &**self.state.load() {
            State::Open(open) => (true, open.detail(self.look().as_ref())),
            State::Off => (false, "switched off by scheduler.enabled".to_owned()),
            State::Nowhere => (false, NOWHERE.to_owned()),
        };
        PartFlag {
            part: "task_queue".to_owned(),
            enabled,
            detail,
        }
    }

    /// How the queue was at the last look, and whether it has stopped since; `None` while there is none.
    pub(crate) fn look(&self) -> Option<Look> {
        let open = self.opened()?;
        let look = self.look.load_full();
        let mut look = look.map_or_else(Look::default, |look| (*look).clone());
        look.stopped = open.stopped().or(look.stopped);
        Some(look)
    }

    pub(crate) fn set_look(&self, look: Look) {
        self.look.store(Some(Arc::new(look)));
    }

    /// Tells it that the configuration or the classes are others.
    pub(crate) fn changed(&self) {
        if let Some(follower) = &*self.follower() {
            follower.orders.send_modify(|orders| orders.changes += 1);
        }
    }

    /// Takes no more, lets what runs go on until then, closes the queue. Answers at once.
    pub(crate) fn switch_off(&self, until: Timestamp) {
        self.state.store(Arc::new(State::Off));
        self.look.store(None);
        if let Some(follower) = &*self.follower() {
            follower
                .orders
                .send_modify(|orders| orders.end = Some(until));
        }
    }

    /// Whether a queue that was switched off is still being closed.
    pub(crate) fn is_closing(&self) -> bool {
        let mut follower = self.follower();
        let ended = |follower: &Follower| follower.thread.is_finished();
        if follower.as_ref().is_some_and(ended) {
            join(follower.take());
        }
        follower.is_some() && self.opened().is_none()
    }

    /// As [`switch_off`](Self::switch_off), and waits for the end.
    pub(crate) fn end(&self, until: Timestamp) {
        self.switch_off(until);
        let follower = self.follower().take();
        join(follower);
    }

    fn follower(&self) -> MutexGuard<'_, Option<Follower>> {
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn join(follower: Option<Follower>) {
    if let Some(follower) = follower {
        // A panic there has been reported by the panic hook.
        let _ = follower.thread.join();
    }
}
