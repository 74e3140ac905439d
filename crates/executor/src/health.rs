//! What is measured of each worker from second to second, and the health score that follows.
//!
//! Workers count what they do since the start, each figure with one writer. Here the differences between two looks are added up with
//! a memory that halves every 10 s, so that a score speaks of late. The supervisor looks once a second while there is work; whoever
//! asks for the workers' status looks, too, so that what is shown never dates from before a long sleep.
//!
//! *Slowness is judged class by class*: a worker that happened to get the long tasks is not slow. What is compared with a worker's
//! mean run time is the mean that its own mix of classes would have at the median worker of its group. A class that only one worker
//! ran says nothing.
//!
//! *A missed heartbeat* is a second in which a worker was at work, passed no task boundary, and had not said that its task blocks
//! ([`blocking`](crate::blocking)). The score takes those in a row.
//!
//! Left out: the formula, which is `flyball_policy::sched::health`; memory, which no worker has to itself.

use crate::pool::{Pool, WorkerShared};
use crate::spine::IO_WORKER;
use flyball_core::class::Group;
use flyball_core::rate::Window;
use flyball_core::time::Timestamp;
use flyball_policy::sched::health::{self, Health, Inputs, decayed};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// The time over which a worker's throughput is measured.
pub(crate) const THROUGHPUT_SPAN: Duration = Duration::from_secs(10);

/// What one worker has done of late.
pub(crate) struct Figures {
    /// The last look, ns; 0 before the first.
    looked: u64,
    /// Totals at the last look.
    tasks_seen: u64,
    errors_seen: u64,
    /// Of late: what happened, halved every 10 s.
    tasks: f64,
    errors: f64,
    /// By class, at most 64 of them.
    classes: HashMap<u8, ClassFigures>,
    throughput: Window,
    pub(crate) health: Health,
}

#[derive(Clone, Copy, Default)]
struct ClassFigures {
    generation: u32,
    polls_seen: u64,
    run_ns_seen: u64,
    polls: f64,
    run_ns: f64,
}

impl Default for Figures {
    fn default() -> Self {
        Figures {
            looked: 0,
            tasks_seen: 0,
            errors_seen: 0,
            tasks: 0.0,
            errors: 0.0,
            classes: HashMap::new(),
            throughput: Window::new(THROUGHPUT_SPAN),
            health: health::score(&Inputs::default()),
        }
    }
}

impl Figures {
    /// Adds what the worker has done since the last look.
    fn look(&mut self, worker: &WorkerShared, generations: &[u32], now: u64) {
        let elapsed = Duration::from_nanos(now.saturating_sub(self.looked));
        let fades = |figure: &mut f64| *figure = decayed(*figure, elapsed);
        fades(&mut self.tasks);
        fades(&mut self.errors);
        for figures in self.classes.values_mut() {
            fades(&mut figures.polls);
            fades(&mut figures.run_ns);
        }
        self.looked = self.looked.max(now);
        let totals = worker.stats.totals();
        let errors = totals.counts.panicked + totals.counts.timed_out;
        let new_tasks = totals.counts.tasks.saturating_sub(self.tasks_seen);
        self.throughput
            .add(Timestamp::from_nanos(self.looked), new_tasks);
        self.tasks += new_tasks as f64;
        self.errors += errors.saturating_sub(self.errors_seen) as f64;
        self.tasks_seen = totals.counts.tasks;
        self.errors_seen = errors;
        for (class, &generation) in generations.iter().enumerate() {
            let class = class as u8;
            let Some(row) = worker.stats.existing(class, generation) else {
                continue;
            };
            let figures = self.classes.entry(class).or_default();
            if figures.generation != generation {
                *figures = ClassFigures {
                    generation,
                    ..ClassFigures::default()
                };
            }
            let sum = |of: fn(&crate::stats::KindRow) -> u64| row.kinds().iter().map(of).sum();
            let polls: u64 = sum(|kind| kind.polls.load(Relaxed));
            let run_ns: u64 = sum(|kind| kind.run_ns.load(Relaxed));
            figures.polls += polls.saturating_sub(figures.polls_seen) as f64;
            figures.run_ns += run_ns.saturating_sub(figures.run_ns_seen) as f64;
            figures.polls_seen = polls;
            figures.run_ns_seen = run_ns;
        }
    }

    /// The classes of which the worker ran something of late, and the mean time of a call or poll of each.
    fn means(&self) -> impl Iterator<Item = (u8, f64)> {
        self.classes
            .iter()
            .filter(|(_, figures)| figures.polls >= 1.0)
            .map(|(&class, figures)| (class, figures.run_ns / figures.polls))
    }

    /// The worker's mean run time over the classes that others run, too, and what it would be at the median worker.
    fn latencies(&self, medians: &HashMap<u8, f64>) -> Option<(f64, f64)> {
        let (mut polls, mut own, mut peers) = (0.0, 0.0, 0.0);
        for (class, figures) in &self.classes {
            if let Some(median) = medians.get(class)
                && figures.polls >= 1.0
            {
                polls += figures.polls;
                own += figures.run_ns;
                peers += figures.polls * median;
            }
        }
        (polls > 0.0).then(|| (own / polls, peers / polls))
    }

    /// Part of the tasks of late that failed; None when none ended.
    pub(crate) fn error_rate(&self) -> Option<f64> {
        // Less than a hundredth of a task is the memory of one that ended more than a minute ago.
        (self.tasks >= 0.01).then(|| (self.errors / self.tasks).clamp(0.0, 1.0))
    }

    /// Tasks ended a second over the last 10 s; None while the worker is too young to say.
    pub(crate) fn throughput(&mut self, now: u64) -> Option<f64> {
        self.throughput.per_second(Timestamp::from_nanos(now))
    }
}

impl Pool {
    /// Looks at what every worker has done and judges it.
    pub(crate) fn judge_workers(&self, now: u64) {
        let generations: Vec<u32> = self
            .spine
            .classes
            .iter()
            .map(|slot| slot.generation.load(SeqCst))
            .collect();
        for group in [Group::Front, Group::Back] {
            let workers: Vec<&Arc<WorkerShared>> = self
                .known_workers()
                .filter(|worker| worker.group == group)
                .collect();
            let mut means: HashMap<u8, Vec<f64>> = HashMap::new();
            for worker in &workers {
                let mut figures = worker.figures.lock().unwrap_or_else(|e| e.into_inner());
                figures.look(worker, &generations, now);
                // It runs the futures of sockets only: no peer of the others.
                if worker.index != IO_WORKER {
                    for (class, mean) in figures.means() {
                        means.entry(class).or_default().push(mean);
                    }
                }
            }
            let medians: HashMap<u8, f64> = means
                .into_iter()
                .filter(|(_, means)| means.len() > 1)
                .map(|(class, mut means)| {
                    means.sort_unstable_by(f64::total_cmp);
                    // The lower one of two: the slower is measured against the faster.
                    (class, means[(means.len() - 1) / 2])
                })
                .collect();
            for worker in &workers {
                judge(worker, &medians, now);
            }
        }
    }
}

fn judge(worker: &WorkerShared, medians: &HashMap<u8, f64>, now: u64) {
    let mut figures = worker.figures.lock().unwrap_or_else(|e| e.into_inner());
    let latencies = (worker.index != IO_WORKER)
        .then(|| figures.latencies(medians))
        .flatten();
    figures.health = health::score(&Inputs {
        tasks: figures.tasks,
        errors: figures.errors,
        latency_ns: latencies.map(|(own, _)| own),
        peers_latency_ns: latencies.map(|(_, peers)| peers),
        cpu: f64::from(worker.cpu.load(Relaxed)) / 10_000.0,
        memory: None,
        // The counts have faded up to now already.
        idle: Duration::ZERO,
        missed_heartbeats: worker.missed_now.load(Relaxed),
    });
    let parts = |value: f64| (value.clamp(0.0, 1.0) * 10_000.0).round() as u32;
    worker.health.store(parts(figures.health.score), Relaxed);
    worker
        .error_rate
        .store(parts(figures.error_rate().unwrap_or(0.0)), Relaxed);
    worker
        .throughput
        .store(figures.throughput(now).unwrap_or(0.0) as u64, Relaxed);
    let totals = worker.stats.totals().counts;
    worker
        .mean_run_ns
        .store(totals.run_ns / totals.polls.max(1), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::bump;

    /// As if a worker had run so many tasks of class 0, each so long.
    fn run(worker: &WorkerShared, tasks: u64, each_ns: u64, errors: u64) {
        worker.stats.renew(0, 1);
        let kind = worker.stats.row(0).kind(0);
        bump(&kind.tasks, tasks);
        bump(&kind.polls, tasks);
        bump(&kind.run_ns, tasks * each_ns);
        bump(&kind.panicked, errors);
    }

    fn look(workers: &[&WorkerShared], now: u64) -> Vec<Health> {
        let mut means: Vec<f64> = Vec::new();
        for worker in workers {
            let mut figures = worker.figures.lock().unwrap();
            figures.look(worker, &[1], now);
            means.extend(figures.means().map(|(_, mean)| mean));
        }
        means.sort_unstable_by(f64::total_cmp);
        let median = |means: &[f64]| means[(means.len() - 1) / 2];
        let medians = (!means.is_empty()).then(|| (0, median(&means)));
        let medians = HashMap::from_iter(medians);
        workers
            .iter()
            .map(|worker| {
                judge(worker, &medians, now);
                worker.figures.lock().unwrap().health
            })
            .collect()
    }

    const SECOND: u64 = 1_000_000_000;

    /// CPU-15: errors and slowness against the peers lower the score; what is past counts half after 10 s and is forgotten.
    #[test]
    fn errors_and_slowness_lower_the_score_and_fade() {
        let workers: Vec<WorkerShared> = (0..3).map(|n| WorkerShared::new(n, 4)).collect();
        let all: Vec<&WorkerShared> = workers.iter().collect();
        run(&workers[0], 1_000, 1_000_000, 0);
        run(&workers[1], 1_000, 1_000_000, 900);
        run(&workers[2], 1_000, 10_000_000, 0);
        let health = look(&all, SECOND);
        assert_eq!(health[0].score, 1.0);
        assert!(
            health[1].success < 0.2 && !health[1].is_healthy(),
            "{health:?}"
        );
        assert!(
            health[2].latency < 0.2 && !health[2].is_healthy(),
            "{health:?}"
        );
        assert_eq!(workers[1].error_rate.load(Relaxed), 9_000);
        // The same tasks, ten minutes later.
        let health = look(&all[..2], 600 * SECOND);
        assert!(
            health.iter().all(|health| health.score > 0.99),
            "{health:?}"
        );
        assert_eq!(workers[1].figures.lock().unwrap().error_rate(), None);
    }

    /// CPU-15: missed heartbeats lower the score until the worker shows life again.
    #[test]
    fn missed_heartbeats_lower_the_score() {
        let worker = WorkerShared::new(0, 4);
        let score = |missed, now| {
            worker.missed_now.store(missed, Relaxed);
            judge(&worker, &HashMap::new(), now);
            worker.figures.lock().unwrap().health
        };
        assert_eq!(score(0, SECOND).score, 1.0);
        assert!(score(2, 2 * SECOND).heartbeat < 1.0);
        assert_eq!(score(100, 3 * SECOND).score, 0.0);
        assert_eq!(score(0, 4 * SECOND).score, 1.0);
    }

    /// CPU-15: a slot that serves another class now does not count the old one's tasks as the new one's, and totals stay.
    #[test]
    fn a_reused_slot_starts_over_and_totals_stay() {
        let worker = WorkerShared::new(0, 4);
        run(&worker, 10, 1_000, 1);
        worker.stats.renew(0, 2);
        assert!(worker.stats.existing(0, 1).is_none());
        let row = worker.stats.existing(0, 2).unwrap();
        assert_eq!(row.kind(0).tasks.load(Relaxed), 0);
        let totals = worker.stats.totals();
        assert_eq!((totals.counts.tasks, totals.counts.panicked), (10, 1));
    }
}
