//! Arrivals and the work of tasks, drawn from the seed.

use flyball_core::rng::Rng;

use crate::config::{Arrivals, Config, Sizes};

/// Tasks of one burst.
const BURST: u64 = 64;
/// Tasks that each class keeps in the system per worker under [`Arrivals::Backlog`]: enough that no queue runs dry while
/// others are served.
const BACKLOG_PER_WORKER: u64 = 4;
/// A Pareto size is cut at this many means.
const PARETO_CUT: f64 = 1_000.0;
/// Polls of a future.
pub(crate) const FUTURE_POLLS: u8 = 4;

/// A task as it arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) class: u8,
    /// Work on a worker of full speed, over all polls, ns.
    pub(crate) work_ns: u64,
    pub(crate) polls: u8,
    pub(crate) priority: i8,
    pub(crate) key: Option<u32>,
    pub(crate) memory: u64,
}

/// The source of tasks. Task numbers 0, 1, … arrive at the times that [`next_at`](Self::next_at) tells.
pub(crate) struct Workload {
    rng: Rng,
    arrivals: Arrivals,
    sizes: Sizes,
    classes: u64,
    mean_ns: f64,
    gap_ns: f64,
    /// Cumulated probabilities of the keys.
    keys: Vec<f64>,
    memory: Option<crate::config::Memory>,
    futures: f64,
    prioritised: f64,
    left: u64,
    next_at: f64,
    burst_left: u64,
    burst_class: u8,
    turn: u64,
}

impl Workload {
    pub(crate) fn new(config: &Config, rng: Rng) -> Self {
        let capacity: f64 = (0..config.workers as usize)
            .map(|worker| config.speed(worker))
            .sum();
        let gap_ns = config.mean_size_ns as f64 / (config.load * capacity);
        let mut workload = Self {
            rng,
            arrivals: config.arrivals,
            sizes: config.sizes,
            classes: config.classes.len() as u64,
            mean_ns: config.mean_size_ns as f64,
            gap_ns,
            keys: cumulated(config.keys.map_or(0, |keys| keys.count)),
            memory: config.memory,
            futures: config.futures,
            prioritised: config.prioritised,
            left: config.tasks,
            next_at: 0.0,
            burst_left: 0,
            burst_class: 0,
            turn: 0,
        };
        workload.schedule();
        workload
    }

    /// When the next task arrives, ns; `u64::MAX` when none does by itself.
    pub(crate) fn next_at(&self) -> u64 {
        if self.left == 0 || self.arrivals == Arrivals::Backlog {
            u64::MAX
        } else {
            self.next_at as u64
        }
    }

    /// The task that arrives at [`next_at`](Self::next_at).
    pub(crate) fn arrive(&mut self) -> Draw {
        let class = match self.arrivals {
            Arrivals::Poisson | Arrivals::Backlog => self.rng.below(self.classes) as u8,
            Arrivals::Uniform => (self.turn % self.classes) as u8,
            Arrivals::Burst => self.burst_class,
        };
        self.turn += 1;
        let draw = self.draw(class);
        self.schedule();
        draw
    }

    /// How many tasks of each class are there from the start.
    pub(crate) fn initial_per_class(&self, workers: u32) -> u64 {
        match self.arrivals {
            Arrivals::Backlog => BACKLOG_PER_WORKER * u64::from(workers),
            _ => 0,
        }
    }

    /// The task that takes the place of one of `class` that has ended, or fills the backlog at the start.
    pub(crate) fn replace(&mut self, class: u8) -> Option<Draw> {
        (self.arrivals == Arrivals::Backlog && self.left > 0).then(|| self.draw(class))
    }

    fn draw(&mut self, class: u8) -> Draw {
        self.left -= 1;
        let work = match self.sizes {
            Sizes::Fixed => self.mean_ns,
            Sizes::Exp => self.rng.exp(self.mean_ns),
            Sizes::Bimodal if self.rng.chance(0.95) => self.mean_ns * 0.5,
            Sizes::Bimodal => self.mean_ns * 10.5,
            // x = x₀/√u has the density 2·x₀²/x³ above x₀ and the mean 2·x₀; u in (0, 1].
            Sizes::Pareto => {
                let x = self.mean_ns * 0.5 / (1.0 - self.rng.f64()).sqrt();
                x.min(PARETO_CUT * self.mean_ns)
            }
        };
        let some = |rng: &mut Rng, part: f64| part > 0.0 && rng.chance(part);
        let polls = if some(&mut self.rng, self.futures) {
            FUTURE_POLLS
        } else {
            1
        };
        let priority = if some(&mut self.rng, self.prioritised) {
            self.rng.below(5) as i8 - 2
        } else {
            0
        };
        let key = if self.keys.is_empty() {
            None
        } else {
            let u = self.rng.f64();
            Some(self.keys.partition_point(|&up_to| up_to <= u) as u32)
        };
        let memory = self.memory.map_or(0, |memory| {
            if self.rng.below(10) == 0 {
                memory.large_task
            } else {
                memory.small_task
            }
        });
        Draw {
            class,
            work_ns: (work as u64).max(1),
            polls,
            priority,
            key,
            memory,
        }
    }

    fn schedule(&mut self) {
        match self.arrivals {
            Arrivals::Poisson => self.next_at += self.rng.exp(self.gap_ns),
            Arrivals::Uniform => self.next_at += self.gap_ns,
            Arrivals::Burst if self.burst_left > 0 => self.burst_left -= 1,
            Arrivals::Burst => {
                self.next_at += self.rng.exp(self.gap_ns * BURST as f64);
                self.burst_left = BURST - 1;
                self.burst_class = self.rng.below(self.classes) as u8;
            }
            Arrivals::Backlog => {}
        }
    }
}

/// Cumulated probabilities of `count` keys, the k-th proportional to 1/(k+1).
fn cumulated(count: u32) -> Vec<f64> {
    let mut sum = 0.0;
    let mut keys: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        })
        .collect();
    for up_to in &mut keys {
        *up_to /= sum;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(sizes: Sizes, arrivals: Arrivals) -> Workload {
        let config = Config {
            workers: 10,
            tasks: 200_000,
            load: 0.5,
            sizes,
            arrivals,
            ..Config::default()
        };
        Workload::new(&config, Rng::seeded(3))
    }

    #[test]
    fn sizes_have_the_mean_that_was_asked_for() {
        for sizes in [Sizes::Fixed, Sizes::Exp, Sizes::Bimodal, Sizes::Pareto] {
            let mut source = workload(sizes, Arrivals::Uniform);
            let sum: f64 = (0..200_000).map(|_| source.arrive().work_ns as f64).sum();
            let mean = sum / 200_000.0 / 1_000_000.0;
            assert!((0.95..1.05).contains(&mean), "{sizes}: {mean}");
            assert_eq!(source.next_at(), u64::MAX);
        }
    }

    #[test]
    fn arrivals_bring_the_load_that_was_asked_for() {
        // 1 ms of work each for 10 workers at half load: one task each 200 µs.
        for arrivals in [Arrivals::Poisson, Arrivals::Uniform, Arrivals::Burst] {
            let mut source = workload(Sizes::Fixed, arrivals);
            let mut last = 0;
            for _ in 0..200_000 {
                assert!(source.next_at() >= last);
                last = source.next_at();
                source.arrive();
            }
            let gap_us = last as f64 / 200_000.0 / 1_000.0;
            assert!((190.0..210.0).contains(&gap_us), "{arrivals}: {gap_us}");
        }
    }

    #[test]
    fn keys_are_drawn_by_rank() {
        let keys = cumulated(3);
        assert!((keys[0] - 6.0 / 11.0).abs() < 1e-12);
        assert!((keys[2] - 1.0).abs() < 1e-12);
    }
}
