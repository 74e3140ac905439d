//! The limit by the ratio of usual latency to latency now.
//!
//! The usual latency is an average over many windows that follows a fall at once and a rise slowly. While latency is within a tolerance of it the
//! limit grows by its root, else it shrinks in proportion.
//!
//! Source: Netflix `concurrency-limits`, `Gradient2Limit` (2018). Its usual latency takes in that of overload, so that its limit rises for
//! ever under an overload that lasts; here a window in which latency is out of tolerance does not count.

use super::limit::Reason;
use super::window::Window;
use crate::math::square_root;

/// Weight of a window in the usual latency.
const WEIGHT: f64 = 0.02;
/// The least factor of a window.
const GRADIENT_MIN: f64 = 0.5;
/// The limit grows by this a window until latency is out of tolerance for the first time.
const START_FACTOR: f64 = 1.5;
/// How much of a change is made at once.
const SMOOTHING: f64 = 0.2;

#[derive(Clone, Debug)]
pub(super) struct Gradient {
    tolerance: f64,
    usual_nanos: Option<f64>,
    started: bool,
}

impl Gradient {
    pub(super) fn new(tolerance: f64) -> Self {
        Self {
            tolerance,
            usual_nanos: None,
            started: false,
        }
    }

    pub(super) fn step(&mut self, limit: f64, window: &Window) -> Option<(f64, Reason)> {
        let latency = window.latency_mean.as_nanos() as f64;
        if window.completions == 0 || latency <= 0.0 {
            return None;
        }
        let usual = *self.usual_nanos.get_or_insert(latency);
        let gradient = self.tolerance * usual / latency;
        if latency < usual {
            self.usual_nanos = Some(latency);
        } else if gradient > 1.0 {
            self.usual_nanos = Some(usual + (latency - usual) * WEIGHT);
        }
        self.started |= gradient < 1.0;
        if !self.started {
            return window
                .blocked
                .then_some((limit * START_FACTOR, Reason::Start));
        }
        let wanted = limit * gradient.clamp(GRADIENT_MIN, 1.0) + square_root(limit);
        let smoothed = limit + (wanted - limit) * SMOOTHING;
        if smoothed < limit {
            Some((smoothed, Reason::Latency))
        } else {
            window.blocked.then_some((smoothed, Reason::Room))
        }
    }
}
