//! What becomes of a task that is out: heartbeats, ends, leases that run out.

use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::{Timestamp, WallTime};

use super::command::{Refused, Reply};
use super::effects::{Cause, Effects};
use super::entry::CANCEL;
use super::people::check_count;
use super::task::{Now, Outcome, Reason, State, TaskId, Token};
use super::{LEASE_MAX, Queue, TIMEOUT_GRACE};

/// The longest wait that somebody who failed may ask for.
const AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Queue {
    /// Has a lease end its length from now, but not long after the timeout.
    pub(super) fn extend(&mut self, slot: u32, now: Now, known: bool) -> WallTime {
        let entry = &self.tasks[slot];
        let timeout = self.specs.key(entry.spec).timeout;
        let run = &mut self.runs[entry.run];
        let before = run.expires;
        let mut length = run.length;
        if let (Some(timeout), Some(_)) = (timeout, run.since) {
            let left = (timeout + TIMEOUT_GRACE).saturating_sub(run.worked(now.mono));
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
        (paused, stood): (Option<bool>, Duration),
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
        run.stood = run.stood.max(stood);
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

    /// Ends waits before their time.
    pub(super) fn call_back(
        &mut self,
        now: Now,
        waits: &[(TaskId, u32)],
        effects: &mut Effects,
    ) -> Result<Reply, Refused> {
        check_count(waits)?;
        let mut changed = Vec::new();
        for &(id, started) in waits {
            let Some(slot) = self.index.get(id) else {
                continue;
            };
            let entry = &self.tasks[slot];
            let extra = entry.extra.as_ref();
            let waits = extra.is_some_and(|extra| extra.backoff.is_some());
            if waits && entry.attempts.started == started {
                self.detach(slot);
                self.place(slot, now, false, Cause::Ready, effects);
                changed.push(id);
            }
        }
        Ok(Reply::Changed(changed))
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
        let worked = self.runs[entry.run].worked(now.mono);
        self.release(slot, now.mono, effects);
        if self.tasks[slot].has(CANCEL) {
            self.stop(slot, now, effects);
        } else if timeout.is_some_and(|timeout| worked >= timeout) {
            self.fail(slot, Reason::TimedOut, true, None, now, effects);
        } else {
            self.lost(slot, Reason::LeaseExpired, Duration::ZERO, now, effects);
        }
    }

    /// Counts an attempt of which nothing was heard; the next one may follow after a wait.
    pub(super) fn lost(
        &mut self,
        slot: u32,
        reason: Reason,
        wait: Duration,
        now: Now,
        effects: &mut Effects,
    ) {
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
                wait,
                counted,
                max,
            };
            self.back_off(slot, wait, cause, now, effects);
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
}

pub(super) fn check_length(lease: Duration) -> Result<(), Refused> {
    if (Duration::from_millis(1)..=LEASE_MAX).contains(&lease) {
        return Ok(());
    }
    Err(Refused::Request {
        field: "lease",
        expected: "1 ms to 24 h",
    })
}
