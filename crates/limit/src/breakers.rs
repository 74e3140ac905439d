//! Breakers by the name of what they guard: a host, a kind of task, a tenant's database.
//!
//! They are made when they are first asked for, and bounded: where there is no room for another one, those that are closed, unforced, held by nobody and saw
//! no calls lately are forgotten, for a new one would know as much as they do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use flyball_core::time::Source;
use flyball_policy::limit::{BreakerConfig, BreakerState, BreakerStatus};

use crate::breaker::Breaker;
use crate::error::Error;
use crate::shell::{lock, seed};

#[derive(Debug)]
struct State {
    config: BreakerConfig,
    by_key: BTreeMap<Box<str>, Breaker>,
}

/// Breakers by name. Cheap to clone; all clones hold the same breakers.
#[derive(Clone, Debug)]
pub struct Breakers {
    most: usize,
    clock: Source,
    state: Arc<Mutex<State>>,
}

impl Breakers {
    /// Makes an empty set of at most `most` (at least one) breakers, each with these settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn new(config: BreakerConfig, most: usize) -> Result<Self, Error> {
        Self::with_clock(config, most, Source::best())
    }

    /// As [`new`](Self::new), on a clock: for tests.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn with_clock(config: BreakerConfig, most: usize, clock: Source) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            most: most.max(1),
            clock,
            state: Arc::new(Mutex::new(State {
                config,
                by_key: BTreeMap::new(),
            })),
        })
    }

    /// The breaker of this key; made if there is none.
    ///
    /// # Errors
    /// [`Error::TooManyBreakers`] if there is no room for another one.
    pub fn get(&self, key: &str) -> Result<Breaker, Error> {
        let mut state = lock(&self.state);
        if let Some(breaker) = state.by_key.get(key) {
            return Ok(breaker.clone());
        }
        if state.by_key.len() >= self.most {
            state
                .by_key
                .retain(|_, breaker| breaker.is_shared() || !is_idle(&breaker.status()));
        }
        if state.by_key.len() >= self.most {
            return Err(Error::TooManyBreakers {
                most: self.most,
                key: key.chars().take(128).collect(),
            });
        }
        let breaker = Breaker::with_clock(state.config, self.clock.clone(), seed())?;
        state.by_key.insert(key.into(), breaker.clone());
        Ok(breaker)
    }

    /// The breaker of this key, if there is one.
    ///
    /// # Errors
    /// [`Error::UnknownBreaker`].
    pub fn find(&self, key: &str) -> Result<Breaker, Error> {
        let state = lock(&self.state);
        state
            .by_key
            .get(key)
            .cloned()
            .ok_or_else(|| Error::UnknownBreaker {
                key: key.chars().take(128).collect(),
            })
    }

    /// All there are, by key.
    #[must_use]
    pub fn list(&self) -> Vec<(Box<str>, Breaker)> {
        let state = lock(&self.state);
        state
            .by_key
            .iter()
            .map(|(key, breaker)| (key.clone(), breaker.clone()))
            .collect()
    }

    /// Changes the settings of all, and of those to come.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range; nothing has changed then.
    pub fn set_config(&self, config: BreakerConfig) -> Result<(), Error> {
        config.check()?;
        let mut state = lock(&self.state);
        state.config = config;
        for breaker in state.by_key.values() {
            breaker.set_config(config)?;
        }
        Ok(())
    }
}

/// Whether it knows no more than a new one.
fn is_idle(status: &BreakerStatus) -> bool {
    status.state == BreakerState::Closed
        && status.forced.is_none()
        && status.calls == 0
        && status.in_flight == 0
}
