//! An unused CPU is not waited for.
//!
//! The classic controller waits `scale_up_delay` before it adds workers, which keeps it from swinging where the right number is a matter of
//! judgement. Up to the parallelism it is none: work waits, all workers are busy, and CPUs that may be used have no worker. A worker for
//! each of them costs a stack and saves the delay.

use alloc::format;

use super::{PoolConfig, PoolView};
use crate::control::{Evidence, KnobId, Proposal, Rank};
use core::time::Duration;

/// The part of the workers that must be busy on the mean before more are added.
const BUSY: f64 = 0.9;

/// Proposes a worker for each CPU that may be used, if work waits, no worker is free for it, and there are fewer.
pub fn fill(knob: KnobId, config: &PoolConfig, view: &PoolView) -> Option<Proposal> {
    let wanted = view.parallelism.min(config.max);
    let all_busy = view.busy >= BUSY * f64::from(view.workers);
    if view.backlog == 0 || view.workers >= wanted || !all_busy {
        return None;
    }
    Some(Proposal {
        knob,
        value: f64::from(wanted),
        rank: Rank::Pool,
        part: "pool",
        hold: Duration::ZERO,
        reason: format!(
            "{} tasks wait and all workers are busy ({}), while {} may run at once",
            view.backlog, view.workers, view.parallelism
        ),
        evidence: alloc::vec![
            Evidence::new("backlog", view.backlog as f64, "tasks"),
            Evidence::new("busy", view.busy, "workers"),
            Evidence::new("parallelism", f64::from(view.parallelism), "workers"),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Arbiter, KnobSpec};

    fn knob() -> KnobId {
        let spec = KnobSpec {
            name: "workers".into(),
            unit: "workers",
            min: 1.0,
            max: 64.0,
            about: "how many",
        };
        Arbiter::new().add_knob(spec, 2.0)
    }

    fn value(view: PoolView) -> Option<f64> {
        fill(knob(), &PoolConfig::for_cpus(8), &view).map(|proposal| proposal.value)
    }

    /// CPU-16: while CPUs have no worker and work waits, a worker for each comes at once; never beyond parallelism or the greatest size.
    #[test]
    fn an_unused_cpu_is_not_waited_for() {
        let view = PoolView {
            workers: 2,
            healthy: 2,
            busy: 2.0,
            backlog: 1,
            parallelism: 8,
            ..PoolView::default()
        };
        assert_eq!(value(view), Some(8.0));
        assert_eq!(
            value(PoolView {
                parallelism: 100,
                ..view
            }),
            Some(16.0)
        );
        assert_eq!(value(PoolView { backlog: 0, ..view }), None);
        assert_eq!(value(PoolView { busy: 1.0, ..view }), None);
        assert_eq!(
            value(PoolView {
                workers: 8,
                busy: 8.0,
                ..view
            }),
            None
        );
    }
}
