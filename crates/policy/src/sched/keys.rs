//! Keys of a class in turn: a tenant that floods a class delays the others by one task, not by its whole backlog.
//!
//! A [`KeyTable`] holds the tasks of a class that name a key. Keys with a task that may go stand in a ring; whoever asks for a
//! task gets one of the first key, which then goes to the end of the ring. So a key waits for at most one task of each
//! other key, however many those have (H. Nagle, "On Packet Switches with Infinite Storage", RFC 970, 1985, with tasks in
//! the place of packets). Turns are counted in tasks, not in time: a key with longer tasks gets more time; a limit on its
//! concurrency or a class of its own bounds that.
//!
//! Limits, by default and by key ([`KeyLimits`]): tasks started a second, by the generic cell rate algorithm (ITU-T I.371), which
//! is a token bucket kept as one instant; tasks at once, from the start of a task to [`KeyTable::finished`]; tasks that wait.
//! A key that may not go leaves the ring, so it costs nothing, and comes back when its bucket has refilled or one of its tasks
//! has ended. Limits that only *observe* hold nobody: what goes beyond them is counted ([`Excess`]).
//!
//! Inside a key the lowest rank goes first, equal ranks in order of arrival: with [`order::due`](super::order::due) as the rank,
//! priorities and deadlines order a key's own tasks and never those of other keys. Tasks that were started and became ready
//! again (futures) take turns of their key, too, in the same order, and no limit holds them: they have their permit.
//!
//! The table is bounded. It knows up to `capacity` keys at once: those with tasks that wait or run, with limits of their own, or
//! whose bucket is not full again. Further keys share [`OVERFLOW`] buckets, by hash, under the default limits. A bucket that
//! is in use is kept to: a key whose task went there stays there until the bucket has run dry, so that no key ever passes
//! itself or its limits; until then keys that come new to it share it, too, though there may be room again.
//!
//! Invariants
//! - A key stands in the ring exactly when one of its tasks may go.
//! - `running` counts the tasks that were popped as new and not finished; an entry with one is never given to another key.
//! - Time never goes back: an instant earlier than one seen counts as that one.
//!
//! Keys come hashed, with a hash that outsiders cannot predict; two names of one hash are one key. All operations take O(1), where
//! ranks arrive in order and no rate is limited; else a logarithm of the tasks of the key, or of the keys that wait.

mod dead;
mod entry;
mod index;
mod limits;
mod line;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use flyball_core::time::Timestamp;

use crate::Error;
use entry::{Entry, Stand};
use index::Index;
use line::Line;

pub use limits::{BURST_MAX, Excess, KeyLimits, RATE_MAX, RATE_MIN};

/// Keys that a table knows at once unless another number is given.
pub const DEFAULT_CAPACITY: usize = 4096;
/// Buckets that keys share when a table is full.
pub const OVERFLOW: usize = 64;
const NONE: u32 = u32::MAX;

/// Where the tasks of a key stand: valid from [`KeyTable::pop`] to [`KeyTable::finished`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// The place as a number below [`KeyTable::capacity`] + [`OVERFLOW`].
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The place of a number that [`Place::get`] gave.
    pub const fn from_number(number: u32) -> Self {
        Place(number)
    }
}

/// What there is to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Pop<T> {
    /// This task, for the first time: it counts as running at this place until [`KeyTable::finished`].
    Task(Place, T),
    /// This task, which was started before and came back by [`KeyTable::push_started`].
    Again(Place, T),
    /// Nothing before that time, unless a task is pushed or finished.
    Wait {
        /// When the next bucket has refilled.
        until: Timestamp,
    },
    /// Nothing, unless a task is pushed or finished.
    Empty,
}

/// Why tasks of a key do not go, if they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// No task of it waits.
    Idle,
    /// It has its turns.
    Ready,
    /// As many of its tasks run as may.
    Held,
    /// Its bucket is empty until then.
    Refilling(Timestamp),
}

/// A key, or a bucket that keys share, as it is now.
#[derive(Clone, Copy, Debug)]
pub struct KeyView<'a> {
    /// The hash of the key that was first here.
    pub key: u64,
    /// What it is called; empty for a shared bucket.
    pub name: &'a str,
    /// Keys beyond the table's capacity share it.
    pub shared: bool,
    /// Tasks ready to run, those that were started before included.
    pub waiting: usize,
    /// Tasks that were started and have not ended.
    pub running: u32,
    /// Tasks started since the key was last unknown.
    pub started: u64,
    /// The limits in force.
    pub limits: KeyLimits,
    /// The limits are its own.
    pub own_limits: bool,
    /// Whether its tasks may go.
    pub state: KeyState,
}

/// The tasks of a class that name a key, keys in turn.
pub struct KeyTable<T> {
    capacity: usize,
    limits: KeyLimits,
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    index: Index,
    /// Shared buckets in use.
    overflow: [u32; OVERFLOW],
    /// Ends of the ring.
    first: u32,
    last: u32,
    turns: usize,
    /// Keys that wait for their bucket, by the time when it holds a token.
    refills: BTreeSet<(u64, u32)>,
    /// Keys that are forgotten when their bucket is full.
    fading: BTreeSet<(u64, u32)>,
    len: usize,
    sequence: u64,
    now: u64,
    own_limits: usize,
    overflowed: u64,
    excess: Excess,
}

impl<T> KeyTable<T> {
    /// Makes an empty table for up to `capacity` keys at once, 2 to 2^30.
    ///
    /// # Panics
    /// When `capacity` is out of range.
    pub fn new(capacity: usize) -> Self {
        assert!((2..=1 << 30).contains(&capacity), "2 to 2^30 keys");
        KeyTable {
            capacity,
            limits: KeyLimits::default(),
            entries: Vec::new(),
            free: Vec::new(),
            index: Index::new(),
            overflow: [NONE; OVERFLOW],
            first: NONE,
            last: NONE,
            turns: 0,
            refills: BTreeSet::new(),
            fading: BTreeSet::new(),
            len: 0,
            sequence: 0,
            now: 0,
            own_limits: 0,
            overflowed: 0,
            excess: Excess::default(),
        }
    }

    /// Returns how many keys are known at once at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns how many tasks wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether no task waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how many keys have a task that may go.
    pub fn turns(&self) -> usize {
        self.turns
    }

    /// Returns how many keys are known now, shared buckets not counted.
    pub fn known(&self) -> usize {
        self.index.len()
    }

    /// Returns how many tasks went to shared buckets since the start.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Returns how many tasks went beyond limits that only observe.
    pub fn excess(&self) -> Excess {
        self.excess
    }

    /// Returns when the first bucket that tasks wait for holds a token.
    pub fn next_refill(&self) -> Option<Timestamp> {
        self.refills
            .first()
            .map(|&(until, _)| Timestamp::from_nanos(until))
    }

    /// Returns the limits of keys that have none of their own.
    pub fn limits(&self) -> KeyLimits {
        self.limits
    }

    /// Sets the limits of keys that have none of their own. Tasks that run go on, also where they are more than now may.
    ///
    /// # Errors
    /// [`Error::KeyLimit`]; nothing has changed then.
    pub fn set_limits(&mut self, now: Timestamp, limits: KeyLimits) -> Result<(), Error> {
        limits.validate()?;
        let now = self.at(now);
        self.limits = limits;
        for place in 0..self.entries.len() as u32 {
            let entry = &mut self.entries[place as usize];
            if entry.stand != Stand::Free && !entry.own {
                entry.set_limits(limits, false, now);
                self.place_again(place);
            }
        }
        Ok(())
    }

    /// Gives a key limits of its own, or takes them back. A key with its own limits stays known.
    ///
    /// What the key has in a shared bucket remains there, under the bucket's limits.
    ///
    /// # Errors
    /// [`Error::KeyLimit`]; [`Error::TooManyKeyLimits`] when half of the table is taken by keys with limits of their own, or no
    /// place is left now. Nothing has changed then.
    pub fn set_limit(
        &mut self,
        now: Timestamp,
        key: u64,
        name: &str,
        limits: Option<KeyLimits>,
    ) -> Result<(), Error> {
        if let Some(limits) = &limits {
            limits.validate()?;
        }
        let now = self.at(now);
        let place = match (self.find(key), limits) {
            (Some(place), _) => place,
            (None, None) => return Ok(()),
            (None, Some(_)) => {
                self.forget_faded();
                if self.own_limits >= self.capacity / 2 || self.known() >= self.capacity {
                    return Err(self.too_many());
                }
                self.enter(key, name, false)
            }
        };
        let had = self.entries[place as usize].own;
        if limits.is_some() && !had && self.own_limits >= self.capacity / 2 {
            return Err(self.too_many());
        }
        self.own_limits += usize::from(limits.is_some());
        self.own_limits -= usize::from(had);
        let entry = &mut self.entries[place as usize];
        entry.set_limits(limits.unwrap_or(self.limits), limits.is_some(), now);
        self.place_again(place);
        Ok(())
    }

    fn too_many(&self) -> Error {
        Error::TooManyKeyLimits {
            most: self.capacity / 2,
        }
    }

    /// Says whether another task of the key may wait; the limit when it may not.
    ///
    /// # Errors
    /// The limit, in tasks.
    pub fn check_room(&self, key: u64) -> Result<(), u32> {
        let shared = self.overflow[bucket_of(key)];
        let place = match self.find(key) {
            Some(place) => place,
            None if shared != NONE => shared,
            None => return Ok(()),
        };
        let entry = &self.entries[place as usize];
        match entry.limits.queued {
            Some(most) if entry.is_full() && !entry.limits.observe => Err(most),
            _ => Ok(()),
        }
    }

    /// Adds a task of a key, which is called `name` among people. The lowest rank of a key goes first.
    pub fn push(&mut self, now: Timestamp, key: u64, name: &str, rank: u64, task: T) -> Place {
        self.at(now);
        let place = match self.find(key) {
            Some(place) => place,
            None => self.place_of_new(key, name),
        };
        let entry = &self.entries[place as usize];
        self.overflowed += u64::from(entry.shared);
        self.excess.queued += u64::from(entry.limits.observe && entry.is_full());
        self.add(place, rank, task, false);
        Place(place)
    }

    /// Adds a task that was popped, has not finished and is ready again.
    pub fn push_started(&mut self, place: Place, rank: u64, task: T) {
        self.add(place.0, rank, task, true);
    }

    fn add(&mut self, place: u32, rank: u64, task: T, started: bool) {
        self.sequence += 1;
        self.len += 1;
        let sequence = self.sequence;
        let entry = &mut self.entries[place as usize];
        let line = if started {
            &mut entry.started
        } else {
            &mut entry.waiting
        };
        line.push(rank, sequence, task);
        self.place_again(place);
    }

    /// Takes the next task of the key whose turn it is. A task that was not started before is counted as running from now on.
    ///
    /// Tasks for which `is_live` says no go to `dropped` when their key has its turn; they cost neither turn nor token nor permit.
    pub fn pop(
        &mut self,
        now: Timestamp,
        mut is_live: impl FnMut(&T) -> bool,
        mut dropped: impl FnMut(T),
    ) -> Pop<T> {
        self.advance(now);
        let now = self.now;
        while self.first != NONE {
            let place = self.first;
            self.unlink(place);
            let entry = &mut self.entries[place as usize];
            entry.stand = Stand::Idle;
            let before = entry.waiting.len() + entry.started.len();
            entry.waiting.drop_front(&mut is_live, &mut dropped);
            entry.started.drop_front(&mut is_live, &mut dropped);
            let dead = before - entry.waiting.len() - entry.started.len();
            entry.dead = entry.dead.saturating_sub(dead);
            self.len -= dead;
            let again = entry.started.front();
            let new = entry.waiting.front().filter(|_| entry.may_start(now));
            let goes_on = match (again, new) {
                (Some(again), Some(new)) => again < new,
                (again, _) => again.is_some(),
            };
            let popped = if goes_on {
                entry
                    .started
                    .pop()
                    .map(|task| Pop::Again(Place(place), task))
            } else if new.is_some() {
                entry.start(now, &mut self.excess);
                entry
                    .waiting
                    .pop()
                    .map(|task| Pop::Task(Place(place), task))
            } else {
                None
            };
            self.len -= usize::from(popped.is_some());
            self.place_again(place);
            if let Some(popped) = popped {
                return popped;
            }
        }
        match self.next_refill() {
            Some(until) => Pop::Wait { until },
            None => Pop::Empty,
        }
    }

    /// Counts a task that was popped as ended, however it ended.
    pub fn finished(&mut self, place: Place) {
        let entry = &mut self.entries[place.0 as usize];
        debug_assert!(entry.running > 0, "a task ends once");
        entry.running = entry.running.saturating_sub(1);
        self.place_again(place.0);
    }

    /// Gives keys their turns back whose buckets hold a token by now, and forgets those of which nothing is left.
    pub fn advance(&mut self, now: Timestamp) {
        let now = self.at(now);
        while let Some(&(until, place)) = self.refills.first()
            && until <= now
        {
            self.place_again(place);
        }
        self.forget_faded();
    }

    /// Drops every waiting task for which `keep` says no; they go to `dropped`.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool, mut dropped: impl FnMut(T)) {
        for place in 0..self.entries.len() as u32 {
            let entry = &mut self.entries[place as usize];
            let before = entry.waiting.len() + entry.started.len();
            if before == 0 {
                continue;
            }
            entry.waiting.retain(&mut keep, &mut dropped);
            entry.started.retain(&mut keep, &mut dropped);
            self.len -= before - entry.waiting.len() - entry.started.len();
            self.place_again(place);
        }
    }

    /// Takes every waiting task out, whatever its limits; none counts as started.
    pub fn drain(&mut self, into: impl FnMut(T)) {
        self.retain(|_| false, into);
    }

    /// Shows of each key the tasks that wait and go first: the next new one, and the next of those that were started.
    pub fn firsts(&self) -> impl Iterator<Item = &T> {
        self.entries
            .iter()
            .flat_map(|entry| [entry.waiting.first(), entry.started.first()])
            .flatten()
    }

    /// Shows the keys that are known and the shared buckets in use, in no order.
    pub fn keys(&self) -> impl Iterator<Item = KeyView<'_>> {
        self.entries
            .iter()
            .filter(|entry| entry.stand != Stand::Free)
            .map(|entry| KeyView {
                key: entry.key,
                name: &entry.name,
                shared: entry.shared,
                waiting: entry.waiting.len() + entry.started.len(),
                running: entry.running,
                started: entry.started_count,
                limits: entry.limits,
                own_limits: entry.own,
                state: match entry.stand {
                    Stand::Turn => KeyState::Ready,
                    Stand::Held => KeyState::Held,
                    Stand::Refill(until) => KeyState::Refilling(Timestamp::from_nanos(until)),
                    Stand::Free | Stand::Idle | Stand::Fading(_) => KeyState::Idle,
                },
            })
    }

    fn at(&mut self, now: Timestamp) -> u64 {
        self.now = self.now.max(now.as_nanos());
        self.now
    }

    fn find(&self, key: u64) -> Option<u32> {
        self.index
            .find(key, |place| self.entries[place as usize].key)
    }

    fn place_of_new(&mut self, key: u64, name: &str) -> u32 {
        let bucket = bucket_of(key);
        if self.overflow[bucket] != NONE {
            return self.overflow[bucket];
        }
        self.forget_faded();
        if self.known() < self.capacity {
            return self.enter(key, name, false);
        }
        let place = self.enter(key, "", true);
        self.overflow[bucket] = place;
        place
    }

    /// Forgets the keys of which nothing is left.
    fn forget_faded(&mut self) {
        while let Some(&(until, place)) = self.fading.first()
            && until <= self.now
        {
            self.place_again(place);
        }
    }

    fn enter(&mut self, key: u64, name: &str, shared: bool) -> u32 {
        let entry = Entry {
            key,
            name: name.into(),
            shared,
            own: false,
            limits: self.limits,
            interval_ns: self.limits.interval_ns(),
            full_at: 0,
            running: 0,
            started_count: 0,
            waiting: Line::new(),
            dead: 0,
            started: Line::new(),
            stand: Stand::Idle,
            before: NONE,
            after: NONE,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        if !shared {
            let entries = &self.entries;
            self.index
                .insert(place, key, |place| entries[place as usize].key);
        }
        place
    }

    /// Puts a key where it belongs after something about it has changed.
    fn place_again(&mut self, place: u32) {
        let entry = &mut self.entries[place as usize];
        let (old, new) = (entry.stand, entry.stand(self.now));
        if old == new {
            return;
        }
        entry.stand = new;
        match old {
            Stand::Turn => self.unlink(place),
            Stand::Refill(until) => {
                self.refills.remove(&(until, place));
            }
            Stand::Fading(until) => {
                self.fading.remove(&(until, place));
            }
            Stand::Free | Stand::Idle | Stand::Held => {}
        }
        match new {
            Stand::Turn => self.link(place),
            Stand::Refill(until) => {
                self.refills.insert((until, place));
            }
            Stand::Fading(until) => {
                self.fading.insert((until, place));
            }
            Stand::Free => self.leave(place),
            Stand::Idle | Stand::Held => {}
        }
    }

    fn leave(&mut self, place: u32) {
        let entry = &mut self.entries[place as usize];
        let key = entry.key;
        entry.name = Box::default();
        entry.waiting = Line::new();
        entry.started = Line::new();
        if entry.shared {
            self.overflow[bucket_of(key)] = NONE;
        } else {
            self.index.remove(place, key);
        }
        self.free.push(place);
    }

    /// Appends a key to the ring.
    fn link(&mut self, place: u32) {
        let last = self.last;
        let entry = &mut self.entries[place as usize];
        (entry.before, entry.after) = (last, NONE);
        if last == NONE {
            self.first = place;
        } else {
            self.entries[last as usize].after = place;
        }
        self.last = place;
        self.turns += 1;
    }

    fn unlink(&mut self, place: u32) {
        let entry = &self.entries[place as usize];
        let (before, after) = (entry.before, entry.after);
        if before == NONE {
            self.first = after;
        } else {
            self.entries[before as usize].after = after;
        }
        if after == NONE {
            self.last = before;
        } else {
            self.entries[after as usize].before = before;
        }
        self.turns -= 1;
    }
}

/// The shared bucket of a key: by other bits than the index uses first.
fn bucket_of(key: u64) -> usize {
    (key >> 58) as usize % OVERFLOW
}
