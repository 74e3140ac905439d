//! Policies: plain data that is told the time and what happened, and answers with a decision.
//!
//! Nothing here has a thread, a clock, I/O or hidden randomness, and the crate is `no_std` so that the compiler keeps it
//! so. The same code therefore runs under real threads and inside the simulator.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod budget;
pub mod control;
mod error;
pub mod limit;
mod math;
pub mod queue;
pub mod sched;

pub use error::Error;
