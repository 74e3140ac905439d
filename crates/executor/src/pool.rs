//! What the workers of one executor share.

use crate::clock;
use crate::config::Config;
use crate::dispatch;
use crate::error::Error;
use crate::event::{Events, What};
use crate::health::Figures;
use crate::ledger::Ledger;
use crate::os::{BackPriority, ThreadClock};
use crate::ring::Ring;
use crate::roster::Roster;
use crate::signals::Signals;
use crate::spine::{ClassSlot, IO_WORKER, MAX_WORKERS, Spine, group_of, mode};
use crate::stack::Stack;
use crate::stats::{BusyMeter, ClassStats, GroupStats, Stats, WorkerStats};
use crate::task::Header;
use crate::tuning::{Tuned, Tuning};
use flyball_core::class::{ClassSpec, Group};
use flyball_core::id::{ClassId, KindId, WorkerId};
use flyball_core::time::{Source, Timestamp};
use flyball_policy::sched::health::HEALTHY;
use flyball_policy::sched::place::{Placer, Strategy, TaskView, WorkerView, rebalance};
use flyball_policy::sched::{Algorithm, ClassParams, ClassService, Scheduler};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};
use std::task::Waker;
use std::time::Duration;

/// Kind of a task that names none.
pub(crate) const UNNAMED: usize = 0;

pub(crate) struct Pool {
    pub(crate) spine: &'static Spine,
    pub(crate) config: Config,
    pub(crate) clock: Source,
    pub(crate) ledger: Ledger,
    pub(crate) classes: RwLock<Vec<Arc<ClassInfo>>>,
    /// Classes of each group that are not paused, a bit each.
    pub(crate) masks: [AtomicU64; 2],
    pub(crate) workers: Box<[OnceLock<Arc<WorkerShared>>]>,
    kinds: RwLock<Kinds>,
    pub(crate) events: Events,
    placer: Mutex<Placer>,
    strategy: AtomicU8,
    pub(crate) tokio: tokio::runtime::Handle,
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
    pub(crate) follow_machine: AtomicBool,
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

/// What a worker shows others.
pub(crate) struct WorkerShared {
    pub(crate) index: usize,
    pub(crate) group: Group,
    /// Futures that became runnable here, and what was taken from the class's queue: oldest first.
    pub(crate) ring: Ring<Header>,
    /// Closures that tasks submitted here: newest first.
    pub(crate) stack: Stack<Header>,
    /// Class of what is in ring and stack.
    pub(crate) ring_class: AtomicU8,
    pub(crate) stats: WorkerStats,
    /// Tasks that tasks of this worker submitted to it.
    pub(crate) submitted: AtomicU64,
    /// How many of them are counted by class already.
    pub(crate) submitted_settled: AtomicU64,
    /// Wall-clock time spent in slices.
    pub(crate) busy: BusyMeter,
    /// When its last slice ended, ns; 0 before the first.
    pub(crate) last_activity: AtomicU64,
    /// The slice in progress that the scheduler granted: when, ns (else see [`slice`]), for how long, the thread's CPU time at its
    /// start, and, once others have settled it, at that moment.
    pub(crate) slice_granted: AtomicU64,
    pub(crate) slice_ns: AtomicU64,
    pub(crate) slice_cpu: AtomicU64,
    pub(crate) slice_settled: AtomicU64,
    /// What has become of the token that the worker took.
    pub(crate) token: AtomicU8,
    pub(crate) state: AtomicU8,
    /// Times that the worker became busy: one that is idle and has the same number as before has been idle all the time.
    pub(crate) wakes: AtomicU64,
    /// When the present task started, ns; 0 while none runs.
    pub(crate) task_since: AtomicU64,
    /// Class and kind of the present task.
    pub(crate) task_what: AtomicU32,
    /// Last sign of life, ns.
    pub(crate) heartbeat: AtomicU64,
    pub(crate) command: AtomicU8,
    pub(crate) clock: Mutex<Option<ThreadClock>>,
    /// CPU use over the last second or so, parts in 10,000.
    pub(crate) cpu: AtomicU32,
    /// Mean time of a call or poll, ns; tasks ended a second; parts in 10,000 that failed: since the start, looked at once a
    /// second.
    pub(crate) mean_run_ns: AtomicU64,
    pub(crate) throughput: AtomicU64,
    pub(crate) error_rate: AtomicU32,
    /// Relative speed the worker should be given, parts in 10,000: what was set, times what heat leaves of it.
    pub(crate) weight: AtomicU32,
    pub(crate) weight_set: AtomicU32,
    pub(crate) weight_by_heat: AtomicU32,
    pub(crate) pinned_to: Mutex<Option<u32>>,
    /// The CPUs it was given by hand; empty: none.
    pub(crate) affinity_cores: Mutex<Vec<u32>>,
    /// The kernel's number of its thread. Locked while a system call goes by it, so that it is not another thread's meanwhile.
    pub(crate) thread_id: Mutex<Option<u32>>,
    /// What is measured of it from second to second.
    pub(crate) figures: Mutex<Figures>,
    /// Its health score, parts in 10,000, as the supervisor saw it last.
    pub(crate) health: AtomicU32,
    /// Seconds in which it was at work and passed no task boundary, in all and since it last did.
    pub(crate) missed_heartbeats: AtomicU64,
    pub(crate) missed_now: AtomicU32,
    pub(crate) stuck: AtomicBool,
    /// The worker that has its place; [`NOBODY`] unless it was replaced.
    pub(crate) successor: AtomicU32,
    /// The poll in progress has lasted from one tick to the next while a task waits for its end.
    pub(crate) overdue: AtomicBool,
    pub(crate) started_at: AtomicU64,
}

pub(crate) mod state {
    pub(crate) const STOPPED: u8 = 0;
    pub(crate) const STARTING: u8 = 1;
    pub(crate) const IDLE: u8 = 2;
    pub(crate) const BUSY: u8 = 3;
}

pub(crate) mod command {
    pub(crate) const RUN: u8 = 0;
    pub(crate) const STOP: u8 = 1;
}

/// No worker has another's place.
pub(crate) const NOBODY: u32 = u32::MAX;

/// What [`WorkerShared::slice_granted`] is when it is no time. The worker leaves `SETTLED` and a time for `NONE` at the end of the
/// slice, the supervisor a time for `SETTLED`, whoever is first.
pub(crate) mod slice {
    /// No slice, or one that was begun without asking the scheduler.
    pub(crate) const NONE: u64 = 0;
    /// The worker is stuck: the slice was settled in its name.
    pub(crate) const SETTLED: u64 = u64::MAX;
}

/// Whose the token is that a worker took from [`Signals`](crate::signals::Signals). Only the worker itself leaves `NONE` and `LENT`;
/// `HELD` is left by the worker (it gives the token back, or lends it for a while) or by the supervisor (`TAKEN`), whoever is first.
pub(crate) mod token {
    /// The worker has none.
    pub(crate) const NONE: u8 = 0;
    /// It is the worker's.
    pub(crate) const HELD: u8 = 1;
    /// The worker's task blocks or gives way and has given it back for that long.
    pub(crate) const LENT: u8 = 2;
    /// The worker is stuck: it was given back in its name.
    pub(crate) const TAKEN: u8 = 3;
}

pub(crate) fn group_index(group: Group) -> usize {
    usize::from(group == Group::Back)
}

/// The core that last ran each key, for the `locality` strategy: a table of fixed size in which a newer key may take an older
/// one's place.
pub(crate) struct LastCores(Box<[AtomicU64]>);

const LAST_CORES: usize = 4096;

impl LastCores {
    fn new() -> Self {
        LastCores((0..LAST_CORES).map(|_| AtomicU64::new(0)).collect())
    }

    /// The place of a key and the part of it that tells keys of one place apart (48 bits).
    fn place(&self, key: u64) -> (&AtomicU64, u64) {
        // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, 6.4).
        let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (&self.0[(mixed >> 52) as usize], mixed << 16)
    }

    pub(crate) fn note(&self, key: u64, core: u32) {
        let (place, tag) = self.place(key);
        place.store(tag | u64::from(core.min(0xfffe) + 1), Relaxed);
    }

    fn last(&self, key: u64) -> Option<u16> {
        let (place, tag) = self.place(key);
        let noted = place.load(Relaxed);
        (noted & !0xffff == tag)
            .then_some((noted & 0xffff) as u16)?
            .checked_sub(1)
    }
}

/// Class, kind and nature of a task in one word.
#[derive(Clone, Copy)]
pub(crate) struct TaskWhat(pub(crate) u32);

impl TaskWhat {
    #[inline]
    pub(crate) fn of(class: u8, kind: usize, is_future: bool) -> Self {
        TaskWhat(u32::from(is_future) << 31 | u32::from(class) << 16 | kind as u32)
    }
    pub(crate) fn class(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }
    pub(crate) fn kind(self) -> usize {
        (self.0 & 0xffff) as usize
    }
    pub(crate) fn is_future(self) -> bool {
        self.0 >> 31 == 1
    }
}

impl WorkerShared {
    /// Tasks in ring and stack.
    pub(crate) fn held(&self) -> usize {
        self.ring.len() + self.stack.len()
    }

    /// Gives the worker's token back until [`WorkerShared::reclaim_token`]; false when it has none to give.
    pub(crate) fn lend_token(&self, signals: &Signals) -> bool {
        let lent = self
            .token
            .compare_exchange(token::HELD, token::LENT, SeqCst, SeqCst)
            .is_ok();
        if lent {
            signals.release_token(self.group);
        }
        lent
    }

    /// Takes a token in place of the one that was lent, whether there is room or not.
    pub(crate) fn reclaim_token(&self, signals: &Signals) {
        signals.force_token(self.group);
        self.token.store(token::HELD, SeqCst);
    }

    /// Gives the token of a stuck worker back in its name; false when the worker has none to give.
    pub(crate) fn take_token(&self, signals: &Signals) -> bool {
        let taken = self
            .token
            .compare_exchange(token::HELD, token::TAKEN, SeqCst, SeqCst)
            .is_ok();
        if taken {
            signals.release_token(self.group);
        }
        taken
    }

    /// The worker that has this one's place, if it was replaced and its task goes on.
    pub(crate) fn replaced_by(&self) -> Option<u16> {
        u16::try_from(self.successor.load(SeqCst)).ok()
    }

    /// Notes that the worker is busy from now on.
    pub(crate) fn wake_up(&self) {
        self.wakes.fetch_add(1, SeqCst);
        self.state.store(state::BUSY, SeqCst);
    }

    /// True when the worker takes new work.
    pub(crate) fn accepts(&self) -> bool {
        matches!(self.state.load(Relaxed), state::IDLE | state::BUSY)
            && self.command.load(Relaxed) == command::RUN
            && !self.stuck.load(Relaxed)
    }

    /// True when others may take from the ring: more than one task, or a single one that was not deferred for the poll in
    /// progress, or was and has waited for too long.
    pub(crate) fn can_be_robbed(&self) -> bool {
        match self.ring.len() + 2 * self.stack.len() {
            0 => false,
            1 if self.index == IO_WORKER => self.overdue.load(Relaxed),
            1 => {
                self.task_since.load(Relaxed) == 0
                    || !TaskWhat(self.task_what.load(Relaxed)).is_future()
                    || self.overdue.load(Relaxed)
            }
            _ => true,
        }
    }

    pub(crate) fn new(index: usize, kinds: usize) -> Self {
        WorkerShared {
            index,
            group: group_of(index),
            ring: Ring::new(),
            stack: Stack::new(),
            ring_class: AtomicU8::new(dispatch::NO_CLASS),
            stats: WorkerStats::new(kinds),
            submitted: AtomicU64::new(0),
            submitted_settled: AtomicU64::new(0),
            busy: BusyMeter::default(),
            last_activity: AtomicU64::new(0),
            slice_granted: AtomicU64::new(slice::NONE),
            slice_ns: AtomicU64::new(0),
            slice_cpu: AtomicU64::new(0),
            slice_settled: AtomicU64::new(0),
            token: AtomicU8::new(token::NONE),
            state: AtomicU8::new(state::STOPPED),
            wakes: AtomicU64::new(0),
            task_since: AtomicU64::new(0),
            task_what: AtomicU32::new(0),
            heartbeat: AtomicU64::new(0),
            command: AtomicU8::new(command::RUN),
            clock: Mutex::new(None),
            cpu: AtomicU32::new(0),
            mean_run_ns: AtomicU64::new(0),
            throughput: AtomicU64::new(0),
            error_rate: AtomicU32::new(0),
            weight: AtomicU32::new(10_000),
            weight_set: AtomicU32::new(10_000),
            weight_by_heat: AtomicU32::new(10_000),
            pinned_to: Mutex::new(None),
            affinity_cores: Mutex::default(),
            thread_id: Mutex::new(None),
            figures: Mutex::default(),
            health: AtomicU32::new(10_000),
            missed_heartbeats: AtomicU64::new(0),
            missed_now: AtomicU32::new(0),
            stuck: AtomicBool::new(false),
            successor: AtomicU32::new(NOBODY),
            overdue: AtomicBool::new(false),
            started_at: AtomicU64::new(0),
        }
    }
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
            follow_machine: AtomicBool::new(follow_machine),
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
        self.masks[group_index(group)].load(Relaxed)
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

    fn publish_class(&self, info: &ClassInfo) {
        let spec = info.spec.read().unwrap_or_else(|e| e.into_inner());
        let slot = info.slot;
        slot.group.store(group_index(spec.group) as u8, SeqCst);
        slot.rank.store(spec.priority + 1, SeqCst);
        slot.restricted
            .store(spec.concurrency.is_some() || spec.ceiling < 1.0, SeqCst);
        slot.limit.store(spec.queue_limit, SeqCst);
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

    pub(crate) fn strategy(&self) -> Strategy {
        self.placer
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .strategy()
    }

    pub(crate) fn set_strategy(&self, strategy: Strategy) {
        let mut placer = self.placer.lock().unwrap_or_else(|e| e.into_inner());
        let before = placer.strategy();
        *placer = Placer::new(strategy, 1);
        self.strategy
            .store(u8::from(strategy != Strategy::Pull), SeqCst);
        if before != strategy {
            self.events.push(
                self.now(),
                None,
                What::Changed,
                format!("strategy {before} → {strategy}"),
            );
        }
    }

    /// True when tasks stay untagged.
    #[inline]
    pub(crate) fn pulls(&self) -> bool {
        self.strategy.load(Relaxed) == 0
    }

    /// Asks the strategy which worker of the class's group the task is meant for.
    pub(crate) fn place(&self, group: Group, key: Option<u64>) -> Option<u16> {
        let views: Vec<WorkerView> = self
            .spine
            .started_workers(group)
            .filter_map(|index| self.workers[index].get())
            .map(|worker| self.view(worker))
            .collect();
        let task = TaskView {
            key,
            cpu: 1.0,
            memory: 0,
            last_core: key.and_then(|key| self.cores.last(key)),
        };
        let mut placer = self.placer.lock().unwrap_or_else(|e| e.into_inner());
        if matches!(placer.strategy(), Strategy::Affinity | Strategy::Locality)
            && let Some(owner) = key.and_then(|key| self.owner_of(key))
            && views.iter().any(|view| view.id == owner && view.is_open())
        {
            return Some(owner.get());
        }
        placer.place(&task, &views).map(|id| id.get())
    }

    fn view(&self, worker: &WorkerShared) -> WorkerView {
        let cpu = f64::from(worker.cpu.load(Relaxed)) / 10_000.0;
        let error_rate = f64::from(worker.error_rate.load(Relaxed)) / 10_000.0;
        WorkerView {
            id: WorkerId::new(worker.index as u16),
            weight: f64::from(worker.weight.load(Relaxed)) / 10_000.0,
            queued: worker.held() as u32 + self.spine.tags.len(worker.index),
            running: u32::from(worker.task_since.load(Relaxed) != 0),
            tagged: self.spine.tags.len(worker.index),
            cpu,
            mean_run_ns: worker.mean_run_ns.load(Relaxed) as f64,
            throughput: worker.throughput.load(Relaxed) as f64,
            error_rate,
            health: if worker.stuck.load(Relaxed) {
                0.0
            } else {
                f64::from(worker.health.load(Relaxed)) / 10_000.0
            },
            core: worker
                .pinned_to
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .map(|cpu| cpu as u16),
            cpu_free: 1.0 - cpu,
            memory_free: u64::MAX,
            accepting: worker.accepts(),
            max_tagged: self.tuning.max_tasks_per_worker.load(Relaxed),
        }
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

    /// Tasks tagged for each worker of a group, and whether it takes new ones.
    pub(crate) fn lengths(&self, group: Group) -> (Vec<u32>, Vec<bool>) {
        self.spine
            .started_workers(group)
            .map(|index| {
                let accepting = self.workers[index]
                    .get()
                    .is_some_and(|worker| worker.accepts());
                (self.spine.tags.len(index), accepting)
            })
            .unzip()
    }

    /// Moves tagged tasks between the workers of a group until their lengths differ by at most one; returns how many moved.
    pub(crate) fn rebalance_group(&self, group: Group, reason: &str) -> usize {
        let workers = self.spine.started_workers(group);
        let (lengths, accepting) = self.lengths(group);
        let mut moved = 0;
        for step in rebalance(&lengths, &accepting) {
            moved += self.spine.tags.shift(
                workers.start + step.from,
                workers.start + step.to,
                step.count,
                &self.spine.classes,
            ) as usize;
        }
        if moved > 0 {
            self.rebalances.fetch_add(1, Relaxed);
            self.rebalanced_tasks.fetch_add(moved as u64, Relaxed);
            let now = self.now();
            self.last_rebalance.store(now.as_nanos().max(1), Relaxed);
            self.events.push(
                now,
                None,
                What::Rebalanced,
                format!("{moved} tasks moved: {reason}"),
            );
        }
        moved
    }

    /// The p95 of a kind's run time over all workers, ns; None while fewer than 20 have run.
    pub(crate) fn kind_p95(&self, class: ClassId, kind: KindId) -> Option<u64> {
        let mut all = flyball_core::histogram::Histogram::new();
        for worker in self.known_workers() {
            if let Some(row) = worker.stats.existing(
                class.index() as u8,
                self.spine.classes[class.index()].generation.load(SeqCst),
            ) && let Some(run) = row.kind(usize::from(kind.get())).existing_run()
            {
                all.merge(&run.snapshot());
            }
        }
        if all.count() < 20 {
            None
        } else {
            all.quantile(0.95)
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let names = self.kind_names();
        let now = self.now();
        // Removing a class moves its totals under this lock.
        let classes = self.classes.read().unwrap_or_else(|e| e.into_inner());
        let scheduler = self.ledger.open();
        let algorithm = scheduler.algorithm();
        let services: Vec<_> = classes
            .iter()
            .map(|class| scheduler.stats(class.id))
            .collect();
        drop(scheduler);
        let by_class: Vec<ClassStats> = classes
            .iter()
            .zip(services)
            .map(|(class, service)| self.class_stats(class, &names, service, now.as_nanos()))
            .collect();
        let ended = self.past_ended.load(SeqCst)
            + by_class.iter().map(|class| class.counts.tasks).sum::<u64>();
        let submitted = self.past_submitted.load(SeqCst)
            + by_class.iter().map(|class| class.submitted).sum::<u64>();
        drop(classes);
        let last_rebalance = self.last_rebalance.load(Relaxed);
        Stats {
            at: now,
            algorithm,
            strategy: self.strategy(),
            parallelism: self.spine.signals.parallelism() as usize,
            running: self.spine.signals.running() as usize,
            waiting_futures: self.spine.registry.len(),
            classes: by_class,
            submitted,
            ended,
            groups: [Group::Front, Group::Back]
                .map(|group| self.group_stats(group, now.as_nanos())),
            rebalances: self.rebalances.load(Relaxed),
            rebalanced_tasks: self.rebalanced_tasks.load(Relaxed),
            last_rebalance: (last_rebalance != 0).then(|| Timestamp::from_nanos(last_rebalance)),
        }
    }

    /// What one class has done; `names` are the kinds', `service` what the scheduler says.
    pub(crate) fn class_stats(
        &self,
        class: &ClassInfo,
        names: &[String],
        service: Option<ClassService>,
        now: u64,
    ) -> ClassStats {
        let spec = class.spec.read().unwrap_or_else(|e| e.into_inner()).clone();
        let slot = class.slot;
        let generation = slot.generation.load(SeqCst);
        let index = class.id.index() as u8;
        let mut stats = ClassStats::empty(spec);
        for worker in self.known_workers() {
            if let Some(row) = worker.stats.existing(index, generation) {
                stats.add(row, names);
                stats.submitted += row.submitted.load(Relaxed);
                if worker.ring_class.load(Relaxed) == index && worker.busy.is_on() {
                    // What the slice in progress has submitted; read in this order, so that nothing is counted twice.
                    let settled = worker.submitted_settled.load(SeqCst);
                    stats.submitted += worker.submitted.load(Relaxed).saturating_sub(settled);
                }
            }
        }
        for (kind, count) in slot
            .ended_elsewhere
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
        {
            // A kind may be younger than the list of names.
            if let Some(name) = names.get(usize::from(kind.get())) {
                stats.add_cancelled(name, *count);
            }
        }
        stats.paused = slot.mode.load(SeqCst) == mode::PAUSED;
        stats.queued = slot.waiting() + self.held_of(index);
        stats.running = self.running_of(index);
        stats.oldest_wait = self.oldest_wait(slot, now);
        // Read one after the other, the figures are of slightly different moments.
        stats.submitted = (stats.submitted + slot.submitted_elsewhere()).max(stats.counts.tasks);
        stats.refused = slot.refused.load(Relaxed);
        if let Some(service) = service {
            stats.promised = service.promised;
            stats.aged = service.ageings;
        }
        stats
    }

    fn group_stats(&self, group: Group, now: u64) -> GroupStats {
        let workers = || {
            self.known_workers()
                .filter(move |worker| worker.group == group && worker.index != IO_WORKER)
        };
        let count =
            |of: &dyn Fn(&WorkerShared) -> bool| workers().filter(|worker| of(worker)).count();
        let idle = |worker: &Arc<WorkerShared>| {
            let since = worker
                .last_activity
                .load(Relaxed)
                .max(worker.started_at.load(Relaxed));
            Duration::from_nanos(now.saturating_sub(since))
        };
        GroupStats {
            group,
            wanted: self.roster.wanted(group),
            present: count(&WorkerShared::accepts),
            healthy: count(&|worker| {
                worker.accepts() && f64::from(worker.health.load(Relaxed)) / 10_000.0 >= HEALTHY
            }),
            stuck: count(&|worker| worker.stuck.load(SeqCst)),
            replaced: count(&|worker| worker.replaced_by().is_some()),
            busy_ns: workers().map(|worker| worker.busy.read(now)).sum(),
            idle_longest: workers()
                .filter(|worker| worker.accepts() && !worker.busy.is_on())
                .map(idle)
                .max(),
        }
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
