//! From the options to what is run: everything that can be wrong is found here, before anything happens.

mod sources;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use flyball_core::class::ClassSpec;

use super::batch::Event;
use super::joblog::Past;
use super::options::Run;
use crate::args::Color;
use crate::input::Source;
use crate::signals;
use crate::template::{Filling, Ready, Syntax, Template, Text};
pub(crate) use sources::SEPARATORS;
use sources::{Inputs, in_blocks, inputs, retried, split};

/// Bytes of inputs for one command under `-X`; what xargs takes too.
const COMMAND_BYTES: usize = 128 * 1024;

/// Descriptors that a run needs beside those for each command at once: its streams, sockets and files for outputs.
const OWN_DESCRIPTORS: u64 = 20;

/// More of them where results, a joblog or a thread for lines are open.
const MORE_DESCRIPTORS: u64 = 8;

/// What `run` was asked for, checked.
pub(crate) struct Plan {
    pub(crate) options: Run,
    pub(crate) class: ClassSpec,
    pub(crate) template: Template,
    /// The command as it was typed, for the command that reruns.
    pub(crate) command: Vec<OsString>,
    /// Names of the inputs.
    pub(crate) names: Vec<OsString>,
    /// What `--tagstring` says.
    pub(crate) tag: Option<Text>,
    /// Inputs for each command, at most.
    pub(crate) each: usize,
    /// Bytes of inputs for each command, at most.
    pub(crate) bytes: usize,
    pub(crate) jobs: u32,
    pub(crate) color: bool,
    /// A single command that may use the terminal.
    pub(crate) once: bool,
    /// Whether the inputs of a command come from several sources or columns.
    pub(crate) combined: bool,
    /// Commands that are left out, by number.
    pub(crate) skipped: HashSet<u64>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) workdir: Option<PathBuf>,
}

impl Plan {
    /// Whether commands are told of a jobserver. One command alone has no jobs to share, and what it starts is its own affair.
    pub(crate) fn shares_jobs(&self) -> bool {
        self.jobs > 1 && !self.once && has_room_for_jobserver(&self.options, self.jobs)
    }

    /// The placeholders of this run.
    pub(crate) fn syntax(&self) -> Syntax<'_> {
        syntax(&self.options, &self.names)
    }

    /// Whether outputs are taken and printed whole.
    pub(crate) fn captures(&self) -> bool {
        let options = &self.options;
        let shared = self.jobs > 1 || options.tags();
        !options.ungroup
            && !options.line_buffer
            && (options.results.is_some() || (!self.once && shared))
    }

    /// Whether commands write straight to the output of the run.
    pub(crate) fn streams(&self) -> bool {
        !self.captures() && !self.options.line_buffer
    }

    /// The command for these inputs.
    pub(crate) fn fill(&self, values: &[OsString], number: u64, slot: u32) -> Ready {
        self.template.fill(&Filling {
            values,
            number,
            slot,
        })
    }

    /// What stands in front of each line of output; nothing without a tag.
    pub(crate) fn tag(&self, filling: &Filling<'_>) -> Vec<u8> {
        let mut text = match &self.tag {
            Some(text) => text.fill(filling, |value| value),
            None if !self.options.tag => return Vec::new(),
            None if filling.values.is_empty() => filling.number.to_string().into_bytes(),
            None => filling
                .values
                .iter()
                .map(|value| value.as_bytes())
                .collect::<Vec<_>>()
                .join(&b' '),
        };
        // What would harm a terminal or break the line is made visible; a tag may have columns of its own.
        text.iter_mut()
            .filter(|byte| byte.is_ascii_control() && !(self.tag.is_some() && **byte == b'\t'))
            .for_each(|byte| *byte = b'?');
        text.push(b'\t');
        text
    }
}

fn syntax<'a>(options: &'a Run, names: &'a [OsString]) -> Syntax<'a> {
    Syntax {
        names,
        replace: options.replace.as_deref(),
        pipe: options.pipe,
    }
}

/// Checks the options and opens the inputs.
pub(crate) fn plan(options: Run, events: &Sender<Event>) -> Result<(Plan, Source), String> {
    options.bounds.check()?;
    let class = class(&options)?;
    let (command, groups) = split(&options)?;
    let reads_terminal = groups.is_empty() && !options.retry_failed && io::stdin().is_terminal();
    if command.is_empty() && (reads_terminal || options.pipe) {
        return Err(
            "what shall be run? `flyball run COMMAND ::: INPUT…`; see `flyball run --help`"
                .to_owned(),
        );
    }
    if command.first().is_some_and(|program| program.is_empty()) {
        return Err("the name of the command is empty".to_owned());
    }
    let (resumes, skipped) = past(&options)?;
    let Inputs {
        source,
        names,
        sources,
    } = if options.retry_failed {
        retried(&options, &command)?
    } else if options.pipe {
        in_blocks(&options, &groups, events)?
    } else if reads_terminal {
        Inputs::of(Source::once())
    } else {
        inputs(&options, groups, resumes, events)?
    };
    let shell = std::env::var_os("SHELL");
    let template = if options.retry_failed {
        Template::parse(&[], shell, &Syntax::default())?
    } else {
        Template::parse(&command, shell, &syntax(&options, &names))?
    };
    check_places(&options, &template, sources)?;
    let tag = options
        .tagstring
        .as_ref()
        .map(|text| Text::parse(text, &syntax(&options, &names)));
    let bytes = options.max_chars.map_or(COMMAND_BYTES, |most| {
        (most as usize)
            .saturating_sub(template.fixed_bytes())
            .max(1)
    });
    let (each, bytes) = match (options.max_args, options.xargs) {
        _ if options.pipe => (1, usize::MAX),
        (Some(count), _) => (count as usize, bytes),
        (None, true) => (usize::MAX, bytes),
        (None, false) => (1, usize::MAX),
    };
    let color = match options.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            signals::can_redraw()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    Ok((
        Plan {
            class,
            template,
            command,
            tag,
            each,
            bytes,
            jobs: jobs(&options),
            color,
            once: source.is_once(),
            combined: sources > 1 || options.colsep.is_some() || !names.is_empty(),
            names,
            skipped,
            env: variables(&options)?,
            workdir: workdir(&options)?,
            options,
        },
        source,
    ))
}

fn class(options: &Run) -> Result<ClassSpec, String> {
    let built_in = ClassSpec::built_in();
    let known: Vec<&str> = built_in.iter().map(|class| class.name.as_str()).collect();
    built_in
        .iter()
        .find(|class| class.name == options.class)
        .cloned()
        .ok_or_else(|| {
            format!(
                "there is no class {:?}; the classes are {}",
                options.class,
                known.join(", ")
            )
        })
}

/// Whether the run goes on with an earlier one, and which of its commands are left out.
fn past(options: &Run) -> Result<(bool, HashSet<u64>), String> {
    let resumes = options.resume || options.resume_failed;
    let Some(path) = options.joblog.as_ref().filter(|_| resumes) else {
        return Ok((resumes, HashSet::new()));
    };
    if options.shuf && options.seed.is_none() {
        return Err(
            "--resume counts commands, and --shuf without --seed numbers them anew each time"
                .to_owned(),
        );
    }
    let past = Past::read(joblog_path(path), false)?;
    Ok((true, past.numbers(options.resume_failed)))
}

/// `+FILE` means to append.
pub(crate) fn joblog_path(given: &Path) -> &Path {
    match given.as_os_str().as_bytes().strip_prefix(b"+") {
        Some(rest) => Path::new(OsStr::from_bytes(rest)),
        None => given,
    }
}

/// Refuses a placeholder for an input that no command has.
fn check_places(options: &Run, template: &Template, sources: usize) -> Result<(), String> {
    if options.colsep.is_some() || options.retry_failed {
        return Ok(());
    }
    // Under -n the last command may have fewer inputs than the others, and gets nothing for the rest.
    let most = match (sources, options.max_args, options.xargs) {
        (2.., _, _) => sources,
        (_, Some(count), _) => count as usize,
        (_, None, true) => usize::MAX,
        (_, None, false) => 1,
    };
    match template.highest_input().filter(|asked| *asked > most) {
        Some(asked) => Err(format!(
            "the command asks for input {{{asked}}}, but each command has {most}"
        )),
        None => Ok(()),
    }
}

/// Descriptors that each command takes, and those that the run takes for itself.
fn descriptors(options: &Run) -> (u64, u64) {
    let each = 1
        + 2 * u64::from(options.line_buffer)
        + 2 * u64::from(options.line_buffer && options.results.is_some())
        + 2 * u64::from(options.pipe);
    let keeps = options.results.is_some() || options.joblog.is_some() || options.line_buffer;
    let own = OWN_DESCRIPTORS + if keeps { MORE_DESCRIPTORS } else { 0 };
    (each, own)
}

/// Whether there is room for a jobserver beside so many commands: its own descriptors, and a lane for each command.
fn has_room_for_jobserver(options: &Run, jobs: u32) -> bool {
    const OF_JOBSERVER: u64 = 8;
    const OF_LANE: u64 = 2;
    let (each, own) = descriptors(options);
    signals::descriptors_max()
        .is_none_or(|most| most >= own + OF_JOBSERVER + (each + OF_LANE) * u64::from(jobs))
}

/// Commands at once, as far as descriptors allow.
fn jobs(options: &Run) -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let mut jobs = options.jobs.on(cpus);
    let (each, own) = descriptors(options);
    if let Some(room) = signals::descriptors_max().map(|most| most.saturating_sub(own) / each)
        && u64::from(jobs) > room
    {
        jobs = (room as u32).max(1);
        if !options.quiet {
            let _ = writeln!(
                io::stderr(),
                "flyball: {jobs} at once, no more: the limit of open files (ulimit -n) leaves no room"
            );
        }
    }
    jobs
}

/// Variables to set. A name alone is what other tools need to carry it along; here commands have it anyway.
fn variables(options: &Run) -> Result<Vec<(OsString, OsString)>, String> {
    let mut set = Vec::new();
    for given in &options.env {
        let bytes = given.as_bytes();
        let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        if name.is_empty() {
            return Err(format!("--env {given:?}: expected NAME=VALUE"));
        }
        if let Some(value) = value {
            set.push((
                OsString::from_vec(name.to_vec()),
                OsString::from_vec(value.to_vec()),
            ));
        }
    }
    Ok(set)
}

fn workdir(options: &Run) -> Result<Option<PathBuf>, String> {
    let Some(folder) = &options.workdir else {
        return Ok(None);
    };
    let failed = |why: String| format!("--workdir {}: {why}", folder.display());
    let whole = folder
        .canonicalize()
        .map_err(|error| failed(error.to_string()))?;
    if !whole.is_dir() {
        return Err(failed("it is no folder".to_owned()));
    }
    Ok(Some(whole))
}
