//! The controllers behind one type: which of them sizes a pool is a setting.

use alloc::string::String;
use core::time::Duration;

use flyball_core::time::Timestamp;

use super::{Adaptive, Classic, Offered, OfferedConfig, PoolConfig, PoolView, fill};
use crate::Error;
use crate::control::{Controller, KnobId, Proposal};

/// How the size of a pool is found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Sizing {
    /// By load, with delays: [`Classic`].
    #[default]
    Classic,
    /// By the work that is offered: [`Offered`].
    Offered,
    /// By what sizes turn out to do: [`Adaptive`].
    Adaptive,
}

impl Sizing {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Classic, Self::Offered, Self::Adaptive];

    /// Returns its name in configurations: `classic`, `offered`, `adaptive`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Offered => "offered",
            Self::Adaptive => "adaptive",
        }
    }
}

impl core::fmt::Display for Sizing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

impl core::str::FromStr for Sizing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|sizing| sizing.name() == name);
        known.ok_or_else(|| Error::UnknownSizing {
            given: name.into(),
            known: "classic, offered, adaptive",
        })
    }
}

/// The controller of a pool of threads. The classic controller and the one by offered work do not wait for an unused CPU either ([`fill`]); the
/// adaptive one goes there by itself.
#[derive(Clone, Debug)]
pub struct Sizer {
    knob: KnobId,
    config: PoolConfig,
    by: By,
}

#[derive(Clone, Debug)]
enum By {
    Classic(Classic),
    Offered(Offered),
    Adaptive(Adaptive),
}

impl By {
    fn new(sizing: Sizing, config: PoolConfig, knob: KnobId) -> Self {
        match sizing {
            Sizing::Classic => Self::Classic(Classic::new(config, knob)),
            Sizing::Offered => {
                Self::Offered(Offered::new(OfferedConfig::for_threads(config), knob))
            }
            Sizing::Adaptive => Self::Adaptive(Adaptive::new(config, knob)),
        }
    }
}

/// What a controller knows and is at, for people. What its way of sizing does not have is absent.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct SizerState {
    /// The load over the last 5 s ([`Classic::load`]).
    pub load: Option<f64>,
    /// The work that was offered lately, in workers ([`Offered::offered`]).
    pub offered: Option<f64>,
    /// What will be offered at the horizon, in workers, as long as the forecast is one to follow ([`Offered::foreseen`]).
    pub foreseen: Option<f64>,
    /// The record of forecasts.
    pub forecast: Option<ForecastState>,
    /// Where in the climb it is ([`Adaptive::stage`]).
    pub stage: Option<&'static str>,
    /// The size that did best while work waited.
    pub best: Option<u32>,
    /// The size that is being tried against it.
    pub trying: Option<u32>,
    /// Trials that came to a verdict.
    pub trials: Option<u64>,
    /// How the last one came out.
    pub verdict: Option<String>,
    /// When the neighbours of the best size are tried again, if work waits then.
    pub again_at: Option<Timestamp>,
    /// By how much reductions wait longer, as they turned out to be wrong; 1: not at all.
    pub patience: u32,
}

/// The record of a prediction ([`Forecast`](super::offered::Forecast)).
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct ForecastState {
    /// How far ahead it looks.
    pub horizon: Duration,
    /// Whether it is followed: its recent mistakes are smaller than those of taking the last value.
    pub is_trusted: bool,
    /// Forecasts that were compared with what came.
    pub judged: u32,
    /// The mean mistake of the recent ones, in workers, and that of taking the last value; `None` before the first was judged.
    pub mistakes: Option<(f64, f64)>,
}

impl Sizer {
    /// Makes the controller of the pool whose size is `knob`. Settings out of range ([`PoolConfig::check`]) are brought into it.
    pub fn new(sizing: Sizing, config: PoolConfig, knob: KnobId) -> Self {
        let config = config.brought_into_range();
        let by = By::new(sizing, config, knob);
        Self { knob, config, by }
    }

    /// Returns how the size is found.
    pub fn sizing(&self) -> Sizing {
        match self.by {
            By::Classic(_) => Sizing::Classic,
            By::Offered(_) => Sizing::Offered,
            By::Adaptive(_) => Sizing::Adaptive,
        }
    }

    /// Changes how the size is found, and the settings. What the same controller measured stays; another one begins anew, from the size there
    /// is. What is as it was changes nothing.
    pub fn set(&mut self, sizing: Sizing, config: PoolConfig) {
        let config = config.brought_into_range();
        if sizing != self.sizing() {
            self.by = By::new(sizing, config, self.knob);
        } else if config != self.config {
            match &mut self.by {
                By::Classic(classic) => classic.set_config(config),
                By::Offered(offered) => offered.set_config(OfferedConfig::for_threads(config)),
                By::Adaptive(adaptive) => adaptive.set_config(config),
            }
        }
        self.config = config;
    }

    /// Returns what it knows and is at.
    pub fn state(&self) -> SizerState {
        match &self.by {
            By::Classic(classic) => SizerState {
                load: classic.load(),
                patience: classic.patience(),
                ..SizerState::default()
            },
            By::Offered(offered) => {
                let forecast = offered.forecast();
                SizerState {
                    offered: offered.offered(),
                    foreseen: offered.foreseen(),
                    forecast: Some(ForecastState {
                        horizon: forecast.horizon(),
                        is_trusted: forecast.is_trusted(),
                        judged: forecast.judged(),
                        mistakes: forecast.mistakes(),
                    }),
                    patience: offered.patience(),
                    ..SizerState::default()
                }
            }
            By::Adaptive(adaptive) => SizerState {
                stage: Some(adaptive.stage()),
                best: adaptive.best(),
                trying: adaptive.trying(),
                trials: Some(adaptive.trials()),
                verdict: adaptive.verdict().map(String::from),
                again_at: adaptive.again_at(),
                patience: adaptive.patience(),
                ..SizerState::default()
            },
        }
    }

    /// Returns the settings.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }
}

impl Controller for Sizer {
    type View = PoolView;

    fn part(&self) -> &'static str {
        "pool"
    }

    fn period(&self) -> Duration {
        match &self.by {
            By::Classic(classic) => classic.period(),
            By::Offered(offered) => offered.period(),
            By::Adaptive(adaptive) => adaptive.period(),
        }
    }

    fn step(&mut self, now: Timestamp, view: &PoolView) -> Option<Proposal> {
        let slow = match &mut self.by {
            By::Classic(classic) => classic.step(now, view),
            By::Offered(offered) => offered.step(now, view),
            By::Adaptive(adaptive) => return adaptive.step(now, view),
        };
        fill(self.knob, &self.config, view).or(slow)
    }
}
