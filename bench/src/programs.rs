//! The area whose subject is a program: `flyball run` beside xargs and GNU parallel.

use crate::campaign::Options;
use crate::cases::Sample;
use crate::machine::{Machine, wait_for_quiet};
use crate::queues::find_program;
use crate::report::{Report, Rounds, rows_of};
use crate::sys;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Feeds `input` to the command and answers its seconds. Its output is discarded.
pub fn seconds_of(command: &mut Command, input: &[u8]) -> Result<f64> {
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

/// Inputs of `run`, a command each.
const COMMANDS: usize = 5_000;
/// Of these GNU parallel gets, where it is bounded and needs a while for each.
const FEW_COMMANDS: usize = 200;

/// The subject that holds nothing, and what the other one holds.
#[cfg(feature = "flyball")]
const LIGHT: &str = "nothing-held";
#[cfg(feature = "flyball")]
const HELD_MIB: usize = 512;

/// How commands are run.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Two at a time.
    Plain,
    /// Also only while memory and load allow, which they always do here: what is measured is looking.
    Bounded,
    /// By a program that embeds what starts them, and holds much memory or none.
    #[cfg(feature = "flyball")]
    Held,
}

impl Way {
    fn case(self) -> &'static str {
        match self {
            Way::Plain => "run/5000-true",
            Way::Bounded => "run/5000-true/bounded",
            #[cfg(feature = "flyball")]
            Way::Held => "run/5000-true/512-MiB-held",
        }
    }

    fn subjects(self) -> Vec<&'static str> {
        let mut subjects = match self {
            Way::Plain => vec!["flyball", "xargs", "parallel"],
            Way::Bounded => vec!["flyball", "parallel"],
            #[cfg(feature = "flyball")]
            Way::Held => vec!["flyball", LIGHT],
        };
        if find_program("parallel").is_none() {
            subjects.retain(|&subject| subject != "parallel");
        }
        subjects
    }
}

fn numbers(count: usize) -> Vec<u8> {
    (1..=count)
        .flat_map(|number| format!("{number}\n").into_bytes())
        .collect()
}

/// Starts commands from a process that holds so much memory, two at a time, and prints how many a second.
#[cfg(feature = "flyball")]
pub fn hold(mib: usize, commands: usize) -> Result<()> {
    use flyball_process::{Command, Options, SpawnServer};

    sys::die_with_parent();
    // Not zero, or the kernel would have one page for all.
    let held = vec![1_u8; mib << 20];
    let server = SpawnServer::start(Options::default())?;
    let run = |count: usize| -> Result<()> {
        for _ in 0..count {
            let exit = server.spawn(Command::new("true"))?.wait_blocking()?;
            ensure!(exit.success(), "true failed: {exit:?}");
        }
        Ok(())
    };
    let at_once = |count: usize| {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| run(count / 2));
            run(count - count / 2)?;
            other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    };
    at_once(100)?;
    let begun = sys::now_ns();
    at_once(commands)?;
    let seconds = (sys::now_ns() - begun) as f64 / 1e9;
    println!("{}", commands as f64 / seconds);
    std::hint::black_box(&held);
    Ok(())
}

#[cfg(feature = "flyball")]
fn held_rate(mib: usize) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args(["hold", "--mib", &mib.to_string()])
        .args(["--commands", &COMMANDS.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "it ended with {}: {said}",
        output.status
    );
    let rate = String::from_utf8(output.stdout)?;
    rate.trim()
        .parse()
        .with_context(|| format!("it said {rate:?}"))
}

/// Commands a second of a subject.
fn rate_of(way: Way, subject: &str, flyball: &Path) -> Result<f64> {
    #[cfg(feature = "flyball")]
    if way == Way::Held {
        return held_rate(if subject == LIGHT { 0 } else { HELD_MIB });
    }
    let bounds: &[&str] = match (way, subject) {
        (Way::Bounded, "flyball") => &["--mem", "4G", "--load", "64"],
        (Way::Bounded, _) => &["--memfree", "100M", "--load", "64"],
        _ => &[],
    };
    let mut command = match subject {
        "xargs" => {
            let mut command = Command::new("xargs");
            command.args(["-P2", "-n1", "true"]);
            command
        }
        "parallel" => {
            let mut command = Command::new("parallel");
            // Without its plea for citations, which waits for a terminal or writes a file.
            command
                .args(["--will-cite", "-j2"])
                .args(bounds)
                .arg("true");
            command
        }
        _ => {
            let mut command = Command::new(flyball);
            command.args(["run", "--jobs", "2"]).args(bounds);
            command
        }
    };
    if subject == "flyball" {
        command.args(["--", "true"]);
    }
    let count = match (way, subject) {
        (Way::Bounded, "parallel") => FEW_COMMANDS,
        _ => COMMANDS,
    };
    Ok(count as f64 / seconds_of(&mut command, &numbers(count))?)
}

/// Commands a second of `flyball run`, of xargs and of GNU parallel over the same inputs, two at a time.
pub fn run(program: &Path, options: &Options) -> Result<Report> {
    if find_program("parallel").is_none() {
        eprintln!("GNU parallel is not here and left out: apt install parallel");
    }
    let ways = [
        Way::Plain,
        Way::Bounded,
        #[cfg(feature = "flyball")]
        Way::Held,
    ];
    let wanted = |way: &Way| {
        let part = options.filter.as_ref();
        part.is_none_or(|part| way.case().contains(part))
    };
    let ways: Vec<Way> = ways.into_iter().filter(wanted).collect();
    ensure!(!ways.is_empty(), "no case matches the filter");
    let mut gathered = vec![Rounds::new(); ways.len()];
    for round in 0..options.rounds {
        for (&way, rounds) in ways.iter().zip(&mut gathered) {
            let mut subjects = way.subjects();
            let turn = round % subjects.len();
            subjects.rotate_left(turn);
            for subject in subjects {
                wait_for_quiet(if options.quick {
                    1_000_000_000
                } else {
                    20_000_000_000
                });
                let rate = rate_of(way, subject, program)?;
                eprintln!(
                    "[round {}/{}] {} · {subject}: {rate:.0} commands a second",
                    round + 1,
                    options.rounds,
                    way.case()
                );
                let sample = Sample::default().with("commands_per_s", rate);
                rounds
                    .entry(subject.to_owned())
                    .or_default()
                    .push(Some(sample));
            }
        }
    }
    let rows = ways
        .iter()
        .zip(&gathered)
        .flat_map(|(way, rounds)| rows_of(way.case(), rounds));
    Ok(Report {
        area: "run".to_owned(),
        machine: Machine::look(options.quick, options.rounds),
        rows: rows.collect(),
    })
}
