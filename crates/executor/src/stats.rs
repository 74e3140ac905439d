//! What each worker counts as it runs, and the sums over workers that people read.
//!
//! One writer a figure: the worker adds with a relaxed load and store, readers sum over workers. Figures are kept by worker,
//! class and kind; histograms by worker and class. Rows exist from the first task of a class on a worker. With the default of
//! 32 kinds a row takes 2.6 KB of counters and 16 KB of histograms, so that 5 workers and 5 classes stay under half a megabyte.

use crate::shedding::SheddingStatus;
use flyball_core::class::{ClassSpec, Group, MAX_CLASSES};
use flyball_core::histogram::{AtomicHistogram, Histogram};
use flyball_core::time::Timestamp;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::Duration;

/// Adds to a figure that only this thread writes.
#[inline(always)]
pub(crate) fn bump(figure: &AtomicU64, by: u64) {
    figure.store(figure.load(Relaxed).wrapping_add(by), Relaxed);
}

#[derive(Default)]
pub(crate) struct KindRow {
    pub(crate) tasks: AtomicU64,
    pub(crate) polls: AtomicU64,
    pub(crate) run_ns: AtomicU64,
    pub(crate) wait_ns: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) deadline_missed: AtomicU64,
    run: OnceLock<AtomicHistogram>,
}

pub(crate) struct ClassRow {
    /// Which of the classes that had this slot one after the other the figures are of.
    generation: AtomicU32,
    /// Tasks that tasks of the class submitted to it on this worker.
    pub(crate) submitted: AtomicU64,
    kinds: Box<[KindRow]>,
    pub(crate) wait: AtomicHistogram,
    pub(crate) run: AtomicHistogram,
    pub(crate) cpu_ns: AtomicU64,
    pub(crate) slices: AtomicU64,
    pub(crate) preempted: AtomicU64,
    pub(crate) stolen: AtomicU64,
}

pub(crate) struct WorkerStats {
    kinds: usize,
    classes: Box<[OnceLock<ClassRow>]>,
    /// Figures of classes that were removed, whose rows serve others now.
    past: KindRow,
    past_cpu_ns: AtomicU64,
    past_stolen: AtomicU64,
}

impl WorkerStats {
    pub(crate) fn new(kinds: usize) -> Self {
        WorkerStats {
            kinds,
            classes: (0..MAX_CLASSES).map(|_| OnceLock::new()).collect(),
            past: KindRow::default(),
            past_cpu_ns: AtomicU64::new(0),
            past_stolen: AtomicU64::new(0),
        }
    }

    /// Makes the row the one of this generation of the class: called by the worker before it runs a task of it.
    #[inline]
    pub(crate) fn renew(&self, class: u8, generation: u32) {
        let row = self.row(class);
        if row.generation.load(Relaxed) != generation {
            self.start_over(row, generation);
        }
    }

    #[cold]
    fn start_over(&self, row: &ClassRow, generation: u32) {
        for kind in row.kinds.iter() {
            let moved = [
                (&self.past.tasks, &kind.tasks),
                (&self.past.polls, &kind.polls),
                (&self.past.run_ns, &kind.run_ns),
                (&self.past.panicked, &kind.panicked),
                (&self.past.timed_out, &kind.timed_out),
            ];
            for (past, figure) in moved {
                bump(past, figure.load(Relaxed));
            }
            kind.clear();
        }
        bump(&self.past_cpu_ns, row.cpu_ns.load(Relaxed));
        bump(&self.past_stolen, row.stolen.load(Relaxed));
        row.wait.clear();
        row.run.clear();
        for figure in [
            &row.submitted,
            &row.cpu_ns,
            &row.slices,
            &row.preempted,
            &row.stolen,
        ] {
            figure.store(0, Relaxed);
        }
        row.generation.store(generation, Release);
    }

    /// Everything the worker has done, whatever the class.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals {
            counts: Counts::default(),
            cpu_ns: self.past_cpu_ns.load(Relaxed),
            stolen: self.past_stolen.load(Relaxed),
        };
        totals.counts.add(&self.past);
        for row in self.rows() {
            totals.cpu_ns += row.cpu_ns.load(Relaxed);
            totals.stolen += row.stolen.load(Relaxed);
            for kind in row.kinds() {
                totals.counts.add(kind);
            }
        }
        totals
    }

    #[inline]
    pub(crate) fn row(&self, class: u8) -> &ClassRow {
        self.classes[usize::from(class)].get_or_init(|| ClassRow {
            generation: AtomicU32::new(0),
            submitted: AtomicU64::new(0),
            kinds: (0..self.kinds).map(|_| KindRow::default()).collect(),
            wait: AtomicHistogram::new(),
            run: AtomicHistogram::new(),
            cpu_ns: AtomicU64::new(0),
            slices: AtomicU64::new(0),
            preempted: AtomicU64::new(0),
            stolen: AtomicU64::new(0),
        })
    }

    /// The row of this generation of the class, if the worker has run any task of it.
    pub(crate) fn existing(&self, class: u8, generation: u32) -> Option<&ClassRow> {
        self.classes[usize::from(class)]
            .get()
            .filter(|row| row.generation.load(Acquire) == generation)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &ClassRow> {
        self.classes.iter().filter_map(OnceLock::get)
    }
}

impl ClassRow {
    #[inline]
    pub(crate) fn kind(&self, kind: usize) -> &KindRow {
        &self.kinds[kind]
    }

    pub(crate) fn kinds(&self) -> &[KindRow] {
        &self.kinds
    }
}

/// What one worker has done since its number was first used.
pub(crate) struct Totals {
    pub(crate) counts: Counts,
    pub(crate) cpu_ns: u64,
    pub(crate) stolen: u64,
}

/// Time that something was on: one word, one writer, readable at any moment and also while it is on.
///
/// While it is off the word is the time so far. While it is on, the top bit is set and the rest is the moment at which it would have
/// been switched on had it never been off, so that the time so far is now less that.
#[derive(Default)]
pub(crate) struct BusyMeter(AtomicU64);

const ON: u64 = 1 << 63;

impl BusyMeter {
    /// Switches on at `now`, ns.
    pub(crate) fn start(&self, now: u64) {
        let word = self.0.load(Relaxed);
        if word & ON == 0 {
            self.0.store(ON | (now.wrapping_sub(word) & !ON), Release);
        }
    }

    /// Switches off at `now`, ns.
    pub(crate) fn stop(&self, now: u64) {
        let word = self.0.load(Relaxed);
        if word & ON != 0 {
            self.0.store(now.saturating_sub(word & !ON), Release);
        }
    }

    /// The time so far as of `now`, ns.
    pub(crate) fn read(&self, now: u64) -> u64 {
        match self.0.load(Acquire) {
            word if word & ON != 0 => now.saturating_sub(word & !ON),
            word => word,
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Acquire) & ON != 0
    }
}

impl KindRow {
    fn clear(&self) {
        for figure in [
            &self.tasks,
            &self.polls,
            &self.run_ns,
            &self.wait_ns,
            &self.panicked,
            &self.cancelled,
            &self.timed_out,
            &self.deadline_missed,
        ] {
            figure.store(0, Relaxed);
        }
        if let Some(run) = self.run.get() {
            run.clear();
        }
    }

    /// The histogram of run times of a named kind.
    pub(crate) fn run(&self) -> &AtomicHistogram {
        self.run.get_or_init(AtomicHistogram::new)
    }

    pub(crate) fn existing_run(&self) -> Option<&AtomicHistogram> {
        self.run.get()
    }
}

/// Figures of one class (and kind), summed over workers since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Tasks that ended, however they did.
    pub tasks: u64,
    /// Times a closure was called or a future polled.
    pub polls: u64,
    /// Time spent in them on the wall clock, ns.
    pub run_ns: u64,
    /// Time from becoming runnable to running, over all polls, ns. Of closures without a handle that tasks submit, one in four
    /// is measured and counts for four.
    pub wait_ns: u64,
    /// Tasks that panicked.
    pub panicked: u64,
    /// Tasks that were cancelled, by their handle or by shutdown.
    pub cancelled: u64,
    /// Tasks that ran past their timeout.
    pub timed_out: u64,
    /// Tasks whose deadline had passed before they could start.
    pub deadline_missed: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, row: &KindRow) {
        self.tasks += row.tasks.load(Relaxed);
        self.polls += row.polls.load(Relaxed);
        self.run_ns += row.run_ns.load(Relaxed);
        self.wait_ns += row.wait_ns.load(Relaxed);
        self.panicked += row.panicked.load(Relaxed);
        self.cancelled += row.cancelled.load(Relaxed);
        self.timed_out += row.timed_out.load(Relaxed);
        self.deadline_missed += row.deadline_missed.load(Relaxed);
    }

    fn merge(&mut self, other: &Counts) {
        self.tasks += other.tasks;
        self.polls += other.polls;
        self.run_ns += other.run_ns;
        self.wait_ns += other.wait_ns;
        self.panicked += other.panicked;
        self.cancelled += other.cancelled;
        self.timed_out += other.timed_out;
        self.deadline_missed += other.deadline_missed;
    }
}

/// What one class has done and received since the start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClassStats {
    /// The class's name.
    pub name: String,
    /// The class's settings as they are now.
    pub spec: ClassSpec,
    /// It is not run until it is resumed.
    pub paused: bool,
    /// Tasks submitted and taken, those that were refused not counted.
    pub submitted: u64,
    /// Tasks that wait to run now.
    pub queued: usize,
    /// Workers that run a task of the class now.
    pub running: usize,
    /// How long the task that has waited longest has waited to be run; None while none waits or it is not known.
    ///
    /// Of tasks in the class's queue by their time of arrival; if more than 1,024 have an order of their own (priority, deadline), the
    /// longest of as many of them; of each key, its next task. Of what a worker has already taken to run next: the time since it began the task it runs, which for
    /// tasks that this very task submitted is up to its age too much. A closure without a handle that a task submitted carries no
    /// time of arrival; if it stands first in the queue, the time is not known.
    pub oldest_wait: Option<Duration>,
    /// Sums over all kinds.
    pub counts: Counts,
    /// Sums by kind, those that occurred; `""` is tasks without a kind, `other` those beyond the bound on kinds.
    pub kinds: Vec<(String, Counts)>,
    /// CPU time received by the thread clocks of the workers, ns.
    pub cpu_ns: u64,
    /// Part of the workers' CPU time that the class is promised among the classes that are awake now, 0 to 1; None while it has
    /// no work.
    pub promised: Option<f64>,
    /// Slices granted.
    pub slices: u64,
    /// Slices taken back before they were over.
    pub preempted: u64,
    /// Tasks that a worker took from another one's ring.
    pub stolen: u64,
    /// Tasks refused because the queue was full.
    pub refused: u64,
    /// What was refused because it would have waited for too long; None where the class does not shed.
    pub shedding: Option<SheddingStatus>,
    /// Times that ageing let it go before a higher rank.
    pub aged: u64,
    /// Time from becoming runnable to running, ns.
    pub wait: Histogram,
    /// Time of a call or poll, ns.
    pub run: Histogram,
}

impl ClassStats {
    pub(crate) fn empty(spec: ClassSpec) -> Self {
        ClassStats {
            name: spec.name.clone(),
            spec,
            paused: false,
            submitted: 0,
            queued: 0,
            running: 0,
            oldest_wait: None,
            counts: Counts::default(),
            kinds: Vec::new(),
            cpu_ns: 0,
            promised: None,
            slices: 0,
            preempted: 0,
            stolen: 0,
            refused: 0,
            shedding: None,
            aged: 0,
            wait: Histogram::new(),
            run: Histogram::new(),
        }
    }

    fn merge(&mut self, kind: &str, counts: &Counts) {
        self.counts.merge(counts);
        match self.kinds.iter_mut().find(|(known, _)| known == kind) {
            Some((_, sum)) => sum.merge(counts),
            None => self.kinds.push((kind.to_owned(), counts.clone())),
        }
    }

    /// Adds tasks of a kind that were cancelled while no worker had them.
    pub(crate) fn add_cancelled(&mut self, kind: &str, count: u64) {
        let counts = Counts {
            tasks: count,
            cancelled: count,
            ..Counts::default()
        };
        self.merge(kind, &counts);
    }

    /// Adds one worker's row; `names` are the kinds'.
    pub(crate) fn add(&mut self, row: &ClassRow, names: &[String]) {
        for (kind, name) in row.kinds().iter().zip(names) {
            let mut counts = Counts::default();
            counts.add(kind);
            if counts.polls == 0 && counts.tasks == 0 {
                continue;
            }
            self.merge(name, &counts);
        }
        self.cpu_ns += row.cpu_ns.load(Relaxed);
        self.slices += row.slices.load(Relaxed);
        self.preempted += row.preempted.load(Relaxed);
        self.stolen += row.stolen.load(Relaxed);
        self.wait.merge(&row.wait.snapshot());
        self.run.merge(&row.run.snapshot());
    }
}

/// One group's workers as they are now.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupStats {
    /// The group.
    pub group: Group,
    /// Workers it should have: the number given at the start or by [`scale`](crate::Executor::scale).
    pub wanted: usize,
    /// Of those, the ones that are there and take work.
    pub present: usize,
    /// Of those, the ones whose health is at least one half.
    pub healthy: usize,
    /// Workers that are stuck, those that were replaced included.
    pub stuck: usize,
    /// Threads of replaced workers that are still in their tasks.
    pub replaced: usize,
    /// Wall-clock time that the group's workers have spent in slices, ns, slices in progress and tasks that block included. The
    /// difference between two readings over the time between them is the mean number of busy workers. Never less than before.
    pub busy_ns: u64,
    /// The longest that one of those present has been without work up to now; None when all are at work.
    pub idle_longest: Option<Duration>,
}

/// What the executor has done since it started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stats {
    /// When this was read.
    pub at: Timestamp,
    /// The algorithm in force.
    pub algorithm: flyball_policy::sched::Algorithm,
    /// The placement strategy in force.
    pub strategy: flyball_policy::sched::place::Strategy,
    /// Workers allowed to run at once.
    pub parallelism: usize,
    /// Workers that run now.
    pub running: usize,
    /// Futures that have been polled and have not ended.
    pub waiting_futures: usize,
    /// By class, in the order of their creation.
    pub classes: Vec<ClassStats>,
    /// Tasks submitted and taken, all classes, those removed meanwhile included.
    pub submitted: u64,
    /// Tasks that ended, however they did; likewise.
    pub ended: u64,
    /// The front group, then the back group. The thread that drives tokio belongs to neither.
    pub groups: [GroupStats; 2],
    /// Times queued work was moved between workers on demand or by the variance threshold.
    pub rebalances: u64,
    /// Tasks moved by them.
    pub rebalanced_tasks: u64,
    /// When the last of them was; None before the first.
    pub last_rebalance: Option<Timestamp>,
}

impl Stats {
    /// The figures of one group.
    pub fn group(&self, group: Group) -> &GroupStats {
        &self.groups[usize::from(group == Group::Back)]
    }

    /// The figures of one class.
    pub fn class(&self, name: &str) -> Option<&ClassStats> {
        self.classes.iter().find(|class| class.name == name)
    }
}
