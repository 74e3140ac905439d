//! Who works, who sleeps, and who must be woken: the park and wake-up protocol.
//!
//! Invariant: **never runnable work, an idle worker that may run it, and no wake-up on its way.** A wake-up is on its way
//! when a worker is searching (it looks at everything before it sleeps), or was claimed by a waker and not yet run. One
//! exception is stated where it is made (`dispatch::push_local`): a single task that is woken from inside a poll waits for the end
//! of that poll, at most until the supervisor's next tick.
//!
//! How the two sides cannot miss each other. Every step below is sequentially consistent:
//! - a producer first makes work visible (queue length and ready bit, or ring tail), then looks for searching and idle workers;
//! - a worker that found nothing first sets its idle bit, then stops counting as searching, then looks for work once more.
//!
//! Whichever comes second in the total order sees the other. A worker is woken by whoever clears its idle bit; that one also
//! counts it as searching, so that at most one searcher is woken at a time and a burst of pushes costs one wake-up. A searcher
//! that finds work and was the last one wakes the next if more is left.
//!
//! Naps. When tasks are much shorter than a wake-up costs, each push would wake a worker that finds that another one has been
//! quicker. A worker that was woken and found less work than its wake-up cost therefore naps: it sleeps for a bounded time
//! without its idle bit, and looks again by itself. That, too, is a wake-up on its way.
//!
//! Parallelism tokens. Workers that run hold a token. Front workers always get one; a back worker only while fewer than
//! `parallelism` are out, else it sleeps although there is work. Giving back a token wakes a back worker under the
//! same two-sided rule (the count is lowered before the ready bits are read; a back worker sets its idle bit before it reads
//! the count). Under `SCHED_IDLE` the kernel itself takes the CPU from back threads while front ones run, and gives it back
//! without a wake-up; tokens of the front group are then not counted against the back group.
//!
//! Slice revocation. A worker publishes the rank of the class it runs. Work of a higher rank that finds no idle worker raises
//! the preempt flag of every worker of its group that runs a lower rank. The worker publishes its rank before it reads the
//! ready bits for the last time, the producer sets its ready bit before it reads ranks, so one of them sees the other.

use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use crate::sync::{Condvar, Mutex, sc_fence, wait_timeout};
use crossbeam_utils::CachePadded;
use flyball_core::class::Group;
use std::time::Duration;

/// Rank of a worker that runs no class.
pub(crate) const NO_RANK: u8 = 0;

/// State of the pool that is touched by whoever makes work runnable.
///
/// It is never given back to the allocator (see `spine`): a waker may still be about to read it when the last task that
/// mentions it has ended.
pub(crate) struct Signals {
    /// One bit a class: its queue may hold work.
    ready: CachePadded<AtomicU64>,
    groups: [CachePadded<GroupState>; 2],
    /// Tokens out, by group.
    running: [CachePadded<AtomicU32>; 2],
    /// Front tokens count against the back group's.
    front_counts: AtomicBool,
    parallelism: AtomicU32,
    slots: Box<[CachePadded<Slot>]>,
}

struct GroupState {
    /// Workers that look for work and have not found any, counted from the moment they are claimed by a waker.
    searching: AtomicU32,
    /// One bit a worker: asleep or about to be, and not yet claimed.
    idle: Box<[AtomicU64]>,
}

struct Slot {
    parker: Parker,
    rank: AtomicU8,
    preempt: AtomicBool,
}

fn index(group: Group) -> usize {
    match group {
        Group::Front => 0,
        Group::Back => 1,
    }
}

impl Signals {
    pub(crate) fn new(workers: usize, parallelism: u32) -> Self {
        let group = || {
            CachePadded::new(GroupState {
                searching: AtomicU32::new(0),
                idle: (0..workers.div_ceil(64))
                    .map(|_| AtomicU64::new(0))
                    .collect(),
            })
        };
        Signals {
            ready: CachePadded::new(AtomicU64::new(0)),
            groups: [group(), group()],
            running: [
                CachePadded::new(AtomicU32::new(0)),
                CachePadded::new(AtomicU32::new(0)),
            ],
            front_counts: AtomicBool::new(true),
            parallelism: AtomicU32::new(parallelism),
            slots: (0..workers)
                .map(|_| {
                    CachePadded::new(Slot {
                        parker: Parker::new(),
                        rank: AtomicU8::new(NO_RANK),
                        preempt: AtomicBool::new(false),
                    })
                })
                .collect(),
        }
    }

    /// Classes whose queues may hold work, a bit each.
    #[inline]
    pub(crate) fn ready(&self) -> u64 {
        self.ready.load(SeqCst)
    }

    /// Notes that a class's queue holds work; true when that was not known.
    #[inline]
    pub(crate) fn mark_ready(&self, class: u8) -> bool {
        let bit = 1 << class;
        if self.ready.load(SeqCst) & bit != 0 {
            return false;
        }
        let before = self.ready.fetch_or(bit, SeqCst);
        sc_fence();
        before & bit == 0
    }

    /// Notes that a class's queue was found empty. `is_empty` is asked again afterwards, and the bit set again if it is not.
    pub(crate) fn unmark_ready(&self, class: u8, is_empty: impl FnOnce() -> bool) {
        self.ready.fetch_and(!(1 << class), SeqCst);
        sc_fence();
        if !is_empty() {
            self.mark_ready(class);
        }
    }

    pub(crate) fn parallelism(&self) -> u32 {
        self.parallelism.load(SeqCst)
    }

    pub(crate) fn set_parallelism(&self, workers: u32) {
        self.parallelism.store(workers, SeqCst);
        sc_fence();
        self.wake_one(Group::Back);
    }

    /// Says whether running front workers take places from the back group.
    pub(crate) fn set_front_counts(&self, counts: bool) {
        self.front_counts.store(counts, SeqCst);
    }

    /// Tokens out now, of both groups.
    pub(crate) fn running(&self) -> u32 {
        self.running[0].load(SeqCst) + self.running[1].load(SeqCst)
    }

    /// Front tokens that count against the back group's.
    #[inline]
    fn counted_front(&self) -> u32 {
        if self.front_counts.load(Relaxed) {
            self.running[0].load(SeqCst)
        } else {
            0
        }
    }

    /// True when a back worker could get a token.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.running[1].load(SeqCst) + self.counted_front() < self.parallelism.load(SeqCst)
    }

    /// True when more workers run than `parallelism` allows, as far as that concerns the back group.
    #[inline]
    pub(crate) fn over_parallelism(&self) -> bool {
        self.running[1].load(Relaxed) + self.counted_front() > self.parallelism.load(Relaxed)
    }

    /// Takes a token. Always succeeds for the front group.
    pub(crate) fn acquire_token(&self, group: Group) -> bool {
        if group == Group::Front {
            self.force_token(group);
            return true;
        }
        let mut running = self.running[1].load(SeqCst);
        while running + self.counted_front() < self.parallelism.load(SeqCst) {
            match self.running[1].compare_exchange(running, running + 1, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => running = now,
            }
        }
        false
    }

    /// Takes a token even when none is left (the end of a bounded wait).
    pub(crate) fn force_token(&self, group: Group) {
        self.running[index(group)].fetch_add(1, SeqCst);
    }

    /// Gives a token back. The caller wakes a back worker afterwards if there is back work.
    pub(crate) fn release_token(&self, group: Group) {
        self.running[index(group)].fetch_sub(1, SeqCst);
        sc_fence();
    }

    /// True when a worker of the group is asleep and not yet claimed.
    #[inline]
    pub(crate) fn any_idle(&self, group: Group) -> bool {
        self.groups[index(group)]
            .idle
            .iter()
            .any(|word| word.load(SeqCst) != 0)
    }

    /// Wakes a worker of the group unless one is searching already, none is idle, or no token is left for it.
    #[inline]
    pub(crate) fn wake_one(&self, group: Group) -> bool {
        let state = &self.groups[index(group)];
        if state.searching.load(SeqCst) != 0 {
            return false;
        }
        self.wake_another(group)
    }

    /// Wakes a worker of the group though another may be searching.
    #[inline]
    pub(crate) fn wake_another(&self, group: Group) -> bool {
        if !self.any_idle(group) {
            return false;
        }
        if group == Group::Back && !self.has_room() {
            return false;
        }
        self.claim_and_unpark(group)
    }

    #[cold]
    fn claim_and_unpark(&self, group: Group) -> bool {
        for (word_index, word) in self.groups[index(group)].idle.iter().enumerate() {
            loop {
                let idle = word.load(SeqCst);
                if idle == 0 {
                    break;
                }
                let worker = word_index * 64 + idle.trailing_zeros() as usize;
                if self.claim(group, worker) {
                    self.slots[worker].parker.unpark();
                    return true;
                }
            }
        }
        false
    }

    /// Clears a worker's idle bit; whoever does counts it as searching and must unpark it.
    fn claim(&self, group: Group, worker: usize) -> bool {
        let state = &self.groups[index(group)];
        let bit = 1u64 << (worker % 64);
        if state.idle[worker / 64].fetch_and(!bit, SeqCst) & bit == 0 {
            return false;
        }
        state.searching.fetch_add(1, SeqCst);
        true
    }

    /// Wakes one particular worker if it is asleep (shutdown, drain, a task tagged for it).
    pub(crate) fn wake_worker(&self, group: Group, worker: usize) -> bool {
        let claimed = self.claim(group, worker);
        if claimed {
            self.slots[worker].parker.unpark();
        }
        claimed
    }

    /// Counts the calling worker as searching (it woke by itself, or starts).
    pub(crate) fn start_searching(&self, group: Group) {
        self.groups[index(group)].searching.fetch_add(1, SeqCst);
    }

    /// The calling worker found work; true when it was the last that searched, so that it must look whether more is left.
    pub(crate) fn stop_searching(&self, group: Group) -> bool {
        self.groups[index(group)].searching.fetch_sub(1, SeqCst) == 1
    }

    /// Sleeps until woken, until `timeout` passes, or not at all when `has_work` says so after the idle bit is set.
    ///
    /// The caller counts as searching when it calls and when this returns.
    pub(crate) fn park(
        &self,
        group: Group,
        worker: usize,
        timeout: Option<Duration>,
        has_work: impl FnOnce() -> bool,
    ) {
        let state = &self.groups[index(group)];
        let bit = 1u64 << (worker % 64);
        state.idle[worker / 64].fetch_or(bit, SeqCst);
        state.searching.fetch_sub(1, SeqCst);
        sc_fence();
        let woken = if has_work() {
            false
        } else {
            self.slots[worker].parker.park(timeout)
        };
        if !woken && !self.claim(group, worker) {
            // Claimed at the same moment: the waker counts us as searching and its unpark is on its way. Take it now, so
            // that it does not end the next sleep.
            self.slots[worker].parker.park(None);
        }
    }

    /// Sleeps for a while without being idle: nobody wakes the worker, and it does not count as searching meanwhile.
    ///
    /// The caller counts as searching when it calls and when this returns.
    pub(crate) fn nap(&self, group: Group, worker: usize, time: Duration) {
        let state = &self.groups[index(group)];
        state.searching.fetch_sub(1, SeqCst);
        self.slots[worker].parker.park(Some(time));
        state.searching.fetch_add(1, SeqCst);
    }

    /// True when one of `workers` other than `worker` runs a class.
    pub(crate) fn others_run(&self, workers: std::ops::Range<usize>, worker: usize) -> bool {
        workers
            .into_iter()
            .any(|other| other != worker && self.slots[other].rank.load(Relaxed) != NO_RANK)
    }

    /// Publishes the rank of the class that the worker starts to run and clears its preempt flag. The caller reads
    /// [`Signals::ready`] once more afterwards and calls [`Signals::revoke`] on itself if a higher rank came meanwhile.
    pub(crate) fn publish_rank(&self, worker: usize, rank: u8) {
        let slot = &self.slots[worker];
        slot.preempt.store(false, SeqCst);
        slot.rank.swap(rank, SeqCst);
        sc_fence();
    }

    /// Takes the worker's slice back at its next task boundary.
    pub(crate) fn revoke(&self, worker: usize) {
        self.slots[worker].preempt.store(true, SeqCst);
    }

    /// Takes back the slices of those among `workers` that run a lower rank. Call after the work is visible.
    pub(crate) fn revoke_below(&self, workers: std::ops::Range<usize>, rank: u8) {
        for slot in &self.slots[workers] {
            let running = slot.rank.load(SeqCst);
            if running != NO_RANK && running < rank {
                slot.preempt.store(true, SeqCst);
            }
        }
    }

    /// True when the worker's slice was taken back.
    #[inline]
    pub(crate) fn is_revoked(&self, worker: usize) -> bool {
        self.slots[worker].preempt.load(Relaxed)
    }
}

/// One thread's bed: `unpark` before `park` is remembered once.
struct Parker {
    state: AtomicU32,
    mutex: Mutex<()>,
    condvar: Condvar,
}

const EMPTY: u32 = 0;
const ASLEEP: u32 = 1;
const NOTIFIED: u32 = 2;

impl Parker {
    fn new() -> Self {
        Parker {
            state: AtomicU32::new(EMPTY),
            mutex: Mutex::new(()),
            condvar: Condvar::new(),
        }
    }

    /// Sleeps until notified (true) or until the timeout has passed (false).
    fn park(&self, timeout: Option<Duration>) -> bool {
        if self
            .state
            .compare_exchange(NOTIFIED, EMPTY, SeqCst, SeqCst)
            .is_ok()
        {
            return true;
        }
        let mut guard = self.mutex.lock().unwrap_or_else(|e| e.into_inner());
        if self
            .state
            .compare_exchange(EMPTY, ASLEEP, SeqCst, SeqCst)
            .is_err()
        {
            self.state.store(EMPTY, SeqCst);
            return true;
        }
        let Some(timeout) = timeout else {
            loop {
                guard = self.condvar.wait(guard).unwrap_or_else(|e| e.into_inner());
                if self
                    .state
                    .compare_exchange(NOTIFIED, EMPTY, SeqCst, SeqCst)
                    .is_ok()
                {
                    return true;
                }
            }
        };
        // One wait: a spurious wake-up counts as the timeout, and the caller looks for work again.
        let guard = wait_timeout(&self.mutex, &self.condvar, guard, timeout);
        let notified = self.state.swap(EMPTY, SeqCst) == NOTIFIED;
        drop(guard);
        notified
    }

    fn unpark(&self) {
        if self.state.swap(NOTIFIED, SeqCst) == ASLEEP {
            // The sleeper holds the lock from its swap to its wait: taking it once makes sure it waits by now.
            drop(self.mutex.lock().unwrap_or_else(|e| e.into_inner()));
            self.condvar.notify_one();
        }
    }
}
