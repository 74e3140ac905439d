//! The order of tasks inside a class: a number a task, smallest first.
//!
//! The number never changes while the task waits, so a class's queue is a heap, or a FIFO as long as the numbers arrive
//! in order. Ageing fits into that because it is linear: a task of priority p that has waited w ranks p + w/STEP levels, and
//! the order of p + (now − enqueued)/STEP is, at any moment, the order of enqueued − p·STEP.
//!
//! Bound on waiting: a task of priority p is passed only by tasks that were enqueued less than (q − p)·STEP after it, q
//! being their priority, so by none that comes 2.55 s later. Where deadlines order the tasks they count for at most
//! [`MAX_PATIENCE_NS`] after submission, so there too every task becomes the first in the end.

use flyball_core::time::Timestamp;

use super::algorithm::Algorithm;

/// The waiting time that is worth one level of task priority: 10 ms.
pub const AGEING_STEP_NS: u64 = 10_000_000;
/// The longest that a deadline can put a task behind later ones: one minute.
pub const MAX_PATIENCE_NS: u64 = 60_000_000_000;

/// Returns the number by which a task is ordered in its class; a lower number goes first, equal ones in order of arrival.
///
/// `priority` is -128 to 127, higher first. Under `proportional_share` the base is the deadline, or where the task has
/// none, the time of arrival plus the latency target of its class; under the other algorithms it is the time of arrival.
#[inline]
pub fn due(
    enqueued: Timestamp,
    priority: i8,
    deadline: Option<Timestamp>,
    latency_target_ns: u64,
    algorithm: Algorithm,
) -> u64 {
    let base = match algorithm {
        Algorithm::ProportionalShare => {
            let due = deadline.unwrap_or_else(|| enqueued.saturating_add_nanos(latency_target_ns));
            due.min(enqueued.saturating_add_nanos(MAX_PATIENCE_NS))
        }
        Algorithm::RoundRobin | Algorithm::Priority | Algorithm::Cfs => enqueued,
    };
    // Levels below the highest, so that the number cannot fall below zero near the epoch.
    let levels_down = (127 - i16::from(priority)) as u64;
    base.as_nanos().saturating_add(levels_down * AGEING_STEP_NS)
}
