//! An adaptive limit as the configuration names it: one map of `limits.adaptive`.
//!
//! What a map does not say is as whoever makes the gate has it: the program, or for classes and hosts the defaults for dependencies.

use std::fmt;
use std::num::NonZero;
use std::time::Duration;

use flyball_limit::{AdaptiveConfig, Algorithm, Error, GateConfig, Mode};
use serde_json::{Map, Value as Json};

use super::entry::{self, Wrong, found, is_name, quoted, text};

/// Most adaptive limits that a configuration may name.
pub const MAX_LIMITS: usize = 128;

/// What an adaptive limit bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitScope {
    /// What the program sends through the gate of that name.
    Program,
    /// The durable tasks of a class that run at once.
    Class(String),
    /// The calls of URLs by durable tasks that go to one dependency, named as its breaker is: `api.example.org:443`.
    Dependency(String),
}

impl fmt::Display for LimitScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program => f.write_str("program"),
            Self::Class(name) => write!(f, "class:{name}"),
            Self::Dependency(name) => write!(f, "dependency:{name}"),
        }
    }
}

/// An adaptive limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSpec {
    /// 1 to 64 characters of `a-z`, `0-9`, `_` and `-`.
    pub name: String,
    /// What it bounds.
    pub scope: LimitScope,
    /// What it says of the gate.
    map: Map<String, Json>,
}

/// Names that the API has for other things beside limits.
const TAKEN: [&str; 2] = ["adaptive", "breakers"];

impl LimitSpec {
    /// What may be said of one; the name, and what it bounds, come first.
    pub const FIELDS: [(&'static str, &'static str); 14] = [
        (
            "name",
            "1 to 64 characters of a-z, 0-9, _ and -, other than `adaptive` and `breakers`.",
        ),
        (
            "scope",
            "What it bounds: `program` (what a program sends through its gate of that name), `class:NAME` (durable tasks of a class that run \
             at once) or `dependency:NAME` (URLs that durable tasks call, named as the breaker is: `api.example.org:443`). It cannot be changed.",
        ),
        (
            "mode",
            "`enforce`, or `observe`: decide and count, and hold nothing back.",
        ),
        (
            "algorithm",
            "How the limit is found: `run_delay`, `vegas`, `gradient`, `aimd` or `fixed`. For classes and dependencies `vegas` unless said.",
        ),
        (
            "limit",
            "The limit of the algorithm `fixed`, 1 to 1,000,000; with it the algorithm need not be said.",
        ),
        ("min", "The least limit, 1 to `max`; 1 unless said."),
        (
            "max",
            "The greatest limit, up to 1,000,000; 1,000 unless said.",
        ),
        ("initial", "Where the search starts."),
        (
            "probe_every",
            "How often `vegas` measures the latency without a queue, 1s to 1h; 30s unless said.",
        ),
        (
            "tolerance",
            "How many times the usual latency is no reason for `gradient` to have fewer, 1 to 10; 1.5 unless said.",
        ),
        (
            "backoff",
            "What `aimd` leaves of the limit after failures, 0.5 to 0.99; 0.9 unless said.",
        ),
        (
            "latency_max",
            "Calls slower than this count as failed for `aimd`.",
        ),
        (
            "deadline",
            "What calls have that name no deadline, 1ms to 1h; 250ms unless said. They wait for at most three tenths of it. Not for classes.",
        ),
        (
            "queue_max",
            "Calls that may wait, up to 1,000,000; 10,000 unless said. Not for classes.",
        ),
    ];

    /// Reads a map.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of(map: &Map<String, Json>) -> Result<LimitSpec, Wrong> {
        entry::known(map, &Self::FIELDS)?;
        const NAME: &str =
            "1 to 64 characters of a-z, 0-9, _ and -, other than adaptive and breakers";
        let Some(name) = text(map, "name")? else {
            return Err(Wrong::new("name", "no name", NAME));
        };
        if !is_name(name) || TAKEN.contains(&name) {
            return Err(Wrong::new("name", quoted(name), NAME));
        }
        let scope = text(map, "scope")?.unwrap_or("program");
        let scope = match scope.split_once(':') {
            None if scope == "program" => LimitScope::Program,
            Some(("class", class)) if is_name(class) => LimitScope::Class(class.to_owned()),
            Some(("dependency", key)) if is_dependency(key) => {
                LimitScope::Dependency(key.to_owned())
            }
            _ => {
                let expected = "program, class:NAME or dependency:NAME";
                return Err(Wrong::new("scope", quoted(scope), expected));
            }
        };
        let spec = LimitSpec {
            name: name.to_owned(),
            scope,
            map: map.clone(),
        };
        let gate = spec.gate(GateConfig::dependency())?;
        let by_run_delay = matches!(gate.limit.algorithm, Algorithm::RunDelay { .. });
        if by_run_delay && spec.scope != LimitScope::Program {
            let expected = format!(
                "vegas, gradient, aimd or fixed: of {} only latency is known",
                spec.scope
            );
            return Err(Wrong::new("algorithm", quoted("run_delay"), expected));
        }
        for field in ["deadline", "queue_max"] {
            if let (LimitScope::Class(_), Some(value)) = (&spec.scope, map.get(field)) {
                let expected = "nothing: durable tasks wait in their queue, and none is shed";
                return Err(Wrong::new(field, value.to_string(), expected));
            }
        }
        Ok(spec)
    }

    /// What the gate of a class or a dependency has where the map says nothing.
    pub(crate) fn base(&self) -> GateConfig {
        let mut base = GateConfig::dependency();
        if let LimitScope::Class(name) = &self.scope {
            // The latency without a queue is that of as many as there are CPUs.
            let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
            base.limit.initial = u32::try_from(cpus).ok();
            base.classes
                .retain(|class| class.name == base.default_class);
            for class in &mut base.classes {
                class.name.clone_from(name);
            }
            base.default_class.clone_from(name);
        }
        base
    }

    /// The settings of a gate, given those that it has where the map says nothing.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn gate(&self, base: GateConfig) -> Result<GateConfig, Wrong> {
        let map = &self.map;
        let mut gate = base;
        match text(map, "mode")? {
            None => {}
            Some("enforce") => gate.mode = Mode::Enforce,
            Some("observe") => gate.mode = Mode::Observe,
            Some(other) => return Err(Wrong::new("mode", quoted(other), "enforce or observe")),
        }
        gate.limit.algorithm = self.algorithm(&gate.limit)?;
        if let Some(min) = count(map, "min")? {
            gate.limit.min = min;
        }
        if let Some(max) = count(map, "max")? {
            gate.limit.max = max;
        }
        if let Some(initial) = count(map, "initial")? {
            gate.limit.initial = Some(initial);
        }
        if let Some(deadline) = duration(map, "deadline")? {
            gate.admission.deadline = deadline;
            gate.admission.deadline_max = gate.admission.deadline_max.max(deadline);
        }
        if let Some(most) = count(map, "queue_max")? {
            gate.admission.queue_max = most;
        }
        gate.check().map_err(|error| self.wrong(&error))?;
        Ok(gate)
    }

    /// Which field a setting out of its range comes from.
    fn wrong(&self, error: &Error) -> Wrong {
        let Error::Setting(flyball_policy::Error::Limit {
            field, expected, ..
        }) = error
        else {
            return Wrong::new("", error.to_string(), "settings that go together");
        };
        let field = if *field == "fixed" { "limit" } else { *field };
        let found = match self.map.get(field) {
            Some(value) => value.to_string(),
            None => "what the gate has".to_owned(),
        };
        Wrong::new(field, found, *expected)
    }

    fn algorithm(&self, base: &AdaptiveConfig) -> Result<Algorithm, Wrong> {
        let map = &self.map;
        let fixed = count(map, "limit")?;
        const NAMES: &str = "run_delay, vegas, gradient, aimd or fixed";
        let named = match (text(map, "algorithm")?, fixed) {
            (None, None) => base.algorithm,
            (None, Some(limit)) => Algorithm::Fixed(limit),
            (Some("fixed"), limit) => match (limit, base.algorithm) {
                (Some(limit), _) | (None, Algorithm::Fixed(limit)) => Algorithm::Fixed(limit),
                _ => {
                    return Err(Wrong::new(
                        "limit",
                        "none",
                        "1 to 1,000,000, with the algorithm fixed",
                    ));
                }
            },
            (Some(name), None) if name == base.algorithm.name() => base.algorithm,
            (Some("run_delay"), None) => GateConfig::own_work().limit.algorithm,
            (Some("vegas"), None) => Algorithm::vegas(),
            (Some("gradient"), None) => Algorithm::gradient(),
            (Some("aimd"), None) => Algorithm::aimd(),
            (Some(name @ ("run_delay" | "vegas" | "gradient" | "aimd")), Some(limit)) => {
                let expected = format!("nothing, as the algorithm {name} finds it");
                return Err(Wrong::new("limit", limit.to_string(), expected));
            }
            (Some(other), _) => return Err(Wrong::new("algorithm", quoted(other), NAMES)),
        };
        let probe_every = duration(map, "probe_every")?;
        let tolerance = number(map, "tolerance")?;
        let backoff = number(map, "backoff")?;
        let latency_max = duration(map, "latency_max")?;
        let is_vegas = matches!(named, Algorithm::Vegas { .. });
        let is_gradient = matches!(named, Algorithm::Gradient { .. });
        let is_aimd = matches!(named, Algorithm::Aimd { .. });
        for (field, said, fits) in [
            ("probe_every", probe_every.is_some(), is_vegas),
            ("tolerance", tolerance.is_some(), is_gradient),
            ("backoff", backoff.is_some(), is_aimd),
            ("latency_max", latency_max.is_some(), is_aimd),
        ] {
            // It would be of no effect, and whoever wrote it thinks otherwise.
            if said && !fits {
                let found = map.get(field).map(Json::to_string).unwrap_or_default();
                let expected = format!(
                    "nothing: the algorithm {} has no such setting",
                    named.name()
                );
                return Err(Wrong::new(field, found, expected));
            }
        }
        Ok(match named {
            Algorithm::Vegas { probe_every: usual } => Algorithm::Vegas {
                probe_every: probe_every.unwrap_or(usual),
            },
            Algorithm::Gradient { tolerance: usual } => Algorithm::Gradient {
                tolerance: tolerance.unwrap_or(usual),
            },
            Algorithm::Aimd {
                backoff: usual,
                latency_max: longest,
            } => Algorithm::Aimd {
                backoff: backoff.unwrap_or(usual),
                latency_max: latency_max.or(longest),
            },
            other => other,
        })
    }
}

fn number(map: &Map<String, Json>, field: &'static str) -> Result<Option<f64>, Wrong> {
    entry::number(map, field, "a number", |text| text.parse().ok())
}

fn count(map: &Map<String, Json>, field: &'static str) -> Result<Option<u32>, Wrong> {
    let Some(number) = number(map, field)? else {
        return Ok(None);
    };
    let whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    match whole {
        true => Ok(Some(number as u32)),
        false => Err(Wrong::new(
            field,
            number.to_string(),
            "a whole number, not negative",
        )),
    }
}

fn duration(map: &Map<String, Json>, field: &'static str) -> Result<Option<Duration>, Wrong> {
    const EXPECTED: &str = "a duration such as 250ms or 2s";
    match map.get(field) {
        None => Ok(None),
        Some(Json::String(written)) => match flyball_core::units::parse_duration(written) {
            Ok(time) => Ok(Some(time)),
            Err(_) => Err(Wrong::new(field, quoted(written), EXPECTED)),
        },
        Some(_) => Err(Wrong::new(field, found(map, field), EXPECTED)),
    }
}

/// A name as breakers have it.
fn is_dependency(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(json: Json) -> Result<LimitSpec, Wrong> {
        LimitSpec::of(json.as_object().unwrap())
    }

    /// CPU-22: a limit has a name, what it bounds and an algorithm; what is not said is as the gate has it.
    #[test]
    fn limits_are_read() {
        let spec = of(json!({ "name": "db" })).unwrap();
        assert_eq!(spec.scope, LimitScope::Program);
        let base = GateConfig::fixed(7).with_mode(Mode::Observe);
        assert_eq!(spec.gate(base.clone()), Ok(base));
        let whole = json!({
            "name": "pay", "scope": "dependency:pay.example.org:443", "mode": "observe", "algorithm": "aimd", "backoff": 0.8,
            "latency_max": "2s", "min": 2, "max": "64", "initial": 8, "deadline": "5s", "queue_max": 0,
        });
        let spec = of(whole).unwrap();
        assert_eq!(spec.scope.to_string(), "dependency:pay.example.org:443");
        let gate = spec.gate(GateConfig::dependency()).unwrap();
        let aimd = Algorithm::Aimd {
            backoff: 0.8,
            latency_max: Some(Duration::from_secs(2)),
        };
        assert_eq!((gate.mode, gate.limit.algorithm), (Mode::Observe, aimd));
        assert_eq!(
            (gate.limit.min, gate.limit.max, gate.limit.initial),
            (2, 64, Some(8))
        );
        assert_eq!(gate.admission.deadline, Duration::from_secs(5));
        assert_eq!(gate.admission.queue_max, 0);
        let spec = of(json!({ "name": "a", "scope": "class:batch", "limit": 3 })).unwrap();
        let gate = spec.gate(GateConfig::dependency()).unwrap();
        assert_eq!(gate.limit.algorithm, Algorithm::Fixed(3));
    }

    /// CPU-22: what is wrong is refused; field, value and what is expected are named.
    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, field, expected) in [
            (json!({}), "name", "1 to 64"),
            (json!({ "name": "A" }), "name", "1 to 64"),
            (json!({ "name": "breakers" }), "name", "other than"),
            (
                json!({ "name": "a", "scope": "class:" }),
                "scope",
                "class:NAME",
            ),
            (
                json!({ "name": "a", "scope": "dependency:a b" }),
                "scope",
                "program",
            ),
            (json!({ "name": "a", "mode": "watch" }), "mode", "observe"),
            (json!({ "name": "a", "mode": 1 }), "mode", "text"),
            (
                json!({ "name": "a", "algorithm": "magic" }),
                "algorithm",
                "vegas",
            ),
            (
                json!({ "name": "a", "algorithm": "fixed" }),
                "limit",
                "1 to 1,000,000",
            ),
            (
                json!({ "name": "a", "algorithm": "vegas", "limit": 3 }),
                "limit",
                "nothing",
            ),
            (
                json!({ "name": "a", "limit": 0 }),
                "limit",
                "1 to 1,000,000",
            ),
            (json!({ "name": "a", "limit": 1.5 }), "limit", "whole"),
            (json!({ "name": "a", "limit": -1 }), "limit", "not negative"),
            (
                json!({ "name": "a", "min": 5, "max": 4 }),
                "min",
                "1 to max",
            ),
            (json!({ "name": "a", "max": "NaN" }), "max", "a number"),
            (
                json!({ "name": "a", "tolerance": 2 }),
                "tolerance",
                "no such setting",
            ),
            (
                json!({ "name": "a", "algorithm": "gradient", "tolerance": 0.5 }),
                "tolerance",
                "1 to 10",
            ),
            (
                json!({ "name": "a", "deadline": "0ms" }),
                "deadline",
                "1 ms to 1 h",
            ),
            (json!({ "name": "a", "deadline": 5 }), "deadline", "250ms"),
            (
                json!({ "name": "a", "deadline": "soon" }),
                "deadline",
                "250ms",
            ),
            (
                json!({ "name": "a", "scope": "class:batch", "algorithm": "run_delay" }),
                "algorithm",
                "only latency",
            ),
            (
                json!({ "name": "a", "scope": "class:batch", "deadline": "1s" }),
                "deadline",
                "wait in their queue",
            ),
            (json!({ "name": "a", "maximum": 1 }), "", "max, initial"),
        ] {
            let fault = of(wrong.clone()).unwrap_err();
            assert_eq!(fault.field, field, "{wrong}: {fault}");
            assert!(fault.expected.contains(expected), "{wrong}: {fault}");
        }
    }
}
