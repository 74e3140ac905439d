//! Whether a batch can be taken: what can only be told with the other tasks at hand.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::Queue;
use super::command::{Entering, Refused};
use super::task::{Head, UniqueConflict};
use super::valid::{PARENTS_MAX, fault};

/// When who was refused may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Requirements that differ, at once: who asks for tasks has each looked at.
const NEEDS_MAX: usize = 4_096;
/// Combinations of class, kind, way of running and requirement, at once: who asks for tasks has each of its class looked at.
const LANES_MAX: usize = 16_384;
/// Classes that differ, at once.
const CLASSES_MAX: usize = 1_024;

/// Where a task of a batch goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    /// It is a new one.
    New,
    /// It meets the waiting task in this slot, with the same unique key.
    Meets(u32),
    /// It meets this one of the batch.
    MeetsNew(usize),
}

impl Queue {
    pub(super) fn check_parents(
        &self,
        place: usize,
        task: &Entering<'_>,
        tasks: usize,
    ) -> Result<(), Refused> {
        let head = task.head;
        if head.after.is_empty() && task.parents.is_empty() {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        for (number, dependency) in head.after.iter().enumerate() {
            let id = dependency.parent;
            let Some(slot) = self.index.get(id) else {
                return Err(fault(
                    place,
                    format!("after[{number}]"),
                    format!("names task {id}, which is not there or was forgotten"),
                ));
            };
            if !seen.insert(id) {
                return Err(fault(
                    place,
                    format!("after[{number}]"),
                    format!("names task {id} a second time"),
                ));
            }
            if self.is_entry(slot) {
                return Err(fault(
                    place,
                    format!("after[{number}]"),
                    format!("names task {id}, an entry of the calendar, which does not end"),
                ));
            }
        }
        if head.after.len() + task.parents.len() > PARENTS_MAX {
            return Err(fault(
                place,
                "after",
                format!(
                    "must name at most {PARENTS_MAX} parents, but names {}",
                    head.after.len() + task.parents.len()
                ),
            ));
        }
        let mut seen = BTreeSet::new();
        for (parent, _) in task.parents {
            let says = if *parent >= tasks {
                "names a task that is not in the batch"
            } else if *parent == place {
                "names the task itself"
            } else if !seen.insert(*parent) {
                "names a task of the batch a second time"
            } else {
                continue;
            };
            return Err(fault(place, "after", says));
        }
        if !task.parents.is_empty()
            && let Some(unique) = &head.unique
            && unique.on_conflict != UniqueConflict::Keep
        {
            return Err(fault(
                place,
                "after",
                "must be empty for a task that may take the place of one that waits: that one's parents stay",
            ));
        }
        if head.cron.is_some() {
            return Err(fault(
                place,
                "after",
                "must be left out with cron: an entry of the calendar is no task that ends",
            ));
        }
        Ok(())
    }

    fn is_entry(&self, slot: u32) -> bool {
        self.tasks[slot]
            .extra
            .as_ref()
            .is_some_and(|extra| extra.cron.is_some())
    }

    /// Which tasks are new, and which meet one that waits for the same unique key.
    pub(super) fn where_to(&self, tasks: &[Entering<'_>]) -> Vec<Goes> {
        let mut goes = vec![Goes::New; tasks.len()];
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        for (place, task) in tasks.iter().enumerate() {
            let Some(unique) = &task.head.unique else {
                continue;
            };
            let waiting = self
                .uniques
                .find(&*unique.key)
                .and_then(|number| self.uniques[number].waiting);
            if let Some(slot) = waiting {
                goes[place] = Goes::Meets(slot);
            } else if let Some(before) = first.get(&*unique.key) {
                goes[place] = Goes::MeetsNew(*before);
            } else {
                first.insert(&unique.key, place);
            }
        }
        goes
    }

    pub(super) fn check_groups(
        &self,
        tasks: &[Entering<'_>],
        goes: &[Goes],
    ) -> Result<(), Refused> {
        for (place, task) in tasks.iter().enumerate() {
            if let Some(end) = &task.head.after_group {
                let here = tasks.iter().zip(goes).any(|(task, goes)| {
                    *goes == Goes::New && task.head.group.as_ref() == Some(&end.group)
                });
                if !here && self.groups.find(&*end.group).is_none() {
                    return Err(fault(
                        place,
                        "after_group.group",
                        format!("names group {:?}, which has no task", end.group),
                    ));
                }
            }
            let parents = !task.head.after.is_empty()
                || !task.parents.is_empty()
                || task.head.after_group.is_some();
            if parents
                && let Some(group) = &task.head.group
                && let Some(number) = self.groups.find(&**group)
                && !self.groups[number].waiters.is_empty()
            {
                return Err(fault(
                    place,
                    "group",
                    format!(
                        "names group {group:?}, for which a task waits: until it closes it takes only tasks without parents"
                    ),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_room<'a>(
        &self,
        tasks: &[Entering<'a>],
        goes: &[Goes],
        keyed: bool,
    ) -> Result<(), Refused> {
        let full = |what: String| {
            Err(Refused::Full {
                what,
                retry_after: RETRY_AFTER,
            })
        };
        let new = goes.iter().filter(|goes| **goes == Goes::New).count();
        let (live, most) = (self.live(), self.settings.max_tasks);
        if live + new > most {
            return full(format!(
                "{live} tasks have not ended, and at most {most} may be kept"
            ));
        }
        if keyed && self.requests.len() >= self.settings.max_idempotency {
            return full(format!(
                "{} idempotency keys are remembered, the most that may be",
                self.requests.len()
            ));
        }
        // New ones, and those that take the place of others: they may bring another class, kind or requirement along.
        let comes = |(place, task): (usize, &Entering<'a>)| {
            let head = task.head;
            let replaces = head
                .unique
                .as_ref()
                .is_some_and(|unique| unique.on_conflict != UniqueConflict::Keep);
            let there = match goes[place] {
                Goes::New => return Some((head, true)),
                _ if !replaces => return None,
                Goes::Meets(slot) => {
                    let class = self.lines.class_of(self.tasks[slot].line);
                    *self.lines.classes.key(class) == head.class
                }
                Goes::MeetsNew(before) => tasks[before].head.class == head.class,
            };
            Some((head, !there))
        };
        let coming: Vec<(&Head, bool)> = tasks.iter().enumerate().filter_map(comes).collect();
        let mut by_class: Vec<(&str, u64)> = Vec::with_capacity(1);
        for (head, more) in &coming {
            let count = u64::from(*more);
            match by_class.iter_mut().find(|(name, _)| **name == *head.class) {
                Some((_, known)) => *known += count,
                None => by_class.push((&head.class, count)),
            }
        }
        let named = |(head, _): &&(&Head, bool)| !head.needs.is_none();
        if self.lines.needs.len() + coming.iter().filter(named).count() > NEEDS_MAX {
            // Most of them are known: counted exactly only here.
            let others: BTreeSet<_> = coming
                .iter()
                .map(|(head, _)| &head.needs)
                .filter(|needs| self.lines.needs.find(*needs).is_none())
                .collect();
            if !others.is_empty() && self.lines.needs.len() + others.len() > NEEDS_MAX {
                return full(format!(
                    "tasks with {} different requirements are kept, and at most {NEEDS_MAX} may be",
                    self.lines.needs.len()
                ));
            }
        }
        if self.lines.lanes.len() + coming.len() > LANES_MAX {
            let others: BTreeSet<_> = coming
                .iter()
                .filter(|(head, _)| !self.lines.has_lane(head))
                .map(|(head, _)| (&head.class, &head.kind, head.via, &head.needs))
                .collect();
            if !others.is_empty() && self.lines.lanes.len() + others.len() > LANES_MAX {
                return full(format!(
                    "tasks of {} different kinds, classes and requirements are kept, and at most {LANES_MAX} may be",
                    self.lines.lanes.len()
                ));
            }
        }
        let mut classes = self.lines.classes.len();
        for (name, count) in by_class {
            let (waiting, limit) = match self.lines.classes.find(name) {
                Some(number) => {
                    let class = &self.lines.classes[number];
                    (class.waiting(), class.rule.queue_limit)
                }
                None => {
                    classes += 1;
                    (0, self.lines.normal.queue_limit)
                }
            };
            if count > 0 && waiting + count > limit as u64 {
                return full(format!(
                    "{waiting} tasks wait in class {name:?}, and at most {limit} may"
                ));
            }
        }
        if classes > CLASSES_MAX.max(self.lines.classes.len()) {
            return full(format!(
                "tasks of {} classes are kept, and at most {CLASSES_MAX} may be",
                self.lines.classes.len()
            ));
        }
        Ok(())
    }
}

/// Whether tasks of a batch wait for each other in a circle (A. B. Kahn, "Topological sorting of large networks", 1962). Others cannot: tasks
/// that are there do not wait for new ones, but for groups, and groups that are waited for take no tasks with parents.
pub(super) fn check_cycles(tasks: &[Entering<'_>], goes: &[Goes]) -> Result<(), Refused> {
    if !tasks
        .iter()
        .any(|task| !task.parents.is_empty() || task.head.after_group.is_some())
    {
        return Ok(());
    }
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    let mut nodes = tasks.len();
    for task in tasks {
        if let Some(end) = &task.head.after_group {
            groups.entry(&end.group).or_insert_with(|| {
                nodes += 1;
                nodes - 1
            });
        }
    }
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    let mut open = vec![0usize; nodes];
    let mut edge = |parent: usize, child: usize| {
        children[parent].push(child);
        open[child] += 1;
    };
    for (child, task) in tasks.iter().enumerate() {
        if goes[child] != Goes::New {
            continue;
        }
        for (parent, _) in task.parents {
            match goes[*parent] {
                Goes::New => edge(*parent, child),
                Goes::MeetsNew(parent) => edge(parent, child),
                Goes::Meets(_) => {}
            }
        }
        if let Some(end) = &task.head.after_group {
            edge(groups[&*end.group], child);
        }
        if let Some(group) = &task.head.group
            && let Some(group) = groups.get(&**group)
        {
            edge(child, *group);
        }
    }
    let mut free: Vec<usize> = (0..nodes).filter(|node| open[*node] == 0).collect();
    let mut seen = 0;
    while let Some(node) = free.pop() {
        seen += 1;
        for child in &children[node] {
            open[*child] -= 1;
            if open[*child] == 0 {
                free.push(*child);
            }
        }
    }
    if seen == nodes {
        return Ok(());
    }
    let place = (0..tasks.len())
        .find(|node| open[*node] > 0)
        .unwrap_or_default();
    Err(fault(
        place,
        "after",
        "must not lead back to the task: tasks of the batch wait for each other in a circle",
    ))
}
