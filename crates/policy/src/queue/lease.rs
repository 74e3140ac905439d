//! Handing tasks out, and what becomes of those that are out.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use super::attempt::check_length;
use super::command::{Ask, Granted, Kinds, Refused, Reply, Room};
use super::effects::{Cause, Effects};
use super::entry::Run;
use super::line::{LaneKey, NO_NEEDS, Rank, lacks};
use super::room::{competes, take_room};
use super::task::{Now, State, Token, Via};
use super::{
    ASKED_WITHIN, ASKERS_MAX, Asker, BATCH_MAX, PATIENCE, PRECEDENCE_MAX, Queue, STEPS_MAX, valid,
};
use crate::limit::{RetryBudget, RetryBudgetConfig};

/// Kinds that one ask names: they are remembered, to say who takes what.
const KINDS_MAX: usize = 1_000;

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
    /// Tasks whose deadlines turned out to have passed.
    late: usize,
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
        for kinds in [ask.handlers, ask.commands, ask.http] {
            if let Kinds::Only(names) | Kinds::Except(names) = kinds
                && (names.len() > KINDS_MAX
                    || names.iter().any(|name| name.len() > valid::KIND_MAX))
            {
                return request("kinds", "at most 1,000 names of 1 to 128 bytes");
            }
        }
        self.tick(now, effects);
        self.asked(now, ask);
        let mut wanted = Wanted {
            handlers: self.numbers(ask.handlers),
            commands: self.numbers(ask.commands),
            http: self.numbers(ask.http),
            room: ask.room.cloned(),
            late: 0,
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
        for candidate in &candidates {
            self.lines.catch_up(candidate.class);
        }
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
            // All the while there was not room enough: what there was at most once is no longer to be hoped for.
            self.see_anew();
            return;
        }
        let key = *self.lines.lanes.key(lane);
        let class = &self.lines.classes[key.class];
        let limited = class
            .rule
            .concurrency
            .is_some_and(|limit| class.running() >= u64::from(limit));
        if class.paused || self.lines.kinds[key.kind].paused || limited {
            // It could not start if there were room: none is kept for it.
            self.lines.lanes[lane].short_since = None;
            self.first = None;
            return;
        }
        let Some(room) = &wanted.room else {
            return;
        };
        let may = ask.above.is_none_or(|above| class.rule.priority > above)
            && self.lane_open(now, &key, wanted)
            && lacks(self.lines.needs.key(key.needs), room).is_none();
        if !may {
            return;
        }
        let Some(rank) = self.lines.peek(lane) else {
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
            let Some(rank) = self.lines.peek(lane) else {
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
        wanted: &mut Wanted,
        effects: &mut Effects,
    ) -> Option<(u32, Rank)> {
        let lanes = candidate.lanes.as_mut()?;
        loop {
            if wanted.late >= STEPS_MAX {
                // The clock may have jumped past the deadlines of a million: the rest is for ticks, and who asks may ask again.
                effects.ready = true;
                return None;
            }
            let Reverse((rank, lane)) = lanes.pop()?;
            if self.lines.lanes.get(lane).is_none() {
                continue;
            }
            // Turns have changed, keys may have filled, and tasks may have left since the lane was looked at.
            let Some(current) = self.lines.peek(lane) else {
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
                wanted.late += 1;
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
        let config = RetryBudgetConfig {
            ratio,
            observe: self.settings.retry_observe,
            ..RetryBudgetConfig::default()
        };
        let budget = self.lines.kinds[key.kind].budget.get_or_insert_with(|| {
            let budget = RetryBudget::new(config);
            Box::new(budget.expect("a ratio of at most 1, and the usual settings"))
        });
        if *budget.config() != config {
            // In its range, as above.
            let _ = budget.set_config(config);
        }
        if !key.again {
            budget.deposit();
            return true;
        }
        let refused = budget.stats(now.mono).refused;
        if budget.withdraw(now.mono) {
            self.figures.retry_excess += budget.stats(now.mono).refused - refused;
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
        let key = self.lines.lines.key(line).key;
        self.figures.key_excess += u64::from(self.lines.key_is_at_limit(key));
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
            stood: Duration::ZERO,
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
}
