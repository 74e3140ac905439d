//! What a pool costs when it does nothing: bytes a queued closure, CPU while idle.

use super::Sample;
use crate::alloc;
use crate::machine::{Company, Window};
use crate::subjects::{Closures, OnClosures, Subject, THREADS, on_closures};
use crate::sys;
use crate::work::{finished, wait_for};
use anyhow::{Context, Result, ensure};
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

/// (clock ticks of this process from /proc/self/stat, nanoseconds of its threads from their schedstat; the main thread,
/// which only measures, is left out of the second)
fn cpu_of_self() -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat
        .rsplit_once(") ")
        .context("/proc/self/stat has a name")?
        .1;
    // utime and stime are fields 14 and 15 of stat(5); the state, field 3, comes first here.
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    let mut nanos = 0.0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        if thread.file_name().to_str() == Some(&std::process::id().to_string()) {
            continue;
        }
        let text = std::fs::read_to_string(thread.path().join("schedstat"))?;
        nanos += text
            .split_whitespace()
            .next()
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or(0.0);
    }
    Ok((ticks, nanos))
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
        let (ticks, nanos) = cpu_of_self()?;
        sys::sleep_until_ns(sys::now_ns() + (self.0 * 1e9) as u64);
        let (ticks_after, nanos_after) = cpu_of_self()?;
        Ok(Sample::default()
            .with("idle_ticks", ticks_after - ticks)
            .with("idle_cpu_us", (nanos_after - nanos) / 1e3)
            .foreign(window.close().others_share))
    }
}

/// CPU that /proc shows for the process while its pool has had nothing to do for half a second and more.
pub fn idle(subject: Subject, seconds: f64) -> Result<Sample> {
    on_closures(subject, Idle(seconds))
}
