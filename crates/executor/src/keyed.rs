//! Tasks that name a key: the keyed part of a class's queue, where keys share in turn.
//!
//! Who is next is decided by [`KeyTable`]; this module stands between it and the workers.
//!
//! - Tasks with a key are taken one at a time and never stand in a ring, a stack or a worker's list of tagged tasks: else those of
//!   one key that a worker had taken ahead would delay another key's first. A future that was woken takes a turn of its key again.
//! - All tasks of the class without a key together count as one more key: after a turn of each key they have one.
//! - A permit of the key is taken when a task is popped for the first time, and given back exactly once: by whoever completes the
//!   task, wherever that happens ([`task::run`](crate::task::run), a canceller, a sweep), or, when the task was completed just before, by whoever
//!   popped it. [`Permit`] is the one word in which the two meet.
//! - Tasks that ended while they were queued (cancelled) and those whose deadline has passed cost their key nothing. They go to a
//!   list from which workers take them first, to count them and let them go.
//! - A class's bit is set only for keys that have a turn, so that workers sleep while all keys are at their limits. A key comes
//!   back by the end of one of its tasks, or when its bucket has refilled, which the supervisor sees to: it sleeps until the
//!   first such time ([`Spine::key_refill`]).
//!
//! A named unsafe module: entries are tasks whose life reference the table holds, by the contract of [`task`](crate::task).

use crate::clock;
use crate::dispatch::Which;
use crate::error::Error;
use crate::ledger::lock_soon;
use crate::queue::Busy;
use crate::spine::{ClassSlot, Spine};
use crate::task::Header;
use flyball_core::time::Timestamp;
use flyball_policy::sched::keys::{Excess, KeyLimits, KeyState, KeyTable, Place, Pop};
use std::hash::BuildHasher;
use std::ptr::NonNull;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::Duration;

/// The longest name of a key that is kept, bytes; longer ones are told apart all the same.
const NAME_MAX: usize = 256;

/// What a task keeps of its key.
#[derive(Debug)]
pub(crate) struct TaskKey {
    hash: u64,
    name: Box<str>,
    permit: Permit,
}

impl TaskKey {
    pub(crate) fn new(spine: &Spine, name: &str) -> Self {
        TaskKey {
            hash: spine.hash_key(name),
            name: shown(name).into(),
            permit: Permit(AtomicU64::new(Permit::NEW)),
        }
    }
}

/// The part of a key's name that is shown: up to 256 bytes, whole characters.
pub(crate) fn shown(name: &str) -> &str {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Whether a task holds a permit of its key: [`Permit::NEW`], a table's age and a place in it, [`Permit::OVER`].
#[derive(Debug)]
struct Permit(AtomicU64);

impl Permit {
    const NEW: u64 = 0;
    const OVER: u64 = u64::MAX;

    fn word(age: u32, place: Place) -> u64 {
        (u64::from(age) + 1) << 32 | u64::from(place.get())
    }

    /// The place, if the word is one of a table of this age.
    fn place(word: u64, age: u32) -> Option<Place> {
        (word != Permit::OVER && word >> 32 == u64::from(age) + 1)
            .then(|| Place::from_number(word as u32))
    }
}

/// A task that the table holds, and with it the task's life reference.
pub(crate) struct Queued(NonNull<Header>);

// SAFETY: a task may be run by any thread; the table only carries it there.
unsafe impl Send for Queued {}

impl Queued {
    fn header(&self) -> &Header {
        // SAFETY: the life reference is held.
        unsafe { self.0.as_ref() }
    }

    /// False for a task that has ended, and for one that would miss its deadline.
    fn is_live(&self, now: u64) -> bool {
        let header = self.header();
        if header.is_taken_or_completed() {
            return false;
        }
        let missed = header
            .extra()
            .is_some_and(|extra| extra.deadline != 0 && now > extra.deadline);
        let is_new = |key: &TaskKey| key.permit.0.load(Relaxed) == Permit::NEW;
        !(missed && header.key().is_some_and(is_new))
    }
}

/// The keyed part of a class's queue.
#[derive(Default)]
pub(crate) struct Keyed {
    /// Made with the first key.
    table: Option<Box<KeyTable<Queued>>>,
    /// Counts the pools that used the slot: a permit of an earlier one is worth nothing.
    age: u32,
    /// Tasks that ended while they were queued.
    ended: Vec<Queued>,
    /// Turns since tasks without a key had theirs.
    served: usize,
    /// What [`ClassSlot::key_turns`] shows of this.
    shown_turns: usize,
}

impl Keyed {
    fn table(&mut self, slot: &ClassSlot) -> &mut KeyTable<Queued> {
        self.table
            .get_or_insert_with(|| Box::new(KeyTable::new(slot.spine().max_keys.load(Relaxed))))
    }
}

/// What others must be told once the lock is free.
#[must_use]
struct News {
    /// More keys have a turn than before.
    more: bool,
    /// When the first bucket refills, ns; `u64::MAX` for never.
    refill: u64,
}

/// One key of a class as it is now, or a bucket that keys share because the table of keys is full.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// The key, cut to 256 bytes; empty for a shared bucket.
    pub name: String,
    /// Keys beyond [`Config::max_keys`](crate::Config::max_keys) share it.
    pub shared: bool,
    /// Tasks ready to run that wait for their turn or for a limit; futures that were woken count.
    pub queued: usize,
    /// Tasks that were started and have not ended; futures that wait count.
    pub running: u32,
    /// Tasks started since the key was last unknown: a key is forgotten when nothing of it is left.
    pub started: u64,
    /// The limits in force.
    pub limits: KeyLimits,
    /// They are the key's own; see [`Class::set_key_limit`](crate::Class::set_key_limit).
    pub own_limits: bool,
    /// What holds its tasks back.
    pub held_by: Option<HeldBy>,
}

/// Which limit holds the tasks of a key back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldBy {
    /// As many of them run as may.
    Concurrency,
    /// As many started as may; the next may in this time.
    Rate(Duration),
}

impl ClassSlot {
    fn keyed(&self) -> MutexGuard<'_, Keyed> {
        self.keyed.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Shows how many keys have a turn; the lock is held.
    fn show(&self, keyed: &mut Keyed) -> News {
        let turns = keyed.ended.len() + keyed.table.as_ref().map_or(0, |table| table.turns());
        let before = std::mem::replace(&mut keyed.shown_turns, turns);
        if turns > before {
            self.takeable.fetch_add(turns - before, SeqCst);
        } else if turns < before {
            self.takeable.fetch_sub(before - turns, SeqCst);
        }
        self.key_turns.store(turns, Relaxed);
        let refill = keyed.table.as_ref().and_then(|table| table.next_refill());
        News {
            more: turns > before,
            refill: refill.map_or(u64::MAX, |until| until.as_nanos()),
        }
    }

    /// Passes on what changed; the lock is free.
    fn tell(&self, news: &News) {
        if news.refill != u64::MAX {
            self.spine().note_refill(news.refill);
        }
        if news.more {
            self.announce();
        }
    }

    /// Puts a task with a key where it belongs: a new one behind those of its key, one that was started among the started.
    pub(crate) fn push_keyed(&'static self, task: NonNull<Header>, key: &TaskKey, rank: u64) {
        let queued = Queued(task);
        let now = queued.header().enqueued.load(Relaxed);
        let mut keyed = self.keyed();
        let age = keyed.age;
        match key.permit.0.load(SeqCst) {
            Permit::NEW => {
                let now = Timestamp::from_nanos(now);
                let table = keyed.table(self);
                table.push(now, key.hash, &key.name, rank, queued);
            }
            word => match (Permit::place(word, age), &mut keyed.table) {
                (Some(place), Some(table)) => table.push_started(place, rank, queued),
                // It has ended meanwhile, or belongs to a pool that has: it is only to be let go.
                _ => {
                    drop(keyed);
                    self.again.fetch_add(1, Relaxed);
                    self.queue.push(task.cast());
                    self.announce();
                    return;
                }
            },
        }
        self.keyed_len.fetch_add(1, SeqCst);
        self.set_aside.fetch_add(1, SeqCst);
        let news = self.show(&mut keyed);
        drop(keyed);
        self.tell(&news);
        // Its key had a turn already: workers may have missed that there is more to do.
        if !news.more && self.key_turns.load(Relaxed) != 0 {
            self.announce();
        }
    }

    /// Counts a task with a key that was cancelled while it was queued. When they are half of what their key has waiting they move
    /// out of the table, so that they do not fill its queue and the class's until the key has its turn.
    pub(crate) fn note_keyed_dead(&self, key: &TaskKey) {
        if key.permit.0.load(SeqCst) != Permit::NEW {
            return; // it was started, and has a turn
        }
        let now = clock::now(self.spine());
        let mut keyed = self.keyed();
        let Keyed { table, ended, .. } = &mut *keyed;
        if let Some(table) = table {
            let is_live = |queued: &Queued| queued.is_live(now);
            table.note_dead(key.hash, is_live, |queued| ended.push(queued));
            let news = self.show(&mut keyed);
            drop(keyed);
            self.tell(&news);
        }
    }

    /// Takes the next task of the key whose turn it is, unless it is the turn of the tasks without one.
    pub(crate) fn take_keyed(&self, which: Which, now: u64) -> Option<NonNull<Header>> {
        let mut keyed = self.keyed();
        if let Some(task) = keyed.ended.pop_if(|task| !task.is_live(now)) {
            return self.taken(keyed, Some(task));
        }
        let Keyed {
            table: Some(table),
            age,
            ended,
            served,
            ..
        } = &mut *keyed
        else {
            return None;
        };
        if which == Which::BeforeArrivals && *served >= table.turns().max(1) {
            *served = 0;
            return None;
        }
        let popped = table.pop(
            Timestamp::from_nanos(now),
            |queued| queued.is_live(now),
            |queued| ended.push(queued),
        );
        // Those without a key had their chance when any will do.
        *served = if which == Which::Any { 0 } else { *served + 1 };
        let task = match popped {
            Pop::Task(place, task) => {
                let word = Permit::word(*age, place);
                let is_his = task.header().key().is_some_and(|key| {
                    key.permit
                        .0
                        .compare_exchange(Permit::NEW, word, SeqCst, SeqCst)
                        .is_ok()
                });
                if !is_his {
                    // Completed since the look at it, by whoever cancelled it, who found no permit to give back.
                    table.finished(place);
                }
                Some(task)
            }
            Pop::Again(_, task) => Some(task),
            Pop::Wait { .. } | Pop::Empty => ended.pop_if(|task| !task.is_live(now)),
        };
        self.taken(keyed, task)
    }

    fn taken(
        &self,
        mut keyed: MutexGuard<'_, Keyed>,
        task: Option<Queued>,
    ) -> Option<NonNull<Header>> {
        if task.is_some() {
            self.keyed_len.fetch_sub(1, SeqCst);
            self.set_aside.fetch_sub(1, SeqCst);
        }
        let news = self.show(&mut keyed);
        drop(keyed);
        self.tell(&news);
        Some(task?.0)
    }

    /// Takes every task out, whatever its limits.
    pub(crate) fn take_keyed_all(&self) -> Vec<NonNull<Header>> {
        let mut keyed = self.keyed();
        let mut tasks: Vec<_> = keyed.ended.drain(..).map(|task| task.0).collect();
        if let Some(table) = &mut keyed.table {
            table.drain(|task| tasks.push(task.0));
        }
        self.keyed_len.fetch_sub(tasks.len(), SeqCst);
        self.set_aside.fetch_sub(tasks.len(), SeqCst);
        // Nothing is left that anybody could be told of.
        let _ = self.show(&mut keyed);
        tasks
    }

    /// Gives the permit of a task back that was completed.
    pub(crate) fn release_key(&self, key: &TaskKey) {
        let word = key.permit.0.swap(Permit::OVER, SeqCst);
        if word == Permit::NEW || word == Permit::OVER {
            return;
        }
        let mut keyed = self.keyed();
        let age = keyed.age;
        if let (Some(place), Some(table)) = (Permit::place(word, age), &mut keyed.table) {
            table.finished(place);
            let news = self.show(&mut keyed);
            drop(keyed);
            self.tell(&news);
        }
    }

    /// Gives keys their turns whose buckets have refilled.
    fn refill_keys(&self, now: u64) {
        let mut keyed = self.keyed();
        if let Some(table) = &mut keyed.table {
            table.advance(Timestamp::from_nanos(now));
            let news = self.show(&mut keyed);
            drop(keyed);
            self.tell(&news);
        }
    }

    /// Forgets all keys and limits, for the next pool. No task is left.
    pub(crate) fn forget_keys(&self) {
        let mut keyed = self.keyed();
        let age = keyed.age.wrapping_add(1) & (u32::MAX >> 1);
        let before = std::mem::replace(
            &mut *keyed,
            Keyed {
                age,
                ..Keyed::default()
            },
        );
        self.takeable.fetch_sub(before.shown_turns, SeqCst);
        self.key_turns.store(0, SeqCst);
    }

    /// Says whether another task of the key may wait; the key's limit where it may not.
    pub(crate) fn check_key_room(&self, key: &TaskKey) -> Result<(), u32> {
        match &self.keyed().table {
            Some(table) => table.check_room(key.hash),
            None => Ok(()),
        }
    }

    /// Tasks that went beyond limits which only observe.
    pub(crate) fn key_excess(&self) -> Excess {
        self.keyed()
            .table
            .as_ref()
            .map_or_else(Excess::default, |table| table.excess())
    }

    /// Limits of keys without their own.
    pub(crate) fn key_limits(&self) -> KeyLimits {
        self.keyed()
            .table
            .as_ref()
            .map_or_else(KeyLimits::default, |table| table.limits())
    }

    /// Changes limits of keys.
    pub(crate) fn change_key_limits(
        &self,
        class: &str,
        change: impl FnOnce(&mut KeyTable<Queued>, Timestamp) -> Result<(), flyball_policy::Error>,
    ) -> Result<(), Error> {
        let now = Timestamp::from_nanos(clock::now(self.spine()));
        let mut keyed = self.keyed();
        change(keyed.table(self), now).map_err(|source| Error::Keys {
            class: class.to_owned(),
            source,
        })?;
        let news = self.show(&mut keyed);
        drop(keyed);
        self.tell(&news);
        Ok(())
    }

    /// The least of what `when` finds in the tasks that go first of each key; called under the lock under which they are taken.
    pub(crate) fn oldest_keyed(
        &self,
        when: impl Fn(NonNull<Header>) -> Option<u64>,
    ) -> Result<Option<u64>, Busy> {
        if self.keyed_len.load(Relaxed) == 0 {
            return Ok(None);
        }
        let keyed = lock_soon(&self.keyed).ok_or(Busy)?;
        let firsts = keyed.table.iter().flat_map(|table| table.firsts());
        Ok(firsts.filter_map(|queued| when(queued.0)).min())
    }

    /// The keys that are known, those with the most queued tasks first, then by name; and how many tasks went to shared buckets.
    pub(crate) fn key_statuses(&self) -> (Vec<KeyStatus>, u64) {
        let now = clock::now(self.spine());
        let mut keyed = self.keyed();
        let Some(table) = &mut keyed.table else {
            return (Vec::new(), 0);
        };
        table.advance(Timestamp::from_nanos(now));
        let mut statuses: Vec<KeyStatus> = table
            .keys()
            .map(|key| KeyStatus {
                name: key.name.to_owned(),
                shared: key.shared,
                queued: key.waiting,
                running: key.running,
                started: key.started,
                limits: key.limits,
                own_limits: key.own_limits,
                held_by: match key.state {
                    KeyState::Held => Some(HeldBy::Concurrency),
                    KeyState::Refilling(until) => Some(HeldBy::Rate(Duration::from_nanos(
                        until.as_nanos().saturating_sub(now),
                    ))),
                    _ => None,
                },
            })
            .collect();
        let overflowed = table.overflowed();
        let news = self.show(&mut keyed);
        drop(keyed);
        self.tell(&news);
        statuses.sort_by(|a, b| (b.queued, &a.name).cmp(&(a.queued, &b.name)));
        (statuses, overflowed)
    }
}

impl Spine {
    /// The hash of a key, which outsiders cannot predict.
    pub(crate) fn hash_key(&self, name: &str) -> u64 {
        self.key_seed.hash_one(name)
    }

    /// Sees to it that keys get their turns back at that time, ns.
    fn note_refill(&self, until: u64) {
        if self.key_refill.load(SeqCst) > until
            && self.key_refill.fetch_min(until, SeqCst) > until
            && let Some(thread) = &*self.supervisor.lock().unwrap_or_else(|e| e.into_inner())
        {
            thread.unpark();
        }
    }

    /// Gives keys their turns back if the time has come; true when it had.
    pub(crate) fn refill_keys(&self, now: u64) -> bool {
        if now < self.key_refill.load(SeqCst) {
            return false;
        }
        // Before the look: what is noted meanwhile stays noted.
        self.key_refill.store(u64::MAX, SeqCst);
        for slot in &self.classes {
            if slot.keyed_len.load(SeqCst) != 0 {
                slot.refill_keys(now);
            }
        }
        true
    }
}
