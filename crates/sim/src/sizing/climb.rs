//! Adaptive sizing against each fixed size.

use std::fmt::Write as _;

use flyball_policy::sched::pool::Sizing;
use serde::Serialize;

use super::threads::{Outcome, Size, Work, run};
use crate::Error;

/// The most threads that are tried.
pub const MOST: u32 = 128;
/// Seconds that a fixed size runs.
const FIXED_SECONDS: f64 = 120.0;

/// What a kind of work wants, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The work.
    pub work: &'static str,
    /// The fixed size that does most, and its throughput, tasks a second.
    pub best: (u32, f64),
    /// What the controller did.
    pub sizing: &'static str,
    /// Its run.
    pub outcome: Outcome,
    /// Throughput of the size that it settled at, run as a fixed one, over that of the best fixed size.
    pub found: f64,
    /// Throughput of its own second half, trials included, over that of the best fixed size.
    pub reached: f64,
}

/// The sizes that are run as fixed ones: all up to 16, then a twentieth apart.
fn ladder() -> Vec<u32> {
    let mut sizes: Vec<u32> = (1..=16).collect();
    while let Some(&last) = sizes.last()
        && last < MOST
    {
        sizes.push((f64::from(last) * 1.05).ceil().min(f64::from(MOST)) as u32);
    }
    sizes
}

/// Finds the best fixed size by running them all, with the same seed.
///
/// # Errors
/// As [`run`].
pub fn best_fixed(work: &Work, seconds: f64, seed: u64) -> Result<(u32, f64), Error> {
    let mut best = (1, 0.0);
    for size in ladder() {
        let throughput = run(work, Size::Fixed(size), seconds, seed)?.throughput;
        if throughput > best.1 {
            best = (size, throughput);
        }
    }
    Ok(best)
}

/// Runs one way of sizing against the best fixed size.
///
/// # Errors
/// As [`run`].
pub fn against_fixed(
    work: &Work,
    sizing: Sizing,
    best: (u32, f64),
    seconds: f64,
    fixed_seconds: f64,
    seed: u64,
) -> Result<Row, Error> {
    let size = Size::By {
        sizing,
        first: 2,
        max: MOST,
    };
    let outcome = run(work, size, seconds, seed)?;
    let same = run(work, Size::Fixed(outcome.threads), fixed_seconds, seed)?;
    Ok(Row {
        work: work.name,
        best,
        sizing: sizing.name(),
        found: same.throughput / best.1,
        reached: outcome.throughput / best.1,
        outcome,
    })
}

/// Runs every way of sizing on every kind of work, for so many seconds.
///
/// # Errors
/// As [`run`].
pub fn compare(seconds: f64, seed: u64) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for work in Work::all() {
        let best = best_fixed(&work, FIXED_SECONDS, seed)?;
        for sizing in Sizing::ALL {
            rows.push(against_fixed(
                &work,
                sizing,
                best,
                seconds,
                FIXED_SECONDS,
                seed,
            )?);
        }
    }
    Ok(rows)
}

/// The rows as a table.
pub fn to_text(rows: &[Row]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{:<10} {:<9} {:>10} {:>12} {:>8} {:>6} {:>8} {:>8} {:>10}",
        "work",
        "sizing",
        "best fixed",
        "tasks/s",
        "threads",
        "most",
        "found",
        "reached",
        "changes/h"
    );
    for row in rows {
        let _ = writeln!(
            out,
            "{:<10} {:<9} {:>10} {:>12.1} {:>8} {:>6} {:>8.3} {:>8.3} {:>10.1}",
            row.work,
            row.sizing,
            row.best.0,
            row.best.1,
            row.outcome.threads,
            row.outcome.most,
            row.found,
            row.reached,
            row.outcome.changes_an_hour,
        );
    }
    out
}
