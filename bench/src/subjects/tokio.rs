//! tokio's multi-thread runtime, once, and twice with the lower one held back by the kernel.

use super::{Closures, Futures, THREADS, Tokio};
use crate::sys;
use anyhow::Result;
use std::future::Future;
use tokio::runtime::{Builder, Runtime};

fn runtime(on_start: impl Fn() + Send + Sync + 'static) -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    Ok(builder
        .worker_threads(THREADS)
        .enable_all()
        .on_thread_start(on_start)
        .build()?)
}

/// One runtime for everything.
pub struct One(Runtime);

impl One {
    pub fn start() -> Result<Self> {
        Ok(One(runtime(|| {})?))
    }
}

impl Closures for One {
    fn execute<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.0.spawn(async move { f() });
    }
}

impl Futures for One {
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.0.spawn(future);
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        tokio::task::yield_now()
    }
}

impl Tokio for One {}

/// How the threads of the lower runtime are held back.
#[derive(Clone, Copy)]
pub enum Lower {
    Plain,
    Idle,
    Nice10,
}

/// A runtime for urgent work and one for the rest.
pub struct Two {
    front: Runtime,
    back: Runtime,
}

impl Two {
    pub fn start(lower: Lower) -> Result<Self> {
        let front = runtime(|| {})?;
        let back = runtime(move || match lower {
            Lower::Plain => {}
            Lower::Idle => sys::become_idle_class().expect("any thread may enter SCHED_IDLE"),
            Lower::Nice10 => sys::nice_thread(10).expect("any thread may become nicer"),
        })?;
        Ok(Two { front, back })
    }
}

impl Closures for Two {
    fn execute<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.back.spawn(async move { f() });
    }

    fn execute_front<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.front.spawn(async move { f() });
    }
}

impl Futures for Two {
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.back.spawn(future);
    }

    fn spawn_front<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.front.spawn(future);
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        tokio::task::yield_now()
    }
}

impl Tokio for Two {}
