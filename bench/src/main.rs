//! Measures flyball and its peers on the same work, interleaved, in one run.
//!
//! The parent takes samples in rounds; each sample is this program again, as `sample`, so that every pool meets a clean
//! process. `cargo xtask bench <area>` at the root of the repository builds and calls it.

// Some cases have nobody to run them in a build without these.
#![cfg_attr(not(any(feature = "flyball", feature = "tokio")), allow(dead_code))]

mod alloc;
mod campaign;
mod cases;
mod goals;
mod http;
mod machine;
#[cfg(feature = "overload")]
mod overload;
mod plan;
mod process;
mod programs;
mod queues;
mod report;
mod simulator;
mod sizing;
mod stats;
mod subjects;
mod sys;
mod work;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

#[derive(Parser)]
#[command(about = "Measures flyball and its peers on the same work, interleaved, in one run")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tasks, waking, latency, shares, memory: the executor and other pools
    Executor(Campaign),
    /// `flyball run` of 5,000 commands beside xargs and GNU parallel
    Run {
        #[command(flatten)]
        campaign: Campaign,
        /// The flyball program
        #[arg(long)]
        program: PathBuf,
    },
    /// The simulator: its tasks a second, and what it says of dispatch, overload and pool sizing
    Sim {
        #[command(flatten)]
        campaign: Campaign,
        /// The flyball-sim program
        #[arg(long)]
        program: PathBuf,
    },
    /// Adaptive pool size on real threads, against the best fixed size
    Sizing {
        #[command(flatten)]
        campaign: Campaign,
        /// The example `pool_size` of flyball-engine
        #[arg(long)]
        program: PathBuf,
    },
    /// One look at the machine: flyball, sysinfo, procfs; the idle daemon; its API under load
    Sense {
        #[command(flatten)]
        campaign: Campaign,
        /// The flyball program; without it, the daemon's cases are left out
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Durable tasks: enqueues and lease cycles beside other queues, a long queue, a start over a million tasks
    Tasks {
        #[command(flatten)]
        campaign: Campaign,
        /// The flyball program
        #[arg(long)]
        program: PathBuf,
    },
    /// A service under more load than it can bear: flyball's gate beside other limiters
    #[cfg(feature = "overload")]
    Overload {
        #[command(flatten)]
        campaign: Campaign,
        /// The example for axum; without it, its cases are left out
        #[arg(long)]
        axum: Option<PathBuf>,
        /// The example for tonic; without it, its cases are left out
        #[arg(long)]
        tonic: Option<PathBuf>,
    },
    /// Prints a JSON report as the section of a Markdown page
    Markdown { file: PathBuf },
    /// Prints a JSON report as text
    Show { file: PathBuf },
    /// One sample, for the parent
    #[command(hide = true)]
    Sample {
        #[arg(long)]
        subject: subjects::Subject,
        /// As JSON
        #[arg(long)]
        case: String,
        #[arg(long)]
        per_us: f64,
    },
    /// A service behind a limiter, for a sample
    #[cfg(feature = "overload")]
    #[command(hide = true)]
    Service {
        /// As JSON
        #[arg(long)]
        limiter: String,
        /// As JSON
        #[arg(long)]
        service: String,
        #[arg(long)]
        per_us: f64,
    },
    /// Engine, server and load, for a sample
    #[cfg(feature = "flyball")]
    #[command(hide = true)]
    Subject {
        /// As JSON
        #[arg(long)]
        pool: String,
        #[arg(long)]
        per_us: f64,
        #[arg(long)]
        state_dir: PathBuf,
    },
    /// A busy neighbour
    #[command(hide = true)]
    Spin,
    /// A program that holds memory and starts commands
    #[cfg(feature = "flyball")]
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        mib: usize,
        #[arg(long)]
        commands: usize,
    },
}

#[derive(Args)]
struct Campaign {
    /// A small selection that ends in about two minutes
    #[arg(long)]
    quick: bool,
    /// Where the report goes as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds over all cases [default: 3, of `tasks` 5, of `run` and `sense` 9; quick: 1 to 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "PART")]
    filter: Option<String>,
}

impl Campaign {
    fn options(&self, default_rounds: (u16, u16)) -> campaign::Options {
        let (quick, full) = default_rounds;
        let rounds = self.rounds.unwrap_or(if self.quick { quick } else { full });
        let per_us = work::calibrate();
        eprintln!("a microsecond of work is {per_us:.0} iterations");
        campaign::Options {
            quick: self.quick,
            rounds: rounds.into(),
            filter: self.filter.clone(),
            per_us,
        }
    }

    fn publish(&self, report: &report::Report) -> Result<()> {
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(report)?;
            std::fs::write(file, text + "\n")
                .with_context(|| format!("writing {}", file.display()))?;
        }
        print!("{}", report.text());
        Ok(())
    }
}

fn read(file: &Path) -> Result<report::Report> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report", file.display()))
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Executor(campaign) => {
            let options = campaign.options((2, 3));
            let entries = plan::executor(options.quick, options.rounds);
            campaign.publish(&campaign::run("executor", &entries, &options)?)
        }
        Command::Run { campaign, program } => {
            campaign.publish(&programs::run(&program, &campaign.options((3, 9)))?)
        }
        Command::Sim { campaign, program } => {
            campaign.publish(&simulator::sim(&program, &campaign.options((3, 3)))?)
        }
        Command::Sizing { campaign, program } => {
            campaign.publish(&sizing::on_threads(&program, &campaign.options((1, 1)))?)
        }
        Command::Sense { campaign, program } => {
            let options = campaign.options((3, 9));
            let entries = plan::sense(options.quick, options.rounds, program.as_deref());
            campaign.publish(&campaign::run("sense", &entries, &options)?)
        }
        Command::Tasks { campaign, program } => {
            let options = campaign.options((3, 5));
            let entries = plan::tasks(options.quick, options.rounds, &program);
            campaign.publish(&campaign::run("tasks", &entries, &options)?)
        }
        #[cfg(feature = "overload")]
        Command::Overload {
            campaign,
            axum,
            tonic,
        } => {
            use overload::{Example, Protocol};
            let options = campaign.options((1, 3));
            let capacities = overload::capacities(work::Work::new(options.per_us))?;
            let programs = [(axum, Protocol::Http), (tonic, Protocol::Grpc)];
            let examples = programs
                .into_iter()
                .filter_map(|(program, protocol)| Some(Example::measure(&program?, protocol)));
            let examples = examples.collect::<Result<Vec<_>>>()?;
            let entries = plan::overload(options.quick, options.rounds, capacities, &examples);
            campaign.publish(&campaign::run("overload", &entries, &options)?)
        }
        Command::Markdown { file } => {
            print!("{}", read(&file)?.markdown());
            Ok(())
        }
        Command::Show { file } => {
            print!("{}", read(&file)?.text());
            Ok(())
        }
        Command::Sample {
            subject,
            case,
            per_us,
        } => {
            sys::die_with_parent();
            let case: cases::Case = serde_json::from_str(&case).context("the case")?;
            match case.run(subject, work::Work::new(per_us)) {
                Ok(sample) => {
                    println!("{}", serde_json::to_string(&sample)?);
                    std::io::stdout().flush()?;
                    // Pools may still be working, on ten-second closures for instance; nothing waits for them.
                    sys::leave(0)
                }
                Err(error) => {
                    eprintln!("{error:#}");
                    sys::leave(1)
                }
            }
        }
        #[cfg(feature = "overload")]
        Command::Service {
            limiter,
            service,
            per_us,
        } => {
            sys::die_with_parent();
            let service = serde_json::from_str(&service).context("the service")?;
            let limiter = serde_json::from_str(&limiter).context("the limiter")?;
            overload::service::run(&service, limiter, work::Work::new(per_us))
        }
        #[cfg(feature = "flyball")]
        Command::Subject {
            pool,
            per_us,
            state_dir,
        } => {
            let pool = serde_json::from_str(&pool).context("the load")?;
            subjects::server::run(pool, work::Work::new(per_us), &state_dir)
        }
        Command::Spin => machine::spin(),
        #[cfg(feature = "flyball")]
        Command::Hold { mib, commands } => programs::hold(mib, commands),
    }
}

fn main() -> ExitCode {
    // It may be called to start commands for itself.
    #[cfg(feature = "flyball")]
    flyball_process::init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
