//! Runtimes, reports and tasks that hold workers up.

use flyball_core::time::thread_cpu_nanos;
use flyball_profile::watch::{Blocked, Options, Recovered, Report};
use flyball_profile::{Watch, watch};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};

/// Ends a test that would hang.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A watch whose reports arrive on a channel.
pub(crate) fn watched(handle: &Handle) -> (Watch, Receiver<Report>) {
    let (sender, reports) = channel();
    let watch = Options::new()
        .on_report(move |report| {
            // The test may have seen enough.
            let _ = sender.send(report.clone());
        })
        .watch(handle)
        .expect("a watch");
    (watch, reports)
}

pub(crate) fn next_blocked(reports: &Receiver<Report>) -> Blocked {
    loop {
        match reports.recv_timeout(LIMIT).expect("a report") {
            Report::Blocked(blocked) => return blocked,
            _ => continue,
        }
    }
}

pub(crate) fn next_recovered(reports: &Receiver<Report>) -> Recovered {
    loop {
        match reports.recv_timeout(LIMIT).expect("a report") {
            Report::Recovered(recovered) => return recovered,
            _ => continue,
        }
    }
}

/// Waits in the standard library until the sender is dropped.
#[inline(never)]
pub(crate) fn waits_for_a_message(messages: &Receiver<()>) {
    let _ = messages.recv();
    std::hint::black_box(());
}

/// Computes until it is told to stop.
#[inline(never)]
pub(crate) fn computes_for_long(stop: &AtomicBool) -> u64 {
    let mut sum = 0u64;
    while !stop.load(Ordering::Relaxed) {
        sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
    sum
}

/// A task that waits; it goes on when the sender is dropped. Returns when it has begun.
pub(crate) fn block_a_worker(handle: &Handle) -> Sender<()> {
    let (release, messages) = channel::<()>();
    let (begun, begins) = channel::<()>();
    handle.spawn(async move {
        let _ = begun.send(());
        waits_for_a_message(&messages);
    });
    begins.recv_timeout(LIMIT).expect("the task begins");
    release
}

/// Uses 5 ms of CPU time: a poll that is long, but far shorter than the thresholds here.
pub(crate) fn works_a_little() {
    let begin = thread_cpu_nanos();
    while thread_cpu_nanos() - begin < 5_000_000 {
        std::hint::spin_loop();
    }
}

/// Gives way until the condition holds.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

/// Lets the watch take `count` more samples.
pub(crate) fn after_samples(watch: &Watch, count: u64) {
    let begin = watch.figures().samples;
    until(|| watch.figures().samples >= begin + count);
}

/// A number that tasks count up, and a sign to stop.
#[derive(Clone, Default)]
pub(crate) struct Load {
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) polls: Arc<AtomicU64>,
}

impl Load {
    /// A task that works a little, gives way, and so on.
    pub(crate) fn spawn(&self, handle: &Handle) {
        let load = self.clone();
        handle.spawn(async move {
            while !load.stop.load(Ordering::Relaxed) {
                works_a_little();
                load.polls.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_short_way() {
    let runtime = runtime(1);
    let watch = watch(runtime.handle()).expect("a watch");
    assert!(watch.is_watching());
    assert!(watch.reports().is_empty());
}
