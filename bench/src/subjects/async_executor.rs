//! async-executor's work-stealing executor on plain threads.

use super::{Closures, Futures, THREADS};
use anyhow::Result;
use std::future::{Future, pending};

pub struct Pool(&'static async_executor::Executor<'static>);

impl Pool {
    pub fn start() -> Result<Self> {
        let executor: &'static async_executor::Executor<'static> =
            Box::leak(Box::new(async_executor::Executor::new()));
        for number in 0..THREADS {
            std::thread::Builder::new()
                .name(format!("async-{number}"))
                .spawn(move || futures_lite::future::block_on(executor.run(pending::<()>())))?;
        }
        Ok(Pool(executor))
    }
}

impl Closures for Pool {
    fn execute<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.0.spawn(async move { f() }).detach();
    }
}

impl Futures for Pool {
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.0.spawn(future).detach();
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        futures_lite::future::yield_now()
    }
}
