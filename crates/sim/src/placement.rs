//! What placement strategies see of the workers, and where they put tasks.
//!
//! Each CPU is one worker in each group. The views follow every event, except for use of CPU, throughput and health, which
//! are taken each 10 ms over the last second (exponentially weighted), as a real pool would.

use flyball_core::id::WorkerId;
use flyball_core::rng::Rng;
use flyball_policy::sched::place::{self, Move, Placer, Strategy, TaskView, WorkerView};

use crate::config::{Config, SwitchTo};
use crate::cpu::Cpu;
use crate::engine::{SAMPLE_NS, Task};

/// Part that a new run time or error has in the running mean.
const RUN_WEIGHT: f64 = 0.1;
/// Part that a sample has in figures over the last second: 10 ms of 1 s.
const SAMPLE_WEIGHT: f64 = 0.01;

/// What a task asks for of a worker's CPU: a worker counts as full with twenty tasks.
const CPU_OF_TASK: f64 = 0.05;

fn cpu_free(view: &WorkerView) -> f64 {
    (1.0 - CPU_OF_TASK * view.load() as f64).max(0.0)
}

pub(crate) struct Placement {
    strategy: Strategy,
    placer: Placer,
    ever: bool,
    views: [Vec<WorkerView>; 2],
    /// Runs that ended since the last sample, by worker.
    ended: Vec<u32>,
    /// The worker on which each key ran last.
    key_core: Vec<Option<u16>>,
    /// For the samples.
    loads: Vec<f64>,
}

impl Placement {
    pub(crate) fn new(config: &Config, mut rng: Rng) -> Self {
        let seed = rng.next_u64();
        let views: Vec<WorkerView> = (0..config.workers as usize)
            .map(|worker| WorkerView {
                id: WorkerId::new(worker as u16),
                weight: config.speed(worker),
                queued: 0,
                running: 0,
                tagged: 0,
                cpu: 0.0,
                mean_run_ns: config.mean_size_ns as f64,
                throughput: 0.0,
                error_rate: 0.0,
                health: 1.0,
                core: Some(worker as u16),
                cpu_free: 1.0,
                memory_free: config.memory_per_worker(),
                accepting: true,
                max_tagged: place::MAX_TASKS_PER_WORKER,
            })
            .collect();
        let places = |strategy: Strategy| strategy != Strategy::Pull;
        Self {
            strategy: config.strategy,
            placer: Placer::new(config.strategy, seed),
            ever: places(config.strategy)
                || config.switches.iter().any(
                    |switch| matches!(switch.to, SwitchTo::Strategy(strategy) if places(strategy)),
                ),
            ended: vec![0; views.len()],
            views: [views.clone(), views],
            key_core: vec![None; config.keys.map_or(0, |keys| keys.count as usize)],
            loads: Vec::with_capacity(config.workers as usize),
        }
    }

    pub(crate) fn strategy(&self) -> Strategy {
        self.strategy
    }

    pub(crate) fn set_strategy(&mut self, strategy: Strategy) {
        self.strategy = strategy;
        self.placer.set_strategy(strategy);
    }

    /// Whether tasks are ever tagged in this run.
    pub(crate) fn ever_places(&self) -> bool {
        self.ever
    }

    /// The worker that a task is tagged for, if any.
    pub(crate) fn place(&mut self, task: &Task, group: usize) -> Option<usize> {
        if self.strategy == Strategy::Pull {
            return None;
        }
        let view = TaskView {
            key: task.key.map(u64::from),
            cpu: CPU_OF_TASK,
            memory: task.memory,
            last_core: task.key.and_then(|key| self.key_core[key as usize]),
        };
        let worker = self.placer.place(&view, &self.views[group])?.index();
        self.tagged(worker, group);
        Some(worker)
    }

    pub(crate) fn tagged(&mut self, worker: usize, group: usize) {
        let view = &mut self.views[group][worker];
        view.tagged += 1;
        view.queued += 1;
        view.cpu_free = cpu_free(view);
    }

    pub(crate) fn untagged(&mut self, worker: usize, group: usize) {
        let view = &mut self.views[group][worker];
        view.tagged -= 1;
        view.queued -= 1;
        view.cpu_free = cpu_free(view);
    }

    pub(crate) fn started(&mut self, worker: usize, group: usize) {
        let view = &mut self.views[group][worker];
        view.running = 1;
        view.cpu_free = cpu_free(view);
    }

    pub(crate) fn ended(&mut self, worker: usize, group: usize, run_ns: u64, failed: bool) {
        let view = &mut self.views[group][worker];
        view.running = 0;
        view.cpu_free = cpu_free(view);
        if self.ever {
            view.mean_run_ns += RUN_WEIGHT * (run_ns as f64 - view.mean_run_ns);
            view.error_rate += RUN_WEIGHT * (f64::from(u8::from(failed)) - view.error_rate);
            self.ended[worker] += 1;
        }
    }

    pub(crate) fn key_ran(&mut self, key: u32, worker: usize) {
        self.key_core[key as usize] = Some(worker as u16);
    }

    pub(crate) fn memory(&mut self, worker: usize, free: u64) {
        for views in &mut self.views {
            views[worker].memory_free = free;
        }
    }

    /// Takes the slow figures; answers the variance over the workers of tasks running and placed.
    pub(crate) fn sample(&mut self, cpus: &mut [Cpu]) -> f64 {
        for (worker, cpu) in cpus.iter_mut().enumerate() {
            let busy = (cpu.busy_ns - cpu.busy_sampled_ns) as f64 / SAMPLE_NS as f64;
            cpu.busy_sampled_ns = cpu.busy_ns;
            let rate = f64::from(std::mem::take(&mut self.ended[worker])) * 1e9 / SAMPLE_NS as f64;
            for views in &mut self.views {
                let view = &mut views[worker];
                // A long run counts when it ends, so a sample may be far above 1.
                view.cpu += SAMPLE_WEIGHT * (busy - view.cpu);
                view.throughput += SAMPLE_WEIGHT * (rate - view.throughput);
                view.health = 1.0 - view.error_rate;
            }
        }
        self.loads.clear();
        self.loads.extend((0..cpus.len()).map(|worker| {
            let load = |views: &Vec<WorkerView>| views[worker].queued + views[worker].running;
            f64::from(self.views.iter().map(load).sum::<u32>())
        }));
        place::variance(&self.loads)
    }

    /// What to move so that the placed tasks of a group differ by at most one between workers; nothing while the variance
    /// of their numbers is not above `variance`.
    pub(crate) fn rebalance(&self, group: usize, variance: f64) -> Vec<Move> {
        let views = &self.views[group];
        let lengths: Vec<u32> = views.iter().map(|view| view.tagged).collect();
        let accepting: Vec<bool> = views.iter().map(|view| view.accepting).collect();
        if place::needs_rebalance(&lengths, &accepting, variance) {
            place::rebalance(&lengths, &accepting)
        } else {
            Vec::new()
        }
    }
}
