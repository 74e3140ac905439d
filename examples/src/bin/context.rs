//! Context travels: what a task logs stands inside the span of the request that submitted it.
//!
//! `cargo run --release -p flyball-examples --bin context`

use std::time::Duration;

use flyball::{Class, Config, Flyball};
use tracing::{Instrument as _, info, info_span};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().without_time().init();
    let fly = Flyball::start(Config::default())?;
    let batch = fly.class("batch")?;
    for id in 1..=3 {
        answer(&batch, id)
            .instrument(info_span!("request", id))
            .await?;
    }
    fly.shutdown(Duration::from_secs(30)).await;
    Ok(())
}

/// Logs from a worker thread; the lines name the request although nothing is passed along.
async fn answer(batch: &Class, id: u64) -> anyhow::Result<()> {
    let square = batch
        .run(move || {
            info!("a closure runs");
            id * id
        })
        .await?;
    batch
        .spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            info!(square, "a future ends");
        })
        .await?;
    Ok(())
}
