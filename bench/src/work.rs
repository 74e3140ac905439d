//! Work of a known size, and counting it without a shared cache line.
//!
//! A body is a fixed number of iterations of dependent arithmetic, never a spin on the wall clock: a thread that the
//! kernel descheduled must still do its work, so an overcommitted pool cannot fake throughput. Iterations a microsecond
//! are measured once a campaign, with every CPU busy, and handed to every child process.

use crate::sys;
use crossbeam_utils::CachePadded;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};

/// Iterations that stand for a microsecond on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    per_us: f64,
}

/// Long bodies count their progress in pieces of this length, so that one that never ends is measured too.
pub const PIECE_US: f64 = 100.0;

impl Work {
    /// Takes what [`calibrate`] found.
    pub fn new(per_us: f64) -> Self {
        Work { per_us }
    }

    /// Iterations a microsecond, to hand on.
    pub fn per_us(self) -> f64 {
        self.per_us
    }

    /// Iterations of [`churn`] for this many microseconds.
    pub fn iterations(self, us: f64) -> u64 {
        (self.per_us * us).round() as u64
    }
}

/// Dependent arithmetic: every step needs the one before, nothing touches memory.
#[inline(never)]
pub fn churn(iterations: u64) {
    // A multiplier from Steele and Vigna, "Computationally easy, spectrally good multipliers", 2021.
    const MULTIPLIER: u64 = 0xd134_2543_de82_ef95;
    let mut state = iterations | 1;
    for _ in 0..iterations {
        state = (state ^ (state >> 31)).wrapping_mul(MULTIPLIER);
    }
    black_box(state);
}

/// Iterations a microsecond while all CPUs are busy: the lower quartile of blocks of some 200 µs on every CPU over
/// 400 ms, so that blocks in which another process ran do not count.
pub fn calibrate() -> f64 {
    const BLOCK: u64 = 100_000;
    let threads = sys::cpus();
    let start = Barrier::new(threads);
    let mut blocks: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let end = sys::now_ns() + 400_000_000;
                    let mut blocks = Vec::new();
                    loop {
                        let begun = sys::now_ns();
                        if begun >= end {
                            return blocks;
                        }
                        churn(BLOCK);
                        blocks.push(sys::now_ns() - begun);
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("calibration does not panic"))
            .collect()
    });
    blocks.sort_unstable();
    let block_ns = blocks[blocks.len() / 4].max(1);
    BLOCK as f64 * 1000.0 / block_ns as f64
}

struct Tally {
    tasks: AtomicU64,
    pieces: AtomicU64,
}

static TALLIES: Mutex<Vec<&'static CachePadded<Tally>>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: &'static CachePadded<Tally> = {
        let mine: &'static _ = Box::leak(Box::new(CachePadded::new(Tally {
            tasks: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
        })));
        TALLIES.lock().expect("no holder panics").push(mine);
        mine
    };
}

/// Counts one finished task. Each thread writes its own line; only the reader sums.
#[inline]
pub fn finished() {
    MINE.with(|mine| {
        mine.tasks
            .store(mine.tasks.load(Ordering::Relaxed) + 1, Ordering::Release)
    });
}

/// Counts one piece of [`PIECE_US`].
#[inline]
pub fn piece() {
    MINE.with(|mine| {
        mine.pieces
            .store(mine.pieces.load(Ordering::Relaxed) + 1, Ordering::Relaxed)
    });
}

fn sum(field: impl Fn(&Tally) -> &AtomicU64) -> u64 {
    let tallies = TALLIES.lock().expect("no holder panics");
    tallies
        .iter()
        .map(|tally| field(tally).load(Ordering::Acquire))
        .sum()
}

/// Tasks finished in this process so far.
pub fn total_finished() -> u64 {
    sum(|tally| &tally.tasks)
}

/// Pieces of work done in this process so far.
pub fn total_pieces() -> u64 {
    sum(|tally| &tally.pieces)
}

/// Sleeps until `count` tasks have finished; looks twice a millisecond, which is 0.5% of a sample of 100 ms.
pub fn wait_for(count: u64, limit_ns: u64) -> anyhow::Result<()> {
    let deadline = sys::now_ns() + limit_ns;
    while total_finished() < count {
        let now = sys::now_ns();
        if now > deadline {
            anyhow::bail!(
                "{} of {count} tasks finished within the limit",
                total_finished()
            );
        }
        sys::sleep_until_ns(now + 500_000);
    }
    Ok(())
}
