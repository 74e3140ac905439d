//! Bulkheads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flyball_limit::{Bulkhead, BulkheadConfig, Crowded};

use crate::{advance, clock, settle};

const WAIT: Duration = Duration::from_millis(100);

/// TASK-9: places are handed on in order of arrival; the queue and the wait are bounded.
#[tokio::test(start_paused = true)]
async fn places_are_handed_on_in_order() {
    let (clock, source) = clock();
    let bulkhead =
        Bulkhead::with_clock(BulkheadConfig::new(1).with_queue(2, WAIT), source).unwrap();
    let first = bulkhead.enter().await.unwrap();
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    for name in ["second", "third"] {
        let (bulkhead, sender) = (bulkhead.clone(), sender.clone());
        tokio::spawn(async move {
            let _place = bulkhead.enter().await.unwrap();
            sender.send(name).unwrap();
        });
        settle().await;
    }
    assert_eq!(
        bulkhead.enter().await.unwrap_err(),
        Crowded::Full {
            concurrency: 1,
            waiting: 2
        }
    );
    assert!(bulkhead.try_enter().is_none());
    advance(&clock, WAIT / 2).await;
    drop(first);
    assert_eq!(order.recv().await, Some("second"));
    assert_eq!(order.recv().await, Some("third"));
    settle().await;
    assert_eq!(bulkhead.stats().in_flight, 0);
    assert!(bulkhead.try_enter().is_some());
}

/// TASK-9: who waited as long as it may is told.
#[tokio::test(start_paused = true)]
async fn waiting_ends() {
    let (clock, source) = clock();
    let bulkhead =
        Bulkhead::with_clock(BulkheadConfig::new(1).with_queue(2, WAIT), source).unwrap();
    let place = bulkhead.enter().await.unwrap();
    let waiter = tokio::spawn({
        let bulkhead = bulkhead.clone();
        async move { bulkhead.enter().await }
    });
    settle().await;
    advance(&clock, WAIT).await;
    assert_eq!(waiter.await.unwrap().unwrap_err(), Crowded::TimedOut(WAIT));
    assert_eq!(bulkhead.stats().waiting, 0);
    drop(place);
    assert_eq!(bulkhead.stats().in_flight, 0);
}

/// TASK-9: a waiter that is dropped leaves the line, also when its place is on its way to it: then the next has it.
#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_loses_no_place() {
    let (_clock, source) = clock();
    let bulkhead =
        Bulkhead::with_clock(BulkheadConfig::new(1).with_queue(3, WAIT), source).unwrap();
    let place = bulkhead.enter().await.unwrap();
    let mut waiters: Vec<_> = (0..3).map(|_| Box::pin(bulkhead.enter())).collect();
    for waiter in &mut waiters {
        // Polled once, so that it stands in the line.
        let poll = std::future::poll_fn(|context| {
            std::task::Poll::Ready(waiter.as_mut().poll(context).is_pending())
        });
        assert!(poll.await);
    }
    assert_eq!(bulkhead.stats().waiting, 3);
    drop(waiters.remove(1));
    assert_eq!(bulkhead.stats().waiting, 2);
    drop(place);
    assert_eq!(bulkhead.stats().in_flight, 1, "named, not yet noticed");
    drop(waiters.remove(0));
    let last = waiters.remove(0).await.unwrap();
    assert_eq!(bulkhead.stats().in_flight, 1);
    drop(last);
    assert_eq!(bulkhead.stats().in_flight, 0);
    assert_eq!(bulkhead.stats().waiting, 0);
}

/// TASK-9: places are added and taken away while calls run and wait.
#[tokio::test(start_paused = true)]
async fn its_size_changes_while_it_works() {
    let (_clock, source) = clock();
    let config = BulkheadConfig::new(1).with_queue(3, WAIT);
    let bulkhead = Bulkhead::with_clock(config, source).unwrap();
    let place = bulkhead.enter().await.unwrap();
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let bulkhead = bulkhead.clone();
            tokio::spawn(async move { bulkhead.enter().await.unwrap() })
        })
        .collect();
    settle().await;
    let wider = BulkheadConfig {
        concurrency: 4,
        ..config
    };
    bulkhead.set_config(wider).unwrap();
    let mut places = vec![place];
    for waiter in waiters {
        places.push(waiter.await.unwrap());
    }
    bulkhead.set_config(config).unwrap();
    for left in (1..4).rev() {
        places.pop();
        assert_eq!(bulkhead.stats().in_flight, left);
        assert!(bulkhead.try_enter().is_none());
    }
    places.pop();
    assert!(bulkhead.try_enter().is_some());
}

/// TASK-9: threads and tasks share the places; never more than the bound are in.
#[test]
fn threads_and_tasks_share_the_places() {
    let config = BulkheadConfig::new(3).with_queue(100, Duration::from_secs(600));
    let bulkhead = Bulkhead::new(config).unwrap();
    let inside = Arc::new(AtomicU32::new(0));
    let work = {
        let inside = Arc::clone(&inside);
        move || {
            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
            std::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let _place = bulkhead.enter_blocking().unwrap();
                    work();
                }
            });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let (bulkhead, work) = (bulkhead.clone(), work.clone());
                    tokio::spawn(async move {
                        for _ in 0..100 {
                            let _place = bulkhead.enter().await.unwrap();
                            work();
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
    let stats = bulkhead.stats();
    assert_eq!(
        (stats.in_flight, stats.waiting, stats.admitted),
        (0, 0, 1_600)
    );
}

/// CPU-30: a bulkhead that observes lets everybody in at once and counts as if it did not: who would have waited has a place from when it would have had one,
/// who would have been refused has none.
#[tokio::test(start_paused = true)]
async fn observing_lets_everybody_in() {
    let (clock, source) = clock();
    let config = BulkheadConfig::new(1).with_queue(1, WAIT).observing();
    let bulkhead = Bulkhead::with_clock(config, source).unwrap();
    let first = bulkhead.enter().await.unwrap();
    let waits = bulkhead.enter().await.unwrap();
    let refused = bulkhead.enter_blocking().unwrap();
    let at_once = bulkhead.try_enter().unwrap();
    let stats = bulkhead.stats();
    assert_eq!((stats.in_flight, stats.waiting), (1, 1));
    assert_eq!((stats.admitted, stats.full), (1, 2));
    drop((refused, at_once));
    assert_eq!(bulkhead.stats().in_flight, 1);
    // Its place goes to who would have waited.
    drop(first);
    let stats = bulkhead.stats();
    assert_eq!((stats.in_flight, stats.waiting, stats.admitted), (1, 0, 2));
    drop(waits);
    assert_eq!(bulkhead.stats().in_flight, 0);
    // One that would have waited for too long has given up, and one that ended before its turn.
    let first = bulkhead.enter().await.unwrap();
    let late = bulkhead.enter().await.unwrap();
    advance(&clock, WAIT).await;
    let early = bulkhead.enter().await.unwrap();
    drop((early, first, late));
    let stats = bulkhead.stats();
    assert_eq!((stats.in_flight, stats.waiting, stats.gave_up), (0, 0, 2));
}

/// CPU-30: who waits when a bulkhead begins to observe comes in, and whoever is in leaves as ever when it no longer does.
#[tokio::test(start_paused = true)]
async fn observing_begins_and_ends() {
    let (_clock, source) = clock();
    let config = BulkheadConfig::new(1).with_queue(1, WAIT);
    let bulkhead = Bulkhead::with_clock(config, source).unwrap();
    let first = bulkhead.enter().await.unwrap();
    let waiter = tokio::spawn({
        let bulkhead = bulkhead.clone();
        async move { bulkhead.enter().await.unwrap() }
    });
    settle().await;
    assert_eq!(bulkhead.stats().waiting, 1);
    bulkhead.set_config(config.observing()).unwrap();
    let second = waiter.await.unwrap();
    let beside = bulkhead.enter().await.unwrap();
    bulkhead.set_config(config).unwrap();
    assert!(bulkhead.try_enter().is_none());
    drop((first, second, beside));
    assert_eq!(bulkhead.stats().in_flight, 0);
    assert!(bulkhead.try_enter().is_some());
}
