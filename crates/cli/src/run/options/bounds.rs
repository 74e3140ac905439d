//! Options that bound what all commands of a run take together, or wait for room on the machine.

use clap::Args;
use flyball_core::units::format_size;

use super::values::{
    Load, MemoryEach, parse_load, parse_memory_each, parse_percent, parse_size_above_zero,
};

/// Bounds on memory, load, CPU and I/O.
#[derive(Args, Debug, Default)]
pub(crate) struct Bounds {
    /// Start no command while the machine's load is above this: a number, or a percentage of the CPUs
    #[arg(long, value_name = "N|N%", help_heading = HEADING, value_parser = parse_load)]
    pub(crate) load: Option<Load>,
    /// Start no command while less memory than this is free: 500M, 2GiB
    #[arg(long, value_name = "SIZE", help_heading = HEADING, value_parser = parse_size_above_zero)]
    pub(crate) memfree: Option<u64>,
    /// Memory for all commands together: 4G
    #[arg(long, value_name = "SIZE", help_heading = HEADING, value_parser = parse_size_above_zero)]
    pub(crate) mem: Option<u64>,
    /// Memory for each command: a size, or `auto` for the peak that this command was seen to take
    #[arg(long, value_name = "SIZE|auto", help_heading = HEADING, value_parser = parse_memory_each)]
    pub(crate) mem_each: Option<MemoryEach>,
    /// Leave other runs on this machine out of account: with `-j auto` take a slot for each CPU even if they do
    #[arg(long, help_heading = HEADING)]
    pub(crate) alone: bool,
    /// CPU for all commands together, in percent of the CPUs that this run may use (as `nproc` says, or fewer under a quota): what would use more stands still for a part of the time, the clock of --timeout with it
    #[arg(long, value_name = "N%", help_heading = HEADING, allow_negative_numbers = true, value_parser = parse_percent)]
    pub(crate) cpu: Option<f64>,
    /// I/O for all commands together (belongs to a later build)
    #[arg(long, value_name = "RATE", help_heading = HEADING)]
    pub(crate) io: Option<String>,
}

const HEADING: &str = "Bounds";

/// The least that `--mem` may be: a shell, and the 300 KiB that stand over each command, have room in it.
const MEM_MIN: u64 = 16_000_000;

impl Bounds {
    /// Refuses what this build has not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let absent = [(
            self.io.is_some(),
            "--io: a bound on the I/O of all commands together belongs to a later build; --class batch and idle step back",
        )];
        if self.mem.is_some_and(|bytes| bytes < MEM_MIN) {
            return Err(format!(
                "--mem: at least {}, as a program and what starts it take some of it",
                format_size(MEM_MIN)
            ));
        }
        match absent.into_iter().find(|(asked, _)| *asked) {
            Some((_, what)) => Err(what.to_owned()),
            None => Ok(()),
        }
    }

    /// As they would be typed, for the command that reruns: option and value.
    pub(crate) fn words(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("--load", self.load.map(|load| load.to_string())),
            ("--memfree", self.memfree.map(format_size)),
            ("--mem", self.mem.map(format_size)),
            ("--mem-each", self.mem_each.map(|each| each.to_string())),
            ("--cpu", self.cpu.map(|percent| format!("{percent}%"))),
        ]
        .into_iter()
        .filter_map(|(option, value)| Some((option, value?)))
    }
}
