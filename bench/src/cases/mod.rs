//! One module a kind of case. Each runs in a process of its own and answers with a [`Sample`].

pub mod alone;
pub mod api;
pub mod daemon;
pub mod echo;
pub mod latency;
pub mod sense;
pub mod shares;
pub mod tasks;
pub mod waking;

#[cfg(feature = "overload")]
use crate::overload::{self, ExampleLoad, OverloadLoad, PriorityLoad};
use crate::queues::{self, Op, QueueLoad};
use crate::stats::Random;
use crate::subjects::Subject;
use crate::work::Work;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What one process measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    pub metrics: BTreeMap<String, f64>,
    /// Share of the machine that others used meanwhile, company that the case asked for not counted; absent where it is
    /// not known.
    pub foreign_share: Option<f64>,
    /// Why the sample does not count, when it does not.
    pub void: Option<String>,
}

impl Sample {
    pub fn with(mut self, metric: &str, value: f64) -> Self {
        self.metrics.insert(metric.to_owned(), value);
        self
    }

    pub fn foreign(mut self, share: f64) -> Self {
        self.foreign_share = Some(share);
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    Closure,
    Future,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Origin {
    Outside,
    Inside,
    /// Every task spawns two more.
    Tree,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Arrivals {
    /// A fixed interval, each gap between half and one and a half of it.
    Jittered,
    Poisson,
}

impl Arrivals {
    /// Intended times over so many seconds, nanoseconds from the first; the same for the same arguments.
    pub fn times(self, mean_gap_ns: f64, seconds: f64) -> Vec<u64> {
        let mut random = Random::seeded(0x666c_7962_616c_6c00 ^ mean_gap_ns as u64);
        let end_ns = seconds * 1e9;
        let mut at = 0.0;
        let mut times = Vec::new();
        while at < end_ns {
            times.push(at as u64);
            at += match self {
                Arrivals::Jittered => mean_gap_ns * (0.5 + random.unit()),
                Arrivals::Poisson => random.exponential(mean_gap_ns),
            };
        }
        times
    }
}

/// A latency case: urgent arrivals over a backlog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Cores' worth of urgent work offered.
    pub front_cores: f64,
    pub front_us: f64,
    pub backlog_us: f64,
    pub refill: Origin,
    pub company: usize,
    pub arrivals: Arrivals,
    pub seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShareLoad {
    pub classes: usize,
    /// Otherwise all classes have the same shares.
    pub weighted: bool,
    pub company: usize,
    /// The back group's threads at normal priority instead of the default, SCHED_IDLE.
    pub normal_priority: bool,
    pub seconds: usize,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Facts {
    /// CPU overall and by core, load, memory, the own process.
    Basic,
    /// Pressure and control groups besides.
    All,
}

/// How the machine is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Look {
    /// Again and again.
    Hot(Facts),
    /// Each time after a pause in which the caches were overwritten.
    Cold(Facts),
    /// What a control loop needs, again and again.
    Tick,
}

/// What the pool does while the API is asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum PoolLoad {
    None,
    /// The back group's workers are never without work.
    Back,
    /// The same, and the front group has half a core's worth.
    BackAndFront,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiLoad {
    pub pool: PoolLoad,
    pub connections: usize,
    pub requests_per_s: f64,
    pub seconds: f64,
}

/// A case, as the parent hands it to the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Case {
    Spawn {
        what: What,
        body_us: f64,
        origin: Origin,
        tasks: usize,
    },
    Batch {
        size: usize,
        tasks: usize,
    },
    PingPong {
        round_trips: usize,
    },
    Yield {
        tasks: usize,
        yields: usize,
    },
    Timers {
        tasks: usize,
        seconds: f64,
    },
    Echo {
        connections: usize,
        round_trips: usize,
    },
    Latency(Load),
    Shares(ShareLoad),
    Bytes {
        captured: usize,
        tasks: usize,
    },
    Idle {
        seconds: f64,
    },
    Sense {
        look: Look,
        samples: usize,
    },
    DaemonIdle {
        program: PathBuf,
        warm_up: f64,
        seconds: f64,
    },
    DaemonReady {
        program: PathBuf,
        starts: usize,
    },
    Api(ApiLoad),
    /// Clients of a durable queue.
    Queue(QueueLoad),
    /// Adding to a long queue against adding to an empty one, so many turns of each.
    QueueGrown {
        program: PathBuf,
        queued: u64,
        turns: usize,
    },
    /// A service under more load than it can bear.
    #[cfg(feature = "overload")]
    Overload(OverloadLoad),
    /// What is urgent beside too much that is not.
    #[cfg(feature = "overload")]
    Priority(PriorityLoad),
    /// An example under more load than it can bear.
    #[cfg(feature = "overload")]
    Example(ExampleLoad),
    /// What it costs to let a call in.
    #[cfg(feature = "overload")]
    Admission {
        calls: usize,
    },
    /// Memory, disk and restarts of a queue with so many pending tasks.
    QueuePending {
        program: PathBuf,
        tasks: u64,
    },
}

fn duration(us: f64) -> String {
    if us >= 1e6 {
        format!("{}s", us / 1e6)
    } else if us >= 1e3 {
        format!("{}ms", us / 1e3)
    } else {
        format!("{us}us")
    }
}

impl Case {
    /// The name in tables and JSON; its first part is the group.
    pub fn name(&self) -> String {
        match self {
            Case::Spawn {
                what,
                body_us,
                origin,
                ..
            } => {
                let what = format!("{what:?}").to_lowercase();
                let body = if *body_us == 0.0 {
                    "empty".to_owned()
                } else {
                    duration(*body_us)
                };
                format!("{what}/{body}/{}", format!("{origin:?}").to_lowercase())
            }
            Case::Batch { size, .. } => format!("batch/{size}/outside"),
            Case::PingPong { .. } => "wake/ping-pong".to_owned(),
            Case::Yield { tasks, .. } => format!("wake/yield-{tasks}-tasks"),
            Case::Timers { tasks, .. } => format!("wake/timers-{tasks}-of-1ms"),
            Case::Echo { connections, .. } => format!("echo/{connections}"),
            Case::Latency(load) => format!(
                "latency/{}cores-of-{}/over-{}/{}{}{}",
                load.front_cores,
                duration(load.front_us),
                duration(load.backlog_us),
                format!("{:?}", load.refill).to_lowercase(),
                if load.company > 0 {
                    "/busy-neighbours"
                } else {
                    ""
                },
                if load.arrivals == Arrivals::Poisson {
                    "/poisson"
                } else {
                    ""
                },
            ),
            Case::Shares(load) => format!(
                "shares/{}-classes/{}{}{}",
                load.classes,
                if load.weighted { "weighted" } else { "equal" },
                if load.company > 0 {
                    "/busy-neighbours"
                } else {
                    ""
                },
                if load.normal_priority {
                    "/normal-priority"
                } else {
                    ""
                },
            ),
            Case::Bytes { captured, .. } => format!("bytes/captured-{captured}"),
            Case::Idle { .. } => "idle/pool".to_owned(),
            Case::Sense { look, .. } => match look {
                Look::Hot(facts) => format!("sense/hot/{}", format!("{facts:?}").to_lowercase()),
                Look::Cold(facts) => format!("sense/cold/{}", format!("{facts:?}").to_lowercase()),
                Look::Tick => "sense/tick".to_owned(),
            },
            Case::DaemonIdle { .. } => "daemon/idle".to_owned(),
            Case::DaemonReady { .. } => "daemon/ready".to_owned(),
            Case::Queue(load) => {
                let (what, batch) = match load.op {
                    Op::Enqueue { batch } => ("enqueue", batch),
                    Op::Cycle { batch } => ("cycle", batch),
                };
                format!("{what}/{}-clients/batches-of-{batch}", load.clients)
            }
            #[cfg(feature = "overload")]
            Case::Overload(load) => format!("load/{}", load.name),
            #[cfg(feature = "overload")]
            Case::Priority(load) => format!("priority/{}x-of-batch", load.times),
            #[cfg(feature = "overload")]
            Case::Example(load) => format!("example/{}/{}x", load.example.name(), load.times),
            #[cfg(feature = "overload")]
            Case::Admission { .. } => "admission/one-thread".to_owned(),
            Case::QueueGrown { queued, .. } => format!("long-queue/{queued}-tasks"),
            Case::QueuePending { tasks, .. } => format!("pending/{tasks}-tasks"),
            Case::Api(load) => format!(
                "api/{}-requests-a-second/{}",
                load.requests_per_s,
                match load.pool {
                    PoolLoad::None => "idle-pool",
                    PoolLoad::Back => "saturated",
                    PoolLoad::BackAndFront => "saturated-and-front",
                }
            ),
        }
    }

    /// How long a sample should take at most, seconds; the parent gives it this and a margin.
    pub fn expected_seconds(&self) -> f64 {
        match self {
            Case::Spawn { body_us, tasks, .. } => 5.0 + *tasks as f64 * (body_us + 10.0) / 1e6,
            Case::Timers { seconds, .. } | Case::Idle { seconds } => seconds + 5.0,
            Case::Latency(load) => load.seconds + 5.0,
            Case::Shares(load) => load.seconds as f64 + 10.0,
            Case::Sense {
                look: Look::Cold(_),
                samples,
            } => 5.0 + *samples as f64 * sense::PAUSE_SECONDS,
            Case::DaemonIdle {
                warm_up, seconds, ..
            } => 10.0 + warm_up + seconds,
            Case::DaemonReady { starts, .. } => 10.0 + *starts as f64,
            Case::Queue(load) => 30.0 + load.warm_up_s + load.seconds,
            Case::QueueGrown { turns, .. } => 20.0 + *turns as f64,
            Case::QueuePending { tasks, .. } => 20.0 + *tasks as f64 / 10_000.0,
            Case::Api(load) => 10.0 + load.seconds,
            #[cfg(feature = "overload")]
            Case::Overload(load) => load.steps.iter().fold(15.0, |all, step| all + step.1),
            #[cfg(feature = "overload")]
            Case::Priority(load) => 15.0 + 2.0 * load.seconds,
            #[cfg(feature = "overload")]
            Case::Example(load) => 15.0 + load.seconds,
            _ => 15.0,
        }
    }

    /// Runs the case on the subject, in this process.
    pub fn run(&self, subject: Subject, work: Work) -> Result<Sample> {
        match self {
            Case::Spawn {
                what,
                body_us,
                origin,
                tasks,
            } => tasks::run(subject, *what, work.iterations(*body_us), *origin, *tasks),
            Case::Batch { size, tasks } => tasks::batch(subject, *size, *tasks),
            Case::PingPong { round_trips } => waking::ping_pong(subject, *round_trips),
            Case::Yield { tasks, yields } => waking::yields(subject, *tasks, *yields),
            Case::Timers { tasks, seconds } => waking::timers(subject, *tasks, *seconds),
            Case::Echo {
                connections,
                round_trips,
            } => echo::run(subject, *connections, *round_trips),
            Case::Latency(load) => latency::run(subject, load, work),
            Case::Shares(load) => shares::run(subject, load, work),
            Case::Bytes { captured, tasks } => alone::bytes(subject, *captured, *tasks),
            Case::Idle { seconds } => alone::idle(subject, *seconds),
            Case::Sense { look, samples } => sense::run(subject, *look, *samples),
            Case::DaemonIdle {
                program,
                warm_up,
                seconds,
            } => daemon::idle(program, *warm_up, *seconds),
            Case::DaemonReady { program, starts } => daemon::ready(program, *starts),
            Case::Api(load) => api::run(load, work),
            Case::Queue(load) => queues::run(subject, load),
            #[cfg(feature = "overload")]
            Case::Overload(load) => overload::run(load, overload::limiter_of(subject)?, work),
            #[cfg(feature = "overload")]
            Case::Priority(load) => overload::priority(load, overload::limiter_of(subject)?, work),
            #[cfg(feature = "overload")]
            Case::Example(load) => overload::example::run(load, subject),
            #[cfg(feature = "overload")]
            Case::Admission { calls } => overload::admission::run(subject, *calls),
            Case::QueueGrown {
                program,
                queued,
                turns,
            } => queues::grown(program, *queued, *turns),
            Case::QueuePending { program, tasks } => queues::pending(program, *tasks),
        }
    }
}
