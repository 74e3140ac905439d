//! `cfs` inside a class, for futures that are polled again and again.
//!
//! A class that runs futures first come, first served, lets one that is always ready take half of its time from a
//! thousand others. So every future carries a virtual run time, and the class a [`FairClock`]: the run time that a future
//! would have had if those that are ready had shared the CPU evenly. A future that is not ahead of the clock is
//! *eligible*; the caller keeps the eligible ones in order of arrival and the others in a heap by virtual run time, takes
//! from the first, and moves over from the second what the clock has reached.
//!
//! A future that slept does not hoard: on waking, its virtual run time is at least the clock minus [`BONUS_NS`]. It keeps
//! what it has run too much. One that mostly waits is thus eligible whenever it wakes, by up to the bonus.
//!
//! So among futures that stay ready, none is ahead of the clock by more than one poll, and none behind it by more than one
//! poll of each of the others.
//!
//! The clock counts whole nanoseconds and carries the remainder of each division, so it neither drifts nor, in 584 years
//! of CPU time, overflows.

/// How far a future may lag behind the clock: 1 ms, ten slices.
pub const BONUS_NS: u64 = 1_000_000;

/// The virtual clock of one class.
#[derive(Clone, Debug, Default)]
pub struct FairClock {
    now: u64,
    /// Run time not yet divided.
    remainder: u64,
}

impl FairClock {
    /// Makes a clock at zero.
    pub const fn new() -> Self {
        Self {
            now: 0,
            remainder: 0,
        }
    }

    /// Returns the virtual time: what a new future starts with.
    #[inline]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Says whether a future with this virtual run time may run before those that are ahead of the clock.
    #[inline]
    pub const fn is_eligible(&self, virtual_ns: u64) -> bool {
        virtual_ns <= self.now
    }

    /// Returns the virtual run time with which a future that slept comes back.
    #[inline]
    pub fn wake(&self, virtual_ns: u64) -> u64 {
        virtual_ns.max(self.now.saturating_sub(BONUS_NS))
    }

    /// Counts a poll: `run_ns` of run time for the future that has `virtual_ns`, while `ready` futures of the class
    /// (itself included; 0 counts as 1) shared the time. Returns the virtual run time that the future has now.
    #[inline]
    pub fn charge(&mut self, virtual_ns: u64, run_ns: u64, ready: usize) -> u64 {
        let ready = ready.max(1) as u64;
        let run = run_ns.saturating_add(self.remainder);
        self.now = self.now.saturating_add(run / ready);
        self.remainder = run % ready;
        virtual_ns.saturating_add(run_ns)
    }

    /// Moves the clock to the least virtual run time of the futures that are ready, when none of them is eligible: time
    /// that nobody waits for does not pass slowly.
    #[inline]
    pub fn catch_up(&mut self, least_virtual_ns: u64) {
        self.now = self.now.max(least_virtual_ns);
    }
}
