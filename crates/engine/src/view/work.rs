//! Classes, workers and what runs on them.

use super::Time;
use serde::{Deserialize, Serialize};

/// Quantiles of a latency.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LatencyView {
    /// Measurements.
    pub count: u64,
    /// Mean.
    pub mean_ms: Option<f64>,
    /// Median.
    pub p50_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Longest.
    pub max_ms: Option<f64>,
}

/// Tasks by what became of them, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskTotals {
    /// Waiting to run now.
    pub queued: u64,
    /// Running now.
    pub running: u64,
    /// Ended by themselves.
    pub finished: u64,
    /// Panicked.
    pub panicked: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Ran past their timeout.
    pub timed_out: u64,
    /// Given up because their deadline had passed.
    pub deadline_missed: u64,
    /// Refused because the queue was full.
    pub refused: u64,
}

/// How classes share the workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SchedulerStats {
    /// The algorithm in force.
    pub algorithm: String,
    /// How the number of workers is found: `classic`, `offered`, `adaptive`; null while nothing sizes the pool.
    pub sizing: Option<String>,
    /// Workers allowed to run at once.
    pub parallelism: u32,
    /// Workers that run now.
    pub running_workers: u32,
    /// Over all classes.
    pub totals: TaskTotals,
    /// Futures that have been polled and wait.
    pub waiting_futures: u64,
    /// Slices taken back before they were over.
    pub preemptions: u64,
    /// Times that ageing let a class go before a higher rank.
    pub starvation_guard_activations: u64,
    /// By class.
    pub classes: Vec<SchedulerClass>,
}

/// What one class received.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SchedulerClass {
    /// Its name.
    pub class: String,
    /// Its tasks.
    pub totals: TaskTotals,
    /// From becoming runnable to running.
    pub wait: LatencyView,
    /// Of a call or poll.
    pub run: LatencyView,
    /// CPU time by the workers' thread clocks.
    pub cpu_ms: f64,
    /// Part of the workers' CPU time received over the last sampling interval.
    pub share_received_percent: Option<f64>,
    /// Part promised among the classes that have work now; null while it has none.
    pub share_promised_percent: Option<f64>,
    /// Slices granted.
    pub slices: u64,
    /// Slices taken back before they were over.
    pub preemptions: u64,
    /// Times that ageing let it go before a higher rank.
    pub starvation_guard_activations: u64,
}

/// One class's queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueView {
    /// The class.
    pub class: String,
    /// Its priority, 0 to 7.
    pub priority: u8,
    /// Tasks that wait.
    pub length: u64,
    /// Most that may.
    pub limit: u64,
    /// How long the oldest has waited, where it is known.
    pub oldest_wait_ms: Option<f64>,
    /// How long it runs before the scheduler decides again.
    pub time_slice_ms: f64,
    /// Its weight.
    pub shares: u32,
    /// Whether it is paused.
    pub paused: bool,
}

/// A class: its settings and what it does now.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClassView {
    /// Its name.
    pub name: String,
    /// Whether every engine has it.
    pub built_in: bool,
    /// 0 to 7, higher first.
    pub priority: u8,
    /// Weight against other classes that have work.
    pub shares: u32,
    /// Part of all CPU that it gets at least while it has work, 0 to 1.
    pub guarantee: f64,
    /// Part of all CPU that it gets at most, 0 to 1.
    pub ceiling: f64,
    /// How long a task may wait before it counts as late.
    pub latency_target_ms: f64,
    /// How long it runs before the scheduler decides again.
    pub time_slice_ms: f64,
    /// Tasks that may wait.
    pub queue_limit: u64,
    /// Whether queued work in memory may be refused under overload.
    pub sheddable: bool,
    /// What is refused because it would wait for too long; null where nothing is.
    pub shedding: Option<SheddingView>,
    /// Whether its running commands may be held while a higher class needs their slots.
    pub preemptible: bool,
    /// Workers that may run it at once; null for no limit.
    pub concurrency: Option<u32>,
    /// `front` or `back`.
    pub group: String,
    /// Niceness of its child processes.
    pub niceness: i8,
    /// Whether it is paused.
    pub paused: bool,
    /// Its tasks.
    pub totals: TaskTotals,
    /// How long the oldest queued task has waited, where it is known.
    pub oldest_wait_ms: Option<f64>,
    /// From becoming runnable to running.
    pub wait: LatencyView,
    /// Of a call or poll.
    pub run: LatencyView,
    /// CPU time by the workers' thread clocks.
    pub cpu_ms: f64,
    /// Part of the workers' CPU time received over the last sampling interval.
    pub share_received_percent: Option<f64>,
    /// Part promised among the classes that have work now; null while it has none.
    pub share_promised_percent: Option<f64>,
}

/// What a class refuses of work in memory because it would wait for too long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SheddingView {
    /// How long work should wait at most.
    pub shed_after_ms: f64,
    /// `enforce`, or `observe`: the same is measured and counted, and nothing refused.
    pub mode: String,
    /// Tasks that may wait now; null until it is known how fast they start.
    pub may_wait: Option<u64>,
    /// Tasks that start a second while some wait; null until it is known.
    pub starts_per_second: Option<f64>,
    /// Tasks that were refused when they were submitted.
    pub refused: u64,
    /// Queued tasks that were refused when their turn came.
    pub refused_late: u64,
    /// About how many would have been refused while it only observed.
    pub would_refuse: u64,
    /// What the service should do without: `normal`, `conserve` or `survive`.
    pub level: String,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WorkerStateView {
    /// Its thread is being started.
    Starting,
    /// It sleeps.
    Idle,
    /// It runs tasks or looks for them.
    Processing,
    /// It has run one task for longer than `worker_pool.stuck_after`.
    Stuck,
    /// It was told to stop and finishes its task.
    Draining,
    /// Its thread has ended.
    Stopped,
}

/// How loaded a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WorkerLoad {
    /// Nothing queued and nothing running.
    Idle,
    /// Something.
    Busy,
    /// Busy for 90% of the last second, and more queued for it than `worker_pool.task_batch_size`.
    Overloaded,
}

/// The task that a worker runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunningTask {
    /// Its class.
    pub class: String,
    /// Its kind; empty where it has none.
    pub kind: String,
    /// How long this call or poll has run.
    pub running_ms: f64,
}

/// One worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerView {
    /// Its number, as text: front workers count from 0, back workers from 128.
    pub id: String,
    /// `front` or `back`.
    pub group: String,
    /// What it does.
    pub state: WorkerStateView,
    /// How loaded it is.
    pub status: WorkerLoad,
    /// Its weight for the strategies that weigh.
    pub weight: f64,
    /// CPU use over the last second, 0 to 1.
    pub load: f64,
    /// The same in percent of one CPU.
    pub cpu_percent: f64,
    /// Last task boundary.
    pub last_heartbeat: Time,
    /// Tasks in its ring and tagged for it.
    pub queue_length: u64,
    /// CPUs it is pinned to; empty for all.
    pub affinity_cores: Vec<u32>,
    /// Keys that belong to it under the strategy `affinity`, at most 16 of them.
    pub affinity_keys: Vec<u64>,
    /// Tasks ended.
    pub tasks_processed: u64,
    /// Of these, panicked or timed out.
    pub errors: u64,
    /// Errors as part of the tasks ended; null before the first.
    pub error_rate_percent: Option<f64>,
    /// Tasks a second over the last seconds.
    pub throughput_per_second: Option<f64>,
    /// Mean of a call or poll.
    pub mean_run_ms: Option<f64>,
    /// 95th percentile of a call or poll.
    pub p95_run_ms: Option<f64>,
    /// CPU time by its thread's clock.
    pub cpu_time_ms: f64,
    /// Memory attributed to it; null as long as memory is not accounted.
    pub memory_bytes: Option<u64>,
    /// 0 to 1; see `worker health` in the guide for the formula.
    pub health: f64,
    /// Heartbeats missed since it started.
    pub missed_heartbeats: u64,
    /// What it runs.
    pub current_task: Option<RunningTask>,
    /// When it last ended or began a task; null before the first.
    pub last_activity: Option<Time>,
    /// Time since its thread started; null while it has none.
    pub uptime_ms: Option<u64>,
    /// The worker that took its place, while it is stuck and replaced.
    pub replaced_by: Option<String>,
    /// The kernel's number of its thread.
    pub thread_id: Option<u32>,
}

/// How work is spread over the workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BalancerStats {
    /// The strategy in force.
    pub strategy: String,
    /// Whether balancing is on.
    pub enabled: bool,
    /// Tasks that workers took and ended.
    pub total_dispatched: u64,
    /// By worker.
    pub per_worker: Vec<BalancerWorkerLoad>,
    /// Mean CPU use of the workers over the last second, 0 to 1.
    pub mean_load: Option<f64>,
    /// Variance of it.
    pub load_variance: Option<f64>,
    /// Jain's index of the workers' CPU use: 1 when all are equal, 1/n when one has all; null while none works.
    pub jain_fairness: Option<f64>,
    /// Tasks taken from other workers' rings.
    pub steals: u64,
    /// Times queued work was moved.
    pub rebalances: u64,
    /// The last of them, if it is among the kept events.
    pub last_rebalance: Option<Time>,
}

/// What one worker was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BalancerWorkerLoad {
    /// The worker.
    pub id: String,
    /// Tasks it ended.
    pub dispatched: u64,
    /// CPU use over the last second, 0 to 1.
    pub load: f64,
    /// Tasks meant for it.
    pub queue_length: u64,
}

/// Something that happened to a worker or to the pool.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerEventView {
    /// Running number; a gap says that older events were dropped.
    pub number: u64,
    /// When.
    pub timestamp: Time,
    /// The worker, if one is concerned.
    pub worker: Option<String>,
    /// What.
    pub kind: String,
    /// Why.
    pub reason: String,
}
