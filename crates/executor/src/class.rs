//! A class as its users hold it: looked up once, cheap to clone, and where work is put in.

use crate::context::{Carried, Luggage};
use crate::dispatch;
use crate::error::{Error, Rejected, TaskError};
use crate::handle::Handle;
use crate::keyed::{KeyStatus, TaskKey};
use crate::pool::{ClassInfo, Pool, UNNAMED};
use crate::queue::Chain;
use crate::scope::{self, Scope};
use crate::shedding::Shedding;
use crate::spine::mode;
use crate::task::{self, Async, Body, Call, Extra, Plan, Timed};
use flyball_core::class::ClassSpec;
use flyball_core::id::KindId;
use flyball_core::outcome::Rejection;
use flyball_policy::sched::Algorithm;
use flyball_policy::sched::keys::{Excess, KeyLimits};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// A scheduling class of a running executor.
#[derive(Clone)]
pub struct Class {
    pool: Arc<Pool>,
    info: Arc<ClassInfo>,
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Class({})", self.info.name)
    }
}

impl Class {
    pub(crate) fn new(pool: Arc<Pool>, info: Arc<ClassInfo>) -> Self {
        Class { pool, info }
    }

    /// The class's name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The class's settings as they are now.
    pub fn spec(&self) -> ClassSpec {
        self.info
            .spec
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .clone()
    }

    /// Tasks that wait in the class's queue, those in workers' rings not counted.
    pub fn queued(&self) -> usize {
        self.info.slot.waiting()
    }

    /// Sets what each key may do that has no limits of its own; see [`TaskBuilder::key`]. Tasks that run go on.
    ///
    /// # Errors
    /// [`Error::Keys`] when a value is out of range. Nothing has changed then.
    pub fn set_key_limits(&self, limits: KeyLimits) -> Result<(), Error> {
        let slot = self.info.slot;
        slot.change_key_limits(self.name(), |table, now| table.set_limits(now, limits))
    }

    /// Gives one key limits of its own, or takes them back (`None`). At most half of
    /// [`Config::max_keys`](crate::Config::max_keys) keys can have their own.
    ///
    /// # Errors
    /// [`Error::Keys`] when a value is out of range or there are too many. Nothing has changed then.
    pub fn set_key_limit(
        &self,
        key: impl AsRef<str>,
        limits: Option<KeyLimits>,
    ) -> Result<(), Error> {
        let (slot, key) = (self.info.slot, key.as_ref());
        let hash = self.pool.spine.hash_key(key);
        slot.change_key_limits(self.name(), |table, now| {
            table.set_limit(now, hash, crate::keyed::shown(key), limits)
        })
    }

    /// What keys may do that have no limits of their own.
    pub fn key_limits(&self) -> KeyLimits {
        self.info.slot.key_limits()
    }

    /// Tasks that went beyond limits of keys which only observe ([`KeyLimits::observe`]), since the class was made.
    pub fn key_excess(&self) -> Excess {
        self.info.slot.key_excess()
    }

    /// The keys that the class knows now, and the buckets that further keys share: those with the most queued tasks first, then
    /// by name. At most [`Config::max_keys`](crate::Config::max_keys) and 64 buckets.
    pub fn keys(&self) -> Vec<KeyStatus> {
        self.info.slot.key_statuses().0
    }

    /// Tasks that went to a shared bucket since the start, because the class knew as many keys as it may.
    pub fn keys_overflowed(&self) -> u64 {
        self.info.slot.key_statuses().1
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    #[cfg(feature = "rayon")]
    pub(crate) fn info(&self) -> &Arc<ClassInfo> {
        &self.info
    }

    /// Runs a closure that nobody waits for. The cheapest way in: no handle, one allocation. A panic is caught and counted.
    ///
    /// # Errors
    /// The closure back, with the reason: the queue is full or the executor is shutting down.
    #[inline]
    pub fn execute<F: FnOnce() + Send + 'static>(&self, work: F) -> Result<(), Rejected<F>> {
        if let Some(luggage) = Luggage::pack(self.pool.config.context.as_deref()) {
            return self.execute_carried(luggage, work);
        }
        match self.admit() {
            Ok(()) => {
                self.submit_bare(work);
                Ok(())
            }
            Err(reason) => Err(Rejected { reason, work }),
        }
    }

    #[cold]
    fn execute_carried<F: FnOnce() + Send + 'static>(
        &self,
        luggage: Luggage,
        work: F,
    ) -> Result<(), Rejected<F>> {
        match self.admit() {
            Ok(()) => {
                self.submit_bare(move || luggage.within(work));
                Ok(())
            }
            Err(reason) => Err(Rejected { reason, work }),
        }
    }

    /// Runs many closures that nobody waits for; up to `batch_size` of them are handed over with one wake-up.
    ///
    /// # Errors
    /// The closures that were not taken, with the reason; those before them run.
    pub fn execute_many<F: FnOnce() + Send + 'static>(
        &self,
        work: impl IntoIterator<Item = F>,
    ) -> Result<(), Rejected<Vec<F>>> {
        let mut work = work.into_iter();
        let size = self.pool.tuning.batch_size.load(Relaxed);
        let carrier = self.pool.config.context.as_deref();
        loop {
            if self.may_queue(size, false).is_err() {
                // Not all of a batch may fit: as many as do.
                while let Some(next) = work.next() {
                    if let Err(refused) = self.execute(next) {
                        let first = std::iter::once(refused.work);
                        let left: Vec<F> = first.chain(work).collect();
                        self.note_refused(&refused.reason, left.len() - 1);
                        return Err(Rejected {
                            reason: refused.reason,
                            work: left,
                        });
                    }
                }
                return Ok(());
            }
            let now = crate::clock::now(self.pool.spine);
            // Handed over when it is dropped, also when the iterator panics.
            let mut batch = Batch {
                class: self,
                chain: None,
                count: 0,
            };
            for work in work.by_ref().take(size) {
                let task = match Luggage::pack(carrier) {
                    None => task::new_bare(self.info.slot, work, now, PLAIN),
                    Some(luggage) => {
                        task::new_bare(self.info.slot, move || luggage.within(work), now, PLAIN)
                    }
                };
                batch.count += 1;
                match &mut batch.chain {
                    Some(chain) => chain.append(task.cast()),
                    chain => *chain = Some(Chain::of(task.cast())),
                }
            }
            let count = batch.count;
            drop(batch);
            if count < size {
                return Ok(());
            }
        }
    }

    /// Runs a closure.
    #[inline]
    pub fn run<T, F>(&self, work: F) -> Handle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.task().run(work)
    }

    /// Runs a future. It may use tokio's timers, sockets and files.
    #[inline]
    pub fn spawn<F>(&self, future: F) -> Handle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.task().spawn(future)
    }

    /// Runs many closures; a handle each, in order.
    pub fn run_many<T, F>(&self, work: impl IntoIterator<Item = F>) -> Vec<Handle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        work.into_iter().map(|work| self.run(work)).collect()
    }

    /// Describes a task before it is submitted: kind, priority, deadline, timeout, keys.
    #[inline]
    pub fn task(&self) -> TaskBuilder<'_> {
        TaskBuilder {
            class: self,
            plan: PLAIN,
            extra: None,
            accepted: false,
        }
    }

    /// Runs closures that borrow from the caller, and returns when all of them have ended. On a worker the caller helps: it runs
    /// those of its own closures that nobody has started, so that scopes may nest to any depth.
    ///
    /// # Errors
    /// [`Error::ForeignRuntime`] on a thread that belongs to another tokio runtime, which blocking would hold up;
    /// [`Error::ScopePanicked`] when a closure panicked (all others have run); [`Error::ShuttingDown`].
    ///
    /// # Panics
    /// When `f` itself panics, after all closures of the scope have ended.
    pub fn scope<'env, R>(
        &self,
        f: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
    ) -> Result<R, Error> {
        scope::scope(self, f)
    }

    /// Says whether a task may be queued, and counts it if it is refused.
    #[inline]
    fn admit(&self) -> Result<(), Rejection> {
        self.admit_as(false)
    }

    /// The same; what was `accepted` is not shed.
    #[inline]
    fn admit_as(&self, accepted: bool) -> Result<(), Rejection> {
        let answer = self.may_queue(1, accepted);
        if let Err(reason) = &answer {
            self.note_refused(reason, 1);
        }
        answer
    }

    /// Says whether `count` more tasks may be queued.
    #[inline]
    fn may_queue(&self, count: usize, accepted: bool) -> Result<(), Rejection> {
        let slot = self.info.slot;
        let spine = self.pool.spine;
        if spine.closing.load(Relaxed)
            && (spine.terminated.load(Relaxed) || !dispatch::is_worker_of(spine))
        {
            return Err(Rejection::ShuttingDown);
        }
        // The limit is on what waits in the class's queue; each worker's ring may hold 256 more.
        let limit = slot.limit.load(Relaxed);
        if slot.queue.is_beyond(limit, count)
            || slot.has_others() && slot.waiting().saturating_add(count) > limit
        {
            return self.full(limit, count, accepted);
        }
        Ok(())
    }

    #[cold]
    fn note_refused(&self, reason: &Rejection, count: usize) {
        let slot = self.info.slot;
        let counter = match reason {
            Rejection::QueueFull { .. } | Rejection::KeyQueueFull { .. } => &slot.refused,
            Rejection::Shed { .. } => &slot.shed,
            _ => return,
        };
        counter.fetch_add(count as u64, Relaxed);
    }

    #[cold]
    fn full(&self, limit: usize, count: usize, accepted: bool) -> Result<(), Rejection> {
        if self.info.removed.load(SeqCst) {
            return Err(Rejection::ClassRemoved {
                class: self.info.name.clone(),
            });
        }
        let slot = self.info.slot;
        let hard = slot.hard.load(Relaxed);
        let sheds = 0 < limit && limit < hard;
        if sheds && slot.waiting().saturating_add(count) <= hard {
            // What a task of the class submits to it is a part of what was let in.
            let refusal = if accepted || self.is_own_task() {
                None
            } else {
                slot.refusal()
            };
            return refusal.map_or(Ok(()), Err);
        }
        Err(Rejection::QueueFull {
            class: self.info.name.clone(),
            limit: if sheds { hard } else { limit },
        })
    }

    /// True inside a task of this class.
    fn is_own_task(&self) -> bool {
        dispatch::local().is_some_and(|local| {
            local.slice_class.get() == self.info.slot.index
                && std::ptr::eq(local.spine, self.pool.spine)
        })
    }

    /// Has work in memory refused that would wait for too long, or ceases to (`None`): as many tasks may wait as start within the target, more are
    /// refused with [`Rejection::Shed`], which says when to come back. Queued tasks of a class that is `sheddable` are refused, too, when their turn comes
    /// after twice the target, if they have a handle. What a task of the class itself submits to the class is let in, and so is what was
    /// [accepted](TaskBuilder::accepted) before. Off unless set.
    ///
    /// # Errors
    /// [`Error::Config`] when the target is not 1 ms to 1 h. Nothing has changed then.
    pub fn set_shedding(&self, settings: Option<Shedding>) -> Result<(), Error> {
        self.pool.set_shedding(&self.info, settings)
    }

    /// When work in memory is refused because of how long it would wait, if it is.
    pub fn shedding(&self) -> Option<Shedding> {
        self.pool.shedding(self.info.slot)
    }

    #[inline]
    fn submit_bare<F: FnOnce() + Send + 'static>(&self, work: F) {
        if !self.pool.pulls() {
            // A tag needs a place to stand, which a bare task has not.
            return self.task().hand_over(Call(Some(work))).detach();
        }
        let mut plan = PLAIN;
        let now = match dispatch::local() {
            Some(local) => {
                plan.samples = local.next_sample();
                if plan.samples == 0 {
                    0
                } else {
                    crate::clock::now(self.pool.spine)
                }
            }
            None => crate::clock::now(self.pool.spine),
        };
        let task = task::new_bare(self.info.slot, work, now, plan);
        // SAFETY: new, and its life reference is given away.
        unsafe { dispatch::enqueue(task) };
        self.sweep_if_late();
    }

    /// The pool may have ended between admission and now, or the class been removed: whoever comes second cancels what was
    /// queued.
    #[inline]
    fn sweep_if_late(&self) {
        if self.pool.spine.terminated.load(SeqCst)
            || self.info.slot.mode.load(SeqCst) == mode::REMOVED
        {
            self.info.slot.sweep();
        }
    }

    #[cold]
    fn tag(&self, extra: &mut Option<Box<Extra>>) {
        if extra.as_ref().is_some_and(|extra| extra.key.is_some()) {
            return; // taken when its key has its turn, by whoever comes
        }
        let key = extra.as_ref().and_then(|extra| extra.affinity);
        if let Some(worker) = self.pool.place(self.info.slot.group(), key) {
            extra.get_or_insert_default().tag = Some(worker);
        }
    }
}

/// Queues a future that the executor itself needs: past the limit on the queue, and while it closes.
#[cfg(feature = "rayon")]
pub(crate) fn spawn_unasked<F: Future<Output = ()> + Send + 'static>(
    pool: &Pool,
    slot: &'static crate::spine::ClassSlot,
    kind: KindId,
    future: F,
) {
    let plan = Plan { kind, ..PLAIN };
    let task = task::new(
        slot,
        Async(future),
        crate::clock::now(pool.spine),
        plan,
        None,
    );
    // SAFETY: new, and its life reference is given away; the handle keeps another one.
    unsafe { dispatch::enqueue(task) };
    if pool.spine.terminated.load(SeqCst) || slot.mode.load(SeqCst) == crate::spine::mode::REMOVED {
        slot.sweep();
    }
    // SAFETY: made with this body just now.
    unsafe { Handle::of::<Async<F>>(task) }.detach();
}

/// Closures of a batch that are not queued yet.
struct Batch<'a> {
    class: &'a Class,
    chain: Option<Chain>,
    count: usize,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if let Some(chain) = self.chain.take() {
            self.class.info.slot.queue.push_chain(chain);
            self.class.info.slot.announce();
            self.class.sweep_if_late();
        }
    }
}

/// What most tasks are.
const PLAIN: Plan = Plan {
    kind: KindId::new(UNNAMED as u16),
    priority: 0,
    samples: 1,
    may_shed: false,
};

/// A task before it is submitted.
#[must_use = "a described task runs only when it is given work"]
pub struct TaskBuilder<'a> {
    class: &'a Class,
    plan: Plan,
    extra: Option<Box<Extra>>,
    accepted: bool,
}

impl TaskBuilder<'_> {
    /// Names its kind, by which figures are grouped. Kinds beyond `max_kinds` are counted as `other`.
    pub fn kind(mut self, name: &str) -> Self {
        self.plan.kind = self.class.pool.kind(name);
        self
    }

    /// Orders it within its class: one level is worth 10 ms of waiting. Default 0; higher goes first.
    pub fn priority(mut self, priority: i8) -> Self {
        self.plan.priority = priority;
        self
    }

    /// Says that it was accepted before it came here, by a queue that keeps it: it is never shed, whatever the class's
    /// [`Shedding`] says. The bound of the class's queue holds all the same.
    pub fn accepted(mut self) -> Self {
        self.accepted = true;
        self
    }

    /// Gives it up if it has not started within this time. Under `proportional_share` tasks with earlier deadlines go first,
    /// and one that cannot be met, judged by the p95 of its kind, is refused at submission.
    pub fn deadline(mut self, within: Duration) -> Self {
        let now = crate::clock::now(self.class.pool.spine);
        let within = within.as_nanos().min(u128::from(u64::MAX)) as u64;
        self.extra.get_or_insert_default().deadline = now.saturating_add(within).max(1);
        self
    }

    /// Ends it when it has run this long: a future at its next await, a closure at its next
    /// [`checkpoint`](crate::checkpoint).
    pub fn timeout(mut self, after: Duration) -> Self {
        let after = after.as_nanos().min(u128::from(u64::MAX)) as u64;
        self.extra.get_or_insert_default().timeout = after.max(1);
        self
    }

    /// Names what it works on, for the placement strategies that keep a key on one worker.
    pub fn affinity_key(mut self, key: u64) -> Self {
        self.extra.get_or_insert_default().affinity = Some(key);
        self
    }

    /// Names the one it is done for (a tenant, a path): within the class, keys share in turn, one task a turn, so that a key with
    /// 100,000 tasks delays another's first by one task. All tasks without a key count as one more key. A future takes a turn
    /// again each time it is woken.
    ///
    /// Priority and deadline then order the tasks of one key, never those of different keys, and no placement strategy applies.
    /// Keys are told apart by a keyed hash of the whole name; of names longer than 256 bytes the first 256 are shown.
    /// [`Class::set_key_limits`] bounds what a key may do at once, in a second and in the queue.
    pub fn key(mut self, key: impl AsRef<str>) -> Self {
        let key = TaskKey::new(self.class.pool.spine, key.as_ref());
        self.extra.get_or_insert_default().key = Some(key);
        self
    }

    /// Submits a closure.
    #[inline]
    pub fn run<T, F>(self, work: F) -> Handle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        match self.try_run(work) {
            Ok(handle) => handle,
            Err(rejected) => Handle::rejected(rejected.reason),
        }
    }

    /// Submits a closure, or gives it back.
    ///
    /// # Errors
    /// The closure and the reason why it was refused.
    #[inline]
    pub fn try_run<T, F>(self, work: F) -> Result<Handle<T>, Rejected<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if let Err(reason) = self.admit() {
            return Err(Rejected { reason, work });
        }
        Ok(
            match Luggage::pack(self.class.pool.config.context.as_deref()) {
                None => self.hand_over(Call(Some(work))),
                Some(luggage) => self.hand_over(Call(Some(move || luggage.within(work)))),
            },
        )
    }

    /// Submits a future.
    #[inline]
    pub fn spawn<F>(self, future: F) -> Handle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.try_spawn(future) {
            Ok(handle) => handle,
            Err(rejected) => Handle::rejected(rejected.reason),
        }
    }

    /// Submits a future, or gives it back.
    ///
    /// # Errors
    /// The future and the reason why it was refused.
    #[inline]
    pub fn try_spawn<F>(self, future: F) -> Result<Handle<F::Output>, Rejected<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if let Err(reason) = self.admit() {
            return Err(Rejected {
                reason,
                work: future,
            });
        }
        Ok(
            match Luggage::pack(self.class.pool.config.context.as_deref()) {
                None => self.hand_over_future(future),
                Some(luggage) => self.hand_over_future(Carried::new(luggage, future)),
            },
        )
    }

    #[inline]
    fn admit(&self) -> Result<(), Rejection> {
        self.class.admit_as(self.accepted)?;
        if let Some(extra) = &self.extra {
            self.admit_special(extra)?;
        }
        Ok(())
    }

    #[cold]
    fn admit_special(&self, extra: &Extra) -> Result<(), Rejection> {
        let slot = self.class.info.slot;
        if let Some(key) = &extra.key
            && let Err(limit) = slot.check_key_room(key)
        {
            let reason = Rejection::KeyQueueFull {
                class: self.class.info.name.clone(),
                limit,
            };
            self.class.note_refused(&reason, 1);
            return Err(reason);
        }
        if extra.deadline != 0 {
            self.admit_deadline(extra.deadline)?;
        }
        Ok(())
    }

    fn admit_deadline(&self, deadline: u64) -> Result<(), Rejection> {
        if self.class.info.slot.algorithm() != Algorithm::ProportionalShare {
            return Ok(());
        }
        let available = deadline.saturating_sub(crate::clock::now(self.class.pool.spine));
        match self.class.pool.kind_p95(self.class.info.id, self.plan.kind) {
            Some(needed) if needed > available => Err(Rejection::DeadlineUnmeetable {
                class: self.class.info.name.clone(),
                needed: Duration::from_nanos(needed),
                available: Duration::from_nanos(available),
            }),
            _ => Ok(()),
        }
    }

    fn hand_over_future<F>(mut self, future: F) -> Handle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self
            .extra
            .as_mut()
            .map(|extra| std::mem::take(&mut extra.timeout))
        {
            Some(timeout) if timeout != 0 => {
                self.hand_over(Timed::new(future, Duration::from_nanos(timeout)))
            }
            _ => self.hand_over(Async(future)),
        }
    }

    #[inline]
    fn hand_over<B: Body>(self, body: B) -> Handle<B::Output> {
        let now = crate::clock::now(self.class.pool.spine);
        let mut extra = self.extra;
        let mut plan = self.plan;
        plan.may_shed = self.class.info.slot.late_after.load(Relaxed) != u64::MAX
            && !self.accepted
            && !self.class.is_own_task();
        if !self.class.pool.pulls() {
            self.class.tag(&mut extra);
        }
        let task = task::new(self.class.info.slot, body, now, plan, extra);
        // SAFETY: new, and its life reference is given away; the handle keeps another one.
        unsafe { dispatch::enqueue(task) };
        self.class.sweep_if_late();
        // SAFETY: made with this body just now.
        unsafe { Handle::of::<B>(task) }
    }
}

impl TaskError {
    /// True when the task was refused, before it was queued or while it was: it has not run.
    pub fn is_rejected(&self) -> bool {
        matches!(self, TaskError::Rejected(_))
    }
}
