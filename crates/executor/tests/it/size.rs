//! Numbers of workers, and workers that come and go.

use crate::*;
use flyball_executor::{Class, Error, Group, Layout, MAX_EVENTS, What, WorkerState};
use std::sync::Barrier;

/// Workers of a group that take work.
fn present(executor: &Executor, group: Group) -> usize {
    executor
        .workers()
        .iter()
        .filter(|worker| worker.group == group)
        .filter(|worker| is_numbered(worker.id))
        .filter(|worker| {
            matches!(
                worker.state,
                WorkerState::Idle | WorkerState::Processing | WorkerState::Stuck
            )
        })
        .count()
}

/// Not the thread that drives tokio, which is a front worker of its own kind with the last number.
fn is_numbered(id: u16) -> bool {
    id != 127
}

/// Runs one task on each of so many workers at the same time.
fn meet(class: &Class, workers: usize) {
    let barrier = Arc::new(Barrier::new(workers));
    let mut handles: Vec<_> = (0..workers)
        .map(|_| {
            let barrier = barrier.clone();
            class.run(move || {
                barrier.wait();
                std::thread::current().id()
            })
        })
        .collect();
    let threads: std::collections::HashSet<_> = handles
        .iter_mut()
        .map(|handle| handle.join().unwrap())
        .collect();
    assert_eq!(threads.len(), workers);
}

/// CPU-19: 1, 2, 16 and all workers in each group; every one of them works, and nothing is lost.
#[test]
fn one_to_all_workers() {
    for workers in [1, 2, 16, 127] {
        let executor = start(Config {
            parallelism: workers,
            front_workers: workers,
            back_workers: workers,
            start_batch: 16,
            ..small()
        });
        let ran = Arc::new(AtomicUsize::new(0));
        for class in executor.classes() {
            for n in 0..500 {
                let (first, second) = (ran.clone(), ran.clone());
                let inner = class.clone();
                class
                    .execute(move || {
                        first.fetch_add(1, SeqCst);
                        if n % 10 == 0 {
                            inner
                                .spawn(async move {
                                    flyball_executor::yield_now().await;
                                    second.fetch_add(1, SeqCst);
                                })
                                .detach();
                        }
                    })
                    .unwrap();
            }
        }
        for (group, class) in [(Group::Front, "critical"), (Group::Back, "idle")] {
            eventually("all workers are there", || {
                present(&executor, group) == workers
            });
            meet(&executor.class(class).unwrap(), workers);
        }
        end(executor);
        assert_eq!(ran.load(SeqCst), 5 * 550);
    }
}

/// CPU-19: the back group may have 128 workers.
#[test]
fn a_hundred_and_twenty_eight_back_workers() {
    let executor = start(Config {
        parallelism: 128,
        front_workers: 1,
        back_workers: 128,
        start_batch: 128,
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    eventually("all workers are there", || {
        present(&executor, Group::Back) == 128
    });
    meet(&normal, 128);
    end(executor);
}

/// CPU-18: workers start in stages; those that are there work meanwhile, and a shutdown does not wait for the others.
#[test]
fn workers_start_in_stages() {
    let executor = start(Config {
        parallelism: 16,
        front_workers: 1,
        back_workers: 16,
        start_batch: 3,
        start_delay: Duration::from_secs(3_600),
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    assert_eq!(normal.run(|| 1).join().unwrap(), 1);
    eventually("the first batch is there", || {
        present(&executor, Group::Back) == 4
    });
    meet(&normal, 4);
    assert_eq!(
        present(&executor, Group::Back),
        4,
        "the next comes in an hour"
    );
    end(executor);
}

/// CPU-18: more workers and fewer, while there is work; none of it is lost.
#[test]
fn scaling_loses_nothing() {
    let executor = start(Config {
        parallelism: 16,
        ..small()
    });
    let ran = Arc::new(AtomicUsize::new(0));
    let mut submitted = 0;
    for (front, back) in [(8, 8), (1, 1), (2, 16), (1, 1), (3, 2), (16, 3)] {
        for class in executor.classes() {
            for _ in 0..100 {
                let (ran, inner) = (ran.clone(), class.clone());
                class
                    .execute(move || {
                        inner
                            .execute(move || {
                                ran.fetch_add(1, SeqCst);
                            })
                            .unwrap();
                    })
                    .unwrap();
                submitted += 1;
            }
        }
        executor.scale(Group::Front, front).unwrap();
        executor.scale(Group::Back, back).unwrap();
        eventually("the workers are as many as wanted", || {
            present(&executor, Group::Front) == front && present(&executor, Group::Back) == back
        });
        meet(&executor.class("normal").unwrap(), back);
        meet(&executor.class("interactive").unwrap(), front);
    }
    for (group, wrong) in [
        (Group::Back, 0),
        (Group::Back, 129),
        (Group::Back, usize::MAX),
        (Group::Front, 0),
        (Group::Front, 128),
    ] {
        assert!(matches!(
            executor.scale(group, wrong),
            Err(Error::Config { .. })
        ));
    }
    let scaled = executor
        .events()
        .iter()
        .filter(|event| event.what == What::Scaled)
        .count();
    assert_eq!(scaled, 12);
    end(executor);
    assert_eq!(ran.load(SeqCst), submitted);
}

/// CPU-18: one worker is restarted, another drained; what they had, tags included, is run by others; a worker in the middle of a
/// task finishes it first.
#[test]
fn restart_and_drain_lose_nothing() {
    let executor = start(Config {
        back_workers: 4,
        parallelism: 4,
        strategy: flyball_executor::Strategy::RoundRobin,
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    eventually("all are there", || present(&executor, Group::Back) == 4);
    let thread_of = |class: &Class| class.run(|| std::thread::current().name().unwrap().to_owned());
    let gates = hold_many(&normal, 4);
    let ran = Arc::new(AtomicUsize::new(0));
    let handles: Vec<_> = (0..100)
        .map(|_| {
            let ran = ran.clone();
            normal.run(move || {
                ran.fetch_add(1, SeqCst);
            })
        })
        .collect();
    executor.restart_worker(129).unwrap();
    executor.drain_worker(131).unwrap();
    assert!(
        matches!(executor.drain_worker(131), Err(Error::WorkerLeaving(131))),
        "once is enough: no second place goes"
    );
    let state = |id: u16| {
        executor
            .workers()
            .into_iter()
            .find(|worker| worker.id == id)
            .unwrap()
            .state
    };
    assert_eq!(state(129), WorkerState::Draining);
    assert_eq!(state(131), WorkerState::Draining);
    assert_eq!(ran.load(SeqCst), 0, "all are inside their closures");
    for gate in gates {
        gate.open();
    }
    for mut handle in handles {
        handle.join().unwrap();
    }
    eventually("one is back, one is gone", || {
        present(&executor, Group::Back) == 3 && state(131) == WorkerState::Stopped
    });
    meet(&normal, 3);
    assert!(thread_of(&normal).join().unwrap().starts_with("flyball-b"));
    // 127 is the thread that drives tokio, which is nobody's to stop.
    assert!(matches!(
        executor.restart_worker(127),
        Err(Error::IoWorker(127))
    ));
    assert!(matches!(
        executor.drain_worker(127),
        Err(Error::IoWorker(127))
    ));
    for unknown in [131, 200, 256, u16::MAX] {
        assert!(
            matches!(executor.restart_worker(unknown), Err(Error::UnknownWorker(id)) if id == unknown)
        );
        assert!(matches!(
            executor.drain_worker(unknown),
            Err(Error::UnknownWorker(_))
        ));
    }
    executor.drain_worker(129).unwrap();
    executor.drain_worker(128).unwrap();
    eventually("one is left", || present(&executor, Group::Back) == 1);
    let last = executor
        .workers()
        .iter()
        .find(|worker| {
            let leaves = matches!(worker.state, WorkerState::Stopped | WorkerState::Draining);
            worker.group == Group::Back && !leaves
        })
        .unwrap()
        .id;
    assert!(matches!(
        executor.drain_worker(last),
        Err(Error::Config { .. })
    ));
    assert_eq!(normal.run(|| 3).join().unwrap(), 3);
    let events = executor.events();
    for what in [
        What::Restarted,
        What::Draining,
        What::Started,
        What::Stopped,
    ] {
        assert!(events.iter().any(|event| event.what == what), "{what:?}");
    }
    end(executor);
}

/// CPU-18: an idle worker that is restarted comes back, however quiet it is, and takes work again.
#[test]
fn an_idle_worker_is_restarted() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let front = executor.class("interactive").unwrap();
    for _ in 0..30 {
        executor.restart_worker(128).unwrap();
        assert_eq!(normal.run(|| 1).join().unwrap(), 1);
        let _ = executor.restart_worker(0);
        assert_eq!(front.run(|| 2).join().unwrap(), 2);
    }
    end(executor);
}

/// CPU-18: a worker that is inside one task for longer than `stuck_after` is reported with what it runs, and again when it comes
/// back.
#[test]
fn a_stuck_worker_is_reported() {
    let executor = start(Config {
        stuck_after: Duration::from_millis(1),
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    let (open, wait) = channel::<()>();
    let mut handle = normal.task().kind("endless").run(move || {
        let _ = wait.recv();
    });
    let stuck = || {
        executor
            .workers()
            .into_iter()
            .find(|worker| worker.state == WorkerState::Stuck)
    };
    eventually("it is stuck", || stuck().is_some());
    let worker = stuck().unwrap();
    let (class, kind, age) = worker.task.unwrap();
    assert_eq!((&*class, &*kind), ("normal", "endless"));
    assert!(age >= Duration::from_millis(1));
    let reported = |what| {
        executor
            .events()
            .into_iter()
            .find(|event| event.what == what && event.worker == Some(worker.id))
    };
    let reason = reported(What::Stuck).unwrap().reason;
    assert!(
        reason.contains("normal") && reason.contains("endless"),
        "{reason}"
    );
    // The others go on.
    assert_eq!(normal.run(|| 1).join().unwrap(), 1);
    open.send(()).unwrap();
    handle.join().unwrap();
    eventually("it comes back", || {
        let _ = normal.run(|| ()).join();
        reported(What::Recovered).is_some()
    });
    end(executor);
}

/// CPU-14: pinned workers say where, and run there; where the machine refuses, an event says so.
#[test]
fn workers_are_pinned() {
    for layout in [Layout::Spread, Layout::Pack] {
        let executor = start(Config {
            pin: Some(layout),
            ..small()
        });
        eventually("all are there", || {
            present(&executor, Group::Back) == 3 && present(&executor, Group::Front) == 2
        });
        let allowed = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let allowed = allowed_cpus(&allowed);
        for worker in executor
            .workers()
            .iter()
            .filter(|worker| is_numbered(worker.id))
        {
            match worker.pinned_to {
                Some(cpu) => assert!(allowed.contains(&cpu), "{cpu} of {allowed:?}"),
                None => assert!(executor.events().iter().any(|event| {
                    event.what == What::Unavailable && event.worker == Some(worker.id)
                })),
            }
        }
        let normal = executor.class("normal").unwrap();
        let status = normal.run(|| std::fs::read_to_string("/proc/thread-self/status").unwrap());
        let mut status = status;
        let pinned = allowed_cpus(&status.join().unwrap());
        assert!(pinned.len() == 1 || pinned == allowed, "{pinned:?}");
        end(executor);
    }
}

/// The CPUs that a thread may run on, from its status file.
pub(crate) fn allowed_cpus(status: &str) -> Vec<u32> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    list.trim()
        .split(',')
        .flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<u32>().unwrap()..=last.parse().unwrap()
        })
        .collect()
}

/// CPU-18: events are numbered, carry time and reason, and are bounded.
#[test]
fn events_are_bounded() {
    let executor = start(small());
    for n in 0..MAX_EVENTS + 500 {
        executor.set_algorithm(flyball_executor::Algorithm::ALL[n % 4]);
    }
    let events = executor.events();
    assert_eq!(events.len(), MAX_EVENTS);
    for pair in events.windows(2) {
        assert_eq!(pair[1].number, pair[0].number + 1);
    }
    assert!(events.last().unwrap().number as usize >= MAX_EVENTS + 499);
    let last = events
        .iter()
        .rev()
        .find(|event| event.what == What::Changed)
        .unwrap();
    assert!(last.reason.contains("→"), "{}", last.reason);
    end(executor);
}
