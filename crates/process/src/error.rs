//! What can go wrong with starting and watching processes.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use crate::sys::Step;

/// Why a command, or the spawn server, could not do what was asked. Nothing is left running where one of these is the answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `main` did not call [`init`](crate::init) first, so the binary cannot serve as its own spawn server.
    #[error(
        "the spawn server cannot start: main() must call flyball_process::init() before anything else"
    )]
    NotInitialised,
    /// The server process could not be started.
    #[error("the spawn server cannot start: {doing}")]
    Start {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program that was started as server did not answer as one.
    #[error(
        "the spawn server did not answer within {waited:?}: does main() of {program:?} call flyball_process::init() first?"
    )]
    Handshake {
        /// The program that was started.
        program: OsString,
        /// How long was waited.
        waited: Duration,
    },
    /// The program of a command could not be started.
    #[error("cannot run {program:?}: {reason}")]
    Spawn {
        /// As it stands in the command.
        program: OsString,
        /// What was the matter.
        reason: SpawnReason,
        /// The step in the new process that failed.
        stage: Stage,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bound on a command's memory cannot be kept, so it was not started.
    #[error("the memory of a command cannot be bounded: {why}")]
    MemoryBound {
        /// What is in the way.
        why: String,
    },
    /// The command itself is not one: no program, or a NUL byte in an argument, a variable or a path.
    #[error("not a command: {what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// Arguments and environment are longer than a message, which is longer than any system takes.
    #[error("the command has {bytes} bytes of arguments and environment, the most is {limit}")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// As many children run as may at once.
    #[error("{limit} children run already, which is the most at once; wait for one to end")]
    TooManyChildren {
        /// `Options::children_max`.
        limit: usize,
    },
    /// The keeper of this command, or the whole server, was killed; what it ran has been killed too.
    #[error("the process that kept this command was killed, and the command with it")]
    KeeperLost,
    /// The result was taken before.
    #[error("the result of this command was taken before")]
    Taken,
    /// The command was withdrawn before it started.
    #[error("withdrawn before it started")]
    Withdrawn,
    /// No such class of slots.
    #[error("no class {id}; add it with Slots::insert first")]
    UnknownClass {
        /// The id that was asked for.
        id: u8,
    },
    /// The queue of the class is full.
    #[error("{limit} commands wait in this class already; try again when one has started")]
    QueueFull {
        /// Its bound.
        limit: usize,
    },
    /// A class was not accepted.
    #[error("the class was refused: {why}")]
    Class {
        /// What was wrong with it.
        why: String,
    },
    /// The server is being taken down.
    #[error("the spawn server is shutting down")]
    ShuttingDown,
    /// Talking to the server failed.
    #[error("the connection to the spawn server failed")]
    Connection(#[source] io::Error),
}

/// What was the matter with a program, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpawnReason {
    /// There is no such file, on the search path or at that place.
    NotFound,
    /// It is a directory.
    IsDirectory,
    /// It is there, but may not be executed.
    NotExecutable,
    /// It is neither a binary for this machine nor a script that names its interpreter.
    NotAProgram,
    /// The working directory is not there or may not be entered.
    Directory,
    /// Arguments and environment are longer than the system takes.
    TooLong,
    /// A limit, priority or other setting was refused.
    Setting(Stage),
    /// Something else; the source says what.
    Other,
}

impl std::fmt::Display for SpawnReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SpawnReason::NotFound => "no such program",
            SpawnReason::IsDirectory => "it is a directory",
            SpawnReason::NotExecutable => "it is not executable",
            SpawnReason::NotAProgram => {
                "it is neither a binary for this machine nor a script that starts with #!"
            }
            SpawnReason::Directory => "its working directory cannot be entered",
            SpawnReason::TooLong => {
                "its arguments and environment are longer than the system takes"
            }
            SpawnReason::Setting(stage) => return write!(f, "setting its {stage} was refused"),
            SpawnReason::Other => "the system refused",
        })
    }
}

/// The step between the new process and its program at which a start failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// Making the process.
    Fork,
    /// Its session or process group.
    Session,
    /// Its niceness.
    Niceness,
    /// Its scheduling policy.
    Scheduler,
    /// Its I/O priority.
    IoPriority,
    /// Its CPU affinity.
    Affinity,
    /// A resource limit.
    Limit,
    /// Its working directory.
    Directory,
    /// Its standard descriptors or output files.
    Stdio,
    /// Executing the program.
    Exec,
}

impl From<Step> for Stage {
    fn from(step: Step) -> Stage {
        match step {
            Step::Fork => Stage::Fork,
            Step::Session => Stage::Session,
            Step::Niceness => Stage::Niceness,
            Step::Scheduler => Stage::Scheduler,
            Step::IoPriority => Stage::IoPriority,
            Step::Affinity => Stage::Affinity,
            Step::Limit => Stage::Limit,
            Step::Directory => Stage::Directory,
            Step::Stdio => Stage::Stdio,
            Step::Exec => Stage::Exec,
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Fork => "process",
            Stage::Session => "session",
            Stage::Niceness => "niceness",
            Stage::Scheduler => "scheduling policy",
            Stage::IoPriority => "I/O priority",
            Stage::Affinity => "CPU affinity",
            Stage::Limit => "resource limit",
            Stage::Directory => "working directory",
            Stage::Stdio => "input and output",
            Stage::Exec => "program",
        })
    }
}

/// Names what an errno at a step means for `program`.
pub(crate) fn spawn_error(program: OsString, step: Step, source: io::Error) -> Error {
    let stage = Stage::from(step);
    let reason = match (stage, source.raw_os_error()) {
        (Stage::Exec, Some(libc::ENOENT | libc::ENOTDIR)) => SpawnReason::NotFound,
        (Stage::Exec, Some(libc::EACCES)) if std::path::Path::new(&program).is_dir() => {
            SpawnReason::IsDirectory
        }
        (Stage::Exec, Some(libc::EACCES)) => SpawnReason::NotExecutable,
        (Stage::Exec, Some(libc::ENOEXEC)) => SpawnReason::NotAProgram,
        (Stage::Exec, Some(libc::E2BIG)) => SpawnReason::TooLong,
        (Stage::Directory, _) => SpawnReason::Directory,
        (Stage::Exec | Stage::Fork | Stage::Stdio | Stage::Session, _) => SpawnReason::Other,
        (stage, _) => SpawnReason::Setting(stage),
    };
    Error::Spawn {
        program,
        reason,
        stage,
        source,
    }
}
