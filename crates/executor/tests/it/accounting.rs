//! What was counted.

use crate::*;
use flyball_executor::{ClassStats, checkpoint};

fn figures(executor: &Executor, class: &str) -> ClassStats {
    executor.stats().class(class).unwrap().clone()
}

/// Sums over workers equal sums over classes.
fn assert_adds_up(executor: &Executor) {
    let stats = executor.stats();
    let workers = executor.workers();
    let by_class = |of: fn(&ClassStats) -> u64| stats.classes.iter().map(of).sum::<u64>();
    assert_eq!(
        workers.iter().map(|worker| worker.tasks).sum::<u64>(),
        by_class(|class| class.counts.tasks)
    );
    assert_eq!(
        workers.iter().map(|worker| worker.polls).sum::<u64>(),
        by_class(|class| class.counts.polls)
    );
    assert_eq!(
        workers.iter().map(|worker| worker.stolen).sum::<u64>(),
        by_class(|class| class.stolen)
    );
    assert_eq!(
        workers.iter().map(|worker| worker.cpu_ns).sum::<u64>(),
        by_class(|class| class.cpu_ns)
    );
    for class in &stats.classes {
        let kinds = |of: fn(&flyball_executor::Counts) -> u64| -> u64 {
            class.kinds.iter().map(|(_, counts)| of(counts)).sum()
        };
        assert_eq!(kinds(|counts| counts.tasks), class.counts.tasks);
        assert_eq!(kinds(|counts| counts.polls), class.counts.polls);
        assert_eq!(kinds(|counts| counts.run_ns), class.counts.run_ns);
        assert_eq!(class.run.count(), class.counts.polls);
    }
}

/// CPU-5: every way a task can end is counted once, under its class and kind; sums by worker agree.
#[test]
fn every_outcome_is_counted_once() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let of = |kind: &str| normal.task().kind(kind);
    let mut handles = Vec::new();
    for _ in 0..10 {
        handles.push(of("finished").run(|| ()));
        handles.push(of("panicked").run(|| panic!("counted")));
        handles.push(of("polled").spawn(async {
            for _ in 0..3 {
                flyball_executor::yield_now().await;
            }
        }));
        handles.push(
            of("timed out")
                .timeout(Duration::from_nanos(1))
                .run(|| while checkpoint().is_ok() {}),
        );
    }
    for handle in &mut handles {
        let _ = handle.join();
    }
    let gate = hold(&normal);
    let mut missed: Vec<_> = (0..10)
        .map(|_| of("late").deadline(Duration::from_nanos(1)).run(|| ()))
        .collect();
    for _ in 0..10 {
        drop(of("cancelled").run(|| ()));
    }
    gate.open();
    for handle in &mut missed {
        let _ = handle.join();
    }
    eventually("the last is counted", || {
        figures(&executor, "normal").counts.tasks == 61
    });
    let normal = figures(&executor, "normal");
    let kind = |name: &str| {
        normal
            .kinds
            .iter()
            .find(|(kind, _)| kind == name)
            .map(|(_, counts)| counts.clone())
            .unwrap()
    };
    assert_eq!(kind("").tasks, 1, "the gate");
    for name in [
        "finished",
        "panicked",
        "polled",
        "timed out",
        "late",
        "cancelled",
    ] {
        assert_eq!(kind(name).tasks, 10, "{name}");
    }
    assert_eq!(kind("finished").polls, 10);
    assert_eq!(kind("polled").polls, 40);
    assert_eq!(kind("late").polls, 0);
    assert_eq!(kind("cancelled").polls, 0);
    assert_eq!(kind("panicked").panicked, 10);
    assert_eq!(kind("timed out").timed_out, 10);
    assert_eq!(kind("late").deadline_missed, 10);
    assert_eq!(kind("cancelled").cancelled, 10);
    let all = &normal.counts;
    assert_eq!(
        (
            all.panicked,
            all.timed_out,
            all.deadline_missed,
            all.cancelled
        ),
        (10, 10, 10, 10)
    );
    assert_adds_up(&executor);
    end(executor);
}

/// CPU-5: tiny closures that share clock readings are counted as exactly as others, wherever they were submitted.
#[test]
fn tiny_closures_are_counted_exactly() {
    const EACH: u64 = 20_000;
    let executor = start(small());
    for name in ["interactive", "normal"] {
        let class = executor.class(name).unwrap();
        let inner = class.clone();
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        class
            .run(move || {
                for n in 0..EACH {
                    let count = count.clone();
                    inner
                        .execute(move || {
                            count.fetch_add(1, SeqCst);
                            if n % 1_000 == 0 {
                                panic!("one of many");
                            }
                        })
                        .unwrap();
                }
            })
            .join()
            .unwrap();
        class.execute_many((0..EACH).map(|_| || ())).unwrap();
        eventually("all are counted", || {
            figures(&executor, name).counts.tasks > 2 * EACH
        });
        let figures = figures(&executor, name);
        assert_eq!(figures.counts.tasks, 2 * EACH + 1);
        assert_eq!(figures.counts.polls, 2 * EACH + 1);
        assert_eq!(figures.counts.panicked, EACH / 1_000);
        assert_eq!(ran.load(SeqCst) as u64, EACH);
    }
    assert_adds_up(&executor);
    end(executor);
}

/// CPU-5: kinds are bounded; those beyond are counted together as `other`.
#[test]
fn kinds_are_bounded() {
    let executor = start(Config {
        max_kinds: 4,
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    let mut handles: Vec<_> = (0..1_000)
        .map(|n| normal.task().kind(&format!("kind {}", n % 100)).run(|| ()))
        .collect();
    for handle in &mut handles {
        handle.join().unwrap();
    }
    eventually("the last is counted", || {
        figures(&executor, "normal").counts.tasks == 1_000
    });
    let kinds = figures(&executor, "normal").kinds;
    let mut named: Vec<(String, u64)> = kinds
        .into_iter()
        .map(|(name, counts)| (name, counts.tasks))
        .collect();
    named.sort();
    let expected = [
        ("kind 0", 10),
        ("kind 1", 10),
        ("kind 2", 10),
        ("kind 3", 10),
        ("other", 960),
    ];
    assert_eq!(
        named,
        expected.map(|(name, count)| (name.to_owned(), count))
    );
    end(executor);
}

/// CPU-5: CPU time comes from the thread's clock: a class that computes has some, one that waits has next to none.
#[test]
fn cpu_time_is_charged_to_its_class() {
    let executor = start(single());
    let (batch, normal) = (
        executor.class("batch").unwrap(),
        executor.class("normal").unwrap(),
    );
    let start = flyball_core::time::process_cpu_nanos();
    batch
        .run(|| {
            let until = flyball_core::time::thread_cpu_nanos() + 5_000_000;
            while flyball_core::time::thread_cpu_nanos() < until {}
        })
        .join()
        .unwrap();
    // It waits until the process, that is, this thread, has used 5 ms.
    let gate = hold(&normal);
    let until = flyball_core::time::thread_cpu_nanos() + 5_000_000;
    while flyball_core::time::thread_cpu_nanos() < until {}
    gate.open();
    eventually("both are charged", || {
        figures(&executor, "normal").slices > 0 && figures(&executor, "batch").cpu_ns > 0
    });
    let (batch, normal) = (figures(&executor, "batch"), figures(&executor, "normal"));
    assert!(batch.cpu_ns >= 5_000_000, "{}", batch.cpu_ns);
    assert!(normal.cpu_ns < 5_000_000, "{}", normal.cpu_ns);
    assert!(flyball_core::time::process_cpu_nanos() - start >= batch.cpu_ns);
    assert!(normal.counts.run_ns >= normal.cpu_ns);
    assert_adds_up(&executor);
    end(executor);
}

/// CPU-5: what waits is shown: queued tasks by class, and futures that wait.
#[test]
fn what_waits_is_shown() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| normal.spawn(std::future::pending::<()>()))
        .collect();
    eventually("three futures wait", || {
        executor.stats().waiting_futures == 3
    });
    let gate = hold(&normal);
    let queued: Vec<_> = (0..7).map(|_| normal.run(|| ())).collect();
    assert_eq!(figures(&executor, "normal").queued, 7);
    assert_eq!(normal.queued(), 7);
    let worker = executor
        .workers()
        .into_iter()
        .find(|worker| worker.id == 128)
        .unwrap();
    let (class, kind, _) = worker.task.unwrap();
    assert_eq!((&*class, &*kind), ("normal", ""));
    drop(waiting);
    assert_eq!(executor.stats().waiting_futures, 0);
    gate.open();
    for mut handle in queued {
        handle.join().unwrap();
    }
    eventually("nothing waits", || figures(&executor, "normal").queued == 0);
    end(executor);
}

/// CPU-5: tasks that end while no worker has them, cancelled futures that wait, are counted too: what was submitted adds up.
#[test]
fn what_ends_off_the_workers_is_counted() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            normal
                .task()
                .kind("waits")
                .spawn(std::future::pending::<()>())
        })
        .collect();
    eventually("they wait", || executor.stats().waiting_futures == 5);
    drop(waiting);
    let counts = figures(&executor, "normal").counts;
    assert_eq!((counts.tasks, counts.cancelled), (5, 5));
    end(executor);
}
