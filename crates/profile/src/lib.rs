//! Stacks of running threads, and reports of blocked tokio workers.
//!
//! [`stack`] copies another thread's registers and the top of its stack, unwinds the copy, and names its functions; [`watch`](mod@watch) uses
//! it to say which function holds up a tokio worker, without `tokio_unstable` and without a change to the program that is watched.
//!
//! Invariants: nothing is unwound, named or allocated in a signal handler; no other thread's memory is read except through the
//! kernel, which refuses where there is none; the threads started here belong to a guard that ends them.
//!
//! Linux only, on x86-64 and AArch64: elsewhere the crate is empty.

#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

mod error;
pub mod stack;
mod sys;
pub mod watch;

pub use error::Error;
pub use watch::{Watch, watch};
