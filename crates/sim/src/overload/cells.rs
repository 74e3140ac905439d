//! The grid: kinds of services × courses of load.
//!
//! Half of the services are held out: nothing in the policies was chosen by looking at them. They differ from the others in all their
//! numbers, so that the held-out half says how the policies do on services that nobody thought of.

use flyball_core::rng::Rng;

use super::service::{Service, Sharing, Work};

/// Length of a run, ns.
pub(crate) const RUN_NS: u64 = 20_000_000_000;
/// Grain of courses, ns.
pub(crate) const SLOT_NS: u64 = 50_000_000;
const SLOTS: usize = (RUN_NS / SLOT_NS) as usize;
/// When steps come, and go, s.
pub(crate) const STEP_S: f64 = 6.0;
pub(crate) const BACK_S: f64 = 13.0;

const MS: f64 = 1e6;

/// Services that were looked at.
const KNOWN: [Service; 7] = [
    service(
        "cpu8",
        8.0,
        Sharing::Even,
        5.0,
        Work::Exp,
        (0, 0.0),
        0.005,
        250,
    ),
    service(
        "bimodal8",
        8.0,
        Sharing::Even,
        5.0,
        Work::Bimodal,
        (0, 0.0),
        0.005,
        250,
    ),
    service(
        "io8",
        8.0,
        Sharing::Even,
        4.0,
        Work::Exp,
        (4, 36.0),
        0.005,
        250,
    ),
    service(
        "fifo4",
        4.0,
        Sharing::Fifo,
        2.0,
        Work::Fixed,
        (0, 0.0),
        0.01,
        100,
    ),
    service(
        "pareto16",
        16.0,
        Sharing::Even,
        4.0,
        Work::Pareto,
        (1, 4.0),
        0.002,
        250,
    ),
    service(
        "small2",
        2.0,
        Sharing::Even,
        4.0,
        Work::Exp,
        (2, 16.0),
        0.01,
        500,
    ),
    service(
        "wait12",
        12.0,
        Sharing::Even,
        5.0,
        Work::Fixed,
        (1, 100.0),
        0.005,
        500,
    ),
];

/// Services that were not.
const HELD_OUT: [Service; 7] = [
    service(
        "fifo8",
        8.0,
        Sharing::Fifo,
        10.0,
        Work::Exp,
        (0, 0.0),
        0.01,
        300,
    ),
    service(
        "bimodal4",
        4.0,
        Sharing::Even,
        3.0,
        Work::Bimodal,
        (1, 6.0),
        0.005,
        200,
    ),
    service(
        "io32",
        32.0,
        Sharing::Even,
        8.0,
        Work::Exp,
        (2, 60.0),
        0.003,
        400,
    ),
    service(
        "cpu2",
        2.0,
        Sharing::Even,
        3.0,
        Work::Exp,
        (0, 0.0),
        0.02,
        150,
    ),
    service(
        "pareto6",
        6.0,
        Sharing::Fifo,
        6.0,
        Work::Pareto,
        (2, 12.0),
        0.004,
        350,
    ),
    service(
        "wait10",
        10.0,
        Sharing::Even,
        3.0,
        Work::Exp,
        (2, 90.0),
        0.004,
        450,
    ),
    service(
        "wait3",
        3.0,
        Sharing::Fifo,
        4.0,
        Work::Bimodal,
        (1, 40.0),
        0.01,
        300,
    ),
];

#[expect(clippy::too_many_arguments, reason = "a row of a table")]
const fn service(
    name: &'static str,
    cpus: f64,
    sharing: Sharing,
    work_ms: f64,
    work: Work,
    (waits, wait_ms): (u32, f64),
    interference: f64,
    deadline_ms: u64,
) -> Service {
    Service {
        name,
        cpus,
        sharing,
        work_ns: work_ms * MS,
        work,
        waits,
        wait_ns: wait_ms * MS,
        interference,
        deadline_ns: deadline_ms * 1_000_000,
    }
}

/// A course of load; factors are of the capacity with all CPUs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Course {
    /// Always the same.
    Steady(f64),
    /// From half the capacity to three times, and back.
    Step,
    /// 1.5 times the capacity; half of the CPUs go away for a while.
    HalfTheCpus,
    /// 1.5 times the capacity; for a while calls need twice the work.
    TwiceTheWork,
    /// From a fifth of the capacity to four times and back, evenly.
    Ramp,
    /// A neighbour takes half of the CPUs, now and then; 1.5 times the capacity.
    Neighbour,
    /// 1.3 times the capacity with noise that has a memory of half a second.
    Noise,
    /// 0.3 of the capacity and four times, in turn, each for half a second in the mean.
    Bursts,
    /// 0.8 of the capacity; for 3 s three quarters of the CPUs are away, and callers try again at once up to two times.
    RetryStorm,
}

const COURSES: [Course; 12] = [
    Course::Steady(0.8),
    Course::Steady(1.2),
    Course::Steady(2.0),
    Course::Steady(10.0),
    Course::Step,
    Course::HalfTheCpus,
    Course::TwiceTheWork,
    Course::Ramp,
    Course::Neighbour,
    Course::Noise,
    Course::Bursts,
    Course::RetryStorm,
];

impl Course {
    fn name(self) -> String {
        match self {
            Self::Steady(load) => format!("steady-{load}x"),
            Self::Step => "step".into(),
            Self::HalfTheCpus => "half-the-cpus".into(),
            Self::TwiceTheWork => "twice-the-work".into(),
            Self::Ramp => "ramp".into(),
            Self::Neighbour => "neighbour".into(),
            Self::Noise => "noise".into(),
            Self::Bursts => "bursts".into(),
            Self::RetryStorm => "retry-storm".into(),
        }
    }

    /// Whether something changes at [`STEP_S`] for good or for long, so that convergence can be measured.
    pub(crate) fn steps(self) -> bool {
        matches!(self, Self::Step | Self::HalfTheCpus | Self::TwiceTheWork)
    }

    /// Attempts of a call.
    pub(crate) fn attempts(self) -> u8 {
        if self == Self::RetryStorm { 3 } else { 1 }
    }
}

/// Which calls are interactive; all others are of batch, and need the same work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mix {
    /// There are no classes.
    None,
    /// This part of them.
    Part(f64),
    /// None at first; from the step until it is back so much more, of the capacity.
    Burst(f64),
}

impl Mix {
    /// What comes beside the load, and the part of all that is interactive.
    fn at(self, load: f64, stepped: bool) -> (f64, f64) {
        match self {
            Self::Part(part) => (0.0, part),
            Self::Burst(more) if stepped => (more, more / (load + more)),
            Self::None | Self::Burst(_) => (0.0, 0.0),
        }
    }
}

/// Classes on a service that was looked at and on one that was not: few calls that matter at an overload that is not theirs, some of it theirs, most of it theirs; and
/// a burst of calls that matter when all slots are taken.
const MIXES: [(f64, Mix); 5] = [
    (2.0, Mix::Part(0.2)),
    (10.0, Mix::Part(0.05)),
    (10.0, Mix::Part(0.2)),
    (2.0, Mix::Part(0.9)),
    (2.0, Mix::Burst(0.6)),
];

/// A service under a course of load.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub(crate) service: Service,
    pub(crate) course: Course,
    pub(crate) mix: Mix,
    /// Whether nothing was chosen by looking at it.
    pub held_out: bool,
}

impl Cell {
    /// The grid: all cells without classes.
    pub fn all() -> Vec<Self> {
        let known = KNOWN.iter().map(|service| (service, false));
        let held_out = HELD_OUT.iter().map(|service| (service, true));
        known
            .chain(held_out)
            .flat_map(|(&service, held_out)| {
                COURSES.iter().map(move |&course| Self {
                    service,
                    course,
                    mix: Mix::None,
                    held_out,
                })
            })
            .collect()
    }

    /// The cells with classes.
    pub fn with_classes() -> Vec<Self> {
        let [_, _, io8, _, _, small2, _] = KNOWN;
        let [_, bimodal4, _, _, pareto6, _, _] = HELD_OUT;
        [
            (io8, false),
            (small2, false),
            (bimodal4, true),
            (pareto6, true),
        ]
        .into_iter()
        .flat_map(|(service, held_out)| {
            MIXES.into_iter().map(move |(load, mix)| Self {
                service,
                course: Course::Steady(load),
                mix,
                held_out,
            })
        })
        .collect()
    }

    /// Its name: service and course, such as `io8/steady-2x`; with classes also how many calls of a hundred are interactive, as in
    /// `io8/steady-2x/interactive-20`.
    pub fn name(&self) -> String {
        let name = format!("{}/{}", self.service.name, self.course.name());
        match self.mix {
            Mix::None => name,
            Mix::Part(part) => format!("{name}/interactive-{:.0}", part * 100.0),
            Mix::Burst(_) => format!("{name}/interactive-burst"),
        }
    }

    /// Interactive calls a second, of the capacity, while there are any.
    pub(crate) fn interactive_load(&self) -> f64 {
        match (self.mix, self.course) {
            (Mix::Part(part), Course::Steady(load)) => part * load,
            (Mix::Burst(more), _) => more,
            (Mix::None | Mix::Part(_), _) => 0.0,
        }
    }

    /// Load, CPUs and work of a run with this seed.
    pub(crate) fn course_of(&self, seed: u64) -> Timeline {
        let mut rng = Rng::seeded(seed ^ 0x5EED_C0DE);
        let mut line = Timeline {
            load: vec![1.0; SLOTS],
            cpus: vec![self.service.cpus; SLOTS],
            work: vec![1.0; SLOTS],
            interactive: vec![0.0; SLOTS],
        };
        let mut switch = Switch::default();
        let mut noise = 0.0;
        for slot in 0..SLOTS {
            let at = slot as f64 * SLOT_NS as f64 / 1e9;
            let stepped = (STEP_S..BACK_S).contains(&at);
            match self.course {
                Course::Steady(load) => line.load[slot] = load,
                Course::Step => line.load[slot] = if stepped { 3.0 } else { 0.5 },
                Course::HalfTheCpus => {
                    line.load[slot] = 1.5;
                    line.cpus[slot] *= if stepped { 0.5 } else { 1.0 };
                }
                Course::TwiceTheWork => {
                    line.load[slot] = 1.5;
                    line.work[slot] = if stepped { 2.0 } else { 1.0 };
                }
                Course::Ramp => {
                    let part = 1.0 - (2.0 * slot as f64 / SLOTS as f64 - 1.0).abs();
                    line.load[slot] = 0.2 + 3.8 * part;
                }
                Course::Neighbour => {
                    line.load[slot] = 1.5;
                    line.cpus[slot] *= if switch.at(&mut rng, at, 1.0) {
                        0.5
                    } else {
                        1.0
                    };
                }
                Course::Noise => {
                    // An Ornstein-Uhlenbeck process in the exponent.
                    let kept = (-(SLOT_NS as f64) / 0.5e9).exp();
                    let normal = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
                    noise = noise * kept + 0.5 * (1.0 - kept * kept).sqrt() * normal;
                    line.load[slot] = 1.3 * noise.exp();
                }
                Course::Bursts => {
                    line.load[slot] = if switch.at(&mut rng, at, 0.5) {
                        4.0
                    } else {
                        0.3
                    };
                }
                Course::RetryStorm => {
                    line.load[slot] = 0.8;
                    let away = (STEP_S..STEP_S + 3.0).contains(&at);
                    line.cpus[slot] *= if away { 0.25 } else { 1.0 };
                }
            }
            let (more, part) = self.mix.at(line.load[slot], stepped);
            line.load[slot] += more;
            line.interactive[slot] = part;
        }
        line
    }
}

/// On and off for exponential times.
#[derive(Default)]
struct Switch {
    on: bool,
    until: f64,
}

impl Switch {
    fn at(&mut self, rng: &mut Rng, at: f64, mean: f64) -> bool {
        while at >= self.until {
            self.on = !self.on;
            self.until += rng.exp(mean).max(0.001);
        }
        self.on
    }
}

/// What happens over a run, by slots of [`SLOT_NS`].
pub(crate) struct Timeline {
    /// Load, of the capacity.
    pub(crate) load: Vec<f64>,
    /// CPUs that the service gets.
    pub(crate) cpus: Vec<f64>,
    /// Work of calls that arrive, of the usual.
    pub(crate) work: Vec<f64>,
    /// The part of the calls that arrive that is interactive.
    pub(crate) interactive: Vec<f64>,
}

impl Timeline {
    pub(crate) fn slot(at_ns: u64) -> usize {
        ((at_ns / SLOT_NS) as usize).min(SLOTS - 1)
    }
}
