//! The limit by run delay.
//!
//! Of the calls in flight some run or wait for something that is not a CPU, and some are ready and have no CPU. Only the latter are too
//! many. With `n` calls in flight, of whose time the part φ was run delay, `b = n·(1−φ)` calls are what the machine works at, and the limit is `b`
//! and a few more that wait in reserve, so that no CPU idles between the end of a call and the start of the next.
//!
//! Nothing is remembered but `b`, averaged over a few windows: what the machine works at follows from what it does now, whatever it did before.

use super::limit::Reason;
use super::window::Window;
use crate::math::square_root;

/// Weight of a new window.
const WEIGHT: f64 = 0.25;
/// At first the limit grows by this a window, while next to nothing waits.
const START_FACTOR: f64 = 1.6;
/// Run delay above which the first growth is over.
const START_UNTIL: f64 = 0.10;
/// How far the limit moves at most in a window.
const STEP: (f64, f64) = (0.7, 1.4);
/// The least reserve, calls.
const RESERVE_MIN: f64 = 2.0;
/// Reserve by the root of what the machine works at: calls that wait for something else end that in clumps of about the root of their number.
const RESERVE_BY_ROOT: f64 = 0.5;

#[derive(Clone, Debug)]
pub(super) struct RunDelay {
    works_at: Option<f64>,
    starting: bool,
}

impl RunDelay {
    pub(super) fn new() -> Self {
        Self {
            works_at: None,
            starting: true,
        }
    }

    pub(super) fn step(&mut self, limit: f64, window: &Window) -> Option<(f64, Reason)> {
        let delayed = window.run_delay_share?;
        let busy = window.in_flight_mean * (1.0 - delayed);
        let works_at = self
            .works_at
            .map_or(busy, |before| before + (busy - before) * WEIGHT);
        self.works_at = Some(works_at);
        if self.starting {
            if delayed < START_UNTIL {
                return window
                    .blocked
                    .then_some((limit * START_FACTOR, Reason::Start));
            }
            self.starting = false;
        }
        let reserve = (RESERVE_BY_ROOT * square_root(works_at)).max(RESERVE_MIN);
        let wanted = (works_at + reserve).clamp(limit * STEP.0, limit * STEP.1);
        if wanted < limit {
            Some((wanted, Reason::RunDelay))
        } else if window.blocked {
            Some((wanted, Reason::Room))
        } else {
            None
        }
    }
}
