//! The controller on simulated machines: steps, ramps, noise, neighbours, other delays and gains, and the pool's controller
//! beside it.

use alloc::string::ToString;
use alloc::vec::Vec;

use flyball_core::rng::Rng;
use proptest::prelude::*;

use super::*;
use crate::control::{Arbiter, Controller, KnobSpec};
use crate::sched::pool::{PoolConfig, PoolView, Sizer, Sizing};

fn at(period: u64) -> Timestamp {
    Timestamp::from_nanos(1 + period * PERIOD.as_nanos() as u64)
}

/// Four periods a second.
const SECOND: u64 = 4;

/// A machine: what others use and what the work would use, by the period; noise of so many points; the delay of acts.
struct Machine<'a> {
    others: &'a dyn Fn(u64) -> f64,
    demand: &'a dyn Fn(u64) -> f64,
    noise: f64,
    gain: f64,
    delay: usize,
    knows_own: bool,
}

impl Default for Machine<'_> {
    fn default() -> Self {
        Machine {
            others: &|_| 0.0,
            demand: &|_| 100.0,
            noise: 0.0,
            gain: 1.0,
            delay: 1,
            knows_own: true,
        }
    }
}

struct Trace {
    usage: Vec<f64>,
    changes: Vec<(u64, Change)>,
    throttle: Throttle,
}

impl Trace {
    fn mean(&self, from: u64, to: u64) -> f64 {
        let part = &self.usage[from as usize..to as usize];
        part.iter().sum::<f64>() / part.len() as f64
    }

    /// The mean over 5 s that is farthest from `target`, of those that lie in this time.
    fn worst(&self, from: u64, to: u64, target: f64) -> f64 {
        let means = (from..=to - 5 * SECOND).map(|start| self.mean(start, start + 5 * SECOND));
        means.map(|mean| (mean - target).abs()).fold(0.0, f64::max)
    }

    fn spread(&self, from: u64, to: u64) -> f64 {
        let part = &self.usage[from as usize..to as usize];
        let most = part.iter().copied().fold(0.0, f64::max);
        most - part.iter().copied().fold(100.0, f64::min)
    }

    fn changes_in(&self, from: u64, to: u64) -> usize {
        let within = |(at, _): &&(u64, Change)| (from..to).contains(at);
        self.changes.iter().filter(within).count()
    }
}

fn run(settings: Settings, machine: &Machine<'_>, periods: u64) -> Trace {
    let mut throttle = Throttle::new(settings).unwrap();
    let mut rng = Rng::seeded(20);
    let mut levels = alloc::vec![0.0; machine.delay];
    let (mut usage, mut changes) = (Vec::new(), Vec::new());
    for period in 0..periods {
        let level = if settings.observe {
            0.0
        } else {
            levels[levels.len() - machine.delay]
        };
        let most = 100.0 - (100.0 - allowance(level)) * machine.gain;
        let others = (machine.others)(period).min(100.0);
        let own = (machine.demand)(period)
            .min(most)
            .clamp(0.0, 100.0 - others);
        let real = others + own;
        let noise = machine.noise * (rng.f64() - 0.5) * 2.0;
        usage.push(real);
        let view = View {
            usage: Some(real + noise),
            acted: machine.knows_own.then_some(own),
            level: *levels.last().unwrap(),
        };
        let step = throttle.step(at(period), &view);
        changes.extend(step.change.map(|change| (period, change)));
        levels.push(step.level);
    }
    Trace {
        usage,
        changes,
        throttle,
    }
}

/// CPU-20: a load that wants everything settles on the threshold within 2 s, stays within 3 points of it, and nothing changes
/// any more.
#[test]
fn a_step_settles_on_the_threshold_and_stays() {
    for threshold in [20.0, 50.0, 80.0, 95.0] {
        let machine = Machine {
            demand: &|period| if period < 10 * SECOND { 5.0 } else { 100.0 },
            ..Machine::default()
        };
        let trace = run(Settings::at(threshold), &machine, 120 * SECOND);
        let worst = trace.worst(12 * SECOND, 120 * SECOND, threshold);
        assert!(worst <= BAND, "{threshold}: {worst}");
        assert!(trace.spread(20 * SECOND, 120 * SECOND) < 1.0);
        assert_eq!(trace.changes_in(20 * SECOND, 120 * SECOND), 0);
        assert_eq!(trace.changes_in(0, 10 * SECOND), 0);
    }
}

/// CPU-20: no swing where the plant is not as thought: other delays, other gains, own use unknown.
#[test]
fn it_is_stable_on_other_machines_than_thought() {
    for delay in [1, 2] {
        for gain in [0.3, 0.5, 1.0, 1.5, 2.0] {
            for knows_own in [true, false] {
                let machine = Machine {
                    gain,
                    delay,
                    knows_own,
                    ..Machine::default()
                };
                let trace = run(Settings::at(75.0), &machine, 120 * SECOND);
                let worst = trace.worst(30 * SECOND, 120 * SECOND, 75.0);
                let spread = trace.spread(30 * SECOND, 120 * SECOND);
                assert!(
                    worst <= BAND && spread < 6.0,
                    "{delay} {gain} {knows_own}: {worst} {spread}"
                );
            }
        }
    }
}

/// CPU-20: readings that scatter by 4 points either way do not move the mean out of the band.
#[test]
fn noise_stays_in_the_band() {
    let machine = Machine {
        noise: 4.0,
        others: &|_| 10.0,
        ..Machine::default()
    };
    let trace = run(Settings::at(60.0), &machine, 300 * SECOND);
    let worst = trace.worst(5 * SECOND, 300 * SECOND, 60.0);
    assert!(worst <= BAND, "{worst}");
}

/// CPU-20: a ramp of the others from 0 to 60 points in a minute and back is followed.
#[test]
fn a_ramp_is_followed() {
    let machine = Machine {
        others: &|period| {
            let second = period as f64 / SECOND as f64;
            if second < 60.0 {
                second
            } else {
                (120.0 - second).max(0.0)
            }
        },
        ..Machine::default()
    };
    let trace = run(Settings::at(80.0), &machine, 120 * SECOND);
    let worst = trace.worst(5 * SECOND, 120 * SECOND, 80.0);
    assert!(worst <= BAND, "{worst}");
}

/// CPU-20: a neighbour that comes and goes each 10 s: within 3 s of each change the threshold holds again, and use goes above
/// it for less than a second.
#[test]
fn a_noisy_neighbour_is_made_room_for() {
    let machine = Machine {
        others: &|period| {
            if (period / (10 * SECOND)).is_multiple_of(2) {
                10.0
            } else {
                40.0
            }
        },
        noise: 1.0,
        ..Machine::default()
    };
    let trace = run(Settings::at(70.0), &machine, 200 * SECOND);
    for change in 1..20 {
        let settled = (change * 10 + 3) * SECOND;
        let mean = trace.mean(settled, (change + 1) * 10 * SECOND);
        assert!((mean - 70.0).abs() <= BAND, "{change}: {mean}");
        let over = (change * 10 * SECOND..settled)
            .filter(|period| trace.usage[*period as usize] > 70.0 + BAND);
        assert!(over.count() <= SECOND as usize, "{change}");
    }
}

/// CPU-20: a load that does not reach the threshold is never held back, and one that ends is forgotten.
#[test]
fn nothing_is_held_back_below_the_threshold() {
    let machine = Machine {
        demand: &|_| 78.0,
        noise: 1.5,
        ..Machine::default()
    };
    assert!(
        run(Settings::at(80.0), &machine, 300 * SECOND)
            .changes
            .is_empty()
    );
    let machine = Machine {
        demand: &|period| if period < 30 * SECOND { 100.0 } else { 20.0 },
        ..Machine::default()
    };
    let trace = run(Settings::at(80.0), &machine, 60 * SECOND);
    let ends = trace
        .changes
        .iter()
        .filter(|(_, change)| *change == Change::Deactivated);
    assert_eq!(ends.count(), 1, "{:?}", trace.changes);
    assert_eq!(
        (trace.throttle.state(), trace.throttle.level()),
        (State::Idle, 0.0)
    );
    let held = trace.throttle.throttled().as_secs_f64();
    // Until what was held has all of it back, not until the throttle has ended.
    assert!((29.0..32.5).contains(&held), "{held}");
}

/// CPU-20: tasks that are longer than a period and cannot be interrupted come in bursts; the mean is held all the same.
#[test]
fn bursts_are_held_on_average() {
    let mut throttle = Throttle::new(Settings::at(20.0)).unwrap();
    // One task at a time on one of two CPUs, of 300 ms; a bucket says when the next one begins, looked at each 50 ms.
    let (mut credit, mut left, mut usage) = (0.0, 0, Vec::new());
    let mut level = 0.0;
    for period in 0..200 * SECOND {
        let mut own = 0.0;
        for _ in 0..5 {
            let filled: f64 = credit + allowance(level) / 5.0;
            credit = if left > 0 {
                filled
            } else {
                filled.min(allowance(level) * 0.4)
            };
            if left == 0 && credit > 0.0 {
                left = 6;
            }
            if left > 0 {
                (own, credit, left) = (own + 10.0, credit - 10.0, left - 1);
            }
        }
        usage.push(own);
        let view = View {
            usage: Some(own),
            acted: Some(own),
            level,
        };
        level = throttle.step(at(period), &view).level;
    }
    let trace = Trace {
        usage,
        changes: Vec::new(),
        throttle,
    };
    let worst = trace.worst(10 * SECOND, 200 * SECOND, 20.0);
    assert!(worst <= BAND, "{worst}");
}

/// CPU-20: what has ended is let go at the usual rate, however near to nothing the threshold is.
#[test]
fn a_low_threshold_lets_go_as_fast() {
    let machine = Machine {
        demand: &|period| if period < 10 * SECOND { 100.0 } else { 0.0 },
        ..Machine::default()
    };
    let trace = run(
        Settings {
            hysteresis: 0.0,
            ..Settings::at(1.0)
        },
        &machine,
        20 * SECOND,
    );
    assert_eq!(
        (trace.throttle.state(), trace.throttle.level()),
        (State::Idle, 0.0)
    );
}

/// CPU-20: a threshold as low as the usual hysteresis, or lower, is begun and ended all the same, though what is idle uses a little; so is one
/// whose own hysteresis is nearly as much.
#[test]
fn a_low_threshold_ends() {
    let nearly = Settings {
        hysteresis: 2.9,
        ..Settings::at(3.0)
    };
    for settings in [1.0, 3.0, 5.0]
        .map(Settings::at)
        .into_iter()
        .chain([nearly])
    {
        let machine = Machine {
            demand: &|period| if period < 10 * SECOND { 100.0 } else { 0.0 },
            others: &|_| 0.4,
            ..Machine::default()
        };
        let trace = run(settings, &machine, 30 * SECOND);
        let state = (trace.throttle.state(), trace.throttle.level());
        assert_eq!(state, (State::Idle, 0.0), "{settings:?}");
        let (last, change) = trace.changes.last().copied().unwrap();
        assert_eq!(change, Change::Deactivated);
        assert!(last < 20 * SECOND, "{settings:?}: {last}");
        let held = trace.throttle.throttled().as_secs_f64();
        assert!((9.0..19.0).contains(&held), "{settings:?}: {held}");
    }
}

/// CPU-20: between threshold and hysteresis it neither ends nor starts again and again.
#[test]
fn it_does_not_flap_within_the_hysteresis() {
    let machine = Machine {
        demand: &|period| {
            if period < 10 * SECOND {
                100.0
            } else {
                77.0 + 2.5 * f64::from((period / 7 % 2) as u32)
            }
        },
        ..Machine::default()
    };
    let trace = run(Settings::at(80.0), &machine, 300 * SECOND);
    assert_eq!(trace.throttle.activations(), 1);
    let ends = trace
        .changes
        .iter()
        .filter(|(_, change)| *change == Change::Deactivated);
    assert_eq!(ends.count(), 0);
}

/// CPU-20: what cannot be held is said, with whose use it is, and is over when it can.
#[test]
fn what_cannot_be_held_is_said() {
    let others = |period| if period < 60 * SECOND { 90.0 } else { 10.0 };
    let machine = Machine {
        others: &others,
        ..Machine::default()
    };
    let trace = run(Settings::at(70.0), &machine, 59 * SECOND);
    assert!(
        matches!(trace.throttle.state(), State::CannotHold(Cause::Others(p)) if (p - 90.0).abs() < 1.0)
    );
    assert!(trace.throttle.state().to_string().contains("90%"));
    let trace = run(Settings::at(70.0), &machine, 90 * SECOND);
    assert_eq!(trace.throttle.state(), State::Active);
    assert!(trace.worst(70 * SECOND, 90 * SECOND, 70.0) <= BAND);
    let unmoved = Machine {
        gain: 0.1,
        ..Machine::default()
    };
    let trace = run(Settings::at(50.0), &unmoved, 60 * SECOND);
    assert!(matches!(
        trace.throttle.state(),
        State::CannotHold(Cause::Unmoved(_))
    ));
    let unknown = Machine {
        gain: 0.1,
        knows_own: false,
        ..Machine::default()
    };
    let trace = run(Settings::at(50.0), &unknown, 60 * SECOND);
    assert!(matches!(
        trace.throttle.state(),
        State::CannotHold(Cause::Unknown(_))
    ));
}

/// CPU-20: what is held back to a half of what it got has an effect of 50 %.
#[test]
fn the_effect_is_told() {
    let machine = Machine {
        demand: &|period| if period < 10 * SECOND { 79.0 } else { 100.0 },
        others: &|period| if period < 20 * SECOND { 0.0 } else { 40.0 },
        ..Machine::default()
    };
    let trace = run(Settings::at(80.0), &machine, 60 * SECOND);
    let effect = trace.throttle.effect().unwrap();
    assert!((40.0..65.0).contains(&effect), "{effect}");
}

/// CPU-30: observing, the throttle decides about as it would acting, and the machine is left alone.
#[test]
fn observing_decides_and_leaves_alone() {
    let observe = Settings {
        observe: true,
        ..Settings::at(60.0)
    };
    let machine = Machine {
        others: &|_| 20.0,
        ..Machine::default()
    };
    let seen = run(observe, &machine, 60 * SECOND);
    let acting = run(Settings::at(60.0), &machine, 60 * SECOND);
    assert!(seen.usage.iter().all(|usage| *usage == 100.0));
    assert!((seen.throttle.level() - acting.throttle.level()).abs() < 0.02);
    assert!((seen.throttle.usage().unwrap() - 60.0).abs() <= BAND);
    assert_eq!(seen.throttle.throttled(), acting.throttle.throttled());
    assert_eq!(seen.throttle.activations(), 1);
}

/// CPU-20: a level that a person pinned is where the controller goes on from, and a use that is not known lets go after 5 s.
#[test]
fn pins_and_blindness_do_not_wind_it_up() {
    let mut throttle = Throttle::new(Settings::at(50.0)).unwrap();
    let mut period = 0;
    let mut step = |throttle: &mut Throttle, usage, level| {
        period += 1;
        throttle.step(
            at(period),
            &View {
                usage,
                acted: usage,
                level,
            },
        )
    };
    for _ in 0..40 {
        // Pinned at 0.9: much less is used than is allowed, for a long time.
        step(&mut throttle, Some(90.0), 0.9);
    }
    for _ in 0..400 {
        step(&mut throttle, Some(10.0), 0.9);
    }
    // One step of release from the pinned level, not 100 s of it.
    assert!(allowance(throttle.level()) < allowance(0.9) + RELEASE_A_SECOND);
    let held = throttle.level();
    for _ in 0..19 {
        let level = throttle.level();
        assert_eq!(step(&mut throttle, None, level).level, held);
    }
    let level = throttle.level();
    assert_eq!(
        step(&mut throttle, None, level).change,
        Some(Change::Deactivated)
    );
    assert_eq!((throttle.state(), throttle.level()), (State::Blind, 0.0));
}

/// CPU-16, CPU-17, CPU-20: a throttle and the pool's controller over the same workers, whichever way that sizes. Work that is held back is no
/// backlog, and what its full queue refuses wants no workers, so the pool neither grows against the throttle nor shrinks under it, and use
/// stays on the threshold.
#[test]
fn throttle_and_pool_size_do_not_fight() {
    for sizing in Sizing::ALL {
        throttled_pool(sizing);
    }
}

fn throttled_pool(sizing: Sizing) {
    const CPUS: f64 = 8.0;
    /// Tasks of 10 ms that a CPU ends in a period.
    const TASKS: f64 = 25.0;
    const ROOM: f64 = 1_000.0;
    let mut arbiter = Arbiter::new();
    let config = PoolConfig {
        min: 2,
        max: 32,
        ..PoolConfig::for_cpus(8)
    };
    let spec = |name: &str, max| KnobSpec {
        name: name.into(),
        unit: "",
        min: 0.0,
        max,
        about: "",
    };
    let size = arbiter.add_knob(spec("back", 128.0), 8.0);
    let level = arbiter.add_knob(spec("throttle", 1.0), 0.0);
    let mut pool = Sizer::new(sizing, config, size);
    let looks_each = (pool.period().as_nanos() / PERIOD.as_nanos()).max(1) as u64;
    let mut throttle = Throttle::new(Settings::at(60.0)).unwrap();
    let mut rng = Rng::seeded(4);
    let (mut backlog, mut busy, mut refused) = (0.0, 0.0, 0.0);
    let (mut usage, mut resized) = (Vec::new(), Vec::new());
    let minutes = 5;
    for period in 0..minutes * 60 * SECOND {
        let others = if (period / (20 * SECOND)).is_multiple_of(2) {
            10.0
        } else {
            25.0
        };
        let workers = arbiter.value(size);
        let allowed = allowance(arbiter.value(level));
        let held = arbiter.value(level) > 0.0;
        let offered = 70.0 + 20.0 * (rng.f64() - 0.5);
        // In percent of the CPUs; what waits, in tasks.
        let a_task = 100.0 / CPUS / TASKS;
        let own = (offered + backlog * a_task)
            .min(allowed)
            .min(workers / CPUS * 100.0)
            .min(100.0 - others);
        backlog += (offered - own) / a_task;
        if !held {
            refused += (backlog - ROOM).max(0.0);
        }
        backlog = backlog.clamp(0.0, ROOM);
        busy += own / 100.0 * CPUS;
        usage.push(own + others);
        let now = at(period);
        let mut proposals = Vec::new();
        if (period + 1).is_multiple_of(looks_each) {
            let seen = PoolView {
                workers: workers as u32,
                healthy: workers as u32,
                busy: busy / looks_each as f64,
                backlog: if held { 0 } else { backlog as u64 },
                ran: busy * TASKS,
                refused,
                parallelism: CPUS as u32,
                idle_longest: None,
            };
            proposals.extend(pool.step(now, &seen));
            (busy, refused) = (0.0, 0.0);
        }
        let view = View {
            usage: Some(own + others),
            acted: Some(own),
            level: arbiter.value(level),
        };
        let step = throttle.step(now, &view);
        proposals.extend(throttle.proposal(&step, level, "throttle"));
        for decision in arbiter.decide(now, proposals) {
            assert!(decision.applied(), "{decision}");
            if decision.knob == "back" {
                resized.push(decision.to);
            }
        }
    }
    let trace = Trace {
        usage,
        changes: Vec::new(),
        throttle,
    };
    for half in 1..minutes * 3 {
        let mean = trace.mean((half * 20 + 5) * SECOND, (half + 1) * 20 * SECOND);
        assert!((mean - 60.0).abs() <= BAND, "{sizing}: {half}: {mean}");
    }
    assert!(resized.len() <= 3, "{sizing}: {resized:?}");
}

proptest! {
    /// CPU-20: whatever it is told, the level stays within 0 and 1, all figures stay finite, memory stays bounded.
    #[test]
    fn anything_leaves_it_sane(
        threshold in 1.0f64..=100.0, hysteresis in 0.0f64..=50.0, observe: bool,
        steps in proptest::collection::vec((any::<u64>(), any::<Option<f64>>(), any::<Option<f64>>(), any::<f64>(), 0..4u8), 1..200),
    ) {
        let hysteresis = hysteresis.min(threshold * 0.99);
        let mut throttle = Throttle::new(Settings { threshold, hysteresis, observe }).unwrap();
        let mut now = Timestamp::ZERO;
        for (jump, usage, acted, level, kind) in steps {
            now = match kind {
                0 => Timestamp::from_nanos(jump),
                1 => now,
                _ => now.saturating_add(PERIOD),
            };
            let in_range = |figure: Option<f64>| figure.map(|figure| figure.rem_euclid(120.0));
            let (usage, acted) = if kind == 3 { (in_range(usage), in_range(acted)) } else { (usage, acted) };
            let step = throttle.step(now, &View { usage, acted, level });
            prop_assert!((0.0..=1.0).contains(&step.level));
            prop_assert!((0.0..=1.0).contains(&throttle.level()));
            for figure in [throttle.usage(), throttle.effect()].into_iter().flatten() {
                prop_assert!((0.0..=100.000_001).contains(&figure), "{figure}");
            }
            prop_assert!(throttle.mean.readings.len() <= READINGS_MAX);
            prop_assert_eq!(step.change.is_none(), step.reason.is_empty());
        }
    }
}

/// CPU-20: thresholds out of range are refused, and say what is expected.
#[test]
fn settings_out_of_range_are_refused() {
    for threshold in [0.0, 0.9, 100.1, f64::NAN, f64::INFINITY, -5.0] {
        let error = Throttle::new(Settings::at(threshold)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "threshold of a throttle must be 1 to 100"
        );
    }
    let wide = Settings {
        hysteresis: 50.5,
        ..Settings::at(80.0)
    };
    assert!(wide.check().is_err());
    let above_all_use = Settings {
        hysteresis: 10.0,
        ..Settings::at(10.0)
    };
    assert_eq!(
        above_all_use.check().unwrap_err().to_string(),
        "hysteresis of a throttle must be 0 to 50, and less than the threshold"
    );
    let mut throttle = Throttle::new(Settings::at(80.0)).unwrap();
    assert!(throttle.set(wide).is_err());
    assert_eq!(throttle.settings().hysteresis, Settings::HYSTERESIS);
}
