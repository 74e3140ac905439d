//! The watch's thread: reads, asks the judge, looks closer where it says so, and reports.

use super::judge::{Event, Judge, Reading};
use super::locate::Locator;
use super::probe::Probes;
use super::threads::{self, Thread};
use super::turn::Core;
use super::{Blocked, Callback, Figures, REPORTS_KEPT_MAX, Recovered, Report, THRESHOLD_MAX};
use crate::Error;
use crate::stack::{self, Sampler};
use flyball_core::time::{Clock, OsClock, Timestamp, thread_cpu_nanos};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeMetrics};

/// Samples a threshold: fine enough that two looks lie between suspicion and report.
const SAMPLES_PER_THRESHOLD: u32 = 4;
/// Longest interval between two samples, so that an end is noticed.
const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Longest interval between two rounds of probes, while there are workers whose thread is not known.
const PROBING_MAX: Duration = Duration::from_secs(60);
/// Most probes of a round.
const PROBES_MAX: usize = 64;
/// Looks at a worker's loop before a report: two, with an interval between them.
const LOOKS_MIN: u32 = 2;
/// How long dropping a watch waits for its thread.
const PATIENCE: Duration = Duration::from_secs(2);

const _: () = assert!(THRESHOLD_MAX.as_nanos() < u64::MAX as u128 >> 10);

#[derive(Debug, Default)]
struct Inner {
    stop: bool,
    ended: bool,
    reports: VecDeque<Report>,
    figures: Figures,
}

/// What the watch and its thread share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn new() -> Self {
        Shared::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reports(&self) -> Vec<Report> {
        self.lock().reports.iter().cloned().collect()
    }

    pub(super) fn figures(&self) -> Figures {
        self.lock().figures
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Asks the thread to end and, if told to, waits for it; returns whether it has.
    pub(super) fn stop(&self, wait: bool) -> bool {
        let mut inner = self.lock();
        inner.stop = true;
        self.changed.notify_all();
        if !wait {
            return inner.ended;
        }
        let (inner, _) = self
            .changed
            .wait_timeout_while(inner, PATIENCE, |inner| !inner.ended)
            .unwrap_or_else(PoisonError::into_inner);
        inner.ended
    }

    /// Waits for the next sample; `false` when it is time to end.
    fn pause(&self, interval: Duration) -> bool {
        let (inner, _) = self
            .changed
            .wait_timeout_while(self.lock(), interval, |inner| !inner.stop)
            .unwrap_or_else(PoisonError::into_inner);
        !inner.stop
    }
}

/// The thread that a suspect worker is on.
#[derive(Debug)]
struct Located {
    thread: Thread,
    core: Option<Core>,
    looks: u32,
    since: Timestamp,
    cpu: Option<Duration>,
}

/// The watch's thread.
pub(super) struct Shell {
    handle: Handle,
    metrics: RuntimeMetrics,
    interval: Duration,
    sampler: Sampler,
    callback: Option<Callback>,
    shared: Arc<Shared>,
    judge: Judge,
    locator: Locator,
    probes: Probes,
    probing: Duration,
    probe_at: Timestamp,
    readings: Vec<Reading>,
    located: Vec<Option<Located>>,
    figures: Figures,
}

/// Says that the thread has ended, however it does.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

impl Shell {
    pub(super) fn new(
        handle: Handle,
        threshold: Duration,
        sampler: Sampler,
        callback: Option<Callback>,
        shared: Arc<Shared>,
    ) -> Self {
        let metrics = handle.metrics();
        let workers = metrics.num_workers();
        let interval = (threshold / SAMPLES_PER_THRESHOLD).min(INTERVAL_MAX);
        Shell {
            judge: Judge::new(threshold, interval, workers),
            locator: Locator::new(&handle, workers),
            probes: Probes::default(),
            probing: interval,
            probe_at: Timestamp::ZERO,
            readings: vec![Reading::default(); workers],
            located: (0..workers).map(|_| None).collect(),
            figures: Figures::default(),
            handle,
            metrics,
            interval,
            sampler,
            callback,
            shared,
        }
    }

    pub(super) fn run(mut self) {
        let _ended = Ended(Arc::clone(&self.shared));
        loop {
            let goes_on = self.sample(OsClock.now());
            self.publish();
            if !goes_on || !self.shared.pause(self.interval) {
                return;
            }
        }
    }

    fn publish(&mut self) {
        self.figures.captures = self.locator.captures();
        self.figures.cpu = Duration::from_nanos(thread_cpu_nanos());
        self.shared.lock().figures = self.figures;
    }

    /// One round; `false` when the runtime has shut down and none of its workers is left in a task.
    fn sample(&mut self, now: Timestamp) -> bool {
        self.figures.samples += 1;
        for answer in self.probes.answers() {
            self.locator.learn(&answer);
        }
        for worker in 0..self.readings.len() {
            self.read(worker);
        }
        let events = self.judge.observe(now, &self.readings);
        for event in events {
            match event {
                Event::Due {
                    worker,
                    since,
                    silent,
                } => self.due(worker, since, silent, now),
                Event::Recovered {
                    worker,
                    episode,
                    blocked,
                } => self.deliver(Report::Recovered(Recovered {
                    worker,
                    blocked_for: blocked,
                    episode,
                })),
            }
        }
        let suspects: Vec<usize> = (0..self.readings.len())
            .filter(|&worker| self.judge.is_suspect(worker))
            .collect();
        self.probe(now, !suspects.is_empty());
        for &worker in &suspects {
            self.locate(worker, now);
        }
        !self.probes.is_closed()
            || suspects
                .iter()
                .any(|&worker| self.located[worker].is_some())
    }

    /// Reads a worker's figures, and its loop where that is observed.
    fn read(&mut self, worker: usize) {
        let mut progressed = false;
        if let Some(located) = &mut self.located[worker] {
            located.looks = located.looks.saturating_add(1);
            progressed = located.core.as_mut().is_some_and(Core::progressed);
        }
        self.readings[worker] = Reading {
            turns: self.metrics.worker_park_unpark_count(worker),
            busy_ns: busy(&self.metrics, worker),
            progressed,
        };
    }

    /// Sends probes while there are workers whose thread is not known, less and less often, and when there are new suspects.
    fn probe(&mut self, now: Timestamp, suspicion: bool) {
        if suspicion {
            // One is enough to learn whether the runtime is still there.
            self.figures.probes += self.probes.send(&self.handle, 1) as u64;
        }
        if now >= self.probe_at && !self.locator.is_complete() {
            let count = self.readings.len().min(PROBES_MAX);
            self.figures.probes += self.probes.send(&self.handle, count) as u64;
            self.probe_at = now.saturating_add(self.probing);
            self.probing = (self.probing * 2).min(PROBING_MAX);
        }
    }

    /// Makes sure that a suspect's loop is observed.
    fn locate(&mut self, worker: usize, now: Timestamp) {
        if let Some(located) = &self.located[worker] {
            if threads::is_alive(located.thread) {
                return;
            }
            self.located[worker] = None;
        }
        // A thread belongs to one worker; those of workers that are not suspect may be out of date.
        let taken: Vec<Thread> = (0..self.located.len())
            .filter(|&other| self.judge.is_suspect(other))
            .filter_map(|other| Some(self.located[other].as_ref()?.thread))
            .collect();
        self.located[worker] = self
            .locator
            .find(worker, &self.sampler, &taken)
            .map(|found| Located {
                thread: found.thread,
                core: found.core,
                looks: 0,
                since: now,
                cpu: threads::cpu_time(found.thread.id),
            });
    }

    fn due(&mut self, worker: usize, since: Timestamp, silent: Duration, now: Timestamp) {
        self.locate(worker, now);
        let Some(located) = &mut self.located[worker] else {
            self.figures.unlocated += 1;
            return;
        };
        if located.looks < LOOKS_MIN {
            self.judge.postponed(worker);
            return;
        }
        let thread = located.thread;
        // Before the signal, which wakes a sleeping thread.
        let state = threads::state(thread.id);
        let thread_name = threads::name(thread.id).unwrap_or_default();
        let cpu_share = cpu_share(located, thread, now);
        let stack = match self.locator.look(thread, &self.sampler) {
            Ok(Some(found)) if located.core == found.core => Ok(stack::name(&found.unwound)),
            Ok(Some(found)) => {
                // Another worker's loop: observed from here.
                located.core = found.core;
                located.looks = 0;
                self.judge.postponed(worker);
                return;
            }
            Ok(None) | Err(Error::ThreadEnded) => {
                self.located[worker] = None;
                self.judge.postponed(worker);
                return;
            }
            Err(error) => Err(error),
        };
        let reading = self.readings[worker];
        if located.core.as_mut().is_some_and(Core::progressed)
            || self.metrics.worker_park_unpark_count(worker) != reading.turns
            || busy(&self.metrics, worker) != reading.busy_ns
        {
            // It went on meanwhile, so the stack may be of what came after; the next sample sees that, too.
            self.judge.postponed(worker);
            return;
        }
        let (episode, report) = self.judge.reported(worker);
        self.deliver(Report::Blocked(Blocked {
            worker,
            thread_id: thread.id,
            thread_name,
            since,
            blocked_for: silent,
            state,
            cpu_share,
            stack,
            episode,
            report,
        }));
    }

    fn deliver(&mut self, report: Report) {
        self.figures.reports += 1;
        {
            let mut inner = self.shared.lock();
            if inner.reports.len() >= REPORTS_KEPT_MAX {
                inner.reports.pop_front();
            }
            inner.reports.push_back(report.clone());
        }
        self.publish();
        if let Some(callback) = &mut self.callback
            && catch_unwind(AssertUnwindSafe(|| callback(&report))).is_err()
        {
            self.figures.callback_panics += 1;
        }
    }
}

fn busy(metrics: &RuntimeMetrics, worker: usize) -> u64 {
    flyball_core::time::nanos_of(metrics.worker_total_busy_duration(worker))
}

fn cpu_share(located: &Located, thread: Thread, now: Timestamp) -> Option<f64> {
    let used = threads::cpu_time(thread.id)?.saturating_sub(located.cpu?);
    let passed = now.duration_since(located.since);
    (!passed.is_zero()).then(|| (used.as_secs_f64() / passed.as_secs_f64()).min(1.0))
}
