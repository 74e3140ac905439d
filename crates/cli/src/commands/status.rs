//! `flyball status`: the whole at a glance.

use std::process::ExitCode;

use clap::Args;
use flyball_engine::view::{HealthState, StatusView};

use super::with_session;
use crate::client::Reach;
use crate::show::{Column, Ink, Screen, Table, bytes, inert, millis, percent, rate, whole_millis};

const EXAMPLES: &str = "\
Examples:
  flyball status
  flyball status --json | jq .utilisation
  flyball status --server http://127.0.0.1:7070

Figures that are not known yet, or not measured here, are `-`.

Exit status: 0 the daemon answers, 1 its answer makes no sense, 2 wrong usage,
3 it cannot be reached, 4 it refused.";

/// How the detail of a part begins that the daemon was built without; those get one line together.
const ABSENT: &str = "unavailable: this build has no";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Status {
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(options: Status) -> ExitCode {
    with_session(&options.reach, |session| {
        session.show(&session.client.get("/v1/status")?, print)
    })
}

fn print(status: StatusView, screen: Screen) -> String {
    let (word, ink) = match status.health {
        HealthState::Healthy => ("healthy", Ink::Good),
        HealthState::Degraded => ("degraded", Ink::Doubtful),
        HealthState::Unhealthy => ("unhealthy", Ink::Bad),
    };
    let used = &status.utilisation;
    let mut out = format!(
        "flyball {}, up {}: {} (score {:.2})\n",
        inert(&status.version),
        whole_millis(status.uptime_ms),
        screen.paint(ink, word),
        status.score
    );
    if status.level != "normal" {
        let level = screen.paint(Ink::Doubtful, &inert(&status.level));
        out.push_str(&format!(
            "  calls are refused, `flyball limits` says where: the level is {level}\n"
        ));
    }
    for reason in &status.reasons {
        out.push_str(&format!("  {}\n", inert(reason)));
    }
    out.push_str(&format!(
        "\ncpu      {} of the machine, {} by this daemon\n",
        percent(used.cpu_percent),
        percent(used.process_cpu_percent)
    ));
    out.push_str(&format!(
        "memory   {} of the machine, {} resident\n",
        percent(used.memory_percent),
        bytes(used.resident_bytes)
    ));
    out.push_str(&format!(
        "workers  {} alive, {} may run at once, {} busy\n",
        status.workers,
        status.parallelism,
        percent(used.worker_percent)
    ));
    out.push_str(&format!(
        "tasks    {} queued, {} running, {} ended, {} to answer, {} failed\n\n",
        status.queue_length,
        status.running,
        rate(status.throughput_per_second),
        millis(status.response_time_ms),
        percent(status.error_rate_percent)
    ));
    let mut parts = Table::new([
        Column::left("PART"),
        Column::left("IS"),
        Column::left("DETAIL"),
    ]);
    let mut absent = Vec::new();
    for part in status.parts {
        if part.detail.starts_with(ABSENT) {
            absent.push(inert(&part.part));
            continue;
        }
        let flag = if part.enabled { "on" } else { "off" };
        parts.row([part.part, flag.to_owned(), part.detail]);
    }
    out.push_str(&parts.print(screen));
    if !absent.is_empty() {
        out.push_str(&format!("\nnot in this build: {}\n", absent.join(", ")));
    }
    out
}
