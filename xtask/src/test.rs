//! `cargo xtask test`: everything that CI checks, in the order of what fails fastest.
//!
//! All steps run, also after one failed, so that one run shows everything. At the end stand the times, the steps that
//! failed, and, where every test program told its result, the number of tests that passed and failed.

use crate::commands::{Watch, cargo, check, stdout_of, watch};
use crate::workspace::{self, Package};
use crate::{layers, requirements};
use anyhow::{Result, bail, ensure};
use std::process::Command;

/// Every optional part at once; `loom` stands apart, as it puts other primitives in place of the real ones.
const FEATURES: [&str; 2] = [
    "--features",
    "flyball/engine,flyball/process,flyball/rayon,flyball/tasks,flyball/testing,flyball/tower,flyball/tracing,flyball/watch,flyball-engine/openapi",
];

/// Packages with optional parts, which must also do without them.
const BARE: [&str; 3] = ["flyball", "flyball-executor", "flyball-engine"];

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
}

/// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; test programs with a harness of their own may
/// leave words out, but both numbers must be there.
fn tally_of(line: &str) -> Option<Tally> {
    let words: Vec<&str> = line
        .strip_prefix("test result: ")?
        .split_whitespace()
        .collect();
    let count = |name: &str| {
        let pair = words
            .windows(2)
            .find(|pair| pair[1].trim_end_matches([';', ',']) == name)?;
        pair[0].parse().ok()
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
    })
}

/// Whether it is the line `running 12 tests`, which the standard harness prints before anything else.
fn begins_a_program(line: &str) -> bool {
    let count = line
        .strip_prefix("running ")
        .and_then(|rest| rest.split_once(" test"));
    count.is_some_and(|(count, rest)| count.parse::<u64>().is_ok() && matches!(rest, "" | "s"))
}

/// What a run of all steps found so far.
struct Session {
    failures: Vec<String>,
    tally: Tally,
    /// False once a step with tests ended without having told all its results.
    tally_is_whole: bool,
}

impl Session {
    fn step(&mut self, name: &str, step: impl FnOnce(&mut Self) -> Result<()>) {
        println!("\n==> {name}");
        let time = Watch::start();
        match step(self) {
            Ok(()) => println!("    {name}: {}", time.passed()),
            Err(error) => {
                println!("    {name}: FAILED after {}: {error:#}", time.passed());
                self.failures.push(name.to_owned());
            }
        }
    }

    /// Runs tests and adds up their results.
    fn tests(&mut self, command: Command) -> Result<()> {
        let mut own = Tally::default();
        let (mut programs, mut unfinished, mut lost) = (0, false, false);
        let succeeded = watch(command, |line| {
            if begins_a_program(line) {
                lost |= unfinished;
                unfinished = true;
            } else if let Some(tally) = tally_of(line) {
                own.passed += tally.passed;
                own.failed += tally.failed;
                programs += 1;
                unfinished = false;
            }
        });
        self.tally.passed += own.passed;
        self.tally.failed += own.failed;
        // A failure without a failed test is a program that did not compile, crashed or was ended: its results are unknown.
        if !matches!(&succeeded, Ok(succeeded) if *succeeded == (own.failed == 0)) || programs == 0
        {
            self.tally_is_whole = false;
        }
        ensure!(
            succeeded?,
            "{} of {} tests failed",
            own.failed,
            own.passed + own.failed
        );
        Ok(())
    }
}

fn documentation() -> Result<()> {
    let mut command = cargo(&["doc", "--workspace", "--lib", "--no-deps", "--quiet"]);
    command.args(FEATURES);
    command.env("RUSTDOCFLAGS", "-D warnings");
    check(command)
}

/// The same seed must print the same bytes; a figure that depends on the time or on addresses has no place there.
fn simulator_repeats() -> Result<()> {
    const RUN: [&str; 7] = [
        "--",
        "--workers",
        "1000",
        "--tasks",
        "200000",
        "--seed",
        "7",
    ];
    let run = || {
        let mut command = cargo(&[
            "run",
            "--release",
            "--quiet",
            "--package",
            "flyball-sim",
            "--bin",
            "flyball-sim",
        ]);
        command.args(RUN);
        stdout_of(command)
    };
    let (first, second) = (run()?, run()?);
    ensure!(!first.is_empty(), "the simulator printed nothing");
    ensure!(first == second, "two runs of one seed differ");
    println!(
        "    two runs of one seed printed the same {} bytes",
        first.len()
    );
    Ok(())
}

/// Runs all steps.
pub(crate) fn run() -> Result<()> {
    let time = Watch::start();
    let packages = workspace::packages()?;
    let has = |name: &str, kind: &str, target: &str| {
        packages
            .iter()
            .any(|package: &Package| package.name == name && package.has(kind, target))
    };
    let mut session = Session {
        failures: Vec::new(),
        tally: Tally::default(),
        tally_is_whole: true,
    };
    session.step("format", |_| {
        check(cargo(&["fmt", "--all", "--check"]))?;
        check(cargo(&[
            "fmt",
            "--manifest-path",
            "bench/Cargo.toml",
            "--check",
        ]))
    });
    session.step("layers", |_| layers::run());
    session.step("requirements", |_| requirements::run());
    session.step("no_std", |_| {
        check(cargo(&[
            "check",
            "--package",
            "flyball-core",
            "--no-default-features",
        ]))?;
        check(cargo(&[
            "check",
            "--package",
            "flyball-policy",
            "--no-default-features",
        ]))
    });
    session.step("without optional parts", |_| {
        BARE.iter().try_for_each(|package| {
            check(cargo(&[
                "clippy",
                "--package",
                package,
                "--no-default-features",
                "--lib",
                "--",
                "-D",
                "warnings",
            ]))
        })
    });
    session.step("clippy", |_| {
        let mut command = cargo(&["clippy", "--workspace", "--all-targets"]);
        command.args(FEATURES).args(["--", "-D", "warnings"]);
        check(command)
    });
    session.step("tests", |session| {
        let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
        command.args(FEATURES);
        session.tests(command)
    });
    session.step("documentation", |_| documentation());
    let modelled = ["flyball-executor", "flyball-limit"];
    for package in modelled
        .into_iter()
        .filter(|name| has(name, "test", "loom"))
    {
        session.step(&format!("loom models of {package}"), |session| {
            let models = ["--package", package, "--features", "loom", "--test", "loom"];
            let mut command = cargo(&["test", "--release", "--no-fail-fast"]);
            command.args(models);
            session.tests(command)
        });
    }
    if has("flyball-sim", "bin", "flyball-sim") {
        session.step("simulator repeats", |_| simulator_repeats());
    }
    session.step("benchmark programs", |session| {
        let bench = ["--manifest-path", "bench/Cargo.toml"];
        let mut clippy = cargo(&["clippy", "--all-targets"]);
        clippy.args(bench).args(["--", "-D", "warnings"]);
        check(clippy)?;
        let mut tests = cargo(&["test", "--no-fail-fast"]);
        tests.args(bench);
        session.tests(tests)
    });

    println!("\nall steps: {}", time.passed());
    if session.tally_is_whole {
        println!(
            "{} passed, {} failed",
            session.tally.passed, session.tally.failed
        );
    }
    if !session.failures.is_empty() {
        bail!("failed: {}", session.failures.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_lines_that_cargo_prints() {
        let ok = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(
            tally_of(ok),
            Some(Tally {
                passed: 12,
                failed: 0
            })
        );
        let bad = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(
            tally_of(bad),
            Some(Tally {
                passed: 3,
                failed: 2
            })
        );
        let own = "test result: 40 passed; 1 failed [\"trees::paused\"]";
        assert_eq!(
            tally_of(own),
            Some(Tally {
                passed: 40,
                failed: 1
            })
        );
        assert_eq!(tally_of("test cpu_11 ... ok"), None);
        assert_eq!(tally_of("running 3 tests"), None);
        assert!(begins_a_program("running 3 tests") && begins_a_program("running 1 test"));
        assert!(!begins_a_program("running on 3 tests") && !begins_a_program("test result: ok"));
    }
}
