//! The pools under comparison, behind two small traits.
//!
//! A subject does only what its users would write; a case is generic over the traits, so that every pool runs the same
//! machine code around its own. Pools are leaked: a sample's process ends with it.

#[cfg(feature = "async-executor")]
mod async_executor;
#[cfg(feature = "crossbeam")]
mod crossbeam;
#[cfg(feature = "flyball")]
pub mod flyball;
#[cfg(feature = "rayon")]
mod rayon;
#[cfg(feature = "flyball")]
pub mod server;
pub mod threads;
#[cfg(feature = "tokio")]
mod tokio;

use anyhow::{Result, bail};
use clap::ValueEnum;
use std::future::Future;

/// Threads of every pool, so that figures from machines of different sizes mean the same.
pub const THREADS: usize = 2;

/// A pool that runs closures.
pub trait Closures: Send + Sync + 'static {
    /// Hands over a closure whose result nobody waits for, as ordinary work.
    fn execute<F: FnOnce() + Send + 'static>(&self, f: F);

    /// The same as urgent work, where the pool knows such a thing.
    fn execute_front<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.execute(f);
    }
}

/// A pool that also polls futures.
pub trait Futures: Closures {
    /// Hands over a future whose output nobody waits for, as ordinary work.
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F);

    /// The same as urgent work, where the pool knows such a thing.
    fn spawn_front<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.spawn(future);
    }

    /// The pool's own way to let others run.
    fn yield_now() -> impl Future<Output = ()> + Send;
}

/// A pool whose futures stand inside a tokio runtime.
pub trait Tokio: Futures {}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Subject {
    Flyball,
    Tokio,
    /// Two tokio runtimes: one for urgent work, one for the rest.
    TwoTokios,
    /// The same, the lower one's threads under SCHED_IDLE.
    TwoTokiosIdle,
    /// The same, the lower one's threads at nice 10.
    #[value(name = "two-tokios-nice10")]
    TwoTokiosNice10,
    Rayon,
    AsyncExecutor,
    Crossbeam,
    /// Bare threads without a queue: what the instrument reads when a pool costs nothing.
    Threads,
    /// flyball asked over its Unix socket.
    FlyballSocket,
    Beanstalkd,
    Redis,
    Postgresql,
    Nats,
    /// flyball's gate without its executor.
    FlyballInline,
    /// No limiter.
    Nothing,
    /// tower's load shed and concurrency limit.
    TowerLoadShed,
    TowerAcc,
    TowerResilience,
    CongestionLimiter,
    /// flyball's queue with a fixed limit: the best of them is the oracle.
    Fixed2,
    Fixed3,
    Fixed4,
    Fixed6,
    Fixed8,
    Fixed12,
    Fixed16,
    Sysinfo,
    Procfs,
    /// The system calls that a look at the machine needs, without reading their answers.
    Preads,
}

impl Subject {
    /// The name in tables and JSON.
    pub fn name(self) -> String {
        self.to_possible_value()
            .expect("no variant is skipped")
            .get_name()
            .to_owned()
    }

    /// Whether this build contains it.
    pub fn built(self) -> bool {
        match self {
            Subject::Flyball => cfg!(any(feature = "flyball", feature = "overload")),
            Subject::Tokio
            | Subject::TwoTokios
            | Subject::TwoTokiosIdle
            | Subject::TwoTokiosNice10 => cfg!(feature = "tokio"),
            Subject::Rayon => cfg!(feature = "rayon"),
            Subject::AsyncExecutor => cfg!(feature = "async-executor"),
            Subject::Crossbeam => cfg!(feature = "crossbeam"),
            Subject::Sysinfo => cfg!(feature = "sysinfo"),
            Subject::Procfs => cfg!(feature = "procfs"),
            Subject::FlyballInline
            | Subject::Nothing
            | Subject::TowerLoadShed
            | Subject::TowerAcc
            | Subject::TowerResilience
            | Subject::CongestionLimiter
            | Subject::Fixed2
            | Subject::Fixed3
            | Subject::Fixed4
            | Subject::Fixed6
            | Subject::Fixed8
            | Subject::Fixed12
            | Subject::Fixed16 => cfg!(feature = "overload"),
            Subject::Threads
            | Subject::Preads
            | Subject::FlyballSocket
            | Subject::Beanstalkd
            | Subject::Redis
            | Subject::Postgresql
            | Subject::Nats => true,
        }
    }
}

/// What a case does with a pool; one method a capability, so that a case takes the weakest that it needs.
pub trait OnClosures {
    type Out;
    fn run<P: Closures>(self, pool: &'static P) -> Result<Self::Out>;
}

/// See [`OnClosures`].
pub trait OnFutures {
    type Out;
    fn run<P: Futures>(self, pool: &'static P) -> Result<Self::Out>;
}

/// See [`OnClosures`].
pub trait OnTokio {
    type Out;
    fn run<P: Tokio>(self, pool: &'static P) -> Result<Self::Out>;
}

fn leak<P>(pool: P) -> &'static P {
    Box::leak(Box::new(pool))
}

/// Starts the pool and runs the case on it.
pub fn on_closures<C: OnClosures>(subject: Subject, case: C) -> Result<C::Out> {
    match subject {
        #[cfg(feature = "rayon")]
        Subject::Rayon => case.run(leak(rayon::Pool::start()?)),
        #[cfg(feature = "crossbeam")]
        Subject::Crossbeam => case.run(leak(crossbeam::Pool::start()?)),
        Subject::Threads => case.run(leak(threads::Pool)),
        _ => {
            struct Weaker<C>(C);
            impl<C: OnClosures> OnFutures for Weaker<C> {
                type Out = C::Out;
                fn run<P: Futures>(self, pool: &'static P) -> Result<C::Out> {
                    self.0.run(pool)
                }
            }
            on_futures(subject, Weaker(case))
        }
    }
}

/// Starts the pool and runs the case on it.
pub fn on_futures<C: OnFutures>(subject: Subject, case: C) -> Result<C::Out> {
    match subject {
        #[cfg(feature = "async-executor")]
        Subject::AsyncExecutor => case.run(leak(async_executor::Pool::start()?)),
        _ => {
            struct Weaker<C>(C);
            impl<C: OnFutures> OnTokio for Weaker<C> {
                type Out = C::Out;
                fn run<P: Tokio>(self, pool: &'static P) -> Result<C::Out> {
                    self.0.run(pool)
                }
            }
            on_tokio(subject, Weaker(case))
        }
    }
}

/// Starts the pool and runs the case on it.
pub fn on_tokio<C: OnTokio>(subject: Subject, case: C) -> Result<C::Out> {
    match subject {
        #[cfg(feature = "flyball")]
        Subject::Flyball => case.run(leak(flyball::Pool::start()?)),
        #[cfg(feature = "tokio")]
        Subject::Tokio => case.run(leak(tokio::One::start()?)),
        #[cfg(feature = "tokio")]
        Subject::TwoTokios => case.run(leak(tokio::Two::start(tokio::Lower::Plain)?)),
        #[cfg(feature = "tokio")]
        Subject::TwoTokiosIdle => case.run(leak(tokio::Two::start(tokio::Lower::Idle)?)),
        #[cfg(feature = "tokio")]
        Subject::TwoTokiosNice10 => case.run(leak(tokio::Two::start(tokio::Lower::Nice10)?)),
        other => {
            let _ = case;
            bail!(
                "{} cannot run this case, or this build lacks it",
                other.name()
            )
        }
    }
}
