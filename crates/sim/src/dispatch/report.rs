//! All dispatchers in all scenarios, and how they compare.

use std::fmt::Write as _;

use flyball_policy::sched::place::Strategy;
use serde::Serialize;

use super::peers::Peer;
use super::queues::{ideal, pushed};
use super::{Error, Estimate, Scenario, Size};
use crate::config::Config;
use crate::engine::run_with_latencies;

/// Strategies of flyball that are compared: late binding, and those that place on unequal workers.
const STRATEGIES: [Strategy; 4] = [
    Strategy::Pull,
    Strategy::Weighted,
    Strategy::Adaptive,
    Strategy::PowerOfTwo,
];

/// A dispatcher in a scenario, over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name: `flyball/` and a strategy, `ideal`, or a peer.
    pub name: String,
    /// From arrival to the end, ms: half are not above it.
    pub p50_ms: Estimate,
    /// 99 of 100 are not above it.
    pub p99_ms: Estimate,
    /// 999 of 1,000 are not above it.
    pub p999_ms: Estimate,
    /// p99 against that of the ideal central queue with the same seed.
    pub p99_of_ideal: Estimate,
    /// p99 against that of two choices by peak EWMA with the same seed.
    pub p99_of_peak_ewma: Estimate,
}

/// A scenario under all dispatchers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScenarioReport {
    /// Which.
    pub scenario: Scenario,
    /// flyball's first, then the ideal queue, then peers.
    pub rows: Vec<Row>,
}

/// The comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dispatch {
    /// How much was simulated.
    pub size: Size,
    /// By scenario.
    pub scenarios: Vec<ScenarioReport>,
}

/// Quantiles of a run, ms.
#[derive(Clone, Copy)]
struct Quantiles {
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Quantiles {
    fn of(mut latencies: Vec<u64>) -> Self {
        latencies.sort_unstable();
        let at = |per_mille: usize| {
            let index = latencies.len() * per_mille / 1_000;
            latencies.get(index).map_or(0.0, |&ns| ns as f64 / 1e6)
        };
        Self {
            p50: at(500),
            p99: at(990),
            p999: at(999),
        }
    }
}

/// Who dispatches.
enum Subject {
    Flyball(Strategy),
    Ideal,
    Peer(Peer),
}

impl Subject {
    fn all() -> Vec<Self> {
        let peers = Peer::ALL.into_iter().map(Self::Peer);
        STRATEGIES
            .into_iter()
            .map(Self::Flyball)
            .chain([Self::Ideal])
            .chain(peers)
            .collect()
    }

    fn name(&self) -> String {
        match self {
            Self::Flyball(strategy) => format!("flyball/{strategy}"),
            Self::Ideal => "ideal".to_owned(),
            Self::Peer(peer) => peer.to_string(),
        }
    }

    fn run(&self, config: &Config) -> Result<Quantiles, Error> {
        let latencies = match self {
            Self::Flyball(strategy) => run_with_latencies(&Config {
                strategy: *strategy,
                ..config.clone()
            })?,
            Self::Ideal => ideal(config),
            Self::Peer(peer) => pushed(config, *peer),
        };
        Ok(Quantiles::of(latencies))
    }
}

/// Runs every dispatcher in every scenario, calling `progress` with runs done and all runs.
///
/// # Errors
/// [`Error::OutOfRange`] for a size that cannot be simulated; [`Error::Broken`] when a promise of the policies does not hold.
pub fn dispatch(size: Size, progress: &mut dyn FnMut(usize, usize)) -> Result<Dispatch, Error> {
    let subjects = Subject::all();
    let total = Scenario::ALL.len() * subjects.len() * size.seeds as usize;
    let mut done = 0;
    let mut scenarios = Vec::with_capacity(Scenario::ALL.len());
    for scenario in Scenario::ALL {
        let mut runs = Vec::with_capacity(subjects.len());
        for subject in &subjects {
            let mut of_seeds = Vec::with_capacity(size.seeds as usize);
            for seed in 1..=size.seeds {
                progress(done, total);
                of_seeds.push(subject.run(&scenario.configure(&size, seed)?)?);
                done += 1;
            }
            runs.push((subject.name(), of_seeds));
        }
        scenarios.push(ScenarioReport {
            scenario,
            rows: rows(&runs),
        });
    }
    Ok(Dispatch { size, scenarios })
}

fn rows(runs: &[(String, Vec<Quantiles>)]) -> Vec<Row> {
    let named = |name: &str| {
        let found = runs.iter().find(|(other, _)| other == name);
        found.map_or(&[][..], |(_, runs)| runs.as_slice())
    };
    let (ideal, peak_ewma) = (named("ideal"), named(Peer::TwoByPeakEwma.name()));
    let estimate = |runs: &[Quantiles], pick: fn(&Quantiles) -> f64| {
        Estimate::of(&runs.iter().map(pick).collect::<Vec<_>>())
    };
    let against = |runs: &[Quantiles], others: &[Quantiles]| {
        let ratios = runs.iter().zip(others);
        let ratios = ratios.map(|(run, other)| run.p99 / other.p99.max(1e-6));
        Estimate::of(&ratios.collect::<Vec<_>>())
    };
    runs.iter()
        .map(|(name, runs)| Row {
            name: name.clone(),
            p50_ms: estimate(runs, |run| run.p50),
            p99_ms: estimate(runs, |run| run.p99),
            p999_ms: estimate(runs, |run| run.p999),
            p99_of_ideal: against(runs, ideal),
            p99_of_peak_ewma: against(runs, peak_ewma),
        })
        .collect()
}

/// The comparison as text, a table a scenario.
pub fn to_text(report: &Dispatch) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, report);
    out
}

fn write_text(out: &mut String, report: &Dispatch) -> std::fmt::Result {
    let Size {
        workers,
        tasks,
        seeds,
    } = report.size;
    writeln!(
        out,
        "{workers} workers, {tasks} tasks, {seeds} runs each; means with 95 % confidence intervals; p99 against others with the same seed"
    )?;
    for scenario in &report.scenarios {
        writeln!(
            out,
            "{}: {}",
            scenario.scenario.name(),
            scenario.scenario.describe()
        )?;
        writeln!(
            out,
            "  {:<22} {:>14} {:>16} {:>17} {:>16} {:>14}",
            "dispatcher", "p50 ms", "p99 ms", "p99.9 ms", "of ideal", "of peak EWMA"
        )?;
        for row in &scenario.rows {
            writeln!(
                out,
                "  {:<22} {:>14.1} {:>16.1} {:>17.1} {:>16.3} {:>14.3}",
                row.name,
                row.p50_ms,
                row.p99_ms,
                row.p999_ms,
                row.p99_of_ideal,
                row.p99_of_peak_ewma,
            )?;
        }
    }
    Ok(())
}
