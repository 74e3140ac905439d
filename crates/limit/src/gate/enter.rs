//! Coming in, as a future or blocking a thread.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use flyball_policy::limit::admission::{Shed, Ticket};

use super::{Ask, Asked, Gate, NO_ANSWER, Permit, Sleeper, Standing};
use crate::shell::park_until;

/// Somebody who waits. Dropped, it waits no longer, and if it was named its slot goes on to the next.
#[derive(Debug)]
struct InLine {
    gate: Gate,
    place: u8,
    /// Taken when it has stepped out.
    ticket: Option<Ticket>,
}

impl InLine {
    /// What came of waiting, which ended with this.
    fn settle(&mut self, standing: Standing) -> Result<Permit, Shed> {
        if let Standing::Watches = standing {
            let (gate, ticket) = (self.gate.clone(), self.ticket.take());
            return Ok(Permit::watching(gate, self.place, ticket));
        }
        match self.ticket.take().map(|ticket| self.gate.step_out(ticket)) {
            Some(Standing::Named(number)) => Ok(self.gate.permit(self.place, number)),
            Some(Standing::Refused(shed)) => Err(shed),
            Some(Standing::Waits | Standing::Watches) | None => Err(NO_ANSWER),
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take()
            && let Standing::Named(_) = self.gate.step_out(ticket)
        {
            self.gate.inner.leave(self.place);
        }
    }
}

#[derive(Debug)]
enum State {
    Asks(Gate, Ask),
    Waits(InLine, Pin<Box<tokio::time::Sleep>>),
    Done,
}

/// The future of [`Gate::enter`]: the permit, or why not.
#[derive(Debug)]
#[must_use = "does nothing unless awaited"]
pub struct Enter {
    state: State,
}

impl Enter {
    pub(super) fn new(gate: Gate, ask: Ask) -> Self {
        Self {
            state: State::Asks(gate, ask),
        }
    }
}

impl Future for Enter {
    type Output = Result<Permit, Shed>;

    /// # Panics
    /// When it is polled after it has answered.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let state = &mut self.state;
        if let State::Asks(..) = state
            && let State::Asks(gate, ask) = std::mem::replace(state, State::Done)
        {
            let place = gate.place(&ask);
            if let Some(number) = gate.enter_free(place, &ask) {
                return Poll::Ready(Ok(gate.into_permit(place, number)));
            }
            let (ticket, until) = match gate.ask(&ask) {
                Ok(Asked::In(permit)) => return Poll::Ready(Ok(permit)),
                Err(shed) => return Poll::Ready(Err(shed)),
                Ok(Asked::Wait(ticket, until)) => (ticket, until),
            };
            let wait = until.duration_since(gate.now());
            let line = InLine {
                gate,
                place,
                ticket: Some(ticket),
            };
            *state = State::Waits(line, Box::pin(tokio::time::sleep(wait)));
        }
        let State::Waits(line, sleep) = state else {
            panic!("polled after it has answered");
        };
        let Some(ticket) = line.ticket else {
            panic!("polled after it has answered");
        };
        let sleeper = Sleeper::Task(context.waker().clone());
        let standing = line.gate.standing(ticket, sleeper);
        // Named in the last moment counts, so the answer is the line's, not the timer's.
        if matches!(standing, Standing::Waits) && sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let answer = line.settle(standing);
        *state = State::Done;
        Poll::Ready(answer)
    }
}

/// As the future, blocking this thread.
pub(super) fn blocking(gate: &Gate, ask: &Ask) -> Result<Permit, Shed> {
    let place = gate.place(ask);
    if let Some(number) = gate.enter_free(place, ask) {
        return Ok(gate.permit(place, number));
    }
    let (ticket, until) = match gate.ask(ask)? {
        Asked::In(permit) => return Ok(permit),
        Asked::Wait(ticket, until) => (ticket, until),
    };
    let mut line = InLine {
        gate: gate.clone(),
        place,
        ticket: Some(ticket),
    };
    let standing = park_until(&gate.inner.clock, until, || {
        let standing = gate.standing(ticket, Sleeper::Thread(std::thread::current()));
        (!matches!(standing, Standing::Waits)).then_some(standing)
    });
    line.settle(standing.unwrap_or(Standing::Waits))
}
