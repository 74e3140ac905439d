//! The real binary, as people type it.
//!
//! Nothing sleeps: commands that would run for ever are killed by what is tested, and their end is seen by a pipe that closes.

mod basics;
mod bounds;
mod client;
mod config;
mod daemon;
mod hostile;
mod limits;
mod names;
mod parallel_control;
mod parallel_inputs;
mod parallel_log;
mod parallel_output;
mod parallel_pipe;
mod serve;
mod stopping;
mod tasks;
mod throttling;

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What a run printed and answered.
struct Ran {
    out: Vec<u8>,
    err: String,
    code: i32,
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("the output is text")
    }

    fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }
}

fn flyball() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flyball"));
    command
        .stdin(Stdio::null())
        .env("SHELL", "/bin/sh")
        .env_remove("NO_COLOR");
    command
}

/// `flyball run ARGUMENTS`.
fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    finish(flyball().arg("run").args(arguments))
}

/// `flyball run ARGUMENTS` with this on standard input.
fn run_with<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
    let mut command = flyball();
    command
        .arg("run")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("flyball starts");
    let mut stdin = child.stdin.take().expect("it has an input");
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("flyball ends");
    let _ = feeder.join();
    ran(output)
}

fn finish(command: &mut Command) -> Ran {
    ran(command.output().expect("flyball runs"))
}

fn ran(output: std::process::Output) -> Ran {
    let code = output.status.code().expect("flyball exits by itself");
    Ran {
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        code,
    }
}

/// A folder for one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("flyball-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Folder(path)
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.0.join(name.as_ref())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
