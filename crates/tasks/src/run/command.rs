//! Commands: child processes in the process slots of their class, started, limited and reaped by the spawn server.
//!
//! Invariants
//! - A command of others than the local user is held against the list again right before it starts, gets a clean environment and a folder of the list.
//! - A run ends only when nothing of its tree is left, or what is left cannot be killed, which is said.
//! - A command is paused only for one of a class with a higher priority, only if its class allows it, and goes on as soon as there is a slot for it again.
//! - Beside that commands stand still by turns for as long as their class may have a part of the CPU only ([`Commands::hold`]). That is no pause that
//!   anybody is told of: the task runs, its lease is renewed, and the clock of its timeout stands while it does, of which signs of life tell the queue. A drain ends it.
//!
//! Leaves out cgroups, and how processes are started and killed: `flyball_process`.

use crate::run::allow::{AllowList, CLEAN_PATH, Fault};
use crate::run::context::{CHECKPOINT_BYTES_MAX, Live, Phase, Stop};
use crate::run::drive::Body;
use crate::run::ended::Ended;
use crate::run::figures::Happened;
use crate::run::hub::{Hub, NORMAL};
use crate::run::outputs::{self, Outputs, Stream, open_plain};
use crate::run::settings::RunSettings;
use crate::task::{CommandSpec, IoPriority, Limit, Usage};
use bytes::Bytes;
use flyball_core::time::{Clock, OsClock};
use flyball_executor::Class;
use flyball_policy::limit::Verdict;
use flyball_policy::queue::{Reason, TIMEOUT_GRACE, TaskId, Token};
use flyball_process::bounds::memory::Count;
use flyball_process::bounds::turns::Turns;
use flyball_process::{
    Child, Command, Control, Ended as How, Error, Exit, Resource, Slots, SpawnReason,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// How often the file is looked at in which a command leaves what its next attempt is to find.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// How long a command may have stood still by turns without the queue's having been told: with what it still may run that stays below the grace after
/// which the queue takes it for lost.
const STOOD_UNTOLD_MAX: Duration = Duration::from_secs(TIMEOUT_GRACE.as_secs() / 3);
/// How much of the end of standard error goes into the text of a failure, bytes.
const TAIL_BYTES: u64 = 2_048;
/// How long a task waits that found the process slots or the spawn server unable.
const AGAIN: Duration = Duration::from_secs(1);

struct Process {
    id: TaskId,
    live: Arc<Live>,
    /// The class of its slot.
    class: Box<str>,
    control: Control,
    priority: u8,
    preemptible: bool,
    /// Grows with each start: who came later has done less.
    number: u64,
}

struct Processes {
    running: BTreeMap<Token, Process>,
    started: u64,
    turns: Turns,
    /// The part of the time for which commands of a class run; those of others run always.
    parts: BTreeMap<Box<str>, f64>,
}

impl Processes {
    fn part(&self, class: &str) -> f64 {
        self.parts.get(class).copied().unwrap_or(1.0)
    }
}

/// All that commands need.
pub(crate) struct Commands {
    slots: Slots,
    outputs: Arc<Outputs>,
    processes: Arc<Mutex<Processes>>,
    /// Who has a turn may have changed.
    turn: Notify,
}

impl Commands {
    pub(crate) fn new(
        slots: Slots,
        outputs: &Path,
        settings: &RunSettings,
    ) -> io::Result<Commands> {
        Ok(Commands {
            slots,
            outputs: Outputs::open(outputs, settings.outputs)?,
            processes: Arc::new(Mutex::new(Processes {
                running: BTreeMap::new(),
                started: 0,
                turns: Turns::new(OsClock.now()),
                parts: BTreeMap::new(),
            })),
            turn: Notify::new(),
        })
    }

    pub(crate) fn set(&self, settings: &RunSettings) {
        self.outputs.set(settings.outputs);
    }

    pub(crate) fn outputs(&self) -> &Arc<Outputs> {
        &self.outputs
    }

    pub(crate) fn size(&self) -> u32 {
        self.slots.size()
    }

    pub(crate) fn busy(&self) -> u32 {
        self.slots.size().saturating_sub(self.slots.free())
    }

    pub(crate) fn free(&self) -> u32 {
        self.slots.free()
    }

    fn lock(&self) -> MutexGuard<'_, Processes> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory that a command's tree has now, bytes.
    pub(crate) fn memory(&self, token: Token) -> Option<u64> {
        let control = self.lock().running.get(&token)?.control.clone();
        control.memory(Count::Resident)
    }

    /// CPU time that commands have used, by class, nanoseconds: of those that have ended as the kernel counted it, of those that run as far as it is known.
    /// It may fall by a moment's worth when one ends.
    pub(crate) fn cpu(&self) -> BTreeMap<String, u64> {
        // Those that have ended first: who ends meanwhile is missed rather than counted twice.
        let ended = self.slots.usage().into_iter();
        let mut used: BTreeMap<String, u64> =
            ended.map(|class| (class.name, class.cpu_ns)).collect();
        let running: Vec<(Box<str>, Control)> = self
            .lock()
            .running
            .values()
            .map(|process| (process.class.clone(), process.control.clone()))
            .collect();
        for (class, control) in running {
            let of_class = used.entry(class.into()).or_default();
            *of_class = of_class.saturating_add(control.cpu().unwrap_or(0));
        }
        used
    }

    /// Lets commands of these classes run for a part of the time, those of others always.
    pub(crate) fn hold(&self, parts: BTreeMap<Box<str>, f64>) {
        let mut processes = self.lock();
        if processes.parts == parts {
            return;
        }
        processes.parts = parts;
        let Processes {
            running,
            turns,
            parts,
            ..
        } = &mut *processes;
        let by_number: BTreeMap<u64, f64> = running
            .values()
            .map(|process| {
                let part = parts.get(&process.class).copied();
                (process.number, part.unwrap_or(1.0))
            })
            .collect();
        turns.set_parts(|number| by_number.get(&number).copied().unwrap_or(1.0));
        drop(processes);
        self.turn.notify_one();
    }

    /// Commands that stand still now as their turn is over.
    pub(crate) fn held(&self) -> usize {
        self.lock().turns.held()
    }

    /// Has commands take turns, for as long as it is polled.
    pub(crate) async fn take_turns(&self, hub: &Hub) {
        loop {
            let drains = hub.state().drain.is_some();
            let now = OsClock.now();
            let next = {
                let mut processes = self.lock();
                if drains {
                    // What was accepted is to come to its end.
                    processes.turns.release();
                }
                processes.turns.tick(now)
            };
            match next {
                None => self.turn.notified().await,
                Some(next) => {
                    let wait = tokio::time::sleep(next.duration_since(now));
                    tokio::select! {
                        () = wait => {}
                        () = self.turn.notified() => {}
                    }
                }
            }
        }
    }

    /// The lowest priority of those that could be paused.
    pub(crate) fn weakest(&self) -> Option<u8> {
        let processes = self.lock();
        let could = processes
            .running
            .values()
            .filter(|process| process.could_pause());
        could.map(|process| process.priority).min()
    }

    /// Pauses one of a lower class than this, the lowest first, of those the youngest, if there is no slot otherwise.
    fn make_room(&self, hub: &Hub, priority: u8, by: TaskId) {
        if self.slots.free() > 0 && !hub.state().ledger.is_over() {
            return;
        }
        let processes = self.lock();
        let mut weaker: Vec<&Process> = processes
            .running
            .values()
            .filter(|process| process.could_pause() && process.priority < priority)
            .collect();
        weaker.sort_unstable_by_key(|process| (process.priority, u64::MAX - process.number));
        // One that is about to start, or has just ended, cannot be.
        let paused = weaker
            .into_iter()
            .find(|process| self.slots.set_aside(&process.control));
        if let Some(process) = paused {
            process.live.set_paused(true);
            let mut state = hub.state();
            state.ledger.set_aside(process.live.token);
            state
                .figures
                .count(&process.live.kind, |counts| counts.preempted += 1);
            state
                .figures
                .happened(Happened::Preempted { id: process.id, by });
        }
    }

    /// Lets paused commands go on, the highest class first, of those the oldest, as far as there are slots.
    pub(crate) fn resume(&self, hub: &Hub) {
        loop {
            let processes = self.lock();
            let first = processes
                .running
                .values()
                .filter(|process| process.live.phase() == Phase::Paused)
                .max_by_key(|process| (process.priority, u64::MAX - process.number));
            let mut state = hub.state();
            match first {
                Some(process)
                    if state.ledger.free_slots() > 0 && self.slots.take_back(&process.control) =>
                {
                    process.live.set_paused(false);
                    state.ledger.take_back(process.live.token);
                    let id = process.id;
                    state.figures.happened(Happened::Resumed { id });
                }
                _ => return,
            }
        }
    }

    /// The highest priority of those that are paused, while there is a slot for one.
    pub(crate) fn next_back(&self) -> Option<u8> {
        let processes = self.lock();
        let paused = processes
            .running
            .values()
            .filter(|process| process.live.phase() == Phase::Paused);
        let highest = paused.map(|process| process.priority).max()?;
        (self.slots.free() > 0).then_some(highest)
    }

    /// Starts a command; `instead`: in place of one that is paused for it.
    pub(crate) fn run(
        &self,
        hub: &Arc<Hub>,
        class: &Class,
        live: &Arc<Live>,
        spec: CommandSpec,
        timeout: Duration,
        instead: bool,
    ) -> Body {
        let class = class.spec();
        if instead {
            self.make_room(hub, class.priority, live.id);
        }
        let allow = hub.settings().commands.clone();
        let limit = hub.settings().outputs.stream_bytes;
        let command = match self.prepare(live, &spec, &allow, limit) {
            Ok(command) => command.timeout(timeout),
            Err(ended) => {
                self.outputs
                    .close(live.id, live.attempts.started, [None; 2]);
                return Box::pin(async move { *ended });
            }
        };
        let mut name = class.name.clone();
        let (priority, preemptible) = (class.priority, class.preemptible);
        let slot = match self
            .slots
            .class(&name)
            .map_or_else(|| self.slots.insert(class), Ok)
        {
            Ok(slot) => slot,
            Err(_) => match self.slots.class(NORMAL) {
                Some(slot) => {
                    NORMAL.clone_into(&mut name);
                    slot
                }
                None => {
                    self.outputs
                        .close(live.id, live.attempts.started, [None; 2]);
                    return Box::pin(async { Ended::returned(Some(AGAIN)) });
                }
            },
        };
        let child = match self.slots.submit(slot, command) {
            Ok(child) => child,
            Err(_) => {
                self.outputs
                    .close(live.id, live.attempts.started, [None; 2]);
                return Box::pin(async { Ended::returned(Some(AGAIN)) });
            }
        };
        let control = child.control();
        live.stands_by(move || control.held_for());
        {
            let mut processes = self.lock();
            processes.started += 1;
            let number = processes.started;
            let part = processes.part(&name);
            processes.turns.insert(number, child.control(), part);
            let process = Process {
                id: live.id,
                live: Arc::clone(live),
                class: name.into(),
                control: child.control(),
                priority,
                preemptible,
                number,
            };
            processes.running.insert(live.token, process);
        }
        self.turn.notify_one();
        let watched = Watched {
            child,
            hub: Arc::clone(hub),
            live: Arc::clone(live),
            outputs: Arc::clone(&self.outputs),
            processes: Arc::clone(&self.processes),
            retry_on_failure: spec.retry_on_failure,
            checkpoint: None,
        };
        Box::pin(watched.wait())
    }

    /// What is to be run, its files made; or how the task ends without having run.
    fn prepare(
        &self,
        live: &Live,
        spec: &CommandSpec,
        allow: &AllowList,
        limit: u64,
    ) -> Result<Command, Box<Ended>> {
        let refused = |fault: Fault| Box::new(Ended::fatal(fault.to_string()));
        // Of this machine, and not the task's: a disk that is full gets room again.
        let unable = |what: &'static str| {
            move |error: io::Error| {
                Box::new(Ended {
                    verdict: Verdict::Unknown,
                    ..Ended::failed(Reason::Error, true, format!("cannot {what}: {error}"))
                })
            }
        };
        allow.check(spec).map_err(refused)?;
        let folder = allow.folder(spec).map_err(refused)?;
        let mut argv = spec.argv.iter();
        let program = argv
            .next()
            .ok_or_else(|| Box::new(Ended::fatal("there is no program to run")))?;
        let mut command = Command::new(program).args(argv);
        if spec.clear_env || !spec.local {
            command = command.env_clear();
        }
        if !spec.local {
            command = command.env("PATH", CLEAN_PATH);
        }
        for (name, value) in &spec.env {
            command = command.env(name, value);
        }
        let checkpoint = self.outputs.checkpoint_path(live.id);
        let files = self.outputs.create(live.id, live.attempts.started);
        let [stdout, stderr] = files.map_err(unable("keep its output"))?;
        hand_over(&checkpoint, live.checkpoint.as_deref())
            .map_err(unable("hand its checkpoint over"))?;
        command = command
            .env("FLYBALL_TASK_ID", live.id.to_string())
            .env("FLYBALL_TASK_KIND", &*live.kind)
            .env("FLYBALL_TASK_CLASS", &*live.class)
            .env("FLYBALL_TASK_ATTEMPT", live.attempts.started.to_string())
            .env("FLYBALL_TASK_TOKEN", live.token.to_string())
            .env("FLYBALL_TASK_CHECKPOINT", &checkpoint);
        for (name, instances) in &live.grant.resources {
            let list: Vec<String> = instances.iter().map(u32::to_string).collect();
            let list = list.join(",");
            if &**name == "gpu" {
                command = command.env("CUDA_VISIBLE_DEVICES", &list);
            }
            command = command.env(resource_variable(name), list);
        }
        if let Some(folder) = folder {
            command = command.current_dir(folder);
        }
        if let Some(umask) = spec.umask {
            command = command.umask(umask);
        }
        if let Some(priority) = spec.io_priority {
            command = command.io_priority(match priority {
                IoPriority::BestEffort(level) => flyball_process::IoPriority::BestEffort(level),
                IoPriority::Idle => flyball_process::IoPriority::Idle,
            });
        }
        for (limit, value) in &spec.limits {
            command = command.limit(resource(*limit), *value, *value);
        }
        Ok(command
            .nice(spec.nice.clamp(0, 19))
            .affinity(spec.affinity.iter().copied())
            .stdout_file(stdout, limit)
            .stderr_file(stderr, limit))
    }

    /// Runs a command that asks a dependency whether it is well.
    pub(crate) async fn check(&self, argv: Vec<String>) -> Result<(), Box<str>> {
        let mut argv = argv.into_iter();
        let program = argv.next().ok_or("the check names no program")?;
        let command = Command::new(program)
            .args(argv)
            .null_stdout()
            .null_stderr()
            .grace(Duration::ZERO);
        let slot = self
            .slots
            .class(NORMAL)
            .ok_or("there is no class for checks")?;
        // Given up by whoever waits too long, it is killed with its handle.
        let mut child = self
            .slots
            .submit(slot, command)
            .map_err(|error| error.to_string())?;
        match child.wait().await {
            Ok(exit) if exit.success() => Ok(()),
            Ok(exit) => Err(exit.ended.to_string().into()),
            Err(error) => Err(error.to_string().into()),
        }
    }
}

impl Process {
    fn could_pause(&self) -> bool {
        self.preemptible && self.live.phase() == Phase::Running
    }
}

/// Makes the file with what the last attempt left, or sees to it that there is none. Made anew, as the last attempt may have put anything in its place.
fn hand_over(path: &Path, left: Option<&[u8]>) -> io::Result<()> {
    outputs::remove(path)?;
    let Some(left) = left else {
        return Ok(());
    };
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(left)
}

/// `FLYBALL_RESOURCE_` and the name in capitals.
fn resource_variable(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    format!(
        "FLYBALL_RESOURCE_{}",
        name.chars().map(plain).collect::<String>()
    )
}

fn resource(limit: Limit) -> Resource {
    match limit {
        Limit::AddressSpace => Resource::AddressSpace,
        Limit::Core => Resource::Core,
        Limit::CpuSeconds => Resource::CpuSeconds,
        Limit::Data => Resource::Data,
        Limit::FileSize => Resource::FileSize,
        Limit::OpenFiles => Resource::OpenFiles,
        Limit::Processes => Resource::Processes,
        Limit::Stack => Resource::Stack,
    }
}

/// A command that was handed over.
struct Watched {
    child: Child,
    hub: Arc<Hub>,
    live: Arc<Live>,
    outputs: Arc<Outputs>,
    processes: Arc<Mutex<Processes>>,
    retry_on_failure: bool,
    /// When the file with its checkpoint was last changed, and its length, when it was last taken. What was handed over is taken once, too: the command may have put something else of
    /// its length there before anybody looked, within one tick of the file system's clock.
    checkpoint: Option<(SystemTime, u64)>,
}

impl Watched {
    async fn wait(mut self) -> Ended {
        self.live.start();
        let control = self.child.control();
        let mut told = false;
        let result = loop {
            tokio::select! {
                result = self.child.wait() => break result,
                cause = self.live.wait_stopped(), if !told => {
                    told = true;
                    // Whoever lost the task must not do any more of it.
                    match cause {
                        Stop::Lost => control.kill_now(),
                        _ => control.kill(),
                    }
                }
                () = tokio::time::sleep(CHECKPOINT_EVERY) => {
                    self.look_for_checkpoint();
                    self.live.tell_stood(STOOD_UNTOLD_MAX);
                }
            }
        };
        self.look_for_checkpoint();
        let dropped = match &result {
            Ok(exit) => [&exit.stdout, &exit.stderr]
                .map(|output| output.as_ref().map(flyball_process::Output::dropped)),
            Err(_) => [None; 2],
        };
        let (id, attempt) = (self.live.id, self.live.attempts.started);
        self.outputs.close(id, attempt, dropped);
        match result {
            Ok(exit) => self.judge(&exit),
            Err(error) => self.not_run(&error),
        }
    }

    fn judge(&self, exit: &Exit) -> Ended {
        if exit.survivors > 0 {
            self.hub.happened(Happened::Survivors {
                id: self.live.id,
                count: exit.survivors,
            });
        }
        let (exit_status, signal) = match exit.ended {
            How::Exited(code) => (Some(code), None),
            How::Signalled { signal, .. } => (None, Some(signal)),
            _ => (None, None),
        };
        let usage = Usage {
            cpu: Some(exit.cpu()),
            peak_memory_bytes: Some(exit.peak_memory),
            read_bytes: exit.io.map(|io| io.storage_read),
            written_bytes: exit.io.map(|io| io.storage_written),
            exit_status,
            signal,
        };
        let retry = self.retry_on_failure;
        let ended = if exit.timed_out {
            let why = "the command ran past its timeout and was killed";
            Ended::failed(Reason::TimedOut, retry, why)
        } else if exit.killed && self.live.stopped().is_some() {
            Ended::returned(None)
        } else if exit.success() {
            Ended::done(None)
        } else {
            let mut why = exit.ended.to_string();
            if let Some(said) = self.last_words() {
                why = format!("{why}: {said}");
            }
            Ended::failed(Reason::Error, retry, why)
        };
        Ended { usage, ..ended }
    }

    fn not_run(&self, error: &Error) -> Ended {
        match error {
            Error::Withdrawn => Ended::returned(None),
            Error::Spawn {
                reason: SpawnReason::Other,
                source,
                ..
            } => Ended {
                verdict: Verdict::Unknown,
                ..Ended::failed(Reason::Error, true, format!("{error}: {source}"))
            },
            Error::Spawn { source, .. } => Ended::fatal(format!("{error}: {source}")),
            Error::Invalid { .. } | Error::TooLarge { .. } => Ended::fatal(error.to_string()),
            // As if the daemon had died: it may have done anything.
            Error::KeeperLost => Ended::failed(Reason::Crashed, true, error.to_string()),
            _ => Ended::returned(Some(AGAIN)),
        }
    }

    /// The end of what it wrote to standard error, for people to read.
    fn last_words(&self) -> Option<String> {
        let status = self.outputs.status(self.live.id, Stream::Stderr).ok()?;
        let from = status.kept.saturating_sub(TAIL_BYTES);
        let mut reader = self
            .outputs
            .reader(self.live.id, Stream::Stderr, from)
            .ok()?;
        let mut bytes = vec![0; TAIL_BYTES as usize];
        let count = reader.read(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes[..count]);
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn checkpoint_mark(&self) -> Option<(SystemTime, u64)> {
        let metadata = fs::symlink_metadata(self.outputs.checkpoint_path(self.live.id)).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    /// Takes what the command left since the last look. More than 64 KiB is not taken.
    fn look_for_checkpoint(&mut self) {
        let mark = self.checkpoint_mark();
        let Some((_, length)) = mark.filter(|_| mark != self.checkpoint) else {
            return;
        };
        self.checkpoint = mark;
        if length > CHECKPOINT_BYTES_MAX as u64 {
            return;
        }
        let mut left = Vec::new();
        let read = open_plain(&self.outputs.checkpoint_path(self.live.id)).and_then(|file| {
            file.take(CHECKPOINT_BYTES_MAX as u64 + 1)
                .read_to_end(&mut left)
        });
        if read.is_ok_and(|length| length <= CHECKPOINT_BYTES_MAX) {
            self.live.set_checkpoint(Bytes::from(left));
            self.live.beat.notify_one();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = processes.running.remove(&self.live.token) {
            processes.turns.remove(process.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_resources_become_variables() {
        assert_eq!(resource_variable("gpu"), "FLYBALL_RESOURCE_GPU");
        assert_eq!(
            resource_variable("matlab-licence_2"),
            "FLYBALL_RESOURCE_MATLAB_LICENCE_2"
        );
    }
}
