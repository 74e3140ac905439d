//! A command that was handed over, as its program sees it.
//!
//! Invariant: an order (kill, pause, resume) is sent under the lock of the child's state, and the state becomes `Ended` under the
//! same lock before its keeper is used again. So an order never reaches the next command of that keeper: it arrives before it, and a
//! keeper without a command ignores it.
//!
//! A keeper that does not read what it is sent (stopped, or frozen with its control group) is not asked to stop its tree: whoever gives such orders all the
//! time would fill its socket and then wait, with this lock. What lets a tree go on follows upon an order to stop it, so there is always room for that, and
//! for the few kills.

use std::ffi::OsString;
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use flyball_core::time::{Clock, OsClock, Timestamp, nanos_of};

use crate::bounds::cgroup::Leaf;
use crate::bounds::cpu;
use crate::bounds::memory::{self, Count};
use crate::error::Error;
use crate::exit::Exit;
use crate::wire::{self, Kind};

/// Where a command is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Status {
    /// Waits for a slot.
    Queued,
    /// Handed to a keeper; its process id is not known yet.
    Starting,
    /// Runs.
    Running,
    /// Its tree is stopped.
    Paused,
    /// It has ended, or could not start.
    Ended,
}

/// A keeper that has so much unread does not listen, bytes as the kernel counts them: some twenty orders, a second of [`turns`](crate::bounds::turns), or
/// a command that it has not read yet; a thirteenth of what a socket holds by default (208 KiB, socket(7)).
const UNREAD_MAX: usize = 16 * 1024;

/// What is called with the end of a command, on the thread that learns of it; it must not block.
pub(crate) type OnExit = Box<dyn FnOnce(Result<Exit, Error>) + Send>;

/// What is called with the CPU time of a command in nanoseconds before anybody learns of its end.
pub(crate) type Settle = Box<dyn FnOnce(u64) + Send>;

/// Where its tree is found by others than its keeper.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// The process id of the keeper, whose descendants the tree is; 0 while it is not known.
    pub(crate) keeper: Arc<AtomicU32>,
    /// Its control group, where each keeper has one.
    pub(crate) group: Option<Arc<Leaf>>,
}

struct State {
    status: Status,
    pid: Option<u32>,
    keeper: Option<Arc<UnixStream>>,
    place: Place,
    result: Option<Result<Exit, Error>>,
    waker: Option<Waker>,
    on_exit: Option<OnExit>,
    settle: Option<Settle>,
    /// Killed between its claim and its start: `Some(at once)`.
    kill_first: Option<bool>,
    /// Its tree was stopped by [`Control::pause`], or its turn is over ([`Control::hold`]). It runs when neither is so.
    paused: bool,
    held: bool,
    /// Since when it stands still for the latter alone, and how long it did before.
    held_since: Option<Timestamp>,
    held_for: Duration,
}

/// What the handles of one child share.
pub(crate) struct Shared {
    pub(crate) program: OsString,
    /// Whether it was set aside, and holds no slot; written under the lock of its slots.
    pub(crate) aside: AtomicBool,
    /// Whether its slot was given back for good; written under the lock of its slots.
    pub(crate) settled: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn new(program: OsString, status: Status, on_exit: Option<OnExit>) -> Arc<Shared> {
        let state = State {
            status,
            pid: None,
            keeper: None,
            place: Place::default(),
            result: None,
            waker: None,
            on_exit,
            settle: None,
            kill_first: None,
            paused: false,
            held: false,
            held_since: None,
            held_for: Duration::ZERO,
        };
        Arc::new(Shared {
            program,
            aside: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the command to its keeper. Orders wait meanwhile.
    pub(crate) fn start(&self, keeper: &Arc<UnixStream>, place: Place, body: &[u8], fds: &[i32]) {
        let mut state = self.lock();
        state.keeper = Some(Arc::clone(keeper));
        state.place = place;
        // A failure means that the keeper is gone, of which the reactor learns and tells.
        let _ = wire::send(keeper, Kind::Spawn, body, fds);
        if let Some(at_once) = state.kill_first {
            let _ = wire::send(keeper, Kind::Kill, &[at_once.into()], &[]);
        }
    }

    /// Takes it out of the queue for its start; false when it was withdrawn meanwhile.
    pub(crate) fn claim(&self, settle: Settle) -> bool {
        let mut state = self.lock();
        let waits = state.status == Status::Queued;
        if waits {
            state.status = Status::Starting;
            state.settle = Some(settle);
        }
        waits
    }

    /// It did not start after all: nothing to settle.
    pub(crate) fn unclaim(&self) {
        self.lock().settle = None;
    }

    pub(crate) fn started(&self, pid: u32) {
        let mut state = self.lock();
        state.pid = Some(pid);
        if state.status == Status::Starting {
            state.status = Status::Running;
        }
        self.changed.notify_all();
    }

    /// No order is sent to the keeper from here on.
    pub(crate) fn detach_keeper(&self) {
        self.lock().keeper = None;
    }

    /// Delivers the end. Later calls change nothing.
    pub(crate) fn end(&self, result: Result<Exit, Error>) {
        let mut state = self.lock();
        if state.status == Status::Ended {
            return;
        }
        state.keeper = None;
        if let Some(settle) = state.settle.take() {
            drop(state);
            settle(result.as_ref().map_or(0, |exit| nanos_of(exit.cpu())));
            state = self.lock();
        }
        if let Some(on_exit) = state.on_exit.take() {
            // Whoever waits besides learns that the result went there.
            drop(state);
            on_exit(result);
            state = self.lock();
        } else {
            state.result = Some(result);
        }
        state.status = Status::Ended;
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn order(&self, kind: Kind, body: &[u8]) -> bool {
        let state = self.lock();
        state
            .keeper
            .as_ref()
            .is_some_and(|keeper| wire::send(keeper, kind, body, &[]).is_ok())
    }
}

/// Orders for a running command; may be cloned and kept beside its [`Child`].
#[derive(Clone)]
pub struct Control(pub(crate) Arc<Shared>);

impl Control {
    /// Asks the whole tree to end: SIGTERM, then after the command's grace SIGKILL, until nothing is left. A command that waits
    /// for a slot is withdrawn. Does nothing to one that has ended.
    pub fn kill(&self) {
        self.end(false);
    }

    /// Kills the whole tree at once.
    pub fn kill_now(&self) {
        self.end(true);
    }

    fn end(&self, at_once: bool) {
        let mut state = self.0.lock();
        match (state.status, &state.keeper) {
            (Status::Queued, _) => {
                drop(state);
                self.0.end(Err(Error::Withdrawn));
            }
            (Status::Starting, None) => state.kill_first = Some(at_once),
            (_, Some(keeper)) => {
                let _ = wire::send(keeper, Kind::Kill, &[at_once.into()], &[]);
            }
            _ => {}
        }
    }

    /// Sends a signal to every process of the tree.
    pub fn signal(&self, number: i32) {
        self.0.order(Kind::Signal, &(number as u32).to_le_bytes());
    }

    /// Stops every process of the tree (SIGSTOP) and the clock of its timeout; those that stood still already do so after [`resume`](Self::resume), too.
    /// Answers whether it ran; `false` also while its keeper does not listen.
    pub fn pause(&self) -> bool {
        self.stand(|state| &mut state.paused, true)
    }

    /// Lets a paused tree go on, unless its turn is over. Answers whether it was there.
    pub fn resume(&self) -> bool {
        self.stand(|state| &mut state.paused, false)
    }

    /// As [`pause`](Self::pause), for who lets commands run in turns: the tree stands still until it is neither paused nor held. Never waits.
    pub(crate) fn hold(&self) -> bool {
        self.stand(|state| &mut state.held, true)
    }

    /// Its turn has come. Answers whether it was there.
    pub(crate) fn let_go(&self) -> bool {
        self.stand(|state| &mut state.held, false)
    }

    /// How long it has stood still as its turn was over, time in which it was paused not counted.
    #[must_use]
    pub fn held_for(&self) -> Duration {
        let state = self.0.lock();
        let now = state
            .held_since
            .map(|since| OsClock.now().duration_since(since));
        state.held_for + now.unwrap_or_default()
    }

    /// Whether it would use the CPU if it had its turn: it has been handed over, has not ended and is not paused.
    pub(crate) fn wants_turn(&self) -> bool {
        let state = self.0.lock();
        state.keeper.is_some() && !state.paused
    }

    fn stand(&self, cause: fn(&mut State) -> &mut bool, stands: bool) -> bool {
        let mut state = self.0.lock();
        let Some(keeper) = state.keeper.clone() else {
            return false;
        };
        let before = state.paused || state.held;
        let was = std::mem::replace(cause(&mut state), stands);
        let after = state.paused || state.held;
        if before != after {
            let order = if after { Kind::Pause } else { Kind::Resume };
            let deaf = after && wire::unread(&keeper) > UNREAD_MAX;
            if deaf || wire::send(&keeper, order, &[], &[]).is_err() {
                *cause(&mut state) = was;
                return false;
            }
        }
        match (state.held && !state.paused, state.held_since) {
            (true, None) => state.held_since = Some(OsClock.now()),
            (false, Some(since)) => {
                state.held_for += OsClock.now().duration_since(since);
                state.held_since = None;
            }
            _ => {}
        }
        state.status = match (state.status, after) {
            (Status::Running | Status::Starting, true) => Status::Paused,
            (Status::Paused, false) if state.pid.is_some() => Status::Running,
            (Status::Paused, false) => Status::Starting,
            (status, _) => status,
        };
        true
    }

    /// CPU time of its tree so far, nanoseconds, as /proc tells it in ticks of the kernel: of the processes that are there and of those they have waited
    /// for. Orphans that its keeper took in are missing until the end, when [`Exit::cpu`] has them. `None` when it has not started or has ended.
    #[must_use]
    pub fn cpu(&self) -> Option<u64> {
        let state = self.0.lock();
        state.keeper.as_ref()?;
        let keeper = Arc::clone(&state.place.keeper);
        drop(state);
        match keeper.load(Ordering::Relaxed) {
            0 => None,
            keeper => Some(cpu::of_descendants_of(keeper as i32)),
        }
    }

    /// What its tree uses now, bytes; `None` when it has not started or has ended. Where each command has a control group, that is
    /// asked, which counts anonymous and shared memory, each page once, whatever `count` says; else every process of the tree.
    #[must_use]
    pub fn memory(&self, count: Count) -> Option<u64> {
        let state = self.0.lock();
        state.keeper.as_ref()?;
        let place = state.place.clone();
        drop(state);
        if let Some(used) = place.group.as_ref().and_then(|group| group.used()) {
            return Some(used);
        }
        match place.keeper.load(Ordering::Relaxed) {
            0 => None,
            keeper => Some(memory::of_descendants(keeper as i32, count)),
        }
    }

    /// Where the command is on its way.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.lock().status
    }

    /// The process id of its program once it is known: a few milliseconds after the start. It may be reused after the end.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.0.lock().pid
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("program", &self.0.program)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// A command that was handed over. Dropping it ends the command; [`detach`](Child::detach) lets it finish unwatched.
#[derive(Debug)]
pub struct Child {
    control: Control,
    detached: bool,
}

impl Child {
    pub(crate) fn new(shared: Arc<Shared>) -> Child {
        Child {
            control: Control(shared),
            detached: false,
        }
    }

    /// Waits for the end, as a future; no runtime is needed. The result is handed out once.
    pub fn wait(&mut self) -> Wait<'_> {
        Wait(self)
    }

    /// Blocks this thread until the end.
    ///
    /// # Errors
    /// [`Error::Spawn`] when the program could not be started, [`Error::KeeperLost`] when its keeper was killed,
    /// [`Error::Taken`] when the result was taken before.
    pub fn wait_blocking(&mut self) -> Result<Exit, Error> {
        let shared = &self.control.0;
        let mut state = shared.lock();
        while state.status != Status::Ended {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.result.take().unwrap_or(Err(Error::Taken))
    }

    /// Blocks until the program runs, and answers its process id; `None` when it ended before it could be told, or never
    /// started (then [`wait_blocking`](Child::wait_blocking) says why).
    #[must_use]
    pub fn wait_started(&self) -> Option<u32> {
        let shared = &self.control.0;
        let mut state = shared.lock();
        while state.pid.is_none() && state.status != Status::Ended {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.pid
    }

    /// A handle for orders that can be kept elsewhere while this one is waited for.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Asks the whole tree to end; see [`Control::kill`].
    pub fn kill(&self) {
        self.control.kill();
    }

    /// Stops the tree; see [`Control::pause`].
    pub fn pause(&self) -> bool {
        self.control.pause()
    }

    /// Lets a paused tree go on; see [`Control::resume`].
    pub fn resume(&self) -> bool {
        self.control.resume()
    }

    /// Where the command is on its way.
    #[must_use]
    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// The process id of its program once it is known; see [`Control::id`].
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.control.id()
    }

    /// Gives up the handle and lets the command finish.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.detached {
            self.control.kill();
        }
    }
}

/// The end of a [`Child`], as a future.
#[derive(Debug)]
#[must_use = "a future does nothing until it is awaited"]
pub struct Wait<'a>(&'a mut Child);

impl Future for Wait<'_> {
    type Output = Result<Exit, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.control.0.lock();
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None if state.status == Status::Ended => Poll::Ready(Err(Error::Taken)),
            None => {
                match &mut state.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    waker => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}
