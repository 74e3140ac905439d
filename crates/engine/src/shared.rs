//! What the engine's callers and its control loop share.

use crate::config::{Config, Loaded};
use crate::decisions::Decisions;
use crate::events::{EventKind, Events};
use crate::knobs::Knobs;
use crate::limits::Limits;
use crate::snapshot::History;
#[cfg(feature = "tasks")]
use crate::tasks::Part;
use crate::throttles::Throttles;
use crate::view::Time;
use arc_swap::ArcSwap;
use flyball_core::class::Group;
use flyball_core::time::{Source, Timestamp};
use flyball_executor::Executor;
use flyball_policy::sched::pool::SizerState;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) struct Shared {
    pub(crate) executor: Executor,
    loaded: ArcSwap<Loaded>,
    /// The values of `loaded`.
    config: ArcSwap<Config>,
    /// CPUs that affinity mask and quota allowed at the start: what 0 stands for in the configuration.
    pub(crate) cpus: usize,
    /// Held while the configuration changes: one change at a time.
    pub(crate) changing: Mutex<()>,
    knobs: Mutex<Knobs>,
    pub(crate) decisions: Decisions,
    pub(crate) events: Events,
    pub(crate) history: History,
    pub(crate) clock: Source,
    pub(crate) started: Timestamp,
    /// What the machine lacks, a sentence each.
    lacks: ArcSwap<Vec<String>>,
    /// Counts looks of the control loop, so that others can tell that it lives.
    pub(crate) ticks: AtomicU64,
    pub(crate) draining: AtomicBool,
    #[cfg(feature = "tasks")]
    pub(crate) tasks: Part,
    pub(crate) throttles: Mutex<Throttles>,
    pub(crate) limits: Mutex<Limits>,
    /// Whether there are the throttles of the daemon beside those of the configuration.
    pub(crate) daemon_throttles: bool,
    /// Where the controllers of the groups' sizes stand: front, back; None while nothing sizes them.
    sizers: Mutex<[Option<SizerState>; 2]>,
    signal: Mutex<Signal>,
    signalled: Condvar,
}

#[derive(Debug, Default)]
struct Signal {
    stop: bool,
    changed: bool,
    nudged: bool,
}

/// Why the control loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The time has come.
    Due,
    /// The configuration changed.
    Changed,
    /// Somebody wants to see it go round.
    Nudged,
    /// The engine ends.
    Stop,
}

impl Shared {
    pub(crate) fn new(
        executor: Executor,
        loaded: Loaded,
        cpus: usize,
        knobs: Knobs,
        daemon_throttles: bool,
        #[cfg(feature = "tasks")] tasks: Part,
    ) -> Self {
        let clock = Source::best();
        Shared {
            executor,
            config: ArcSwap::from_pointee(loaded.config.clone()),
            loaded: ArcSwap::from_pointee(loaded),
            cpus,
            changing: Mutex::default(),
            knobs: Mutex::new(knobs),
            decisions: Decisions::default(),
            events: Events::default(),
            history: History::default(),
            started: clock.now(),
            clock,
            lacks: ArcSwap::default(),
            ticks: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            #[cfg(feature = "tasks")]
            tasks,
            throttles: Mutex::default(),
            limits: Mutex::default(),
            daemon_throttles,
            sizers: Mutex::default(),
            signal: Mutex::default(),
            signalled: Condvar::new(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The same with the origin of each value.
    pub(crate) fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    /// Takes another configuration; the caller holds `changing`.
    pub(crate) fn set_loaded(&self, loaded: Loaded) {
        self.config.store(Arc::new(loaded.config.clone()));
        self.loaded.store(Arc::new(loaded));
    }

    /// Whether the machine is sampled, be it CPUs, memory or both.
    pub(crate) fn samples(&self) -> bool {
        let config = self.config();
        config.monitor.enabled && (config.monitor.cpu.enabled || config.monitor.memory.enabled)
    }

    /// Whether CPU figures are sampled.
    pub(crate) fn samples_cpu(&self) -> bool {
        let config = self.config();
        config.monitor.enabled && config.monitor.cpu.enabled
    }

    pub(crate) fn lacks(&self) -> Arc<Vec<String>> {
        self.lacks.load_full()
    }

    pub(crate) fn set_lacks(&self, lacks: Vec<String>) {
        self.lacks.store(Arc::new(lacks));
    }

    pub(crate) fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where the controller of a group's size stands; None: nothing sizes it.
    pub(crate) fn set_sizer_state(&self, group: Group, state: Option<SizerState>) {
        let mut sizers = self.sizers.lock().unwrap_or_else(PoisonError::into_inner);
        sizers[group as usize] = state;
    }

    pub(crate) fn sizer_state(&self, group: Group) -> Option<SizerState> {
        let sizers = self.sizers.lock().unwrap_or_else(PoisonError::into_inner);
        sizers[group as usize].clone()
    }

    /// Puts something into the event stream.
    pub(crate) fn tell(&self, kind: EventKind, data: &impl Serialize) {
        // These types have no maps with other keys than text, and no numbers that JSON lacks: it cannot fail.
        let data = serde_json::to_value(data).unwrap_or_default();
        self.events.push(kind, Time::now(), data);
    }

    /// Wakes the control loop: the configuration changed.
    pub(crate) fn poke(&self) {
        self.signal().changed = true;
        self.signalled.notify_all();
    }

    /// Wakes the control loop: somebody wants to see that it lives.
    pub(crate) fn nudge(&self) {
        self.signal().nudged = true;
        self.signalled.notify_all();
    }

    /// Tells the control loop to end.
    pub(crate) fn stop(&self) {
        self.signal().stop = true;
        self.signalled.notify_all();
    }

    /// Waits until `at`, or until there is something else to do.
    pub(crate) fn wait_until(&self, at: Timestamp) -> Woken {
        let mut signal = self.signal();
        loop {
            if signal.stop {
                return Woken::Stop;
            }
            if std::mem::take(&mut signal.changed) {
                return Woken::Changed;
            }
            if std::mem::take(&mut signal.nudged) {
                return Woken::Nudged;
            }
            let left = at.duration_since(self.now());
            if left.is_zero() {
                return Woken::Due;
            }
            signal = self
                .signalled
                .wait_timeout(signal, left.min(Duration::from_secs(3600)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn signal(&self) -> MutexGuard<'_, Signal> {
        self.signal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}
