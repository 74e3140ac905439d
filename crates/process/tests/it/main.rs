//! The crate as its users meet it: a program with its own `main`, real commands, real kills.
//!
//! No harness, because [`flyball_process::init`] must come first in `main`: this binary is its own spawn server, and its own
//! helper commands (`helper`). Nothing sleeps: what must be gone is waited for through pidfds and pipes that close.

mod groups;
mod helper;
mod jobserver;
mod limits;
mod output;
mod sharing;
mod slots;
mod starting;
mod trees;
mod turns;
mod usage;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use flyball_process::{Command, Options, SpawnServer};

type Test = (&'static str, fn());

fn main() {
    if helper::is_uninitialised_program() {
        return helper::without_init();
    }
    flyball_process::init();
    if helper::run() {
        return;
    }
    let tests: Vec<Test> = [
        starting::TESTS,
        trees::TESTS,
        output::TESTS,
        limits::TESTS,
        usage::TESTS,
        slots::TESTS,
        groups::TESTS,
        sharing::TESTS,
        jobserver::TESTS,
        turns::TESTS,
    ]
    .concat();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout().lock();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| {
                if exact {
                    name == *filter
                } else {
                    name.contains(*filter)
                }
            })
    };
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in tests {
            let _ = writeln!(out, "{name}: test");
        }
        return;
    }
    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, test) in tests.into_iter().filter(|(name, _)| wanted(name)) {
        let _ = write!(out, "test {name} ... ");
        let _ = out.flush();
        // In the test's own thread a panic is caught without ending the others.
        let fine = std::thread::spawn(test).join().is_ok();
        let _ = writeln!(out, "{}", if fine { "ok" } else { "FAILED" });
        if fine { passed += 1 } else { failed.push(name) }
    }
    let _ = writeln!(
        out,
        "\ntest result: {passed} passed; {} failed {failed:?}",
        failed.len()
    );
    if !failed.is_empty() {
        drop(out);
        std::process::exit(1);
    }
}

/// A server for one test.
fn server() -> SpawnServer {
    SpawnServer::start(Options::default()).expect("the spawn server starts")
}

/// This binary, for helper commands.
fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program has a path")
}

fn helper(arguments: &[&str]) -> Command {
    Command::new(this_program())
        .arg("--helper")
        .args(arguments.iter().copied())
}

fn shell(script: &str) -> Command {
    Command::new("sh").arg("-c").arg(script)
}

/// A pipe to learn of process ids: children write `PID\n` lines to the returned end, as descriptor of their standard error.
/// Reading to its end proves that every process that held it is gone.
struct Watchline {
    reader: std::io::PipeReader,
}

impl Watchline {
    fn new() -> (Watchline, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (Watchline { reader }, writer)
    }

    /// Reads `count` process ids, as they come.
    fn pids(&mut self, count: usize) -> Vec<i32> {
        let mut text = String::new();
        while text.lines().count() < count || !text.ends_with('\n') {
            let mut byte = [0];
            let got = self.reader.read(&mut byte).expect("the pipe reads");
            assert_eq!(got, 1, "the pipe closed after {text:?}");
            text.push(byte[0] as char);
        }
        text.lines()
            .map(|line| line.trim().parse().expect("a process id"))
            .collect()
    }

    /// Waits, 20 s at most, until nobody holds the other end any more.
    fn assert_closes(mut self) {
        let (done, waited) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            let _ = self.reader.read_to_end(&mut rest);
            let _ = done.send(());
        });
        waited
            .recv_timeout(std::time::Duration::from_secs(20))
            .expect("a process of the tree is still there");
    }
}

/// Whether the process exists and is not a zombie.
fn alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Whether the process id is in the table at all, as a zombie too.
fn exists(pid: i32) -> bool {
    std::fs::exists(format!("/proc/{pid}")).unwrap_or(false)
}

/// Descriptors of a process.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .map(|entries| entries.count())
        .unwrap_or(0)
}

/// Children of a process, zombies too.
fn children(pid: u32) -> Vec<u32> {
    let list =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn duplicate(fd: &impl AsFd) -> std::os::fd::OwnedFd {
    fd.as_fd()
        .try_clone_to_owned()
        .expect("a descriptor can be copied")
}
