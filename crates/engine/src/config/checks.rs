//! What no single key can be asked: values that must go together.

use std::collections::BTreeSet;

use super::blocks::Config;
use super::dependency::Check;
use super::entry::Wrong;
use super::error::{Fault, Faults, Problem, pointer_of};
use super::layers::{Layer, printed};
use super::limit::{LimitScope, LimitSpec, MAX_LIMITS};
use super::schema;
use super::throttle::{MAX_THROTTLES, ThrottleSpec};
use super::value::clip;

/// Finds pairs of values that do not go together. Pairs with a key that is wrong in itself are left out: its default, which stands in
/// for it, would accuse the other.
pub(super) fn check(
    config: &Config,
    settings: &Layer,
    wrong: &BTreeSet<&'static str>,
    faults: &mut Faults,
) {
    let pool = &config.worker_pool;
    let watched = [
        (
            "monitor.cpu",
            config.monitor.cpu.warn_percent,
            config.monitor.cpu.max_percent,
        ),
        (
            "monitor.memory",
            config.monitor.memory.warn_percent,
            config.monitor.memory.max_percent,
        ),
        (
            "monitor.network",
            config.monitor.network.warn_percent,
            config.monitor.network.max_percent,
        ),
        (
            "monitor.disk",
            config.monitor.disk.warn_percent,
            config.monitor.disk.max_percent,
        ),
    ];
    let memory = &config.memory_pool;
    let most = memory.max_size.unwrap_or(u64::MAX);
    let optimizer = &config.optimizer;
    // Each pair: a key, one that it must not be above, whether it is.
    let mut pairs = vec![
        (
            "worker_pool.min_workers".to_owned(),
            "worker_pool.max_workers".to_owned(),
            pool.max_workers != 0 && pool.min_workers > pool.max_workers,
        ),
        (
            "worker_pool.initial_workers".to_owned(),
            "worker_pool.max_workers".to_owned(),
            pool.max_workers != 0 && pool.initial_workers > pool.max_workers,
        ),
        (
            "worker_pool.min_workers".to_owned(),
            "worker_pool.initial_workers".to_owned(),
            pool.initial_workers != 0 && pool.min_workers > pool.initial_workers,
        ),
        (
            "memory_pool.initial_size".to_owned(),
            "memory_pool.max_size".to_owned(),
            memory.initial_size > most,
        ),
        (
            "memory_pool.emergency_pool_size".to_owned(),
            "memory_pool.max_size".to_owned(),
            memory.emergency_pool_size > most,
        ),
        (
            "optimizer.min_cpu_percent".to_owned(),
            "optimizer.max_cpu_percent".to_owned(),
            optimizer.min_cpu_percent > optimizer.max_cpu_percent,
        ),
    ];
    pairs.push((
        "scheduler.retry_delay".to_owned(),
        "scheduler.retry_delay_max".to_owned(),
        config.scheduler.retry_delay > config.scheduler.retry_delay_max,
    ));
    pairs.push((
        "scheduler.breaker.open_min".to_owned(),
        "scheduler.breaker.open_max".to_owned(),
        config.scheduler.breaker.open_min > config.scheduler.breaker.open_max,
    ));
    pairs.extend(watched.map(|(block, warn, max)| {
        (
            format!("{block}.warn_percent"),
            format!("{block}.max_percent"),
            warn > max,
        )
    }));
    let mut conflict = |one: &str, two: &str, reason: &dyn Fn(&str, &str) -> String| {
        if wrong.contains(one) || wrong.contains(two) {
            return;
        }
        let (first, second) = (&settings[one], &settings[two]);
        // The later of the two is the one that made the conflict.
        let (at, other) = match first.origin.order() > second.origin.order() {
            true => (first, second),
            false => (second, first),
        };
        let print = |path: &str| {
            let setting = &settings[path];
            schema::key(path).map_or_else(String::new, |key| {
                printed(key, &setting.value, setting.text.as_deref())
            })
        };
        faults.push(Fault {
            origin: at.origin.clone(),
            key: at.named.into(),
            pointer: pointer_of(at.named),
            problem: Problem::Conflict {
                other: other.named.into(),
                at: other.origin.clone(),
                reason: reason(&print(one), &print(two)),
            },
            snippet: None,
        });
    };
    for (low, high, above) in pairs {
        if above {
            conflict(&low, &high, &|one, two| {
                let name = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
                format!("{} {one} is above {} {two}", name(&low), name(&high))
            });
        }
    }
    let tls = &config.server.tls;
    if tls.certificate.is_some() != tls.private_key.is_some() {
        conflict(
            "server.tls.certificate",
            "server.tls.private_key",
            &|_, _| "a certificate and its private key go together, and one is missing".into(),
        );
    }
    commands(config, settings, faults);
    #[cfg(feature = "tasks")]
    calls(config, settings, faults);
    for (index, map) in config.scheduler.checks.0.iter().enumerate() {
        if let Err(fault) = Check::of(map) {
            let (key, step) = ("scheduler.checks", index.to_string());
            item(settings, key, &step, fault, Check::EXPECTED, faults);
        }
    }
    throttles(config, settings, faults);
    limits(config, settings, faults);
    for name in ["cpu", "memory"] {
        if config.scheduler.resources.contains_key(name) {
            let found = format!("a resource called {name}");
            let expected = "another name: scheduler.max_cpus and scheduler.max_memory bound these";
            item(
                settings,
                "scheduler.resources",
                name,
                found,
                expected,
                faults,
            );
        }
    }
}

/// Each throttle has a name of its own.
fn throttles(config: &Config, settings: &Layer, faults: &mut Faults) {
    let throttles = &config.throttling.throttles.0;
    let mut names = BTreeSet::new();
    for (index, map) in throttles.iter().enumerate() {
        let wrong = match ThrottleSpec::of(map) {
            _ if index >= MAX_THROTTLES => {
                let found = format!("{} throttles", throttles.len());
                Wrong::new("", found, "at most 14")
            }
            Ok(spec) if names.contains(&spec.name) => second(&spec.name),
            Ok(spec) => {
                names.insert(spec.name);
                continue;
            }
            Err(wrong) => wrong,
        };
        field("throttling.throttles", index, wrong, settings, faults);
    }
}

/// Each name, class and dependency has one limit.
fn limits(config: &Config, settings: &Layer, faults: &mut Faults) {
    let limits = &config.limits.adaptive.0;
    let (mut names, mut scopes) = (BTreeSet::new(), BTreeSet::new());
    for (index, map) in limits.iter().enumerate() {
        let wrong = match LimitSpec::of(map) {
            _ if index >= MAX_LIMITS => {
                Wrong::new("", format!("{} limits", limits.len()), "at most 128")
            }
            Ok(spec) if names.contains(&spec.name) => second(&spec.name),
            Ok(spec) if scopes.contains(&spec.scope.to_string()) => {
                let found = format!("a second limit of {}", spec.scope);
                Wrong::new("scope", found, "one limit of each")
            }
            Ok(spec) => {
                if spec.scope != LimitScope::Program {
                    scopes.insert(spec.scope.to_string());
                }
                names.insert(spec.name);
                continue;
            }
            Err(wrong) => wrong,
        };
        field("limits.adaptive", index, wrong, settings, faults);
    }
}

fn second(name: &str) -> Wrong {
    Wrong::new("name", format!("a second {name:?}"), "another name")
}

/// Says what is wrong with a field of an item of a list.
fn field(key: &'static str, index: usize, wrong: Wrong, settings: &Layer, faults: &mut Faults) {
    let mut place = format!("{key}[{index}]");
    let mut pointer = format!("{}/{index}", pointer_of(key));
    if !wrong.field.is_empty() {
        place += &format!(".{}", wrong.field);
        pointer += &format!("/{}", wrong.field);
    }
    faults.push(Fault {
        origin: settings[key].origin.clone(),
        key: place,
        pointer,
        problem: Problem::Wrong {
            found: wrong.found,
            why: None,
            expected: wrong.expected,
            nearest: None,
        },
        snippet: None,
    });
}

/// What commands may do must leave no doubt which program, folder or variable is meant.
fn commands(config: &Config, settings: &Layer, faults: &mut Faults) {
    let commands = &config.commands;
    for (key, paths) in [
        ("commands.programs", &commands.programs),
        ("commands.folders", &commands.folders),
    ] {
        for (index, path) in paths.iter().enumerate() {
            let text = path.to_string_lossy();
            let plain = text.split('/').all(|part| part != "." && part != "..");
            if !path.is_absolute() || !plain {
                let found = format!("{:?}", clip(&text, 100));
                let expected = "an absolute path without . and ..";
                item(settings, key, &index.to_string(), found, expected, faults);
            }
        }
    }
    for (index, name) in commands.environment.iter().enumerate() {
        let stem = name.strip_suffix('*').unwrap_or(name);
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let number = stem.starts_with(|c: char| c.is_ascii_digit());
        if name.is_empty() || number || !stem.bytes().all(letters) {
            let found = format!("{:?}", clip(name, 100));
            let expected = "the name of a variable, with * at the end at most";
            let key = "commands.environment";
            item(settings, key, &index.to_string(), found, expected, faults);
        }
    }
}

/// What calls may reach must be readable.
#[cfg(feature = "tasks")]
fn calls(config: &Config, settings: &Layer, faults: &mut Faults) {
    use flyball_tasks::run::Reach;
    for (index, host) in config.calls.hosts.iter().enumerate() {
        if !Reach::is_entry(host) {
            let found = format!("{:?}", clip(host, 100));
            let (key, step) = ("calls.hosts", index.to_string());
            item(settings, key, &step, found, Reach::EXPECTED, faults);
        }
    }
}

/// Says what is wrong with an item of a list, or an entry of a map.
fn item(
    settings: &Layer,
    key: &'static str,
    step: &str,
    found: String,
    expected: &str,
    faults: &mut Faults,
) {
    let number = step.bytes().all(|b| b.is_ascii_digit());
    faults.push(Fault {
        origin: settings[key].origin.clone(),
        key: if number {
            format!("{key}[{step}]")
        } else {
            format!("{key}.{step}")
        },
        pointer: format!("{}/{step}", pointer_of(key)),
        problem: Problem::Wrong {
            found,
            why: None,
            expected: expected.to_owned(),
            nearest: None,
        },
        snippet: None,
    });
}
