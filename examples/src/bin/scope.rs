//! Closures that borrow: a sum over pieces of a slice that stays where it is.
//!
//! `cargo run --release -p flyball-examples --bin scope`
#![allow(clippy::print_stdout)]

use std::time::Duration;

use flyball::{Config, Flyball};

fn main() -> anyhow::Result<()> {
    let fly = Flyball::start(Config::default())?;
    let batch = fly.class("batch")?;

    let numbers: Vec<u64> = (0..8_000_000).map(|n| n * n % 1_000_003).collect();
    let pieces: Vec<&[u64]> = numbers.chunks(1_000_000).collect();
    let mut sums = vec![0; pieces.len()];

    // `numbers` and `sums` are borrowed: the scope ends when all its closures have. Until then it blocks this thread, so on
    // a thread of tokio's it is refused; there it goes into a closure, `batch.run(move || batch.scope(…)).await`.
    batch.scope(|s| {
        for (piece, sum) in pieces.iter().zip(&mut sums) {
            s.run(move || *sum = piece.iter().sum());
        }
    })?;

    let total: u64 = sums.iter().sum();
    assert_eq!(total, numbers.iter().sum::<u64>());
    println!(
        "{} numbers in {} pieces: {total}",
        numbers.len(),
        sums.len()
    );
    fly.shutdown_blocking(Duration::from_secs(30))
        .map_err(|refused| refused.1)?;
    Ok(())
}
