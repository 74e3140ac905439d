//! What runs tasks, as its owner holds it.

use crate::queue::TaskQueue;
use crate::run::allow::Fault;
use crate::run::breakers::{DependencyError, DependencyStatus};
use crate::run::context::{Live, Phase};
use crate::run::dispatcher::{Running, dispatch, of};
use crate::run::figures::{Happened, KindCounts, RunEvent};
use crate::run::gates::Gates;
use crate::run::handlers::Handlers;
use crate::run::hub::{Classes, Hub};
use crate::run::parts::Ways;
use crate::run::settings::RunSettings;
use crate::task::{Task, Waiting};
use flyball_core::time::{Clock, OsClock, WallTime};
use flyball_limit::Gate;
use flyball_policy::limit::{BreakerConfig, Forced};
use flyball_policy::queue::{Needs, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// What the runners are started with.
#[derive(Clone)]
#[non_exhaustive]
pub struct Parts {
    /// Finds the executor's class of a name. Tasks of a class that it does not know run in `normal`.
    pub classes: Classes,
    /// The handlers of the program. Kinds without one are left to outside workers.
    pub handlers: Arc<Handlers>,
    /// What the queue knows the runners by: `local` unless set.
    pub worker: Box<str>,
    /// Process slots, or why there are none.
    #[cfg(feature = "command")]
    pub slots: Result<flyball_process::Slots, String>,
    /// Where outputs of commands are kept; it is made where it is missing. Of no use without slots.
    #[cfg(feature = "command")]
    pub outputs: std::path::PathBuf,
    /// What may change later.
    pub settings: RunSettings,
}

impl Parts {
    /// Handlers in classes, and no commands.
    pub fn new(classes: Classes, handlers: Arc<Handlers>) -> Parts {
        Parts {
            classes,
            handlers,
            worker: "local".into(),
            #[cfg(feature = "command")]
            slots: Err("the program did not say how commands start".to_owned()),
            #[cfg(feature = "command")]
            outputs: std::path::PathBuf::new(),
            settings: RunSettings::default(),
        }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("handlers", &self.handlers)
            .field("worker", &self.worker)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Why the runners could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of its range.
    #[error("settings of the runners: {0}")]
    Settings(#[from] Fault),
    /// The folder for outputs cannot be used.
    #[error("cannot keep outputs in {path:?}")]
    Outputs {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The thread or its runtime could not be made.
    #[error("cannot start the thread of the runners")]
    Thread(#[source] std::io::Error),
}

/// What a drain did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Drained {
    /// Runs that ended by themselves since it began.
    pub ended: u32,
    /// Handlers that did not end when they were told to; their tasks were given back.
    pub stuck: u32,
}

/// Runs tasks of a queue, on a thread of its own; handlers run in the executor's classes. Dropping it ends what runs, gives its tasks back and joins
/// the thread: [`drain`](Self::drain) first to let them finish.
pub struct Runners {
    hub: Arc<Hub>,
    ways: Arc<Ways>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    #[cfg(feature = "command")]
    no_commands: Option<String>,
}

impl Runners {
    /// Starts the thread; tasks are taken from then on, if the settings say so.
    ///
    /// # Errors
    /// Settings out of range, a folder for outputs that cannot be used, or no thread. Nothing has been started then.
    pub fn start(queue: Arc<dyn TaskQueue>, parts: Parts) -> Result<Runners, StartError> {
        parts.settings.validate()?;
        #[cfg(feature = "command")]
        let no_commands = parts.slots.as_ref().err().cloned();
        let ways = Arc::new(Ways {
            #[cfg(feature = "command")]
            commands: match parts.slots {
                Ok(slots) => Some(
                    super::command::Commands::new(slots, &parts.outputs, &parts.settings).map_err(
                        |source| StartError::Outputs {
                            path: parts.outputs.clone(),
                            source,
                        },
                    )?,
                ),
                Err(_) => None,
            },
            #[cfg(feature = "http")]
            http: Some(super::http::Caller::new(&parts.settings)),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let hub = Arc::new(Hub::new(
            queue,
            parts.handlers,
            parts.classes,
            parts.worker,
            parts.settings,
            runtime.handle().clone(),
        ));
        let (stop, stopped) = watch::channel(false);
        let (its_hub, its_ways) = (Arc::clone(&hub), Arc::clone(&ways));
        let thread = std::thread::Builder::new()
            .name("flyball-runners".to_owned())
            .spawn(move || {
                #[cfg(feature = "command")]
                runtime.spawn({
                    let (hub, ways) = (Arc::clone(&its_hub), Arc::clone(&its_ways));
                    async move {
                        if let Some(commands) = &ways.commands {
                            commands.take_turns(&hub).await;
                        }
                    }
                });
                runtime.block_on(dispatch(its_hub, its_ways, stopped));
                runtime.shutdown_background();
            })
            .map_err(StartError::Thread)?;
        Ok(Runners {
            hub,
            ways,
            stop,
            thread: Some(thread),
            #[cfg(feature = "command")]
            no_commands,
        })
    }

    /// Changes the settings while tasks run.
    ///
    /// # Errors
    /// The first setting that is out of its range; nothing has changed then.
    pub fn set(&self, settings: RunSettings) -> Result<(), Fault> {
        settings.validate()?;
        #[cfg(feature = "command")]
        if let Some(commands) = &self.ways.commands {
            commands.set(&settings);
        }
        #[cfg(feature = "http")]
        if let Some(http) = &self.ways.http {
            http.set(&settings);
        }
        self.hub.set(settings);
        Ok(())
    }

    /// Puts these gates before what runs from now on. What holds a slot of another one keeps it. To be called as well when the settings of one have changed:
    /// calls for which it had no slot come back at once then, where it has more.
    pub fn set_gates(&self, gates: Gates) {
        let mut state = self.hub.state();
        let mut called = Vec::new();
        state.lines.retain(|key, line| {
            let gate = gates.dependencies.get(key);
            let acts = gate.filter(|gate| !gate.observes());
            called.extend(line.set(acts.map_or(u32::MAX, Gate::limit)));
            gate.is_some()
        });
        state.gates = gates;
        drop(state);
        self.hub.call_back(called);
        self.hub.poke.notify_one();
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> Arc<RunSettings> {
        self.hub.settings()
    }

    /// The handlers that it runs.
    #[must_use]
    pub fn handlers(&self) -> &Arc<Handlers> {
        &self.hub.handlers
    }

    /// What of all that a task needs is more than there is here at all, if tasks like it run here: it would wait for ever. The name (`cpu` in thousandths,
    /// `memory` in bytes, or a named resource), what is needed, how much there is.
    #[must_use]
    pub fn beyond(
        &self,
        kind: &str,
        run: &crate::task::Run,
        needs: &Needs,
    ) -> Vec<(Box<str>, u64, u64)> {
        let outside = matches!(run, crate::task::Run::Handler) && !self.hub.handlers.handles(kind);
        if *needs == Needs::default() || outside {
            return Vec::new();
        }
        self.hub.state().ledger.beyond(needs)
    }

    /// Why no commands run here; `None` if they do.
    #[must_use]
    pub fn commands_unavailable(&self) -> Option<&str> {
        #[cfg(feature = "command")]
        return self.no_commands.as_deref();
        #[cfg(not(feature = "command"))]
        Some("this build has no commands")
    }

    /// What runs, oldest first.
    #[must_use]
    pub fn running(&self) -> Vec<Running> {
        let lives: Vec<Arc<Live>> = self.hub.state().running.values().cloned().collect();
        let mut running: Vec<Running> = lives.iter().map(|live| self.shown(live)).collect();
        running.sort_by_key(|run| (run.since.unix_nanos(), run.id));
        running
    }

    fn shown(&self, live: &Live) -> Running {
        Running {
            id: live.id,
            kind: live.kind.clone(),
            class: live.class.clone(),
            attempt: live.attempts.started,
            since: live.since,
            phase: live.phase(),
            grant: live.grant.clone(),
            #[cfg(feature = "command")]
            memory_bytes: self
                .ways
                .commands
                .as_ref()
                .and_then(|commands| commands.memory(live.token)),
            #[cfg(not(feature = "command"))]
            memory_bytes: None,
        }
    }

    /// CPU time that commands have used since the start, by class, nanoseconds: of those that run as /proc tells it now, of those that have ended as
    /// the kernel counted it. It may fall by a moment's worth when a command ends; whoever wants differences keeps the highest. Reads some files of each
    /// process of each command.
    #[cfg(feature = "command")]
    #[must_use]
    pub fn commands_cpu(&self) -> BTreeMap<String, u64> {
        let commands = self.ways.commands.as_ref();
        commands.map_or_else(BTreeMap::new, |commands| commands.cpu())
    }

    /// Lets commands of these classes run for a part of the time, 0 to 1, and those of all others always, until it is called again. They stand still by
    /// turns (SIGSTOP), so few at once that use hardly swings; their leases are renewed meanwhile, and the clock of their timeouts stands while they do.
    #[cfg(feature = "command")]
    pub fn hold_commands(&self, parts: BTreeMap<Box<str>, f64>) {
        if let Some(commands) = &self.ways.commands {
            commands.hold(parts);
        }
    }

    /// Commands that stand still now for the part of the time that they may run.
    #[cfg(feature = "command")]
    #[must_use]
    pub fn commands_held(&self) -> usize {
        let commands = self.ways.commands.as_ref();
        commands.map_or(0, |commands| commands.held())
    }

    /// What commands wrote; `None` where no commands run.
    #[cfg(feature = "command")]
    #[must_use]
    pub fn outputs(&self) -> Option<&Arc<super::Outputs>> {
        self.ways
            .commands
            .as_ref()
            .map(super::command::Commands::outputs)
    }

    /// Runs by kind since the start; kinds beyond 1,000 are counted as `other`.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Box<str>, KindCounts> {
        self.hub.state().figures.kinds()
    }

    /// What happened after an event's number, of the newest [`EVENTS_MAX`](super::EVENTS_MAX).
    #[must_use]
    pub fn events_after(&self, number: u64) -> Vec<RunEvent> {
        self.hub.state().figures.events_after(number)
    }

    /// What a task waits for here, beside what the queue knows. Nothing for one that does not wait to be run here.
    #[must_use]
    pub fn why(&self, task: &Task) -> Vec<Waiting> {
        if !matches!(task.state, State::Pending | State::Scheduled) {
            return Vec::new();
        }
        if matches!(task.run, crate::task::Run::Handler)
            && !self.hub.handlers.handles(&task.head.kind)
        {
            return Vec::new();
        }
        let (now, wall) = (OsClock.now(), WallTime::now());
        let key = of(task.head.via, &task.head.kind, &task.run);
        let mut state = self.hub.state();
        let mut waits = Vec::new();
        if let Some(refused) = state.breakers.refusal(now, &key) {
            waits.push(Waiting::Breaker {
                key: key.clone(),
                until: refused
                    .until
                    .map(|until| wall.saturating_add(until.duration_since(now))),
            });
        }
        let attempt = (task.id, task.attempts.started);
        let line = state.lines.get(&key);
        if line.is_some_and(|line| line.is_away(attempt))
            && task.state == State::Scheduled
            && let Some(gate) = state.gates.dependencies.get(&key)
        {
            waits.push(Waiting::CallLimit {
                key,
                running: gate.in_flight(),
                limit: gate.limit(),
            });
        }
        if task.state == State::Pending {
            waits.extend(state.ledger.why(&task.head.needs));
            #[cfg(feature = "command")]
            if let (crate::task::Run::Command(_), Some(commands)) = (&task.run, &self.ways.commands)
                && commands.free() == 0
            {
                waits.push(Waiting::Slots {
                    running: commands.busy(),
                    limit: commands.size(),
                });
            }
        }
        waits
    }

    /// All dependencies that were called, with their breakers.
    #[must_use]
    pub fn breakers(&self) -> Vec<DependencyStatus> {
        self.hub.state().breakers.list(OsClock.now())
    }

    /// Gives a dependency's breaker settings of its own, or takes them back.
    ///
    /// # Errors
    /// A setting out of its range; taking back from a dependency that is not known.
    pub fn configure_breaker(
        &self,
        key: &str,
        config: Option<BreakerConfig>,
    ) -> Result<(), DependencyError> {
        self.change(|breakers, now| breakers.configure(now, key, config))
    }

    /// Decides in place of a dependency's breaker, until it is called with `None`.
    ///
    /// # Errors
    /// The dependency is not known.
    pub fn force_breaker(&self, key: &str, forced: Option<Forced>) -> Result<(), DependencyError> {
        self.change(|breakers, now| breakers.force(now, key, forced))
    }

    /// Closes a dependency's breaker and forgets what it counted.
    ///
    /// # Errors
    /// The dependency is not known.
    pub fn reset_breaker(&self, key: &str) -> Result<(), DependencyError> {
        self.change(|breakers, now| breakers.reset(now, key))
    }

    fn change(
        &self,
        change: impl FnOnce(
            &mut crate::run::breakers::Breakers,
            flyball_core::time::Timestamp,
        ) -> Result<(), DependencyError>,
    ) -> Result<(), DependencyError> {
        let done = change(&mut self.hub.state().breakers, OsClock.now());
        self.hub.poke.notify_one();
        done
    }

    /// Takes no more tasks, lets those that run finish for so long, then ends them and gives their tasks back at no cost of an attempt. Answers when
    /// nothing runs any more, or nothing that can be ended: some seconds later at most, the grace of commands that are killed.
    ///
    /// There is no way back: who wants to go on starts anew. A second call may shorten the time.
    pub fn drain(&self, within: Duration) -> impl Future<Output = Drained> + Send + 'static {
        let deadline = OsClock.now().saturating_add(within);
        let before;
        {
            let mut state = self.hub.state();
            let first = state.drain.is_none();
            state.drain = Some(state.drain.unwrap_or(deadline).min(deadline));
            before = u32::try_from(state.running.len()).unwrap_or(u32::MAX);
            if first {
                let running = before;
                state.figures.happened(Happened::Draining { running });
            }
        }
        self.hub.poke.notify_one();
        let mut drained = self.hub.drained.subscribe();
        let hub = Arc::clone(&self.hub);
        async move {
            let _ = drained.wait_for(|drained| *drained).await;
            let stuck = u32::try_from(hub.state().running.len()).unwrap_or(u32::MAX);
            Drained {
                ended: before.saturating_sub(stuck),
                stuck,
            }
        }
    }

    /// As [`drain`](Self::drain), blocking this thread, which must not be inside of a future.
    ///
    /// # Panics
    /// Inside of a future of a tokio runtime.
    pub fn drain_blocking(&self, within: Duration) -> Drained {
        let (done, waited) = tokio::sync::oneshot::channel();
        let draining = self.drain(within);
        // The runners' own thread drives it: there may be no runtime here.
        self.hub.spawn(async move {
            let _ = done.send(draining.await);
        });
        waited
            .blocking_recv()
            .unwrap_or(Drained { ended: 0, stuck: 0 })
    }
}

impl Drop for Runners {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Runners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runners")
            .field("running", &self.hub.state().running.len())
            .finish_non_exhaustive()
    }
}

impl Running {
    /// Whether it stands still for work of a higher class.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.phase == Phase::Paused
    }
}
