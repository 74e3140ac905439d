//! One allocation a task: header, closure or future, and its result.
//!
//! A named unsafe module: it owns the life of a task. State is one word.
//!
//! | bit | meaning |
//! |---|---|
//! | `SCHEDULED` | in a queue or ring, or about to be put there by the one who set the bit |
//! | `RUNNING` | one thread has the body to itself: a worker that polls it, or a canceller that drops it |
//! | `COMPLETED` | the body is gone and the result is there (or was dropped) |
//! | `CANCELLED` | cancelling was asked for while the body ran |
//! | `OBSERVED` | the running closure was told at a checkpoint (cancelled or timed out) |
//! | `HANDLE` | a handle exists; it alone reads the result |
//! | above | references: one for the task's life, one for the handle, one for each waker |
//!
//! Invariants
//! - The body and the result are touched only by the holder of `RUNNING`, and after `COMPLETED` by the handle, or by the
//!   completer when there was no handle at that moment.
//! - The life reference belongs to whoever the task is with: queue, ring, worker, or, while a future waits, the registry.
//! - A task in a queue stays there when it is cancelled; whoever takes it out sees `COMPLETED` or `RUNNING` and drops it.

use crate::dispatch;
use crate::error::{PanicPayload, TaskError};
use crate::queue::Link;
use crate::spine::ClassSlot;
use atomic_waker::AtomicWaker;
use flyball_core::id::KindId;
use flyball_core::time::Source;
use std::cell::UnsafeCell;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

pub(crate) const SCHEDULED: u64 = 1;
pub(crate) const RUNNING: u64 = 2;
pub(crate) const COMPLETED: u64 = 4;
pub(crate) const CANCELLED: u64 = 8;
pub(crate) const OBSERVED: u64 = 16;
pub(crate) const HANDLE: u64 = 32;
const REF: u64 = 256;

/// What is only set for tasks that ask for it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Extra {
    /// Must start by then, ns; 0 means none.
    pub(crate) deadline: u64,
    /// May run that long, ns; 0 means without end.
    pub(crate) timeout: u64,
    /// What was submitted with it, for placement.
    pub(crate) key: Option<u64>,
    /// The worker it is tagged for.
    pub(crate) tag: Option<u16>,
}

#[repr(C)]
pub(crate) struct Header {
    link: Link,
    pub(crate) state: AtomicU64,
    vtable: &'static VTable,
    pub(crate) slot: &'static ClassSlot,
    /// When it became runnable last, ns.
    pub(crate) enqueued: AtomicU64,
    /// CPU time of its polls so far, against the virtual time of its class; only its runner and its waker write it.
    pub(crate) vruntime: AtomicU64,
    pub(crate) extra: Option<Box<Extra>>,
    place: AtomicU32,
    pub(crate) kind: KindId,
    pub(crate) priority: i8,
    pub(crate) is_future: bool,
    join: AtomicWaker,
}

struct VTable {
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Poll<How>,
    /// Drops the body, if it is still there, and stores the error as the result.
    fail: unsafe fn(NonNull<Header>, TaskError),
    drop_stage: unsafe fn(NonNull<Header>),
    dealloc: unsafe fn(NonNull<Header>),
}

/// How a body ended by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Finished,
    TimedOut,
    Panicked,
}

enum Stage<B, T> {
    Body(B),
    Output(Result<T, TaskError>),
    Gone,
}

#[repr(C)]
pub(crate) struct Task<B: Body> {
    header: Header,
    stage: UnsafeCell<Stage<B, B::Output>>,
}

/// A closure or a future.
pub(crate) trait Body: Send + 'static {
    type Output: Send + 'static;
    const IS_FUTURE: bool;
    /// Runs a step; called again only after pending.
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Output, TaskError>>;
}

/// A closure as a body.
pub(crate) struct Call<F>(pub(crate) Option<F>);

impl<F: FnOnce() -> T + Send + 'static, T: Send + 'static> Body for Call<F> {
    type Output = T;
    const IS_FUTURE: bool = false;
    #[inline]
    fn step(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<T, TaskError>> {
        // SAFETY: the closure is moved out to be called, which does not need it pinned; nothing else is pinned here.
        let call = unsafe { self.get_unchecked_mut() }.0.take();
        match call {
            Some(call) => Poll::Ready(Ok(call())),
            None => unreachable!("a closure is stepped once"),
        }
    }
}

/// A future as a body.
pub(crate) struct Async<F>(pub(crate) F);

impl<F: Future<Output = T> + Send + 'static, T: Send + 'static> Body for Async<F> {
    type Output = T;
    const IS_FUTURE: bool = true;
    #[inline]
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, TaskError>> {
        // SAFETY: structural pinning of the only field.
        unsafe { self.map_unchecked_mut(|this| &mut this.0) }.poll(cx).map(Ok)
    }
}

/// A future with a bound on its time, as a body.
pub(crate) struct Timed<F> {
    pub(crate) future: tokio::time::Timeout<F>,
}

impl<F: Future<Output = T> + Send + 'static, T: Send + 'static> Body for Timed<F> {
    type Output = T;
    const IS_FUTURE: bool = true;
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, TaskError>> {
        // SAFETY: structural pinning of the only field.
        let future = unsafe { self.map_unchecked_mut(|this| &mut this.future) };
        future.poll(cx).map(|done| done.map_err(|_| TaskError::TimedOut))
    }
}

/// How a task that a worker took ended, or did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ran {
    Finished,
    Panicked,
    Cancelled,
    TimedOut,
    DeadlineMissed,
    /// A future waits; it was woken meanwhile when `again`.
    Pending { again: bool },
    /// It had been cancelled while it was queued.
    Skipped,
}

pub(crate) struct Options {
    pub(crate) kind: KindId,
    pub(crate) priority: i8,
    pub(crate) handle: bool,
    pub(crate) extra: Option<Box<Extra>>,
}

/// Makes a task that the caller must enqueue. With a handle it has two references, else one.
#[inline]
pub(crate) fn new<B: Body>(slot: &'static ClassSlot, body: B, now: u64, options: Options) -> NonNull<Header> {
    let state = if options.handle {
        SCHEDULED | HANDLE | (2 * REF)
    } else {
        SCHEDULED | REF
    };
    let task = Box::new(Task {
        header: Header {
            link: Link::new(),
            state: AtomicU64::new(state),
            vtable: const {
                &VTable {
                    poll: poll::<B>,
                    fail: fail::<B>,
                    drop_stage: drop_stage::<B>,
                    dealloc: dealloc::<B>,
                }
            },
            slot,
            enqueued: AtomicU64::new(now),
            vruntime: AtomicU64::new(0),
            extra: options.extra,
            place: AtomicU32::new(0),
            kind: options.kind,
            priority: options.priority,
            is_future: B::IS_FUTURE,
            join: AtomicWaker::new(),
        },
        stage: UnsafeCell::new(Stage::Body(body)),
    });
    NonNull::from(Box::leak(task)).cast()
}

/// Takes a task apart that was never enqueued, and gives its body back.
///
/// # Safety
/// `task` was made by [`new`] with this body type, is referenced by nobody else, and is not used again.
pub(crate) unsafe fn dissolve<B: Body>(task: NonNull<Header>) -> Option<B> {
    // SAFETY: by contract.
    let task = unsafe { Box::from_raw(task.cast::<Task<B>>().as_ptr()) };
    match task.stage.into_inner() {
        Stage::Body(body) => Some(body),
        _ => None,
    }
}

/// # Safety
/// The caller holds `RUNNING`.
unsafe fn poll<B: Body>(task: NonNull<Header>, cx: &mut Context<'_>) -> Poll<How> {
    // SAFETY: the vtable belongs to the type; `RUNNING` gives the stage to this thread.
    let stage = unsafe { &mut *task.cast::<Task<B>>().as_ref().stage.get() };
    let Stage::Body(body) = stage else {
        unreachable!("a task without a body is not run")
    };
    // SAFETY: a task is never moved after it was boxed.
    let body = unsafe { Pin::new_unchecked(body) };
    match catch_unwind(AssertUnwindSafe(|| body.step(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => {
            let how = match output {
                Err(TaskError::TimedOut) => How::TimedOut,
                _ => How::Finished,
            };
            replace(stage, Stage::Output(output));
            Poll::Ready(how)
        }
        Err(payload) => {
            replace(stage, Stage::Output(Err(TaskError::Panicked(PanicPayload::new(payload)))));
            Poll::Ready(How::Panicked)
        }
    }
}

/// Puts a new stage in place of the old one, whose drop may panic.
#[inline]
fn replace<B, T>(stage: &mut Stage<B, T>, new: Stage<B, T>) {
    let old: *mut Stage<B, T> = stage;
    // Dropped in place first: a future is pinned and must not be moved out.
    // SAFETY: valid; `write` below does not drop it a second time, and nothing between can unwind.
    drop_quietly(|| unsafe { std::ptr::drop_in_place(old) });
    // SAFETY: valid, and its old value was dropped.
    unsafe { std::ptr::write(old, new) };
}

/// Runs a drop and swallows its panic: a panic in one task's drop harms nobody else.
fn drop_quietly(drop: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(drop)) {
        // A payload may itself panic when it is dropped; such a one is leaked.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| std::mem::drop(payload))) {
            std::mem::forget(again);
        }
    }
}

unsafe fn fail<B: Body>(task: NonNull<Header>, error: TaskError) {
    // SAFETY: the caller holds `RUNNING`; the vtable belongs to the type.
    let stage = unsafe { &mut *task.cast::<Task<B>>().as_ref().stage.get() };
    replace(stage, Stage::Output(Err(error)));
}

unsafe fn drop_stage<B: Body>(task: NonNull<Header>) {
    // SAFETY: the caller has the stage to itself; the vtable belongs to the type.
    let stage = unsafe { &mut *task.cast::<Task<B>>().as_ref().stage.get() };
    replace(stage, Stage::Gone);
}

unsafe fn dealloc<B: Body>(task: NonNull<Header>) {
    // SAFETY: no reference is left; the vtable belongs to the type.
    let task = unsafe { Box::from_raw(task.cast::<Task<B>>().as_ptr()) };
    drop_quietly(|| std::mem::drop(task));
}

/// Takes the result of a completed task, for its handle.
///
/// # Safety
/// The task's output type is `T` with some body `B`; the caller is the handle, and saw `COMPLETED`.
pub(crate) unsafe fn take_output<B: Body>(task: NonNull<Header>) -> Option<Result<B::Output, TaskError>> {
    // SAFETY: after completion the handle alone touches the stage.
    let stage = unsafe { &mut *task.cast::<Task<B>>().as_ref().stage.get() };
    match std::mem::replace(stage, Stage::Gone) {
        Stage::Output(output) => Some(output),
        _ => None,
    }
}

/// Runs a task that was taken from a queue, and says how it went and when it ended, ns. The life reference passes to this
/// function; it comes back only with [`Ran::Pending`] and `again`, when the caller must enqueue the task.
///
/// # Safety
/// The caller holds the life reference and took the task out of its queue.
#[inline]
pub(crate) unsafe fn run(task: NonNull<Header>, now: u64, worker: usize, clock: &Source) -> (Ran, u64) {
    // SAFETY: the life reference keeps it alive.
    let header = unsafe { task.as_ref() };
    let mut state = header.state.load(Acquire);
    loop {
        if state & (COMPLETED | RUNNING) != 0 {
            // SAFETY: the life reference is ours.
            unsafe { drop_ref(task) };
            return (Ran::Skipped, now);
        }
        // A closure without a handle that nobody else refers to: no other thread can change its state.
        if !header.is_future && state == (SCHEDULED | REF) {
            header.state.store(RUNNING | REF, Relaxed);
            break;
        }
        match header
            .state
            .compare_exchange(state, (state & !SCHEDULED) | RUNNING, AcqRel, Acquire)
        {
            Ok(_) => break,
            Err(now) => state = now,
        }
    }
    if let Some(extra) = &header.extra
        && extra.deadline != 0
        && now > extra.deadline
        && header.place.load(Relaxed) == 0
    {
        // SAFETY: `RUNNING` is ours.
        unsafe {
            (header.vtable.fail)(task, TaskError::DeadlineMissed);
            complete(task, true);
        }
        return (Ran::DeadlineMissed, now);
    }
    // SAFETY: borrowed for the poll; the life reference outlives it, and clones count.
    let waker = ManuallyDrop::new(unsafe { Waker::from_raw(raw_waker(task)) });
    let mut cx = Context::from_waker(&waker);
    // SAFETY: `RUNNING` is ours.
    let polled = unsafe { (header.vtable.poll)(task, &mut cx) };
    let ended = clock.now().as_nanos();
    match polled {
        Poll::Ready(How::Panicked) => {
            // SAFETY: `RUNNING` and the life reference are ours.
            unsafe { complete(task, true) };
            (Ran::Panicked, ended)
        }
        Poll::Ready(how) => {
            let observed = header.state.load(Relaxed) & OBSERVED != 0;
            let ran = if observed {
                let timed_out = header.state.load(Relaxed) & CANCELLED == 0;
                let (error, ran) = if timed_out {
                    (TaskError::TimedOut, Ran::TimedOut)
                } else {
                    (TaskError::Cancelled, Ran::Cancelled)
                };
                // SAFETY: `RUNNING` is ours.
                unsafe { (header.vtable.fail)(task, error) };
                ran
            } else if how == How::TimedOut {
                Ran::TimedOut
            } else {
                Ran::Finished
            };
            // SAFETY: `RUNNING` and the life reference are ours.
            unsafe { complete(task, true) };
            (ran, ended)
        }
        Poll::Pending => {
            let ran_for = ended.saturating_sub(now);
            header.vruntime.store(header.vruntime.load(Relaxed) + ran_for, Relaxed);
            if header.place.load(Relaxed) == 0 {
                let place = header.slot.spine().registry.insert(worker, task);
                header.place.store(place, Release);
            }
            let mut state = header.state.load(Acquire);
            loop {
                if state & CANCELLED != 0 {
                    // SAFETY: `RUNNING` and the life reference are ours.
                    unsafe {
                        (header.vtable.fail)(task, TaskError::Cancelled);
                        complete(task, true);
                    }
                    return (Ran::Cancelled, ended);
                }
                match header
                    .state
                    .compare_exchange(state, state & !RUNNING, AcqRel, Acquire)
                {
                    Ok(_) => {
                        let again = state & SCHEDULED != 0;
                        return (Ran::Pending { again }, ended);
                    }
                    Err(now) => state = now,
                }
            }
        }
    }
}

/// Publishes the result and wakes the handle. The caller holds `RUNNING`, which ends here.
///
/// # Safety
/// The stage holds the result. With `life` the caller's life reference is dropped as well.
unsafe fn complete(task: NonNull<Header>, life: bool) {
    // SAFETY: the caller holds a reference.
    let header = unsafe { task.as_ref() };
    let place = header.place.swap(0, AcqRel);
    if place != 0 {
        header.slot.spine().registry.remove(place);
    }
    if life && header.state.load(Acquire) == (RUNNING | REF) {
        // Nobody else refers to it.
        // SAFETY: the only reference is the caller's.
        unsafe { (header.vtable.dealloc)(task) };
        return;
    }
    let before = header.state.fetch_xor(RUNNING | COMPLETED, AcqRel);
    if before & HANDLE != 0 {
        drop_quietly(|| header.join.wake());
    } else {
        // SAFETY: there is no handle, so the completer owns the result.
        unsafe { (header.vtable.drop_stage)(task) };
    }
    if life {
        // SAFETY: the caller's life reference.
        unsafe { drop_ref(task) };
    }
}

/// Asks a task to end: drops the body at once if nobody runs it, else leaves a note. False when it had ended already.
///
/// # Safety
/// The caller holds a reference.
pub(crate) unsafe fn cancel(task: NonNull<Header>) -> bool {
    // SAFETY: by contract.
    unsafe { end(task, || TaskError::Cancelled) }
}

unsafe fn end(task: NonNull<Header>, error: impl FnOnce() -> TaskError) -> bool {
    // SAFETY: the caller holds a reference.
    let header = unsafe { task.as_ref() };
    let mut state = header.state.load(Acquire);
    loop {
        if state & COMPLETED != 0 {
            return false;
        }
        let next = if state & RUNNING != 0 {
            state | CANCELLED
        } else {
            state | CANCELLED | RUNNING
        };
        match header.state.compare_exchange(state, next, AcqRel, Acquire) {
            Ok(_) => break,
            Err(now) => state = now,
        }
    }
    if state & RUNNING != 0 {
        return state & CANCELLED == 0;
    }
    // SAFETY: `RUNNING` is ours. A queued task's life reference stays with its queue; a waiting future's is ours now.
    unsafe {
        (header.vtable.fail)(task, error());
        complete(task, state & SCHEDULED == 0);
    }
    true
}

/// Cancels a task that was taken out of its queue and drops the life reference.
///
/// # Safety
/// The caller holds the life reference and took the task out of its queue.
pub(crate) unsafe fn cancel_taken(task: NonNull<Header>) -> bool {
    // SAFETY: by contract; `SCHEDULED` is still set, so `end` leaves the life reference to us.
    unsafe {
        let cancelled = end(task, || TaskError::Cancelled);
        drop_ref(task);
        cancelled
    }
}

/// Ends a task that was never enqueued with the given error.
///
/// # Safety
/// The caller holds the life reference; the task is in no queue.
pub(crate) unsafe fn refuse(task: NonNull<Header>, error: TaskError) {
    // SAFETY: as in `cancel_taken`.
    unsafe {
        end(task, || error);
        drop_ref(task);
    }
}

/// # Safety
/// The caller holds a reference.
pub(crate) unsafe fn add_ref(task: NonNull<Header>) {
    // SAFETY: by contract.
    unsafe { task.as_ref() }.state.fetch_add(REF, Relaxed);
}

/// # Safety
/// The caller gives up a reference that it holds.
pub(crate) unsafe fn drop_ref(task: NonNull<Header>) {
    // SAFETY: by contract.
    let header = unsafe { task.as_ref() };
    if header.state.fetch_sub(REF, AcqRel) & !(REF - 1) == REF {
        // SAFETY: it was the last one.
        unsafe { (header.vtable.dealloc)(task) };
    }
}

/// Drops the handle's interest in the result, and the handle's reference.
///
/// # Safety
/// The caller is the handle and does not use the task afterwards.
pub(crate) unsafe fn drop_handle(task: NonNull<Header>) {
    // SAFETY: by contract.
    let header = unsafe { task.as_ref() };
    if header.state.fetch_and(!HANDLE, AcqRel) & COMPLETED != 0 {
        // SAFETY: completed with a handle: the result was left to the handle.
        unsafe { (header.vtable.drop_stage)(task) };
    }
    // SAFETY: the handle's reference.
    unsafe { drop_ref(task) };
}

impl Header {
    pub(crate) fn join_waker(&self) -> &AtomicWaker {
        &self.join
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.state.load(Acquire) & COMPLETED != 0
    }
}

static WAKER: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: a waker holds a reference (or borrows the runner's).
        unsafe { add_ref(header(data)) };
        RawWaker::new(data, &WAKER)
    },
    |data| {
        // SAFETY: as above; the waker's reference is given up here.
        unsafe {
            wake(header(data));
            drop_ref(header(data));
        }
    },
    |data| {
        // SAFETY: as above.
        unsafe { wake(header(data)) }
    },
    |data| {
        // SAFETY: the waker's reference is given up here.
        unsafe { drop_ref(header(data)) }
    },
);

fn raw_waker(task: NonNull<Header>) -> RawWaker {
    RawWaker::new(task.as_ptr().cast_const().cast(), &WAKER)
}

unsafe fn header(data: *const ()) -> NonNull<Header> {
    // SAFETY: wakers are made from non-null headers only.
    unsafe { NonNull::new_unchecked(data.cast_mut().cast()) }
}

/// Makes a waiting future runnable.
///
/// # Safety
/// The caller holds a reference.
unsafe fn wake(task: NonNull<Header>) {
    // SAFETY: by contract.
    let header = unsafe { task.as_ref() };
    let mut state = header.state.load(Acquire);
    loop {
        if state & (COMPLETED | SCHEDULED) != 0 {
            return;
        }
        match header
            .state
            .compare_exchange(state, state | SCHEDULED, AcqRel, Acquire)
        {
            Ok(_) => break,
            Err(now) => state = now,
        }
    }
    if state & RUNNING == 0 {
        // SAFETY: waiting, and we set `SCHEDULED`: the life reference passes to the queue.
        unsafe { dispatch::enqueue_woken(task) };
    }
}

/// Notes that the running closure was told to end, and, with `CANCELLED`, that it was for that reason and not for the time.
pub(crate) fn observe(header: &Header, cancelled: u64) {
    header.state.fetch_or(OBSERVED | cancelled, AcqRel);
}
