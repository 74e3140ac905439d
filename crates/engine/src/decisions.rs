//! The log of decisions: bounded, newest kept, each with its evidence.

use crate::view::{DecisionView, EvidenceView, Time};
use flyball_policy::control::{Decision, Verdict};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Most decisions kept.
pub const MAX_DECISIONS: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Decisions(Mutex<VecDeque<DecisionView>>);

impl Decisions {
    pub(crate) fn push(&self, decision: DecisionView) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MAX_DECISIONS {
            kept.pop_front();
        }
        kept.push_back(decision);
    }

    /// The last one about a knob that is still kept.
    pub(crate) fn last_of(&self, knob: &str) -> Option<DecisionView> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .rev()
            .find(|decision| decision.knob == knob)
            .cloned()
    }

    /// Those of a part (or all) after a number and not before a time, oldest first.
    pub(crate) fn list(
        &self,
        part: Option<&str>,
        after: Option<u64>,
        since: Option<Time>,
        limit: usize,
    ) -> Vec<DecisionView> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .filter(|decision| part.is_none_or(|part| decision.part == part))
            .filter(|decision| after.is_none_or(|after| decision.number > after))
            .filter(|decision| since.is_none_or(|since| decision.timestamp >= since))
            .take(limit)
            .cloned()
            .collect()
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// A decision as people see it.
pub(crate) fn view(decision: &Decision) -> DecisionView {
    DecisionView {
        number: decision.number,
        timestamp: Time::of(decision.at),
        part: decision.part.to_string(),
        knob: decision.knob.to_string(),
        unit: decision.unit.to_string(),
        from: finite(decision.from),
        to: finite(decision.to),
        applied: matches!(decision.verdict, Verdict::Applied),
        refusal: match &decision.verdict {
            Verdict::Applied => None,
            Verdict::Refused(refusal) => Some(refusal.to_string()),
        },
        reason: decision.reason.clone(),
        evidence: decision
            .evidence
            .iter()
            .map(|evidence| EvidenceView {
                name: evidence.name.to_string(),
                value: finite(evidence.value),
                unit: evidence.unit.to_string(),
            })
            .collect(),
    }
}
