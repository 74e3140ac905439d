//! Values of options: what they may be, and how they are read and written.

use std::time::Duration;

use crate::input::BLOCK_BYTES_MAX;
use flyball_core::units::{format_size, parse_duration, parse_size};

/// How many commands run at once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Jobs {
    Auto,
    Count(u32),
    Percent(u32),
    /// So many more than CPUs, or fewer.
    Relative(i32),
}

/// What `--kill-after` is unless set.
pub(crate) const KILL_AFTER: Duration = Duration::from_secs(2);

/// Each command takes a keeper and descriptors; more at once than this is a slip of the finger.
const JOBS_MAX: u32 = 1000;

impl Jobs {
    /// On so many CPUs; at least one.
    pub(crate) fn on(self, cpus: u32) -> u32 {
        match self {
            Jobs::Auto => cpus.max(1),
            Jobs::Count(count) => count,
            Jobs::Relative(more) => {
                (i64::from(cpus) + i64::from(more)).clamp(1, JOBS_MAX.into()) as u32
            }
            Jobs::Percent(percent) => {
                (u64::from(cpus) * u64::from(percent) / 100).clamp(1, JOBS_MAX.into()) as u32
            }
        }
    }
}

impl std::fmt::Display for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Jobs::Auto => f.write_str("auto"),
            Jobs::Count(count) => write!(f, "{count}"),
            Jobs::Percent(percent) => write!(f, "{percent}%"),
            Jobs::Relative(more) => write!(f, "{more:+}"),
        }
    }
}

pub(super) fn parse_jobs(text: &str) -> Result<Jobs, String> {
    let expected = format!(
        "expected a number from 1 to {JOBS_MAX}, a percentage of the CPUs from 1% to 10000%, +N or -N beside them, or auto"
    );
    if text == "auto" {
        return Ok(Jobs::Auto);
    }
    if text.starts_with(['+', '-']) {
        return text
            .parse()
            .ok()
            .filter(|more: &i32| more.unsigned_abs() < JOBS_MAX)
            .map(Jobs::Relative)
            .ok_or(expected);
    }
    match text.strip_suffix('%') {
        Some(percent) => percent
            .parse()
            .ok()
            .filter(|percent| (1..=10_000).contains(percent))
            .map(Jobs::Percent),
        None => text
            .parse()
            .ok()
            .filter(|count| (1..=JOBS_MAX).contains(count))
            .map(Jobs::Count),
    }
    .ok_or(expected)
}

/// A duration; a number alone is in seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse::<f64>()
        .ok()
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    if let Some(seconds) = seconds {
        return Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text} s is too long"));
    }
    parse_duration(text).map_err(|error| format!("{error}; for example 500ms, 30s or 1h30m"))
}

pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        Duration::ZERO => {
            Err("no command ends in no time; leave --timeout out for none".to_owned())
        }
        timeout => Ok(timeout),
    }
}

/// Load of the machine above which no command starts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Load {
    /// Runnable threads, as the load average counts them.
    Threads(f64),
    /// A percentage of the CPUs.
    Percent(f64),
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Load::Threads(threads) => write!(f, "{threads}"),
            Load::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Memory of each command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MemoryEach {
    /// What earlier commands of the same kind took at most.
    Auto,
    Bytes(u64),
}

impl std::fmt::Display for MemoryEach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MemoryEach::Auto => f.write_str("auto"),
            MemoryEach::Bytes(bytes) => f.write_str(&format_size(*bytes)),
        }
    }
}

pub(super) fn parse_load(text: &str) -> Result<Load, String> {
    let number = |text: &str| {
        text.parse::<f64>()
            .ok()
            .filter(|value| value.is_finite() && *value > 0.0)
    };
    match text.strip_suffix('%') {
        Some(percent) => number(percent).map(Load::Percent),
        None => number(text).map(Load::Threads),
    }
    .ok_or_else(|| {
        "expected a load such as 2.5, or a percentage of the CPUs such as 80%".to_owned()
    })
}

/// A part of all CPUs, with or without the sign.
pub(super) fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|percent| (1.0..=100.0).contains(percent))
        .ok_or_else(|| "expected a percentage of all CPUs, 1% to 100%".to_owned())
}

pub(super) fn parse_size_above_zero(text: &str) -> Result<u64, String> {
    match parse_size(text).map_err(|error| error.to_string())? {
        0 => Err("expected more than nothing".to_owned()),
        bytes => Ok(bytes),
    }
}

pub(super) fn parse_memory_each(text: &str) -> Result<MemoryEach, String> {
    if text == "auto" {
        return Ok(MemoryEach::Auto);
    }
    parse_size_above_zero(text).map(MemoryEach::Bytes)
}

/// A byte that ends an input: itself, or `\n`, `\t`, `\r`, `\0`, `\xHH`.
pub(super) fn parse_delimiter(text: &str) -> Result<u8, String> {
    match unescape(text)?.as_slice() {
        [byte] => Ok(*byte),
        _ => Err("expected one byte: a character, or an escape such as \\t".to_owned()),
    }
}

/// What separates records: text with the same escapes.
pub(super) fn parse_marker(text: &str) -> Result<Marker, String> {
    unescape(text).map(Marker)
}

/// Bytes that separate records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Marker(pub(crate) Vec<u8>);

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err("expected two hexadecimal digits after \\x".to_owned()),
                }
            }
            _ => return Err("the escapes are \\n, \\t, \\r, \\0, \\\\ and \\xHH".to_owned()),
        });
    }
    Ok(bytes)
}

/// A size in bytes that fits a block.
pub(super) fn parse_block(text: &str) -> Result<usize, String> {
    let bytes = parse_size_above_zero(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= BLOCK_BYTES_MAX)
        .ok_or_else(|| format!("the most is {}", format_size(BLOCK_BYTES_MAX as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_counted_or_shares_of_the_cpus() {
        assert_eq!(parse_jobs("150%").unwrap().on(4), 6);
        assert_eq!(parse_jobs("1%").unwrap().on(4), 1);
        assert_eq!(parse_jobs("auto").unwrap().on(4), 4);
        assert_eq!(parse_jobs("+2").unwrap().on(4), 6);
        assert_eq!(parse_jobs("-1").unwrap().on(4), 3);
        assert_eq!(parse_jobs("-9").unwrap().on(4), 1);
        assert_eq!(parse_jobs("+0").unwrap().on(4), 4);
        assert_eq!(parse_jobs("-0").unwrap().on(4), 4);
        for wrong in ["0", "+", "x", "%", "0%", "100000"] {
            assert!(parse_jobs(wrong).is_err(), "{wrong}");
        }
    }

    /// TASK-11: a timeout of nothing would end a command or not, as chance has it.
    #[test]
    fn timeouts_are_more_than_nothing() {
        assert_eq!(
            parse_timeout("1500ms").unwrap(),
            Duration::from_millis(1500)
        );
        for wrong in ["0", "0s", "-1", "-1s", "inf", "", "99999999999999999999s"] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_time("2s").unwrap(), KILL_AFTER);
        assert_eq!(parse_time("0.5").unwrap(), Duration::from_millis(500));
    }

    #[test]
    fn loads_and_sizes_are_more_than_nothing() {
        assert_eq!(parse_load("80%").unwrap(), Load::Percent(80.0));
        assert_eq!(parse_load("2.5").unwrap().to_string(), "2.5");
        assert_eq!(parse_jobs("+2").unwrap().on(4), 6);
        assert_eq!(parse_jobs("-1").unwrap().on(4), 3);
        assert_eq!(parse_jobs("-9").unwrap().on(4), 1);
        for wrong in ["0", "-0", "x", "%", "inf", "NaN"] {
            assert!(parse_load(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_memory_each("auto").unwrap(), MemoryEach::Auto);
        assert_eq!(parse_memory_each("1MiB").unwrap().to_string(), "1MiB");
        assert!(parse_memory_each("0").is_err());
        assert!(parse_size_above_zero("much").is_err());
    }

    #[test]
    fn delimiters_have_escapes() {
        for (text, byte) in [("\\n", b'\n'), (",", b','), ("\\x1f", 31), ("\\0", 0)] {
            assert_eq!(parse_delimiter(text).unwrap(), byte);
        }
        for wrong in ["", "ab", "\\q", "\\x1", "ü"] {
            assert!(parse_delimiter(wrong).is_err(), "{wrong}");
        }
    }
}
