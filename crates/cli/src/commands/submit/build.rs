//! From options to a task, and the values of options.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flyball_core::units::parse_duration;
use flyball_engine::view::Time;
use flyball_engine::view::tasks::{
    AfterBody, AfterGroupBody, CommandBody, ConflictName, CronBody, CronFields, EnvBody, HttpBody,
    MissedName, NewTaskBody, OnParentFailureName, OsText, Outcome, OverlapName, RetryBody,
    UniqueBody,
};
use serde_json::value::RawValue;

use super::super::tasks::parse_id;
use super::{Missed, OnParentFailure, Overlap, Submit};
use crate::client::Failure;
use crate::quote::has_syntax;
use crate::run::parse_time;
use crate::show::inert;
use crate::template::usable_shell;

/// A missed start counts as missed when it is later than this.
const GRACE_MS: u64 = 60_000;
/// Longest name of a kind, bytes: the API's bound.
const KIND_MAX: usize = 128;
/// Longest payload that is read, bytes: a body has 1 MiB.
const PAYLOAD_MAX: u64 = 1 << 20;

/// A key, and what happens when another task with it comes.
#[derive(Clone, Debug)]
pub(super) struct Unique {
    key: String,
    on_conflict: ConflictName,
}

pub(super) fn parse_after(text: &str) -> Result<(u64, Outcome), String> {
    let (id, on) = match text.rsplit_once(':') {
        None => (text, Outcome::Success),
        Some((id, "success")) => (id, Outcome::Success),
        Some((id, "failure")) => (id, Outcome::Failure),
        Some((id, "any")) => (id, Outcome::Any),
        Some(_) => {
            return Err(
                "expected the number of a task, alone or with :success, :failure or :any"
                    .to_owned(),
            );
        }
    };
    Ok((parse_id(id)?, on))
}

pub(super) fn parse_after_group(text: &str) -> Result<(String, Outcome), String> {
    let (group, on) = match text.rsplit_once(':') {
        Some((group, "success")) => (group, Outcome::Success),
        Some((group, "failure")) => (group, Outcome::Failure),
        Some((group, "any")) => (group, Outcome::Any),
        _ => (text, Outcome::Any),
    };
    if group.is_empty() {
        return Err("the group is missing".to_owned());
    }
    Ok((group.to_owned(), on))
}

pub(super) fn parse_unique(text: &str) -> Result<Unique, String> {
    let (key, on_conflict) = match text.rsplit_once(':') {
        Some((key, "keep")) => (key, ConflictName::Keep),
        Some((key, "replace")) => (key, ConflictName::Replace),
        Some((key, "extend")) => (key, ConflictName::Extend),
        _ => (text, ConflictName::Keep),
    };
    if key.is_empty() {
        return Err("the key is missing".to_owned());
    }
    Ok(Unique {
        key: key.to_owned(),
        on_conflict,
    })
}

pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, for example team=video".to_owned()),
    }
}

pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.trim().to_owned())),
        _ => Err("expected NAME:VALUE, for example 'Accept: text/plain'".to_owned()),
    }
}

pub(super) fn parse_needed(text: &str) -> Result<(String, u32), String> {
    let (name, count) = text.split_once('=').unwrap_or((text, "1"));
    match count.parse() {
        Ok(count @ 1..) if !name.is_empty() => Ok((name.to_owned(), count)),
        _ => Err("expected NAME or NAME=N with N at least 1, for example gpu=1".to_owned()),
    }
}

pub(super) fn parse_cpu(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|cpus: &f64| cpus.is_finite() && *cpus > 0.0)
        .ok_or_else(|| "expected a number above 0, such as 2 or 0.5".to_owned())
}

pub(super) fn parse_moment(text: &str) -> Result<Time, String> {
    Time::parse(text).ok_or_else(|| {
        "expected a time such as 2027-01-31T18:00:00Z or 2027-01-31T18:00:00+01:00".to_owned()
    })
}

pub(super) fn parse_deadline(text: &str) -> Result<Time, String> {
    match (Time::parse(text), parse_duration(text)) {
        (Some(time), _) => Ok(time),
        (None, Ok(duration)) => Ok(from_now(duration)),
        (None, Err(_)) => {
            Err("expected a time such as 2027-01-31T18:00:00Z, or a duration such as 2h".to_owned())
        }
    }
}

pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        short if short < Duration::from_millis(1) => Err("expected at least 1ms".to_owned()),
        timeout => Ok(timeout),
    }
}

fn from_now(time: Duration) -> Time {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Time::from_unix_nanos(Time::now().unix_nanos().saturating_add(nanos))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the options say; `local`: whether the daemon will know that its own user asks.
pub(super) fn task(options: &Submit, local: bool) -> Result<NewTaskBody, Failure> {
    let usage = |text: &str| Failure::Usage(text.to_owned());
    let command = match &options.command[..] {
        [] => None,
        words => Some(command(options, words, local)?),
    };
    if command.is_none() {
        if options.url.is_none() && options.kind.is_none() {
            return Err(usage(
                "what shall be done? A command (`flyball submit -- ./job.sh`), --url, --kind for a handler or worker, or --file",
            ));
        }
        if options.cwd.is_some() || !options.env.is_empty() || options.retry_on_failure {
            return Err(usage(
                "--cwd, --env and --retry-on-failure are for commands",
            ));
        }
    }
    let payload = payload(options)?;
    let http = options
        .url
        .as_ref()
        .map(|url| call(options, url, payload.as_ref()));
    let retry = RetryBody {
        max_attempts: options.retries,
        base_ms: options.retry_delay.map(millis),
        // A wait that is longer than the daemon's longest one makes it as long.
        cap_ms: options
            .retry_delay
            .map(millis)
            .filter(|base| *base > 300_000),
    };
    let kind = match (&options.kind, &http) {
        (Some(kind), _) => kind.clone(),
        (None, Some(call)) => host(&call.url),
        (None, None) => program_name(&options.command),
    };
    let after = options.after.iter().map(|(id, on)| AfterBody {
        id: id.to_string(),
        on: *on,
    });
    let pairs = |pairs: &[(String, String)]| -> BTreeMap<String, String> {
        pairs.iter().cloned().collect()
    };
    if pairs(&options.label).len() < options.label.len() {
        return Err(usage("a label is given twice"));
    }
    let resources: BTreeMap<String, u32> = options.resource.iter().cloned().collect();
    if resources.len() < options.resource.len() {
        return Err(usage("a resource is given twice"));
    }
    let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
    Ok(NewTaskBody {
        kind: kind.into(),
        payload: match (&http, payload) {
            (None, Some(Payload::Json(json))) => Some(json),
            (None, Some(Payload::Text(text))) => serde_json::value::to_raw_value(&text).ok(),
            _ => None,
        },
        command: command.map(Box::new),
        http: http.map(Box::new),
        class: boxed(&options.class),
        priority: options.priority,
        after: (!options.after.is_empty()).then(|| after.collect()),
        on_parent_failure: options.on_parent_failure.map(|what| match what {
            OnParentFailure::Skip => OnParentFailureName::Skip,
            OnParentFailure::Fail => OnParentFailureName::Fail,
        }),
        deadline: options.deadline,
        not_before: options.not_before.or(options.delay.map(from_now)),
        cron: options.cron.as_ref().map(|expression| {
            CronBody(CronFields {
                expression: expression.clone(),
                time_zone: options
                    .time_zone
                    .clone()
                    .unwrap_or_else(|| "UTC".to_owned()),
                overlap: match options.overlap {
                    None | Some(Overlap::Skip) => OverlapName::Skip,
                    Some(Overlap::Queue) => OverlapName::Queue,
                    Some(Overlap::Replace) => OverlapName::Replace,
                },
                missed: match options.missed {
                    None | Some(Missed::Skip) => MissedName::Skip,
                    Some(Missed::Once) => MissedName::Once,
                    Some(Missed::All) => MissedName::All,
                },
                grace_ms: GRACE_MS,
            })
        }),
        timeout_ms: options.timeout.map(millis),
        retry: (retry != RetryBody::default()).then_some(retry),
        labels: (!options.label.is_empty()).then(|| pairs(&options.label)),
        key: boxed(&options.key),
        cpu: options.cpu,
        memory_bytes: options.memory,
        resources: (!resources.is_empty()).then_some(resources),
        affinity_key: None,
        unique: options.unique.as_ref().map(|unique| UniqueBody {
            key: unique.key.as_str().into(),
            on_conflict: unique.on_conflict,
        }),
        group: boxed(&options.group),
        after_group: options
            .after_group
            .as_ref()
            .map(|(group, on)| AfterGroupBody {
                group: group.as_str().into(),
                on: *on,
            }),
        reference: None,
        secrets: None,
    })
}

/// The command, with what is here around it where the daemon may know that.
fn command(options: &Submit, words: &[OsString], local: bool) -> Result<CommandBody, Failure> {
    let shell = match words {
        [word] if has_syntax(word.as_bytes()) => Some(usable_shell(std::env::var_os("SHELL"))),
        _ => None,
    };
    let argv: Vec<OsString> = match shell {
        Some(shell) => vec![shell, "-c".into(), words[0].clone()],
        None => words.to_vec(),
    };
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    if local {
        env.extend(std::env::vars_os().filter(|(name, _)| is_name(name)));
    }
    let cwd = match &options.cwd {
        None if local => Some(here()?),
        None => None,
        Some(folder) if local => {
            // What the shell left there would be another folder.
            env.remove(OsStr::new("PWD"));
            Some(folder.canonicalize().map_err(|error| {
                let folder = inert(&folder.to_string_lossy());
                Failure::Usage(format!("cannot use the folder {folder}: {error}"))
            })?)
        }
        // A folder of the daemon's machine.
        Some(folder) => Some(folder.clone()),
    };
    for pair in &options.env {
        let (name, value) = variable(pair)?;
        env.insert(name, value);
    }
    let os = |text: OsString| OsText(text);
    Ok(CommandBody {
        argv: argv.into_iter().map(os).collect(),
        cwd: cwd.map(|folder| os(folder.into_os_string())),
        env: EnvBody(env.into_iter().map(|(n, v)| (os(n), os(v))).collect()),
        clear_env: local,
        umask: if local { umask() } else { None },
        nice: 0,
        io_priority: None,
        affinity: Vec::new(),
        limits: BTreeMap::new(),
        retry_on_failure: options.retry_on_failure || options.retries.is_some(),
    })
}

fn is_name(name: &OsStr) -> bool {
    !name.is_empty() && !name.as_bytes().contains(&b'=')
}

/// `NAME=VALUE`, or the value that a name has here.
fn variable(pair: &OsStr) -> Result<(OsString, OsString), Failure> {
    let bytes = pair.as_bytes();
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (
            OsStr::from_bytes(&bytes[..at]),
            Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
        ),
        None => (pair, std::env::var_os(pair)),
    };
    let shown = inert(&name.to_string_lossy());
    if !is_name(name) {
        return Err(Failure::Usage(
            "--env: expected NAME=VALUE, or the name of a variable".to_owned(),
        ));
    }
    match value {
        Some(value) => Ok((name.to_owned(), value)),
        None => Err(Failure::Usage(format!(
            "--env {shown}: there is no such variable here; {shown}=VALUE sets one"
        ))),
    }
}

/// This folder.
pub(super) fn here() -> Result<PathBuf, Failure> {
    std::env::current_dir()
        .map_err(|error| Failure::Usage(format!("there is no working folder: {error}")))
}

/// The file mode creation mask of this process, as the kernel tells it: asking by `umask` would change it.
pub(super) fn umask() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))?;
    let mask = u32::from_str_radix(line.trim(), 8).ok()? & 0o777;
    Some(format!("{mask:03o}"))
}

/// What the kind is called unless it is said: the program, or the first word of a script.
fn program_name(words: &[OsString]) -> String {
    let first = words.first().map(OsString::as_os_str).unwrap_or_default();
    let text = first.to_string_lossy();
    let word = match words {
        [_] if has_syntax(first.as_bytes()) => text.split_whitespace().next().unwrap_or("sh"),
        _ => &text,
    };
    let name = Path::new(word).file_name().unwrap_or_default();
    let mut kind: String = name
        .to_string_lossy()
        .chars()
        .map(|c| {
            if inert(&c.to_string()).len() == c.len_utf8() {
                c
            } else {
                '_'
            }
        })
        .collect();
    while kind.len() > KIND_MAX {
        kind.pop();
    }
    if kind.is_empty() {
        "command".to_owned()
    } else {
        kind
    }
}

/// What a call is called unless it is said.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let mut kind: String = host.chars().filter(|c| !c.is_control()).collect();
    while kind.len() > KIND_MAX {
        kind.pop();
    }
    if kind.is_empty() {
        "http".to_owned()
    } else {
        kind
    }
}

/// For who runs it.
enum Payload {
    Json(Box<RawValue>),
    Text(String),
}

fn payload(options: &Submit) -> Result<Option<Payload>, Failure> {
    if let Some(text) = &options.json_payload {
        let text = content(text)?;
        let json = serde_json::from_str(&text).map_err(|error| {
            Failure::Usage(format!(
                "the payload is no JSON: {}; --payload takes text",
                inert(&error.to_string())
            ))
        })?;
        return Ok(Some(Payload::Json(json)));
    }
    let text = options.payload.as_ref().map(|text| content(text));
    Ok(text.transpose()?.map(Payload::Text))
}

/// The text itself, or what is in the file that it names.
fn content(text: &str) -> Result<String, Failure> {
    let Some(name) = text.strip_prefix('@') else {
        return Ok(text.to_owned());
    };
    read_text(Path::new(name), PAYLOAD_MAX)
}

/// A file, or standard input, of text.
pub(super) fn read_text(path: &Path, most: u64) -> Result<String, Failure> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        inert(&path.to_string_lossy())
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(most + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_string(&mut text))
    };
    match read {
        Err(error) => Err(Failure::Usage(format!("cannot read {name}: {error}"))),
        Ok(length) if length as u64 > most => Err(Failure::Usage(format!(
            "{name} has more than {} MiB",
            most >> 20
        ))),
        Ok(_) => Ok(text),
    }
}

fn call(options: &Submit, url: &str, payload: Option<&Payload>) -> HttpBody {
    let mut headers: BTreeMap<String, String> = options.header.iter().cloned().collect();
    let (mut body, mut body_base64) = (None, None);
    match payload {
        Some(Payload::Json(json)) => body = Some(json.clone()),
        Some(Payload::Text(text)) => {
            body_base64 = Some(base64(text.as_bytes()));
            if !headers
                .keys()
                .any(|name| name.eq_ignore_ascii_case("content-type"))
            {
                let text = "text/plain; charset=utf-8".to_owned();
                headers.insert("content-type".to_owned(), text);
            }
        }
        None => {}
    }
    let method = match (&options.method, payload) {
        (Some(method), _) => method.to_ascii_uppercase(),
        (None, Some(_)) => "POST".to_owned(),
        (None, None) => "GET".to_owned(),
    };
    HttpBody {
        method,
        url: url.to_owned(),
        headers,
        body,
        body_base64,
        dependency: None,
        hedge: false,
    }
}

/// RFC 4648, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let byte = |at: usize| u32::from(part.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            out.push(if digit > part.len() {
                '='
            } else {
                char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize])
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TASK-5, TASK-14, TASK-17: what options are short for.
    #[test]
    fn short_forms_are_read() {
        assert_eq!(parse_after("7").unwrap(), (7, Outcome::Success));
        assert_eq!(parse_after("7:failure").unwrap(), (7, Outcome::Failure));
        assert_eq!(parse_after("7:any").unwrap(), (7, Outcome::Any));
        for wrong in ["", "x", "7:", "7:maybe", "-7", ":any"] {
            assert!(parse_after(wrong).is_err(), "{wrong}");
        }
        let unique = |text: &str| {
            let unique = parse_unique(text).unwrap();
            (unique.key, unique.on_conflict)
        };
        assert_eq!(unique("a:b"), ("a:b".to_owned(), ConflictName::Keep));
        assert_eq!(
            unique("a:b:extend"),
            ("a:b".to_owned(), ConflictName::Extend)
        );
        assert!(parse_unique(":keep").is_err());
        assert_eq!(parse_needed("gpu=2").unwrap(), ("gpu".to_owned(), 2));
        assert_eq!(parse_needed("gpu").unwrap(), ("gpu".to_owned(), 1));
        assert!(parse_needed("gpu=0").is_err() && parse_needed("=1").is_err());
        assert!(parse_cpu("-1").is_err() && parse_cpu("inf").is_err());
        assert!(parse_deadline("2h").unwrap() > Time::now());
        assert!(parse_deadline("tomorrow").is_err());
    }

    #[test]
    fn kinds_are_named_after_what_is_done() {
        let name = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            program_name(&words)
        };
        assert_eq!(name(&["./job.sh", "-x"]), "job.sh");
        assert_eq!(name(&["make clean && make"]), "make");
        assert_eq!(name(&["a\u{1b}b"]), "a_b");
        assert_eq!(name(&["/"]), "command");
        assert_eq!(name(&[&"ü".repeat(100)]).len(), 128);
        assert_eq!(
            host("https://me:x@api.example.org:8443/a?b"),
            "api.example.org:8443"
        );
        assert_eq!(host("nonsense"), "nonsense");
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (text, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("ü?>", "w7w/Pg=="),
        ] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }

    #[test]
    fn the_mask_is_octal() {
        let mask = umask().unwrap();
        assert!(
            mask.len() == 3 && u32::from_str_radix(&mask, 8).is_ok(),
            "{mask}"
        );
    }
}
