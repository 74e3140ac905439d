//! A keeper: a small process that runs one command at a time and answers for all of its tree.
//!
//! Why a process each, and why they are kept: a subreaper learns which orphans are its own, but not of which command. With one
//! command below each subreaper the tree is exact, without a cgroup and without marks that a child could remove. Keepers are used
//! again, so this costs nothing a command.
//!
//! Invariants:
//! - a report is sent only when nothing of the tree is left, or when what is left cannot be killed (then it is counted, and the
//!   keeper is not used again);
//! - when the program's end of the socket closes, the tree is killed at once and the keeper ends;
//! - a child never waits for its output to be taken: what is beyond the bound is read, counted and dropped.
//!
//! Leaves out: scheduling, and who may run (`slots`); there is no thread and no allocation between `clone` and `execve` (`sys`).

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use flyball_core::time::{Clock, OsClock, Timestamp};

use crate::capture::Catcher;
use crate::lookup::Lookup;
use crate::sys::{self, LaunchStack, Peek, Plan, SignalMask, Step, Watch};
use crate::tree;
use crate::wire::{self, Inbox, Kind, Put, Received, Report, Sink, Spec};

/// How long the news that a command has started may be held back, so that a command that ends sooner costs one wake-up of the
/// program and not two. A millisecond is some two lives of the quickest commands.
const ANNOUNCE_AFTER_NS: u64 = 1_000_000;

/// After SIGKILL, how long processes may take to go before they are counted as survivors. A process in an uninterruptible wait
/// goes when its device answers, which nobody can hasten.
const GIVE_UP_AFTER_NS: u64 = 5_000_000_000;

/// Between two rounds of SIGKILL at descendants that are still there; a child's end interrupts the wait.
const KILL_ROUND: Duration = Duration::from_millis(10);

/// What the server hands to each keeper.
pub(crate) struct Surroundings {
    pub(crate) mask: SignalMask,
    pub(crate) env: Vec<CString>,
    pub(crate) stdin: OwnedFd,
    pub(crate) null: OwnedFd,
    pub(crate) spill_directory: std::path::PathBuf,
}

struct Keeper<'a> {
    socket: UnixStream,
    inbox: Inbox,
    around: &'a Surroundings,
    pid: i32,
    stack: LaunchStack,
    lookup: Lookup,
    catchers: [Option<Catcher>; 2],
    gone: bool,
    tainted: bool,
}

/// Serves commands until the program's end of `socket` closes.
pub(crate) fn serve(socket: UnixStream, around: &Surroundings) {
    let mut keeper = Keeper {
        socket,
        inbox: Inbox::default(),
        around,
        pid: std::process::id() as i32,
        stack: LaunchStack::new(),
        lookup: Lookup::default(),
        catchers: [None, None],
        gone: false,
        tainted: false,
    };
    if wire::send(
        &keeper.socket,
        Kind::Ready,
        &std::process::id().to_le_bytes(),
        &[],
    )
    .is_err()
    {
        return;
    }
    while !keeper.gone && !keeper.tainted {
        match keeper.inbox.next(keeper.socket.as_fd(), true) {
            Ok(Received::Message(message)) if message.kind == Kind::Spawn => {
                match Spec::decode(&message.body) {
                    Ok(spec) => keeper.run(&spec, message.fds),
                    Err(_) => return,
                }
            }
            // A kill, pause or resume that crossed the report of its command.
            Ok(Received::Message(_)) => {}
            Ok(Received::Later) => {}
            Ok(Received::Closed) | Err(_) => return,
        }
    }
}

/// How the end of a tree is brought about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Asked to end; killed at that time.
    Asked(Timestamp),
    /// Killed; given up at that time.
    Killed(Timestamp),
}

struct Run {
    root: i32,
    report: Report,
    root_ended: bool,
    phase: Phase,
    started: Timestamp,
    announced: bool,
    deadline: Option<Timestamp>,
    grace_ns: u64,
    paused_since: Option<Timestamp>,
    /// Those that stood still by themselves when the tree was paused, and go on doing so after it.
    stood: HashSet<i32>,
    io_known: bool,
}

impl Keeper<'_> {
    fn run(&mut self, spec: &Spec, fds: Vec<OwnedFd>) {
        let started = OsClock.now();
        let root = match self.launch(spec, fds) {
            Ok(root) => root,
            Err((step, error)) => {
                let mut body = vec![step as u8];
                body.u32(error.raw_os_error().unwrap_or(libc::EIO) as u32);
                self.send(Kind::Failed, &body, &[]);
                return;
            }
        };
        let mut run = Run {
            root,
            report: Report {
                io: Some([0; 4]),
                ..Report::default()
            },
            root_ended: false,
            phase: Phase::Running,
            started,
            announced: false,
            deadline: spec
                .timeout_ns
                .map(|timeout| started.saturating_add_nanos(timeout)),
            grace_ns: spec.grace_ns,
            paused_since: None,
            stood: HashSet::new(),
            io_known: true,
        };
        self.watch(&mut run);
        self.finish(run);
    }

    fn launch(&mut self, spec: &Spec, fds: Vec<OwnedFd>) -> Result<i32, (Step, io::Error)> {
        let stdio = |error| (Step::Stdio, error);
        let mut fds = fds.into_iter();
        let mut targets: [RawFd; 3] = [self.around.stdin.as_raw_fd(), 1, 2];
        let mut kept = Vec::new();
        self.catchers = [None, None];
        let mut catchers = [None, None];
        for (index, sink) in spec.sinks.iter().enumerate() {
            let missing = || (Step::Stdio, wire::malformed());
            match *sink {
                Sink::Inherit => {}
                Sink::Null => targets[index] = self.around.null.as_raw_fd(),
                Sink::Direct => {
                    let fd = fds.next().ok_or_else(missing)?;
                    targets[index] = fd.as_raw_fd();
                    kept.push(fd);
                }
                Sink::Capture { limit } | Sink::File { limit } => {
                    let file = matches!(sink, Sink::File { .. })
                        .then(|| fds.next().ok_or_else(missing))
                        .transpose()?;
                    let catcher = Catcher::new(limit, file).map_err(stdio)?;
                    if index == 0 {
                        return Err(missing());
                    }
                    targets[index] = catcher.writer();
                    catchers[index - 1] = Some(catcher);
                }
            }
        }
        let mut others = Vec::new();
        for &number in &spec.descriptors {
            let fd = fds.next().ok_or((Step::Stdio, wire::malformed()))?;
            others.push((fd.as_raw_fd(), number as RawFd));
            kept.push(fd);
        }
        if others
            .iter()
            .any(|(_, target)| *target <= 2 || others.iter().any(|(source, _)| source == target))
        {
            return Err((Step::Stdio, io::Error::from_raw_os_error(libc::EBADF)));
        }
        let text = |bytes: &[u8]| {
            CString::new(bytes)
                .map_err(|_| (Step::Exec, io::Error::from_raw_os_error(libc::EINVAL)))
        };
        let argv = spec
            .argv
            .iter()
            .map(|argument| text(argument))
            .collect::<Result<Vec<_>, _>>()?;
        let changed = if spec.clear_env || !spec.env.is_empty() {
            Some(environment(&self.around.env, spec)?)
        } else {
            None
        };
        let env = changed.as_ref().unwrap_or(&self.around.env);
        let program = spec.argv.first().map(Vec::as_slice).unwrap_or_default();
        let programs = self.lookup.files(program, env, OsClock.now());
        let cwd = spec.cwd.as_deref().map(text).transpose()?;
        let plan = Plan {
            programs,
            argv: &argv,
            env,
            cwd: cwd.as_ref(),
            fds: targets,
            others: &others,
            standing: spec.standing,
            nice: spec.nice,
            sched_idle: spec.sched_idle,
            io_priority: spec.io_priority.map(|value| value as i32),
            affinity: &spec.affinity,
            limits: &spec.limits,
            umask: spec.umask,
        };
        let pid = sys::launch(&plan, &self.around.mask, &mut self.stack)?;
        for catcher in catchers.iter_mut().flatten() {
            catcher.close_writer();
        }
        self.catchers = catchers;
        Ok(pid)
    }

    /// Stays with the tree until nothing of it is left.
    fn watch(&mut self, run: &mut Run) {
        // Orders that came in one piece with the command are in the inbox, where no wait would see them.
        self.orders(run);
        loop {
            if self.reap(run) {
                return;
            }
            let now = OsClock.now();
            if run.root_ended && run.phase == Phase::Running {
                // The command is over; what it left behind does not outlive it.
                run.report.leftovers = tree::descendants(self.pid).len() as u32;
                self.ask(run, now);
            }
            if run.deadline.is_some_and(|deadline| deadline <= now) && run.paused_since.is_none() {
                run.deadline = None;
                if run.phase == Phase::Running {
                    run.report.timed_out = true;
                    self.ask(run, now);
                }
            }
            if let Phase::Asked(limit) = run.phase
                && limit <= now
            {
                run.phase = Phase::Killed(now.saturating_add_nanos(GIVE_UP_AFTER_NS));
            }
            if let Phase::Killed(limit) = run.phase {
                tree::signal(self.pid, libc::SIGKILL);
                if limit <= now {
                    run.report.survivors = tree::descendants(self.pid).len() as u32;
                    self.tainted = true;
                    return;
                }
            }
            if !run.announced && now.saturating_nanos_since(run.started) >= ANNOUNCE_AFTER_NS {
                run.announced = true;
                self.send(Kind::Started, &(run.root as u32).to_le_bytes(), &[]);
            }
            let timeout = self.next_wait(run, now);
            let output = |catcher: &Option<Catcher>| catcher.as_ref().map_or(-1, Catcher::reader);
            let mut watches = [
                Watch::input(if self.gone {
                    -1
                } else {
                    self.socket.as_raw_fd()
                }),
                Watch::input(output(&self.catchers[0])),
                Watch::input(output(&self.catchers[1])),
            ];
            if sys::wait_input(&mut watches, timeout, true).unwrap_or(false) {
                for (catcher, watch) in self.catchers.iter_mut().zip(&watches[1..]) {
                    if let (Some(catcher), true) = (catcher, watch.ready()) {
                        catcher.pump(&self.around.spill_directory);
                    }
                }
                if watches[0].ready() {
                    self.orders(run);
                }
            }
        }
    }

    fn next_wait(&self, run: &Run, now: Timestamp) -> Option<Duration> {
        if let Phase::Killed(_) = run.phase {
            return Some(KILL_ROUND);
        }
        let announce =
            (!run.announced).then(|| run.started.saturating_add_nanos(ANNOUNCE_AFTER_NS));
        let deadline = run.deadline.filter(|_| run.paused_since.is_none());
        let kill = if let Phase::Asked(limit) = run.phase {
            Some(limit)
        } else {
            None
        };
        let next = [announce, deadline, kill].into_iter().flatten().min()?;
        Some(Duration::from_nanos(next.saturating_nanos_since(now)))
    }

    /// Takes what has ended; answers whether nothing is left.
    fn reap(&mut self, run: &mut Run) -> bool {
        loop {
            match sys::peek_child() {
                Ok(Peek::Ended(pid)) => {
                    match (tree::io_of(pid), run.report.io.as_mut()) {
                        (Some(part), Some(sum)) => sum
                            .iter_mut()
                            .zip(part)
                            .for_each(|(sum, part)| *sum += part),
                        _ => run.io_known = false,
                    }
                    let Ok(reaped) = sys::reap(pid) else { continue };
                    let report = &mut run.report;
                    report.user_us += reaped.user_us;
                    report.system_us += reaped.system_us;
                    report.voluntary += reaped.voluntary;
                    report.involuntary += reaped.involuntary;
                    report.peak_rss_kib = report.peak_rss_kib.max(reaped.peak_rss_kib);
                    if pid == run.root {
                        report.status = reaped.status;
                        report.wall_ns = OsClock.now().saturating_nanos_since(run.started);
                        run.root_ended = true;
                    }
                }
                Ok(Peek::Running) => return false,
                Ok(Peek::Nobody) => return true,
                Err(_) => return false,
            }
        }
    }

    /// SIGTERM to all, SIGCONT to those that could not see it, and the time at which SIGKILL follows.
    fn ask(&mut self, run: &mut Run, now: Timestamp) {
        self.resume(run, now);
        run.phase = Phase::Asked(now.saturating_add_nanos(run.grace_ns));
        tree::signal(self.pid, libc::SIGTERM);
        tree::signal(self.pid, libc::SIGCONT);
    }

    fn resume(&mut self, run: &mut Run, now: Timestamp) {
        if let Some(since) = run.paused_since.take() {
            let paused = now.saturating_nanos_since(since);
            run.report.paused_ns += paused;
            run.deadline = run
                .deadline
                .map(|deadline| deadline.saturating_add_nanos(paused));
        }
    }

    /// Obeys what the program asks while its command runs.
    fn orders(&mut self, run: &mut Run) {
        loop {
            let now = OsClock.now();
            match self.inbox.next(self.socket.as_fd(), false) {
                Ok(Received::Message(message)) => match message.kind {
                    Kind::Kill => {
                        run.report.killed = true;
                        let at_once = message.body.first() == Some(&1);
                        if at_once {
                            self.resume(run, now);
                            run.phase = Phase::Killed(now.saturating_add_nanos(GIVE_UP_AFTER_NS));
                        } else if run.phase == Phase::Running {
                            self.ask(run, now);
                        }
                    }
                    Kind::Signal => {
                        let number = wire::Take(&message.body).u32().unwrap_or(0) as i32;
                        tree::signal(self.pid, number);
                    }
                    Kind::Pause if run.paused_since.is_none() && run.phase == Phase::Running => {
                        run.paused_since = Some(now);
                        run.stood = tree::stop(self.pid);
                    }
                    Kind::Resume if run.paused_since.is_some() => {
                        self.resume(run, now);
                        tree::go_on(self.pid, &std::mem::take(&mut run.stood));
                    }
                    _ => {}
                },
                Ok(Received::Later) => return,
                Ok(Received::Closed) | Err(_) => {
                    // Nobody is there any more who could want it.
                    self.gone = true;
                    run.phase = Phase::Killed(now.saturating_add_nanos(GIVE_UP_AFTER_NS));
                    return;
                }
            }
        }
    }

    fn finish(&mut self, mut run: Run) {
        if !run.io_known {
            run.report.io = None;
        }
        if !run.root_ended {
            run.report.wall_ns = OsClock.now().saturating_nanos_since(run.started);
        }
        let mut files = Vec::new();
        for (index, catcher) in self.catchers.iter_mut().enumerate() {
            if let Some(catcher) = catcher.take() {
                let (caught, file) = catcher.finish(&self.around.spill_directory);
                files.extend(file);
                run.report.outputs[index] = Some(caught);
            }
        }
        let mut bytes = Vec::new();
        let fds = wire::raw(&files);
        wire::frame(&mut bytes, Kind::Exited, &run.report.encode(), fds.len());
        if wire::send_framed(&self.socket, &bytes, &fds).is_err() {
            self.gone = true;
        }
    }

    fn send(&mut self, kind: Kind, body: &[u8], fds: &[RawFd]) {
        if wire::send(&self.socket, kind, body, fds).is_err() {
            self.gone = true;
        }
    }
}

/// The environment of a command that changes it.
fn environment(base: &[CString], spec: &Spec) -> Result<Vec<CString>, (Step, io::Error)> {
    let name_of = |entry: &CString| {
        entry
            .as_bytes()
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default()
            .to_vec()
    };
    let mut env: Vec<CString> = if spec.clear_env {
        Vec::new()
    } else {
        base.iter()
            .filter(|entry| !spec.env.iter().any(|(name, _)| *name == name_of(entry)))
            .cloned()
            .collect()
    };
    for (name, value) in &spec.env {
        if let Some(value) = value {
            let entry = [name.as_slice(), b"=", value].concat();
            env.push(
                CString::new(entry)
                    .map_err(|_| (Step::Exec, io::Error::from_raw_os_error(libc::EINVAL)))?,
            );
        }
    }
    Ok(env)
}
