//! Overload: limits and admission on simulated services, against the best fixed limit and against limiters of others.
//!
//! A *cell* is a service under a course of load ([`Cell`]). Calls arrive whether or not those before were answered, wait in the queue of
//! [`admission`](flyball_policy::limit::admission), the same for all limiters, and share CPUs. An answer counts when it is there before its
//! deadline. The *oracle* is the fixed limit whose run had the most of these, found by trying; it knows the whole run beforehand, and no limit
//! that must be chosen beforehand does better.
//!
//! Beside the grid stand cells [with classes](Cell::with_classes): interactive calls and others under one limit.
//!
//! Left out: the network, memory, garbage, and neighbours whose share of the CPU depends on how many threads ask for it.

mod cells;
mod classes;
mod limiter;
mod peers;
mod report;
mod run;
pub(crate) mod service;
mod text;

pub use cells::Cell;
pub use classes::{ClassFigures, ClassReport, classes, classes_to_text};
pub use limiter::Kind;
pub use report::{CellReport, Extreme, Figures, Grid, Progress, Summary, grid};
pub use text::to_text;
