//! What the configuration means for queue and runners: pure translation.

use crate::config::{CheckBy, Config, Mode};
use flyball_executor::{ClassStats, Executor};
use flyball_policy::limit::BreakerConfig;
use flyball_policy::queue::Settings;
use flyball_tasks::run::{AllowList, HealthCheck, OutputLimits, Reach, RunSettings};
use flyball_tasks::{ClassRule, RetryPolicy};
use std::collections::BTreeMap;

/// The part of the machine's memory that tasks may need together where nobody says: the rest is the system's and the daemon's own.
const MEMORY_PART: u64 = 80;

/// What there is on this machine for tasks to share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// CPUs that the process may use.
    pub(crate) cpus: usize,
    /// Memory of the machine or of the process's cgroup, bytes; `None` where that is not known.
    pub(crate) memory_bytes: Option<u64>,
}

/// When a failed attempt is followed by another, where a task does not say.
pub(crate) fn retry_policy(config: &Config) -> RetryPolicy {
    let scheduler = &config.scheduler;
    RetryPolicy {
        max_attempts: scheduler.retry_attempts,
        base: scheduler.retry_delay,
        cap: scheduler.retry_delay_max,
    }
}

/// What the store may hold, and for how long.
pub(crate) fn bounds(config: &Config) -> Settings {
    let queue = &config.queue;
    Settings {
        max_tasks: queue.max_tasks as usize,
        max_ended: queue.max_ended as usize,
        max_dead: queue.max_ended as usize,
        retention: queue.retention,
        retention_dead: queue.retention_dead,
        retry_observe: config.scheduler.retry_budget_mode == Mode::Observe,
        retry_permille: (config.scheduler.retry_budget_percent * 10.0).round() as u16,
        ..Settings::default()
    }
}

/// What the classes mean for the queue, and the limits of those that have one.
pub(crate) fn class_rules(executor: &Executor, limits: &BTreeMap<Box<str>, u32>) -> Vec<ClassRule> {
    let keys = |class: &ClassStats| executor.class(&class.name).map(|class| class.key_limits());
    let rule = |class: &ClassStats| ClassRule {
        name: class.spec.name.as_str().into(),
        priority: class.spec.priority,
        shares: class.spec.shares,
        concurrency: class
            .spec
            .concurrency
            .into_iter()
            .chain(limits.get(class.name.as_str()).copied())
            .min(),
        key_concurrency: keys(class).ok().and_then(|keys| keys.concurrency),
        key_observe: keys(class).is_ok_and(|keys| keys.observe),
        queue_limit: class.spec.queue_limit,
    };
    executor.stats().classes.iter().map(rule).collect()
}

/// What the runners are told. `enabled` is whether they take tasks at all.
pub(crate) fn run_settings(config: &Config, machine: Machine, enabled: bool) -> RunSettings {
    let scheduler = &config.scheduler;
    let named = |(name, count): (&String, &u32)| (name.as_str().into(), *count);
    let checks = scheduler.checks.0.iter().filter_map(|map| {
        // The configuration has been checked.
        let check = crate::config::Check::of(map).ok()?;
        let by = match check.by {
            CheckBy::Url(url) => HealthCheck::Url(url),
            CheckBy::Command(words) => HealthCheck::Command(words),
        };
        Some((check.dependency.into(), by))
    });
    let mut settings = RunSettings::default();
    settings.enabled = enabled;
    settings.max_concurrency = scheduler.max_concurrency;
    settings.resources = scheduler.resources.iter().map(named).collect();
    settings.memory_bytes = scheduler
        .max_memory
        .or(machine.memory_bytes.map(|bytes| bytes / 100 * MEMORY_PART));
    let cpus = scheduler.max_cpus.unwrap_or(machine.cpus as f64);
    settings.cpu_millis = Some((cpus * 1e3).round() as u32);
    settings.timeout = config.cpu_scheduler.task_timeout;
    settings.lease = scheduler.lease;
    settings.commands = allow_list(config);
    settings.calls = reach(config);
    settings.outputs = OutputLimits {
        stream_bytes: scheduler.outputs.stream_size,
        total_bytes: scheduler.outputs.total_size,
        tasks: scheduler.outputs.tasks as usize,
    };
    settings.circuit_breaker = scheduler.circuit_breaker;
    settings.breaker = breaker(config);
    settings.health_checks = scheduler.health_checks;
    settings.checks = checks.collect();
    settings
}

/// The commands that may be run for others than the local user.
pub(crate) fn allow_list(config: &Config) -> AllowList {
    let commands = &config.commands;
    if !commands.enabled {
        return AllowList::default();
    }
    AllowList {
        programs: commands.programs.clone(),
        folders: commands.folders.clone(),
        env: commands.environment.clone(),
    }
}

/// What calls may reach that were submitted over a network.
pub(crate) fn reach(config: &Config) -> Reach {
    // The configuration has been checked.
    Reach::parse(&config.calls.hosts).unwrap_or_default()
}

fn breaker(config: &Config) -> BreakerConfig {
    let breaker = &config.scheduler.breaker;
    BreakerConfig {
        window: breaker.window,
        min_calls: breaker.min_calls,
        failure_rate: breaker.failure_percent / 100.0,
        slow_rate: breaker.slow_percent / 100.0,
        slow_call: breaker.slow_after,
        open_min: breaker.open_min,
        open_max: breaker.open_max,
        probe_rounds: breaker.probe_rounds,
        observe: breaker.mode == Mode::Observe,
        ..BreakerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};
    use std::time::Duration;

    fn config(yaml: &str) -> Config {
        let sources = Sources::new().with_text("test.yaml", yaml);
        load(&sources).expect("right").config
    }

    const MACHINE: Machine = Machine {
        cpus: 4,
        memory_bytes: Some(1_000),
    };

    /// TASK-3, TASK-17: what tasks may need together is the machine's unless the configuration says, and named resources are as it says.
    #[test]
    fn what_is_shared_is_the_machine_or_what_is_said() {
        let own = run_settings(&config(""), MACHINE, true);
        assert_eq!((own.cpu_millis, own.memory_bytes), (Some(4_000), Some(800)));
        assert!(own.resources.is_empty());
        let yaml = "scheduler: {max_cpus: 1.5, max_memory: 2MiB, resources: {gpu: 2}}";
        let said = run_settings(&config(yaml), MACHINE, true);
        assert_eq!(
            (said.cpu_millis, said.memory_bytes),
            (Some(1_500), Some(2 << 20))
        );
        assert_eq!(said.resources["gpu"], 2);
        let unknown = run_settings(&config(""), Machine::default(), true);
        assert_eq!(unknown.memory_bytes, None);
    }

    /// CPU-30: breakers only observe where the configuration says so.
    #[test]
    fn breakers_may_observe() {
        let observes = |yaml| run_settings(&config(yaml), MACHINE, true).breaker.observe;
        assert!(!observes(""));
        assert!(observes("scheduler: {breaker: {mode: observe}}"));
    }

    /// TASK-11: programs that are listed are allowed only where commands from the network are switched on.
    #[test]
    fn commands_are_off_until_they_are_switched_on() {
        let listed = "programs: [/bin/true], folders: [/srv], environment: [LANG]";
        let off = run_settings(&config(&format!("commands: {{{listed}}}")), MACHINE, true);
        assert_eq!(off.commands, AllowList::default());
        let yaml = format!("commands: {{enabled: true, {listed}}}");
        let on = run_settings(&config(&yaml), MACHINE, true);
        assert_eq!(
            on.commands.programs,
            [std::path::PathBuf::from("/bin/true")]
        );
    }

    /// TASK-7, TASK-8, CFG-5: every value within the ranges of the configuration is one that runners and breakers take.
    #[test]
    fn runners_take_the_ends_of_all_ranges() {
        for yaml in [
            "",
            "scheduler: {max_concurrency: 1, lease: 3s, retry_delay: 0, retry_delay_max: 0, outputs: {stream_size: 0, total_size: 0, tasks: 1}}\n\
             cpu_scheduler: {task_timeout: 1ms}",
            "scheduler: {max_concurrency: 10000, lease: 1d, max_cpus: 10000, resources: {a: 1000}, outputs: {stream_size: 1GiB, tasks: 1000000}}\n\
             cpu_scheduler: {task_timeout: 30d}",
            "scheduler: {breaker: {window: 10ms, min_calls: 1, failure_percent: 0.1, slow_percent: 0.1, slow_after: 1ms, open_min: 1ms, probe_rounds: 1}}",
            "scheduler: {breaker: {window: 1h, min_calls: 1000000, failure_percent: 99.9, slow_percent: 99.9, open_max: 1d, probe_rounds: 16}}",
        ] {
            let config = config(yaml);
            let settings = run_settings(&config, MACHINE, true);
            settings
                .validate()
                .unwrap_or_else(|fault| panic!("{yaml}: {fault}"));
            assert!(
                flyball_policy::limit::Breaker::new(settings.breaker, 1).is_ok(),
                "{yaml}"
            );
        }
        let policy = retry_policy(&config("scheduler: {retry_attempts: 7, retry_delay: 2s}"));
        assert_eq!(
            (policy.max_attempts, policy.base),
            (7, Duration::from_secs(2))
        );
    }
}
