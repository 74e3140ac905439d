//! A future that is followed: how long it ran, and how long it was ready and was not polled.
//!
//! Only the calls that are sampled are followed; theirs are scaled up to stand for all. A future is polled with a waker that notes the time when it is woken
//! and passes the wake-up on. The time from there to its next poll is what it waited in the runtime's queue: the run delay of a future.
//!
//! Invariant: the first wake-up after a poll counts, and a wake-up is always passed on, after it was noted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use flyball_core::time::{Source, Timestamp};

use crate::shell::lock;

/// Stands for "not woken".
const ASLEEP: u64 = u64::MAX;

#[derive(Debug)]
struct Alarm {
    clock: Source,
    /// When it was woken, nanoseconds.
    woken: AtomicU64,
    /// Who is woken in turn.
    waker: Mutex<Waker>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let now = self.clock.now().as_nanos();
        let _ = self
            .woken
            .compare_exchange(ASLEEP, now, Ordering::Relaxed, Ordering::Relaxed);
        let waker = lock(&self.waker).clone();
        waker.wake();
    }
}

/// What followed futures did together, nanoseconds; each counts as many times as calls it stands for.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) polled: AtomicU64,
    pub(crate) waited: AtomicU64,
    handed: Mutex<Handed>,
}

/// Work that was handed over and has not begun.
#[derive(Debug, Default)]
struct Handed {
    /// With how many calls it stands for.
    calls: u64,
    /// The sum of the instants since which these wait, ns.
    since: u128,
}

impl Sums {
    /// Somebody waits from now on. It counts as it waits: what is held back may not begin for minutes, and looks meanwhile as if it waited for no thread.
    pub(crate) fn hand(&self, now: Timestamp, weight: u64) {
        let mut handed = lock(&self.handed);
        handed.calls = handed.calls.saturating_add(weight);
        handed.since += u128::from(now.as_nanos()) * u128::from(weight);
    }

    /// Who was handed over then waits no longer.
    pub(crate) fn take(&self, since: Timestamp, now: Timestamp, weight: u64) {
        let mut handed = lock(&self.handed);
        handed.calls = handed.calls.saturating_sub(weight);
        let waits = u128::from(since.as_nanos()) * u128::from(weight);
        handed.since = handed.since.saturating_sub(waits);
        let waited = now.saturating_nanos_since(since).saturating_mul(weight);
        // Under the lock, so that nobody reads it in neither place.
        self.waited.fetch_add(waited, Ordering::Relaxed);
    }

    /// Somebody ran for so long.
    pub(crate) fn ran(&self, took: Duration, weight: u64) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.polled
            .fetch_add(nanos.saturating_mul(weight), Ordering::Relaxed);
    }

    /// How long all have waited up to now.
    pub(crate) fn waited(&self, now: Timestamp) -> u64 {
        let handed = lock(&self.handed);
        let until = u128::from(now.as_nanos()) * u128::from(handed.calls);
        let waits = until.saturating_sub(handed.since);
        let waits = u64::try_from(waits).unwrap_or(u64::MAX);
        self.waited.load(Ordering::Relaxed).saturating_add(waits)
    }
}

/// Follows one future.
#[derive(Debug)]
pub(crate) struct Follower {
    alarm: Arc<Alarm>,
    waker: Waker,
}

impl Follower {
    pub(crate) fn new(clock: &Source, waker: &Waker) -> Self {
        let alarm = Arc::new(Alarm {
            clock: clock.clone(),
            woken: AtomicU64::new(ASLEEP),
            waker: Mutex::new(waker.clone()),
        });
        let waker = Waker::from(Arc::clone(&alarm));
        Self { alarm, waker }
    }

    /// Polls it once.
    pub(crate) fn poll<T>(
        &self,
        context: &Context<'_>,
        sums: &Sums,
        weight: u64,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let alarm = &*self.alarm;
        lock(&alarm.waker).clone_from(context.waker());
        let began = alarm.clock.now().as_nanos();
        let woken = alarm.woken.swap(ASLEEP, Ordering::Relaxed);
        if woken != ASLEEP {
            let waited = began.saturating_sub(woken).saturating_mul(weight);
            sums.waited.fetch_add(waited, Ordering::Relaxed);
        }
        let polled = poll(&mut Context::from_waker(&self.waker));
        let took = alarm.clock.now().as_nanos().saturating_sub(began);
        sums.polled
            .fetch_add(took.saturating_mul(weight), Ordering::Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use flyball_core::time::ManualClock;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// CPU-22: work that was handed over waits while it does, not once it has begun; what waited is told once.
    #[test]
    fn what_is_handed_over_waits_as_it_does() {
        let at = |millis: u64| Timestamp::from_nanos(millis * 1_000_000);
        let waited = |sums: &Sums, millis| sums.waited(at(millis)) / 1_000_000;
        let sums = Sums::default();
        sums.hand(at(100), 1);
        sums.hand(at(110), 4);
        assert_eq!(waited(&sums, 120), 20 + 40);
        sums.take(at(110), at(120), 4);
        assert_eq!(waited(&sums, 120), 20 + 40);
        assert_eq!(waited(&sums, 200), 100 + 40);
        assert_eq!(waited(&sums, 50), 40, "time that goes back");
        sums.take(at(100), at(200), 1);
        assert_eq!(waited(&sums, 900), 100 + 40);
    }

    /// CPU-22: the time between the first wake-up and the poll is run delay, that of the poll itself is not.
    #[test]
    fn what_was_woken_waits_until_it_is_polled() {
        let clock = ManualClock::new();
        let source = Source::Manual(clock.clone());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let (follower, sums) = (Follower::new(&source, &waker), Sums::default());
        let context = Context::from_waker(&waker);
        let mut inner = None;
        let millis = Duration::from_millis;
        for _ in 0..2 {
            let polled = follower.poll(&context, &sums, 4, |context| {
                clock.advance(millis(3));
                inner = Some(context.waker().clone());
                Poll::<()>::Pending
            });
            assert!(polled.is_pending());
            clock.advance(millis(100)); // asleep
            inner.as_ref().unwrap().wake_by_ref();
            clock.advance(millis(5));
            inner.as_ref().unwrap().wake_by_ref();
            clock.advance(millis(5));
        }
        let told = |sum: &AtomicU64| Duration::from_nanos(sum.load(Ordering::Relaxed));
        assert_eq!(told(&sums.polled), millis(2 * 3 * 4));
        assert_eq!(
            told(&sums.waited),
            millis(10 * 4),
            "the second was not polled yet"
        );
        assert_eq!(count.0.load(Ordering::Relaxed), 4, "all are passed on");
    }
}
