//! From state to state: the steps that commands are made of.

use flyball_core::time::{Timestamp, WallTime};

use super::effects::{Cause, Effects, Event};
use super::entry::{LINED, NONE, ended_index, state_index};
use super::task::{Now, Reason, State};
use super::{EndedList, Queue, Told};

impl Queue {
    /// Changes the state, counts it, and says so.
    pub(super) fn turn(&mut self, slot: u32, to: State, cause: Cause, effects: &mut Effects) {
        let entry = &mut self.tasks[slot];
        let from = core::mem::replace(&mut entry.state, to);
        effects.events.push(Event {
            id: entry.id,
            from: Some(from),
            to,
            attempt: entry.attempts.started,
            cause,
        });
        effects.changed.push(entry.id);
        if from != to {
            self.count(slot, from, false);
            self.count(slot, to, true);
        }
    }

    /// Says what happened to a task that stays what it is.
    pub(super) fn note(&self, slot: u32, cause: Cause, effects: &mut Effects) {
        let entry = &self.tasks[slot];
        effects.events.push(Event {
            id: entry.id,
            from: Some(entry.state),
            to: entry.state,
            attempt: entry.attempts.started,
            cause,
        });
    }

    /// Counts a task in a state, or takes it out.
    pub(super) fn count(&mut self, slot: u32, state: State, more: bool) {
        let place = state_index(state);
        let one = |count: &mut u64| {
            if more {
                *count += 1;
            } else {
                *count -= 1;
            }
        };
        one(&mut self.figures.by_state[place]);
        if state.is_terminal() {
            return;
        }
        let lane = *self.lines.lane_of(self.tasks[slot].line);
        one(&mut self.lines.classes[lane.class].counts[place]);
        one(&mut self.lines.kinds[lane.kind].counts[place]);
    }

    /// Has a task that is nowhere wait for what it must wait for, or stand in its line. Its state is that which it had before.
    pub(super) fn place(
        &mut self,
        slot: u32,
        now: Now,
        front: bool,
        cause: Cause,
        effects: &mut Effects,
    ) {
        let entry = &mut self.tasks[slot];
        if let Some(deadline) = entry.deadline() {
            self.deadlines.insert((deadline, slot));
        }
        if let Some(extra) = &entry.extra {
            if extra.cron.is_some() {
                self.schedule(slot, now, cause, effects);
                return;
            }
            if extra.open > 0 || extra.waits_group {
                self.turn(slot, State::Blocked, cause, effects);
                return;
            }
            if let Some(not_before) = extra.not_before
                && not_before > now.wall
                && (entry.attempts.started == 0 || cause == Cause::Swapped)
            {
                self.wait_until(slot, not_before);
                self.turn(slot, State::Scheduled, cause, effects);
                return;
            }
        }
        self.turn(slot, State::Pending, cause, effects);
        self.line_up(slot, front, effects);
    }

    /// Has a scheduled task wait for a wall time.
    pub(super) fn wait_until(&mut self, slot: u32, at: WallTime) {
        self.tasks[slot].moment = at.unix_nanos();
        self.waits.insert((at, slot));
    }

    /// Puts a pending task into its line, unless its unique key is somebody else's.
    pub(super) fn line_up(&mut self, slot: u32, front: bool, effects: &mut Effects) {
        if self.unique_is_anothers(slot) {
            return;
        }
        self.lines.push(&mut self.tasks, slot, front);
        effects.ready = true;
    }

    /// Whether somebody else has started with the unique key of a task.
    pub(super) fn unique_is_anothers(&self, slot: u32) -> bool {
        self.tasks[slot]
            .extra
            .as_ref()
            .and_then(|extra| extra.unique)
            .and_then(|(unique, _)| self.uniques[unique].holder)
            .is_some_and(|holder| holder != slot)
    }

    /// Takes a task that does not run out of all that would start it.
    pub(super) fn detach(&mut self, slot: u32) {
        let entry = &mut self.tasks[slot];
        if let Some(extra) = &mut entry.extra {
            if let Some(deadline) = extra.deadline {
                self.deadlines.remove(&(deadline, slot));
            }
            if let Some((at, _)) = extra.backoff.take() {
                self.backoffs.remove(&(at, slot));
            }
        }
        if entry.state == State::Scheduled {
            let at = WallTime::from_unix_nanos(entry.moment);
            self.waits.remove(&(at, slot));
        }
        if entry.has(LINED) {
            self.lines.remove(&mut self.tasks, slot);
        }
    }

    /// Takes a lease back. Answers how long the attempt ran.
    pub(super) fn release(&mut self, slot: u32, now: Timestamp, effects: &mut Effects) {
        let entry = &mut self.tasks[slot];
        let run = self.runs.remove(entry.run);
        entry.run = NONE;
        self.leases.remove(&(run.expires, slot));
        self.workers.drop(run.worker);
        let line = entry.line;
        if run.counted {
            self.hold(line, false);
        }
        let ran = run.ran(now);
        if self.lines.stopped(line, run.charged, ran) {
            effects.ready = true;
        }
        let class = &self.lines.classes[self.lines.class_of(line)];
        if class.ready > 0 {
            // A place of the class is free, or room.
            effects.ready = true;
        }
    }

    /// Ends a task that is in no line, waits for no time and has no lease.
    pub(super) fn end(
        &mut self,
        slot: u32,
        state: State,
        reason: Option<Reason>,
        cause: Cause,
        now: Now,
        effects: &mut Effects,
    ) {
        debug_assert!(state.is_terminal());
        self.tasks[slot].reason = reason;
        self.turn(slot, state, cause, effects);
        let entry = &mut self.tasks[slot];
        entry.moment = now.wall.unix_nanos();
        let id = entry.id;
        let mut told = None;
        let (mut unique, mut group, mut cron_of) = (None, None, None);
        if let Some(extra) = &mut entry.extra {
            unique = extra.unique;
            group = extra.group;
            cron_of = extra.cron_of;
            extra.open = 0;
            if !extra.children.is_empty() {
                told = Some(Told::Children(id));
            }
            if core::mem::take(&mut extra.waits_group)
                && let Some((after, _)) = extra.after_group
            {
                self.groups[after].waiters.remove(&id);
            }
        }
        self.link_ended(slot);
        self.backlog.extend(told);
        if let Some((unique, _)) = unique {
            self.leave_unique(unique, slot, effects);
        }
        if let Some(group) = group {
            let group_state = &mut self.groups[group];
            group_state.live -= 1;
            group_state.ended[ended_index(state)] += 1;
            if group_state.live == 0 {
                self.backlog.push_back(Told::Group(group));
            }
        }
        if let Some(entry) = cron_of.and_then(|of| self.index.get(of))
            && let Some(extra) = &mut self.tasks[entry].extra
            && let Some(cron) = &mut extra.cron
        {
            cron.runs.remove(&id);
        }
        if state == State::Completed {
            self.figures.completed += 1;
        }
    }

    /// Frees a unique key of who has ended.
    fn leave_unique(&mut self, unique: u32, slot: u32, effects: &mut Effects) {
        let key = &mut self.uniques[unique];
        if key.waiting == Some(slot) {
            key.waiting = None;
        }
        if key.holder != Some(slot) {
            return;
        }
        key.holder = None;
        if let Some(next) = key.waiting
            && self.tasks[next].state == State::Pending
            && !self.tasks[next].has(LINED)
        {
            self.line_up(next, false, effects);
        }
    }

    fn ended_list(&mut self, state: State) -> &mut EndedList {
        if matches!(state, State::Failed | State::Dead) {
            &mut self.dead
        } else {
            &mut self.ended
        }
    }

    /// Puts a task at the end of those that ended.
    pub(super) fn link_ended(&mut self, slot: u32) {
        let list = self.ended_list(self.tasks[slot].state);
        let prev = list.tail;
        list.tail = slot;
        list.len += 1;
        if prev == NONE {
            list.head = slot;
        } else {
            self.tasks[prev].next = slot;
        }
        let entry = &mut self.tasks[slot];
        (entry.prev, entry.next) = (prev, NONE);
    }

    /// Takes a task out of those that ended.
    pub(super) fn unlink_ended(&mut self, slot: u32) {
        let entry = &mut self.tasks[slot];
        let (prev, next, state) = (entry.prev, entry.next, entry.state);
        (entry.prev, entry.next) = (NONE, NONE);
        if prev != NONE {
            self.tasks[prev].next = next;
        }
        if next != NONE {
            self.tasks[next].prev = prev;
        }
        let list = self.ended_list(state);
        list.len -= 1;
        if prev == NONE {
            list.head = next;
        }
        if next == NONE {
            list.tail = prev;
        }
    }

    /// Puts a task on the line of retries, or back.
    pub(super) fn mark_again(&mut self, slot: u32, again: bool) {
        let entry = &mut self.tasks[slot];
        if entry.has(super::entry::AGAIN) != again {
            entry.set(super::entry::AGAIN, again);
            debug_assert!(!entry.has(LINED));
            entry.line = self.lines.rehold(entry.line, again);
        }
    }
}
