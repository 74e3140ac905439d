//! What becomes of a command that has ended: printed, kept, logged, counted, or tried again.

use std::cmp::Reverse;
use std::fs::File;
use std::time::Duration;

use flyball_core::time::{Clock, OsClock, unix_nanos};
use flyball_process::{Ended, Error, Exit, Output, SpawnReason};

use super::{Batch, Retry, Running, Stop, cannot_keep, with_cause};
use crate::input::Input;
use crate::run::bounds::After;
use crate::run::joblog;
use crate::run::lines::Drained;
use crate::run::options::When;
use crate::run::output::Held;
use crate::run::results::Pending;
use crate::run::summary::Outcome;
use crate::signals;
use crate::template::Filling;

/// Longest wait before another attempt.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(3600);

impl Batch {
    pub(super) fn ended(&mut self, number: u64, result: Box<Result<Exit, Error>>) {
        let Some(running) = self.running.get_mut(&number) else {
            return;
        };
        running.after = self.bounds.ended(number, &result);
        if let Some(lines) = &mut self.lines {
            running.ended = Some(result);
            lines.end(number);
            return;
        }
        if let Some(running) = self.running.remove(&number) {
            self.over(number, running, *result, None);
        }
    }

    pub(super) fn drained(&mut self, drained: Drained) {
        if let Some(mut running) = self.running.remove(&drained.number)
            && let Some(result) = running.ended.take()
        {
            self.over(drained.number, running, *result, Some(drained));
        }
    }

    /// A command has ended, and its output has been read.
    fn over(
        &mut self,
        number: u64,
        running: Running,
        mut result: Result<Exit, Error>,
        drained: Option<Drained>,
    ) {
        let Running {
            child,
            input,
            attempt,
            slot,
            pending,
            after,
            ..
        } = running;
        child.detach();
        self.pace.ended = self.pace.ended.saturating_add(1);
        if let Some(free) = &mut self.free_slots {
            free.push(Reverse(slot));
        }
        if matches!(result, Err(Error::Withdrawn)) {
            self.summary.not_run += 1;
            if let Some(pending) = pending {
                pending.discard();
            }
            return;
        }
        let stopping = self.stop >= Stop::Now;
        if after == After::Again && self.stop == Stop::No {
            if let Some(pending) = pending {
                pending.discard();
            }
            self.again.push_back((number, input, attempt));
            return;
        }
        let reason = match after {
            After::Failed(reason) => {
                count_as_killed(&mut result);
                Some(reason)
            }
            After::Counts | After::Again => None,
        };
        if reason.is_none() && self.tries_again(&result, attempt) {
            self.summary.tried(&result);
            if let Some(pending) = pending {
                pending.discard();
            }
            self.retry(number, input, attempt);
            return;
        }
        let (stdout, stderr) = result.as_mut().map_or((None, None), |exit| {
            (exit.stdout.take(), exit.stderr.take())
        });
        let outputs = || [&stdout, &stderr].into_iter().flatten();
        self.summary.dropped(outputs().map(Output::dropped).sum());
        // What is missing for another reason than the bound is an error: the output is not whole.
        if let Some(error) = outputs().find_map(Output::error) {
            let folder = std::env::temp_dir();
            self.trouble.get_or_insert(format!(
                "output was lost, it could not be kept in {}: {error}",
                folder.display()
            ));
            self.halt(Stop::Soon);
        }
        let written = match &drained {
            Some(drained) => drained.stdout_bytes,
            None => stdout.as_ref().map_or(0, Output::written),
        };
        let filling = Filling {
            values: &input.values,
            number,
            slot,
        };
        let stopped = stopping && result.as_ref().is_ok_and(|exit| exit.killed);
        let lost = drained.and_then(|drained| drained.lost);
        if let Err(error) = self.keep(&filling, pending, [&stdout, &stderr], lost, &result) {
            self.trouble.get_or_insert(cannot_keep(&error));
            self.halt(Stop::Soon);
            // What is not kept runs again when the run is resumed.
            self.joblog_misses = true;
        }
        // What the run itself ended is not told, so that it runs again.
        if let Some(joblog) = &self.joblog
            && !stopped
            && !self.joblog_misses
            && let Some((exit, signal)) = joblog::status(&result)
        {
            let ran = result.as_ref().map_or(Duration::ZERO, |exit| exit.wall);
            let read = input
                .block
                .as_ref()
                .and_then(|block| block.metadata().ok())
                .map_or(0, |metadata| metadata.len());
            joblog.write(joblog::Line {
                number,
                started: Duration::from_nanos(unix_nanos()).saturating_sub(ran),
                ran,
                read,
                written,
                exit,
                signal,
                command: self.plan.template.fill(&filling).logged(),
            });
        }
        let tag = self.plan.tag(&filling);
        let held = Held::new(tag, stdout, stderr);
        if !held.is_empty() {
            self.progress.clear();
        }
        if let Err(error) = self.printer.take(number, held) {
            self.cannot_print(&error);
        }
        // A shell says 141 where a plain command ends by SIGPIPE; what counts is that nobody reads any more.
        if self.plan.streams()
            && result.as_ref().is_ok_and(|exit| !exit.success())
            && signals::stdout_is_closed()
        {
            self.quiet_end = true;
            self.halt(Stop::Now);
        }
        let hopeless = self.plan.template.fixed_program() && is_hopeless(&result);
        if hopeless && self.trouble.is_none() {
            // It would not be there for the other inputs either.
            if let Err(error) = &result {
                self.trouble = Some(error.to_string());
            }
            self.halt(Stop::Soon);
        }
        if stopped && self.content {
            self.summary.not_needed(&result);
            return;
        }
        let plan = &self.plan;
        let values = input.values.clone();
        let outcome = Outcome {
            number,
            attempt,
            stopped,
        };
        self.summary
            .count(outcome, input.values, &result, reason, || {
                plan.fill(&values, number, slot).display()
            });
        let (failed, succeeded) = (self.summary.failed, self.summary.succeeded);
        let halt = self.plan.options.halt;
        let Some(when) = halt.decide(failed, succeeded, self.total()) else {
            return;
        };
        if self.stop == Stop::No {
            self.content = halt.seeks_success();
        }
        self.halt(match when {
            When::Soon => Stop::Soon,
            When::Now => Stop::Now,
        });
    }

    /// Puts a result in its place.
    fn keep(
        &mut self,
        filling: &Filling<'_>,
        pending: Option<Pending>,
        outputs: [&Option<Output>; 2],
        lost: Option<std::io::Error>,
        result: &Result<Exit, Error>,
    ) -> std::io::Result<()> {
        let Some(results) = &mut self.results else {
            return Ok(());
        };
        let mut pending = match pending {
            Some(pending) => pending,
            None => results.begin(filling)?,
        };
        let copy = |output: &Option<Output>, file: &mut File| match output {
            Some(output) => output.copy_to(file).map(drop),
            None => Ok(()),
        };
        let copied = match lost {
            Some(lost) => Err(lost),
            None => copy(outputs[0], &mut pending.stdout)
                .and_then(|()| copy(outputs[1], &mut pending.stderr)),
        };
        if let Err(error) = copied {
            pending.discard();
            return Err(error);
        }
        pending.finish(&exit_text(result))
    }

    /// Whether a failure is not the last word.
    fn tries_again(&self, result: &Result<Exit, Error>, attempt: u32) -> bool {
        let most = self.plan.options.retries.unwrap_or(1);
        let failed = match result {
            Ok(exit) => !exit.success(),
            Err(_) => !is_hopeless(result),
        };
        failed && attempt < most && self.stop == Stop::No
    }

    fn retry(&mut self, number: u64, input: Input, attempt: u32) {
        let first = self.plan.options.retry_delay.unwrap_or(Duration::ZERO);
        let wait = first
            .saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX))
            .min(RETRY_WAIT_MAX);
        self.retried.insert(number, input);
        self.retries.push(Reverse(Retry {
            at: OsClock.now().saturating_add(wait),
            number,
            attempt: attempt + 1,
        }));
    }
}

/// Lets a success of a command whose processes were killed in part be told as that kill everywhere, so that it runs again.
fn count_as_killed(result: &mut Result<Exit, Error>) {
    if let Ok(exit) = result
        && exit.success()
    {
        exit.ended = Ended::Signalled {
            signal: libc::SIGKILL,
            core: false,
        };
    }
}

/// How a command ended, for its `exit` file.
fn exit_text(result: &Result<Exit, Error>) -> String {
    match result {
        Ok(exit) if exit.timed_out => "timed out".to_owned(),
        Ok(exit) => match exit.ended {
            Ended::Exited(code) => code.to_string(),
            ended => ended.to_string(),
        },
        Err(Error::Spawn { reason, .. }) => reason.to_string(),
        Err(error) => with_cause(error),
    }
}

/// Whether starting it again would find the same.
fn is_hopeless(result: &Result<Exit, Error>) -> bool {
    matches!(result, Err(Error::Spawn { reason, .. }) if matches!(
        reason,
        SpawnReason::NotFound | SpawnReason::IsDirectory | SpawnReason::NotExecutable | SpawnReason::NotAProgram
    ))
}
