//! A file that is kept open and read again and again, and the buffer that all of them share.
//!
//! The kernel makes the text of a file of `/proc`, `/sys` or a control group anew when it is read from offset 0, so an open
//! file never grows stale and one `pread` is one consistent text. A file that fails (its control group was removed, its
//! CPU went away) is closed and opened again by its path at most once each [`RETRY`].
//!
//! Invariant: a text is handed out whole or not at all. Opening is non-blocking, so that a pipe in a captured tree
//! cannot hold a sample up.

use crate::error::Error;
use flyball_core::time::Timestamp;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest file that is read, bytes. `/proc/stat` of a machine with 4,096 CPUs and 16,384 interrupts has about
/// 600,000.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// The buffer before it meets a larger file: more than any file here has on a machine of up to 64 CPUs.
const FIRST_BYTES: usize = 16 << 10;

/// How long a failed file is left alone: opening costs ten times a read, and what is missing is mostly missing for good.
pub(crate) const RETRY: Duration = Duration::from_secs(10);

/// The memory that files are read into; grows to the largest of them, at most [`MAX_FILE_BYTES`] and one.
#[derive(Debug)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; FIRST_BYTES])
    }

    /// The whole text of the file.
    fn fill(&mut self, file: &File) -> Result<&[u8], Error> {
        loop {
            let length = loop {
                match file.read_at(&mut self.0, 0) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            // Only a text that leaves room is known to be whole.
            if length < self.0.len() {
                return Ok(&self.0[..length]);
            }
            if length > MAX_FILE_BYTES {
                return Err(Error::TooLarge);
            }
            let larger = (self.0.len() * 2).min(MAX_FILE_BYTES + 1);
            self.0.resize(larger, 0);
        }
    }
}

#[derive(Debug)]
enum State {
    Open(File),
    Failed { error: Error, until: Timestamp },
}

/// A file kept open.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    state: State,
}

impl Source {
    /// Opens the file, or remembers why it could not be.
    pub(crate) fn open(path: PathBuf) -> Self {
        let state = match open(&path) {
            Ok(file) => State::Open(file),
            Err(error) => State::Failed {
                error,
                until: Timestamp::ZERO,
            },
        };
        Self { path, state }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file; opens it again when it failed a while ago.
    pub(crate) fn file(&mut self, now: Timestamp) -> Result<&File, Error> {
        if let State::Failed { error, until } = self.state {
            if now < until {
                return Err(error);
            }
            match open(&self.path) {
                Ok(file) => self.state = State::Open(file),
                Err(error) => return Err(self.fail(error, now)),
            }
        }
        match &self.state {
            State::Open(file) => Ok(file),
            State::Failed { error, .. } => Err(*error),
        }
    }

    /// The whole text of the file as it is now.
    pub(crate) fn read<'b>(
        &mut self,
        buffer: &'b mut Buffer,
        now: Timestamp,
    ) -> Result<&'b [u8], Error> {
        let filled = buffer.fill(self.file(now)?);
        if let Err(error) = filled {
            self.fail(error, now);
        }
        filled
    }

    fn fail(&mut self, error: Error, now: Timestamp) -> Error {
        self.state = State::Failed {
            error,
            until: now.saturating_add(RETRY),
        };
        error
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    Ok(options.open(path)?)
}
