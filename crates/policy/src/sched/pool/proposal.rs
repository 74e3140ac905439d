//! What the pool's controllers say in the same words: a proposal of a size, and why it cannot or need not be another.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::control::{Evidence, KnobId, Proposal, Rank};

use super::{PoolConfig, PoolView};

/// The part of the runtime that speaks.
pub(super) const PART: &str = "pool";

/// Why the pool should have another size.
#[derive(Debug, Default)]
pub(super) struct Why {
    pub(super) reasons: Vec<String>,
    pub(super) evidence: Vec<Evidence>,
}

impl Why {
    /// One reason, and nothing measured for it.
    pub(super) fn because(reason: String) -> Self {
        Self {
            reasons: alloc::vec![reason],
            evidence: Vec::new(),
        }
    }

    /// Adds what it was read from.
    pub(super) fn shown_by(mut self, evidence: impl IntoIterator<Item = Evidence>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    /// Says so if fewer may run at once than there would be workers.
    pub(super) fn beyond_parallelism(&mut self, to: u32, view: &PoolView) {
        if to > view.parallelism {
            self.reasons.push(format!(
                "parallelism {} caps what runs at once, so workers beyond it help only while others block",
                view.parallelism
            ));
        }
    }

    /// Makes the proposal of a size, to hold for a while; adds what a reader wants to know of every one.
    pub(super) fn propose(
        self,
        knob: KnobId,
        to: u32,
        hold: Duration,
        view: &PoolView,
    ) -> Proposal {
        let Self {
            mut reasons,
            mut evidence,
        } = self;
        if view.healthy < view.workers {
            reasons.push(format!(
                "{} of {} workers are not healthy or not there and count as no capacity",
                view.workers - view.healthy,
                view.workers
            ));
        }
        evidence.extend([
            Evidence::new("queue", view.backlog as f64, "tasks"),
            Evidence::new("healthy", f64::from(view.healthy), "workers"),
            Evidence::new("parallelism", f64::from(view.parallelism), "workers"),
        ]);
        Proposal {
            knob,
            value: f64::from(to),
            rank: Rank::Pool,
            part: PART,
            hold,
            reason: reasons.join("; "),
            evidence,
        }
    }
}

/// Returns the nearest size within the bounds, and why, for a pool that is outside them.
pub(super) fn into_bounds(config: &PoolConfig, view: &PoolView) -> Option<(u32, Why)> {
    let PoolConfig { min, max, .. } = *config;
    let to = view.workers.clamp(min, max);
    (to != view.workers).then(|| {
        let reason = format!(
            "{} workers are outside the bounds {min} to {max}",
            view.workers
        );
        (to, Why::because(reason))
    })
}
