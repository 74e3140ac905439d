//! tokio inside tasks, and the executor inside tokio.

use crate::*;
use flyball_executor::{Error, TaskError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle as Tokio;

/// CPU-1: timers, sockets and files inside futures of both groups.
#[test]
fn timers_sockets_and_files() {
    let executor = start(small());
    for name in ["critical", "normal"] {
        let class = executor.class(name).unwrap();
        let peer = class.clone();
        let mut echo = class.spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = peer.spawn(async move {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut bytes = [0; 64];
                for _ in 0..100 {
                    let count = socket.read(&mut bytes).await.unwrap();
                    socket.write_all(&bytes[..count]).await.unwrap();
                }
            });
            let mut socket = TcpStream::connect(address).await.unwrap();
            for n in 0..100u8 {
                socket.write_all(&[n]).await.unwrap();
                assert_eq!(socket.read_u8().await.unwrap(), n);
            }
            server.await.unwrap();
            let path = std::env::temp_dir().join(format!("flyball-{}", address.port()));
            tokio::fs::write(&path, "content").await.unwrap();
            let content = tokio::fs::read_to_string(&path).await.unwrap();
            tokio::fs::remove_file(&path).await.unwrap();
            content
        });
        assert_eq!(echo.join().unwrap(), "content");
    }
    end(executor);
}

/// CPU-1: tokio's own tasks, blocking tasks and channels from inside.
#[test]
fn tokios_tasks_from_inside() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let mut future = normal.spawn(async {
        let spawned = tokio::spawn(async {
            tokio::task::yield_now().await;
            1
        });
        let blocking = tokio::task::spawn_blocking(|| 2);
        let in_place = tokio::task::block_in_place(|| 3);
        spawned.await.unwrap() + blocking.await.unwrap() + in_place
    });
    assert_eq!(future.join().unwrap(), 6);
    let mut timeout = normal.spawn(async {
        tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>())
            .await
            .is_err()
    });
    assert!(timeout.join().unwrap());
    end(executor);
}

/// CPU-1: calls that block inside closures: `block_in_place`, `blocking_send`, `blocking_recv`, `Handle::block_on`, and a
/// runtime of their own. Also right after futures on the same thread.
#[test]
fn blocking_calls_in_closures() {
    for name in ["interactive", "normal"] {
        let executor = start(small());
        let class = executor.class(name).unwrap();
        for _ in 0..20 {
            let mut future = class.spawn(async {
                tokio::task::yield_now().await;
                Tokio::current()
            });
            let (send, mut receive) = tokio::sync::mpsc::channel(1);
            let mut producer = class.run(move || {
                for n in 0..5 {
                    send.blocking_send(n).unwrap();
                }
            });
            let mut consumer = class.run(move || {
                let mut sum = 0;
                while let Some(n) = receive.blocking_recv() {
                    sum += n;
                }
                sum
            });
            assert_eq!(consumer.join().unwrap(), 10);
            producer.join().unwrap();
            let handle = future.join().unwrap();
            let mut closure = class.run(move || {
                let in_place = tokio::task::block_in_place(|| 1);
                let on_current = Tokio::current().block_on(async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    2
                });
                let own = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                let on_own = own.block_on(async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    4
                });
                assert_eq!(handle.id(), Tokio::current().id());
                in_place + on_current + on_own
            });
            assert_eq!(closure.join().unwrap(), 7);
        }
        end(executor);
    }
}

/// CPU-1: what does not work says so.
#[test]
fn spawn_local_says_that_it_cannot() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let mut future = normal.spawn(async {
        tokio::task::spawn_local(async {});
    });
    let Err(TaskError::Panicked(payload)) = future.join() else {
        panic!("another outcome");
    };
    let message = payload.message().unwrap();
    assert!(message.contains("LocalSet"), "{message}");
    end(executor);
}

/// CPU-1: a runtime of one thread that nobody drives is refused, with a message that says what to give instead.
#[test]
fn a_current_thread_handle_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let refused = Executor::start(Config {
        tokio: Some(runtime.handle().clone()),
        ..small()
    });
    let error = refused.unwrap_err();
    assert!(matches!(error, Error::CurrentThreadRuntime));
    assert!(error.to_string().contains("multi-thread"), "{error}");
}

/// CPU-1: a future that drains a ready channel runs out of tokio's budget and lets its neighbour run.
#[test]
fn a_ready_channel_is_drained_in_pieces() {
    const ITEMS: usize = 10_000;
    let executor = start(single());
    for name in ["interactive", "normal"] {
        let class = executor.class(name).unwrap();
        let (send, mut items) = tokio::sync::mpsc::unbounded_channel();
        for n in 0..ITEMS {
            send.send(n).unwrap();
        }
        drop(send);
        let gate = hold(&class);
        let drained = Arc::new(AtomicUsize::new(0));
        let count = drained.clone();
        let mut greedy = class.spawn(async move {
            while items.recv().await.is_some() {
                count.fetch_add(1, SeqCst);
            }
        });
        let mut neighbour = class.spawn(async move { drained.load(SeqCst) });
        gate.open();
        let seen = neighbour.join().unwrap();
        assert!(0 < seen && seen < ITEMS, "{seen} of {ITEMS} at one go");
        greedy.join().unwrap();
    }
    end(executor);
}

/// CPU-1: inside a multi-thread runtime its timers and sockets are used; `#[tokio::main]` stays as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_a_multi_thread_runtime() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let outside = Tokio::current().id();
    let inside = normal.spawn(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let spawned = tokio::spawn(async { Tokio::current().id() });
        (Tokio::current().id(), spawned.await.unwrap())
    });
    assert_eq!(inside.await.unwrap(), (outside, outside));
    let native = tokio::spawn({
        let normal = normal.clone();
        async move { normal.run(|| 5).await.unwrap() }
    });
    assert_eq!(native.await.unwrap(), 5);
    let report = executor.shutdown_async(PATIENCE).await;
    assert!(report.left_running.is_empty());
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// CPU-1: a handle of a runtime that is given is used wherever the executor is started.
#[test]
fn a_given_runtime_is_used() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let executor = start(Config {
        tokio: Some(runtime.handle().clone()),
        ..small()
    });
    for name in ["critical", "batch"] {
        let class = executor.class(name).unwrap();
        let mut future = class.spawn(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Tokio::current().id()
        });
        assert_eq!(future.join().unwrap(), runtime.handle().id());
        let mut closure = class.run(|| Tokio::current().id());
        assert_eq!(closure.join().unwrap(), runtime.handle().id());
    }
    end(executor);
}

/// CPU-1: inside a current-thread runtime the executor brings its own; neither start, failure to start, shutdown nor drop
/// blocks or panics there.
#[tokio::test]
async fn inside_a_current_thread_runtime() {
    let refused = Executor::start(Config {
        parallelism: 100_000,
        ..small()
    });
    assert!(matches!(refused, Err(Error::Config { .. })));
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let outside = Tokio::current().id();
    let inside = normal
        .spawn(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Tokio::current().id()
        })
        .await
        .unwrap();
    assert_ne!(inside, outside);
    executor.shutdown_async(PATIENCE).await;
    drop(start(small()));
}

/// CPU-1, CPU-3: when the caller drops its runtime first, what needs it fails by itself; the rest goes on.
#[test]
fn a_runtime_that_is_dropped_too_early() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let executor = start(Config {
        tokio: Some(runtime.handle().clone()),
        ..single()
    });
    let normal = executor.class("normal").unwrap();
    runtime.shutdown_background();
    let mut timer = normal.spawn(async { tokio::time::sleep(PATIENCE).await });
    assert!(matches!(timer.join(), Err(TaskError::Panicked(_))));
    assert_eq!(normal.run(|| 1).join().unwrap(), 1);
    assert_eq!(normal.spawn(async { 2 }).join().unwrap(), 2);
    end(executor);
}

/// CPU-1: thousands of futures that wait for timers and for each other, woken from tokio's driver, from workers and from
/// foreign threads.
#[test]
fn wakes_from_everywhere() {
    let executor = start(small());
    for name in ["interactive", "normal"] {
        let class = executor.class(name).unwrap();
        let (send, mut items) = tokio::sync::mpsc::channel::<usize>(4);
        let mut handles = Vec::new();
        for n in 0..200 {
            let send = send.clone();
            handles.push(class.spawn(async move {
                for round in 0..5 {
                    if (n + round) % 7 == 0 {
                        tokio::time::sleep(Duration::from_micros(100)).await;
                    }
                    send.send(n).await.unwrap();
                }
            }));
        }
        let foreign = std::thread::spawn(move || {
            for n in 0..1_000 {
                send.blocking_send(n).unwrap();
            }
        });
        let mut sum = class.spawn(async move {
            let mut sum = 0;
            while let Some(n) = items.recv().await {
                sum += n;
            }
            sum
        });
        let expected = 5 * (0..200).sum::<usize>() + (0..1_000).sum::<usize>();
        assert_eq!(sum.join().unwrap(), expected);
        for mut handle in handles {
            handle.join().unwrap();
        }
        foreign.join().unwrap();
    }
    end(executor);
}
