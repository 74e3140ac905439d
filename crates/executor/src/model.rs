//! The structures that threads meet in, as `tests/loom.rs` sees them: thin wrappers, nothing of their own.
//!
//! Entries are small numbers. In rings and stacks they travel as pointers that nobody follows; in queues they are real
//! allocations, so that loom also sees who touches a link.

use crate::queue::{self, Chain, Link};
use crate::{ring, signals, stack};
use loom::cell::UnsafeCell;
use std::ptr::{NonNull, without_provenance_mut};
use std::time::Duration;

pub use flyball_core::class::Group;

/// Entries that fit a ring in the model.
pub const RING_CAPACITY: usize = ring::CAPACITY;
/// Entries that fit a stack in the model.
pub const STACK_CAPACITY: usize = stack::CAPACITY as usize;
/// Rank of a worker that runs no class.
pub const NO_RANK: u8 = signals::NO_RANK;

/// See [`crate::sync::sc_fence`].
pub fn sc_fence() {
    crate::sync::sc_fence();
}

fn pointer(number: usize) -> NonNull<u8> {
    match NonNull::new(without_provenance_mut(number)) {
        Some(pointer) => pointer,
        None => unreachable!("entries are numbered from 1"),
    }
}

fn number(pointer: NonNull<u8>) -> usize {
    pointer.addr().get()
}

/// A worker's ring; entries are numbered from 1.
pub struct Ring(ring::Ring<u8>);

impl Default for Ring {
    fn default() -> Self {
        Ring(ring::Ring::new())
    }
}

impl Ring {
    /// Adds an entry, or gives it back. Owner only.
    pub fn push(&self, entry: usize) -> Result<usize, usize> {
        self.0.push(pointer(entry)).map_err(number)
    }

    /// Adds an entry that idle workers need not see at once. Owner only.
    pub fn push_quiet(&self, entry: usize) -> Result<(), usize> {
        self.0.push_quiet(pointer(entry)).map_err(number)
    }

    /// Takes the oldest entry. Owner only.
    pub fn pop(&self) -> Option<usize> {
        self.0.pop().map(number)
    }

    /// Takes the older half.
    pub fn steal(&self) -> Vec<usize> {
        let mut taken = Vec::new();
        let count = self.0.steal(|entry| taken.push(number(entry)));
        assert_eq!(count, taken.len());
        taken
    }

    /// Entries now.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A worker's stack; entries are numbered from 1.
pub struct Stack(stack::Stack<u8>);

impl Default for Stack {
    fn default() -> Self {
        Stack(stack::Stack::new())
    }
}

impl Stack {
    /// Adds an entry, or gives it back. Owner only.
    pub fn push(&self, entry: usize) -> Result<(), usize> {
        self.0.push(pointer(entry)).map_err(number)
    }

    /// Takes the newest entry. Owner only.
    pub fn pop(&self) -> Option<usize> {
        self.0.pop().map(number)
    }

    /// Takes the oldest entry.
    pub fn steal(&self) -> Option<usize> {
        self.0.steal().map(number)
    }

    /// Entries now.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An entry of a queue. loom watches the number, too: whoever reads it must know of its writing.
#[repr(C)]
struct Entry {
    link: Link,
    number: UnsafeCell<usize>,
}

fn allocate(number: usize) -> NonNull<Link> {
    let entry = Box::new(Entry {
        link: Link::new(),
        number: UnsafeCell::new(0),
    });
    // SAFETY: nobody else knows the entry yet.
    entry.number.with_mut(|place| unsafe { *place = number });
    NonNull::from(Box::leak(entry)).cast()
}

/// Entries that were taken from a queue.
pub struct Taken(Vec<NonNull<Link>>);

impl Taken {
    /// The first `at` of them, and the others.
    pub fn split(mut self, at: usize) -> (Taken, Taken) {
        let others = self.0.split_off(at.min(self.0.len()));
        (self, Taken(others))
    }

    /// Their numbers; the entries are freed.
    pub fn into_numbers(self) -> Vec<usize> {
        self.0
            .into_iter()
            .map(|link| {
                // SAFETY: made by `allocate`, and taken from the queue once.
                let entry = unsafe { Box::from_raw(link.cast::<Entry>().as_ptr()) };
                // SAFETY: as above; nobody writes it any more.
                entry.number.with(|number| unsafe { *number })
            })
            .collect()
    }
}

/// A class's queue.
pub struct Queue(queue::Queue);

impl Default for Queue {
    fn default() -> Self {
        Queue(queue::Queue::new())
    }
}

impl Queue {
    /// Appends an entry.
    pub fn push(&self, number: usize) {
        self.0.push(allocate(number));
    }

    /// Appends entries in one step.
    pub fn push_all(&self, numbers: &[usize]) {
        let mut chain: Option<Chain> = None;
        for &number in numbers {
            let link = allocate(number);
            match &mut chain {
                Some(chain) => chain.append(link),
                None => chain = Some(Chain::of(link)),
            }
        }
        if let Some(chain) = chain {
            self.0.push_chain(chain);
        }
    }

    /// Takes up to `max` of the oldest.
    pub fn take(&self, max: usize) -> Taken {
        let mut taken = Vec::new();
        let count = self.0.take(max, |link| taken.push(link));
        assert_eq!(count, taken.len());
        Taken(taken)
    }

    /// Gives entries back, to be the oldest again.
    pub fn give_back(&self, taken: Taken) {
        self.0.give_back(&taken.0);
    }

    /// Entries now.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Who works, who sleeps, who must be woken.
pub struct Signals(signals::Signals);

impl Signals {
    /// For that many workers, of which `parallelism` may run at once.
    pub fn new(workers: usize, parallelism: u32) -> Self {
        Signals(signals::Signals::new(workers, parallelism))
    }

    /// See [`signals::Signals::ready`].
    pub fn ready(&self) -> u64 {
        self.0.ready()
    }

    /// See [`signals::Signals::mark_ready`].
    pub fn mark_ready(&self, class: u8) -> bool {
        self.0.mark_ready(class)
    }

    /// See [`signals::Signals::unmark_ready`].
    pub fn unmark_ready(&self, class: u8, is_empty: impl FnOnce() -> bool) {
        self.0.unmark_ready(class, is_empty);
    }

    /// See [`signals::Signals::has_room`].
    pub fn has_room(&self) -> bool {
        self.0.has_room()
    }

    /// See [`signals::Signals::acquire_token`].
    pub fn acquire_token(&self, group: Group) -> bool {
        self.0.acquire_token(group)
    }

    /// See [`signals::Signals::release_token`].
    pub fn release_token(&self, group: Group) {
        self.0.release_token(group);
    }

    /// See [`signals::Signals::any_idle`].
    pub fn any_idle(&self, group: Group) -> bool {
        self.0.any_idle(group)
    }

    /// See [`signals::Signals::wake_one`].
    pub fn wake_one(&self, group: Group) -> bool {
        self.0.wake_one(group)
    }

    /// See [`signals::Signals::wake_worker`].
    pub fn wake_worker(&self, group: Group, worker: usize) -> bool {
        self.0.wake_worker(group, worker)
    }

    /// See [`signals::Signals::start_searching`].
    pub fn start_searching(&self, group: Group) {
        self.0.start_searching(group);
    }

    /// See [`signals::Signals::stop_searching`].
    pub fn stop_searching(&self, group: Group) -> bool {
        self.0.stop_searching(group)
    }

    /// See [`signals::Signals::park`].
    pub fn park(
        &self,
        group: Group,
        worker: usize,
        timeout: Option<Duration>,
        has_work: impl FnOnce() -> bool,
    ) {
        self.0.park(group, worker, timeout, has_work);
    }

    /// See [`signals::Signals::nap`].
    pub fn nap(&self, group: Group, worker: usize, time: Duration) {
        self.0.nap(group, worker, time);
    }

    /// See [`signals::Signals::publish_rank`].
    pub fn publish_rank(&self, worker: usize, rank: u8) {
        self.0.publish_rank(worker, rank);
    }

    /// See [`signals::Signals::revoke`].
    pub fn revoke(&self, worker: usize) {
        self.0.revoke(worker);
    }

    /// See [`signals::Signals::revoke_below`].
    pub fn revoke_below(&self, workers: std::ops::Range<usize>, rank: u8) {
        self.0.revoke_below(workers, rank);
    }

    /// See [`signals::Signals::is_revoked`].
    pub fn is_revoked(&self, worker: usize) -> bool {
        self.0.is_revoked(worker)
    }
}
