//! What the engine answers to API, command line and library, and what it does when they ask for a change: the same calls
//! behind every door.

mod control;
mod cpu;
mod limits;
mod sizing;
#[cfg(feature = "tasks")]
mod tasks;
mod throttles;
mod work;

pub use control::DecisionQuery;
pub use work::{ScaleRequest, WorkerChange};

pub(crate) use work::event;
