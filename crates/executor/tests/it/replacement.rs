//! Stuck workers, and who takes their place.

use crate::*;
use flyball_executor::{
    Algorithm, ClassSpec, Error, Event, Group, What, WorkerState, WorkerStatus, blocking,
    checkpoint, yield_now,
};

/// As `small`, with workers that count as stuck after a few milliseconds.
fn impatient() -> Config {
    Config {
        stuck_after: Duration::from_millis(1),
        force_after: Duration::from_millis(5),
        start_batch: 16,
        ..small()
    }
}

fn events(executor: &Executor, what: What) -> Vec<Event> {
    let mut events = executor.events();
    events.retain(|event| event.what == what);
    events
}

fn replaced(executor: &Executor) -> Vec<WorkerStatus> {
    let mut workers = executor.workers();
    workers.retain(|worker| worker.replaced_by.is_some());
    workers
}

fn group(executor: &Executor, group: Group) -> flyball_executor::GroupStats {
    executor.stats().group(group).clone()
}

/// CPU-18: when every worker of a group is stuck, others take their places, the class goes on, and the old threads end with their
/// tasks: the number of workers is the same all the time.
#[test]
fn stuck_workers_are_replaced() {
    for (name, of) in [("interactive", Group::Front), ("normal", Group::Back)] {
        let executor = start(Config {
            front_workers: 2,
            back_workers: 2,
            ..impatient()
        });
        let class = executor.class(name).unwrap();
        // Both tokens of the back group are held by tasks that stand still: without giving them back nobody could run.
        let gates = hold_many(&class, 2);
        assert_eq!(class.run(|| 1).join().unwrap(), 1);
        eventually("both are replaced", || replaced(&executor).len() == 2);
        let stats = group(&executor, of);
        assert_eq!((stats.wanted, stats.replaced, stats.stuck), (2, 2, 2));
        for worker in replaced(&executor) {
            assert_eq!(worker.state, WorkerState::Stuck);
            assert_ne!(worker.replaced_by, Some(worker.id));
            assert!(matches!(
                executor.restart_worker(worker.id),
                Err(Error::WorkerReplaced { id, .. }) if id == worker.id
            ));
            assert!(executor.drain_worker(worker.id).is_err());
        }
        eventually("two others are there", || group(&executor, of).present == 2);
        for gate in gates {
            gate.open();
        }
        eventually("the old ones have ended", || {
            replaced(&executor).is_empty() && group(&executor, of).stuck == 0
        });
        let stats = group(&executor, of);
        assert_eq!((stats.wanted, stats.present), (2, 2));
        assert_eq!(events(&executor, What::Replaced).len(), 2);
        assert!(
            events(&executor, What::Replaced)[0]
                .reason
                .contains("takes its place")
        );
        // Their numbers are free again.
        executor.scale(of, 4).unwrap();
        eventually("four are there", || group(&executor, of).present == 4);
        assert_eq!(class.run(|| 2).join().unwrap(), 2);
        end(executor);
    }
}

/// CPU-18: what a stuck worker held (closures and futures that its task had submitted, tasks tagged for it) is moved and run.
#[test]
fn the_queue_of_a_stuck_worker_is_moved() {
    for strategy in [
        flyball_executor::Strategy::Pull,
        flyball_executor::Strategy::RoundRobin,
    ] {
        let executor = start(Config {
            parallelism: 1,
            back_workers: 1,
            strategy,
            ..impatient()
        });
        let normal = executor.class("normal").unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let (open, wait) = channel::<()>();
        let (inner, count) = (normal.clone(), ran.clone());
        let mut handle = normal.run(move || {
            for n in 0..100 {
                let count = count.clone();
                let work = move || {
                    count.fetch_add(1, SeqCst);
                };
                if n % 2 == 0 {
                    inner.execute(work).unwrap();
                } else {
                    inner.spawn(async move { work() }).detach();
                }
            }
            let _ = wait.recv();
        });
        eventually("others have run them", || ran.load(SeqCst) == 100);
        open.send(()).unwrap();
        handle.join().unwrap();
        end(executor);
    }
}

/// CPU-18: no more threads than `max_stuck` are left in their tasks; an event says so, once; when one comes back, the next is
/// replaced.
#[test]
fn threads_that_are_left_are_bounded() {
    let executor = start(Config {
        parallelism: 8,
        back_workers: 3,
        max_stuck: 2,
        ..impatient()
    });
    let normal = executor.class("normal").unwrap();
    let mut gates = hold_many(&normal, 2);
    eventually("two are replaced", || replaced(&executor).len() == 2);
    gates.extend(hold_many(&normal, 2));
    eventually("a third is not", || {
        events(&executor, What::NotReplaced).len() == 2
    });
    let looks = executor.stats().at;
    eventually("it is looked at again", || {
        executor.stats().at.duration_since(looks) > Duration::from_millis(30)
    });
    assert_eq!(replaced(&executor).len(), 2);
    assert_eq!(
        events(&executor, What::NotReplaced).len(),
        2,
        "told once each"
    );
    assert_eq!(normal.run(|| 1).join().unwrap(), 1);
    gates.remove(0).open();
    eventually("the next is replaced", || {
        events(&executor, What::Replaced).len() == 3
    });
    for gate in gates {
        gate.open();
    }
    eventually("all are back", || replaced(&executor).is_empty());
    assert_eq!(group(&executor, Group::Back).wanted, 3);
    end(executor);
}

/// CPU-18: with `max_stuck` 0, set while running, nobody is replaced; the stuck worker is reported all the same.
#[test]
fn replacement_can_be_switched_off() {
    let executor = start(impatient());
    executor
        .set_tuning(&flyball_executor::Tuning {
            max_stuck: 0,
            ..executor.tuning()
        })
        .unwrap();
    let gate = hold(&executor.class("normal").unwrap());
    eventually("it is told", || {
        events(&executor, What::NotReplaced).len() == 1
    });
    assert_eq!(events(&executor, What::Stuck).len(), 1);
    gate.open();
    eventually("it comes back", || {
        events(&executor, What::Recovered).len() == 1
    });
    assert!(events(&executor, What::Stopped).is_empty(), "it goes on");
    end(executor);
}

/// CPU-18: more and fewer workers are asked for while some are stuck: the number in service is always what was asked for last.
#[test]
fn scaling_goes_on_beside_stuck_workers() {
    let executor = start(Config {
        parallelism: 16,
        back_workers: 4,
        ..impatient()
    });
    let normal = executor.class("normal").unwrap();
    let gates = hold_many(&normal, 3);
    eventually("they are replaced", || replaced(&executor).len() == 3);
    for wanted in [8, 1, 5, 2] {
        executor.scale(Group::Back, wanted).unwrap();
        eventually("as many as asked for", || {
            group(&executor, Group::Back).present == wanted
        });
        let stats = group(&executor, Group::Back);
        assert_eq!((stats.wanted, stats.replaced), (wanted, 3));
        assert_eq!(normal.run(|| 1).join().unwrap(), 1);
    }
    // 128 numbers, of which three are held.
    assert!(matches!(
        executor.scale(Group::Back, 126),
        Err(Error::Config { key: "workers", .. })
    ));
    assert_eq!(group(&executor, Group::Back).wanted, 2);
    for gate in gates {
        gate.open();
    }
    eventually("all are back", || replaced(&executor).is_empty());
    let stats = group(&executor, Group::Back);
    assert_eq!((stats.wanted, stats.present), (2, 2));
    end(executor);
}

/// CPU-18: a task that blocks and has said so keeps a thread from its group all the same: it is replaced, and takes no token away
/// when it comes back.
#[test]
fn a_task_that_blocks_for_too_long_is_replaced() {
    let executor = start(Config {
        parallelism: 1,
        front_workers: 1,
        back_workers: 1,
        ..impatient()
    });
    for name in ["interactive", "normal"] {
        let class = executor.class(name).unwrap();
        let (open, wait) = channel::<()>();
        let mut handle = class.run(move || {
            blocking(|| {
                let _ = wait.recv();
            });
            // It works on for a while, as one more than there should be.
            for _ in 0..100 {
                let _ = checkpoint();
            }
            blocking(|| ());
        });
        assert_eq!(class.run(|| 1).join().unwrap(), 1);
        eventually("it is replaced", || replaced(&executor).len() == 1);
        open.send(()).unwrap();
        handle.join().unwrap();
        eventually("its thread ends", || replaced(&executor).is_empty());
    }
    eventually("nobody runs, and every token is back", || {
        executor.stats().running == 0
    });
    end(executor);
}

/// CPU-18: a stuck task goes on as if nothing had happened: it may submit, block, give way at checkpoints and open scopes.
#[test]
fn a_replaced_worker_may_do_everything() {
    let executor = start(Config {
        parallelism: 1,
        back_workers: 1,
        ..impatient()
    });
    let normal = executor.class("normal").unwrap();
    let (open, wait) = channel::<()>();
    let inner = normal.clone();
    let mut handle = normal.run(move || {
        let _ = wait.recv();
        let mut sum = 0;
        inner
            .scope(|scope| scope.run(|| sum += 1))
            .expect("a scope may be opened");
        for _ in 0..3 {
            blocking(checkpoint).expect("nobody cancelled it");
            let _ = checkpoint();
        }
        inner.spawn(async { yield_now().await }).detach();
        sum
    });
    eventually("it is replaced", || replaced(&executor).len() == 1);
    assert_eq!(normal.run(|| 1).join().unwrap(), 1);
    open.send(()).unwrap();
    assert_eq!(handle.join().unwrap(), 1);
    eventually("its thread ends", || replaced(&executor).is_empty());
    eventually("every token is back", || executor.stats().running == 0);
    end(executor);
}

/// CPU-18, CPU-2: a class of which a task stands still gets its part beside another class as if that task were not there.
#[test]
fn a_stuck_task_does_not_starve_its_class() {
    let executor = start(Config {
        parallelism: 1,
        back_workers: 2,
        algorithm: Algorithm::Cfs,
        ..impatient()
    });
    let (normal, batch) = (
        executor.class("normal").unwrap(),
        executor.class("batch").unwrap(),
    );
    let gate = hold(&normal);
    eventually("it is replaced", || replaced(&executor).len() == 1);
    // Held for much longer than what follows takes: were that time held against its class, batch would go first.
    let held_since = executor.stats().at;
    eventually("time passes", || {
        executor.stats().at.duration_since(held_since) > Duration::from_millis(300)
    });
    let over = flag();
    fn endless(class: &Class, over: &Arc<AtomicBool>) {
        let (inner, again) = (class.clone(), over.clone());
        let _ = class.execute(move || {
            let until = flyball_core::time::thread_cpu_nanos() + 20_000;
            while flyball_core::time::thread_cpu_nanos() < until {}
            if !again.load(SeqCst) {
                endless(&inner, &again);
            }
        });
    }
    endless(&batch, &over);
    endless(&normal, &over);
    let cpu = |name: &str| executor.stats().class(name).unwrap().cpu_ns;
    let before = cpu("normal");
    eventually("batch has had some", || cpu("batch") > 50_000_000);
    let normal_had = cpu("normal") - before;
    over.store(true, SeqCst);
    assert!(
        normal_had > 50_000_000,
        "more shares, and yet only {normal_had} ns beside 50 ms"
    );
    gate.open();
    end(executor);
}

/// CPU-18: a class that may run on one worker only keeps to that although the worker that runs it is replaced.
#[test]
fn replacement_keeps_limits_on_concurrency() {
    let executor = start(Config {
        classes: vec![ClassSpec {
            concurrency: Some(1),
            ..ClassSpec::new("lone")
        }],
        ..impatient()
    });
    let lone = executor.class("lone").unwrap();
    let gate = hold(&lone);
    let ran = flag();
    let flag = ran.clone();
    let mut second = lone.run(move || flag.store(true, SeqCst));
    eventually("it is replaced", || replaced(&executor).len() == 1);
    assert_eq!(
        executor.class("normal").unwrap().run(|| 1).join().unwrap(),
        1
    );
    assert!(!ran.load(SeqCst));
    gate.open();
    second.join().unwrap();
    end(executor);
}

/// CPU-18: the thread that drives tokio is reported when it is stuck, but never replaced.
#[test]
fn the_thread_of_tokio_is_reported_only() {
    let executor = start(Config {
        max_stuck: 2,
        ..impatient()
    });
    let front = executor.class("interactive").unwrap();
    let (open, wait) = channel::<()>();
    let wait = Arc::new(std::sync::Mutex::new(Some(wait)));
    let (inside, is_inside) = channel();
    let is_last = flag();
    // Many, as one that is not woken by the thread itself waits for another worker.
    let handles: Vec<_> = (0..64)
        .map(|_| {
            let (last, wait, inside) = (is_last.clone(), wait.clone(), inside.clone());
            front.spawn(async move {
                while !last.load(SeqCst) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let first = wait.lock().unwrap().take();
                if let Some(wait) = first {
                    let _ = inside.send(());
                    let _ = wait.recv();
                }
            })
        })
        .collect();
    eventually("they sleep", || executor.stats().waiting_futures == 64);
    // Until nobody else is left to run what a timer wakes: two workers and their two successors.
    let gates = hold_many(&front, 4);
    is_last.store(true, SeqCst);
    receive(&is_inside);
    eventually("it is stuck", || {
        events(&executor, What::Stuck)
            .iter()
            .any(|event| event.worker == Some(127))
    });
    assert_eq!(replaced(&executor).len(), 2);
    assert!(
        replaced(&executor).iter().all(|worker| worker.id != 127),
        "though it is stuck"
    );
    for gate in gates {
        gate.open();
    }
    assert_eq!(front.run(|| 1).join().unwrap(), 1);
    open.send(()).unwrap();
    for mut handle in handles {
        handle.join().unwrap();
    }
    end(executor);
}

/// CPU-18: a shutdown with replaced workers runs what was accepted, reports the tasks that never end, and leaves their threads
/// behind; those end when their tasks do.
#[test]
fn shutdown_with_replaced_workers() {
    let stopped = Arc::new(AtomicUsize::new(0));
    let counter = stopped.clone();
    let executor = start(Config {
        parallelism: 1,
        front_workers: 1,
        back_workers: 1,
        on_thread_stop: Some(Arc::new(move || {
            counter.fetch_add(1, SeqCst);
        })),
        ..impatient()
    });
    let normal = executor.class("normal").unwrap();
    let gates = hold_many(&normal, 1);
    eventually("it is replaced", || replaced(&executor).len() == 1);
    let ran = Arc::new(AtomicUsize::new(0));
    for _ in 0..50 {
        let ran = ran.clone();
        normal
            .execute(move || {
                ran.fetch_add(1, SeqCst);
            })
            .unwrap();
    }
    eventually("what was accepted runs", || ran.load(SeqCst) == 50);
    let report = executor.shutdown(Duration::from_millis(5)).unwrap();
    assert_eq!(report.left_running.len(), 1, "{report:?}");
    assert_eq!(ran.load(SeqCst), 50);
    assert_eq!(
        stopped.load(SeqCst),
        2,
        "the front worker and the successor"
    );
    for gate in gates {
        gate.open();
    }
    eventually("its thread ends", || stopped.load(SeqCst) == 3);
}
