//! Settings that may change while the executor runs. Everything is checked before anything changes.

use crate::config::Config;
use crate::error::Error;
use crate::event::What;
use crate::pool::Pool;
use crate::supervisor::TICK;
use flyball_core::time::nanos_of;
use flyball_policy::sched::place::MAX_TASKS_PER_WORKER;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use std::time::Duration;

/// How the executor is started and watched, as far as that may change while it runs; see
/// [`Executor::set_tuning`](crate::Executor::set_tuning).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// A task that runs longer is reported as stuck, and its worker replaced. Above 0; noticed within 20 ms. Default: 60 s.
    pub stuck_after: Duration,
    /// Threads of replaced workers that may be left in their tasks at once. Default: 16.
    pub max_stuck: usize,
    /// Tasks of a batch handed over with one wake-up, at least 1. Default: 10.
    pub batch_size: usize,
    /// Threads started at once, at least 1. Default: 4.
    pub start_batch: usize,
    /// Time between batches of threads. Default: 50 ms.
    pub start_delay: Duration,
    /// How long a shutdown waits for closures that still run. Default: 5 s.
    pub force_after: Duration,
    /// Tasks that a placement strategy tags for one worker, at least 1; more wait untagged. Default: 100.
    pub max_tasks_per_worker: u32,
    /// How often the workers' lists are evened out when they differ too much, at least 10 ms; None: on demand only. Default: 1 s.
    pub rebalance_interval: Option<Duration>,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning::from(&Config::default())
    }
}

impl From<&Config> for Tuning {
    fn from(config: &Config) -> Self {
        Tuning {
            stuck_after: config.stuck_after,
            max_stuck: config.max_stuck,
            batch_size: config.batch_size,
            start_batch: config.start_batch,
            start_delay: config.start_delay,
            force_after: config.force_after,
            max_tasks_per_worker: MAX_TASKS_PER_WORKER,
            rebalance_interval: Some(Duration::from_secs(1)),
        }
    }
}

impl Tuning {
    /// What is not as it was, in words.
    fn differences(&self, before: &Tuning) -> String {
        let texts = |tuning: &Tuning| {
            [
                ("stuck_after", format!("{:?}", tuning.stuck_after)),
                ("max_stuck", tuning.max_stuck.to_string()),
                ("batch_size", tuning.batch_size.to_string()),
                ("start_batch", tuning.start_batch.to_string()),
                ("start_delay", format!("{:?}", tuning.start_delay)),
                ("force_after", format!("{:?}", tuning.force_after)),
                (
                    "max_tasks_per_worker",
                    tuning.max_tasks_per_worker.to_string(),
                ),
                (
                    "rebalance_interval",
                    tuning
                        .rebalance_interval
                        .map_or("never".to_owned(), |every| format!("{every:?}")),
                ),
            ]
        };
        let changed = texts(before).into_iter().zip(texts(self));
        let lines = changed.filter(|(before, after)| before != after);
        let words = lines.map(|((name, before), (_, after))| format!("{name} {before} → {after}"));
        words.collect::<Vec<_>>().join(", ")
    }

    fn check(&self) -> Result<(), Error> {
        let require = |key, ok: bool, found: String, expected| {
            if ok {
                Ok(())
            } else {
                Err(Error::Config {
                    key,
                    found,
                    expected,
                })
            }
        };
        let count = |key, value: usize| require(key, value >= 1, value.to_string(), "at least 1");
        count("batch_size", self.batch_size)?;
        count("start_batch", self.start_batch)?;
        count("max_tasks_per_worker", self.max_tasks_per_worker as usize)?;
        require(
            "stuck_after",
            !self.stuck_after.is_zero(),
            format!("{:?}", self.stuck_after),
            "above 0",
        )?;
        require(
            "rebalance_interval",
            self.rebalance_interval.is_none_or(|every| every >= TICK),
            format!("{:?}", self.rebalance_interval.unwrap_or_default()),
            "at least 10 ms, or none",
        )
    }
}

/// The settings in force, each readable without a lock.
pub(crate) struct Tuned {
    stuck_after: AtomicU64,
    pub(crate) max_stuck: AtomicUsize,
    pub(crate) batch_size: AtomicUsize,
    pub(crate) start_batch: AtomicUsize,
    start_delay: AtomicU64,
    force_after: AtomicU64,
    pub(crate) max_tasks_per_worker: AtomicU32,
    /// ns; `u64::MAX` for never.
    rebalance_interval: AtomicU64,
}

impl Tuned {
    pub(crate) fn new(tuning: &Tuning) -> Self {
        Tuned {
            stuck_after: AtomicU64::new(nanos_of(tuning.stuck_after)),
            max_stuck: AtomicUsize::new(tuning.max_stuck),
            batch_size: AtomicUsize::new(tuning.batch_size),
            start_batch: AtomicUsize::new(tuning.start_batch),
            start_delay: AtomicU64::new(nanos_of(tuning.start_delay)),
            force_after: AtomicU64::new(nanos_of(tuning.force_after)),
            max_tasks_per_worker: AtomicU32::new(tuning.max_tasks_per_worker),
            rebalance_interval: AtomicU64::new(
                tuning.rebalance_interval.map_or(u64::MAX, nanos_of),
            ),
        }
    }

    fn set(&self, tuning: &Tuning) {
        let new = Tuned::new(tuning);
        self.stuck_after.store(new.stuck_after.into_inner(), SeqCst);
        self.max_stuck.store(tuning.max_stuck, SeqCst);
        self.batch_size.store(tuning.batch_size, SeqCst);
        self.start_batch.store(tuning.start_batch, SeqCst);
        self.start_delay.store(new.start_delay.into_inner(), SeqCst);
        self.force_after.store(new.force_after.into_inner(), SeqCst);
        self.max_tasks_per_worker
            .store(tuning.max_tasks_per_worker, SeqCst);
        self.rebalance_interval
            .store(new.rebalance_interval.into_inner(), SeqCst);
    }

    pub(crate) fn get(&self) -> Tuning {
        let every = self.rebalance_interval.load(Relaxed);
        Tuning {
            stuck_after: Duration::from_nanos(self.stuck_after_ns()),
            max_stuck: self.max_stuck.load(Relaxed),
            batch_size: self.batch_size.load(Relaxed),
            start_batch: self.start_batch.load(Relaxed),
            start_delay: self.start_delay(),
            force_after: self.force_after(),
            max_tasks_per_worker: self.max_tasks_per_worker.load(Relaxed),
            rebalance_interval: (every != u64::MAX).then(|| Duration::from_nanos(every)),
        }
    }

    pub(crate) fn stuck_after_ns(&self) -> u64 {
        self.stuck_after.load(Relaxed)
    }

    pub(crate) fn start_delay(&self) -> Duration {
        Duration::from_nanos(self.start_delay.load(Relaxed))
    }

    pub(crate) fn force_after(&self) -> Duration {
        Duration::from_nanos(self.force_after.load(Relaxed))
    }

    /// Time between two looks at the lists, ns; None for never.
    pub(crate) fn rebalance_interval_ns(&self) -> Option<u64> {
        Some(self.rebalance_interval.load(Relaxed)).filter(|&every| every != u64::MAX)
    }
}

impl Pool {
    pub(crate) fn set_tuning(&self, tuning: &Tuning) -> Result<(), Error> {
        tuning.check()?;
        let before = self.tuning.get();
        if before == *tuning {
            return Ok(());
        }
        self.tuning.set(tuning);
        self.events
            .push(self.now(), None, What::Changed, tuning.differences(&before));
        Ok(())
    }
}
