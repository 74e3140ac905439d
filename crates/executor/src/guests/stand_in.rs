//! What stands for a guest among the tasks of its class.

use super::guest::Guest;
use super::{KIND, signal};
use crate::class;
use crate::dispatch::{self, Local};
use crate::pool::Pool;
use crate::spine::ClassSlot;
use flyball_core::class::Group;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long a guest runs before the scheduler is asked again, beside other work. A lease costs some 20 µs, and half of that again
/// where other programs take most of it.
const LEASE: Duration = Duration::from_millis(2);
/// The same when nobody else wants to run; less than the supervisor's tick, at which a task counts as a long one.
const LEASE_ALONE: Duration = Duration::from_millis(8);
/// How soon the stand-in looks first, whether the guest really runs.
const FIRST_LOOK: Duration = Duration::from_micros(250);
/// How often it looks after that, which is how long work of a higher rank waits at most.
const LOOK: Duration = Duration::from_millis(2);

/// Occupies a worker while its guest runs. Ends when the guest rests.
struct StandIn(Arc<Guest>);

/// Queues a stand-in; the guest's mark that it has one is set.
pub(super) fn submit(pool: &Pool, guest: &Arc<Guest>) {
    class::spawn_unasked(pool, guest.slot, pool.kind(KIND), StandIn(guest.clone()));
}

impl Future for StandIn {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(local) = dispatch::local() else {
            return Poll::Ready(());
        };
        // SAFETY: the pool outlives its workers, and this is one.
        let pool = unsafe { &*local.pool };
        let guest = &self.0;
        let charge = || {
            let used = local.guest_ns.get() + guest.take_uncharged();
            local.guest_ns.set(used);
        };
        charge();
        if !guest.wants_to_run() {
            return Poll::Ready(());
        }
        let goes_on = stand(pool, local, guest);
        charge();
        pool.guests.look_for(pool, guest.slot);
        if goes_on {
            cx.waker().wake_by_ref();
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.0.rest();
    }
}

/// Lets the guest run for a lease while the worker sleeps; false when the guest has nothing to do.
fn stand(pool: &Pool, local: &Local, guest: &Guest) -> bool {
    let time = if is_alone(pool, local, guest) {
        LEASE_ALONE
    } else {
        LEASE
    };
    let spine = pool.spine;
    let started = pool.now();
    let mut cpu = guest.cpu();
    guest.lease(time);
    let mut look = FIRST_LOOK;
    loop {
        if guest.await_end_of_lease(look) {
            break;
        }
        look = LOOK;
        if spine.terminated.load(Relaxed) {
            return false;
        }
        let now = guest.cpu();
        // Not nothing: a guest that slept in the signal's handler uses some microseconds to find that it has nothing to do.
        let used = now.unwrap_or(0).saturating_sub(cpu.unwrap_or(0));
        if used < super::WORTH_CHARGING && !guest.is_runnable() {
            return false;
        }
        cpu = now;
        // The guest's timer ends the lease; where it has none, or the signal is somebody else's, this does.
        let over = pool.now().duration_since(started) >= time;
        if over || spine.signals.is_revoked(local.worker) {
            guest.pause();
            break;
        }
    }
    if !signal::works() {
        guest.set_free();
    }
    true
}

/// True when no other work waits, so that asking the scheduler would change nothing.
fn is_alone(pool: &Pool, local: &Local, guest: &Guest) -> bool {
    let group = crate::spine::group_of(local.worker);
    let signals = &pool.spine.signals;
    // SAFETY: the worker of this thread outlives its `Local`.
    let held = unsafe { &*local.shared }.held();
    held == 0
        && !super::others_wait(pool, guest.slot)
        && !(group == Group::Back && signals.over_parallelism())
}

impl super::Guests {
    /// Looks at the other guests of a class, so that those that begin do not wait for the supervisor's tick.
    fn look_for(&self, pool: &Pool, slot: &ClassSlot) {
        // A worker does not wait for whoever starts a pool.
        let Ok(hosts) = self.hosts.try_lock() else {
            return;
        };
        let host = hosts.iter().find(|host| host.serves(slot)).cloned();
        drop(hosts);
        if let Some(host) = host {
            host.look(pool);
        }
    }
}
