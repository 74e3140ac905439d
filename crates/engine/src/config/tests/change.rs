//! Changes while running.

use serde_json::json;

use super::*;

fn changed(loaded: &Loaded, changes: serde_json::Value) -> (Loaded, Vec<Change>) {
    loaded
        .with_changes(&changes, Origin::Api)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// CFG-3: a change answers old and new values, prevails over all sources, and null takes it back.
#[test]
fn keys_change_and_go_back() {
    let start = loaded("worker_pool: {min_workers: 3}\n");
    let (next, changes) = changed(
        &start,
        json!({"cpu_scheduler": {"max_workers": 12}, "worker_pool": {"min_workers": 4, "scale_up_delay": "2s", "target_load": 0.7}}),
    );
    assert_eq!(
        serde_json::to_value(&changes).expect("JSON"),
        json!([
            {"key": "worker_pool.min_workers", "old": 3, "new": 4, "restart": false},
            {"key": "worker_pool.max_workers", "old": 0, "new": 12, "restart": false},
            {"key": "worker_pool.scale_up_delay", "old": "5s", "new": "2s", "restart": false},
        ])
    );
    assert_eq!(next.config.worker_pool.min_workers, 4);
    assert_eq!(
        next.origin("worker_pool.min_workers")
            .expect("a key")
            .1
            .to_string(),
        "api"
    );
    let (next, changes) = changed(&next, json!({"worker_pool": {"min_workers": null}}));
    assert_eq!((changes.len(), next.config.worker_pool.min_workers), (1, 3));
    let (next, changes) = changed(&next, json!({"worker_pool": null}));
    assert_eq!(changes.len(), 2);
    assert_eq!(next.config, start.config);
    assert!(changed(&next, json!({})).1.is_empty());
    let (next, _) = changed(
        &next,
        json!({"cache": {"enabled": false}, "classes": [{"name": "web", "shares": 5}]}),
    );
    let (next, changes) = changed(&next, json!(null));
    assert_eq!((changes.len(), &next.config), (2, &start.config));
}

/// CFG-3: a wrong change is refused as a whole, with JSON pointers.
#[test]
fn wrong_changes_change_nothing() {
    let start = loaded("worker_pool: {max_workers: 8}\n");
    let refused = |changes| {
        let errors = start
            .with_changes(&changes, Origin::Api)
            .expect_err("mistakes");
        let faults = errors.faults().iter();
        faults
            .map(|fault| format!("{} {}", fault.pointer, fault.detail()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        refused(json!({
            "worker_pool": {"min_workers": -1, "task_batch_size": "10", "max_idle_time": 60, "a/b~c": 1},
            "classes": [{"name": "ok"}, {"name": "web", "shares": 0}],
            "performance": 5,
        })),
        [
            "/classes/1/shares found 0, expected an integer from 1 to 1000000",
            "/performance found 5, expected a map of keys: enabled, optimization_level",
            "/worker_pool/a~1b~0c unknown key",
            "/worker_pool/max_idle_time found 60 (it has no unit: one of d, h, m, s, ms, us, ns), expected a duration from 100ms to 1d, such as 30s",
            "/worker_pool/min_workers found -1, expected an integer from 1 to 128",
            "/worker_pool/task_batch_size found \"10\", expected an integer from 1 to 10000",
        ]
    );
    assert_eq!(
        refused(json!({"worker_pool": {"min_workers": 9}})),
        [
            "/worker_pool/min_workers min_workers 9 is above max_workers 8 (worker_pool.max_workers is set by flyball.yaml:1:28)"
        ]
    );
    assert_eq!(
        refused(
            json!({"worker_pool": {"min_workers": 3}, "server": {"listen": "127.0.0.1:1"}, "queue": {"url": "x://hunter2"}})
        ),
        [
            "/queue/url changing none to (secret) needs a restart; nothing was changed",
            "/server/listen changing 127.0.0.1:7070 to 127.0.0.1:1 needs a restart; nothing was changed",
        ]
    );
    assert_eq!(
        refused(json!({"cpu_scheduler": {"max_workers": 3}, "worker_pool": {"max_workers": 4}}))
            .len(),
        1
    );
    assert_eq!(refused(json!("text")).len(), 1);
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    assert_eq!(
        refused(json!({"alerts": deep})),
        [" is nested deeper than 64"]
    );
    // The same value as before is no change, also of a key that needs a restart.
    let (_, changes) = changed(&start, json!({"server": {"listen": "127.0.0.1:7070"}}));
    assert!(changes.is_empty());
}

/// CFG-3: reading the sources again gives the same list; changes made at run time stay; restarts are refused with their place.
#[test]
fn reloading() {
    let file = |text: &str| Sources::new().with_text("flyball.yaml", text);
    let start = load(&file("cache: {ttl: 1h}\nworker_pool: {min_workers: 3}\n")).expect("right");
    let (start, _) = changed(&start, json!({"worker_pool": {"min_workers": 5}}));
    let (next, changes) = start
        .reload(&file(
            "cache: {ttl: 2h}\nworker_pool: {min_workers: 4, start_batch: 2}\n",
        ))
        .expect("right");
    let keys: Vec<_> = changes.iter().map(|change| change.key).collect();
    assert_eq!(keys, ["worker_pool.start_batch", "cache.ttl"]);
    assert_eq!(next.config.worker_pool.min_workers, 5);
    let (next, _) = changed(&next, json!({"worker_pool": {"min_workers": null}}));
    assert_eq!(
        next.config.worker_pool.min_workers, 4,
        "what the file says now"
    );

    let errors = next
        .reload(&file("cache: {ttl: 3h}\nserver:\n  listen: 127.0.0.1:1\n"))
        .expect_err("a restart");
    assert_eq!(
        errors.to_string(),
        "\
flyball.yaml:3:11: server.listen: changing 127.0.0.1:7070 to 127.0.0.1:1 needs a restart; nothing was changed
  | listen: 127.0.0.1:1
  |         ^"
    );
    let errors = next
        .reload(&file("cache: {ttl: 3x}\n"))
        .expect_err("a mistake");
    assert_eq!(errors.faults().len(), 1);
    assert_eq!(next.config.cache.ttl.as_secs(), 7200);
}
