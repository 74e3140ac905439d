//! Bounds that several commands share: memory, and the machine itself.
//!
//! Bounds of one command (niceness, rlimits, timeout) are the keeper's and stand in its message. What is here looks at commands
//! together:
//!
//! - [`cgroup`]: a control group for each keeper below one for all, where the system lets us make them: the kernel keeps the bound.
//! - [`scope`]: a scope that the user's service manager makes, for users who may not make groups themselves.
//! - [`memory`]: what a tree of processes uses, for where there is neither, and for judging before the kernel has to.
//! - [`cpu`]: what all commands have used of the CPU.
//! - [`turns`]: commands that run for a part of the time.
//! - [`learned`]: the peaks of earlier runs of a command, kept in the user's cache.
//! - [`sharing`]: several programs of one user, on one machine, by a file whose locks end with their holders.
//!
//! The judgements are `flyball_policy::budget`.

pub mod cgroup;
pub mod cpu;
pub mod learned;
pub mod memory;
pub mod scope;
pub mod sharing;
mod sys;
pub mod turns;
