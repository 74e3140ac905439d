//! What a worker shows others, and the states of its thread, slice and token.

use crate::dispatch;
use crate::health::Figures;
use crate::os::ThreadClock;
use crate::ring::Ring;
use crate::signals::Signals;
use crate::spine::{IO_WORKER, group_of};
use crate::stack::Stack;
use crate::stats::{BusyMeter, WorkerStats};
use crate::task::Header;
use flyball_core::class::Group;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*};

/// What a worker shows others.
pub(crate) struct WorkerShared {
    pub(crate) index: usize,
    pub(crate) group: Group,
    /// Futures that became runnable here, and what was taken from the class's queue: oldest first.
    pub(crate) ring: Ring<Header>,
    /// Closures that tasks submitted here: newest first.
    pub(crate) stack: Stack<Header>,
    /// Class of what is in ring and stack.
    pub(crate) ring_class: AtomicU8,
    pub(crate) stats: WorkerStats,
    /// Tasks that tasks of this worker submitted to it.
    pub(crate) submitted: AtomicU64,
    /// How many of them are counted by class already.
    pub(crate) submitted_settled: AtomicU64,
    /// Wall-clock time spent in slices.
    pub(crate) busy: BusyMeter,
    /// When its last slice ended, ns; 0 before the first.
    pub(crate) last_activity: AtomicU64,
    /// The slice in progress that the scheduler granted: when, ns (else see [`slice`]), for how long, the thread's CPU time at its
    /// start, and, once others have settled it, at that moment.
    pub(crate) slice_granted: AtomicU64,
    pub(crate) slice_ns: AtomicU64,
    pub(crate) slice_cpu: AtomicU64,
    pub(crate) slice_settled: AtomicU64,
    /// What has become of the token that the worker took.
    pub(crate) token: AtomicU8,
    pub(crate) state: AtomicU8,
    /// Times that the worker became busy: one that is idle and has the same number as before has been idle all the time.
    pub(crate) wakes: AtomicU64,
    /// When the present task started, ns; 0 while none runs.
    pub(crate) task_since: AtomicU64,
    /// Class and kind of the present task.
    pub(crate) task_what: AtomicU32,
    /// Last sign of life, ns.
    pub(crate) heartbeat: AtomicU64,
    pub(crate) command: AtomicU8,
    pub(crate) clock: Mutex<Option<ThreadClock>>,
    /// CPU use over the last second or so, parts in 10,000.
    pub(crate) cpu: AtomicU32,
    /// Mean time of a call or poll, ns; tasks ended a second; parts in 10,000 that failed: since the start, looked at once a
    /// second.
    pub(crate) mean_run_ns: AtomicU64,
    pub(crate) throughput: AtomicU64,
    pub(crate) error_rate: AtomicU32,
    /// Relative speed the worker should be given, parts in 10,000: what was set, times what heat leaves of it.
    pub(crate) weight: AtomicU32,
    pub(crate) weight_set: AtomicU32,
    pub(crate) weight_by_heat: AtomicU32,
    pub(crate) pinned_to: Mutex<Option<u32>>,
    /// The CPUs it was given by hand; empty: none.
    pub(crate) affinity_cores: Mutex<Vec<u32>>,
    /// The kernel's number of its thread. Locked while a system call goes by it, so that it is not another thread's meanwhile.
    pub(crate) thread_id: Mutex<Option<u32>>,
    /// What is measured of it from second to second.
    pub(crate) figures: Mutex<Figures>,
    /// Its health score, parts in 10,000, as the supervisor saw it last.
    pub(crate) health: AtomicU32,
    /// Seconds in which it was at work and passed no task boundary, in all and since it last did.
    pub(crate) missed_heartbeats: AtomicU64,
    pub(crate) missed_now: AtomicU32,
    pub(crate) stuck: AtomicBool,
    /// The worker that has its place; [`NOBODY`] unless it was replaced.
    pub(crate) successor: AtomicU32,
    /// The poll in progress has lasted from one tick to the next while a task waits for its end.
    pub(crate) overdue: AtomicBool,
    pub(crate) started_at: AtomicU64,
}

pub(crate) mod state {
    pub(crate) const STOPPED: u8 = 0;
    pub(crate) const STARTING: u8 = 1;
    pub(crate) const IDLE: u8 = 2;
    pub(crate) const BUSY: u8 = 3;
}

pub(crate) mod command {
    pub(crate) const RUN: u8 = 0;
    pub(crate) const STOP: u8 = 1;
}

/// No worker has another's place.
pub(crate) const NOBODY: u32 = u32::MAX;

/// What [`WorkerShared::slice_granted`] is when it is no time. The worker leaves `SETTLED` and a time for `NONE` at the end of the
/// slice, the supervisor a time for `SETTLED`, whoever is first.
pub(crate) mod slice {
    /// No slice, or one that was begun without asking the scheduler.
    pub(crate) const NONE: u64 = 0;
    /// The worker is stuck: the slice was settled in its name.
    pub(crate) const SETTLED: u64 = u64::MAX;
}

/// Whose the token is that a worker took from [`Signals`](crate::signals::Signals). Only the worker itself leaves `NONE` and `LENT`;
/// `HELD` is left by the worker (it gives the token back, or lends it for a while) or by the supervisor (`TAKEN`), whoever is first.
pub(crate) mod token {
    /// The worker has none.
    pub(crate) const NONE: u8 = 0;
    /// It is the worker's.
    pub(crate) const HELD: u8 = 1;
    /// The worker's task blocks or gives way and has given it back for that long.
    pub(crate) const LENT: u8 = 2;
    /// The worker is stuck: it was given back in its name.
    pub(crate) const TAKEN: u8 = 3;
}

/// Class, kind and nature of a task in one word.
#[derive(Clone, Copy)]
pub(crate) struct TaskWhat(pub(crate) u32);

impl TaskWhat {
    #[inline]
    pub(crate) fn of(class: u8, kind: usize, is_future: bool) -> Self {
        TaskWhat(u32::from(is_future) << 31 | u32::from(class) << 16 | kind as u32)
    }
    pub(crate) fn class(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }
    pub(crate) fn kind(self) -> usize {
        (self.0 & 0xffff) as usize
    }
    pub(crate) fn is_future(self) -> bool {
        self.0 >> 31 == 1
    }
}

impl WorkerShared {
    /// Tasks in ring and stack.
    pub(crate) fn held(&self) -> usize {
        self.ring.len() + self.stack.len()
    }

    /// Gives the worker's token back until [`WorkerShared::reclaim_token`]; false when it has none to give.
    pub(crate) fn lend_token(&self, signals: &Signals) -> bool {
        let lent = self
            .token
            .compare_exchange(token::HELD, token::LENT, SeqCst, SeqCst)
            .is_ok();
        if lent {
            signals.release_token(self.group);
        }
        lent
    }

    /// Takes a token in place of the one that was lent, whether there is room or not.
    pub(crate) fn reclaim_token(&self, signals: &Signals) {
        signals.force_token(self.group);
        self.token.store(token::HELD, SeqCst);
    }

    /// Gives the token of a stuck worker back in its name; false when the worker has none to give.
    pub(crate) fn take_token(&self, signals: &Signals) -> bool {
        let taken = self
            .token
            .compare_exchange(token::HELD, token::TAKEN, SeqCst, SeqCst)
            .is_ok();
        if taken {
            signals.release_token(self.group);
        }
        taken
    }

    /// The worker that has this one's place, if it was replaced and its task goes on.
    pub(crate) fn replaced_by(&self) -> Option<u16> {
        u16::try_from(self.successor.load(SeqCst)).ok()
    }

    /// Notes that the worker is busy from now on.
    pub(crate) fn wake_up(&self) {
        self.wakes.fetch_add(1, SeqCst);
        self.state.store(state::BUSY, SeqCst);
    }

    /// True when the worker takes new work.
    pub(crate) fn accepts(&self) -> bool {
        matches!(self.state.load(Relaxed), state::IDLE | state::BUSY)
            && self.command.load(Relaxed) == command::RUN
            && !self.stuck.load(Relaxed)
    }

    /// True when others may take from the ring: more than one task, or a single one that was not deferred for the poll in
    /// progress, or was and has waited for too long.
    pub(crate) fn can_be_robbed(&self) -> bool {
        match self.ring.len() + 2 * self.stack.len() {
            0 => false,
            1 if self.index == IO_WORKER => self.overdue.load(Relaxed),
            1 => {
                self.task_since.load(Relaxed) == 0
                    || !TaskWhat(self.task_what.load(Relaxed)).is_future()
                    || self.overdue.load(Relaxed)
            }
            _ => true,
        }
    }

    pub(crate) fn new(index: usize, kinds: usize) -> Self {
        WorkerShared {
            index,
            group: group_of(index),
            ring: Ring::new(),
            stack: Stack::new(),
            ring_class: AtomicU8::new(dispatch::NO_CLASS),
            stats: WorkerStats::new(kinds),
            submitted: AtomicU64::new(0),
            submitted_settled: AtomicU64::new(0),
            busy: BusyMeter::default(),
            last_activity: AtomicU64::new(0),
            slice_granted: AtomicU64::new(slice::NONE),
            slice_ns: AtomicU64::new(0),
            slice_cpu: AtomicU64::new(0),
            slice_settled: AtomicU64::new(0),
            token: AtomicU8::new(token::NONE),
            state: AtomicU8::new(state::STOPPED),
            wakes: AtomicU64::new(0),
            task_since: AtomicU64::new(0),
            task_what: AtomicU32::new(0),
            heartbeat: AtomicU64::new(0),
            command: AtomicU8::new(command::RUN),
            clock: Mutex::new(None),
            cpu: AtomicU32::new(0),
            mean_run_ns: AtomicU64::new(0),
            throughput: AtomicU64::new(0),
            error_rate: AtomicU32::new(0),
            weight: AtomicU32::new(10_000),
            weight_set: AtomicU32::new(10_000),
            weight_by_heat: AtomicU32::new(10_000),
            pinned_to: Mutex::new(None),
            affinity_cores: Mutex::default(),
            thread_id: Mutex::new(None),
            figures: Mutex::default(),
            health: AtomicU32::new(10_000),
            missed_heartbeats: AtomicU64::new(0),
            missed_now: AtomicU32::new(0),
            stuck: AtomicBool::new(false),
            successor: AtomicU32::new(NOBODY),
            overdue: AtomicBool::new(false),
            started_at: AtomicU64::new(0),
        }
    }
}
