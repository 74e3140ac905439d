//! A simulated CPU: one thread of each group, of which the kernel runs the front one if it has work.

use flyball_core::id::ClassSet;
use flyball_policy::sched::Grant;

use crate::queue::TaskIndex;

/// Keys that a CPU remembers.
const WARM_KEYS: usize = 16;

/// A thread with a grant, running its task or paused by the kernel.
pub(crate) struct Running {
    pub(crate) grant: Grant,
    pub(crate) task: TaskIndex,
    /// CPU time of the present poll, ns.
    pub(crate) poll_ns: u64,
    /// CPU time used in this grant by polls that have ended, ns.
    pub(crate) used_ns: u64,
}

/// A simulated CPU.
pub(crate) struct Cpu {
    pub(crate) front: Option<Running>,
    pub(crate) back: Option<Running>,
    /// What the back thread's poll still needs, while the front thread has the CPU.
    pub(crate) back_left_ns: u64,
    pub(crate) inverse_speed: f64,
    pub(crate) faulty: bool,
    pub(crate) busy_ns: u64,
    /// Busy time at the last sample.
    pub(crate) busy_sampled_ns: u64,
    /// Classes with tasks tagged for this CPU's threads.
    pub(crate) own: ClassSet,
    pub(crate) memory: u64,
    pub(crate) memory_used: u64,
    warm: [u32; WARM_KEYS],
    oldest_warm: usize,
}

impl Cpu {
    pub(crate) fn new(speed: f64, faulty: bool, memory: u64) -> Self {
        Self {
            front: None,
            back: None,
            back_left_ns: 0,
            inverse_speed: 1.0 / speed,
            faulty,
            busy_ns: 0,
            busy_sampled_ns: 0,
            own: ClassSet::EMPTY,
            memory,
            memory_used: 0,
            warm: [u32::MAX; WARM_KEYS],
            oldest_warm: 0,
        }
    }

    /// The thread that the kernel runs.
    pub(crate) fn active(&mut self) -> &mut Option<Running> {
        if self.front.is_some() {
            &mut self.front
        } else {
            &mut self.back
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.front.is_some() || self.back.is_some()
    }

    /// Notes that a key runs here; says whether it was among the last ones.
    pub(crate) fn warm_up(&mut self, key: u32) -> bool {
        if self.warm.contains(&key) {
            return true;
        }
        self.warm[self.oldest_warm] = key;
        self.oldest_warm = (self.oldest_warm + 1) % WARM_KEYS;
        false
    }
}
