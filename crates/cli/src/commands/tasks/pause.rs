//! Holding tasks back.

use clap::Args;
use flyball_engine::view::tasks::{PauseBody, PausesView};
use hyper::Method;

use crate::client::Failure;
use crate::commands::Session;
use crate::show::inert;

/// What is paused or resumed.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Scope {
    /// All tasks of a kind
    #[arg(long, value_name = "NAME")]
    kind: Option<String>,
    /// All tasks of a class
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// All tasks
    #[arg(long)]
    all: bool,
}

pub(super) fn run(session: &Session, scope: &Scope, pause: bool) -> Result<Vec<u8>, Failure> {
    let body = PauseBody {
        kind: scope.kind.clone(),
        class: scope.class.clone(),
        all: scope.all.then_some(true),
    };
    let path = if pause {
        "/v1/tasks/pause"
    } else {
        "/v1/tasks/resume"
    };
    // Plain data: writing it cannot fail.
    let body = serde_json::to_value(&body).unwrap_or_default();
    let reply = session.client.send(Method::POST, path, &body)?;
    session.show(&reply, |view: PausesView, _| sentence(&view, pause))
}

fn sentence(view: &PausesView, pause: bool) -> String {
    let mut out = match (view.changed, pause) {
        (true, true) => "paused\n",
        (true, false) => "resumed\n",
        (false, true) => "it was paused already\n",
        (false, false) => "it was not paused\n",
    }
    .to_owned();
    for held in &view.paused {
        let what = match &held.name {
            Some(name) => format!("{} {}", inert(&held.scope), inert(name)),
            None => "all tasks".to_owned(),
        };
        out.push_str(&format!(
            "  {what}: paused by {} since {}\n",
            inert(&held.by),
            held.since
        ));
    }
    out
}
