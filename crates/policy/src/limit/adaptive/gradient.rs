//! The limit by the ratio of usual latency to latency now.
//!
//! The usual latency is an average over many groups of calls that follows a fall at once and a rise slowly. While latency is within a tolerance
//! of it the limit grows by its root, else it shrinks in proportion.
//!
//! Latency that is out of tolerance is a queue only if it falls when fewer calls are in flight. If half of them take as long as before, then
//! what they take is the usual latency from now on, and the limit is back where it began to shrink: the dependency has become slower, or a
//! while of fast answers (a warm cache, nothing found) was taken for what is usual. A limit that rests before it has come down to half, as
//! under an overload that lasts, is cut there now and then to see.
//!
//! Source: Netflix `concurrency-limits`, `Gradient2Limit` (2018). Its usual latency takes in that of overload, so that its limit rises for
//! ever under an overload that lasts; here a group of which latency is out of tolerance does not count. What that costs, that a lasting rise
//! is never seen as one, is what halving is for.

use super::limit::Reason;
use super::window::Window;
use crate::math::square_root;

/// Weight of a group in the usual latency.
const WEIGHT: f64 = 0.02;
/// The least factor of a group.
const GRADIENT_MIN: f64 = 0.5;
/// The limit grows by this a group until latency is out of tolerance for the first time.
const START_FACTOR: f64 = 1.5;
/// How much of a change is made at once.
const SMOOTHING: f64 = 0.2;
/// The part of the calls in flight that tells a queue.
const PROBE: f64 = 0.5;
/// Latency above this part of what it was is the same; a queue would have lost half of it.
const SAME: f64 = 0.8;
/// With so many groups in a row out of tolerance the calls in flight are cut to see.
const PATIENCE: u32 = 32;

/// What was seen since latency is out of tolerance.
#[derive(Clone, Copy, Debug)]
struct Slow {
    /// The limit when that began.
    limit: f64,
    /// The greatest latency since, ns, and the calls in flight of its group.
    latency: f64,
    in_flight: f64,
    groups: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Following {
        slow: Option<Slow>,
    },
    /// The limit was cut; the group that had begun is discarded.
    Settling {
        before: f64,
        latency: f64,
    },
    Probing {
        before: f64,
        latency: f64,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Gradient {
    tolerance: f64,
    usual_nanos: Option<f64>,
    started: bool,
    phase: Phase,
}

impl Gradient {
    pub(super) fn new(tolerance: f64) -> Self {
        Self {
            tolerance,
            usual_nanos: None,
            started: false,
            phase: Phase::Following { slow: None },
        }
    }

    /// The usual latency, ns; a call that failed sooner says nothing.
    pub(super) fn usual_nanos(&self) -> Option<f64> {
        self.usual_nanos
    }

    pub(super) fn step(&mut self, limit: f64, window: &Window) -> Option<(f64, Reason)> {
        let latency = window.latency_mean.as_nanos() as f64;
        if window.completions == 0 || latency <= 0.0 {
            return None;
        }
        match self.phase {
            Phase::Following { slow } => self.follow(limit, window, latency, slow),
            Phase::Settling { before, latency } => {
                self.phase = Phase::Probing { before, latency };
                None
            }
            Phase::Probing {
                before,
                latency: then,
            } => {
                // Where it is far greater with fewer calls, something else has changed meanwhile.
                if latency >= then * SAME && latency * SAME <= then {
                    self.usual_nanos = Some(latency);
                }
                self.phase = Phase::Following { slow: None };
                Some((before, Reason::Probe))
            }
        }
    }

    fn follow(
        &mut self,
        limit: f64,
        window: &Window,
        latency: f64,
        slow: Option<Slow>,
    ) -> Option<(f64, Reason)> {
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
        self.phase = Phase::Following { slow: None };
        if gradient < 1.0 {
            let in_flight = window.in_flight_mean;
            let mut slow = slow.unwrap_or(Slow {
                limit,
                latency,
                in_flight,
                groups: 0,
            });
            slow.groups += 1;
            if latency > slow.latency {
                (slow.latency, slow.in_flight) = (latency, in_flight);
            } else if in_flight <= slow.in_flight * PROBE {
                if latency >= slow.latency * SAME {
                    self.usual_nanos = Some(latency);
                    return Some((slow.limit, Reason::Probe));
                }
                (slow.latency, slow.in_flight) = (latency, in_flight);
            }
            if slow.groups >= PATIENCE {
                let before = limit;
                self.phase = Phase::Settling { before, latency };
                return Some((limit.min(in_flight) * PROBE, Reason::Probe));
            }
            self.phase = Phase::Following { slow: Some(slow) };
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
