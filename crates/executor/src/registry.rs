//! Futures that have been polled and have not ended, so that shutdown can drop those that nobody wakes any more.
//!
//! A future enters when its first poll returns pending; one that is ready at once never touches this. It leaves, under the
//! shard's lock, before its life reference is dropped: whoever finds it here under the lock may take a reference.

use crate::task::{self, Header};
use std::ptr::NonNull;
use std::sync::Mutex;

const SHARDS: usize = 16;

#[derive(Default)]
struct Shard {
    entries: Vec<Option<NonNull<Header>>>,
    free: Vec<u32>,
}

pub(crate) struct Registry {
    shards: [crossbeam_utils::CachePadded<Mutex<Shard>>; SHARDS],
}

// SAFETY: headers are shared between threads; the registry only counts references to them.
unsafe impl Send for Registry {}
// SAFETY: as above.
unsafe impl Sync for Registry {}

/// Where a future stands in the registry; zero means nowhere.
pub(crate) type Place = u32;

impl Registry {
    pub(crate) fn new() -> Self {
        Registry {
            shards: std::array::from_fn(|_| Default::default()),
        }
    }

    fn lock(&self, shard: usize) -> std::sync::MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Enters a future; `hint` spreads callers over the shards.
    pub(crate) fn insert(&self, hint: usize, task: NonNull<Header>) -> Place {
        let shard_index = hint % SHARDS;
        let mut shard = self.lock(shard_index);
        let entry = match shard.free.pop() {
            Some(entry) => entry,
            None => {
                shard.entries.push(None);
                shard.entries.len() as u32 - 1
            }
        };
        shard.entries[entry as usize] = Some(task);
        1 + entry * SHARDS as u32 + shard_index as u32
    }

    pub(crate) fn remove(&self, place: Place) {
        let place = place - 1;
        let mut shard = self.lock((place as usize) % SHARDS);
        let entry = place / SHARDS as u32;
        shard.entries[entry as usize] = None;
        shard.free.push(entry);
        if shard.free.len() == shard.entries.len() && shard.entries.capacity() > 4096 {
            *shard = Shard::default();
        }
    }

    /// Futures that wait or run.
    pub(crate) fn len(&self) -> usize {
        (0..SHARDS)
            .map(|shard| {
                let shard = self.lock(shard);
                shard.entries.len() - shard.free.len()
            })
            .sum()
    }

    /// Futures of a class that wait or run. Looks at each of them: for what is asked rarely.
    pub(crate) fn count_of(&self, class: u8) -> usize {
        (0..SHARDS)
            .map(|shard| {
                self.lock(shard)
                    .entries
                    .iter()
                    .flatten()
                    // SAFETY: entered, and the shard is locked: the life reference is still held.
                    .filter(|task| unsafe { task.as_ref() }.slot.index == class)
                    .count()
            })
            .sum()
    }

    /// Cancels every future that is entered; returns how many were cancelled.
    pub(crate) fn cancel_all(&self) -> usize {
        let mut cancelled = 0;
        for shard in 0..SHARDS {
            let tasks: Vec<NonNull<Header>> = {
                let shard = self.lock(shard);
                shard
                    .entries
                    .iter()
                    .flatten()
                    .copied()
                    .inspect(|&task| {
                        // SAFETY: entered, and the shard is locked: the life reference is still held.
                        unsafe { task::add_ref(task) }
                    })
                    .collect()
            };
            for task in tasks {
                // SAFETY: a reference was taken above and is dropped here.
                unsafe {
                    cancelled += usize::from(task::cancel(task));
                    task::drop_ref(task);
                }
            }
        }
        cancelled
    }
}
