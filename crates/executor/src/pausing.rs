//! Classes that are paused, resumed, and taken away.
//!
//! **Paused**: a worker may run the classes in its group's mask ([`Pool::mask`]); pausing takes the class's bit out. Everything that
//! decides what to run, whom to wake and whose slice to take back goes by the mask, so nothing of the class starts any more. What
//! was queued stays in its queue, what a worker holds in its ring goes back there, futures stay where they are; closures and polls
//! that run come to their end. Submissions wait up to the queue's limit, deadlines go on running. Resuming puts the bit back and
//! then looks for work, while a submitter makes its task visible and then looks at the mode: one of them sees the other.
//!
//! A scope that is waited for on a worker runs its own closures there whether its class is paused or not: it is part of a closure
//! that runs. A shutdown resumes everything, for what was accepted must run.
//!
//! **Removed**: only a class without any task. It is closed first (paused, no room in its queue), then looked at; a submission that was
//! admitted before and comes after is cancelled by its submitter or by the remover, whoever is second. Its slot serves a new class
//! once the last handle of the old one is gone, so that no handle ever reaches another class than its own.

use crate::error::Error;
use crate::event::What;
use crate::pool::{ClassInfo, Pool, TaskWhat, find, group_index, state};
use crate::spine::{IO_WORKER, mode};
use flyball_core::class::ClassSpec;
use flyball_core::class::Group;
use std::sync::Arc;
use std::sync::atomic::{Ordering::*, fence};
use std::time::Duration;

/// How long removing a class waits for workers to leave it: they do at their next look for work, a nap of 400 µs at most later.
const LEAVING_MAX: Duration = Duration::from_millis(100);

impl Pool {
    /// Stops running a class; true when it ran before.
    pub(crate) fn pause_class(&self, name: &str) -> Result<bool, Error> {
        // The list's lock makes pausing, resuming, changing and removing of classes one after the other.
        let classes = self.classes.write().unwrap_or_else(|e| e.into_inner());
        let info = find(&classes, name)?;
        if info.slot.mode.load(SeqCst) == mode::PAUSED {
            return Ok(false);
        }
        self.close(info);
        self.events
            .push(self.now(), None, What::Paused, format!("class {name}"));
        Ok(true)
    }

    /// Runs a class again; true when it was paused.
    pub(crate) fn resume_class(&self, name: &str) -> Result<bool, Error> {
        let classes = self.classes.write().unwrap_or_else(|e| e.into_inner());
        let info = find(&classes, name)?;
        Ok(self.resume(info, "asked for"))
    }

    /// Runs every class again, at the end.
    pub(crate) fn resume_all(&self) {
        let classes = self.classes.write().unwrap_or_else(|e| e.into_inner());
        for info in classes.iter() {
            self.resume(info, "shutdown");
        }
        drop(classes);
        self.lift_joint_ceilings();
    }

    fn resume(&self, info: &ClassInfo, reason: &str) -> bool {
        if info.slot.mode.load(SeqCst) != mode::PAUSED {
            return false;
        }
        self.open(info);
        self.events.push(
            self.now(),
            None,
            What::Resumed,
            format!("class {}: {reason}", info.name),
        );
        true
    }

    /// Takes the class from all workers: none starts a task of it after its next task boundary.
    fn close(&self, info: &ClassInfo) {
        let group = info.slot.group();
        info.slot.mode.store(mode::PAUSED, SeqCst);
        self.masks[group_index(group)].fetch_and(!(1 << info.id.index()), SeqCst);
        // A worker publishes its rank, which clears the flag, before it looks at the mode: it sees this or is told.
        let signals = &self.spine.signals;
        for index in self.spine.started_workers(group) {
            signals.revoke(index);
        }
        if group == Group::Front {
            signals.revoke(IO_WORKER);
        }
    }

    fn open(&self, info: &ClassInfo) {
        let slot = info.slot;
        self.masks[group_index(slot.group())].fetch_or(1 << info.id.index(), SeqCst);
        slot.mode.store(mode::OPEN, SeqCst);
        if slot.is_runnable() {
            self.spine.signals.mark_ready(slot.index);
            if !self.spine.signals.wake_one(slot.group()) {
                slot.revoke_lower();
            }
        }
    }

    /// Takes a class away that has no tasks.
    pub(crate) fn remove_class(&self, name: &str) -> Result<(), Error> {
        let mut classes = self.classes.write().unwrap_or_else(|e| e.into_inner());
        let info = find(&classes, name)?.clone();
        if ClassSpec::built_in().iter().any(|spec| spec.name == name) {
            return Err(Error::BuiltInClass { name: name.into() });
        }
        // What seems to run may have ended just now: that is asked once the workers have left the class.
        if self.in_use(&info, 0).is_err() {
            self.in_use(&info, self.running_or_in_hand(&info))?;
        }
        let slot = info.slot;
        let was_paused = slot.mode.load(SeqCst) == mode::PAUSED;
        slot.limit.store(0, SeqCst);
        slot.queue.forget_room();
        self.close(&info);
        self.wait_until_left(slot.index);
        let looked = self
            .in_use(&info, self.running_or_in_hand(&info))
            .and_then(|()| self.mark_removed(&info));
        if let Err(error) = looked {
            slot.restore_limit();
            slot.queue.forget_room();
            if !was_paused {
                self.open(&info);
            }
            return Err(error);
        }
        slot.mode.store(mode::REMOVED, SeqCst);
        slot.sweep();
        let now = self.now();
        {
            let mut ledger = self.ledger.open();
            // What front workers owe is settled while the class is known.
            ledger.settle(now, None);
            // The scheduler knows every class that is in the list.
            let _ = ledger.remove(now, info.id);
        }
        let last = self.class_stats(&info, &self.kind_names(), None, now.as_nanos());
        self.past_submitted.fetch_add(last.submitted, SeqCst);
        self.past_ended.fetch_add(last.counts.tasks, SeqCst);
        classes.retain(|class| class.id != info.id);
        self.removed
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(info);
        self.events
            .push(now, None, What::Removed, format!("class {name}"));
        Ok(())
    }

    /// Waits, not for long, until no worker is in a slice of the class or on its way out of one. Only such a worker can have a task
    /// in its hands that neither the queues nor the workers' rings show.
    fn wait_until_left(&self, class: u8) {
        let until = self.now().saturating_add(LEAVING_MAX);
        self.quiet_waiters.fetch_add(1, SeqCst);
        let mut guard = self.quiet_lock.lock().unwrap_or_else(|e| e.into_inner());
        while self.is_in_hand(class) && self.now() < until {
            guard = self
                .quiet
                .wait_timeout(guard, Duration::from_millis(1))
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
        drop(guard);
        self.quiet_waiters.fetch_sub(1, SeqCst);
    }

    /// True when a worker that is awake was last in a slice of the class.
    fn is_in_hand(&self, class: u8) -> bool {
        self.known_workers().any(|worker| {
            worker.state.load(SeqCst) == state::BUSY && worker.ring_class.load(SeqCst) == class
        })
    }

    fn running_or_in_hand(&self, info: &Arc<ClassInfo>) -> usize {
        let index = info.id.index() as u8;
        let running = self
            .running_of(index)
            .max(usize::from(self.is_in_hand(index)));
        #[cfg(feature = "rayon")]
        let running = running + self.guests.visitors(info);
        running
    }

    /// Fails while a class has tasks; `running` of them run.
    fn in_use(&self, info: &ClassInfo, running: usize) -> Result<(), Error> {
        let index = info.id.index() as u8;
        // In this order, in which what a stuck worker held goes back to its class.
        let queued = self.held_of(index) + self.moving.load(SeqCst) + info.slot.waiting();
        let waiting = self.spine.registry.count_of(index);
        if running + queued + waiting == 0 {
            return Ok(());
        }
        Err(Error::ClassInUse {
            name: info.name.to_string(),
            queued,
            running,
            waiting,
        })
    }

    /// Says that the class is gone, unless rayon work began in it just now.
    fn mark_removed(&self, info: &Arc<ClassInfo>) -> Result<(), Error> {
        let mark = || info.removed.store(true, SeqCst);
        #[cfg(feature = "rayon")]
        if !self.guests.part_with(info, mark) {
            return Err(Error::ClassInUse {
                name: info.name.to_string(),
                queued: 0,
                running: self.guests.visitors(info),
                waiting: 0,
            });
        }
        #[cfg(not(feature = "rayon"))]
        mark();
        Ok(())
    }

    /// Workers that run a task of the class now.
    pub(crate) fn running_of(&self, class: u8) -> usize {
        self.known_workers()
            .filter(|worker| {
                worker.task_since.load(SeqCst) != 0
                    && TaskWhat(worker.task_what.load(SeqCst)).class() == usize::from(class)
            })
            .count()
    }

    /// Tasks of the class in workers' rings and stacks.
    pub(crate) fn held_of(&self, class: u8) -> usize {
        self.known_workers()
            .filter(|worker| worker.ring_class.load(Relaxed) == class)
            .map(|worker| worker.held())
            .sum()
    }

    /// The lowest slot that serves no class and that no handle of a removed class names.
    pub(crate) fn free_slot(&self, classes: &[Arc<ClassInfo>]) -> Option<usize> {
        let mut removed = self.removed.lock().unwrap_or_else(|e| e.into_inner());
        removed.retain(|info| Arc::strong_count(info) > 1);
        // What those did who held the last handles happened before.
        fence(Acquire);
        (0..self.spine.classes.len()).find(|&slot| {
            classes
                .iter()
                .chain(removed.iter())
                .all(|info| info.id.index() != slot)
        })
    }
}
