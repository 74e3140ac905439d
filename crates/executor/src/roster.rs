//! Which worker numbers are in service, who retires, and who takes a stuck worker's place.
//!
//! Invariants
//! - A group has exactly as many numbers in service as workers are wanted of it. The supervisor starts a thread for each of them that
//!   has none; a thread whose number is not in service has been told to stop.
//! - A *replaced* worker is stuck in a task. Its number is not in service and not free until its thread has ended, which it does at
//!   the end of the task. So a number has one thread at a time, and at most `max_stuck` threads are left in their tasks.
//! - The I/O thread's number is never in service: it is neither counted, scaled nor replaced. When it is stuck that is reported.
//!
//! **Replacing.** A stuck worker holds four things that others need, and each is taken from it: its number's place (another number
//! takes it), its token (given back in its name), its slice (settled in its name, so that its class is not charged for standing still),
//! and what it has queued (given back to the classes). A task inside [`blocking`](crate::blocking) has given back the token itself, but
//! still keeps a thread from the group's work; so it is replaced like any other, which is what makes a group of few threads survive
//! calls that never return.
//!
//! **Retiring.** Whoever asks for fewer workers names a number of them; numbers without a thread go first, then the stuck, then the least
//! healthy, then the highest number.

use crate::error::Error;
use crate::event::What;
use crate::ledger::Used;
use crate::pool::{NOBODY, Pool, WorkerShared, group_index, slice};
use crate::spine::{IO_WORKER, MAX_WORKERS_PER_GROUP, group_of, workers_of};
use crate::threads;
use flyball_core::class::Group;
use flyball_core::id::ClassId;
use flyball_core::time::Timestamp;
use std::cmp::Reverse;
use std::sync::atomic::Ordering::*;
use std::sync::{Mutex, MutexGuard};

/// The numbers in service of each group.
pub(crate) struct Roster([Mutex<Places>; 2]);

/// One bit a number, from the group's first on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places(u128);

const _: () = assert!(MAX_WORKERS_PER_GROUP == u128::BITS as usize);

impl Places {
    fn lowest(count: usize) -> Self {
        Places(match count {
            MAX_WORKERS_PER_GROUP => u128::MAX,
            fewer => (1 << fewer) - 1,
        })
    }

    fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    fn has(self, position: usize) -> bool {
        self.0 >> position & 1 == 1
    }

    fn add(&mut self, position: usize) {
        self.0 |= 1 << position;
    }

    fn remove(&mut self, position: usize) {
        self.0 &= !(1 << position);
    }
}

/// The group of a worker, and where its number stands there.
fn place_of(index: usize) -> (Group, usize) {
    let group = group_of(index);
    (group, index - workers_of(group).start)
}

impl Roster {
    /// The lowest numbers of each group.
    pub(crate) fn new(front: usize, back: usize) -> Self {
        Roster([front, back].map(|count| Mutex::new(Places::lowest(count))))
    }

    fn lock(&self, group: Group) -> MutexGuard<'_, Places> {
        self.0[group_index(group)]
            .lock()
            .unwrap_or_else(|e| e.into_inner())
    }

    /// How many workers a group should have.
    pub(crate) fn wanted(&self, group: Group) -> usize {
        self.lock(group).count()
    }

    /// The numbers in service of a group, in ascending order.
    pub(crate) fn indexes(&self, group: Group) -> impl Iterator<Item = usize> + use<> {
        let places = *self.lock(group);
        workers_of(group)
            .enumerate()
            .filter(move |&(position, _)| places.has(position))
            .map(|(_, index)| index)
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        let (group, position) = place_of(index);
        self.lock(group).has(position)
    }
}

impl Pool {
    /// Changes how many workers a group should have; those too many are told to stop.
    pub(crate) fn scale(&self, group: Group, workers: usize, reason: &str) -> Result<(), Error> {
        let first = workers_of(group).start;
        let mut places = self.roster.lock(group);
        let before = places.count();
        let mut new = *places;
        while new.count() < workers {
            let Some(position) = self.free_place(group, new) else {
                return Err(Error::Config {
                    key: "workers",
                    found: workers.to_string(),
                    expected: "fewer, as replaced workers that are still in their tasks keep their numbers",
                });
            };
            new.add(position);
        }
        let mut retired = Vec::new();
        while new.count() > workers {
            let Some(position) = self.next_to_retire(group, new) else {
                break;
            };
            new.remove(position);
            retired.push(first + position);
        }
        *places = new;
        drop(places);
        self.events.push(
            self.now(),
            None,
            What::Scaled,
            format!("{group:?}: {before} → {workers}, {reason}"),
        );
        for index in retired {
            if threads::is_alive(self, index) {
                threads::stop(self, index, "scaled down");
            }
        }
        Ok(())
    }

    /// Takes one worker out of service; it stops after its task.
    pub(crate) fn retire_worker(&self, index: usize) -> Result<(), Error> {
        let (group, position) = place_of(index);
        let mut places = self.roster.lock(group);
        let before = places.count();
        if !places.has(position) {
            return Err(Error::WorkerLeaving(index as u16));
        }
        if before == 1 {
            return Err(Error::Config {
                key: "workers",
                found: "0".into(),
                expected: "at least 1: it is the last of its group",
            });
        }
        places.remove(position);
        drop(places);
        self.events.push(
            self.now(),
            None,
            What::Scaled,
            format!(
                "{group:?}: {before} → {}, worker {index} drained",
                before - 1
            ),
        );
        threads::stop(self, index, "to be drained");
        Ok(())
    }

    /// The best number of a group to put into service: one without a thread, and a low one.
    fn free_place(&self, group: Group, places: Places) -> Option<usize> {
        workers_of(group)
            .enumerate()
            .filter(|&(position, index)| !places.has(position) && index != IO_WORKER)
            .filter(|&(_, index)| {
                self.workers[index]
                    .get()
                    .is_none_or(|worker| worker.replaced_by().is_none())
            })
            .min_by_key(|&(_, index)| threads::is_alive(self, index))
            .map(|(position, _)| position)
    }

    /// The worker of a group that can be missed most.
    fn next_to_retire(&self, group: Group, places: Places) -> Option<usize> {
        let worth = |index: usize| match self.workers[index].get() {
            Some(worker) if threads::is_alive(self, index) => {
                (1, !worker.stuck.load(Relaxed), worker.health.load(Relaxed))
            }
            _ => (0, false, 0),
        };
        workers_of(group)
            .enumerate()
            .filter(|&(position, _)| places.has(position))
            .min_by_key(|&(position, index)| (worth(index), Reverse(position)))
            .map(|(position, _)| position)
    }

    /// Threads of replaced workers that are still in their tasks.
    fn replaced(&self) -> usize {
        self.known_workers()
            .filter(|worker| worker.replaced_by().is_some())
            .count()
    }

    /// Puts another worker in the place of one that is stuck; says whether that is done, and tells why not once, when `told` is false.
    pub(crate) fn replace(&self, worker: &WorkerShared, told: bool) -> bool {
        let index = worker.index;
        if worker.replaced_by().is_some() {
            // It may have taken a token again, after a call that blocked.
            self.take_over(worker);
            return true;
        }
        if index == IO_WORKER || self.spine.terminated.load(SeqCst) {
            return false;
        }
        if !self.roster.has(index) {
            // It was to retire: nobody takes its place, but others need what it holds.
            self.take_over(worker);
            return false;
        }
        let refuse = |reason: String| {
            if !told {
                self.events
                    .push(self.now(), Some(index), What::NotReplaced, reason);
            }
            false
        };
        let (replaced, most) = (self.replaced(), self.tuning.max_stuck.load(Relaxed));
        if replaced >= most {
            return refuse(format!(
                "{replaced} threads are left in their tasks, the most allowed"
            ));
        }
        let (group, position) = place_of(index);
        let successor = {
            let mut places = self.roster.lock(group);
            let free = places
                .has(position)
                .then(|| self.free_place(group, *places))
                .flatten();
            if let Some(free) = free {
                places.remove(position);
                places.add(free);
                // Under the lock, so that the number is never free for anybody.
                let successor = workers_of(group).start + free;
                worker.successor.store(successor as u32, SeqCst);
            }
            free.map(|free| workers_of(group).start + free)
        };
        let Some(successor) = successor else {
            return refuse("no number is free in its group".into());
        };
        if !threads::is_alive(self, index) {
            // Its thread, which was to be restarted, ended just now and may have returned the number before it was kept. A thread
            // that ends after this look returns it itself.
            self.return_number(worker);
            return true;
        }
        threads::stop(self, index, "replaced");
        self.take_over(worker);
        let moved = self.move_queue(worker);
        self.events.push(
            self.now(),
            Some(index),
            What::Replaced,
            format!("stuck: worker {successor} takes its place, {moved} of its tasks moved"),
        );
        true
    }

    /// Gives back in a stuck worker's name what others need.
    fn take_over(&self, worker: &WorkerShared) {
        if worker.take_token(&self.spine.signals) {
            self.pass_on(worker.group);
            self.pass_on(Group::Back);
        }
        self.settle_slice(worker);
    }

    /// Settles the slice of a stuck worker with the CPU time that it used: a slice that is out is held against its class for as long
    /// as it lasts, which for a task that stands still would shut the class out. A class with a limit on how many workers run it keeps
    /// the slice out, as the task counts against the limit until it ends.
    fn settle_slice(&self, worker: &WorkerShared) {
        let granted = worker.slice_granted.load(Acquire);
        let class = usize::from(worker.ring_class.load(Relaxed));
        if granted == slice::NONE || granted == slice::SETTLED {
            return;
        }
        let is_limited = self
            .classes
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
            .filter(|info| info.id.index() == class)
            .any(|info| {
                let spec = info.spec.read().unwrap_or_else(|e| e.into_inner());
                spec.concurrency.is_some()
            });
        let clock = *worker.clock.lock().unwrap_or_else(|e| e.into_inner());
        let (Some(class), Some(cpu), false) = (
            ClassId::try_new(class),
            clock.and_then(|clock| clock.read()),
            is_limited,
        ) else {
            return;
        };
        let used = cpu.saturating_sub(worker.slice_cpu.load(Relaxed));
        let slice_ns = worker.slice_ns.load(Relaxed);
        worker.slice_settled.store(cpu, Relaxed);
        if worker
            .slice_granted
            .compare_exchange(granted, slice::SETTLED, SeqCst, SeqCst)
            .is_err()
        {
            return; // the task has ended just now, and its worker settles
        }
        let mut ledger = self.ledger.open();
        if let Some(grant) = ledger.regrant(class, Timestamp::from_nanos(granted), slice_ns) {
            ledger.settle(
                self.now(),
                Some(Used {
                    grant: Some(grant),
                    slot: &self.spine.classes[class.index()],
                    cpu_ns: used,
                }),
            );
        }
    }

    /// A replaced worker's thread ends: its number is free again.
    pub(crate) fn return_number(&self, worker: &WorkerShared) {
        worker.successor.store(NOBODY, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_set_of_positions() {
        let mut places = Places::lowest(3);
        assert_eq!(places.count(), 3);
        assert!(places.has(2) && !places.has(3));
        places.remove(1);
        places.add(127);
        assert!(!places.has(1) && places.has(127));
        assert_eq!(places.count(), 3);
        assert_eq!(Places::lowest(128).count(), 128);
        assert_eq!(Places::lowest(0).count(), 0);
    }
}
