//! Dispatch to many workers: who gets the next task, and when that is decided.
//!
//! flyball binds late: a task stays in the queue of its class until a worker is free and asks ([`Strategy::Pull`](
//! flyball_policy::sched::place::Strategy::Pull)). Its strategies that place tasks at submission are for keys, caches and unequal workers; their
//! price is what this comparison shows. All of them run in the simulator's engine, with the scheduler and the placement of the executor. They
//! meet dispatchers of others, re-derived from what is published, on the same arrivals and the same work; and an ideal central queue, which knows
//! everything at no cost: first come first served, the fastest free worker first.
//!
//! Left out: what it costs to hand a task over. Where that takes as long as a task, a worker must have its next task before it asks.

mod peers;
mod queues;
mod report;

use serde::Serialize;

use crate::config::{Arrivals, Config, Sizes};
use crate::{Error, estimate::Estimate};
pub use peers::Peer;
pub use report::{Dispatch, Row, ScenarioReport, dispatch, to_text};

/// Machines and work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// 0.9 of the capacity, a fifth of the workers at half the speed, tasks in bursts of 64.
    Bursts,
    /// 0.7 of the capacity, the same workers; 5 % of the tasks take 21 times as long as the others.
    Bimodal,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Bursts, Self::Bimodal];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bursts => "bursts",
            Self::Bimodal => "bimodal",
        }
    }

    /// One line about it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Bursts => {
                "load 0.9, a fifth of the workers at half speed, bursts of 64, exponential work of 10 ms"
            }
            Self::Bimodal => {
                "load 0.7, a fifth of the workers at half speed, 5 % of the tasks 21 times as long as the others, 10 ms in the mean"
            }
        }
    }

    /// The run of this scenario.
    fn configure(self, size: &Size, seed: u64) -> Result<Config, Error> {
        let (load, arrivals, sizes) = match self {
            Self::Bursts => (0.9, Arrivals::Burst, Sizes::Exp),
            Self::Bimodal => (0.7, Arrivals::Poisson, Sizes::Bimodal),
        };
        let mut classes = Config::equal_classes(1)?;
        for class in &mut classes {
            // All are to be answered, however late.
            class.queue_limit = size.tasks as usize;
        }
        let config = Config {
            workers: size.workers,
            tasks: size.tasks,
            seed,
            classes,
            load,
            arrivals,
            sizes,
            mean_size_ns: 10_000_000,
            slow_workers: 0.2,
            stealing: false,
            ..Config::default()
        };
        config.validate()?;
        Ok(config)
    }
}

/// How much is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Workers.
    pub workers: u32,
    /// Tasks of each run.
    pub tasks: u64,
    /// Runs, each with a seed of its own.
    pub seeds: u64,
}
