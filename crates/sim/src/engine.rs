//! The discrete-event loop: arrivals, ends of polls, wake-ups of futures and of threads that were told to wait, samples.
//!
//! Only what the policies decide is decided by the policies; the engine is the world around them. It follows the executor:
//! a free worker asks for a grant and drains the granted class until the slice is used up, settles what it really used, and
//! asks again; an arrival wakes at most one worker.
//!
//! Invariants, checked in every run and reported as [`Error::Broken`]
//! - each accepted task ends exactly once, also when algorithm or strategy change in between;
//! - a free worker is never left idle beside queued work that it may run, unless the scheduler told it to wait;
//! - the scheduler grants only classes that have work for the worker that asks.
//!
//! Events at the same instant are handled in a fixed order (ends of polls by CPU number, sleepers, arrivals, wake-ups,
//! samples), so that one seed is one run.

mod watch;
mod workers;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flyball_core::class::{ClassSpec, Group};
use flyball_core::histogram::Histogram;
use flyball_core::id::{ClassId, ClassSet};
use flyball_core::rng::Rng;
use flyball_core::time::{Timestamp, nanos_of};
use flyball_policy::sched::tasks::FairClock;
use flyball_policy::sched::{Algorithm, ClassParams, Scheduler, order};

use crate::Error;
use crate::config::Config;
use crate::cpu::Cpu;
use crate::index_set::IndexSet;
use crate::metrics::{ClassMetrics, Samples, Windows};
use crate::placement::Placement;
use crate::queue::{ClassQueue, TaskIndex};
use crate::report::Report;
use crate::timers::Timers;
use crate::workload::{Draw, Workload};

/// How often loads are sampled and, where asked for, rebalanced.
pub(crate) const SAMPLE_NS: u64 = 10_000_000;
/// Tasks between two calls of the progress function.
const PROGRESS_TASKS: u64 = 1 << 16;
/// Time that a poll takes on a worker with more memory handed out than it has, against the usual.
const OVERCOMMITTED_FACTOR: f64 = 4.0;
/// Time after which a faulty worker gives a task up, against what the task would take.
const FAULTY_FACTOR: f64 = 0.1;
/// No worker.
const NOBODY: u32 = u32::MAX;

/// A task from its arrival to its end.
pub(crate) struct Task {
    number: u64,
    arrived_ns: u64,
    /// When it was last ready to run.
    pub(crate) ready_ns: u64,
    /// Work of each poll on a worker of full speed.
    poll_work_ns: u64,
    pub(crate) memory: u64,
    /// Virtual time of a future.
    virtual_ns: u64,
    pub(crate) key: Option<u32>,
    /// The worker for which it is tagged, else [`NOBODY`].
    placed: u32,
    /// The worker that has its memory handed out, else [`NOBODY`].
    holder: u32,
    class: ClassId,
    priority: i8,
    polls: u8,
    polls_left: u8,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Tasks that have ended, or were refused.
    pub done: u64,
    /// Tasks of the run.
    pub total: u64,
}

/// Runs a simulation to its end, calling `progress` now and then.
///
/// # Errors
/// An invalid configuration, or [`Error::Broken`] when a promise of the policy does not hold.
pub fn run(config: &Config, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    config.validate()?;
    let mut engine = Engine::new(config)?;
    engine.run(progress)?;
    Ok(engine.report())
}

/// Runs a simulation as [`run`] does; answers the latency of each task too, ns, in the order in which they ended.
pub(crate) fn run_with_latencies(config: &Config) -> Result<Vec<u64>, Error> {
    config.validate()?;
    let mut engine = Engine::new(config)?;
    engine.latencies = Some(Vec::with_capacity(config.tasks as usize));
    engine.run(&mut |_| {})?;
    Ok(engine.latencies.unwrap_or_default())
}

pub(crate) struct Engine<'a> {
    config: &'a Config,
    now: u64,
    workload: Workload,
    rng: Rng,
    scheduler: Scheduler,
    algorithm: Algorithm,
    placement: Placement,
    switches_done: usize,
    arrived: u64,
    done: u64,
    /// Accepted and not ended.
    live: u64,
    tasks: Vec<Task>,
    free: Vec<TaskIndex>,
    queues: Vec<ClassQueue>,
    fair: Vec<FairClock>,
    /// Classes with anything queued.
    ready: ClassSet,
    /// Classes with something queued that any worker of their group may take.
    shared: ClassSet,
    group_classes: [ClassSet; 2],
    /// For each class the classes of higher priority in its group.
    higher: Vec<ClassSet>,
    cpus: Vec<Cpu>,
    timers: Timers,
    /// CPUs that run nothing.
    idle: IndexSet,
    /// CPUs that run their back thread.
    running_back: IndexSet,
    /// The CPU whose poll has just ended and whose next step is not decided yet; nobody may start anything there.
    in_transit: usize,
    /// When threads of each group that were told to wait ask again.
    wake_ns: [u64; 2],
    sleepers: BinaryHeap<Reverse<(u64, u64, TaskIndex)>>,
    sleeper_count: u64,
    next_sample_ns: u64,
    /// One bit a task number.
    ended: Vec<u64>,
    metrics: Vec<ClassMetrics>,
    windows: Windows,
    load_variance: Samples,
    latency: Histogram,
    /// Each one, where asked for.
    latencies: Option<Vec<u64>>,
    waits: u64,
    steals: u64,
    moved: u64,
    cold_starts: u64,
    overcommitted: u64,
}

fn slot(group: Group) -> usize {
    match group {
        Group::Front => 0,
        Group::Back => 1,
    }
}

/// The number by which a task is ordered in its class.
fn due(task: &Task, ready_ns: u64, spec: &ClassSpec, algorithm: Algorithm) -> u64 {
    order::due(
        Timestamp::from_nanos(ready_ns),
        task.priority,
        None,
        nanos_of(spec.latency_target),
        algorithm,
    )
}

impl<'a> Engine<'a> {
    fn new(config: &'a Config) -> Result<Self, Error> {
        let workers = config.workers as usize;
        let classes = config.classes.len();
        let mut rng = Rng::seeded(config.seed);
        let workload = Workload::new(config, rng.fork());
        let mut scheduler = Scheduler::new(config.algorithm, config.workers);
        let mut group_classes = [ClassSet::EMPTY; 2];
        for (index, spec) in config.classes.iter().enumerate() {
            let class = ClassId::new(index as u8);
            scheduler.insert(Timestamp::ZERO, class, ClassParams::from(spec))?;
            group_classes[slot(spec.group)].insert(class);
        }
        let higher = config
            .classes
            .iter()
            .map(|low| {
                let above = |high: &&(usize, &ClassSpec)| {
                    high.1.group == low.group && high.1.priority > low.priority
                };
                config
                    .classes
                    .iter()
                    .enumerate()
                    .collect::<Vec<_>>()
                    .iter()
                    .filter(above)
                    .map(|&(index, _)| ClassId::new(index as u8))
                    .collect()
            })
            .collect();
        let placement = Placement::new(config, rng.fork());
        let tag_workers = if placement.ever_places() { workers } else { 0 };
        let cpus = (0..workers)
            .map(|worker| {
                Cpu::new(
                    config.speed(worker),
                    config.is_faulty(worker),
                    config.memory_per_worker(),
                )
            })
            .collect();
        let mut idle = IndexSet::new(workers);
        (0..workers).for_each(|worker| idle.insert(worker));
        Ok(Self {
            config,
            now: 0,
            workload,
            scheduler,
            algorithm: config.algorithm,
            placement,
            switches_done: 0,
            arrived: 0,
            done: 0,
            live: 0,
            tasks: Vec::new(),
            free: Vec::new(),
            queues: (0..classes).map(|_| ClassQueue::new(tag_workers)).collect(),
            fair: (0..classes).map(|_| FairClock::new()).collect(),
            ready: ClassSet::EMPTY,
            shared: ClassSet::EMPTY,
            group_classes,
            higher,
            cpus,
            timers: Timers::new(workers),
            idle,
            running_back: IndexSet::new(workers),
            in_transit: usize::MAX,
            wake_ns: [u64::MAX; 2],
            sleepers: BinaryHeap::new(),
            sleeper_count: 0,
            next_sample_ns: SAMPLE_NS,
            ended: vec![0; config.tasks.div_ceil(64) as usize],
            metrics: (0..classes).map(|_| ClassMetrics::default()).collect(),
            windows: Windows::new(config.window_ns, classes),
            load_variance: Samples::default(),
            latency: Histogram::new(),
            latencies: None,
            waits: 0,
            steals: 0,
            moved: 0,
            cold_starts: 0,
            overcommitted: 0,
            rng,
        })
    }

    fn run(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        self.fill_backlog()?;
        let mut reported = 0;
        loop {
            let (cpu_ns, cpu) = self.timers.first();
            let sleeper_ns = self
                .sleepers
                .peek()
                .map_or(u64::MAX, |Reverse(first)| first.0);
            let arrival_ns = self.workload.next_at();
            let wake_ns = self.wake_ns[0].min(self.wake_ns[1]);
            if self.live == 0 && arrival_ns == u64::MAX {
                break;
            }
            let next = cpu_ns.min(sleeper_ns).min(arrival_ns).min(wake_ns);
            if next == u64::MAX {
                return Err(self.broken("queued work and nobody on the way to it"));
            }
            if self.next_sample_ns <= next {
                self.now = self.next_sample_ns;
                self.sample()?;
                continue;
            }
            if self.windows.end_ns() <= next {
                let counts = arrival_ns != u64::MAX || self.config.tasks > self.arrived;
                self.windows
                    .close(counts, self.algorithm, &self.config.classes, self.ready);
                continue;
            }
            if next < self.now {
                return Err(self.broken("time went back"));
            }
            self.now = next;
            if next == cpu_ns {
                self.poll_ended(cpu)?;
            } else if next == sleeper_ns {
                if let Some(Reverse((_, _, task))) = self.sleepers.pop() {
                    self.make_ready(task)?;
                }
            } else if next == arrival_ns {
                let draw = self.workload.arrive();
                self.arrival(draw)?;
            } else {
                self.wake()?;
            }
            self.check_nobody_idles()?;
            if self.done - reported >= PROGRESS_TASKS {
                reported = self.done;
                progress(Progress {
                    done: self.done,
                    total: self.config.tasks,
                });
            }
        }
        self.check_conservation()
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_nanos(self.now)
    }

    fn broken(&self, what: &'static str) -> Error {
        Error::Broken {
            at_ns: self.now,
            task: self.arrived,
            what,
        }
    }

    fn fill_backlog(&mut self) -> Result<(), Error> {
        for _ in 0..self.workload.initial_per_class(self.config.workers) {
            for class in 0..self.config.classes.len() {
                if let Some(draw) = self.workload.replace(class as u8) {
                    self.arrival(draw)?;
                }
            }
        }
        Ok(())
    }

    fn arrival(&mut self, draw: Draw) -> Result<(), Error> {
        let class = ClassId::new(draw.class);
        let number = self.arrived;
        self.arrived += 1;
        self.switch_if_due();
        self.metrics[class.index()].arrived += 1;
        if self.queues[class.index()].len() >= self.config.classes[class.index()].queue_limit {
            self.metrics[class.index()].refused += 1;
            self.done += 1;
            return Ok(());
        }
        let task = Task {
            number,
            arrived_ns: self.now,
            ready_ns: self.now,
            poll_work_ns: (draw.work_ns / u64::from(draw.polls)).max(1),
            memory: draw.memory,
            virtual_ns: 0,
            key: draw.key,
            placed: NOBODY,
            holder: NOBODY,
            class,
            priority: draw.priority,
            polls: draw.polls,
            polls_left: draw.polls,
        };
        self.live += 1;
        let index = match self.free.pop() {
            Some(index) => {
                self.tasks[index as usize] = task;
                index
            }
            None => {
                self.tasks.push(task);
                (self.tasks.len() - 1) as TaskIndex
            }
        };
        self.make_ready(index)
    }

    /// Queues a task, new or woken or to be repeated, and sees that somebody runs it.
    fn make_ready(&mut self, index: TaskIndex) -> Result<(), Error> {
        let task = &mut self.tasks[index as usize];
        task.ready_ns = self.now;
        let class = task.class;
        let group = self.config.classes[class.index()].group;
        let was_ready = self.ready.contains(class);
        let placed = self.placement.place(task, slot(group));
        match placed {
            Some(worker) => {
                task.placed = worker as u32;
                let (holder, memory) = (
                    std::mem::replace(&mut task.holder, worker as u32),
                    task.memory,
                );
                self.hold(holder, worker as u32, memory);
                self.queues[class.index()].push_tagged(worker, index);
                self.cpus[worker].own.insert(class);
            }
            None => {
                task.placed = NOBODY;
                self.enqueue_untagged(index);
            }
        }
        self.refresh(class);
        if let Some(worker) = placed
            && self.is_free(worker, group)
            && !(was_ready && self.told_to_wait(group))
            && self.start(worker, group)?
        {
            return Ok(());
        }
        if self.shared.contains(class)
            && !(was_ready && self.told_to_wait(group))
            && let Some(worker) = self.any_free(group)
        {
            self.start(worker, group)?;
        }
        Ok(())
    }

    fn enqueue_untagged(&mut self, index: TaskIndex) {
        let task = &mut self.tasks[index as usize];
        let class = task.class;
        let spec = &self.config.classes[class.index()];
        let queue = &mut self.queues[class.index()];
        if task.polls > 1 {
            let fair = &mut self.fair[class.index()];
            task.virtual_ns = fair.wake(task.virtual_ns);
            if !fair.is_eligible(task.virtual_ns) {
                queue.push_late(task.virtual_ns, index);
                return;
            }
        }
        let due = due(task, task.ready_ns, spec, self.algorithm);
        if task.priority == 0 {
            queue.push(due, index);
        } else {
            queue.push_ordered(due, index);
        }
    }

    /// Brings the sets of classes in line with the queue of one of them.
    fn refresh(&mut self, class: ClassId) {
        let queue = &self.queues[class.index()];
        if queue.len() > 0 {
            self.ready.insert(class);
        } else {
            self.ready.remove(class);
            self.windows.emptied(class);
        }
        if queue.untagged() > 0 || (self.config.stealing && queue.tagged() > 0) {
            self.shared.insert(class);
        } else {
            self.shared.remove(class);
        }
    }
}
