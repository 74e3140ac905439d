//! The `flyball` command.
//!
//! `main` makes the binary its own spawn server, reads the arguments and hands over; what a subcommand does stands in its module.
//! Exit status: 0 done, 1 the work failed, 2 wrong usage, 3 the daemon cannot be reached, 4 refused, 130 interrupted.

mod args;
mod client;
mod commands;
mod input;
mod quote;
mod run;
mod serve;
mod show;
mod signals;
mod template;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Subcommand};

/// Requests are read on one thread and freed on others all the time, which the allocator of glibc does under a lock of the thread that allocated: with
/// this one the daemon takes a quarter more tasks a second.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    flyball_process::init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no error.
            let printed = error.print();
            if let (false, Err(failure)) = (error.use_stderr(), printed) {
                return cannot_write(&failure);
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.subcommand {
        Subcommand::Run(options) => run::run(*options),
        Subcommand::Serve(options) => serve::run(options),
        Subcommand::Submit(options) => commands::submit::run(*options),
        Subcommand::Tasks(options) => commands::tasks::run(options),
        Subcommand::Backup(options) => commands::backup::run(&options),
        Subcommand::Restore(options) => commands::restore::run(&options),
        Subcommand::Status(options) => commands::status::run(options),
        Subcommand::Workers(options) => commands::workers::run(options),
        Subcommand::Classes(options) => commands::classes::run(options),
        Subcommand::Limits(options) => commands::limits::run(options),
        Subcommand::Decisions(options) => commands::decisions::run(options),
        Subcommand::Knobs(options) => commands::knobs::run(options),
        Subcommand::Config(options) => commands::config::run(options),
        Subcommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flyball", &mut script);
            print(&script)
        }
        Subcommand::Man => {
            let mut pages = Vec::new();
            match manual(&mut pages) {
                Ok(()) => print(&pages),
                Err(error) => complain(&format!("cannot write the manual: {error}"), 1),
            }
        }
    }
}

/// The page of the command, then those of its subcommands, and of theirs.
fn manual(out: &mut Vec<u8>) -> std::io::Result<()> {
    let mut command = Cli::command();
    command.build();
    pages(&command, out)
}

fn pages(command: &clap::Command, out: &mut Vec<u8>) -> std::io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(out)?;
    command
        .get_subcommands()
        .filter(|subcommand| subcommand.get_name() != "help")
        .try_for_each(|subcommand| pages(subcommand, out))
}

fn print(bytes: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cannot_write(&error),
    }
}

/// A reader that goes away (`| head`) is no error; a full disk is.
fn cannot_write(error: &std::io::Error) -> ExitCode {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        ExitCode::SUCCESS
    } else {
        complain(&format!("cannot write output: {error}"), 1)
    }
}

/// Says what is wrong, in the form that all of the command's messages have.
fn complain(text: &str, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "flyball: {text}");
    ExitCode::from(status)
}
