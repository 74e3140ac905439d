//! What the writer is asked, and how it answers.

use super::code::wire::{Sealed, Unsealed};
use super::code::{body, head};
use crate::error::Error;
use crate::{
    Accepted, Beat, Beaten, Brief, ClassRule, Completion, Idempotency, LeaseRequest, NewTask,
    Scope, Stats, Waiting,
};
use bytes::Bytes;
use flyball_core::time::Timestamp;
use flyball_policy::queue::{Granted, Head, Settings, TaskId, Token, When};
use tokio::sync::oneshot;

/// Where an answer goes. Who asked may have gone.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A task that comes in: what decides about it, and its rows, written already.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) head: Head,
    /// Parents in the same batch, by their place.
    pub(super) parents: Vec<(usize, When)>,
    /// Taken out when the task has its id.
    pub(super) rows: Option<Unsealed>,
}

impl Incoming {
    pub(super) fn new(task: NewTask, parents: Vec<(usize, When)>) -> Incoming {
        let about = 96 + task.head.kind.len() + task.head.class.len() + task.payload.len();
        let rows = Unsealed::new(
            about,
            |put| head::write(put, &task.head),
            |put| body::write(put, &task.run, &task.payload, &task.labels, &task.secrets),
        );
        Incoming {
            head: task.head,
            parents,
            rows: Some(rows),
        }
    }

    /// How long its rows are, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.rows.as_ref().map_or(0, Unsealed::len)
    }
}

/// Somebody who waits for tasks.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) request: LeaseRequest,
    /// When it has waited long enough.
    pub(super) until: Timestamp,
    pub(super) reply: Reply<Vec<Handed>>,
}

/// A task that is handed out, its rows still sealed.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) granted: Granted,
    pub(super) rows: Sealed,
    pub(super) checkpoint: Option<Bytes>,
}

/// A lease that comes back without having been used.
#[derive(Debug)]
pub(super) enum Return {
    /// Nobody took the answer.
    Unused(TaskId, Token),
    /// What was kept of the task cannot be read.
    Damaged(TaskId, Token, String),
}

/// Tasks, as the writer changes them.
#[derive(Debug)]
pub(super) enum Message {
    Enqueue {
        tasks: Vec<Incoming>,
        idempotency: Option<Idempotency>,
        reply: Reply<Vec<Accepted>>,
    },
    Lease(Asker),
    Heartbeat {
        id: TaskId,
        token: Token,
        beat: Beat,
        reply: Reply<Beaten>,
    },
    Finish {
        ends: Vec<Completion>,
        reply: Reply<Vec<Result<Brief, Error>>>,
    },
    CallBack {
        waits: Vec<(TaskId, u32)>,
        reply: Reply<Vec<Brief>>,
    },
    Cancel {
        ids: Vec<TaskId>,
        strict: bool,
        why: Box<str>,
        reply: Reply<Vec<Brief>>,
    },
    Retry {
        ids: Vec<TaskId>,
        strict: bool,
        reply: Reply<Vec<Brief>>,
    },
    Pause {
        scope: Scope,
        by: Box<str>,
        reply: Reply<bool>,
    },
    Resume {
        scope: Scope,
        reply: Reply<bool>,
    },
    SetBounds {
        settings: Settings,
        max_bytes: Option<u64>,
        reply: Reply<()>,
    },
    SetClasses {
        classes: Vec<ClassRule>,
        reply: Reply<()>,
    },
    Why {
        id: TaskId,
        reply: Reply<Vec<Waiting>>,
    },
    Stats {
        reply: Reply<Stats>,
    },
    Close {
        reply: Reply<()>,
    },
}

impl Message {
    /// Answers that it was not done.
    pub(super) fn refuse(self, error: Error) {
        // Who asked may have gone; there is nobody to tell then.
        match self {
            Message::Enqueue { reply, .. } => drop(reply.send(Err(error))),
            Message::Lease(asker) => drop(asker.reply.send(Err(error))),
            Message::Heartbeat { reply, .. } => drop(reply.send(Err(error))),
            Message::Finish { reply, .. } => drop(reply.send(Err(error))),
            Message::CallBack { reply, .. }
            | Message::Cancel { reply, .. }
            | Message::Retry { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Message::Pause { reply, .. } | Message::Resume { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Message::SetBounds { reply, .. }
            | Message::SetClasses { reply, .. }
            | Message::Close { reply } => {
                drop(reply.send(Err(error)));
            }
            Message::Why { reply, .. } => drop(reply.send(Err(error))),
            Message::Stats { reply } => drop(reply.send(Err(error))),
        }
    }

    /// About how many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Message::Enqueue { tasks, .. } => tasks.iter().map(|task| 200 + task.bytes()).sum(),
            Message::Finish { ends, .. } => ends
                .iter()
                .map(|end| {
                    200 + end.result.as_ref().map_or(0, Bytes::len)
                        + end.error.as_ref().map_or(0, |text| text.len())
                })
                .sum(),
            Message::Heartbeat { beat, .. } => beat.checkpoint.as_ref().map_or(0, Bytes::len),
            _ => 0,
        }
    }
}
