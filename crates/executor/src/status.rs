//! What a worker shows of itself.

use crate::pool::{Pool, TaskWhat, WorkerShared, command, state};
use flyball_core::class::Group;
use flyball_core::histogram::Histogram;
use flyball_core::time::Timestamp;
use flyball_policy::sched::health::Health;
use std::collections::HashMap;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// Most affinity keys that [`WorkerStatus::affinity_keys`] lists.
pub const SHOWN_AFFINITY_KEYS: usize = 16;

/// One worker as it is now. Counts go on when its thread is restarted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its number; front workers count from 0, back workers from 128. 127 is the thread that drives tokio, if there is one.
    pub id: u16,
    /// Its group.
    pub group: Group,
    /// What it does.
    pub state: WorkerState,
    /// Class, kind and age of the task it runs.
    pub task: Option<(String, String, Duration)>,
    /// When that task started (of a future: this poll).
    pub running_since: Option<Timestamp>,
    /// Tasks in its ring and tagged for it.
    pub queued: usize,
    /// CPU use over the last second, 0 to 1.
    pub cpu: f64,
    /// Tasks ended.
    pub tasks: u64,
    /// Calls and polls.
    pub polls: u64,
    /// Tasks taken from others' rings.
    pub stolen: u64,
    /// Tasks that panicked or timed out.
    pub errors: u64,
    /// Part of the tasks of late that panicked or timed out, 0 to 1, by a memory that halves every 10 s; None when none ended.
    pub error_rate: Option<f64>,
    /// Tasks ended a second over the last 10 s; None in the first moments.
    pub throughput: Option<f64>,
    /// Mean time of a call or poll since the start; None before the first.
    pub mean_run: Option<Duration>,
    /// The time that 95 % of the calls and polls since the start took at most; None before the first.
    pub p95_run: Option<Duration>,
    /// CPU time by its thread's clock, ns.
    pub cpu_ns: u64,
    /// Wall-clock time spent in slices, ns, the one in progress and tasks that block included.
    pub busy_ns: u64,
    /// Its health, from 0 to 1 with the factors; see `flyball_policy::sched::health` for the formula.
    pub health: Health,
    /// Its weight in placement, 0 to 100, as it was set; 1 unless it was.
    pub weight: f64,
    /// The weight in force: less than what was set while its CPU is hot or slowed down.
    pub effective_weight: f64,
    /// The CPUs it was given by hand; empty when it was given none.
    pub affinity_cores: Vec<u32>,
    /// How many affinity keys it was given.
    pub affinity_key_count: usize,
    /// The first [`SHOWN_AFFINITY_KEYS`] of them, in ascending order.
    pub affinity_keys: Vec<u64>,
    /// The first of the CPUs it is pinned to.
    pub pinned_to: Option<u32>,
    /// The kernel's number of its thread, as `top -H` shows it; None where there is none, or no thread.
    pub thread_id: Option<u32>,
    /// How long its thread has run; None when it has none.
    pub uptime: Option<Duration>,
    /// The last moment at which it was at work: now, or the end of its last slice; None before the first.
    pub last_activity: Option<Timestamp>,
    /// Time since its last sign of life (a task boundary) while it runs one.
    pub last_heartbeat: Duration,
    /// Seconds since the start in which it was at work and showed no sign of life.
    pub missed_heartbeats: u64,
    /// It was stuck, and this worker has its place; its thread ends when its task does.
    pub replaced_by: Option<u16>,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// Its thread is being started.
    Starting,
    /// It sleeps.
    Idle,
    /// It runs tasks or looks for them.
    Processing,
    /// It has run one task for longer than `stuck_after`.
    Stuck,
    /// It was told to stop and finishes its task.
    Draining,
    /// Its thread has ended.
    Stopped,
}

impl Pool {
    /// The workers that exist, by number.
    pub(crate) fn worker_statuses(&self) -> Vec<WorkerStatus> {
        let now = self.now().as_nanos();
        self.judge_workers(now);
        let classes = self.class_names();
        let kinds = self.kind_names();
        let mut keys_of: HashMap<usize, Vec<u64>> = HashMap::new();
        {
            let owners = self.key_owners.read().unwrap_or_else(|e| e.into_inner());
            for (&key, &owner) in owners.iter() {
                keys_of.entry(usize::from(owner)).or_default().push(key);
            }
        }
        self.known_workers()
            .map(|worker| {
                let mut keys = keys_of.remove(&worker.index).unwrap_or_default();
                keys.sort_unstable();
                self.status_of(worker, keys, &classes, &kinds, now)
            })
            .collect()
    }

    fn status_of(
        &self,
        worker: &WorkerShared,
        mut keys: Vec<u64>,
        classes: &[String],
        kinds: &[String],
        now: u64,
    ) -> WorkerStatus {
        let since = worker.task_since.load(Relaxed);
        let what = TaskWhat(worker.task_what.load(Relaxed));
        let name = |names: &[String], index: usize| names.get(index).cloned().unwrap_or_default();
        let age = |since: u64| Duration::from_nanos(now.saturating_sub(since));
        let stopped = worker.state.load(SeqCst) == state::STOPPED;
        let affinity_key_count = keys.len();
        keys.truncate(SHOWN_AFFINITY_KEYS);
        let totals = worker.stats.totals();
        let counts = &totals.counts;
        let mut run = Histogram::new();
        for row in worker.stats.rows() {
            run.merge(&row.run.snapshot());
        }
        let last_activity = if worker.busy.is_on() {
            now
        } else {
            worker.last_activity.load(Relaxed)
        };
        let parts = |parts: u32| f64::from(parts) / 10_000.0;
        let mut figures = worker.figures.lock().unwrap_or_else(|e| e.into_inner());
        WorkerStatus {
            id: worker.index as u16,
            group: worker.group,
            state: state_of(worker),
            task: (since != 0).then(|| {
                (
                    name(classes, what.class()),
                    name(kinds, what.kind()),
                    age(since),
                )
            }),
            running_since: (since != 0).then(|| Timestamp::from_nanos(since)),
            queued: worker.held() + self.spine.tags.len(worker.index) as usize,
            cpu: parts(worker.cpu.load(Relaxed)),
            tasks: counts.tasks,
            polls: counts.polls,
            stolen: totals.stolen,
            errors: counts.panicked + counts.timed_out,
            error_rate: figures.error_rate(),
            throughput: figures.throughput(now),
            mean_run: (counts.polls != 0)
                .then(|| Duration::from_nanos(counts.run_ns / counts.polls)),
            p95_run: run.quantile(0.95).map(Duration::from_nanos),
            cpu_ns: totals.cpu_ns,
            busy_ns: worker.busy.read(now),
            health: figures.health,
            weight: parts(worker.weight_set.load(Relaxed)),
            effective_weight: parts(worker.weight.load(Relaxed)),
            affinity_cores: worker
                .affinity_cores
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .clone(),
            affinity_key_count,
            affinity_keys: keys,
            pinned_to: *worker.pinned_to.lock().unwrap_or_else(|e| e.into_inner()),
            thread_id: *worker.thread_id.lock().unwrap_or_else(|e| e.into_inner()),
            uptime: (!stopped).then(|| age(worker.started_at.load(Relaxed))),
            last_activity: (last_activity != 0).then(|| Timestamp::from_nanos(last_activity)),
            last_heartbeat: age(since.max(worker.heartbeat.load(Relaxed))),
            missed_heartbeats: worker.missed_heartbeats.load(Relaxed),
            replaced_by: worker.replaced_by(),
        }
    }
}

fn state_of(worker: &WorkerShared) -> WorkerState {
    match worker.state.load(SeqCst) {
        state::STOPPED => WorkerState::Stopped,
        state::BUSY if worker.stuck.load(Relaxed) => WorkerState::Stuck,
        _ if worker.command.load(Relaxed) == command::STOP => WorkerState::Draining,
        state::STARTING => WorkerState::Starting,
        state::IDLE => WorkerState::Idle,
        _ => WorkerState::Processing,
    }
}
