//! From the hash of a key to its place: a hash table with chains of numbers, as the keys come hashed.

use alloc::vec;
use alloc::vec::Vec;

use super::NONE;

/// Heads of a new index.
const HEADS_MIN: usize = 16;

pub(super) struct Index {
    /// First place of each chain; a power of two of them, at least as many as keys.
    heads: Vec<u32>,
    /// The next place in the chain, by place.
    next: Vec<u32>,
    len: usize,
}

impl Index {
    pub(super) fn new() -> Self {
        Index {
            heads: vec![NONE; HEADS_MIN],
            next: Vec::new(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn head(&self, key: u64) -> usize {
        key as usize & (self.heads.len() - 1)
    }

    /// The place of a key; `key_at` tells the key of a place.
    pub(super) fn find(&self, key: u64, key_at: impl Fn(u32) -> u64) -> Option<u32> {
        let mut place = self.heads[self.head(key)];
        while place != NONE && key_at(place) != key {
            place = self.next[place as usize];
        }
        (place != NONE).then_some(place)
    }

    /// Enters a place whose key is not known yet.
    pub(super) fn insert(&mut self, place: u32, key: u64, key_at: impl Fn(u32) -> u64) {
        if self.len == self.heads.len() {
            self.grow(key_at);
        }
        if self.next.len() <= place as usize {
            self.next.resize(place as usize + 1, NONE);
        }
        let head = self.head(key);
        self.next[place as usize] = self.heads[head];
        self.heads[head] = place;
        self.len += 1;
    }

    /// Removes a place that was entered with this key.
    pub(super) fn remove(&mut self, place: u32, key: u64) {
        let head = self.head(key);
        let next = self.next[place as usize];
        if self.heads[head] == place {
            self.heads[head] = next;
        } else {
            let mut before = self.heads[head];
            while self.next[before as usize] != place {
                before = self.next[before as usize];
            }
            self.next[before as usize] = next;
        }
        self.len -= 1;
    }

    fn grow(&mut self, key_at: impl Fn(u32) -> u64) {
        let doubled = vec![NONE; self.heads.len() * 2];
        for mut place in core::mem::replace(&mut self.heads, doubled) {
            while place != NONE {
                let after = self.next[place as usize];
                let head = self.head(key_at(place));
                self.next[place as usize] = self.heads[head];
                self.heads[head] = place;
                place = after;
            }
        }
    }
}
