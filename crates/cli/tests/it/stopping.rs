//! Ctrl-C, closed pipes, sudden death.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::flyball;

/// A run whose commands say their process ids on standard error of the run (which all its processes hold) and stay.
struct Staying {
    child: Child,
    out: BufReader<ChildStdout>,
    errors: std::io::PipeReader,
}

fn staying(options: &[&str], script: &str, count: usize) -> Staying {
    let (errors, writer) = std::io::pipe().unwrap();
    let mut command = flyball();
    // One job streams its output, so that the test sees the command start.
    command
        .args(["run", "-j1"])
        .args(options)
        .args([script, ":::", "1"])
        .stdout(Stdio::piped())
        .stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..count {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
    }
    Staying { child, out, errors }
}

fn signal(child: &Child, name: &str) {
    assert!(
        Command::new("kill")
            .args([name, &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

impl Staying {
    /// Waits until every process that held the pipes is gone; answers exit status and what was said.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut said = String::new();
        self.errors.read_to_string(&mut said).unwrap();
        self.out.read_to_string(&mut String::new()).unwrap();
        (code, said)
    }
}

/// TASK-12: Ctrl-C ends every tree, those in other sessions too, and answers 130.
#[test]
fn an_interrupt_stops_cleanly() {
    let run = staying(
        &[],
        "setsid sh -c 'echo up; exec sleep 600' & echo up; sleep 600; : {}",
        2,
    );
    signal(&run.child, "-INT");
    let (code, said) = run.end();
    assert_eq!(code, Some(130));
    assert!(
        said.contains("stopping") && said.contains("stopped"),
        "{said}"
    );
}

/// TASK-12: a second one does not wait for commands that take their time.
#[test]
fn a_second_interrupt_kills() {
    let run = staying(
        &["--kill-after", "1h"],
        "trap 'echo up' TERM; echo up; while :; do sleep 600 & wait; done; : {}",
        1,
    );
    signal(&run.child, "-INT");
    let mut run = run;
    let mut line = String::new();
    run.out.read_line(&mut line).unwrap();
    signal(&run.child, "-INT");
    assert_eq!(run.end().0, Some(130));
}

/// TASK-11: nothing is left when flyball itself is killed.
#[test]
fn sudden_death_leaves_nothing() {
    let run = staying(
        &[],
        "trap '' TERM HUP INT; setsid sh -c 'echo up; exec sleep 600' & echo up; sleep 600; : {}",
        2,
    );
    signal(&run.child, "-KILL");
    assert_eq!(run.end().0, None);
}

/// TASK-12: `flyball run … | head` ends quietly.
#[test]
fn a_closed_pipe_ends_quietly() {
    for jobs in ["-j1", "-j2"] {
        let (errors, writer) = std::io::pipe().unwrap();
        let mut command = flyball();
        command
            .args(["run", jobs, "yes {} | head -c 100000"])
            .stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(writer);
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut stdin = child.stdin.take().unwrap();
        // Inputs without end: only the closed pipe ends this run.
        let feeder =
            std::thread::spawn(
                move || while std::io::Write::write_all(&mut stdin, b"x\n").is_ok() {},
            );
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let status = child.wait().unwrap();
        let mut said = String::new();
        BufReader::new(errors).read_to_string(&mut said).unwrap();
        assert!(!said.contains("flyball:"), "{said}");
        assert!(status.code().is_some());
        feeder.join().unwrap();
    }
}
