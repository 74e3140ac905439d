//! Rows on a disk, whatever the disk is: SQLite's in earnest, a simulated one where faults are wanted.
//!
//! One writer commits [`Writes`], all or none; readers see what was committed. The order of commits survives a power cut: what a synced commit
//! wrote is there, and of the unsynced ones after it any first part.

use super::code::wire::Sealed;
use bytes::Bytes;
use flyball_policy::queue::{State, TaskId};
use std::fmt;
use std::ops::Range;

/// Why rows could not be written or read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The disk, or the part of it that may be used, is full. Nothing was written.
    NoSpace(String),
    /// The file is damaged where it was touched. Nothing was written.
    Damaged {
        /// Whose row it was about.
        id: Option<TaskId>,
        /// What the store said.
        what: String,
    },
    /// Writing, reading or syncing failed; what a commit wrote may be there or not.
    Failed(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Fault::NoSpace(why) | Fault::Damaged { what: why, .. } | Fault::Failed(why)) = self;
        f.write_str(why)
    }
}

/// A task that is new, or whose head and body were given anew.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    pub(crate) id: TaskId,
    pub(crate) state: State,
    pub(crate) rows: Sealed,
    pub(crate) record: Part,
}

/// Sealed bytes in the arena of [`Writes`].
#[derive(Clone, Debug)]
pub(crate) struct Part(Range<u32>);

/// Which of a task's notes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum NoteColumn {
    Beat,
    Checkpoint,
    Failure,
    Outcome,
}

/// What one transaction writes. Small rows share one buffer, which is kept from transaction to transaction.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    arena: Vec<u8>,
    pub(crate) added: Vec<Added>,
    pub(crate) changed: Vec<(TaskId, State, Part)>,
    /// Tasks whose notes are void; before the notes of the group.
    pub(crate) cleared: Vec<TaskId>,
    pub(crate) notes: Vec<(TaskId, NoteColumn, Part)>,
    pub(crate) removed: Vec<TaskId>,
    /// Key, and the sealed value; none if it is taken away.
    pub(crate) meta: Vec<(Vec<u8>, Option<Part>)>,
}

impl Writes {
    /// Lets `write` append a sealed row.
    pub(crate) fn part(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Part {
        let start = self.arena.len();
        write(&mut self.arena);
        // A group is bounded well below 4 GiB: heads and bodies are not in the arena, and notes are at most 1 MiB each.
        let at = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Part(at(start)..at(self.arena.len()))
    }

    /// Returns the bytes of a part.
    pub(crate) fn bytes(&self, part: &Part) -> &[u8] {
        &self.arena[part.0.start as usize..part.0.end as usize]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.changed.is_empty()
            && self.cleared.is_empty()
            && self.notes.is_empty()
            && self.removed.is_empty()
            && self.meta.is_empty()
    }

    /// Forgets everything but the memory.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        // A group with large results leaves a large buffer: not kept.
        self.arena.shrink_to(1 << 20);
        self.added.clear();
        self.changed.clear();
        self.cleared.clear();
        self.notes.clear();
        self.removed.clear();
        self.meta.clear();
    }
}

/// Receives head and record of a task.
pub(crate) type EachTask<'a> = &'a mut dyn FnMut(TaskId, &[u8], &[u8]);

/// The writer's side. Not shared. It reads, too: what it wrote is in its memory, while a reader must look into the file.
pub(crate) trait Rows: Reads {
    /// Writes all or nothing. With `sync`, what was written and all that was written before survives a power cut when this returns.
    ///
    /// # Errors
    ///
    /// [`Fault::NoSpace`] and [`Fault::Damaged`] if nothing was written; after [`Fault::Failed`] nobody knows.
    fn commit(&mut self, writes: &Writes, sync: bool) -> Result<(), Fault>;

    /// Reads all tasks, in the order of their ids, and answers those that the file has, or had, and that cannot be read, as far as it can
    /// tell: at least one for each place where it is damaged.
    fn load(&mut self, each: EachTask<'_>) -> Result<Vec<TaskId>, Fault>;

    /// The greatest id that anything on disk has; 0 if there is none.
    fn last_id(&mut self) -> Result<u64, Fault>;

    /// Reads what belongs to no task: key and sealed value.
    fn load_meta(&mut self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Fault>;

    /// Begins to read several rows as of one instant, which is cheaper than one by one; [`end_reads`](Self::end_reads) must follow.
    fn begin_reads(&mut self);

    /// Ends it.
    fn end_reads(&mut self);

    /// Opens a reader.
    fn reader(&self) -> Result<Box<dyn Reads>, Fault>;

    /// Sets the most that the file may grow to, if it is not larger already.
    fn set_max_bytes(&mut self, most: Option<u64>) -> Result<(), Fault>;

    /// How many bytes are in use on disk: those that the store may write anew are not counted.
    fn used_bytes(&mut self) -> Result<u64, Fault>;

    /// How many bytes the store takes on disk.
    fn disk_bytes(&mut self) -> Option<u64>;

    /// Moves what was written to its place and gives space back, a bounded step of it. Called after each commit.
    fn upkeep(&mut self) -> Result<(), Fault>;

    /// Ends cleanly.
    fn close(&mut self) -> Result<(), Fault>;
}

/// What a page asks of the rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    /// Tasks older than this one.
    pub(crate) before: u64,
    /// In one of these states; all if empty.
    pub(crate) states: Vec<State>,
    /// Ids to look at, at most.
    pub(crate) ids: u64,
}

/// The notes of a task, sealed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Notes {
    pub(crate) beat: Option<Bytes>,
    pub(crate) checkpoint: Option<Bytes>,
    pub(crate) failure: Option<Bytes>,
    pub(crate) outcome: Option<Bytes>,
}

/// What one found of a scan: whether it has enough.
pub(crate) type EachFound<'a> = &'a mut dyn FnMut(TaskId, &[u8], &[u8]) -> bool;

/// All that is kept of a task, sealed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Whole {
    pub(crate) head: Bytes,
    pub(crate) record: Bytes,
    /// None if it is lost.
    pub(crate) body: Option<Bytes>,
    pub(crate) notes: Notes,
}

/// A reader's side.
pub(crate) trait Reads: Send {
    /// Reads all there is of a task, as of one instant.
    fn whole(&mut self, id: TaskId) -> Result<Option<Whole>, Fault>;

    /// Reads head and body.
    fn given(&mut self, id: TaskId) -> Result<Option<(Bytes, Bytes)>, Fault>;

    /// Reads the body.
    fn body(&mut self, id: TaskId) -> Result<Option<Bytes>, Fault>;

    /// Reads tasks from the newest to the oldest until `each` has enough or the ids of the scan are looked through; answers where the
    /// next scan goes on, none if there is nothing older.
    fn scan(&mut self, scan: &Scan, each: EachFound<'_>) -> Result<Option<u64>, Fault>;
}
