//! Reports of tokio workers that a task blocks, with the stack: for runtimes of the program's own, without `tokio_unstable`.
//!
//! A task that sleeps, waits for a lock or computes without an `.await` holds its worker up, and with it whatever else was to run there. tokio does not
//! say so. [`watch`](fn@watch) starts one thread, which reads the runtime's figures each quarter of the threshold (`judge` decides), finds the worker's thread
//! (`locate`), makes sure that it is one poll and not many short ones that take so long (`turn`), and copies and names its stack
//! ([`stack`](crate::stack)).
//!
//! What it costs: the runtime's workers run a few probes at the start and while a worker is suspect, nothing else, and no report costs them anything before
//! one is due: then one signal, whose handler copies up to 64 KiB. The thread of the watch takes 20 to 50 µs of CPU a sample, with cold caches,
//! so 0.1 to 0.2% of a core at the default threshold, and about 0.7 ms an episode (measured on
//! a crowded virtual machine of two cores). The first stack reads the program's symbols: tens of milliseconds of CPU on the
//! watch's thread, or hundreds with full debug information, which stay in memory.
//!
//! What it does not see:
//! - current-thread runtimes (refused: [`Error::CurrentThread`]), and the future of `Runtime::block_on`, which is on no worker;
//! - work in `spawn_blocking` and `block_in_place`, which may block;
//! - up to four polls may count as one, as tokio polls tasks that woke each other in a row without counting them;
//! - programs without symbols (`strip = true`): their workers' stacks cannot be told from others, nobody is reported, and
//!   [`Figures::unlocated`] counts what should have been.
//!
//! A signal interrupts the system call that a worker is blocked in. Calls are restarted (`SA_RESTART`), and the standard library goes on
//! waiting where the kernel does not restart (sleeping, waiting with a timeout, `poll` and its like; see `signal(7)`); code that makes such
//! calls itself sees `EINTR`, once a report.

mod judge;
mod locate;
mod probe;
mod shell;
mod threads;
mod turn;

pub use threads::State;

pub use crate::Error;
pub use crate::stack::{Frame, Stack};

use crate::stack::{SIGNAL, Sampler};
use crate::sys;
use flyball_core::time::Timestamp;
use shell::{Shared, Shell};
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};

/// How long a worker may be blocked before it is reported, unless told otherwise: what people notice (100 ms), and many thousand times a short poll.
pub const THRESHOLD: Duration = Duration::from_millis(100);
/// The least threshold. Below it, a worker that the kernel gave no CPU for a while could not be told from a blocked one.
pub const THRESHOLD_MIN: Duration = Duration::from_millis(10);
/// The greatest threshold.
pub const THRESHOLD_MAX: Duration = Duration::from_secs(3600);
/// Most reports that are kept for [`Watch::reports`].
pub const REPORTS_KEPT_MAX: usize = 64;

/// Watches the workers of a multi-thread runtime with the default [`Options`].
///
/// # Errors
/// As [`Options::watch`].
pub fn watch(handle: &Handle) -> Result<Watch, Error> {
    Options::default().watch(handle)
}

/// How to watch.
pub struct Options {
    threshold: Duration,
    signal: i32,
    on_report: Option<Callback>,
}

type Callback = Box<dyn FnMut(&Report) + Send>;

impl Default for Options {
    fn default() -> Self {
        Options {
            threshold: THRESHOLD,
            signal: SIGNAL,
            on_report: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("threshold", &self.threshold)
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The defaults: [`THRESHOLD`], the signal `SIGURG`, no callback.
    pub fn new() -> Self {
        Options::default()
    }

    /// How long a worker may be blocked before it is reported: [`THRESHOLD_MIN`] to [`THRESHOLD_MAX`].
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.threshold = threshold;
        self
    }

    /// The signal that makes a thread copy its stack. The default, `SIGURG`, is ignored by programs that do not handle it; others that may be
    /// chosen are the real-time signals, `SIGPROF`, `SIGVTALRM`, `SIGIO`, `SIGUSR1` and `SIGUSR2`. The handler stays for the life of the process.
    pub fn signal(mut self, signal: i32) -> Self {
        self.signal = signal;
        self
    }

    /// Called with each report, on the watch's thread: the next sample is taken when it returns. A panic is caught and counted.
    pub fn on_report(mut self, callback: impl FnMut(&Report) + Send + 'static) -> Self {
        self.on_report = Some(Box::new(callback));
        self
    }

    /// Starts to watch the workers of a multi-thread runtime.
    ///
    /// # Errors
    /// A threshold out of range; a current-thread runtime; a signal that may not be used, or has a handler of somebody else's, which
    /// stays; a system that refuses to read memory through the kernel; a thread that cannot be started.
    pub fn watch(self, handle: &Handle) -> Result<Watch, Error> {
        if !(THRESHOLD_MIN..=THRESHOLD_MAX).contains(&self.threshold) {
            return Err(Error::Threshold {
                given: self.threshold,
                min: THRESHOLD_MIN,
                max: THRESHOLD_MAX,
            });
        }
        if handle.runtime_flavor() != RuntimeFlavor::MultiThread {
            return Err(Error::CurrentThread);
        }
        let sampler = Sampler::new(self.signal)?;
        let shared = Arc::new(Shared::new());
        let shell = Shell::new(
            handle.clone(),
            self.threshold,
            sampler,
            self.on_report,
            Arc::clone(&shared),
        );
        let thread = std::thread::Builder::new()
            .name("flyball-watch".to_owned())
            .spawn(move || {
                sys::block_signals();
                shell.run();
            })
            .map_err(|error| Error::Thread {
                reason: error.to_string(),
            })?;
        Ok(Watch {
            shared,
            thread: Some(thread),
        })
    }
}

/// A runtime being watched, until this is dropped.
///
/// Dropping waits for the watch's thread to end, 2 s at most (it may be in the callback); it then ends by itself. The thread also
/// ends when the runtime has shut down; until then the watch keeps the runtime's shared state, not its threads, alive.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// The latest reports, the oldest first, at most [`REPORTS_KEPT_MAX`].
    pub fn reports(&self) -> Vec<Report> {
        self.shared.reports()
    }

    /// What the watch has done so far.
    pub fn figures(&self) -> Figures {
        self.shared.figures()
    }

    /// Whether the runtime is still watched: until it has shut down.
    pub fn is_watching(&self) -> bool {
        !self.shared.has_ended()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // From the callback it could not wait for itself.
        let own = thread.thread().id() == std::thread::current().id();
        if self.shared.stop(!own) && !own {
            // It has left its loop, so this returns at once. A panic of its own has been counted.
            let _ = thread.join();
        }
    }
}

/// What a watch has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Samples of the runtime's figures.
    pub samples: u64,
    /// Stacks copied.
    pub captures: u64,
    /// Probes sent.
    pub probes: u64,
    /// Reports made, those no longer kept included.
    pub reports: u64,
    /// Times that a worker seemed blocked but no thread was found that polls a task for it; it was not reported.
    pub unlocated: u64,
    /// Panics of the callback.
    pub callback_panics: u64,
    /// CPU time of the watch's thread, the callback's included.
    pub cpu: Duration,
}

/// What a watch has to say.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Report {
    /// A worker is blocked.
    Blocked(Blocked),
    /// A worker that was reported goes on.
    Recovered(Recovered),
}

/// A worker that has been in one poll of a task for longer than the threshold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Blocked {
    /// The worker, from 0, as in tokio's figures. While several workers are blocked at once their numbers may be exchanged.
    pub worker: usize,
    /// The thread's id in the kernel, as `ps -L` and debuggers show it.
    pub thread_id: u32,
    /// The thread's name, at most 15 bytes as the kernel keeps it.
    pub thread_name: String,
    /// When the worker was last seen to go on.
    pub since: Timestamp,
    /// How long it has been blocked, at least; up to a quarter of the threshold less than it was.
    pub blocked_for: Duration,
    /// Whether it computes or waits, and for what.
    pub state: State,
    /// The share of one CPU that its thread got since it became suspect, 0 to 1. A small one in a running thread says that the machine was too
    /// crowded to let it go on.
    pub cpu_share: Option<f64>,
    /// Where it is, or why that could not be had.
    pub stack: Result<Stack, Error>,
    /// The number of the episode, from 1; its later reports and its recovery have the same.
    pub episode: u64,
    /// Which report of the episode this is: 1 at the threshold, then one at each doubling, 10 at most.
    pub report: u32,
}

/// A worker that was reported goes on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// The worker.
    pub worker: usize,
    /// How long it was blocked, as exactly as [`Blocked::blocked_for`].
    pub blocked_for: Duration,
    /// The number of the episode.
    pub episode: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Blocked(blocked) => blocked.fmt(f),
            Report::Recovered(recovered) => recovered.fmt(f),
        }
    }
}

impl fmt::Display for Blocked {
    /// One line, then the stack, short; with `{:#}` whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tokio worker {} ({}, thread {}) blocked for {} ms, {}",
            self.worker,
            self.thread_name,
            self.thread_id,
            self.blocked_for.as_millis(),
            self.state,
        )?;
        match &self.stack {
            Ok(stack) => {
                let stack = if f.alternate() {
                    format!("{stack:#}")
                } else {
                    stack.to_string()
                };
                for line in stack.lines() {
                    write!(f, "\n  {line}")?;
                }
                Ok(())
            }
            Err(error) => write!(f, "\n  no stack: {error}"),
        }
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tokio worker {} goes on after {} ms",
            self.worker,
            self.blocked_for.as_millis(),
        )
    }
}
