//! Tables, and how older ones become those of today.
//!
//! The number of the layout is in `user_version`. [`MIGRATIONS`] leads from each layout to the next; each step is one transaction with its
//! new number, so that a crash between steps leaves a layout that is known. A file of a later version is refused, not guessed at.

use super::faults::fault;
use crate::embedded::rows::Fault;
use rusqlite::Connection;

/// Marks the file as ours ("flyq"), in SQLite's header.
const APPLICATION: i32 = 0x666c_7971;

/// States whose tasks are found by an index: those in which few are, or which few changes lead to. The other three, pending, running and completed, are
/// what every task goes through. The numbers are those of [`state_code`](crate::embedded::code::state_code).
pub(super) const INDEXED: &str = "state > 2";

/// The layout before the first: an empty file.
pub(super) const EMPTY: i32 = 0;

/// Leads from each layout to the next.
const MIGRATIONS: &[&str] = &[
    // 1. Heads and records are small and read at each start, so bodies and notes are apart.
    "CREATE TABLE tasks (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, head BLOB NOT NULL, record BLOB NOT NULL) STRICT;
     CREATE INDEX tasks_by_state ON tasks (state, id) WHERE state > 2;
     CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
     CREATE TABLE notes (id INTEGER PRIMARY KEY, beat BLOB, checkpoint BLOB, failure BLOB, outcome BLOB) STRICT;
     CREATE TABLE meta (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;",
];

/// The layout that this version reads and writes.
pub(super) const LAYOUT: i32 = MIGRATIONS.len() as i32;

/// Brings the tables to the layout of this version.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Fault> {
    let found = layout(connection)?;
    for (step, statements) in (EMPTY..).zip(MIGRATIONS) {
        if step < found {
            continue;
        }
        let next = step + 1;
        connection
            .transaction()
            .and_then(|transaction| {
                transaction.execute_batch(statements)?;
                transaction.pragma_update(None, "user_version", next)?;
                transaction.pragma_update(None, "application_id", APPLICATION)?;
                transaction.commit()
            })
            .map_err(|error| fault(&error))?;
    }
    Ok(())
}

/// Answers the layout of a file; refuses files that are not ours, or of a later version.
pub(super) fn layout(connection: &Connection) -> Result<i32, Fault> {
    let number = |name: &str| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i32>(0))
            .map_err(|error| fault(&error))
    };
    let layout = number("user_version")?;
    let application = number("application_id")?;
    if (layout != EMPTY || application != 0) && application != APPLICATION {
        return Err(Fault::Failed(
            "the file is a database of another program".to_owned(),
        ));
    }
    if layout > LAYOUT {
        return Err(Fault::Failed(format!(
            "the store has layout {layout}, made by a later version; this version knows layouts up to {LAYOUT}: run that version, or restore a backup of this one"
        )));
    }
    Ok(layout)
}
