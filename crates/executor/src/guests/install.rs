//! `install`: the way into a class's rayon pool.

use super::host::Host;
use super::{Guests, guest};
use crate::class::Class;
use crate::context::Luggage;
use crate::dispatch::{self, Local};
use crate::error::Error;
use crate::give_way;
use crate::pool::{ClassInfo, Pool, group_index};
use crate::spine::{Spine, group_of};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

impl Class {
    /// Runs `f`, and all rayon calls in it, those of libraries too, on threads that this class owns: under its shares, ceiling and
    /// limit on concurrency, at the priority of its group, counted in its figures (kind `rayon`: a task is a spell of work of
    /// one thread, a poll one of its leases). Returns what `f` returns. Blocks.
    ///
    /// The threads, as many as may run at once, are started by the first call and end with the executor. Inside `f` it runs at
    /// once on the same threads; on a worker, other work gets the worker's place meanwhile. The submitter's context travels to
    /// `f`, not to the jobs that rayon moves to other threads. Time is given in steps of 2 to 8 ms.
    ///
    /// # Errors
    /// [`Error::ForeignRuntime`] on a thread of a tokio runtime, which it would block: use [`Class::install_async`];
    /// [`Error::ShuttingDown`]; [`Error::UnknownClass`] when the class was removed; [`Error::Os`] when the threads cannot be
    /// started. `f` has not run then.
    ///
    /// # Panics
    /// When `f` panics, with the same payload.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R, Error> {
        let local = dispatch::local();
        if local.is_none()
            && guest::current(|_| ()).is_none()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            return Err(Error::ForeignRuntime);
        }
        let visit = Visit::begin(self)?;
        let luggage = Luggage::pack(self.pool().config.context.as_deref());
        let visit = &visit;
        let call = move || {
            visit.rayon.install(move || {
                visit.host.arrive(&visit.pool);
                match luggage {
                    None => f(),
                    Some(luggage) => luggage.within(f),
                }
            })
        };
        Ok(match local {
            None => call(),
            Some(local) => {
                let _blocked = Blocked::new(local);
                give_way::blocking(call)
            }
        })
    }

    /// As [`Class::install`], for async code: nothing blocks. Dropped before `f` has begun, `f` does not run; after that it runs to
    /// its end.
    ///
    /// # Errors
    /// As [`Class::install`], but for `ForeignRuntime`.
    ///
    /// # Panics
    /// When `f` panics, with the same payload.
    pub async fn install_async<R, F>(&self, f: F) -> Result<R, Error>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        let visit = Visit::begin(self)?;
        let luggage = Luggage::pack(self.pool().config.context.as_deref());
        let (send, receive) = tokio::sync::oneshot::channel();
        let rayon = visit.rayon.clone();
        rayon.spawn(move || {
            if send.is_closed() {
                return;
            }
            visit.host.arrive(&visit.pool);
            let result = catch_unwind(AssertUnwindSafe(|| match &luggage {
                None => f(),
                Some(luggage) => luggage.within(f),
            }));
            drop(visit);
            let _ = send.send(result);
        });
        drop(rayon);
        match receive.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(payload)) => resume_unwind(payload),
            // The job was dropped unrun, which rayon does not do.
            Err(_) => Err(Error::ShuttingDown),
        }
    }
}

/// A call of `install`, from its admission to its end.
struct Visit {
    pool: Arc<Pool>,
    host: Arc<Host>,
    rayon: Arc<rayon::ThreadPool>,
    number: u64,
}

impl Visit {
    fn begin(class: &Class) -> Result<Visit, Error> {
        let pool = class.pool();
        // Counted first: a shutdown that does not see the count has closed before the look that follows.
        let open = Open::new(pool);
        if refuses(pool.spine) {
            return Err(Error::ShuttingDown);
        }
        let (host, number) = pool.guests.enter(pool, class.info())?;
        let Some(rayon) = host.rayon() else {
            host.leave(number);
            return Err(Error::ShuttingDown);
        };
        std::mem::forget(open);
        if pool.spine.supervisor_asleep.load(SeqCst) {
            pool.spine.rouse_supervisor();
        }
        Ok(Visit {
            pool: pool.clone(),
            host,
            rayon,
            number,
        })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.host.leave(self.number);
        drop(Open(&self.pool));
    }
}

/// Counts a call.
struct Open<'a>(&'a Pool);

impl<'a> Open<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.guests.open.fetch_add(1, SeqCst);
        Open(pool)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.guests.open.fetch_sub(1, SeqCst);
        self.0.notify_quiet();
    }
}

/// What runs may still submit while the executor closes, as tasks may.
fn refuses(spine: &Spine) -> bool {
    spine.terminated.load(SeqCst) || spine.closing.load(SeqCst) && !dispatch::is_worker_of(spine)
}

impl Guests {
    /// Enters the pool of a class, which is started if need be; the number is the visit's.
    fn enter(&self, pool: &Arc<Pool>, class: &Arc<ClassInfo>) -> Result<(Arc<Host>, u64), Error> {
        let mut hosts = self.hosts.lock().unwrap_or_else(|e| e.into_inner());
        if class.removed.load(SeqCst) {
            drop(hosts);
            let missing = pool.find_class(&class.name).err();
            return Err(missing.unwrap_or(Error::ShuttingDown));
        }
        let known = hosts.iter().find(|host| host.is_of(class)).cloned();
        let host = match known {
            Some(host) => host,
            None => {
                let host = Arc::new(Host::start(pool, class)?);
                hosts.push(host.clone());
                self.used.store(true, SeqCst);
                host
            }
        };
        let number = host.enter(pool.now().as_nanos());
        Ok((host, number))
    }
}

/// A worker that waits for guests.
struct Blocked<'a>(&'a Guests, usize);

impl<'a> Blocked<'a> {
    fn new(local: &'a Local) -> Self {
        // SAFETY: the pool outlives its workers, and this is one.
        let pool = unsafe { &*local.pool };
        let group = group_of(local.worker);
        pool.guests.blocked[group_index(group)].fetch_add(1, SeqCst);
        if !pool.guests.can_stand_in(pool, group) {
            pool.guests.free_all(group);
        }
        Blocked(&pool.guests, group_index(group))
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.blocked[self.1].fetch_sub(1, SeqCst);
    }
}
