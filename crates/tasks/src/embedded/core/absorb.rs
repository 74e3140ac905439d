//! What the machine answered, made ready to be written.

use super::Core;
use crate::embedded::code::wire::{Sealed, Unsealed};
use crate::embedded::code::{body, head, meta};
use crate::embedded::message::Incoming;
use crate::embedded::ring::Kept;
use flyball_policy::queue::{Body, Cause, Event, Now, Placed, TaskId};

impl Core {
    /// Takes over what the machine answered to a command, before the next.
    pub(super) fn absorb(&mut self, now: Now, batch: &mut [Incoming]) {
        let effects = std::mem::take(&mut self.effects);
        // Two starts for one tick of a calendar are never: what a tick made is on disk for good before it can start, whichever command did the tick.
        self.sync |= !effects.added.is_empty();
        for placed in &effects.added {
            self.place(*placed, batch);
        }
        for placed in &effects.swapped {
            self.writes.cleared.push(placed.id);
            self.place(*placed, batch);
        }
        self.changed.extend_from_slice(&effects.changed);
        self.writes.removed.extend_from_slice(&effects.removed);
        for change in &effects.meta {
            let key = meta::key(change);
            let value = meta::keeps(change)
                .then(|| self.writes.part(|row| meta::encode(row, change, &key)));
            self.writes.meta.push((key, value));
        }
        self.ready |= effects.ready;
        for event in &effects.events {
            self.tell(now, event);
        }
        self.effects = effects;
        self.effects.clear();
    }

    pub(super) fn tell(&mut self, now: Now, event: &Event) {
        if event.cause == Cause::Forgotten {
            return;
        }
        let Some((kind, class)) = self.queue.names(event.id) else {
            return;
        };
        self.events.push(Kept {
            at: now.wall,
            kind: self.names.get(kind),
            class: self.names.get(class),
            event: event.clone(),
        });
    }

    /// Finds the rows of a new task, or of one that was given anew.
    pub(super) fn place(&mut self, placed: Placed, batch: &mut [Incoming]) {
        let id = placed.id;
        if self.queue.state(id).is_none() {
            // Made, replaced and forgotten by one command: a calendar that makes up for ticks.
            return;
        }
        let rows = match placed.body {
            Body::Batch(place) => batch.get_mut(place).and_then(|task| {
                let rows = task.rows.take()?;
                // Parents of the same batch have ids only now.
                if task.parents.is_empty() {
                    Some(rows.seal(id))
                } else {
                    let head = self.queue.head(id)?;
                    Some(rows.seal_with(id, |put| head::write(put, &head)))
                }
            }),
            Body::Copy(entry) => self.copy(id, entry),
        };
        match rows {
            Some(rows) => match self.added.last() {
                Some((last, _)) if *last >= id => {
                    match self.added.binary_search_by_key(&id, |(id, _)| *id) {
                        Ok(place) => self.added[place].1 = rows,
                        Err(place) => self.added.insert(place, (id, rows)),
                    }
                }
                _ => self.added.push((id, rows)),
            },
            // The entry's own rows are damaged, so the task has no body: it is named as damaged when somebody leases it.
            None => drop(
                self.shared
                    .damaged()
                    .tasks
                    .insert(id, "the body to copy is damaged".to_owned()),
            ),
        }
    }

    /// The rows of a task that another one made.
    pub(super) fn copy(&mut self, id: TaskId, entry: TaskId) -> Option<Sealed> {
        let head = self.queue.head(id)?;
        let there = self
            .added
            .binary_search_by_key(&entry, |(id, _)| *id)
            .ok()
            .map(|place| self.added[place].1.body_bytes());
        let sealed = match there {
            Some(sealed) => sealed,
            None => self.rows.body(entry).ok()??,
        };
        let body = body::decode(&sealed, entry).ok()?;
        let rows = Unsealed::new(
            96 + sealed.len(),
            |put| head::write(put, &head),
            |put| body::write(put, &body.run, &body.payload, &body.labels, &body.secrets),
        );
        Some(rows.seal(id))
    }
}
