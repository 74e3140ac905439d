//! The file of entries: opened without trusting what lies there, and a lock on one's own entry.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::entry::{BYTES, Entry};
use crate::bounds::sys;

/// Entries in the file.
pub(super) const ENTRIES: usize = 128;

const NAME: &str = "sharing";

/// The file, with one's own entry locked.
pub(super) struct SharedFile {
    file: File,
    index: usize,
}

impl SharedFile {
    /// Opens the file, makes it and its folder where they are missing, and takes a free entry.
    pub(super) fn open(folder: &Path) -> Result<SharedFile, String> {
        let user = sys::user();
        let failed = |error: io::Error| format!("{}: {error}", folder.display());
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        // Looked at through a descriptor, so that it stays what it was when it was looked at.
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(folder)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP | libc::ENOTDIR) => {
                    format!("{}: it is a link or a file, not a folder", folder.display())
                }
                _ => failed(error),
            })?;
        let about = directory.metadata().map_err(failed)?;
        let refused = |what: &str| Err(format!("{}: {what}", folder.display()));
        if about.uid() != user {
            return refused("the folder belongs to another user");
        }
        if about.mode() & 0o077 != 0 {
            return refused("the folder is open to other users (chmod 700 makes it private)");
        }
        let path = format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP) => format!("{}/{NAME}: it is a link", folder.display()),
                _ => failed(error),
            })?;
        let about = file.metadata().map_err(failed)?;
        if !about.is_file()
            || about.uid() != user
            || about.nlink() != 1
            || about.mode() & 0o022 != 0
        {
            return refused("the file in it is not a plain file of this user alone");
        }
        let bytes = (ENTRIES * BYTES) as u64;
        if about.len() < bytes {
            file.set_len(bytes).map_err(failed)?;
        }
        for index in 0..ENTRIES {
            if sys::try_lock(&file, (index * BYTES) as u64, BYTES as u64).map_err(failed)? {
                return Ok(SharedFile { file, index });
            }
        }
        refused(&format!("{ENTRIES} programs share this machine already"))
    }

    /// The number of one's own entry.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Writes one's own entry.
    pub(super) fn write(&self, entry: &Entry) -> io::Result<()> {
        self.file
            .write_all_at(&entry.encode(), (self.index * BYTES) as u64)
    }

    /// Entries of programs that are there, one's own among them, by number.
    pub(super) fn entries(&self) -> Vec<(usize, Entry)> {
        let mut bytes = [0; ENTRIES * BYTES];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..)
            && let Ok(count @ 1..) = self.file.read_at(rest, filled as u64)
        {
            filled += count;
        }
        bytes[..filled]
            .chunks_exact(BYTES)
            .enumerate()
            .filter_map(|(index, bytes)| Some((index, Entry::decode(bytes)?)))
            .filter(|(index, _)| {
                *index == self.index
                    || sys::is_locked(&self.file, (index * BYTES) as u64, BYTES as u64)
                        .unwrap_or(false)
            })
            .collect()
    }
}

impl AsFd for SharedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // Nothing that looks like somebody, for readers of the file; the lock goes with the descriptor.
        let _ = self
            .file
            .write_all_at(&[0; BYTES], (self.index * BYTES) as u64);
    }
}
