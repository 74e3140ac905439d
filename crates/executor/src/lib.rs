//! The worker pool of flyball: closures and futures under scheduling classes.
//!
//! A worker asks the scheduling policy for a *slice* ("run this class for about 100 µs"), drains the class's queue without
//! asking again, reads its thread's CPU clock once at the end and settles. Two groups of threads stand over one scheduler: *front*
//! threads, parked until needed, for the classes whose latency matters, and *back* threads, which the kernel is told to run
//! only when nobody else wants the CPU. tokio stays what it is: futures use its timers and sockets.
//!
//! | module | what it is |
//! |---|---|
//! | `executor`, `class`, `handle`, `scope`, `give_way` | what users hold |
//! | `task` | one allocation: header, body, result; the states of a task |
//! | `dispatch` | where a runnable task goes, and who is woken |
//! | `keyed` | tasks that name a key, keys in turn |
//! | `ring`, `stack`, `queue`, `signals` | the structures that threads meet in; model-checked in `tests/loom.rs` |
//! | `worker` | the loop of a worker thread; `worker::park`: when it has nothing to run |
//! | `io` | the thread that drives the executor's own tokio runtime |
//! | `ledger` | the scheduler behind its lock |
//! | `guests` | rayon pools of classes, with the feature `rayon` |
//! | `pool`, `spine` | what workers share; what outlives every task |
//! | `supervisor`, `threads` | starting, watching and ending threads |
//! | `stats`, `event` | what was counted, what happened |
//! | `os`, `topology` | system calls; the layout of the machine |
//! | `testing` | an executor on a manual clock without threads |
//!
//! Which work belongs here: CPU-bound closures of a microsecond or more, futures that compute, requests that must not wait for
//! them. Purely I/O-bound tasks (an echo server, a proxy) are best left on tokio's own workers: each of their wake-ups would
//! cross to another thread.
//!
//! What does not work: `tokio::task::spawn_local` outside a `LocalSet` panics and says so, as in any multi-thread runtime. A handle of a
//! current-thread runtime is refused at start. Under `panic = "abort"` a panicking task ends the process.

#![cfg_attr(
    feature = "loom",
    allow(
        dead_code,
        unused_imports,
        reason = "the model check runs the protocol modules only"
    )
)]

mod class;
mod clock;
mod config;
mod context;
mod dispatch;
mod error;
mod event;
mod executor;
mod give_way;
#[cfg(feature = "rayon")]
mod guests;
mod handle;
mod health;
mod io;
mod keyed;
mod ledger;
mod os;
mod pausing;
mod pool;
mod queue;
mod registry;
mod resting;
mod ring;
mod roster;
mod scope;
mod settings;
mod shedding;
mod signals;
mod spine;
mod stack;
mod stats;
mod status;
mod supervisor;
mod sync;
mod tags;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod threads;
mod throttling;
mod topology;
mod tuning;
mod waits;
mod worker;

#[cfg(feature = "loom")]
#[doc(hidden)]
pub mod model;

pub use class::{Class, TaskBuilder};
pub use config::Config;
pub use context::{Captured, Carrier, Entered};
pub use error::{Error, PanicPayload, Rejected, TaskError};
pub use event::{Event, MAX_EVENTS, What};
pub use executor::{Executor, ShutdownReport};
pub use give_way::{GIVE_WAY_MAX, Interrupted, blocking, checkpoint, yield_now};
pub use handle::{Handle, Status};
pub use keyed::{HeldBy, KeyStatus};
pub use os::{BackPriority, Unavailable, available_parallelism};
pub use scope::Scope;
pub use settings::{MAX_AFFINITY_KEYS, WorkerSettings};
pub use shedding::{Shedding, SheddingStatus};
pub use spine::MAX_WORKERS_PER_GROUP;
pub use stats::{ClassStats, Counts, GroupStats, Stats};
pub use status::{SHOWN_AFFINITY_KEYS, WorkerState, WorkerStatus};
pub use topology::Layout;
pub use tuning::Tuning;

pub use flyball_core::class::{ClassSpec, Group};
pub use flyball_core::outcome::Rejection;
pub use flyball_policy::sched::Algorithm;
pub use flyball_policy::sched::health::{HEALTHY, Health};
pub use flyball_policy::sched::keys::{Excess as KeyExcess, KeyLimits};
pub use flyball_policy::sched::place::Strategy;
