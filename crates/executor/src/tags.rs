//! Tasks that a placement strategy tagged for a worker: a small queue a worker, part of the class's queue for everybody else.
//!
//! A tag is a preference: the worker takes its own first, others take what it does not get to. Class order is not touched by
//! it, and nothing is lost when the strategy changes.

use crate::ledger::lock_soon;
use crate::queue::{Busy, Link};
use crate::spine::{ClassSlot, MAX_WORKERS, group_of};
use crate::task::Header;
use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

#[derive(Default)]
struct Lists(Vec<(u8, VecDeque<NonNull<Header>>)>);

#[derive(Default)]
struct Tagged {
    /// One bit a class: a task of it may be in the list.
    classes: AtomicU64,
    len: AtomicU32,
    lists: Mutex<Lists>,
}

// SAFETY: a task may be run by any thread; the lists only carry it there.
unsafe impl Send for Lists {}

pub(crate) struct Tags {
    workers: Box<[Tagged]>,
}

impl Tags {
    pub(crate) fn new() -> Self {
        Tags {
            workers: (0..MAX_WORKERS).map(|_| Tagged::default()).collect(),
        }
    }

    /// Tasks tagged for a worker.
    pub(crate) fn len(&self, worker: usize) -> u32 {
        self.workers[worker].len.load(Relaxed)
    }

    pub(crate) fn push(&self, slot: &'static ClassSlot, worker: usize, task: NonNull<Header>) {
        let tagged = &self.workers[worker];
        slot.tagged.fetch_add(1, SeqCst);
        let mut lists = tagged.lists.lock().unwrap_or_else(|e| e.into_inner());
        match lists.0.iter_mut().find(|(class, _)| *class == slot.index) {
            Some((_, list)) => list.push_back(task),
            None => lists.0.push((slot.index, VecDeque::from([task]))),
        }
        tagged.classes.fetch_or(1 << slot.index, SeqCst);
        tagged.len.fetch_add(1, SeqCst);
        drop(lists);
        slot.announce_to(group_of(worker), worker);
    }

    /// Takes the oldest task of a class that is tagged for this worker.
    #[inline]
    pub(crate) fn take(&self, worker: usize, slot: &ClassSlot) -> Option<NonNull<Header>> {
        let tagged = &self.workers[worker];
        if tagged.classes.load(Relaxed) & (1 << slot.index) == 0 {
            return None;
        }
        let mut lists = tagged.lists.lock().unwrap_or_else(|e| e.into_inner());
        let (_, list) = lists.0.iter_mut().find(|(class, _)| *class == slot.index)?;
        let task = list.pop_front();
        if list.is_empty() {
            tagged.classes.fetch_and(!(1 << slot.index), SeqCst);
        }
        if task.is_some() {
            tagged.len.fetch_sub(1, SeqCst);
            slot.tagged.fetch_sub(1, SeqCst);
        }
        task
    }

    /// Takes a task of a class that is tagged for another of these workers.
    pub(crate) fn steal(&self, workers: Range<usize>, slot: &ClassSlot) -> Option<NonNull<Header>> {
        if slot.tagged.load(Relaxed) == 0 {
            return None;
        }
        workers
            .into_iter()
            .find_map(|worker| self.take(worker, slot))
    }

    /// The least of what `oldest` finds in each worker's list of a class, called under the list's lock.
    pub(crate) fn oldest_of(
        &self,
        class: u8,
        oldest: impl Fn(&mut dyn Iterator<Item = NonNull<Header>>) -> Option<u64>,
    ) -> Result<Option<u64>, Busy> {
        let mut first: Option<u64> = None;
        let tagged = self.workers.iter();
        for tagged in tagged.filter(|tagged| tagged.classes.load(Relaxed) & (1 << class) != 0) {
            let lists = lock_soon(&tagged.lists).ok_or(Busy)?;
            let list = lists.0.iter().find(|(known, _)| *known == class);
            let since = list.and_then(|(_, list)| oldest(&mut list.iter().copied()));
            first = first.into_iter().chain(since).min();
        }
        Ok(first)
    }

    /// Moves what is tagged for a worker to the classes' queues; returns how many tasks.
    pub(crate) fn untag(&self, worker: usize, slots: &'static [ClassSlot]) -> usize {
        let mut moved = 0;
        for slot in slots {
            while let Some(task) = self.take(worker, slot) {
                slot.again.fetch_add(1, Relaxed);
                slot.queue.push(task.cast::<Link>());
                slot.announce();
                moved += 1;
            }
        }
        moved
    }

    /// Moves up to `count` tasks from one worker to another; returns how many.
    pub(crate) fn shift(
        &self,
        from: usize,
        to: usize,
        count: u32,
        slots: &'static [ClassSlot],
    ) -> u32 {
        let mut moved = 0;
        for slot in slots {
            while moved < count {
                // Counted all the time: a shutdown must not find nothing waiting.
                slot.tagged.fetch_add(1, SeqCst);
                let task = self.take(from, slot);
                if let Some(task) = task {
                    self.push(slot, to, task);
                }
                slot.tagged.fetch_sub(1, SeqCst);
                if task.is_none() {
                    break;
                }
                moved += 1;
            }
        }
        moved
    }
}
