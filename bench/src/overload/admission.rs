//! What the decision costs to let a call in: asking and leaving, while there is room.
//!
//! Of limiters that are only tower services, a service that does nothing is called through them.

use crate::cases::Sample;
use crate::stats::median;
use crate::subjects::Subject;
use crate::sys;
use anyhow::{Result, bail};
use congestion_limiter::limiter::{DefaultLimiter, Limiter as _, Outcome as Theirs};
use congestion_limiter::limits::Vegas;
use flyball_limit::{Ask, Gate, GateConfig, Outcome};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll};
use tower::{Layer as _, Service};

const BLOCKS: usize = 15;

/// The median block, nanoseconds a call.
fn time(calls: usize, mut run: impl FnMut(usize)) -> f64 {
    let blocks: Vec<f64> = (0..BLOCKS)
        .map(|_| {
            let begun = sys::now_ns();
            run(calls / BLOCKS);
            (sys::now_ns() - begun) as f64 / (calls / BLOCKS) as f64
        })
        .collect();
    median(&blocks)
}

#[derive(Clone)]
struct Nothing;

impl Service<()> for Nothing {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

fn through<S: Service<()>>(runtime: &tokio::runtime::Runtime, calls: usize, mut service: S) -> f64 {
    time(calls, |calls| {
        runtime.block_on(async {
            for _ in 0..calls {
                let ready = std::future::poll_fn(|context| service.poll_ready(context)).await;
                if ready.is_ok() {
                    let _ = black_box(service.call(()).await);
                }
            }
        });
    })
}

/// Calls that come one at a time so seldom that each is looked at closely, beside what reading the clock costs.
fn sampled() -> Result<f64> {
    let gate = Gate::new(GateConfig::default())?;
    let ask = Ask::default();
    let (mut taken, mut clocks) = (Vec::new(), Vec::new());
    for _ in 0..4_000 {
        let begun = sys::now_ns();
        if let Ok(permit) = gate.try_enter(&ask) {
            permit.end(Outcome::Succeeded);
        }
        let ended = sys::now_ns();
        clocks.push((sys::now_ns() - ended) as f64);
        taken.push((ended - begun) as f64);
        while sys::now_ns() < begun + 50_000 {}
    }
    Ok(median(&taken) - median(&clocks))
}

/// Nanoseconds for a call that comes in and leaves.
pub fn run(subject: Subject, calls: usize) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let sample = Sample::default();
    let ns = match subject {
        Subject::Flyball => {
            let (gate, ask) = (Gate::new(GateConfig::default())?, Ask::default());
            let ns = time(calls, |calls| {
                for _ in 0..calls {
                    if let Ok(permit) = black_box(&gate).try_enter(&ask) {
                        permit.end(Outcome::Succeeded);
                    }
                }
            });
            return Ok(sample
                .with("ns_per_admission", ns)
                .with("ns_sampled", sampled()?));
        }
        Subject::CongestionLimiter => {
            let limiter = DefaultLimiter::new(Vegas::new_with_initial_limit(10));
            time(calls, |calls| {
                runtime.block_on(async {
                    for _ in 0..calls {
                        if let Some(token) = black_box(&limiter).try_acquire().await {
                            limiter.release(token, Some(Theirs::Success)).await;
                        }
                    }
                });
            })
        }
        Subject::TowerAcc => {
            let layer = tower_acc::ConcurrencyLimitLayer::new(tower_acc::Vegas::default());
            through(&runtime, calls, layer.layer(Nothing))
        }
        Subject::TowerResilience => {
            let algorithm = tower_resilience_adaptive::Gradient2::builder().build()?;
            let layer = tower_resilience_adaptive::AdaptiveLimiterLayer::new(algorithm);
            through(&runtime, calls, layer.layer(Nothing))
        }
        Subject::Tokio => {
            let semaphore = tokio::sync::Semaphore::new(100);
            time(calls, |calls| {
                for _ in 0..calls {
                    drop(black_box(&semaphore).try_acquire());
                }
            })
        }
        other => bail!("{} admits nobody", other.name()),
    };
    Ok(sample.with("ns_per_admission", ns))
}
