//! How well the engine is: a score from what it sees of itself, with the reasons.
//!
//! Each factor is 1 when all is well and falls with what is wrong; the score is their product, so two troubles weigh more than
//! one. Pure. Load alone is no illness: a machine that is full and meets its latency targets is healthy.

use crate::view::{CpuHealth, HealthState};
use std::time::Duration;

/// A queue is late when its oldest task has waited this many times the latency target of its class, and at least
/// [`LATE_AT_LEAST`].
pub const LATE_TARGETS: u32 = 10;
/// See [`LATE_TARGETS`]: classes with targets of a millisecond are not late over one hiccup.
pub const LATE_AT_LEAST: Duration = Duration::from_secs(1);
/// The figures are stale when none came for this many sampling intervals.
pub const STALE_INTERVALS: u32 = 5;

/// What the verdict rests on.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Health of each worker, 0 to 1.
    pub workers: Vec<f64>,
    /// Workers that have run one task for longer than is allowed.
    pub stuck: usize,
    /// Classes with work: name, oldest wait where known, latency target.
    pub waits: Vec<(String, Duration, Duration)>,
    /// Tasks refused because a queue was full, over the last interval.
    pub refused: u64,
    /// Tasks that ended over the last interval.
    pub ended: u64,
    /// Whether the control loop has ended by a panic.
    pub unregulated: bool,
    /// Age of the last sample and the sampling interval, while sampling is on.
    pub sample: Option<(Duration, Duration)>,
}

/// Judges.
pub fn judge(inputs: &Inputs) -> CpuHealth {
    let mut score = 1.0;
    let mut reasons = Vec::new();
    let mut factor = |value: f64, reason: String| {
        score *= value.clamp(0.0, 1.0);
        reasons.push(reason);
    };
    if inputs.stuck > 0 {
        let part = inputs.stuck as f64 / inputs.workers.len().max(inputs.stuck) as f64;
        factor(
            1.0 - 0.75 * part,
            plural(inputs.stuck, "worker is", "workers are") + " stuck",
        );
    }
    let weak: Vec<f64> = inputs
        .workers
        .iter()
        .copied()
        .filter(|health| *health < 0.5)
        .collect();
    if !weak.is_empty() {
        let part = weak.len() as f64 / inputs.workers.len() as f64;
        let lowest = weak.iter().copied().fold(1.0, f64::min);
        factor(
            1.0 - 0.75 * part,
            format!(
                "{} below health 0.5, the lowest at {lowest:.2}",
                plural(weak.len(), "worker is", "workers are")
            ),
        );
    }
    for (class, oldest, target) in &inputs.waits {
        let late = target.saturating_mul(LATE_TARGETS).max(LATE_AT_LEAST);
        if *oldest > late {
            factor(
                0.75,
                format!(
                    "the oldest task of class {class} has waited {oldest:.1?}; its target is {target:?}"
                ),
            );
        }
    }
    if inputs.refused > 0 {
        let part = inputs.refused as f64 / (inputs.refused + inputs.ended) as f64;
        factor(
            1.0 - 0.75 * part,
            format!(
                "{} refused over the last interval because a queue was full",
                plural(inputs.refused as usize, "task was", "tasks were")
            ),
        );
    }
    if inputs.unregulated {
        let reason = "the control loop has ended by a panic: nothing is sampled or regulated";
        factor(0.4, reason.to_owned());
    }
    if let Some((age, interval)) = inputs.sample
        && age > interval * STALE_INTERVALS
    {
        factor(
            0.75,
            format!("no sample for {age:.1?}; one is due each {interval:?}"),
        );
    }
    CpuHealth {
        status: status(score),
        score,
        reasons,
    }
}

/// What a score from 0 to 1 is called.
pub(crate) fn status(score: f64) -> HealthState {
    match score {
        _ if score >= 0.8 => HealthState::Healthy,
        _ if score >= 0.5 => HealthState::Degraded,
        _ => HealthState::Unhealthy,
    }
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Inputs {
        Inputs {
            workers: vec![1.0; 4],
            ended: 100,
            sample: Some((Duration::from_secs(1), Duration::from_secs(1))),
            ..Inputs::default()
        }
    }

    /// API-2: an engine without trouble is healthy and gives no reasons; one without workers yet is as well.
    #[test]
    fn no_trouble_is_full_health() {
        for inputs in [well(), Inputs::default()] {
            let health = judge(&inputs);
            assert_eq!((health.status, health.score), (HealthState::Healthy, 1.0));
            assert!(health.reasons.is_empty());
        }
    }

    /// API-2: each trouble lowers the score and gives its reason.
    #[test]
    fn each_trouble_lowers_the_score_and_says_why() {
        let seconds = Duration::from_secs;
        let troubles = [
            (Inputs { stuck: 1, ..well() }, "1 worker is stuck"),
            (
                Inputs {
                    workers: vec![1.0, 0.25, 0.4],
                    ..well()
                },
                "2 workers are below health 0.5, the lowest at 0.25",
            ),
            (
                Inputs {
                    waits: vec![("batch".into(), seconds(11), seconds(1))],
                    ..well()
                },
                "the oldest task of class batch has waited 11.0s; its target is 1s",
            ),
            (
                Inputs {
                    refused: 50,
                    ..well()
                },
                "50 tasks were refused over the last interval because a queue was full",
            ),
            (
                Inputs {
                    unregulated: true,
                    ..well()
                },
                "the control loop has ended by a panic: nothing is sampled or regulated",
            ),
            (
                Inputs {
                    sample: Some((seconds(9), seconds(1))),
                    ..well()
                },
                "no sample for 9.0s; one is due each 1s",
            ),
        ];
        for (inputs, reason) in troubles {
            let health = judge(&inputs);
            assert!(health.score < 1.0, "{reason}");
            assert_eq!(health.reasons, [reason]);
        }
    }

    /// API-2: all workers stuck and a full queue is unhealthy; waits within ten targets or a second are nothing.
    #[test]
    fn troubles_add_up() {
        let bad = Inputs {
            stuck: 4,
            refused: 100,
            ended: 0,
            ..well()
        };
        assert_eq!(judge(&bad).status, HealthState::Unhealthy);
        let ms = Duration::from_millis;
        let small = Inputs {
            waits: vec![
                ("critical".into(), ms(900), ms(1)),
                ("patient".into(), ms(900_000), Duration::MAX),
            ],
            ..well()
        };
        assert_eq!(judge(&small).score, 1.0);
    }
}
