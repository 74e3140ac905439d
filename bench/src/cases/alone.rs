//! What a pool costs when it does nothing: bytes a queued closure, CPU while idle.

use super::Sample;
use crate::alloc;
use crate::machine::{Company, Window};
use crate::process::Use;
use crate::subjects::{Closures, OnClosures, Subject, THREADS, on_closures};
use crate::sys;
use crate::work::{finished, wait_for};
use anyhow::{Result, ensure};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Closures that take every thread of the pool; more than any pool here has, the rest of them waits in the queue.
const BLOCKERS: usize = 16 * THREADS;

struct Bytes {
    captured: usize,
    tasks: usize,
}

static BLOCKED: AtomicUsize = AtomicUsize::new(0);

impl OnClosures for Bytes {
    type Out = Sample;

    fn run<P: Closures>(self, pool: &'static P) -> Result<Sample> {
        let Bytes { captured, tasks } = self;
        for _ in 0..BLOCKERS {
            pool.execute(|| {
                BLOCKED.fetch_add(1, Ordering::Relaxed);
                loop {
                    std::thread::park();
                }
            });
        }
        // Every worker that will take a blocker has taken one when the number has stood still for a while.
        let mut blocked = 0;
        loop {
            sys::sleep_until_ns(sys::now_ns() + 100_000_000);
            let now = BLOCKED.load(Ordering::Relaxed);
            if now > 0 && now == blocked {
                break;
            }
            blocked = now;
        }
        let grown = alloc::growth(|| {
            for number in 0..tasks {
                match captured {
                    8 => pool.execute(move || {
                        black_box(number);
                    }),
                    _ => {
                        let captures = [number; 8];
                        pool.execute(move || {
                            black_box(captures);
                        });
                    }
                }
            }
        });
        ensure!(
            BLOCKED.load(Ordering::Relaxed) == blocked,
            "a worker became free while closures were queued"
        );
        Ok(Sample::default().with(
            "bytes_beyond_captures",
            grown as f64 / tasks as f64 - captured as f64,
        ))
    }
}

/// Bytes requested from the allocator for each closure that waits, less its captures (8 or 64 bytes). The queue's own
/// storage counts, at the fill it happens to have for this number of closures.
pub fn bytes(subject: Subject, captured: usize, tasks: usize) -> Result<Sample> {
    ensure!(matches!(captured, 8 | 64), "captures are 8 or 64 bytes");
    on_closures(subject, Bytes { captured, tasks })
}

/// What this process used, the main thread, which only measures, left out of what is counted by thread.
fn own_use() -> Result<Use> {
    let own = std::process::id();
    Ok(Use::of(own)?.without(own))
}

struct Idle(f64);

impl OnClosures for Idle {
    type Out = Sample;

    fn run<P: Closures>(self, pool: &'static P) -> Result<Sample> {
        for _ in 0..1000 {
            pool.execute(finished);
        }
        wait_for(1000, 10_000_000_000)?;
        sys::sleep_until_ns(sys::now_ns() + 500_000_000);
        let alone = Company::none();
        let window = Window::open(&alone);
        let before = own_use()?;
        sys::sleep_until_ns(sys::now_ns() + (self.0 * 1e9) as u64);
        let used = own_use()?.since(&before);
        Ok(Sample::default()
            .with("idle_ticks", used.ticks as f64)
            .with("idle_cpu_us", used.cpu_ns as f64 / 1e3)
            .foreign(window.close().others_share))
    }
}

/// CPU that /proc shows for the process while its pool has had nothing to do for half a second and more.
pub fn idle(subject: Subject, seconds: f64) -> Result<Sample> {
    on_closures(subject, Idle(seconds))
}
