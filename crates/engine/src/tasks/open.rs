//! What is open while durable tasks are switched on: the store, what runs its tasks, and the processes that commands become.

use crate::config::Config;
use crate::error::Error;
use crate::shared::Shared;
use crate::tasks::follow::Look;
use crate::tasks::settings::{self, Machine};
use flyball_core::time::Timestamp;
use flyball_executor::Executor;
use flyball_policy::sched::Algorithm;
use flyball_process::bounds::cgroup::CgroupPool;
use flyball_process::bounds::sharing;
use flyball_process::{Jobserver, JobserverOptions, Slots, SpawnServer};
use flyball_sense::{Readings, Root, Sample, Sensors};
use flyball_tasks::run::{Classes, Handlers, Parts, RunSettings, Runners};
use flyball_tasks::{Embedded, EmbeddedOptions, SystemClocks, TaskQueue};
use std::path::Path;
use std::sync::Arc;

/// The store's folder in the state folder.
pub(crate) const QUEUE: &str = "queue";
/// The folder of the outputs of commands in it.
const OUTPUTS: &str = "outputs";

/// Where tasks are kept.
pub(crate) enum Store {
    /// Where the program said.
    Given(Arc<dyn TaskQueue>),
    /// In the state folder.
    Embedded(Arc<Embedded>),
}

impl Store {
    /// Opens the store in a state folder.
    ///
    /// # Errors
    /// The folder cannot be used, somebody else has it, or the store in it cannot be read.
    pub(crate) fn embedded(folder: &Path, config: &Config) -> Result<Self, Error> {
        let mut options = EmbeddedOptions::new(folder.join(QUEUE));
        options.max_bytes = Some(config.queue.max_size);
        options.settings = settings::bounds(config);
        let store = Embedded::open(options, Arc::new(SystemClocks))?;
        if let Some(what) = store.broken_log() {
            tracing::error!("the queue of tasks: {what}; it is kept as tasks.db-wal.damaged");
        }
        Ok(Store::Embedded(Arc::new(store)))
    }

    fn queue(&self) -> Arc<dyn TaskQueue> {
        match self {
            Store::Given(queue) => queue.clone(),
            Store::Embedded(store) => store.clone(),
        }
    }
}

/// What [`Open`] is started with.
pub(crate) struct Start<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) config: &'a Config,
    pub(crate) store: Store,
    pub(crate) folder: Option<&'a Path>,
    pub(crate) handlers: Arc<Handlers>,
    pub(crate) commands: Option<&'a flyball_process::Options>,
    pub(crate) root: &'a Root,
}

/// What is open.
pub(crate) struct Open {
    pub(crate) queue: Arc<dyn TaskQueue>,
    store: Store,
    // Before the processes that it runs commands in.
    pub(crate) runners: Runners,
    processes: Option<Processes>,
    machine: Machine,
}

/// What commands run in.
struct Processes {
    slots: Slots,
    /// Dropping it kills what it started.
    _server: SpawnServer,
}

impl Open {
    /// Why the store has stopped, as far as it can be asked at once.
    pub(crate) fn stopped(&self) -> Option<String> {
        match &self.store {
            Store::Embedded(store) => store.stopped(),
            Store::Given(_) => None,
        }
    }

    /// Copies the store; answers the length of the copy, bytes.
    pub(crate) fn backup(&self, to: &Path) -> Result<u64, Error> {
        match &self.store {
            Store::Embedded(store) => Ok(store.back_up(to)?),
            Store::Given(_) => Err(Error::Unavailable {
                part: "a copy",
                why: "the queue of tasks is the program's own".to_owned(),
            }),
        }
    }

    /// Starts what runs tasks of the store.
    ///
    /// # Errors
    /// A thread cannot be started, or the folder of outputs not be used. Nothing runs then.
    pub(crate) fn start(start: Start<'_>) -> Result<Self, Error> {
        let Start {
            shared,
            config,
            store,
            ..
        } = start;
        let machine = machine(start.root, shared.cpus);
        let mut parts = Parts::new(classes(shared), start.handlers);
        parts.settings = settings::run_settings(config, machine, !shared.is_draining());
        let processes = match (start.commands, start.folder) {
            (None, _) => {
                Err("the program did not say how commands start (Options::commands)".to_owned())
            }
            (_, None) => Err("no folder was named to keep the outputs of commands in".to_owned()),
            (Some(options), Some(folder)) => {
                parts.outputs = folder.join(OUTPUTS);
                Processes::start(options, config, shared.cpus)
            }
        };
        parts.slots = match &processes {
            Ok(processes) => Ok(processes.slots.clone()),
            Err(why) => {
                if start.commands.is_some() {
                    tracing::warn!("command tasks do not run here: {why}");
                }
                Err(why.clone())
            }
        };
        let queue = store.queue();
        Ok(Open {
            runners: Runners::start(queue.clone(), parts)?,
            queue,
            store,
            processes: processes.ok(),
            machine,
        })
    }

    /// What the configuration means for the runners.
    pub(crate) fn run_settings(&self, config: &Config, enabled: bool) -> RunSettings {
        settings::run_settings(config, self.machine, enabled)
    }

    /// Changes what may change of store and processes while they are open. (What runs tasks is told by [`run_settings`](Self::run_settings).)
    pub(crate) async fn follow_config(&self, config: &Config) {
        if let Some(processes) = &self.processes {
            let most = config.scheduler.max_concurrency;
            if processes.slots.size() != most {
                processes.slots.resize(most);
            }
        }
        if let Store::Embedded(store) = &self.store {
            let set = store.set_bounds(settings::bounds(config), Some(config.queue.max_size));
            if let Err(error) = set.await {
                tracing::warn!(%error, "the queue of tasks keeps the bounds it had");
            }
        }
    }

    /// Tells the process slots of classes that are new or others than they were.
    pub(crate) fn follow_classes(&self, executor: &Executor) {
        if let Some(processes) = &self.processes {
            processes.follow_classes(executor);
        }
    }

    /// Has what runs come to its end, until then; what does not is given back.
    pub(crate) async fn drain(&self, within: std::time::Duration) {
        let drained = self.runners.drain(within).await;
        if drained.stuck > 0 {
            tracing::warn!(
                tasks = drained.stuck,
                "handlers did not end; their tasks were given back"
            );
        }
    }

    /// How it is in a line.
    pub(crate) fn detail(&self, look: Option<&Look>) -> String {
        let live = look.iter().flat_map(|look| &look.by_state);
        let counts: Vec<String> = live
            .filter(|(state, count)| !state.is_terminal() && **count > 0)
            .map(|(state, count)| format!("{count} {}", state.name()))
            .collect();
        let counts = match counts.is_empty() {
            true => "no task waits".to_owned(),
            false => counts.join(", "),
        };
        match self.runners.commands_unavailable() {
            None => counts,
            Some(why) => format!("{counts}; no commands: {why}"),
        }
    }
}

impl Processes {
    fn start(
        options: &flyball_process::Options,
        config: &Config,
        cpus: usize,
    ) -> Result<Self, String> {
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        let server = start_server(options)?;
        let slots = Slots::new(&server, config.scheduler.max_concurrency, Algorithm::Cfs);
        // Batches of this user then leave to these commands what their classes have a right to.
        if let Err(why) = slots.share(&sharing::user_folder(), cpus) {
            tracing::info!("batches on this machine do not make room for command tasks: {why}");
        }
        // So that a make, a cargo or a ninja among the commands starts no more jobs than there are CPUs without work. Where there can be none, commands run without.
        let mut of_jobserver = JobserverOptions::default();
        of_jobserver.slots_max = cpus;
        match Jobserver::start(config.scheduler.max_concurrency, of_jobserver) {
            Ok(jobserver) => slots.set_jobserver(Some(jobserver)),
            Err(error) => tracing::warn!(%error, "commands have no jobserver"),
        }
        Ok(Processes {
            slots,
            _server: server,
        })
    }

    /// Classes that are not there yet come with their first command.
    fn follow_classes(&self, executor: &Executor) {
        for class in executor.stats().classes {
            let name = class.name;
            if self.slots.class(&name).is_some()
                && let Err(error) = self.slots.update(class.spec)
            {
                tracing::warn!(%error, class = name, "commands of the class run as before");
            }
        }
    }
}

/// Starts the spawn server, each command in a control group of its own where there can be some: then the kernel knows what belongs to
/// a command, whatever it does to get away.
fn start_server(options: &flyball_process::Options) -> Result<SpawnServer, String> {
    let mut grouped = options.clone();
    if grouped.groups.is_none() && grouped.scope.is_none() {
        match CgroupPool::make() {
            Ok(groups) => grouped.groups = Some(groups),
            Err(why) => tracing::info!("commands have no control groups of their own: {why}"),
        }
    }
    let was_given = options.groups.is_some() || grouped.groups.is_none();
    match SpawnServer::start(grouped) {
        Err(error) if !was_given => {
            tracing::info!("commands have no control groups of their own: {error}");
            SpawnServer::start(options.clone()).map_err(|error| error.to_string())
        }
        started => started.map_err(|error| error.to_string()),
    }
}

/// Finds classes while the engine lives.
fn classes(shared: &Arc<Shared>) -> Classes {
    let shared = Arc::downgrade(shared);
    Arc::new(move |name| shared.upgrade()?.executor.class(name).ok())
}

/// What there is to share: the memory is read once, as machines rarely get more.
fn machine(root: &Root, cpus: usize) -> Machine {
    let mut sensors = Sensors::open(root);
    let mut sample = Sample::default();
    let wanted = Readings::MEMORY | Readings::CGROUP;
    sensors.sample_only(wanted, Timestamp::ZERO, &mut sample);
    let total = sample.memory.map(|memory| memory.total_bytes);
    let group = sample.cgroup_memory.and_then(|group| group.limit_bytes);
    Machine {
        cpus,
        memory_bytes: total.into_iter().chain(group).min(),
    }
}
