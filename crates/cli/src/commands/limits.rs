//! `flyball limits`: the bounds in force, and how near each is.

use std::process::ExitCode;

use clap::Args;
use flyball_engine::view::LimitView;

use super::{Paging, STATUS, with_session};
use crate::client::Reach;
use crate::show::{Column, Ink, Screen, Table, UNKNOWN, count, quantity};

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"))]
pub(crate) struct Limits {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    paging: Paging,
}

const EXAMPLES: &str = "\
Examples:
  flyball limits
  flyball limits --json | jq '.items[] | select(.refused > 0)'

SETTING is what changes the limit: `flyball config set`, `flyball classes
change` or `flyball knobs pin`.";

pub(crate) fn run(options: Limits) -> ExitCode {
    with_session(&options.reach, |session| {
        session.list("/v1/limits", &options.paging, table)
    })
}

fn table(limits: Vec<LimitView>, screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("LIMIT"),
        Column::right("USED"),
        Column::right("OF"),
        Column::right("REFUSED"),
        Column::left("SETTING"),
    ]);
    for limit in limits {
        let full = limit
            .limit
            .zip(limit.used)
            .is_some_and(|(most, used)| used >= most && most > 0.0);
        let ink = if full { Ink::Doubtful } else { Ink::Plain };
        // An answered null is "no limit", which is known.
        let most = limit
            .limit
            .map_or_else(|| "none".to_owned(), |most| quantity(most, &limit.unit));
        let refused = limit.refused.map_or_else(|| UNKNOWN.to_owned(), count);
        table.painted([
            (limit.name, ink),
            (crate::show::number(limit.used), ink),
            (most, Ink::Plain),
            (refused, Ink::Plain),
            (limit.setting, Ink::Plain),
        ]);
    }
    table.print(screen)
}
