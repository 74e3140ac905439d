//! Adaptive limits.

use super::Time;
use serde::{Deserialize, Serialize};

/// A gate: an adaptive limit, and who waits or is refused before it. What is counted began when the gate was made; under `observe` it is what
/// would have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GateView {
    /// Its name.
    pub name: String,
    /// What it bounds: `program`, `class:NAME` or `dependency:NAME`.
    pub scope: String,
    /// Why it bounds nothing as things are; null where it does.
    pub unused: Option<String>,
    /// `enforce`, or `observe`: it decides and counts, and refuses nobody.
    pub mode: String,
    /// How the limit is found: `run_delay`, `vegas`, `gradient`, `aimd` or `fixed`.
    pub algorithm: String,
    /// How many may be in at once now.
    pub limit: u32,
    /// The least that the limit may become.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// How many are in.
    pub in_flight: u32,
    /// How many wait; of a class, its durable tasks that could start, at the last look.
    pub waiting: u32,
    /// What the service should do without: `normal` (nothing), `conserve` (what is optional), `survive` (all but the core).
    pub level: String,
    /// Whether calls have waited without a break for as long as they may: waits are short now, and the last comes first.
    pub overloaded: bool,
    /// Calls a second, over the last second or so; null before the first.
    pub calls_per_second: Option<f64>,
    /// The part of them that was refused, or would have been under `observe`; null without calls.
    pub shed_percent: Option<f64>,
    /// Calls so far.
    pub calls: u64,
    /// Those of them that were refused, or would have been under `observe`.
    pub shed: u64,
    /// How often somebody was held up because the limit was reached, or would have been under `observe`.
    pub blocked: u64,
    /// Those that gave up by themselves while they waited.
    pub cancelled: u64,
    /// Mean latency of the calls that were measured last; null before.
    pub latency_ms: Option<f64>,
    /// The part of their time in which these calls were ready to run and had no CPU; null where that is not measured.
    pub run_delay_percent: Option<f64>,
    /// What calls have that name no deadline.
    pub deadline_ms: f64,
    /// How many may wait.
    pub queue_max: u32,
    /// How often the limit changed.
    pub changed: u64,
    /// The last changes of the limit, oldest first, at most 64.
    pub changes: Vec<LimitChangeView>,
    /// By class of the calls.
    pub classes: Vec<GateClassView>,
}

/// A change of an adaptive limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitChangeView {
    /// When.
    pub timestamp: Time,
    /// The limit before.
    pub from: u32,
    /// The limit since.
    pub to: u32,
    /// Why: `start`, `room`, `run_delay`, `latency`, `failures`, `probe`, `settings` or `reset`.
    pub cause: String,
    /// The same in words.
    pub reason: String,
}

/// What became of the calls of a class before a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GateClassView {
    /// The class.
    pub class: String,
    /// 0 to 7, higher first.
    pub priority: u8,
    /// Calls that came in.
    pub entered: u64,
    /// Calls that had to wait, whatever became of them.
    pub waited: u64,
    /// Calls that gave up by themselves while they waited.
    pub cancelled: u64,
    /// Calls that were refused.
    pub shed: u64,
    /// The part of all calls that was refused; null without calls.
    pub shed_percent: Option<f64>,
    /// Those refused at once because of the overload there was.
    pub shed_overload: u64,
    /// Those refused after waiting.
    pub shed_waited: u64,
    /// Those refused because of their deadline.
    pub shed_deadline: u64,
    /// Those refused because as many waited as may.
    pub shed_queue_full: u64,
}

/// Something that happened to an adaptive limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitEvent {
    /// When.
    pub timestamp: Time,
    /// Which.
    pub limit: String,
    /// `limit`: how many may be in at once; `level`: what the service should do without.
    pub kind: String,
    /// What it was.
    pub from: String,
    /// What it is.
    pub to: String,
    /// It only observes: nobody is refused.
    pub observed: bool,
    /// Why.
    pub reason: String,
}
