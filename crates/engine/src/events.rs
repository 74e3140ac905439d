//! What happened, as a stream that many may follow: a ring with running numbers, bounded in events and in bytes.
//!
//! A reader asks for what came after the number it has seen. One that was too slow is told how much it missed; nobody ever
//! waits for a reader. Invariant: numbers are dense, so what was missed can be counted. Tasks have a ring of their own beside that of all
//! others: however many of them come and go, a decision stays as long as it did.

use crate::view::{EventView, Time};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Most events kept: of tasks, and of all others together.
pub const MAX_EVENTS: usize = 1024;

/// Most bytes of data kept in each ring, as far as they can be told; the newest event is kept whatever its size. A change of the configuration may
/// be of a megabyte, old and new value.
pub const MAX_BYTES: usize = 4 << 20;

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A worker started, stopped, was stuck, replaced, …
    Worker,
    /// A decision was made.
    Decision,
    /// A throttle began to hold work back, holds back another part of it, or ceased to.
    Throttle,
    /// An adaptive limit changed, while somebody follows; or what a service should do without changed.
    Limit,
    /// The configuration changed.
    Config,
    /// A sample was taken; sent only while somebody follows.
    Sample,
    /// A durable task changed its state; sent only while somebody follows.
    Task,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [EventKind; 7] = [
        EventKind::Worker,
        EventKind::Decision,
        EventKind::Throttle,
        EventKind::Limit,
        EventKind::Config,
        EventKind::Sample,
        EventKind::Task,
    ];

    /// Its name in streams.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Worker => "worker",
            EventKind::Decision => "decision",
            EventKind::Throttle => "throttle",
            EventKind::Limit => "limit",
            EventKind::Config => "config",
            EventKind::Sample => "sample",
            EventKind::Task => "task",
        }
    }
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Events that were dropped before it came.
    pub missed: u64,
    /// What happened since, oldest first.
    pub events: Vec<EventView>,
}

/// The stream.
#[derive(Debug)]
pub struct Events {
    rings: Mutex<Rings>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Rings {
    /// The number of the newest event of both.
    last: u64,
    tasks: Ring,
    others: Ring,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<EventView>,
    /// Of the data of all.
    bytes: usize,
}

impl Ring {
    fn push(&mut self, event: EventView) {
        let bytes = bytes_of(&event.data);
        if self.events.len() == MAX_EVENTS {
            self.drop_oldest();
        }
        while !self.events.is_empty() && self.bytes + bytes > MAX_BYTES {
            self.drop_oldest();
        }
        self.bytes += bytes;
        self.events.push_back(event);
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.events.pop_front() {
            self.bytes -= bytes_of(&oldest.data);
        }
    }

    /// Those after a number, oldest first.
    fn after(&self, seen: u64) -> impl Iterator<Item = &EventView> {
        let from = self.events.partition_point(|event| event.id <= seen);
        self.events.range(from..)
    }
}

/// About how much memory a value takes.
fn bytes_of(data: &Value) -> usize {
    let inner = match data {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes_of).sum(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| size_of::<String>() + key.len() + bytes_of(value))
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inner
}

impl Default for Events {
    fn default() -> Self {
        Events {
            rings: Mutex::default(),
            last: watch::Sender::new(0),
        }
    }
}

impl Events {
    /// Adds one; the oldest of its ring go when there are [`MAX_EVENTS`] or they pass [`MAX_BYTES`].
    pub fn push(&self, kind: EventKind, timestamp: Time, data: Value) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.last += 1;
        let id = rings.last;
        let ring = match kind {
            EventKind::Task => &mut rings.tasks,
            _ => &mut rings.others,
        };
        ring.push(EventView {
            id,
            timestamp,
            kind: kind.name().to_owned(),
            data,
        });
        self.last.send_replace(id);
    }

    /// Whether anybody follows.
    pub fn is_followed(&self) -> bool {
        self.last.receiver_count() != 0
    }

    /// A receiver of the newest event's number, to wait on; while it lives, samples are sent too.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// The newest event's number, 0 before the first.
    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// What came after `seen`, at most `limit` events. A number from the future (of an earlier run) counts as the newest.
    pub fn since(&self, seen: u64, limit: usize) -> Batch {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tasks = rings.tasks.after(seen).peekable();
        let mut others = rings.others.after(seen).peekable();
        let next = || match (tasks.peek(), others.peek()) {
            (Some(task), Some(other)) if task.id > other.id => others.next(),
            (Some(_), _) => tasks.next(),
            (None, _) => others.next(),
        };
        let events: Vec<EventView> = std::iter::from_fn(next).take(limit).cloned().collect();
        let newest = events.last().map_or(seen, |event| event.id);
        Batch {
            missed: newest.saturating_sub(seen) - events.len() as u64,
            events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> Events {
        let events = Events::default();
        for number in 0..count {
            events.push(
                EventKind::Worker,
                Time::from_unix_nanos(number),
                number.into(),
            );
        }
        events
    }

    fn ids(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|event| event.id).collect()
    }

    /// API-1: the stream resumes after a number, is bounded, and tells a slow reader how much it missed.
    #[test]
    fn readers_resume_and_learn_what_they_missed() {
        let events = filled(MAX_EVENTS as u64 + 10);
        let all = events.since(0, usize::MAX);
        assert_eq!((all.missed, all.events.len()), (10, MAX_EVENTS));
        let last = events.last();
        let some = events.since(last - 3, 2);
        assert_eq!((some.missed, ids(&some)), (0, vec![last - 2, last - 1]));
        for seen in [last, last + 1, u64::MAX] {
            assert_eq!(
                events.since(seen, 10),
                Batch {
                    missed: 0,
                    events: vec![]
                }
            );
        }
        assert_eq!(Events::default().since(0, 10).events, vec![]);
    }

    /// API-1: large events do not add up to more memory than is allowed; numbers stay dense.
    #[test]
    fn large_events_are_bounded_in_bytes() {
        let events = Events::default();
        let text = "x".repeat(MAX_BYTES / 4);
        for _ in 0..100 {
            let data = serde_json::json!({ "old": text });
            events.push(EventKind::Config, Time::from_unix_nanos(0), data);
        }
        let kept = events.since(0, usize::MAX);
        assert_eq!((kept.missed, kept.events.len()), (97, 3));
        let huge = "x".repeat(2 * MAX_BYTES).into();
        events.push(EventKind::Config, Time::from_unix_nanos(0), huge);
        assert_eq!(ids(&events.since(0, usize::MAX)), [101]);
        events.push(EventKind::Config, Time::from_unix_nanos(0), 1.into());
        assert_eq!(ids(&events.since(0, usize::MAX)), [102]);
    }

    /// API-1: however many tasks come and go, a decision stays in the stream, in its place.
    #[test]
    fn tasks_do_not_push_decisions_out() {
        let events = filled(2);
        let push = |kind, number: u64| {
            events.push(kind, Time::from_unix_nanos(number), number.into());
        };
        for number in 0..3 * MAX_EVENTS as u64 {
            push(EventKind::Task, number);
        }
        push(EventKind::Decision, 0);
        let kept = events.since(0, usize::MAX);
        assert_eq!(
            (kept.missed, kept.events.len()),
            (2 * MAX_EVENTS as u64, MAX_EVENTS + 3)
        );
        assert!(kept.events.is_sorted_by_key(|event| event.id));
        let first = events.since(0, 2);
        assert_eq!((first.missed, ids(&first)), (0, vec![1, 2]));
        let rest = events.since(2, 1);
        assert_eq!((rest.missed, rest.events.len()), (2 * MAX_EVENTS as u64, 1));
        assert_eq!(
            kept.events.last().map(|event| &*event.kind),
            Some("decision")
        );
    }

    #[test]
    fn a_follower_is_woken() {
        let events = filled(1);
        assert!(!events.is_followed());
        let mut follower = events.follow();
        assert!(events.is_followed());
        events.push(EventKind::Config, Time::from_unix_nanos(5), ().into());
        assert!(follower.has_changed().is_ok_and(|changed| changed));
        assert_eq!(*follower.borrow_and_update(), 2);
    }
}
