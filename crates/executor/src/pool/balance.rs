//! Which worker a task is meant for, and evening out what was meant for them.

use super::{Pool, WorkerShared};
use crate::event::What;
use flyball_core::class::Group;
use flyball_core::id::WorkerId;
use flyball_policy::sched::place::{Placer, Strategy, TaskView, WorkerView, rebalance};
use std::sync::atomic::{AtomicU64, Ordering::*};

/// The core that last ran each key, for the `locality` strategy: a table of fixed size in which a newer key may take an older
/// one's place.
pub(crate) struct LastCores(Box<[AtomicU64]>);

const LAST_CORES: usize = 4096;

impl LastCores {
    pub(super) fn new() -> Self {
        LastCores((0..LAST_CORES).map(|_| AtomicU64::new(0)).collect())
    }

    /// The place of a key and the part of it that tells keys of one place apart (48 bits).
    fn place(&self, key: u64) -> (&AtomicU64, u64) {
        // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, 6.4).
        let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (&self.0[(mixed >> 52) as usize], mixed << 16)
    }

    pub(crate) fn note(&self, key: u64, core: u32) {
        let (place, tag) = self.place(key);
        place.store(tag | u64::from(core.min(0xfffe) + 1), Relaxed);
    }

    pub(super) fn last(&self, key: u64) -> Option<u16> {
        let (place, tag) = self.place(key);
        let noted = place.load(Relaxed);
        (noted & !0xffff == tag)
            .then_some((noted & 0xffff) as u16)?
            .checked_sub(1)
    }
}

impl Pool {
    pub(crate) fn strategy(&self) -> Strategy {
        self.placer
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .strategy()
    }

    pub(crate) fn set_strategy(&self, strategy: Strategy) {
        let mut placer = self.placer.lock().unwrap_or_else(|e| e.into_inner());
        let before = placer.strategy();
        *placer = Placer::new(strategy, 1);
        self.strategy
            .store(u8::from(strategy != Strategy::Pull), SeqCst);
        if before != strategy {
            self.events.push(
                self.now(),
                None,
                What::Changed,
                format!("strategy {before} → {strategy}"),
            );
        }
    }

    /// True when tasks stay untagged.
    #[inline]
    pub(crate) fn pulls(&self) -> bool {
        self.strategy.load(Relaxed) == 0
    }

    /// Asks the strategy which worker of the class's group the task is meant for.
    pub(crate) fn place(&self, group: Group, key: Option<u64>) -> Option<u16> {
        let views: Vec<WorkerView> = self
            .spine
            .started_workers(group)
            .filter_map(|index| self.workers[index].get())
            .map(|worker| self.view(worker))
            .collect();
        let task = TaskView {
            key,
            cpu: 1.0,
            memory: 0,
            last_core: key.and_then(|key| self.cores.last(key)),
        };
        let mut placer = self.placer.lock().unwrap_or_else(|e| e.into_inner());
        if matches!(placer.strategy(), Strategy::Affinity | Strategy::Locality)
            && let Some(owner) = key.and_then(|key| self.owner_of(key))
            && views.iter().any(|view| view.id == owner && view.is_open())
        {
            return Some(owner.get());
        }
        placer.place(&task, &views).map(|id| id.get())
    }

    fn view(&self, worker: &WorkerShared) -> WorkerView {
        let cpu = f64::from(worker.cpu.load(Relaxed)) / 10_000.0;
        let error_rate = f64::from(worker.error_rate.load(Relaxed)) / 10_000.0;
        WorkerView {
            id: WorkerId::new(worker.index as u16),
            weight: f64::from(worker.weight.load(Relaxed)) / 10_000.0,
            queued: worker.held() as u32 + self.spine.tags.len(worker.index),
            running: u32::from(worker.task_since.load(Relaxed) != 0),
            tagged: self.spine.tags.len(worker.index),
            cpu,
            mean_run_ns: worker.mean_run_ns.load(Relaxed) as f64,
            throughput: worker.throughput.load(Relaxed) as f64,
            error_rate,
            health: if worker.stuck.load(Relaxed) {
                0.0
            } else {
                f64::from(worker.health.load(Relaxed)) / 10_000.0
            },
            core: worker
                .pinned_to
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .map(|cpu| cpu as u16),
            cpu_free: 1.0 - cpu,
            memory_free: u64::MAX,
            accepting: worker.accepts(),
            max_tagged: self.tuning.max_tasks_per_worker.load(Relaxed),
        }
    }

    /// Tasks tagged for each worker of a group, and whether it takes new ones.
    pub(crate) fn lengths(&self, group: Group) -> (Vec<u32>, Vec<bool>) {
        self.spine
            .started_workers(group)
            .map(|index| {
                let accepting = self.workers[index]
                    .get()
                    .is_some_and(|worker| worker.accepts());
                (self.spine.tags.len(index), accepting)
            })
            .unzip()
    }

    /// Moves tagged tasks between the workers of a group until their lengths differ by at most one; returns how many moved.
    pub(crate) fn rebalance_group(&self, group: Group, reason: &str) -> usize {
        let workers = self.spine.started_workers(group);
        let (lengths, accepting) = self.lengths(group);
        let mut moved = 0;
        for step in rebalance(&lengths, &accepting) {
            moved += self.spine.tags.shift(
                workers.start + step.from,
                workers.start + step.to,
                step.count,
                &self.spine.classes,
            ) as usize;
        }
        if moved > 0 {
            self.rebalances.fetch_add(1, Relaxed);
            self.rebalanced_tasks.fetch_add(moved as u64, Relaxed);
            let now = self.now();
            self.last_rebalance.store(now.as_nanos().max(1), Relaxed);
            self.events.push(
                now,
                None,
                What::Rebalanced,
                format!("{moved} tasks moved: {reason}"),
            );
        }
        moved
    }
}
