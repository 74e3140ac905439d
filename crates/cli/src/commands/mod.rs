//! Commands that ask a running daemon: each is one call of the API, or few, and a table of the answer.

pub(crate) mod backup;
pub(crate) mod classes;
pub(crate) mod config;
pub(crate) mod decisions;
pub(crate) mod knobs;
pub(crate) mod limits;
pub(crate) mod restore;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod tasks;
pub(crate) mod workers;

use std::process::ExitCode;

use clap::Args;
use flyball_engine::view::DecisionView;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Client, Failure, Reach, Reply, escape};
use crate::show::{Screen, inert};
use crate::{complain, print};

/// Where a command's help tells of its end.
pub(crate) const STATUS: &str = "\
Exit status: 0 done, 1 the answer makes no sense, 2 wrong usage, 3 the daemon
cannot be reached, 4 it refused.";

/// Items of a page with `--json`, where nobody sees that there are more.
const PAGE: u32 = 1000;
/// Pages of a list, at most: what is longer is no list of this daemon's.
const PAGES_MAX: usize = 1000;

/// Which part of a list `--json` prints.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Paging {
    /// With --json: most items, 1 to 1000 [default: 1000]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// With --json: go on after the page whose `next_cursor` this is
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// A daemon, and how to show what it answers.
pub(crate) struct Session {
    client: Client,
    json: bool,
    screen: Screen,
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

impl Session {
    fn open(reach: &Reach) -> Result<Session, Failure> {
        Ok(Session {
            client: Client::new(reach)?,
            json: reach.json,
            screen: Screen::of_stdout(),
        })
    }

    /// The whole list, page by page, for a table; or one page as it is, for `--json`.
    fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        paging: &Paging,
        table: impl FnOnce(Vec<T>, Screen) -> String,
    ) -> Result<Vec<u8>, Failure> {
        if !self.json {
            if paging.limit.is_some() || paging.cursor.is_some() {
                let text = "--limit and --cursor are for --json; a table shows the whole list";
                return Err(Failure::Usage(text.to_owned()));
            }
            return Ok(table(self.items(path)?, self.screen).into_bytes());
        }
        let mut query = vec![("limit", paging.limit.unwrap_or(PAGE).to_string())];
        query.extend(paging.cursor.clone().map(|cursor| ("cursor", cursor)));
        Ok(document(&self.client.get(&with_query(path, &query))?))
    }

    fn items<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut query = Vec::new();
        for _ in 0..PAGES_MAX {
            let page: Page<T> = self.client.get(&with_query(path, &query))?.read()?;
            items.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query = vec![("cursor", cursor)],
                None => return Ok(items),
            }
        }
        Err(Failure::Broken("the list does not end".to_owned()))
    }

    /// One answer, for people or as it is.
    fn show<T: DeserializeOwned>(
        &self,
        reply: &Reply,
        print: impl FnOnce(T, Screen) -> String,
    ) -> Result<Vec<u8>, Failure> {
        if self.json {
            return Ok(document(reply));
        }
        Ok(print(reply.read()?, self.screen).into_bytes())
    }
}

/// Opens a session, and turns what came of it into output and exit status.
fn with_session(
    reach: &Reach,
    work: impl FnOnce(&Session) -> Result<Vec<u8>, Failure>,
) -> ExitCode {
    finish(Session::open(reach).and_then(|session| work(&session)))
}

/// The same for work that prints as it goes, and says itself how it ended.
fn with_status(reach: &Reach, work: impl FnOnce(&Session) -> Result<u8, Failure>) -> ExitCode {
    match Session::open(reach).and_then(|session| work(&session)) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => complain(failure.text(), failure.status()),
    }
}

/// Prints text as it comes; answers whether there is still a reader.
fn put(text: &str) -> bool {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

/// Says something beside what was asked for.
fn note(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "flyball: {text}");
}

fn finish(result: Result<Vec<u8>, Failure>) -> ExitCode {
    match result {
        Ok(bytes) => print(&bytes),
        Err(failure) => complain(failure.text(), failure.status()),
    }
}

/// A document as it came, its line ended.
fn document(reply: &Reply) -> Vec<u8> {
    let mut bytes = reply.bytes().to_vec();
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    bytes
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (name, value) in query {
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(&format!("{name}={}", escape(value)));
    }
    out
}

/// A setting on the command line: `KEY=VALUE`.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    key: String,
    value: String,
}

pub(crate) fn parse_assignment(text: &str) -> Result<Assignment, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok(Assignment {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        }),
        _ => Err("expected KEY=VALUE, for example shares=200".to_owned()),
    }
}

/// A value as JSON: numbers, `true`, `false`, `null`, lists and objects as such, the rest as text.
fn json_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// `worker_pool.back 2 → 3 workers: the load is above the target (load 0.93)`, as log and API have it.
fn decision_line(decision: &DecisionView) -> String {
    let value = |value: Option<f64>| crate::show::number(value);
    let mut line = format!(
        "{} {} → {}",
        inert(&decision.knob),
        value(decision.from),
        value(decision.to)
    );
    if !decision.unit.is_empty() {
        line.push_str(&format!(" {}", inert(&decision.unit)));
    }
    if let Some(refusal) = &decision.refusal {
        line.push_str(&format!(", refused: {}", inert(refusal)));
    }
    line.push_str(&format!(": {}", inert(&decision.reason)));
    let evidence: Vec<String> = decision
        .evidence
        .iter()
        .map(|evidence| {
            let figure = crate::show::quantity(evidence.value, &inert(&evidence.unit));
            format!("{} {figure}", inert(&evidence.name))
        })
        .collect();
    if !evidence.is_empty() {
        line.push_str(&format!(" ({})", evidence.join(", ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn assignments_keep_their_values() {
        for (text, key, value) in [
            ("shares=200", "shares", json!(200)),
            ("ceiling=0.5", "ceiling", json!(0.5)),
            ("latency_target = 10s", "latency_target", json!("10s")),
            ("sheddable=true", "sheddable", json!(true)),
            (
                "worker_pool.max_workers=null",
                "worker_pool.max_workers",
                json!(null),
            ),
            ("a=b=c", "a", json!("b=c")),
            ("list=[cpu, memory]", "list", json!("[cpu, memory]")),
            ("list=[\"cpu\"]", "list", json!(["cpu"])),
            ("empty=", "empty", json!("")),
        ] {
            let assignment = parse_assignment(text).unwrap();
            assert_eq!(
                (assignment.key.as_str(), json_value(&assignment.value)),
                (key, value)
            );
        }
        for wrong in ["shares", "=1", "", " =x"] {
            assert!(parse_assignment(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn queries_are_escaped() {
        let query = [("limit", "3".to_owned()), ("cursor", "a&b".to_owned())];
        assert_eq!(with_query("/v1/x", &query), "/v1/x?limit=3&cursor=a%26b");
        assert_eq!(
            with_query("/v1/x?part=a", &query[..1]),
            "/v1/x?part=a&limit=3"
        );
    }
}
