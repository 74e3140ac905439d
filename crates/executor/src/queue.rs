//! A class's queue: many producers that never wait, consumers that take batches under a lock.
//!
//! An intrusive singly linked list (D. Vyukov, "Intrusive MPSC node-based queue", 2010) with the consumer's end behind a
//! mutex. A producer does two unconditional atomic steps and one store, whatever consumers do: a front-class producer is
//! never held up by a back thread that the kernel has taken the CPU from. Between a producer's two steps the list has a gap;
//! consumers stop before it.
//!
//! Invariants
//! - `pushed - taken` is the number of entries; it is counted up before an entry is linked, so an entry that a consumer
//!   could take is never uncounted, and "zero" means empty.
//! - Only the holder of the consumer lock follows or changes `next` of a linked entry.
//! - An entry is in at most one queue; its link is free once it has been taken.

use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};
use crate::sync::{Mutex, sc_fence};
use crossbeam_utils::CachePadded;
use std::collections::VecDeque;
use std::ptr::{NonNull, null_mut};

/// Somebody holds a lock, and whoever only wants to know does not wait for it.
#[derive(Debug)]
pub(crate) struct Busy;

/// The link that a queued value starts with.
pub(crate) struct Link {
    next: AtomicPtr<Link>,
}

impl Link {
    pub(crate) fn new() -> Self {
        Link {
            next: AtomicPtr::new(null_mut()),
        }
    }
}

/// Links of consecutive entries that are pushed in one step.
pub(crate) struct Chain {
    first: NonNull<Link>,
    last: NonNull<Link>,
    len: usize,
}

impl Chain {
    pub(crate) fn of(link: NonNull<Link>) -> Self {
        // SAFETY: the caller owns the entry until the chain is pushed.
        unsafe { link.as_ref() }.next.store(null_mut(), Relaxed);
        Chain {
            first: link,
            last: link,
            len: 1,
        }
    }

    pub(crate) fn append(&mut self, link: NonNull<Link>) {
        // SAFETY: the caller owns both entries until the chain is pushed.
        unsafe {
            link.as_ref().next.store(null_mut(), Relaxed);
            self.last.as_ref().next.store(link.as_ptr(), Relaxed);
        }
        self.last = link;
        self.len += 1;
    }
}

struct Producers {
    tail: AtomicPtr<Link>,
    pushed: AtomicUsize,
    /// Up to this many pushes there is room for certain.
    room_until: AtomicUsize,
}

struct Consumers {
    head: *mut Link,
    /// Entries that were taken and given back unstarted; they come before everything else.
    returned: VecDeque<NonNull<Link>>,
}

pub(crate) struct Queue {
    producers: CachePadded<Producers>,
    consumers: CachePadded<Mutex<Consumers>>,
    taken: CachePadded<AtomicUsize>,
    stub: Box<Link>,
}

// SAFETY: links are reached only as the invariants above allow; the queue owns what is linked.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    pub(crate) fn new() -> Self {
        let stub = Box::new(Link::new());
        let first = std::ptr::from_ref::<Link>(&stub).cast_mut();
        Queue {
            producers: CachePadded::new(Producers {
                tail: AtomicPtr::new(first),
                pushed: AtomicUsize::new(0),
                room_until: AtomicUsize::new(0),
            }),
            consumers: CachePadded::new(Mutex::new(Consumers {
                head: first,
                returned: VecDeque::new(),
            })),
            taken: CachePadded::new(AtomicUsize::new(0)),
            stub,
        }
    }

    /// Entries in the queue. Sequentially consistent, for the checks around parking.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let taken = self.taken.load(SeqCst);
        let pushed = self.producers.pushed.load(SeqCst);
        // `taken` was read first and an entry is counted in before it is counted out: this never wraps below zero.
        pushed.wrapping_sub(taken)
    }

    /// Entries that were ever appended; wraps.
    pub(crate) fn pushed(&self) -> usize {
        self.producers.pushed.load(SeqCst)
    }

    /// True when `more` entries would pass `limit`. Racing producers may each find room for the same place, so the bound is
    /// kept to within the number of producers.
    #[inline]
    pub(crate) fn is_beyond(&self, limit: usize, more: usize) -> bool {
        let room_until = self.producers.room_until.load(Relaxed);
        let pushed = self.producers.pushed.load(Relaxed);
        let room = room_until.wrapping_sub(pushed) as isize;
        if room > 0 && room as usize >= more {
            return false;
        }
        self.is_beyond_now(limit, more, pushed)
    }

    /// Looks at what consumers have taken, whose cache line producers otherwise leave alone.
    #[cold]
    fn is_beyond_now(&self, limit: usize, more: usize, pushed: usize) -> bool {
        const MOST: usize = isize::MAX as usize / 2;
        let (limit, more) = (limit.min(MOST), more.min(MOST));
        let room_until = self.taken.load(Relaxed).wrapping_add(limit);
        let beyond = (room_until.wrapping_sub(pushed) as isize) < more as isize;
        if !beyond {
            // Ask again after an eighth of the room, so that a lowered limit is soon noticed.
            let ahead = (room_until.wrapping_sub(pushed) / 8).max(more);
            self.producers
                .room_until
                .store(pushed.wrapping_add(ahead), Relaxed);
        }
        beyond
    }

    /// Makes the next push look at the limit again, which may have changed.
    pub(crate) fn forget_room(&self) {
        let pushed = self.producers.pushed.load(Relaxed);
        self.producers.room_until.store(pushed, Relaxed);
    }

    /// Appends one entry and returns how many entries were ever appended, the new one included.
    ///
    /// The entry must be alive until it is taken and must not be in a queue.
    #[inline]
    pub(crate) fn push(&self, link: NonNull<Link>) -> usize {
        self.push_chain(Chain::of(link))
    }

    /// Appends the entries of a chain in order, in one step.
    #[inline]
    pub(crate) fn push_chain(&self, chain: Chain) -> usize {
        let pushed = self
            .producers
            .pushed
            .fetch_add(chain.len, SeqCst)
            .wrapping_add(chain.len);
        self.link(chain.first.as_ptr(), chain.last.as_ptr());
        sc_fence();
        pushed
    }

    #[inline]
    fn link(&self, first: *mut Link, last: *mut Link) {
        let before = self.producers.tail.swap(last, AcqRel);
        // SAFETY: `before` is the stub or an entry whose `next` nobody else writes: the swap made this thread the only
        // one that saw it as the tail, and a consumer does not take an entry whose `next` is still null.
        unsafe { (*before).next.store(first, Release) };
    }

    /// Takes up to `max` of the oldest entries, oldest first, and returns how many.
    pub(crate) fn take(&self, max: usize, mut each: impl FnMut(NonNull<Link>)) -> usize {
        let mut consumers = lock(&self.consumers);
        let mut count = 0;
        while count < max {
            let entry = match consumers.returned.pop_front() {
                Some(entry) => entry,
                None => match self.unlink(&mut consumers.head) {
                    Some(entry) => entry,
                    None => break,
                },
            };
            each(entry);
            count += 1;
        }
        drop(consumers);
        if count > 0 {
            self.taken.fetch_add(count, SeqCst);
        }
        count
    }

    /// Shows the oldest entry that can be reached now, which nobody can take meanwhile. Does not wait for one who takes entries:
    /// he may be a back thread from which the kernel has taken the CPU.
    ///
    /// # Errors
    /// [`Busy`] when the lock cannot be had within a few microseconds.
    pub(crate) fn with_first<T>(
        &self,
        see: impl FnOnce(NonNull<Link>) -> T,
    ) -> Result<Option<T>, Busy> {
        let consumers = lock_soon(&self.consumers).ok_or(Busy)?;
        let first = match consumers.returned.front() {
            Some(&first) => Some(first),
            None => {
                let stub = std::ptr::from_ref::<Link>(&self.stub).cast_mut();
                let mut head = consumers.head;
                if head == stub {
                    // SAFETY: the stub lives as long as the queue.
                    head = unsafe { (*head).next.load(Acquire) };
                }
                NonNull::new(head)
            }
        };
        Ok(first.map(see))
    }

    /// Gives back entries that were taken and not started; they come first again, in the order given.
    pub(crate) fn give_back(&self, entries: &[NonNull<Link>]) {
        let mut consumers = lock(&self.consumers);
        // Counted before they can be taken again, as in `push`.
        self.taken.fetch_sub(entries.len(), SeqCst);
        for &entry in entries.iter().rev() {
            consumers.returned.push_front(entry);
        }
        drop(consumers);
        sc_fence();
    }

    /// The oldest entry that can be reached now, unlinked. None when the queue is empty or a producer stands in the gap.
    fn unlink(&self, head: &mut *mut Link) -> Option<NonNull<Link>> {
        let stub = std::ptr::from_ref::<Link>(&self.stub).cast_mut();
        // SAFETY: `head` is the stub or a linked entry; the caller holds the consumer lock.
        unsafe {
            let mut first = *head;
            let mut next = (*first).next.load(Acquire);
            if first == stub {
                if next.is_null() {
                    return None;
                }
                *head = next;
                first = next;
                next = (*first).next.load(Acquire);
            }
            if next.is_null() {
                if self.producers.tail.load(Acquire) != first {
                    return None; // a producer has taken its place behind `first` and not linked itself yet
                }
                // `first` is the last entry: put the stub behind it, so that it can be unlinked.
                self.stub.next.store(null_mut(), Relaxed);
                self.link(stub, stub);
                next = (*first).next.load(Acquire);
                if next.is_null() {
                    return None; // another producer came between `first` and the stub and has not linked itself yet
                }
            }
            *head = next;
            NonNull::new(first)
        }
    }
}

#[cfg(not(feature = "loom"))]
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
#[cfg(not(feature = "loom"))]
use crate::ledger::lock_soon;
#[cfg(feature = "loom")]
fn lock_soon<T>(mutex: &Mutex<T>) -> Option<loom::sync::MutexGuard<'_, T>> {
    mutex.try_lock().ok()
}
#[cfg(feature = "loom")]
fn lock<T>(mutex: &Mutex<T>) -> loom::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
