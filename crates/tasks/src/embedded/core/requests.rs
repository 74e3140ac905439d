//! What each request asks of the machine.

use super::Core;
use super::opening::write_life;
use crate::embedded::code::{meta, note};
use crate::embedded::message::{Incoming, Message, Reply};
use crate::embedded::rows::NoteColumn;
use crate::error::Error;
use crate::{Accepted, Beat, Beaten, Brief, Completion, Idempotency, Stats, Usage};
use flyball_policy::queue::{
    Command, Entering, InvalidTask, Now, Refused, RequestKey, State, TaskId, Token,
};
use std::time::Duration;

impl Core {
    pub(super) fn apply(&mut self, now: Now, message: Message) {
        match message {
            Message::Enqueue {
                tasks,
                idempotency,
                reply,
            } => {
                let answer = self.enqueue(now, tasks, idempotency);
                self.settle(reply, answer);
            }
            Message::Lease(asker) => {
                self.ready = true;
                self.askers.push_back(asker);
            }
            Message::Heartbeat {
                id,
                token,
                beat,
                reply,
            } => {
                let answer = self.heartbeat(now, id, token, beat);
                self.settle(reply, answer);
            }
            Message::Finish { ends, reply } => {
                let answer = ends.into_iter().map(|end| self.finish(now, end)).collect();
                self.sync = true;
                self.settle(reply, Ok(answer));
            }
            Message::CallBack { waits, reply } => {
                let answer = self.change(now, Command::CallBack { waits: &waits });
                self.settle(reply, answer);
            }
            Message::Cancel {
                ids,
                strict,
                why,
                reply,
            } => {
                let command = Command::Cancel { ids: &ids, strict };
                let answer = self.change(now, command);
                if let (Ok(changed), false) = (&answer, why.is_empty()) {
                    for brief in changed {
                        self.note(brief.id, NoteColumn::Failure, |row| {
                            note::encode_failure(row, &why, brief.id);
                        });
                    }
                }
                self.settle(reply, answer);
            }
            Message::Retry { ids, strict, reply } => {
                let answer = self.change(now, Command::Retry { ids: &ids, strict });
                self.settle(reply, answer);
            }
            Message::Pause { scope, by, reply } => {
                let answer = self.switch(
                    now,
                    Command::Pause {
                        scope: &scope,
                        by: &by,
                    },
                );
                self.settle(reply, answer);
            }
            Message::Resume { scope, reply } => {
                let answer = self.switch(now, Command::Resume { scope: &scope });
                self.settle(reply, answer);
            }
            Message::SetBounds {
                mut settings,
                max_bytes,
                reply,
            } => {
                // Drawn at the opening.
                settings.seed = self.settings.seed;
                self.queue.set_settings(settings);
                self.settings = settings;
                self.limits.max_bytes = max_bytes;
                let set = self.rows.set_max_bytes(max_bytes);
                self.settle(
                    reply,
                    set.map_err(|fault| Error::Stopped {
                        why: fault.to_string(),
                    }),
                );
            }
            Message::SetClasses { classes, reply } => {
                self.queue.set_classes(&classes);
                self.classes = classes;
                self.ready = true;
                self.settle(reply, Ok(()));
            }
            Message::Why { id, reply } => drop(reply.send(self.why(id))),
            Message::Stats { reply } => drop(reply.send(Ok(self.stats()))),
            Message::Close { reply } => {
                self.closed = true;
                write_life(
                    &mut self.writes,
                    meta::Life {
                        epoch: self.epoch,
                        clean: true,
                    },
                );
                self.sync = true;
                self.settle(reply, Ok(()));
            }
        }
    }

    pub(super) fn settle<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Error>) {
        self.settle.push(Box::new(move |written| {
            // Who asked may have gone.
            drop(reply.send(written.and(answer)));
        }));
    }

    pub(super) fn enqueue(
        &mut self,
        now: Now,
        mut tasks: Vec<Incoming>,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<Accepted>, Error> {
        if let Some(why) = &self.blocked {
            return Err(Error::Stopped { why: why.clone() });
        }
        let bytes: u64 = tasks.iter().map(|task| task.bytes() as u64).sum();
        if let Some(most) = self.limits.max_bytes {
            let mut used = self.used_bytes + self.grown_bytes + self.coming_bytes;
            if used + bytes > most && self.unmeasured_bytes > 0 && self.measure().is_ok() {
                used = self.used_bytes + self.coming_bytes;
            }
            if used + bytes > most {
                self.refused += 1;
                return Err(Error::Full {
                    what: format!("{used} of {most} bytes are used, {bytes} more were asked for"),
                    retry_after: Duration::from_secs(1),
                });
            }
        }
        let reply = {
            let entering: Vec<Entering<'_>> = tasks
                .iter()
                .map(|task| Entering {
                    head: &task.head,
                    parents: &task.parents,
                })
                .collect();
            let command = Command::Enqueue {
                tasks: &entering,
                idempotency: idempotency.as_ref().map(|request| RequestKey {
                    key: &request.key,
                    fingerprint: request.fingerprint,
                }),
            };
            self.queue.apply(now, command, &mut self.effects)
        };
        let reply = reply.map_err(|refused| self.error(refused))?;
        self.coming_bytes += bytes;
        self.sync = true;
        self.absorb(now, &mut tasks);
        match reply {
            flyball_policy::queue::Reply::Accepted(taken) => Ok(taken
                .into_iter()
                .map(|taken| Accepted {
                    id: taken.id,
                    state: taken.state,
                    created_at: taken.created_at,
                    existing: taken.existing,
                })
                .collect()),
            _ => Ok(Vec::new()),
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        now: Now,
        id: TaskId,
        token: Token,
        beat: Beat,
    ) -> Result<Beaten, Error> {
        let command = Command::Heartbeat {
            id,
            token,
            lease: beat.lease,
            paused: beat.paused,
            stood: beat.stood,
        };
        let reply = self
            .queue
            .apply(now, command, &mut self.effects)
            .map_err(|refused| self.error(refused))?;
        self.absorb(now, &mut []);
        if let Some(checkpoint) = &beat.checkpoint {
            self.note(id, NoteColumn::Checkpoint, |row| {
                note::encode_checkpoint(row, checkpoint, id);
            });
        }
        if beat.progress.is_some() || beat.message.is_some() {
            let attempt = self
                .queue
                .record(id)
                .map_or(0, |record| record.attempts.started);
            let progress = note::Progress {
                attempt,
                percent: beat.progress,
                message: beat.message,
            };
            self.note(id, NoteColumn::Beat, |row| {
                note::encode_progress(row, &progress, id);
            });
        }
        match reply {
            flyball_policy::queue::Reply::Beaten {
                expires_at,
                cancelled,
            } => Ok(Beaten {
                expires_at,
                cancelled,
            }),
            _ => Err(Error::UnknownTask { id }),
        }
    }

    pub(super) fn finish(&mut self, now: Now, end: Completion) -> Result<Brief, Error> {
        let id = end.id;
        let command = Command::Finish {
            id,
            token: end.token,
            outcome: end.outcome,
        };
        self.queue
            .apply(now, command, &mut self.effects)
            .map_err(|refused| self.error(refused))?;
        self.absorb(now, &mut []);
        let brief = self.brief(id)?;
        if let Some(error) = &end.error {
            self.note(id, NoteColumn::Failure, |row| {
                note::encode_failure(row, error, id);
            });
        }
        // The first attempt of most tasks leaves nothing to keep; what a later one leaves must replace what an earlier one left.
        if end.outcome.is_some()
            && (end.result.is_some() || end.usage != Usage::default() || brief.attempts.started > 1)
        {
            self.note(id, NoteColumn::Outcome, |row| {
                note::encode_outcome(row, &end.usage, end.result.as_deref(), id);
            });
        }
        Ok(brief)
    }

    pub(super) fn change(&mut self, now: Now, command: Command<'_>) -> Result<Vec<Brief>, Error> {
        let reply = self
            .queue
            .apply(now, command, &mut self.effects)
            .map_err(|refused| self.error(refused))?;
        self.sync = true;
        self.absorb(now, &mut []);
        match reply {
            flyball_policy::queue::Reply::Changed(ids) => {
                ids.into_iter().map(|id| self.brief(id)).collect()
            }
            _ => Ok(Vec::new()),
        }
    }

    pub(super) fn switch(&mut self, now: Now, command: Command<'_>) -> Result<bool, Error> {
        let reply = self
            .queue
            .apply(now, command, &mut self.effects)
            .map_err(|refused| self.error(refused))?;
        self.sync = true;
        self.absorb(now, &mut []);
        Ok(matches!(reply, flyball_policy::queue::Reply::Done(true)))
    }

    pub(super) fn brief(&self, id: TaskId) -> Result<Brief, Error> {
        let record = self.queue.record(id).ok_or(Error::UnknownTask { id })?;
        Ok(Brief {
            id,
            state: record.state,
            reason: record.reason,
            attempts: record.attempts,
            ready_at: record.ready_at,
        })
    }

    pub(super) fn why(&self, id: TaskId) -> Result<Vec<crate::Waiting>, Error> {
        let now = self.clocks.now();
        self.queue.why(id, now.mono).ok_or_else(|| self.unknown(id))
    }

    /// Why a task is not there.
    pub(super) fn unknown(&self, id: TaskId) -> Error {
        match self.shared.damaged().tasks.get(&id) {
            Some(what) => Error::Damaged {
                id,
                what: what.clone(),
            },
            None => Error::UnknownTask { id },
        }
    }

    pub(super) fn error(&self, refused: Refused) -> Error {
        match refused {
            Refused::Invalid(invalid) => Error::Invalid(invalid),
            Refused::Request { field, expected } => {
                Error::Invalid(InvalidTask::new(0, field, format!("must be {expected}")))
            }
            Refused::UnknownTask { id } => self.unknown(id),
            Refused::StaleToken { id, state } => Error::StaleToken { id, state },
            Refused::WrongState {
                id,
                state,
                expected,
            } => Error::WrongState {
                id,
                state,
                expected,
            },
            Refused::KeyReused => Error::KeyReused,
            Refused::Full { what, retry_after } => Error::Full { what, retry_after },
            other => Error::Stopped {
                why: other.to_string(),
            },
        }
    }

    pub(super) fn note(
        &mut self,
        id: TaskId,
        column: NoteColumn,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let part = self.writes.part(write);
        self.writes.notes.push((id, column, part));
    }

    pub(super) fn stats(&mut self) -> Stats {
        let figures = self.queue.figures();
        let counted = |counts: &[u64; 10]| {
            State::ALL
                .into_iter()
                .zip(*counts)
                .filter(|(_, count)| *count > 0)
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        let damaged = self.shared.damaged();
        Stats {
            by_state: State::ALL.into_iter().zip(figures.by_state).collect(),
            by_class: self
                .queue
                .classes()
                .map(|(name, counts)| (Box::from(name), counted(counts)))
                .filter(|(_, counts)| !counts.is_empty())
                .collect(),
            by_kind: self
                .queue
                .kinds()
                .map(|(name, counts)| (Box::from(name), counted(counts)))
                .filter(|(_, counts)| !counts.is_empty())
                .take(1000)
                .collect(),
            accepted: self.before.accepted + figures.accepted,
            completed: self.before.completed + figures.completed,
            failed_attempts: self.before.failed_attempts + figures.failed_attempts,
            expired_leases: self.before.expired_leases + figures.expired_leases,
            refused: self.before.refused + figures.refused + self.refused,
            key_excess: self.before.key_excess + figures.key_excess,
            retry_excess: self.before.retry_excess + figures.retry_excess,
            disk_bytes: self.rows.disk_bytes(),
            memory_bytes: Some(figures.memory_bytes + self.cache.memory_bytes() as u64),
            pauses: self
                .queue
                .pauses()
                .iter()
                .map(|(scope, pause)| (scope.clone(), (pause.by.clone(), pause.since)))
                .collect(),
            stopped: self.stopped.clone(),
            damaged: damaged.tasks.len() as u64 + damaged.meta + u64::from(damaged.log.is_some()),
        }
    }
}
