//! `flyball run`: a batch of commands within bounds.
//!
//! One loop on the main thread: it takes events (a command ended, inputs arrived, a signal, time for progress), decides, and hands
//! commands to process slots. A few more than run are queued there, so that a slot is filled the moment it is free.
//!
//! Invariants: inputs are read as they are needed; what is held back for `--keep-order` goes to a file beyond a bound; when the
//! loop ends nothing of any command runs.

mod batch;
mod options;
mod output;
mod progress;
mod summary;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};

use flyball_core::class::ClassSpec;

use crate::args::Color;
use crate::input::{Next, Source};
use crate::signals;
use crate::template::Template;
use crate::{cannot_write, complain};
use batch::{Batch, Event};
pub(crate) use options::Run;

const SEPARATOR: &str = ":::";

/// Bytes of inputs for one command under `-X`; what xargs takes too.
const COMMAND_BYTES: usize = 128 * 1024;

/// Descriptors that a run needs beside one for each command at once: its streams, sockets and files for outputs.
const OWN_DESCRIPTORS: u64 = 20;

/// What `run` was asked for, checked.
pub(crate) struct Plan {
    pub(crate) options: Run,
    pub(crate) class: ClassSpec,
    pub(crate) template: Template,
    /// The command as it was typed, for the command that reruns.
    pub(crate) command: Vec<OsString>,
    /// Inputs for each command, at most.
    pub(crate) each: usize,
    /// Bytes of inputs for each command, at most.
    pub(crate) bytes: usize,
    pub(crate) jobs: u32,
    pub(crate) color: bool,
    /// A single command that may use the terminal.
    pub(crate) once: bool,
}

/// Runs the batch and answers the exit status.
pub(crate) fn run(options: Run) -> ExitCode {
    let (events, inbox) = channel();
    let (plan, source) = match plan(options, &events) {
        Ok(planned) => planned,
        Err(wrong) => return complain(&wrong, 2),
    };
    if plan.options.dry_run {
        return dry_run(&plan, source, &inbox);
    }
    match Batch::start(plan, source, events, inbox) {
        Ok(batch) => batch.run(),
        Err(error) => complain(&error, 1),
    }
}

fn plan(options: Run, events: &Sender<Event>) -> Result<(Plan, Source), String> {
    options.bounds.check()?;
    let built_in = ClassSpec::built_in();
    let known: Vec<&str> = built_in.iter().map(|class| class.name.as_str()).collect();
    let class = built_in
        .iter()
        .find(|class| class.name == options.class)
        .cloned()
        .ok_or_else(|| {
            format!(
                "there is no class {:?}; the classes are {}",
                options.class,
                known.join(", ")
            )
        })?;
    let mut groups = options.words.split(|word| word == SEPARATOR);
    let command = groups.next().unwrap_or_default().to_vec();
    let lists: Vec<Vec<OsString>> = groups.map(<[OsString]>::to_vec).collect();
    if options.arg_file.is_some() && !lists.is_empty() {
        return Err("inputs come from --arg-file or from `:::`, not from both".to_owned());
    }
    if (options.max_args.is_some() || options.xargs) && lists.len() > 1 {
        return Err("-n and -X take inputs of one `:::`, not combinations of several".to_owned());
    }
    let from_terminal =
        lists.is_empty() && options.arg_file.is_none() && std::io::stdin().is_terminal();
    if command.is_empty() && from_terminal {
        return Err(
            "what shall be run? `flyball run COMMAND ::: INPUT…`; see `flyball run --help`"
                .to_owned(),
        );
    }
    if command.first().is_some_and(|program| program.is_empty()) {
        return Err("the name of the command is empty".to_owned());
    }
    let template = Template::parse(&command, std::env::var_os("SHELL"))?;
    // Under -n the last command may have fewer inputs than the others, and gets nothing for the rest.
    let most = match (lists.len(), options.max_args, options.xargs) {
        (2.., _, _) => lists.len(),
        (_, Some(count), _) => count as usize,
        (_, None, true) => usize::MAX,
        (_, None, false) => 1,
    };
    if let Some(asked) = template.highest_input().filter(|asked| *asked > most) {
        return Err(format!(
            "the command asks for input {{{asked}}}, but each command has {most}"
        ));
    }
    let end = if options.null { 0 } else { b'\n' };
    let source = if let Some(path) = &options.arg_file {
        let file = File::open(path)
            .map_err(|error| format!("cannot read inputs from {}: {error}", path.display()))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(format!(
                "cannot read inputs from {}: it is a directory",
                path.display()
            ));
        }
        Source::reading(BufReader::new(file), end, events.clone(), Event::Input)
    } else if !lists.is_empty() {
        Source::lists(lists)
    } else if from_terminal {
        Source::Once { done: false }
    } else {
        Source::reading(
            BufReader::new(std::io::stdin()),
            end,
            events.clone(),
            Event::Input,
        )
    };
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let color = match options.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            signals::can_redraw()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    let once = matches!(source, Source::Once { .. });
    let (each, bytes) = match (options.max_args, options.xargs) {
        (Some(count), _) => (count as usize, COMMAND_BYTES),
        (None, true) => (usize::MAX, COMMAND_BYTES),
        (None, false) => (1, usize::MAX),
    };
    let mut jobs = options.jobs.on(cpus);
    if let Some(room) = signals::descriptors_max().map(|most| most.saturating_sub(OWN_DESCRIPTORS))
        && u64::from(jobs) > room
    {
        jobs = (room as u32).max(1);
        if !options.quiet {
            let _ = writeln!(
                std::io::stderr(),
                "flyball: {jobs} at once, no more: the limit of open files (ulimit -n) leaves no room"
            );
        }
    }
    Ok((
        Plan {
            options,
            class,
            template,
            command,
            each,
            bytes,
            jobs,
            color,
            once,
        },
        source,
    ))
}

/// Prints what would run.
fn dry_run(plan: &Plan, mut source: Source, inbox: &std::sync::mpsc::Receiver<Event>) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut number = 0;
    loop {
        match source.next(plan.each, plan.bytes) {
            Next::Values(values) => {
                number += 1;
                let ready = plan.template.fill(&values, number);
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

/// Inputs as they stand in a tag: what would harm a terminal or break the line is made visible.
fn tag(values: &[OsString]) -> Vec<u8> {
    let mut text = values
        .iter()
        .map(|value| value.as_bytes())
        .collect::<Vec<_>>()
        .join(&b' ');
    text.iter_mut()
        .filter(|byte| byte.is_ascii_control())
        .for_each(|byte| *byte = b'?');
    text.push(b'\t');
    text
}
