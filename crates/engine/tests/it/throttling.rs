//! Throttles on real threads and the real machine.

use crate::{end, engine, loaded, wait_for};
use flyball_engine::config::MAX_THROTTLES;
use flyball_engine::view::ThrottleView;
use flyball_engine::{DecisionQuery, Engine, Error, Options};
use flyball_executor::checkpoint;
use flyball_sense::Root;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};

fn fields(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// A closure of a class that computes until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    handle: flyball_executor::Handle<()>,
}

impl Load {
    fn begin(engine: &Engine, class: &str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let handle = engine
            .class(class)
            .expect("there")
            .run(move || while !seen.load(SeqCst) && checkpoint().is_ok() {});
        Load { stop, handle }
    }

    fn end(mut self) {
        self.stop.store(true, SeqCst);
        self.handle.join().expect("it ends");
    }
}

/// A control group with a CPU quota, made up: what the kernel would say of it.
struct Group {
    root: PathBuf,
}

impl Group {
    fn new(name: &str, cpus: f64) -> Group {
        let name = format!("flyball-quota-{name}-{}", std::process::id());
        let group = Group {
            root: Path::new(env!("CARGO_TARGET_TMPDIR")).join(name),
        };
        group.write("proc/self/cgroup", "0::/job\n");
        group.write(
            "proc/self/mountinfo",
            "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
        );
        group.allow(cpus);
        group.spend(0, 0);
        group
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    fn allow(&self, cpus: f64) {
        let usec = (cpus * 1e5) as u64;
        self.write("sys/fs/cgroup/job/cpu.max", &format!("{usec} 100000\n"));
    }

    /// So many periods have passed, and in so many of them the quota was spent 40 ms too early.
    fn spend(&self, periods: u64, throttled: u64) {
        let usec = throttled * 40_000;
        let text = format!(
            "usage_usec 1\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec {usec}\n"
        );
        self.write("sys/fs/cgroup/job/cpu.stat", &text);
    }

    /// A daemon's engine in this group.
    fn engine(&self) -> Engine {
        let options = Options {
            daemon_throttles: true,
            root: Root::at(&self.root),
            ..Options::default()
        };
        let quick = "monitor: { collection_interval: 100ms }";
        Engine::start_with(loaded(quick), options).expect("starts")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// CPU-20, DASH-5: a throttle becomes active when its class uses more than its threshold, which is an event and a decision with its
/// evidence; the level is a knob that a person can pin; when the load has ended, so does the throttle, with the usual hysteresis and a threshold below that.
#[test]
fn a_throttle_begins_and_ends() {
    let engine = engine(
        "throttling: { throttles: [{ name: few, scope: 'class:batch', threshold_percent: 3 }] }",
    );
    let load = Load::begin(&engine, "batch");
    let begun = wait_for(&engine, 0, |event| {
        event.kind == "throttle" && event.data["kind"] == "activated"
    });
    assert_eq!(begun.data["throttle"], "few");
    let decided = wait_for(&engine, 0, |event| {
        event.kind == "decision" && event.data["part"] == "throttle"
    });
    assert_eq!(
        (&decided.data["knob"], &decided.data["applied"]),
        (&json!("throttle.few"), &json!(true))
    );
    assert!(
        decided.data["evidence"]
            .as_array()
            .is_some_and(|all| !all.is_empty()),
        "{decided:?}"
    );
    let pinned = engine
        .pin("throttle.few", 0.5, "a person")
        .expect("within bounds");
    assert_eq!(pinned.to, Some(0.5));
    let view = &engine.throttles()[0];
    assert_eq!(
        (view.level, &*view.acts_on),
        (0.5, &["batch".to_owned()][..])
    );
    engine
        .unpin("throttle.few", "a person")
        .expect("was pinned");
    load.end();
    let ended = wait_for(&engine, begun.id, |event| {
        event.kind == "throttle" && event.data["kind"] == "deactivated"
    });
    assert_eq!(ended.data["level"], 0.0);
    let stats = engine.throttler_stats();
    assert!(
        stats.activations >= 1 && stats.deactivations >= 1 && stats.throttled_ms > 0,
        "{stats:?}"
    );
    end(engine);
}

/// CPU-30: a throttle that observes decides and counts, and neither knob nor executor hear of it.
#[test]
fn an_observing_throttle_holds_nothing_back() {
    let engine = engine(
        "throttling: { throttles: [{ name: few, scope: 'class:batch', threshold_percent: 1, mode: observe }] }",
    );
    let load = Load::begin(&engine, "batch");
    let begun = wait_for(&engine, 0, |event| {
        event.kind == "throttle" && event.data["kind"] == "activated"
    });
    assert_eq!(begun.data["observed"], true);
    let knobs = engine.knobs();
    let knob = knobs.iter().find(|knob| knob.name == "throttle.few");
    assert_eq!(knob.map(|knob| knob.value), Some(0.0));
    let view = &engine.throttles()[0];
    assert!(view.level > 0.0 && view.mode == "observe", "{view:?}");
    assert_eq!(engine.throttler_stats().active, 0);
    load.end();
    end(engine);
}

/// CPU-20: a library has no throttle of its own; the daemon's act on classes below normal only, and can be changed.
#[test]
fn only_the_daemon_has_throttles_of_its_own() {
    let library = engine("");
    assert!(library.throttles().is_empty());
    assert!(!library.cpu_status().cpu_throttling.enabled);
    end(library);
    let options = Options {
        daemon_throttles: true,
        ..Options::default()
    };
    let engine = Engine::start_with(loaded(""), options).expect("starts");
    let names = |engine: &Engine| -> Vec<String> {
        engine
            .throttles()
            .into_iter()
            .map(|throttle| throttle.name)
            .collect()
    };
    assert_eq!(names(&engine), ["machine", "quota"]);
    for throttle in engine.throttles() {
        assert_eq!(throttle.acts_on, ["batch", "idle"]);
    }
    let change = fields(json!({ "name": "machine", "threshold_percent": 70, "mode": "observe" }));
    engine.change_throttle(&change, "a person").expect("valid");
    let machine = &engine.throttles()[0];
    assert_eq!(
        (machine.threshold_percent, &*machine.mode),
        (70.0, "observe")
    );
    let wrong = fields(json!({ "name": "quota", "threshold_percent": 70 }));
    assert!(matches!(
        engine.change_throttle(&wrong, "a person"),
        Err(Error::Invalid { .. })
    ));
    let off = json!({ "throttling": { "enabled": false } });
    engine.configure(&off, "a person", false).expect("valid");
    assert_eq!(names(&engine), ["machine", "quota"]);
    for throttle in engine.throttles() {
        assert_eq!(throttle.state, "off");
        assert!(throttle.reason.contains("throttling.enabled"));
    }
    end(engine);
}

/// CPU-20: the daemon's own throttles are switched off and on together, and leave those alone that people added; these can be removed, the daemon's own
/// cannot. What is added or changed while all are off is there, and off.
#[test]
fn the_daemons_own_are_switched_off_alone() {
    let options = Options {
        daemon_throttles: true,
        ..Options::default()
    };
    let engine = Engine::start_with(loaded(""), options).expect("starts");
    let states = || -> Vec<(String, bool)> {
        let all = engine.throttles().into_iter();
        all.map(|throttle| (throttle.name, throttle.enabled))
            .collect()
    };
    let named = |states: &[(&str, bool)]| -> Vec<(String, bool)> {
        let states = states.iter();
        states.map(|(name, on)| ((*name).to_owned(), *on)).collect()
    };
    let few = json!({ "name": "few", "scope": "class:batch", "threshold_percent": 50 });
    engine
        .add_throttle(&fields(few.clone()), "a person")
        .expect("new");
    for on in [false, true] {
        let change = fields(json!({ "name": "machine", "enabled": on }));
        engine.change_throttle(&change, "a person").expect("valid");
        let wanted = named(&[("machine", on), ("quota", on), ("few", true)]);
        assert_eq!(states(), wanted);
    }
    let own = engine.remove_throttle("machine", "a person");
    assert!(matches!(own, Err(Error::Conflict(_))), "{own:?}");
    engine.remove_throttle("few", "a person").expect("there");
    let gone = engine.remove_throttle("few", "a person");
    assert!(matches!(gone, Err(Error::Unknown { .. })), "{gone:?}");
    let off = json!({ "throttling": { "enabled": false } });
    engine.configure(&off, "a person", false).expect("valid");
    engine.add_throttle(&fields(few), "a person").expect("new");
    let wanted = named(&[("machine", false), ("quota", false), ("few", false)]);
    assert_eq!(states(), wanted);
    end(engine);
}

/// CPU-20, CFG-3: throttles are added, changed and taken away while the engine runs; what is wrong changes nothing, and one that held
/// something back and goes lets go of it.
#[test]
fn throttles_come_and_go() {
    let engine = engine("");
    let few = json!({ "name": "few", "scope": "class:batch", "threshold_percent": 1 });
    engine
        .add_throttle(&fields(few.clone()), "a person")
        .expect("new");
    assert!(matches!(
        engine.add_throttle(&fields(few), "a person"),
        Err(Error::Exists { .. })
    ));
    let none = json!({ "name": "none", "scope": "class:none", "threshold_percent": 50 });
    assert!(engine.add_throttle(&fields(none), "a person").is_err());
    let wrong = json!({ "name": "few", "threshold_percent": 0 });
    assert!(matches!(
        engine.change_throttle(&fields(wrong), "a person"),
        Err(Error::Config(_))
    ));
    assert_eq!(engine.throttles()[0].threshold_percent, 1.0);
    let load = Load::begin(&engine, "batch");
    wait_for(&engine, 0, |event| {
        event.kind == "decision" && event.data["part"] == "throttle"
    });
    let gone = json!({ "throttling": { "throttles": null } });
    engine.configure(&gone, "a person", false).expect("valid");
    assert!(engine.throttles().is_empty());
    let knobs = engine.knobs();
    let knob = knobs.iter().find(|knob| knob.name == "throttle.few");
    assert_eq!(knob.map(|knob| knob.value), Some(0.0));
    assert_eq!(engine.throttler_stats().active, 0);
    load.end();
    end(engine);
}

/// CPU-31: time that the kernel throttled is a figure of the profile; where it throttles a part of the periods again and again, the verdict is a
/// bottleneck, and the throttle of the quota says so.
#[test]
fn a_spent_quota_is_told() {
    let group = Group::new("spent", 0.5);
    let engine = group.engine();
    let mut seen = 0;
    for look in 1.. {
        group.spend(look * 10, look * 5);
        seen = wait_for(&engine, seen, |event| event.kind == "sample").id;
        let quota = engine.throttler_stats().quota;
        if quota.is_some_and(|quota| quota.verdict == "bottleneck") {
            break;
        }
        assert!(look < 600, "{:?}", engine.throttler_stats());
    }
    let throttles = engine.throttles();
    let quota = throttles.iter().find(|throttle| throttle.name == "quota");
    let quota = quota.expect("the daemon's own");
    assert!(
        quota.reason.contains("the kernel throttled") && quota.reason.contains("bottleneck"),
        "{quota:?}"
    );
    let machine = &throttles[0];
    assert!(!machine.reason.contains("throttled"), "{machine:?}");
    let profile = engine.cpu_profile().expect("on").expect("sampled");
    assert_eq!(profile.quota_cpus, Some(0.5));
    assert!(profile.throttled_cpus.is_some(), "{profile:?}");
    end(engine);
}

/// CPU-31: lower classes are held back because of what is used of the quota, before the kernel has throttled anything: the same load is nothing of a large
/// quota, and too much of a small one.
#[test]
fn lower_classes_are_held_before_a_quota_is_spent() {
    let group = Group::new("near", 1000.0);
    let engine = group.engine();
    let load = Load::begin(&engine, "batch");
    let quota = || {
        let mut throttles = engine.throttles().into_iter();
        let quota = throttles.find(|throttle| throttle.name == "quota");
        quota.expect("the daemon's own")
    };
    let until = |is_so: &dyn Fn(&ThrottleView) -> bool| {
        let mut seen = 0;
        for _ in 0..600 {
            seen = wait_for(&engine, seen, |event| event.kind == "sample").id;
            let quota = quota();
            if is_so(&quota) {
                return quota;
            }
        }
        panic!("waited in vain: {:?}", quota())
    };
    let large = until(&|quota| quota.usage_percent.is_some());
    assert_eq!((&*large.state, large.level), ("idle", 0.0), "{large:?}");
    assert!(large.usage_percent < Some(5.0), "{large:?}");
    group.allow(0.1);
    let held = until(&|quota| quota.level > 0.0);
    assert_ne!(held.state, "idle", "{held:?}");
    assert!(held.usage_percent > Some(0.0), "{held:?}");
    assert_eq!(held.acts_on, ["batch", "idle"]);
    assert!(!held.reason.contains("kernel"), "{held:?}");
    let stats = engine.throttler_stats();
    assert_eq!((stats.active, stats.kernel_throttled_ms), (1, Some(0)));
    assert_eq!(stats.quota.map(|quota| quota.verdict), Some("free".into()));
    load.end();
    end(engine);
}

/// CPU-20, CPU-30: a throttle that is switched off, or only observes from now on, holds nothing back, even if a person has pinned its level; the pin
/// counts again when it is back.
#[test]
fn switched_off_it_lets_go_of_what_is_pinned() {
    let engine = engine(
        "throttling: { throttles: [{ name: few, scope: 'class:batch', threshold_percent: 90 }] }",
    );
    let pinned = engine.pin("throttle.few", 0.9, "a person");
    assert_eq!(pinned.expect("within bounds").to, Some(0.9));
    let change = |fields_of: Value| {
        let mut change = fields(fields_of);
        change.insert("name".to_owned(), json!("few"));
        engine.change_throttle(&change, "a person").expect("valid");
        engine.throttler_stats().active
    };
    assert_eq!(engine.throttler_stats().active, 1);
    assert_eq!(change(json!({ "enabled": false })), 0);
    assert_eq!(engine.throttles()[0].state, "off");
    assert_eq!(engine.throttles()[0].commands_run_percent, 100.0);
    assert_eq!(change(json!({ "enabled": true })), 1);
    assert_eq!(change(json!({ "mode": "observe" })), 0);
    assert_eq!(change(json!({ "mode": "enforce" })), 1);
    end(engine);
}

/// CPU-20: throttles can be replaced by as many others at once, and more of them than there can be knobs come and go.
#[test]
fn new_throttles_find_room() {
    let engine = engine("");
    for round in 0..80 {
        let throttle = |n: usize| json!({ "name": format!("t{round}-{n}"), "scope": "process", "threshold_percent": 90 });
        let all: Vec<Value> = (0..MAX_THROTTLES).map(throttle).collect();
        let change = json!({ "throttling": { "throttles": all } });
        engine.configure(&change, "a person", false).expect("valid");
        assert_eq!(engine.throttles().len(), MAX_THROTTLES, "round {round}");
    }
    end(engine);
}

/// CPU-20, DASH-5: a throttle that moves is turned four times a second, and writes a decision and an event only where its level is far from what was written
/// last, or it begins or ends.
#[test]
fn a_moving_throttle_writes_little() {
    let engine = engine(
        "monitor: { collection_interval: 100ms }\nthrottling: { throttles: [{ name: few, scope: 'class:batch', threshold_percent: 10, hysteresis_percent: 0 }] }",
    );
    let load = Load::begin(&engine, "batch");
    let mut seen = 0;
    // As long as it moves, but it may have found its level.
    for _ in 0..80 {
        seen = wait_for(&engine, seen, |event| event.kind == "sample").id;
    }
    load.end();
    let query = DecisionQuery {
        part: Some("throttle".to_owned()),
        ..DecisionQuery::default()
    };
    let decisions = engine.decisions(&query, 1_000);
    let levels: Vec<f64> = decisions
        .iter()
        .filter(|decision| decision.applied)
        .filter_map(|decision| decision.to)
        .collect();
    assert!(!levels.is_empty());
    let events = engine.throttler_stats().events;
    let told: Vec<f64> = events.iter().map(|event| event.level).collect();
    for levels in [levels, told] {
        for pair in levels.windows(2) {
            let ends = pair[0] == 0.0 || pair[1] == 0.0;
            assert!(ends || (pair[0] - pair[1]).abs() >= 0.05, "{levels:?}");
        }
    }
    end(engine);
}
