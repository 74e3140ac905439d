//! Tasks that are no longer wanted while they wait.

use super::{KeyTable, NONE, bucket_of};

impl<T> KeyTable<T> {
    /// Counts a task of the key that waits, and was never started, as no longer wanted.
    ///
    /// Once they are half of what the key has waiting, all tasks of the key for which `keep` says no go to `dropped`, though the key
    /// may be at a limit: so they do not fill its queue until it has a turn. That is at most two looks for each task so counted.
    /// One that has gone meanwhile, or stands in a bucket that the key has left, may be counted; it only makes the next look come sooner.
    pub fn note_dead(
        &mut self,
        key: u64,
        mut keep: impl FnMut(&T) -> bool,
        mut dropped: impl FnMut(T),
    ) {
        let place = match self.find(key) {
            Some(place) => place,
            None => self.overflow[bucket_of(key)],
        };
        if place == NONE {
            return;
        }
        let entry = &mut self.entries[place as usize];
        entry.dead += 1;
        let before = entry.waiting.len();
        if entry.dead * 2 < before {
            return;
        }
        entry.dead = 0;
        entry.waiting.retain(&mut keep, &mut dropped);
        self.len -= before - entry.waiting.len();
        self.place_again(place);
    }
}
