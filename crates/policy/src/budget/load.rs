//! Starts while the machine's run queue is short.
//!
//! The load average of a minute says "start" for half a minute after a machine has filled up, and "wait" for as long after it has
//! emptied. What is used here is the number of threads that run or wait for a CPU *now*, which the kernel also tells, averaged
//! over a tenth of a second because it jumps.
//!
//! That number shows a command some time after its start. Until then the command itself stands for its effect: the gate keeps the
//! average of what the run queue holds *beyond one for each own command*, and the load that a start is held against is that
//! plus the own commands of this moment. A command that has just started therefore counts one at once; one that sleeps, or has
//! started ten threads, is found out within the averaging time; one that has ended has no effect to wait for, and counts no
//! more.

use core::time::Duration;

use flyball_core::ewma::Ewma;
use flyball_core::time::Timestamp;

/// Half of what was measured is forgotten after this time. Of the order of a few time slices of the kernel (3 to 30 ms), so that one
/// reading between two slices decides nothing.
const HALF_LIFE: Duration = Duration::from_millis(50);

/// The gate.
#[derive(Clone, Debug)]
pub struct LoadGate {
    most: f64,
    beyond_own: Ewma,
}

impl LoadGate {
    /// Starts are allowed while the load is below `most`, in threads that run or want to.
    #[must_use]
    pub fn new(most: f64) -> LoadGate {
        LoadGate {
            most,
            beyond_own: Ewma::new(HALF_LIFE),
        }
    }

    /// Takes in a measurement: so many threads of the machine run or want to, the one that looked not counted, while `own`
    /// commands of this run were under way.
    pub fn measured(&mut self, now: Timestamp, runnable: u64, own: usize) {
        self.beyond_own.update(now, runnable as f64 - own as f64);
    }

    /// The load with `own` commands under way; `None` before the first measurement.
    #[must_use]
    pub fn load(&self, own: usize) -> Option<f64> {
        Some((self.beyond_own.get()? + own as f64).max(0.0))
    }

    /// Whether one more may start while `own` are under way. Yes where nothing could be measured.
    #[must_use]
    pub fn allows(&self, own: usize) -> bool {
        self.load(own).is_none_or(|load| load < self.most)
    }

    /// The bound.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    /// TASK-12: the effect of a start counts before it is measured, and is gone with the command.
    #[test]
    fn a_start_counts_at_once_and_an_end_at_once() {
        let mut gate = LoadGate::new(2.0);
        assert!(gate.allows(5), "nothing is known");
        gate.measured(at(0), 0, 0);
        assert!(gate.allows(0) && gate.allows(1) && !gate.allows(2));
    }

    /// TASK-12: what others run is measured, and let go of when it ends.
    #[test]
    fn load_of_others_holds_and_lets_go() {
        let mut gate = LoadGate::new(4.0);
        (0..100).for_each(|tick| gate.measured(at(tick * 10), 3, 0));
        assert!(gate.allows(0) && !gate.allows(1));
        (100..200).for_each(|tick| gate.measured(at(tick * 10), 6, 1));
        assert!(!gate.allows(0));
        (200..300).for_each(|tick| gate.measured(at(tick * 10), 0, 0));
        assert!(gate.allows(3));
    }

    /// TASK-12: commands that sleep stop counting, commands with many threads count as many.
    #[test]
    fn the_measured_effect_replaces_the_guess() {
        let mut gate = LoadGate::new(4.0);
        gate.measured(at(0), 0, 0);
        assert!(!gate.allows(4));
        (1..100).for_each(|tick| gate.measured(at(tick * 10), 0, 4));
        assert!(gate.allows(4), "all four sleep");
        (100..200).for_each(|tick| gate.measured(at(tick * 10), 8, 1));
        assert!(!gate.allows(1), "one with eight threads");
    }
}
