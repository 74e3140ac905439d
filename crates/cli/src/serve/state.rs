//! The state folder: this daemon's alone, and closed to other users.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::show::inert;
use crate::signals;

/// The file that says whose the folder is: held locked as long as the daemon runs.
const LOCK: &str = "lock";

/// A folder that is held. The system lets go of it however the process ends.
#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    lock: File,
}

/// Why a folder cannot be held.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another daemon has it.
    Held(String),
    /// It is not fit.
    Unfit(String),
}

impl State {
    /// Makes the folder if there is none, checks that no other user gets in, and holds it.
    pub(crate) fn open(path: &Path) -> Result<State, Refusal> {
        let name = inert(&path.to_string_lossy());
        let failed = |what: &str, error: io::Error| {
            Refusal::Unfit(format!("cannot {what} the state folder {name}: {error}"))
        };
        let path = std::path::absolute(path).map_err(|error| failed("find", error))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| failed("make", error))?;
        let about = fs::metadata(&path).map_err(|error| failed("look at", error))?;
        if about.uid() != signals::user() {
            return Err(Refusal::Unfit(format!(
                "the state folder {name} belongs to user {}, and this daemon runs as {}; choose another by --state-dir",
                about.uid(),
                signals::user()
            )));
        }
        if about.mode() & 0o077 != 0 {
            let mut entries = fs::read_dir(&path).map_err(|error| failed("read", error))?;
            // A folder with something in it may be anything, /tmp for instance: closing that is for people to decide.
            if entries.next().is_some() {
                return Err(Refusal::Unfit(format!(
                    "other users may enter the state folder {name} (mode {:04o}), which is to hold the admin token; choose another by --state-dir, \
                     or `chmod 700` it if it is for nothing else",
                    about.mode() & 0o7777
                )));
            }
            fs::set_permissions(&path, Permissions::from_mode(0o700))
                .map_err(|error| failed("close", error))?;
        }
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(|error| failed("lock", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut lock).take(32).read_to_string(&mut holder);
                let holder: u32 = holder.trim().parse().unwrap_or(0);
                let who = if holder > 0 {
                    format!(" (process {holder})")
                } else {
                    String::new()
                };
                return Err(Refusal::Held(format!(
                    "another flyball daemon{who} has the state folder {name}; stop that one, or choose another folder by --state-dir"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", error)),
        }
        // For people and the message above; the lock itself is what counts.
        let _ = lock.set_len(0);
        let _ = writeln!(lock, "{}", std::process::id());
        Ok(State { path, lock })
    }

    /// The folder, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for State {
    /// Closing would not do while a process that is just being started still has a copy of the descriptor.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("flyball-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_new_folder_is_closed_and_held_once() {
        let path = folder("new");
        let state = State::open(&path.join("a/b")).unwrap();
        assert_eq!(mode(state.path()), 0o700);
        let second = State::open(state.path());
        let Err(Refusal::Held(text)) = second else {
            panic!("{second:?}");
        };
        assert!(
            text.contains(&format!("(process {})", std::process::id())),
            "{text}"
        );
        drop(state);
        State::open(&path.join("a/b")).unwrap();
        fs::remove_dir_all(&path).unwrap();
    }

    /// A folder that was named by mistake is not closed for those who use it.
    #[test]
    fn an_open_folder_is_closed_only_when_it_is_empty() {
        let path = folder("open");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        drop(State::open(&path).unwrap());
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        let refused = State::open(&path);
        assert!(
            matches!(&refused, Err(Refusal::Unfit(text)) if text.contains("(mode 0750)")),
            "{refused:?}"
        );
        assert_eq!(mode(&path), 0o750);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let path = folder("file");
        fs::write(&path, "").unwrap();
        for wrong in [path.clone(), path.join("below")] {
            assert!(matches!(State::open(&wrong), Err(Refusal::Unfit(_))));
        }
        fs::remove_file(&path).unwrap();
    }
}
