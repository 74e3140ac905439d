//! Closures that borrow.

use crate::*;
use flyball_executor::{ClassSpec, Error};
use std::sync::Mutex;

/// CPU-4: closures read and write what lives on the caller's stack.
#[test]
fn closures_borrow() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let words = ["a", "bb", "ccc", "dddd"].map(String::from);
    let mut lengths = [0; 4];
    let total = AtomicUsize::new(0);
    let returned = normal
        .scope(|scope| {
            for (length, word) in lengths.iter_mut().zip(&words) {
                let total = &total;
                scope.run(move || {
                    *length = word.len();
                    total.fetch_add(word.len(), SeqCst);
                });
            }
            "value"
        })
        .unwrap();
    assert_eq!(returned, "value");
    assert_eq!(lengths, [1, 2, 3, 4]);
    assert_eq!(total.into_inner(), 10);
    assert_eq!(normal.scope(|_| 3).unwrap(), 3, "an empty scope");
    end(executor);
}

/// CPU-4: closures of a scope put further closures in.
#[test]
fn closures_put_in_closures() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let count = AtomicUsize::new(0);
    normal
        .scope(|scope| {
            for _ in 0..10 {
                scope.run(|| {
                    for _ in 0..10 {
                        scope.run(|| {
                            count.fetch_add(1, SeqCst);
                        });
                    }
                });
            }
        })
        .unwrap();
    assert_eq!(count.into_inner(), 100);
    end(executor);
}

fn nest(class: &Class, depth: usize, reached: &AtomicUsize) {
    if depth == 0 {
        return;
    }
    class
        .scope(|scope| {
            scope.run(|| nest(class, depth - 1, reached));
            scope.run(|| {
                reached.fetch_add(1, SeqCst);
            });
        })
        .unwrap();
}

/// CPU-4: scopes nest as deep as the stack allows, also when one worker is all there is.
#[test]
fn nested_deep_on_one_worker() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let inner = normal.clone();
    let reached = normal
        .run(move || {
            let reached = AtomicUsize::new(0);
            nest(&inner, 100, &reached);
            reached.into_inner()
        })
        .join()
        .unwrap();
    assert_eq!(reached, 100);
    end(executor);
}

/// CPU-4: a tree of scopes over all workers.
#[test]
fn nested_wide() {
    fn sum(class: &Class, from: u64, to: u64) -> u64 {
        if to - from <= 4 {
            return (from..to).sum();
        }
        let middle = from.midpoint(to);
        let (mut left, mut right) = (0, 0);
        class
            .scope(|scope| {
                scope.run(|| left = sum(class, from, middle));
                scope.run(|| right = sum(class, middle, to));
            })
            .unwrap();
        left + right
    }
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let inner = normal.clone();
    let total = normal.run(move || sum(&inner, 0, 2_000)).join().unwrap();
    assert_eq!(total, (0..2_000).sum());
    assert_eq!(sum(&normal, 0, 100), (0..100).sum());
    end(executor);
}

/// CPU-4, CPU-16: however scopes nest, tokens are neither lost nor made: others of the class run beside a scope that waits deep
/// inside, and in the end none is out.
#[test]
fn nested_scopes_keep_the_count_of_tokens() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let inner = normal.clone();
    let (send, received) = channel();
    let received = Mutex::new(received);
    let mut outer = normal.run(move || {
        let class = &inner;
        class.scope(|first| {
            first.run(|| {
                class
                    .scope(|second| {
                        second.run(|| {
                            class
                                .scope(|third| {
                                    third.run(|| {
                                        // Needs another worker, which needs a token.
                                        let send = send.clone();
                                        class.execute(move || send.send(()).unwrap()).unwrap();
                                        receive(&received.lock().unwrap());
                                    });
                                })
                                .unwrap();
                        });
                    })
                    .unwrap();
            });
        })
    });
    outer.join().unwrap().unwrap();
    eventually("all tokens are back", || executor.stats().running == 0);
    end(executor);
}

/// CPU-6: `blocking` may be nested, and around scopes: the tokens are all back in the end.
#[test]
fn blocking_nests() {
    use flyball_executor::blocking;
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let inner = normal.clone();
    let value = normal
        .run(move || {
            blocking(|| {
                blocking(|| {
                    inner.scope(|scope| scope.run(|| blocking(|| ()))).unwrap();
                });
                let _ = flyball_executor::checkpoint();
                let _ = std::panic::catch_unwind(|| blocking(|| panic!("inside")));
                4
            })
        })
        .join()
        .unwrap();
    assert_eq!(value, 4);
    eventually("all tokens are back", || executor.stats().running == 0);
    end(executor);
}

/// CPU-3, CPU-4: a panic of one closure is reported; the others have run.
#[test]
fn a_closure_panics() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let ran = AtomicUsize::new(0);
    let outcome = normal.scope(|scope| {
        for n in 0..10 {
            let ran = &ran;
            scope.run(move || {
                ran.fetch_add(1, SeqCst);
                if n % 5 == 0 {
                    panic!("closure of a scope");
                }
            });
        }
    });
    let Err(Error::ScopePanicked { count: 2, first }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(first, "closure of a scope");
    assert_eq!(ran.into_inner(), 10);
    end(executor);
}

/// CPU-4: a panic of the scope's own function is raised again, after all closures have ended.
#[test]
fn the_function_panics() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let ran = AtomicUsize::new(0);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        normal.scope(|scope| {
            for _ in 0..10 {
                scope.run(|| {
                    ran.fetch_add(1, SeqCst);
                });
            }
            panic!("the function");
        })
    }));
    assert!(outcome.is_err());
    assert_eq!(ran.into_inner(), 10);
    end(executor);
}

/// CPU-4: on a thread of another tokio runtime a scope would block what it does not own.
#[tokio::test]
async fn a_foreign_runtimes_thread_is_refused() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let ran = flag();
    let outcome = normal.scope(|scope| scope.run(|| ran.store(true, SeqCst)));
    assert!(matches!(outcome, Err(Error::ForeignRuntime)), "{outcome:?}");
    assert!(!ran.load(SeqCst));
    // As the message says.
    let inner = normal.clone();
    let helped = normal.run(move || inner.scope(|_| 5).unwrap()).await;
    assert_eq!(helped.unwrap(), 5);
    executor.shutdown_async(PATIENCE).await;
}

/// CPU-4: a full queue does not lose closures: the caller runs them, which also bounds what is queued.
#[test]
fn a_full_queue_makes_the_caller_work() {
    let mut config = single();
    config.classes = vec![ClassSpec {
        queue_limit: 2,
        ..ClassSpec::new("tight")
    }];
    let executor = start(config);
    let tight = executor.class("tight").unwrap();
    let gate = hold(&tight);
    let threads = Mutex::new(Vec::new());
    let gate = Mutex::new(Some(gate));
    tight
        .scope(|scope| {
            for _ in 0..10 {
                scope.run(|| threads.lock().unwrap().push(std::thread::current().id()));
            }
            assert!(tight.queued() <= 2);
            gate.lock().unwrap().take().unwrap().open();
        })
        .unwrap();
    let threads = threads.into_inner().unwrap();
    assert_eq!(threads.len(), 10);
    let own = threads
        .iter()
        .filter(|&&thread| thread == std::thread::current().id())
        .count();
    assert_eq!(own, 8);
    end(executor);
}

/// CPU-4, CPU-18: scopes that are open, or begun, while the executor ends all return; each closure ran or was dropped.
#[test]
fn a_shutdown_does_not_leave_a_scope_hanging() {
    for round in 0..20 {
        let executor = start(small());
        let normal = executor.class("normal").unwrap();
        let (begun, has_begun) = channel();
        let scopes: Vec<_> = (0..2)
            .map(|_| {
                let (normal, begun) = (normal.clone(), begun.clone());
                std::thread::spawn(move || {
                    loop {
                        let drops = Drops::default();
                        let mut put_in = 0;
                        let outcome = normal.scope(|scope| {
                            for _ in 0..20 {
                                let guard = drops.guard();
                                scope.run(move || drop(guard));
                                put_in += 1;
                            }
                        });
                        assert_eq!(drops.count(), put_in);
                        let _ = begun.send(());
                        match outcome {
                            Ok(()) => {}
                            Err(Error::ShuttingDown) => return,
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        for _ in 0..round {
            receive(&has_begun);
        }
        executor.shutdown(Duration::ZERO).unwrap();
        for scope in scopes {
            scope.join().unwrap();
        }
    }
}

/// CPU-4, CPU-18: a scope on a worker whose executor ends in the meantime.
#[test]
fn a_scope_on_a_worker_ends_with_the_executor() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let inner = normal.clone();
    let (inside, is_inside) = channel();
    let drops = Drops::default();
    let seen = drops.clone();
    let mut outer = normal.run(move || {
        inner.scope(|scope| {
            for _ in 0..50 {
                let guard = drops.guard();
                let inside = inside.clone();
                scope.run(move || {
                    let _guard = guard;
                    let _ = inside.send(());
                    while flyball_executor::checkpoint().is_ok() {}
                });
            }
        })
    });
    receive(&is_inside);
    let report = executor.shutdown(Duration::ZERO).unwrap();
    assert!(report.left_running.is_empty(), "{report:?}");
    assert!(outer.join().is_err() || outer.is_finished());
    assert_eq!(seen.count(), 50);
}
