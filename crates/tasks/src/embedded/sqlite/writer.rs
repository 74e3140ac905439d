//! The one connection that writes.

use super::faults::fault;
use super::log::{self, Broken};
use super::reader::{SqliteReader, scan_forward};
use super::{FILE, beside, schema};
use crate::embedded::code::state_code;
use crate::embedded::rows::{
    EachFound, EachTask, Fault, NoteColumn, Reads, Rows, Scan, Whole, Writes,
};
use bytes::Bytes;
use flyball_policy::queue::TaskId;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{CachedStatement, Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Bytes of a page. Measured with tasks of 300 bytes: larger pages write more for each lease, smaller ones cost more to append to.
pub(super) const PAGE_BYTES: u64 = 4096;

/// The most pages that SQLite allows, and the least with which a store can begin.
const MAX_PAGES: u64 = 4_294_967_294;
const MIN_PAGES: u64 = 64;

/// The writer's cache of pages, KiB.
const CACHE_KIB: i64 = 64 * 1024;

/// The log is moved into the file when it has this many pages (32 MiB). Rows that change several times meanwhile are moved once; what
/// a start after a crash must read is bounded by it.
const CHECKPOINT_PAGES: u32 = 8192;

/// A log that readers hold back is tried again when it has grown by this many pages.
const CHECKPOINT_AGAIN_PAGES: u32 = 1024;

/// A log that grew beyond this is cut when it starts anew, bytes. Between, it keeps its length: writing over a file is cheaper than
/// growing it.
const LOG_BYTES: i64 = 64 << 20;

/// Free pages are given back when they are more than this part of the file (a quarter) …
const FREE_PART: u64 = 4;
/// … and more than this many (16 MiB), at most [`VACUUM_PAGES`] in a step.
const FREE_PAGES: u64 = 4096;
const VACUUM_PAGES: u64 = 256;

/// How the store is opened.
#[derive(Clone, Debug)]
pub(crate) struct SqliteSettings {
    pub(crate) folder: PathBuf,
    /// The most that the file may grow to, log not counted; none: what the disk has.
    pub(crate) max_bytes: Option<u64>,
}

/// Rows in a file.
#[derive(Debug)]
pub(crate) struct SqliteRows {
    /// The one connection that writes; it reads as others do.
    own: SqliteReader,
    path: PathBuf,
    /// Whether the connection syncs each commit now.
    syncs: bool,
    /// Pages in the log, as the last commit told.
    log_pages: Arc<AtomicU32>,
    /// How long the log must be for the next step of moving it.
    checkpoint_at: u32,
    free_pages: u64,
    /// What was wrong with the log when it was opened.
    broken_log: Option<Broken>,
}

impl SqliteRows {
    /// Opens or makes the file, and brings it to the layout of today.
    pub(crate) fn open(settings: &SqliteSettings) -> Result<SqliteRows, Fault> {
        let path = settings.folder.join(FILE);
        let broken_log = log::look(&path)?;
        let mut connection = connect(&path, true).map_err(|error| fault(&error))?;
        let layout = schema::layout(&connection)?;
        let set = |name: &str, value: &dyn rusqlite::ToSql| {
            connection
                .pragma_update(None, name, value)
                .map_err(|error| fault(&error))
        };
        if layout == schema::EMPTY {
            set("page_size", &(PAGE_BYTES as i64))?;
            set("auto_vacuum", &"INCREMENTAL")?;
        }
        let mode: String = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
            .map_err(|error| fault(&error))?;
        if mode != "wal" {
            return Err(Fault::Failed(format!(
                "the file system cannot hold a write-ahead log (journal mode {mode}); network file systems cannot"
            )));
        }
        set("synchronous", &"FULL")?;
        set("wal_autocheckpoint", &0)?;
        set("journal_size_limit", &LOG_BYTES)?;
        set("cache_size", &(-CACHE_KIB))?;
        set("temp_store", &"MEMORY")?;
        let log_pages = Arc::new(AtomicU32::new(0));
        let told = log_pages.clone();
        connection
            .wal_hook(Some(move |_: &mut Wal, pages| {
                told.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
                Ok(())
            }))
            .map_err(|error| fault(&error))?;
        connection.set_prepared_statement_cache_capacity(32);
        schema::migrate(&mut connection)?;
        sync_folder(&settings.folder)?;
        let mut rows = SqliteRows {
            own: SqliteReader { connection },
            path,
            syncs: true,
            log_pages,
            checkpoint_at: CHECKPOINT_PAGES,
            free_pages: 0,
            broken_log,
        };
        rows.set_max_bytes(settings.max_bytes)?;
        Ok(rows)
    }

    /// What was wrong with the log when it was opened, in words.
    pub(crate) fn broken_log(&self) -> Option<String> {
        self.broken_log.map(|broken| broken.to_string())
    }

    fn write(&self, writes: &Writes) -> Result<(), (Option<u64>, rusqlite::Error)> {
        let prepare = |sql: &str| {
            self.own
                .connection
                .prepare_cached(sql)
                .map_err(|error| (None, error))
        };
        let blame = |id: u64| move |error: rusqlite::Error| (Some(id), error);
        if !writes.added.is_empty() {
            // Nearly all are new. A plain insertion can leave nothing half done; a replacement keeps copies of the pages that it touches, which costs as
            // much again.
            let mut task =
                prepare("INSERT INTO tasks (id, state, head, record) VALUES (?1, ?2, ?3, ?4)")?;
            let mut body = prepare("INSERT INTO bodies (id, body) VALUES (?1, ?2)")?;
            for added in &writes.added {
                let id = added.id.0 as i64;
                let row = (
                    id,
                    state_code(added.state),
                    added.rows.head(),
                    writes.bytes(&added.record),
                );
                task.execute(row)
                    .or_else(|error| match is_there(&error) {
                        true => self.replace(
                            "REPLACE INTO tasks (id, state, head, record) VALUES (?1, ?2, ?3, ?4)",
                            row,
                        ),
                        false => Err(error),
                    })
                    .map_err(blame(added.id.0))?;
            }
            for added in &writes.added {
                let row = (added.id.0 as i64, added.rows.body());
                body.execute(row)
                    .or_else(|error| match is_there(&error) {
                        true => self.replace("REPLACE INTO bodies (id, body) VALUES (?1, ?2)", row),
                        false => Err(error),
                    })
                    .map_err(blame(added.id.0))?;
            }
        }
        if !writes.changed.is_empty() {
            let mut update = prepare("UPDATE tasks SET state = ?2, record = ?3 WHERE id = ?1")?;
            for (id, state, record) in &writes.changed {
                update
                    .execute((id.0 as i64, state_code(*state), writes.bytes(record)))
                    .map_err(blame(id.0))?;
            }
        }
        if !writes.cleared.is_empty() {
            let mut clear = prepare("DELETE FROM notes WHERE id = ?1")?;
            for id in &writes.cleared {
                clear.execute((id.0 as i64,)).map_err(blame(id.0))?;
            }
        }
        for (id, column, part) in &writes.notes {
            let mut note = prepare(match column {
                NoteColumn::Beat => {
                    "INSERT INTO notes (id, beat) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET beat = excluded.beat"
                }
                NoteColumn::Checkpoint => {
                    "INSERT INTO notes (id, checkpoint) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET checkpoint = excluded.checkpoint"
                }
                NoteColumn::Failure => {
                    "INSERT INTO notes (id, failure) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET failure = excluded.failure"
                }
                NoteColumn::Outcome => {
                    "INSERT INTO notes (id, outcome) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome"
                }
            })?;
            note.execute((id.0 as i64, writes.bytes(part)))
                .map_err(blame(id.0))?;
        }
        if !writes.removed.is_empty() {
            for sql in [
                "DELETE FROM tasks WHERE id = ?1",
                "DELETE FROM bodies WHERE id = ?1",
                "DELETE FROM notes WHERE id = ?1",
            ] {
                let mut delete = prepare(sql)?;
                for id in &writes.removed {
                    delete.execute((id.0 as i64,)).map_err(blame(id.0))?;
                }
            }
        }
        if !writes.meta.is_empty() {
            let mut put = prepare("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?;
            let mut delete = prepare("DELETE FROM meta WHERE key = ?1")?;
            for (key, value) in &writes.meta {
                match value {
                    Some(value) => put.execute((&key[..], writes.bytes(value))),
                    None => delete.execute((&key[..],)),
                }
                .map_err(|error| (None, error))?;
            }
        }
        Ok(())
    }

    /// Writes a row over one that is there: that of a task that was given anew, or one that nobody could read.
    fn replace(&self, sql: &'static str, row: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.own.connection.prepare_cached(sql)?.execute(row)
    }

    fn run(&self, sql: &'static str) -> Result<(), Fault> {
        self.statement(sql)?
            .execute(())
            .map(drop)
            .map_err(|error| fault(&error))
    }

    fn statement(&self, sql: &'static str) -> Result<CachedStatement<'_>, Fault> {
        self.own
            .connection
            .prepare_cached(sql)
            .map_err(|error| fault(&error))
    }

    fn number(&self, sql: &'static str) -> Result<u64, Fault> {
        self.statement(sql)?
            .query_row((), |row| row.get::<_, i64>(0))
            .map(|number| u64::try_from(number).unwrap_or(0))
            .map_err(|error| fault(&error))
    }

    /// Moves the log into the file as far as readers let it.
    fn checkpoint(&mut self) -> Result<(), Fault> {
        self.sync_commits(true)?;
        // If there is no space for it, the next try is not at the next commit.
        self.checkpoint_at = self
            .log_pages
            .swap(0, Ordering::Relaxed)
            .saturating_add(CHECKPOINT_AGAIN_PAGES);
        let (pages, moved) = self
            .statement("PRAGMA wal_checkpoint(PASSIVE)")?
            .query_row((), |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
            .map_err(|error| fault(&error))?;
        self.checkpoint_at = if moved >= pages {
            CHECKPOINT_PAGES
        } else {
            u32::try_from(pages)
                .unwrap_or(u32::MAX)
                .saturating_add(CHECKPOINT_AGAIN_PAGES)
        };
        Ok(())
    }

    fn sync_commits(&mut self, sync: bool) -> Result<(), Fault> {
        if self.syncs != sync {
            // This takes effect as it is compiled, not as it is run: a statement that was kept would change nothing.
            self.own
                .connection
                .execute_batch(if sync {
                    "PRAGMA synchronous = FULL"
                } else {
                    "PRAGMA synchronous = NORMAL"
                })
                .map_err(|error| fault(&error))?;
            self.syncs = sync;
        }
        Ok(())
    }
}

#[cfg(test)]
impl SqliteRows {
    /// How commits are synced now: 1 in order, 2 each.
    pub(crate) fn synchronous(&self) -> i64 {
        self.own
            .connection
            .pragma_query_value(None, "synchronous", |row| row.get(0))
            .unwrap()
    }
}

impl Reads for SqliteRows {
    fn whole(&mut self, id: TaskId) -> Result<Option<Whole>, Fault> {
        self.own.whole(id)
    }

    fn given(&mut self, id: TaskId) -> Result<Option<(Bytes, Bytes)>, Fault> {
        self.own.given(id)
    }

    fn body(&mut self, id: TaskId) -> Result<Option<Bytes>, Fault> {
        self.own.body(id)
    }

    fn scan(&mut self, scan: &Scan, each: EachFound<'_>) -> Result<Option<u64>, Fault> {
        self.own.scan(scan, each)
    }
}

impl Rows for SqliteRows {
    fn commit(&mut self, writes: &Writes, sync: bool) -> Result<(), Fault> {
        self.sync_commits(sync)?;
        self.run("BEGIN IMMEDIATE")?;
        let done = self
            .write(writes)
            .map_err(|(id, error)| match (id, fault(&error)) {
                (Some(id), Fault::Damaged { what, .. }) => Fault::Damaged {
                    id: Some(TaskId(id)),
                    what,
                },
                (_, fault) => fault,
            })
            .and_then(|()| self.run("COMMIT"));
        if done.is_err() && !self.own.connection.is_autocommit() {
            // Some errors roll back by themselves. If this one fails, nothing was committed all the same.
            let _ = self.own.connection.execute_batch("ROLLBACK");
        }
        done
    }

    fn load(&mut self, each: EachTask<'_>) -> Result<Vec<TaskId>, Fault> {
        scan_forward(&self.own.connection, each)
    }

    fn last_id(&mut self) -> Result<u64, Fault> {
        let mut last = 0;
        // Each table may be damaged at its end.
        for sql in ["SELECT max(id) FROM tasks", "SELECT max(id) FROM bodies"] {
            let max = self.statement(sql).and_then(|mut statement| {
                statement
                    .query_row((), |row| row.get::<_, Option<i64>>(0))
                    .map_err(|error| fault(&error))
            });
            match max {
                Ok(max) => last = last.max(max.unwrap_or(0) as u64),
                Err(Fault::Damaged { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(last)
    }

    fn load_meta(&mut self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Fault> {
        let mut all = self.statement("SELECT key, value FROM meta")?;
        let mut rows = all.query(()).map_err(|error| fault(&error))?;
        while let Some(row) = rows.next().map_err(|error| fault(&error))? {
            let blob = |at: usize| {
                row.get_ref(at)
                    .map_err(|error| fault(&error))
                    .and_then(|value| {
                        value.as_blob().map_err(|error| Fault::Damaged {
                            id: None,
                            what: error.to_string(),
                        })
                    })
            };
            each(blob(0)?, blob(1)?);
        }
        Ok(())
    }

    fn begin_reads(&mut self) {
        // Without it each statement reads for itself, with the same result.
        let _ = self.run("BEGIN");
    }

    fn end_reads(&mut self) {
        let _ = self.run("COMMIT");
    }

    fn reader(&self) -> Result<Box<dyn Reads>, Fault> {
        SqliteReader::open(&self.path).map(|reader| Box::new(reader) as Box<dyn Reads>)
    }

    fn set_max_bytes(&mut self, most: Option<u64>) -> Result<(), Fault> {
        // The most that SQLite knows, unless it is told less. The queue refuses long before; this holds even if it should err.
        let pages = most.map_or(MAX_PAGES, |bytes| {
            (bytes / PAGE_BYTES).clamp(MIN_PAGES, MAX_PAGES)
        });
        self.own
            .connection
            .pragma_update_and_check(None, "max_page_count", pages as i64, |_| Ok(()))
            .map_err(|error| fault(&error))
    }

    fn used_bytes(&mut self) -> Result<u64, Fault> {
        let pages = self.number("PRAGMA page_count")?;
        self.free_pages = self.number("PRAGMA freelist_count")?;
        Ok(pages.saturating_sub(self.free_pages) * PAGE_BYTES)
    }

    fn disk_bytes(&mut self) -> Option<u64> {
        let length = |suffix: &str| match std::fs::metadata(beside(&self.path, suffix)) {
            Ok(about) => Some(about.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(0),
            Err(_) => None,
        };
        Some(length("")? + length("-wal")? + length("-shm")?)
    }

    fn upkeep(&mut self) -> Result<(), Fault> {
        if self.free_pages > FREE_PAGES
            && self.free_pages > self.number("PRAGMA page_count")? / FREE_PART
        {
            self.sync_commits(false)?;
            self.own
                .connection
                .execute_batch(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))
                .map_err(|error| fault(&error))?;
        }
        if self.log_pages.load(Ordering::Relaxed) >= self.checkpoint_at {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        self.sync_commits(true)?;
        self.own
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
            .map_err(|error| fault(&error))
    }
}

/// Whether a row could not be put in because there is one of its name.
fn is_there(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY)
}

/// Opens a connection to the file.
pub(super) fn connect(path: &Path, create: bool) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let connection = Connection::open_with_flags(path, flags)?;
    // Only a start after a crash, while the log is read, holds a lock for longer.
    connection.busy_timeout(Duration::from_secs(10))?;
    // The planner may not look at values that are bound: all plans here go by ids, and it would compile a query anew for each of them, which took
    // two fifths of the writer's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Makes names in a folder survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<(), Fault> {
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Fault::Failed(format!("cannot sync {}: {error}", folder.display())))
}
