//! The executor itself: started, asked, changed, shut down.

use crate::class::Class;
use crate::config::Config;
use crate::error::Error;
use crate::event::{Event, What};
use crate::pool::{Pool, state};
use crate::settings::WorkerSettings;
use crate::spine::{IO_WORKER, MAX_WORKERS, MAX_WORKERS_PER_GROUP, group_of, workers_of};
use crate::stats::Stats;
use crate::status::WorkerStatus;
use crate::tuning::Tuning;
use crate::{io, supervisor, threads};
use flyball_core::class::{ClassSpec, Group};
use flyball_policy::sched::Algorithm;
use flyball_policy::sched::place::Strategy;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::*;
use std::time::Duration;
use tokio::runtime::{Handle as Tokio, RuntimeFlavor};

/// A running pool of workers. It owns its threads: when it is dropped, what is queued is cancelled and they end.
pub struct Executor {
    pool: Arc<Pool>,
    /// The thread that drives the executor's own runtime, if it has one.
    io: Mutex<Option<std::thread::JoinHandle<()>>>,
    supervisor: Mutex<Option<std::thread::JoinHandle<()>>>,
    down: bool,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executor({} workers)", self.workers().len())
    }
}

/// What a shutdown achieved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Tasks that ended since the start, by themselves.
    pub ended: u64,
    /// Tasks that were cancelled because the time was over, queued and waiting ones.
    pub cancelled: usize,
    /// What was still running at the end: class, kind, how long. Their threads are left behind.
    pub left_running: Vec<(String, String, Duration)>,
    /// How long it took.
    pub took: Duration,
}

impl Executor {
    /// Starts the workers.
    ///
    /// # Errors
    /// A setting out of range, a class that does not fit, a thread that cannot be started. Nothing runs then.
    pub fn start(config: Config) -> Result<Self, Error> {
        config.check_tokio()?;
        let (tokio, runtime) = match &config.tokio {
            Some(handle) => (handle.clone(), None),
            None => match Tokio::try_current() {
                Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
                    (handle, None)
                }
                _ => {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .map_err(|source| Error::Os {
                            what: "start the tokio runtime",
                            source,
                        })?;
                    (runtime.handle().clone(), Some(io::OwnRuntime::new(runtime)))
                }
            },
        };
        let clock = Pool::warm_clock();
        let pool = Pool::new(config, clock, tokio)?;
        let mut executor = Executor {
            pool,
            io: Mutex::new(None),
            supervisor: Mutex::new(None),
            down: false,
        };
        executor.start_threads(runtime)?;
        Ok(executor)
    }

    fn start_threads(&mut self, runtime: Option<io::OwnRuntime>) -> Result<(), Error> {
        let pool = &self.pool;
        if let Some(runtime) = runtime {
            *self.io.lock().unwrap_or_else(|e| e.into_inner()) = Some(io::start(pool, runtime)?);
        }
        let first_front = workers_of(Group::Front).start;
        let first_back = workers_of(Group::Back).start;
        // One of each group now, so that an error shows; the rest in stages by the supervisor.
        threads::start(pool, first_front)?;
        threads::start(pool, first_back)?;
        let owner = pool.clone();
        let supervisor = std::thread::Builder::new()
            .name(format!("{}-s", pool.config.thread_name))
            .spawn(move || supervisor::run(&owner))
            .map_err(|source| Error::Os {
                what: "start the supervisor thread",
                source,
            })?;
        *pool
            .spine
            .supervisor
            .lock()
            .unwrap_or_else(|e| e.into_inner()) = Some(supervisor.thread().clone());
        *self.supervisor.lock().unwrap_or_else(|e| e.into_inner()) = Some(supervisor);
        Ok(())
    }

    /// Looks a class up.
    ///
    /// # Errors
    /// [`Error::UnknownClass`], which lists those there are.
    pub fn class(&self, name: &str) -> Result<Class, Error> {
        Ok(Class::new(self.pool.clone(), self.pool.find_class(name)?))
    }

    /// Adds a class.
    ///
    /// # Errors
    /// The name is taken, a value is out of range, guarantees pass 100%, or there are 64 classes. Nothing has changed then.
    pub fn add_class(&self, spec: ClassSpec) -> Result<Class, Error> {
        Ok(Class::new(self.pool.clone(), self.pool.add_class(spec)?))
    }

    /// Changes a class; its group stays what it was.
    ///
    /// # Errors
    /// As [`Executor::add_class`], or there is no such class. Nothing has changed then.
    pub fn set_class(&self, spec: ClassSpec) -> Result<(), Error> {
        self.pool.set_class(spec)
    }

    /// Stops running a class: nothing of it starts from now on, what runs comes to its end, and everything else stays where it is,
    /// futures included. Submissions are taken up to the class's queue limit; deadlines and timeouts go on running. True when it was
    /// not paused already.
    ///
    /// A task that a worker is just about to start may still start. A scope that is waited for on a worker runs its own closures there
    /// all the same. A shutdown resumes every class, so that what was accepted runs.
    ///
    /// # Errors
    /// [`Error::UnknownClass`].
    pub fn pause_class(&self, name: &str) -> Result<bool, Error> {
        self.pool.pause_class(name)
    }

    /// Runs a paused class again; true when it was paused.
    ///
    /// # Errors
    /// [`Error::UnknownClass`].
    pub fn resume_class(&self, name: &str) -> Result<bool, Error> {
        self.pool.resume_class(name)
    }

    /// Takes away a class that has no tasks. Handles of it that are still held refuse what is submitted with
    /// [`Rejection::ClassRemoved`](crate::Rejection::ClassRemoved); its place counts among the 64 until the last of them is dropped.
    /// A task that another thread submits at this very moment is refused or cancelled. May wait for workers to leave the class, up to
    /// 100 ms.
    ///
    /// # Errors
    /// [`Error::UnknownClass`]; [`Error::BuiltInClass`]; [`Error::ClassInUse`] while it has tasks that are queued, run or wait.
    /// Nothing has changed then.
    pub fn remove_class(&self, name: &str) -> Result<(), Error> {
        self.pool.remove_class(name)
    }

    /// Lets some classes use at most so many CPUs together (`None` lifts that), beside what their own ceilings say: no slice of theirs
    /// begins while that is spent, checkpoints of theirs wait, and no more of their workers compute than it has CPUs, rounded up. Those
    /// of the highest priority among them find something left of it; guarantees are the least there is. `place`, below
    /// [`MAX_JOINT`](flyball_policy::sched::MAX_JOINT), tells several such ceilings apart; a class needs all that it is in.
    ///
    /// A closure that runs without checkpoints cannot be held; what it takes too much is owed afterwards. A shutdown lifts all.
    ///
    /// # Errors
    /// [`Error::UnknownClass`]; nothing has changed then.
    pub fn set_joint_ceiling(
        &self,
        place: usize,
        ceiling: Option<(&[&str], f64)>,
    ) -> Result<(), Error> {
        self.pool.set_joint_ceiling(place, ceiling)
    }

    /// CPU time that each class has used on workers, ns: that of [`Stats`], and what is used in slices that are not over, as far as is
    /// known.
    pub fn class_times(&self) -> Vec<(String, u64)> {
        self.pool.class_times()
    }

    /// The settings that can be changed with [`Executor::set_tuning`], as they are now.
    pub fn tuning(&self) -> Tuning {
        self.pool.tuning.get()
    }

    /// Changes how workers are started and watched; in force from the supervisor's next look, within 10 ms while there is work.
    ///
    /// # Errors
    /// [`Error::Config`] when a value is out of its range. Nothing has changed then.
    pub fn set_tuning(&self, tuning: &Tuning) -> Result<(), Error> {
        self.pool.set_tuning(tuning)?;
        self.rouse();
        Ok(())
    }

    /// Changes the weight, CPUs or keys of a worker; they stay with its number when its thread is restarted.
    ///
    /// # Errors
    /// [`Error::UnknownWorker`] when there never was one of that number; [`Error::Config`] when a value is out of its range;
    /// [`Error::Os`] when its thread cannot be pinned. Nothing has changed then.
    pub fn set_worker(&self, id: u16, settings: &WorkerSettings) -> Result<(), Error> {
        self.pool.set_worker(id, settings)
    }

    /// The classes, in the order of their creation.
    pub fn classes(&self) -> Vec<Class> {
        self.pool
            .classes
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
            .map(|info| Class::new(self.pool.clone(), info.clone()))
            .collect()
    }

    /// Switches the scheduling algorithm; no task is lost.
    pub fn set_algorithm(&self, algorithm: Algorithm) {
        self.pool.set_algorithm(algorithm);
    }

    /// Switches the placement strategy; what is tagged stays where it is and is run all the same.
    pub fn set_strategy(&self, strategy: Strategy) {
        self.pool.set_strategy(strategy);
    }

    /// Sets how many workers run at once; it no longer follows affinity mask and quota then.
    ///
    /// # Errors
    /// `workers` is not 1 to 128.
    pub fn set_parallelism(&self, workers: usize) -> Result<(), Error> {
        check_count("parallelism", workers)?;
        // Held until it is done, so that the supervisor's own setting does not come after it.
        let mut follows = self.pool.follow_machine();
        *follows = false;
        self.pool.set_parallelism(workers as u32, "set by hand");
        Ok(())
    }

    /// Lets parallelism follow affinity mask and quota again, after [`Executor::set_parallelism`].
    pub fn follow_machine(&self) {
        *self.pool.follow_machine() = true;
        self.rouse();
    }

    /// Sets how many threads a group has. Those too many finish their task and end, the stuck and the least healthy first; what was
    /// meant for them goes to others.
    ///
    /// # Errors
    /// `workers` is not 1 to 128, in the front group 1 to 127; or not so many numbers are left beside those of replaced workers
    /// that are still in their tasks. Nothing has changed then.
    pub fn scale(&self, group: Group, workers: usize) -> Result<(), Error> {
        self.scale_because(group, workers, "set by hand")
    }

    /// As [`Executor::scale`], with the reason that the event gives.
    ///
    /// # Errors
    /// As [`Executor::scale`].
    pub fn scale_because(&self, group: Group, workers: usize, reason: &str) -> Result<(), Error> {
        check_count("workers", workers)?;
        if group == Group::Front && workers == MAX_WORKERS_PER_GROUP {
            return Err(Error::Config {
                key: "workers",
                found: workers.to_string(),
                expected: "1 to 127 (one place is the I/O thread's)",
            });
        }
        self.pool.scale(group, workers, reason)?;
        self.rouse();
        Ok(())
    }

    /// Lets a worker finish its task, ends its thread and starts another of its number, if that is still in service.
    ///
    /// # Errors
    /// [`Error::UnknownWorker`]; [`Error::IoWorker`]; [`Error::WorkerReplaced`].
    pub fn restart_worker(&self, id: u16) -> Result<(), Error> {
        self.known(id)?;
        threads::stop(&self.pool, usize::from(id), "to be restarted");
        self.pool.events.push(
            self.pool.now(),
            Some(usize::from(id)),
            What::Restarted,
            "asked for",
        );
        self.rouse();
        Ok(())
    }

    fn known(&self, id: u16) -> Result<(), Error> {
        let index = usize::from(id);
        if index >= MAX_WORKERS || !threads::is_alive(&self.pool, index) {
            return Err(Error::UnknownWorker(id));
        }
        if index == IO_WORKER {
            return Err(Error::IoWorker(id));
        }
        match self.pool.worker(index).replaced_by() {
            Some(by) => Err(Error::WorkerReplaced { id, by }),
            None => Ok(()),
        }
    }

    /// Ends the thread of a worker when it has finished its task, and lowers the wanted number of its group by one.
    ///
    /// # Errors
    /// [`Error::UnknownWorker`]; [`Error::IoWorker`]; [`Error::WorkerReplaced`]; [`Error::WorkerLeaving`] when that has been asked for
    /// already; [`Error::Config`] when it is the last of its group. Nothing has changed then.
    pub fn drain_worker(&self, id: u16) -> Result<(), Error> {
        self.known(id)?;
        self.pool.retire_worker(usize::from(id))?;
        self.rouse();
        Ok(())
    }

    /// Moves tasks between workers so that the lengths of their lists differ by at most one; returns how many moved. Under
    /// `pull` there is nothing to move.
    pub fn rebalance(&self) -> usize {
        [Group::Front, Group::Back]
            .into_iter()
            .map(|group| self.pool.rebalance_group(group, "asked for"))
            .sum()
    }

    /// What was done since the start.
    pub fn stats(&self) -> Stats {
        self.pool.stats()
    }

    /// The workers that exist, front ones first.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.pool.worker_statuses()
    }

    /// The last events, oldest first, at most [`MAX_EVENTS`](crate::MAX_EVENTS).
    pub fn events(&self) -> Vec<Event> {
        self.pool.events.after(None)
    }

    /// Those of the last events that come after the one of this number (all with None), oldest first.
    pub fn events_after(&self, number: Option<u64>) -> Vec<Event> {
        self.pool.events.after(number)
    }

    fn rouse(&self) {
        self.pool.spine.supervisor_asleep.store(false, SeqCst);
        if let Some(thread) = &*self
            .pool
            .spine
            .supervisor
            .lock()
            .unwrap_or_else(|e| e.into_inner())
        {
            thread.unpark();
        }
    }

    /// Ends the executor: takes nothing new from outside, runs what was accepted for at most `timeout`, then cancels what is
    /// left, waits for running closures for at most the configured `force_after`, and reports what still runs. Blocks.
    ///
    /// # Errors
    /// [`Error::BlocksWorker`] on one of its own workers; the executor then goes on.
    pub fn shutdown(mut self, timeout: Duration) -> Result<ShutdownReport, Box<(Self, Error)>> {
        if self.is_own_thread() {
            return Err(Box::new((self, Error::BlocksWorker { call: "shutdown" })));
        }
        Ok(self.end(timeout))
    }

    /// As [`Executor::shutdown`], without blocking the calling task: the waiting is done on a thread of its own.
    pub async fn shutdown_async(mut self, timeout: Duration) -> ShutdownReport {
        let (send, receive) = tokio::sync::oneshot::channel();
        let waiter = std::thread::Builder::new()
            .name(format!("{}-end", self.pool.config.thread_name))
            .spawn(move || {
                let _ = send.send(self.end(timeout));
            });
        match waiter {
            Ok(_) => receive.await.unwrap_or_default(),
            // No thread to be had: the executor was dropped with the closure, which ended it.
            Err(_) => ShutdownReport::default(),
        }
    }

    /// Whether the caller stands on one of this executor's workers, where waiting for its end would never end.
    pub fn is_own_thread(&self) -> bool {
        crate::dispatch::is_worker_of(self.pool.spine)
    }

    fn end(&mut self, timeout: Duration) -> ShutdownReport {
        self.down = true;
        let pool = self.pool.clone();
        let started = pool.now();
        pool.events.push(started, None, What::Shutdown, "begun");
        pool.spine.closing.store(true, SeqCst);
        pool.resume_all();
        self.wait_quiet(timeout, || (), || is_drained(&pool));
        pool.spine.terminated.store(true, SeqCst);
        pool.spine.sweep();
        for worker in pool.known_workers() {
            pool.spine.signals.revoke(worker.index);
        }
        let force_after = pool.tuning.force_after();
        self.wait_quiet(force_after, || pool.spine.sweep(), || no_task_runs(&pool));
        // In this order: a worker that gives its ring up sweeps for itself once it sees the flag.
        pool.stop.store(true, SeqCst);
        pool.spine.sweep();
        #[cfg_attr(not(feature = "rayon"), allow(unused_mut))]
        let mut left_running = self
            .workers()
            .into_iter()
            .filter_map(|worker| worker.task)
            .collect::<Vec<_>>();
        #[cfg(feature = "rayon")]
        left_running.extend(pool.guests.end(&pool));
        self.join_threads();
        let ended = pool
            .stats()
            .classes
            .iter()
            .map(|class| class.counts.tasks - class.counts.cancelled)
            .sum();
        let now = pool.now();
        pool.events.push(now, None, What::Shutdown, "ended");
        ShutdownReport {
            ended,
            cancelled: pool.spine.swept.load(SeqCst),
            left_running,
            took: now.duration_since(started),
        }
    }

    /// Waits until `done` or the timeout. `before` is called without a lock before each look: it may drop what users put in.
    fn wait_quiet(
        &self,
        timeout: Duration,
        mut before: impl FnMut(),
        mut done: impl FnMut() -> bool,
    ) {
        let pool = &self.pool;
        let until = pool.now().saturating_add(timeout);
        pool.quiet_waiters.fetch_add(1, SeqCst);
        loop {
            before();
            let guard = pool.quiet_lock.lock().unwrap_or_else(|e| e.into_inner());
            if done() {
                break;
            }
            let left = until.duration_since(pool.now());
            if left.is_zero() {
                break;
            }
            // Futures that end on a foreign thread (cancelled ones) signal nothing: look again at each tick.
            let waited = pool.quiet.wait_timeout(guard, left.min(supervisor::TICK));
            drop(waited);
        }
        pool.quiet_waiters.fetch_sub(1, SeqCst);
    }

    /// Ends the threads that do not run a task and joins them; others are left to end by themselves.
    fn join_threads(&self) {
        let pool = &self.pool;
        if let Some(supervisor) = self
            .supervisor
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .take()
        {
            supervisor.thread().unpark();
            let _ = supervisor.join();
        }
        pool.wake_io();
        if let Some(io) = self.io.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let runs_a_task = pool.workers[IO_WORKER]
                .get()
                .is_some_and(|worker| worker.task_since.load(SeqCst) != 0);
            if !runs_a_task && io.thread().id() != std::thread::current().id() {
                let _ = io.join();
            }
        }
        let threads = std::mem::take(&mut *pool.threads.lock().unwrap_or_else(|e| e.into_inner()));
        for &index in threads.keys() {
            pool.spine.signals.wake_worker(group_of(index), index);
        }
        for (index, thread) in threads {
            let runs_a_task = pool.workers[index]
                .get()
                .is_some_and(|worker| worker.task_since.load(SeqCst) != 0);
            // Left behind: it ends when its closure returns.
            if !runs_a_task && thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn check_count(key: &'static str, workers: usize) -> Result<(), Error> {
    if (1..=MAX_WORKERS_PER_GROUP).contains(&workers) {
        Ok(())
    } else {
        Err(Error::Config {
            key,
            found: workers.to_string(),
            expected: "1 to 128",
        })
    }
}

/// Nothing queued, nothing running, no future waiting, and all of that at the same moment: a worker that was found idle may
/// have been given what another one, found idle after it, submitted before.
fn is_drained(pool: &Pool) -> bool {
    let wakes = || -> u64 {
        pool.known_workers()
            .map(|worker| worker.wakes.load(SeqCst))
            .sum()
    };
    let nothing_waits = || {
        // On its way to a queue it left a ring before it was looked for there, and is looked for in the queue after.
        pool.moving.load(SeqCst) == 0
            && pool.spine.registry.len() == 0
            && pool.spine.classes.iter().all(|slot| slot.waiting() == 0)
    };
    let before = wakes();
    nothing_waits() && no_task_runs(pool) && nothing_waits() && wakes() == before
}

fn no_task_runs(pool: &Pool) -> bool {
    #[cfg(feature = "rayon")]
    if pool.guests.is_active() {
        return false;
    }
    pool.known_workers()
        .all(|worker| worker.held() == 0 && worker.state.load(SeqCst) != state::BUSY)
}

impl Drop for Executor {
    fn drop(&mut self) {
        if !self.down {
            self.end(Duration::ZERO);
        }
    }
}
