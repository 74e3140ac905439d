//! A set of small numbers with constant-time insertion, removal and choice of a random member.
//!
//! Members stand in a dense list, and each number knows its place in it; removal moves the last member into the gap. The
//! order depends on nothing but the operations, so runs repeat.

use flyball_core::rng::Rng;

const ABSENT: u32 = u32::MAX;

/// A set of numbers below a bound.
#[derive(Debug, Clone)]
pub(crate) struct IndexSet {
    members: Vec<u32>,
    place: Vec<u32>,
}

impl IndexSet {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            members: Vec::new(),
            place: vec![ABSENT; bound],
        }
    }

    #[inline]
    pub(crate) fn contains(&self, number: usize) -> bool {
        self.place[number] != ABSENT
    }

    #[inline]
    pub(crate) fn insert(&mut self, number: usize) {
        if !self.contains(number) {
            self.place[number] = self.members.len() as u32;
            self.members.push(number as u32);
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, number: usize) {
        let place = std::mem::replace(&mut self.place[number], ABSENT);
        if place != ABSENT {
            self.members.swap_remove(place as usize);
            if let Some(&moved) = self.members.get(place as usize) {
                self.place[moved as usize] = place;
            }
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member, each equally likely.
    #[inline]
    pub(crate) fn choose(&self, rng: &mut Rng) -> Option<usize> {
        match self.members.len() {
            0 => None,
            1 => Some(self.members[0] as usize),
            len => Some(self.members[rng.below(len as u64) as usize] as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn behaves_like_a_set() {
        let mut rng = Rng::seeded(5);
        let mut set = IndexSet::new(20);
        let mut model = BTreeSet::new();
        for _ in 0..5_000 {
            let number = rng.below(20) as usize;
            if rng.chance(0.5) {
                set.insert(number);
                model.insert(number);
            } else {
                set.remove(number);
                model.remove(&number);
            }
            assert_eq!(set.is_empty(), model.is_empty());
            assert_eq!(set.members.len(), model.len());
            match set.choose(&mut rng) {
                Some(member) => assert!(model.contains(&member) && set.contains(member)),
                None => assert!(model.is_empty()),
            }
        }
    }
}
