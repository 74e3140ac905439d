//! YAML (and JSON) as a small tree that knows where everything stands.
//!
//! saphyr-parser gives events with positions; this module keeps them and refuses what a configuration has no use for: two
//! documents, tags beyond YAML's core schema, keys that are not scalars, merge keys (`<<`), anchors that contain themselves. Bounds
//! hold against hostile files: size, depth, and values *after* aliases are replaced, so that a file of nested aliases that stands
//! for billions of values is refused as soon as it passes the bound. A replaced alias shares its memory with its anchor.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::error::{Faults, Path, Problem};
use super::origin::Origin;
use super::value::{clip, holds_credentials, integer, is_null, number};

/// The largest file, bytes.
pub const MAX_FILE: usize = 1 << 20;
/// The deepest nesting of maps and lists.
pub const MAX_DEPTH: usize = 64;
/// The most values and keys, aliases replaced.
pub const MAX_NODES: usize = 100_000;
/// The most bytes of text in values and keys, aliases replaced.
pub const MAX_BYTES: usize = 4 * MAX_FILE;

/// A place in a text: line and column in characters, both from 1; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) data: Data,
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    Scalar { text: Arc<str>, plain: bool },
    List(Arc<[Node]>),
    Map(Arc<[Entry]>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    pub(super) mark: Mark,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn scalar(text: &str, plain: bool) -> Self {
        Node {
            mark: Mark::default(),
            data: Data::Scalar {
                text: text.into(),
                plain,
            },
        }
    }

    pub(super) fn list(items: impl IntoIterator<Item = Node>) -> Self {
        Node {
            mark: Mark::default(),
            data: Data::List(items.into_iter().collect()),
        }
    }

    /// Whether this is a null, written or left out.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar { text, plain: true } if is_null(text))
    }

    /// Says what this is, for people.
    pub(super) fn describe(&self) -> String {
        match &self.data {
            Data::List(_) => "a list".into(),
            Data::Map(_) => "a map".into(),
            Data::Scalar { .. } if self.is_null() => "nothing".into(),
            Data::Scalar { text, .. } if holds_credentials(text) => {
                "an address with a password".into()
            }
            Data::Scalar { text, plain } => {
                let bare = *plain
                    && (number(text).is_some()
                        || matches!(&**text, "true" | "false" | ".nan" | ".inf" | "-.inf"));
                let text = clip(text, 60);
                if bare { text } else { format!("\"{text}\"") }
            }
        }
    }

    /// Takes JSON as a tree. `None` if it is nested too deep.
    pub(super) fn of_json(json: &serde_json::Value) -> Option<Self> {
        fn node(json: &serde_json::Value, depth: usize) -> Option<Node> {
            use serde_json::Value;
            if depth > MAX_DEPTH {
                return None;
            }
            Some(match json {
                Value::Null => Node::scalar("null", true),
                Value::Bool(value) => Node::scalar(if *value { "true" } else { "false" }, true),
                Value::Number(number) => Node::scalar(&number.to_string(), true),
                Value::String(text) => Node::scalar(text, false),
                Value::Array(items) => {
                    let items: Option<Vec<_>> =
                        items.iter().map(|item| node(item, depth + 1)).collect();
                    Node::list(items?)
                }
                Value::Object(map) => {
                    let entries: Option<Vec<_>> = map
                        .iter()
                        .map(|(key, value)| {
                            Some(Entry {
                                key: key.as_str().into(),
                                mark: Mark::default(),
                                node: node(value, depth + 1)?,
                            })
                        })
                        .collect();
                    Node {
                        mark: Mark::default(),
                        data: Data::Map(entries?.into()),
                    }
                }
            })
        }
        node(json, 0)
    }

    /// Gives the tree as JSON, by the core schema.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.data {
            Data::List(items) => items.iter().map(Node::to_json).collect(),
            Data::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.to_string(), entry.node.to_json()))
                .collect(),
            Data::Scalar { text, plain: true } => match &**text {
                text if is_null(text) => serde_json::Value::Null,
                "true" | "True" | "TRUE" => true.into(),
                "false" | "False" | "FALSE" => false.into(),
                text => match (integer(text), number(text)) {
                    (Some(integer), _) => integer.into(),
                    (None, Some(number)) => number.into(),
                    (None, None) => text.into(),
                },
            },
            Data::Scalar { text, plain: false } => (**text).into(),
        }
    }
}

/// Makes the origin of something in a text from its place.
pub(super) type Locate<'a> = &'a dyn Fn(Mark) -> Origin;

/// Checks that bytes are text that YAML allows, without a byte order mark.
pub(super) fn text<'a>(
    bytes: &'a [u8],
    locate: Locate<'_>,
    faults: &mut Faults,
) -> Option<&'a str> {
    let mut unusable = |mark, reason: String| {
        faults.add(locate(mark), &Path::Root, Problem::Unusable { reason });
    };
    if bytes.starts_with(&[0xfe, 0xff]) || bytes.starts_with(&[0xff, 0xfe]) {
        unusable(Mark::default(), "is UTF-16, expected UTF-8".into());
        return None;
    }
    let all = bytes.len();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let skipped = all - bytes.len();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let offset = error.valid_up_to();
            unusable(
                mark_at(bytes, offset),
                format!(
                    "is not UTF-8: byte {} is 0x{:02x}, which no character has there",
                    offset + skipped,
                    bytes[offset]
                ),
            );
            return None;
        }
    };
    // The parser would take a NUL for the end of the file.
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    if let Some((offset, c)) = text.char_indices().find(|(_, c)| control(*c)) {
        unusable(
            mark_at(bytes, offset),
            format!("has the control character U+{:04X}", c as u32),
        );
        return None;
    }
    Some(text)
}

/// The place of a byte, where everything before it is UTF-8.
fn mark_at(bytes: &[u8], offset: usize) -> Mark {
    let before = String::from_utf8_lossy(&bytes[..offset]);
    let line = before.matches('\n').count() as u32 + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() as u32 + 1;
    Mark { line, column }
}

/// Reads YAML. `None` if it is no YAML that a configuration can be; the faults say why. Of a key that is there twice the first value
/// is kept beside the fault, so that what else is wrong is found, too. An empty text is a null.
pub(super) fn parse(text: &str, locate: Locate<'_>, faults: &mut Faults) -> Option<Node> {
    let mut reader = Reader {
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        size: Size::default(),
        locate,
        faults,
    };
    match reader.document() {
        Ok(node) => Some(node),
        Err(Stop { mark, reason }) => {
            reader
                .faults
                .add(locate(mark), &Path::Root, Problem::Unusable { reason });
            None
        }
    }
}

/// The text cannot be read on.
struct Stop {
    mark: Mark,
    reason: String,
}

fn stop<T>(mark: Mark, reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop {
        mark,
        reason: reason.into(),
    })
}

/// What has been read, aliases replaced.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

/// What an anchor names: the value, how much it stands for, how deep it is.
struct Anchored {
    node: Node,
    size: Size,
    height: usize,
}

struct Reader<'a, 'f> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Anchored>,
    size: Size,
    locate: Locate<'f>,
    faults: &'f mut Faults,
}

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Result<(Event<'a>, Mark), Stop> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, mark_of(span))),
            Some(Err(error)) => {
                let mark = Mark {
                    line: error.marker().line() as u32,
                    column: error.marker().col() as u32 + 1,
                };
                stop(mark, format!("is not YAML: {}", clip(error.info(), 200)))
            }
            None => Ok((Event::StreamEnd, Mark::default())),
        }
    }

    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, mark) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root.unwrap_or_else(|| Node::scalar("", true))),
                Event::DocumentStart(_) if root.is_some() => {
                    return stop(mark, "a second document starts here, expected one");
                }
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                Event::Nothing => {}
                event => root = Some(self.node(event, mark, &Path::Root, 0)?.0),
            }
        }
    }

    /// Reads the value that an event begins, and tells its height.
    fn node(
        &mut self,
        event: Event<'a>,
        mark: Mark,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<(Node, usize), Stop> {
        let first = self.size;
        let (anchor, data, height) = match event {
            Event::Alias(anchor) => return self.alias(anchor, mark, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let plain = core_tag(tag.as_deref(), mark, "scalar")?.unwrap_or(plain);
                let text: Arc<str> = Arc::from(&*text);
                self.count(text.len(), mark)?;
                (anchor, Data::Scalar { text, plain }, 0)
            }
            Event::SequenceStart(anchor, tag) => {
                core_tag(tag.as_deref(), mark, "seq")?;
                self.count(0, mark)?;
                let (items, height) = self.list(mark, path, deeper(depth, mark)?)?;
                (anchor, Data::List(items.into()), height + 1)
            }
            Event::MappingStart(anchor, tag) => {
                core_tag(tag.as_deref(), mark, "map")?;
                self.count(0, mark)?;
                let (entries, height) = self.map(mark, path, deeper(depth, mark)?)?;
                (anchor, Data::Map(entries.into()), height + 1)
            }
            _ => return stop(mark, "is not YAML: a value is missing"),
        };
        let node = Node { mark, data };
        if anchor > 0 {
            let anchored = Anchored {
                node: node.clone(),
                size: Size {
                    nodes: self.size.nodes - first.nodes,
                    bytes: self.size.bytes - first.bytes,
                },
                height,
            };
            self.anchors.insert(anchor, anchored);
        }
        Ok((node, height))
    }

    fn alias(&mut self, anchor: usize, mark: Mark, depth: usize) -> Result<(Node, usize), Stop> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return stop(mark, "an alias (*) stands inside its own anchor (&)");
        };
        let (node, size, height) = (anchored.node.clone(), anchored.size, anchored.height);
        self.add(size, mark)?;
        if depth + height > MAX_DEPTH {
            return stop(mark, format!("is nested deeper than {MAX_DEPTH}"));
        }
        Ok((node, height))
    }

    fn list(
        &mut self,
        mark: Mark,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<(Vec<Node>, usize), Stop> {
        let (mut items, mut highest) = (Vec::new(), 0);
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::SequenceEnd => return Ok((items, highest)),
                Event::StreamEnd => return stop(mark, "is not YAML: a list does not end"),
                event => {
                    let path = Path::Item(path, items.len());
                    let (node, height) = self.node(event, at, &path, depth)?;
                    highest = highest.max(height);
                    items.push(node);
                }
            }
        }
    }

    fn map(
        &mut self,
        mark: Mark,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<(Vec<Entry>, usize), Stop> {
        let (mut entries, mut highest) = (Vec::<Entry>::new(), 0);
        let mut seen = HashMap::<Arc<str>, Mark>::new();
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::MappingEnd => return Ok((entries, highest)),
                Event::StreamEnd => return stop(mark, "is not YAML: a map does not end"),
                event => {
                    let Node {
                        data: Data::Scalar { text: key, plain },
                        ..
                    } = self.node(event, at, path, depth)?.0
                    else {
                        return stop(at, "a key is a list or a map, expected a name");
                    };
                    if plain && &*key == "<<" {
                        return stop(at, "merge keys (<<) are not supported: write the keys out");
                    }
                    let path = Path::Key(path, &key);
                    let (event, value_at) = self.next()?;
                    let (node, height) = self.node(event, value_at, &path, depth)?;
                    highest = highest.max(height);
                    if let Some(first) = seen.get(&key) {
                        let first = (self.locate)(*first);
                        self.faults
                            .add((self.locate)(at), &path, Problem::Duplicate { first });
                        continue;
                    }
                    seen.insert(key.clone(), at);
                    entries.push(Entry {
                        key,
                        mark: at,
                        node,
                    });
                }
            }
        }
    }

    /// Counts one value with so many bytes of text.
    fn count(&mut self, bytes: usize, mark: Mark) -> Result<(), Stop> {
        self.add(Size { nodes: 1, bytes }, mark)
    }

    fn add(&mut self, more: Size, mark: Mark) -> Result<(), Stop> {
        self.size.nodes += more.nodes;
        self.size.bytes += more.bytes;
        if self.size.nodes > MAX_NODES {
            let reason = format!("has more than {MAX_NODES} values, aliases replaced");
            return stop(mark, reason);
        }
        if self.size.bytes > MAX_BYTES {
            let reason = format!("has more than {MAX_BYTES} bytes of text, aliases replaced");
            return stop(mark, reason);
        }
        Ok(())
    }
}

fn mark_of(span: Span) -> Mark {
    Mark {
        line: span.start.line() as u32,
        column: span.start.col() as u32 + 1,
    }
}

fn deeper(depth: usize, mark: Mark) -> Result<usize, Stop> {
    if depth >= MAX_DEPTH {
        return stop(mark, format!("is nested deeper than {MAX_DEPTH}"));
    }
    Ok(depth + 1)
}

/// Accepts the tags of the core schema; tells whether a scalar is to be taken as plain.
fn core_tag(tag: Option<&Tag>, mark: Mark, on: &str) -> Result<Option<bool>, Stop> {
    let Some(tag) = tag else { return Ok(None) };
    if tag.is_yaml_core_schema() {
        match (on, &*tag.suffix) {
            ("scalar", "str") => return Ok(Some(false)),
            ("scalar", "int" | "float" | "bool" | "null") => return Ok(Some(true)),
            ("seq", "seq") | ("map", "map") => return Ok(None),
            _ => {}
        }
    }
    let name = clip(&format!("{}{}", tag.handle, tag.suffix), 60);
    stop(mark, format!("the tag {name} is not supported here"))
}
