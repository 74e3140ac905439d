//! What every backend of the queue can do.

use crate::error::Error;
use crate::task::{
    Accepted, Batch, Beat, Beaten, Brief, Completion, Event, Lease, LeaseRequest, Page, Query,
    Selection, Stats, Task,
};
use flyball_policy::queue::{ClassRule, Scope, TaskId, Token, Waiting};
use std::future::Future;
use std::pin::Pin;

/// What an operation answers, when it is durable. Dropping it does not take the operation back.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Events since a number.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Changes {
    /// Events that were dropped before they could be asked for.
    pub missed: u64,
    /// What happened since, oldest first.
    pub events: Vec<Event>,
}

/// A queue of durable tasks.
///
/// The operations are those of a queue, not of a store: some backends decide about leases themselves. An implementation MUST
/// - answer [`enqueue`](Self::enqueue) and [`finish`](Self::finish) only when what they did survives a power cut;
/// - write a lease before it hands it out, so that after a crash it knows which tokens are void;
/// - give each task to one lessee at a time, refuse every token but that of the newest lease, and acknowledge one completion only;
/// - change nothing when it refuses, and do all of a batch or nothing;
/// - bound what it keeps, and refuse with [`Error::Full`] beyond;
/// - survive the wall clock jumping either way without giving a leased task away.
///
/// The conformance suite in `conformance` holds every implementation to this.
pub trait TaskQueue: Send + Sync + 'static {
    /// Takes tasks, all or none.
    fn enqueue(&self, batch: Batch) -> Answer<'_, Vec<Accepted>>;

    /// Hands tasks out, best first; none if there is none within the wait. If the future is dropped before it answers, tasks it would have had stay
    /// in the queue or come back at once.
    fn lease(&self, request: LeaseRequest) -> Answer<'_, Vec<Lease>>;

    /// Extends a lease.
    fn heartbeat(&self, id: TaskId, token: Token, beat: Beat) -> Answer<'_, Beaten>;

    /// Ends attempts, each for itself: one stale token does not spoil the others. The order of answers is that of the request. What else is known
    /// of the task is for [`task`](Self::task) to say: most who finish do not want it, and reading it costs more than finishing.
    fn finish(&self, ends: Vec<Completion>) -> Answer<'_, Vec<Result<Brief, Error>>>;

    /// Ends waits before the next attempt, as what they were for is there: of at most 1,000 tasks, each with how often it was started. Those that were
    /// started since, or do not wait so, are passed over. Answers those it changed.
    fn call_back(&self, waits: Vec<(TaskId, u32)>) -> Answer<'_, Vec<Brief>>;

    /// Cancels tasks: at once those that do not run, at their next heartbeat those that do. Answers those it changed, and their new state.
    /// With [`Selection::Ids`] an unknown or ended task is an error and nothing is changed.
    fn cancel(&self, which: Selection, why: String) -> Answer<'_, Vec<Brief>>;

    /// Gives dead, failed, cancelled or skipped tasks fresh attempts. Errors as [`cancel`](Self::cancel).
    fn retry(&self, which: Selection) -> Answer<'_, Vec<Brief>>;

    /// Hands out no more tasks of a scope. Survives restarts. Answers whether it was not paused before.
    fn pause(&self, scope: Scope, by: String) -> Answer<'_, bool>;

    /// Takes a pause back. Answers whether there was one.
    fn resume(&self, scope: Scope) -> Answer<'_, bool>;

    /// All that is known of a task.
    fn task(&self, id: TaskId) -> Answer<'_, Task>;

    /// A page of tasks.
    fn list(&self, query: Query) -> Answer<'_, Page>;

    /// What a task waits for, as far as the queue knows.
    fn why(&self, id: TaskId) -> Answer<'_, Vec<Waiting>>;

    /// Figures.
    fn stats(&self) -> Answer<'_, Stats>;

    /// What happened after an event's number, at most `limit` events; waits for nothing.
    fn changes(&self, after: u64, limit: usize) -> Changes;

    /// The number of the newest event, to wait on.
    fn watch(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Sets what classes mean here. Tasks of a class that is not named are taken as of `normal`'s rule.
    fn set_classes(&self, classes: Vec<ClassRule>) -> Answer<'_, ()>;

    /// Closes cleanly: leases that are out are honoured by the next start. Later operations are refused.
    fn close(&self) -> Answer<'_, ()>;
}
