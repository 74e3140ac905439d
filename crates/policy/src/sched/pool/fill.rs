//! An unused CPU is not waited for.
//!
//! The classic controller waits `scale_up_delay` before it adds workers, which keeps it from swinging where the right number is a matter of
//! judgement. Up to the parallelism it is none: work waits, all workers are busy, and CPUs that may be used have no worker. A worker for
//! each of them costs a stack and saves the delay.

use alloc::format;

use super::proposal::Why;
use super::{PoolConfig, PoolView};
use crate::control::{Evidence, KnobId, Proposal};
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
    let why = Why::because(format!(
        "{} tasks wait and all workers are busy ({}), while {} may run at once",
        view.backlog, view.workers, view.parallelism
    ));
    let why = why.shown_by([Evidence::new("busy", view.busy, "workers")]);
    Some(why.propose(knob, wanted, Duration::ZERO, view))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::pool::testing;

    fn value(view: PoolView) -> Option<f64> {
        let config = PoolConfig::for_cpus(8);
        let (_, knob) = testing::knob(&config, 2);
        fill(knob, &config, &view).map(|proposal| proposal.value)
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
