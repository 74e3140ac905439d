//! What can go wrong, and what a task's handle answers instead of a value.

use flyball_core::outcome::Rejection;
use std::any::Any;
use std::fmt;
use std::sync::Mutex;

/// What the executor refuses. Nothing has changed when one of these is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No class has this name.
    #[error("no class is named {name:?}; known are {}", known.join(", "))]
    UnknownClass {
        /// The name asked for.
        name: String,
        /// The classes there are.
        known: Vec<String>,
    },
    /// A class of this name exists.
    #[error("a class named {name:?} exists already; change it with set_class")]
    DuplicateClass {
        /// The name.
        name: String,
    },
    /// The class is one of those that every executor has.
    #[error("class {name:?} is built in and stays; it can be paused or changed")]
    BuiltInClass {
        /// The class.
        name: String,
    },
    /// The class has tasks, which removing it would strand.
    #[error(
        "class {name:?} has tasks: {queued} queued, {running} running, {waiting} waiting to be woken; pause it and try again when \
         they have ended"
    )]
    ClassInUse {
        /// The class.
        name: String,
        /// Tasks that wait to run.
        queued: usize,
        /// Tasks that run.
        running: usize,
        /// Futures that have been polled and have not ended.
        waiting: usize,
    },
    /// All 64 classes are in use, or handles of removed ones are still held.
    #[error(
        "there are {} classes already, the most there can be",
        flyball_core::class::MAX_CLASSES
    )]
    TooManyClasses,
    /// A class was described with values out of range.
    #[error("class {name:?}")]
    Class {
        /// The class.
        name: String,
        /// What is wrong with it.
        #[source]
        source: flyball_core::class::SpecError,
    },
    /// The scheduler refuses the class, for example because the guarantees would pass 100%.
    #[error("class {name:?}: {reason}")]
    Schedule {
        /// The class.
        name: String,
        /// What the scheduler says.
        reason: String,
    },
    /// Limits of keys are out of range, or no further key can have its own.
    #[error("keys of class {class:?}: {source}")]
    Keys {
        /// The class.
        class: String,
        /// What is wrong.
        source: flyball_policy::Error,
    },
    /// A setting of the configuration is out of range.
    #[error("{key} is {found}, expected {expected}")]
    Config {
        /// The setting.
        key: &'static str,
        /// What was given.
        found: String,
        /// What may be given.
        expected: &'static str,
    },
    /// No worker has this number.
    #[error("no worker has number {0}")]
    UnknownWorker(u16),
    /// The worker is the thread that drives tokio, which nobody stops.
    #[error("worker {0} drives tokio's I/O: it cannot be restarted or drained")]
    IoWorker(u16),
    /// The worker was stuck and another has taken its place; it ends when its task does.
    #[error("worker {id} was replaced by worker {by}, and ends when its task does")]
    WorkerReplaced {
        /// The worker.
        id: u16,
        /// The one in its place.
        by: u16,
    },
    /// The worker has been taken out of service already, and ends when its task does.
    #[error("worker {0} has been told to end already, and does so when its task has ended")]
    WorkerLeaving(u16),
    /// The call would block a worker thread until work that may need that very thread is done.
    #[error("{call} would block a worker thread; await the handle, or use a scope")]
    BlocksWorker {
        /// What was called.
        call: &'static str,
    },
    /// The call would block a thread that belongs to a foreign tokio runtime.
    #[error(
        "it would block this thread, which belongs to a tokio runtime; call it inside `class.run(move || …)` and await that"
    )]
    ForeignRuntime,
    /// A tokio runtime of one thread drives its timers and sockets only while it is inside `block_on`.
    #[error(
        "the given tokio handle is of a current-thread runtime, whose timers and sockets stand still while nobody drives it; \
         give a multi-thread handle or none"
    )]
    CurrentThreadRuntime,
    /// A closure of a scope panicked; the panic was not of the thread that waited for it.
    #[error("{count} task(s) of the scope panicked, the first with: {first}")]
    ScopePanicked {
        /// How many did.
        count: usize,
        /// The first one's message.
        first: String,
    },
    /// The executor is shutting down or gone.
    #[error("the executor is shutting down")]
    ShuttingDown,
    /// The operating system did not give what was needed.
    #[error("cannot {what}")]
    Os {
        /// What was attempted.
        what: &'static str,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// Why a task has no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The closure or future panicked.
    #[error("the task panicked: {0}")]
    Panicked(PanicPayload),
    /// It was cancelled by its handle or by shutdown. What was queued has not run at all.
    #[error("the task was cancelled")]
    Cancelled,
    /// It ran longer than its timeout.
    #[error("the task ran past its timeout")]
    TimedOut,
    /// Its deadline had passed before it could start; it has not run.
    #[error("the task's deadline passed before it could start")]
    DeadlineMissed,
    /// It was refused at submission, or, in a class that sheds, while it was queued; it has not run.
    #[error("the task was refused: {0}")]
    Rejected(#[from] Rejection),
    /// The handle was asked for the result a second time.
    #[error("the task's result was taken already")]
    Taken,
    /// `join` was called on a worker thread. The handle still works.
    #[error("join would block a worker thread; await the handle instead")]
    JoinOnWorker,
}

/// What a panic carried, kept so that it can be raised again with [`std::panic::resume_unwind`].
pub struct PanicPayload(Mutex<Box<dyn Any + Send + 'static>>);

impl PanicPayload {
    pub(crate) fn new(payload: Box<dyn Any + Send + 'static>) -> Self {
        PanicPayload(Mutex::new(payload))
    }

    /// The panic's message, if it was a string.
    pub fn message(&self) -> Option<String> {
        let payload = self.0.lock().unwrap_or_else(|e| e.into_inner());
        message_of(&**payload)
    }

    /// The payload itself.
    pub fn into_inner(self) -> Box<dyn Any + Send + 'static> {
        self.0.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}

pub(crate) fn message_of(payload: &(dyn Any + Send)) -> Option<String> {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
}

impl fmt::Display for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            &self
                .message()
                .unwrap_or_else(|| "a value that is no text".into()),
        )
    }
}

impl fmt::Debug for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PanicPayload({self})")
    }
}

/// A task that was refused, with what would have run.
#[derive(thiserror::Error)]
#[error("{reason}")]
pub struct Rejected<F> {
    /// Why, and when to try again.
    pub reason: Rejection,
    /// The closure or future, untouched.
    pub work: F,
}

impl<F> fmt::Debug for Rejected<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}
