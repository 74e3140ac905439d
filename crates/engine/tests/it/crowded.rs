//! Many callers at once, and engines in odd company: configuration, knobs and executor agree afterwards.

use crate::{end, engine, hold, loaded, wait_for};
use flyball_core::class::Group;
use flyball_engine::{Engine, Options, ScaleRequest, knobs};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::thread;

fn fields(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn knob(engine: &Engine, name: &str) -> usize {
    let knobs = engine.knobs();
    let found = knobs.iter().find(|knob| knob.name == name);
    let found = found.expect("the knob exists");
    assert!((found.min..=found.max).contains(&found.value), "{found:?}");
    found.value as usize
}

/// Checks that the executor has what the knobs say, and the classes that the configuration names.
fn agree(engine: &Engine) {
    let stats = engine.executor().stats();
    let told = [knobs::FRONT, knobs::BACK, knobs::PARALLELISM].map(|name| knob(engine, name));
    let done = [
        stats.group(Group::Front).wanted,
        stats.group(Group::Back).wanted,
        stats.parallelism,
    ];
    assert_eq!(told, done, "knobs and executor");
    let config = engine.config();
    let named: BTreeSet<&str> = config.classes.iter().map(|spec| &*spec.name).collect();
    for spec in config.classes.iter() {
        let class = stats.class(&spec.name);
        assert_eq!(class.map(|class| &class.spec), Some(spec));
    }
    let built_in = flyball_core::class::ClassSpec::built_in();
    for class in &stats.classes {
        let known = built_in.iter().any(|spec| spec.name == class.name);
        assert!(known || named.contains(&*class.name), "{}", class.name);
    }
}

/// CFG-3: classes that several create at the same moment are all there, and none takes another's away.
#[test]
fn classes_created_at_once_are_all_there() {
    let engine = engine("");
    thread::scope(|scope| {
        for caller in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                for number in 0..10 {
                    let class = json!({ "name": format!("c{caller}-{number}") });
                    engine
                        .create_class(&fields(class), "a person")
                        .expect("new");
                }
            });
        }
    });
    assert_eq!(engine.config().classes.len(), 40);
    agree(&engine);
    end(engine);
}

/// CFG-3, CPU-18: configuration, sizes, pins, pauses and classes changed by several at once, with tasks running: afterwards
/// configuration, knobs and executor agree, and nothing that was accepted is lost.
#[test]
fn everything_at_once_agrees_afterwards() {
    let engine = engine(
        "worker_pool: { min_workers: 1, max_workers: 4, scale_up_delay: 50ms, scale_down_delay: 100ms, max_idle_time: 100ms }",
    );
    let batch = engine.class("batch").expect("built in");
    let handles = thread::scope(|scope| {
        let engine = &engine;
        scope.spawn(move || {
            for round in 0..40 {
                let pool = json!({ "min_workers": 1 + round % 3, "max_workers": 3 + round % 4, "target_load": 0.5 });
                engine.configure(&json!({ "worker_pool": pool }), "one", false).expect("valid");
            }
        });
        scope.spawn(move || {
            for round in 0..40 {
                let request = ScaleRequest {
                    target: Some(1 + round % 7),
                    ..ScaleRequest::default()
                };
                // Refused where it does not fit the bounds of the moment.
                let _ = engine.scale(Group::Back, request, "two");
                let _ = engine.unpin(knobs::BACK, "two");
            }
        });
        scope.spawn(move || {
            for round in 0..40 {
                engine
                    .pin(knobs::PARALLELISM, f64::from(1 + round % 5), "three")
                    .expect("in bounds");
                engine
                    .unpin(knobs::PARALLELISM, "three")
                    .expect("was pinned");
            }
        });
        scope.spawn(move || {
            for round in 0..40 {
                let class = fields(json!({ "name": "extra", "guarantee": 0.5 }));
                let _ = engine.create_class(&class, "four");
                let _ =
                    engine.change_class("extra", &fields(json!({ "shares": 1 + round })), "four");
                let _ = engine.delete_class("extra", "four");
                for worker in engine.workers() {
                    if worker.group == "back" {
                        let _ = engine.drain_worker(&worker.id, "four");
                    }
                }
                let _ = engine.unpin(knobs::BACK, "four");
            }
        });
        scope.spawn(move || {
            for _ in 0..40 {
                engine.pause_class("batch", "five").expect("there");
                engine.resume_class("batch", "five").expect("there");
            }
        });
        let handles: Vec<_> = (0..2000).map(|number| batch.run(move || number)).collect();
        handles
    });
    for (number, mut handle) in handles.into_iter().enumerate() {
        assert_eq!(handle.join().expect("runs"), number);
    }
    // Nothing moves any more: the knobs are pinned, which the executor is told at once.
    let size = knob(&engine, knobs::BACK) as f64;
    engine
        .pin(knobs::BACK, size, "a person")
        .expect("in bounds");
    engine
        .pin(knobs::PARALLELISM, 2.0, "a person")
        .expect("in bounds");
    agree(&engine);
    end(engine);
}

/// CPU-18: a worker that is on its way out is not drained twice: the group would be smaller by the knob than it is.
#[test]
fn a_worker_is_drained_once() {
    let engine = engine("worker_pool: { min_workers: 1, max_workers: 4, initial_workers: 4 }");
    let held = hold(&engine, "batch", 1, 1);
    let workers = engine.workers();
    let busy = workers
        .iter()
        .find(|worker| worker.group == "back" && worker.current_task.is_some())
        .expect("one runs the task");
    engine
        .drain_worker(&busy.id, "a person")
        .expect("one of four");
    let again = engine
        .drain_worker(&busy.id, "a person")
        .expect_err("it goes already");
    assert!(again.to_string().contains("already"), "{again}");
    agree(&engine);
    held.release();
    end(engine);
}

/// CPU-16: parallelism held by a person moves the bounds that hang on it: there are front threads for all that may run at once.
#[test]
fn front_threads_follow_parallelism() {
    let engine = engine("");
    let allowed = engine.executor().stats().parallelism;
    let more = allowed + 3;
    engine
        .pin(knobs::PARALLELISM, more as f64, "a person")
        .expect("in bounds");
    assert_eq!(knob(&engine, knobs::FRONT), more);
    agree(&engine);
    end(engine);
}

/// CFG-5: self-regulation switched off while running leaves the pool that it leaves at the start.
#[test]
fn switched_off_the_pool_is_plain() {
    let engine =
        engine("worker_pool: { min_workers: 1, max_workers: 64 }\nmonitor: { enabled: false }");
    let off = json!({ "performance": { "enabled": false } });
    engine.configure(&off, "a person", false).expect("valid");
    wait_for(&engine, 0, |event| {
        event.kind == "decision" && event.data["knob"] == knobs::BACK
    });
    let parallelism = engine.executor().stats().parallelism;
    assert_eq!(knob(&engine, knobs::BACK), parallelism + 1);
    agree(&engine);
    end(engine);
}

/// CPU-18: what happens to workers is told although nothing is sampled and nothing regulated.
#[test]
fn events_come_from_a_plain_pool() {
    let engine = engine(
        "performance: { enabled: false }\nmonitor: { enabled: false }\nworker_pool: { health_check_interval: 100ms }",
    );
    let worker = engine
        .workers()
        .into_iter()
        .find(|worker| worker.group == "back");
    engine
        .restart_worker(&worker.expect("there").id, "a person")
        .expect("runs");
    wait_for(&engine, 0, |event| {
        event.kind == "worker" && event.data["kind"] == "restarted"
    });
    end(engine);
}

/// CFG-3: several classes are removed together or none; of none the handles stay good.
#[test]
fn classes_go_together_or_not_at_all() {
    let engine = engine("");
    for name in ["a", "b"] {
        let class = json!({ "name": name, "guarantee": 0.25 });
        engine
            .create_class(&fields(class), "a person")
            .expect("new");
    }
    let idle = engine.class("a").expect("there");
    let held = hold(&engine, "b", 1, 1);
    let none = json!({ "classes": [] });
    let error = engine
        .configure(&none, "a person", false)
        .expect_err("b runs");
    assert!(error.to_string().contains("tasks"), "{error}");
    assert_eq!(idle.run(|| 7).join().expect("the class is as it was"), 7);
    assert_eq!(engine.class_view("a").expect("there").guarantee, 0.25);
    held.release();
    end(engine);
}

/// CFG-5: CPU and memory figures go off and on by themselves.
#[test]
fn figures_of_cpu_and_memory_are_switched_apart() {
    let only = |which: &str| {
        let engine = engine(&format!(
            "monitor: {{ collection_interval: 100ms, {which}: {{ enabled: false }} }}"
        ));
        while engine.snapshot().is_none() {
            thread::yield_now();
        }
        let seen = engine.status().utilisation;
        let known = (seen.cpu_percent.is_some(), seen.memory_percent.is_some());
        let profile = engine.cpu_profile().is_ok();
        end(engine);
        (known, profile)
    };
    assert_eq!(only("memory"), ((true, false), true));
    assert_eq!(only("cpu"), ((false, true), false));
}

/// CFG-2: what only a program can say is not taken back by the configuration.
#[test]
fn settings_of_the_program_stay() {
    let executor = flyball_executor::Config {
        max_stuck: 3,
        parallelism: 5,
        ..flyball_executor::Config::default()
    };
    let options = Options {
        executor,
        ..Options::default()
    };
    let engine = Engine::start_with(loaded(""), options).expect("starts");
    let change = json!({ "worker_pool": { "task_batch_size": 20 } });
    engine.configure(&change, "a person", false).expect("valid");
    assert_eq!(engine.executor().tuning().max_stuck, 3);
    assert_eq!(knob(&engine, knobs::PARALLELISM), 5);
    assert_eq!(knob(&engine, knobs::FRONT), 5);
    agree(&engine);
    end(engine);
}

/// CPU-1: two engines stand side by side in one process, started inside tokio runtimes of either kind; one ends, the other goes on.
#[test]
fn engines_stand_side_by_side_in_any_runtime() {
    let single = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let many = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    for runtime in [single, many] {
        let runtime = runtime.expect("a runtime");
        let (one, two) = runtime.block_on(async {
            let (one, two) = (engine(""), engine(""));
            let sum = one
                .class("batch")
                .expect("there")
                .run(|| 1)
                .await
                .expect("runs");
            let other = two
                .class("batch")
                .expect("there")
                .spawn(async move { sum + 1 });
            assert_eq!(other.await.expect("runs"), 2);
            (one, two)
        });
        let left = one.class("batch").expect("there");
        drop(one);
        assert!(left.run(|| 1).join().is_err(), "its engine is gone");
        assert_eq!(
            two.class("batch")
                .expect("there")
                .run(|| 3)
                .join()
                .expect("runs"),
            3
        );
        end(two);
    }
}
