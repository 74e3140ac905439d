//! Decisions, knobs, limits, and how the whole is.

use super::{HealthState, PartFlag, Time};
use serde::{Deserialize, Serialize};

/// A figure that a decision rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EvidenceView {
    /// What it is.
    pub name: String,
    /// Its value; null where it is not finite.
    pub value: Option<f64>,
    /// Its unit; empty for a plain number.
    pub unit: String,
}

/// Something that was decided, done or refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DecisionView {
    /// Running number, from 1. Gaps are refusals that nobody has to read: nothing would have changed, or it was refused before.
    pub number: u64,
    /// When.
    pub timestamp: Time,
    /// Who asked: `pool`, `throttle`; `pin` and `unpin` for people, `bounds` for a change of bounds.
    pub part: String,
    /// What it is about.
    pub knob: String,
    /// Unit of the values; empty for a plain number.
    pub unit: String,
    /// The value before.
    pub from: Option<f64>,
    /// The value asked for.
    pub to: Option<f64>,
    /// Whether it was done.
    pub applied: bool,
    /// Why it was refused or could not be done.
    pub refusal: Option<String>,
    /// Why it was asked for.
    pub reason: String,
    /// The figures behind the reason.
    pub evidence: Vec<EvidenceView>,
}

/// A bounded number that controllers turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KnobView {
    /// Its name.
    pub name: String,
    /// What it does.
    pub about: String,
    /// Its unit; empty for a plain number.
    pub unit: String,
    /// Lowest value.
    pub min: f64,
    /// Highest value.
    pub max: f64,
    /// Present value.
    pub value: f64,
    /// Who holds it at its value, if a person does.
    pub pinned: Option<PinView>,
}

/// A knob held by a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PinView {
    /// Who.
    pub by: String,
    /// At which value; safety may override it for a while.
    pub value: f64,
    /// Since when.
    pub since: Time,
}

/// A bound that is in force, and how near it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitView {
    /// Its name: `class/batch/queue`; of an adaptive limit `adaptive/NAME`, of a breaker `breaker/NAME`.
    pub name: String,
    /// What it bounds: `queue`, `wait` (of work in memory), `concurrency`, `cpu`, `workers`; `key_rate`, `key_concurrency`, `key_queued` of each
    /// key of a class; `adaptive`, `breaker`.
    pub kind: String,
    /// Its unit.
    pub unit: String,
    /// The bound; null for none.
    pub limit: Option<f64>,
    /// Why it bounds nothing as things are, of an adaptive limit that the configuration names; null else.
    pub unused: Option<String>,
    /// What is used of it now, where it is known.
    pub used: Option<f64>,
    /// What was refused or held back because of it, where it is counted.
    pub refused: Option<u64>,
    /// What would have been refused or held back, where it only observes; null where it is enforced.
    #[serde(default)]
    pub would_refuse: Option<u64>,
    /// The setting that changes it.
    pub setting: String,
}

/// One part's health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartHealth {
    /// The part.
    pub part: String,
    /// The verdict; null for a part that is off or that this build or machine lacks.
    pub status: Option<HealthState>,
    /// 0 to 1.
    pub score: Option<f64>,
    /// What is wrong, or why there is no verdict.
    pub reasons: Vec<String>,
}

/// What is used of a resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Utilisation {
    /// CPU of the machine.
    pub cpu_percent: Option<f64>,
    /// CPU of this process, of the whole machine.
    pub process_cpu_percent: Option<f64>,
    /// Memory of the machine, or of the cgroup where that is limited.
    pub memory_percent: Option<f64>,
    /// Memory of this process.
    pub resident_bytes: Option<u64>,
    /// Network; null while it is not measured.
    pub network_percent: Option<f64>,
    /// Disk; null while it is not measured.
    pub disk_percent: Option<f64>,
    /// Workers: busy time over worker time.
    pub worker_percent: Option<f64>,
}

/// The whole at a glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusView {
    /// When.
    pub timestamp: Time,
    /// Version of flyball.
    pub version: String,
    /// Time since the engine started.
    pub uptime_ms: u64,
    /// How well it is.
    pub health: HealthState,
    /// 0 to 1.
    pub score: f64,
    /// What speaks against full health.
    pub reasons: Vec<String>,
    /// What the service should do without, the worst of all adaptive limits and classes that refuse work: `normal`, `conserve` or `survive`.
    pub level: String,
    /// Every part's flag.
    pub parts: Vec<PartFlag>,
    /// What is used.
    pub utilisation: Utilisation,
    /// Workers alive, front and back.
    pub workers: u32,
    /// Workers allowed to run at once.
    pub parallelism: u32,
    /// Tasks that wait.
    pub queue_length: u64,
    /// Tasks that run.
    pub running: u64,
    /// Mean time from becoming runnable to the end of the call, over the last interval; null when none ended.
    pub response_time_ms: Option<f64>,
    /// Tasks that ended a second, over the last interval.
    pub throughput_per_second: Option<f64>,
    /// Of these, those that panicked or timed out; null when none ended.
    pub error_rate_percent: Option<f64>,
}

/// Something that happened, as streams tell it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventView {
    /// Running number, from 1.
    pub id: u64,
    /// When.
    pub timestamp: Time,
    /// `worker`, `decision`, `throttle`, `limit`, `config`, `sample` or `task`.
    pub kind: String,
    /// The data of its kind.
    pub data: serde_json::Value,
}
