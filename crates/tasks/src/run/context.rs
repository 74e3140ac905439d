//! A running task as those see it who have to do with it: its handler, who drives it, and people.
//!
//! Invariants: what a handler reports is kept until the next sign of life takes it, the newest only, so a handler that reports without end costs
//! nothing; a checkpoint has been taken by the queue when `checkpoint` returns; the first cause to stop stays.

use crate::run::breakers::Pass;
use crate::run::ledger::Grant;
use crate::task::{Beat, Lease};
use bytes::Bytes;
use flyball_core::time::{Clock, OsClock, Timestamp, WallTime, nanos_of};
use flyball_policy::queue::{Attempts, TaskId, Token};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// The longest line of text with a sign of life, bytes: the queue's bound.
const MESSAGE_BYTES_MAX: usize = 1_000;
/// The largest checkpoint, bytes: the queue's bound.
pub const CHECKPOINT_BYTES_MAX: usize = 64 * 1024;

/// Why a run is to end before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// Somebody cancelled the task.
    Cancelled,
    /// It ran past its timeout.
    TimedOut,
    /// The lease is over: the task is no longer ours.
    Lost,
    /// The runners end, and give it back.
    Drained,
}

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// Waits for a worker of its class or a process slot.
    Starting,
    /// Runs.
    Running,
    /// Stands still for work of a higher class.
    Paused,
    /// Was told to end.
    Ending,
    /// Has ended, and waits until the queue has written it down.
    Reporting,
}

#[derive(Default)]
struct Reports {
    progress: Option<f32>,
    message: Option<Box<str>>,
    checkpoint: Option<Bytes>,
    paused: Option<bool>,
    taken: Vec<oneshot::Sender<bool>>,
    /// Somebody has reason to think that the queue knows more of the task than we do.
    look: bool,
}

/// What everybody shares of one run.
pub(crate) struct Live {
    pub(crate) id: TaskId,
    pub(crate) token: Token,
    pub(crate) kind: Box<str>,
    pub(crate) class: Box<str>,
    pub(crate) attempts: Attempts,
    pub(crate) grant: Grant,
    pub(crate) since: WallTime,
    pub(crate) checkpoint: Option<Bytes>,
    /// Of the breaker of what it depends on, once it has one.
    pub(crate) pass: OnceLock<Pass>,
    reports: Mutex<Reports>,
    phase: Mutex<(Phase, Option<Timestamp>)>,
    /// There is something to report at once, or a look at the lease is wanted.
    pub(crate) beat: Notify,
    /// Says how long it has stood still by turns; of that, nanoseconds that the queue was told.
    stood: OnceLock<Box<dyn Fn() -> Duration + Send + Sync>>,
    stood_told: AtomicU64,
    stop: watch::Sender<Option<Stop>>,
    started: watch::Sender<bool>,
    abandoned: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(crate) fn new(lease: &Lease, grant: Grant) -> Arc<Live> {
        Arc::new(Live {
            id: lease.id,
            token: lease.token,
            kind: lease.head.kind.clone(),
            class: lease.head.class.clone(),
            attempts: lease.attempts,
            grant,
            since: WallTime::now(),
            checkpoint: lease.checkpoint.clone(),
            pass: OnceLock::new(),
            reports: Mutex::default(),
            phase: Mutex::new((Phase::Starting, None)),
            beat: Notify::new(),
            stood: OnceLock::new(),
            stood_told: AtomicU64::new(0),
            stop: watch::Sender::new(None),
            started: watch::Sender::new(false),
            abandoned: AtomicBool::new(false),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        lock(&self.phase).0
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        lock(&self.phase).0 = phase;
    }

    /// When it began to run, once it has.
    pub(crate) fn running_since(&self) -> Option<Timestamp> {
        lock(&self.phase).1
    }

    /// Its work begins now: what came before was waiting.
    pub(crate) fn start(&self) {
        {
            let mut phase = lock(&self.phase);
            if phase.0 == Phase::Starting {
                phase.0 = Phase::Running;
            }
            phase.1 = Some(OsClock.now());
        }
        self.started.send_replace(true);
    }

    pub(crate) async fn wait_started(&self) {
        let _ = self.started.subscribe().wait_for(|started| *started).await;
    }

    /// Tells it to end. Answers whether this is the first cause.
    pub(crate) fn stop(&self, cause: Stop) -> bool {
        let first = self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(cause);
            }
            first
        });
        if first {
            let mut phase = lock(&self.phase);
            if phase.0 != Phase::Reporting {
                phase.0 = Phase::Ending;
            }
        }
        first
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    pub(crate) async fn wait_stopped(&self) -> Stop {
        let mut stop = self.stop.subscribe();
        let stopped = stop.wait_for(Option::is_some).await;
        stopped.ok().and_then(|stop| *stop).unwrap_or(Stop::Drained)
    }

    /// Says that it stands still or goes on.
    pub(crate) fn set_paused(&self, paused: bool) {
        {
            let mut phase = lock(&self.phase);
            match (phase.0, paused) {
                (Phase::Running | Phase::Starting, true) => phase.0 = Phase::Paused,
                (Phase::Paused, false) => phase.0 = Phase::Running,
                _ => return,
            }
        }
        lock(&self.reports).paused = Some(paused);
        self.beat.notify_one();
    }

    /// Says how it is known how long it has stood still by turns.
    #[cfg(feature = "command")]
    pub(crate) fn stands_by(&self, stood: impl Fn() -> Duration + Send + Sync + 'static) {
        let _ = self.stood.set(Box::new(stood));
    }

    fn stood(&self) -> Duration {
        self.stood.get().map_or(Duration::ZERO, |stood| stood())
    }

    /// Has the queue told if it knows nothing of this much standing still.
    #[cfg(feature = "command")]
    pub(crate) fn tell_stood(&self, most: Duration) {
        let told = Duration::from_nanos(self.stood_told.load(Ordering::Relaxed));
        if self.stood().saturating_sub(told) >= most {
            self.beat.notify_one();
        }
    }

    pub(crate) fn set_checkpoint(&self, checkpoint: Bytes) {
        lock(&self.reports).checkpoint = Some(checkpoint);
    }

    /// Whether there is something that no sign of life has carried yet.
    pub(crate) fn has_reports(&self) -> bool {
        let reports = lock(&self.reports);
        reports.progress.is_some()
            || reports.message.is_some()
            || reports.checkpoint.is_some()
            || reports.paused.is_some()
    }

    /// Whether somebody waits for what was reported to be taken, or it changes the task's state.
    pub(crate) fn is_urgent(&self) -> bool {
        let reports = lock(&self.reports);
        !reports.taken.is_empty() || reports.paused.is_some() || reports.look
    }

    /// Asks the queue how things stand, at once.
    pub(crate) fn look(&self) {
        lock(&self.reports).look = true;
        self.beat.notify_one();
    }

    /// Its task has been reported, but its work goes on: nobody can end it.
    pub(crate) fn abandon(&self) {
        self.set_phase(Phase::Ending);
        self.abandoned.store(true, Ordering::Release);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Takes what the next sign of life carries, and who is to be told that it was taken.
    pub(crate) fn take_beat(&self) -> (Beat, Vec<oneshot::Sender<bool>>) {
        let reports = std::mem::take(&mut *lock(&self.reports));
        let stood = self.stood();
        self.stood_told.store(nanos_of(stood), Ordering::Relaxed);
        let beat = Beat {
            lease: Duration::ZERO,
            progress: reports.progress,
            message: reports.message,
            checkpoint: reports.checkpoint,
            paused: reports.paused,
            stood,
        };
        (beat, reports.taken)
    }

    /// Puts back what a sign of life that failed would have carried, beneath what has come since.
    pub(crate) fn put_back(&self, beat: Beat) {
        let mut reports = lock(&self.reports);
        reports.progress = reports.progress.or(beat.progress);
        reports.message = reports.message.take().or(beat.message);
        reports.checkpoint = reports.checkpoint.take().or(beat.checkpoint);
        reports.paused = reports.paused.or(beat.paused);
    }
}

/// What a handler knows of its task and can say about it. Cheap to clone.
#[derive(Clone)]
pub struct TaskContext {
    live: Arc<Live>,
}

impl TaskContext {
    pub(crate) fn new(live: Arc<Live>) -> TaskContext {
        TaskContext { live }
    }

    /// The task's name.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.live.id
    }

    /// Proves to others that this run has the task: a later run has a greater one. Hand it to whatever must not take orders from a run that has
    /// been given up.
    #[must_use]
    pub fn token(&self) -> Token {
        self.live.token
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.live.kind
    }

    /// Its class.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.live.class
    }

    /// Which attempt this is, and how many counted before.
    #[must_use]
    pub fn attempts(&self) -> Attempts {
        self.live.attempts
    }

    /// What the last attempt left.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<&Bytes> {
        self.live.checkpoint.as_ref()
    }

    /// Instances of a named resource that are its own while it runs, from 0.
    #[must_use]
    pub fn resource(&self, name: &str) -> &[u32] {
        self.live
            .grant
            .resources
            .get(name)
            .map_or(&[], Vec::as_slice)
    }

    /// Says how far it is, 0 to 100 (cut to that; what is no number is left out). Told to the queue with the next sign of life.
    pub fn progress(&self, percent: f32) {
        if !percent.is_nan() {
            lock(&self.live.reports).progress = Some(percent.clamp(0.0, 100.0));
            self.live.beat.notify_one();
        }
    }

    /// Says in a line of text what it does; cut at 1,000 bytes. Told to the queue with the next sign of life.
    pub fn message(&self, text: &str) {
        let mut end = text.len().min(MESSAGE_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        lock(&self.live.reports).message = Some(text[..end].into());
        self.live.beat.notify_one();
    }

    /// Leaves something for the next attempt, should this one not come to its end; at most 64 KiB. It is on disk when this returns.
    ///
    /// # Errors
    /// It is too large, or the task is no longer this run's.
    pub async fn checkpoint(&self, bytes: impl Into<Bytes>) -> Result<(), CheckpointError> {
        let taken = self.leave(bytes.into())?;
        match taken.await {
            Ok(true) => Ok(()),
            _ => Err(CheckpointError::Lost),
        }
    }

    /// As [`checkpoint`](Self::checkpoint), for closures: blocks this thread meanwhile.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    ///
    /// # Panics
    /// Inside of a future.
    pub fn checkpoint_blocking(&self, bytes: impl Into<Bytes>) -> Result<(), CheckpointError> {
        let taken = self.leave(bytes.into())?;
        match taken.blocking_recv() {
            Ok(true) => Ok(()),
            _ => Err(CheckpointError::Lost),
        }
    }

    fn leave(&self, bytes: Bytes) -> Result<oneshot::Receiver<bool>, CheckpointError> {
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            return Err(CheckpointError::TooLarge { bytes: bytes.len() });
        }
        let (tell, taken) = oneshot::channel();
        {
            let mut reports = lock(&self.live.reports);
            reports.checkpoint = Some(bytes);
            reports.taken.push(tell);
        }
        self.live.beat.notify_one();
        Ok(taken)
    }

    /// Whether the task is to end: cancelled, past its timeout, taken away, or the program ends. A future is dropped at its next await then; a
    /// closure ends by itself, soon.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.live.stopped().is_some()
    }

    /// Waits until the task is to end.
    pub async fn cancelled(&self) {
        self.live.wait_stopped().await;
    }
}

impl std::fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskContext")
            .field("id", &self.live.id)
            .field("kind", &self.live.kind)
            .finish_non_exhaustive()
    }
}

/// Why nothing could be left for the next attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// It has more than 64 KiB.
    #[error("the checkpoint has {bytes} bytes, the most is {CHECKPOINT_BYTES_MAX}")]
    TooLarge {
        /// What it has.
        bytes: usize,
    },
    /// The task is no longer this run's, or the queue did not take it.
    #[error("the task is no longer this run's")]
    Lost,
}

#[cfg(all(test, feature = "command"))]
mod tests {
    use super::*;
    use crate::conformance::testing::task;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn lease() -> Lease {
        let task = task("a");
        Lease {
            id: TaskId(1),
            token: Token {
                epoch: 1,
                number: 1,
            },
            expires_at: WallTime::now(),
            attempts: Attempts::default(),
            head: task.head,
            run: task.run,
            payload: task.payload,
            checkpoint: None,
        }
    }

    /// CPU-20: however long its lease, the queue is told of a task that stands still by turns before there is too much that it does not know of, and is left
    /// alone until there is as much again.
    #[test]
    fn standing_still_is_told_early() {
        const MOST: Duration = Duration::from_secs(10);
        let live = Live::new(&lease(), Grant::default());
        let seconds = Arc::new(AtomicU64::new(0));
        let known = Arc::clone(&seconds);
        live.stands_by(move || Duration::from_secs(known.load(Ordering::Relaxed)));
        let is_due = |stood: u64| {
            seconds.store(stood, Ordering::Relaxed);
            live.tell_stood(MOST);
            let mut context = Context::from_waker(Waker::noop());
            pin!(live.beat.notified()).poll(&mut context).is_ready()
        };
        assert!(!is_due(0) && !is_due(9));
        assert!(is_due(10));
        assert!(is_due(11), "nothing was told yet");
        let (beat, _) = live.take_beat();
        assert_eq!(beat.stood, Duration::from_secs(11));
        assert!(!is_due(11) && !is_due(20));
        assert!(is_due(21));
    }
}
