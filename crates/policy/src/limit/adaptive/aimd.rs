//! The limit by failures: one more a window without any, a part less a window with some.
//!
//! Source: D.-M. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks" (1989).

use core::time::Duration;

use super::limit::Reason;
use super::window::Window;

#[derive(Clone, Debug)]
pub(super) struct Aimd {
    backoff: f64,
    pub(super) latency_max: Option<Duration>,
}

impl Aimd {
    pub(super) fn new(backoff: f64, latency_max: Option<Duration>) -> Self {
        Self {
            backoff,
            latency_max,
        }
    }

    pub(super) fn step(&mut self, limit: f64, window: &Window) -> Option<(f64, Reason)> {
        if window.failures > 0 {
            Some((limit * self.backoff, Reason::Failures))
        } else if window.blocked && window.completions > 0 {
            Some((limit + 1.0, Reason::Room))
        } else {
            None
        }
    }
}
