//! Durable tasks: what is asked of the queue, and what it answers, as clients read it.

use crate::Engine;
use crate::error::Error;
use crate::tasks::settings;
use crate::view::tasks::{
    AcceptedView, Defaults, Faults, FinishedItem, LeaseView, LeasesView, NewTaskBody, PauseView,
    PausesView, Submission, TaskBatchBody, TaskStatsView, TaskView, WhyView, pointer_of, task_view,
    why_view,
};
use flyball_core::time::WallTime;
use flyball_tasks::{
    Batch, Beat, CommandSpec, Completion, Idempotency, LeaseRequest, Needs, NewTask, Query, Run,
    Scope, Selection, TaskId, Token,
};

/// A page of tasks, newest first.
#[derive(Debug)]
pub struct TaskPage {
    /// The tasks.
    pub items: Vec<TaskView>,
    /// Where the next page begins; none after the last.
    pub next: Option<TaskId>,
    /// Tasks that were met on the way and whose row is damaged.
    pub damaged: Vec<TaskId>,
}

impl Engine {
    /// What holds for tasks that say nothing else.
    #[must_use]
    pub fn task_defaults(&self) -> Defaults {
        let config = self.shared.config();
        Defaults {
            retry: settings::retry_policy(&config),
            timeout: Some(config.cpu_scheduler.task_timeout),
            command_timeout: Some(config.commands.timeout),
        }
    }

    /// Checks a task; `local`: whether the local user asks, who may run every command.
    ///
    /// # Errors
    /// [`Error::Body`] with everything that is wrong, [`Error::Forbidden`] for a command that is not allowed over the network.
    pub fn check_task(&self, body: NewTaskBody, local: bool) -> Result<Submission, Error> {
        let is_class = |name: &str| self.shared.executor.class(name).is_ok();
        let defaults = self.task_defaults();
        let submission = Submission::one(body, WallTime::now(), local, &defaults, &is_class)?;
        self.check_runs(&submission)?;
        Ok(submission)
    }

    /// Checks a batch, as [`check_task`](Self::check_task).
    ///
    /// # Errors
    /// As there.
    pub fn check_batch(&self, body: TaskBatchBody, local: bool) -> Result<Submission, Error> {
        let is_class = |name: &str| self.shared.executor.class(name).is_ok();
        let defaults = self.task_defaults();
        let submission = Submission::batch(body, WallTime::now(), local, &defaults, &is_class)?;
        self.check_runs(&submission)?;
        Ok(submission)
    }

    /// Checks what tasks would do and need against what is allowed and there.
    fn check_runs(&self, submission: &Submission) -> Result<(), Error> {
        let mut faults = Faults::default();
        for (index, task) in submission.tasks.iter().enumerate() {
            let index = submission.batch.then_some(index);
            let refused = match &task.run {
                Run::Command(command) => self.check_command(command),
                Run::Http(call) if call.remote => settings::reach(&self.shared.config())
                    .check(&call.url)
                    .map_err(|why| ("http.url".to_owned(), why)),
                _ => Ok(()),
            };
            refused.map_err(|(field, why)| Error::Forbidden {
                pointer: pointer_of(index, &field),
                why,
            })?;
            self.check_needs(index, task, &mut faults);
        }
        Ok(faults.or(())?)
    }

    /// What a task that runs here needs must be there, or it would wait for ever.
    fn check_needs(&self, index: Option<usize>, task: &NewTask, faults: &mut Faults) {
        if task.head.needs == Needs::default() {
            return;
        }
        let resource = |name: &str| {
            let step = name.replace('~', "~0").replace('/', "~1");
            format!("{}/{step}", pointer_of(index, "resources"))
        };
        // Without a queue there is a better answer than this.
        let Ok(open) = self.shared.tasks.open_or_why() else {
            return;
        };
        for (name, needs, total) in
            open.runners
                .beyond(&task.head.kind, &task.run, &task.head.needs)
        {
            let (pointer, detail) = match &*name {
                "cpu" => (
                    pointer_of(index, "cpu"),
                    format!(
                        "found {}, expected at most {}: scheduler.max_cpus",
                        needs as f64 / 1e3,
                        total as f64 / 1e3
                    ),
                ),
                "memory" => (
                    pointer_of(index, "memory_bytes"),
                    format!("found {needs}, expected at most {total}: scheduler.max_memory"),
                ),
                name if total == 0 => {
                    let config = self.shared.config();
                    let known = &config.scheduler.resources;
                    let list: Vec<&str> = known.keys().map(String::as_str).take(20).collect();
                    let there = match list.as_slice() {
                        [] => "names none".to_owned(),
                        names => format!("has {}", names.join(", ")),
                    };
                    (
                        resource(name),
                        format!("there is no such resource: scheduler.resources {there}"),
                    )
                }
                name => (
                    resource(name),
                    format!("found {needs}, expected at most {total}: scheduler.resources"),
                ),
            };
            faults.add(pointer, detail);
        }
    }

    /// Puts tasks into the queue, all or none. When this answers, they are on disk.
    ///
    /// # Errors
    /// What is wrong with them; that there is no queue, or that it is full, closing or has stopped. Nothing was taken then.
    pub async fn submit(
        &self,
        submission: Submission,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<AcceptedView>, Error> {
        let queue = self.tasks()?;
        if self.shared.is_draining() {
            return Err(flyball_tasks::Error::Closing.into());
        }
        let tasks = submission.tasks;
        let name = |task: &NewTask| (task.head.kind.clone(), task.head.class.clone());
        // A unique task that waits may be of another kind.
        let any_unique = tasks.iter().any(|task| task.head.unique.is_some());
        // The usual single task needs no list.
        let first = (tasks.len() == 1).then(|| name(&tasks[0]));
        let names: Vec<_> = match first {
            Some(_) => Vec::new(),
            None => tasks.iter().map(name).collect(),
        };
        let accepted = queue.enqueue(Batch { tasks, idempotency }).await?;
        let mut views = Vec::with_capacity(accepted.len());
        for (accepted, (kind, class)) in accepted.iter().zip(first.into_iter().chain(names)) {
            let mut view = AcceptedView::new(accepted, kind, class);
            if any_unique && accepted.existing {
                let task = queue.task(accepted.id).await?;
                (view.kind, view.class) = (task.head.kind, task.head.class);
            }
            views.push(view);
        }
        Ok(views)
    }

    /// Hands tasks out to an outside worker.
    ///
    /// # Errors
    /// That there is no queue, or that it is closing or has stopped.
    pub async fn lease(&self, request: LeaseRequest) -> Result<LeasesView, Error> {
        if self.shared.is_draining() {
            return Err(flyball_tasks::Error::Closing.into());
        }
        let leases = self.tasks()?.lease(request).await?;
        Ok(LeasesView {
            tasks: leases.into_iter().map(LeaseView::from).collect(),
        })
    }

    /// Takes a sign of life of who has a task.
    ///
    /// # Errors
    /// A stale token, among others of the queue.
    pub async fn heartbeat(
        &self,
        id: TaskId,
        token: Token,
        beat: Beat,
        reveal: bool,
    ) -> Result<TaskView, Error> {
        let queue = self.tasks()?;
        let beaten = queue.heartbeat(id, token, beat).await?;
        let mut view = task_view(&queue.task(id).await?, reveal);
        view.cancel_requested |= beaten.cancelled;
        Ok(view)
    }

    /// Ends an attempt.
    ///
    /// # Errors
    /// A stale token, among others of the queue.
    pub async fn finish_one(&self, end: Completion, reveal: bool) -> Result<TaskView, Error> {
        let queue = self.tasks()?;
        let id = end.id;
        let ended = queue.finish(vec![end]).await?;
        ended.into_iter().next().transpose()?;
        Ok(task_view(&queue.task(id).await?, reveal))
    }

    /// Ends attempts, each for itself, in the order of the request.
    ///
    /// # Errors
    /// Those of the queue as a whole.
    pub async fn finish(
        &self,
        ends: Vec<Completion>,
    ) -> Result<Vec<Result<FinishedItem, (TaskId, Error)>>, Error> {
        let queue = self.tasks()?;
        let ids: Vec<TaskId> = ends.iter().map(|end| end.id).collect();
        let ended = queue.finish(ends).await?;
        let item = |(ended, id): (Result<_, flyball_tasks::Error>, TaskId)| {
            ended
                .map(FinishedItem::from)
                .map_err(|error| (id, error.into()))
        };
        Ok(ended.into_iter().zip(ids).map(item).collect())
    }

    /// Cancels tasks.
    ///
    /// # Errors
    /// An unknown or ended task of a list of ids, among others of the queue.
    pub async fn cancel_tasks(
        &self,
        which: Selection,
        why: String,
    ) -> Result<Vec<FinishedItem>, Error> {
        let changed = self.tasks()?.cancel(which, why).await?;
        Ok(changed.into_iter().map(FinishedItem::from).collect())
    }

    /// Gives tasks that ended without success fresh attempts.
    ///
    /// # Errors
    /// As [`cancel_tasks`](Self::cancel_tasks).
    pub async fn retry_tasks(&self, which: Selection) -> Result<Vec<FinishedItem>, Error> {
        let changed = self.tasks()?.retry(which).await?;
        Ok(changed.into_iter().map(FinishedItem::from).collect())
    }

    /// All that is known of a task.
    ///
    /// # Errors
    /// An unknown or damaged task, among others of the queue.
    pub async fn task(&self, id: TaskId, reveal: bool) -> Result<TaskView, Error> {
        Ok(task_view(&self.tasks()?.task(id).await?, reveal))
    }

    /// A page of tasks.
    ///
    /// # Errors
    /// Those of the queue.
    pub async fn list_tasks(&self, query: Query, reveal: bool) -> Result<TaskPage, Error> {
        let page = self.tasks()?.list(query).await?;
        Ok(TaskPage {
            items: page
                .tasks
                .iter()
                .map(|task| task_view(task, reveal))
                .collect(),
            next: page.next,
            damaged: page.damaged,
        })
    }

    /// What a task waits for now.
    ///
    /// # Errors
    /// An unknown task, among others of the queue.
    pub async fn why(&self, id: TaskId) -> Result<WhyView, Error> {
        Ok(why_view(id, &self.waiting_for(id).await?))
    }

    /// Figures of the queue.
    ///
    /// # Errors
    /// That there is no queue.
    pub async fn task_stats(&self) -> Result<TaskStatsView, Error> {
        Ok(TaskStatsView::from(&self.tasks()?.stats().await?))
    }

    /// Hands out no more tasks of a scope, or takes that back.
    ///
    /// # Errors
    /// An unknown class, among others of the queue.
    pub async fn pause_tasks(
        &self,
        scope: Scope,
        pause: bool,
        who: &str,
    ) -> Result<PausesView, Error> {
        if let Scope::Class(name) = &scope
            && self.shared.executor.class(name).is_err()
            && pause
        {
            return Err(Faults::one(
                "/class",
                "there is no such class; GET /v1/classes lists them",
            )
            .into());
        }
        let queue = self.tasks()?;
        let changed = if pause {
            queue.pause(scope, who.to_owned()).await?
        } else {
            queue.resume(scope).await?
        };
        Ok(PausesView {
            changed,
            paused: PauseView::all_of(&queue.stats().await?.pauses),
        })
    }

    /// Pauses or resumes a class in the queue, where there is one.
    ///
    /// # Errors
    /// Those of the queue.
    pub async fn pause_queued_class(
        &self,
        name: &str,
        pause: bool,
        who: &str,
    ) -> Result<(), Error> {
        let Ok(queue) = self.tasks() else {
            return Ok(());
        };
        let scope = Scope::Class(name.into());
        if pause {
            queue.pause(scope, who.to_owned()).await?;
        } else {
            queue.resume(scope).await?;
        }
        Ok(())
    }

    /// The kinds that registered handlers take.
    #[must_use]
    pub fn handled_kinds(&self) -> Vec<Box<str>> {
        self.handlers().kinds()
    }

    /// Whether a command may be run for who asks; else the field, and why not. What is checked here is checked again when it starts.
    fn check_command(&self, command: &CommandSpec) -> Result<(), (String, String)> {
        let config = self.shared.config();
        if !command.local && !config.commands.enabled {
            let why = "commands are taken over the socket only, unless commands.enabled and the lists beside it allow others";
            return Err(("command".to_owned(), why.to_owned()));
        }
        settings::allow_list(&config)
            .check(command)
            .map_err(|fault| (fault.field.into(), fault.fault.into()))
    }
}
