//! Durable tasks: what becomes of them, decided without a clock, a disk or a thread.
//!
//! A backend keeps tasks on disk and asks this module what happens next; it writes what the module answers before anybody learns of
//! it. All of a task that decides about its life is its [`Head`]; payloads and commands are bytes that only the backend knows.
//!
//! Two times are told with every command ([`Now`]): leases and timeouts follow the clock that never jumps, and calendar entries
//! (not-before, deadline, cron) the wall clock.

mod task;

pub use task::{
    Attempts, Cron, Dependency, Head, InvalidTask, Missed, Needs, Now, OnParentFailure, Outcome,
    Overlap, Reason, RetryPolicy, State, TaskId, Token, Unique, UniqueConflict, Via, When,
};
