//! The options of `flyball run` as they are typed, with the checks that need no system.

mod bounds;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

pub(crate) use bounds::Bounds;
pub(crate) use values::{Halt, Jobs, KILL_AFTER};
use values::{parse_halt, parse_jobs, parse_time, parse_timeout};

use crate::args::Color;

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
    #[command(flatten)]
    pub(crate) bounds: Bounds,
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
