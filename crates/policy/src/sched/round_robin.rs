//! `round_robin`: classes in turn, equal slices.
//!
//! Every class has an allowance of CPU time; it takes its turn while some is left, in the order of the last turns. When
//! no class has any left, all get the same number of slices, as many as it takes for one of them to have some. So
//! classes whose tasks overrun their slice miss turns, and CPU time stays equal although slices are not (deficit round
//! robin: Shreedhar and Varghese, "Efficient Fair Queueing Using Deficit Round Robin", 1995). Shares, guarantees and
//! latency targets are not heeded; ceilings and concurrency are.

use flyball_core::id::{ClassId, ClassSet};

use super::scheduler::Scheduler;

/// The slice of every class: 100 µs, so that reading the CPU clock once a slice costs half a percent.
pub(crate) const SLICE_NS: u64 = 100_000;

impl Scheduler {
    pub(crate) fn pick_round_robin(&mut self, open: ClassSet) -> ClassId {
        let mut next: Option<(u64, ClassId)> = None;
        let mut most: Option<(i64, u64, ClassId)> = None;
        for class in open {
            let state = &self.classes[class.index()];
            let left = state
                .allowance_ns
                .saturating_sub_unsigned(state.pending_ns(self.now));
            if left > 0 {
                if next.is_none_or(|(turn, _)| state.turn < turn) {
                    next = Some((state.turn, class));
                }
            } else if next.is_none() {
                let more = |(leader, turn, _): (i64, u64, ClassId)| {
                    left > leader || (left == leader && state.turn < turn)
                };
                if most.is_none_or(more) {
                    most = Some((left, state.turn, class));
                }
            }
        }
        if let Some((_, class)) = next {
            return class;
        }
        let (left, _, class) = most.expect("a class is open");
        let slices = left.unsigned_abs() / SLICE_NS + 1;
        let gain = slices.saturating_mul(SLICE_NS);
        for class in open {
            let state = &mut self.classes[class.index()];
            state.allowance_ns = state.allowance_ns.saturating_add_unsigned(gain);
        }
        // Of those that have some left now, the one whose last turn is longest ago.
        open.iter()
            .filter(|c| {
                let state = &self.classes[c.index()];
                state
                    .allowance_ns
                    .saturating_sub_unsigned(state.pending_ns(self.now))
                    > 0
            })
            .min_by_key(|c| self.classes[c.index()].turn)
            .unwrap_or(class)
    }
}
