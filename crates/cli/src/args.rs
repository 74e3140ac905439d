//! The command line as it is typed, and the checks that need no system.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use flyball_core::units::parse_duration;

use crate::commands::classes::Classes;
use crate::commands::config::Config;
use crate::commands::decisions::Decisions;
use crate::commands::knobs::Knobs;
use crate::commands::limits::Limits;
use crate::commands::status::Status;
use crate::commands::workers::Workers;
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
    Run(Run),
    /// Run the daemon: engine, API, local socket
    Serve(Serve),
    /// Show how the daemon is, at a glance
    Status(Status),
    /// Look at workers; size, change, restart and drain them
    Workers(Workers),
    /// Look at scheduling classes; create, change, delete, pause and resume them
    Classes(Classes),
    /// Show the bounds in force, and how near each is
    Limits(Limits),
    /// Show what was decided, on what evidence, and what came of it
    Decisions(Decisions),
    /// Show the numbers that controllers turn; pin and unpin them
    Knobs(Knobs),
    /// Check, print, show and change the configuration
    Config(Config),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual pages
    Man,
}

const EXAMPLES: &str = "\
Inputs come from `:::` (several: every combination), from --arg-file, or from
the lines of standard input. In the command they are put in place of
  {}         the input            {.}   without its extension
  {/}        its last part        {//}  its folder
  {/.}       its last part without extension
  {1} {2} …  one of several inputs ({1/.} and the like too)
  {#}        the number of the command

Without a placeholder the input is appended. Without a command each input is
one, run by $SHELL -c.

A command of several words never meets a shell: inputs may hold spaces,
quotes, `;` or `$(…)`. A command of one word with shell syntax runs by
$SHELL -c (sh where that is no POSIX shell), inputs quoted.

Examples:
  flyball run sha256sum {} ::: *.iso
  git ls-files -z | flyball run -0 wc -l
  flyball run --class batch 'gzip -kc {} > /tmp/{/}.gz' ::: logs/*
  flyball run -j 4 --timeout 1m --tag ping -c 1 ::: host1 host2
  flyball run -k echo {1}-{2} ::: a b ::: 1 2

Exit status: 0 all done, 1 some failed, 2 wrong usage, 130 interrupted
(Ctrl-C ends every process first; twice kills them).";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, override_usage = "flyball run [OPTIONS] [--] COMMAND [{}]… [::: INPUT…]…")]
pub(crate) struct Run {
    /// Commands at once: a number, a percentage of the CPUs, or `auto` (one for each CPU)
    #[arg(short, long, value_name = "N|N%|auto", default_value = "auto", allow_negative_numbers = true, value_parser = parse_jobs)]
    pub(crate) jobs: Jobs,
    /// Scheduling class: critical, interactive, normal, batch (nice 10) or idle (only when nobody else wants the CPU)
    #[arg(long, value_name = "NAME", default_value = "normal")]
    pub(crate) class: String,
    /// Print outputs in the order of the inputs
    #[arg(short, long)]
    pub(crate) keep_order: bool,
    /// Put the input in front of every line of output
    #[arg(long)]
    pub(crate) tag: bool,
    /// End a command, and all it started, after this time: 500ms, 30s, 1h30m
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = parse_timeout)]
    pub(crate) timeout: Option<Duration>,
    /// After a command was asked to end, kill it when this time has passed
    #[arg(long, value_name = "DURATION", value_parser = parse_time, default_value = "2s")]
    pub(crate) kill_after: Duration,
    /// Print the commands and run none
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// When to stop early: `never`, `soon,fail=N` (start no more), `now,fail=N` (end the others too)
    #[arg(long, value_name = "WHEN", default_value = "never", value_parser = parse_halt)]
    pub(crate) halt: Halt,
    /// Add to the niceness of the commands
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub(crate) nice: Option<i32>,
    /// Inputs for each command, at most
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) max_args: Option<u32>,
    /// As many inputs for each command as fit 128 KiB
    #[arg(short = 'X', long)]
    pub(crate) xargs: bool,
    /// Wait at least so long between two starts
    #[arg(long, value_name = "DURATION", value_parser = parse_time)]
    pub(crate) delay: Option<Duration>,
    /// Read inputs from a file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) arg_file: Option<PathBuf>,
    /// Inputs end with NUL, not with a newline
    #[arg(short = '0', long)]
    pub(crate) null: bool,
    /// No summary and no progress, only outputs and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// No progress
    #[arg(long)]
    pub(crate) no_progress: bool,
    /// The summary as one line of JSON, the last on standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// Colour in progress and summary
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// The command, and inputs after `:::`
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub(crate) words: Vec<OsString>,
}

/// When to colour. `auto`: on a terminal, unless `NO_COLOR` is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

/// How many commands run at once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Jobs {
    Auto,
    Count(u32),
    Percent(u32),
}

/// What `--kill-after` is unless set.
pub(crate) const KILL_AFTER: Duration = Duration::from_secs(2);

/// Each command takes a keeper and descriptors; more at once than this is a slip of the finger.
const JOBS_MAX: u32 = 1000;

impl Jobs {
    /// On so many CPUs; at least one.
    pub(crate) fn on(self, cpus: u32) -> u32 {
        match self {
            Jobs::Auto => cpus.max(1),
            Jobs::Count(count) => count,
            Jobs::Percent(percent) => {
                (u64::from(cpus) * u64::from(percent) / 100).clamp(1, JOBS_MAX.into()) as u32
            }
        }
    }
}

impl std::fmt::Display for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Jobs::Auto => f.write_str("auto"),
            Jobs::Count(count) => write!(f, "{count}"),
            Jobs::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// When failures stop the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Halt {
    Never,
    Soon(u64),
    Now(u64),
}

impl std::fmt::Display for Halt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Halt::Never => f.write_str("never"),
            Halt::Soon(count) => write!(f, "soon,fail={count}"),
            Halt::Now(count) => write!(f, "now,fail={count}"),
        }
    }
}

fn parse_jobs(text: &str) -> Result<Jobs, String> {
    let expected =
        format!("expected a number from 1 to {JOBS_MAX}, a percentage from 1% to 10000%, or auto");
    if text == "auto" {
        return Ok(Jobs::Auto);
    }
    match text.strip_suffix('%') {
        Some(percent) => percent
            .parse()
            .ok()
            .filter(|percent| (1..=10_000).contains(percent))
            .map(Jobs::Percent),
        None => text
            .parse()
            .ok()
            .filter(|count| (1..=JOBS_MAX).contains(count))
            .map(Jobs::Count),
    }
    .ok_or(expected)
}

fn parse_halt(text: &str) -> Result<Halt, String> {
    let count = |text: &str| {
        text.strip_prefix("fail=")?
            .parse()
            .ok()
            .filter(|count| *count > 0)
    };
    match text.split_once(',') {
        None if text == "never" => Some(Halt::Never),
        Some(("soon", rest)) => count(rest).map(Halt::Soon),
        Some(("now", rest)) => count(rest).map(Halt::Now),
        _ => None,
    }
    .ok_or_else(|| "expected never, soon,fail=N or now,fail=N with N from 1".to_owned())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{error}; for example 500ms, 30s or 1h30m"))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        Duration::ZERO => {
            Err("no command ends in no time; leave --timeout out for none".to_owned())
        }
        timeout => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn jobs_are_counted_or_shares_of_the_cpus() {
        assert_eq!(parse_jobs("150%").unwrap().on(4), 6);
        assert_eq!(parse_jobs("1%").unwrap().on(4), 1);
        assert_eq!(parse_jobs("auto").unwrap().on(4), 4);
        for wrong in ["0", "-1", "x", "%", "0%", "100000"] {
            assert!(parse_jobs(wrong).is_err(), "{wrong}");
        }
    }

    /// TASK-11: a timeout of nothing would end a command or not, as chance has it.
    #[test]
    fn timeouts_are_more_than_nothing() {
        assert_eq!(
            parse_timeout("1500ms").unwrap(),
            Duration::from_millis(1500)
        );
        for wrong in [
            "0",
            "0s",
            "-1",
            "-1s",
            "1",
            "inf",
            "",
            "99999999999999999999s",
        ] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_time("2s").unwrap(), KILL_AFTER);
    }

    #[test]
    fn halts_are_read_and_written_alike() {
        for text in ["never", "soon,fail=1", "now,fail=20"] {
            assert_eq!(parse_halt(text).unwrap().to_string(), text);
        }
        for wrong in ["soon", "now,fail=0", "now,1", "later,fail=1"] {
            assert!(parse_halt(wrong).is_err(), "{wrong}");
        }
    }
}
