//! Breakers of the dependencies that tasks call.

use super::{At, Faults};
use crate::view::Time;
use flyball_policy::limit::{BreakerConfig, Forced};
use flyball_tasks::run::DependencyStatus;
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;

/// Settings of a breaker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BreakerConfigView {
    /// How far back calls count.
    pub window_ms: u64,
    /// Fewer calls than this prove nothing.
    pub min_calls: u32,
    /// It opens when more than this part of the calls fails.
    pub failure_percent: f64,
    /// It opens when more than this part of the calls is slow.
    pub slow_percent: f64,
    /// A call that takes so long is slow; null where none is.
    pub slow_call_ms: Option<u64>,
    /// The shortest wait before the dependency is tried again.
    pub open_min_ms: u64,
    /// The longest.
    pub open_max_ms: u64,
    /// Rounds of 1, 2, 4, … probes that must go well before it closes.
    pub probe_rounds: u32,
    /// `enforce`, or `observe`: it decides and counts, and refuses nobody.
    pub mode: String,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<&BreakerConfig> for BreakerConfigView {
    fn from(config: &BreakerConfig) -> Self {
        BreakerConfigView {
            window_ms: millis(config.window),
            min_calls: config.min_calls,
            failure_percent: config.failure_rate * 100.0,
            slow_percent: config.slow_rate * 100.0,
            slow_call_ms: config.slow_call.map(millis),
            open_min_ms: millis(config.open_min),
            open_max_ms: millis(config.open_max),
            probe_rounds: config.probe_rounds,
            mode: if config.observe { "observe" } else { "enforce" }.to_owned(),
        }
    }
}

/// A breaker: what it does, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BreakerView {
    /// The dependency: calls that name the same share a breaker.
    pub name: String,
    /// `closed`, `open` or `half_open`.
    pub state: String,
    /// `open` or `closed`, where somebody decided in its place.
    pub forced: Option<String>,
    /// Since when; null since it was made.
    pub since: Option<Time>,
    /// When an open breaker tries the dependency again.
    pub until: Option<Time>,
    /// Calls of the window that have ended, or are overdue.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Those of them that were slow.
    pub slow: u64,
    /// The part that failed; null without calls.
    pub failure_percent: Option<f64>,
    /// The part that was slow; null without calls.
    pub slow_percent: Option<f64>,
    /// Calls that are out.
    pub in_flight: u64,
    /// Calls refused since it was made; of one that observes, those that would have been.
    pub refused: u64,
    /// How often it opened since it was made.
    pub opened: u64,
    /// Its settings.
    pub config: BreakerConfigView,
    /// Whether those are its own rather than those of `scheduler.breaker`.
    pub own_config: bool,
    /// Whether the dependency has a check.
    pub has_check: bool,
    /// What the last check found wrong.
    pub check_fault: Option<String>,
}

impl From<&DependencyStatus> for BreakerView {
    fn from(status: &DependencyStatus) -> Self {
        let breaker = &status.breaker;
        let percent = |rate: f64| rate * 100.0;
        BreakerView {
            name: status.key.to_string(),
            state: breaker.state.name().to_owned(),
            forced: breaker.forced.map(|forced| {
                let name = match forced {
                    Forced::Open => "open",
                    Forced::Closed => "closed",
                };
                name.to_owned()
            }),
            since: breaker.since.map(Time::of),
            until: breaker.until.map(Time::of),
            calls: breaker.calls,
            failures: breaker.failures,
            slow: breaker.slow,
            failure_percent: breaker.failure_rate().map(percent),
            slow_percent: breaker.slow_rate().map(percent),
            in_flight: breaker.in_flight,
            refused: breaker.refused,
            opened: breaker.opened,
            config: (&status.config).into(),
            own_config: status.own_config,
            has_check: status.has_check,
            check_fault: status.check_fault.as_deref().map(str::to_owned),
        }
    }
}

/// What decides in place of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ForceName {
    /// No call is let through.
    Open,
    /// All are.
    Closed,
    /// The breaker decides.
    None,
}

impl From<ForceName> for Option<Forced> {
    fn from(force: ForceName) -> Self {
        match force {
            ForceName::Open => Some(Forced::Open),
            ForceName::Closed => Some(Forced::Closed),
            ForceName::None => None,
        }
    }
}

/// Whether a breaker acts on what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BreakerModeName {
    /// It refuses calls while it is open.
    Enforce,
    /// It decides and counts, and refuses nobody.
    Observe,
}

/// Settings of a breaker to change; what is left out stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BreakerConfigBody {
    /// How far back calls count, 10 to 3,600,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// Fewer calls than this prove nothing, 1 to 1,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_calls: Option<u32>,
    /// It opens when more than this part of the calls fails, between 0 and 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<f64>,
    /// It opens when more than this part of the calls is slow, between 0 and 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_percent: Option<f64>,
    /// A call that takes so long is slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_call_ms: Option<u64>,
    /// The shortest wait before the dependency is tried again, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_min_ms: Option<u64>,
    /// The longest, at most a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_max_ms: Option<u64>,
    /// Rounds of 1, 2, 4, … probes that must go well before it closes, 1 to 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_rounds: Option<u32>,
    /// `enforce`, or `observe`: decide and count, and refuse nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<BreakerModeName>,
}

/// What to change of a breaker; what is left out stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BreakerBody {
    /// What decides in its place: `open`, `closed`, or `none` for the breaker itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<ForceName>,
    /// Settings of its own, until the next start; null takes them back.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<BreakerConfigBody>))]
    pub config: Option<Option<BreakerConfigBody>>,
}

/// Tells null from nothing.
fn given<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<BreakerConfigBody>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl BreakerConfigBody {
    /// The settings that result from those there are.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn over(self, config: &BreakerConfig) -> Result<BreakerConfig, Faults> {
        let time = |change: Option<u64>, old: Duration| change.map_or(old, Duration::from_millis);
        let part = |change: Option<f64>, old: f64| change.map_or(old, |percent| percent / 100.0);
        let mut new = *config;
        new.window = time(self.window_ms, config.window);
        new.min_calls = self.min_calls.unwrap_or(config.min_calls);
        new.failure_rate = part(self.failure_percent, config.failure_rate);
        new.slow_rate = part(self.slow_percent, config.slow_rate);
        if let Some(slow) = self.slow_call_ms {
            new.slow_call = Some(Duration::from_millis(slow));
        }
        new.open_min = time(self.open_min_ms, config.open_min);
        new.open_max = time(self.open_max_ms, config.open_max);
        new.probe_rounds = self.probe_rounds.unwrap_or(config.probe_rounds);
        if let Some(mode) = self.mode {
            new.observe = mode == BreakerModeName::Observe;
        }
        match new.check() {
            Ok(()) => Ok(new),
            Err(wrong) => Err(Faults::one(
                At::ROOT.key("config").pointer(),
                wrong.to_string(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TASK-8, CPU-30: a breaker is changed in part, its mode too; what makes no sense is refused.
    #[test]
    fn breakers_are_changed_in_part() {
        let body = |text: &str| serde_json::from_str::<BreakerBody>(text);
        let change = body(r#"{"config":{"failure_percent":25,"slow_call_ms":100}}"#).unwrap();
        let old = BreakerConfig::default();
        let new = change.config.unwrap().unwrap().over(&old).unwrap();
        assert_eq!((new.failure_rate, new.min_calls), (0.25, old.min_calls));
        assert_eq!(new.slow_call, Some(Duration::from_millis(100)));
        let change = body(r#"{"config":{"mode":"observe"}}"#).unwrap();
        let observing = change.config.unwrap().unwrap().over(&new).unwrap();
        assert!(observing.observe && !new.observe);
        assert_eq!(BreakerConfigView::from(&observing).mode, "observe");
        assert_eq!(body(r#"{"config":null}"#).unwrap().config, Some(None));
        assert_eq!(body(r#"{"force":"open"}"#).unwrap().config, None);
        assert!(body(r#"{"force":"ajar"}"#).is_err());
        for wrong in [
            r#"{"failure_percent":0}"#,
            r#"{"failure_percent":-5}"#,
            r#"{"failure_percent":1e300}"#,
            r#"{"window_ms":0}"#,
            r#"{"probe_rounds":0}"#,
            r#"{"open_min_ms":10,"open_max_ms":5}"#,
        ] {
            let body: BreakerConfigBody = serde_json::from_str(wrong).unwrap();
            let faults = body.over(&old).expect_err(wrong);
            assert_eq!(faults.list()[0].pointer, "/config");
        }
    }
}
