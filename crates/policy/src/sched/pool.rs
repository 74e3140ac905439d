//! The classic pool controller: how many workers there should be, from the load.
//!
//! ```text
//! demand = mean number of busy workers + work that waits / 5 s        (in workers, over the last 5 s)
//! load   = demand / healthy workers
//! up     : load above target, or the queue growing, for scale_up_delay
//! down   : load under half of target for scale_down_delay, or a worker idle past max_idle_time
//! ```
//!
//! Work that waits is the number of queued tasks × their mean run time, so that a thousand tasks of 10 µs are not
//! mistaken for a thousand of 10 s.
//!
//! # What keeps it from swinging
//!
//! - **Dead zone.** Between half of target and target nothing happens. A change aims at 0.8 of target ([`AIM`]), up as
//!   well as down, and a reduction is made only as far as the highest load of the whole delay stays below that with
//!   fewer workers. 1.1 / 0.9 = 1.22 < 1 / 0.8: so load that scatters by ±10 % cannot bring back what it took away.
//!   With few workers this outweighs the rule of the half: of two workers at 0.34 none is retired, as one alone would
//!   be at 0.68, next to a target of 0.7.
//! - **Delays.** Every reading of a delay must say the same. As a load over 5 s remembers a burst for 5 s, an increase
//!   also needs that the load since the last reading was above target each time, or else 5 s more, and the latest
//!   reading does not count as time: a burst shorter than the delay does nothing. After a change the measurement starts
//!   anew; what ran before says nothing about the new size.
//! - **Patience.** An increase soon after a reduction, whoever made it, says that the reduction was wrong (tasks that are
//!   long against the window scatter by more than 10 %; bursts find too few workers for the CPUs, see [`fill`]). The next
//!   one then needs twice the delay, up to eight times; a reduction that stands for sixteen halves that again.
//! - **No reduction while the queue grows.** Where something else limits what runs (parallelism), workers have little to do and work
//!   waits all the same: growth adds workers then, and low load must not take them away in turn.
//! - **No integral.** Nothing accumulates while the pool is at a bound or pinned, so nothing has to unwind.
//!
//! # By ratio, not by one
//!
//! The pool goes at once to the size that the demand asks for, at most to twice or half of what it was. By one, ten
//! times the load would need minutes and 18 decisions; without the bound, a queue that piled up for a moment would call
//! for a hundred workers where the next look needs four. When only the queue speaks (load is below target, yet more
//! comes in than goes out), its growth in workers' worth is added, one worker at least.
//!
//! # Capacity
//!
//! A worker whose health is below 0.5 counts as no capacity ([`health`](super::health)), and the pool grows by as many
//! to make up for it. Parallelism caps what *runs* at once, not the size: workers beyond it help when others block. So
//! CPU-bound load beyond the parallelism goes to the greatest size, as the rule says; the reason then says that
//! parallelism is what limits.
//!
//! # Other ways
//!
//! [`Offered`] sizes by the work that comes, refused work included, and moves at once; [`Adaptive`] tries out which size does most, for tasks that
//! block. [`Sizer`] is one of the three, as a setting says.
//!
//! Absent on purpose: which worker retires (the least healthy; the shell knows), starting them in stages.

use alloc::collections::VecDeque;
use alloc::format;
use core::time::Duration;

use flyball_core::time::Timestamp;

use crate::control::{Controller, Evidence, KnobId, Proposal, Span};

pub mod adaptive;
mod fill;
mod load;
pub mod offered;
mod params;
mod patience;
mod peaks;
mod proposal;
mod sizer;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use adaptive::Adaptive;
pub use fill::fill;
pub use load::LOAD_WINDOW;
use load::{Measured, Window, in_range};
pub use offered::{Offered, OfferedConfig};
pub use params::{LoadPoint, PoolConfig, PoolView};
use patience::{Doubt, Patience};
use proposal::{PART, Why, into_bounds};
pub use sizer::{ForecastState, Sizer, SizerState, Sizing};

/// The part of target that a change aims at; below 0.9 / 1.1, so that scatter of ±10 % does not undo it.
pub const AIM: f64 = 0.8;
/// How many readings [`Classic::history`] keeps: ten minutes of two a second.
pub const HISTORY: usize = 1_200;

/// The part of target below which there are too many workers.
const LOW: f64 = 0.5;
/// The greatest change in one step.
const STEP_RATIO: u32 = 2;
/// A queue grows when it ends at least this much longer than it was, and by a task a worker.
const GROWTH: f64 = 1.25;
/// The longest a reduction is put off, in delays.
const PATIENCE_MAX: u32 = 8;
/// An increase within so many delays of a reduction undoes it; one that stands longer was right.
const UNDONE_WITHIN: u32 = 2 * PATIENCE_MAX;

/// Load under half of target: since when, and the greatest demand in that time.
#[derive(Clone, Copy, Debug)]
struct Below {
    since: Timestamp,
    greatest: f64,
}

/// A queue that was longer at each reading than at the one before.
#[derive(Clone, Copy, Debug)]
struct Growing {
    /// When it was first seen longer.
    since: Timestamp,
    /// How long it was at the reading before that, and when that was.
    from: u64,
    from_at: Timestamp,
}

/// The classic controller. See the [module](self).
#[derive(Clone, Debug)]
pub struct Classic {
    config: PoolConfig,
    knob: KnobId,
    window: Window,
    /// When the last view came, the queue and the workers in it.
    last: Option<(Timestamp, u64, u32)>,
    /// The size that was proposed at the last view.
    asked: Option<u32>,
    /// Since when the pool has had its size, as far as readings are concerned.
    fresh_from: Timestamp,
    /// Since when the load has been above target.
    above: Option<Timestamp>,
    /// Since when each reading has said so, too.
    above_each: Option<Timestamp>,
    below: Option<Below>,
    growing: Option<Growing>,
    /// When something was proposed last.
    decided: Option<Timestamp>,
    /// How many delays a reduction takes.
    patience: Patience,
    /// The settings are new, so that bounds need not wait for a delay.
    new_bounds: bool,
    history: VecDeque<LoadPoint>,
}

impl Classic {
    /// Makes the controller of the pool whose size is `knob`. Settings out of range ([`PoolConfig::check`]) are brought
    /// into it.
    pub fn new(config: PoolConfig, knob: KnobId) -> Self {
        Self {
            config: config.brought_into_range(),
            knob,
            window: Window::default(),
            last: None,
            asked: None,
            fresh_from: Timestamp::ZERO,
            above: None,
            above_each: None,
            below: None,
            growing: None,
            decided: None,
            patience: Patience::new(),
            new_bounds: true,
            history: VecDeque::new(),
        }
    }

    /// Changes the settings. What was measured stays; states that last (load above target and so on) begin anew, as
    /// they were judged by other settings.
    pub fn set_config(&mut self, config: PoolConfig) {
        self.config = config.brought_into_range();
        (self.above, self.above_each) = (None, None);
        (self.below, self.growing) = (None, None);
        self.patience.reset();
        self.new_bounds = true;
    }

    /// Returns the settings.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Returns the load over the last 5 s, or since the last change of size if that is less; `None` before the second view.
    pub fn load(&self) -> Option<f64> {
        self.history.back().map(|point| point.load)
    }

    /// Returns how many delays a reduction takes at present, as reductions turned out to be wrong; 1 is usual.
    pub fn patience(&self) -> u32 {
        self.patience.times()
    }

    /// Iterates over the last [`HISTORY`] readings, the oldest first.
    pub fn history(&self) -> impl ExactSizeIterator<Item = &LoadPoint> {
        self.history.iter()
    }

    /// Says that the pool is at its least size, nothing has run in the window and nothing waits: until work comes the
    /// controller need not be asked.
    pub fn at_rest(&self) -> bool {
        let smallest = self
            .last
            .is_some_and(|(_, backlog, workers)| backlog == 0 && workers == self.config.min);
        smallest && self.load() == Some(0.0)
    }

    /// Takes in a view; `None` if nothing can be said yet.
    fn read(&mut self, now: Timestamp, view: &PoolView) -> Option<Measured> {
        let Some((last_at, last_backlog, last_workers)) = self.last else {
            self.last = Some((now, view.backlog, view.workers));
            self.fresh_from = now;
            return None;
        };
        if now <= last_at {
            return None;
        }
        self.last = Some((now, view.backlog, view.workers));
        let asked = self.asked.take();
        if view.workers != last_workers && asked != Some(view.workers) {
            // Somebody else changed the size: a person, a part of higher rank, or [`fill`].
            if view.workers > last_workers {
                self.patience.increased(now, &self.config.doubt());
            }
            self.start_anew(last_at);
        }
        if asked.is_some_and(|asked| asked != view.workers) {
            self.patience.forget();
        }
        self.window.push(last_at, now, view);
        self.growing = (view.backlog > last_backlog).then(|| {
            self.growing.unwrap_or(Growing {
                since: now,
                from: last_backlog,
                from_at: last_at,
            })
        });
        let measured = self.window.measure(view.backlog, self.fresh_from);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(LoadPoint {
            at: now,
            load: measured.load,
            busy: in_range(view.busy),
            backlog: view.backlog,
            workers: view.workers,
            healthy: view.healthy,
        });
        Some(measured)
    }

    /// Begins to measure anew for a size that is in force from `at`.
    fn start_anew(&mut self, at: Timestamp) {
        self.fresh_from = at;
        (self.above, self.above_each) = (None, None);
        (self.below, self.growing) = (None, None);
    }

    /// Returns the workers that serve a demand at [`AIM`] of target, with as many more as are not healthy.
    fn workers_for(&self, demand: f64, view: &PoolView) -> u32 {
        let lost = view.workers.saturating_sub(view.healthy);
        round_up(demand / (AIM * self.config.target_load)).saturating_add(lost)
    }

    /// Whether more waits now than at the first reading after `from`, by a task a worker at least.
    fn queue_grew(&self, from: Timestamp, view: &PoolView) -> bool {
        let readings = self.history.iter().rev();
        let first = readings.take_while(|point| point.at > from).last();
        first.is_some_and(|first| view.backlog >= first.backlog + u64::from(view.workers))
    }

    fn waited(&self, now: Timestamp, delay: Duration) -> bool {
        self.decided
            .is_none_or(|at| now.duration_since(at) >= delay)
    }

    /// Answers with an increase if there is reason for one.
    fn up(&mut self, now: Timestamp, view: &PoolView, measured: &Measured) -> Option<Proposal> {
        let PoolConfig {
            max,
            target_load,
            scale_up_delay: delay,
            ..
        } = self.config;
        if view.workers >= max || !self.waited(now, delay) {
            return None;
        }
        // Up to the beginning of the latest reading: what made it high may have ended at any moment since.
        let certain = measured.from;
        let lasted = |since, delay| certain.duration_since(since) >= delay;
        let remembered = delay.saturating_add(LOAD_WINDOW);
        let above = self
            .above_each
            .filter(|since| lasted(*since, delay))
            .or(self.above.filter(|since| lasted(*since, remembered)));
        let growing = self.growing.filter(|growing| {
            let enough = growing.from as f64 * GROWTH + f64::from(view.workers);
            lasted(growing.since, delay) && view.backlog as f64 >= enough
        });
        if above.is_none() && growing.is_none() {
            return None;
        }
        let mut demand = measured.demand;
        let mut why = Why::default().shown_by([
            Evidence::new("load", measured.load, ""),
            Evidence::new("target", target_load, ""),
        ]);
        if let Some(since) = above {
            let span = now.duration_since(since);
            why.reasons.push(format!(
                "load {:.2} over {} stayed above target {target_load:.2} for {}",
                measured.load,
                Span(self.measured_over(now)),
                Span(span)
            ));
            why.evidence
                .push(Evidence::new("above_target", span.as_secs_f64(), "s"));
        }
        if let Some(growing) = growing {
            let span = now.duration_since(growing.from_at);
            let growth = (view.backlog - growing.from) as f64 / span.as_secs_f64();
            demand += growth * self.window.mean_run();
            why.reasons.push(format!(
                "queue grew from {} to {} in {}",
                growing.from,
                view.backlog,
                Span(span)
            ));
            if above.is_none() {
                why.reasons.push(format!(
                    "load over {} is {:.2}, target {target_load:.2}",
                    Span(self.measured_over(now)),
                    measured.load
                ));
            }
            why.evidence
                .push(Evidence::new("queue_before", growing.from as f64, "tasks"));
        }
        let to = self
            .workers_for(demand, view)
            .min(view.workers.saturating_mul(STEP_RATIO))
            .max(view.workers.saturating_add(1))
            .min(max);
        why.beyond_parallelism(to, view);
        self.patience.increased(now, &self.config.doubt());
        // With more workers it is not known whether fewer would still do.
        self.patience.forget();
        Some(self.propose(now, view, to, delay, why, measured))
    }

    /// Answers with a reduction if there is reason for one.
    fn down(&mut self, now: Timestamp, view: &PoolView, measured: &Measured) -> Option<Proposal> {
        let PoolConfig {
            min,
            target_load,
            max_idle_time,
            ..
        } = self.config;
        let patience = self.patience.left(now, &self.config.doubt());
        let delay = self.config.scale_down_delay.saturating_mul(patience);
        if view.workers <= min
            || !self.waited(now, delay)
            || now.duration_since(self.fresh_from) < delay
            || self.queue_grew(now.saturating_sub(delay), view)
        {
            return None;
        }
        let halved = view.workers.div_ceil(STEP_RATIO);
        let below = self
            .below
            .filter(|below| now.duration_since(below.since) >= delay);
        let idle = view.idle_longest.filter(|idle| *idle >= max_idle_time);
        let (to, peak);
        let mut why;
        if let Some(below) = below {
            let span = now.duration_since(below.since);
            peak = below.greatest;
            to = self.workers_for(peak, view).max(halved).max(min);
            let (load, low) = (measured.load, LOW * target_load);
            why = Why::because(format!(
                "load {load:.2} over {} stayed under {low:.2}, half of target, for {}",
                Span(self.measured_over(now)),
                Span(span)
            ));
            let span = Evidence::new("under_half_of_target", span.as_secs_f64(), "s");
            why.evidence.push(span);
        } else {
            let idle = idle?;
            // One, because of the others it is not known how long they have been idle.
            to = view.workers - 1;
            peak = self.peak_demand(now.saturating_sub(delay));
            if self.workers_for(peak, view) > to {
                return None;
            }
            why = Why::because(format!(
                "a worker has been idle for {}, no less than {}, at load {:.2}",
                Span(idle),
                Span(max_idle_time),
                measured.load
            ));
            let idle = Evidence::new("idle", idle.as_secs_f64(), "s");
            why.evidence.push(idle);
        }
        if to >= view.workers {
            return None;
        }
        why.reasons.push(format!(
            "at most {peak:.2} workers' worth of work came in that time"
        ));
        why.evidence.extend([
            Evidence::new("load", measured.load, ""),
            Evidence::new("target", target_load, ""),
            Evidence::new("demand_most", peak, "workers"),
        ]);
        if patience > 1 {
            why.reasons.push(format!(
                "waited {patience} times the usual delay, as an earlier reduction was soon undone"
            ));
        }
        self.patience.reduced(now, &self.config.doubt());
        Some(self.propose(now, view, to, delay, why, measured))
    }

    /// Returns the greatest demand that was read after `from` and since the last change of size.
    fn peak_demand(&self, from: Timestamp) -> f64 {
        let from = from.max(self.fresh_from);
        self.history
            .iter()
            .rev()
            .take_while(|point| point.at > from)
            .map(|point| point.load * f64::from(point.healthy.max(1)))
            .fold(0.0, f64::max)
    }

    /// Returns the time that the load was measured over.
    fn measured_over(&self, now: Timestamp) -> Duration {
        now.duration_since(self.fresh_from).min(LOAD_WINDOW)
    }

    fn propose(
        &mut self,
        now: Timestamp,
        view: &PoolView,
        to: u32,
        hold: Duration,
        mut why: Why,
        measured: &Measured,
    ) -> Proposal {
        why.evidence
            .push(Evidence::new("demand", measured.demand, "workers"));
        self.decided = Some(now);
        self.asked = Some(to);
        self.start_anew(now);
        why.propose(self.knob, to, hold, view)
    }
}

impl PoolConfig {
    /// When the classic controller, and [`Adaptive`] in turn, takes a reduction for wrong.
    fn doubt(&self) -> Doubt {
        let long = self.scale_down_delay.saturating_mul(UNDONE_WITHIN);
        Doubt {
            undone_within: long,
            fades_after: long,
            most: PATIENCE_MAX,
        }
    }
}

impl Controller for Classic {
    type View = PoolView;

    fn part(&self) -> &'static str {
        PART
    }

    /// A tenth of the shorter delay, from 100 ms to 500 ms.
    fn period(&self) -> Duration {
        self.config.period()
    }

    fn step(&mut self, now: Timestamp, view: &PoolView) -> Option<Proposal> {
        let measured = self.read(now, view)?;
        let new_bounds = core::mem::take(&mut self.new_bounds);
        if let Some((to, why)) = into_bounds(&self.config, view) {
            // That is no matter of load, so it waits for no delay, unless it was refused.
            let may = new_bounds || self.waited(now, self.config.scale_up_delay);
            return may.then(|| self.propose(now, view, to, Duration::ZERO, why, &measured));
        }
        let target = self.config.target_load;
        let above = measured.load > target;
        self.above = above.then(|| self.above.unwrap_or(now));
        let above = above && measured.load_latest > target;
        self.above_each = above.then(|| self.above_each.unwrap_or(now));
        let below = measured.load < LOW * target;
        self.below = below.then(|| {
            let (since, before) = self
                .below
                .map_or((measured.from, 0.0), |b| (b.since, b.greatest));
            let greatest = measured.demand.max(before);
            Below { since, greatest }
        });
        self.up(now, view, &measured)
            .or_else(|| self.down(now, view, &measured))
    }
}

/// Returns the least whole number that is not less, which `core` cannot; a hair above a whole number is that number.
fn round_up(x: f64) -> u32 {
    let below = x as u32;
    below.saturating_add(u32::from(x - f64::from(below) > 1e-9))
}
