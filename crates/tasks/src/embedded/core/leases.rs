//! Who waits for tasks, who gets them, and those that come back.

use super::{Core, Grant};
use crate::embedded::code::note;
use crate::embedded::code::wire::Sealed;
use crate::embedded::message::{Handed, Return};
use crate::embedded::rows::{Fault, NoteColumn};
use crate::error::Error;
use flyball_policy::queue::{Ask, Command, Now, Outcome, Reason, TaskId};

/// Others who got nothing that one who asks is compared with: enough where many workers are alike, and no square of ten thousand where none are.
const ALIKE_MAX: usize = 64;

/// One answer ends when it holds this many bytes of rows, as a page does: a thousand of the largest payloads are no answer, but the end of the process.
const LEASE_BYTES: usize = 8 << 20;

impl Core {
    pub(super) fn take_back(&mut self, now: Now, back: Return) {
        let (id, token, outcome, why) = match back {
            Return::Unused(id, token) => (id, token, None, None),
            Return::Damaged(id, token, what) => {
                let outcome = Outcome::Failed {
                    reason: Reason::Error,
                    retryable: false,
                    after: None,
                };
                self.shared.damaged().tasks.insert(id, what.clone());
                (id, token, Some(outcome), Some(what))
            }
        };
        let command = Command::Finish { id, token, outcome };
        // Refused if the lease has run out meanwhile: it has come back by itself then.
        if self.queue.apply(now, command, &mut self.effects).is_ok() {
            if let Some(what) = why {
                let text = format!("what was kept of it is damaged: {what}");
                self.note(id, NoteColumn::Failure, |row| {
                    note::encode_failure(row, &text, id);
                });
            }
            self.absorb(now, &mut []);
        }
    }

    /// Gives tasks to those who wait, in the order in which they came.
    pub(super) fn serve_askers(&mut self, now: Now) {
        if std::mem::take(&mut self.ready) {
            // Who asks for the same as one who got nothing gets nothing either.
            let mut empty: Vec<usize> = Vec::new();
            let mut place = 0;
            while place < self.askers.len() {
                let asker = &self.askers[place];
                if asker.reply.is_closed() {
                    self.askers.remove(place);
                    continue;
                }
                let request = &asker.request;
                if empty
                    .iter()
                    .rev()
                    .take(ALIKE_MAX)
                    .any(|other| same_demand(&self.askers[*other].request, request))
                {
                    place += 1;
                    continue;
                }
                let ask = Ask {
                    worker: &request.worker,
                    handlers: &request.handlers,
                    commands: &request.commands,
                    http: &request.http,
                    max: request.max,
                    lease: request.lease,
                    wait: request.wait,
                    room: request.room.as_ref(),
                    above: request.above,
                };
                let reply = self
                    .queue
                    .apply(now, Command::Lease(ask), &mut self.effects);
                match reply {
                    Ok(flyball_policy::queue::Reply::Leased(granted)) if !granted.is_empty() => {
                        self.absorb(now, &mut []);
                        if let Some(asker) = self.askers.remove(place) {
                            self.grants.push(Grant { asker, granted });
                        }
                    }
                    Ok(_) => {
                        self.absorb(now, &mut []);
                        empty.push(place);
                        place += 1;
                    }
                    Err(refused) => {
                        let error = self.error(refused);
                        if let Some(asker) = self.askers.remove(place) {
                            self.settle(asker.reply, Err(error));
                        }
                    }
                }
            }
        }
        // Those who have waited long enough, and those for whom there is no room to wait, get none.
        let most = self.limits.max_waiting;
        let mut kept = 0;
        let mut place = 0;
        while place < self.askers.len() {
            let asker = &self.askers[place];
            if asker.until > now.mono && kept < most && !self.closed {
                kept += 1;
                place += 1;
            } else if let Some(asker) = self.askers.remove(place) {
                self.settle(asker.reply, Ok(Vec::new()));
            }
        }
    }

    /// Gives granted tasks away, with their rows.
    pub(super) fn hand_out(&mut self) {
        if self.grants.is_empty() {
            return;
        }
        self.rows.begin_reads();
        let mut failed = None;
        for Grant { asker, granted } in std::mem::take(&mut self.grants) {
            let mut handed = Vec::with_capacity(granted.len());
            let mut bytes = 0;
            for granted in granted {
                if bytes >= LEASE_BYTES {
                    self.shared
                        .return_lease(Return::Unused(granted.id, granted.token));
                    continue;
                }
                let first = granted.attempts.started <= 1;
                match self.rows_of(granted.id, first) {
                    Ok((rows, checkpoint)) => {
                        bytes += rows.len() + checkpoint.as_ref().map_or(0, bytes::Bytes::len);
                        handed.push(Handed {
                            granted,
                            rows,
                            checkpoint,
                        });
                    }
                    Err(Fault::Failed(why)) => failed = Some(why),
                    Err(Fault::NoSpace(what) | Fault::Damaged { what, .. }) => {
                        self.shared
                            .return_lease(Return::Damaged(granted.id, granted.token, what));
                    }
                }
            }
            if let Some(why) = &failed {
                // The leases are void at the next start, which may read them.
                let why = format!("cannot read: {why}");
                self.stop(why.clone());
                drop(asker.reply.send(Err(Error::Stopped { why })));
                continue;
            }
            if let Err(Ok(handed)) = asker.reply.send(Ok(handed)) {
                for one in handed {
                    self.shared
                        .return_lease(Return::Unused(one.granted.id, one.granted.token));
                }
            }
        }
        self.rows.end_reads();
    }

    pub(super) fn rows_of(
        &mut self,
        id: TaskId,
        first: bool,
    ) -> Result<(Sealed, Option<bytes::Bytes>), Fault> {
        let rows = match self.cache.take(id) {
            Some(rows) => rows,
            None => {
                let (head, body) = self.rows.given(id)?.ok_or_else(|| Fault::Damaged {
                    id: Some(id),
                    what: "its rows are not there".to_owned(),
                })?;
                Sealed::of(&head, &body)
            }
        };
        if first {
            return Ok((rows, None));
        }
        // A checkpoint that cannot be read costs the next attempt time, not the task.
        let checkpoint = self
            .rows
            .whole(id)
            .ok()
            .flatten()
            .and_then(|whole| whole.notes.checkpoint)
            .and_then(|sealed| note::decode_checkpoint(&sealed, id).ok());
        Ok((rows, checkpoint))
    }
}

/// Whether two ask for the same, so that where one gets nothing the other does not either.
fn same_demand(a: &crate::LeaseRequest, b: &crate::LeaseRequest) -> bool {
    a.handlers == b.handlers
        && a.commands == b.commands
        && a.http == b.http
        && a.room == b.room
        && a.above == b.above
}
