//! Whole runs of the simulator. Every run also checks by itself that each task ends exactly once and that no worker idles
//! beside work that it may run (`Error::Broken` otherwise).

mod dispatch;
mod overload;
mod pairs;
mod sizing;

use std::process::Command;

use flyball_core::class::{ClassSpec, Group};
use flyball_policy::sched::place::Strategy;
use flyball_policy::sched::{Algorithm, waiting_bound_ns};
use flyball_sim::compare::{Scenario, compare};
use flyball_sim::config::{Arrivals, Keys, Sizes, Switch, SwitchTo};
use flyball_sim::{Config, Error, Report, run};

fn simulate(config: &Config) -> Report {
    run(config, &mut |_| {}).unwrap()
}

fn small() -> Config {
    Config {
        workers: 16,
        tasks: 20_000,
        ..Config::default()
    }
}

/// CPU-19: a thousand workers, every algorithm; the same seed gives the same report, another seed another one.
#[test]
fn a_seed_is_a_run() {
    for algorithm in Algorithm::ALL {
        let config = Config {
            workers: 1_000,
            tasks: 30_000,
            algorithm,
            futures: 0.2,
            prioritised: 0.2,
            sizes: Sizes::Pareto,
            ..Config::default()
        };
        let first = simulate(&config);
        assert_eq!(first.completed + first.refused, 30_000);
        assert_eq!(first, simulate(&config));
        assert_ne!(first, simulate(&Config { seed: 2, ..config }));
    }
}

/// CPU-19: the program prints the same bytes each time, and nothing but the report to standard output.
#[test]
fn the_program_repeats_byte_for_byte() {
    let print = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_flyball-sim"))
            .args(["--tasks", "3000", "--workers", "12"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for arguments in [
        &["--algorithm", "all"][..],
        &["--strategy", "all", "--json"],
    ] {
        let first = print(arguments);
        assert!(!first.is_empty());
        assert_eq!(first, print(arguments));
    }
}

/// Wrong usage is exit status 2, one line, and nothing on standard output.
#[test]
fn the_program_refuses_what_it_does_not_know() {
    for arguments in [
        &["--algorithm", "fifo"][..],
        &["--strategy", "luck"],
        &["--classes", "65"],
        &["--workers", "0"],
        &["--switch", "soon"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_flyball-sim"))
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            message.starts_with("flyball-sim: ") && message.lines().count() == 1,
            "{message}"
        );
    }
}

/// CPU-7 to CPU-10, CPU-12: algorithm and strategy change under load and no task is lost or run twice, with and without
/// stealing.
#[test]
fn switching_in_the_middle_loses_nothing() {
    let mut switches = Vec::new();
    for (step, strategy) in Strategy::ALL.into_iter().enumerate() {
        let after_tasks = 1_000 * (step as u64 + 1);
        switches.push(Switch {
            after_tasks,
            to: SwitchTo::Algorithm(Algorithm::ALL[step % 4]),
        });
        switches.push(Switch {
            after_tasks,
            to: SwitchTo::Strategy(strategy),
        });
    }
    for stealing in [true, false] {
        for arrivals in [Arrivals::Poisson, Arrivals::Burst, Arrivals::Backlog] {
            let report = simulate(&Config {
                arrivals,
                stealing,
                load: 1.3,
                futures: 0.3,
                prioritised: 0.3,
                rebalance_above: Some(0.25),
                faulty_workers: 0.1,
                slow_workers: 0.2,
                keys: Some(Keys {
                    count: 100,
                    cold_ns: 100_000,
                }),
                switches: switches.clone(),
                ..small()
            });
            assert_eq!(report.completed, 20_000);
        }
    }
}

/// A full queue refuses, and what was refused is counted and never runs.
#[test]
fn a_full_queue_refuses() {
    let classes = vec![
        ClassSpec::new("small").with_queue_limit(10),
        ClassSpec::new("large"),
    ];
    let report = simulate(&Config {
        classes,
        load: 3.0,
        ..small()
    });
    assert!(report.refused > 1_000);
    assert_eq!(report.completed + report.refused, 20_000);
    assert_eq!(report.classes[1].refused, 0);
}

/// CPU-11: backlogged classes get what they were promised within a point of all CPU, and equal ones alike, at 2, 8 and 64
/// classes and under the algorithms that promise shares.
#[test]
fn shares_are_kept() {
    let algorithms = [
        Algorithm::RoundRobin,
        Algorithm::Cfs,
        Algorithm::ProportionalShare,
    ];
    for algorithm in algorithms {
        for count in [2usize, 8, 64] {
            let mut classes = Config::equal_classes(count).unwrap();
            for unequal in [false, true] {
                if unequal {
                    for (index, class) in classes.iter_mut().enumerate() {
                        class.shares = 1_000 * (1 + index as u32 % 4);
                    }
                }
                let report = simulate(&Config {
                    algorithm,
                    classes: classes.clone(),
                    arrivals: Arrivals::Backlog,
                    mean_size_ns: 500_000,
                    sizes: Sizes::Fixed,
                    workers: 4,
                    tasks: 32_000,
                    ..Config::default()
                });
                let fairness = report.fairness.clone().unwrap();
                assert!(fairness.windows >= 2, "{}", report.to_text());
                assert!(fairness.worst_error_points <= 1.0, "{}", report.to_text());
                assert!(fairness.jain_min >= 0.99, "{}", report.to_text());
            }
        }
    }
}

/// CPU-11: shares hold across the groups too: a front and a back group that always have work each get what their classes were
/// promised, within a point, although the kernel would give the front group everything.
#[test]
fn shares_are_kept_between_the_groups() {
    for algorithm in [
        Algorithm::RoundRobin,
        Algorithm::Cfs,
        Algorithm::ProportionalShare,
    ] {
        for workers in [2, 8] {
            for mean_size_ns in [100_000, 1_000_000] {
                let report = simulate(&Config {
                    algorithm,
                    arrivals: Arrivals::Backlog,
                    sizes: Sizes::Fixed,
                    mean_size_ns,
                    workers,
                    tasks: u64::from(workers) * 3_500_000_000 / mean_size_ns,
                    ..Config::default()
                });
                let fairness = report.fairness.clone().unwrap();
                assert!(fairness.worst_error_points <= 1.0, "{}", report.to_text());
            }
        }
    }
}

/// CPU-8: under `priority` a class that always has work is served at least once in each stretch of the stated bound, however
/// much the others bring.
#[test]
fn nobody_starves_under_priority() {
    let size_ns = 300_000;
    let classes: Vec<ClassSpec> = (0..5)
        .map(|rank| ClassSpec::new(format!("c{rank}")).with_priority(rank))
        .collect();
    let report = simulate(&Config {
        algorithm: Algorithm::Priority,
        classes: classes.clone(),
        arrivals: Arrivals::Backlog,
        sizes: Sizes::Fixed,
        mean_size_ns: size_ns,
        workers: 2,
        tasks: 30_000,
        ..Config::default()
    });
    let top = &report.classes[4];
    assert!(top.share > 0.9, "{}", report.to_text());
    for (class, spec) in report.classes.iter().zip(&classes) {
        let turn_ns = spec.time_slice.as_nanos() as u64 + size_ns;
        let bound_ns = waiting_bound_ns(4 - spec.priority, 5, turn_ns);
        // The top class has work until the end of its tasks; until then the bound holds.
        let contended_ns = top.service_ns / 2;
        assert!(
            class.grants >= contended_ns / (bound_ns + turn_ns),
            "{}: {}",
            class.name,
            report.to_text()
        );
    }
    assert!(report.classes[0].ageing > 0);
}

/// CPU-6: front-class arrivals never wait for back-class work, however long that is.
#[test]
fn front_arrivals_take_the_cpu_from_the_back_group() {
    let classes = vec![
        ClassSpec::new("urgent").with_group(Group::Front),
        ClassSpec::new("heavy"),
    ];
    let report = simulate(&Config {
        classes,
        sizes: Sizes::Fixed,
        mean_size_ns: 10_000_000,
        load: 0.6,
        tasks: 5_000,
        ..small()
    });
    let waits = report.classes[0].wait.unwrap();
    assert!(waits.p99 < 1_000_000, "{}", report.to_text());
    assert!(report.classes[1].preemptions > 0);
}

/// CPU-12: each strategy does best what it was made for.
#[test]
fn strategies_prove_themselves() {
    let base = Config {
        workers: 24,
        tasks: 20_000,
        classes: Config::equal_classes(2).unwrap(),
        ..Config::default()
    };
    let rows = compare(&base, &Scenario::ALL, &Strategy::ALL, &mut |_| {}).unwrap();
    let report = |scenario: Scenario, strategy: Strategy| {
        let name = strategy.to_string();
        &rows
            .iter()
            .find(|row| row.scenario == scenario && row.strategy == name)
            .unwrap()
            .report
    };
    let p99 = |scenario, strategy| report(scenario, strategy).latency.unwrap().p99;
    let failed = |strategy| -> u64 {
        let classes = &report(Scenario::Faulty, strategy).classes;
        classes.iter().map(|class| class.failed_attempts).sum()
    };
    let cold = |strategy| report(Scenario::Keyed, strategy).balance.cold_starts;
    let slow_memory = |strategy| report(Scenario::Memory, strategy).balance.overcommitted;

    // Late binding balances best of all, and two choices are far better than none.
    for strategy in Strategy::ALL {
        let pull = p99(Scenario::Equal, Strategy::Pull);
        assert!(pull <= p99(Scenario::Equal, strategy), "{strategy}");
    }
    let blind = p99(Scenario::Equal, Strategy::RoundRobin);
    assert!(2 * p99(Scenario::Equal, Strategy::PowerOfTwo) < blind);
    assert!(2 * p99(Scenario::Equal, Strategy::LeastConnections) < blind);
    // Unequal workers: weights help, so does asking for the load or the run time.
    let blind = p99(Scenario::Unequal, Strategy::RoundRobin);
    for strategy in [
        Strategy::WeightedRoundRobin,
        Strategy::Weighted,
        Strategy::Adaptive,
    ] {
        assert!(2 * p99(Scenario::Unequal, strategy) < blind, "{strategy}");
    }
    // Workers that fail fast look idle to those who count tasks.
    let trapped = failed(Strategy::LeastConnections);
    assert!(10 * failed(Strategy::Health) < trapped);
    assert!(10 * failed(Strategy::Adaptive) < trapped);
    // Keys.
    assert!(4 * cold(Strategy::Affinity) < 3 * cold(Strategy::RoundRobin));
    assert!(4 * cold(Strategy::Locality) < 3 * cold(Strategy::RoundRobin));
    // Memory: who asks what is left does not hand out more than there is.
    assert_eq!(slow_memory(Strategy::ResourceAware), 0);
    assert!(slow_memory(Strategy::RoundRobin) > 1_000);
}

/// CPU-13: idle workers steal what was placed on others, which mends a blind placement.
#[test]
fn stealing_mends_a_blind_placement() {
    let config = |stealing| Config {
        strategy: Strategy::RoundRobin,
        stealing,
        load: 0.8,
        slow_workers: 0.3,
        ..small()
    };
    let (with, without) = (simulate(&config(true)), simulate(&config(false)));
    assert!(with.balance.steals > 0 && without.balance.steals == 0);
    let p99 = |report: &Report| report.latency.unwrap().p99;
    assert!(
        2 * p99(&with) < p99(&without),
        "{} {}",
        with.to_text(),
        without.to_text()
    );
}

/// CPU-13: where nobody may steal, rebalancing keeps the queues alike.
#[test]
fn rebalancing_moves_queued_work() {
    let config = |rebalance_above| Config {
        strategy: Strategy::RoundRobin,
        stealing: false,
        load: 0.8,
        slow_workers: 0.3,
        rebalance_above,
        ..small()
    };
    let (with, without) = (simulate(&config(Some(0.25))), simulate(&config(None)));
    assert!(with.balance.moved > 0 && without.balance.moved == 0);
    assert!(2.0 * with.balance.load_variance < without.balance.load_variance);
}

#[test]
fn absurd_configurations_are_refused() {
    let refused = |config: Config| match run(&config, &mut |_| {}) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{config:?} runs"),
    };
    let error = refused(Config {
        workers: 0,
        ..small()
    });
    assert_eq!(error, "workers must be 1 to 10000, not 0");
    refused(Config {
        tasks: 0,
        ..small()
    });
    refused(Config {
        load: f64::NAN,
        ..small()
    });
    refused(Config {
        load: 0.0,
        ..small()
    });
    refused(Config {
        classes: Vec::new(),
        ..small()
    });
    refused(Config {
        futures: 1.5,
        ..small()
    });
    refused(Config {
        mean_size_ns: 0,
        ..small()
    });
    let greedy = ClassSpec::new("greedy").with_guarantee(0.6);
    let twice = vec![
        greedy.clone(),
        ClassSpec {
            name: "second".into(),
            ..greedy
        },
    ];
    refused(Config {
        classes: twice,
        ..small()
    });
    let late_first = [5, 3].map(|after_tasks| Switch {
        after_tasks,
        to: SwitchTo::Strategy(Strategy::Pull),
    });
    refused(Config {
        switches: late_first.into(),
        ..small()
    });
    assert!(matches!(
        "sometimes".parse::<Arrivals>(),
        Err(Error::UnknownName { .. })
    ));
    assert!(Config::equal_classes(65).is_err());
}

/// CPU-10: a class with a ceiling gets it, no more and no less, also with tasks as long as its bucket is deep.
#[test]
fn a_ceiling_is_reached_and_kept() {
    for mean_size_ns in [1_000_000, 100_000_000] {
        let report = simulate(&Config {
            classes: vec![ClassSpec::new("capped").with_ceiling(0.5)],
            arrivals: Arrivals::Backlog,
            sizes: Sizes::Fixed,
            mean_size_ns,
            workers: 4,
            tasks: 20_000_000_000 / mean_size_ns,
            ..Config::default()
        });
        let used = report.balance.utilisation;
        assert!((0.48..=0.52).contains(&used), "{}", report.to_text());
    }
}
