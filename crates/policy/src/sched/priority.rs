//! `priority`: strict levels with ageing.
//!
//! The class with the highest priority runs, but a class rises by one level for every 100 ms that it has waited since it
//! woke or was last served, so that none starves; among equals the one that waits longest runs.
//!
//! The rank is linear in the waiting time, so the order is that of the static key *since − priority·100 ms*, smallest
//! first. That gives the bound on waiting: a class i is passed only by classes whose key is smaller. A class j that was
//! just served has the key now − pⱼ·100 ms, so it cannot pass i any more once i has waited (pⱼ − pᵢ)·100 ms; each other class
//! may be served at most once after that. Hence a class that is ready and able to run waits at most
//! (pₘₐₓ − pᵢ)·100 ms + (n − 1)·(slice + longest task), [`waiting_bound_ns`].

use core::cmp::Reverse;

use flyball_core::id::{ClassId, ClassSet};

use super::scheduler::Scheduler;

/// The waiting time that is worth one level of class priority: 100 ms. Levels stay strict for tasks well below it; a
/// class that is seven levels down and always outranked still gets a slice every 0.7 s.
pub const AGEING_LEVEL_NS: u64 = 100_000_000;

/// Returns the longest that a ready class waits under `priority`, in nanoseconds: `levels` is how far the highest class
/// stands above it, `classes` how many classes there are, `longest_turn_ns` the longest slice plus the longest task.
pub fn waiting_bound_ns(levels: u8, classes: u32, longest_turn_ns: u64) -> u64 {
    let others = u64::from(classes.saturating_sub(1));
    (u64::from(levels) * AGEING_LEVEL_NS).saturating_add(others.saturating_mul(longest_turn_ns))
}

/// What decides between two classes: the ageing key, the priority, the last turn.
type Rank = (i64, Reverse<u8>, u64);

impl Scheduler {
    /// The key of a class: the smaller, the sooner.
    #[inline]
    fn ageing_key(&self, class: ClassId) -> i64 {
        let state = &self.classes[class.index()];
        // 292 years of nanoseconds fit.
        let since = state.since.as_nanos().min(i64::MAX as u64) as i64;
        since - (u64::from(state.priority) * AGEING_LEVEL_NS) as i64
    }

    /// Says whether a class goes before another.
    pub(crate) fn outranks(&self, class: ClassId, other: ClassId) -> bool {
        self.ageing_key(class) < self.ageing_key(other)
    }

    pub(crate) fn pick_priority(&mut self, open: ClassSet) -> ClassId {
        let mut best: Option<(Rank, ClassId)> = None;
        let mut highest = 0;
        for class in open {
            let state = &self.classes[class.index()];
            // Among equals the higher class, then the one whose turn is longest ago.
            let rank = (self.ageing_key(class), Reverse(state.priority), state.turn);
            highest = highest.max(state.priority);
            if best.is_none_or(|(leader, _)| rank < leader) {
                best = Some((rank, class));
            }
        }
        let (_, class) = best.expect("a class is open");
        let state = &mut self.classes[class.index()];
        if state.priority < highest {
            state.ageings += 1;
        }
        class
    }
}
