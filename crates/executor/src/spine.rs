//! Memory that outlives every task: the signals, the class queues and the registry of waiting futures.
//!
//! A waker may be called from any thread at any time, also while its task ends on another. After it has linked the task into a
//! queue, the task may run, end, and the whole pool shut down before the waker has looked for a worker to wake. What a waker
//! touches is therefore never given back to the allocator: a pool that ends hands its spine to a free list, and the next pool
//! takes it from there. A late waker at worst wakes a worker of the next pool for nothing, or queues a task that has already
//! ended, which is skipped. The memory is bounded by the largest number of pools that ever lived at once.

use crate::dispatch::Ordered;
use crate::keyed::Keyed;
use crate::queue::{Link, Queue};
use crate::registry::Registry;
use crate::shedding::Shedder;
use crate::signals::Signals;
use crate::tags::Tags;
use crate::task::{self, Header};
use flyball_core::class::{Group, MAX_CLASSES};
use flyball_core::id::KindId;
use flyball_policy::sched::keys;
use std::hash::RandomState;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

/// Most worker threads of a group.
pub const MAX_WORKERS_PER_GROUP: usize = 128;
pub(crate) const MAX_WORKERS: usize = 2 * MAX_WORKERS_PER_GROUP;

/// The worker that drives the executor's own tokio runtime: the last front one, outside the range of those started.
pub(crate) const IO_WORKER: usize = MAX_WORKERS_PER_GROUP - 1;

/// Indexes of the workers of a group.
pub(crate) fn workers_of(group: Group) -> Range<usize> {
    match group {
        Group::Front => 0..MAX_WORKERS_PER_GROUP,
        Group::Back => MAX_WORKERS_PER_GROUP..MAX_WORKERS,
    }
}

pub(crate) fn group_of(worker: usize) -> Group {
    if worker < MAX_WORKERS_PER_GROUP {
        Group::Front
    } else {
        Group::Back
    }
}

pub(crate) struct Spine {
    pub(crate) signals: Signals,
    pub(crate) classes: Box<[ClassSlot]>,
    pub(crate) registry: Registry,
    /// Number of workers that were ever started in each group: bounds the scans over workers.
    pub(crate) started: [AtomicUsize; 2],
    /// Nothing is accepted from outside any more.
    pub(crate) closing: AtomicBool,
    /// Nothing runs any more: what is queued is cancelled by whoever queued it.
    pub(crate) terminated: AtomicBool,
    /// The supervisor sleeps without a deadline and must be woken by whoever makes the pool busy.
    pub(crate) supervisor_asleep: AtomicBool,
    pub(crate) supervisor: Mutex<Option<std::thread::Thread>>,
    /// Futures that used more than their part of the class's time are held back (algorithm `cfs`).
    pub(crate) fair_futures: AtomicBool,
    /// The algorithm's number, for the order inside a class.
    pub(crate) algorithm: AtomicU8,
    /// The pool runs on a manual clock, which shows `manual_now`, ns.
    pub(crate) manual: AtomicBool,
    pub(crate) manual_now: AtomicU64,
    pub(crate) tags: Tags,
    /// The classes that have a joint ceiling, and of these those that must wait at checkpoints now: see `throttling`.
    pub(crate) limited: AtomicU64,
    pub(crate) held: AtomicU64,
    /// The classes that shed: see `shedding`.
    pub(crate) shedding: AtomicU64,
    /// Tasks that were cancelled because the pool ended, by whoever did it.
    pub(crate) swept: AtomicUsize,
    /// By what names of keys are hashed.
    pub(crate) key_seed: RandomState,
    /// Keys that each class knows at once.
    pub(crate) max_keys: AtomicUsize,
    /// When the first key's bucket refills for which tasks wait, ns; `u64::MAX` when there is none.
    pub(crate) key_refill: AtomicU64,
}

/// What making a task of a class runnable needs.
pub(crate) struct ClassSlot {
    pub(crate) index: u8,
    pub(crate) spine: AtomicUsize,
    pub(crate) queue: Queue,
    /// Tasks that do not go in order of arrival.
    pub(crate) ordered: Mutex<Ordered>,
    /// Tasks that wait outside the queue because they do not go in order of arrival: those in `ordered` and in `keyed`.
    pub(crate) set_aside: AtomicUsize,
    /// What of them could be taken now: tasks in `ordered`, keys with a turn in `keyed`.
    pub(crate) takeable: AtomicUsize,
    /// Smallest due time in `ordered`; `u64::MAX` when there is none.
    pub(crate) ordered_due: AtomicU64,
    /// Smallest virtual time in `ordered`; `u64::MAX` when there is none.
    pub(crate) ordered_late: AtomicU64,
    /// Tasks that name a key.
    pub(crate) keyed: Mutex<Keyed>,
    /// How many of them wait.
    pub(crate) keyed_len: AtomicUsize,
    /// Keys with a turn.
    pub(crate) key_turns: AtomicUsize,
    /// Tasks tagged for workers.
    pub(crate) tagged: AtomicUsize,
    /// The class's latency target, ns.
    pub(crate) latency_target: AtomicU64,
    /// Arrival time of the task that was taken from the queue last, ns.
    pub(crate) served_until: AtomicU64,
    /// Virtual time of the class's futures, ns.
    pub(crate) virtual_now: AtomicU64,
    pub(crate) group: AtomicU8,
    pub(crate) rank: AtomicU8,
    /// It has a ceiling or a limit on concurrency, so that only the scheduler can say whether it may run.
    pub(crate) restricted: AtomicBool,
    /// Entries the queue accepts: the least of the two that follow, or 0 while the class is being removed.
    pub(crate) limit: AtomicUsize,
    /// What the class says of that.
    pub(crate) hard: AtomicUsize,
    /// What shedding says of that.
    pub(crate) soft: AtomicUsize,
    /// Tasks that may be refused are, if they waited for longer than this, ns.
    pub(crate) late_after: AtomicU64,
    /// Tasks refused by shedding: when they were submitted, and when their turn came.
    pub(crate) shed: AtomicU64,
    pub(crate) shed_late: AtomicU64,
    pub(crate) shedding: Mutex<Option<Shedder>>,
    /// Tasks refused because the queue was full.
    pub(crate) refused: AtomicU64,
    /// Tasks that were cancelled while no worker had them, by kind: futures that waited, and what a shutdown swept.
    pub(crate) ended_elsewhere: Mutex<Vec<(KindId, u64)>>,
    /// Whether workers may run the class: see [`mode`].
    pub(crate) mode: AtomicU8,
    /// Told apart from classes that had this slot before.
    pub(crate) generation: AtomicU32,
    /// Entries the queue had ever had when the class began.
    pushed_before: AtomicUsize,
    /// Entries of the queue that were no new tasks: woken futures, and what came back from rings and tags.
    pub(crate) again: AtomicU64,
    /// New tasks that went elsewhere than to the queue or to a worker's ring or stack.
    pub(crate) special: AtomicU64,
}

/// Whether a class is run.
pub(crate) mod mode {
    pub(crate) const OPEN: u8 = 0;
    /// Nothing of it starts; what is submitted waits.
    pub(crate) const PAUSED: u8 = 1;
    /// There is no such class any more: what slipped in is cancelled.
    pub(crate) const REMOVED: u8 = 2;
}

impl ClassSlot {
    fn new(index: u8) -> Self {
        ClassSlot {
            index,
            spine: AtomicUsize::new(0),
            queue: Queue::new(),
            ordered: Mutex::new(Ordered::default()),
            set_aside: AtomicUsize::new(0),
            takeable: AtomicUsize::new(0),
            keyed: Mutex::default(),
            keyed_len: AtomicUsize::new(0),
            key_turns: AtomicUsize::new(0),
            ordered_due: AtomicU64::new(u64::MAX),
            ordered_late: AtomicU64::new(u64::MAX),
            tagged: AtomicUsize::new(0),
            latency_target: AtomicU64::new(0),
            served_until: AtomicU64::new(0),
            virtual_now: AtomicU64::new(0),
            group: AtomicU8::new(0),
            rank: AtomicU8::new(0),
            restricted: AtomicBool::new(false),
            limit: AtomicUsize::new(usize::MAX),
            hard: AtomicUsize::new(usize::MAX),
            soft: AtomicUsize::new(usize::MAX),
            late_after: AtomicU64::new(u64::MAX),
            shed: AtomicU64::new(0),
            shed_late: AtomicU64::new(0),
            shedding: Mutex::new(None),
            refused: AtomicU64::new(0),
            ended_elsewhere: Mutex::default(),
            mode: AtomicU8::new(mode::REMOVED),
            generation: AtomicU32::new(0),
            pushed_before: AtomicUsize::new(0),
            again: AtomicU64::new(0),
            special: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn spine(&self) -> &'static Spine {
        // SAFETY: set once in `Spine::take` before any task can name this slot, to a spine that is never freed.
        unsafe { &*(self.spine.load(Relaxed) as *const Spine) }
    }

    #[inline]
    pub(crate) fn group(&self) -> Group {
        if self.group.load(Relaxed) == 0 {
            Group::Front
        } else {
            Group::Back
        }
    }

    /// Makes the slot ready for a new class. No task of an earlier one is left, and no handle of it.
    pub(crate) fn begin_class(&self) {
        self.virtual_now.store(0, SeqCst);
        *self.ordered.lock().unwrap_or_else(|e| e.into_inner()) = Ordered::default();
        self.forget_keys();
        self.served_until.store(0, SeqCst);
        self.refused.store(0, SeqCst);
        self.soft.store(usize::MAX, SeqCst);
        self.late_after.store(u64::MAX, SeqCst);
        self.shed.store(0, SeqCst);
        self.shed_late.store(0, SeqCst);
        *self.shedding.lock().unwrap_or_else(|e| e.into_inner()) = None;
        self.ended_elsewhere
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clear();
        self.pushed_before.store(self.queue.pushed(), SeqCst);
        self.again.store(0, SeqCst);
        self.special.store(0, SeqCst);
        self.generation.fetch_add(1, SeqCst);
        self.mode.store(mode::OPEN, SeqCst);
    }

    /// Tasks submitted since the class began, those not counted that a task gave to its own worker.
    pub(crate) fn submitted_elsewhere(&self) -> u64 {
        let again = self.again.load(SeqCst);
        let pushed = self
            .queue
            .pushed()
            .wrapping_sub(self.pushed_before.load(SeqCst)) as u64;
        (pushed + self.special.load(SeqCst)).saturating_sub(again)
    }

    /// Counts a task that was cancelled while no worker had it.
    pub(crate) fn note_ended_elsewhere(&self, kind: KindId) {
        let mut ended = self
            .ended_elsewhere
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        match ended.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => ended.push((kind, 1)),
        }
    }

    /// True when tasks wait outside the queue: with an order of their own, with a key, or tagged for a worker.
    #[inline]
    pub(crate) fn has_others(&self) -> bool {
        self.set_aside.load(Relaxed) != 0 || self.tagged.load(Relaxed) != 0
    }

    /// Tasks that wait in the class's queue, those with an order of their own or a key included.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len() + self.set_aside.load(SeqCst) + self.tagged.load(SeqCst)
    }

    /// True when a worker could take a task: one that waits, and whose key is not at a limit.
    #[inline]
    pub(crate) fn is_runnable(&self) -> bool {
        self.queue.len() + self.takeable.load(SeqCst) + self.tagged.load(SeqCst) != 0
    }
}

static FREE: Mutex<Vec<&'static Spine>> = Mutex::new(Vec::new());

impl Spine {
    /// A spine for a new pool: a reused one, else a new one.
    pub(crate) fn take(parallelism: u32) -> &'static Spine {
        let reused = FREE.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let spine = match reused {
            Some(spine) => spine,
            None => {
                let spine: &'static Spine = Box::leak(Box::new(Spine {
                    signals: Signals::new(MAX_WORKERS, parallelism),
                    classes: (0..MAX_CLASSES as u8).map(ClassSlot::new).collect(),
                    registry: Registry::new(),
                    started: [AtomicUsize::new(0), AtomicUsize::new(0)],
                    closing: AtomicBool::new(false),
                    terminated: AtomicBool::new(false),
                    supervisor_asleep: AtomicBool::new(false),
                    supervisor: Mutex::new(None),
                    fair_futures: AtomicBool::new(false),
                    algorithm: AtomicU8::new(0),
                    manual: AtomicBool::new(false),
                    manual_now: AtomicU64::new(0),
                    tags: Tags::new(),
                    limited: AtomicU64::new(0),
                    held: AtomicU64::new(0),
                    shedding: AtomicU64::new(0),
                    swept: AtomicUsize::new(0),
                    key_seed: RandomState::new(),
                    max_keys: AtomicUsize::new(keys::DEFAULT_CAPACITY),
                    key_refill: AtomicU64::new(u64::MAX),
                }));
                for slot in &spine.classes {
                    slot.spine.store(std::ptr::from_ref(spine) as usize, SeqCst);
                }
                spine
            }
        };
        spine.signals.set_parallelism(parallelism);
        spine.closing.store(false, SeqCst);
        spine.terminated.store(false, SeqCst);
        spine.manual.store(false, SeqCst);
        spine.swept.store(0, SeqCst);
        spine
    }

    /// Hands the spine to the next pool. No worker of this pool runs any more.
    pub(crate) fn give_back(&'static self) {
        self.sweep();
        for slot in &self.classes {
            slot.limit.store(usize::MAX, SeqCst);
            slot.hard.store(usize::MAX, SeqCst);
            slot.forget_keys();
        }
        self.limited.store(0, SeqCst);
        self.shedding.store(0, SeqCst);
        self.held.store(0, SeqCst);
        self.key_refill.store(u64::MAX, SeqCst);
        for started in &self.started {
            started.store(0, SeqCst);
        }
        *self.supervisor.lock().unwrap_or_else(|e| e.into_inner()) = None;
        FREE.lock().unwrap_or_else(|e| e.into_inner()).push(self);
    }

    /// Cancels every task that is queued or waits.
    pub(crate) fn sweep(&'static self) {
        loop {
            let queued: usize = self.classes.iter().map(ClassSlot::sweep).sum();
            let waiting = self.registry.cancel_all();
            self.swept.fetch_add(waiting, SeqCst);
            if queued + waiting == 0 {
                return;
            }
            // What was dropped may have woken others, whose remains stand in the queues now.
        }
    }

    /// Workers of a group that may exist.
    #[inline]
    pub(crate) fn started_workers(&self, group: Group) -> Range<usize> {
        let range = workers_of(group);
        let count = self.started[usize::from(group == Group::Back)].load(Relaxed);
        range.start..range.start + count
    }

    /// Wakes the supervisor if it sleeps for want of work.
    #[cold]
    pub(crate) fn rouse_supervisor(&self) {
        if self.supervisor_asleep.swap(false, SeqCst)
            && let Some(thread) = &*self.supervisor.lock().unwrap_or_else(|e| e.into_inner())
        {
            thread.unpark();
        }
    }
}

impl ClassSlot {
    /// Cancels everything in this class's queue; returns how many tasks.
    pub(crate) fn sweep(&self) -> usize {
        let mut cancelled = 0;
        loop {
            let mut batch: Vec<NonNull<Header>> = Vec::new();
            self.queue
                .take(64, |link: NonNull<Link>| batch.push(link.cast()));
            if batch.is_empty() {
                batch = self.take_keyed_all();
            }
            if batch.is_empty() {
                batch = self.take_ordered_all();
            }
            if batch.is_empty() {
                let tags = &self.spine().tags;
                batch.extend(std::iter::from_fn(|| tags.steal(0..MAX_WORKERS, self)));
            }
            if batch.is_empty() {
                break;
            }
            for task in batch {
                // SAFETY: taken from a queue, so this thread holds the task's life reference.
                cancelled += usize::from(unsafe { task::cancel_taken(task) });
            }
        }
        let spine = self.spine();
        spine.swept.fetch_add(cancelled, SeqCst);
        spine
            .signals
            .unmark_ready(self.index, || !self.is_runnable());
        cancelled
    }
}
