//! How well the queue of tasks is: pure judgement on a look at it.

use crate::health;
use crate::tasks::follow::{Look, untaken_reason};
use crate::view::CpuHealth;
use flyball_core::time::WallTime;

/// What kinds that nobody takes make of the score: degraded, however many they are. The rest of the queue works.
const UNTAKEN: f64 = 0.7;
/// What damaged rows make of it.
const DAMAGED: f64 = 0.7;
/// Kinds that are named; of more, the number.
const NAMED: usize = 10;

/// Judges.
pub(crate) fn judge(look: &Look, now: WallTime) -> CpuHealth {
    let mut score = 1.0;
    let mut reasons = Vec::new();
    if let Some(why) = &look.stopped {
        score = 0.0;
        reasons.push(format!("the queue of tasks has stopped: {why}"));
    }
    if look.damaged > 0 {
        score *= DAMAGED;
        let rows = match look.damaged {
            1 => "1 row of the queue of tasks is".to_owned(),
            rows => format!("{rows} rows of the queue of tasks are"),
        };
        reasons.push(format!("{rows} damaged"));
    }
    if !look.untaken.is_empty() {
        score *= UNTAKEN;
        let named = look.untaken.iter().take(NAMED);
        reasons.extend(named.map(|(kind, (since, waiting))| {
            untaken_reason(kind, now.duration_since(*since), *waiting)
        }));
        if look.untaken.len() > NAMED {
            let more = look.untaken.len() - NAMED;
            reasons.push(format!("nobody takes {more} further kinds of tasks"));
        }
    }
    CpuHealth {
        status: health::status(score),
        score,
        reasons,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::HealthState;

    const NOW: WallTime = WallTime::from_unix_nanos(600_000_000_000);

    /// TASK-1: a store that has stopped is unhealthy, and says why.
    #[test]
    fn a_stopped_store_is_unhealthy() {
        let look = Look {
            stopped: Some("cannot sync: EIO".to_owned()),
            ..Look::default()
        };
        let health = judge(&look, NOW);
        assert_eq!((health.status, health.score), (HealthState::Unhealthy, 0.0));
        assert_eq!(
            health.reasons,
            ["the queue of tasks has stopped: cannot sync: EIO"]
        );
        assert_eq!(judge(&Look::default(), NOW).status, HealthState::Healthy);
    }

    /// TASK-16: kinds that nobody takes are named, with the time; however many there are, the reasons are bounded.
    #[test]
    fn kinds_that_nobody_takes_are_reasons() {
        let since = WallTime::from_unix_nanos(420_000_000_000);
        let mut look = Look::default();
        look.untaken.insert("resize".into(), (since, 2));
        let health = judge(&look, NOW);
        assert_eq!(health.status, HealthState::Degraded);
        assert_eq!(
            health.reasons,
            [
                "nobody has taken tasks of kind \"resize\" for 3 min: 2 tasks wait, with no handler and no worker for them"
            ]
        );
        for number in 0..100 {
            look.untaken.insert(format!("k{number}").into(), (since, 1));
        }
        let health = judge(&look, NOW);
        assert_eq!(
            (health.status, health.reasons.len()),
            (HealthState::Degraded, NAMED + 1)
        );
    }

    /// TASK-1: damaged rows are told.
    #[test]
    fn damaged_rows_are_reasons() {
        let look = Look {
            damaged: 1,
            ..Look::default()
        };
        let health = judge(&look, NOW);
        assert_eq!(health.reasons, ["1 row of the queue of tasks is damaged"]);
        assert_eq!(health.status, HealthState::Degraded);
    }
}
