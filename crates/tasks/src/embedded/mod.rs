//! The queue in a file of the machine it runs on.
//!
//! | module | what it is |
//! |---|---|
//! | `core` | what is done with a group of requests: the state machine is told, its answers are written, then everybody is answered |
//! | `thread`, `inbox` | the one thread that writes, and the bounded way to it |
//! | `reads` | tasks and pages of them, by threads of their own |
//! | `rows`, `sqlite` | where rows are: a trait, and SQLite behind it |
//! | `code` | how rows are written: compact, each with a checksum |
//! | `cache`, `ring` | new rows that will be leased soon; the newest events |
//!
//! Invariants
//! - Nobody learns of what is not on disk: an answer follows the commit, and the sync where losing it in a power cut would be a loss.
//! - A lease is written before it is handed out. After a crash all leases of before are void, as their epoch is over; a clean end keeps them.
//! - The state machine never differs from the disk for longer than a group takes: a group that cannot be written is undone by making the machine anew.
//! - After a write or sync that failed for any reason but space or known damage, nothing is acknowledged any more.
//!
//! Leaves out: sharing the folder with another process (it is locked), and file systems that are not local.

mod cache;
mod code;
mod core;
mod inbox;
mod lock;
mod message;
mod operations;
mod options;
mod reads;
mod ring;
mod rows;
mod shared;
mod sqlite;
mod thread;

#[cfg(test)]
mod tests;

pub use options::EmbeddedOptions;
pub use sqlite::Checked;

use crate::clock::Clocks;
use crate::error::Error;
use crate::queue::Answer;
use core::Core;
use flyball_policy::queue::Settings;
use lock::FolderLock;
use message::Message;
use options::Limits;
use reads::Readers;
use rows::{Fault, Rows};
use shared::Shared;
use sqlite::{SqliteRows, SqliteSettings};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Room for requests that wait for the writer, in KiB and requests.
const INBOX_UNITS: u32 = 64 * 1024;

/// A durable queue in a folder. Dropping it closes it cleanly; [`close`](crate::TaskQueue::close) tells whether that succeeded.
pub struct Embedded {
    shared: Arc<Shared>,
    clocks: Arc<dyn Clocks>,
    folder: PathBuf,
    readers: Readers,
    writer: Option<JoinHandle<()>>,
    /// Whether a backup is being taken.
    backing_up: Mutex<()>,
    /// Last, so that the folder is held until all threads have ended.
    _lock: Option<FolderLock>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the queue of a folder, or makes one. Starts three threads, which end when it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] if the folder cannot be used, another process has it, or the store was made by a later version or cannot be read.
    pub fn open(options: EmbeddedOptions, clocks: Arc<dyn Clocks>) -> Result<Embedded, Error> {
        let lock = FolderLock::hold(&options.folder)?;
        let rows = SqliteRows::open(&SqliteSettings {
            folder: options.folder.clone(),
            max_bytes: options.max_bytes,
        })
        .map_err(|fault| not_opened(&options.folder, &fault))?;
        let broken_log = rows.broken_log();
        let queue = Self::open_rows(Box::new(rows), options, clocks, Some(lock))?;
        queue.shared.damaged().log = broken_log;
        Ok(queue)
    }

    fn open_rows(
        rows: Box<dyn Rows>,
        options: EmbeddedOptions,
        clocks: Arc<dyn Clocks>,
        lock: Option<FolderLock>,
    ) -> Result<Embedded, Error> {
        let refuse = |fault: Fault| not_opened(&options.folder, &fault);
        let failed = |error: std::io::Error| refuse(Fault::Failed(error.to_string()));
        let shared = Arc::new(Shared::new(INBOX_UNITS, options.events));
        let readers = (0..Readers::wanted())
            .map(|_| rows.reader())
            .collect::<Result<Vec<_>, _>>()
            .map_err(refuse)?;
        let limits = Limits {
            max_bytes: options.max_bytes,
            cache_bytes: options.cache_bytes,
            max_waiting: options.max_waiting,
        };
        let mut settings = options.settings;
        if settings.seed == 0 {
            // Retries of several daemons shall not come in step.
            settings.seed = RandomState::new().build_hasher().finish();
        }
        let core = Core::open(
            rows,
            settings,
            limits,
            options.calendar.clone(),
            clocks.clone(),
            shared.clone(),
        )
        .map_err(refuse)?;
        let mut readers = Readers::start(readers).map_err(failed)?;
        let here = shared.clone();
        let writer = std::thread::Builder::new()
            .name("flyball-queue".to_owned())
            .spawn(move || thread::run(core, &here));
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                readers.end();
                return Err(failed(error));
            }
        };
        let woken = Arc::downgrade(&shared);
        clocks.on_move(Arc::new(move || {
            if let Some(shared) = woken.upgrade() {
                shared.inbox.wake();
            }
        }));
        Ok(Embedded {
            shared,
            clocks,
            folder: options.folder,
            readers,
            writer: Some(writer),
            backing_up: Mutex::new(()),
            _lock: lock,
        })
    }

    /// Why the store has stopped; `None` while it works. Asks nobody, so it never waits.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.shared.stopped()
    }

    /// What was wrong with the store's log when it was opened: whole commits behind a place that does not fit, which are lost. The log as it was is
    /// beside the store then, as `tasks.db-wal.damaged`.
    #[must_use]
    pub fn broken_log(&self) -> Option<String> {
        self.shared.damaged().log.clone()
    }

    /// Sets other bounds while it is open. What is kept beyond smaller ones is forgotten by and by; tasks that have not ended stay.
    ///
    /// # Errors
    ///
    /// [`Error::Closing`] or [`Error::Stopped`].
    pub fn set_bounds(&self, settings: Settings, max_bytes: Option<u64>) -> Answer<'_, ()> {
        Box::pin(self.ask(move |reply| Message::SetBounds {
            settings,
            max_bytes,
            reply,
        }))
    }

    /// Writes a consistent copy of the store into a new file, while it is in use, and syncs it; answers its length in bytes. It blocks
    /// for as long as copying takes, so call it on a thread that may; the log grows meanwhile. One copy is taken at a time.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], or [`Error::Open`] if the file cannot be written, or is there already.
    pub fn back_up(&self, to: &Path) -> Result<u64, Error> {
        let _one = self
            .backing_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sqlite::back_up(&self.folder, to).map_err(|fault| not_opened(to, &fault))
    }

    /// Puts a copy that [`back_up`](Self::back_up) made into a folder that nobody has open, after checking it. A store that was there is kept
    /// beside it as `tasks.db.replaced`. What was leased when the copy was made starts again.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] if the folder is in use or the copy cannot be read or is damaged; the folder is as it was then.
    pub fn restore(from: &Path, folder: &Path) -> Result<Checked, Error> {
        let _lock = FolderLock::hold(folder)?;
        sqlite::restore(from, folder).map_err(|fault| not_opened(from, &fault))
    }

    /// Reads all there is in a folder that nobody has open, and says what is damaged.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] if the folder is in use or the store cannot be read at all.
    pub fn check(folder: &Path) -> Result<Checked, Error> {
        let _lock = FolderLock::hold(folder)?;
        sqlite::check(folder).map_err(|fault| not_opened(folder, &fault))
    }
}

#[cfg(test)]
impl Embedded {
    /// Ends as if the process had died: what is asked is not answered, and the store is not closed.
    fn die(self) {
        self.shared
            .dies
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.inbox.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has dropped all answers, which said so.
            let _ = writer.join();
        }
        self.readers.end();
    }
}

fn not_opened(path: &Path, fault: &Fault) -> Error {
    match fault {
        Fault::NoSpace(why) => Error::NoSpace { why: why.clone() },
        Fault::Damaged { what: why, .. } | Fault::Failed(why) => Error::Open {
            path: path.to_owned(),
            why: why.clone(),
        },
    }
}
