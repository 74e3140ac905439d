//! How bad it is: levels by which a service leaves out what is optional.
//!
//! A level is entered when calls are refused for a second, and left when they have not been for ten: leaving out work frees capacity, so
//! that a level would end itself and come again if it were left as soon as it helps.

use flyball_core::time::Timestamp;

/// What a service should do without.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Degradation {
    /// Nothing.
    #[default]
    Normal,
    /// What is optional: calls are refused.
    Conserve,
    /// All but the core: half of the calls are refused.
    Survive,
}

impl Degradation {
    /// All, the mildest first.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Conserve, Self::Survive];

    /// Its name: `normal`, `conserve` or `survive`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Conserve => "conserve",
            Self::Survive => "survive",
        }
    }
}

impl core::fmt::Display for Degradation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// The part of calls refused is measured so often.
const INTERVAL_NANOS: u64 = 250_000_000;
/// The part of calls refused from which a level is meant.
const CONSERVE: f64 = 0.02;
const SURVIVE: f64 = 0.5;
/// A level is left below this part of what it is entered at.
const LEAVE: f64 = 0.5;
/// How long it must be meant.
const ENTER_NANOS: u64 = 1_000_000_000;
/// How long it must not be needed.
const LEAVE_NANOS: u64 = 10_000_000_000;

#[derive(Clone, Debug)]
pub(in crate::limit) struct Levels {
    level: Degradation,
    began: Timestamp,
    arrived: u64,
    shed: u64,
    pressure: f64,
    /// Since when a higher level is meant.
    worse_since: Option<Timestamp>,
    /// Since when this level is not needed.
    better_since: Option<Timestamp>,
}

impl Levels {
    pub(in crate::limit) fn new(now: Timestamp) -> Self {
        Self {
            level: Degradation::Normal,
            began: now,
            arrived: 0,
            shed: 0,
            pressure: 0.0,
            worse_since: None,
            better_since: None,
        }
    }

    pub(in crate::limit) fn arrived(&mut self, calls: u64) {
        self.arrived = self.arrived.saturating_add(calls);
    }

    pub(in crate::limit) fn shed(&mut self) {
        self.shed_many(1);
    }

    pub(in crate::limit) fn shed_many(&mut self, calls: u64) {
        self.shed = self.shed.saturating_add(calls);
    }

    pub(in crate::limit) fn level(&self) -> Degradation {
        self.level
    }

    /// The part of calls refused in the last interval, 0 to 1.
    pub(in crate::limit) fn pressure(&self) -> f64 {
        self.pressure
    }

    pub(in crate::limit) fn tick(&mut self, now: Timestamp) {
        if now.saturating_nanos_since(self.began) < INTERVAL_NANOS {
            return;
        }
        let began = core::mem::replace(&mut self.began, now);
        self.pressure = if self.arrived == 0 {
            0.0
        } else {
            (self.shed as f64 / self.arrived as f64).min(1.0)
        };
        (self.arrived, self.shed) = (0, 0);
        let meant = at(self.pressure);
        if meant > self.level {
            let since = *self.worse_since.get_or_insert(began);
            if now.saturating_nanos_since(since) >= ENTER_NANOS {
                self.level = meant;
                self.worse_since = None;
            }
        } else {
            self.worse_since = None;
        }
        let needed = at(self.pressure / LEAVE);
        if needed < self.level {
            let since = *self.better_since.get_or_insert(began);
            if now.saturating_nanos_since(since) >= LEAVE_NANOS {
                self.level = needed;
                self.better_since = None;
            }
        } else {
            self.better_since = None;
        }
    }
}

fn at(pressure: f64) -> Degradation {
    if pressure >= SURVIVE {
        Degradation::Survive
    } else if pressure >= CONSERVE {
        Degradation::Conserve
    } else {
        Degradation::Normal
    }
}
