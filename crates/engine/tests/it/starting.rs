//! Start, end, and what is refused.

use crate::{end, engine, loaded};
use flyball_engine::Engine;
use flyball_engine::config::{Sources, load};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// CPU-18: shutdown runs every accepted task to its end, and leaves no thread.
#[test]
fn shutdown_runs_what_was_accepted() {
    let engine = engine("worker_pool: { shutdown_timeout: 1m }");
    let ran = Arc::new(AtomicUsize::new(0));
    for _ in 0..1000 {
        let ran = ran.clone();
        let count = move || {
            ran.fetch_add(1, Ordering::SeqCst);
        };
        engine
            .class("batch")
            .expect("built in")
            .execute(count)
            .expect("taken");
    }
    let report = engine.shutdown().expect("not on a worker");
    assert_eq!((ran.load(Ordering::SeqCst), report.cancelled), (1000, 0));
}

/// CPU-18: an engine that is asked to end by one of its own tasks says that it cannot, and goes on.
#[test]
fn shutdown_on_an_own_worker_is_refused() {
    let engine = engine("");
    let class = engine.class("normal").expect("built in");
    let mut refused = class.run(move || engine.shutdown().err());
    let (engine, error) = *refused.join().expect("ends").expect("refused");
    assert!(error.to_string().contains("shutdown"), "{error}");
    assert!(engine.is_ready());
    end(engine);
}

/// CFG-1: classes whose guarantees pass 100% are refused before anything runs.
#[test]
fn classes_that_do_not_fit_together_are_refused() {
    let yaml = "classes: [{name: a, guarantee: 0.7}, {name: b, guarantee: 0.7}]";
    let sources = Sources::new().with_text("test.yaml", yaml);
    let errors = load(&sources).expect_err("refused").to_string();
    assert!(errors.contains("guarantee"), "{errors}");
}

/// CFG-5: with self-regulation off the pool is a plain one: nothing turns its knobs.
#[test]
fn a_plain_pool_is_not_regulated() {
    let engine = Engine::start(loaded("performance: { enabled: false }")).expect("starts");
    let part = engine
        .status()
        .parts
        .into_iter()
        .find(|part| part.part == "pool_size");
    assert!(!part.expect("listed").enabled);
    assert_eq!(
        engine.executor().stats().algorithm.to_string(),
        "round_robin"
    );
    end(engine);
}
