//! Breakers by dependency: what fails again and again is left alone for a while, and tried again little by little.
//!
//! A dependency is a kind of commands or handlers, the host and port of a URL, or what a task names. Where it has a check, tasks try it again
//! only after the check found it well.
//!
//! Invariants: at most [`KEYS_MAX`] dependencies are told apart, those that are well and unused go first; beyond that calls are not guarded rather than refused;
//! switched off, nothing is refused and nothing counted; a breaker that observes refuses nothing and counts the same.

use crate::run::figures::Happened;
use crate::run::settings::{HealthCheck, RunSettings};
use flyball_core::time::Timestamp;
use flyball_policy::limit::{
    Breaker, BreakerConfig, BreakerState, BreakerStatus, Forced, Refusal, Ticket, Verdict,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The most dependencies that are told apart.
const KEYS_MAX: usize = 1_000;
/// Between two checks of a dependency: long enough not to be load, short enough that nobody waits for it.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long a task waits that met a breaker which does not say until when.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Tasks that a breaker turned away come back one after another, so far apart: all at once, they would be taken and given back by the thousand, each time that
/// the dependency is tried with one.
const APART: Duration = Duration::from_millis(10);

struct Entry {
    breaker: Breaker,
    /// Set for this dependency, so that a change of the common settings leaves it.
    own: bool,
    /// The opening, by number, after which the check found the dependency well.
    well_after: Option<u64>,
    checked_at: Option<Timestamp>,
    checking: bool,
    last_fault: Option<Box<str>>,
    /// Of this opening, by number, how many were turned away.
    away: (u64, u32),
}

impl Entry {
    /// Whether it may be tried again, and the check has not found it well yet.
    fn is_unwell(&mut self, now: Timestamp) -> bool {
        let status = self.breaker.status(now);
        status.state == BreakerState::HalfOpen && self.well_after != Some(status.opened)
    }

    /// Has who is turned away wait behind those before, for as long again as the longest wait between two tries at most.
    fn turn_away(&mut self, now: Timestamp, refused: Refused) -> Refused {
        let opened = self.breaker.status(now).opened;
        if self.away.0 != opened {
            self.away = (opened, 0);
        }
        let behind = APART.saturating_mul(self.away.1);
        self.away.1 = self.away.1.saturating_add(1);
        Refused {
            wait: refused
                .wait
                .saturating_add(behind.min(self.breaker.config().open_max)),
            ..refused
        }
    }
}

/// What is known of a dependency.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DependencyStatus {
    /// Its key.
    pub key: Box<str>,
    /// What its breaker does, and what it counted.
    pub breaker: BreakerStatus,
    /// The breaker's settings.
    pub config: BreakerConfig,
    /// Whether those are its own.
    pub own_config: bool,
    /// Whether it has a check.
    pub has_check: bool,
    /// What the last check found wrong.
    pub check_fault: Option<Box<str>>,
}

/// Asked for a dependency that is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DependencyError {
    /// Nothing was called under that key yet.
    #[error("no dependency {key:?} is known")]
    Unknown {
        /// The key.
        key: Box<str>,
    },
    /// A setting is out of its range.
    #[error("breaker of {key:?}: {why}")]
    Config {
        /// The key.
        key: Box<str>,
        /// What is wrong.
        why: String,
    },
}

/// A call that was let through.
#[derive(Debug)]
pub(crate) struct Pass {
    key: Box<str>,
    ticket: Option<Ticket>,
}

/// Why a call is not made now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    /// When it may be.
    pub(crate) until: Option<Timestamp>,
    /// How long to wait before asking again.
    pub(crate) wait: Duration,
}

/// Until the check has found the dependency well.
const UNWELL: Refused = Refused {
    until: None,
    wait: CHECK_EVERY,
};

/// All breakers.
#[derive(Default)]
pub(crate) struct Breakers {
    entries: BTreeMap<Box<str>, Entry>,
    enabled: bool,
    config: BreakerConfig,
    checks: BTreeMap<Box<str>, HealthCheck>,
    made: u64,
    seed: u64,
}

impl Breakers {
    pub(crate) fn new(seed: u64) -> Breakers {
        Breakers {
            seed,
            ..Breakers::default()
        }
    }

    pub(crate) fn set(&mut self, settings: &RunSettings) {
        self.enabled = settings.circuit_breaker;
        if self.config != settings.breaker {
            self.config = settings.breaker;
            for entry in self.entries.values_mut().filter(|entry| !entry.own) {
                // Checked with the settings: it cannot fail.
                let _ = entry.breaker.set_config(settings.breaker);
            }
        }
        self.checks = if settings.health_checks {
            settings.checks.clone()
        } else {
            BTreeMap::new()
        };
        if !self.enabled {
            self.entries.retain(|_, entry| entry.own);
        }
    }

    /// Asks to make a call.
    pub(crate) fn enter(&mut self, now: Timestamp, key: &str) -> Result<Pass, Refused> {
        let pass = |ticket| {
            Ok(Pass {
                key: key.into(),
                ticket,
            })
        };
        if !self.enabled {
            return pass(None);
        }
        if !self.entries.contains_key(key) && !self.make(now, key) {
            return pass(None);
        }
        let has_check = self.checks.contains_key(key);
        let Some(entry) = self.entries.get_mut(key) else {
            return pass(None);
        };
        if has_check && entry.breaker.verdict(now).is_none() && entry.is_unwell(now) {
            entry.breaker.count_refused();
            if entry.breaker.config().observe {
                return pass(None);
            }
            return Err(entry.turn_away(now, UNWELL));
        }
        match entry.breaker.enter(now) {
            Ok(ticket) => pass(Some(ticket)),
            Err(refusal) => Err(entry.turn_away(now, refused(now, refusal))),
        }
    }

    /// As [`enter`](Self::enter), for a call that waits for something else first and enters when it is made: what it waits is not the dependency's time.
    pub(crate) fn look(&mut self, now: Timestamp, key: &str) -> Result<(), Refused> {
        if self.refusal(now, key).is_none() {
            return Ok(());
        }
        // It surely is refused: this counts it, and has it wait behind those before.
        let pass = self.enter(now, key)?;
        self.leave(now, &pass, Verdict::Unknown);
        Ok(())
    }

    /// Why a call would be refused now.
    pub(crate) fn refusal(&mut self, now: Timestamp, key: &str) -> Option<Refused> {
        if !self.enabled {
            return None;
        }
        let has_check = self.checks.contains_key(key);
        let entry = self.entries.get_mut(key)?;
        if let Some(refusal) = entry.breaker.refusal(now) {
            return Some(refused(now, refusal));
        }
        let unwell = has_check && !entry.breaker.config().observe && entry.is_unwell(now);
        unwell.then_some(UNWELL)
    }

    /// Hands a call back. Answers what changed by it.
    pub(crate) fn leave(
        &mut self,
        now: Timestamp,
        pass: &Pass,
        verdict: Verdict,
    ) -> Option<Happened> {
        let entry = self.entries.get_mut(&pass.key)?;
        let before = entry.breaker.status(now).state;
        entry.breaker.leave(now, pass.ticket?, verdict);
        let key = pass.key.clone();
        let observed = entry.breaker.config().observe;
        match (before, entry.breaker.status(now).state) {
            (BreakerState::Open, BreakerState::Open) => None,
            (_, BreakerState::Open) => Some(Happened::BreakerOpened { key, observed }),
            (BreakerState::Closed, BreakerState::Closed) => None,
            (_, BreakerState::Closed) => Some(Happened::BreakerClosed { key }),
            _ => None,
        }
    }

    /// The dependencies whose calls are refused now, and the first time at which that changes by itself.
    pub(crate) fn refused(&mut self, now: Timestamp) -> (Vec<Box<str>>, Option<Timestamp>) {
        let keys: Vec<Box<str>> = self.entries.keys().cloned().collect();
        let mut first = None;
        let refused = keys.into_iter().filter(|key| match self.refusal(now, key) {
            Some(Refused { until, .. }) => {
                first = [first, until].into_iter().flatten().min();
                true
            }
            None => false,
        });
        let refused = refused.collect();
        (refused, first)
    }

    /// A dependency that is to be checked now.
    pub(crate) fn next_check(&mut self, now: Timestamp) -> Option<(Box<str>, HealthCheck)> {
        for (key, check) in &self.checks {
            let Some(entry) = self.entries.get_mut(key) else {
                continue;
            };
            let status = entry.breaker.status(now);
            let rested = entry
                .checked_at
                .is_none_or(|at| now.duration_since(at) >= CHECK_EVERY);
            let wanted = status.state == BreakerState::HalfOpen
                && status.forced.is_none()
                && entry.well_after != Some(status.opened);
            if wanted && rested && !entry.checking {
                entry.checking = true;
                return Some((key.clone(), check.clone()));
            }
        }
        None
    }

    /// A check has ended.
    pub(crate) fn checked(&mut self, now: Timestamp, key: &str, found: Result<(), Box<str>>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.checking = false;
            entry.checked_at = Some(now);
            if found.is_ok() {
                entry.well_after = Some(entry.breaker.status(now).opened);
            }
            entry.last_fault = found.err();
        }
    }

    pub(crate) fn list(&mut self, now: Timestamp) -> Vec<DependencyStatus> {
        let checks = &self.checks;
        self.entries
            .iter_mut()
            .map(|(key, entry)| DependencyStatus {
                key: key.clone(),
                breaker: entry.breaker.status(now),
                config: *entry.breaker.config(),
                own_config: entry.own,
                has_check: checks.contains_key(key),
                check_fault: entry.last_fault.clone(),
            })
            .collect()
    }

    /// Gives a dependency settings of its own, or takes them back. It need not have been called yet.
    pub(crate) fn configure(
        &mut self,
        now: Timestamp,
        key: &str,
        config: Option<BreakerConfig>,
    ) -> Result<(), DependencyError> {
        let wrong = |error: flyball_policy::Error| DependencyError::Config {
            key: key.into(),
            why: error.to_string(),
        };
        if let Some(config) = config {
            config.check().map_err(wrong)?;
            if !self.entries.contains_key(key) && !self.make(now, key) {
                return Err(DependencyError::Config {
                    key: key.into(),
                    why: format!(
                        "{KEYS_MAX} dependencies are told apart already, the most there can be"
                    ),
                });
            }
        }
        let common = self.config;
        let entry = self.known(key)?;
        entry
            .breaker
            .set_config(config.unwrap_or(common))
            .map_err(wrong)?;
        entry.own = config.is_some();
        Ok(())
    }

    pub(crate) fn force(
        &mut self,
        now: Timestamp,
        key: &str,
        forced: Option<Forced>,
    ) -> Result<(), DependencyError> {
        self.known(key)?.breaker.force(now, forced);
        Ok(())
    }

    pub(crate) fn reset(&mut self, now: Timestamp, key: &str) -> Result<(), DependencyError> {
        self.known(key)?.breaker.reset(now);
        Ok(())
    }

    fn known(&mut self, key: &str) -> Result<&mut Entry, DependencyError> {
        self.entries
            .get_mut(key)
            .ok_or_else(|| DependencyError::Unknown { key: key.into() })
    }

    /// Makes room for a dependency and begins to watch it; false where all others are still of use.
    fn make(&mut self, now: Timestamp, key: &str) -> bool {
        if self.entries.len() >= KEYS_MAX {
            let idle = self.entries.iter_mut().find_map(|(key, entry)| {
                let status = entry.breaker.status(now);
                let idle = status.state == BreakerState::Closed
                    && status.forced.is_none()
                    && !entry.own
                    && status.calls == 0
                    && status.in_flight == 0;
                idle.then(|| key.clone())
            });
            match idle {
                Some(idle) => self.entries.remove(&idle),
                None => return false,
            };
        }
        self.made += 1;
        let Ok(breaker) = Breaker::new(self.config, self.seed.wrapping_add(self.made)) else {
            return false;
        };
        let entry = Entry {
            breaker,
            own: false,
            well_after: None,
            checked_at: None,
            checking: false,
            last_fault: None,
            away: (0, 0),
        };
        self.entries.insert(key.into(), entry);
        true
    }
}

fn refused(now: Timestamp, refusal: Refusal) -> Refused {
    match refusal {
        Refusal::Open(until) => Refused {
            until: Some(until),
            wait: until.duration_since(now).max(Duration::from_millis(10)),
        },
        _ => Refused {
            until: None,
            wait: ASK_AGAIN,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breakers(checks: &[&str]) -> Breakers {
        let mut breakers = Breakers::new(1);
        breakers.set(&RunSettings {
            checks: checks
                .iter()
                .map(|key| ((*key).into(), HealthCheck::Url("http://127.0.0.1/".into())))
                .collect(),
            ..RunSettings::default()
        });
        breakers
    }

    fn fail(breakers: &mut Breakers, now: Timestamp, key: &str, times: u32) {
        for _ in 0..times {
            if let Ok(pass) = breakers.enter(now, key) {
                breakers.leave(now, &pass, Verdict::Failure);
            }
        }
    }

    fn after(now: Timestamp, seconds: u64) -> Timestamp {
        now.saturating_add(Duration::from_secs(seconds))
    }

    /// TASK-8: a dependency that fails is left alone, others are not; it is tried again when the wait is over.
    #[test]
    fn a_failing_dependency_is_left_alone() {
        let mut breakers = breakers(&[]);
        let now = Timestamp::from_nanos(1);
        fail(&mut breakers, now, "bad", 30);
        breakers.enter(now, "good").unwrap();
        let (refused, until) = breakers.refused(now);
        assert_eq!(refused, ["bad".into()]);
        let until = until.unwrap();
        assert_eq!(breakers.enter(now, "bad").unwrap_err().until, Some(until));
        assert!(breakers.refusal(until, "bad").is_none());
        breakers.force(now, "good", Some(Forced::Open)).unwrap();
        assert!(breakers.enter(now, "good").is_err());
        breakers.force(now, "good", None).unwrap();
        assert!(breakers.enter(now, "good").is_ok());
        assert!(breakers.reset(now, "nobody").is_err());
    }

    /// TASK-8: those that are turned away do not all come back at once, and none much later than the dependency is tried.
    #[test]
    fn who_is_turned_away_comes_back_in_turn() {
        let mut breakers = breakers(&[]);
        let now = Timestamp::from_nanos(1);
        fail(&mut breakers, now, "bad", 30);
        let until = breakers.refused(now).1.unwrap().duration_since(now);
        let waits: Vec<Duration> = (0..10_000)
            .map(|_| breakers.enter(now, "bad").unwrap_err().wait)
            .collect();
        let early = |wait: &&Duration| **wait < until + Duration::from_secs(1);
        assert!(waits.iter().filter(early).count() <= 100);
        assert!(waits.iter().all(|wait| *wait >= until));
        let longest = BreakerConfig::default().open_max;
        assert!(waits.iter().all(|wait| *wait <= until + longest));
    }

    /// TASK-9: where a dependency has a check, it is tried again only after the check found it well.
    #[test]
    fn a_check_goes_before_the_first_try() {
        let mut breakers = breakers(&["db"]);
        let now = Timestamp::from_nanos(1);
        fail(&mut breakers, now, "db", 30);
        assert!(breakers.next_check(now).is_none(), "open: nobody asks");
        let later = after(now, 100);
        assert!(breakers.enter(later, "db").is_err());
        assert_eq!(&*breakers.next_check(later).unwrap().0, "db");
        assert!(breakers.next_check(later).is_none(), "one check at a time");
        breakers.checked(later, "db", Err("connection refused".into()));
        assert!(
            breakers.next_check(later).is_none(),
            "and not at once again"
        );
        assert!(breakers.enter(later, "db").is_err());
        let later = after(later, 5);
        assert!(breakers.next_check(later).is_some());
        breakers.checked(later, "db", Ok(()));
        let pass = breakers.enter(later, "db").unwrap();
        breakers.leave(later, &pass, Verdict::Failure);
        let later = after(later, 200);
        assert!(
            breakers.enter(later, "db").is_err(),
            "the next opening asks for a check of its own"
        );
    }

    /// TASK-8: switched off, nothing is refused.
    #[test]
    fn off_means_off() {
        let mut breakers = breakers(&[]);
        let now = Timestamp::from_nanos(1);
        fail(&mut breakers, now, "bad", 30);
        breakers.set(&RunSettings {
            circuit_breaker: false,
            ..RunSettings::default()
        });
        fail(&mut breakers, now, "bad", 100);
        assert!(breakers.enter(now, "bad").is_ok() && breakers.list(now).is_empty());
    }

    #[test]
    fn dependencies_are_bounded() {
        let mut breakers = breakers(&[]);
        let now = Timestamp::from_nanos(1);
        for number in 0..3 * KEYS_MAX {
            let pass = breakers.enter(now, &number.to_string()).unwrap();
            breakers.leave(now, &pass, Verdict::Success);
        }
        assert_eq!(breakers.list(now).len(), KEYS_MAX);
        let later = after(now, 60);
        breakers.enter(later, "new").unwrap();
        assert!(
            breakers
                .list(later)
                .iter()
                .any(|known| &*known.key == "new")
        );
    }
}
