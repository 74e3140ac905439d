//! What a gate tells of itself.

use std::sync::atomic::{AtomicU64, Ordering};

use flyball_core::time::Timestamp;
use flyball_policy::limit::adaptive::{AdaptiveStats, Change};
use flyball_policy::limit::admission::{AdmissionStats, Degradation, ShedReason};

use super::config::Mode;

/// Changes of the limit that are kept.
pub(super) const CHANGES_KEPT: usize = 64;

/// Counts of one class. Each is one addition on its own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Counts {
    pub(super) entered: AtomicU64,
    pub(super) left: AtomicU64,
    pub(super) waited: AtomicU64,
    pub(super) shed: [AtomicU64; 4],
    pub(super) cancelled: AtomicU64,
}

/// The place of a reason among the counts. Reasons to come count as overload.
fn place(reason: ShedReason) -> usize {
    match reason {
        ShedReason::Waited => 1,
        ShedReason::Deadline => 2,
        ShedReason::QueueFull => 3,
        _ => 0,
    }
}

impl Counts {
    pub(super) fn shed(&self, reason: ShedReason) {
        add(&self.shed[place(reason)]);
    }

    /// Calls that are in, or were a moment ago.
    pub(super) fn inside(&self) -> u64 {
        // In this order, as who leaves has entered.
        let left = self.left.load(Ordering::Relaxed);
        self.entered.load(Ordering::Relaxed).saturating_sub(left)
    }

    pub(super) fn status(&self, name: &str, priority: u8) -> ClassStatus {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let [overload, waited, deadline, queue_full] = self.shed.each_ref().map(read);
        ClassStatus {
            name: name.to_owned(),
            priority,
            entered: read(&self.entered),
            in_flight: self.inside(),
            waited: read(&self.waited),
            cancelled: read(&self.cancelled),
            shed_overload: overload,
            shed_waited: waited,
            shed_deadline: deadline,
            shed_queue_full: queue_full,
        }
    }
}

#[inline]
pub(super) fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// Figures of a class of a [`Gate`](super::Gate), since it was made. Under [`Mode::Observe`] they say what would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// 0 to 7, higher first.
    pub priority: u8,
    /// Calls that came in.
    pub entered: u64,
    /// Calls that are in, those [beside the limit](super::Gate::try_slot) included.
    pub in_flight: u64,
    /// Calls that had to wait, whatever became of them.
    pub waited: u64,
    /// Calls that gave up by themselves while they waited.
    pub cancelled: u64,
    /// Calls refused at once because of the overload there was.
    pub shed_overload: u64,
    /// Calls refused after waiting.
    pub shed_waited: u64,
    /// Calls refused because of their deadline.
    pub shed_deadline: u64,
    /// Calls refused because as many waited as may.
    pub shed_queue_full: u64,
}

impl ClassStatus {
    /// Calls that were refused.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.shed_overload + self.shed_waited + self.shed_deadline + self.shed_queue_full
    }

    /// The part of all calls that were refused, 0 to 1; `None` without calls.
    #[must_use]
    pub fn shed_share(&self) -> Option<f64> {
        let all = self.entered + self.shed();
        (all > 0).then(|| self.shed() as f64 / all as f64)
    }
}

/// A change of a gate's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// When.
    pub at: Timestamp,
    /// From what to what, and why.
    pub change: Change,
}

/// All that a [`Gate`](super::Gate) tells of itself.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GateStatus {
    /// Whether it acts on what it decides.
    pub mode: Mode,
    /// The name of the algorithm that sets the limit.
    pub algorithm: &'static str,
    /// How many calls may be in at once.
    pub limit: u32,
    /// How many are.
    pub in_flight: u32,
    /// How many wait.
    pub waiting: u32,
    /// What the service should do without; under [`Mode::Observe`] what it would be asked to do without.
    pub level: Degradation,
    /// Of how many calls one is looked at closely.
    pub sampled_one_in: u32,
    /// Figures of the limit, of the calls that were looked at closely.
    pub adaptive: AdaptiveStats,
    /// Figures of the admission.
    pub admission: AdmissionStats,
    /// The classes, in the order of the settings.
    pub classes: Vec<ClassStatus>,
    /// The last changes of the limit, oldest first, at most 64.
    pub changes: Vec<LimitChange>,
}
