//! The calendar: an entry stays scheduled, and each of its ticks makes a task of its own.
//!
//! What is kept of an entry is the time up to which its ticks are done. It only grows, and is written together with the tasks that ticks made: no tick
//! starts twice, though the process die in between or the wall clock go back. (After a clock that was ahead has been put right, an entry is
//! silent until it has caught up.)

use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::WallTime;

use super::Queue;
use super::effects::{Cause, Effects};
use super::entry::CANCEL;
use super::task::{Missed, Now, Overlap, Reason, State, TaskId};

/// Runs that are made of missed ticks at most, runs that may wait for the last one, and ticks done by one command.
pub(super) const RUNS_MAX: usize = 100;
/// The least grace: a tick is always done a little late, and with none at all each would count as missed.
const GRACE_MIN: Duration = Duration::from_secs(1);

impl Queue {
    /// Has an entry wait for its next tick; ends it if there is none.
    pub(super) fn schedule(&mut self, slot: u32, now: Now, cause: Cause, effects: &mut Effects) {
        match self.next_tick(slot) {
            Some(at) => {
                self.wait_until(slot, at);
                self.turn(slot, State::Scheduled, cause, effects);
            }
            None => {
                let cause = Cause::CalendarOver;
                self.end(slot, State::Completed, None, cause, now, effects);
            }
        }
    }

    fn next_tick(&self, slot: u32) -> Option<WallTime> {
        let cron = self.tasks[slot].extra.as_ref()?.cron.as_ref()?;
        self.calendar
            .next(&cron.cron, cron.ticked)
            .filter(|at| *at > cron.ticked)
    }

    /// Does the ticks of an entry that are due. Answers whether it is one.
    pub(super) fn tick_entry(&mut self, slot: u32, now: Now, effects: &mut Effects) -> bool {
        let Some(cron) = self.tasks[slot]
            .extra
            .as_ref()
            .and_then(|extra| extra.cron.as_ref())
        else {
            return false;
        };
        let policy = cron.cron.missed;
        let limit = now.wall.saturating_sub(cron.cron.grace.max(GRACE_MIN));
        let mut tick = WallTime::from_unix_nanos(self.tasks[slot].moment);
        self.detach(slot);
        let mut made_up = 0;
        for _ in 0..RUNS_MAX {
            if tick > now.wall {
                break;
            }
            let mut done = tick;
            if tick < limit {
                let all = policy == Missed::All && made_up + 1 < RUNS_MAX;
                if policy != Missed::Skip {
                    self.start_tick(slot, tick, now, effects);
                    made_up += 1;
                }
                if !all {
                    // The others that are too late are left out at once, however many they are.
                    done = WallTime::from_unix_nanos(limit.unix_nanos() - 1).max(tick);
                    self.note(slot, Cause::TicksMissed(done), effects);
                }
            } else {
                self.start_tick(slot, tick, now, effects);
            }
            self.set_ticked(slot, done);
            match self.next_tick(slot) {
                Some(at) => tick = at,
                None => {
                    let cause = Cause::CalendarOver;
                    self.end(slot, State::Completed, None, cause, now, effects);
                    return true;
                }
            }
        }
        self.wait_until(slot, tick);
        effects.changed.push(self.tasks[slot].id);
        true
    }

    fn set_ticked(&mut self, slot: u32, at: WallTime) {
        if let Some(cron) = self.entries(slot) {
            cron.ticked = cron.ticked.max(at);
        }
    }

    pub(super) fn entries(&mut self, slot: u32) -> Option<&mut super::entry::Entries> {
        self.tasks[slot].extra.as_mut()?.cron.as_deref_mut()
    }

    fn start_tick(&mut self, slot: u32, tick: WallTime, now: Now, effects: &mut Effects) {
        let Some(cron) = self.entries(slot) else {
            return;
        };
        let overlap = cron.cron.overlap;
        if !cron.runs.is_empty() && (overlap == Overlap::Skip || cron.runs.len() >= RUNS_MAX) {
            self.note(slot, Cause::TickOverlapped(tick), effects);
            return;
        }
        let mut runs: Vec<TaskId> = cron.runs.iter().copied().collect();
        if overlap == Overlap::Replace {
            for run in &runs {
                self.take_back(*run, now, effects);
            }
            runs.retain(|run| self.state(*run).is_some_and(|state| !state.is_terminal()));
        }
        if self.live() >= self.settings.max_tasks {
            self.note(slot, Cause::TickRefused(tick), effects);
            return;
        }
        let id = self.spawn(slot, runs, tick, now, effects);
        if self.state(id).is_some_and(|state| !state.is_terminal())
            && let Some(cron) = self.entries(slot)
        {
            cron.runs.insert(id);
        }
    }

    /// Cancels a run, as the next one takes its place.
    fn take_back(&mut self, id: TaskId, now: Now, effects: &mut Effects) {
        let Some(slot) = self.index.get(id) else {
            return;
        };
        let entry = &mut self.tasks[slot];
        if entry.state.is_terminal() || entry.has(CANCEL) {
            return;
        }
        entry.reason = Some(Reason::Replaced);
        self.cancel_one(slot, now, effects);
    }
}
