//! What the engine sees and shows.

use crate::{end, engine, hold, loaded, wait_for};
use flyball_core::time::thread_cpu_nanos;
use flyball_engine::view::HealthState;
use flyball_engine::{Engine, Options};
use flyball_sense::Root;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const QUICK: &str = "monitor: { collection_interval: 100ms }";

/// API-2: a profile of the real machine has every figure that this machine has, and its parts add up.
#[test]
fn the_profile_is_of_this_machine() {
    let engine = engine(QUICK);
    wait_for(&engine, 0, |event| event.kind == "sample");
    let profile = engine.cpu_profile().expect("on").expect("sampled");
    let parts = [
        profile.user_percent,
        profile.system_percent,
        profile.idle_percent,
        profile.iowait_percent,
        profile.steal_percent,
    ];
    let sum: f64 = parts
        .iter()
        .map(|part| part.expect("told by the kernel"))
        .sum();
    assert!((sum - 100.0).abs() < 0.5, "{profile:?}");
    assert_eq!(profile.cores, Some(profile.per_core.len() as u32));
    assert!(profile.threads.is_some_and(|threads| threads > 3));
    assert!(!engine.cpu_history(10).expect("on").is_empty());
    assert!(engine.usage_stats().expect("on").samples > 0);
    end(engine);
}

/// MON-2: where the kernel tells nothing, figures are absent, never zero, and the status says what is lacking.
#[test]
fn what_is_not_known_is_absent() {
    let options = Options {
        root: Root::at("/nonexistent"),
        ..Options::default()
    };
    let engine = Engine::start_with(loaded(QUICK), options).expect("starts");
    wait_for(&engine, 0, |event| event.kind == "sample");
    let profile = engine.cpu_profile().expect("on").expect("sampled");
    assert_eq!(
        (profile.overall_percent, profile.load1, profile.cores),
        (None, None, None)
    );
    assert!(profile.per_core.is_empty() && profile.pressure.is_none());
    let line = engine.cpu_status().cpu_profiling.detail;
    assert!(
        line.contains("not on this machine") && line.contains("cpu"),
        "{line}"
    );
    assert_eq!(engine.usage_stats().expect("on").average_percent, None);
    end(engine);
}

/// API-2: the CPU time that classes are said to have received is what the tasks' own thread clocks counted.
#[test]
fn shares_agree_with_thread_clocks() {
    let engine = engine("classes: [{ name: small, shares: 512 }, { name: large, shares: 1536 }]");
    let mut counted = Vec::new();
    for name in ["small", "large"] {
        let class = engine.class(name).expect("configured");
        let own = Arc::new(AtomicU64::new(0));
        for _ in 0..400 {
            let own = own.clone();
            let work = move || {
                let start = thread_cpu_nanos();
                let mut spent = 0;
                while spent < 1_000_000 {
                    spent = thread_cpu_nanos() - start;
                }
                own.fetch_add(spent, Ordering::Relaxed);
            };
            class.execute(work).expect("taken");
        }
        counted.push((name, own));
    }
    let executor = engine.executor();
    let done = |name: &str| {
        executor
            .stats()
            .class(name)
            .map_or(0, |class| class.counts.tasks)
    };
    while counted.iter().any(|(name, _)| done(name) < 400) {
        std::thread::yield_now();
    }
    let told: Vec<f64> = counted
        .iter()
        .map(|(name, _)| engine.class_view(name).expect("there").cpu_ms)
        .collect();
    let own: Vec<f64> = counted
        .iter()
        .map(|(_, own)| own.load(Ordering::Relaxed) as f64 / 1e6)
        .collect();
    let part = |times: &[f64]| times[0] / times.iter().sum::<f64>() * 100.0;
    assert!(
        (part(&told) - part(&own)).abs() < 2.0,
        "told {told:?} ms, counted {own:?} ms"
    );
    end(engine);
}

/// API-2: health, status, limits and queues tell of a queue that fills up.
#[test]
fn a_full_queue_shows() {
    let engine = engine(
        "classes: [{ name: tiny, queue_limit: 3 }]\nmonitor: { collection_interval: 100ms }",
    );
    assert_eq!(engine.health().status, HealthState::Healthy);
    let held = hold(&engine, "normal", 64, 1);
    let class = engine.class("tiny").expect("configured");
    while class.execute(|| ()).is_ok() {}
    let limits = engine.limits();
    let queue = limits
        .iter()
        .find(|limit| limit.name == "class/tiny/queue")
        .expect("listed");
    assert_eq!((queue.limit, queue.refused), (Some(3.0), Some(1)));
    let queues = engine.scheduler_queues();
    assert!(queues.is_sorted_by_key(|queue| std::cmp::Reverse(queue.priority)));
    assert!(
        queues
            .iter()
            .any(|queue| queue.class == "normal" && queue.length > 0)
    );
    let stats = engine.scheduler_stats();
    assert!(stats.totals.queued > 0 && stats.totals.refused == 1);
    assert!(engine.status().queue_length > 0);
    assert!(!engine.workers().is_empty());
    held.release();
    end(engine);
}

/// CPU-18: a class that is paused keeps its queue and runs nothing; others go on; resumed, it runs everything.
#[test]
fn a_paused_class_waits() {
    let engine = engine("");
    engine.pause_class("batch", "a person").expect("there");
    let mut waiting = engine.class("batch").expect("there").run(|| 7);
    engine
        .class("normal")
        .expect("there")
        .run(|| ())
        .join()
        .expect("runs");
    assert!(engine.class_view("batch").expect("there").paused);
    assert_eq!(engine.class_view("batch").expect("there").totals.queued, 1);
    engine.resume_class("batch", "a person").expect("there");
    assert_eq!(waiting.join().expect("runs"), 7);
    assert!(engine.pause_class("nothing", "a person").is_err());
    end(engine);
}
