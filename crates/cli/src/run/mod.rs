//! `flyball run`: a batch of commands within bounds.
//!
//! One loop on the main thread (`batch`): it takes events (a command ended, inputs arrived, a signal, time for progress), decides,
//! and hands commands to process slots. A few more than run are queued there, so that a slot is filled the moment it is free.
//! `plan` turns options into what is run; `joblog`, `results` and `lines` are there when they are asked for, and cost nothing else.
//!
//! Invariants: inputs are read as they are needed; what is held back for `--keep-order` goes to a file beyond a bound; when the
//! loop ends nothing of any command runs.

mod batch;
mod bounds;
mod joblog;
mod lines;
mod options;
mod output;
mod plan;
mod progress;
mod rerun;
mod results;
mod summary;

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc::channel;

use crate::input::{Next, Source};
use crate::{cannot_write, complain};
use batch::{Batch, Event};
pub(crate) use options::{Run, parse_time};
pub(crate) use output::nameless_file;
use plan::Plan;

/// Runs the batch and answers the exit status.
pub(crate) fn run(options: Run) -> ExitCode {
    let (events, inbox) = channel();
    let (plan, source) = match plan::plan(options, &events) {
        Ok(planned) => planned,
        Err(wrong) => return complain(&wrong, 2),
    };
    if plan.options.dry_run {
        return dry_run(&plan, source, &inbox);
    }
    match Batch::start(plan, source, events, inbox) {
        Ok(batch) => batch.run(),
        Err(refused) => complain(&refused.why, refused.status),
    }
}

/// Prints what would run.
fn dry_run(plan: &Plan, mut source: Source, inbox: &std::sync::mpsc::Receiver<Event>) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut number = 0;
    loop {
        match source.next(plan.each, plan.bytes) {
            Next::Input(input) => {
                number = input.number.unwrap_or(number + 1);
                if plan.skipped.contains(&number) {
                    continue;
                }
                let slot = ((number - 1) % u64::from(plan.jobs)) as u32 + 1;
                let ready = plan.fill(&input.values, number, slot);
                if let Err(error) = writeln!(out, "{}", ready.display()) {
                    return cannot_write(&error);
                }
            }
            Next::Later => match inbox.recv() {
                Ok(Event::Input(read)) => {
                    if let Err(error) = source.arrived(read) {
                        return complain(&format!("cannot read inputs: {error}"), 1);
                    }
                }
                _ => return ExitCode::FAILURE,
            },
            Next::End => break,
        }
    }
    if let Err(error) = out.flush() {
        return cannot_write(&error);
    }
    if number == 0 && !plan.options.quiet {
        return complain("no inputs, nothing to run", 0);
    }
    ExitCode::SUCCESS
}
