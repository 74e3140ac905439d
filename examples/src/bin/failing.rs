//! A dependency that fails, and a caller that neither falls with it nor makes it worse.
//!
//! It serves well, then not at all for two seconds, then well again; some of its calls are slow. The same calls are made bare, and with what `flyball::limit` has.
//! What to look at: how many calls went to the dependency while it was down, and how long callers waited for nothing.
//!
//! `cargo run --release -p flyball-examples --bin failing`
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use flyball::limit::{
    Again, Backoff, Breaker, BreakerConfig, CallError, Hedge, HedgeConfig, HedgeDelay, Retry,
    RetryBudget,
};
use flyball_core::time::{Clock, OsClock};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What it costs a caller to learn that the dependency is down.
const TIMEOUT: Duration = Duration::from_millis(100);
const CALLS_A_SECOND: u64 = 200;

#[derive(Default)]
struct Dependency {
    down: AtomicBool,
    calls: AtomicU64,
    calls_while_down: AtomicU64,
}

impl Dependency {
    async fn call(&self) -> Result<(), &'static str> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            self.calls_while_down.fetch_add(1, Ordering::Relaxed);
            sleep(TIMEOUT).await;
            return Err("timed out");
        }
        let slow = number.is_multiple_of(50);
        sleep(Duration::from_millis(if slow { 80 } else { 2 })).await;
        Ok(())
    }
}

#[derive(Clone)]
struct Guards {
    breaker: Breaker,
    retry: Retry,
    hedge: Hedge,
}

impl Guards {
    fn new() -> Result<Self, flyball::limit::Error> {
        let breaker = BreakerConfig {
            window: Duration::from_secs(1),
            open_min: Duration::from_millis(200),
            open_max: Duration::from_millis(500),
            ..BreakerConfig::default()
        };
        let hedge = HedgeConfig {
            delay: HedgeDelay::Fixed(Duration::from_millis(10)),
            ..HedgeConfig::default()
        };
        Ok(Self {
            breaker: Breaker::new(breaker)?,
            retry: Retry::new(Backoff::default())?.with_budget(RetryBudget::default()),
            hedge: Hedge::new(hedge)?,
        })
    }

    async fn call(&self, dependency: &Dependency) -> Result<(), CallError<&'static str>> {
        let hedged = || self.hedge.call(|| dependency.call());
        self.retry
            .call(
                |_attempt| self.breaker.call(hedged),
                // What the breaker refused is not worth another attempt: it says when.
                |error| Again::if_so(matches!(error, CallError::Failed(_))),
            )
            .await
    }
}

/// Three attempts, as many programs make them.
async fn bare(dependency: &Dependency) -> bool {
    for _ in 0..2 {
        if dependency.call().await.is_ok() {
            return true;
        }
    }
    dependency.call().await.is_ok()
}

/// Three seconds of calls, the first half of a second and the last well; answers how it went in one line.
async fn run(guards: Option<Guards>) -> String {
    let dependency = Arc::new(Dependency::default());
    let mut calls = JoinSet::new();
    for tick in 0..3 * CALLS_A_SECOND {
        let down = (CALLS_A_SECOND / 2..CALLS_A_SECOND * 5 / 2).contains(&tick);
        dependency.down.store(down, Ordering::Relaxed);
        let (guards, dependency) = (guards.clone(), Arc::clone(&dependency));
        calls.spawn(async move {
            let began = OsClock.now();
            let good = match &guards {
                Some(guards) => guards.call(&dependency).await.is_ok(),
                None => bare(&dependency).await,
            };
            (good, OsClock.now().duration_since(began))
        });
        sleep(Duration::from_nanos(1_000_000_000 / CALLS_A_SECOND)).await;
    }
    let (mut good, mut wasted) = (Vec::new(), Duration::ZERO);
    for (well, took) in calls.join_all().await {
        if well {
            good.push(took);
        } else {
            wasted += took;
        }
    }
    good.sort_unstable();
    let p99 = good.get(good.len() * 99 / 100).copied().unwrap_or_default();
    format!(
        "{:>4} calls answered, p99 {:>3} ms; {:>4} went to the dependency while it was down, and callers waited {:.1} s in vain",
        good.len(),
        p99.as_millis(),
        dependency.calls_while_down.load(Ordering::Relaxed),
        wasted.as_secs_f64(),
    )
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!("bare:    {}", run(None).await);
    let guards = Guards::new()?;
    println!("guarded: {}", run(Some(guards.clone())).await);
    let (breaker, hedge) = (guards.breaker.status(), guards.hedge.stats());
    println!(
        "         the breaker opened {} times and refused {} calls; {} of {} calls were made a second time, which won {}",
        breaker.opened, breaker.refused, hedge.hedged, hedge.calls, hedge.won
    );
    Ok(())
}
