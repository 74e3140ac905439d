//! A bulkhead for calls: futures and threads wait in one line.
//!
//! Invariant: a waiter that is named by the policy has a place from then on. Whoever was named and does not take it (its future was dropped, its time was
//! over at the same moment) leaves, and so hands it on.
//!
//! While it observes everybody comes in at once, and who would have waited stays in the line until its call ends.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread::Thread;
use std::time::Duration;

use flyball_core::time::{Source, Timestamp};
use flyball_policy::limit as policy;
use flyball_policy::limit::{BulkheadConfig, BulkheadStats, Entry, WaiterId};

use crate::error::{Crowded, Error};
use crate::shell::{lock, park_until};

#[derive(Debug)]
enum Sleeper {
    /// Has not said yet how it is woken.
    Nobody,
    Task(Waker),
    Thread(Thread),
}

impl Sleeper {
    fn wake(self) {
        match self {
            Sleeper::Nobody => {}
            Sleeper::Task(waker) => waker.wake(),
            Sleeper::Thread(thread) => thread.unpark(),
        }
    }
}

#[derive(Debug)]
struct Waiting {
    admitted: bool,
    sleeper: Sleeper,
}

#[derive(Debug)]
struct State {
    policy: policy::Bulkhead,
    /// All who wait, or were named and have not noticed.
    waiting: BTreeMap<WaiterId, Waiting>,
}

impl State {
    fn name(&mut self, id: WaiterId) -> Sleeper {
        match self.waiting.get_mut(&id) {
            Some(waiting) => {
                waiting.admitted = true;
                std::mem::replace(&mut waiting.sleeper, Sleeper::Nobody)
            }
            None => Sleeper::Nobody,
        }
    }
}

#[derive(Debug)]
struct Inner {
    clock: Source,
    state: Mutex<State>,
}

impl Inner {
    /// Gives a place back, or on.
    fn leave(&self) {
        let mut state = lock(&self.state);
        let next = state.policy.leave(self.clock.now());
        let sleeper = next.map(|next| state.name(next));
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

/// A bound on calls at once. Cheap to clone; all clones share the places.
#[derive(Clone, Debug)]
pub struct Bulkhead {
    inner: Arc<Inner>,
}

impl Bulkhead {
    /// Makes an empty one.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn new(config: BulkheadConfig) -> Result<Self, Error> {
        Self::with_clock(config, Source::best())
    }

    /// As [`new`](Self::new), on a clock: for tests. (Futures that wait are woken by tokio's clock all the same.)
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn with_clock(config: BulkheadConfig, clock: Source) -> Result<Self, Error> {
        let state = Mutex::new(State {
            policy: policy::Bulkhead::new(config)?,
            waiting: BTreeMap::new(),
        });
        Ok(Self {
            inner: Arc::new(Inner { clock, state }),
        })
    }

    /// Waits for a place, in order of arrival.
    ///
    /// # Errors
    /// [`Crowded::Full`] at once if too many wait, [`Crowded::TimedOut`] after the time that calls may wait.
    pub async fn enter(&self) -> Result<Place, Crowded> {
        let (mut ticket, until) = match self.line_up()? {
            Ok(place) => return Ok(place),
            Err(waits) => waits,
        };
        let wait = until.duration_since(self.inner.clock.now());
        let named = poll_fn(|context| {
            // Declared before the lock is taken, so dropped after it: dropping a waker may drop the task, and all that it holds of this bulkhead.
            let mut sleeper = Sleeper::Task(context.waker().clone());
            let mut state = lock(&self.inner.state);
            let Some(waiting) = state.waiting.get_mut(&ticket.id) else {
                return Poll::Pending;
            };
            if waiting.admitted {
                return Poll::Ready(());
            }
            std::mem::swap(&mut waiting.sleeper, &mut sleeper);
            Poll::Pending
        });
        // Named in the last moment counts, so the answer is the ticket's, not the timer's.
        let _ = tokio::time::timeout(wait, named).await;
        ticket.settle()
    }

    /// As [`enter`](Self::enter), blocking this thread.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn enter_blocking(&self) -> Result<Place, Crowded> {
        let (mut ticket, until) = match self.line_up()? {
            Ok(place) => return Ok(place),
            Err(waits) => waits,
        };
        let _ = park_until(&self.inner.clock, until, || {
            let mut state = lock(&self.inner.state);
            let waiting = state.waiting.get_mut(&ticket.id)?;
            if !waiting.admitted && !matches!(waiting.sleeper, Sleeper::Thread(_)) {
                waiting.sleeper = Sleeper::Thread(std::thread::current());
            }
            waiting.admitted.then_some(())
        });
        ticket.settle()
    }

    /// Takes a place if one is free, without waiting.
    #[must_use]
    pub fn try_enter(&self) -> Option<Place> {
        let mut state = lock(&self.inner.state);
        let observes = state.policy.config().observe;
        match state.policy.enter(self.inner.clock.now()) {
            Entry::Admitted => Some(self.place(Seat::Held)),
            Entry::Wait(id, _) => {
                state.policy.withdraw(id);
                observes.then(|| self.place(Seat::None))
            }
            Entry::Full => observes.then(|| self.place(Seat::None)),
        }
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> BulkheadStats {
        lock(&self.inner.state).policy.stats()
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> BulkheadConfig {
        *lock(&self.inner.state).policy.config()
    }

    /// Changes the settings. Who is in stays in; more places are filled at once.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range; nothing has changed then.
    pub fn set_config(&self, config: BulkheadConfig) -> Result<(), Error> {
        let now = self.inner.clock.now();
        let mut state = lock(&self.inner.state);
        let mut named = Vec::new();
        state
            .policy
            .set_config(now, config, |waiter| named.push(waiter))?;
        let sleepers: Vec<Sleeper> = named.into_iter().map(|id| state.name(id)).collect();
        drop(state);
        sleepers.into_iter().for_each(Sleeper::wake);
        Ok(())
    }

    fn place(&self, seat: Seat) -> Place {
        Place {
            inner: Arc::clone(&self.inner),
            seat,
        }
    }

    /// A place, or a ticket and until when it is good.
    fn line_up(&self) -> Result<Result<Place, (InLine<'_>, Timestamp)>, Crowded> {
        let mut state = lock(&self.inner.state);
        let observes = state.policy.config().observe;
        match state.policy.enter(self.inner.clock.now()) {
            Entry::Admitted => Ok(Ok(self.place(Seat::Held))),
            Entry::Wait(id, until) => {
                let waiting = Waiting {
                    admitted: false,
                    sleeper: Sleeper::Nobody,
                };
                state.waiting.insert(id, waiting);
                if observes {
                    return Ok(Ok(self.place(Seat::InLine(id))));
                }
                let max_wait = state.policy.config().max_wait;
                let bulkhead = self;
                let ticket = InLine {
                    bulkhead,
                    id,
                    max_wait,
                    settled: false,
                };
                Ok(Err((ticket, until)))
            }
            Entry::Full if observes => Ok(Ok(self.place(Seat::None))),
            Entry::Full => Err(Crowded::Full {
                concurrency: state.policy.config().concurrency,
                waiting: state.policy.stats().waiting,
            }),
        }
    }
}

/// Somebody who waits. Dropped, it waits no longer, and if it was named its place goes on to the next.
struct InLine<'a> {
    bulkhead: &'a Bulkhead,
    id: WaiterId,
    max_wait: Duration,
    settled: bool,
}

impl InLine<'_> {
    fn settle(&mut self) -> Result<Place, Crowded> {
        self.step_out().ok_or(Crowded::TimedOut(self.max_wait))
    }

    /// Leaves the line, with a place if it was named.
    fn step_out(&mut self) -> Option<Place> {
        if std::mem::replace(&mut self.settled, true) {
            return None;
        }
        let mut state = lock(&self.bulkhead.inner.state);
        let admitted = state
            .waiting
            .remove(&self.id)
            .is_some_and(|waiting| waiting.admitted);
        if !admitted {
            state.policy.withdraw(self.id);
        }
        admitted.then(|| self.bulkhead.place(Seat::Held))
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        // A place that nobody takes goes on to the next as it is dropped.
        drop(self.step_out());
    }
}

/// What a call that came in has of the bulkhead.
#[derive(Clone, Copy, Debug)]
enum Seat {
    /// A place.
    Held,
    /// It came in as it only observes, and has a place if it is named meanwhile.
    InLine(WaiterId),
    /// It came in as it only observes, and would have been refused.
    None,
}

/// A place in a [`Bulkhead`]; dropping it leaves.
#[derive(Debug)]
#[must_use = "dropped, the place is free again"]
pub struct Place {
    inner: Arc<Inner>,
    seat: Seat,
}

impl Drop for Place {
    fn drop(&mut self) {
        let has_place = match self.seat {
            Seat::Held => true,
            Seat::InLine(id) => {
                let mut state = lock(&self.inner.state);
                let waiting = state.waiting.remove(&id);
                let was_named = waiting.is_some_and(|waiting| waiting.admitted);
                if !was_named {
                    state.policy.withdraw(id);
                }
                was_named
            }
            Seat::None => false,
        };
        if has_place {
            self.inner.leave();
        }
    }
}
