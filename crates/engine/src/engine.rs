//! The engine as its owner holds it: started, configured, shut down.

use crate::config::{Config, Loaded};
use crate::control;
use crate::error::Error;
use crate::events::Events;
use crate::knobs::Knobs;
use crate::settings;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
#[cfg(feature = "tasks")]
use crate::tasks::{Given, Part};
use flyball_core::class::Group;
use flyball_executor::{Class, Executor, ShutdownReport};
use flyball_sense::Root;
#[cfg(feature = "tasks")]
use flyball_tasks::TaskQueue;
use std::fmt;
#[cfg(feature = "tasks")]
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// What a program says beside the configuration.
#[derive(Default)]
pub struct Options {
    /// Where the kernel's files are; another root in tests, with captured trees.
    pub root: Root,
    /// Settings of the executor that are code: tokio runtime, hooks, context, thread name, stack size, pinning. What the configuration
    /// has a key for is taken from there.
    pub executor: flyball_executor::Config,
    /// Whether there are the daemon's own throttles: `machine`, which holds `throttling.threshold_percent`, and `quota`. A library has
    /// those of `throttling.throttles` only.
    pub daemon_throttles: bool,
    /// The folder that durable tasks and the outputs of commands are kept in, in place of `queue.state_dir`. Without either there is no
    /// queue.
    #[cfg(feature = "tasks")]
    pub state_dir: Option<PathBuf>,
    /// A queue of durable tasks in place of the embedded one.
    #[cfg(feature = "tasks")]
    pub queue: Option<Arc<dyn TaskQueue>>,
    /// How commands are started; without it command tasks are refused. The program's `main` must have called [`flyball_process::init`].
    #[cfg(feature = "tasks")]
    pub commands: Option<flyball_process::Options>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Options");
        out.field("root", &self.root)
            .field("executor", &self.executor)
            .field("daemon_throttles", &self.daemon_throttles);
        #[cfg(feature = "tasks")]
        out.field("state_dir", &self.state_dir)
            .field("queue", &self.queue.is_some())
            .field("commands", &self.commands);
        out.finish()
    }
}

/// A running engine. It owns its threads; dropping it cancels what is queued and ends them.
///
/// Its answers and the changes it takes are listed in the module `answers`; they are the same behind library, API and command line.
pub struct Engine {
    // In this order: threads end before what they work on.
    pub(crate) control: ControlThread,
    #[cfg(feature = "tasks")]
    tasks: TasksOwner,
    pub(crate) shared: Arc<Shared>,
}

/// The thread of the control loop; dropping it ends and joins it.
pub(crate) struct ControlThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ControlThread {
    /// Whether it runs. It ends before it is asked to by a panic only.
    pub(crate) fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Closes the queue of tasks when it is dropped; tasks that run then are given back at once.
#[cfg(feature = "tasks")]
struct TasksOwner(Arc<Shared>);

#[cfg(feature = "tasks")]
impl Drop for TasksOwner {
    fn drop(&mut self) {
        self.0.tasks.end(self.0.now());
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({:?})", self.shared.executor)
    }
}

impl Engine {
    /// Starts the parts that the configuration switches on.
    ///
    /// # Errors
    /// Classes that do not fit together, a thread that cannot be started. Nothing runs then.
    pub fn start(loaded: Loaded) -> Result<Self, Error> {
        Self::start_with(loaded, Options::default())
    }

    /// As [`Engine::start`], with what only a program can say.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_with(loaded: Loaded, options: Options) -> Result<Self, Error> {
        let Options {
            root,
            executor,
            daemon_throttles,
            #[cfg(feature = "tasks")]
            state_dir,
            #[cfg(feature = "tasks")]
            queue,
            #[cfg(feature = "tasks")]
            commands,
        } = options;
        let cpus = flyball_executor::available_parallelism();
        let config = loaded.config.clone();
        let parallelism = settings::parallelism(cpus, &executor);
        let executor = Executor::start(settings::executor(&config, cpus, executor))?;
        executor.set_tuning(&settings::tuning(&config, executor.tuning()))?;
        let knobs = Knobs::new(
            settings::range(&config, Group::Front, parallelism, cpus),
            settings::range(&config, Group::Back, parallelism, cpus),
            settings::parallelism_range(parallelism),
        );
        #[cfg(feature = "tasks")]
        let tasks = Part::new(Given {
            queue,
            state_dir,
            commands,
            root: root.clone(),
        });
        let shared = Arc::new(Shared::new(
            executor,
            loaded,
            cpus,
            knobs,
            daemon_throttles,
            #[cfg(feature = "tasks")]
            tasks,
        ));
        shared.set_key_limits(None, &config)?;
        shared.set_shedding(None, &config)?;
        shared.configure_limits(&config);
        #[cfg(feature = "tasks")]
        let tasks = {
            match shared.tasks.open(&shared, &config)? {
                Some(open) => shared.tasks.take(&shared, open)?,
                None if config.scheduler.enabled => shared.tasks.lack(),
                None => {}
            }
            TasksOwner(shared.clone())
        };
        shared.configure_throttles();
        let owned = shared.clone();
        let thread = std::thread::Builder::new()
            .name("flyball-control".to_owned())
            .spawn(move || control::run(owned, root))
            .map_err(|source| Error::Os {
                what: "start the control thread",
                source,
            })?;
        let control = ControlThread {
            shared: shared.clone(),
            thread: Some(thread),
        };
        Ok(Engine {
            control,
            #[cfg(feature = "tasks")]
            tasks,
            shared,
        })
    }

    /// Looks a class up; the handle is cheap to clone.
    ///
    /// # Errors
    /// The executor's, which lists those there are.
    pub fn class(&self, name: &str) -> Result<Class, Error> {
        Ok(self.shared.executor.class(name)?)
    }

    /// The worker pool.
    pub fn executor(&self) -> &Executor {
        &self.shared.executor
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config()
    }

    /// The newest look at the machine; None before the first, and while monitoring is off.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.shared.history.last()
    }

    /// The newest `limit` looks, oldest of them first; at most [`HISTORY`](crate::snapshot::HISTORY) are kept.
    pub fn snapshots(&self, limit: usize) -> Vec<Arc<Snapshot>> {
        self.shared.history.newest(limit)
    }

    /// What happened, to follow.
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// How often the control loop has looked, at least once each `worker_pool.health_check_interval`: it stands still when it hangs.
    pub fn control_ticks(&self) -> u64 {
        self.shared.ticks.load(Ordering::Relaxed)
    }

    /// Has the control loop go round once, even where it has nothing to do: if [`control_ticks`](Self::control_ticks) has not grown a
    /// while later, it hangs.
    pub fn nudge_control(&self) {
        self.shared.nudge();
    }

    /// Says that the engine will end: from now on it is not ready for new work from outside.
    /// No more durable tasks are started here; those that run go on until [`shutdown`](Self::shutdown).
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        #[cfg(feature = "tasks")]
        self.shared.tasks.set_runners(&self.config(), false);
    }

    /// Whether the engine takes work: not once it is asked to end, nor while its queue of tasks has stopped.
    pub fn is_ready(&self) -> bool {
        !self.shared.is_draining() && !self.tasks_stopped()
    }

    #[cfg(feature = "tasks")]
    fn tasks_stopped(&self) -> bool {
        let look = self.shared.tasks.look();
        look.is_some_and(|look| look.stopped.is_some())
    }

    #[cfg(not(feature = "tasks"))]
    fn tasks_stopped(&self) -> bool {
        false
    }

    /// Ends the control loop, runs what was accepted for at most `worker_pool.shutdown_timeout`, cancels the rest, and says what was not
    /// done. Blocks.
    ///
    /// # Errors
    /// The engine back when called on one of its own workers, which would wait for itself.
    pub fn shutdown(self) -> Result<ShutdownReport, Box<(Self, Error)>> {
        let timeout = self.config().worker_pool.shutdown_timeout;
        self.shutdown_within(timeout)
    }

    /// As [`shutdown`](Self::shutdown), with another time for what was accepted: for who has waited for a part of that already.
    ///
    /// # Errors
    /// As there.
    pub fn shutdown_within(self, timeout: Duration) -> Result<ShutdownReport, Box<(Self, Error)>> {
        if self.shared.executor.is_own_thread() {
            let error = flyball_executor::Error::BlocksWorker { call: "shutdown" };
            return Err(Box::new((self, error.into())));
        }
        self.drain();
        let Engine {
            control,
            #[cfg(feature = "tasks")]
            tasks,
            mut shared,
        } = self;
        drop(control);
        let until = shared.now().saturating_add(timeout);
        #[cfg(feature = "tasks")]
        {
            shared.tasks.end(until);
            drop(tasks);
        }
        let shared = loop {
            match Arc::try_unwrap(shared) {
                Ok(shared) => break shared,
                // A task that ends may be looking a class up, for a moment.
                Err(held) => shared = held,
            }
            std::thread::yield_now();
        };
        let timeout = until.duration_since(shared.now());
        match shared.executor.shutdown(timeout) {
            Ok(report) => Ok(report),
            Err(_) => unreachable!("this is none of its workers"),
        }
    }
}
