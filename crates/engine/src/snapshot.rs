//! One look at machine and executor, and the looks that are kept.

use crate::usage::Reading;
use crate::view::Time;
use flyball_core::time::Timestamp;
use flyball_executor::Stats;
use flyball_sense::{Sample, Usage};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most snapshots kept: a quarter of an hour at one a second.
pub const HISTORY: usize = 900;

/// What was seen at one moment, and the use since the moment before.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When.
    pub at: Timestamp,
    /// The same by the calendar.
    pub time: Time,
    /// Time since the snapshot before.
    pub interval: Duration,
    /// Percentages over that interval.
    pub usage: Usage,
    /// The counters themselves.
    pub sample: Sample,
    /// What the executor did over that interval.
    pub work: Work,
}

/// What the executor did between two snapshots.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Workers allowed to run at once.
    pub parallelism: usize,
    /// Tasks that wait, over all classes.
    pub queued: u64,
    /// Workers that run.
    pub running: u64,
    /// Futures that wait.
    pub waiting_futures: u64,
    /// Tasks that ended.
    pub ended: u64,
    /// Of these, panicked or timed out.
    pub failed: u64,
    /// Tasks refused because a queue was full.
    pub refused: u64,
    /// Calls and polls.
    pub polls: u64,
    /// Time of calls and polls, ns.
    pub run_ns: u64,
    /// Time from becoming runnable to running, ns.
    pub wait_ns: u64,
    /// CPU time by class, ns, in the order of the classes.
    pub cpu_ns: Vec<(String, u64)>,
    /// Mean number of workers that were busy.
    pub busy_workers: f64,
}

impl Work {
    /// What was done between two readings of the executor; `interval` lies between them.
    pub fn between(before: Option<&Stats>, after: &Stats, interval: Duration) -> Work {
        let mut work = Work {
            parallelism: after.parallelism,
            running: after.running as u64,
            waiting_futures: after.waiting_futures as u64,
            ..Work::default()
        };
        for class in &after.classes {
            let earlier = before.and_then(|stats| stats.class(&class.name));
            let (counts, refused, cpu) = match earlier {
                Some(earlier) => (Some(&earlier.counts), earlier.refused, earlier.cpu_ns),
                None => (None, 0, 0),
            };
            let since = |now: u64, of: fn(&flyball_executor::Counts) -> u64| {
                now.saturating_sub(counts.map_or(0, of))
            };
            let now = &class.counts;
            work.queued += class.queued as u64;
            work.ended += since(now.tasks, |counts| counts.tasks);
            work.failed += since(now.panicked, |counts| counts.panicked)
                + since(now.timed_out, |counts| counts.timed_out);
            work.refused += class.refused.saturating_sub(refused);
            work.polls += since(now.polls, |counts| counts.polls);
            work.run_ns += since(now.run_ns, |counts| counts.run_ns);
            work.wait_ns += since(now.wait_ns, |counts| counts.wait_ns);
            work.cpu_ns
                .push((class.name.clone(), class.cpu_ns.saturating_sub(cpu)));
        }
        let busy = |stats: &Stats| -> u64 { stats.groups.iter().map(|group| group.busy_ns).sum() };
        if let Some(before) = before
            && !interval.is_zero()
        {
            let spent = busy(after).saturating_sub(busy(before));
            work.busy_workers = spent as f64 / interval.as_nanos() as f64;
        }
        work
    }
}

/// The snapshots that are kept, oldest dropped first.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<VecDeque<Arc<Snapshot>>>);

impl History {
    pub(crate) fn push(&self, snapshot: Arc<Snapshot>) {
        let mut kept = self.lock();
        if kept.len() == HISTORY {
            kept.pop_front();
        }
        kept.push_back(snapshot);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn last(&self) -> Option<Arc<Snapshot>> {
        self.lock().back().cloned()
    }

    /// The newest `limit`, oldest of them first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<Arc<Snapshot>> {
        let kept = self.lock();
        let skip = kept.len().saturating_sub(limit);
        kept.iter().skip(skip).cloned().collect()
    }

    pub(crate) fn readings(&self) -> Vec<Reading> {
        let reading = |snapshot: &Arc<Snapshot>| Reading {
            at: snapshot.time,
            overall: snapshot.overall(),
            cores: snapshot.cores(),
        };
        self.lock().iter().map(reading).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Snapshot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot {
    /// CPUs' worth of time that a class received over the interval; None where that is not known.
    pub fn cpus_of(&self, class: &str) -> Option<f64> {
        let (_, spent) = self.work.cpu_ns.iter().find(|(name, _)| name == class)?;
        let interval = self.interval.as_nanos();
        (interval > 0).then(|| *spent as f64 / interval as f64)
    }
}
