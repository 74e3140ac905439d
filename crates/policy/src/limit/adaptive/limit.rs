//! The limit itself: counts calls, closes windows, lets the algorithm set the number.

use flyball_core::time::{Timestamp, nanos_of};

use super::aimd::Aimd;
use super::cohort::Cohorts;
use super::config::{AdaptiveConfig, Algorithm};
use super::gradient::Gradient;
use super::run_delay::RunDelay;
use super::vegas::Vegas;
use super::window::{CpuTime, Latencies, Occupancy, Window};
use crate::Error;

/// No window is shorter: clocks, timers and the kernel's accounts have granularities of milliseconds.
const WINDOW_MIN_NANOS: u64 = 20_000_000;
/// A window is not longer than this, however few calls there are.
const WINDOW_MAX_NANOS: u64 = 1_000_000_000;
/// The calls that a window should have; or as many as the limit, if that is more.
const WINDOW_CALLS: u64 = 64;

/// A call that began; its end is told with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the call stays in flight until its end is told"]
pub struct Started {
    at: Timestamp,
    cohort: u32,
}

impl Started {
    /// When it began.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was served; its latency counts.
    Succeeded,
    /// It failed because there was too much to do: a time-out, a refusal by whom was called. For a limit by latency, its latency counts only
    /// if it is not shorter than that without a queue: a refusal comes at once, whatever a call takes.
    Failed,
    /// Its latency says nothing: a long stream, a fault that has nothing to do with load.
    Ignored,
}

/// Why the limit changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing was known, and nothing waited yet.
    Start,
    /// Calls were blocked although there was room for more.
    Room,
    /// Too many calls were ready and had no CPU.
    RunDelay,
    /// Calls took longer than without a queue.
    Latency,
    /// Calls failed.
    Failures,
    /// To measure the latency without a queue.
    Probe,
    /// The settings changed.
    Settings,
    /// It was told to begin anew.
    Reset,
}

impl Reason {
    /// Its name: `start`, `room`, `run_delay`, `latency`, `failures`, `probe`, `settings` or `reset`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Room => "room",
            Self::RunDelay => "run_delay",
            Self::Latency => "latency",
            Self::Failures => "failures",
            Self::Probe => "probe",
            Self::Settings => "settings",
            Self::Reset => "reset",
        }
    }

    /// Why, in words that follow "the limit changed, as".
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Start => "nothing is known yet and nothing waits for a CPU or in a queue",
            Self::Room => "calls were held up although there is room for more",
            Self::RunDelay => "too many calls were ready to run and had no CPU",
            Self::Latency => "calls take longer than without a queue",
            Self::Failures => "calls failed",
            Self::Probe => "the latency without a queue is measured anew",
            Self::Settings => "the settings changed",
            Self::Reset => "it was told to begin anew",
        }
    }
}

/// A change of the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The limit before.
    pub from: u32,
    /// The limit now.
    pub to: u32,
    /// Why.
    pub reason: Reason,
}

/// Figures of a limit.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct AdaptiveStats {
    /// Calls that began.
    pub started: u64,
    /// Calls that succeeded.
    pub succeeded: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls whose end did not count.
    pub ignored: u64,
    /// Times that a call was blocked.
    pub blocked: u64,
    /// Windows that were measured.
    pub windows: u64,
    /// Changes of the limit.
    pub changes: u64,
    /// The window that was measured last.
    pub last: Option<Window>,
}

#[derive(Clone, Debug)]
enum State {
    RunDelay(RunDelay),
    Vegas(Vegas),
    Gradient(Gradient),
    Aimd(Aimd),
    Fixed,
}

impl State {
    fn new(now: Timestamp, algorithm: &Algorithm) -> Self {
        match *algorithm {
            Algorithm::RunDelay { cpus } => Self::RunDelay(RunDelay::new(now, cpus)),
            Algorithm::Vegas { probe_every } => Self::Vegas(Vegas::new(now, probe_every)),
            Algorithm::Gradient { tolerance } => Self::Gradient(Gradient::new(tolerance)),
            Algorithm::Aimd {
                backoff,
                latency_max,
            } => Self::Aimd(Aimd::new(backoff, latency_max)),
            Algorithm::Fixed(_) => Self::Fixed,
        }
    }
}

/// A limit on calls in flight that finds its number. See the [module](super).
#[derive(Clone, Debug)]
pub struct AdaptiveLimit {
    config: AdaptiveConfig,
    state: State,
    /// The limit with its fraction, so that small steps add up.
    exact: f64,
    in_flight: u32,
    occupancy: Occupancy,
    latencies: Latencies,
    blocked: bool,
    cohorts: Cohorts,
    cpu: Option<CpuTime>,
    stats: AdaptiveStats,
}

impl AdaptiveLimit {
    /// Makes a limit under which nothing is in flight.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range.
    pub fn new(now: Timestamp, config: AdaptiveConfig) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            config,
            state: State::new(now, &config.algorithm),
            exact: f64::from(config.first()),
            in_flight: 0,
            occupancy: Occupancy::new(now, 0),
            latencies: Latencies::default(),
            blocked: false,
            cohorts: Cohorts::new(now, 0),
            cpu: None,
            stats: AdaptiveStats::default(),
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &AdaptiveConfig {
        &self.config
    }

    /// Changes the settings. What is in flight stays so; with another algorithm, what was learnt is forgotten but the limit, which is
    /// brought into the new bounds.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range; nothing has changed then.
    pub fn set_config(
        &mut self,
        now: Timestamp,
        config: AdaptiveConfig,
    ) -> Result<Option<Change>, Error> {
        config.check()?;
        if config.algorithm != self.config.algorithm {
            self.state = State::new(now, &config.algorithm);
            self.restart(now);
            self.cohorts.restart(now, self.in_flight);
        }
        let from = self.limit();
        self.config = config;
        if let Algorithm::Fixed(limit) = config.algorithm {
            self.exact = f64::from(limit);
        }
        Ok(self.set(from, self.exact, Reason::Settings))
    }

    /// Forgets what was learnt: the limit is what it is at first. Calls that are in flight stay so; figures go on.
    pub fn reset(&mut self, now: Timestamp) -> Option<Change> {
        let from = self.limit();
        self.state = State::new(now, &self.config.algorithm);
        self.restart(now);
        self.cohorts.restart(now, self.in_flight);
        self.set(from, f64::from(self.config.first()), Reason::Reset)
    }

    /// How many calls may be in flight.
    #[must_use]
    pub fn limit(&self) -> u32 {
        if let Algorithm::Fixed(limit) = self.config.algorithm {
            return limit;
        }
        ((self.exact + 0.5) as u32).clamp(self.config.min, self.config.max)
    }

    /// How many are.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether one more may begin.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight < self.limit()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> &AdaptiveStats {
        &self.stats
    }

    /// A call begins. The limit is not enforced here: whoever only observes begins more than there is room for.
    pub fn on_start(&mut self, now: Timestamp) -> Started {
        self.advance(now);
        self.in_flight = self.in_flight.saturating_add(1);
        self.occupancy.seen(self.in_flight);
        self.stats.started += 1;
        Started {
            at: now,
            cohort: self.cohorts.start(now, self.in_flight),
        }
    }

    /// A call ends.
    pub fn on_end(&mut self, now: Timestamp, started: Started, outcome: Outcome) {
        self.advance(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        let nanos = now.saturating_nanos_since(started.at);
        let late = match &self.state {
            State::Aimd(aimd) => aimd.latency_max.is_some_and(|most| nanos > nanos_of(most)),
            _ => false,
        };
        let unqueued = match &self.state {
            State::Vegas(vegas) => vegas.base_nanos(),
            State::Gradient(gradient) => gradient.usual_nanos(),
            State::RunDelay(_) | State::Aimd(_) | State::Fixed => Some(0.0),
        };
        let counted = match outcome {
            Outcome::Succeeded => true,
            Outcome::Failed => unqueued.is_some_and(|unqueued| nanos as f64 >= unqueued),
            Outcome::Ignored => false,
        };
        let failed = outcome == Outcome::Failed || (counted && late);
        if counted {
            self.latencies.add(nanos);
        }
        self.latencies.failures += u64::from(failed);
        self.cohorts
            .end(now, started.cohort, started.at, counted, failed);
        match outcome {
            Outcome::Succeeded => self.stats.succeeded += 1,
            Outcome::Failed => self.stats.failed += 1,
            Outcome::Ignored => self.stats.ignored += 1,
        }
    }

    /// Says how many calls are in flight, where only some of them are told by [`on_start`](Self::on_start) and [`on_end`](Self::on_end), as when a
    /// shell looks at one in so many: to be called after each of the two.
    pub fn set_in_flight(&mut self, now: Timestamp, in_flight: u32) {
        self.advance(now);
        self.in_flight = in_flight;
        self.occupancy.seen(in_flight);
    }

    /// A call has to wait or is refused because the limit is reached. The limit grows only after this was told.
    pub fn note_blocked(&mut self) {
        self.blocked = true;
        self.cohorts.block();
        self.stats.blocked += 1;
    }

    /// Whether a window is complete, so that [`step`](Self::step) would measure it. Reading CPU times costs; before this says yes they
    /// need not be read.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> bool {
        let nanos = now.saturating_nanos_since(self.occupancy.from());
        let wanted = match self.state {
            // Run delay adds up over time, not over calls.
            State::RunDelay(_) => 0,
            _ => WINDOW_CALLS.max(u64::from(self.limit())),
        };
        nanos >= WINDOW_MAX_NANOS || (nanos >= WINDOW_MIN_NANOS && self.latencies.count >= wanted)
    }

    /// Measures the window if one is complete, and sets the limit. `cpu` is what [`Algorithm::RunDelay`] goes by; without it, as when it could
    /// not be read, that algorithm leaves the limit as it is. To be called after each end, or a few times in 20 ms.
    pub fn step(&mut self, now: Timestamp, cpu: Option<CpuTime>) -> Option<Change> {
        self.advance(now);
        let from = self.limit();
        let exact = self.exact;
        let grouped = match &self.state {
            State::Vegas(vegas) => Some(vegas.wanted()),
            State::Gradient(_) => Some(WINDOW_CALLS.max(u64::from(from))),
            State::RunDelay(_) | State::Aimd(_) | State::Fixed => None,
        };
        let window = match grouped {
            Some(wanted) => self.cohorts.step(now, self.in_flight, wanted)?,
            None if self.due(now) => self.window(now, cpu),
            None => return None,
        };
        self.stats.windows += 1;
        self.stats.last = Some(window);
        let (wanted, reason) = match &mut self.state {
            State::RunDelay(state) => state.step(exact, &window),
            State::Vegas(state) => state.step(now, exact, &window),
            State::Gradient(state) => state.step(exact, &window),
            State::Aimd(state) => state.step(exact, &window),
            State::Fixed => None,
        }?;
        // What fails by time-outs takes the same time at any limit, which looks like a latency without a queue.
        let failing = grouped.is_some() && 2 * window.failures > window.completions;
        if failing && wanted > exact && reason != Reason::Probe {
            return None;
        }
        self.set(from, wanted, reason)
    }

    /// Closes the window.
    fn window(&mut self, now: Timestamp, cpu: Option<CpuTime>) -> Window {
        let mut window = self.latencies.window(&self.occupancy, self.blocked);
        let area = self.occupancy.area();
        if let (Some(cpu), Some(before)) = (cpu, self.cpu)
            && area > 0.0
        {
            let used = cpu.since(before);
            let part = |time| (nanos_of(time) as f64 / area).clamp(0.0, 1.0);
            window.run_delay_share = Some(part(used.waited));
            window.run_share = Some(part(used.ran));
        }
        self.cpu = cpu;
        self.restart(now);
        window
    }

    fn restart(&mut self, now: Timestamp) {
        self.occupancy = Occupancy::new(now, self.in_flight);
        self.latencies = Latencies::default();
        self.blocked = false;
    }

    fn advance(&mut self, now: Timestamp) {
        let full = !self.has_room();
        self.occupancy.advance(now, self.in_flight, full);
        self.cohorts.advance(now, self.in_flight, full);
    }

    fn set(&mut self, from: u32, wanted: f64, reason: Reason) -> Option<Change> {
        if wanted.is_finite() {
            let (min, max) = (f64::from(self.config.min), f64::from(self.config.max));
            self.exact = wanted.clamp(min, max);
        }
        let to = self.limit();
        (from != to).then(|| {
            self.stats.changes += 1;
            Change { from, to, reason }
        })
    }
}
