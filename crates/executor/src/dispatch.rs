//! How a task becomes runnable: into the ring of the worker that made it so, or into its class's queue, and who is woken.
//!
//! - On a worker that is in a slice of the same class, a future goes to that worker's ring and a closure to its stack: no lock,
//!   no shared cache line.
//! - Tasks with a key go to the class's keyed part (`keyed`).
//! - Tasks with a priority, a deadline or a debt of virtual time go to the class's ordered part.
//! - Everything else goes to the class's queue.
//!
//! Deferral, the one exception to "runnable work wakes an idle worker": a single task that becomes runnable inside a poll
//! stays for the polling worker, which takes it right after the poll. A poll is short by contract; where it is not, the
//! supervisor finds the task at its next tick (10 ms) and wakes somebody. Waking at once would cost 5 µs of system call for
//! each message that two tasks pass to each other.

use crate::clock;
use crate::pool::WorkerShared;
use crate::queue::{Chain, Link};
use crate::spine::{ClassSlot, Spine, mode};
use crate::stats::bump;
use crate::task::Header;
use flyball_core::class::Group;
use flyball_core::time::Timestamp;
use flyball_policy::sched::tasks::{BONUS_NS, FairClock};
use flyball_policy::sched::{Algorithm, order};
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::*;

/// How far a future may be ahead of its class's virtual time and still run in order of arrival, ns: one default slice, so that
/// short polls never meet the heap.
const FAIR_SLACK: u64 = 100_000;

/// No class.
pub(crate) const NO_CLASS: u8 = u8::MAX;

/// What the thread that runs tasks knows about itself.
pub(crate) struct Local {
    pub(crate) spine: &'static Spine,
    pub(crate) worker: usize,
    pub(crate) shared: *const WorkerShared,
    /// Class of the slice in progress, else [`NO_CLASS`].
    pub(crate) slice_class: Cell<u8>,
    /// A future is being polled.
    pub(crate) polling: Cell<bool>,
    /// What runs, for checkpoints.
    pub(crate) task: Cell<*const Header>,
    pub(crate) task_started: Cell<u64>,
    pub(crate) pool: *const crate::pool::Pool,
    /// The thread drives tokio: see `io`.
    pub(crate) io: bool,
    /// The thread runs what may block and has lent its token: see `give_way::blocking`.
    pub(crate) token_lent: Cell<bool>,
    /// Closures submitted, for sampling.
    pub(crate) submitted: Cell<u8>,
    /// CPU time that guests used for the slice in progress, ns: see `guests`.
    #[cfg(feature = "rayon")]
    pub(crate) guest_ns: Cell<u64>,
}

/// Of the closures without a handle that tasks submit, one in so many has its waiting time measured, and counts for all: a
/// clock reading costs a fifth of such a closure.
const SAMPLING: u8 = 4;

impl Local {
    /// For how many closures the next one's arrival time speaks; 0: do not read the clock for it.
    #[inline]
    pub(crate) fn next_sample(&self) -> u8 {
        let count = self.submitted.get().wrapping_add(1);
        self.submitted.set(count);
        if count.is_multiple_of(SAMPLING) {
            SAMPLING
        } else {
            0
        }
    }
}

thread_local! {
    static LOCAL: Cell<*const Local> = const { Cell::new(std::ptr::null()) };
}

/// Makes `local` the thread's own until the guard is dropped.
pub(crate) struct Entered(*const Local);

pub(crate) fn enter(local: &Local) -> Entered {
    Entered(LOCAL.replace(local))
}

impl Drop for Entered {
    fn drop(&mut self) {
        LOCAL.set(self.0);
    }
}

/// What the calling thread is, if it is a worker.
#[inline]
pub(crate) fn local<'a>() -> Option<&'a Local> {
    // SAFETY: set by `enter` for as long as the guard lives, on this thread only; the reference does not leave the call
    // that asked, which runs inside the guard's life.
    unsafe { LOCAL.get().as_ref() }
}

/// True on a worker, or a guest, of the pool that this spine serves.
pub(crate) fn is_worker_of(spine: &Spine) -> bool {
    #[cfg(feature = "rayon")]
    if crate::guests::is_guest_of(spine) {
        return true;
    }
    local().is_some_and(|local| std::ptr::eq(local.spine, spine))
}

/// Tasks of a class that do not run in order of arrival.
#[derive(Default)]
pub(crate) struct Ordered {
    /// By due time: priorities and deadlines.
    due: BinaryHeap<Reverse<Entry>>,
    /// By virtual time: futures that used more than their part.
    late: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    /// What the futures of the class would have run if they had shared evenly.
    clock: FairClock,
}

struct Entry {
    key: u64,
    sequence: u64,
    task: NonNull<Header>,
}

// SAFETY: a task may be run by any thread; the entry only carries it there.
unsafe impl Send for Entry {}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.key, self.sequence).cmp(&(other.key, other.sequence))
    }
}

impl Ordered {
    /// All of them, in no order.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = NonNull<Header>> {
        self.due
            .iter()
            .chain(&self.late)
            .map(|Reverse(entry)| entry.task)
    }
}

/// Which of the ordered tasks may be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that are due no later than the next in order of arrival, or whose debt is paid.
    BeforeArrivals,
    /// Any, for nothing else is left.
    Any,
}

impl ClassSlot {
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.spine().algorithm.load(Relaxed) {
            0 => Algorithm::RoundRobin,
            1 => Algorithm::Priority,
            2 => Algorithm::Cfs,
            _ => Algorithm::ProportionalShare,
        }
    }

    fn due_of(&self, enqueued: u64, priority: i8, deadline: u64) -> u64 {
        order::due(
            Timestamp::from_nanos(enqueued),
            priority,
            (deadline != 0).then(|| Timestamp::from_nanos(deadline)),
            self.latency_target.load(Relaxed),
            self.algorithm(),
        )
    }

    fn push_due(&self, task: NonNull<Header>) {
        // SAFETY: runnable and ours to enqueue.
        let header = unsafe { task.as_ref() };
        let deadline = header.extra().map_or(0, |extra| extra.deadline);
        let key = self.due_of(header.enqueued.load(Relaxed), header.priority, deadline);
        self.push_ordered(task, key, false);
    }

    fn push_ordered(&self, task: NonNull<Header>, key: u64, late: bool) {
        let mut ordered = self.ordered.lock().unwrap_or_else(|e| e.into_inner());
        ordered.sequence += 1;
        let entry = Reverse(Entry {
            key,
            sequence: ordered.sequence,
            task,
        });
        if late {
            ordered.late.push(entry);
        } else {
            ordered.due.push(entry);
        }
        self.set_aside.fetch_add(1, SeqCst);
        self.takeable.fetch_add(1, SeqCst);
        self.publish_ordered(&ordered);
    }

    fn publish_ordered(&self, ordered: &Ordered) {
        let key =
            |heap: &BinaryHeap<Reverse<Entry>>| heap.peek().map_or(u64::MAX, |entry| entry.0.key);
        self.ordered_due.store(key(&ordered.due), Relaxed);
        self.ordered_late.store(key(&ordered.late), Relaxed);
    }

    /// Takes a task of the key whose turn it is, else the most urgent of the ordered tasks that may go now (`now` in ns).
    #[inline]
    pub(crate) fn take_aside(&self, which: Which, now: u64) -> Option<NonNull<Header>> {
        if self.takeable.load(Relaxed) == 0 {
            return None;
        }
        self.take_aside_slow(which, now)
    }

    #[cold]
    fn take_aside_slow(&self, which: Which, now: u64) -> Option<NonNull<Header>> {
        if self.key_turns.load(Relaxed) != 0
            && let Some(task) = self.take_keyed(which, now)
        {
            return Some(task);
        }
        self.take_ordered(which)
    }

    fn take_ordered(&self, which: Which) -> Option<NonNull<Header>> {
        let arrivals_due = || self.due_of(self.served_until.load(Relaxed), 0, 0);
        let late_until = || self.virtual_now.load(Relaxed).saturating_add(FAIR_SLACK);
        if which == Which::BeforeArrivals
            && self.ordered_due.load(Relaxed) > arrivals_due()
            && self.ordered_late.load(Relaxed) > late_until()
        {
            return None;
        }
        let mut ordered = self.ordered.lock().unwrap_or_else(|e| e.into_inner());
        let due_first = ordered
            .due
            .peek()
            .is_some_and(|entry| which == Which::Any || entry.0.key <= arrivals_due());
        let entry = if due_first {
            ordered.due.pop()
        } else if ordered
            .late
            .peek()
            .is_some_and(|entry| which == Which::Any || entry.0.key <= late_until())
        {
            let entry = ordered.late.pop();
            if let Some(Reverse(entry)) = &entry {
                // Nobody is eligible sooner: virtual time moves on to the first who will be.
                ordered.clock.catch_up(entry.key.saturating_sub(FAIR_SLACK));
                self.virtual_now.store(ordered.clock.now(), Relaxed);
            }
            entry
        } else {
            None
        };
        let Reverse(entry) = entry?;
        self.set_aside.fetch_sub(1, SeqCst);
        self.takeable.fetch_sub(1, SeqCst);
        self.publish_ordered(&ordered);
        Some(entry.task)
    }

    /// Counts a slice in which futures ran: `used` ns of CPU time, shared by `ready` tasks.
    pub(crate) fn pass_virtual_time(&self, used: u64, ready: usize) {
        let mut ordered = self.ordered.lock().unwrap_or_else(|e| e.into_inner());
        ordered.clock.charge(0, used, ready);
        self.virtual_now.store(ordered.clock.now(), Relaxed);
    }

    pub(crate) fn take_ordered_all(&self) -> Vec<NonNull<Header>> {
        std::iter::from_fn(|| self.take_ordered(Which::Any)).collect()
    }

    /// Tells workers that this class has work: after it was made visible.
    #[inline]
    pub(crate) fn announce(&self) {
        let spine = self.spine();
        let newly = spine.signals.mark_ready(self.index);
        if self.mode.load(SeqCst) != mode::OPEN {
            return; // whoever resumes the class looks for work after the mode has changed
        }
        let group = self.group();
        if !spine.signals.wake_one(group) && newly {
            self.revoke_lower();
        }
    }

    /// As [`ClassSlot::announce`], for a task that one worker is meant for: it is woken if it sleeps.
    pub(crate) fn announce_to(&self, group: Group, worker: usize) {
        let signals = &self.spine().signals;
        // Before the wake-up: who is woken and sees no bit goes to sleep again, and nobody else was told.
        let newly = signals.mark_ready(self.index);
        if self.mode.load(SeqCst) != mode::OPEN {
            return; // whoever resumes the class looks for work after the mode has changed
        }
        if !signals.wake_worker(group, worker) && !signals.wake_one(group) && newly {
            self.revoke_lower();
        }
    }

    /// Nobody was woken: workers of the group that run a lower rank end their slices at the next task boundary.
    #[cold]
    pub(crate) fn revoke_lower(&self) {
        let spine = self.spine();
        let group = self.group();
        spine
            .signals
            .revoke_below(spine.started_workers(group), self.rank.load(Relaxed));
    }
}

/// Puts a new task where it belongs and wakes whoever should run it.
///
/// # Safety
/// The caller holds the task's life reference and gives it away; the task is `SCHEDULED` and in no queue.
#[inline]
pub(crate) unsafe fn enqueue(task: NonNull<Header>) {
    // SAFETY: by contract.
    unsafe { enqueue_counted(task, false) }
}

/// As [`enqueue`]; `again` says that the task is not new.
///
/// # Safety
/// As [`enqueue`].
#[inline(always)]
unsafe fn enqueue_counted(task: NonNull<Header>, again: bool) {
    // SAFETY: by contract alive until it is handed over below.
    let header = unsafe { task.as_ref() };
    let slot = header.slot;
    if header.priority != 0 || header.extra().is_some() {
        return enqueue_special(slot, task, again);
    }
    match local() {
        Some(local)
            if local.slice_class.get() == slot.index
                && std::ptr::eq(local.spine, slot.spine())
                && (header.is_future() || !local.io) =>
        {
            push_local(local, slot, task, header.is_future(), again);
        }
        Some(local)
            if local.io
                && local.slice_class.get() == NO_CLASS
                && header.is_future()
                && std::ptr::eq(local.spine, slot.spine())
                && slot.group() == Group::Front =>
        {
            push_from_driver(local, slot, task, again);
        }
        _ => {
            if again {
                slot.again.fetch_add(1, Relaxed);
            }
            slot.queue.push(task.cast::<Link>());
            slot.announce();
        }
    }
}

#[cold]
fn enqueue_special(slot: &'static ClassSlot, task: NonNull<Header>, again: bool) {
    // SAFETY: ours until it is pushed.
    let header = unsafe { task.as_ref() };
    if header.samples.load(Relaxed) == 0 {
        header.enqueued.store(clock::now(slot.spine()), Relaxed);
        header.samples.store(1, Relaxed);
    }
    if !again {
        slot.special.fetch_add(1, Relaxed);
    }
    if let Some(key) = header.key() {
        header.mark_keyed();
        let deadline = header.extra().map_or(0, |extra| extra.deadline);
        let rank = slot.due_of(header.enqueued.load(Relaxed), header.priority, deadline);
        return slot.push_keyed(task, key, rank);
    }
    let tag = header.extra().and_then(|extra| extra.tag);
    let ordered = header.priority != 0
        || header.extra().is_some_and(|extra| extra.deadline != 0)
            && slot.algorithm() == Algorithm::ProportionalShare;
    match tag {
        Some(tag) if !ordered => slot.spine().tags.push(slot, usize::from(tag), task),
        _ if ordered => {
            slot.push_due(task);
            slot.announce();
        }
        _ => {
            slot.again.fetch_add(1, Relaxed);
            slot.queue.push(task.cast::<Link>());
            slot.announce();
        }
    }
}

/// Puts a woken future where it belongs.
///
/// # Safety
/// As [`enqueue`].
#[inline]
pub(crate) unsafe fn enqueue_woken(task: NonNull<Header>) {
    // SAFETY: by contract.
    unsafe { enqueue_at(task, clock::now(task.as_ref().slot.spine())) }
}

/// As [`enqueue_woken`], at a time (ns) that the caller has read.
///
/// # Safety
/// As [`enqueue`].
#[inline]
pub(crate) unsafe fn enqueue_at(task: NonNull<Header>, now: u64) {
    // SAFETY: by contract alive until it is handed over below.
    let header = unsafe { task.as_ref() };
    let slot = header.slot;
    let spine = slot.spine();
    header.enqueued.store(now, Relaxed);
    header.samples.store(1, Relaxed);
    if spine.terminated.load(Relaxed) {
        // Nothing runs any more; whoever ends the pool cancels what waits, also this one, which the registry knows. Not here:
        // the caller of a waker may hold a lock that the future's drop takes, or be the drop of another such future.
        slot.again.fetch_add(1, Relaxed);
        slot.queue.push(task.cast::<Link>());
        return;
    }
    if spine.fair_futures.load(Relaxed) && hold_back(slot, task) {
        return;
    }
    // SAFETY: by contract.
    unsafe { enqueue_counted(task, true) };
}

/// Sets a future aside that used more than its part of its class's time; true when it did.
#[inline]
fn hold_back(slot: &'static ClassSlot, task: NonNull<Header>) -> bool {
    // SAFETY: ours until it is pushed.
    let header = unsafe { task.as_ref() };
    let virtual_now = slot.virtual_now.load(Relaxed);
    let vruntime = header
        .vruntime()
        .load(Relaxed)
        .max(virtual_now.saturating_sub(BONUS_NS));
    header.vruntime().store(vruntime, Relaxed);
    if vruntime <= virtual_now.saturating_add(FAIR_SLACK)
        || header.priority != 0
        || header.key().is_some()
    {
        return false;
    }
    slot.push_ordered(task, vruntime, true);
    slot.announce();
    true
}

#[inline]
fn push_local(
    local: &Local,
    slot: &'static ClassSlot,
    task: NonNull<Header>,
    is_future: bool,
    again: bool,
) {
    // SAFETY: the worker of this thread outlives its `Local`.
    let shared = unsafe { &*local.shared };
    if !again {
        bump(&shared.submitted, 1);
    }
    let spine = local.spine;
    if is_future {
        match shared.ring.push(task) {
            Ok(1) if local.polling.get() => return, // taken right after the poll
            Ok(_) => {}
            Err(task) => {
                let ring = &shared.ring;
                return overflow(slot, task, |each| {
                    ring.steal(each);
                });
            }
        }
    } else if let Err(task) = shared.stack.push(task) {
        let stack = &shared.stack;
        return overflow(slot, task, |each| {
            (0..stack.len() / 2)
                .map_while(|_| stack.steal())
                .for_each(each);
        });
    }
    if spine.signals.any_idle(slot.group()) {
        spine.signals.wake_one(slot.group());
    }
}

/// A future that tokio's driver woke on the I/O thread: kept there, for the poll that follows the driver's turn.
fn push_from_driver(local: &Local, slot: &'static ClassSlot, task: NonNull<Header>, again: bool) {
    // SAFETY: as in `push_local`.
    let (shared, pool) = unsafe { (&*local.shared, &*local.pool) };
    if !again {
        slot.special.fetch_add(1, Relaxed);
    }
    if shared.ring.is_empty() {
        shared.ring_class.store(slot.index, Relaxed);
    }
    let kept = if shared.ring_class.load(Relaxed) == slot.index {
        shared.ring.push(task)
    } else {
        Err(task)
    };
    match kept {
        Ok(1) => {
            pool.wake_io();
            // A task of tokio's own may block this thread: the supervisor sees to it that the future is taken from here.
            if local.spine.supervisor_asleep.load(Relaxed) {
                local.spine.rouse_supervisor();
            }
        }
        // More than one: others of the group may help.
        Ok(_) => {
            local.spine.signals.wake_one(Group::Front);
        }
        Err(task) => {
            slot.again.fetch_add(1, Relaxed);
            slot.queue.push(task.cast::<Link>());
            slot.announce();
        }
    }
}

/// No room: the older half and the new task go to the class's queue in one step.
#[cold]
fn overflow(
    slot: &'static ClassSlot,
    task: NonNull<Header>,
    older: impl FnOnce(&mut dyn FnMut(NonNull<Header>)),
) {
    let mut chain: Option<Chain> = None;
    let mut count = 0;
    let mut append = |entry: NonNull<Header>| {
        count += 1;
        match &mut chain {
            Some(chain) => chain.append(entry.cast()),
            None => chain = Some(Chain::of(entry.cast())),
        }
    };
    older(&mut append);
    append(task);
    slot.again.fetch_add(count, Relaxed);
    if let Some(chain) = chain {
        slot.queue.push_chain(chain);
        slot.announce();
    }
}
