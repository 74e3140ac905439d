//! The limit by latency against latency without a queue, for a dependency that shows nothing else.
//!
//! With `n` calls in flight that take `R` in the mean, and `base` without a queue, `q = n·(1 − base/R)` of them wait (Little's law). The
//! limit grows while few do and shrinks while many do.
//!
//! `base` is the mean latency of a whole group of calls at a limit where nothing queues, not the least latency ever seen: least values belong
//! to the shortest calls, and the least of noisy means drifts below all of them. It is measured anew now and then at half the limit, since
//! the mix of calls changes; then the group that began before the limit took effect is discarded. If calls then are faster than `base`, something
//! had queued all the time, and the limit is halved again; so it does not matter where the search starts. If the limit has shrunk to half
//! and calls take as long as before, it was no queue that they waited in, and their latency is the new `base`.
//!
//! Source: L. S. Brakmo, L. L. Peterson, "TCP Vegas: End to End Congestion Avoidance on a Global Internet" (1995).

use core::time::Duration;

use flyball_core::time::Timestamp;

use super::limit::Reason;
use super::window::Window;
use crate::math::square_root;

/// At first the limit grows to this multiple of the calls in flight of a group.
const START_FACTOR: f64 = 2.0;
/// Means need not be better than this meanwhile, so that groups are small.
const START_ERROR: f64 = 0.15;
/// The first growth is over when more than this part of the calls waited twice in a row, or more than the other once.
const START_QUEUED: f64 = 0.25;
const START_QUEUED_FAR: f64 = 0.5;
/// It grows below this multiple of the root of the limit, and shrinks above the other.
const QUEUED: (f64, f64) = (0.6, 1.4);
/// Steps are this part of the root of the limit, and at least one call; so many times as much after as many in the same direction upwards.
const STEP: f64 = 1.0 / 3.0;
const STEPS_MAX: f64 = 4.0;
/// With more than so many roots of the limit in the queue, it shrinks at once to what is worked at and a root more, but not below this part.
const FAR: (f64, f64) = (3.0, 0.7);
/// A mean is good when its standard error is this part of it.
const ERROR: f64 = 0.07;
/// Nor is it when the queue that follows from it scatters by more than half a root of the limit: a group has so many times the limit calls, times
/// the squared variation of latency.
const ROUNDS: f64 = 4.0;
/// Fewest and most calls of a group.
const CALLS: (f64, f64) = (60.0, 4_000.0);
/// What is left of the limit while `base` is measured.
const PROBE: f64 = 0.5;
/// Latency above this part of what it was is the same; a queue would have lost half of it.
const SAME: f64 = 0.8;

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
    /// Calls in it.
    base_calls: f64,
    /// The most calls in flight, during the first growth, of which few waited.
    unqueued: f64,
    probed: Timestamp,
    wanted: u64,
    /// Steps upwards in a row.
    rises: f64,
    /// Limit and latency when it began to shrink.
    shrinks: Option<(f64, f64)>,
}

impl Vegas {
    pub(super) fn new(now: Timestamp, probe_every: Duration) -> Self {
        Self {
            probe_every,
            phase: Phase::Starting { queued: 0 },
            base_nanos: None,
            base_calls: 0.0,
            unqueued: 0.0,
            probed: now,
            wanted: CALLS.0 as u64,
            rises: 0.0,
            shrinks: None,
        }
    }

    /// The latency without a queue, ns; a call that failed sooner says nothing.
    pub(super) fn base_nanos(&self) -> Option<f64> {
        self.base_nanos
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
        let base = *self.base_nanos.get_or_insert(latency);
        let queued = if latency > 0.0 {
            window.in_flight_mean * (1.0 - base / latency).max(0.0)
        } else {
            0.0
        };
        let seen = Seen {
            now,
            limit,
            latency,
            base,
            queued,
        };
        self.wanted = self.calls(limit, window.latency_variation);
        match self.phase {
            Phase::Starting { queued: times } => self.start(&seen, window, times),
            Phase::Following => self.follow(&seen, window),
            Phase::Settling { before } => {
                self.phase = Phase::Probing { before };
                None
            }
            Phase::Probing { before } => Some(self.probed(&seen, window, before)),
            Phase::Returning => {
                self.phase = Phase::Following;
                None
            }
        }
    }

    /// How many calls make a good mean where latency scatters so.
    fn calls(&self, limit: f64, variation: f64) -> u64 {
        let squared = variation * variation;
        let calls = match self.phase {
            Phase::Starting { .. } => squared / (START_ERROR * START_ERROR),
            _ => squared * (ROUNDS * limit).max(1.0 / (ERROR * ERROR)),
        };
        calls.clamp(CALLS.0, CALLS.1) as u64
    }

    fn start(&mut self, seen: &Seen, window: &Window, times: u8) -> Option<(f64, Reason)> {
        let in_flight = window.in_flight_mean;
        if !window.blocked || seen.queued <= START_QUEUED * in_flight {
            self.phase = Phase::Starting { queued: 0 };
            // All of these say what latency is without a queue, and each alone is a poor mean.
            let calls = window.completions as f64;
            self.base_calls += calls;
            self.base_nanos =
                Some(seen.base + (seen.latency - seen.base) * calls / self.base_calls);
            self.unqueued = self.unqueued.max(in_flight);
            // A group that began before the limit grew last says nothing of the limit now.
            let wanted = in_flight * START_FACTOR;
            (window.blocked && wanted > seen.limit).then_some((wanted, Reason::Start))
        } else if times > 0 || seen.queued > START_QUEUED_FAR * in_flight {
            let wanted = self.unqueued.max(in_flight - seen.queued);
            let before = (wanted + square_root(wanted)).min(seen.limit);
            self.phase = Phase::Settling { before };
            Some((before * PROBE, Reason::Latency))
        } else {
            self.phase = Phase::Starting { queued: times + 1 };
            None
        }
    }

    /// The group under a probe has ended.
    fn probed(&mut self, seen: &Seen, window: &Window, before: f64) -> (f64, Reason) {
        let calls = window.completions as f64;
        let lower = seen.latency < seen.base * SAME;
        self.base_nanos = Some(if lower || seen.latency > seen.base / SAME {
            seen.latency
        } else {
            let part = calls / (self.base_calls + calls);
            seen.base + (seen.latency - seen.base) * part
        });
        self.base_calls = calls;
        if lower && window.in_flight_mean > 1.0 {
            // Something queued even where nothing was thought to.
            self.phase = Phase::Settling { before: seen.limit };
            return (seen.limit * PROBE, Reason::Probe);
        }
        self.probed = seen.now;
        self.phase = Phase::Returning;
        (before, Reason::Probe)
    }

    fn follow(&mut self, seen: &Seen, window: &Window) -> Option<(f64, Reason)> {
        let Seen {
            now,
            limit,
            latency,
            base,
            queued,
        } = *seen;
        // A mean that is lower than that without a queue, and not by chance, is the better one of the two.
        if latency < base * (1.0 - ERROR) {
            self.base_nanos = Some(base + (latency - base) * 0.25);
        }
        // With fewer in flight than would be left nothing is cut and nothing learnt.
        let many = window.in_flight_mean > limit * PROBE;
        if many && window.blocked && now.duration_since(self.probed) >= self.probe_every {
            self.phase = Phase::Settling { before: limit };
            return Some((limit * PROBE, Reason::Probe));
        }
        let root = square_root(limit);
        let step = (root * STEP).max(1.0);
        let rises = core::mem::take(&mut self.rises);
        if queued <= QUEUED.1 * root {
            self.shrinks = None;
            if queued >= QUEUED.0 * root || !window.blocked {
                return None;
            }
            self.rises = (rises + 1.0).min(STEPS_MAX);
            return Some((limit + step * self.rises, Reason::Room));
        }
        if window.in_flight_mean > limit + step {
            // This group began before the limit shrank last.
            return None;
        }
        let (from, then) = *self.shrinks.get_or_insert((limit, latency));
        if limit <= from * PROBE && latency >= then * SAME {
            self.base_nanos = Some(latency);
            self.probed = now;
            self.shrinks = None;
            return None;
        }
        let mut wanted = limit - step;
        if queued > FAR.0 * root {
            let works_at = window.in_flight_mean - queued;
            wanted = wanted.min(works_at + root).max(limit * FAR.1);
        }
        Some((wanted, Reason::Latency))
    }
}

/// What a group of calls said.
struct Seen {
    now: Timestamp,
    limit: f64,
    /// Its mean latency and that without a queue, ns.
    latency: f64,
    base: f64,
    /// How many of its calls waited, mean over time.
    queued: f64,
}
