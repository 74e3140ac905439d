//! A tenant that floods a class: how long the others' light requests wait, without keys and with them.
//!
//! `cargo run --release -p flyball-examples --bin tenants`
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use anyhow::Result;
use flyball::{Class, Config, Flyball, KeyLimits};
use flyball_core::time::Source;

/// Tasks of the tenant that floods.
const FLOOD: usize = 100_000;
/// What each of them computes, in rounds of a hash: about 20 µs.
const ROUNDS: u64 = 20_000;
/// Requests of each light tenant, one after the other.
const REQUESTS: usize = 20;

/// Keeps the CPU busy.
fn work(seed: u64) -> u64 {
    (0..ROUNDS).fold(seed, |hash, n| {
        (hash ^ n).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// What a light tenant saw.
struct Seen {
    /// Tasks of the flood that started while its first request waited.
    first_passed_by: usize,
    /// The same for all later ones, the most.
    later_passed_by: usize,
    /// The longest answer.
    longest: Duration,
}

/// One request after the other, each a small closure.
async fn light(class: &Class, tenant: &str, keyed: bool, flood: &Arc<AtomicUsize>) -> Result<Seen> {
    let clock = Source::best();
    let mut seen = Seen {
        first_passed_by: 0,
        later_passed_by: 0,
        longest: Duration::ZERO,
    };
    for request in 0..REQUESTS {
        let task = class.task();
        let task = if keyed { task.key(tenant) } else { task };
        let (asked, before) = (clock.now(), flood.load(SeqCst));
        let flood = Arc::clone(flood);
        let after = task.run(move || flood.load(SeqCst)).await?;
        let passed_by = after - before;
        if request == 0 {
            seen.first_passed_by = passed_by;
        } else {
            seen.later_passed_by = seen.later_passed_by.max(passed_by);
        }
        seen.longest = seen.longest.max(clock.now().duration_since(asked));
    }
    Ok(seen)
}

/// One tenant floods the class, two others ask.
async fn round(how: &str, keyed: bool, limits: KeyLimits) -> Result<()> {
    let fly = Flyball::start(Config::default())?;
    let class = fly.class("normal")?;
    class.set_key_limits(limits)?;
    let flood = Arc::new(AtomicUsize::new(0));
    for n in 0..FLOOD {
        let task = class.task();
        let task = if keyed { task.key("flood") } else { task };
        let flood = Arc::clone(&flood);
        let busy = move || {
            flood.fetch_add(1, SeqCst);
            std::hint::black_box(work(n as u64));
        };
        task.run(busy).detach();
    }
    let (one, other) = tokio::join!(
        light(&class, "one", keyed, &flood),
        light(&class, "other", keyed, &flood)
    );
    let (one, other) = (one?, other?);
    println!(
        "{how:<28} {:>13} {:>13} {:>11.1?}",
        one.first_passed_by.max(other.first_passed_by),
        one.later_passed_by.max(other.later_passed_by),
        one.longest.max(other.longest)
    );
    if keyed {
        for key in class.keys() {
            println!(
                "    {:<8} {:>6} started, {:>6} queued",
                key.name, key.started, key.queued
            );
        }
    }
    // What is left of the flood is cancelled.
    fly.shutdown(Duration::ZERO).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    println!(
        "{FLOOD} tasks of one tenant, then {REQUESTS} light requests of each of two others in the same class.\n\
         Tasks of the flood that went before a light request, the most:\n"
    );
    println!(
        "{:<28} {:>13} {:>13} {:>11}",
        "", "first request", "later ones", "longest"
    );
    let unlimited = KeyLimits::default();
    round("without keys", false, unlimited).await?;
    round("with keys", true, unlimited).await?;
    let one_at_once = KeyLimits {
        concurrency: Some(1),
        ..unlimited
    };
    round("with keys, one task at once", true, one_at_once).await
}
