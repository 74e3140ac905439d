//! Inputs with columns.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::ValueEnum;
use regex::bytes::{Regex, RegexBuilder};

/// Most bytes of a compiled separator.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Blanks of a column that are no part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Trim {
    /// None.
    #[value(name = "n")]
    No,
    /// Those before it.
    #[value(name = "l")]
    Left,
    /// Those after it.
    #[value(name = "r")]
    Right,
    /// Both.
    #[value(name = "lr", alias = "rl")]
    Both,
}

impl Trim {
    pub(crate) fn apply(self, mut bytes: &[u8]) -> &[u8] {
        if matches!(self, Trim::Left | Trim::Both) {
            bytes = bytes.trim_ascii_start();
        }
        if matches!(self, Trim::Right | Trim::Both) {
            bytes = bytes.trim_ascii_end();
        }
        bytes
    }
}

/// How an input is split.
#[derive(Debug)]
pub(crate) struct Columns {
    separator: Option<Regex>,
    trim: Trim,
}

impl Columns {
    /// Columns between what the regular expression matches; without one the input is trimmed only.
    ///
    /// # Errors
    /// What is wrong with the expression.
    pub(crate) fn new(separator: Option<&str>, trim: Trim) -> Result<Columns, String> {
        let separator = separator
            .map(|pattern| {
                RegexBuilder::new(pattern)
                    .unicode(false)
                    .size_limit(PATTERN_BYTES_MAX)
                    .build()
                    .map_err(|error| {
                        format!("--colsep {pattern:?} is no regular expression: {error}")
                    })
            })
            .transpose()?;
        if separator.as_ref().is_some_and(|regex| regex.is_match(b"")) {
            return Err(
                "--colsep: an expression that matches nothing separates nothing".to_owned(),
            );
        }
        Ok(Columns { separator, trim })
    }

    /// The columns of an input.
    pub(crate) fn split(&self, input: &OsStr) -> Vec<OsString> {
        let whole = input.as_bytes();
        let made = |column: &[u8]| OsString::from_vec(self.trim.apply(column).to_vec());
        match &self.separator {
            Some(separator) => separator.split(whole).map(made).collect(),
            None => vec![made(whole)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_between_what_matches() {
        let split = |pattern, trim, text: &[u8]| {
            Columns::new(Some(pattern), trim)
                .unwrap()
                .split(OsStr::from_bytes(text))
        };
        assert_eq!(split(",", Trim::Both, b"a, b ,"), ["a", "b", ""]);
        assert_eq!(split(",", Trim::No, b"a, b"), ["a", " b"]);
        assert_eq!(split(r"\s+", Trim::Left, b"a \t b"), ["a", "b"]);
        assert_eq!(
            split(r"\t", Trim::No, b"\xff\tb")[0],
            OsStr::from_bytes(b"\xff")
        );
        for wrong in ["(", "", "x*"] {
            assert!(Columns::new(Some(wrong), Trim::No).is_err(), "{wrong}");
        }
    }
}
