//! Values of options: what they may be, and how they are read and written.

use std::time::Duration;

use flyball_core::units::{format_size, parse_duration, parse_size};

/// How many commands run at once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Jobs {
    Auto,
    Count(u32),
    Percent(u32),
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
        }
    }
}

/// When failures stop the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Halt {
    Never,
    Soon(u64),
    Now(u64),
}

impl std::fmt::Display for Halt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Halt::Never => f.write_str("never"),
            Halt::Soon(count) => write!(f, "soon,fail={count}"),
            Halt::Now(count) => write!(f, "now,fail={count}"),
        }
    }
}

pub(super) fn parse_jobs(text: &str) -> Result<Jobs, String> {
    let expected =
        format!("expected a number from 1 to {JOBS_MAX}, a percentage from 1% to 10000%, or auto");
    if text == "auto" {
        return Ok(Jobs::Auto);
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

pub(super) fn parse_halt(text: &str) -> Result<Halt, String> {
    let count = |text: &str| {
        text.strip_prefix("fail=")?
            .parse()
            .ok()
            .filter(|count| *count > 0)
    };
    match text.split_once(',') {
        None if text == "never" => Some(Halt::Never),
        Some(("soon", rest)) => count(rest).map(Halt::Soon),
        Some(("now", rest)) => count(rest).map(Halt::Now),
        _ => None,
    }
    .ok_or_else(|| "expected never, soon,fail=N or now,fail=N with N from 1".to_owned())
}

pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_counted_or_shares_of_the_cpus() {
        assert_eq!(parse_jobs("150%").unwrap().on(4), 6);
        assert_eq!(parse_jobs("1%").unwrap().on(4), 1);
        assert_eq!(parse_jobs("auto").unwrap().on(4), 4);
        for wrong in ["0", "-1", "x", "%", "0%", "100000"] {
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
        for wrong in [
            "0",
            "0s",
            "-1",
            "-1s",
            "1",
            "inf",
            "",
            "99999999999999999999s",
        ] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_time("2s").unwrap(), KILL_AFTER);
    }

    #[test]
    fn halts_are_read_and_written_alike() {
        for text in ["never", "soon,fail=1", "now,fail=20"] {
            assert_eq!(parse_halt(text).unwrap().to_string(), text);
        }
        for wrong in ["soon", "now,fail=0", "now,1", "later,fail=1"] {
            assert!(parse_halt(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn loads_and_sizes_are_more_than_nothing() {
        assert_eq!(parse_load("80%").unwrap(), Load::Percent(80.0));
        assert_eq!(parse_load("2.5").unwrap().to_string(), "2.5");
        for wrong in ["0", "-1", "x", "%", "inf", "NaN"] {
            assert!(parse_load(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_memory_each("auto").unwrap(), MemoryEach::Auto);
        assert_eq!(parse_memory_each("1MiB").unwrap().to_string(), "1MiB");
        assert!(parse_memory_each("0").is_err());
        assert!(parse_size_above_zero("much").is_err());
    }
}
