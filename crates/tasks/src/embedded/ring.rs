//! The newest events, for whoever follows them.
//!
//! Bounded: who comes too late learns how many were missed. Events are kept as the queue told them; words are made when somebody asks.

use crate::queue::Changes;
use crate::task::Event;
use flyball_core::time::WallTime;
use flyball_policy::queue as policy;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Kinds and classes whose names are shared between events; beyond, each event has its own copy.
const SHARED_NAMES: usize = 64;

/// An event as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) at: WallTime,
    pub(super) kind: Arc<str>,
    pub(super) class: Arc<str>,
    pub(super) event: policy::Event,
}

/// The events.
#[derive(Debug)]
pub(super) struct Ring {
    kept: Mutex<VecDeque<Kept>>,
    most: usize,
    /// The number of the newest.
    newest: watch::Sender<u64>,
}

impl Ring {
    pub(super) fn new(most: usize) -> Ring {
        Ring {
            kept: Mutex::new(VecDeque::with_capacity(most.min(1024))),
            most: most.max(1),
            newest: watch::Sender::new(0),
        }
    }

    /// Adds events. Who waits is told by [`announce`](Self::announce).
    pub(super) fn push(&self, events: &mut Vec<Kept>) {
        if events.is_empty() {
            return;
        }
        let count = events.len() as u64;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that would be pushed out at once are not put in.
        let skip = events.len().saturating_sub(self.most);
        let room = self.most - (events.len() - skip);
        while kept.len() > room {
            kept.pop_front();
        }
        kept.extend(events.drain(..).skip(skip));
        // Under the lock, so that number and events fit together.
        self.newest.send_if_modified(|newest| {
            *newest += count;
            false
        });
    }

    /// Tells who waits that there are events. Apart from adding them, so that who was promised an answer is woken first.
    pub(super) fn announce(&self) {
        self.newest.send_modify(|_| ());
    }

    /// Events after a number.
    pub(super) fn changes(&self, after: u64, limit: usize) -> Changes {
        let (kept, first, missed) = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = *self.newest.borrow();
            let oldest = newest - kept.len() as u64 + 1;
            // A number that was not given yet, as of a process before: nothing is new.
            let from = after.min(newest).saturating_add(1).max(oldest);
            let skip = (from - oldest) as usize;
            let found: Vec<Kept> = kept.iter().skip(skip).take(limit).cloned().collect();
            let missed = from - after.min(newest) - 1;
            (found, from, missed)
        };
        Changes {
            missed,
            events: (first..)
                .zip(kept)
                .map(|(number, kept)| Event {
                    number,
                    at: kept.at,
                    id: kept.event.id,
                    kind: Box::from(&*kept.kind),
                    class: Box::from(&*kept.class),
                    from: kept.event.from,
                    to: kept.event.to,
                    attempt: kept.event.attempt,
                    reason: kept.event.cause.to_string().into(),
                })
                .collect(),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// Shares names between events.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: Vec<Arc<str>>,
}

impl Names {
    /// The name, shared if it is among the first that came.
    pub(super) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.iter().find(|known| &***known == name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.known.len() < SHARED_NAMES {
            self.known.push(name.clone());
        }
        name
    }
}
