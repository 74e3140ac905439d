//! Joint ceilings of classes: what a throttle does to the executor.
//!
//! The scheduler grants slices by them (`policy::sched::joint`). A closure that runs for longer than its slice does not come back to
//! ask; so at each tick the supervisor publishes the classes whose ceiling is spent, and checkpoints in them wait until it is not
//! ([`Pool::wait_for_ceiling`]). A closure without checkpoints runs on, and what it took beyond the ceiling is owed.
//!
//! A worker that is stuck in a task has had its slice settled; what it goes on to use is charged here, tick by tick.

use crate::dispatch::Local;
use crate::error::Error;
use crate::give_way::GIVE_WAY_MAX;
use crate::pool::{Pool, find, slice};
use crate::task;
use flyball_core::id::{ClassId, ClassSet};
use std::collections::HashMap;
use std::sync::atomic::Ordering::*;

impl Pool {
    /// Sets what a set of classes may use together, or lifts it.
    pub(crate) fn set_joint_ceiling(
        &self,
        place: usize,
        ceiling: Option<(&[&str], f64)>,
    ) -> Result<(), Error> {
        // Kept until the end, so that classes neither go nor change meanwhile.
        let classes = self.classes.write().unwrap_or_else(|e| e.into_inner());
        let ceiling = match ceiling {
            Some((names, cpus)) => {
                let mut set = ClassSet::EMPTY;
                for name in names {
                    set.insert(find(&classes, name)?.id);
                }
                Some((set, cpus))
            }
            None => None,
        };
        let now = self.now();
        let mut ledger = self.ledger.open();
        ledger.set_joint_ceiling(now, place, ceiling);
        let limited = ledger.jointly_limited();
        let held = ledger.held_jointly(now);
        drop(ledger);
        let before = ClassSet::from_bits(self.spine.limited.swap(limited.bits(), SeqCst));
        for info in classes.iter() {
            if before.contains(info.id) != limited.contains(info.id) {
                self.publish_class(info);
            }
        }
        self.publish_held(held);
        Ok(())
    }

    /// Lifts all, so that what was accepted runs to its end.
    pub(crate) fn lift_joint_ceilings(&self) {
        for place in 0..flyball_policy::sched::MAX_JOINT {
            // Without names nothing can be unknown.
            let _ = self.set_joint_ceiling(place, None);
        }
    }

    fn publish_held(&self, held: ClassSet) {
        let before = self.spine.held.swap(held.bits(), SeqCst);
        if before & !held.bits() != 0 {
            self.notify_quiet();
        }
    }

    /// CPU time that each class has used, what runs now included as far as it is known, ns.
    pub(crate) fn class_times(&self) -> Vec<(String, u64)> {
        let classes = self.classes.read().unwrap_or_else(|e| e.into_inner());
        let now = self.now();
        let mut ledger = self.ledger.open();
        ledger.settle(now, None);
        let used = |id: ClassId| ledger.used_ns(now, id);
        classes
            .iter()
            .map(|info| (info.name.to_string(), used(info.id)))
            .collect()
    }

    /// Waits at a checkpoint until the ceiling of the class is filled again, or the task is to end.
    #[cold]
    pub(crate) fn wait_for_ceiling(&self, local: &Local, class: u64) {
        // SAFETY: the worker of this thread outlives its `Local`, and a task's state outlives its run.
        let (shared, header) = unsafe { (&*local.shared, local.task.get().as_ref()) };
        let signals = &self.spine.signals;
        let is_held = || {
            self.spine.held.load(SeqCst) & class != 0
                && !self.spine.terminated.load(Relaxed)
                && header.is_none_or(|header| header.state().load(Relaxed) & task::CANCELLED == 0)
        };
        // Inside `blocking` it is lent already.
        let lent = !local.token_lent.get() && shared.lend_token(signals);
        self.quiet_waiters.fetch_add(1, SeqCst);
        while is_held() {
            let guard = self.quiet_lock.lock().unwrap_or_else(|e| e.into_inner());
            let waited = self
                .quiet
                .wait_timeout_while(guard, GIVE_WAY_MAX, |()| is_held());
            drop(waited);
        }
        self.quiet_waiters.fetch_sub(1, SeqCst);
        if lent {
            shared.reclaim_token(signals);
        }
    }
}

/// What the supervisor remembers from tick to tick: the CPU time of workers whose slices were settled, ns.
#[derive(Default)]
pub(crate) struct Ceilings {
    settled: HashMap<usize, u64>,
}

impl Ceilings {
    /// Charges stuck workers and publishes which classes are to wait.
    pub(crate) fn look(&mut self, pool: &Pool) {
        let limited = ClassSet::from_bits(pool.spine.limited.load(SeqCst));
        if limited.is_empty() {
            self.settled.clear();
            return;
        }
        let mut used = Vec::new();
        for worker in pool.known_workers() {
            let class = ClassId::try_new(usize::from(worker.ring_class.load(Relaxed)));
            let settled = worker.slice_granted.load(Acquire) == slice::SETTLED;
            let (true, Some(class)) = (settled, class.filter(|class| limited.contains(*class)))
            else {
                self.settled.remove(&worker.index);
                continue;
            };
            let clock = *worker.clock.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(cpu) = clock.and_then(|clock| clock.read()) {
                if let Some(before) = self.settled.insert(worker.index, cpu) {
                    used.push((class, cpu.saturating_sub(before)));
                }
                // At the end its worker settles what is left.
                worker.slice_settled.store(cpu, Relaxed);
            }
        }
        let now = pool.now();
        let mut ledger = pool.ledger.open();
        for (class, cpu_ns) in used {
            ledger.charge_beside(class, cpu_ns);
        }
        let held = ledger.held_jointly(now);
        drop(ledger);
        pool.publish_held(held);
    }
}
