//! The options of `flyball run` as they are typed, with the checks that need no system.

mod bounds;
mod halt;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

pub(crate) use bounds::Bounds;
use halt::parse_halt;
pub(crate) use halt::{Halt, When};
pub(crate) use values::{Jobs, KILL_AFTER, Load, Marker, MemoryEach, parse_time};
use values::{parse_block, parse_delimiter, parse_jobs, parse_marker, parse_timeout};

use crate::args::Color;
use crate::input::Trim;

const EXAMPLES: &str = "\
Inputs come from `:::` (several: every combination), from files by `::::` or
--arg-file, or from the lines of standard input. `:::+` and `::::+` link their
inputs to those before. In the command they are put in place of
  {}         the input            {.}   without its extension
  {/}        its last part        {//}  its folder
  {/.}       its last part without extension
  {1} {2} …  one of several inputs ({1/.} and the like too); {-1} the last
  {name}     the input with that name, under --header
  {#}        the number of the command
  {%}        the slot in which it runs, 1 to --jobs

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
  flyball run --joblog log --retries 3 curl -fsSO {} :::: urls
  flyball run --retry-failed --joblog log
  flyball run --pipe --block 10M -k grep -c word < text

Exit status: 0 all done, 1 some failed, 2 wrong usage, 130 interrupted
(Ctrl-C ends every process first; twice kills them).";

const INPUT: &str = "Inputs";
const OUTPUT: &str = "Output";
const CONTROL: &str = "Control";
const PIPE: &str = "Standard input in blocks";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, override_usage = "flyball run [OPTIONS] [--] COMMAND [{}]… [::: INPUT…]…")]
pub(crate) struct Run {
    /// Commands at once: a number, a percentage of the CPUs, +N or -N beside them, or `auto` (one for each CPU)
    #[arg(short, long, short_alias = 'P', alias = "max-procs", value_name = "N|N%|+N|-N|auto", default_value = "auto", allow_negative_numbers = true, value_parser = parse_jobs)]
    pub(crate) jobs: Jobs,
    /// Scheduling class: critical, interactive, normal, batch (nice 10) or idle (only when nobody else wants the CPU)
    #[arg(long, value_name = "NAME", default_value = "normal")]
    pub(crate) class: String,
    /// Print the commands and run none
    #[arg(long, alias = "dryrun")]
    pub(crate) dry_run: bool,

    /// Read inputs from a file, `-` for standard input; several are combined
    #[arg(short, long, value_name = "FILE", help_heading = INPUT)]
    pub(crate) arg_file: Vec<PathBuf>,
    /// Inputs end with NUL, not with a newline
    #[arg(short = '0', long, help_heading = INPUT)]
    pub(crate) null: bool,
    /// Inputs end with this byte, not with a newline: `,` or `\\t`
    #[arg(short, long, value_name = "BYTE", conflicts_with = "null", help_heading = INPUT, value_parser = parse_delimiter)]
    pub(crate) delimiter: Option<u8>,
    /// Inputs for each command, at most
    #[arg(short = 'n', long, short_aliases = ['N', 'L'], aliases = ["max-replace-args", "max-lines"], value_name = "N", help_heading = INPUT, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) max_args: Option<u32>,
    /// As many inputs for each command as fit 128 KiB
    #[arg(short = 'X', long, help_heading = INPUT)]
    pub(crate) xargs: bool,
    /// With -X or -n: bytes of a command, at most
    #[arg(short = 's', long, value_name = "BYTES", help_heading = INPUT, value_parser = clap::value_parser!(u32).range(1..=128 * 1024))]
    pub(crate) max_chars: Option<u32>,
    /// Split each input where this regular expression matches; {1}, {2} … are the columns
    #[arg(short = 'C', long, value_name = "REGEX", help_heading = INPUT)]
    pub(crate) colsep: Option<String>,
    /// Blanks to take off inputs: n (none), l, r or lr; lr with --colsep
    #[arg(long, value_name = "SIDES", help_heading = INPUT)]
    pub(crate) trim: Option<Trim>,
    /// `:`: the first input of each source is its name, and {name} stands for its inputs
    #[arg(long, value_name = ":", help_heading = INPUT, value_parser = [":"])]
    pub(crate) header: Option<String>,
    /// Link all sources side by side; short ones begin anew
    #[arg(long, alias = "xapply", help_heading = INPUT)]
    pub(crate) link: bool,
    /// Run the commands in random order
    #[arg(long, help_heading = INPUT)]
    pub(crate) shuf: bool,
    /// With --shuf: the same order each time
    #[arg(long, value_name = "N", requires = "shuf", help_heading = INPUT)]
    pub(crate) seed: Option<u64>,
    /// This stands for the input in place of {}
    #[arg(short = 'I', value_name = "TEXT", help_heading = INPUT)]
    pub(crate) replace: Option<OsString>,

    /// Give each command a part of standard input to read
    #[arg(long, alias = "spreadstdin", help_heading = PIPE)]
    pub(crate) pipe: bool,
    /// Bytes of a part: as many whole records as fit (1MiB)
    #[arg(long, alias = "block-size", value_name = "SIZE", requires = "pipe", help_heading = PIPE, value_parser = parse_block)]
    pub(crate) block: Option<usize>,
    /// What ends a record (a newline)
    #[arg(long, value_name = "TEXT", requires = "pipe", help_heading = PIPE, value_parser = parse_marker)]
    pub(crate) recend: Option<Marker>,
    /// What begins a record
    #[arg(long, value_name = "TEXT", requires = "pipe", help_heading = PIPE, value_parser = parse_marker)]
    pub(crate) recstart: Option<Marker>,

    /// Print outputs in the order of the inputs
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) keep_order: bool,
    /// Put the input in front of every line of output
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) tag: bool,
    /// Put this text, with placeholders filled, in front of every line of output
    #[arg(long, value_name = "TEXT", help_heading = OUTPUT)]
    pub(crate) tagstring: Option<OsString>,
    /// Print each line of output when it is whole
    #[arg(long, aliases = ["lb", "linebuffer", "line-buffered"], conflicts_with = "keep_order", help_heading = OUTPUT)]
    pub(crate) line_buffer: bool,
    /// Let commands write straight to the output of the run
    #[arg(short = 'u', long, conflicts_with_all = ["keep_order", "tag", "tagstring", "line_buffer", "results"], help_heading = OUTPUT)]
    pub(crate) ungroup: bool,
    /// Keep output and exit status of each command in a folder of its own under this one
    #[arg(long, alias = "res", value_name = "DIR", help_heading = OUTPUT)]
    pub(crate) results: Option<OsString>,
    /// Print each command on standard error when it starts
    #[arg(short = 't', long, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
    /// No summary and no progress, only outputs and errors
    #[arg(short, long, alias = "silent", help_heading = OUTPUT)]
    pub(crate) quiet: bool,
    /// Show progress, also under --quiet
    #[arg(long, aliases = ["bar", "eta"], overrides_with = "no_progress", help_heading = OUTPUT)]
    pub(crate) progress: bool,
    /// No progress
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) no_progress: bool,
    /// The summary as one line of JSON, the last on standard error
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
    /// Colour in progress and summary
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = OUTPUT)]
    pub(crate) color: Color,

    /// End a command, and all it started, after this time: 500ms, 30s, 1h30m; time in which --cpu has it stand still does not count
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, help_heading = CONTROL, value_parser = parse_timeout)]
    pub(crate) timeout: Option<Duration>,
    /// After a command was asked to end, kill it when this time has passed
    #[arg(long, value_name = "DURATION", help_heading = CONTROL, value_parser = parse_time, default_value = "2s")]
    pub(crate) kill_after: Duration,
    /// Run a command that fails so many times at most, in all
    #[arg(long, value_name = "N", help_heading = CONTROL, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) retries: Option<u32>,
    /// Wait so long before the second time, twice as long before the third, and so on up to an hour
    #[arg(long, value_name = "DURATION", requires = "retries", help_heading = CONTROL, value_parser = parse_time)]
    pub(crate) retry_delay: Option<Duration>,
    /// Write down how each command ended: a line each, durable, as GNU parallel does
    #[arg(long, value_name = "FILE", help_heading = CONTROL)]
    pub(crate) joblog: Option<PathBuf>,
    /// Leave out what the joblog says has run
    #[arg(long, requires = "joblog", help_heading = CONTROL)]
    pub(crate) resume: bool,
    /// Leave out what the joblog says has succeeded
    #[arg(long, requires = "joblog", help_heading = CONTROL)]
    pub(crate) resume_failed: bool,
    /// Run again the commands that the joblog says have failed, as they stand there
    #[arg(long, requires = "joblog", conflicts_with_all = ["resume", "resume_failed"], help_heading = CONTROL)]
    pub(crate) retry_failed: bool,
    /// When to stop early: `never`, `soon,fail=N` (start no more), `now,fail=N` (end the others too); success and done in place of fail, N% of all in place of N
    #[arg(long, value_name = "WHEN", default_value = "never", help_heading = CONTROL, value_parser = parse_halt)]
    pub(crate) halt: Halt,
    /// Wait at least so long between two starts
    #[arg(long, value_name = "DURATION", help_heading = CONTROL, value_parser = parse_time)]
    pub(crate) delay: Option<Duration>,
    /// Add to the niceness of the commands
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = CONTROL, value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub(crate) nice: Option<i32>,
    /// Run the commands in this folder
    #[arg(long, visible_alias = "wd", value_name = "DIR", help_heading = CONTROL)]
    pub(crate) workdir: Option<PathBuf>,
    /// Set a variable for the commands: NAME=VALUE. They have all of the run's own already
    #[arg(long, value_name = "NAME=VALUE", help_heading = CONTROL)]
    pub(crate) env: Vec<OsString>,
    #[command(flatten)]
    pub(crate) bounds: Bounds,

    /// What other tools need to be told and this one does anyway
    #[arg(short = 'r', long = "no-run-if-empty", aliases = ["group", "will-cite", "no-notice"], hide = true, action = clap::ArgAction::Count)]
    pub(crate) as_usual: u8,
    /// The command, and inputs after `:::`
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub(crate) words: Vec<OsString>,
}

impl Run {
    /// The byte that ends an input.
    pub(crate) fn end(&self) -> u8 {
        match (self.null, self.delimiter) {
            (true, _) => 0,
            (false, Some(byte)) => byte,
            (false, None) => b'\n',
        }
    }

    /// Whether standard output shows which command wrote a line.
    pub(crate) fn tags(&self) -> bool {
        self.tag || self.tagstring.is_some()
    }
}
