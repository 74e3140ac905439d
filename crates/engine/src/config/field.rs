//! Between the fields of the typed configuration and the values of the schema.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flyball_policy::sched::Algorithm;
use flyball_policy::sched::place::Strategy;
use flyball_policy::sched::pool::Sizing;

use super::layers;
use super::schema::Key;
use super::value::Value;

/// A type that a field may have.
pub(super) trait Field: Sized {
    /// Takes the value of a key that has been read by its kind.
    ///
    /// # Panics
    /// If the row of the key has another type than the field: a mistake in the schema, which loading the defaults shows.
    fn take(value: &Value, key: &'static str) -> Self;

    /// Gives the value back.
    fn give(&self, key: &Key) -> Value;
}

#[cold]
fn mismatch(value: &Value, key: &str) -> ! {
    panic!("the schema's row of {key} does not fit its field: {value:?}")
}

impl Field for bool {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Bool(value) => *value,
            other => mismatch(other, key),
        }
    }

    fn give(&self, _: &Key) -> Value {
        Value::Bool(*self)
    }
}

impl Field for u32 {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Integer(value) => {
                u32::try_from(*value).unwrap_or_else(|_| mismatch(&Value::Integer(*value), key))
            }
            other => mismatch(other, key),
        }
    }

    fn give(&self, _: &Key) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl Field for i8 {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Integer(value) => {
                i8::try_from(*value).unwrap_or_else(|_| mismatch(&Value::Integer(*value), key))
            }
            other => mismatch(other, key),
        }
    }

    fn give(&self, _: &Key) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl Field for u64 {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Size(value) | Value::Rate(value) => *value,
            Value::Integer(value) => value.unsigned_abs(),
            other => mismatch(other, key),
        }
    }

    fn give(&self, key: &Key) -> Value {
        match key.kind {
            super::Kind::Rate { .. } => Value::Rate(*self),
            super::Kind::Integer { .. } => Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX)),
            _ => Value::Size(*self),
        }
    }
}

impl Field for f64 {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Number(value) => *value,
            other => mismatch(other, key),
        }
    }

    fn give(&self, _: &Key) -> Value {
        Value::Number(*self)
    }
}

impl Field for Duration {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Duration(value) => *value,
            other => mismatch(other, key),
        }
    }

    fn give(&self, _: &Key) -> Value {
        Value::Duration(*self)
    }
}

impl Field for String {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Text(text) => text.clone(),
            other => mismatch(other, key),
        }
    }

    fn give(&self, _: &Key) -> Value {
        Value::Text(self.clone())
    }
}

impl Field for PathBuf {
    fn take(value: &Value, key: &'static str) -> Self {
        String::take(value, key).into()
    }

    fn give(&self, _: &Key) -> Value {
        Value::Text(self.to_string_lossy().into_owned())
    }
}

/// Types whose values are texts.
macro_rules! as_text {
    ($($Type:ty),*) => {$(
        impl Field for $Type {
            fn take(value: &Value, key: &'static str) -> Self {
                match value {
                    Value::Text(text) => text.parse().unwrap_or_else(|_| mismatch(value, key)),
                    other => mismatch(other, key),
                }
            }

            fn give(&self, _: &Key) -> Value {
                Value::Text(self.to_string())
            }
        }
    )*};
}

as_text!(SocketAddr, Algorithm, Strategy, Sizing);

/// `None` is the word that the key accepts.
impl<T: Field> Field for Option<T> {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Word(_) => None,
            value => Some(T::take(value, key)),
        }
    }

    fn give(&self, key: &Key) -> Value {
        match self {
            Some(value) => value.give(key),
            None => Value::Word(key.word.unwrap_or("auto")),
        }
    }
}

/// Lists of texts, paths and choices.
impl<T: Field> Field for Vec<T> {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::List(items) => items
                .iter()
                .map(|item| T::take(&Value::Text(item.clone()), key))
                .collect(),
            other => mismatch(other, key),
        }
    }

    fn give(&self, key: &Key) -> Value {
        Value::List(self.iter().map(|item| item.give(key).to_string()).collect())
    }
}

/// A list of maps that is kept as it is: of parts that read it by themselves.
pub type Maps = Vec<serde_json::Map<String, serde_json::Value>>;

/// Whole numbers by name.
pub type Counts = std::collections::BTreeMap<String, u32>;

impl Field for Counts {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Counts(counts) => counts.clone(),
            other => mismatch(other, key),
        }
    }

    fn give(&self, _: &Key) -> Value {
        Value::Counts(self.clone())
    }
}

/// [`Maps`] in a field. (A plain `Vec` of maps would be a list of texts.) Printed for debugging, fields whose names say that they are
/// secrets are masked.
#[derive(Clone, Default, PartialEq)]
pub struct MapList(pub Maps);

impl fmt::Debug for MapList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(layers::masked))
            .finish()
    }
}

/// A text that is never printed, as it may hold a password; `as_str` gives it to those who need it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(layers::SECRET)
    }
}

impl Field for Secret {
    fn take(value: &Value, key: &'static str) -> Self {
        Secret(String::take(value, key))
    }

    fn give(&self, key: &Key) -> Value {
        self.0.give(key)
    }
}

impl Field for MapList {
    fn take(value: &Value, key: &'static str) -> Self {
        match value {
            Value::Maps(maps) => MapList(maps.clone()),
            other => mismatch(other, key),
        }
    }

    fn give(&self, _: &Key) -> Value {
        Value::Maps(self.0.clone())
    }
}

/// Declares an enumeration whose values have names in the configuration.
macro_rules! choices {
    ($(#[$meta:meta])* $Name:ident { $($(#[$about:meta])* $Variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $Name {
            $($(#[$about])* $Variant,)*
        }

        impl $Name {
            /// The names that configuration uses.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// Returns the name that configuration uses.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$Variant => $text,)*
                }
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl $crate::config::field::Field for $Name {
            fn take(value: &$crate::config::Value, key: &'static str) -> Self {
                match String::take(value, key).as_str() {
                    $($text => Self::$Variant,)*
                    other => unreachable!("{key} is {other:?}, which its kind refuses"),
                }
            }

            fn give(&self, _: &$crate::config::Key) -> $crate::config::Value {
                $crate::config::Value::Text(self.name().into())
            }
        }
    };
}

pub(super) use choices;
