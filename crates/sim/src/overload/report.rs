//! The grid under several limiters, and what it comes to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cells::{BACK_S, Cell, Course, RUN_NS, STEP_S};
use super::limiter::Kind;
use super::run::{Interactive, PIECE_NS, run};
use crate::{Error, Estimate};

/// The oracle tries these multiples of the number of calls that keep the CPUs busy if nothing scatters, and every number up to this one.
const ORACLE_FACTORS: [f64; 20] = [
    0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.7, 2.0,
    3.0, 5.0,
];
const ORACLE_ALL: f64 = 6.0;
/// Goodput is held where it is at least this part of the oracle's.
const HELD: f64 = 0.95;
/// Pieces of a second.
const SECOND: usize = (1_000_000_000 / PIECE_NS) as usize;

/// What one limiter did in one cell: in all seeds together, and how far that scatters over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Answers in time, of the oracle's.
    pub goodput: f64,
    /// The same by seed.
    pub goodput_by_seed: Estimate,
    /// 99th percentile of the latency of all answers, of the oracle's.
    pub p99: f64,
    /// The same by seed.
    pub p99_by_seed: Estimate,
    /// Seconds from a step until the goodput is 95 % of that of the best fixed limit for what follows the step, over the next second, the next
    /// two and so on to the end of what follows (7 s); the worse of two steps. Goodput is that of all seeds together.
    pub converged_s: Option<f64>,
    /// Attempts that were refused, 0 to 1.
    pub refused: f64,
    /// The same by seed.
    pub refused_by_seed: Estimate,
    /// Changes of the limit a minute; flyball's limiters only.
    pub changes_per_minute: f64,
    /// Limit at the end of the first run.
    pub limit: u32,
}

/// A cell under all limiters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellReport {
    /// Its name.
    pub cell: String,
    /// Whether nothing was chosen by looking at it.
    pub held_out: bool,
    /// The best fixed limit.
    pub oracle_limit: u32,
    /// Its answers in time, of all calls made.
    pub oracle_goodput: f64,
    /// 99th percentile of the latency of its answers, ms.
    pub oracle_p99_ms: f64,
    /// Attempts that it refused, 0 to 1.
    pub oracle_refused: f64,
    /// Seconds that it takes after a step, measured as those of limiters are: against the best limit for what follows.
    pub oracle_converged_s: Option<f64>,
    /// By limiter.
    pub limiters: BTreeMap<String, Figures>,
}

/// A figure, and the cell it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Extreme {
    /// The figure.
    pub value: f64,
    /// The same by seed, where it has any.
    pub by_seed: Option<Estimate>,
    /// The cell.
    pub cell: String,
}

/// A limiter over many cells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Cells.
    pub cells: usize,
    /// The least goodput of the oracle's.
    pub goodput_worst: Extreme,
    /// The median goodput of the oracle's.
    pub goodput_median: f64,
    /// The same by seed.
    pub goodput_median_by_seed: Estimate,
    /// The geometric mean of the goodput of the oracle's.
    pub goodput_mean: f64,
    /// The greatest p99 of the oracle's.
    pub p99_worst: Extreme,
    /// At twice the capacity: the greatest p99 of the oracle's.
    pub p99_at_2x_worst: Option<Extreme>,
    /// At twice the capacity: the median p99 of the oracle's.
    pub p99_at_2x_median: Option<f64>,
    /// After steps: the longest time to converge, s.
    pub converged_worst_s: Option<Extreme>,
    /// The longest that the best fixed limit takes, measured alike.
    pub oracle_converged_worst_s: Option<Extreme>,
    /// At 0.8 of the capacity: the greatest part refused.
    pub refused_at_08_worst: Option<Extreme>,
    /// At 0.8 of the capacity: the most that is refused beyond what the best fixed limit refuses with the same queue.
    pub refused_at_08_excess: Option<Extreme>,
}

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Grid {
    /// Runs of each cell and limiter.
    pub seeds: u64,
    /// Cells, in order.
    pub cells: Vec<CellReport>,
    /// By limiter: all cells, those that were looked at, those held out.
    pub summaries: BTreeMap<String, [Option<Summary>; 3]>,
}

/// How far a grid is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Cells done.
    pub done: usize,
    /// All cells.
    pub total: usize,
}

/// One run.
struct OfSeed {
    good: f64,
    p99: f64,
    refused: f64,
}

/// Runs of a cell under one limiter, added up over seeds.
pub(super) struct Runs {
    seeds: Vec<OfSeed>,
    good: Vec<u32>,
    /// µs, in order.
    latencies: Vec<u32>,
    /// Latencies in order.
    pub(super) interactive: Interactive,
    arrived: u64,
    attempts: u64,
    refused: u64,
    changes: u64,
    pub(super) limit: u32,
}

impl Runs {
    pub(super) fn new(cell: &Cell, kind: Kind, seeds: u64) -> Result<Self, Error> {
        let mut runs = Self {
            seeds: Vec::with_capacity(seeds as usize),
            good: vec![0; (RUN_NS / PIECE_NS) as usize],
            latencies: Vec::new(),
            interactive: Interactive::default(),
            arrived: 0,
            attempts: 0,
            refused: 0,
            changes: 0,
            limit: 0,
        };
        for seed in 1..=seeds {
            let mut out = run(cell, kind, seed)?;
            out.latencies.sort_unstable();
            runs.seeds.push(OfSeed {
                good: sum(&out.good),
                p99: p99(&out.latencies),
                refused: out.refused as f64 / out.attempts.max(1) as f64,
            });
            for (sum, good) in runs.good.iter_mut().zip(&out.good) {
                *sum += good;
            }
            runs.latencies.extend(&out.latencies);
            let interactive = &mut runs.interactive;
            interactive.arrived += out.interactive.arrived;
            interactive.good += out.interactive.good;
            interactive.latencies.extend(&out.interactive.latencies);
            runs.arrived += out.arrived;
            runs.attempts += out.attempts;
            runs.refused += out.refused;
            runs.changes += out.changes;
            if seed == 1 {
                runs.limit = out.limit;
            }
        }
        runs.latencies.sort_unstable();
        runs.interactive.latencies.sort_unstable();
        Ok(runs)
    }

    pub(super) fn goodput(&self) -> f64 {
        sum(&self.good)
    }

    pub(super) fn p99(&self) -> f64 {
        p99(&self.latencies)
    }

    fn refused(&self) -> f64 {
        self.refused as f64 / self.attempts.max(1) as f64
    }
}

/// Of latencies in order, µs.
pub(super) fn p99(latencies: &[u32]) -> f64 {
    let index = latencies.len() * 99 / 100;
    latencies
        .get(index)
        .map_or(0.0, |&micros| f64::from(micros))
}

fn sum(pieces: &[u32]) -> f64 {
    pieces.iter().map(|&good| f64::from(good)).sum()
}

/// From a step to the next, or to the end.
fn phases() -> [(usize, usize); 2] {
    let piece = |seconds: f64| (seconds * 1e9 / PIECE_NS as f64) as usize;
    let (step, back) = (piece(STEP_S), piece(BACK_S));
    [(step, back), (back, (RUN_NS / PIECE_NS) as usize)]
}

/// The fixed limit that is best, found by trying.
pub(super) struct Oracle {
    pub(super) best: Runs,
    pub(super) limit: u32,
    /// Good answers in each phase of the limit that is best for that phase.
    phases: [Vec<u32>; 2],
}

pub(super) fn oracle(cell: &Cell, seeds: u64) -> Result<Oracle, Error> {
    let natural = cell.service.natural();
    let mut limits: Vec<u32> = (1..=ORACLE_ALL as u32).collect();
    limits.extend(ORACLE_FACTORS.map(|factor| (factor * natural).round().max(1.0) as u32));
    limits.sort_unstable();
    limits.dedup();
    limits.retain(|&limit| f64::from(limit) >= 0.3 * natural);
    let mut best: Option<(u32, Runs)> = None;
    let mut of_phases = [Vec::new(), Vec::new()];
    for limit in limits {
        let runs = Runs::new(cell, Kind::Fixed(limit), seeds)?;
        for (best, (from, to)) in of_phases.iter_mut().zip(phases()) {
            if sum(best) < sum(&runs.good[from..to]) {
                *best = runs.good[from..to].to_vec();
            }
        }
        if best
            .as_ref()
            .is_none_or(|(_, best)| best.goodput() < runs.goodput())
        {
            best = Some((limit, runs));
        }
    }
    let (limit, best) = match best {
        Some(best) => best,
        None => (1, Runs::new(cell, Kind::Fixed(1), seeds)?),
    };
    Ok(Oracle {
        best,
        limit,
        phases: of_phases,
    })
}

/// Seconds until `good` is held against `best` up to the end, over every whole number of seconds from there.
fn converged(good: &[u32], best: &[u32]) -> f64 {
    let holds = |from: usize| {
        let ends = (from + SECOND..=good.len()).step_by(SECOND);
        ends.clone().count() > 0
            && ends
                .clone()
                .all(|to| sum(&good[from..to]) >= HELD * sum(&best[from..to]))
    };
    (0..good.len())
        .find(|&from| holds(from))
        .unwrap_or(good.len()) as f64
        / SECOND as f64
}

/// Seconds to converge after the worse of two steps, where the cell has steps.
fn converges(cell: &Cell, runs: &Runs, oracle: &Oracle) -> Option<f64> {
    cell.course.steps().then(|| {
        phases()
            .iter()
            .zip(&oracle.phases)
            .map(|(&(from, to), best)| converged(&runs.good[from..to], best))
            .fold(0.0, f64::max)
    })
}

fn measure(cell: &Cell, kind: Kind, seeds: u64, oracle: &Oracle) -> Result<Figures, Error> {
    let runs = Runs::new(cell, kind, seeds)?;
    let by_seed = |ratio: fn(&OfSeed, &OfSeed) -> f64| -> Vec<f64> {
        let both = runs.seeds.iter().zip(&oracle.best.seeds);
        both.map(|(run, best)| ratio(run, best)).collect()
    };
    Ok(Figures {
        goodput: runs.goodput() / oracle.best.goodput().max(1.0),
        goodput_by_seed: Estimate::of(&by_seed(|run, best| run.good / best.good.max(1.0))),
        p99: runs.p99() / oracle.best.p99().max(1.0),
        p99_by_seed: Estimate::of(&by_seed(|run, best| run.p99 / best.p99.max(1.0))),
        converged_s: converges(cell, &runs, oracle),
        refused: runs.refused(),
        refused_by_seed: Estimate::of(&by_seed(|run, _| run.refused)),
        changes_per_minute: runs.changes as f64 * 60e9 / (RUN_NS as f64 * seeds as f64),
        limit: runs.limit,
    })
}

/// Runs cells under limiters.
///
/// # Errors
/// [`Error::Policy`] when a policy refuses its settings.
pub fn grid(
    cells: &[Cell],
    kinds: &[Kind],
    seeds: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Grid, Error> {
    let mut reports = Vec::with_capacity(cells.len());
    for (done, cell) in cells.iter().enumerate() {
        progress(Progress {
            done,
            total: cells.len(),
        });
        let oracle = oracle(cell, seeds)?;
        let mut limiters = BTreeMap::new();
        for &kind in kinds {
            limiters.insert(kind.to_string(), measure(cell, kind, seeds, &oracle)?);
        }
        reports.push(CellReport {
            cell: cell.name(),
            held_out: cell.held_out,
            oracle_limit: oracle.limit,
            oracle_goodput: oracle.best.goodput() / oracle.best.arrived.max(1) as f64,
            oracle_p99_ms: oracle.best.p99() / 1e3,
            oracle_refused: oracle.best.refused(),
            oracle_converged_s: converges(cell, &oracle.best, &oracle),
            limiters,
        });
    }
    let of = |kind: &Kind| {
        let name = kind.to_string();
        let some = |keep: &dyn Fn(&Cell) -> bool| {
            let kept: Vec<_> = cells
                .iter()
                .zip(&reports)
                .filter(|(cell, _)| keep(cell))
                .filter_map(|(cell, report)| Some((cell, report, report.limiters.get(&name)?)))
                .collect();
            summary(&kept)
        };
        let parts = [
            some(&|_| true),
            some(&|cell| !cell.held_out),
            some(&|cell| cell.held_out),
        ];
        (name.clone(), parts)
    };
    let summaries = kinds.iter().map(of).collect();
    Ok(Grid {
        seeds,
        cells: reports,
        summaries,
    })
}

type Measured<'a> = (&'a Cell, &'a CellReport, &'a Figures);

/// The greatest of a figure over cells that have it, `figure` answering it and its interval.
fn greatest(
    cells: &[Measured<'_>],
    figure: impl Fn(&Measured<'_>) -> Option<(f64, Option<Estimate>)>,
) -> Option<Extreme> {
    let extremes = cells.iter().filter_map(|measured| {
        let (value, by_seed) = figure(measured)?;
        Some(Extreme {
            value,
            by_seed,
            cell: measured.1.cell.clone(),
        })
    });
    extremes.max_by(|a, b| a.value.total_cmp(&b.value))
}

fn summary(cells: &[Measured<'_>]) -> Option<Summary> {
    let negative = greatest(cells, |(_, _, figures)| {
        Some((-figures.goodput, Some(figures.goodput_by_seed.clone())))
    })?;
    let is_at = |cell: &Cell, load: f64| cell.course == Course::Steady(load);
    let p99 = |figures: &Figures| (figures.p99, Some(figures.p99_by_seed.clone()));
    let logs: f64 = cells
        .iter()
        .map(|(_, _, figures)| figures.goodput.max(1e-6).ln())
        .sum();
    let seeds = cells.first()?.2.goodput_by_seed.values.len();
    let medians: Vec<f64> = (0..seeds)
        .filter_map(|seed| {
            median(
                cells
                    .iter()
                    .map(|(_, _, figures)| figures.goodput_by_seed.values[seed]),
            )
        })
        .collect();
    Some(Summary {
        cells: cells.len(),
        goodput_worst: Extreme {
            value: -negative.value,
            ..negative
        },
        goodput_median: median(cells.iter().map(|(_, _, figures)| figures.goodput))?,
        goodput_median_by_seed: Estimate::of(&medians),
        goodput_mean: (logs / cells.len() as f64).exp(),
        p99_worst: greatest(cells, |(_, _, figures)| Some(p99(figures)))?,
        p99_at_2x_worst: greatest(cells, |(cell, _, figures)| {
            is_at(cell, 2.0).then(|| p99(figures))
        }),
        p99_at_2x_median: median(
            cells
                .iter()
                .filter(|(cell, ..)| is_at(cell, 2.0))
                .map(|(_, _, figures)| figures.p99),
        ),
        converged_worst_s: greatest(cells, |(_, _, figures)| Some((figures.converged_s?, None))),
        oracle_converged_worst_s: greatest(cells, |(_, report, _)| {
            Some((report.oracle_converged_s?, None))
        }),
        refused_at_08_worst: greatest(cells, |(cell, _, figures)| {
            is_at(cell, 0.8).then_some((figures.refused, Some(figures.refused_by_seed.clone())))
        }),
        refused_at_08_excess: greatest(cells, |(cell, report, figures)| {
            is_at(cell, 0.8).then_some((figures.refused - report.oracle_refused, None))
        }),
    })
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + upper) / 2.0
    } else {
        upper
    })
}
