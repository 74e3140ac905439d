//! Copies of the store: taken while it is in use, checked, and put back.

use super::faults::fault;
use super::log;
use super::reader::{SqliteReader, scan_forward};
use super::writer::{connect, sync_folder};
use super::{FILE, beside, schema};
use crate::embedded::code::meta::{Life, Meta};
use crate::embedded::code::wire::Damage;
use crate::embedded::code::{body, head, meta, record};
use crate::embedded::rows::{Fault, Reads};
use flyball_policy::queue::{MetaChange, TaskId};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What a restored store leaps over, in numbers of tasks and in epochs of tokens: the store that the copy was made of went on, and what
/// it gave out after the copy (to clients, workers and logs) must not come to mean another task or lease. Many times what a queue
/// takes between two copies, and few enough for two thousand restores.
const LEAP: u32 = 1 << 20;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Checked {
    /// Tasks that can be read, body included.
    pub tasks: u64,
    /// Tasks of which a part is damaged or missing, at most 1,000 of them named.
    pub damaged: Vec<TaskId>,
    /// How many those are at least.
    pub damaged_count: u64,
    /// What the file's own structure says; empty if it is sound. At most 100 lines.
    pub structure: Vec<String>,
}

impl Checked {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged_count == 0 && self.structure.is_empty()
    }

    fn damage(&mut self, id: TaskId) {
        self.damaged_count += 1;
        if self.damaged.len() < 1_000 {
            self.damaged.push(id);
        }
    }
}

/// Writes a consistent copy beside a store in use, and syncs it. The copy is whole under its name, or is not there.
pub(crate) fn back_up(folder: &Path, to: &Path) -> Result<u64, Fault> {
    if to.exists() {
        return Err(Fault::Failed(format!("{} exists already", to.display())));
    }
    let part = beside(to, ".part");
    let copied = copy(&folder.join(FILE), &part).and_then(|()| {
        fs::rename(&part, to).map_err(|error| failed("rename", &part, &error))?;
        sync_folder(parent(to))
    });
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied?;
    fs::metadata(to)
        .map(|about| about.len())
        .map_err(|error| failed("look at", to, &error))
}

/// Copies all pages of one instant into a new file, and syncs it.
fn copy(from: &Path, to: &Path) -> Result<(), Fault> {
    let _ = fs::remove_file(to);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|error| failed("make", to, &error))?;
    let source = connect(from, false).map_err(|error| fault(&error))?;
    {
        let mut target = Connection::open(to).map_err(|error| fault(&error))?;
        let backup = Backup::new(&source, &mut target).map_err(|error| fault(&error))?;
        // In one step: steps between which the writer commits would begin anew each time. Readers do not hold up the writer.
        match backup.step(-1).map_err(|error| fault(&error))? {
            StepResult::Done => {}
            _ => {
                return Err(Fault::Failed(
                    "the store is held by another program".to_owned(),
                ));
            }
        }
        drop(backup);
        // The copy is one file: what opens it makes a log of its own.
        target
            .pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))
            .map_err(|error| fault(&error))?;
    }
    File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(|error| failed("sync", to, &error))
}

/// Puts a copy into a folder that nobody has open, after it was checked. A store that was there is kept beside it under the name
/// `tasks.db.replaced`.
pub(crate) fn restore(from: &Path, folder: &Path) -> Result<Checked, Fault> {
    let target = folder.join(FILE);
    let part = beside(&target, ".restoring");
    let _ = fs::remove_file(&part);
    let done = copy_file(from, &part).and_then(|()| {
        let checked = check_file(&part)?;
        if !checked.is_sound() {
            return Err(Fault::Damaged {
                id: checked.damaged.first().copied(),
                what: format!(
                    "the copy is damaged: {} tasks, {}",
                    checked.damaged_count,
                    checked
                        .structure
                        .first()
                        .map_or("structure sound", String::as_str)
                ),
            });
        }
        leap(&part)?;
        // The log belongs to the file that goes; with another one it would be mistaken for part of it.
        let log = beside(&target, "-wal");
        if target.exists() {
            merge_log(&target)?;
            fs::rename(&target, beside(&target, ".replaced"))
                .map_err(|error| failed("move", &target, &error))?;
        }
        for rest in [log, beside(&target, "-shm")] {
            match fs::remove_file(&rest) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &rest, &error));
                }
                _ => {}
            }
        }
        sync_folder(folder)?;
        fs::rename(&part, &target).map_err(|error| failed("rename", &part, &error))?;
        sync_folder(folder)?;
        Ok(checked)
    });
    if done.is_err() {
        for rest in [part.clone(), beside(&part, "-wal"), beside(&part, "-shm")] {
            let _ = fs::remove_file(rest);
        }
    }
    done
}

/// Has a copy go on with names and tokens that the store it was made of has not given.
fn leap(path: &Path) -> Result<(), Fault> {
    let mut connection = connect(path, false).map_err(|error| fault(&error))?;
    let life = kept(&connection, &meta::life_key())?;
    let epoch = match life {
        Some(Meta::Life(life)) => life.epoch,
        _ => 0,
    };
    let mut last = 0u64;
    for sql in ["SELECT max(id) FROM tasks", "SELECT max(id) FROM bodies"] {
        let max: Option<i64> = connection
            .query_row(sql, (), |row| row.get(0))
            .map_err(|error| fault(&error))?;
        last = last.max(max.unwrap_or(0) as u64);
    }
    let named = meta::key(&MetaChange::LastId(TaskId(0)));
    if let Some(Meta::Queue(MetaChange::LastId(id))) = kept(&connection, &named)? {
        last = last.max(id.0);
    }
    let mut values = [Vec::new(), Vec::new()];
    let moved = MetaChange::LastId(TaskId(last.saturating_add(LEAP.into())));
    meta::encode(&mut values[0], &moved, &named);
    let life = Life {
        epoch: epoch.saturating_add(LEAP),
        clean: false,
    };
    meta::encode_life(&mut values[1], life);
    connection
        .transaction()
        .and_then(|transaction| {
            for (key, value) in [named, meta::life_key()].iter().zip(&values) {
                transaction.execute(
                    "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)",
                    (key, value),
                )?;
            }
            transaction.commit()
        })
        .and_then(|()| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())))
        .map_err(|error| fault(&error))?;
    drop(connection);
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| failed("sync", path, &error))
}

/// Reads what is kept under a key beside tasks.
fn kept(connection: &Connection, key: &[u8]) -> Result<Option<Meta>, Fault> {
    let value: Option<Vec<u8>> = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
            row.get(0)
        })
        .optional()
        .map_err(|error| fault(&error))?;
    value
        .map(|value| {
            meta::decode(key, &value).map_err(|Damage(what)| Fault::Damaged {
                id: None,
                what: what.to_owned(),
            })
        })
        .transpose()
}

/// Moves the log of a store that is put away into it, so that it is whole without; one too damaged for that is put away as it is.
fn merge_log(path: &Path) -> Result<(), Fault> {
    match connect(path, false).and_then(|connection| {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
    }) {
        Ok(()) => Ok(()),
        Err(error) => match fault(&error) {
            Fault::Damaged { .. } => Ok(()),
            other => Err(other),
        },
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Fault> {
    let mut source = File::open(from).map_err(|error| failed("open", from, &error))?;
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|error| failed("make", to, &error))?;
    io::copy(&mut source, &mut target).map_err(|error| failed("copy", from, &error))?;
    target
        .sync_all()
        .map_err(|error| failed("sync", to, &error))
}

/// Checks the store of a folder.
pub(crate) fn check(folder: &Path) -> Result<Checked, Fault> {
    check_file(&folder.join(FILE))
}

fn check_file(path: &Path) -> Result<Checked, Fault> {
    if !path.exists() {
        return Err(Fault::Failed(format!("{} is not there", path.display())));
    }
    let broken_log = log::read(&beside(path, "-wal"))?;
    let connection = connect(path, false).map_err(|error| fault(&error))?;
    let layout = schema::layout(&connection)?;
    if layout != schema::LAYOUT {
        return Err(Fault::Failed(format!(
            "the store has layout {layout}; this version checks layout {}",
            schema::LAYOUT
        )));
    }
    let mut checked = Checked {
        structure: structure(&connection),
        ..Checked::default()
    };
    checked
        .structure
        .extend(broken_log.map(|broken| broken.to_string()));
    let mut reader = SqliteReader::open(path)?;
    let mut ids = Vec::new();
    let lost = scan_forward(&connection, &mut |id, sealed_head, sealed_record| {
        if head::decode(sealed_head, id).is_err() || record::decode(sealed_record, id).is_err() {
            checked.damage(id);
        } else {
            ids.push(id);
        }
    })?;
    for id in lost {
        checked.damage(id);
    }
    for id in ids {
        match reader.body(id) {
            Ok(Some(sealed)) if body::decode(&sealed, id).is_ok() => checked.tasks += 1,
            Ok(_) | Err(Fault::Damaged { .. }) => checked.damage(id),
            Err(other) => return Err(other),
        }
    }
    Ok(checked)
}

/// What SQLite finds wrong with its pages.
fn structure(connection: &Connection) -> Vec<String> {
    let mut lines = Vec::new();
    let read = connection
        .prepare("PRAGMA quick_check(100)")
        .and_then(|mut statement| {
            let found = statement.query_map((), |row| row.get::<_, String>(0))?;
            for line in found {
                lines.push(line?);
            }
            Ok(())
        });
    if let Err(error) = read {
        lines.push(error.to_string());
    }
    if lines == ["ok"] {
        lines.clear();
    }
    lines
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Fault {
    let text = format!("cannot {what} {}: {error}", path.display());
    if error.kind() == io::ErrorKind::StorageFull {
        Fault::NoSpace(text)
    } else {
        Fault::Failed(text)
    }
}
