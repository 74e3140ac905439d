//! What a case needs beside the queue.

use crate::error::Error;
use crate::queue::TaskQueue;
use crate::{
    Accepted, Batch, Brief, Completion, Kinds, Lease, LeaseRequest, NewTask, Run, Task, Usage,
};
use bytes::Bytes;
use flyball_core::time::WallTime;
use flyball_policy::queue::{
    Head, Needs, OnParentFailure, Outcome, Reason, RetryPolicy, State, TaskId, Token, Via,
};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// What a case wants of the queue that is made for it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Tasks that it holds at most.
    pub max_tasks: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { max_tasks: 10_000 }
    }
}

/// A queue under test, and what can happen to it.
pub trait Fixture {
    /// The queue, as it is open now.
    fn queue(&self) -> Arc<dyn TaskQueue>;

    /// Closes the queue and opens it again. Nobody holds the old one any more.
    fn restart(&mut self);

    /// Has the process that holds the queue die, with all that was not durable, and opens the queue again.
    fn crash(&mut self);

    /// The wall clock, as the queue sees it.
    fn wall(&self) -> WallTime;

    /// Lets time pass, on both clocks.
    fn advance(&self, by: Duration);

    /// Sets the wall clock; answers whether that can be done here.
    fn set_wall(&self, to: WallTime) -> bool;
}

/// Makes a fixture.
pub(super) type Make<'a> = &'a dyn Fn(Wanted) -> Box<dyn Fixture>;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Polls a future once.
pub(super) fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// A plain task of a kind.
pub(crate) fn task(kind: &str) -> NewTask {
    NewTask {
        head: Head {
            kind: kind.into(),
            via: Via::Handler,
            class: "normal".into(),
            priority: 0,
            deadline: None,
            not_before: None,
            cron: None,
            timeout: None,
            retry: RetryPolicy {
                max_attempts: 3,
                base: Duration::from_secs(1),
                cap: Duration::from_secs(60),
            },
            after: Vec::new(),
            on_parent_failure: OnParentFailure::Skip,
            needs: Needs::default(),
            affinity_key: None,
            key: None,
            unique: None,
            group: None,
            after_group: None,
        },
        after: Vec::new(),
        reference: None,
        run: Run::Handler,
        payload: Bytes::from_static(b"null"),
        labels: Vec::new(),
        secrets: Vec::new(),
    }
}

/// A request for all kinds, without a wait.
pub(crate) fn request(max: u32) -> LeaseRequest {
    LeaseRequest {
        worker: "worker".into(),
        handlers: Kinds::All,
        commands: Kinds::All,
        http: Kinds::All,
        max,
        lease: Duration::from_secs(30),
        wait: Duration::ZERO,
        room: None,
        above: None,
    }
}

/// The end of an attempt that went well.
pub(crate) fn done(id: TaskId, token: Token) -> Completion {
    Completion {
        id,
        token,
        outcome: Some(Outcome::Done),
        result: None,
        error: None,
        usage: Usage::default(),
    }
}

/// The end of one that did not.
pub(crate) fn failed(id: TaskId, token: Token, retryable: bool) -> Completion {
    Completion {
        outcome: Some(Outcome::Failed {
            reason: Reason::Error,
            retryable,
            after: None,
        }),
        error: Some("it broke".into()),
        ..done(id, token)
    }
}

/// Calls that must succeed, in few words.
pub(super) trait Calls {
    fn put(&self, tasks: Vec<NewTask>) -> Vec<Accepted>;
    fn put_one(&self, task: NewTask) -> TaskId;
    fn get(&self, max: u32) -> Vec<Lease>;
    fn get_one(&self) -> Lease;
    fn end(&self, end: Completion) -> Result<Brief, Error>;
    fn look(&self, id: TaskId) -> Task;
    fn state(&self, id: TaskId) -> State;
}

impl Calls for dyn Fixture {
    fn put(&self, tasks: Vec<NewTask>) -> Vec<Accepted> {
        block_on(self.queue().enqueue(Batch {
            tasks,
            idempotency: None,
        }))
        .expect("the batch is taken")
    }

    fn put_one(&self, task: NewTask) -> TaskId {
        self.put(vec![task])[0].id
    }

    fn get(&self, max: u32) -> Vec<Lease> {
        block_on(self.queue().lease(request(max))).expect("the lease is answered")
    }

    fn get_one(&self) -> Lease {
        let mut leases = self.get(1);
        assert_eq!(leases.len(), 1, "there is a task");
        leases.remove(0)
    }

    fn end(&self, end: Completion) -> Result<Brief, Error> {
        let mut ends = block_on(self.queue().finish(vec![end]))?;
        assert_eq!(ends.len(), 1);
        ends.remove(0)
    }

    fn look(&self, id: TaskId) -> Task {
        block_on(self.queue().task(id)).expect("the task is there")
    }

    fn state(&self, id: TaskId) -> State {
        self.look(id).state
    }
}
