//! What a table knows of one key, or of a bucket that keys share.

use alloc::boxed::Box;

use super::limits::{Excess, KeyLimits};
use super::line::Line;

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// The entry is nobody's.
    Free,
    /// No task waits; it is kept for what runs, or for its own limits.
    Idle,
    /// In the ring.
    Turn,
    /// At its limit on concurrency.
    Held,
    /// Tasks wait for the bucket until that time.
    Refill(u64),
    /// Nothing is left of it but a bucket that is full at that time.
    Fading(u64),
}

pub(super) struct Entry<T> {
    pub(super) key: u64,
    pub(super) name: Box<str>,
    pub(super) shared: bool,
    pub(super) own: bool,
    pub(super) limits: KeyLimits,
    pub(super) interval_ns: u64,
    /// When the bucket is full again, ns (the "theoretical arrival time").
    pub(super) full_at: u64,
    pub(super) running: u32,
    pub(super) started_count: u64,
    /// Tasks never started.
    pub(super) waiting: Line<T>,
    /// How many of those are no longer wanted, about: see `KeyTable::note_dead`.
    pub(super) dead: usize,
    /// Tasks that hold a permit and became ready again.
    pub(super) started: Line<T>,
    pub(super) stand: Stand,
    /// Neighbours in the ring.
    pub(super) before: u32,
    pub(super) after: u32,
}

impl<T> Entry<T> {
    /// When the bucket holds a token, ns.
    fn token_at(&self) -> u64 {
        let slack = self
            .interval_ns
            .saturating_mul(u64::from(self.limits.burst) - 1);
        self.full_at.saturating_sub(slack)
    }

    pub(super) fn has_token(&self, now: u64) -> bool {
        self.token_at() <= now
    }

    pub(super) fn is_at_concurrency(&self) -> bool {
        self.limits
            .concurrency
            .is_some_and(|most| self.running >= most)
    }

    /// Whether as many wait as may.
    pub(super) fn is_full(&self) -> bool {
        self.limits
            .queued
            .is_some_and(|most| self.waiting.len() >= most as usize)
    }

    pub(super) fn may_start(&self, now: u64) -> bool {
        self.limits.observe || !self.is_at_concurrency() && self.has_token(now)
    }

    pub(super) fn stand(&self, now: u64) -> Stand {
        if !self.started.is_empty() {
            Stand::Turn
        } else if !self.waiting.is_empty() {
            if self.limits.observe {
                Stand::Turn
            } else if self.is_at_concurrency() {
                Stand::Held
            } else if self.token_at() > now {
                Stand::Refill(self.token_at())
            } else {
                Stand::Turn
            }
        } else if self.running > 0 || self.own {
            Stand::Idle
        } else if self.full_at > now {
            Stand::Fading(self.full_at)
        } else {
            Stand::Free
        }
    }

    /// Counts a start. One that only observing limits allow is of no bucket, and is counted in `excess`.
    pub(super) fn start(&mut self, now: u64, excess: &mut Excess) {
        excess.concurrency += u64::from(self.is_at_concurrency());
        self.running += 1;
        self.started_count += 1;
        if self.has_token(now) {
            self.full_at = self.full_at.max(now).saturating_add(self.interval_ns);
        } else {
            excess.rate += 1;
        }
    }

    pub(super) fn set_limits(&mut self, limits: KeyLimits, own: bool, now: u64) {
        let interval_ns = limits.interval_ns();
        // What was spent under the old rate counts for at most an empty bucket of the new one.
        let depth = interval_ns.saturating_mul(u64::from(limits.burst));
        self.full_at = self.full_at.min(now.saturating_add(depth));
        self.limits = limits;
        self.interval_ns = interval_ns;
        self.own = own;
    }
}
