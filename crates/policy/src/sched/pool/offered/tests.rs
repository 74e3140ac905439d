//! Offered work against loads of all shapes, in a closed loop: a queue of bounded length, workers that serve it.

use alloc::vec;
use alloc::vec::Vec;

use flyball_core::rng::Rng;
use proptest::prelude::*;

use super::*;
use crate::control::{Arbiter, Decision};
use crate::sched::pool::testing::{at, config, knob};

/// A pool whose work is a fluid; what does not fit into the queue is refused.
struct Plant {
    offered: Offered,
    arbiter: Arbiter,
    knob: KnobId,
    seconds: f64,
    /// Work that waits, in worker-seconds.
    waiting: f64,
    run: f64,
    /// The greatest queue, in seconds of the work of all workers.
    room: f64,
    refused: f64,
    decisions: Vec<(f64, Decision)>,
}

impl Plant {
    fn new(config: OfferedConfig, workers: u32) -> Self {
        let (arbiter, knob) = knob(&config.pool, workers);
        Self {
            offered: Offered::new(config, knob),
            arbiter,
            knob,
            seconds: 0.0,
            waiting: 0.0,
            run: 0.01,
            room: 1.0,
            refused: 0.0,
            decisions: Vec::new(),
        }
    }

    fn workers(&self) -> u32 {
        self.arbiter.value(self.knob) as u32
    }

    fn for_seconds(&mut self, seconds: f64, mut demand: impl FnMut(f64) -> f64) {
        let end = self.seconds + seconds;
        let span = self.offered.period().as_secs_f64();
        while self.seconds < end - 1e-9 {
            let demand = demand(self.seconds);
            self.seconds += span;
            let workers = f64::from(self.workers());
            let work = self.waiting + demand * span;
            let served = work.min(workers * span);
            let left = work - served;
            self.waiting = left.min(workers * self.room);
            let refused = left - self.waiting;
            self.refused += refused;
            let view = PoolView {
                workers: self.workers(),
                healthy: self.workers(),
                busy: served / span,
                backlog: (self.waiting / self.run) as u64,
                ran: served / self.run,
                refused: refused / self.run,
                parallelism: 1_000,
                idle_longest: None,
            };
            if let Some(proposal) = self.offered.step(at(self.seconds), &view) {
                let decisions = self.arbiter.decide(at(self.seconds), vec![proposal]);
                let now = self.seconds;
                self.decisions
                    .extend(decisions.into_iter().map(|d| (now, d)));
            }
        }
    }

    fn sizes(&self) -> Vec<u32> {
        self.decisions.iter().map(|(_, d)| d.to as u32).collect()
    }

    fn turns(&self) -> usize {
        let ups: Vec<bool> = self.decisions.iter().map(|(_, d)| d.to > d.from).collect();
        ups.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    fn check(&self) {
        let config = self.offered.config();
        let mut raised: Option<f64> = None;
        for (seconds, decision) in &self.decisions {
            assert!(decision.applied(), "{decision}");
            assert!((config.pool.min..=config.pool.max).contains(&(decision.to as u32)));
            assert!(!decision.reason.is_empty());
            assert!(decision.evidence.iter().all(|e| e.value.is_finite()));
            if decision.to > decision.from {
                assert!(decision.to <= (decision.from * 2.0).max(decision.from + 4.0));
                let waited = seconds - raised.unwrap_or(f64::NEG_INFINITY);
                assert!(
                    waited >= config.step_every.as_secs_f64() - 1e-6,
                    "{waited} s"
                );
                raised = Some(*seconds);
            }
        }
    }
}

/// Refused work is offered work: a full queue does not hide how much more comes, and the size goes to what all of it needs at once.
#[test]
fn refused_work_counts() {
    let mut plant = Plant::new(OfferedConfig::for_threads(config(2, 200)), 10);
    plant.for_seconds(60.0, |_| 7.0);
    assert_eq!(plant.sizes(), [], "7 workers' worth is 0.7 of ten");
    plant.for_seconds(60.0, |_| 28.0);
    plant.check();
    assert_eq!(plant.workers(), 40, "{:?}", plant.sizes());
    let last = plant.decisions.iter().find(|(_, d)| d.to == 40.0);
    let (seconds, decision) = last.expect("four times as many");
    assert!(*seconds <= 62.5, "after {} s", seconds - 60.0);
    assert!(
        decision.reason.contains("workers' worth of work came"),
        "{decision}"
    );
    let before = plant.decisions.len();
    plant.for_seconds(100.0, |_| 7.0);
    assert_eq!(plant.workers(), 10, "{:?}", plant.sizes());
    assert!(plant.decisions.len() <= before + 2, "{:?}", plant.sizes());
    plant.check();
}

/// A caller that is refused a million times a second does not ask for a million workers.
#[test]
fn refusals_are_no_flood() {
    let knob = Plant::new(OfferedConfig::for_threads(config(2, 100_000)), 10).knob;
    let mut offered = Offered::new(OfferedConfig::for_threads(config(2, 100_000)), knob);
    for look in 0..100 {
        let view = PoolView {
            workers: 10,
            healthy: 10,
            busy: 10.0,
            backlog: 100,
            ran: 50.0,
            refused: 1e6,
            parallelism: 8,
            idle_longest: None,
        };
        if let Some(proposal) = offered.step(at(f64::from(look) / 2.0), &view) {
            assert!(proposal.value <= 20.0);
        }
    }
    assert!(offered.offered().is_some_and(|work| work <= 50.0));
}

/// A few long tasks are no flood: one task of ten seconds more in the queue is not twenty workers' worth in half a second.
#[test]
fn long_tasks_are_no_flood() {
    let mut plant = Plant::new(OfferedConfig::for_threads(config(1, 64)), 4);
    plant.run = 10.0;
    let mut rng = Rng::seeded(3);
    // Arrivals of whole tasks at random, two workers' worth.
    plant.for_seconds(3_600.0, |_| if rng.f64() < 0.1 { 20.0 } else { 0.0 });
    plant.check();
    let greatest = plant.sizes().into_iter().max().unwrap_or(4);
    assert!(greatest <= 20, "{:?}", plant.sizes());
}

/// Swings of ±10% that are slower than the down window do not move the pool to and fro.
#[test]
fn slow_scatter_does_not_swing_it() {
    let mut plant = Plant::new(OfferedConfig::for_threads(config(2, 64)), 2);
    let wave = |t: f64| {
        if ((t / 45.0) as u64).is_multiple_of(2) {
            11.0
        } else {
            9.0
        }
    };
    plant.for_seconds(3_600.0, wave);
    plant.check();
    let late = plant.decisions.iter().filter(|(t, _)| *t > 300.0).count();
    assert_eq!(late, 0, "{:?}", plant.sizes());
}

/// CPU-16: a load that goes up evenly and down again is followed up and then down, never to and fro.
#[test]
fn a_ramp() {
    let mut plant = Plant::new(OfferedConfig::for_threads(config(2, 200)), 8);
    plant.for_seconds(600.0, |t| 5.0 + t / 15.0);
    plant.check();
    assert!(
        plant.decisions.iter().all(|(_, d)| d.to > d.from),
        "{:?}",
        plant.sizes()
    );
    assert!(plant.refused == 0.0, "{}", plant.refused);
    let up = plant.decisions.len();
    assert!(up <= 40, "{:?}", plant.sizes());
    plant.for_seconds(600.0, |t| 45.0 - (t - 600.0) / 15.0);
    plant.for_seconds(300.0, |_| 5.0);
    plant.check();
    assert_eq!(plant.turns(), 1, "{:?}", plant.sizes());
    assert_eq!(plant.workers(), 8);
    assert!(plant.refused == 0.0, "{}", plant.refused);
}

/// CPU-16: where a load goes up and down at random within minutes, reductions turn out to be wrong, and windows get longer: less is refused, and
/// the size changes less often.
#[test]
fn a_random_walk_makes_patient() {
    let run = |patience_max| {
        let config = OfferedConfig {
            patience_max,
            ..OfferedConfig::for_threads(config(2, 200))
        };
        let mut plant = Plant::new(config, 30);
        let mut rng = Rng::seeded(11);
        let mut walk: f64 = 0.0;
        plant.for_seconds(7_200.0, |_| {
            // Forgets half of it in a minute.
            let keep: f64 = 0.9942;
            let normal = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
            walk = keep * walk + (1.0 - keep * keep).powf(0.5) * normal;
            (20.0 * (1.0 + 0.35 * walk)).max(1.0)
        });
        plant.check();
        (plant.decisions.len(), plant.turns())
    };
    let (patient, hasty) = (run(8), run(1));
    assert!(patient.0 * 3 <= hasty.0 * 2, "{patient:?}, {hasty:?}");
    assert!(patient.1 * 3 <= hasty.1 * 2, "{patient:?}, {hasty:?}");
}

/// CPU-16: whoever is refused tries again, so that more comes than there is work: the size stays in proportion to the work, and after the storm it
/// goes back.
#[test]
fn a_retry_storm_passes() {
    let mut plant = Plant::new(OfferedConfig::for_threads(config(2, 1_000)), 10);
    let calm = plant.offered.period().as_secs_f64();
    let storm = |plant: &mut Plant, seconds: f64, demand: f64| {
        let end = plant.seconds + seconds;
        let mut again = 0.0;
        while plant.seconds < end - 1e-9 {
            let before = plant.refused;
            plant.for_seconds(calm, |_| demand + again);
            // Nine of ten that were refused come back at once.
            again = 0.9 * (plant.refused - before) / calm;
        }
    };
    storm(&mut plant, 60.0, 7.0);
    storm(&mut plant, 30.0, 70.0);
    let greatest = plant.sizes().into_iter().max().expect("more workers");
    assert!((100..=220).contains(&greatest), "{:?}", plant.sizes());
    storm(&mut plant, 200.0, 7.0);
    plant.check();
    assert_eq!(plant.workers(), 10, "{:?}", plant.sizes());
    let served = plant.refused;
    storm(&mut plant, 600.0, 7.0);
    assert!(plant.refused == served && plant.workers() == 10);
}

/// Workers that are not healthy are made up for.
#[test]
fn ill_workers_are_no_capacity() {
    let knob = Plant::new(OfferedConfig::for_threads(config(2, 64)), 10).knob;
    let mut offered = Offered::new(OfferedConfig::for_threads(config(2, 64)), knob);
    let mut asked = None;
    for look in 0..10 {
        let view = PoolView {
            workers: 10,
            healthy: 6,
            busy: 7.0,
            ran: 350.0,
            parallelism: 64,
            ..PoolView::default()
        };
        asked = asked.or(offered.step(at(f64::from(look)), &view));
    }
    let proposal = asked.expect("more workers");
    assert_eq!(proposal.value, 14.0);
    assert!(
        proposal.reason.contains("4 of 10 workers are not healthy"),
        "{}",
        proposal.reason
    );
}

/// Bounds hold from the first look, and settings change while it runs.
#[test]
fn settings_change() {
    let mut plant = Plant::new(OfferedConfig::for_threads(config(2, 64)), 2);
    plant.for_seconds(60.0, |_| 21.0);
    assert!((30..=33).contains(&plant.workers()), "{:?}", plant.sizes());
    plant
        .offered
        .set_config(OfferedConfig::for_threads(PoolConfig {
            target_load: 0.35,
            ..config(2, 64)
        }));
    plant.for_seconds(60.0, |_| 21.0);
    assert_eq!(plant.workers(), 60, "{:?}", plant.sizes());
    plant
        .offered
        .set_config(OfferedConfig::for_threads(config(2, 16)));
    plant.for_seconds(2.0, |_| 21.0);
    assert_eq!(plant.workers(), 16, "{:?}", plant.sizes());
}

fn any_view() -> impl Strategy<Value = PoolView> {
    let figure = || prop_oneof![4 => 0.0..100.0, 1 => prop::num::f64::ANY];
    let count = || prop_oneof![4 => 0u32..100, 1 => any::<u32>()];
    let backlog = prop_oneof![4 => 0u64..10_000, 1 => any::<u64>()];
    (
        count(),
        count(),
        figure(),
        backlog,
        figure(),
        figure(),
        count(),
    )
        .prop_map(
            |(workers, healthy, busy, backlog, ran, refused, parallelism)| PoolView {
                workers,
                healthy,
                busy,
                backlog,
                ran,
                refused,
                parallelism,
                idle_longest: None,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Under any steady load with ±10% of noise, from reading to reading or in slow waves, the pool settles.
    #[test]
    fn steady_load_settles(
        demand in 0.0..40.0, noise in 0.0..0.1, seed in any::<u64>(), start in 1u32..64, slow in 0.001..2.0, adverse in any::<bool>(),
    ) {
        let mut plant = Plant::new(OfferedConfig::for_threads(config(1, 64)), start);
        plant.run = slow;
        let mut rng = Rng::seeded(seed);
        plant.for_seconds(3_600.0, |t| {
            let wave = if ((t / 45.0) as u64).is_multiple_of(2) { 1.0 } else { -1.0 };
            let swing = if adverse { wave } else { rng.f64() * 2.0 - 1.0 };
            demand * (1.0 + noise * swing)
        });
        plant.check();
        let late = plant.decisions.iter().filter(|(t, _)| *t > 1_800.0).count();
        prop_assert!(late <= 2, "{:?}", plant.sizes());
        prop_assert!(plant.turns() <= 6, "{:?}", plant.sizes());
        let load = demand / f64::from(plant.workers());
        prop_assert!(load <= 0.7 / 0.8 || plant.workers() == 64, "load {load} of {}", plant.workers());
        prop_assert!(plant.workers() <= 1 || load >= 0.7 * 0.7 || demand < 2.0, "load {load} of {}", plant.workers());
    }

    /// Whatever is fed in, at whatever times, proposals are whole numbers within the bounds and all figures are finite.
    #[test]
    fn any_view_is_survived(
        views in prop::collection::vec((any_view(), 0u64..100_000), 1..120), min in 1u32..50, more in 0u32..50, machines in any::<bool>(),
    ) {
        let settings = config(min, min + more);
        let settings = if machines {
            OfferedConfig::for_machines(settings, Duration::from_secs(30))
        } else {
            OfferedConfig::for_threads(settings)
        };
        let knob = Plant::new(settings, min).knob;
        let mut offered = Offered::new(settings, knob);
        let mut now = 0u64;
        for (view, wait_ms) in views {
            now += wait_ms;
            let proposal = offered.step(Timestamp::from_nanos(now * 1_000_000), &view);
            prop_assert!(offered.offered().is_none_or(|work| work.is_finite() && work >= 0.0));
            let Some(proposal) = proposal else { continue };
            prop_assert_eq!(proposal.value, f64::from(proposal.value as u32));
            prop_assert!((min..=min + more).contains(&(proposal.value as u32)));
            prop_assert!(proposal.value != f64::from(view.workers));
            prop_assert!(proposal.evidence.iter().all(|e| e.value.is_finite()), "{proposal:?}");
        }
    }
}
