//! The classes that a configuration adds or changes: a list of maps, one a class.
//!
//! A class with the name of a built-in one starts from that, any other from what `normal` has. Each field is a row of its own, and
//! its value is kept as it was written.

use std::collections::BTreeMap;
use std::time::Duration;

use flyball_core::class::{
    ClassSpec, Group, MAX_CLASSES, MAX_PRIORITY, MAX_SHARES, MAX_TIME_SLICE, MIN_TIME_SLICE,
};
use flyball_executor::Shedding;
use flyball_policy::limit::Backlog;
use flyball_policy::sched::keys::{BURST_MAX, KeyLimits};
use serde_json::{Map, Value as Json};

use super::choices::Mode;
use super::error::{Path, Problem};
use super::field::Field;
use super::layers::Walk;
use super::schema::{Key, integer, number};
use super::tree::{Data, Entry, Mark, Node};
use super::value::{Kind, Value, nearest};

const GROUPS: [&str; 2] = ["front", "back"];

/// The fields of a class, the name first.
pub(super) static KEYS: [Key; 24] = [
    Key::new(
        "classes[].name",
        "1 to 64 characters of a-z, 0-9, _ and -; a built-in class is changed by its name.",
        "",
        Kind::Text,
    ),
    Key::new(
        "classes[].priority",
        "Higher goes first under the algorithm `priority`, and breaks ties under the others.",
        "2",
        integer(0, MAX_PRIORITY as i64),
    ),
    Key::new(
        "classes[].shares",
        "The weight against the other classes that have work.",
        "1024",
        integer(1, MAX_SHARES as i64),
    ),
    Key::new(
        "classes[].guarantee",
        "The part of all CPU that the class gets at least while it has work; all together at most 1.",
        "0",
        number(0.0, 1.0),
    ),
    Key::new(
        "classes[].ceiling",
        "The part of all CPU that the class gets at most; not below its guarantee.",
        "1",
        number(0.001, 1.0),
    ),
    Key::new(
        "classes[].latency_target",
        "How long a task may wait before it counts as late.",
        "50ms",
        Kind::Duration {
            min: Duration::from_micros(1),
            max: Duration::from_secs(86_400),
        },
    ),
    Key::new(
        "classes[].time_slice",
        "How long the class runs before the scheduler decides again.",
        "100us",
        Kind::Duration {
            min: MIN_TIME_SLICE,
            max: MAX_TIME_SLICE,
        },
    ),
    Key::new(
        "classes[].queue_limit",
        "Tasks that may wait; more are refused.",
        "1048576",
        integer(1, 1 << 32),
    )
    .unit("tasks"),
    Key::new(
        "classes[].sheddable",
        "Whether queued work in memory may be refused again under overload.",
        "false",
        Kind::Bool,
    ),
    Key::new(
        "classes[].shed_after",
        "How long work in memory should wait at most: more than starts in that time is refused, with a hint when to come back; where `sheddable`, so is queued work whose turn comes after twice that. Durable tasks are never refused.",
        "never",
        Kind::Duration {
            min: Backlog::TARGET.0,
            max: Backlog::TARGET.1,
        },
    )
    .or("never"),
    Key::new(
        "classes[].shed_mode",
        "Whether that is done (`enforce`), or only measured and counted (`observe`).",
        "enforce",
        Kind::Choice(Mode::NAMES),
    ),
    Key::new(
        "classes[].preemptible",
        "Whether a running command may be paused while one of a class with a higher priority needs its slot.",
        "false",
        Kind::Bool,
    ),
    Key::new(
        "classes[].concurrency",
        "How many workers may run the class at once.",
        "unlimited",
        integer(1, 1_000_000),
    )
    .or("unlimited")
    .unit("workers"),
    Key::new(
        "classes[].group",
        "The threads that run the class: `front` takes the CPU from `back`.",
        "back",
        Kind::Choice(&GROUPS),
    ),
    Key::new(
        "classes[].niceness",
        "The niceness of its child processes.",
        "0",
        integer(-20, 19),
    ),
    Key::new(
        "classes[].key_rate",
        "Tasks a second that each key of the class may start.",
        "unlimited",
        number(0.001, 1_000_000.0),
    )
    .or("unlimited")
    .unit("tasks a second"),
    Key::new(
        "classes[].key_burst",
        "Tasks that a key may start at once after a pause, where it has a rate.",
        "1",
        integer(1, BURST_MAX as i64),
    )
    .unit("tasks"),
    Key::new(
        "classes[].key_concurrency",
        "Tasks of one key that may have been started and not have ended.",
        "unlimited",
        integer(1, 1_000_000),
    )
    .or("unlimited")
    .unit("tasks"),
    Key::new(
        "classes[].key_queued",
        "Tasks of one key that may wait; more are refused.",
        "unlimited",
        integer(1, 1 << 31),
    )
    .or("unlimited")
    .unit("tasks"),
    Key::new(
        "classes[].key_mode",
        "Whether the limits of keys are kept to (`enforce`), or what goes beyond them is only counted (`observe`).",
        "enforce",
        Kind::Choice(Mode::NAMES),
    ),
    Key::new(
        "classes[].io_priority",
        "Higher reads and writes first.",
        "2",
        integer(0, MAX_PRIORITY as i64),
    ),
    Key::new(
        "classes[].io_guarantee",
        "The part of the I/O bandwidth that the class gets at least while it asks for it.",
        "0",
        number(0.0, 1.0),
    ),
    Key::new(
        "classes[].io_ceiling",
        "The part of the I/O bandwidth that the class gets at most.",
        "1",
        number(0.001, 1.0),
    ),
    Key::new(
        "classes[].io_weight",
        "The weight of its I/O against the other classes.",
        "1024",
        integer(1, MAX_SHARES as i64),
    ),
];

/// The classes of a configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classes {
    /// What the executor is told of them.
    pub specs: Vec<ClassSpec>,
    /// The maps they were read from; they hold the fields of keys and I/O, too. Empty where a program filled in `specs` by itself.
    pub(super) maps: Vec<Map<String, Json>>,
}

impl Classes {
    /// When work of a class is refused because of how long it would wait; never where the configuration names no time.
    #[must_use]
    pub fn shedding(&self, class: &str) -> Option<Shedding> {
        let map = self.map(class)?;
        let target = map.get("shed_after")?.as_str()?;
        Some(Shedding {
            target: flyball_core::units::parse_duration(target).ok()?,
            observe: observes(map, "shed_mode"),
        })
    }

    fn map(&self, class: &str) -> Option<&Map<String, Json>> {
        let named =
            |map: &&Map<String, Json>| map.get("name").and_then(Json::as_str) == Some(class);
        self.maps.iter().find(named)
    }

    /// What each key of a class may do; without limits where the configuration names none.
    #[must_use]
    pub fn key_limits(&self, class: &str) -> KeyLimits {
        let Some(map) = self.map(class) else {
            return KeyLimits::default();
        };
        let count = |field: &str| {
            let number = map.get(field)?.as_u64()?;
            u32::try_from(number).ok()
        };
        KeyLimits {
            rate: map.get("key_rate").and_then(Json::as_f64),
            burst: count("key_burst").unwrap_or(KeyLimits::default().burst),
            concurrency: count("key_concurrency"),
            queued: count("key_queued"),
            observe: observes(map, "key_mode"),
        }
    }
}

fn observes(map: &Map<String, Json>, field: &str) -> bool {
    map.get(field).and_then(Json::as_str) == Some("observe")
}

impl From<Vec<ClassSpec>> for Classes {
    fn from(specs: Vec<ClassSpec>) -> Self {
        Classes {
            specs,
            maps: Vec::new(),
        }
    }
}

impl std::ops::Deref for Classes {
    type Target = [ClassSpec];

    fn deref(&self) -> &[ClassSpec] {
        &self.specs
    }
}

impl Field for Classes {
    fn take(value: &Value, key: &'static str) -> Self {
        let Value::Maps(maps) = value else {
            panic!("the schema's row of {key} does not fit its field")
        };
        Classes {
            specs: maps.iter().map(spec_of).collect(),
            maps: maps.clone(),
        }
    }

    fn give(&self, _: &Key) -> Value {
        let kept: Vec<ClassSpec> = self.maps.iter().map(spec_of).collect();
        Value::Maps(match kept == self.specs {
            true => self.maps.clone(),
            false => self.specs.iter().map(map).collect(),
        })
    }
}

/// Finds the row of a field.
fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name() == name)
}

/// Makes a class of a map that has been checked; what it does not say is as in the built-in class of the name, or in `normal`.
fn spec_of(map: &Map<String, Json>) -> ClassSpec {
    let name = map.get("name").and_then(Json::as_str).unwrap_or_default();
    let mut spec = ClassSpec::built_in()
        .into_iter()
        .find(|class| class.name == name)
        .unwrap_or_else(|| ClassSpec::new(name));
    let duration = |json: &Json| {
        json.as_str()
            .and_then(|text| flyball_core::units::parse_duration(text).ok())
    };
    let unsigned = |json: &Json| json.as_u64().and_then(|number| u32::try_from(number).ok());
    for (field, json) in map {
        match field.as_str() {
            "priority" => spec.priority = json.as_u64().map_or(spec.priority, |n| n as u8),
            "shares" => spec.shares = unsigned(json).unwrap_or(spec.shares),
            "guarantee" => spec.guarantee = json.as_f64().unwrap_or(spec.guarantee),
            "ceiling" => spec.ceiling = json.as_f64().unwrap_or(spec.ceiling),
            "latency_target" => spec.latency_target = duration(json).unwrap_or(spec.latency_target),
            "time_slice" => spec.time_slice = duration(json).unwrap_or(spec.time_slice),
            "queue_limit" => {
                spec.queue_limit = json.as_u64().map_or(spec.queue_limit, |n| n as usize);
            }
            "sheddable" => spec.sheddable = json.as_bool().unwrap_or(spec.sheddable),
            "preemptible" => spec.preemptible = json.as_bool().unwrap_or(spec.preemptible),
            "concurrency" => spec.concurrency = unsigned(json),
            "group" => {
                let front = json.as_str() == Some("front");
                spec.group = if front { Group::Front } else { Group::Back };
            }
            "niceness" => spec.niceness = json.as_i64().map_or(spec.niceness, |n| n as i8),
            _ => {}
        }
    }
    spec
}

/// Writes a class out, every field of it.
fn map(spec: &ClassSpec) -> Map<String, Json> {
    let text = |time| Json::from(flyball_core::units::format_duration(time));
    let concurrency = spec.concurrency.map_or("unlimited".into(), Json::from);
    [
        ("name", spec.name.as_str().into()),
        ("priority", spec.priority.into()),
        ("shares", spec.shares.into()),
        ("guarantee", spec.guarantee.into()),
        ("ceiling", spec.ceiling.into()),
        ("latency_target", text(spec.latency_target)),
        ("time_slice", text(spec.time_slice)),
        ("queue_limit", spec.queue_limit.into()),
        ("sheddable", spec.sheddable.into()),
        ("preemptible", spec.preemptible.into()),
        ("concurrency", concurrency),
        ("group", spec.group.to_string().into()),
        ("niceness", spec.niceness.into()),
    ]
    .into_iter()
    .map(|(field, json): (&str, Json)| (field.to_owned(), json))
    .collect()
}

impl Walk<'_> {
    /// Reads the list of classes.
    pub(super) fn classes(&mut self, items: &[Node], mark: Mark, path: &Path<'_>) -> Option<Value> {
        let before = self.faults.count();
        let mut maps = Vec::<Map<String, Json>>::new();
        let mut names = BTreeMap::<String, Mark>::new();
        for (index, item) in items.iter().enumerate() {
            let path = Path::Item(path, index);
            let Some((map, name_at)) = self.class(item, &path) else {
                continue;
            };
            let spec = spec_of(&map);
            if let Some(first) = names.get(&spec.name) {
                let problem = Problem::Conflict {
                    other: "the other".into(),
                    at: (self.locate)(*first),
                    reason: format!("two classes have the name {}", spec.name),
                };
                let origin = (self.locate)(name_at);
                self.faults.add(origin, &Path::Key(&path, "name"), problem);
            } else {
                names.insert(spec.name.clone(), name_at);
            }
            maps.push(map);
        }
        self.all_classes(&maps, mark, path);
        (self.faults.count() == before).then_some(Value::Maps(maps))
    }

    /// Checks what needs all classes at once.
    fn all_classes(&mut self, maps: &[Map<String, Json>], mark: Mark, path: &Path<'_>) {
        let mut all: BTreeMap<String, ClassSpec> = ClassSpec::built_in()
            .into_iter()
            .map(|spec| (spec.name.clone(), spec))
            .collect();
        all.extend(
            maps.iter()
                .map(spec_of)
                .map(|spec| (spec.name.clone(), spec)),
        );
        let mut unusable = |found: String, expected: String| {
            let problem = Problem::Wrong {
                found,
                why: None,
                expected,
                nearest: None,
            };
            self.faults.add((self.locate)(mark), path, problem);
        };
        if all.len() > MAX_CLASSES {
            unusable(
                format!("{} classes, the built-in ones included", all.len()),
                format!("at most {MAX_CLASSES}"),
            );
        }
        let guaranteed: f64 = all.values().map(|spec| spec.guarantee).sum();
        // Ten guarantees of 0.1 may add up to a little more than 1.
        if guaranteed > 1.0 + 1e-9 {
            unusable(
                format!("guarantees of {guaranteed:.3} together"),
                "at most 1".into(),
            );
        }
    }

    /// Reads one class, and tells where its name stands.
    fn class(&mut self, item: &Node, path: &Path<'_>) -> Option<(Map<String, Json>, Mark)> {
        let Data::Map(entries) = &item.data else {
            self.mismatch(item, item.mark, path, "a class as a map".into());
            return None;
        };
        let before = self.faults.count();
        let mut map = Map::new();
        let mut name_at = None;
        for Entry {
            key: name,
            mark,
            node,
        } in entries.iter()
        {
            let path = Path::Key(path, name);
            let Some(key) = key(name) else {
                let known = KEYS.iter().map(|key| key.name());
                let nearest = match self.faults.is_full() {
                    true => None,
                    false => nearest(name, known).map(Into::into),
                };
                let origin = (self.locate)(*mark);
                self.faults.add(origin, &path, Problem::Unknown { nearest });
                continue;
            };
            if key.name() == "name" {
                name_at = Some(node.mark);
            }
            if let Some((value, text)) = self.value(key, node, &path) {
                let json = match text {
                    Some(text) => Json::from(&*text),
                    None => value.to_json(),
                };
                map.insert(key.name().into(), json);
            }
        }
        let Some(name_at) = name_at else {
            let problem = Problem::Wrong {
                found: "a class without a name".into(),
                why: None,
                expected: "the key name".into(),
                nearest: None,
            };
            self.faults.add((self.locate)(item.mark), path, problem);
            return None;
        };
        if self.faults.count() > before {
            return None;
        }
        if let Err(error) = spec_of(&map).validate() {
            let reason = error.to_string();
            let origin = (self.locate)(name_at);
            self.faults.add(origin, path, Problem::Unusable { reason });
            return None;
        }
        Some((map, name_at))
    }
}
