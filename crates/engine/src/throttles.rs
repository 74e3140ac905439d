//! Throttles at work: what they see, what they ask for, what their levels do.
//!
//! Each throttle has a place in the executor (its joint ceiling) and a knob (its level). The control loop reads the machine, steps
//! every controller and hands the proposals to the arbiter; what is decided, be it by a throttle or by a person who pins the knob,
//! is done in [`Throttles::act`].
//!
//! Invariants: a throttle that is off, idle or observing holds nothing back; the executor has the ceiling of the knob's level, renewed
//! when the classes, their priorities or the parallelism change; the lock of the knobs is taken before that of the throttles, never
//! after.
//!
//! While nothing is held back and use is far below every threshold, it looks once a second; without throttles, never.

use crate::config::{
    Config, DEFAULT_THROTTLE, QUOTA_PERCENT, QUOTA_THROTTLE, Scope, ThrottleMode, ThrottleSpec,
};
use crate::events::EventKind;
use crate::knobs::Knobs;
use crate::shared::Shared;
use crate::view::{ThrottleEvent, ThrottleView, ThrottlerStats, Time};
use flyball_core::time::Timestamp;
use flyball_executor::{Executor, Stats};
use flyball_policy::control::throttle::{PERIOD, Settings, State, Throttle, View, allowance};
use flyball_policy::control::{KnobId, KnobSpec, Proposal};
use flyball_policy::sched::MAX_JOINT;
use flyball_sense::{Readings, Root, Sample, Sensors, Usage};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// Events that are kept.
pub const MAX_THROTTLE_EVENTS: usize = 128;
/// How often it looks while nothing is near its threshold.
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// So many points below its threshold use is far from it.
const FAR: f64 = 15.0;
/// The name under which throttles decide.
const PART: &str = "throttle";

/// All throttles.
#[derive(Debug, Default)]
pub(crate) struct Throttles {
    enabled: bool,
    entries: Vec<Entry>,
    events: VecDeque<ThrottleEvent>,
    /// Of throttles that are gone.
    past: Counts,
    kernel_ns: Option<u64>,
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
        let wanted = (self.level > 0.0 && acts).then(|| {
            let cpus = allowance(self.level) / 100.0 * self.whole;
            (self.acts_on.clone(), cpus, parallelism)
        });
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

/// What the control loop remembers of the machine between two looks.
pub(crate) struct Watch {
    root: Root,
    /// None while there is no throttle.
    sensing: Option<Box<Sensing>>,
    pub(crate) due: Timestamp,
}

struct Sensing {
    sensors: Sensors,
    before: Sample,
    sample: Sample,
    /// CPU time by class, ns.
    classes: BTreeMap<String, u64>,
    kernel_ns: Option<u64>,
}

/// What was seen between two looks.
struct Seen {
    usage: Usage,
    quota: Option<f64>,
    /// CPUs of the machine.
    cpus: f64,
    /// CPUs' worth of time by class.
    classes: BTreeMap<String, f64>,
    kernel_ns: Option<u64>,
}

impl Watch {
    pub(crate) fn new(root: Root) -> Watch {
        Watch {
            root,
            sensing: None,
            due: Timestamp::MAX,
        }
    }

    /// Follows a change of the configuration.
    pub(crate) fn configure(&mut self, shared: &Shared) {
        let now = shared.now();
        let wanted = shared.configure_throttles();
        if !wanted {
            (self.sensing, self.due) = (None, Timestamp::MAX);
        } else if self.sensing.is_none() {
            let mut sensing = Box::new(Sensing {
                sensors: Sensors::open(&self.root),
                before: Sample::default(),
                sample: Sample::default(),
                classes: BTreeMap::new(),
                kernel_ns: None,
            });
            sensing.look(&shared.executor, now, shared.cpus);
            self.sensing = Some(sensing);
            self.due = now.saturating_add(PERIOD);
        } else {
            self.due = self.due.min(now.saturating_add(PERIOD));
        }
    }

    /// Looks, steps the throttles and has their proposals decided.
    pub(crate) fn look(&mut self, shared: &Shared, now: Timestamp, stats: &Stats) {
        let Some(sensing) = &mut self.sensing else {
            return;
        };
        let seen = sensing.look(&shared.executor, now, stats.parallelism);
        let is_quiet = shared.step_throttles(now, &seen, stats);
        let period = if is_quiet { QUIET_PERIOD } else { PERIOD };
        self.due = now.saturating_add(period);
    }
}

impl Sensing {
    fn look(&mut self, executor: &Executor, now: Timestamp, parallelism: usize) -> Seen {
        std::mem::swap(&mut self.before, &mut self.sample);
        let wanted = Readings::CPU | Readings::PROCESS | Readings::CGROUP;
        self.sensors.sample_only(wanted, now, &mut self.sample);
        let passed = now.saturating_nanos_since(self.before.at);
        let times: BTreeMap<String, u64> = executor.class_times().into_iter().collect();
        let spent = |(name, used): (&String, &u64)| {
            let before = self.classes.get(name).copied().unwrap_or(*used);
            let cpus = used.saturating_sub(before) as f64 / passed.max(1) as f64;
            (name.clone(), cpus)
        };
        let classes = times.iter().map(spent).collect();
        self.classes = times;
        let throttled = |sample: &Sample| {
            let quota = sample.quota?;
            Some(quota.throttled_ns.saturating_add(quota.other_throttled_ns))
        };
        if let Some(after) = throttled(&self.sample) {
            let since = throttled(&self.before).map_or(0, |before| after.saturating_sub(before));
            *self.kernel_ns.get_or_insert(0) += since;
        }
        let cpus = match self.sample.cores.len() {
            0 => parallelism,
            cores => cores,
        };
        Seen {
            usage: flyball_sense::usage(&self.before, &self.sample),
            quota: self.sample.quota.map(|quota| quota.cpus),
            cpus: cpus as f64,
            classes,
            kernel_ns: self.kernel_ns,
        }
    }
}

impl Seen {
    /// CPUs' worth of time that percentages of a scope are of; None where there is no such thing.
    fn whole(&self, scope: &Scope) -> Option<f64> {
        match scope {
            Scope::Quota => self.quota.filter(|cpus| *cpus > 0.0),
            _ => Some(self.cpus),
        }
    }

    fn of_scope(&self, scope: &Scope) -> Option<f64> {
        match scope {
            Scope::Machine => Some(self.usage.cpu?.overall_percent),
            Scope::Process => Some(self.usage.process_cpus? / self.cpus * 100.0),
            Scope::Quota => {
                let used = self.usage.process_cpus? / self.whole(scope)? * 100.0;
                // Others of the group may have spent it.
                let spent = self.usage.throttled_ratio.is_some_and(|ratio| ratio > 0.0);
                Some(if spent { 100.0 } else { used })
            }
            Scope::Class(name) => Some(self.classes.get(name)? / self.cpus * 100.0),
        }
    }

    fn of_classes(&self, names: &[String], whole: f64) -> f64 {
        let used = names.iter().filter_map(|name| self.classes.get(name));
        used.sum::<f64>() / whole * 100.0
    }
}

/// The throttles that a configuration asks for; `daemon` says whether those of the daemon are among them.
fn wanted(config: &Config, daemon: bool) -> Vec<ThrottleSpec> {
    let block = &config.throttling;
    if !block.enabled || !config.performance.enabled {
        return Vec::new();
    }
    let observe = block.mode == ThrottleMode::Observe;
    let own = |name: &str, scope, threshold| ThrottleSpec {
        name: name.to_owned(),
        scope,
        settings: Settings {
            observe,
            ..Settings::at(threshold)
        },
        below: "normal".to_owned(),
        enabled: true,
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
        .collect()
}

/// The classes that a throttle holds back.
fn acts_on(spec: &ThrottleSpec, stats: &Stats) -> Vec<String> {
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
        throttles.enabled = config.throttling.enabled && config.performance.enabled;
        let mut before = std::mem::take(&mut throttles.entries);
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
                entries.push(entry);
                continue;
            }
            let knob = knobs.throttle(&spec.name);
            let (Some(place), Ok(knob), Ok(controller)) =
                (free.pop_first(), knob, Throttle::new(spec.settings))
            else {
                tracing::error!(throttle = spec.name, "there is no room for a throttle");
                continue;
            };
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
                told: None,
            });
        }
        for mut gone in before {
            released.push(gone.knob);
            gone.level = 0.0;
            throttles.past.add(gone.counts());
            if let Err(error) = gone.tell(&self.executor, parallelism) {
                tracing::error!(%error, "a throttle could not be lifted");
            }
        }
        let any = entries.iter().any(Entry::is_on);
        throttles.entries = entries;
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
            parallelism,
            ..
        } = &mut *throttles;
        *kernel_ns = seen.kernel_ns;
        *parallelism = stats.parallelism;
        for entry in entries.iter_mut().filter(|entry| entry.is_on()) {
            entry.acts_on = acts_on(&entry.spec, stats);
            entry.level = knobs.arbiter.value(entry.knob);
            let whole = seen.whole(&entry.spec.scope);
            entry.there = whole.is_some();
            entry.whole = whole.unwrap_or(entry.whole);
            let view = View {
                usage: whole.and_then(|_| seen.of_scope(&entry.spec.scope)),
                acted: whole.map(|whole| seen.of_classes(&entry.acts_on, whole)),
                level: entry.level,
            };
            let step = entry.controller.step(now, &view);
            let far = entry.controller.settings().threshold - FAR;
            let is_far = view.usage.is_none_or(|usage| usage < far);
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
                events.push(ThrottleEvent {
                    timestamp: Time::now(),
                    throttle: entry.spec.name.clone(),
                    kind: change.name().to_owned(),
                    level: step.level,
                    observed,
                    reason: step.reason.clone(),
                });
            }
            if !observed {
                proposals.extend(entry.controller.proposal(&step, entry.knob, PART));
            }
            // What changed beside the level: classes, parallelism.
            if let Err(error) = entry.tell(&self.executor, *parallelism) {
                tracing::debug!(%error, "a class went while a throttle held it back");
            }
        }
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
        match entry {
            Some(entry) => {
                entry.level = level;
                entry.tell(&self.executor, parallelism)
            }
            // One that is gone holds nothing back any more.
            None => Ok(()),
        }
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
        self.throttles().entries.iter().map(view).collect()
    }

    pub(crate) fn throttler_stats(&self) -> ThrottlerStats {
        let throttles = self.throttles();
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
            enabled: throttles.enabled,
            throttles: throttles.entries.len() as u32,
            active: throttles.entries.iter().filter(holds).count() as u32,
            cannot_hold: cannot.count() as u32,
            activations: counts.activations,
            adjustments: counts.adjustments,
            deactivations: counts.deactivations,
            throttled_ms: counts.throttled.as_millis() as u64,
            kernel_throttled_ms: throttles.kernel_ns.map(|ns| ns / 1_000_000),
            events: throttles.events.iter().cloned().collect(),
        }
    }
}

impl Knobs {
    /// The knob with a throttle's level; made the first time, and used again by later throttles of the name.
    fn throttle(&mut self, name: &str) -> Result<KnobId, flyball_policy::Error> {
        let name = format!("throttle.{name}");
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
        self.arbiter.try_add_knob(spec, 0.0)
    }
}

fn view(entry: &Entry) -> ThrottleView {
    let Settings {
        threshold,
        hysteresis,
        observe,
    } = entry.spec.settings;
    let (controller, state) = (&entry.controller, entry.controller.state());
    let (state, reason) = match (entry.is_on(), entry.acts_on.is_empty()) {
        (true, _) if !entry.there && entry.spec.scope == Scope::Quota => {
            ("idle", "there is no CPU quota".to_owned())
        }
        (false, _) => ("off", "switched off".to_owned()),
        (true, true) => (
            state.name(),
            "there is no class that it could hold back".to_owned(),
        ),
        (true, false) => (state.name(), state.to_string()),
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
        level: if observe {
            controller.level()
        } else {
            entry.level
        },
        state: state.to_owned(),
        reason,
        throttled_ms: entry.throttled().as_millis() as u64,
        activations: entry.counts.activations,
        adjustments: entry.counts.adjustments,
        throughput_effect_percent: controller.effect(),
    }
}
