//! What an executor is started with.

use crate::error::Error;
use crate::os::{self, BackPriority};
use crate::spine::MAX_WORKERS_PER_GROUP;
use crate::topology::Layout;
use flyball_core::class::ClassSpec;
use flyball_policy::sched::Algorithm;
use flyball_policy::sched::place::Strategy;
use std::sync::Arc;
use std::time::Duration;

/// How an executor is started. `Config::default()` fits a service on a machine of its own.
#[derive(Clone)]
pub struct Config {
    /// How classes share the workers. Default: [`Algorithm::Cfs`]. Can be changed while it runs.
    pub algorithm: Algorithm,
    /// Which worker a task is meant for. Default: [`Strategy::Pull`]. Can be changed while it runs.
    pub strategy: Strategy,
    /// Workers that run at once, 1 to 128; 0 (default): the CPUs that affinity mask and quota allow.
    pub parallelism: usize,
    /// Threads of the front group, 1 to 127; 0 (default): as many as `parallelism`.
    pub front_workers: usize,
    /// Threads of the back group, 1 to 128; 0 (default): one more than `parallelism`, so that a closure that gives way at a
    /// checkpoint finds a thread to give way to.
    pub back_workers: usize,
    /// What the kernel is told of the back group's threads. Default: [`BackPriority::Idle`], under which they use only CPU
    /// time that nobody else wants, other programs included; choose `Nice` or `Normal` on a machine that is shared.
    pub back_priority: BackPriority,
    /// The kernel's time slice for front threads (EEVDF, Linux 6.12 and later), 0.1 to 100 ms. Short slices get the CPU sooner
    /// after waking when other programs are busy. Default: 0.1 ms.
    pub front_slice: Duration,
    /// Nice value of the front group's threads, -20 to 0. Below 0 they go before busy programs of normal priority, and need
    /// `CAP_SYS_NICE` or a fitting `RLIMIT_NICE`; without it they stay at 0 and an event says so. Default: 0.
    pub front_nice: i8,
    /// Classes beside the five built in; one of the same name replaces the built-in one.
    pub classes: Vec<ClassSpec>,
    /// Threads are named this, a letter for the group, and a number. Default: `flyball`.
    pub thread_name: String,
    /// Stack of each worker, bytes, at least 64 KiB; 0 (default): the standard library's choice.
    pub stack_size: usize,
    /// Pins workers to CPUs in this layout. Default: not pinned.
    pub pin: Option<Layout>,
    /// Threads started at once; the rest follow in batches of this size. Default: 4.
    pub start_batch: usize,
    /// Time between batches. Default: 50 ms.
    pub start_delay: Duration,
    /// Tasks of a batch handed over with one wake-up. Default: 10.
    pub batch_size: usize,
    /// A task that runs longer is reported as stuck, and its worker replaced. Default: 60 s.
    pub stuck_after: Duration,
    /// Threads of replaced workers that may be left in their tasks at once. Default: 16.
    pub max_stuck: usize,
    /// How long a shutdown waits, once it has cancelled what was left, for closures that still run. Those that do not end keep
    /// their threads and are reported. Default: 5 s.
    pub force_after: Duration,
    /// Kinds that are counted by themselves; later ones are counted as `other`. 1 to 256. Default: 32.
    pub max_kinds: usize,
    /// Keys that each class tells apart at once, 2 to 65,536; further ones share buckets. Default: 4,096. See
    /// [`TaskBuilder::key`](crate::TaskBuilder::key).
    pub max_keys: usize,
    /// The tokio runtime whose timers and sockets tasks use; it must be multi-threaded. Default: the one `start` is called
    /// in if it is multi-threaded, else a small one of the executor's own.
    pub tokio: Option<tokio::runtime::Handle>,
    /// Called on each worker thread as it starts.
    pub on_thread_start: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Called on each worker thread before it ends.
    pub on_thread_stop: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Captures values of the submitting thread and puts them in place around every closure and poll.
    pub context: Option<Arc<dyn crate::context::Carrier>>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            algorithm: Algorithm::Cfs,
            strategy: Strategy::Pull,
            parallelism: 0,
            front_workers: 0,
            back_workers: 0,
            back_priority: BackPriority::Idle,
            front_slice: Duration::from_micros(100),
            front_nice: 0,
            classes: Vec::new(),
            thread_name: "flyball".into(),
            stack_size: 0,
            pin: None,
            start_batch: 4,
            start_delay: Duration::from_millis(50),
            batch_size: 10,
            stuck_after: Duration::from_secs(60),
            max_stuck: 16,
            force_after: Duration::from_secs(5),
            max_kinds: 32,
            max_keys: flyball_policy::sched::keys::DEFAULT_CAPACITY,
            tokio: None,
            on_thread_start: None,
            on_thread_stop: None,
            context: None,
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("algorithm", &self.algorithm)
            .field("strategy", &self.strategy)
            .field("parallelism", &self.parallelism)
            .field("front_workers", &self.front_workers)
            .field("back_workers", &self.back_workers)
            .field("back_priority", &self.back_priority)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Checks every value and puts in what zero stands for.
    pub(crate) fn resolve(mut self) -> Result<Self, Error> {
        let count = |key, value: usize, default: usize| match value {
            0 => Ok(default.min(MAX_WORKERS_PER_GROUP - 1)),
            1..=MAX_WORKERS_PER_GROUP => Ok(value),
            _ => Err(Error::Config {
                key,
                found: value.to_string(),
                expected: "0 to 128",
            }),
        };
        self.parallelism = count("parallelism", self.parallelism, os::available_parallelism())?;
        self.front_workers = count("front_workers", self.front_workers, self.parallelism)?;
        if self.front_workers == MAX_WORKERS_PER_GROUP {
            return Err(Error::Config {
                key: "front_workers",
                found: self.front_workers.to_string(),
                expected: "0 to 127 (one place is the I/O thread's)",
            });
        }
        self.back_workers = count("back_workers", self.back_workers, self.parallelism + 1)?;
        let in_range = |key, ok: bool, found: String, expected| {
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
        in_range(
            "stack_size",
            self.stack_size == 0 || self.stack_size >= 64 * 1024,
            format!("{} bytes", self.stack_size),
            "0 or at least 65536 bytes",
        )?;
        in_range(
            "start_batch",
            self.start_batch >= 1,
            self.start_batch.to_string(),
            "at least 1",
        )?;
        in_range(
            "batch_size",
            self.batch_size >= 1,
            self.batch_size.to_string(),
            "at least 1",
        )?;
        in_range(
            "front_slice",
            (os::SLICE_MIN..=os::SLICE_MAX).contains(&self.front_slice),
            format!("{:?}", self.front_slice),
            "0.1 ms to 100 ms",
        )?;
        in_range(
            "max_kinds",
            (1..=256).contains(&self.max_kinds),
            self.max_kinds.to_string(),
            "1 to 256",
        )?;
        in_range(
            "max_keys",
            (2..=65_536).contains(&self.max_keys),
            self.max_keys.to_string(),
            "2 to 65536",
        )?;
        in_range(
            "front_nice",
            (-20..=0).contains(&self.front_nice),
            self.front_nice.to_string(),
            "-20 to 0",
        )?;
        if let BackPriority::Nice(nice) = self.back_priority {
            in_range(
                "back_priority",
                (0..=19).contains(&nice),
                format!("nice {nice}"),
                "nice 0 to 19",
            )?;
        }
        Ok(self)
    }

    /// Refuses a runtime whose timers nobody drives.
    pub(crate) fn check_tokio(&self) -> Result<(), Error> {
        match &self.tokio {
            Some(handle)
                if handle.runtime_flavor() != tokio::runtime::RuntimeFlavor::MultiThread =>
            {
                Err(Error::CurrentThreadRuntime)
            }
            _ => Ok(()),
        }
    }
}
