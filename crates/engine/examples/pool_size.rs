//! Adaptive sizing on real threads: does it find the size that does most?
//!
//! For work that computes, work that blocks, and both mixed: every size of a ladder is run as a fixed one, then the adaptive controller is let loose, and
//! then both run by turns, the size it keeps against the best fixed one, in pairs of neighbours in time. It prints the mean ratio of their throughputs
//! with its interval of 95%: it should lie above 0.95 on a machine that nobody else uses.
//!
//! ```text
//! cargo run --release -p flyball-engine --example pool_size [PAIRS [SECONDS [CLIMBS [WORK]]]]
//! ```
//!
//! `PAIRS` (20) are compared for each kind of work, or for those whose name contains `WORK`; the controller begins anew `CLIMBS` times (4), each time with
//! at most `SECONDS` (90) to settle. What is measured on the way goes to standard error; standard output has a line of JSON for each kind of work.

use flyball_core::class::Group;
use flyball_core::time::Source;
use flyball_engine::config::{Sources, load};
use flyball_engine::view::GroupSizing;
use flyball_engine::{Engine, ScaleRequest, knobs};
use flyball_executor::{Class, blocking};
use std::error::Error;
use std::hint::black_box;
use std::io::{Write as _, stderr, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Delays are short, so that it settles within a minute. The kernel ranks these threads as any other program's.
const SETTINGS: &str = "
worker_pool: { sizing: adaptive, min_workers: 1, max_workers: 48, scale_up_delay: 1s, scale_down_delay: 10s, back_priority: normal }
";
/// The fixed sizes.
const LADDER: [u32; 14] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48];
/// Tasks that are queued or run at any time.
const IN_FLIGHT: usize = 400;
/// After a change of size, what is left out; then what is measured.
const SETTLE: Duration = Duration::from_millis(300);
const MEASURE: Duration = Duration::from_millis(1_000);
const WHO: &str = "the example";

/// Milliseconds of computing and of waiting, by turns of the kinds.
struct Work {
    name: &'static str,
    kinds: &'static [(f64, f64)],
}

const WORKS: [Work; 3] = [
    Work {
        name: "computing",
        kinds: &[(1.0, 0.0)],
    },
    Work {
        name: "blocking",
        kinds: &[(0.5, 4.5)],
    },
    Work {
        name: "mixed",
        kinds: &[(1.0, 0.0), (0.3, 6.0)],
    },
];

/// What all tasks of a kind of work share.
struct Load {
    class: Class,
    kinds: &'static [(f64, f64)],
    turns_a_ms: f64,
    ended: AtomicU64,
    started: AtomicU64,
    stop: AtomicBool,
    /// Dropped with the last task.
    _alive: Sender<()>,
}

/// Computes for so many turns.
fn spin(turns: u64) {
    let mut x = 1u64;
    for _ in 0..turns {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// Turns in a millisecond: the fastest of many tries, as others may have had the CPU in some of them.
fn calibrate(clock: &Source) -> f64 {
    const TURNS: u64 = 1_000_000;
    let tries = (0..100).map(|_| {
        let from = clock.now();
        spin(TURNS);
        clock.now().duration_since(from).as_secs_f64()
    });
    let fastest = tries.fold(f64::INFINITY, f64::min);
    TURNS as f64 / fastest / 1e3
}

/// Waits on something that never comes.
fn wait(span: Duration) {
    let (_held, never): (Sender<()>, Receiver<()>) = channel();
    let _ = never.recv_timeout(span);
}

impl Load {
    /// Submits a task that submits the next one when it ends.
    fn submit(self: Arc<Self>) {
        let class = self.class.clone();
        let number = self.started.fetch_add(1, Relaxed) as usize;
        let task = move || {
            let (computes, waits) = self.kinds[number % self.kinds.len()];
            spin((computes * self.turns_a_ms) as u64);
            if waits > 0.0 {
                blocking(|| wait(Duration::from_secs_f64(waits / 1e3)));
            }
            self.ended.fetch_add(1, Relaxed);
            if !self.stop.load(Relaxed) {
                self.submit();
            }
        };
        // Refused only by an executor that ends.
        let _ = class.execute(task);
    }
}

/// Tasks a second over [`MEASURE`], after [`SETTLE`].
fn measure(clock: &Source, load: &Load) -> f64 {
    wait(SETTLE);
    let (from, before) = (clock.now(), load.ended.load(Relaxed));
    wait(MEASURE);
    let ended = load.ended.load(Relaxed) - before;
    ended as f64 / clock.now().duration_since(from).as_secs_f64()
}

fn hold(engine: &Engine, size: u32) -> Result<(), Box<dyn Error>> {
    let request = ScaleRequest {
        target: Some(size),
        ..ScaleRequest::default()
    };
    engine.scale(Group::Back, request, WHO)?;
    Ok(())
}

/// What is asked for.
struct Options {
    pairs: usize,
    seconds: f64,
    climbs: usize,
    work: String,
}

/// The quantile of Student's t for a two-sided 95% and so many figures.
fn student(figures: usize) -> f64 {
    const QUANTILES: [f64; 19] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
    ];
    // More figures need a little less.
    QUANTILES[(figures.max(2) - 2).min(QUANTILES.len() - 1)]
}

/// How the size of the back group is found.
fn back(engine: &Engine) -> Option<GroupSizing> {
    let groups = engine.pool_sizing().groups;
    groups.into_iter().find(|group| group.group == "back")
}

/// Lets the controller forget what it learned, and climb from two workers until it has settled. Returns the size that did best and the seconds it took.
fn climb(engine: &Engine, seconds: f64) -> Result<(u32, f64), Box<dyn Error>> {
    hold(engine, 2)?;
    for (sizing, climbs) in [("classic", false), ("adaptive", true)] {
        let change = serde_json::json!({ "worker_pool": { "sizing": sizing } });
        engine.configure(&change, WHO, false)?;
        // The control loop follows a moment later; two changes at once would be none.
        while back(engine).is_some_and(|back| back.stage.is_some() != climbs) {
            wait(Duration::from_millis(10));
        }
    }
    engine.unpin(knobs::BACK, WHO)?;
    let clock = Source::best();
    let from = clock.now();
    loop {
        wait(Duration::from_millis(250));
        let took = clock.now().duration_since(from).as_secs_f64();
        if let Some(back) = back(engine)
            && let (Some(best), Some("settled")) = (back.best, back.stage.as_deref())
        {
            return Ok((best, took));
        }
        if took >= seconds {
            return Err(format!("it has not settled within {seconds} s").into());
        }
    }
}

fn compare(engine: &Engine, work: &Work, options: &Options) -> Result<(), Box<dyn Error>> {
    let clock = Source::best();
    let turns_a_ms = calibrate(&clock);
    let (alive, gone) = channel();
    let load = Arc::new(Load {
        class: engine.class("batch")?,
        kinds: work.kinds,
        turns_a_ms,
        ended: AtomicU64::new(0),
        started: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        _alive: alive,
    });
    for _ in 0..IN_FLIGHT {
        load.clone().submit();
    }
    let mut best = (0, 0.0);
    for fixed in LADDER {
        hold(engine, fixed)?;
        // The better of two, as others use the machine, too.
        let rate = measure(&clock, &load).max(measure(&clock, &load));
        writeln!(
            stderr(),
            "{:<10} fixed {fixed:>3}: {rate:>9.1} tasks/s",
            work.name
        )?;
        // More workers must do more than scatter to count as better.
        if rate > best.1 * 1.01 {
            best = (fixed, rate);
        }
    }
    let (mut logs, mut settled) = (Vec::new(), Vec::new());
    for climbed in 0..options.climbs {
        let (best_tried, seconds) = climb(engine, options.seconds)?;
        settled.push(best_tried);
        // All pairs, spread over the climbs.
        let until = options.pairs * (climbed + 1) / options.climbs;
        while logs.len() < until {
            let (mut adaptive, mut fixed) = (0.0, 0.0);
            // By turns first and second.
            for turn in 0..2 {
                if (logs.len() + turn) % 2 == 0 {
                    adaptive = measure(&clock, &load);
                } else {
                    hold(engine, best.0)?;
                    fixed = measure(&clock, &load);
                    engine.unpin(knobs::BACK, WHO)?;
                    // A look finds that work waits, and goes back to the size that did best.
                    wait(Duration::from_millis(1_200));
                }
            }
            logs.push((adaptive / fixed).ln());
        }
        let so_far = logs.iter().sum::<f64>() / logs.len() as f64;
        writeln!(
            stderr(),
            "{:<10} adaptive settled at {best_tried} after {seconds:.0} s: {:.3} of fixed {} so far",
            work.name,
            so_far.exp(),
            best.0
        )?;
    }
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let squares: f64 = logs.iter().map(|log| (log - mean) * (log - mean)).sum();
    let half = student(logs.len()) * (squares / (n - 1.0) / n).sqrt();
    let line = serde_json::json!({
        "work": work.name,
        "best_fixed": best.0,
        "best_tasks_per_s": best.1,
        "settled": settled,
        "ratio": mean.exp(),
        "low": (mean - half).exp(),
        "high": (mean + half).exp(),
        "pairs": logs.len(),
        "climbs": options.climbs,
    });
    writeln!(stdout(), "{line}")?;
    load.stop.store(true, Relaxed);
    drop(load);
    // Until the last task is gone.
    let _ = gone.recv();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let options = Options {
        pairs: arguments.next().map_or(Ok(20), |text| text.parse())?,
        seconds: arguments.next().map_or(Ok(90.0), |text| text.parse())?,
        climbs: arguments.next().map_or(Ok(4), |text| text.parse())?,
        work: arguments.next().unwrap_or_default(),
    };
    if options.climbs == 0 || options.pairs < 2 {
        return Err("one climb and two pairs are the least".into());
    }
    let wanted = |work: &&Work| work.name.contains(&options.work);
    for work in WORKS.iter().filter(wanted) {
        let settings = Sources::new().with_text("pool_size.yaml", SETTINGS);
        let loaded = load(&settings).map_err(|errors| errors.to_string())?;
        let engine = Engine::start(loaded)?;
        compare(&engine, work, &options)?;
        let report = engine.shutdown().map_err(|_| "not on a worker")?;
        if !report.left_running.is_empty() {
            return Err("tasks were left".into());
        }
    }
    Ok(())
}
