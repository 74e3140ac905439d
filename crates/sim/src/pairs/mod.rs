//! Two controllers at once: each measures what the other changes, so that what settles alone may swing together.
//!
//! A *scene* is a machine on which calls of two classes compute, and maybe block, on the workers of a pool. Of these may be there:
//!
//! - a gate before the pool, with its limit by run delay: calls that wait for a worker look to it as calls without a CPU;
//! - a throttle, which holds the machine's use at a threshold by a ceiling on batch: what it holds back waits, which the gate measures;
//! - a pool that sizes itself: what the gate keeps out it does not see, and what the throttle holds back it must not take for work that wants workers.
//!
//! Demand steps, work scatters, neighbours come and go. Figures are taken over *spans* in which all should have settled.
//!
//! Left out: commands (they are no calls), costs of the executor itself, and sampling by the gate: it looks at every call.

mod scenes;
mod world;

use std::fmt::Write as _;

use flyball_policy::sched::pool::Sizing;
use serde::Serialize;

use crate::Error;
use crate::overload::service::Work;
use world::{BATCH, INTERACTIVE, World};

/// Readings of the use in a second: as often as a throttle looks.
const READINGS: usize = 4;
/// Use is judged by means over so many seconds.
const WINDOW: usize = 5;

/// Something that depends on the second of the run.
type Curve = fn(f64) -> f64;

/// How many workers there are.
#[derive(Debug, Clone, Copy)]
enum Pool {
    Fixed(u32),
    By {
        sizing: Sizing,
        first: u32,
        max: u32,
    },
}

/// A time in which all should have settled.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: usize,
    to: usize,
    /// The use that should be held, percent.
    usage: Option<f64>,
}

/// A machine, what is wanted of it, and who regulates.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Its name, such as `gate+throttle/step`.
    pub name: &'static str,
    cpus: u32,
    /// The part of the CPUs that others use.
    others: Curve,
    /// Work of interactive and of batch that comes, of what all CPUs can do.
    demand: [Curve; 2],
    work: Work,
    /// Mean CPU time of a call.
    work_ms: f64,
    /// Mean time for which it blocks its worker beside.
    blocks_ms: f64,
    deadline_ms: u64,
    gate: bool,
    /// Percent of the machine.
    throttle: Option<f64>,
    pool: Pool,
    seconds: f64,
    spans: &'static [Span],
}

/// What came of a run; figures range over the spans in which all should have settled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The scene.
    pub scene: &'static str,
    /// How far the mean use over 5 s was from the threshold at worst, points of the machine; where there is a threshold to hold.
    pub usage_off: Option<f64>,
    /// Interactive calls answered in time, of those made; `None` without any.
    pub interactive: Option<f64>,
    /// Calls of batch answered in time, of those made; `None` without any.
    pub batch: Option<f64>,
    /// 99th percentile of the latency of answers to interactive calls, ms; to all where there are none.
    pub p99_ms: f64,
    /// The least and the greatest limit, each a mean over a second; without a gate `None`.
    pub limit: Option<(f64, f64)>,
    /// Within a span, the greatest of these means over the least: how far the limit swings under the same demand.
    pub limit_swing: Option<f64>,
    /// The fewest and the most workers.
    pub workers: (u32, u32),
    /// Changes of the pool's size.
    pub resized: usize,
    /// Seconds of all spans.
    pub seconds: usize,
}

/// What a run writes down.
#[derive(Debug, Clone)]
struct Outcome {
    /// Percent, by reading.
    usage: Vec<f64>,
    /// Sum of the limits seen in each second, and how many.
    limits: Vec<(f64, f64)>,
    /// The fewest and most workers seen in each second.
    workers: Vec<(u32, u32)>,
    /// By class and second in which they were made: calls, and answers in time.
    calls: [Vec<(u64, u64)>; 2],
    /// By class: the second in which a call was made, and what its answer took, µs.
    latencies: [Vec<(usize, u32)>; 2],
    /// Seconds at which the pool's size changed.
    resized: Vec<usize>,
}

fn second(nanos: u64) -> usize {
    (nanos / 1_000_000_000) as usize
}

impl Outcome {
    fn new(seconds: f64) -> Self {
        let seconds = seconds.ceil() as usize;
        Self {
            usage: Vec::new(),
            limits: vec![(0.0, 0.0); seconds],
            workers: vec![(u32::MAX, 0); seconds],
            calls: [vec![(0, 0); seconds], vec![(0, 0); seconds]],
            latencies: [Vec::new(), Vec::new()],
            resized: Vec::new(),
        }
    }

    fn used(&mut self, usage: f64) {
        self.usage.push(usage);
    }

    fn looked(&mut self, at: f64, limit: Option<u32>, workers: u32) {
        let second = at as usize;
        if let (Some(sum), Some(limit)) = (self.limits.get_mut(second), limit) {
            sum.0 += f64::from(limit);
            sum.1 += 1.0;
        }
        if let Some((least, most)) = self.workers.get_mut(second) {
            *least = workers.min(*least);
            *most = workers.max(*most);
        }
    }

    fn resized(&mut self, at: u64) {
        self.resized.push(second(at));
    }

    fn made(&mut self, class: usize, at: u64) {
        if let Some(calls) = self.calls[class].get_mut(second(at)) {
            calls.0 += 1;
        }
    }

    fn answered(&mut self, class: usize, sent: u64, now: u64, in_time: bool) {
        if let Some(calls) = self.calls[class].get_mut(second(sent)) {
            calls.1 += u64::from(in_time);
        }
        let micros = (now - sent) / 1_000;
        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
        self.latencies[class].push((second(sent), micros));
    }

    /// How far means over [`WINDOW`] are from what should be held in a span.
    fn usage_off(&self, span: &Span) -> Option<f64> {
        let target = span.usage?;
        let readings = self.usage.get(span.from * READINGS..span.to * READINGS)?;
        let means = readings.windows(WINDOW * READINGS).map(|window| {
            let mean = window.iter().sum::<f64>() / window.len() as f64;
            (mean - target).abs()
        });
        means.reduce(f64::max)
    }

    /// The least and the greatest mean of the limit over a second in a span.
    fn limit(&self, span: &Span) -> Option<(f64, f64)> {
        let limits = self.limits.get(span.from..span.to)?;
        let means = limits.iter().filter(|(_, count)| *count > 0.0);
        let means = means.map(|(sum, count)| (sum / count, sum / count));
        means.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    fn answered_part(&self, class: usize, spans: &[Span]) -> Option<f64> {
        let calls = spans
            .iter()
            .filter_map(|span| self.calls[class].get(span.from..span.to))
            .flatten();
        let (made, good) = calls.fold((0, 0), |sum, calls| (sum.0 + calls.0, sum.1 + calls.1));
        (made > 0).then(|| good as f64 / made as f64)
    }

    fn p99_ms(&self, class: usize, spans: &[Span]) -> Option<f64> {
        let within = |at: usize| spans.iter().any(|span| (span.from..span.to).contains(&at));
        let latencies = self.latencies[class].iter();
        let mut micros: Vec<u32> = latencies
            .filter(|(at, _)| within(*at))
            .map(|(_, micros)| *micros)
            .collect();
        micros.sort_unstable();
        let p99 = micros.get(micros.len() * 99 / 100)?;
        Some(f64::from(*p99) / 1e3)
    }
}

impl Scene {
    /// All scenes.
    pub fn all() -> Vec<Self> {
        scenes::all()
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`Error::Policy`] when a policy refuses its settings.
    pub fn run(&self, seed: u64) -> Result<Report, Error> {
        let outcome = World::new(self, seed)?.play();
        let spans = self.spans;
        let limits: Vec<(f64, f64)> = spans
            .iter()
            .filter_map(|span| outcome.limit(span))
            .collect();
        let workers = spans
            .iter()
            .filter_map(|span| outcome.workers.get(span.from..span.to))
            .flatten()
            .fold((u32::MAX, 0), |all, &(least, most)| {
                (least.min(all.0), most.max(all.1))
            });
        let resized = outcome.resized.iter().filter(|at| {
            let mut within = spans.iter().map(|span| span.from..span.to);
            within.any(|span| span.contains(*at))
        });
        let p99_ms = outcome
            .p99_ms(INTERACTIVE, spans)
            .or_else(|| outcome.p99_ms(BATCH, spans));
        Ok(Report {
            scene: self.name,
            usage_off: spans
                .iter()
                .filter_map(|span| outcome.usage_off(span))
                .reduce(f64::max),
            interactive: outcome.answered_part(INTERACTIVE, spans),
            batch: outcome.answered_part(BATCH, spans),
            p99_ms: p99_ms.unwrap_or(0.0),
            limit: limits
                .iter()
                .copied()
                .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))),
            limit_swing: limits
                .iter()
                .map(|(least, most)| most / least)
                .reduce(f64::max),
            workers,
            resized: resized.count(),
            seconds: spans.iter().map(|span| span.to - span.from).sum(),
        })
    }
}

/// The reports as a table.
pub fn to_text(reports: &[Report]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{:<32} {:>9} {:>12} {:>8} {:>10} {:>14} {:>6} {:>9} {:>8}",
        "scene", "use off", "interactive", "batch", "p99", "limit", "swing", "workers", "resized"
    );
    let part = |part: Option<f64>| part.map_or("-".to_owned(), |part| format!("{part:.4}"));
    for report in reports {
        let off = report.usage_off;
        let off = off.map_or("-".to_owned(), |points| format!("{points:.2}"));
        let limit = report.limit;
        let limit = limit.map_or("-".to_owned(), |(least, most)| {
            format!("{least:.1} to {most:.1}")
        });
        let swing = report.limit_swing;
        let swing = swing.map_or("-".to_owned(), |swing| format!("{swing:.2}"));
        let (fewest, most) = report.workers;
        let _ = writeln!(
            out,
            "{:<32} {off:>9} {:>12} {:>8} {:>7.1} ms {limit:>14} {swing:>6} {:>9} {:>8}",
            report.scene,
            part(report.interactive),
            part(report.batch),
            report.p99_ms,
            format!("{fewest} to {most}"),
            format!("{} in {} s", report.resized, report.seconds),
        );
    }
    out
}
