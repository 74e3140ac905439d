//! Which worker a task is meant for, and how queued work is evened out.
//!
//! The default, `pull`, means none: work stays in the queue of its class until a worker is free, which balances best. The
//! other strategies tag a task for one worker when it is submitted, for keys, caches and unequal workers. A tag is a
//! wish: the task stays in its class, others may steal it, and a strategy can be changed at any time because nothing but
//! new tags depends on it.
//!
//! Every strategy looks only at workers that accept work and have fewer tagged tasks than they may, and
//! answers `None` when there is none: the task then waits untagged. Ties go to the lowest worker id, so answers repeat.
//! Figures that are no number count as the worst. A decision is a scan over the workers.

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use alloc::string::String;
use alloc::vec::Vec;

use flyball_core::id::WorkerId;
use flyball_core::rng::Rng;

use crate::Error;

mod balance;

pub use balance::{
    Move, REBALANCE_VARIANCE, jain, needs_rebalance, normalized_variance, rebalance, variance,
};

/// How many tasks may be tagged for one worker, unless something else is set.
pub const MAX_TASKS_PER_WORKER: u32 = 100;
/// A worker that owns a key is overloaded when it has more than this much of the average load, in percent, rounded up
/// (consistent hashing with bounded loads: Mirrokni, Thorup, Zadimoghaddam, 2018, where 125 % is a usual choice).
const OVERLOAD_PERCENT: u64 = 125;

/// How a worker is chosen for a task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Strategy {
    /// None is chosen: whoever is free takes it.
    #[default]
    Pull,
    /// Workers in turn.
    RoundRobin,
    /// Workers in turn, each as often as its weight says.
    WeightedRoundRobin,
    /// The lowest load for its weight.
    Weighted,
    /// The fewest tasks queued and running.
    LeastConnections,
    /// The lowest CPU use over the last second.
    LeastLoaded,
    /// The highest health score.
    Health,
    /// The least expected time, by load, run time, throughput and error rate.
    Adaptive,
    /// The worker that owns the key of the task; another when that one is overloaded.
    Affinity,
    /// The worker on the core that last ran the key; another when that one is overloaded.
    Locality,
    /// The worker that has most left after the CPU and memory that the task needs.
    ResourceAware,
    /// The less loaded of two chosen at random.
    PowerOfTwo,
}

impl Strategy {
    /// All strategies.
    pub const ALL: [Self; 12] = [
        Self::Pull,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::Weighted,
        Self::LeastConnections,
        Self::LeastLoaded,
        Self::Health,
        Self::Adaptive,
        Self::Affinity,
        Self::Locality,
        Self::ResourceAware,
        Self::PowerOfTwo,
    ];

    /// Returns the name that configuration uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::Weighted => "weighted",
            Self::LeastConnections => "least_connections",
            Self::LeastLoaded => "least_loaded",
            Self::Health => "health",
            Self::Adaptive => "adaptive",
            Self::Affinity => "affinity",
            Self::Locality => "locality",
            Self::ResourceAware => "resource_aware",
            Self::PowerOfTwo => "power_of_two",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|strategy| strategy.name() == text).ok_or_else(|| Error::UnknownStrategy {
            given: String::from(text),
            known: "pull, round_robin, weighted_round_robin, weighted, least_connections, least_loaded, health, \
                    adaptive, affinity, locality, resource_aware, power_of_two",
        })
    }
}

/// What placement knows of a worker.
#[derive(Clone, PartialEq, Debug)]
pub struct WorkerView {
    /// The worker.
    pub id: WorkerId,
    /// How much it should get compared with others; 1 unless set. What is not above 0 gets nothing while others can.
    pub weight: f64,
    /// Tasks waiting for it.
    pub queued: u32,
    /// Tasks it is running.
    pub running: u32,
    /// Tasks tagged for it that have not started.
    pub tagged: u32,
    /// CPU use over the last second, 0 to 1.
    pub cpu: f64,
    /// Mean run time of its tasks in nanoseconds; 0 while unknown.
    pub mean_run_ns: f64,
    /// Tasks finished a second; 0 while unknown.
    pub throughput: f64,
    /// Part of its tasks that failed, 0 to 1.
    pub error_rate: f64,
    /// Health score, 0 to 1.
    pub health: f64,
    /// The core it is pinned to or was last seen on.
    pub core: Option<u16>,
    /// CPUs it has left, such as 0.5.
    pub cpu_free: f64,
    /// Bytes it has left.
    pub memory_free: u64,
    /// Whether it takes new work at all.
    pub accepting: bool,
    /// How many tasks may be tagged for it; [`MAX_TASKS_PER_WORKER`] unless set.
    pub max_tagged: u32,
}

impl WorkerView {
    /// Makes the view of an idle, healthy worker of which nothing else is known.
    pub fn new(id: WorkerId) -> Self {
        Self {
            id,
            weight: 1.0,
            queued: 0,
            running: 0,
            tagged: 0,
            cpu: 0.0,
            mean_run_ns: 0.0,
            throughput: 0.0,
            error_rate: 0.0,
            health: 1.0,
            core: None,
            cpu_free: 1.0,
            memory_free: u64::MAX,
            accepting: true,
            max_tagged: MAX_TASKS_PER_WORKER,
        }
    }

    /// Returns the tasks queued and running.
    pub fn load(&self) -> u64 {
        u64::from(self.queued) + u64::from(self.running)
    }

    /// Says whether a task may be tagged for the worker.
    pub fn is_open(&self) -> bool {
        self.accepting && self.tagged < self.max_tagged
    }
}

/// What placement knows of a task.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TaskView {
    /// What the task works on; tasks with the same key profit from running in the same place.
    pub key: Option<u64>,
    /// CPUs it needs, such as 0.5.
    pub cpu: f64,
    /// Bytes it needs.
    pub memory: u64,
    /// The core that last ran the key.
    pub last_core: Option<u16>,
}

/// Chooses a worker for each task; remembers whose turn it is.
#[derive(Clone, Debug)]
pub struct Placer {
    strategy: Strategy,
    rng: Rng,
    /// The worker that had the last turn.
    last: Option<WorkerId>,
    /// The credit of each worker by id (`weighted_round_robin`).
    credits: Vec<f64>,
}

impl Placer {
    /// Makes a placer; `seed` decides the random choices.
    pub fn new(strategy: Strategy, seed: u64) -> Self {
        Self {
            strategy,
            rng: Rng::seeded(seed),
            last: None,
            credits: Vec::new(),
        }
    }

    /// Returns the strategy in use.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Changes the strategy; tags that exist stay.
    pub fn set_strategy(&mut self, strategy: Strategy) {
        self.strategy = strategy;
    }

    /// Returns the worker that the task is meant for; `None` leaves it to whoever is free.
    pub fn place(&mut self, task: &TaskView, workers: &[WorkerView]) -> Option<WorkerId> {
        let chosen = match self.strategy {
            Strategy::Pull => None,
            Strategy::RoundRobin => self.in_turn(workers),
            Strategy::WeightedRoundRobin => self.in_weighted_turn(workers),
            Strategy::Weighted => least(workers, load_by_weight),
            Strategy::LeastConnections => least(workers, connections),
            Strategy::LeastLoaded => least(workers, |w| w.cpu),
            Strategy::Health => least(workers, |w| -w.health),
            Strategy::Adaptive => least(workers, expected_ns),
            Strategy::Affinity => task
                .key
                .map_or_else(|| least(workers, connections), |key| owner(key, workers)),
            Strategy::Locality => local(task, workers).or_else(|| least(workers, connections)),
            Strategy::ResourceAware => most_left(task, workers),
            Strategy::PowerOfTwo => self.better_of_two(workers),
        };
        chosen.map(|worker| worker.id)
    }

    fn in_turn<'w>(&mut self, workers: &'w [WorkerView]) -> Option<&'w WorkerView> {
        let open = || workers.iter().filter(|w| w.is_open());
        let after = |w: &&WorkerView| self.last.is_none_or(|last| w.id > last);
        let next = open()
            .filter(after)
            .min_by_key(|w| w.id)
            .or_else(|| open().min_by_key(|w| w.id))?;
        self.last = Some(next.id);
        Some(next)
    }

    /// Smooth weighted turns: every open worker earns its weight, the richest goes and pays what all earned, so that a
    /// worker's turns are spread evenly.
    fn in_weighted_turn<'w>(&mut self, workers: &'w [WorkerView]) -> Option<&'w WorkerView> {
        let weighty = workers
            .iter()
            .any(|w| w.is_open() && positive(w.weight) > 0.0);
        if !weighty {
            return self.in_turn(workers);
        }
        let slots = workers.iter().map(|w| w.id.index() + 1).max()?;
        if self.credits.len() < slots {
            self.credits.resize(slots, 0.0);
        }
        let (mut earned, mut richest): (f64, Option<&WorkerView>) = (0.0, None);
        for worker in workers
            .iter()
            .filter(|w| w.is_open() && positive(w.weight) > 0.0)
        {
            let weight = positive(worker.weight);
            earned += weight;
            self.credits[worker.id.index()] += weight;
            let credit = self.credits[worker.id.index()];
            let richer =
                |other: &WorkerView| match credit.total_cmp(&self.credits[other.id.index()]) {
                    Ordering::Greater => true,
                    Ordering::Equal => worker.id < other.id,
                    Ordering::Less => false,
                };
            if richest.is_none_or(richer) {
                richest = Some(worker);
            }
        }
        let chosen = richest?;
        self.credits[chosen.id.index()] -= earned;
        Some(chosen)
    }

    fn better_of_two<'w>(&mut self, workers: &'w [WorkerView]) -> Option<&'w WorkerView> {
        let open = workers.iter().filter(|w| w.is_open()).count() as u64;
        if open == 0 {
            return None;
        }
        let nth = |n: u64| workers.iter().filter(|w| w.is_open()).nth(n as usize);
        let first = self.rng.below(open);
        if open == 1 {
            return nth(first);
        }
        // Another one than the first: the rest, closed up.
        let second = self.rng.below(open - 1);
        let second = second + u64::from(second >= first);
        let (first, second) = (nth(first)?, nth(second)?);
        let second_is_better = (second.load(), second.id) < (first.load(), first.id);
        Some(if second_is_better { second } else { first })
    }
}

/// Returns the open worker with the least cost, then the fewest tasks, then the lowest id.
fn least(workers: &[WorkerView], cost: impl Fn(&WorkerView) -> f64) -> Option<&WorkerView> {
    let worst_if_nan = |x: f64| if x.is_nan() { f64::INFINITY } else { x };
    workers.iter().filter(|w| w.is_open()).min_by(|a, b| {
        let by_cost = worst_if_nan(cost(a)).total_cmp(&worst_if_nan(cost(b)));
        by_cost
            .then_with(|| a.load().cmp(&b.load()))
            .then_with(|| a.id.cmp(&b.id))
    })
}

fn connections(worker: &WorkerView) -> f64 {
    worker.load() as f64
}

/// The load that the worker would have with the task, by weight.
fn load_by_weight(worker: &WorkerView) -> f64 {
    (connections(worker) + 1.0) / positive(worker.weight)
}

/// The expected time until the task would be done there: tasks ahead and the task itself, each taking the mean run time or the worker's pace,
/// whichever is longer, and what fails done again.
///
/// The pace is CPU time used over tasks finished. Throughput alone would say how much a worker was given, not what it can do: one that was
/// given little would look slow and be given less.
fn expected_ns(worker: &WorkerView) -> f64 {
    let pace = if positive(worker.throughput) > 0.0 {
        positive(worker.cpu).min(1.0) * 1e9 / worker.throughput
    } else {
        0.0
    };
    let each = positive(worker.mean_run_ns).max(pace);
    // Nothing is known: worth a try, as cheap as the load says.
    let each = if each > 0.0 { each } else { 1.0 };
    let success = 1.0 - worker.error_rate.clamp(0.0, 1.0);
    (connections(worker) + 1.0) * each / success
}

/// Rendezvous hashing: every worker draws a number from key and id, and the highest wins (Thaler and Ravishankar, 1998).
/// When workers come or go, only the keys of those move. Overloaded workers are passed over.
fn owner(key: u64, workers: &[WorkerView]) -> Option<&WorkerView> {
    let limit = overload_limit(workers);
    let draw = |worker: &&WorkerView| (mix(key ^ mix(u64::from(worker.id.get()) + 1)), worker.id);
    let fit = workers
        .iter()
        .filter(|w| w.is_open() && w.load() < limit)
        .max_by_key(draw);
    fit.or_else(|| workers.iter().filter(|w| w.is_open()).max_by_key(draw))
}

fn local<'w>(task: &TaskView, workers: &'w [WorkerView]) -> Option<&'w WorkerView> {
    let core = task.last_core?;
    let limit = overload_limit(workers);
    let there = workers
        .iter()
        .filter(|w| w.core == Some(core) && w.is_open() && w.load() < limit);
    there.min_by_key(|w| (w.load(), w.id))
}

/// The load at which a worker takes no more for the sake of a key: 125 % of the average with the new task, rounded up.
fn overload_limit(workers: &[WorkerView]) -> u64 {
    let accepting = || workers.iter().filter(|w| w.accepting);
    let count = accepting().count().max(1) as u64;
    let total: u64 = accepting().map(WorkerView::load).sum::<u64>() + 1;
    (total * OVERLOAD_PERCENT).div_ceil(count * 100)
}

/// Of the workers where the task fits, the one whose scarcer resource would be the most plentiful afterwards, each
/// measured against the most that any worker has left.
fn most_left<'w>(task: &TaskView, workers: &'w [WorkerView]) -> Option<&'w WorkerView> {
    let open = || workers.iter().filter(|w| w.is_open());
    let most_cpu = open().map(|w| positive(w.cpu_free)).fold(0.0, f64::max);
    let most_memory = open().map(|w| w.memory_free).max()?;
    let part = |left: f64, most: f64| if most > 0.0 { left / most } else { 0.0 };
    let needs_cpu = positive(task.cpu);
    let fits = |w: &&WorkerView| positive(w.cpu_free) >= needs_cpu && w.memory_free >= task.memory;
    let left = |w: &WorkerView| {
        let cpu = part(positive(w.cpu_free) - needs_cpu, most_cpu);
        let memory = part((w.memory_free - task.memory) as f64, most_memory as f64);
        cpu.min(memory)
    };
    open().filter(fits).min_by(|a, b| {
        left(b)
            .total_cmp(&left(a))
            .then_with(|| a.load().cmp(&b.load()))
            .then_with(|| a.id.cmp(&b.id))
    })
}

/// What is not above zero, or no number, counts as zero.
fn positive(x: f64) -> f64 {
    if x > 0.0 { x } else { 0.0 }
}

/// A bijection of 64 bits whose output bits all depend on all input bits (the finalizer of MurmurHash3).
fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests;
