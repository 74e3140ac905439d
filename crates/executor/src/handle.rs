//! What a submitter holds of a task: await it, join it, cancel it, or let it go.

use crate::dispatch;
use crate::error::TaskError;
use crate::task::{self, Body, COMPLETED, Header, RUNNING};
use flyball_core::outcome::Rejection;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::task::{Context, Poll, Wake, Waker};

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// It waits for a worker.
    Queued,
    /// A worker runs it at this moment.
    Running,
    /// It is a future that waits to be woken.
    Waiting,
    /// It has ended; the handle has the result.
    Ended,
    /// It was refused at submission.
    Rejected,
}

/// A submitted task. Await it for `Result<T, TaskError>`.
///
/// Dropping the handle cancels the task: what is queued never starts, what runs sees it at its next
/// [`checkpoint`](crate::checkpoint) or await. [`Handle::detach`] lets it go on instead.
#[must_use = "dropping a handle cancels its task; call detach() to let it run"]
pub struct Handle<T> {
    inner: Inner<T>,
}

enum Inner<T> {
    Task {
        task: NonNull<Header>,
        take: unsafe fn(NonNull<Header>) -> Option<Result<T, TaskError>>,
        _result: PhantomData<T>,
    },
    Rejected(Rejection),
    Done,
}

// SAFETY: the header is shared between threads by design; the result is sent once.
unsafe impl<T: Send> Send for Handle<T> {}
// SAFETY: through `&Handle` only the atomic state is read and cancelling is asked for.
unsafe impl<T: Send> Sync for Handle<T> {}
impl<T> Unpin for Handle<T> {}

impl<T: Send + 'static> Handle<T> {
    /// # Safety
    /// `task` was made with body `B` and a handle that nobody else represents.
    pub(crate) unsafe fn of<B: Body<Output = T>>(task: NonNull<Header>) -> Self {
        Handle {
            inner: Inner::Task {
                task,
                take: task::take_output::<B>,
                _result: PhantomData,
            },
        }
    }
}

impl<T> Handle<T> {
    pub(crate) fn rejected(reason: Rejection) -> Self {
        Handle {
            inner: Inner::Rejected(reason),
        }
    }

    /// Asks the task to end. A queued task and a waiting future end at once, and their captures are dropped on this thread; a
    /// running one sees it at its next checkpoint or await. Returns false when it had ended or was asked before.
    pub fn cancel(&self) -> bool {
        match self.inner {
            // SAFETY: the handle holds a reference.
            Inner::Task { task, .. } => unsafe { task::cancel(task) },
            _ => false,
        }
    }

    /// How far the task is; it may be further by the time the answer is read.
    pub fn status(&self) -> Status {
        match self.inner {
            Inner::Task { task, .. } => {
                // SAFETY: the handle holds a reference.
                let state = unsafe { task.as_ref() }.state().load(Acquire);
                if state & COMPLETED != 0 {
                    Status::Ended
                } else if state & RUNNING != 0 {
                    Status::Running
                } else if state & task::SCHEDULED != 0 {
                    Status::Queued
                } else {
                    Status::Waiting
                }
            }
            Inner::Rejected(_) => Status::Rejected,
            Inner::Done => Status::Ended,
        }
    }

    /// True when no thread will run the task unless it is told to; see `testing`.
    fn is_on_manual_clock(&self) -> bool {
        match self.inner {
            // SAFETY: the handle holds a reference.
            Inner::Task { task, .. } => unsafe { task.as_ref() }.slot.spine().manual.load(Relaxed),
            _ => false,
        }
    }

    /// True when the task has ended, or was refused.
    pub fn is_finished(&self) -> bool {
        matches!(self.status(), Status::Ended | Status::Rejected)
    }

    /// Lets the task run on without anybody waiting for it; its result is dropped where it ends.
    pub fn detach(mut self) {
        if let Inner::Task { task, .. } = std::mem::replace(&mut self.inner, Inner::Done) {
            // SAFETY: the handle's reference is given up, and the handle with it.
            unsafe { task::drop_handle(task) };
        }
    }

    /// The result, if the task has ended; the first call that gets it takes it.
    pub fn try_result(&mut self) -> Option<Result<T, TaskError>> {
        match &mut self.inner {
            Inner::Task { task, take, .. } => {
                // SAFETY: the handle holds a reference.
                if !unsafe { task.as_ref() }.is_completed() {
                    return None;
                }
                // SAFETY: completed, this is the handle, and `take` belongs to its body's type.
                let result = unsafe { take(*task) };
                Some(result.unwrap_or(Err(TaskError::Taken)))
            }
            Inner::Rejected(_) => match std::mem::replace(&mut self.inner, Inner::Done) {
                Inner::Rejected(reason) => Some(Err(TaskError::Rejected(reason))),
                _ => Some(Err(TaskError::Taken)),
            },
            Inner::Done => Some(Err(TaskError::Taken)),
        }
    }

    /// Blocks the calling thread until the task has ended, and takes its result.
    ///
    /// # Errors
    /// What the task ended with; [`TaskError::JoinOnWorker`] at once on a worker thread, where blocking could keep the very task
    /// from running: the handle is unchanged and can be awaited. Also on a manual clock, where only `drain` runs tasks.
    pub fn join(&mut self) -> Result<T, TaskError> {
        if !self.is_finished() && (dispatch::local().is_some() || self.is_on_manual_clock()) {
            return Err(TaskError::JoinOnWorker);
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(result) = Pin::new(&mut *self).poll(&mut cx) {
                return result;
            }
            std::thread::park();
        }
    }
}

/// Wakes a thread that waits in `join`.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<T> Future for Handle<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.try_result() {
            return Poll::Ready(result);
        }
        if let Inner::Task { task, .. } = self.inner {
            // SAFETY: the handle holds a reference.
            unsafe { task.as_ref() }.join_waker().register(cx.waker());
        }
        match self.try_result() {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        if let Inner::Task { task, .. } = self.inner {
            // SAFETY: the handle's reference is given up, and the handle with it.
            unsafe {
                task::cancel(task);
                task::drop_handle(task);
            }
        }
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("status", &self.status())
            .finish()
    }
}
