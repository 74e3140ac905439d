//! What a wake-up costs: two tasks that wait for each other, tasks that yield, and timers.

use super::Sample;
use crate::machine::{Company, Window};
use crate::stats::quantile;
use crate::subjects::{Futures, OnFutures, OnTokio, Subject, Tokio, on_futures, on_tokio};
use crate::sys;
use crate::work::{finished, wait_for};
use anyhow::Result;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

const LIMIT_NS: u64 = 60_000_000_000;

/// Times `tasks` tasks that `spawn` starts; answers nanoseconds and the share that others used.
fn timed(tasks: usize, spawn: impl FnOnce()) -> Result<(f64, f64)> {
    let alone = Company::none();
    let window = Window::open(&alone);
    let begun = sys::now_ns();
    spawn();
    wait_for(tasks as u64, LIMIT_NS)?;
    let elapsed = (sys::now_ns() - begun) as f64;
    Ok((elapsed, window.close().others_share))
}

struct PingPong(usize);

impl OnFutures for PingPong {
    type Out = Sample;

    fn run<P: Futures>(self, pool: &'static P) -> Result<Sample> {
        let round_trips = self.0;
        let (elapsed, foreign) = timed(2, || {
            let (to_echo, mut at_echo) = mpsc::channel::<u64>(1);
            let (to_caller, mut at_caller) = mpsc::channel::<u64>(1);
            pool.spawn(async move {
                while let Some(ball) = at_echo.recv().await {
                    if to_caller.send(ball).await.is_err() {
                        break;
                    }
                }
                finished();
            });
            pool.spawn(async move {
                for ball in 0..round_trips as u64 {
                    to_echo
                        .send(ball)
                        .await
                        .expect("the echo outlives the caller");
                    assert_eq!(at_caller.recv().await, Some(ball));
                }
                finished();
            });
        })?;
        Ok(Sample::default()
            .with("ns_per_round_trip", elapsed / round_trips as f64)
            .foreign(foreign))
    }
}

/// Nanoseconds a round trip over two tokio channels of one slot.
pub fn ping_pong(subject: Subject, round_trips: usize) -> Result<Sample> {
    on_futures(subject, PingPong(round_trips))
}

struct Yields {
    tasks: usize,
    yields: usize,
}

impl OnFutures for Yields {
    type Out = Sample;

    fn run<P: Futures>(self, pool: &'static P) -> Result<Sample> {
        let Yields { tasks, yields } = self;
        let (elapsed, foreign) = timed(tasks, || {
            for _ in 0..tasks {
                pool.spawn(async move {
                    for _ in 0..yields {
                        P::yield_now().await;
                    }
                    finished();
                });
            }
        })?;
        Ok(Sample::default()
            .with("ns_per_yield", elapsed / (tasks * yields) as f64)
            .foreign(foreign))
    }
}

/// Nanoseconds a yield, by the pool's own way to yield.
pub fn yields(subject: Subject, tasks: usize, yields: usize) -> Result<Sample> {
    on_futures(subject, Yields { tasks, yields })
}

struct Timers {
    tasks: usize,
    seconds: f64,
}

impl OnTokio for Timers {
    type Out = Sample;

    fn run<P: Tokio>(self, pool: &'static P) -> Result<Sample> {
        let Timers { tasks, seconds } = self;
        let lateness = Arc::new(Mutex::new(Vec::new()));
        let (elapsed, foreign) = timed(tasks, || {
            let end = sys::now_ns() + (seconds * 1e9) as u64;
            for _ in 0..tasks {
                let lateness = lateness.clone();
                pool.spawn(async move {
                    let mut mine = Vec::new();
                    let mut now = sys::now_ns();
                    while now < end {
                        let due = now + 1_000_000;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        now = sys::now_ns();
                        mine.push(now.saturating_sub(due));
                    }
                    lateness.lock().expect("no holder panics").append(&mut mine);
                    finished();
                });
            }
        })?;
        let mut lateness = std::mem::take(&mut *lateness.lock().expect("no holder panics"));
        lateness.sort_unstable();
        Ok(Sample::default()
            .with("wakeups_per_s", lateness.len() as f64 / (elapsed / 1e9))
            .with("late_p50_us", quantile(&lateness, 0.5) as f64 / 1e3)
            .with("late_p99_us", quantile(&lateness, 0.99) as f64 / 1e3)
            .foreign(foreign))
    }
}

/// Tasks that sleep a millisecond again and again, on tokio's timer: how many wake a second, and how late.
pub fn timers(subject: Subject, tasks: usize, seconds: f64) -> Result<Sample> {
    on_tokio(subject, Timers { tasks, seconds })
}
