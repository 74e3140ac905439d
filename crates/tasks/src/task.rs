//! What goes into a queue and what comes out.

use bytes::Bytes;
use flyball_core::time::WallTime;
use flyball_policy::queue::{Attempts, Head, Outcome, Reason, State, TaskId, Token, When};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use flyball_policy::queue::{Kinds, Room, Scope, Waiting};

/// A label: name and value.
pub type Label = (Box<str>, Box<str>);

/// A task to be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// All that decides about its life. `after` holds parents that are in the queue already.
    pub head: Head,
    /// Parents in the same batch.
    pub after: Vec<Parent>,
    /// The name by which others of the batch call it.
    pub reference: Option<Box<str>>,
    /// How it runs.
    pub run: Run,
    /// For its handler or worker: JSON as it came. `null` if there is none.
    pub payload: Bytes,
    /// At most 64, to find it by.
    pub labels: Vec<Label>,
    /// Fields of the payload (JSON pointers) that only administrators may read.
    pub secrets: Vec<Box<str>>,
}

/// A parent by its name in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// What it is called.
    pub reference: Box<str>,
    /// After which of its ends the task is let go.
    pub when: When,
}

/// How a task runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    /// As a child process.
    Command(Box<CommandSpec>),
    /// As a call of a URL.
    Http(Box<HttpSpec>),
    /// By a registered handler of its kind, else by outside workers.
    Handler,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CommandSpec {
    /// Program and arguments; at least the program.
    pub argv: Vec<OsString>,
    /// Working folder.
    pub cwd: Option<PathBuf>,
    /// The environment: all of it if `clear_env`, else what is added to the daemon's.
    pub env: Vec<(OsString, OsString)>,
    /// Whether nothing of the daemon's environment is handed down.
    pub clear_env: bool,
    /// File mode creation mask, 0 to 0o777.
    pub umask: Option<u32>,
    /// Niceness beyond the class's, 0 to 19.
    pub nice: i32,
    /// Its turn at the disk.
    pub io_priority: Option<IoPriority>,
    /// CPUs it may run on; all if empty.
    pub affinity: Vec<u16>,
    /// Limits of the kernel, as `setrlimit` sets them: soft and hard ones alike.
    pub limits: Vec<(Limit, u64)>,
    /// Whether an exit other than 0 may be retried.
    pub retry_on_failure: bool,
    /// Whether whoever asked was the local user, so that no allow-list is asked.
    pub local: bool,
}

/// The turn of a command at the disk; only some I/O schedulers heed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoPriority {
    /// The usual class. Level 0 (first) to 7.
    BestEffort(u8),
    /// Only when nobody else wants the disk.
    Idle,
}

/// What the kernel limits for a command and each of its children.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Limit {
    /// Address space, bytes.
    AddressSpace,
    /// Core file, bytes.
    Core,
    /// CPU time, seconds.
    CpuSeconds,
    /// Data segment, bytes.
    Data,
    /// A file it writes, bytes.
    FileSize,
    /// Open descriptors.
    OpenFiles,
    /// Processes of the user.
    Processes,
    /// Stack, bytes.
    Stack,
}

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 8] = [
        Limit::AddressSpace,
        Limit::Core,
        Limit::CpuSeconds,
        Limit::Data,
        Limit::FileSize,
        Limit::OpenFiles,
        Limit::Processes,
        Limit::Stack,
    ];

    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Limit::AddressSpace => "address_space",
            Limit::Core => "core",
            Limit::CpuSeconds => "cpu_seconds",
            Limit::Data => "data",
            Limit::FileSize => "file_size",
            Limit::OpenFiles => "open_files",
            Limit::Processes => "processes",
            Limit::Stack => "stack",
        }
    }
}

/// A call of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSpec {
    /// `GET`, `POST`, …
    pub method: String,
    /// `http://` or `https://`.
    pub url: String,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// What is sent.
    pub body: Option<Bytes>,
    /// What the call depends on: calls that name the same share a breaker. The host and port of the URL if none is named.
    pub dependency: Option<Box<str>>,
    /// Whether a second, equal call may be made when the first is slow: only where the one who is called does nothing twice.
    pub hedge: bool,
    /// Whether it was submitted over a network: then it reaches only hosts that the configuration leaves to such calls.
    pub remote: bool,
}

/// Tasks that are taken all or none.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Batch {
    /// At most 1,000.
    pub tasks: Vec<NewTask>,
    /// Who repeats the request is answered as before.
    pub idempotency: Option<Idempotency>,
}

/// What makes a repeated request one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// 1 to 255 bytes.
    pub key: Box<str>,
    /// Of the body, so that the same key with another body is found out.
    pub fingerprint: [u8; 32],
}

/// A task that is in the queue, and on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its name.
    pub id: TaskId,
    /// What it is now.
    pub state: State,
    /// When it was taken; for a repeated request, the first time.
    pub created_at: WallTime,
    /// Whether it was there already: a repeated request, or a unique task that waits.
    pub existing: bool,
}

/// Asks for tasks to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Who asks, 1 to 128 bytes: for people to read.
    pub worker: Box<str>,
    /// Kinds that it takes as a handler or worker.
    pub handlers: Kinds,
    /// Kinds of commands that it takes.
    pub commands: Kinds,
    /// Kinds of calls of URLs that it takes.
    pub http: Kinds,
    /// How many at most, 1 to 1,000.
    pub max: u32,
    /// How long each is its own without a heartbeat, 1 ms to 24 h.
    pub lease: Duration,
    /// How long to wait for the first if there is none; zero to return at once.
    pub wait: Duration,
    /// What is free; `None`: tasks are given whatever they need. (Outside workers know for themselves what they can run.)
    pub room: Option<Room>,
    /// Only tasks of classes with a priority above this one: for who must hold something else to run them.
    pub above: Option<u8>,
}

/// A task that is somebody's to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// The task.
    pub id: TaskId,
    /// Proves that it is theirs.
    pub token: Token,
    /// When it is no longer, without a heartbeat.
    pub expires_at: WallTime,
    /// The number of the attempt, from 1, and how many count.
    pub attempts: Attempts,
    /// As it was given.
    pub head: Head,
    /// As it was given.
    pub run: Run,
    /// As it was given.
    pub payload: Bytes,
    /// What the last attempt left with a heartbeat; at most 64 KiB.
    pub checkpoint: Option<Bytes>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Beat {
    /// How long the lease shall last from now; zero: as long as it was taken for.
    pub lease: Duration,
    /// 0 to 100.
    pub progress: Option<f32>,
    /// A line of text, at most 1,000 bytes.
    pub message: Option<Box<str>>,
    /// For the next attempt, at most 64 KiB.
    pub checkpoint: Option<Bytes>,
    /// Whether the task is held (true) or goes on (false): it is `paused` or `running` then, and time paused does not count for timeouts.
    pub paused: Option<bool>,
    /// How long in all it has stood still under this lease without being paused, as a command does that a throttle lets run for a part of the time: that does
    /// not count for timeouts either.
    pub stood: Duration,
}

/// The answer to a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// When the lease ends now.
    pub expires_at: WallTime,
    /// Whether the task shall stop: somebody cancelled it.
    pub cancelled: bool,
}

/// What a task used.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Usage {
    /// CPU time, user and system.
    pub cpu: Option<Duration>,
    /// Most memory of its processes, bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Read from storage, bytes.
    pub read_bytes: Option<u64>,
    /// Written to storage, bytes.
    pub written_bytes: Option<u64>,
    /// Exit status of a command.
    pub exit_status: Option<i32>,
    /// Signal that ended a command.
    pub signal: Option<i32>,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The task.
    pub id: TaskId,
    /// Of its lease.
    pub token: Token,
    /// How it went. [`None`]: it did not run to its end for a cause that was not its own (drain, preemption) and waits again, at no cost of an
    /// attempt.
    pub outcome: Option<Outcome>,
    /// JSON of a task that is done; at most 1 MiB.
    pub result: Option<Bytes>,
    /// Text of one that failed; cut at 16 KiB.
    pub error: Option<Box<str>>,
    /// What it used.
    pub usage: Usage,
}

/// What a task has become by a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// The task.
    pub id: TaskId,
    /// What it is now.
    pub state: State,
    /// Why, where it did not succeed.
    pub reason: Option<Reason>,
    /// How often it was started.
    pub attempts: Attempts,
    /// When it starts again, if it waits for another attempt.
    pub ready_at: Option<WallTime>,
}

/// All that is known of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// As it was given.
    pub head: Head,
    /// As it was given.
    pub run: Run,
    /// As it was given.
    pub payload: Bytes,
    /// As they were given.
    pub labels: Vec<Label>,
    /// As they were given.
    pub secrets: Vec<Box<str>>,
    /// What it is now.
    pub state: State,
    /// Why, where it did not succeed.
    pub reason: Option<Reason>,
    /// How often it was started.
    pub attempts: Attempts,
    /// When it was taken.
    pub created_at: WallTime,
    /// When it may start or start again, while it is scheduled.
    pub ready_at: Option<WallTime>,
    /// When the last attempt began.
    pub started_at: Option<WallTime>,
    /// When it ended for good.
    pub ended_at: Option<WallTime>,
    /// Who has it.
    pub worker: Option<Box<str>>,
    /// When the lease ends.
    pub lease_expires_at: Option<WallTime>,
    /// 0 to 100.
    pub progress: Option<f32>,
    /// The last line of text with a heartbeat.
    pub message: Option<Box<str>>,
    /// JSON it answered.
    pub result: Option<Bytes>,
    /// Text of the last failure.
    pub error: Option<Box<str>>,
    /// What its last attempt used.
    pub usage: Usage,
    /// Whether it shall stop: cancelled while it runs.
    pub cancel_requested: bool,
    /// The entry of the calendar that made it.
    pub cron_of: Option<TaskId>,
}

/// Which tasks.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Filter {
    /// In one of these states; all if empty.
    pub states: Vec<State>,
    /// Of this class.
    pub class: Option<Box<str>>,
    /// Of this kind.
    pub kind: Option<Box<str>>,
    /// Of this group.
    pub group: Option<Box<str>>,
    /// With all of these labels.
    pub labels: Vec<Label>,
}

/// Tasks that something shall be done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These; at most 1,000.
    Ids(Vec<TaskId>),
    /// Those that fit; at most so many in one call.
    Filter(Filter, u32),
}

/// Asks for a page.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Query {
    /// Which.
    pub filter: Filter,
    /// Those before this one: pages go from the newest to the oldest.
    pub before: Option<TaskId>,
    /// At most so many.
    pub limit: u32,
}

/// Tasks, newest first.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Where the next page begins; none after the last.
    pub next: Option<TaskId>,
    /// Tasks whose row is damaged, met on the way.
    pub damaged: Vec<TaskId>,
}

/// What is paused, and by whom, since when.
pub type Pauses = BTreeMap<Scope, (Box<str>, WallTime)>;

/// Figures of the queue.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Stats {
    /// Tasks by state.
    pub by_state: BTreeMap<State, u64>,
    /// Tasks by class and state, terminal ones left out.
    pub by_class: BTreeMap<Box<str>, BTreeMap<State, u64>>,
    /// Tasks by kind and state, terminal ones left out; at most 1,000 kinds.
    pub by_kind: BTreeMap<Box<str>, BTreeMap<State, u64>>,
    /// Since the queue was opened.
    pub accepted: u64,
    /// Since the queue was opened.
    pub completed: u64,
    /// Attempts that failed, since the queue was opened.
    pub failed_attempts: u64,
    /// Leases that ran out, since the queue was opened.
    pub expired_leases: u64,
    /// Requests refused as the queue was full, since it was opened.
    pub refused: u64,
    /// The store on disk, bytes.
    pub disk_bytes: Option<u64>,
    /// Starts beyond limits of keys that only observe, since the queue was opened.
    pub key_excess: u64,
    /// Retries beyond budgets that only observe, since the queue was opened.
    pub retry_excess: u64,
    /// About how much memory the queue takes, bytes.
    pub memory_bytes: Option<u64>,
    /// What is paused.
    pub pauses: Pauses,
    /// Why the store has stopped.
    pub stopped: Option<String>,
    /// Rows that turned out to be damaged.
    pub damaged: u64,
}

/// A change of a task's state, or what else happened to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Running number, dense.
    pub number: u64,
    /// When.
    pub at: WallTime,
    /// Which task.
    pub id: TaskId,
    /// Its kind.
    pub kind: Box<str>,
    /// Its class.
    pub class: Box<str>,
    /// What it was; none for a new task.
    pub from: Option<State>,
    /// What it is.
    pub to: State,
    /// The number of the attempt.
    pub attempt: u32,
    /// Why, in words: "lease expired", "retry 2 of 3 in 1.2 s", "skipped tick 2026-11-21T10:00:00Z: the last run goes on".
    pub reason: Box<str>,
}
