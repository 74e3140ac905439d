//! Workers with queues of their own under a dispatcher of others, and the ideal central queue. Arrivals and work are those of the engine with the
//! same configuration.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use flyball_core::rng::Rng;

use super::peers::{Dispatcher, Peer, View};
use crate::config::Config;
use crate::workload::Workload;

/// A task that waits: when it arrived, and its work on a worker of full speed, ns.
type Waiting = (u64, u64);

struct Workers {
    inverse_speeds: Vec<f64>,
    /// When a worker is done, and which.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    /// When the task arrived that each runs.
    running: Vec<u64>,
    latencies: Vec<u64>,
}

impl Workers {
    fn new(config: &Config) -> Self {
        let workers = config.workers as usize;
        Self {
            inverse_speeds: (0..workers)
                .map(|worker| 1.0 / config.speed(worker))
                .collect(),
            ends: BinaryHeap::with_capacity(workers),
            running: vec![0; workers],
            latencies: Vec::with_capacity(config.tasks as usize),
        }
    }

    fn begin(&mut self, now: u64, worker: usize, (arrived, work_ns): Waiting) {
        let takes = (work_ns as f64 * self.inverse_speeds[worker]) as u64;
        self.running[worker] = arrived;
        self.ends.push(Reverse((now + takes.max(1), worker)));
    }

    /// The next end not after `before`, if any.
    fn end(&mut self, before: u64) -> Option<(u64, usize, u64)> {
        let Reverse((at, worker)) = *self.ends.peek()?;
        if at > before {
            return None;
        }
        self.ends.pop();
        let latency = at - self.running[worker];
        self.latencies.push(latency);
        Some((at, worker, latency))
    }
}

fn workload(config: &Config) -> (Workload, Rng) {
    let mut rng = Rng::seeded(config.seed);
    let workload = Workload::new(config, rng.fork());
    (workload, rng.fork())
}

/// Latencies under a dispatcher that decides when tasks arrive, ns.
pub(super) fn pushed(config: &Config, peer: Peer) -> Vec<u64> {
    let (mut workload, rng) = workload(config);
    let mut workers = Workers::new(config);
    let mut dispatcher = Dispatcher::new(peer, rng);
    let mut views: Vec<View> = (0..config.workers as usize)
        .map(|worker| View::new(config.speed(worker)))
        .collect();
    let mut queues: Vec<VecDeque<Waiting>> = vec![VecDeque::new(); views.len()];
    loop {
        let arrives = workload.next_at();
        while let Some((at, worker, latency)) = workers.end(arrives) {
            let view = &mut views[worker];
            view.pending -= 1;
            dispatcher.ended(at, view, latency);
            if let Some(next) = queues[worker].pop_front() {
                workers.begin(at, worker, next);
            }
        }
        if arrives == u64::MAX {
            return workers.latencies;
        }
        let task = (arrives, workload.arrive().work_ns);
        let worker = dispatcher.choose(arrives, &mut views);
        views[worker].pending += 1;
        if views[worker].pending == 1 {
            workers.begin(arrives, worker, task);
        } else {
            queues[worker].push_back(task);
        }
    }
}

/// Latencies of an ideal central queue, ns: first come first served, the fastest free worker first.
pub(super) fn ideal(config: &Config) -> Vec<u64> {
    let (mut workload, _) = workload(config);
    let mut workers = Workers::new(config);
    // The slow ones are the last ones.
    let mut free: BTreeSet<usize> = (0..config.workers as usize).collect();
    let mut queue: VecDeque<Waiting> = VecDeque::new();
    loop {
        let arrives = workload.next_at();
        while let Some((at, worker, _)) = workers.end(arrives) {
            match queue.pop_front() {
                Some(next) => workers.begin(at, worker, next),
                None => {
                    free.insert(worker);
                }
            }
        }
        if arrives == u64::MAX {
            return workers.latencies;
        }
        let task = (arrives, workload.arrive().work_ns);
        match free.pop_first() {
            Some(worker) => workers.begin(arrives, worker, task),
            None => queue.push_back(task),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Arrivals, Sizes};
    use crate::engine::run_with_latencies;

    fn config(load: f64) -> Config {
        Config {
            workers: 8,
            tasks: 20_000,
            seed: 5,
            classes: Config::equal_classes(1).unwrap(),
            load,
            arrivals: Arrivals::Poisson,
            sizes: Sizes::Exp,
            stealing: false,
            ..Config::default()
        }
    }

    /// Erlang's formula: eight servers at load 0.8 let 0.457 of those who arrive wait, a task's work over 8 × 0.2 in the mean.
    #[test]
    fn the_ideal_queue_is_erlangs() {
        let latencies = ideal(&config(0.8));
        assert_eq!(latencies.len(), 20_000);
        let mean = latencies.iter().map(|&ns| ns as f64).sum::<f64>() / 20_000e6;
        let expected = 1.0 + 0.457 / (8.0 * 0.2);
        assert!((mean / expected - 1.0).abs() < 0.1, "{mean} {expected}");
    }

    /// With equal workers it makes no difference which free one gets a task: the engine's late binding is the ideal queue, task by task.
    #[test]
    fn late_binding_is_the_ideal_queue_where_workers_are_equal() {
        let config = config(0.9);
        let mut real = run_with_latencies(&config).unwrap();
        let mut ideal = ideal(&config);
        real.sort_unstable();
        ideal.sort_unstable();
        assert_eq!(real, ideal);
    }

    #[test]
    fn a_pushed_task_ends_once_under_everybody() {
        for peer in Peer::ALL {
            assert_eq!(pushed(&config(0.5), peer).len(), 20_000, "{peer}");
        }
    }
}
