//! What each worker counts as it runs, and the sums over workers that people read.
//!
//! One writer a figure: the worker adds with a relaxed load and store, readers sum over workers. Figures are kept by worker,
//! class and kind; histograms by worker and class. Rows exist from the first task of a class on a worker. With the default of
//! 32 kinds a row takes 2.6 KB of counters and 16 KB of histograms, so that 5 workers and 5 classes stay under half a megabyte.

use flyball_core::class::MAX_CLASSES;
use flyball_core::histogram::{AtomicHistogram, Histogram};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::*};

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
}

impl WorkerStats {
    pub(crate) fn new(kinds: usize) -> Self {
        WorkerStats {
            kinds,
            classes: (0..MAX_CLASSES).map(|_| OnceLock::new()).collect(),
        }
    }

    #[inline]
    pub(crate) fn row(&self, class: u8) -> &ClassRow {
        self.classes[usize::from(class)].get_or_init(|| ClassRow {
            kinds: (0..self.kinds).map(|_| KindRow::default()).collect(),
            wait: AtomicHistogram::new(),
            run: AtomicHistogram::new(),
            cpu_ns: AtomicU64::new(0),
            slices: AtomicU64::new(0),
            preempted: AtomicU64::new(0),
            stolen: AtomicU64::new(0),
        })
    }

    pub(crate) fn existing(&self, class: u8) -> Option<&ClassRow> {
        self.classes[usize::from(class)].get()
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

impl KindRow {
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
    /// Tasks that wait to run now.
    pub queued: usize,
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
    /// Times that ageing let it go before a higher rank.
    pub aged: u64,
    /// Time from becoming runnable to running, ns.
    pub wait: Histogram,
    /// Time of a call or poll, ns.
    pub run: Histogram,
}

impl ClassStats {
    pub(crate) fn empty(name: String) -> Self {
        ClassStats {
            name,
            queued: 0,
            counts: Counts::default(),
            kinds: Vec::new(),
            cpu_ns: 0,
            promised: None,
            slices: 0,
            preempted: 0,
            stolen: 0,
            refused: 0,
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

/// What the executor has done since it started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stats {
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
    /// Times queued work was moved between workers on demand or by the variance threshold.
    pub rebalances: u64,
}

impl Stats {
    /// The figures of one class.
    pub fn class(&self, name: &str) -> Option<&ClassStats> {
        self.classes.iter().find(|class| class.name == name)
    }
}
