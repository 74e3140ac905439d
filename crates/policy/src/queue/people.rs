//! What people do: cancel, retry, pause, and say what classes mean.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;

use super::command::{ClassRule, Refused, Reply, Scope};
use super::effects::{Cause, Effects, MetaChange, Pause};
use super::entry::{CANCEL, RETRIED, ended_index};
use super::task::{Attempts, Now, State, TaskId};
use super::{BATCH_MAX, Queue, valid};

/// Scopes that are paused at once.
const PAUSES_MAX: usize = 1_000;

pub(super) fn check_count<T>(ids: &[T]) -> Result<(), Refused> {
    if ids.len() <= BATCH_MAX {
        return Ok(());
    }
    Err(Refused::Request {
        field: "ids",
        expected: "at most 1,000 tasks",
    })
}

impl Queue {
    pub(super) fn cancel(
        &mut self,
        now: Now,
        ids: &[TaskId],
        strict: bool,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        check_count(ids)?;
        if strict {
            for &id in ids {
                let state = self.state(id).ok_or(Refused::UnknownTask { id })?;
                if state.is_terminal() {
                    return Err(Refused::WrongState {
                        id,
                        state,
                        expected: "only a task that has not ended can be cancelled",
                    });
                }
            }
        }
        let mut changed = Vec::new();
        for &id in ids {
            let Some(slot) = self.index.get(id) else {
                continue;
            };
            let entry = &mut self.tasks[slot];
            if entry.state.is_terminal() || entry.has(CANCEL) {
                continue;
            }
            entry.reason = None;
            self.cancel_one(slot, now, effects);
            changed.push(id);
        }
        Ok(Reply::Changed(changed))
    }

    /// Cancels a task that has not ended: at once, or when who runs it next asks.
    pub(super) fn cancel_one(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        let entry = &mut self.tasks[slot];
        if entry.leased() {
            entry.set(CANCEL, true);
            effects.changed.push(entry.id);
            self.note(slot, Cause::CancelRequested, effects);
        } else {
            self.detach(slot);
            self.stop(slot, now, effects);
        }
    }

    pub(super) fn retry(
        &mut self,
        now: Now,
        ids: &[TaskId],
        strict: bool,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        check_count(ids)?;
        let mut slots = Vec::new();
        let mut seen = BTreeSet::new();
        let mut uniques = BTreeSet::new();
        for &id in ids {
            if !seen.insert(id) {
                continue;
            }
            let fault = match self.index.get(id) {
                None => Refused::UnknownTask { id },
                Some(slot) => {
                    let entry = &self.tasks[slot];
                    let unique = entry.extra.as_ref().and_then(|extra| extra.unique);
                    let mut taken = || {
                        unique.is_some_and(|(unique, _)| {
                            self.uniques[unique].waiting.is_some() || !uniques.insert(unique)
                        })
                    };
                    let wrong = |expected| Refused::WrongState {
                        id,
                        state: entry.state,
                        expected,
                    };
                    match entry.state {
                        State::Failed | State::Cancelled | State::Skipped | State::Dead => {
                            if !taken() {
                                slots.push(slot);
                                continue;
                            }
                            wrong("another task waits for its unique key")
                        }
                        _ => wrong("only a failed, cancelled, skipped or dead task can be retried"),
                    }
                }
            };
            if strict {
                return Err(fault);
            }
        }
        let (live, most) = (self.live(), self.settings.max_tasks);
        if live + slots.len() > most {
            return Err(Refused::Full {
                what: format!("{live} tasks have not ended, and at most {most} may be kept"),
                retry_after: core::time::Duration::from_secs(1),
            });
        }
        self.parents_first(&mut slots);
        let mut changed = Vec::with_capacity(slots.len());
        for slot in slots {
            self.revive(slot, now, effects);
            changed.push(self.tasks[slot].id);
        }
        Ok(Reply::Changed(changed))
    }

    /// Orders tasks by their names, but parents first, so that children that are retried with them wait for them: a batch may have named
    /// a child before its parent.
    fn parents_first(&self, slots: &mut Vec<u32>) {
        let mut left: BTreeMap<TaskId, u32> = slots
            .iter()
            .map(|slot| (self.tasks[*slot].id, *slot))
            .collect();
        slots.clear();
        while let Some((_, first)) = left.pop_first() {
            // Who is on the way, and which of its parents is looked at next.
            let mut path = alloc::vec![(first, 0)];
            while let Some((slot, place)) = path.last_mut() {
                let after = self.tasks[*slot].extra.as_ref().map(|extra| &extra.after);
                let parent = after.and_then(|after| after.get(*place));
                *place += 1;
                match parent {
                    Some(parent) => {
                        if let Some(parent) = left.remove(&parent.dependency.parent) {
                            path.push((parent, 0));
                        }
                    }
                    None => {
                        slots.push(*slot);
                        path.pop();
                    }
                }
            }
        }
    }

    fn revive(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        self.unlink_ended(slot);
        let ended = ended_index(self.tasks[slot].state);
        let entry = &mut self.tasks[slot];
        let id = entry.id;
        entry.set(RETRIED, true);
        entry.set(CANCEL, false);
        entry.attempts = Attempts {
            counted: 0,
            ..entry.attempts
        };
        entry.reason = None;
        entry.moment = 0;
        let (mut group, mut unique, mut cron_of, mut parents) = (None, None, None, false);
        if let Some(extra) = &mut entry.extra {
            (group, unique, cron_of) = (extra.group, extra.unique, extra.cron_of);
            parents = !extra.after.is_empty();
            extra.open = 0;
            if let Some(cron) = &mut extra.cron {
                // Nobody wanted the ticks meanwhile.
                cron.ticked = cron.ticked.max(now.wall);
            }
        }
        self.mark_again(slot, false);
        if let Some(group) = group {
            let group = &mut self.groups[group];
            group.live += 1;
            group.ended[ended] -= 1;
        }
        if let Some((unique, _)) = unique {
            self.uniques[unique].waiting = Some(slot);
        }
        if let Some(cron) = cron_of
            .and_then(|of| self.index.get(of))
            .and_then(|of| self.entries(of))
        {
            cron.runs.insert(id);
        }
        if parents {
            self.wait_for_parents(slot, true);
        }
        self.place(slot, now, false, Cause::Retried, effects);
    }

    pub(super) fn pause(
        &mut self,
        now: Now,
        scope: &Scope,
        by: &str,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        check_scope(scope)?;
        if by.len() > valid::KIND_MAX || by.chars().any(char::is_control) {
            return Err(Refused::Request {
                field: "by",
                expected: "at most 128 bytes without control characters",
            });
        }
        if self.pauses.contains_key(scope) {
            return Ok(Reply::Done(false));
        }
        if self.pauses.len() >= PAUSES_MAX {
            return Err(Refused::Request {
                field: "scope",
                expected: "one of at most 1,000 that are paused at once",
            });
        }
        let pause = Pause {
            by: by.into(),
            since: now.wall,
        };
        effects
            .meta
            .push(MetaChange::Pause(scope.clone(), Some(pause.clone())));
        self.pauses.insert(scope.clone(), pause);
        self.mark_paused(scope, true);
        Ok(Reply::Done(true))
    }

    pub(super) fn resume(
        &mut self,
        scope: &Scope,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        check_scope(scope)?;
        if self.pauses.remove(scope).is_none() {
            return Ok(Reply::Done(false));
        }
        effects.meta.push(MetaChange::Pause(scope.clone(), None));
        effects.ready = true;
        self.mark_paused(scope, false);
        Ok(Reply::Done(true))
    }

    pub(super) fn mark_paused(&mut self, scope: &Scope, paused: bool) {
        match scope {
            Scope::All => {}
            Scope::Class(name) => {
                if let Some(number) = self.lines.classes.find(&**name) {
                    self.lines.classes[number].paused = paused;
                }
            }
            Scope::Kind(name) => {
                if let Some(number) = self.lines.kinds.find(&**name) {
                    self.lines.kinds[number].paused = paused;
                }
            }
        }
    }

    /// Sets what classes mean; of two rules for one class the first counts. Tasks of a class that is not named are taken as of the rule of `normal`.
    /// Who waits for a lease should ask again.
    pub fn set_classes(&mut self, rules: &[ClassRule]) {
        if let Some(normal) = rules.iter().find(|rule| &*rule.name == "normal") {
            self.lines.normal = normal.clone();
        }
        let had: Vec<u32> = self
            .lines
            .classes
            .iter()
            .filter(|(_, _, class)| class.own_rule)
            .map(|(number, _, _)| number)
            .collect();
        for (place, rule) in rules.iter().enumerate() {
            if rules[..place].iter().any(|other| other.name == rule.name) {
                continue;
            }
            let paused = self.pauses.contains_key(&Scope::Class(rule.name.clone()));
            let number = self.lines.hold_class(&rule.name, paused);
            let class = &mut self.lines.classes[number];
            class.rule = rule.clone();
            class.own_rule = true;
        }
        // Classes that have no rule of their own any more, and those that never had one.
        let all: Vec<(u32, Box<str>)> = self
            .lines
            .classes
            .iter()
            .map(|(number, name, _)| (number, name.clone()))
            .collect();
        for (number, name) in all {
            if !rules.iter().any(|rule| rule.name == name) {
                let rule = ClassRule {
                    name,
                    ..self.lines.normal.clone()
                };
                let class = &mut self.lines.classes[number];
                class.rule = rule;
                class.own_rule = false;
            }
        }
        for number in had {
            self.lines.classes.drop(number);
        }
        let keys: Vec<u32> = self.lines.keys.iter().map(|(key, _, _)| key).collect();
        for key in keys {
            self.lines.unpark(key);
        }
    }
}

fn check_scope(scope: &Scope) -> Result<(), Refused> {
    let good = match scope {
        Scope::All => true,
        Scope::Class(name) => valid::is_name(name, flyball_core::class::MAX_NAME_LEN),
        Scope::Kind(name) => valid::is_name(name, valid::KIND_MAX),
    };
    if good {
        return Ok(());
    }
    Err(Refused::Request {
        field: "scope",
        expected: "a class of 1 to 64 bytes or a kind of 1 to 128, without control characters",
    })
}
