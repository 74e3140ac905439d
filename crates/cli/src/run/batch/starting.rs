//! Which command starts when, and with what.

use std::cmp::Reverse;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use flyball_core::time::{Clock, OsClock};
use flyball_process::{Command, Isolation};

use super::{Batch, Event, Running, Stop, WAITING_MAX, cannot_keep, with_cause};
use crate::input::{Input, Next};
use crate::run::bounds::After;
use crate::run::options::Halt;
use crate::run::output::Held;
use crate::run::results::Pending;
use crate::signals;
use crate::template::Filling;

/// Most bytes of one output of one command that are kept until they are printed; more is dropped and counted.
const OUTPUT_BYTES_MAX: u64 = 1 << 30;

/// Commands that may wait for their next attempt; then no new ones start.
const RETRIES_WAITING_MAX: usize = 10_000;

/// Commands that wait to run again alone; then they run before inputs that are there.
const AGAIN_MAX: usize = 100;

/// Commands that are handed over beyond those that run, so that a free slot is filled without asking the loop.
const AHEAD: usize = 8;

impl Batch {
    /// Commands that may be handed over at once.
    fn most(&self) -> usize {
        // Where each end decides about the next start, nothing is handed over ahead of its slot.
        let options = &self.plan.options;
        let careful = options.halt != Halt::Never
            || options.delay.is_some()
            || self.free_slots.is_some()
            || self.bounds.careful();
        let jobs = self.bounds.slots() as usize;
        if careful {
            jobs
        } else {
            jobs + jobs.max(AHEAD)
        }
    }

    /// Whether slots find enough commands without this loop for a moment.
    pub(super) fn is_ahead(&self) -> bool {
        let most = self.most();
        self.running.len() == most && most >= self.bounds.slots() as usize + AHEAD
    }

    /// Whether another command may be handed over.
    pub(super) fn has_room(&self) -> bool {
        self.stop == Stop::No
            && self.running.len() < self.most()
            && self.printer.waiting() < WAITING_MAX
    }

    pub(super) fn wants_more(&self) -> bool {
        !self.exhausted && self.retries.len() < RETRIES_WAITING_MAX && self.has_room()
    }

    /// Commands that have not ended, where their number is known.
    fn left(&self) -> Option<usize> {
        let begun = self.running.len() + self.retries.len() + self.again.len();
        if self.exhausted {
            return Some(begun);
        }
        let to_come = self.inputs_total()?.saturating_sub(self.taken);
        Some(begun.saturating_add(usize::try_from(to_come).unwrap_or(usize::MAX)))
    }

    pub(super) fn submit(&mut self) {
        // Slots that this run cannot use are the others'.
        let left = self.left();
        self.bounds.left(left);
        let mut no_input = self.exhausted;
        while self.has_room() {
            // What was ended for the others runs when nothing else wants to, or there is too much of it.
            let alone = !self.again.is_empty() && (no_input || self.again.len() >= AGAIN_MAX);
            let retry_due = match self.retries.peek() {
                Some(Reverse(retry)) => retry.at <= OsClock.now(),
                None => false,
            };
            if !alone && !retry_due && !self.wants_more() {
                return;
            }
            if !self
                .bounds
                .may_start(OsClock.now(), self.running.len(), alone)
            {
                return;
            }
            if let Some(delay) = self.plan.options.delay {
                let now = OsClock.now();
                if now < self.next_start {
                    return;
                }
                self.next_start = now.saturating_add(delay);
            }
            if alone {
                if let Some((number, input, attempt)) = self.again.pop_front() {
                    self.submit_one(number, input, attempt, true);
                }
                continue;
            }
            if retry_due {
                self.submit_again();
                continue;
            }
            match self.source.next(self.plan.each, self.plan.bytes) {
                Next::Input(input) => {
                    self.number = input.number.unwrap_or(self.number + 1);
                    self.taken += 1;
                    if self.plan.skipped.contains(&self.number) {
                        self.summary.skipped += 1;
                        self.next_start = OsClock.now();
                        if let Err(error) = self.printer.take(self.number, Held::nothing()) {
                            self.cannot_print(&error);
                        }
                        continue;
                    }
                    self.submit_one(self.number, input, 1, false);
                }
                Next::Later if !self.again.is_empty() => {
                    self.next_start = OsClock.now();
                    no_input = true;
                }
                Next::Later => {
                    // Nothing started, so nothing has to be waited for.
                    self.next_start = OsClock.now();
                    return;
                }
                Next::End => {
                    self.next_start = OsClock.now();
                    self.exhausted = true;
                    no_input = true;
                }
            }
        }
    }

    fn submit_again(&mut self) {
        if let Some(Reverse(retry)) = self.retries.pop()
            && let Some(input) = self.retried.remove(&retry.number)
        {
            self.submit_one(retry.number, input, retry.attempt, false);
        }
    }

    fn submit_one(&mut self, number: u64, input: Input, attempt: u32, alone: bool) {
        let slot = match &mut self.free_slots {
            Some(free) => free.pop().map_or(0, |Reverse(slot)| slot),
            None => 0,
        };
        let ready = self.plan.fill(&input.values, number, slot);
        if self.plan.options.verbose {
            self.progress.clear();
            let _ = writeln!(std::io::stderr(), "{}", ready.display());
        }
        let mut argv = ready.argv.into_iter();
        let options = &self.plan.options;
        let mut command = Command::new(argv.next().unwrap_or_default())
            .args(argv)
            .grace(options.kill_after)
            .nice(options.nice.unwrap_or(0));
        if let Some(timeout) = options.timeout {
            command = command.timeout(timeout);
        }
        if let Some(folder) = &self.plan.workdir {
            command = command.current_dir(folder);
        }
        for (name, value) in &self.plan.env {
            command = command.env(name, value);
        }
        if self.plan.once {
            command = command
                .inherit_stdin()
                .isolation(Isolation::Join(signals::process_group()));
        }
        let mut pending = None;
        let submitted = self
            .connect(command, &input, number, slot, &mut pending)
            .and_then(|command| {
                let events = self.events.clone();
                let on_exit = move |result| {
                    // The loop has gone when nobody receives; then nobody wants to know.
                    let _ = events.send(Event::Ended(number, Box::new(result)));
                };
                self.slots
                    .submit_with(self.class, command, on_exit)
                    .map_err(|error| with_cause(&error))
            });
        match submitted {
            Ok(child) => {
                self.bounds
                    .started(OsClock.now(), number, child.control(), alone);
                let running = Running {
                    child,
                    input,
                    attempt,
                    slot,
                    pending,
                    ended: None,
                    after: After::Counts,
                };
                self.running.insert(number, running);
            }
            Err(error) => {
                self.trouble.get_or_insert(error);
                self.summary.not_run += 1;
                if let Some(pending) = pending {
                    pending.discard();
                }
                self.halt(Stop::Soon);
            }
        }
    }

    /// Gives a command its standard input, and takes its outputs.
    fn connect(
        &mut self,
        mut command: Command,
        input: &Input,
        number: u64,
        slot: u32,
        pending: &mut Option<Pending>,
    ) -> Result<Command, String> {
        if self.plan.once {
            command = command
                .inherit_stdin()
                .isolation(Isolation::Join(signals::process_group()));
        }
        if let Some(block) = &input.block {
            // Opened anew, so that each attempt reads from the start.
            let block = File::open(format!("/proc/self/fd/{}", block.as_raw_fd()))
                .map_err(|error| format!("cannot hand a block on: {error}"))?;
            command = command.stdin(block);
        }
        if self.plan.captures() {
            command = command
                .capture_stdout(OUTPUT_BYTES_MAX)
                .capture_stderr(OUTPUT_BYTES_MAX);
        }
        let Some(lines) = &mut self.lines else {
            return Ok(command);
        };
        let filling = Filling {
            values: &input.values,
            number,
            slot,
        };
        let mut copies = [None, None];
        if let Some(results) = &mut self.results {
            let kept = |error| cannot_keep(&error);
            let begun = pending.insert(results.begin(&filling).map_err(kept)?);
            copies = [
                Some(begun.stdout.try_clone().map_err(kept)?),
                Some(begun.stderr.try_clone().map_err(kept)?),
            ];
        }
        let [stdout, stderr] = lines
            .watch(number, self.plan.tag(&filling), copies)
            .map_err(|error| format!("cannot read outputs by lines: {error}"))?;
        Ok(command.stdout(stdout).stderr(stderr))
    }
}
