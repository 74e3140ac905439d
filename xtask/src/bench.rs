//! `cargo xtask bench`: builds the benchmark, runs an area, and keeps docs/benchmarks.md.

use crate::commands::{build_program, check, stdout_of};
use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What can be measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Area {
    /// Tasks, waking, latency, shares, memory: the executor and other pools
    Executor,
    /// `flyball run` beside xargs and GNU parallel
    Run,
    /// The simulator: its speed, and what it says of pool sizing
    Sim,
    /// Adaptive pool size on real threads, against the best fixed size
    Sizing,
    /// One look at the machine: flyball, sysinfo, procfs; the idle daemon; its API under load
    Sense,
    /// Durable tasks: enqueues and lease cycles beside other queues, a long queue, a start over a million tasks
    Tasks,
    /// A service under more load than it can bear: flyball's gate beside other limiters
    Overload,
}

impl Area {
    fn name(self) -> &'static str {
        match self {
            Area::Executor => "executor",
            Area::Run => "run",
            Area::Sim => "sim",
            Area::Sizing => "sizing",
            Area::Sense => "sense",
            Area::Tasks => "tasks",
            Area::Overload => "overload",
        }
    }
}

/// A run of the benchmark.
pub(crate) struct Request {
    pub(crate) area: Area,
    pub(crate) quick: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) doc: bool,
    pub(crate) rounds: Option<u16>,
    pub(crate) filter: Option<String>,
}

/// Puts `section` between the area's marks, which must both stand in the page.
fn replace_section(page: &str, area: &str, section: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- begin {area} -->"),
        format!("<!-- end {area} -->"),
    );
    let Some((before, rest)) = page.split_once(&begin) else {
        bail!("the page lacks the mark {begin}")
    };
    let Some((_, after)) = rest.split_once(&end) else {
        bail!("the page lacks the mark {end}")
    };
    Ok(format!(
        "{before}{begin}\n{}\n{end}{after}",
        section.trim_end()
    ))
}

fn write_page(bench: &Path, area: &str, json: &Path) -> Result<()> {
    let mut command = Command::new(bench);
    command.arg("markdown").arg(json);
    let section = stdout_of(command)?;
    let page = workspace::root().join("docs/benchmarks.md");
    let text =
        std::fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    std::fs::write(&page, replace_section(&text, area, &section)?)?;
    println!("wrote {}", page.display());
    Ok(())
}

/// Runs it.
pub(crate) fn run(request: &Request) -> Result<()> {
    let area = request.area.name();
    let bench = build_program(&["--manifest-path", "bench/Cargo.toml"], "flyball-bench")?;
    let mut command = Command::new(&bench);
    command.arg(area);
    let subject = match request.area {
        Area::Executor => None,
        Area::Overload => {
            for (option, program) in [("--axum", "overload_axum"), ("--tonic", "overload_tonic")] {
                let example = ["--package", "flyball-examples", "--bin", program];
                command.arg(option).arg(build_program(&example, program)?);
            }
            None
        }
        Area::Run | Area::Sense | Area::Tasks => {
            Some(build_program(&["--package", "flyball-cli"], "flyball")?)
        }
        Area::Sim => Some(build_program(&["--package", "flyball-sim"], "flyball-sim")?),
        Area::Sizing => Some(build_program(
            &["--package", "flyball-engine", "--example", "pool_size"],
            "pool_size",
        )?),
    };
    if let Some(program) = subject {
        command.arg("--program").arg(program);
    }
    // The page is made from the JSON, so there is one also when nobody asked for it.
    let json = match (&request.json, request.doc) {
        (Some(file), _) => Some(file.clone()),
        (None, true) => Some(bench.with_file_name(format!("bench-{area}.json"))),
        (None, false) => None,
    };
    if let Some(file) = &json {
        command.arg("--json").arg(file);
    }
    if request.quick {
        command.arg("--quick");
    }
    if let Some(rounds) = request.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(part) = &request.filter {
        command.args(["--filter", part]);
    }
    check(command)?;
    match json {
        Some(file) if request.doc => write_page(&bench, area, &file),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_the_rest_kept() {
        let page = "head\n<!-- begin run -->\nold\n<!-- end run -->\ntail\n";
        let new = replace_section(page, "run", "## run\n\nnew\n\n").unwrap();
        assert_eq!(
            new,
            "head\n<!-- begin run -->\n## run\n\nnew\n<!-- end run -->\ntail\n"
        );
        assert_eq!(
            replace_section(&new, "run", "## run\n\nnew\n").unwrap(),
            new,
            "again changes nothing"
        );
        assert!(replace_section(page, "sim", "x").is_err());
    }
}
