//! How many workers: the rules that size a pool, on loads of all shapes.
//!
//! Two questions, two simulators, one code of the policies:
//!
//! - [`grid`]: does sizing by offered work leave less work unserved than the rule of the Kubernetes autoscaler, and for fewer worker-seconds? A
//!   [`fleet`] of workers that take time to start, loads of eight [`shape`]s, both rules looking at the same times.
//! - [`climb`]: does adaptive sizing find the size that does most, for work that computes, blocks, or does both? [`threads`] that share cores,
//!   each fixed size for comparison.
//!
//! Left out: the executor's own costs, and sizes of more than one pool at once.

pub mod climb;
pub mod fleet;
pub mod grid;
pub mod hpa;
pub mod shape;
pub mod threads;
