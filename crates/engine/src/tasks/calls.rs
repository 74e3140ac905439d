//! What programs ask of durable tasks beside the queue itself: handlers, breakers, what a task waits for, outputs, copies.

use crate::Engine;
use crate::error::Error;
use crate::tasks::open::Open;
use flyball_policy::limit::{BreakerConfig, Forced};
use flyball_tasks::run::{
    DependencyStatus, Handlers, Outputs, Phase, Running, TaskContext, TaskError,
};
use flyball_tasks::{Run, Scope, State, Task, TaskId, TaskQueue, Waiting};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// The queue of durable tasks.
    ///
    /// # Errors
    /// [`Error::Off`] while it is switched off, [`Error::Unavailable`] where nobody said where to keep tasks.
    pub fn tasks(&self) -> Result<Arc<dyn TaskQueue>, Error> {
        Ok(self.shared.tasks.open_or_why()?.queue.clone())
    }

    /// Has this program run tasks of a kind: an async function of the task's payload, in the class of the task. Handlers may be registered
    /// before there is a queue, and stay while it is switched off.
    ///
    /// A payload that does not read as `In` fails the task for good. An error made by [`TaskError::retry`] is followed by another attempt, any
    /// other is not. When the task is cancelled or its time is over, the future is dropped at its next await.
    ///
    /// # Errors
    /// The kind has a handler already, or is no name of a kind.
    pub fn register<In, Out, F, Fut>(&self, kind: &str, handler: F) -> Result<(), Error>
    where
        F: Fn(TaskContext, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, TaskError>> + Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + 'static,
    {
        Ok(self.handlers().register(kind, handler)?)
    }

    /// As [`register`](Self::register), for a closure that computes or blocks. It should ask [`TaskContext::is_cancelled`] now and then, as nobody
    /// can end it but itself.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_blocking<In, Out, F>(&self, kind: &str, handler: F) -> Result<(), Error>
    where
        F: Fn(TaskContext, In) -> Result<Out, TaskError> + Send + Sync + 'static,
        In: DeserializeOwned + 'static,
        Out: Serialize + 'static,
    {
        Ok(self.handlers().register_blocking(kind, handler)?)
    }

    /// The handlers of this program: fallbacks are registered and handlers removed there.
    pub fn handlers(&self) -> &Arc<Handlers> {
        &self.shared.tasks.handlers
    }

    /// Everything that a task waits for now: what the queue knows, what runs tasks here, and the engine.
    ///
    /// # Errors
    /// There is no queue, or no such task.
    pub async fn waiting_for(&self, id: TaskId) -> Result<Vec<Waiting>, Error> {
        let open = self.shared.tasks.open_or_why()?;
        let mut waits = open.queue.why(id).await?;
        let task = open.queue.task(id).await?;
        // What the queue knows already need not be said twice.
        for more in open.runners.why(&task) {
            if !waits.contains(&more) {
                waits.push(more);
            }
        }
        self.explain(&open, &task, &mut waits);
        Ok(waits)
    }

    /// Adds what only the engine knows.
    fn explain(&self, open: &Open, task: &Task, waits: &mut Vec<Waiting>) {
        let stats = self.shared.executor.stats();
        let class = stats
            .class(&task.head.class)
            .or_else(|| stats.class("normal"));
        let paused = class.is_some_and(|class| class.paused);
        let scope = Waiting::Paused(Scope::Class(task.head.class.clone()));
        if paused && !task.state.is_terminal() && !waits.contains(&scope) {
            waits.push(scope);
        }
        let mut unready = |why: String| waits.push(Waiting::Unready { why: why.into() });
        if task.state == State::Pending {
            if let (Run::Command(_), Some(why)) = (&task.run, open.runners.commands_unavailable()) {
                unready(format!("commands do not run here: {why}"));
            }
            if self.shared.is_draining() {
                unready("the daemon is ending, and starts no more tasks".to_owned());
            }
        }
        let starting =
            |running: &Running| running.id == task.id && running.phase == Phase::Starting;
        if task.state == State::Running
            && let Some(class) = class
            && open.runners.running().iter().any(starting)
        {
            let group = stats.group(class.spec.group);
            unready(format!(
                "it is leased, and waits for a worker: {} wait and {} run in class {}; {} workers of its group are there, {} may run at once",
                class.queued, class.running, class.name, group.present, stats.parallelism
            ));
        }
    }

    /// What runs here, oldest first.
    ///
    /// # Errors
    /// There is no queue.
    pub fn running_tasks(&self) -> Result<Vec<Running>, Error> {
        Ok(self.shared.tasks.open_or_why()?.runners.running())
    }

    /// What commands wrote.
    ///
    /// # Errors
    /// There is no queue, or commands do not run here.
    pub fn task_outputs(&self) -> Result<Arc<Outputs>, Error> {
        let open = self.shared.tasks.open_or_why()?;
        open.runners
            .outputs()
            .cloned()
            .ok_or_else(|| Error::Unavailable {
                part: "the outputs of commands",
                why: match open.runners.commands_unavailable() {
                    Some(why) => why.to_owned(),
                    None => "none are kept".to_owned(),
                },
            })
    }

    /// All dependencies that tasks have called, with their breakers.
    ///
    /// # Errors
    /// There is no queue.
    pub fn breakers(&self) -> Result<Vec<DependencyStatus>, Error> {
        Ok(self.shared.tasks.open_or_why()?.runners.breakers())
    }

    /// Gives the breaker of a dependency settings of its own, or takes them back (`None`). A restart forgets them.
    ///
    /// # Errors
    /// There is no queue, or no such dependency; a setting out of its range.
    pub fn configure_breaker(
        &self,
        key: &str,
        config: Option<BreakerConfig>,
        who: &str,
    ) -> Result<(), Error> {
        let open = self.shared.tasks.open_or_why()?;
        open.runners.configure_breaker(key, config)?;
        tracing::info!(who, dependency = key, ?config, "breaker configured");
        Ok(())
    }

    /// Decides in place of the breaker of a dependency, until it is called with `None`.
    ///
    /// # Errors
    /// There is no queue, or no such dependency.
    pub fn force_breaker(&self, key: &str, forced: Option<Forced>, who: &str) -> Result<(), Error> {
        let open = self.shared.tasks.open_or_why()?;
        open.runners.force_breaker(key, forced)?;
        tracing::info!(who, dependency = key, ?forced, "breaker forced");
        Ok(())
    }

    /// Closes the breaker of a dependency and forgets what it counted.
    ///
    /// # Errors
    /// There is no queue, or no such dependency.
    pub fn reset_breaker(&self, key: &str, who: &str) -> Result<(), Error> {
        let open = self.shared.tasks.open_or_why()?;
        open.runners.reset_breaker(key)?;
        tracing::info!(who, dependency = key, "breaker reset");
        Ok(())
    }

    /// Copies the queue as it is now into a new file, while it goes on; answers the length of the copy, bytes. Blocks until that is on disk, so call it where
    /// that may take its time.
    ///
    /// # Errors
    /// There is no queue, it is not the embedded one, there is such a file, or the copy cannot be written.
    pub fn backup(&self, to: &Path, who: &str) -> Result<u64, Error> {
        let bytes = self.shared.tasks.open_or_why()?.backup(to)?;
        tracing::info!(who, bytes, to = %to.display(), "queue of tasks copied");
        Ok(bytes)
    }
}
