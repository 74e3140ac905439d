//! What is simulated: the machine, the classes, the arrivals and the work, checked before anything runs.

use std::fmt;
use std::str::FromStr;

use flyball_core::class::{ClassSpec, MAX_CLASSES};
use flyball_policy::sched::Algorithm;
use flyball_policy::sched::place::Strategy;

use crate::Error;

/// The most workers that are simulated.
pub const WORKERS_MAX: u32 = 10_000;
/// The most tasks of one run: task numbers are 32 bits.
pub const TASKS_MAX: u64 = 1 << 32;
/// Speed of a slow worker against the others: half.
pub const SLOW_SPEED: f64 = 0.5;

/// When tasks arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrivals {
    /// At random, independently of each other.
    #[default]
    Poisson,
    /// At equal distances, the classes in turn.
    Uniform,
    /// In bursts of 64 tasks of one class; the bursts at random.
    Burst,
    /// As soon as a task of the class ends: each class keeps four tasks a worker queued or running. The load is ignored.
    Backlog,
}

/// How the work of tasks is distributed around its mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sizes {
    /// Always the mean.
    Fixed,
    /// Exponentially.
    #[default]
    Exp,
    /// 95 % of the tasks half the mean, 5 % of them 10.5 times the mean.
    Bimodal,
    /// Pareto with exponent 2 (its variance has no bound), cut at 1,000 means.
    Pareto,
}

/// Reads and prints names of a closed list.
macro_rules! names {
    ($type:ident, $what:literal, $($name:literal => $variant:ident),+) => {
        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(Error::UnknownName {
                        what: $what,
                        given: text.to_owned(),
                        known: [$($name),+].join(", "),
                    }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$variant => $name,)+
                })
            }
        }
    };
}

names!(Arrivals, "arrival process", "poisson" => Poisson, "uniform" => Uniform, "burst" => Burst, "backlog" => Backlog);
names!(Sizes, "size distribution", "fixed" => Fixed, "exp" => Exp, "bimodal" => Bimodal, "pareto" => Pareto);

/// A change of policy in the middle of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// How many tasks have arrived when it happens.
    pub after_tasks: u64,
    /// The algorithm or strategy that follows.
    pub to: SwitchTo,
}

/// What a [`Switch`] changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SwitchTo {
    /// The algorithm that picks classes.
    Algorithm(Algorithm),
    /// The strategy that places tasks.
    Strategy(Strategy),
}

/// Keys of tasks and what it costs to run a key on a worker that has not run it lately.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keys {
    /// How many keys there are, 1 to 1,000,000. Key k is drawn with a probability proportional to 1/(k+1).
    pub count: u32,
    /// Extra work of a task whose key is not among the last 16 of its worker, in nanoseconds.
    pub cold_ns: u64,
}

/// Memory that tasks hold from the moment they are handed to a worker until they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What a worker has, bytes. A worker beyond it runs at a quarter of its speed.
    pub per_worker: u64,
    /// What most tasks need, bytes.
    pub small_task: u64,
    /// What each tenth task needs, bytes.
    pub large_task: u64,
}

/// A run of the simulator.
///
/// A simulated worker is a CPU with two threads, one of the front and one of the back group. The kernel's preference is that
/// of `SCHED_IDLE`: a front thread that wakes takes the CPU from the back thread at once, which goes on where it was as soon
/// as the front thread parks.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Simulated CPUs, 1 to [`WORKERS_MAX`].
    pub workers: u32,
    /// Tasks that arrive, 1 to [`TASKS_MAX`].
    pub tasks: u64,
    /// All randomness of the run follows from it.
    pub seed: u64,
    /// Picks classes.
    pub algorithm: Algorithm,
    /// Places tasks.
    pub strategy: Strategy,
    /// 1 to 64 classes; arrivals are distributed evenly over them.
    pub classes: Vec<ClassSpec>,
    /// Work that arrives against work that all workers can do, above 0, at most 100.
    pub load: f64,
    /// When tasks arrive.
    pub arrivals: Arrivals,
    /// How the work of tasks is distributed.
    pub sizes: Sizes,
    /// Mean work of a task on a worker of full speed, 1 ns to 1,000 s.
    pub mean_size_ns: u64,
    /// Part of the workers (the last ones) that run at [`SLOW_SPEED`], 0 to 1.
    pub slow_workers: f64,
    /// Part of the workers (the first ones, at most half) on which nine of ten tasks fail in a tenth of their time, 0 to
    /// 0.5. A failed task is submitted again.
    pub faulty_workers: f64,
    /// Part of the tasks that are futures, polled four times with a pause as long as their mean work in between, 0 to 1.
    pub futures: f64,
    /// Part of the tasks with a priority of their own from -2 to 2, 0 to 1.
    pub prioritised: f64,
    /// Whether workers without work take tasks that were placed on others.
    pub stealing: bool,
    /// Variance over squared mean of the numbers of tasks placed on the workers, beyond which they are moved; looked at every
    /// 10 ms.
    pub rebalance_above: Option<f64>,
    /// Keys of the tasks.
    pub keys: Option<Keys>,
    /// Memory of workers and tasks.
    pub memory: Option<Memory>,
    /// Changes in the middle, in ascending order of `after_tasks`.
    pub switches: Vec<Switch>,
    /// Length of the windows over which shares are compared with promises, at least 1 ms.
    pub window_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 1_000,
            tasks: 10_000_000,
            seed: 1,
            algorithm: Algorithm::default(),
            strategy: Strategy::Pull,
            classes: ClassSpec::built_in().into(),
            load: 1.1,
            arrivals: Arrivals::default(),
            sizes: Sizes::default(),
            mean_size_ns: 1_000_000,
            slow_workers: 0.0,
            faulty_workers: 0.0,
            futures: 0.0,
            prioritised: 0.0,
            stealing: true,
            rebalance_above: None,
            keys: None,
            memory: None,
            switches: Vec::new(),
            window_ns: 1_000_000_000,
        }
    }
}

impl Config {
    /// `count` equal classes of the back group, named `c0`, `c1`, ….
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `count` is 1 to 64.
    pub fn equal_classes(count: usize) -> Result<Vec<ClassSpec>, Error> {
        range("classes", count, 1..=MAX_CLASSES)?;
        Ok((0..count)
            .map(|index| ClassSpec::new(format!("c{index}")))
            .collect())
    }

    /// Checks every field against the range that it states.
    ///
    /// # Errors
    /// The first field outside its range, or the first class that its own check refuses.
    pub fn validate(&self) -> Result<(), Error> {
        range("workers", self.workers, 1..=WORKERS_MAX)?;
        range("tasks", self.tasks, 1..=TASKS_MAX)?;
        range("classes", self.classes.len(), 1..=MAX_CLASSES)?;
        for class in &self.classes {
            class.validate().map_err(Error::Class)?;
        }
        range("load", self.load, f64::MIN_POSITIVE..=100.0)?;
        range("mean size (ns)", self.mean_size_ns, 1..=1_000_000_000_000)?;
        for (name, part) in [
            ("slow workers", self.slow_workers),
            ("futures", self.futures),
            ("prioritised", self.prioritised),
        ] {
            range(name, part, 0.0..=1.0)?;
        }
        range("faulty workers", self.faulty_workers, 0.0..=0.5)?;
        if let Some(variance) = self.rebalance_above {
            range("rebalance variance", variance, 0.0..=f64::MAX)?;
        }
        if let Some(keys) = self.keys {
            range("keys", keys.count, 1..=1_000_000)?;
            range("cold work (ns)", keys.cold_ns, 0..=1_000_000_000_000)?;
        }
        range("window (ns)", self.window_ns, 1_000_000..=u64::MAX)?;
        if !self.switches.is_sorted_by_key(|switch| switch.after_tasks) {
            return Err(Error::OutOfRange {
                what: "switches",
                given: "a later one before an earlier one".into(),
                expected: "ascending order".into(),
            });
        }
        Ok(())
    }

    /// Speed of a worker, 1 for full.
    pub(crate) fn speed(&self, worker: usize) -> f64 {
        let slow = (f64::from(self.workers) * self.slow_workers).round() as usize;
        if worker + slow >= self.workers as usize {
            SLOW_SPEED
        } else {
            1.0
        }
    }

    /// Memory of a worker, bytes.
    pub(crate) fn memory_per_worker(&self) -> u64 {
        self.memory.map_or(u64::MAX, |memory| memory.per_worker)
    }

    /// Whether a worker fails most of what it runs.
    pub(crate) fn is_faulty(&self, worker: usize) -> bool {
        worker < (f64::from(self.workers) * self.faulty_workers).round() as usize
    }
}

fn range<N: PartialOrd + fmt::Display>(
    what: &'static str,
    given: N,
    expected: std::ops::RangeInclusive<N>,
) -> Result<(), Error> {
    if expected.contains(&given) {
        return Ok(());
    }
    Err(Error::OutOfRange {
        what,
        given: given.to_string(),
        expected: format!("{} to {}", expected.start(), expected.end()),
    })
}
