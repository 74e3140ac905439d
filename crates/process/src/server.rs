//! The program's side: starts the spawn server, hands commands to keepers, and learns of their ends on one thread.
//!
//! One thread however many children there are: it waits for all keepers at once (epoll), puts a keeper whose command has ended
//! back among the idle ones, and completes the child. Commands are sent by the thread that spawns them, so a start costs one system
//! call and no hand-over.
//!
//! Leaves out: which command may start when (`slots`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use flyball_core::time::{Clock, OsClock, Timestamp};

use crate::bounds::cgroup::CgroupPool;
use crate::bounds::scope::Scope;
use crate::child::{Child, OnExit, Place, Shared, Status};
use crate::command::Command;
use crate::error::{Error, spawn_error};
use crate::exit::Exit;
use crate::resident::{ROLE_VARIABLE, initialised};
use crate::sys::{self, Poller, Step, Watch};
use crate::wire::{self, Inbox, Kind, Message, Received, Report, Take};

const WAKE: u64 = 0;
const CONTROL: u64 = 1;
const FIRST_KEEPER: u64 = 2;

/// How a [`SpawnServer`] is set up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The program that becomes the server; its `main` must call [`init`](crate::init) first. `None`: this one, executed anew.
    pub program: Option<PathBuf>,
    /// How long the server may take to answer when it starts; 5 s unless set. It takes about a millisecond.
    pub handshake_timeout: Duration,
    /// Most children at once, 1..=10,000; 1,024 unless set. Each takes a keeper (about 300 KiB) and a descriptor here.
    pub children_max: usize,
    /// Keepers that are kept for the next commands; 16 unless set.
    pub idle_keepers_max: usize,
    /// Where captured output beyond 64 KiB goes, in files without a name; the system's temporary folder unless set.
    pub spill_directory: PathBuf,
    /// Runs each keeper, and so each command, in a control group of its own below this one.
    pub groups: Option<CgroupPool>,
    /// Runs the server, and so everything, in a scope of the user's service manager.
    pub scope: Option<Scope>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            program: None,
            handshake_timeout: Duration::from_secs(5),
            children_max: 1024,
            idle_keepers_max: 16,
            spill_directory: std::env::temp_dir(),
            groups: None,
            scope: None,
        }
    }
}

/// What holds the processes of a command together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Containment {
    /// A subreaper for each command: exact, whatever the processes do, as long as they can be signalled. A tree that forks faster
    /// than it is killed is pursued for 5 s.
    Subreaper,
    /// The same, and a control group for each command: its memory can be bounded ([`Command::memory`](crate::Command::memory)), and
    /// what it uses is known exactly.
    Groups {
        /// The kind of hierarchy, 1 or 2.
        version: u8,
    },
    /// A subreaper for each command, and one scope of the user's service manager around all.
    Scope,
}

impl std::fmt::Display for Containment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Containment::Subreaper => f.write_str("a subreaper for each command"),
            Containment::Groups { version } => write!(
                f,
                "a subreaper and a control group (version {version}) for each command"
            ),
            Containment::Scope => {
                f.write_str("a subreaper for each command in a scope of the user's service manager")
            }
        }
    }
}

struct Keeper {
    socket: Arc<UnixStream>,
    place: Place,
    child: Option<Arc<Shared>>,
}

struct Pool {
    keepers: HashMap<u64, Keeper>,
    idle: Vec<u64>,
    next: u64,
    busy: usize,
    alarm: Option<(Timestamp, Arc<dyn Fn() + Send + Sync>)>,
}

/// What the server's handles and its thread share.
pub(crate) struct Inner {
    options: Options,
    control: Mutex<Option<UnixStream>>,
    pool: Mutex<Pool>,
    poller: Poller,
    wake: std::fs::File,
    stopping: AtomicBool,
}

/// A running spawn server. Dropping it kills everything that it started and waits until that is gone.
pub struct SpawnServer {
    inner: Arc<Inner>,
    reactor: Option<JoinHandle<()>>,
    process: std::process::Child,
}

impl SpawnServer {
    /// Starts the server process and the thread that listens to it.
    ///
    /// # Errors
    /// [`Error::NotInitialised`] when `main` did not call [`init`](crate::init) (nothing has been started then);
    /// [`Error::Handshake`] when `options.program` does not answer as a server; [`Error::Start`] for what the system refused;
    /// [`Error::Invalid`] for options out of range.
    pub fn start(options: Options) -> Result<SpawnServer, Error> {
        // A server that starts itself again would do so without end.
        if std::env::var_os(ROLE_VARIABLE).is_some()
            || (options.program.is_none() && !initialised())
        {
            return Err(Error::NotInitialised);
        }
        if !(1..=10_000).contains(&options.children_max) {
            return Err(Error::Invalid {
                what: "children_max must be 1..=10000".to_owned(),
            });
        }
        let program = options
            .program
            .clone()
            .map_or_else(|| OsString::from("/proc/self/exe"), PathBuf::into_os_string);
        let failed = |doing| move |source| Error::Start { doing, source };
        let (control, theirs) = UnixStream::pair().map_err(failed("making a socket"))?;
        let stdin = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(failed("copying standard input"))?;
        let mut process = match &options.scope {
            None => {
                let mut command = std::process::Command::new(&program);
                command.arg0("flyball-spawn");
                command
            }
            Some(scope) => {
                let (manager, words) = scope.words();
                let mut command = std::process::Command::new(manager);
                command.args(words).arg(match &options.program {
                    Some(program) => program.clone(),
                    // What /proc/self/exe names there is the program that makes the scope.
                    None => {
                        std::env::current_exe().map_err(failed("finding this program's file"))?
                    }
                });
                command
            }
        };
        let mut process = process
            .env(ROLE_VARIABLE, &options.spill_directory)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(failed("executing the program anew"))?;
        if let Err(error) = greet(&control, stdin, &program, options.handshake_timeout) {
            let _ = process.kill();
            let _ = process.wait();
            return Err(error);
        }
        let poller = Poller::new().map_err(failed("making a poller"))?;
        let wake = sys::event_fd().map_err(failed("making a wake-up counter"))?;
        poller
            .add(wake.as_fd(), WAKE)
            .map_err(failed("watching the wake-up counter"))?;
        poller
            .add(control.as_fd(), CONTROL)
            .map_err(failed("watching the server"))?;
        let pool = Pool {
            keepers: HashMap::new(),
            idle: Vec::new(),
            next: FIRST_KEEPER,
            busy: 0,
            alarm: None,
        };
        let inner = Arc::new(Inner {
            options,
            control: Mutex::new(Some(control)),
            pool: Mutex::new(pool),
            poller,
            wake: wake.into(),
            stopping: AtomicBool::new(false),
        });
        let listening = Arc::clone(&inner);
        let reactor = std::thread::Builder::new()
            .name("flyball-process".to_owned())
            .spawn(move || listening.listen())
            .map_err(failed("starting a thread"))?;
        Ok(SpawnServer {
            inner,
            reactor: Some(reactor),
            process,
        })
    }

    /// Starts a command. Answers before its program runs: the child says when it could not be started.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::TooLarge`] for the command itself, [`Error::TooManyChildren`] at the bound,
    /// [`Error::ShuttingDown`], and [`Error::Connection`] when the server is gone.
    pub fn spawn(&self, command: Command) -> Result<Child, Error> {
        let shared = Shared::new(command.program().to_owned(), Status::Starting, None);
        self.inner.launch(command, &shared)?;
        Ok(Child::new(shared))
    }

    /// Starts a command and calls `on_exit` with its end, on the thread that learns of it, which must not be kept.
    ///
    /// # Errors
    /// As [`spawn`](SpawnServer::spawn); `on_exit` is not called then.
    pub fn spawn_with(
        &self,
        command: Command,
        on_exit: impl FnOnce(Result<Exit, Error>) + Send + 'static,
    ) -> Result<Child, Error> {
        let on_exit: OnExit = Box::new(on_exit);
        let shared = Shared::new(
            command.program().to_owned(),
            Status::Starting,
            Some(on_exit),
        );
        self.inner.launch(command, &shared)?;
        Ok(Child::new(shared))
    }

    /// Children that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.inner.lock().busy
    }

    /// What holds the processes of a command together here.
    #[must_use]
    pub fn containment(&self) -> Containment {
        match &self.inner.options {
            Options {
                groups: Some(groups),
                ..
            } => Containment::Groups {
                version: groups.version(),
            },
            Options { scope: Some(_), .. } => Containment::Scope,
            _ => Containment::Subreaper,
        }
    }

    /// The process id of the server.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl std::fmt::Debug for SpawnServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpawnServer")
            .field("id", &self.id())
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

impl Drop for SpawnServer {
    fn drop(&mut self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.inner.wake();
        if let Some(reactor) = self.reactor.take() {
            let _ = reactor.join();
        }
        // It ends when nothing of what it started is left, or after a bounded time.
        let _ = self.process.wait();
        if let Some(groups) = &self.inner.options.groups {
            groups.remove_retired();
        }
    }
}

/// Says hello and waits for the answer, not for ever.
fn greet(
    control: &UnixStream,
    stdin: OwnedFd,
    program: &OsString,
    patience: Duration,
) -> Result<(), Error> {
    let silent = || Error::Handshake {
        program: program.clone(),
        waited: patience,
    };
    wire::send(control, Kind::Hello, &[], &[stdin.as_raw_fd()]).map_err(|_| silent())?;
    let clock = OsClock;
    let deadline = clock.now().saturating_add(patience);
    let mut inbox = Inbox::default();
    loop {
        match inbox.next(control.as_fd(), false) {
            Ok(Received::Message(message)) if message.kind == Kind::Ready => return Ok(()),
            Ok(Received::Later) => {}
            Ok(_) | Err(_) => return Err(silent()),
        }
        let left = deadline.duration_since(clock.now());
        if left.is_zero() {
            return Err(silent());
        }
        let mut watches = [Watch::input(control.as_raw_fd())];
        sys::wait_input(&mut watches, Some(left), false).map_err(Error::Connection)?;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full counter is awake already.
        let _ = (&self.wake).write_all(&1_u64.to_ne_bytes());
    }

    /// Calls `alarm` on the listening thread at that time, in place of the one set before.
    pub(crate) fn set_alarm(&self, at: Timestamp, alarm: Arc<dyn Fn() + Send + Sync>) {
        self.lock().alarm = Some((at, alarm));
        self.wake();
    }

    /// Hands a command to a keeper.
    pub(crate) fn launch(&self, command: Command, shared: &Arc<Shared>) -> Result<(), Error> {
        let memory = command.memory_bound();
        if memory.is_some() && self.options.groups.is_none() {
            return Err(Error::MemoryBound {
                why: "commands have no control groups of their own".to_owned(),
            });
        }
        let (body, fds) = command.into_message()?;
        let (token, socket, place) = self.take_keeper(shared)?;
        if let Some(group) = &place.group
            && let Err(error) = group.set_memory(memory)
        {
            let _ = self.free(token);
            return Err(Error::MemoryBound {
                why: error.to_string(),
            });
        }
        shared.start(&socket, place, &body, &wire::raw(&fds));
        Ok(())
    }

    fn take_keeper(&self, shared: &Arc<Shared>) -> Result<(u64, Arc<UnixStream>, Place), Error> {
        let mut pool = self.lock();
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::ShuttingDown);
        }
        if pool.busy >= self.options.children_max {
            return Err(Error::TooManyChildren {
                limit: self.options.children_max,
            });
        }
        let token = match pool.idle.pop() {
            Some(token) => token,
            None => self.make_keeper(&mut pool).map_err(Error::Connection)?,
        };
        let keeper = pool.keepers.get_mut(&token).ok_or(Error::KeeperLost)?;
        keeper.child = Some(Arc::clone(shared));
        let (socket, place) = (Arc::clone(&keeper.socket), keeper.place.clone());
        pool.busy += 1;
        Ok((token, socket, place))
    }

    fn make_keeper(&self, pool: &mut Pool) -> io::Result<u64> {
        let (ours, theirs) = UnixStream::pair()?;
        let group = match &self.options.groups {
            Some(groups) => Some(Arc::new(groups.leaf()?)),
            None => None,
        };
        let mut fds = vec![theirs.as_raw_fd()];
        fds.extend(group.iter().map(|group| group.entrance().as_raw_fd()));
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let control = control.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        wire::send(control, Kind::Keeper, &[], &fds)?;
        let token = pool.next;
        pool.next += 1;
        self.poller.add(ours.as_fd(), token)?;
        pool.keepers.insert(
            token,
            Keeper {
                socket: Arc::new(ours),
                place: Place {
                    keeper: Arc::default(),
                    group,
                },
                child: None,
            },
        );
        Ok(token)
    }

    /// The listening thread.
    fn listen(&self) {
        let mut inboxes: HashMap<u64, Inbox> = HashMap::new();
        let mut tokens = Vec::new();
        while !self.stopping.load(Ordering::SeqCst) {
            let timeout = self.ring();
            if self.poller.wait(&mut tokens, timeout).is_err() {
                break;
            }
            for &token in &tokens {
                match token {
                    WAKE => {
                        let mut count = [0; 8];
                        let _ = sys::read(self.wake.as_fd(), &mut count);
                    }
                    CONTROL => self.control_lost(),
                    keeper => self.hear(keeper, &mut inboxes),
                }
            }
        }
        self.close();
    }

    /// Calls the alarm when it is due; answers how long to wait for it otherwise.
    fn ring(&self) -> Option<Duration> {
        let mut pool = self.lock();
        let (at, _) = pool.alarm.as_ref()?;
        let left = at.duration_since(OsClock.now());
        if !left.is_zero() {
            return Some(left);
        }
        let (_, alarm) = pool.alarm.take()?;
        drop(pool);
        alarm();
        self.lock()
            .alarm
            .as_ref()
            .map(|(at, _)| at.duration_since(OsClock.now()))
    }

    /// The server process is gone (or broken): keepers go on, but there will be no new ones.
    fn control_lost(&self) {
        if let Some(control) = self
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            self.poller.remove(control.as_fd());
        }
    }

    fn hear(&self, token: u64, inboxes: &mut HashMap<u64, Inbox>) {
        let Some(socket) = self
            .lock()
            .keepers
            .get(&token)
            .map(|keeper| Arc::clone(&keeper.socket))
        else {
            return;
        };
        let inbox = inboxes.entry(token).or_default();
        loop {
            match inbox.next(socket.as_fd(), false) {
                Ok(Received::Message(message)) => self.told(token, message),
                Ok(Received::Later) => return,
                Ok(Received::Closed) | Err(_) => {
                    inboxes.remove(&token);
                    self.lose(token);
                    return;
                }
            }
        }
    }

    fn told(&self, token: u64, message: Message) {
        match message.kind {
            Kind::Ready => {
                if let (Ok(pid), Some(keeper)) =
                    (Take(&message.body).u32(), self.lock().keepers.get(&token))
                {
                    keeper.place.keeper.store(pid, Ordering::Relaxed);
                }
            }
            Kind::Started => {
                let child = self
                    .lock()
                    .keepers
                    .get(&token)
                    .and_then(|keeper| keeper.child.clone());
                if let (Some(child), Ok(pid)) = (child, Take(&message.body).u32()) {
                    child.started(pid);
                }
            }
            Kind::Failed => {
                if let Some(child) = self.free(token) {
                    let mut body = Take(&message.body);
                    let step = body.u8().ok().and_then(Step::from_u8).unwrap_or(Step::Exec);
                    let errno = body.u32().unwrap_or(libc::EIO as u32) as i32;
                    let source = io::Error::from_raw_os_error(errno);
                    child.end(Err(spawn_error(child.program.clone(), step, source)));
                }
            }
            Kind::Exited => {
                let report = Report::decode(&message.body);
                let tainted = report.as_ref().is_ok_and(|report| report.survivors > 0);
                let mut result = report
                    .map(|report| Exit::from_report(report, message.fds))
                    .map_err(Error::Connection);
                // Before the keeper has another command, whose kills these would be.
                if let Ok(exit) = &mut result {
                    exit.out_of_memory = self.killed_for_memory(token);
                }
                if let Some(child) = self.free(token) {
                    child.end(result);
                }
                if tainted {
                    self.lose(token);
                }
            }
            _ => {}
        }
    }

    fn killed_for_memory(&self, token: u64) -> bool {
        let group = self
            .lock()
            .keepers
            .get(&token)
            .and_then(|keeper| keeper.place.group.clone());
        group
            .and_then(|group| group.was_killed_for_memory())
            .unwrap_or(false)
    }

    /// The command of a keeper is over: the keeper is idle. Answers whose command it was.
    fn free(&self, token: u64) -> Option<Arc<Shared>> {
        let child = self.lock().keepers.get_mut(&token)?.child.take()?;
        child.detach_keeper();
        let mut pool = self.lock();
        pool.busy -= 1;
        if pool.idle.len() < self.options.idle_keepers_max {
            pool.idle.push(token);
        } else {
            self.forget(&mut pool, token);
        }
        Some(child)
    }

    fn forget(&self, pool: &mut Pool, token: u64) -> Option<Arc<Shared>> {
        pool.idle.retain(|idle| *idle != token);
        let keeper = pool.keepers.remove(&token)?;
        self.poller.remove(keeper.socket.as_fd());
        let _ = keeper.socket.shutdown(std::net::Shutdown::Both);
        keeper.child
    }

    /// A keeper is gone; the server kills what it kept.
    fn lose(&self, token: u64) {
        let mut pool = self.lock();
        let child = self.forget(&mut pool, token);
        if child.is_some() {
            pool.busy -= 1;
        }
        drop(pool);
        if let Some(child) = child {
            child.end(Err(Error::KeeperLost));
        }
    }

    /// Lets go of every keeper, which ends every tree.
    fn close(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let tokens: Vec<u64> = self.lock().keepers.keys().copied().collect();
        for token in tokens {
            let mut pool = self.lock();
            let child = self.forget(&mut pool, token);
            drop(pool);
            if let Some(child) = child {
                child.end(Err(Error::ShuttingDown));
            }
        }
        self.control_lost();
        self.lock().alarm = None;
    }
}
