//! `flyball tasks`: look at durable tasks, wait for them, cancel and retry them, hold them back.

mod change;
mod events;
mod filter;
mod look;
mod output;
mod pause;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Paging, STATUS, with_session, with_status};
use crate::client::Reach;
pub(super) use events::{Waited, wait_for};
use filter::Which;
pub(super) use words::{ending, exit_status};

const EXAMPLES: &str = "\
Examples:
  flyball tasks                              the newest, at a glance
  flyball tasks list --state dead,failed     what went wrong
  flyball tasks why 17                       what task 17 waits for
  flyball tasks output 17 --follow           what it writes, as it writes
  flyball tasks wait 17 18 && echo both done
  flyball tasks retry --state dead --kind mail --yes
  flyball tasks pause --class batch

`flyball submit` submits tasks.";

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"))]
pub(crate) struct Tasks {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List tasks, newest first (what `flyball tasks` does)
    #[command(after_help = "\
Examples:
  flyball tasks list
  flyball tasks list --state live --class batch
  flyball tasks list --label team=video -n 500
  flyball tasks list --state dead -q | xargs flyball tasks retry
  flyball tasks list --json --limit 10 | jq '.items[].id'")]
    List {
        /// At most so many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
        last: usize,
        /// Ids only, a line each
        #[arg(short, long, conflicts_with = "json")]
        quiet: bool,
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        which: Which,
    },
    /// Show everything about tasks
    #[command(after_help = "Example:\n  flyball tasks show 17")]
    Show {
        #[command(flatten)]
        ids: Ids,
    },
    /// Say what tasks wait for now
    #[command(after_help = "Example:\n  flyball tasks why 17")]
    Why {
        #[command(flatten)]
        ids: Ids,
    },
    /// Cancel tasks, by id or by filter
    #[command(after_help = "\
Examples:
  flyball tasks cancel 17 18
  flyball tasks cancel --kind report --reason 'wrong month'
  flyball tasks cancel --state pending --class batch --yes

Those that run are asked to stop, and killed if they do not. With ids: all of
them, or none. With a filter: how many there are is said, and asked about.")]
    Cancel {
        /// Why, for people to read later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        selection: Selection,
    },
    /// Give tasks that ended without success fresh attempts, by id or by filter
    #[command(after_help = "\
Examples:
  flyball tasks retry 17
  flyball tasks retry --state dead --kind mail
  flyball tasks retry --state dead --yes")]
    Retry {
        #[command(flatten)]
        selection: Selection,
    },
    /// Print what a command wrote
    #[command(after_help = "\
Examples:
  flyball tasks output 17
  flyball tasks output 17 --stderr
  flyball tasks output 17 --follow

Bytes as they were written. The last attempt's are kept, up to a bound; how
many were beyond it is said.")]
    Output {
        /// The task
        #[arg(value_parser = parse_id)]
        id: u64,
        /// What went to standard error, in place of standard output
        #[arg(short = 'e', long)]
        stderr: bool,
        /// Wait for its start, and go on until it has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Wait until tasks have ended
    #[command(after_help = "\
Examples:
  flyball tasks wait 17 18
  flyball tasks wait 17 --timeout 10m

Exit status: 0 all completed, 1 some did not or the time is over, 2 wrong
usage, 3 the daemon cannot be reached, 4 it refused. A daemon that is restarted
meanwhile is waited for.")]
    Wait {
        #[command(flatten)]
        ids: Ids,
        /// No longer than this
        #[arg(long, value_name = "DURATION", value_parser = crate::run::parse_time)]
        timeout: Option<Duration>,
    },
    /// Show what happens to tasks, as it happens
    #[command(after_help = "\
Examples:
  flyball tasks follow
  flyball tasks follow 17 18      until both have ended
  flyball tasks follow --class batch --kind report")]
    Follow {
        /// Only these; it ends when they have
        #[arg(value_name = "ID", value_parser = parse_id)]
        ids: Vec<u64>,
        /// Only of this class
        #[arg(long, value_name = "NAME")]
        class: Option<String>,
        /// Only of this kind
        #[arg(long, value_name = "NAME")]
        kind: Option<String>,
    },
    /// Start no more tasks of a kind, of a class, or at all; survives restarts
    #[command(after_help = "\
Examples:
  flyball tasks pause --kind mail
  flyball tasks pause --class batch
  flyball tasks pause --all

What runs goes on. Tasks are still taken.")]
    Pause(pause::Scope),
    /// Take a pause back
    #[command(after_help = "Example:\n  flyball tasks resume --kind mail")]
    Resume(pause::Scope),
    /// Show figures of the queue: tasks by state, class and kind, what is paused
    #[command(after_help = "Example:\n  flyball tasks stats")]
    Stats,
}

/// Tasks by id.
#[derive(Args, Debug)]
struct Ids {
    /// The tasks
    #[arg(value_name = "ID", required = true, value_parser = parse_id)]
    ids: Vec<u64>,
}

/// Tasks by id, or by what they have in common.
#[derive(Args, Debug)]
struct Selection {
    /// The tasks: all of them are changed, or none
    #[arg(value_name = "ID", value_parser = parse_id)]
    ids: Vec<u64>,
    /// With a filter: do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    which: Which,
}

/// The number of a task.
pub(super) fn parse_id(text: &str) -> Result<u64, String> {
    flyball_engine::view::tasks::parse_id(text)
        .map(|id| id.0)
        .ok_or_else(|| "expected the number of a task, such as 17".to_owned())
}

pub(crate) fn run(options: Tasks) -> ExitCode {
    let Tasks { action, reach } = options;
    let action = action.unwrap_or(Action::List {
        which: Which::default(),
        last: 50,
        quiet: false,
        paging: Paging::default(),
    });
    match action {
        Action::List {
            which,
            last,
            quiet,
            paging,
        } => with_session(&reach, |session| {
            look::list(session, &which, last, quiet, &paging)
        }),
        Action::Show { ids } => with_session(&reach, |session| look::show(session, &ids.ids)),
        Action::Why { ids } => with_session(&reach, |session| look::why(session, &ids.ids)),
        Action::Stats => with_session(&reach, look::stats),
        Action::Cancel { selection, reason } => with_session(&reach, |session| {
            change::run(session, &change::Change::Cancel { reason }, &selection)
        }),
        Action::Retry { selection } => with_session(&reach, |session| {
            change::run(session, &change::Change::Retry, &selection)
        }),
        Action::Output { id, stderr, follow } => {
            with_status(&reach, |session| output::run(session, id, stderr, follow))
        }
        Action::Wait { ids, timeout } => {
            with_status(&reach, |session| events::wait(session, &ids.ids, timeout))
        }
        Action::Follow { ids, class, kind } => with_status(&reach, |session| {
            events::follow(session, ids, class.as_deref(), kind.as_deref())
        }),
        Action::Pause(scope) => with_session(&reach, |session| pause::run(session, &scope, true)),
        Action::Resume(scope) => with_session(&reach, |session| pause::run(session, &scope, false)),
    }
}
