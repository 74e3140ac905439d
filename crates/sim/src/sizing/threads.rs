//! Threads that share cores: tasks compute and wait by turns, those that compute share the cores evenly.
//!
//! Processor sharing is exact: *attained* time goes forward for all computing threads alike, at `min(1, cores / computing)` slowed by
//! `interference` for each thread beyond the cores, so a thread is ready when attained time reaches a figure that is known when it begins.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use flyball_core::rng::Rng;
use flyball_core::time::Timestamp;
use flyball_policy::control::{Arbiter, Controller, KnobSpec};
use flyball_policy::sched::pool::{PoolConfig, PoolView, Sizer, Sizing};
use serde::Serialize;

use crate::Error;

/// A kind of tasks: how many of all, and the seconds that one computes and waits on the mean, in turns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Kind {
    /// Its part of the tasks, against the other kinds'.
    pub weight: f64,
    /// Seconds of computing.
    pub computes: f64,
    /// Seconds of waiting; 0 for none.
    pub waits: f64,
    /// How many times it computes, waiting in between.
    pub turns: u32,
}

/// What runs, and on what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// Its name.
    pub name: &'static str,
    /// The kinds of tasks.
    pub kinds: Vec<Kind>,
    /// Cores.
    pub cores: u32,
    /// By how much each computing thread beyond the cores slows all: caches, switches.
    pub interference: f64,
    /// Tasks a second that come; `None`: work always waits.
    pub arrivals: Option<f64>,
}

impl Work {
    /// Work that computes, work that blocks, and both mixed, on eight cores, always waiting.
    pub fn all() -> [Self; 3] {
        let kind = |weight, computes, waits, turns| Kind {
            weight,
            computes,
            waits,
            turns,
        };
        let work = |name, kinds: &[Kind]| Self {
            name,
            kinds: kinds.to_vec(),
            cores: 8,
            interference: 0.005,
            arrivals: None,
        };
        [
            work("computing", &[kind(1.0, 0.01, 0.0, 1)]),
            work("blocking", &[kind(1.0, 0.004, 0.016, 2)]),
            work(
                "mixed",
                &[kind(0.5, 0.01, 0.0, 1), kind(0.5, 0.002, 0.03, 3)],
            ),
        ]
    }
}

/// How many threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// So many.
    Fixed(u32),
    /// As a controller finds, from a first size, up to a greatest.
    By {
        /// Which.
        sizing: Sizing,
        /// Threads at the start.
        first: u32,
        /// The most threads.
        max: u32,
    },
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Tasks that ended in a second, over the second half of the time.
    pub throughput: f64,
    /// Threads that there were for the longest time in the second half: the size that was settled at, whatever is being tried.
    pub threads: u32,
    /// The greatest number of threads.
    pub most: u32,
    /// Changes of size.
    pub changes: u32,
    /// Changes in the second half of the time, in an hour.
    pub changes_an_hour: f64,
    /// The size for each change, and when, seconds.
    pub sizes: Vec<(f64, u32)>,
}

/// A task in a thread.
#[derive(Debug, Clone, Copy)]
struct Task {
    kind: usize,
    turns_left: u32,
}

/// An instant or an attained time with a thread's task, smallest first.
#[derive(Debug, Clone, Copy)]
struct Due(f64, u64, Task);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

struct Run<'a> {
    work: &'a Work,
    rng: Rng,
    now: f64,
    attained: f64,
    computing: BinaryHeap<Reverse<Due>>,
    waiting: BinaryHeap<Reverse<Due>>,
    queue: VecDeque<Task>,
    next_arrival: f64,
    size: u32,
    number: u64,
    /// Since the last look.
    busy: f64,
    ran: u64,
}

impl Run<'_> {
    fn in_threads(&self) -> u32 {
        (self.computing.len() + self.waiting.len()) as u32
    }

    fn speed(&self) -> f64 {
        let computing = self.computing.len() as f64;
        let cores = f64::from(self.work.cores);
        let share = (cores / computing.max(1.0)).min(1.0);
        share / (1.0 + self.work.interference * (computing - cores).max(0.0))
    }

    fn draw(&mut self) -> Task {
        let all: f64 = self.work.kinds.iter().map(|kind| kind.weight).sum();
        let mut at = self.rng.f64() * all;
        let mut chosen = 0;
        for (index, kind) in self.work.kinds.iter().enumerate() {
            chosen = index;
            at -= kind.weight;
            if at < 0.0 {
                break;
            }
        }
        Task {
            kind: chosen,
            turns_left: self.work.kinds[chosen].turns,
        }
    }

    fn compute(&mut self, task: Task) {
        let kind = self.work.kinds[task.kind];
        let needs = self.rng.exp(kind.computes / f64::from(kind.turns.max(1)));
        self.number += 1;
        self.computing
            .push(Reverse(Due(self.attained + needs, self.number, task)));
    }

    /// Begins tasks while threads are free.
    fn begin(&mut self) {
        while self.in_threads() < self.size {
            let task = match self.work.arrivals {
                None => self.draw(),
                Some(_) => match self.queue.pop_front() {
                    Some(task) => task,
                    None => break,
                },
            };
            self.compute(task);
        }
    }

    fn backlog(&self) -> u64 {
        match self.work.arrivals {
            None => 1_000,
            Some(_) => self.queue.len() as u64,
        }
    }

    fn until(&mut self, end: f64) {
        loop {
            self.begin();
            let speed = self.speed();
            let computed = self.computing.peek().map_or(f64::INFINITY, |due| {
                self.now + (due.0.0 - self.attained).max(0.0) / speed
            });
            let waited = self.waiting.peek().map_or(f64::INFINITY, |due| due.0.0);
            let next = computed.min(waited).min(self.next_arrival).min(end);
            let passed = (next - self.now).max(0.0);
            self.busy += f64::from(self.in_threads()) * passed;
            self.attained += passed * speed;
            self.now = next;
            if next >= end {
                return;
            }
            if next == self.next_arrival {
                let task = self.draw();
                self.queue.push_back(task);
                let rate = self.work.arrivals.unwrap_or(0.0);
                self.next_arrival = next + self.rng.exp(1.0 / rate);
            } else if waited <= computed {
                if let Some(Reverse(due)) = self.waiting.pop() {
                    self.compute(due.2);
                }
            } else if let Some(Reverse(due)) = self.computing.pop() {
                let task = Task {
                    turns_left: due.2.turns_left.saturating_sub(1),
                    ..due.2
                };
                let kind = self.work.kinds[task.kind];
                if task.turns_left == 0 {
                    self.ran += 1;
                } else {
                    let pauses = f64::from(kind.turns.max(2) - 1);
                    let wait = self.rng.exp(kind.waits / pauses);
                    self.number += 1;
                    self.waiting
                        .push(Reverse(Due(self.now + wait, self.number, task)));
                }
            }
        }
    }
}

/// Runs the work for so many seconds.
///
/// # Errors
/// [`Error::Policy`] if the knob of the size cannot be made.
pub fn run(work: &Work, size: Size, seconds: f64, seed: u64) -> Result<Outcome, Error> {
    let mut rng = Rng::seeded(seed);
    let first_arrival = match work.arrivals {
        Some(rate) => rng.exp(1.0 / rate),
        None => f64::INFINITY,
    };
    let (first, max) = match size {
        Size::Fixed(threads) => (threads.max(1), threads.max(1)),
        Size::By { first, max, .. } => (first.max(1), max.max(first).max(1)),
    };
    let spec = KnobSpec {
        name: "threads".to_owned(),
        unit: "workers",
        min: 1.0,
        max: f64::from(max),
        about: "how many threads there are",
    };
    let knob = Arbiter::new().try_add_knob(spec, f64::from(first))?;
    let mut sizer = match size {
        Size::Fixed(_) => None,
        Size::By { sizing, first, max } => {
            let config = PoolConfig {
                min: first.min(2),
                max,
                ..PoolConfig::for_cpus(work.cores)
            };
            Some(Sizer::new(sizing, config, knob))
        }
    };
    let period = sizer
        .as_ref()
        .map_or(Duration::from_millis(250), Sizer::period);
    let mut run = Run {
        work,
        rng,
        now: 0.0,
        attained: 0.0,
        computing: BinaryHeap::new(),
        waiting: BinaryHeap::new(),
        queue: VecDeque::new(),
        next_arrival: first_arrival,
        size: first,
        number: 0,
        busy: 0.0,
        ran: 0,
    };
    let mut sizes = Vec::new();
    let mut ended_late = 0;
    let mut late = 0.0;
    let mut most = first;
    let mut looks_at: BTreeMap<u32, u64> = BTreeMap::new();
    let span = period.as_secs_f64();
    let looks = (seconds / span) as u64;
    for look in 1..=looks {
        let end = look as f64 * span;
        run.until(end);
        let (busy, ran) = (run.busy / span, run.ran);
        (run.busy, run.ran) = (0.0, 0);
        if look * 2 > looks {
            ended_late += ran;
            late += span;
            *looks_at.entry(run.size).or_default() += 1;
        }
        let Some(sizer) = &mut sizer else { continue };
        let view = PoolView {
            workers: run.size,
            healthy: run.size,
            busy,
            backlog: run.backlog(),
            ran: ran as f64,
            refused: 0.0,
            parallelism: work.cores,
            idle_longest: None,
        };
        let now = Timestamp::from_nanos((end * 1e9) as u64);
        if let Some(proposal) = sizer.step(now, &view) {
            run.size = proposal.value as u32;
            most = most.max(run.size);
            sizes.push((end, run.size));
        }
    }
    let longest = looks_at.iter().max_by_key(|(_, looks)| **looks);
    let changes_late = sizes.iter().filter(|(at, _)| at * 2.0 > seconds).count();
    Ok(Outcome {
        throughput: ended_late as f64 / late.max(1e-9),
        threads: longest.map_or(run.size, |(size, _)| *size),
        most,
        changes: sizes.len() as u32,
        changes_an_hour: changes_late as f64 / (late / 3_600.0).max(1e-9),
        sizes,
    })
}
