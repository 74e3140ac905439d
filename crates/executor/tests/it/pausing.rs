//! Classes that are paused, resumed and removed.

use crate::*;
use flyball_executor::{
    ClassSpec, Error, Group, Rejection, Strategy, TaskError, What, WorkerState, yield_now,
};

fn custom(group: Group) -> ClassSpec {
    ClassSpec::new("custom").with_group(group)
}

/// What is asserted never to happen is given this many chances: other tasks of the same group that run meanwhile.
fn let_others_run(executor: &Executor, class: &str) {
    let class = executor.class(class).unwrap();
    for _ in 0..50 {
        class.run(|| ()).join().unwrap();
    }
}

/// CPU-1: a paused class starts nothing, whatever it has and however it comes in, while others run; resumed, everything runs.
#[test]
fn nothing_of_a_paused_class_starts() {
    for (name, other) in [("interactive", "critical"), ("normal", "batch")] {
        for strategy in [Strategy::Pull, Strategy::RoundRobin] {
            let executor = start(Config {
                strategy,
                ..small()
            });
            let class = executor.class(name).unwrap();
            let ran = Arc::new(AtomicUsize::new(0));
            let count = || {
                let ran = ran.clone();
                move || {
                    ran.fetch_add(1, SeqCst);
                }
            };
            let mut waiting = class.spawn({
                let count = count();
                async move {
                    yield_now().await;
                    count();
                }
            });
            waiting.join().unwrap();
            assert_eq!(ran.swap(0, SeqCst), 1);
            // A worker still on its way out of the class might take one more.
            eventually("all workers rest", || {
                let workers = executor.workers();
                workers
                    .iter()
                    .all(|worker| worker.state == WorkerState::Idle)
            });
            assert!(executor.pause_class(name).unwrap());
            assert!(!executor.pause_class(name).unwrap(), "it is already");
            let mut handles = Vec::new();
            for n in 0..20 {
                class.execute(count()).unwrap();
                handles.push(class.task().priority(n).run(count()));
                handles.push(class.task().key(n.to_string()).run(count()));
                handles.push(class.spawn({
                    let count = count();
                    async move { count() }
                }));
            }
            class.execute_many((0..20).map(|_| count())).unwrap();
            let_others_run(&executor, other);
            assert_eq!(ran.load(SeqCst), 0);
            let stats = executor.stats();
            let figures = stats.class(name).unwrap();
            assert!(figures.paused);
            assert_eq!((figures.queued, figures.running), (100, 0));
            assert!(figures.oldest_wait.is_some());
            assert!(executor.resume_class(name).unwrap());
            assert!(!executor.resume_class(name).unwrap(), "it runs already");
            eventually("everything has run", || ran.load(SeqCst) == 100);
            for handle in &mut handles {
                handle.join().unwrap();
            }
            for what in [What::Paused, What::Resumed] {
                let events = executor.events();
                assert_eq!(events.iter().filter(|event| event.what == what).count(), 1);
            }
            end(executor);
        }
    }
}

/// CPU-1: a class is paused in the middle of its work: the closure that runs comes to its end, what it had submitted to its own
/// worker stays, futures stay where they are, and nothing is lost.
#[test]
fn pausing_in_the_middle_loses_nothing() {
    for (name, other) in [("interactive", "critical"), ("normal", "batch")] {
        let executor = start(small());
        let class = executor.class(name).unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let (open, wait) = channel::<()>();
        let (inside, is_inside) = channel();
        let (inner, count) = (class.clone(), ran.clone());
        let mut handle = class.run(move || {
            let _ = inside.send(());
            let _ = wait.recv();
            for _ in 0..50 {
                let (first, second) = (count.clone(), count.clone());
                inner
                    .execute(move || {
                        first.fetch_add(1, SeqCst);
                    })
                    .unwrap();
                inner
                    .spawn(async move {
                        yield_now().await;
                        second.fetch_add(1, SeqCst);
                    })
                    .detach();
            }
        });
        let (wake, woken) = tokio::sync::oneshot::channel::<()>();
        let mut sleeper = class.spawn(async move { woken.await.is_ok() });
        eventually("the future waits", || executor.stats().waiting_futures == 1);
        receive(&is_inside);
        executor.pause_class(name).unwrap();
        open.send(()).unwrap();
        handle.join().expect("what runs comes to its end");
        wake.send(()).unwrap();
        let_others_run(&executor, other);
        assert_eq!(ran.load(SeqCst), 0);
        assert!(!sleeper.is_finished());
        eventually("nothing of it runs", || {
            executor.stats().class(name).unwrap().running == 0
        });
        executor.resume_class(name).unwrap();
        assert!(sleeper.join().unwrap());
        eventually("everything has run", || ran.load(SeqCst) == 100);
        end(executor);
    }
}

/// CPU-1: pausing and resuming without end, beside producers, loses nothing and leaves nobody asleep beside work.
#[test]
fn pausing_races_submitting() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|threads| {
        for _ in 0..2 {
            let (class, ran) = (normal.clone(), ran.clone());
            threads.spawn(move || {
                for n in 0..2_000 {
                    let ran = ran.clone();
                    let mut handle = class.run(move || {
                        ran.fetch_add(1, SeqCst);
                    });
                    if n % 16 == 0 {
                        handle.join().unwrap();
                    } else {
                        handle.detach();
                    }
                }
            });
        }
        for _ in 0..300 {
            executor.pause_class("normal").unwrap();
            executor.resume_class("normal").unwrap();
        }
    });
    eventually("everything has run", || ran.load(SeqCst) == 4_000);
    end(executor);
}

/// CPU-1, CPU-18: a class that is paused does not hold others up: not its own group by its rank, nor the other group.
#[test]
fn a_paused_class_holds_nobody_up() {
    let executor = start(single());
    for name in ["critical", "normal"] {
        executor.pause_class(name).unwrap();
        let class = executor.class(name).unwrap();
        class.execute_many((0..100).map(|_| || ())).unwrap();
    }
    for name in ["interactive", "batch", "idle"] {
        let_others_run(&executor, name);
    }
    let promised = executor.stats().class("normal").unwrap().promised;
    assert_eq!(promised, None, "it does not count as awake");
    executor.resume_class("critical").unwrap();
    executor.resume_class("normal").unwrap();
    end(executor);
}

/// CPU-18: a shutdown resumes what is paused: what was accepted runs.
#[test]
fn a_shutdown_runs_paused_classes() {
    let executor = start(small());
    let ran = Arc::new(AtomicUsize::new(0));
    for class in executor.classes() {
        executor.pause_class(class.name()).unwrap();
        for _ in 0..20 {
            let ran = ran.clone();
            class
                .execute(move || {
                    ran.fetch_add(1, SeqCst);
                })
                .unwrap();
        }
    }
    assert_eq!(ran.load(SeqCst), 0);
    end(executor);
    assert_eq!(ran.load(SeqCst), 100);
}

/// CPU-1: changing a paused class leaves it paused; its queue limit holds.
#[test]
fn a_paused_class_can_be_changed() {
    let executor = start(small());
    executor.pause_class("batch").unwrap();
    let batch = executor.class("batch").unwrap();
    executor
        .set_class(ClassSpec {
            queue_limit: 3,
            ..batch.spec()
        })
        .unwrap();
    for _ in 0..3 {
        batch.execute(|| ()).unwrap();
    }
    assert!(matches!(
        batch.execute(|| ()).unwrap_err().reason,
        Rejection::QueueFull { limit: 3, .. }
    ));
    let_others_run(&executor, "idle");
    assert_eq!(batch.queued(), 3);
    assert!(executor.pause_class("nobody").is_err());
    assert!(executor.resume_class("nobody").is_err());
    end(executor);
}

/// CPU-1: a class without tasks can be removed; its handles refuse from then on, and another may have its name and its place.
#[test]
fn a_class_without_tasks_is_removed() {
    for group in [Group::Front, Group::Back] {
        let executor = start(small());
        let before = executor.stats();
        let class = executor.add_class(custom(group)).unwrap();
        for _ in 0..10 {
            class.task().kind("old").run(|| ()).join().unwrap();
        }
        eventually("they are counted", || {
            executor.stats().class("custom").unwrap().counts.tasks == 10
        });
        eventually("it is removed", || executor.remove_class("custom").is_ok());
        assert!(matches!(
            executor.class("custom"),
            Err(Error::UnknownClass { .. })
        ));
        assert!(matches!(
            class.execute(|| ()).unwrap_err().reason,
            Rejection::ClassRemoved { class } if &*class == "custom"
        ));
        assert!(class.execute_many([|| ()]).is_err());
        assert!(matches!(
            class.spawn(async {}).join(),
            Err(TaskError::Rejected(Rejection::ClassRemoved { .. }))
        ));
        let stats = executor.stats();
        assert_eq!(stats.ended, before.ended + 10, "totals stay");
        assert_eq!(stats.submitted, stats.ended);
        // The old handle is still held: the new class has another place, and nothing of the old one's.
        let fresh = executor.add_class(custom(group)).unwrap();
        assert_eq!(executor.stats().class("custom").unwrap().counts.tasks, 0);
        fresh.run(|| ()).join().unwrap();
        assert!(class.execute(|| ()).is_err());
        end(executor);
    }
}

/// CPU-1: places of removed classes serve again once their last handle is gone, for ever; figures start over with each class, and
/// those of workers go on.
#[test]
fn places_of_removed_classes_serve_again() {
    let executor = start(single());
    for round in 0..200u64 {
        let class = executor.add_class(custom(Group::Back)).unwrap();
        for _ in 0..3 {
            class.run(|| ()).join().unwrap();
        }
        eventually("they are counted", || {
            executor.stats().class("custom").unwrap().counts.tasks == 3
        });
        let stats = executor.stats();
        assert_eq!(
            (stats.submitted, stats.ended),
            (3 * round + 3, 3 * round + 3)
        );
        drop(class);
        eventually("it is removed", || executor.remove_class("custom").is_ok());
    }
    let by_workers: u64 = executor.workers().iter().map(|worker| worker.tasks).sum();
    assert_eq!(by_workers, 600);
    // Handles that are held keep their places: 59 beside those built in.
    let mut held = Vec::new();
    for _ in 0..59 {
        held.push(executor.add_class(custom(Group::Back)).unwrap());
        executor.remove_class("custom").unwrap();
    }
    assert!(matches!(
        executor.add_class(custom(Group::Back)),
        Err(Error::TooManyClasses)
    ));
    held.pop();
    executor.add_class(custom(Group::Back)).unwrap();
    end(executor);
}

/// CPU-1: a class with tasks, of whatever kind, is not removed, and goes on; built-in classes stay.
#[test]
fn a_class_in_use_is_not_removed() {
    let executor = start(small());
    let class = executor.add_class(custom(Group::Back)).unwrap();
    let in_use = || match executor.remove_class("custom") {
        Err(Error::ClassInUse {
            queued,
            running,
            waiting,
            ..
        }) => (queued, running, waiting),
        other => panic!("{other:?}"),
    };
    let gate = hold(&class);
    assert_eq!(in_use(), (0, 1, 0));
    let waiting = class.spawn(std::future::pending::<()>());
    gate.open();
    eventually("the future waits", || executor.stats().waiting_futures == 1);
    eventually("nothing else is left", || in_use() == (0, 0, 1));
    drop(waiting);
    executor.pause_class("custom").unwrap();
    let mut queued = class.run(|| 7);
    assert_eq!(in_use().0, 1);
    assert!(executor.stats().class("custom").unwrap().paused);
    executor.resume_class("custom").unwrap();
    assert_eq!(queued.join().unwrap(), 7);
    for name in ["critical", "interactive", "normal", "batch", "idle"] {
        assert!(matches!(
            executor.remove_class(name),
            Err(Error::BuiltInClass { .. })
        ));
    }
    assert!(matches!(
        executor.remove_class("nobody"),
        Err(Error::UnknownClass { .. })
    ));
    end(executor);
}

/// CPU-1, CPU-3: classes are removed beside submissions: each task runs, is cancelled or is refused, and none is lost.
#[test]
fn removing_races_submitting() {
    let executor = start(small());
    let (mut ran, mut cancelled, mut refused) = (0, 0, 0);
    for _ in 0..200 {
        let class = executor.add_class(custom(Group::Back)).unwrap();
        let outcomes: Vec<_> = std::thread::scope(|threads| {
            let submitter = threads.spawn(|| (0..20).map(|_| class.run(|| ())).collect());
            while executor.remove_class("custom").is_err() {}
            submitter.join().expect("no panic")
        });
        let outcomes: Vec<Handle<()>> = outcomes;
        for mut handle in outcomes {
            match handle.join() {
                Ok(()) => ran += 1,
                Err(TaskError::Cancelled) => cancelled += 1,
                // Full: while it is looked whether the class can be removed.
                Err(TaskError::Rejected(
                    Rejection::ClassRemoved { .. } | Rejection::QueueFull { limit: 0, .. },
                )) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert_eq!(ran + cancelled + refused, 4_000);
    end(executor);
}

/// CPU-1: on the manual clock, pausing and resuming are exact.
#[cfg(feature = "testing")]
#[test]
fn pausing_on_the_manual_clock() {
    let mut engine = flyball_executor::testing::Testing::new();
    let (batch, normal) = (
        engine.class("batch").unwrap(),
        engine.class("normal").unwrap(),
    );
    engine.pause_class("batch").unwrap();
    let mut paused = batch.run(|| 1);
    let mut deadline = batch.task().deadline(Duration::from_secs(1)).run(|| 2);
    let mut other = normal.run(|| 3);
    assert_eq!(engine.drain(), 1);
    assert_eq!(other.try_result().unwrap().unwrap(), 3);
    engine.advance(Duration::from_secs(5));
    let figures = engine.stats();
    let figures = figures.class("batch").unwrap();
    assert_eq!((figures.queued, figures.submitted), (2, 2));
    assert_eq!(figures.oldest_wait, Some(Duration::from_secs(5)));
    engine.resume_class("batch").unwrap();
    engine.drain();
    assert_eq!(paused.try_result().unwrap().unwrap(), 1);
    assert!(matches!(
        deadline.try_result(),
        Some(Err(TaskError::DeadlineMissed))
    ));
    assert_eq!(engine.stats().class("batch").unwrap().oldest_wait, None);
}
