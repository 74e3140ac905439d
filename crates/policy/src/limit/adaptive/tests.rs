use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

use flyball_core::time::Timestamp;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::*;
use crate::Error;

const MS: u64 = 1_000_000;

/// A machine with so many CPUs that all calls share evenly, and callers that want more than it can do; by milliseconds.
struct Machine {
    limit: AdaptiveLimit,
    cpus: f64,
    work_ms: f64,
    now_ms: u64,
    out: VecDeque<(Started, f64)>,
    cpu: CpuTime,
    busy: bool,
}

impl Machine {
    fn new(config: AdaptiveConfig, cpus: f64) -> Self {
        Self {
            limit: AdaptiveLimit::new(Timestamp::ZERO, config).unwrap(),
            cpus,
            work_ms: 10.0,
            now_ms: 0,
            out: VecDeque::new(),
            cpu: CpuTime::default(),
            busy: true,
        }
    }

    fn run(&mut self, millis: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for _ in 0..millis {
            let calls = self.out.len() as f64;
            let running = calls.min(self.cpus);
            self.cpu.ran += Duration::from_micros((running * 1e3) as u64);
            self.cpu.waited += Duration::from_micros(((calls - running) * 1e3) as u64);
            for (_, left) in &mut self.out {
                *left -= running / calls;
            }
            self.now_ms += 1;
            let now = Timestamp::from_nanos(self.now_ms * MS);
            let limit = &mut self.limit;
            self.out.retain(|(started, left)| {
                if *left <= 0.0 {
                    limit.on_end(now, *started, Outcome::Succeeded);
                }
                *left > 0.0
            });
            changes.extend(self.limit.step(now, Some(self.cpu)));
            while self.busy && self.limit.has_room() {
                let started = self.limit.on_start(now);
                // Calls are not all alike, or all would end together.
                let work = self.work_ms * (0.5 + f64::from(self.out.len() as u32 % 11) / 10.0);
                self.out.push_back((started, work));
            }
            if self.busy {
                self.limit.note_blocked();
            }
        }
        changes
    }
}

fn run_delay(cpus: u32) -> AdaptiveConfig {
    AdaptiveConfig::for_signal(Signal::RunDelay { cpus }).with_initial(cpus.max(1))
}

/// CPU-22: the default finds how many calls the CPUs work at, from below and from above, and again when CPUs come or go.
#[test]
fn run_delay_finds_the_cpus() {
    for cpus in [1u32, 2, 3, 8, 32, 100] {
        for guess in [1, cpus, 10 * cpus] {
            let mut machine = Machine::new(run_delay(guess), f64::from(cpus));
            machine.run(2_000);
            let limit = machine.limit.limit();
            assert!((cpus..=cpus + 2).contains(&limit), "{cpus}: {limit}");
            machine.cpus = f64::from(cpus) / 2.0;
            machine.run(2_000);
            let limit = machine.limit.limit();
            assert!(
                limit <= cpus / 2 + 3 && 2 * limit >= cpus,
                "{cpus}: {limit}"
            );
            machine.cpus = f64::from(cpus);
            machine.run(2_000);
            let limit = machine.limit.limit();
            assert!((cpus..=cpus + 2).contains(&limit), "{cpus}: {limit}");
        }
    }
}

/// Without CPU times run delay is not known, and the limit stays.
#[test]
fn run_delay_needs_cpu_times() {
    let mut limit = AdaptiveLimit::new(Timestamp::ZERO, run_delay(4)).unwrap();
    for round in 1..100u64 {
        let now = Timestamp::from_nanos(round * 30 * MS);
        let started = limit.on_start(now);
        limit.note_blocked();
        limit.on_end(now, started, Outcome::Succeeded);
        assert_eq!(limit.step(now, None), None);
    }
    assert_eq!(limit.limit(), 4);
    assert!(limit.stats().windows > 50);
}

/// CPU-22: a limit that nobody runs into has no reason to grow, whichever way it is found.
#[test]
fn nothing_grows_unless_calls_were_blocked() {
    for algorithm in [
        Algorithm::RunDelay { cpus: 4 },
        Algorithm::vegas(),
        Algorithm::gradient(),
        Algorithm::aimd(),
    ] {
        let config = AdaptiveConfig::new(algorithm).with_initial(4);
        let mut limit = AdaptiveLimit::new(Timestamp::ZERO, config).unwrap();
        for round in 1..5_000u64 {
            let began = Timestamp::from_nanos(round * 10 * MS);
            let started = limit.on_start(began);
            let now = began.saturating_add_nanos(5 * MS);
            limit.on_end(now, started, Outcome::Succeeded);
            let cpu = CpuTime {
                ran: Duration::from_millis(5 * round),
                waited: Duration::ZERO,
            };
            limit.step(now, Some(cpu));
        }
        assert_eq!(limit.limit(), 4, "{algorithm:?}");
        assert!(limit.stats().windows > 0, "{algorithm:?}");
    }
}

/// CPU-22: Vegas queues a few calls at a dependency of which it sees latencies alone, and no more after many probes.
#[test]
fn vegas_queues_a_little() {
    for cpus in [4.0, 20.0] {
        let config = AdaptiveConfig::new(Algorithm::Vegas {
            probe_every: Duration::from_secs(2),
        });
        let mut machine = Machine::new(config, cpus);
        machine.run(5_000);
        for _ in 0..20 {
            machine.run(1_000);
            let limit = f64::from(machine.limit.limit());
            assert!(
                limit >= 0.45 * cpus && limit <= 4.0 * cpus,
                "{cpus}: {limit}"
            );
        }
        assert!(
            machine
                .run(5_000)
                .iter()
                .any(|change| change.reason == Reason::Probe)
        );
    }
}

/// CPU-22: the gradient and AIMD give way: the one to latency, the other to failures, and come back.
#[test]
fn gradient_and_aimd_give_way() {
    let mut machine = Machine::new(
        AdaptiveConfig::new(Algorithm::gradient()).with_initial(8),
        8.0,
    );
    machine.run(3_000);
    let before = machine.limit.limit();
    machine.cpus = 2.0;
    machine.run(10_000);
    let after = machine.limit.limit();
    assert!(after < before, "{before} {after}");

    let config = AdaptiveConfig::new(Algorithm::Aimd {
        backoff: 0.5,
        latency_max: Some(Duration::from_millis(40)),
    });
    let mut machine = Machine::new(config, 8.0);
    let (mut least, mut most) = (u32::MAX, 0);
    machine.run(3_000);
    for _ in 0..50 {
        machine.run(100);
        least = least.min(machine.limit.limit());
        most = most.max(machine.limit.limit());
    }
    // 40 ms are 4 times what a call needs alone.
    assert!(most > 15 && most < 40, "{most}");
    assert!(least < most && least >= 3, "{least}");
}

/// A dependency that is never busy, and callers that want so many calls in flight; by ends of calls.
struct Idle {
    limit: AdaptiveLimit,
    demand: usize,
    nanos: u64,
    calls: u64,
    out: BTreeMap<(u64, u64), (Started, Outcome)>,
}

impl Idle {
    fn new(algorithm: Algorithm, demand: usize) -> Self {
        let config = AdaptiveConfig::new(algorithm);
        Self {
            limit: AdaptiveLimit::new(Timestamp::ZERO, config).unwrap(),
            demand,
            nanos: 0,
            calls: 0,
            out: BTreeMap::new(),
        }
    }

    /// Returns the greatest limit in the last quarter: a probe may cut it for a moment.
    fn run(&mut self, calls: u64, mean_nanos: u64, outcome: Outcome) -> u32 {
        let mut most = 0;
        for call in 0..calls {
            let now = Timestamp::from_nanos(self.nanos);
            while self.limit.has_room() && self.out.len() < self.demand {
                self.calls += 1;
                // Half to one and a half of the mean.
                let ends = self.nanos + mean_nanos * (5 + self.calls * 7 % 11) / 10;
                let started = self.limit.on_start(now);
                self.out.insert((ends, self.calls), (started, outcome));
            }
            if self.out.len() < self.demand {
                self.limit.note_blocked();
            }
            let ((ends, _), (started, outcome)) = self.out.pop_first().unwrap();
            self.nanos = ends;
            let now = Timestamp::from_nanos(ends);
            self.limit.on_end(now, started, outcome);
            self.limit.step(now, None);
            if call >= calls * 3 / 4 {
                most = most.max(self.limit.limit());
            }
        }
        most
    }
}

/// CPU-22: calls that fail at once, as where nobody listens, are no latency without a queue: neither does the limit grow meanwhile nor is it
/// lower when all is well again.
#[test]
fn what_fails_at_once_says_nothing_of_latency() {
    for algorithm in [Algorithm::vegas(), Algorithm::gradient()] {
        for first in [false, true] {
            let mut idle = Idle::new(algorithm, 30);
            if first {
                idle.run(5_000, MS / 5, Outcome::Failed);
                assert_eq!(idle.limit.limit(), 20, "{algorithm:?}");
            }
            let before = idle.run(20_000, 20 * MS, Outcome::Succeeded);
            assert!(before >= 30, "{algorithm:?}: {before}");
            idle.demand = 1_000;
            // Those that were out succeed.
            let last = idle.run(40_000, MS / 5, Outcome::Failed);
            let during = idle.run(5_000, MS / 5, Outcome::Failed);
            assert!(
                during <= last,
                "{algorithm:?}: {last} {during}, at first {first}"
            );
            idle.demand = 30;
            for _ in 0..50 {
                let after = idle.run(200, 20 * MS, Outcome::Succeeded);
                assert!(
                    10 * after >= 8 * before,
                    "{algorithm:?}: {before} {after}, at first {first}"
                );
            }
        }
    }
}

/// CPU-22: a modest overload that lasts, in which latency is within tolerance for most of the time, is not taken for usual step by step: the gradient's limit does not
/// rise for ever.
#[test]
fn the_gradient_does_not_rise_for_ever() {
    for (cpus, minutes) in [(4, 30), (12, 10)] {
        let config = AdaptiveConfig::new(Algorithm::gradient()).with_initial(cpus);
        let mut machine = Machine::new(config, f64::from(cpus));
        for minute in 0..minutes {
            machine.run(60_000);
            let limit = machine.limit.limit();
            assert!(limit <= 3 * cpus, "{cpus}, minute {minute}: {limit}");
        }
    }
}

/// CPU-22: calls that all time out take the same time whatever the limit. That is no room for more: the limit does not rise, be it that nothing else was ever seen or
/// after calls that were served; when calls are served again it is soon what it was.
#[test]
fn time_outs_are_no_room() {
    for algorithm in [Algorithm::vegas(), Algorithm::gradient()] {
        for first in [false, true] {
            let mut idle = Idle::new(algorithm, 30);
            let before = match first {
                true => idle.limit.limit(),
                false => idle.run(20_000, 20 * MS, Outcome::Succeeded),
            };
            idle.demand = 1_000;
            // Those that were out are served.
            let last = idle.run(2_000, 1_000 * MS, Outcome::Failed).max(before);
            let most = idle.run(50_000, 1_000 * MS, Outcome::Failed);
            assert!(
                most <= last && last <= 2 * before,
                "{algorithm:?}: {before} {last} {most}, at first {first}"
            );
            idle.demand = 30;
            let after = idle.run(40_000, 20 * MS, Outcome::Succeeded);
            assert!(
                10 * after >= 8 * before.min(30),
                "{algorithm:?}: {before} {after}, at first {first}"
            );
        }
    }
}

/// CPU-22: a dependency that does not answer any more leaves the limit where it was: neither more nor, for want of any latency, nothing.
#[test]
fn who_never_answers_changes_nothing() {
    for algorithm in [
        Algorithm::RunDelay { cpus: 4 },
        Algorithm::vegas(),
        Algorithm::gradient(),
        Algorithm::aimd(),
    ] {
        let config = AdaptiveConfig::new(algorithm).with_initial(6);
        let mut limit = AdaptiveLimit::new(Timestamp::ZERO, config).unwrap();
        let started: Vec<Started> = (0..6).map(|_| limit.on_start(Timestamp::ZERO)).collect();
        for seconds in 1..100u64 {
            limit.note_blocked();
            let now = Timestamp::from_nanos(seconds * 1_000 * MS);
            limit.step(now, None);
            assert_eq!(limit.limit(), 6, "{algorithm:?}");
        }
        assert_eq!(limit.in_flight(), 6);
        for started in started {
            limit.on_end(Timestamp::MAX, started, Outcome::Failed);
        }
        limit.step(Timestamp::MAX, None);
        assert!((1..=1_000).contains(&limit.limit()));
    }
}

/// All algorithms that set the limit themselves.
fn those_that_adapt() -> [Algorithm; 4] {
    [
        Algorithm::RunDelay { cpus: 4 },
        Algorithm::vegas(),
        Algorithm::gradient(),
        Algorithm::Aimd {
            backoff: 0.9,
            latency_max: Some(Duration::from_millis(60)),
        },
    ]
}

/// CPU-22: six hours without a call change no limit but that which was cut for a probe, and a burst after them finds one that is soon as good as it was.
#[test]
fn a_burst_after_hours_without_calls() {
    for algorithm in those_that_adapt() {
        let mut machine = Machine::new(AdaptiveConfig::new(algorithm), 4.0);
        machine.run(5_000);
        machine.busy = false;
        machine.run(1_000);
        assert_eq!(machine.limit.in_flight(), 0, "{algorithm:?}");
        let before = machine.limit.limit();
        for _ in 0..6 * 60 {
            machine.now_ms += 60_000;
            machine.run(1);
            let limit = machine.limit.limit();
            assert!(
                (before..=2 * before).contains(&limit),
                "{algorithm:?}: {limit}"
            );
        }
        machine.busy = true;
        machine.run(5_000);
        let limit = machine.limit.limit();
        assert!((2..=60).contains(&limit), "{algorithm:?}: {limit}");
    }
}

/// CPU-22: on a clock that stands still calls come and go without any window, and the limit stays.
#[test]
fn a_clock_that_stands_still() {
    for algorithm in those_that_adapt() {
        let now = Timestamp::from_nanos(5 * MS);
        let config = AdaptiveConfig::new(algorithm).with_initial(10);
        let mut limit = AdaptiveLimit::new(now, config).unwrap();
        for call in 0..10_000u32 {
            let started = limit.on_start(now);
            limit.note_blocked();
            let outcome = if call % 3 == 0 {
                Outcome::Failed
            } else {
                Outcome::Succeeded
            };
            limit.on_end(now, started, outcome);
            assert_eq!(
                limit.step(now, Some(CpuTime::default())),
                None,
                "{algorithm:?}"
            );
        }
        assert_eq!((limit.limit(), limit.in_flight()), (10, 0));
    }
}

/// CPU-22: calls that take no time at all and calls that take for ever leave every limit within its bounds, and all that is measured a number.
#[test]
fn latencies_of_nothing_and_of_ever() {
    for algorithm in those_that_adapt() {
        let config = AdaptiveConfig::new(algorithm)
            .with_bounds(2, 50)
            .with_initial(10);
        let mut limit = AdaptiveLimit::new(Timestamp::ZERO, config).unwrap();
        let mut nanos = 0u64;
        for round in 0..2_000u64 {
            limit.note_blocked();
            let began = Timestamp::from_nanos(nanos);
            let started: Vec<Started> = (0..10).map(|_| limit.on_start(began)).collect();
            // Nothing, thirty years, nothing again: each for hundreds of calls.
            nanos += match round / 200 % 2 {
                0 => MS,
                _ => 1_000_000_000 * MS,
            };
            let ends = match round / 200 % 2 {
                0 => began,
                _ => Timestamp::from_nanos(nanos),
            };
            for started in started {
                limit.on_end(ends, started, Outcome::Succeeded);
            }
            limit.step(Timestamp::from_nanos(nanos), Some(CpuTime::default()));
            assert!((2..=50).contains(&limit.limit()), "{algorithm:?}");
            if let Some(window) = limit.stats().last {
                assert!(window.latency_variation.is_finite(), "{algorithm:?}");
                assert!(window.in_flight_mean.is_finite(), "{algorithm:?}");
            }
        }
    }
}

#[test]
fn settings_are_checked_and_change_live() {
    let bad = |config: AdaptiveConfig| {
        let error = AdaptiveLimit::new(Timestamp::ZERO, config).unwrap_err();
        assert!(matches!(
            error,
            Error::Limit {
                of: "adaptive limit",
                ..
            }
        ));
    };
    let good = run_delay(4);
    bad(good.with_bounds(0, 5));
    bad(good.with_bounds(6, 5));
    bad(good.with_bounds(1, 1_000_001));
    bad(run_delay(0));
    bad(AdaptiveConfig::new(Algorithm::Fixed(0)));
    bad(AdaptiveConfig::new(Algorithm::Vegas {
        probe_every: Duration::ZERO,
    }));
    for tolerance in [0.9, f64::NAN, f64::INFINITY] {
        bad(AdaptiveConfig::new(Algorithm::Gradient { tolerance }));
    }
    bad(AdaptiveConfig::new(Algorithm::Aimd {
        backoff: 1.0,
        latency_max: None,
    }));

    let mut limit = AdaptiveLimit::new(Timestamp::ZERO, good).unwrap();
    let change = limit.set_config(Timestamp::ZERO, good.with_bounds(9, 20));
    assert_eq!(
        change.unwrap(),
        Some(Change {
            from: 4,
            to: 9,
            reason: Reason::Settings
        })
    );
    let fixed = AdaptiveConfig::new(Algorithm::Fixed(30)).with_bounds(1, 20);
    assert_eq!(
        limit
            .set_config(Timestamp::ZERO, fixed)
            .unwrap()
            .unwrap()
            .to,
        30
    );
    assert_eq!(limit.limit(), 30, "who names a number means it");
    let vegas = AdaptiveConfig::new(Algorithm::vegas()).with_bounds(1, 20);
    assert_eq!(
        limit
            .set_config(Timestamp::ZERO, vegas)
            .unwrap()
            .unwrap()
            .to,
        20
    );
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        (1u32..64).prop_map(|cpus| Algorithm::RunDelay { cpus }),
        Just(Algorithm::Vegas {
            probe_every: Duration::from_secs(1)
        }),
        (1.0f64..10.0).prop_map(|tolerance| Algorithm::Gradient { tolerance }),
        (0.5f64..0.99, prop::option::of(0u64..u64::MAX)).prop_map(|(backoff, nanos)| {
            Algorithm::Aimd {
                backoff,
                latency_max: nanos.map(Duration::from_nanos),
            }
        }),
        (1u32..1_000_000).prop_map(Algorithm::Fixed),
    ]
}

/// Mostly milliseconds; also none, years, and back.
fn steps() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => 0i64..100 * MS as i64,
        2 => Just(0),
        1 => 0i64..i64::MAX / 4,
        1 => -1_000_000_000i64..0,
    ]
}

fn cpu_times() -> impl Strategy<Value = Option<CpuTime>> {
    let nanos = prop_oneof![0u64..1_000_000_000_000, 0u64..u64::MAX, Just(u64::MAX)];
    prop::option::of((nanos.clone(), nanos).prop_map(|(ran, waited)| CpuTime {
        ran: Duration::from_nanos(ran),
        waited: Duration::from_nanos(waited),
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// CPU-22: latency that changes for any other reason than a queue, for a while (fast failures, a warm cache) or for good (a slower
    /// release), lowers no limit by latency for good.
    #[test]
    fn what_is_no_queue_lowers_no_limit_for_good(
        vegas in prop::bool::ANY, demand in 2usize..80, usual_ms in 2u64..60,
        while_micros in 50u64..3_000, while_calls in 0u64..2_000, failed in prop::bool::ANY,
        slower in 1.0f64..8.0,
    ) {
        let algorithm = if vegas { Algorithm::vegas() } else { Algorithm::gradient() };
        let outcome = if failed { Outcome::Failed } else { Outcome::Succeeded };
        let mut idle = Idle::new(algorithm, demand);
        let before = idle.run(10_000, usual_ms * MS, Outcome::Succeeded).min(demand as u32);
        idle.run(while_calls, while_micros * 1_000, outcome);
        let later = (usual_ms as f64 * slower * MS as f64) as u64;
        let after = idle.run(20_000, later, Outcome::Succeeded);
        prop_assert!(10 * after >= 8 * before, "{before} {after}");
    }

    /// CPU-22: whatever is told (clocks that stand still, jump and go back; CPU times that make no sense; calls that never end), the limit
    /// stays inside its bounds, what was measured is finite, and calls are counted right.
    #[test]
    fn limits_stay_finite_and_sane(
        algorithm in algorithms(),
        min in 1u32..20, more in 0u32..2_000, initial in prop::option::of(0u32..u32::MAX),
        events in prop::collection::vec((0u8..8, steps(), cpu_times(), 0usize..64), 1..300),
    ) {
        let config = AdaptiveConfig { algorithm, min, max: min + more, initial };
        let mut limit = AdaptiveLimit::new(Timestamp::from_nanos(MS), config).unwrap();
        let mut nanos = MS;
        let mut out: Vec<Started> = Vec::new();
        for (what, step, cpu, which) in events {
            nanos = nanos.saturating_add_signed(step);
            let now = Timestamp::from_nanos(nanos);
            match what {
                0..=2 => out.push(limit.on_start(now)),
                3..=5 if !out.is_empty() => {
                    let started = out.swap_remove(which % out.len());
                    let outcome = [Outcome::Succeeded, Outcome::Failed, Outcome::Ignored][which % 3];
                    limit.on_end(now, started, outcome);
                }
                6 => limit.note_blocked(),
                _ => {}
            }
            let before = limit.limit();
            let change = limit.step(now, cpu);
            prop_assert_eq!(change.map_or(before, |change| change.to), limit.limit());
            match algorithm {
                Algorithm::Fixed(fixed) => prop_assert_eq!(limit.limit(), fixed),
                _ => prop_assert!((min..=min + more).contains(&limit.limit())),
            }
            prop_assert_eq!(limit.in_flight() as usize, out.len());
            if let Some(window) = limit.stats().last {
                for value in [window.in_flight_mean, window.in_flight_full_mean, window.latency_variation] {
                    prop_assert!(value.is_finite() && value >= 0.0);
                }
                let shares = [Some(window.full_share), window.run_share, window.run_delay_share];
                for share in shares.into_iter().flatten() {
                    prop_assert!((0.0..=1.0).contains(&share));
                }
            }
        }
    }
}
