//! The figures of the pool, summed over workers when somebody asks.

use super::{ClassInfo, Pool, WorkerShared};
use crate::spine::{IO_WORKER, mode};
use crate::stats::{ClassStats, GroupStats, Stats};
use flyball_core::class::Group;
use flyball_core::id::{ClassId, KindId};
use flyball_core::time::Timestamp;
use flyball_policy::sched::ClassService;
use flyball_policy::sched::health::HEALTHY;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

impl Pool {
    /// The p95 of a kind's run time over all workers, ns; None while fewer than 20 have run.
    pub(crate) fn kind_p95(&self, class: ClassId, kind: KindId) -> Option<u64> {
        let mut all = flyball_core::histogram::Histogram::new();
        for worker in self.known_workers() {
            if let Some(row) = worker.stats.existing(
                class.index() as u8,
                self.spine.classes[class.index()].generation.load(SeqCst),
            ) && let Some(run) = row.kind(usize::from(kind.get())).existing_run()
            {
                all.merge(&run.snapshot());
            }
        }
        if all.count() < 20 {
            None
        } else {
            all.quantile(0.95)
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let names = self.kind_names();
        let now = self.now();
        // Removing a class moves its totals under this lock.
        let classes = self.classes.read().unwrap_or_else(|e| e.into_inner());
        let services = self.services(&classes);
        // Every executor has the built-in classes, and all are told of the same algorithm.
        let algorithm = classes[0].slot.algorithm();
        let by_class: Vec<ClassStats> = classes
            .iter()
            .zip(services)
            .map(|(class, service)| self.class_stats(class, &names, service, now.as_nanos()))
            .collect();
        let ended = self.past_ended.load(SeqCst)
            + by_class.iter().map(|class| class.counts.tasks).sum::<u64>();
        let submitted = self.past_submitted.load(SeqCst)
            + by_class.iter().map(|class| class.submitted).sum::<u64>();
        drop(classes);
        let last_rebalance = self.last_rebalance.load(Relaxed);
        Stats {
            at: now,
            algorithm,
            strategy: self.strategy(),
            parallelism: self.spine.signals.parallelism() as usize,
            running: self.spine.signals.running() as usize,
            waiting_futures: self.spine.registry.len(),
            classes: by_class,
            submitted,
            ended,
            groups: [Group::Front, Group::Back]
                .map(|group| self.group_stats(group, now.as_nanos())),
            rebalances: self.rebalances.load(Relaxed),
            rebalanced_tasks: self.rebalanced_tasks.load(Relaxed),
            last_rebalance: (last_rebalance != 0).then(|| Timestamp::from_nanos(last_rebalance)),
        }
    }

    /// What the scheduler says of each class. Whoever asks for figures may have others waiting on it, so it does not wait either for a
    /// lock whose holder the kernel may have put aside: it then tells what the scheduler said last.
    fn services(&self, classes: &[Arc<ClassInfo>]) -> Vec<Option<ClassService>> {
        let mut last = self.services.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(scheduler) = self.ledger.try_open() {
            *last = classes
                .iter()
                .filter_map(|class| Some((class.id, scheduler.stats(class.id)?)))
                .collect();
        }
        let of = |class: &Arc<ClassInfo>| last.iter().find(|(id, _)| *id == class.id);
        classes
            .iter()
            .map(|class| of(class).map(|(_, service)| *service))
            .collect()
    }

    /// What one class has done; `names` are the kinds', `service` what the scheduler says.
    pub(crate) fn class_stats(
        &self,
        class: &ClassInfo,
        names: &[String],
        service: Option<ClassService>,
        now: u64,
    ) -> ClassStats {
        let spec = class.spec.read().unwrap_or_else(|e| e.into_inner()).clone();
        let slot = class.slot;
        let generation = slot.generation.load(SeqCst);
        let index = class.id.index() as u8;
        let mut stats = ClassStats::empty(spec);
        for worker in self.known_workers() {
            if let Some(row) = worker.stats.existing(index, generation) {
                stats.add(row, names);
                stats.submitted += row.submitted.load(Relaxed);
                if worker.ring_class.load(Relaxed) == index && worker.busy.is_on() {
                    // What the slice in progress has submitted; read in this order, so that nothing is counted twice.
                    let settled = worker.submitted_settled.load(SeqCst);
                    stats.submitted += worker.submitted.load(Relaxed).saturating_sub(settled);
                }
            }
        }
        for (kind, count) in slot
            .ended_elsewhere
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
        {
            // A kind may be younger than the list of names.
            if let Some(name) = names.get(usize::from(kind.get())) {
                stats.add_cancelled(name, *count);
            }
        }
        stats.paused = slot.mode.load(SeqCst) == mode::PAUSED;
        stats.queued = slot.waiting() + self.held_of(index);
        stats.running = self.running_of(index);
        stats.oldest_wait = self.oldest_wait(slot, now);
        // Read one after the other, the figures are of slightly different moments.
        stats.submitted = (stats.submitted + slot.submitted_elsewhere()).max(stats.counts.tasks);
        stats.refused = slot.refused.load(Relaxed);
        stats.shedding = self.shedding_status(slot);
        if let Some(service) = service {
            stats.promised = service.promised;
            stats.aged = service.ageings;
        }
        stats
    }

    fn group_stats(&self, group: Group, now: u64) -> GroupStats {
        let workers = || {
            self.known_workers()
                .filter(move |worker| worker.group == group && worker.index != IO_WORKER)
        };
        let count =
            |of: &dyn Fn(&WorkerShared) -> bool| workers().filter(|worker| of(worker)).count();
        let idle = |worker: &Arc<WorkerShared>| {
            let since = worker
                .last_activity
                .load(Relaxed)
                .max(worker.started_at.load(Relaxed));
            Duration::from_nanos(now.saturating_sub(since))
        };
        GroupStats {
            group,
            wanted: self.roster.wanted(group),
            present: count(&WorkerShared::accepts),
            healthy: count(&|worker| {
                worker.accepts() && f64::from(worker.health.load(Relaxed)) / 10_000.0 >= HEALTHY
            }),
            stuck: count(&|worker| worker.stuck.load(SeqCst)),
            replaced: count(&|worker| worker.replaced_by().is_some()),
            busy_ns: workers().map(|worker| worker.busy.read(now)).sum(),
            idle_longest: workers()
                .filter(|worker| worker.accepts() && !worker.busy.is_on())
                .map(idle)
                .max(),
        }
    }
}
