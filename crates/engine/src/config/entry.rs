//! Fields of one map in a list of the configuration, and what is wrong with one of them.
//!
//! A number may stand as text, as in the rest of the configuration. What was found is told as it was written, so that a text is seen to be one.

use std::fmt;

use serde_json::{Map, Value as Json};

use super::value::clip;

/// What is wrong with a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The field; empty for the map as a whole.
    pub(crate) field: &'static str,
    pub(crate) found: String,
    pub(crate) expected: String,
}

impl Wrong {
    pub(crate) fn new(
        field: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Wrong {
        Wrong {
            field,
            found: found.into(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.field.is_empty() { "" } else { ": " };
        write!(
            f,
            "{}{colon}found {}, expected {}",
            self.field, self.found, self.expected
        )
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", clip(text, 100))
}

pub(super) fn text<'a>(
    map: &'a Map<String, Json>,
    field: &'static str,
) -> Result<Option<&'a str>, Wrong> {
    match map.get(field) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(other) => Err(Wrong::new(field, clip(&other.to_string(), 100), "text")),
    }
}

/// A finite number; of a text what `parse` makes of it.
pub(super) fn number(
    map: &Map<String, Json>,
    field: &'static str,
    expected: &str,
    parse: impl Fn(&str) -> Option<f64>,
) -> Result<Option<f64>, Wrong> {
    let number = match map.get(field) {
        None => return Ok(None),
        Some(Json::Number(number)) => number.as_f64(),
        Some(Json::String(text)) => parse(text.trim()),
        Some(_) => None,
    };
    let number = number.filter(|number: &f64| number.is_finite());
    number
        .map(Some)
        .ok_or_else(|| Wrong::new(field, found(map, field), expected))
}

/// A field as it was written.
pub(super) fn found(map: &Map<String, Json>, field: &str) -> String {
    map.get(field).map_or_else(
        || "nothing".to_owned(),
        |value| clip(&value.to_string(), 100),
    )
}

/// Refuses a field that there is not.
pub(super) fn known(map: &Map<String, Json>, fields: &[(&str, &str)]) -> Result<(), Wrong> {
    let other = |key: &&String| !fields.iter().any(|(field, _)| field == *key);
    match map.keys().find(other) {
        None => Ok(()),
        Some(other) => {
            let all: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
            let found = format!("the field {:?}", clip(other, 64));
            Err(Wrong::new("", found, all.join(", ")))
        }
    }
}

/// Whether it could be the name of a limit, a throttle or a class.
pub(super) fn is_name(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(letter)
}
