//! Random operations from several threads: every task has one outcome, runs at most once, and is dropped once.

use crate::*;
use flyball_core::rng::Rng;
use flyball_executor::{Algorithm, Rejection, Strategy, TaskError, checkpoint, yield_now};

/// What is known of one task.
struct Told {
    ran: Arc<AtomicUsize>,
    handle: Option<Handle<usize>>,
    /// It was asked to end, or may end by a timeout or deadline.
    may_fail: bool,
}

#[derive(Default)]
struct Sums {
    finished: usize,
    panicked: usize,
    cancelled: usize,
    timed_out: usize,
    missed: usize,
    refused: usize,
    let_go: usize,
}

/// One thread's part.
fn part(executor_classes: Vec<Class>, seed: u64, operations: usize, drops: Drops) -> Sums {
    let mut rng = Rng::seeded(seed);
    let mut tasks: Vec<Told> = Vec::new();
    let mut sums = Sums::default();
    for number in 0..operations {
        let class = executor_classes[rng.below(executor_classes.len() as u64) as usize].clone();
        let ran = Arc::new(AtomicUsize::new(0));
        let guard = drops.guard();
        let count = ran.clone();
        let work = move || {
            let _guard = guard;
            count.fetch_add(1, SeqCst);
            number
        };
        let mut may_fail = false;
        let task = class
            .task()
            .priority(rng.below(7) as i8 - 3)
            .affinity_key(rng.below(5))
            .kind(["a", "b", "c"][rng.below(3) as usize]);
        let handle = match rng.below(12) {
            0..=2 => class.run(work),
            3 => task.run(work),
            4 | 5 => class.spawn(async move {
                yield_now().await;
                work()
            }),
            6 => task.spawn(async move {
                tokio::time::sleep(Duration::from_micros(50)).await;
                work()
            }),
            7 => {
                let inner = class.clone();
                class.spawn(async move { inner.run(work).await.unwrap() })
            }
            8 => {
                let inner = class.clone();
                class.run(move || {
                    let mut value = 0;
                    inner.scope(|scope| scope.run(|| value = work())).unwrap();
                    value
                })
            }
            9 => {
                may_fail = true;
                task.timeout(Duration::from_micros(1 + rng.below(200)))
                    .spawn(async move {
                        tokio::time::sleep(Duration::from_micros(100)).await;
                        work()
                    })
            }
            10 => {
                may_fail = true;
                task.deadline(Duration::from_micros(1 + rng.below(2_000)))
                    .run(work)
            }
            _ => {
                may_fail = true;
                class.run(move || {
                    let _work = work;
                    panic!("expected");
                })
            }
        };
        tasks.push(Told {
            ran,
            handle: Some(handle),
            may_fail,
        });
        let which = rng.below(tasks.len() as u64) as usize;
        let told = &mut tasks[which];
        match rng.below(20) {
            0 => {
                if let Some(handle) = &told.handle {
                    told.may_fail |= handle.cancel();
                }
            }
            1 => drop(told.handle.take()),
            2 => {
                if let Some(handle) = told.handle.take() {
                    handle.detach();
                }
            }
            3 => {
                let (inside, is_inside) = channel();
                let guard = drops.guard();
                let handle = class.run(move || {
                    let _guard = guard;
                    let _ = inside.send(());
                    while checkpoint().is_ok() {}
                    0
                });
                receive(&is_inside);
                drop(handle);
                sums.let_go += 1;
            }
            _ => {}
        }
    }
    for told in tasks {
        let runs = |outcome: &str| {
            let runs = told.ran.load(SeqCst);
            assert!(runs <= 1, "{outcome}: ran {runs} times");
            runs
        };
        let Some(mut handle) = told.handle else {
            sums.let_go += 1;
            continue;
        };
        match handle.join() {
            Ok(_) => {
                assert_eq!(runs("finished"), 1);
                sums.finished += 1;
            }
            Err(TaskError::Panicked(_)) => {
                assert_eq!(runs("panicked"), 0);
                sums.panicked += 1;
            }
            Err(TaskError::Cancelled) => {
                runs("cancelled");
                assert!(told.may_fail);
                sums.cancelled += 1;
            }
            Err(TaskError::TimedOut) => {
                assert!(told.may_fail);
                sums.timed_out += 1;
            }
            Err(TaskError::DeadlineMissed) => {
                assert!(told.may_fail && runs("missed") == 0);
                sums.missed += 1;
            }
            Err(TaskError::Rejected(Rejection::DeadlineUnmeetable { .. })) => {
                assert!(told.may_fail && runs("refused") == 0);
                sums.refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(matches!(handle.join(), Err(TaskError::Taken)));
    }
    sums
}

/// CPU-3, CPU-12, CPU-13, CPU-18: seeded random operations from three threads while a fourth switches algorithms, strategies
/// and sizes.
#[test]
fn every_task_has_one_outcome() {
    const OPERATIONS: usize = 1_500;
    for seed in 1..=3 {
        let executor = start(Config {
            back_workers: 4,
            ..small()
        });
        let drops = Drops::default();
        let threads: Vec<_> = (0..3)
            .map(|part_number| {
                let (classes, drops) = (executor.classes(), drops.clone());
                std::thread::spawn(move || {
                    part(classes, seed * 1_000 + part_number, OPERATIONS, drops)
                })
            })
            .collect();
        let mut rng = Rng::seeded(seed);
        while !threads.iter().all(|thread| thread.is_finished()) {
            match rng.below(6) {
                0 => executor.set_algorithm(Algorithm::ALL[rng.below(4) as usize]),
                1 => executor.set_strategy(Strategy::ALL[rng.below(12) as usize]),
                2 => executor.set_parallelism(1 + rng.below(4) as usize).unwrap(),
                3 => executor
                    .scale(flyball_executor::Group::Back, 1 + rng.below(4) as usize)
                    .unwrap(),
                4 => {
                    let _ = executor.restart_worker(128 + rng.below(4) as u16);
                }
                _ => {
                    executor.rebalance();
                }
            }
            std::thread::park_timeout(Duration::from_micros(200));
        }
        let (mut outcomes, mut let_go) = (0, 0);
        for thread in threads {
            let sums = thread.join().unwrap();
            outcomes += sums.finished + sums.panicked + sums.cancelled;
            outcomes += sums.timed_out + sums.missed + sums.refused;
            let_go += sums.let_go;
            assert!(sums.finished > OPERATIONS / 3);
        }
        assert!(outcomes + let_go >= 3 * OPERATIONS);
        let report = executor.shutdown(PATIENCE).unwrap();
        assert!(report.left_running.is_empty(), "{report:?}");
        assert_eq!(report.cancelled, 0, "{report:?}");
        let dropped = drops.count();
        assert!(
            dropped >= 3 * OPERATIONS && dropped == outcomes + let_go,
            "seed {seed}: {dropped} dropped, {outcomes} outcomes, {let_go} let go"
        );
    }
}
