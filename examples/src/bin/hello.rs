//! The smallest program: start, look a class up, run a closure and a future in it, shut down.
//!
//! `cargo run --release -p flyball-examples --bin hello`
#![allow(clippy::print_stdout)]

use std::time::Duration;

use flyball::{Config, Flyball};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let fly = Flyball::start(Config::default())?;
    let batch = fly.class("batch")?;
    let sum = batch.run(|| (1..=1_000_000u64).sum::<u64>()).await?;
    let late = fly.class("interactive")?.spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        format!("the sum is {sum}")
    });
    println!("{}", late.await?);
    fly.shutdown(Duration::from_secs(30)).await;
    Ok(())
}
