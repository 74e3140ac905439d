//! When a worker has nothing to run: it takes from others, looks a little longer, naps, sleeps, and in the end leaves.
//!
//! What a worker must have given back before it sleeps or leaves: its slice (settled), its ring and stack (to the queues of their
//! classes), its token. How sleepers and wakers cannot miss each other is told in [`signals`](crate::signals).

use super::Worker;
use crate::pool::{Pool, WorkerShared, command, state, token};
use crate::spine::{ClassSlot, mode};
use crate::stats::bump;
use crate::task::Header;
use flyball_core::class::Group;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// How long a worker that ran dry looks before it sleeps, ns: a few times what a wake-up costs whoever makes it.
const SPIN: u64 = 20_000;
/// It spins only while that pays: after each search in vain it sleeps at once twice as many times as before, up to this.
const SPIN_SKIPS_MAX: u32 = 64;
/// What a wake-up costs, ns. A worker that found less work than that naps instead of asking to be woken again.
pub(super) const WAKE_COST: u64 = 5_000;
/// Length of the first nap; each further one is twice as long.
const NAP: Duration = Duration::from_micros(50);
/// Naps in a row: for the front group, whose work must not wait, 50 µs at most; for the back group 50 to 400 µs.
const NAPS_FRONT: u32 = 1;
const NAPS_BACK: u32 = 4;
/// The longest a worker sleeps while work is there that it may not run yet, ns.
const WAIT_MAX: u64 = 5_000_000;

impl Worker {
    /// Takes tasks of the class from the rings, or the tags, of others of the group.
    pub(super) fn steal(&mut self, slot: &'static ClassSlot) -> Option<NonNull<Header>> {
        let workers = self.pool.spine.started_workers(self.group());
        let own = self.shared.index;
        // In turn from the own place on, so that not everybody robs the first.
        let (before, after): (Vec<usize>, Vec<usize>) = self
            .pool
            .sharing_workers(self.group())
            .filter(|&index| index != own)
            .partition(|&index| index < own);
        for index in after.into_iter().chain(before) {
            let Some(victim) = self.pool.workers[index].get() else {
                continue;
            };
            if victim.ring_class.load(Relaxed) != slot.index || !victim.can_be_robbed() {
                continue;
            }
            let mut first = None;
            let ring = &self.shared.ring;
            let stolen = victim.ring.steal(|task| {
                if first.is_none() {
                    first = Some(task);
                } else if let Err(task) = ring.push_quiet(task) {
                    slot.again.fetch_add(1, Relaxed);
                    slot.queue.push(task.cast());
                    slot.announce();
                }
            });
            // From the stack one at a time: the oldest closures are the roots of the largest parts.
            let first = first.or_else(|| victim.stack.steal());
            if let Some(first) = first {
                // The victim may have changed class between the two looks at its ring: such tasks go home.
                // SAFETY: the worker holds the life reference of what it took.
                if unsafe { first.as_ref() }.slot.index != slot.index {
                    self.send_home(first);
                    return None;
                }
                bump(
                    &self.shared.stats.row(slot.index).stolen,
                    stolen.max(1) as u64,
                );
                if stolen > 1 || !victim.stack.is_empty() {
                    self.pool.pass_on_quickly(self.group());
                }
                return Some(first);
            }
        }
        self.pool.spine.tags.steal(workers, slot)
    }

    /// Gives a task and the whole ring back to the queues of their classes.
    pub(super) fn send_home(&mut self, first: NonNull<Header>) {
        let mut task = Some(first);
        while let Some(home) = task {
            // SAFETY: the worker holds the life reference of what it took.
            let slot = unsafe { home.as_ref() }.slot;
            slot.queue.give_back(&[home.cast()]);
            slot.announce();
            task = self.shared.ring.pop().or_else(|| self.shared.stack.pop());
        }
    }

    /// Gives what is in the ring back to its class, unstarted and in order.
    pub(super) fn flush_ring(&mut self) {
        let mut entries = Vec::new();
        while let Some(task) = self.shared.ring.pop().or_else(|| self.shared.stack.steal()) {
            entries.push(task);
        }
        let Some(&first) = entries.first() else {
            return;
        };
        // SAFETY: the worker holds the life references of what it took.
        let slot = unsafe { first.as_ref() }.slot;
        let links: Vec<_> = entries.iter().map(|task| task.cast()).collect();
        slot.queue.give_back(&links);
        slot.announce();
        if slot.mode.load(SeqCst) == mode::REMOVED {
            slot.sweep(); // what slipped in: nobody else looks for it any more
        }
    }

    /// The time of a shutdown is over: nothing that waits here starts any more.
    #[cold]
    pub(super) fn give_up_ring(&mut self) {
        self.flush_ring();
        // Until the flag is set, whoever ends the pool sweeps the queues, and once more after that.
        if self.pool.stop.load(SeqCst) {
            self.pool.spine.sweep();
        }
    }

    pub(super) fn found_work(&mut self) {
        if std::mem::replace(&mut self.searching, false)
            && self.signals().stop_searching(self.group())
        {
            self.pool.pass_on(self.group());
        }
    }

    pub(super) fn release_token(&mut self) {
        if std::mem::replace(&mut self.token, false) {
            // Unless the supervisor gave it back already, while this worker was stuck.
            if self.shared.token.swap(token::NONE, SeqCst) == token::HELD {
                self.signals().release_token(self.group());
            }
            if self.group() == Group::Front {
                self.pool.pass_on(Group::Back);
            }
        }
    }

    /// Looks a little longer, then sleeps until there is work, or until the given time if it is not zero.
    pub(super) fn idle(&mut self, until: u64) {
        let signals = self.signals();
        let group = self.group();
        if !self.searching {
            signals.start_searching(group);
            self.searching = true;
        }
        if until == 0 && self.token && self.search() {
            return;
        }
        self.settle();
        self.flush_ring();
        signals.publish_rank(self.shared.index, crate::signals::NO_RANK);
        self.release_token();
        if until == 0 && self.must_nap() {
            signals.nap(group, self.shared.index, NAP * (1 << self.naps));
            self.naps += 1;
            self.now = self.pool.now().as_nanos();
            return;
        }
        self.naps = 0;
        self.worked = 0;
        self.shared.state.store(state::IDLE, SeqCst);
        self.pool.notify_quiet();
        // While something is held back, sleep at most a little, whatever the policy said: limits change.
        let timeout = (until != 0).then(|| {
            Duration::from_nanos(
                until
                    .saturating_sub(self.pool.now().as_nanos())
                    .clamp(50_000, WAIT_MAX),
            )
        });
        let held_back = if until != 0 {
            signals.ready() & self.pool.mask(group)
        } else {
            0
        };
        signals.park(group, self.shared.index, timeout, || {
            if self.pool.stop.load(SeqCst) || self.shared.command.load(SeqCst) != command::RUN {
                return true;
            }
            if group == Group::Back && !signals.has_room() {
                return false;
            }
            if until != 0 {
                return signals.ready() & self.pool.mask(group) & !held_back != 0;
            }
            self.pool.has_work(group)
        });
        self.shared.wake_up();
        self.now = self.pool.now().as_nanos();
        self.shared.heartbeat.store(self.now, Relaxed);
    }

    /// Looks for work a little longer if that has paid lately; true when there is some.
    pub(super) fn search(&mut self) -> bool {
        if self.spin_skips > 0 {
            self.spin_skips -= 1;
            return false;
        }
        let until = self.now + SPIN;
        loop {
            if self.pool.has_work(self.group()) {
                self.spin_backoff = 1;
                self.now = self.pool.now().as_nanos();
                return true;
            }
            for _ in 0..8 {
                std::hint::spin_loop();
            }
            let now = self.pool.now().as_nanos();
            if now > until {
                self.spin_skips = self.spin_backoff;
                self.spin_backoff = (self.spin_backoff * 2).min(SPIN_SKIPS_MAX);
                return false;
            }
        }
    }

    /// True when the last wake-up was not worth its cost, and others of the group are at work.
    pub(super) fn must_nap(&self) -> bool {
        let naps = match self.group() {
            Group::Front => NAPS_FRONT,
            Group::Back => NAPS_BACK,
        };
        self.worked < WAKE_COST
            && self.naps < naps
            && self.signals().others_run(
                self.pool.spine.started_workers(self.group()),
                self.shared.index,
            )
    }

    /// Leaves everything in order: nothing in the ring, nothing charged to nobody, no token, not counted as searching.
    pub(super) fn retire(&mut self) {
        self.settle();
        self.flush_ring();
        self.pool
            .spine
            .tags
            .untag(self.shared.index, &self.pool.spine.classes);
        if self.pool.stop.load(SeqCst) {
            self.pool.spine.sweep();
        }
        self.signals()
            .publish_rank(self.shared.index, crate::signals::NO_RANK);
        self.release_token();
        if std::mem::replace(&mut self.searching, false) {
            self.signals().stop_searching(self.group());
        }
        self.pool.pass_on(self.group());
    }
}

impl Pool {
    /// Gives what a stuck worker has in ring and stack, and what is tagged for it, back to the queues of the classes; returns how many
    /// tasks. Meanwhile [`Pool::moving`] says so, for the worker may be done and gone: nobody takes the pool, or a class, for empty.
    pub(crate) fn move_queue(&self, worker: &WorkerShared) -> usize {
        self.moving.fetch_add(1, SeqCst);
        let mut held: Vec<NonNull<Header>> = Vec::new();
        while worker.ring.steal(|task| held.push(task)) != 0 {}
        held.extend(std::iter::from_fn(|| worker.stack.steal()));
        // The last first: each goes before those that are there.
        for task in held.iter().rev() {
            // SAFETY: whoever steals holds the life reference of what it took.
            let slot = unsafe { task.as_ref() }.slot;
            slot.queue.give_back(&[task.cast()]);
            slot.announce();
        }
        let moved = held.len() + self.spine.tags.untag(worker.index, &self.spine.classes);
        self.moving.fetch_sub(1, SeqCst);
        moved
    }

    /// As `pass_on`, when it is known that there is something to run.
    #[inline]
    pub(super) fn pass_on_quickly(&self, group: Group) {
        if self.spine.signals.any_idle(group) {
            self.spine.signals.wake_one(group);
        }
    }
}
