//! Heads and bodies of tasks that came in lately: most tasks are leased soon after, and need not be read back from the file then.
//!
//! Bounded by bytes; the oldest go first. A body that is asked for leaves: who leases it again, after a failure, reads the file.

use super::code::wire::Sealed;
use flyball_policy::queue::TaskId;
use std::collections::VecDeque;

/// What an entry takes beside its bytes, about.
const ENTRY_BYTES: usize = 48;

/// Sealed rows by id.
#[derive(Debug)]
pub(super) struct RowCache {
    /// In the order of the ids, as they come in; rows that have left are none.
    entries: VecDeque<(TaskId, Option<Sealed>)>,
    bytes: usize,
    max_bytes: usize,
}

impl RowCache {
    pub(super) fn new(max_bytes: usize) -> RowCache {
        RowCache {
            entries: VecDeque::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// Keeps rows for a while.
    pub(super) fn put(&mut self, id: TaskId, rows: Sealed) {
        let cost = rows.len() + ENTRY_BYTES;
        if cost > self.max_bytes {
            // Neither is the one before it, if its body was given anew.
            drop(self.take(id));
            return;
        }
        if let Some((last, _)) = self.entries.back()
            && *last >= id
        {
            // A task whose body was given anew: the old one must not be found.
            if let Some(place) = self.place(id) {
                self.bytes += rows.len();
                let old = self.entries[place].1.replace(rows);
                self.bytes -= old.map_or(0, |old| old.len());
            }
        } else {
            self.bytes += cost;
            self.entries.push_back((id, Some(rows)));
        }
        while self.bytes > self.max_bytes {
            self.drop_oldest();
        }
    }

    /// Gives rows away.
    pub(super) fn take(&mut self, id: TaskId) -> Option<Sealed> {
        let place = self.place(id)?;
        let rows = self.entries[place].1.take()?;
        self.bytes -= rows.len();
        while self.entries.front().is_some_and(|(_, rows)| rows.is_none()) {
            self.drop_oldest();
        }
        Some(rows)
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// About how much memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    fn place(&self, id: TaskId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    fn drop_oldest(&mut self) {
        if let Some((_, rows)) = self.entries.pop_front() {
            self.bytes -= rows.map_or(0, |rows| rows.len()) + ENTRY_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize) -> Sealed {
        Sealed::of(&[], &vec![7; length])
    }

    #[test]
    fn the_oldest_go_first_and_taken_ones_cost_nothing() {
        let mut cache = RowCache::new(10 * (100 + ENTRY_BYTES));
        for id in 1..=20 {
            cache.put(TaskId(id), body(100));
        }
        assert!(cache.take(TaskId(10)).is_none());
        assert_eq!(cache.take(TaskId(11)).unwrap().len(), 100);
        assert!(cache.take(TaskId(11)).is_none());
        assert_eq!(cache.memory_bytes(), 9 * (100 + ENTRY_BYTES));
        for id in 12..=20 {
            assert!(cache.take(TaskId(id)).is_some());
        }
        assert_eq!(cache.memory_bytes(), 0);
        cache.put(TaskId(21), body(1 << 20));
        assert!(cache.take(TaskId(21)).is_none());
    }

    #[test]
    fn a_body_given_anew_replaces_the_old_one() {
        let mut cache = RowCache::new(10_000);
        cache.put(TaskId(1), body(10));
        cache.put(TaskId(2), body(20));
        cache.put(TaskId(1), body(30));
        assert_eq!(cache.take(TaskId(1)).unwrap().len(), 30);
        cache.put(TaskId(1), body(40));
        assert!(cache.take(TaskId(1)).is_none(), "it has left for good");
        assert_eq!(cache.take(TaskId(2)).unwrap().len(), 20);
        assert_eq!(cache.memory_bytes(), 0);
        cache.put(TaskId(3), body(10));
        cache.put(TaskId(3), body(10_000));
        assert!(
            cache.take(TaskId(3)).is_none(),
            "what does not fit takes the old one along"
        );
    }
}
