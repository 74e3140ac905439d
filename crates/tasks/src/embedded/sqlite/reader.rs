//! Connections that only read, and the scan that opens the queue.

use super::faults::fault;
use super::schema::INDEXED;
use super::writer::connect;
use crate::embedded::code::state_code;
use crate::embedded::rows::{EachFound, EachTask, Fault, Notes, Reads, Scan, Whole};
use bytes::Bytes;
use flyball_policy::queue::{State, TaskId};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::BTreeSet;
use std::path::Path;

/// A reader's cache of pages, KiB.
const CACHE_KIB: i64 = 8 * 1024;

/// Ids of one transaction of a scan: between, the log can be moved.
const SCAN_IDS: u64 = 20_000;

/// Reads what was committed.
#[derive(Debug)]
pub(super) struct SqliteReader {
    pub(super) connection: Connection,
}

impl SqliteReader {
    pub(super) fn open(path: &Path) -> Result<SqliteReader, Fault> {
        let open = || {
            let connection = connect(path, false)?;
            connection.pragma_update(None, "query_only", true)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            Ok(connection)
        };
        open()
            .map(|connection| SqliteReader { connection })
            .map_err(|error| fault(&error))
    }

    fn one<T>(
        &self,
        sql: &str,
        id: TaskId,
        take: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Fault> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row((id.0 as i64,), take).optional())
            .map_err(|error| of(id, fault(&error)))
    }

    /// Ids of tasks in some of the states that are indexed, newest first.
    fn indexed(&self, scan: &Scan, most: usize) -> Result<BTreeSet<u64>, Fault> {
        let mut ids = BTreeSet::new();
        for state in &scan.states {
            let sql = format!(
                "SELECT id FROM tasks WHERE {INDEXED} AND state = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"
            );
            let mut statement = self
                .connection
                .prepare_cached(&sql)
                .map_err(|error| fault(&error))?;
            let found = statement
                .query_map(
                    (state_code(*state), before(scan.before), most as i64),
                    |row| row.get::<_, i64>(0),
                )
                .map_err(|error| fault(&error))?;
            for id in found {
                ids.insert(id.map_err(|error| fault(&error))? as u64);
            }
        }
        Ok(ids)
    }
}

/// Whether tasks in a state are found by the index.
fn is_indexed(state: State) -> bool {
    !matches!(state, State::Pending | State::Running | State::Completed)
}

fn before(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

/// Says whose row it is.
fn of(id: TaskId, found: Fault) -> Fault {
    match found {
        Fault::Damaged { what, .. } => Fault::Damaged { id: Some(id), what },
        other => other,
    }
}

fn blob<'a>(row: &'a Row<'_>, at: usize) -> rusqlite::Result<&'a [u8]> {
    Ok(row.get_ref(at)?.as_blob()?)
}

fn owned(row: &Row<'_>, at: usize) -> rusqlite::Result<Bytes> {
    blob(row, at).map(Bytes::copy_from_slice)
}

fn maybe(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Bytes>> {
    match row.get_ref(at)? {
        ValueRef::Null => Ok(None),
        value => Ok(Some(Bytes::copy_from_slice(value.as_blob()?))),
    }
}

impl Reads for SqliteReader {
    fn whole(&mut self, id: TaskId) -> Result<Option<Whole>, Fault> {
        self.one(
            "SELECT t.head, t.record, b.body, n.beat, n.checkpoint, n.failure, n.outcome
             FROM tasks t LEFT JOIN bodies b ON b.id = t.id LEFT JOIN notes n ON n.id = t.id WHERE t.id = ?1",
            id,
            |row| {
                Ok(Whole {
                    head: owned(row, 0)?,
                    record: owned(row, 1)?,
                    body: maybe(row, 2)?,
                    notes: Notes {
                        beat: maybe(row, 3)?,
                        checkpoint: maybe(row, 4)?,
                        failure: maybe(row, 5)?,
                        outcome: maybe(row, 6)?,
                    },
                })
            },
        )
    }

    fn given(&mut self, id: TaskId) -> Result<Option<(Bytes, Bytes)>, Fault> {
        self.one(
            "SELECT t.head, b.body FROM tasks t JOIN bodies b ON b.id = t.id WHERE t.id = ?1",
            id,
            |row| Ok((owned(row, 0)?, owned(row, 1)?)),
        )
    }

    fn body(&mut self, id: TaskId) -> Result<Option<Bytes>, Fault> {
        self.one("SELECT body FROM bodies WHERE id = ?1", id, |row| {
            owned(row, 0)
        })
    }

    fn scan(&mut self, scan: &Scan, each: EachFound<'_>) -> Result<Option<u64>, Fault> {
        if !scan.states.is_empty() && scan.states.iter().all(|state| is_indexed(*state)) {
            let most = usize::try_from(scan.ids.min(SCAN_IDS)).unwrap_or(usize::MAX);
            let found = self.indexed(scan, most)?;
            // Of several states, ids below the last of a list that was cut short may be missing: those wait for the next scan.
            for (place, id) in found.iter().rev().enumerate() {
                if place >= most {
                    return Ok(Some(id + 1));
                }
                let found = self.one(
                    "SELECT head, record FROM tasks WHERE id = ?1",
                    TaskId(*id),
                    |row| Ok(each(TaskId(*id), blob(row, 0)?, blob(row, 1)?)),
                )?;
                if found == Some(true) {
                    return Ok(Some(*id));
                }
            }
            return Ok(if found.len() < most {
                None
            } else {
                found.first().copied()
            });
        }
        let wanted: u32 = scan
            .states
            .iter()
            .fold(0, |mask, state| mask | 1 << state_code(*state));
        let top: Option<i64> = self
            .connection
            .prepare_cached("SELECT max(id) FROM tasks WHERE id < ?1")
            .and_then(|mut statement| statement.query_row((before(scan.before),), |row| row.get(0)))
            .map_err(|error| fault(&error))?;
        let Some(top) = top else { return Ok(None) };
        let mut before = top as u64 + 1;
        let mut left = scan.ids;
        while left > 0 && before > 1 {
            let step = left.min(SCAN_IDS).min(before - 1);
            let mut statement = self
                .connection
                .prepare_cached(
                    "SELECT id, state, head, record FROM tasks WHERE id < ?1 AND id >= ?2 ORDER BY id DESC",
                )
                .map_err(|error| fault(&error))?;
            let mut rows = statement
                .query((before as i64, (before - step) as i64))
                .map_err(|error| fault(&error))?;
            let mut last = before;
            loop {
                let row = match rows.next() {
                    Ok(Some(row)) => row,
                    Ok(None) => break,
                    Err(error) => return Err(of(TaskId(last.saturating_sub(1)), fault(&error))),
                };
                let read = |row: &Row<'_>| -> rusqlite::Result<(u64, u32)> {
                    Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
                };
                let (id, state) = read(row).map_err(|error| fault(&error))?;
                last = id;
                if wanted != 0 && 1u32.checked_shl(state).unwrap_or(0) & wanted == 0 {
                    continue;
                }
                let (head, record) = blob(row, 2)
                    .and_then(|head| Ok((head, blob(row, 3)?)))
                    .map_err(|error| of(TaskId(id), fault(&error)))?;
                if each(TaskId(id), head, record) {
                    return Ok((id > 1).then_some(id));
                }
            }
            before -= step;
            left -= step;
        }
        Ok((before > 1).then_some(before))
    }
}

/// Ids that are named of one damaged place, at most.
const LOST_IDS: i64 = 100_000;

/// Reads all heads and records from the oldest to the newest; where the file is damaged, goes on behind. Answers what is lost.
pub(super) fn scan_forward(
    connection: &Connection,
    each: EachTask<'_>,
) -> Result<Vec<TaskId>, Fault> {
    let mut lost = Vec::new();
    let mut last = 0u64;
    loop {
        match scan_from(connection, &mut last, each) {
            Ok(()) => return Ok(lost),
            Err(Fault::Damaged { .. }) => {
                let until = behind_damage(connection, last)?;
                let named = lost.len();
                // Bodies have the same ids, on other pages. If those are damaged, too, the first is named.
                let _ = lost_ids(connection, last, until, &mut lost);
                if lost.len() == named {
                    lost.push(TaskId(last + 1));
                }
                if until == u64::MAX {
                    return Ok(lost);
                }
                last = until;
            }
            Err(other) => return Err(other),
        }
    }
}

/// Names the tasks behind `after`, up to `until`.
fn lost_ids(
    connection: &Connection,
    after: u64,
    until: u64,
    lost: &mut Vec<TaskId>,
) -> rusqlite::Result<()> {
    let mut statement = connection
        .prepare_cached("SELECT id FROM bodies WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
    let ids = statement.query_map((before(after), before(until), LOST_IDS), |row| {
        row.get::<_, i64>(0)
    })?;
    for id in ids {
        lost.push(TaskId(id? as u64));
    }
    Ok(())
}

fn scan_from(connection: &Connection, last: &mut u64, each: EachTask<'_>) -> Result<(), Fault> {
    let mut statement = connection
        .prepare_cached("SELECT id, head, record FROM tasks WHERE id > ?1 ORDER BY id")
        .map_err(|error| fault(&error))?;
    let mut rows = statement
        .query((*last as i64,))
        .map_err(|error| fault(&error))?;
    while let Some(row) = rows.next().map_err(|error| fault(&error))? {
        let id = row.get::<_, i64>(0).map_err(|error| fault(&error))? as u64;
        let head = blob(row, 1).map_err(|error| fault(&error))?;
        let record = blob(row, 2).map_err(|error| fault(&error))?;
        *last = id;
        each(TaskId(id), head, record);
    }
    Ok(())
}

/// Finds the last id that is lost: behind it, rows can be read again. A damaged page holds neighbouring ids, so doubling steps find its other
/// side and halving ones its edge.
fn behind_damage(connection: &Connection, last: u64) -> Result<u64, Fault> {
    let readable = |after: u64| -> Result<bool, Fault> {
        let mut statement = connection
            .prepare_cached("SELECT head, record FROM tasks WHERE id > ?1 ORDER BY id LIMIT 1")
            .map_err(|error| fault(&error))?;
        let found = statement
            .query_row((before(after),), |row| Ok((owned(row, 0)?, owned(row, 1)?)))
            .optional();
        match found.map_err(|error| fault(&error)) {
            Ok(_) => Ok(true),
            Err(Fault::Damaged { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    };
    let mut step = 1u64;
    while !readable(last.saturating_add(step))? {
        step = step.saturating_mul(2);
        if last.saturating_add(step) >= i64::MAX as u64 {
            return Ok(u64::MAX);
        }
    }
    let (mut bad, mut good) = (last + step / 2, last + step);
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if readable(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}
