//! What is written of a task, and how a queue comes back from what was written.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::{Timestamp, WallTime};

use super::Queue;
use super::effects::{Cause, Effects, LeaseRecord, MetaChange, Opening, Record};
use super::entry::{AGAIN, CANCEL, Entry, Extra, Group, NONE, RETRIED, Run, ended_index};
use super::task::{Dependency, GroupEnd, Head, Now, Reason, State, TaskId, Token, Unique};

/// An instant on disk; 0 is none.
fn instant(nanos: u64) -> Option<WallTime> {
    (nanos > 0).then(|| WallTime::from_unix_nanos(nanos))
}

impl Queue {
    /// The part of a task that changes, as it is to be written.
    #[must_use]
    pub fn record(&self, id: TaskId) -> Option<Record> {
        let slot = self.index.get(id)?;
        let entry = &self.tasks[slot];
        let none = Extra::default();
        let extra = entry.extra.as_deref().unwrap_or(&none);
        let lease = entry.leased().then(|| {
            let run = &self.runs[entry.run];
            LeaseRecord {
                token: run.token,
                worker: self.workers.key(run.worker).clone(),
                expires_at: run.expires_wall,
                length: run.length,
            }
        });
        let scheduled = entry.state == State::Scheduled;
        Some(Record {
            state: entry.state,
            reason: entry.reason,
            attempts: entry.attempts,
            created_at: entry.created,
            ready_at: instant(entry.moment).filter(|_| scheduled),
            backoff: extra.backoff.map(|(_, wait)| wait).filter(|_| scheduled),
            started_at: instant(entry.started),
            ended_at: entry
                .state
                .is_terminal()
                .then(|| WallTime::from_unix_nanos(entry.moment)),
            lease,
            cancel_requested: entry.has(CANCEL) && entry.leased(),
            again: entry.has(AGAIN),
            retried: entry.has(RETRIED),
            holds_unique: extra
                .unique
                .is_some_and(|(unique, _)| self.uniques[unique].holder == Some(slot)),
            waits_for: if entry.state == State::Blocked {
                let waits = extra.after.iter().filter(|link| link.waits);
                waits.map(|link| link.dependency.parent).collect()
            } else {
                Vec::new()
            },
            waits_for_group: extra.waits_group,
            cron_of: extra.cron_of,
            ticked: extra.cron.as_ref().map(|cron| cron.ticked),
        })
    }

    /// The part of a task that does not change, unless a newer one with its unique key takes its place.
    #[must_use]
    pub fn head(&self, id: TaskId) -> Option<Head> {
        let entry = &self.tasks[self.index.get(id)?];
        let none = Extra::default();
        let extra = entry.extra.as_deref().unwrap_or(&none);
        let lane = self.lines.lane_of(entry.line);
        let spec = self.specs.key(entry.spec);
        Some(Head {
            kind: self.lines.kinds.key(lane.kind).clone(),
            via: lane.via,
            class: self.lines.classes.key(lane.class).clone(),
            priority: self.lines.lines.key(entry.line).priority,
            deadline: extra.deadline,
            not_before: extra.not_before,
            cron: extra.cron.as_ref().map(|cron| Box::new(cron.cron.clone())),
            timeout: spec.timeout,
            retry: spec.retry(),
            after: extra.after.iter().map(|link| link.dependency).collect(),
            on_parent_failure: spec.otherwise(),
            needs: self.lines.needs.key(lane.needs).clone(),
            affinity_key: extra.affinity.clone(),
            key: self.lines.key_name(entry.line).map(Into::into),
            unique: extra.unique.map(|(unique, on_conflict)| {
                Box::new(Unique {
                    key: self.uniques.key(unique).clone(),
                    on_conflict,
                })
            }),
            group: extra.group.map(|group| self.groups.key(group).clone()),
            after_group: extra.after_group.map(|(group, when)| {
                Box::new(GroupEnd {
                    group: self.groups.key(group).clone(),
                    when,
                })
            }),
        })
    }

    /// The token that the next lease gets.
    #[must_use]
    pub fn next_token(&self) -> Token {
        Token {
            epoch: self.epoch,
            number: self.next_token,
        }
    }

    /// Parents of a task, those in its batch included.
    #[must_use]
    pub fn parents(&self, id: TaskId) -> Vec<Dependency> {
        self.index
            .get(id)
            .and_then(|slot| self.tasks[slot].extra.as_ref())
            .map_or_else(Vec::new, |extra| {
                extra.after.iter().map(|link| link.dependency).collect()
            })
    }

    /// Brings a task back. Tasks come in the order of their names, after what is kept beside them
    /// ([`restore_meta`](Self::restore_meta)), and all before [`opened`](Self::opened).
    pub fn restore(&mut self, id: TaskId, head: &Head, record: &Record) {
        if self.index.get(id).is_some() {
            return;
        }
        self.last_id = self.last_id.max(id.0);
        let line = self.lines.hold_line(&self.pauses, head, record.again);
        let spec = self.hold_spec(head);
        let ticked = record.ticked.unwrap_or(record.created_at);
        let mut extra = self.extra_of(head, ticked);
        if record.cron_of.is_some() {
            extra.get_or_insert_default().cron_of = record.cron_of;
        }
        if let Some(extra) = &mut extra {
            extra.waits_group = record.waits_for_group;
            let waits_for: BTreeSet<TaskId> = record.waits_for.iter().copied().collect();
            for link in &mut extra.after {
                link.waits = waits_for.contains(&link.dependency.parent);
            }
        }
        self.extras += usize::from(extra.is_some());
        let moment = match record.state {
            State::Scheduled => record.ready_at,
            state if state.is_terminal() => record.ended_at,
            _ => None,
        };
        let mut entry = Entry {
            id,
            created: record.created_at,
            moment: moment.map_or(0, WallTime::unix_nanos),
            started: record.started_at.map_or(0, WallTime::unix_nanos),
            extra,
            line,
            prev: NONE,
            next: NONE,
            spec,
            run: NONE,
            attempts: record.attempts,
            state: record.state,
            reason: record.reason,
            flags: 0,
        };
        entry.set(AGAIN, record.again);
        entry.set(CANCEL, record.cancel_requested);
        entry.set(RETRIED, record.retried);
        let slot = self.tasks.insert(entry);
        self.index.insert(id, slot);
        self.count(slot, record.state, true);
        if let Some(wait) = record.backoff {
            // Its end is known when the time is.
            self.extra(slot).backoff = Some((Timestamp::from_nanos(u64::MAX), wait));
        }
        if let Some(lease) = &record.lease {
            let worker = self
                .workers
                .hold(&*lease.worker, || (lease.worker.clone(), ()));
            self.tasks[slot].run = self.runs.insert(Run {
                token: lease.token,
                worker,
                expires: Timestamp::from_nanos(u64::MAX),
                expires_wall: lease.expires_at,
                length: lease.length,
                ran: Duration::ZERO,
                since: None,
                stood: Duration::ZERO,
                charged: 0,
                counted: false,
            });
        }
        let plain = self.tasks[slot].extra.is_none();
        if record.state == State::Pending {
            self.lines.push(&mut self.tasks, slot, false);
        }
        if !plain || record.state != State::Pending {
            self.restored.push(slot);
        }
        self.restore_shared(slot, record);
    }

    /// Counts a restored task in what it shares with others.
    fn restore_shared(&mut self, slot: u32, record: &Record) {
        let entry = &self.tasks[slot];
        let Some(extra) = &entry.extra else {
            return;
        };
        let (group, unique, state) = (extra.group, extra.unique, entry.state);
        if let Some(group) = group {
            let group = &mut self.groups[group];
            if state.is_terminal() {
                group.ended[ended_index(state)] += 1;
            } else {
                group.live += 1;
            }
        }
        if let Some((unique, _)) = unique
            && !state.is_terminal()
        {
            let key = &mut self.uniques[unique];
            if record.holds_unique {
                key.holder = Some(slot);
            } else {
                key.waiting = Some(slot);
            }
        }
    }

    /// Brings back what is kept beside tasks. Requests with idempotency keys come after the tasks, the rest before.
    pub fn restore_meta(&mut self, meta: MetaChange) {
        match meta {
            MetaChange::Pause(scope, Some(pause)) => {
                self.mark_paused(&scope, true);
                self.pauses.insert(scope, pause);
            }
            MetaChange::Idempotency(key, Some(remembered)) => self.remember(key, remembered),
            MetaChange::Group(name, Some(forgotten)) => {
                // Held until opening is done, which finds out whether a task refers to it.
                let group = self
                    .groups
                    .hold(&*name, || (name.clone(), Group::default()));
                let group = &mut self.groups[group];
                group.forgotten = forgotten;
                for (ended, forgotten) in group.ended.iter_mut().zip(forgotten) {
                    *ended += forgotten;
                }
                self.restored_groups += 1;
            }
            MetaChange::LastId(id) => self.last_id = self.last_id.max(id.0),
            MetaChange::Pause(_, None)
            | MetaChange::Idempotency(_, None)
            | MetaChange::Group(_, None) => {}
        }
    }

    /// Ends restoring. After a crash, tasks that were running have lost an attempt, and start again one after the other (`apart`); after a clean
    /// end their leases go on, each for its whole length from now.
    pub fn opened(&mut self, now: Now, opening: Opening, effects: &mut Effects) {
        let first = |epoch| Token { epoch, number: 1 };
        let (token, crashed) = match opening {
            Opening::Clean { epoch } => (first(epoch), false),
            Opening::Crashed { epoch } => (first(epoch), true),
            Opening::Again { token } => (token, false),
        };
        self.epoch = token.epoch;
        self.next_token = token.number;
        if self.restored_groups > 0 {
            self.let_groups_go(effects);
        }
        let restored = core::mem::take(&mut self.restored);
        let mut ended: Vec<(u64, TaskId, u32)> = Vec::new();
        let mut blocked = Vec::new();
        let mut lost: Vec<(TaskId, u32)> = Vec::new();
        for &slot in &restored {
            let entry = &self.tasks[slot];
            if entry.state.is_terminal() {
                ended.push((entry.moment, entry.id, slot));
            } else {
                self.count_run(slot);
            }
        }
        // In the order of their ends, as forgetting wants them.
        ended.sort_unstable();
        for (_, _, slot) in ended {
            self.link_ended(slot);
        }
        for slot in restored {
            let entry = &self.tasks[slot];
            if let Some(deadline) = entry.deadline()
                && !entry.state.is_terminal()
                && !entry.leased()
            {
                self.deadlines.insert((deadline, slot));
            }
            match self.tasks[slot].state {
                State::Running | State::Paused => {
                    let id = self.tasks[slot].id;
                    let has_lost = self.open_lease(slot, crashed, now, effects);
                    lost.extend(has_lost.then_some((id, slot)));
                }
                State::Scheduled => self.open_wait(slot, now, effects),
                State::Blocked => blocked.push(slot),
                State::Pending if self.unique_is_anothers(slot) => {
                    self.lines.remove(&mut self.tasks, slot);
                }
                _ => {}
            }
        }
        lost.sort_unstable();
        for (place, &(_, slot)) in lost.iter().enumerate() {
            let wait = apart(place, lost.len(), self.tasks[slot].attempts.counted);
            self.lost(slot, Reason::Crashed, wait, now, effects);
        }
        for slot in blocked {
            if self.tasks[slot].state != State::Blocked {
                continue;
            }
            let waited = self.waits_of(slot);
            if self.connect(slot, false) {
                self.doom(slot, now, effects);
            } else {
                let waits = self.waits_of(slot);
                if waits != waited || waits == (0, false) {
                    // A parent had ended, and its children were not told.
                    self.unblock(slot, now, effects);
                }
            }
        }
        self.drop_requests(now, effects);
        self.tell(now, effects);
        effects.ready = true;
    }

    /// Forgets old requests of which no task is there, as their rows were damaged: who repeats one is still answered for as long as a dead letter
    /// is kept.
    fn drop_requests(&mut self, now: Now, effects: &mut Effects) {
        let keep = self.settings.retention_dead;
        let gone: Vec<u32> = self
            .requests
            .iter()
            .filter(|(_, _, request)| {
                request.left == 0 && request.remembered.at.saturating_add(keep) <= now.wall
            })
            .map(|(number, _, _)| number)
            .collect();
        for number in gone {
            let name = self.requests.key(number).clone();
            self.requests.drop(number);
            effects.meta.push(MetaChange::Idempotency(name, None));
        }
    }

    /// Forgets what is kept of groups that no task refers to.
    fn let_groups_go(&mut self, effects: &mut Effects) {
        self.restored_groups = 0;
        let held: Vec<u32> = self
            .groups
            .iter()
            .filter(|(_, _, group)| group.forgotten != [0; 5])
            .map(|(number, _, _)| number)
            .collect();
        for number in held {
            let name = self.groups.key(number).clone();
            if self.groups.drop(number).is_some() {
                effects.meta.push(MetaChange::Group(name, None));
            }
        }
    }

    /// Counts a run of an entry of the calendar.
    fn count_run(&mut self, slot: u32) {
        let entry = &self.tasks[slot];
        let id = entry.id;
        let Some(of) = entry.extra.as_ref().and_then(|extra| extra.cron_of) else {
            return;
        };
        if let Some(of) = self.index.get(of)
            && let Some(cron) = self.entries(of)
        {
            cron.runs.insert(id);
        }
    }

    /// Gives a lease its whole length from now, or takes it back. Answers whether the task has lost an attempt.
    fn open_lease(&mut self, slot: u32, crashed: bool, now: Now, effects: &mut Effects) -> bool {
        let entry = &self.tasks[slot];
        let line = entry.line;
        let running = entry.state == State::Running;
        if entry.run == NONE {
            // Without a lease nobody has it: as after a crash.
            return !self.stopped(slot, now, effects);
        }
        self.lines.resumed(line);
        let run = &mut self.runs[entry.run];
        run.since = running.then_some(now.mono);
        self.extend(slot, now, false);
        if crashed {
            self.release(slot, now.mono, effects);
            return !self.stopped(slot, now, effects);
        }
        false
    }

    /// Ends a task that nobody has any more and that was to be cancelled.
    fn stopped(&mut self, slot: u32, now: Now, effects: &mut Effects) -> bool {
        let cancelled = self.tasks[slot].has(CANCEL);
        if cancelled {
            self.stop(slot, now, effects);
        }
        cancelled
    }

    fn open_wait(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        let entry = &mut self.tasks[slot];
        let at = WallTime::from_unix_nanos(entry.moment);
        let backoff = entry.extra.as_mut().and_then(|extra| extra.backoff.take());
        if let Some((_, wait)) = backoff {
            // Never longer than the whole wait, whatever the wall clock has done.
            let left = at.duration_since(now.wall).min(wait);
            self.backoff_until(slot, now.mono.saturating_add(left), wait);
        } else if self.entries(slot).is_some() {
            self.schedule(slot, now, Cause::Ready, effects);
            // It was scheduled before, and is: nothing has happened.
            if self.tasks[slot].state == State::Scheduled {
                effects.events.pop();
                effects.changed.pop();
            }
        } else {
            self.wait_until(slot, at);
        }
    }
}

/// How long the task at a place among those that a crash has interrupted waits before it starts again.
///
/// One of them may have caused the crash, and nobody knows which. Started all at once they would all lose their attempts with it, crash by
/// crash, and end as dead letters. So they start a second apart, half a minute in all at most: what dies within its second takes along nobody who starts
/// later. Every other time they start in the opposite order, so that those that work on meanwhile and were taken along once are not taken
/// along again. With three attempts or more the one ends as a dead letter and the others do not.
fn apart(place: usize, of: usize, counted: u32) -> Duration {
    const STEP: Duration = Duration::from_secs(1);
    const IN_ALL: Duration = Duration::from_secs(30);
    let step = STEP.min(IN_ALL / u32::try_from(of.max(1)).unwrap_or(u32::MAX));
    let place = if counted.is_multiple_of(2) {
        place
    } else {
        of - 1 - place
    };
    step.saturating_mul(u32::try_from(place).unwrap_or(u32::MAX))
}
