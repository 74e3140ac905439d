//! Objects with names of the client's choosing: one that names a key twice is refused, since readers disagree on which one counts.

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

struct Keys<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry()? {
            if map.insert(key, value).is_some() {
                return Err(de::Error::custom("a key is given twice"));
            }
        }
        Ok(map)
    }
}

/// Reads an object.
pub(super) fn map<'de, D, V>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    deserializer.deserialize_map(Keys(PhantomData))
}

struct Maybe<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Maybe<V> {
    type Value = Option<BTreeMap<String, V>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        map(deserializer).map(Some)
    }
}

/// Reads an object or null.
pub(super) fn option<'de, D, V>(deserializer: D) -> Result<Option<BTreeMap<String, V>>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    deserializer.deserialize_option(Maybe(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Both {
        #[serde(deserialize_with = "map")]
        sure: BTreeMap<String, u32>,
        #[serde(default, deserialize_with = "option")]
        maybe: Option<BTreeMap<String, u32>>,
    }

    #[test]
    fn keys_are_given_once() {
        let read = |text: &str| serde_json::from_str::<Both>(text);
        let both = read(r#"{"sure":{"a":1},"maybe":{"b":2}}"#).unwrap();
        assert_eq!((both.sure["a"], both.maybe.unwrap()["b"]), (1, 2));
        assert!(read(r#"{"sure":{},"maybe":null}"#).unwrap().maybe.is_none());
        assert!(read(r#"{"sure":{}}"#).unwrap().maybe.is_none());
        assert!(read(r#"{"sure":{"a":1,"a":1}}"#).is_err());
        assert!(read(r#"{"sure":{},"maybe":{"a":1,"\u0061":1}}"#).is_err());
    }
}
