//! Who may start, and in which order.
//!
//! Tasks that may start stand in *lines*: those of one class, kind, way of running, requirement, priority and fairness key, first come
//! first served. Lines that differ only in priority and key are a *lane*: whoever asks for tasks takes all of a lane or nothing, and what
//! does not fit or is paused is passed over as a whole, however many tasks stand there. In a lane the highest priority goes first, then the
//! key whose turn it is, then who came first. The lines of a key in a lane are a *seat*: a key that may not have more tasks running leaves its
//! lanes with its seats until one has ended.
//!
//! Turns: a key is given the next number of its class when it gets tasks to start and each time one of them starts; the lowest
//! number goes first. So a key waits for at most one task of each other key (J. Nagle, RFC 970, 1985, with tasks for packets). Numbers in
//! lanes may be old: they only grow, so who comes up with an old one is put back where it belongs.
//!
//! Classes share by weight: each has a virtual time that grows by the time its tasks run over its shares, and the one that is behind goes
//! first (C. A. Waldspurger and W. E. Weihl, "Stride Scheduling", 1995). A start is charged the mean run time of the class, and put right at its
//! end, up to [`CHARGE_MAX`]. A class that had nothing to start does not save its time up, and one that could not start any saves at most
//! [`CHARGE_MAX`] of it. Equal classes go by priority.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::Timestamp;

use super::command::{ClassRule, Room};
use super::entry::{Entry, LINED, NONE};
use super::names::Shared;
use super::slab::Slab;
use super::task::{Needs, State, Via};
use crate::limit::RetryBudget;

/// The most that one attempt is charged to its class: one long task shall not shut its class out for as long again.
const CHARGE_MAX: Duration = Duration::from_secs(60);
/// What a start is charged before the class has a mean.
const FIRST_MEAN: Duration = Duration::from_millis(100);
/// Fractions of virtual time, so that a nanosecond over a million shares is not nothing.
const PASS_UNIT: u128 = 1 << 20;
/// Where orders begin: who comes back to the front gets one below.
const ORDER_START: u64 = 1 << 63;

/// Where a line stands in its lane: priority (negated), turn, order, line.
pub(super) type Rank = (i64, u64, u64, u32);

#[derive(Debug)]
pub(super) struct Class {
    pub(super) rule: ClassRule,
    /// Whether the rule is its own, or that of `normal`.
    pub(super) own_rule: bool,
    pub(super) paused: bool,
    /// Tasks by state.
    pub(super) counts: [u64; 10],
    pub(super) pass: u128,
    /// Tasks in lines.
    pub(super) ready: u64,
    /// Lanes with somebody who may start.
    pub(super) lanes: BTreeSet<u32>,
    turns: u64,
    /// Mean run time, nanoseconds.
    mean: u64,
}

impl Class {
    pub(super) fn running(&self) -> u64 {
        self.counts[State::Running as usize] + self.counts[State::Paused as usize]
    }

    pub(super) fn waiting(&self) -> u64 {
        self.counts[State::Scheduled as usize]
            + self.counts[State::Blocked as usize]
            + self.counts[State::Pending as usize]
    }
}

#[derive(Debug, Default)]
pub(super) struct Kind {
    pub(super) paused: bool,
    pub(super) counts: [u64; 10],
    pub(super) budget: Option<Box<RetryBudget>>,
}

#[derive(Debug)]
pub(super) struct Key {
    /// In [`Lines::key_names`]; [`NONE`] for tasks without a key, which no limit holds.
    name: u32,
    class: u32,
    pub(super) running: u32,
    turn: u64,
    /// Tasks in lines.
    ready: u64,
    /// Seats that left their lanes as too many run.
    parked: Vec<u32>,
}

/// What a key has in a lane: its lines there, which differ in priority. Only the best of them stands in the lane, so that a key comes and goes
/// as a whole, however many priorities its tasks have.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Lines with somebody in them: priority (negated), order of the first, line.
    lines: BTreeSet<(i64, u64, u32)>,
    /// Its place in the lane, while it has one.
    rank: Option<Rank>,
    parked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneKey {
    pub(super) class: u32,
    pub(super) kind: u32,
    pub(super) needs: u32,
    pub(super) via: Via,
    pub(super) again: bool,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) ranks: BTreeSet<Rank>,
    /// Since when others are given room that would have been its.
    pub(super) short_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LineKey {
    pub(super) lane: u32,
    pub(super) key: u32,
    pub(super) priority: i32,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) head: u32,
    tail: u32,
    pub(super) len: u32,
    seat: u32,
    /// The order of its first task, while it has one.
    first: Option<u64>,
}

/// All that decides about the next start.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) classes: Shared<Box<str>, Class>,
    pub(super) kinds: Shared<Box<str>, Kind>,
    pub(super) key_names: Shared<Box<str>, ()>,
    pub(super) keys: Shared<(u32, u32), Key>,
    pub(super) needs: Shared<Needs, ()>,
    pub(super) lanes: Shared<LaneKey, Lane>,
    /// By lane and key.
    pub(super) seats: Shared<(u32, u32), Seat>,
    pub(super) lines: Shared<LineKey, Line>,
    /// The rule of classes that have none.
    pub(super) normal: ClassRule,
    /// Virtual time of the class that started last.
    pass: u128,
    back: u64,
    front: u64,
}

/// The requirement of tasks that require nothing.
pub(super) const NO_NEEDS: u32 = 0;

impl Lines {
    pub(super) fn new() -> Self {
        let mut needs = Shared::new();
        // Held for ever, so that it is number 0.
        let none = needs.hold(&Needs::default(), || (Needs::default(), ()));
        debug_assert_eq!(none, NO_NEEDS);
        Self {
            classes: Shared::new(),
            kinds: Shared::new(),
            key_names: Shared::new(),
            keys: Shared::new(),
            needs,
            lanes: Shared::new(),
            seats: Shared::new(),
            lines: Shared::new(),
            normal: ClassRule {
                name: "normal".into(),
                priority: 4,
                shares: 100,
                concurrency: None,
                key_concurrency: None,
                key_observe: false,
                queue_limit: usize::MAX,
            },
            pass: 0,
            back: ORDER_START,
            front: ORDER_START,
        }
    }

    /// Counts one more who refers to a class, which is made if it is new.
    pub(super) fn hold_class(&mut self, name: &str, paused: bool) -> u32 {
        let (normal, pass) = (&self.normal, self.pass);
        self.classes.hold(name, || {
            let rule = ClassRule {
                name: name.into(),
                ..normal.clone()
            };
            (
                name.into(),
                Class {
                    rule,
                    own_rule: false,
                    paused,
                    counts: [0; 10],
                    pass,
                    ready: 0,
                    lanes: BTreeSet::new(),
                    turns: 0,
                    mean: nanos(FIRST_MEAN),
                },
            )
        })
    }

    /// Finds or makes a line. Who gets it holds it until [`drop_line`](Self::drop_line).
    pub(super) fn hold_line(
        &mut self,
        pauses: &BTreeMap<super::command::Scope, super::effects::Pause>,
        head: &super::task::Head,
        again: bool,
    ) -> u32 {
        let paused = |scope| !pauses.is_empty() && pauses.contains_key(&scope);
        let class = match self.classes.find(&*head.class) {
            Some(class) => {
                self.classes.again(class);
                class
            }
            None => {
                let paused = paused(super::command::Scope::Class(head.class.clone()));
                self.hold_class(&head.class, paused)
            }
        };
        let kind = self.kinds.hold(&*head.kind, || {
            let kind = Kind {
                paused: paused(super::command::Scope::Kind(head.kind.clone())),
                ..Kind::default()
            };
            (head.kind.clone(), kind)
        });
        let needs = if head.needs.is_none() {
            self.needs.again(NO_NEEDS);
            NO_NEEDS
        } else {
            self.needs.hold(&head.needs, || (head.needs.clone(), ()))
        };
        let name = head.key.as_ref().map_or(NONE, |key| {
            self.key_names.hold(&**key, || (key.clone(), ()))
        });
        let lane = LaneKey {
            class,
            kind,
            needs,
            via: head.via,
            again,
        };
        self.line_of(lane, name, head.priority)
    }

    /// The line beside another one, for tasks whose next attempt is a retry or is none; holds it, and lets the other go.
    pub(super) fn rehold(&mut self, line: u32, again: bool) -> u32 {
        let key = *self.lines.key(line);
        let lane = *self.lanes.key(key.lane);
        if lane.again == again {
            return line;
        }
        self.classes.again(lane.class);
        self.kinds.again(lane.kind);
        self.needs.again(lane.needs);
        let name = self.keys[key.key].name;
        if name != NONE {
            self.key_names.again(name);
        }
        let other = self.line_of(LaneKey { again, ..lane }, name, key.priority);
        self.drop_line(line);
        other
    }

    /// Takes over one reference to each part; those of a lane or key that exists already are given back.
    fn line_of(&mut self, lane_key: LaneKey, name: u32, priority: i32) -> u32 {
        let mut new = false;
        let key = self.keys.hold(&(lane_key.class, name), || {
            new = true;
            (
                (lane_key.class, name),
                Key {
                    name,
                    class: lane_key.class,
                    running: 0,
                    turn: 0,
                    ready: 0,
                    parked: Vec::new(),
                },
            )
        });
        if new {
            // A key holds its class and name.
            self.classes.again(lane_key.class);
        } else if name != NONE {
            self.key_names.drop(name);
        }
        let mut new = false;
        let lane = self.lanes.hold(&lane_key, || {
            new = true;
            (lane_key, Lane::default())
        });
        if !new {
            self.classes.drop(lane_key.class);
            self.kinds.drop(lane_key.kind);
            self.needs.drop(lane_key.needs);
        }
        let line_key = LineKey {
            lane,
            key,
            priority,
        };
        if let Some(line) = self.lines.find(&line_key) {
            self.lines.again(line);
            self.lanes.drop(lane);
            self.keys.drop(key);
            return line;
        }
        // A line holds its lane, key and seat; a seat goes before the two by which it is found.
        let seat = self
            .seats
            .hold(&(lane, key), || ((lane, key), Seat::default()));
        let line = Line {
            head: NONE,
            tail: NONE,
            len: 0,
            seat,
            first: None,
        };
        self.lines.hold(&line_key, || (line_key, line))
    }

    /// Another task of a line.
    pub(super) fn again(&mut self, line: u32) {
        self.lines.again(line);
    }

    pub(super) fn drop_line(&mut self, line: u32) {
        let key = *self.lines.key(line);
        if let Some(gone) = self.lines.drop(line) {
            debug_assert_eq!(gone.len, 0, "nobody stands in a line that goes");
            if let Some(seat) = self.seats.drop(gone.seat)
                && seat.parked
            {
                self.keys[key.key]
                    .parked
                    .retain(|parked| *parked != gone.seat);
            }
            let lane = *self.lanes.key(key.lane);
            if self.lanes.drop(key.lane).is_some() {
                self.kinds.drop(lane.kind);
                self.needs.drop(lane.needs);
                self.classes.drop(lane.class);
            }
            if let Some(key) = self.keys.drop(key.key) {
                if key.name != NONE {
                    self.key_names.drop(key.name);
                }
                self.classes.drop(key.class);
            }
        }
    }

    /// Whether there is a lane for tasks like this one.
    pub(super) fn has_lane(&self, head: &super::task::Head) -> bool {
        let find = || {
            let key = LaneKey {
                class: self.classes.find(&*head.class)?,
                kind: self.kinds.find(&*head.kind)?,
                needs: self.needs.find(&head.needs)?,
                via: head.via,
                again: false,
            };
            self.lanes.find(&key)
        };
        find().is_some()
    }

    pub(super) fn lane_of(&self, line: u32) -> &LaneKey {
        self.lanes.key(self.lines.key(line).lane)
    }

    pub(super) fn class_of(&self, line: u32) -> u32 {
        self.lane_of(line).class
    }

    pub(super) fn key_of(&self, line: u32) -> &Key {
        &self.keys[self.lines.key(line).key]
    }

    /// The fairness key of a line.
    pub(super) fn key_name(&self, line: u32) -> Option<&str> {
        match self.key_of(line).name {
            NONE => None,
            name => Some(self.key_names.key(name)),
        }
    }

    /// Puts a task at the end of its line, or at the front of it.
    pub(super) fn push(&mut self, tasks: &mut Slab<Entry>, slot: u32, front: bool) {
        let number = tasks[slot].line;
        let line = &mut self.lines[number];
        let order;
        if front {
            self.front -= 1;
            order = self.front;
            let next = line.head;
            line.head = slot;
            if next == NONE {
                line.tail = slot;
            } else {
                tasks[next].prev = slot;
            }
            let entry = &mut tasks[slot];
            (entry.prev, entry.next) = (NONE, next);
        } else {
            order = self.back;
            self.back += 1;
            let prev = line.tail;
            line.tail = slot;
            if prev == NONE {
                line.head = slot;
            } else {
                tasks[prev].next = slot;
            }
            let entry = &mut tasks[slot];
            (entry.prev, entry.next) = (prev, NONE);
        }
        line.len += 1;
        let first = line.head == slot;
        let entry = &mut tasks[slot];
        entry.moment = order;
        entry.set(LINED, true);
        let LineKey { lane, key, .. } = *self.lines.key(number);
        let class = self.lanes.key(lane).class;
        let class = &mut self.classes[class];
        if class.ready == 0 {
            class.pass = class.pass.max(self.pass);
        }
        class.ready += 1;
        let key = &mut self.keys[key];
        if key.ready == 0 {
            class.turns += 1;
            key.turn = key.turn.max(class.turns);
        }
        key.ready += 1;
        if first {
            self.stand(tasks, number);
        }
    }

    /// Takes a task out of its line.
    pub(super) fn remove(&mut self, tasks: &mut Slab<Entry>, slot: u32) {
        let entry = &mut tasks[slot];
        let (number, prev, next) = (entry.line, entry.prev, entry.next);
        debug_assert!(entry.has(LINED));
        entry.set(LINED, false);
        (entry.prev, entry.next, entry.moment) = (NONE, NONE, 0);
        let line = &mut self.lines[number];
        if prev == NONE {
            line.head = next;
        } else {
            tasks[prev].next = next;
        }
        if next == NONE {
            line.tail = prev;
        } else {
            tasks[next].prev = prev;
        }
        line.len -= 1;
        let LineKey { lane, key, .. } = *self.lines.key(number);
        let class = self.lanes.key(lane).class;
        self.classes[class].ready -= 1;
        self.keys[key].ready -= 1;
        if prev == NONE {
            self.stand(tasks, number);
        }
    }

    /// Puts a line where it belongs in its seat, after its first task has changed, and the seat in its lane.
    fn stand(&mut self, tasks: &Slab<Entry>, number: u32) {
        let priority = -i64::from(self.lines.key(number).priority);
        let line = &mut self.lines[number];
        let first = (line.head != NONE).then(|| tasks[line.head].moment);
        if line.first == first {
            return;
        }
        let before = core::mem::replace(&mut line.first, first);
        let seat = line.seat;
        let lines = &mut self.seats[seat].lines;
        if let Some(before) = before {
            lines.remove(&(priority, before, number));
        }
        if let Some(first) = first {
            lines.insert((priority, first, number));
        }
        self.sit(seat);
    }

    /// Puts a seat where it belongs in its lane, after its best line or its turn has changed.
    fn sit(&mut self, number: u32) {
        let (lane_number, key) = *self.seats.key(number);
        let turn = self.keys[key].turn;
        let seat = &mut self.seats[number];
        let best = seat.lines.first().filter(|_| !seat.parked);
        let rank = best.map(|&(priority, order, line)| (priority, turn, order, line));
        if seat.rank == rank {
            return;
        }
        let before = core::mem::replace(&mut seat.rank, rank);
        let lane = &mut self.lanes[lane_number];
        if let Some(before) = before {
            lane.ranks.remove(&before);
        }
        if let Some(rank) = rank {
            lane.ranks.insert(rank);
        }
        let empty = lane.ranks.is_empty();
        if empty {
            lane.short_since = None;
        }
        if empty || before.is_none() {
            let class = self.lanes.key(lane_number).class;
            let lanes = &mut self.classes[class].lanes;
            if empty {
                lanes.remove(&lane_number);
            } else {
                lanes.insert(lane_number);
            }
        }
    }

    /// The best rank of a lane whose key may start one; seats whose key may not are taken out.
    pub(super) fn peek(&mut self, lane: u32) -> Option<Rank> {
        loop {
            let rank = *self.lanes[lane].ranks.first()?;
            let seat = self.lines[rank.3].seat;
            let key = self.lines.key(rank.3).key;
            if self.key_full(key) {
                self.seats[seat].parked = true;
                self.keys[key].parked.push(seat);
            } else if self.keys[key].turn == rank.1 {
                return Some(rank);
            }
            self.sit(seat);
        }
    }

    /// Whether tasks of a key may not start as too many run.
    fn key_full(&self, key: u32) -> bool {
        let class = self.keys[key].class;
        self.key_is_at_limit(key) && !self.classes[class].rule.key_observe
    }

    /// Whether as many tasks of a key run as may, though the limit may only observe.
    pub(super) fn key_is_at_limit(&self, key: u32) -> bool {
        let key = &self.keys[key];
        key.name != NONE
            && self.classes[key.class]
                .rule
                .key_concurrency
                .is_some_and(|limit| key.running >= limit)
    }

    /// Brings seats back whose key may start tasks again.
    pub(super) fn unpark(&mut self, key: u32) -> bool {
        if self.keys[key].parked.is_empty() || self.key_full(key) {
            return false;
        }
        for seat in core::mem::take(&mut self.keys[key].parked) {
            self.seats[seat].parked = false;
            self.sit(seat);
        }
        true
    }

    /// Has a class save no more than [`CHARGE_MAX`] of its time: one that was paused, at its limit, or taken by nobody for an hour shall not
    /// shut the others out for as long.
    pub(super) fn catch_up(&mut self, class: u32) {
        let class = &mut self.classes[class];
        let saved = cost(nanos(CHARGE_MAX), class.rule.shares);
        class.pass = class.pass.max(self.pass.saturating_sub(saved));
    }

    /// Counts a start: of its key, and for the turn of the key and the class. Answers what the class was charged.
    pub(super) fn started(&mut self, line: u32) -> u128 {
        let LineKey { lane, key, .. } = *self.lines.key(line);
        let number = self.lanes.key(lane).class;
        self.lanes[lane].short_since = None;
        let class = &mut self.classes[number];
        class.turns += 1;
        let key = &mut self.keys[key];
        key.running += 1;
        key.turn = class.turns;
        let charge = cost(class.mean.max(1), class.rule.shares);
        self.pass = self.pass.max(class.pass);
        class.pass += charge;
        charge
    }

    /// Counts a lease that a clean restart found.
    pub(super) fn resumed(&mut self, line: u32) {
        let key = self.lines.key(line).key;
        self.keys[key].running += 1;
    }

    /// Counts the end of an attempt that ran so long. Answers whether others of its key may start now.
    pub(super) fn stopped(&mut self, line: u32, charged: u128, ran: Duration) -> bool {
        let LineKey { lane, key, .. } = *self.lines.key(line);
        let class = self.lanes.key(lane).class;
        let class = &mut self.classes[class];
        let ran = nanos(ran.min(CHARGE_MAX)).max(1);
        if charged > 0 {
            class.mean = class.mean - class.mean / 8 + ran / 8;
            // What was paid, whatever its shares are now.
            class.pass = class.pass.saturating_sub(charged) + cost(ran, class.rule.shares);
        }
        self.keys[key].running -= 1;
        self.unpark(key)
    }

    /// Bytes it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.classes.bytes()
            + self.kinds.bytes()
            + self.key_names.bytes()
            + self.keys.bytes()
            + self.needs.bytes()
            + self.lanes.bytes()
            + self.seats.bytes()
            + self.lines.bytes()
            + self.lines.len() * 96
    }
}

fn cost(nanos: u64, shares: u32) -> u128 {
    u128::from(nanos) * PASS_UNIT / u128::from(shares.max(1))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What of a requirement a room lacks: the first thing, with what is needed and what is free.
pub(super) fn lacks<'a>(needs: &'a Needs, room: &Room) -> Option<(&'a str, u64, u64)> {
    if let Some(free) = room.cpu_millis
        && needs.cpu_millis > free
    {
        return Some(("cpu", u64::from(needs.cpu_millis), u64::from(free)));
    }
    if let Some(free) = room.memory_bytes
        && needs.memory_bytes > free
    {
        return Some(("memory", needs.memory_bytes, free));
    }
    needs.resources.iter().find_map(|(name, count)| {
        let free = room.resources.get(name).copied().unwrap_or(0);
        (*count > free).then_some((&**name, u64::from(*count), u64::from(free)))
    })
}
