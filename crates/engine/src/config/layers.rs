//! From a tree to settings: one layer a source, checked by the schema.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value as Json};

use super::blocks::Values;
use super::error::{Faults, Path, Problem};
use super::origin::Origin;
use super::schema::{self, Found, Key};
use super::tree::{self, Data, Entry, Locate, Mark, Node};
use super::value::{
    Kind, MAX_COUNT_NAME, MAX_COUNTS, MAX_ITEMS, Value, Wrong, clip, names_secret, nearest,
};

/// A value, how it was written, and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) value: Value,
    /// The text as written, for quantities: `90m` is not printed as `1h30m`.
    pub(super) text: Option<Arc<str>>,
    pub(super) origin: Origin,
    /// The key as it was named: its own name or another one.
    pub(super) named: &'static str,
}

/// What one source says.
pub(super) type Layer = BTreeMap<&'static str, Setting>;

/// The value of every key that nobody sets.
pub(super) fn defaults() -> &'static Values {
    static DEFAULTS: OnceLock<Values> = OnceLock::new();
    DEFAULTS.get_or_init(|| {
        schema::schema()
            .iter()
            .map(|key| {
                let mut walk = Walk::new(&|_| Origin::Default, false);
                let node = walk.node_of_text(key, key.default);
                let read = node.and_then(|node| walk.value(key, &node, &Path::Root));
                match read {
                    Some((value, _)) => (key.path, value),
                    None => panic!(
                        "the schema's default of {} is wrong: {:?}",
                        key.path, walk.faults
                    ),
                }
            })
            .collect()
    })
}

/// Reads one source into a layer.
pub(super) struct Walk<'a> {
    pub(super) locate: Locate<'a>,
    /// Whether a null takes a setting back (a change at run time) or is a mistake.
    patch: bool,
    pub(super) layer: Layer,
    /// Keys whose settings a change takes back.
    pub(super) resets: Vec<&'static str>,
    /// Keys that were given and are wrong, so that nothing is concluded from their absence.
    pub(super) wrong: BTreeSet<&'static str>,
    pub(super) faults: Faults,
}

impl<'a> Walk<'a> {
    pub(super) fn new(locate: Locate<'a>, patch: bool) -> Self {
        Walk {
            locate,
            patch,
            layer: Layer::new(),
            resets: Vec::new(),
            wrong: BTreeSet::new(),
            faults: Faults::default(),
        }
    }

    /// Reads a map of blocks or of keys.
    pub(super) fn block(&mut self, node: &Node, mark: Mark, path: &Path<'_>, block: &str) {
        let entries = match &node.data {
            Data::Map(entries) => entries,
            _ if node.is_null() => {
                if self.patch {
                    self.reset_below(block);
                }
                return;
            }
            _ => {
                let members = schema::members(block);
                let what = if block.is_empty() { "blocks" } else { "keys" };
                self.mismatch(
                    node,
                    mark,
                    path,
                    format!("a map of {what}: {}", members.join(", ")),
                );
                return;
            }
        };
        for Entry { key, mark, node } in entries.iter() {
            let path = Path::Key(path, key);
            let whole = match block {
                "" => key.to_string(),
                block => format!("{block}.{key}"),
            };
            // A dotted key would otherwise be found as if it were nested.
            match schema::find(&whole).filter(|_| !key.contains('.')) {
                Some(Found::Block) => self.block(node, *mark, &path, &whole),
                Some(Found::Key { key, named }) => self.key(key, named, node, *mark, &path),
                None => {
                    let nearest = match self.faults.is_full() {
                        true => None,
                        false => schema::nearest_name(block, key),
                    };
                    let origin = (self.locate)(*mark);
                    self.faults.add(origin, &path, Problem::Unknown { nearest });
                }
            }
        }
    }

    fn reset_below(&mut self, block: &str) {
        let below = |path: &str| {
            path.strip_prefix(block)
                .is_some_and(|rest| block.is_empty() || rest.starts_with('.'))
        };
        let keys = schema::schema().iter().map(|key| key.path);
        self.resets.extend(keys.filter(|path| below(path)));
    }

    /// Reads the value of one key. `mark` is where its name stands.
    pub(super) fn key(
        &mut self,
        key: &'static Key,
        named: &'static str,
        node: &Node,
        mark: Mark,
        path: &Path<'_>,
    ) {
        if node.is_null() && self.patch {
            self.resets.push(key.path);
            return;
        }
        let mark = if node.is_null() { mark } else { node.mark };
        let Some((value, text)) = self.value(
            key,
            &Node {
                mark,
                ..node.clone()
            },
            path,
        ) else {
            self.wrong.insert(key.path);
            return;
        };
        let origin = (self.locate)(mark);
        match self.layer.get(key.path) {
            Some(other) if other.value != value => {
                let problem = Problem::Conflict {
                    other: other.named.into(),
                    at: other.origin.clone(),
                    reason: format!(
                        "is the same setting as {}, which is {}, not {}",
                        other.named,
                        printed(key, &other.value, other.text.as_deref()),
                        printed(key, &value, text.as_deref()),
                    ),
                };
                self.faults.add(origin, path, problem);
            }
            Some(_) => {}
            None => {
                let setting = Setting {
                    value,
                    text,
                    origin,
                    named,
                };
                self.layer.insert(key.path, setting);
            }
        }
    }

    /// Makes a tree of a text that stands alone, as in a variable or a flag: lists may be written as `a, b`.
    pub(super) fn node_of_text(&mut self, key: &Key, text: &str) -> Option<Node> {
        let text = text.trim();
        match key.kind {
            Kind::Classes | Kind::Maps | Kind::Counts { .. } => {
                tree::parse(text, self.locate, &mut self.faults)
            }
            kind if kind.is_list() && text.starts_with('[') => {
                tree::parse(text, self.locate, &mut self.faults)
            }
            kind if kind.is_list() => {
                let items = text.split(',').map(|item| Node::scalar(item.trim(), true));
                Some(Node::list(items))
            }
            _ => Some(Node::scalar(text, true)),
        }
    }

    /// Reads a value by the kind of its key.
    pub(super) fn value(
        &mut self,
        key: &Key,
        node: &Node,
        path: &Path<'_>,
    ) -> Option<(Value, Option<Arc<str>>)> {
        match (&node.data, key.kind) {
            (Data::Scalar { text, .. }, kind) if !kind.is_list() => {
                self.scalar(key, node, text, path)
            }
            (Data::List(items), kind) if kind.is_list() => {
                if items.len() > MAX_ITEMS {
                    let why = Wrong {
                        why: Some(format!("{} items", items.len())),
                        nearest: None,
                    };
                    let expected = format!("at most {MAX_ITEMS} items");
                    self.wrong(node, node.mark, path, expected, why);
                    return None;
                }
                let value = match kind {
                    Kind::Classes => self.classes(items, node.mark, path),
                    Kind::Maps => self.maps(items, path),
                    _ => self.list(key, items, path),
                };
                value.map(|value| (value, None))
            }
            (Data::Map(entries), Kind::Counts { max }) => {
                let value = self.counts(key, entries, max, node, path);
                value.map(|value| (value, None))
            }
            _ => {
                self.mismatch(node, node.mark, path, key.expected());
                None
            }
        }
    }

    fn scalar(
        &mut self,
        key: &Key,
        node: &Node,
        text: &Arc<str>,
        path: &Path<'_>,
    ) -> Option<(Value, Option<Arc<str>>)> {
        if let Some(word) = key.word.filter(|word| **word == **text) {
            return Some((Value::Word(word), None));
        }
        if node.is_null() {
            self.mismatch(node, node.mark, path, key.expected());
            return None;
        }
        let plain = matches!(node.data, Data::Scalar { plain: true, .. });
        match key.kind.read(text, plain) {
            Ok(value) => {
                let text = value.is_quantity().then(|| Arc::from(text.trim()));
                Some((value, text))
            }
            Err(mut wrong) => {
                if key.secret {
                    wrong.why = None;
                    let problem = Problem::Wrong {
                        found: "something else".into(),
                        why: None,
                        expected: key.expected(),
                        nearest: None,
                    };
                    let origin = (self.locate)(node.mark);
                    self.faults.add(origin, path, problem);
                } else {
                    if wrong.nearest.is_none() {
                        wrong.nearest = key
                            .word
                            .and_then(|word| nearest(text, [word]))
                            .map(Into::into);
                    }
                    self.wrong(node, node.mark, path, key.expected(), wrong);
                }
                None
            }
        }
    }

    /// A list of texts, paths or choices.
    fn list(&mut self, key: &Key, items: &[Node], path: &Path<'_>) -> Option<Value> {
        let mut list = Vec::<String>::new();
        let mut good = true;
        for (index, item) in items.iter().enumerate() {
            let path = Path::Item(path, index);
            let expected = match key.kind {
                Kind::Choices(words) => Kind::Choice(words).expected(),
                Kind::Paths => Kind::Path.expected(),
                _ => Kind::Text.expected(),
            };
            let Data::Scalar { text, plain } = &item.data else {
                self.mismatch(item, item.mark, &path, expected);
                good = false;
                continue;
            };
            if item.is_null() {
                self.mismatch(item, item.mark, &path, expected);
                good = false;
                continue;
            }
            match key.kind.read(text, *plain) {
                Ok(Value::Text(text)) => {
                    let twice = list.contains(&text);
                    if twice && matches!(key.kind, Kind::Choices(_)) {
                        let wrong = Wrong {
                            why: Some("it is there already".into()),
                            nearest: None,
                        };
                        self.wrong(item, item.mark, &path, "each word once".into(), wrong);
                        good = false;
                    }
                    list.push(text);
                }
                Ok(_) => good = false,
                Err(wrong) => {
                    self.wrong(item, item.mark, &path, expected, wrong);
                    good = false;
                }
            }
        }
        good.then_some(Value::List(list))
    }

    /// A map of names to whole numbers.
    fn counts(
        &mut self,
        key: &Key,
        entries: &[Entry],
        max: u32,
        node: &Node,
        path: &Path<'_>,
    ) -> Option<Value> {
        if entries.len() > MAX_COUNTS {
            let why = Wrong {
                why: Some(format!("{} names", entries.len())),
                nearest: None,
            };
            self.wrong(node, node.mark, path, key.expected(), why);
            return None;
        }
        let mut counts = BTreeMap::new();
        for Entry { key, mark, node } in entries {
            let path = Path::Key(path, key);
            let letters =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
            if key.is_empty() || key.len() > MAX_COUNT_NAME || !key.bytes().all(letters) {
                let problem = Problem::Wrong {
                    found: format!("the name {:?}", clip(key, MAX_COUNT_NAME)),
                    why: None,
                    expected: format!("1 to {MAX_COUNT_NAME} characters of a-z, 0-9, _ and -"),
                    nearest: None,
                };
                self.faults.add((self.locate)(*mark), &path, problem);
                continue;
            }
            let kind = Kind::Integer {
                min: 1,
                max: i64::from(max),
            };
            let read = match &node.data {
                Data::Scalar { text, plain } => kind.read(text, *plain).ok(),
                _ => None,
            };
            let count = match read {
                Some(Value::Integer(count)) => u32::try_from(count).ok(),
                _ => None,
            };
            match count {
                Some(count) => {
                    counts.insert(key.to_string(), count);
                }
                None => self.mismatch(node, node.mark, &path, kind.expected()),
            }
        }
        (counts.len() == entries.len()).then_some(Value::Counts(counts))
    }

    /// A list of maps that a part reads by itself.
    fn maps(&mut self, items: &[Node], path: &Path<'_>) -> Option<Value> {
        let mut maps = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item.to_json() {
                Json::Object(map) => maps.push(map),
                _ => {
                    let path = Path::Item(path, index);
                    self.mismatch(item, item.mark, &path, "a map".into());
                }
            }
        }
        (maps.len() == items.len()).then_some(Value::Maps(maps))
    }

    pub(super) fn mismatch(&mut self, node: &Node, mark: Mark, path: &Path<'_>, expected: String) {
        self.wrong(node, mark, path, expected, Wrong::default());
    }

    fn wrong(&mut self, node: &Node, mark: Mark, path: &Path<'_>, expected: String, wrong: Wrong) {
        let problem = Problem::Wrong {
            found: node.describe(),
            why: wrong.why,
            expected,
            nearest: wrong.nearest,
        };
        self.faults.add((self.locate)(mark), path, problem);
    }
}

/// What stands for a secret wherever values are printed.
pub(super) const SECRET: &str = "(secret)";

/// Prints a value as it was written; secrets are not.
pub(super) fn printed(key: &Key, value: &Value, text: Option<&str>) -> String {
    match (value, text) {
        (Value::Word(word), _) => (*word).into(),
        _ if key.secret => SECRET.into(),
        (_, Some(text)) => text.into(),
        (Value::Maps(maps), None) => Value::Maps(maps.iter().map(masked).collect()).to_string(),
        (value, None) => value.to_string(),
    }
}

/// The same as JSON.
pub(super) fn json(key: &Key, value: &Value, text: Option<&str>) -> Json {
    match value {
        Value::Word(word) => (*word).into(),
        _ if key.secret => SECRET.into(),
        Value::Maps(maps) => Value::Maps(maps.iter().map(masked).collect()).to_json(),
        value => text.map_or_else(|| value.to_json(), Into::into),
    }
}

/// Masks fields of a map whose names say that they are secrets.
pub(super) fn masked(map: &Map<String, Json>) -> Map<String, Json> {
    fn mask(json: &Json) -> Json {
        match json {
            Json::Object(map) => Json::Object(masked(map)),
            Json::Array(items) => items.iter().map(mask).collect(),
            other => other.clone(),
        }
    }
    map.iter()
        .map(|(name, json)| {
            let json = match names_secret(name) {
                true => SECRET.into(),
                false => mask(json),
            };
            (name.clone(), json)
        })
        .collect()
}
