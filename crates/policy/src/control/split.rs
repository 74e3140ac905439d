//! An allowance of CPU time between work inside the program and its commands.
//!
//! A throttle says what work of both kinds may use together. Work inside is held by a ceiling, in CPUs; commands stand still by turns
//! ([`duty`](super::duty)), so what they need is the part of the time for which they run. Neither side tells what it would use if it were let:
//!
//! - *commands*: what they use, divided by the part of the time for which they ran, both smoothed. That is too little where they keep all CPUs busy, as half
//!   of them would do, too; then the part falls, what they use does not, and the estimate grows until it is right.
//! - *inside*: what is used, and some more; where that is nearly its ceiling, more than there is.
//!
//! # Rules
//!
//! 1. Who wants less than half has what it wants; the other has the rest. Where both want more, each has half.
//! 2. Work inside keeps a tenth of the allowance, so that what begins shows.
//! 3. Without commands all of it is for the work inside, and without work inside nine tenths at least for the commands.
//!
//! Rule 1 is max-min fairness of two (D. Bertsekas and R. Gallager, "Data Networks", 1992, section 6.5.2).
//!
//! Absent on purpose: classes (the shares of the scheduler and of the kernel decide among them).

use core::time::Duration;

use flyball_core::ewma::Ewma;
use flyball_core::time::Timestamp;

/// The half-life of what is smoothed: of two looks of a throttle, as what it smooths itself.
const SMOOTH: Duration = Duration::from_millis(500);
/// Use of at least this part of the ceiling means that more is wanted.
const CAPPED: f64 = 0.9;
/// What is not at its ceiling has this much more than it uses.
const MARGIN: f64 = 1.25;
/// The part of the allowance that work inside keeps.
const KEPT: f64 = 0.1;
/// The least part of the time for which commands run: a thousand of them then use one CPU.
pub const PART_LEAST: f64 = 0.001;

/// What each side may have.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shares {
    /// CPUs for the work inside; `None` where it is not held back.
    pub inside: Option<f64>,
    /// The part of the time for which commands run, [`PART_LEAST`] to 1.
    pub part: f64,
}

impl Shares {
    /// Nothing is held back.
    pub const ALL: Shares = Shares {
        inside: None,
        part: 1.0,
    };
}

/// Divides an allowance.
#[derive(Clone, Debug)]
pub struct Split {
    inside: Ewma,
    commands: Ewma,
    ran: Ewma,
    shares: Shares,
}

impl Default for Split {
    fn default() -> Self {
        Self {
            inside: Ewma::new(SMOOTH),
            commands: Ewma::new(SMOOTH),
            ran: Ewma::new(SMOOTH),
            shares: Shares::ALL,
        }
    }
}

impl Split {
    /// Takes in what was used since the last look, in CPUs; what is no number or below 0 counts as nothing.
    pub fn saw(&mut self, now: Timestamp, inside: f64, commands: f64) {
        let sane = |cpus: f64| if cpus.is_finite() { cpus.max(0.0) } else { 0.0 };
        self.inside.update(now, sane(inside));
        self.commands.update(now, sane(commands));
        self.ran.update(now, self.shares.part);
    }

    /// Divides an allowance of so many CPUs; without one nothing is held back.
    pub fn divide(&mut self, allowance: Option<f64>) -> Shares {
        let allowance = allowance.filter(|cpus| cpus.is_finite());
        let Some(allowance) = allowance.map(|cpus| cpus.max(0.0)) else {
            self.shares = Shares::ALL;
            return self.shares;
        };
        let wanted = self.commands_want();
        let half = allowance / 2.0;
        let commands = wanted.min((allowance - self.inside_wants(allowance)).max(half));
        self.shares = Shares {
            inside: Some(allowance - commands),
            part: match wanted > 0.0 {
                true => (commands / wanted).clamp(PART_LEAST, 1.0),
                false => 1.0,
            },
        };
        self.shares
    }

    /// What commands would use if they always ran, CPUs.
    fn commands_want(&self) -> f64 {
        let (used, ran) = (self.commands.get().unwrap_or(0.0), self.ran.get());
        used / ran.unwrap_or(1.0).max(PART_LEAST)
    }

    /// What work inside would use, CPUs; of more than the allowance it is not known how much.
    fn inside_wants(&self, allowance: f64) -> f64 {
        let used = self.inside.get().unwrap_or(0.0);
        let is_capped = self
            .shares
            .inside
            .is_some_and(|ceiling| used >= ceiling * CAPPED);
        match is_capped {
            true => allowance,
            false => (used * MARGIN).max(allowance * KEPT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::throttle::{PERIOD, Settings, State, Throttle, View, allowance};
    use super::*;
    use proptest::prelude::*;

    fn at(tick: u64) -> Timestamp {
        Timestamp::from_nanos(tick * 250_000_000)
    }

    /// Twenty looks at work that would use so much, CPUs; what it comes to use.
    fn settled(allowance: f64, inside: f64, commands: f64) -> (f64, f64) {
        let mut split = Split::default();
        let mut shares = Shares::ALL;
        let mut used = (0.0, 0.0);
        for tick in 0..40 {
            used = (
                shares.inside.map_or(inside, |ceiling| ceiling.min(inside)),
                commands * shares.part,
            );
            split.saw(at(tick), used.0, used.1);
            shares = split.divide(Some(allowance));
        }
        used
    }

    /// CPU-20: who wants less than half has it, the other the rest; where both want more, each has half.
    #[test]
    fn the_greedy_share() {
        for (inside, commands, expected) in [
            (8.0, 0.0, (2.0, 0.0)),
            (8.0, 8.0, (1.0, 1.0)),
            (8.0, 0.4, (1.6, 0.4)),
            (0.4, 8.0, (0.4, 1.5)),
            (0.0, 8.0, (0.0, 1.8)),
            (0.5, 0.5, (0.5, 0.5)),
        ] {
            let used = settled(2.0, inside, commands);
            let near = |a: f64, b: f64| (a - b).abs() < 0.05;
            assert!(
                near(used.0, expected.0) && near(used.1, expected.1),
                "{inside} {commands}: {used:?}"
            );
        }
    }

    /// CPU-20: with a throttle before it, use settles on the threshold whatever there is of commands, more than there are CPUs for included, and of work
    /// inside, of which some is not held back at all.
    #[test]
    fn use_settles_on_the_threshold() {
        const CPUS: f64 = 4.0;
        for threshold in [30.0, 50.0, 80.0] {
            for commands in [0.0, 1.0, 4.0, 16.0, 100.0] {
                for inside in [0.0, 1.0, 4.0] {
                    for others in [0.0, 0.5] {
                        let mut throttle = Throttle::new(Settings::at(threshold)).unwrap();
                        let mut split = Split::default();
                        let mut shares = Shares::ALL;
                        let (mut sum, mut tail) = (0.0, 0);
                        for tick in 0..160 {
                            let closures = shares.inside.unwrap_or(CPUS).min(inside);
                            let runs: f64 = commands * shares.part;
                            // The kernel divides what there is.
                            let all = closures + runs + others;
                            let fits = (CPUS / all.max(1e-9)).min(1.0);
                            let (closures, runs) = (closures * fits, runs * fits);
                            split.saw(at(tick), closures, runs);
                            let usage = all * fits / CPUS * 100.0;
                            let view = View {
                                usage: Some(usage),
                                acted: Some((closures + runs) / CPUS * 100.0),
                                level: throttle.level(),
                            };
                            let step = throttle.step(at(tick), &view);
                            let cpus = allowance(step.level) / 100.0 * CPUS;
                            shares = split.divide((step.level > 0.0).then_some(cpus));
                            if tick >= 120 {
                                (sum, tail) = (sum + usage, tail + 1);
                            }
                        }
                        let mean = sum / f64::from(tail);
                        let wanted = (commands + inside + others).min(CPUS) / CPUS * 100.0;
                        let expected = wanted.min(threshold);
                        assert!(
                            (mean - expected).abs() < 3.0,
                            "{threshold} {commands} {inside} {others}: {mean}"
                        );
                        assert!(!matches!(throttle.state(), State::CannotHold(_)));
                    }
                }
            }
        }
        assert_eq!(PERIOD, Duration::from_millis(250));
    }

    proptest! {
        /// CPU-20: any figures give shares that can be used, and no more than there is.
        #[test]
        fn anything_leaves_it_sane(
            steps in prop::collection::vec((any::<u64>(), any::<f64>(), any::<f64>(), any::<Option<f64>>()), 1..50),
        ) {
            let mut split = Split::default();
            for (now, inside, commands, allowance) in steps {
                split.saw(Timestamp::from_nanos(now), inside, commands);
                let shares = split.divide(allowance);
                prop_assert!((PART_LEAST..=1.0).contains(&shares.part));
                if let Some(ceiling) = shares.inside {
                    prop_assert!(ceiling >= 0.0 && ceiling <= allowance.unwrap().max(0.0));
                } else {
                    prop_assert!(allowance.is_none_or(|cpus| !cpus.is_finite()));
                }
            }
        }
    }
}
