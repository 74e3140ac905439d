//! A circuit breaker: a dependency that fails most calls is spared, and tried again little by little.
//!
//! ```text
//!            most calls of the window fail or are slow              the wait is over
//!   closed ─────────────────────────────────────────────► open ──────────────────────► half-open
//!      ▲                                                    ▲                              │ rounds of 1, 2, 4, … probes
//!      └────────────────── all rounds went well ────────────┴──── most of a round failed ──┘
//! ```
//!
//! - **Evidence.** Calls are counted exactly, in ten buckets of time. The breaker opens when the lower bound of the rate (Wilson, 95 %) is above the
//!   threshold and there were `min_calls`: 15 failures of 20, or 60 of 100, where one half is the threshold. A plain rate would open on chance.
//! - **Calls that hang** say nothing until they time out. Where slow calls count, one that is out for longer than `slow_call` counts as slow while it is.
//! - **Waits** between tries are drawn by decorrelated jitter, from `open_min` up to `open_max`, and grow on until the breaker has stayed closed for a window: a
//!   dependency that falls over as soon as it is let go is let go less and less.
//! - **Rounds** of probes double, so that a dependency that came back cold is not hit by everybody at once. A probe that was given back is tried by another
//!   call; a round whose probes are out for `open_max` is lost.
//! - **Softer first**, if asked for: while closed, a call is refused with p = max(0, (requests − K × accepted) ÷ (requests + 1)). Requests count when
//!   they are made, not when they end, else a dependency that hangs looked well. It is for a dependency that still does a part: simulated, one that serves a
//!   quarter of the calls goes on serving all of that quarter and is spared four fifths of the rest, where a breaker that opens gets an eighth of it.
//!
//! Calls that began before the last change of state say nothing about the state after it, and are not counted.
//!
//! A breaker that only *observes* goes the same way on the same evidence: a call that it would have refused is counted as refused and let through, and how it
//! ends says nothing, as nobody would know.
//!
//! Sources: M. Nygard, "Release It!" (2007); E. B. Wilson, "Probable Inference" (1927); M. Brooker, "Exponential Backoff And Jitter" (2015); Google,
//! "Site Reliability Engineering", chapter 21 (client-side throttling).
//!
//! Leaves out which results are failures: the caller says.

use core::time::Duration;

use flyball_core::rng::Rng;
use flyball_core::time::{Timestamp, nanos_of};

use crate::Error;

#[cfg(test)]
mod tests;
mod window;

use window::Window;

/// Settings of a [`Breaker`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BreakerConfig {
    /// How far back calls count, 10 ms to 1 h: 10 s unless set. Cut into ten buckets.
    pub window: Duration,
    /// Fewer calls than this prove nothing, 1 to 1,000,000: 20 unless set.
    pub min_calls: u32,
    /// Opens when more than this part of the calls fail, above 0 and below 1: 0.5 unless set.
    pub failure_rate: f64,
    /// Opens when more than this part of the calls are slow, above 0 and below 1: 0.5 unless set.
    pub slow_rate: f64,
    /// A call that takes this long or longer is slow; unless set, none is.
    pub slow_call: Option<Duration>,
    /// The shortest wait before the dependency is tried again, at least 1 ms: 1 s unless set.
    pub open_min: Duration,
    /// The longest, at most a day: 60 s unless set.
    pub open_max: Duration,
    /// How many rounds of 1, 2, 4, … probes must go well before it closes, 1 to 16: 4 unless set.
    pub probe_rounds: u32,
    /// Softer first: the factor K, 1 to 10, of calls made to calls accepted beyond which some are refused. 2 is usual, 1.1 where a refused call costs
    /// the dependency about as much as a served one. Set `failure_rate` to 0.9 or so beside it, else the breaker opens before the throttle has found the
    /// balance, at which a part of (K − 1) ÷ K of the calls fails. Off unless set.
    pub throttle: Option<f64>,
    /// Decides and counts as ever, and refuses nobody. Off unless set.
    pub observe: bool,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            min_calls: 20,
            failure_rate: 0.5,
            slow_rate: 0.5,
            slow_call: None,
            open_min: Duration::from_secs(1),
            open_max: Duration::from_secs(60),
            probe_rounds: 4,
            throttle: None,
            observe: false,
        }
    }
}

impl BreakerConfig {
    /// Says whether the settings make sense.
    ///
    /// # Errors
    /// [`Error::Limit`] for one that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        const DAY: Duration = Duration::from_secs(86_400);
        const HOUR: Duration = Duration::from_secs(3_600);
        let rate = |rate: f64| rate > 0.0 && rate < 1.0;
        let checks = [
            (
                (Duration::from_millis(10)..=HOUR).contains(&self.window),
                "window",
                "10 ms to 1 h",
            ),
            (
                (1..=1_000_000).contains(&self.min_calls),
                "min_calls",
                "1 to 1,000,000",
            ),
            (
                rate(self.failure_rate),
                "failure_rate",
                "above 0 and below 1",
            ),
            (rate(self.slow_rate), "slow_rate", "above 0 and below 1"),
            (
                self.slow_call != Some(Duration::ZERO),
                "slow_call",
                "above 0",
            ),
            (
                self.open_min >= Duration::from_millis(1),
                "open_min",
                "at least 1 ms",
            ),
            (
                (self.open_min..=DAY).contains(&self.open_max),
                "open_max",
                "open_min to a day",
            ),
            (
                (1..=16).contains(&self.probe_rounds),
                "probe_rounds",
                "1 to 16",
            ),
            (
                self.throttle.is_none_or(|k| (1.0..=10.0).contains(&k)),
                "throttle",
                "1 to 10",
            ),
        ];
        for (holds, field, expected) in checks {
            if !holds {
                return Err(Error::Limit {
                    of: "breaker",
                    field,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// What somebody decided in place of the breaker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Forced {
    /// No call is let through.
    Open,
    /// All are. They are counted all the same.
    Closed,
}

/// What a breaker does now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum BreakerState {
    /// Lets calls through.
    Closed,
    /// Refuses them.
    Open,
    /// Lets a few through, to see.
    HalfOpen,
}

impl BreakerState {
    /// Its name in API and log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

/// The generation of calls that are let through though they would have been refused: of no state.
const UNCOUNTED: u64 = u64::MAX;

/// A call that was let through. Hand it back with [`Breaker::leave`], once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a call that is not handed back counts as one that hangs"]
pub struct Ticket {
    started: Timestamp,
    generation: u64,
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The dependency did what it should.
    Success,
    /// It did not.
    Failure,
    /// Nothing is known: the call was given up, or failed for a cause that is not the dependency's. If it took `slow_call` until then it counts as slow, else
    /// not at all.
    Unknown,
}

/// Why a call was refused, and when trying again makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The breaker is open until then.
    Open(Timestamp),
    /// It is half-open, and there are enough probes out.
    Probing,
    /// Somebody forced it open.
    Forced,
    /// One of those that are refused so that the others are served.
    Throttled,
}

/// What is known of a breaker.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// What it does now.
    pub state: BreakerState,
    /// Whether that was forced.
    pub forced: Option<Forced>,
    /// Since when; `None` since it was made.
    pub since: Option<Timestamp>,
    /// When an open breaker tries the dependency again.
    pub until: Option<Timestamp>,
    /// Calls of the window that have ended, or are overdue.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Those of them that were slow, those overdue included.
    pub slow: u64,
    /// Calls that are out, of the window.
    pub in_flight: u64,
    /// Probes that may be out at once, while it is half-open.
    pub probes: Option<u32>,
    /// Calls refused since it was made; of one that observes, those that would have been.
    pub refused: u64,
    /// How often it opened since it was made.
    pub opened: u64,
}

impl BreakerStatus {
    /// The part of the calls that failed; `None` if there were none.
    #[must_use]
    pub fn failure_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.failures as f64 / self.calls as f64)
    }

    /// The part of the calls that were slow; `None` if there were none.
    #[must_use]
    pub fn slow_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.slow as f64 / self.calls as f64)
    }
}

/// A round of probes.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// From 0; it has 2 to this power probes.
    number: u32,
    /// When the last probe went out, or the round began.
    last: Timestamp,
    taken: u32,
    ended: u32,
    failed: u32,
    slow: u32,
}

impl Round {
    fn new(number: u32, last: Timestamp) -> Self {
        Self {
            number,
            last,
            taken: 0,
            ended: 0,
            failed: 0,
            slow: 0,
        }
    }

    fn size(&self) -> u32 {
        1 << self.number
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open { until: Timestamp },
    HalfOpen(Round),
}

/// A circuit breaker of one dependency.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    rng: Rng,
    state: State,
    forced: Option<Forced>,
    since: Option<Timestamp>,
    /// Grows with each change of state and each round, so that calls of an earlier one are known.
    generation: u64,
    window: Window,
    /// The last wait, from which the next is drawn.
    wait: Duration,
    refused: u64,
    opened: u64,
}

impl Breaker {
    /// Makes a closed breaker. Its waits and refusals depend on nothing but what it is told and the seed.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range.
    pub fn new(config: BreakerConfig, seed: u64) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            config,
            rng: Rng::seeded(seed),
            state: State::Closed,
            forced: None,
            since: None,
            generation: 0,
            window: Window::new(config.window),
            wait: config.open_min,
            refused: 0,
            opened: 0,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &BreakerConfig {
        &self.config
    }

    /// Changes the settings. The state stays; what was counted stays if the window does.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range; nothing has changed then.
    pub fn set_config(&mut self, config: BreakerConfig) -> Result<(), Error> {
        config.check()?;
        if config.window != self.config.window {
            self.window = Window::new(config.window);
            self.generation += 1;
            if let State::HalfOpen(round) = &mut self.state {
                *round = Round::new(round.number, round.last);
            }
        }
        if let State::HalfOpen(round) = &mut self.state
            && round.number >= config.probe_rounds
        {
            *round = Round::new(config.probe_rounds - 1, round.last);
            self.generation += 1;
        }
        self.wait = self.wait.clamp(config.open_min, config.open_max);
        self.config = config;
        Ok(())
    }

    /// Decides in its place, until it is called with `None`: then it begins anew, closed.
    pub fn force(&mut self, now: Timestamp, forced: Option<Forced>) {
        if self.forced == forced {
            return;
        }
        self.forced = forced;
        self.since = Some(now);
        self.close(now);
        self.wait = self.config.open_min;
    }

    /// Closes it and forgets what was counted. What was forced stays forced.
    pub fn reset(&mut self, now: Timestamp) {
        self.close(now);
        self.wait = self.config.open_min;
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// Why it shall not be made; of one that observes none.
    pub fn enter(&mut self, now: Timestamp) -> Result<Ticket, Refusal> {
        self.move_on(now);
        let refusal = match (self.forced, &mut self.state) {
            (Some(Forced::Open), _) => Some(Refusal::Forced),
            (Some(Forced::Closed), _) => None,
            (None, State::Open { until }) => Some(Refusal::Open(*until)),
            (None, State::HalfOpen(round)) => {
                if round.taken < round.size() {
                    round.taken += 1;
                    round.last = now;
                    None
                } else {
                    Some(Refusal::Probing)
                }
            }
            (None, State::Closed) => self.throttle().then_some(Refusal::Throttled),
        };
        if let Some(refusal) = refusal {
            self.refused += 1;
            self.window.refused();
            return match self.config.observe {
                true => Ok(Ticket {
                    started: now,
                    generation: UNCOUNTED,
                }),
                false => Err(refusal),
            };
        }
        self.window.started();
        Ok(Ticket {
            started: now,
            generation: self.generation,
        })
    }

    /// Why a call would be refused now, if it would for certain; takes nothing. One that observes refuses none.
    #[must_use]
    pub fn refusal(&mut self, now: Timestamp) -> Option<Refusal> {
        let refusal = self.verdict(now);
        refusal.filter(|_| !self.config.observe)
    }

    /// As [`refusal`](Self::refusal), and of one that observes what it would be.
    #[must_use]
    pub fn verdict(&mut self, now: Timestamp) -> Option<Refusal> {
        self.move_on(now);
        match (self.forced, &self.state) {
            (Some(Forced::Open), _) => Some(Refusal::Forced),
            (Some(Forced::Closed), _) | (None, State::Closed) => None,
            (None, State::Open { until }) => Some(Refusal::Open(*until)),
            (None, State::HalfOpen(round)) => {
                (round.taken >= round.size()).then_some(Refusal::Probing)
            }
        }
    }

    /// Counts a call that the caller refuses, or would, for a cause of its own.
    pub fn count_refused(&mut self) {
        self.refused += 1;
    }

    /// Hands a call back.
    pub fn leave(&mut self, now: Timestamp, ticket: Ticket, verdict: Verdict) {
        // Before it is counted: what has changed meanwhile is no longer this call's.
        self.move_on(now);
        if ticket.generation != self.generation {
            return;
        }
        let slow = self
            .config
            .slow_call
            .is_some_and(|slow| now.duration_since(ticket.started) >= slow);
        self.window.ended(ticket.started, verdict, slow);
        match &mut self.state {
            State::Closed => self.judge(now),
            State::HalfOpen(round) => {
                match verdict {
                    Verdict::Unknown if slow => round.ended += 1,
                    Verdict::Unknown => round.taken = round.taken.saturating_sub(1),
                    Verdict::Success => round.ended += 1,
                    Verdict::Failure => {
                        round.ended += 1;
                        round.failed += 1;
                    }
                }
                round.slow += u32::from(slow);
                let round = *round;
                self.judge_round(now, round);
            }
            State::Open { .. } => {}
        }
    }

    /// All that is known of it.
    #[must_use]
    pub fn status(&mut self, now: Timestamp) -> BreakerStatus {
        self.move_on(now);
        let (state, until, probes) = match (self.forced, &self.state) {
            (Some(Forced::Open), _) => (BreakerState::Open, None, None),
            (Some(Forced::Closed), _) | (None, State::Closed) => (BreakerState::Closed, None, None),
            (None, State::Open { until }) => (BreakerState::Open, Some(*until), None),
            (None, State::HalfOpen(round)) => (BreakerState::HalfOpen, None, Some(round.size())),
        };
        let counts = self.window.counts(now, self.config.slow_call);
        BreakerStatus {
            state,
            forced: self.forced,
            since: self.since,
            until,
            calls: counts.calls,
            failures: counts.failures,
            slow: counts.slow,
            in_flight: counts.in_flight,
            probes,
            refused: self.refused,
            opened: self.opened,
        }
    }

    /// What time alone changes.
    fn move_on(&mut self, now: Timestamp) {
        self.window.move_to(now);
        match self.state {
            State::Closed => {
                // Calls that hang are found here, as none of them ends.
                if self.config.slow_call.is_some() {
                    self.judge(now);
                }
            }
            State::Open { until } if now >= until && self.forced.is_none() => {
                self.enter_round(now, 0);
                self.since = Some(now);
            }
            State::HalfOpen(round)
                if round.taken > round.ended
                    && now.duration_since(round.last) >= self.config.open_max =>
            {
                self.open(now);
            }
            State::Open { .. } | State::HalfOpen(_) => {}
        }
    }

    fn judge(&mut self, now: Timestamp) {
        if self.forced.is_some() {
            return;
        }
        let counts = self.window.counts(now, self.config.slow_call);
        if counts.calls < u64::from(self.config.min_calls) {
            return;
        }
        if surely_above(counts.failures, counts.calls, self.config.failure_rate)
            || surely_above(counts.slow, counts.calls, self.config.slow_rate)
        {
            self.open(now);
        }
    }

    fn judge_round(&mut self, now: Timestamp, round: Round) {
        let size = f64::from(round.size());
        if f64::from(round.failed) > self.config.failure_rate * size
            || f64::from(round.slow) > self.config.slow_rate * size
        {
            self.open(now);
        } else if round.ended == round.size() {
            if round.number + 1 < self.config.probe_rounds {
                self.enter_round(now, round.number + 1);
            } else {
                self.since = Some(now);
                self.close(now);
            }
        }
    }

    fn open(&mut self, now: Timestamp) {
        if let (State::Closed, Some(since)) = (&self.state, self.since)
            && now.duration_since(since) >= self.config.window
        {
            // It was well for a while: this is another failure than the last.
            self.wait = self.config.open_min;
        }
        let (low, high) = (
            nanos_of(self.config.open_min),
            nanos_of(self.wait).saturating_mul(3),
        );
        let drawn = Duration::from_nanos(self.rng.between(low, high));
        self.wait = drawn.min(self.config.open_max);
        self.state = State::Open {
            until: now.saturating_add(self.wait),
        };
        self.since = Some(now);
        self.opened += 1;
        self.generation += 1;
    }

    fn enter_round(&mut self, now: Timestamp, number: u32) {
        self.state = State::HalfOpen(Round::new(number, now));
        self.generation += 1;
        self.window.clear();
    }

    fn close(&mut self, now: Timestamp) {
        if !matches!(self.state, State::Closed) {
            self.since = Some(now);
        }
        self.state = State::Closed;
        self.generation += 1;
        self.window.clear();
    }

    /// Whether this call is one of those to refuse.
    fn throttle(&mut self) -> bool {
        let Some(factor) = self.config.throttle else {
            return false;
        };
        let (requests, accepted) = self.window.requests();
        let surplus = requests as f64 - factor * accepted as f64;
        // With few requests nothing is proved, and the first of all would be refused half of the time.
        requests >= u64::from(self.config.min_calls)
            && surplus > 0.0
            && self.rng.chance(surplus / (requests as f64 + 1.0))
    }
}

/// The normal quantile of a 95 % interval, squared.
const Z2: f64 = 1.959_964 * 1.959_964;

/// Whether the lower end of Wilson's interval for `hits` of `of` lies above `threshold`. The interval is the set of rates that a score test does not
/// refuse, so no root is needed: the threshold lies below it if the observed rate is greater by more than z standard deviations *of the threshold*.
fn surely_above(hits: u64, of: u64, threshold: f64) -> bool {
    let excess = hits as f64 - threshold * of as f64;
    excess > 0.0 && excess * excess > Z2 * threshold * (1.0 - threshold) * of as f64
}
