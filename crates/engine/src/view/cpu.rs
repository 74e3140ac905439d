//! The machine's CPUs, and this process on them.

use super::Time;
use serde::{Deserialize, Serialize};

/// The CPUs over the last sampling interval. Percentages come from differences of the kernel's counters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CpuProfile {
    /// End of the interval.
    pub timestamp: Time,
    /// Length of the interval.
    pub interval_ms: u64,
    /// Time not idle, of all CPUs together; waiting for I/O counts as idle.
    pub overall_percent: Option<f64>,
    /// User code, nice or not.
    pub user_percent: Option<f64>,
    /// The kernel, interrupts included.
    pub system_percent: Option<f64>,
    /// Idle, waiting for I/O not included.
    pub idle_percent: Option<f64>,
    /// Idle while I/O was outstanding.
    pub iowait_percent: Option<f64>,
    /// Taken by the hypervisor.
    pub steal_percent: Option<f64>,
    /// Busy time of each CPU that is online, in the order of `per_core`.
    pub per_core_percent: Vec<Option<f64>>,
    /// The same with the CPUs' numbers.
    pub per_core: Vec<CoreView>,
    /// Load average over one minute.
    pub load1: Option<f64>,
    /// Load average over five minutes.
    pub load5: Option<f64>,
    /// Load average over fifteen minutes.
    pub load15: Option<f64>,
    /// CPUs online.
    pub cores: Option<u32>,
    /// Workers allowed to run at once.
    pub parallelism: u32,
    /// Live tasks: queued, running, and futures that wait.
    pub tasks: u64,
    /// Threads of this process.
    pub threads: Option<u64>,
    /// CPU time of this process, as part of all CPUs.
    pub process_percent: Option<f64>,
    /// CPU time of this process in CPUs: 1.5 is one and a half.
    pub process_cpus: Option<f64>,
    /// Context switches of the whole machine.
    pub context_switches_per_second: Option<f64>,
    /// Of this process, because it waited for something.
    pub voluntary_context_switches_per_second: Option<f64>,
    /// Of this process, because the kernel took the CPU away.
    pub involuntary_context_switches_per_second: Option<f64>,
    /// Pressure on the CPUs (PSI).
    pub pressure: Option<PressureView>,
    /// CPUs that the cgroup's quota allows, where there is one.
    pub quota_cpus: Option<f64>,
    /// Part of the quota's periods in which the kernel throttled the group.
    pub throttled_percent: Option<f64>,
    /// CPUs that stood still as quotas of its groups were spent, on average.
    pub throttled_cpus: Option<f64>,
}

/// One CPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CoreView {
    /// The kernel's number of it.
    pub cpu: u32,
    /// Time not idle.
    pub busy_percent: Option<f64>,
}

/// Pressure stall information: part of the time in which tasks waited for the resource.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PressureView {
    /// At least one task waited, percent over ten seconds.
    pub some_avg10: f64,
    /// All tasks waited, percent over ten seconds.
    pub full_avg10: Option<f64>,
}

/// CPU use over the kept history.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageStats {
    /// Samples that the figures rest on.
    pub samples: usize,
    /// The first of them.
    pub from: Option<Time>,
    /// The last of them.
    pub to: Option<Time>,
    /// Mean of the overall use.
    pub average_percent: Option<f64>,
    /// Highest.
    pub peak_percent: Option<f64>,
    /// Lowest.
    pub minimum_percent: Option<f64>,
    /// Variance, square points.
    pub variance: Option<f64>,
    /// Median.
    pub p50_percent: Option<f64>,
    /// 95th percentile.
    pub p95_percent: Option<f64>,
    /// 99th percentile.
    pub p99_percent: Option<f64>,
    /// Spikes, drops, and returns to normal, oldest first.
    pub events: Vec<UsageEvent>,
    /// CPUs busy at 90% or more over the last ten samples, and at least 20 points busier than the mean of all.
    pub bottleneck_cores: Vec<CoreView>,
}

/// A departure from the recent median, or the return to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageEvent {
    /// When.
    pub timestamp: Time,
    /// Which way.
    pub kind: UsageEventKind,
    /// Use then.
    pub percent: f64,
    /// Median of the samples before it.
    pub median_percent: f64,
    /// How far away, in robust standard deviations (1.4826 × the median absolute deviation, at least 2 points).
    pub deviations: f64,
}

/// Kinds of [`UsageEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum UsageEventKind {
    /// Above what is usual.
    Spike,
    /// Below what is usual.
    Drop,
    /// Usual again.
    Normal,
}

/// What works, a flag and a line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CpuStatus {
    /// Sampling of the CPUs.
    pub cpu_profiling: PartFlag,
    /// Placement and rebalancing over workers.
    pub load_balancing: PartFlag,
    /// Classes sharing the workers.
    pub cpu_scheduling: PartFlag,
    /// Throttles.
    pub cpu_throttling: PartFlag,
    /// Tuning of how many workers run at once.
    pub parallelism_optimization: PartFlag,
    /// Tuning of the allocator.
    pub allocator_optimization: PartFlag,
    /// Tuning of tasks.
    pub task_optimization: PartFlag,
    /// The same as `parallelism_optimization`, under its older name.
    pub gomaxprocs_optimization: PartFlag,
    /// The same as `allocator_optimization`, under its older name.
    pub gc_optimization: PartFlag,
    /// The same as `task_optimization`, under its older name.
    pub goroutine_optimization: PartFlag,
}

/// Whether a part is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartFlag {
    /// Name of the part.
    pub part: String,
    /// On and working.
    pub enabled: bool,
    /// What it does now, or why it does not.
    pub detail: String,
}

/// How well the engine is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CpuHealth {
    /// The verdict.
    pub status: HealthState,
    /// 0 to 1.
    pub score: f64,
    /// What speaks against full health; empty when nothing does.
    pub reasons: Vec<String>,
}

/// Verdicts on health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HealthState {
    /// Score of 0.8 and above.
    Healthy,
    /// Score of 0.5 and above.
    Degraded,
    /// Below.
    Unhealthy,
}
