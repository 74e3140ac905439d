//! Parents, children and groups.
//!
//! Who ended tells its children one after the other, at most [`STEPS_MAX`] a command; who is left is told by the next ones. Nothing is lost with a
//! crash in between: opening looks at the parents of each blocked task.

use super::effects::{Cause, Closed, Effects};
use super::entry::lets_go;
use super::task::{Now, Reason, State, TaskId, When};
use super::{Queue, STEPS_MAX, Told};

/// Children a parent may have before those that no longer wait are looked for.
const PRUNE_MIN: usize = 64;

impl Queue {
    /// Has a task wait for its parents that live, and for its group: a new one for all of them, a restored one for those it is marked as waiting
    /// for. Answers whether one of them has ended otherwise than asked.
    pub(super) fn connect(&mut self, slot: u32, new: bool) -> bool {
        let entry = &self.tasks[slot];
        let id = entry.id;
        let Some(extra) = &entry.extra else {
            return false;
        };
        if extra.after.is_empty() && extra.after_group.is_none() {
            return false;
        }
        let ended_wrong =
            extra
                .after
                .iter()
                .filter(|link| link.waits || new)
                .any(|link| match self.state(link.dependency.parent) {
                    Some(state) => state.is_terminal() && !lets_go(state, link.dependency.when),
                    // Who has ended is forgotten only once its children were told: its row is damaged, and how it ends will not be known.
                    None => link.dependency.when != When::Any,
                });
        let group = extra.after_group.filter(|_| extra.waits_group || new);
        let closed_wrong = group.is_some_and(|(number, when)| {
            let group = &self.groups[number];
            group.live == 0 && !group.closed_as(when)
        });
        if ended_wrong || closed_wrong {
            return true;
        }
        self.wait_for_parents(slot, new);
        let mut waits = false;
        if let Some((number, _)) = group
            && self.groups[number].live > 0
        {
            self.groups[number].waiters.insert(id);
            waits = true;
        }
        self.extra(slot).waits_group = waits;
        false
    }

    /// How many parents a task waits for, and whether it does for its group.
    pub(super) fn waits_of(&self, slot: u32) -> (usize, bool) {
        self.tasks[slot].extra.as_ref().map_or((0, false), |extra| {
            let waits = extra.after.iter().filter(|link| link.waits);
            (waits.count(), extra.waits_group)
        })
    }

    /// Has a task wait for those of its parents that have not ended: of all, or of those for which it is marked as waiting.
    pub(super) fn wait_for_parents(&mut self, slot: u32, all: bool) {
        let id = self.tasks[slot].id;
        let mut place = 0;
        while let Some(link) = self.tasks[slot]
            .extra
            .as_ref()
            .and_then(|extra| extra.after.get(place))
            .copied()
        {
            let waits = (all || link.waits) && self.add_child(link.dependency.parent, id);
            let extra = self.extra(slot);
            extra.after[place].waits = waits;
            extra.open += u32::from(waits);
            place += 1;
        }
    }

    /// Has a parent know of a child, if it has not ended.
    fn add_child(&mut self, parent: TaskId, child: TaskId) -> bool {
        let Some(slot) = self.index.get(parent) else {
            return false;
        };
        if self.tasks[slot].state.is_terminal() {
            return false;
        }
        let extra = self.extra(slot);
        extra.children.insert(child);
        if extra.children.len() > extra.prune_at.max(PRUNE_MIN) {
            let mut children = core::mem::take(&mut extra.children);
            // The newest is about to wait.
            children.retain(|one| *one == child || self.waits_for(*one, parent));
            let extra = self.extra(slot);
            extra.prune_at = children.len() * 2;
            extra.children = children;
        }
        true
    }

    fn waits_for(&self, child: TaskId, parent: TaskId) -> bool {
        self.index
            .get(child)
            .map(|slot| &self.tasks[slot])
            .filter(|entry| entry.state == State::Blocked)
            .and_then(|entry| entry.extra.as_ref())
            .is_some_and(|extra| {
                extra
                    .after
                    .iter()
                    .any(|link| link.waits && link.dependency.parent == parent)
            })
    }

    /// Tells children and those who wait for groups, at most [`STEPS_MAX`].
    pub(super) fn tell(&mut self, now: Now, effects: &mut Effects) {
        for _ in 0..STEPS_MAX {
            match self.backlog.front() {
                None => return,
                Some(Told::Children(id)) => {
                    let id = *id;
                    let next = self.index.get(id).and_then(|slot| {
                        let entry = &mut self.tasks[slot];
                        let state = entry.state;
                        if !state.is_terminal() {
                            return None;
                        }
                        let child = entry.extra.as_mut()?.children.pop_first()?;
                        Some((child, state))
                    });
                    match next {
                        Some((child, state)) => self.told(child, id, state, now, effects),
                        None => {
                            self.backlog.pop_front();
                        }
                    }
                }
                Some(Told::Group(number)) => {
                    let number = *number;
                    let group = &mut self.groups[number];
                    if group.live > 0 {
                        self.backlog.pop_front();
                    } else if let Some(waiter) = group.waiters.pop_first() {
                        self.group_closed(waiter, number, now, effects);
                    } else {
                        let ended = group.ended;
                        effects.closed.push(Closed {
                            group: self.groups.key(number).clone(),
                            ended,
                        });
                        self.backlog.pop_front();
                    }
                }
            }
        }
    }

    /// Tells a child that a parent has ended.
    fn told(
        &mut self,
        child: TaskId,
        parent: TaskId,
        state: State,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.index.get(child) else {
            return;
        };
        let entry = &mut self.tasks[slot];
        if entry.state != State::Blocked {
            return;
        }
        let Some(extra) = &mut entry.extra else {
            return;
        };
        let Some(link) = extra
            .after
            .iter_mut()
            .find(|link| link.dependency.parent == parent && link.waits)
        else {
            return;
        };
        link.waits = false;
        extra.open -= 1;
        if lets_go(state, link.dependency.when) {
            self.unblock(slot, now, effects);
        } else {
            self.doom(slot, now, effects);
        }
    }

    fn group_closed(&mut self, waiter: TaskId, group: u32, now: Now, effects: &mut Effects) {
        let Some(slot) = self.index.get(waiter) else {
            return;
        };
        let Some(extra) = &mut self.tasks[slot].extra else {
            return;
        };
        let Some((_, when)) = extra.after_group else {
            return;
        };
        if !core::mem::take(&mut extra.waits_group) {
            return;
        }
        if self.groups[group].closed_as(when) {
            self.unblock(slot, now, effects);
        } else {
            self.doom(slot, now, effects);
        }
    }

    /// Lets a task go if it waits for nobody any more.
    pub(super) fn unblock(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        let waits = self.tasks[slot]
            .extra
            .as_ref()
            .is_some_and(|extra| extra.open > 0 || extra.waits_group);
        if waits {
            // What it waits for is written.
            effects.changed.push(self.tasks[slot].id);
        } else {
            self.place(slot, now, false, Cause::Ready, effects);
        }
    }

    /// Ends a task of which a parent has ended otherwise than asked.
    pub(super) fn doom(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        self.detach(slot);
        let skip = self.specs.key(self.tasks[slot].spec).skip;
        let state = if skip { State::Skipped } else { State::Failed };
        self.end(
            slot,
            state,
            Some(Reason::Parent),
            Cause::Ended(Reason::Parent),
            now,
            effects,
        );
    }
}
