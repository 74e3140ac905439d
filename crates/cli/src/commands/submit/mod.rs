//! `flyball submit`: gives the daemon a task, or many, and prints their ids.
//!
//! Over the socket the daemon knows that its own user asks, so a command is taken as it would run here: its arguments byte for byte, this folder, this
//! environment, this umask. Over TCP only the arguments are sent, and the daemon's allow-list is asked.

mod build;
mod file;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use flyball_engine::view::Time;
use flyball_engine::view::tasks::{AcceptedView, Outcome, TaskView};
use hyper::Method;
use serde::Deserialize;

use super::tasks::{Waited, exit_status, parse_id, wait_for};
use super::{Session, document, note, put, with_status};
use crate::client::{Failure, Reach};
use crate::run::parse_time;
use crate::show::inert;
use build::{parse_after, parse_cpu, parse_moment, parse_needed, parse_pair, parse_unique};

const EXAMPLES: &str = "\
Examples:
  flyball submit -- ./job.sh                       prints the id of the task
  id=$(flyball submit --class batch -- make report)
  flyball submit --after $id -- mail -s done me    when that has completed
  flyball submit --after $id:failure -- ./alarm
  flyball submit --wait -- ./job.sh                exits as the job does
  flyball submit --retries 5 --timeout 10m -- rsync -a src/ host:dst/
  flyball submit --delay 2h 'make clean && make'   one word with shell syntax: by $SHELL -c
  flyball submit --cron '30 3 * * *' --time-zone Europe/Berlin -- ./nightly
  flyball submit --unique index:replace --resource gpu=1 -- ./reindex
  flyball submit --url http://127.0.0.1:8000/hook --json-payload '{\"a\": 1}'
  flyball submit --kind resize --json-payload '{\"width\": 640}'
  flyball submit --file tasks.jsonl

A command runs in this folder, with this environment and umask, if the daemon is
asked over its socket. Over TCP only its arguments are sent, and it must be
among those that the daemon's configuration allows (`commands`).

With --kind alone the task is for the daemon's handler of that kind, or for
workers that lease it. --file takes one task, a list of tasks, {\"tasks\": […]}, or a
task a line, as POST /v1/tasks has them; each 1,000 are taken whole or not at all.

Exit status: 0 taken and on disk, 2 wrong usage, 3 the daemon cannot be
reached, 4 it refused. With --wait that of the command (128 and the signal, if
one ended it), 1 where there is none.";

const WHAT: &str = "What";
const WHEN: &str = "When";
const RETRY: &str = "How long, how often";
const NEEDS: &str = "What must be free";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, override_usage = "\
flyball submit [OPTIONS] [--] COMMAND…
       flyball submit [OPTIONS] --url URL
       flyball submit [OPTIONS] --kind KIND
       flyball submit --file FILE")]
pub(crate) struct Submit {
    /// Scheduling class [default: normal]
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Within the class, higher first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Name of what it is, for figures, limits and filters [default: the program's name, or the URL's host]
    #[arg(long, value_name = "NAME")]
    kind: Option<String>,
    /// To find it by; several
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,
    /// Fairness key: inside a class keys take turns
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Group in which it is counted
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Makes a repeated request one: it is answered with the ids of the first
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// At most one running and one waiting task of a key; when another one comes, the one that waits stays (keep, the default), takes the new
    /// one's payload (replace), or that and its time (extend)
    #[arg(long, value_name = "KEY[:keep|replace|extend]", value_parser = parse_unique)]
    unique: Option<build::Unique>,
    /// Wait until it has ended, and exit as it did
    #[arg(short, long, conflicts_with_all = ["cron", "json"])]
    wait: bool,
    /// Do not print the id
    #[arg(short, long)]
    quiet: bool,

    /// Call this URL
    #[arg(long, value_name = "URL", conflicts_with_all = ["command", "file"], help_heading = WHAT)]
    url: Option<String>,
    /// With --url: GET, POST, … [default: GET, or POST with a payload]
    #[arg(short = 'X', long, value_name = "METHOD", requires = "url", help_heading = WHAT)]
    method: Option<String>,
    /// With --url: a header field; several
    #[arg(short = 'H', long, value_name = "NAME:VALUE", requires = "url", help_heading = WHAT, value_parser = build::parse_header)]
    header: Vec<(String, String)>,
    /// JSON for who runs it, or for --url; @FILE from a file, @- from standard input
    #[arg(long, value_name = "JSON|@FILE", conflicts_with_all = ["command", "file"], help_heading = WHAT)]
    json_payload: Option<String>,
    /// The same, for text
    #[arg(long, value_name = "TEXT|@FILE", conflicts_with_all = ["command", "file", "json_payload"], help_heading = WHAT)]
    payload: Option<String>,
    /// Tasks as JSON; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["command", "class", "priority", "kind", "label", "key", "group", "unique", "after", "after_group",
        "on_parent_failure", "not_before", "delay", "deadline", "cron", "timeout", "retries", "retry_delay", "retry_on_failure", "cpu", "memory", "resource", "cwd", "env"], help_heading = WHAT)]
    file: Option<PathBuf>,
    /// Folder of the command [default: this one]
    #[arg(long, value_name = "DIR", help_heading = WHAT)]
    cwd: Option<PathBuf>,
    /// A variable of the command; several. NAME alone: as it is here
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = WHAT)]
    env: Vec<OsString>,

    /// Only after this task has completed, or failed, or either; several
    #[arg(long, value_name = "ID[:success|failure|any]", help_heading = WHEN, value_parser = parse_after)]
    after: Vec<(u64, Outcome)>,
    /// What becomes of it when one of them ends otherwise [default: skip]
    #[arg(long, value_name = "WHAT", requires = "after", help_heading = WHEN)]
    on_parent_failure: Option<OnParentFailure>,
    /// Only after all tasks of a group have ended; with :success if all completed, with :failure if one did not
    #[arg(long, value_name = "GROUP[:success|failure|any]", help_heading = WHEN, value_parser = build::parse_after_group)]
    after_group: Option<(String, Outcome)>,
    /// Not before a time (RFC 3339)
    #[arg(long, value_name = "TIME", help_heading = WHEN, value_parser = parse_moment)]
    not_before: Option<Time>,
    /// Not before so long from now
    #[arg(long, value_name = "DURATION", conflicts_with = "not_before", help_heading = WHEN, value_parser = parse_time)]
    delay: Option<Duration>,
    /// It must have started by a time (RFC 3339), or within a duration from now
    #[arg(long, value_name = "TIME|DURATION", help_heading = WHEN, value_parser = build::parse_deadline)]
    deadline: Option<Time>,
    /// Each time that this expression says: five or six fields, or @hourly, @daily, …
    #[arg(long, value_name = "EXPRESSION", help_heading = WHEN)]
    cron: Option<String>,
    /// With --cron: whose time [default: UTC]
    #[arg(long, value_name = "AREA/CITY", requires = "cron", help_heading = WHEN)]
    time_zone: Option<String>,
    /// With --cron: what happens while the last run goes on [default: skip]
    #[arg(long, value_name = "WHAT", requires = "cron", help_heading = WHEN)]
    overlap: Option<Overlap>,
    /// With --cron: what happens to times at which no daemon ran [default: skip]
    #[arg(long, value_name = "WHAT", requires = "cron", help_heading = WHEN)]
    missed: Option<Missed>,

    /// End an attempt that runs longer [default: the daemon's commands.timeout, a day, for commands; else its cpu_scheduler.task_timeout]
    #[arg(long, value_name = "DURATION", help_heading = RETRY, value_parser = build::parse_timeout)]
    timeout: Option<Duration>,
    /// Attempts in all, also when the command fails [default: the daemon's scheduler.retry_attempts, which a failing command does not use]
    #[arg(long, value_name = "N", help_heading = RETRY, value_parser = clap::value_parser!(u32).range(1..=1000))]
    retries: Option<u32>,
    /// Before the second attempt at most so long, twice as long before the third, and so on [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = RETRY, value_parser = parse_time)]
    retry_delay: Option<Duration>,
    /// Try a command that fails again, as often as the daemon's scheduler.retry_attempts says
    #[arg(long, help_heading = RETRY)]
    retry_on_failure: bool,

    /// CPUs that it takes, such as 2 or 0.5
    #[arg(long, value_name = "N", help_heading = NEEDS, value_parser = parse_cpu)]
    cpu: Option<f64>,
    /// Memory that it takes, such as 500M
    #[arg(long, value_name = "SIZE", help_heading = NEEDS, value_parser = flyball_core::units::parse_size)]
    memory: Option<u64>,
    /// Of a resource that the daemon counts (scheduler.resources), such as gpu=1; several
    #[arg(long, value_name = "NAME=N", help_heading = NEEDS, value_parser = parse_needed)]
    resource: Vec<(String, u32)>,

    #[command(flatten)]
    reach: Reach,
    /// The command. One word with shell syntax runs by $SHELL -c
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnParentFailure {
    /// It is skipped
    Skip,
    /// It fails
    Fail,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Overlap {
    /// This run is left out
    Skip,
    /// It waits
    Queue,
    /// The last one is cancelled
    Replace,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Missed {
    /// Nothing
    Skip,
    /// One run for all of them
    Once,
    /// A run for each, at most 100
    All,
}

/// What was taken: one, or a batch.
#[derive(Deserialize)]
#[serde(untagged)]
enum Taken {
    Batch { tasks: Vec<AcceptedView> },
    One(AcceptedView),
}

pub(crate) fn run(options: Submit) -> ExitCode {
    with_status(&options.reach, |session| submit(session, &options))
}

fn submit(session: &Session, options: &Submit) -> Result<u8, Failure> {
    let ids = match &options.file {
        Some(file) => from_file(session, options, file)?,
        None => {
            let task = build::task(options, session.client.is_local())?;
            // Plain data: writing it cannot fail.
            let body = serde_json::to_vec(&task).unwrap_or_default();
            send(session, options, body)?
        }
    };
    if !options.wait {
        return Ok(0);
    }
    let mut ended: Vec<TaskView> = Vec::new();
    let waited = wait_for(session, &ids, None, &mut |task| ended.push(task.clone()))?;
    debug_assert_eq!(waited, Waited::All);
    // Of several the first that did not complete says how it went.
    ended.sort_by_key(|task| task.id.parse::<u64>().unwrap_or(u64::MAX));
    let failed = ended.iter().find(|task| exit_status(task) != 0);
    if let Some(task) = failed {
        note(&super::tasks::ending(task));
    }
    Ok(failed.map_or(0, exit_status))
}

/// Sends one task or one batch, prints the ids, and answers them.
fn send(session: &Session, options: &Submit, body: Vec<u8>) -> Result<Vec<u64>, Failure> {
    let key = options.idempotency_key.as_deref();
    let reply = session
        .client
        .send_bytes(Method::POST, "/v1/tasks", body, key)?;
    let taken = match reply.read()? {
        Taken::One(task) => vec![task],
        Taken::Batch { tasks } => tasks,
    };
    if session.json {
        put(&String::from_utf8_lossy(&document(&reply)));
    } else if !options.quiet {
        let ids = taken.iter().map(|task| inert(&task.id) + "\n");
        put(&ids.collect::<String>());
    }
    taken
        .iter()
        .map(|task| {
            parse_id(&task.id).map_err(|_| {
                Failure::Broken(format!(
                    "{:?}, which the daemon answered, is no id of a task",
                    task.id
                ))
            })
        })
        .collect()
}

fn from_file(
    session: &Session,
    options: &Submit,
    path: &std::path::Path,
) -> Result<Vec<u64>, Failure> {
    let bodies = file::bodies(path, session.client.is_local())?;
    if bodies.len() > 1 && options.idempotency_key.is_some() {
        return Err(Failure::Usage(
            "these are several batches, which one idempotency key cannot stand for".to_owned(),
        ));
    }
    let mut ids = Vec::new();
    for body in bodies {
        let sent = send(session, options, body);
        if let (Err(_), true) = (&sent, !ids.is_empty()) {
            note(&format!(
                "{} tasks of the batches before were taken",
                ids.len()
            ));
        }
        ids.extend(sent?);
    }
    Ok(ids)
}
