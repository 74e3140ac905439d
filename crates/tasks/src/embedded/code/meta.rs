//! What is kept beside tasks: pauses, requests that may be repeated, groups, and how the store was left.

use super::wire::{Column, Damage, Put, Take};
use super::{state_code, state_of};
use flyball_core::time::WallTime;
use flyball_policy::queue::{MetaChange, Pause, Remembered, Scope, TaskId};

// The first byte of a key says what it is about. Numbers are never given again.
const PAUSE: u8 = 1;
const IDEMPOTENCY: u8 = 2;
const GROUP: u8 = 3;
const LAST_ID: u8 = 4;
const LIFE: u8 = 5;

/// How the store was left, and the epoch of tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Life {
    /// The greatest epoch that may have been used.
    pub(crate) epoch: u32,
    /// Whether it was closed: leases that are out count.
    pub(crate) clean: bool,
}

/// A row that belongs to no task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Meta {
    /// Of the queue.
    Queue(MetaChange),
    /// Of the store.
    Life(Life),
}

/// The key under which a change is kept.
pub(crate) fn key(change: &MetaChange) -> Vec<u8> {
    let named = |tag: u8, name: &str| {
        let mut key = Vec::with_capacity(1 + name.len());
        key.push(tag);
        key.extend_from_slice(name.as_bytes());
        key
    };
    match change {
        MetaChange::Pause(Scope::All, _) => vec![PAUSE, b'a'],
        MetaChange::Pause(Scope::Class(name), _) => {
            let mut key = vec![PAUSE, b'c'];
            key.extend_from_slice(name.as_bytes());
            key
        }
        MetaChange::Pause(Scope::Kind(name), _) => {
            let mut key = vec![PAUSE, b'k'];
            key.extend_from_slice(name.as_bytes());
            key
        }
        MetaChange::Idempotency(name, _) => named(IDEMPOTENCY, name),
        MetaChange::Group(name, _) => named(GROUP, name),
        MetaChange::LastId(_) => vec![LAST_ID],
    }
}

/// The key of [`Life`].
pub(crate) fn life_key() -> Vec<u8> {
    vec![LIFE]
}

/// Whether the change keeps something; else its row is to be removed.
pub(crate) fn keeps(change: &MetaChange) -> bool {
    match change {
        MetaChange::Pause(_, value) => value.is_some(),
        MetaChange::Idempotency(_, value) => value.is_some(),
        MetaChange::Group(_, value) => value.is_some(),
        MetaChange::LastId(_) => true,
    }
}

/// Writes the value of a change; nothing but its seal if it keeps nothing.
pub(crate) fn encode(into: &mut Vec<u8>, change: &MetaChange, key: &[u8]) {
    let mut put = Put::new(into);
    match change {
        MetaChange::Pause(_, Some(pause)) => {
            put.str(&pause.by);
            put.fixed(pause.since.unix_nanos());
        }
        MetaChange::Idempotency(_, Some(request)) => {
            put.rest(&request.fingerprint);
            put.fixed(request.at.unix_nanos());
            put.list(&request.tasks, |put, (id, ended)| {
                put.u64(id.0);
                put.option(*ended, |put, state| put.u8(state_code(state)));
            });
        }
        MetaChange::Group(_, Some(counts)) => {
            for count in counts {
                put.u64(*count);
            }
        }
        MetaChange::LastId(id) => put.u64(id.0),
        MetaChange::Pause(_, None)
        | MetaChange::Idempotency(_, None)
        | MetaChange::Group(_, None) => {}
    }
    put.seal_under(Column::Meta, key);
}

/// Writes [`Life`].
pub(crate) fn encode_life(into: &mut Vec<u8>, life: Life) {
    let mut put = Put::new(into);
    put.u32(life.epoch);
    put.bool(life.clean);
    put.seal_under(Column::Meta, &life_key());
}

/// Reads a row.
pub(crate) fn decode(key: &[u8], sealed: &[u8]) -> Result<Meta, Damage> {
    let take = &mut Take::open_under(sealed, Column::Meta, key)?;
    let (tag, name) = key.split_first().ok_or(Damage("the key is empty"))?;
    let text = |name: &[u8]| {
        std::str::from_utf8(name)
            .map(Box::from)
            .map_err(|_| Damage("a name is not UTF-8"))
    };
    let meta = match *tag {
        PAUSE => {
            let scope = match name.split_first() {
                Some((b'a', _)) => Scope::All,
                Some((b'c', name)) => Scope::Class(text(name)?),
                Some((b'k', name)) => Scope::Kind(text(name)?),
                _ => return Err(Damage("what is paused is unknown")),
            };
            let pause = Pause {
                by: take.text()?,
                since: WallTime::from_unix_nanos(take.fixed()?),
            };
            Meta::Queue(MetaChange::Pause(scope, Some(pause)))
        }
        IDEMPOTENCY => {
            let fingerprint = take.array()?;
            let at = WallTime::from_unix_nanos(take.fixed()?);
            let tasks = take.list(|take| {
                let id = TaskId(take.u64()?);
                Ok((id, take.option(|take| state_of(take.u8()?))?))
            })?;
            Meta::Queue(MetaChange::Idempotency(
                text(name)?,
                Some(Remembered {
                    fingerprint,
                    tasks,
                    at,
                }),
            ))
        }
        GROUP => {
            let mut counts = [0; 5];
            for count in &mut counts {
                *count = take.u64()?;
            }
            Meta::Queue(MetaChange::Group(text(name)?, Some(counts)))
        }
        LAST_ID => Meta::Queue(MetaChange::LastId(TaskId(take.u64()?))),
        LIFE => Meta::Life(Life {
            epoch: take.u32()?,
            clean: take.bool()?,
        }),
        _ => return Err(Damage("what the row is about is unknown")),
    };
    take.end()?;
    Ok(meta)
}
