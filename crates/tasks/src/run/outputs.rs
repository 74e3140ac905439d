//! What commands wrote: two bounded files a task, read while it runs and after.
//!
//! The spawn server's keeper writes the files; they are made before the command starts, are named after the task, and hold what its last attempt wrote. They are
//! bytes: nobody says that a command writes text. Nothing is synced: an output is a help, not a record.
//!
//! Invariants: what is kept of all tasks stays below its bounds, the oldest going first, those that are being written left out; a task that is forgotten
//! loses its files with the next [`sweep`](Outputs::sweep).

use crate::run::settings::OutputLimits;
use flyball_policy::queue::TaskId;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks of who follows an output: fast for people, cheap for the disk.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// Which output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Why an output cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The task wrote none, or it has been removed.
    #[error("there is no output of task {id}")]
    None {
        /// The task.
        id: TaskId,
    },
    /// The file cannot be read.
    #[error("cannot read the output of task {id}")]
    Read {
        /// The task.
        id: TaskId,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// How much of an output there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OutputStatus {
    /// Bytes that can be read.
    pub kept: u64,
    /// Bytes beyond the bound; `None` while the command runs, and after a restart of the program.
    pub dropped: Option<u64>,
    /// Whether more may come.
    pub open: bool,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Of the ended attempt, by stream.
    kept: [u64; 2],
    dropped: [Option<u64>; 2],
    /// The number of the attempt that writes now.
    open: Option<u32>,
}

struct State {
    entries: BTreeMap<TaskId, Entry>,
    bytes: u64,
    limits: OutputLimits,
}

/// The folder of outputs.
pub struct Outputs {
    folder: PathBuf,
    state: Mutex<State>,
}

impl Outputs {
    /// Uses a folder, made with mode 0700 where it is missing. What is in it from before is kept; files of other names are left alone.
    ///
    /// # Errors
    /// What the system says of the folder.
    pub fn open(folder: &Path, limits: OutputLimits) -> io::Result<Arc<Outputs>> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let mut entries: BTreeMap<TaskId, Entry> = BTreeMap::new();
        let mut bytes = 0;
        for found in fs::read_dir(folder)? {
            let found = found?;
            let name = found.file_name();
            let Some((id, suffix)) = named(&name) else {
                continue;
            };
            let entry = entries.entry(id).or_default();
            if let Some(stream) = Stream::ALL
                .iter()
                .position(|stream| stream.name() == suffix)
            {
                let length = found.metadata()?.len();
                entry.kept[stream] = length;
                bytes += length;
            }
        }
        let outputs = Arc::new(Outputs {
            folder: folder.to_owned(),
            state: Mutex::new(State {
                entries,
                bytes,
                limits,
            }),
        });
        outputs.make_room(&mut outputs.lock());
        Ok(outputs)
    }

    /// Changes the bounds; what is beyond goes.
    pub fn set(&self, limits: OutputLimits) {
        let mut state = self.lock();
        state.limits = limits;
        self.make_room(&mut state);
    }

    /// Makes the files of an attempt, empty, in place of those of the one before.
    pub(crate) fn create(&self, id: TaskId, attempt: u32) -> io::Result<[File; 2]> {
        let mut state = self.lock();
        let make = |stream: Stream| {
            // Removed and not cut: who reads the last attempt's goes on with that, and a keeper that still writes does not mix in.
            remove(&self.path(id, stream.name()))?;
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.path(id, stream.name()))
        };
        let files = [make(Stream::Stdout)?, make(Stream::Stderr)?];
        let entry = Entry {
            open: Some(attempt),
            ..Entry::default()
        };
        if let Some(old) = state.entries.insert(id, entry) {
            state.bytes -= old.kept.iter().sum::<u64>();
        }
        self.make_room(&mut state);
        Ok(files)
    }

    /// The attempt has ended: what was kept and dropped of each stream, where that is known.
    pub(crate) fn close(&self, id: TaskId, attempt: u32, dropped: [Option<u64>; 2]) {
        let mut state = self.lock();
        let kept = Stream::ALL.map(|stream| {
            fs::symlink_metadata(self.path(id, stream.name()))
                .ok()
                .filter(fs::Metadata::is_file)
                .map_or(0, |metadata| metadata.len())
        });
        if let Some(entry) = state.entries.get_mut(&id)
            && entry.open == Some(attempt)
        {
            *entry = Entry {
                kept,
                dropped,
                open: None,
            };
            state.bytes += kept.iter().sum::<u64>();
            self.make_room(&mut state);
        }
    }

    /// Where a task leaves what its next attempt is to find.
    pub(crate) fn checkpoint_path(&self, id: TaskId) -> PathBuf {
        self.path(id, "checkpoint")
    }

    /// How much there is of an output.
    ///
    /// # Errors
    /// There is none, or the file cannot be looked at.
    pub fn status(&self, id: TaskId, stream: Stream) -> Result<OutputStatus, OutputError> {
        let entry = self.entry(id)?;
        let index = stream as usize;
        let kept = if entry.open.is_some() {
            let metadata = fs::metadata(self.path(id, stream.name()));
            metadata.map_err(|source| self.failed(id, source))?.len()
        } else {
            entry.kept[index]
        };
        Ok(OutputStatus {
            kept,
            dropped: entry.dropped[index],
            open: entry.open.is_some(),
        })
    }

    /// Reads an output from a place on; waits for nothing unless told to.
    ///
    /// # Errors
    /// There is none, or the file cannot be opened.
    pub fn reader(
        self: &Arc<Self>,
        id: TaskId,
        stream: Stream,
        from: u64,
    ) -> Result<OutputReader, OutputError> {
        let entry = self.entry(id)?;
        let file =
            open_plain(&self.path(id, stream.name())).map_err(|source| self.failed(id, source))?;
        Ok(OutputReader {
            outputs: Arc::clone(self),
            id,
            attempt: entry.open,
            file,
            at: from,
        })
    }

    /// Tasks that have outputs here and are not being run, from the oldest.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskId> {
        let state = self.lock();
        let ended = state
            .entries
            .iter()
            .filter(|(_, entry)| entry.open.is_none());
        ended.map(|(id, _)| *id).collect()
    }

    /// Removes the outputs of tasks that are not there any more. Answers how many tasks that were.
    pub fn sweep(&self, exists: impl Fn(TaskId) -> bool) -> usize {
        let gone: Vec<TaskId> = self.tasks().into_iter().filter(|id| !exists(*id)).collect();
        let mut state = self.lock();
        for id in &gone {
            self.forget(&mut state, *id);
        }
        gone.len()
    }

    /// Removes the outputs of a task that does not run.
    pub fn remove(&self, id: TaskId) {
        self.forget(&mut self.lock(), id);
    }

    /// Bytes kept of tasks that do not run.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: TaskId, suffix: &str) -> PathBuf {
        self.folder.join(format!("{id}.{suffix}"))
    }

    fn entry(&self, id: TaskId) -> Result<Entry, OutputError> {
        let state = self.lock();
        state
            .entries
            .get(&id)
            .copied()
            .ok_or(OutputError::None { id })
    }

    fn failed(&self, id: TaskId, source: io::Error) -> OutputError {
        match source.kind() {
            io::ErrorKind::NotFound => OutputError::None { id },
            _ => OutputError::Read { id, source },
        }
    }

    fn make_room(&self, state: &mut State) {
        while state.bytes > state.limits.total_bytes || state.entries.len() > state.limits.tasks {
            let oldest = state.entries.iter().find(|(_, entry)| entry.open.is_none());
            let Some(id) = oldest.map(|(id, _)| *id) else {
                return;
            };
            self.forget(state, id);
        }
    }

    fn forget(&self, state: &mut State, id: TaskId) {
        if state
            .entries
            .get(&id)
            .is_none_or(|entry| entry.open.is_some())
        {
            return;
        }
        if let Some(entry) = state.entries.remove(&id) {
            state.bytes -= entry.kept.iter().sum::<u64>();
        }
        for suffix in ["stdout", "stderr", "checkpoint"] {
            // What cannot be removed is found again by the next start.
            let _ = remove(&self.path(id, suffix));
        }
    }
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outputs")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Opens a file for reading that a command may have put something else in place of, as it knows the folder: a pipe would block who opens it until somebody writes, and a
/// link lead anywhere.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no regular file",
        ))
    }
}

/// Removes what a command may have put in place of a file, whatever it is; none is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The task and the kind of file that a name stands for.
fn named(name: &std::ffi::OsStr) -> Option<(TaskId, &str)> {
    let (id, suffix) = name.to_str()?.split_once('.')?;
    let ours = matches!(suffix, "stdout" | "stderr" | "checkpoint");
    let canonical = id.bytes().all(|c| c.is_ascii_digit()) && !id.starts_with('0');
    (ours && canonical).then(|| id.parse().ok().map(|id| (id, suffix)))?
}

/// A place in an output. It stays with the attempt that it was opened for.
#[derive(Debug)]
pub struct OutputReader {
    outputs: Arc<Outputs>,
    id: TaskId,
    attempt: Option<u32>,
    file: File,
    at: u64,
}

impl OutputReader {
    /// Reads what is there, at most as much as fits. None: nothing at present.
    ///
    /// # Errors
    /// What the system says of the file.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // The system has no such places, and calls them an error.
        if i64::try_from(self.at.saturating_add(into.len() as u64)).is_err() {
            return Ok(0);
        }
        let count = self.file.read_at(into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    /// Waits until there is something, and reads it; none: the end. Needs a tokio runtime with timers.
    ///
    /// # Errors
    /// What the system says of the file.
    pub async fn follow(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            // In this order: what was written before the end is read after it was seen.
            let open = self.is_open();
            let count = self.read(into)?;
            if count > 0 || !open || into.is_empty() {
                return Ok(count);
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }

    /// Has the next read begin at a place.
    pub fn seek(&mut self, to: u64) {
        self.at = to;
    }

    /// Where the next read begins.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Whether more may come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.attempt.is_some()
            && self
                .outputs
                .entry(self.id)
                .is_ok_and(|entry| entry.open == self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("flyball-outputs-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn limits(total_bytes: u64, tasks: usize) -> OutputLimits {
        OutputLimits {
            stream_bytes: 1 << 20,
            total_bytes,
            tasks,
        }
    }

    fn write(outputs: &Outputs, id: u64, bytes: &[u8]) {
        let [mut stdout, _] = outputs.create(TaskId(id), 1).unwrap();
        stdout.write_all(bytes).unwrap();
        outputs.close(TaskId(id), 1, [Some(0), Some(0)]);
    }

    /// TASK-11: outputs are bounded by tasks and by bytes, the oldest go first, and are found again after a restart.
    #[test]
    fn outputs_are_bounded_and_found_again() {
        let folder = Folder::new("bounded");
        let outputs = Outputs::open(&folder.0, limits(100, 3)).unwrap();
        for id in 1..=5 {
            write(&outputs, id, &[b'x'; 20]);
        }
        assert_eq!(outputs.tasks(), [3, 4, 5].map(TaskId));
        write(&outputs, 6, &[b'x'; 70]);
        assert_eq!(outputs.tasks(), [5, 6].map(TaskId));
        assert_eq!(outputs.bytes(), 90);
        fs::write(folder.0.join("07.stdout"), "not ours").unwrap();
        drop(outputs);
        let outputs = Outputs::open(&folder.0, limits(80, 3)).unwrap();
        assert_eq!(outputs.tasks(), [TaskId(6)]);
        assert_eq!(outputs.sweep(|id| id != TaskId(6)), 1);
        assert_eq!(
            fs::read_dir(&folder.0).unwrap().count(),
            1,
            "what is not ours stays"
        );
    }

    /// TASK-11: an output is read while it is written, and stays with its attempt.
    #[test]
    fn outputs_are_bytes_and_read_as_they_come() {
        let folder = Folder::new("read");
        let outputs = Outputs::open(&folder.0, limits(1 << 20, 10)).unwrap();
        let [mut stdout, _] = outputs.create(TaskId(1), 1).unwrap();
        let mut reader = outputs.reader(TaskId(1), Stream::Stdout, 0).unwrap();
        let mut into = [0; 4];
        assert_eq!(reader.read(&mut into).unwrap(), 0);
        stdout.write_all(b"\xff\xfe\0!more").unwrap();
        assert_eq!(
            (reader.read(&mut into).unwrap(), &into),
            (4, b"\xff\xfe\0!")
        );
        assert!(reader.is_open());
        assert!(outputs.status(TaskId(1), Stream::Stdout).unwrap().open);
        let [mut second, _] = outputs.create(TaskId(1), 2).unwrap();
        second.write_all(b"2").unwrap();
        assert!(!reader.is_open());
        assert_eq!((reader.read(&mut into).unwrap(), &into), (4, b"more"));
        for beyond in [9, i64::MAX as u64, u64::MAX] {
            reader.seek(beyond);
            assert_eq!(reader.read(&mut into).unwrap(), 0);
        }
        outputs.close(TaskId(1), 1, [None, None]);
        assert!(
            outputs.status(TaskId(1), Stream::Stdout).unwrap().open,
            "the second writes still"
        );
        outputs.close(TaskId(1), 2, [Some(7), Some(0)]);
        let status = outputs.status(TaskId(1), Stream::Stdout).unwrap();
        assert_eq!(
            (status.kept, status.dropped, status.open),
            (1, Some(7), false)
        );
        assert!(matches!(
            outputs.status(TaskId(2), Stream::Stdout),
            Err(OutputError::None { .. })
        ));
    }
}
