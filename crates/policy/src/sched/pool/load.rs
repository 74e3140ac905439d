//! The load of a pool over the last seconds, from readings at irregular times.

use alloc::collections::VecDeque;
use core::time::Duration;

use flyball_core::time::Timestamp;

use super::PoolView;

/// The time over which load is measured.
pub const LOAD_WINDOW: Duration = Duration::from_secs(5);
/// Readings in the window, if it is called as often as [`PERIOD_MIN`] says; more often, the oldest go.
const READINGS_MAX: usize = 64;
/// More workers or tasks than there can be; keeps the arithmetic finite whatever is fed in.
const FIGURE_MAX: f64 = 1e12;
/// What was read since the view before.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Timestamp,
    /// Seconds.
    span: f64,
    busy: f64,
    healthy: u32,
    ran: f64,
}

/// What the readings say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// The beginning of the latest reading.
    pub(super) from: Timestamp,
    /// Busy workers and work that waits, over the window, in workers.
    pub(super) demand: f64,
    /// That over the healthy workers.
    pub(super) load: f64,
    /// The same since the last reading only.
    pub(super) load_latest: f64,
}

/// The readings of the last seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    /// The newest at the back.
    readings: VecDeque<Reading>,
    /// The beginning of the latest.
    latest_from: Timestamp,
    /// The mean run time of a task in seconds, as last known.
    mean_run: Option<f64>,
}

impl Window {
    /// Takes in what was read from `from` to `now`, which is later.
    pub(super) fn push(&mut self, from: Timestamp, now: Timestamp, view: &PoolView) {
        if self.readings.len() == READINGS_MAX {
            self.readings.pop_front();
        }
        self.latest_from = from;
        self.readings.push_back(Reading {
            at: now,
            span: now.duration_since(from).as_secs_f64(),
            busy: in_range(view.busy),
            healthy: view.healthy,
            ran: in_range(view.ran),
        });
        let oldest = now.saturating_sub(LOAD_WINDOW);
        while self.readings.front().is_some_and(|r| r.at <= oldest) {
            self.readings.pop_front();
        }
    }

    /// Returns the mean run time of a task in seconds; 0 until one is known.
    pub(super) fn mean_run(&self) -> f64 {
        self.mean_run.unwrap_or(0.0)
    }

    /// Computes what the readings say, of which there is at least one, when `backlog` tasks wait and the pool has had
    /// its size from `fresh_from`.
    pub(super) fn measure(&mut self, backlog: u64, fresh_from: Timestamp) -> Measured {
        let window = LOAD_WINDOW.as_secs_f64();
        let (mut fresh, mut all) = (Sums::default(), Sums::default());
        let mut latest = Sums::default();
        for reading in self.readings.iter().rev() {
            let span = reading.span.min(window - all.seconds);
            all.add(reading, span);
            if reading.at > fresh_from {
                fresh.add(reading, span);
            }
            if latest.seconds == 0.0 {
                latest = all;
            }
        }
        if all.busy > 0.0 {
            // Tasks that do not end in the window still are one a busy worker.
            self.mean_run = Some(all.busy / all.ran.max(all.busy / all.seconds));
        }
        let waiting = backlog as f64 * self.mean_run() / window;
        // The reading in which the size changed is old; nothing newer may be there yet.
        let fresh = if fresh.seconds > 0.0 { fresh } else { latest };
        let load = |sums: &Sums| {
            let healthy = sums.healthy / sums.seconds;
            (sums.busy / sums.seconds + waiting) / healthy.max(1.0)
        };
        Measured {
            from: self.latest_from,
            demand: fresh.busy / fresh.seconds + waiting,
            load: load(&fresh),
            load_latest: load(&latest),
        }
    }
}

/// Integrals over readings, in worker-seconds.
#[derive(Clone, Copy, Default)]
struct Sums {
    seconds: f64,
    busy: f64,
    healthy: f64,
    ran: f64,
}

impl Sums {
    /// Adds the last `span` seconds of a reading.
    fn add(&mut self, reading: &Reading, span: f64) {
        if span > 0.0 {
            self.seconds += span;
            self.busy += reading.busy * span;
            self.healthy += f64::from(reading.healthy) * span;
            self.ran += reading.ran * span / reading.span;
        }
    }
}

/// Brings a figure into the range in which it can be one; what is no number counts as zero.
pub(super) fn in_range(figure: f64) -> f64 {
    if figure.is_finite() {
        figure.clamp(0.0, FIGURE_MAX)
    } else {
        0.0
    }
}
