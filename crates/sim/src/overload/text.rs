//! The grid as text.

use std::fmt::Write as _;

use super::limiter::Kind;
use super::report::{Extreme, Grid, Summary};

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
        write_part(out, title, grid.seeds, &rows)?;
    }
    Ok(())
}

fn write_part(
    out: &mut String,
    title: &str,
    seeds: u64,
    rows: &[(String, Summary)],
) -> std::fmt::Result {
    let Some((_, first)) = rows.first() else {
        return Ok(());
    };
    writeln!(
        out,
        "{title}: {}, {seeds} runs each; goodput and p99 against the best fixed limit with the same queue, ± half the 95 % confidence interval over runs\n  {:<18} {:>14} {:>14} {:>7} {:>15} {:>15} {:>7} {:>14} {:>9}  worst cell",
        first.cells,
        "limiter",
        "worst",
        "median",
        "mean",
        "p99",
        "p99@2x",
        "again",
        "refused@0.8",
        "(excess)"
    )?;
    let extreme = |extreme: Option<&Extreme>, unit: &str, factor: f64, digits: usize| {
        let Some(extreme) = extreme else {
            return "-".to_owned();
        };
        let value = extreme.value * factor;
        let half_width = extreme.by_seed.as_ref().and_then(|it| it.half_width);
        match half_width {
            Some(half) => format!("{value:.digits$} ±{:.digits$}{unit}", half * factor),
            None => format!("{value:.digits$}{unit}"),
        }
    };
    for (name, row) in rows {
        writeln!(
            out,
            "  {name:<18} {:>14} {:>14} {:>7.4} {:>15} {:>15} {:>7} {:>14} {:>9}  {}",
            extreme(Some(&row.goodput_worst), "", 1.0, 4),
            row.goodput_median_by_seed.half_width.map_or_else(
                || format!("{:.4}", row.goodput_median),
                |half| format!("{:.4} ±{half:.4}", row.goodput_median)
            ),
            row.goodput_mean,
            extreme(Some(&row.p99_worst), "", 1.0, 2),
            extreme(row.p99_at_2x_worst.as_ref(), "", 1.0, 3),
            extreme(row.converged_worst_s.as_ref(), " s", 1.0, 1),
            extreme(row.refused_at_08_worst.as_ref(), "%", 100.0, 2),
            extreme(row.refused_at_08_excess.as_ref(), "%", 100.0, 2),
            row.goodput_worst.cell,
        )?;
    }
    if let Some(oracle) = &first.oracle_converged_worst_s {
        writeln!(
            out,
            "  the best fixed limit of the whole course takes up to {:.1} s again after a step ({})",
            oracle.value, oracle.cell
        )?;
    }
    Ok(())
}
