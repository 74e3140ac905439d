//! Figures of the queue.

use super::select::PauseView;
use super::task::TaskState;
use flyball_tasks::{State, Stats};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Tasks by state.
pub type ByState = BTreeMap<TaskState, u64>;

/// Figures of the queue of durable tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskStatsView {
    /// Tasks by state.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, u64>))]
    pub by_state: ByState,
    /// Tasks that have not ended, by class and state.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, BTreeMap<String, u64>>))]
    pub by_class: BTreeMap<String, ByState>,
    /// Tasks that have not ended, by kind and state; at most 1,000 kinds.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, BTreeMap<String, u64>>))]
    pub by_kind: BTreeMap<String, ByState>,
    /// Taken, since the queue was opened.
    pub accepted: u64,
    /// Completed, since the queue was opened.
    pub completed: u64,
    /// Attempts that failed, since the queue was opened.
    pub failed_attempts: u64,
    /// Leases that ran out, since the queue was opened.
    pub expired_leases: u64,
    /// Requests refused as the queue was full, since it was opened.
    pub refused: u64,
    /// Starts beyond limits of keys that only observe (`key_mode` of a class), since the queue was opened.
    #[serde(default)]
    pub key_excess: u64,
    /// Retries beyond budgets that only observe (`scheduler.retry_budget_mode`), since the queue was opened.
    #[serde(default)]
    pub retry_excess: u64,
    /// The store on disk.
    pub disk_bytes: Option<u64>,
    /// About how much memory the queue takes.
    pub memory_bytes: Option<u64>,
    /// What is paused.
    pub paused: Vec<PauseView>,
    /// Why the store has stopped; null while it has not.
    pub stopped: Option<String>,
    /// Rows that turned out to be damaged.
    pub damaged: u64,
}

fn by_state(counts: &BTreeMap<State, u64>) -> ByState {
    counts
        .iter()
        .map(|(state, count)| ((*state).into(), *count))
        .collect()
}

fn by_name(counts: &BTreeMap<Box<str>, BTreeMap<State, u64>>) -> BTreeMap<String, ByState> {
    counts
        .iter()
        .map(|(name, counts)| (name.to_string(), by_state(counts)))
        .collect()
}

impl From<&Stats> for TaskStatsView {
    fn from(stats: &Stats) -> Self {
        TaskStatsView {
            by_state: by_state(&stats.by_state),
            by_class: by_name(&stats.by_class),
            by_kind: by_name(&stats.by_kind),
            accepted: stats.accepted,
            completed: stats.completed,
            failed_attempts: stats.failed_attempts,
            expired_leases: stats.expired_leases,
            refused: stats.refused,
            key_excess: stats.key_excess,
            retry_excess: stats.retry_excess,
            disk_bytes: stats.disk_bytes,
            memory_bytes: stats.memory_bytes,
            paused: PauseView::all_of(&stats.pauses),
            stopped: stats.stopped.clone(),
            damaged: stats.damaged,
        }
    }
}
