//! The grid under several limiters, and what it comes to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::cells::{BACK_S, Cell, Course, RUN_NS, STEP_S};
use super::limiter::Kind;
use super::run::{PIECE_NS, run};
use crate::Error;

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

/// What one limiter did in one cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// Answers in time, of the oracle's.
    pub goodput: f64,
    /// 99th percentile of the latency of all answers, of the oracle's.
    pub p99: f64,
    /// Seconds from a step until the goodput is 95 % of that of the best fixed limit for what follows the step, and stays there; the worse of two
    /// steps.
    pub converged_s: Option<f64>,
    /// Attempts that were refused, 0 to 1.
    pub refused: f64,
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
    /// Attempts that it refused, 0 to 1.
    pub oracle_refused: f64,
    /// By limiter.
    pub limiters: BTreeMap<String, Figures>,
}

/// A limiter over many cells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Cells.
    pub cells: usize,
    /// The least goodput of the oracle's, and where.
    pub goodput_worst: f64,
    /// Its cell.
    pub goodput_worst_cell: String,
    /// The median goodput of the oracle's.
    pub goodput_median: f64,
    /// The geometric mean of the goodput of the oracle's.
    pub goodput_mean: f64,
    /// At twice the capacity: the greatest p99 of the oracle's.
    pub p99_at_2x_worst: Option<f64>,
    /// At twice the capacity: the median p99 of the oracle's.
    pub p99_at_2x_median: Option<f64>,
    /// After steps: the longest time to converge, s.
    pub converged_worst_s: Option<f64>,
    /// At 0.8 of the capacity: the greatest part refused.
    pub refused_at_08_worst: Option<f64>,
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

/// Runs of a cell under one limiter, added up over seeds.
struct Runs {
    good: Vec<u32>,
    /// µs, in order.
    latencies: Vec<u32>,
    arrived: u64,
    attempts: u64,
    refused: u64,
    changes: u64,
    limit: u32,
}

impl Runs {
    fn new(cell: &Cell, kind: Kind, seeds: u64) -> Result<Self, Error> {
        let mut runs = Self {
            good: vec![0; (RUN_NS / PIECE_NS) as usize],
            latencies: Vec::new(),
            arrived: 0,
            attempts: 0,
            refused: 0,
            changes: 0,
            limit: 0,
        };
        for seed in 1..=seeds {
            let out = run(cell, kind, seed)?;
            for (sum, good) in runs.good.iter_mut().zip(&out.good) {
                *sum += good;
            }
            runs.latencies.extend(&out.latencies);
            runs.arrived += out.arrived;
            runs.attempts += out.attempts;
            runs.refused += out.refused;
            runs.changes += out.changes;
            if seed == 1 {
                runs.limit = out.limit;
            }
        }
        runs.latencies.sort_unstable();
        Ok(runs)
    }

    fn goodput(&self) -> f64 {
        sum(&self.good)
    }

    fn p99(&self) -> f64 {
        let index = self.latencies.len() * 99 / 100;
        self.latencies
            .get(index)
            .map_or(0.0, |&micros| f64::from(micros))
    }

    fn refused(&self) -> f64 {
        self.refused as f64 / self.attempts.max(1) as f64
    }
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

struct Oracle {
    best: Runs,
    limit: u32,
    /// Good answers in each phase of the limit that is best for that phase.
    phases: [Vec<u32>; 2],
}

fn oracle(cell: &Cell, seeds: u64) -> Result<Oracle, Error> {
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

fn measure(cell: &Cell, kind: Kind, seeds: u64, oracle: &Oracle) -> Result<Figures, Error> {
    let runs = Runs::new(cell, kind, seeds)?;
    let converged_s = cell.course.steps().then(|| {
        phases()
            .iter()
            .zip(&oracle.phases)
            .map(|(&(from, to), best)| converged(&runs.good[from..to], best))
            .fold(0.0, f64::max)
    });
    Ok(Figures {
        goodput: runs.goodput() / oracle.best.goodput().max(1.0),
        p99: runs.p99() / oracle.best.p99().max(1.0),
        converged_s,
        refused: runs.refused(),
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
            oracle_refused: oracle.best.refused(),
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

fn summary(cells: &[(&Cell, &CellReport, &Figures)]) -> Option<Summary> {
    let (_, worst_cell, worst) = cells
        .iter()
        .min_by(|a, b| a.2.goodput.total_cmp(&b.2.goodput))?;
    let at = |load: f64| {
        cells
            .iter()
            .filter(move |(cell, ..)| cell.course == Course::Steady(load))
            .map(|(_, _, figures)| *figures)
    };
    let most = |values: &mut dyn Iterator<Item = f64>| values.reduce(f64::max);
    let logs: f64 = cells
        .iter()
        .map(|(_, _, figures)| figures.goodput.max(1e-6).ln())
        .sum();
    Some(Summary {
        cells: cells.len(),
        goodput_worst: worst.goodput,
        goodput_worst_cell: worst_cell.cell.clone(),
        goodput_median: median(cells.iter().map(|(_, _, figures)| figures.goodput))?,
        goodput_mean: (logs / cells.len() as f64).exp(),
        p99_at_2x_worst: most(&mut at(2.0).map(|figures| figures.p99)),
        p99_at_2x_median: median(at(2.0).map(|figures| figures.p99)),
        converged_worst_s: most(
            &mut cells
                .iter()
                .filter_map(|(_, _, figures)| figures.converged_s),
        ),
        refused_at_08_worst: most(&mut at(0.8).map(|figures| figures.refused)),
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

/// The report as text: a table of limiters, and with `each` one of cells.
pub fn to_text(grid: &Grid, kinds: &[Kind], each: bool) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, grid, kinds, each);
    out
}

fn write_text(out: &mut String, grid: &Grid, kinds: &[Kind], each: bool) -> std::fmt::Result {
    let width = grid
        .cells
        .iter()
        .map(|cell| cell.cell.len())
        .max()
        .unwrap_or(4);
    if each {
        for kind in kinds {
            let name = kind.to_string();
            writeln!(
                out,
                "{name}\n  {:<width$} {:>8} {:>7} {:>8} {:>9} {:>8} {:>6} {:>6} {:>10}",
                "cell",
                "goodput",
                "p99",
                "again",
                "refused",
                "(oracle)",
                "limit",
                "oracle",
                "changes/min"
            )?;
            for cell in &grid.cells {
                let Some(figures) = cell.limiters.get(&name) else {
                    continue;
                };
                writeln!(
                    out,
                    "  {:<width$} {:>8.4} {:>7.3} {:>8} {:>8.2}% {:>7.2}% {:>6} {:>6} {:>10.0}{}",
                    cell.cell,
                    figures.goodput,
                    figures.p99,
                    figures
                        .converged_s
                        .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s")),
                    figures.refused * 100.0,
                    cell.oracle_refused * 100.0,
                    figures.limit,
                    cell.oracle_limit,
                    figures.changes_per_minute,
                    if cell.held_out { "  held out" } else { "" },
                )?;
            }
        }
    }
    for (part, title) in ["all cells", "cells looked at", "cells held out"]
        .iter()
        .enumerate()
    {
        let rows: Vec<_> = kinds
            .iter()
            .filter_map(|kind| {
                let name = kind.to_string();
                let summary = grid.summaries.get(&name)?.get(part)?.clone()?;
                Some((name, summary))
            })
            .collect();
        let Some((_, first)) = rows.first() else {
            continue;
        };
        writeln!(
            out,
            "{title}: {}, {} runs each; goodput and p99 against the best fixed limit with the same queue\n  {:<18} {:>7} {:>7} {:>7} {:>8} {:>8} {:>8} {:>8}  worst cell",
            first.cells,
            grid.seeds,
            "limiter",
            "worst",
            "median",
            "mean",
            "p99@2x",
            "median",
            "again",
            "ref@0.8"
        )?;
        let or_none = |value: Option<f64>, unit: &str, factor: f64, digits: usize| {
            value.map_or_else(
                || "-".to_owned(),
                |value| format!("{:.digits$}{unit}", value * factor),
            )
        };
        for (name, row) in rows {
            writeln!(
                out,
                "  {name:<18} {:>7.4} {:>7.4} {:>7.4} {:>8} {:>8} {:>8} {:>8}  {}",
                row.goodput_worst,
                row.goodput_median,
                row.goodput_mean,
                or_none(row.p99_at_2x_worst, "", 1.0, 3),
                or_none(row.p99_at_2x_median, "", 1.0, 3),
                or_none(row.converged_worst_s, " s", 1.0, 1),
                or_none(row.refused_at_08_worst, "%", 100.0, 2),
                row.goodput_worst_cell,
            )?;
        }
    }
    Ok(())
}
