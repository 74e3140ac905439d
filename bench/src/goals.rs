//! What flyball wants to reach, a line each: a floor that it must, an aim beyond it.

use crate::report::Row;

/// A bound on the median of flyball's rows of some cases.
pub struct Goal {
    area: &'static str,
    /// The case starts with this …
    prefix: &'static str,
    /// … and contains all of these …
    contains: &'static [&'static str],
    /// … and none of these.
    lacks: &'static [&'static str],
    metric: &'static str,
    pub at_least: bool,
    /// What must be reached; absent where there is only an aim.
    pub floor: Option<f64>,
    pub aim: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Aim,
    /// There is no floor, and the aim was not reached.
    AimMissed,
    Floor,
    /// Missed by the median, reached by some rounds.
    WithinRange,
    Missed,
}

impl Goal {
    pub fn concerns(&self, row: &Row) -> bool {
        row.subject == "flyball"
            && row.metric == self.metric
            && row.case.starts_with(self.prefix)
            && self.contains.iter().all(|part| row.case.contains(part))
            && !self.lacks.iter().any(|part| row.case.contains(part))
    }

    pub fn judge(&self, row: &Row) -> Verdict {
        let reaches = |value: f64, bound: f64| {
            if self.at_least {
                value >= bound
            } else {
                value <= bound
            }
        };
        let best = if self.at_least { row.high } else { row.low };
        match (self.aim, self.floor) {
            (Some(aim), _) if reaches(row.median, aim) => Verdict::Aim,
            (_, None) => Verdict::AimMissed,
            (_, Some(floor)) if reaches(row.median, floor) => Verdict::Floor,
            (_, Some(floor)) if row.runs > 1 && reaches(best, floor) => Verdict::WithinRange,
            _ => Verdict::Missed,
        }
    }
}

const fn at_least(
    prefix: &'static str,
    metric: &'static str,
    floor: f64,
    aim: Option<f64>,
) -> Goal {
    Goal {
        area: "executor",
        prefix,
        contains: &[],
        lacks: &[],
        metric,
        at_least: true,
        floor: Some(floor),
        aim,
    }
}

const fn at_most(prefix: &'static str, metric: &'static str, floor: f64, aim: Option<f64>) -> Goal {
    Goal {
        at_least: false,
        ..at_least(prefix, metric, floor, aim)
    }
}

/// Only an aim.
const fn aim_at_least(prefix: &'static str, metric: &'static str, aim: f64) -> Goal {
    Goal {
        floor: None,
        ..at_least(prefix, metric, 0.0, Some(aim))
    }
}

/// Cases of area `overload` in which all that comes can be served, or most of it.
const SERVED: &[&str] = &["0.5x", "0.8x", "1.2x"];

const GOALS: &[Goal] = &[
    // A task must cost a fraction of tokio's, and no more than rayon's.
    at_least(
        "closure/empty/outside",
        "ns_per_task vs tokio",
        2.0,
        Some(5.0),
    ),
    at_least(
        "closure/empty/inside",
        "ns_per_task vs tokio",
        2.0,
        Some(5.0),
    ),
    at_least(
        "closure/empty/outside",
        "ns_per_task vs rayon",
        1.0,
        Some(1.5),
    ),
    at_least("closure/empty/tree", "ns_per_task vs rayon", 0.7, Some(1.0)),
    at_least("future/empty/", "ns_per_task vs tokio", 1.5, Some(3.0)),
    at_least("closure/1us/", "ns_per_task vs tokio", 1.0, None),
    at_least("closure/10us/", "ns_per_task vs tokio", 1.0, None),
    at_most("batch/10/", "ratio_to_single", 0.8, None),
    // Waking is never dearer than tokio's, sockets at most half as dear again.
    at_least("wake/ping-pong", "ns_per_round_trip vs tokio", 1.0, None),
    at_least("wake/yield", "ns_per_yield vs tokio", 1.0, None),
    at_least("wake/timers", "wakeups_per_s vs tokio", 1.0, None),
    at_least("echo/", "rtt_p50_us vs tokio", 1.0 / 1.5, Some(1.0)),
    // Urgent work waits under a millisecond whatever the backlog is. Poisson arrivals queue behind each other at any
    // scheduler, so they are shown and not judged.
    Goal {
        lacks: &["poisson"],
        ..at_most("latency/", "p99_us", 1000.0, Some(400.0))
    },
    Goal {
        lacks: &["poisson"],
        ..aim_at_least("latency/", "p99_us vs two-tokios", 1.0)
    },
    Goal {
        lacks: &["poisson"],
        ..aim_at_least("latency/", "p99_us vs two-tokios-idle", 1.0)
    },
    Goal {
        lacks: &["poisson"],
        ..aim_at_least("latency/", "p99_us vs two-tokios-nice10", 1.0)
    },
    Goal {
        contains: &["/over-1ms/"],
        lacks: &["poisson", "busy"],
        ..at_least("latency/", "p99_us vs tokio", 100.0, None)
    },
    Goal {
        contains: &["/over-10ms/"],
        lacks: &["poisson", "busy"],
        ..at_least("latency/", "p99_us vs tokio", 100.0, None)
    },
    Goal {
        lacks: &["poisson"],
        ..at_least("latency/", "backlog_of_left vs threads", 0.97, None)
    },
    // (Bare threads are what the CPU gives: they take the error of the calibration out of the figure.)
    // CPU time is what the shares promise, second by second. Where neighbours take nearly everything from threads under
    // SCHED_IDLE, a second holds a handful of tasks, and points of what was received would judge single tasks: there the
    // measure is the machine.
    at_most("shares/", "worst_error_points_of_machine", 1.0, None),
    Goal {
        lacks: &["busy"],
        ..at_most("shares/", "worst_error_points", 1.0, None)
    },
    Goal {
        contains: &["/normal-priority"],
        ..at_most("shares/", "worst_error_points", 1.0, None)
    },
    Goal {
        contains: &["/equal"],
        ..at_least("shares/", "jain", 0.99, None)
    },
    at_most("bytes/", "bytes_beyond_captures", 256.0, None),
    at_most("idle/", "idle_ticks", 0.0, None),
    Goal {
        area: "run",
        ..at_least("run/", "commands_per_s vs xargs", 0.9, Some(1.2))
    },
    Goal {
        area: "run",
        lacks: &["bounded"],
        ..at_least("run/", "commands_per_s vs parallel", 5.0, None)
    },
    Goal {
        area: "run",
        contains: &["bounded"],
        ..at_least("run/", "commands_per_s vs parallel", 20.0, Some(80.0))
    },
    // As fast as without, within what samples differ by.
    Goal {
        area: "run",
        ..at_least("run/", "commands_per_s vs nothing-held", 0.97, None)
    },
    // The kernel's part of a sample cannot be had cheaper; the rest must stay small beside it. After a pause everything is
    // dearer, and most of all what walks through much memory.
    Goal {
        area: "sense",
        ..at_most("sense/hot", "us_per_sample", 40.0, None)
    },
    Goal {
        area: "sense",
        ..aim_at_least("sense/hot/basic", "us_per_sample vs preads", 0.9)
    },
    Goal {
        area: "sense",
        ..at_most("sense/tick", "us_per_sample", 2.0, None)
    },
    Goal {
        area: "sense",
        ..at_least("sense/cold", "us_per_sample vs sysinfo", 6.0, None)
    },
    Goal {
        area: "sense",
        ..at_most("sense/", "allocations_per_sample", 0.0, None)
    },
    // The daemon is on every machine all the time: nobody may notice it. A core has a thousand thousandths; it takes less than
    // one. Its API answers before a person notices, however busy the workers are.
    Goal {
        area: "sense",
        ..at_most("daemon/idle", "cpu_percent", 0.1, None)
    },
    Goal {
        area: "sense",
        ..at_most("daemon/idle", "resident_mb", 20.0, None)
    },
    Goal {
        area: "sense",
        ..at_most("daemon/ready", "ready_ms", 100.0, None)
    },
    Goal {
        area: "sense",
        ..at_most("api/", "p99_us", 10_000.0, None)
    },
    // Accepted means on disk, over HTTP as over leaner protocols: what one client waits for is the disk, what many get is what is
    // shared of a sync. A floor a count of clients.
    Goal {
        area: "tasks",
        ..at_least(
            "enqueue/1-clients/",
            "enqueues_per_s vs beanstalkd",
            0.5,
            Some(0.7),
        )
    },
    Goal {
        area: "tasks",
        ..at_least(
            "enqueue/16-clients/",
            "enqueues_per_s vs beanstalkd",
            4.0,
            Some(5.0),
        )
    },
    Goal {
        area: "tasks",
        lacks: &["batches-of-10"],
        ..at_least(
            "enqueue/256-clients/batches-of-1",
            "enqueues_per_s vs beanstalkd",
            8.0,
            Some(10.0),
        )
    },
    Goal {
        area: "tasks",
        lacks: &["batches-of-10"],
        ..aim_at_least(
            "enqueue/256-clients/batches-of-1",
            "enqueues_per_s vs redis",
            0.8,
        )
    },
    Goal {
        area: "tasks",
        ..at_least(
            "enqueue/256-clients/batches-of-10",
            "enqueues_per_s vs redis",
            2.0,
            Some(3.0),
        )
    },
    Goal {
        area: "tasks",
        ..at_least(
            "cycle/256-clients/batches-of-10",
            "cycles_per_s vs postgresql",
            1.0,
            Some(2.0),
        )
    },
    Goal {
        area: "tasks",
        ..at_least(
            "cycle/256-clients/batches-of-10",
            "cycles_per_s vs nats",
            15.0,
            None,
        )
    },
    // No path walks through the queue, and a restart reads what it needs first.
    Goal {
        area: "tasks",
        ..at_most("long-queue/", "grown_ratio", 1.2, None)
    },
    Goal {
        area: "tasks",
        ..at_most("pending/", "ready_ms", 1000.0, None)
    },
    Goal {
        area: "tasks",
        ..at_most("pending/", "ready_after_kill_ms", 1000.0, None)
    },
    // Under overload a service does nearly all that it could with the best limit there is, and more than behind any other limiter; what is urgent does not
    // notice; and the decision costs next to nothing.
    Goal {
        area: "overload",
        lacks: SERVED,
        ..at_least("load/", "goodput_per_s vs oracle", 0.95, None)
    },
    Goal {
        area: "overload",
        lacks: SERVED,
        ..at_least("load/", "goodput_per_s vs nothing", 1.0, None)
    },
    Goal {
        area: "overload",
        lacks: SERVED,
        ..at_least("load/", "goodput_per_s vs tower-load-shed", 1.0, None)
    },
    Goal {
        area: "overload",
        lacks: SERVED,
        ..at_least("load/", "goodput_per_s vs tower-acc", 1.0, None)
    },
    Goal {
        area: "overload",
        lacks: SERVED,
        ..at_least("load/", "goodput_per_s vs tower-resilience", 1.0, None)
    },
    Goal {
        area: "overload",
        lacks: SERVED,
        ..at_least("load/", "goodput_per_s vs congestion-limiter", 1.0, None)
    },
    Goal {
        area: "overload",
        ..at_most("load/0.8x", "refused_share", 0.005, None)
    },
    Goal {
        area: "overload",
        lacks: SERVED,
        ..at_least("example/", "goodput_per_s vs nothing", 1.0, None)
    },
    Goal {
        area: "overload",
        contains: &["/0.8x"],
        ..at_most("example/", "refused_share", 0.005, None)
    },
    Goal {
        area: "overload",
        ..at_most("priority/", "p99_of_bound", 1.0, None)
    },
    Goal {
        area: "overload",
        ..at_least(
            "admission/",
            "ns_per_admission vs congestion-limiter",
            5.0,
            None,
        )
    },
    Goal {
        area: "sim",
        ..at_least("sim/", "tasks_per_s", 1e6, None)
    },
    // Sizing by offered work leaves less unserved than utilisation does, and is cheaper; also on loads that no constant was chosen on.
    Goal {
        area: "sim",
        ..at_most("load/all", "unserved_of_kubernetes", 0.7, None)
    },
    Goal {
        area: "sim",
        ..at_most("load/all", "paid_of_kubernetes", 0.9, None)
    },
    Goal {
        area: "sim",
        ..at_most("load/held-out", "unserved_of_kubernetes", 0.7, None)
    },
    Goal {
        area: "sim",
        ..at_most("load/held-out", "paid_of_kubernetes", 0.9, None)
    },
    // Adaptive sizing finds the best fixed size, in the simulator and on threads: there the lower end of the interval counts.
    Goal {
        area: "sim",
        ..at_least("climb/", "found_of_best", 0.95, None)
    },
    Goal {
        area: "sizing",
        ..at_least("threads/", "adaptive_of_best_at_least", 0.95, None)
    },
    // Late binding is nearly an ideal central queue, and twice as good as the best that decides when tasks arrive.
    Goal {
        area: "sim",
        ..at_least("dispatch/", "p99_ms vs ideal", 1.0 / 1.1, None)
    },
    Goal {
        area: "sim",
        ..at_least("dispatch/", "p99_ms vs p2c_peak_ewma", 2.0, None)
    },
    // A limit that finds itself is nearly as good as the best one that could have been chosen.
    Goal {
        area: "sim",
        ..at_least("limits/", "goodput_worst", 0.95, None)
    },
    Goal {
        area: "sim",
        ..at_least("limits/", "goodput_median", 0.995, None)
    },
    Goal {
        area: "sim",
        ..at_most("limits/", "p99_ratio_at_2x", 1.15, None)
    },
    Goal {
        area: "sim",
        ..at_most("limits/", "converged_s", 2.0, None)
    },
    Goal {
        area: "sim",
        ..at_most("limits/", "refused_at_0.8x", 0.005, None)
    },
];

/// The goals of an area.
pub fn of_area(area: &str) -> impl Iterator<Item = &'static Goal> {
    GOALS.iter().filter(move |goal| goal.area == area)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, metric: &str, low: f64, median: f64, high: f64) -> Row {
        let (subject, unit) = ("flyball".to_owned(), String::new());
        Row {
            case: case.into(),
            subject,
            metric: metric.into(),
            unit,
            median,
            low,
            high,
            runs: 3,
        }
    }

    #[test]
    fn verdicts() {
        let goal = at_least("closure/", "x", 2.0, Some(5.0));
        let judge = |low, median, high| goal.judge(&row("closure/a", "x", low, median, high));
        assert_eq!(judge(4.0, 5.0, 6.0), Verdict::Aim);
        assert_eq!(judge(1.0, 2.0, 6.0), Verdict::Floor);
        assert_eq!(judge(1.0, 1.9, 2.1), Verdict::WithinRange);
        assert_eq!(judge(1.0, 1.5, 1.9), Verdict::Missed);
        let goal = at_most("bytes/", "x", 256.0, None);
        assert_eq!(
            goal.judge(&row("bytes/8", "x", 250.0, 260.0, 270.0)),
            Verdict::WithinRange
        );
    }

    #[test]
    fn poisson_and_company_are_not_held_to_a_hundred_times_tokio() {
        let concerned = |case| {
            of_area("executor")
                .filter(|goal| goal.concerns(&row(case, "p99_us vs tokio", 1.0, 1.0, 1.0)))
                .count()
        };
        assert_eq!(concerned("latency/0.2cores-of-200us/over-1ms/inside"), 1);
        assert_eq!(
            concerned("latency/0.2cores-of-200us/over-1ms/inside/poisson"),
            0
        );
        assert_eq!(concerned("latency/0.2cores-of-200us/over-100us/inside"), 0);
    }
}
