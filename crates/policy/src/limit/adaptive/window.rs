//! What is measured of calls between two instants.

use core::time::Duration;

use flyball_core::time::Timestamp;

/// CPU time of the work that a limit admits, each summed over its threads since any instant in the past: only differences count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuTime {
    /// How long it ran.
    pub ran: Duration,
    /// How long it was ready to run and did not: waited for a CPU, or, a future, from its wake-up to its poll.
    pub waited: Duration,
}

impl CpuTime {
    /// What was added since `before`.
    #[must_use]
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// What was measured of the calls of a window.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Window {
    /// When it began.
    pub from: Timestamp,
    /// When it ended.
    pub to: Timestamp,
    /// Calls that ended with a latency to count.
    pub completions: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Calls in flight, mean over time.
    pub in_flight_mean: f64,
    /// The most calls in flight.
    pub in_flight_max: u32,
    /// The part of the window in which the limit was reached, 0 to 1.
    pub full_share: f64,
    /// Calls in flight while it was, mean over time; 0 if it never was.
    pub in_flight_full_mean: f64,
    /// Mean latency of the calls that count; zero without any.
    pub latency_mean: Duration,
    /// The least latency; zero without any.
    pub latency_min: Duration,
    /// Standard deviation of latency over its mean; zero without calls.
    pub latency_variation: f64,
    /// The part of the time of all calls in which they were ready and had no CPU, 0 to 1.
    pub run_delay_share: Option<f64>,
    /// The part of the time of all calls in which they ran, 0 to 1.
    pub run_share: Option<f64>,
    /// Whether calls waited or were refused because of the limit.
    pub blocked: bool,
}

/// Calls in flight, integrated over time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Occupancy {
    from: Timestamp,
    last: Timestamp,
    /// Calls × nanoseconds.
    area: u128,
    /// Nanoseconds at the limit, and calls × nanoseconds of these.
    full_nanos: u64,
    full_area: u128,
    max: u32,
}

impl Occupancy {
    pub(super) fn new(now: Timestamp, in_flight: u32) -> Self {
        Self {
            from: now,
            last: now,
            area: 0,
            full_nanos: 0,
            full_area: 0,
            max: in_flight,
        }
    }

    /// Brings the integral up to now; since the last time there were `in_flight` calls, `full` if that was the limit.
    pub(super) fn advance(&mut self, now: Timestamp, in_flight: u32, full: bool) {
        let nanos = now.saturating_nanos_since(self.last);
        let area = u128::from(nanos) * u128::from(in_flight);
        self.area = self.area.saturating_add(area);
        if full {
            self.full_nanos = self.full_nanos.saturating_add(nanos);
            self.full_area = self.full_area.saturating_add(area);
        }
        self.last = self.last.max(now);
    }

    pub(super) fn seen(&mut self, in_flight: u32) {
        self.max = self.max.max(in_flight);
    }

    pub(super) fn from(&self) -> Timestamp {
        self.from
    }

    /// Nanoseconds up to the last event.
    pub(super) fn nanos(&self) -> u64 {
        self.last.saturating_nanos_since(self.from)
    }

    /// Time of all calls together, ns.
    pub(super) fn area(&self) -> f64 {
        self.area as f64
    }

    fn full_share(&self) -> f64 {
        self.full_nanos as f64 / self.nanos().max(1) as f64
    }

    fn full_mean(&self) -> f64 {
        self.full_area as f64 / self.full_nanos.max(1) as f64
    }

    fn mean(&self) -> f64 {
        match self.nanos() {
            0 => f64::from(self.max),
            nanos => self.area as f64 / nanos as f64,
        }
    }
}

/// Latencies: count, sum, least, scatter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latencies {
    pub(super) count: u64,
    pub(super) failures: u64,
    nanos: f64,
    squares: f64,
    least: u64,
}

impl Latencies {
    pub(super) fn add(&mut self, nanos: u64) {
        self.add_many(nanos, 1);
    }

    pub(super) fn add_many(&mut self, nanos: u64, times: u64) {
        if self.count == 0 {
            self.least = nanos;
        }
        self.least = self.least.min(nanos);
        self.count = self.count.saturating_add(times);
        self.nanos += nanos as f64 * times as f64;
        self.squares += nanos as f64 * nanos as f64 * times as f64;
    }

    pub(super) fn mean_nanos(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            self.nanos / self.count as f64
        }
    }

    /// Variance over the square of the mean.
    pub(super) fn squared_variation(&self) -> f64 {
        let mean = self.mean_nanos();
        if mean <= 0.0 {
            return 0.0;
        }
        (self.squares / self.count as f64 / (mean * mean) - 1.0).max(0.0)
    }

    pub(super) fn window(&self, occupancy: &Occupancy, blocked: bool) -> Window {
        Window {
            from: occupancy.from,
            to: occupancy.last,
            completions: self.count,
            failures: self.failures,
            in_flight_mean: occupancy.mean(),
            in_flight_max: occupancy.max,
            full_share: occupancy.full_share(),
            in_flight_full_mean: occupancy.full_mean(),
            latency_mean: Duration::from_nanos(self.mean_nanos() as u64),
            latency_min: Duration::from_nanos(self.least),
            latency_variation: crate::math::square_root(self.squared_variation()),
            run_delay_share: None,
            run_share: None,
            blocked,
        }
    }
}
