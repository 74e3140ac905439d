//! The error of the crate.

use flyball_policy::queue::{InvalidTask, State, TaskId};
use std::time::Duration;

/// Says why the queue did not do what it was asked. Nothing has changed then.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A task of a batch cannot be taken.
    #[error(transparent)]
    Invalid(#[from] InvalidTask),
    /// There is no such task, or it has been forgotten.
    #[error("there is no task {id}")]
    UnknownTask {
        /// The task.
        id: TaskId,
    },
    /// The token is not that of the task's lease: it ran out, was taken back, or the task has ended.
    #[error("the lease of task {id} is over: the task is {} now", state.name())]
    StaleToken {
        /// The task.
        id: TaskId,
        /// What it is now.
        state: State,
    },
    /// The task is in a state in which this cannot be done.
    #[error("task {id} is {}: {expected}", state.name())]
    WrongState {
        /// The task.
        id: TaskId,
        /// What it is.
        state: State,
        /// What it would have to be.
        expected: &'static str,
    },
    /// The idempotency key was used for another body.
    #[error("the idempotency key was used before, with another body")]
    KeyReused,
    /// The queue is full.
    #[error("the queue is full: {what}; try again in {retry_after:?}")]
    Full {
        /// Which bound, with its figure.
        what: String,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The disk is full. What is kept can be read.
    #[error("no space is left for the queue's store: {why}")]
    NoSpace {
        /// What the store said.
        why: String,
    },
    /// The store failed and takes and acknowledges nothing more until it is opened anew.
    #[error("the queue's store has stopped: {why}")]
    Stopped {
        /// What failed.
        why: String,
    },
    /// The queue is being closed.
    #[error("the queue is closing")]
    Closing,
    /// The store cannot be opened.
    #[error("cannot open the queue's store at {path}: {why}")]
    Open {
        /// Where it is.
        path: std::path::PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What was kept of a task is damaged; the rest can be read.
    #[error("what was kept of task {id} is damaged: {what}")]
    Damaged {
        /// The task.
        id: TaskId,
        /// What does not fit.
        what: String,
    },
    /// This backend cannot do that.
    #[error("this queue cannot {what}")]
    Unsupported {
        /// What.
        what: &'static str,
    },
}
