//! How long the tasks of a class have waited: read from where they stand, at no cost to those who run them.
//!
//! Tasks carry the time at which they became runnable. The queue is in order of arrival, so its head is its oldest; what has an order
//! of its own and what is tagged is looked through, up to a bound. The rings and stacks of workers are theirs alone to read: what
//! waits there counts from the start of the task that its worker runs, for between two tasks of its own a worker lets nothing wait.
//!
//! Who looks never waits for a worker: where one holds a lock for longer than a few microseconds, because the kernel has taken the
//! CPU from it, the figure is not known.

use crate::dispatch::Ordered;
use crate::ledger::lock_soon;
use crate::pool::Pool;
use crate::queue::{Busy, Link, Queue};
use crate::spine::ClassSlot;
use crate::tags::Tags;
use crate::task::Header;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// Tasks of a kind of place that are looked at: under a lock that workers take, too.
const LOOKED_AT: usize = 1_024;

impl Pool {
    /// How long the task of the class that has waited longest has waited; None while none does or it is not known.
    pub(crate) fn oldest_wait(&self, slot: &'static ClassSlot, now: u64) -> Option<Duration> {
        let held = self
            .known_workers()
            .filter(|worker| worker.ring_class.load(Relaxed) == slot.index && worker.held() != 0)
            .map(|worker| worker.task_since.load(Relaxed))
            .filter(|&since| since != 0)
            .min();
        let since = [
            oldest_in_queue(&slot.queue).ok()?,
            slot.oldest_ordered().ok()?,
            // SAFETY: called under the lock under which tasks with a key are taken.
            slot.oldest_keyed(|task| unsafe { since(task) }).ok()?,
            self.spine.tags.oldest(slot).ok()?,
            held,
        ];
        since
            .into_iter()
            .flatten()
            .min()
            .map(|since| Duration::from_nanos(now.saturating_sub(since)))
    }
}

/// When a task that stands in a queue or list became runnable, ns; None for one that was not stamped.
///
/// # Safety
/// Nobody can take the task away meanwhile: the caller holds the lock under which it would be taken.
unsafe fn since(task: NonNull<Header>) -> Option<u64> {
    // SAFETY: by contract the task is still where it was found, and so alive.
    let header = unsafe { task.as_ref() };
    (header.samples.load(Relaxed) != 0).then(|| header.enqueued.load(Relaxed))
}

fn oldest_in_queue(queue: &Queue) -> Result<Option<u64>, Busy> {
    let first = queue.with_first(|link: NonNull<Link>| {
        // SAFETY: the queue calls this under the lock of those who take.
        unsafe { since(link.cast()) }
    });
    first.map(Option::flatten)
}

impl ClassSlot {
    fn oldest_ordered(&self) -> Result<Option<u64>, Busy> {
        if self.set_aside.load(Relaxed) == 0 {
            return Ok(None);
        }
        let ordered = lock_soon(&self.ordered).ok_or(Busy)?;
        Ok(Ordered::tasks(&ordered)
            .take(LOOKED_AT)
            // SAFETY: what is in the lists is taken under the lock that is held.
            .filter_map(|task| unsafe { since(task) })
            .min())
    }
}

impl Tags {
    fn oldest(&self, slot: &ClassSlot) -> Result<Option<u64>, Busy> {
        if slot.tagged.load(Relaxed) == 0 {
            return Ok(None);
        }
        self.oldest_of(slot.index, |tasks| {
            tasks
                .take(LOOKED_AT)
                // SAFETY: called under the lock under which a worker's tagged tasks are taken.
                .filter_map(|task| unsafe { since(task) })
                .min()
        })
    }
}
