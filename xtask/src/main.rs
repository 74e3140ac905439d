//! Automation of the workspace: `cargo xtask <command>`.
//!
//! What CI does and what a contributor does is the same command, `cargo xtask test`. Nothing here is part of what flyball
//! ships, and no crate depends on it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to its user"
)]

mod bench;
mod commands;
mod layers;
mod requirements;
mod setup;
mod test;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Automation of the flyball workspace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that CI checks
    Test,
    /// Measures flyball beside its peers
    Bench {
        /// What to measure
        area: bench::Area,
        /// A small selection that ends in about two minutes
        #[arg(long)]
        quick: bool,
        /// Where the report goes as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Rewrites the area's section in docs/benchmarks.md
        #[arg(long)]
        doc: bool,
        /// Rounds over all cases
        #[arg(long)]
        rounds: Option<u16>,
        /// Only cases whose name contains this
        #[arg(long, value_name = "PART")]
        filter: Option<String>,
    },
    /// Checks that dependencies between crates point one way
    Layers,
    /// Checks docs/requirements.md against the tests
    Requirements {
        /// Prints the tests found for each requirement instead
        #[arg(long, conflicts_with = "write")]
        list: bool,
        /// Puts the tests found for each requirement into the page instead
        #[arg(long)]
        write: bool,
    },
    /// Installs the programs that tests run
    Setup,
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Test => test::run(),
        Command::Bench {
            area,
            quick,
            json,
            doc,
            rounds,
            filter,
        } => bench::run(&bench::Request {
            area,
            quick,
            json,
            doc,
            rounds,
            filter,
        }),
        Command::Layers => layers::run(),
        Command::Requirements { list: true, .. } => requirements::list(),
        Command::Requirements { write: true, .. } => requirements::write(),
        Command::Requirements { .. } => requirements::run(),
        Command::Setup => setup::run(),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
