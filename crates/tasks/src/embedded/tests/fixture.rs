//! A queue in a folder of its own.

use crate::conformance::{Fixture, Wanted};
use crate::{Clocks, Embedded, EmbeddedOptions, ManualClocks, TaskQueue};
use flyball_core::time::WallTime;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A folder that goes when it is dropped.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("flyball-tasks-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// The folder of the queue in it.
    pub(super) fn queue(&self) -> PathBuf {
        self.0.join("queue")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// 2026-11-21T10:00:00Z.
pub(super) const START: WallTime = WallTime::from_unix_nanos(1_795_255_200_000_000_000);

pub(super) fn options(folder: &Folder) -> EmbeddedOptions {
    EmbeddedOptions::new(folder.queue())
}

/// A queue and its clocks.
pub(super) struct InFolder {
    queue: Option<Arc<Embedded>>,
    pub(super) clocks: ManualClocks,
    pub(super) options: EmbeddedOptions,
    _folder: Folder,
}

impl InFolder {
    pub(super) fn new(change: impl FnOnce(&mut EmbeddedOptions)) -> InFolder {
        let folder = Folder::new();
        let mut options = options(&folder);
        change(&mut options);
        let mut fixture = InFolder {
            queue: None,
            clocks: ManualClocks::starting_at(START),
            options,
            _folder: folder,
        };
        fixture.open();
        fixture
    }

    pub(super) fn open(&mut self) {
        let clocks = Arc::new(self.clocks.clone());
        let queue = Embedded::open(self.options.clone(), clocks).unwrap();
        self.queue = Some(Arc::new(queue));
    }

    /// Nothing yet, in the folder of another.
    pub(super) fn of(other: &InFolder) -> InFolder {
        InFolder {
            queue: None,
            clocks: other.clocks.clone(),
            options: other.options.clone(),
            _folder: Folder::new(),
        }
    }

    pub(super) fn set(&mut self, queue: Embedded) {
        self.queue = Some(Arc::new(queue));
    }

    pub(super) fn embedded(&self) -> &Arc<Embedded> {
        self.queue.as_ref().unwrap()
    }

    /// The queue, whose process is about to end.
    pub(super) fn take(&mut self) -> Embedded {
        Arc::into_inner(self.queue.take().unwrap()).expect("nobody else holds the queue")
    }
}

impl Fixture for InFolder {
    fn queue(&self) -> Arc<dyn TaskQueue> {
        self.embedded().clone()
    }

    fn restart(&mut self) {
        drop(self.take());
        self.open();
    }

    fn crash(&mut self) {
        self.take().die();
        self.open();
    }

    fn wall(&self) -> WallTime {
        self.clocks.now().wall
    }

    fn advance(&self, by: Duration) {
        self.clocks.advance(by);
    }

    fn set_wall(&self, to: WallTime) -> bool {
        self.clocks.set_wall(to);
        true
    }
}

pub(super) fn make(wanted: Wanted) -> Box<dyn Fixture> {
    Box::new(InFolder::new(|options| {
        options.settings.max_tasks = wanted.max_tasks;
    }))
}
