//! Taking tasks: all checks first, then nothing can fail.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::WallTime;

use super::admit::{Goes, check_cycles};
use super::command::{Entering, Refused, Reply, RequestKey, Taken};
use super::effects::{Body, Effects, Event, MetaChange, Placed, Remembered};
use super::entry::{
    Entries, Entry, Extra, Group, KEYED, LINED, NONE, Parent, RETRIED, Spec, UniqueKey,
};
use super::task::{Attempts, Dependency, Head, Now, State, TaskId, UniqueConflict};
use super::valid::{self, fault};
use super::{BATCH_MAX, Cause, Queue, Request};

impl Queue {
    pub(super) fn enqueue(
        &mut self,
        now: Now,
        tasks: &[Entering<'_>],
        idempotency: Option<RequestKey<'_>>,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        if tasks.is_empty() || tasks.len() > BATCH_MAX {
            return Err(Refused::Request {
                field: "tasks",
                expected: "1 to 1,000 tasks",
            });
        }
        if let Some(request) = &idempotency
            && let Some(reply) = self.repeated(request)?
        {
            return Ok(reply);
        }
        for (place, task) in tasks.iter().enumerate() {
            valid::head(place, task.head, &*self.calendar)?;
            self.check_parents(place, task, tasks.len())?;
            if let Some(cron) = &task.head.cron {
                let from = first_from(task.head, now);
                if self.calendar.next(cron, from).is_none() {
                    return Err(fault(place, "cron", "must have a tick in the future"));
                }
            }
        }
        let goes = self.where_to(tasks);
        self.check_groups(tasks, &goes)?;
        check_cycles(tasks, &goes)?;
        self.check_room(tasks, &goes, idempotency.is_some())?;
        Ok(self.take(now, tasks, &goes, idempotency, effects))
    }

    /// The answer to a request that was made before.
    fn repeated(&self, request: &RequestKey<'_>) -> Result<Option<Reply>, Refused> {
        if !valid::is_name(request.key, valid::NAME_MAX) {
            return Err(Refused::Request {
                field: "the idempotency key",
                expected: "1 to 255 bytes without control characters",
            });
        }
        let Some(number) = self.requests.find(request.key) else {
            return Ok(None);
        };
        let known = &self.requests[number].remembered;
        if known.fingerprint != request.fingerprint {
            return Err(Refused::KeyReused);
        }
        let tasks = known.tasks.iter().map(|&(id, ended)| Taken {
            id,
            // It has no row any more that can be read.
            state: self.state(id).or(ended).unwrap_or(State::Dead),
            created_at: known.at,
            existing: true,
        });
        Ok(Some(Reply::Accepted(tasks.collect())))
    }

    /// Takes tasks that have been checked.
    fn take(
        &mut self,
        now: Now,
        tasks: &[Entering<'_>],
        goes: &[Goes],
        idempotency: Option<RequestKey<'_>>,
        effects: &mut Effects,
    ) -> Reply {
        let mut slots = Vec::with_capacity(tasks.len());
        let added = effects.added.len();
        for (place, (task, goes)) in tasks.iter().zip(goes).enumerate() {
            let head = task.head;
            let (slot, new) = match *goes {
                Goes::New => {
                    let slot = self.create(now, head);
                    effects.added.push(Placed {
                        id: self.tasks[slot].id,
                        body: Body::Batch(place),
                    });
                    slots.push(slot);
                    continue;
                }
                Goes::Meets(slot) => (slot, false),
                Goes::MeetsNew(before) => (slots[before], true),
            };
            slots.push(slot);
            let conflict = head.unique.as_ref().map(|unique| unique.on_conflict);
            let extend = match conflict {
                Some(UniqueConflict::Replace) => false,
                Some(UniqueConflict::Extend) => true,
                _ => continue,
            };
            let id = self.tasks[slot].id;
            let body = Body::Batch(place);
            if new {
                self.reshape(slot, head, extend);
                for placed in &mut effects.added[added..] {
                    if placed.id == id {
                        placed.body = body;
                    }
                }
            } else {
                self.replace(slot, head, extend, now, effects);
                effects.swapped.retain(|placed| placed.id != id);
                effects.swapped.push(Placed { id, body });
            }
        }
        for (place, task) in tasks.iter().enumerate() {
            if goes[place] == Goes::New {
                let parents = task.parents.iter().map(|&(parent, when)| Dependency {
                    parent: self.tasks[slots[parent]].id,
                    when,
                });
                let parents: Vec<_> = parents.collect();
                self.bring_in(slots[place], &parents, now, effects);
            }
        }
        let reply: Vec<Taken> = slots
            .iter()
            .zip(goes)
            .map(|(slot, goes)| {
                let entry = &self.tasks[*slot];
                Taken {
                    id: entry.id,
                    state: entry.state,
                    created_at: entry.created,
                    existing: *goes != Goes::New,
                }
            })
            .collect();
        if let Some(request) = idempotency {
            let remembered = Remembered {
                fingerprint: request.fingerprint,
                tasks: reply.iter().map(|taken| (taken.id, None)).collect(),
                at: now.wall,
            };
            self.remember(request.key.into(), remembered.clone());
            effects.meta.push(MetaChange::Idempotency(
                request.key.into(),
                Some(remembered),
            ));
        }
        Reply::Accepted(reply)
    }

    /// Has a created task begin its life.
    fn bring_in(&mut self, slot: u32, parents: &[Dependency], now: Now, effects: &mut Effects) {
        if !parents.is_empty() {
            let after = &mut self.extra(slot).after;
            // The same task may be there by its name and by its place, and by more than one place.
            let mut known: BTreeSet<TaskId> =
                after.iter().map(|link| link.dependency.parent).collect();
            for dependency in parents {
                if known.insert(dependency.parent) {
                    after.push(Parent {
                        dependency: *dependency,
                        waits: false,
                    });
                }
            }
        }
        self.figures.accepted += 1;
        let doomed = self.connect(slot, true);
        if doomed {
            self.doom(slot, now, effects);
        } else {
            self.place(slot, now, false, Cause::Enqueued, effects);
        }
        as_new(effects);
    }

    /// Makes a task of an entry of the calendar, to run after others.
    pub(super) fn spawn(
        &mut self,
        of: u32,
        after: Vec<TaskId>,
        tick: WallTime,
        now: Now,
        effects: &mut Effects,
    ) -> TaskId {
        let entry = &self.tasks[of];
        let (from, line, spec) = (entry.id, entry.line, entry.spec);
        let affinity = entry
            .extra
            .as_ref()
            .and_then(|extra| extra.affinity.clone());
        self.lines.again(line);
        self.specs.again(spec);
        let extra = Extra {
            affinity,
            cron_of: Some(from),
            after: after
                .into_iter()
                .map(|parent| Parent {
                    dependency: Dependency {
                        parent,
                        when: super::task::When::Any,
                    },
                    waits: false,
                })
                .collect(),
            ..Extra::default()
        };
        let slot = self.insert(now, line, spec, Some(Box::new(extra)));
        let id = self.tasks[slot].id;
        effects.added.push(Placed {
            id,
            body: Body::Copy(from),
        });
        self.figures.accepted += 1;
        self.connect(slot, true);
        self.place(slot, now, false, Cause::CronTick(tick), effects);
        as_new(effects);
        id
    }

    /// Puts a new task into the tables.
    fn insert(&mut self, now: Now, line: u32, spec: u32, extra: Option<Box<Extra>>) -> u32 {
        self.last_id += 1;
        let id = TaskId(self.last_id);
        self.extras += usize::from(extra.is_some());
        let slot = self.tasks.insert(Entry {
            id,
            created: now.wall,
            moment: 0,
            started: 0,
            extra,
            line,
            prev: NONE,
            next: NONE,
            spec,
            run: NONE,
            attempts: Attempts::default(),
            state: State::Pending,
            reason: None,
            flags: 0,
        });
        self.index.insert(id, slot);
        self.count(slot, State::Pending, true);
        slot
    }

    fn create(&mut self, now: Now, head: &Head) -> u32 {
        let line = self.lines.hold_line(&self.pauses, head, false);
        let spec = self.hold_spec(head);
        let extra = self.extra_of(head, first_from(head, now));
        let slot = self.insert(now, line, spec, extra);
        self.enter(slot);
        slot
    }

    pub(super) fn hold_spec(&mut self, head: &Head) -> u32 {
        let spec = Spec::new(head.timeout, head.retry, head.on_parent_failure);
        self.specs.hold(&spec, || (spec, ()))
    }

    /// What most tasks do not have.
    pub(super) fn extra_of(&mut self, head: &Head, ticked: WallTime) -> Option<Box<Extra>> {
        let plain = head.deadline.is_none()
            && head.not_before.is_none()
            && head.after.is_empty()
            && head.group.is_none()
            && head.after_group.is_none()
            && head.unique.is_none()
            && head.affinity_key.is_none()
            && head.cron.is_none();
        if plain {
            return None;
        }
        let mut extra = Extra {
            deadline: head.deadline,
            not_before: head.not_before,
            affinity: head.affinity_key.clone(),
            ..Extra::default()
        };
        extra
            .after
            .extend(head.after.iter().map(|dependency| Parent {
                dependency: *dependency,
                waits: false,
            }));
        let groups = &mut self.groups;
        let mut hold = |name: &str| groups.hold(name, || (name.into(), Group::default()));
        extra.group = head.group.as_ref().map(|name| hold(name));
        extra.after_group = head
            .after_group
            .as_ref()
            .map(|end| (hold(&end.group), end.when));
        extra.unique = head.unique.as_ref().map(|unique| {
            let number = self
                .uniques
                .hold(&*unique.key, || (unique.key.clone(), UniqueKey::default()));
            (number, unique.on_conflict)
        });
        extra.cron = head.cron.as_ref().map(|cron| {
            Box::new(Entries {
                cron: (**cron).clone(),
                ticked,
                runs: BTreeSet::new(),
            })
        });
        Some(Box::new(extra))
    }

    /// Counts a new task in its group, and for its unique key.
    fn enter(&mut self, slot: u32) {
        let Some(extra) = &self.tasks[slot].extra else {
            return;
        };
        if let Some(group) = extra.group {
            self.groups[group].live += 1;
        }
        if let Some((unique, _)) = extra.unique {
            self.uniques[unique].waiting = Some(slot);
        }
    }

    /// Gives a waiting task the settings of a newer one; parents, group and, but for extending, not-before stay.
    fn reshape(&mut self, slot: u32, head: &Head, extend: bool) {
        let line = self.lines.hold_line(&self.pauses, head, false);
        let otherwise = self.specs.key(self.tasks[slot].spec).skip;
        let spec = Spec {
            skip: otherwise,
            ..Spec::new(head.timeout, head.retry, head.on_parent_failure)
        };
        let spec = self.specs.hold(&spec, || (spec, ()));
        let state = self.tasks[slot].state;
        self.count(slot, state, false);
        let entry = &mut self.tasks[slot];
        let (old_line, old_spec) = (entry.line, entry.spec);
        (entry.line, entry.spec) = (line, spec);
        // The newer one's deadline holds, though people had the older one retried.
        entry.set(RETRIED, false);
        let extra = entry.extra_mut();
        extra.deadline = head.deadline;
        if extend {
            extra.not_before = head.not_before;
        }
        extra.affinity.clone_from(&head.affinity_key);
        if let (Some((_, known)), Some(unique)) = (&mut extra.unique, &head.unique) {
            *known = unique.on_conflict;
        }
        self.lines.drop_line(old_line);
        self.specs.drop(old_spec);
        self.count(slot, state, true);
    }

    /// As [`reshape`](Self::reshape), of a task that is waiting somewhere. It keeps its place in the line, if it stays in it.
    fn replace(&mut self, slot: u32, head: &Head, extend: bool, now: Now, effects: &mut Effects) {
        let line = self.lines.hold_line(&self.pauses, head, false);
        let waits = extend && head.not_before.is_some_and(|at| at > now.wall);
        let entry = &self.tasks[slot];
        let stays = entry.has(LINED) && entry.line == line && !waits;
        if stays {
            if let Some(deadline) = entry.deadline() {
                self.deadlines.remove(&(deadline, slot));
            }
            self.reshape(slot, head, extend);
            if let Some(deadline) = self.tasks[slot].deadline() {
                self.deadlines.insert((deadline, slot));
            }
            self.turn(slot, State::Pending, Cause::Swapped, effects);
        } else {
            self.detach(slot);
            self.reshape(slot, head, extend);
            self.place(slot, now, false, Cause::Swapped, effects);
        }
        self.lines.drop_line(line);
    }

    /// Remembers a request, and counts those of its tasks that are there.
    pub(super) fn remember(&mut self, key: Box<str>, remembered: Remembered) {
        let ids: BTreeSet<TaskId> = remembered
            .tasks
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| self.index.get(*id).is_some())
            .collect();
        let left = ids.len();
        let name = key.clone();
        let number = self
            .requests
            .hold(&*key, || (name, Request { remembered, left }));
        for id in ids {
            self.requests_of.insert((id, number));
            if let Some(slot) = self.index.get(id) {
                self.tasks[slot].set(KEYED, true);
            }
        }
    }
}

/// From when on an entry of the calendar looks for its first tick.
fn first_from(head: &Head, now: Now) -> WallTime {
    match head.not_before {
        Some(not_before) if not_before > now.wall => {
            not_before.saturating_sub(Duration::from_nanos(1))
        }
        _ => now.wall,
    }
}

/// Turns the last change of state into the begin of a task.
fn as_new(effects: &mut Effects) {
    effects.changed.pop();
    if let Some(Event { from, .. }) = effects.events.last_mut() {
        *from = None;
    }
}
