//! The pool that people write in ten lines: an unbounded crossbeam channel of boxed closures, and threads that read it.

use super::{Closures, THREADS};
use anyhow::Result;
use crossbeam_channel::{Sender, unbounded};

type Job = Box<dyn FnOnce() + Send>;

pub struct Pool(Sender<Job>);

impl Pool {
    pub fn start() -> Result<Self> {
        let (sender, receiver) = unbounded::<Job>();
        for number in 0..THREADS {
            let receiver = receiver.clone();
            std::thread::Builder::new()
                .name(format!("crossbeam-{number}"))
                .spawn(move || {
                    for job in receiver {
                        job();
                    }
                })?;
        }
        Ok(Pool(sender))
    }
}

impl Closures for Pool {
    fn execute<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.0
            .send(Box::new(f))
            .expect("the workers hold the receiver for as long as the process lives");
    }
}
