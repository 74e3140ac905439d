//! Fairness over keys inside a class, on real threads.

use crate::*;
use flyball_core::rng::Rng;
use flyball_executor::{
    Algorithm, ClassSpec, KeyLimits, Rejection, Strategy, TaskError, yield_now,
};
use std::sync::Mutex;

/// Notes in which order things ran.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, what: &'static str) -> impl FnOnce() + Send + use<> {
        let log = self.clone();
        move || log.0.lock().unwrap().push(what)
    }

    fn position(&self, what: &str) -> usize {
        let log = self.0.lock().unwrap();
        log.iter().position(|&entry| entry == what).expect(what)
    }
}

/// CPU-29: 100,000 tasks of one key delay another's first by one task, and so do as many without a key.
#[test]
fn a_flood_delays_another_key_by_one_task() {
    for flood_has_key in [true, false] {
        let executor = start(single());
        let normal = executor.class("normal").unwrap();
        let gate = hold(&normal);
        let log = Log::default();
        for _ in 0..100_000 {
            if flood_has_key {
                normal.task().key("flood").run(log.note("flood")).detach();
            } else {
                normal.execute(log.note("flood")).unwrap();
            }
        }
        normal.task().key("light").run(log.note("light")).detach();
        assert_eq!(normal.queued(), 100_001);
        gate.open();
        end(executor);
        assert_eq!(log.0.lock().unwrap().len(), 100_001);
        assert!(log.position("light") <= 1, "{}", log.position("light"));
    }
}

/// CPU-29: the guarantee holds in the middle of a flood, too, for each of several keys that come while a worker is inside of it:
/// one task of the flood a turn, and one of each other key.
#[test]
fn a_flood_in_flight_delays_another_key_by_one_task() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let started = Arc::new(AtomicUsize::new(0));
    let (send, delays) = channel();
    let gate = hold(&normal);
    for n in 0..20_000 {
        let (class, started, send) = (normal.clone(), started.clone(), send.clone());
        let flood = move || {
            let now = started.fetch_add(1, SeqCst) + 1;
            if n % 100 != 0 {
                return;
            }
            for key in ["light", "lighter"] {
                let (started, send) = (started.clone(), send.clone());
                let light = move || send.send(started.load(SeqCst) - now).unwrap();
                class.task().key(key).run(light).detach();
            }
        };
        normal.task().key("flood").run(flood).detach();
    }
    drop(send);
    gate.open();
    end(executor);
    let delays: Vec<usize> = delays.iter().collect();
    assert_eq!(delays.len(), 400);
    assert!(delays.iter().all(|&flood| flood <= 1), "{delays:?}");
}

/// CPU-29: tasks without a key count as one more key: neither shuts the other out, also where they refill themselves from inside.
#[test]
fn tasks_without_a_key_are_one_more_key() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let log = Log::default();
    for _ in 0..1000 {
        normal.task().key("a").run(log.note("keyed")).detach();
        normal.task().key("b").run(log.note("keyed")).detach();
    }
    for _ in 0..1000 {
        normal.execute(log.note("plain")).unwrap();
    }
    // One that refills the worker's own stack.
    fn again(class: &Class, left: usize) {
        let inner = class.clone();
        let refill = move || {
            if left > 0 {
                again(&inner, left - 1);
            }
        };
        class.execute(refill).unwrap();
    }
    again(&normal, 1000);
    gate.open();
    end(executor);
    let log = log.0.lock().unwrap();
    assert_eq!(log.len(), 3000);
    // A turn of each of the two keys, then one of those without: of the first 600 about 200, the refilling ones included.
    let plain = log[..600].iter().filter(|&&what| what == "plain").count();
    assert!((100..=220).contains(&plain), "{plain}");
}

/// CPU-29: a future that was woken takes a turn of its key again, so that futures that are always ready do not shut other keys
/// out.
#[test]
fn futures_take_turns_of_their_key() {
    for algorithm in Algorithm::ALL {
        let executor = start(single());
        executor.set_algorithm(algorithm);
        let normal = executor.class("normal").unwrap();
        let stop = flag();
        let polls = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            let (stop, polls) = (stop.clone(), polls.clone());
            let spins = async move {
                while !stop.load(SeqCst) {
                    polls.fetch_add(1, SeqCst);
                    yield_now().await;
                }
            };
            normal.task().key("spins").spawn(spins).detach();
        }
        eventually("they spin", || polls.load(SeqCst) > 1000);
        for _ in 0..20 {
            let polls = polls.clone();
            let other = async move {
                let first = polls.load(SeqCst);
                yield_now().await;
                polls.load(SeqCst) - first
            };
            let mut other = normal.task().key("other").spawn(other);
            let between = other.join().unwrap();
            assert!(between <= 2, "{between} polls between two turns");
        }
        assert_eq!(normal.keys()[0].running, 100);
        stop.store(true, SeqCst);
        end(executor);
        assert!(normal.keys().is_empty());
    }
}

/// CPU-29: never more of a key run than may, closures and futures, however they end and while limits, algorithm and strategy
/// change; permits are neither lost nor made.
#[test]
fn concurrency_by_key_holds_under_stress() {
    const KEYS: usize = 5;
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let limits = KeyLimits {
        concurrency: Some(2),
        ..KeyLimits::default()
    };
    normal.set_key_limits(limits).unwrap();
    struct Inside(Arc<[AtomicUsize; KEYS]>, usize);
    impl Inside {
        fn enter(all: &Arc<[AtomicUsize; KEYS]>, key: usize) -> Self {
            assert!(all[key].fetch_add(1, SeqCst) < 2, "more than two of a key");
            Inside(all.clone(), key)
        }
    }
    impl Drop for Inside {
        fn drop(&mut self) {
            self.0[self.1].fetch_sub(1, SeqCst);
        }
    }
    let inside: Arc<[AtomicUsize; KEYS]> = Arc::default();
    let broken = Arc::new(AtomicUsize::new(0));
    let mut rng = Rng::seeded(29);
    let mut handles = Vec::new();
    for n in 0..6000u64 {
        let key = rng.below(KEYS as u64) as usize;
        let (inside, broken) = (inside.clone(), broken.clone());
        let guard = move || {
            let all = inside.clone();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Inside::enter(&all, key)))
                .map_err(|_| broken.fetch_add(1, SeqCst))
                .ok()
        };
        let task = normal.task().key(format!("key {key}"));
        let handle = match rng.below(8) {
            0 => task.run(move || drop(guard())),
            1 => task.run(move || {
                let _inside = guard();
                panic!("part of the test");
            }),
            2 => task.spawn(async move {
                let _inside = guard();
                tokio::time::sleep(Duration::from_micros(50)).await;
            }),
            3 => task.timeout(Duration::from_micros(20)).spawn(async move {
                let _inside = guard();
                std::future::pending::<()>().await;
            }),
            4 => task.spawn(async move {
                let _inside = guard();
                for _ in 0..5 {
                    yield_now().await;
                }
            }),
            5 => task
                .deadline(Duration::from_nanos(1))
                .run(move || drop(guard())),
            6 => task.spawn(async move {
                let _inside = guard();
                yield_now().await;
                panic!("part of the test");
            }),
            _ => task.priority(3).spawn(async move {
                let _inside = guard();
                yield_now().await;
            }),
        };
        match rng.below(6) {
            0 => drop(handle),
            1 => {
                handle.cancel();
            }
            _ => handles.push(handle),
        }
        if n % 500 == 0 {
            executor.set_algorithm(Algorithm::ALL[(n / 500) as usize % 4]);
            executor.set_strategy(Strategy::ALL[(n / 500) as usize % Strategy::ALL.len()]);
        }
    }
    for handle in &mut handles {
        let _ = handle.join();
    }
    eventually("every permit is back", || normal.keys().is_empty());
    assert_eq!((normal.queued(), broken.load(SeqCst)), (0, 0));
    end(executor);
}

/// CPU-29: a rate by key lets a task go when its time has come, also while nothing else runs; nobody has to ask.
#[test]
fn a_rate_wakes_workers() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let limits = KeyLimits {
        rate: Some(500.0),
        ..KeyLimits::default()
    };
    normal.set_key_limits(limits).unwrap();
    let mut handles: Vec<_> = (0..40)
        .map(|n| {
            let key = if n % 2 == 0 { "even" } else { "odd" };
            normal.task().key(key).run(move || n)
        })
        .collect();
    for (n, handle) in handles.iter_mut().enumerate() {
        assert_eq!(handle.join().unwrap(), n);
    }
    // A slice for each start, and some for searches in vain: workers slept between two.
    let slices = executor.stats().class("normal").unwrap().slices;
    assert!(slices < 400, "{slices}");
    // So slow that the supervisor has gone to sleep for want of work.
    let limits = KeyLimits {
        rate: Some(8.0),
        ..limits
    };
    normal.set_key_limit("slow", Some(limits)).unwrap();
    let mut handles = [1, 2].map(|n| normal.task().key("slow").run(move || n));
    assert_eq!(
        handles.each_mut().map(|handle| handle.join().unwrap()),
        [1, 2]
    );
    end(executor);
}

/// CPU-29, CPU-19: a shutdown runs what it can in its time and cancels what limits of keys hold back.
#[test]
fn shutdown_ends_what_is_held_back() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let hourly = KeyLimits {
        rate: Some(1.0 / 3600.0),
        ..KeyLimits::default()
    };
    normal.set_key_limit("hourly", Some(hourly)).unwrap();
    let alone = KeyLimits {
        concurrency: Some(1),
        ..KeyLimits::default()
    };
    normal.set_key_limit("alone", Some(alone)).unwrap();
    let drops = Drops::default();
    let mut first = normal.task().key("hourly").run(|| ());
    first.join().unwrap();
    let mut handles = Vec::new();
    for key in ["hourly", "alone"] {
        for _ in 0..10 {
            let guard = drops.guard();
            handles.push(normal.task().key(key).spawn(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            }));
        }
    }
    eventually("one is inside", || {
        normal.keys().iter().any(|key| key.running == 1)
    });
    assert_eq!(normal.queued(), 19);
    let report = executor.shutdown(Duration::ZERO).unwrap();
    assert_eq!(report.cancelled, 20, "{report:?}");
    assert_eq!(drops.count(), 20);
    for handle in &mut handles {
        assert!(matches!(handle.join(), Err(TaskError::Cancelled)));
    }
}

/// CPU-29: tasks with a key count against the queue limit of their class, and against their key's own.
#[test]
fn queue_limits_count_tasks_with_a_key() {
    let executor = start(Config {
        classes: vec![ClassSpec::new("tight").with_queue_limit(10)],
        ..single()
    });
    let tight = executor.class("tight").unwrap();
    let limits = KeyLimits {
        queued: Some(6),
        ..KeyLimits::default()
    };
    tight.set_key_limits(limits).unwrap();
    let gate = hold(&tight);
    let submit = |key: &str| {
        tight
            .task()
            .key(key)
            .try_run(|| ())
            .map(|handle| handle.detach())
    };
    for _ in 0..6 {
        submit("a").unwrap();
    }
    let refused = submit("a").unwrap_err();
    assert!(
        matches!(refused.reason, Rejection::KeyQueueFull { limit: 6, .. }),
        "{refused}"
    );
    for _ in 0..4 {
        submit("b").unwrap();
    }
    let refused = submit("c").unwrap_err();
    assert!(
        matches!(refused.reason, Rejection::QueueFull { limit: 10, .. }),
        "{refused}"
    );
    assert!(tight.execute(|| ()).is_err());
    assert_eq!(executor.stats().class("tight").unwrap().refused, 3);
    gate.open();
    end(executor);
}

/// CPU-29: wakers, cancels and new tasks from many threads at once, with keys beyond the table: everything ends, nothing is left.
#[test]
fn many_threads_and_more_keys_than_the_table_knows() {
    let executor = start(Config {
        max_keys: 8,
        ..small()
    });
    for name in ["interactive", "normal"] {
        let class = executor.class(name).unwrap();
        let limits = KeyLimits {
            concurrency: Some(1),
            ..KeyLimits::default()
        };
        class.set_key_limits(limits).unwrap();
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let class = &class;
                scope.spawn(move || {
                    let mut rng = Rng::seeded(seed);
                    let mut handles = Vec::new();
                    for n in 0..800u64 {
                        let key = format!("{}", rng.below(200));
                        let task = class.task().key(&key);
                        handles.push(match n % 3 {
                            0 => task.run(move || n),
                            _ => task.spawn(async move {
                                yield_now().await;
                                tokio::task::yield_now().await;
                                n
                            }),
                        });
                        if rng.below(4) == 0 {
                            let which = rng.below(handles.len() as u64) as usize;
                            handles.swap_remove(which).cancel();
                        }
                    }
                    for mut handle in handles {
                        handle.join().unwrap();
                    }
                });
            }
        });
        eventually("all keys are forgotten", || class.keys().is_empty());
        assert!(class.keys_overflowed() > 0);
        assert_eq!(class.queued(), 0);
    }
    end(executor);
}
