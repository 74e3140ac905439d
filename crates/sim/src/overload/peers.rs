//! Limiters of others, written down anew from their published descriptions and defaults, with bounds of 1 to 1,000.
//!
//! They run in the same simulator behind the same queue, which none of them has by itself.

use super::limiter::Peer;

const MS: u64 = 1_000_000;
const LIMIT_MAX: f64 = 1_000.0;

/// Envoy's adaptive concurrency filter, the gradient controller (its documentation; defaults: windows of 100 ms, median, minimum from 50 calls at a
/// concurrency of 3, buffer 25 %). Its minimum is measured anew each 60 s, later than a run here ends.
pub(crate) struct Envoy {
    limit: f64,
    before_probe: f64,
    probing: bool,
    min_rtt: f64,
    samples: Vec<u64>,
    window_end: u64,
    at_minimum: u32,
}

impl Envoy {
    const LIMIT_MIN: f64 = 3.0;

    pub(crate) fn new() -> Self {
        Self {
            limit: Self::LIMIT_MIN,
            before_probe: Self::LIMIT_MIN,
            probing: true,
            min_rtt: 0.0,
            samples: Vec::new(),
            window_end: 100 * MS,
            at_minimum: 0,
        }
    }

    fn median(&mut self) -> f64 {
        self.samples.sort_unstable();
        let middle = self.samples.len() / 2;
        let median = self.samples.get(middle).copied().unwrap_or(0);
        self.samples.clear();
        median as f64
    }
}

impl Peer for Envoy {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn end(&mut self, now: u64, latency_ns: u64, _late: bool, _in_flight: u32) {
        self.samples.push(latency_ns);
        if self.probing {
            if self.samples.len() >= 50 {
                self.min_rtt = self.median();
                self.probing = false;
                self.limit = self.before_probe;
                self.window_end = now + 100 * MS;
            }
            return;
        }
        if now < self.window_end {
            return;
        }
        self.window_end = now + 100 * MS;
        let sample = self.median().max(1.0);
        let gradient = (self.min_rtt * 1.25 / sample).clamp(0.5, 2.0);
        let wanted = self.limit * gradient;
        self.limit = (wanted + wanted.sqrt()).clamp(Self::LIMIT_MIN, LIMIT_MAX);
        self.at_minimum = if self.limit <= Self::LIMIT_MIN {
            self.at_minimum + 1
        } else {
            0
        };
        if self.at_minimum >= 5 {
            self.at_minimum = 0;
            self.before_probe = self.limit;
            self.probing = true;
        }
    }
}

/// Means over windows of a second with at least ten calls (Netflix `concurrency-limits`, `WindowedLimit`).
struct Windowed {
    sum: f64,
    count: u32,
    in_flight_max: u32,
    late: bool,
    end: u64,
}

impl Windowed {
    fn new() -> Self {
        Self {
            sum: 0.0,
            count: 0,
            in_flight_max: 0,
            late: false,
            end: 1_000 * MS,
        }
    }

    /// Mean latency, greatest number in flight and whether any was late, once a second.
    fn end(
        &mut self,
        now: u64,
        latency_ns: u64,
        late: bool,
        in_flight: u32,
    ) -> Option<(f64, u32, bool)> {
        self.sum += latency_ns as f64;
        self.count += 1;
        self.in_flight_max = self.in_flight_max.max(in_flight);
        self.late |= late;
        if now < self.end || self.count < 10 {
            return None;
        }
        let window = (
            self.sum / f64::from(self.count),
            self.in_flight_max,
            self.late,
        );
        *self = Self {
            end: now + 1_000 * MS,
            ..Self::new()
        };
        Some(window)
    }
}

/// Netflix `concurrency-limits`, `VegasLimit`, windowed; its defaults.
pub(crate) struct NetflixVegas {
    window: Windowed,
    limit: f64,
    no_load: f64,
    probes: f64,
}

impl NetflixVegas {
    pub(crate) fn new() -> Self {
        Self {
            window: Windowed::new(),
            limit: 20.0,
            no_load: 0.0,
            probes: 0.0,
        }
    }
}

impl Peer for NetflixVegas {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn end(&mut self, now: u64, latency_ns: u64, _late: bool, in_flight: u32) {
        let Some((rtt, in_flight, _)) = self.window.end(now, latency_ns, false, in_flight) else {
            return;
        };
        self.probes += 1.0;
        // The jitter of the probe, 0.5 to 1 in the original, is its mean here.
        if self.probes >= 0.75 * 30.0 * self.limit {
            self.probes = 0.0;
            self.no_load = rtt;
            return;
        }
        if self.no_load == 0.0 || rtt < self.no_load {
            self.no_load = rtt;
            return;
        }
        if f64::from(in_flight) * 2.0 < self.limit {
            return;
        }
        let queued = (self.limit * (1.0 - self.no_load / rtt)).ceil();
        let log = self.limit.log10().floor().max(1.0);
        self.limit = if queued <= log {
            self.limit + 6.0 * log
        } else if queued < 3.0 * log {
            self.limit + log
        } else if queued > 6.0 * log {
            self.limit - log
        } else {
            self.limit
        }
        .clamp(1.0, LIMIT_MAX);
    }
}

/// Netflix `concurrency-limits`, `Gradient2Limit`, windowed; its defaults but the bounds.
pub(crate) struct Gradient2 {
    window: Windowed,
    limit: f64,
    long: f64,
    windows: f64,
}

impl Gradient2 {
    pub(crate) fn new() -> Self {
        Self {
            window: Windowed::new(),
            limit: 20.0,
            long: 0.0,
            windows: 0.0,
        }
    }
}

impl Peer for Gradient2 {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn end(&mut self, now: u64, latency_ns: u64, late: bool, in_flight: u32) {
        let Some((short, in_flight, _)) = self.window.end(now, latency_ns, late, in_flight) else {
            return;
        };
        self.windows += 1.0;
        // A plain mean of the first ten, an exponential one with a window of 600 from then on.
        let weight = if self.windows <= 10.0 {
            1.0 / self.windows
        } else {
            2.0 / 601.0
        };
        self.long += (short - self.long) * weight;
        if self.long > 2.0 * short {
            self.long *= 0.95;
        }
        if f64::from(in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (1.5 * self.long / short).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + 4.0;
        self.limit = (self.limit * 0.8 + wanted * 0.2).clamp(1.0, LIMIT_MAX);
    }
}

/// Netflix `concurrency-limits`, `AIMDLimit`, with the deadline of callers as its time-out.
pub(crate) struct NetflixAimd {
    limit: f64,
}

impl NetflixAimd {
    pub(crate) fn new() -> Self {
        Self { limit: 20.0 }
    }
}

impl Peer for NetflixAimd {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn end(&mut self, _now: u64, _latency_ns: u64, late: bool, in_flight: u32) {
        self.limit = if late {
            self.limit * 0.9
        } else if f64::from(in_flight) * 2.0 >= self.limit {
            self.limit + 1.0
        } else {
            self.limit
        }
        .clamp(1.0, LIMIT_MAX);
    }
}
