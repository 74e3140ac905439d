//! Throttles at work: what they see, what they ask for, what their levels do.
//!
//! Each throttle has a place in the executor (its joint ceiling) and a knob (its level). The control loop reads the machine (`watch`), steps
//! every controller and hands the proposals to the arbiter; what is decided, be it by a throttle or by a person who pins the knob,
//! is done in [`Throttles::act`]. What the level allows is divided (`policy::control::split`) between closures and futures, which have a ceiling in the
//! executor, and commands of tasks, which stand still by turns.
//!
//! Invariants: a throttle that is off, idle or observing holds nothing back; the executor has the ceiling of the knob's level, renewed
//! when the classes, their priorities or the parallelism change; commands of a class on which several throttles act run for the least of their parts;
//! the lock of the knobs is taken before that of the throttles, never after.
//!
//! While nothing is held back and use is far below every threshold, it looks once a second; without throttles, never.

mod watch;

use crate::config::{
    Config, DEFAULT_THROTTLE, Mode, QUOTA_PERCENT, QUOTA_THROTTLE, Scope, ThrottleSpec,
};
use crate::events::EventKind;
use crate::knobs::{Knobs, is_near};
use crate::shared::Shared;
use crate::view::{QuotaView, ThrottleEvent, ThrottleView, ThrottlerStats, Time};
use flyball_core::time::Timestamp;
use flyball_executor::{Executor, Stats};
use flyball_policy::control::quota::{QuotaVerdict, QuotaWatch};
use flyball_policy::control::split::Split;
use flyball_policy::control::throttle::{Settings, State, Throttle, View, allowance};
use flyball_policy::control::{Knob, KnobId, KnobSpec, MAX_KNOBS, Proposal};
use flyball_policy::sched::MAX_JOINT;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;
use watch::Seen;
pub(crate) use watch::Watch;

/// Events that are kept.
pub const MAX_THROTTLE_EVENTS: usize = 128;
/// So many points below its threshold use is far from it; of a low threshold, below half of it.
const FAR: f64 = 15.0;
/// Below this level next to nothing is held back: more than 99% of the whole is allowed.
const HOLDS_LITTLE: f64 = 0.005;
/// The name under which throttles decide.
const PART: &str = "throttle";
/// What the names of their knobs begin with.
const KNOBS: &str = "throttle.";

/// All throttles.
#[derive(Debug, Default)]
pub(crate) struct Throttles {
    /// The setting that switches all off, if one does.
    off: Option<&'static str>,
    entries: Vec<Entry>,
    events: VecDeque<ThrottleEvent>,
    /// Of throttles that are gone.
    past: Counts,
    kernel_ns: Option<u64>,
    quota: QuotaWatch,
    /// Workers that ran at once at the last look.
    parallelism: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    activations: u64,
    adjustments: u64,
    deactivations: u64,
    throttled: Duration,
}

#[derive(Debug)]
struct Entry {
    spec: ThrottleSpec,
    place: usize,
    knob: KnobId,
    controller: Throttle,
    /// What the controller counted before it was made anew.
    earlier: Duration,
    counts: Counts,
    acts_on: Vec<String>,
    /// CPUs' worth of time that percentages are of.
    whole: f64,
    /// There is such a thing as what it measures.
    there: bool,
    /// The level in force.
    level: f64,
    /// The level that the last event told.
    shown: f64,
    /// Between work on workers and commands.
    split: Split,
    /// The part of the time for which commands run.
    part: f64,
    /// What the executor was told: classes, CPUs, at what parallelism.
    told: Option<(Vec<String>, f64, usize)>,
}

impl Entry {
    fn is_on(&self) -> bool {
        self.spec.enabled
    }

    /// Tells the executor, unless it knows.
    fn tell(
        &mut self,
        executor: &Executor,
        parallelism: usize,
    ) -> Result<(), flyball_executor::Error> {
        let acts = self.is_on() && !self.spec.settings.observe && !self.acts_on.is_empty();
        let allowed =
            (self.level > 0.0 && acts).then(|| allowance(self.level) / 100.0 * self.whole);
        let shares = self.split.divide(allowed);
        self.part = shares.part;
        let wanted = shares
            .inside
            .map(|cpus| (self.acts_on.clone(), cpus, parallelism));
        if wanted == self.told {
            return Ok(());
        }
        let names: Vec<&str> = self.acts_on.iter().map(String::as_str).collect();
        let ceiling = wanted
            .as_ref()
            .map(|(_, cpus, _)| (names.as_slice(), *cpus));
        executor.set_joint_ceiling(self.place, ceiling)?;
        self.told = wanted;
        Ok(())
    }

    fn throttled(&self) -> Duration {
        self.earlier.saturating_add(self.controller.throttled())
    }

    fn counts(&self) -> Counts {
        Counts {
            throttled: self.throttled(),
            ..self.counts
        }
    }
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.activations += other.activations;
        self.adjustments += other.adjustments;
        self.deactivations += other.deactivations;
        self.throttled = self.throttled.saturating_add(other.throttled);
    }
}

/// The setting that switches all throttles off, if one does.
pub(crate) fn all_off(config: &Config) -> Option<&'static str> {
    if !config.performance.enabled {
        return Some("performance.enabled");
    }
    (!config.throttling.enabled).then_some("throttling.enabled")
}

/// The throttles that a configuration names, off where all are; `daemon` says whether those of the daemon are among them.
fn wanted(config: &Config, daemon: bool) -> Vec<ThrottleSpec> {
    let block = &config.throttling;
    let on = all_off(config).is_none();
    let observe = block.mode == Mode::Observe;
    let own = |name: &str, scope, threshold| ThrottleSpec {
        name: name.to_owned(),
        scope,
        settings: Settings {
            observe,
            ..Settings::at(threshold)
        },
        below: "normal".to_owned(),
        enabled: block.own,
    };
    let own = daemon.then(|| {
        [
            own(DEFAULT_THROTTLE, Scope::Machine, block.threshold_percent),
            own(QUOTA_THROTTLE, Scope::Quota, QUOTA_PERCENT),
        ]
    });
    // What could not be read was refused with the configuration.
    let named = block.throttles.0.iter().map(ThrottleSpec::of);
    own.into_iter()
        .flatten()
        .chain(named.filter_map(Result::ok))
        .map(|spec| ThrottleSpec {
            enabled: spec.enabled && on,
            ..spec
        })
        .collect()
}

/// The classes that a throttle holds back.
pub(crate) fn acts_on(spec: &ThrottleSpec, stats: &Stats) -> Vec<String> {
    let classes = &stats.classes;
    let priority = |name: &str| {
        let class = classes.iter().find(|class| class.name == name);
        class.map(|class| class.spec.priority)
    };
    let held = |class: &&flyball_executor::ClassStats| match &spec.scope {
        Scope::Class(name) => class.name == *name,
        _ => priority(&spec.below).is_some_and(|below| class.spec.priority < below),
    };
    let held = classes.iter().filter(held);
    held.map(|class| class.name.clone()).collect()
}

impl Shared {
    fn throttles(&self) -> MutexGuard<'_, Throttles> {
        self.throttles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the throttles what the configuration says; answers whether there is any to step.
    pub(crate) fn configure_throttles(&self) -> bool {
        let config = self.config();
        let specs = wanted(&config, self.daemon_throttles);
        let stats = self.executor.stats();
        let parallelism = stats.parallelism;
        let mut knobs = self.knobs();
        let mut released = Vec::new();
        let mut throttles = self.throttles();
        throttles.parallelism = parallelism;
        throttles.off = all_off(&config);
        let stays = |entry: &Entry| specs.iter().any(|spec| spec.name == entry.spec.name);
        let (mut before, gone): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut throttles.entries)
            .into_iter()
            .partition(stays);
        // First, so that others can have their places and knobs.
        for mut gone in gone {
            released.push(gone.knob);
            gone.level = 0.0;
            throttles.past.add(gone.counts());
            if let Err(error) = gone.tell(&self.executor, parallelism) {
                tracing::error!(%error, "a throttle could not be lifted");
            }
        }
        let mut used: Vec<KnobId> = before.iter().map(|entry| entry.knob).collect();
        let mut entries: Vec<Entry> = Vec::new();
        let mut free: BTreeSet<usize> = (0..MAX_JOINT).collect();
        for entry in &before {
            free.remove(&entry.place);
        }
        for spec in specs {
            let at = before.iter().position(|entry| entry.spec.name == spec.name);
            if let Some(at) = at {
                let mut entry = before.swap_remove(at);
                let same = entry.spec.scope == spec.scope
                    && entry.spec.below == spec.below
                    && entry.spec.enabled == spec.enabled
                    && entry.spec.settings.observe == spec.settings.observe;
                if same {
                    // Its settings were checked with the configuration.
                    let _ = entry.controller.set(spec.settings);
                } else if let Ok(anew) = Throttle::new(spec.settings) {
                    entry.earlier = entry.throttled();
                    entry.controller = anew;
                    released.push(entry.knob);
                }
                entry.spec = spec;
                entry.acts_on = acts_on(&entry.spec, &stats);
                // The level stays where it is while a person pins it, and a throttle that is off is not stepped.
                if let Err(error) = entry.tell(&self.executor, parallelism) {
                    tracing::debug!(%error, "a class went while a throttle was changed");
                }
                entries.push(entry);
                continue;
            }
            let knob = knobs.throttle(&spec.name, &used);
            let (Some(place), Ok(knob), Ok(controller)) =
                (free.pop_first(), knob, Throttle::new(spec.settings))
            else {
                tracing::error!(throttle = spec.name, "there is no room for a throttle");
                continue;
            };
            used.push(knob);
            entries.push(Entry {
                acts_on: acts_on(&spec, &stats),
                whole: parallelism as f64,
                there: true,
                spec,
                place,
                knob,
                controller,
                earlier: Duration::ZERO,
                counts: Counts::default(),
                level: knobs.arbiter.value(knob),
                shown: 0.0,
                split: Split::default(),
                part: 1.0,
                told: None,
            });
        }
        let any = entries.iter().any(Entry::is_on);
        throttles.entries = entries;
        self.hold_commands(&throttles);
        drop(throttles);
        let proposals: Vec<Proposal> = released
            .into_iter()
            .filter(|knob| knobs.arbiter.value(*knob) > 0.0)
            .map(|knob| Proposal {
                knob,
                value: 0.0,
                rank: flyball_policy::control::Rank::Throttle,
                part: PART,
                hold: Duration::ZERO,
                reason: "the throttle was changed, or taken away".to_owned(),
                evidence: Vec::new(),
            })
            .collect();
        drop(knobs);
        if !proposals.is_empty() {
            self.decide(proposals);
        }
        any
    }

    /// Steps every throttle and has decided what they ask for; answers whether all are far from their thresholds.
    fn step_throttles(&self, now: Timestamp, seen: &Seen, stats: &Stats) -> bool {
        let knobs = self.knobs();
        let mut throttles = self.throttles();
        let (mut proposals, mut events, mut is_quiet) = (Vec::new(), Vec::new(), true);
        let Throttles {
            entries,
            kernel_ns,
            quota,
            parallelism,
            ..
        } = &mut *throttles;
        *kernel_ns = seen.kernel_ns;
        quota.saw(now, seen.usage.throttled_ratio, seen.usage.throttled_cpus);
        *parallelism = stats.parallelism;
        for entry in entries.iter_mut().filter(|entry| entry.is_on()) {
            entry.acts_on = acts_on(&entry.spec, stats);
            entry.level = knobs.arbiter.value(entry.knob);
            let whole = seen.whole(&entry.spec.scope);
            entry.there = whole.is_some();
            entry.whole = whole.unwrap_or(entry.whole);
            let (inside, commands) = seen.of_classes(&entry.acts_on);
            entry.split.saw(now, inside, commands);
            let view = View {
                usage: whole.and_then(|_| seen.of_scope(&entry.spec.scope)),
                acted: whole.map(|whole| (inside + commands) / whole * 100.0),
                level: entry.level,
            };
            let step = entry.controller.step(now, &view);
            let threshold = entry.controller.settings().threshold;
            let is_far = view.usage.is_none_or(|usage| is_far(threshold, usage));
            is_quiet &= is_far && matches!(entry.controller.state(), State::Idle | State::Blind);
            let observed = entry.spec.settings.observe;
            if let Some(change) = step.change {
                use flyball_policy::control::throttle::Change;
                let count = match change {
                    Change::Activated => &mut entry.counts.activations,
                    Change::Adjusted => &mut entry.counts.adjustments,
                    Change::Deactivated => &mut entry.counts.deactivations,
                };
                *count += 1;
                // One that moves is turned four times a second, which nobody could read.
                if change != Change::Adjusted || !is_near(entry.shown, step.level) {
                    entry.shown = step.level;
                    events.push(ThrottleEvent {
                        timestamp: Time::now(),
                        throttle: entry.spec.name.clone(),
                        kind: change.name().to_owned(),
                        level: step.level,
                        observed,
                        reason: step.reason.clone(),
                    });
                }
            }
            if !observed {
                proposals.extend(entry.controller.proposal(&step, entry.knob, PART));
            }
            // What changed beside the level: classes, parallelism.
            if let Err(error) = entry.tell(&self.executor, *parallelism) {
                tracing::debug!(%error, "a class went while a throttle held it back");
            }
        }
        self.hold_commands(&throttles);
        for event in &events {
            if throttles.events.len() == MAX_THROTTLE_EVENTS {
                throttles.events.pop_front();
            }
            throttles.events.push_back(event.clone());
        }
        drop(throttles);
        drop(knobs);
        for event in events {
            if event.kind != "adjusted" {
                let (throttle, level) = (event.throttle.as_str(), event.level);
                tracing::info!(
                    throttle,
                    level,
                    observed = event.observed,
                    "{}: {}",
                    event.kind,
                    event.reason
                );
            }
            self.tell(EventKind::Throttle, &event);
        }
        if !proposals.is_empty() {
            self.decide(proposals);
        }
        is_quiet
    }

    /// Puts a level into force; the caller holds the knobs.
    pub(crate) fn act_throttle(
        &self,
        knob: KnobId,
        level: f64,
    ) -> Result<(), flyball_executor::Error> {
        let mut throttles = self.throttles();
        let parallelism = throttles.parallelism;
        let entry = throttles
            .entries
            .iter_mut()
            .find(|entry| entry.knob == knob);
        // One that is gone holds nothing back any more.
        let Some(entry) = entry else {
            return Ok(());
        };
        entry.level = level;
        entry.tell(&self.executor, parallelism)?;
        self.hold_commands(&throttles);
        Ok(())
    }

    /// Tells what runs commands for which part of the time they may; told under the lock, so that the last word is the newest.
    #[cfg(feature = "tasks")]
    fn hold_commands(&self, throttles: &Throttles) {
        let Some(open) = self.tasks.opened() else {
            return;
        };
        let mut parts = std::collections::BTreeMap::<Box<str>, f64>::new();
        for entry in throttles.entries.iter().filter(|entry| entry.part < 1.0) {
            for name in &entry.acts_on {
                let part = parts.entry(name.as_str().into()).or_insert(1.0);
                *part = part.min(entry.part);
            }
        }
        open.runners.hold_commands(parts);
    }

    #[cfg(not(feature = "tasks"))]
    fn hold_commands(&self, _: &Throttles) {}

    #[cfg(feature = "tasks")]
    fn commands_held(&self) -> usize {
        let open = self.tasks.opened();
        open.map_or(0, |open| open.runners.commands_held())
    }

    #[cfg(not(feature = "tasks"))]
    fn commands_held(&self) -> usize {
        0
    }

    /// The classes that are held back now: what waits in them is not for want of workers.
    pub(crate) fn held_classes(&self) -> BTreeSet<String> {
        let throttles = self.throttles();
        let told = throttles
            .entries
            .iter()
            .filter_map(|entry| entry.told.as_ref());
        told.flat_map(|(names, ..)| names.iter().cloned()).collect()
    }

    pub(crate) fn throttle_views(&self) -> Vec<ThrottleView> {
        let throttles = self.throttles();
        let quota = throttles.quota.verdict();
        let entries = throttles.entries.iter();
        entries
            .map(|entry| view(entry, quota, throttles.off))
            .collect()
    }

    pub(crate) fn throttler_stats(&self) -> ThrottlerStats {
        let commands_held = self.commands_held() as u32;
        let throttles = self.throttles();
        let quota = throttles.quota.verdict();
        let mut counts = throttles.past;
        for entry in &throttles.entries {
            counts.add(entry.counts());
        }
        let states = throttles
            .entries
            .iter()
            .map(|entry| entry.controller.state());
        let cannot = states.filter(|state| matches!(state, State::CannotHold(_)));
        let holds = |entry: &&Entry| entry.told.is_some();
        ThrottlerStats {
            enabled: throttles.off.is_none(),
            throttles: throttles.entries.len() as u32,
            active: throttles.entries.iter().filter(holds).count() as u32,
            cannot_hold: cannot.count() as u32,
            activations: counts.activations,
            adjustments: counts.adjustments,
            deactivations: counts.deactivations,
            throttled_ms: counts.throttled.as_millis() as u64,
            kernel_throttled_ms: throttles.kernel_ns.map(|ns| ns / 1_000_000),
            commands_held,
            quota: quota.map(|verdict| QuotaView {
                verdict: verdict.name().to_owned(),
                throttled_percent: verdict.throttled().map_or(0.0, |of| of.percent),
                throttled_cpus: verdict.throttled().map_or(0.0, |of| of.cpus),
                reason: verdict.to_string(),
            }),
            events: throttles.events.iter().cloned().collect(),
        }
    }
}

/// Whether use is so far below a threshold that it need not be looked at often.
fn is_far(threshold: f64, usage: f64) -> bool {
    usage < (threshold - FAR).max(threshold / 2.0)
}

impl Knobs {
    /// The knob with a throttle's level; made the first time, and used again by later throttles of the name. When there are as many knobs as there can be,
    /// one of a throttle that is gone (which none of `used` is) becomes this one: of those that nobody has pinned the one that was not turned for
    /// longest.
    fn throttle(&mut self, name: &str, used: &[KnobId]) -> Result<KnobId, flyball_policy::Error> {
        let name = format!("{KNOBS}{name}");
        if let Some(knob) = self.arbiter.knob(&name) {
            return Ok(knob.id());
        }
        let spec = KnobSpec {
            name,
            unit: "level",
            min: 0.0,
            max: 1.0,
            about: "how much the throttle holds back: 0 nothing, 1 all but 1% of the whole",
        };
        if self.arbiter.knobs().len() < MAX_KNOBS {
            return self.arbiter.try_add_knob(spec, 0.0);
        }
        let is_gone = |knob: &&Knob| knob.name().starts_with(KNOBS) && !used.contains(&knob.id());
        let gone = self.arbiter.knobs().filter(is_gone);
        let gone = gone.min_by_key(|knob| (knob.pin().is_some(), knob.changed()));
        match gone.map(Knob::id) {
            Some(id) => self.arbiter.replace_knob(id, spec, 0.0).map(|()| id),
            None => self.arbiter.try_add_knob(spec, 0.0),
        }
    }
}

fn view(entry: &Entry, quota: Option<QuotaVerdict>, off: Option<&'static str>) -> ThrottleView {
    let Settings {
        threshold,
        hysteresis,
        observe,
    } = entry.spec.settings;
    let (controller, state) = (&entry.controller, entry.controller.state());
    let (state, mut reason) = match (entry.is_on(), entry.acts_on.is_empty()) {
        (true, _) if !entry.there && entry.spec.scope == Scope::Quota => {
            ("idle", "there is no CPU quota".to_owned())
        }
        (false, _) => match off {
            Some(setting) => (
                "off",
                format!("all are switched off; {setting} switches them on"),
            ),
            None => ("off", "switched off".to_owned()),
        },
        (true, true) => (
            state.name(),
            "there is no class that it could hold back".to_owned(),
        ),
        (true, false) => (state.name(), state.to_string()),
    };
    let of_quota = entry.is_on() && entry.spec.scope == Scope::Quota;
    if let Some(verdict) = quota.filter(|verdict| of_quota && verdict.throttled().is_some()) {
        reason = format!("{reason}; {verdict}");
    }
    let level = if observe {
        controller.level()
    } else {
        entry.level
    };
    ThrottleView {
        name: entry.spec.name.clone(),
        enabled: entry.is_on(),
        scope: entry.spec.scope.to_string(),
        mode: if observe { "observe" } else { "enforce" }.to_owned(),
        threshold_percent: threshold,
        hysteresis_percent: hysteresis,
        acts_on: entry.acts_on.clone(),
        usage_percent: controller.usage().filter(|_| entry.is_on()),
        level,
        state: state.to_owned(),
        reason,
        throttled_ms: entry.throttled().as_millis() as u64,
        activations: entry.counts.activations,
        adjustments: entry.counts.adjustments,
        // What fell by itself is no work of a throttle that allows nearly all.
        throughput_effect_percent: controller.effect().filter(|_| level >= HOLDS_LITTLE),
        commands_run_percent: entry.part * 100.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPU-20: what uses next to nothing is far from every threshold, the lowest included, so that an idle engine looks once a second.
    #[test]
    fn idle_is_far_from_every_threshold() {
        for threshold in [1.0, 3.0, 15.0, 20.0, 80.0] {
            assert!(is_far(threshold, 0.2), "{threshold}");
            assert!(!is_far(threshold, threshold * 0.9), "{threshold}");
        }
        assert!(is_far(80.0, 64.0) && !is_far(80.0, 66.0));
    }
}
