//! What came of the run: counted as it goes, told at the end.

use std::io::Write;
use std::time::Duration;

use flyball_core::units::{format_duration, format_size};
use flyball_process::{Error, Exit};

use super::batch::with_cause;
use super::bounds::Bounds;
use super::plan::Plan;
use super::rerun::{self, RERUN_BYTES_MAX};
use crate::template::Values;

/// Failures that the summary lists one by one.
const LISTED_MAX: usize = 10;

/// Characters of a command in the list of failures.
const SHOWN_CHARS_MAX: usize = 200;

/// Characters of the command that took most memory: it stands in the first line, which should stay one.
const PEAK_CHARS_MAX: usize = 60;

/// Which attempt at which command ended.
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) number: u64,
    /// From 1.
    pub(crate) attempt: u32,
    /// It was ended because the run is.
    pub(crate) stopped: bool,
}

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
    /// Left out, as the joblog says.
    pub(crate) skipped: u64,
    /// Ended because others had succeeded.
    pub(crate) unneeded: u64,
    /// Attempts that failed and were followed by another.
    retried: u64,
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

    /// Counts output that was dropped, at the bound or because there was no room for it.
    pub(crate) fn dropped(&mut self, bytes: u64) {
        self.dropped_bytes += bytes;
    }

    fn used(&mut self, exit: &Exit) {
        self.user += exit.user;
        self.system += exit.system;
        self.leftovers += u64::from(exit.leftovers);
        self.survivors += u64::from(exit.survivors);
    }

    /// Counts what an attempt took that is followed by another.
    pub(crate) fn tried(&mut self, result: &Result<Exit, Error>) {
        self.retried += 1;
        if let Ok(exit) = result {
            self.used(exit);
        }
    }

    /// Counts what a command took that was ended because others had succeeded.
    pub(crate) fn not_needed(&mut self, result: &Result<Exit, Error>) {
        self.unneeded += 1;
        if let Ok(exit) = result {
            self.used(exit);
        }
    }

    /// Counts a command. `reason`: it failed for this, whatever it answered.
    pub(crate) fn count(
        &mut self,
        outcome: Outcome,
        values: Values,
        result: &Result<Exit, Error>,
        reason: Option<String>,
        display: impl Fn() -> String,
    ) {
        let number = outcome.number;
        let mut reason = match result {
            Ok(exit) => {
                self.used(exit);
                if self
                    .peak
                    .as_ref()
                    .is_none_or(|(peak, _)| exit.peak_memory > *peak)
                {
                    self.peak = Some((exit.peak_memory, shorten(display(), PEAK_CHARS_MAX)));
                }
                if exit.success() && reason.is_none() {
                    self.succeeded += 1;
                    return;
                }
                if let Some(reason) = reason {
                    reason
                } else if exit.timed_out {
                    self.timed_out += 1;
                    "timed out".to_owned()
                } else if outcome.stopped {
                    self.stopped += 1;
                    "stopped".to_owned()
                } else {
                    exit.ended.to_string()
                }
            }
            Err(Error::Spawn { reason, .. }) => reason.to_string(),
            Err(error) => with_cause(error),
        };
        if outcome.attempt > 1 {
            reason += &format!(", attempt {}", outcome.attempt);
        }
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
    }

    /// Puts the failures in the order of their inputs.
    pub(crate) fn sort(&mut self) {
        self.listed.sort_by_key(|failure| failure.number);
    }

    /// The command that runs again what failed, if it is one that can be pasted.
    pub(crate) fn rerun(&self, plan: &Plan) -> Option<String> {
        if self.failed == 0 {
            return None;
        }
        rerun::command(plan, self.again_complete.then_some(&self.again))
    }

    /// For people.
    pub(crate) fn tell(
        &self,
        plan: &Plan,
        wall: Duration,
        bounds: &Bounds,
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
        for (count, what) in [
            (self.unneeded, "not needed any more"),
            (self.not_run, "not run"),
            (self.skipped, "left out"),
        ] {
            if count > 0 {
                counts += &format!(", {count} {what}");
            }
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
        if self.retried > 0 {
            let (attempts, were) = match self.retried {
                1 => ("attempt", "was"),
                _ => ("attempts", "were"),
            };
            writeln!(
                out,
                "  {} {attempts} failed and {were} followed by another",
                self.retried
            )?;
        }
        for line in bounds.lines() {
            writeln!(out, "  {line}")?;
        }
        if self.dropped_bytes > 0 {
            writeln!(
                out,
                "  {} of output were dropped: beyond what is kept of a command, or not to be kept",
                format_rounded(self.dropped_bytes)
            )?;
        }
        if self.leftovers > 0 {
            let (processes, were) = match self.leftovers {
                1 => ("process", "its command and was"),
                _ => ("processes", "their command and were"),
            };
            writeln!(
                out,
                "  {} {processes} outlived {were} ended",
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
            None if self.failed > 0 => writeln!(out, "  {}", rerun::without_one(plan))?,
            None => {}
        }
        Ok(())
    }

    /// For machines. `trouble`: what ended the run early.
    pub(crate) fn json(
        &self,
        plan: &Plan,
        wall: Duration,
        bounds: &Bounds,
        trouble: Option<&str>,
    ) -> String {
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
            "skipped": self.skipped,
            "unneeded": self.unneeded,
            "retried": self.retried,
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
            "bounds": bounds.json(),
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
pub(super) fn format_rounded(bytes: u64) -> String {
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
