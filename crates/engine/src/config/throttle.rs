//! A throttle as the configuration names it: one map of `throttling.throttles`.

use std::fmt;

use flyball_policy::control::throttle::Settings;
use flyball_policy::sched::MAX_JOINT;
use serde_json::{Map, Value as Json};

use super::value::clip;

/// The throttle that `threshold_percent` speaks of.
pub const DEFAULT_THROTTLE: &str = "machine";
/// The throttle that keeps under the CPU quota.
pub const QUOTA_THROTTLE: &str = "quota";
/// Most throttles that a configuration may name: the two of the daemon have places of their own.
pub const MAX_THROTTLES: usize = MAX_JOINT - 2;
/// The part of a CPU quota that is held, percent: below all, so that the period's quota is not spent before its end.
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
    pub(super) const EXPECTED: &'static str = "name (1 to 64 characters of a-z, 0-9, _ and -), scope (machine, process, quota or class:NAME), threshold_percent (1 to 100), and at will hysteresis_percent (0 to 50), below (a class), mode (enforce or observe) and enabled";

    const FIELDS: [&'static str; 7] = [
        "name",
        "scope",
        "threshold_percent",
        "hysteresis_percent",
        "below",
        "mode",
        "enabled",
    ];

    /// Reads a map.
    ///
    /// # Errors
    /// What is wrong with it, as what was found.
    pub(crate) fn of(map: &Map<String, Json>) -> Result<ThrottleSpec, String> {
        let known = |key: &&String| !Self::FIELDS.contains(&key.as_str());
        if let Some(other) = map.keys().find(known) {
            return Err(format!("the field {:?}", clip(other, 64)));
        }
        let text = |field: &str| match map.get(field) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(format!("a {field} that is no text")),
        };
        let number = |field: &str| match map.get(field) {
            None => Ok(None),
            Some(Json::Number(number)) => Ok(number.as_f64()),
            // As in the rest of the configuration, the sign may stand there.
            Some(Json::String(text)) => {
                let figure = text.trim().trim_end_matches('%').trim_end().parse().ok();
                figure
                    .map(Some)
                    .ok_or(format!("a {field} that is no number"))
            }
            Some(_) => Err(format!("a {field} that is no number")),
        };
        let name = text("name")?.ok_or("no name")?;
        if !is_name(name) {
            return Err(format!("the name {:?}", clip(name, 100)));
        }
        if [DEFAULT_THROTTLE, QUOTA_THROTTLE].contains(&name) {
            return Err(format!(
                "the name {name:?}, which the daemon's own throttle has"
            ));
        }
        let scope = match text("scope")?.ok_or("no scope")? {
            "machine" => Scope::Machine,
            "process" => Scope::Process,
            "quota" => Scope::Quota,
            other => match other.strip_prefix("class:").filter(|name| is_name(name)) {
                Some(class) => Scope::Class(class.to_owned()),
                None => return Err(format!("the scope {:?}", clip(other, 100))),
            },
        };
        let observe = match text("mode")? {
            None | Some("enforce") => false,
            Some("observe") => true,
            Some(other) => return Err(format!("the mode {:?}", clip(other, 64))),
        };
        let enabled = match map.get("enabled") {
            None => true,
            Some(Json::Bool(enabled)) => *enabled,
            Some(_) => return Err("enabled that is neither true nor false".into()),
        };
        let below = text("below")?.unwrap_or("critical");
        if !is_name(below) {
            return Err(format!("the class {:?}", clip(below, 100)));
        }
        let settings = Settings {
            threshold: number("threshold_percent")?.ok_or("no threshold_percent")?,
            hysteresis: number("hysteresis_percent")?.unwrap_or(Settings::HYSTERESIS),
            observe,
        };
        settings.check().map_err(|error| {
            let (threshold, hysteresis) = (settings.threshold, settings.hysteresis);
            format!("a threshold of {threshold} and a hysteresis of {hysteresis}: {error}")
        })?;
        Ok(ThrottleSpec {
            name: name.to_owned(),
            scope,
            settings,
            below: below.to_owned(),
            enabled,
        })
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(json: Json) -> Result<ThrottleSpec, String> {
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
    }

    /// CPU-20: what is wrong is refused, and named.
    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, said) in [
            (json!({}), "no name"),
            (json!({ "name": "A" }), "the name \"A\""),
            (json!({ "name": "machine" }), "own throttle"),
            (json!({ "name": "a" }), "no scope"),
            (
                json!({ "name": "a", "scope": "galaxy" }),
                "the scope \"galaxy\"",
            ),
            (json!({ "name": "a", "scope": "class:" }), "the scope"),
            (
                json!({ "name": "a", "scope": "process" }),
                "no threshold_percent",
            ),
            (
                json!({ "name": "a", "scope": "process", "threshold_percent": 0 }),
                "1 to 100",
            ),
            (
                json!({ "name": "a", "scope": "process", "threshold_percent": 101 }),
                "1 to 100",
            ),
            (
                json!({ "name": "a", "scope": "process", "threshold_percent": "NaN" }),
                "1 to 100",
            ),
            (
                json!({ "name": "a", "scope": "process", "threshold_percent": [] }),
                "no number",
            ),
            (
                json!({ "name": "a", "scope": "process", "threshold_percent": 50, "hysteresis_percent": 51 }),
                "0 to 50",
            ),
            (
                json!({ "name": "a", "scope": "process", "threshold_percent": 50, "mode": "watch" }),
                "the mode",
            ),
            (
                json!({ "name": "a", "scope": "process", "threshold_percent": 50, "enabled": 1 }),
                "enabled",
            ),
            (
                json!({ "name": "a", "scope": "process", "threshold_percent": 50, "thresold": 1 }),
                "\"thresold\"",
            ),
        ] {
            let error = of(wrong.clone()).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
