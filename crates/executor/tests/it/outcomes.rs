//! How tasks end, and what their handles say.

use crate::*;
use flyball_executor::{Interrupted, Rejection, Status, TaskError, checkpoint, yield_now};
use std::panic::panic_any;

/// CPU-3: a closure's and a future's value; a handle gives it once.
#[test]
fn finished() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let mut closure = normal.run(|| 6 * 7);
    assert_eq!(closure.join().unwrap(), 42);
    assert!(matches!(closure.join(), Err(TaskError::Taken)));
    assert!(matches!(closure.try_result(), Some(Err(TaskError::Taken))));
    assert_eq!(closure.status(), Status::Ended);
    assert!(!closure.cancel());
    let mut future = normal.spawn(async {
        yield_now().await;
        "done"
    });
    assert_eq!(future.join().unwrap(), "done");
    let many: Vec<usize> = normal
        .run_many((0..100).map(|n| move || n * n))
        .iter_mut()
        .map(|handle| handle.join().unwrap())
        .collect();
    assert_eq!(many, (0..100).map(|n| n * n).collect::<Vec<_>>());
    end(executor);
}

/// CPU-3: handles are awaited, on workers and elsewhere.
#[tokio::test]
async fn finished_and_awaited() {
    let executor = start(small());
    let (normal, front) = (
        executor.class("normal").unwrap(),
        executor.class("interactive").unwrap(),
    );
    let inner = normal.run(|| 20);
    let outer = front.spawn(async move { inner.await.unwrap() + 1 });
    assert_eq!(outer.await.unwrap(), 21);
    executor.shutdown_async(PATIENCE).await;
}

/// CPU-3: the status follows a task's life.
#[test]
fn status_over_a_life() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    assert_eq!(gate.handle.status(), Status::Running);
    let (wake, woken) = tokio::sync::oneshot::channel::<()>();
    let mut future = normal.spawn(async move { woken.await.is_ok() });
    assert_eq!(future.status(), Status::Queued);
    assert!(!future.is_finished());
    gate.open();
    eventually("the future waits", || future.status() == Status::Waiting);
    assert!(future.try_result().is_none());
    wake.send(()).unwrap();
    eventually("the future ends", || future.is_finished());
    assert!(future.try_result().unwrap().unwrap());
    end(executor);
}

/// CPU-3: a panic's payload is kept, a message can be read, and it can be raised again.
#[test]
fn panicked_with_the_payload_kept() {
    #[derive(Debug, PartialEq)]
    struct Reason(u32);
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let Err(TaskError::Panicked(payload)) = normal.run(|| panic_any(Reason(7))).join() else {
        panic!("another outcome");
    };
    assert_eq!(payload.message(), None);
    assert_eq!(payload.to_string(), "a value that is no text");
    assert_eq!(
        *payload.into_inner().downcast::<Reason>().unwrap(),
        Reason(7)
    );
    let error = normal
        .spawn(async {
            yield_now().await;
            let nothing = "text";
            panic!("formatted {nothing}");
        })
        .join()
        .unwrap_err();
    assert_eq!(error.to_string(), "the task panicked: formatted text");
    end(executor);
}

/// CPU-3: a queued closure that is cancelled never runs, and its captures are dropped at once.
#[test]
fn cancelled_while_queued() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let (ran, drops) = (flag(), Drops::default());
    let submit = || {
        let (ran, guard) = (ran.clone(), drops.guard());
        normal.run(move || {
            let _guard = guard;
            ran.store(true, SeqCst);
        })
    };
    let mut cancelled = submit();
    assert!(cancelled.cancel());
    assert_eq!(drops.count(), 1, "dropped by the one who cancelled");
    assert!(!cancelled.cancel(), "only once");
    assert_eq!(cancelled.status(), Status::Ended);
    drop(submit());
    assert_eq!(drops.count(), 2, "dropping the handle cancels");
    gate.open();
    assert!(matches!(cancelled.join(), Err(TaskError::Cancelled)));
    end(executor);
    assert!(!ran.load(SeqCst));
}

/// CPU-3: a queued future that is cancelled is never polled.
#[test]
fn cancelled_before_the_first_poll() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let (polled, drops) = (flag(), Drops::default());
    let mut future = {
        let (polled, guard) = (polled.clone(), drops.guard());
        normal.spawn(async move {
            let _guard = guard;
            polled.store(true, SeqCst);
        })
    };
    assert!(future.cancel());
    assert_eq!(drops.count(), 1);
    gate.open();
    assert!(matches!(future.join(), Err(TaskError::Cancelled)));
    end(executor);
    assert!(!polled.load(SeqCst));
}

/// CPU-3: a running closure learns at a checkpoint that it was cancelled, and whatever it returns, the handle says so.
#[test]
fn cancelled_at_a_checkpoint() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let (inside, is_inside) = channel();
    let (told, was_told) = channel();
    let mut handle = normal.run(move || {
        inside.send(()).unwrap();
        let why = loop {
            if let Err(why) = checkpoint() {
                break why;
            }
        };
        told.send(why).unwrap();
        "a value that nobody gets"
    });
    receive(&is_inside);
    assert!(handle.cancel());
    assert!(!handle.cancel(), "asked for already");
    assert_eq!(receive(&was_told), Interrupted::Cancelled);
    assert!(matches!(handle.join(), Err(TaskError::Cancelled)));
    end(executor);
}

/// CPU-3: a closure that was cancelled while it ran and never looked gives its value.
#[test]
fn a_closure_that_does_not_look_finishes() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let mut gate = hold(&normal);
    assert!(gate.handle.cancel());
    gate.open.send(()).unwrap();
    assert!(gate.handle.join().is_ok());
    end(executor);
}

/// CPU-3: a waiting future that is cancelled is dropped at once; one in the middle of a poll at its next await.
#[test]
fn cancelled_at_an_await() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let drops = Drops::default();

    let guard = drops.guard();
    let mut waiting = normal.spawn(async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    eventually("it waits", || waiting.status() == Status::Waiting);
    assert!(waiting.cancel());
    assert_eq!(drops.count(), 1, "dropped by the one who cancelled");
    assert!(matches!(waiting.join(), Err(TaskError::Cancelled)));

    let (open, wait) = channel::<()>();
    let (inside, is_inside) = channel();
    let guard = drops.guard();
    let passed = flag();
    let mut polled = {
        let passed = passed.clone();
        normal.spawn(async move {
            let _guard = guard;
            inside.send(()).unwrap();
            let _ = wait.recv();
            yield_now().await;
            passed.store(true, SeqCst);
        })
    };
    receive(&is_inside);
    assert!(polled.cancel());
    assert_eq!(drops.count(), 1, "still in its poll");
    open.send(()).unwrap();
    assert!(matches!(polled.join(), Err(TaskError::Cancelled)));
    assert_eq!(drops.count(), 2);
    assert!(!passed.load(SeqCst));
    end(executor);
}

/// CPU-3: a task that runs past its timeout: a closure sees it at a checkpoint, a future at an await.
#[test]
fn timed_out() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let (told, was_told) = channel();
    let mut closure = normal
        .task()
        .timeout(Duration::from_millis(2))
        .run(move || {
            loop {
                if let Err(why) = checkpoint() {
                    return told.send(why).unwrap();
                }
            }
        });
    assert!(matches!(closure.join(), Err(TaskError::TimedOut)));
    assert_eq!(receive(&was_told), Interrupted::TimedOut);
    let drops = Drops::default();
    let guard = drops.guard();
    let mut future = normal
        .task()
        .timeout(Duration::from_millis(2))
        .spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
    assert!(matches!(future.join(), Err(TaskError::TimedOut)));
    assert_eq!(drops.count(), 1);
    let mut quick = normal.task().timeout(PATIENCE).spawn(async { 5 });
    assert_eq!(quick.join().unwrap(), 5);
    end(executor);
}

/// CPU-3: a task whose deadline passes while it waits for a worker never runs.
#[test]
fn deadline_missed() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let (ran, drops) = (flag(), Drops::default());
    let mut closure = {
        let (ran, guard) = (ran.clone(), drops.guard());
        normal
            .task()
            .deadline(Duration::from_nanos(1))
            .run(move || {
                let _guard = guard;
                ran.store(true, SeqCst);
            })
    };
    let mut future = {
        let ran = ran.clone();
        normal
            .task()
            .deadline(Duration::from_nanos(1))
            .spawn(async move { ran.store(true, SeqCst) })
    };
    let mut in_time = normal.task().deadline(PATIENCE).run(|| 1);
    gate.open();
    assert!(matches!(closure.join(), Err(TaskError::DeadlineMissed)));
    assert!(matches!(future.join(), Err(TaskError::DeadlineMissed)));
    assert_eq!(in_time.join().unwrap(), 1);
    assert_eq!(drops.count(), 1);
    assert!(!ran.load(SeqCst));
    end(executor);
}

/// CPU-3, CPU-2: a full queue gives the work back untouched, says why, and takes more when there is room again.
#[test]
fn rejected_by_a_full_queue() {
    let mut config = single();
    config.classes = vec![flyball_executor::ClassSpec {
        queue_limit: 3,
        ..flyball_executor::ClassSpec::new("tight")
    }];
    let executor = start(config);
    let tight = executor.class("tight").unwrap();
    let gate = hold(&tight);
    let mut accepted: Vec<Handle<i32>> = (0..3).map(|n| tight.run(move || n)).collect();
    let back = tight.task().try_run(|| 7).unwrap_err();
    assert!(
        matches!(&back.reason, Rejection::QueueFull { class, limit: 3 } if &**class == "tight"),
        "{back:?}"
    );
    assert_eq!((back.work)(), 7, "the closure came back");
    let future = tight.task().try_spawn(async { 8 }).unwrap_err().work;
    assert_eq!(executor.class("normal").unwrap().name(), "normal");
    let mut refused = tight.run(|| 9);
    assert_eq!(refused.status(), Status::Rejected);
    assert!(refused.is_finished());
    let error = refused.join().unwrap_err();
    assert!(error.is_rejected(), "{error}");
    let error = tight.execute(|| ()).unwrap_err();
    assert!(error.to_string().contains("try again"), "{error}");
    let left = tight.execute_many(vec![|| (); 12]).unwrap_err();
    assert_eq!(left.work.len(), 12, "those not taken come back");
    assert_eq!(executor.stats().class("tight").unwrap().refused, 4 + 12);
    gate.open();
    for (n, handle) in accepted.iter_mut().enumerate() {
        assert_eq!(handle.join().unwrap(), n as i32);
    }
    assert_eq!(tight.spawn(future).join().unwrap(), 8);
    end(executor);
}

/// CPU-3, CPU-18: after shutdown has begun nothing is taken from outside, and the work comes back.
#[test]
fn rejected_while_shutting_down() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    end(executor);
    let back = normal.task().try_run(|| 3).unwrap_err();
    assert_eq!(back.reason, Rejection::ShuttingDown);
    assert_eq!(back.reason.retry_after(), None);
    assert_eq!((back.work)(), 3);
    assert!(matches!(
        normal.spawn(async {}).join(),
        Err(TaskError::Rejected(Rejection::ShuttingDown))
    ));
    assert!(normal.execute(|| ()).is_err());
    assert!(normal.execute_many([|| ()]).is_err());
    assert!(matches!(
        normal.scope(|_| ()),
        Err(flyball_executor::Error::ShuttingDown)
    ));
}

/// CPU-3: dropping a handle cancels; detaching lets the task finish.
#[test]
fn dropped_and_detached() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let (send, received) = channel();
    let detached = send.clone();
    normal.run(move || detached.send("detached")).detach();
    let dropped = send.clone();
    drop(normal.run(move || dropped.send("dropped")));
    let late = send.clone();
    normal
        .spawn(async move {
            yield_now().await;
            late.send("future")
        })
        .detach();
    drop(send);
    gate.open();
    assert_eq!(receive(&received), "detached");
    assert_eq!(receive(&received), "future");
    assert!(
        received.recv_timeout(PATIENCE).is_err(),
        "all senders are gone"
    );
    end(executor);
}

/// CPU-3: a running closure whose handle is dropped sees it at its checkpoint, and its result is dropped.
#[test]
fn dropped_while_running() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let drops = Drops::default();
    let (inside, is_inside) = channel();
    let guard = drops.guard();
    let handle = normal.run(move || {
        inside.send(()).unwrap();
        while checkpoint().is_ok() {}
        guard
    });
    receive(&is_inside);
    drop(handle);
    eventually("the result is dropped", || drops.count() == 1);
    end(executor);
}

/// CPU-3: joining on a worker would block what may have to run the task: a typed error, and the handle still works.
#[test]
fn join_on_a_worker_is_refused() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let inner_class = normal.clone();
    let mut outer = normal.run(move || {
        let mut inner = inner_class.run(|| 11);
        assert!(matches!(inner.join(), Err(TaskError::JoinOnWorker)));
        inner
    });
    let mut inner = outer.join().unwrap();
    assert_eq!(inner.join().unwrap(), 11);
    // What has ended can be had on a worker as well.
    let mut ended = normal.run(|| 12);
    eventually("it ends", || ended.is_finished());
    let mut outer = normal.run(move || ended.join().unwrap());
    assert_eq!(outer.join().unwrap(), 12);
    end(executor);
}

/// CPU-3: checkpoints outside a worker do nothing.
#[test]
fn checkpoints_elsewhere_do_nothing() {
    assert_eq!(checkpoint(), Ok(()));
    assert_eq!(flyball_executor::blocking(|| 3), 3);
}

/// CPU-3: closures without a handle are told at their checkpoints that the executor ends.
#[test]
fn a_bare_closure_is_told_of_the_end() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let (inside, is_inside) = channel();
    let (told, was_told) = channel();
    normal
        .execute(move || {
            inside.send(()).unwrap();
            while checkpoint().is_ok() {}
            told.send(checkpoint()).unwrap();
        })
        .unwrap();
    receive(&is_inside);
    let report = executor.shutdown(Duration::ZERO).unwrap();
    assert!(report.left_running.is_empty(), "{report:?}");
    assert_eq!(receive(&was_told), Err(Interrupted::Cancelled));
}
