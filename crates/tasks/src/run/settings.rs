//! What people set about running tasks.

use crate::run::allow::{AllowList, Fault};
use crate::run::reach::Reach;
use flyball_policy::limit::{BreakerConfig, Hedge, HedgeConfig};
use std::collections::BTreeMap;
use std::time::Duration;

/// The most tasks that can run at once here: the spawn server's own bound.
pub const MAX_CONCURRENCY: u32 = 10_000;
/// The most named resources, and the most instances of one.
pub const MAX_RESOURCES: usize = 10_000;

/// What may change while tasks run.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct RunSettings {
    /// Whether tasks are taken at all; those that run go on.
    pub enabled: bool,
    /// Tasks that run at once, 1 to 10,000.
    pub max_concurrency: u32,
    /// Named resources: how many instances there are of each, 1 to 10,000; at most 10,000 names.
    pub resources: BTreeMap<Box<str>, u32>,
    /// Memory for tasks that say how much they need, bytes; `None`: not counted.
    pub memory_bytes: Option<u64>,
    /// CPUs for tasks that say how many they need, thousandths; `None`: not counted.
    pub cpu_millis: Option<u32>,
    /// How long an attempt may run whose task does not say, 1 ms to 30 days.
    pub timeout: Duration,
    /// How long a lease lasts, 3 s to 24 h; a sign of life is given after a third of it.
    pub lease: Duration,
    /// Commands that may be run for others than the local user.
    pub commands: AllowList,
    /// What calls may reach that were submitted over a network.
    pub calls: Reach,
    /// What is kept of the outputs of commands.
    pub outputs: OutputLimits,
    /// Whether dependencies that fail are left alone for a while.
    pub circuit_breaker: bool,
    /// When breakers open and close, where none of its own was set.
    pub breaker: BreakerConfig,
    /// When calls of URLs that may be hedged are made a second time.
    pub hedge: HedgeConfig,
    /// Whether a dependency that failed is asked by its check, if it has one, before tasks try it again.
    pub health_checks: bool,
    /// Checks by dependency: a kind of commands or handlers, or host and port of a URL, or the name that the task gives. At most 10,000.
    pub checks: BTreeMap<Box<str>, HealthCheck>,
}

/// Asks whether a dependency is well again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HealthCheck {
    /// It is if this URL answers a GET with 200 to 399 within 5 s.
    Url(String),
    /// It is if this command, program first, exits with 0 within 5 s.
    Command(Vec<String>),
}

/// What is kept of the outputs of commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputLimits {
    /// Of each of the two outputs of a command, bytes: the first ones. 0 to 1 GiB.
    pub stream_bytes: u64,
    /// Of all tasks together, bytes; the oldest go first.
    pub total_bytes: u64,
    /// Tasks whose outputs are kept, 1 to 1,000,000; the oldest go first.
    pub tasks: usize,
}

impl Default for OutputLimits {
    /// 1 MiB of each output, 1 GiB of all, of 10,000 tasks: what people look at, on any disk.
    fn default() -> Self {
        OutputLimits {
            stream_bytes: 1 << 20,
            total_bytes: 1 << 30,
            tasks: 10_000,
        }
    }
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            enabled: true,
            max_concurrency: 100,
            resources: BTreeMap::new(),
            memory_bytes: None,
            cpu_millis: None,
            timeout: Duration::from_secs(3600),
            lease: Duration::from_secs(30),
            commands: AllowList::default(),
            calls: Reach::default(),
            outputs: OutputLimits::default(),
            circuit_breaker: true,
            breaker: BreakerConfig::default(),
            hedge: HedgeConfig::default(),
            health_checks: true,
            checks: BTreeMap::new(),
        }
    }
}

impl RunSettings {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// The first that is out of it.
    pub fn validate(&self) -> Result<(), Fault> {
        let fault = |field: &str, found: String, expected: &str| {
            Err(Fault::new(
                field,
                format!("is {found}, expected {expected}"),
            ))
        };
        if !(1..=MAX_CONCURRENCY).contains(&self.max_concurrency) {
            return fault(
                "max_concurrency",
                self.max_concurrency.to_string(),
                "1 to 10,000",
            );
        }
        if self.resources.len() > MAX_RESOURCES {
            return fault(
                "resources",
                format!("{} names", self.resources.len()),
                "at most 10,000",
            );
        }
        for (name, count) in &self.resources {
            if !is_name(name) {
                return fault(
                    "resources",
                    format!("{name:?}"),
                    "names of 1 to 64 letters, digits, - and _",
                );
            }
            if !(1..=MAX_RESOURCES as u32).contains(count) {
                return fault(
                    &format!("resources.{name}"),
                    count.to_string(),
                    "1 to 10,000",
                );
            }
        }
        let days = |days: u64| Duration::from_secs(days * 86_400);
        if !(Duration::from_millis(1)..=days(30)).contains(&self.timeout) {
            return fault("timeout", format!("{:?}", self.timeout), "1 ms to 30 days");
        }
        if !(Duration::from_secs(3)..=days(1)).contains(&self.lease) {
            return fault("lease", format!("{:?}", self.lease), "3 s to 24 h");
        }
        if self.outputs.stream_bytes > 1 << 30 {
            return fault(
                "outputs.stream_bytes",
                self.outputs.stream_bytes.to_string(),
                "at most 1 GiB",
            );
        }
        if !(1..=1_000_000).contains(&self.outputs.tasks) {
            return fault(
                "outputs.tasks",
                self.outputs.tasks.to_string(),
                "1 to 1,000,000",
            );
        }
        if self.checks.len() > MAX_RESOURCES {
            return fault(
                "checks",
                format!("{} of them", self.checks.len()),
                "at most 10,000",
            );
        }
        if let Err(error) = self.breaker.check() {
            return fault("breaker", error.to_string(), "settings in their ranges");
        }
        if let Err(error) = Hedge::new(self.hedge) {
            return fault("hedge", error.to_string(), "settings in their ranges");
        }
        self.commands.validate()
    }
}

/// Whether a resource can be called so: it becomes part of the name of a variable.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        RunSettings::default().validate().unwrap();
        type Spoil = fn(&mut RunSettings);
        let cases: [(&str, Spoil); 7] = [
            ("max_concurrency", |s| s.max_concurrency = 0),
            ("resources", |s| {
                s.resources.insert("a b".into(), 1);
            }),
            ("resources.gpu", |s| {
                s.resources.insert("gpu".into(), 0);
            }),
            ("timeout", |s| s.timeout = Duration::ZERO),
            ("lease", |s| s.lease = Duration::from_millis(1)),
            ("outputs.tasks", |s| s.outputs.tasks = 0),
            ("commands.programs", |s| {
                s.commands.programs.push("echo".into())
            }),
        ];
        for (field, spoil) in cases {
            let mut settings = RunSettings::default();
            spoil(&mut settings);
            assert_eq!(&*settings.validate().unwrap_err().field, field);
        }
    }
}
