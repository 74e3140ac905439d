//! The area `sim`: how fast the simulator is, and what flyball's policies come to in it beside those of others.
//!
//! Only the first is a measurement. The others are figures of simulated time: the same on every machine, a round of theirs is a seed.

use crate::campaign::Options;
use crate::cases::Sample;
use crate::machine::{Machine, wait_for_quiet};
use crate::programs::seconds_of;
use crate::report::{Report, Rounds, Row, rows_of};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `flyball-sim` calls flyball's own, by case; in reports these are flyball.
const OWN: [&str; 2] = ["flyball/pull", "run_delay"];

/// Figures of a limiter over cells: metric, its path in the summary, and the path of its values by seed.
const OF_LIMITERS: [(&str, &[&str], &[&str]); 7] = [
    (
        "goodput_worst",
        &["goodput_worst", "value"],
        &["goodput_worst", "by_seed", "values"],
    ),
    (
        "goodput_median",
        &["goodput_median"],
        &["goodput_median_by_seed", "values"],
    ),
    (
        "p99_ratio_worst",
        &["p99_worst", "value"],
        &["p99_worst", "by_seed", "values"],
    ),
    (
        "p99_ratio_at_2x",
        &["p99_at_2x_worst", "value"],
        &["p99_at_2x_worst", "by_seed", "values"],
    ),
    ("converged_s", &["converged_worst_s", "value"], &[]),
    (
        "refused_at_0.8x",
        &["refused_at_08_worst", "value"],
        &["refused_at_08_worst", "by_seed", "values"],
    ),
    (
        "refused_at_0.8x_excess",
        &["refused_at_08_excess", "value"],
        &[],
    ),
];

/// All cases that the filter lets through.
pub fn sim(program: &Path, options: &Options) -> Result<Report> {
    let wanted = |case: &str| {
        let part = options.filter.as_ref();
        part.is_none_or(|part| case.contains(part))
    };
    let mut rows = Vec::new();
    let tasks: u64 = if options.quick { 1_000_000 } else { 10_000_000 };
    let case = format!("sim/1000-workers/{}M-tasks", tasks / 1_000_000);
    if wanted(&case) {
        rows.extend(rows_of(&case, &speed(program, tasks, options)?));
    }
    if wanted("dispatch/") {
        rows.extend(dispatch(program, options)?);
    }
    if wanted("limits/") {
        rows.extend(overload(program, options)?);
    }
    if wanted("load/") || wanted("climb/") {
        rows.extend(crate::sizing::simulated(program, options)?);
    }
    ensure!(!rows.is_empty(), "no case matches the filter");
    Ok(Report {
        area: "sim".to_owned(),
        machine: Machine::look(options.quick, options.rounds),
        rows,
    })
}

/// Tasks a second on 1,000 workers.
fn speed(program: &Path, tasks: u64, options: &Options) -> Result<Rounds> {
    let mut rounds = Rounds::new();
    for round in 0..options.rounds {
        wait_for_quiet(if options.quick {
            1_000_000_000
        } else {
            20_000_000_000
        });
        let mut command = Command::new(program);
        command.args(["--workers", "1000", "--seed", "1"]);
        command.args(["--tasks", &tasks.to_string()]);
        let rate = tasks as f64 / seconds_of(&mut command, b"")?;
        eprintln!(
            "[round {}/{}] flyball-sim: {rate:.0} tasks a second",
            round + 1,
            options.rounds
        );
        let sample = Sample::default().with("tasks_per_s", rate);
        rounds
            .entry("flyball".to_owned())
            .or_default()
            .push(Some(sample));
    }
    Ok(rounds)
}

/// Runs the simulator and reads what it says.
fn says(program: &Path, arguments: &[&str]) -> Result<Value> {
    eprintln!("flyball-sim {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .arg("--json")
        .stderr(Stdio::inherit())
        .output()
        .context("starting the simulator")?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("reading the simulator's report")
}

fn at<'v>(value: &'v Value, path: &[&str]) -> &'v Value {
    path.iter().fold(value, |value, name| &value[*name])
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().map(Vec::as_slice).unwrap_or_default();
    values.iter().filter_map(Value::as_f64).collect()
}

fn subject(name: &str) -> String {
    if OWN.contains(&name) {
        "flyball".to_owned()
    } else {
        name.to_owned()
    }
}

/// Latency of tasks on 1,000 unequal workers, a round a seed.
fn dispatch(program: &Path, options: &Options) -> Result<Vec<Row>> {
    let (tasks, seeds) = if options.quick {
        ("100000", "2")
    } else {
        ("500000", "5")
    };
    let report = says(program, &["dispatch", "--tasks", tasks, "--seeds", seeds])?;
    let mut rows = Vec::new();
    for scenario in report["scenarios"].as_array().context("scenarios")? {
        let name = scenario["scenario"].as_str().context("a scenario's name")?;
        let mut rounds = Rounds::new();
        for row in scenario["rows"].as_array().context("rows")? {
            let metrics = ["p50_ms", "p99_ms", "p999_ms"];
            let values = metrics.map(|metric| numbers(&row[metric]["values"]));
            let samples = (0..values[0].len()).map(|seed| {
                let pairs = metrics.iter().zip(&values);
                Some(pairs.fold(Sample::default(), |sample, (metric, values)| {
                    sample.with(metric, values.get(seed).copied().unwrap_or(f64::NAN))
                }))
            });
            let who = row["name"].as_str().context("a dispatcher's name")?;
            rounds.insert(subject(who), samples.collect());
        }
        rows.extend(rows_of(&format!("dispatch/{name}"), &rounds));
    }
    Ok(rows)
}

/// Limits on overloaded services against the best fixed limit.
fn overload(program: &Path, options: &Options) -> Result<Vec<Row>> {
    let (arguments, parts): (&[&str], &[(usize, &str)]) = if options.quick {
        let known = ["overload", "--cells", "known"];
        (
            &[
                known[0],
                known[1],
                known[2],
                "--limiters",
                "run_delay,envoy",
            ],
            &[(1, "known")],
        )
    } else {
        (
            &["overload", "--seeds", "5"],
            &[(0, "all"), (2, "held-out")],
        )
    };
    let report = says(program, arguments)?;
    let summaries = report["summaries"].as_object().context("summaries")?;
    let mut rows = Vec::new();
    for &(part, name) in parts {
        for (limiter, halves) in summaries {
            for (metric, path, by_seed) in OF_LIMITERS {
                let summary = &halves[part];
                let Some(median) = at(summary, path).as_f64() else {
                    continue;
                };
                // The figure is that of all seeds together; how far single ones are from it is the range.
                let values = match by_seed {
                    [] => vec![median],
                    path => numbers(at(summary, path)),
                };
                rows.push(Row {
                    case: format!("limits/{name}"),
                    subject: subject(limiter),
                    metric: metric.to_owned(),
                    unit: String::new(),
                    median,
                    low: values.iter().copied().fold(median, f64::min),
                    high: values.iter().copied().fold(median, f64::max),
                    runs: values.len(),
                });
            }
        }
    }
    Ok(rows)
}
