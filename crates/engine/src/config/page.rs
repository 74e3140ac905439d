//! The schema as text: for a terminal, for machines, and as the reference page.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::schema::{self, ALIASES, Key, RESERVED};

/// Prints the schema as a table for a terminal, block by block.
#[must_use]
pub fn schema_text() -> String {
    let mut out = String::new();
    let mut block = "";
    let width = schema::schema()
        .iter()
        .map(|key| key.path.len())
        .max()
        .unwrap_or(0);
    for key in all() {
        if key.block() != block {
            if !block.is_empty() {
                out.push('\n');
            }
            block = key.block();
        }
        let default = if key.default.is_empty() {
            "-"
        } else {
            key.default
        };
        // Writing to a string cannot fail.
        let _ = write!(out, "{:width$}  {}, {}", key.path, takes(key), default);
        if key.restart {
            out.push_str(", needs a restart");
        }
        if let Some(part) = key.absent_part() {
            let _ = write!(out, ", not in this build ({part})");
        }
        let _ = writeln!(out, "\n{:width$}  {}", "", key.about());
    }
    out
}

/// Returns the schema as a list of JSON objects, a key each.
#[must_use]
pub fn schema_json() -> Json {
    all()
        .map(|key| {
            let other: Vec<&str> = ALIASES
                .iter()
                .filter(|alias| alias.key == key.path)
                .map(|alias| alias.path)
                .collect();
            let environment = (!key.path.contains('[')).then(|| key.environment());
            json!({
                "key": key.path,
                "type": key.kind.name(),
                "unit": key.unit,
                "range": key.kind.range(),
                "or": key.word,
                "default": key.default,
                "restart": key.restart,
                "secret": key.secret,
                "environment": environment,
                "aliases": other,
                "absent_part": key.absent_part(),
                "about": key.about(),
            })
        })
        .collect()
}

/// Returns the reference page, Markdown.
#[must_use]
pub fn schema_markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    let mut table = "";
    for key in all() {
        let block = key.path.rsplit_once('.').map_or("", |(block, _)| block);
        let heading = if block.is_empty() { key.path } else { block };
        if heading != table {
            table = heading;
            let title = match heading {
                "classes[]" => "a class of `classes`".into(),
                heading => format!("`{heading}`"),
            };
            let _ = write!(
                out,
                "\n### {title}\n\n| key | type | default | |\n|---|---|---|---|\n"
            );
        }
        let mut about = key.about().to_owned();
        if key.restart {
            about.push_str(" A change needs a restart.");
        }
        if key.secret {
            about.push_str(" Never printed.");
        }
        if let Some(part) = key.absent_part() {
            let _ = write!(about, " *Not in this build: {part}.*");
        }
        let default = match key.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {default} | {about} |",
            key.name(),
            takes(key)
        );
    }
    let _ = write!(out, "{OTHER_NAMES}");
    for alias in ALIASES {
        let _ = writeln!(out, "- `{}` is `{}`", alias.path, alias.key);
    }
    let reserved: Vec<String> = RESERVED.iter().map(|name| format!("`{name}`")).collect();
    let _ = writeln!(
        out,
        "\nThese variables begin like settings and are none: {}, and what Kubernetes sets for a service called `flyball` (`FLYBALL_PORT…`, \
         `FLYBALL_SERVICE_HOST`, `FLYBALL_SERVICE_PORT…`).",
        reserved.join(", ")
    );
    out
}

/// The keys, the fields of a class after `classes`.
fn all() -> impl Iterator<Item = &'static Key> {
    schema::schema().iter().flat_map(|key| {
        let fields: &[Key] = match key.path {
            "classes" => schema::class_keys(),
            _ => &[],
        };
        std::iter::once(key).chain(fields)
    })
}

/// What a key takes, in words: `integer 1 to 128 workers`.
fn takes(key: &Key) -> String {
    let mut text = match key.kind.range() {
        Some(range) if matches!(key.kind, super::Kind::Choice(_)) => range,
        Some(range) if matches!(key.kind, super::Kind::Choices(_)) => format!("list of {range}"),
        Some(range) => format!("{} {range}", key.kind.name()),
        None => key.kind.name().to_owned(),
    };
    if let Some(unit) = key.unit {
        let _ = write!(text, " {unit}");
    }
    if let Some(word) = key.word {
        let _ = write!(text, ", or {word}");
    }
    text
}

const INTRODUCTION: &str = "\
# Configuration

One YAML file, `flyball.yaml`. Every key has a default, so that a file holds only what is to be different, and may be empty.
Unknown keys, wrong units and values out of range are errors, all reported at once with their lines; `flyball config check` finds them
without starting anything. This page is made from the schema in the program; `flyball config schema` prints the same.

```yaml
worker_pool:
  max_workers: 16
  target_load: 0.8
classes:
  - { name: reports, shares: 128, ceiling: 0.5, latency_target: 10s }
```

## Where values come from

Later ones prevail: defaults, the file, `FLYBALL_` environment variables, flags, changes at run time. `flyball config show --origin` says
which it was for each key. A variable is named after its key: `worker_pool.min_workers` is
`FLYBALL_WORKER_POOL_MIN_WORKERS`. Lists are written `cpu, memory` or `[cpu, memory]` in a variable; lists of maps as in YAML, in one
line. An empty variable counts as not set; an unknown one is an error.

## How values are written

- **bool**: `true` or `false`. The file is YAML 1.2: `yes`, `no`, `on` and `off` are words and refused.
- **size**: a number and a unit. `MB` is 10^6 bytes, `MiB` 2^20; a number alone counts bytes.
- **rate**: a size a second, `1GB/s`.
- **duration**: `500ms`, `1.5s`, `1h30m`; units are `d`, `h`, `m`, `s`, `ms`, `us`, `ns`, and only `0` needs none.
- **percent**: 0 to 100, with or without `%`. Parts of a whole, such as `target_load`, are numbers from 0 to 1.
- **map of counts**: `{gpu: 2, licence: 1}`, up to 64 names of `a-z`, `0-9`, `_` and `-`; a change replaces the whole map.
- **number**: finite; `.nan` and `.inf` are refused.

What is printed is what was written: `90m` stays `90m`.

The file is UTF-8 of at most 1 MiB, nested at most 64 deep, with at most 100,000 values once aliases are replaced. Anchors and aliases
work; merge keys (`<<`), tags of one's own, keys given twice and a second document are refused.

## Changes while running

All keys but those marked below can change while flyball runs. A change is checked as a whole with everything else and takes effect as a whole
or not at all. A key that needs a restart refuses the change it is part of.

A key of a part that this build does not have is checked like any other and otherwise ignored; flyball says so when it starts.

## Keys
";

const OTHER_NAMES: &str = "
## Other names

Where a key and its other name are both given in one source, they must be equal.

";
