//! Probes: tiny tasks by which the runtime's workers tell on which threads they are.
//!
//! A probe that is polled notes its thread, and which workers were parked at that moment: its own worker was not. It lets itself be polled a
//! few times more, so that workers that are woken meanwhile find one to steal. A probe that is dropped without having been polled says that the
//! runtime has shut down.

use crate::sys;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// Most answers that wait to be read; later ones are dropped.
const ANSWERS_MAX: usize = 1024;
/// How many times a probe lets itself be polled: long enough for a sleeping worker to wake up (about 50 µs), at about 1 µs a poll.
const POLLS: u8 = 64;

/// What a probe saw.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The thread that polled it.
    pub(super) thread: u32,
    /// For each worker, whether it was parked.
    pub(super) parked: Vec<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<VecDeque<Answer>>,
    outstanding: AtomicUsize,
    closed: AtomicBool,
}

/// Sends probes into one runtime and collects their answers.
#[derive(Debug, Default)]
pub(super) struct Probes {
    shared: Arc<Shared>,
}

impl Probes {
    /// Sends up to `count` probes, fewer if earlier ones are still waiting.
    pub(super) fn send(&self, handle: &Handle, count: usize) -> usize {
        let waiting = self.shared.outstanding.load(Ordering::Acquire);
        let count = count.saturating_sub(waiting);
        for _ in 0..count {
            self.shared.outstanding.fetch_add(1, Ordering::AcqRel);
            handle.spawn(Probe {
                shared: Arc::clone(&self.shared),
                polls: 0,
                last: 0,
            });
        }
        count
    }

    /// Takes the answers that came.
    pub(super) fn answers(&self) -> VecDeque<Answer> {
        let mut answers = self.lock();
        std::mem::take(&mut answers)
    }

    /// Whether the runtime was seen to have shut down.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Answer>> {
        self.shared
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Probe {
    shared: Arc<Shared>,
    polls: u8,
    last: u32,
}

impl Future for Probe {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let thread = sys::thread_id();
        if (self.polls == 0 || thread != self.last)
            && let Ok(handle) = Handle::try_current()
        {
            let figures = handle.metrics();
            let parked = (0..figures.num_workers())
                .map(|worker| figures.worker_park_unpark_count(worker) % 2 == 1)
                .collect();
            let mut answers = self
                .shared
                .answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if answers.len() < ANSWERS_MAX {
                answers.push_back(Answer { thread, parked });
            }
        }
        self.last = thread;
        self.polls += 1;
        if self.polls >= POLLS {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.polls == 0 {
            self.shared.closed.store(true, Ordering::Release);
        }
        self.shared.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}
