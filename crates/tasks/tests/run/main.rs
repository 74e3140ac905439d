//! Tasks run as a program runs them: real handlers in a real executor, real processes, a real HTTP server; the queue is one in memory (`fake`)
//! where a test must script what it answers.
//!
//! No harness, because [`flyball_process::init`] must come first in `main`: this binary is its own spawn server, and its own helper commands
//! (`helper`). Nothing sleeps: what must happen is waited for where it shows.

mod breakers;
mod commands;
mod drain;
mod durable;
mod fake;
mod gates;
mod handlers;
mod helper;
mod http;
mod preempt;
mod stage;
mod turns;

use std::io::Write;

type Test = (&'static str, fn());

fn main() {
    flyball_process::init();
    if helper::run() {
        return;
    }
    let tests: Vec<Test> = [
        handlers::TESTS,
        drain::TESTS,
        durable::TESTS,
        breakers::TESTS,
        gates::TESTS,
        commands::TESTS,
        preempt::TESTS,
        http::TESTS,
        turns::TESTS,
    ]
    .concat();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted = |name: &str| {
        let fits = |filter: &&String| {
            if exact {
                name == **filter
            } else {
                name.contains(filter.as_str())
            }
        };
        filters.is_empty() || filters.iter().any(fits)
    };
    let mut out = std::io::stdout().lock();
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
