//! The figures of a run, for people and for machines.
//!
//! Everything in a report follows from the configuration, the wall clock has no part in it: two runs of one configuration
//! print the same bytes. A figure that is not known is absent.

use std::fmt::Write as _;

use flyball_core::histogram::Histogram;
use serde::Serialize;

/// Quantiles of a duration, nanoseconds; at most 6.25 % too high.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Half of the values are not above it.
    pub p50: u64,
    /// Nine of ten values are not above it.
    pub p90: u64,
    /// 99 of 100 values are not above it.
    pub p99: u64,
    /// 999 of 1,000 values are not above it.
    pub p999: u64,
    /// The largest value, exactly.
    pub max: u64,
}

impl Quantiles {
    pub(crate) fn of(histogram: &Histogram) -> Option<Self> {
        Some(Self {
            p50: histogram.quantile(0.5)?,
            p90: histogram.quantile(0.9)?,
            p99: histogram.quantile(0.99)?,
            p999: histogram.quantile(0.999)?,
            max: histogram.max()?,
        })
    }
}

/// What happened to one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    /// Name of the class.
    pub name: String,
    /// `front` or `back`.
    pub group: String,
    /// Tasks that arrived.
    pub arrived: u64,
    /// Tasks refused because the queue was at its limit.
    pub refused: u64,
    /// Tasks that ran to their end.
    pub completed: u64,
    /// Runs that failed on a faulty worker and were repeated.
    pub failed_attempts: u64,
    /// CPU time used, ns.
    pub service_ns: u64,
    /// Part of all CPU time used.
    pub share: f64,
    /// Grants that the scheduler gave.
    pub grants: u64,
    /// Times that a task of the class had to leave its CPU to the front group.
    pub preemptions: u64,
    /// Times that ageing put the class before one of higher rank.
    pub ageing: u64,
    /// From arrival, or from being ready again, to running: the longest wait is its maximum.
    pub wait: Option<Quantiles>,
    /// From arrival to the end.
    pub latency: Option<Quantiles>,
}

/// Shares against promises, over windows in which at least two classes had queued work all the time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fairness {
    /// Windows that count.
    pub windows: u64,
    /// Jain's index over the classes' shares, each divided by its promise: mean of the windows.
    pub jain_mean: f64,
    /// The same, of the worst window.
    pub jain_min: f64,
    /// The largest difference between a share and its promise, in points (hundredths) of all CPU.
    pub worst_error_points: f64,
    /// The class of that difference.
    pub worst_class: String,
}

/// How evenly the workers were used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Balance {
    /// Part of the time that workers were busy, until the last task ended: mean of the workers.
    pub utilisation: f64,
    /// Of the least busy worker.
    pub utilisation_min: f64,
    /// Of the busiest worker.
    pub utilisation_max: f64,
    /// Its variance over the workers.
    pub utilisation_variance: f64,
    /// Jain's index of the workers' busy time, 1 when all are equally busy.
    pub jain: f64,
    /// Variance over the workers of tasks running and placed, sampled each 10 ms: mean of the samples.
    pub load_variance: f64,
    /// Of the worst sample.
    pub load_variance_max: f64,
    /// Tasks that ran on another worker than the one they were placed on.
    pub steals: u64,
    /// Queued tasks moved by rebalancing.
    pub moved: u64,
    /// Tasks that ran on a worker that had not run their key lately.
    pub cold_starts: u64,
    /// Tasks that ran on a worker with more memory handed out than it has.
    pub overcommitted: u64,
}

/// The figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the algorithm at the end.
    pub algorithm: String,
    /// Name of the strategy at the end.
    pub strategy: String,
    /// Simulated workers.
    pub workers: u32,
    /// The seed.
    pub seed: u64,
    /// Simulated time until the last task ended, ns.
    pub simulated_ns: u64,
    /// Tasks that arrived.
    pub arrived: u64,
    /// Tasks refused.
    pub refused: u64,
    /// Tasks that ran to their end, each exactly once.
    pub completed: u64,
    /// Times that the scheduler told a worker to wait although work was queued.
    pub waits: u64,
    /// Absent when no window counts, or the algorithm promises an order and no shares.
    pub fairness: Option<Fairness>,
    /// How evenly the workers were used.
    pub balance: Balance,
    /// From arrival to the end, over all classes.
    pub latency: Option<Quantiles>,
    /// What happened to each class.
    pub classes: Vec<ClassReport>,
}

impl Report {
    /// The report as text, one line a class.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "algorithm {}, strategy {}, {} workers, seed {}: {} tasks arrived, {} completed, {} refused in {} simulated",
            self.algorithm,
            self.strategy,
            self.workers,
            self.seed,
            self.arrived,
            self.completed,
            self.refused,
            time(self.simulated_ns),
        )?;
        match &self.fairness {
            Some(fair) => writeln!(
                out,
                "  fairness    Jain index {:.4} (worst window {:.4}), worst share error {:.2} points of CPU ({}), {} windows",
                fair.jain_mean,
                fair.jain_min,
                fair.worst_error_points,
                fair.worst_class,
                fair.windows
            )?,
            None if self.algorithm == "priority" => {
                writeln!(out, "  fairness    priority promises an order, no shares")?;
            }
            None => writeln!(
                out,
                "  fairness    no window in which two classes had work all the time"
            )?,
        }
        let longest = self
            .classes
            .iter()
            .filter_map(|class| Some((class.wait?.max, &class.name)))
            .max();
        if let Some((wait, name)) = longest {
            writeln!(
                out,
                "  starvation  longest wait {} ({name}), {} ageing activations, {} waits told",
                time(wait),
                self.classes.iter().map(|class| class.ageing).sum::<u64>(),
                self.waits
            )?;
        }
        let balance = &self.balance;
        writeln!(
            out,
            "  balance     utilisation {:.1} % ({:.1} to {:.1}, variance {:.5}), load variance {:.3} (worst {:.3}), {} steals, {} moved",
            balance.utilisation * 100.0,
            balance.utilisation_min * 100.0,
            balance.utilisation_max * 100.0,
            balance.utilisation_variance,
            balance.load_variance,
            balance.load_variance_max,
            balance.steals,
            balance.moved
        )?;
        writeln!(
            out,
            "  {:<16} {:<6} {:>10} {:>8} {:>8} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "class",
            "group",
            "completed",
            "refused",
            "share %",
            "preempted",
            "wait p50",
            "wait p99",
            "wait max",
            "total p50",
            "total p99",
            "total p999"
        )?;
        for class in &self.classes {
            let of = |quantiles: Option<Quantiles>, pick: fn(Quantiles) -> u64| {
                quantiles.map_or_else(|| "-".to_owned(), |quantiles| time(pick(quantiles)))
            };
            writeln!(
                out,
                "  {:<16} {:<6} {:>10} {:>8} {:>8.3} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
                class.name,
                class.group,
                class.completed,
                class.refused,
                class.share * 100.0,
                class.preemptions,
                of(class.wait, |q| q.p50),
                of(class.wait, |q| q.p99),
                of(class.wait, |q| q.max),
                of(class.latency, |q| q.p50),
                of(class.latency, |q| q.p99),
                of(class.latency, |q| q.p999),
            )?;
        }
        Ok(())
    }
}

/// A duration with three digits or so: `412ns`, `15.2us`, `3.41ms`, `12.8s`.
pub(crate) fn time(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_have_three_digits() {
        let printed: Vec<String> = [0, 999, 1_000, 15_240, 999_000, 3_414_000, 128_000_000_000]
            .into_iter()
            .map(time)
            .collect();
        assert_eq!(
            printed,
            [
                "0ns", "999ns", "1.00us", "15.2us", "999us", "3.41ms", "128s"
            ]
        );
    }
}
