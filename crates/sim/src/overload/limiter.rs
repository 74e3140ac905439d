//! What limits the calls of a run: flyball's policies, those of others, a number, nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use flyball_core::time::Timestamp;
use flyball_policy::limit::adaptive::{
    AdaptiveConfig, AdaptiveLimit, Algorithm, CpuTime, Outcome, Signal, Started,
};
use flyball_policy::limit::precedence::{self, Inside};

use super::peers::{Envoy, Gradient2, NetflixAimd, NetflixVegas};
use super::service::Service;
use crate::Error;

/// A limiter of others: told when calls end.
pub(crate) trait Peer {
    /// Calls that may be in flight.
    fn limit(&self) -> u32;

    /// A call ends; `late` is that nobody waited for it any more. `in_flight` counts it still. Times in ns.
    fn end(&mut self, now: u64, latency_ns: u64, late: bool, in_flight: u32);
}

/// A kind of limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// flyball's default for work in the process.
    RunDelay,
    /// flyball's default for dependencies.
    Vegas,
    /// flyball's gradient.
    Gradient,
    /// flyball's AIMD, with the callers' deadline as its bound on latency.
    Aimd,
    /// Envoy's gradient controller.
    Envoy,
    /// Netflix's Vegas.
    NetflixVegas,
    /// Netflix's Gradient2.
    NetflixGradient2,
    /// Netflix's AIMD.
    NetflixAimd,
    /// No limit.
    None,
    /// So many calls.
    Fixed(u32),
}

impl Kind {
    /// All but the fixed ones.
    pub const ALL: [Self; 9] = [
        Self::RunDelay,
        Self::Vegas,
        Self::Gradient,
        Self::Aimd,
        Self::Envoy,
        Self::NetflixVegas,
        Self::NetflixGradient2,
        Self::NetflixAimd,
        Self::None,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RunDelay => "run_delay",
            Self::Vegas => "vegas",
            Self::Gradient => "gradient",
            Self::Aimd => "aimd",
            Self::Envoy => "envoy",
            Self::NetflixVegas => "netflix_vegas",
            Self::NetflixGradient2 => "netflix_gradient2",
            Self::NetflixAimd => "netflix_aimd",
            Self::None => "none",
            Self::Fixed(limit) => return write!(f, "fixed_{limit}"),
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| Error::UnknownName {
                what: "limiter",
                given: text.to_owned(),
                known: Self::ALL.map(|kind| kind.to_string()).join(", "),
            })
    }
}

/// A limiter of some kind.
pub(crate) enum Limiter {
    Policy(Box<AdaptiveLimit>),
    Peer(Box<dyn Peer>),
    Fixed(u32),
}

impl Limiter {
    pub(crate) fn new(kind: Kind, service: &Service) -> Result<Self, Error> {
        let policy = |algorithm| -> Result<Self, Error> {
            let config = AdaptiveConfig::new(algorithm);
            let limit = AdaptiveLimit::new(Timestamp::ZERO, config)?;
            Ok(Self::Policy(Box::new(limit)))
        };
        let cpus = service.cpus as u32;
        Ok(match kind {
            Kind::RunDelay => policy(Algorithm::default_for(Signal::RunDelay { cpus }))?,
            Kind::Vegas => policy(Algorithm::default_for(Signal::Latency))?,
            Kind::Gradient => policy(Algorithm::gradient())?,
            Kind::Aimd => policy(Algorithm::Aimd {
                backoff: 0.9,
                latency_max: Some(Duration::from_nanos(service.deadline_ns)),
            })?,
            Kind::Envoy => Self::Peer(Box::new(Envoy::new())),
            Kind::NetflixVegas => Self::Peer(Box::new(NetflixVegas::new())),
            Kind::NetflixGradient2 => Self::Peer(Box::new(Gradient2::new())),
            Kind::NetflixAimd => Self::Peer(Box::new(NetflixAimd::new())),
            Kind::None => Self::Fixed(u32::MAX),
            Kind::Fixed(limit) => Self::Fixed(limit),
        })
    }

    pub(crate) fn limit(&self) -> u32 {
        match self {
            Self::Policy(policy) => policy.limit(),
            Self::Peer(peer) => peer.limit(),
            Self::Fixed(limit) => *limit,
        }
    }

    /// Whether a call of this priority comes in though no slot is free.
    pub(crate) fn beyond(&self, in_flight: u32, priority: u8, classes: [Inside; 2]) -> bool {
        match self {
            Self::Policy(policy) => {
                let now = (policy.limit(), in_flight);
                precedence::beyond(policy.config(), now, priority, classes).is_some()
            }
            Self::Peer(_) | Self::Fixed(_) => false,
        }
    }

    /// A call begins.
    pub(crate) fn start(&mut self, now: u64) -> Option<Started> {
        match self {
            Self::Policy(policy) => Some(policy.on_start(Timestamp::from_nanos(now))),
            Self::Peer(_) | Self::Fixed(_) => None,
        }
    }

    /// A call ends that began at `began`; `in_flight` counts it still.
    pub(crate) fn end(
        &mut self,
        now: u64,
        (began, started): (u64, Option<Started>),
        late: bool,
        in_flight: u32,
    ) {
        match self {
            Self::Policy(policy) => {
                if let Some(started) = started {
                    policy.on_end(Timestamp::from_nanos(now), started, Outcome::Succeeded);
                }
            }
            Self::Peer(peer) => peer.end(now, now.saturating_sub(began), late, in_flight),
            Self::Fixed(_) => {}
        }
    }

    /// A call found no room.
    pub(crate) fn blocked(&mut self) {
        if let Self::Policy(policy) = self {
            policy.note_blocked();
        }
    }

    /// After each end, and now and then; `(ran, waited)` is CPU time of all calls, ns.
    pub(crate) fn step(&mut self, now: u64, (ran, waited): (f64, f64)) {
        if let Self::Policy(policy) = self {
            let cpu = CpuTime {
                ran: Duration::from_nanos(ran as u64),
                waited: Duration::from_nanos(waited as u64),
            };
            policy.step(Timestamp::from_nanos(now), Some(cpu));
        }
    }

    /// Changes of the limit.
    pub(crate) fn changes(&self) -> u64 {
        match self {
            Self::Policy(policy) => policy.stats().changes,
            Self::Peer(_) | Self::Fixed(_) => 0,
        }
    }
}
