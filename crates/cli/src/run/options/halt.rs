//! `--halt`: when a run stops early.

use std::fmt;

/// What happens then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// No more commands start.
    Soon,
    /// And those that run are ended.
    Now,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Of {
    Fail,
    Success,
    Done,
}

/// How many it takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Limit {
    Count(u64),
    /// Of all commands of the run, 0 to 100.
    Percent(f64),
}

/// When a run stops early.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Halt {
    Never,
    At(When, Of, Limit),
}

impl Halt {
    /// What the run does now; `total`: all its commands, where that is known.
    pub(crate) fn decide(self, failed: u64, succeeded: u64, total: Option<u64>) -> Option<When> {
        let Halt::At(when, of, limit) = self else {
            return None;
        };
        let count = match of {
            Of::Fail => failed,
            Of::Success => succeeded,
            Of::Done => failed + succeeded,
        };
        let reached = match limit {
            Limit::Count(limit) => count >= limit,
            Limit::Percent(percent) => {
                count > 0
                    && total.is_some_and(|total| count as f64 * 100.0 >= percent * total as f64)
            }
        };
        reached.then_some(when)
    }

    /// Whether it can only be decided when all commands are known.
    pub(crate) fn needs_total(self) -> bool {
        matches!(self, Halt::At(_, _, Limit::Percent(_)))
    }

    /// Whether enough successes are what the run is for.
    pub(crate) fn seeks_success(self) -> bool {
        matches!(self, Halt::At(_, Of::Success, _))
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Halt::At(when, of, limit) = self else {
            return f.write_str("never");
        };
        let when = match when {
            When::Soon => "soon",
            When::Now => "now",
        };
        let of = match of {
            Of::Fail => "fail",
            Of::Success => "success",
            Of::Done => "done",
        };
        match limit {
            Limit::Count(count) => write!(f, "{when},{of}={count}"),
            Limit::Percent(percent) => write!(f, "{when},{of}={percent}%"),
        }
    }
}

/// Reads `never`, `soon,fail=1`, `now,success=20%` and the like, and the short forms 0, 1 and 2.
pub(super) fn parse_halt(text: &str) -> Result<Halt, String> {
    let short = match text {
        "0" => Some("never"),
        "1" => Some("soon,fail=1"),
        "2" => Some("now,fail=1"),
        _ => None,
    };
    let text = short.unwrap_or(text);
    if text == "never" {
        return Ok(Halt::Never);
    }
    let read = || {
        let (when, rest) = text.split_once(',')?;
        let (of, limit) = rest.split_once('=')?;
        let when = match when {
            "soon" => When::Soon,
            "now" => When::Now,
            _ => return None,
        };
        let of = match of {
            "fail" => Of::Fail,
            "success" => Of::Success,
            "done" => Of::Done,
            _ => return None,
        };
        let limit = match limit.strip_suffix('%') {
            Some(percent) => percent
                .parse()
                .ok()
                .filter(|percent| *percent > 0.0 && *percent <= 100.0)
                .map(Limit::Percent)?,
            None => limit
                .parse()
                .ok()
                .filter(|count| *count > 0)
                .map(Limit::Count)?,
        };
        Some(Halt::At(when, of, limit))
    };
    read().ok_or_else(|| {
        "expected never, or soon or now with fail, success or done: soon,fail=1, now,fail=20%, now,success=1"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halts_are_read_and_written_alike() {
        for text in [
            "never",
            "soon,fail=1",
            "now,fail=20",
            "now,success=1",
            "soon,done=12.5%",
        ] {
            assert_eq!(parse_halt(text).unwrap().to_string(), text);
        }
        assert_eq!(parse_halt("2").unwrap().to_string(), "now,fail=1");
        for wrong in [
            "soon",
            "now,fail=0",
            "now,1",
            "later,fail=1",
            "now,fail=0%",
            "now,fail=101%",
            "now,fail=NaN%",
            "3",
        ] {
            assert!(parse_halt(wrong).is_err(), "{wrong}");
        }
    }

    /// TASK-12: failures, successes or ends, by number or by share of all.
    #[test]
    fn it_decides_by_what_is_counted() {
        let decide = |text, failed, succeeded, total| {
            parse_halt(text).unwrap().decide(failed, succeeded, total)
        };
        assert_eq!(decide("soon,fail=2", 1, 9, None), None);
        assert_eq!(decide("soon,fail=2", 2, 0, None), Some(When::Soon));
        assert_eq!(decide("now,success=1", 5, 1, None), Some(When::Now));
        assert_eq!(decide("soon,done=3", 1, 2, None), Some(When::Soon));
        assert_eq!(decide("soon,fail=20%", 1, 0, Some(8)), None);
        assert_eq!(decide("soon,fail=20%", 2, 0, Some(8)), Some(When::Soon));
        assert_eq!(decide("soon,fail=20%", 2, 0, None), None);
        assert_eq!(decide("soon,fail=20%", 0, 2, Some(0)), None);
    }
}
