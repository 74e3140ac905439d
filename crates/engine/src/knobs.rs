//! The knobs that the engine turns: the arbiter, and what its decisions do.
//!
//! Invariant: the value of a knob is what the executor was last told; an act that fails takes the value back.

use crate::decisions;
use crate::events::EventKind;
use crate::settings;
use crate::shared::Shared;
use crate::view::{DecisionView, EvidenceView, KnobView, PinView, Time};
use flyball_core::class::Group;
use flyball_policy::control::{Arbiter, Decision, Evidence, KnobId, KnobSpec, Proposal, Rank};
use std::collections::BTreeMap;
use std::time::Duration;

/// Threads of the front group.
pub const FRONT: &str = "worker_pool.front";
/// Threads of the back group.
pub const BACK: &str = "worker_pool.back";
/// Workers allowed to run at once.
pub const PARALLELISM: &str = "parallelism";

/// A level of a throttle is written down again once it is this far from what was written last.
const NEWS: f64 = 0.05;

/// Whether a level says no more than the one that was told last.
pub(crate) fn is_near(before: f64, now: f64) -> bool {
    (now - before).abs() < NEWS
}

/// The arbiter and the numbers of its knobs.
#[derive(Debug)]
pub(crate) struct Knobs {
    pub(crate) arbiter: Arbiter,
    pub(crate) front: KnobId,
    pub(crate) back: KnobId,
    pub(crate) parallelism: KnobId,
    /// The levels of throttles as the record has them.
    written: BTreeMap<KnobId, f64>,
}

/// What a knob turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Size(Group),
    Parallelism,
    Throttle(KnobId),
}

/// Lowest and highest value, and the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) value: usize,
}

impl Knobs {
    pub(crate) fn new(front: Range, back: Range, parallelism: Range) -> Self {
        let mut arbiter = Arbiter::new();
        let mut add = |name: &str, about: &'static str, range: Range| {
            let spec = KnobSpec {
                name: name.to_owned(),
                unit: "workers",
                min: range.min as f64,
                max: range.max as f64,
                about,
            };
            arbiter.add_knob(spec, range.value as f64)
        };
        let front = add(
            FRONT,
            "threads of the front group, parked until needed",
            front,
        );
        let back = add(BACK, "threads of the back group", back);
        let parallelism = add(PARALLELISM, "workers allowed to run at once", parallelism);
        Knobs {
            arbiter,
            front,
            back,
            parallelism,
            written: BTreeMap::new(),
        }
    }

    /// Whether a decision belongs into the record. A throttle that moves has its level turned four times a second: only its begin, its end and what is
    /// far from what was written last says anything.
    fn is_news(&mut self, decision: &Decision, turn: Turn) -> bool {
        let Turn::Throttle(knob) = turn else {
            return !decision.quiet;
        };
        let (from, to) = (decision.from, decision.to);
        let before = self.written.get(&knob).copied().unwrap_or(0.0);
        let moves = decision.applied() && decision.rank == Rank::Throttle && from > 0.0 && to > 0.0;
        let news = !(decision.quiet || moves && is_near(before, to));
        if news && decision.applied() {
            self.written.insert(knob, to);
        }
        news
    }

    fn turn(&self, name: &str) -> Turn {
        match self.arbiter.knob(name).map(|knob| knob.id()) {
            Some(id) if id == self.front => Turn::Size(Group::Front),
            Some(id) if id == self.back => Turn::Size(Group::Back),
            Some(id) if id != self.parallelism => Turn::Throttle(id),
            _ => Turn::Parallelism,
        }
    }

    /// The knob that sizes a group.
    pub(crate) fn of(&self, group: Group) -> KnobId {
        match group {
            Group::Front => self.front,
            Group::Back => self.back,
        }
    }
}

impl Shared {
    /// Judges proposals, does what was decided, and keeps the record.
    pub(crate) fn decide(&self, proposals: Vec<Proposal>) -> Vec<DecisionView> {
        let mut knobs = self.knobs();
        let decisions = knobs.arbiter.decide(self.now(), proposals);
        decisions
            .into_iter()
            .map(|decision| self.act_on(&mut knobs, decision))
            .collect()
    }

    /// Holds a knob at a value for a person.
    pub(crate) fn pin(&self, id: KnobId, value: f64, who: &str) -> DecisionView {
        let mut knobs = self.knobs();
        let decision = knobs.arbiter.pin(id, value, who, self.now());
        let view = self.act_on(&mut knobs, decision);
        if id == knobs.parallelism && view.applied {
            drop(knobs);
            self.set_pool_bounds();
            self.poke();
        }
        view
    }

    /// Ends one worker's thread, and holds the size of its group at one less for the person who asked.
    pub(crate) fn pin_without(&self, group: Group, worker: u16, who: &str) -> DecisionView {
        let mut knobs = self.knobs();
        let id = knobs.of(group);
        let value = knobs.arbiter.value(id) - 1.0;
        let decision = knobs.arbiter.pin(id, value, who, self.now());
        self.settle(&mut knobs, decision, |_| self.executor.drain_worker(worker))
    }

    /// Gives a knob back to its controllers; answers whether somebody had pinned it, too.
    pub(crate) fn unpin(&self, id: KnobId, who: &str) -> (bool, DecisionView) {
        let mut knobs = self.knobs();
        let decision = knobs.arbiter.unpin(id, who, self.now());
        let was_pinned = decision.applied();
        if id == knobs.parallelism && was_pinned {
            // Under the lock, so that it does not undo somebody's next pin.
            self.executor.follow_machine();
        }
        (was_pinned, self.act_on(&mut knobs, decision))
    }

    /// Gives the pool's knobs the bounds that configuration and parallelism ask for; values outside of them move.
    pub(crate) fn set_pool_bounds(&self) {
        let mut knobs = self.knobs();
        // Read under the lock: of several callers the last has the newest of both.
        let (config, parallelism) = (self.config(), self.executor.stats().parallelism);
        let now = self.now();
        for group in [Group::Front, Group::Back] {
            let range = settings::range(&config, group, parallelism, self.cpus);
            let (min, max) = (range.min as f64, range.max as f64);
            let id = knobs.of(group);
            if let Some(decision) = knobs.arbiter.set_bounds(id, min, max, now) {
                self.act_on(&mut knobs, decision);
            }
        }
    }

    /// The executor follows the CPUs that affinity mask and quota allow by itself; its knob takes over what it did. `seen` is a
    /// reading of the executor's parallelism. Says whether that was another than the knob's.
    pub(crate) fn follow_parallelism(&self, seen: usize) -> bool {
        let mut knobs = self.knobs();
        let knob = knobs.parallelism;
        let known = knobs.arbiter.value(knob);
        if known == seen as f64 {
            return false;
        }
        // What was seen may be from before a pin. Pins act under this lock, so a reading under it is not.
        let present = self.executor.stats().parallelism as f64;
        if known == present {
            return false;
        }
        let proposal = Proposal {
            knob,
            value: present,
            rank: Rank::Safety,
            part: "machine",
            hold: Duration::ZERO,
            reason: format!("affinity mask and quota allow {present} CPUs now"),
            evidence: vec![Evidence::new("cpus", present, "CPUs")],
        };
        for decision in knobs.arbiter.decide(self.now(), vec![proposal]) {
            if decision.part == "machine" {
                // Telling the executor would end its following.
                self.settle(&mut knobs, decision, |_| Ok(()));
            } else {
                self.act_on(&mut knobs, decision);
            }
        }
        true
    }

    /// Gives the back group the size that a pool has which nothing regulates.
    pub(crate) fn make_plain(&self) {
        let parallelism = self.executor.stats().parallelism;
        let range = settings::range(&self.config(), Group::Back, parallelism, self.cpus);
        let knob = self.knobs().back;
        self.decide(vec![Proposal {
            knob,
            value: range.value as f64,
            rank: Rank::Pool,
            part: "pool",
            hold: Duration::ZERO,
            reason: "self-regulation is switched off: one worker more than may run at once"
                .to_owned(),
            evidence: vec![Evidence::new("parallelism", parallelism as f64, "workers")],
        }]);
    }

    fn act_on(&self, knobs: &mut Knobs, decision: Decision) -> DecisionView {
        self.settle(knobs, decision, |(id, value)| self.act(id, value))
    }

    /// Does what was decided, takes it back where that fails, and keeps the record.
    fn settle(
        &self,
        knobs: &mut Knobs,
        mut decision: Decision,
        act: impl FnOnce((Turn, f64)) -> Result<(), flyball_executor::Error>,
    ) -> DecisionView {
        let turn = knobs.turn(&decision.knob);
        if decision.applied()
            && decision.from != decision.to
            && let Err(error) = act((turn, decision.to))
        {
            knobs.arbiter.failed(&mut decision, error.to_string());
        }
        let view = decisions::view(&decision);
        if knobs.is_news(&decision, turn) {
            self.record(&view);
        }
        view
    }

    /// Tells the executor.
    fn act(&self, turn: Turn, value: f64) -> Result<(), flyball_executor::Error> {
        match turn {
            Turn::Size(group) => self.executor.scale(group, value.round() as usize),
            Turn::Parallelism => self.executor.set_parallelism(value.round() as usize),
            Turn::Throttle(knob) => self.act_throttle(knob, value),
        }
    }

    fn record(&self, view: &DecisionView) {
        let refusal = view.refusal.as_deref();
        let (part, knob) = (view.part.as_str(), view.knob.as_str());
        let (from, to) = (view.from, view.to);
        let evidence = evidence(view);
        match refusal {
            None => tracing::info!(part, knob, from, to, evidence, "decided: {}", view.reason),
            Some(refusal) => {
                tracing::info!(
                    part,
                    knob,
                    from,
                    to,
                    refusal,
                    evidence,
                    "refused: {}",
                    view.reason
                );
            }
        }
        self.decisions.push(view.clone());
        self.tell(EventKind::Decision, view);
    }

    /// What people are shown of the knobs.
    pub(crate) fn knob_views(&self) -> Vec<KnobView> {
        let knobs = self.knobs();
        let view = |knob: &flyball_policy::control::Knob| KnobView {
            name: knob.name().to_owned(),
            about: knob.spec().about.to_owned(),
            unit: knob.spec().unit.to_owned(),
            min: knob.spec().min,
            max: knob.spec().max,
            value: knob.value(),
            pinned: knob.pin().map(|pin| PinView {
                by: pin.who.clone(),
                value: pin.value,
                since: Time::of(pin.since),
            }),
        };
        knobs.arbiter.knobs().map(view).collect()
    }
}

/// The figures of a decision in one line: `load 0.93, queue 12 tasks`; None without any.
fn evidence(decision: &DecisionView) -> Option<String> {
    let figure = |evidence: &EvidenceView| {
        let value = match evidence.value {
            Some(value) if value.fract() == 0.0 => format!("{value}"),
            Some(value) => format!("{value:.2}"),
            None => "unknown".to_owned(),
        };
        let unit = match evidence.unit.as_str() {
            "" => String::new(),
            unit => format!(" {unit}"),
        };
        format!("{} {value}{unit}", evidence.name)
    };
    let figures: Vec<String> = decision.evidence.iter().map(figure).collect();
    (!figures.is_empty()).then(|| figures.join(", "))
}
