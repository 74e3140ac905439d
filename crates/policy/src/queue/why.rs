//! What a task waits for now.

use alloc::vec::Vec;

use flyball_core::time::{Timestamp, WallTime};

use super::Queue;
use super::command::{Scope, Waiting};
use super::entry::{LINED, NONE};
use super::line::lacks;
use super::task::{State, TaskId, Via};

/// Tasks in front of another that are counted at most, and lines that are looked at for them: beyond, "at least".
const AHEAD_MAX: u64 = 10_000;

impl Queue {
    /// All that a task waits for now, as far as the queue knows; none if there is no such task. Looks at its parents, and at
    /// most 10,000 lines and 10,000 tasks in front of it.
    #[must_use]
    pub fn why(&self, id: TaskId, now: Timestamp) -> Option<Vec<Waiting>> {
        let slot = self.index.get(id)?;
        let entry = &self.tasks[slot];
        let mut all = Vec::new();
        match entry.state {
            State::Running | State::Paused => {
                all.push(Waiting::Running {
                    worker: self.workers.key(self.runs[entry.run].worker).clone(),
                });
            }
            State::Scheduled => {
                let at = WallTime::from_unix_nanos(entry.moment);
                let backoff = entry
                    .extra
                    .as_ref()
                    .is_some_and(|extra| extra.backoff.is_some());
                all.push(if backoff {
                    Waiting::Backoff(at)
                } else {
                    Waiting::Until(at)
                });
            }
            State::Blocked => self.why_blocked(slot, &mut all),
            State::Pending => self.why_pending(slot, now, &mut all),
            state => all.push(Waiting::Ended(state)),
        }
        Some(all)
    }

    fn why_blocked(&self, slot: u32, all: &mut Vec<Waiting>) {
        let entry = &self.tasks[slot];
        let Some(extra) = &entry.extra else {
            return;
        };
        let otherwise = self.specs.key(entry.spec).otherwise();
        for link in extra.after.iter().filter(|link| link.waits) {
            let id = link.dependency.parent;
            if let Some(state) = self.state(id) {
                all.push(Waiting::Parent {
                    id,
                    state,
                    when: link.dependency.when,
                    otherwise,
                });
            }
        }
        if extra.waits_group
            && let Some((group, _)) = extra.after_group
        {
            all.push(Waiting::Group {
                name: self.groups.key(group).clone(),
                open: self.groups[group].live,
            });
        }
    }

    fn why_pending(&self, slot: u32, now: Timestamp, all: &mut Vec<Waiting>) {
        let entry = &self.tasks[slot];
        let lane = *self.lines.lane_of(entry.line);
        let class = &self.lines.classes[lane.class];
        let kind = &self.lines.kinds[lane.kind];
        let kind_name = self.lines.kinds.key(lane.kind);
        if !entry.has(LINED)
            && let Some((unique, _)) = entry.extra.as_ref().and_then(|extra| extra.unique)
            && let Some(holder) = self.uniques[unique].holder
        {
            all.push(Waiting::Unique {
                by: self.tasks[holder].id,
            });
        }
        for scope in [
            Scope::All,
            Scope::Class(class.rule.name.clone()),
            Scope::Kind(kind_name.clone()),
        ] {
            if self.pauses.contains_key(&scope) {
                all.push(Waiting::Paused(scope));
            }
        }
        if let Some(limit) = class.rule.concurrency
            && class.running() >= u64::from(limit)
        {
            all.push(Waiting::ClassLimit {
                running: class.running() as u32,
                limit,
            });
        }
        let key = self.lines.key_of(entry.line);
        if let Some(limit) = class.rule.key_concurrency
            && !class.rule.key_observe
            && self.lines.key_name(entry.line).is_some()
            && key.running >= limit
        {
            all.push(Waiting::KeyLimit {
                running: key.running,
                limit,
            });
        }
        if lane.again
            && let Some(budget) = &kind.budget
            && budget.clone().next_retry_at(now) != Some(now)
        {
            all.push(Waiting::RetryBudget);
        }
        let needs = self.lines.needs.key(lane.needs);
        if self.seen.any
            && let Some((name, needs, free)) = lacks(needs, &self.seen.free)
        {
            let total = match name {
                "cpu" => self.seen.cpu_millis,
                "memory" => self.seen.memory_bytes,
                other => self.seen.resources.get(other).copied().unwrap_or(0),
            };
            all.push(Waiting::Resource {
                name: name.into(),
                needs,
                free,
                total,
            });
        }
        if let Some(since) = self.nobody_takes(lane.via, kind_name, entry.created, now) {
            all.push(Waiting::NobodyTakes { since });
        }
        if all.is_empty() {
            all.push(Waiting::Turn {
                ahead: self.ahead(slot),
            });
        }
    }

    /// Since when nobody takes a kind, if nobody does.
    fn nobody_takes(
        &self,
        via: Via,
        kind: &str,
        created: WallTime,
        now: Timestamp,
    ) -> Option<WallTime> {
        let mut since = created;
        for asker in self.askers.values() {
            let kinds = match via {
                Via::Command => &asker.commands,
                Via::Http => &asker.http,
                Via::Handler => &asker.handlers,
            };
            if kinds.takes(kind) {
                if asker.until >= now {
                    return None;
                }
                since = since.max(asker.at);
            }
        }
        Some(since)
    }

    /// Kinds of tasks that may start and that nobody takes, with how they run, since when, and how many of them may start. Looks at each lane.
    #[must_use]
    pub fn untaken(&self, now: Timestamp) -> Vec<(&str, Via, WallTime, u64)> {
        let mut all: Vec<(&str, Via, WallTime, u64)> = Vec::new();
        for (number, key, line) in self.lines.lines.iter() {
            let _ = number;
            if line.len == 0 {
                continue;
            }
            let lane = self.lines.lanes.key(key.lane);
            let kind = self.lines.kinds.key(lane.kind);
            let created = self.tasks[line.head].created;
            if let Some(since) = self.nobody_takes(lane.via, kind, created, now) {
                let count = u64::from(line.len);
                match all
                    .iter_mut()
                    .find(|known| known.0 == &**kind && known.1 == lane.via)
                {
                    Some(known) => {
                        known.2 = known.2.min(since);
                        known.3 += count;
                    }
                    None => all.push((kind, lane.via, since, count)),
                }
            }
        }
        all
    }

    /// How many tasks of its class stand before a task, at least: those of its line that came earlier, and of higher priorities in as many lines
    /// as are looked at.
    fn ahead(&self, slot: u32) -> u64 {
        let entry = &self.tasks[slot];
        let mut ahead = 0;
        let mut before = entry.prev;
        while before != NONE && ahead < AHEAD_MAX {
            ahead += 1;
            before = self.tasks[before].prev;
        }
        let priority = self.lines.lines.key(entry.line).priority;
        let class = self.lines.class_of(entry.line);
        let higher = self
            .lines
            .lines
            .iter()
            .take(AHEAD_MAX as usize)
            .filter(|(_, key, _)| key.priority > priority)
            .filter(|(_, key, _)| self.lines.lanes.key(key.lane).class == class)
            .map(|(_, _, line)| u64::from(line.len))
            .sum::<u64>();
        ahead + higher
    }
}
