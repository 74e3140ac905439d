//! Which cases a campaign holds, on whom, how often.

use crate::cases::{ApiLoad, Arrivals, Case, Facts, Load, Look, Origin, PoolLoad, ShareLoad, What};
use crate::queues::{self, Op, QueueLoad};
use crate::subjects::Subject;
use std::path::Path;

/// A case, who takes part, and in how many rounds.
#[derive(Clone, Debug)]
pub struct Entry {
    pub case: Case,
    pub subjects: Vec<Subject>,
    pub rounds: usize,
}

const CLOSURES: &[Subject] = &[
    Subject::Flyball,
    Subject::Tokio,
    Subject::Rayon,
    Subject::AsyncExecutor,
    Subject::Crossbeam,
];
const FUTURES: &[Subject] = &[Subject::Flyball, Subject::Tokio, Subject::AsyncExecutor];
const TOKIO: &[Subject] = &[Subject::Flyball, Subject::Tokio];
const FLYBALL: &[Subject] = &[Subject::Flyball];
const LATENCY: &[Subject] = &[
    Subject::Flyball,
    Subject::Tokio,
    Subject::TwoTokios,
    Subject::TwoTokiosIdle,
    Subject::TwoTokiosNice10,
    Subject::AsyncExecutor,
    Subject::Threads,
];
const ORIGINS: [Origin; 3] = [Origin::Outside, Origin::Inside, Origin::Tree];

struct Plan {
    entries: Vec<Entry>,
    rounds: usize,
}

impl Plan {
    fn add(&mut self, case: Case, subjects: &[Subject]) {
        self.add_rounds(case, subjects, self.rounds);
    }

    fn add_rounds(&mut self, case: Case, subjects: &[Subject], rounds: usize) {
        let subjects = subjects
            .iter()
            .copied()
            .filter(|subject| subject.built())
            .collect();
        self.entries.push(Entry {
            case,
            subjects,
            rounds,
        });
    }
}

/// Long urgent tasks at a low load come so seldom that two seconds would hold few of them.
fn sample_seconds(front_cores: f64, front_us: f64, arrivals_wanted: f64, seconds_max: f64) -> f64 {
    let arrivals_per_second = front_cores * 1e6 / front_us;
    (arrivals_wanted / arrivals_per_second).clamp(2.0, seconds_max)
}

fn latency(plan: &mut Plan, quick: bool) {
    let load = |front_cores: f64, front_us: f64, backlog_us: f64, refill, company| Load {
        front_cores,
        front_us,
        backlog_us,
        refill,
        company,
        arrivals: Arrivals::Jittered,
        seconds: if quick {
            1.2
        } else {
            sample_seconds(front_cores, front_us, 500.0, 15.0)
        },
    };
    let few = [Origin::Outside, Origin::Inside];
    if quick {
        for (backlog_us, refill, company) in [
            (1e3, Origin::Outside, 0),
            (1e3, Origin::Inside, 0),
            (10e3, Origin::Inside, 0),
            (10e6, Origin::Inside, 0),
            (1e3, Origin::Inside, 2),
        ] {
            plan.add_rounds(
                Case::Latency(load(0.2, 200.0, backlog_us, refill, company)),
                LATENCY,
                1,
            );
        }
        return;
    }
    for company in [0, 2] {
        for backlog_us in [100.0, 1e3, 10e3, 10e6] {
            for refill in few {
                for front_cores in [0.02, 0.2, 0.5] {
                    for front_us in [20.0, 200.0, 2000.0] {
                        // Peers walk the diagonal of load and task length, flyball all of it.
                        let diagonal = [(0.02, 20.0), (0.2, 200.0), (0.5, 2000.0)]
                            .contains(&(front_cores, front_us));
                        let subjects = if diagonal { LATENCY } else { FLYBALL };
                        plan.add(
                            Case::Latency(load(front_cores, front_us, backlog_us, refill, company)),
                            subjects,
                        );
                    }
                }
            }
        }
    }
    for backlog_us in [1e3, 10e3] {
        let arrivals = Arrivals::Poisson;
        let poisson = Load {
            arrivals,
            ..load(0.2, 200.0, backlog_us, Origin::Inside, 0)
        };
        plan.add(Case::Latency(poisson), LATENCY);
    }
}

/// All cases of area `executor`; quick, they take about two minutes.
pub fn executor(quick: bool, rounds: usize) -> Vec<Entry> {
    let mut plan = Plan {
        entries: Vec::new(),
        rounds,
    };
    let scale = |full: usize, little: usize| if quick { little } else { full };

    for origin in ORIGINS {
        let tasks = scale(500_000, 150_000);
        plan.add(
            Case::Spawn {
                what: What::Closure,
                body_us: 0.0,
                origin,
                tasks,
            },
            CLOSURES,
        );
    }
    for origin in ORIGINS {
        let tasks = scale(500_000, 150_000);
        plan.add(
            Case::Spawn {
                what: What::Future,
                body_us: 0.0,
                origin,
                tasks,
            },
            FUTURES,
        );
    }
    for (body_us, tasks) in [
        (1.0, scale(300_000, 100_000)),
        (10.0, scale(60_000, 20_000)),
    ] {
        let origins = if quick { &ORIGINS[..1] } else { &ORIGINS[..] };
        for &origin in origins {
            plan.add(
                Case::Spawn {
                    what: What::Closure,
                    body_us,
                    origin,
                    tasks,
                },
                CLOSURES,
            );
        }
    }
    plan.add(
        Case::Batch {
            size: 10,
            tasks: scale(500_000, 100_000),
        },
        FLYBALL,
    );
    plan.add(
        Case::PingPong {
            round_trips: scale(100_000, 20_000),
        },
        FUTURES,
    );
    plan.add(
        Case::Yield {
            tasks: 8,
            yields: scale(200_000, 30_000),
        },
        FUTURES,
    );
    plan.add(
        Case::Timers {
            tasks: 1000,
            seconds: if quick { 0.6 } else { 3.0 },
        },
        TOKIO,
    );
    plan.add(
        Case::Echo {
            connections: 1,
            round_trips: scale(50_000, 8_000),
        },
        TOKIO,
    );
    plan.add(
        Case::Echo {
            connections: 16,
            round_trips: scale(10_000, 1_000),
        },
        TOKIO,
    );
    for captured in [8, 64] {
        if captured == 8 || !quick {
            plan.add_rounds(
                Case::Bytes {
                    captured,
                    tasks: 100_000,
                },
                CLOSURES,
                1,
            );
        }
    }
    plan.add_rounds(
        Case::Idle {
            seconds: if quick { 3.0 } else { 10.0 },
        },
        TOKIO,
        if quick { 1 } else { rounds },
    );

    let mut shares = |classes, weighted, company, normal_priority, rounds| {
        let seconds = if quick { 2 } else { 10 };
        let load = ShareLoad {
            classes,
            weighted,
            company,
            normal_priority,
            seconds,
        };
        plan.add_rounds(Case::Shares(load), FLYBALL, rounds);
    };
    if quick {
        shares(8, false, 0, false, 1);
        shares(8, true, 0, false, 1);
        shares(8, true, 2, true, 1);
    } else {
        for (company, normal_priority) in [(0, false), (2, false), (2, true)] {
            for classes in [2, 8, 64] {
                shares(classes, true, company, normal_priority, rounds);
                shares(classes, false, company, normal_priority, rounds);
            }
        }
    }
    latency(&mut plan, quick);
    plan.entries
}

/// All cases of area `sense`, those of the daemon where there is its program; quick, they take about two minutes.
pub fn sense(quick: bool, rounds: usize, program: Option<&Path>) -> Vec<Entry> {
    const ALL: &[Subject] = &[Subject::Flyball, Subject::Procfs];
    const BASIC: &[Subject] = &[
        Subject::Flyball,
        Subject::Sysinfo,
        Subject::Procfs,
        Subject::Preads,
    ];
    let mut plan = Plan {
        entries: Vec::new(),
        rounds,
    };
    let mut add = |look, samples, subjects| plan.add(Case::Sense { look, samples }, subjects);
    let (hot, cold) = if quick { (4_000, 11) } else { (20_000, 41) };
    for (facts, subjects) in [(Facts::All, ALL), (Facts::Basic, BASIC)] {
        add(Look::Hot(facts), hot, subjects);
        add(Look::Cold(facts), cold, subjects);
    }
    add(Look::Tick, if quick { 40_000 } else { 200_000 }, FLYBALL);
    if let Some(program) = program {
        let idle = Case::DaemonIdle {
            program: program.to_owned(),
            warm_up: if quick { 3.0 } else { 10.0 },
            seconds: if quick { 10.0 } else { 30.0 },
        };
        plan.add_rounds(idle, FLYBALL, if quick { 1 } else { rounds.min(5) });
        let ready = Case::DaemonReady {
            program: program.to_owned(),
            starts: 20,
        };
        plan.add_rounds(ready, FLYBALL, if quick { 1 } else { rounds });
    }
    for pool in [PoolLoad::None, PoolLoad::Back, PoolLoad::BackAndFront] {
        let load = ApiLoad {
            pool,
            connections: 8,
            requests_per_s: 1000.0,
            seconds: if quick { 4.0 } else { 20.0 },
        };
        plan.add_rounds(Case::Api(load), FLYBALL, if quick { 1 } else { rounds });
    }
    plan.entries
}

/// All cases of area `tasks`; queues that are not installed are left out, which is said.
pub fn tasks(quick: bool, rounds: usize, program: &Path) -> Vec<Entry> {
    let mut queues = vec![
        Subject::Flyball,
        Subject::FlyballSocket,
        Subject::Beanstalkd,
        Subject::Redis,
        Subject::Postgresql,
        Subject::Nats,
    ];
    queues.retain(|&queue| match queues::missing(queue) {
        Some(how) => {
            eprintln!("{} is not here and left out: {how}", queue.name());
            false
        }
        None => true,
    });
    let mut entries = Vec::new();
    // Queues are programs, flyball's, too: what this build contains does not matter.
    let mut add = |case, subjects: &[Subject], rounds| {
        let subjects = subjects.to_vec();
        entries.push(Entry {
            case,
            subjects,
            rounds,
        });
    };
    for (op, clients) in [
        (Op::Enqueue { batch: 1 }, 1),
        (Op::Enqueue { batch: 1 }, 16),
        (Op::Enqueue { batch: 1 }, 256),
        (Op::Enqueue { batch: 10 }, 256),
        (Op::Cycle { batch: 10 }, 256),
    ] {
        let load = QueueLoad {
            program: program.to_owned(),
            op,
            clients,
            warm_up_s: 0.3,
            seconds: if quick { 1.5 } else { 3.0 },
        };
        add(Case::Queue(load), &queues, rounds);
    }
    let grown = Case::QueueGrown {
        program: program.to_owned(),
        queued: 100_000,
        turns: if quick { 9 } else { 21 },
    };
    add(grown, FLYBALL, if quick { 1 } else { rounds });
    let pending = Case::QueuePending {
        program: program.to_owned(),
        tasks: 1_000_000,
    };
    add(pending, FLYBALL, if quick { 1 } else { rounds.min(3) });
    entries
}

/// All cases of area `overload`, for services of these capacities, mixed, computing, batches, and for these examples.
#[cfg(feature = "overload")]
pub fn overload(
    quick: bool,
    rounds: usize,
    capacities: [f64; 3],
    examples: &[crate::overload::Example],
) -> Vec<Entry> {
    use crate::overload::{ExampleLoad, OverloadLoad, PriorityLoad, Service};
    const LIMITERS: [Subject; 7] = [
        Subject::Flyball,
        Subject::FlyballInline,
        Subject::Nothing,
        Subject::TowerLoadShed,
        Subject::TowerAcc,
        Subject::TowerResilience,
        Subject::CongestionLimiter,
    ];
    const FIXED: [Subject; 7] = [
        Subject::Fixed2,
        Subject::Fixed3,
        Subject::Fixed4,
        Subject::Fixed6,
        Subject::Fixed8,
        Subject::Fixed12,
        Subject::Fixed16,
    ];
    let mut plan = Plan {
        entries: Vec::new(),
        rounds,
    };
    let [mixed, computing, batches] = capacities;
    let seconds = if quick { 2.0 } else { 4.0 };
    let mut load = |name: &str, service, capacity, steps: &[(f64, f64)], company, fixed: &[_]| {
        let load = OverloadLoad {
            name: name.to_owned(),
            service,
            capacity,
            steps: steps.to_vec(),
            company,
        };
        plan.add(Case::Overload(load), &[&LIMITERS[..], fixed].concat());
    };
    let wide = &FIXED[2..];
    let times = if quick {
        &[2.0, 10.0][..]
    } else {
        &[0.5, 0.8, 1.2, 2.0, 3.0, 10.0][..]
    };
    for &times in times {
        let name = format!("{times}x");
        load(&name, Service::MIXED, mixed, &[(times, seconds)], 0, wide);
    }
    if !quick {
        let steps = [(0.5, 2.0), (3.0, 2.0), (0.5, 2.0)];
        load("steps", Service::MIXED, mixed, &steps, 0, wide);
        load(
            "2x/noisy-neighbour",
            Service::MIXED,
            mixed,
            &[(2.0, seconds)],
            1,
            wide,
        );
        let close = &FIXED[..5];
        load(
            "3x/computing",
            Service::COMPUTING,
            computing,
            &[(3.0, seconds)],
            0,
            close,
        );
    }
    let priority = PriorityLoad {
        capacity: batches,
        times: 10.0,
        pages_per_s: 50.0,
        seconds: if quick { 3.0 } else { 6.0 },
    };
    plan.add(
        Case::Priority(priority),
        &[
            Subject::Flyball,
            Subject::FlyballInline,
            Subject::Nothing,
            Subject::TowerLoadShed,
        ],
    );
    let times = if quick {
        &[3.0][..]
    } else {
        &[0.8, 3.0, 10.0][..]
    };
    for example in examples {
        for &times in times {
            let load = ExampleLoad {
                example: example.clone(),
                times,
                seconds,
            };
            plan.add(Case::Example(load), &[Subject::Flyball, Subject::Nothing]);
        }
    }
    plan.add(
        Case::Admission { calls: 1_500_000 },
        &[
            Subject::Flyball,
            Subject::Tokio,
            Subject::CongestionLimiter,
            Subject::TowerAcc,
            Subject::TowerResilience,
        ],
    );
    plan.entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[cfg(feature = "overload")]
    fn examples() -> [crate::overload::Example; 2] {
        use crate::overload::{Example, Protocol};
        [Protocol::Http, Protocol::Grpc].map(|protocol| Example {
            program: "example".into(),
            protocol,
            capacity: 432.1,
        })
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let cases = [
            (false, 0),
            (true, 0),
            (false, 1),
            (true, 1),
            (true, 2),
            (false, 3),
            (true, 3),
        ];
        for (quick, area) in cases {
            let entries = match area {
                0 => executor(quick, 3),
                #[cfg(feature = "overload")]
                3 => overload(quick, 3, [100.0; 3], &examples()),
                2 => tasks(quick, 3, Path::new("flyball")),
                _ => sense(quick, 3, Some(Path::new("flyball"))),
            };
            let names: BTreeSet<String> = entries.iter().map(|entry| entry.case.name()).collect();
            assert_eq!(names.len(), entries.len());
        }
    }

    #[test]
    fn the_full_campaign_covers_every_combination_of_latency() {
        let latency = |entry: &&Entry| entry.case.name().starts_with("latency/");
        assert_eq!(
            executor(false, 3).iter().filter(latency).count(),
            3 * 3 * 4 * 2 * 2 + 2
        );
    }

    #[test]
    fn cases_survive_the_way_to_the_child() {
        let program = Some(Path::new("flyball"));
        let tasks = tasks(false, 3, Path::new("flyball"));
        #[cfg(feature = "overload")]
        let overload = overload(false, 3, [123.4; 3], &examples());
        #[cfg(not(feature = "overload"))]
        let overload = Vec::new();
        for entry in [
            executor(false, 3),
            sense(false, 3, program),
            tasks,
            overload,
        ]
        .concat()
        {
            let text = serde_json::to_string(&entry.case).unwrap();
            assert_eq!(serde_json::from_str::<Case>(&text).unwrap(), entry.case);
        }
    }
}
