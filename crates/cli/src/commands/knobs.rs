//! `flyball knobs`: the numbers that controllers turn, and people hold.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use flyball_engine::view::{DecisionView, KnobView};
use hyper::Method;
use serde_json::json;

use super::{Paging, STATUS, decision_line, with_session};
use crate::client::{Reach, escape};
use crate::show::{Column, Screen, Table, UNKNOWN, number};

const EXAMPLES: &str = "\
Examples:
  flyball knobs
  flyball knobs pin worker_pool.back 4
  flyball knobs unpin worker_pool.back

A pinned knob stays where it is, whatever the controllers want; safety may
override it.";

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"), args_conflicts_with_subcommands = false)]
pub(crate) struct Knobs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List the knobs (what `flyball knobs` does)
    List(Paging),
    /// Hold a knob at a value
    #[command(after_help = "Example:\n  flyball knobs pin worker_pool.back 4")]
    Pin {
        /// The knob, as `flyball knobs` lists it
        knob: String,
        /// The value, within the knob's bounds
        #[arg(allow_negative_numbers = true, value_parser = parse_finite)]
        value: f64,
    },
    /// Give a knob back to its controllers
    #[command(after_help = "Example:\n  flyball knobs unpin worker_pool.back")]
    Unpin {
        /// The knob
        knob: String,
    },
}

/// A number that JSON has a word for.
pub(crate) fn parse_finite(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
        .ok_or_else(|| "expected a number".to_owned())
}

pub(crate) fn run(options: Knobs) -> ExitCode {
    let action = options.action.unwrap_or(Action::List(Paging::default()));
    with_session(&options.reach, |session| match &action {
        Action::List(paging) => session.list("/v1/knobs", paging, table),
        Action::Pin { knob, value } => {
            let path = format!("/v1/knobs/{}/pin", escape(knob));
            let reply = session
                .client
                .send(Method::POST, &path, &json!({ "value": value }))?;
            session.show(&reply, decided)
        }
        Action::Unpin { knob } => {
            let path = format!("/v1/knobs/{}/unpin", escape(knob));
            session.show(&session.client.act(Method::POST, &path)?, decided)
        }
    })
}

/// One decision, in a line.
pub(crate) fn decided(decision: DecisionView, _: Screen) -> String {
    decision_line(&decision) + "\n"
}

fn table(knobs: Vec<KnobView>, screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("KNOB"),
        Column::right("VALUE"),
        Column::right("MIN"),
        Column::right("MAX"),
        Column::left("UNIT"),
        Column::left("PINNED BY"),
        Column::left("ABOUT"),
    ]);
    for knob in knobs {
        let pinned = knob.pinned.map_or_else(
            || UNKNOWN.to_owned(),
            |pin| format!("{} at {}", pin.by, number(pin.value)),
        );
        table.row([
            knob.name,
            number(knob.value),
            number(knob.min),
            number(knob.max),
            knob.unit,
            pinned,
            knob.about,
        ]);
    }
    table.print(screen)
}
