//! Durable tasks: a queue that loses nothing it accepted, and what runs them.
//!
//! | module | what it is |
//! |---|---|
//! | `calendar` | when entries of cron start their next task |
//! | `conformance` | the suite that every backend must pass (feature `conformance`) |
//! | [`embedded`] | the queue in a file of the machine it runs on |
//! | `queue` | [`TaskQueue`]: what every backend can do |
//! | `run` | what runs tasks in a program: handlers, commands, calls of URLs |
//! | `task` | what goes in and what comes out |

mod calendar;
mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
mod error;
mod queue;
pub mod run;
mod task;

pub use calendar::CronCalendar;
pub use clock::{Clocks, ManualClocks, SystemClocks, Waker};
pub use embedded::{Embedded, EmbeddedOptions};
pub use error::Error;
pub use flyball_policy::queue::{
    Attempts, ClassRule, Cron, Dependency, GroupEnd, Head, InvalidTask, Kinds, Missed, Needs, Now,
    OnParentFailure, Outcome, Overlap, Reason, RetryPolicy, Room, Scope, State, TaskId, Token,
    Unique, UniqueConflict, Via, Waiting, When,
};
pub use queue::{Answer, Changes, TaskQueue};
pub use task::{
    Accepted, Batch, Beat, Beaten, Brief, CommandSpec, Completion, Event, Filter, HttpSpec,
    Idempotency, IoPriority, Label, Lease, LeaseRequest, Limit, NewTask, Page, Parent, Pauses,
    Query, Run, Selection, Stats, Task, Usage,
};
