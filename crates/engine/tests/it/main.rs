//! The engine as a program meets it: real threads, the real machine.

mod changing;
mod crowded;
mod deciding;
mod limiting;
mod looking;
mod starting;
#[cfg(feature = "tasks")]
mod tasks;
mod throttling;

use flyball_engine::Engine;
use flyball_engine::config::{Loaded, Sources, load};
use flyball_engine::view::EventView;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Longer than anything takes: a test that waits so long hangs.
const HANG: Duration = Duration::from_secs(60);

/// The configuration of these lines.
pub(crate) fn loaded(yaml: &str) -> Loaded {
    match load(&Sources::new().with_text("test.yaml", yaml)) {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors}"),
    }
}

/// An engine with the configuration of these lines.
pub(crate) fn engine(yaml: &str) -> Engine {
    Engine::start(loaded(yaml)).expect("the engine starts")
}

/// Waits for the first event that fits, of those after number `after`.
pub(crate) fn wait_for(
    engine: &Engine,
    after: u64,
    fits: impl Fn(&EventView) -> bool,
) -> EventView {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let mut newest = engine.events().follow();
    let mut seen = after;
    let found = runtime.block_on(async {
        tokio::time::timeout(HANG, async {
            loop {
                newest.mark_unchanged();
                for event in engine.events().since(seen, usize::MAX).events {
                    seen = event.id;
                    if fits(&event) {
                        return event;
                    }
                }
                newest.changed().await.expect("the engine lives");
            }
        })
        .await
    });
    found.expect("the event comes")
}

/// Tasks that run until they are let go.
pub(crate) struct Held {
    gates: Vec<Sender<()>>,
    handles: Vec<flyball_executor::Handle<()>>,
}

/// Occupies workers: `count` tasks of a class, which run when this returns if `started` of them can.
pub(crate) fn hold(engine: &Engine, class: &str, count: usize, started: usize) -> Held {
    let class = engine.class(class).expect("the class exists");
    let (began, begun): (Sender<()>, Receiver<()>) = channel();
    let mut held = Held {
        gates: Vec::new(),
        handles: Vec::new(),
    };
    for _ in 0..count {
        let (gate, opened) = channel();
        let began = began.clone();
        held.gates.push(gate);
        held.handles.push(class.run(move || {
            let _ = began.send(());
            let _ = opened.recv();
        }));
    }
    for _ in 0..started {
        begun.recv_timeout(HANG).expect("the task starts");
    }
    held
}

impl Held {
    /// Lets all go and waits for their ends.
    pub(crate) fn release(self) {
        drop(self.gates);
        for mut handle in self.handles {
            handle.join().expect("the task ends");
        }
    }
}

/// Ends the engine and says that nothing was left.
pub(crate) fn end(engine: Engine) {
    let report = engine.shutdown().expect("not on a worker");
    assert!(report.left_running.is_empty(), "{report:?}");
}
