//! Sizing by offered work: how many workers would serve what comes, what was refused included.
//!
//! ```text
//! offered = busy workers + (growth of the queue + tasks refused) × mean run time / time      (workers)
//! want    = (offered + queue × mean run time / drain) / target_load
//! up      : want above 1.1 × size: at once, at most to twice or by 4 in each step
//! down    : the greatest want of the down window below 0.8 × size, or that of a longer window below 0.9 × size
//! ```
//!
//! Utilisation, which the rule of the Kubernetes autoscaler looks at (`ceil(workers × utilisation / target)`, from the documentation of the
//! Horizontal Pod Autoscaler), saturates: at four times the capacity it still reads 100 %, so that rule grows by 1 / target a step, goes on
//! growing as long as a queue keeps everybody busy, and never learns of what was refused. Offered work is the rate of arrivals times the time
//! that a task takes (Little, "A Proof for the Queuing Formula L = λW", 1961); written with the growth of the queue, it needs the mean run
//! time for the difference only, so an error of that matters little while the pool keeps up.
//!
//! # What keeps it from swinging
//!
//! - **Tolerance.** Within ±10 % of the size nothing happens, as in the autoscaler's rule.
//! - **Enough to tell.** Offered work is measured over the shortest time that saw [`ARRIVALS_MIN`] arrivals, up to [`LOAD_WINDOW`] or one
//!   period: many small tasks are followed from period to period, a few long ones are not mistaken for a flood.
//! - **Slow down.** A reduction goes to the greatest want of the down window, never below. One by less than a fifth takes a longer window:
//!   it saves little, and 1.1 / 0.9 = 1.22 < 1 / 0.8, so a load that scatters by ±10 %, unless more slowly than that, cannot take away what it
//!   brought. A greater one need not wait so long: should it be wrong, offered work says at once how much is missing.
//! - **Patience.** An increase soon after a reduction, whoever made it, says that the reduction was wrong: the next one takes windows twice as
//!   long, up to `patience_max` times. A reduction that stands halves that again, as with the [classic controller](super::Classic).
//! - **Refusals are no flood.** A caller that tries again in a loop is refused a million times a second: refused work counts up to
//!   [`REFUSED_MAX`] times what is served.
//!
//! # Prediction
//!
//! [`Forecast`] fits a line to the offered work and extends it to when a worker asked for now would be there. It may only raise the size, only
//! when the slope is beyond doubt, at most to twice what is offered, only while its earlier forecasts were better than taking the last value, and
//! only where what is foreseen would use up half of the headroom that the target leaves: unscored prediction makes a sawtooth dearer and serves nobody.
//!
//! Leaves out: which worker retires, and the climb by throughput where tasks block ([`Adaptive`](super::Adaptive)).

use alloc::collections::VecDeque;
use alloc::format;
use core::time::Duration;

use flyball_core::time::Timestamp;

use super::load::{LOAD_WINDOW, in_range};
use super::patience::{Doubt, Patience};
use super::peaks::Peaks;
use super::proposal::{PART, Why, into_bounds};
use super::{PoolConfig, PoolView, round_up};
use crate::control::{Controller, Evidence, KnobId, Proposal, Span};

mod forecast;

#[cfg(test)]
mod tests;

pub use forecast::{Forecast, JUDGED_MIN, RAISE_MAX, SLOPE_ERRORS};

/// The part of the size within which a wanted size changes nothing (Kubernetes, `--horizontal-pod-autoscaler-tolerance`).
pub const TOLERANCE: f64 = 0.1;
/// Arrivals after which offered work is known well enough: to one part in seven for random arrivals.
pub const ARRIVALS_MIN: f64 = 50.0;
/// Refused work counts up to so many times the work that is served.
pub const REFUSED_MAX: f64 = 4.0;

/// The greatest change in one step: twice, or by four (Kubernetes, the default policies for scaling up).
const STEP_RATIO: u32 = 2;
const STEP_MORE: u32 = 4;
/// Readings that are kept to measure over.
const READINGS_MAX: usize = 128;
/// The greatest that [`OfferedConfig::patience_max`] may be.
const PATIENCE_MAX: u32 = 16;
/// So many longer down windows after a reduction an increase undoes it, and after so many a reduction that stands was right.
const UNDONE_WITHIN: u32 = 2;
const FADES_AFTER: u32 = 16;
/// A reduction by this part is worth more than the work of undoing it.
const WORTHWHILE: f64 = 0.2;

/// The settings of [`Offered`].
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct OfferedConfig {
    /// Bounds and target; its delays are not looked at.
    pub pool: PoolConfig,
    /// How often to look; above zero.
    pub period: Duration,
    /// The least time between two increases, each at most to twice the size or by four.
    pub step_every: Duration,
    /// A reduction goes to the greatest want of this time, if that is less by a fifth.
    pub down_window: Duration,
    /// A reduction by less than that, but a tenth, goes to the greatest want of this longer time.
    pub lesser_down_window: Duration,
    /// How many times longer both become at most while reductions turn out to be wrong, 1 or more.
    pub patience_max: u32,
    /// The time in which a queue should be gone, beside what comes; above zero.
    pub drain: Duration,
    /// How long it takes from the decision to a worker that works.
    pub boot: Duration,
    /// How far back a trend is looked for; zero: never.
    pub trend: Duration,
}

impl OfferedConfig {
    /// The settings for a pool of threads, which start in a millisecond: a tenth of the shorter delay from look to look, an increase each fifth
    /// of `scale_up_delay`, `scale_down_delay` as the down window, eight times `scale_up_delay` for a trend.
    pub fn for_threads(pool: PoolConfig) -> Self {
        let period = pool.period();
        Self {
            pool,
            period,
            step_every: (pool.scale_up_delay / 5).max(period),
            down_window: pool.scale_down_delay,
            lesser_down_window: pool.scale_down_delay.saturating_mul(2),
            patience_max: 8,
            drain: LOAD_WINDOW,
            boot: Duration::ZERO,
            trend: pool.scale_up_delay.saturating_mul(8),
        }
    }

    /// The settings for workers that are machines or processes on them, which take `boot` to start: as the Kubernetes autoscaler 15 s from look to
    /// look, two minutes for a trend, and 15 s and 30 s down, up to four times as long while that turns out to be wrong, by the tuning half of the
    /// simulator's grid of loads: a tenth cheaper there than the autoscaler with its 300 s, with less than half of its unserved work. Loads that go up
    /// and down at random within minutes want longer windows.
    pub fn for_machines(pool: PoolConfig, boot: Duration) -> Self {
        let period = Duration::from_secs(15);
        Self {
            pool,
            period,
            step_every: period,
            down_window: Duration::from_secs(15),
            lesser_down_window: Duration::from_secs(30),
            patience_max: 4,
            drain: Duration::from_secs(60),
            boot,
            trend: Duration::from_secs(120),
        }
    }

    /// When a reduction is taken for wrong.
    fn doubt(&self) -> Doubt {
        Doubt {
            undone_within: self.lesser_down_window.saturating_mul(UNDONE_WITHIN),
            fades_after: self.lesser_down_window.saturating_mul(FADES_AFTER),
            most: self.patience_max,
        }
    }

    fn brought_into_range(mut self) -> Self {
        self.pool = self.pool.brought_into_range();
        self.period = self.period.max(Duration::from_millis(1));
        self.drain = self.drain.max(Duration::from_millis(1));
        self.patience_max = self.patience_max.clamp(1, PATIENCE_MAX);
        self
    }
}

/// What was read since the view before.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Seconds.
    span: f64,
    busy: f64,
    ran: f64,
    refused: f64,
    /// The queue at its beginning.
    backlog_before: u64,
}

/// What the readings say, in workers.
#[derive(Clone, Copy, Debug)]
struct Measured {
    offered: f64,
    /// Workers that would drain the queue in time.
    draining: f64,
    refused: f64,
    over: f64,
}

/// The controller that sizes by offered work. See the [module](self).
#[derive(Clone, Debug)]
pub struct Offered {
    config: OfferedConfig,
    knob: KnobId,
    readings: VecDeque<Reading>,
    /// The mean run time in seconds, as last known.
    mean_run: f64,
    /// When the last view came, its queue and workers.
    last: Option<(Timestamp, u64, u32)>,
    /// Since when the pool has had its size.
    sized: Timestamp,
    raised: Option<Timestamp>,
    /// When something was proposed last.
    decided: Option<Timestamp>,
    /// By how much the down windows are longer now.
    patience: Patience,
    peaks: Peaks,
    forecast: Forecast,
    offered: Option<f64>,
    foreseen: Option<f64>,
    new_bounds: bool,
}

impl Offered {
    /// Makes the controller of the pool whose size is `knob`. Settings out of range are brought into it.
    pub fn new(config: OfferedConfig, knob: KnobId) -> Self {
        let config = config.brought_into_range();
        Self {
            config,
            knob,
            readings: VecDeque::new(),
            mean_run: 0.0,
            last: None,
            sized: Timestamp::ZERO,
            raised: None,
            decided: None,
            patience: Patience::new(),
            peaks: Peaks::new(),
            forecast: Forecast::new(config.trend, config.boot.saturating_add(config.period)),
            offered: None,
            foreseen: None,
            new_bounds: true,
        }
    }

    /// Changes the settings. What was measured stays, unless the target is another.
    pub fn set_config(&mut self, config: OfferedConfig) {
        let config = config.brought_into_range();
        if config.pool.target_load != self.config.pool.target_load {
            self.peaks = Peaks::new();
        }
        if (config.trend, config.boot, config.period)
            != (self.config.trend, self.config.boot, self.config.period)
        {
            self.forecast = Forecast::new(config.trend, config.boot.saturating_add(config.period));
        }
        self.config = config;
        self.new_bounds = true;
    }

    /// Returns the settings.
    pub fn config(&self) -> &OfferedConfig {
        &self.config
    }

    /// Returns the work that was offered lately, in workers; `None` before the second view.
    pub fn offered(&self) -> Option<f64> {
        self.offered
    }

    /// Returns what will be offered at the forecast's horizon, in workers, as long as the forecast is one to follow.
    pub fn foreseen(&self) -> Option<f64> {
        self.foreseen
    }

    /// Returns by how much the down windows are longer at present, as reductions turned out to be wrong; 1: not at all.
    pub fn patience(&self) -> u32 {
        self.patience.times()
    }

    /// Returns the prediction and its record.
    pub fn forecast(&self) -> &Forecast {
        &self.forecast
    }

    fn read(&mut self, now: Timestamp, view: &PoolView) -> Option<Measured> {
        let Some((last_at, backlog_before, last_workers)) = self.last else {
            self.last = Some((now, view.backlog, view.workers));
            return None;
        };
        if now <= last_at {
            return None;
        }
        self.last = Some((now, view.backlog, view.workers));
        if view.workers != last_workers {
            self.sized = now;
            if view.workers > last_workers {
                self.patience.increased(now, &self.config.doubt());
            }
        }
        if self.readings.len() == READINGS_MAX {
            self.readings.pop_front();
        }
        self.readings.push_back(Reading {
            span: now.duration_since(last_at).as_secs_f64(),
            busy: in_range(view.busy),
            ran: in_range(view.ran),
            refused: in_range(view.refused),
            backlog_before,
        });
        Some(self.measure(view.backlog))
    }

    fn measure(&mut self, backlog: u64) -> Measured {
        let longest = LOAD_WINDOW.max(self.config.period).as_secs_f64();
        let (mut seconds, mut busy, mut ran, mut refused) = (0.0, 0.0, 0.0, 0.0);
        let mut growth = 0.0;
        for reading in self.readings.iter().rev() {
            if seconds > 0.0 && seconds + reading.span > longest * 1.001 {
                break;
            }
            seconds += reading.span;
            busy += reading.busy * reading.span;
            ran += reading.ran;
            refused += reading.refused;
            growth = backlog as f64 - reading.backlog_before as f64;
            if ran + refused + growth >= ARRIVALS_MIN {
                break;
            }
        }
        if busy > 0.0 {
            // Tasks that do not end in that time still are one a busy worker.
            self.mean_run = busy / ran.max(busy / seconds);
        }
        let served = busy / seconds;
        let refused = (refused * self.mean_run / seconds).min(REFUSED_MAX * served);
        let offered = (served + growth * self.mean_run / seconds + refused).max(0.0);
        Measured {
            offered: in_range(offered),
            draining: in_range(backlog as f64 * self.mean_run / self.config.drain.as_secs_f64()),
            refused: in_range(refused),
            over: seconds,
        }
    }

    fn up(
        &mut self,
        now: Timestamp,
        view: &PoolView,
        measured: &Measured,
        want: f64,
        foreseen: Option<f64>,
    ) -> Option<Proposal> {
        let size = f64::from(view.workers);
        let early = self
            .raised
            .is_some_and(|at| now.duration_since(at) < self.config.step_every);
        if view.workers >= self.config.pool.max || early || want <= size * (1.0 + TOLERANCE) {
            return None;
        }
        let step = view
            .workers
            .saturating_mul(STEP_RATIO)
            .max(view.workers.saturating_add(STEP_MORE));
        let to = round_up(want)
            .min(step)
            .max(view.workers.saturating_add(1))
            .min(self.config.pool.max);
        let mut why = Why::because(format!(
            "{:.2} workers' worth of work came in {}, which at {:.2} each needs {want:.1} workers",
            measured.offered,
            Span(Duration::from_secs_f64(measured.over.min(1e9))),
            self.config.pool.target_load
        ));
        if measured.refused > 0.0 {
            why.reasons
                .push(format!("{:.2} of it were refused", measured.refused));
        }
        if view.backlog > 0 {
            why.reasons.push(format!("{} tasks wait", view.backlog));
        }
        if let Some(foreseen) = foreseen {
            why.reasons.push(format!(
                "it grows steadily, to {foreseen:.2} in {}",
                Span(self.forecast.horizon())
            ));
        }
        why.beyond_parallelism(to, view);
        if let Some(foreseen) = foreseen {
            why.evidence
                .push(Evidence::new("foreseen", foreseen, "workers"));
        }
        self.raised = Some(now);
        self.patience.increased(now, &self.config.doubt());
        Some(self.propose(now, view, to, why, measured, want))
    }

    fn down(&mut self, now: Timestamp, view: &PoolView, measured: &Measured) -> Option<Proposal> {
        let early = self
            .decided
            .is_some_and(|at| now.duration_since(at) < self.config.step_every);
        if view.workers <= self.config.pool.min || early {
            return None;
        }
        let size = f64::from(view.workers);
        let patience = self.patience.left(now, &self.config.doubt());
        let window = self.config.down_window.saturating_mul(patience);
        let longer = self.config.lesser_down_window.saturating_mul(patience);
        let below = |window, part: f64| {
            let most = self.peaks.greatest(now, window)?;
            (most < size * (1.0 - part)).then_some((most, window))
        };
        let (most, window) = below(window, WORTHWHILE).or_else(|| below(longer, TOLERANCE))?;
        let lost = view.workers.saturating_sub(view.healthy);
        let to = round_up(most)
            .saturating_add(lost)
            .max(self.config.pool.min);
        if to >= view.workers {
            return None;
        }
        let why = Why::because(format!(
            "at most {most:.1} workers were needed in the last {}",
            Span(window)
        ));
        self.patience.reduced(now, &self.config.doubt());
        Some(self.propose(now, view, to, why, measured, most))
    }

    fn propose(
        &mut self,
        now: Timestamp,
        view: &PoolView,
        to: u32,
        mut why: Why,
        measured: &Measured,
        want: f64,
    ) -> Proposal {
        why.evidence.extend([
            Evidence::new("offered", measured.offered, "workers"),
            Evidence::new("want", want, "workers"),
            Evidence::new("target", self.config.pool.target_load, ""),
            Evidence::new("refused", measured.refused, "workers"),
        ]);
        self.decided = Some(now);
        why.propose(self.knob, to, Duration::ZERO, view)
    }
}

impl Controller for Offered {
    type View = PoolView;

    fn part(&self) -> &'static str {
        PART
    }

    fn period(&self) -> Duration {
        self.config.period
    }

    fn step(&mut self, now: Timestamp, view: &PoolView) -> Option<Proposal> {
        let measured = self.read(now, view)?;
        self.offered = Some(measured.offered);
        let target_load = self.config.pool.target_load;
        let foreseen = self.forecast.observe(now, measured.offered);
        self.foreseen = foreseen;
        // Those that were asked for a moment ago may not be there yet.
        let all_there = now.duration_since(self.sized) >= self.config.pool.scale_up_delay;
        let lost = match all_there {
            true => f64::from(view.workers.saturating_sub(view.healthy)),
            false => 0.0,
        };
        let needed = (measured.offered + measured.draining) / target_load;
        // A forecast that leaves half of the headroom can wait for the work itself.
        let tight = 0.5 * (1.0 + target_load) * f64::from(view.workers);
        let foreseen =
            foreseen.filter(|foreseen| *foreseen > tight && foreseen / target_load > needed);
        let want = foreseen.map_or(needed, |foreseen| foreseen / target_load) + lost;
        let kept = self.config.down_window.max(self.config.lesser_down_window);
        let kept = kept.saturating_mul(self.config.patience_max);
        self.peaks.push(now, needed, kept);
        let new_bounds = core::mem::take(&mut self.new_bounds);
        if let Some((to, why)) = into_bounds(&self.config.pool, view) {
            // That is no matter of load, so it waits for nothing, unless it was refused.
            let may = new_bounds
                || self
                    .decided
                    .is_none_or(|at| now.duration_since(at) >= self.config.pool.scale_up_delay);
            return may.then(|| self.propose(now, view, to, why, &measured, want));
        }
        self.up(now, view, &measured, want, foreseen)
            .or_else(|| self.down(now, view, &measured))
    }
}
