//! How many calls may be in flight at once, found by measuring instead of by guessing.
//!
//! A server that takes on more than it can work at does not do more, only everything later, until nothing is in time. The right number
//! depends on cores, on how long calls wait for others, and on what else runs on the machine, and changes with them. [`AdaptiveLimit`]
//! measures windows of calls and lets one of five algorithms set the number:
//!
//! | algorithm | what it measures | for |
//! |---|---|---|
//! | [`RunDelay`](Algorithm::RunDelay) | the part of the time that calls were ready to run and had no CPU | work in this process |
//! | [`Vegas`](Algorithm::Vegas) | latency against the latency without a queue | dependencies of which nothing else is known |
//! | [`Gradient`](Algorithm::Gradient) | latency now against latency of long | dependencies whose latency hardly scatters |
//! | [`Aimd`](Algorithm::Aimd) | failures | dependencies that say when they have too much |
//! | [`Fixed`](Algorithm::Fixed) | nothing | those who know better |
//!
//! Run delay needs no latency without a queue to compare with, so there is nothing that drifts, that a change of the mix of calls spoils or
//! that must be probed for; that is why it is the default wherever it can be measured.
//!
//! Invariants: min ≤ limit ≤ max; the limit grows only when calls were [blocked](AdaptiveLimit::note_blocked) by it; memory is constant;
//! a clock that stands still or jumps ends or prolongs a window, no more.
//!
//! Leaves out who waits and who is refused when the limit is reached ([`admission`](super::admission)), and where CPU times come from.

mod aimd;
mod cohort;
mod config;
mod gradient;
mod limit;
mod run_delay;
#[cfg(test)]
mod tests;
mod vegas;
mod window;

pub use config::{AdaptiveConfig, Algorithm, Signal};
pub use limit::{AdaptiveLimit, AdaptiveStats, Change, Outcome, Reason, Started};
pub use window::{CpuTime, Window};
