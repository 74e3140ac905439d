//! Durable tasks in an engine: a queue in a folder, handlers of the test, real threads.

use crate::{HANG, end, loaded, wait_for};
use flyball_engine::config::{Sources, load};
use flyball_engine::view::{HealthState, TaskEventView};
use flyball_engine::{Engine, Error, Options};
use flyball_policy::limit::Forced;
use flyball_tasks::run::{TaskContext, TaskError};
use flyball_tasks::{CommandSpec, Reason, Scope, State, Task, TaskId, UniqueConflict, Waiting};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A folder of this test alone, gone when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("flyball-engine-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn started(folder: &Path, yaml: &str) -> Result<Engine, Error> {
    let options = Options {
        state_dir: Some(folder.to_owned()),
        ..Options::default()
    };
    Engine::start_with(loaded(yaml), options)
}

pub(crate) fn start(folder: &Folder, yaml: &str) -> Engine {
    started(&folder.0, yaml).expect("the engine starts")
}

/// Runs a future to its end, which must come.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let ended = runtime.block_on(async { tokio::time::timeout(HANG, future).await });
    ended.expect("it ends")
}

/// Waits until a task is in a state.
fn task_in(engine: &Engine, id: TaskId, state: State) -> Task {
    let queue = engine.tasks().expect("a queue");
    let mut news = queue.watch();
    run(async {
        loop {
            news.mark_unchanged();
            let task = queue.task(id).await.expect("the task");
            if task.state == state {
                return task;
            }
            assert!(!task.state.is_terminal(), "{task:?}");
            news.changed().await.expect("the queue lives");
        }
    })
}

/// Waits until a task waits for something.
fn waits(engine: &Engine, id: TaskId, fits: impl Fn(&Waiting) -> bool) -> Waiting {
    run(async {
        loop {
            let waiting = engine.waiting_for(id).await.expect("the task");
            if let Some(found) = waiting.into_iter().find(|waiting| fits(waiting)) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
}

fn submit(engine: &Engine, kind: &str) -> TaskId {
    run(engine.new_task(kind).payload(&kind).submit())
        .expect("taken")
        .id
}

/// A handler that ends when it is let go: a permit a task.
fn held(engine: &Engine, kind: &str) -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    let theirs = gate.clone();
    let handler = move |_: TaskContext, _: serde_json::Value| {
        let gate = theirs.clone();
        async move {
            gate.acquire().await?.forget();
            Ok(())
        }
    };
    engine.register(kind, handler).expect("registered");
    gate
}

/// TASK-1, TASK-2: what was accepted is done by the next engine on the folder, by the handler of its kind; handlers get typed payloads, and what they
/// answer is kept.
#[test]
fn tasks_survive_the_engine() {
    let folder = Folder::new("survive");
    let engine = start(&folder, "");
    let ids: Vec<TaskId> = (0..3u64)
        .map(|number| {
            let task = engine.new_task("double").payload(&number);
            run(task.submit()).expect("taken").id
        })
        .collect();
    end(engine);

    let engine = start(&folder, "");
    engine
        .register("double", |_, number: u64| async move { Ok(2 * number) })
        .expect("registered");
    for (number, id) in ids.iter().enumerate() {
        let task = task_in(&engine, *id, State::Completed);
        let result = task.result.expect("a result");
        assert_eq!(result, (2 * number).to_string().into_bytes());
        assert_eq!(task.attempts.started, 1);
    }
    let taken = engine.register("double", |_, (): ()| async { Ok(()) });
    assert!(matches!(taken, Err(Error::Register(_))), "{taken:?}");
    end(engine);
}

/// TASK-1: a folder is one engine's; whoever comes second, or cannot use it, is told and starts nothing.
#[test]
fn a_folder_is_one_engines() {
    let folder = Folder::new("one");
    let engine = start(&folder, "");
    let second = started(&folder.0, "").expect_err("refused").to_string();
    assert!(
        second.contains("queue") && second.contains(&*folder.0.to_string_lossy()),
        "{second}"
    );
    let id = submit(&engine, "still-here");
    assert!(run(engine.tasks().expect("a queue").task(id)).is_ok());
    end(engine);
    end(start(&folder, ""));

    let file = folder.0.join("file");
    std::fs::write(&file, "").expect("written");
    let no_folder = started(&file, "").expect_err("refused").to_string();
    assert!(no_folder.contains(&*file.to_string_lossy()), "{no_folder}");
    let other = started(&folder.0, "queue: {backend: postgresql}").expect_err("refused");
    assert!(
        other.to_string().contains("no backend postgresql"),
        "{other}"
    );
}

/// CFG-5: without a folder, and while it is switched off, there is no queue, and asking for it says why. Nothing is made on disk.
#[test]
fn without_a_folder_there_is_no_queue() {
    let engine = Engine::start(loaded("")).expect("starts");
    let why = engine.tasks().err().expect("none").to_string();
    assert!(why.contains("queue.state_dir"), "{why}");
    let flag = part(&engine);
    assert!(!flag.0 && flag.1.contains("queue.state_dir"), "{flag:?}");
    end(engine);

    let folder = Folder::new("off");
    let engine = start(&folder, "scheduler: {enabled: false}");
    let off = engine.tasks().err().expect("none");
    assert!(
        matches!(
            off,
            Error::Off {
                setting: "scheduler.enabled",
                ..
            }
        ),
        "{off:?}"
    );
    let refused = run(engine.new_task("any").submit());
    assert!(matches!(refused, Err(Error::Off { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(&folder.0).expect("read").count(), 0);
    assert_eq!(engine.status().health, HealthState::Healthy);
    end(engine);
}

fn part(engine: &Engine) -> (bool, String) {
    let parts = engine.status().parts;
    let part = parts.into_iter().find(|part| part.part == "task_queue");
    part.map(|part| (part.enabled, part.detail))
        .expect("listed")
}

/// Names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("listed");
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        let name = std::fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        Some(name.trim().to_owned())
    };
    tasks.filter_map(name).collect()
}

/// CFG-5: switched off, durable tasks have no thread: not at the start, and not after they were switched off.
#[test]
fn off_has_no_thread() {
    const ALONE: &str = "FLYBALL_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // Other tests of this process have such threads.
        let this = std::env::current_exe().expect("a path");
        let alone = std::process::Command::new(this)
            .args(["--exact", "tasks::off_has_no_thread", "--test-threads=1"])
            .env(ALONE, "1")
            .output()
            .expect("runs");
        assert!(alone.status.success(), "{alone:?}");
        return;
    }
    let of_tasks = || {
        let ours = [
            "flyball-tasks",
            "flyball-queue",
            "flyball-runners",
            "flyball-process",
        ];
        let mut names = threads();
        names.retain(|name| ours.iter().any(|ours| ours.starts_with(name.as_str())));
        names
    };
    let folder = Folder::new("threads");
    let engine = start(&folder, "scheduler: {enabled: false}");
    assert_eq!(of_tasks(), Vec::<String>::new());
    let switch =
        |on: bool| engine.configure(&json!({ "scheduler": { "enabled": on } }), "test", false);
    switch(true).expect("on");
    // A thread names itself when it begins.
    run(async {
        while of_tasks().len() < 3 {
            tokio::task::yield_now().await;
        }
    });
    switch(false).expect("off");
    run(async {
        while !of_tasks().is_empty() {
            tokio::task::yield_now().await;
        }
    });
    end(engine);
}

/// CFG-5, CFG-3: it can be switched off and on while it runs; what was accepted is there afterwards, and handlers stay.
#[test]
fn it_can_be_switched_off_and_on() {
    let folder = Folder::new("switch");
    let engine = start(&folder, "");
    let waiting = run(engine
        .new_task("later")
        .delay(Duration::from_secs(86_400))
        .submit());
    let waiting = waiting.expect("taken").id;
    engine
        .register("now", |_, _: String| async { Ok(()) })
        .expect("registered");
    let switch =
        |on: bool| engine.configure(&json!({ "scheduler": { "enabled": on } }), "test", false);
    for _ in 0..3 {
        switch(false).expect("off");
        assert!(matches!(engine.tasks(), Err(Error::Off { .. })));
        run(async {
            // Until the old one is closed the folder is its own.
            while let Err(error) = switch(true) {
                assert!(matches!(error, Error::Conflict(_)), "{error}");
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(
            task_in(&engine, waiting, State::Scheduled).attempts.started,
            0
        );
        let now = submit(&engine, "now");
        task_in(&engine, now, State::Completed);
    }
    let dry = engine.configure(&json!({ "scheduler": { "enabled": false } }), "test", true);
    assert_eq!(dry.expect("possible").len(), 1);
    assert!(engine.tasks().is_ok());
    end(engine);
}

/// CFG-3: what takes a restart says so, what is wrong is refused as a whole, and nothing of either happens.
#[test]
fn wrong_changes_change_nothing() {
    let folder = Folder::new("changes");
    let engine = start(&folder, "");
    for (change, expected) in [
        (
            json!({ "queue": { "state_dir": "/x" }, "scheduler": { "enabled": false } }),
            "needs a restart",
        ),
        (json!({ "queue": { "backend": "nats" } }), "needs a restart"),
        (
            json!({ "scheduler": { "max_concurrency": 0, "enabled": false } }),
            "from 1 to 10000",
        ),
        (json!({ "scheduler": { "enabled": "no" } }), "true or false"),
        (
            json!({ "scheduler": { "resources": { "gpu": 1.5 } } }),
            "an integer",
        ),
        (
            json!({ "scheduler": { "resources": [] } }),
            "a map of up to",
        ),
        (
            json!({ "scheduler": { "checks": [{ "dependency": "a", "url": "ftp://a" }] } }),
            "a url of another form",
        ),
        (
            json!({ "commands": { "programs": ["sh"] } }),
            "an absolute path",
        ),
        (json!({ "cpu_scheduler": { "task_timeout": "31d" } }), "30d"),
    ] {
        let refused = engine
            .configure(&change, "test", false)
            .expect_err("refused");
        assert!(
            refused.to_string().contains(expected),
            "{change}: {refused}"
        );
    }
    assert!(engine.tasks().is_ok() && engine.config().scheduler.enabled);
    end(engine);
}

/// TASK-6, CFG-3: the bounds of the queue follow the configuration while it is open.
#[test]
fn bounds_of_the_queue_can_be_changed() {
    let folder = Folder::new("bounds");
    let engine = start(&folder, "queue: { max_tasks: 1 }");
    let gate = held(&engine, "held");
    let first = submit(&engine, "held");
    let put = || run(engine.new_task("held").payload(&1).submit());
    let refused = put().expect_err("it is full");
    assert!(refused.to_string().contains("full"), "{refused}");
    let change = json!({ "queue": { "max_tasks": 2 } });
    engine.configure(&change, "test", false).expect("live");
    // The thread that follows the configuration tells the queue.
    let second = loop {
        match put() {
            Ok(second) => break second,
            Err(_) => std::thread::yield_now(),
        }
    };
    put().expect_err("it is full again");
    gate.add_permits(2);
    for id in [first, second.id] {
        task_in(&engine, id, State::Completed);
    }
    end(engine);
}

/// TASK-3: events of tasks reach who follows the engine, with states and reasons, and nothing of payload or result.
#[test]
fn changes_of_tasks_are_events() {
    let folder = Folder::new("events");
    let engine = start(&folder, "");
    let _follower = engine.events().follow();
    let kind = "tell";
    engine
        .register(kind, |_, _: String| async { Ok("a secret result") })
        .expect("registered");
    let task = engine.new_task(kind).payload(&"a secret payload");
    let id = run(task.submit()).expect("taken").id;
    let mut seen = 0;
    let mut states = Vec::new();
    while states.last().map(String::as_str) != Some("completed") {
        let event = wait_for(&engine, seen, |event| event.kind == "task");
        seen = event.id;
        assert!(!event.data.to_string().contains("secret"), "{event:?}");
        let view: TaskEventView = serde_json::from_value(event.data).expect("reads");
        assert_eq!((view.id, view.kind), (id.to_string(), kind.to_owned()));
        states.push(view.to);
    }
    assert_eq!(states, ["pending", "running", "completed"]);
    end(engine);
}

/// TASK-6, CFG-3: the queue follows the classes as they change: one task of a class at once, then two.
#[test]
fn the_queue_follows_the_classes() {
    let folder = Folder::new("classes");
    let engine = start(&folder, "classes: [{name: narrow, concurrency: 1}]");
    let gate = held(&engine, "hold");
    let one = || {
        run(engine
            .new_task("hold")
            .class("narrow")
            .payload(&())
            .submit())
    };
    let ids = [one().expect("taken").id, one().expect("taken").id];
    task_in(&engine, ids[0], State::Running);
    let limit = |waiting: &Waiting| matches!(waiting, Waiting::ClassLimit { .. });
    let found = waits(&engine, ids[1], limit);
    assert_eq!(
        found,
        Waiting::ClassLimit {
            running: 1,
            limit: 1
        }
    );
    let wider = json!({ "classes": [{ "name": "narrow", "concurrency": 2 }] });
    engine.configure(&wider, "test", false).expect("possible");
    task_in(&engine, ids[1], State::Running);
    gate.add_permits(2);
    for id in ids {
        task_in(&engine, id, State::Completed);
    }
    end(engine);
}

/// TASK-4, TASK-7: an end of the engine gives back what does not end in time, at no cost of an attempt; the next one runs it anew.
#[test]
fn an_end_costs_no_attempt() {
    let folder = Folder::new("give-back");
    let yaml = "worker_pool: {shutdown_timeout: 0}\nscheduler: {retry_attempts: 1}";
    let engine = start(&folder, yaml);
    let _gate = held(&engine, "hold");
    let id = submit(&engine, "hold");
    task_in(&engine, id, State::Running);
    engine.drain();
    assert!(!engine.is_ready());
    end(engine);

    let engine = start(&folder, yaml);
    engine
        .register("hold", |_, _: String| async { Ok(()) })
        .expect("registered");
    let task = task_in(&engine, id, State::Completed);
    assert_eq!((task.attempts.started, task.attempts.counted), (2, 0));
    end(engine);
}

/// TASK-7, TASK-9: an error that asks for it is tried again, up to the configured attempts; others are not; a task without a timeout of its own has
/// the configured one.
#[test]
fn attempts_and_timeouts_are_as_configured() {
    let folder = Folder::new("attempts");
    let engine = start(
        &folder,
        "scheduler: {retry_attempts: 3, retry_delay: 1ms, retry_delay_max: 1ms, health_checks: false, circuit_breaker: false}\n\
         cpu_scheduler: {task_timeout: 100ms}",
    );
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    let flaky = move |_: TaskContext, _: String| {
        let counted = counted.clone();
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            Err::<(), _>(TaskError::retry("not yet"))
        }
    };
    engine.register("flaky", flaky).expect("registered");
    let id = submit(&engine, "flaky");
    let task = task_in(&engine, id, State::Dead);
    assert_eq!(
        (tries.load(Ordering::SeqCst), task.attempts.counted),
        (3, 3)
    );
    assert_eq!(task.error.as_deref(), Some("not yet"));

    engine
        .register("fatal", |_, _: String| async {
            Err::<(), _>(TaskError::fatal("never"))
        })
        .expect("registered");
    let id = submit(&engine, "fatal");
    assert_eq!(task_in(&engine, id, State::Failed).attempts.started, 1);

    let _gate = held(&engine, "slow");
    let slow = engine.new_task("slow").payload(&()).max_attempts(1);
    let id = run(slow.submit()).expect("taken").id;
    let task = task_in(&engine, id, State::Dead);
    assert_eq!(task.reason, Some(Reason::TimedOut));
    end(engine);
}

/// TASK-8, TASK-16: a breaker that people force open holds back what depends on it, and says so; closed again, it lets it go.
#[test]
fn breakers_hold_tasks_back() {
    let folder = Folder::new("breakers");
    let engine = start(&folder, "");
    engine
        .register("call", |_, _: String| async { Ok(()) })
        .expect("registered");
    let first = submit(&engine, "call");
    task_in(&engine, first, State::Completed);
    let known = engine.breakers().expect("a queue");
    let key = known.first().map(|known| known.key.clone()).expect("one");
    engine
        .force_breaker(&key, Some(Forced::Open), "test")
        .expect("known");
    let held_back = submit(&engine, "call");
    let open = |waiting: &Waiting| matches!(waiting, Waiting::Breaker { .. });
    waits(&engine, held_back, open);
    engine.force_breaker(&key, None, "test").expect("known");
    engine.reset_breaker(&key, "test").expect("known");
    task_in(&engine, held_back, State::Completed);
    let unknown = engine.reset_breaker("nothing", "test");
    assert!(matches!(unknown, Err(Error::Dependency(_))), "{unknown:?}");
    end(engine);
}

/// TASK-16: why a task waits: nobody takes its kind; commands do not run here, and why; its class is paused.
#[test]
fn why_says_everything() {
    let folder = Folder::new("why");
    let engine = start(&folder, "");
    let nobody = submit(&engine, "nobody");
    let untaken = |waiting: &Waiting| matches!(waiting, Waiting::NobodyTakes { .. });
    waits(&engine, nobody, untaken);

    let command = CommandSpec {
        argv: vec!["true".into()],
        local: true,
        ..CommandSpec::default()
    };
    let command = run(engine.new_task("true").command(command).submit());
    let unready = waits(&engine, command.expect("taken").id, |waiting| {
        matches!(waiting, Waiting::Unready { .. })
    });
    let Waiting::Unready { why } = unready else {
        unreachable!("it fits");
    };
    assert!(why.contains("Options::commands"), "{why}");

    engine.pause_class("batch", "test").expect("built in");
    let paused = run(engine.new_task("paused").class("batch").submit());
    let scope = Waiting::Paused(Scope::Class("batch".into()));
    waits(&engine, paused.expect("taken").id, |waiting| {
        *waiting == scope
    });
    let unknown = run(engine.waiting_for(TaskId(999)));
    assert!(matches!(unknown, Err(Error::Tasks(_))), "{unknown:?}");
    end(engine);
}

/// TASK-4: the same submission under one key is one task; another task under it is refused.
#[test]
fn a_key_makes_submissions_one() {
    let folder = Folder::new("key");
    let engine = start(&folder, "");
    let order = |what: &str| {
        let task = engine.new_task("order").payload(&what);
        run(task.idempotency_key("order-7").submit())
    };
    let first = order("tea").expect("taken");
    let again = order("tea").expect("known");
    assert_eq!(
        (again.id, first.existing, again.existing),
        (first.id, false, true)
    );
    let tea = || {
        let draft = engine.new_task("order").payload(&"tea");
        draft.idempotency_key("order-7")
    };
    let later = run(tea().delay(Duration::from_secs(9)).submit()).expect("known");
    assert_eq!((later.id, later.existing), (first.id, true));
    for (what, other) in [
        ("payload", tea().payload(&"coffee")),
        ("class", tea().class("batch")),
        ("priority", tea().priority(1)),
        ("key", tea().key("a")),
        ("group", tea().group("a")),
        ("unique", tea().unique("a", UniqueConflict::Keep)),
        ("after", tea().after(first.id)),
        ("memory", tea().memory(1)),
        ("cpus", tea().cpus(1.0)),
        ("resource", tea().resource("gpu", 1)),
        ("label", tea().label("a", "b")),
        (
            "command",
            tea().command(CommandSpec {
                argv: vec!["true".into()],
                ..CommandSpec::default()
            }),
        ),
    ] {
        let refused = run(other.submit());
        assert!(
            matches!(refused, Err(Error::Tasks(flyball_tasks::Error::KeyReused))),
            "{what}: {refused:?}"
        );
    }
    end(engine);
}

/// TASK-3: what cannot be taken is told field by field, and changes nothing.
#[test]
fn drafts_say_what_is_wrong() {
    let folder = Folder::new("drafts");
    let engine = start(&folder, "");
    let keys = std::collections::BTreeMap::from([((1, 2), 3)]);
    for (draft, expected) in [
        (engine.new_task("a").payload(&keys), "payload"),
        (engine.new_task("a").cpus(f64::NAN), "cpu"),
        (engine.new_task("a").cpus(-1.0), "cpu"),
        (engine.new_task(""), "kind"),
        (engine.new_task("a").max_attempts(0), "retry.max_attempts"),
        (engine.new_task("a").after(TaskId(7)), "after"),
    ] {
        let refused = run(draft.submit()).expect_err("refused").to_string();
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    let stats = run(engine.tasks().expect("a queue").stats()).expect("figures");
    assert_eq!(stats.accepted, 0);
    end(engine);
}

/// TASK-19: a copy that is taken while the queue is in use has what was accepted before; another folder takes it over.
#[test]
fn a_copy_is_a_queue() {
    let (folder, other) = (Folder::new("copy-of"), Folder::new("copy-in"));
    let engine = start(&folder, "");
    let id = submit(&engine, "kept");
    let file = other.0.join("copy.db");
    engine.backup(&file, "test").expect("copied");
    let again = engine.backup(&file, "test");
    assert!(again.is_err(), "a copy is never written over another file");
    end(engine);
    flyball_tasks::embedded::Embedded::restore(&file, &other.0.join("queue")).expect("restored");
    let engine = start(&other, "");
    assert_eq!(
        task_in(&engine, id, State::Pending).head.kind,
        "kept".into()
    );
    end(engine);
}

/// TASK-2: closures that compute are handlers, too; one that is told to end while it runs can hear of it.
#[test]
fn closures_are_handlers() {
    let folder = Folder::new("closures");
    let engine = start(&folder, "");
    let heard = Arc::new(AtomicBool::new(false));
    let told = heard.clone();
    let (begins, begun) = std::sync::mpsc::channel();
    let compute = move |task: TaskContext, _: String| {
        let _ = begins.send(());
        while !task.is_cancelled() {
            std::thread::yield_now();
        }
        told.store(true, Ordering::SeqCst);
        Err::<(), _>(TaskError::fatal("told to end"))
    };
    engine
        .register_blocking("compute", compute)
        .expect("registered");
    let id = submit(&engine, "compute");
    // Leased is not begun: the closure waits for a worker of its class.
    begun.recv_timeout(HANG).expect("it begins");
    let queue = engine.tasks().expect("a queue");
    let these = flyball_tasks::Selection::Ids(vec![id]);
    run(queue.cancel(these, "test".to_owned())).expect("cancelled");
    task_in(&engine, id, State::Cancelled);
    end(engine);
    assert!(heard.load(Ordering::SeqCst));
}

/// CFG-1: a configuration that names a folder is enough; what is wrong with it is found before anything starts.
#[test]
fn the_configuration_names_the_folder() {
    let folder = Folder::new("named");
    let yaml = format!("queue: {{state_dir: {:?}}}", folder.0);
    let engine = Engine::start(loaded(&yaml)).expect("starts");
    submit(&engine, "any");
    assert!(part(&engine).0);
    end(engine);
    assert!(folder.0.join("queue").is_dir());
    let wrong = Sources::new().with_text("test.yaml", "scheduler: {max_concurrency: many}");
    assert!(load(&wrong).is_err());
}
