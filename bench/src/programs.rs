//! The areas whose subject is a program: `flyball run` beside xargs, and the simulator.

use crate::campaign::Options;
use crate::cases::Sample;
use crate::machine::{Machine, wait_for_quiet};
use crate::report::{Report, Rounds, rows_of};
use crate::sys;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Feeds `input` to the command and answers its seconds. Its output is discarded.
fn seconds_of(command: &mut Command, input: &[u8]) -> Result<f64> {
    let begun = sys::now_ns();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let written = child
        .stdin
        .take()
        .context("its input is piped")?
        .write_all(input);
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    written?;
    Ok((sys::now_ns() - begun) as f64 / 1e9)
}

fn report(area: &str, case: &str, rounds: &Rounds, options: &Options) -> Report {
    let machine = Machine::look(options.quick, options.rounds);
    Report {
        area: area.to_owned(),
        machine,
        rows: rows_of(case, rounds),
    }
}

/// Commands a second of `flyball run` and of xargs over the same 2,000 inputs, two at a time.
pub fn run(program: &Path, options: &Options) -> Result<Report> {
    const COMMANDS: usize = 2_000;
    let input: Vec<u8> = (1..=COMMANDS)
        .flat_map(|number| format!("{number}\n").into_bytes())
        .collect();
    let mut rounds = Rounds::new();
    for round in 0..options.rounds {
        let mut subjects = ["flyball", "xargs"];
        subjects.rotate_left(round % 2);
        for subject in subjects {
            wait_for_quiet(if options.quick {
                1_000_000_000
            } else {
                20_000_000_000
            });
            let mut command = match subject {
                "flyball" => Command::new(program),
                _ => Command::new("xargs"),
            };
            match subject {
                "flyball" => command.args(["run", "--jobs", "2", "--", "true"]),
                _ => command.args(["-P2", "-n1", "true"]),
            };
            let seconds = seconds_of(&mut command, &input)?;
            let rate = COMMANDS as f64 / seconds;
            eprintln!(
                "[round {}/{}] {subject}: {rate:.0} commands a second",
                round + 1,
                options.rounds
            );
            let sample = Sample::default().with("commands_per_s", rate);
            rounds
                .entry(subject.to_owned())
                .or_default()
                .push(Some(sample));
        }
    }
    Ok(report("run", "run/2000-true", &rounds, options))
}

/// Tasks a second of the simulator on 1,000 workers; also checks that the same seed prints the same bytes.
pub fn sim(program: &Path, options: &Options) -> Result<Report> {
    let tasks: u64 = if options.quick { 1_000_000 } else { 10_000_000 };
    let mut rounds = Rounds::new();
    for round in 0..options.rounds {
        wait_for_quiet(if options.quick {
            1_000_000_000
        } else {
            20_000_000_000
        });
        let mut command = Command::new(program);
        command.args([
            "--workers",
            "1000",
            "--seed",
            "1",
            "--tasks",
            &tasks.to_string(),
        ]);
        let seconds = seconds_of(&mut command, b"")?;
        let rate = tasks as f64 / seconds;
        eprintln!(
            "[round {}/{}] flyball-sim: {rate:.0} tasks a second",
            round + 1,
            options.rounds
        );
        let sample = Sample::default().with("tasks_per_s", rate);
        rounds
            .entry("flyball".to_owned())
            .or_default()
            .push(Some(sample));
    }
    let case = format!("sim/1000-workers/{}M-tasks", tasks / 1_000_000);
    Ok(report("sim", &case, &rounds, options))
}
