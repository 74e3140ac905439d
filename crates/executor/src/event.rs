//! What happened to workers and settings, with time and reason: a bounded list, oldest dropped first.

use flyball_core::time::Timestamp;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Most events kept.
pub const MAX_EVENTS: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Running number, from 0; a gap says that older events were dropped.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// The worker concerned, if one is.
    pub worker: Option<u16>,
    /// What.
    pub what: What,
    /// Why, in words.
    pub reason: String,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum What {
    /// A worker thread started.
    Started,
    /// A worker thread ended.
    Stopped,
    /// The wanted number of workers changed.
    Scaled,
    /// A worker was told to finish what it runs and stop.
    Draining,
    /// A worker was told to stop and was started again.
    Restarted,
    /// A worker has run one task for longer than `stuck_after`.
    Stuck,
    /// A stuck worker came back.
    Recovered,
    /// A setting changed while running.
    Changed,
    /// Queued work was moved between workers.
    Rebalanced,
    /// The machine lacks something that was asked for; the executor runs without it.
    Unavailable,
    /// Code that nobody waits for panicked outside a task: a hook, a detached job of rayon's.
    Panicked,
    /// A stuck worker's place was taken by another.
    Replaced,
    /// A stuck worker keeps its place: too many threads are left in their tasks already, or no number is free.
    NotReplaced,
    /// A worker that is at work has shown no sign of life for a second; told once until it shows one.
    MissedHeartbeat,
    /// A class is not run until it is resumed.
    Paused,
    /// A paused class is run again.
    Resumed,
    /// A class was taken away.
    Removed,
    /// Shutdown began or ended.
    Shutdown,
}

#[derive(Default)]
struct List {
    next: u64,
    events: VecDeque<Event>,
}

#[derive(Default)]
pub(crate) struct Events(Mutex<List>);

impl Events {
    pub(crate) fn push(
        &self,
        at: Timestamp,
        worker: Option<usize>,
        what: What,
        reason: impl Into<String>,
    ) {
        let mut list = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if list.events.len() == MAX_EVENTS {
            list.events.pop_front();
        }
        let number = list.next;
        list.next += 1;
        list.events.push_back(Event {
            number,
            at,
            worker: worker.map(|worker| worker as u16),
            what,
            reason: reason.into(),
        });
    }

    /// The events after the one of this number, or all, oldest first.
    pub(crate) fn after(&self, number: Option<u64>) -> Vec<Event> {
        let list = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let first = list.next - list.events.len() as u64;
        let wanted = number.map_or(0, |number| number.saturating_add(1));
        // Numbers are dense, so what is skipped need not be looked at.
        let skip = wanted.saturating_sub(first).min(list.events.len() as u64) as usize;
        list.events.range(skip..).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPU-18: events are bounded, and who has seen some is given the others only.
    #[test]
    fn only_what_is_new_is_given() {
        let events = Events::default();
        assert!(events.after(None).is_empty() && events.after(Some(7)).is_empty());
        let count = MAX_EVENTS as u64 + 10;
        for number in 0..count {
            events.push(Timestamp::ZERO, None, What::Scaled, number.to_string());
        }
        let numbers = |after| -> Vec<u64> {
            let events = events.after(after);
            events.iter().map(|event| event.number).collect()
        };
        assert_eq!(numbers(None), (10..count).collect::<Vec<_>>());
        assert_eq!(numbers(Some(3)), numbers(None), "the oldest are gone");
        assert_eq!(numbers(Some(count - 3)), [count - 2, count - 1]);
        for seen in [count - 1, count, u64::MAX] {
            assert!(numbers(Some(seen)).is_empty());
        }
    }
}
