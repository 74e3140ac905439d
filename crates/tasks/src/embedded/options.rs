//! How an embedded queue is opened.

use crate::calendar::CronCalendar;
use flyball_policy::queue::{Calendar, Settings};
use std::path::PathBuf;
use std::sync::Arc;

/// How an embedded queue is opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct EmbeddedOptions {
    /// The folder of the store, which is made if it is not there, and nobody else's while it is open. On a file system of this machine.
    pub folder: PathBuf,
    /// Bounds by number and time.
    pub settings: Settings,
    /// The most bytes that tasks may take on disk; none: what the disk has. The log beside takes up to 64 MiB more, or what is written while a
    /// backup is taken.
    pub max_bytes: Option<u64>,
    /// The most bytes of heads and bodies of new tasks that are kept in memory, so that their lease need not read them.
    pub cache_bytes: usize,
    /// The most lessees that wait at once; beyond, who asks is answered at once.
    pub max_waiting: usize,
    /// The most events that are kept for who follows them.
    pub events: usize,
    /// Who reads calendar expressions: [`CronCalendar`], unless a test wants another.
    pub calendar: Arc<dyn Calendar + Send + Sync>,
}

impl std::fmt::Debug for EmbeddedOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedOptions")
            .field("folder", &self.folder)
            .field("settings", &self.settings)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

impl EmbeddedOptions {
    /// The usual bounds: 4 GB on disk, 64 MiB of new tasks in memory, 10,000 who wait, 10,000 events.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            settings: Settings::default(),
            max_bytes: Some(4_000_000_000),
            cache_bytes: 64 << 20,
            max_waiting: 10_000,
            events: 10_000,
            calendar: Arc::new(CronCalendar),
        }
    }
}

/// The bounds of the writer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_bytes: Option<u64>,
    pub(super) cache_bytes: usize,
    pub(super) max_waiting: usize,
}
