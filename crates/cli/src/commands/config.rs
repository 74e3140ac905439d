//! `flyball config`: check a file, print the schema, show what holds and why, change it while the daemon runs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use flyball_engine::config::{self, Errors, Kind, Loaded, MAX_FILE, Origin, Sources};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Assignment, Paging, STATUS, Session, finish, json_value, parse_assignment, with_session,
};
use crate::client::{Failure, Reach};
use crate::print;
use crate::show::{Column, Screen, Table, inert, inert_lines};

const EXAMPLES: &str = "\
Examples:
  flyball config check flyball.yaml
  flyball config schema | less
  flyball config show --origin
  flyball config show --origin --config flyball.yaml
  flyball config set worker_pool.max_workers=8 worker_pool.target_load=0.6
  flyball config set load_balancer.strategy=affinity --dry-run";

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"), subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Check a configuration file; needs no daemon
    #[command(after_help = "\
Examples:
  flyball config check flyball.yaml
  flyball config check --environment /etc/flyball/flyball.yaml
  helm template … | flyball config check -

Exit status: 0 the file is right, 2 it is not: what `flyball serve` would say.")]
    Check {
        /// The file; - for standard input
        file: PathBuf,
        /// With the FLYBALL_… variables of this environment
        #[arg(long)]
        environment: bool,
    },
    /// Print every setting: type, unit, range, default; needs no daemon
    #[command(after_help = "\
Examples:
  flyball config schema
  flyball config schema --json | jq '.[] | select(.restart) | .key'")]
    Schema {
        /// As the reference page
        #[arg(long, conflicts_with = "json")]
        markdown: bool,
    },
    /// Print the configuration that holds
    #[command(after_help = "\
Examples:
  flyball config show
  flyball config show --origin
  flyball config show --config flyball.yaml    what a daemon started here would have")]
    Show {
        /// A line a setting, with where its value comes from
        #[arg(long)]
        origin: bool,
        /// Of a file and the FLYBALL_… variables of this environment, without a daemon
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Change settings while the daemon runs: all of them, or none
    #[command(after_help = "\
Examples:
  flyball config set worker_pool.max_workers=8 worker_pool.target_load=0.6
  flyball config set load_balancer.strategy=affinity --dry-run
  flyball config set worker_pool.max_workers=null    back to file and default

A change lasts until the daemon ends.")]
    Set {
        /// Settings
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = parse_assignment)]
        settings: Vec<Assignment>,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) fn run(options: Config) -> ExitCode {
    let Config { action, reach } = options;
    match action {
        Action::Check { file, environment } => check(&file, environment, reach.json),
        Action::Schema { .. } if reach.json => print(&pretty(&config::schema_json())),
        Action::Schema { markdown: true } => print(config::schema_markdown().as_bytes()),
        Action::Schema { .. } => print(config::schema_text().as_bytes()),
        Action::Show {
            origin,
            config: Some(file),
            paging: _,
        } => finish(show_file(&file, origin, reach.json)),
        Action::Show {
            origin: true,
            config: None,
            paging,
        } => with_session(&reach, |session| {
            session.list(
                "/v1/config/origins",
                &paging,
                |settings: Vec<Setting>, screen| {
                    let rows = settings
                        .into_iter()
                        .map(|one| (one.key, one.value, one.origin));
                    origins(rows, screen)
                },
            )
        }),
        Action::Show { .. } => with_session(&reach, show),
        Action::Set { settings, dry_run } => {
            with_session(&reach, |session| set(session, &settings, dry_run))
        }
    }
}

/// A setting as the daemon tells it.
#[derive(Deserialize)]
struct Setting {
    key: String,
    value: String,
    origin: String,
}

/// What a change did.
#[derive(Deserialize)]
struct Changes {
    dry_run: bool,
    changes: Vec<Changed>,
}

#[derive(Deserialize)]
struct Changed {
    key: String,
    old: Value,
    new: Value,
    restart: bool,
}

fn sources(file: &Path) -> Result<Sources, Failure> {
    if file != Path::new("-") {
        return Ok(Sources::new().with_file(file));
    }
    let mut bytes = Vec::new();
    // One byte more than a file may have, so that the reader says that it is too long.
    let read = std::io::stdin()
        .lock()
        .take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes);
    match read {
        Ok(_) => Ok(Sources::new().with_text("standard input", bytes)),
        Err(error) => Err(Failure::Broken(format!(
            "cannot read standard input: {error}"
        ))),
    }
}

fn check(file: &Path, environment: bool, as_json: bool) -> ExitCode {
    let sources = match sources(file) {
        Ok(sources) if environment => sources.with_environment(std::env::vars_os()),
        Ok(sources) => sources,
        Err(failure) => return finish(Err(failure)),
    };
    let loaded = config::load(&sources);
    if as_json {
        let written = print(&pretty(&verdict(&loaded)));
        return if loaded.is_err() {
            ExitCode::from(2)
        } else {
            written
        };
    }
    match loaded {
        Ok(loaded) => {
            let notices = loaded
                .notices
                .iter()
                .map(|notice| inert(&notice.to_string()) + "\n");
            let name = inert(&file.to_string_lossy());
            print(format!("{}{name} is right\n", notices.collect::<String>()).as_bytes())
        }
        Err(errors) => finish(Err(Failure::Usage(faults(&errors)))),
    }
}

/// All faults, as sentences.
pub(crate) fn faults(errors: &Errors) -> String {
    let count = errors.faults().len() + errors.more();
    let what = if count == 1 {
        "a fault".to_owned()
    } else {
        format!("{count} faults")
    };
    format!(
        "the configuration has {what}:\n{}",
        inert_lines(&errors.to_string())
    )
}

fn verdict(loaded: &Result<Loaded, Errors>) -> Value {
    let place = |origin: &Origin| match origin {
        Origin::File { line, column, .. } if *line > 0 => (Some(*line), Some(*column)),
        _ => (None, None),
    };
    match loaded {
        Ok(loaded) => json!({
            "ok": true,
            "errors": [],
            "notices": loaded.notices.iter().map(|notice| json!({
                "key": notice.key,
                "origin": notice.origin.to_string(),
                "absent_part": notice.part,
            })).collect::<Vec<_>>(),
        }),
        Err(errors) => json!({
            "ok": false,
            "errors": errors.faults().iter().map(|fault| {
                let (line, column) = place(&fault.origin);
                json!({
                    "origin": fault.origin.to_string(),
                    "line": line,
                    "column": column,
                    "key": fault.key,
                    "pointer": fault.pointer,
                    "detail": fault.detail(),
                })
            }).collect::<Vec<_>>(),
            "more": errors.more(),
            "notices": [],
        }),
    }
}

fn show_file(file: &Path, origin: bool, as_json: bool) -> Result<Vec<u8>, Failure> {
    let sources = sources(file)?.with_environment(std::env::vars_os());
    let loaded = config::load(&sources).map_err(|errors| Failure::Usage(faults(&errors)))?;
    let list = loaded.origins().into_iter();
    let rows = list.map(|(key, value, origin)| (key.to_owned(), value, origin.to_string()));
    Ok(match (origin, as_json) {
        (true, true) => {
            let items: Vec<Value> = rows
                .map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin }))
                .collect();
            pretty(&json!({ "items": items, "next_cursor": null }))
        }
        (true, false) => origins(rows, Screen::of_stdout()).into_bytes(),
        (false, true) => pretty(&loaded.to_json()),
        (false, false) => loaded.to_yaml().into_bytes(),
    })
}

/// The daemon's configuration in the form of the file. A daemon of another version may have settings that this one does not know:
/// then as JSON, which is YAML, too.
fn show(session: &Session) -> Result<Vec<u8>, Failure> {
    let reply = session.client.get("/v1/config")?;
    session.show(&reply, |settings: Value, _| {
        let text = Sources::new().with_text("the daemon", settings.to_string());
        match config::load(&text) {
            Ok(loaded) => loaded.to_yaml(),
            Err(_) => String::from_utf8_lossy(&pretty(&settings)).into_owned(),
        }
    })
}

fn origins(rows: impl Iterator<Item = (String, String, String)>, screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("SETTING"),
        Column::left("FROM"),
        Column::left("VALUE"),
    ]);
    for (key, value, origin) in rows {
        table.row([key, origin, value]);
    }
    table.print(screen)
}

fn set(session: &Session, settings: &[Assignment], dry_run: bool) -> Result<Vec<u8>, Failure> {
    let body = nested(settings).map_err(Failure::Usage)?;
    let path = if dry_run {
        "/v1/config?dry_run=true"
    } else {
        "/v1/config"
    };
    let reply = session.client.send(Method::PATCH, path, &body)?;
    session.show(&reply, |done: Changes, screen| {
        if done.changes.is_empty() {
            return "nothing changes: it is so already\n".to_owned();
        }
        let mut table = Table::new([
            Column::left("SETTING"),
            Column::left("OLD"),
            Column::left("NEW"),
        ]);
        for change in done.changes {
            let mut new = word(&change.new);
            if change.restart {
                new.push_str(" (at the next start)");
            }
            table.row([change.key, word(&change.old), new]);
        }
        let head = if done.dry_run {
            "nothing was changed; this would be:\n"
        } else {
            ""
        };
        head.to_owned() + &table.print(screen)
    })
}

/// A value as it is written in the file.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `worker_pool.max_workers=8` as a document. What a value means is known from the schema, so that a text of digits stays a text.
fn nested(settings: &[Assignment]) -> Result<Value, String> {
    let mut root = Map::new();
    for Assignment { key, value } in settings {
        let value = match config::key(key).map(|key| key.kind) {
            _ if value == "null" => Value::Null,
            Some(Kind::Text | Kind::Path | Kind::Choice(_) | Kind::Address) => {
                value.as_str().into()
            }
            Some(Kind::Choices(_) | Kind::Texts | Kind::Paths) => list(value),
            _ => json_value(value),
        };
        let mut steps = key.split('.').peekable();
        let mut place = &mut root;
        while let Some(step) = steps.next() {
            if steps.peek().is_none() {
                if place.insert(step.to_owned(), value.clone()).is_some() {
                    return Err(format!("{} is set twice, or as a block, too", inert(key)));
                }
                break;
            }
            let block = place
                .entry(step)
                .or_insert_with(|| Value::Object(Map::new()));
            place = block
                .as_object_mut()
                .ok_or_else(|| format!("{} is inside of what is set to a value", inert(key)))?;
        }
    }
    Ok(Value::Object(root))
}

/// `cpu, memory`, `[cpu, memory]` or a list in JSON.
fn list(text: &str) -> Value {
    if let Ok(list @ Value::Array(_)) = serde_json::from_str(text) {
        return list;
    }
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let words = inner
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(Value::from).collect()
}

fn pretty(value: &Value) -> Vec<u8> {
    // A value has no keys but text, so that it can be written.
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nest(settings: &[&str]) -> Result<Value, String> {
        let settings: Vec<_> = settings
            .iter()
            .map(|text| parse_assignment(text).unwrap())
            .collect();
        nested(&settings)
    }

    /// CFG-3: settings become one document, so that they change together or not at all.
    #[test]
    fn settings_become_one_document() {
        assert_eq!(
            nest(&[
                "worker_pool.max_workers=8",
                "worker_pool.scale_up_delay=5s",
                "monitor.cpu.enabled=false",
                "load_balancer.strategy=pull",
                "optimizer.built_in=[tasks, allocator]",
                "profiler.profile_types=cpu",
                "worker_pool.target_load=null",
                "monitor.report_schedule=5",
            ])
            .unwrap(),
            json!({
                "worker_pool": { "max_workers": 8, "scale_up_delay": "5s", "target_load": null },
                "monitor": { "cpu": { "enabled": false }, "report_schedule": "5" },
                "load_balancer": { "strategy": "pull" },
                "optimizer": { "built_in": ["tasks", "allocator"] },
                "profiler": { "profile_types": ["cpu"] },
            })
        );
        for wrong in [&["a=1", "a=2"][..], &["a=1", "a.b=2"], &["a.b=2", "a=1"]] {
            assert!(nest(wrong).is_err(), "{wrong:?}");
        }
    }
}
