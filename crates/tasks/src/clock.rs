//! The two clocks of a queue.

use flyball_core::time::{Clock, ManualClock, OsClock, WallTime};
use flyball_policy::queue::Now;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Called when time was moved by hand.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Tells the time of both clocks: the one that never jumps, and the calendar's.
pub trait Clocks: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Now;

    /// Takes a function to call whenever the time was moved by hand, so that who sleeps until a time looks again. A clock that runs by itself has
    /// no use for it.
    fn on_move(&self, wake: Waker) {
        drop(wake);
    }
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClocks;

impl Clocks for SystemClocks {
    fn now(&self) -> Now {
        Now {
            mono: OsClock.now(),
            wall: WallTime::now(),
        }
    }
}

/// Clocks that stand still until they are moved; clones share one time. For tests.
#[derive(Clone, Default)]
pub struct ManualClocks {
    mono: ManualClock,
    wall: Arc<AtomicU64>,
    moved: Arc<Mutex<Vec<Waker>>>,
}

impl fmt::Debug for ManualClocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClocks").field(&self.now()).finish()
    }
}

impl ManualClocks {
    /// Makes clocks; the calendar shows `wall`.
    #[must_use]
    pub fn starting_at(wall: WallTime) -> Self {
        let clocks = Self::default();
        clocks.wall.store(wall.unix_nanos(), Ordering::Release);
        clocks
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        self.mono.advance(by);
        let wall = self.now().wall.saturating_add(by);
        self.set_wall(wall);
    }

    /// Sets the calendar, as people do.
    pub fn set_wall(&self, to: WallTime) {
        self.wall.store(to.unix_nanos(), Ordering::Release);
        let wakers = self
            .moved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for wake in wakers {
            wake();
        }
    }
}

impl Clocks for ManualClocks {
    fn now(&self) -> Now {
        Now {
            mono: self.mono.now(),
            wall: WallTime::from_unix_nanos(self.wall.load(Ordering::Acquire)),
        }
    }

    fn on_move(&self, wake: Waker) {
        self.moved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(wake);
    }
}
