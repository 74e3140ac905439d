//! Adaptive limits on classes and dependencies.

use crate::Test;
use crate::fake::Inner;
use crate::http::Server;
use crate::stage::{Stage, call, handled, quiet};
use flyball_core::time::{ManualClock, Source};
use flyball_executor::{KeyLimits, Rejection, Shedding};
use flyball_limit::{AdaptiveConfig, AdmissionConfig, Algorithm, Gate, GateConfig, Mode};
use flyball_policy::limit::Forced;
use flyball_tasks::run::Gates;
use flyball_tasks::{Outcome, State, TaskId, TaskQueue, Waiting};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::sync::Semaphore;

pub(crate) const TESTS: &[Test] = &[
    (
        "gates::a_class_runs_so_many_at_once",
        a_class_runs_so_many_at_once,
    ),
    (
        "gates::what_does_not_fit_is_no_call",
        what_does_not_fit_is_no_call,
    ),
    (
        "gates::observing_holds_nobody_back",
        observing_holds_nobody_back,
    ),
    (
        "gates::calls_hold_slots_of_their_dependency",
        calls_hold_slots_of_their_dependency,
    ),
    (
        "gates::waiting_for_a_slot_is_no_call",
        waiting_for_a_slot_is_no_call,
    ),
    (
        "gates::a_higher_limit_calls_back",
        a_higher_limit_calls_back,
    ),
    (
        "gates::a_class_that_sheds_runs_durable_tasks",
        a_class_that_sheds_runs_durable_tasks,
    ),
    (
        "gates::only_overload_counts_against_a_limit",
        only_overload_counts_against_a_limit,
    ),
    ("gates::calls_are_of_their_class", calls_are_of_their_class),
];

/// Tasks of kind `held` run until they are let go, and say when they begin.
fn held(stage: &Stage) -> (Arc<Semaphore>, mpsc::Receiver<()>) {
    let (go, (began, begun)) = (Arc::new(Semaphore::new(0)), mpsc::channel());
    let (its, began) = (Arc::clone(&go), Mutex::new(began));
    stage
        .handlers
        .register("held", move |_, (): ()| {
            began.lock().unwrap().send(()).unwrap();
            let its = Arc::clone(&its);
            async move {
                its.acquire().await.unwrap().forget();
                Ok(())
            }
        })
        .unwrap();
    (go, begun)
}

fn class_gate(stage: &Stage, gate: &Gate) {
    let mut gates = Gates::default();
    gates.classes.insert("normal".into(), gate.clone());
    stage.runners.set_gates(gates);
}

/// A server that says when it is asked and answers when it is let go, with a limit of one call at once.
struct Slow {
    gate: Gate,
    asked: mpsc::Receiver<()>,
    /// Dropped before the server, which waits for it.
    go: mpsc::Sender<()>,
    server: Server,
}

impl Slow {
    fn new(stage: &Stage, admission: AdmissionConfig) -> Slow {
        let (asked, was_asked) = mpsc::channel();
        let (let_go, go) = mpsc::channel::<()>();
        let (asked, go) = (Mutex::new(asked), Mutex::new(go));
        let server = crate::http::server(move |_| {
            let _ = asked.lock().unwrap().send(());
            let _ = go.lock().unwrap().recv();
            crate::http::answer(200, &[], "fine")
        });
        let config = GateConfig::fixed(1).with_admission(admission);
        let slow = Slow {
            gate: Gate::new(config).unwrap(),
            asked: was_asked,
            go: let_go,
            server,
        };
        slow.set_gate(stage);
        slow
    }

    fn set_gate(&self, stage: &Stage) {
        let mut gates = Gates::default();
        let key = authority(&self.server);
        gates.dependencies.insert(key, self.gate.clone());
        stage.runners.set_gates(gates);
    }

    fn add_call(&self, stage: &Stage) -> TaskId {
        stage.queue.add(call(&self.server.url("/")))
    }

    /// One that the server has and does not answer.
    fn add_held(&self, stage: &Stage) -> TaskId {
        let id = self.add_call(stage);
        self.asked.recv().unwrap();
        id
    }

    /// One for which there is no slot: after how long it comes back.
    fn add_turned_away(&self, stage: &Stage) -> (TaskId, Duration) {
        let id = self.add_call(stage);
        let back = stage.queue.wait_end(id, 1);
        match back.outcome {
            Some(Outcome::Returned { after }) if !after.is_zero() => (id, after),
            _ => panic!("{back:?}"),
        }
    }
}

fn authority(server: &Server) -> Box<str> {
    server.url("").trim_start_matches("http://").into()
}

/// Who finds no slot is turned away at once.
fn nobody_waits() -> AdmissionConfig {
    AdmissionConfig {
        queue_max: 0,
        ..AdmissionConfig::default()
    }
}

/// Calls that came in.
fn calls(gate: &Gate) -> u64 {
    gate.status()
        .classes
        .iter()
        .map(|class| class.entered)
        .sum()
}

/// CPU-21, CPU-22: a durable task is never refused: where its class has no slot it goes back, and runs later; its attempts do not count that.
fn a_class_runs_so_many_at_once() {
    let mut settings = quiet();
    settings.resources = [("gpu".into(), 1)].into();
    let stage = Stage::new(settings);
    let (go, begun) = held(&stage);
    let gate = Gate::new(GateConfig::fixed(1)).unwrap();
    class_gate(&stage, &gate);
    let first = stage.queue.add(handled("held", "null"));
    begun.recv().unwrap();
    assert_eq!(gate.in_flight(), 1);
    // What it needs is free again while it waits.
    let mut needy = handled("held", "null");
    needy.head.needs.resources = vec![("gpu".into(), 1)];
    let second = stage.queue.add(needy);
    let back = stage.queue.wait_end(second, 1);
    assert!(
        matches!(back.outcome, Some(Outcome::Returned { after }) if !after.is_zero()),
        "{back:?}"
    );
    assert_eq!(gate.in_flight(), 1);
    go.add_permits(1);
    stage.queue.wait_state(first, State::Completed);
    assert_eq!(gate.in_flight(), 0, "before the queue has heard of the end");
    stage.queue.wake_returned();
    begun.recv().unwrap();
    go.add_permits(1);
    stage.queue.wait_state(second, State::Completed);
    stage.wait_idle();
    assert_eq!((gate.in_flight(), gate.status().adaptive.succeeded), (0, 2));
}

/// CPU-22: a task that was taken although what it needs is not there goes back, and is no call of its class's limit: it would tell it nothing.
fn what_does_not_fit_is_no_call() {
    let mut settings = quiet();
    settings.memory_bytes = Some(1);
    let stage = Stage::new(settings);
    let gate = Gate::new(GateConfig::fixed(1)).unwrap();
    class_gate(&stage, &gate);
    let mut huge = handled("held", "null");
    huge.head.needs.memory_bytes = 2;
    let _begun = held(&stage);
    let id = stage.queue.add(huge);
    // The queue of the test does not look at memory.
    let back = stage.queue.wait_end(id, 20);
    assert_eq!(back.outcome, None);
    assert_eq!((calls(&gate), gate.in_flight()), (0, 0));
    stage.wait_idle();
}

/// CPU-30: under a limit that observes all run and count as calls, and it learns from as many as it would let run.
fn observing_holds_nobody_back() {
    let stage = Stage::new(quiet());
    let (go, begun) = held(&stage);
    let limit = AdaptiveConfig::new(Algorithm::aimd()).with_bounds(1, 2);
    let observing = GateConfig::with_limit(limit.with_initial(1)).with_mode(Mode::Observe);
    let clock = ManualClock::new();
    let gate = Gate::with_clock(observing, Source::Manual(clock.clone())).unwrap();
    class_gate(&stage, &gate);
    let run = || {
        let ids = [(); 3].map(|()| stage.queue.add(handled("held", "null")));
        for _ in ids {
            begun.recv().unwrap();
        }
        let inside = gate.in_flight();
        clock.advance(Duration::from_millis(10));
        go.add_permits(3);
        for id in ids {
            stage.queue.wait_state(id, State::Completed);
        }
        inside
    };
    assert_eq!(run(), 1);
    assert_eq!((calls(&gate), gate.status().adaptive.blocked), (3, 2));
    let mut more = 0;
    while gate.limit() < 2 && more < 1_000 {
        more += 1;
        run();
    }
    assert_eq!(run(), 2);
    assert_eq!((calls(&gate), gate.in_flight()), (3 * (more + 2), 0));
    stage.wait_idle();
}

/// CPU-21, CPU-22: calls of a dependency with a limit wait for a slot; one that is shed comes back, and others do not mind.
fn calls_hold_slots_of_their_dependency() {
    let stage = Stage::new(quiet());
    let slow = Slow::new(&stage, nobody_waits());
    let first = slow.add_held(&stage);
    let (second, _) = slow.add_turned_away(&stage);
    let other = crate::http::server(|_| crate::http::answer(200, &[], "fine"));
    let third = stage.queue.add(call(&other.url("/")));
    stage.queue.wait_state(third, State::Completed);
    slow.go.send(()).unwrap();
    stage.queue.wait_state(first, State::Completed);
    while slow.gate.in_flight() > 0 {
        std::thread::yield_now();
    }
    stage.queue.wake_returned();
    slow.asked.recv().unwrap();
    slow.go.send(()).unwrap();
    stage.queue.wait_state(second, State::Completed);
    assert_eq!(slow.gate.status().adaptive.succeeded, 2);
    stage.wait_idle();
}

/// CPU-21, TASK-8: a call that waits for a slot of its dependency is none for its breaker, which would take it for a slow one, until it is made; it is not made
/// where the breaker is open by then.
fn waiting_for_a_slot_is_no_call() {
    let stage = Stage::new(quiet());
    let hour = Duration::from_secs(3_600);
    let patient = AdmissionConfig {
        deadline: hour,
        deadline_max: hour,
        ..AdmissionConfig::default()
    };
    let slow = Slow::new(&stage, patient);
    let first = slow.add_held(&stage);
    let wait = || {
        let id = slow.add_call(&stage);
        while slow.gate.status().waiting == 0 {
            std::thread::yield_now();
        }
        let known = stage.runners.breakers();
        assert_eq!(known.len(), 1);
        assert_eq!(known[0].breaker.in_flight, 1, "the first alone");
        id
    };
    let second = wait();
    slow.go.send(()).unwrap();
    stage.queue.wait_state(first, State::Completed);
    slow.asked.recv().unwrap();
    // Its breaker hears of the end after the queue.
    while stage.runners.running().iter().any(|run| run.id == first) {
        std::thread::yield_now();
    }
    let third = wait();
    let key = authority(&slow.server);
    let force = |forced| stage.runners.force_breaker(&key, forced).unwrap();
    force(Some(Forced::Open));
    slow.go.send(()).unwrap();
    stage.queue.wait_state(second, State::Completed);
    let back = stage.queue.wait_end(third, 1);
    assert!(
        matches!(back.outcome, Some(Outcome::Returned { .. })),
        "{back:?}"
    );
    force(None);
    stage.queue.wake_returned();
    slow.asked.recv().unwrap();
    slow.go.send(()).unwrap();
    stage.queue.wait_state(third, State::Completed);
    stage.wait_idle();
    assert_eq!(stage.runners.breakers()[0].breaker.in_flight, 0);
    assert_eq!(slow.gate.in_flight(), 0);
}

/// CPU-21, TASK-16: why names the limit of a dependency for which a call waits; where that is raised or taken away, who waits is called back at once.
fn a_higher_limit_calls_back() {
    let stage = Stage::new(quiet());
    let slow = Slow::new(&stage, nobody_waits());
    let first = slow.add_held(&stage);
    let away = [(); 3].map(|()| slow.add_turned_away(&stage).0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let why = |id| {
        let task = runtime.block_on(stage.queue.task(id)).unwrap();
        stage.runners.why(&task)
    };
    let limit = Waiting::CallLimit {
        key: authority(&slow.server),
        running: 1,
        limit: 1,
    };
    assert_eq!(why(away[0]), [limit]);
    assert!(why(first).is_empty());
    let higher = GateConfig::fixed(2).with_admission(nobody_waits());
    slow.gate.set_config(&higher).unwrap();
    slow.set_gate(&stage);
    let count = |inner: &Inner, state| {
        let entries = away.iter().map(|id| &inner.tasks[&id.0]);
        entries.filter(|entry| entry.state == state).count()
    };
    // Each is taken again, and one has the second slot.
    stage.queue.wait(|inner| {
        let mut entries = away.iter().map(|id| &inner.tasks[&id.0]);
        let again = entries.all(|entry| entry.attempts.started > 1);
        (again && count(inner, State::Scheduled) == 2).then_some(())
    });
    assert_eq!(slow.gate.in_flight(), 2);
    stage.runners.set_gates(Gates::default());
    stage
        .queue
        .wait(|inner| (count(inner, State::Running) == 3).then_some(()));
    (0..4).for_each(|_| slow.go.send(()).unwrap());
    for id in away.into_iter().chain([first]) {
        stage.queue.wait_state(id, State::Completed);
    }
    stage.wait_idle();
}

/// CPU-21: a class that refuses work in memory because of how long it would wait does not refuse a durable task.
fn a_class_that_sheds_runs_durable_tasks() {
    let stage = Stage::new(quiet());
    let class = stage.executor.class("normal").unwrap();
    // A key's tasks run one by one, so that one that does not end holds up the others and no worker.
    let limits = KeyLimits {
        concurrency: Some(1),
        ..KeyLimits::default()
    };
    class.set_key_limits(limits).unwrap();
    let settings = Shedding {
        target: Duration::from_millis(1),
        observe: false,
    };
    class.set_shedding(Some(settings)).unwrap();
    let sheds = || {
        let one = class.task().key("all").try_run(std::thread::yield_now);
        one.is_err_and(|refused| matches!(refused.reason, Rejection::Shed { .. }))
    };
    while !sheds() {}
    let (go, (began, begun)) = (Arc::new(Semaphore::new(0)), mpsc::channel());
    let its = Arc::clone(&go);
    let mut holds = class.task().accepted().key("all").spawn(async move {
        began.send(()).unwrap();
        its.acquire().await.unwrap().forget();
    });
    begun.recv().unwrap();
    // More than any bound that it may find meanwhile.
    for _ in 0..5_000 {
        class.task().accepted().key("all").run(|| ()).detach();
    }
    while !sheds() {}
    let (end_it, ran) = held(&stage);
    end_it.add_permits(1);
    let id = stage.queue.add(handled("held", "null"));
    let end = stage.queue.wait_end(id, 1);
    assert_eq!(end.outcome, Some(Outcome::Done), "{end:?}");
    ran.recv().unwrap();
    go.add_permits(1);
    holds.join().unwrap();
    stage.wait_idle();
}

/// CPU-22: a call that is answered with a fault says nothing to the limit of its dependency, one that is told of too much does; to its class neither.
fn only_overload_counts_against_a_limit() {
    let stage = Stage::new(quiet());
    let (class, dependency) = (
        Gate::new(GateConfig::fixed(4)).unwrap(),
        Gate::new(GateConfig::fixed(4)).unwrap(),
    );
    let server = crate::http::server(|request| match request.path.as_str() {
        "/fault" => crate::http::answer(500, &[], ""),
        _ => crate::http::answer(503, &[], ""),
    });
    let mut gates = Gates::default();
    gates
        .dependencies
        .insert(authority(&server), dependency.clone());
    gates.classes.insert("normal".into(), class.clone());
    stage.runners.set_gates(gates);
    for (path, failed) in [("/fault", 0), ("/much", 1)] {
        let id = stage.queue.add(call(&server.url(path)));
        let end = stage.queue.wait_end(id, 1);
        assert!(
            matches!(end.outcome, Some(Outcome::Failed { .. })),
            "{end:?}"
        );
        assert_eq!(dependency.status().adaptive.failed, failed, "{path}");
        assert_eq!(class.status().adaptive.failed, 0, "{path}");
    }
    stage.wait_idle();
}

/// CPU-21: a call counts as one of its task's class, so that those that matter less are sent back first; each comes back soon, by the times that calls take.
fn calls_are_of_their_class() {
    let stage = Stage::new(quiet());
    let slow = Slow::new(&stage, nobody_waits());
    let first = slow.add_held(&stage);
    for _ in 0..20 {
        let (_, after) = slow.add_turned_away(&stage);
        assert!(after < Duration::from_millis(500), "{after:?}");
    }
    for class in slow.gate.status().classes {
        let expected = match &*class.name {
            "normal" => (1, 20),
            _ => (0, 0),
        };
        assert_eq!((class.entered, class.shed()), expected, "{}", class.name);
    }
    slow.go.send(()).unwrap();
    stage.queue.wait_state(first, State::Completed);
    stage.wait_idle();
}
