//! Two loads that would take all they can get, held at a percentage of the CPUs; `/proc` is read beside the engine, to compare.
//!
//! `cargo run -p flyball-engine --example throttled -- 60 20` holds 60% for 20 s. A third word is what the loads are: `loops`
//! (closures that never end, with checkpoints), `tasks` (closures of 1 ms) or `long` (of 300 ms, without checkpoints). A fourth is
//! the scope: `machine`, or `process` where other programs are busy.

#![allow(clippy::print_stdout)] // it is for people

use flyball_core::time::{Clock, OsClock};
use flyball_engine::Engine;
use flyball_engine::config::{Sources, load};
use flyball_executor::{Class, checkpoint};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Idle and all ticks of the machine since its start.
fn ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let figures = line.split_whitespace().skip(1).take(8);
    let figures: Vec<u64> = figures.filter_map(|figure| figure.parse().ok()).collect();
    let idle = figures.iter().skip(3).take(2).sum();
    (idle, figures.iter().sum())
}

/// The same of this process: what it did not use counts as idle.
fn own_ticks() -> (u64, u64) {
    let (_, all) = ticks();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let figures: Vec<u64> = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse().ok())
        .collect();
    (all - figures.iter().sum::<u64>(), all)
}

fn percent(before: (u64, u64), after: (u64, u64)) -> f64 {
    let all = (after.1 - before.1).max(1) as f64;
    100.0 * (1.0 - (after.0 - before.0) as f64 / all)
}

fn burn(time: Duration) {
    let end = OsClock.now().saturating_add(time);
    while OsClock.now() < end {
        std::hint::black_box((0..1_000u64).fold(1u64, |x, y| x.wrapping_mul(31).wrapping_add(y)));
    }
}

/// Runs tasks of this length one after the other, each submitting the next.
fn again(class: Class, length: Duration, stop: Arc<AtomicBool>) {
    let next = class.clone();
    let _ = class.execute(move || {
        burn(length);
        if !stop.load(Relaxed) {
            again(next, length, stop);
        }
    });
}

fn main() {
    let mut words = std::env::args().skip(1);
    let threshold: f64 = words
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(60.0);
    let seconds: u64 = words
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(20);
    let kind = words.next().unwrap_or_else(|| "loops".to_owned());
    let scope = words.next().unwrap_or_else(|| "machine".to_owned());
    let ticks = if scope == "machine" { ticks } else { own_ticks };
    let yaml = format!(
        "worker_pool: {{ back_priority: normal }}\nthrottling: {{ throttles: [{{ name: all, scope: {scope}, threshold_percent: {threshold} }}] }}"
    );
    let sources = Sources::new().with_text("example.yaml", yaml.as_str());
    let engine = match load(&sources).map_err(|errors| errors.to_string()) {
        Ok(loaded) => Engine::start(loaded).expect("the engine starts"),
        Err(errors) => panic!("{errors}"),
    };
    let class = engine.class("batch").expect("built in");
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..2 {
        let (class, stop) = (class.clone(), stop.clone());
        match kind.as_str() {
            "tasks" => again(class, Duration::from_millis(1), stop),
            "long" => again(class, Duration::from_millis(300), stop),
            _ => {
                let _ = class.execute(move || {
                    while !stop.load(Relaxed) && checkpoint().is_ok() {
                        burn(Duration::from_micros(100));
                    }
                });
            }
        }
    }
    let (_never, pause) = channel::<()>();
    let mut seen = vec![ticks()];
    for second in 1..=seconds {
        let _ = pause.recv_timeout(Duration::from_secs(1));
        seen.push(ticks());
        let last = seen.len() - 1;
        let mean = percent(seen[last.saturating_sub(5)], seen[last]);
        for throttle in engine.throttles() {
            println!(
                "{second:3} s: {:5.1}% now, {mean:5.1}% over 5 s; {} says {:5.1}%, level {:.2}, {}",
                percent(seen[last - 1], seen[last]),
                throttle.name,
                throttle.usage_percent.unwrap_or(f64::NAN),
                throttle.level,
                throttle.state,
            );
        }
    }
    println!("{:#?}", engine.throttles());
    stop.store(true, Relaxed);
    drop(engine);
}
