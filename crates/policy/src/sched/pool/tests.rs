//! The pool controller against steps, ramps, noise, sawteeth and bursts, in a closed loop with a simulated queue, where
//! more workers mean less load.

use alloc::vec;
use alloc::vec::Vec;

use flyball_core::rng::Rng;
use proptest::prelude::*;

use super::*;
use crate::Error;
use crate::control::{Arbiter, Decision};
use crate::sched::pool::testing::{at, config, knob};

/// A pool whose work is a fluid: workers take it as fast as they can, what they cannot take waits.
struct Plant {
    classic: Classic,
    arbiter: Arbiter,
    knob: KnobId,
    seconds: f64,
    /// Work that waits, in worker-seconds.
    waiting: f64,
    /// Seconds that a task runs.
    run: f64,
    /// Workers that count as no capacity; they do no work.
    ill: u32,
    parallelism: u32,
    /// Since when the last worker to be woken has been idle.
    idle_since: f64,
    /// Every decision about the size.
    decisions: Vec<(f64, Decision)>,
}

impl Plant {
    fn new(config: PoolConfig, workers: u32) -> Self {
        let (arbiter, knob) = knob(&config, workers);
        Self {
            classic: Classic::new(config, knob),
            arbiter,
            knob,
            seconds: 0.0,
            waiting: 0.0,
            run: 0.01,
            ill: 0,
            parallelism: 1_000,
            idle_since: 0.0,
            decisions: Vec::new(),
        }
    }

    fn workers(&self) -> u32 {
        self.arbiter.value(self.knob) as u32
    }

    /// Lets work of so many workers' worth come for a period, and asks the controller.
    fn period(&mut self, demand: f64) {
        let span = self.classic.period().as_secs_f64();
        self.seconds += span;
        let workers = self.workers();
        let healthy = workers.saturating_sub(self.ill);
        let work = self.waiting + demand * span;
        let served = work.min(f64::from(healthy.min(self.parallelism)) * span);
        self.waiting = work - served;
        let busy = served / span;
        if busy > f64::from(healthy) - 1.0 {
            self.idle_since = self.seconds;
        }
        let idle = self.seconds - self.idle_since;
        let view = PoolView {
            workers,
            healthy,
            busy,
            backlog: (self.waiting / self.run) as u64,
            ran: served / self.run,
            refused: 0.0,
            parallelism: self.parallelism,
            idle_longest: (idle > 0.0).then(|| Duration::from_secs_f64(idle)),
        };
        self.ask(&view);
    }

    fn ask(&mut self, view: &PoolView) {
        if let Some(proposal) = self.classic.step(at(self.seconds), view) {
            let decisions = self.arbiter.decide(at(self.seconds), vec![proposal]);
            let now = self.seconds;
            self.decisions
                .extend(decisions.into_iter().map(|d| (now, d)));
        }
    }

    fn for_seconds(&mut self, seconds: f64, mut demand: impl FnMut(f64) -> f64) {
        let end = self.seconds + seconds;
        while self.seconds < end - 1e-9 {
            self.period(demand(self.seconds));
        }
    }

    fn sizes(&self) -> Vec<u32> {
        self.decisions.iter().map(|(_, d)| d.to as u32).collect()
    }

    fn last(&self) -> &Decision {
        &self.decisions.last().unwrap().1
    }

    /// How often an increase followed a reduction or the other way round.
    fn turns(&self) -> usize {
        let ups: Vec<bool> = self.decisions.iter().map(|(_, d)| d.to > d.from).collect();
        ups.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    /// What holds for every run: bounds, one decision a delay, reasons and figures.
    fn check(&self) {
        let config = self.classic.config();
        let mut before: Option<f64> = None;
        for (seconds, decision) in &self.decisions {
            assert!(decision.applied(), "{decision}");
            assert!((config.min..=config.max).contains(&(decision.to as u32)));
            assert!(!decision.reason.is_empty() && decision.evidence.len() > 3);
            assert!(decision.evidence.iter().all(|e| e.value.is_finite()));
            let (delay, most) = if decision.to > decision.from {
                (config.scale_up_delay, decision.from * 2.0)
            } else {
                (config.scale_down_delay, decision.from)
            };
            assert!(decision.to <= most && decision.to >= decision.from / 2.0);
            let waited = seconds - before.unwrap_or(0.0);
            assert!(
                waited >= delay.as_secs_f64() - 1e-6,
                "{waited} s: {decision}"
            );
            before = Some(*seconds);
        }
        assert!(self.classic.history().len() <= HISTORY);
        assert!(
            self.classic
                .history()
                .all(|p| p.load.is_finite() && p.load >= 0.0)
        );
    }
}

/// CPU-16: after a step up the pool grows to what the load needs and stays; after a step down it shrinks likewise.
#[test]
fn a_step() {
    let mut plant = Plant::new(config(2, 64), 2);
    plant.for_seconds(60.0, |_| 1.0);
    assert_eq!(
        plant.sizes(),
        [],
        "load 0.5 of 2 workers is in the dead zone"
    );
    plant.for_seconds(300.0, |_| 10.0);
    let grown = plant.workers();
    // 10 workers' worth at 0.8 of target 0.7 are 17.9 workers; the queue of the first seconds may ask for more, that is taken back.
    assert!((15..=28).contains(&grown), "{:?}", plant.sizes());
    assert!(plant.turns() <= 1, "{:?}", plant.sizes());
    let first = &plant.decisions[0];
    assert!((65.0..=68.0).contains(&first.0), "after {} s", first.0);
    let ups = plant.decisions.len();
    plant.for_seconds(600.0, |_| 1.0);
    assert_eq!(plant.workers(), 2, "{:?}", plant.sizes());
    assert!((390.0..=400.0).contains(&plant.decisions[ups].0));
    assert!(plant.turns() <= 1 + 1);
    plant.check();
}

/// CPU-16: a ramp is followed up and down without a step back.
#[test]
fn a_ramp() {
    let mut plant = Plant::new(config(2, 64), 2);
    plant.for_seconds(600.0, |t| 1.0 + 20.0 * t / 600.0);
    assert_eq!(plant.turns(), 0, "{:?}", plant.sizes());
    assert!(plant.workers() >= 30);
    let top = plant.seconds;
    plant.for_seconds(1_200.0, |t| 21.0 - 20.0 * (t - top) / 1_200.0);
    plant.for_seconds(120.0, |_| 1.0);
    assert_eq!(plant.turns(), 1, "{:?}", plant.sizes());
    assert!(plant.workers() <= 3);
    plant.check();
}

/// CPU-16: a sawtooth slower than the delays is followed with one decision a delay; a reduction that is soon undone
/// makes the next one wait longer, so that the pool comes to rest at the size that the peaks need.
#[test]
fn a_sawtooth() {
    for period in [20.0, 60.0, 90.0, 120.0, 200.0] {
        let mut plant = Plant::new(config(2, 64), 4);
        plant.for_seconds(
            3_600.0,
            |t| if t % period < period * 0.4 { 12.0 } else { 1.0 },
        );
        plant.check();
        let early = plant.decisions.iter().filter(|(t, _)| *t < 1_200.0).count();
        let late = plant.decisions.iter().filter(|(t, _)| *t > 2_400.0).count();
        assert!(early <= 1 + (1_200.0 / 5.0) as usize);
        assert!(
            period >= 200.0 || late <= 2,
            "period {period} s: {:?}",
            plant.sizes()
        );
    }
    let mut plant = Plant::new(config(2, 64), 4);
    plant.for_seconds(1_800.0, |t| t % 10.0);
    plant.check();
    assert!(plant.turns() <= 1, "{:?}", plant.sizes());
}

/// CPU-16: work that has come to an end leaves the least size and a controller at rest.
#[test]
fn idle_pools_come_to_rest() {
    let mut plant = Plant::new(config(2, 64), 64);
    assert!(!plant.classic.at_rest());
    plant.for_seconds(200.0, |_| 0.0);
    assert_eq!(plant.sizes(), [32, 16, 8, 4, 2]);
    assert!(plant.classic.at_rest());
    assert_eq!(plant.classic.load(), Some(0.0));
    plant.for_seconds(2.0, |_| 4.0);
    assert!(!plant.classic.at_rest());
    plant.check();
}

/// CPU-16: in the dead zone too, workers that are idle past `max_idle_time` retire one at a time, as far as the rest suffices.
#[test]
fn idle_workers_retire() {
    let mut plant = Plant::new(config(2, 64), 16);
    plant.for_seconds(59.0, |_| 6.0);
    assert_eq!(plant.sizes(), [], "load 0.375 is above half of target 0.7");
    plant.for_seconds(900.0, |_| 6.0);
    // 6 workers' worth at 0.8 of target 0.7 are 10.7 workers.
    assert_eq!(plant.sizes(), [15, 14, 13, 12, 11]);
    assert_eq!(plant.decisions[0].0, 60.0);
    assert_eq!(
        plant.decisions[0].1.reason,
        "a worker has been idle for 60 s, no less than 60 s, at load 0.38; at most 6.00 workers' worth of work came in that time"
    );
    plant.check();
}

/// CPU-16: the reasons are sentences with figures, and the evidence has the same figures as data.
#[test]
fn reasons() {
    let mut plant = Plant::new(config(2, 64), 4);
    plant.for_seconds(30.0, |_| 2.0);
    plant.for_seconds(7.0, |_| 12.0);
    let up = plant.last();
    assert_eq!(
        up.reason,
        "load 3.40 over 5 s stayed above target 0.70 for 5.5 s; queue grew from 0 to 4800 in 6 s"
    );
    let figure = |decision: &Decision, name: &str| {
        let mut found = decision.evidence.iter().filter(|e| e.name == name);
        let value = found.next().unwrap_or_else(|| panic!("no {name}")).value;
        (value * 100.0 + 0.5) as u64 as f64 / 100.0
    };
    assert_eq!(figure(up, "load"), 3.4);
    assert_eq!(figure(up, "target"), 0.7);
    assert_eq!(figure(up, "above_target"), 5.5);
    assert_eq!(figure(up, "queue_before"), 0.0);
    assert_eq!(figure(up, "queue"), 4800.0);
    assert_eq!(figure(up, "healthy"), 4.0);
    assert_eq!(figure(up, "demand"), 13.6);
    plant.for_seconds(60.0, |_| 0.1);
    let down = plant.last();
    assert!(
        down.reason
            .starts_with("load 0.01 over 5 s stayed under 0.35, half of target, for 3"),
        "{}",
        down.reason
    );
    assert!(figure(down, "under_half_of_target") >= 30.0);
}

/// CPU-16: a worker that is not healthy counts as no capacity, and the pool grows to make up for it.
#[test]
fn ill_workers_are_no_capacity() {
    let mut plant = Plant::new(config(2, 64), 8);
    plant.for_seconds(60.0, |_| 4.0);
    assert_eq!(plant.sizes(), []);
    plant.ill = 4;
    plant.for_seconds(120.0, |_| 4.0);
    let healthy = plant.workers() - plant.ill;
    assert!((6..=12).contains(&healthy), "{:?}", plant.sizes());
    let reason = &plant.decisions[0].1.reason;
    assert!(
        reason.ends_with("4 of 8 workers are not healthy or not there and count as no capacity"),
        "{reason}"
    );
    plant.check();
    let mut none = Plant::new(config(2, 16), 4);
    none.ill = u32::MAX;
    none.for_seconds(180.0, |_| 2.0);
    assert_eq!(none.workers(), 16, "no capacity at all");
    none.check();
}

/// CPU-16: CPU-bound load beyond the parallelism goes to the greatest size, and the reason says what limits.
#[test]
fn parallelism_caps_what_runs() {
    let mut plant = Plant::new(config(2, 8), 2);
    plant.parallelism = 2;
    plant.for_seconds(120.0, |_| 3.0);
    assert_eq!(plant.sizes(), [4, 8]);
    for (_, decision) in &plant.decisions {
        let says = "parallelism 2 caps what runs at once, so workers beyond it help only while others block";
        assert!(decision.reason.contains(says), "{decision}");
    }
    plant.for_seconds(600.0, |_| 3.0);
    assert_eq!(
        plant.sizes().len(),
        2,
        "at the bound there is nothing to say"
    );
    plant.check();
}

/// CPU-16: a queue that grows for the delay is a reason though the load is below target, say because tasks wait for
/// something else.
#[test]
fn a_growing_queue_is_a_reason() {
    let mut plant = Plant::new(config(2, 64), 8);
    let mut view = PoolView {
        workers: 8,
        healthy: 8,
        busy: 4.0,
        backlog: 20,
        ran: 400.0,
        refused: 0.0,
        parallelism: 16,
        idle_longest: None,
    };
    for second in 0..20 {
        plant.seconds = f64::from(second);
        plant.ask(&view);
    }
    assert_eq!(plant.sizes(), []);
    for second in 20..27 {
        plant.seconds = f64::from(second);
        view.backlog += 120;
        plant.ask(&view);
    }
    assert_eq!(plant.sizes(), [13]);
    assert_eq!(
        plant.last().reason,
        "queue grew from 20 to 860 in 7 s; load over 5 s is 0.71, target 0.70"
    );
    let mut plant = Plant::new(config(2, 64), 8);
    for second in 0..600 {
        plant.seconds = f64::from(second);
        view.backlog = if second % 6 == 5 {
            20
        } else {
            view.backlog + 120
        };
        plant.ask(&view);
    }
    assert_eq!(plant.sizes(), [], "a queue that is emptied does not grow");
}

/// CPU-16: a pin, or whatever else refuses, makes the controller ask once a delay, no more; nothing has piled up when it ends.
#[test]
fn refused_proposals_are_not_repeated_at_once() {
    let mut plant = Plant::new(config(2, 64), 4);
    let knob = plant.knob;
    assert!(plant.arbiter.pin(knob, 4.0, "ada", at(0.0)).applied());
    plant.for_seconds(600.0, |_| 8.0);
    assert_eq!(plant.workers(), 4);
    assert!(plant.decisions.len() <= 120, "{}", plant.decisions.len());
    assert!(plant.decisions.iter().all(|(_, d)| !d.applied()));
    assert!(
        plant.decisions.iter().skip(1).all(|(_, d)| d.quiet),
        "the same refusal again is quiet"
    );
    plant.waiting = 0.0;
    plant.for_seconds(60.0, |_| 2.0);
    let asked = plant.decisions.len();
    assert!(plant.arbiter.unpin(knob, "ada", at(660.0)).applied());
    plant.for_seconds(120.0, |_| 2.0);
    assert_eq!(plant.decisions.len(), asked, "load 0.5 asks for nothing");
}

/// CPU-16: bounds that change take effect at once; other settings begin their delays anew.
#[test]
fn settings_change() {
    let mut plant = Plant::new(config(2, 64), 8);
    plant.for_seconds(10.0, |_| 4.0);
    plant.classic.set_config(config(12, 64));
    plant.for_seconds(1.0, |_| 4.0);
    assert_eq!(plant.sizes(), [12]);
    assert_eq!(
        plant.last().reason,
        "8 workers are outside the bounds 12 to 64"
    );
    plant.classic.set_config(config(2, 6));
    plant.for_seconds(1.0, |_| 4.0);
    assert_eq!(plant.sizes(), [12, 6]);
    plant.classic.set_config(PoolConfig {
        target_load: 0.9,
        ..config(2, 6)
    });
    plant.for_seconds(60.0, |_| 4.0);
    assert_eq!(plant.sizes(), [12, 6]);
    let bad = |change: fn(&mut PoolConfig)| {
        let mut bad = config(2, 8);
        change(&mut bad);
        bad
    };
    for wrong in [
        bad(|c| c.min = 0),
        bad(|c| c.max = 1),
        bad(|c| c.target_load = 0.0),
        bad(|c| c.target_load = 1.5),
        bad(|c| c.target_load = f64::NAN),
    ] {
        assert!(matches!(wrong.check(), Err(Error::Pool { .. })));
        let classic = Classic::new(wrong, plant.knob);
        assert_eq!(classic.config().check(), Ok(()), "{wrong:?}");
    }
    assert_eq!(config(2, 8).check(), Ok(()));
    assert_eq!(PoolConfig::for_cpus(4).max, 8);
    assert_eq!(PoolConfig::for_cpus(0).check(), Ok(()));
}

/// CPU-16: a size outside the bounds that cannot be mended is not asked for at each look.
#[test]
fn refused_bounds_are_not_repeated_at_once() {
    let mut plant = Plant::new(config(2, 64), 8);
    let knob = plant.knob;
    assert!(plant.arbiter.pin(knob, 8.0, "ada", at(0.0)).applied());
    plant.classic.set_config(config(12, 64));
    plant.for_seconds(60.0, |_| 4.0);
    assert!((10..=12).contains(&plant.decisions.len()));
    assert!(plant.decisions.iter().all(|(_, d)| !d.applied()));
}

/// CPU-16: someone else's change of size begins the measurement anew.
#[test]
fn a_foreign_change_begins_anew() {
    let mut plant = Plant::new(config(2, 64), 8);
    let knob = plant.knob;
    plant.for_seconds(29.0, |_| 2.0);
    plant.arbiter.pin(knob, 12.0, "ada", at(29.0));
    plant.arbiter.unpin(knob, "ada", at(29.0));
    plant.for_seconds(28.0, |_| 2.0);
    assert_eq!(plant.sizes(), [], "30 s at the new size are not over");
    plant.for_seconds(6.0, |_| 2.0);
    assert_eq!(plant.sizes(), [6]);
}

/// CPU-16: where parallelism limits what runs, the queue grows at low load; growth adds workers, and low load takes none away meanwhile.
/// The queue is uneven: between two readings it also shrinks.
#[test]
fn a_growing_queue_keeps_workers() {
    let config = PoolConfig {
        scale_up_delay: Duration::from_millis(300),
        scale_down_delay: Duration::from_secs(1),
        ..config(1, 16)
    };
    let mut plant = Plant::new(config, 8);
    (plant.parallelism, plant.run) = (2, 0.02);
    plant.for_seconds(30.0, |now| {
        if ((now * 10.0).round() as u64).is_multiple_of(2) {
            5.0
        } else {
            0.0
        }
    });
    assert!(plant.waiting > 10.0, "{}", plant.waiting);
    assert!(
        plant.decisions.iter().all(|(_, d)| d.to > d.from),
        "{:?}",
        plant.sizes()
    );
    plant.check();
    plant.for_seconds(120.0, |_| 0.2);
    assert_eq!(plant.workers(), 1, "once the queue is gone, so are they");
}

/// CPU-16: an increase by somebody else soon after a reduction counts as undoing it: the next reduction waits longer, so bursts that
/// find too few workers do not swing the pool each delay.
#[test]
fn an_increase_by_others_makes_patient() {
    let mut plant = Plant::new(config(2, 16), 8);
    let mut raised = 0;
    for _ in 0..1_800 {
        plant.for_seconds(1.0, |_| 0.5);
        if plant.workers() < 8 {
            plant.period(0.5);
            let now = at(plant.seconds);
            plant.arbiter.pin(plant.knob, 8.0, "fill", now);
            plant.arbiter.unpin(plant.knob, "fill", now);
            raised += 1;
        }
    }
    // Without patience each 30 s, 60 times; with it after 30, 60, 120, 240 s, and so on.
    assert!((3..=15).contains(&raised), "{raised}");
}

/// CPU-16: short delays work likewise, on a shorter period.
#[test]
fn short_delays() {
    let quick = PoolConfig {
        scale_up_delay: Duration::from_millis(500),
        scale_down_delay: Duration::from_secs(2),
        max_idle_time: Duration::from_secs(5),
        ..config(2, 64)
    };
    let mut plant = Plant::new(quick, 2);
    assert_eq!(plant.classic.period(), Duration::from_millis(100));
    plant.for_seconds(60.0, |_| 10.0);
    assert!((15..=28).contains(&plant.workers()), "{:?}", plant.sizes());
    assert!(plant.turns() <= 1, "{:?}", plant.sizes());
    plant.for_seconds(70.0, |_| 0.0);
    assert_eq!(plant.workers(), 2);
    plant.check();
    assert_eq!(plant.classic.history().len(), HISTORY);
}

/// CPU-16: what ran before a change says nothing about the new size: the load of twice the workers does not halve the pool again.
#[test]
fn a_change_is_measured_anew() {
    let quick = PoolConfig {
        scale_up_delay: Duration::from_millis(500),
        scale_down_delay: Duration::from_secs(2),
        max_idle_time: Duration::from_secs(3_600),
        ..config(2, 64)
    };
    let mut plant = Plant::new(quick, 16);
    plant.for_seconds(60.0, |_| 3.0);
    assert_eq!(plant.sizes(), [8], "load 0.375 is above half of target");
    plant.check();
}

/// A queue of single tasks: Poisson arrivals, exponential run times, `workers` servers; asked each second.
fn stochastic(seed: u64, demand: f64, run: f64, seconds: u32) -> Plant {
    let mut rng = Rng::seeded(seed);
    let mut plant = Plant::new(config(2, 64), 2);
    let mut next = rng.exp(run / demand);
    let mut queued = 0u64;
    // When the running tasks end.
    let mut running: Vec<f64> = Vec::new();
    let (mut clock, mut busy, mut ran) = (0.0, 0.0, 0.0);
    for second in 1..=seconds {
        let end = f64::from(second);
        loop {
            while queued > 0 && running.len() < plant.workers() as usize {
                queued -= 1;
                running.push(clock + rng.exp(run));
            }
            let first = running.iter().copied().fold(f64::INFINITY, f64::min);
            let to = first.min(next).min(end);
            busy += running.len() as f64 * (to - clock);
            clock = to;
            if to == end {
                break;
            }
            if next <= first {
                queued += 1;
                next += rng.exp(run / demand);
            } else {
                running.retain(|ends| *ends > to);
                ran += 1.0;
            }
        }
        let workers = plant.workers();
        let view = PoolView {
            workers,
            healthy: workers,
            busy,
            backlog: queued,
            ran,
            refused: 0.0,
            parallelism: 64,
            idle_longest: None,
        };
        (busy, ran) = (0.0, 0.0);
        plant.seconds = end;
        plant.ask(&view);
    }
    plant
}

/// CPU-16: with random arrivals and run times it settles too, if it takes a turn more when tasks are as long as the window.
#[test]
fn random_arrivals() {
    for seed in 0..6 {
        for demand in [0.5, 1.2, 3.0, 8.0] {
            let plant = stochastic(seed, demand, 0.02, 1_800);
            plant.check();
            assert!(plant.turns() <= 1, "{demand}: {:?}", plant.sizes());
            let late = plant.decisions.iter().filter(|(t, _)| *t > 900.0).count();
            assert_eq!(late, 0, "{demand}: {:?}", plant.sizes());
            let long = stochastic(seed, demand, 4.0, 3_600);
            long.check();
            assert!(long.turns() <= 10, "{demand}: {:?}", long.sizes());
        }
    }
}

fn any_view() -> impl Strategy<Value = PoolView> {
    let figure = prop_oneof![4 => 0.0..100.0, 1 => prop::num::f64::ANY];
    let count = prop_oneof![4 => 0u32..100, 1 => any::<u32>()];
    let backlog = prop_oneof![4 => 0u64..10_000, 1 => any::<u64>()];
    let idle = prop::option::of(any::<u32>());
    (
        count.clone(),
        count.clone(),
        figure.clone(),
        backlog,
        figure,
        count,
        idle,
    )
        .prop_map(
            |(workers, healthy, busy, backlog, ran, parallelism, idle)| PoolView {
                workers,
                healthy,
                busy,
                backlog,
                ran,
                refused: 0.0,
                parallelism,
                idle_longest: idle.map(|ms| Duration::from_millis(u64::from(ms))),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// CPU-16: under any steady load with ±10% of noise the pool settles, having changed direction at most once.
    #[test]
    fn steady_load_settles(
        demand in 0.0..40.0, noise in 0.0..0.1, seed in any::<u64>(), start in 1u32..64, slow in 0.001..20.0,
        min in 1u32..4, target in 0.3..1.0, adverse in any::<bool>(),
    ) {
        let settings = PoolConfig { target_load: target, ..config(min, 64) };
        let mut plant = Plant::new(settings, start.max(min));
        plant.run = slow;
        let mut rng = Rng::seeded(seed);
        plant.for_seconds(3_600.0, |t| {
            // Noise from reading to reading, or the worst that ±10% can be: slow waves.
            let wave = if ((t / 45.0) as u64).is_multiple_of(2) { 1.0 } else { -1.0 };
            let swing = if adverse { wave } else { rng.f64() * 2.0 - 1.0 };
            demand * (1.0 + noise * swing)
        });
        plant.check();
        prop_assert!(plant.turns() <= 1, "{:?}", plant.sizes());
        let settled = plant.workers();
        let late = plant.decisions.iter().filter(|(t, _)| *t > 2_400.0).count();
        prop_assert!(late <= if adverse { 0 } else { 2 }, "{:?}", plant.sizes());
        if demand * 1.1 < 64.0 * target {
            let load = demand / f64::from(settled);
            prop_assert!(load <= target / 0.9, "load {load} of {settled}");
            prop_assert!(load >= 0.4 * target || settled <= min.max(2), "load {load} of {settled}");
        }
    }

    /// CPU-16: bursts shorter than the delay, however high, do nothing.
    #[test]
    fn short_bursts_do_nothing(
        bursts in prop::collection::vec((0.0..4.999f64, 7.0..40.0f64, 1u64..1_000_000), 1..20), base in 0.36..0.69,
    ) {
        let mut plant = Plant::new(config(2, 64), 8);
        let base = base * 8.0;
        // When each burst begins and ends, and the queue that it brings.
        let mut begin = 10.0;
        let spans: Vec<(f64, f64, u64)> = bursts.iter().map(|(long, gap, queue)| {
            let span = (begin, begin + long, *queue);
            begin += long + gap;
            span
        }).collect();
        for second in 1..begin as u32 {
            let (from, to) = (f64::from(second - 1), f64::from(second));
            let inside: f64 = spans.iter().map(|(a, b, _)| (b.min(to) - a.max(from)).max(0.0)).sum();
            let queue = spans.iter().find(|(a, b, _)| (*a..*b).contains(&to)).map_or(0, |(a, _, most)| {
                (*most as f64 * (to - a) / 5.0) as u64
            });
            plant.seconds = to;
            let view = PoolView {
                workers: 8,
                healthy: 8,
                busy: base * (1.0 - inside) + 8.0 * inside,
                backlog: queue,
                ran: 100.0,
                refused: 0.0,
                parallelism: 8,
                idle_longest: None,
            };
            plant.ask(&view);
        }
        prop_assert_eq!(plant.sizes(), Vec::<u32>::new(), "{:?}", plant.decisions.last());
    }

    /// CPU-16: whatever is fed in, proposals are whole numbers within the bounds, and never come twice in a delay.
    #[test]
    fn any_view_is_survived(views in prop::collection::vec((any_view(), 0u64..100_000), 1..80), min in 1u32..50, more in 0u32..50) {
        let settings = config(min, min + more);
        let knob = Plant::new(settings, min).knob;
        let mut classic = Classic::new(settings, knob);
        let (mut now, mut before) = (0u64, None);
        for (view, wait_ms) in views {
            now += wait_ms;
            let Some(proposal) = classic.step(Timestamp::from_nanos(now * 1_000_000), &view) else { continue };
            prop_assert_eq!(proposal.value, f64::from(proposal.value as u32));
            prop_assert!((min..=min + more).contains(&(proposal.value as u32)));
            prop_assert!(proposal.value != f64::from(view.workers));
            prop_assert!(proposal.evidence.iter().all(|e| e.value.is_finite()), "{proposal:?}");
            if (min..=min + more).contains(&view.workers) {
                let delay = if proposal.value > f64::from(view.workers) { 5_000 } else { 30_000 };
                prop_assert!(before.is_none_or(|before| now - before >= delay));
            }
            before = Some(now);
        }
        prop_assert!(classic.load().is_none_or(|load| load.is_finite() && load >= 0.0));
    }
}
