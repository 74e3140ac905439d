//! The engine in a program: a file says the bounds, the engine decides within them, and says why.
//!
//! `cargo run --release -p flyball-examples --bin engine [FILE]`
#![allow(clippy::print_stdout)]

use std::time::Duration;

use anyhow::{Context, Result, bail};
use flyball::engine::config::{self, Loaded, Sources};
use flyball::engine::view::DecisionView;
use flyball::engine::{Engine, knobs};
use flyball::{Class, Handle};
use serde_json::json;
use tokio::runtime;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/engine.yaml");
/// Most events that are read in one go.
const EVENTS: usize = 64;
/// What a report waits for its database, whose driver blocks.
const QUERY: Duration = Duration::from_millis(40);
/// Reports that are asked for at once.
const AT_ONCE: usize = 12;

/// The file named on the command line, or the one beside this example; `FLYBALL_…` variables prevail over it.
fn load(file: &str) -> Result<Loaded> {
    let sources = Sources::new()
        .with_file(file)
        .with_environment(std::env::vars_os());
    // Everything that is wrong, each with its line and what would be right.
    let loaded = config::load(&sources).with_context(|| format!("reading {file}"))?;
    for notice in &loaded.notices {
        println!("{notice}");
    }
    Ok(loaded)
}

/// A report: hardly any CPU time, much waiting.
fn report(reports: &Class, tokio: &runtime::Handle) -> Handle<()> {
    let tokio = tokio.clone();
    reports
        .task()
        .kind("report")
        .run(move || flyball::blocking(|| tokio.block_on(tokio::time::sleep(QUERY))))
}

/// So many reports, a dozen at a time.
async fn reports(class: &Class, rounds: usize) -> Result<()> {
    let tokio = runtime::Handle::current();
    for _ in 0..rounds {
        let round: Vec<Handle<()>> = (0..AT_ONCE).map(|_| report(class, &tokio)).collect();
        for one in round {
            one.await?;
        }
    }
    Ok(())
}

/// A decision in a line, the figures that it rests on in a second one.
fn sentence(decision: &DecisionView) -> String {
    let number = |value: Option<f64>| value.map_or("?".to_owned(), |value| value.to_string());
    let outcome = match &decision.refusal {
        None => String::new(),
        Some(refusal) => format!(" refused, {refusal}"),
    };
    let evidence: Vec<String> = decision
        .evidence
        .iter()
        .map(|figure| {
            let rounded = figure.value.map(|value| (value * 100.0).round() / 100.0);
            format!("{} {} {}", figure.name, number(rounded), figure.unit)
                .trim_end()
                .to_owned()
        })
        .collect();
    let mut text = format!(
        "  {}: {} {} → {}{outcome}: {}",
        decision.part,
        decision.knob,
        number(decision.from),
        number(decision.to),
        decision.reason
    );
    if !evidence.is_empty() {
        text += &format!("\n      [{}]", evidence.join(", "));
    }
    text
}

/// Prints decisions as they come, for ever.
async fn follow(engine: &Engine) -> Result<()> {
    let mut news = engine.events().follow();
    let mut seen = 0;
    loop {
        loop {
            let batch = engine.events().since(seen, EVENTS);
            if batch.missed > 0 {
                println!("  ({} events missed)", batch.missed);
            }
            let Some(last) = batch.events.last() else {
                break;
            };
            seen = last.id;
            for event in batch.events.iter().filter(|event| event.kind == "decision") {
                let decision: DecisionView = serde_json::from_value(event.data.clone())?;
                println!("{}", sentence(&decision));
            }
        }
        if news.changed().await.is_err() {
            bail!("the engine has ended");
        }
    }
}

/// What the program does meanwhile.
async fn story(engine: &Engine) -> Result<()> {
    let class = engine.class("reports")?;
    println!("{AT_ONCE} reports at a time, each waits {QUERY:?} for its database:");
    reports(&class, 60).await?;

    println!("no more than four workers from now on:");
    let setting = json!({ "worker_pool": { "max_workers": 4 } });
    for change in engine.configure(&setting, "the example", false)? {
        println!("  {}: {} → {}", change.key, change.old, change.new);
    }
    reports(&class, 10).await?;

    println!("three, says a person:");
    engine.pin(knobs::BACK, 3.0, "the example")?;
    reports(&class, 10).await?;
    engine.unpin(knobs::BACK, "the example")?;

    println!("nothing to do:");
    tokio::time::sleep(Duration::from_secs(8)).await;
    let health = engine.health();
    println!(
        "health {:?}, score {}, {:?}",
        health.status, health.score, health.reasons
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let file = std::env::args().nth(1).unwrap_or_else(|| FILE.to_owned());
    let engine = Engine::start(load(&file)?)?;
    tokio::select! {
        followed = follow(&engine) => followed?,
        told = story(&engine) => told?,
    }
    // Blocks until what was accepted has run.
    let report = tokio::task::block_in_place(|| engine.shutdown()).map_err(|refused| refused.1)?;
    println!("{} done, {} cancelled", report.ended, report.cancelled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_right_and_what_it_says_holds() {
        let loaded = load(FILE).unwrap();
        assert!(loaded.notices.is_empty());
        let (value, origin) = loaded.origin("worker_pool.max_workers").unwrap();
        assert_eq!(value, "8");
        assert!(origin.to_string().contains("engine.yaml"), "{origin}");
    }
}
