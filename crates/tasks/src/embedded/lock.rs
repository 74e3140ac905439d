//! The folder is one daemon's.

use crate::error::Error;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The file that is held locked as long as the queue is open.
const LOCK: &str = "lock";

/// A folder that is held. The system lets go of it however the process ends.
#[derive(Debug)]
pub(super) struct FolderLock {
    lock: File,
}

impl FolderLock {
    /// Makes the folder if there is none, for its user alone, and holds it.
    pub(super) fn hold(folder: &Path) -> Result<FolderLock, Error> {
        let refuse = |why: String| Error::Open {
            path: folder.to_owned(),
            why,
        };
        let failed = |error: io::Error| refuse(error.to_string());
        if !folder.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed)?;
            if let Some(parent) = folder.parent().filter(|parent| parent.is_dir()) {
                // The folder's own name must survive a power cut as well as what is in it.
                File::open(parent)
                    .and_then(|parent| parent.sync_all())
                    .map_err(failed)?;
            }
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(LOCK))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(folder.join(LOCK)).unwrap_or_default();
                let who = match holder.trim().parse::<u32>() {
                    Ok(process) => format!("process {process}"),
                    Err(_) => "another process".to_owned(),
                };
                return Err(refuse(format!("{who} has it open")));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // For people and the message above; the lock itself is what counts.
        let _ = lock.set_len(0);
        let _ = io::Write::write_all(&mut &lock, format!("{}\n", std::process::id()).as_bytes());
        Ok(FolderLock { lock })
    }
}

impl Drop for FolderLock {
    /// Closing would not do while a process that is just being started still has a copy of the descriptor.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}
