//! A simulated service: what its calls need, and the CPUs that they share.
//!
//! A call is a number of CPU bursts with waits for something else between them. CPUs are shared either evenly among all that are ready, as threads
//! are by the kernel, or first come first served, as tasks are by an executor. More ready calls than CPUs cost: each one too many makes all of them a
//! little slower (caches, switches), which is what makes too high a limit dear even where nobody is late.
//!
//! Run delay is accounted as Linux does in `schedstat`: time ready without a CPU. That calls disturb each other in caches is not seen there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use flyball_core::rng::Rng;

/// How the work of calls is distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// All alike.
    Fixed,
    /// Exponentially.
    Exp,
    /// 95 % of half the mean, 5 % of 10.5 times the mean.
    Bimodal,
    /// Pareto with exponent 2, cut at 100 means.
    Pareto,
}

impl Work {
    pub(crate) fn draw(self, rng: &mut Rng, mean: f64) -> f64 {
        match self {
            Self::Fixed => mean,
            Self::Exp => rng.exp(mean),
            Self::Bimodal if rng.chance(0.95) => mean * 0.5,
            Self::Bimodal => mean * 10.5,
            // x = x₀/√u has the mean 2·x₀; cut at 100 means, half a per cent of it is lost.
            Self::Pareto => (mean * 0.5 / (1.0 - rng.f64()).sqrt()).min(100.0 * mean),
        }
    }
}

/// How CPUs are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// All that are ready get equal parts.
    Even,
    /// First come first served, each to the end of its burst.
    Fifo,
}

/// A kind of service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) cpus: f64,
    pub(crate) sharing: Sharing,
    /// Mean CPU time of a call, ns.
    pub(crate) work_ns: f64,
    pub(crate) work: Work,
    /// Waits for something else.
    pub(crate) waits: u32,
    /// Mean time of all waits of a call together, ns.
    pub(crate) wait_ns: f64,
    /// How much slower all are for each ready call more than CPUs.
    pub(crate) interference: f64,
    /// How long callers wait for an answer, ns.
    pub(crate) deadline_ns: u64,
}

impl Service {
    /// Calls a second that the CPUs can serve.
    pub(crate) fn capacity(&self) -> f64 {
        self.cpus * 1e9 / self.work_ns
    }

    /// Calls in flight that keep all CPUs busy if nothing scattered.
    pub(crate) fn natural(&self) -> f64 {
        self.cpus * (1.0 + self.wait_ns / self.work_ns)
    }
}

/// The CPUs of a service.
pub(crate) struct Cpus {
    sharing: Sharing,
    slots: usize,
    interference: f64,
    /// CPUs that the service gets now.
    have: f64,
    /// Work that each running burst has been given since the start, ns.
    given: f64,
    at: u64,
    /// By what `given` will be when they end; times are positive, so their bits are in order.
    running: BinaryHeap<Reverse<(u64, u32)>>,
    waiting: VecDeque<(u32, f64)>,
    ran_ns: f64,
    waited_ns: f64,
}

impl Cpus {
    pub(crate) fn new(service: &Service) -> Self {
        Self {
            sharing: service.sharing,
            slots: service.cpus.ceil().max(1.0) as usize,
            interference: service.interference,
            have: service.cpus,
            given: 0.0,
            at: 0,
            running: BinaryHeap::new(),
            waiting: VecDeque::new(),
            ran_ns: 0.0,
            waited_ns: 0.0,
        }
    }

    fn ready(&self) -> f64 {
        (self.running.len() + self.waiting.len()) as f64
    }

    /// Work that each running burst gets in a nanosecond.
    fn rate(&self) -> f64 {
        let running = self.running.len() as f64;
        if running == 0.0 {
            return 0.0;
        }
        let excess = (self.ready() - self.have).max(0.0);
        (self.have / running).min(1.0) / (1.0 + self.interference * excess)
    }

    pub(crate) fn advance(&mut self, now: u64) {
        let nanos = now.saturating_sub(self.at) as f64;
        self.given += nanos * self.rate();
        let on_cpu = self.ready().min(self.have);
        self.ran_ns += nanos * on_cpu;
        self.waited_ns += nanos * (self.ready() - on_cpu);
        self.at = now;
    }

    /// Changes how many CPUs there are; time must have been advanced.
    pub(crate) fn set(&mut self, have: f64) {
        self.have = have.max(0.01);
    }

    pub(crate) fn push(&mut self, call: u32, work_ns: f64) {
        if self.sharing == Sharing::Fifo && self.running.len() >= self.slots {
            self.waiting.push_back((call, work_ns));
        } else {
            self.run(call, work_ns);
        }
    }

    fn run(&mut self, call: u32, work_ns: f64) {
        let until = self.given + work_ns.max(1.0);
        self.running.push(Reverse((until.to_bits(), call)));
    }

    /// When the next burst ends.
    pub(crate) fn next_end(&self) -> u64 {
        match self.running.peek() {
            None => u64::MAX,
            Some(Reverse((until, _))) => {
                let left = (f64::from_bits(*until) - self.given).max(0.0);
                self.at + (left / self.rate()).ceil() as u64
            }
        }
    }

    /// Ends the burst that is due; time must have been advanced.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let Reverse((_, call)) = self.running.pop()?;
        if let Some((next, work_ns)) = self.waiting.pop_front() {
            self.run(next, work_ns);
        }
        Some(call)
    }

    /// Time that bursts ran and time that they were ready without, ns.
    pub(crate) fn times(&self) -> (f64, f64) {
        (self.ran_ns, self.waited_ns)
    }
}
