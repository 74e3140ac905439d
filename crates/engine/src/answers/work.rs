//! Classes, workers, queues.

use crate::Engine;
use crate::error::Error;
use crate::view::{
    BalancerStats, BalancerWorkerLoad, ClassView, LatencyView, QueueView, RunningTask,
    SchedulerClass, SchedulerStats, SheddingView, TaskTotals, Time, WorkerEventView, WorkerLoad,
    WorkerStateView, WorkerView,
};
use flyball_core::class::ClassSpec;
use flyball_core::histogram::Histogram;
use flyball_core::time::Timestamp;
use flyball_executor::{
    ClassStats, Event, SheddingStatus, What, WorkerSettings, WorkerState, WorkerStatus,
};
use flyball_policy::sched::place;
use std::time::Duration;

/// A worker is overloaded when it was busy for this part of the last second, and more than a batch waits for it.
const OVERLOADED: f64 = 0.9;

/// What may be changed of one worker; None leaves it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkerChange {
    /// Its weight for the strategies that weigh, above 0.
    pub weight: Option<f64>,
    /// Keys that belong to it under the strategy `affinity`.
    pub affinity_keys: Option<Vec<u64>>,
    /// CPUs it may run on; empty for all.
    pub affinity_cores: Option<Vec<u32>>,
}

/// How many threads a group should have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScaleRequest {
    /// So many, whatever the load, until it is unpinned.
    pub target: Option<u32>,
    /// At least so many: `worker_pool.min_workers`.
    pub min: Option<u32>,
    /// At most so many: `worker_pool.max_workers`.
    pub max: Option<u32>,
}

fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

fn duration_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn latency(histogram: &Histogram) -> LatencyView {
    let quantile = |q| histogram.quantile(q).map(ms);
    LatencyView {
        count: histogram.count(),
        mean_ms: histogram.mean().map(|mean| mean / 1e6),
        p50_ms: quantile(0.5),
        p95_ms: quantile(0.95),
        p99_ms: quantile(0.99),
        max_ms: histogram.max().map(ms),
    }
}

fn shedding(status: &SheddingStatus) -> SheddingView {
    SheddingView {
        shed_after_ms: duration_ms(status.settings.target),
        mode: match status.settings.observe {
            true => "observe".to_owned(),
            false => "enforce".to_owned(),
        },
        may_wait: status.limit.map(|limit| limit as u64),
        starts_per_second: status.rate,
        refused: status.refused,
        refused_late: status.refused_late,
        would_refuse: status.would_refuse,
        level: status.level.name().to_owned(),
    }
}

fn totals(class: &ClassStats) -> TaskTotals {
    let counts = &class.counts;
    let unhappy = counts.panicked + counts.cancelled + counts.timed_out + counts.deadline_missed;
    TaskTotals {
        queued: class.queued as u64,
        running: class.running as u64,
        finished: counts.tasks.saturating_sub(unhappy),
        panicked: counts.panicked,
        cancelled: counts.cancelled,
        timed_out: counts.timed_out,
        deadline_missed: counts.deadline_missed,
        refused: class.refused,
    }
}

fn add(sum: &mut TaskTotals, class: &TaskTotals) {
    sum.queued += class.queued;
    sum.running += class.running;
    sum.finished += class.finished;
    sum.panicked += class.panicked;
    sum.cancelled += class.cancelled;
    sum.timed_out += class.timed_out;
    sum.deadline_missed += class.deadline_missed;
    sum.refused += class.refused;
}

/// What a kind of event is called.
pub(crate) fn event_kind(what: What) -> String {
    let mut name = String::new();
    for letter in format!("{what:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

pub(crate) fn event(event: &Event) -> WorkerEventView {
    WorkerEventView {
        number: event.number,
        timestamp: Time::of(event.at),
        worker: event.worker.map(|worker| worker.to_string()),
        kind: event_kind(event.what),
        reason: event.reason.clone(),
    }
}

impl Engine {
    /// How classes share the workers, and what each received.
    pub fn scheduler_stats(&self) -> SchedulerStats {
        let stats = self.shared.executor.stats();
        let received = self.shares_received();
        let mut sum = TaskTotals::default();
        let classes: Vec<SchedulerClass> = stats
            .classes
            .iter()
            .map(|class| {
                let totals = totals(class);
                add(&mut sum, &totals);
                SchedulerClass {
                    class: class.name.clone(),
                    totals,
                    wait: latency(&class.wait),
                    run: latency(&class.run),
                    cpu_ms: ms(class.cpu_ns),
                    share_received_percent: received(&class.name),
                    share_promised_percent: class.promised.map(|part| part * 100.0),
                    slices: class.slices,
                    preemptions: class.preempted,
                    starvation_guard_activations: class.aged,
                }
            })
            .collect();
        let config = self.config();
        let sizing = config.worker_pool.sizing;
        SchedulerStats {
            algorithm: stats.algorithm.to_string(),
            sizing: config.performance.enabled.then(|| sizing.to_string()),
            parallelism: stats.parallelism as u32,
            running_workers: stats.running as u32,
            totals: sum,
            waiting_futures: stats.waiting_futures as u64,
            preemptions: classes.iter().map(|class| class.preemptions).sum(),
            starvation_guard_activations: classes
                .iter()
                .map(|class| class.starvation_guard_activations)
                .sum(),
            classes,
        }
    }

    /// Part of all classes' CPU time that each received over the last interval; None where none was spent.
    fn shares_received(&self) -> impl Fn(&str) -> Option<f64> + use<> {
        let last = self.shared.history.last();
        move |name| {
            let spent = &last.as_ref()?.work.cpu_ns;
            let all: u64 = spent.iter().map(|(_, cpu)| cpu).sum();
            let own = spent.iter().find(|(class, _)| class == name)?.1;
            (all > 0).then(|| own as f64 / all as f64 * 100.0)
        }
    }

    /// The queues, highest priority first.
    pub fn scheduler_queues(&self) -> Vec<QueueView> {
        let mut queues: Vec<QueueView> = self
            .shared
            .executor
            .stats()
            .classes
            .iter()
            .map(|class| QueueView {
                class: class.name.clone(),
                priority: class.spec.priority,
                length: class.queued as u64,
                limit: class.spec.queue_limit as u64,
                oldest_wait_ms: class.oldest_wait.map(duration_ms),
                time_slice_ms: duration_ms(class.spec.time_slice),
                shares: class.spec.shares,
                paused: class.paused,
            })
            .collect();
        queues.sort_by_key(|queue| std::cmp::Reverse(queue.priority));
        queues
    }

    /// All classes, in the order of their creation.
    pub fn classes(&self) -> Vec<ClassView> {
        let received = self.shares_received();
        let stats = self.shared.executor.stats();
        let view = |class: &ClassStats| self.class_view_of(class, &received);
        stats.classes.iter().map(view).collect()
    }

    /// One class.
    ///
    /// # Errors
    /// [`Error::Unknown`], which lists those there are.
    pub fn class_view(&self, name: &str) -> Result<ClassView, Error> {
        let stats = self.shared.executor.stats();
        match stats.class(name) {
            Some(class) => Ok(self.class_view_of(class, &self.shares_received())),
            None => Err(Error::Unknown {
                what: "class",
                name: name.to_owned(),
                known: format!(
                    "; there are {}",
                    stats
                        .classes
                        .iter()
                        .map(|class| class.name.as_str())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            }),
        }
    }

    fn class_view_of(
        &self,
        class: &ClassStats,
        received: &impl Fn(&str) -> Option<f64>,
    ) -> ClassView {
        let spec = &class.spec;
        ClassView {
            name: class.name.clone(),
            built_in: ClassSpec::built_in()
                .iter()
                .any(|known| known.name == class.name),
            priority: spec.priority,
            shares: spec.shares,
            guarantee: spec.guarantee,
            ceiling: spec.ceiling,
            latency_target_ms: duration_ms(spec.latency_target),
            time_slice_ms: duration_ms(spec.time_slice),
            queue_limit: spec.queue_limit as u64,
            sheddable: spec.sheddable,
            shedding: class.shedding.as_ref().map(shedding),
            preemptible: spec.preemptible,
            concurrency: spec.concurrency,
            group: spec.group.to_string(),
            niceness: spec.niceness,
            paused: class.paused,
            totals: totals(class),
            oldest_wait_ms: class.oldest_wait.map(duration_ms),
            wait: latency(&class.wait),
            run: latency(&class.run),
            cpu_ms: ms(class.cpu_ns),
            share_received_percent: received(&class.name),
            share_promised_percent: class.promised.map(|part| part * 100.0),
        }
    }

    /// All workers, front ones first.
    pub fn workers(&self) -> Vec<WorkerView> {
        let batch = self.config().worker_pool.task_batch_size as usize;
        let now = self.shared.now();
        let view = |worker: &WorkerStatus| worker_view(worker, now, batch);
        self.shared.executor.workers().iter().map(view).collect()
    }

    /// One worker.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn worker(&self, id: &str) -> Result<WorkerView, Error> {
        let number = self.worker_number(id)?;
        let id = number.to_string();
        self.workers()
            .into_iter()
            .find(|worker| worker.id == id)
            .ok_or_else(|| unknown_worker(&id))
    }

    /// Reads a worker's number.
    pub(crate) fn worker_number(&self, id: &str) -> Result<u16, Error> {
        let number: u16 = id.parse().map_err(|_| unknown_worker(id))?;
        let known = self.shared.executor.workers();
        if known.iter().any(|worker| worker.id == number) {
            Ok(number)
        } else {
            Err(unknown_worker(id))
        }
    }

    /// Changes what is given of one worker; all of it or nothing.
    ///
    /// # Errors
    /// [`Error::Unknown`]; a weight that is not above 0, CPUs that do not exist.
    pub fn change_worker(
        &self,
        id: &str,
        change: &WorkerChange,
        who: &str,
    ) -> Result<WorkerView, Error> {
        let number = self.worker_number(id)?;
        self.shared.executor.set_worker(
            number,
            &WorkerSettings {
                weight: change.weight,
                affinity_keys: change.affinity_keys.clone(),
                affinity_cores: change.affinity_cores.clone(),
            },
        )?;
        tracing::info!(who, worker = id, ?change, "worker changed");
        self.worker(id)
    }

    /// Lets a worker finish its task, ends its thread and starts another in its place.
    ///
    /// # Errors
    /// [`Error::Unknown`]; the executor's refusal.
    pub fn restart_worker(&self, id: &str, who: &str) -> Result<(), Error> {
        self.shared
            .executor
            .restart_worker(self.worker_number(id)?)?;
        tracing::info!(who, worker = id, "worker restarted");
        Ok(())
    }

    /// Events of workers and pool after a number, oldest first.
    pub fn worker_events(&self, after: Option<u64>, limit: usize) -> Vec<WorkerEventView> {
        self.shared
            .executor
            .events_after(after)
            .iter()
            .take(limit)
            .map(event)
            .collect()
    }

    /// How work is spread over the workers.
    pub fn balancer_stats(&self) -> BalancerStats {
        let workers: Vec<WorkerStatus> = self
            .shared
            .executor
            .workers()
            .into_iter()
            .filter(|worker| worker.state != WorkerState::Stopped)
            .collect();
        let stats = self.shared.executor.stats();
        let loads: Vec<f64> = workers.iter().map(|worker| worker.cpu).collect();
        let mean = (!loads.is_empty()).then(|| loads.iter().sum::<f64>() / loads.len() as f64);
        BalancerStats {
            strategy: stats.strategy.to_string(),
            enabled: self.config().load_balancer.enabled,
            total_dispatched: workers.iter().map(|worker| worker.tasks).sum(),
            per_worker: workers
                .iter()
                .map(|worker| BalancerWorkerLoad {
                    id: worker.id.to_string(),
                    dispatched: worker.tasks,
                    load: worker.cpu,
                    queue_length: worker.queued as u64,
                })
                .collect(),
            mean_load: mean,
            load_variance: mean.map(|mean| {
                loads
                    .iter()
                    .map(|load| (load - mean) * (load - mean))
                    .sum::<f64>()
                    / loads.len() as f64
            }),
            jain_fairness: loads
                .iter()
                .any(|load| *load > 0.0)
                .then(|| place::jain(&loads)),
            steals: workers.iter().map(|worker| worker.stolen).sum(),
            rebalances: stats.rebalances,
            last_rebalance: stats.last_rebalance.map(Time::of),
        }
    }

    /// Moves queued tasks so that the workers' lists differ by at most one where affinity allows; says how many moved.
    ///
    /// # Errors
    /// [`Error::Off`] while load balancing is switched off.
    pub fn rebalance(&self, who: &str) -> Result<usize, Error> {
        if !self.config().load_balancer.enabled {
            return Err(Error::Off {
                part: "load balancing",
                setting: "load_balancer.enabled",
            });
        }
        let moved = self.shared.executor.rebalance();
        tracing::info!(who, moved, "rebalanced");
        Ok(moved)
    }
}

fn unknown_worker(id: &str) -> Error {
    Error::Unknown {
        what: "worker",
        name: id.to_owned(),
        known: String::new(),
    }
}

fn worker_view(worker: &WorkerStatus, now: Timestamp, batch: usize) -> WorkerView {
    let seen = Time::of(now.saturating_sub(worker.last_heartbeat));
    let running = worker.task.is_some();
    WorkerView {
        id: worker.id.to_string(),
        group: worker.group.to_string(),
        state: match worker.state {
            WorkerState::Starting => WorkerStateView::Starting,
            WorkerState::Idle => WorkerStateView::Idle,
            WorkerState::Processing => WorkerStateView::Processing,
            WorkerState::Stuck => WorkerStateView::Stuck,
            WorkerState::Draining => WorkerStateView::Draining,
            _ => WorkerStateView::Stopped,
        },
        status: if running && worker.cpu >= OVERLOADED && worker.queued > batch {
            WorkerLoad::Overloaded
        } else if running || worker.queued > 0 {
            WorkerLoad::Busy
        } else {
            WorkerLoad::Idle
        },
        weight: worker.weight,
        load: worker.cpu,
        cpu_percent: worker.cpu * 100.0,
        last_heartbeat: seen,
        queue_length: worker.queued as u64,
        affinity_cores: worker.affinity_cores.clone(),
        affinity_keys: worker.affinity_keys.clone(),
        replaced_by: worker.replaced_by.map(|worker| worker.to_string()),
        tasks_processed: worker.tasks,
        errors: worker.errors,
        error_rate_percent: worker.error_rate.map(|rate| rate * 100.0),
        throughput_per_second: worker.throughput,
        mean_run_ms: worker.mean_run.map(duration_ms),
        p95_run_ms: worker.p95_run.map(duration_ms),
        cpu_time_ms: ms(worker.cpu_ns),
        memory_bytes: None,
        health: worker.health.score,
        missed_heartbeats: worker.missed_heartbeats,
        current_task: worker.task.as_ref().map(|(class, kind, age)| RunningTask {
            class: class.clone(),
            kind: kind.clone(),
            running_ms: duration_ms(*age),
        }),
        last_activity: worker.last_activity.map(Time::of),
        uptime_ms: worker.uptime.map(|uptime| uptime.as_millis() as u64),
        thread_id: worker.thread_id,
    }
}
