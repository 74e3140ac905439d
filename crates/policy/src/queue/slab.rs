//! Where entries live: in chunks that never move, so that a table of a million grows without copying one.

use alloc::vec::Vec;

/// Entries of a chunk.
const CHUNK: usize = 256;

/// Values by a small number, which is used again once the value is gone.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    used: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            used: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.used
    }

    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Option<T>>() + self.free.capacity() * 4
    }

    /// # Panics
    /// With 2^32 values.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.used += 1;
        if let Some(slot) = self.free.pop() {
            self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(value);
            return slot;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("a chunk was made");
        let slot = before + chunk.len();
        chunk.push(Some(value));
        u32::try_from(slot).expect("fewer than 2^32 entries, by the bounds of who uses it")
    }

    /// # Panics
    /// If there is no value.
    pub(super) fn remove(&mut self, slot: u32) -> T {
        let value = self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
            .take()
            .expect("an entry that is there");
        self.free.push(slot);
        self.used -= 1;
        value
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.chunks
            .get(slot as usize / CHUNK)?
            .get(slot as usize % CHUNK)?
            .as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(slot, value)| Some((slot as u32, value.as_ref()?)))
    }
}

impl<T> core::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, slot: u32) -> &T {
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
            .as_ref()
            .expect("an entry that is there")
    }
}

impl<T> core::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
            .as_mut()
            .expect("an entry that is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_nothing_else_moves() {
        let mut slab = Slab::new();
        let slots: Vec<u32> = (0..1000).map(|value| slab.insert(value)).collect();
        assert_eq!(slots, (0..1000).collect::<Vec<_>>());
        assert_eq!(slab.remove(300), 300);
        assert_eq!(slab.get(300), None);
        assert_eq!(slab.insert(5), 300);
        slab[300] += 1;
        assert_eq!((slab[300], slab[301], slab.len()), (6, 301, 1000));
        assert_eq!(slab.get(1000), None);
        assert_eq!(slab.iter().count(), 1000);
    }
}
