//! What changes of a task.

use super::head::{duration, take_duration};
use super::wire::{Column, Damage, Put, Take};
use super::{state_code, state_of};
use flyball_core::time::WallTime;
use flyball_policy::queue::{Attempts, LeaseRecord, Reason, Record, TaskId, Token};

// Which optional fields follow, a bit each.
const REASON: u64 = 1;
const READY_AT: u64 = 1 << 1;
const BACKOFF: u64 = 1 << 2;
const STARTED: u64 = 1 << 3;
const ENDED: u64 = 1 << 4;
const LEASE: u64 = 1 << 5;
const CANCEL: u64 = 1 << 6;
const AGAIN: u64 = 1 << 7;
const RETRIED: u64 = 1 << 8;
const CRON_OF: u64 = 1 << 9;
const TICKED: u64 = 1 << 10;
const HOLDS_UNIQUE: u64 = 1 << 11;
const WAITS_FOR: u64 = 1 << 12;
const WAITS_FOR_GROUP: u64 = 1 << 13;
const KNOWN: u64 = (1 << 14) - 1;

/// Writes a record.
pub(crate) fn encode(into: &mut Vec<u8>, record: &Record, id: TaskId) {
    let mut put = Put::new(into);
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    put.u64(
        flag(record.reason.is_some(), REASON)
            | flag(record.ready_at.is_some(), READY_AT)
            | flag(record.backoff.is_some(), BACKOFF)
            | flag(record.started_at.is_some(), STARTED)
            | flag(record.ended_at.is_some(), ENDED)
            | flag(record.lease.is_some(), LEASE)
            | flag(record.cancel_requested, CANCEL)
            | flag(record.again, AGAIN)
            | flag(record.retried, RETRIED)
            | flag(record.cron_of.is_some(), CRON_OF)
            | flag(record.ticked.is_some(), TICKED)
            | flag(record.holds_unique, HOLDS_UNIQUE)
            | flag(!record.waits_for.is_empty(), WAITS_FOR)
            | flag(record.waits_for_group, WAITS_FOR_GROUP),
    );
    put.u8(state_code(record.state));
    put.fixed(record.created_at.unix_nanos());
    put.u32(record.attempts.started);
    put.u32(record.attempts.counted);
    if let Some(reason) = record.reason {
        put.u8(reason_code(reason));
    }
    if let Some(at) = record.ready_at {
        put.fixed(at.unix_nanos());
    }
    if let Some(wait) = record.backoff {
        duration(&mut put, wait);
    }
    if let Some(at) = record.started_at {
        put.fixed(at.unix_nanos());
    }
    if let Some(at) = record.ended_at {
        put.fixed(at.unix_nanos());
    }
    if let Some(lease) = &record.lease {
        put.u32(lease.token.epoch);
        put.u64(lease.token.number);
        put.str(&lease.worker);
        put.fixed(lease.expires_at.unix_nanos());
        duration(&mut put, lease.length);
    }
    if let Some(entry) = record.cron_of {
        put.u64(entry.0);
    }
    if let Some(at) = record.ticked {
        put.fixed(at.unix_nanos());
    }
    if !record.waits_for.is_empty() {
        put.u64(record.waits_for.len() as u64);
        for parent in &record.waits_for {
            put.u64(parent.0);
        }
    }
    put.seal(Column::Record, id);
}

/// Reads a record.
pub(crate) fn decode(sealed: &[u8], id: TaskId) -> Result<Record, Damage> {
    let take = &mut Take::open(sealed, Column::Record, id)?;
    let flags = take.u64()?;
    if flags & !KNOWN != 0 {
        return Err(Damage(
            "the record has fields that this version does not know",
        ));
    }
    let has = |bit: u64| flags & bit != 0;
    let state = state_of(take.u8()?)?;
    let created_at = instant(take)?;
    let attempts = Attempts {
        started: take.u32()?,
        counted: take.u32()?,
    };
    let record = Record {
        state,
        reason: when(has(REASON), take, |take| reason_of(take.u8()?))?,
        attempts,
        created_at,
        ready_at: when(has(READY_AT), take, instant)?,
        backoff: when(has(BACKOFF), take, take_duration)?,
        started_at: when(has(STARTED), take, instant)?,
        ended_at: when(has(ENDED), take, instant)?,
        lease: when(has(LEASE), take, take_lease)?,
        cancel_requested: has(CANCEL),
        again: has(AGAIN),
        retried: has(RETRIED),
        holds_unique: has(HOLDS_UNIQUE),
        cron_of: when(has(CRON_OF), take, |take| take.u64().map(TaskId))?,
        ticked: when(has(TICKED), take, instant)?,
        waits_for: when(has(WAITS_FOR), take, |take| {
            let count = take.u64()?;
            (0..count).map(|_| take.u64().map(TaskId)).collect()
        })?
        .unwrap_or_default(),
        waits_for_group: has(WAITS_FOR_GROUP),
    };
    take.end()?;
    Ok(record)
}

fn when<'a, T>(
    there: bool,
    take: &mut Take<'a>,
    read: impl FnOnce(&mut Take<'a>) -> Result<T, Damage>,
) -> Result<Option<T>, Damage> {
    if there {
        read(take).map(Some)
    } else {
        Ok(None)
    }
}

fn instant(take: &mut Take<'_>) -> Result<WallTime, Damage> {
    take.fixed().map(WallTime::from_unix_nanos)
}

fn take_lease(take: &mut Take<'_>) -> Result<LeaseRecord, Damage> {
    Ok(LeaseRecord {
        token: Token {
            epoch: take.u32()?,
            number: take.u64()?,
        },
        worker: take.text()?,
        expires_at: instant(take)?,
        length: take_duration(take)?,
    })
}

/// Numbers are never given again.
const REASONS: &[(Reason, u8)] = &[
    (Reason::Error, 0),
    (Reason::TimedOut, 1),
    (Reason::DeadlineMissed, 2),
    (Reason::Panicked, 3),
    (Reason::LeaseExpired, 4),
    (Reason::Crashed, 5),
    (Reason::Parent, 6),
    (Reason::Replaced, 7),
];

fn reason_code(reason: Reason) -> u8 {
    // A reason that the table lacks is a fault of this file, which a test looks for; it is told as the plainest one.
    REASONS
        .iter()
        .find(|(known, _)| *known == reason)
        .map_or(0, |(_, code)| *code)
}

fn reason_of(code: u8) -> Result<Reason, Damage> {
    REASONS
        .iter()
        .find(|(_, known)| *known == code)
        .map(|(reason, _)| *reason)
        .ok_or(Damage("the reason is unknown"))
}
