//! The waiting tasks of one key: a queue as long as ranks arrive in order, a heap for those that do not.

use alloc::collections::{BinaryHeap, VecDeque};
use core::cmp::Ordering;

struct Item<T> {
    rank: u64,
    sequence: u64,
    task: T,
}

impl<T> Item<T> {
    fn order(&self) -> (u64, u64) {
        (self.rank, self.sequence)
    }
}

impl<T> PartialEq for Item<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl<T> Eq for Item<T> {}

impl<T> PartialOrd for Item<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Item<T> {
    /// The other way round: the heap's greatest is the one that goes first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.order().cmp(&self.order())
    }
}

pub(super) struct Line<T> {
    /// Ranks that do not fall.
    in_order: VecDeque<Item<T>>,
    /// Tasks that came after one of a higher rank.
    early: BinaryHeap<Item<T>>,
}

impl<T> Line<T> {
    pub(super) fn new() -> Self {
        Line {
            in_order: VecDeque::new(),
            early: BinaryHeap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.early.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn push(&mut self, rank: u64, sequence: u64, task: T) {
        let item = Item {
            rank,
            sequence,
            task,
        };
        if self.in_order.back().is_none_or(|last| last.rank <= rank) {
            self.in_order.push_back(item);
        } else {
            self.early.push(item);
        }
    }

    fn front_item(&self) -> Option<&Item<T>> {
        match (self.in_order.front(), self.early.peek()) {
            (Some(a), Some(b)) => Some(if a.order() < b.order() { a } else { b }),
            (a, b) => a.or(b),
        }
    }

    /// The task that goes first.
    pub(super) fn first(&self) -> Option<&T> {
        self.front_item().map(|item| &item.task)
    }

    /// Rank and sequence of the task that goes first.
    pub(super) fn front(&self) -> Option<(u64, u64)> {
        self.front_item().map(Item::order)
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let from_heap = match (self.in_order.front(), self.early.peek()) {
            (Some(a), Some(b)) => b.order() < a.order(),
            (a, _) => a.is_none(),
        };
        let item = if from_heap {
            self.early.pop()
        } else {
            self.in_order.pop_front()
        };
        item.map(|item| item.task)
    }

    /// Drops what is dead at the front.
    pub(super) fn drop_front(
        &mut self,
        is_live: &mut impl FnMut(&T) -> bool,
        dropped: &mut impl FnMut(T),
    ) {
        while let Some(item) = self.front_item()
            && !is_live(&item.task)
            && let Some(task) = self.pop()
        {
            dropped(task);
        }
    }

    /// Drops what `keep` says no to, in any order.
    pub(super) fn retain(
        &mut self,
        keep: &mut impl FnMut(&T) -> bool,
        dropped: &mut impl FnMut(T),
    ) {
        for _ in 0..self.in_order.len() {
            if let Some(item) = self.in_order.pop_front() {
                if keep(&item.task) {
                    self.in_order.push_back(item);
                } else {
                    dropped(item.task);
                }
            }
        }
        for item in core::mem::take(&mut self.early) {
            if keep(&item.task) {
                self.early.push(item);
            } else {
                dropped(item.task);
            }
        }
    }
}
