//! Finds the slot of a task by its name.
//!
//! Names are given in order and forgotten about in order, so those that are there lie close together: a page covers 64 names in a row,
//! and the pages stand in a tree. That is 4 to 5 bytes a task, and at worst, where one task of each 64 is kept for ever, 280.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use super::task::TaskId;

const PAGE: u64 = 64;
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Page {
    used: u32,
    slots: [u32; PAGE as usize],
}

/// Slots by names.
#[derive(Debug, Default)]
pub(super) struct Index {
    pages: BTreeMap<u64, Box<Page>>,
}

impl Index {
    #[inline]
    pub(super) fn get(&self, id: TaskId) -> Option<u32> {
        let slot = self.pages.get(&(id.0 / PAGE))?.slots[(id.0 % PAGE) as usize];
        (slot != NONE).then_some(slot)
    }

    pub(super) fn insert(&mut self, id: TaskId, slot: u32) {
        let page = self.pages.entry(id.0 / PAGE).or_insert_with(|| {
            Box::new(Page {
                used: 0,
                slots: [NONE; PAGE as usize],
            })
        });
        let place = &mut page.slots[(id.0 % PAGE) as usize];
        page.used += u32::from(*place == NONE);
        *place = slot;
    }

    pub(super) fn remove(&mut self, id: TaskId) {
        let number = id.0 / PAGE;
        let Some(page) = self.pages.get_mut(&number) else {
            return;
        };
        let place = &mut page.slots[(id.0 % PAGE) as usize];
        page.used -= u32::from(*place != NONE);
        *place = NONE;
        if page.used == 0 {
            self.pages.remove(&number);
        }
    }

    /// Bytes it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.pages.len() * (size_of::<Page>() + 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_and_go_with_their_names() {
        let mut index = Index::default();
        for id in 1..=200 {
            index.insert(TaskId(id), id as u32 * 2);
        }
        assert_eq!(index.pages.len(), 4);
        assert_eq!(index.get(TaskId(77)), Some(154));
        assert_eq!(index.get(TaskId(0)), None);
        assert_eq!(index.get(TaskId(u64::MAX)), None);
        for id in 1..=200 {
            index.remove(TaskId(id));
            index.remove(TaskId(id));
            assert_eq!(index.get(TaskId(id)), None);
        }
        assert!(index.pages.is_empty());
    }
}
