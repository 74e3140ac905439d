//! Several programs of one user on one machine: who may use how many slots.
//!
//! Each program has an entry in one small file: what it wants, and with which shares. Everybody reads all entries and divides the
//! machine's slots by the same rule (`flyball_policy::budget::divide`), so there is nobody to ask and nobody to fail. That
//! an entry counts is not what is written in it but the lock on it, which the kernel lets go of when its program ends, however it
//! ends; the same end closes the file, of which the others are told at once.
//!
//! - A program that says how many slots it takes ([`Want::fixed`]) takes those. In the division it counts like any other, with its
//!   shares and at most that number: so the others have what their shares give them, not what it leaves.
//! - Each gets at least one slot, also beyond those of the machine.
//!
//! Invariants: the folder and the file belong to this user alone, are no links, and are used through descriptors that were
//! checked; what is not such a folder or file is refused, and what is not an entry counts as none. An entry is written whole
//! and has a checksum; a reader that meets one half written reads it again when its writer has told of it.
//!
//! Leaves out: other users of the machine, which `--load` sees, and machines that share the folder over a network.

mod entry;
mod file;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use flyball_policy::budget::{Wish, divide};

use self::entry::Entry;
use self::file::SharedFile;
use super::sys;
use crate::sys::{Poller, event_fd, read};

/// Most programs that share a machine.
pub const MEMBERS_MAX: usize = file::ENTRIES;

/// What a program wants of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Want {
    /// Its weight against the others: the shares of its class. At least 1.
    pub shares: u32,
    /// The slots that it can use now.
    pub slots: u32,
    /// It takes these slots whatever the others want.
    pub fixed: bool,
    /// Memory that it has reserved and does not use yet, bytes: the machine counts it as free.
    pub outstanding: u64,
}

impl Want {
    /// So many slots, with these shares.
    #[must_use]
    pub fn slots(shares: u32, slots: u32) -> Want {
        Want {
            shares: shares.max(1),
            slots,
            fixed: false,
            outstanding: 0,
        }
    }
}

/// What a program may use now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Part {
    /// Slots; at least one if it wants any.
    pub slots: u32,
    /// Its even part of the slots that no program wants: for what its commands start by themselves.
    pub spare: u32,
    /// Other programs that share the machine.
    pub others: usize,
    /// Memory that the others have reserved and do not use yet, bytes.
    pub outstanding: u64,
}

/// The folder for this user: in `$XDG_RUNTIME_DIR` where that is this user's own, else one in `/tmp` with the user's number.
#[must_use]
pub fn user_folder() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let user = sys::user();
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .filter(|path| {
            path.metadata()
                .is_ok_and(|it| it.is_dir() && it.uid() == user)
        })
        .map_or_else(
            // Not the temporary folder of the environment: all programs of the user must meet.
            || PathBuf::from(format!("/tmp/flyball-{user}")),
            |path| path.join("flyball"),
        )
}

struct Shared {
    file: SharedFile,
    machine: u32,
    state: Mutex<State>,
    stop: std::fs::File,
}

struct State {
    want: Want,
    part: Part,
    stopping: bool,
}

/// A place among the programs that share this machine; given up when it is dropped, or the program ends.
pub struct Sharing {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
}

impl Sharing {
    /// Takes a place. `machine`: the slots that the machine has for all. `on_change` is called on a thread of this place whenever the
    /// part has changed, and must not block.
    ///
    /// # Errors
    /// Why the machine cannot be shared, for people: the folder is somebody else's, a link, open to others, or there are
    /// [`MEMBERS_MAX`] already.
    pub fn join(
        folder: &Path,
        machine: u32,
        want: Want,
        on_change: impl Fn(Part) + Send + 'static,
    ) -> Result<Sharing, String> {
        let file = SharedFile::open(folder)?;
        let failed = |error: io::Error| format!("{}: {error}", folder.display());
        // Watched before it is written, so that whoever comes meanwhile is not missed.
        let watch = sys::watch_writes(file.as_fd());
        let poller = Poller::new().map_err(failed)?;
        let stop = event_fd().map_err(failed)?;
        poller.add(stop.as_fd(), STOP).map_err(failed)?;
        if let Ok(watch) = &watch {
            poller.add(watch.as_fd(), CHANGE).map_err(failed)?;
        }
        file.write(&Entry::new(want)).map_err(failed)?;
        let shared = Arc::new(Shared {
            file,
            machine,
            state: Mutex::new(State {
                want,
                part: Part {
                    slots: want.slots,
                    spare: 0,
                    others: 0,
                    outstanding: 0,
                },
                stopping: false,
            }),
            stop: stop.into(),
        });
        shared.look();
        let watching = Arc::clone(&shared);
        let watcher = std::thread::Builder::new()
            .name("flyball-sharing".to_owned())
            .spawn(move || watching.watch(&poller, watch.ok(), on_change))
            .map_err(failed)?;
        Ok(Sharing {
            shared,
            watcher: Some(watcher),
        })
    }

    /// Says what is wanted from now on; the others are told if it is something else than before.
    pub fn set(&self, want: Want) {
        let mut state = self.shared.lock();
        if state.want == want {
            return;
        }
        state.want = want;
        // A full disk keeps what was written before; the others then divide by that.
        let _ = self.shared.file.write(&Entry::new(want));
        drop(state);
        self.shared.look();
    }

    /// What may be used now.
    #[must_use]
    pub fn part(&self) -> Part {
        self.shared.lock().part
    }
}

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Sharing")
            .field("want", &state.want)
            .field("part", &state.part)
            .finish_non_exhaustive()
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        let _ = (&self.shared.stop).write_all(&1_u64.to_ne_bytes());
        // It ends by itself where it is the one that let go of the place last, in `on_change`.
        if let Some(watcher) = self.watcher.take()
            && watcher.thread().id() != std::thread::current().id()
        {
            let _ = watcher.join();
        }
    }
}

const STOP: u64 = 0;
const CHANGE: u64 = 1;

/// How long after a change the entries are looked at again: a file that closes is told of just before its locks are let go.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
];

/// How often they are looked at where nobody tells of changes.
const UNTOLD: Duration = Duration::from_millis(100);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Divides anew.
    fn look(&self) {
        let (own, all) = (self.file.index(), self.file.entries());
        let mut state = self.lock();
        let mut wishes = Vec::with_capacity(all.len() + 1);
        let (mut mine, mut outstanding) = (0, 0_u64);
        let mut others = 0;
        for (index, entry) in all {
            if index == own {
                continue;
            }
            others += 1;
            mine += usize::from(index < own);
            outstanding = outstanding.saturating_add(entry.outstanding);
            wishes.push(Wish {
                shares: entry.shares,
                slots: entry.slots,
            });
        }
        let want = state.want;
        // In the order of their places, as everybody else has it.
        wishes.insert(
            mine,
            Wish {
                shares: want.shares,
                slots: want.slots,
            },
        );
        let parts = divide(self.machine, &wishes);
        let slots = if want.fixed || others == 0 {
            want.slots
        } else {
            parts[mine]
        };
        let taken = parts
            .iter()
            .fold(0_u32, |sum, part| sum.saturating_add(*part));
        let programs = u32::try_from(parts.len()).unwrap_or(u32::MAX).max(1);
        state.part = Part {
            slots,
            spare: self.machine.saturating_sub(taken) / programs,
            others,
            outstanding,
        };
    }

    fn watch(
        &self,
        poller: &Poller,
        watch: Option<std::os::fd::OwnedFd>,
        on_change: impl Fn(Part),
    ) {
        let mut tokens = Vec::new();
        // What `set` finds changed is told, too: its own writing wakes this thread.
        let mut told = Part {
            slots: self.lock().want.slots,
            spare: 0,
            others: 0,
            outstanding: 0,
        };
        let mut again: &[Duration] = &AGAIN;
        loop {
            let timeout = match (again.split_first(), &watch) {
                (Some((first, rest)), _) => {
                    again = rest;
                    Some(*first)
                }
                (None, None) => Some(UNTOLD),
                (None, Some(_)) => None,
            };
            if poller.wait(&mut tokens, timeout).is_err() || self.lock().stopping {
                return;
            }
            if tokens.contains(&CHANGE) {
                let mut events = [0; 4096];
                while let Some(watch) = &watch
                    && read(watch.as_fd(), &mut events).is_ok_and(|count| count > 0)
                {
                }
                again = &AGAIN;
            }
            self.look();
            let part = self.lock().part;
            if part != told {
                told = part;
                on_change(part);
            }
        }
    }
}
