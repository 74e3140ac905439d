//! Figures of workers, groups and classes; health and heartbeats.

use crate::*;
use flyball_executor::{Group, Stats, What, WorkerState, WorkerStatus, blocking, yield_now};

fn worker(executor: &Executor, id: u16) -> WorkerStatus {
    let mut workers = executor.workers();
    workers.retain(|worker| worker.id == id);
    workers.pop().expect("it exists")
}

/// CPU-15: a worker whose tasks fail loses health, one whose tasks succeed keeps it; both show it with the factors.
#[test]
fn errors_lower_the_health_of_a_worker() {
    let executor = start(single());
    let (front, back) = (
        executor.class("interactive").unwrap(),
        executor.class("normal").unwrap(),
    );
    for _ in 0..40 {
        front.run(|| ()).join().unwrap();
        let _ = back.run(|| panic!("counted")).join();
    }
    eventually("the last is counted", || {
        worker(&executor, 0).tasks == 40 && worker(&executor, 128).tasks == 40
    });
    let (well, ill) = (worker(&executor, 0), worker(&executor, 128));
    assert!(well.health.is_healthy() && well.health.success == 1.0);
    assert_eq!(well.error_rate, Some(0.0));
    assert!(!ill.health.is_healthy(), "{:?}", ill.health);
    assert_eq!(ill.health.worst(), Some("success"));
    assert!(ill.error_rate.is_some_and(|rate| rate > 0.99));
    let stats = executor.stats();
    assert_eq!(stats.group(Group::Front).healthy, 1);
    assert_eq!(stats.group(Group::Back).healthy, 0);
    assert_eq!(stats.group(Group::Back).present, 1);
    end(executor);
}

/// CPU-15, CPU-16: when fewer workers are asked for, the least healthy retires first.
#[test]
fn the_least_healthy_retires_first() {
    let executor = start(Config {
        parallelism: 3,
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    eventually("all are there", || {
        executor.stats().group(Group::Back).present == 3
    });
    // All but one are kept from work, so that one alone has the errors.
    let gates = hold_many(&normal, 2);
    for _ in 0..40 {
        let _ = normal.run(|| panic!("counted")).join();
    }
    let ill = || {
        executor
            .workers()
            .into_iter()
            .filter(|worker| worker.group == Group::Back && !worker.health.is_healthy())
            .map(|worker| worker.id)
            .collect::<Vec<u16>>()
    };
    eventually("one is ill", || ill().len() == 1);
    let ill = ill()[0];
    executor.scale(Group::Back, 2).unwrap();
    eventually("it has retired", || {
        worker(&executor, ill).state == WorkerState::Stopped
    });
    for gate in gates {
        gate.open();
    }
    assert_eq!(executor.stats().group(Group::Back).wanted, 2);
    end(executor);
}

/// CPU-18: a worker that is at work and passes no task boundary misses heartbeats: they are counted, lower its health and are told once
/// an episode. A task that blocks and says so misses none.
#[test]
fn missed_heartbeats_are_told_once() {
    let executor = start(single());
    let (front, normal) = (
        executor.class("interactive").unwrap(),
        executor.class("normal").unwrap(),
    );
    let (open, wait) = channel::<()>();
    let (inside, is_inside) = channel();
    let mut blocks = front.run(move || {
        blocking(|| {
            let _ = inside.send(());
            let _ = wait.recv();
        })
    });
    receive(&is_inside);
    let gate = hold(&normal);
    eventually("it misses two", || {
        worker(&executor, 128).missed_heartbeats >= 2
    });
    assert!(worker(&executor, 128).health.heartbeat < 1.0);
    let blocked = worker(&executor, 0);
    assert_eq!(
        (blocked.missed_heartbeats, blocked.health.heartbeat),
        (0, 1.0)
    );
    let told = || {
        executor
            .events()
            .into_iter()
            .filter(|event| event.what == What::MissedHeartbeat)
            .collect::<Vec<_>>()
    };
    assert_eq!(told().len(), 1);
    assert_eq!(told()[0].worker, Some(128));
    gate.open();
    open.send(()).unwrap();
    blocks.join().unwrap();
    eventually("its health is back", || {
        let _ = normal.run(|| ()).join();
        worker(&executor, 128).health.heartbeat == 1.0
    });
    assert!(worker(&executor, 128).missed_heartbeats >= 2, "counted");
    end(executor);
}

/// CPU-16: the busy time of a group grows while a worker is inside a task, however long that lasts, and stands still otherwise.
#[test]
fn busy_time_counts_the_task_in_progress() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    normal.run(|| ()).join().unwrap();
    let busy = |stats: &Stats, group| stats.group(group).busy_ns;
    let quiet = || {
        let (before, after) = (executor.stats(), executor.stats());
        busy(&before, Group::Back) == busy(&after, Group::Back)
            && after.group(Group::Back).idle_longest.is_some()
    };
    eventually("nobody works", quiet);
    let gate = hold(&normal);
    let before = executor.stats();
    assert_eq!(before.group(Group::Back).idle_longest, None);
    eventually("it is counted while it lasts", || {
        busy(&executor.stats(), Group::Back) >= busy(&before, Group::Back) + 20_000_000
    });
    let after = executor.stats();
    let (worked, time) = (
        busy(&after, Group::Back) - busy(&before, Group::Back),
        after.at.duration_since(before.at).as_nanos() as u64,
    );
    // Both are read one after the other: as much apart as that takes.
    assert!(worked <= time + 5_000_000_000, "{worked} ns in {time} ns");
    assert_eq!(busy(&after, Group::Front), busy(&before, Group::Front));
    assert!(worker(&executor, 128).running_since.is_some());
    gate.open();
    eventually("nobody works", quiet);
    assert!(busy(&executor.stats(), Group::Back) >= busy(&after, Group::Back));
    end(executor);
}

/// CPU-5: what a worker shows of its tasks and its thread; what is not known is absent, not zero.
#[test]
fn a_worker_shows_what_is_known() {
    let executor = start(single());
    eventually("both are there", || {
        executor
            .stats()
            .groups
            .iter()
            .all(|group| group.present == 1)
    });
    let fresh = worker(&executor, 128);
    assert_eq!(
        (fresh.mean_run, fresh.p95_run, fresh.error_rate, fresh.task),
        (None, None, None, None)
    );
    assert_eq!(fresh.health.score, 1.0);
    assert!(fresh.uptime.is_some() && fresh.running_since.is_none());
    let normal = executor.class("normal").unwrap();
    let mut thread = normal.run(|| {
        let link = std::fs::read_link("/proc/thread-self").unwrap();
        link.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    });
    let thread = thread.join().unwrap();
    let began = executor.stats().at;
    eventually("it is counted", || worker(&executor, 128).tasks == 1);
    eventually("its throughput is known", || {
        worker(&executor, 128)
            .throughput
            .is_some_and(|rate| rate > 0.0)
    });
    let shown = worker(&executor, 128);
    assert_eq!(shown.thread_id, Some(thread));
    assert!(shown.mean_run.is_some() && shown.p95_run >= shown.mean_run);
    assert_eq!(shown.error_rate, Some(0.0));
    assert!(
        shown
            .last_activity
            .is_some_and(|at| at <= executor.stats().at)
    );
    assert!(shown.busy_ns > 0 && began.as_nanos() > 0);
    executor.scale(Group::Back, 2).unwrap();
    executor.drain_worker(128).unwrap();
    eventually("it has stopped", || {
        worker(&executor, 128).state == WorkerState::Stopped
    });
    let stopped = worker(&executor, 128);
    assert_eq!((stopped.uptime, stopped.thread_id), (None, None));
    assert_eq!(stopped.tasks, 1, "what it did stays");
    end(executor);
}

/// CPU-5: submissions are counted exactly, by whatever way a task comes in, and agree with what ended once all is quiet.
#[test]
fn submissions_are_counted_exactly() {
    for strategy in [
        flyball_executor::Strategy::Pull,
        flyball_executor::Strategy::RoundRobin,
    ] {
        let executor = start(Config {
            strategy,
            ..small()
        });
        let mut expected = 0;
        for name in ["interactive", "normal"] {
            let class = executor.class(name).unwrap();
            let other = executor.class("batch").unwrap();
            let (inner, away) = (class.clone(), other.clone());
            let mut handles = Vec::new();
            class.execute_many((0..333).map(|_| || ())).unwrap();
            for n in 0..100u64 {
                handles.push(class.run(|| ()));
                handles.push(class.task().priority(3).run(|| ()));
                handles.push(class.task().key(format!("{}", n % 7)).run(|| ()));
                handles.push(class.task().affinity_key(n).run(|| ()));
                handles.push(class.spawn(async {
                    for _ in 0..3 {
                        yield_now().await;
                    }
                    tokio::time::sleep(Duration::from_micros(50)).await;
                }));
                drop(class.spawn(std::future::pending::<()>()));
            }
            // More than a worker's stack and ring hold, so that they overflow.
            handles.push(class.run(move || {
                for _ in 0..1_000 {
                    inner.execute(|| ()).unwrap();
                    inner.spawn(async { yield_now().await }).detach();
                    away.execute(|| ()).unwrap();
                }
            }));
            for mut handle in handles {
                handle.join().unwrap();
            }
            expected += 333 + 600 + 1 + 3_000;
        }
        eventually("all is quiet", || executor.stats().ended == expected);
        eventually("the last slice is settled", || {
            let stats = executor.stats();
            stats.submitted == expected
                && stats
                    .classes
                    .iter()
                    .all(|class| class.submitted == class.counts.tasks)
        });
        end(executor);
    }
}

/// CPU-5: the longest wait is that of the oldest task that waits, wherever that stands.
#[cfg(feature = "testing")]
#[test]
fn the_oldest_wait_is_that_of_the_oldest_task() {
    let mut engine = flyball_executor::testing::Testing::new();
    let class = engine.class("batch").unwrap();
    let second = Duration::from_secs(1);
    let oldest = |engine: &flyball_executor::testing::Testing| {
        engine.stats().class("batch").unwrap().oldest_wait
    };
    assert_eq!(oldest(&engine), None);
    let ways: [&dyn Fn() -> Handle<()>; 4] = [
        &|| class.run(|| ()),
        &|| class.task().priority(-5).run(|| ()),
        &|| class.task().key("tenant").run(|| ()),
        &|| class.spawn(async {}),
    ];
    for oldest_way in ways {
        let mut handles = vec![oldest_way()];
        engine.stall(2 * second);
        handles.extend(ways.iter().map(|way| way()));
        engine.stall(second);
        assert_eq!(oldest(&engine), Some(3 * second));
        engine.drain();
        assert_eq!(oldest(&engine), None);
    }
}
