//! The loop of a run.
//!
//! `starting` decides which command starts, `ending` what becomes of one that has ended; here are the events, the stops and the end.

mod ending;
mod starting;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use flyball_core::id::ClassId;
use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_policy::sched::Algorithm;
use flyball_process::{
    Child, Error, Exit, Jobserver, JobserverOptions, Options, Slots, SpawnServer,
};

use super::bounds::{After, Bounds};
use super::joblog::{Begin, JobLog};
use super::lines::{Lines, Told};
use super::output::Printer;
use super::plan::{Plan, joblog_path};
use super::progress::{Figures, Mode, Progress};
use super::results::{Pending, Results};
use super::summary::Summary;
use crate::input::{Input, Read, Source};
use crate::signals;

/// Results that may wait for an earlier one under `--keep-order`; then no more commands start.
const WAITING_MAX: usize = 100_000;

/// Exit status after a signal.
const INTERRUPTED: u8 = 130;

/// After commands were killed at once, how long their ends are waited for. Keepers give up after 5 s; one that does not answer at
/// all was stopped by somebody, and goes with the spawn server.
const LAST_WAIT_NS: u64 = 6_000_000_000;

/// While commands end quicker than this, the loop looks at those of this time together: a wake-up for each costs as much as its work.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// So often it is seen whether they do.
const PACE_WINDOW_NS: u64 = 10_000_000;

/// How quickly commands end.
struct Pace {
    since: Timestamp,
    ended: u32,
    quick: bool,
}

impl Pace {
    fn new(now: Timestamp) -> Pace {
        Pace {
            since: now,
            ended: 0,
            quick: false,
        }
    }

    fn look(&mut self, now: Timestamp) {
        let passed = now.saturating_nanos_since(self.since);
        if passed >= PACE_WINDOW_NS {
            let usual = flyball_core::time::nanos_of(LOOK_EVERY) * u64::from(self.ended);
            *self = Pace {
                quick: passed < usual,
                ..Pace::new(now)
            };
        }
    }
}

/// What the loop is told.
pub(crate) enum Event {
    Input(Read),
    Ended(u64, Box<Result<Exit, Error>>),
    Line(Told),
    /// The joblog cannot be written.
    Trouble(String),
    Signal,
    /// The part of the machine that this run has is another.
    Shared,
}

/// Why a run did not begin.
pub(crate) struct Refused {
    pub(crate) why: String,
    pub(crate) status: u8,
}

impl Refused {
    fn usage(why: String) -> Refused {
        Refused { why, status: 2 }
    }

    fn system(why: String) -> Refused {
        Refused { why, status: 1 }
    }
}

struct Running {
    child: Child,
    input: Input,
    /// From 1.
    attempt: u32,
    /// From 1; 0 where nobody asks.
    slot: u32,
    /// Where its output goes while it runs.
    pending: Option<Pending>,
    /// How it ended, while its output is still being printed.
    ended: Option<Box<Result<Exit, Error>>>,
    /// What the bounds make of its end.
    after: After,
}

/// A command that waits for its next attempt.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Retry {
    at: Timestamp,
    number: u64,
    attempt: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    /// Start no more.
    Soon,
    /// And end what runs.
    Now,
    /// And do not wait for it.
    AtOnce,
}

/// A run under way.
pub(crate) struct Batch {
    plan: Plan,
    source: Source,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    slots: Slots,
    class: ClassId,
    /// Dropped after the slots: it ends whatever is left.
    _server: SpawnServer,
    running: HashMap<u64, Running>,
    /// What waits for another attempt, and its inputs.
    retries: BinaryHeap<Reverse<Retry>>,
    retried: HashMap<u64, Input>,
    /// Numbers of slots that are free, where commands are told theirs.
    free_slots: Option<BinaryHeap<Reverse<u32>>>,
    joblog: Option<JobLog>,
    results: Option<Results>,
    lines: Option<Lines>,
    bounds: Bounds,
    /// What was ended for want of memory, to run again alone: number, inputs, attempt.
    again: VecDeque<(u64, Input, u32)>,
    started: Timestamp,
    next_start: Timestamp,
    /// Of the command taken last.
    number: u64,
    pace: Pace,
    /// Commands taken from the inputs.
    taken: u64,
    exhausted: bool,
    stop: Stop,
    interrupted: bool,
    /// When the run ends although commands have not, after a second signal.
    last_wait: Option<Timestamp>,
    trouble: Option<String>,
    quiet_end: bool,
    /// Stopped because what was sought has succeeded.
    content: bool,
    /// A result could not be kept, so the joblog says no more.
    joblog_misses: bool,
    summary: Summary,
    printer: Printer,
    progress: Progress,
}

impl Batch {
    /// Opens what the run writes and starts the spawn server.
    pub(crate) fn start(
        plan: Plan,
        source: Source,
        events: Sender<Event>,
        inbox: Receiver<Event>,
    ) -> Result<Batch, Refused> {
        let told = events.clone();
        signals::watch(move |_| told.send(Event::Signal).is_ok())
            .map_err(|error| Refused::system(format!("cannot watch for signals: {error}")))?;
        let resumes = plan.options.resume || plan.options.resume_failed;
        let results = match &plan.options.results {
            Some(folder) => {
                Some(Results::new(folder, &plan.syntax(), resumes).map_err(Refused::usage)?)
            }
            None => None,
        };
        let joblog = joblog(&plan, resumes, results.as_ref(), &events)?;
        let failed = |error: Error| Refused::system(with_cause(&error));
        let mut options = Options::default();
        options.children_max = plan.jobs as usize;
        options.idle_keepers_max = plan.jobs as usize;
        let mut bounds = Bounds::new(&plan, &events);
        let mut bounded = options.clone();
        bounds.prepare(&mut bounded);
        let server = match SpawnServer::start(bounded) {
            Err(error) if bounds.give_way(&error) => SpawnServer::start(options),
            other => other,
        }
        .map_err(failed)?;
        if let (false, Some(warning)) = (plan.options.quiet, bounds.warning()) {
            let _ = writeln!(std::io::stderr(), "flyball: {warning}");
        }
        let slots = Slots::new(&server, bounds.slots(), Algorithm::Cfs);
        let class = slots.insert(plan.class.clone()).map_err(failed)?;
        if plan.shares_jobs() {
            // Where there can be none (no folder for its fifos, say), commands run as they would in any shell.
            let jobserver = Jobserver::start(bounds.slots(), JobserverOptions::default());
            slots.set_jobserver(jobserver.ok());
        }
        let printer = Printer::new(plan.options.keep_order)
            .map_err(|error| Refused::system(format!("cannot open standard output: {error}")))?;
        let now = OsClock.now();
        let terminal = std::io::stderr().is_terminal();
        let streams_to_terminal = plan.streams() && terminal;
        let unwanted = plan.options.no_progress || (plan.options.quiet && !plan.options.progress);
        let mode = match (unwanted || plan.once, signals::can_redraw()) {
            (true, _) => Mode::Nowhere,
            // What a command writes straight to the terminal would run into the bar.
            (false, true) if streams_to_terminal => Mode::Nowhere,
            (false, true) => Mode::Terminal { color: plan.color },
            (false, false) => Mode::Lines,
        };
        let progress = Progress::new(mode, now);
        let lines = if plan.options.line_buffer {
            let told = events.clone();
            let lines = Lines::start(progress.shown(), move |what| {
                let _ = told.send(Event::Line(what));
            });
            Some(lines.map_err(|error| {
                Refused::system(format!("cannot read outputs by lines: {error}"))
            })?)
        } else {
            None
        };
        let free_slots = plan
            .template
            .uses_slot()
            .then(|| (1..=plan.jobs).map(Reverse).collect());
        Ok(Batch {
            source,
            events,
            inbox,
            slots,
            class,
            _server: server,
            running: HashMap::new(),
            retries: BinaryHeap::new(),
            retried: HashMap::new(),
            free_slots,
            joblog,
            results,
            lines,
            bounds,
            again: VecDeque::new(),
            started: now,
            next_start: now,
            number: 0,
            pace: Pace::new(now),
            taken: 0,
            exhausted: false,
            stop: Stop::No,
            interrupted: false,
            last_wait: None,
            trouble: None,
            quiet_end: false,
            content: false,
            joblog_misses: false,
            summary: Summary::new(),
            printer,
            progress,
            plan,
        })
    }

    /// Runs until all is done, or stopped.
    pub(crate) fn run(mut self) -> ExitCode {
        loop {
            self.submit();
            let all_started = self.exhausted && self.retries.is_empty() && self.again.is_empty();
            let no_more = self.stop != Stop::No || all_started;
            if self.running.is_empty() && no_more {
                break;
            }
            let now = OsClock.now();
            if self.last_wait.is_some_and(|limit| limit <= now) {
                break;
            }
            self.bounds.tick(now);
            self.show(now);
            self.pace.look(now);
            if self.pace.quick && self.is_ahead() {
                std::thread::park_timeout(LOOK_EVERY);
            }
            let next_start =
                (self.next_start > now && self.wants_more()).then_some(self.next_start);
            let next_retry = match self.retries.peek() {
                Some(Reverse(retry)) if self.has_room() => Some(retry.at.max(self.next_start)),
                _ => None,
            };
            let wakings = [
                next_start,
                next_retry,
                self.bounds.due(),
                self.progress.due(),
                self.last_wait,
            ];
            let event = match wakings.into_iter().flatten().min() {
                Some(at) => match self.inbox.recv_timeout(at.duration_since(OsClock.now())) {
                    Ok(event) => event,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
                None => match self.inbox.recv() {
                    Ok(event) => event,
                    Err(_) => break,
                },
            };
            self.handle(event);
            // What has come meanwhile, before the next look at inputs and progress.
            while let Ok(event) = self.inbox.try_recv() {
                self.handle(event);
            }
        }
        self.finish()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Input(read) => {
                if let Err(error) = self.source.arrived(read) {
                    self.trouble
                        .get_or_insert(format!("cannot read inputs: {error}"));
                    self.halt(Stop::Soon);
                }
            }
            Event::Ended(number, result) => self.ended(number, result),
            Event::Line(Told::Drained(drained)) => self.drained(drained),
            Event::Line(Told::Unprintable(error)) => self.cannot_print(&error),
            Event::Trouble(what) => {
                self.trouble.get_or_insert(what);
                self.halt(Stop::Soon);
            }
            Event::Signal => self.signal(),
            Event::Shared => self.slots.resize(self.bounds.slots()),
        }
    }

    fn cannot_print(&mut self, error: &std::io::Error) {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // `| head` has seen enough.
            self.quiet_end = true;
        } else {
            self.trouble
                .get_or_insert(format!("cannot write output: {error}"));
        }
        self.halt(Stop::Now);
    }

    fn signal(&mut self) {
        self.interrupted = true;
        self.progress.clear();
        if self.stop < Stop::Now {
            if !self.plan.options.quiet {
                let _ = writeln!(
                    std::io::stderr(),
                    "flyball: stopping; once more to kill at once"
                );
            }
            self.halt(Stop::Now);
        } else {
            // A third signal does not wait.
            let wait = if self.last_wait.is_some() {
                0
            } else {
                LAST_WAIT_NS
            };
            self.last_wait = Some(OsClock.now().saturating_add_nanos(wait));
            self.halt(Stop::AtOnce);
        }
    }

    fn halt(&mut self, stop: Stop) {
        if stop <= self.stop {
            return;
        }
        self.stop = stop;
        if stop >= Stop::Now {
            self.bounds.release();
        }
        for running in self.running.values() {
            let control = running.child.control();
            match (stop, control.status()) {
                (_, flyball_process::Status::Queued) | (Stop::Now, _) => control.kill(),
                (Stop::AtOnce, _) => control.kill_now(),
                (Stop::No | Stop::Soon, _) => {}
            }
        }
    }

    /// Commands of the run, those left out not counted, where that is known.
    fn total(&self) -> Option<u64> {
        let total = self
            .inputs_total()
            .or_else(|| self.exhausted.then_some(self.taken));
        total.map(|total| total.saturating_sub(self.summary.skipped))
    }

    /// Commands that the inputs make, where that is known before they are taken.
    fn inputs_total(&self) -> Option<u64> {
        // How many inputs fit a command is known when they have been taken.
        let counted = self.plan.bytes == usize::MAX;
        let total = self.source.total(self.plan.each);
        total.filter(|_| counted)
    }

    fn figures(&self) -> Figures {
        Figures {
            done: self.summary.done(),
            failed: self.summary.failed,
            running: self.running.len().min(self.plan.jobs as usize),
            total: self.total(),
            held_by: self.bounds.held_by(),
        }
    }

    fn show(&mut self, now: Timestamp) {
        if self.progress.due().is_some_and(|due| due <= now) {
            let figures = self.figures();
            self.progress.show(now, figures);
        }
    }

    fn finish(mut self) -> ExitCode {
        self.bounds.finish();
        self.progress.clear();
        if let Err(error) = self.printer.finish() {
            self.cannot_print(&error);
        }
        if let Some(mut lines) = self.lines.take() {
            for number in self.running.keys() {
                lines.end(*number);
            }
        }
        if let Some(joblog) = &mut self.joblog {
            joblog.finish();
        }
        // What the threads of lines and joblog have said last.
        while let Ok(event) = self.inbox.try_recv() {
            match event {
                Event::Line(Told::Unprintable(error)) => self.cannot_print(&error),
                Event::Trouble(what) => {
                    self.trouble.get_or_insert(what);
                }
                _ => {}
            }
        }
        if let Some(total) = self.total() {
            let ended = self.summary.done() + self.summary.unneeded;
            self.summary.not_run = total.saturating_sub(ended);
        }
        self.summary.sort();
        let wall: Duration = OsClock.now().duration_since(self.started);
        let mut err = std::io::stderr().lock();
        if let Some(trouble) = &self.trouble {
            let _ = writeln!(err, "flyball: {trouble}");
        }
        if self.plan.options.json {
            let trouble = self.trouble.as_deref();
            let _ = writeln!(
                err,
                "{}",
                self.summary.json(&self.plan, wall, &self.bounds, trouble)
            );
        } else if !self.plan.options.quiet && !self.quiet_end {
            if self.taken == 0 && !self.interrupted && self.trouble.is_none() {
                let none = if self.plan.options.retry_failed {
                    "nothing in the joblog has failed, nothing to run"
                } else {
                    "no inputs, nothing to run"
                };
                let _ = writeln!(err, "flyball: {none}");
            } else if !self.plan.once || self.summary.failed > 0 {
                let _ = self.summary.tell(&self.plan, wall, &self.bounds, &mut err);
            }
        }
        drop(err);
        if self.interrupted {
            return ExitCode::from(INTERRUPTED);
        }
        let failed =
            (self.summary.failed > 0 && !self.content) || self.trouble.is_some() || self.quiet_end;
        if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

/// An error and what was behind it.
pub(super) fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn cannot_keep(error: &std::io::Error) -> String {
    format!("cannot keep results: {error}")
}

/// Opens the joblog, if there shall be one.
fn joblog(
    plan: &Plan,
    resumes: bool,
    results: Option<&Results>,
    events: &Sender<Event>,
) -> Result<Option<JobLog>, Refused> {
    let Some(given) = &plan.options.joblog else {
        return Ok(None);
    };
    let path = joblog_path(given);
    let begin = if resumes || plan.options.retry_failed || path != given {
        Begin::Append
    } else {
        Begin::Anew
    };
    let folder = results
        .map(Results::folder)
        .transpose()
        .map_err(|error| Refused::usage(cannot_keep(&error)))?;
    let events = events.clone();
    JobLog::open(path, begin, folder, move |what| {
        let _ = events.send(Event::Trouble(what));
    })
    .map(Some)
    .map_err(Refused::usage)
}
