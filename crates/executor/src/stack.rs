//! A worker's stack of closures that its own tasks submitted: newest first for the owner, oldest first for thieves.
//!
//! Work that splits itself (a tree of closures) runs depth first that way: what runs next is what was written last, and what
//! waits is one sibling a level instead of half of the tree. Thieves take from the other end, where the large parts are.
//!
//! The deque of D. Chase and Y. Lev ("Dynamic Circular Work-Stealing Deque", SPAA 2005) in the form that N. M. Lê and others
//! proved for weak memory models (PPoPP 2013), with a fixed capacity: what does not fit goes to the class's queue.
//!
//! Invariants
//! - `bottom - top` is the number of entries, at most [`CAPACITY`]; `top` only grows, and only by a compare-and-swap.
//! - Only the owner writes `bottom` and the slots.
//! - The owner takes an entry without the compare-and-swap only if it saw more than one after it had lowered `bottom`.
//! - `push` publishes with a sequentially consistent swap, for the same reason as in [`ring`](crate::ring).

use crate::sync::atomic::{AtomicIsize, AtomicPtr, Ordering::*};
use crate::sync::sc_fence;
use crossbeam_utils::CachePadded;
use std::ptr::{NonNull, null_mut};

/// Entries a stack holds; a power of two.
#[cfg(not(feature = "loom"))]
pub(crate) const CAPACITY: isize = 256;
#[cfg(feature = "loom")]
pub(crate) const CAPACITY: isize = 4;

pub(crate) struct Stack<T> {
    top: CachePadded<AtomicIsize>,
    bottom: CachePadded<AtomicIsize>,
    slots: Box<[AtomicPtr<T>]>,
}

impl<T> Stack<T> {
    pub(crate) fn new() -> Self {
        Stack {
            top: CachePadded::new(AtomicIsize::new(0)),
            bottom: CachePadded::new(AtomicIsize::new(0)),
            slots: (0..CAPACITY).map(|_| AtomicPtr::new(null_mut())).collect(),
        }
    }

    #[inline(always)]
    fn slot(&self, at: isize) -> &AtomicPtr<T> {
        &self.slots[(at & (CAPACITY - 1)) as usize]
    }

    /// Entries now; a recent value for others than the owner.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let top = self.top.load(SeqCst);
        let bottom = self.bottom.load(SeqCst);
        bottom.wrapping_sub(top).max(0) as usize
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry, or gives it back when the stack is full. Owner only.
    #[inline]
    pub(crate) fn push(&self, entry: NonNull<T>) -> Result<(), NonNull<T>> {
        let bottom = self.bottom.load(Relaxed);
        if bottom.wrapping_sub(self.top.load(Acquire)) >= CAPACITY {
            return Err(entry);
        }
        self.slot(bottom).store(entry.as_ptr(), Relaxed);
        self.bottom.swap(bottom.wrapping_add(1), SeqCst);
        sc_fence();
        Ok(())
    }

    /// Takes the newest entry. Owner only.
    #[inline]
    pub(crate) fn pop(&self) -> Option<NonNull<T>> {
        let bottom = self.bottom.load(Relaxed);
        if self.top.load(Relaxed) == bottom {
            return None; // `top` never passes `bottom`: it is empty for certain
        }
        let last = bottom.wrapping_sub(1);
        // The lowered end must be visible before `top` is read: a thief that reads the old end must be seen there.
        self.bottom.swap(last, SeqCst);
        sc_fence();
        let top = self.top.load(SeqCst);
        let left = last.wrapping_sub(top);
        if left < 0 {
            self.bottom.store(bottom, Relaxed);
            return None;
        }
        let entry = NonNull::new(self.slot(last).load(Relaxed));
        if left > 0 {
            return entry;
        }
        // The last one: whoever moves `top` has it.
        let won = self
            .top
            .compare_exchange(top, top.wrapping_add(1), SeqCst, Relaxed)
            .is_ok();
        self.bottom.store(bottom, Relaxed);
        if won { entry } else { None }
    }

    /// Takes the oldest entry. Any thread.
    pub(crate) fn steal(&self) -> Option<NonNull<T>> {
        loop {
            let top = self.top.load(SeqCst);
            sc_fence();
            let bottom = self.bottom.load(SeqCst);
            if bottom.wrapping_sub(top) <= 0 {
                return None;
            }
            let entry = NonNull::new(self.slot(top).load(Relaxed));
            if self
                .top
                .compare_exchange(top, top.wrapping_add(1), SeqCst, Relaxed)
                .is_ok()
            {
                return entry;
            }
        }
    }
}
