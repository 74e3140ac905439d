//! A model of a machine for the tests: CPUs, front and back workers, classes with work, and the operating system's rule
//! that front threads go before back threads. Time passes in ticks of 10 µs.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use flyball_core::class::Group;
use flyball_core::id::{ClassId, ClassSet};
use flyball_core::time::Timestamp;

use crate::sched::{Algorithm, ClassParams, Grant, Pick, Scheduler};

pub(super) const TICK: u64 = 10_000;
pub(super) const US: u64 = 1_000;
pub(super) const MS: u64 = 1_000_000;

pub(super) fn params(shares: u32) -> ClassParams {
    ClassParams {
        priority: 2,
        shares,
        guarantee: 0.0,
        ceiling: 1.0,
        latency_target_ns: 50 * MS,
        slice_ns: 100 * US,
        concurrency: u32::MAX,
        group: Group::Back,
    }
}

pub(super) fn id(n: usize) -> ClassId {
    ClassId::try_new(n).unwrap()
}

pub(super) struct Load {
    /// The length of the tasks of an endless backlog; 0 for none.
    pub(super) backlog_ns: u64,
    pub(super) queue: VecDeque<u64>,
    /// CPU time used, that of grants still out included.
    pub(super) used_ns: u64,
    /// CPU time that was reported with settlements.
    pub(super) settled_ns: u64,
    pub(super) finished: u64,
    pub(super) waits: u64,
    /// The longest that the class was ready and not one of its tasks was begun.
    pub(super) longest_wait_ns: u64,
    waiting_since: Option<Timestamp>,
}

struct Worker {
    allowed: ClassSet,
    front: bool,
    running: Option<(Grant, u64, u64)>,
    parked_until: Timestamp,
}

pub(super) struct Machine {
    pub(super) scheduler: Scheduler,
    pub(super) now: Timestamp,
    pub(super) loads: Vec<Load>,
    workers: Vec<Worker>,
    cpus: usize,
    /// Busy processes of others: each takes a CPU from the back threads, and every second tick from a front thread.
    pub(super) foreign: usize,
    ticks: usize,
}

impl Machine {
    /// A machine whose workers may all run every class.
    pub(super) fn whole(algorithm: Algorithm, cpus: usize, classes: &[ClassParams]) -> Self {
        let mut machine = Self::without_workers(algorithm, cpus, classes);
        machine.add_workers(cpus, ClassSet::ALL, false);
        machine
    }

    /// A machine with a front and a back group of workers, as many of each as there are CPUs.
    pub(super) fn split(algorithm: Algorithm, cpus: usize, classes: &[ClassParams]) -> Self {
        let mut machine = Self::without_workers(algorithm, cpus, classes);
        let of = |group| {
            (0..classes.len())
                .filter(|i| classes[*i].group == group)
                .map(id)
                .collect()
        };
        machine.add_workers(cpus, of(Group::Front), true);
        machine.add_workers(cpus, of(Group::Back), false);
        machine
    }

    fn without_workers(algorithm: Algorithm, cpus: usize, classes: &[ClassParams]) -> Self {
        let mut scheduler = Scheduler::new(algorithm, cpus as u32);
        let mut loads = Vec::new();
        for (i, class) in classes.iter().enumerate() {
            scheduler
                .insert(Timestamp::ZERO, id(i), class.clone())
                .unwrap();
            loads.push(Load {
                backlog_ns: 0,
                queue: VecDeque::new(),
                used_ns: 0,
                settled_ns: 0,
                finished: 0,
                waits: 0,
                longest_wait_ns: 0,
                waiting_since: None,
            });
        }
        Self {
            scheduler,
            now: Timestamp::ZERO,
            loads,
            workers: Vec::new(),
            cpus,
            foreign: 0,
            ticks: 0,
        }
    }

    fn add_workers(&mut self, count: usize, allowed: ClassSet, front: bool) {
        for _ in 0..count {
            self.workers.push(Worker {
                allowed,
                front,
                running: None,
                parked_until: Timestamp::ZERO,
            });
        }
    }

    pub(super) fn ready(&self) -> ClassSet {
        (0..self.loads.len())
            .filter(|i| self.loads[*i].backlog_ns > 0 || !self.loads[*i].queue.is_empty())
            .map(id)
            .collect()
    }

    fn next_task(&mut self, class: ClassId) -> Option<u64> {
        let load = &mut self.loads[class.index()];
        let backlog = (load.backlog_ns > 0).then_some(load.backlog_ns);
        let task = load.queue.pop_front().or(backlog);
        if let Some(since) = load.waiting_since.take() {
            load.longest_wait_ns = load
                .longest_wait_ns
                .max(self.now.saturating_nanos_since(since));
        }
        task
    }

    /// Wakes parked front workers, as a submission to a front class does.
    pub(super) fn submit(&mut self, class: usize, task_ns: u64) {
        self.loads[class].queue.push_back(task_ns);
    }

    pub(super) fn step(&mut self) {
        for class in self.ready() {
            self.loads[class.index()]
                .waiting_since
                .get_or_insert(self.now);
        }
        for w in 0..self.workers.len() {
            if self.workers[w].running.is_some() || self.now < self.workers[w].parked_until {
                continue;
            }
            let ready = self.ready();
            match self
                .scheduler
                .pick(self.now, ready, self.workers[w].allowed)
            {
                Pick::Run(grant) => {
                    assert!((ready & self.workers[w].allowed).contains(grant.class));
                    let task = self.next_task(grant.class).expect("the class is ready");
                    self.workers[w].running = Some((grant, 0, task));
                }
                Pick::Wait { until } => {
                    assert!(until > self.now);
                    self.workers[w].parked_until = until;
                    for class in ready & self.workers[w].allowed {
                        self.loads[class.index()].waits += 1;
                    }
                }
                Pick::Idle => assert!((ready & self.workers[w].allowed).is_empty()),
            }
        }
        self.ticks += 1;
        self.now = self.now.saturating_add_nanos(TICK);
        let foreign_turn = self.ticks.is_multiple_of(2);
        let fronts: Vec<usize> = (0..self.workers.len())
            .filter(|w| self.workers[*w].front)
            .collect();
        let backs: Vec<usize> = (0..self.workers.len())
            .filter(|w| !self.workers[*w].front)
            .collect();
        let free_for_front = self.cpus
            - if foreign_turn {
                self.foreign.min(self.cpus)
            } else {
                0
            };
        let used = self.spend(&fronts, free_for_front);
        self.spend(&backs, (self.cpus - used).saturating_sub(self.foreign));
    }

    /// Lets up to `cpus` of the workers that have something to run do so for a tick, in turn.
    fn spend(&mut self, workers: &[usize], cpus: usize) -> usize {
        let busy: Vec<usize> = workers
            .iter()
            .copied()
            .filter(|w| self.workers[*w].running.is_some())
            .collect();
        let count = busy.len().min(cpus);
        for turn in 0..count {
            self.run(busy[(self.ticks + turn) % busy.len()]);
        }
        count
    }

    fn run(&mut self, w: usize) {
        let (grant, used, left) = self.workers[w].running.take().expect("the worker is busy");
        let (used, left) = (used + TICK, left - TICK);
        let class = grant.class;
        self.loads[class.index()].used_ns += TICK;
        if left > 0 {
            self.workers[w].running = Some((grant, used, left));
            return;
        }
        self.loads[class.index()].finished += 1;
        if used < grant.slice_ns
            && let Some(next) = self.next_task(class)
        {
            self.workers[w].running = Some((grant, used, next));
            return;
        }
        let load = &mut self.loads[class.index()];
        load.settled_ns += used;
        // Served until now: a wait begins anew.
        load.waiting_since = load.waiting_since.map(|_| self.now);
        self.scheduler.settle(self.now, grant, used);
    }

    pub(super) fn run_for(&mut self, nanos: u64) {
        let end = self.now.saturating_add_nanos(nanos);
        while self.now < end {
            self.step();
        }
    }

    pub(super) fn used(&self) -> Vec<f64> {
        self.loads.iter().map(|load| load.used_ns as f64).collect()
    }

    /// What each class used of all that was used since `before`, 0 to 1.
    pub(super) fn parts_since(&self, before: &[f64]) -> Vec<f64> {
        let gained: Vec<f64> = self
            .used()
            .iter()
            .zip(before)
            .map(|(now, before)| now - before)
            .collect();
        let total: f64 = gained.iter().sum();
        gained.iter().map(|part| part / total).collect()
    }
}
