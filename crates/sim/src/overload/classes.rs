//! Cells with classes: calls that matter and calls that matter less, under one limit.
//!
//! The line gives slots to interactive calls first under every limiter. Under run delay they also [do not wait](flyball_policy::limit::precedence) for lesser calls to
//! end. CPUs know no classes here, which is the worst that can be: calls that are in share them as if they were alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::cells::Cell;
use super::limiter::Kind;
use super::report::{Progress, Runs, oracle, p99};
use crate::Error;

/// What came of a cell with classes under one limiter, in all seeds together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassFigures {
    /// Answers in time of all calls, of the oracle's.
    pub goodput: f64,
    /// Answers in time of interactive calls, of what could be: of these calls if the oracle answers as many of all, else of the oracle's answers.
    pub interactive: f64,
    /// 99th percentile of the latency of answers to interactive calls, ms.
    pub interactive_p99_ms: f64,
    /// The same of all calls, ms.
    pub p99_ms: f64,
    /// Limit at the end of the first run.
    pub limit: u32,
}

/// A cell with classes under all limiters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    /// Its name.
    pub cell: String,
    /// Whether nothing was chosen by looking at it.
    pub held_out: bool,
    /// Interactive calls while there are any, of the capacity.
    pub interactive_load: f64,
    /// The fixed limit that answers most of all calls in time, with the same queue.
    pub oracle: ClassFigures,
    /// By limiter.
    pub limiters: BTreeMap<String, ClassFigures>,
}

fn figures(runs: &Runs, best: f64) -> ClassFigures {
    let interactive = &runs.interactive;
    ClassFigures {
        goodput: runs.goodput() / best.max(1.0),
        interactive: interactive.good as f64 / (interactive.arrived as f64).min(best).max(1.0),
        interactive_p99_ms: p99(&interactive.latencies) / 1e3,
        p99_ms: runs.p99() / 1e3,
        limit: runs.limit,
    }
}

/// Runs [cells with classes](Cell::with_classes) under limiters.
///
/// # Errors
/// [`Error::Policy`] when a policy refuses its settings.
pub fn classes(
    cells: &[Cell],
    kinds: &[Kind],
    seeds: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<ClassReport>, Error> {
    let mut reports = Vec::with_capacity(cells.len());
    for (done, cell) in cells.iter().enumerate() {
        progress(Progress {
            done,
            total: cells.len(),
        });
        let oracle = oracle(cell, seeds)?;
        let best = oracle.best.goodput();
        let mut limiters = BTreeMap::new();
        for &kind in kinds {
            let runs = Runs::new(cell, kind, seeds)?;
            limiters.insert(kind.to_string(), figures(&runs, best));
        }
        reports.push(ClassReport {
            cell: cell.name(),
            held_out: cell.held_out,
            interactive_load: cell.interactive_load(),
            oracle: figures(&oracle.best, best),
            limiters,
        });
    }
    Ok(reports)
}

/// The reports as a table.
pub fn classes_to_text(reports: &[ClassReport], kinds: &[Kind]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, reports, kinds);
    out
}

fn write_text(out: &mut String, reports: &[ClassReport], kinds: &[Kind]) -> std::fmt::Result {
    if reports.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "classes: answers in time of all calls, of the best fixed limit with the same queue, and of interactive calls, of what could be\n  {:<36} {:<18} {:>8} {:>12} {:>17} {:>9} {:>6}",
        "cell", "limiter", "goodput", "interactive", "its p99", "p99", "limit"
    )?;
    for report in reports {
        let load = report.interactive_load;
        let about = if report.held_out {
            format!("{load:.1}x interactive, held out")
        } else {
            format!("{load:.1}x interactive")
        };
        let limiters = kinds.iter().filter_map(|kind| {
            let name = kind.to_string();
            let figures = report.limiters.get(&name)?;
            Some((name, *figures))
        });
        let all = std::iter::once(("best fixed".to_owned(), report.oracle)).chain(limiters);
        let mut cell = [report.cell.as_str(), about.as_str()].into_iter();
        for (name, figures) in all {
            writeln!(
                out,
                "  {:<36} {name:<18} {:>8.4} {:>12.4} {:>14.1} ms {:>6.1} ms {:>6}",
                cell.next().unwrap_or(""),
                figures.goodput,
                figures.interactive,
                figures.interactive_p99_ms,
                figures.p99_ms,
                figures.limit
            )?;
        }
    }
    Ok(())
}
