//! Algorithm, strategy, classes and parallelism changed while there is work.

use crate::*;
use flyball_executor::{Algorithm, Strategy};

/// CPU-7, CPU-8, CPU-9, CPU-10: every algorithm runs everything of every class.
#[test]
fn every_algorithm_runs_everything() {
    for algorithm in Algorithm::ALL {
        let executor = start(Config {
            algorithm,
            ..small()
        });
        assert_eq!(executor.stats().algorithm, algorithm);
        let ran = Arc::new(AtomicUsize::new(0));
        let mut handles = Vec::new();
        for _ in 0..100 {
            for class in executor.classes() {
                let (first, second) = (ran.clone(), ran.clone());
                handles.push(class.run(move || {
                    first.fetch_add(1, SeqCst);
                }));
                handles.push(class.spawn(async move {
                    flyball_executor::yield_now().await;
                    second.fetch_add(1, SeqCst);
                }));
            }
        }
        for handle in &mut handles {
            handle.join().unwrap();
        }
        end(executor);
        assert_eq!(ran.load(SeqCst), 1_000, "{algorithm}");
    }
}

/// CPU-7 to CPU-10, CPU-12: algorithm, strategy, parallelism, shares and sizes change all the time while tasks of every nature
/// come and go; none is lost and none runs twice.
#[test]
fn nothing_is_lost_by_switching() {
    const EACH: usize = 2_000;
    let executor = start(small());
    let counts: Vec<Arc<AtomicUsize>> = (0..3 * EACH).map(|_| Arc::default()).collect();
    let done = flag();
    let producers: Vec<_> = (0..3)
        .map(|part| {
            let classes = executor.classes();
            let counts: Vec<_> = counts[part * EACH..(part + 1) * EACH].to_vec();
            std::thread::spawn(move || {
                let mut handles = Vec::new();
                for (n, count) in counts.into_iter().enumerate() {
                    let class = classes[n % classes.len()].clone();
                    let work = move || {
                        count.fetch_add(1, SeqCst);
                    };
                    match n % 5 {
                        0 => handles.push(class.run(work)),
                        1 => handles.push(class.spawn(async move {
                            flyball_executor::yield_now().await;
                            work();
                        })),
                        2 => class.execute(work).unwrap(),
                        3 => {
                            let inner = class.clone();
                            class.execute(move || inner.execute(work).unwrap()).unwrap();
                        }
                        _ => {
                            let key = (n % 11) as u64;
                            let priority = (n % 7) as i8 - 3;
                            handles
                                .push(class.task().affinity_key(key).priority(priority).run(work));
                        }
                    }
                }
                for mut handle in handles {
                    handle.join().unwrap();
                }
            })
        })
        .collect();
    let switching = {
        let done = done.clone();
        move || {
            let mut n = 0;
            while !done.load(SeqCst) {
                executor.set_algorithm(Algorithm::ALL[n % 4]);
                executor.set_strategy(Strategy::ALL[n % 12]);
                executor.set_parallelism(1 + n % 4).unwrap();
                let mut spec = executor.class("normal").unwrap().spec();
                spec.shares = 1 + (n % 100) as u32;
                executor.set_class(spec).unwrap();
                if n % 10 == 0 {
                    executor.rebalance();
                    let workers = 1 + (n / 10) % 3;
                    executor
                        .scale(flyball_executor::Group::Back, workers)
                        .unwrap();
                    executor
                        .scale(flyball_executor::Group::Front, workers)
                        .unwrap();
                }
                n += 1;
                std::thread::yield_now();
            }
            executor
        }
    };
    let switcher = std::thread::spawn(switching);
    for producer in producers {
        producer.join().unwrap();
    }
    done.store(true, SeqCst);
    let executor = switcher.join().unwrap();
    end(executor);
    for (n, count) in counts.iter().enumerate() {
        assert_eq!(count.load(SeqCst), 1, "task {n}");
    }
}
