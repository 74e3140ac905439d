//! The queue of one class: in order of arrival, by due time, by virtual time, and what is tagged for one worker.
//!
//! Mirrors what the executor keeps for a class, without its concurrency. Invariants: a queued task stands in exactly one
//! of the four parts; `untagged` and `tagged` count them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use flyball_core::rng::Rng;

use crate::index_set::IndexSet;

/// Index of a task in the engine's slab.
pub(crate) type TaskIndex = u32;

/// A task in a heap: smaller keys first, then in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Keyed {
    key: u64,
    arrival: u64,
    task: TaskIndex,
}

/// Queued tasks of one class.
pub(crate) struct ClassQueue {
    /// With the due time of each, which never decreases from front to back.
    fifo: VecDeque<(u64, TaskIndex)>,
    /// By due time.
    ordered: BinaryHeap<Reverse<Keyed>>,
    /// Futures ahead of their class's virtual time, by their own.
    late: BinaryHeap<Reverse<Keyed>>,
    by_worker: Vec<VecDeque<TaskIndex>>,
    /// Workers for which something is tagged.
    holders: IndexSet,
    tagged: usize,
    arrivals: u64,
}

impl ClassQueue {
    /// `workers` is 0 when nothing will ever be tagged.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            fifo: VecDeque::new(),
            ordered: BinaryHeap::new(),
            late: BinaryHeap::new(),
            by_worker: vec![VecDeque::new(); workers],
            holders: IndexSet::new(workers),
            tagged: 0,
            arrivals: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.untagged() + self.tagged
    }

    pub(crate) fn untagged(&self) -> usize {
        self.fifo.len() + self.ordered.len() + self.late.len()
    }

    pub(crate) fn tagged(&self) -> usize {
        self.tagged
    }

    /// How many tasks are tagged for `worker`.
    pub(crate) fn tagged_for(&self, worker: usize) -> usize {
        self.by_worker[worker].len()
    }

    /// Appends a task whose due time is not before those appended so far.
    pub(crate) fn push(&mut self, due: u64, task: TaskIndex) {
        match self.fifo.back() {
            Some(&(last, _)) if last > due => self.push_ordered(due, task),
            _ => self.fifo.push_back((due, task)),
        }
    }

    /// Adds a task that runs by its due time.
    pub(crate) fn push_ordered(&mut self, due: u64, task: TaskIndex) {
        let keyed = self.keyed(due, task);
        self.ordered.push(Reverse(keyed));
    }

    /// Adds a future that is ahead of its class's virtual time.
    pub(crate) fn push_late(&mut self, virtual_time: u64, task: TaskIndex) {
        let keyed = self.keyed(virtual_time, task);
        self.late.push(Reverse(keyed));
    }

    fn keyed(&mut self, key: u64, task: TaskIndex) -> Keyed {
        self.arrivals += 1;
        Keyed {
            key,
            arrival: self.arrivals,
            task,
        }
    }

    /// Tags a task for `worker`.
    pub(crate) fn push_tagged(&mut self, worker: usize, task: TaskIndex) {
        self.by_worker[worker].push_back(task);
        self.holders.insert(worker);
        self.tagged += 1;
    }

    /// The untagged task that runs next if no future is better: of the earlier due time.
    pub(crate) fn peek(&self) -> Option<TaskIndex> {
        match (self.fifo.front(), self.ordered.peek()) {
            (Some(&(due, task)), Some(Reverse(keyed))) => {
                Some(if keyed.key < due { keyed.task } else { task })
            }
            (Some(&(_, task)), None) => Some(task),
            (None, Some(Reverse(keyed))) => Some(keyed.task),
            (None, None) => self.late.peek().map(|Reverse(keyed)| keyed.task),
        }
    }

    /// Takes the task that [`peek`](Self::peek) shows.
    pub(crate) fn pop(&mut self) -> Option<TaskIndex> {
        let from_heap = match (self.fifo.front(), self.ordered.peek()) {
            (Some(&(due, _)), Some(Reverse(keyed))) => keyed.key < due,
            (fifo, _) => fifo.is_none(),
        };
        if !from_heap {
            return self.fifo.pop_front().map(|(_, task)| task);
        }
        let heap = if self.ordered.is_empty() {
            &mut self.late
        } else {
            &mut self.ordered
        };
        heap.pop().map(|Reverse(keyed)| keyed.task)
    }

    /// Whether nothing is queued but futures that are ahead.
    pub(crate) fn only_late(&self) -> bool {
        self.fifo.is_empty() && self.ordered.is_empty() && self.tagged == 0
    }

    /// The lowest virtual time of a future that is ahead.
    pub(crate) fn first_late(&self) -> Option<u64> {
        self.late.peek().map(|Reverse(keyed)| keyed.key)
    }

    /// Takes the future of the lowest virtual time.
    pub(crate) fn pop_late(&mut self) -> Option<TaskIndex> {
        self.late.pop().map(|Reverse(keyed)| keyed.task)
    }

    /// Takes everything that is ordered by due time, for new keys.
    pub(crate) fn drain_ordered(&mut self) -> Vec<TaskIndex> {
        let mut tasks = std::mem::take(&mut self.ordered).into_vec();
        tasks.sort_by_key(|Reverse(keyed)| keyed.arrival);
        tasks.into_iter().map(|Reverse(keyed)| keyed.task).collect()
    }

    /// The oldest task tagged for `worker`.
    pub(crate) fn peek_tagged(&self, worker: usize) -> Option<TaskIndex> {
        self.by_worker.get(worker)?.front().copied()
    }

    /// Takes the oldest task tagged for `worker`.
    pub(crate) fn pop_tagged(&mut self, worker: usize) -> Option<TaskIndex> {
        let task = self.by_worker.get_mut(worker)?.pop_front()?;
        self.after_removal(worker);
        Some(task)
    }

    /// Takes the youngest task tagged for `worker`, to move it elsewhere.
    pub(crate) fn pop_tagged_last(&mut self, worker: usize) -> Option<TaskIndex> {
        let task = self.by_worker.get_mut(worker)?.pop_back()?;
        self.after_removal(worker);
        Some(task)
    }

    /// Takes the oldest task of a victim: of two workers drawn at random the one with more tagged for it.
    pub(crate) fn steal(&mut self, rng: &mut Rng) -> Option<(usize, TaskIndex)> {
        let first = self.holders.choose(rng)?;
        let second = self.holders.choose(rng)?;
        let victim = if self.by_worker[first].len() >= self.by_worker[second].len() {
            first
        } else {
            second
        };
        self.pop_tagged(victim).map(|task| (victim, task))
    }

    fn after_removal(&mut self, worker: usize) {
        self.tagged -= 1;
        if self.by_worker[worker].is_empty() {
            self.holders.remove(worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_decide_between_the_parts() {
        let mut queue = ClassQueue::new(0);
        queue.push(10, 0);
        queue.push(20, 1);
        queue.push(15, 2);
        queue.push_ordered(5, 3);
        queue.push_late(0, 4);
        let order: Vec<u32> = std::iter::from_fn(|| {
            let next = queue.peek();
            assert_eq!(queue.pop(), next);
            next
        })
        .collect();
        assert_eq!(order, [3, 0, 2, 1, 4]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn tags_are_counted_and_stolen_from_the_oldest() {
        let mut queue = ClassQueue::new(3);
        let mut rng = Rng::seeded(1);
        for task in 0..4 {
            queue.push_tagged(1, task);
        }
        assert_eq!(queue.steal(&mut rng), Some((1, 0)));
        assert_eq!(queue.pop_tagged(1), Some(1));
        assert_eq!(queue.pop_tagged_last(1), Some(3));
        assert_eq!((queue.tagged(), queue.tagged_for(1)), (1, 1));
        assert_eq!(queue.steal(&mut rng), Some((1, 2)));
        assert_eq!(queue.steal(&mut rng), None);
        assert_eq!(queue.len(), 0);
    }
}
