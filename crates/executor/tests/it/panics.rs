//! Panics where they hurt most. After each the one worker must still be there and run the next task.

use crate::*;
use flyball_executor::{TaskError, yield_now};
use std::future::Future;
use std::panic::panic_any;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

/// Asserts that the executor's back worker still is the thread it was, and works.
struct Alive {
    executor: Executor,
    class: Class,
    thread: std::thread::ThreadId,
}

fn alive() -> Alive {
    let executor = start(single());
    let class = executor.class("normal").unwrap();
    let thread = class.run(|| std::thread::current().id()).join().unwrap();
    Alive {
        executor,
        class,
        thread,
    }
}

impl Alive {
    #[track_caller]
    fn check(&self) {
        let thread = self.class.run(|| std::thread::current().id()).join();
        assert_eq!(thread.unwrap(), self.thread);
        let thread = self
            .class
            .spawn(async { std::thread::current().id() })
            .join();
        assert_eq!(thread.unwrap(), self.thread);
    }

    fn end(self) {
        self.check();
        end(self.executor);
    }
}

/// CPU-3: panics of closures and futures.
#[test]
fn in_a_task() {
    let alive = alive();
    for n in 0..100 {
        let mut closure = alive.class.run(move || {
            if n % 2 == 0 {
                panic!("closure {n}");
            }
        });
        let mut future = alive.class.spawn(async move {
            yield_now().await;
            if n % 2 == 1 {
                panic!("future {n}");
            }
        });
        alive.class.execute(move || panic!("bare {n}")).unwrap();
        assert_eq!(closure.join().is_err(), n % 2 == 0);
        assert_eq!(future.join().is_err(), n % 2 == 1);
    }
    alive.check();
    let stats = alive.executor.stats();
    assert_eq!(stats.class("normal").unwrap().counts.panicked, 200);
    alive.end();
}

/// CPU-3: a panic in the drop of a task's captures: the result is not lost by it.
#[test]
fn in_the_drop_of_a_task() {
    struct Ready(Bomb);
    impl Future for Ready {
        type Output = u32;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u32> {
            Poll::Ready(5)
        }
    }
    let alive = alive();
    // The future is dropped after it gave its value.
    assert_eq!(alive.class.spawn(Ready(Bomb)).join().unwrap(), 5);
    // Captures of what is cancelled, while it is queued, while it waits, at the end of the poll.
    let gate = hold(&alive.class);
    let bomb = Bomb;
    let mut queued = alive.class.run(move || drop(bomb));
    assert!(queued.cancel());
    assert!(matches!(queued.join(), Err(TaskError::Cancelled)));
    let bomb = Bomb;
    drop(alive.class.run(move || drop(bomb)));
    gate.open();
    let bomb = Bomb;
    let mut waiting = alive.class.spawn(async move {
        let _bomb = bomb;
        std::future::pending::<()>().await;
    });
    eventually("it waits", || {
        waiting.status() == flyball_executor::Status::Waiting
    });
    assert!(waiting.cancel());
    assert!(matches!(waiting.join(), Err(TaskError::Cancelled)));
    // A closure that runs and drops what it captured.
    let bomb = Bomb;
    assert!(alive.class.run(move || drop(bomb)).join().is_err());
    let bomb = Bomb;
    alive.class.execute(move || drop(bomb)).unwrap();
    alive.end();
}

/// CPU-3: a panic in the drop of a result that nobody takes.
#[test]
fn in_the_drop_of_a_result() {
    let alive = alive();
    alive.class.run(|| Bomb).detach();
    alive.class.spawn(async { Bomb }).detach();
    let ended = alive.class.run(|| Bomb);
    eventually("it ends", || ended.is_finished());
    drop(ended);
    alive.end();
}

/// CPU-3: a panic in the waker of whoever awaits the handle.
#[test]
fn in_a_users_waker() {
    struct Bad;
    impl Wake for Bad {
        fn wake(self: Arc<Self>) {
            panic!("a waker panicked");
        }
    }
    let alive = alive();
    let waker = Waker::from(Arc::new(Bad));
    let gate = hold(&alive.class);
    let mut handle = alive.class.run(|| 1);
    let mut future = alive.class.spawn(async { 2 });
    for _ in 0..2 {
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut handle).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut future).poll(&mut cx).is_pending());
    }
    gate.open();
    eventually("they end", || handle.is_finished() && future.is_finished());
    assert_eq!(handle.join().unwrap(), 1);
    assert_eq!(future.join().unwrap(), 2);
    alive.end();
}

/// CPU-3: a payload that panics when it is dropped.
#[test]
fn in_the_drop_of_a_payload() {
    let alive = alive();
    alive.class.run(|| panic_any(Bomb)).detach();
    alive.class.spawn(async { panic_any(Bomb) }).detach();
    alive.class.execute(|| panic_any(Bomb)).unwrap();
    let ended = alive.class.run(|| panic_any(Bomb));
    eventually("it ends", || ended.is_finished());
    drop(ended);
    alive.check();
    // Whoever takes the payload has it to himself.
    let Err(TaskError::Panicked(payload)) = alive.class.run(|| panic_any(Bomb)).join() else {
        panic!("another outcome");
    };
    std::mem::forget(payload);
    alive.end();
}

/// CPU-4: payloads that panic when they are dropped do not keep a scope from ending.
#[test]
fn in_the_drop_of_payloads_of_a_scope() {
    let alive = alive();
    let ran = AtomicUsize::new(0);
    let outcome = alive.class.scope(|scope| {
        for _ in 0..4 {
            scope.run(|| {
                ran.fetch_add(1, SeqCst);
                panic_any(Bomb);
            });
        }
    });
    assert!(
        matches!(
            outcome,
            Err(flyball_executor::Error::ScopePanicked { count: 4, .. })
        ),
        "{outcome:?}"
    );
    assert_eq!(ran.load(SeqCst), 4);
    alive.end();
}

/// CPU-3: wakers of a task that are used after it has ended do nothing.
#[test]
fn wakers_outlive_their_task() {
    let alive = alive();
    let (send, wakers) = channel::<Waker>();
    let mut handle = alive.class.spawn(async move {
        std::future::poll_fn(|cx| {
            for _ in 0..3 {
                send.send(cx.waker().clone()).unwrap();
            }
            Poll::Ready(())
        })
        .await;
    });
    handle.join().unwrap();
    drop(handle);
    let (first, second, third) = (receive(&wakers), receive(&wakers), receive(&wakers));
    first.wake_by_ref();
    first.wake();
    drop(second);
    alive.check();
    alive.end();
    third.wake();
}

/// CPU-1, CPU-3: hooks that panic are events; the workers work.
#[test]
fn in_thread_hooks() {
    let mut config = single();
    config.on_thread_start = Some(Arc::new(|| panic!("start hook")));
    config.on_thread_stop = Some(Arc::new(|| panic!("stop hook")));
    let executor = start(config);
    let normal = executor.class("normal").unwrap();
    let front = executor.class("interactive").unwrap();
    assert_eq!(normal.run(|| 1).join().unwrap(), 1);
    assert_eq!(front.run(|| 2).join().unwrap(), 2);
    end(executor);
}
