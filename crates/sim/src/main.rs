//! The command `flyball-sim`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use flyball_core::class::ClassSpec;
use flyball_core::time::{Source, Timestamp};
use flyball_core::units::parse_duration;
use flyball_policy::sched::Algorithm;
use flyball_policy::sched::place::Strategy;
use flyball_sim::compare::{self, Scenario};
use flyball_sim::config::{Arrivals, Config, Keys, Sizes, Switch, SwitchTo};
use flyball_sim::dispatch::{self, Size};
use flyball_sim::overload::{self, Cell, Kind};
use flyball_sim::pairs::{self, Scene};
use flyball_sim::{Error, Progress, Report, run, sizing};

/// Runs flyball's scheduling policies on simulated workers.
///
/// One seed is one run: the output is the same, byte for byte, each time. Rates and the progress bar go to standard error.
#[derive(Parser)]
#[command(
    name = "flyball-sim",
    version,
    after_help = "Examples:
  flyball-sim
  flyball-sim --algorithm all --tasks 1000000
  flyball-sim --classes 8 --arrivals backlog --sizes fixed
  flyball-sim --strategy all --workers 24 --tasks 300000
  flyball-sim overload --cells io8
  flyball-sim sizing
  flyball-sim pairs
  flyball-sim dispatch",
    args_conflicts_with_subcommands = true
)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Simulated workers
    #[arg(long, default_value_t = 1_000)]
    workers: u32,
    /// Tasks that arrive
    #[arg(long, default_value_t = 10_000_000)]
    tasks: u64,
    /// Seed of all randomness
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// round_robin, priority, cfs, proportional_share, or all
    #[arg(long, default_value = "cfs")]
    algorithm: String,
    /// pull, round_robin, …; "all" prints a table of all strategies on machines and workloads made for them
    #[arg(long, default_value = "pull")]
    strategy: String,
    /// "builtin", or a number of equal classes
    #[arg(long, default_value = "builtin")]
    classes: String,
    /// Work that arrives against what the workers can do
    #[arg(long, default_value_t = 1.1)]
    load: f64,
    /// poisson, uniform, burst, or backlog (each class always has tasks queued)
    #[arg(long, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// fixed, exp, bimodal or pareto
    #[arg(long, default_value_t = Sizes::Exp)]
    sizes: Sizes,
    /// Mean work of a task
    #[arg(long, default_value = "1ms")]
    mean_size: String,
    /// Part of the workers at half speed
    #[arg(long, default_value_t = 0.0)]
    slow_workers: f64,
    /// Part of the tasks that are futures with four polls
    #[arg(long, default_value_t = 0.0)]
    futures: f64,
    /// Part of the tasks with a priority of their own
    #[arg(long, default_value_t = 0.0)]
    prioritised: f64,
    /// Number of keys that tasks have
    #[arg(long)]
    keys: Option<u32>,
    /// Extra work of a task whose key is cold
    #[arg(long, default_value = "1ms", requires = "keys")]
    cold: String,
    /// Workers never take what was placed on others
    #[arg(long)]
    no_stealing: bool,
    /// Move placed tasks when the variance of the workers' queues is above this
    #[arg(long)]
    rebalance_above: Option<f64>,
    /// Change the algorithm or strategy after so many tasks, such as 500000=priority; repeatable
    #[arg(long, value_name = "TASKS=NAME")]
    switch: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Runs limits and admission on overloaded services, against the best fixed limit and limiters of others
    Overload(Overload),
    /// Pool sizing: by offered work against the rule of the Kubernetes autoscaler, and adaptive sizing against each fixed size
    Sizing(Sizing),
    /// Two controllers at once: a gate, a throttle and a pool that sizes itself, by twos
    Pairs(Pairs),
    /// Gives tasks to unequal workers, against an ideal central queue and dispatchers of others
    Dispatch(Dispatch),
}

#[derive(Args)]
#[command(after_help = "Examples:
  flyball-sim dispatch
  flyball-sim dispatch --workers 100 --tasks 50000 --seeds 10")]
struct Dispatch {
    /// Simulated workers, a fifth of them at half speed
    #[arg(long, default_value_t = 1_000)]
    workers: u32,
    /// Tasks of each run
    #[arg(long, default_value_t = 500_000)]
    tasks: u64,
    /// Runs of each dispatcher, each with a seed of its own, 1 to 100
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Dispatch {
    fn run(&self) -> Result<()> {
        let size = Size {
            workers: self.workers,
            tasks: self.tasks,
            seeds: self.seeds,
        };
        let mut display = Display::new();
        let report = dispatch::dispatch(size, &mut |done, total| {
            display.count(done, total, "runs");
        })?;
        display.clear();
        let output = if self.json {
            serde_json::to_string_pretty(&report)? + "\n"
        } else {
            dispatch::to_text(&report)
        };
        std::io::stdout().lock().write_all(output.as_bytes())?;
        Ok(())
    }
}

#[derive(Args)]
#[command(after_help = "Examples:
  flyball-sim overload
  flyball-sim overload --cells steady-2x --limiters run_delay,envoy --each
  flyball-sim overload --cells held-out --seeds 3
  flyball-sim overload --cells interactive --limiters run_delay")]
struct Overload {
    /// Cells whose name contains this, such as io8, steady-2x or interactive; "held-out" and "known" are halves of all; repeatable
    #[arg(long, value_name = "PART")]
    cells: Vec<String>,
    /// Limiters, separated by commas; all unless given
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    limiters: Vec<Kind>,
    /// Runs of each cell and limiter, each with a seed of its own, 1 to 100
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Print each cell too
    #[arg(long)]
    each: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Overload {
    fn run(&self) -> Result<()> {
        let wanted = |cell: &Cell| {
            let half = if cell.held_out { "held-out" } else { "known" };
            let name = cell.name();
            self.cells.is_empty()
                || self
                    .cells
                    .iter()
                    .any(|part| part == half || name.contains(part.as_str()))
        };
        let cells: Vec<Cell> = Cell::all().into_iter().filter(wanted).collect();
        let with_classes: Vec<Cell> = Cell::with_classes().into_iter().filter(wanted).collect();
        anyhow::ensure!(
            !(cells.is_empty() && with_classes.is_empty()),
            "no cell has such a name"
        );
        let kinds = if self.limiters.is_empty() {
            Kind::ALL.to_vec()
        } else {
            self.limiters.clone()
        };
        let mut display = Display::new();
        let mut count = |progress: overload::Progress| {
            display.count(progress.done, progress.total, "cells");
        };
        let grid = overload::grid(&cells, &kinds, self.seeds, &mut count)?;
        let classes = overload::classes(&with_classes, &kinds, self.seeds, &mut count)?;
        display.clear();
        let output = if self.json {
            let mut all = serde_json::to_value(&grid)?;
            all["classes"] = serde_json::to_value(&classes)?;
            serde_json::to_string_pretty(&all)? + "\n"
        } else {
            overload::to_text(&grid, &kinds, self.each)
                + &overload::classes_to_text(&classes, &kinds)
        };
        std::io::stdout().lock().write_all(output.as_bytes())?;
        Ok(())
    }
}

#[derive(Args)]
struct Sizing {
    /// Seed of all randomness
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated seconds of each run of adaptive sizing
    #[arg(long, default_value_t = 1_800.0)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Sizing {
    fn run(&self) -> Result<()> {
        let rows = sizing::grid::run(&sizing::grid::cells(), self.seed)?;
        let climbs = sizing::climb::compare(self.seconds, self.seed)?;
        let output = if self.json {
            let both = serde_json::json!({ "scores": sizing::grid::scores(&rows), "grid": rows, "climbs": climbs });
            serde_json::to_string_pretty(&both)? + "\n"
        } else {
            format!(
                "{}\n{}",
                sizing::grid::to_text(&rows),
                sizing::climb::to_text(&climbs)
            )
        };
        std::io::stdout().lock().write_all(output.as_bytes())?;
        Ok(())
    }
}

#[derive(Args)]
#[command(after_help = "Examples:
  flyball-sim pairs
  flyball-sim pairs --scenes throttle --seed 2")]
struct Pairs {
    /// Scenes whose name contains this; repeatable
    #[arg(long, value_name = "PART")]
    scenes: Vec<String>,
    /// Seed of all randomness
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Pairs {
    fn run(&self) -> Result<()> {
        let wanted = |scene: &Scene| {
            let mut parts = self.scenes.iter();
            self.scenes.is_empty() || parts.any(|part| scene.name.contains(part.as_str()))
        };
        let scenes: Vec<Scene> = Scene::all().into_iter().filter(wanted).collect();
        anyhow::ensure!(!scenes.is_empty(), "no scene has such a name");
        let reports = scenes.iter().map(|scene| scene.run(self.seed));
        let reports = reports.collect::<Result<Vec<_>, Error>>()?;
        let output = if self.json {
            serde_json::to_string_pretty(&reports)? + "\n"
        } else {
            pairs::to_text(&reports)
        };
        std::io::stdout().lock().write_all(output.as_bytes())?;
        Ok(())
    }
}

impl Options {
    fn config(&self) -> Result<Config> {
        let nanos = |text: &str| -> Result<u64> {
            Ok(u64::try_from(parse_duration(text)?.as_nanos()).unwrap_or(u64::MAX))
        };
        let cold_ns = nanos(&self.cold)?;
        Ok(Config {
            workers: self.workers,
            tasks: self.tasks,
            seed: self.seed,
            classes: match self.classes.as_str() {
                "builtin" => ClassSpec::built_in().into(),
                count => Config::equal_classes(count.parse()?)?,
            },
            load: self.load,
            arrivals: self.arrivals,
            sizes: self.sizes,
            mean_size_ns: nanos(&self.mean_size)?,
            slow_workers: self.slow_workers,
            futures: self.futures,
            prioritised: self.prioritised,
            stealing: !self.no_stealing,
            rebalance_above: self.rebalance_above,
            keys: self.keys.map(|count| Keys { count, cold_ns }),
            switches: self
                .switch
                .iter()
                .map(|text| parse_switch(text))
                .collect::<Result<_>>()?,
            ..Config::default()
        })
    }
}

fn parse_switch(text: &str) -> Result<Switch> {
    let (after, name) = text
        .split_once('=')
        .ok_or_else(|| anyhow::anyhow!("a switch is TASKS=NAME, not {text:?}"))?;
    // "round_robin" is both; the algorithm is meant.
    let to = match name.parse::<Algorithm>() {
        Ok(algorithm) => SwitchTo::Algorithm(algorithm),
        Err(_) => SwitchTo::Strategy(name.parse::<Strategy>()?),
    };
    Ok(Switch {
        after_tasks: after.parse()?,
        to,
    })
}

fn main() -> ExitCode {
    match simulate(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is gone.
            let _ = writeln!(std::io::stderr(), "flyball-sim: {error:#}");
            let promise_broken = matches!(error.downcast_ref(), Some(Error::Broken { .. }));
            ExitCode::from(if promise_broken { 1 } else { 2 })
        }
    }
}

fn simulate(options: &Options) -> Result<()> {
    match &options.command {
        Some(Command::Overload(overload)) => return overload.run(),
        Some(Command::Sizing(sizing)) => return sizing.run(),
        Some(Command::Pairs(pairs)) => return pairs.run(),
        Some(Command::Dispatch(dispatch)) => return dispatch.run(),
        None => {}
    }
    let mut config = options.config()?;
    let mut display = Display::new();
    let output = if options.strategy == "all" {
        config.algorithm = options.algorithm.parse()?;
        let runs = Scenario::ALL.len() * Strategy::ALL.len();
        display.expect(config.tasks, runs);
        let rows = compare::compare(&config, &Scenario::ALL, &Strategy::ALL, &mut |progress| {
            display.show(progress);
        })?;
        display.finish();
        if options.json {
            serde_json::to_string_pretty(&rows)? + "\n"
        } else {
            compare::to_text(&rows)
        }
    } else {
        config.strategy = options.strategy.parse()?;
        let algorithms = match options.algorithm.as_str() {
            "all" => Algorithm::ALL.to_vec(),
            name => vec![name.parse()?],
        };
        display.expect(config.tasks, algorithms.len());
        let mut reports = Vec::new();
        for algorithm in algorithms {
            config.algorithm = algorithm;
            reports.push(run(&config, &mut |progress| display.show(progress))?);
        }
        display.finish();
        if options.json {
            serde_json::to_string_pretty(&reports)? + "\n"
        } else {
            let texts: Vec<String> = reports.iter().map(Report::to_text).collect();
            texts.join("\n")
        }
    };
    std::io::stdout().lock().write_all(output.as_bytes())?;
    Ok(())
}

/// Width of the progress bar, characters.
const BAR: usize = 32;

/// The progress bar, on a terminal, and the rate at the end; both on standard error.
struct Display {
    clock: Source,
    started: Timestamp,
    drawn: Timestamp,
    terminal: bool,
    total: u64,
    before: u64,
    last: u64,
}

impl Display {
    fn new() -> Self {
        let clock = Source::best();
        let now = clock.now();
        Self {
            clock,
            started: now,
            drawn: now,
            terminal: std::io::stderr().is_terminal(),
            total: 0,
            before: 0,
            last: 0,
        }
    }

    fn expect(&mut self, tasks: u64, runs: usize) {
        self.total = tasks.saturating_mul(runs as u64);
    }

    fn show(&mut self, progress: Progress) {
        if progress.done < self.last {
            self.before += progress.total;
        }
        self.last = progress.done;
        let now = self.clock.now();
        if !self.terminal || now.saturating_nanos_since(self.drawn) < 100_000_000 {
            return;
        }
        self.drawn = now;
        let done = self.before + progress.done;
        let part = done as f64 / self.total.max(1) as f64;
        let filled = (part * BAR as f64) as usize;
        let seconds = now.saturating_nanos_since(self.started) as f64 / 1e9;
        // A broken terminal is no reason to stop.
        let _ = write!(
            std::io::stderr(),
            "\r{:=<filled$}{:-<rest$} {:3.0} %  {:.2} M tasks/s  ",
            "",
            "",
            part * 100.0,
            done as f64 / seconds / 1e6,
            rest = BAR.saturating_sub(filled),
        );
    }

    fn count(&mut self, done: usize, total: usize, what: &str) {
        if self.terminal {
            // As above.
            let _ = write!(std::io::stderr(), "\r{done} of {total} {what}  ");
        }
    }

    fn clear(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn finish(&mut self) {
        let seconds = self.clock.now().saturating_nanos_since(self.started) as f64 / 1e9;
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let _ = writeln!(
            std::io::stderr(),
            "{clear}{} simulated tasks in {seconds:.2} s: {:.2} million a second",
            self.total,
            self.total as f64 / seconds / 1e6,
        );
    }
}
