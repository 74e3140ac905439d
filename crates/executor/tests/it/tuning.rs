//! Settings that change while the executor runs: of all workers, and of one.

use crate::*;
use flyball_executor::{Error, Group, Strategy, Tuning, What, WorkerSettings, WorkerStatus};

fn worker(executor: &Executor, id: u16) -> WorkerStatus {
    let mut workers = executor.workers();
    workers.retain(|worker| worker.id == id);
    workers.pop().expect("it exists")
}

fn all_present(executor: &Executor) {
    eventually("all are there", || {
        executor
            .stats()
            .groups
            .iter()
            .all(|group| group.present == group.wanted)
    });
}

/// CPU-18: tuning is checked as a whole before anything changes, and is in force afterwards without a restart.
#[test]
fn tuning_changes_as_a_whole_or_not_at_all() {
    let executor = start(Config {
        back_workers: 1,
        start_delay: Duration::from_secs(3_600),
        start_batch: 1,
        ..small()
    });
    let before = executor.tuning();
    assert_eq!(before.stuck_after, Duration::from_secs(60));
    let wrong = [
        Tuning {
            stuck_after: Duration::ZERO,
            ..before.clone()
        },
        Tuning {
            batch_size: 0,
            ..before.clone()
        },
        Tuning {
            start_batch: 0,
            ..before.clone()
        },
        Tuning {
            max_tasks_per_worker: 0,
            ..before.clone()
        },
        Tuning {
            rebalance_interval: Some(Duration::from_millis(9)),
            ..before.clone()
        },
    ];
    for wrong in wrong {
        let wrong = Tuning {
            force_after: Duration::from_secs(99),
            ..wrong
        };
        assert!(matches!(
            executor.set_tuning(&wrong),
            Err(Error::Config { .. })
        ));
        assert_eq!(executor.tuning(), before, "nothing has changed");
    }
    let new = Tuning {
        stuck_after: Duration::from_millis(1),
        max_stuck: 0,
        batch_size: 3,
        start_batch: 16,
        start_delay: Duration::from_millis(1),
        force_after: Duration::from_millis(5),
        max_tasks_per_worker: 7,
        rebalance_interval: None,
    };
    executor.set_tuning(&new).unwrap();
    assert_eq!(executor.tuning(), new);
    let changed = |event: &flyball_executor::Event| event.what == What::Changed;
    assert!(
        executor
            .events()
            .iter()
            .any(|event| { changed(event) && event.reason.contains("batch_size 10 → 3") })
    );
    // In force: a worker is stuck after a millisecond, and reported.
    let gate = hold(&executor.class("normal").unwrap());
    eventually("it is stuck", || {
        executor
            .events()
            .iter()
            .any(|event| event.what == What::Stuck)
    });
    let report = executor.shutdown(Duration::ZERO).unwrap();
    assert_eq!(report.left_running.len(), 1);
    drop(gate);
}

/// CPU-13: no more tasks are tagged for a worker than the setting says; the others wait untagged and run all the same.
#[test]
fn tags_are_bounded_by_the_setting() {
    for most in [3, 150] {
        let executor = start(Config {
            strategy: Strategy::RoundRobin,
            parallelism: 1,
            back_workers: 1,
            ..small()
        });
        executor
            .set_tuning(&Tuning {
                max_tasks_per_worker: most,
                ..executor.tuning()
            })
            .unwrap();
        let normal = executor.class("normal").unwrap();
        let gate = hold(&normal);
        let handles: Vec<_> = (0..200).map(|n| normal.run(move || n)).collect();
        assert_eq!(worker(&executor, 128).queued, most as usize);
        assert_eq!(normal.queued(), 200);
        gate.open();
        for (n, mut handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.join().unwrap(), n);
        }
        end(executor);
    }
}

/// CPU-13: a worker's weight and keys decide where tasks are placed; both are shown, and a key has one worker.
#[test]
fn weight_and_keys_decide_placement() {
    let executor = start(Config {
        strategy: Strategy::Affinity,
        parallelism: 3,
        ..small()
    });
    all_present(&executor);
    let normal = executor.class("normal").unwrap();
    let gates = hold_many(&normal, 3);
    let keys = |keys: &[u64]| WorkerSettings {
        affinity_keys: Some(keys.to_vec()),
        ..WorkerSettings::default()
    };
    executor.set_worker(129, &keys(&[1, 2, 3])).unwrap();
    executor.set_worker(130, &keys(&[3, 4])).unwrap();
    let many: Vec<u64> = (100..200).collect();
    executor.set_worker(128, &keys(&many)).unwrap();
    assert_eq!(worker(&executor, 129).affinity_keys, [1, 2]);
    assert_eq!(worker(&executor, 130).affinity_keys, [3, 4]);
    let shown = worker(&executor, 128);
    assert_eq!(
        (shown.affinity_key_count, shown.affinity_keys.len()),
        (100, 16)
    );
    let handles: Vec<_> = [1, 2, 3, 4, 4, 150]
        .into_iter()
        .map(|key| normal.task().affinity_key(key).run(move || key))
        .collect();
    let queued: Vec<usize> = (128..131).map(|id| worker(&executor, id).queued).collect();
    assert_eq!(queued, [1, 2, 3]);
    executor.set_strategy(Strategy::Weighted);
    let weight = |weight| WorkerSettings {
        weight: Some(weight),
        ..WorkerSettings::default()
    };
    executor.set_worker(128, &weight(0.0)).unwrap();
    executor.set_worker(129, &weight(100.0)).unwrap();
    assert_eq!(worker(&executor, 128).weight, 0.0);
    assert_eq!(worker(&executor, 129).effective_weight, 100.0);
    let more: Vec<_> = (0..20).map(|n| normal.run(move || n)).collect();
    let queued: Vec<usize> = (128..131).map(|id| worker(&executor, id).queued).collect();
    assert_eq!(queued, [1, 22, 3]);
    for gate in gates {
        gate.open();
    }
    for mut handle in handles {
        handle.join().unwrap();
    }
    for mut handle in more {
        handle.join().unwrap();
    }
    end(executor);
}

/// CPU-14: a worker is pinned to the CPUs given by hand, keeps them over a restart, and gets them back when they are taken away.
#[test]
fn a_worker_is_given_cpus() {
    let executor = start(Config {
        back_workers: 1,
        ..small()
    });
    all_present(&executor);
    let normal = executor.class("normal").unwrap();
    let allowed = || {
        let mut status =
            normal.run(|| std::fs::read_to_string("/proc/thread-self/status").unwrap());
        crate::size::allowed_cpus(&status.join().unwrap())
    };
    let all = allowed();
    let cores = |cores: &[u32]| WorkerSettings {
        affinity_cores: Some(cores.to_vec()),
        ..WorkerSettings::default()
    };
    let last = *all.last().unwrap();
    executor.set_worker(128, &cores(&[last])).unwrap();
    assert_eq!(allowed(), [last]);
    let shown = worker(&executor, 128);
    assert_eq!(
        (shown.pinned_to, &shown.affinity_cores[..]),
        (Some(last), &[last][..])
    );
    let thread = shown.thread_id;
    executor.restart_worker(128).unwrap();
    eventually("another thread is there", || {
        let shown = worker(&executor, 128);
        shown.thread_id.is_some() && shown.thread_id != thread
    });
    assert_eq!(allowed(), [last]);
    executor.set_worker(128, &cores(&[])).unwrap();
    assert_eq!(allowed(), all);
    assert_eq!(worker(&executor, 128).pinned_to, None);
    end(executor);
}

/// CPU-13: settings of a worker are checked as a whole before anything changes.
#[test]
fn settings_change_as_a_whole_or_not_at_all() {
    let executor = start(small());
    all_present(&executor);
    let good = WorkerSettings {
        weight: Some(2.5),
        affinity_cores: None,
        affinity_keys: Some(vec![7]),
    };
    executor.set_worker(128, &good).unwrap();
    let wrong = [
        WorkerSettings {
            weight: Some(f64::NAN),
            affinity_keys: Some(vec![]),
            ..WorkerSettings::default()
        },
        WorkerSettings {
            weight: Some(-1.0),
            ..good.clone()
        },
        WorkerSettings {
            weight: Some(100.5),
            ..good.clone()
        },
        WorkerSettings {
            weight: Some(1.0),
            affinity_cores: Some(vec![0, 60_000]),
            affinity_keys: Some(vec![]),
        },
        WorkerSettings {
            weight: Some(1.0),
            affinity_keys: Some((0..1_025).collect()),
            ..WorkerSettings::default()
        },
    ];
    for wrong in wrong {
        assert!(matches!(
            executor.set_worker(128, &wrong),
            Err(Error::Config { .. })
        ));
        let shown = worker(&executor, 128);
        assert_eq!((shown.weight, &shown.affinity_keys[..]), (2.5, &[7][..]));
        assert!(shown.affinity_cores.is_empty());
    }
    for unknown in [99, 255, 256, u16::MAX] {
        assert!(matches!(
            executor.set_worker(unknown, &good),
            Err(Error::UnknownWorker(_))
        ));
    }
    assert!(
        executor.set_worker(127, &good).is_err(),
        "nothing is placed on the thread of tokio"
    );
    assert_eq!(executor.stats().group(Group::Back).wanted, 3);
    end(executor);
}
