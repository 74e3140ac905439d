//! Limits on calls: what keeps a caller from making the trouble of whom it calls worse, and its own bounded.
//!
//! | module | what it decides |
//! |---|---|
//! | [`adaptive`] | how many calls are out at once, found by measuring |
//! | [`admission`] | who of those for whom there is no room waits, and who is refused |
//! | `backlog` | how many wait in a queue that others empty |
//! | `backoff` | when a failed call is tried again, if at all |
//! | `breaker` | whether a dependency is spared, and how it is tried again |
//! | `bulkhead` | how many calls are out at once, and how many wait |
//! | `hedge` | when a slow call is made a second time |
//! | [`precedence`] | who comes in though no slot is free, as nobody waits for those who matter less |
//! | `retry_budget` | whether a failed call may be tried again at all, given how many others are |
//!
//! All are told the time, hold bounded memory, and know nothing of calls but that they began and how they ended.

pub mod adaptive;
pub mod admission;
mod backlog;
mod backoff;
mod breaker;
mod bulkhead;
mod hedge;
pub mod precedence;
mod retry_budget;

pub use backlog::{Backlog, BacklogLook};
pub use backoff::Backoff;
pub use breaker::{
    Breaker, BreakerConfig, BreakerState, BreakerStatus, Forced, Refusal, Ticket, Verdict,
};
pub use bulkhead::{Bulkhead, BulkheadConfig, BulkheadStats, Entry, WaiterId};
pub use hedge::{Hedge, HedgeConfig, HedgeDelay, HedgeStats};
pub use retry_budget::{RetryBudget, RetryBudgetConfig, RetryBudgetStats};
