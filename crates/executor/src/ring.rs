//! A worker's run queue: a bounded first-in first-out ring that one thread fills and any thread may steal from.
//!
//! The owner pushes and pops; thieves take the older half in one step. All movement of the read end is a compare-and-swap
//! on `head`, so owner and thieves meet only there. Entries are pointers, read before the swap that claims them: a read that
//! raced with an overwrite is never used, because the swap fails then.
//!
//! Invariants
//! - `tail - head` is the number of entries and never exceeds [`CAPACITY`]; both only grow (modulo 2^64).
//! - Only the owner writes `tail` and the slots; it overwrites a slot only after it saw `head` pass it.
//! - `push` makes the entry visible with a sequentially consistent swap, so that a worker that announces itself idle and
//!   then looks at the ring, and an owner that pushes and then looks for idle workers, cannot miss each other.
//!
//! The shape follows the per-processor run queue of the Go scheduler and tokio's local queue.

use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};
use crate::sync::sc_fence;
use crossbeam_utils::CachePadded;
use std::ptr::NonNull;

/// Entries a ring holds; a power of two. What does not fit goes to the class's queue.
#[cfg(not(feature = "loom"))]
pub(crate) const CAPACITY: usize = 256;
#[cfg(feature = "loom")]
pub(crate) const CAPACITY: usize = 4;

/// Most entries that one steal takes.
pub(crate) const STEAL_MAX: usize = CAPACITY / 2;

pub(crate) struct Ring<T> {
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
    slots: Box<[AtomicPtr<T>]>,
}

impl<T> Ring<T> {
    pub(crate) fn new() -> Self {
        Ring {
            head: CachePadded::new(AtomicUsize::new(0)),
            tail: CachePadded::new(AtomicUsize::new(0)),
            slots: (0..CAPACITY)
                .map(|_| AtomicPtr::new(std::ptr::null_mut()))
                .collect(),
        }
    }

    #[inline(always)]
    fn slot(&self, at: usize) -> &AtomicPtr<T> {
        &self.slots[at & (CAPACITY - 1)]
    }

    /// Entries in the ring; exact for the owner when nobody steals, a recent value for others.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let head = self.head.load(SeqCst);
        let tail = self.tail.load(SeqCst);
        tail.wrapping_sub(head).min(CAPACITY)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry and returns how many the ring then holds, or gives it back when the ring is full. Owner only.
    #[inline]
    pub(crate) fn push(&self, entry: NonNull<T>) -> Result<usize, NonNull<T>> {
        let tail = self.tail.load(Relaxed);
        let len = tail.wrapping_sub(self.head.load(Acquire));
        if len >= CAPACITY {
            return Err(entry);
        }
        self.slot(tail).store(entry.as_ptr(), Relaxed);
        self.tail.swap(tail.wrapping_add(1), SeqCst);
        sc_fence();
        Ok(len + 1)
    }

    /// Adds an entry that no idle worker needs to learn of (the caller looks for idle workers later). Owner only.
    #[inline]
    pub(crate) fn push_quiet(&self, entry: NonNull<T>) -> Result<(), NonNull<T>> {
        let tail = self.tail.load(Relaxed);
        if tail.wrapping_sub(self.head.load(Acquire)) >= CAPACITY {
            return Err(entry);
        }
        self.slot(tail).store(entry.as_ptr(), Relaxed);
        self.tail.store(tail.wrapping_add(1), Release);
        Ok(())
    }

    /// Takes the oldest entry. Owner only.
    #[inline]
    pub(crate) fn pop(&self) -> Option<NonNull<T>> {
        let tail = self.tail.load(Relaxed);
        let mut head = self.head.load(Acquire);
        loop {
            if head == tail {
                return None;
            }
            let entry = self.slot(head).load(Relaxed);
            match self
                .head
                .compare_exchange(head, head.wrapping_add(1), AcqRel, Acquire)
            {
                Ok(_) => return NonNull::new(entry),
                Err(now) => head = now,
            }
        }
    }

    /// Takes the older half (at least one, at most [`STEAL_MAX`]) and hands each entry to `each`, oldest first; returns how
    /// many. Any thread.
    pub(crate) fn steal(&self, mut each: impl FnMut(NonNull<T>)) -> usize {
        let mut taken = [std::ptr::null_mut(); STEAL_MAX];
        let mut head = self.head.load(Acquire);
        loop {
            let tail = self.tail.load(Acquire);
            let len = tail.wrapping_sub(head);
            // A stale head may lie more than a ring behind a fresh tail; the swap below would fail.
            if len > CAPACITY {
                head = self.head.load(Acquire);
                continue;
            }
            let count = len.div_ceil(2).min(STEAL_MAX);
            if count == 0 {
                return 0;
            }
            for (offset, entry) in taken[..count].iter_mut().enumerate() {
                *entry = self.slot(head.wrapping_add(offset)).load(Relaxed);
            }
            match self
                .head
                .compare_exchange(head, head.wrapping_add(count), AcqRel, Acquire)
            {
                Ok(_) => {
                    taken[..count]
                        .iter()
                        .filter_map(|&entry| NonNull::new(entry))
                        .for_each(&mut each);
                    return count;
                }
                Err(now) => head = now,
            }
        }
    }
}
