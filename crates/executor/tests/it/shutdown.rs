//! The end.

use crate::*;
use flyball_executor::{Error, TaskError, yield_now};
use std::sync::Mutex;

/// CPU-18: what was accepted runs to its end, with all that it submits itself.
#[test]
fn everything_accepted_runs() {
    let executor = start(small());
    let ran = Arc::new(AtomicUsize::new(0));
    let mut handles = Vec::new();
    for class in executor.classes() {
        for n in 0..100 {
            let count = || {
                let ran = ran.clone();
                move || {
                    ran.fetch_add(1, SeqCst);
                }
            };
            class.execute(count()).unwrap();
            handles.push(class.run(count()));
            let (inner, work, more) = (class.clone(), count(), count());
            handles.push(class.spawn(async move {
                tokio::time::sleep(Duration::from_micros(100 * (n % 5))).await;
                inner.execute(more).unwrap();
                inner.run(work).await.unwrap();
            }));
            class.task().priority(3).run(count()).detach();
        }
    }
    let report = executor.shutdown(PATIENCE).unwrap();
    assert_eq!(ran.load(SeqCst), 5 * 100 * 5);
    assert_eq!(report.cancelled, 0);
    assert!(report.left_running.is_empty());
    assert_eq!(report.ended, 5 * 100 * 6);
    assert!(handles.iter().all(|handle| handle.is_finished()));
    for mut handle in handles {
        handle.join().unwrap();
    }
}

/// CPU-18: a chain of tasks that hops between groups and natures is never mistaken for silence: shutdown waits for its end.
#[test]
fn a_chain_is_waited_for() {
    fn hop(classes: Arc<Vec<Class>>, left: usize, done: Sender<()>) {
        let class = classes[left % classes.len()].clone();
        let next = move |left: usize| {
            if left == 0 {
                let _ = done.send(());
            } else {
                hop(classes, left - 1, done);
            }
        };
        match left % 3 {
            0 => class.execute(move || next(left)).unwrap(),
            1 => class.run(move || next(left)).detach(),
            _ => class
                .spawn(async move {
                    yield_now().await;
                    next(left);
                })
                .detach(),
        }
    }
    for round in 0..20 {
        let executor = start(small());
        let classes = Arc::new(executor.classes());
        let chains: Vec<_> = (0..2)
            .map(|_| {
                let (done, is_done) = channel();
                hop(classes.clone(), 300 + round, done);
                is_done
            })
            .collect();
        let report = executor.shutdown(PATIENCE).unwrap();
        assert_eq!(report.cancelled, 0, "{report:?}");
        for chain in chains {
            chain.try_recv().expect("the chain has come to its end");
        }
    }
}

/// CPU-18: tasks that respawn themselves for ever do not extend the time; each is cancelled once.
#[test]
fn respawning_tasks_do_not_extend_it() {
    fn respawn(class: Class, drops: Drops, guard: Guard) {
        let again = class.clone();
        let next = drops.guard();
        // Refused at the end, when `next` is dropped with the closure.
        let _ = class.execute(move || {
            drop(guard);
            respawn(again, drops, next);
        });
    }
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    for class in executor.classes() {
        let drops = Drops::default();
        let guard = drops.guard();
        respawn(class.clone(), drops, guard);
        class
            .spawn(async {
                loop {
                    yield_now().await;
                }
            })
            .detach();
    }
    let mut endless = normal.spawn(async {
        loop {
            yield_now().await;
        }
    });
    let report = executor.shutdown(Duration::from_millis(20)).unwrap();
    assert!(report.left_running.is_empty(), "{report:?}");
    assert!(report.cancelled >= 6, "{report:?}");
    assert!(matches!(endless.join(), Err(TaskError::Cancelled)));
}

/// CPU-18: futures that nobody wakes are dropped when the time is over; queued closures never run.
#[test]
fn what_waits_for_ever_is_dropped() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let drops = Drops::default();
    let mut waiting: Vec<_> = (0..10)
        .map(|_| {
            let guard = drops.guard();
            normal.spawn(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            })
        })
        .collect();
    eventually("they wait", || executor.stats().waiting_futures == 10);
    let report = executor.shutdown(Duration::from_millis(1)).unwrap();
    assert_eq!(report.cancelled, 10);
    assert_eq!(drops.count(), 10);
    for handle in &mut waiting {
        assert!(matches!(handle.join(), Err(TaskError::Cancelled)));
    }
}

/// CPU-18, CPU-3: a closure that never returns does not hold up the shutdown: it is reported with class and kind, and its
/// thread ends when it does. What was queued behind it is cancelled, what it had submitted itself as well.
#[test]
fn a_closure_that_never_returns_is_left_behind() {
    for name in ["interactive", "normal"] {
        let stopped = Arc::new(AtomicUsize::new(0));
        let counter = stopped.clone();
        let executor = start(Config {
            force_after: Duration::from_millis(5),
            on_thread_stop: Some(Arc::new(move || {
                counter.fetch_add(1, SeqCst);
            })),
            ..single()
        });
        let class = executor.class(name).unwrap();
        let (drops, ran) = (Drops::default(), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (guard, ran) = (drops.guard(), ran.clone());
            move || {
                let _guard = guard;
                ran.fetch_add(1, SeqCst);
            }
        };
        let (open, wait) = channel::<()>();
        let (inside, is_inside) = channel();
        let inner = class.clone();
        let own: Vec<_> = (0..50).map(|_| work()).collect();
        let own_future = work();
        let mut handle = class.task().kind("endless").run(move || {
            for work in own {
                inner.execute(work).unwrap();
            }
            inner.spawn(async move { own_future() }).detach();
            inside.send(()).unwrap();
            let _ = wait.recv();
            inner.execute(|| ()).is_err()
        });
        receive(&is_inside);
        let mut queued = class.run(work());
        let report = executor.shutdown(Duration::ZERO).unwrap();
        assert_eq!(report.left_running.len(), 1, "{report:?}");
        let (class_name, kind, _) = &report.left_running[0];
        assert_eq!((&**class_name, &**kind), (name, "endless"));
        assert!(matches!(queued.join(), Err(TaskError::Cancelled)));
        assert_eq!(stopped.load(SeqCst), 1, "the other worker has ended");
        open.send(()).unwrap();
        assert!(handle.join().unwrap(), "it may submit nothing more");
        eventually("its thread ends", || stopped.load(SeqCst) == 2);
        assert_eq!(ran.load(SeqCst), 0, "nothing starts after the end");
        assert_eq!(drops.count(), 52);
        assert!(report.cancelled >= 1);
    }
}

/// CPU-18: the same for closures without a handle that come among many tiny ones, which share clock readings.
#[test]
fn a_tiny_closure_that_never_returns_is_left_behind() {
    let executor = start(Config {
        force_after: Duration::from_millis(5),
        ..single()
    });
    let normal = executor.class("normal").unwrap();
    let inner = normal.clone();
    let (open, wait) = channel::<()>();
    let (inside, is_inside) = channel();
    normal
        .execute(move || {
            // From a stack the newest runs first: the endless one comes last, when the others have been found tiny.
            inner
                .execute(move || {
                    inside.send(()).unwrap();
                    let _ = wait.recv();
                })
                .unwrap();
            for _ in 0..250 {
                inner.execute(|| ()).unwrap();
            }
        })
        .unwrap();
    receive(&is_inside);
    let shown = executor
        .workers()
        .iter()
        .filter(|worker| worker.task.is_some())
        .count();
    assert_eq!(shown, 1);
    let report = executor.shutdown(Duration::ZERO).unwrap();
    assert_eq!(report.left_running.len(), 1, "{report:?}");
    open.send(()).unwrap();
}

/// CPU-18: a poll that never returns is left behind in the same way.
#[test]
fn a_poll_that_never_returns_is_left_behind() {
    for name in ["interactive", "normal"] {
        let executor = start(Config {
            force_after: Duration::from_millis(5),
            ..single()
        });
        let class = executor.class(name).unwrap();
        let (open, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let (inside, is_inside) = channel();
        let mut handle = class.spawn(async move {
            yield_now().await;
            inside.send(()).unwrap();
            let _ = wait.lock().unwrap().recv();
            std::future::pending::<()>().await;
        });
        receive(&is_inside);
        let report = executor.shutdown(Duration::ZERO).unwrap();
        assert_eq!(report.left_running.len(), 1, "{report:?}");
        assert!(!handle.is_finished());
        open.send(()).unwrap();
        assert!(matches!(handle.join(), Err(TaskError::Cancelled)));
    }
}

/// CPU-18: shutting down from one of its own workers is refused, and the executor goes on.
#[test]
fn a_worker_cannot_shut_its_own_executor_down() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let (send, back) = channel();
    normal
        .execute(move || {
            let (executor, error) = *executor.shutdown(Duration::ZERO).unwrap_err();
            assert!(matches!(error, Error::BlocksWorker { call: "shutdown" }));
            send.send(executor).unwrap();
        })
        .unwrap();
    let executor = receive(&back);
    assert_eq!(normal.run(|| 4).join().unwrap(), 4);
    end(executor);
}

/// CPU-18: dropping the executor cancels everything and ends its threads.
#[test]
fn dropping_the_executor_cancels() {
    let stopped = Arc::new(AtomicUsize::new(0));
    let counter = stopped.clone();
    let executor = start(Config {
        on_thread_stop: Some(Arc::new(move || {
            counter.fetch_add(1, SeqCst);
        })),
        ..single()
    });
    let normal = executor.class("normal").unwrap();
    let mut waiting = normal.spawn(std::future::pending::<()>());
    drop(executor);
    assert!(matches!(waiting.join(), Err(TaskError::Cancelled)));
    assert_eq!(stopped.load(SeqCst), 2);
}

/// CPU-18: an executor that is dropped on one of its own workers waits for nobody to end that one.
#[test]
fn an_executor_is_dropped_on_its_own_worker() {
    let stopped = Arc::new(AtomicUsize::new(0));
    let counter = stopped.clone();
    let executor = start(Config {
        force_after: Duration::from_millis(5),
        on_thread_stop: Some(Arc::new(move || {
            counter.fetch_add(1, SeqCst);
        })),
        ..single()
    });
    let normal = executor.class("normal").unwrap();
    let mut waiting = normal.spawn(std::future::pending::<()>());
    let mut last = normal.run(move || drop(executor));
    last.join().unwrap();
    assert!(matches!(waiting.join(), Err(TaskError::Cancelled)));
    eventually("its threads end", || stopped.load(SeqCst) == 2);
}

/// CPU-1, CPU-18: executors use each other: what one accepts from another's workers it runs, waits for and refuses like anything
/// from outside.
#[test]
fn executors_use_each_other() {
    let (outer, inner) = (start(small()), start(small()));
    let (class, other) = (
        outer.class("normal").unwrap(),
        inner.class("normal").unwrap(),
    );
    let there = other.clone();
    let mut future = class.spawn(async move {
        let closure = there.run(|| 1).await.unwrap();
        let future = there.spawn(async { 2 }).await.unwrap();
        closure + future
    });
    assert_eq!(future.join().unwrap(), 3);
    let there = other.clone();
    let mut scoped = class.run(move || {
        let mut value = 0;
        there.scope(|scope| scope.run(|| value = 4)).unwrap();
        for _ in 0..100 {
            there.execute(|| ()).unwrap();
        }
        assert!(matches!(
            there.run(|| ()).join(),
            Ok(()) | Err(TaskError::JoinOnWorker)
        ));
        value
    });
    assert_eq!(scoped.join().unwrap(), 4);
    let there = other.clone();
    let mut ending = class.run(move || {
        end(inner);
        there.execute(|| ()).is_err()
    });
    assert!(ending.join().unwrap());
    end(outer);
    assert!(other.execute(|| ()).is_err());
}

/// CPU-18: producers that go on while the executor ends: each task ran, or was refused, or was cancelled with its captures
/// dropped; none is left.
#[test]
fn producers_race_the_end() {
    for round in 0..30 {
        let executor = start(small());
        let classes = executor.classes();
        let drops = Drops::default();
        let ready = Arc::new(std::sync::Barrier::new(3));
        let producers: Vec<_> = (0..2)
            .map(|part| {
                let (classes, drops, ready) = (classes.clone(), drops.clone(), ready.clone());
                std::thread::spawn(move || {
                    let mut handles = Vec::new();
                    ready.wait();
                    for n in 0..400 {
                        let class = &classes[(n + part) % classes.len()];
                        let guard = drops.guard();
                        match n % 4 {
                            0 => {
                                let _ = class.execute(move || drop(guard));
                            }
                            1 => {
                                handles.push(class.run(move || drop(guard)));
                            }
                            2 => handles.push(class.spawn(async move {
                                let _guard = guard;
                                yield_now().await;
                            })),
                            _ => {
                                let inner = class.clone();
                                let _ = class.execute(move || {
                                    let _ = inner.execute(move || drop(guard));
                                });
                            }
                        }
                    }
                    let mut outcomes = 0;
                    for mut handle in handles {
                        match handle.join() {
                            Ok(()) | Err(TaskError::Cancelled | TaskError::Rejected(_)) => {
                                outcomes += 1;
                            }
                            Err(other) => panic!("{other}"),
                        }
                    }
                    outcomes
                })
            })
            .collect();
        ready.wait();
        let timeout = if round % 2 == 0 {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let report = executor.shutdown(timeout).unwrap();
        assert!(report.left_running.is_empty());
        for producer in producers {
            assert_eq!(producer.join().unwrap(), 200);
        }
        assert_eq!(drops.count(), 800);
    }
}
