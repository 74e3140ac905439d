//! The rayon pool of one class, and the threads that it owns.

use super::guest::Guest;
use super::{Alive, WORTH_CHARGING, notice, signal};
use crate::error::{Error, message_of};
use crate::event::What;
use crate::pool::{ClassInfo, Pool};
use crate::spine::ClassSlot;
use crate::threads;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) struct Host {
    /// Held, so that the slot serves no other class as long as somebody may queue a stand-in there.
    class: Arc<ClassInfo>,
    pub(crate) slot: &'static ClassSlot,
    pub(crate) guests: Vec<Arc<Guest>>,
    /// None once the executor or the class is gone; the last call of `install` that uses it lets its threads end.
    rayon: Mutex<Option<Arc<rayon::ThreadPool>>>,
    threads: Mutex<Vec<(Arc<Guest>, JoinHandle<()>)>>,
    visits: Mutex<Visits>,
}

/// Calls of `install` that have not returned: number and start, ns.
#[derive(Default)]
struct Visits {
    next: u64,
    open: BTreeMap<u64, u64>,
}

impl Host {
    /// Starts the threads: as many as may run at once.
    pub(super) fn start(pool: &Arc<Pool>, class: &Arc<ClassInfo>) -> Result<Host, Error> {
        if !pool.spine.manual.load(Relaxed)
            && let Err(unavailable) = signal::install()
        {
            pool.guests.tell(pool, &unavailable);
        }
        let limit = class
            .spec
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .concurrency;
        let parallelism = pool.spine.signals.parallelism();
        let count = limit.map_or(parallelism, |limit| limit.min(parallelism)) as usize;
        let guests: Vec<_> = (0..count)
            .map(|_| Arc::new(Guest::new(class.slot)))
            .collect();
        let mut started = Vec::new();
        let events = Arc::downgrade(pool);
        let rayon = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .panic_handler(move |payload| {
                let message = message_of(&*payload).unwrap_or_default();
                note(
                    &events,
                    What::Panicked,
                    format!("a job that rayon's `spawn` detached: {message}"),
                );
            })
            .spawn_handler(|thread| {
                let guest = guests[thread.index()].clone();
                let joins = start_thread(pool, class, guest.clone(), thread)?;
                started.push((guest, joins));
                Ok(())
            })
            .build()
            .map_err(|error| Error::Os {
                what: "start rayon's threads",
                source: io::Error::other(error),
            })?;
        Ok(Host {
            class: class.clone(),
            slot: class.slot,
            guests,
            rayon: Mutex::new(Some(Arc::new(rayon))),
            threads: Mutex::new(started),
            visits: Mutex::default(),
        })
    }

    pub(super) fn is_of(&self, class: &Arc<ClassInfo>) -> bool {
        Arc::ptr_eq(&self.class, class)
    }

    /// Calls of `install` that have not returned.
    pub(super) fn visitors(&self) -> usize {
        let visits = self.visits.lock().unwrap_or_else(|e| e.into_inner());
        visits.open.len()
    }

    pub(super) fn serves(&self, slot: &ClassSlot) -> bool {
        std::ptr::eq(self.slot, slot)
    }

    /// The pool, unless it has been closed.
    pub(super) fn rayon(&self) -> Option<Arc<rayon::ThreadPool>> {
        self.rayon.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Lets the threads end when the last that uses them is done.
    pub(super) fn close(&self) {
        let rayon = self.rayon.lock().unwrap_or_else(|e| e.into_inner()).take();
        drop(rayon);
    }

    pub(super) fn enter(&self, now: u64) -> u64 {
        let mut visits = self.visits.lock().unwrap_or_else(|e| e.into_inner());
        let number = visits.next;
        visits.next += 1;
        visits.open.insert(number, now);
        number
    }

    pub(super) fn leave(&self, number: u64) {
        let mut visits = self.visits.lock().unwrap_or_else(|e| e.into_inner());
        visits.open.remove(&number);
    }

    /// For the guest that begins with the function given to `install`: where other work waits, it waits its turn.
    pub(super) fn arrive(&self, pool: &Pool) {
        let own = super::guest::current(|own| {
            self.guests
                .iter()
                .find(|guest| std::ptr::eq(&raw const ***guest, own))
        });
        if let Some(Some(guest)) = own
            && super::must_ask(pool, self.slot)
        {
            notice(pool, guest);
        }
    }

    /// Gives guests that consume a stand-in, and keeps those waiting that must.
    pub(super) fn look(&self, pool: &Pool) {
        for guest in &self.guests {
            if guest.stand_in.load(SeqCst) {
                guest.hold();
            } else if guest.uncharged() >= WORTH_CHARGING {
                notice(pool, guest);
            }
        }
    }

    /// Joins the threads that have ended; for each of the others class, kind, and how long it has been at work, `now` being
    /// the time in ns. Once, when the pool is closed.
    pub(super) fn join(&self, now: u64) -> Vec<(String, String, Duration)> {
        let visits = self.visits.lock().unwrap_or_else(|e| e.into_inner());
        let since = visits.open.values().next().copied();
        drop(visits);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(|e| e.into_inner()));
        let mut left = Vec::new();
        for (guest, thread) in threads {
            if guest.is_gone() {
                let _ = thread.join();
                continue;
            }
            let busy_since = guest.busy_since.load(Relaxed);
            let begun = if busy_since != 0 {
                busy_since
            } else {
                since.unwrap_or(now)
            };
            left.push((
                self.class.name.to_string(),
                super::KIND.to_owned(),
                Duration::from_nanos(now.saturating_sub(begun)),
            ));
        }
        left
    }
}

fn note(pool: &Weak<Pool>, what: What, reason: String) {
    if let Some(pool) = pool.upgrade() {
        pool.events.push(pool.now(), None, what, reason);
    }
}

/// Counts a thread while it lives.
struct Counted(Arc<Alive>, Arc<Guest>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.note_gone();
        self.0.note_ended();
    }
}

fn start_thread(
    pool: &Arc<Pool>,
    class: &ClassInfo,
    guest: Arc<Guest>,
    thread: rayon::ThreadBuilder,
) -> io::Result<JoinHandle<()>> {
    let config = pool.config.clone();
    let group = class.slot.group();
    let tokio = pool.tokio.clone();
    let name = format!("{}-r{}-{}", config.thread_name, thread.index(), class.name);
    let mut builder = std::thread::Builder::new().name(name.clone());
    if config.stack_size != 0 {
        builder = builder.stack_size(config.stack_size);
    }
    let events = Arc::downgrade(pool);
    let counted = Counted(pool.guests.alive.clone(), guest.clone());
    pool.guests.alive.note_started();
    builder.spawn(move || {
        let counted = counted;
        let _tokio = tokio.enter();
        let report = |unavailable: crate::os::Unavailable| {
            note(&events, What::Unavailable, format!("{name}: {unavailable}"));
        };
        let call = |hook: &Option<Arc<dyn Fn() + Send + Sync>>| {
            if let Some(hook) = hook
                && let Err(payload) = catch_unwind(AssertUnwindSafe(|| hook()))
            {
                let message = message_of(&*payload).unwrap_or_default();
                note(
                    &events,
                    What::Panicked,
                    format!("a hook of {name}: {message}"),
                );
            }
        };
        threads::take_priority(&config, group, &report);
        call(&config.on_thread_start);
        guest.live(report, || thread.run());
        call(&config.on_thread_stop);
        drop(counted);
    })
}
