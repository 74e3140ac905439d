//! The scheduler behind its lock, and what front workers owe it.
//!
//! Back threads hold the lock for a fraction of a microsecond, but the kernel may take the CPU from one of them just then and,
//! where other programs are busy, give it back only after milliseconds. A front worker therefore never waits for the lock:
//! it tries for a few microseconds. If it does not get it, it goes on with the highest class that is ready, and puts what it
//! used on a list that needs no lock; whoever has the scheduler next settles that first. Nor does anybody wait who only wants to know.

use crate::spine::ClassSlot;
use flyball_core::id::{ClassId, ClassSet};
use flyball_core::time::Timestamp;
use flyball_policy::sched::{Grant, Pick, Scheduler};
use std::ops::{Deref, DerefMut};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// How often a front worker tries the lock.
const TRIES: u32 = 200;

/// The lock, unless it is held for longer than a few microseconds.
pub(crate) fn lock_soon<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    for _ in 0..TRIES {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(guard)) => return Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    None
}

/// CPU time of a slice that is over.
pub(crate) struct Used {
    /// None when the slice was begun without asking.
    pub(crate) grant: Option<Grant>,
    pub(crate) slot: &'static ClassSlot,
    pub(crate) cpu_ns: u64,
}

pub(crate) struct Ledger {
    locked: Mutex<Locked>,
    /// At most one entry a front worker and slice, and settled by the next holder of the lock.
    owed: Sender<Used>,
}

struct Locked {
    scheduler: Scheduler,
    owed: Receiver<Used>,
}

/// The scheduler, for as long as this lives.
pub(crate) struct Open<'a>(MutexGuard<'a, Locked>);

impl Ledger {
    pub(crate) fn new(scheduler: Scheduler) -> Self {
        let (send, owed) = channel();
        Ledger {
            locked: Mutex::new(Locked { scheduler, owed }),
            owed: send,
        }
    }

    /// Waits for the scheduler. Not for front workers.
    pub(crate) fn open(&self) -> Open<'_> {
        Open(self.locked.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// The scheduler, unless its lock is held for longer than a front worker may wait.
    pub(crate) fn try_open(&self) -> Option<Open<'_>> {
        lock_soon(&self.locked).map(Open)
    }

    /// Leaves it to the next holder of the lock to settle.
    pub(crate) fn owe(&self, used: Used) {
        // The receiver lives as long as the sender: in this value.
        let _ = self.owed.send(used);
    }
}

impl Open<'_> {
    /// Settles what front workers left, then this.
    pub(crate) fn settle(&mut self, now: Timestamp, used: Option<Used>) {
        while let Ok(owed) = self.0.owed.try_recv() {
            self.charge(now, owed);
        }
        if let Some(used) = used {
            self.charge(now, used);
        }
    }

    /// Charges a slice to its class; one that was begun without asking gets its grant now.
    fn charge(&mut self, now: Timestamp, used: Used) {
        let grant = used.grant.or_else(|| {
            let class = ClassSet::only(ClassId::new(used.slot.index));
            match self.0.scheduler.pick(now, class, class) {
                Pick::Run(grant) => Some(grant),
                _ => None, // at its ceiling or its limit on workers: it has had its part anyway
            }
        });
        if let Some(grant) = grant {
            self.0.scheduler.settle(now, grant, used.cpu_ns);
        }
    }
}

impl Deref for Open<'_> {
    type Target = Scheduler;
    fn deref(&self) -> &Scheduler {
        &self.0.scheduler
    }
}

impl DerefMut for Open<'_> {
    fn deref_mut(&mut self) -> &mut Scheduler {
        &mut self.0.scheduler
    }
}
