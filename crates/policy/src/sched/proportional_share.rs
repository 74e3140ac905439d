//! `proportional_share`: shares, guarantees and ceilings; among the eligible classes the earliest deadline first.
//!
//! Eligible is, as in `cfs`, who has not had more than its part. The deadline of a class is the time since which it
//! waits (it woke, or was served last) plus its latency target. Left at that, a class with a long latency target could
//! be put off until everybody else has used up the part that they may be ahead, one after the other; with 64 classes that
//! is far more than one slice. So a class that is owed a whole request, one whose *virtual* deadline has passed, goes
//! before all deadlines; so that deadlines put nobody more than a slice ahead, a class whose tasks overrun the slice takes
//! part with them only when that leaves it at most a slice ahead, and else has its turn by virtual deadline. First of all
//! goes one that is about to pass the bound (see `cfs`). Guarantees and ceilings act through the weights (`weights`) and
//! the buckets (`bucket`).

use flyball_core::id::{ClassId, ClassSet};

use super::cfs::Rank;
use super::class::to_units;
use super::scheduler::Scheduler;

impl Scheduler {
    /// Chooses among `open`; lags are against all classes awake that the worker may run.
    pub(crate) fn pick_proportional(&mut self, open: ClassSet, allowed: ClassSet) -> ClassId {
        let average = self.average((self.awake & allowed) | open);
        let limit = self.limit(&average);
        let mut urgent: Option<(ClassId, i64)> = None;
        let mut overdue: Option<(ClassId, Rank)> = None;
        let mut earliest: Option<(ClassId, u64)> = None;
        let mut fallback: Option<(ClassId, Rank)> = None;
        for class in open {
            let state = &self.classes[class.index()];
            let view = state.view(self.now);
            let lag = view - self.entitled(class, &average);
            let request = to_units(state.request_ns);
            let rank = Rank {
                eligible: lag >= 0,
                until_deadline: request - view,
                weight: state.weight,
                priority: state.priority,
            };
            if limit.is_urgent(lag, state.weight) && urgent.is_none_or(|(_, most)| lag > most) {
                urgent = Some((class, lag));
            }
            if lag >= request {
                if overdue
                    .as_ref()
                    .is_none_or(|(_, leader)| rank.beats(leader))
                {
                    overdue = Some((class, rank));
                }
            } else if lag >= (request - to_units(state.params.slice_ns)).max(0) {
                let deadline = state
                    .since
                    .as_nanos()
                    .saturating_add(state.params.latency_target_ns);
                if earliest.is_none_or(|(_, leader)| deadline < leader) {
                    earliest = Some((class, deadline));
                }
            } else if fallback
                .as_ref()
                .is_none_or(|(_, leader)| rank.beats(leader))
            {
                fallback = Some((class, rank));
            }
        }
        let urgent = urgent.map(|(class, _)| class);
        let overdue = overdue.map(|(class, _)| class);
        let eligible = urgent.or(overdue).or(earliest.map(|(class, _)| class));
        let class = eligible
            .or(fallback.map(|(class, _)| class))
            .expect("a class is open");
        self.bound_lag(class, &average);
        class
    }
}
