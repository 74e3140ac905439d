//! What a careless or hostile user does: full disks, few descriptors, placeholders without inputs, a stopped keeper.

use std::process::Stdio;

use crate::{finish, flyball, run};

fn full() -> Stdio {
    std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("the system has /dev/full")
        .into()
}

/// TASK-12: what could not be written is an error, whatever was to be printed.
#[test]
fn a_full_disk_is_an_error() {
    for arguments in [
        &["run", "--dry-run", "echo", ":::", "a"][..],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ] {
        let ran = finish(flyball().args(arguments).stdout(full()));
        assert_eq!(ran.code, 1, "{arguments:?}");
        assert!(ran.err.contains("cannot write output"), "{}", ran.err);
    }
}

/// TASK-11: output that could not be kept is told, also when quiet, and the run has failed.
#[test]
fn lost_output_is_an_error() {
    let ran = finish(
        flyball()
            .env("TMPDIR", "/nonexistent")
            .args(["run", "-q", "-j2", "seq", ":::", "100000"]),
    );
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("output was lost"), "{}", ran.err);
}

/// TASK-12: what ended a run early stands in the JSON too.
#[test]
fn json_says_what_was_wrong() {
    let ran = run(["--json", "/nonexistent/program", ":::", "a"]);
    assert_eq!(ran.code, 1);
    let line = ran.err.lines().last().expect("a summary");
    let summary: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    let error = summary["error"].as_str().expect("a text");
    assert!(error.contains("no such program"), "{error}");
}

/// TASK-12: fewer descriptors than jobs mean fewer at once, not failures.
#[test]
fn few_descriptors_bound_the_jobs() {
    let script = format!(
        "ulimit -n 40; exec {} run -j 500 echo ::: $(seq 200)",
        env!("CARGO_BIN_EXE_flyball")
    );
    let ran = finish(std::process::Command::new("sh").args(["-c", &script]));
    assert_eq!((ran.code, ran.lines().len()), (0, 200), "{}", ran.err);
    assert!(ran.err.contains("20 at once, no more"), "{}", ran.err);
}

/// TASK-12: a placeholder that no input can fill is a slip of the finger.
#[test]
fn placeholders_need_inputs() {
    for arguments in [
        &["echo", "{3}", ":::", "a", ":::", "b"][..],
        &["echo", "{2}", ":::", "a"],
        &["echo {2/.}; true", ":::", "a"],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}");
        assert!(
            ran.err.contains("the command asks for input"),
            "{}",
            ran.err
        );
    }
    assert_eq!(run(["-n2", "echo", "{2}", ":::", "a", "b"]).text(), "b\n");
}

/// TASK-12: negative numbers are wrong values, not unknown options; so is a timeout of nothing.
#[test]
fn odd_numbers_are_named() {
    for arguments in [["-j", "-5000"], ["--timeout", "-1"], ["--timeout", "0s"]] {
        let ran = run(arguments.into_iter().chain(["echo", ":::", "a"]));
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains("invalid value"), "{}", ran.err);
    }
}

/// TASK-12: the command that reruns is not offered where it could not be pasted.
#[test]
fn what_cannot_be_pasted_is_not_offered() {
    let ran = crate::run_with(["-k", "echo"], b"a\0b\n");
    assert_eq!(ran.code, 1);
    assert!(!ran.err.contains("again, only"), "{}", ran.err);
}

/// TASK-11: a command that stops its keeper does not keep the run from being ended.
#[test]
fn a_stopped_keeper_does_not_hold_the_run() {
    use std::io::{BufRead, BufReader};
    let mut child = flyball()
        .args(["run", "-q", "-j1"])
        .args([
            "sh",
            "-c",
            "echo on; kill -STOP $PPID; sleep 1000",
            ":::",
            "x",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("flyball starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("it runs");
    // Signals of one kind that wait together are one: different ones are three.
    for signal in ["-INT", "-TERM", "-HUP"] {
        let sent = std::process::Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
    }
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    line.clear();
    // Nothing holds the pipe any more.
    assert_eq!(out.read_line(&mut line).expect("it closes"), 0);
}
