//! A throttle as the configuration names it: one map of `throttling.throttles`.

use std::fmt;

use flyball_policy::Error;
use flyball_policy::control::throttle::Settings;
use flyball_policy::sched::MAX_JOINT;
use serde_json::{Map, Value as Json};

use super::entry::{self, Wrong, found, is_name, quoted, text};

/// The throttle that `threshold_percent` speaks of.
pub const DEFAULT_THROTTLE: &str = "machine";
/// The throttle that keeps under the CPU quota.
pub const QUOTA_THROTTLE: &str = "quota";
/// Most throttles that a configuration may name: the two of the daemon have places of their own.
pub const MAX_THROTTLES: usize = MAX_JOINT - 2;
/// The part of a CPU quota that is held, percent: below all, so that what is held on average leaves some of most periods for bursts.
pub const QUOTA_PERCENT: f64 = 90.0;

/// What a throttle measures.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// The CPU use of the machine, whoever uses it; percent of all CPUs.
    Machine,
    /// The CPU use of this process; percent of all CPUs.
    Process,
    /// The CPU use of this process in percent of the quota of its control group; what the kernel held back counts as all of it.
    Quota,
    /// The CPU use of a class; percent of all CPUs.
    Class(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("machine"),
            Self::Process => f.write_str("process"),
            Self::Quota => f.write_str("quota"),
            Self::Class(name) => write!(f, "class:{name}"),
        }
    }
}

/// A throttle.
#[derive(Clone, Debug, PartialEq)]
pub struct ThrottleSpec {
    /// 1 to 64 characters of `a-z`, `0-9`, `_` and `-`.
    pub name: String,
    /// What it measures.
    pub scope: Scope,
    /// What it holds.
    pub settings: Settings,
    /// It acts on classes of a lower priority than this one's; a throttle of a class acts on that class.
    pub below: String,
    /// Whether it does anything.
    pub enabled: bool,
}

impl ThrottleSpec {
    /// What may be said of one; the name, and what it measures, come first.
    pub const FIELDS: [(&'static str, &'static str); 7] = [
        (
            "name",
            "1 to 64 characters of a-z, 0-9, _ and -; `machine` and `quota` are the daemon's own.",
        ),
        (
            "scope",
            "What it measures: `machine`, `process`, `quota` or `class:NAME`.",
        ),
        (
            "threshold_percent",
            "What it holds, 1 to 100: of all CPUs, for the scope `quota` of the quota.",
        ),
        (
            "hysteresis_percent",
            "How far use must fall below that for it to end, 0 to 50 points and less than the threshold; 5 unless said, or half of a threshold under 10.",
        ),
        (
            "below",
            "It holds back classes of a lower priority than this one's; `critical` unless said.",
        ),
        (
            "mode",
            "`enforce`, or `observe`: decide and count, and hold nothing back.",
        ),
        ("enabled", "Whether it does anything."),
    ];

    /// Reads a map.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of(map: &Map<String, Json>) -> Result<ThrottleSpec, Wrong> {
        entry::known(map, &Self::FIELDS)?;
        const NAME: &str = "1 to 64 characters of a-z, 0-9, _ and -, other than machine and quota, the daemon's own";
        let Some(name) = text(map, "name")? else {
            return Err(Wrong::new("name", "no name", NAME));
        };
        if !is_name(name) || [DEFAULT_THROTTLE, QUOTA_THROTTLE].contains(&name) {
            return Err(Wrong::new("name", quoted(name), NAME));
        }
        const SCOPE: &str = "machine, process, quota or class:NAME";
        let Some(scope) = text(map, "scope")? else {
            return Err(Wrong::new("scope", "no scope", SCOPE));
        };
        let scope = match scope.split_once(':') {
            None if scope == "machine" => Scope::Machine,
            None if scope == "process" => Scope::Process,
            None if scope == "quota" => Scope::Quota,
            Some(("class", class)) if is_name(class) => Scope::Class(class.to_owned()),
            _ => return Err(Wrong::new("scope", quoted(scope), SCOPE)),
        };
        let observe = match text(map, "mode")? {
            None | Some("enforce") => false,
            Some("observe") => true,
            Some(other) => return Err(Wrong::new("mode", quoted(other), "enforce or observe")),
        };
        let enabled = match map.get("enabled") {
            None => true,
            Some(Json::Bool(enabled)) => *enabled,
            Some(_) => {
                return Err(Wrong::new(
                    "enabled",
                    found(map, "enabled"),
                    "true or false",
                ));
            }
        };
        let below = text(map, "below")?.unwrap_or("critical");
        if !is_name(below) {
            return Err(Wrong::new("below", quoted(below), "the name of a class"));
        }
        let settings = Settings {
            observe,
            ..settings(map)?
        };
        Ok(ThrottleSpec {
            name: name.to_owned(),
            scope,
            settings,
            below: below.to_owned(),
            enabled,
        })
    }
}

/// What it holds.
fn settings(map: &Map<String, Json>) -> Result<Settings, Wrong> {
    const THRESHOLD: &str = "threshold_percent";
    const HYSTERESIS: &str = "hysteresis_percent";
    // As in the rest of the configuration, the sign may stand there.
    let percent = |field, expected| {
        entry::number(map, field, expected, |text| {
            text.trim_end_matches('%').trim_end().parse().ok()
        })
    };
    let wrong = |field, expected| Wrong::new(field, found(map, field), expected);
    let Some(threshold) = percent(THRESHOLD, "1 to 100")? else {
        return Err(wrong(THRESHOLD, "1 to 100"));
    };
    let usual = Settings::at(threshold);
    let hysteresis = percent(HYSTERESIS, "0 to 50")?;
    let settings = Settings {
        hysteresis: hysteresis.unwrap_or(usual.hysteresis),
        ..usual
    };
    settings.check().map_err(|error| match error {
        Error::Throttle {
            field: "threshold",
            expected,
        } => wrong(THRESHOLD, expected),
        Error::Throttle { expected, .. } => wrong(HYSTERESIS, expected),
        other => Wrong::new("", other.to_string(), "settings that go together"),
    })?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(json: Json) -> Result<ThrottleSpec, Wrong> {
        ThrottleSpec::of(json.as_object().unwrap())
    }

    /// CPU-20: a throttle has a name, a scope and a threshold; the rest has defaults.
    #[test]
    fn throttles_are_read() {
        let spec = of(json!({ "name": "a", "scope": "machine", "threshold_percent": 70 })).unwrap();
        assert_eq!(
            (spec.scope, spec.settings),
            (Scope::Machine, Settings::at(70.0))
        );
        assert_eq!((&*spec.below, spec.enabled), ("critical", true));
        let whole = json!({
            "name": "b-1", "scope": "class:batch", "threshold_percent": "12.5%", "hysteresis_percent": 0,
            "below": "normal", "mode": "observe", "enabled": false,
        });
        let spec = of(whole).unwrap();
        assert_eq!(spec.scope.to_string(), "class:batch");
        assert_eq!(
            (spec.settings.threshold, spec.settings.hysteresis),
            (12.5, 0.0)
        );
        assert!(spec.settings.observe && !spec.enabled);
        // One of little is not above all use.
        let little = json!({ "name": "a", "scope": "process", "threshold_percent": 3 });
        assert_eq!(of(little).unwrap().settings.hysteresis, 1.5);
    }

    /// CPU-20: what is wrong is refused; field, value and what is expected are named.
    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |field: &'static str, value: Json| {
            let mut map = json!({ "name": "a", "scope": "process", "threshold_percent": 50 });
            map[field] = value;
            of(map).unwrap_err()
        };
        for (field, value, found, expected) in [
            ("name", json!("A"), "\"A\"", "1 to 64"),
            ("name", json!("machine"), "\"machine\"", "the daemon's own"),
            ("name", json!(7), "7", "text"),
            ("scope", json!("galaxy"), "\"galaxy\"", "class:NAME"),
            ("scope", json!("class:"), "\"class:\"", "class:NAME"),
            ("threshold_percent", json!(0), "0", "1 to 100"),
            ("threshold_percent", json!(150), "150", "1 to 100"),
            ("threshold_percent", json!("NaN"), "\"NaN\"", "1 to 100"),
            ("threshold_percent", json!("lots"), "\"lots\"", "1 to 100"),
            ("threshold_percent", json!([]), "[]", "1 to 100"),
            ("hysteresis_percent", json!(51), "51", "0 to 50"),
            ("hysteresis_percent", json!(-1), "-1", "0 to 50"),
            ("hysteresis_percent", json!(50), "50", "less than"),
            ("below", json!("no class"), "\"no class\"", "a class"),
            ("mode", json!("watch"), "\"watch\"", "observe"),
            ("enabled", json!(1), "1", "true or false"),
        ] {
            let fault = wrong(field, value);
            assert_eq!((fault.field, &*fault.found), (field, found), "{fault}");
            assert!(fault.expected.contains(expected), "{fault}");
        }
        let fault = wrong("thresold", json!(1));
        assert_eq!((fault.field, &*fault.found), ("", "the field \"thresold\""));
        for (map, field) in [
            (json!({}), "name"),
            (json!({ "name": "a" }), "scope"),
            (
                json!({ "name": "a", "scope": "process" }),
                "threshold_percent",
            ),
        ] {
            assert_eq!(of(map).unwrap_err().field, field);
        }
    }
}
