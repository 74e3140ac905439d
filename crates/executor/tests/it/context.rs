//! Values and spans that travel from the submitter to wherever the task runs.

use crate::*;
use flyball_executor::{Captured, Carrier, Entered, yield_now};
use std::cell::Cell;

thread_local! {
    static TENANT: Cell<u32> = const { Cell::new(0) };
}

/// Carries the value of `TENANT`.
struct Tenants;
struct Tenant(u32);
struct Restore(u32);

impl Carrier for Tenants {
    fn capture(&self) -> Box<dyn Captured> {
        Box::new(Tenant(TENANT.get()))
    }
}

impl Captured for Tenant {
    fn enter(&self) -> Box<dyn Entered + '_> {
        Box::new(Restore(TENANT.replace(self.0)))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        TENANT.set(self.0);
    }
}

fn carrying() -> Executor {
    start(Config {
        context: Some(Arc::new(Tenants)),
        ..single()
    })
}

/// CPU-26: registered values are in place in closures with and without a handle, in batches and in scopes, and gone afterwards.
#[test]
fn values_travel_to_closures() {
    let executor = carrying();
    let (send, tenants) = channel();
    for name in ["interactive", "normal"] {
        let class = executor.class(name).unwrap();
        TENANT.set(7);
        assert_eq!(class.run(|| TENANT.get()).join().unwrap(), 7);
        let many = class.run_many((0..3).map(|_| || TENANT.get()));
        TENANT.set(8);
        for mut handle in many {
            assert_eq!(handle.join().unwrap(), 7, "of the time of submission");
        }
        let bare = send.clone();
        class
            .execute(move || bare.send(TENANT.get()).unwrap())
            .unwrap();
        assert_eq!(receive(&tenants), 8);
        class
            .execute_many((0..25).map(|_| {
                let send = send.clone();
                move || send.send(TENANT.get()).unwrap()
            }))
            .unwrap();
        for _ in 0..25 {
            assert_eq!(receive(&tenants), 8);
        }
        let in_scope = AtomicUsize::new(0);
        class
            .scope(|scope| scope.run(|| in_scope.store(TENANT.get() as usize, SeqCst)))
            .unwrap();
        assert_eq!(in_scope.into_inner(), 8);
        TENANT.set(0);
        assert_eq!(class.run(|| TENANT.get()).join().unwrap(), 0);
        // What a task submits carries the task's values.
        TENANT.set(9);
        let inner = class.clone();
        let mut outer = class.run(move || inner.run(|| TENANT.get()));
        TENANT.set(0);
        assert_eq!(outer.join().unwrap().join().unwrap(), 9);
    }
    end(executor);
}

/// CPU-25, CPU-26: in the function given to `install`, and gone from rayon's thread afterwards.
#[cfg(feature = "rayon")]
#[test]
fn values_travel_to_install() {
    let executor = carrying();
    let normal = executor.class("normal").unwrap();
    TENANT.set(7);
    assert_eq!(normal.install(|| TENANT.get()).unwrap(), 7);
    TENANT.set(0);
    assert_eq!(normal.install(|| TENANT.get()).unwrap(), 0);
    end(executor);
}

/// CPU-26: around every poll of a future, and its drop; between the polls others have their own.
#[test]
fn values_travel_to_every_poll() {
    struct Last(Sender<u32>);
    impl Drop for Last {
        fn drop(&mut self) {
            let _ = self.0.send(TENANT.get());
        }
    }
    let executor = carrying();
    let normal = executor.class("normal").unwrap();
    let (send, dropped) = channel();
    let mut handles = Vec::new();
    for tenant in 1..=10 {
        TENANT.set(tenant);
        let last = Last(send.clone());
        handles.push(normal.spawn(async move {
            let _last = last;
            for _ in 0..20 {
                assert_eq!(TENANT.get(), tenant);
                yield_now().await;
                tokio::time::sleep(Duration::from_micros(10)).await;
            }
            TENANT.get()
        }));
    }
    TENANT.set(0);
    for (n, handle) in handles.iter_mut().enumerate() {
        assert_eq!(handle.join().unwrap(), n as u32 + 1);
    }
    let mut all: Vec<u32> = (0..10).map(|_| receive(&dropped)).collect();
    all.sort_unstable();
    assert_eq!(all, (1..=10).collect::<Vec<_>>());
    // A waiting future that is cancelled elsewhere is dropped with its values in place as well.
    TENANT.set(5);
    let last = Last(send.clone());
    let waiting = normal.spawn(async move {
        let _last = last;
        std::future::pending::<()>().await;
    });
    TENANT.set(6);
    eventually("it waits", || {
        waiting.status() == flyball_executor::Status::Waiting
    });
    drop(waiting);
    assert_eq!(receive(&dropped), 5);
    assert_eq!(TENANT.get(), 6);
    TENANT.set(0);
    assert_eq!(normal.run(|| TENANT.get()).join().unwrap(), 0);
    end(executor);
}

/// CPU-26: a panic leaves nothing of the task's values behind, and what is refused comes back as it was.
#[test]
fn values_do_not_stay() {
    let executor = carrying();
    let normal = executor.class("normal").unwrap();
    TENANT.set(3);
    assert!(normal.run(|| panic!("with a value")).join().is_err());
    let mut panics = normal.spawn(async {
        yield_now().await;
        panic!("with a value");
    });
    assert!(panics.join().is_err());
    TENANT.set(0);
    assert_eq!(normal.run(|| TENANT.get()).join().unwrap(), 0);
    end(executor);
    let back = normal.task().try_run(|| TENANT.get()).unwrap_err();
    TENANT.set(4);
    assert_eq!((back.work)(), 4, "the closure itself, without luggage");
    TENANT.set(0);
}

#[cfg(feature = "tracing")]
mod spans {
    use super::*;
    use tracing::dispatcher::{Dispatch, with_default};
    use tracing::{Span, info_span};

    /// The name of the span that is entered on this thread, by this subscriber.
    fn current(dispatch: &Dispatch) -> Option<&'static str> {
        with_default(dispatch, || {
            Span::current().metadata().map(|metadata| metadata.name())
        })
    }

    /// CPU-26: the submitter's span is entered around closures, every poll, and batches; without a span nothing is.
    #[test]
    fn spans_travel() {
        let dispatch = Dispatch::new(tracing_subscriber::registry());
        let executor = start(single());
        let (send, names) = channel();
        for name in ["interactive", "normal"] {
            let class = executor.class(name).unwrap();
            let here = dispatch.clone();
            let asked = move || current(&here);
            with_default(&dispatch, || {
                let span = info_span!("request");
                let entered = span.enter();
                assert_eq!(class.run(asked.clone()).join().unwrap(), Some("request"));
                let ask = asked.clone();
                let mut future = class.spawn(async move {
                    let mut all = Vec::new();
                    for _ in 0..5 {
                        all.push(ask());
                        yield_now().await;
                    }
                    all
                });
                assert_eq!(future.join().unwrap(), [Some("request"); 5]);
                class
                    .execute_many((0..15).map(|_| {
                        let (ask, send) = (asked.clone(), send.clone());
                        move || send.send(ask()).unwrap()
                    }))
                    .unwrap();
                for _ in 0..15 {
                    assert_eq!(receive(&names), Some("request"));
                }
                let (ask, sender) = (asked.clone(), send.clone());
                class.execute(move || sender.send(ask()).unwrap()).unwrap();
                assert_eq!(receive(&names), Some("request"));
                drop(entered);
                assert_eq!(class.run(asked.clone()).join().unwrap(), None);
                let inner = class.clone();
                let ask = asked.clone();
                let outer = span.in_scope(|| class.run(move || inner.run(ask)));
                let mut outer = outer;
                let _ = outer.join().unwrap().join();
            });
        }
        end(executor);
    }
}
