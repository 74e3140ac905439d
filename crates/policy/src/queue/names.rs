//! Values that many tasks have in common, kept once and named by a small number.

use alloc::collections::BTreeMap;

use super::slab::Slab;

/// Things by a key, as long as somebody refers to them.
#[derive(Debug)]
pub(super) struct Shared<K, V> {
    by_key: BTreeMap<K, u32>,
    things: Slab<Thing<K, V>>,
}

#[derive(Debug)]
struct Thing<K, V> {
    key: K,
    users: u32,
    value: V,
}

impl<K: Ord + Clone, V> Shared<K, V> {
    pub(super) const fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            things: Slab::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.things.len()
    }

    pub(super) fn find<Q>(&self, key: &Q) -> Option<u32>
    where
        K: core::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.by_key.get(key).copied()
    }

    /// Finds or makes a thing, and counts one more who refers to it.
    pub(super) fn hold<Q>(&mut self, key: &Q, make: impl FnOnce() -> (K, V)) -> u32
    where
        K: core::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        if let Some(&number) = self.by_key.get(key) {
            self.things[number].users += 1;
            return number;
        }
        let (key, value) = make();
        let number = self.things.insert(Thing {
            key: key.clone(),
            users: 1,
            value,
        });
        self.by_key.insert(key, number);
        number
    }

    /// Counts one more who refers to a thing.
    pub(super) fn again(&mut self, number: u32) {
        self.things[number].users += 1;
    }

    /// Counts one less; the last takes the thing away, and gets it.
    pub(super) fn drop(&mut self, number: u32) -> Option<V> {
        let thing = &mut self.things[number];
        thing.users -= 1;
        if thing.users > 0 {
            return None;
        }
        let thing = self.things.remove(number);
        self.by_key.remove(&thing.key);
        Some(thing.value)
    }

    pub(super) fn key(&self, number: u32) -> &K {
        &self.things[number].key
    }

    pub(super) fn get(&self, number: u32) -> Option<&V> {
        self.things.get(number).map(|thing| &thing.value)
    }

    pub(super) fn users(&self, number: u32) -> u32 {
        self.things.get(number).map_or(0, |thing| thing.users)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &K, &V)> {
        self.things
            .iter()
            .map(|(number, thing)| (number, &thing.key, &thing.value))
    }

    /// Bytes it takes, about, without what keys point to.
    pub(super) fn bytes(&self) -> usize {
        self.things.bytes() + self.by_key.len() * (size_of::<K>() + 12)
    }
}

impl<K, V> core::ops::Index<u32> for Shared<K, V> {
    type Output = V;

    #[inline]
    fn index(&self, number: u32) -> &V {
        &self.things[number].value
    }
}

impl<K, V> core::ops::IndexMut<u32> for Shared<K, V> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut V {
        &mut self.things[number].value
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;

    use super::*;

    #[test]
    fn a_thing_lives_as_long_as_somebody_refers_to_it() {
        let mut names: Shared<Box<str>, u32> = Shared::new();
        let a = names.hold("a", || ("a".into(), 1));
        let b = names.hold("b", || ("b".into(), 2));
        assert_eq!(names.hold("a", || unreachable!()), a);
        assert_eq!(names.drop(a), None);
        assert_eq!(names.drop(a), Some(1));
        assert_eq!((names.find("a"), names.find("b")), (None, Some(b)));
        names.again(b);
        assert_eq!((names.users(b), names.len()), (2, 1));
        assert_eq!(
            names.hold("c", || ("c".into(), 3)),
            a,
            "its slot is used again"
        );
    }
}
