//! The executor as its users meet it, on real threads and on the manual clock.
//!
//! No test sleeps or asserts how long something took. What must be so at a certain moment is arranged with channels and gates; the
//! timeouts are guards that only a failing test reaches.

mod abuse;
mod accounting;
mod balancing;
mod classes;
mod context;
mod health;
mod keys;
#[cfg(feature = "testing")]
mod keys_kit;
mod leaks;
mod order;
mod outcomes;
mod panics;
mod pausing;
mod preemption;
#[cfg(feature = "rayon")]
mod rayon;
mod regressions;
mod replacement;
mod scopes;
#[cfg(feature = "testing")]
mod shedding;
mod shutdown;
mod size;
mod stress;
mod switching;
#[cfg(feature = "testing")]
mod testing_kit;
mod throttling;
mod tokio_inside;
mod tuning;

use flyball_executor::{BackPriority, Class, Config, Executor, Handle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How long a test waits for what should happen before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two front and three back workers, two of them at once. Back workers run at normal priority: the tests must end beside
/// programs that keep the machine busy.
fn small() -> Config {
    Config {
        parallelism: 2,
        front_workers: 2,
        back_workers: 3,
        back_priority: BackPriority::Normal,
        start_delay: Duration::from_millis(1),
        ..Config::default()
    }
}

/// One front and one back worker.
fn single() -> Config {
    Config {
        parallelism: 1,
        front_workers: 1,
        back_workers: 1,
        ..small()
    }
}

fn start(config: Config) -> Executor {
    Executor::start(config).expect("the executor starts")
}

/// Ends an executor and asserts that it had nothing left to do.
fn end(executor: Executor) {
    let report = executor.shutdown(PATIENCE).expect("not on a worker");
    assert!(report.left_running.is_empty(), "{report:?}");
}

fn receive<T>(from: &Receiver<T>) -> T {
    from.recv_timeout(PATIENCE).expect("what should happen")
}

/// Gives the CPU away until `done`.
#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let (_never, nothing) = channel::<()>();
    let rounds = PATIENCE.as_millis();
    for _ in 0..rounds {
        if done() {
            return;
        }
        let _ = nothing.recv_timeout(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

/// A closure that a worker is inside of until the gate is opened, or dropped.
struct Gate {
    open: Sender<()>,
    handle: Handle<()>,
}

impl Gate {
    fn open(mut self) {
        let _ = self.open.send(());
        self.handle.join().expect("the gate's closure ends");
    }
}

/// Keeps one worker of the class's group busy; returns when it is.
fn hold(class: &Class) -> Gate {
    let (open, wait) = channel::<()>();
    let (inside, is_inside) = channel();
    let handle = class.run(move || {
        let _ = inside.send(());
        let _ = wait.recv();
    });
    receive(&is_inside);
    Gate { open, handle }
}

fn hold_many(class: &Class, workers: usize) -> Vec<Gate> {
    (0..workers).map(|_| hold(class)).collect()
}

/// Counts how often it was dropped.
#[derive(Clone, Default)]
struct Drops(Arc<AtomicUsize>);

impl Drops {
    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }

    fn guard(&self) -> Guard {
        Guard(self.clone())
    }
}

struct Guard(Drops);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, SeqCst);
    }
}

/// Panics when it is dropped, unless it is already unwinding.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a bomb was dropped");
        }
    }
}

fn flag() -> Arc<AtomicBool> {
    Arc::default()
}

/// Runs this one test again in a process of its own, where nothing else starts threads or takes memory, and says whether this
/// is that process.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "FLYBALL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let child = std::process::Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .expect("runs itself");
    assert!(
        child.status.success() && String::from_utf8_lossy(&child.stdout).contains("1 passed"),
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
    false
}
