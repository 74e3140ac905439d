//! Gates with adaptive limits, breakers, retries with a budget, bulkheads and hedged calls for programs: the policies of `flyball_policy::limit`
//! behind a lock and a clock.
//!
//! ```
//! use flyball_limit::{Again, Backoff, Breaker, BreakerConfig, Bulkhead, BulkheadConfig, Retry, RetryBudget};
//! use std::time::Duration;
//!
//! # async fn fetch() -> Result<String, std::io::Error> { Ok("page".to_owned()) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let breaker = Breaker::new(BreakerConfig::default())?;            // one a dependency
//! let bulkhead = Bulkhead::new(BulkheadConfig::new(16).with_queue(32, Duration::from_millis(200)))?;
//! let retry = Retry::new(Backoff::default())?.with_budget(RetryBudget::default());
//!
//! let page = retry
//!     .call(
//!         |_attempt| async {
//!             let _place = bulkhead.enter().await?;                 // left when it is dropped
//!             let page = breaker.call_within(Duration::from_secs(2), fetch).await?;
//!             Ok::<_, Box<dyn std::error::Error>>(page)
//!         },
//!         |error| Again::if_so(error.is::<std::io::Error>()),
//!     )
//!     .await?;
//! # assert_eq!(page, "page");
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `breaker` | spares a dependency that fails: [`Breaker`] |
//! | `breakers` | one for each of many dependencies, by name: [`Breakers`] |
//! | `bulkhead` | so many calls at once: [`Bulkhead`] |
//! | `gate` | as many calls at once as are good, found by measuring; who waits and who is shed: [`Gate`] |
//! | `hedge` | a second call where the first is slow: [`Hedge`] |
//! | `retry` | tries again, within a budget: [`Retry`], [`RetryBudget`] |
//!
//! # Promises
//! - **Dropping a future is safe at every await**: a place in a bulkhead, a probe of a breaker and a retry that was paid for and not made come back.
//! - Nothing here starts a thread or a task. What waits uses tokio's timer, so it must be awaited in a runtime that has one; the variants that end
//!   in `_blocking` need none.
//! - All handles are cheap to clone and share one state. The lock is held for a decision (well below a microsecond), never over a call.
//! - A panic of a call counts as its failure.

mod breaker;
mod breakers;
mod bulkhead;
mod error;
mod gate;
mod hedge;
#[cfg(feature = "loom")]
#[doc(hidden)]
pub mod model;
mod retry;
mod shell;

pub use breaker::{Breaker, Pass};
pub use breakers::Breakers;
pub use bulkhead::{Bulkhead, Place};
pub use error::{CallError, Crowded, Error, Refused};
pub use gate::{
    Ask, CallClass, ClassStatus, Enter, Gate, GateClass, GateConfig, GateStatus, LimitChange,
    MAX_CLASSES, Mode, Offload, Permit,
};
pub use hedge::Hedge;
pub use retry::{Again, Retry, RetryBudget};

pub use flyball_policy::limit::adaptive::{
    AdaptiveConfig, AdaptiveStats, Algorithm, Change, Outcome, Reason, Signal, Window,
};
pub use flyball_policy::limit::admission::{
    AdmissionConfig, AdmissionStats, Degradation, Shed, ShedReason,
};
pub use flyball_policy::limit::{
    Backoff, BreakerConfig, BreakerState, BreakerStatus, BulkheadConfig, BulkheadStats, Forced,
    HedgeConfig, HedgeDelay, HedgeStats, Refusal, RetryBudgetConfig, RetryBudgetStats, Verdict,
};
