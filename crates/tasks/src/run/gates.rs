//! Adaptive limits on what runs: how many tasks of a class at once, and how many calls of a dependency.
//!
//! A task is never refused for good: where its class has no slot it goes back, at no cost of an attempt, and a call that its dependency's gate sheds comes
//! back [in turn](crate::run::line). The queue is told the limits of classes, too, so that few tasks are taken for nothing.

use crate::run::context::{Live, Stop};
use crate::run::drive::Body;
use crate::run::ended::Ended;
use crate::run::hub::{Hub, NORMAL};
use flyball_core::time::{Clock, OsClock};
use flyball_limit::{Ask, Gate, Outcome, Permit};
use flyball_policy::limit::Verdict;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a task stays away that was taken although its class had no slot: the limit was lowered meanwhile; or whose limit went while it waited.
pub(crate) const AGAIN: Duration = Duration::from_millis(100);

/// The gates of classes and dependencies, by name.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Gates {
    /// A task of the class holds a slot from its start to its end.
    pub classes: BTreeMap<Box<str>, Gate>,
    /// A call of a URL holds a slot from its start to its end, after it has waited for one; named as breakers are.
    pub dependencies: BTreeMap<Box<str>, Gate>,
}

/// As many run as may.
#[derive(Debug)]
pub(crate) struct NoSlot;

impl Gates {
    /// A slot for a task of the class; `None` where it has no limit.
    ///
    /// # Errors
    /// As many run as may.
    pub(crate) fn enter(&self, class: &str) -> Result<Option<Permit>, NoSlot> {
        match self.classes.get(class) {
            // The line is the queue: who finds no slot neither waits at the gate nor is shed.
            Some(gate) => gate.try_slot(None).map(Some).ok_or(NoSlot),
            None => Ok(None),
        }
    }
}

/// How a run ended, as a limit understands it: only overload counts as failed. A fault of the program says nothing of load, and its latency nothing either.
pub(crate) fn outcome(verdict: Verdict, overload: bool) -> Outcome {
    match verdict {
        _ if overload => Outcome::Failed,
        Verdict::Success => Outcome::Succeeded,
        Verdict::Failure | Verdict::Unknown => Outcome::Ignored,
    }
}

/// A call behind its dependency's gate, as one of its task's class.
pub(crate) fn behind(
    gate: Gate,
    key: Box<str>,
    hub: Arc<Hub>,
    live: Arc<Live>,
    call: Body,
) -> Body {
    Box::pin(async move {
        let class = gate.class(&live.class).or_else(|_| gate.class(NORMAL)).ok();
        let ask = Ask {
            class,
            ..Ask::default()
        };
        let entered = tokio::select! {
            entered = gate.enter(ask) => entered,
            _ = live.wait_stopped() => return Ended::returned(None),
        };
        let Ok(permit) = entered else {
            // The gate's own hint is for callers of whom it knows nothing.
            let slots = gate.limit();
            let mut state = hub.state();
            if !state.gates.dependencies.contains_key(&key) {
                // It was taken away meanwhile.
                return Ended::returned(Some(AGAIN));
            }
            let line = state.lines.entry(key).or_default();
            let attempt = (live.id, live.attempts.started);
            let wait = line.turn_away(OsClock.now(), attempt, class, slots);
            return Ended::returned(Some(wait));
        };
        let began = OsClock.now();
        // Not before: the breaker takes a call that takes long for a slow one.
        let entered = hub.state().breakers.enter(began, &key);
        match entered {
            Ok(pass) => drop(live.pass.set(pass)),
            Err(refused) => return Ended::returned(Some(refused.wait)),
        }
        let ended = call.await;
        let late = !ended.is_done() && live.stopped() == Some(Stop::TimedOut);
        permit.end(outcome(ended.verdict, ended.overload || late));
        let took = OsClock.now().duration_since(began);
        let mut state = hub.state();
        if state.gates.dependencies.contains_key(&key) {
            state.lines.entry(key).or_default().left(took);
        }
        drop(state);
        ended
    })
}
