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
//! A worker is *presumed healthy*: only what is proved counts against it. So the rate of errors goes in by its lower
//! bound (that of successes would call every new worker ill: one success of one proves no more than 21 %), a latency
//! that few tasks showed is mostly that of the peers, a figure that is not known costs nothing, and a worker without
//! evidence has 1. The factors are multiplied, as one fault is enough to be ill.
//!
//! Where half is crossed ([`HEALTHY`]): 4 errors of 4 tasks, or 60 of 100; 2.5 times the time of the peers; memory 97 %
//! full; 3 missed heartbeats. Never by a busy CPU alone, which is what workers are for: it costs a fifth, so that a
//! placement by health prefers those with room.
//!
//! *Inactivity* is no illness: it ages what is known, by half every 10 s, until nothing speaks against the worker.
//! Whoever was found ill is tried again so.
//!
//! Absent on purpose: what follows from a score (replacement, retirement, placement, alerts), and the evidence of
//! outside workers (leases, not heartbeats).

use core::time::Duration;

use flyball_core::ewma::half_power;
use flyball_core::time::nanos_of;

use crate::math::square_root;

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
/// What is slower than this is as slow as this; keeps the arithmetic finite.
const SLOWDOWN_MAX: f64 = 1e6;
/// More tasks than a worker can end in the memory of the score; keeps the arithmetic finite.
const COUNT_MAX: f64 = 1e12;
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
    let tasks = decayed(in_range(inputs.tasks), inputs.idle);
    let errors = decayed(in_range(inputs.errors), inputs.idle).min(tasks);
    let success = 1.0 - wilson_lower(errors, tasks);
    let latency = match (
        positive(inputs.latency_ns),
        positive(inputs.peers_latency_ns),
    ) {
        (Some(own), Some(peers)) => {
            let slowdown =
                (tasks * (own / peers).min(SLOWDOWN_MAX) + PRIOR_TASKS) / (tasks + PRIOR_TASKS);
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

/// Returns the lower bound of the rate `hits / of` (Wilson, 1927), multiplied out by `of`, so that nothing is divided
/// by it twice; 0 when there is nothing to go by.
fn wilson_lower(hits: f64, of: f64) -> f64 {
    if of <= 0.0 {
        return 0.0;
    }
    let z2 = Z * Z;
    let spread = Z * square_root(hits * ((of - hits) / of) + z2 / 4.0);
    ((hits + z2 / 2.0 - spread) / (of + z2)).clamp(0.0, 1.0)
}

fn in_range(count: f64) -> f64 {
    if count.is_finite() {
        count.clamp(0.0, COUNT_MAX)
    } else {
        0.0
    }
}

fn positive(figure: Option<f64>) -> Option<f64> {
    figure.filter(|figure| figure.is_finite() && *figure > 0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: f64 = 1e6;

    fn failing(errors: f64, tasks: f64) -> f64 {
        score(&Inputs {
            tasks,
            errors,
            ..Inputs::default()
        })
        .score
    }

    fn taking(own_ms: f64, tasks: f64) -> f64 {
        score(&Inputs {
            tasks,
            latency_ns: Some(own_ms * MS),
            peers_latency_ns: Some(10.0 * MS),
            ..Inputs::default()
        })
        .score
    }

    /// CPU-15: a worker of which nothing is known is healthy, and so is a new one, a busy one, and one that was idle for long.
    #[test]
    fn presumed_healthy() {
        let nothing = score(&Inputs::default());
        assert_eq!(nothing.score, 1.0);
        assert_eq!(nothing.worst(), None);
        assert_eq!(failing(0.0, 1.0), 1.0, "one task went well");
        assert!(failing(1.0, 1.0) > 0.75, "one error proves little");
        let busy = score(&Inputs {
            tasks: 1e6,
            cpu: 1.0,
            latency_ns: Some(10.0 * MS),
            peers_latency_ns: Some(10.0 * MS),
            ..Inputs::default()
        });
        assert!((busy.score - 0.8).abs() < 1e-9);
        assert!(busy.is_healthy());
        let long_idle = score(&Inputs {
            idle: Duration::from_secs(86_400),
            ..Inputs::default()
        });
        assert_eq!(long_idle.score, 1.0);
    }

    /// CPU-15: half is crossed where the documentation says.
    #[test]
    fn where_half_is_crossed() {
        assert!(failing(3.0, 3.0) > HEALTHY && failing(4.0, 4.0) < HEALTHY);
        assert!(failing(59.0, 100.0) > HEALTHY && failing(60.0, 100.0) < HEALTHY);
        assert!(taking(24.9, 1e6) > HEALTHY && taking(25.1, 1e6) < HEALTHY);
        assert_eq!(taking(12.5, 1e6), 1.0, "ordinary scatter");
        assert_eq!(taking(2.0, 1e6), 1.0, "faster than its peers");
        let memory = |used| {
            let inputs = Inputs {
                memory: Some(used),
                ..Inputs::default()
            };
            score(&inputs).score
        };
        assert_eq!(memory(0.8), 1.0);
        assert!(memory(0.96) > HEALTHY && memory(0.97) < HEALTHY);
        let missing = |missed_heartbeats| {
            let inputs = Inputs {
                missed_heartbeats,
                ..Inputs::default()
            };
            score(&inputs)
        };
        assert_eq!(missing(1).score, 0.75);
        assert!(missing(2).is_healthy() && !missing(3).is_healthy());
        assert_eq!(missing(u32::MAX).score, 0.0);
        assert_eq!(missing(3).worst(), Some("heartbeat"));
    }

    /// CPU-15: a latency that few tasks showed is mostly that of the peers.
    #[test]
    fn few_tasks_prove_no_slowness() {
        assert!(taking(100.0, 1.0) > HEALTHY);
        assert!(taking(100.0, 2.0) < taking(100.0, 1.0));
        assert!(taking(100.0, 100.0) < 0.2);
    }

    /// CPU-15: evidence loses half of its weight every 10 s, so whoever was found ill is tried again.
    #[test]
    fn evidence_ages() {
        let after = |seconds| {
            score(&Inputs {
                tasks: 20.0,
                errors: 20.0,
                latency_ns: Some(100.0 * MS),
                peers_latency_ns: Some(10.0 * MS),
                idle: Duration::from_secs(seconds),
                ..Inputs::default()
            })
        };
        assert!(!after(0).is_healthy());
        let mut before = after(0).score;
        for seconds in 1..120 {
            let now = after(seconds).score;
            assert!(now > before, "after {seconds} s");
            before = now;
        }
        assert!(before > 0.99);
        assert!((decayed(8.0, Duration::from_secs(30)) - 1.0).abs() < 1e-9);
    }

    /// CPU-15: a step, a ramp and a sawtooth of errors show in the score, and pass.
    #[test]
    fn errors_that_come_and_go() {
        // 10 tasks a second; the rate of errors of each second is given.
        let run = |rate: fn(u32) -> f64| {
            let (mut tasks, mut errors) = (0.0, 0.0);
            let scores = (0..120).map(|second| {
                tasks = decayed(tasks, Duration::from_secs(1)) + 10.0;
                errors = decayed(errors, Duration::from_secs(1)) + 10.0 * rate(second);
                failing(errors, tasks)
            });
            scores.collect::<alloc::vec::Vec<f64>>()
        };
        let step = run(|second| if (30..60).contains(&second) { 1.0 } else { 0.0 });
        assert_eq!(step[29], 1.0);
        let ill = step.iter().position(|score| *score < HEALTHY).unwrap();
        assert!((38..45).contains(&ill), "found ill after {ill} s");
        let well = (60..120).find(|second| step[*second] > HEALTHY).unwrap();
        assert!(well < 70, "well again after {well} s");
        let ramp = run(|second| f64::from(second) / 120.0);
        assert!(ramp.windows(2).all(|pair| pair[1] <= pair[0]));
        // A sawtooth up to 40% never looks ill: its mean is 20%.
        let saw = run(|second| f64::from(second % 10) / 25.0);
        assert!(saw.iter().all(|score| *score > 0.7));
    }

    fn inputs() -> impl Strategy<Value = Inputs> {
        let wild = prop::num::f64::ANY;
        let count = prop_oneof![4 => 0.0..2e3, 1 => wild].boxed();
        let part = prop_oneof![4 => 0.0..1.0, 1 => wild].boxed();
        let latencies = (
            prop::option::of(count.clone()),
            prop::option::of(count.clone()),
        );
        let uses = (part.clone(), prop::option::of(part));
        ((count.clone(), count), latencies, uses, 0u64..200, 0u32..6).prop_map(
            |((tasks, errors), (own, peers), (cpu, memory), idle, missed)| Inputs {
                tasks,
                errors,
                latency_ns: own,
                peers_latency_ns: peers,
                cpu,
                memory,
                idle: Duration::from_secs(idle),
                missed_heartbeats: missed,
            },
        )
    }

    fn worsened(inputs: Inputs, worsen: impl FnOnce(&mut Inputs)) -> f64 {
        let mut worse = inputs;
        worsen(&mut worse);
        score(&worse).score
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// CPU-15: whatever is fed in, the score and its factors are from 0 to 1, and the score is their product.
        #[test]
        fn scores_are_scores(inputs in inputs()) {
            let health = score(&inputs);
            let factors = [health.success, health.latency, health.headroom, health.heartbeat];
            for factor in factors {
                prop_assert!((0.0..=1.0).contains(&factor), "{health:?}");
            }
            prop_assert!((health.score - factors.iter().product::<f64>()).abs() < 1e-12);
            prop_assert_eq!(health.worst().is_none(), health.score == 1.0);
        }

        /// CPU-15: nothing that is worse raises the score.
        #[test]
        fn worse_is_never_better(inputs in inputs(), more in 0.0..100.0, missed in 0u32..3) {
            prop_assume!(inputs.errors.is_finite() && inputs.tasks.is_finite());
            let before = score(&inputs).score + 1e-12;
            let failing = worsened(inputs, |it| it.errors = it.errors.max(0.0) + more);
            prop_assert!(failing <= before);
            let slower = worsened(inputs, |it| {
                if let Some(ns) = it.latency_ns.as_mut().filter(|ns| **ns > 0.0 && **ns < 1e300) {
                    *ns *= 1.0 + more;
                }
            });
            prop_assert!(slower <= before);
            prop_assert!(worsened(inputs, |it| it.cpu += more) <= before);
            let fuller = worsened(inputs, |it| it.memory = it.memory.map(|used| used + more));
            prop_assert!(fuller <= before);
            let silent = worsened(inputs, |it| it.missed_heartbeats += missed);
            prop_assert!(silent <= before);
        }

        /// CPU-15: the lower bound agrees with the formula computed by the standard library, and the root is one.
        #[test]
        fn the_bound_is_wilsons(hits in 0.0..1e6, misses in 0.0..1e6, x in 1e-300..1e300) {
            let of: f64 = hits + misses;
            prop_assume!(of > 0.0);
            let rate: f64 = hits / of;
            let z2 = Z * Z;
            let spread = Z * (rate * (1.0 - rate) / of + z2 / (4.0 * of * of)).sqrt();
            let truth = (rate + z2 / (2.0 * of) - spread) / (1.0 + z2 / of);
            prop_assert!((wilson_lower(hits, of) - truth).abs() < 1e-9);
            prop_assert!((square_root(x) / x.sqrt() - 1.0).abs() < 1e-12);
        }
    }
}
