//! The thread that drives the executor's own tokio runtime, and at once runs what its driver wakes.
//!
//! A future that waits for a socket is woken by whoever polls the sockets. If that is another thread than the one that runs the
//! future, each message costs two more wake-ups across threads, which is most of what it costs at all. So the executor's runtime
//! is a current-thread one, and its one thread is a front worker of a special kind: while it has nothing to do it sleeps in
//! tokio's driver; futures of the front group that the driver wakes go to its ring, and it polls them before it goes back to the
//! driver. It takes nothing from the classes' queues, runs no closures and no back-group work, so that nothing long keeps it
//! from the sockets; when more than one future is ready, other front workers steal. Its slices are granted and charged like
//! those of any worker.
//!
//! There is none where the executor uses a runtime of its caller's: then that runtime's workers drive, and wakes cross.

use crate::dispatch;
use crate::error::Error;
use crate::os;
use crate::pool::{Pool, state};
use crate::spine::IO_WORKER;
use crate::worker::{Mode, Worker};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::task::Poll;
use tokio::runtime::Runtime;

/// The executor's own runtime, which may be dropped inside another runtime, when a start fails there.
pub(crate) struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    pub(crate) fn new(runtime: Runtime) -> Self {
        OwnRuntime(Some(runtime))
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts the thread; it ends, and the runtime with it, when the pool's stop flag is set and [`Pool::wake_io`] called.
pub(crate) fn start(
    pool: &Arc<Pool>,
    runtime: OwnRuntime,
) -> Result<std::thread::JoinHandle<()>, Error> {
    let owner = pool.clone();
    std::thread::Builder::new()
        .name(format!("{}-io", pool.config.thread_name))
        .spawn(move || run(owner, runtime))
        .map_err(|source| Error::Os {
            what: "start the I/O thread",
            source,
        })
}

fn run(pool: Arc<Pool>, own: OwnRuntime) {
    let Some(runtime) = &own.0 else {
        return;
    };
    // As for front workers; where it cannot be had, their event says so.
    let _ = os::set_slice(pool.config.front_slice);
    if pool.config.front_nice != 0 {
        let _ = os::set_priority(os::BackPriority::Nice(pool.config.front_nice));
    }
    let shared = pool.worker(IO_WORKER);
    *shared.clock.lock().unwrap_or_else(|e| e.into_inner()) =
        os::ThreadClock::of_current_thread().ok();
    *shared.thread_id.lock().unwrap_or_else(|e| e.into_inner()) = os::thread_id().ok();
    shared.started_at.store(pool.now().as_nanos(), SeqCst);
    shared.state.store(state::IDLE, SeqCst);
    let mut worker = Worker::new(pool.clone(), shared.clone(), Mode::Io);
    {
        let local = worker.local();
        // SAFETY: `local` is boxed in the worker, which outlives the guard: see the end of this block.
        let _entered = dispatch::enter(unsafe { &*local });
        runtime.block_on(poll_fn(|cx| {
            // In this order: whoever sets the flag looks for the waker afterwards.
            pool.set_io_waker(cx.waker());
            if pool.stop.load(SeqCst) {
                return Poll::Ready(());
            }
            worker.turn(cx.waker());
            Poll::Pending
        }));
        worker.leave();
    }
    *shared.clock.lock().unwrap_or_else(|e| e.into_inner()) = None;
    *shared.thread_id.lock().unwrap_or_else(|e| e.into_inner()) = None;
    shared.state.store(state::STOPPED, SeqCst);
    pool.notify_quiet();
}
