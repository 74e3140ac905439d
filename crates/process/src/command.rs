//! What to run, and within which bounds.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use flyball_core::time::nanos_of;

use crate::error::Error;
use crate::sys::Standing;
use crate::wire::{MESSAGE_BYTES_MAX, Sink, Spec};

/// How long a tree that was asked to end (SIGTERM) may take before it is killed, unless the command says otherwise. systemd and
/// container engines give 10 s and more to services; commands of a batch rarely have more to do than to remove a file.
const GRACE: Duration = Duration::from_secs(5);

/// A program with arguments, surroundings and bounds. Built up by methods that take and return it.
///
/// Unless told otherwise a command has the working directory, environment and file mask that the program had when it started the
/// spawn server, no standard input, the program's own standard output and error, a process group of its own, and no timeout.
#[derive(Debug)]
#[must_use = "a command does nothing until it is spawned"]
pub struct Command {
    argv: Vec<OsString>,
    cwd: Option<PathBuf>,
    clear_env: bool,
    env: Vec<(OsString, Option<OsString>)>,
    stdio: [Stdio; 3],
    timeout: Option<Duration>,
    grace: Duration,
    isolation: Isolation,
    nice: i32,
    sched_idle: bool,
    io_priority: Option<IoPriority>,
    affinity: Vec<u16>,
    limits: Vec<(u32, u64, u64)>,
    umask: Option<u32>,
    descriptors: Vec<(u32, OwnedFd)>,
    memory: Option<u64>,
}

#[derive(Debug)]
enum Stdio {
    Inherit,
    Null,
    Fd(OwnedFd),
    Capture(u64),
    File(OwnedFd, u64),
}

/// Where a command stands relative to the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Isolation {
    /// A process group of its own in the program's session: Ctrl-C at the terminal does not reach it, and reading the terminal
    /// fails (SIGTTIN and SIGTTOU are ignored, so that it does not stop instead).
    ///
    /// The default, because niceness and SCHED_IDLE compare within a session only where the kernel groups by session
    /// (`/proc/sys/kernel/sched_autogroup_enabled`).
    #[default]
    Group,
    /// A session of its own, without a terminal.
    Session,
    /// The process group of this id; with the program's own, Ctrl-C reaches both, and the command may read the terminal.
    Join(u32),
}

/// I/O priority, as `ionice` sets it. Only some I/O schedulers heed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IoPriority {
    /// Before all others; needs privilege. Level 0 (first) to 7.
    Realtime(u8),
    /// The usual class. Level 0 (first) to 7.
    BestEffort(u8),
    /// Only when nobody else wants the disk.
    Idle,
}

/// A resource with a limit, as setrlimit(2) describes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Resource {
    /// Address space, bytes.
    AddressSpace,
    /// Core file, bytes.
    Core,
    /// CPU time, seconds; SIGXCPU at the soft limit.
    CpuSeconds,
    /// Data segment, bytes.
    Data,
    /// A file it writes, bytes; SIGXFSZ beyond.
    FileSize,
    /// Open descriptors.
    OpenFiles,
    /// Processes of the user.
    Processes,
    /// Stack, bytes.
    Stack,
}

impl Resource {
    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::Core => libc::RLIMIT_CORE,
            Resource::CpuSeconds => libc::RLIMIT_CPU,
            Resource::Data => libc::RLIMIT_DATA,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::Stack => libc::RLIMIT_STACK,
        }
    }
}

impl Command {
    /// A program: a path, or a name looked up along the PATH of the command's own environment.
    pub fn new(program: impl Into<OsString>) -> Command {
        Command {
            argv: vec![program.into()],
            cwd: None,
            clear_env: false,
            env: Vec::new(),
            stdio: [Stdio::Null, Stdio::Inherit, Stdio::Inherit],
            timeout: None,
            grace: GRACE,
            isolation: Isolation::default(),
            nice: 0,
            sched_idle: false,
            io_priority: None,
            affinity: Vec::new(),
            limits: Vec::new(),
            umask: None,
            descriptors: Vec::new(),
            memory: None,
        }
    }

    /// Adds an argument: any bytes but NUL.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Command {
        self.argv.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.argv.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The program as it was given.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        self.argv
            .first()
            .map(OsString::as_os_str)
            .unwrap_or_default()
    }

    /// Sets the working directory.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Command {
        self.cwd = Some(directory.into());
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Command {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    /// Removes a variable.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Command {
        self.env.push((name.into(), None));
        self
    }

    /// Starts from an empty environment.
    pub fn env_clear(mut self) -> Command {
        self.clear_env = true;
        self.env.clear();
        self
    }

    /// Takes the program's standard input, as it was when the server started.
    pub fn inherit_stdin(mut self) -> Command {
        self.stdio[0] = Stdio::Inherit;
        self
    }

    /// Reads its standard input from a descriptor.
    pub fn stdin(mut self, fd: impl Into<OwnedFd>) -> Command {
        self.stdio[0] = Stdio::Fd(fd.into());
        self
    }

    /// Throws its standard output away.
    pub fn null_stdout(mut self) -> Command {
        self.stdio[1] = Stdio::Null;
        self
    }

    /// Throws its standard error away.
    pub fn null_stderr(mut self) -> Command {
        self.stdio[2] = Stdio::Null;
        self
    }

    /// Gives it a descriptor as standard output, unbounded.
    pub fn stdout(mut self, fd: impl Into<OwnedFd>) -> Command {
        self.stdio[1] = Stdio::Fd(fd.into());
        self
    }

    /// Gives it a descriptor as standard error, unbounded.
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Command {
        self.stdio[2] = Stdio::Fd(fd.into());
        self
    }

    /// Keeps the first `limit` bytes of its standard output (see [`Exit::stdout`](crate::Exit::stdout)); more is counted and
    /// dropped.
    pub fn capture_stdout(mut self, limit: u64) -> Command {
        self.stdio[1] = Stdio::Capture(limit);
        self
    }

    /// Keeps the first `limit` bytes of its standard error; more is counted and dropped.
    pub fn capture_stderr(mut self, limit: u64) -> Command {
        self.stdio[2] = Stdio::Capture(limit);
        self
    }

    /// Writes the first `limit` bytes of its standard output to a file; more is counted and dropped.
    pub fn stdout_file(mut self, file: impl Into<OwnedFd>, limit: u64) -> Command {
        self.stdio[1] = Stdio::File(file.into(), limit);
        self
    }

    /// Writes the first `limit` bytes of its standard error to a file; more is counted and dropped.
    pub fn stderr_file(mut self, file: impl Into<OwnedFd>, limit: u64) -> Command {
        self.stdio[2] = Stdio::File(file.into(), limit);
        self
    }

    /// Ends the tree after this time, time in which it is paused not counted: SIGTERM, then SIGKILL after the grace.
    pub fn timeout(mut self, timeout: Duration) -> Command {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how long a tree that is asked to end may take before SIGKILL; 5 s unless set. Zero kills at once.
    pub fn grace(mut self, grace: Duration) -> Command {
        self.grace = grace;
        self
    }

    /// Sets where it stands relative to the terminal.
    pub fn isolation(mut self, isolation: Isolation) -> Command {
        self.isolation = isolation;
        self
    }

    /// Adds to the niceness it would have, -40..=39; the sum is cut to -20..=19. Less than zero needs privilege.
    pub fn nice(mut self, increment: i32) -> Command {
        self.nice = increment.clamp(-40, 39);
        self
    }

    /// What the class of a slot adds to what the command asks for itself.
    pub(crate) fn of_class(mut self, niceness: i32, idle: bool) -> Command {
        self.nice = (self.nice + niceness).clamp(-40, 39);
        self.sched_idle |= idle;
        self
    }

    /// Runs it under SCHED_IDLE: only when no other thread wants the CPU. There is no way back for an unprivileged process.
    pub fn sched_idle(mut self, idle: bool) -> Command {
        self.sched_idle = idle;
        self
    }

    /// Sets its I/O priority.
    pub fn io_priority(mut self, priority: IoPriority) -> Command {
        self.io_priority = Some(priority);
        self
    }

    /// Lets it run on these CPUs only; none means all.
    pub fn affinity(mut self, cpus: impl IntoIterator<Item = u16>) -> Command {
        self.affinity = cpus.into_iter().collect();
        self
    }

    /// Sets a resource limit, soft and hard. `u64::MAX` is none.
    pub fn limit(mut self, resource: Resource, soft: u64, hard: u64) -> Command {
        self.limits.push((resource.number(), soft, hard));
        self
    }

    /// Sets its file mode creation mask, 0..=0o777.
    pub fn umask(mut self, mask: u32) -> Command {
        self.umask = Some(mask & 0o777);
        self
    }

    /// Bounds the memory of its tree, caches included, in bytes: the kernel reclaims, then kills the largest process of it (then
    /// [`Exit::out_of_memory`](crate::Exit::out_of_memory) says so). Needs a control group for each command
    /// ([`Containment::Groups`](crate::Containment::Groups)); without one the command is refused. The keeper's some 300 KiB count.
    pub fn memory(mut self, bytes: u64) -> Command {
        self.memory = Some(bytes);
        self
    }

    /// The bound on its memory.
    pub(crate) fn memory_bound(&self) -> Option<u64> {
        self.memory
    }

    /// Gives it a descriptor of a number, 10 to 250 (shells keep those below for themselves); at most four.
    pub fn descriptor(mut self, number: u32, fd: impl Into<OwnedFd>) -> Command {
        self.descriptors.push((number, fd.into()));
        self
    }

    /// What it sets a variable to, as far as it says: the value, or that it is removed.
    pub(crate) fn variable(&self, name: &str) -> Option<Option<&OsStr>> {
        let set = self.env.iter().rev().find(|(set, _)| set == name);
        match set {
            Some((_, value)) => Some(value.as_deref()),
            None => self.clear_env.then_some(None),
        }
    }

    /// As the keeper gets it, with the descriptors that go along.
    pub(crate) fn into_message(self) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let invalid = |what: &str| {
            Err(Error::Invalid {
                what: what.to_owned(),
            })
        };
        if self.program().is_empty() {
            return invalid("the program has no name");
        }
        if let Some(argument) = self
            .argv
            .iter()
            .find(|argument| argument.as_bytes().contains(&0))
        {
            return Err(Error::Invalid {
                what: format!("{argument:?} contains a NUL byte"),
            });
        }
        for (name, value) in &self.env {
            let nul = |text: &OsString| text.as_bytes().contains(&0);
            if name.is_empty()
                || name.as_bytes().contains(&b'=')
                || nul(name)
                || value.as_ref().is_some_and(nul)
            {
                return Err(Error::Invalid {
                    what: format!("{name:?} is not a variable that can be set"),
                });
            }
        }
        if self
            .cwd
            .as_ref()
            .is_some_and(|cwd| cwd.as_os_str().as_bytes().contains(&0))
        {
            return invalid("the working directory contains a NUL byte");
        }
        let others = &self.descriptors;
        if others.len() > 4
            || others
                .iter()
                .any(|(number, _)| !(10..=250).contains(number))
        {
            return invalid(
                "it has more than four further descriptors, or one that is not of 10 to 250",
            );
        }
        let mut fds = Vec::new();
        let sinks = self.stdio.map(|stdio| match stdio {
            Stdio::Inherit => Sink::Inherit,
            Stdio::Null => Sink::Null,
            Stdio::Capture(limit) => Sink::Capture { limit },
            Stdio::Fd(fd) => {
                fds.push(fd);
                Sink::Direct
            }
            Stdio::File(fd, limit) => {
                fds.push(fd);
                Sink::File { limit }
            }
        });
        const IO_CLASS_SHIFT: u32 = 13;
        let spec = Spec {
            argv: self.argv.into_iter().map(OsStringExt::into_vec).collect(),
            cwd: self.cwd.map(|cwd| cwd.into_os_string().into_vec()),
            clear_env: self.clear_env,
            env: self
                .env
                .into_iter()
                .map(|(name, value)| (name.into_vec(), value.map(OsStringExt::into_vec)))
                .collect(),
            sinks,
            timeout_ns: self.timeout.map(nanos_of),
            grace_ns: nanos_of(self.grace),
            standing: match self.isolation {
                Isolation::Session => Standing::Session,
                Isolation::Group => Standing::Group,
                Isolation::Join(group) => Standing::Join(group as i32),
            },
            nice: self.nice,
            sched_idle: self.sched_idle,
            io_priority: self.io_priority.map(|priority| match priority {
                IoPriority::Realtime(level) => 1 << IO_CLASS_SHIFT | u32::from(level.min(7)),
                IoPriority::BestEffort(level) => 2 << IO_CLASS_SHIFT | u32::from(level.min(7)),
                IoPriority::Idle => 3 << IO_CLASS_SHIFT,
            }),
            affinity: self.affinity,
            limits: self.limits,
            umask: self.umask,
            descriptors: self.descriptors.iter().map(|(number, _)| *number).collect(),
        };
        fds.extend(self.descriptors.into_iter().map(|(_, fd)| fd));
        let body = spec.encode();
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(Error::TooLarge {
                bytes: body.len(),
                limit: MESSAGE_BYTES_MAX,
            });
        }
        Ok((body, fds))
    }
}
