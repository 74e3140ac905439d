//! Running other programs, and telling the time that passed.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

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

/// Runs it, shows its standard output as it comes, and hands each line to `line`. Answers whether it succeeded.
pub(crate) fn watch(mut command: Command, mut line: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let output = child.stdout.take().context("its output is piped")?;
    for text in BufReader::new(output).split(b'\n') {
        let text = String::from_utf8_lossy(&text?).into_owned();
        println!("{text}");
        line(&text);
    }
    Ok(child.wait()?.success())
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
