//! The loop of a run.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use flyball_core::id::ClassId;
use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_policy::sched::Algorithm;
use flyball_process::{
    Child, Command, Error, Exit, Isolation, Options, Slots, SpawnReason, SpawnServer,
};

use super::options::Halt;
use super::output::{Held, Printer};
use super::progress::{Figures, Mode, Progress};
use super::summary::Summary;
use super::{Plan, tag};
use crate::input::{Next, Read, Source};
use crate::signals;
use crate::template::Values;

/// Most bytes of one output of one command that are kept until they are printed; more is dropped and counted.
const OUTPUT_BYTES_MAX: u64 = 1 << 30;

/// Results that may wait for an earlier one under `--keep-order`; then no more commands start.
const WAITING_MAX: usize = 100_000;

/// Commands that are handed over beyond those that run, so that a free slot is filled without asking this loop.
const AHEAD: usize = 4;

/// Exit status after a signal.
const INTERRUPTED: u8 = 130;

/// After commands were killed at once, how long their ends are waited for. Keepers give up after 5 s; one that does not answer at
/// all was stopped by somebody, and goes with the spawn server.
const LAST_WAIT_NS: u64 = 6_000_000_000;

/// What the loop is told.
pub(crate) enum Event {
    Input(Read),
    Ended(u64, Box<Result<Exit, Error>>),
    Signal,
}

struct Running {
    child: Child,
    values: Values,
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
    started: Timestamp,
    next_start: Timestamp,
    number: u64,
    exhausted: bool,
    stop: Stop,
    interrupted: bool,
    /// When the run ends although commands have not, after a second signal.
    last_wait: Option<Timestamp>,
    trouble: Option<String>,
    quiet_end: bool,
    summary: Summary,
    printer: Printer,
    progress: Progress,
}

impl Batch {
    /// Starts the spawn server.
    pub(crate) fn start(
        plan: Plan,
        source: Source,
        events: Sender<Event>,
        inbox: Receiver<Event>,
    ) -> Result<Batch, String> {
        let told = events.clone();
        signals::watch(move |_| told.send(Event::Signal).is_ok())
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
        let failed = |error: Error| with_cause(&error);
        let mut options = Options::default();
        options.children_max = plan.jobs as usize;
        options.idle_keepers_max = plan.jobs as usize;
        let server = SpawnServer::start(options).map_err(failed)?;
        let slots = Slots::new(&server, plan.jobs, Algorithm::Cfs);
        let class = slots.insert(plan.class.clone()).map_err(failed)?;
        let printer = Printer::new(plan.options.keep_order)
            .map_err(|error| format!("cannot open standard output: {error}"))?;
        let now = OsClock.now();
        let terminal = std::io::stderr().is_terminal();
        let streams_to_terminal = plan.jobs == 1 && terminal;
        let mode = match (
            plan.options.quiet || plan.options.no_progress || plan.once,
            signals::can_redraw(),
        ) {
            (true, _) => Mode::Nowhere,
            // What a command writes straight to the terminal would run into the bar.
            (false, true) if streams_to_terminal => Mode::Nowhere,
            (false, true) => Mode::Terminal { color: plan.color },
            (false, false) => Mode::Lines,
        };
        Ok(Batch {
            source,
            events,
            inbox,
            slots,
            class,
            _server: server,
            running: HashMap::new(),
            started: now,
            next_start: now,
            number: 0,
            exhausted: false,
            stop: Stop::No,
            interrupted: false,
            last_wait: None,
            trouble: None,
            quiet_end: false,
            summary: Summary::new(),
            printer,
            progress: Progress::new(mode, now),
            plan,
        })
    }

    /// Runs until all is done, or stopped.
    pub(crate) fn run(mut self) -> ExitCode {
        loop {
            self.submit();
            if self.running.is_empty() && (self.exhausted || self.stop != Stop::No) {
                break;
            }
            let now = OsClock.now();
            if self.last_wait.is_some_and(|limit| limit <= now) {
                break;
            }
            self.show(now);
            let next_start =
                (self.next_start > now && self.wants_more()).then_some(self.next_start);
            let event = match [next_start, self.progress.due(), self.last_wait]
                .into_iter()
                .flatten()
                .min()
            {
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
            Event::Ended(number, result) => self.ended(number, *result),
            Event::Signal => self.signal(),
        }
    }

    fn wants_more(&self) -> bool {
        // Where each end decides about the next start, nothing is handed over ahead of its slot.
        let careful = self.plan.options.halt != Halt::Never || self.plan.options.delay.is_some();
        let jobs = self.plan.jobs as usize;
        let most = if careful {
            jobs
        } else {
            jobs + jobs.max(AHEAD)
        };
        !self.exhausted
            && self.stop == Stop::No
            && self.running.len() < most
            && self.printer.waiting() < WAITING_MAX
    }

    fn submit(&mut self) {
        while self.wants_more() {
            if let Some(delay) = self.plan.options.delay {
                let now = OsClock.now();
                if now < self.next_start {
                    return;
                }
                self.next_start = now.saturating_add(delay);
            }
            match self.source.next(self.plan.each, self.plan.bytes) {
                Next::Values(values) => self.submit_one(values),
                Next::Later => {
                    // Nothing started, so nothing has to be waited for.
                    self.next_start = OsClock.now();
                    return;
                }
                Next::End => self.exhausted = true,
            }
        }
    }

    fn submit_one(&mut self, values: Values) {
        self.number += 1;
        let number = self.number;
        let mut argv = self.plan.template.fill(&values, number).argv.into_iter();
        let options = &self.plan.options;
        let mut command = Command::new(argv.next().unwrap_or_default())
            .args(argv)
            .grace(options.kill_after)
            .nice(options.nice.unwrap_or(0));
        if let Some(timeout) = options.timeout {
            command = command.timeout(timeout);
        }
        if self.plan.once {
            command = command
                .inherit_stdin()
                .isolation(Isolation::Join(signals::process_group()));
        } else if self.captures() {
            command = command
                .capture_stdout(OUTPUT_BYTES_MAX)
                .capture_stderr(OUTPUT_BYTES_MAX);
        }
        let events = self.events.clone();
        let submitted = self.slots.submit_with(self.class, command, move |result| {
            // The loop has gone when nobody receives; then nobody wants to know.
            let _ = events.send(Event::Ended(number, Box::new(result)));
        });
        match submitted {
            Ok(child) => {
                self.running.insert(number, Running { child, values });
            }
            Err(error) => {
                self.trouble.get_or_insert(with_cause(&error));
                self.summary.not_run += 1;
                self.halt(Stop::Soon);
            }
        }
    }

    /// Whether outputs are taken and printed whole; a single job's stream.
    fn captures(&self) -> bool {
        !self.plan.once && (self.plan.jobs > 1 || self.plan.options.tag)
    }

    fn ended(&mut self, number: u64, mut result: Result<Exit, Error>) {
        let Some(Running { child, values }) = self.running.remove(&number) else {
            return;
        };
        child.detach();
        if matches!(result, Err(Error::Withdrawn)) {
            self.summary.not_run += 1;
            return;
        }
        let (stdout, stderr) = result.as_mut().map_or((None, None), |exit| {
            (exit.stdout.take(), exit.stderr.take())
        });
        let label = if self.plan.options.tag {
            tag(&values)
        } else {
            Vec::new()
        };
        let dropped = [&stdout, &stderr]
            .into_iter()
            .flatten()
            .map(flyball_process::Output::dropped)
            .sum::<u64>();
        self.summary.dropped(dropped);
        // What is missing for another reason than the bound is an error: the output is not whole.
        if let Some(error) = [&stdout, &stderr]
            .into_iter()
            .flatten()
            .find_map(flyball_process::Output::error)
        {
            let folder = std::env::temp_dir();
            self.trouble.get_or_insert(format!(
                "output was lost, it could not be kept in {}: {error}",
                folder.display()
            ));
            self.halt(Stop::Soon);
        }
        let held = Held::new(label, stdout, stderr);
        if !held.is_empty() {
            self.progress.clear();
        }
        if let Err(error) = self.printer.take(number, held) {
            self.cannot_print(&error);
        }
        // A shell says 141 where a plain command ends by SIGPIPE; what counts is that nobody reads any more.
        if !self.captures()
            && result.as_ref().is_ok_and(|exit| !exit.success())
            && signals::stdout_is_closed()
        {
            self.quiet_end = true;
            self.halt(Stop::Now);
        }
        let hopeless = self.plan.template.fixed_program()
            && matches!(&result, Err(Error::Spawn { reason, .. }) if matches!(
                reason,
                SpawnReason::NotFound | SpawnReason::IsDirectory | SpawnReason::NotExecutable | SpawnReason::NotAProgram
            ));
        if hopeless && self.trouble.is_none() {
            // It would not be there for the other inputs either.
            if let Err(error) = &result {
                self.trouble = Some(error.to_string());
            }
            self.halt(Stop::Soon);
        }
        let template = &self.plan.template;
        let display_values = values.clone();
        let failed = self
            .summary
            .count(number, values, &result, self.stop >= Stop::Now, || {
                template.fill(&display_values, number).display()
            });
        if failed {
            match self.plan.options.halt {
                Halt::Soon(limit) if self.summary.failed >= limit => self.halt(Stop::Soon),
                Halt::Now(limit) if self.summary.failed >= limit => self.halt(Stop::Now),
                _ => {}
            }
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
        for running in self.running.values() {
            let control = running.child.control();
            match (stop, control.status()) {
                (_, flyball_process::Status::Queued) | (Stop::Now, _) => control.kill(),
                (Stop::AtOnce, _) => control.kill_now(),
                (Stop::No | Stop::Soon, _) => {}
            }
        }
    }

    fn figures(&self) -> Figures {
        let total = match self.source.total(self.plan.each) {
            // How many inputs fit a command is known when they have been taken.
            Some(total) if self.plan.bytes == usize::MAX => Some(total),
            _ => self.exhausted.then_some(self.number),
        };
        Figures {
            done: self.summary.done(),
            failed: self.summary.failed,
            running: self.running.len().min(self.plan.jobs as usize),
            total,
        }
    }

    fn show(&mut self, now: Timestamp) {
        if self.progress.due().is_some_and(|due| due <= now) {
            let figures = self.figures();
            self.progress.show(now, figures);
        }
    }

    fn finish(mut self) -> ExitCode {
        self.progress.clear();
        if let Err(error) = self.printer.finish() {
            self.cannot_print(&error);
        }
        if let Some(total) = self.figures().total {
            self.summary.not_run = total.saturating_sub(self.summary.done());
        }
        self.summary.sort();
        let wall: Duration = OsClock.now().duration_since(self.started);
        let mut err = std::io::stderr().lock();
        if let Some(trouble) = &self.trouble {
            let _ = writeln!(err, "flyball: {trouble}");
        }
        if self.plan.options.json {
            let trouble = self.trouble.as_deref();
            let _ = writeln!(err, "{}", self.summary.json(&self.plan, wall, trouble));
        } else if !self.plan.options.quiet && !self.quiet_end {
            if self.number == 0 && !self.interrupted && self.trouble.is_none() {
                let _ = writeln!(err, "flyball: no inputs, nothing to run");
            } else if !self.plan.once || self.summary.failed > 0 {
                let _ = self.summary.tell(&self.plan, wall, &mut err);
            }
        }
        drop(err);
        if self.interrupted {
            return ExitCode::from(INTERRUPTED);
        }
        let failed = self.summary.failed > 0 || self.trouble.is_some() || self.quiet_end;
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
