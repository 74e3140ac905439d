//! Budgets of work that comes in whole commands: how much memory and how much of the machine they may take together.
//!
//! A command says little about what it will need, and takes it only after it has started. So a start is decided by what was
//! *reserved* for it, which is known before, and what runs is judged by what was *measured*, which is known after. In between
//! lies the effect of the last start; the next one waits for it exactly where it is not covered by a reservation.
//!
//! - [`Admission`]: memory of all commands together. Reserve before the start; pause, then end the youngest when the measured sum
//!   nears the bound all the same.
//! - [`Peaks`]: what commands of one kind have needed so far, forgetting old ones; what a reservation is made of.
//! - [`LoadGate`]: starts while the machine's run queue is short, measured now and not over the last minute.
//! - [`divide`]: slots of one machine among several runs, by shares.
//!
//! Invariants: with nothing running, the next start is always allowed; the oldest command is never paused or ended for the others,
//! so that a run under its bound goes on; sums saturate and never wrap.
//!
//! Leaves out: measuring, signals, control groups, locks (`flyball_process::bounds`), and budgets inside a process.

mod admission;
mod division;
mod load;
mod peaks;

#[cfg(test)]
mod tests;

pub use admission::{Admission, Answer, Expected, Verdict, Why};
pub use division::{Wish, divide};
pub use load::LoadGate;
pub use peaks::{Peaks, SAMPLES_NEEDED};
