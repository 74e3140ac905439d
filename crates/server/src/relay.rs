//! Wakes many requests for the price of one.
//!
//! The queue answers a group of requests from its own thread, one after the other. Each answer wakes the request that waits for it, and waking a
//! runtime from another thread is a system call where that runtime sleeps, and a lock where it does not. So wakers of requests are put on a list, and
//! only the first of a list wakes the runtime: there a task takes the list and wakes the requests from inside, which costs next to nothing.
//!
//! Invariant: a waker on the list, and a wake-up of [`Relay::run`] on its way. Whoever puts the first waker onto an empty list wakes it; it registers
//! before it takes the list.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// The list.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    woken: Vec<Waker>,
    /// Of the task that takes the list.
    taker: Option<Waker>,
}

impl Relay {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, waker: Waker) {
        let mut list = self.list();
        list.woken.push(waker);
        if list.woken.len() > 1 {
            return;
        }
        let taker = list.taker.clone();
        drop(list);
        if let Some(taker) = taker {
            taker.wake();
        }
    }

    /// Takes lists for ever. One task of the runtime that serves the requests runs this.
    pub(crate) async fn run(&self) {
        let mut woken = Vec::new();
        poll_fn(|cx| {
            {
                let mut list = self.list();
                match &list.taker {
                    Some(taker) if taker.will_wake(cx.waker()) => {}
                    _ => list.taker = Some(cx.waker().clone()),
                }
                // The two vectors are used in turn, so that neither is allocated anew.
                std::mem::swap(&mut list.woken, &mut woken);
            }
            for waker in woken.drain(..) {
                waker.wake();
            }
            Poll::Pending
        })
        .await
    }

    /// The future, woken by way of the list.
    pub(crate) fn through<F: Future + Unpin>(self: &Arc<Self>, inner: F) -> Through<F> {
        Through {
            inner,
            relay: self.clone(),
            slot: None,
        }
    }
}

/// A future that is woken by way of a list.
pub(crate) struct Through<F> {
    inner: F,
    relay: Arc<Relay>,
    slot: Option<(Arc<Slot>, Waker)>,
}

/// Stands in for the waker of a request.
struct Slot {
    relay: Arc<Relay>,
    request: Waker,
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.relay.add(self.request.clone());
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.relay.add(self.request.clone());
    }
}

impl<F: Future + Unpin> Future for Through<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let same = this
            .slot
            .as_ref()
            .is_some_and(|(slot, _)| slot.request.will_wake(cx.waker()));
        if !same {
            let slot = Arc::new(Slot {
                relay: this.relay.clone(),
                request: cx.waker().clone(),
            });
            this.slot = Some((slot.clone(), slot.into()));
        }
        match &this.slot {
            Some((_, waker)) => Pin::new(&mut this.inner).poll(&mut Context::from_waker(waker)),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(count: &Arc<Count>) -> usize {
        count.0.load(Ordering::Relaxed)
    }

    /// TASK-1: answers to a group wake the server once, and every request of the group is woken.
    #[test]
    fn a_group_wakes_its_taker_once() {
        let relay = Arc::new(Relay::default());
        let taker = Arc::new(Count::default());
        let taker_waker: Waker = taker.clone().into();
        let mut run = pin!(relay.run());
        let mut poll_taker = || {
            let polled = run.as_mut().poll(&mut Context::from_waker(&taker_waker));
            assert!(polled.is_pending());
        };
        poll_taker();
        let requests: Vec<Arc<Count>> = (0..5).map(|_| Arc::default()).collect();
        let mut answers = Vec::new();
        let mut futures: Vec<_> = requests
            .iter()
            .map(|request| {
                let (answer, wait) = tokio::sync::oneshot::channel::<usize>();
                answers.push(answer);
                (relay.through(wait), Waker::from(request.clone()))
            })
            .collect();
        for (future, waker) in &mut futures {
            assert!(
                Pin::new(future)
                    .poll(&mut Context::from_waker(waker))
                    .is_pending()
            );
        }
        for (number, answer) in answers.into_iter().enumerate() {
            answer.send(number).unwrap();
        }
        assert_eq!(count(&taker), 1);
        assert!(requests.iter().all(|request| count(request) == 0));
        poll_taker();
        assert!(requests.iter().all(|request| count(request) == 1));
        for (number, (future, waker)) in futures.iter_mut().enumerate() {
            let polled = Pin::new(future).poll(&mut Context::from_waker(waker));
            assert_eq!(polled, Poll::Ready(Ok(number)));
        }
        // The next group wakes it again; one from before its first poll is taken then.
        relay.add(requests[0].clone().into());
        assert_eq!(count(&taker), 2);
        poll_taker();
        assert_eq!(count(&requests[0]), 2);
    }
}
