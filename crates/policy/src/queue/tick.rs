//! What becomes due with time, and forgetting.

use alloc::collections::BTreeSet;

use flyball_core::time::WallTime;

use super::effects::{Cause, Effects, MetaChange};
use super::entry::{KEYED, NONE, ended_index};
use super::task::Now;
use super::{Queue, STEPS_MAX};

impl Queue {
    /// Does what is due, at most [`STEPS_MAX`] of each sort. Answers whether there was anything.
    pub(super) fn tick(&mut self, now: Now, effects: &mut Effects) -> bool {
        let mut done = !self.backlog.is_empty();
        if self.budgets.is_some_and(|at| at <= now.mono) {
            self.budgets = None;
            effects.ready = true;
            done = true;
        }
        for _ in 0..STEPS_MAX {
            let Some(&(at, slot)) = self.leases.first() else {
                break;
            };
            if at > now.mono {
                break;
            }
            self.expire(slot, now, effects);
            done = true;
        }
        for _ in 0..STEPS_MAX {
            let Some(&(at, slot)) = self.deadlines.first() else {
                break;
            };
            if at > now.wall {
                break;
            }
            self.miss(slot, now, effects);
            done = true;
        }
        for _ in 0..STEPS_MAX {
            let Some(&(at, slot)) = self.backoffs.first() else {
                break;
            };
            if at > now.mono {
                break;
            }
            self.detach(slot);
            self.place(slot, now, false, Cause::Ready, effects);
            done = true;
        }
        for _ in 0..STEPS_MAX {
            let Some(&(at, slot)) = self.waits.first() else {
                break;
            };
            if at > now.wall {
                break;
            }
            if !self.tick_entry(slot, now, effects) {
                self.detach(slot);
                self.place(slot, now, false, Cause::Ready, effects);
            }
            done = true;
        }
        done | self.forget(now, effects)
    }

    /// When the next ended task is to be forgotten.
    pub(super) fn forget_at(&self) -> Option<WallTime> {
        let settings = &self.settings;
        let lists = [
            (self.ended, settings.max_ended, settings.retention),
            (self.dead, settings.max_dead, settings.retention_dead),
        ];
        lists
            .into_iter()
            .filter(|(list, _, _)| list.head != NONE)
            .map(|(list, most, keep)| {
                if list.len > most {
                    WallTime::from_unix_nanos(0)
                } else {
                    WallTime::from_unix_nanos(self.tasks[list.head].moment).saturating_add(keep)
                }
            })
            .min()
    }

    /// Forgets tasks that ended long ago, or are too many; not while somebody is still to be told of an end.
    fn forget(&mut self, now: Now, effects: &mut Effects) -> bool {
        if !self.backlog.is_empty() {
            return false;
        }
        let mut groups = BTreeSet::new();
        let mut requests = BTreeSet::new();
        let mut any = false;
        for _ in 0..STEPS_MAX {
            let settings = &self.settings;
            let due = [
                (self.ended, settings.max_ended, settings.retention),
                (self.dead, settings.max_dead, settings.retention_dead),
            ]
            .into_iter()
            .find(|(list, most, keep)| {
                list.len > *most
                    || (list.head != NONE
                        && WallTime::from_unix_nanos(self.tasks[list.head].moment)
                            .saturating_add(*keep)
                            <= now.wall)
            });
            let Some((list, _, _)) = due else {
                break;
            };
            if !any {
                let last = super::TaskId(self.last_id);
                effects.meta.push(MetaChange::LastId(last));
                any = true;
            }
            self.remove(list.head, &mut groups, &mut requests, effects);
        }
        for group in groups {
            let name = self.groups.key(group).clone();
            let forgotten = self.groups[group].forgotten;
            effects.meta.push(MetaChange::Group(name, Some(forgotten)));
        }
        for request in requests {
            let name = self.requests.key(request).clone();
            let remembered = self.requests[request].remembered.clone();
            effects
                .meta
                .push(MetaChange::Idempotency(name, Some(remembered)));
        }
        any
    }

    /// Takes an ended task out of everything.
    fn remove(
        &mut self,
        slot: u32,
        groups: &mut BTreeSet<u32>,
        requests: &mut BTreeSet<u32>,
        effects: &mut Effects,
    ) {
        self.note(slot, Cause::Forgotten, effects);
        self.unlink_ended(slot);
        let entry = self.tasks.remove(slot);
        let (id, state) = (entry.id, entry.state);
        self.index.remove(id);
        self.figures.by_state[super::entry::state_index(state)] -= 1;
        effects.removed.push(id);
        if entry.has(KEYED) {
            let of: alloc::vec::Vec<u32> = self
                .requests_of
                .range((id, 0)..=(id, u32::MAX))
                .map(|(_, request)| *request)
                .collect();
            for number in of {
                self.requests_of.remove(&(id, number));
                let request = &mut self.requests[number];
                request.left -= 1;
                if request.left == 0 {
                    requests.remove(&number);
                    let name = self.requests.key(number).clone();
                    self.requests.drop(number);
                    effects.meta.push(MetaChange::Idempotency(name, None));
                } else {
                    for task in &mut request.remembered.tasks {
                        if task.0 == id {
                            task.1 = Some(state);
                        }
                    }
                    requests.insert(number);
                }
            }
        }
        if let Some(extra) = &entry.extra {
            self.extras -= 1;
            if let Some(group) = extra.group {
                let kept = &mut self.groups[group];
                kept.forgotten[ended_index(state)] += 1;
                groups.insert(group);
                self.drop_group(group, groups, effects);
            }
            if let Some((group, _)) = extra.after_group {
                self.drop_group(group, groups, effects);
            }
            if let Some((unique, _)) = extra.unique {
                self.uniques.drop(unique);
            }
        }
        self.lines.drop_line(entry.line);
        self.specs.drop(entry.spec);
    }

    fn drop_group(&mut self, group: u32, groups: &mut BTreeSet<u32>, effects: &mut Effects) {
        if self.groups.users(group) > 1 {
            self.groups.drop(group);
            return;
        }
        let name = self.groups.key(group).clone();
        groups.remove(&group);
        self.groups.drop(group);
        effects.meta.push(MetaChange::Group(name, None));
    }
}
