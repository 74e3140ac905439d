//! Running other programs, and telling the time that passed.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The cargo that runs this program, in the root of the repository.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace::root());
    command
}

/// Runs it; an exit status other than 0 is an error.
pub(crate) fn check(mut command: Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Runs it and answers what it wrote to standard output.
pub(crate) fn stdout_of(mut command: Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a [`watch`]ed program may take at most; a test that hangs must not hold the whole run. A cold build of everything
/// takes about a third of it on two cores.
const WATCH_MAX: Duration = Duration::from_secs(15 * 60);

/// The process and all that descend from it, as /proc shows them now.
fn tree_of(root: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, field 2 of stat(5), stands in parentheses and may contain anything; the parent is field 4.
        stat.rsplit_once(") ")?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let pairs: Vec<(u32, u32)> = pids
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let children = pairs
            .iter()
            .filter(|(_, parent)| *parent == tree[next])
            .map(|(pid, _)| *pid);
        let children: Vec<u32> = children.filter(|pid| !tree.contains(pid)).collect();
        tree.extend(children);
        next += 1;
    }
    tree
}

/// Kills the process and all that descend from it.
fn kill_tree(root: u32) {
    let pids = tree_of(root).into_iter().map(|pid| pid.to_string());
    // Some may have ended meanwhile, about which kill complains; there is nothing to do then.
    let _ = Command::new("kill")
        .arg("-KILL")
        .args(pids)
        .stderr(Stdio::null())
        .status();
}

/// Runs it, shows its standard output as it comes, and hands each line to `line`. Answers whether it succeeded. After a
/// quarter of an hour it is killed with all its children, which is an error.
pub(crate) fn watch(mut command: Command, mut line: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let output = child.stdout.take().context("its output is piped")?;
    let pid = child.id();
    let (ended, end) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        // Nothing is ever sent: the channel closes when the program has ended.
        let late = end.recv_timeout(WATCH_MAX) == Err(RecvTimeoutError::Timeout);
        if late {
            kill_tree(pid);
        }
        late
    });
    let read = BufReader::new(output)
        .split(b'\n')
        .try_for_each(|text| -> Result<()> {
            let text = String::from_utf8_lossy(&text?).into_owned();
            println!("{text}");
            line(&text);
            Ok(())
        });
    let status = child.wait();
    drop(ended);
    let late = guard.join().unwrap_or(false);
    ensure!(
        !late,
        "{command:?} was killed after {} minutes",
        WATCH_MAX.as_secs() / 60
    );
    read?;
    Ok(status?.success())
}

/// Builds a program with `cargo build --release` and these arguments, and answers where it is.
pub(crate) fn build_program(arguments: &[&str], name: &str) -> Result<PathBuf> {
    let mut command = cargo(&[
        "build",
        "--release",
        "--message-format=json-render-diagnostics",
    ]);
    command.args(arguments);
    let messages = stdout_of(command)?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"].as_str() == Some(name);
        message["executable"]
            .as_str()
            .filter(|_| is_it)
            .map(PathBuf::from)
    };
    match messages.lines().filter_map(executable).next_back() {
        Some(program) => Ok(program),
        None => bail!("cargo built no program named {name}"),
    }
}

/// A stopwatch.
pub(crate) struct Watch(Instant);

impl Watch {
    /// Starts it.
    #[expect(
        clippy::disallowed_methods,
        reason = "automation may look at the clock; only flyball itself must not"
    )]
    pub(crate) fn start() -> Self {
        Watch(Instant::now())
    }

    /// Minutes and seconds since.
    pub(crate) fn passed(&self) -> String {
        let seconds = self.0.elapsed().as_secs_f64();
        if seconds < 60.0 {
            format!("{seconds:.1} s")
        } else {
            format!("{} min {:.0} s", (seconds / 60.0) as u64, seconds % 60.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read_line_by_line_and_the_status_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two; exit 3"]);
        let mut lines = Vec::new();
        assert!(!watch(command, |line| lines.push(line.to_owned())).unwrap());
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_killed_tree_takes_its_grandchildren_along() {
        let mut command = Command::new("sh");
        // The shells wait for each other and the innermost for input that never comes.
        command
            .args(["-c", "sh -c 'read line; :'; :"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        while tree_of(child.id()).len() < 2 {
            std::thread::yield_now();
        }
        let tree = tree_of(child.id());
        kill_tree(child.id());
        assert!(!child.wait().unwrap().success());
        // The pipe closes only when the last of the tree, which holds its other end, is gone.
        let mut output = child.stdout.take().unwrap();
        std::io::Read::read_to_end(&mut output, &mut Vec::new()).unwrap();
        assert!(tree.len() >= 2);
    }
}
