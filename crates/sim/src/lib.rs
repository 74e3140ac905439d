//! A seeded simulator over the scheduling policies.
//!
//! The same code that decides in the executor (classes, order inside a class, fairness among futures, placement) runs here on
//! simulated workers and a simulated clock: a thousand workers and ten million tasks take seconds, and a seed replays a
//! run byte for byte. It prints whether the promises hold: fairness against shares, starvation, balance and latencies.
//!
//! Invariants: no wall clock, no threads, no randomness but the seed's. [`run`] checks on the way that every accepted task
//! ends exactly once and that no worker idles beside work it may run.
//!
//! Left out: costs of the executor itself (wake-ups, locks, caches beyond [`config::Keys`]); those are measured, not
//! simulated.

#![forbid(unsafe_code)]

pub mod compare;
pub mod config;
mod cpu;
pub mod dispatch;
mod engine;
mod error;
mod estimate;
mod index_set;
mod metrics;
pub mod overload;
pub mod pairs;
mod placement;
mod queue;
pub mod report;
pub mod sizing;
mod timers;
mod workload;

pub use config::Config;
pub use engine::{Progress, run};
pub use error::Error;
pub use estimate::Estimate;
pub use report::Report;
