//! An executor without threads on a clock that is moved by hand: tests of code that uses classes neither sleep nor race.
//!
//! ```
//! use flyball_executor::testing::Testing;
//! use std::time::Duration;
//!
//! let mut engine = Testing::new();
//! let batch = engine.class("batch").unwrap();
//! let mut slow = batch.spawn(async {
//!     tokio::time::sleep(Duration::from_secs(3600)).await;
//!     42
//! });
//! engine.drain();
//! assert!(slow.try_result().is_none());
//! engine.advance(Duration::from_secs(3600));
//! assert_eq!(slow.try_result().unwrap().unwrap(), 42);
//! assert_eq!(engine.submitted("batch"), 1);
//! ```

use crate::class::Class;
use crate::config::Config;
use crate::error::Error;
use crate::pool::Pool;
use crate::spine::workers_of;
use crate::stats::Stats;
use crate::worker::{Mode, Worker};
use flyball_core::class::{ClassSpec, Group};
use flyball_core::time::{Clock, ManualClock, Source, Timestamp};
use flyball_policy::sched::Algorithm;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// Most steps that one [`Testing::advance`] takes; each lets tasks run that were woken by then.
const STEPS_MAX: u32 = 10_000;

/// An executor that runs tasks only when it is told to, on the calling thread, in the order that the scheduler decides.
pub struct Testing {
    worker: Worker,
    pool: Arc<Pool>,
    clock: ManualClock,
    runtime: tokio::runtime::Runtime,
}

impl Testing {
    /// An executor with the built-in classes.
    ///
    /// # Panics
    /// When the operating system gives no runtime.
    #[expect(
        clippy::expect_used,
        reason = "a test that cannot start should stop here"
    )]
    pub fn new() -> Self {
        Self::with_config(Config::default()).expect("the default configuration starts")
    }

    /// An executor with this configuration; what it says of threads is not used.
    ///
    /// # Errors
    /// As [`Executor::start`](crate::Executor::start).
    pub fn with_config(config: Config) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .map_err(|source| Error::Os {
                what: "start the tokio runtime",
                source,
            })?;
        // Not zero: a zero time means "not set" in some places.
        let clock = ManualClock::starting_at(Timestamp::from_nanos(1_000_000_000));
        let pool = Pool::new(
            config,
            Source::Manual(clock.clone()),
            runtime.handle().clone(),
        )?;
        pool.set_manual_now(clock.now());
        let shared = pool.worker(workers_of(Group::Back).start);
        Ok(Testing {
            worker: Worker::new(pool.clone(), shared, Mode::Manual),
            pool,
            clock,
            runtime,
        })
    }

    /// Looks a class up.
    ///
    /// # Errors
    /// [`Error::UnknownClass`].
    pub fn class(&self, name: &str) -> Result<Class, Error> {
        Ok(Class::new(self.pool.clone(), self.pool.find_class(name)?))
    }

    /// Adds a class.
    ///
    /// # Errors
    /// As [`Executor::add_class`](crate::Executor::add_class).
    pub fn add_class(&self, spec: ClassSpec) -> Result<Class, Error> {
        Ok(Class::new(self.pool.clone(), self.pool.add_class(spec)?))
    }

    /// Takes away a class that has no tasks.
    ///
    /// # Errors
    /// As [`Executor::remove_class`](crate::Executor::remove_class).
    pub fn remove_class(&self, name: &str) -> Result<(), Error> {
        self.pool.remove_class(name)
    }

    /// Stops running a class until it is resumed; true when it was not paused already.
    ///
    /// # Errors
    /// [`Error::UnknownClass`].
    pub fn pause_class(&self, name: &str) -> Result<bool, Error> {
        self.pool.pause_class(name)
    }

    /// Runs a paused class again; true when it was paused.
    ///
    /// # Errors
    /// [`Error::UnknownClass`].
    pub fn resume_class(&self, name: &str) -> Result<bool, Error> {
        self.pool.resume_class(name)
    }

    /// Switches the algorithm.
    pub fn set_algorithm(&self, algorithm: Algorithm) {
        self.pool.set_algorithm(algorithm);
    }

    /// The present, on the manual clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Runs everything that can run now; returns the number of closures called and futures polled.
    pub fn drain(&mut self) -> usize {
        let runtime = &self.runtime;
        let _tokio = runtime.enter();
        self.pool.spine.refill_keys(self.clock.now().as_nanos());
        self.pool.look_at_backlogs();
        self.worker
            .drain(&mut |step| runtime.block_on(async { step() }))
    }

    /// Moves the clock, in steps, and lets run at each step what was woken by then; returns the number of calls and polls.
    pub fn advance(&mut self, by: Duration) -> usize {
        let mut steps = self.drain();
        let step = (by / STEPS_MAX).max(Duration::from_millis(1));
        let mut left = by;
        while !left.is_zero() {
            let this = left.min(step);
            left -= this;
            self.stall(this);
            steps += self.drain();
        }
        steps
    }

    /// Moves the clock while nothing runs, as if every worker were busy: deadlines may pass, and timers, of which tasks learn
    /// when they run again.
    pub fn stall(&mut self, by: Duration) {
        self.clock.advance(by);
        self.pool.set_manual_now(self.clock.now());
        self.runtime.block_on(tokio::time::advance(by));
    }

    /// Tasks submitted to a class since the start; 0 for a class that there is not.
    pub fn submitted(&self, class: &str) -> u64 {
        self.pool.find_class(class).map_or(0, |info| {
            let now = self.pool.now().as_nanos();
            self.pool.class_stats(&info, &[], None, now).submitted
        })
    }

    /// Tasks of a class that are ready to run and have not.
    pub fn queued(&self, class: &str) -> usize {
        self.pool
            .find_class(class)
            .map_or(0, |info| info.slot.waiting())
    }

    /// Asserts how many tasks were submitted to a class.
    ///
    /// # Panics
    /// When it was another number.
    #[track_caller]
    pub fn assert_submitted(&self, class: &str, expected: u64) {
        let submitted = self.submitted(class);
        assert_eq!(submitted, expected, "tasks submitted to class {class}");
    }

    /// Asserts that nothing is ready to run and no future waits.
    ///
    /// # Panics
    /// When something is left.
    #[track_caller]
    pub fn assert_idle(&self) {
        let stats = self.stats();
        for class in &stats.classes {
            assert_eq!(
                class.queued, 0,
                "tasks of class {} are ready to run",
                class.name
            );
        }
        assert_eq!(stats.waiting_futures, 0, "futures wait to be woken");
    }

    /// What was done since the start.
    pub fn stats(&self) -> Stats {
        self.pool.stats()
    }
}

impl Default for Testing {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Testing {
    fn drop(&mut self) {
        self.pool.spine.closing.store(true, SeqCst);
        self.pool.spine.terminated.store(true, SeqCst);
        self.pool.spine.sweep();
    }
}
