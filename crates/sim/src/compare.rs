//! Scenarios in which placement strategies prove themselves, and a table of how each does.
//!
//! Each scenario is a machine or a workload for which some strategies were made: unequal workers, workers that fail fast,
//! keys that are cheaper where they ran before, memory. Workers are outside ones here: what was placed on one is not
//! stolen by others (else placing would matter little), and is moved by rebalancing only if asked for.

use std::fmt::Write as _;

use flyball_policy::sched::place::Strategy;
use serde::Serialize;

use crate::config::{Arrivals, Config, Keys, Memory, Sizes};
use crate::report::{Report, time};
use crate::{Error, Progress, run};

/// A named kind of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Equal workers, task sizes with a heavy tail.
    Equal,
    /// A third of the workers at half the speed.
    Unequal,
    /// One worker of ten fails nine tasks of ten, fast.
    Faulty,
    /// Tasks with keys, four times as dear where their key has not run lately.
    Keyed,
    /// Each tenth task needs 45 % of a worker's memory.
    Memory,
}

impl Scenario {
    /// All scenarios.
    pub const ALL: [Self; 5] = [
        Self::Equal,
        Self::Unequal,
        Self::Faulty,
        Self::Keyed,
        Self::Memory,
    ];

    /// One line about it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Equal => "equal workers, heavy-tailed sizes, load 0.8",
            Self::Unequal => "a third of the workers at half speed, load 0.8",
            Self::Faulty => {
                "a tenth of the workers fails nine tasks of ten in a tenth of the time, load 0.6"
            }
            Self::Keyed => {
                "2,000 keys; three times the work on top where the key is cold, load 0.4"
            }
            Self::Memory => "each tenth task needs 45 % of a worker's memory, load 0.9",
        }
    }

    /// The run of this scenario: workers, tasks, seed and classes from `base`, the rest of the scenario's own.
    pub fn configure(self, base: &Config) -> Config {
        let mut config = Config {
            arrivals: Arrivals::Poisson,
            stealing: false,
            load: 0.8,
            ..base.clone()
        };
        let mean_ns = config.mean_size_ns;
        match self {
            Self::Equal => config.sizes = Sizes::Bimodal,
            Self::Unequal => config.slow_workers = 1.0 / 3.0,
            Self::Faulty => {
                config.faulty_workers = 0.1;
                config.load = 0.6;
            }
            Self::Keyed => {
                config.keys = Some(Keys {
                    count: 2_000,
                    cold_ns: 3 * mean_ns,
                });
                config.load = 0.4;
            }
            Self::Memory => {
                config.memory = Some(Memory {
                    per_worker: 1 << 30,
                    small_task: 16 << 20,
                    large_task: 460 << 20,
                });
                config.load = 0.9;
            }
        }
        config
    }
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The scenario.
    pub scenario: Scenario,
    /// Name of the strategy.
    pub strategy: String,
    /// Its figures.
    pub report: Report,
}

/// Runs every scenario under every strategy of `strategies`.
///
/// # Errors
/// The first run that fails.
pub fn compare(
    base: &Config,
    scenarios: &[Scenario],
    strategies: &[Strategy],
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::with_capacity(scenarios.len() * strategies.len());
    for &scenario in scenarios {
        for &strategy in strategies {
            let config = Config {
                strategy,
                ..scenario.configure(base)
            };
            rows.push(Row {
                scenario,
                strategy: strategy.to_string(),
                report: run(&config, progress)?,
            });
        }
    }
    Ok(rows)
}

/// The rows as text, one table a scenario.
pub fn to_text(rows: &[Row]) -> String {
    let mut out = String::new();
    for same in rows.chunk_by(|a, b| a.scenario == b.scenario) {
        // Writing to a string cannot fail.
        let _ = write_table(&mut out, same);
    }
    out
}

fn write_table(out: &mut String, rows: &[Row]) -> std::fmt::Result {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    writeln!(out, "{}", first.scenario.describe())?;
    writeln!(
        out,
        "  {:<22} {:>9} {:>9} {:>9} {:>13} {:>11} {:>9} {:>9} {:>8}",
        "strategy", "p50", "p99", "p99.9", "load variance", "utilisation", "failed", "cold", "Jain"
    )?;
    for row in rows {
        let report = &row.report;
        let of = |pick: fn(crate::report::Quantiles) -> u64| {
            report
                .latency
                .map_or_else(|| "-".to_owned(), |all| time(pick(all)))
        };
        let failed: u64 = report
            .classes
            .iter()
            .map(|class| class.failed_attempts)
            .sum();
        writeln!(
            out,
            "  {:<22} {:>9} {:>9} {:>9} {:>13.3} {:>9.1} % {:>9} {:>9} {:>8.4}",
            row.strategy,
            of(|all| all.p50),
            of(|all| all.p99),
            of(|all| all.p999),
            report.balance.load_variance,
            report.balance.utilisation * 100.0,
            failed,
            report.balance.cold_starts,
            report.balance.jain,
        )?;
    }
    Ok(())
}
