//! Gates by name: those of programs, and what the configuration says of them.

#[cfg(feature = "tasks")]
use crate::tasks::{Folder, start};
use crate::{end, engine};
use flyball_engine::Error;
use flyball_engine::view::{GateView, LimitView};
use flyball_limit::{Ask, Degradation, GateConfig, Mode};
use serde_json::{Map, Value, json};

fn fields(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// CPU-22, API-4: a program's gate has one name everywhere; what the configuration says of it goes first, and is taken back.
#[test]
fn a_gate_of_a_program_is_known_by_name() {
    let engine = engine("limits: {adaptive: [{name: db, limit: 3}]}");
    assert!(engine.adaptive_limits().is_empty(), "nobody made it yet");
    let gate = engine.gate("db", GateConfig::fixed(9)).unwrap();
    assert_eq!(gate.limit(), 3);
    let again = engine.gate("db", GateConfig::dependency()).unwrap();
    let permit = again.try_enter(&Ask::default()).unwrap();
    let view = engine.adaptive_limit("db").unwrap();
    assert_eq!(
        (&*view.scope, &*view.algorithm, view.limit, view.in_flight),
        ("program", "fixed", 3, 1)
    );
    drop(permit);
    let change = fields(json!({ "limit": 5, "mode": "observe" }));
    engine.change_limit("db", &change, "test").unwrap();
    assert_eq!((gate.limit(), gate.config().mode), (5, Mode::Observe));
    let back = fields(json!({ "limit": null, "mode": null }));
    engine.change_limit("db", &back, "test").unwrap();
    assert_eq!((gate.limit(), gate.config().mode), (9, Mode::Enforce));
    engine.remove_limit("db", "test").unwrap();
    assert!(matches!(
        engine.remove_limit("db", "test"),
        Err(Error::Conflict(_))
    ));
    for name in ["", "A", "breakers"] {
        let refused = engine.gate(name, GateConfig::fixed(1));
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{name:?}");
    }
    end(engine);
}

/// CPU-22: limits of classes and dependencies come and go with the configuration, and a wrong change changes nothing.
#[cfg(feature = "tasks")]
#[test]
fn limits_come_and_go() {
    let folder = Folder::new("limits");
    let engine = start(&folder, "");
    let add = fields(json!({ "scope": "class:batch", "algorithm": "aimd", "max": 40 }));
    engine.change_limit("batch", &add, "test").unwrap();
    let before = engine.adaptive_limit("batch").unwrap();
    assert_eq!((&*before.scope, before.max), ("class:batch", 40));
    for wrong in [
        json!({ "scope": "class:idle" }),
        json!({ "max": 0 }),
        json!({ "tolerance": 2 }),
        json!({ "mode": "sleep" }),
        json!({ "name": "other" }),
    ] {
        let refused = engine.change_limit("batch", &fields(wrong.clone()), "test");
        assert!(refused.is_err(), "{wrong}");
        let after = engine.adaptive_limit("batch").unwrap();
        let settings = |view: &GateView| (view.scope.clone(), view.mode.clone(), view.max);
        assert_eq!(settings(&after), settings(&before), "{wrong}");
    }
    let other = |change: Value| engine.change_limit("other", &fields(change), "test");
    assert!(matches!(
        other(json!({ "max": 3 })),
        Err(Error::Unknown { .. })
    ));
    assert!(other(json!({ "scope": "class:none" })).is_err());
    assert!(
        other(json!({ "scope": "class:batch" })).is_err(),
        "one limit a class"
    );
    assert!(matches!(
        engine.gate("batch", GateConfig::fixed(1)),
        Err(Error::Conflict(_))
    ));
    engine
        .configure(&json!({ "limits": { "enabled": false } }), "test", false)
        .unwrap();
    assert!(engine.adaptive_limits().is_empty());
    assert!(matches!(
        other(json!({ "scope": "class:idle" })),
        Err(Error::Off { .. })
    ));
    engine
        .configure(&json!({ "limits": { "enabled": true } }), "test", false)
        .unwrap();
    engine.remove_limit("batch", "test").unwrap();
    assert!(engine.adaptive_limits().is_empty());
    end(engine);
}

/// CPU-22, API-4: a change that would do nothing is refused, and what is wrong with a change is said before what it may not do.
#[test]
fn what_would_do_nothing_is_refused() {
    let engine = engine("");
    let gate = engine.gate("db", GateConfig::fixed(4)).unwrap();
    for nothing in [json!({}), json!({ "name": "db" })] {
        let refused = engine.change_limit("db", &fields(nothing), "test");
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    assert!(engine.config().limits.adaptive.0.is_empty());
    for (change, conflicts) in [
        (json!({ "scope": "class:batch", "max": "many" }), false),
        (json!({ "scope": "class:batch" }), true),
    ] {
        let refused = engine.change_limit("db", &fields(change), "test");
        let conflict = matches!(refused, Err(Error::Conflict(_)));
        assert_eq!(conflict, conflicts, "{refused:?}");
    }
    engine
        .configure(&json!({ "limits": { "enabled": false } }), "test", false)
        .unwrap();
    let refused = engine.change_limit("db", &fields(json!({ "limit": 2 })), "test");
    assert!(matches!(refused, Err(Error::Off { .. })), "{refused:?}");
    assert_eq!(gate.limit(), 4);
    end(engine);
}

/// CPU-22, API-4: limits of durable tasks are neither added nor changed while there are no durable tasks, and the answer says what switches them on.
#[cfg(feature = "tasks")]
#[test]
fn limits_of_tasks_need_tasks() {
    let folder = Folder::new("limits-off");
    let off = start(
        &folder,
        "scheduler: {enabled: false}\nlimits: {adaptive: [{name: idle, scope: 'class:idle', max: 9}]}",
    );
    let nowhere = engine("");
    for (name, change) in [
        ("batch", json!({ "scope": "class:batch" })),
        ("pay", json!({ "scope": "dependency:pay.example.org:443" })),
        ("idle", json!({ "max": 3 })),
    ] {
        let change = fields(change);
        let refused = off.change_limit(name, &change, "test");
        let setting = match refused {
            Err(Error::Off { setting, .. }) => setting,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(setting, "scheduler.enabled");
        let refused = nowhere.change_limit(name, &change, "test");
        let expected = match name {
            "idle" => matches!(refused, Err(Error::Unknown { .. })),
            _ => matches!(refused, Err(Error::Unavailable { .. })),
        };
        assert!(expected, "{name}: {refused:?}");
    }
    assert_eq!(off.config().limits.adaptive.0.len(), 1);
    assert!(nowhere.config().limits.adaptive.0.is_empty());
    assert_eq!(off.adaptive_limit("idle").unwrap().max, 9);
    end(off);
    end(nowhere);
}

/// CPU-22, API-4: what the configuration names and nothing comes of is told with the reason, for as long as that is so.
#[cfg(feature = "tasks")]
#[test]
fn limits_that_bound_nothing_say_why() {
    let folder = Folder::new("limits-unused");
    let engine = start(
        &folder,
        "
limits:
  adaptive:
    - {name: batch, max: 10}
    - {name: bacth, scope: 'class:bacth'}
    - {name: pay, scope: 'dependency:pay.example.org:443'}
    - {name: idle, scope: 'class:idle'}
throttling:
  throttles:
    - {name: few, scope: 'class:bacth', threshold_percent: 50}
    - {name: none, scope: process, threshold_percent: 50, below: idle}
    - {name: off, scope: 'class:bacth', threshold_percent: 50, enabled: false}
    - {name: night, scope: process, threshold_percent: 50}
",
    );
    let unused = |name: &str| {
        let name = format!("adaptive/{name}");
        let found = engine.limits().into_iter().find(|limit| limit.name == name);
        found.expect("listed").unused
    };
    let says = |name: &str, words: &str| {
        let why = unused(name);
        assert!(
            why.as_ref().is_some_and(|why| why.contains(words)),
            "{why:?}"
        );
    };
    says("batch", "no program has made a gate");
    says("bacth", "no class is named \"bacth\"");
    says("pay", "no call has been made to it yet");
    assert_eq!(unused("idle"), None);
    let told = engine.unused_settings();
    let starts = [
        "limits.adaptive[0] (batch) bounds nothing: no program",
        "limits.adaptive[1] (bacth) bounds nothing: no class is named",
        "throttling.throttles[0] (few) holds nothing back: no class is named",
        "throttling.throttles[1] (none) holds nothing back: no class has a lower priority than idle",
    ];
    assert_eq!(told.len(), starts.len(), "{told:?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start), "{told}");
    }

    let gate = engine.gate("batch", GateConfig::fixed(2)).unwrap();
    assert_eq!((unused("batch"), gate.config().limit.max), (None, 10));
    let switch = |part: &str, on: bool| {
        let change = json!({ part: { "enabled": on } });
        engine.configure(&change, "test", false).unwrap();
    };
    switch("scheduler", false);
    says("idle", "scheduler.enabled switches it on");
    switch("limits", false);
    says("idle", "limits.enabled switches them on");
    assert_eq!(unused("batch"), None);
    end(engine);
}

/// CPU-22: what was learnt is forgotten when that is asked for, and calls stay in; a fixed limit has learnt nothing.
#[test]
fn a_limit_begins_anew() {
    let engine = engine("");
    let gate = engine.gate("db", GateConfig::fixed(4)).unwrap();
    let refused = engine.reset_limit("db", "test");
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let permit = gate.try_enter(&Ask::default()).unwrap();
    let initial = fields(json!({ "algorithm": "vegas", "initial": 6 }));
    engine.change_limit("db", &initial, "test").unwrap();
    assert_eq!(gate.limit(), 4, "what is known goes on");
    engine.reset_limit("db", "test").unwrap();
    let view = engine.adaptive_limit("db").unwrap();
    assert_eq!((view.limit, view.in_flight), (6, 1));
    assert_eq!(view.changes.last().unwrap().cause, "reset");
    assert!(matches!(
        engine.reset_limit("nobody", "test"),
        Err(Error::Unknown { .. })
    ));
    drop(permit);
    end(engine);
}

/// CPU-24, CPU-30: the level of the whole is the worst of the gates that act, and a new level is an event.
#[test]
fn the_worst_level_is_told() {
    let engine = engine("");
    assert_eq!(engine.degradation(), Degradation::Normal);
    let mut none = GateConfig::fixed(1);
    none.admission.queue_max = 0;
    let gate = engine.gate("front", none.clone()).unwrap();
    let watched = engine
        .gate("watched", none.with_mode(Mode::Observe))
        .unwrap();
    let (_in, _also) = (
        gate.try_enter(&Ask::default()),
        watched.try_enter(&Ask::default()),
    );
    let refuse = |gate: &flyball_limit::Gate| {
        drop(gate.try_enter(&Ask::default()));
        // What one that observes would say is in its figures alone.
        gate.status().level
    };
    while refuse(&watched) == Degradation::Normal {
        std::thread::yield_now();
    }
    assert_eq!(watched.level(), Degradation::Normal);
    assert_eq!(engine.degradation(), Degradation::Normal);
    while refuse(&gate) == Degradation::Normal {
        std::thread::yield_now();
    }
    assert!(engine.degradation() > Degradation::Normal);
    assert_eq!(engine.status().level, engine.degradation().name());
    let told = crate::wait_for(&engine, 0, |event| {
        event.kind == "limit" && event.data["limit"] == "front"
    });
    assert_eq!(
        (&told.data["kind"], &told.data["from"]),
        (&json!("level"), &json!("normal"))
    );
    assert_eq!(told.data["observed"], false);
    end(engine);
}

/// CPU-21, CPU-30: when a class refuses work that would wait for too long is a setting of it, off unless set, changed while it runs.
#[test]
fn shedding_is_configured() {
    let engine = engine("classes: [{name: batch, shed_after: 100ms, shed_mode: observe}]");
    let batch = || engine.class_view("batch").unwrap().shedding;
    let before = batch().unwrap();
    assert_eq!((before.shed_after_ms, &*before.mode), (100.0, "observe"));
    assert!(engine.class_view("normal").unwrap().shedding.is_none());
    let change = |fields: Value| engine.change_class("batch", &self::fields(fields), "test");
    change(json!({ "shed_mode": null, "shed_after": "2s" })).unwrap();
    let after = batch().unwrap();
    assert_eq!((after.shed_after_ms, &*after.mode), (2_000.0, "enforce"));
    let bound = |limit: &LimitView| limit.name == "class/batch/wait" && limit.limit == Some(2e3);
    assert!(engine.limits().iter().any(bound));
    for wrong in [
        json!({ "shed_after": "0s" }),
        json!({ "shed_after": 5 }),
        json!({ "shed_mode": "sleep" }),
    ] {
        assert!(change(wrong.clone()).is_err(), "{wrong}");
        assert_eq!(batch().unwrap().shed_after_ms, 2_000.0);
    }
    change(json!({ "shed_after": "never" })).unwrap();
    assert!(batch().is_none());
    end(engine);
}
