//! The schema: one row a key.
//!
//! Everything that must agree about a key comes from its row: what the file may hold, the name of its environment variable, its
//! default, whether a change needs a restart, which part it belongs to and whether this build has that part, and its line on the
//! reference page. The rows stand in `blocks`, each beside the field of the typed configuration that it fills.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use super::blocks;
use super::value::{Kind, nearest};

/// What the names of all environment variables begin with.
pub const ENVIRONMENT_PREFIX: &str = "FLYBALL_";

/// Environment variables that begin like settings and are none: those of the command line, and those that flyball sets for its own
/// processes.
pub const RESERVED: [&str; 5] = [
    "FLYBALL_CONFIG",
    "FLYBALL_SERVER",
    "FLYBALL_SPAWN_SERVER",
    "FLYBALL_STATE_DIR",
    "FLYBALL_TOKEN_FILE",
];

/// Whether a variable is none of ours. Kubernetes describes every service to every pod of its namespace; one that is called
/// `flyball` gives `FLYBALL_SERVICE_HOST`, `FLYBALL_SERVICE_PORT…` and `FLYBALL_PORT…`.
pub(super) fn is_reserved(variable: &str) -> bool {
    let rest = variable.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or("");
    RESERVED.contains(&variable)
        || rest == "SERVICE_HOST"
        || rest == "PORT"
        || rest.starts_with("SERVICE_PORT")
        || rest.starts_with("PORT_")
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Key {
    /// The whole key, such as `worker_pool.min_workers`.
    pub path: &'static str,
    /// Its type and range.
    pub kind: Kind,
    /// What a number counts, where the type does not say.
    pub unit: Option<&'static str>,
    /// The default, as it would be written.
    pub default: &'static str,
    /// A word that is accepted in place of the type, such as `auto`.
    pub word: Option<&'static str>,
    /// Whether a change takes a restart.
    pub restart: bool,
    /// Whether the value is kept out of everything that is printed.
    pub secret: bool,
    about: &'static str,
}

impl Key {
    pub(super) const fn new(
        path: &'static str,
        about: &'static str,
        default: &'static str,
        kind: Kind,
    ) -> Self {
        Key {
            path,
            kind,
            unit: None,
            default,
            word: None,
            restart: false,
            secret: false,
            about,
        }
    }

    pub(super) const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    pub(super) const fn or(mut self, word: &'static str) -> Self {
        self.word = Some(word);
        self
    }

    pub(super) const fn restart(mut self) -> Self {
        self.restart = true;
        self
    }

    pub(super) const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Returns the line that says what the key is for.
    #[must_use]
    pub fn about(&self) -> &'static str {
        self.about.trim()
    }

    /// Returns the first part of the key: `worker_pool`.
    #[must_use]
    pub fn block(&self) -> &'static str {
        self.path.split(['.', '[']).next().unwrap_or(self.path)
    }

    /// Returns the last part of the key: `min_workers`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// Returns the name of its environment variable: `FLYBALL_WORKER_POOL_MIN_WORKERS`.
    #[must_use]
    pub fn environment(&self) -> String {
        environment(self.path)
    }

    /// Returns the part that this build lacks for the key to have an effect; `None` if it has all.
    #[must_use]
    pub fn absent_part(&self) -> Option<&'static str> {
        absent_part(self.path)
    }

    /// Returns what an error says that it expected.
    #[must_use]
    pub fn expected(&self) -> String {
        match self.word {
            Some(word) => format!("{word} or {}", self.kind.expected()),
            None => self.kind.expected(),
        }
    }
}

/// Another name of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Alias {
    /// The other name.
    pub path: &'static str,
    /// The key that it stands for.
    pub key: &'static str,
}

/// The other names that keys have. Two unequal values for one key in one source are an error.
pub const ALIASES: [Alias; 2] = [
    Alias {
        path: "cpu_scheduler.max_workers",
        key: "worker_pool.max_workers",
    },
    Alias {
        path: "cpu_scheduler.load_balancing",
        key: "load_balancer.enabled",
    },
];

/// Keys (or all keys below them) that have no effect in this build, and the part that is missing. Where several fit, the longest
/// counts; an empty part says that this build has it.
const ABSENT: &[(&str, &str)] = &[
    ("performance.optimization_level", "optimizer"),
    ("memory_pool", "memory pool"),
    ("cpu_scheduler.control_interval", "fast tick"),
    ("io_throttler", "I/O throttler"),
    ("cache", "cache"),
    ("allocator", "resource allocator"),
    ("monitor.bottleneck_detection", "bottleneck detection"),
    ("monitor.recommendations", "recommendations"),
    ("monitor.alerting", "alerting"),
    ("monitor.alert_threshold_percent", "alerting"),
    ("monitor.alert_cooldown", "alerting"),
    ("monitor.report_schedule", "reports"),
    ("monitor.cpu.interval", "alerting"),
    ("monitor.cpu.max_percent", "alerting"),
    ("monitor.cpu.warn_percent", "alerting"),
    ("monitor.memory.interval", "alerting"),
    ("monitor.memory.max_percent", "alerting"),
    ("monitor.memory.warn_percent", "alerting"),
    ("monitor.memory.max_bytes", "alerting"),
    ("monitor.network", "network monitor"),
    ("monitor.disk", "disk monitor"),
    ("profiler", "profiler"),
    ("optimizer", "optimizer"),
    ("queue.url", "PostgreSQL and NATS"),
];

/// The same of a build without durable tasks.
const ABSENT_TASKS: &[(&str, &str)] = if cfg!(feature = "tasks") {
    &[]
} else {
    &[
        ("cpu_scheduler.task_timeout", "task queue"),
        ("scheduler", "task queue"),
        ("queue", "task queue"),
        ("queue.state_dir", ""),
        ("commands", "command tasks"),
        ("calls", "task queue"),
        ("classes[].preemptible", "command tasks"),
    ]
};

/// The same for blocks whose keys are listed by themselves.
const ABSENT_BELOW: [(&str, &str); 6] = [
    ("server.tls", "TLS"),
    ("alerts", "alerting"),
    ("classes[].io_priority", "I/O throttler"),
    ("classes[].io_guarantee", "I/O throttler"),
    ("classes[].io_ceiling", "I/O throttler"),
    ("classes[].io_weight", "I/O throttler"),
];

fn absent_part(path: &str) -> Option<&'static str> {
    let below = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    ABSENT
        .iter()
        .chain(ABSENT_TASKS)
        .chain(&ABSENT_BELOW)
        .filter(|(prefix, _)| below(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, part)| *part)
        .filter(|part| !part.is_empty())
}

/// Makes the name of the environment variable of a key. No two keys have the same: a test sees to it.
pub(super) fn environment(path: &str) -> String {
    let name = path.replace('.', "_").to_ascii_uppercase();
    format!("{ENVIRONMENT_PREFIX}{name}")
}

/// Returns all keys, block by block.
pub fn schema() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| blocks::keys().into_iter().copied().collect())
}

/// Returns the keys of one class in `classes`; their paths begin with `classes[].`.
pub fn class_keys() -> &'static [Key] {
    &super::classes::KEYS
}

/// What a name of the file stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// A map of keys.
    Block,
    /// A key, under its own or another name.
    Key {
        key: &'static Key,
        named: &'static str,
    },
}

struct Index {
    names: HashMap<&'static str, Found>,
    /// The names that each block holds; the empty block holds the others.
    members: HashMap<&'static str, Vec<&'static str>>,
}

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut names = HashMap::new();
        let mut members = HashMap::<&str, Vec<&str>>::new();
        let own = schema().iter().map(|key| (key.path, key));
        let other = ALIASES.iter().filter_map(|alias| {
            let key = schema().iter().find(|key| key.path == alias.key)?;
            Some((alias.path, key))
        });
        for (named, key) in own.chain(other) {
            names.insert(named, Found::Key { key, named });
            let mut inner = named;
            loop {
                let (block, name) = inner.rsplit_once('.').unwrap_or(("", inner));
                let list = members.entry(block).or_default();
                if !list.contains(&name) {
                    list.push(name);
                }
                if block.is_empty() {
                    break;
                }
                names.insert(block, Found::Block);
                inner = block;
            }
        }
        Index { names, members }
    })
}

/// Looks a key, another name of one, or a block up.
pub(super) fn find(path: &str) -> Option<Found> {
    index().names.get(path).copied()
}

/// Returns the key of this name; other names are followed.
#[must_use]
pub fn key(path: &str) -> Option<&'static Key> {
    match find(path)? {
        Found::Key { key, .. } => Some(key),
        Found::Block => None,
    }
}

/// Returns the names that a block holds; an empty path gives the blocks.
pub(super) fn members(block: &str) -> &'static [&'static str] {
    index().members.get(block).map_or(&[], Vec::as_slice)
}

/// Finds what a misspelt name of a block was meant to be: a neighbour, or a key of another block that has exactly this name.
pub(super) fn nearest_name(block: &str, name: &str) -> Option<String> {
    if let Some((block, name)) = name.rsplit_once('.').filter(|_| key(name).is_some()) {
        return Some(format!("{name} below {block}"));
    }
    if let Some(near) = nearest(name, members(block).iter().copied()) {
        return Some(near.into());
    }
    let mut elsewhere = schema().iter().filter(|key| key.name() == name);
    match (elsewhere.next(), elsewhere.next()) {
        (Some(key), None) => Some(key.path.into()),
        _ => None,
    }
}

/// Finds the key of an environment variable, and the nearest name if there is none.
pub(super) fn find_environment(
    variable: &str,
) -> Result<(&'static Key, &'static str), Option<String>> {
    static VARIABLES: OnceLock<HashMap<String, (&'static Key, &'static str)>> = OnceLock::new();
    let variables = VARIABLES.get_or_init(|| {
        index()
            .names
            .values()
            .filter_map(|found| match *found {
                Found::Key { key, named } => Some((environment(named), (key, named))),
                Found::Block => None,
            })
            .collect()
    });
    if let Some(found) = variables.get(variable) {
        return Ok(*found);
    }
    let mut known: Vec<&str> = variables
        .keys()
        .map(String::as_str)
        .chain(RESERVED)
        .collect();
    known.sort_unstable();
    // The common beginning would make everything look alike.
    let rest = |name: &'_ str| name.len() - ENVIRONMENT_PREFIX.len();
    let near = nearest(variable, known)
        .filter(|near| strsim::osa_distance(variable, near) <= (rest(near) / 3).max(1));
    Err(near.map(Into::into))
}

// The kinds, short, for the rows.

pub(super) const fn integer(min: i64, max: i64) -> Kind {
    Kind::Integer { min, max }
}

pub(super) const fn number(min: f64, max: f64) -> Kind {
    Kind::Number { min, max }
}

pub(super) const fn percent() -> Kind {
    Kind::Percent {
        min: 0.0,
        max: 100.0,
    }
}

pub(super) const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

pub(super) const fn rate(min: u64, max: u64) -> Kind {
    Kind::Rate { min, max }
}

pub(super) const fn time(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration {
        min: Duration::from_millis(min_ms),
        max: Duration::from_millis(max_ms),
    }
}
