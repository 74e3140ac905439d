//! What a running task may say to the executor: it can be interrupted here, it is about to block, it yields.

use crate::dispatch::{self, Local};
use crate::pool::{Pool, WorkerShared};
use crate::task;
use flyball_core::class::Group;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::*;
use std::task::{Context, Poll};
use std::time::Duration;

/// The longest a closure waits at a checkpoint for work of a higher rank. After that it goes on beside it.
pub const GIVE_WAY_MAX: Duration = Duration::from_millis(10);

/// Why a closure should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Interrupted {
    /// Its handle was dropped or cancelled, or the executor shuts down.
    #[error("the task was cancelled")]
    Cancelled,
    /// It has run longer than its timeout.
    #[error("the task ran past its timeout")]
    TimedOut,
}

/// A place where a long closure can be interrupted: call it every 100 µs or so. While work of a higher rank waits it hands its
/// place to a parked thread, for at most [`GIVE_WAY_MAX`]; it never runs other work on the caller's stack. Costs a few
/// nanoseconds when there is nothing to do, and does nothing outside a worker.
///
/// # Errors
/// When the task should end: return soon. The handle then answers `Cancelled` or `TimedOut`, whatever the closure returns.
#[inline]
pub fn checkpoint() -> Result<(), Interrupted> {
    let Some(local) = dispatch::local() else {
        #[cfg(feature = "rayon")]
        if crate::guests::is_terminated() {
            return Err(Interrupted::Cancelled);
        }
        return Ok(());
    };
    // SAFETY: set while a task that has a state runs on this thread, which holds its life reference.
    let header = unsafe { local.task.get().as_ref() };
    if local.spine.terminated.load(Relaxed)
        || header.is_some_and(|header| header.state().load(Relaxed) & task::CANCELLED != 0)
    {
        if let Some(header) = header {
            task::observe(header, task::CANCELLED);
        }
        return Err(Interrupted::Cancelled);
    }
    if let Some(header) = header
        && let Some(extra) = header.extra()
        && extra.timeout != 0
        && crate::clock::now(local.spine).saturating_sub(local.task_started.get()) > extra.timeout
    {
        task::observe(header, 0);
        return Err(Interrupted::TimedOut);
    }
    let class = 1u64
        .checked_shl(local.slice_class.get().into())
        .unwrap_or(0);
    if local.spine.held.load(Relaxed) & class != 0 {
        // SAFETY: the pool outlives its workers, and this is one.
        unsafe { &*local.pool }.wait_for_ceiling(local, class);
    }
    let signals = &local.spine.signals;
    if (signals.is_revoked(local.worker) || signals.over_parallelism()) && !local.token_lent.get() {
        give_way(local);
    }
    Ok(())
}

#[cold]
fn give_way(local: &Local) {
    let Some(slot) = local
        .spine
        .classes
        .get(usize::from(local.slice_class.get()))
    else {
        return;
    };
    let rank = slot.rank.load(Relaxed);
    // SAFETY: the pool outlives its workers, and this is one.
    let pool = unsafe { &*local.pool };
    let signals = &pool.spine.signals;
    let group = crate::spine::group_of(local.worker);
    let higher_waits = || {
        flyball_core::id::ClassSet::from_bits(signals.ready() & pool.mask(group))
            .iter()
            .any(|class| pool.spine.classes[class.index()].rank.load(Relaxed) > rank)
    };
    let crowded = || group == Group::Back && signals.over_parallelism();
    // SAFETY: the worker of this thread outlives its `Local`.
    let shared = unsafe { &*local.shared };
    let must_wait = if higher_waits() {
        // A worker that was stuck for too long has no token any more, and makes no room by waiting.
        if !shared.lend_token(signals) {
            return;
        }
        let woken = signals.wake_another(group);
        if !woken {
            shared.reclaim_token(signals);
        }
        woken
    } else {
        crowded() && shared.lend_token(signals)
    };
    if must_wait {
        // There is always room for the front group.
        wait_for_token(pool, shared, || {
            !higher_waits() && (group == Group::Front || signals.has_room())
        });
    }
}

fn wait_for_token(pool: &Pool, shared: &WorkerShared, may_go_on: impl Fn() -> bool) {
    pool.quiet_waiters.fetch_add(1, SeqCst);
    let guard = pool.quiet_lock.lock().unwrap_or_else(|e| e.into_inner());
    let waited = pool
        .quiet
        .wait_timeout_while(guard, GIVE_WAY_MAX, |()| !may_go_on());
    drop(waited);
    pool.quiet_waiters.fetch_sub(1, SeqCst);
    shared.reclaim_token(&pool.spine.signals);
}

/// Runs a closure that blocks (a file, a lock, another program) without keeping a CPU from other work: another worker may run
/// in the meantime. Outside a worker it just runs.
pub fn blocking<R>(f: impl FnOnce() -> R) -> R {
    let Some(local) = dispatch::local() else {
        return f();
    };
    if local.token_lent.replace(true) {
        return f(); // inside another such call, or inside a scope that is waited for in one
    }
    /// Takes the token back, also when `f` panics.
    struct Token<'a> {
        pool: &'a Pool,
        local: &'a Local,
        /// None when it had none to lend: it was stuck for too long.
        lender: Option<&'a WorkerShared>,
    }
    impl Drop for Token<'_> {
        fn drop(&mut self) {
            if let Some(shared) = self.lender {
                shared.reclaim_token(&self.pool.spine.signals);
            }
            self.local.token_lent.set(false);
        }
    }
    // SAFETY: the pool outlives its workers, and this is one.
    let pool = unsafe { &*local.pool };
    let group = crate::spine::group_of(local.worker);
    // SAFETY: the worker of this thread outlives its `Local`.
    let shared = unsafe { &*local.shared };
    let lender = shared.lend_token(&pool.spine.signals).then_some(shared);
    let _token = Token {
        pool,
        local,
        lender,
    };
    pool.pass_on(group);
    pool.pass_on(Group::Back);
    f()
}

/// Lets other tasks of the class run, then goes on.
pub async fn yield_now() {
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
    Yield(false).await
}
