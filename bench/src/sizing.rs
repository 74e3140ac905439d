//! Pool sizing: what the simulator says of it, and the example that tries it on real threads.
//!
//! Both print JSON with their figures; here they become rows. On simulated loads the subjects are ways of sizing, `flyball` the one by offered work
//! and, where work always waits, the adaptive one. A round is a seed.

use crate::campaign::Options;
use crate::cases::Sample;
use crate::machine::{Machine, wait_for_quiet};
use crate::report::{Report, Rounds, Row, rows_of};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// Simulated seconds of a run where work always waits: time for the rare trials of a pool that has settled.
const CLIMB_SECONDS: &str = "14400";
/// Pairs on real threads, seconds to settle at most, and climbs.
const THREADS: [&str; 3] = ["20", "90", "4"];
const THREADS_QUICK: [&str; 3] = ["6", "90", "1"];

#[derive(Deserialize)]
struct Simulated {
    scores: Vec<Scored>,
    climbs: Vec<Climb>,
}

#[derive(Deserialize)]
struct Scored {
    cells: String,
    rule: String,
    score: Score,
    unserved_of_kubernetes: Option<f64>,
    paid_of_kubernetes: Option<f64>,
}

#[derive(Deserialize)]
struct Score {
    unserved: f64,
    paid: f64,
    changes_an_hour: f64,
}

#[derive(Deserialize)]
struct Climb {
    work: String,
    sizing: String,
    best: (u32, f64),
    outcome: Outcome,
    found: f64,
    reached: f64,
}

#[derive(Deserialize)]
struct Outcome {
    threads: u32,
    changes_an_hour: f64,
}

/// What the example says of a kind of work.
#[derive(Deserialize)]
struct OnThreads {
    work: String,
    best_fixed: u32,
    best_tasks_per_s: f64,
    settled: Vec<u32>,
    ratio: f64,
    low: f64,
    high: f64,
    pairs: usize,
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn subject(rule: &str) -> String {
    match rule {
        "offered" => "flyball".to_owned(),
        other => other.replace(", ", "-").replace(' ', "-"),
    }
}

/// Rows of the simulator's report on sizing, a round a seed.
pub fn simulated(program: &Path, options: &Options) -> Result<Vec<Row>> {
    let mut cases: Vec<(String, Rounds)> = Vec::new();
    let mut add = |case: String, subject: &str, sample: Sample| {
        let place = match cases.iter().position(|(name, _)| *name == case) {
            Some(place) => place,
            None => {
                cases.push((case, BTreeMap::new()));
                cases.len() - 1
            }
        };
        let samples = cases[place].1.entry(subject.to_owned()).or_default();
        samples.push(Some(sample));
    };
    for seed in 1..=options.rounds {
        let mut command = Command::new(program);
        command.args(["sizing", "--json", "--seconds", CLIMB_SECONDS]);
        command.args(["--seed", &seed.to_string()]);
        let output = output_of(&mut command)?;
        let report: Simulated =
            serde_json::from_str(&output).context("the simulator's report on sizing")?;
        eprintln!("[round {seed}/{}] flyball-sim sizing", options.rounds);
        for scored in &report.scores {
            let mut sample = Sample::default()
                .with("unserved_percent", scored.score.unserved * 100.0)
                .with("paid_ratio", scored.score.paid)
                .with("changes_per_h", scored.score.changes_an_hour);
            for (metric, value) in [
                ("unserved_of_kubernetes", scored.unserved_of_kubernetes),
                ("paid_of_kubernetes", scored.paid_of_kubernetes),
            ] {
                if let Some(value) = value {
                    sample = sample.with(metric, value);
                }
            }
            let cells = scored.cells.replace([' ', '/'], "-");
            add(format!("load/{cells}"), &subject(&scored.rule), sample);
        }
        for climb in report
            .climbs
            .iter()
            .filter(|climb| climb.sizing == "adaptive")
        {
            let sample = Sample::default()
                .with("size", climb.outcome.threads.into())
                .with("found_of_best", climb.found)
                .with("reached_of_best", climb.reached)
                .with("changes_per_h", climb.outcome.changes_an_hour);
            let case = format!("climb/{}", climb.work);
            add(case.clone(), "flyball", sample);
            let best = Sample::default().with("size", climb.best.0.into());
            add(case, "best-fixed", best);
        }
    }
    Ok(cases
        .iter()
        .flat_map(|(case, rounds)| rows_of(case, rounds))
        .collect())
}

fn row(
    case: &str,
    subject: &str,
    metric: &str,
    unit: &str,
    values: (f64, f64, f64),
    runs: usize,
) -> Row {
    let (median, low, high) = values;
    Row {
        case: case.to_owned(),
        subject: subject.to_owned(),
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        median,
        low,
        high,
        runs,
    }
}

/// Adaptive sizing on real threads against the best fixed size. `adaptive_of_best` is the mean ratio of pairs with its interval of 95%.
pub fn on_threads(program: &Path, options: &Options) -> Result<Report> {
    let mut rows = Vec::new();
    for work in ["computing", "blocking", "mixed"] {
        let case = format!("threads/{work}");
        if options
            .filter
            .as_ref()
            .is_some_and(|part| !case.contains(part))
        {
            continue;
        }
        wait_for_quiet(if options.quick {
            1_000_000_000
        } else {
            20_000_000_000
        });
        let mut command = Command::new(program);
        command.args(if options.quick {
            THREADS_QUICK
        } else {
            THREADS
        });
        command.arg(work);
        let output = output_of(&mut command)?;
        let line = output.lines().next().context("no figures")?;
        let on: OnThreads = serde_json::from_str(line).context("the example's figures")?;
        ensure!(on.work == work, "figures of {} for {work}", on.work);
        let mut settled = on.settled.clone();
        settled.sort_unstable();
        let (Some(&low), Some(&high)) = (settled.first(), settled.last()) else {
            anyhow::bail!("nothing has settled")
        };
        let middle = settled[settled.len() / 2];
        let once = |value: f64| (value, value, value);
        rows.extend([
            row(
                &case,
                "flyball",
                "adaptive_of_best",
                "ratio",
                (on.ratio, on.low, on.high),
                on.pairs,
            ),
            row(
                &case,
                "flyball",
                "adaptive_of_best_at_least",
                "ratio",
                once(on.low),
                1,
            ),
            row(
                &case,
                "flyball",
                "size",
                "workers",
                (middle.into(), low.into(), high.into()),
                settled.len(),
            ),
            row(
                &case,
                "best-fixed",
                "size",
                "workers",
                once(on.best_fixed.into()),
                1,
            ),
            row(
                &case,
                "best-fixed",
                "tasks_per_s",
                "1/s",
                once(on.best_tasks_per_s),
                1,
            ),
        ]);
    }
    ensure!(!rows.is_empty(), "no case matches the filter");
    Ok(Report {
        area: "sizing".to_owned(),
        machine: Machine::look(options.quick, options.rounds),
        rows,
    })
}
