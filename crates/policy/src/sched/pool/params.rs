//! What the pool controller is told: settings, views; and what it shows of its past.

use core::time::Duration;

use flyball_core::time::Timestamp;

use crate::Error;

/// How many readings a delay has, if the bounds of the period allow.
const READINGS_A_DELAY: u32 = 10;
/// The shortest time between two looks: with less, one task more or less is most of the load.
const PERIOD_MIN: Duration = Duration::from_millis(100);
/// The longest.
const PERIOD_MAX: Duration = Duration::from_millis(500);

/// The settings of the pool controller.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PoolConfig {
    /// The fewest workers, 1 or more.
    pub min: u32,
    /// The most workers, `min` or more.
    pub max: u32,
    /// The load that workers should have at most, above 0 and up to 1.
    pub target_load: f64,
    /// How long there must be too few before there are more; also the least time between an increase and what was
    /// decided before it.
    pub scale_up_delay: Duration,
    /// How long there must be too many before there are fewer; also the least time between a reduction and what was
    /// decided before it.
    pub scale_down_delay: Duration,
    /// How long a worker may be idle before it retires, if the others can do without it.
    pub max_idle_time: Duration,
}

impl PoolConfig {
    /// Returns the defaults for a machine: 2 workers to 2 for each CPU, load 0.7, delays of 5 s and 30 s, 60 s of idleness.
    pub fn for_cpus(cpus: u32) -> Self {
        Self {
            min: 2,
            max: cpus.max(1).saturating_mul(2),
            target_load: 0.7,
            scale_up_delay: Duration::from_secs(5),
            scale_down_delay: Duration::from_secs(30),
            max_idle_time: Duration::from_secs(60),
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Pool`] names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let (field, expected) = if self.min == 0 {
            ("min", "1 or more")
        } else if self.max < self.min {
            ("max", "at least min")
        } else if !(self.target_load > 0.0 && self.target_load <= 1.0) {
            ("target_load", "above 0 and at most 1")
        } else {
            return Ok(());
        };
        Err(Error::Pool { field, expected })
    }

    /// Returns how often to look at a pool of threads: a tenth of the shorter delay, from 100 ms to 500 ms.
    pub(super) fn period(&self) -> Duration {
        let delay = self.scale_up_delay.min(self.scale_down_delay);
        (delay / READINGS_A_DELAY).clamp(PERIOD_MIN, PERIOD_MAX)
    }

    /// Brings what [`PoolConfig::check`] refuses to the nearest value that it accepts.
    pub(super) fn brought_into_range(mut self) -> Self {
        self.min = self.min.max(1);
        self.max = self.max.max(self.min);
        if self.target_load.is_nan() {
            self.target_load = 0.7;
        }
        self.target_load = self.target_load.clamp(0.01, 1.0);
        self
    }
}

/// What the controller sees of the pool. What is measured is measured since the last view.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PoolView {
    /// How many workers the pool is told to have now: the value of the knob.
    pub workers: u32,
    /// How many are there, accept work and have a health of at least 0.5.
    pub healthy: u32,
    /// The mean number of workers that ran a task since the last view, unhealthy ones too: their work is demand.
    pub busy: f64,
    /// The tasks that are queued and may start (not those of paused classes).
    pub backlog: u64,
    /// The tasks that ended since the last view.
    pub ran: f64,
    /// The tasks that were refused since the last view, for want of room.
    pub refused: f64,
    /// How many workers may run at once.
    pub parallelism: u32,
    /// The longest time that a worker has been idle up to now; `None` when none is idle or it is not known.
    pub idle_longest: Option<Duration>,
}

/// A point in the history of load.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct LoadPoint {
    /// When it was read.
    pub at: Timestamp,
    /// The load over the last 5 s, or since the last change if that is less: 1 is all healthy workers busy, and more is
    /// a queue.
    pub load: f64,
    /// The mean number of busy workers since the reading before.
    pub busy: f64,
    /// The tasks that waited.
    pub backlog: u64,
    /// The workers that the pool was told to have.
    pub workers: u32,
    /// The healthy ones.
    pub healthy: u32,
}
