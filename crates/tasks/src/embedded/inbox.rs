//! A bounded queue between futures that ask and a thread that does.
//!
//! Senders wait, without a thread, until there is room; the receiver takes everything there is at once, which is what makes group commits.
//! Room is counted in units of [`UNIT_BYTES`], so that few large requests count as many small ones.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Bytes of a unit of room.
const UNIT_BYTES: usize = 1024;

/// Why nothing can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Closed;

/// The queue.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    room: Semaphore,
    units: u32,
}

#[derive(Debug)]
struct State<T> {
    messages: VecDeque<(T, u32)>,
    /// Whether the receiver sleeps, so that senders need not wake it in vain.
    sleeps: bool,
    /// Whether the receiver shall look around though there is no message.
    woken: bool,
    closed: bool,
}

/// Why the receiver goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Woken {
    /// There are messages, or it was time.
    Work,
    /// There are none, and none will come.
    Closed,
}

impl<T> Inbox<T> {
    /// Makes a queue with room for that many units.
    pub(super) fn new(units: u32) -> Inbox<T> {
        Inbox {
            state: Mutex::new(State {
                messages: VecDeque::new(),
                sleeps: false,
                woken: false,
                closed: false,
            }),
            filled: Condvar::new(),
            room: Semaphore::new(units as usize),
            units,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cost(&self, bytes: usize) -> u32 {
        // One larger than all there is waits for all of it.
        u32::try_from(1 + bytes / UNIT_BYTES)
            .unwrap_or(u32::MAX)
            .min(self.units)
    }

    /// Sends when there is room.
    pub(super) async fn send(&self, message: T, bytes: usize) -> Result<(), Closed> {
        let cost = self.cost(bytes);
        let permit = self.room.acquire_many(cost).await.map_err(|_| Closed)?;
        let mut state = self.state();
        if state.closed {
            return Err(Closed);
        }
        permit.forget();
        state.messages.push_back((message, cost));
        self.wake_receiver(state);
        Ok(())
    }

    /// Has the receiver look around.
    pub(super) fn wake(&self) {
        let mut state = self.state();
        state.woken = true;
        self.wake_receiver(state);
    }

    /// Lets nobody send any more; what was sent is still received.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.room.close();
        drop(state);
        self.filled.notify_all();
    }

    fn wake_receiver(&self, mut state: MutexGuard<'_, State<T>>) {
        if std::mem::take(&mut state.sleeps) {
            drop(state);
            self.filled.notify_all();
        }
    }

    /// Waits for messages, at most so long (none: as long as it takes), and moves at most `most` of them into `into`.
    pub(super) fn receive(&self, into: &mut Vec<T>, most: usize, wait: Option<Duration>) -> Woken {
        let mut state = self.state();
        if state.messages.is_empty()
            && !state.closed
            && !state.woken
            && wait != Some(Duration::ZERO)
        {
            state.sleeps = true;
            let asleep = |state: &mut State<T>| {
                let idle = state.messages.is_empty() && !state.closed && !state.woken;
                // Another receiver may have been woken for it.
                state.sleeps |= idle;
                idle
            };
            state = match wait {
                None => self
                    .filled
                    .wait_while(state, asleep)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    self.filled
                        .wait_timeout_while(state, wait, asleep)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        state.woken = false;
        let count = most.min(state.messages.len());
        if count == 0 {
            return if state.closed {
                Woken::Closed
            } else {
                Woken::Work
            };
        }
        let mut units = 0;
        into.extend(state.messages.drain(..count).map(|(message, cost)| {
            units += cost as usize;
            message
        }));
        drop(state);
        self.room.add_permits(units);
        Woken::Work
    }
}
