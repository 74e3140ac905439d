//! rayon inside a class: a parallel sort, by code that knows nothing of flyball, beside requests that must not wait for it.
//!
//! `cargo run --release -p flyball-examples --bin parallel`
#![allow(clippy::print_stdout)]

use std::time::Duration;

use flyball::{Config, Flyball};
use flyball_core::time::Source;
use rayon::prelude::*;

/// What a library would do: rayon calls, on whatever pool it finds itself in.
fn ranking(scores: &mut Vec<u64>) -> u64 {
    scores.par_sort_unstable();
    scores.dedup();
    scores
        .par_iter()
        .enumerate()
        .map(|(rank, score)| score ^ rank as u64)
        .reduce(|| 0, |one, other| one ^ other)
}

fn main() -> anyhow::Result<()> {
    let fly = Flyball::start(Config::default())?;
    let batch = fly.class("batch")?;
    let interactive = fly.class("interactive")?;

    let mut scores: Vec<u64> = (0..4_000_000u64)
        .map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20)
        .collect();
    let clock = Source::best();
    let mut slowest = Duration::ZERO;
    let mut answered = 0;
    // `install` borrows like a scope, and blocks this thread; async code awaits `install_async`.
    let sum = std::thread::scope(|threads| {
        let sorting = threads.spawn(|| batch.install(|| ranking(&mut scores)));
        while !sorting.is_finished() {
            let asked = clock.now();
            interactive.run(move || answered + 1).join()?;
            slowest = slowest.max(clock.now().duration_since(asked));
            answered += 1;
            std::thread::park_timeout(Duration::from_millis(2));
        }
        sorting
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map_err(anyhow::Error::from)
    })?;

    println!("{} scores ranked: {sum:x}", scores.len());
    println!("{answered} requests answered meanwhile, the slowest in {slowest:?}");
    let report = fly
        .executor()
        .stats()
        .class("batch")
        .map(|batch| Duration::from_nanos(batch.cpu_ns))
        .unwrap_or_default();
    println!("CPU time charged to batch so far: {report:?}");
    fly.shutdown_blocking(Duration::from_secs(30))
        .map_err(|refused| refused.1)?;
    Ok(())
}
