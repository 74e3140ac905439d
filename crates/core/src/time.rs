//! Time: instants, and the clocks that tell them.
//!
//! A [`Timestamp`] counts nanoseconds since an epoch that is arbitrary but the same for all clocks of a process (the
//! epoch of the kernel's `CLOCK_MONOTONIC`), so the values of [`OsClock`] and [`TscClock`] can be compared. 64 bits last
//! for 584 years, so arithmetic saturates rather than wraps: an instant can never appear to lie in the past because a
//! sum overflowed.
//!
//! What takes the time as an argument can be tested under [`ManualClock`]; nothing outside this module may ask the
//! operating system. Calendar time is a number of
//! nanoseconds ([`WallTime`]), for calendar entries and display. Absent on purpose: time zones, timers.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

#[cfg(feature = "std")]
mod os;
#[cfg(feature = "std")]
mod tsc;

#[cfg(feature = "std")]
pub use os::{OsClock, process_cpu_nanos, thread_cpu_nanos, unix_nanos};
#[cfg(feature = "std")]
pub use tsc::TscClock;

/// An instant of the calendar: nanoseconds since 1970 UTC, leap seconds not counted. The clock behind it is set by people and may jump
/// either way, so no span may be measured with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WallTime(u64);

impl WallTime {
    /// Makes an instant from nanoseconds since 1970.
    #[inline]
    pub const fn from_unix_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since 1970.
    #[inline]
    pub const fn unix_nanos(self) -> u64 {
        self.0
    }

    /// Returns the instant that much later, at most the last that can be told (in the year 2554).
    #[inline]
    pub const fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos_of(duration)))
    }

    /// Returns the instant that much earlier, at least 1970.
    #[inline]
    pub const fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos_of(duration)))
    }

    /// Returns how much later this is, zero if it is not.
    #[inline]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Reads the calendar.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn now() -> Self {
        Self(unix_nanos())
    }
}

/// An instant: nanoseconds since an arbitrary epoch shared by the clocks of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The epoch itself.
    pub const ZERO: Self = Self(0);
    /// The last instant that can be told; stands for "never".
    pub const MAX: Self = Self(u64::MAX);

    /// Makes an instant from nanoseconds since the epoch.
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the epoch.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the instant `nanos` later, at most [`Timestamp::MAX`].
    #[inline]
    pub const fn saturating_add_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Returns the instant `nanos` earlier, at least [`Timestamp::ZERO`].
    #[inline]
    pub const fn saturating_sub_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }

    /// Returns the instant `duration` later, at most [`Timestamp::MAX`].
    #[inline]
    pub const fn saturating_add(self, duration: Duration) -> Self {
        self.saturating_add_nanos(nanos_of(duration))
    }

    /// Returns the instant `duration` earlier, at least [`Timestamp::ZERO`].
    #[inline]
    pub const fn saturating_sub(self, duration: Duration) -> Self {
        self.saturating_sub_nanos(nanos_of(duration))
    }

    /// Returns the nanoseconds from `earlier` to this instant; zero if `earlier` is later.
    #[inline]
    pub const fn saturating_nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the time from `earlier` to this instant; zero if `earlier` is later.
    #[inline]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.saturating_nanos_since(earlier))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}s",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}

/// Returns the nanoseconds of a duration, at most [`u64::MAX`] (584 years).
#[inline]
pub const fn nanos_of(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// A clock that never goes back.
pub trait Clock: Send + Sync {
    /// Returns the present instant.
    fn now(&self) -> Timestamp;
}

/// A clock that stands still until it is told to move; clones share one time. For tests and simulation.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// Makes a clock that shows [`Timestamp::ZERO`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a clock that shows `start`.
    pub fn starting_at(start: Timestamp) -> Self {
        Self {
            nanos: Arc::new(AtomicU64::new(start.0)),
        }
    }

    /// Moves the clock forward, at most to [`Timestamp::MAX`].
    pub fn advance(&self, by: Duration) {
        let by = nanos_of(by);
        // The closure never answers None, so the update cannot fail.
        let _ = self
            .nanos
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                Some(now.saturating_add(by))
            });
    }

    /// Sets the clock to `to`; an earlier instant than the one shown is ignored, as a clock never goes back.
    pub fn set(&self, to: Timestamp) {
        self.nanos.fetch_max(to.0, Ordering::AcqRel);
    }
}

impl Clock for ManualClock {
    #[inline]
    fn now(&self) -> Timestamp {
        Timestamp(self.nanos.load(Ordering::Acquire))
    }
}

/// The clock that an engine was given: a closed choice, so that reading it costs a branch rather than a virtual call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// The processor's time stamp counter.
    #[cfg(feature = "std")]
    Tsc(TscClock),
    /// The kernel's monotonic clock.
    #[cfg(feature = "std")]
    Os,
    /// A clock moved by hand.
    Manual(ManualClock),
}

impl Source {
    /// Returns the cheapest sound clock of this machine: the time stamp counter where it is trustworthy, else the
    /// kernel's clock. The first call of a process may take 5 ms (calibration).
    #[cfg(feature = "std")]
    pub fn best() -> Self {
        match TscClock::get() {
            Some(tsc) => Self::Tsc(tsc),
            None => Self::Os,
        }
    }

    /// Returns the present instant.
    #[inline]
    pub fn now(&self) -> Timestamp {
        match self {
            #[cfg(feature = "std")]
            Self::Tsc(tsc) => tsc.now(),
            #[cfg(feature = "std")]
            Self::Os => OsClock.now(),
            Self::Manual(clock) => clock.now(),
        }
    }
}

impl Clock for Source {
    #[inline]
    fn now(&self) -> Timestamp {
        Source::now(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Timestamp::MAX.saturating_add_nanos(1), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(
            Timestamp::ZERO.saturating_sub(Duration::from_secs(1)),
            Timestamp::ZERO
        );
        let (early, late) = (Timestamp::from_nanos(5), Timestamp::from_nanos(12));
        assert_eq!(late.saturating_nanos_since(early), 7);
        assert_eq!(early.duration_since(late), Duration::ZERO);
    }

    #[test]
    fn a_manual_clock_moves_only_forward_and_clones_share_it() {
        let clock = ManualClock::starting_at(Timestamp::from_nanos(10));
        let twin = Source::Manual(clock.clone());
        clock.advance(Duration::from_nanos(5));
        assert_eq!(twin.now(), Timestamp::from_nanos(15));
        clock.set(Timestamp::from_nanos(3));
        assert_eq!(twin.now(), Timestamp::from_nanos(15));
        clock.set(Timestamp::from_nanos(30));
        assert_eq!(twin.now(), Timestamp::from_nanos(30));
        clock.advance(Duration::MAX);
        assert_eq!(twin.now(), Timestamp::MAX);
    }

    #[test]
    fn displays_seconds_and_nanoseconds() {
        assert_eq!(
            alloc::format!("{}", Timestamp::from_nanos(1_500_000_007)),
            "1.500000007s"
        );
    }

    #[cfg(feature = "std")]
    #[test]
    fn the_clocks_of_the_system_never_go_back_and_share_an_epoch() {
        let best = Source::best();
        let mut last = best.now();
        for _ in 0..10_000 {
            let now = best.now();
            assert!(now >= last);
            last = now;
        }
        // Reads of the two clocks enclose each other but for the drift that `TscClock` states: one part in a thousand
        // is far more than that, a wrong epoch far more than one part in a thousand.
        let before = OsClock.now();
        let between = best.now();
        let after = OsClock.now();
        let slack = Duration::from_secs(1);
        assert!(between.saturating_add(slack) >= before && after.saturating_add(slack) >= between);
    }

    #[cfg(feature = "std")]
    #[test]
    fn cpu_clocks_count_work() {
        let (thread, process) = (thread_cpu_nanos(), process_cpu_nanos());
        let mut sum = 0u64;
        for i in 0..2_000_000u64 {
            sum = core::hint::black_box(sum.wrapping_add(i));
        }
        assert!(thread_cpu_nanos() > thread);
        assert!(process_cpu_nanos() > process);
    }
}
