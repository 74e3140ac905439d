//! Limits on calls: what keeps a caller from making the trouble of whom it calls worse, and its own bounded.
//!
//! | module | what it decides |
//! |---|---|
//! | `retry_budget` | whether a failed call may be tried again at all, given how many others are |
//!
//! All are told the time, hold bounded memory, and know nothing of calls but that they began and how they ended.

mod retry_budget;

pub use retry_budget::{RetryBudget, RetryBudgetConfig, RetryBudgetStats};
