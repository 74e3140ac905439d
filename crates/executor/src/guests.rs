//! rayon inside a class: threads that run rayon's jobs, regulated from outside.
//!
//! `class.install(f)` runs `f`, and every rayon call in it, on a rayon pool whose threads the class owns. rayon has no hooks at the
//! boundaries of its jobs, so these threads are *guests*: the executor does not run them, it houses them.
//!
//! - While a guest consumes CPU time, a *stand-in*, a future of the class, occupies a worker: it holds the worker's token and slice
//!   and sleeps while the guest runs. So the one scheduler decides about guests as it does about everything else: shares, ceilings,
//!   limits on concurrency, priorities and parallelism hold without a second set of rules.
//! - What the guest's thread clock showed is charged to the slice in which its stand-in stood ([`Local::guest_ns`]), also what it
//!   used before it had one. Nothing is charged twice, and nothing is forgotten until the executor ends.
//! - A guest runs on a *lease*, 2 ms beside other work and 8 ms alone, that a timer of its own ends exactly. Between leases it is
//!   paused, as the kernel would preempt it: a signal, whose handler sleeps (see [`signal`]).
//! - A guest that rests has no stand-in. The supervisor's tick (10 ms), the stand-ins of its siblings, and the start of each
//!   `install` beside other work notice one that begins.
//!
//! **A paused guest may hold a lock** (the allocator's, say). So a pause lasts [`signal::PAUSE_MAX`], then the guest runs for
//! [`signal::BREATH`], and is paused anew: whoever needs that lock waits as for a thread that the kernel has preempted. And no guest
//! stays paused while every worker of its group waits inside an `install`, for then nobody could stand in.
//!
//! Left out: values that travel with a task reach `f`, not the jobs that rayon moves to other threads, which rayon does not tell of.
//! The number of a pool's threads is that of its first `install`; how many of them run follows the tokens. Bursts of less than
//! 50 µs are charged together with the next.
//!
//! [`Local::guest_ns`]: crate::dispatch::Local

pub(crate) mod guest;
pub(crate) mod host;
mod install;
pub(crate) mod signal;
mod stand_in;

use crate::event::What;
use crate::os::Unavailable;
use crate::pool::{ClassInfo, Pool, group_index};
use crate::spine::{ClassSlot, Spine, mode};
use crate::threads;
use flyball_core::class::Group;
use guest::Guest;
use host::Host;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How stand-ins are counted.
const KIND: &str = "rayon";
/// CPU time that is charged by itself, ns; less waits for more. A stand-in costs some 10 µs.
const WORTH_CHARGING: u64 = 50_000;
/// The longest a shutdown waits for the threads of pools that nobody uses any more.
const END_WAIT: Duration = Duration::from_secs(1);

/// All guests of one executor.
#[derive(Default)]
pub(crate) struct Guests {
    hosts: Mutex<Vec<Arc<Host>>>,
    /// False until the first `install`: then nothing here is looked at.
    used: AtomicBool,
    /// Calls of `install` that have not returned.
    open: AtomicUsize,
    /// Workers of each group that wait inside one.
    blocked: [AtomicUsize; 2],
    alive: Arc<Alive>,
    /// It was said that guests cannot be paused.
    told: AtomicBool,
}

/// Threads that have not ended.
#[derive(Default)]
struct Alive {
    count: Mutex<usize>,
    ended: Condvar,
}

impl Alive {
    fn note_started(&self) {
        *self.count.lock().unwrap_or_else(|e| e.into_inner()) += 1;
    }

    fn note_ended(&self) {
        *self.count.lock().unwrap_or_else(|e| e.into_inner()) -= 1;
        self.ended.notify_all();
    }

    /// Waits until all have ended, at most `limit`.
    fn wait(&self, limit: Duration) {
        let count = self.count.lock().unwrap_or_else(|e| e.into_inner());
        let waited = self
            .ended
            .wait_timeout_while(count, limit, |count| *count != 0);
        drop(waited);
    }
}

/// True on a guest of the pool that this spine serves.
pub(crate) fn is_guest_of(spine: &Spine) -> bool {
    guest::current(|guest| std::ptr::eq(guest.slot.spine(), spine)).unwrap_or(false)
}

/// True on a guest whose executor's time is over.
pub(crate) fn is_terminated() -> bool {
    guest::current(|guest| guest.slot.spine().terminated.load(Relaxed)).unwrap_or(false)
}

impl Guests {
    /// True while an `install` runs, so that the supervisor goes on looking.
    pub(crate) fn is_active(&self) -> bool {
        self.open.load(SeqCst) != 0
    }

    /// Ends the pool of a class that is removed, unless an `install` is in it; `remove` is called while none can begin.
    pub(crate) fn part_with(&self, class: &Arc<ClassInfo>, remove: impl FnOnce()) -> bool {
        let mut hosts = self.hosts.lock().unwrap_or_else(|e| e.into_inner());
        let place = hosts.iter().position(|host| host.is_of(class));
        if place.is_some_and(|place| hosts[place].visitors() != 0) {
            return false;
        }
        remove();
        let host = place.map(|place| hosts.swap_remove(place));
        drop(hosts);
        if let Some(host) = host {
            host.close();
        }
        true
    }

    /// Calls of `install` of a class that have not returned.
    pub(crate) fn visitors(&self, class: &Arc<ClassInfo>) -> usize {
        let hosts = self.hosts();
        let host = hosts.iter().find(|host| host.is_of(class));
        host.map_or(0, |host| host.visitors())
    }

    fn hosts(&self) -> Vec<Arc<Host>> {
        if !self.used.load(Relaxed) {
            return Vec::new();
        }
        self.hosts.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Looks at all guests: who began to consume gets a stand-in. For the supervisor's tick.
    pub(crate) fn tick(&self, pool: &Pool) {
        if !self.used.load(Relaxed) {
            return;
        }
        if let Err(unavailable) = signal::check() {
            self.tell(pool, &unavailable);
        }
        for host in self.hosts() {
            host.look(pool);
        }
        for group in [Group::Front, Group::Back] {
            if !self.can_stand_in(pool, group) {
                self.free_all(group);
            }
        }
    }

    /// Says once that guests cannot be paused.
    fn tell(&self, pool: &Pool, why: &Unavailable) {
        if !self.told.swap(true, SeqCst) {
            pool.events
                .push(pool.now(), None, What::Unavailable, why.to_string());
        }
    }

    /// True unless all workers of the group wait for guests.
    fn can_stand_in(&self, pool: &Pool, group: Group) -> bool {
        let blocked = self.blocked[group_index(group)].load(SeqCst);
        blocked == 0
            || pool
                .spine
                .started_workers(group)
                .filter(|&index| threads::is_alive(pool, index))
                .count()
                > blocked
    }

    /// Lets all guests of a group run without a stand-in.
    fn free_all(&self, group: Group) {
        for host in self.hosts() {
            if host.slot.group() == group {
                host.guests.iter().for_each(|guest| guest.set_free());
            }
        }
    }

    /// Ends all pools: waits a little for threads that rest, leaves behind those that run a job, and says which.
    pub(crate) fn end(&self, pool: &Pool) -> Vec<(String, String, Duration)> {
        let hosts = std::mem::take(&mut *self.hosts.lock().unwrap_or_else(|e| e.into_inner()));
        if hosts.is_empty() {
            return Vec::new();
        }
        for host in &hosts {
            host.close();
        }
        if self.open.load(SeqCst) == 0 && !is_guest_of(pool.spine) {
            self.alive.wait(END_WAIT);
        }
        let now = pool.now().as_nanos();
        let mut left = Vec::new();
        for host in &hosts {
            left.extend(host.join(now));
        }
        left
    }
}

/// Says whether a guest of the class must wait for its turn to run: other work is there, or only the scheduler can say.
fn must_ask(pool: &Pool, slot: &ClassSlot) -> bool {
    others_wait(pool, slot)
        || slot.mode.load(SeqCst) != mode::OPEN
        || slot.group() == Group::Back && !pool.spine.signals.has_room()
}

/// True when work of another class waits, or more of this one, or the class is bounded otherwise than by shares.
fn others_wait(pool: &Pool, slot: &ClassSlot) -> bool {
    let runnable = pool.mask(Group::Front) | pool.mask(Group::Back);
    let ready = pool.spine.signals.ready() & runnable | pool.ring_classes(slot.group());
    ready & !(1 << slot.index) != 0 || slot.waiting() != 0 || slot.restricted.load(Relaxed)
}

/// Sees to it that a guest which began to consume gets a stand-in, and that it waits where it must.
fn notice(pool: &Pool, guest: &Arc<Guest>) {
    if pool.spine.terminated.load(SeqCst) || pool.spine.manual.load(Relaxed) {
        return;
    }
    if guest.stand_in.swap(true, SeqCst) {
        return;
    }
    guest
        .busy_since
        .store(pool.now().as_nanos().max(1), Relaxed);
    guest.note_seen();
    let must_wait =
        must_ask(pool, guest.slot) && pool.guests.can_stand_in(pool, guest.slot.group());
    // Queued between the two, as the guest may be the caller.
    let pauses = must_wait && guest.must_pause();
    stand_in::submit(pool, guest);
    if pauses {
        guest.nudge();
    }
}
