//! A service under more load than it can bear, behind flyball's gate and behind other limiters.
//!
//! The service is a process of its own ([`service`]); this one is the load ([`generator`]), open loop. What counts is goodput: answers of 200 within
//! [`GOOD_NS`] of the time at which the request was meant, a second. The oracle is the best fixed limit, found by trying them, with the same queue as
//! flyball's. The examples for axum and tonic are such services too ([`example`]).

pub mod admission;
pub mod example;
mod generator;
mod grpc;
pub mod service;

use crate::cases::Sample;
use crate::machine::{Company, Window};
use crate::process::{Program, Use};
use crate::report::Rounds;
use crate::stats::{Random, median, quantile};
use crate::subjects::Subject;
use crate::sys;
use crate::work::Work;
use anyhow::{Context, Result, bail, ensure};
pub use example::{Example, ExampleLoad, Protocol};
use generator::{Fate, Fates, Generator, Meant};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::net::SocketAddrV4;
use std::process::{Command, Stdio};

/// An answer is good within this time, which is also what flyball assumes of callers that say nothing.
pub const GOOD_NS: u64 = 250_000_000;
/// The generator's own lag at p99 above which a sample does not count.
const LAG_MAX_NS: u64 = 1_000_000;
/// The part of the machine that others may use before a sample does not count: the service would have had less than the load assumes.
const FOREIGN_MAX: f64 = 0.15;
/// The limit of tower's own layer: about the best of the fixed limits for the mixed service, which a user has to find.
const TOWER_LIMIT: u32 = 8;
/// Alone, what is urgent takes what it computes. Where its p99 is beyond so many times its median, others were in the way, and the sample does not count: it
/// would have a bound that nobody can miss.
const IDLE_P99_MAX: f64 = 2.0;
/// What limiters have to find their limits before what counts.
const WARM_UP_S: f64 = 2.0;

/// What stands before the service.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Limiter {
    Nothing,
    /// flyball's gate, and its executor for what handlers compute.
    Flyball,
    /// The gate alone, before handlers that compute where they are, as before those of the others.
    FlyballInline,
    /// flyball's queue with a limit that never changes.
    Fixed(u32),
    /// tower's load shed and concurrency limit.
    Tower(u32),
    TowerAcc,
    TowerResilience,
    Congestion,
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Page = 0,
    Report = 1,
    Batch = 2,
}

pub const KINDS: [Kind; 3] = [Kind::Page, Kind::Report, Kind::Batch];

impl Kind {
    pub fn path(self) -> &'static str {
        match self {
            Kind::Page => "/page",
            Kind::Report => "/report",
            Kind::Batch => "/batch",
        }
    }
}

/// What requests are like, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Microseconds that they wait for something else, and of CPU.
    pub costs: [(f64, f64); 3],
    /// Parts of what is offered.
    pub mix: [f64; 3],
}

impl Service {
    /// Most requests are short, some take several times as long, and all wait for a database as long as they compute.
    pub const MIXED: Self = Service {
        costs: [(8e3, 8e3), (20e3, 20e3), (0.0, 0.0)],
        mix: [0.8, 0.2, 0.0],
    };
    /// The same, without a database.
    pub const COMPUTING: Self = Service {
        costs: [(0.0, 8e3), (0.0, 20e3), (0.0, 0.0)],
        mix: [0.8, 0.2, 0.0],
    };
    /// Batches, beside which pages of 2 ms come.
    pub const BATCHES: Self = Service {
        costs: [(0.0, 2e3), (0.0, 0.0), (8e3, 16e3)],
        mix: [0.0, 0.0, 1.0],
    };

    fn draw(&self, random: &mut Random) -> Kind {
        let mut left = random.unit();
        for kind in KINDS {
            left -= self.mix[kind as usize];
            if left < 0.0 {
                return kind;
            }
        }
        Kind::Page
    }
}

/// The limiter that a subject is.
pub fn limiter_of(subject: Subject) -> Result<Limiter> {
    Ok(match subject {
        Subject::Nothing => Limiter::Nothing,
        Subject::Flyball => Limiter::Flyball,
        Subject::FlyballInline => Limiter::FlyballInline,
        Subject::TowerLoadShed => Limiter::Tower(TOWER_LIMIT),
        Subject::TowerAcc => Limiter::TowerAcc,
        Subject::TowerResilience => Limiter::TowerResilience,
        Subject::CongestionLimiter => Limiter::Congestion,
        Subject::Fixed2 => Limiter::Fixed(2),
        Subject::Fixed3 => Limiter::Fixed(3),
        Subject::Fixed4 => Limiter::Fixed(4),
        Subject::Fixed6 => Limiter::Fixed(6),
        Subject::Fixed8 => Limiter::Fixed(8),
        Subject::Fixed12 => Limiter::Fixed(12),
        Subject::Fixed16 => Limiter::Fixed(16),
        other => bail!("{} limits nothing", other.name()),
    })
}

/// Puts among the rounds of a case those of the best fixed limit, by the median of its goodput.
pub fn add_oracle(rounds: &mut Rounds) {
    let goodput = |samples: &[Option<Sample>]| {
        let values = samples.iter().flatten();
        let values: Vec<f64> = values
            .filter_map(|sample| sample.metrics.get("goodput_per_s").copied())
            .collect();
        median(&values)
    };
    let fixed = rounds
        .iter()
        .filter_map(|(name, samples)| {
            Some((name.strip_prefix("fixed")?.parse::<u32>().ok()?, samples))
        })
        .filter(|(_, samples)| goodput(samples).is_finite());
    let best = fixed.max_by(|one, other| goodput(one.1).total_cmp(&goodput(other.1)));
    if let Some((limit, samples)) = best {
        let samples = samples.iter().cloned();
        let samples = samples.map(|sample| Some(sample?.with("limit", f64::from(limit))));
        let samples = samples.collect();
        rounds.insert("oracle".to_owned(), samples);
    }
}

/// What is offered, in multiples of capacity, for so many seconds each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverloadLoad {
    /// How it is called.
    pub name: String,
    pub service: Service,
    /// Requests a second that the service can answer.
    pub capacity: f64,
    /// (multiple, seconds).
    pub steps: Vec<(f64, f64)>,
    /// Busy processes beside.
    pub company: usize,
}

/// Urgent requests beside as many batches as ten times the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriorityLoad {
    /// Batches a second that the service can answer.
    pub capacity: f64,
    pub times: f64,
    /// Urgent requests a second.
    pub pages_per_s: f64,
    /// Without batches, and again with them.
    pub seconds: f64,
}

/// The generator's tick, where milliseconds count and where parts of them do.
const TICK_NS: u64 = 500_000;
const FINE_TICK_NS: u64 = 250_000;

struct Served {
    program: Program,
    address: SocketAddrV4,
}

fn start(service: &Service, limiter: Limiter, work: Work) -> Result<Served> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["service", "--limiter", &serde_json::to_string(&limiter)?])
        .args(["--service", &serde_json::to_string(service)?])
        .args(["--per-us", &work.per_us().to_string()]);
    serving(&mut command)
}

/// Starts a program that tells its address by a line.
fn serving(command: &mut Command) -> Result<Served> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut program = Program::start(command)?;
    let output = program
        .child()
        .stdout
        .take()
        .context("its output is piped")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line
        .trim()
        .parse()
        .with_context(|| format!("its address {line:?}"))?;
    Ok(Served { program, address })
}

/// Poisson arrivals by steps.
fn arrivals(
    service: &Service,
    steps: &[(f64, f64)],
    capacity: f64,
    random: &mut Random,
) -> Vec<Meant> {
    let mut meant = Vec::new();
    let (mut at, mut end) = (0.0, 0.0);
    for &(multiple, seconds) in steps {
        end += seconds * 1e9;
        if multiple <= 0.0 {
            at = end;
            continue;
        }
        let gap = 1e9 / (capacity * multiple);
        loop {
            at += random.exponential(gap);
            if at >= end {
                at = end;
                break;
            }
            meant.push(Meant {
                at: at as u64,
                kind: service.draw(random) as u8,
            });
        }
    }
    meant
}

/// Requests a second that a service without a limiter answers to sixteen clients who never rest.
fn capacity(service: Service, address: SocketAddrV4) -> Result<f64> {
    let mut random = Random::seeded(7);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let mut random = Random::seeded(random.next());
            std::thread::spawn(move || -> Result<u64> {
                let mut stream = std::net::TcpStream::connect(address)?;
                let (begun, mut done) = (sys::now_ns(), 0);
                loop {
                    let kind = service.draw(&mut random);
                    let answer = crate::http::exchange(&mut stream, kind.path())?;
                    ensure!(answer == 200, "the service answers {answer}");
                    let passed = sys::now_ns() - begun;
                    if passed > 3_000_000_000 {
                        return Ok(done);
                    }
                    done += u64::from(passed > 500_000_000);
                }
            })
        })
        .collect();
    let mut done = 0;
    for client in clients {
        done += client.join().expect("a client does not panic")?;
    }
    Ok(done as f64 / 2.5)
}

/// Those of the three services.
pub fn capacities(work: Work) -> Result<[f64; 3]> {
    let mut found = [0.0; 3];
    let services = [Service::MIXED, Service::COMPUTING, Service::BATCHES];
    for (found, service) in found.iter_mut().zip(services) {
        let served = start(&service, Limiter::Nothing, work)?;
        *found = capacity(service, served.address)?;
        eprintln!("a service can answer {found:.0} requests a second");
    }
    Ok(found)
}

fn ms(sorted: &[u64], q: f64) -> f64 {
    quantile(sorted, q) as f64 / 1e6
}

struct Counts {
    good: usize,
    refused: usize,
    late: usize,
    all: usize,
    /// Of what was served, sorted.
    latencies: Vec<u64>,
}

fn count<'a>(fates: impl Iterator<Item = &'a Fate>) -> Counts {
    let mut counts = Counts {
        good: 0,
        refused: 0,
        late: 0,
        all: 0,
        latencies: Vec::new(),
    };
    for fate in fates {
        counts.all += 1;
        match *fate {
            Fate::Served(took) => {
                counts.latencies.push(took);
                counts.good += usize::from(took <= GOOD_NS);
                counts.late += usize::from(took > GOOD_NS);
            }
            Fate::Refused(_) => counts.refused += 1,
            Fate::Lost => counts.late += 1,
        }
    }
    counts.latencies.sort_unstable();
    counts
}

/// What a load did to a service.
struct Seen {
    meant: Vec<Meant>,
    fates: Fates,
    server_cores: f64,
    foreign: f64,
}

impl Seen {
    /// Of requests that were meant between two times, seconds.
    fn between(&self, from: f64, to: f64, wanted: impl Fn(u8) -> bool) -> Counts {
        let (from, to) = ((from * 1e9) as u64, (to * 1e9) as u64);
        let fates = self.meant.iter().zip(&self.fates.fates);
        let counted =
            fates.filter(|(meant, _)| (from..to).contains(&meant.at) && wanted(meant.kind));
        count(counted.map(|(_, fate)| fate))
    }

    /// What a sample says of the generator and of the machine. One that others disturbed does not count if the service should have had all of it.
    fn sample(&self, all: bool) -> Sample {
        let lag_us = quantile(&self.fates.lags, 0.99) as f64 / 1e3;
        let mut sample = Sample::default()
            .with("generator_lag_p99_us", lag_us)
            .with(
                "generator_cores",
                self.fates.cpu_ns as f64 / self.fates.wall_ns as f64,
            )
            .with("server_cores", self.server_cores)
            .with("connections", self.fates.connections as f64)
            .with("unsent", self.fates.unsent as f64)
            .foreign(self.foreign);
        if lag_us * 1e3 > LAG_MAX_NS as f64 {
            sample.void = Some(format!(
                "the generator itself was {lag_us:.0} us late at p99"
            ));
        } else if all && self.foreign > FOREIGN_MAX {
            sample.void = Some(format!(
                "others used {:.0} % of the machine",
                100.0 * self.foreign
            ));
        }
        sample
    }

    /// What the sample says of so many seconds after the first.
    fn goodput(&self, all: bool, seconds: f64) -> Sample {
        let counts = self.between(WARM_UP_S, WARM_UP_S + seconds, |_| true);
        let offered = counts.all.max(1) as f64;
        self.sample(all)
            .with("goodput_per_s", counts.good as f64 / seconds)
            .with("accepted_p50_ms", ms(&counts.latencies, 0.5))
            .with("accepted_p99_ms", ms(&counts.latencies, 0.99))
            .with("refused_share", counts.refused as f64 / offered)
            .with("late_share", counts.late as f64 / offered)
    }
}

/// Offers the load by a client and looks at what becomes of it.
fn offer(
    mut served: Served,
    meant: Vec<Meant>,
    company: &Company,
    client: impl FnOnce(SocketAddrV4, &[Meant]) -> Result<Fates> + Send + 'static,
) -> Result<Seen> {
    let pid = served.program.id();
    let address = served.address;
    let window = Window::open(company);
    let before = Use::of(pid)?;
    // A thread of its own, so that what this process starts later would not inherit its priority.
    let generator = std::thread::spawn(move || -> Result<_> {
        sys::become_instrument();
        let fates = client(address, &meant)?;
        Ok((meant, fates))
    });
    let (meant, fates) = generator.join().expect("the generator does not panic")?;
    let used = Use::of(pid)?.since(&before);
    let seen = window.close();
    served.program.check()?;
    let machine_ns = seen.wall_ns * sys::cpus() as f64;
    Ok(Seen {
        meant,
        fates,
        server_cores: used.cpu_ns as f64 / seen.wall_ns,
        foreign: ((seen.others_ns - used.cpu_ns as f64) / machine_ns).max(0.0),
    })
}

/// The client of most services, which looks at its schedule once a tick.
fn over_http(tick_ns: u64) -> impl FnOnce(SocketAddrV4, &[Meant]) -> Result<Fates> + Send {
    move |address, meant| Generator::connect(address, &KINDS.map(Kind::path), tick_ns)?.run(meant)
}

/// Goodput under a load.
pub fn run(load: &OverloadLoad, limiter: Limiter, work: Work) -> Result<Sample> {
    let served = start(&load.service, limiter, work)?;
    let company = Company::start(load.company)?;
    let first = load.steps.first().map_or(1.0, |step| step.0);
    let mut steps = vec![(first, WARM_UP_S)];
    steps.extend_from_slice(&load.steps);
    let mut random = Random::seeded(sys::now_ns());
    let meant = arrivals(&load.service, &steps, load.capacity, &mut random);

    let seen = offer(served, meant, &company, over_http(TICK_NS))?;
    let seconds: f64 = load.steps.iter().map(|step| step.1).sum();
    Ok(seen.goodput(first >= 1.0, seconds))
}

/// Latency of what is urgent, at first alone, then beside batches.
pub fn priority(load: &PriorityLoad, limiter: Limiter, work: Work) -> Result<Sample> {
    let service = Service::BATCHES;
    let served = start(&service, limiter, work)?;
    let mut random = Random::seeded(sys::now_ns());
    let (idle_from, idle_to) = (1.0, 1.0 + load.seconds);
    let (from, to) = (idle_to + WARM_UP_S, idle_to + WARM_UP_S + load.seconds);
    let steps = [(0.0, idle_to), (load.times, to - idle_to)];
    let mut meant = arrivals(&service, &steps, load.capacity, &mut random);
    let pages = crate::cases::Arrivals::Jittered.times(1e9 / load.pages_per_s, to);
    let page = Kind::Page as u8;
    meant.extend(pages.into_iter().map(|at| Meant { at, kind: page }));
    meant.sort_by_key(|meant| meant.at);
    let seen = offer(served, meant, &Company::none(), over_http(FINE_TICK_NS))?;
    let idle = seen.between(idle_from, idle_to, |kind| kind == page);
    let busy = seen.between(from, to, |kind| kind == page);
    let batches = seen.between(from, to, |kind| kind != page);
    let (idle_p50, idle_p99) = (ms(&idle.latencies, 0.5), ms(&idle.latencies, 0.99));
    let p99 = ms(&busy.latencies, 0.99);
    // A page that was refused or lost has no latency, and counts as having none that is good.
    let p99 = if (busy.refused + busy.late) * 100 > busy.all {
        generator::GIVE_UP_NS as f64 / 1e6
    } else {
        p99
    };
    let mut sample = seen.sample(false);
    if sample.void.is_none() && idle_p99 > IDLE_P99_MAX * idle_p50 {
        sample.void = Some(format!(
            "alone, p99 was {idle_p99:.1} ms with a median of {idle_p50:.1} ms: not idle"
        ));
    }
    Ok(sample
        .with("idle_p50_ms", idle_p50)
        .with("idle_p99_ms", idle_p99)
        .with("urgent_p50_ms", ms(&busy.latencies, 0.5))
        .with("urgent_p99_ms", p99)
        .with("p99_of_bound", p99 / (1.5 * idle_p99).max(idle_p99 + 1.0))
        .with(
            "urgent_refused_share",
            (busy.refused + busy.late) as f64 / busy.all.max(1) as f64,
        )
        .with("goodput_per_s", batches.good as f64 / load.seconds)
        .with(
            "refused_share",
            batches.refused as f64 / batches.all.max(1) as f64,
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_follow_their_steps() {
        let steps = [(0.0, 1.0), (2.0, 1.0), (0.5, 2.0)];
        let meant = arrivals(&Service::MIXED, &steps, 1000.0, &mut Random::seeded(1));
        let between = |from: f64, to: f64| {
            let within = |meant: &&Meant| (from * 1e9..to * 1e9).contains(&(meant.at as f64));
            meant.iter().filter(within).count()
        };
        assert_eq!(between(0.0, 1.0), 0);
        assert!((1800..2200).contains(&between(1.0, 2.0)));
        assert!((900..1100).contains(&between(2.0, 4.0)));
        let reports = meant
            .iter()
            .filter(|meant| meant.kind == Kind::Report as u8);
        let share = reports.count() as f64 / meant.len() as f64;
        assert!((share - 0.2).abs() < 0.03, "{share}");
    }

    #[test]
    fn what_is_late_is_not_good() {
        let fates = [
            Fate::Served(GOOD_NS),
            Fate::Served(GOOD_NS + 1),
            Fate::Refused(1),
            Fate::Lost,
        ];
        let counts = count(fates.iter());
        assert_eq!(
            (counts.all, counts.good, counts.refused, counts.late),
            (4, 1, 1, 2)
        );
        assert_eq!(counts.latencies, [GOOD_NS, GOOD_NS + 1]);
    }

    #[test]
    fn the_oracle_is_the_best_fixed_limit() {
        let sample = |goodput| Some(Sample::default().with("goodput_per_s", goodput));
        let mut rounds = Rounds::from([
            ("flyball".to_owned(), vec![sample(9.0)]),
            ("fixed4".to_owned(), vec![sample(5.0), None, sample(6.0)]),
            ("fixed12".to_owned(), vec![sample(7.0), sample(5.9)]),
        ]);
        add_oracle(&mut rounds);
        let oracle = rounds["oracle"][0].as_ref().unwrap();
        assert_eq!(
            (oracle.metrics["limit"], oracle.metrics["goodput_per_s"]),
            (12.0, 7.0)
        );
        let mut none = Rounds::from([("flyball".to_owned(), vec![sample(9.0)])]);
        add_oracle(&mut none);
        assert_eq!(none.len(), 1);
    }
}
