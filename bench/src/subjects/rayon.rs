//! A rayon pool: `spawn`, which goes to the worker's own deque from inside and to the injector from outside.

use super::{Closures, THREADS};
use anyhow::Result;

pub struct Pool(rayon::ThreadPool);

impl Pool {
    pub fn start() -> Result<Self> {
        Ok(Pool(
            rayon::ThreadPoolBuilder::new()
                .num_threads(THREADS)
                .build()?,
        ))
    }
}

impl Closures for Pool {
    fn execute<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.0.spawn(f);
    }
}
