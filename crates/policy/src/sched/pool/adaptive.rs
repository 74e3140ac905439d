//! Sizing by measured throughput and latency: climbs to the size that serves most, and goes no further.
//!
//! How many workers are best cannot be told from the load where tasks block: eight CPUs want eight workers that compute, and forty that
//! wait four fifths of their time. So it is tried out, one size against another, while work waits:
//!
//! ```text
//! better  = Δ throughput − 0.1 × Δ time in a worker > 0            (Δ: difference over mean)
//! compare : windows A B B A, at each change the first moments left out; pairs of neighbours are compared
//! adopt   : the whole interval of the mean difference lies above zero
//! ```
//!
//! Where more workers run no more, tasks take longer by as much as there are more; so the second term takes away what brings nothing, and the
//! climb ends where a tenth more workers bring less than a hundredth more work (an exponent on latency, as in the *power* of Kleinrock, "Power
//! and deterministic rules of thumb for probabilistic problems in computer communications", 1979).
//!
//! # How it goes
//!
//! 1. **Work waits** and all workers are busy: at once a worker for each CPU that may be used, or the best size known.
//! 2. **Start.** Twice the workers, as long as twice as many do half again as much: differences that no noise makes up.
//! 3. **Search.** Sizes in the ratios of [`RATIOS`], up and down, in trials. What is better becomes the new middle.
//! 4. **Settled.** The neighbours are tried again after a minute, then after two, up to an hour; at once when throughput moves by a fifth.
//! 5. **Nothing waits.** Throughput is what comes then, whatever the size, and trials would show nothing. The pool shrinks to the work of
//!    `scale_down_delay`, and the best size is remembered.
//!
//! # Honest figures
//!
//! - Neighbours in time are compared, in an order in which a steady drift cancels out (A B B A), so that a load that changes by itself is
//!   not mistaken for an effect of the size.
//! - A verdict is looked for at [`LOOKS`] only, each with a t-interval of 99 %, so that looking five times errs in at most 5 % of trials that
//!   have no effect (Bonferroni), whatever the noise. What is not decided by the last look changes nothing.
//! - A size that does much worse twice in a row is left before that.
//! - Windows last until enough tasks ended, and count only if work waited.
//!
//! Hill climbing on raw throughput runs away where it is noisy; this one stays where it is instead, which costs time and no harm.
//!
//! Leaves out: throughput of tasks of unequal worth; who changes the mix of the load from window to window with the same period as the trials.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::Timestamp;

use super::load::in_range;
use super::patience::Patience;
use super::peaks::Peaks;
use super::proposal::{PART, Why, into_bounds};
use super::{PATIENCE_MAX, PoolConfig, PoolView, round_up};
use crate::control::{Controller, Evidence, KnobId, Proposal, Span};

mod tally;
#[cfg(test)]
mod tests;
mod trial;

use tally::Tally;
pub use trial::{LOOKS, STAY_WEIGHT};
use trial::{Trial, Verdict};

/// By how much sizes that are tried differ: first far, then near.
pub const RATIOS: [f64; 3] = [2.0, 1.4, 1.18];

/// The ratio with which a search begins after the start, and when the neighbours are tried again.
const NEAR: usize = 1;
/// A pool is busy with this part of its workers at work.
const BUSY: f64 = 0.9;
/// Throughput that moves by this part, for [`DOUBTS`] windows, makes what was learned doubtful.
const SHIFT: f64 = 0.2;
const DOUBTS: u32 = 3;
/// Windows in a row in which nothing waited, after which a trial is given up.
const VOID_MAX: u32 = 3;
/// The least time between searches, in windows; and how often it is doubled.
const COOL_WINDOWS: u32 = 60;
const COOL_DOUBLED_MAX: u32 = 6;
/// The shortest and the longest of shortest windows.
const WINDOW_MIN: Duration = Duration::from_millis(200);
const WINDOW_MAX: Duration = Duration::from_secs(10);
/// Readings of the shortest window.
const READINGS: u32 = 4;
/// A window lasts until so many tasks ended, or so many times its shortest length; with fewer than the least it says nothing.
const RAN_ENOUGH: f64 = 400.0;
const RAN_LEAST: f64 = 20.0;
const LONGER_MAX: u32 = 10;

/// Where in the climb it is.
#[derive(Clone, Debug)]
enum Stage {
    /// Nothing waits, or nothing is known.
    Rest,
    /// Doubling; the size before and its throughput.
    Start { before: Option<(u32, f64)> },
    /// Trying sizes around `middle`.
    Search(Search),
    /// The best size is in force; the neighbours are tried again at `until`.
    Settled { until: Timestamp, doubts: u32 },
}

#[derive(Clone, Debug)]
struct Search {
    middle: u32,
    /// Which of [`RATIOS`].
    ratio: usize,
    /// Whether the next trial goes up.
    up: bool,
    /// Directions of this ratio that were tried around this middle.
    tried: u32,
    /// Something was adopted.
    moved: bool,
    trial: Option<Trial>,
    void: u32,
}

/// What was learned.
#[derive(Clone, Copy, Debug)]
struct Best {
    workers: u32,
    /// Tasks a second, when work waited; None until a window has passed.
    rate: Option<f64>,
}

/// The controller that climbs by throughput and latency. See the [module](self).
#[derive(Clone, Debug)]
pub struct Adaptive {
    config: PoolConfig,
    knob: KnobId,
    last: Option<(Timestamp, u32)>,
    asked: Option<u32>,
    /// Readings that begin before this still show the size before.
    skip_until: Timestamp,
    tally: Tally,
    /// The mean time of a task in a worker, seconds.
    stay: f64,
    stage: Stage,
    best: Option<Best>,
    /// How often the time to the next search was doubled.
    cooled: u32,
    /// The demand of the last times, in workers.
    peaks: Peaks,
    decided: Option<Timestamp>,
    patience: Patience,
    new_bounds: bool,
    trials: u64,
    /// How the last trial came out.
    verdict: Option<String>,
}

impl Adaptive {
    /// Makes the controller of the pool whose size is `knob`. Settings out of range ([`PoolConfig::check`]) are brought into it.
    pub fn new(config: PoolConfig, knob: KnobId) -> Self {
        Self {
            config: config.brought_into_range(),
            knob,
            last: None,
            asked: None,
            skip_until: Timestamp::ZERO,
            tally: Tally::default(),
            stay: 0.0,
            stage: Stage::Rest,
            best: None,
            cooled: 0,
            peaks: Peaks::new(),
            decided: None,
            patience: Patience::new(),
            new_bounds: true,
            trials: 0,
            verdict: None,
        }
    }

    /// Changes the settings. The best size stays known as far as it is within the bounds; a trial is given up.
    pub fn set_config(&mut self, config: PoolConfig) {
        self.config = config.brought_into_range();
        self.stage = Stage::Rest;
        self.best = self
            .best
            .filter(|best| (self.config.min..=self.config.max).contains(&best.workers));
        self.cooled = 0;
        self.patience.reset();
        self.new_bounds = true;
    }

    /// Returns the settings.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Returns the size that did best while work waited; `None` before a search has come to its end.
    pub fn best(&self) -> Option<u32> {
        self.best.map(|best| best.workers)
    }

    /// Returns how many trials have come to a verdict.
    pub fn trials(&self) -> u64 {
        self.trials
    }

    /// Returns how the last trial came out, as a sentence: also where that changed nothing, so that no decision says it.
    pub fn verdict(&self) -> Option<&str> {
        self.verdict.as_deref()
    }

    /// Returns where in the climb it is: `resting` (nothing waits), `starting` (doubling), `searching`, `settled`.
    pub fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Rest => "resting",
            Stage::Start { .. } => "starting",
            Stage::Search(_) => "searching",
            Stage::Settled { .. } => "settled",
        }
    }

    /// Returns the size that is being tried against the best one known.
    pub fn trying(&self) -> Option<u32> {
        match &self.stage {
            Stage::Search(search) => Some(search.trial.as_ref()?.other),
            _ => None,
        }
    }

    /// Returns by how much reductions wait longer at present, as they turned out to be wrong; 1: not at all.
    pub fn patience(&self) -> u32 {
        self.patience.times()
    }

    /// Returns when the neighbours of the best size are tried again, if work waits then.
    pub fn again_at(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Settled { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Says whether it has found the best size and is not trying others.
    pub fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Settled { .. })
    }

    fn window(&self) -> Duration {
        (self.config.scale_up_delay / 5).clamp(WINDOW_MIN, WINDOW_MAX)
    }

    /// Begins to measure anew for a size in force from `now`: tasks that began before it are left out.
    fn start_anew(&mut self, now: Timestamp) {
        let longest = self.window().saturating_mul(LONGER_MAX).as_secs_f64();
        let leave_out = Duration::from_secs_f64(self.stay.min(longest)).max(self.period());
        self.skip_until = now.saturating_add(leave_out);
        self.tally = Tally::default();
    }

    /// Takes in a view. Returns the length of the reading; `None` if nothing can be said yet.
    fn read(&mut self, now: Timestamp, view: &PoolView) -> Option<f64> {
        let Some((last_at, last_workers)) = self.last else {
            self.last = Some((now, view.workers));
            self.skip_until = now;
            return None;
        };
        if now <= last_at {
            return None;
        }
        self.last = Some((now, view.workers));
        let asked = self.asked.take();
        let refused = asked.is_some_and(|asked| asked != view.workers);
        if refused || (asked.is_none() && view.workers != last_workers) {
            // Somebody else has the word. What was being tried is not what runs.
            if view.workers > last_workers {
                self.patience.increased(now, &self.config.doubt());
            }
            if refused {
                self.patience.forget();
            }
            self.stage = Stage::Rest;
            self.start_anew(now);
        }
        let span = now.duration_since(last_at).as_secs_f64();
        if last_at >= self.skip_until {
            self.tally.add(span, view);
            if let Some(stay) = self.tally.stay() {
                self.stay = stay;
            }
        }
        let waiting =
            view.backlog as f64 * self.stay / self.config.scale_up_delay.as_secs_f64().max(1e-3);
        let kept = self.config.scale_down_delay.saturating_mul(PATIENCE_MAX);
        self.peaks
            .push(now, in_range(in_range(view.busy) + waiting), kept);
        Some(span)
    }

    /// Takes the window out if it is over.
    fn take_window(&mut self) -> Option<Tally> {
        let window = self.window().as_secs_f64() * 0.999;
        let enough = self.tally.seconds >= window && self.tally.ran >= RAN_ENOUGH;
        let over = self.tally.seconds >= window * f64::from(LONGER_MAX);
        (enough || over).then(|| core::mem::take(&mut self.tally))
    }

    /// Returns the size in this ratio to `from`, another one; `None` where the bounds leave none.
    fn next_size(&self, from: u32, ratio: usize, up: bool) -> Option<u32> {
        let ratio = RATIOS.get(ratio)?;
        let PoolConfig { min, max, .. } = self.config;
        let to = if up {
            ((f64::from(from) * ratio + 0.5) as u32).max(from.saturating_add(1))
        } else {
            ((f64::from(from) / ratio + 0.5) as u32).min(from.saturating_sub(1))
        }
        .clamp(min, max);
        (to != from).then_some(to)
    }

    fn cool(&self) -> Duration {
        let cool = self.window().saturating_mul(COOL_WINDOWS);
        cool.saturating_mul(1 << self.cooled.min(COOL_DOUBLED_MAX))
    }

    fn settle(&mut self, now: Timestamp, workers: u32, moved: bool) {
        if moved {
            self.cooled = 0;
        }
        self.best = Some(Best {
            workers,
            rate: None,
        });
        self.stage = Stage::Settled {
            until: now.saturating_add(self.cool()),
            doubts: 0,
        };
        self.cooled = (self.cooled + 1).min(COOL_DOUBLED_MAX);
    }

    fn search(&mut self, middle: u32, ratio: usize) {
        self.stage = Stage::Search(Search {
            middle,
            ratio,
            up: true,
            tried: 0,
            moved: false,
            trial: None,
            void: 0,
        });
    }

    /// Work waits, and nothing was being tried.
    fn work_waits(&mut self, now: Timestamp, view: &PoolView) -> Option<Proposal> {
        let waits = format!(
            "{} tasks wait and {:.1} of {} workers are busy",
            view.backlog, view.busy, view.workers
        );
        if let Some(best) = self.best {
            self.stage = Stage::Settled {
                until: now.saturating_add(self.cool()),
                doubts: 0,
            };
            self.tally = Tally::default();
            if best.workers != view.workers {
                if best.workers > view.workers {
                    self.patience.increased(now, &self.config.doubt());
                }
                let reason = format!("{waits}; {} did best when work waited before", best.workers);
                return Some(self.propose(now, view, best.workers, Why::because(reason)));
            }
            return None;
        }
        self.stage = Stage::Start { before: None };
        self.tally = Tally::default();
        let PoolConfig { min, max, .. } = self.config;
        let fill = view.parallelism.clamp(min, max);
        if fill > view.workers {
            self.patience.increased(now, &self.config.doubt());
            let reason = format!("{waits}, while {} may run at once", view.parallelism);
            return Some(self.propose(now, view, fill, Why::because(reason)));
        }
        None
    }

    /// Nothing waits: the size follows the work.
    fn shrink(&mut self, now: Timestamp, view: &PoolView) -> Option<Proposal> {
        let patience = self.patience.left(now, &self.config.doubt());
        let window = self.config.scale_down_delay.saturating_mul(patience);
        let waited = |at: Timestamp| now.duration_since(at) >= window;
        if view.workers <= self.config.min || !self.decided.is_none_or(waited) {
            return None;
        }
        let most = self.peaks.greatest(now, window)?;
        let lost = view.workers.saturating_sub(view.healthy);
        let to = round_up(most / (super::AIM * self.config.target_load))
            .saturating_add(lost)
            .max(view.workers.div_ceil(2))
            .max(self.config.min);
        if f64::from(to) > f64::from(view.workers) * BUSY {
            return None;
        }
        self.patience.reduced(now, &self.config.doubt());
        let reason = format!(
            "nothing waits, and at most {most:.2} workers' worth of work came in {}",
            Span(window)
        );
        let evidence = alloc::vec![Evidence::new("demand_most", most, "workers")];
        Some(self.propose(now, view, to, Why::because(reason).shown_by(evidence)))
    }

    /// A window of the start is over.
    fn started(
        &mut self,
        now: Timestamp,
        view: &PoolView,
        before: Option<(u32, f64)>,
        window: &Tally,
    ) -> Option<Proposal> {
        let size = view.workers;
        let rate = window.rate();
        if !window.waited() || window.ran < RAN_LEAST {
            // Enough workers for what comes, or too few tasks to tell.
            self.stage = Stage::Rest;
            return None;
        }
        if let Some((smaller, rate_before)) = before {
            let gain = rate / rate_before;
            if gain * gain < f64::from(size) / f64::from(smaller) {
                let stay = f64::from(size) / f64::from(smaller) / gain;
                let better = trial::difference(rate, rate_before)
                    - STAY_WEIGHT * trial::difference(stay, 1.0);
                let middle = if better > 0.0 { size } else { smaller };
                self.search(middle, NEAR);
                let reason = format!(
                    "{size} workers did {:.2} times as much as {smaller}; sizes around {middle} are tried out",
                    gain
                );
                return (middle != size)
                    .then(|| self.propose(now, view, middle, Why::because(reason)));
            }
        }
        let Some(next) = self.next_size(size, 0, true) else {
            self.search(size, NEAR);
            return None;
        };
        self.stage = Stage::Start {
            before: Some((size, rate)),
        };
        let reason = match before {
            Some((smaller, rate_before)) => format!(
                "{size} workers did {:.2} times as much as {smaller}, and work waits",
                rate / rate_before
            ),
            None => format!("work waits, and {size} workers end {rate:.1} tasks a second"),
        };
        let evidence = alloc::vec![Evidence::new("throughput", rate, "tasks/s")];
        Some(self.propose(now, view, next, Why::because(reason).shown_by(evidence)))
    }

    /// A window of a search is over, or the search begins.
    fn searched(
        &mut self,
        now: Timestamp,
        view: &PoolView,
        mut search: Search,
        window: Option<Tally>,
    ) -> Option<Proposal> {
        let mut said = String::new();
        let mut evidence = Vec::new();
        if let Some(window) = window
            && let Some(trial) = &mut search.trial
        {
            if window.ran < RAN_LEAST {
                // Too few tasks: no trial would come to an end.
                self.stage = Stage::Rest;
                let reason = "too few tasks end to compare sizes".into();
                let back = search.middle;
                return (view.workers != back)
                    .then(|| self.propose(now, view, back, Why::because(reason)));
            }
            search.void = if window.waited() { 0 } else { search.void + 1 };
            if search.void >= VOID_MAX {
                // What waits is gone: the size is enough for what comes.
                self.stage = Stage::Rest;
                return None;
            }
            match trial.take(&window) {
                Verdict::Open => {}
                verdict => {
                    self.trials += 1;
                    said = trial.in_words(verdict);
                    self.verdict = Some(said.clone());
                    evidence = trial.evidence();
                    if verdict == Verdict::Better {
                        search.up = trial.other > search.middle;
                        search.middle = trial.other;
                        search.tried = 0;
                        search.moved = true;
                    } else {
                        search.up = !search.up;
                        search.tried += 1;
                    }
                    search.trial = None;
                }
            }
        }
        while search.trial.is_none() {
            if search.tried >= 2 {
                search.ratio += 1;
                search.tried = 0;
            }
            if search.ratio >= RATIOS.len() {
                let middle = search.middle;
                self.settle(now, middle, search.moved);
                let reason = format!("{said}; {middle} workers are best among their neighbours");
                return (view.workers != middle).then(|| {
                    self.propose(now, view, middle, Why::because(reason).shown_by(evidence))
                });
            }
            match self.next_size(search.middle, search.ratio, search.up) {
                Some(other) => search.trial = Some(Trial::new(search.middle, other)),
                None => {
                    search.up = !search.up;
                    search.tried += 1;
                }
            }
        }
        let trial = search.trial.as_ref()?;
        let to = trial.size();
        if said.is_empty() {
            said = trial.about();
        } else {
            said = format!("{said}; {}", trial.about());
        }
        self.stage = Stage::Search(search);
        (to != view.workers)
            .then(|| self.propose(now, view, to, Why::because(said).shown_by(evidence)))
    }

    /// A window at the best size is over.
    fn doubted(&mut self, window: &Tally, doubts: u32, until: Timestamp) {
        let Some(best) = self.best.as_mut() else {
            return;
        };
        if !window.waited() || window.ran < RAN_LEAST {
            return;
        }
        let rate = window.rate();
        let Some(known) = best.rate else {
            best.rate = Some(rate);
            return;
        };
        if trial::difference(rate, known).abs() <= SHIFT {
            // Follows slowly, so that a drift is not a shift.
            best.rate = Some(known + 0.1 * (rate - known));
            self.stage = Stage::Settled { until, doubts: 0 };
            return;
        }
        if doubts + 1 < DOUBTS {
            self.stage = Stage::Settled {
                until,
                doubts: doubts + 1,
            };
            return;
        }
        let middle = best.workers;
        self.best = None;
        self.cooled = 0;
        self.search(middle, 0);
    }

    fn propose(&mut self, now: Timestamp, view: &PoolView, to: u32, mut why: Why) -> Proposal {
        why.evidence.extend([
            Evidence::new("busy", in_range(view.busy), "workers"),
            Evidence::new("time_in_worker", self.stay, "s"),
        ]);
        self.asked = Some(to);
        self.decided = Some(now);
        self.start_anew(now);
        why.propose(self.knob, to, Duration::ZERO, view)
    }
}

impl Controller for Adaptive {
    type View = PoolView;

    fn part(&self) -> &'static str {
        PART
    }

    /// A quarter of the shortest window, which is a fifth of `scale_up_delay`, from 200 ms to 10 s.
    fn period(&self) -> Duration {
        self.window() / READINGS
    }

    fn step(&mut self, now: Timestamp, view: &PoolView) -> Option<Proposal> {
        self.read(now, view)?;
        let new_bounds = core::mem::take(&mut self.new_bounds);
        let waited = |at: Timestamp| now.duration_since(at) >= self.config.scale_up_delay;
        let may = self.decided.is_none_or(waited);
        if let Some((to, why)) = into_bounds(&self.config, view) {
            return (new_bounds || may).then(|| self.propose(now, view, to, why));
        }
        // Beyond the parallelism, workers wait for their turn unless others block.
        let at_work = f64::from(view.workers.min(view.parallelism.max(1)));
        let saturated = view.backlog > 0 && in_range(view.busy) >= BUSY * at_work;
        match core::mem::replace(&mut self.stage, Stage::Rest) {
            Stage::Rest => {
                // Whoever was just refused, or found nothing to compare, does not ask again at once.
                if saturated && may {
                    return self.work_waits(now, view);
                }
                self.tally = Tally::default();
                self.shrink(now, view)
            }
            Stage::Start { before } => match self.take_window() {
                Some(window) => self.started(now, view, before, &window),
                None => {
                    self.stage = Stage::Start { before };
                    None
                }
            },
            Stage::Search(search) => {
                if search.trial.is_none() {
                    return self.searched(now, view, search, None);
                }
                match self.take_window() {
                    Some(window) => self.searched(now, view, search, Some(window)),
                    None => {
                        self.stage = Stage::Search(search);
                        None
                    }
                }
            }
            Stage::Settled { until, doubts } => {
                self.stage = Stage::Settled { until, doubts };
                let smaller = self.best.is_some_and(|best| view.workers < best.workers);
                if saturated && smaller {
                    return self.work_waits(now, view);
                }
                let at_best = self.best.is_some_and(|best| view.workers == best.workers);
                if let Some(window) = self.take_window().filter(|_| at_best) {
                    if now >= until && window.waited() {
                        self.search(view.workers, NEAR);
                        return None;
                    }
                    self.doubted(&window, doubts, until);
                }
                match self.stage {
                    Stage::Settled { .. } if !saturated => self.shrink(now, view),
                    _ => None,
                }
            }
        }
    }
}
