//! The executor without threads, on a clock that is moved by hand; and properties of the whole, which need one that does what it
//! is told.

use crate::*;
use flyball_executor::testing::Testing;
use flyball_executor::{Algorithm, ClassSpec, Rejection, Status, TaskError, checkpoint, yield_now};
use proptest::prelude::*;
use std::sync::Mutex;

const MS: Duration = Duration::from_millis(1);

/// CPU-27: nothing runs until it is told to; then everything that can, on the calling thread.
#[test]
fn draining() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let thread = std::thread::current().id();
    let mut closure = normal.run(move || std::thread::current().id() == thread);
    let inner = normal.clone();
    let mut future = normal.spawn(async move {
        yield_now().await;
        inner.run(|| 2).await.unwrap()
    });
    assert_eq!(closure.status(), Status::Queued);
    assert_eq!(engine.queued("normal"), 2);
    assert!(closure.try_result().is_none());
    let steps = engine.drain();
    assert!(closure.try_result().unwrap().unwrap());
    assert_eq!(future.try_result().unwrap().unwrap(), 2);
    assert_eq!(steps, 5, "two calls and three polls");
    assert_eq!(engine.drain(), 0);
    engine.assert_idle();
    assert!(matches!(
        engine.class("urgent"),
        Err(flyball_executor::Error::UnknownClass { .. })
    ));
}

/// CPU-27: what was submitted is counted, however it was, and what was refused is not.
#[test]
fn submissions_are_counted() {
    let mut engine = Testing::with_config(Config {
        classes: vec![ClassSpec {
            queue_limit: 2,
            ..ClassSpec::new("tight")
        }],
        ..Config::default()
    })
    .unwrap();
    let normal = engine.class("normal").unwrap();
    engine.assert_submitted("normal", 0);
    let _closure = normal.run(|| ());
    let _future = normal.spawn(async {});
    normal.execute(|| ()).unwrap();
    engine.assert_submitted("normal", 3);
    normal.execute_many((0..3).map(|_| || ())).unwrap();
    engine.assert_submitted("normal", 6);
    let _many = normal.run_many((0..13).map(|_| || ()));
    engine.assert_submitted("normal", 19);
    normal.execute_many((0..23).map(|_| || ())).unwrap();
    engine.assert_submitted("normal", 42);
    let tight = engine.class("tight").unwrap();
    for n in 0..5 {
        assert_eq!(tight.execute(|| ()).is_ok(), n < 2);
    }
    engine.assert_submitted("tight", 2);
    assert_eq!(engine.submitted("nobody"), 0);
    engine.drain();
    assert_eq!(engine.stats().class("normal").unwrap().counts.tasks, 42);
    engine.assert_idle();
}

/// CPU-27: time moves only when it is told to; timers fire in order, and what they wake runs at their time.
#[test]
fn advancing() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    for after in [30, 10, 20] {
        let log = log.clone();
        normal
            .spawn(async move {
                tokio::time::sleep(after * MS).await;
                log.lock().unwrap().push(after);
                tokio::time::sleep(100 * MS).await;
                log.lock().unwrap().push(100 + after);
            })
            .detach();
    }
    let start = engine.now();
    engine.drain();
    assert!(log.lock().unwrap().is_empty());
    engine.advance(15 * MS);
    assert_eq!(*log.lock().unwrap(), [10]);
    engine.advance(15 * MS);
    assert_eq!(*log.lock().unwrap(), [10, 20, 30]);
    assert_eq!(engine.now().duration_since(start), 30 * MS);
    engine.advance(3_600_000 * MS);
    assert_eq!(*log.lock().unwrap(), [10, 20, 30, 110, 120, 130]);
    engine.assert_idle();
}

/// CPU-27, CPU-3: timeouts on the manual clock: of futures, and of closures that look at their checkpoints.
#[test]
fn timeouts() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let mut slow = normal.task().timeout(10 * MS).spawn(async {
        tokio::time::sleep(20 * MS).await;
    });
    let mut quick = normal.task().timeout(10 * MS).spawn(async {
        tokio::time::sleep(5 * MS).await;
        "in time"
    });
    engine.advance(9 * MS);
    assert_eq!(quick.try_result().unwrap().unwrap(), "in time");
    assert!(slow.try_result().is_none());
    engine.advance(2 * MS);
    assert!(matches!(slow.try_result(), Some(Err(TaskError::TimedOut))));
    let mut closure = normal.task().timeout(10 * MS).run(checkpoint);
    engine.drain();
    assert!(closure.try_result().unwrap().unwrap().is_ok());
    engine.assert_idle();
}

/// CPU-27, CPU-3: a deadline that passes while all workers are busy; the time that a task waits for a worker does not count
/// against its timeout.
#[test]
fn deadlines_and_stalls() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let mut early = normal.task().deadline(10 * MS).run(|| "ran");
    let mut late = normal.task().deadline(10 * MS).run(|| "ran");
    let mut patient = normal.task().timeout(10 * MS).spawn(async {
        tokio::time::sleep(5 * MS).await;
        "ran"
    });
    let mut closure = normal.task().timeout(10 * MS).run(checkpoint);
    drop(early.try_result());
    engine.stall(9 * MS);
    assert_eq!(engine.queued("normal"), 4, "nothing ran");
    let mut again = normal.task().deadline(10 * MS).run(|| "ran");
    engine.stall(2 * MS);
    engine.drain();
    for missed in [&mut early, &mut late] {
        assert!(matches!(
            missed.try_result(),
            Some(Err(TaskError::DeadlineMissed))
        ));
    }
    assert_eq!(again.try_result().unwrap().unwrap(), "ran");
    assert!(closure.try_result().unwrap().unwrap().is_ok());
    assert!(patient.try_result().is_none());
    engine.advance(5 * MS);
    assert_eq!(patient.try_result().unwrap().unwrap(), "ran");
    assert_eq!(
        engine
            .stats()
            .class("normal")
            .unwrap()
            .counts
            .deadline_missed,
        2
    );
}

/// CPU-27: wherever it would hang a real thread, the kit does the work instead or refuses: scopes run, and a join of what nobody
/// would ever run is an error.
#[test]
fn nothing_hangs() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let mut lengths = [0; 3];
    normal
        .scope(|scope| {
            for (n, length) in lengths.iter_mut().enumerate() {
                scope.run(move || *length = n + 1);
            }
        })
        .unwrap();
    assert_eq!(lengths, [1, 2, 3]);
    let mut queued = normal.run(|| 1);
    assert!(matches!(queued.join(), Err(TaskError::JoinOnWorker)));
    engine.drain();
    assert_eq!(queued.join().unwrap(), 1);
    let inner = normal.clone();
    let mut nested = normal.run(move || {
        let mut inside = 0;
        inner
            .scope(|scope| scope.run(|| inside = 5))
            .map(|()| inside)
            .unwrap()
    });
    engine.drain();
    assert_eq!(nested.try_result().unwrap().unwrap(), 5);
    // The tokio context is there for closures too, as on real workers.
    let mut closure = normal.run(|| tokio::runtime::Handle::try_current().is_ok());
    engine.drain();
    assert!(closure.try_result().unwrap().unwrap());
}

/// CPU-27: an engine that is dropped cancels what it has.
#[test]
fn dropping_cancels() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let drops = Drops::default();
    let (first, second) = (drops.guard(), drops.guard());
    let mut waiting = normal.spawn(async move {
        let _guard = first;
        std::future::pending::<()>().await;
    });
    engine.drain();
    let mut queued = normal.run(move || drop(second));
    drop(engine);
    assert_eq!(drops.count(), 2);
    assert!(matches!(waiting.join(), Err(TaskError::Cancelled)));
    assert!(matches!(queued.join(), Err(TaskError::Cancelled)));
    assert_eq!(
        normal.execute(|| ()).unwrap_err().reason,
        Rejection::ShuttingDown
    );
}

/// CPU-8, CPU-27: classes run in the order of their ranks under `priority`, whatever the order of submission.
#[test]
fn ranks_under_priority() {
    let mut engine = Testing::new();
    engine.set_algorithm(Algorithm::Priority);
    let log = Arc::new(Mutex::new(Vec::new()));
    let submit = |engine: &Testing, name: &'static str| {
        let log = log.clone();
        engine
            .class(name)
            .unwrap()
            .execute(move || log.lock().unwrap().push(name))
            .unwrap();
    };
    for name in ["idle", "batch", "normal", "interactive", "critical"] {
        submit(&engine, name);
    }
    engine.drain();
    assert_eq!(
        std::mem::take(&mut *log.lock().unwrap()),
        ["critical", "interactive", "normal", "batch", "idle"]
    );
}

/// What a test does with the engine.
#[derive(Clone, Debug)]
enum Op {
    Run {
        class: usize,
        priority: i8,
    },
    RunWithDeadline {
        class: usize,
        within: u64,
    },
    Spawn {
        class: usize,
        sleep: u64,
    },
    SpawnWithTimeout {
        class: usize,
        sleep: u64,
        timeout: u64,
    },
    Panic {
        class: usize,
    },
    Nested {
        class: usize,
        inner: usize,
    },
    Cancel(usize),
    Drop(usize),
    Detach(usize),
    Drain,
    Advance(u64),
    Stall(u64),
    Algorithm(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let class = 0..5usize;
    prop_oneof![
        4 => (class.clone(), -3..4i8).prop_map(|(class, priority)| Op::Run { class, priority }),
        2 => (class.clone(), 1..20u64).prop_map(|(class, within)| Op::RunWithDeadline { class, within }),
        4 => (class.clone(), 0..20u64).prop_map(|(class, sleep)| Op::Spawn { class, sleep }),
        2 => (class.clone(), 1..20u64, 1..20u64).prop_map(|(class, sleep, timeout)| Op::SpawnWithTimeout { class, sleep, timeout }),
        1 => class.clone().prop_map(|class| Op::Panic { class }),
        2 => (class.clone(), class).prop_map(|(class, inner)| Op::Nested { class, inner }),
        3 => any::<prop::sample::Index>().prop_map(|index| Op::Cancel(index.index(1_000))),
        2 => any::<prop::sample::Index>().prop_map(|index| Op::Drop(index.index(1_000))),
        1 => any::<prop::sample::Index>().prop_map(|index| Op::Detach(index.index(1_000))),
        3 => Just(Op::Drain),
        3 => (0..15u64).prop_map(Op::Advance),
        2 => (0..15u64).prop_map(Op::Stall),
        1 => (0..4usize).prop_map(Op::Algorithm),
    ]
}

/// What a naive reader of the documentation expects of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Queued,
    /// A future that has been polled at this time, ms.
    Waiting {
        since: u64,
    },
    Finished,
    Panicked,
    Cancelled,
    TimedOut,
    DeadlineMissed,
}

struct Expected {
    op: Op,
    submitted: u64,
    fate: Fate,
    ran: Arc<AtomicUsize>,
    handle: Option<Handle<()>>,
}

impl Expected {
    /// What becomes of it when everything that can run at `now` does.
    fn step(&mut self, now: u64) {
        if self.fate == Fate::Queued {
            self.fate = match self.op {
                Op::RunWithDeadline { within, .. } if now > self.submitted + within => {
                    Fate::DeadlineMissed
                }
                Op::Panic { .. } => Fate::Panicked,
                Op::Spawn { sleep, .. } | Op::SpawnWithTimeout { sleep, .. } if sleep > 0 => {
                    Fate::Waiting { since: now }
                }
                _ => Fate::Finished,
            };
        }
        if let Fate::Waiting { since } = self.fate {
            match self.op {
                Op::Spawn { sleep, .. } if now >= since + sleep => self.fate = Fate::Finished,
                Op::SpawnWithTimeout { sleep, timeout, .. } => {
                    // Where both times have passed the future comes first.
                    if now >= since + sleep {
                        self.fate = Fate::Finished;
                    } else if now >= since + timeout {
                        self.fate = Fate::TimedOut;
                    }
                }
                _ => {}
            }
        }
    }

    fn cancel(&mut self) {
        if matches!(self.fate, Fate::Queued | Fate::Waiting { .. }) {
            self.fate = Fate::Cancelled;
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let runs = usize::from(self.fate == Fate::Finished);
        prop_assert_eq!(
            self.ran.load(SeqCst),
            runs,
            "{:?}: {:?}",
            self.op,
            self.fate
        );
        let Some(handle) = &mut self.handle else {
            return Ok(());
        };
        let open = matches!(self.fate, Fate::Queued | Fate::Waiting { .. });
        prop_assert_eq!(
            handle.is_finished(),
            !open,
            "{:?}: {:?}",
            self.op,
            self.fate
        );
        Ok(())
    }

    fn check_outcome(&mut self) -> Result<(), TestCaseError> {
        self.check()?;
        let Some(mut handle) = self.handle.take() else {
            return Ok(());
        };
        let found = match handle.try_result() {
            None => {
                let open = matches!(self.fate, Fate::Queued | Fate::Waiting { .. });
                prop_assert!(open, "{:?}: {:?}", self.op, self.fate);
                return Ok(());
            }
            Some(Ok(())) => Fate::Finished,
            Some(Err(TaskError::Panicked(_))) => Fate::Panicked,
            Some(Err(TaskError::Cancelled)) => Fate::Cancelled,
            Some(Err(TaskError::TimedOut)) => Fate::TimedOut,
            Some(Err(TaskError::DeadlineMissed)) => Fate::DeadlineMissed,
            Some(Err(other)) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert_eq!(found, self.fate, "{:?}", self.op);
        Ok(())
    }
}

const CLASSES: [&str; 5] = ["critical", "interactive", "normal", "batch", "idle"];

fn run_ops(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut engine = Testing::new();
    let classes = CLASSES.map(|name| engine.class(name).unwrap());
    let mut tasks: Vec<Expected> = Vec::new();
    let mut submitted = [0u64; 5];
    let mut nested: Vec<(usize, Arc<AtomicUsize>)> = Vec::new();
    let mut now = 0;
    for op in ops {
        let ran = Arc::new(AtomicUsize::new(0));
        let count = {
            let ran = ran.clone();
            move || {
                ran.fetch_add(1, SeqCst);
            }
        };
        let handle = match op {
            Op::Run { class, priority } => {
                submitted[class] += 1;
                classes[class].task().priority(priority).run(count)
            }
            Op::RunWithDeadline { class, within } => {
                submitted[class] += 1;
                let within = Duration::from_millis(within);
                classes[class].task().deadline(within).run(count)
            }
            Op::Spawn { class, sleep } => {
                submitted[class] += 1;
                classes[class].spawn(async move {
                    if sleep > 0 {
                        tokio::time::sleep(Duration::from_millis(sleep)).await;
                    }
                    count();
                })
            }
            Op::SpawnWithTimeout {
                class,
                sleep,
                timeout,
            } => {
                submitted[class] += 1;
                let timeout = Duration::from_millis(timeout);
                classes[class].task().timeout(timeout).spawn(async move {
                    tokio::time::sleep(Duration::from_millis(sleep)).await;
                    count();
                })
            }
            Op::Panic { class } => {
                submitted[class] += 1;
                classes[class].run(|| panic!("expected"))
            }
            Op::Nested { class, inner } => {
                submitted[class] += 1;
                let inner_ran = Arc::new(AtomicUsize::new(0));
                nested.push((tasks.len(), inner_ran.clone()));
                let inner = classes[inner].clone();
                classes[class].run(move || {
                    count();
                    inner
                        .execute(move || {
                            inner_ran.fetch_add(1, SeqCst);
                        })
                        .unwrap();
                })
            }
            _ => {
                match op {
                    Op::Cancel(n) if !tasks.is_empty() => {
                        let n = n % tasks.len();
                        let task = &mut tasks[n];
                        if let Some(handle) = &task.handle {
                            let open = matches!(task.fate, Fate::Queued | Fate::Waiting { .. });
                            prop_assert_eq!(handle.cancel(), open);
                            task.cancel();
                        }
                    }
                    Op::Drop(n) if !tasks.is_empty() => {
                        let n = n % tasks.len();
                        if tasks[n].handle.take().is_some() {
                            tasks[n].cancel();
                        }
                    }
                    Op::Detach(n) if !tasks.is_empty() => {
                        let n = n % tasks.len();
                        if let Some(handle) = tasks[n].handle.take() {
                            handle.detach();
                        }
                    }
                    Op::Drain => {
                        engine.drain();
                        tasks.iter_mut().for_each(|task| task.step(now));
                    }
                    Op::Advance(by) => {
                        tasks.iter_mut().for_each(|task| task.step(now));
                        engine.advance(Duration::from_millis(by));
                        for _ in 0..by {
                            now += 1;
                            tasks.iter_mut().for_each(|task| task.step(now));
                        }
                    }
                    Op::Stall(by) => {
                        engine.stall(Duration::from_millis(by));
                        now += by;
                    }
                    Op::Algorithm(n) => engine.set_algorithm(Algorithm::ALL[n]),
                    _ => {}
                }
                for task in &mut tasks {
                    task.check()?;
                }
                continue;
            }
        };
        tasks.push(Expected {
            op,
            submitted: now,
            fate: Fate::Queued,
            ran,
            handle: Some(handle),
        });
    }
    engine.advance(Duration::from_millis(50));
    for _ in 0..=50 {
        tasks.iter_mut().for_each(|task| task.step(now));
        now += 1;
    }
    engine.assert_idle();
    for task in &mut tasks {
        task.check_outcome()?;
    }
    for (outer, ran) in nested {
        let runs = usize::from(tasks[outer].fate == Fate::Finished);
        prop_assert_eq!(ran.load(SeqCst), runs);
        if let Op::Nested { inner, .. } = tasks[outer].op {
            submitted[inner] += runs as u64;
        }
    }
    let stats = engine.stats();
    for (n, name) in CLASSES.iter().enumerate() {
        prop_assert_eq!(engine.submitted(name), submitted[n]);
        prop_assert_eq!(stats.class(name).unwrap().counts.tasks, submitted[n]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// CPU-3, CPU-27: random sequences of submissions, cancellations and moves of the clock end as a naive model says: each task
    /// has the one outcome that the documentation gives it, and runs at most once; what was submitted adds up.
    #[test]
    fn tasks_end_as_a_naive_model_says(ops in prop::collection::vec(op(), 1..120)) {
        run_ops(ops)?;
    }
}
