//! A fleet of workers that take time to start, second by second: what comes is served, waits a little, or is refused.

use flyball_core::time::Timestamp;
use flyball_policy::control::{Arbiter, Controller, KnobId, KnobSpec};
use flyball_policy::sched::pool::{Classic, Offered, OfferedConfig, PoolConfig, PoolView};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

use super::hpa::{DOWN_WINDOW, Hpa, PERIOD};
use crate::Error;

/// How the fleet is sized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The Kubernetes autoscaler's, as it comes: 300 s down.
    Hpa,
    /// The same with the down window of sizing by offered work: what that alone would bring.
    HpaQuick,
    /// By offered work, prediction included.
    Offered,
    /// By offered work, without prediction.
    OfferedUnforeseen,
    /// flyball's classic controller with its delays scaled as the autoscaler's times: 15 s up, 300 s down.
    Classic,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 5] = [
        Self::Hpa,
        Self::HpaQuick,
        Self::Offered,
        Self::OfferedUnforeseen,
        Self::Classic,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hpa => "kubernetes",
            Self::HpaQuick => "kubernetes, 30 s down",
            Self::Offered => "offered",
            Self::OfferedUnforeseen => "offered, no prediction",
            Self::Classic => "classic",
        }
    }
}

/// The fleet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fleet {
    /// Seconds until a worker that was asked for works.
    pub boot: u32,
    /// The longest that work waits, seconds; what would wait longer is refused.
    pub patience: f64,
    /// Seconds of a worker that a task takes.
    pub task: f64,
    /// The utilisation that both rules aim at.
    pub target: f64,
    /// The most workers.
    pub max: u32,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Outcome {
    /// Work that came, worker-seconds.
    pub offered: f64,
    /// Work that was refused.
    pub unserved: f64,
    /// Worker-seconds that were paid for, starting ones included.
    pub paid: f64,
    /// Changes of size.
    pub changes: u32,
    /// Changes in the last three quarters of the time, in an hour.
    pub changes_an_hour: f64,
}

enum Sizer {
    Hpa(Hpa),
    Policy(Box<dyn Controller<View = PoolView>>),
}

fn knob() -> Result<KnobId, Error> {
    let spec = KnobSpec {
        name: "workers".to_owned(),
        unit: "workers",
        min: 1.0,
        max: 1e6,
        about: "how many workers there are",
    };
    Ok(Arbiter::new().try_add_knob(spec, 1.0)?)
}

impl Fleet {
    fn sizer(&self, rule: Rule) -> Result<Sizer, Error> {
        let pool = PoolConfig {
            min: 1,
            max: self.max,
            target_load: self.target,
            scale_up_delay: Duration::from_secs(15),
            scale_down_delay: Duration::from_secs(300),
            max_idle_time: Duration::from_secs(300),
        };
        let boot = Duration::from_secs(u64::from(self.boot));
        let mut offered = OfferedConfig::for_machines(pool, boot);
        Ok(match rule {
            Rule::Hpa => Sizer::Hpa(Hpa::new(self.target, DOWN_WINDOW, 1, self.max)),
            Rule::HpaQuick => {
                let down_window = offered.lesser_down_window.as_secs() as u32;
                Sizer::Hpa(Hpa::new(self.target, down_window, 1, self.max))
            }
            Rule::Offered => Sizer::Policy(Box::new(Offered::new(offered, knob()?))),
            Rule::OfferedUnforeseen => {
                offered.trend = Duration::ZERO;
                Sizer::Policy(Box::new(Offered::new(offered, knob()?)))
            }
            Rule::Classic => Sizer::Policy(Box::new(Classic::new(pool, knob()?))),
        })
    }

    /// Lets the load of each second come, and the rule look each 15 s (the classic controller at its own period, but not more often than each second).
    ///
    /// # Errors
    /// [`Error::Policy`] if the knob of the size cannot be made.
    pub fn run(&self, rule: Rule, load: &[f64]) -> Result<Outcome, Error> {
        let mut sizer = self.sizer(rule)?;
        let period = match &sizer {
            Sizer::Hpa(_) => PERIOD,
            Sizer::Policy(policy) => (policy.period().as_secs() as u32).max(1),
        };
        let first = load.first().copied().unwrap_or(0.0);
        let mut workers = ((first / self.target).ceil() as u32).clamp(1, self.max);
        // Those that start: when they will be ready, and how many.
        let mut starting: VecDeque<(u32, u32)> = VecDeque::new();
        let mut waiting = 0.0;
        let mut outcome = Outcome::default();
        let (mut busy, mut refused, mut ready_mean) = (0.0, 0.0, 0.0);
        let mut late = 0;
        for (second, &work) in (0u32..).zip(load) {
            while starting.front().is_some_and(|(at, _)| *at <= second) {
                starting.pop_front();
            }
            let ready = workers - starting.iter().map(|(_, count)| count).sum::<u32>();
            let able = f64::from(ready);
            let all = waiting + work;
            let served = all.min(able);
            waiting = (all - served).min(able * self.patience);
            let lost = all - served - waiting;
            busy += served;
            refused += lost;
            ready_mean += able;
            outcome.offered += work;
            outcome.unserved += lost;
            outcome.paid += f64::from(workers);
            if (second + 1) % period != 0 {
                continue;
            }
            let seconds = f64::from(period);
            let wanted = match &mut sizer {
                Sizer::Hpa(hpa) => hpa.step(
                    second,
                    workers,
                    (ready_mean / seconds).round() as u32,
                    busy / seconds,
                ),
                Sizer::Policy(policy) => {
                    let view = PoolView {
                        workers,
                        healthy: workers,
                        busy: busy / seconds,
                        backlog: (waiting / self.task) as u64,
                        ran: busy / self.task,
                        refused: refused / self.task,
                        parallelism: self.max,
                        idle_longest: None,
                    };
                    let now = Timestamp::from_nanos((u64::from(second) + 1) * 1_000_000_000);
                    policy
                        .step(now, &view)
                        .map_or(workers, |proposal| proposal.value as u32)
                }
            };
            (busy, refused, ready_mean) = (0.0, 0.0, 0.0);
            if wanted == workers {
                continue;
            }
            outcome.changes += 1;
            late += u32::from(second as usize >= load.len() / 4);
            if wanted > workers {
                starting.push_back((second + 1 + self.boot, wanted - workers));
            } else {
                // Those that have not started go first.
                let mut fewer = workers - wanted;
                while fewer > 0
                    && let Some((_, count)) = starting.back_mut()
                {
                    let gone = fewer.min(*count);
                    *count -= gone;
                    fewer -= gone;
                    if *count == 0 {
                        starting.pop_back();
                    }
                }
            }
            workers = wanted;
        }
        outcome.changes_an_hour = f64::from(late) / (load.len() as f64 * 0.75 / 3_600.0).max(1e-9);
        Ok(outcome)
    }
}
