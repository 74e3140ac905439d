//! A disk in memory that loses what was not synced, and fails when it is told to.

use crate::embedded::rows::{
    EachFound, EachTask, Fault, NoteColumn, Notes, Reads, Rows, Scan, Whole, Writes,
};
use bytes::Bytes;
use flyball_core::rng::Rng;
use flyball_policy::queue::TaskId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// What the next commit does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    /// What it is told.
    Work,
    /// Nothing: the process dies before.
    DieBefore,
    /// All of it, but nobody learns: the process dies after.
    DieAfter,
    /// Nothing: there is no space.
    NoSpace,
    /// Nothing: the row of a task that is there already is damaged.
    Damage(TaskId),
}

#[derive(Clone, Debug, Default)]
struct Tables {
    /// Head, record and body.
    tasks: BTreeMap<TaskId, (Bytes, Bytes, Bytes)>,
    notes: BTreeMap<(TaskId, NoteColumn), Bytes>,
    meta: BTreeMap<Vec<u8>, Bytes>,
}

#[derive(Clone, Debug)]
enum Change {
    Put(TaskId, Bytes, Bytes, Bytes),
    Record(TaskId, Bytes),
    Clear(TaskId),
    Note(TaskId, NoteColumn, Bytes),
    Remove(TaskId),
    Meta(Vec<u8>, Option<Bytes>),
}

impl Tables {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes.iter().cloned() {
            match change {
                Change::Put(id, head, record, body) => {
                    self.tasks.insert(id, (head, record, body));
                }
                Change::Record(id, record) => {
                    self.tasks.get_mut(&id).expect("a row that is there").1 = record;
                }
                Change::Clear(id) => {
                    self.notes.retain(|(of, _), _| *of != id);
                }
                Change::Note(id, column, note) => {
                    self.notes.insert((id, column), note);
                }
                Change::Remove(id) => {
                    self.tasks.remove(&id);
                    self.notes.retain(|(of, _), _| *of != id);
                }
                Change::Meta(key, Some(value)) => {
                    self.meta.insert(key, value);
                }
                Change::Meta(key, None) => {
                    self.meta.remove(&key);
                }
            }
        }
    }
}

#[derive(Debug)]
struct State {
    /// What a power cut leaves.
    synced: Tables,
    /// Commits since, in order.
    unsynced: Vec<Vec<Change>>,
    /// What readers see.
    seen: Tables,
    plan: Plan,
    syncs: u64,
}

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub(super) fn new() -> Disk {
        Disk(Arc::new(Mutex::new(State {
            synced: Tables::default(),
            unsynced: Vec::new(),
            seen: Tables::default(),
            plan: Plan::Work,
            syncs: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Says what the next commit does.
    pub(super) fn plan(&self, plan: Plan) {
        self.state().plan = plan;
    }

    /// Cuts the power: of the commits that were not synced, some first part is left.
    pub(super) fn cut(&self, rng: &mut Rng) {
        let mut state = self.state();
        let left = rng.below(state.unsynced.len() as u64 + 1) as usize;
        let mut unsynced = std::mem::take(&mut state.unsynced);
        unsynced.truncate(left);
        for changes in unsynced {
            state.synced.apply(&changes);
        }
        state.seen = state.synced.clone();
        state.plan = Plan::Work;
    }

    /// Commits that were synced.
    pub(super) fn syncs(&self) -> u64 {
        self.state().syncs
    }
}

impl Rows for Disk {
    fn commit(&mut self, writes: &Writes, sync: bool) -> Result<(), Fault> {
        let mut state = self.state();
        let plan = std::mem::replace(&mut state.plan, Plan::Work);
        match plan {
            Plan::DieBefore => return Err(Fault::Failed("died".to_owned())),
            Plan::NoSpace => return Err(Fault::NoSpace("no space".to_owned())),
            Plan::Damage(id) => {
                return Err(Fault::Damaged {
                    id: Some(id),
                    what: "flipped".to_owned(),
                });
            }
            Plan::Work | Plan::DieAfter => {}
        }
        let bytes = |part| Bytes::copy_from_slice(writes.bytes(part));
        let mut changes = Vec::new();
        for added in &writes.added {
            changes.push(Change::Put(
                added.id,
                Bytes::copy_from_slice(added.rows.head()),
                bytes(&added.record),
                added.rows.body_bytes(),
            ));
        }
        for (id, _, record) in &writes.changed {
            changes.push(Change::Record(*id, bytes(record)));
        }
        changes.extend(writes.cleared.iter().map(|id| Change::Clear(*id)));
        for (id, column, note) in &writes.notes {
            changes.push(Change::Note(*id, *column, bytes(note)));
        }
        changes.extend(writes.removed.iter().map(|id| Change::Remove(*id)));
        for (key, value) in &writes.meta {
            changes.push(Change::Meta(key.clone(), value.as_ref().map(bytes)));
        }
        state.seen.apply(&changes);
        state.unsynced.push(changes);
        if sync {
            state.syncs += 1;
            for changes in std::mem::take(&mut state.unsynced) {
                state.synced.apply(&changes);
            }
        }
        if plan == Plan::DieAfter {
            return Err(Fault::Failed("died".to_owned()));
        }
        Ok(())
    }

    fn load(&mut self, each: EachTask<'_>) -> Result<Vec<TaskId>, Fault> {
        for (id, (head, record, _)) in &self.state().seen.tasks {
            each(*id, head, record);
        }
        Ok(Vec::new())
    }

    fn last_id(&mut self) -> Result<u64, Fault> {
        let state = self.state();
        Ok(state.seen.tasks.last_key_value().map_or(0, |(id, _)| id.0))
    }

    fn load_meta(&mut self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Fault> {
        for (key, value) in &self.state().seen.meta {
            each(key, value);
        }
        Ok(())
    }

    fn begin_reads(&mut self) {}

    fn end_reads(&mut self) {}

    fn reader(&self) -> Result<Box<dyn Reads>, Fault> {
        Ok(Box::new(self.clone()))
    }

    fn set_max_bytes(&mut self, _: Option<u64>) -> Result<(), Fault> {
        Ok(())
    }

    fn used_bytes(&mut self) -> Result<u64, Fault> {
        Ok(0)
    }

    fn disk_bytes(&mut self) -> Option<u64> {
        None
    }

    fn upkeep(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

impl Reads for Disk {
    fn whole(&mut self, id: TaskId) -> Result<Option<Whole>, Fault> {
        let state = self.state();
        let note = |column| state.seen.notes.get(&(id, column)).cloned();
        Ok(state.seen.tasks.get(&id).map(|(head, record, body)| Whole {
            head: head.clone(),
            record: record.clone(),
            body: Some(body.clone()),
            notes: Notes {
                beat: note(NoteColumn::Beat),
                checkpoint: note(NoteColumn::Checkpoint),
                failure: note(NoteColumn::Failure),
                outcome: note(NoteColumn::Outcome),
            },
        }))
    }

    fn given(&mut self, id: TaskId) -> Result<Option<(Bytes, Bytes)>, Fault> {
        let state = self.state();
        let found = state.seen.tasks.get(&id);
        Ok(found.map(|(head, _, body)| (head.clone(), body.clone())))
    }

    fn body(&mut self, id: TaskId) -> Result<Option<Bytes>, Fault> {
        Ok(self.given(id)?.map(|(_, body)| body))
    }

    fn scan(&mut self, scan: &Scan, each: EachFound<'_>) -> Result<Option<u64>, Fault> {
        let state = self.state();
        for (id, (head, record, _)) in state.seen.tasks.range(..TaskId(scan.before)).rev() {
            if each(*id, head, record) {
                return Ok(Some(id.0));
            }
        }
        Ok(None)
    }
}
