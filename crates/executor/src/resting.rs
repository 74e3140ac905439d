//! What long tasks leave of the CPU while they run: the supervisor tells the scheduler.
//!
//! A slice is charged when it is over, by the thread's CPU clock. Until then the scheduler takes it for used, as long as it knows no
//! better: a task that computes for a second has used a second. A task that waits for a disk or a lock has not, and were it taken for a
//! busy one, two such tasks of the front group would use up its whole entitlement and hold up every other front task. So once a tick the
//! clocks of slices that are older than a tick are read, and the scheduler is told what they have left unused so far and what part of the
//! time since the last look they rested.
//!
//! Slices younger than a tick are left alone: reading a clock (0.5 µs) for them would cost more than it mends.

use crate::pool::{Pool, slice};
use crate::supervisor::TICK;
use flyball_core::class::MAX_CLASSES;
use flyball_core::id::{ClassId, ClassSet};
use flyball_core::time::nanos_of;
use std::collections::HashMap;
use std::sync::atomic::Ordering::*;

/// One part in this is the unit of [`Scheduler::note_rest`](flyball_policy::sched::Scheduler::note_rest).
const ONE: u64 = 1024;

/// What was seen at the last tick.
#[derive(Default)]
pub(crate) struct Resting {
    looks: HashMap<usize, Look>,
    /// Classes of which the scheduler was told something other than nothing.
    told: ClassSet,
}

/// A worker's slice at the last tick.
#[derive(Clone, Copy)]
struct Look {
    granted: u64,
    at: u64,
    cpu: u64,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    idle_ns: u64,
    resting: u64,
}

impl Resting {
    /// Reads the clocks of long slices and tells the scheduler.
    pub(crate) fn look(&mut self, pool: &Pool, now: u64) {
        let mut sums = [Sum::default(); MAX_CLASSES];
        let mut resting = ClassSet::EMPTY;
        for worker in pool.known_workers() {
            let granted = worker.slice_granted.load(Acquire);
            let is_long = granted != slice::NONE
                && granted != slice::SETTLED
                && now.saturating_sub(granted) >= nanos_of(TICK);
            if !is_long {
                self.looks.remove(&worker.index);
                continue;
            }
            let class = worker.ring_class.load(Relaxed);
            let start = worker.slice_cpu.load(Relaxed);
            let clock = *worker.clock.lock().unwrap_or_else(|e| e.into_inner());
            let Some(cpu) = clock.and_then(|clock| clock.read()) else {
                continue;
            };
            // Still the same slice, or the figures are of two.
            if worker.slice_granted.load(Acquire) != granted || usize::from(class) >= MAX_CLASSES {
                continue;
            }
            let before = self
                .looks
                .insert(
                    worker.index,
                    Look {
                        granted,
                        at: now,
                        cpu,
                    },
                )
                .filter(|before| before.granted == granted)
                .unwrap_or(Look {
                    granted,
                    at: granted,
                    cpu: start,
                });
            let sum = &mut sums[usize::from(class)];
            let elapsed = now.saturating_sub(granted);
            sum.idle_ns += elapsed.saturating_sub(cpu.saturating_sub(start));
            let passed = now.saturating_sub(before.at).max(1);
            let used = cpu.saturating_sub(before.cpu).min(passed);
            sum.resting += ONE - (u128::from(used) * u128::from(ONE) / u128::from(passed)) as u64;
            resting.insert(ClassId::new(class));
        }
        let concerned = resting | self.told;
        if concerned.is_empty() {
            return;
        }
        // Whoever holds the scheduler for longer may have been put aside by the kernel; the next tick tells as much.
        let Some(mut scheduler) = pool.ledger.try_open() else {
            return;
        };
        for class in concerned.iter() {
            let sum = sums[class.index()];
            scheduler.note_rest(pool.now(), class, sum.idle_ns, sum.resting);
        }
        self.told = resting;
    }
}
