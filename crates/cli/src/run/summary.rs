//! What came of the run: counted as it goes, told at the end.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use flyball_core::units::{format_duration, format_size};
use flyball_process::{Error, Exit};

use super::batch::with_cause;
use super::options::{Jobs, KILL_AFTER};
use super::{Plan, SEPARATOR};
use crate::quote;
use crate::template::Values;

/// Failures that the summary lists one by one.
const LISTED_MAX: usize = 10;

/// Bytes of inputs that the command which reruns may hold; a longer line is of no use in a terminal.
const RERUN_BYTES_MAX: usize = 16 * 1024;

/// Characters of a command in the list of failures.
const SHOWN_CHARS_MAX: usize = 200;

/// Characters of the command that took most memory: it stands in the first line, which should stay one.
const PEAK_CHARS_MAX: usize = 60;

struct Failure {
    number: u64,
    command: String,
    reason: String,
}

/// Counts.
#[derive(Default)]
pub(crate) struct Summary {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    timed_out: u64,
    pub(crate) not_run: u64,
    stopped: u64,
    user: Duration,
    system: Duration,
    peak: Option<(u64, String)>,
    leftovers: u64,
    survivors: u64,
    dropped_bytes: u64,
    listed: Vec<Failure>,
    again: Vec<(u64, Values)>,
    again_bytes: usize,
    again_complete: bool,
}

impl Summary {
    pub(crate) fn new() -> Summary {
        Summary {
            again_complete: true,
            ..Summary::default()
        }
    }

    /// Commands that have ended.
    pub(crate) fn done(&self) -> u64 {
        self.succeeded + self.failed
    }

    /// Counts output that was dropped at the bound.
    pub(crate) fn dropped(&mut self, bytes: u64) {
        self.dropped_bytes += bytes;
    }

    /// Counts a command. Answers whether it failed. `stopping`: it was ended because the run is.
    pub(crate) fn count(
        &mut self,
        number: u64,
        values: Values,
        result: &Result<Exit, Error>,
        stopping: bool,
        display: impl Fn() -> String,
    ) -> bool {
        let reason = match result {
            Ok(exit) => {
                self.user += exit.user;
                self.system += exit.system;
                self.leftovers += u64::from(exit.leftovers);
                self.survivors += u64::from(exit.survivors);
                if self
                    .peak
                    .as_ref()
                    .is_none_or(|(peak, _)| exit.peak_memory > *peak)
                {
                    self.peak = Some((exit.peak_memory, shorten(display(), PEAK_CHARS_MAX)));
                }
                if exit.success() {
                    self.succeeded += 1;
                    return false;
                }
                if exit.timed_out {
                    self.timed_out += 1;
                    "timed out".to_owned()
                } else if exit.killed && stopping {
                    self.stopped += 1;
                    "stopped".to_owned()
                } else {
                    exit.ended.to_string()
                }
            }
            Err(Error::Spawn { reason, .. }) => reason.to_string(),
            Err(error) => with_cause(error),
        };
        self.failed += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(Failure {
                number,
                command: shorten(display(), SHOWN_CHARS_MAX),
                reason,
            });
        }
        self.again_bytes += values.iter().map(|value| value.len() + 3).sum::<usize>() + 1;
        if self.again_bytes <= RERUN_BYTES_MAX {
            self.again.push((number, values));
        } else {
            self.again_complete = false;
        }
        true
    }

    /// Puts the failures in the order of their inputs.
    pub(crate) fn sort(&mut self) {
        self.listed.sort_by_key(|failure| failure.number);
    }

    /// The command that runs again what failed, if it is one that can be pasted.
    pub(crate) fn rerun(&self, plan: &Plan) -> Option<String> {
        if self.failed == 0 || !self.again_complete {
            return None;
        }
        let mut words: Vec<OsString> = vec!["flyball".into(), "run".into()];
        let options = &plan.options;
        let mut option = |flag: &str, value: Option<String>| {
            words.push(flag.into());
            words.extend(value.map(OsString::from));
        };
        if options.jobs != Jobs::Auto {
            option("-j", Some(options.jobs.to_string()));
        }
        if options.class != "normal" {
            option("--class", Some(options.class.clone()));
        }
        if options.keep_order {
            option("-k", None);
        }
        if options.tag {
            option("--tag", None);
        }
        if let Some(timeout) = options.timeout {
            option("--timeout", Some(format_duration(timeout)));
        }
        if options.kill_after != KILL_AFTER {
            option("--kill-after", Some(format_duration(options.kill_after)));
        }
        if let Some(delay) = options.delay {
            option("--delay", Some(format_duration(delay)));
        }
        if let Some(nice) = options.nice {
            option("--nice", Some(nice.to_string()));
        }
        for (flag, value) in options.bounds.words() {
            option(flag, Some(value));
        }
        // Each command gets the inputs that it had; all have as many, except the last under -n and any under -X.
        let each = self
            .again
            .iter()
            .map(|(_, values)| values.len())
            .max()
            .unwrap_or(0);
        if each > 1 {
            if options.xargs {
                option("-X", None);
            } else {
                option("-n", Some(each.to_string()));
            }
        }
        if plan
            .command
            .first()
            .is_some_and(|word| word.as_bytes().starts_with(b"-"))
        {
            words.push("--".into());
        }
        words.extend(plan.command.iter().cloned());
        if !plan.once {
            words.push(SEPARATOR.into());
            let mut again: Vec<&(u64, Values)> = self.again.iter().collect();
            again.sort_by_key(|(number, _)| *number);
            for value in again.into_iter().flat_map(|(_, values)| values) {
                // It would be read as a separator, or end at the NUL.
                if value == SEPARATOR || value.as_bytes().contains(&0) {
                    return None;
                }
                words.push(value.clone());
            }
        }
        Some(quote::line(words.iter().map(|word| word.as_bytes())))
    }

    /// For people.
    pub(crate) fn tell(
        &self,
        plan: &Plan,
        wall: Duration,
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let paint = |code: &'static str| if plan.color { code } else { "" };
        let (red, green, dim, off) = (
            paint("\x1b[31m"),
            paint("\x1b[32m"),
            paint("\x1b[2m"),
            paint("\x1b[0m"),
        );
        let color = if self.failed > 0 { red } else { green };
        let mut counts = format!("{} done", self.succeeded);
        if self.failed > 0 {
            counts += &format!(", {} failed", self.failed);
        }
        if self.timed_out > 0 {
            counts += &format!(" ({} timed out)", self.timed_out);
        }
        if self.not_run > 0 {
            counts += &format!(", {} not run", self.not_run);
        }
        write!(out, "flyball: {color}{counts}{off} in {}", seconds(wall))?;
        write!(out, ", {} of CPU", seconds(self.user + self.system))?;
        if let Some((peak, command)) = &self.peak {
            write!(
                out,
                ", most memory {} {dim}({command}){off}",
                format_rounded(*peak)
            )?;
        }
        writeln!(out)?;
        for failure in &self.listed {
            writeln!(
                out,
                "  {red}#{}{off} {}: {}",
                failure.number, failure.reason, failure.command
            )?;
        }
        let more = self.failed - self.listed.len() as u64;
        if more > 0 {
            writeln!(out, "  and {more} more")?;
        }
        if self.dropped_bytes > 0 {
            writeln!(
                out,
                "  {} of output beyond the bound of a command were dropped",
                format_rounded(self.dropped_bytes)
            )?;
        }
        if self.leftovers > 0 {
            writeln!(
                out,
                "  {} processes outlived their command and were ended",
                self.leftovers
            )?;
        }
        if self.survivors > 0 {
            writeln!(
                out,
                "  {red}{} processes could not be killed{off}",
                self.survivors
            )?;
        }
        match self.rerun(plan) {
            Some(rerun) => writeln!(out, "  again, only what failed: {rerun}")?,
            None if self.failed > 0 => writeln!(
                out,
                "  no command to paste that reruns them: their inputs do not fit a command line"
            )?,
            None => {}
        }
        Ok(())
    }

    /// For machines. `trouble`: what ended the run early.
    pub(crate) fn json(&self, plan: &Plan, wall: Duration, trouble: Option<&str>) -> String {
        let failures: Vec<_> = self
            .listed
            .iter()
            .map(|failure| {
                serde_json::json!({"number": failure.number, "command": failure.command, "reason": failure.reason})
            })
            .collect();
        serde_json::json!({
            "succeeded": self.succeeded,
            "failed": self.failed,
            "timed_out": self.timed_out,
            "stopped": self.stopped,
            "not_run": self.not_run,
            "wall_seconds": wall.as_secs_f64(),
            "user_seconds": self.user.as_secs_f64(),
            "system_seconds": self.system.as_secs_f64(),
            "peak_memory_bytes": self.peak.as_ref().map(|(peak, _)| peak),
            "peak_memory_command": self.peak.as_ref().map(|(_, command)| command),
            "dropped_output_bytes": self.dropped_bytes,
            "leftover_processes": self.leftovers,
            "surviving_processes": self.survivors,
            "class": plan.class.name,
            "jobs": plan.jobs,
            "failures": failures,
            "rerun": self.rerun(plan),
            "error": trouble,
        })
        .to_string()
    }
}

/// One line, not too long.
fn shorten(text: String, most: usize) -> String {
    let text = text.replace('\n', "\\n");
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.2} s", time.as_secs_f64())
    } else {
        format_duration(Duration::from_secs(time.as_secs()))
    }
}

/// A size to three figures, in binary units as memory is counted.
fn format_rounded(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format_size(bytes)
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}
