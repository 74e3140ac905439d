//! Throttles: hold a measured use of the CPU at a threshold by holding work back.
//!
//! A throttle looks at the use of something (the machine, this process, a class) once a period and sets a *level* from 0
//! (nothing is held back) to 1 (as far as it goes). The level stands for an *allowance*, the part of the whole that the
//! work which the throttle acts on may use together: 100 % at level 0, [`LEAST`] at level 1. As use is that of everybody
//! else plus the allowance, wherever the work would take more than that, the plant has a gain of about one and the delay of one
//! period, and a proportional-integral controller in velocity form settles it without knowing who else runs.
//!
//! # Rules
//!
//! 1. *Start*: the throttle becomes active when use, smoothed over a second, is above the threshold. The first allowance is
//!    what the work uses less the excess: the right one if nothing else changes.
//! 2. *Anti-windup*: an allowance above what the work uses has no effect, so where use is to fall by more than [`BAND`] it counts as
//!    what the work uses, and an excess beyond [`UPSET`] that lasts is taken off that at once. The allowance stays within its bounds, and the
//!    level that is in force (a person may have pinned it) is where each step starts from.
//! 3. *Dead zone*: with smoothed use within [`DEAD_ZONE`] of the threshold nothing changes, so that a steady load changes nothing.
//! 4. *Rate limit*: work is let go no faster than [`RELEASE_A_SECOND`] (and as fast as that where it uses less than half of what it may), so that a load that comes and goes does not make
//!    the machine swing; it is held back at once.
//! 5. *End*: inactive again when nothing is held back any more and use has stayed under the threshold less the hysteresis, of
//!    which no more than half of the threshold counts, for [`CALM`]: a program that is idle uses a little, too.
//! 6. *Cannot hold*: when the level is as high as it goes and the mean over [`WINDOW`] still is more than [`BAND`] above the
//!    threshold, the state says so, and whose use it is.
//!
//! In `observe` the same controller runs on the use that there would be if its level were in force.
//!
//! Follows Åström and Hägglund, "PID Controllers: Theory, Design, and Tuning" (1995), chapter 3 (velocity form, anti-windup,
//! bumpless transfer); the gains are for a plant with gain 1 and a delay of one period, and stay stable up to a
//! gain of 2 and a delay of two periods (`tests`).
//!
//! Absent on purpose: measuring and acting (the caller's), and which classes go first (the scheduler's).

#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use flyball_core::ewma::Ewma;
use flyball_core::time::Timestamp;

use super::{Evidence, Figure, KnobId, Proposal, Rank};
use crate::Error;

/// The least allowance, percent of the whole: what is held back all the way still moves, so that it ends one day.
pub const LEAST: f64 = 1.0;
/// Points around the threshold within which nothing changes: under the resolution of the kernel's 10 ms ticks. Of a threshold of less than four times
/// as much it is a quarter, or what is idle and uses a little would lie within it.
pub const DEAD_ZONE: f64 = 0.75;
/// An excess of more points than this in [`UPSET_READINGS`] readings, one after the other, is taken off at once: that is another load,
/// not an error of control.
pub const UPSET: f64 = 2.0 * BAND;
/// See [`UPSET`].
pub const UPSET_READINGS: usize = 3;
/// Points that the mean over [`WINDOW`] may lie above the threshold and count as held.
pub const BAND: f64 = 3.0;
/// The time over which it is judged whether the threshold is held.
pub const WINDOW: Duration = Duration::from_secs(5);
/// How long use must stay under threshold and hysteresis, with nothing held back, for the throttle to end.
pub const CALM: Duration = Duration::from_secs(2);
/// The least change that is asked for, points: a hundredth of a CPU of two is nothing that anybody has to read about.
pub const QUANTUM: f64 = 0.5;
/// How fast work is let go, points a second.
pub const RELEASE_A_SECOND: f64 = 20.0;
/// The proportional gain.
pub const PROPORTIONAL: f64 = 0.2;
/// The integral gain, a period.
pub const INTEGRAL: f64 = 0.2;
/// How often a throttle looks: long enough for the kernel's 10 ms ticks to tell 2 points on two CPUs.
pub const PERIOD: Duration = Duration::from_millis(250);
/// A gap between steps counts as this much at most, so that a machine that slept does not let everything go at once.
const GAP_MAX: Duration = Duration::from_secs(1);
/// Readings that the window keeps; more in [`WINDOW`] than this push the oldest out.
const READINGS_MAX: usize = 128;
/// The half-life of what is smoothed "over a second".
const SMOOTH: Duration = Duration::from_millis(500);

/// What a throttle is to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// The use that is held, 1 to 100 percent of the whole.
    pub threshold: f64,
    /// How far use must fall under the threshold for the throttle to end, 0 to 50 points and less than the threshold; more than half of
    /// that counts as half.
    pub hysteresis: f64,
    /// Decide and count as ever, but hold nothing back.
    pub observe: bool,
}

impl Settings {
    /// The hysteresis unless said otherwise, points; half of a threshold that is less than twice as much, as use cannot fall below nothing.
    pub const HYSTERESIS: f64 = 5.0;

    /// Holds this percentage, with the usual hysteresis.
    pub fn at(threshold: f64) -> Self {
        Self {
            threshold,
            hysteresis: Self::HYSTERESIS.min(threshold / 2.0).max(0.0),
            observe: false,
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Throttle`] with the first field that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let require = |holds: bool, field, expected| match holds {
            true => Ok(()),
            false => Err(Error::Throttle { field, expected }),
        };
        let range = 1.0..=100.0;
        require(range.contains(&self.threshold), "threshold", "1 to 100")?;
        let range = 0.0..=50.0;
        let is_within = range.contains(&self.hysteresis) && self.hysteresis < self.threshold;
        let expected = "0 to 50, and less than the threshold";
        require(is_within, "hysteresis", expected)
    }

    /// The use below which the throttle ends, percent: above 0 whatever the hysteresis is.
    fn end(&self) -> f64 {
        self.threshold - self.hysteresis.min(self.threshold / 2.0)
    }
}

/// What a throttle looks at.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct View {
    /// The use since the last look that is to be held at the threshold, percent of the whole; `None` where it is not known.
    pub usage: Option<f64>,
    /// Of that, the use of the work which the throttle acts on; `None` where it is not known.
    pub acted: Option<f64>,
    /// The level in force: what the knob has, whoever set it. Not heeded under `observe`.
    pub level: f64,
}

/// How a throttle is.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum State {
    /// Use is under the threshold; nothing is held back.
    Idle,
    /// Work is held back.
    Active,
    /// Everything is held back as far as it goes, and use still is above the threshold.
    CannotHold(Cause),
    /// The use has not been known for [`WINDOW`]; nothing is held back.
    Blind,
}

/// Whose use keeps a threshold from being held.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// What the throttle does not act on uses more than the threshold by itself, percent.
    Others(f64),
    /// What it acts on goes on regardless: guaranteed, or not to be interrupted; percent.
    Unmoved(f64),
    /// More than the threshold is used, percent, and it is not known by whom.
    Unknown(f64),
}

impl State {
    /// Its name: `idle`, `active`, `cannot_hold`, `blind`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::CannotHold(_) => "cannot_hold",
            Self::Blind => "blind",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("use is under the threshold"),
            Self::Active => f.write_str("work is held back"),
            Self::CannotHold(Cause::Others(percent)) => write!(
                f,
                "cannot hold: what it does not act on uses {percent:.0}% by itself"
            ),
            Self::CannotHold(Cause::Unmoved(percent)) => write!(
                f,
                "cannot hold: what it acts on still uses {percent:.0}%, as it is guaranteed or cannot be interrupted"
            ),
            Self::CannotHold(Cause::Unknown(percent)) => {
                write!(f, "cannot hold: {percent:.0}% are used in spite of it")
            }
            Self::Blind => f.write_str("the use is not known"),
        }
    }
}

/// What happened to a throttle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It began to hold work back.
    Activated,
    /// It holds more back, or less.
    Adjusted,
    /// It holds nothing back any more.
    Deactivated,
}

impl Change {
    /// Its name: `activated`, `adjusted`, `deactivated`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Activated => "activated",
            Self::Adjusted => "adjusted",
            Self::Deactivated => "deactivated",
        }
    }
}

/// What a step came to.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The level that should be, 0 to 1.
    pub level: f64,
    /// What happened, if anything.
    pub change: Option<Change>,
    /// Why, in a sentence with figures.
    pub reason: String,
}

/// Returns the allowance of a level, percent of the whole.
pub fn allowance(level: f64) -> f64 {
    100.0 - (100.0 - LEAST) * sane(level, 0.0, 1.0)
}

fn level_of(allowance: f64) -> f64 {
    ((100.0 - allowance) / (100.0 - LEAST)).clamp(0.0, 1.0)
}

/// Brings a figure into its range; what is no number counts as the least.
fn sane(value: f64, least: f64, most: f64) -> f64 {
    if value.is_nan() {
        least
    } else {
        value.clamp(least, most)
    }
}

/// The mean of a figure over the last [`WINDOW`], each reading weighed by its time.
#[derive(Clone, Debug, Default)]
struct Mean {
    readings: VecDeque<(Duration, f64)>,
}

impl Mean {
    fn add(&mut self, passed: Duration, value: f64) {
        if self.readings.len() == READINGS_MAX {
            self.readings.pop_front();
        }
        self.readings.push_back((passed, value));
        let mut span: Duration = self.span();
        while let Some((oldest, _)) = self.readings.front()
            && span.saturating_sub(*oldest) >= WINDOW
        {
            span = span.saturating_sub(*oldest);
            self.readings.pop_front();
        }
    }

    fn span(&self) -> Duration {
        let times = self.readings.iter().map(|(passed, _)| *passed);
        times.fold(Duration::ZERO, Duration::saturating_add)
    }

    fn get(&self) -> Option<f64> {
        let span = self.span().as_secs_f64();
        let sum: f64 = self
            .readings
            .iter()
            .map(|(passed, value)| passed.as_secs_f64() * value)
            .sum();
        (span > 0.0).then(|| sum / span)
    }

    /// Whether all of the window is covered.
    fn is_full(&self) -> bool {
        self.span() >= WINDOW
    }
}

/// The controller. See the [module](self) for its rules.
#[derive(Clone, Debug)]
pub struct Throttle {
    settings: Settings,
    last: Option<Timestamp>,
    /// What is meant to be in force, percent; 100 while it is inactive.
    allowance: f64,
    /// What was asked for last, percent.
    asked: f64,
    active: bool,
    state: State,
    /// The last error, points; none before the first, and after a start.
    error: Option<f64>,
    smooth: Ewma,
    acted: Ewma,
    /// What the work used in the last periods, percent: an act shows after one or two of them.
    lately: [f64; 4],
    /// What the last readings had above the threshold, points.
    over: [f64; UPSET_READINGS],
    mean: Mean,
    others: Mean,
    /// Readings of the use that lacked, one after the other.
    unknown: Duration,
    /// How long the level has been as high as it goes.
    full: Duration,
    calm: Duration,
    throttled: Duration,
    /// What the work used before it was held back, percent.
    before: Option<f64>,
    activations: u64,
}

impl Throttle {
    /// Makes a throttle that has seen nothing yet.
    ///
    /// # Errors
    /// As [`Settings::check`].
    pub fn new(settings: Settings) -> Result<Self, Error> {
        settings.check()?;
        Ok(Self {
            settings,
            last: None,
            allowance: 100.0,
            asked: 100.0,
            active: false,
            state: State::Idle,
            error: None,
            smooth: Ewma::new(SMOOTH),
            acted: Ewma::new(SMOOTH),
            lately: [0.0; 4],
            over: [0.0; UPSET_READINGS],
            mean: Mean::default(),
            others: Mean::default(),
            unknown: Duration::ZERO,
            full: Duration::ZERO,
            calm: Duration::ZERO,
            throttled: Duration::ZERO,
            before: None,
            activations: 0,
        })
    }

    /// What it is to do.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes what it is to do; what it has learned stays.
    ///
    /// # Errors
    /// As [`Settings::check`]; nothing has changed then.
    pub fn set(&mut self, settings: Settings) -> Result<(), Error> {
        settings.check()?;
        self.settings = settings;
        self.error = None;
        (self.full, self.calm) = (Duration::ZERO, Duration::ZERO);
        Ok(())
    }

    /// How it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// The level that should be in force, 0 to 1.
    pub fn level(&self) -> f64 {
        level_of(self.asked)
    }

    /// The mean use over the last [`WINDOW`], percent; under `observe` that which there would be.
    pub fn usage(&self) -> Option<f64> {
        self.mean.get()
    }

    /// The time for which work was held back, its allowance being less than all; under `observe`, would have been.
    pub fn throttled(&self) -> Duration {
        self.throttled
    }

    /// How often it became active.
    pub fn activations(&self) -> u64 {
        self.activations
    }

    /// How much less the work that it acts on gets now than just before it was held back, percent, 0 to 100; `None` while nothing
    /// is held back or where it is not known.
    pub fn effect(&self) -> Option<f64> {
        let (before, now) = (self.before.filter(|_| self.active)?, self.acted.get()?);
        let got = match self.settings.observe {
            true => now.min(self.allowance),
            false => now,
        };
        (before > 0.0).then(|| ((1.0 - got / before) * 100.0).clamp(0.0, 100.0))
    }

    /// Takes in what was seen and says which level there should be.
    pub fn step(&mut self, now: Timestamp, view: &View) -> Step {
        let passed = match self.last.replace(self.last.unwrap_or(now).max(now)) {
            Some(last) => now.duration_since(last).min(GAP_MAX),
            None => PERIOD,
        };
        if passed.is_zero() {
            return self.stay();
        }
        if !self.settings.observe && self.active {
            // Another one than was asked for: somebody else's word counts more.
            let in_force = allowance(view.level);
            if (in_force - self.asked).abs() > 1e-6 {
                (self.allowance, self.asked) = (in_force, in_force);
            }
        }
        // The last moments before its end hold nothing back any more.
        if self.active && self.asked < 100.0 {
            self.throttled = self.throttled.saturating_add(passed);
        }
        let known = |figure: Option<f64>| {
            let figure = figure.filter(|figure| figure.is_finite());
            figure.map(|figure| figure.clamp(0.0, 100.0))
        };
        let acted = known(view.acted);
        let Some(mut usage) = known(view.usage) else {
            return self.step_blind(passed);
        };
        self.unknown = Duration::ZERO;
        if let Some(acted) = acted {
            self.acted.update(now, acted);
            self.lately.rotate_left(1);
            self.lately[3] = acted;
            self.others.add(passed, (usage - acted).max(0.0));
            if self.settings.observe {
                usage = (usage - (acted - self.allowance).max(0.0)).max(0.0);
            }
        }
        self.smooth.update(now, usage);
        self.mean.add(passed, usage);
        let smooth = self.smooth.get().unwrap_or(usage);
        if self.active {
            self.regulate(passed, usage, smooth, acted)
        } else if smooth > self.settings.threshold {
            self.start(usage.max(smooth), acted)
        } else {
            self.state = State::Idle;
            self.stay()
        }
    }

    fn stay(&self) -> Step {
        Step {
            level: self.level(),
            change: None,
            reason: String::new(),
        }
    }

    /// The use is not known: what is held back stays so for a while, then is let go.
    fn step_blind(&mut self, passed: Duration) -> Step {
        self.unknown = self.unknown.saturating_add(passed);
        self.error = None;
        if self.unknown < WINDOW {
            return self.stay();
        }
        self.state = State::Blind;
        if !self.active {
            return self.stay();
        }
        self.end("the use has not been known for 5 s".into())
    }

    /// Rule 1.
    fn start(&mut self, usage: f64, acted: Option<f64>) -> Step {
        let threshold = self.settings.threshold;
        self.active = true;
        self.state = State::Active;
        self.activations += 1;
        self.error = None;
        self.over = [0.0; UPSET_READINGS];
        (self.full, self.calm) = (Duration::ZERO, Duration::ZERO);
        self.before = self.acted.get();
        // Not known how much is its own: all of it may be.
        let own = acted.unwrap_or(usage);
        self.allowance = sane(own + threshold - usage, LEAST, 100.0);
        self.asked = self.allowance;
        Step {
            level: self.level(),
            change: Some(Change::Activated),
            reason: format!(
                "{} is used, above the threshold of {}%: what is held back may use {} of the whole",
                Percent(usage),
                Figure(threshold),
                Percent(self.allowance)
            ),
        }
    }

    /// Rules 2 to 6.
    fn regulate(&mut self, passed: Duration, usage: f64, smooth: f64, acted: Option<f64>) -> Step {
        let threshold = self.settings.threshold;
        // Smoothed, so that tasks that are long against the period do not make it hold back too much: what it lets go is limited in
        // rate, what it takes is not.
        let error = threshold - smooth;
        let before = self.error.replace(error).unwrap_or(error);
        self.over.rotate_left(1);
        self.over[UPSET_READINGS - 1] = usage - threshold;
        let was = self.allowance;
        let periods = passed.as_secs_f64() / PERIOD.as_secs_f64();
        if error.abs() > DEAD_ZONE.min(threshold / 4.0) {
            let change = PROPORTIONAL * (error - before) + INTEGRAL * error * periods.min(2.0);
            // Under `observe` the allowance is kept by arithmetic, and the work uses more.
            let used = acted.filter(|_| !self.settings.observe);
            let mut wanted = was + change;
            let most_used = self.lately.iter().copied().fold(LEAST, f64::max);
            if error > 0.0 && acted.is_some() && most_used < was / 2.0 {
                // It is not the allowance that keeps use low.
                wanted = f64::INFINITY;
            }
            if let Some(used) = used {
                if error < -BAND {
                    wanted = was.min(most_used) + change;
                }
                let excess = self.over.iter().copied().fold(f64::INFINITY, f64::min);
                if excess > UPSET {
                    wanted = wanted.min(used - excess);
                }
            }
            let most = was + RELEASE_A_SECOND * passed.as_secs_f64();
            self.allowance = sane(wanted.min(most), LEAST, 100.0);
        }
        let is_full = self.allowance <= LEAST;
        self.full = match is_full {
            true => self.full.saturating_add(passed),
            false => Duration::ZERO,
        };
        let end = self.settings.end();
        let is_calm = self.allowance >= 100.0 && smooth < end;
        self.calm = match is_calm {
            true => self.calm.saturating_add(passed),
            false => Duration::ZERO,
        };
        if self.calm >= CALM {
            self.state = State::Idle;
            let under = Figure(end);
            return self.end(format!("{} is used, under {under}%", Percent(smooth)));
        }
        self.state = self.judge(acted);
        let moved = (self.allowance - self.asked).abs();
        let at_end = self.allowance <= LEAST || self.allowance >= 100.0;
        if moved < QUANTUM && (moved == 0.0 || !at_end) {
            return self.stay();
        }
        let what = match self.allowance < self.asked {
            true => "less",
            false => "more",
        };
        self.asked = self.allowance;
        Step {
            level: self.level(),
            change: Some(Change::Adjusted),
            reason: format!(
                "{} is used of {}%: what is held back may use {what}, {} of the whole",
                Percent(usage),
                Figure(threshold),
                Percent(self.allowance)
            ),
        }
    }

    fn judge(&self, acted: Option<f64>) -> State {
        let threshold = self.settings.threshold;
        let Some(mean) = self.mean.get() else {
            return State::Active;
        };
        if self.full < WINDOW || !self.mean.is_full() || mean <= threshold + BAND {
            return State::Active;
        }
        State::CannotHold(match (acted, self.others.get()) {
            (None, _) | (_, None) => Cause::Unknown(mean),
            (Some(_), Some(others)) if others + LEAST > threshold => Cause::Others(others),
            (Some(acted), Some(_)) => Cause::Unmoved(self.acted.get().unwrap_or(acted)),
        })
    }

    fn end(&mut self, reason: String) -> Step {
        self.active = false;
        (self.allowance, self.asked) = (100.0, 100.0);
        self.error = None;
        self.before = None;
        (self.full, self.calm) = (Duration::ZERO, Duration::ZERO);
        Step {
            level: 0.0,
            change: Some(Change::Deactivated),
            reason,
        }
    }

    /// Makes a step a proposal to the arbiter, `None` where nothing changes. Whoever asks says which knob has the level.
    pub fn proposal(&self, step: &Step, knob: KnobId, part: &'static str) -> Option<Proposal> {
        step.change?;
        let mut evidence = alloc::vec![Evidence::new("threshold", self.settings.threshold, "%")];
        for (name, figure) in [
            ("usage", self.smooth.get()),
            ("mean usage", self.mean.get()),
            ("its own", self.acted.get()),
        ] {
            evidence.extend(figure.map(|figure| Evidence::new(name, figure, "%")));
        }
        Some(Proposal {
            knob,
            value: step.level,
            rank: Rank::Throttle,
            part,
            hold: WINDOW,
            reason: step.reason.clone(),
            evidence,
        })
    }
}

/// A percentage with one place.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}%", self.0)
    }
}
