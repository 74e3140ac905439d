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
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::Timestamp;

use crate::control::{Controller, Evidence, KnobId, Proposal, Rank, Span};

pub mod adaptive;
mod fill;
mod load;
pub mod offered;
mod params;
mod peaks;
mod sizer;
#[cfg(test)]
mod tests;

pub use adaptive::Adaptive;
pub use fill::fill;
pub use load::LOAD_WINDOW;
use load::{Measured, Window, in_range};
pub use offered::{Offered, OfferedConfig};
pub use params::{LoadPoint, PoolConfig, PoolView};
pub use sizer::{ForecastState, Sizer, SizerState, Sizing};

/// The part of target that a change aims at; below 0.9 / 1.1, so that scatter of ±10 % does not undo it.
pub const AIM: f64 = 0.8;
/// How many readings [`Classic::history`] keeps: ten minutes of two a second.
pub const HISTORY: usize = 1_200;

/// The part of target below which there are too many workers.
const LOW: f64 = 0.5;
/// The longest time between two looks.
const PERIOD_MAX: Duration = Duration::from_millis(500);
/// The shortest: with less, one task more or less is most of the load.
const PERIOD_MIN: Duration = Duration::from_millis(100);
/// How many readings a delay has, if the bounds of the period allow.
const READINGS_A_DELAY: u32 = 10;
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
    /// That time, if it was a reduction and was not refused.
    reduced: Option<Timestamp>,
    /// The settings are new, so that bounds need not wait for a delay.
    new_bounds: bool,
    /// How many delays a reduction takes.
    patience: u32,
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
            reduced: None,
            new_bounds: true,
            patience: 1,
            history: VecDeque::new(),
        }
    }

    /// Changes the settings. What was measured stays; states that last (load above target and so on) begin anew, as
    /// they were judged by other settings.
    pub fn set_config(&mut self, config: PoolConfig) {
        self.config = config.brought_into_range();
        (self.above, self.above_each) = (None, None);
        (self.below, self.growing) = (None, None);
        self.patience = 1;
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
        self.patience
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
                self.increased(now);
            }
            self.start_anew(last_at);
        }
        if asked.is_some_and(|asked| asked != view.workers) {
            self.reduced = None;
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

    /// Takes notice of an increase: soon after a reduction it undoes that.
    fn increased(&mut self, now: Timestamp) {
        if let Some(at) = self.reduced
            && now.duration_since(at) < self.undone_within()
        {
            self.patience = (self.patience_left(now) * 2).min(PATIENCE_MAX);
            self.reduced = None;
        }
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
        let (mut demand, mut reasons, mut evidence) = (measured.demand, Vec::new(), Vec::new());
        evidence.push(Evidence::new("load", measured.load, ""));
        evidence.push(Evidence::new("target", target_load, ""));
        if let Some(since) = above {
            let span = now.duration_since(since);
            reasons.push(format!(
                "load {:.2} over {} stayed above target {target_load:.2} for {}",
                measured.load,
                Span(self.measured_over(now)),
                Span(span)
            ));
            evidence.push(Evidence::new("above_target", span.as_secs_f64(), "s"));
        }
        if let Some(growing) = growing {
            let span = now.duration_since(growing.from_at);
            let growth = (view.backlog - growing.from) as f64 / span.as_secs_f64();
            demand += growth * self.window.mean_run();
            reasons.push(format!(
                "queue grew from {} to {} in {}",
                growing.from,
                view.backlog,
                Span(span)
            ));
            if above.is_none() {
                reasons.push(format!(
                    "load over {} is {:.2}, target {target_load:.2}",
                    Span(self.measured_over(now)),
                    measured.load
                ));
            }
            evidence.push(Evidence::new("queue_before", growing.from as f64, "tasks"));
        }
        let to = self
            .workers_for(demand, view)
            .min(view.workers.saturating_mul(STEP_RATIO))
            .max(view.workers.saturating_add(1))
            .min(max);
        if to > view.parallelism {
            reasons.push(format!(
                "parallelism {} caps what runs at once, so workers beyond it help only while others block",
                view.parallelism
            ));
        }
        self.increased(now);
        Some(self.propose(now, view, to, delay, reasons, evidence, measured))
    }

    /// Answers with a reduction if there is reason for one.
    fn down(&mut self, now: Timestamp, view: &PoolView, measured: &Measured) -> Option<Proposal> {
        let PoolConfig {
            min,
            target_load,
            max_idle_time,
            ..
        } = self.config;
        let patience = self.patience_left(now);
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
        let (to, peak, mut reasons, mut evidence);
        if let Some(below) = below {
            let span = now.duration_since(below.since);
            peak = below.greatest;
            to = self.workers_for(peak, view).max(halved).max(min);
            let (load, low) = (measured.load, LOW * target_load);
            reasons = alloc::vec![format!(
                "load {load:.2} over {} stayed under {low:.2}, half of target, for {}",
                Span(self.measured_over(now)),
                Span(span)
            )];
            evidence = alloc::vec![
                Evidence::new("load", measured.load, ""),
                Evidence::new("target", target_load, ""),
                Evidence::new("under_half_of_target", span.as_secs_f64(), "s"),
            ];
        } else {
            let idle = idle?;
            // One, because of the others it is not known how long they have been idle.
            to = view.workers - 1;
            peak = self.peak_demand(now.saturating_sub(delay));
            if self.workers_for(peak, view) > to {
                return None;
            }
            reasons = alloc::vec![format!(
                "a worker has been idle for {}, no less than {}, at load {:.2}",
                Span(idle),
                Span(max_idle_time),
                measured.load
            )];
            evidence = alloc::vec![
                Evidence::new("load", measured.load, ""),
                Evidence::new("target", target_load, ""),
                Evidence::new("idle", idle.as_secs_f64(), "s"),
            ];
        }
        if to >= view.workers {
            return None;
        }
        reasons.push(format!(
            "at most {peak:.2} workers' worth of work came in that time"
        ));
        evidence.push(Evidence::new("demand_most", peak, "workers"));
        if patience > 1 {
            reasons.push(format!(
                "waited {patience} times the usual delay, as an earlier reduction was soon undone"
            ));
        }
        self.patience = patience;
        Some(self.propose(now, view, to, delay, reasons, evidence, measured))
    }

    /// Returns how long a reduction counts as undone by an increase.
    fn undone_within(&self) -> Duration {
        self.config.scale_down_delay.saturating_mul(UNDONE_WITHIN)
    }

    /// Returns how many delays a reduction takes now: half as many for each time that the last reduction could have
    /// been undone and was not.
    fn patience_left(&self, now: Timestamp) -> u32 {
        let stood = self.reduced.map_or(0, |at| {
            now.duration_since(at).as_nanos() / self.undone_within().as_nanos().max(1)
        });
        (self.patience >> stood.min(31)).max(1)
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

    #[allow(clippy::too_many_arguments)] // the fields of a proposal, once
    fn propose(
        &mut self,
        now: Timestamp,
        view: &PoolView,
        to: u32,
        hold: Duration,
        mut reasons: Vec<String>,
        mut evidence: Vec<Evidence>,
        measured: &Measured,
    ) -> Proposal {
        if view.healthy < view.workers {
            reasons.push(format!(
                "{} of {} workers are not healthy or not there and count as no capacity",
                view.workers - view.healthy,
                view.workers
            ));
        }
        evidence.extend([
            Evidence::new("demand", measured.demand, "workers"),
            Evidence::new("queue", view.backlog as f64, "tasks"),
            Evidence::new("healthy", f64::from(view.healthy), "workers"),
            Evidence::new("parallelism", f64::from(view.parallelism), "workers"),
        ]);
        self.decided = Some(now);
        self.reduced = (to < view.workers).then_some(now);
        self.asked = Some(to);
        self.start_anew(now);
        Proposal {
            knob: self.knob,
            value: f64::from(to),
            rank: Rank::Pool,
            part: "pool",
            hold,
            reason: reasons.join("; "),
            evidence,
        }
    }
}

impl Controller for Classic {
    type View = PoolView;

    fn part(&self) -> &'static str {
        "pool"
    }

    /// A tenth of the shorter delay, from 100 ms to 500 ms.
    fn period(&self) -> Duration {
        let delay = self.config.scale_up_delay.min(self.config.scale_down_delay);
        (delay / READINGS_A_DELAY).clamp(PERIOD_MIN, PERIOD_MAX)
    }

    fn step(&mut self, now: Timestamp, view: &PoolView) -> Option<Proposal> {
        let measured = self.read(now, view)?;
        let PoolConfig { min, max, .. } = self.config;
        let new_bounds = core::mem::take(&mut self.new_bounds);
        if !(min..=max).contains(&view.workers) {
            // That is no matter of load, so it waits for no delay, unless it was refused.
            if !new_bounds && !self.waited(now, self.config.scale_up_delay) {
                return None;
            }
            let to = view.workers.clamp(min, max);
            let reason = format!(
                "{} workers are outside the bounds {min} to {max}",
                view.workers
            );
            let (hold, evidence) = (Duration::ZERO, Vec::new());
            let reasons = alloc::vec![reason];
            return Some(self.propose(now, view, to, hold, reasons, evidence, &measured));
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
