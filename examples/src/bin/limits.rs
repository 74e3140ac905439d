//! Overload in a program with an engine: work that would wait for too long is refused at once, calls of a database are bounded by what it bears,
//! and the engine shows both.
//!
//! `cargo run --release -p flyball-examples --bin limits`
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use flyball::engine::Engine;
use flyball::engine::config::{self, Sources};
use flyball::limit::{Ask, Gate, GateConfig, Permit};
use flyball::{Class, Rejection};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Reports should wait for 50 ms at most. The same by hand: `flyball classes change batch shed_after=50ms` of a daemon.
const FILE: &str = "classes: [{name: batch, shed_after: 50ms}]";
/// Each of 2 ms of CPU time, so many more than two CPUs can do.
const REPORTS_A_SECOND: u64 = 3_000;
/// What the database does at once, and how long each query takes it.
const DATABASE: (usize, Duration) = (8, Duration::from_millis(5));
const CALLERS: u64 = 200;

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(8), |text| text.parse())?;
    let loaded = config::load(&Sources::new().with_text("limits.yaml", FILE))?;
    let engine = Engine::start(loaded)?;
    let refused = Arc::new(AtomicU64::new(0));
    let reports = tokio::spawn(submit(engine.class("batch")?, refused.clone()));
    // Known to the engine as `db`; the same gate, wherever it is asked for.
    let gate = engine.gate("db", GateConfig::dependency())?;
    let database = Arc::new(Semaphore::new(DATABASE.0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(call(gate.clone(), database.clone(), caller)))
        .collect();
    for _ in 0..seconds {
        sleep(Duration::from_secs(1)).await;
        show(&engine, &refused)?;
    }
    reports.abort();
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    tokio::task::block_in_place(|| engine.shutdown()).map_err(|refused| refused.1)?;
    Ok(())
}

/// Offers reports at a steady pace, whatever becomes of them.
async fn submit(batch: Class, refused: Arc<AtomicU64>) {
    let mut tick = interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tick.tick().await;
        for _ in 0..REPORTS_A_SECOND / 100 {
            match batch.task().kind("report").try_run(report) {
                Ok(handle) => handle.detach(),
                // Whoever asked for it is told at once, and when to come back.
                Err(rejected) => {
                    if let Rejection::Shed { .. } = rejected.reason {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

fn report() {
    let until = flyball_core::time::unix_nanos() + 2_000_000;
    while flyball_core::time::unix_nanos() < until {
        std::hint::spin_loop();
    }
}

/// Calls the database again and again; who is refused stays away for as long as that says.
async fn call(gate: Gate, database: Arc<Semaphore>, caller: u64) {
    // Callers are told apart, so that those who were refused together do not come back together.
    let ask = Ask {
        cohort: Some(caller),
        ..Ask::default()
    };
    loop {
        match gate.enter(ask).await {
            Ok(permit) => query(permit, &database).await,
            Err(shed) => sleep(shed.retry_after).await,
        }
    }
}

async fn query(permit: Permit, database: &Semaphore) {
    permit
        .run(async {
            let _place = database.acquire().await;
            sleep(DATABASE.1).await;
        })
        .await;
}

fn show(engine: &Engine, refused: &AtomicU64) -> Result<()> {
    let batch = engine.class_view("batch")?;
    let db = engine.adaptive_limit("db")?;
    println!(
        "batch: {} wait, {} refused{}; db: {} of {} in, {} wait, {:.0} calls/s, {:.1}% refused, {}; {}",
        batch.totals.queued,
        refused.load(Ordering::Relaxed),
        batch
            .oldest_wait_ms
            .map_or_else(String::new, |wait| format!(
                ", the oldest waits {wait:.0} ms"
            )),
        db.in_flight,
        db.limit,
        db.waiting,
        db.calls_per_second.unwrap_or(0.0),
        db.shed_percent.unwrap_or(0.0),
        db.level,
        engine.status().level,
    );
    Ok(())
}
