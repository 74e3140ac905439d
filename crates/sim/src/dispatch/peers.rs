//! Dispatchers of others, re-derived from what they publish. Each of them decides when a task arrives, and a worker then has a queue of its own.
//!
//! Figures are of these re-derivations, not of the products. What they know is exact and without delay: tasks queued and running at each
//! worker, its speed where they have weights, the latency of every task that ended.

use std::fmt;

use flyball_core::rng::Rng;

/// What linkerd2-proxy takes for the latency of an endpoint before it has any (`EWMA_DEFAULT_RTT`), ns.
const DEFAULT_LATENCY_NS: f64 = 30e6;
/// How fast it forgets (`EWMA_DECAY`), ns.
const DECAY_NS: f64 = 10e9;

/// A dispatcher of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Workers in turn.
    RoundRobin,
    /// Workers in turn, each as often as its speed says, spread evenly (nginx's smooth weighted round robin, 2012).
    WeightedRoundRobin,
    /// Of two workers at random the one with fewer tasks (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001;
    /// `PendingRequests` of the crate `tower`).
    TwoByPending,
    /// Of two workers at random the one with the lower peak-sensitive average latency × (tasks + 1) (`PeakEwma` of Finagle and of the crate `tower`,
    /// with linkerd2-proxy's settings).
    TwoByPeakEwma,
    /// The worker with the least (tasks + 1) / speed of all ("shortest expected delay", the `sed` scheduler of Linux Virtual Server).
    ShortestExpectedDelay,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::TwoByPending,
        Self::TwoByPeakEwma,
        Self::ShortestExpectedDelay,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::TwoByPending => "p2c_pending",
            Self::TwoByPeakEwma => "p2c_peak_ewma",
            Self::ShortestExpectedDelay => "sed",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a dispatcher knows of a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// 1 for full.
    pub(super) speed: f64,
    /// Tasks queued and running.
    pub(super) pending: u32,
    /// What is earned towards the next turn (weighted round robin).
    credit: f64,
    /// Peak-sensitive average latency, ns, and when it was brought up to date.
    latency_ns: f64,
    updated_ns: u64,
}

impl View {
    pub(super) fn new(speed: f64) -> Self {
        Self {
            speed,
            pending: 0,
            credit: 0.0,
            latency_ns: DEFAULT_LATENCY_NS,
            updated_ns: 0,
        }
    }

    /// A peak counts at once, what is lower as time passes; without any news the estimate falls towards nothing, so that a worker that was
    /// slow once is tried again.
    fn observe(&mut self, now: u64, latency_ns: f64) {
        let kept = (-(now.saturating_sub(self.updated_ns) as f64) / DECAY_NS).exp();
        self.latency_ns = if latency_ns > self.latency_ns {
            latency_ns
        } else {
            self.latency_ns * kept + latency_ns * (1.0 - kept)
        };
        self.updated_ns = now;
    }

    fn cost(&mut self, now: u64) -> f64 {
        self.observe(now, 0.0);
        self.latency_ns * f64::from(self.pending + 1)
    }

    fn delay(&self) -> f64 {
        f64::from(self.pending + 1) / self.speed
    }
}

/// A dispatcher at work.
pub(super) struct Dispatcher {
    peer: Peer,
    rng: Rng,
    turn: usize,
}

impl Dispatcher {
    pub(super) fn new(peer: Peer, rng: Rng) -> Self {
        Self { peer, rng, turn: 0 }
    }

    /// The worker that gets a task; there is at least one.
    pub(super) fn choose(&mut self, now: u64, workers: &mut [View]) -> usize {
        match self.peer {
            Peer::RoundRobin => {
                self.turn = (self.turn + 1) % workers.len();
                self.turn
            }
            Peer::WeightedRoundRobin => {
                let earned: f64 = workers.iter().map(|worker| worker.speed).sum();
                for worker in workers.iter_mut() {
                    worker.credit += worker.speed;
                }
                let richest = least(workers, |worker| -worker.credit);
                workers[richest].credit -= earned;
                richest
            }
            Peer::TwoByPending => {
                let (one, other) = self.two(workers.len());
                if workers[other].pending < workers[one].pending {
                    other
                } else {
                    one
                }
            }
            Peer::TwoByPeakEwma => {
                let (one, other) = self.two(workers.len());
                if workers[other].cost(now) < workers[one].cost(now) {
                    other
                } else {
                    one
                }
            }
            Peer::ShortestExpectedDelay => least(workers, View::delay),
        }
    }

    /// A task ended.
    pub(super) fn ended(&self, now: u64, worker: &mut View, latency_ns: u64) {
        if self.peer == Peer::TwoByPeakEwma {
            worker.observe(now, latency_ns as f64);
        }
    }

    /// Two different workers where there are two.
    fn two(&mut self, workers: usize) -> (usize, usize) {
        let one = self.rng.below(workers as u64) as usize;
        if workers == 1 {
            return (one, one);
        }
        let other = self.rng.below(workers as u64 - 1) as usize;
        (one, other + usize::from(other >= one))
    }
}

/// The first with the least cost.
fn least(workers: &[View], cost: impl Fn(&View) -> f64) -> usize {
    let mut best = (0, f64::INFINITY);
    for (index, worker) in workers.iter().enumerate() {
        let cost = cost(worker);
        if cost < best.1 {
            best = (index, cost);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers() -> Vec<View> {
        vec![View::new(1.0), View::new(0.5), View::new(1.0)]
    }

    fn turns(peer: Peer, count: usize) -> Vec<usize> {
        let mut dispatcher = Dispatcher::new(peer, Rng::seeded(1));
        let mut workers = workers();
        (0..count)
            .map(|_| {
                let chosen = dispatcher.choose(0, &mut workers);
                workers[chosen].pending += 1;
                chosen
            })
            .collect()
    }

    #[test]
    fn they_choose_as_published() {
        assert_eq!(turns(Peer::RoundRobin, 4), [1, 2, 0, 1]);
        // Twice as often to the fast ones, never the same one twice in a row.
        assert_eq!(turns(Peer::WeightedRoundRobin, 5), [0, 2, 1, 0, 2]);
        // Empty fast ones first; then two tasks at a fast one are as good as one at the slow one.
        assert_eq!(turns(Peer::ShortestExpectedDelay, 5), [0, 2, 0, 1, 2]);
        let chosen = turns(Peer::TwoByPending, 3_000);
        for worker in 0..3 {
            let count = chosen.iter().filter(|&&one| one == worker).count();
            assert!((990..=1_010).contains(&count), "{worker}: {count}");
        }
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let mut worker = View::new(1.0);
        worker.observe(0, 100e6);
        assert_eq!(worker.latency_ns, 100e6);
        worker.observe(10_000_000_000, 20e6);
        let kept = (-1.0_f64).exp();
        assert!((worker.latency_ns - (100e6 * kept + 20e6 * (1.0 - kept))).abs() < 1.0);
        let mut idle = worker;
        assert!(idle.cost(200_000_000_000) < 1.0);
    }
}
