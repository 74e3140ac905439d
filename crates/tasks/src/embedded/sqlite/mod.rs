//! Rows in a file of SQLite.
//!
//! Why SQLite: a write-ahead log with group commit, readers beside the one writer, online backup, a file that people can look into; and it is
//! the best-tested store there is. A journal of our own would be faster and a consistency problem of our own.
//!
//! - `journal_mode=WAL`. A commit that must survive a power cut runs with `synchronous=FULL`, which syncs the log before it returns; others run with
//!   `NORMAL`: written in order, not synced.
//! - The writer moves the log into the file itself (a checkpoint), after it has answered, and gives free pages back in bounded steps.
//! - Before SQLite opens the file, its log is read for damage that SQLite would take for the end of it (`log`).
//! - Nothing is indexed but the ids, and the states in which few tasks are or few changes happen.

mod backup;
mod faults;
mod log;
mod reader;
mod schema;
mod writer;

use std::path::{Path, PathBuf};

pub use backup::Checked;
pub(crate) use backup::{back_up, check, restore};
pub(crate) use writer::{SqliteRows, SqliteSettings};

/// The file in the queue's folder.
pub(crate) const FILE: &str = "tasks.db";

/// A file whose name goes on where that of another ends.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
