//! Faults that were found by attacking the executor, one test each.

use crate::{Bomb, end, eventually, flag, hold, receive, single, small, start};
use flyball_executor::{Class, ClassSpec, Config, Error, Executor, Group, blocking};
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A closure that submits itself again until the flag is raised.
fn refill(class: &Class, stop: &Arc<std::sync::atomic::AtomicBool>) {
    if !stop.load(SeqCst) {
        let (again, stop) = (class.clone(), stop.clone());
        let _ = class.execute(move || refill(&again, &stop));
    }
}

/// CPU-18: scaling the front group leaves the thread that drives tokio alone.
#[test]
fn scaling_down_the_front_group_keeps_timers_alive() {
    let executor = start(small());
    eventually("all are there", || executor.workers().len() == 6);
    executor.scale(Group::Front, 1).unwrap();
    let class = executor.class("interactive").unwrap();
    let (done, is_done) = channel();
    class
        .spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = done.send(());
        })
        .detach();
    receive(&is_done);
    end(executor);
}

/// CPU-18: every worker that is listed may be restarted; the one that drives tokio says that it cannot.
#[test]
fn restarting_every_worker_keeps_timers_alive() {
    let executor = start(small());
    eventually("all are there", || executor.workers().len() == 6);
    for worker in executor.workers() {
        let restarted = executor.restart_worker(worker.id);
        assert_eq!(restarted.is_err(), worker.id == 127, "{restarted:?}");
        assert!(worker.id != 127 || executor.drain_worker(worker.id).is_err());
    }
    let class = executor.class("interactive").unwrap();
    let (done, is_done) = channel();
    class
        .spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = done.send(());
        })
        .detach();
    receive(&is_done);
    end(executor);
}

/// CPU-8: a task with a priority of its own is not shut out by tasks that refill themselves from inside.
#[test]
fn ordered_tasks_are_not_starved_by_refill_from_inside() {
    let executor = start(single());
    let class = executor.class("normal").unwrap();
    let stop = flag();
    refill(&class, &stop);
    // Longer ago than all that a priority is worth.
    let (_never, nothing) = channel::<()>();
    let _ = nothing.recv_timeout(Duration::from_millis(50));
    for priority in [1, -1] {
        let (done, is_done) = channel();
        class
            .task()
            .priority(priority)
            .run(move || done.send(()))
            .detach();
        let served = is_done.recv_timeout(Duration::from_secs(10));
        if served.is_err() {
            stop.store(true, SeqCst);
        }
        served.expect("served within its time");
    }
    stop.store(true, SeqCst);
    end(executor);
}

/// CPU-9: a future that used more than its part goes on beside closures that never end to arrive.
#[test]
fn held_back_futures_are_not_starved_by_closures() {
    let executor = start(single());
    let class = executor.class("normal").unwrap();
    let stop = flag();
    refill(&class, &stop);
    let (done, is_done) = channel();
    class
        .spawn(async move {
            for _ in 0..3 {
                let mut spun = 0u64;
                while spun < 2_000_000 {
                    spun = std::hint::black_box(spun + 1);
                }
                flyball_executor::yield_now().await;
            }
            let _ = done.send(());
        })
        .detach();
    let served = is_done.recv_timeout(Duration::from_secs(10));
    stop.store(true, SeqCst);
    served.expect("the future ends");
    end(executor);
}

/// CPU-2: the limit of a queue holds for tasks with an order of their own, too.
#[test]
fn queue_limit_counts_ordered_tasks() {
    let mut spec = ClassSpec::new("bounded");
    spec.queue_limit = 8;
    let executor = start(Config {
        classes: vec![spec],
        ..single()
    });
    let class = executor.class("bounded").unwrap();
    let gate = hold(&class);
    let mut handles = Vec::new();
    for _ in 0..50 {
        handles.push(class.task().priority(3).run(|| ()));
    }
    let refused = handles
        .iter_mut()
        .filter(|handle| handle.status() == flyball_executor::Status::Rejected)
        .count();
    assert_eq!(refused, 42);
    assert!(class.execute(|| ()).is_err());
    gate.open();
    drop(handles);
    end(executor);
}

/// CPU-6: a closure that says twice that it blocks gives back one place, not two.
#[test]
fn nested_blocking_gives_back_one_token() {
    let executor = start(single());
    let class = executor.class("normal").unwrap();
    let (inside, is_inside) = channel();
    let (open, wait) = channel::<()>();
    let scoped = class.clone();
    let mut handle = class.run(move || {
        blocking(|| {
            blocking(|| {
                let _ = scoped.scope(|scope| scope.run(|| ()));
                let _ = flyball_executor::checkpoint();
                let _ = inside.send(());
                let _ = wait.recv();
            })
        })
    });
    receive(&is_inside);
    assert_eq!(executor.stats().running, 0);
    open.send(()).unwrap();
    handle.join().unwrap();
    end(executor);
}

/// CPU-18: what a worker had taken along when it got stuck is cancelled by a shutdown, and does not run after it.
#[test]
fn shutdown_cancels_what_a_stuck_worker_holds() {
    let executor = start(Config {
        force_after: Duration::from_millis(20),
        ..single()
    });
    let class = executor.class("normal").unwrap();
    let gate = hold(&class);
    let (inside, is_inside) = channel();
    let (open, wait) = channel::<()>();
    class
        .run(move || {
            let _ = inside.send(());
            let _ = wait.recv();
        })
        .detach();
    let ran = Arc::new(AtomicUsize::new(0));
    let mut behind: Vec<_> = (0..20)
        .map(|_| {
            let ran = ran.clone();
            class.run(move || ran.fetch_add(1, SeqCst))
        })
        .collect();
    gate.open();
    receive(&is_inside);
    let report = executor.shutdown(Duration::ZERO).unwrap();
    assert_eq!(report.left_running.len(), 1, "{report:?}");
    open.send(()).unwrap();
    for handle in &mut behind {
        let _ = handle.join();
    }
    assert_eq!(ran.load(SeqCst), 0);
}

/// CPU-18: futures that wake each other as they are cancelled do not pile up on the stack of whoever cancels.
#[test]
fn shutdown_of_a_long_chain_of_futures_does_not_recurse() {
    let executor = start(single());
    let class = executor.class("normal").unwrap();
    let (first, mut wait) = tokio::sync::oneshot::channel::<()>();
    for _ in 0..50_000 {
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        let before = std::mem::replace(&mut wait, receive);
        class
            .spawn(async move {
                let _send = send;
                let _ = before.await;
                std::future::pending::<()>().await;
            })
            .detach();
    }
    eventually("all wait", || executor.stats().waiting_futures == 50_000);
    let report = executor.shutdown(Duration::ZERO).unwrap();
    assert!(report.left_running.is_empty());
    drop((first, wait));
}

/// CPU-3: a waker may be called under a lock that the future's drop takes, also while the executor ends.
#[test]
fn waking_under_a_lock_never_drops_the_future_there() {
    struct Takes(Arc<Mutex<Vec<std::task::Waker>>>);
    impl Drop for Takes {
        fn drop(&mut self) {
            assert!(self.0.try_lock().is_ok(), "dropped inside wake");
            DROPPED_OUTSIDE.store(1, SeqCst);
        }
    }
    static DROPPED_OUTSIDE: AtomicUsize = AtomicUsize::new(0);
    struct WakesUnderLock(Arc<Mutex<Vec<std::task::Waker>>>);
    impl Drop for WakesUnderLock {
        fn drop(&mut self) {
            let waiting = self.0.lock().unwrap();
            waiting.iter().for_each(std::task::Waker::wake_by_ref);
        }
    }
    let executor = start(single());
    let class = executor.class("normal").unwrap();
    let waiting = Arc::new(Mutex::new(Vec::new()));
    let wakes = WakesUnderLock(waiting.clone());
    // Registered first, so that it is cancelled first.
    class
        .spawn(async move {
            let _wakes = wakes;
            std::future::pending::<()>().await;
        })
        .detach();
    eventually("the first waits", || executor.stats().waiting_futures == 1);
    let takes = Takes(waiting.clone());
    class
        .spawn(std::future::poll_fn(move |cx| {
            takes.0.lock().unwrap().push(cx.waker().clone());
            std::task::Poll::<()>::Pending
        }))
        .detach();
    eventually("both wait", || executor.stats().waiting_futures == 2);
    let _ = executor.shutdown(Duration::ZERO).unwrap();
    assert_eq!(DROPPED_OUTSIDE.load(SeqCst), 1);
    waiting.lock().unwrap().clear();
}

/// CPU-1: a setting out of range is an error inside a runtime, too, and no panic.
#[test]
fn a_refused_start_inside_a_runtime_is_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let started = runtime.block_on(async {
        Executor::start(Config {
            batch_size: 0,
            ..Config::default()
        })
    });
    assert!(matches!(started, Err(Error::Config { .. })));
}

/// CPU-4: closures that were taken before the iterator panicked run all the same.
#[test]
fn a_panicking_iterator_loses_no_closure() {
    let executor = start(single());
    let class = executor.class("normal").unwrap();
    let (ran, has_run) = channel();
    let work = (0..7).map(|number| {
        assert!(number < 5, "the iterator ends badly");
        let ran = ran.clone();
        move || ran.send(number).unwrap()
    });
    let outcome =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| class.execute_many(work)));
    assert!(outcome.is_err());
    for number in 0..5 {
        assert_eq!(receive(&has_run), number);
    }
    end(executor);
}

/// CPU-4: a payload that panics when it is dropped does not keep a scope from ending.
#[test]
fn a_scope_ends_though_a_payload_panics() {
    let executor = start(single());
    let class = executor.class("normal").unwrap();
    let result = class.scope(|scope| {
        for _ in 0..3 {
            scope.run(|| std::panic::panic_any(Bomb));
        }
    });
    match result {
        Err(Error::ScopePanicked { count, .. }) => assert_eq!(count, 3),
        other => panic!("{other:?}"),
    }
    end(executor);
}

/// CPU-12: untagged tasks are not shut out by tagged ones that refill themselves.
#[test]
fn untagged_tasks_are_not_starved_by_tagged_ones() {
    let executor = start(Config {
        strategy: flyball_executor::Strategy::RoundRobin,
        ..single()
    });
    let class = executor.class("normal").unwrap();
    let stop = flag();
    for _ in 0..150 {
        refill(&class, &stop);
    }
    executor.set_strategy(flyball_executor::Strategy::Pull);
    let served = {
        let (done, is_done) = channel();
        executor.set_strategy(flyball_executor::Strategy::RoundRobin);
        class.execute(move || done.send(()).unwrap()).unwrap();
        is_done.recv_timeout(Duration::from_secs(10))
    };
    stop.store(true, SeqCst);
    served.expect("served");
    end(executor);
}

/// CPU-6: a future that runs on the thread of the I/O driver cannot be kept by a tokio task that blocks there.
#[test]
fn a_blocking_tokio_task_does_not_keep_a_woken_future() {
    let executor = start(small());
    let class = executor.class("interactive").unwrap();
    let inner = class.clone();
    let (done, is_done) = channel();
    class
        .spawn(async move {
            tokio::spawn(async move {
                let (reply, replied) = channel();
                inner.spawn(async move { reply.send(()) }).detach();
                let _ = done.send(replied.recv_timeout(Duration::from_secs(10)).is_ok());
            });
        })
        .detach();
    assert!(receive(&is_done));
    end(executor);
}

/// CPU-18: durations as long as there are do not upset the supervisor.
#[test]
fn the_longest_durations_are_accepted() {
    let executor = start(Config {
        start_delay: Duration::MAX,
        stuck_after: Duration::MAX,
        ..small()
    });
    let class = executor.class("batch").unwrap();
    let mut handle = class
        .task()
        .deadline(Duration::MAX)
        .timeout(Duration::MAX)
        .run(|| 1);
    assert_eq!(handle.join().unwrap(), 1);
    let mut handle = class
        .task()
        .deadline(Duration::MAX)
        .timeout(Duration::MAX)
        .spawn(async { 2 });
    assert_eq!(handle.join().unwrap(), 2);
    assert!(
        !executor
            .events()
            .iter()
            .any(|event| event.reason.contains("panick"))
    );
    let report = executor.shutdown(Duration::MAX).unwrap();
    assert!(report.left_running.is_empty());
}

/// CPU-6: a long closure gives way to a higher rank whose class was known to have work when the closure began, under fair shares.
#[test]
fn a_checkpoint_gives_way_to_what_waited_before_it_began() {
    let executor = start(Config {
        algorithm: flyball_executor::Algorithm::RoundRobin,
        parallelism: 1,
        back_workers: 2,
        ..small()
    });
    let (batch, normal) = (
        executor.class("batch").unwrap(),
        executor.class("normal").unwrap(),
    );
    for _ in 0..20 {
        let gate = hold(&normal);
        let stop = flag();
        let seen = stop.clone();
        let mut long = batch
            .run(move || while !seen.load(SeqCst) && flyball_executor::checkpoint().is_ok() {});
        let mut short = normal.run(move || stop.store(true, SeqCst));
        gate.open();
        short.join().unwrap();
        long.join().unwrap();
    }
    end(executor);
}
