//! What a setting may hold, and reading it from text.
//!
//! A [`Kind`] is a type with its range; [`Kind::read`] is the one place where text becomes a [`Value`], whether it comes from the
//! file, the environment, a flag or the API. Scalars follow the core schema of YAML 1.2: `no` and `on` are words, not
//! booleans, and a quoted `"5"` is no number.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use flyball_core::units::{self, ParseError};

/// The longest text of one value, bytes.
pub(super) const MAX_TEXT: usize = 4096;
/// The most items of one list.
pub(super) const MAX_ITEMS: usize = 1024;

/// The most names of one map of counts.
pub(super) const MAX_COUNTS: usize = 64;
/// The longest name in a map of counts, bytes.
pub(super) const MAX_COUNT_NAME: usize = 64;

/// A type with its range.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer {
        /// The least, inclusive.
        min: i64,
        /// The most, inclusive.
        max: i64,
    },
    /// A finite number.
    Number {
        /// The least, inclusive.
        min: f64,
        /// The most, inclusive.
        max: f64,
    },
    /// A finite number of percent, with or without `%`.
    Percent {
        /// The least, inclusive.
        min: f64,
        /// The most, inclusive.
        max: f64,
    },
    /// Bytes: `512MB`, `512MiB`.
    Size {
        /// The least, inclusive.
        min: u64,
        /// The most, inclusive.
        max: u64,
    },
    /// A time: `500ms`, `1h30m`.
    Duration {
        /// The least, inclusive.
        min: Duration,
        /// The most, inclusive.
        max: Duration,
    },
    /// Bytes a second: `1GB/s`.
    Rate {
        /// The least, inclusive.
        min: u64,
        /// The most, inclusive.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of these words, each at most once.
    Choices(&'static [&'static str]),
    /// Any text of up to 4 KiB.
    Text,
    /// A path of up to 4 KiB.
    Path,
    /// An IP address and a port: `127.0.0.1:7070`, `[::1]:7070`.
    Address,
    /// A list of up to 1,024 texts.
    Texts,
    /// A list of up to 1,024 paths.
    Paths,
    /// A list of classes, each a map.
    Classes,
    /// A list of up to 1,024 maps.
    Maps,
    /// A map of names to whole numbers, up to 64.
    Counts {
        /// The most of each, inclusive; the least is 1.
        max: u32,
    },
}

/// One valid value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A finite number, also of percent.
    Number(f64),
    /// Bytes.
    Size(u64),
    /// A time.
    Duration(Duration),
    /// Bytes a second.
    Rate(u64),
    /// A text, path, address or choice.
    Text(String),
    /// The word that a key accepts in place of its type, such as `auto`.
    Word(&'static str),
    /// A list of texts, paths or choices.
    List(Vec<String>),
    /// A list of maps.
    Maps(Vec<serde_json::Map<String, serde_json::Value>>),
    /// Whole numbers by name.
    Counts(BTreeMap<String, u32>),
}

/// Prints scalars as they are read, lists and maps as JSON.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Size(bytes) => f.write_str(&units::format_size(*bytes)),
            Self::Duration(time) => f.write_str(&units::format_duration(*time)),
            Self::Rate(bytes) => f.write_str(&units::format_rate(*bytes)),
            Self::Text(text) => f.write_str(text),
            Self::Word(word) => f.write_str(word),
            Self::List(_) | Self::Maps(_) | Self::Counts(_) => write!(f, "{}", self.to_json()),
        }
    }
}

impl Value {
    /// Whether it can be written in several ways, with units.
    pub(super) fn is_quantity(&self) -> bool {
        matches!(self, Self::Size(_) | Self::Duration(_) | Self::Rate(_))
    }

    /// Returns the value as JSON: booleans and numbers as such, quantities with units as text (`"512MB"`).
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Bool(value) => (*value).into(),
            Self::Integer(value) => (*value).into(),
            // Whole numbers without a point: 80, not 80.0.
            Self::Number(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
                (*value as i64).into()
            }
            Self::Number(value) => (*value).into(),
            Self::List(items) => items.iter().map(String::as_str).collect(),
            Self::Maps(maps) => maps
                .iter()
                .cloned()
                .map(serde_json::Value::Object)
                .collect(),
            Self::Counts(counts) => counts
                .iter()
                .map(|(name, count)| (name.clone(), serde_json::Value::from(*count)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            _ => self.to_string().into(),
        }
    }
}

/// Why a scalar is no value of a kind; the kind itself says what it expects.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wrong {
    /// What is wrong with the text, where that can be said: an unknown unit.
    pub(super) why: Option<String>,
    /// The nearest word that would be right.
    pub(super) nearest: Option<String>,
}

impl Wrong {
    fn because(why: impl Into<String>) -> Self {
        Wrong {
            why: Some(why.into()),
            nearest: None,
        }
    }
}

impl Kind {
    /// Returns the name of the type.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Integer { .. } => "integer",
            Self::Number { .. } => "number",
            Self::Percent { .. } => "percent",
            Self::Size { .. } => "size",
            Self::Duration { .. } => "duration",
            Self::Rate { .. } => "rate",
            Self::Choice(_) => "choice",
            Self::Choices(_) => "list of choices",
            Self::Text => "text",
            Self::Path => "path",
            Self::Address => "address",
            Self::Texts => "list of texts",
            Self::Paths => "list of paths",
            Self::Classes => "list of classes",
            Self::Maps => "list of maps",
            Self::Counts { .. } => "map of counts",
        }
    }

    /// Returns the range in words, `1 to 128`; `None` where there is none.
    #[must_use]
    pub fn range(&self) -> Option<String> {
        let span = |min: &dyn fmt::Display, max: Option<&dyn fmt::Display>| {
            Some(match max {
                Some(max) => format!("{min} to {max}"),
                None => format!("at least {min}"),
            })
        };
        match self {
            Self::Integer { min, max } => span(min, (*max < i64::MAX).then_some(max)),
            Self::Number { min, max } | Self::Percent { min, max } => {
                span(min, (*max < f64::MAX).then_some(max))
            }
            Self::Size { min, max } => span(
                &units::format_size(*min),
                (*max < u64::MAX).then_some(&units::format_size(*max)),
            ),
            Self::Rate { min, max } => span(
                &units::format_rate(*min),
                (*max < u64::MAX).then_some(&units::format_rate(*max)),
            ),
            Self::Duration { min, max } => span(
                &units::format_duration(*min),
                Some(&units::format_duration(*max)),
            ),
            Self::Choice(words) | Self::Choices(words) => Some(words.join(", ")),
            Self::Counts { max } => span(&1, Some(max)),
            _ => None,
        }
    }

    /// Returns what an error says that it expected.
    #[must_use]
    pub fn expected(&self) -> String {
        let (what, example) = match self {
            Self::Bool => return "true or false".into(),
            Self::Choice(words) => return format!("one of {}", words.join(", ")),
            Self::Choices(words) => return format!("a list of {}", words.join(", ")),
            Self::Text => return "a text of up to 4096 bytes".into(),
            Self::Path => return "a path".into(),
            Self::Address => {
                return "an IP address and a port, such as 127.0.0.1:7070".into();
            }
            Self::Texts => return "a list of texts".into(),
            Self::Paths => return "a list of paths".into(),
            Self::Classes => return "a list of classes".into(),
            Self::Maps => return "a list of maps".into(),
            Self::Counts { max } => {
                return format!(
                    "a map of up to {MAX_COUNTS} names, each with an integer from 1 to {max}"
                );
            }
            Self::Integer { .. } => ("an integer", ""),
            Self::Number { .. } => ("a number", ""),
            Self::Percent { .. } => ("a percentage", ""),
            Self::Size { .. } => ("a size", ", such as 512MB"),
            Self::Duration { .. } => ("a duration", ", such as 30s"),
            Self::Rate { .. } => ("a rate", ", such as 1GB/s"),
        };
        let range = self.range().unwrap_or_default();
        let of = if range.starts_with("at least") {
            "of"
        } else {
            "from"
        };
        format!("{what} {of} {range}{example}")
    }

    /// Whether values are lists.
    pub(super) fn is_list(&self) -> bool {
        matches!(
            self,
            Self::Choices(_) | Self::Texts | Self::Paths | Self::Classes | Self::Maps
        )
    }

    /// Reads a scalar. `plain` says that it is not quoted and may thus be a boolean or a number.
    pub(super) fn read(&self, text: &str, plain: bool) -> Result<Value, Wrong> {
        match *self {
            Self::Bool => read_bool(text, plain),
            Self::Integer { min, max } => {
                let number = integer(text).filter(|_| plain).ok_or_else(Wrong::default)?;
                within(number, min, max).map(Value::Integer)
            }
            Self::Number { min, max } => {
                let number = number(text).filter(|_| plain).ok_or_else(Wrong::default)?;
                within(number, min, max).map(Value::Number)
            }
            Self::Percent { min, max } => {
                let digits = text.strip_suffix('%').unwrap_or(text);
                let sign = digits.len() < text.len();
                let number = number(digits)
                    .filter(|_| plain || sign)
                    .ok_or_else(Wrong::default)?;
                within(number, min, max).map(Value::Number)
            }
            Self::Size { min, max } => {
                let bytes = units::parse_size(text).map_err(quantity)?;
                within(bytes, min, max).map(Value::Size)
            }
            Self::Duration { min, max } => {
                let time = units::parse_duration(text).map_err(quantity)?;
                within(time, min, max).map(Value::Duration)
            }
            Self::Rate { min, max } => {
                let bytes = units::parse_rate(text).map_err(quantity)?;
                within(bytes, min, max).map(Value::Rate)
            }
            Self::Choice(words) | Self::Choices(words) => match words.contains(&text) {
                true => Ok(Value::Text(text.into())),
                false => Err(Wrong {
                    why: None,
                    nearest: nearest(text, words.iter().copied()).map(Into::into),
                }),
            },
            Self::Address => match text.parse::<std::net::SocketAddr>() {
                Ok(_) => Ok(Value::Text(text.into())),
                Err(_) => Err(Wrong::default()),
            },
            Self::Text | Self::Path | Self::Texts | Self::Paths => read_text(self, text),
            Self::Classes | Self::Maps | Self::Counts { .. } => Err(Wrong::default()),
        }
    }
}

fn read_bool(text: &str, plain: bool) -> Result<Value, Wrong> {
    match text {
        "true" | "True" | "TRUE" if plain => Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" if plain => Ok(Value::Bool(false)),
        _ => {
            let nearest = match text.to_ascii_lowercase().as_str() {
                "yes" | "y" | "on" | "1" | "true" => Some("true"),
                "no" | "n" | "off" | "0" | "false" => Some("false"),
                _ => None,
            };
            Err(Wrong {
                why: None,
                nearest: nearest.map(Into::into),
            })
        }
    }
}

fn read_text(kind: &Kind, text: &str) -> Result<Value, Wrong> {
    let empty_path = text.is_empty() && matches!(kind, Kind::Path | Kind::Paths);
    if text.len() > MAX_TEXT {
        Err(Wrong::because(format!("{} bytes", text.len())))
    } else if text.chars().any(char::is_control) {
        Err(Wrong::because("it contains control characters"))
    } else if empty_path {
        Err(Wrong::default())
    } else {
        Ok(Value::Text(text.into()))
    }
}

fn within<T: PartialOrd>(value: T, min: T, max: T) -> Result<T, Wrong> {
    if value >= min && value <= max {
        Ok(value)
    } else {
        Err(Wrong::default())
    }
}

/// Says what is wrong with a size, rate or duration without repeating its text.
fn quantity(error: ParseError) -> Wrong {
    match error {
        ParseError::UnknownUnit { unit, known, .. } => {
            Wrong::because(format!("the unit {:?} is none of {known}", clip(&unit, 40)))
        }
        ParseError::NoUnit { known, .. } => {
            Wrong::because(format!("it has no unit: one of {known}"))
        }
        ParseError::Order { .. } => Wrong::because("units must go from long to short"),
        ParseError::NotWhole { smallest, .. } => {
            Wrong::because(format!("it is not a whole number of {smallest}"))
        }
        ParseError::TooLarge { most, .. } => Wrong::because(format!("the most is {most}")),
        _ => Wrong::default(),
    }
}

/// Reads an integer of YAML's core schema: decimal with a sign, `0x…`, `0o…`.
pub(super) fn integer(text: &str) -> Option<i64> {
    let digits = |radix, text: &str| {
        let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        i64::from_str_radix(text, radix).ok().filter(|_| plain)
    };
    if let Some(hex) = text.strip_prefix("0x") {
        return digits(16, hex);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(8, octal);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// Reads a finite number of YAML's core schema; not `.inf` and `.nan`.
pub(super) fn number(text: &str) -> Option<f64> {
    let allowed = |b: u8| b.is_ascii_digit() || b"+-.eE".contains(&b);
    let digits = text.bytes().any(|b| b.is_ascii_digit());
    if !digits || !text.bytes().all(allowed) {
        return integer(text).map(|number| number as f64);
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Whether a plain scalar is YAML's null.
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Finds the known word that is nearest to a misspelt one, if any is near: at most a third of its letters differ.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 80;
    if text.len() > LONGEST {
        return None;
    }
    let text = text.to_ascii_lowercase();
    known
        .into_iter()
        .map(|word| {
            let distance = strsim::osa_distance(&text, &word.to_ascii_lowercase());
            (distance, word)
        })
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Words at whose sight a value is taken for a secret.
const SECRETS: [&str; 5] = ["secret", "token", "password", "passphrase", "authorization"];

/// Whether a field of this name holds a secret, in maps whose fields the schema does not know.
pub(super) fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETS.iter().any(|word| name.ends_with(word))
}

/// Whether a text may show a secret: a field named like one, or an address with a password.
pub(super) fn may_hold_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    SECRETS.iter().any(|word| lower.contains(word)) || holds_credentials(text)
}

/// Whether a text looks like an address with a password in it.
pub(super) fn holds_credentials(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(_, rest)| rest.contains('@'))
}

/// Cuts a text after so many characters and makes what a terminal could obey visible.
pub(super) fn clip(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == most {
            out.push('…');
            break;
        }
        if is_hostile(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters, and those that turn the direction of text or cannot be seen.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
