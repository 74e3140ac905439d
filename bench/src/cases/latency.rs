//! How long urgent work waits while ordinary work saturates the pool.
//!
//! Arrivals are open loop: each has an intended time, fixed beforehand, and its wait counts from that time, whether or
//! not earlier ones have run and whether or not the generator was late (no coordinated omission). A generator that was
//! late itself, over 1 ms at p99, voids the sample. The backlog is closed loop: a fixed number of tasks is outstanding,
//! refilled either by each finished task (inside) or by a feeder thread (outside). Generator and feeder run at real-time
//! priority where the process may, for every subject alike.

use super::{Load, Origin, Sample};
use crate::machine::{Company, Window};
use crate::stats::quantile;
use crate::subjects::{Closures, OnClosures, Subject, THREADS, on_closures};
use crate::sys;
use crate::work::{PIECE_US, Work, churn, piece, total_pieces};
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Backlog tasks outstanding; of ten-second closures a few a thread are backlog enough.
const DEPTH: u64 = 64;
/// The generator's own lag at p99 above which a sample does not count.
const LAG_MAX_NS: u64 = 1_000_000;
/// p999 of fewer arrivals than this would be the maximum by another name.
const P999_MIN: usize = 2_000;

static BACKLOG_FINISHED: AtomicU64 = AtomicU64::new(0);
static FEEDER_CPU_NS: AtomicU64 = AtomicU64::new(0);
/// CPU time of the bodies of urgent work.
static FRONT_CPU_NS: AtomicU64 = AtomicU64::new(0);

/// A backlog task: pieces of work, each counted, so that one that never ends shows its progress.
#[derive(Clone, Copy)]
struct Body {
    pieces: u64,
    piece_iterations: u64,
}

impl Body {
    fn run(self) {
        for _ in 0..self.pieces {
            churn(self.piece_iterations);
            piece();
        }
    }
}

fn refill_from_inside<P: Closures>(pool: &'static P, body: Body) {
    pool.execute(move || {
        body.run();
        refill_from_inside(pool, body);
    });
}

fn refill_from_outside<P: Closures>(pool: &'static P, body: Body, depth: u64, period_ns: u64) {
    sys::become_instrument();
    let mut sent = 0;
    let mut next = sys::now_ns();
    loop {
        let target = BACKLOG_FINISHED.load(Ordering::Relaxed) + depth;
        while sent < target {
            sent += 1;
            pool.execute(move || {
                body.run();
                BACKLOG_FINISHED.fetch_add(1, Ordering::Relaxed);
            });
        }
        FEEDER_CPU_NS.store(sys::thread_cpu_ns(), Ordering::Relaxed);
        next = (next + period_ns).max(sys::now_ns());
        sys::sleep_until_ns(next);
    }
}

/// Intended arrival times, nanoseconds from the first.
fn schedule(load: &Load) -> Vec<u64> {
    let mean_gap_ns = load.front_us * 1e3 / load.front_cores;
    load.arrivals.times(mean_gap_ns, load.seconds)
}

struct Arrival {
    sent: AtomicU64,
    started: AtomicU64,
}

struct Urgent<'a> {
    load: &'a Load,
    work: Work,
    subject: Subject,
}

impl OnClosures for Urgent<'_> {
    type Out = Sample;

    fn run<P: Closures>(self, pool: &'static P) -> Result<Sample> {
        let Urgent {
            load,
            work,
            subject,
        } = self;
        let body = Body {
            pieces: ((load.backlog_us / PIECE_US).round() as u64).max(1),
            piece_iterations: work.iterations(PIECE_US),
        };
        let depth = match subject {
            Subject::Threads => THREADS as u64,
            _ if load.backlog_us >= 1e6 => 4 * THREADS as u64,
            _ => DEPTH,
        };
        match (subject, load.refill) {
            // Bare threads have no queue to refill: each does one endless task.
            (Subject::Threads, _) => {
                let endless = Body {
                    pieces: u64::MAX,
                    ..body
                };
                (0..depth).for_each(|_| pool.execute(move || endless.run()));
            }
            (_, Origin::Outside) => {
                let backlog_ns = depth as f64 * load.backlog_us * 1e3 / THREADS as f64;
                let period_ns = (backlog_ns / 4.0).min(2e6) as u64;
                std::thread::spawn(move || refill_from_outside(pool, body, depth, period_ns));
            }
            _ => (0..depth).for_each(|_| refill_from_inside(pool, body)),
        }
        let company = Company::start(load.company)?;
        sys::sleep_until_ns(sys::now_ns() + 300_000_000);

        let times = schedule(load);
        let new_arrival = |_: &u64| Arrival {
            sent: AtomicU64::new(0),
            started: AtomicU64::new(0),
        };
        let arrivals: Arc<Vec<Arrival>> = Arc::new(times.iter().map(new_arrival).collect());
        let front_iterations = work.iterations(load.front_us);
        let first_ns = sys::now_ns() + 5_000_000;
        sys::sleep_until_ns(first_ns - 1_000_000);

        let window = Window::open(&company);
        let (pieces, feeder_cpu) = (total_pieces(), FEEDER_CPU_NS.load(Ordering::Relaxed));
        let generator = {
            let (arrivals, times) = (arrivals.clone(), times.clone());
            move || {
                sys::become_instrument();
                for (index, time) in times.iter().enumerate() {
                    sys::sleep_until_ns(first_ns + time);
                    let shared = arrivals.clone();
                    arrivals[index].sent.store(sys::now_ns(), Ordering::Relaxed);
                    pool.execute_front(move || {
                        shared[index]
                            .started
                            .store(sys::now_ns(), Ordering::Release);
                        let cpu = sys::thread_cpu_ns();
                        churn(front_iterations);
                        FRONT_CPU_NS.fetch_add(sys::thread_cpu_ns() - cpu, Ordering::Relaxed);
                    });
                }
                sys::thread_cpu_ns()
            }
        };
        let generator_cpu = match subject {
            // Bare threads know no urgent work; only what they get done is of interest.
            Subject::Threads => {
                sys::sleep_until_ns(first_ns + (load.seconds * 1e9) as u64);
                0
            }
            _ => std::thread::spawn(generator)
                .join()
                .expect("the generator does not panic"),
        };
        let pieces = total_pieces() - pieces;
        let instruments_ns =
            (generator_cpu + FEEDER_CPU_NS.load(Ordering::Relaxed) - feeder_cpu) as f64;
        let front_ns = FRONT_CPU_NS.load(Ordering::Relaxed) as f64;
        let seen = window.close();
        // Whoever has not started by now gets a little longer, and then counts as having waited until then.
        if subject != Subject::Threads {
            sys::sleep_until_ns(sys::now_ns() + 200_000_000);
        }
        let cut_ns = sys::now_ns();

        let mut waits = Vec::new();
        let mut lags = Vec::new();
        let mut starved = 0;
        for (time, arrival) in times.iter().zip(arrivals.iter()) {
            let intended = first_ns + time;
            let started = match arrival.started.load(Ordering::Acquire) {
                0 => {
                    starved += 1;
                    cut_ns
                }
                started => started,
            };
            waits.push(started.saturating_sub(intended));
            lags.push(
                arrival
                    .sent
                    .load(Ordering::Relaxed)
                    .saturating_sub(intended),
            );
        }
        waits.sort_unstable();
        lags.sort_unstable();

        let cpus_ns = sys::cpus().min(THREADS) as f64 * seen.wall_ns;
        let left_ns = cpus_ns - seen.company_ns - seen.others_ns - front_ns - instruments_ns;
        let mut sample = Sample::default().foreign(seen.others_share);
        // With less than a tenth of the machine left, the quotient says more about the noise than about the pool.
        if left_ns > 0.1 * cpus_ns {
            sample = sample.with("backlog_of_left", pieces as f64 * PIECE_US * 1e3 / left_ns);
        }
        if subject == Subject::Threads {
            return Ok(sample);
        }
        let us = |sorted: &[u64], q| quantile(sorted, q) as f64 / 1e3;
        sample = sample
            .with("p50_us", us(&waits, 0.5))
            .with("p99_us", us(&waits, 0.99))
            .with("max_us", us(&waits, 1.0))
            .with("starved", starved as f64)
            .with("generator_lag_p99_us", us(&lags, 0.99));
        if waits.len() >= P999_MIN {
            sample = sample.with("p999_us", us(&waits, 0.999));
        }
        if quantile(&lags, 0.99) > LAG_MAX_NS {
            sample.void = Some(format!(
                "the generator itself was {:.0} us late at p99",
                us(&lags, 0.99)
            ));
        }
        Ok(sample)
    }
}

/// p50, p99, p999 of the wait, and the backlog's throughput against what the CPU left for it.
pub fn run(subject: Subject, load: &Load, work: Work) -> Result<Sample> {
    on_closures(
        subject,
        Urgent {
            load,
            work,
            subject,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Arrivals;

    #[test]
    fn schedules_offer_the_load_they_name() {
        for arrivals in [Arrivals::Jittered, Arrivals::Poisson] {
            let load = Load {
                front_cores: 0.2,
                front_us: 200.0,
                backlog_us: 1e3,
                refill: Origin::Inside,
                company: 0,
                arrivals,
                seconds: 20.0,
            };
            let times = schedule(&load);
            assert!(
                (times.len() as f64 / 20_000.0 - 1.0).abs() < 0.05,
                "{arrivals:?}: {}",
                times.len()
            );
            assert!(times.is_sorted());
            assert_eq!(
                times,
                schedule(&load),
                "the same seed gives the same schedule"
            );
        }
    }
}
