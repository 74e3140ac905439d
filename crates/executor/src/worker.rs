//! One worker thread: asks for a slice, drains a class for that long, settles, sleeps when there is nothing.
//!
//! Closures run directly. Futures run inside one `Handle::block_on` of tokio's for as long as futures follow each other, so that
//! tokio's cooperative budget holds for them, is re-armed when it is used up, and the cost of entering is shared; a closure
//! leaves it, so that calls that block (`blocking_send`, `Handle::block_on`) work in closures.
//!
//! CPU time is read from the thread's clock once a slice and charged to the slice's class; latencies use the cheap clock, read
//! once at each task's end, which is the start of the next.

mod park;

use self::park::WAKE_COST;
use crate::dispatch::{self, Local, NO_CLASS, Which};
use crate::ledger::Used;
use crate::os;
use crate::pool::{Pool, TaskWhat, UNNAMED, WorkerShared, command, slice, state, token};
use crate::signals::Signals;
use crate::spine::{ClassSlot, mode};
use crate::stats::bump;
use crate::task::{self, Header, Ran};
use flyball_core::class::Group;
use flyball_core::id::ClassSet;
use flyball_core::time::{Timestamp, thread_cpu_nanos};
use flyball_policy::sched::{Grant, Pick};
use std::future::poll_fn;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::task::{Poll, Waker};

/// Most tasks taken from a class's queue at once.
const BATCH: usize = 32;
/// Every so many tasks from its ring a worker looks at the class's queue first, so that work that refills itself from inside
/// does not shut out work from outside.
const QUEUE_INTERVAL: u32 = 61;
/// Closures without a handle that tasks submitted share a clock reading, if those of the class took less than this, ns, on
/// average of late: a reading costs a fifth of the smallest.
const TINY: u64 = 500;
/// How many share one.
const TINY_GROUP: u64 = 4;
/// How long the I/O thread runs futures before it looks at the sockets again, ns: a default slice.
const TURN: u64 = 100_000;

struct Slice {
    grant: Option<Grant>,
    slot: &'static ClassSlot,
    end: u64,
    started: u64,
    /// Futures were polled in it.
    polled: bool,
}

pub(crate) struct Worker {
    pool: Arc<Pool>,
    shared: Arc<WorkerShared>,
    local: Box<Local>,
    slice: Option<Slice>,
    /// End of the last task, ns: the present as far as scheduling is concerned.
    now: u64,
    /// Thread CPU time that has been charged, ns.
    charged: u64,
    token: bool,
    searching: bool,
    since_queue: u32,
    over_parallelism: bool,
    /// Time spent in tasks since the worker was woken, ns.
    worked: u64,
    naps: u32,
    /// Times to sleep without a search, and how many were last decided.
    spin_skips: u32,
    spin_backoff: u32,
    /// Tiny closures of the slice's class that ran since `now` was read.
    unread: u64,
    /// Mean run time by class, ns, for the size of batches.
    mean: Box<[u64]>,
    mode: Mode,
}

/// Where a worker runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// On a thread of its own.
    Thread,
    /// On the thread that drives tokio; see [`io`](crate::io).
    Io,
    /// On whatever thread calls `drain`; the pool has none.
    Manual,
}

/// What a worker found when it asked for a slice.
enum Begin {
    Slice,
    /// Nothing may run now; something may at the given time, if that is not zero.
    Nothing {
        until: u64,
    },
}

impl Worker {
    pub(crate) fn new(pool: Arc<Pool>, shared: Arc<WorkerShared>, mode: Mode) -> Self {
        let local = Box::new(Local {
            spine: pool.spine,
            worker: shared.index,
            shared: Arc::as_ptr(&shared),
            slice_class: NO_CLASS.into(),
            polling: false.into(),
            task: std::ptr::null::<Header>().into(),
            task_started: 0.into(),
            pool: Arc::as_ptr(&pool),
            io: mode == Mode::Io,
            token_lent: false.into(),
            submitted: 0.into(),
            #[cfg(feature = "rayon")]
            guest_ns: 0.into(),
        });
        Worker {
            now: pool.now().as_nanos(),
            charged: if mode == Mode::Manual {
                0
            } else {
                thread_cpu_nanos()
            },
            mean: vec![1_000; flyball_core::class::MAX_CLASSES].into(),
            pool,
            shared,
            local,
            slice: None,
            token: false,
            searching: false,
            since_queue: 0,
            over_parallelism: false,
            worked: WAKE_COST,
            naps: 0,
            spin_skips: 0,
            spin_backoff: 1,
            unread: 0,
            mode,
        }
    }

    fn signals(&self) -> &'static Signals {
        &self.pool.spine.signals
    }

    fn group(&self) -> Group {
        self.shared.group
    }

    /// Runs tasks until the worker is told to stop.
    pub(crate) fn run(mut self) {
        let tokio = self.pool.tokio.clone();
        let _tokio = tokio.enter();
        let local: *const Local = &*self.local;
        // SAFETY: the box outlives the guard, which is dropped at the end of this function.
        let _entered = dispatch::enter(unsafe { &*local });
        self.signals().start_searching(self.group());
        self.searching = true;
        self.shared.wake_up();
        let mut next = self.next();
        while let Some(task) = next {
            // SAFETY: the worker holds the life reference of what it took.
            next = if unsafe { task.as_ref() }.is_future() {
                self.run_futures(&tokio, task)
            } else {
                self.run_one(task);
                self.next()
            };
        }
        self.retire();
    }

    /// What the thread that runs this worker is; for `dispatch::enter`.
    pub(crate) fn local(&self) -> *const Local {
        &*self.local
    }

    /// Runs what the driver woke, for at most a slice, on the I/O thread; `root` asks for another turn.
    pub(crate) fn turn(&mut self, root: &Waker) {
        self.now = self.pool.now().as_nanos();
        self.shared.wake_up();
        let slice_end = self.now + TURN;
        while let Some(task) = self.next() {
            if let Some(slice) = &mut self.slice {
                slice.polled = true;
            }
            self.local.polling.set(true);
            self.run_one(task);
            self.local.polling.set(false);
            if self.now > slice_end || !tokio::task::coop::has_budget_remaining() {
                break;
            }
        }
        self.settle();
        self.release_token();
        self.signals()
            .publish_rank(self.shared.index, crate::signals::NO_RANK);
        self.shared.task_since.store(0, Relaxed);
        if !self.shared.ring.is_empty() {
            root.wake_by_ref();
            self.pool.pass_on_quickly(Group::Front);
        }
        self.shared.state.store(state::IDLE, SeqCst);
        self.pool.notify_quiet();
    }

    /// Gives everything back at the end of the I/O thread.
    pub(crate) fn leave(&mut self) {
        self.retire();
    }

    /// Runs futures inside tokio's context until a closure comes, which is returned, or the worker is told to stop.
    fn run_futures(
        &mut self,
        tokio: &tokio::runtime::Handle,
        first: NonNull<Header>,
    ) -> Option<NonNull<Header>> {
        let mut next = Some(first);
        if let Some(slice) = &mut self.slice {
            slice.polled = true;
        }
        tokio.block_on(poll_fn(|cx| {
            loop {
                let Some(task) = next else {
                    return Poll::Ready(None);
                };
                // SAFETY: the worker holds the life reference of what it took.
                if !unsafe { task.as_ref() }.is_future() {
                    // What was deferred during polls would now wait for a closure.
                    if self.shared.held() != 0 {
                        self.pool.pass_on_quickly(self.group());
                    }
                    return Poll::Ready(Some(task));
                }
                self.local.polling.set(true);
                self.run_one(task);
                self.local.polling.set(false);
                next = self.next();
                if !tokio::task::coop::has_budget_remaining() {
                    // Tokio arms a new budget when the outer future is polled again.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }))
    }

    /// Runs everything that can run now on the calling thread (executor without threads); returns how many steps that took.
    #[cfg(feature = "testing")]
    pub(crate) fn drain(&mut self, enter: &mut dyn FnMut(&mut dyn FnMut())) -> usize {
        self.now = self.pool.now().as_nanos();
        self.charged = self.now;
        let local: *const Local = &*self.local;
        // SAFETY: as in `run`.
        let _entered = dispatch::enter(unsafe { &*local });
        let mut steps = 0;
        while let Some(task) = self.next() {
            steps += 1;
            // SAFETY: the worker holds the life reference of what it took.
            if unsafe { task.as_ref() }.is_future() {
                self.local.polling.set(true);
                enter(&mut || self.run_one(task));
                self.local.polling.set(false);
            } else {
                self.run_one(task);
            }
        }
        self.settle();
        self.flush_ring();
        self.release_token();
        steps
    }

    #[inline]
    fn run_one(&mut self, task: NonNull<Header>) {
        // SAFETY: the worker holds the life reference of what it took.
        let header = unsafe { task.as_ref() };
        let kind = usize::from(header.kind.get());
        let slot = header.slot;
        let (enqueued, samples) = (
            header.enqueued.load(Relaxed),
            u64::from(header.samples.load(Relaxed)),
        );
        if header.is_tiny_candidate()
            && self.unread + 1 < TINY_GROUP
            && self.mean[usize::from(slot.index)] < TINY
        {
            // Shown like any task: it may turn out to be the one that never returns.
            self.shared
                .task_what
                .store(TaskWhat::of(slot.index, kind, false).0, Relaxed);
            self.shared.task_since.store(self.now.max(1), Relaxed);
            // SAFETY: as above; it was taken out of its queue.
            if unsafe { task::call_bare(task) } {
                bump(&self.shared.stats.row(slot.index).kind(kind).panicked, 1);
            }
            self.unread += 1;
            return;
        }
        let started = self.now;
        // A bare task's memory is free again before its closure is called.
        let known = if header.is_bare() {
            std::ptr::null()
        } else {
            task.as_ptr()
        };
        self.local.task.set(known);
        self.local.task_started.set(started);
        let key = header.extra().and_then(|extra| extra.affinity);
        self.shared.task_what.store(
            TaskWhat::of(slot.index, kind, header.is_future()).0,
            Relaxed,
        );
        self.shared.task_since.store(started.max(1), Relaxed);
        // SAFETY: as above; it was taken out of its queue.
        let (ran, ended) = unsafe { task::run(task, started, self.shared.index, &self.pool.clock) };
        self.local.task.set(std::ptr::null());
        self.now = ended.max(started);
        if let Some(key) = key
            && let Ok(core) = os::current_cpu()
        {
            self.pool.cores.note(key, core);
        }
        let elapsed = self.now - started;
        let run = self.account_unread(slot, elapsed);
        let started = self.now - run;
        let row = self.shared.stats.row(slot.index);
        let figures = row.kind(kind);
        if ran == Ran::Skipped {
            bump(&figures.cancelled, 1);
            bump(&figures.tasks, 1);
            return;
        }
        if ran == Ran::DeadlineMissed {
            bump(&figures.deadline_missed, 1);
            bump(&figures.tasks, 1);
            return;
        }
        if ran == Ran::Shed {
            bump(&figures.tasks, 1);
            return;
        }
        bump(&figures.polls, 1);
        bump(&figures.run_ns, run);
        if samples != 0 {
            let wait = started.saturating_sub(enqueued);
            bump(&figures.wait_ns, wait * samples);
            row.wait.record_many(wait, samples);
        }
        row.run.record(run);
        if kind != UNNAMED {
            figures.run().record(run);
        }
        match ran {
            Ran::Pending { again: false } => {}
            // SAFETY: with `again` the life reference came back.
            Ran::Pending { again: true } => unsafe { dispatch::enqueue_at(task, self.now) },
            ended => {
                bump(&figures.tasks, 1);
                match ended {
                    Ran::Panicked => bump(&figures.panicked, 1),
                    Ran::Cancelled => bump(&figures.cancelled, 1),
                    Ran::TimedOut => bump(&figures.timed_out, 1),
                    _ => {}
                }
            }
        }
    }

    /// Counts the tiny closures that ran within `elapsed` ns together with a task that ended it; returns that task's part.
    ///
    /// They ran for about the class's mean each. Where the time is much longer than that, one of them was no tiny one; which of
    /// them does not show, as all are of the same class and kind.
    fn account_unread(&mut self, slot: &'static ClassSlot, elapsed: u64) -> u64 {
        self.worked += elapsed;
        let unread = std::mem::take(&mut self.unread);
        let mean = &mut self.mean[usize::from(slot.index)];
        let each = (elapsed / (unread + 1)).min(TINY);
        *mean = (*mean * 7 + elapsed / (unread + 1)) / 8;
        if unread == 0 {
            return elapsed;
        }
        let row = self.shared.stats.row(slot.index);
        let figures = row.kind(UNNAMED);
        bump(&figures.polls, unread);
        bump(&figures.tasks, unread);
        bump(&figures.run_ns, each * unread);
        row.run.record_many(each, unread);
        elapsed - each * unread
    }

    /// Reads the clock for tiny closures that ran last without one.
    fn close_unread(&mut self) {
        if self.unread == 0 {
            return;
        }
        let Some(slice) = &self.slice else {
            return;
        };
        let slot = slice.slot;
        let started = self.now;
        self.now = self.pool.now().as_nanos().max(started);
        // The last of them takes what is left over.
        self.unread -= 1;
        let elapsed = self.now - started;
        let run = self.account_unread(slot, elapsed);
        let row = self.shared.stats.row(slot.index);
        let figures = row.kind(UNNAMED);
        bump(&figures.polls, 1);
        bump(&figures.tasks, 1);
        bump(&figures.run_ns, run);
        row.run.record(run);
    }

    /// The next task to run; sleeps while there is none. None when the worker must stop (or, without threads, sleep).
    #[inline]
    fn next(&mut self) -> Option<NonNull<Header>> {
        if let Some(slice) = &self.slice
            && self.now < slice.end
            && !self.signals().is_revoked(self.shared.index)
        {
            let slot = slice.slot;
            if let Some(task) = self.take(slot) {
                return Some(task);
            }
        }
        self.next_slice()
    }

    #[cold]
    fn next_slice(&mut self) -> Option<NonNull<Header>> {
        self.close_unread();
        loop {
            // After a short search the slice in progress goes on, unsettled.
            if let Some(slice) = &self.slice
                && self.now < slice.end
                && !self.signals().is_revoked(self.shared.index)
            {
                let slot = slice.slot;
                if let Some(task) = self.take(slot) {
                    self.found_work();
                    return Some(task);
                }
            }
            self.shared.task_since.store(0, Relaxed);
            self.shared.heartbeat.store(self.now, Relaxed);
            if self.shared.command.load(Relaxed) != command::RUN {
                return None;
            }
            if self.pool.spine.terminated.load(Relaxed) {
                self.give_up_ring();
            }
            match self.begin() {
                Begin::Slice => {
                    let slot = self.slice.as_ref()?.slot;
                    if slot.mode.load(SeqCst) == mode::OPEN
                        && let Some(task) = self.take(slot)
                    {
                        self.found_work();
                        return Some(task);
                    }
                    // Somebody else was quicker, or a producer has not linked its task yet.
                    std::hint::spin_loop();
                    self.now = self.pool.now().as_nanos();
                }
                Begin::Nothing { until } => {
                    match self.mode {
                        Mode::Thread => {}
                        Mode::Manual => return None,
                        Mode::Io => {
                            // Not now: whoever may run it later takes it from the queue.
                            self.flush_ring();
                            return None;
                        }
                    }
                    self.idle(until);
                    if self.pool.stop.load(SeqCst) {
                        return None;
                    }
                }
            }
        }
    }

    /// Takes a task of the slice's class: tagged for this worker, ordered, from the ring, from the queue, from others.
    #[inline]
    fn take(&mut self, slot: &'static ClassSlot) -> Option<NonNull<Header>> {
        if self.mode == Mode::Io {
            return self.shared.ring.pop();
        }
        self.since_queue += 1;
        // Every other time, so that tagged work that refills itself does not shut out the rest.
        if slot.tagged.load(Relaxed) != 0
            && self.since_queue % 2 == 1
            && let Some(task) = self.pool.spine.tags.take(self.shared.index, slot)
        {
            return Some(task);
        }
        if let Some(task) = slot.take_aside(Which::BeforeArrivals, self.now) {
            return Some(task);
        }
        if self.since_queue < QUEUE_INTERVAL
            && let Some(task) = self.shared.stack.pop().or_else(|| self.shared.ring.pop())
        {
            return Some(task);
        }
        self.since_queue = 0;
        self.refill(slot)
    }

    #[inline(never)]
    fn refill(&mut self, slot: &'static ClassSlot) -> Option<NonNull<Header>> {
        let slice_left = self
            .slice
            .as_ref()
            .map_or(0, |slice| slice.end.saturating_sub(self.now));
        // A worker on a hot core takes less at once and leaves the rest to the others.
        let weight = u64::from(self.shared.weight.load(Relaxed));
        let fits =
            (slice_left * weight / 10_000 / self.mean[usize::from(slot.index)].max(1)) as usize;
        // What is left in the ring when the interval is over stays; a batch is only taken into an empty ring.
        let room = if self.shared.ring.is_empty() {
            BATCH
        } else {
            1
        };
        let mut first = None;
        let mut rest = 0;
        slot.queue.take(fits.clamp(1, room), |link| {
            let task = link.cast::<Header>();
            if first.is_none() {
                first = Some(task);
            } else if self.shared.ring.push_quiet(task).is_ok() {
                rest += 1;
            } else {
                unreachable!("a batch fits an empty ring");
            }
        });
        if let Some(first) = first {
            // SAFETY: the worker holds the life reference of what it took.
            let arrived = unsafe { first.as_ref() }.enqueued.load(Relaxed);
            slot.served_until.fetch_max(arrived, Relaxed);
            if rest > 0 || slot.queue.len() > 0 {
                self.pool.pass_on_quickly(self.group());
            }
            return Some(first);
        }
        // What arrives from now on is younger than now: ordered tasks go before it, though rings never run dry.
        slot.served_until.fetch_max(self.now, Relaxed);
        if let Some(task) = self.pool.spine.tags.take(self.shared.index, slot) {
            return Some(task);
        }
        // The interval is over and the queue is empty: now the oldest of the worker's own.
        if let Some(task) = self.shared.ring.pop().or_else(|| self.shared.stack.steal()) {
            return Some(task);
        }
        if let Some(task) = slot.take_aside(Which::Any, self.now) {
            return Some(task);
        }
        let task = self.steal(slot);
        if task.is_none() {
            self.signals()
                .unmark_ready(slot.index, || !slot.is_runnable());
        }
        task
    }

    /// Settles the slice that is over and asks for the next.
    fn begin(&mut self) -> Begin {
        let pool = Arc::clone(&self.pool);
        let (pool, signals) = (&*pool, self.signals());
        let group = self.group();
        if group == Group::Back && self.token && signals.over_parallelism() {
            // Too many run: give way, but only if that lasts longer than one slice; a burst of front work is shorter.
            if std::mem::replace(&mut self.over_parallelism, true) {
                self.settle();
                self.release_token();
                return Begin::Nothing { until: 0 };
            }
        } else {
            self.over_parallelism = false;
        }
        let mut ready = signals.ready() | pool.ring_classes(group);
        if !self.shared.ring.is_empty() {
            ready |= 1 << self.shared.ring_class.load(Relaxed); // also what others may not take
        }
        // A paused class neither runs nor counts as one that waits.
        let open = pool.mask(Group::Front) | pool.mask(Group::Back);
        ready &= open;
        let allowed = match self.mode {
            Mode::Thread => pool.mask(group),
            Mode::Manual => open,
            Mode::Io if self.shared.ring.is_empty() => 0,
            Mode::Io => open & 1 << self.shared.ring_class.load(Relaxed),
        };
        if ready & allowed == 0 {
            return Begin::Nothing { until: 0 };
        }
        if !self.token {
            if !signals.acquire_token(group) {
                return Begin::Nothing { until: 0 };
            }
            self.token = true;
            self.shared.token.store(token::HELD, SeqCst);
        }
        if self.slice.is_none() {
            // What was spent on looking for work is nobody's.
            self.read_cpu();
        }
        let opened = match group {
            Group::Front => pool.ledger.try_open(),
            Group::Back => Some(pool.ledger.open()),
        };
        let Some(mut scheduler) = opened else {
            return self.begin_without_scheduler(ready & allowed);
        };
        let now = Timestamp::from_nanos(self.now);
        scheduler.settle(now, self.close_slice());
        let picked = scheduler.pick(
            now,
            ClassSet::from_bits(ready),
            ClassSet::from_bits(allowed),
        );
        drop(scheduler);
        match picked {
            Pick::Run(grant) => {
                let slot = &pool.spine.classes[grant.class.index()];
                let end = self.now.saturating_add(grant.slice_ns);
                self.start_slice(slot, Some(grant), end, ready);
                Begin::Slice
            }
            Pick::Wait { until } => Begin::Nothing {
                until: until.as_nanos().max(1),
            },
            Pick::Idle => Begin::Nothing { until: 0 },
        }
    }

    /// The scheduler's lock is held by a thread that does not run: the highest class that is ready goes on for a slice.
    #[cold]
    fn begin_without_scheduler(&mut self, ready: u64) -> Begin {
        let pool = Arc::clone(&self.pool);
        if let Some(used) = self.close_slice() {
            pool.ledger.owe(used);
        }
        let best = ClassSet::from_bits(ready)
            .iter()
            .map(|class| &pool.spine.classes[class.index()])
            .filter(|slot| !slot.restricted.load(Relaxed))
            .max_by_key(|slot| slot.rank.load(Relaxed));
        match best {
            Some(slot) => {
                let end = self.now.saturating_add(100_000);
                self.start_slice(slot, None, end, u64::MAX);
                Begin::Slice
            }
            // Only classes that the scheduler must be asked for: soon again.
            None => Begin::Nothing {
                until: self.now.max(1),
            },
        }
    }

    fn start_slice(
        &mut self,
        slot: &'static ClassSlot,
        grant: Option<Grant>,
        end: u64,
        ready: u64,
    ) {
        let signals = self.signals();
        if self.shared.ring_class.load(Relaxed) != slot.index {
            self.flush_ring();
            self.shared.ring_class.store(slot.index, SeqCst);
        }
        self.shared.busy.start(self.now);
        if let Some(grant) = &grant {
            self.shared.slice_ns.store(grant.slice_ns, Relaxed);
            self.shared.slice_cpu.store(self.charged, Relaxed);
            self.shared
                .slice_granted
                .store(grant.started.as_nanos(), Release);
        }
        self.shared
            .stats
            .renew(slot.index, slot.generation.load(Relaxed));
        self.local.slice_class.set(slot.index);
        let rank = slot.rank.load(Relaxed);
        signals.publish_rank(self.shared.index, rank);
        // What became ready between the look that the pick was made on and the rank's publication raised no flag.
        let newcomers =
            ClassSet::from_bits(signals.ready() & !ready & self.pool.mask(self.group()));
        if newcomers
            .iter()
            .any(|class| self.pool.spine.classes[class.index()].rank.load(Relaxed) > rank)
        {
            signals.revoke(self.shared.index);
        }
        if slot.mode.load(SeqCst) != mode::OPEN {
            signals.revoke(self.shared.index); // paused between the pick and now
        }
        if self.pool.spine.supervisor_asleep.load(Relaxed) {
            self.pool.spine.rouse_supervisor();
        }
        self.slice = Some(Slice {
            grant,
            slot,
            end,
            started: self.now,
            polled: false,
        });
    }

    /// The thread's CPU time since the last reading, ns.
    fn read_cpu(&mut self) -> u64 {
        let total = if self.mode == Mode::Manual {
            self.now
        } else {
            thread_cpu_nanos()
        };
        let used = total.saturating_sub(self.charged);
        self.charged = total;
        used
    }

    /// Ends the slice in progress, if there is one, and says what it used.
    fn close_slice(&mut self) -> Option<Used> {
        let slice = self.slice.take()?;
        let cpu_ns = self.read_cpu();
        #[cfg(feature = "rayon")]
        let cpu_ns = cpu_ns + self.local.guest_ns.take();
        let row = self.shared.stats.row(slice.slot.index);
        bump(&row.cpu_ns, cpu_ns);
        bump(&row.slices, 1);
        self.shared.busy.stop(self.now);
        self.shared.last_activity.store(self.now, Relaxed);
        let submitted = self.shared.submitted.load(Relaxed);
        let settled = self.shared.submitted_settled.load(Relaxed);
        // In this order: a reader that adds what is not settled yet misses some rather than count it twice.
        self.shared.submitted_settled.store(submitted, SeqCst);
        bump(&row.submitted, submitted - settled);
        if self.now < slice.end
            && self.now > slice.started
            && self.signals().is_revoked(self.shared.index)
        {
            bump(&row.preempted, 1);
        }
        if slice.polled {
            slice
                .slot
                .pass_virtual_time(cpu_ns, 1 + slice.slot.waiting() + self.shared.held());
        } else if slice.slot.ordered_late.load(Relaxed) != u64::MAX {
            // Closures have no virtual time of their own: while they run, the futures that are held back catch up.
            slice
                .slot
                .pass_virtual_time(cpu_ns, slice.slot.takeable.load(Relaxed).max(1));
        }
        self.local.slice_class.set(NO_CLASS);
        let settled = self.shared.slice_granted.swap(slice::NONE, SeqCst) == slice::SETTLED;
        if settled {
            return Some(self.left_to_settle(&slice, cpu_ns));
        }
        Some(Used {
            grant: slice.grant,
            slot: slice.slot,
            cpu_ns,
        })
    }

    /// What is left of a slice that was settled while this worker was stuck: what it has used since.
    #[cold]
    fn left_to_settle(&self, slice: &Slice, cpu_ns: u64) -> Used {
        let start = self.shared.slice_cpu.load(Relaxed);
        let settled = self.shared.slice_settled.load(Relaxed);
        Used {
            grant: None,
            slot: slice.slot,
            cpu_ns: cpu_ns.saturating_sub(settled.saturating_sub(start)),
        }
    }

    /// Ends the slice in progress and charges it.
    fn settle(&mut self) {
        let Some(used) = self.close_slice() else {
            return;
        };
        let ledger = &self.pool.ledger;
        let opened = match self.group() {
            Group::Front => ledger.try_open(),
            Group::Back => Some(ledger.open()),
        };
        match opened {
            Some(mut scheduler) => scheduler.settle(Timestamp::from_nanos(self.now), Some(used)),
            None => ledger.owe(used),
        }
    }
}
