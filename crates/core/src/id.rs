//! Ids: small integers that index arrays, and the set of classes as one word.
//!
//! A [`ClassId`] is always below [`MAX_CLASSES`], so it may index an array of that length without a check of its own and
//! a [`ClassSet`] is a bitmap of 64 bits.

use core::fmt;
use core::ops::{BitAnd, BitOr, Sub};

use crate::class::MAX_CLASSES;

/// A scheduling class, 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClassId(u8);

impl ClassId {
    /// Makes the id of class number `index`.
    ///
    /// # Panics
    /// If `index` is not below [`MAX_CLASSES`].
    #[inline]
    pub const fn new(index: u8) -> Self {
        assert!((index as usize) < MAX_CLASSES, "a class id is below 64");
        Self(index)
    }

    /// Makes the id of class number `index`, or `None` if that is not below [`MAX_CLASSES`].
    #[inline]
    pub const fn try_new(index: usize) -> Option<Self> {
        if index < MAX_CLASSES {
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// Returns the number, always below [`MAX_CLASSES`].
    #[inline]
    pub const fn index(self) -> usize {
        // The mask repeats the invariant where the compiler sees it, so that indexing needs no bounds check.
        (self.0 & (MAX_CLASSES as u8 - 1)) as usize
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of classes: a bitmap in one word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClassSet(u64);

impl ClassSet {
    /// No class.
    pub const EMPTY: Self = Self(0);
    /// Every class.
    pub const ALL: Self = Self(u64::MAX);

    /// Makes a set from a bitmap whose bit `i` stands for class `i`.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the bitmap, bit `i` for class `i`.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Makes the set of one class.
    #[inline]
    pub const fn only(class: ClassId) -> Self {
        Self(1 << class.index())
    }

    /// Adds a class.
    #[inline]
    pub const fn insert(&mut self, class: ClassId) {
        self.0 |= 1 << class.index();
    }

    /// Takes a class out.
    #[inline]
    pub const fn remove(&mut self, class: ClassId) {
        self.0 &= !(1 << class.index());
    }

    /// Says whether a class is in the set.
    #[inline]
    pub const fn contains(self, class: ClassId) -> bool {
        self.0 & (1 << class.index()) != 0
    }

    /// Says whether the set has no class.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the number of classes, 0 to 64.
    #[inline]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns the class with the lowest number.
    #[inline]
    pub const fn first(self) -> Option<ClassId> {
        if self.0 == 0 {
            None
        } else {
            Some(ClassId(self.0.trailing_zeros() as u8))
        }
    }

    /// Returns the classes of both sets.
    #[inline]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the classes that are in both sets.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the classes of this set that are not in `other`.
    #[inline]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns the classes in ascending order.
    #[inline]
    pub const fn iter(self) -> ClassIter {
        ClassIter(self.0)
    }
}

impl BitOr for ClassSet {
    type Output = Self;
    #[inline]
    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}

impl BitAnd for ClassSet {
    type Output = Self;
    #[inline]
    fn bitand(self, other: Self) -> Self {
        self.and(other)
    }
}

impl Sub for ClassSet {
    type Output = Self;
    #[inline]
    fn sub(self, other: Self) -> Self {
        self.minus(other)
    }
}

impl FromIterator<ClassId> for ClassSet {
    fn from_iter<I: IntoIterator<Item = ClassId>>(classes: I) -> Self {
        let mut set = Self::EMPTY;
        for class in classes {
            set.insert(class);
        }
        set
    }
}

impl IntoIterator for ClassSet {
    type Item = ClassId;
    type IntoIter = ClassIter;
    fn into_iter(self) -> ClassIter {
        self.iter()
    }
}

impl fmt::Debug for ClassSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|class| class.index()))
            .finish()
    }
}

/// The classes of a [`ClassSet`] in ascending order.
#[derive(Clone, Debug)]
pub struct ClassIter(u64);

impl Iterator for ClassIter {
    type Item = ClassId;

    #[inline]
    fn next(&mut self) -> Option<ClassId> {
        let class = ClassSet(self.0).first()?;
        self.0 &= self.0 - 1;
        Some(class)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.0.count_ones() as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for ClassIter {}

macro_rules! small_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(u16);

        impl $name {
            /// Makes the id with this number.
            #[inline]
            pub const fn new(number: u16) -> Self {
                Self(number)
            }

            /// Returns the number.
            #[inline]
            pub const fn get(self) -> u16 {
                self.0
            }

            /// Returns the number for indexing.
            #[inline]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

small_id! {
    /// A worker of a pool, by its number in the pool.
    WorkerId
}
small_id! {
    /// A kind of task, such as "thumbnail"; kinds are counted and bounded by whoever hands the ids out.
    KindId
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A class set behaves as a sorted set of numbers.
        #[test]
        fn a_class_set_is_a_set(left in proptest::collection::vec(0u8..64, 0..80), right in proptest::collection::vec(0u8..64, 0..80)) {
            let model = |numbers: &[u8]| numbers.iter().copied().map(usize::from).collect::<BTreeSet<_>>();
            let real = |numbers: &[u8]| numbers.iter().map(|n| ClassId::new(*n)).collect::<ClassSet>();
            let numbers = |set: ClassSet| set.iter().map(ClassId::index).collect::<Vec<_>>();
            let (ml, mr, l, r) = (model(&left), model(&right), real(&left), real(&right));
            prop_assert_eq!(numbers(l), ml.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(numbers(l | r), ml.union(&mr).copied().collect::<Vec<_>>());
            prop_assert_eq!(numbers(l & r), ml.intersection(&mr).copied().collect::<Vec<_>>());
            prop_assert_eq!(numbers(l - r), ml.difference(&mr).copied().collect::<Vec<_>>());
            prop_assert_eq!(l.len() as usize, ml.len());
            prop_assert_eq!(l.first().map(ClassId::index), ml.first().copied());
            for class in r {
                prop_assert_eq!(l.contains(class), ml.contains(&class.index()));
            }
        }
    }

    #[test]
    fn class_ids_are_below_64() {
        assert_eq!(ClassId::try_new(63), Some(ClassId::new(63)));
        assert_eq!(ClassId::try_new(64), None);
        let mut all = ClassSet::ALL;
        all.remove(ClassId::new(63));
        assert_eq!(all.len(), 63);
    }
}
