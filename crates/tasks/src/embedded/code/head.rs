//! What decides about a task's life.

use super::wire::{Column, Damage, Put, Take};
use flyball_core::time::{WallTime, nanos_of};
use flyball_policy::queue::{
    Cron, Dependency, GroupEnd, Head, Missed, Needs, OnParentFailure, Overlap, RetryPolicy, TaskId,
    Unique, UniqueConflict, Via, When,
};
use std::time::Duration;

// Which optional fields follow, a bit each.
const DEADLINE: u64 = 1;
const NOT_BEFORE: u64 = 1 << 1;
const CRON: u64 = 1 << 2;
const TIMEOUT: u64 = 1 << 3;
const AFTER: u64 = 1 << 4;
const FAIL_WITH_PARENT: u64 = 1 << 5;
const CPU: u64 = 1 << 6;
const MEMORY: u64 = 1 << 7;
const RESOURCES: u64 = 1 << 8;
const AFFINITY: u64 = 1 << 9;
const KEY: u64 = 1 << 10;
const UNIQUE: u64 = 1 << 11;
const GROUP: u64 = 1 << 12;
const PRIORITY: u64 = 1 << 13;
const AFTER_GROUP: u64 = 1 << 14;
const KNOWN: u64 = (1 << 15) - 1;

/// Writes a head.
pub(crate) fn write(put: &mut Put<'_>, head: &Head) {
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    put.u64(
        flag(head.deadline.is_some(), DEADLINE)
            | flag(head.not_before.is_some(), NOT_BEFORE)
            | flag(head.cron.is_some(), CRON)
            | flag(head.timeout.is_some(), TIMEOUT)
            | flag(!head.after.is_empty(), AFTER)
            | flag(
                head.on_parent_failure == OnParentFailure::Fail,
                FAIL_WITH_PARENT,
            )
            | flag(head.needs.cpu_millis != 0, CPU)
            | flag(head.needs.memory_bytes != 0, MEMORY)
            | flag(!head.needs.resources.is_empty(), RESOURCES)
            | flag(head.affinity_key.is_some(), AFFINITY)
            | flag(head.key.is_some(), KEY)
            | flag(head.unique.is_some(), UNIQUE)
            | flag(head.group.is_some(), GROUP)
            | flag(head.priority != 0, PRIORITY)
            | flag(head.after_group.is_some(), AFTER_GROUP),
    );
    put.str(&head.kind);
    put.u8(match head.via {
        Via::Command => 0,
        Via::Http => 1,
        Via::Handler => 2,
    });
    put.str(&head.class);
    put.u32(head.retry.max_attempts);
    duration(put, head.retry.base);
    duration(put, head.retry.cap);
    if head.priority != 0 {
        put.i32(head.priority);
    }
    if let Some(deadline) = head.deadline {
        put.fixed(deadline.unix_nanos());
    }
    if let Some(not_before) = head.not_before {
        put.fixed(not_before.unix_nanos());
    }
    if let Some(cron) = &head.cron {
        put.str(&cron.expression);
        put.str(&cron.time_zone);
        put.u8(match cron.overlap {
            Overlap::Skip => 0,
            Overlap::Queue => 1,
            Overlap::Replace => 2,
        });
        put.u8(match cron.missed {
            Missed::Skip => 0,
            Missed::Once => 1,
            Missed::All => 2,
        });
        duration(put, cron.grace);
    }
    if let Some(timeout) = head.timeout {
        duration(put, timeout);
    }
    if !head.after.is_empty() {
        put.list(&head.after, |put, parent| {
            put.u64(parent.parent.0);
            put.u8(when_code(parent.when));
        });
    }
    if head.needs.cpu_millis != 0 {
        put.u32(head.needs.cpu_millis);
    }
    if head.needs.memory_bytes != 0 {
        put.u64(head.needs.memory_bytes);
    }
    if !head.needs.resources.is_empty() {
        put.list(&head.needs.resources, |put, (name, count)| {
            put.str(name);
            put.u32(*count);
        });
    }
    if let Some(key) = &head.affinity_key {
        put.str(key);
    }
    if let Some(key) = &head.key {
        put.str(key);
    }
    if let Some(unique) = &head.unique {
        put.str(&unique.key);
        put.u8(match unique.on_conflict {
            UniqueConflict::Keep => 0,
            UniqueConflict::Replace => 1,
            UniqueConflict::Extend => 2,
        });
    }
    if let Some(group) = &head.group {
        put.str(group);
    }
    if let Some(end) = &head.after_group {
        put.str(&end.group);
        put.u8(when_code(end.when));
    }
}

/// Reads a head.
pub(crate) fn decode(sealed: &[u8], id: TaskId) -> Result<Head, Damage> {
    let take = &mut Take::open(sealed, Column::Head, id)?;
    let flags = take.u64()?;
    if flags & !KNOWN != 0 {
        return Err(Damage(
            "the head has fields that this version does not know",
        ));
    }
    let has = |bit: u64| flags & bit != 0;
    let kind = take.text()?;
    let via = match take.u8()? {
        0 => Via::Command,
        1 => Via::Http,
        2 => Via::Handler,
        _ => return Err(Damage("who can run the task is unknown")),
    };
    let class = take.text()?;
    let retry = RetryPolicy {
        max_attempts: take.u32()?,
        base: take_duration(take)?,
        cap: take_duration(take)?,
    };
    let priority = if has(PRIORITY) { take.i32()? } else { 0 };
    let deadline = when(has(DEADLINE), || take.fixed())?.map(WallTime::from_unix_nanos);
    let not_before = when(has(NOT_BEFORE), || take.fixed())?.map(WallTime::from_unix_nanos);
    let cron = when(has(CRON), || take_cron(take))?.map(Box::new);
    let timeout = when(has(TIMEOUT), || take_duration(take))?;
    let after = when(has(AFTER), || take.list(take_parent))?.unwrap_or_default();
    let needs = Needs {
        cpu_millis: when(has(CPU), || take.u32())?.unwrap_or(0),
        memory_bytes: when(has(MEMORY), || take.u64())?.unwrap_or(0),
        resources: when(has(RESOURCES), || {
            take.list(|take| Ok((take.text()?, take.u32()?)))
        })?
        .unwrap_or_default(),
    };
    let affinity_key = when(has(AFFINITY), || take.text())?;
    let key = when(has(KEY), || take.text())?;
    let unique = when(has(UNIQUE), || take_unique(take))?.map(Box::new);
    let group = when(has(GROUP), || take.text())?;
    let after_group = when(has(AFTER_GROUP), || {
        Ok(Box::new(GroupEnd {
            group: take.text()?,
            when: take_when(take)?,
        }))
    })?;
    take.end()?;
    Ok(Head {
        kind,
        via,
        class,
        priority,
        deadline,
        not_before,
        cron,
        timeout,
        retry,
        after,
        on_parent_failure: if has(FAIL_WITH_PARENT) {
            OnParentFailure::Fail
        } else {
            OnParentFailure::Skip
        },
        needs,
        affinity_key,
        key,
        unique,
        group,
        after_group,
    })
}

fn when<T>(there: bool, take: impl FnOnce() -> Result<T, Damage>) -> Result<Option<T>, Damage> {
    if there { take().map(Some) } else { Ok(None) }
}

fn take_cron(take: &mut Take<'_>) -> Result<Cron, Damage> {
    Ok(Cron {
        expression: take.text()?,
        time_zone: take.text()?,
        overlap: match take.u8()? {
            0 => Overlap::Skip,
            1 => Overlap::Queue,
            2 => Overlap::Replace,
            _ => return Err(Damage("what happens at overlaps is unknown")),
        },
        missed: match take.u8()? {
            0 => Missed::Skip,
            1 => Missed::Once,
            2 => Missed::All,
            _ => return Err(Damage("what happens to missed ticks is unknown")),
        },
        grace: take_duration(take)?,
    })
}

fn take_parent(take: &mut Take<'_>) -> Result<Dependency, Damage> {
    Ok(Dependency {
        parent: TaskId(take.u64()?),
        when: take_when(take)?,
    })
}

const fn when_code(when: When) -> u8 {
    match when {
        When::Success => 0,
        When::Failure => 1,
        When::Any => 2,
    }
}

fn take_when(take: &mut Take<'_>) -> Result<When, Damage> {
    match take.u8()? {
        0 => Ok(When::Success),
        1 => Ok(When::Failure),
        2 => Ok(When::Any),
        _ => Err(Damage("what is asked of a parent is unknown")),
    }
}

fn take_unique(take: &mut Take<'_>) -> Result<Unique, Damage> {
    Ok(Unique {
        key: take.text()?,
        on_conflict: match take.u8()? {
            0 => UniqueConflict::Keep,
            1 => UniqueConflict::Replace,
            2 => UniqueConflict::Extend,
            _ => return Err(Damage("what happens at a unique key is unknown")),
        },
    })
}

/// Durations are kept in nanoseconds, at most 584 years.
pub(crate) fn duration(put: &mut Put<'_>, value: Duration) {
    put.u64(nanos_of(value));
}

/// Reads what [`duration`] wrote.
pub(crate) fn take_duration(take: &mut Take<'_>) -> Result<Duration, Damage> {
    take.u64().map(Duration::from_nanos)
}
