//! What the workers of one executor share.

use crate::config::Config;
use crate::error::Error;
use crate::event::{Events, What};
use crate::ledger::Ledger;
use crate::os::BackPriority;
use crate::roster::Roster;
use crate::spine::{ClassSlot, IO_WORKER, MAX_WORKERS, Spine, group_of, mode};
use crate::tuning::{Tuned, Tuning};
use crate::{clock, dispatch};
use flyball_core::class::{ClassSpec, Group};
use flyball_core::id::{ClassId, KindId};
use flyball_core::time::{Source, Timestamp};
use flyball_policy::sched::place::Placer;
use flyball_policy::sched::{Algorithm, ClassParams, ClassService, Scheduler};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock};
use std::task::Waker;

mod balance;
mod figures;
mod worker_shared;

pub(crate) use balance::LastCores;
pub(crate) use worker_shared::{NOBODY, TaskWhat, WorkerShared, command, slice, state, token};

/// Kind of a task that names none.
pub(crate) const UNNAMED: usize = 0;

pub(crate) struct Pool {
    pub(crate) spine: &'static Spine,
    pub(crate) config: Config,
    pub(crate) clock: Source,
    pub(crate) ledger: Ledger,
    /// What the scheduler last said of each class to somebody who asked for figures.
    services: Mutex<Vec<(ClassId, ClassService)>>,
    pub(crate) classes: RwLock<Vec<Arc<ClassInfo>>>,
    /// Classes of each group that are not paused, a bit each.
    pub(crate) masks: [AtomicU64; 2],
    pub(crate) workers: Box<[OnceLock<Arc<WorkerShared>>]>,
    kinds: RwLock<Kinds>,
    pub(crate) events: Events,
    placer: Mutex<Placer>,
    strategy: AtomicU8,
    pub(crate) tokio: tokio::runtime::Handle,
    /// How many look to it that what a stuck worker held goes back to the classes: until then such tasks stand nowhere.
    pub(crate) moving: AtomicUsize,
    /// Worker numbers in service.
    pub(crate) roster: Roster,
    pub(crate) rebalances: AtomicU64,
    /// Tasks moved in them, and when the last one was, ns.
    pub(crate) rebalanced_tasks: AtomicU64,
    pub(crate) last_rebalance: AtomicU64,
    pub(crate) tuning: Tuned,
    /// Classes that were removed while handles of them were held.
    pub(crate) removed: Mutex<Vec<Arc<ClassInfo>>>,
    /// Tasks of classes that were removed: submitted, ended.
    pub(crate) past_submitted: AtomicU64,
    pub(crate) past_ended: AtomicU64,
    /// The worker that each affinity key was given to.
    pub(crate) key_owners: RwLock<HashMap<u64, u16>>,
    io_waker: Mutex<Option<Waker>>,
    /// Where keys ran last.
    pub(crate) cores: LastCores,
    pub(crate) stop: AtomicBool,
    /// Signalled when a worker goes idle or ends while somebody waits for that.
    pub(crate) quiet: Condvar,
    pub(crate) quiet_lock: Mutex<()>,
    pub(crate) quiet_waiters: AtomicU32,
    /// Threads of workers, by number, until they are joined.
    pub(crate) threads: Mutex<HashMap<usize, std::thread::JoinHandle<()>>>,
    /// Parallelism was not fixed by the configuration.
    pub(crate) follow_machine: Mutex<bool>,
    #[cfg(feature = "rayon")]
    pub(crate) guests: crate::guests::Guests,
}

pub(crate) struct ClassInfo {
    pub(crate) id: ClassId,
    pub(crate) name: Arc<str>,
    pub(crate) spec: RwLock<ClassSpec>,
    pub(crate) slot: &'static ClassSlot,
    /// There is no such class any more.
    pub(crate) removed: AtomicBool,
}

struct Kinds {
    names: Vec<String>,
    index: HashMap<String, u16>,
}

pub(crate) fn group_index(group: Group) -> usize {
    usize::from(group == Group::Back)
}

impl Pool {
    /// A pool without threads.
    pub(crate) fn new(
        config: Config,
        clock: Source,
        tokio: tokio::runtime::Handle,
    ) -> Result<Arc<Pool>, Error> {
        let follow_machine = config.parallelism == 0;
        let config = config.resolve()?;
        let spine = Spine::take(config.parallelism as u32);
        spine.max_keys.store(config.max_keys, SeqCst);
        let kinds = config.max_kinds + 2;
        let pool = Arc::new(Pool {
            spine,
            ledger: Ledger::new(Scheduler::new(config.algorithm, config.parallelism as u32)),
            services: Mutex::default(),
            classes: RwLock::new(Vec::new()),
            masks: [AtomicU64::new(0), AtomicU64::new(0)],
            workers: (0..MAX_WORKERS).map(|_| OnceLock::new()).collect(),
            kinds: RwLock::new(Kinds {
                names: vec![String::new(), "other".into()],
                index: HashMap::from([(String::new(), 0), ("other".into(), 1)]),
            }),
            events: Events::default(),
            placer: Mutex::new(Placer::new(config.strategy, 1)),
            strategy: AtomicU8::new(0),
            tokio,
            moving: AtomicUsize::new(0),
            roster: Roster::new(config.front_workers, config.back_workers),
            rebalances: AtomicU64::new(0),
            rebalanced_tasks: AtomicU64::new(0),
            last_rebalance: AtomicU64::new(0),
            tuning: Tuned::new(&Tuning::from(&config)),
            removed: Mutex::default(),
            past_submitted: AtomicU64::new(0),
            past_ended: AtomicU64::new(0),
            key_owners: RwLock::default(),
            io_waker: Mutex::new(None),
            cores: LastCores::new(),
            stop: AtomicBool::new(false),
            quiet: Condvar::new(),
            quiet_lock: Mutex::new(()),
            quiet_waiters: AtomicU32::new(0),
            threads: Mutex::default(),
            follow_machine: Mutex::new(follow_machine),
            #[cfg(feature = "rayon")]
            guests: crate::guests::Guests::default(),
            clock,
            config,
        });
        debug_assert!(kinds <= u16::MAX as usize);
        spine
            .signals
            .set_front_counts(pool.config.back_priority != BackPriority::Idle);
        pool.set_strategy(pool.config.strategy);
        pool.publish_algorithm(pool.config.algorithm);
        let mut specs: Vec<ClassSpec> = ClassSpec::built_in().into();
        for own in &pool.config.classes {
            match specs.iter_mut().find(|spec| spec.name == own.name) {
                Some(spec) => *spec = own.clone(),
                None => specs.push(own.clone()),
            }
        }
        for spec in specs {
            pool.add_class(spec)?;
        }
        Ok(pool)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Classes of a group that may run: those that are not paused.
    #[inline]
    pub(crate) fn mask(&self, group: Group) -> u64 {
        // In one order with idle bits and ready bits: a worker that goes to sleep sees a class resumed, or is woken.
        self.masks[group_index(group)].load(SeqCst)
    }

    pub(crate) fn find_class(&self, name: &str) -> Result<Arc<ClassInfo>, Error> {
        let classes = self.classes.read().unwrap_or_else(|e| e.into_inner());
        find(&classes, name).cloned()
    }

    /// Names of the classes by their slots.
    pub(crate) fn class_names(&self) -> Vec<String> {
        let mut names = vec![String::new(); self.spine.classes.len()];
        for class in self
            .classes
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
        {
            names[class.id.index()] = class.name.to_string();
        }
        names
    }

    pub(crate) fn add_class(&self, spec: ClassSpec) -> Result<Arc<ClassInfo>, Error> {
        spec.validate().map_err(|source| Error::Class {
            name: spec.name.clone(),
            source,
        })?;
        let mut classes = self.classes.write().unwrap_or_else(|e| e.into_inner());
        if classes.iter().any(|class| *class.name == *spec.name) {
            return Err(Error::DuplicateClass { name: spec.name });
        }
        let id = self
            .free_slot(&classes)
            .and_then(ClassId::try_new)
            .ok_or(Error::TooManyClasses)?;
        let now = self.now();
        self.ledger
            .open()
            .insert(now, id, ClassParams::from(&spec))
            .map_err(|error| Error::Schedule {
                name: spec.name.clone(),
                reason: error.to_string(),
            })?;
        let slot = &self.spine.classes[id.index()];
        slot.begin_class();
        self.spine.shedding.fetch_and(!(1 << slot.index), SeqCst);
        let info = Arc::new(ClassInfo {
            id,
            name: spec.name.as_str().into(),
            slot,
            spec: RwLock::new(spec),
            removed: AtomicBool::new(false),
        });
        self.publish_class(&info);
        classes.push(info.clone());
        Ok(info)
    }

    /// Changes a class that exists; the name and the group stay.
    pub(crate) fn set_class(&self, spec: ClassSpec) -> Result<(), Error> {
        spec.validate().map_err(|source| Error::Class {
            name: spec.name.clone(),
            source,
        })?;
        // Kept until the end, so that the class is not removed or paused meanwhile.
        let classes = self.classes.read().unwrap_or_else(|e| e.into_inner());
        let info = find(&classes, &spec.name)?;
        let mut present = info.spec.write().unwrap_or_else(|e| e.into_inner());
        if present.group != spec.group {
            return Err(Error::Config {
                key: "group",
                found: format!("{:?}", spec.group),
                expected: "the group the class was created with",
            });
        }
        let now = self.now();
        self.ledger
            .open()
            .update(now, info.id, ClassParams::from(&spec))
            .map_err(|error| Error::Schedule {
                name: spec.name.clone(),
                reason: error.to_string(),
            })?;
        *present = spec;
        drop(present);
        self.publish_class(info);
        self.events.push(
            now,
            None,
            What::Changed,
            format!("class {} changed", info.name),
        );
        Ok(())
    }

    pub(crate) fn publish_class(&self, info: &ClassInfo) {
        let slot = info.slot;
        // Kept while the bound changes, which is also moved by what waits.
        let _shedder = slot.shedder();
        let spec = info.spec.read().unwrap_or_else(|e| e.into_inner());
        slot.group.store(group_index(spec.group) as u8, SeqCst);
        slot.rank.store(spec.priority + 1, SeqCst);
        let jointly = self.spine.limited.load(SeqCst) & (1 << info.id.index()) != 0;
        let restricted = spec.concurrency.is_some() || spec.ceiling < 1.0 || jointly;
        slot.restricted.store(restricted, SeqCst);
        slot.hard.store(spec.queue_limit, SeqCst);
        slot.limit
            .store(spec.queue_limit.min(slot.soft.load(SeqCst)), SeqCst);
        slot.queue.forget_room();
        slot.latency_target.store(
            spec.latency_target.as_nanos().min(u128::from(u64::MAX)) as u64,
            SeqCst,
        );
        if slot.mode.load(SeqCst) == mode::OPEN {
            self.masks[group_index(spec.group)].fetch_or(1 << info.id.index(), SeqCst);
        }
    }

    fn publish_algorithm(&self, algorithm: Algorithm) {
        let number = match algorithm {
            Algorithm::RoundRobin => 0,
            Algorithm::Priority => 1,
            Algorithm::Cfs => 2,
            Algorithm::ProportionalShare => 3,
        };
        self.spine.algorithm.store(number, SeqCst);
        self.spine
            .fair_futures
            .store(algorithm == Algorithm::Cfs, SeqCst);
    }

    pub(crate) fn set_algorithm(&self, algorithm: Algorithm) {
        let now = self.now();
        let before = {
            let mut scheduler = self.ledger.open();
            let before = scheduler.algorithm();
            scheduler.set_algorithm(now, algorithm);
            before
        };
        self.publish_algorithm(algorithm);
        self.events.push(
            now,
            None,
            What::Changed,
            format!("algorithm {before} → {algorithm}"),
        );
    }

    /// The number of a kind; kinds beyond the bound share `other`.
    pub(crate) fn kind(&self, name: &str) -> KindId {
        if let Some(&number) = self
            .kinds
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .index
            .get(name)
        {
            return KindId::new(number);
        }
        let mut kinds = self.kinds.write().unwrap_or_else(|e| e.into_inner());
        if let Some(&number) = kinds.index.get(name) {
            return KindId::new(number);
        }
        if kinds.names.len() >= self.config.max_kinds + 2 {
            return KindId::new(1);
        }
        let number = kinds.names.len() as u16;
        kinds.names.push(name.to_owned());
        kinds.index.insert(name.to_owned(), number);
        KindId::new(number)
    }

    pub(crate) fn kind_names(&self) -> Vec<String> {
        self.kinds
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .names
            .clone()
    }

    /// The worker of that number, made if it is not there yet.
    pub(crate) fn worker(&self, index: usize) -> Arc<WorkerShared> {
        let worker = self.workers[index]
            .get_or_init(|| Arc::new(WorkerShared::new(index, self.config.max_kinds + 2)))
            .clone();
        if index != IO_WORKER {
            let group = group_of(index);
            let position = index - crate::spine::workers_of(group).start + 1;
            self.spine.started[group_index(group)].fetch_max(position, SeqCst);
        }
        worker
    }

    /// Workers that were ever started.
    pub(crate) fn known_workers(&self) -> impl Iterator<Item = &Arc<WorkerShared>> {
        self.workers.iter().filter_map(OnceLock::get)
    }

    /// Workers of a group whose rings others may take from.
    pub(crate) fn sharing_workers(&self, group: Group) -> impl Iterator<Item = usize> + use<> {
        let io =
            (group == Group::Front && self.workers[IO_WORKER].get().is_some()).then_some(IO_WORKER);
        self.spine.started_workers(group).chain(io)
    }

    /// Keeps the waker of the I/O thread's turn.
    pub(crate) fn set_io_waker(&self, waker: &Waker) {
        let mut known = self.io_waker.lock().unwrap_or_else(|e| e.into_inner());
        match &mut *known {
            Some(known) => known.clone_from(waker),
            None => *known = Some(waker.clone()),
        }
    }

    /// Gets the I/O thread out of the driver.
    pub(crate) fn wake_io(&self) {
        if let Some(waker) = &*self.io_waker.lock().unwrap_or_else(|e| e.into_inner()) {
            waker.wake_by_ref();
        }
    }

    /// Classes of a group with work in some ring of the group.
    pub(crate) fn ring_classes(&self, group: Group) -> u64 {
        let mut classes = 0;
        for index in self.sharing_workers(group) {
            if let Some(worker) = self.workers[index].get()
                && worker.can_be_robbed()
            {
                let class = worker.ring_class.load(Relaxed);
                if class != dispatch::NO_CLASS {
                    classes |= 1 << class;
                }
            }
        }
        classes
    }

    /// True when a worker of the group could find a task.
    pub(crate) fn has_work(&self, group: Group) -> bool {
        let signals = &self.spine.signals;
        let mask = self.mask(group);
        signals.ready() & mask != 0 || self.ring_classes(group) & mask != 0
    }

    /// Wakes a worker of the group if there is something to run. For whoever gave back a token or found more than it took.
    pub(crate) fn pass_on(&self, group: Group) {
        if self.spine.signals.any_idle(group) && self.has_work(group) {
            self.spine.signals.wake_one(group);
        }
    }

    /// Whether parallelism follows the machine; whoever sets parallelism holds it meanwhile.
    pub(crate) fn follow_machine(&self) -> MutexGuard<'_, bool> {
        self.follow_machine
            .lock()
            .unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn set_parallelism(&self, workers: u32, reason: &str) {
        let before = self.spine.signals.parallelism();
        self.ledger.open().set_parallelism(workers);
        self.spine.signals.set_parallelism(workers);
        self.events.push(
            self.now(),
            None,
            What::Changed,
            format!("parallelism {before} → {workers}: {reason}"),
        );
        self.pass_on(Group::Back);
    }

    /// Tells whoever waits for quiet that a worker went idle or ended.
    #[inline]
    pub(crate) fn notify_quiet(&self) {
        if self.quiet_waiters.load(SeqCst) != 0 {
            drop(self.quiet_lock.lock().unwrap_or_else(|e| e.into_inner()));
            self.quiet.notify_all();
        }
    }

    /// Moves the manual clock that stamps arrivals.
    #[cfg(feature = "testing")]
    pub(crate) fn set_manual_now(&self, now: Timestamp) {
        self.spine.manual_now.store(now.as_nanos(), SeqCst);
        self.spine.manual.store(true, SeqCst);
    }

    /// Makes sure the clock is calibrated before the first task asks.
    pub(crate) fn warm_clock() -> Source {
        clock::best().clone()
    }
}

pub(crate) fn find<'a>(
    classes: &'a [Arc<ClassInfo>],
    name: &str,
) -> Result<&'a Arc<ClassInfo>, Error> {
    classes
        .iter()
        .find(|class| &*class.name == name)
        .ok_or_else(|| Error::UnknownClass {
            name: name.to_owned(),
            known: classes.iter().map(|class| class.name.to_string()).collect(),
        })
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.spine.terminated.store(true, SeqCst);
        self.spine.give_back();
    }
}
