//! Closures that borrow: joined before what they borrow goes away.
//!
//! The closures of a scope live in the scope's own list, never in a class's queue. What the class queues is a *ticket*, a
//! closure without borrows: it takes one closure from the list and runs it, or finds the list empty and does nothing. A worker
//! that waits for its scope takes from the same list. So a waiting thread waits only for closures that run on other threads at
//! that moment, and nested scopes cannot deadlock however deep they are.
//!
//! A named unsafe module. The proof: a closure is taken from the list and dropped, run or not, before it is counted as ended,
//! and `scope` does not return or unwind before the count of closures not ended is zero. Tickets left in queues find no list
//! entry and touch nothing else that is borrowed.

use crate::class::Class;
use crate::dispatch;
use crate::error::{Error, message_of};
use crate::give_way;
use crate::task::drop_quietly;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};

type Work = Box<dyn FnOnce() + Send + 'static>;

/// Where closures are put in that may borrow for `'env`; see [`Class::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    class: Class,
    shared: Arc<Shared>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

struct Shared {
    list: Mutex<VecDeque<Work>>,
    /// Closures put in and not ended.
    open: AtomicUsize,
    /// A thread that may help sleeps until something ends or is put in.
    helper_asleep: AtomicBool,
    failures: Mutex<Failures>,
    changed: Condvar,
    changed_lock: Mutex<()>,
}

#[derive(Default)]
struct Failures {
    panicked: usize,
    /// The first one's message.
    first: Option<String>,
    cancelled: usize,
}

impl Shared {
    /// Takes the oldest closure of the list, if there is one, and runs it or drops it.
    fn take_one(&self, run: bool) -> bool {
        let work = self
            .list
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .pop_front();
        let Some(work) = work else {
            return false;
        };
        let ended = catch_unwind(AssertUnwindSafe(|| if run { work() } else { drop(work) }));
        if ended.is_err() || !run {
            let mut failures = self.failures.lock().unwrap_or_else(|e| e.into_inner());
            failures.cancelled += usize::from(!run);
            if let Err(payload) = &ended {
                failures.panicked += 1;
                failures.first.get_or_insert_with(|| {
                    message_of(&**payload).unwrap_or_else(|| "a value that is no text".into())
                });
            }
        }
        // The payload's own drop may panic, which must not keep the closure from being counted.
        drop_quietly(|| drop(ended));
        if self.open.fetch_sub(1, SeqCst) == 1 {
            self.notify();
        }
        true
    }

    fn notify(&self) {
        drop(self.changed_lock.lock().unwrap_or_else(|e| e.into_inner()));
        self.changed.notify_all();
    }

    /// Returns when every closure has ended. With `help` the calling thread runs those that nobody has started.
    fn wait(&self, help: bool) {
        while help && self.take_one(true) {}
        while self.open.load(SeqCst) != 0 {
            // Asleep it needs no token; running closures of the scope it does, as any worker.
            give_way::blocking(|| self.sleep(help));
            while help && self.take_one(true) {}
        }
    }

    /// Sleeps until every closure has ended, or, for a helper, until there is one to run.
    fn sleep(&self, help: bool) {
        let mut guard = self.changed_lock.lock().unwrap_or_else(|e| e.into_inner());
        self.helper_asleep.store(help, SeqCst);
        let list_is_empty = || {
            self.list
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .is_empty()
        };
        while self.open.load(SeqCst) != 0 && (!help || list_is_empty()) {
            guard = self.changed.wait(guard).unwrap_or_else(|e| e.into_inner());
        }
        drop(guard);
        self.helper_asleep.store(false, SeqCst);
    }
}

/// The right to take one closure from a scope's list. Dropped unused (the pool shuts down), it drops a closure instead.
struct Ticket(Option<Arc<Shared>>);

impl Ticket {
    fn use_up(mut self) {
        if let Some(shared) = self.0.take() {
            shared.take_one(true);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.take_one(false);
        }
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Puts a closure in. It runs on a worker of the class, at the latest while the scope is waited for on a worker.
    pub fn run(&'scope self, work: impl FnOnce() + Send + 'scope) {
        let work: Box<dyn FnOnce() + Send + 'scope> = Box::new(work);
        // SAFETY: see the module's proof: it is run or dropped before `'scope` ends.
        let work: Work =
            unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + 'scope>, Work>(work) };
        self.shared.open.fetch_add(1, SeqCst);
        self.shared
            .list
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push_back(work);
        if self.shared.helper_asleep.load(SeqCst) {
            self.shared.notify();
        }
        let ticket = Ticket(Some(self.shared.clone()));
        if let Err(refused) = self.class.execute(move || ticket.use_up()) {
            // The queue is full or closing: the caller does it now, which is also the bound on what is queued.
            (refused.work)();
        }
    }
}

/// Waits for the closures also when the scope's function panics; true where the waiting thread helps.
struct JoinOnDrop<'a>(&'a Shared, bool);

impl Drop for JoinOnDrop<'_> {
    fn drop(&mut self) {
        self.0.wait(self.1);
    }
}

pub(crate) fn scope<'env, R>(
    class: &Class,
    f: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
) -> Result<R, Error> {
    let on_worker = dispatch::local().is_some();
    // A guest has entered tokio's context, and may block.
    #[cfg(feature = "rayon")]
    let may_block = on_worker || crate::guests::is_guest_of(class.pool().spine);
    #[cfg(not(feature = "rayon"))]
    let may_block = on_worker;
    if !may_block && tokio::runtime::Handle::try_current().is_ok() {
        return Err(Error::ForeignRuntime);
    }
    if class.pool().spine.terminated.load(SeqCst) {
        return Err(Error::ShuttingDown);
    }
    let shared = Arc::new(Shared {
        list: Mutex::new(VecDeque::new()),
        open: AtomicUsize::new(0),
        helper_asleep: AtomicBool::new(false),
        failures: Mutex::default(),
        changed: Condvar::new(),
        changed_lock: Mutex::new(()),
    });
    let scope = Scope {
        class: class.clone(),
        shared: shared.clone(),
        scope: PhantomData,
        env: PhantomData,
    };
    let result = {
        // On a manual clock there are no workers to wait for.
        let help = on_worker || class.pool().spine.manual.load(Relaxed);
        let _join = JoinOnDrop(&shared, help);
        catch_unwind(AssertUnwindSafe(|| f(&scope)))
    };
    let value = result.unwrap_or_else(|payload| resume_unwind(payload));
    let failures = std::mem::take(&mut *shared.failures.lock().unwrap_or_else(|e| e.into_inner()));
    if let Some(first) = failures.first {
        return Err(Error::ScopePanicked {
            count: failures.panicked,
            first,
        });
    }
    if failures.cancelled > 0 {
        return Err(Error::ShuttingDown);
    }
    Ok(value)
}
