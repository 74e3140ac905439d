//! Who comes in though no slot is free: nobody waits for those who matter less.
//!
//! A limit counts calls, whatever they are. Where it is of work that this process does itself, calls that came in before may be of no importance, and take as long as
//! they take: a call that matters more would wait for one of them to end, with all CPUs ready to go on with it instead. So to each class the limit is one of
//! its own: it counts only calls of that class and of those that matter as much or more. What is in together may then be more than the limit, by what lesser
//! classes have in; they are let in again once that is worked off, as to them all calls count.
//!
//! For calls of a dependency that does not hold: it does not know the classes, and more calls than it can do make all of them slow. Nor does it where a person named
//! the number.
//!
//! Invariants: those of a class and of the classes above it never come in while as many of them are in as the limit says; nobody comes in beyond
//! [`AdaptiveConfig::max`]; who may come in, anybody who matters more may.
//!
//! Leaves out who is next of those who wait ([`admission`](super::admission)), and who runs first of those who are in (the scheduler).

use super::adaptive::{AdaptiveConfig, Algorithm};

/// The calls of a class that are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Inside {
    /// How much the class matters, higher first.
    pub priority: u8,
    /// How many of its calls are in.
    pub calls: u64,
}

/// Says up to how many calls may be in, of all classes together, for a call of this priority to come in though no slot is free; `None` where it waits for a slot.
///
/// `limit` and `in_flight` are what holds at this moment; the sum over `classes` may differ from `in_flight` by calls that are just coming or leaving.
#[must_use]
pub fn beyond(
    config: &AdaptiveConfig,
    (limit, in_flight): (u32, u32),
    priority: u8,
    classes: impl IntoIterator<Item = Inside>,
) -> Option<u32> {
    if !matches!(config.algorithm, Algorithm::RunDelay { .. }) {
        return None;
    }
    let matter = |class: &Inside| class.priority >= priority;
    let inside = classes
        .into_iter()
        .filter(matter)
        .fold(0u64, |sum, class| sum.saturating_add(class.calls));
    let may = inside < u64::from(limit) && in_flight < config.max;
    may.then_some(config.max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop, prop_assert, prop_assert_eq, proptest};

    use super::super::adaptive::Signal;
    use super::*;

    const MAX: u32 = 20;

    fn config() -> AdaptiveConfig {
        AdaptiveConfig::for_signal(Signal::RunDelay { cpus: 4 }).with_bounds(1, MAX)
    }

    fn classes(calls: [u64; 3]) -> impl Iterator<Item = Inside> {
        let priorities = [5, 3, 1].into_iter();
        priorities
            .zip(calls)
            .map(|(priority, calls)| Inside { priority, calls })
    }

    /// CPU-23: only those who matter as much count, whatever the others have in, and up to the greatest limit.
    #[test]
    fn lesser_calls_do_not_count() {
        let may = |limit, priority, calls: [u64; 3]| {
            let in_flight = calls.iter().sum::<u64>() as u32;
            beyond(&config(), (limit, in_flight), priority, classes(calls))
        };
        assert_eq!(may(4, 5, [0, 0, 4]), Some(MAX));
        assert_eq!(may(4, 5, [3, 4, 4]), Some(MAX));
        assert_eq!(may(4, 5, [4, 0, 0]), None, "as many of its own are in");
        assert_eq!(may(4, 3, [2, 2, 0]), None, "those above it count");
        assert_eq!(may(4, 3, [1, 2, 9]), Some(MAX));
        assert_eq!(may(4, 1, [0, 0, 4]), None);
        assert_eq!(may(4, 5, [0, 0, u64::from(MAX)]), None, "it is full");
        assert_eq!(may(0, 5, [0, 0, 0]), None);
        assert_eq!(may(4, 7, [4, 0, 0]), Some(MAX), "nobody matters as much");
    }

    /// CPU-23: where the work is another's, or the number a person's, all wait for a slot.
    #[test]
    fn other_limits_are_for_all() {
        for algorithm in [
            Algorithm::vegas(),
            Algorithm::gradient(),
            Algorithm::aimd(),
            Algorithm::Fixed(4),
        ] {
            let config = AdaptiveConfig::new(algorithm);
            let may = beyond(&config, (4, 4), 5, classes([0, 0, 4]));
            assert_eq!(may, None, "{algorithm:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// CPU-23: however calls come and go and the limit moves, of each class with those above it nobody comes in while as many are in as the limit says, nobody
        /// beyond the greatest, and who may come in, anybody who matters more may; with one class nobody ever comes in beyond the limit.
        #[test]
        fn to_each_class_it_is_a_limit(
            steps in prop::collection::vec((0u8..4, 0usize..3, 1u32..=MAX), 1..300),
        ) {
            let mut calls = [0u64; 3];
            let mut limit = 4;
            for (what, class, number) in steps {
                let in_flight = calls.iter().sum::<u64>() as u32;
                let may = |priority| beyond(&config(), (limit, in_flight), priority, classes(calls));
                let priority = [5, 3, 1][class];
                if let Some(most) = may(priority) {
                    prop_assert_eq!(most, MAX);
                    prop_assert!((priority..=7).all(|more| may(more).is_some()));
                }
                prop_assert!(may(1).is_none() || in_flight < limit, "to the least class all calls count");
                let enters = in_flight < limit || may(priority).is_some();
                match what {
                    0 | 1 if enters => {
                        prop_assert!(in_flight < MAX);
                        prop_assert!(calls[..=class].iter().sum::<u64>() < u64::from(limit));
                        calls[class] += 1;
                    }
                    0 | 1 => {}
                    2 => calls[class] = calls[class].saturating_sub(1),
                    _ => limit = number,
                }
            }
        }

        /// CPU-23: any counts are borne.
        #[test]
        fn any_counts_are_borne(limit: u32, in_flight: u32, priority: u8, counts: [u64; 3]) {
            let may = beyond(&config(), (limit, in_flight), priority, classes(counts));
            prop_assert!(may.is_none_or(|most| most == MAX && in_flight < MAX));
        }
    }
}
