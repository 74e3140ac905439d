//! `flyball workers`: look at workers, size, change, restart and drain them.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use flyball_engine::knobs;
use flyball_engine::view::{
    DecisionView, GroupSizing, PoolSizing, WorkerEventView, WorkerLoad, WorkerStateView, WorkerView,
};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::knobs::{decided, parse_finite};
use super::{Paging, STATUS, Session, decision_line, with_session};
use crate::client::{Failure, Reach, escape};
use crate::show::{
    Column, Ink, Screen, Table, UNKNOWN, bytes, count, inert, millis, number, percent, rate,
    whole_millis,
};

const EXAMPLES: &str = "\
Examples:
  flyball workers
  flyball workers show 128
  flyball workers scale 4
  flyball workers scale --min 2 --max 16
  flyball workers scale --auto
  flyball workers sizing
  flyball workers restart 129
  flyball workers set 128 --weight 2 --cores 0,1
  flyball workers events --last 100

Worker 127 is the thread that waits for sockets and timers: nobody stops it.";

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"))]
pub(crate) struct Workers {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List the workers (what `flyball workers` does)
    List(Paging),
    /// Show everything about a worker
    #[command(after_help = "Example:\n  flyball workers show 128")]
    Show {
        /// Its number
        id: String,
    },
    /// Set how many workers a group has, or between which bounds
    #[command(after_help = "\
Examples:
  flyball workers scale 4                 four, whatever the load
  flyball workers scale --group front 2
  flyball workers scale --min 2 --max 16  bounds for the controller
  flyball workers scale --auto            back to the controller")]
    Scale(Scale),
    /// Show how their number is found, where that stands, and what was decided last
    #[command(after_help = "\
Examples:
  flyball workers sizing
  flyball config set worker_pool.sizing=adaptive")]
    Sizing,
    /// Let a worker finish its task and start another in its place
    #[command(after_help = "Example:\n  flyball workers restart 129")]
    Restart {
        /// Its number
        id: String,
    },
    /// Let a worker finish its task and end it; its group stays one smaller until `scale --auto`
    #[command(after_help = "Example:\n  flyball workers drain 129")]
    Drain {
        /// Its number
        id: String,
    },
    /// Change a worker
    #[command(after_help = "\
Examples:
  flyball workers set 128 --weight 2
  flyball workers set 128 --cores 0,1 --keys 17
  flyball workers set 128 --cores ''      any CPU again")]
    Set(Set),
    /// List what happened to workers, oldest first
    #[command(after_help = "Example:\n  flyball workers events --last 100")]
    Events {
        /// The newest so many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 30)]
        last: usize,
        #[command(flatten)]
        paging: Paging,
    },
}

#[derive(Args, Debug)]
struct Scale {
    /// So many workers, whatever the load, until `scale --auto`
    #[arg(value_name = "N", required_unless_present_any = ["min", "max", "auto"])]
    target: Option<u32>,
    /// Which workers: front (the classes whose latency matters) or back (the others)
    #[arg(long, value_name = "GROUP", default_value = "back")]
    group: Group,
    /// At least so many, in either group
    #[arg(long, value_name = "N")]
    min: Option<u32>,
    /// At most so many, in either group; 0 for twice the CPUs
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Give the number back to the controller
    #[arg(long, conflicts_with_all = ["target", "min", "max"])]
    auto: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Group {
    Front,
    Back,
}

#[derive(Args, Debug)]
struct Set {
    /// Its number
    id: String,
    /// Weight for the strategies that weigh, above 0
    #[arg(long, value_name = "W", value_parser = parse_finite, allow_negative_numbers = true, required_unless_present_any = ["cores", "keys"])]
    weight: Option<f64>,
    /// CPUs that it may run on: 0,1,4; an empty list for all
    #[arg(long, value_name = "LIST", value_parser = parse_list::<u32>)]
    cores: Option<List<u32>>,
    /// Keys that belong to it under the strategy `affinity`; an empty list for none
    #[arg(long, value_name = "LIST", value_parser = parse_list::<u64>)]
    keys: Option<List<u64>>,
}

/// Numbers with commas between them.
#[derive(Clone, Debug)]
struct List<T>(Vec<T>);

fn parse_list<T: std::str::FromStr>(text: &str) -> Result<List<T>, String> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let numbers: Result<Vec<T>, _> = words.map(str::parse).collect();
    numbers
        .map(List)
        .map_err(|_| "expected numbers with commas between them, such as 0,1,4".to_owned())
}

/// What a scaling did.
#[derive(Deserialize)]
struct Scaled {
    decisions: Vec<DecisionView>,
}

pub(crate) fn run(options: Workers) -> ExitCode {
    let action = options.action.unwrap_or(Action::List(Paging::default()));
    with_session(&options.reach, |session| match &action {
        Action::List(paging) => session.list("/v1/workers", paging, table),
        Action::Show { id } => session.show(&session.client.get(&path(id))?, details),
        Action::Scale(scale) => resize(session, scale),
        Action::Sizing => session.show(&session.client.get("/v1/workers/sizing")?, sizing),
        Action::Restart { id } => {
            let reply = session
                .client
                .act(Method::POST, &format!("{}/restart", path(id)))?;
            session.show(&reply, |worker: WorkerView, _| {
                format!(
                    "worker {} restarts as soon as its task has ended\n",
                    inert(&worker.id)
                )
            })
        }
        Action::Drain { id } => {
            let reply = session
                .client
                .act(Method::POST, &format!("{}/drain", path(id)))?;
            session.show(&reply, decided)
        }
        Action::Set(set) => {
            let reply = session
                .client
                .send(Method::PUT, &path(&set.id), &changes(set))?;
            session.show(&reply, details)
        }
        Action::Events { last, paging } => {
            session.list("/v1/workers/events", paging, |all, screen| {
                events(all, *last, screen)
            })
        }
    })
}

fn path(id: &str) -> String {
    format!("/v1/workers/{}", escape(id))
}

fn resize(session: &Session, scale: &Scale) -> Result<Vec<u8>, Failure> {
    let (group, knob) = match scale.group {
        Group::Front => ("front", knobs::FRONT),
        Group::Back => ("back", knobs::BACK),
    };
    if scale.auto {
        let reply = session
            .client
            .act(Method::POST, &format!("/v1/knobs/{}/unpin", escape(knob)))?;
        return session.show(&reply, decided);
    }
    let mut body = Map::from_iter([("group".to_owned(), Value::from(group))]);
    for (name, value) in [
        ("target", scale.target),
        ("min", scale.min),
        ("max", scale.max),
    ] {
        body.extend(value.map(|value| (name.to_owned(), Value::from(value))));
    }
    let reply = session
        .client
        .send(Method::POST, "/v1/workers/scale", &Value::Object(body))?;
    session.show(&reply, |scaled: Scaled, _| {
        let lines = scaled
            .decisions
            .iter()
            .map(|decision| decision_line(decision) + "\n");
        let text: String = lines.collect();
        if text.is_empty() {
            "the bounds are set\n".to_owned()
        } else {
            text
        }
    })
}

fn changes(set: &Set) -> Value {
    let mut body = Map::new();
    body.extend(
        set.weight
            .map(|weight| ("weight".to_owned(), json!(weight))),
    );
    body.extend(
        set.cores
            .as_ref()
            .map(|List(cores)| ("affinity_cores".to_owned(), json!(cores))),
    );
    body.extend(
        set.keys
            .as_ref()
            .map(|List(keys)| ("affinity_keys".to_owned(), json!(keys))),
    );
    Value::Object(body)
}

fn state(state: WorkerStateView) -> (&'static str, Ink) {
    match state {
        WorkerStateView::Starting => ("starting", Ink::Plain),
        WorkerStateView::Idle => ("idle", Ink::Plain),
        WorkerStateView::Processing => ("processing", Ink::Good),
        WorkerStateView::Stuck => ("stuck", Ink::Bad),
        WorkerStateView::Draining => ("draining", Ink::Doubtful),
        WorkerStateView::Stopped => ("stopped", Ink::Plain),
    }
}

fn task(worker: &WorkerView) -> String {
    match &worker.current_task {
        None => UNKNOWN.to_owned(),
        Some(task) => {
            let kind = if task.kind.is_empty() {
                String::new()
            } else {
                format!("/{}", task.kind)
            };
            format!("{}{kind} for {}", task.class, millis(task.running_ms))
        }
    }
}

fn table(workers: Vec<WorkerView>, screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("ID"),
        Column::left("GROUP"),
        Column::left("STATE"),
        Column::right("CPU"),
        Column::right("QUEUE"),
        Column::right("TASKS"),
        Column::right("PER S"),
        Column::right("MEAN"),
        Column::right("P95"),
        Column::right("ERRORS"),
        Column::right("HEALTH"),
        Column::left("RUNS"),
    ]);
    for worker in workers {
        let (word, ink) = state(worker.state);
        let task = task(&worker);
        let sick = if worker.health < 0.5 {
            Ink::Bad
        } else {
            Ink::Plain
        };
        let plain = |text| (text, Ink::Plain);
        table.painted([
            plain(worker.id),
            plain(worker.group),
            (word.to_owned(), ink),
            plain(percent(worker.cpu_percent)),
            plain(count(worker.queue_length)),
            plain(count(worker.tasks_processed)),
            plain(number(worker.throughput_per_second)),
            plain(millis(worker.mean_run_ms)),
            plain(millis(worker.p95_run_ms)),
            plain(percent(worker.error_rate_percent)),
            (format!("{:.2}", worker.health), sick),
            plain(task),
        ]);
    }
    table.print(screen)
}

fn details(worker: WorkerView, screen: Screen) -> String {
    let (word, ink) = state(worker.state);
    let load = match worker.status {
        WorkerLoad::Idle => "idle",
        WorkerLoad::Busy => "busy",
        WorkerLoad::Overloaded => "overloaded",
    };
    let numbers = |list: Vec<String>, none: &str| {
        if list.is_empty() {
            none.to_owned()
        } else {
            list.join(",")
        }
    };
    let time = |time: Option<flyball_engine::view::Time>| {
        time.map_or_else(|| UNKNOWN.to_owned(), |time| time.to_string())
    };
    let text = |number: &dyn ToString| number.to_string();
    let mut out = String::new();
    for (name, value) in [
        ("state", screen.paint(ink, word)),
        ("load", load.to_owned()),
        ("runs", inert(&task(&worker))),
        ("group", inert(&worker.group)),
        ("health", format!("{:.2}", worker.health)),
        ("weight", number(worker.weight)),
        (
            "cores",
            numbers(
                worker.affinity_cores.iter().map(|n| text(n)).collect(),
                "all",
            ),
        ),
        (
            "keys",
            numbers(
                worker.affinity_keys.iter().map(|n| text(n)).collect(),
                "none",
            ),
        ),
        ("cpu", percent(worker.cpu_percent)),
        ("cpu time", millis(worker.cpu_time_ms)),
        ("memory", bytes(worker.memory_bytes)),
        ("queue", count(worker.queue_length)),
        ("tasks", count(worker.tasks_processed)),
        (
            "errors",
            format!("{} ({})", worker.errors, percent(worker.error_rate_percent)),
        ),
        ("throughput", rate(worker.throughput_per_second)),
        ("mean run", millis(worker.mean_run_ms)),
        ("p95 run", millis(worker.p95_run_ms)),
        ("up", whole_millis(worker.uptime_ms)),
        ("last active", time(worker.last_activity)),
        (
            "heartbeat",
            format!(
                "{}, {} missed",
                worker.last_heartbeat, worker.missed_heartbeats
            ),
        ),
        (
            "replaced by",
            worker
                .replaced_by
                .as_deref()
                .map_or_else(|| UNKNOWN.to_owned(), inert),
        ),
        (
            "thread",
            worker
                .thread_id
                .map_or_else(|| UNKNOWN.to_owned(), |id| id.to_string()),
        ),
    ] {
        out.push_str(&format!("{name:<12} {value}\n"));
    }
    format!("worker {}\n{out}", inert(&worker.id))
}

/// Words for a figure, or that it is not known.
fn said(figure: Option<impl ToString>) -> String {
    figure.map_or_else(|| UNKNOWN.to_owned(), |figure| inert(&figure.to_string()))
}

fn sizing(sizing: PoolSizing, screen: Screen) -> String {
    let mut out = match &sizing.sizing {
        Some(way) => format!("sizing {}\n", inert(way)),
        None => "nothing sizes the pool (performance.enabled is false)\n".to_owned(),
    };
    for group in &sizing.groups {
        out.push('\n');
        out.push_str(&group_sizing(group, screen));
    }
    out
}

fn group_sizing(group: &GroupSizing, screen: Screen) -> String {
    let plain = |text: String| (text, Ink::Plain);
    let mut rows = vec![(
        "workers",
        plain(format!("{}, {} to {}", group.workers, group.min, group.max)),
    )];
    if let Some(pin) = &group.pinned {
        let text = format!(
            "at {} by {} since {}",
            number(Some(pin.value)),
            inert(&pin.by),
            pin.since
        );
        rows.push(("pinned", (text, Ink::Doubtful)));
    }
    if let Some(load) = group.load {
        rows.push(("load", plain(number(Some(load)))));
    }
    if let Some(offered) = group.offered_workers {
        let text = format!("{} workers' worth of work", number(Some(offered)));
        rows.push(("offered", plain(text)));
    }
    if let Some(forecast) = &group.forecast {
        let ahead = millis(forecast.horizon_ms);
        let text = match (forecast.mistake, forecast.mistake_of_last_value) {
            (Some(mistake), Some(last)) => format!(
                "{}: {} ahead it errs by {} workers, the last value by {} ({} compared); foreseen: {}",
                if forecast.followed {
                    "followed"
                } else {
                    "not followed"
                },
                ahead,
                number(Some(mistake)),
                number(Some(last)),
                forecast.judged,
                number(group.foreseen_workers),
            ),
            _ => format!("not followed: no steady growth was seen yet to foretell {ahead} ahead"),
        };
        rows.push(("forecast", plain(text)));
    }
    if let Some(stage) = &group.stage {
        let mut text = inert(stage);
        if let Some(trying) = group.trying {
            text = format!("{text}, tries {trying}");
        }
        if let Some(again) = group.next_trial {
            text = format!("{text}, tries others from {again} on");
        }
        rows.push(("stage", plain(text)));
        rows.push(("best", plain(said(group.best))));
        rows.push(("trials", plain(said(group.trials))));
        rows.push(("last trial", plain(said(group.last_trial.as_ref()))));
    }
    if let Some(patience) = group.patience.filter(|patience| *patience > 1) {
        let text = format!("reductions wait {patience} times longer, as earlier ones were wrong");
        rows.push(("patience", (text, Ink::Doubtful)));
    }
    let last = group.last_decision.as_ref();
    let last = last.map(|decision| format!("{} {}", decision.timestamp, decision_line(decision)));
    rows.push((
        "last decision",
        plain(last.unwrap_or_else(|| "none yet".to_owned())),
    ));
    let lines = rows
        .into_iter()
        .map(|(name, (text, ink))| format!("  {name:<14} {}\n", screen.paint(ink, &text)));
    format!("{}\n{}", inert(&group.group), lines.collect::<String>())
}

fn events(all: Vec<WorkerEventView>, last: usize, screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("TIME"),
        Column::left("WORKER"),
        Column::left("EVENT"),
        Column::left("REASON"),
    ]);
    let skipped = all.len().saturating_sub(last);
    for event in all.into_iter().skip(skipped) {
        table.row([
            event.timestamp.to_string(),
            event.worker.unwrap_or_else(|| UNKNOWN.to_owned()),
            event.kind,
            event.reason,
        ]);
    }
    table.print(screen)
}
