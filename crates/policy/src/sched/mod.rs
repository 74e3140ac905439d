//! Which class runs next, and for how long; which worker a task is meant for; in which order tasks of a class go.
//!
//! One [`Scheduler`] stands over the front and the back group of workers. A worker asks it for a *slice*
//! ([`Scheduler::pick`]), drains the queue of the class it was granted, and settles the CPU time that this took
//! ([`Scheduler::settle`]). Everything here is integer arithmetic over arrays of 64 classes; `pick` and `settle` neither
//! allocate nor read a clock.
//!
//! | module | subject |
//! |---|---|
//! | `scheduler` | grants, accounting, who is awake |
//! | `registry` | adding, changing and removing classes |
//! | `cfs` | weighted virtual time with eligibility and virtual deadlines |
//! | `proportional_share` | the earliest deadline first among the eligible |
//! | `priority` | strict levels with ageing |
//! | `round_robin` | classes in turn, equal slices |
//! | `weights` | shares, guarantees, ceilings → weights |
//! | `bucket`, `front` | ceilings; when the front group waits for the back group |
//! | `joint` | ceilings that several classes have together: throttles |
//! | [`order`] | tasks inside a class |
//! | [`tasks`] | futures of a class that are polled again and again |
//! | [`keys`] | tasks of a class that name a key, keys in turn |
//! | [`place`] | tasks over workers, rebalancing |
//! | [`heat`] | hot and slowed cores get less work |
//! | [`health`] | how healthy a worker is |
//! | [`pool`] | how many workers there should be |
//!
//! Absent on purpose: queues (but those of keys), threads.

mod algorithm;
mod bucket;
mod cfs;
mod class;
mod front;
pub mod health;
pub mod heat;
mod joint;
pub mod keys;
pub mod order;
mod params;
pub mod place;
pub mod pool;
mod priority;
mod proportional_share;
mod registry;
mod round_robin;
mod scheduler;
pub mod tasks;
mod weights;

#[cfg(test)]
mod tests;

pub use algorithm::Algorithm;
pub use joint::MAX_JOINT;
pub use params::ClassParams;
pub use priority::{AGEING_LEVEL_NS, waiting_bound_ns};
pub use scheduler::{ClassService, Grant, Pick, Scheduler};
