//! What careless and hostile callers do, many times over: nothing is lost, leaked or left waiting.

use crate::*;
use flyball_core::rng::Rng;
use flyball_executor::{
    Algorithm, ClassSpec, Error, Group, KeyLimits, Rejection, Strategy, TaskError, WorkerSettings,
    checkpoint, yield_now,
};

/// Threads of a group that would take work, and how many should.
fn present_and_wanted(executor: &Executor, of: Group) -> (usize, usize) {
    let stats = executor.stats();
    let group = stats.group(of);
    (group.present, group.wanted)
}

/// CPU-18: the wanted number of workers is changed faster than threads start and end: in the end there are exactly as many as
/// wanted, none forgotten that nobody counts.
#[test]
fn scaling_back_and_forth_leaves_no_thread_behind() {
    let executor = start(Config {
        start_batch: 64,
        start_delay: Duration::ZERO,
        ..small()
    });
    let alive = |executor: &Executor| {
        let mut workers = executor.workers();
        workers.retain(|worker| worker.uptime.is_some() && worker.group == Group::Back);
        workers.len()
    };
    for round in 0..60 {
        executor.scale(Group::Back, 40).unwrap();
        // The supervisor is somewhere in the middle of its batch.
        if round % 3 != 0 {
            eventually("some have started", || alive(&executor) > round % 20);
        }
        executor.scale(Group::Back, 1).unwrap();
        eventually("one is left", || {
            present_and_wanted(&executor, Group::Back) == (1, 1) && alive(&executor) == 1
        });
    }
    end(executor);
}

/// CPU-18: a delay between batches of threads that was far too long can be shortened while the executor waits for it.
#[test]
fn a_delay_between_batches_can_be_shortened() {
    let executor = start(Config {
        start_delay: Duration::MAX,
        start_batch: 1,
        ..small()
    });
    // One of each group starts at once, one more in the first batch.
    eventually("the first batch has started", || {
        let present = |of| present_and_wanted(&executor, of).0;
        present(Group::Front) + present(Group::Back) == 3
    });
    let normal = executor.class("normal").unwrap();
    for _ in 0..50 {
        normal.run(|| ()).join().unwrap();
    }
    let mut tuning = executor.tuning();
    tuning.start_delay = Duration::ZERO;
    executor.set_tuning(&tuning).unwrap();
    eventually("all are there", || {
        present_and_wanted(&executor, Group::Front) == (2, 2)
            && present_and_wanted(&executor, Group::Back) == (3, 3)
    });
    end(executor);
}

/// CPU-18: a worker that was told to retire and never ends its task keeps its thread, and nothing that others need.
#[test]
fn a_retired_worker_that_is_stuck_keeps_nobody_from_running() {
    let executor = start(Config {
        parallelism: 1,
        back_workers: 2,
        force_after: Duration::from_millis(5),
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    eventually("all are there", || {
        present_and_wanted(&executor, Group::Back) == (2, 2)
    });
    let gate = hold(&normal);
    let inside = executor
        .workers()
        .into_iter()
        .find(|worker| worker.group == Group::Back && worker.task.is_some());
    executor
        .drain_worker(inside.expect("one is in the task").id)
        .unwrap();
    let mut tuning = executor.tuning();
    tuning.stuck_after = Duration::from_millis(1);
    executor.set_tuning(&tuning).unwrap();
    let mut other = normal.run(|| 7);
    eventually("the other one runs", || other.is_finished());
    assert_eq!(other.join().unwrap(), 7);
    gate.open();
    end(executor);
}

/// CPU-18: workers get stuck and come back while others are scaled, restarted and drained: every task runs once, and in the end there
/// are as many threads as wanted, none of them replaced, and no token is out.
#[test]
fn workers_come_back_while_everything_changes() {
    for round in 0..6u64 {
        let executor = start(Config {
            stuck_after: Duration::from_nanos(1),
            max_stuck: [0, 3, 100][round as usize % 3],
            start_batch: 16,
            ..small()
        });
        let (normal, front) = (
            executor.class("normal").unwrap(),
            executor.class("interactive").unwrap(),
        );
        let ran = Arc::new(AtomicUsize::new(0));
        let mut random = Rng::seeded(round);
        let (_never, nothing) = channel::<()>();
        let nothing = Arc::new(std::sync::Mutex::new(nothing));
        let mut handles = Vec::new();
        for n in 0..150 {
            let class = if n % 3 == 0 { &front } else { &normal };
            let (inner, ran, nothing) = (class.clone(), ran.clone(), nothing.clone());
            let long = random.below(4) == 0;
            handles.push(class.run(move || {
                let counted = ran.clone();
                let part = inner.run(move || counted.fetch_add(1, SeqCst));
                part.detach();
                if long {
                    let nothing = nothing.lock().unwrap();
                    let _ = nothing.recv_timeout(Duration::from_millis(2));
                }
                ran.fetch_add(1, SeqCst);
            }));
            let id = [0, 128][random.below(2) as usize] + random.below(6) as u16;
            let group = [Group::Front, Group::Back][random.below(2) as usize];
            // Whether there is such a worker is all the same.
            match random.below(5) {
                0 => drop(executor.restart_worker(id)),
                1 => drop(executor.drain_worker(id)),
                2 => drop(executor.scale(group, 1 + random.below(5) as usize)),
                3 => drop((executor.workers(), executor.rebalance())),
                _ => std::thread::yield_now(),
            }
        }
        if round % 2 == 0 {
            end(executor);
            assert_eq!(ran.load(SeqCst), 300);
            continue;
        }
        for handle in &mut handles {
            handle.join().unwrap();
        }
        eventually("all is as it should be", || {
            let workers = executor.workers();
            let alive = workers.iter().filter(|worker| worker.uptime.is_some());
            let stats = executor.stats();
            let wanted: usize = stats.groups.iter().map(|group| group.wanted).sum();
            // One more drives tokio.
            alive.count() == wanted + 1
                && workers.iter().all(|worker| worker.replaced_by.is_none())
                && stats
                    .groups
                    .iter()
                    .all(|group| group.present == group.wanted)
                && stats.running == 0
        });
        end(executor);
        assert_eq!(ran.load(SeqCst), 300);
    }
}

/// CPU-3: batches of any size end where the queue is full, and are refused by a class that is gone.
#[test]
fn batches_of_any_size_respect_the_limit() {
    let executor = start(small());
    let few = executor
        .add_class(ClassSpec::new("few").with_queue_limit(10))
        .unwrap();
    for batch_size in [1, 11, usize::MAX / 2, usize::MAX / 2 + 1, usize::MAX] {
        let mut tuning = executor.tuning();
        tuning.batch_size = batch_size;
        executor.set_tuning(&tuning).unwrap();
        executor.pause_class("few").unwrap();
        let refused = few.execute_many((0..100).map(|_| || ())).unwrap_err();
        assert_eq!(refused.work.len(), 90, "{batch_size}");
        assert!(matches!(
            refused.reason,
            Rejection::QueueFull { limit: 10, .. }
        ));
        executor.resume_class("few").unwrap();
        eventually("all have run", || few.queued() == 0);
    }
    eventually("it goes", || executor.remove_class("few").is_ok());
    let refused = few.execute_many((0..100).map(|_| || ())).unwrap_err();
    assert_eq!(refused.work.len(), 100);
    assert!(matches!(refused.reason, Rejection::ClassRemoved { .. }));
    end(executor);
}

/// CPU-18: settings at the ends of their ranges, and beyond, while work goes on.
#[test]
fn extreme_settings_stop_nothing() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    for (stuck_after, max_stuck) in [(1, usize::MAX), (u64::MAX, 0), (1, 0)] {
        for (tasks, every) in [(1, Some(Duration::from_millis(10))), (u32::MAX, None)] {
            let mut tuning = executor.tuning();
            tuning.stuck_after = Duration::from_nanos(stuck_after);
            tuning.max_stuck = max_stuck;
            tuning.start_batch = usize::MAX;
            tuning.start_delay = Duration::ZERO;
            tuning.max_tasks_per_worker = tasks;
            tuning.rebalance_interval = every;
            executor.set_tuning(&tuning).unwrap();
            for strategy in [Strategy::LeastLoaded, Strategy::Affinity, Strategy::Pull] {
                executor.set_strategy(strategy);
                let mut handles: Vec<_> = (0..200u64)
                    .map(|n| normal.task().affinity_key(n).run(move || n))
                    .collect();
                for (n, handle) in handles.iter_mut().enumerate() {
                    assert_eq!(handle.join().unwrap(), n as u64);
                }
            }
        }
    }
    let garbage = [
        f64::NAN,
        f64::INFINITY,
        -1.0,
        -0.1,
        100.1,
        f64::MAX,
        f64::MIN,
    ];
    for weight in garbage {
        let settings = WorkerSettings {
            weight: Some(weight),
            affinity_keys: Some(vec![1]),
            ..WorkerSettings::default()
        };
        for id in [0, 127, 128, 255, 256, u16::MAX] {
            assert!(executor.set_worker(id, &settings).is_err());
        }
    }
    let cores = WorkerSettings {
        affinity_cores: Some((0..100_000).map(|n| u32::MAX - n).collect()),
        ..WorkerSettings::default()
    };
    assert!(executor.set_worker(0, &cores).is_err());
    for worker in executor.workers() {
        assert_eq!((worker.weight, worker.affinity_key_count), (1.0, 0));
    }
    end(executor);
}

/// Work with a key of every kind, ended in every way.
fn trouble(class: &Class, random: &mut Rng, ran: &Arc<AtomicUsize>) -> Option<Handle<()>> {
    let key = format!("k{}", random.below(12));
    let counted = ran.clone();
    let mut task = class.task().key(&key).priority(random.below(5) as i8 - 2);
    match random.below(4) {
        0 => task = task.timeout(Duration::from_micros(random.below(500))),
        1 => task = task.deadline(Duration::from_micros(random.below(2_000))),
        _ => {}
    }
    let handle = match random.below(6) {
        0 => task.run(|| panic!("as it is meant to")),
        1 => task.spawn(async { panic!("as it is meant to") }),
        2 => task.run(move || {
            while checkpoint().is_ok() && !counted.fetch_add(1, SeqCst).is_multiple_of(7) {}
        }),
        3 => task.spawn(std::future::pending()),
        4 => task.spawn(async move {
            for _ in 0..3 {
                yield_now().await;
                counted.fetch_add(1, SeqCst);
            }
        }),
        _ => task.run(move || {
            counted.fetch_add(1, SeqCst);
        }),
    };
    match random.below(4) {
        0 => {
            handle.cancel();
            Some(handle)
        }
        1 => None, // dropped, which cancels
        _ => Some(handle),
    }
}

/// CPU-29, CPU-3: whatever becomes of tasks with keys (cancelled, timed out, too late, dropped, in a panic), under every algorithm
/// and strategy, while limits change and the class is paused: every permit comes back, and every task is counted once.
#[test]
fn permits_come_back_however_tasks_end() {
    let executor = start(Config {
        max_keys: 8,
        ..small()
    });
    let keyed = executor.add_class(ClassSpec::new("keyed")).unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let submitters: Vec<_> = (0..3u64)
        .map(|seed| {
            let (keyed, ran) = (keyed.clone(), ran.clone());
            std::thread::spawn(move || {
                let mut random = Rng::seeded(seed);
                let mut kept = Vec::new();
                for _ in 0..2_500 {
                    kept.extend(trouble(&keyed, &mut random, &ran));
                    if kept.len() > 100 {
                        let any = random.below(kept.len() as u64) as usize;
                        kept.truncate(any);
                    }
                }
            })
        })
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Rng::seeded(99);
            while !over.load(SeqCst) {
                let limits = KeyLimits {
                    rate: (random.below(2) == 0).then_some(10_000.0),
                    burst: 1 + random.below(5) as u32,
                    concurrency: (random.below(3) != 0).then_some(1 + random.below(3) as u32),
                    queued: (random.below(3) == 0).then_some(50),
                    observe: random.below(4) == 0,
                };
                match random.below(6) {
                    0 => keyed.set_key_limits(limits).unwrap(),
                    1 => {
                        let limits = (random.below(2) == 0).then_some(limits);
                        let _ = keyed.set_key_limit(format!("k{}", random.below(12)), limits);
                    }
                    2 => executor.set_algorithm(match random.below(4) {
                        0 => Algorithm::RoundRobin,
                        1 => Algorithm::Priority,
                        2 => Algorithm::Cfs,
                        _ => Algorithm::ProportionalShare,
                    }),
                    3 => executor.set_strategy(match random.below(3) {
                        0 => Strategy::Pull,
                        1 => Strategy::Affinity,
                        _ => Strategy::RoundRobin,
                    }),
                    4 => {
                        executor.pause_class("keyed").unwrap();
                        std::thread::yield_now();
                        executor.resume_class("keyed").unwrap();
                    }
                    _ => drop((keyed.keys(), executor.stats(), executor.workers())),
                }
                std::thread::yield_now();
            }
        });
        for submitter in submitters {
            submitter.join().unwrap();
        }
        over.store(true, SeqCst);
    });
    keyed.set_key_limits(KeyLimits::default()).unwrap();
    for key in 0..12 {
        keyed.set_key_limit(format!("k{key}"), None).unwrap();
    }
    eventually("nothing is left", || {
        let stats = executor.stats();
        let class = stats.class("keyed").unwrap();
        keyed.keys().is_empty() && class.queued == 0 && class.submitted == class.counts.tasks
    });
    end(executor);
}

/// CPU-29: one task at a time of every key and thousands wait: raising the limit, lowering it and taking it away wakes whoever is
/// needed, and a shutdown runs all that were accepted.
#[test]
fn limits_change_while_thousands_wait() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let limits = |concurrency, rate| KeyLimits {
        concurrency,
        rate,
        ..KeyLimits::default()
    };
    let ran = Arc::new(AtomicUsize::new(0));
    normal.set_key_limits(limits(Some(1), None)).unwrap();
    let mut held: Vec<_> = (0..50)
        .map(|key| {
            normal
                .task()
                .key(key.to_string())
                .spawn(std::future::pending::<()>())
        })
        .collect();
    eventually("all keys are held", || {
        normal.keys().iter().filter(|key| key.running == 1).count() == 50
    });
    for n in 0..5_000 {
        let ran = ran.clone();
        let work = move || {
            ran.fetch_add(1, SeqCst);
        };
        normal.task().key((n % 50).to_string()).run(work).detach();
    }
    for round in 0..50 {
        normal.set_key_limits(limits(Some(2), None)).unwrap();
        eventually("some run", || ran.load(SeqCst) > round * 50);
        normal
            .set_key_limits(limits(Some(1), Some(1.0 / 86_400.0)))
            .unwrap();
    }
    let mut last = held.pop().unwrap();
    last.cancel();
    assert!(matches!(last.join(), Err(TaskError::Cancelled)));
    held.clear();
    normal.set_key_limits(limits(Some(1), None)).unwrap();
    end(executor);
    assert_eq!(ran.load(SeqCst), 5_000);
}

/// CPU-1, CPU-2: classes come and go while their handles are in use, with keys, limits, futures and statistics.
#[test]
fn classes_come_and_go_while_handles_are_used() {
    let executor = start(small());
    let over = AtomicBool::new(false);
    let current = std::sync::Mutex::new(executor.class("normal").unwrap());
    std::thread::scope(|scope| {
        for seed in 0..2u64 {
            let (over, current) = (&over, &current);
            scope.spawn(move || {
                let mut random = Rng::seeded(seed);
                let ran = Arc::new(AtomicUsize::new(0));
                while !over.load(SeqCst) {
                    let class = current.lock().unwrap().clone();
                    for _ in 0..random.below(20) {
                        match random.below(3) {
                            0 => drop(trouble(&class, &mut random, &ran)),
                            1 => drop(class.execute(|| ())),
                            _ => class.spawn(yield_now()).detach(),
                        }
                    }
                    let _ = class.set_key_limit("k1", Some(KeyLimits::default()));
                    let _ = class.set_key_limit("k1", None);
                    let _ = (class.keys(), class.queued());
                }
            });
        }
        for round in 0..150 {
            let spec = ClassSpec::new("passing").with_group([Group::Front, Group::Back][round % 2]);
            *current.lock().unwrap() = executor.add_class(spec).unwrap();
            if round % 3 == 0 {
                executor.pause_class("passing").unwrap();
                executor.resume_class("passing").unwrap();
            }
            *current.lock().unwrap() = executor.class("normal").unwrap();
            eventually("it goes", || match executor.remove_class("passing") {
                Ok(()) => true,
                Err(Error::ClassInUse { .. }) => false,
                Err(other) => panic!("{other}"),
            });
            let _ = executor.stats();
        }
        over.store(true, SeqCst);
    });
    let normal = executor.class("normal").unwrap();
    eventually("nothing is left, and all was counted once", || {
        let stats = executor.stats();
        normal.queued() == 0 && stats.waiting_futures == 0 && stats.submitted == stats.ended
    });
    end(executor);
}

#[cfg(feature = "rayon")]
mod rayon_inside {
    use super::*;
    use ::rayon::prelude::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn sum() -> u64 {
        (0..20_000u64).into_par_iter().map(|n| n ^ 1).sum()
    }

    /// CPU-25: installs from workers of both groups and from outside, one inside the other, in panics, with detached jobs, while
    /// their classes are paused, bounded anew and taken away: every call returns, and the threads end.
    #[test]
    fn installs_survive_whatever_their_classes_go_through() {
        let executor = start(small());
        let expected = sum();
        let classes: Vec<Class> = (0..4)
            .map(|n| {
                let group = [Group::Front, Group::Back][n % 2];
                let spec = ClassSpec::new(format!("r{n}")).with_group(group);
                executor.add_class(spec).unwrap()
            })
            .collect();
        let over = AtomicBool::new(false);
        let calls = |class: &Class, other: &Class, random: &mut Rng| {
            let (inner, nested) = (other.clone(), other.clone());
            match random.below(5) {
                0 => assert_eq!(class.install(sum).unwrap(), expected),
                1 => {
                    let work = move || nested.install(sum);
                    assert_eq!(class.install(work).unwrap().unwrap(), expected);
                }
                2 => {
                    let caught = catch_unwind(AssertUnwindSafe(|| {
                        class.install(|| {
                            (0..100).into_par_iter().for_each(|n| assert_ne!(n, 50));
                        })
                    }));
                    assert!(caught.is_err());
                }
                3 => class
                    .install(|| ::rayon::spawn(|| assert_ne!(sum(), 0)))
                    .unwrap(),
                _ => {
                    let mut outside = class.run(move || inner.install(sum));
                    assert_eq!(outside.join().unwrap().unwrap(), expected);
                }
            }
        };
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..3u64)
                .map(|seed| {
                    let (classes, calls) = (&classes, &calls);
                    scope.spawn(move || {
                        let mut random = Rng::seeded(seed);
                        for _ in 0..25 {
                            let any = random.below(4) as usize;
                            let other = random.below(4) as usize;
                            calls(&classes[any], &classes[other], &mut random);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                let mut random = Rng::seeded(7);
                while !over.load(SeqCst) {
                    let n = random.below(4) as usize;
                    let name = format!("r{n}");
                    match random.below(3) {
                        0 => {
                            executor.pause_class(&name).unwrap();
                            std::thread::yield_now();
                            executor.resume_class(&name).unwrap();
                        }
                        1 => {
                            let group = [Group::Front, Group::Back][n % 2];
                            let mut spec = ClassSpec::new(name).with_group(group);
                            spec.ceiling = [0.1, 1.0][random.below(2) as usize];
                            executor.set_class(spec).unwrap();
                        }
                        _ => drop(executor.stats()),
                    }
                    std::thread::yield_now();
                }
            });
            for caller in callers {
                caller.join().unwrap();
            }
            over.store(true, SeqCst);
        });
        for n in 0..4 {
            executor.resume_class(&format!("r{n}")).unwrap();
        }
        eventually("all go", || {
            (0..4).all(|n| {
                let name = format!("r{n}");
                executor.class(&name).is_err() || executor.remove_class(&name).is_ok()
            })
        });
        for class in &classes {
            assert!(matches!(
                class.install(sum),
                Err(Error::UnknownClass { .. })
            ));
        }
        end(executor);
    }

    /// CPU-25: a shutdown in the middle of installs, from outside and on workers, waits for those that began and refuses the rest.
    #[test]
    fn a_shutdown_amid_installs() {
        for round in 0..20u64 {
            let executor = start(small());
            let class = executor
                .class(["interactive", "batch"][round as usize % 2])
                .unwrap();
            let (begun, is_begun) = channel();
            let callers: Vec<_> = (0..2)
                .map(|_| {
                    let (class, begun) = (class.clone(), begun.clone());
                    std::thread::spawn(move || {
                        let mut done = 0;
                        while class.install(sum).is_ok() {
                            done += 1;
                            let _ = begun.send(());
                            class
                                .run({
                                    let class = class.clone();
                                    move || drop(class.install(sum))
                                })
                                .detach();
                        }
                        done
                    })
                })
                .collect();
            receive(&is_begun);
            end(executor);
            for caller in callers {
                caller.join().unwrap();
            }
        }
    }
}
