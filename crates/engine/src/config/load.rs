//! From sources to a configuration, and from one configuration to the next.
//!
//! Later sources prevail: defaults, file, environment, flags, changes at run time. Nothing takes effect unless everything is
//! right.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::blocks::Config;
use super::checks;
use super::error::{Errors, Fault, Faults, Path, Problem, pointer_of};
use super::layers::{self, Layer, Setting, Walk};
use super::origin::Origin;
use super::schema::{self, Key};
use super::sources::{FileSource, Sources, Unreadable, read_file};
use super::tree::{self, MAX_DEPTH, MAX_FILE, Mark, Node};
use super::value::{Value, clip};

/// A valid configuration, and where it came from.
#[derive(Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Keys that were set and have no effect in this build.
    pub notices: Vec<Notice>,
    /// Every key with the value that holds.
    pub(super) settings: Layer,
    layers: Layers,
}

/// Leaves out what each source says, which may hold secrets that prevail nowhere.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("notices", &self.notices)
            .finish_non_exhaustive()
    }
}

/// What each source says.
#[derive(Clone, Default)]
struct Layers {
    program: Layer,
    file: Layer,
    environment: Layer,
    flags: Layer,
    changes: Layer,
}

/// A key that was set and has no effect in this build.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Notice {
    /// The key.
    pub key: String,
    /// Where it was set.
    pub origin: Origin,
    /// The part that this build lacks.
    pub part: &'static str,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} is set, but this build has no {}",
            self.origin, self.key, self.part
        )
    }
}

/// A key whose value is another than before.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// The value that held.
    pub old: serde_json::Value,
    /// The value that holds now.
    pub new: serde_json::Value,
    /// Whether it takes effect at the next start only.
    pub restart: bool,
}

/// Loads a configuration.
///
/// # Errors
/// Everything that is wrong with the sources.
pub fn load(sources: &Sources) -> Result<Loaded, Errors> {
    let mut reading = Reading::default();
    let layers = reading.sources(sources, Layers::default());
    reading.assemble(layers)
}

impl Loaded {
    /// Takes a configuration that a program filled in, and checks it as if it had been read. Paths must be UTF-8.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_config(config: &Config) -> Result<Self, Errors> {
        let mut reading = Reading::default();
        let locate = |_: Mark| Origin::Program;
        let mut walk = Walk::new(&locate, false);
        for (path, value) in config.write() {
            if layers::defaults().get(path) == Some(&value) {
                continue;
            }
            let Some(key) = schema::key(path) else {
                continue;
            };
            let node = match &value {
                // JSON has no word for these.
                Value::Number(number) if !number.is_finite() => {
                    Some(Node::scalar(&number.to_string(), true))
                }
                value => Node::of_json(&value.to_json()),
            };
            if let Some(node) = node {
                walk.key(key, key.path, &node, Mark::default(), &Path::Whole(path));
            }
        }
        let program = reading.take(walk);
        reading.assemble(Layers {
            program,
            ..Layers::default()
        })
    }

    /// Reads the sources again. Changes made at run time stay on top.
    ///
    /// # Errors
    /// Everything that is wrong with the sources, and every change in them that needs a restart. Then nothing changes.
    pub fn reload(&self, sources: &Sources) -> Result<(Self, Vec<Change>), Errors> {
        let mut reading = Reading::default();
        let layers = reading.sources(sources, self.layers.clone());
        reading.step(self, layers)
    }

    /// Changes keys at run time. `changes` is nested like the configuration (a JSON merge patch): a value sets, null takes an
    /// earlier change back.
    ///
    /// # Errors
    /// Everything that is wrong, with JSON pointers, and every key that needs a restart. Then nothing changes.
    pub fn with_changes(
        &self,
        changes: &serde_json::Value,
        origin: Origin,
    ) -> Result<(Self, Vec<Change>), Errors> {
        let mut reading = Reading::default();
        let locate = |_: Mark| origin.clone();
        let mut walk = Walk::new(&locate, true);
        match Node::of_json(changes) {
            Some(node) => walk.block(&node, Mark::default(), &Path::Root, ""),
            None => {
                let reason = format!("is nested deeper than {MAX_DEPTH}");
                walk.faults
                    .add(origin.clone(), &Path::Root, Problem::Unusable { reason });
            }
        }
        let resets = std::mem::take(&mut walk.resets);
        let mut layers = self.layers.clone();
        layers.changes.retain(|path, _| !resets.contains(path));
        layers.changes.extend(reading.take(walk));
        reading.step(self, layers)
    }

    /// Lists what is different in `newer`.
    #[must_use]
    pub fn changes_to(&self, newer: &Loaded) -> Vec<Change> {
        schema::schema()
            .iter()
            .filter_map(|key| {
                let (old, new) = (&self.settings[key.path], &newer.settings[key.path]);
                (old.value != new.value).then(|| Change {
                    key: key.path,
                    old: layers::json(key, &old.value, old.text.as_deref()),
                    new: layers::json(key, &new.value, new.text.as_deref()),
                    restart: key.restart,
                })
            })
            .collect()
    }
}

/// The state of one reading of sources.
#[derive(Default)]
struct Reading {
    faults: Faults,
    wrong: BTreeSet<&'static str>,
    /// The text of the file, to show lines of it.
    text: Option<String>,
}

impl Reading {
    fn take(&mut self, walk: Walk<'_>) -> Layer {
        self.faults.append(walk.faults);
        self.wrong.extend(walk.wrong);
        walk.layer
    }

    fn sources(&mut self, sources: &Sources, layers: Layers) -> Layers {
        Layers {
            file: self.file(&sources.file),
            environment: self.environment(&sources.environment),
            flags: self.flags(&sources.flags),
            ..layers
        }
    }

    fn file(&mut self, source: &FileSource) -> Layer {
        let (name, read) = match source {
            FileSource::None => return Layer::new(),
            FileSource::Text { name, bytes } => (name.clone(), Ok(bytes.clone())),
            FileSource::File { path, optional } => match read_file(path) {
                Err(Unreadable::Absent) if *optional => return Layer::new(),
                read => (path.display().to_string(), read),
            },
        };
        let file: Arc<str> = clip(&name, 4096).into();
        let locate = |mark: Mark| Origin::File {
            file: file.clone(),
            line: mark.line,
            column: mark.column,
        };
        let mut walk = Walk::new(&locate, false);
        let bytes = match read {
            Ok(bytes) if bytes.len() <= MAX_FILE => bytes,
            read => {
                let reason = match read {
                    Ok(_) => format!("is larger than {MAX_FILE} bytes"),
                    Err(Unreadable::Absent) => "does not exist".into(),
                    Err(Unreadable::Because(reason)) => reason,
                };
                let origin = locate(Mark::default());
                walk.faults
                    .add(origin, &Path::Root, Problem::Unusable { reason });
                return self.take(walk);
            }
        };
        let Some(text) = tree::text(&bytes, &locate, &mut walk.faults) else {
            return self.take(walk);
        };
        if let Some(node) = tree::parse(text, &locate, &mut walk.faults) {
            walk.block(&node, node.mark, &Path::Root, "");
        }
        self.text = Some(text.into());
        self.take(walk)
    }

    fn environment(&mut self, variables: &[(OsString, OsString)]) -> Layer {
        let mut layer = Layer::new();
        for (name, value) in variables {
            let lossy = name.to_string_lossy();
            if schema::is_reserved(&lossy) || value.is_empty() {
                continue;
            }
            let origin = Origin::Environment(clip(&lossy, 100).into());
            let locate = |_: Mark| origin.clone();
            let mut walk = Walk::new(&locate, false);
            match (schema::find_environment(&lossy), value.to_str()) {
                (Ok((key, named)), Some(value)) => text_value(&mut walk, key, named, value),
                (Ok(_), None) => {
                    let reason = "is not UTF-8".into();
                    walk.faults
                        .add(origin.clone(), &Path::Root, Problem::Unusable { reason });
                }
                (Err(nearest), _) => {
                    let nearest = match nearest {
                        Some(nearest) => format!("; did you mean {nearest}?"),
                        None => String::new(),
                    };
                    let reason = format!("is no setting{nearest}");
                    walk.faults
                        .add(origin.clone(), &Path::Root, Problem::Unusable { reason });
                }
            }
            merge(&mut layer, self.take(walk), &mut self.faults);
        }
        layer
    }

    fn flags(&mut self, flags: &[(String, String, String)]) -> Layer {
        let mut layer = Layer::new();
        for (flag, path, value) in flags {
            let origin = Origin::Flag(flag.as_str().into());
            let locate = |_: Mark| origin.clone();
            let mut walk = Walk::new(&locate, false);
            match schema::find(path) {
                Some(schema::Found::Key { key, named }) => {
                    text_value(&mut walk, key, named, value);
                }
                _ => {
                    let (block, name) = path.rsplit_once('.').unwrap_or(("", path));
                    let nearest = schema::nearest_name(block, name);
                    let path = Path::Whole(path);
                    walk.faults
                        .add(origin.clone(), &path, Problem::Unknown { nearest });
                }
            }
            // The last of several flags counts, as people expect of a command line.
            layer.extend(self.take(walk));
        }
        layer
    }

    /// Puts the layers over each other and checks the whole.
    fn assemble(mut self, layers: Layers) -> Result<Loaded, Errors> {
        let mut settings = Layer::new();
        for key in schema::schema() {
            let value = &layers::defaults()[key.path];
            let default = || Setting {
                value: value.clone(),
                text: value.is_quantity().then(|| key.default.into()),
                origin: Origin::Default,
                named: key.path,
            };
            let setting = [
                &layers.changes,
                &layers.flags,
                &layers.environment,
                &layers.file,
                &layers.program,
            ]
            .into_iter()
            .find_map(|layer| layer.get(key.path));
            settings.insert(key.path, setting.cloned().unwrap_or_else(default));
        }
        let values = settings
            .iter()
            .map(|(path, setting)| (*path, setting.value.clone()))
            .collect();
        let config = Config::read(&values);
        checks::check(&config, &settings, &self.wrong, &mut self.faults);
        if let Some(errors) = self.errors() {
            return Err(errors);
        }
        Ok(Loaded {
            config,
            notices: notices(&settings),
            settings,
            layers,
        })
    }

    /// Assembles, and refuses what needs a restart.
    fn step(self, before: &Loaded, layers: Layers) -> Result<(Loaded, Vec<Change>), Errors> {
        let text = self.text.clone();
        let loaded = self.assemble(layers)?;
        let changes = before.changes_to(&loaded);
        let mut restarts = Reading {
            text,
            ..Reading::default()
        };
        for key in schema::schema().iter().filter(|key| key.restart) {
            let (old, new) = (&before.settings[key.path], &loaded.settings[key.path]);
            if old.value == new.value {
                continue;
            }
            let print =
                |setting: &Setting| layers::printed(key, &setting.value, setting.text.as_deref());
            restarts.faults.push(Fault {
                origin: new.origin.clone(),
                key: new.named.into(),
                pointer: pointer_of(new.named),
                problem: Problem::NeedsRestart {
                    old: print(old),
                    new: print(new),
                },
                snippet: None,
            });
        }
        match restarts.errors() {
            Some(errors) => Err(errors),
            None => Ok((loaded, changes)),
        }
    }

    fn errors(&mut self) -> Option<Errors> {
        let mut faults = std::mem::take(&mut self.faults);
        if let Some(text) = &self.text {
            for fault in &mut faults.list {
                let secret = schema::key(&fault.key).is_some_and(|key| key.secret);
                let masked = fault.key.contains('[') && !fault.key.starts_with("classes[");
                if !secret && !masked {
                    fault.show_source(text);
                }
            }
        }
        Errors::of(faults)
    }
}

/// Reads the text of a variable or a flag.
fn text_value(walk: &mut Walk<'_>, key: &'static Key, named: &'static str, text: &str) {
    if let Some(node) = walk.node_of_text(key, text) {
        let path = Path::Whole(named);
        walk.key(key, named, &node, Mark::default(), &path);
    }
}

/// Adds what one variable says; two that name one key must agree.
fn merge(layer: &mut Layer, one: Layer, faults: &mut Faults) {
    for (path, setting) in one {
        match layer.get(path) {
            Some(other) if other.value != setting.value => {
                let reason = format!("is the same setting as {} with another value", other.named);
                let problem = Problem::Conflict {
                    other: other.named.into(),
                    at: other.origin.clone(),
                    reason,
                };
                faults.push(Fault {
                    origin: setting.origin,
                    key: setting.named.into(),
                    pointer: pointer_of(setting.named),
                    problem,
                    snippet: None,
                });
            }
            Some(_) => {}
            None => {
                layer.insert(path, setting);
            }
        }
    }
}

fn notices(settings: &Layer) -> Vec<Notice> {
    let mut notices = Vec::new();
    for key in schema::schema() {
        let Setting { value, origin, .. } = &settings[key.path];
        if *origin == Origin::Default {
            continue;
        }
        let mut add = |path: &str, part| {
            notices.push(Notice {
                key: path.into(),
                origin: origin.clone(),
                part,
            });
        };
        if let Some(part) = key.absent_part() {
            add(key.path, part);
        }
        if let (Value::Maps(maps), "classes") = (value, key.path) {
            for row in schema::class_keys() {
                let used = maps.iter().any(|map| map.contains_key(row.name()));
                if let (Some(part), true) = (row.absent_part(), used) {
                    add(row.path, part);
                }
            }
        }
    }
    notices
}
