//! What a call that came in holds.

use std::task::{Context, Poll};
use std::time::Duration;

use flyball_core::time::Timestamp;
use flyball_policy::limit::adaptive::{Outcome, Started};
use flyball_policy::limit::admission::Ticket;

use super::figures::add;
use super::follow::Follower;
use super::{Gate, Standing};

/// A call whose answer goes on for longer than this after it has begun is a stream: how long it lasts says nothing about load.
const STREAM: Duration = Duration::from_secs(1);

/// A call that is looked at closely.
#[derive(Debug)]
pub(super) struct Sample {
    started: Started,
    /// How many calls it stands for.
    weight: u64,
    answered: Option<Timestamp>,
    follower: Option<Follower>,
}

impl Sample {
    pub(super) fn new(started: Started, weight: u32) -> Self {
        Self {
            started,
            weight: u64::from(weight),
            answered: None,
            follower: None,
        }
    }
}

#[derive(Debug)]
enum Holds {
    Slot(Option<Box<Sample>>),
    /// Under [`Mode::Observe`](super::Mode::Observe): what would have waited, or been refused.
    Watches(Option<Ticket>),
    /// Under [`Mode::Observe`](super::Mode::Observe): what would wait elsewhere.
    Beside,
    Nothing,
}

/// A call that is in. It leaves when this is dropped or [ended](Self::end); dropped, its latency says nothing, while its thread panics it has failed.
#[derive(Debug)]
#[must_use = "dropped, the call has left"]
pub struct Permit {
    gate: Gate,
    holds: Holds,
    /// Its class.
    place: u8,
}

impl Permit {
    #[inline]
    pub(super) fn new(gate: Gate, place: u8, sample: Option<Box<Sample>>) -> Self {
        Self {
            gate,
            holds: Holds::Slot(sample),
            place,
        }
    }

    pub(super) fn watching(gate: Gate, place: u8, ticket: Option<Ticket>) -> Self {
        Self {
            gate,
            holds: Holds::Watches(ticket),
            place,
        }
    }

    pub(super) fn beside(gate: Gate, place: u8) -> Self {
        Self {
            gate,
            holds: Holds::Beside,
            place,
        }
    }

    /// The call has ended so.
    #[inline]
    pub fn end(mut self, outcome: Outcome) {
        self.leave(outcome);
    }

    /// The answer has begun and is being passed on. If that takes longer than a second it is a stream: it keeps its slot, and its latency does not count.
    pub fn answered(&mut self) {
        if let Holds::Slot(Some(sample)) = &mut self.holds {
            sample.answered = Some(self.gate.now());
        }
    }

    /// Polls the call's future, so that the gate knows how long it ran and how long it was ready and waited for its runtime. Costs next to nothing for
    /// calls that are not sampled. A limit by run delay needs it for calls that are futures.
    #[inline]
    pub fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Holds::Slot(Some(sample)) = &mut self.holds else {
            return poll(context);
        };
        let inner = &self.gate.inner;
        let follower = sample
            .follower
            .get_or_insert_with(|| Follower::new(&inner.clock, context.waker()));
        super::threads::this_one_serves();
        follower.poll(context, &inner.sums, sample.weight, poll)
    }

    /// What tells the gate of work that the call has other threads do.
    #[must_use]
    pub fn offload(&self) -> Offload {
        let Holds::Slot(Some(sample)) = &self.holds else {
            return Offload::default();
        };
        Offload {
            told: Some((self.gate.clone(), sample.weight)),
        }
    }

    /// Runs a future that is the call, to its end.
    ///
    /// The outcome is success; for others use [`poll`](Self::poll) and [`end`](Self::end).
    pub async fn run<F: Future>(mut self, call: F) -> F::Output {
        let mut call = std::pin::pin!(call);
        let output = std::future::poll_fn(|context| {
            self.poll(context, |context| call.as_mut().poll(context))
        })
        .await;
        self.end(Outcome::Succeeded);
        output
    }

    #[inline]
    fn leave(&mut self, outcome: Outcome) {
        match std::mem::replace(&mut self.holds, Holds::Nothing) {
            Holds::Slot(None) => {
                self.gate.inner.leave(self.place);
            }
            Holds::Slot(Some(sample)) => self.leave_sampled(&sample, outcome),
            Holds::Watches(ticket) => self.leave_watching(ticket),
            Holds::Beside => add(&self.gate.inner.counts[usize::from(self.place)].left),
            Holds::Nothing => {}
        }
    }

    #[cold]
    fn leave_sampled(&self, sample: &Sample, outcome: Outcome) {
        let inner = &self.gate.inner;
        let left = inner.leave(self.place);
        let stream = sample
            .answered
            .is_some_and(|answered| inner.clock.now().duration_since(answered) > STREAM);
        let outcome = if stream { Outcome::Ignored } else { outcome };
        inner.end_sample(sample.started, outcome, left);
    }

    #[cold]
    fn leave_watching(&self, ticket: Option<Ticket>) {
        let Some(ticket) = ticket else { return };
        if let Standing::Named(_) = self.gate.step_out(ticket) {
            self.gate.inner.leave(self.place);
        }
    }
}

/// Tells a gate of work that a call has other threads do, such as a pool's: how long it waited for one, and how long it ran.
///
/// A limit by run delay knows of calls' futures what they do while they are polled. A call that waits for a pool looks to it as one that waits for a
/// database: without this as many would come in as there are, and wait in the pool's queue instead of at the gate.
///
/// The default tells nobody, for work that comes without a gate.
#[derive(Clone, Debug, Default)]
pub struct Offload {
    /// With how many calls this one stands for.
    told: Option<(Gate, u64)>,
}

impl Offload {
    /// Wraps a closure that is handed over at once. That it waits is told as it does, how long it ran when it is done.
    pub fn wrap<T, F: FnOnce() -> T>(self, work: F) -> impl FnOnce() -> T + use<T, F> {
        let handed = self.told.map(|(gate, weight)| Handed::new(gate, weight));
        move || {
            let Some(handed) = handed else {
                return work();
            };
            super::threads::this_one_serves();
            let (gate, weight) = (handed.gate.clone(), handed.weight);
            drop(handed);
            let began = gate.now();
            let output = work();
            let took = gate.now().duration_since(began);
            gate.inner.sums.ran(took, weight);
            output
        }
    }
}

/// Work that waits until this is dropped, as it begins or never does.
#[derive(Debug)]
struct Handed {
    gate: Gate,
    weight: u64,
    since: Timestamp,
}

impl Handed {
    fn new(gate: Gate, weight: u64) -> Self {
        let since = gate.now();
        gate.inner.sums.hand(since, weight);
        Self {
            gate,
            weight,
            since,
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        let now = self.gate.now();
        self.gate.inner.sums.take(self.since, now, self.weight);
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.holds, Holds::Nothing) {
            self.leave(if std::thread::panicking() {
                Outcome::Failed
            } else {
                Outcome::Ignored
            });
        }
    }
}
