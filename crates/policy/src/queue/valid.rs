//! What can be told of a task without looking at others.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::time::Duration;

use super::command::{Calendar, Refused};
use super::task::{Head, InvalidTask, UniqueConflict};

/// The longest kind, and the longest name of a worker, in bytes.
pub(super) const KIND_MAX: usize = 128;
/// The longest key, and the longest name of a group or a resource, in bytes.
pub(super) const NAME_MAX: usize = 255;
/// The most parents, those of the same batch included.
pub(super) const PARENTS_MAX: usize = 1_000;
/// The most named resources.
const RESOURCES_MAX: usize = 64;
/// The longest timeout, wait or grace: a leap year.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The longest calendar expression or time zone, in bytes.
const CRON_MAX: usize = 256;

/// A fault of a task of a batch.
pub(super) fn fault(
    index: usize,
    field: impl Into<Box<str>>,
    fault: impl Into<Box<str>>,
) -> Refused {
    Refused::Invalid(InvalidTask {
        index,
        field: field.into(),
        fault: fault.into(),
    })
}

/// Whether a text can be a name.
pub(super) fn is_name(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control)
}

fn name(index: usize, field: &str, text: &str, most: usize) -> Result<(), Refused> {
    if is_name(text, most) {
        return Ok(());
    }
    Err(fault(
        index,
        field,
        format!(
            "must be 1 to {most} bytes without control characters, but is {} bytes{}",
            text.len(),
            if text.chars().any(char::is_control) {
                " with control characters"
            } else {
                ""
            }
        ),
    ))
}

/// Checks one head.
pub(super) fn head(index: usize, head: &Head, calendar: &dyn Calendar) -> Result<(), Refused> {
    name(index, "kind", &head.kind, KIND_MAX)?;
    name(
        index,
        "class",
        &head.class,
        flyball_core::class::MAX_NAME_LEN,
    )?;
    if let Some(key) = &head.key {
        name(index, "key", key, NAME_MAX)?;
    }
    if let Some(key) = &head.affinity_key {
        name(index, "affinity_key", key, NAME_MAX)?;
    }
    if let Some(group) = &head.group {
        name(index, "group", group, NAME_MAX)?;
    }
    if let Some(end) = &head.after_group {
        name(index, "after_group.group", &end.group, NAME_MAX)?;
        if head.group.as_ref() == Some(&end.group) {
            return Err(fault(
                index,
                "after_group.group",
                "must be another group than the task's own, which cannot close before the task has ended",
            ));
        }
    }
    if !(1..=1_000).contains(&head.retry.max_attempts) {
        return Err(fault(
            index,
            "retry.max_attempts",
            format!("must be 1 to 1,000, but is {}", head.retry.max_attempts),
        ));
    }
    for (field, value) in [
        ("retry.base", head.retry.base),
        ("retry.cap", head.retry.cap),
    ] {
        if value > LONGEST {
            return Err(fault(index, field, "must be at most 366 days"));
        }
    }
    if head
        .timeout
        .is_some_and(|timeout| timeout < Duration::from_millis(1) || timeout > LONGEST)
    {
        return Err(fault(index, "timeout", "must be 1 ms to 366 days"));
    }
    if let (Some(deadline), Some(not_before)) = (head.deadline, head.not_before)
        && deadline <= not_before
    {
        return Err(fault(index, "deadline", "must be later than not_before"));
    }
    if head.after.len() > PARENTS_MAX {
        return Err(fault(
            index,
            "after",
            format!(
                "must name at most {PARENTS_MAX} parents, but names {}",
                head.after.len()
            ),
        ));
    }
    needs(index, head)?;
    if let Some(unique) = &head.unique {
        name(index, "unique.key", &unique.key, NAME_MAX)?;
        if unique.on_conflict != UniqueConflict::Keep
            && !(head.after.is_empty() && head.after_group.is_none())
        {
            return Err(fault(
                index,
                "after",
                "must be empty for a task that may take the place of one that waits: that one's parents stay",
            ));
        }
    }
    let Some(cron) = &head.cron else {
        return Ok(());
    };
    let text = |field: &str, text: &str| name(index, field, text, CRON_MAX);
    text("cron.expression", &cron.expression)?;
    text("cron.time_zone", &cron.time_zone)?;
    if cron.grace > LONGEST {
        return Err(fault(index, "cron.grace", "must be at most 366 days"));
    }
    for (field, there) in [
        (
            "after",
            !head.after.is_empty() || head.after_group.is_some(),
        ),
        ("deadline", head.deadline.is_some()),
        ("unique", head.unique.is_some()),
        ("group", head.group.is_some()),
    ] {
        if there {
            return Err(fault(
                index,
                field,
                "must be left out with cron: an entry of the calendar is no task that ends",
            ));
        }
    }
    calendar
        .check(cron)
        .map_err(|why: String| fault(index, "cron", why))
}

fn needs(index: usize, head: &Head) -> Result<(), Refused> {
    let resources = &head.needs.resources;
    if resources.len() > RESOURCES_MAX {
        return Err(fault(
            index,
            "needs.resources",
            format!("must name at most {RESOURCES_MAX} resources"),
        ));
    }
    for (place, (resource, count)) in resources.iter().enumerate() {
        name(index, "needs.resources", resource, NAME_MAX)?;
        if *count == 0 {
            return Err(fault(
                index,
                format!("needs.resources.{resource}"),
                "must be at least 1",
            ));
        }
        if place > 0 && resources[place - 1].0 >= *resource {
            return Err(fault(
                index,
                format!("needs.resources.{resource}"),
                "must be named once, in the order of names",
            ));
        }
    }
    Ok(())
}
