//! Handing tasks out, and what becomes of those that are out.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, BinaryHeap};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use flyball_core::time::{Timestamp, WallTime};

use super::command::{Ask, Cause, Effects, Granted, Kinds, Refused, Reply, Room};
use super::entry::{CANCEL, Run};
use super::line::{LaneKey, NO_NEEDS, Rank, lacks};
use super::task::{Needs, Now, Outcome, Reason, State, TaskId, Token, Via};
use super::{
    ASKED_WITHIN, ASKERS_MAX, Asker, BATCH_MAX, LEASE_MAX, PATIENCE, PRECEDENCE_MAX, Queue,
    TIMEOUT_GRACE, valid,
};
use crate::limit::{RetryBudget, RetryBudgetConfig};

/// The longest wait that somebody who failed may ask for.
const AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Kinds by number.
enum Numbers {
    None,
    All,
    Only(Vec<u32>),
    Except(Vec<u32>),
}

impl Numbers {
    fn takes(&self, kind: u32) -> bool {
        match self {
            Numbers::None => false,
            Numbers::All => true,
            Numbers::Only(these) => these.binary_search(&kind).is_ok(),
            Numbers::Except(these) => these.binary_search(&kind).is_err(),
        }
    }
}

/// What is asked for, with names as numbers.
struct Wanted {
    handlers: Numbers,
    commands: Numbers,
    http: Numbers,
    room: Option<Room>,
}

impl Wanted {
    fn takes(&self, lane: &LaneKey) -> bool {
        match lane.via {
            Via::Command => &self.commands,
            Via::Http => &self.http,
            Via::Handler => &self.handlers,
        }
        .takes(lane.kind)
    }
}

/// A class whose turn it may be.
struct Candidate {
    class: u32,
    priority: u8,
    /// Lanes by their best rank; found when it is the turn of the class.
    lanes: Option<BinaryHeap<Reverse<(Rank, u32)>>>,
    /// Lanes that do not fit.
    short: Vec<(Rank, u32)>,
    over: bool,
}

impl Queue {
    pub(super) fn lease(
        &mut self,
        now: Now,
        ask: &Ask<'_>,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        let request = |field, expected| Err(Refused::Request { field, expected });
        if !valid::is_name(ask.worker, valid::KIND_MAX) {
            return request("worker", "1 to 128 bytes without control characters");
        }
        if !(1..=BATCH_MAX as u32).contains(&ask.max) {
            return request("max", "1 to 1,000");
        }
        check_length(ask.lease)?;
        self.tick(now, effects);
        self.asked(now, ask);
        let mut wanted = Wanted {
            handlers: self.numbers(ask.handlers),
            commands: self.numbers(ask.commands),
            http: self.numbers(ask.http),
            room: ask.room.cloned(),
        };
        if let Some(room) = ask.room {
            self.see(room);
        }
        let mut granted = Vec::new();
        if !self.pauses.contains_key(&super::Scope::All) {
            self.hand_out(now, ask, &mut wanted, &mut granted, effects);
        }
        Ok(Reply::Leased(granted))
    }

    fn numbers(&self, kinds: &Kinds) -> Numbers {
        let find = |names: &[Box<str>]| {
            let mut numbers: Vec<u32> = names
                .iter()
                .filter_map(|name| self.lines.kinds.find(&**name))
                .collect();
            numbers.sort_unstable();
            numbers
        };
        match kinds {
            Kinds::None => Numbers::None,
            Kinds::All => Numbers::All,
            Kinds::Only(names) => Numbers::Only(find(names)),
            Kinds::Except(names) => Numbers::Except(find(names)),
        }
    }

    /// Remembers who asks for what.
    fn asked(&mut self, now: Now, ask: &Ask<'_>) {
        let until = now
            .mono
            .saturating_add(ask.wait)
            .saturating_add(ASKED_WITHIN);
        if let Some(asker) = self.askers.get_mut(ask.worker) {
            asker.until = until;
            asker.at = now.wall;
            if asker.handlers != *ask.handlers {
                asker.handlers = ask.handlers.clone();
            }
            if asker.commands != *ask.commands {
                asker.commands = ask.commands.clone();
            }
            if asker.http != *ask.http {
                asker.http = ask.http.clone();
            }
            return;
        }
        if self.askers.len() >= ASKERS_MAX {
            let oldest = self
                .askers
                .iter()
                .min_by_key(|(_, asker)| asker.until)
                .map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.askers.remove(&oldest);
            }
        }
        self.askers.insert(
            ask.worker.into(),
            Asker {
                handlers: ask.handlers.clone(),
                commands: ask.commands.clone(),
                http: ask.http.clone(),
                until,
                at: now.wall,
            },
        );
    }

    fn hand_out(
        &mut self,
        now: Now,
        ask: &Ask<'_>,
        wanted: &mut Wanted,
        granted: &mut Vec<Granted>,
        effects: &mut Effects,
    ) {
        self.precede(now, ask, wanted, granted, effects);
        let mut candidates: Vec<Candidate> = self
            .lines
            .classes
            .iter()
            .filter(|(_, _, class)| class.ready > 0 && !class.paused)
            .filter(|(_, _, class)| ask.above.is_none_or(|above| class.rule.priority > above))
            .map(|(number, _, class)| Candidate {
                class: number,
                priority: class.rule.priority,
                lanes: None,
                short: Vec::new(),
                over: false,
            })
            .collect();
        while granted.len() < ask.max as usize {
            let classes = &self.lines.classes;
            let Some(place) = (0..candidates.len())
                .filter(|place| !candidates[*place].over)
                .min_by_key(|place| {
                    let candidate = &candidates[*place];
                    let pass = classes[candidate.class].pass;
                    (pass, Reverse(candidate.priority), candidate.class)
                })
            else {
                return;
            };
            let candidate = &mut candidates[place];
            let number = candidate.class;
            let class = &self.lines.classes[number];
            let limit = class.rule.concurrency.map(u64::from);
            if limit.is_some_and(|limit| class.running() >= limit) {
                candidate.over = true;
                candidate.short.clear();
                continue;
            }
            if candidate.lanes.is_none() {
                candidate.lanes = Some(self.open_class(now, number, wanted, &mut candidate.short));
            }
            match self.next_of(now, candidate, wanted, effects) {
                None => candidate.over = true,
                Some((slot, rank)) => {
                    let needs = self.lines.lane_of(self.tasks[slot].line).needs;
                    if let Some(room) = &mut wanted.room {
                        take_room(room, self.lines.needs.key(needs));
                    }
                    granted.push(self.grant(slot, now, ask, effects));
                    // Room was given away that others would have had: those before it in its class, and classes before its own.
                    for other in &candidates {
                        for (short, lane) in &other.short {
                            let passed = if other.class == number {
                                *short < rank
                            } else {
                                other.over
                            };
                            if passed && self.lines.lanes.get(*lane).is_some() {
                                self.lines.lanes[*lane].short_since.get_or_insert(now.mono);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Gives room first to who has waited long enough for it.
    fn precede(
        &mut self,
        now: Now,
        ask: &Ask<'_>,
        wanted: &mut Wanted,
        granted: &mut Vec<Granted>,
        effects: &mut Effects,
    ) {
        let Some((lane, since)) = self.first else {
            return;
        };
        let waits = self
            .lines
            .lanes
            .get(lane)
            .is_some_and(|lane| lane.short_since.is_some());
        if !waits {
            self.first = None;
            return;
        }
        if now.mono.duration_since(since) > PRECEDENCE_MAX {
            self.lines.lanes[lane].short_since = None;
            self.first = None;
            return;
        }
        let Some(room) = &wanted.room else {
            return;
        };
        let key = *self.lines.lanes.key(lane);
        let class = &self.lines.classes[key.class];
        let may = !class.paused
            && class
                .rule
                .concurrency
                .is_none_or(|limit| class.running() < u64::from(limit))
            && ask.above.is_none_or(|above| class.rule.priority > above)
            && self.lane_open(now, &key, wanted)
            && lacks(self.lines.needs.key(key.needs), room).is_none();
        if !may {
            return;
        }
        let Some(rank) = self.lines.peek(&self.tasks, lane) else {
            return;
        };
        let slot = self.lines.lines[rank.3].head;
        if self.too_late(slot, now, effects) || !self.afford(now, &key) {
            return;
        }
        if let Some(room) = &mut wanted.room {
            take_room(room, self.lines.needs.key(key.needs));
        }
        self.first = None;
        granted.push(self.grant(slot, now, ask, effects));
    }

    /// Whether tasks of a lane may go to who asks, room aside.
    fn lane_open(&self, now: Now, key: &LaneKey, wanted: &Wanted) -> bool {
        let kind = &self.lines.kinds[key.kind];
        let affordable = !key.again
            || kind
                .budget
                .as_ref()
                .is_none_or(|budget| budget.clone().next_retry_at(now.mono) == Some(now.mono));
        !kind.paused && wanted.takes(key) && (affordable || self.budgets.is_none())
    }

    /// The lanes of a class from which who asks may have tasks, best first.
    fn open_class(
        &mut self,
        now: Now,
        class: u32,
        wanted: &Wanted,
        short: &mut Vec<(Rank, u32)>,
    ) -> BinaryHeap<Reverse<(Rank, u32)>> {
        let mut lanes: Vec<u32> = Vec::with_capacity(self.lines.classes[class].lanes.len());
        lanes.extend(&self.lines.classes[class].lanes);
        let mut open = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let key = *self.lines.lanes.key(lane);
            if !self.lane_open(now, &key, wanted) {
                continue;
            }
            let Some(rank) = self.lines.peek(&self.tasks, lane) else {
                continue;
            };
            if self.fits(now, lane, &key, wanted) {
                open.push(Reverse((rank, lane)));
            } else {
                short.push((rank, lane));
            }
        }
        BinaryHeap::from(open)
    }

    /// Whether there is room for a task of a lane, and nobody has precedence.
    fn fits(&mut self, now: Now, lane: u32, key: &LaneKey, wanted: &Wanted) -> bool {
        let Some(room) = &wanted.room else {
            return true;
        };
        if key.needs == NO_NEEDS {
            return true;
        }
        let needs = self.lines.needs.key(key.needs);
        if lacks(needs, room).is_some() {
            let waited = self.lines.lanes[lane].short_since;
            if self.first.is_none()
                && waited.is_some_and(|since| now.mono.duration_since(since) >= PATIENCE)
                && self.ever_fits(needs)
            {
                self.first = Some((lane, now.mono));
            }
            return false;
        }
        match self.first {
            Some((first, _)) if first != lane => {
                let first = self.lines.lanes.key(first).needs;
                !competes(self.lines.needs.key(first), needs, room)
            }
            _ => true,
        }
    }

    /// The next task of a class, and the rank it had.
    fn next_of(
        &mut self,
        now: Now,
        candidate: &mut Candidate,
        wanted: &Wanted,
        effects: &mut Effects,
    ) -> Option<(u32, Rank)> {
        let lanes = candidate.lanes.as_mut()?;
        loop {
            let Reverse((rank, lane)) = lanes.pop()?;
            if self.lines.lanes.get(lane).is_none() {
                continue;
            }
            // Turns have changed, keys may have filled, and tasks may have left since the lane was looked at.
            let Some(current) = self.lines.peek(&self.tasks, lane) else {
                continue;
            };
            if current != rank {
                lanes.push(Reverse((current, lane)));
                continue;
            }
            let key = *self.lines.lanes.key(lane);
            if !self.fits(now, lane, &key, wanted) {
                candidate.short.push((rank, lane));
                continue;
            }
            let slot = self.lines.lines[rank.3].head;
            if self.too_late(slot, now, effects) {
                if self.lines.lanes.get(lane).is_some() {
                    lanes.push(Reverse((rank, lane)));
                }
                continue;
            }
            if !self.afford(now, &key) {
                continue;
            }
            lanes.push(Reverse((rank, lane)));
            return Some((slot, rank));
        }
    }

    /// Ends a task whose deadline has passed.
    fn too_late(&mut self, slot: u32, now: Now, effects: &mut Effects) -> bool {
        let late = self.tasks[slot]
            .deadline()
            .is_some_and(|deadline| deadline <= now.wall);
        if late {
            self.miss(slot, now, effects);
        }
        late
    }

    /// Pays for a retry, or counts a call.
    fn afford(&mut self, now: Now, key: &LaneKey) -> bool {
        let ratio = f64::from(self.settings.retry_permille.min(1_000)) / 1e3;
        let budget = self.lines.kinds[key.kind].budget.get_or_insert_with(|| {
            let budget = RetryBudget::new(RetryBudgetConfig {
                ratio,
                ..RetryBudgetConfig::default()
            });
            Box::new(budget.expect("a ratio of at most 1, and the usual settings"))
        });
        if !key.again {
            budget.deposit();
            return true;
        }
        if budget.withdraw(now.mono) {
            return true;
        }
        if let Some(at) = budget.next_retry_at(now.mono) {
            self.budgets = Some(self.budgets.map_or(at, |known| known.min(at)));
        }
        false
    }

    /// Gives a task away.
    fn grant(&mut self, slot: u32, now: Now, ask: &Ask<'_>, effects: &mut Effects) -> Granted {
        self.detach(slot);
        let line = self.tasks[slot].line;
        let charged = self.lines.started(line);
        self.mark_again(slot, false);
        let worker = self.workers.hold(ask.worker, || (ask.worker.into(), ()));
        let token = Token {
            epoch: self.epoch,
            number: self.next_token,
        };
        self.next_token += 1;
        let counted = ask.room.is_some();
        let run = self.runs.insert(Run {
            token,
            worker,
            expires: now.mono,
            expires_wall: now.wall,
            length: ask.lease,
            ran: Duration::ZERO,
            since: Some(now.mono),
            charged,
            counted,
        });
        let entry = &mut self.tasks[slot];
        entry.run = run;
        entry.attempts.started = entry.attempts.started.saturating_add(1);
        entry.started = now.wall.unix_nanos();
        let attempts = entry.attempts;
        let id = entry.id;
        let line = entry.line;
        if let Some(extra) = &entry.extra
            && let Some((unique, _)) = extra.unique
        {
            let key = &mut self.uniques[unique];
            key.holder = Some(slot);
            if key.waiting == Some(slot) {
                key.waiting = None;
            }
        }
        if counted {
            self.hold(line, true);
        }
        let expires_at = self.extend(slot, now, false);
        self.turn(slot, State::Running, Cause::Leased, effects);
        Granted {
            id,
            token,
            expires_at,
            attempts,
        }
    }

    /// Has a lease end its length from now, but not long after the timeout.
    pub(super) fn extend(&mut self, slot: u32, now: Now, known: bool) -> WallTime {
        let entry = &self.tasks[slot];
        let timeout = self.specs.key(entry.spec).timeout;
        let run = &mut self.runs[entry.run];
        let before = run.expires;
        let mut length = run.length;
        if let (Some(timeout), Some(_)) = (timeout, run.since) {
            let left = (timeout + TIMEOUT_GRACE).saturating_sub(run.ran(now.mono));
            length = length.min(left);
        }
        run.expires = now.mono.saturating_add(length);
        run.expires_wall = now.wall.saturating_add(length);
        let (expires, wall) = (run.expires, run.expires_wall);
        if known {
            if before == expires {
                return wall;
            }
            self.leases.remove(&(before, slot));
        }
        self.leases.insert((expires, slot));
        wall
    }

    /// The slot of a task whose lease has this token.
    fn leased(&self, id: TaskId, token: Token) -> Result<u32, Refused> {
        let slot = self.index.get(id).ok_or(Refused::UnknownTask { id })?;
        let entry = &self.tasks[slot];
        if entry.leased() && self.runs[entry.run].token == token {
            return Ok(slot);
        }
        Err(Refused::StaleToken {
            id,
            state: entry.state,
        })
    }

    pub(super) fn heartbeat(
        &mut self,
        now: Now,
        id: TaskId,
        token: Token,
        lease: Duration,
        paused: Option<bool>,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        let slot = self.leased(id, token)?;
        if !lease.is_zero() {
            check_length(lease)?;
        }
        let entry = &self.tasks[slot];
        let cancelled = entry.has(CANCEL);
        let held = entry.state == State::Paused;
        let run = &mut self.runs[entry.run];
        if !lease.is_zero() && run.length != lease {
            run.length = lease;
            effects.changed.push(id);
        }
        match paused {
            Some(true) if !held => {
                run.ran = run.ran(now.mono);
                run.since = None;
                self.turn(slot, State::Paused, Cause::Held, effects);
            }
            Some(false) if held => {
                run.since = Some(now.mono);
                self.turn(slot, State::Running, Cause::Continued, effects);
            }
            _ => {}
        }
        let expires_at = self.extend(slot, now, true);
        Ok(Reply::Beaten {
            expires_at,
            cancelled,
        })
    }

    pub(super) fn finish(
        &mut self,
        now: Now,
        id: TaskId,
        token: Token,
        outcome: Option<Outcome>,
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        let slot = self.leased(id, token)?;
        self.release(slot, now.mono, effects);
        match outcome {
            Some(Outcome::Done) => {
                self.end(slot, State::Completed, None, Cause::Done, now, effects);
            }
            _ if self.tasks[slot].has(CANCEL) => self.stop(slot, now, effects),
            Some(Outcome::Failed {
                reason,
                retryable,
                after,
            }) => self.fail(slot, reason, retryable, after, now, effects),
            Some(Outcome::Returned { after }) => {
                self.back_off(slot, after.min(AFTER_MAX), Cause::Returned, now, effects);
            }
            None => self.place(slot, now, true, Cause::Returned, effects),
        }
        Ok(Reply::State(self.tasks[slot].state))
    }

    /// Ends a task that was to be cancelled.
    pub(super) fn stop(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        let reason = self.tasks[slot].reason.filter(|r| *r == Reason::Replaced);
        self.end(
            slot,
            State::Cancelled,
            reason,
            Cause::Cancelled,
            now,
            effects,
        );
    }

    /// Counts a failed attempt, and has it followed by another where that may help.
    fn fail(
        &mut self,
        slot: u32,
        reason: Reason,
        retryable: bool,
        after: Option<Duration>,
        now: Now,
        effects: &mut Effects,
    ) {
        self.figures.failed_attempts += 1;
        let entry = &mut self.tasks[slot];
        entry.attempts.counted = entry.attempts.counted.saturating_add(1);
        entry.reason = Some(reason);
        let counted = entry.attempts.counted;
        let spec = *self.specs.key(entry.spec);
        if !retryable || counted >= spec.max_attempts {
            let state = if retryable {
                State::Dead
            } else {
                State::Failed
            };
            self.end(
                slot,
                state,
                Some(reason),
                Cause::Ended(reason),
                now,
                effects,
            );
            return;
        }
        let doublings = (counted - 1).min(63);
        let most = spec
            .base
            .as_nanos()
            .saturating_mul(1 << doublings)
            .min(spec.cap.as_nanos());
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let jitter = Duration::from_nanos(self.rng.between(0, most));
        let wait = after.map_or(jitter, |after| jitter.max(after.min(AFTER_MAX)));
        self.mark_again(slot, true);
        let cause = Cause::RetryIn {
            reason,
            wait,
            counted,
            max: spec.max_attempts,
        };
        self.back_off(slot, wait, cause, now, effects);
    }

    /// Has a task wait before its next attempt.
    fn back_off(
        &mut self,
        slot: u32,
        wait: Duration,
        cause: Cause,
        now: Now,
        effects: &mut Effects,
    ) {
        if wait.is_zero() {
            self.place(slot, now, false, cause, effects);
            return;
        }
        self.backoff_until(slot, now.mono.saturating_add(wait), wait);
        let entry = &mut self.tasks[slot];
        entry.moment = now.wall.saturating_add(wait).unix_nanos();
        if let Some(deadline) = entry.deadline() {
            self.deadlines.insert((deadline, slot));
        }
        self.turn(slot, State::Scheduled, cause, effects);
    }

    pub(super) fn backoff_until(&mut self, slot: u32, at: Timestamp, wait: Duration) {
        self.extra(slot).backoff = Some((at, wait));
        self.backoffs.insert((at, slot));
    }

    /// Takes back a lease that ran out.
    pub(super) fn expire(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        self.figures.expired_leases += 1;
        let entry = &self.tasks[slot];
        let timeout = self.specs.key(entry.spec).timeout;
        let ran = self.runs[entry.run].ran(now.mono);
        self.release(slot, now.mono, effects);
        if self.tasks[slot].has(CANCEL) {
            self.stop(slot, now, effects);
        } else if timeout.is_some_and(|timeout| ran >= timeout) {
            self.fail(slot, Reason::TimedOut, true, None, now, effects);
        } else {
            self.lost(slot, Reason::LeaseExpired, now, effects);
        }
    }

    /// Counts an attempt of which nothing was heard; the next one may follow at once.
    pub(super) fn lost(&mut self, slot: u32, reason: Reason, now: Now, effects: &mut Effects) {
        self.figures.failed_attempts += 1;
        let entry = &mut self.tasks[slot];
        entry.attempts.counted = entry.attempts.counted.saturating_add(1);
        entry.reason = Some(reason);
        let counted = entry.attempts.counted;
        let max = self.specs.key(entry.spec).max_attempts;
        if counted >= max {
            let cause = Cause::Ended(reason);
            self.end(slot, State::Dead, Some(reason), cause, now, effects);
        } else {
            let cause = Cause::RetryIn {
                reason,
                wait: Duration::ZERO,
                counted,
                max,
            };
            self.place(slot, now, false, cause, effects);
        }
    }

    /// Ends a task that has not started in time.
    pub(super) fn miss(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        self.detach(slot);
        let reason = Reason::DeadlineMissed;
        self.end(
            slot,
            State::Failed,
            Some(reason),
            Cause::Ended(reason),
            now,
            effects,
        );
    }

    /// Remembers what is free, and the most there ever was.
    fn see(&mut self, room: &Room) {
        let (seen, held) = (&mut self.seen, &self.held);
        if seen.free != *room {
            seen.free.clone_from(room);
        }
        seen.any = true;
        let cpu = u64::from(room.cpu_millis.unwrap_or(0)) + held.cpu_millis;
        seen.cpu_millis = seen.cpu_millis.max(cpu);
        let memory = room
            .memory_bytes
            .unwrap_or(0)
            .saturating_add(held.memory_bytes);
        seen.memory_bytes = seen.memory_bytes.max(memory);
        for (name, free) in &room.resources {
            let total = u64::from(*free) + held.resources.get(name).copied().unwrap_or(0);
            match seen.resources.get_mut(name) {
                Some(known) => *known = (*known).max(total),
                None => {
                    seen.resources.insert(name.clone(), total);
                }
            }
        }
        if seen.resources.len() > room.resources.len() {
            seen.resources
                .retain(|name, _| room.resources.contains_key(name));
        }
    }

    /// Whether there was room for it once.
    fn ever_fits(&self, needs: &Needs) -> bool {
        let seen = &self.seen;
        (seen.free.cpu_millis.is_none() || u64::from(needs.cpu_millis) <= seen.cpu_millis)
            && (seen.free.memory_bytes.is_none() || needs.memory_bytes <= seen.memory_bytes)
            && needs.resources.iter().all(|(name, count)| {
                seen.resources
                    .get(name)
                    .is_some_and(|total| u64::from(*count) <= *total)
            })
    }

    /// Counts what a lease holds.
    pub(super) fn hold(&mut self, line: u32, more: bool) {
        let number = self.lines.lane_of(line).needs;
        if number == NO_NEEDS {
            return;
        }
        let needs = self.lines.needs.key(number);
        let held = &mut self.held;
        let change = |held: &mut u64, by: u64| {
            *held = if more {
                held.saturating_add(by)
            } else {
                held.saturating_sub(by)
            };
        };
        change(&mut held.cpu_millis, u64::from(needs.cpu_millis));
        change(&mut held.memory_bytes, needs.memory_bytes);
        for (name, count) in &needs.resources {
            if let Some(known) = held.resources.get_mut(name) {
                change(known, u64::from(*count));
                if *known == 0 {
                    held.resources.remove(name);
                }
            } else if more {
                held.resources.insert(name.clone(), u64::from(*count));
            }
        }
    }
}

fn check_length(lease: Duration) -> Result<(), Refused> {
    if (Duration::from_millis(1)..=LEASE_MAX).contains(&lease) {
        return Ok(());
    }
    Err(Refused::Request {
        field: "lease",
        expected: "1 ms to 24 h",
    })
}

/// Takes what a task needs out of a room.
fn take_room(room: &mut Room, needs: &Needs) {
    if let Some(free) = &mut room.cpu_millis {
        *free = free.saturating_sub(needs.cpu_millis);
    }
    if let Some(free) = &mut room.memory_bytes {
        *free = free.saturating_sub(needs.memory_bytes);
    }
    for (name, count) in &needs.resources {
        if let Some(free) = room.resources.get_mut(name) {
            *free = free.saturating_sub(*count);
        }
    }
}

/// Whether one takes of what the other lacks.
fn competes(first: &Needs, other: &Needs, room: &Room) -> bool {
    let cpu = room.cpu_millis.is_some_and(|free| first.cpu_millis > free) && other.cpu_millis > 0;
    let memory = room
        .memory_bytes
        .is_some_and(|free| first.memory_bytes > free)
        && other.memory_bytes > 0;
    let named: BTreeSet<&str> = first
        .resources
        .iter()
        .filter(|(name, count)| room.resources.get(name).copied().unwrap_or(0) < *count)
        .map(|(name, _)| &**name)
        .collect();
    cpu || memory
        || other
            .resources
            .iter()
            .any(|(name, _)| named.contains(&**name))
}
