//! The grid: each rule on each shape of load, at several sizes, starting times and scatters.

use std::fmt::Write as _;

use serde::Serialize;

use super::fleet::{Fleet, Outcome, Rule};
use super::shape::{Part, Shape};
use crate::Error;

/// One cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cell {
    /// How the load goes.
    pub shape: Shape,
    /// Whether constants were chosen on it.
    pub part: Part,
    /// Workers' worth of work around which it goes.
    pub base: f64,
    /// Seconds that a worker takes to start.
    pub boot: u32,
    /// By how much arrivals scatter from second to second, one standard deviation.
    pub scatter: f64,
}

/// A cell's figures under each rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The cell.
    pub cell: Cell,
    /// In the order of [`Rule::ALL`].
    pub outcomes: Vec<Outcome>,
}

/// Returns all cells: 8 shapes × 2 sizes × 2 starting times × 2 scatters, once to choose constants on and once held out.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for part in [Part::Tuning, Part::HeldOut] {
        let tuning = part == Part::Tuning;
        for shape in Shape::ALL {
            for base in if tuning { [6.0, 40.0] } else { [4.0, 75.0] } {
                for boot in if tuning { [15, 60] } else { [30, 90] } {
                    for scatter in if tuning { [0.0, 0.15] } else { [0.05, 0.25] } {
                        cells.push(Cell {
                            shape,
                            part,
                            base,
                            boot,
                            scatter,
                        });
                    }
                }
            }
        }
    }
    cells
}

/// Runs every rule on these cells.
///
/// # Errors
/// As [`Fleet::run`].
pub fn run(cells: &[Cell], seed: u64) -> Result<Vec<Row>, Error> {
    let row = |(number, cell): (usize, &Cell)| {
        let fleet = Fleet {
            boot: cell.boot,
            patience: 1.0,
            task: 0.05,
            target: 0.7,
            max: 2_000,
        };
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
        let load = cell.shape.load(cell.part, cell.base, cell.scatter, seed);
        let outcomes = Rule::ALL.iter().map(|rule| fleet.run(*rule, &load));
        Ok(Row {
            cell: *cell,
            outcomes: outcomes.collect::<Result<_, Error>>()?,
        })
    };
    cells.iter().enumerate().map(row).collect()
}

/// The figures of a rule over some rows: means of the cells' shares, so that each cell counts the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// The part of the work that was refused.
    pub unserved: f64,
    /// Worker-seconds for each worker-second of work that came.
    pub paid: f64,
    /// Changes of size in an hour.
    pub changes_an_hour: f64,
}

/// Scores a rule over the rows that `which` picks.
pub fn score(rows: &[Row], rule: Rule, which: impl Fn(&Cell) -> bool) -> Score {
    let at = Rule::ALL.iter().position(|one| *one == rule).unwrap_or(0);
    let mut score = Score {
        unserved: 0.0,
        paid: 0.0,
        changes_an_hour: 0.0,
    };
    let mut count: f64 = 0.0;
    for row in rows.iter().filter(|row| which(&row.cell)) {
        let outcome = &row.outcomes[at];
        score.unserved += outcome.unserved / outcome.offered;
        score.paid += outcome.paid / outcome.offered;
        score.changes_an_hour += outcome.changes_an_hour;
        count += 1.0;
    }
    let count = count.max(1.0);
    Score {
        unserved: score.unserved / count,
        paid: score.paid / count,
        changes_an_hour: score.changes_an_hour / count,
    }
}

/// A rule on some cells, beside the rule of the autoscaler on the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    /// Which cells: a shape, `tuning`, `held out` or `all`.
    pub cells: &'static str,
    /// The rule.
    pub rule: &'static str,
    /// Its figures.
    pub score: Score,
    /// Its unserved work over the autoscaler's; None where that served all.
    pub unserved_of_kubernetes: Option<f64>,
    /// What it paid over what the autoscaler paid.
    pub paid_of_kubernetes: Option<f64>,
}

/// Scores all rules: shape by shape, then the two halves of the grid and the whole.
pub fn scores(rows: &[Row]) -> Vec<Scored> {
    let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
    let mut scored = Vec::new();
    let mut add = |cells: &'static str, which: &dyn Fn(&Cell) -> bool| {
        let kubernetes = score(rows, Rule::Hpa, which);
        for rule in Rule::ALL {
            let score = score(rows, rule, which);
            scored.push(Scored {
                cells,
                rule: rule.name(),
                score,
                unserved_of_kubernetes: ratio(score.unserved, kubernetes.unserved),
                paid_of_kubernetes: ratio(score.paid, kubernetes.paid),
            });
        }
    };
    for shape in Shape::ALL {
        add(shape.name(), &|cell| cell.shape == shape);
    }
    add("tuning", &|cell| cell.part == Part::Tuning);
    add("held out", &|cell| cell.part == Part::HeldOut);
    add("all", &|_| true);
    scored
}

/// The rows as a table: shape by shape, then the two halves of the grid and the whole.
pub fn to_text(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut cells = "";
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
    for scored in scores(rows) {
        // Writing to a string cannot fail.
        if scored.cells != cells {
            cells = scored.cells;
            let _ = writeln!(
                out,
                "{cells}\n  {:<24} {:>10} {:>14} {:>12} {:>14} {:>12}",
                "rule", "unserved", "of kubernetes'", "paid", "of kubernetes'", "changes/h"
            );
        }
        let _ = writeln!(
            out,
            "  {:<24} {:>8.3} % {:>14} {:>12.3} {:>14} {:>12.1}",
            scored.rule,
            scored.score.unserved * 100.0,
            ratio(scored.unserved_of_kubernetes),
            scored.score.paid,
            ratio(scored.paid_of_kubernetes),
            scored.score.changes_an_hour,
        );
    }
    out
}
