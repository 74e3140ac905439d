//! Settings of an adaptive limit.

use core::time::Duration;

use crate::Error;

/// The most that any limit can be.
pub(super) const LIMIT_MAX: u32 = 1_000_000;

/// What can be measured of the calls that are limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// They run in this process, whose threads have so many CPUs; how long threads were ready without running is known.
    RunDelay {
        /// CPUs that the process may use, at least 1.
        cpus: u32,
    },
    /// Only when they began and ended.
    Latency,
}

/// How the limit is found.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Algorithm {
    /// As many as keep the CPUs busy and next to none waiting for one, by measured run delay.
    RunDelay {
        /// CPUs that the process may use, at least 1: where the search starts. It need not be right.
        cpus: u32,
    },
    /// As many as queue a little at the dependency, by latency against latency without a queue.
    Vegas {
        /// How often the latency without a queue is measured anew, by halving the limit for a moment: 1 s to 1 h.
        probe_every: Duration,
    },
    /// As many as keep latency at what it was over the last while.
    Gradient {
        /// How many times the usual latency is no reason yet to have fewer, 1 to 10.
        tolerance: f64,
    },
    /// One more each window, a part less when calls failed.
    Aimd {
        /// What is left of the limit after failures, 0.5 to 0.99.
        backoff: f64,
        /// Calls slower than this count as failed.
        latency_max: Option<Duration>,
    },
    /// Always so many.
    Fixed(u32),
}

impl Algorithm {
    /// Returns the algorithm that needs no tuning for what can be measured.
    #[must_use]
    pub fn default_for(signal: Signal) -> Self {
        match signal {
            Signal::RunDelay { cpus } => Self::RunDelay { cpus },
            Signal::Latency => Self::vegas(),
        }
    }

    /// Vegas that probes each 30 s.
    #[must_use]
    pub fn vegas() -> Self {
        Self::Vegas {
            probe_every: Duration::from_secs(30),
        }
    }

    /// A gradient that tolerates 1.5 times the usual latency (the tolerance of Netflix `concurrency-limits`, `Gradient2Limit`).
    #[must_use]
    pub fn gradient() -> Self {
        Self::Gradient { tolerance: 1.5 }
    }

    /// AIMD that goes down to nine tenths on failures alone (the ratio of Netflix `concurrency-limits`, `AIMDLimit`).
    #[must_use]
    pub fn aimd() -> Self {
        Self::Aimd {
            backoff: 0.9,
            latency_max: None,
        }
    }

    /// Its name: `run_delay`, `vegas`, `gradient`, `aimd` or `fixed`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RunDelay { .. } => "run_delay",
            Self::Vegas { .. } => "vegas",
            Self::Gradient { .. } => "gradient",
            Self::Aimd { .. } => "aimd",
            Self::Fixed(_) => "fixed",
        }
    }
}

/// Settings of an [`AdaptiveLimit`](super::AdaptiveLimit).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdaptiveConfig {
    /// How the limit is found.
    pub algorithm: Algorithm,
    /// The least limit, 1 to `max`: 1 unless set.
    pub min: u32,
    /// The greatest limit, up to 1,000,000: 1,000 unless set.
    pub max: u32,
    /// The limit at first, brought between `min` and `max`: four for each CPU for run delay, 20 for the others (as Netflix
    /// `concurrency-limits` has it) unless set.
    pub initial: Option<u32>,
}

impl AdaptiveConfig {
    /// The defaults for what can be measured.
    #[must_use]
    pub fn for_signal(signal: Signal) -> Self {
        Self::new(Algorithm::default_for(signal))
    }

    /// An algorithm with limits from 1 to 1,000.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            min: 1,
            max: 1_000,
            initial: None,
        }
    }

    /// Bounds the limit.
    #[must_use]
    pub fn with_bounds(mut self, min: u32, max: u32) -> Self {
        self.min = min;
        self.max = max;
        self
    }

    /// Sets where the search starts.
    #[must_use]
    pub fn with_initial(mut self, initial: u32) -> Self {
        self.initial = Some(initial);
        self
    }

    /// Says whether the settings make sense.
    ///
    /// # Errors
    /// [`Error::Limit`] for one that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let (field, expected) = match self.algorithm {
            _ if self.max == 0 || self.max > LIMIT_MAX => ("max", "1 to 1,000,000"),
            _ if self.min == 0 || self.min > self.max => ("min", "1 to max"),
            Algorithm::RunDelay { cpus: 0 } => ("cpus", "at least 1"),
            Algorithm::Vegas { probe_every }
                if !(Duration::from_secs(1)..=Duration::from_secs(3_600))
                    .contains(&probe_every) =>
            {
                ("probe_every", "1 s to 1 h")
            }
            Algorithm::Gradient { tolerance } if !(1.0..=10.0).contains(&tolerance) => {
                ("tolerance", "1 to 10")
            }
            Algorithm::Aimd { backoff, .. } if !(0.5..=0.99).contains(&backoff) => {
                ("backoff", "0.5 to 0.99")
            }
            Algorithm::Fixed(limit) if !(1..=LIMIT_MAX).contains(&limit) => {
                ("fixed", "1 to 1,000,000")
            }
            _ => return Ok(()),
        };
        Err(Error::Limit {
            of: "adaptive limit",
            field,
            expected,
        })
    }

    /// The limit at first.
    pub(super) fn first(&self) -> u32 {
        let usual = match self.algorithm {
            // Calls of services mostly wait for something else; too many at first are cut within tenths of a second.
            Algorithm::RunDelay { cpus } => cpus.saturating_mul(4),
            Algorithm::Fixed(limit) => return limit,
            _ => 20,
        };
        self.initial.unwrap_or(usual).clamp(self.min, self.max)
    }
}
