//! Process slots: so many commands at once, shared by classes.
//!
//! A command waits in the queue of its class until a slot is free and the scheduling policy picks that class; the CPU time of its
//! tree is settled to the class when it ends. The same policy shares worker threads; here a grant lasts as long as its command.
//!
//! Invariants:
//! - a free slot and a command that may run never stay together: every submission, every end and every alarm dispatches;
//! - a command that was set aside holds no slot, and takes one again before it goes on;
//! - the lock is held for decisions and orders, not for starting processes or calling back.
//!
//! Leaves out: memory and I/O bounds, and which command is set aside for which.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use flyball_core::class::{ClassSpec, Group, MAX_CLASSES};
use flyball_core::id::{ClassId, ClassSet};
use flyball_core::time::{Clock, OsClock};
use flyball_policy::sched::{Algorithm, ClassParams, Grant, Pick, Scheduler};

use crate::bounds::sharing::{Sharing, Want};
use crate::child::{Child, Control, OnExit, Shared, Status};
use crate::command::Command;
use crate::error::Error;
use crate::exit::Exit;
use crate::jobserver::{Held, Jobserver};
use crate::server::{Inner, SpawnServer};

/// Name of the built-in class whose commands run only when nobody else wants the CPU.
const IDLE: &str = "idle";

struct Queue {
    spec: ClassSpec,
    waiting: VecDeque<(Command, Arc<Shared>)>,
    running: u32,
    ended: u64,
    cpu_ns: u64,
}

struct State {
    scheduler: Scheduler,
    queues: Vec<Queue>,
    ready: ClassSet,
    slots: u32,
    /// Those set aside included.
    running: u32,
    aside: u32,
    jobserver: Option<Jobserver>,
}

impl State {
    fn busy(&self) -> u32 {
        self.running - self.aside
    }
}

struct Core {
    server: Arc<Inner>,
    state: Mutex<State>,
    /// The place among other programs, where they are told of what is wanted here.
    sharing: OnceLock<Sharing>,
}

/// What a class has used.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClassUsage {
    /// Its name.
    pub name: String,
    /// Commands that wait.
    pub waiting: usize,
    /// Commands that run.
    pub running: u32,
    /// Commands that have ended.
    pub ended: u64,
    /// CPU time of those that have ended, nanoseconds.
    pub cpu_ns: u64,
}

/// A number of process slots over a [`SpawnServer`]. Cheap to clone; all clones share the slots.
#[derive(Clone)]
pub struct Slots {
    core: Arc<Core>,
}

impl Slots {
    /// So many slots (at least one), given to classes by `algorithm`. There are no classes yet; see [`insert`](Slots::insert).
    #[must_use]
    pub fn new(server: &SpawnServer, slots: u32, algorithm: Algorithm) -> Slots {
        let slots = slots.max(1);
        let state = State {
            scheduler: Scheduler::new(algorithm, slots),
            queues: Vec::new(),
            ready: ClassSet::EMPTY,
            slots,
            running: 0,
            aside: 0,
            jobserver: None,
        };
        Slots {
            core: Arc::new(Core {
                server: Arc::clone(server.inner()),
                state: Mutex::new(state),
                sharing: OnceLock::new(),
            }),
        }
    }

    /// Adds a class: its shares, ceiling and concurrency bound its commands, its queue limit those that wait, its niceness is
    /// added to theirs, and a class named `idle` runs them under SCHED_IDLE.
    ///
    /// # Errors
    /// [`Error::Class`] when the description is not valid, the name is taken, or there are 64 already.
    pub fn insert(&self, spec: ClassSpec) -> Result<ClassId, Error> {
        let refused = |why: String| Error::Class { why };
        spec.validate()
            .map_err(|error| refused(error.to_string()))?;
        let mut state = self.core.lock();
        if state
            .queues
            .iter()
            .any(|queue| queue.spec.name == spec.name)
        {
            return Err(refused(format!("there is a class {:?} already", spec.name)));
        }
        let class = ClassId::try_new(state.queues.len())
            .ok_or_else(|| refused(format!("the most is {MAX_CLASSES}")))?;
        let mut params = ClassParams::from(&spec);
        // Front threads are told apart from back threads because the kernel runs them; a slot is a slot.
        params.group = Group::Back;
        state
            .scheduler
            .insert(OsClock.now(), class, params)
            .map_err(|error| refused(error.to_string()))?;
        state.queues.push(Queue {
            spec,
            waiting: VecDeque::new(),
            running: 0,
            ended: 0,
            cpu_ns: 0,
        });
        Ok(class)
    }

    /// Changes a class that is there, found by its name. Commands that wait or run stay.
    ///
    /// # Errors
    /// [`Error::Class`] when the description is not valid, or there is no class of that name; nothing has changed then.
    pub fn update(&self, spec: ClassSpec) -> Result<(), Error> {
        let refused = |why: String| Error::Class { why };
        spec.validate()
            .map_err(|error| refused(error.to_string()))?;
        let unknown = || refused(format!("there is no class {:?}", spec.name));
        let class = self.class(&spec.name).ok_or_else(unknown)?;
        let mut params = ClassParams::from(&spec);
        params.group = Group::Back;
        let mut state = self.core.lock();
        state
            .scheduler
            .update(OsClock.now(), class, params)
            .map_err(|error| refused(error.to_string()))?;
        state.queues[class.index()].spec = spec;
        drop(state);
        // It may now run more at once.
        Core::dispatch(&self.core);
        Ok(())
    }

    /// The class of that name.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<ClassId> {
        let index = self
            .core
            .lock()
            .queues
            .iter()
            .position(|queue| queue.spec.name == name)?;
        ClassId::try_new(index)
    }

    /// Queues a command; it starts when a slot is free and its class is picked.
    ///
    /// # Errors
    /// [`Error::UnknownClass`], and [`Error::QueueFull`] at the class's queue limit. What is wrong with the command itself is
    /// told by the child.
    pub fn submit(&self, class: ClassId, command: Command) -> Result<Child, Error> {
        self.enqueue(class, command, None)
    }

    /// Queues a command and calls `on_exit` with its end, on the thread that learns of it, which must not be kept.
    ///
    /// # Errors
    /// As [`submit`](Slots::submit); `on_exit` is not called then.
    pub fn submit_with(
        &self,
        class: ClassId,
        command: Command,
        on_exit: impl FnOnce(Result<Exit, Error>) + Send + 'static,
    ) -> Result<Child, Error> {
        self.enqueue(class, command, Some(Box::new(on_exit)))
    }

    fn enqueue(
        &self,
        class: ClassId,
        command: Command,
        on_exit: Option<OnExit>,
    ) -> Result<Child, Error> {
        let shared = Shared::new(command.program().to_owned(), Status::Queued, on_exit);
        let mut state = self.core.lock();
        let queue = state
            .queues
            .get_mut(class.index())
            .ok_or(Error::UnknownClass {
                id: u8::try_from(class.index()).unwrap_or(u8::MAX),
            })?;
        if queue.waiting.len() >= queue.spec.queue_limit {
            return Err(Error::QueueFull {
                limit: queue.spec.queue_limit,
            });
        }
        let command = command.of_class(queue.spec.niceness.into(), queue.spec.name == IDLE);
        queue.waiting.push_back((command, Arc::clone(&shared)));
        state.ready.insert(class);
        drop(state);
        Core::dispatch(&self.core);
        self.core.tell();
        Ok(Child::new(shared))
    }

    /// Sets the number of slots (at least one). Commands that run beyond a smaller number finish.
    pub fn resize(&self, slots: u32) {
        let mut state = self.core.lock();
        state.slots = slots.max(1);
        let slots = state.slots;
        state.scheduler.set_parallelism(slots);
        if let Some(jobserver) = &state.jobserver {
            jobserver.resize(slots);
        }
        drop(state);
        Core::dispatch(&self.core);
    }

    /// Tells commands that start from now on of a jobserver, which is sized as these slots are, and for each class as its concurrency, and stays so. One that cannot be told, for want of descriptors say, starts without.
    pub fn set_jobserver(&self, jobserver: Option<Jobserver>) {
        let mut state = self.core.lock();
        if let Some(jobserver) = &jobserver {
            jobserver.resize(state.slots);
        }
        state.jobserver = jobserver;
    }

    /// The number of slots.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.core.lock().slots
    }

    /// Slots that neither a running command has nor a waiting one is about to get.
    #[must_use]
    pub fn free(&self) -> u32 {
        let state = self.core.lock();
        let waiting: usize = state.queues.iter().map(|queue| queue.waiting.len()).sum();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        state
            .slots
            .saturating_sub(state.busy().saturating_add(waiting))
    }

    /// Sets a running command of these slots aside: it is paused, and its slot goes to the next one. Answers whether it runs and was not set aside before.
    pub fn set_aside(&self, control: &Control) -> bool {
        let mut state = self.core.lock();
        let aside = &control.0.aside;
        // Under the lock, as its end is: who has ended is not counted as set aside.
        if control.0.settled.load(Ordering::Relaxed)
            || aside.load(Ordering::Relaxed)
            || !control.pause()
        {
            return false;
        }
        aside.store(true, Ordering::Relaxed);
        state.aside += 1;
        drop(state);
        Core::dispatch(&self.core);
        true
    }

    /// Lets a command go on that was set aside, if a slot is free. Answers whether it does.
    pub fn take_back(&self, control: &Control) -> bool {
        let mut state = self.core.lock();
        let aside = &control.0.aside;
        if !aside.load(Ordering::Relaxed) || state.busy() >= state.slots {
            return false;
        }
        aside.store(false, Ordering::Relaxed);
        state.aside -= 1;
        control.resume();
        true
    }

    /// Lets the other programs of this user that share this machine by `folder`
    /// ([`sharing`](crate::bounds::sharing)) know how many commands run and wait here, and with which shares: of `machine` slots they
    /// then leave so many as these have a right to. The number of slots here stays what it is. Once; later calls change nothing.
    ///
    /// # Errors
    /// Why the machine cannot be shared, for people.
    pub fn share(&self, folder: &Path, machine: u32) -> Result<(), String> {
        let others = Arc::downgrade(&self.core);
        let mut want = Want::slots(1, 0);
        want.fixed = true;
        let sharing = Sharing::join(folder, machine, want, move |_| {
            if let Some(core) = others.upgrade() {
                core.tell();
            }
        })?;
        // A second place is given up again.
        let _ = self.core.sharing.set(sharing);
        self.core.tell();
        Ok(())
    }

    /// What each class has used, in the order they were added.
    #[must_use]
    pub fn usage(&self) -> Vec<ClassUsage> {
        let state = self.core.lock();
        let usage = |queue: &Queue| ClassUsage {
            name: queue.spec.name.clone(),
            waiting: queue.waiting.len(),
            running: queue.running,
            ended: queue.ended,
            cpu_ns: queue.cpu_ns,
        };
        state.queues.iter().map(usage).collect()
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.core.lock();
        f.debug_struct("Slots")
            .field("slots", &state.slots)
            .field("running", &state.running)
            .finish_non_exhaustive()
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the others on this machine what is wanted here, if there are any.
    fn tell(&self) {
        let Some(sharing) = self.sharing.get() else {
            return;
        };
        if sharing.part().others == 0 {
            return;
        }
        // Under the lock, so that what is told last is what is so.
        let state = self.lock();
        let mut want = Want::slots(1, 0);
        want.fixed = true;
        want.shares = 0;
        for queue in &state.queues {
            let wanted = queue.running as usize + queue.waiting.len();
            if wanted > 0 {
                want.shares = want.shares.saturating_add(queue.spec.shares);
                let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
                want.slots = want.slots.saturating_add(wanted);
            }
        }
        want.slots = want.slots.min(state.slots).saturating_sub(state.aside);
        want.shares = want.shares.max(1);
        sharing.set(want);
    }

    /// Fills free slots.
    fn dispatch(core: &Arc<Core>) {
        while let Some((grant, command, shared)) = Core::next(core) {
            let class = grant.class;
            // Whoever comes first settles it: the command's end, or the failure to start it.
            let grant = Arc::new(Mutex::new(Some((grant, None::<Held>))));
            let take = |grant: &Mutex<Option<(Grant, Option<Held>)>>| {
                grant.lock().unwrap_or_else(PoisonError::into_inner).take()
            };
            let (ending, at_end) = (Arc::clone(core), Arc::clone(&grant));
            let its = Arc::downgrade(&shared);
            let claimed = shared.claim(Box::new(move |cpu_ns| {
                // Its tree has ended: what it has of the jobserver goes back first.
                if let Some((grant, held)) = take(&at_end) {
                    drop(held);
                    ending.settle(grant, cpu_ns, &its);
                    Core::dispatch(&ending);
                }
            }));
            let failure = if claimed {
                let (command, held) = core.of_jobserver(class, command);
                if let Some((_, place)) = &mut *grant.lock().unwrap_or_else(PoisonError::into_inner)
                {
                    *place = held;
                }
                core.server.launch(command, &shared).err()
            } else {
                None
            };
            if !claimed || failure.is_some() {
                shared.unclaim();
                if let Some((grant, _)) = take(&grant) {
                    core.settle(grant, 0, &Arc::downgrade(&shared));
                }
            }
            if let Some(error) = failure {
                shared.end(Err(error));
            }
        }
    }

    fn of_jobserver(&self, class: ClassId, command: Command) -> (Command, Option<Held>) {
        let state = self.lock();
        let Some(jobserver) = state.jobserver.clone() else {
            return (command, None);
        };
        let most = state.queues[class.index()].spec.concurrency;
        drop(state);
        match jobserver.prepare(command, class.index(), most.unwrap_or(u32::MAX)) {
            Ok((command, held)) => (command, Some(held)),
            Err((command, _)) => (*command, None),
        }
    }

    fn next(core: &Arc<Core>) -> Option<(Grant, Command, Arc<Shared>)> {
        let mut state = core.lock();
        if state.busy() >= state.slots || state.ready.is_empty() {
            return None;
        }
        let (now, ready) = (OsClock.now(), state.ready);
        match state.scheduler.pick(now, ready, ClassSet::ALL) {
            Pick::Run(grant) => {
                let class = grant.class;
                let queue = &mut state.queues[class.index()];
                let waiting = queue.waiting.pop_front();
                if queue.waiting.is_empty() {
                    state.ready.remove(class);
                }
                let Some((command, shared)) = waiting else {
                    state.scheduler.settle(now, grant, 0);
                    return None;
                };
                state.queues[class.index()].running += 1;
                state.running += 1;
                Some((grant, command, shared))
            }
            Pick::Wait { until } => {
                drop(state);
                let waiting = Arc::downgrade(core);
                core.server.set_alarm(
                    until,
                    Arc::new(move || {
                        if let Some(core) = waiting.upgrade() {
                            Core::dispatch(&core);
                        }
                    }),
                );
                None
            }
            Pick::Idle => None,
        }
    }

    fn settle(&self, grant: Grant, cpu_ns: u64, its: &Weak<Shared>) {
        let mut state = self.lock();
        if let Some(shared) = its.upgrade() {
            shared.settled.store(true, Ordering::Relaxed);
            if shared.aside.swap(false, Ordering::Relaxed) {
                state.aside -= 1;
            }
        }
        let queue = &mut state.queues[grant.class.index()];
        queue.running -= 1;
        queue.ended += 1;
        queue.cpu_ns += cpu_ns;
        state.running -= 1;
        state.scheduler.settle(OsClock.now(), grant, cpu_ns);
        drop(state);
        self.tell();
    }
}
