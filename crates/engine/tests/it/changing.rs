//! Changes of the configuration while the engine runs: whole or not at all.

use crate::{end, engine, hold, wait_for};
use flyball_engine::Error;
use flyball_engine::config::Sources;
use serde_json::{Map, Value, json};

fn fields(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// CFG-3: a change is validated as a whole and applied as a whole; the answer tells old and new values, and so does the stream.
#[test]
fn a_change_is_applied_as_a_whole() {
    let engine = engine("");
    let change = json!({
        "cpu_scheduler": { "algorithm": "priority" },
        "load_balancer": { "strategy": "least_loaded" },
        "worker_pool": { "task_batch_size": 20 },
    });
    let changes = engine.configure(&change, "a person", false).expect("valid");
    let said: Vec<(&str, &Value, &Value)> = changes
        .iter()
        .map(|change| (change.key, &change.old, &change.new))
        .collect();
    assert!(
        said.contains(&("cpu_scheduler.algorithm", &json!("cfs"), &json!("priority"))),
        "{said:?}"
    );
    let stats = engine.executor().stats();
    assert_eq!(
        (stats.algorithm.to_string(), stats.strategy.to_string()),
        ("priority".into(), "least_loaded".into())
    );
    let event = wait_for(&engine, 0, |event| event.kind == "config");
    assert_eq!(event.data["who"], "a person");
    assert_eq!(event.data["changes"].as_array().map(Vec::len), Some(3));
    end(engine);
}

/// CFG-3: one wrong value among right ones, and nothing changes; the same for a dry run without any.
#[test]
fn a_wrong_value_changes_nothing() {
    let engine = engine("");
    let before = engine.config();
    let wrong = json!({ "cpu_scheduler": { "algorithm": "priority" }, "worker_pool": { "min_workers": -1 } });
    let error = engine
        .configure(&wrong, "a person", false)
        .expect_err("refused");
    assert!(error.to_string().contains("min_workers"), "{error}");
    let right = json!({ "cpu_scheduler": { "algorithm": "priority" } });
    assert_eq!(
        engine
            .configure(&right, "a person", true)
            .expect("valid")
            .len(),
        1
    );
    assert_eq!(engine.config(), before);
    assert_eq!(engine.executor().stats().algorithm.to_string(), "cfs");
    end(engine);
}

/// CFG-3: a key that needs a restart says so and changes nothing else of the same request.
#[test]
fn a_key_that_needs_a_restart_says_so() {
    let engine = engine("");
    let change = json!({ "server": { "listen": "127.0.0.1:1" }, "cpu_scheduler": { "algorithm": "priority" } });
    let error = engine
        .configure(&change, "a person", false)
        .expect_err("refused");
    assert!(error.to_string().contains("restart"), "{error}");
    assert_eq!(engine.executor().stats().algorithm.to_string(), "cfs");
    end(engine);
}

/// CFG-3: the sources are read anew; changes made while running stay on top; a broken file changes nothing.
#[test]
fn sources_are_read_anew() {
    let file = |text: &str| Sources::new().with_text("test.yaml", text);
    let engine = engine("load_balancer: { strategy: pull }");
    engine
        .configure(
            &json!({ "cpu_scheduler": { "algorithm": "priority" } }),
            "a person",
            false,
        )
        .expect("valid");
    let newer = "load_balancer: { strategy: affinity }\ncpu_scheduler: { algorithm: round_robin }";
    engine.reload(&file(newer), "SIGHUP").expect("valid");
    let stats = engine.executor().stats();
    assert_eq!(
        (stats.strategy.to_string(), stats.algorithm.to_string()),
        ("affinity".into(), "priority".into())
    );
    assert!(
        engine
            .reload(&file("load_balancer: { strategy: nonsense }"), "SIGHUP")
            .is_err()
    );
    assert_eq!(engine.executor().stats().strategy.to_string(), "affinity");
    let back = json!({ "cpu_scheduler": { "algorithm": null } });
    engine.configure(&back, "a person", false).expect("valid");
    assert_eq!(
        engine.executor().stats().algorithm.to_string(),
        "round_robin"
    );
    end(engine);
}

/// CFG-5: parts go off and on while the engine runs.
#[test]
fn parts_go_off_and_on() {
    let engine = engine("load_balancer: { strategy: affinity }");
    let set = |value: Value| engine.configure(&value, "a person", false).expect("valid");
    set(
        json!({ "load_balancer": { "enabled": false }, "cpu_scheduler": { "enabled": false }, "monitor": { "enabled": false } }),
    );
    let stats = engine.executor().stats();
    assert_eq!(
        (stats.strategy.to_string(), stats.algorithm.to_string()),
        ("pull".into(), "round_robin".into())
    );
    assert!(matches!(engine.cpu_profile(), Err(Error::Off { .. })));
    assert!(matches!(
        engine.rebalance("a person"),
        Err(Error::Off { .. })
    ));
    set(
        json!({ "load_balancer": { "enabled": true }, "cpu_scheduler": { "enabled": true }, "monitor": { "enabled": true } }),
    );
    let stats = engine.executor().stats();
    assert_eq!(
        (stats.strategy.to_string(), stats.algorithm.to_string()),
        ("affinity".into(), "cfs".into())
    );
    assert!(engine.cpu_profile().is_ok());
    end(engine);
}

/// CFG-7: classes come, change and go while the engine runs; one with tasks stays until they have ended.
#[test]
fn classes_come_change_and_go() {
    let engine = engine("classes: [{ name: reports, shares: 100 }]");
    engine
        .create_class(
            &fields(json!({ "name": "mail", "shares": 50, "guarantee": 0.25 })),
            "a person",
        )
        .expect("new");
    assert_eq!(engine.class_view("mail").expect("there").guarantee, 0.25);
    let again = engine.create_class(&fields(json!({ "name": "mail" })), "a person");
    assert!(matches!(again, Err(Error::Exists { .. })));
    engine
        .change_class("mail", &fields(json!({ "shares": 70 })), "a person")
        .expect("there");
    let mail = engine.class_view("mail").expect("there");
    assert_eq!((mail.shares, mail.guarantee), (70, 0.25));
    assert_eq!(
        engine.class_view("reports").expect("there").shares,
        100,
        "others stay as they were"
    );
    engine
        .change_class("mail", &fields(json!({ "shares": null })), "a person")
        .expect("taken back");
    let mail = engine.class_view("mail").expect("there");
    assert_eq!((mail.shares, mail.guarantee), (1024, 0.25));
    let held = hold(&engine, "mail", 1, 1);
    let busy = engine
        .delete_class("mail", "a person")
        .expect_err("it has a task");
    assert!(busy.to_string().contains("mail"), "{busy}");
    held.release();
    // Its worker may still be on its way out of the class.
    while engine.delete_class("mail", "a person").is_err() {
        std::thread::yield_now();
    }
    assert!(engine.class_view("mail").is_err());
    engine
        .change_class("batch", &fields(json!({ "shares": 300 })), "a person")
        .expect("built in");
    engine
        .delete_class("batch", "a person")
        .expect("what was said of it is taken back");
    assert_eq!(engine.class_view("batch").expect("there").shares, 256);
    assert!(engine.delete_class("batch", "a person").is_err());
    assert!(engine.delete_class("nothing", "a person").is_err());
    end(engine);
}

/// CFG-7: guarantees move from one class to another in one change, whatever their order; too much of them changes nothing.
#[test]
fn guarantees_move_at_once() {
    let engine = engine("classes: [{ name: a, guarantee: 0.9 }, { name: b, guarantee: 0.05 }]");
    let set = |a: f64, b: f64| {
        let classes = json!({ "classes": [{ "name": "a", "guarantee": a }, { "name": "b", "guarantee": b }] });
        engine.configure(&classes, "a person", false)
    };
    let guarantee = |name: &str| engine.class_view(name).expect("there").guarantee;
    set(0.05, 0.9).expect("fits");
    assert_eq!((guarantee("a"), guarantee("b")), (0.05, 0.9));
    set(0.9, 0.05).expect("fits");
    assert!(set(0.9, 0.9).is_err());
    assert_eq!((guarantee("a"), guarantee("b")), (0.9, 0.05));
    end(engine);
}

/// CFG-3: a class keeps its group; asked for another, everything stays as it was.
#[test]
fn a_class_keeps_its_group() {
    let engine = engine("");
    let error = engine
        .change_class(
            "batch",
            &fields(json!({ "group": "front", "shares": 9 })),
            "a person",
        )
        .expect_err("refused");
    assert!(error.to_string().contains("group"), "{error}");
    assert_eq!(engine.class_view("batch").expect("there").shares, 256);
    end(engine);
}

/// CPU-30: that limits of keys only observe is a setting of the class, and the limits say what they would have held back.
#[test]
fn limits_of_keys_may_observe() {
    let engine = engine("classes: [{ name: mail, key_concurrency: 1, key_mode: observe }]");
    let class = engine.class("mail").expect("configured");
    assert!(class.key_limits().observe);
    let would = || {
        let all = engine.limits();
        let limit = all
            .iter()
            .find(|limit| limit.name == "class/mail/key_concurrency");
        limit.expect("configured").would_refuse
    };
    assert_eq!(would(), Some(0));
    let all_in = std::sync::Arc::new(std::sync::Barrier::new(2));
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let all_in = all_in.clone();
            class.task().key("k").run(move || {
                all_in.wait();
            })
        })
        .collect();
    for mut task in tasks {
        task.join().expect("both run at once");
    }
    assert_eq!(would(), Some(1));
    let change = fields(json!({ "key_mode": "enforce" }));
    engine
        .change_class("mail", &change, "a person")
        .expect("valid");
    assert!(!class.key_limits().observe);
    assert_eq!(would(), None);
    end(engine);
}

/// CPU-29, CFG-7: what keys may do is configured by class, is listed among the limits, and changes while the engine runs.
#[test]
fn limits_of_keys_are_configured() {
    let engine =
        engine("classes: [{ name: mail, key_rate: 2.5, key_burst: 4, key_concurrency: 1 }]");
    let limits = || engine.class("mail").expect("configured").key_limits();
    assert_eq!(
        (limits().rate, limits().burst, limits().concurrency),
        (Some(2.5), 4, Some(1))
    );
    let listed = engine.limits();
    let rate = listed
        .iter()
        .find(|limit| limit.name == "class/mail/key_rate");
    assert_eq!(rate.and_then(|rate| rate.limit), Some(2.5));
    let change = fields(json!({ "key_rate": "unlimited", "key_queued": 9 }));
    engine
        .change_class("mail", &change, "a person")
        .expect("valid");
    assert_eq!((limits().rate, limits().queued), (None, Some(9)));
    let wrong = engine.change_class("mail", &fields(json!({ "key_rate": -1 })), "a person");
    assert!(wrong.is_err());
    assert_eq!(limits().queued, Some(9));
    engine
        .change_class(
            "batch",
            &fields(json!({ "key_concurrency": 3 })),
            "a person",
        )
        .expect("valid");
    assert_eq!(
        engine
            .class("batch")
            .expect("built in")
            .key_limits()
            .concurrency,
        Some(3)
    );
    engine
        .delete_class("batch", "a person")
        .expect("taken back");
    assert_eq!(
        engine
            .class("batch")
            .expect("built in")
            .key_limits()
            .concurrency,
        None
    );
    end(engine);
}
