//! `flyball classes`: look at scheduling classes, create, change, delete, pause and resume them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use flyball_engine::view::{ClassView, LatencyView};
use hyper::Method;
use serde_json::{Map, Value};

use super::{Assignment, Paging, STATUS, json_value, parse_assignment, with_session};
use crate::client::{Failure, Reach, escape};
use crate::show::{Column, Ink, Screen, Table, count, inert, millis, percent};

const EXAMPLES: &str = "\
Examples:
  flyball classes
  flyball classes show batch
  flyball classes create reports shares=128 ceiling=0.5 latency_target=10s
  flyball classes change reports shares=256
  flyball classes pause reports
  flyball classes resume reports
  flyball classes delete reports

`flyball config schema` lists the settings of a class (classes[].…).";

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"))]
pub(crate) struct Classes {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List the classes (what `flyball classes` does)
    List(Paging),
    /// Show everything about a class
    #[command(after_help = "Example:\n  flyball classes show batch")]
    Show {
        /// Its name
        name: String,
    },
    /// Create a class; what is not said is as in `normal`
    #[command(after_help = "Example:\n  flyball classes create reports shares=128 ceiling=0.5")]
    Create {
        /// Its name
        name: String,
        /// Settings: shares=128 ceiling=0.5 latency_target=10s …
        #[arg(value_name = "KEY=VALUE", value_parser = parse_assignment)]
        settings: Vec<Assignment>,
    },
    /// Change settings of a class; the others stay
    #[command(after_help = "Example:\n  flyball classes change reports shares=256 concurrency=2")]
    Change {
        /// Its name
        name: String,
        /// Settings: shares=256 …
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = parse_assignment)]
        settings: Vec<Assignment>,
    },
    /// Remove a class that has no tasks, or take back what was changed of a built-in one
    #[command(after_help = "Example:\n  flyball classes delete reports")]
    Delete {
        /// Its name
        name: String,
    },
    /// Start nothing more of a class; what is queued stays queued
    #[command(after_help = "Example:\n  flyball classes pause reports")]
    Pause {
        /// Its name
        name: String,
    },
    /// Let a class run again
    #[command(after_help = "Example:\n  flyball classes resume reports")]
    Resume {
        /// Its name
        name: String,
    },
}

pub(crate) fn run(options: Classes) -> ExitCode {
    let action = options.action.unwrap_or(Action::List(Paging::default()));
    with_session(&options.reach, |session| {
        let client = &session.client;
        match &action {
            Action::List(paging) => session.list("/v1/classes", paging, table),
            Action::Show { name } => session.show(&client.get(&path(name))?, details),
            Action::Create { name, settings } => {
                let mut body = fields(settings);
                if body
                    .insert("name".to_owned(), name.as_str().into())
                    .is_some()
                {
                    let text = "the name of a class is given once, before its settings";
                    return Err(Failure::Usage(text.to_owned()));
                }
                let reply = client.send(Method::POST, "/v1/classes", &Value::Object(body))?;
                session.show(&reply, details)
            }
            Action::Change { name, settings } => {
                let reply =
                    client.send(Method::PUT, &path(name), &Value::Object(fields(settings)))?;
                session.show(&reply, details)
            }
            Action::Delete { name } => {
                client.act(Method::DELETE, &path(name))?;
                let text = format!("class {} is deleted, or as it was built in\n", inert(name));
                Ok(if session.json {
                    Vec::new()
                } else {
                    text.into_bytes()
                })
            }
            Action::Pause { name } => {
                let reply = client.act(Method::POST, &format!("{}/pause", path(name)))?;
                session.show(&reply, |class: ClassView, _| {
                    let (name, queued) = (inert(&class.name), class.totals.queued);
                    format!("class {name} is paused; {queued} tasks wait in it\n")
                })
            }
            Action::Resume { name } => {
                let reply = client.act(Method::POST, &format!("{}/resume", path(name)))?;
                session.show(&reply, |class: ClassView, _| {
                    format!("class {} runs again\n", inert(&class.name))
                })
            }
        }
    })
}

fn path(name: &str) -> String {
    format!("/v1/classes/{}", escape(name))
}

fn fields(settings: &[Assignment]) -> Map<String, Value> {
    let pair = |setting: &Assignment| (setting.key.clone(), json_value(&setting.value));
    settings.iter().map(pair).collect()
}

fn limit(part: f64) -> String {
    percent(part * 100.0)
}

fn table(classes: Vec<ClassView>, screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("CLASS"),
        Column::left("GROUP"),
        Column::right("PRIORITY"),
        Column::right("SHARES"),
        Column::right("QUEUED"),
        Column::right("RUNNING"),
        Column::right("DONE"),
        Column::right("FAILED"),
        Column::right("REFUSED"),
        Column::right("CPU"),
        Column::right("WAIT P95"),
        Column::right("RUN P95"),
        Column::left("STATE"),
    ]);
    for class in classes {
        let totals = &class.totals;
        let failed = totals.panicked + totals.timed_out + totals.deadline_missed;
        let (word, ink) = if class.paused {
            ("paused", Ink::Doubtful)
        } else {
            ("open", Ink::Plain)
        };
        let plain = |text| (text, Ink::Plain);
        table.painted([
            plain(class.name),
            plain(class.group),
            plain(class.priority.to_string()),
            plain(class.shares.to_string()),
            plain(count(totals.queued)),
            plain(count(totals.running)),
            plain(count(totals.finished)),
            plain(count(failed)),
            plain(count(totals.refused)),
            plain(percent(class.share_received_percent)),
            plain(millis(class.wait.p95_ms)),
            plain(millis(class.run.p95_ms)),
            (word.to_owned(), ink),
        ]);
    }
    table.print(screen)
}

fn details(class: ClassView, screen: Screen) -> String {
    let totals = &class.totals;
    let latency = |figures: &LatencyView| {
        format!(
            "p50 {}, p95 {}, p99 {}, longest {}",
            millis(figures.p50_ms),
            millis(figures.p95_ms),
            millis(figures.p99_ms),
            millis(figures.max_ms)
        )
    };
    let state = if class.paused {
        screen.paint(Ink::Doubtful, "paused")
    } else {
        "open".to_owned()
    };
    let mut out = format!(
        "class {}{}\n",
        inert(&class.name),
        if class.built_in { ", built in" } else { "" }
    );
    for (name, value) in [
        ("state", state),
        ("group", inert(&class.group)),
        ("priority", class.priority.to_string()),
        ("shares", class.shares.to_string()),
        ("guarantee", limit(class.guarantee)),
        ("ceiling", limit(class.ceiling)),
        (
            "concurrency",
            class
                .concurrency
                .map_or_else(|| "no limit".to_owned(), |most| most.to_string()),
        ),
        ("latency target", millis(class.latency_target_ms)),
        ("time slice", millis(class.time_slice_ms)),
        (
            "sheddable",
            if class.sheddable { "yes" } else { "no" }.to_owned(),
        ),
        ("sheds", sheds(&class)),
        (
            "preemptible",
            if class.preemptible { "yes" } else { "no" }.to_owned(),
        ),
        ("niceness", class.niceness.to_string()),
        (
            "queued",
            format!(
                "{} of {}, the oldest for {}",
                totals.queued,
                class.queue_limit,
                millis(class.oldest_wait_ms)
            ),
        ),
        ("running", count(totals.running)),
        ("finished", count(totals.finished)),
        (
            "failed",
            format!(
                "{} panicked, {} timed out, {} missed their deadline, {} cancelled, {} refused",
                totals.panicked,
                totals.timed_out,
                totals.deadline_missed,
                totals.cancelled,
                totals.refused
            ),
        ),
        ("wait", latency(&class.wait)),
        ("run", latency(&class.run)),
        ("cpu time", millis(class.cpu_ms)),
        (
            "cpu share",
            format!(
                "{} received, {} promised",
                percent(class.share_received_percent),
                percent(class.share_promised_percent)
            ),
        ),
    ] {
        out.push_str(&format!("{name:<15} {value}\n"));
    }
    out
}

/// What it refuses of work in memory.
fn sheds(class: &ClassView) -> String {
    let Some(shedding) = &class.shedding else {
        return "nothing (shed_after=100ms has it refuse what would wait for longer)".to_owned();
    };
    let refused = match shedding.mode.as_str() {
        "observe" => format!("about {} would have been refused", shedding.would_refuse),
        _ => format!(
            "{} refused at once, {} when their turn came",
            shedding.refused, shedding.refused_late
        ),
    };
    let room = match shedding.may_wait {
        Some(most) => format!("{most} may wait"),
        None => "how many may wait is not known yet".to_owned(),
    };
    format!(
        "beyond a wait of {}: {room}; {refused}; level {}",
        millis(shedding.shed_after_ms),
        inert(&shedding.level)
    )
}
