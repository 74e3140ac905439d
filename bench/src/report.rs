//! Rows, ratios and goals: from samples to JSON, a table for people, and the section of docs/benchmarks.md.
//!
//! A row is a figure of one subject in one case over all rounds. A row whose metric reads "… vs tokio" is a ratio, paired
//! round by round, turned so that above 1 flyball is better.

use crate::cases::Sample;
use crate::goals::{Goal, Verdict};
use crate::machine::Machine;
use crate::stats::median;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub case: String,
    pub subject: String,
    pub metric: String,
    pub unit: String,
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub runs: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub area: String,
    pub machine: Machine,
    pub rows: Vec<Row>,
}

/// Areas whose load comes from generators at real-time priority, where the process may; the others have none, or theirs share the CPUs.
const INSTRUMENTED: [&str; 3] = ["executor", "overload", "sense"];

/// The metrics that tables show: (name, unit, whether less is better). Ratios are made of these.
const METRICS: &[(&str, &str, bool)] = &[
    ("ns_per_task", "ns", true),
    ("ns_per_round_trip", "ns", true),
    ("ns_per_yield", "ns", true),
    ("wakeups_per_s", "1/s", false),
    ("late_p50_us", "us", true),
    ("late_p99_us", "us", true),
    ("rtt_p50_us", "us", true),
    ("rtt_p99_us", "us", true),
    ("p50_us", "us", true),
    ("p99_us", "us", true),
    ("p999_us", "us", true),
    ("backlog_of_left", "share", false),
    ("bytes_beyond_captures", "bytes", true),
    ("commands_per_s", "1/s", false),
    ("enqueues_per_s", "1/s", false),
    ("cycles_per_s", "1/s", false),
    ("us_per_sample", "us", true),
    ("p50_ms", "ms", true),
    ("p99_ms", "ms", true),
    ("p999_ms", "ms", true),
    ("goodput_per_s", "1/s", false),
    ("accepted_p99_ms", "ms", true),
    ("urgent_p99_ms", "ms", true),
    ("ns_per_admission", "ns", true),
];

/// Metrics without a ratio: (name, unit).
const OTHERS: &[(&str, &str)] = &[
    ("ratio_to_single", "ratio"),
    ("ns_per_task_single", "ns"),
    ("worst_error_points", "points"),
    ("worst_error_points_of_machine", "points"),
    ("jain", "index"),
    ("received_cores", "cores"),
    ("idle_ticks", "ticks"),
    ("idle_cpu_us", "us"),
    ("tasks_per_s", "1/s"),
    ("cpu_ns_per_task", "ns"),
    ("round_trips_per_s", "1/s"),
    ("max_us", "us"),
    ("starved", "tasks"),
    ("generator_lag_p99_us", "us"),
    ("foreign_share", "share"),
    ("allocations_per_sample", "count"),
    ("cpu_percent", "% of a core"),
    ("resident_mb", "MB"),
    ("proportional_mb", "MB"),
    ("threads", "count"),
    ("switches_per_s", "1/s"),
    ("ready_ms", "ms"),
    ("ready_min_ms", "ms"),
    ("ready_max_ms", "ms"),
    ("end_ms", "ms"),
    ("end_max_ms", "ms"),
    ("unanswered", "requests"),
    ("generator_cores", "cores"),
    ("server_cores", "cores"),
    ("grown_ratio", "ratio"),
    ("grown_cpu_ratio", "ratio"),
    ("us_per_add_empty", "us"),
    ("us_per_add_queued", "us"),
    ("memory_bytes_per_task", "bytes"),
    ("memory_bytes_per_task_reopened", "bytes"),
    ("disk_bytes_per_task", "bytes"),
    ("ready_after_kill_ms", "ms"),
    ("unserved_percent", "%"),
    ("paid_ratio", "worker-s per worker-s of work"),
    ("unserved_of_kubernetes", "ratio"),
    ("paid_of_kubernetes", "ratio"),
    ("found_of_best", "ratio"),
    ("reached_of_best", "ratio"),
    ("adaptive_of_best", "ratio"),
    ("adaptive_of_best_at_least", "ratio"),
    ("size", "workers"),
    ("changes_per_h", "1/h"),
    ("goodput_worst", "of the best fixed limit's, worst cell"),
    ("goodput_median", "of the best fixed limit's, median cell"),
    ("p99_ratio_worst", "of the best fixed limit's, worst cell"),
    ("p99_ratio_at_2x", "of the best fixed limit's, worst cell"),
    ("converged_s", "s, worst cell"),
    ("refused_at_0.8x", "share, worst cell"),
    (
        "refused_at_0.8x_excess",
        "share beyond the best fixed limit's, worst cell",
    ),
    ("limit", "calls"),
    ("accepted_p50_ms", "ms"),
    ("refused_share", "share"),
    ("late_share", "share"),
    ("idle_p50_ms", "ms"),
    ("idle_p99_ms", "ms"),
    ("goodput_of_capacity", "ratio"),
    ("urgent_goodput_per_s", "1/s"),
    ("urgent_p50_ms", "ms"),
    ("urgent_refused_share", "share"),
    ("p99_of_bound", "ratio"),
    ("ns_sampled", "ns"),
    ("connections", "count"),
    ("unsent", "requests"),
];

/// Of these the JSON has rows, the tables do not.
const JSON_ONLY: &[&str] = &[
    "cpu_ns_per_task",
    "max_us",
    "starved",
    "generator_lag_p99_us",
    "foreign_share",
    "round_trips_per_s",
    "adaptive_of_best_at_least",
    "connections",
    "unsent",
];

fn unit_of(metric: &str) -> &'static str {
    let ratios = METRICS.iter().map(|&(name, unit, _)| (name, unit));
    ratios
        .chain(OTHERS.iter().copied())
        .find(|(name, _)| *name == metric)
        .map_or("", |(_, unit)| unit)
}

/// Samples of a case by subject, one a round; `None` where a round gave none.
pub type Rounds = BTreeMap<String, Vec<Option<Sample>>>;

fn row(case: &str, subject: &str, metric: &str, unit: &str, values: &[f64]) -> Option<Row> {
    let values: Vec<f64> = values
        .iter()
        .copied()
        .filter(|value| value.is_finite())
        .collect();
    (!values.is_empty()).then(|| Row {
        case: case.to_owned(),
        subject: subject.to_owned(),
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        median: median(&values),
        low: values.iter().copied().fold(f64::INFINITY, f64::min),
        high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        runs: values.len(),
    })
}

fn value(sample: &Option<Sample>, metric: &str) -> Option<f64> {
    sample
        .as_ref()
        .and_then(|sample| sample.metrics.get(metric).copied())
}

/// All rows of a case.
pub fn rows_of(case: &str, rounds: &Rounds) -> Vec<Row> {
    let mut rows = Vec::new();
    for (subject, samples) in rounds {
        let mut metrics: Vec<&String> = samples
            .iter()
            .flatten()
            .flat_map(|sample| sample.metrics.keys())
            .collect();
        metrics.sort();
        metrics.dedup();
        for metric in metrics {
            let values: Vec<f64> = samples
                .iter()
                .filter_map(|sample| value(sample, metric))
                .collect();
            rows.extend(row(case, subject, metric, unit_of(metric), &values));
        }
        let foreign: Vec<f64> = samples
            .iter()
            .flatten()
            .filter_map(|sample| sample.foreign_share)
            .collect();
        rows.extend(row(case, subject, "foreign_share", "share", &foreign));
    }
    let Some(own) = rounds.get("flyball") else {
        return rows;
    };
    for (peer, theirs) in rounds.iter().filter(|(name, _)| *name != "flyball") {
        for &(metric, _, less_is_better) in METRICS {
            let ratio = |(own, their): (&Option<Sample>, &Option<Sample>)| {
                let (own, their) = (value(own, metric)?, value(their, metric)?);
                Some(if less_is_better {
                    their / own
                } else {
                    own / their
                })
            };
            let ratios: Vec<f64> = own.iter().zip(theirs).filter_map(ratio).collect();
            rows.extend(row(
                case,
                "flyball",
                &format!("{metric} vs {peer}"),
                "x",
                &ratios,
            ));
        }
    }
    rows
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 10_000.0 => {
            let digits = format!("{:.0}", value.abs());
            let mut grouped = String::new();
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place) % 3 == 0 {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            if value < 0.0 {
                format!("-{grouped}")
            } else {
                grouped
            }
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 => format!("{value:.3}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        _ => format!("{value:.1e}"),
    }
}

fn cell(row: &Row) -> String {
    if row.runs == 1 {
        return number(row.median);
    }
    format!(
        "{} ({}–{})",
        number(row.median),
        number(row.low),
        number(row.high)
    )
}

/// flyball first, then the peers as the JSON has them.
fn subjects_of(rows: &[&Row]) -> Vec<String> {
    let mut subjects: Vec<String> = Vec::new();
    // Of the fixed limits that were tried, tables show the best, which is the oracle.
    for row in rows.iter().filter(|row| !row.subject.starts_with("fixed")) {
        if !subjects.contains(&row.subject) {
            subjects.push(row.subject.clone());
        }
    }
    subjects.sort_by_key(|subject| subject != "flyball");
    subjects
}

struct Table {
    title: String,
    head: Vec<String>,
    lines: Vec<Vec<String>>,
}

impl Report {
    fn find(&self, case: &str, subject: &str, metric: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.case == case && row.subject == subject && row.metric == metric)
    }

    fn group_names(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for row in &self.rows {
            let group = row.case.split('/').next().unwrap_or_default();
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    /// A table for each group of cases and metric: a line a case, a column a subject.
    fn tables(&self) -> Vec<Table> {
        let mut tables = Vec::new();
        let shown = METRICS
            .iter()
            .map(|&(name, unit, _)| (name, unit))
            .chain(OTHERS.iter().copied());
        let shown: Vec<(&str, &str)> = shown
            .filter(|(name, _)| !JSON_ONLY.contains(name))
            .collect();
        for group in self.group_names() {
            for (metric, unit) in &shown {
                let of_group =
                    |row: &&Row| row.metric == *metric && row.case.split('/').next() == Some(group);
                let rows: Vec<&Row> = self.rows.iter().filter(of_group).collect();
                if rows.is_empty() {
                    continue;
                }
                let subjects = subjects_of(&rows);
                let mut cases: Vec<&str> = rows.iter().map(|row| row.case.as_str()).collect();
                cases.dedup();
                let line = |case: &str| {
                    let cells = subjects.iter().map(|subject| {
                        self.find(case, subject, metric)
                            .map_or_else(|| "–".to_owned(), cell)
                    });
                    std::iter::once(case.to_owned()).chain(cells).collect()
                };
                tables.push(Table {
                    title: format!("{group}: {metric} ({unit})"),
                    head: std::iter::once("case".to_owned())
                        .chain(subjects.iter().cloned())
                        .collect(),
                    lines: cases.iter().map(|case| line(case)).collect(),
                });
            }
        }
        if let Some(goals) = self.goals() {
            tables.push(goals);
        }
        tables
    }

    /// Every goal that has a row, with its verdict.
    fn goals(&self) -> Option<Table> {
        let mut lines = Vec::new();
        for goal in crate::goals::of_area(&self.area) {
            let matching = self.rows.iter().filter(|row| goal.concerns(row));
            lines.extend(matching.map(|row| goal_line(goal, row)));
        }
        (!lines.is_empty()).then(|| Table {
            title: "Goals".to_owned(),
            head: ["case", "metric", "median (range)", "floor", "aim", ""]
                .map(str::to_owned)
                .to_vec(),
            lines,
        })
    }

    /// (floors reached, floors measured)
    pub fn score(&self) -> (usize, usize) {
        let judged = crate::goals::of_area(&self.area)
            .filter(|goal| goal.floor.is_some())
            .flat_map(|goal| {
                self.rows
                    .iter()
                    .filter(|row| goal.concerns(row))
                    .map(|row| goal.judge(row))
            });
        judged.fold((0, 0), |(reached, measured), verdict| {
            (
                reached + usize::from(matches!(verdict, Verdict::Aim | Verdict::Floor)),
                measured + 1,
            )
        })
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for table in self.tables() {
            let widths: Vec<usize> = (0..table.head.len())
                .map(|column| {
                    let cells = table.lines.iter().map(|line| line[column].chars().count());
                    cells
                        .chain([table.head[column].chars().count()])
                        .max()
                        .unwrap_or(0)
                })
                .collect();
            let _ = writeln!(out, "\n{}", table.title);
            for line in std::iter::once(&table.head).chain(&table.lines) {
                let cells: Vec<String> = line
                    .iter()
                    .zip(&widths)
                    .map(|(cell, &width)| format!("{cell:width$}"))
                    .collect();
                let _ = writeln!(out, "  {}", cells.join("  ").trim_end());
            }
        }
        let (reached, measured) = self.score();
        if measured > 0 {
            let _ = writeln!(
                out,
                "\n{reached} of {measured} floors reached; above 1, a ratio \"vs\" a peer favours flyball"
            );
        }
        out
    }

    /// The section of docs/benchmarks.md.
    pub fn markdown(&self) -> String {
        let machine = &self.machine;
        let mut out = String::new();
        let _ = writeln!(out, "## {}\n", self.area);
        let quick = if machine.quick { " --quick" } else { "" };
        let foreign = machine.foreign_share_max.map_or_else(String::new, |share| {
            format!(
                " Other processes used at most {:.1}% of the machine during a sample.",
                100.0 * share
            )
        });
        let generators = match (
            INSTRUMENTED.contains(&self.area.as_str()),
            machine.instrument_realtime,
        ) {
            (false, _) => "",
            (true, true) => " The load generators ran at real-time priority.",
            (true, false) => " The load generators ran without real-time priority.",
        };
        let _ = writeln!(
            out,
            "`cargo xtask bench {}{quick}` on {}, commit {}: {}, {} CPUs, {} GiB, {}, {}; {} rounds, peers interleaved.{foreign}{generators}\n",
            self.area,
            machine.date,
            machine.commit,
            machine.cpu,
            machine.cpus,
            machine.memory_bytes >> 30,
            machine.kernel,
            machine.rustc,
            machine.rounds,
        );
        let (reached, measured) = self.score();
        if measured > 0 {
            let _ = writeln!(out, "{reached} of {measured} floors reached.\n");
        }
        let tables = self.tables();
        let (goals, figures): (Vec<&Table>, Vec<&Table>) =
            tables.iter().partition(|table| table.title == "Goals");
        for table in goals.into_iter().chain(figures) {
            let _ = writeln!(out, "### {}\n", table.title);
            let _ = writeln!(out, "| {} |", table.head.join(" | "));
            let _ = writeln!(out, "|{}", "---|".repeat(table.head.len()));
            for line in &table.lines {
                let _ = writeln!(out, "| {} |", line.join(" | "));
            }
            out.push('\n');
        }
        out
    }
}

fn goal_line(goal: &Goal, row: &Row) -> Vec<String> {
    let sign = if goal.at_least { "≥" } else { "≤" };
    let bound = |value: Option<f64>| {
        value.map_or_else(
            || "–".to_owned(),
            |value| format!("{sign}{}", number(value)),
        )
    };
    let mark = match goal.judge(row) {
        Verdict::Aim => "✓ aim",
        Verdict::AimMissed => "aim missed",
        Verdict::Floor => "✓",
        Verdict::WithinRange => "✗ (range spans it)",
        Verdict::Missed => "✗",
    };
    vec![
        row.case.clone(),
        row.metric.clone(),
        cell(row),
        bound(goal.floor),
        bound(goal.aim),
        mark.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ns: f64) -> Option<Sample> {
        Some(Sample::default().with("ns_per_task", ns))
    }

    #[test]
    fn ratios_are_paired_by_round_and_favour_flyball_above_one() {
        let rounds = Rounds::from([
            (
                "flyball".to_owned(),
                vec![sample(100.0), sample(200.0), None],
            ),
            (
                "tokio".to_owned(),
                vec![sample(300.0), sample(400.0), sample(1.0)],
            ),
        ]);
        let rows = rows_of("closure/empty/outside", &rounds);
        let ratio = rows
            .iter()
            .find(|row| row.metric == "ns_per_task vs tokio")
            .unwrap();
        assert_eq!(
            (ratio.low, ratio.median, ratio.high, ratio.runs),
            (2.0, 2.5, 3.0, 2)
        );
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(number(1_054_535.2), "1,054,535");
        assert_eq!(number(310.4), "310");
        assert_eq!(number(2.5), "2.5");
        assert_eq!(number(0.0), "0");
        assert_eq!(number(0.000_012), "1.2e-5");
    }
}
