//! How the number of workers is found, and where that stands.

use super::{DecisionView, PinView, Time};
use serde::{Deserialize, Serialize};

/// How many workers there are, and how that number is found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PoolSizing {
    /// `classic`, `offered` or `adaptive` (`worker_pool.sizing`); null while nothing sizes the pool.
    pub sizing: Option<String>,
    /// Group by group.
    pub groups: Vec<GroupSizing>,
}

/// The size of one group. What its way of sizing does not measure is null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupSizing {
    /// `front` or `back`.
    pub group: String,
    /// Workers that it is told to have.
    pub workers: u32,
    /// The fewest.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// Who holds it at its size, if a person does.
    pub pinned: Option<PinView>,
    /// Busy and backlogged work over worker time, last 5 s (`classic`).
    pub load: Option<f64>,
    /// Work that came lately, refused work included, in workers (`offered`).
    pub offered_workers: Option<f64>,
    /// What will come at the forecast's horizon, in workers; null while no forecast is to be followed (`offered`).
    pub foreseen_workers: Option<f64>,
    /// The record of forecasts (`offered`).
    pub forecast: Option<ForecastView>,
    /// `resting` (nothing waits), `starting` (doubling), `searching` or `settled` (`adaptive`).
    pub stage: Option<String>,
    /// The size that did best while work waited (`adaptive`).
    pub best: Option<u32>,
    /// The size that is being tried against it (`adaptive`).
    pub trying: Option<u32>,
    /// Trials that came to a verdict (`adaptive`).
    pub trials: Option<u64>,
    /// How the last trial came out, also where that changed nothing (`adaptive`).
    pub last_trial: Option<String>,
    /// When the neighbours of the best size are tried again, if work waits then (`adaptive`).
    pub next_trial: Option<Time>,
    /// By how much reductions wait longer at present, as they turned out to be wrong; 1: not at all.
    pub patience: Option<u32>,
    /// What was decided last about its size, by whomever, with the reason.
    pub last_decision: Option<DecisionView>,
}

/// How good predictions have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForecastView {
    /// How far ahead it looks.
    pub horizon_ms: f64,
    /// Whether it is followed: only while its recent mistakes are smaller than those of taking the last value.
    pub followed: bool,
    /// Forecasts that were compared with what came.
    pub judged: u32,
    /// The mean mistake of the recent ones, in workers.
    pub mistake: Option<f64>,
    /// That of taking the last value instead.
    pub mistake_of_last_value: Option<f64>,
}
