//! What the queue can do, as its callers see it.

use super::code::{body, head};
use super::message::{Asker, Handed, Incoming, Message, Reply, Return};
use super::shared::Shared;
use super::{Embedded, reads};
use crate::error::Error;
use crate::{
    Accepted, Batch, Beat, Beaten, Brief, ClassRule, Completion, Lease, LeaseRequest, NewTask,
    Page, Query, Scope, Selection, Stats, Task, Waiting,
};
use crate::{Answer, Changes, TaskQueue};
use flyball_policy::queue::{InvalidTask, State, TaskId, Token, When};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// Tasks of a batch, ids of a selection and ends of a request, at most.
const BATCH: usize = 1_000;
/// Bytes of a payload or result.
const PAYLOAD_BYTES: usize = 1 << 20;
/// Labels of a task, and bytes of a label's name or value.
const LABELS: usize = 64;
const LABEL_BYTES: usize = 256;
/// Bytes of a checkpoint.
const CHECKPOINT_BYTES: usize = 64 << 10;
/// Bytes of the text of a failure; what is longer is cut.
const ERROR_BYTES: usize = 16 << 10;
/// Bytes of a line of text; what is longer is cut.
const MESSAGE_BYTES: usize = 1_000;
/// Bytes of everything a task is run with.
const BODY_BYTES: usize = 4 << 20;

impl Embedded {
    pub(super) async fn ask<T>(
        &self,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let message = message(reply);
        let bytes = message.bytes();
        self.shared
            .inbox
            .send(message, bytes)
            .await
            .map_err(|_| Error::Closing)?;
        // The writer answers everything it takes; it is gone only if it panicked.
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> Error {
        match self.shared.stopped() {
            Some(why) => Error::Stopped { why },
            None => Error::Closing,
        }
    }

    /// Finds the tasks of a selection.
    async fn select(
        &self,
        which: Selection,
        states: &[State],
    ) -> Result<(Vec<TaskId>, bool), Error> {
        match which {
            Selection::Ids(ids) if ids.len() > BATCH => Err(invalid(
                0,
                "ids",
                format!("are {}, at most {BATCH} are taken", ids.len()),
            )),
            Selection::Ids(ids) => Ok((ids, true)),
            Selection::Filter(mut filter, most) => {
                if filter.states.is_empty() {
                    filter.states = states.to_vec();
                } else {
                    filter.states.retain(|state| states.contains(state));
                    if filter.states.is_empty() {
                        return Ok((Vec::new(), false));
                    }
                }
                let most = (most as usize).min(BATCH);
                let shared = self.shared.clone();
                let ids = self
                    .readers
                    .read(move |reader| reads::matching(reader, &shared, &filter, most))
                    .await?;
                Ok((ids, false))
            }
        }
    }
}

impl TaskQueue for Embedded {
    fn enqueue(&self, batch: Batch) -> Answer<'_, Vec<Accepted>> {
        Box::pin(async move {
            let idempotency = batch.idempotency;
            let tasks = incoming(batch.tasks)?;
            self.ask(|reply| Message::Enqueue {
                tasks,
                idempotency,
                reply,
            })
            .await
        })
    }

    fn lease(&self, request: LeaseRequest) -> Answer<'_, Vec<Lease>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let until = self.clocks.now().mono.saturating_add(request.wait);
            let asker = Asker {
                request,
                until,
                reply,
            };
            self.shared
                .inbox
                .send(Message::Lease(asker), 0)
                .await
                .map_err(|_| Error::Closing)?;
            let mut awaited = Awaited {
                answer,
                shared: &self.shared,
            };
            let handed = (&mut awaited.answer).await.map_err(|_| self.gone())??;
            Ok(handed
                .into_iter()
                .filter_map(|handed| unpack(handed, &self.shared))
                .collect())
        })
    }

    fn heartbeat(&self, id: TaskId, token: Token, mut beat: Beat) -> Answer<'_, Beaten> {
        Box::pin(async move {
            if let Some(checkpoint) = &beat.checkpoint
                && checkpoint.len() > CHECKPOINT_BYTES
            {
                return Err(too_long(
                    0,
                    "checkpoint",
                    checkpoint.len(),
                    CHECKPOINT_BYTES,
                ));
            }
            if let Some(percent) = beat.progress
                && !(0.0..=100.0).contains(&percent)
            {
                return Err(invalid(0, "progress", "must be 0 to 100".to_owned()));
            }
            beat.message = beat.message.map(|text| cut(text, MESSAGE_BYTES));
            self.ask(|reply| Message::Heartbeat {
                id,
                token,
                beat,
                reply,
            })
            .await
        })
    }

    fn finish(&self, mut ends: Vec<Completion>) -> Answer<'_, Vec<Result<Brief, Error>>> {
        Box::pin(async move {
            if ends.len() > BATCH {
                return Err(invalid(
                    0,
                    "tasks",
                    format!("are {}, at most {BATCH} are taken", ends.len()),
                ));
            }
            for (index, end) in ends.iter_mut().enumerate() {
                if let Some(result) = &end.result
                    && result.len() > PAYLOAD_BYTES
                {
                    return Err(too_long(index, "result", result.len(), PAYLOAD_BYTES));
                }
                end.error = end.error.take().map(|text| cut(text, ERROR_BYTES));
            }
            self.ask(|reply| Message::Finish { ends, reply }).await
        })
    }

    fn call_back(&self, waits: Vec<(TaskId, u32)>) -> Answer<'_, Vec<Brief>> {
        Box::pin(self.ask(|reply| Message::CallBack { waits, reply }))
    }

    fn cancel(&self, which: Selection, why: String) -> Answer<'_, Vec<Brief>> {
        Box::pin(async move {
            let (ids, strict) = self
                .select(
                    which,
                    &[
                        State::Scheduled,
                        State::Blocked,
                        State::Pending,
                        State::Running,
                        State::Paused,
                    ],
                )
                .await?;
            let why = cut(why.into_boxed_str(), ERROR_BYTES);
            self.ask(|reply| Message::Cancel {
                ids,
                strict,
                why,
                reply,
            })
            .await
        })
    }

    fn retry(&self, which: Selection) -> Answer<'_, Vec<Brief>> {
        Box::pin(async move {
            let (ids, strict) = self
                .select(
                    which,
                    &[State::Failed, State::Cancelled, State::Skipped, State::Dead],
                )
                .await?;
            self.ask(|reply| Message::Retry { ids, strict, reply })
                .await
        })
    }

    fn pause(&self, scope: Scope, by: String) -> Answer<'_, bool> {
        Box::pin(self.ask(|reply| Message::Pause {
            scope,
            by: by.into_boxed_str(),
            reply,
        }))
    }

    fn resume(&self, scope: Scope) -> Answer<'_, bool> {
        Box::pin(self.ask(|reply| Message::Resume { scope, reply }))
    }

    fn task(&self, id: TaskId) -> Answer<'_, Task> {
        let shared = self.shared.clone();
        Box::pin(
            self.readers
                .read(move |reader| reads::task(reader, &shared, id)),
        )
    }

    fn list(&self, query: Query) -> Answer<'_, Page> {
        let shared = self.shared.clone();
        Box::pin(
            self.readers
                .read(move |reader| reads::list(reader, &shared, &query)),
        )
    }

    fn why(&self, id: TaskId) -> Answer<'_, Vec<Waiting>> {
        Box::pin(self.ask(move |reply| Message::Why { id, reply }))
    }

    fn stats(&self) -> Answer<'_, Stats> {
        Box::pin(self.ask(|reply| Message::Stats { reply }))
    }

    fn changes(&self, after: u64, limit: usize) -> Changes {
        self.shared.ring.changes(after, limit)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.ring.watch()
    }

    fn set_classes(&self, classes: Vec<ClassRule>) -> Answer<'_, ()> {
        Box::pin(self.ask(|reply| Message::SetClasses { classes, reply }))
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(self.ask(|reply| Message::Close { reply }))
    }
}

/// An answer that nobody may come to take: its leases go back then.
struct Awaited<'a> {
    answer: oneshot::Receiver<Result<Vec<Handed>, Error>>,
    shared: &'a Arc<Shared>,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(handed)) = self.answer.try_recv() {
            for one in handed {
                self.shared
                    .return_lease(Return::Unused(one.granted.id, one.granted.token));
            }
        }
    }
}

/// Reads the rows of a task that is handed out; one that is damaged goes back.
fn unpack(handed: Handed, shared: &Shared) -> Option<Lease> {
    let granted = handed.granted;
    let id = granted.id;
    let read = head::decode(handed.rows.head(), id)
        .and_then(|head| Ok((head, body::decode(&handed.rows.body_bytes(), id)?)));
    match read {
        Ok((head, body)) => Some(Lease {
            id,
            token: granted.token,
            expires_at: granted.expires_at,
            attempts: granted.attempts,
            head,
            run: body.run,
            payload: body.payload,
            checkpoint: handed.checkpoint,
        }),
        Err(damage) => {
            shared.return_lease(Return::Damaged(id, granted.token, damage.to_string()));
            None
        }
    }
}

/// Checks what the state machine does not see, finds parents of the same batch, and writes the rows: all of it where the caller runs, not
/// where the one writer does.
fn incoming(tasks: Vec<NewTask>) -> Result<Vec<Incoming>, Error> {
    if tasks.is_empty() || tasks.len() > BATCH {
        return Err(invalid(
            0,
            "tasks",
            format!("are {}, expected 1 to {BATCH}", tasks.len()),
        ));
    }
    let mut names: HashMap<Box<str>, usize> = HashMap::new();
    for (index, task) in tasks.iter().enumerate() {
        check(index, task)?;
        if let Some(name) = &task.reference
            && names.insert(name.clone(), index).is_some()
        {
            return Err(invalid(index, "ref", format!("{name:?} is another task's")));
        }
    }
    tasks
        .into_iter()
        .enumerate()
        .map(|(index, mut task)| {
            let after = std::mem::take(&mut task.after);
            let parents = after
                .iter()
                .enumerate()
                .map(|(place, parent)| match names.get(&parent.reference) {
                    Some(at) => Ok((*at, parent.when)),
                    None => Err(invalid(
                        index,
                        &format!("after[{place}]"),
                        format!("{:?} is no task of the batch", parent.reference),
                    )),
                })
                .collect::<Result<Vec<(usize, When)>, _>>()?;
            let incoming = Incoming::new(task, parents);
            if incoming.bytes() > BODY_BYTES {
                return Err(too_long(index, "task", incoming.bytes(), BODY_BYTES));
            }
            Ok(incoming)
        })
        .collect()
}

fn check(index: usize, task: &NewTask) -> Result<(), Error> {
    if task.payload.len() > PAYLOAD_BYTES {
        return Err(too_long(
            index,
            "payload",
            task.payload.len(),
            PAYLOAD_BYTES,
        ));
    }
    if task.labels.len() > LABELS {
        return Err(invalid(
            index,
            "labels",
            format!("are {}, at most {LABELS} are taken", task.labels.len()),
        ));
    }
    for (name, value) in &task.labels {
        if name.is_empty() || name.len() > LABEL_BYTES || value.len() > LABEL_BYTES {
            return Err(invalid(
                index,
                "labels",
                format!("name must be 1 to {LABEL_BYTES} bytes, value at most as many"),
            ));
        }
    }
    if task.secrets.len() > LABELS {
        return Err(invalid(
            index,
            "secrets",
            format!("are {}, at most {LABELS} are taken", task.secrets.len()),
        ));
    }
    Ok(())
}

fn invalid(index: usize, field: &str, fault: String) -> Error {
    Error::Invalid(InvalidTask::new(index, field, fault))
}

fn too_long(index: usize, field: &str, bytes: usize, most: usize) -> Error {
    invalid(
        index,
        field,
        format!("takes {bytes} bytes, at most {most} are taken"),
    )
}

/// Cuts a text at a boundary of characters.
fn cut(text: Box<str>, most: usize) -> Box<str> {
    if text.len() <= most {
        return text;
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
