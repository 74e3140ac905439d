//! The limit by latency against latency without a queue, for a dependency that shows nothing else.
//!
//! With `n` calls in flight that take `R` in the mean, and `base` without a queue, `q = n·(1 − base/R)` of them wait (Little's law). The
//! limit grows while few do and shrinks while many do.
//!
//! `base` is the mean latency of a whole group of calls at a limit where nothing queues, not the least latency ever seen: least values belong
//! to the shortest calls, and the least of noisy means drifts below all of them. It is measured anew now and then at half the limit, since
//! the mix of calls changes; then the group that began before the limit took effect is discarded.
//!
//! Source: L. S. Brakmo, L. L. Peterson, "TCP Vegas: End to End Congestion Avoidance on a Global Internet" (1995).

use core::time::Duration;

use flyball_core::time::Timestamp;

use super::limit::Reason;
use super::window::Window;
use crate::math::square_root;

/// At first the limit grows by this a group.
const START_FACTOR: f64 = 1.5;
/// The first growth is over when more than this part of the calls waited, twice in a row.
const START_QUEUED: f64 = 0.25;
/// It grows below this multiple of the root of the limit, and shrinks above the other.
const QUEUED: (f64, f64) = (0.6, 1.4);
/// Steps are this part of the root of the limit, and at least one call.
const STEP: f64 = 1.0 / 3.0;
/// A mean is good when its standard error is this part of it.
const ERROR: f64 = 0.07;
/// Fewest and most calls of a group.
const CALLS: (f64, f64) = (60.0, 3_000.0);
/// What is left of the limit while `base` is measured.
const PROBE: f64 = 0.5;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Starting {
        queued: u8,
    },
    Following,
    /// The limit was cut; the group that had begun is discarded.
    Settling {
        before: f64,
    },
    Probing {
        before: f64,
    },
    /// The limit is back; the group that began under the probe is discarded.
    Returning,
}

#[derive(Clone, Debug)]
pub(super) struct Vegas {
    probe_every: Duration,
    phase: Phase,
    base_nanos: Option<f64>,
    probed: Timestamp,
    wanted: u64,
}

impl Vegas {
    pub(super) fn new(now: Timestamp, probe_every: Duration) -> Self {
        Self {
            probe_every,
            phase: Phase::Starting { queued: 0 },
            base_nanos: None,
            probed: now,
            wanted: CALLS.0 as u64,
        }
    }

    /// How many calls the group that fills should have.
    pub(super) fn wanted(&self) -> u64 {
        self.wanted
    }

    pub(super) fn step(
        &mut self,
        now: Timestamp,
        limit: f64,
        window: &Window,
    ) -> Option<(f64, Reason)> {
        if window.completions == 0 {
            return None;
        }
        let latency = window.latency_mean.as_nanos() as f64;
        let variation = window.latency_variation / ERROR;
        self.wanted = (variation * variation).clamp(CALLS.0, CALLS.1) as u64;
        let base = *self.base_nanos.get_or_insert(latency);
        let queued = if latency > 0.0 {
            window.in_flight_mean * (1.0 - base / latency).max(0.0)
        } else {
            0.0
        };
        match self.phase {
            Phase::Settling { before } => {
                self.phase = Phase::Probing { before };
                None
            }
            Phase::Probing { before } => {
                self.base_nanos = Some(latency);
                self.probed = now;
                self.phase = Phase::Returning;
                Some((before, Reason::Probe))
            }
            Phase::Returning => {
                self.phase = Phase::Following;
                None
            }
            Phase::Starting { queued: times } => {
                if queued > START_QUEUED * window.in_flight_mean {
                    if times > 0 {
                        self.phase = Phase::Following;
                        let wanted = limit / START_FACTOR;
                        return Some((wanted, Reason::Latency));
                    }
                    self.phase = Phase::Starting { queued: times + 1 };
                    return None;
                }
                self.phase = Phase::Starting { queued: 0 };
                window
                    .blocked
                    .then_some((limit * START_FACTOR, Reason::Start))
            }
            Phase::Following => {
                // A lower mean than that without a queue is the better one of the two.
                if latency < base {
                    self.base_nanos = Some(base + (latency - base) * 0.25);
                }
                if window.blocked && now.duration_since(self.probed) >= self.probe_every {
                    self.phase = Phase::Settling { before: limit };
                    return Some((limit * PROBE, Reason::Probe));
                }
                let root = square_root(limit);
                let step = (root * STEP).max(1.0);
                if queued > QUEUED.1 * root {
                    Some((limit - step, Reason::Latency))
                } else if queued < QUEUED.0 * root && window.blocked {
                    Some((limit + step, Reason::Room))
                } else {
                    None
                }
            }
        }
    }
}
