//! Sizes, durations and rates as people write them.
//!
//! Sizes: an integer or decimal number and a unit, `512MB`, `1.5GiB`, `100`. `B` is a byte; `K`, `M`, `G`, `T`, `P`, `E`,
//! with or without `B`, are decimal (10^3 … 10^18); with `i` (`Ki`, `KiB`) they are binary (2^10 … 2^60). The letter
//! before `B` may be small (`512mb`). A number alone counts bytes.
//!
//! Rates: a size a second, `1GB/s`.
//!
//! Durations: numbers with units, longest unit first, each at most once: `1h30m`, `500ms`, `1.5s`. Units are `d`, `h`,
//! `m`, `s`, `ms`, `us` (or `µs`), `ns`. A number without a unit is refused, except `0`: "30" could be anything.
//!
//! Numbers are exact: there is no floating point on the way, and a value that is not a whole number of bytes or
//! nanoseconds, or that does not fit, is refused. What is printed reads back as the same value.

use alloc::string::String;
use core::fmt::Write;
use core::time::Duration;

/// Says what is wrong with a size or duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Nothing, or not a number where one should be.
    #[error("{text:?} is not a {what}: expected a number and a unit, such as {example}")]
    NotANumber {
        /// What was given.
        text: String,
        /// "size", "rate" or "duration".
        what: &'static str,
        /// A value that would be accepted.
        example: &'static str,
    },
    /// A unit that does not exist.
    #[error("{text:?} has the unknown unit {unit:?}: expected one of {known}")]
    UnknownUnit {
        /// What was given.
        text: String,
        /// The unit in it.
        unit: String,
        /// The units that exist.
        known: &'static str,
    },
    /// A number without a unit where one is needed.
    #[error("{text:?} has no unit: expected one of {known}")]
    NoUnit {
        /// What was given.
        text: String,
        /// The units that exist.
        known: &'static str,
    },
    /// Units of a duration that are not in descending order.
    #[error("{text:?} repeats a unit or names a longer one after a shorter one")]
    Order {
        /// What was given.
        text: String,
    },
    /// Not a whole number of bytes or nanoseconds.
    #[error("{text:?} is not a whole number of {smallest}")]
    NotWhole {
        /// What was given.
        text: String,
        /// "bytes" or "nanoseconds".
        smallest: &'static str,
    },
    /// Too large.
    #[error("{text:?} is too large: the most is {most}")]
    TooLarge {
        /// What was given.
        text: String,
        /// The largest value.
        most: &'static str,
    },
}

const SIZE_UNITS: &str = "B, KB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB, EiB";
const RATE_UNITS: &str = "B/s, KB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s, ...";
const DURATION_UNITS: &str = "d, h, m, s, ms, us, ns";

/// The units of a duration in nanoseconds, longest first.
const DURATIONS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a size in bytes.
///
/// # Errors
/// What is wrong with the text, and what was expected.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let trimmed = text.trim();
    let (number, unit) = split_number(trimmed).ok_or_else(|| ParseError::NotANumber {
        text: text.into(),
        what: "size",
        example: "512MB",
    })?;
    let unit = unit.trim();
    let bytes = size_unit(unit).ok_or_else(|| ParseError::UnknownUnit {
        text: text.into(),
        unit: unit.into(),
        known: SIZE_UNITS,
    })?;
    number
        .times(bytes)
        .map_err(|fault| fault.describe(text, "bytes", "18446744073709551615 bytes"))
}

fn size_unit(unit: &str) -> Option<u64> {
    let letters = unit.strip_suffix(['B', 'b']).unwrap_or(unit);
    if letters.is_empty() {
        return Some(1);
    }
    let (letter, binary) = match letters.strip_suffix('i') {
        Some(letter) => (letter, true),
        None => (letters, false),
    };
    let power = ["k", "m", "g", "t", "p", "e"]
        .iter()
        .position(|known| letter.eq_ignore_ascii_case(known))? as u32
        + 1;
    Some(if binary {
        1 << (10 * power)
    } else {
        1_000u64.pow(power)
    })
}

/// Prints a size with the largest unit that divides it, decimal or binary, whichever gives the smaller number: `512MiB`,
/// `1500B`, `2GB`. Reads back as the same value.
pub fn format_size(bytes: u64) -> String {
    let mut best = (bytes, "", "B");
    for (i, letter) in ["K", "M", "G", "T", "P", "E"].iter().enumerate() {
        let power = i as u32 + 1;
        for (unit, rest) in [(1_000u64.pow(power), "B"), (1u64 << (10 * power), "iB")] {
            if bytes >= unit && bytes.is_multiple_of(unit) && bytes / unit < best.0 {
                best = (bytes / unit, letter, rest);
            }
        }
    }
    alloc::format!("{}{}{}", best.0, best.1, best.2)
}

/// Reads a rate in bytes a second: a size and `/s`.
///
/// # Errors
/// What is wrong with the text, and what was expected.
pub fn parse_rate(text: &str) -> Result<u64, ParseError> {
    let Some(size) = text.trim().strip_suffix("/s") else {
        return match parse_size(text) {
            Ok(_) => Err(ParseError::NoUnit {
                text: text.into(),
                known: RATE_UNITS,
            }),
            Err(_) => Err(not_a_rate(text)),
        };
    };
    parse_size(size).map_err(|error| match error {
        ParseError::NotANumber { .. } => not_a_rate(text),
        other => other,
    })
}

fn not_a_rate(text: &str) -> ParseError {
    ParseError::NotANumber {
        text: text.into(),
        what: "rate",
        example: "1GB/s",
    }
}

/// Prints a rate as [`format_size`] prints its bytes, and `/s`. Reads back as the same value.
pub fn format_rate(bytes_per_second: u64) -> String {
    let mut text = format_size(bytes_per_second);
    text.push_str("/s");
    text
}

/// Reads a duration, at most 584 years.
///
/// # Errors
/// What is wrong with the text, and what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let not_a_number = || ParseError::NotANumber {
        text: text.into(),
        what: "duration",
        example: "1h30m",
    };
    let too_large = || ParseError::TooLarge {
        text: text.into(),
        most: "18446744073709551615ns (584 years)",
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(not_a_number());
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut total, mut units_left) = (0u64, &DURATIONS[..]);
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(not_a_number)?;
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let unit = if &after[..end] == "µs" {
            "us"
        } else {
            &after[..end]
        };
        if unit.is_empty() {
            return Err(ParseError::NoUnit {
                text: text.into(),
                known: DURATION_UNITS,
            });
        }
        let nanos = match units_left.iter().position(|(known, _)| *known == unit) {
            Some(position) => {
                let nanos = units_left[position].1;
                units_left = &units_left[position + 1..];
                nanos
            }
            None if DURATIONS.iter().any(|(known, _)| *known == unit) => {
                return Err(ParseError::Order { text: text.into() });
            }
            None => {
                return Err(ParseError::UnknownUnit {
                    text: text.into(),
                    unit: unit.into(),
                    known: DURATION_UNITS,
                });
            }
        };
        let part = number.times(nanos).map_err(|fault| {
            fault.describe(text, "nanoseconds", "18446744073709551615ns (584 years)")
        })?;
        total = total.checked_add(part).ok_or_else(too_large)?;
        rest = &after[end..];
    }
    Ok(Duration::from_nanos(total))
}

/// Prints a duration with all the units that it needs, longest first: `1h30m`, `500ms`, `1s500ms`, `0s`. Reads back as
/// the same value up to 584 years, beyond which it prints that.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = crate::time::nanos_of(duration);
    if rest == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, nanos) in DURATIONS {
        if rest >= nanos {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{}", rest / nanos, unit);
            rest %= nanos;
        }
    }
    text
}

/// A decimal number: `digits` / 10^`decimals`.
struct Number {
    digits: u128,
    decimals: u32,
}

enum Fault {
    NotWhole,
    TooLarge,
}

impl Fault {
    fn describe(self, text: &str, smallest: &'static str, most: &'static str) -> ParseError {
        match self {
            Self::NotWhole => ParseError::NotWhole {
                text: text.into(),
                smallest,
            },
            Self::TooLarge => ParseError::TooLarge {
                text: text.into(),
                most,
            },
        }
    }
}

impl Number {
    fn times(&self, unit: u64) -> Result<u64, Fault> {
        let product = self
            .digits
            .checked_mul(u128::from(unit))
            .ok_or(Fault::TooLarge)?;
        let scale = 10u128.checked_pow(self.decimals).ok_or(Fault::NotWhole)?;
        if product % scale != 0 {
            return Err(Fault::NotWhole);
        }
        u64::try_from(product / scale).map_err(|_| Fault::TooLarge)
    }
}

/// Splits a leading decimal number off; `None` if there is none. Digits beyond what 128 bits hold saturate, and are
/// found too large later.
fn split_number(text: &str) -> Option<(Number, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    let point_needs_digits = number.contains('.') && fraction.is_empty();
    if whole.is_empty() || point_needs_digits || fraction.contains('.') {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let mut digits = 0u128;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits = digits
            .saturating_mul(10)
            .saturating_add(u128::from(digit - b'0'));
    }
    Some((
        Number {
            digits,
            decimals: fraction.len() as u32,
        },
        rest,
    ))
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn sizes_read_as_they_print(bytes: u64, shift in 0u32..64) {
            prop_assert_eq!(parse_size(&format_size(bytes >> shift)), Ok(bytes >> shift));
        }

        #[test]
        fn rates_read_as_they_print(bytes: u64, shift in 0u32..64) {
            prop_assert_eq!(parse_rate(&format_rate(bytes >> shift)), Ok(bytes >> shift));
        }

        #[test]
        fn durations_read_as_they_print(nanos: u64, shift in 0u32..64) {
            let duration = Duration::from_nanos(nanos >> shift);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parsers_fall(text in "[0-9.]{0,30}[a-zA-Zµ ]{0,4}[0-9.]{0,3}[a-z]{0,3}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
            let _ = parse_rate(&text);
        }
    }

    #[test]
    fn sizes() {
        let good = [
            ("0", 0),
            ("100", 100),
            ("7B", 7),
            ("512MB", 512_000_000),
            ("512mb", 512_000_000),
            ("512MiB", 512 << 20),
            ("512Mi", 512 << 20),
            ("4G", 4_000_000_000),
            ("4k", 4_000),
            ("1.5KiB", 1536),
            ("0.001KB", 1),
            (" 2 GB ", 2_000_000_000),
            ("15EiB", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        let bad = [
            ("", "not a size"),
            ("MB", "not a size"),
            ("-1", "not a size"),
            ("1.", "not a size"),
            (".5", "not a size"),
            ("1.2.3", "not a size"),
            ("5XB", "unknown unit \"XB\""),
            ("5iB", "unknown unit \"iB\""),
            ("5 M B", "unknown unit"),
            ("1.5B", "not a whole number of bytes"),
            ("0.0001KB", "not a whole number of bytes"),
            ("16EiB", "too large"),
            ("18446744073709551616", "too large"),
            ("99999999999999999999999999999999999999999999", "too large"),
        ];
        for (text, part) in bad {
            let error = parse_size(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(format_size(512 << 20), "512MiB");
        assert_eq!(format_size(2_000_000_000), "2GB");
        assert_eq!(format_size(1_500), "1500B");
    }

    #[test]
    fn rates() {
        for (text, bytes) in [
            ("1GB/s", 1_000_000_000),
            (" 512KiB/s ", 512 << 10),
            ("0/s", 0),
        ] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
        let bad = [
            ("1GB", "has no unit"),
            ("fast", "not a rate"),
            ("/s", "not a rate"),
            ("1GB/m", "not a rate"),
            ("1XB/s", "unknown unit \"XB\""),
            ("0.1B/s", "not a whole number of bytes"),
        ];
        for (text, part) in bad {
            let error = parse_rate(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn durations() {
        let ms = Duration::from_millis;
        let good = [
            ("0", ms(0)),
            ("0s", ms(0)),
            ("1h30m", ms(5_400_000)),
            ("500ms", ms(500)),
            ("1.5s", ms(1_500)),
            ("1s500ms", ms(1_500)),
            ("250us", Duration::from_micros(250)),
            ("250µs", Duration::from_micros(250)),
            ("2d", ms(172_800_000)),
            ("7ns", Duration::from_nanos(7)),
            ("18446744073709551615ns", Duration::from_nanos(u64::MAX)),
        ];
        for (text, duration) in good {
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        let bad = [
            ("", "not a duration"),
            ("h", "not a duration"),
            ("-1s", "not a duration"),
            ("30", "no unit"),
            ("1h30", "no unit"),
            ("30m1h", "repeats a unit"),
            ("1s1s", "repeats a unit"),
            ("5 s", "unknown unit"),
            ("5min", "unknown unit \"min\""),
            ("0.5ns", "whole number of nanoseconds"),
            ("300000d", "too large"),
            ("213503d24h", "too large"),
        ];
        for (text, part) in bad {
            let error = parse_duration(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(format_duration(ms(5_400_000)), "1h30m");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }
}
