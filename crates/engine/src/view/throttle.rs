//! Throttles.

use super::Time;
use serde::{Deserialize, Serialize};

/// A throttle and what it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ThrottleView {
    /// Its name.
    pub name: String,
    /// Whether it does anything.
    pub enabled: bool,
    /// What it measures: `machine`, `process`, `quota` or `class:NAME`.
    pub scope: String,
    /// `enforce`, or `observe`: it decides and counts, and holds nothing back.
    pub mode: String,
    /// The use that it holds, percent of all CPUs (scope `quota`: of the quota).
    pub threshold_percent: f64,
    /// How far use must fall under the threshold for it to end, points.
    pub hysteresis_percent: f64,
    /// The classes that it holds back.
    pub acts_on: Vec<String>,
    /// What is used now: the mean over 5 s; under `observe` what would be. Null while it is not known.
    pub usage_percent: Option<f64>,
    /// How much is held back, 0 to 1; under `observe`, would be.
    pub level: f64,
    /// `off`, `idle`, `active`, `cannot_hold` or `blind`.
    pub state: String,
    /// The same as a sentence, with the reason.
    pub reason: String,
    /// Time for which something was held back.
    pub throttled_ms: u64,
    /// How often it began to hold back.
    pub activations: u64,
    /// How often it changed how much it holds back.
    pub adjustments: u64,
    /// How much less CPU time what it holds back gets than just before, percent; null while it holds nothing back.
    pub throughput_effect_percent: Option<f64>,
    /// The part of the time for which it lets commands of tasks run, percent; 100 while it holds nothing back, and under `observe`.
    pub commands_run_percent: f64,
}

/// Something that happened to a throttle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ThrottleEvent {
    /// When.
    pub timestamp: Time,
    /// Which.
    pub throttle: String,
    /// `activated`, `adjusted`, `deactivated`.
    pub kind: String,
    /// How much is held back since, 0 to 1.
    pub level: f64,
    /// It only observes: nothing was done.
    pub observed: bool,
    /// Why.
    pub reason: String,
}

/// All throttles together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ThrottlerStats {
    /// Whether throttles act at all.
    pub enabled: bool,
    /// How many there are.
    pub throttles: u32,
    /// How many hold something back now.
    pub active: u32,
    /// How many cannot hold their threshold.
    pub cannot_hold: u32,
    /// How often any began to hold back.
    pub activations: u64,
    /// How often any changed how much it holds back.
    pub adjustments: u64,
    /// How often any ceased to.
    pub deactivations: u64,
    /// Time for which something was held back, added up over throttles.
    pub throttled_ms: u64,
    /// Time for which the kernel held this process's control groups back, as their CPU quota was spent, added up over CPUs, since
    /// throttles began to look; null where there is no quota.
    pub kernel_throttled_ms: Option<u64>,
    /// What the CPU quota does to this process, over the last seconds; null where there is none, or nobody has looked.
    pub quota: Option<QuotaView>,
    /// Commands of tasks that stand still now for the part of the time that they may run.
    pub commands_held: u32,
    /// The last events, newest last.
    pub events: Vec<ThrottleEvent>,
}

/// What a CPU quota does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuotaView {
    /// `free`, `bursts` (the kernel held this process back in some periods) or `bottleneck` (in a quarter of them or more).
    pub verdict: String,
    /// Of the periods in which something ran, those whose quota was spent too early, percent; 0 where that is under 1%.
    pub throttled_percent: f64,
    /// CPUs that stood still for it, on average.
    pub throttled_cpus: f64,
    /// The same as a sentence.
    pub reason: String,
}
