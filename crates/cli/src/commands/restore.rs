//! `flyball restore`: puts a copy of the queue into a state folder that no daemon uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use flyball_tasks::Embedded;
use serde_json::json;

use super::finish;
use crate::client::Failure;
use crate::serve::{Refusal, State};
use crate::show::inert;

const EXAMPLES: &str = "\
Examples:
  flyball restore tasks.db --state-dir /var/lib/flyball
  flyball restore tasks.db --state-dir ~/.local/state/flyball --force

The copy is checked first: a damaged one changes nothing. A store that was
there is kept beside the new one as queue/tasks.db.replaced. Tasks that ran when
the copy was made start again.

Exit status: 0 done, 1 it cannot be read or written, 2 wrong usage, 4 refused:
a daemon runs there, or the folder is not empty and --force is not given.";

/// The store's folder in the state folder.
const QUEUE: &str = "queue";
/// What a state folder holds before there is anything in it.
const LOCK: &str = "lock";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Restore {
    /// What `flyball backup` wrote
    file: PathBuf,
    /// The state folder to put it into
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Also into a folder that is not empty
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Restore) -> ExitCode {
    finish(restore(options))
}

fn restore(options: &Restore) -> Result<Vec<u8>, Failure> {
    let name = |path: &Path| inert(&path.to_string_lossy());
    let (file, folder) = (&options.file, &options.state_dir);
    if let Err(error) = fs::File::open(file) {
        return Err(Failure::Broken(format!(
            "cannot read {}: {error}",
            name(file)
        )));
    }
    let full = fs::read_dir(folder).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK))
    });
    // Held before it is judged: whether a daemon runs there is the first thing to know.
    let state = State::open(folder).map_err(|refusal| match refusal {
        Refusal::Held(text) | Refusal::Unfit(text) => Failure::Refused(text),
    })?;
    if full && !options.force {
        return Err(Failure::Refused(format!(
            "{} is not empty; --force puts the copy there all the same, and keeps the store that is there as {QUEUE}/tasks.db.replaced",
            name(folder)
        )));
    }
    let checked = Embedded::restore(file, &state.path().join(QUEUE)).map_err(|error| {
        Failure::Broken(format!(
            "nothing was restored: {}",
            inert(&error.to_string())
        ))
    })?;
    if options.json {
        let line = json!({ "tasks": checked.tasks, "state_dir": state.path().to_string_lossy() });
        return Ok(format!("{line}\n").into_bytes());
    }
    let tasks = if checked.tasks == 1 { "task" } else { "tasks" };
    let text = format!("{} {tasks} restored into {}\n", checked.tasks, name(folder));
    Ok(text.into_bytes())
}
