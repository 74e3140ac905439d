//! The control loop: controllers propose, the arbiter decides, the executor is told, and the reasons are kept.

use crate::{end, engine, hold, wait_for};
use flyball_core::class::Group;
use flyball_engine::view::DecisionView;
use flyball_engine::{DecisionQuery, Engine, ScaleRequest, knobs};

const QUICK: &str = "
monitor: { collection_interval: 100ms }
worker_pool: { min_workers: 1, max_workers: 4, scale_up_delay: 200ms, scale_down_delay: 500ms, max_idle_time: 1s }
";

fn knob(engine: &Engine, name: &str) -> f64 {
    let knobs = engine.knobs();
    let found = knobs.iter().find(|knob| knob.name == name);
    found.expect("the knob exists").value
}

fn applied(engine: &Engine, after: u64, fits: impl Fn(&DecisionView) -> bool) -> DecisionView {
    let event = wait_for(engine, after, |event| {
        event.kind == "decision"
            && serde_json::from_value::<DecisionView>(event.data.clone())
                .is_ok_and(|decision| decision.applied && fits(&decision))
    });
    serde_json::from_value(event.data).expect("a decision")
}

/// CPU-16: load above target adds workers, idleness takes them away, and each decision says why, with its figures, in the log of decisions.
#[test]
fn the_pool_follows_the_load_and_says_why() {
    let engine = engine(QUICK);
    let held = hold(&engine, "batch", 40, 1);
    let up = applied(&engine, 0, |decision| {
        decision.knob == knobs::BACK && decision.to > decision.from
    });
    assert_eq!(up.part, "pool");
    let why = ["load", "queue", "tasks wait"]
        .iter()
        .any(|word| up.reason.contains(word));
    assert!(why, "{}", up.reason);
    assert!(!up.evidence.is_empty());
    assert!(engine.executor().workers().len() > 1);
    held.release();
    let last = engine.events().last();
    let down = applied(&engine, last, |decision| {
        decision.knob == knobs::BACK && decision.to < decision.from
    });
    assert!(!down.reason.is_empty());
    let query = DecisionQuery {
        part: Some("pool".to_owned()),
        ..DecisionQuery::default()
    };
    let numbers: Vec<u64> = engine
        .decisions(&query, 1000)
        .iter()
        .map(|decision| decision.number)
        .collect();
    assert!(numbers.contains(&up.number) && numbers.contains(&down.number));
    assert!(numbers.is_sorted());
    end(engine);
}

/// CPU-17: the way of sizing is a setting that changes while the pool runs, and each way adds workers for waiting work and takes them away again, with
/// its reasons.
#[test]
fn the_way_of_sizing_is_a_setting() {
    let engine = engine(QUICK);
    let stats = engine.scheduler_stats();
    assert_eq!(stats.sizing.as_deref(), Some("classic"));
    for (sizing, why) in [
        ("offered", ["workers' worth of work came", "tasks wait"]),
        ("adaptive", ["tasks wait", "work waits"]),
    ] {
        let change = serde_json::json!({ "worker_pool": { "sizing": sizing } });
        engine
            .configure(&change, "a person", false)
            .expect("a way of sizing");
        let stats = engine.scheduler_stats();
        assert_eq!(stats.sizing.as_deref(), Some(sizing));
        let before = engine.events().last();
        let held = hold(&engine, "batch", 40, 1);
        let up = applied(&engine, before, |decision| {
            decision.knob == knobs::BACK && decision.to > decision.from
        });
        assert!(
            why.iter().any(|word| up.reason.contains(word)),
            "{sizing}: {}",
            up.reason
        );
        assert!(!up.evidence.is_empty());
        held.release();
        let last = engine.events().last();
        let down = applied(&engine, last, |decision| {
            decision.knob == knobs::BACK && decision.to == Some(1.0)
        });
        assert!(!down.reason.is_empty());
        let shown = engine.pool_sizing();
        assert_eq!(shown.sizing.as_deref(), Some(sizing));
        let back = shown
            .groups
            .iter()
            .find(|group| group.group == "back")
            .expect("two groups");
        assert!(back.last_decision.is_some() && back.patience.is_some());
        assert_eq!(back.offered_workers.is_some(), sizing == "offered");
        assert_eq!(back.forecast.is_some(), sizing == "offered");
        assert_eq!(back.stage.is_some(), sizing == "adaptive");
        assert_eq!(back.load, None);
    }
    let plain = serde_json::json!({ "performance": { "enabled": false } });
    engine.configure(&plain, "a person", false).expect("off");
    assert_eq!(engine.pool_sizing().sizing, None);
    end(engine);
}

/// CPU-18: a person's target holds against the controller until it is given back; refusals say why and are kept.
#[test]
fn a_pin_outranks_the_controller() {
    let engine = engine(QUICK);
    let pin = ScaleRequest {
        target: Some(1),
        ..ScaleRequest::default()
    };
    engine
        .scale(Group::Back, pin, "a person")
        .expect("in bounds");
    let held = hold(&engine, "batch", 40, 1);
    let refused = wait_for(&engine, 0, |event| {
        event.kind == "decision" && !event.data["refusal"].is_null()
    });
    let refusal = refused.data["refusal"].as_str().unwrap_or_default();
    assert!(refusal.contains("pinned by a person"), "{refusal}");
    assert_eq!(knob(&engine, knobs::BACK), 1.0);
    let pinned = engine.knobs();
    let pinned = pinned
        .iter()
        .find(|knob| knob.name == knobs::BACK)
        .expect("there");
    assert_eq!(
        pinned.pinned.as_ref().map(|pin| pin.by.as_str()),
        Some("a person")
    );
    engine.unpin(knobs::BACK, "a person").expect("was pinned");
    applied(&engine, refused.id, |decision| {
        decision.knob == knobs::BACK && decision.to > decision.from && decision.part == "pool"
    });
    held.release();
    end(engine);
}

/// CPU-18: sizes out of bounds, in pieces, or of nothing are refused and change nothing; bounds and target go together or not at all.
#[test]
fn bad_sizes_change_nothing() {
    let engine = engine(QUICK);
    let before = (engine.knobs(), engine.config());
    let scale = |target, min, max| {
        let request = ScaleRequest { target, min, max };
        engine
            .scale(Group::Back, request, "a person")
            .err()
            .map(|error| error.to_string())
    };
    assert!(scale(None, None, None).is_some_and(|error| error.contains("target, min or max")));
    assert!(scale(Some(0), None, None).is_some_and(|error| error.contains("1 to 4")));
    assert!(scale(Some(9), None, None).is_some_and(|error| error.contains("1 to 4")));
    assert!(scale(Some(9), None, Some(8)).is_some_and(|error| error.contains("1 to 8")));
    assert!(scale(None, Some(7), Some(6)).is_some());
    for value in [f64::NAN, f64::INFINITY, -1.0, 0.5, 1e300] {
        assert!(
            engine.pin(knobs::BACK, value, "a person").is_err(),
            "{value}"
        );
    }
    assert!(engine.pin("no such", 1.0, "a person").is_err());
    assert_eq!((engine.knobs(), engine.config()), before);
    let request = ScaleRequest {
        target: Some(6),
        min: Some(2),
        max: Some(8),
    };
    engine
        .scale(Group::Back, request, "a person")
        .expect("fits");
    assert_eq!(knob(&engine, knobs::BACK), 6.0);
    assert_eq!(engine.config().worker_pool.max_workers, 8);
    end(engine);
}

/// CPU-16: parallelism can be held by a person, and goes back to what the machine allows.
#[test]
fn parallelism_follows_the_machine_again() {
    let engine = engine(QUICK);
    let allowed = engine.executor().stats().parallelism;
    engine
        .pin(knobs::PARALLELISM, 1.0, "a person")
        .expect("in bounds");
    assert_eq!(engine.executor().stats().parallelism, 1);
    engine
        .unpin(knobs::PARALLELISM, "a person")
        .expect("was pinned");
    // It looks while there is work.
    let held = hold(&engine, "batch", 1, 1);
    if allowed > 1 {
        applied(&engine, 0, |decision| decision.part == "machine");
    }
    assert_eq!(engine.executor().stats().parallelism, allowed);
    held.release();
    end(engine);
}
