//! A GNU make jobserver: commands that start jobs of their own (make, cargo, ninja) share the slots with all others.
//!
//! Each running command has a slot, which is its implicit token. Slots that no command has are *tokens*: a command that finds one may run one more job, and
//! gives it back after the job. So as many jobs run as there are slots, however they are nested, and the last command of a batch may use all of them.
//!
//! Make's own jobserver is one fifo that all share; who dies with a token in its hand takes it along, and nobody can tell. Here each command gets a *lane*, a fifo of
//! its own, and a thread moves tokens between the lanes and the pool. What a command holds is what was put into its lane less what lies in it, so when its
//! tree has ended exactly that much comes back, whatever killed it.
//!
//! ```text
//!             put ┌────────── lane of a make ◄──► its jobs
//!   pool ◄──────► ├────────── lane of a cargo ◄──► its jobs
//!            take └────────── lane of a gzip       (never looks; the token that lies there moves on)
//! ```
//!
//! Who wants tokens is not known before it takes one. So one token lies ready in each lane as long as there are enough; one that nobody takes moves on to
//! a lane that has none, after 4 ms at first and up to 256 ms while nothing happens ([`share`]).
//!
//! Invariants:
//! - running commands and tokens together are at most the slots, and those of a group (a class) at most what the group may have, but for commands that start while the tokens are out: a start is never held up, and tokens that come
//!   back are kept until the sum is right again;
//! - a command that has ended holds nothing: its lane is emptied before anybody else gets it.
//!
//! **Two styles.** `--jobserver-auth=fifo:PATH` is known to make since 4.4, to ninja since 1.13 and to cargo, and ends an older make with an error. `--jobserver-auth=R,W`,
//! descriptors that are handed down, is known to make since 4.2 and to cargo. [`Style::detect`] looks which make there is. In the second style tokens go out by one fifo and come back by
//! another, so that returned ones pass the pool; in the first a command that has work for its tokens keeps them as long as it has.
//!
//! Sources: GNU make manual, "Integrating GNU make" (jobserver, POSIX); P. Smith, make 4.4 NEWS (fifo).
//!
//! Leaves out: `make -jN` within a command, which makes a jobserver of its own, as GNU make has it; and tokens of a make that was killed while its command lives on: they come back
//! when the command ends.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::command::Command;
use crate::error::Error;
use crate::sys::fifo::Touches;
use crate::sys::{self, Poller};

mod lane;
mod share;
#[cfg(test)]
mod tests;

use lane::Lane;
use share::Action;

/// Descriptors by which the older style is handed down: above those that shells use.
const READ: u32 = 98;
const WRITE: u32 = 99;

/// How long a token lies in a lane before it moves on, at first and at most; doubled each time that nobody took one.
const PATIENCE_MIN: Duration = Duration::from_millis(4);
const PATIENCE_MAX: Duration = Duration::from_millis(256);
/// A slot that became free is given out as a token after this time, so that between two commands of a batch nothing moves.
const SETTLE: Duration = Duration::from_millis(2);

/// More jobs than this at once are none that one machine runs; their tokens fit a fifo, whatever its size.
const SLOTS_MAX: u32 = 4_096;

/// A make larger than this is none.
const MAKE_BYTES_MAX: u64 = 32 << 20;

/// How commands are told of the jobserver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Style {
    /// By the path of a fifo.
    Fifo,
    /// By two descriptors.
    Pipe,
}

impl Style {
    /// The style that the `make` along this search path (as `PATH` holds one) knows: [`Style::Fifo`] if it does or there is none, else [`Style::Pipe`].
    ///
    /// It is looked for in the program, which is a matter of microseconds, where asking `make --version` would start a process.
    #[must_use]
    pub fn detect(search_path: &OsStr) -> Style {
        let make = std::env::split_paths(search_path)
            .map(|folder| folder.join("make"))
            .find(|path| path.is_file());
        let Some(make) = make else { return Style::Fifo };
        let small = make
            .metadata()
            .is_ok_and(|about| about.len() <= MAKE_BYTES_MAX);
        let knows = |bytes: Vec<u8>| bytes.windows(5).any(|part| part == b"fifo:");
        if small && std::fs::read(&make).is_ok_and(knows) {
            Style::Fifo
        } else {
            Style::Pipe
        }
    }
}

/// How a [`Jobserver`] is set up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobserverOptions {
    /// How commands are told of it; by the make along this program's `PATH` unless set.
    pub style: Style,
    /// Where its fifos are; the user's runtime folder, else the temporary folder, unless set. What earlier ones left there when they were killed is removed.
    pub folder: PathBuf,
    /// The most slots that it has, however it is resized: 1 to 4,096, which it is unless set. Where many commands may run at once, a make that runs alone need not start as many jobs.
    pub slots_max: u32,
}

impl Default for JobserverOptions {
    fn default() -> JobserverOptions {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        JobserverOptions {
            style: Style::detect(&path),
            folder: runtime
                .filter(|folder| folder.is_dir())
                .unwrap_or_else(std::env::temp_dir),
            slots_max: SLOTS_MAX,
        }
    }
}

/// Figures of a [`Jobserver`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct JobserverStats {
    /// Slots.
    pub slots: u32,
    /// Commands that run, each with a slot.
    pub running: u32,
    /// Tokens that commands hold now.
    pub held: u32,
    /// Tokens that lie ready for commands now.
    pub ready: u32,
    /// Tokens that commands still held when they had ended, and that came back with their end, since the start.
    pub restored: u64,
}

struct State {
    slots: u32,
    /// Those in use and those that wait for the next command.
    lanes: Vec<Lane>,
    restored: u64,
    patience: Duration,
    /// The thread waits for no time, so it must be told when there is something to do.
    asleep: bool,
    /// Counts changes of lanes, to know which was longest ago.
    clock: u64,
}

struct Inner {
    state: Mutex<State>,
    style: Style,
    slots_max: u32,
    folder: PathBuf,
    /// Locked as long as this lives, so that its folder is known to be in use.
    _lock: File,
    touches: Touches,
    wake: File,
    poller: Poller,
    stopping: AtomicBool,
}

struct Owner {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.inner.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.inner.folder);
    }
}

/// A jobserver over a number of slots. Cheap to clone; it ends with its last clone and the last [`Held`].
#[derive(Clone)]
pub struct Jobserver {
    owner: Arc<Owner>,
}

impl Jobserver {
    /// Starts a jobserver over so many slots (at least one), and its thread.
    ///
    /// # Errors
    /// [`Error::Start`] for what the system refused: no folder can be made, no files can be watched.
    pub fn start(slots: u32, options: JobserverOptions) -> Result<Jobserver, Error> {
        let failed = |doing| move |source| Error::Start { doing, source };
        remove_abandoned(&options.folder);
        let (folder, lock) = make_folder(&options.folder).map_err(failed("making a folder"))?;
        let touches = Touches::new().map_err(failed("watching files"))?;
        let wake = sys::event_fd().map_err(failed("making a wake-up counter"))?;
        let poller = Poller::new().map_err(failed("making a poller"))?;
        poller
            .add(wake.as_fd(), 0)
            .map_err(failed("watching the wake-up counter"))?;
        poller
            .add(touches.as_fd(), 1)
            .map_err(failed("watching files"))?;
        let slots_max = options.slots_max.clamp(1, SLOTS_MAX);
        let state = State {
            slots: slots.clamp(1, slots_max),
            lanes: Vec::new(),
            restored: 0,
            patience: PATIENCE_MIN,
            asleep: false,
            clock: 0,
        };
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            style: options.style,
            slots_max,
            folder,
            _lock: lock,
            touches,
            wake: wake.into(),
            poller,
            stopping: AtomicBool::new(false),
        });
        let serving = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("flyball-jobs".to_owned())
            .spawn(move || serving.serve())
            .map_err(failed("starting a thread"))?;
        let thread = Some(thread);
        Ok(Jobserver {
            owner: Arc::new(Owner { inner, thread }),
        })
    }

    /// Makes a command one of this jobserver's: it is told by `MAKEFLAGS`, beside the flags that are there, and has a slot until the returned value is dropped, which must not
    /// be before its whole tree has ended. A command that names a jobserver itself keeps that one.
    ///
    /// # Errors
    /// [`Error::Start`] when its fifo cannot be made or opened.
    pub fn attach(&self, command: Command) -> Result<(Command, Held), Error> {
        self.attach_within(command, 0, u32::MAX)
    }

    /// As [`attach`](Jobserver::attach), for a command of a group of those that have at most `most` slots and tokens together. Told anew with each command, the bound holds for all of
    /// the group; groups are small numbers, such as those of classes.
    ///
    /// # Errors
    /// As [`attach`](Jobserver::attach).
    pub fn attach_within(
        &self,
        command: Command,
        group: u16,
        most: u32,
    ) -> Result<(Command, Held), Error> {
        match self.prepare(command, group.into(), most) {
            Ok(prepared) => Ok(prepared),
            Err((_, source)) => Err(Error::Start {
                doing: "making a fifo",
                source,
            }),
        }
    }

    /// As [`attach`](Jobserver::attach), and a command that cannot be told is handed back.
    pub(crate) fn prepare(
        &self,
        mut command: Command,
        group: usize,
        most: u32,
    ) -> Result<(Command, Held), (Box<Command>, io::Error)> {
        let inner = &self.owner.inner;
        let theirs = match command.variable("MAKEFLAGS") {
            Some(value) => value.map(OsStr::to_owned),
            None => std::env::var_os("MAKEFLAGS"),
        };
        let own = command
            .variable("MAKEFLAGS")
            .flatten()
            .is_some_and(names_jobserver);
        let mut state = inner.lock();
        let lane = match state.lanes.iter().position(|lane| !lane.used) {
            Some(lane) => lane,
            None => match Lane::make(
                &inner.folder,
                state.lanes.len(),
                inner.style,
                &inner.touches,
            ) {
                Ok(lane) => {
                    state.lanes.push(lane);
                    state.lanes.len() - 1
                }
                Err(error) => return Err((Box::new(command), error)),
            },
        };
        let auth = match state.lanes[lane].ends() {
            Ok(None) => {
                let mut auth = OsString::from("fifo:");
                auth.push(state.lanes[lane].path());
                auth
            }
            Ok(Some((read, write))) => {
                if !own {
                    command = command.descriptor(READ, read).descriptor(WRITE, write);
                }
                OsString::from(format!("{READ},{WRITE}"))
            }
            Err(error) => return Err((Box::new(command), error)),
        };
        let slots = state.slots.min(most.max(1));
        state.clock += 1;
        let clock = state.clock;
        state.lanes[lane].begin(group, clock);
        for lane in &mut state.lanes {
            lane.bound(group, most);
        }
        // It takes a slot; tokens that lie about and are now too many are taken back at once.
        state.even_out(false, true);
        inner.kick(&mut state);
        drop(state);
        if !own {
            let flags = make_flags(theirs.as_deref(), slots, &auth);
            // Cargo would look there first.
            command = command
                .env("MAKEFLAGS", flags)
                .env_remove("CARGO_MAKEFLAGS")
                .env_remove("MFLAGS");
        }
        let held = Held {
            owner: Arc::clone(&self.owner),
            lane,
        };
        Ok((command, held))
    }

    /// Sets the number of slots (at least one). Tokens that are out beyond a smaller number are kept as they come back.
    pub fn resize(&self, slots: u32) {
        let inner = &self.owner.inner;
        let mut state = inner.lock();
        state.slots = slots.clamp(1, inner.slots_max);
        state.even_out(false, true);
        inner.kick(&mut state);
    }

    /// How commands are told of it.
    #[must_use]
    pub fn style(&self) -> Style {
        self.owner.inner.style
    }

    /// Figures, as they are now.
    #[must_use]
    pub fn stats(&self) -> JobserverStats {
        let mut state = self.owner.inner.lock();
        state.look();
        let mut stats = JobserverStats {
            slots: state.slots,
            restored: state.restored,
            ..JobserverStats::default()
        };
        for lane in &state.lanes {
            stats.running += u32::from(lane.used);
            stats.held += lane.held();
            stats.ready += lane.ready;
        }
        stats
    }
}

impl std::fmt::Debug for Jobserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobserver")
            .field("style", &self.style())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The slot of a command that was attached to a [`Jobserver`]. Dropped, it and all tokens that the command still has go back.
#[must_use = "dropped, the slot and the tokens of the command are given to others"]
pub struct Held {
    owner: Arc<Owner>,
    lane: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        let inner = &self.owner.inner;
        let mut state = inner.lock();
        state.lanes[self.lane].look();
        state.restored += u64::from(state.lanes[self.lane].held());
        state.lanes[self.lane].end();
        // What is free now goes out a little later: mostly the next command takes it first.
        inner.kick(&mut state);
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Looks into all lanes; answers whether anybody took or returned a token.
    fn look(&mut self) -> bool {
        let mut any = false;
        for lane in &mut self.lanes {
            any |= lane.look();
        }
        any
    }

    /// Moves tokens until all is as it should be. `patience_over`: one that lies unread may move on. `taking_only`: none goes out.
    fn even_out(&mut self, mut patience_over: bool, taking_only: bool) {
        // Each action makes progress; the bound is for a system that refuses to write or read.
        for _ in 0..4 * self.lanes.len() + self.slots as usize {
            let views: Vec<share::View> = self.lanes.iter().map(Lane::view).collect();
            let Some(action) = share::next(self.slots, &views, patience_over) else {
                return;
            };
            self.clock += 1;
            let now = self.clock;
            match action {
                Action::Take(lane) => self.lanes[lane].take(now),
                Action::Put(_) if taking_only => return,
                Action::Put(lane) => self.lanes[lane].put(now),
                Action::Move { from, to } => {
                    patience_over = false;
                    let before = self.lanes[from].placed;
                    self.lanes[from].take(now);
                    if self.lanes[from].placed < before {
                        self.lanes[to].put(now);
                    }
                }
            }
        }
    }

    /// Whether a token could move on if nobody takes it.
    fn may_move(&self) -> bool {
        let views: Vec<share::View> = self.lanes.iter().map(Lane::view).collect();
        share::next(self.slots, &views, true).is_some()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full counter is awake already.
        let _ = (&self.wake).write_all(&1_u64.to_ne_bytes());
    }

    /// Sees to it that the thread looks soon.
    fn kick(&self, state: &mut State) {
        if std::mem::replace(&mut state.asleep, false) {
            self.wake();
        }
    }

    /// The thread.
    fn serve(&self) {
        let mut tokens = Vec::new();
        let mut touched = Vec::new();
        let mut timeout = Some(SETTLE);
        while !self.stopping.load(Ordering::SeqCst) {
            if self.poller.wait(&mut tokens, timeout).is_err() {
                return;
            }
            if tokens.contains(&0) {
                let _ = sys::read(self.wake.as_fd(), &mut [0; 8]);
            }
            touched.clear();
            self.touches.take(&mut touched);
            let mut state = self.lock();
            let timed_out = tokens.is_empty() && timeout.is_some_and(|timeout| timeout > SETTLE);
            if state.look() {
                state.patience = PATIENCE_MIN;
            } else if timed_out {
                state.patience = (state.patience * 2).min(PATIENCE_MAX);
            }
            let kicked = tokens.contains(&0);
            state.even_out(timed_out, kicked);
            timeout = if kicked {
                // Put in a little while, when the next command has its slot.
                Some(SETTLE)
            } else {
                state.may_move().then_some(state.patience)
            };
            state.asleep = timeout.is_none() || timeout > Some(SETTLE);
        }
    }
}

/// Whether flags of make name a jobserver.
fn names_jobserver(flags: &OsStr) -> bool {
    words(flags).any(is_of_jobserver)
}

fn words(flags: &OsStr) -> impl Iterator<Item = &[u8]> {
    flags.as_bytes().split(|byte| *byte == b' ')
}

fn is_of_jobserver(word: &[u8]) -> bool {
    word.starts_with(b"--jobserver-auth=") || word.starts_with(b"--jobserver-fds=")
}

/// The value of `MAKEFLAGS`: the flags that are there, with this jobserver in place of another and in front of variables.
fn make_flags(theirs: Option<&OsStr>, slots: u32, auth: &OsStr) -> OsString {
    let theirs = theirs.unwrap_or_default();
    let is_ours = |word: &&[u8]| {
        let counts = word
            .strip_prefix(b"-j")
            .is_some_and(|count| count.iter().all(u8::is_ascii_digit));
        !counts && !is_of_jobserver(word)
    };
    // The first word holds single letters without a dash; none if the text begins with a blank.
    let mut flags = Vec::new();
    let mut ours = format!("-j{slots} --jobserver-auth=").into_bytes();
    ours.extend_from_slice(auth.as_bytes());
    let mut ours = Some(ours);
    for (index, word) in words(theirs).filter(is_ours).enumerate() {
        // A first word with a dash or a variable is no word of letters.
        if index == 0 && (word.starts_with(b"-") || word.contains(&b'=')) {
            flags.push(b' ');
        }
        let begins_variables = word == b"--" || (word.contains(&b'=') && !word.starts_with(b"-"));
        if begins_variables && let Some(ours) = ours.take() {
            flags.extend_from_slice(&ours);
            flags.push(b' ');
        }
        flags.extend_from_slice(word);
        flags.push(b' ');
    }
    if let Some(ours) = ours {
        if flags.is_empty() {
            flags.push(b' ');
        }
        flags.extend_from_slice(&ours);
    } else {
        flags.pop();
    }
    OsString::from_vec(flags)
}

const FOLDER: &str = "flyball-jobs-";
const LOCK: &str = "lock";

/// Makes a folder that no other jobserver has, with a locked file in it.
fn make_folder(inside: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = inside.join(format!("{FOLDER}{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {
                let lock = File::create_new(folder.join(LOCK))?;
                lock.try_lock()?;
                return Ok((folder, lock));
            }
            // Left by a process of this number, and not removed as another user's, say.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1_000_000 => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes folders of jobservers whose processes were killed: those whose lock nobody holds.
fn remove_abandoned(inside: &Path) {
    /// More than this are left for the next.
    const MOST: usize = 10_000;
    let Ok(entries) = std::fs::read_dir(inside) else {
        return;
    };
    for entry in entries.take(MOST).flatten() {
        if !entry.file_name().as_bytes().starts_with(FOLDER.as_bytes()) {
            continue;
        }
        // One without a lock is just being made, or not ours.
        if let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
