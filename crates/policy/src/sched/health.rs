//! How healthy a worker is, from 0 to 1.
//!
//! ```text
//! score = success × latency × headroom × heartbeat
//! success   = 1 − lower bound (Wilson, 95 %) of the rate of errors
//! latency   = min(1, 1.25 × peers / own)      own shrunk towards the peers by 10 tasks
//! headroom  = min(1 − 0.2 × (cpu − 0.7) / 0.3, 1 − 0.6 × (memory − 0.8) / 0.2), each at most 1
//! heartbeat = 1 − missed / 4
//! ```
//!
//! A worker is *presumed healthy*: only what is proved counts against it. So the rate of errors goes in by its lower bound (that of successes would
//! call every new worker ill: one success of one proves no more than 21 %), a latency that few tasks showed is mostly that of the peers, a figure
//! that is not known costs nothing, and a worker without evidence has 1. The factors are multiplied, as one fault is enough to be ill.
//!
//! Where half is crossed ([`HEALTHY`]): 5 errors of 5 tasks, or 60 of 100; 2.5 times the time of the peers; memory 97 % full; 3 missed heartbeats. Never
//! by a busy CPU alone, which is what workers are for: it costs a fifth, so that a placement by health prefers those with room.
//!
//! *Inactivity* is no illness: it ages what is known, by half every 10 s, until nothing speaks against the worker. Whoever was found ill is tried again so.
//!
//! Absent on purpose: what follows from a score (replacement, retirement, placement, alerts), and the evidence of outside workers (leases, not heartbeats).

use core::time::Duration;

use flyball_core::ewma::half_power;
use flyball_core::time::nanos_of;

/// A worker below this score counts as no capacity.
pub const HEALTHY: f64 = 0.5;
/// In this time evidence loses half of its weight.
pub const HALF_LIFE: Duration = Duration::from_secs(10);

/// The normal quantile of a 95 % interval.
const Z: f64 = 1.959_964;
/// A latency that rests on this many tasks counts half, the peers' the other half.
const PRIOR_TASKS: f64 = 10.0;
/// Slower than the peers by up to this factor is ordinary scatter: half of all workers are slower than the median.
const SLOWDOWN_ALLOWED: f64 = 1.25;
/// The use of the CPU up to which there is room.
const CPU_ROOM: f64 = 0.7;
/// What a CPU that is busy all the time costs.
const CPU_COST: f64 = 0.2;
/// The use of the memory up to which there is room.
const MEMORY_ROOM: f64 = 0.8;
/// What full memory costs: more than half, for the next allocation fails.
const MEMORY_COST: f64 = 0.6;
/// So many missed heartbeats leave nothing: one is chance, three are not.
const HEARTBEATS_TO_ZERO: f64 = 4.0;

/// What is known about a worker.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Inputs {
    /// The tasks that ended, each halved every 10 s ([`decayed`]) up to the worker's last activity.
    pub tasks: f64,
    /// Those of them that failed, decayed likewise.
    pub errors: f64,
    /// The worker's mean run time of a task lately, in nanoseconds.
    pub latency_ns: Option<f64>,
    /// The median of that over its peers.
    pub peers_latency_ns: Option<f64>,
    /// The part of the time in which the worker used its CPU, 0 to 1.
    pub cpu: f64,
    /// The part of its memory limit that is used, 0 to 1; `None` if it has none.
    pub memory: Option<f64>,
    /// The time since its last activity.
    pub idle: Duration,
    /// Heartbeats missed in a row.
    pub missed_heartbeats: u32,
}

/// A score, and the factors whose product it is; each 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Health {
    /// The score: 1 is healthy, below [`HEALTHY`] is no capacity.
    pub score: f64,
    /// What errors leave.
    pub success: f64,
    /// What slowness against the peers leaves.
    pub latency: f64,
    /// What the use of CPU and memory leaves.
    pub headroom: f64,
    /// What missed heartbeats leave.
    pub heartbeat: f64,
}

impl Health {
    /// Says whether the worker counts as capacity.
    pub fn is_healthy(&self) -> bool {
        self.score >= HEALTHY
    }

    /// Returns the name of the factor that costs most, `success`, `latency`, `headroom` or `heartbeat`; `None` at full health.
    pub fn worst(&self) -> Option<&'static str> {
        let mut worst = None;
        let mut least = 1.0;
        for (name, factor) in [
            ("success", self.success),
            ("latency", self.latency),
            ("headroom", self.headroom),
            ("heartbeat", self.heartbeat),
        ] {
            if factor < least {
                (worst, least) = (Some(name), factor);
            }
        }
        worst
    }
}

/// Returns what is left of a count after `elapsed`: half every 10 s.
pub fn decayed(count: f64, elapsed: Duration) -> f64 {
    count * half_power(nanos_of(elapsed), nanos_of(HALF_LIFE))
}

/// Judges a worker. Figures that are no number or out of their range count as not known or as the end of the range.
pub fn score(inputs: &Inputs) -> Health {
    let tasks = decayed(or_zero(inputs.tasks), inputs.idle);
    let errors = decayed(or_zero(inputs.errors), inputs.idle).min(tasks);
    let success = 1.0 - wilson_lower(errors, tasks);
    let latency = match (
        positive(inputs.latency_ns),
        positive(inputs.peers_latency_ns),
    ) {
        (Some(own), Some(peers)) => {
            let slowdown = (tasks * (own / peers) + PRIOR_TASKS) / (tasks + PRIOR_TASKS);
            (SLOWDOWN_ALLOWED / slowdown).min(1.0)
        }
        _ => 1.0,
    };
    let headroom = room(inputs.cpu, CPU_ROOM, CPU_COST).min(
        inputs
            .memory
            .map_or(1.0, |used| room(used, MEMORY_ROOM, MEMORY_COST)),
    );
    let heartbeat = (1.0 - f64::from(inputs.missed_heartbeats) / HEARTBEATS_TO_ZERO).max(0.0);
    Health {
        score: (success * latency * headroom * heartbeat).clamp(0.0, 1.0),
        success,
        latency,
        headroom,
        heartbeat,
    }
}

/// Returns what a use leaves: 1 up to `free`, then in a line down to 1 − `cost` at full use.
fn room(used: f64, free: f64, cost: f64) -> f64 {
    if used.is_nan() {
        return 1.0;
    }
    1.0 - cost * ((used.min(1.0) - free) / (1.0 - free)).max(0.0)
}

/// Returns the lower bound of the rate `hits / of` (Wilson, 1927); 0 when there is nothing to go by.
fn wilson_lower(hits: f64, of: f64) -> f64 {
    if of <= 0.0 {
        return 0.0;
    }
    let rate = hits / of;
    let z2 = Z * Z;
    let middle = rate + z2 / (2.0 * of);
    let spread = Z * square_root((rate * (1.0 - rate) + z2 / (4.0 * of)) / of);
    ((middle - spread) / (1.0 + z2 / of)).clamp(0.0, 1.0)
}

/// Returns the square root of a number that is not negative, which `core` cannot (Newton, from half the exponent).
fn square_root(x: f64) -> f64 {
    if x <= 0.0 || !x.is_finite() {
        return 0.0;
    }
    let mut root = f64::from_bits((x.to_bits() >> 1) + (1023 << 51));
    for _ in 0..4 {
        root = 0.5 * (root + x / root);
    }
    root
}

fn or_zero(count: f64) -> f64 {
    if count.is_finite() {
        count.max(0.0)
    } else {
        0.0
    }
}

fn positive(figure: Option<f64>) -> Option<f64> {
    figure.filter(|figure| figure.is_finite() && *figure > 0.0)
}
