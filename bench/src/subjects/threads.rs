//! No pool at all: every closure gets a thread. Only the latency cases use it, with as many endless closures as there are
//! threads in the pools, to read the instrument: the backlog that bare threads get done is what the CPU gives.

use super::Closures;

pub struct Pool;

impl Closures for Pool {
    fn execute<F: FnOnce() + Send + 'static>(&self, f: F) {
        std::thread::spawn(f);
    }
}
