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
use crate::keyed::TaskKey;
use crate::queue::Link;
use crate::spine::ClassSlot;
use atomic_waker::AtomicWaker;
use flyball_core::id::KindId;
use flyball_core::outcome::Rejection;
use flyball_core::time::Source;
use std::any::Any;
use std::cell::UnsafeCell;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::Duration;

pub(crate) const SCHEDULED: u64 = 1;
pub(crate) const RUNNING: u64 = 2;
pub(crate) const COMPLETED: u64 = 4;
pub(crate) const CANCELLED: u64 = 8;
pub(crate) const OBSERVED: u64 = 16;
pub(crate) const HANDLE: u64 = 32;
const REF: u64 = 256;

/// In the word for a task's place: it names a key. Kept there because every completion looks at that word anyway.
const KEYED: u32 = 1 << 31;

/// What is only set for tasks that ask for it.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Must start by then, ns; 0 means none.
    pub(crate) deadline: u64,
    /// May run that long, ns; 0 means without end.
    pub(crate) timeout: u64,
    /// What was submitted with it, for placement.
    pub(crate) affinity: Option<u64>,
    /// The worker it is tagged for.
    pub(crate) tag: Option<u16>,
    /// By which it shares its class.
    pub(crate) key: Option<TaskKey>,
}

/// What every task starts with: 40 bytes, so that a small closure fits one cache line with the allocator's word.
#[repr(C)]
pub(crate) struct Header {
    link: Link,
    vtable: &'static VTable,
    pub(crate) slot: &'static ClassSlot,
    /// When it became runnable last, ns.
    pub(crate) enqueued: AtomicU64,
    pub(crate) kind: KindId,
    pub(crate) priority: i8,
    nature: Nature,
    /// For how many tasks `enqueued` speaks: 0 when it was not stamped.
    pub(crate) samples: AtomicU8,
    /// It may be refused while it is queued, where its handle hears of it.
    may_shed: bool,
}

/// What a task is, as far as running it differs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// A closure without a handle: nobody but the queue and the worker ever sees it, so its state is never looked at.
    Bare,
    Closure,
    Future,
}

/// What only tasks that are not bare need; it follows the header.
struct Shared {
    state: AtomicU64,
    extra: Option<Box<Extra>>,
    /// Where it stands in the registry of waiting futures; with [`KEYED`] it names a key.
    place: AtomicU32,
    join: AtomicWaker,
    /// Run time of the polls so far, against the virtual time of the class, ns; only its runner and its waker write it.
    vruntime: AtomicU64,
}

struct VTable {
    /// Calls a bare closure and frees the task; true when it panicked. For others unreachable.
    call: unsafe fn(NonNull<Header>) -> bool,
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Poll<How>,
    /// Drops the body, if it is still there, and stores the error as the result.
    fail: unsafe fn(NonNull<Header>, Failure),
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

/// Why there is no value, as small as it can be kept in the task.
pub(crate) enum Failure {
    Panicked(Box<dyn Any + Send>),
    Cancelled,
    TimedOut,
    DeadlineMissed,
    Shed(Box<Rejection>),
}

impl From<Failure> for TaskError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Panicked(payload) => TaskError::Panicked(PanicPayload::new(payload)),
            Failure::Cancelled => TaskError::Cancelled,
            Failure::TimedOut => TaskError::TimedOut,
            Failure::DeadlineMissed => TaskError::DeadlineMissed,
            Failure::Shed(rejection) => TaskError::Rejected(*rejection),
        }
    }
}

enum Stage<B, T> {
    Body(B),
    Output(Result<T, Failure>),
    Gone,
}

/// A closure without a handle. Small tasks matter: glibc frees up to 128 bytes from another thread without a lock.
#[repr(C)]
struct Bare<F> {
    header: Header,
    work: F,
}

/// How every task that is not bare begins.
#[repr(C)]
struct Full {
    header: Header,
    shared: Shared,
}

#[repr(C)]
pub(crate) struct Task<B: Body> {
    full: Full,
    stage: UnsafeCell<Stage<B, B::Output>>,
}

/// A closure or a future.
pub(crate) trait Body: Send + 'static {
    type Output: Send + 'static;
    const IS_FUTURE: bool;
    /// Runs a step; called again only after pending.
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Output, Failure>>;
}

/// A closure as a body.
pub(crate) struct Call<F>(pub(crate) Option<F>);

impl<F: FnOnce() -> T + Send + 'static, T: Send + 'static> Body for Call<F> {
    type Output = T;
    const IS_FUTURE: bool = false;
    #[inline]
    fn step(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<T, Failure>> {
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
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, Failure>> {
        // SAFETY: structural pinning of the only field.
        unsafe { self.map_unchecked_mut(|this| &mut this.0) }
            .poll(cx)
            .map(Ok)
    }
}

/// A future with a bound on its time, as a body. The time is counted from the first poll.
pub(crate) struct Timed<F> {
    state: TimedState<F>,
}

enum TimedState<F> {
    New { future: Option<F>, limit: Duration },
    Running(tokio::time::Timeout<F>),
}

impl<F> Timed<F> {
    pub(crate) fn new(future: F, limit: Duration) -> Self {
        Timed {
            state: TimedState::New {
                future: Some(future),
                limit,
            },
        }
    }
}

impl<F: Future<Output = T> + Send + 'static, T: Send + 'static> Body for Timed<F> {
    type Output = T;
    const IS_FUTURE: bool = true;
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, Failure>> {
        // SAFETY: the future is moved only out of `New`, before it was pinned; inside `Running` it stays where it is.
        let state = unsafe { &mut self.get_unchecked_mut().state };
        if let TimedState::New { future, limit } = state
            && let Some(future) = future.take()
        {
            *state = TimedState::Running(tokio::time::timeout(*limit, future));
        }
        match state {
            // SAFETY: as above.
            TimedState::Running(timeout) => unsafe { Pin::new_unchecked(timeout) }
                .poll(cx)
                .map(|done| done.map_err(|_| Failure::TimedOut)),
            TimedState::New { .. } => unreachable!("only a panic of the timer leaves it so"),
        }
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
    /// It waited for too long and was refused.
    Shed,
    /// A future waits; it was woken meanwhile when `again`.
    Pending {
        again: bool,
    },
    /// It had been cancelled while it was queued.
    Skipped,
}

/// What a task is submitted with.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) kind: KindId,
    pub(crate) priority: i8,
    /// See [`Header::samples`].
    pub(crate) samples: u8,
    /// See [`Header::may_shed`].
    pub(crate) may_shed: bool,
}

impl Header {
    fn new(
        slot: &'static ClassSlot,
        vtable: &'static VTable,
        nature: Nature,
        now: u64,
        plan: Plan,
    ) -> Self {
        Header {
            link: Link::new(),
            vtable,
            slot,
            enqueued: AtomicU64::new(now),
            kind: plan.kind,
            priority: plan.priority,
            nature,
            samples: AtomicU8::new(plan.samples),
            may_shed: plan.may_shed,
        }
    }

    #[inline]
    pub(crate) fn is_future(&self) -> bool {
        self.nature == Nature::Future
    }

    /// True for a closure without a handle, which has no state.
    #[inline]
    pub(crate) fn is_bare(&self) -> bool {
        self.nature == Nature::Bare
    }

    /// True for a closure without a handle whose waiting time is not measured: it may share a clock reading with others.
    #[inline]
    pub(crate) fn is_tiny_candidate(&self) -> bool {
        self.is_bare() && self.samples.load(Relaxed) == 0
    }

    /// What only tasks that are not bare have.
    #[inline]
    fn shared(&self) -> &Shared {
        debug_assert!(!self.is_bare());
        // SAFETY: headers exist only at the start of tasks, and one that is not bare is the start of a `Full`. The pointer is
        // made from one with provenance over the whole task: see `NonNull::cast` in `new`.
        unsafe { &(*std::ptr::from_ref(self).cast::<Full>()).shared }
    }

    /// The state word of a task that is not bare.
    #[inline]
    pub(crate) fn state(&self) -> &AtomicU64 {
        &self.shared().state
    }

    /// What the task asks for beyond the usual.
    #[inline]
    pub(crate) fn extra(&self) -> Option<&Extra> {
        if self.is_bare() {
            None
        } else {
            self.shared().extra.as_deref()
        }
    }

    /// The key that the task names.
    pub(crate) fn key(&self) -> Option<&TaskKey> {
        self.extra()?.key.as_ref()
    }

    /// Notes that it names a key, before it can be completed by another thread than the caller's.
    pub(crate) fn mark_keyed(&self) {
        self.shared().place.fetch_or(KEYED, Relaxed);
    }

    /// True when a thread has the body to itself, or it is gone: of a queued task, when it was cancelled.
    pub(crate) fn is_taken_or_completed(&self) -> bool {
        self.state().load(Acquire) & (RUNNING | COMPLETED) != 0
    }

    /// Virtual run time of a future, ns.
    pub(crate) fn vruntime(&self) -> &AtomicU64 {
        &self.shared().vruntime
    }

    pub(crate) fn join_waker(&self) -> &AtomicWaker {
        &self.shared().join
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.state().load(Acquire) & COMPLETED != 0
    }
}

/// Makes a task with a handle that the caller must enqueue: one reference for its life, one for the handle.
#[inline]
pub(crate) fn new<B: Body>(
    slot: &'static ClassSlot,
    body: B,
    now: u64,
    plan: Plan,
    extra: Option<Box<Extra>>,
) -> NonNull<Header> {
    let vtable = const {
        &VTable {
            call: |_| unreachable!("only bare closures are called"),
            poll: poll::<B>,
            fail: fail::<B>,
            drop_stage: drop_stage::<B>,
            dealloc: dealloc::<B>,
        }
    };
    let nature = if B::IS_FUTURE {
        Nature::Future
    } else {
        Nature::Closure
    };
    let task = Box::new(Task {
        full: Full {
            header: Header::new(slot, vtable, nature, now, plan),
            shared: Shared {
                state: AtomicU64::new(SCHEDULED | HANDLE | (2 * REF)),
                extra,
                place: AtomicU32::new(0),
                join: AtomicWaker::new(),
                vruntime: AtomicU64::new(0),
            },
        },
        stage: UnsafeCell::new(Stage::Body(body)),
    });
    NonNull::from(Box::leak(task)).cast()
}

/// Makes a closure's task without a handle that the caller must enqueue.
#[inline]
pub(crate) fn new_bare<F: FnOnce() + Send + 'static>(
    slot: &'static ClassSlot,
    work: F,
    now: u64,
    plan: Plan,
) -> NonNull<Header> {
    let vtable = const {
        &VTable {
            call: |task| {
                // Moved out in a scope of its own, so that the memory is free before the call: what the closure submits may
                // use it again.
                let work = {
                    // SAFETY: the caller took the task out of its queue; nobody else knows it.
                    let task = unsafe { Box::from_raw(task.cast::<Bare<F>>().as_ptr()) };
                    let Bare { work, .. } = *task;
                    work
                };
                match catch_unwind(AssertUnwindSafe(work)) {
                    Ok(()) => false,
                    Err(payload) => {
                        drop_quietly(|| drop(payload));
                        true
                    }
                }
            },
            poll: |_, _| unreachable!("a bare task is called"),
            fail: |_, _| unreachable!("a bare task keeps no result"),
            drop_stage: |_| unreachable!("a bare task keeps no result"),
            dealloc: |task| {
                // SAFETY: as in `call`.
                let task = unsafe { Box::from_raw(task.cast::<Bare<F>>().as_ptr()) };
                drop_quietly(|| drop(task));
            },
        }
    };
    let task = Box::new(Bare {
        header: Header::new(slot, vtable, Nature::Bare, now, plan),
        work,
    });
    NonNull::from(Box::leak(task)).cast()
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
                Err(Failure::TimedOut) => How::TimedOut,
                _ => How::Finished,
            };
            replace(stage, Stage::Output(output));
            Poll::Ready(how)
        }
        Err(payload) => {
            replace(stage, Stage::Output(Err(Failure::Panicked(payload))));
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
pub(crate) fn drop_quietly(drop: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(drop)) {
        // A payload may itself panic when it is dropped; such a one is leaked.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| std::mem::drop(payload))) {
            std::mem::forget(again);
        }
    }
}

unsafe fn fail<B: Body>(task: NonNull<Header>, error: Failure) {
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
pub(crate) unsafe fn take_output<B: Body>(
    task: NonNull<Header>,
) -> Option<Result<B::Output, TaskError>> {
    // SAFETY: after completion the handle alone touches the stage.
    let stage = unsafe { &mut *task.cast::<Task<B>>().as_ref().stage.get() };
    match std::mem::replace(stage, Stage::Gone) {
        Stage::Output(output) => Some(output.map_err(TaskError::from)),
        _ => None,
    }
}

/// Runs a task that was taken from a queue, and says how it went and when it ended, ns. The life reference passes to this
/// function; it comes back only with [`Ran::Pending`] and `again`, when the caller must enqueue the task.
///
/// # Safety
/// The caller holds the life reference and took the task out of its queue.
#[inline]
pub(crate) unsafe fn run(
    task: NonNull<Header>,
    now: u64,
    worker: usize,
    clock: &Source,
) -> (Ran, u64) {
    // SAFETY: the life reference keeps it alive.
    let header = unsafe { task.as_ref() };
    if header.is_bare() {
        // SAFETY: by contract.
        let panicked = unsafe { call_bare(task) };
        let ran = if panicked {
            Ran::Panicked
        } else {
            Ran::Finished
        };
        return (ran, clock.now().as_nanos());
    }
    let mut state = header.state().load(Acquire);
    loop {
        if state & (COMPLETED | RUNNING) != 0 {
            // SAFETY: the life reference is ours.
            unsafe { drop_ref(task) };
            return (Ran::Skipped, now);
        }
        match header.state().compare_exchange(
            state,
            (state & !SCHEDULED) | RUNNING,
            AcqRel,
            Acquire,
        ) {
            Ok(_) => break,
            Err(now) => state = now,
        }
    }
    if let Some(extra) = header.extra()
        && extra.deadline != 0
        && now > extra.deadline
        && header.shared().place.load(Relaxed) & !KEYED == 0
    {
        // SAFETY: `RUNNING` is ours.
        unsafe {
            (header.vtable.fail)(task, Failure::DeadlineMissed);
            complete(task, true);
        }
        return (Ran::DeadlineMissed, now);
    }
    if header.may_shed
        && now.saturating_sub(header.enqueued.load(Relaxed)) > header.slot.late_after.load(Relaxed)
        && header.shared().place.load(Relaxed) & !KEYED == 0
        && state & HANDLE != 0
        && let Some(rejection) = header.slot.refuse_late()
    {
        // SAFETY: `RUNNING` is ours.
        unsafe {
            (header.vtable.fail)(task, Failure::Shed(Box::new(rejection)));
            complete(task, true);
        }
        return (Ran::Shed, now);
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
            let observed = header.state().load(Relaxed) & OBSERVED != 0;
            let ran = if observed {
                let timed_out = header.state().load(Relaxed) & CANCELLED == 0;
                let (error, ran) = if timed_out {
                    (Failure::TimedOut, Ran::TimedOut)
                } else {
                    (Failure::Cancelled, Ran::Cancelled)
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
            let vruntime = header.vruntime();
            vruntime.store(vruntime.load(Relaxed) + ran_for, Relaxed);
            let place = header.shared().place.load(Relaxed);
            if place & !KEYED == 0 {
                let entered = header.slot.spine().registry.insert(worker, task);
                header.shared().place.store(place | entered, Release);
            }
            let mut state = header.state().load(Acquire);
            loop {
                if state & CANCELLED != 0 {
                    // SAFETY: `RUNNING` and the life reference are ours.
                    unsafe {
                        (header.vtable.fail)(task, Failure::Cancelled);
                        complete(task, true);
                    }
                    return (Ran::Cancelled, ended);
                }
                match header
                    .state()
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

/// Calls a bare closure and frees its task; true when it panicked.
///
/// # Safety
/// The task is bare and was taken out of its queue.
#[inline]
pub(crate) unsafe fn call_bare(task: NonNull<Header>) -> bool {
    // SAFETY: taken out of its queue, so it is this thread's alone.
    unsafe { (task.as_ref().vtable.call)(task) }
}

/// Publishes the result and wakes the handle. The caller holds `RUNNING`, which ends here.
///
/// # Safety
/// The stage holds the result. With `life` the caller's life reference is dropped as well.
unsafe fn complete(task: NonNull<Header>, life: bool) {
    // SAFETY: the caller holds a reference.
    let header = unsafe { task.as_ref() };
    let place = header.shared().place.swap(0, AcqRel);
    if place != 0 {
        leave(header, place);
    }
    if life && header.state().load(Acquire) == (RUNNING | REF) {
        // Nobody else refers to it.
        // SAFETY: the only reference is the caller's.
        unsafe { (header.vtable.dealloc)(task) };
        return;
    }
    let before = header.state().fetch_xor(RUNNING | COMPLETED, AcqRel);
    if before & HANDLE != 0 {
        drop_quietly(|| header.join_waker().wake());
    } else {
        // SAFETY: there is no handle, so the completer owns the result.
        unsafe { (header.vtable.drop_stage)(task) };
    }
    if life {
        // SAFETY: the caller's life reference.
        unsafe { drop_ref(task) };
    }
}

/// Takes a completed task out of the registry, and gives the permit of its key back.
fn leave(header: &Header, place: u32) {
    if place & !KEYED != 0 {
        header.slot.spine().registry.remove(place & !KEYED);
    }
    if place & KEYED != 0
        && let Some(key) = header.key()
    {
        header.slot.release_key(key);
    }
}

/// Asks a task to end: drops the body at once if nobody runs it, else leaves a note. False when it had ended already.
///
/// # Safety
/// The caller holds a reference.
pub(crate) unsafe fn cancel(task: NonNull<Header>) -> bool {
    // SAFETY: by contract.
    let header = unsafe { task.as_ref() };
    let mut state = header.state().load(Acquire);
    loop {
        if state & COMPLETED != 0 {
            return false;
        }
        let next = if state & RUNNING != 0 {
            state | CANCELLED
        } else {
            state | CANCELLED | RUNNING
        };
        match header
            .state()
            .compare_exchange(state, next, AcqRel, Acquire)
        {
            Ok(_) => break,
            Err(now) => state = now,
        }
    }
    if state & RUNNING != 0 {
        return state & CANCELLED == 0;
    }
    if state & SCHEDULED == 0 {
        header.slot.note_ended_elsewhere(header.kind);
    } else if let Some(key) = header.key() {
        header.slot.note_keyed_dead(key);
    } // else by the worker that finds it in its queue
    // SAFETY: `RUNNING` is ours. A queued task's life reference stays with its queue; a waiting future's is ours now.
    unsafe {
        (header.vtable.fail)(task, Failure::Cancelled);
        complete(task, state & SCHEDULED == 0);
    }
    true
}

/// Cancels a task that was taken out of its queue and drops the life reference.
///
/// # Safety
/// The caller holds the life reference and took the task out of its queue.
pub(crate) unsafe fn cancel_taken(task: NonNull<Header>) -> bool {
    // SAFETY: by contract; `SCHEDULED` is still set, so `cancel` leaves the life reference to us.
    unsafe {
        task.as_ref().slot.note_ended_elsewhere(task.as_ref().kind);
        if task.as_ref().is_bare() {
            (task.as_ref().vtable.dealloc)(task);
            return true;
        }
        let cancelled = cancel(task);
        drop_ref(task);
        cancelled
    }
}

/// # Safety
/// The caller holds a reference.
pub(crate) unsafe fn add_ref(task: NonNull<Header>) {
    // SAFETY: by contract.
    unsafe { task.as_ref() }.state().fetch_add(REF, Relaxed);
}

/// # Safety
/// The caller gives up a reference that it holds.
pub(crate) unsafe fn drop_ref(task: NonNull<Header>) {
    // SAFETY: by contract.
    let header = unsafe { task.as_ref() };
    if header.state().fetch_sub(REF, AcqRel) & !(REF - 1) == REF {
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
    if header.state().fetch_and(!HANDLE, AcqRel) & COMPLETED != 0 {
        // SAFETY: completed with a handle: the result was left to the handle.
        unsafe { (header.vtable.drop_stage)(task) };
    }
    // SAFETY: the handle's reference.
    unsafe { drop_ref(task) };
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
    let mut state = header.state().load(Acquire);
    loop {
        if state & (COMPLETED | SCHEDULED) != 0 {
            return;
        }
        match header
            .state()
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
    header.state().fetch_or(OBSERVED | cancelled, AcqRel);
}
