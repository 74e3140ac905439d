//! `flyball decisions`: what was decided, on what evidence, and what came of it.

use std::process::ExitCode;

use clap::Args;
use flyball_engine::view::{DecisionView, EventView};

use super::{STATUS, Session, decision_line, document, with_query, with_session};
use crate::client::{Failure, Reach};
use crate::show::{Ink, inert};

const EXAMPLES: &str = "\
Examples:
  flyball decisions
  flyball decisions --part pool --last 100
  flyball decisions --follow
  flyball decisions --since 2026-11-21T16:00:00Z --json | jq '.items[].reason'";

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"))]
pub(crate) struct Decisions {
    /// Only those of this part: `pool`, `machine`, `pin`, …
    #[arg(long, value_name = "PART")]
    part: Option<String>,
    /// Only those not made before; RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// The newest so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 30)]
    last: usize,
    /// Go on as decisions are made, until interrupted
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(options: Decisions) -> ExitCode {
    with_session(&options.reach, |session| {
        if options.follow {
            return follow(session, &options);
        }
        if session.json {
            let mut query = query(&options);
            query.push(("limit", super::PAGE.to_string()));
            return Ok(document(
                &session.client.get(&with_query("/v1/decisions", &query))?,
            ));
        }
        let lines = listed(session, &options)?;
        if lines.is_empty() && options.last > 0 {
            return Ok(b"nothing of the kind has been decided yet\n".to_vec());
        }
        let shown = lines.iter().map(|decision| line(session, decision));
        Ok(shown.collect::<String>().into_bytes())
    })
}

fn query(options: &Decisions) -> Vec<(&'static str, String)> {
    let part = options.part.clone().map(|part| ("part", part));
    let since = options.since.clone().map(|since| ("since", since));
    part.into_iter().chain(since).collect()
}

/// The newest, oldest of them first.
fn listed(session: &Session, options: &Decisions) -> Result<Vec<DecisionView>, Failure> {
    let mut decisions: Vec<DecisionView> =
        session.items(&with_query("/v1/decisions", &query(options)))?;
    decisions.drain(..decisions.len().saturating_sub(options.last));
    Ok(decisions)
}

fn line(session: &Session, decision: &DecisionView) -> String {
    let word = if decision.applied {
        Ink::Plain
    } else {
        Ink::Doubtful
    };
    let text = format!(
        "{}  {}: {}",
        decision.timestamp,
        inert(&decision.part),
        decision_line(decision)
    );
    session.screen.paint(word, &text) + "\n"
}

/// The stream is opened before the list is read, so that no decision falls between them; what stands in both is printed once.
fn follow(session: &Session, options: &Decisions) -> Result<Vec<u8>, Failure> {
    let mut events = session.client.events("/v1/events?types=decision")?;
    let mut seen = None;
    for decision in listed(session, options)? {
        seen = Some(decision.number);
        if !put(session, &decision) {
            return Ok(Vec::new());
        }
    }
    loop {
        let event = events.next()?;
        if event.kind == "missed" {
            super::put("… the daemon had more decisions than this could read; some are missing\n");
            continue;
        }
        let decision = read(&event.data)?;
        let wanted = options
            .part
            .as_ref()
            .is_none_or(|part| *part == decision.part);
        if !wanted || seen.is_some_and(|seen| decision.number <= seen) {
            continue;
        }
        if !put(session, &decision) {
            return Ok(Vec::new());
        }
    }
}

/// The decision that an event tells of.
fn read(data: &str) -> Result<DecisionView, Failure> {
    serde_json::from_str(data)
        .and_then(|event: EventView| serde_json::from_value(event.data))
        .map_err(|error| {
            Failure::Broken(format!(
                "an event of the daemon is none that this version understands: {}",
                inert(&error.to_string())
            ))
        })
}

/// Prints one; answers whether there is still a reader.
fn put(session: &Session, decision: &DecisionView) -> bool {
    if !session.json {
        return super::put(&line(session, decision));
    }
    // Plain data: writing it cannot fail.
    super::put(&(serde_json::to_string(decision).unwrap_or_default() + "\n"))
}
