//! Placement on workers, stealing, rebalancing.

use crate::*;
use flyball_executor::{Algorithm, ClassSpec, Strategy, What};
use std::sync::Mutex;

/// CPU-12: under every strategy everything runs, with and without a key, of every class and nature.
#[test]
fn every_strategy_runs_everything() {
    for strategy in Strategy::ALL {
        let executor = start(Config {
            strategy,
            ..small()
        });
        let ran = Arc::new(AtomicUsize::new(0));
        let count = || {
            let ran = ran.clone();
            move || {
                ran.fetch_add(1, SeqCst);
            }
        };
        let mut handles = Vec::new();
        for class in executor.classes() {
            for n in 0..60 {
                handles.push(class.task().affinity_key(n % 7).run(count()));
                handles.push(class.run(count()));
                let work = count();
                handles.push(class.task().affinity_key(n % 3).spawn(async move {
                    tokio::task::yield_now().await;
                    work();
                }));
                class.execute(count()).unwrap();
                handles.push(class.task().priority(5).affinity_key(n).run(count()));
            }
            class.execute_many((0..25).map(|_| count())).unwrap();
        }
        for handle in &mut handles {
            handle.join().unwrap();
        }
        assert_eq!(executor.stats().strategy, strategy);
        end(executor);
        assert_eq!(ran.load(SeqCst), 5 * (60 * 5 + 25), "{strategy}");
    }
}

/// CPU-12: tags bind nobody: what was placed on a worker that is busy for ever is run by others, closures and futures.
#[test]
fn a_busy_workers_tags_are_run_by_others() {
    for strategy in Strategy::ALL {
        let executor = start(Config {
            strategy,
            ..small()
        });
        let normal = executor.class("normal").unwrap();
        let gate = hold(&normal);
        let mut handles: Vec<_> = (0..150)
            .map(|n| normal.task().affinity_key(n % 2).run(move || n))
            .collect();
        for (n, handle) in handles.iter_mut().enumerate() {
            assert_eq!(handle.join().unwrap(), n as u64, "{strategy}");
        }
        gate.open();
        end(executor);
    }
}

/// CPU-13: idle workers take closures from the stack of a worker that is busy with one.
#[test]
fn idle_workers_steal_closures() {
    for name in ["interactive", "normal"] {
        let executor = start(small());
        let class = executor.class(name).unwrap();
        let inner = class.clone();
        let mut outer = class.run(move || {
            let (send, wait) = channel();
            for n in 0..300 {
                let send = send.clone();
                inner.execute(move || send.send(n).unwrap()).unwrap();
            }
            let mut all: Vec<i32> = (0..300).map(|_| receive(&wait)).collect();
            all.sort_unstable();
            all == (0..300).collect::<Vec<_>>()
        });
        assert!(outer.join().unwrap());
        assert!(executor.stats().class(name).unwrap().stolen > 0);
        end(executor);
    }
}

/// CPU-13: idle workers take futures from the ring of a worker that is busy with a poll.
#[test]
fn idle_workers_steal_futures() {
    for name in ["interactive", "normal"] {
        let executor = start(small());
        let class = executor.class(name).unwrap();
        let inner = class.clone();
        let mut outer = class.spawn(async move {
            let (send, wait) = channel();
            let handles: Vec<_> = (0..300)
                .map(|n| {
                    let send = send.clone();
                    inner.spawn(async move { send.send(n).unwrap() })
                })
                .collect();
            let mut all: Vec<i32> = (0..300).map(|_| receive(&wait)).collect();
            for handle in handles {
                handle.await.unwrap();
            }
            all.sort_unstable();
            all == (0..300).collect::<Vec<_>>()
        });
        assert!(outer.join().unwrap());
        end(executor);
    }
}

/// CPU-13: a thief looks at the classes in their order first: what waits in a higher class goes before what another worker
/// has of a lower one.
#[test]
fn stealing_respects_the_order_of_classes() {
    let low = ClassSpec {
        priority: 0,
        ..ClassSpec::new("low")
    };
    let high = ClassSpec {
        priority: 7,
        ..ClassSpec::new("high")
    };
    let executor = start(Config {
        algorithm: Algorithm::Priority,
        back_workers: 2,
        classes: vec![low, high],
        ..small()
    });
    let (low, high) = (
        executor.class("low").unwrap(),
        executor.class("high").unwrap(),
    );
    let log = Arc::new(Mutex::new(Vec::new()));
    let free_worker = hold(&high);
    // The other worker has five closures of the low class, and is kept from them.
    let (inside, is_inside) = channel();
    let (open, wait) = channel::<()>();
    let (inner, writer) = (low.clone(), log.clone());
    low.execute(move || {
        for _ in 0..5 {
            let log = writer.clone();
            inner
                .execute(move || log.lock().unwrap().push("low"))
                .unwrap();
        }
        inside.send(()).unwrap();
        let _ = wait.recv();
    })
    .unwrap();
    receive(&is_inside);
    let highs: Vec<_> = (0..5)
        .map(|_| {
            let log = log.clone();
            high.run(move || log.lock().unwrap().push("high"))
        })
        .collect();
    free_worker.open();
    for mut handle in highs {
        handle.join().unwrap();
    }
    eventually("all have run", || log.lock().unwrap().len() == 10);
    let log = log.lock().unwrap();
    assert!(log[..5].iter().all(|&entry| entry == "high"), "{log:?}");
    open.send(()).unwrap();
    drop(log);
    end(executor);
}

/// CPU-13: rebalancing on demand evens the workers' lists out, and says so; under `pull` there is nothing to move.
#[test]
fn rebalancing_evens_lists_out() {
    let executor = start(Config {
        strategy: Strategy::Affinity,
        back_workers: 2,
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    eventually("both back workers work", || executor.workers().len() >= 4);
    let gates = hold_many(&normal, 2);
    let ran = Arc::new(AtomicUsize::new(0));
    // Few of one key: below the length at which affinity spills.
    for _ in 0..40 {
        let ran = ran.clone();
        normal
            .task()
            .affinity_key(5)
            .run(move || {
                ran.fetch_add(1, SeqCst);
            })
            .detach();
    }
    let lengths = || -> Vec<usize> {
        executor
            .workers()
            .iter()
            .filter(|worker| worker.id >= 128)
            .map(|worker| worker.queued)
            .collect()
    };
    executor.rebalance();
    let after = lengths();
    assert_eq!(after.len(), 2);
    assert!(after[0].abs_diff(after[1]) <= 1, "{after:?}");
    if executor.stats().rebalances > 0 {
        assert!(
            executor
                .events()
                .iter()
                .any(|event| event.what == What::Rebalanced)
        );
    }
    executor.set_strategy(Strategy::Pull);
    assert_eq!(executor.rebalance(), 0);
    for gate in gates {
        gate.open();
    }
    end(executor);
    assert_eq!(ran.load(SeqCst), 40);
}
