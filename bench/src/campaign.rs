//! Runs samples: each in a process of its own, rounds over all cases, peers in turns, on a machine as quiet as it gets.

use crate::cases::{Case, Sample};
use crate::machine::{Machine, wait_for_quiet};
use crate::plan::Entry;
use crate::report::{Report, Rounds, Row, rows_of};
use crate::subjects::Subject;
use crate::sys;
use anyhow::{Context, Result, bail, ensure};
use std::io::Read;
use std::process::{Command, Stdio};

/// How a campaign is to be run.
pub struct Options {
    pub quick: bool,
    pub rounds: usize,
    /// Only cases whose name contains this.
    pub filter: Option<String>,
    /// Iterations a microsecond.
    pub per_us: f64,
}

/// Times a void or failed sample is taken again.
const RETRIES: usize = 2;

/// What may be spent on waiting for a quiet machine, over all and for one sample.
struct Patience {
    left_ns: u64,
    each_ns: u64,
}

impl Patience {
    fn new(quick: bool) -> Self {
        match quick {
            true => Patience {
                left_ns: 10_000_000_000,
                each_ns: 1_000_000_000,
            },
            false => Patience {
                left_ns: 900_000_000_000,
                each_ns: 20_000_000_000,
            },
        }
    }

    fn wait(&mut self) {
        let limit = self.each_ns.min(self.left_ns);
        if limit > 0 {
            // The first look, 200 ms, is the measurement itself; only what a busy machine cost is deducted.
            self.left_ns -= wait_for_quiet(limit)
                .saturating_sub(200_000_000)
                .min(self.left_ns);
        }
    }
}

fn sample_once(case: &Case, subject: Subject, per_us: f64) -> Result<Sample> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            "sample",
            "--subject",
            &subject.name(),
            "--per-us",
            &per_us.to_string(),
        ])
        .args(["--case", &serde_json::to_string(case)?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a sample")?;
    let deadline = sys::now_ns() + ((case.expected_seconds() * 2.0 + 20.0) * 1e9) as u64;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if sys::now_ns() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("took too long and was ended");
        }
        sys::sleep_until_ns(sys::now_ns() + 10_000_000);
    };
    ensure!(status.success(), "ended with {status}");
    let mut text = String::new();
    child
        .stdout
        .take()
        .context("its output is piped")?
        .read_to_string(&mut text)?;
    let sample: Sample =
        serde_json::from_str(&text).with_context(|| format!("its answer {text:?}"))?;
    match &sample.void {
        Some(reason) => bail!("void: {reason}"),
        None => Ok(sample),
    }
}

fn headline(sample: &Sample) -> String {
    const SHOWN: &[&str] = &[
        "ns_per_task",
        "ratio_to_single",
        "ns_per_round_trip",
        "ns_per_yield",
        "wakeups_per_s",
        "rtt_p50_us",
        "p50_us",
        "p99_us",
        "backlog_of_left",
        "worst_error_points",
        "jain",
        "bytes_beyond_captures",
        "idle_ticks",
        "us_per_sample",
        "allocations_per_sample",
        "cpu_percent",
        "resident_mb",
        "threads",
        "ready_ms",
        "end_ms",
        "enqueues_per_s",
        "cycles_per_s",
        "generator_cores",
        "server_cores",
        "grown_ratio",
        "grown_cpu_ratio",
        "memory_bytes_per_task",
        "disk_bytes_per_task",
        "ready_after_kill_ms",
        "goodput_per_s",
        "goodput_of_capacity",
        "urgent_goodput_per_s",
        "accepted_p50_ms",
        "accepted_p99_ms",
        "refused_share",
        "idle_p99_ms",
        "urgent_p99_ms",
        "urgent_refused_share",
        "ns_per_admission",
        "ns_sampled",
    ];
    let values = SHOWN
        .iter()
        .filter_map(|&name| Some((name, sample.metrics.get(name)?)));
    values
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Runs all entries and reports.
pub fn run(area: &str, entries: &[Entry], options: &Options) -> Result<Report> {
    let wanted = |entry: &&Entry| {
        options
            .filter
            .as_ref()
            .is_none_or(|part| entry.case.name().contains(part))
    };
    let entries: Vec<&Entry> = entries.iter().filter(wanted).collect();
    ensure!(!entries.is_empty(), "no case matches the filter");
    let mut machine = Machine::look(options.quick, options.rounds);
    let mut patience = Patience::new(options.quick);
    let samples: usize = entries
        .iter()
        .map(|entry| entry.rounds * entry.subjects.len())
        .sum();
    let begun = sys::now_ns();
    let mut taken = 0;
    let mut gathered: Vec<Rounds> = vec![Rounds::new(); entries.len()];
    for round in 0..entries.iter().map(|entry| entry.rounds).max().unwrap_or(0) {
        for (entry, rounds) in entries
            .iter()
            .zip(&mut gathered)
            .filter(|(entry, _)| round < entry.rounds)
        {
            for turn in 0..entry.subjects.len() {
                // Whoever went first goes last in the next round.
                let subject = entry.subjects[(turn + round) % entry.subjects.len()];
                patience.wait();
                taken += 1;
                let passed = (sys::now_ns() - begun) as f64 / 1e9;
                let left = passed / taken as f64 * (samples - taken) as f64;
                eprint!(
                    "[{taken:>4}/{samples}, {passed:.0} s, about {left:.0} s left] {} · {}: ",
                    entry.case.name(),
                    subject.name()
                );
                let mut outcome = sample_once(&entry.case, subject, options.per_us);
                for _ in 0..RETRIES {
                    if let Err(error) = &outcome {
                        eprint!("{error:#}; again: ");
                        outcome = sample_once(&entry.case, subject, options.per_us);
                    }
                }
                match &outcome {
                    Ok(sample) => {
                        eprintln!("{}", headline(sample));
                        if let Some(share) = sample.foreign_share {
                            let largest = machine.foreign_share_max.unwrap_or(0.0).max(share);
                            machine.foreign_share_max = Some(largest);
                        }
                    }
                    Err(error) => eprintln!("no sample: {error:#}"),
                }
                rounds.entry(subject.name()).or_default().push(outcome.ok());
            }
        }
    }
    #[cfg(feature = "overload")]
    gathered.iter_mut().for_each(crate::overload::add_oracle);
    let rows: Vec<Row> = entries
        .iter()
        .zip(&gathered)
        .flat_map(|(entry, rounds)| rows_of(&entry.case.name(), rounds))
        .collect();
    Ok(Report {
        area: area.to_owned(),
        machine,
        rows,
    })
}
