//! What runs first.

use crate::*;
use flyball_executor::{Algorithm, ClassSpec, Group, yield_now};
use std::sync::Mutex;

/// A list of names in the order in which closures wrote them.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn writer(&self, entry: &str) -> impl FnOnce() + Send + use<> {
        let (log, entry) = (self.0.clone(), entry.to_owned());
        move || log.lock().unwrap().push(entry)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn join_all<T>(handles: impl IntoIterator<Item = Handle<T>>) {
    for mut handle in handles {
        handle.join().unwrap();
    }
}

/// CPU-2: tasks of a class without further wishes run in order of arrival.
#[test]
fn equal_tasks_run_in_order_of_arrival() {
    let executor = start(single());
    for name in ["interactive", "normal"] {
        let class = executor.class(name).unwrap();
        let gate = hold(&class);
        let log = Log::default();
        let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
        let handles: Vec<_> = expected.iter().map(|n| class.run(log.writer(n))).collect();
        gate.open();
        join_all(handles);
        assert_eq!(log.take(), expected);
    }
    end(executor);
}

/// CPU-2: a batch, closures with a handle, futures and closures without one keep one order of arrival.
#[test]
fn tasks_of_every_nature_share_one_order() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let log = Log::default();
    normal.execute(log.writer("0")).unwrap();
    let closure = normal.run(log.writer("1"));
    let write = log.writer("2");
    let future = normal.spawn(async move { write() });
    normal
        .execute_many((3..20).map(|n| log.writer(&n.to_string())))
        .unwrap();
    let last = normal.run(log.writer("20"));
    gate.open();
    join_all([closure, last]);
    join_all([future]);
    let expected: Vec<String> = (0..=20).map(|n| n.to_string()).collect();
    assert_eq!(log.take(), expected);
    end(executor);
}

/// CPU-2: a task's own priority orders it within its class, under every algorithm.
#[test]
fn priorities_within_a_class() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    for algorithm in Algorithm::ALL {
        executor.set_algorithm(algorithm);
        let gate = hold(&normal);
        let log = Log::default();
        // One level is worth 10 ms of waiting: these are more than half a second apart.
        let handles: Vec<_> = [0, -60, 120, 60, -120, 0, 120]
            .into_iter()
            .enumerate()
            .map(|(n, priority)| {
                normal
                    .task()
                    .priority(priority)
                    .run(log.writer(&format!("{priority} {n}")))
            })
            .collect();
        gate.open();
        join_all(handles);
        assert_eq!(
            log.take(),
            ["120 2", "120 6", "60 3", "0 0", "0 5", "-60 1", "-120 4"],
            "{algorithm}"
        );
    }
    end(executor);
}

/// CPU-8: inside the priority order a long wait outweighs a level: a task is not passed by those of the next level that come
/// more than 10 ms after it.
#[test]
fn waiting_outweighs_a_level() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let log = Log::default();
    let old = normal.task().priority(1).run(log.writer("old"));
    let submitted = flyball_core::time::Source::best();
    let since = flyball_core::time::Clock::now(&submitted);
    eventually("the clock moves on by 10 ms", || {
        flyball_core::time::Clock::now(&submitted).duration_since(since) > Duration::from_millis(10)
    });
    let young = normal.task().priority(2).run(log.writer("young"));
    let urgent = normal.task().priority(127).run(log.writer("urgent"));
    gate.open();
    join_all([old, young, urgent]);
    assert_eq!(log.take(), ["urgent", "old", "young"]);
    end(executor);
}

fn ranked(name: &str, priority: u8, group: Group) -> ClassSpec {
    ClassSpec {
        priority,
        group,
        ..ClassSpec::new(name)
    }
}

/// CPU-8: under `priority` a higher class runs first. Seven levels make up for 0.7 s of waiting.
#[test]
fn higher_classes_run_first() {
    let mut config = single();
    config.algorithm = Algorithm::Priority;
    config.classes = [Group::Front, Group::Back]
        .into_iter()
        .flat_map(|group| {
            [
                ranked(&format!("low-{group}"), 0, group),
                ranked(&format!("high-{group}"), 7, group),
            ]
        })
        .collect();
    let executor = start(config);
    for group in ["front", "back"] {
        let low = executor.class(&format!("low-{group}")).unwrap();
        let high = executor.class(&format!("high-{group}")).unwrap();
        let gate = hold(&low);
        let log = Log::default();
        let lows: Vec<_> = (0..5).map(|_| low.run(log.writer("low"))).collect();
        let highs: Vec<_> = (0..5).map(|_| high.run(log.writer("high"))).collect();
        gate.open();
        join_all(lows.into_iter().chain(highs));
        let log = log.take();
        assert!(log[..5].iter().all(|entry| entry == "high"), "{log:?}");
        assert!(log[5..].iter().all(|entry| entry == "low"), "{log:?}");
    }
    end(executor);
}

/// CPU-6: within a group a higher rank waits for one task, though others were taken from the queue in one batch with it.
#[test]
fn a_higher_rank_waits_at_most_one_task() {
    let mut config = single();
    config.algorithm = Algorithm::Priority;
    config.classes = vec![
        ranked("low-front", 0, Group::Front),
        ranked("high-front", 7, Group::Front),
        ranked("low-back", 0, Group::Back),
        ranked("high-back", 7, Group::Back),
    ];
    let executor = start(config);
    for group in ["front", "back"] {
        let low = executor.class(&format!("low-{group}")).unwrap();
        let high = executor.class(&format!("high-{group}")).unwrap();
        let log = Log::default();
        let first = hold(&low);
        let (open, wait) = channel::<()>();
        let (inside, is_inside) = channel();
        let write = log.writer("low");
        low.execute(move || {
            inside.send(()).unwrap();
            let _ = wait.recv();
            write();
        })
        .unwrap();
        let lows: Vec<_> = (0..20).map(|_| low.run(log.writer("low"))).collect();
        first.open();
        // The worker is inside the first of them, and may have taken more.
        receive(&is_inside);
        let high = high.run(log.writer("high"));
        open.send(()).unwrap();
        join_all([high]);
        join_all(lows);
        assert_eq!(log.take()[..3], ["low", "high", "low"], "{group}");
    }
    end(executor);
}

/// CPU-10: under `proportional_share` the earliest deadline goes first.
#[test]
fn earliest_deadline_first() {
    let mut config = single();
    config.algorithm = Algorithm::ProportionalShare;
    let executor = start(config);
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let log = Log::default();
    let handles: Vec<_> = [50, 20, 40, 30]
        .into_iter()
        .map(|seconds| {
            normal
                .task()
                .deadline(Duration::from_secs(seconds))
                .run(log.writer(&seconds.to_string()))
        })
        .collect();
    gate.open();
    join_all(handles);
    assert_eq!(log.take(), ["20", "30", "40", "50"]);
    end(executor);
}

/// CPU-10: under `proportional_share` a deadline that the kind's p95 cannot meet is refused at submission.
#[test]
fn a_deadline_that_cannot_be_met_is_refused() {
    let mut config = single();
    config.algorithm = Algorithm::ProportionalShare;
    let executor = start(config);
    let normal = executor.class("normal").unwrap();
    let clock = flyball_core::time::Source::best();
    let now = move || flyball_core::time::Clock::now(&clock);
    let spin = {
        let now = now.clone();
        move || {
            let until = now().saturating_add(Duration::from_millis(1));
            while now() < until {}
        }
    };
    let slow = || normal.task().kind("slow");
    // As long as nothing is known of the kind nothing is refused.
    let known = slow().deadline(Duration::from_nanos(1)).try_run(|| ());
    assert!(known.is_ok());
    let _ = known.unwrap().join();
    join_all(
        (0..30)
            .map(|_| slow().run(spin.clone()))
            .collect::<Vec<_>>(),
    );
    let refused = slow().deadline(Duration::from_micros(50)).try_run(|| ());
    let reason = refused.unwrap_err().reason;
    assert!(
        matches!(
            reason,
            flyball_executor::Rejection::DeadlineUnmeetable { .. }
        ),
        "{reason}"
    );
    assert!(reason.retry_after().unwrap() > Duration::from_micros(100));
    assert!(slow().deadline(PATIENCE).run(|| ()).join().is_ok());
    assert!(
        normal
            .task()
            .kind("quick")
            .deadline(Duration::from_micros(50))
            .try_run(|| ())
            .is_ok(),
        "of another kind nothing is known"
    );
    end(executor);
}

/// CPU-6: a future that yields lets others of its class, and other classes, run in between, under every algorithm.
#[test]
fn a_future_that_yields_shuts_nobody_out() {
    let executor = start(single());
    for algorithm in Algorithm::ALL {
        executor.set_algorithm(algorithm);
        for (of, other) in [
            ("normal", "normal"),
            ("batch", "normal"),
            ("normal", "batch"),
            ("idle", "idle"),
            ("interactive", "critical"),
            ("critical", "interactive"),
            ("critical", "critical"),
        ] {
            let (of, other) = (executor.class(of).unwrap(), executor.class(other).unwrap());
            let stop = flag();
            let seen = stop.clone();
            let (begun, has_begun) = channel();
            let mut yielding = of.spawn(async move {
                begun.send(()).unwrap();
                while !seen.load(SeqCst) {
                    yield_now().await;
                }
            });
            receive(&has_begun);
            let stopper = stop.clone();
            other
                .run(move || stopper.store(true, SeqCst))
                .join()
                .unwrap();
            yielding.join().unwrap();
        }
    }
    end(executor);
}

/// CPU-6: work that refills itself from inside does not shut out work from outside, of its own class and of others.
#[test]
fn work_that_refills_itself_shuts_nobody_out() {
    fn refill(class: Class, stop: Arc<AtomicBool>) {
        let again = class.clone();
        let _ = class.execute(move || {
            if !stop.load(SeqCst) {
                refill(again, stop);
            }
        });
    }
    let executor = start(single());
    for algorithm in Algorithm::ALL {
        executor.set_algorithm(algorithm);
        for (of, other) in [
            ("normal", "normal"),
            ("normal", "batch"),
            ("batch", "normal"),
            ("critical", "interactive"),
            ("interactive", "interactive"),
        ] {
            let (of, other) = (executor.class(of).unwrap(), executor.class(other).unwrap());
            let stop = flag();
            for _ in 0..4 {
                refill(of.clone(), stop.clone());
            }
            let stopper = stop.clone();
            other
                .run(move || stopper.store(true, SeqCst))
                .join()
                .unwrap();
            let stopper = flag();
            let set = stopper.clone();
            refill(of.clone(), stopper.clone());
            other
                .spawn(async move {
                    yield_now().await;
                    set.store(true, SeqCst);
                })
                .join()
                .unwrap();
        }
    }
    end(executor);
}
