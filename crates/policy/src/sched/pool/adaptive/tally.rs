//! What a pool did while it had one size.

use super::super::PoolView;
use super::super::load::in_range;

/// The part of the readings in which work waited that makes a window one in which work waited.
const WAITED: f64 = 0.5;

/// Less than this part of a task is no task; keeps the quotient finite.
const RAN_LEAST: f64 = 1e-6;

/// Sums over readings.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tally {
    pub(super) seconds: f64,
    /// Tasks that ended.
    pub(super) ran: f64,
    /// Worker-seconds.
    busy: f64,
    /// Seconds of readings at whose end work waited.
    waiting: f64,
}

impl Tally {
    pub(super) fn add(&mut self, span: f64, view: &PoolView) {
        self.seconds += span;
        self.ran += in_range(view.ran);
        self.busy += in_range(view.busy) * span;
        if view.backlog > 0 {
            self.waiting += span;
        }
    }

    pub(super) fn sum(&self, other: &Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            ran: self.ran + other.ran,
            busy: self.busy + other.busy,
            waiting: self.waiting + other.waiting,
        }
    }

    /// Says whether work waited most of the time, so that the throughput says what the size can do.
    pub(super) fn waited(&self) -> bool {
        self.waiting > self.seconds * WAITED
    }

    /// Returns the tasks that ended in a second.
    pub(super) fn rate(&self) -> f64 {
        if self.seconds > 0.0 {
            self.ran / self.seconds
        } else {
            0.0
        }
    }

    /// Returns the mean time of a task in a worker in seconds, by Little's law; `None` while none ended.
    pub(super) fn stay(&self) -> Option<f64> {
        (self.ran >= RAN_LEAST).then(|| self.busy / self.ran)
    }
}
