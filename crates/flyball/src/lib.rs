//! A self-regulating runtime for Rust services: say which work matters, and CPU-heavy work no longer holds up the rest.
//!
//! ```
//! use flyball::{Config, Flyball};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let rt = tokio::runtime::Runtime::new()?;
//! # rt.block_on(async {
//! let fly = Flyball::start(Config::default())?;         // owns the threads
//! let batch = fly.class("batch")?;                      // looked up once, cheap to clone
//! let sum = batch.run(|| (1..=1000u64).sum::<u64>()).await?; // a closure
//! let page = fly.class("interactive")?.spawn(async { "rendered" }).await?; // a future, tokio inside
//! assert_eq!((sum, page), (500_500, "rendered"));
//! let report = fly.shutdown(Duration::from_secs(30)).await;
//! assert!(report.left_running.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })
//! # }
//! ```
//!
//! Five classes are built in: `critical` and `interactive` in the front group, `normal`, `batch` and `idle` in the back group, whose
//! threads run only on CPU time that nobody else wants. [`Config`] adds more, and says how many threads there are.
//!
//! Put CPU-bound closures here, and futures that compute or must not wait for such work. Leave purely I/O-bound tasks on
//! tokio: each of their wake-ups would cross to another thread.

pub use flyball_executor::{
    Algorithm, BackPriority, Captured, Carrier, Class, ClassSpec, ClassStats, Config, Counts,
    Entered, Error, Event, GIVE_WAY_MAX, Group, GroupStats, Handle, Health, HeldBy, Interrupted,
    KeyExcess, KeyLimits, KeyStatus, Layout, PanicPayload, Rejected, Rejection, Scope, Shedding,
    SheddingStatus, ShutdownReport, Stats, Status, Strategy, TaskBuilder, TaskError, Tuning, What,
    WorkerSettings, WorkerState, WorkerStatus, blocking, checkpoint, yield_now,
};

#[cfg(feature = "engine")]
pub use flyball_engine as engine;
#[cfg(feature = "testing")]
pub use flyball_executor::testing;
#[cfg(feature = "limit")]
pub use flyball_limit as limit;
#[cfg(feature = "process")]
pub use flyball_process as process;
#[cfg(all(
    feature = "watch",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub use flyball_profile::watch;
#[cfg(feature = "tasks")]
pub use flyball_tasks as tasks;
#[cfg(feature = "tower")]
pub use flyball_tower as tower;

/// Instants and the clocks that tell them: what figures are dated with, and what is tested on a clock that is moved by hand.
///
/// ```
/// # #[cfg(feature = "limit")]
/// # fn main() -> Result<(), flyball::limit::Error> {
/// use flyball::limit::{Ask, Breaker, BreakerConfig, Gate, GateConfig};
/// use flyball::time::{ManualClock, Source};
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let gate = Gate::with_clock(GateConfig::default(), Source::Manual(clock.clone()))?;
/// let breaker = Breaker::with_clock(BreakerConfig::default(), Source::Manual(clock.clone()), 1)?;
/// let ask = Ask::within(&gate, Duration::from_secs(60));
/// clock.advance(Duration::from_secs(61));
/// assert!(gate.try_enter(&ask).is_err() && breaker.enter().is_ok());
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "limit"))]
/// # fn main() {}
/// ```
pub mod time {
    pub use flyball_core::time::{Clock, ManualClock, Source, Timestamp};
}

// The guide's code is compiled and run with the tests.
#[cfg(all(
    doctest,
    feature = "limit",
    feature = "rayon",
    feature = "tasks",
    feature = "testing",
    feature = "tower",
    feature = "watch"
))]
#[doc = include_str!("../../../docs/guide.md")]
mod guide {}

use flyball_executor::Executor;
use std::time::Duration;

/// The runtime: one a program. It owns its threads; dropping it cancels what is queued and ends them.
#[derive(Debug)]
pub struct Flyball {
    executor: Executor,
}

impl Flyball {
    /// Starts the threads.
    ///
    /// # Errors
    /// A setting out of range, classes that do not fit together, a thread that cannot be started. Nothing runs then.
    pub fn start(config: Config) -> Result<Self, Error> {
        Ok(Flyball {
            executor: Executor::start(config)?,
        })
    }

    /// Looks a class up; the handle is cheap to clone.
    ///
    /// # Errors
    /// [`Error::UnknownClass`], which lists those there are.
    pub fn class(&self, name: &str) -> Result<Class, Error> {
        self.executor.class(name)
    }

    /// The worker pool: its settings, figures, workers and events.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Takes nothing new, runs what was accepted for at most `timeout`, then cancels the rest, and says what was not done.
    pub async fn shutdown(self, timeout: Duration) -> ShutdownReport {
        self.executor.shutdown_async(timeout).await
    }

    /// As [`Flyball::shutdown`], for programs without an async main. Blocks.
    ///
    /// # Errors
    /// The runtime back when called on one of its own workers, which would wait for itself.
    pub fn shutdown_blocking(
        self,
        timeout: Duration,
    ) -> Result<ShutdownReport, Box<(Self, Error)>> {
        self.executor.shutdown(timeout).map_err(|refused| {
            let (executor, error) = *refused;
            Box::new((Flyball { executor }, error))
        })
    }
}
