//! The one writer of all knobs.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use flyball_core::time::Timestamp;

use super::{
    Decision, Evidence, Figure, KnobId, KnobSpec, MAX_EVIDENCE, MAX_HOLD, MAX_KNOBS, MAX_NAME,
    MAX_TEXT, Proposal, Rank, Refusal, Verdict, clip,
};
use crate::Error;

/// Who keeps a knob from lower ranks, and until when.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hold {
    /// The rank of the holder.
    pub rank: Rank,
    /// The name of the holder.
    pub part: &'static str,
    /// The end, exclusive.
    pub until: Timestamp,
}

/// A value that a person wants a knob to have.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Pin {
    /// The value; the knob has it unless safety overrides it or acting on it failed.
    pub value: f64,
    /// Who.
    pub who: String,
    /// Since when.
    pub since: Timestamp,
    /// When safety overrode the pin: the end of its hold, after which the pinned value comes back.
    overridden_until: Option<Timestamp>,
}

/// A knob: what it is, its value, and who has a say in it.
#[derive(Clone, Debug)]
pub struct Knob {
    id: KnobId,
    spec: KnobSpec,
    value: f64,
    hold: Option<Hold>,
    pin: Option<Pin>,
    /// What the last change replaced.
    undo: Option<Undo>,
    changed: Option<(Timestamp, u64)>,
    /// The last refusal of each rank since the last change.
    refused: [Option<Refused>; Rank::ALL.len()],
}

#[derive(Clone, Debug)]
struct Undo {
    number: u64,
    value: f64,
    hold: Option<Hold>,
    pin: Option<Pin>,
    changed: Option<(Timestamp, u64)>,
    /// Only a change of bounds replaced bounds.
    bounds: Option<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Refused {
    part: &'static str,
    value_bits: u64,
    code: &'static str,
}

impl Knob {
    /// Returns its id.
    pub fn id(&self) -> KnobId {
        self.id
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Returns what it is, with the bounds as they are now.
    pub fn spec(&self) -> &KnobSpec {
        &self.spec
    }

    /// Returns its value: finite and within the bounds.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Returns who keeps it from lower ranks at `now`, if anybody.
    pub fn held(&self, now: Timestamp) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| hold.until > now)
    }

    /// Returns the pin, if a person pinned it.
    pub fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// Returns when and by which decision it was last changed; `None` if it never was.
    pub fn changed(&self) -> Option<(Timestamp, u64)> {
        self.changed
    }

    fn contains(&self, value: f64) -> bool {
        (self.spec.min..=self.spec.max).contains(&value)
    }

    /// Keeps what a change is about to replace, so that it can be undone.
    fn remember(&mut self, now: Timestamp, number: u64, bounds: Option<(f64, f64)>) {
        self.undo = Some(Undo {
            number,
            value: self.value,
            hold: self.hold,
            pin: self.pin.clone(),
            changed: self.changed,
            bounds,
        });
        self.changed = Some((now, number));
        self.refused = Default::default();
    }
}

/// Orders proposals and applies them. See the [module](super) for the rules.
#[derive(Clone, Debug, Default)]
pub struct Arbiter {
    knobs: Vec<Knob>,
    /// The number of the last decision.
    decisions: u64,
}

impl Arbiter {
    /// Makes an arbiter without knobs, whose first decision has number 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an arbiter whose first decision has the number after `last`, to go on where an earlier one ended.
    pub fn continuing(last: u64) -> Self {
        Self {
            knobs: Vec::new(),
            decisions: last,
        }
    }

    /// Adds a knob with its present value.
    ///
    /// # Panics
    ///
    /// When [`Arbiter::try_add_knob`] would refuse it.
    pub fn add_knob(&mut self, spec: KnobSpec, value: f64) -> KnobId {
        match self.try_add_knob(spec, value) {
            Ok(id) => id,
            Err(error) => panic!("{error}"),
        }
    }

    /// Adds a knob with its present value; for knobs whose names or bounds come from outside.
    ///
    /// # Errors
    ///
    /// [`Error::Knob`] when the name is empty, longer than [`MAX_NAME`] bytes or taken, the bounds are not finite or
    /// the wrong way round, the value is not finite or outside of them, or there are [`MAX_KNOBS`] already.
    pub fn try_add_knob(&mut self, spec: KnobSpec, value: f64) -> Result<KnobId, Error> {
        if self.knobs.len() >= MAX_KNOBS {
            return Err(fault(spec.name, "there are 1024 already"));
        }
        let id = KnobId(self.knobs.len() as u16);
        let knob = self.fresh(id, spec, value)?;
        self.knobs.push(knob);
        Ok(id)
    }

    /// Makes another knob of one that nobody turns any more, with the same id: its name is free afterwards; value, pin, hold and all that
    /// was known of it are gone.
    ///
    /// # Errors
    ///
    /// As [`Arbiter::try_add_knob`], but for the number of knobs; the knob stays as it was.
    pub fn replace_knob(&mut self, id: KnobId, spec: KnobSpec, value: f64) -> Result<(), Error> {
        self.knobs[id.index()] = self.fresh(id, spec, value)?;
        Ok(())
    }

    /// A knob of which nothing is known yet.
    fn fresh(&self, id: KnobId, spec: KnobSpec, value: f64) -> Result<Knob, Error> {
        let wrong = if spec.name.is_empty() || spec.name.len() > MAX_NAME {
            Some("its name must have 1 to 128 bytes")
        } else if self.knob(&spec.name).is_some_and(|knob| knob.id != id) {
            Some("there is one of this name")
        } else if !are_bounds(spec.min, spec.max) {
            Some("its bounds must be finite, the least not above the greatest")
        } else if !(spec.min..=spec.max).contains(&value) {
            Some("its value must lie within its bounds")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Err(fault(spec.name, wrong));
        }
        Ok(Knob {
            id,
            spec,
            value,
            hold: None,
            pin: None,
            undo: None,
            changed: None,
            refused: Default::default(),
        })
    }

    /// Returns the value of a knob.
    ///
    /// # Panics
    ///
    /// When the id comes from another arbiter and is beyond this one's knobs; so do all methods that take an id.
    pub fn value(&self, id: KnobId) -> f64 {
        self.knobs[id.index()].value
    }

    /// Returns a knob.
    pub fn get(&self, id: KnobId) -> &Knob {
        &self.knobs[id.index()]
    }

    /// Returns the knob of this name, if there is one.
    pub fn knob(&self, name: &str) -> Option<&Knob> {
        self.knobs.iter().find(|knob| knob.spec.name == name)
    }

    /// Iterates over all knobs in the order in which they were added.
    pub fn knobs(&self) -> impl ExactSizeIterator<Item = &Knob> {
        self.knobs.iter()
    }

    /// Returns the number of the last decision; that of [`Arbiter::continuing`], or 0, before the first.
    pub fn last_decision(&self) -> u64 {
        self.decisions
    }

    /// Gives a knob other bounds. A value outside of them, also a pinned one, is brought to the nearest bound, which is
    /// a decision of rank safety; bounds that are not finite or the wrong way round are refused. `None` if the value
    /// stays as it is.
    pub fn set_bounds(
        &mut self,
        id: KnobId,
        min: f64,
        max: f64,
        now: Timestamp,
    ) -> Option<Decision> {
        let knob = &self.knobs[id.index()];
        let from = knob.value;
        let evidence = alloc::vec![
            Evidence::new("least", min, knob.spec.unit),
            Evidence::new("greatest", max, knob.spec.unit),
        ];
        if !are_bounds(min, max) {
            let refusal = Refusal::BadBounds { min, max };
            let reason = format!(
                "the bounds were to become {} to {}",
                Figure(min),
                Figure(max)
            );
            let verdict = Verdict::Refused(refusal);
            return Some(self.record(
                now,
                id,
                "bounds",
                Rank::Safety,
                (from, from),
                verdict,
                reason,
                evidence,
            ));
        }
        let to = from.clamp(min, max);
        let number = self.decisions + 1;
        let knob = &mut self.knobs[id.index()];
        if to != from {
            knob.remember(now, number, Some((knob.spec.min, knob.spec.max)));
        }
        (knob.spec.min, knob.spec.max, knob.value) = (min, max, to);
        if let Some(pin) = &mut knob.pin {
            pin.value = pin.value.clamp(min, max);
        }
        (to != from).then(|| {
            let reason = format!(
                "the bounds became {} to {}, and {} lies outside of them",
                Figure(min),
                Figure(max),
                Figure(from)
            );
            let (rank, verdict) = (Rank::Safety, Verdict::Applied);
            self.record(
                now,
                id,
                "bounds",
                rank,
                (from, to),
                verdict,
                reason,
                evidence,
            )
        })
    }

    /// Sets a knob for a person, until it is unpinned or pinned anew: throttle, pool and optimizer are refused so long,
    /// safety is not. Whose pin it replaces, if any, stands in the reason. Refused when the value is not finite or out
    /// of bounds, and while safety holds the knob.
    pub fn pin(
        &mut self,
        id: KnobId,
        value: f64,
        who: impl Into<String>,
        now: Timestamp,
    ) -> Decision {
        let mut who = who.into();
        clip(&mut who, MAX_TEXT);
        let number = self.decisions + 1;
        let knob = &mut self.knobs[id.index()];
        let from = knob.value;
        let mut reason = format!("pinned to {} by {who}", Figure(value));
        if let Some(before) = &knob.pin {
            reason += &format!(
                "; it was pinned to {} by {}",
                Figure(before.value),
                before.who
            );
        }
        let verdict = match unfit(knob, value).or_else(|| held_against(knob, Rank::Pin, "pin", now))
        {
            Some(refusal) => Verdict::Refused(refusal),
            None => {
                knob.remember(now, number, None);
                knob.value = value;
                knob.hold = None;
                knob.pin = Some(Pin {
                    value,
                    who,
                    since: now,
                    overridden_until: None,
                });
                Verdict::Applied
            }
        };
        let (rank, evidence) = (Rank::Pin, Vec::new());
        self.record(
            now,
            id,
            "pin",
            rank,
            (from, value),
            verdict,
            reason,
            evidence,
        )
    }

    /// Takes a pin away: the controllers have their say again, from the value that the knob has. Refused, as nothing
    /// would change, when there is none.
    pub fn unpin(&mut self, id: KnobId, who: impl Into<String>, now: Timestamp) -> Decision {
        let mut who = who.into();
        clip(&mut who, MAX_TEXT);
        let number = self.decisions + 1;
        let knob = &mut self.knobs[id.index()];
        let value = knob.value;
        let (verdict, reason) = match &knob.pin {
            Some(pin) => {
                let (by, at) = (pin.who.clone(), Figure(pin.value));
                let reason = format!("{who} gave control back; it was pinned to {at} by {by}");
                knob.remember(now, number, None);
                knob.pin = None;
                (Verdict::Applied, reason)
            }
            None => {
                let reason = format!("{who} gave control back, but it was not pinned");
                (Verdict::Refused(Refusal::NoChange), reason)
            }
        };
        let (rank, evidence) = (Rank::Pin, Vec::new());
        self.record(
            now,
            id,
            "unpin",
            rank,
            (value, value),
            verdict,
            reason,
            evidence,
        )
    }

    /// Judges the proposals of a round. The answer has one decision for each proposal, at its position, and after those
    /// the pinned values that come back now that safety no longer overrides them. Whoever acts does so for those that
    /// were applied, and reports what failed ([`Arbiter::failed`]).
    ///
    /// Time must not go back between rounds; were it to, holds would last longer. A round without proposals is useful
    /// for pins to come back.
    ///
    /// # Panics
    ///
    /// When a proposal's knob comes from another arbiter and is beyond this one's.
    pub fn decide(&mut self, now: Timestamp, proposals: Vec<Proposal>) -> Vec<Decision> {
        let first = self.decisions + 1;
        let mut by_rank: Vec<usize> = (0..proposals.len()).collect();
        by_rank.sort_by_key(|i| proposals[*i].rank);
        // Who has prevailed in this round, by knob.
        let mut claims: Vec<Option<Hold>> = alloc::vec![None; self.knobs.len()];
        let mut judged: Vec<Option<(f64, Verdict)>> = alloc::vec![None; proposals.len()];
        for i in by_rank {
            let proposal = &proposals[i];
            let knob = &mut self.knobs[proposal.knob.index()];
            let from = knob.value;
            let claim = &mut claims[proposal.knob.index()];
            let verdict = judge(knob, claim, proposal, now, first + i as u64);
            judged[i] = Some((from, verdict));
        }
        let mut decisions = Vec::with_capacity(proposals.len());
        for (proposal, judged) in proposals.into_iter().zip(judged) {
            let Some((from, verdict)) = judged else {
                unreachable!("every proposal is judged once");
            };
            let (change, part, rank) = ((from, proposal.value), proposal.part, proposal.rank);
            decisions.push(self.record(
                now,
                proposal.knob,
                part,
                rank,
                change,
                verdict,
                proposal.reason,
                proposal.evidence,
            ));
        }
        for (index, claim) in claims.iter().enumerate() {
            if claim.is_none() {
                decisions.extend(self.bring_back(index, now));
            }
        }
        decisions
    }

    /// Brings a pinned value back when the hold of safety over it has ended; once, so that an act that fails is not
    /// tried for ever.
    fn bring_back(&mut self, index: usize, now: Timestamp) -> Option<Decision> {
        let number = self.decisions + 1;
        let knob = &mut self.knobs[index];
        let pin = knob.pin.as_mut()?;
        pin.overridden_until.take_if(|until| *until <= now)?;
        let (from, to) = (knob.value, pin.value);
        if from == to {
            return None;
        }
        let reason = format!(
            "safety no longer holds it: back to {}, as pinned by {}",
            Figure(to),
            pin.who
        );
        let id = knob.id;
        knob.remember(now, number, None);
        knob.value = to;
        knob.hold = None;
        let (rank, evidence) = (Rank::Pin, Vec::new());
        Some(self.record(
            now,
            id,
            "pin",
            rank,
            (from, to),
            Verdict::Applied,
            reason,
            evidence,
        ))
    }

    /// Takes an applied decision back because acting on it failed: value, hold, pin and, for a change of bounds, the
    /// bounds are as before it. The decision becomes a refused one. Says whether the knob went back: it does not when a
    /// later decision changed it, which stands, nor when the decision was refused anyway, which then stays as it is. A
    /// value that new bounds exclude goes back to the nearest bound.
    pub fn failed(&mut self, decision: &mut Decision, why: impl Into<String>) -> bool {
        if !decision.applied() {
            return false;
        }
        let mut why = why.into();
        clip(&mut why, MAX_TEXT);
        decision.verdict = Verdict::Refused(Refusal::ActFailed { why });
        let Some(knob) = self
            .knobs
            .iter_mut()
            .find(|knob| knob.spec.name == decision.knob)
        else {
            return false;
        };
        let Some(undo) = knob.undo.take_if(|undo| undo.number == decision.number) else {
            return false;
        };
        if let Some((min, max)) = undo.bounds {
            (knob.spec.min, knob.spec.max) = (min, max);
        }
        let (min, max) = (knob.spec.min, knob.spec.max);
        knob.value = undo.value.clamp(min, max);
        knob.hold = undo.hold;
        knob.changed = undo.changed;
        knob.pin = undo.pin;
        if let Some(pin) = &mut knob.pin {
            pin.value = pin.value.clamp(min, max);
        }
        true
    }

    /// Makes the record of what was decided and counts it.
    #[allow(clippy::too_many_arguments)] // the fields of a decision, once
    fn record(
        &mut self,
        at: Timestamp,
        id: KnobId,
        part: &'static str,
        rank: Rank,
        (from, to): (f64, f64),
        verdict: Verdict,
        mut reason: String,
        mut evidence: Vec<Evidence>,
    ) -> Decision {
        self.decisions += 1;
        let knob = &mut self.knobs[id.index()];
        clip(&mut reason, MAX_TEXT);
        evidence.truncate(MAX_EVIDENCE);
        let quiet = match &verdict {
            Verdict::Applied => false,
            Verdict::Refused(refusal) => {
                let this = Refused {
                    part,
                    value_bits: to.to_bits(),
                    code: refusal.code(),
                };
                let last = knob.refused[rank as usize].replace(this);
                *refusal == Refusal::NoChange || last == Some(this)
            }
        };
        Decision {
            number: self.decisions,
            at,
            part,
            knob: knob.spec.name.clone(),
            unit: knob.spec.unit,
            from,
            to,
            rank,
            verdict,
            reason,
            evidence,
            quiet,
        }
    }
}

/// Judges one proposal, after all those that rank higher, and applies it if nothing stands against it.
fn judge(
    knob: &mut Knob,
    claim: &mut Option<Hold>,
    proposal: &Proposal,
    now: Timestamp,
    number: u64,
) -> Verdict {
    if let Some(refusal) = unfit(knob, proposal.value) {
        return Verdict::Refused(refusal);
    }
    if let Some(pin) = &knob.pin
        && proposal.rank != Rank::Safety
    {
        let who = pin.who.clone();
        return Verdict::Refused(Refusal::Pinned { who });
    }
    if let Some(winner) = claim {
        return Verdict::Refused(Refusal::Outranked {
            by: winner.rank,
            part: winner.part,
            until: winner.until,
        });
    }
    if let Some(refusal) = held_against(knob, proposal.rank, proposal.part, now) {
        return Verdict::Refused(refusal);
    }
    let hold = Hold {
        rank: proposal.rank,
        part: proposal.part,
        until: now.saturating_add(proposal.hold.min(MAX_HOLD)),
    };
    *claim = Some(hold);
    let verdict = if proposal.value == knob.value {
        Verdict::Refused(Refusal::NoChange)
    } else {
        knob.remember(now, number, None);
        knob.value = proposal.value;
        Verdict::Applied
    };
    knob.hold = Some(hold);
    if let Some(pin) = &mut knob.pin {
        pin.overridden_until = (knob.value != pin.value).then_some(hold.until);
    }
    verdict
}

/// Returns why no knob like this can have the value.
fn unfit(knob: &Knob, value: f64) -> Option<Refusal> {
    if !value.is_finite() {
        Some(Refusal::NotFinite)
    } else if !knob.contains(value) {
        let (min, max) = (knob.spec.min, knob.spec.max);
        Some(Refusal::OutOfBounds { min, max })
    } else {
        None
    }
}

/// Returns who holds the knob against this rank; nobody is held off by what the same part set.
fn held_against(knob: &Knob, rank: Rank, part: &'static str, now: Timestamp) -> Option<Refusal> {
    let hold = knob.held(now)?;
    (hold.rank.outranks(rank) && hold.part != part).then_some(Refusal::Outranked {
        by: hold.rank,
        part: hold.part,
        until: hold.until,
    })
}

fn fault(mut name: String, fault: &'static str) -> Error {
    clip(&mut name, MAX_NAME);
    Error::Knob { name, fault }
}

fn are_bounds(min: f64, max: f64) -> bool {
    min.is_finite() && max.is_finite() && min <= max
}
