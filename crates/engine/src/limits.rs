//! Gates that are known by name: what programs registered, and what the configuration asks for.
//!
//! Whose settings count is the same for all: what the configuration says of a name, and for the rest what the gate was made with. So a change by the
//! API is a change of the configuration, and a gate that a program registers later follows it, too.
//!
//! The control loop looks at all of them once a second while there are calls: it tells what changed, and lets levels end where no call comes any more.
//!
//! Invariants: at most [`MAX_GATES`]; a name is one gate for as long as it is known; no lock is held while a gate's hooks run, but that of the gate.

use crate::config::{Config, LimitScope, LimitSpec, Wrong};
use crate::error::Error;
use crate::events::EventKind;
use crate::shared::Shared;
use crate::view::{GateClassView, GateView, LimitChangeView, LimitEvent, Time};
use flyball_core::time::{Timestamp, nanos_of};
use flyball_limit::{Degradation, Gate, GateConfig, GateStatus, LimitChange, Mode};
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// Most gates that are known by name.
pub const MAX_GATES: usize = 256;
/// How often it looks while calls come.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it looks otherwise.
const QUIET_PERIOD: Duration = Duration::from_secs(5);

/// All gates by name.
#[derive(Debug, Default)]
pub(crate) struct Limits(BTreeMap<String, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    gate: Gate,
    scope: LimitScope,
    /// What it was made with.
    base: GateConfig,
    last: Look,
}

/// How a gate was at the last look.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Timestamp,
    calls: u64,
    shed: u64,
    /// Calls a second, and the part of them that was refused, percent, between the last two looks.
    rate: Option<f64>,
    shed_percent: Option<f64>,
    limit: u32,
    level: Degradation,
}

impl Look {
    fn first(gate: &Gate, now: Timestamp) -> Look {
        Look {
            at: now,
            calls: 0,
            shed: 0,
            rate: None,
            shed_percent: None,
            limit: gate.limit(),
            level: Degradation::Normal,
        }
    }

    fn next(self, now: Timestamp, status: &GateStatus) -> Look {
        let (calls, shed) = (calls(status), shed(status));
        let new = calls.saturating_sub(self.calls);
        let seconds = now.duration_since(self.at).as_secs_f64();
        let part = shed.saturating_sub(self.shed) as f64 / new as f64 * 100.0;
        Look {
            at: now,
            calls,
            shed,
            rate: (seconds > 0.0).then(|| new as f64 / seconds),
            shed_percent: (new > 0).then_some(part),
            limit: status.limit,
            level: status.level,
        }
    }
}

/// Calls that wanted in and were answered: those that wait are neither in nor refused yet.
fn calls(status: &GateStatus) -> u64 {
    let of = |class: &flyball_limit::ClassStatus| class.entered + class.shed() + class.cancelled;
    status.classes.iter().map(of).sum()
}

fn shed(status: &GateStatus) -> u64 {
    status.classes.iter().map(|class| class.shed()).sum()
}

/// What the configuration says of limits; nothing while they are switched off.
fn specs(config: &Config) -> Vec<LimitSpec> {
    if !config.limits.enabled {
        return Vec::new();
    }
    // What could not be read was refused with the configuration.
    let specs = config.limits.adaptive.0.iter().map(LimitSpec::of);
    specs.filter_map(Result::ok).collect()
}

fn named<'a>(specs: &'a [LimitSpec], name: &str, scope: &LimitScope) -> Option<&'a LimitSpec> {
    let is_it = |spec: &&LimitSpec| spec.name == name && spec.scope == *scope;
    specs.iter().find(is_it)
}

impl Shared {
    fn gates(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out what would keep gates from following a configuration.
    pub(crate) fn check_limits(&self, config: &Config) -> Result<(), Error> {
        let specs = specs(config);
        for (name, entry) in &self.gates().0 {
            if let Some(spec) = named(&specs, name, &entry.scope) {
                let gate = spec.gate(entry.base.clone());
                gate.map_err(|fault| Error::Conflict(format!("limit {name}: {fault}")))?;
            } else if specs.iter().any(|spec| spec.name == *name)
                && entry.scope == LimitScope::Program
            {
                return Err(Error::Conflict(format!(
                    "limit {name} is a gate of the program, which cannot have another scope"
                )));
            }
        }
        Ok(())
    }

    /// Makes the gates what a configuration says, which was checked; those that it asks for by itself come and go.
    pub(crate) fn configure_limits(&self, config: &Config) {
        let now = self.now();
        let specs = specs(config);
        let mut gates = self.gates();
        gates.0.retain(|name, entry| {
            entry.scope == LimitScope::Program || named(&specs, name, &entry.scope).is_some()
        });
        for (name, entry) in &gates.0 {
            let wanted = match named(&specs, name, &entry.scope) {
                Some(spec) => spec.gate(entry.base.clone()),
                None => Ok(entry.base.clone()),
            };
            let set = wanted.and_then(|wanted| {
                // What was learnt goes on where nothing changes.
                if entry.gate.config() == wanted {
                    return Ok(());
                }
                entry
                    .gate
                    .set_config(&wanted)
                    .map_err(|error| Wrong::new("", error.to_string(), "other settings"))
            });
            if let Err(error) = set {
                tracing::error!(limit = name, %error, "a limit keeps the settings it had");
            }
        }
        for spec in specs {
            if spec.scope == LimitScope::Program || gates.0.contains_key(&spec.name) {
                continue;
            }
            let base = spec.base();
            let made = spec.gate(base.clone()).and_then(|wanted| {
                Gate::new(wanted)
                    .map_err(|error| Wrong::new("", error.to_string(), "other settings"))
            });
            match made {
                Ok(gate) => {
                    let last = Look::first(&gate, now);
                    let entry = Entry {
                        gate,
                        scope: spec.scope,
                        base,
                        last,
                    };
                    gates.0.insert(spec.name, entry);
                }
                Err(error) => tracing::error!(limit = spec.name, %error, "a limit is left out"),
            }
        }
    }

    /// The gate of a name, made for a program where there is none.
    pub(crate) fn program_gate(&self, name: &str, base: GateConfig) -> Result<Gate, Error> {
        let mut gates = self.gates();
        if let Some(entry) = gates.0.get(name) {
            return match &entry.scope {
                LimitScope::Program => Ok(entry.gate.clone()),
                scope => Err(Error::Conflict(format!(
                    "the limit {name} is not the program's: it bounds {scope}"
                ))),
            };
        }
        if gates.0.len() >= MAX_GATES {
            return Err(Error::Conflict(format!(
                "there are {MAX_GATES} gates already, the most there can be"
            )));
        }
        let wrong = |found: String| Error::Invalid {
            field: "gate",
            found,
            expected: "settings within their ranges".to_owned(),
        };
        let scope = LimitScope::Program;
        let specs = specs(&self.config());
        let wanted = match named(&specs, name, &scope) {
            Some(spec) => spec
                .gate(base.clone())
                .map_err(|fault| wrong(fault.to_string()))?,
            None => base.clone(),
        };
        let gate = Gate::new(wanted).map_err(|error| wrong(error.to_string()))?;
        let last = Look::first(&gate, self.now());
        let entry = Entry {
            gate: gate.clone(),
            scope,
            base,
            last,
        };
        gates.0.insert(name.to_owned(), entry);
        Ok(gate)
    }

    /// The gates that durable tasks go through.
    #[cfg(feature = "tasks")]
    pub(crate) fn task_gates(&self) -> flyball_tasks::run::Gates {
        let mut all = flyball_tasks::run::Gates::default();
        for entry in self.gates().0.values() {
            let gate = entry.gate.clone();
            match &entry.scope {
                LimitScope::Program => None,
                LimitScope::Class(name) => all.classes.insert(name.as_str().into(), gate),
                LimitScope::Dependency(key) => all.dependencies.insert(key.as_str().into(), gate),
            };
        }
        all
    }

    /// Whether there are durable tasks, which limits of classes and dependencies bound.
    ///
    /// # Errors
    /// Why there are none.
    #[cfg(feature = "tasks")]
    pub(crate) fn durable_tasks(&self) -> Result<(), Error> {
        self.tasks.open_or_why().map(drop)
    }

    #[cfg(not(feature = "tasks"))]
    #[allow(
        clippy::unused_self,
        reason = "there are no durable tasks in this build"
    )]
    pub(crate) fn durable_tasks(&self) -> Result<(), Error> {
        Err(Error::Unavailable {
            part: "the queue of tasks",
            why: "this build has none".to_owned(),
        })
    }

    /// Durable tasks that wait before the limit of their class, at the last look.
    #[cfg(feature = "tasks")]
    fn tasks_waiting(&self, scope: &LimitScope) -> Option<u32> {
        let LimitScope::Class(class) = scope else {
            return None;
        };
        let look = self.tasks.look()?;
        let waiting = look.pending.get(class.as_str()).copied().unwrap_or(0);
        Some(u32::try_from(waiting).unwrap_or(u32::MAX))
    }

    #[cfg(not(feature = "tasks"))]
    #[allow(
        clippy::unused_self,
        reason = "there are no durable tasks in this build"
    )]
    fn tasks_waiting(&self, _: &LimitScope) -> Option<u32> {
        None
    }

    /// The gate of a name, and what it bounds.
    pub(crate) fn find_gate(&self, name: &str) -> Option<(Gate, LimitScope)> {
        let gates = self.gates();
        let entry = gates.0.get(name)?;
        Some((entry.gate.clone(), entry.scope.clone()))
    }

    /// Every gate, by name.
    pub(crate) fn all_gates(&self) -> Vec<(String, Gate, LimitScope)> {
        let gates = self.gates();
        let one = |(name, entry): (&String, &Entry)| {
            (name.clone(), entry.gate.clone(), entry.scope.clone())
        };
        gates.0.iter().map(one).collect()
    }

    /// All of them, to be looked at without the lock: a gate that is looked at may call hooks.
    fn entries(&self) -> BTreeMap<String, Entry> {
        self.gates().0.clone()
    }

    pub(crate) fn gate_views(&self) -> Vec<GateView> {
        let entries = self.entries();
        let one = |(name, entry): (&String, &Entry)| self.view(name, entry);
        entries.iter().map(one).collect()
    }

    pub(crate) fn gate_view(&self, name: &str) -> Option<GateView> {
        let entry = self.gates().0.get(name).cloned();
        entry.map(|entry| self.view(name, &entry))
    }

    fn view(&self, name: &str, entry: &Entry) -> GateView {
        let mut view = view(name, entry);
        if let Some(waiting) = self.tasks_waiting(&entry.scope) {
            view.waiting = waiting;
        }
        let is_called = view.calls > 0 || view.in_flight > 0 || view.waiting > 0;
        view.unused = self.unused_scope(&entry.scope).or_else(|| {
            // As long as none comes by it may be mistyped.
            let silent = matches!(entry.scope, LimitScope::Dependency(_)) && !is_called;
            silent.then(|| "no call has been made to it yet".to_owned())
        });
        view
    }

    /// The worst level of all gates that act.
    pub(crate) fn degradation(&self) -> Degradation {
        let gates = self.gates();
        let levels = gates.0.values().filter(|entry| !entry.gate.observes());
        levels
            .map(|entry| entry.gate.level())
            .max()
            .unwrap_or_default()
    }

    /// Looks at all gates and tells what changed; answers when it is to look again.
    pub(crate) fn look_at_limits(&self, now: Timestamp) -> Timestamp {
        let mut events = Vec::new();
        let (mut any, mut is_quiet) = (false, true);
        for (name, entry) in self.entries() {
            any = true;
            let status = entry.gate.status();
            let before = entry.last;
            let last = before.next(now, &status);
            if let Some(entry) = self.gates().0.get_mut(&name) {
                entry.last = last;
            }
            is_quiet &= last.calls == before.calls
                && status.waiting == 0
                && status.level == Degradation::Normal;
            if before.level != status.level {
                events.push(level_event(&name, before.level, &status));
            }
            if before.limit != status.limit && self.events.is_followed() {
                events.push(limit_event(&name, before.limit, &status));
            }
        }
        for event in events {
            if event.kind == "level" {
                tracing::info!(limit = event.limit, level = event.to, "{}", event.reason);
            }
            self.tell(EventKind::Limit, &event);
        }
        match (any, is_quiet) {
            (false, _) => Timestamp::MAX,
            (true, true) => now.saturating_add(QUIET_PERIOD),
            (true, false) => now.saturating_add(PERIOD),
        }
    }
}

fn level_event(name: &str, before: Degradation, status: &GateStatus) -> LimitEvent {
    let level = status.level;
    let reason = match level {
        Degradation::Normal => "nothing to speak of has been refused for 10 s",
        Degradation::Survive => "half of the calls or more have been refused for a second",
        _ if before > level => "less than a quarter of the calls has been refused for 10 s",
        _ => "calls have been refused for a second",
    };
    LimitEvent {
        timestamp: Time::now(),
        limit: name.to_owned(),
        kind: "level".to_owned(),
        from: before.name().to_owned(),
        to: level.name().to_owned(),
        observed: status.mode == Mode::Observe,
        reason: reason.to_owned(),
    }
}

fn limit_event(name: &str, before: u32, status: &GateStatus) -> LimitEvent {
    let reason = status.changes.last();
    LimitEvent {
        timestamp: Time::now(),
        limit: name.to_owned(),
        kind: "limit".to_owned(),
        from: before.to_string(),
        to: status.limit.to_string(),
        observed: status.mode == Mode::Observe,
        reason: reason.map_or_else(String::new, |last| last.change.reason.text().to_owned()),
    }
}

fn millis(time: Duration) -> f64 {
    nanos_of(time) as f64 / 1e6
}

fn view(name: &str, entry: &Entry) -> GateView {
    let status = entry.gate.status();
    let config = entry.gate.config();
    let last = &entry.last;
    let window = status.adaptive.last.filter(|window| window.completions > 0);
    let percent = |share: f64| share * 100.0;
    let (calls, shed) = (calls(&status), shed(&status));
    GateView {
        name: name.to_owned(),
        scope: entry.scope.to_string(),
        unused: None,
        mode: match status.mode {
            Mode::Enforce => "enforce".to_owned(),
            Mode::Observe => "observe".to_owned(),
        },
        algorithm: status.algorithm.to_owned(),
        limit: status.limit,
        min: config.limit.min.min(status.limit),
        max: config.limit.max.max(status.limit),
        in_flight: status.in_flight,
        waiting: status.waiting,
        level: status.level.name().to_owned(),
        overloaded: status.admission.overloaded,
        calls_per_second: last.rate,
        shed_percent: last.shed_percent,
        calls,
        shed,
        blocked: status.adaptive.blocked,
        cancelled: status.classes.iter().map(|class| class.cancelled).sum(),
        latency_ms: window.map(|window| millis(window.latency_mean)),
        run_delay_percent: window
            .and_then(|window| window.run_delay_share)
            .map(percent),
        deadline_ms: millis(config.admission.deadline),
        queue_max: config.admission.queue_max,
        changed: status.adaptive.changes,
        changes: status.changes.iter().map(change).collect(),
        classes: status
            .classes
            .iter()
            .map(|class| GateClassView {
                class: class.name.clone(),
                priority: class.priority,
                entered: class.entered,
                waited: class.waited,
                cancelled: class.cancelled,
                shed: class.shed(),
                shed_percent: class.shed_share().map(percent),
                shed_overload: class.shed_overload,
                shed_waited: class.shed_waited,
                shed_deadline: class.shed_deadline,
                shed_queue_full: class.shed_queue_full,
            })
            .collect(),
    }
}

fn change(change: &LimitChange) -> LimitChangeView {
    LimitChangeView {
        timestamp: Time::of(change.at),
        from: change.change.from,
        to: change.change.to,
        cause: change.change.reason.name().to_owned(),
        reason: change.change.reason.text().to_owned(),
    }
}
