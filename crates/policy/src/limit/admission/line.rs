//! Those who wait, by class and order of arrival.

use alloc::collections::BTreeMap;
use core::time::Duration;

use flyball_core::time::Timestamp;

use super::PRIORITIES;

/// Names a call that waits. Later ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket {
    number: u64,
    rank: u8,
}

impl Ticket {
    pub(super) fn rank(self) -> usize {
        usize::from(self.rank).min(PRIORITIES - 1)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) arrived: Timestamp,
    /// What it was told.
    pub(super) until: Timestamp,
    /// The time it had when it arrived.
    pub(super) left: Duration,
    pub(super) cohort: u64,
    pub(super) deadline: Option<Timestamp>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// The most important first; by number, which is by arrival.
    by_rank: [BTreeMap<u64, Waiting>; PRIORITIES],
    len: u32,
    next: u64,
}

impl Line {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Whether somebody waits who is at least as important.
    pub(super) fn anybody_before(&self, rank: usize) -> bool {
        self.by_rank
            .iter()
            .take(rank + 1)
            .any(|line| !line.is_empty())
    }

    pub(super) fn push(&mut self, rank: usize, waiting: Waiting) -> Ticket {
        let rank = rank.min(PRIORITIES - 1);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_rank[rank].insert(number, waiting);
        self.len += 1;
        Ticket {
            number,
            rank: rank as u8,
        }
    }

    /// The most important class of which somebody waits.
    pub(super) fn first_rank(&self) -> Option<usize> {
        self.by_rank.iter().position(|line| !line.is_empty())
    }

    /// Takes the next of a class: the first who came, or the last.
    pub(super) fn take(&mut self, rank: usize, last_first: bool) -> Option<(Ticket, Waiting)> {
        let line = self.by_rank.get_mut(rank)?;
        let (number, waiting) = if last_first {
            line.pop_last()?
        } else {
            line.pop_first()?
        };
        self.len = self.len.saturating_sub(1);
        let rank = rank as u8;
        Some((Ticket { number, rank }, waiting))
    }

    pub(super) fn oldest(&self, rank: usize) -> Option<Waiting> {
        let (_, waiting) = self.by_rank.get(rank)?.first_key_value()?;
        Some(*waiting)
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let line = self.by_rank.get_mut(usize::from(ticket.rank))?;
        let waiting = line.remove(&ticket.number)?;
        self.len = self.len.saturating_sub(1);
        Some(waiting)
    }
}
