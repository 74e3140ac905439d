//! The command line as it is typed, and the checks that need no system.

use clap::{Parser, ValueEnum};

use crate::commands::backup::Backup;
use crate::commands::classes::Classes;
use crate::commands::config::Config;
use crate::commands::decisions::Decisions;
use crate::commands::knobs::Knobs;
use crate::commands::limits::Limits;
use crate::commands::restore::Restore;
use crate::commands::status::Status;
use crate::commands::submit::Submit;
use crate::commands::tasks::Tasks;
use crate::commands::workers::Workers;
use crate::run::Run;
use crate::serve::Serve;

/// Runs work within bounds: commands at once, and a daemon that regulates itself
#[derive(Parser, Debug)]
#[command(
    name = "flyball",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) subcommand: Subcommand,
}

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Subcommand {
    /// Run a command over many inputs, so many at once, under a scheduling class
    Run(Box<Run>),
    /// Run the daemon: engine, API, local socket
    Serve(Serve),
    /// Give the daemon a task: a command, a call of a URL, or work for others; prints its id
    Submit(Box<Submit>),
    /// Look at durable tasks; wait for them, cancel, retry, pause and resume them
    Tasks(Tasks),
    /// Show how the daemon is, at a glance
    Status(Status),
    /// Look at workers; size, change, restart and drain them
    Workers(Workers),
    /// Look at scheduling classes; create, change, delete, pause and resume them
    Classes(Classes),
    /// Show the bounds in force and how near each is, and circuit breakers
    Limits(Limits),
    /// Show what was decided, on what evidence, and what came of it
    Decisions(Decisions),
    /// Show the numbers that controllers turn; pin and unpin them
    Knobs(Knobs),
    /// Check, print, show and change the configuration
    Config(Config),
    /// Copy the daemon's queue of tasks into a file, while it is in use
    Backup(Backup),
    /// Put a copy of the queue into a state folder that no daemon uses
    Restore(Restore),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual pages
    Man,
}

/// When to colour. `auto`: on a terminal, unless `NO_COLOR` is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
