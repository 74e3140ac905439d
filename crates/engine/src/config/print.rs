//! The configuration as text: what `show` prints reads back as the same.

use std::fmt::Write;

use serde_json::Value as Json;

use super::layers::{self, Setting};
use super::load::Loaded;
use super::origin::Origin;
use super::schema::{self, Key};
use super::value::{Value, is_null};

impl Loaded {
    /// Returns every key with its value as text and where it came from, block by block. Secrets are not printed.
    pub fn origins(&self) -> Vec<(&'static str, String, Origin)> {
        schema::schema()
            .iter()
            .map(|key| {
                let setting = &self.settings[key.path];
                let text = layers::printed(key, &setting.value, setting.text.as_deref());
                (key.path, text, setting.origin.clone())
            })
            .collect()
    }

    /// Returns one value as text and where it came from; `None` if there is no such key.
    #[must_use]
    pub fn origin(&self, path: &str) -> Option<(String, Origin)> {
        let key = schema::key(path)?;
        let setting = &self.settings[key.path];
        let text = layers::printed(key, &setting.value, setting.text.as_deref());
        Some((text, setting.origin.clone()))
    }

    /// Returns the whole configuration as JSON, nested like the file: booleans and numbers as such, quantities with units as text.
    #[must_use]
    pub fn to_json(&self) -> Json {
        self.blocks_to_json(|_| true)
    }

    /// Returns some blocks as JSON; `wanted` is asked with the name of each.
    pub fn blocks_to_json(&self, wanted: impl Fn(&str) -> bool) -> Json {
        let mut root = Json::Object(serde_json::Map::new());
        for key in schema::schema().iter().filter(|key| wanted(key.block())) {
            let setting = &self.settings[key.path];
            let mut place = &mut root;
            for name in key.path.split('.') {
                place = &mut place[name];
            }
            *place = layers::json(key, &setting.value, setting.text.as_deref());
        }
        root
    }

    /// Prints the whole configuration as YAML that reads back as the same, secrets left out.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        let mut open: Vec<&str> = Vec::new();
        for key in schema::schema() {
            let mut blocks: Vec<&str> = key.path.split('.').collect();
            let name = blocks.pop().unwrap_or(key.path);
            let shared = open
                .iter()
                .zip(&blocks)
                .take_while(|(one, two)| one == two)
                .count();
            for (depth, block) in blocks.iter().enumerate().skip(shared) {
                line(&mut out, depth, format_args!("{block}:"));
            }
            let depth = blocks.len();
            open = blocks;
            write_setting(&mut out, depth, name, key, &self.settings[key.path]);
        }
        out
    }
}

fn line(out: &mut String, depth: usize, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:indent$}{text}", "", indent = depth * 2);
}

fn write_setting(out: &mut String, depth: usize, name: &str, key: &Key, setting: &Setting) {
    match &setting.value {
        Value::Word(_) => {}
        _ if key.secret => {
            line(out, depth, format_args!("# {name}: {}", layers::SECRET));
            return;
        }
        _ => {}
    }
    match &setting.value {
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| yaml_text(item)).collect();
            line(out, depth, format_args!("{name}: [{}]", items.join(", ")));
        }
        Value::Maps(maps) if maps.is_empty() => line(out, depth, format_args!("{name}: []")),
        Value::Maps(maps) => {
            line(out, depth, format_args!("{name}:"));
            for map in maps {
                line(
                    out,
                    depth + 1,
                    format_args!("- {}", yaml_json(&Json::Object(layers::masked(map)))),
                );
            }
        }
        Value::Counts(_) => {
            let json = yaml_json(&setting.value.to_json());
            line(out, depth, format_args!("{name}: {json}"));
        }
        Value::Text(text) => line(out, depth, format_args!("{name}: {}", yaml_text(text))),
        value => {
            let text = layers::printed(key, value, setting.text.as_deref());
            line(out, depth, format_args!("{name}: {text}"));
        }
    }
}

/// Writes a text so that YAML reads the same text: plain where nobody could take it for something else.
fn yaml_text(text: &str) -> String {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_./:%+-".contains(&b);
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_');
    let plain = starts && text.bytes().all(inner) && !text.ends_with(':') && !is_null(text);
    if plain { text.into() } else { quoted(text) }
}

/// A double-quoted scalar, which is the same in JSON and YAML.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// JSON in one line that YAML reads as the same; the name first.
fn yaml_json(json: &Json) -> String {
    match json {
        Json::Object(map) => {
            let name = map.iter().filter(|(key, _)| *key == "name");
            let rest = map.iter().filter(|(key, _)| *key != "name");
            let fields: Vec<String> = name
                .chain(rest)
                .map(|(key, json)| format!("{}: {}", yaml_key(key), yaml_json(json)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(yaml_json).collect();
            format!("[{}]", items.join(", "))
        }
        Json::String(text) => quoted(text),
        other => other.to_string(),
    }
}

fn yaml_key(key: &str) -> String {
    let plain = !key.is_empty()
        && key.len() <= 100
        && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        && !is_null(key);
    if plain { key.into() } else { quoted(key) }
}
