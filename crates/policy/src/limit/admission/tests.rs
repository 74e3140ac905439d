use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::{ProptestConfig, prop, prop_assert, prop_assert_eq, proptest};

use super::*;

const MS: u64 = 1_000_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * MS)
}

fn admission() -> Admission {
    Admission::new(at(0), AdmissionConfig::default()).unwrap()
}

fn call(priority: u8, cohort: u64) -> Request {
    Request {
        priority,
        cohort: Some(cohort),
        deadline: None,
    }
}

fn waits(admit: Admit) -> Ticket {
    match admit {
        Admit::Wait(ticket, _) => ticket,
        other => panic!("it should wait: {other:?}"),
    }
}

fn next(admission: &mut Admission, millis: u64) -> (Option<Ticket>, Vec<Ticket>) {
    let mut expired = Vec::new();
    let next = admission.next(at(millis), |ticket, _| expired.push(ticket));
    (next, expired)
}

/// CPU-21: with room nobody waits; without, the more important come first, and inside a class who came first.
#[test]
fn the_more_important_come_first() {
    let mut admission = admission();
    assert_eq!(admission.arrive(at(0), &call(1, 1), true), Admit::Now);
    let batch = waits(admission.arrive(at(1), &call(1, 2), false));
    let first = waits(admission.arrive(at(2), &call(3, 3), false));
    let second = waits(admission.arrive(at(3), &call(3, 4), false));
    // Nobody overtakes those of the same class, room or not; a more important one may.
    let third = waits(admission.arrive(at(3), &call(3, 5), true));
    assert_eq!(admission.arrive(at(3), &call(4, 6), true), Admit::Now);
    for expected in [first, second, third, batch] {
        assert_eq!(next(&mut admission, 4), (Some(expected), Vec::new()));
    }
    assert_eq!(next(&mut admission, 4), (None, Vec::new()));
    assert_eq!(admission.stats().admitted, 6);
}

/// CPU-21: a call waits 0.3 of its time; once waits have not been below half of that for as long, 0.05, and the last comes first.
#[test]
fn waits_are_short_and_shorter_under_overload() {
    let mut admission = admission();
    let Admit::Wait(_, until) = admission.arrive(at(0), &call(2, 0), false) else {
        panic!()
    };
    assert_eq!(until, at(75));
    // Twice as many come as are served, in turn, after more than 50 ms: late, and so for 75 ms.
    let mut tickets = Vec::new();
    for millis in 1..=150 {
        for cohort in [millis, millis + 1_000] {
            if let Admit::Wait(ticket, _) = admission.arrive(at(millis), &call(2, cohort), false) {
                tickets.push(ticket);
            }
        }
        if millis > 50 {
            let _ = next(&mut admission, millis);
        }
    }
    assert!(admission.stats().overloaded);
    let last = *tickets.last().unwrap();
    // Some cohort that may wait.
    let arrive = |admission: &mut Admission, millis| {
        (0..100).find_map(
            |cohort| match admission.arrive(at(millis), &call(2, cohort), false) {
                Admit::Wait(ticket, until) => Some((ticket, until)),
                _ => None,
            },
        )
    };
    let (newest, _) = arrive(&mut admission, 151).unwrap();
    let (first, expired) = next(&mut admission, 151);
    assert_eq!(first, Some(newest), "the last comes first");
    assert!(!expired.contains(&last) && last < newest);
    let (_, until) = arrive(&mut admission, 152).unwrap();
    assert_eq!(until, Timestamp::from_nanos(152 * MS + 12_500_000));
    // Nobody waits any more: it is over.
    while next(&mut admission, 152).0.is_some() {}
    admission.expire(at(153), |_, _| {});
    assert!(!admission.stats().overloaded);
}

/// CPU-21: under overload lower classes are refused at once and higher ones not at all; inside a class the same cohorts are.
#[test]
fn lower_classes_and_the_same_cohorts_are_refused_first() {
    let mut admission = admission();
    let mut refused: BTreeMap<(u8, u64), (u32, u32)> = BTreeMap::new();
    // Ten calls a millisecond of 100 tenants in two classes, batch ten times as many; one is served.
    for millis in 0..10_000 {
        for number in 0..11u64 {
            let cohort = (millis * 7 + number * 13) % 100;
            let priority = if number == 0 && millis % 2 == 0 { 3 } else { 1 };
            let admit = admission.arrive(at(millis), &call(priority, cohort), false);
            let at_once = matches!(
                admit,
                Admit::Shed(Shed {
                    reason: ShedReason::Overload,
                    ..
                })
            );
            if millis >= 5_000 {
                let counts = refused.entry((priority, cohort)).or_default();
                counts.0 += u32::from(at_once);
                counts.1 += 1;
            }
        }
        let _ = next(&mut admission, millis);
    }
    let important: u32 = refused.range((3, 0)..).map(|(_, counts)| counts.0).sum();
    assert_eq!(important, 0);
    // Nearly each tenant of the lower class is served whole or not at all.
    let mixed = refused
        .range(..(3, 0))
        .filter(|(_, (at_once, all))| *at_once > all / 10 && *at_once < all * 9 / 10)
        .count();
    assert!(mixed <= 10, "{mixed} of 100 cohorts are served by halves");
    let stats = admission.stats();
    assert!(stats.refused_at_once > 0.7, "{stats:?}");
    assert!(stats.shed_waited < stats.shed_overload / 4, "{stats:?}");
    assert_eq!(admission.level(), Degradation::Survive);
}

/// CPU-24: levels come after a second of refusals and go ten seconds after the last, one look a quarter of a second.
#[test]
fn levels_come_soon_and_go_late() {
    let mut admission = Admission::new(
        at(0),
        AdmissionConfig {
            queue_max: 0,
            ..AdmissionConfig::default()
        },
    )
    .unwrap();
    let mut seen = Vec::new();
    for millis in 0..20_000u64 {
        // A tenth is refused for 3 s, three quarters for 2 s, none from then on.
        let room = match millis {
            0..3_000 => millis % 10 != 0,
            3_000..5_000 => millis % 4 == 0,
            _ => true,
        };
        let _ = admission.arrive(at(millis), &call(2, 1), room);
        if seen
            .last()
            .is_none_or(|(_, level)| *level != admission.level())
        {
            seen.push((millis / 1_000, admission.level()));
        }
    }
    let levels: Vec<_> = seen.iter().map(|(_, level)| *level).collect();
    assert_eq!(
        levels,
        [
            Degradation::Normal,
            Degradation::Conserve,
            Degradation::Survive,
            Degradation::Normal
        ]
    );
    assert_eq!(seen[1].0, 1);
    assert_eq!(seen[2].0, 4);
    assert!((15..17).contains(&seen[3].0), "{seen:?}");
}

/// CPU-24: calls of callers whose own time is over are refused, and say nothing of how bad it is.
#[test]
fn deadlines_that_are_over_raise_no_level() {
    let mut admission = admission();
    for millis in 0..10_000 {
        let over = Request {
            deadline: Some(at(millis)),
            ..call(2, millis)
        };
        assert!(matches!(
            admission.arrive(at(millis), &over, true),
            Admit::Shed(_)
        ));
        assert_eq!(
            admission.arrive(at(millis), &call(2, millis), true),
            Admit::Now
        );
    }
    assert_eq!(admission.level(), Degradation::Normal);
    assert_eq!(admission.stats().shed_deadline, 10_000);
}

fn refuses_all() -> Admission {
    let config = AdmissionConfig {
        queue_max: 0,
        ..AdmissionConfig::default()
    };
    Admission::new(at(0), config).unwrap()
}

/// CPU-24: one refused call, or a short burst of them, is no level, however long nobody looks; refusals whenever calls come are one, and so are those of a service with
/// few calls.
#[test]
fn levels_need_refusals_that_last() {
    // (millis between calls, calls of a burst, millis between bursts, bursts) and what comes of it.
    for (apart, calls, between, bursts, expected) in [
        (1, 1, 5_000, 1, Degradation::Normal),
        (1, 100, 5_000, 1, Degradation::Normal),
        (1, 100, 3_000, 5, Degradation::Survive),
        (600, 8, 0, 1, Degradation::Survive),
        (1, 100, 60_000, 5, Degradation::Normal),
    ] {
        let mut admission = refuses_all();
        let mut now = 0;
        let mut worst = Degradation::Normal;
        for _ in 0..bursts {
            for _ in 0..calls {
                now += apart;
                let _ = admission.arrive(at(now), &call(2, 1), false);
                worst = worst.max(admission.level());
            }
            now += between;
            admission.tick(at(now));
            worst = worst.max(admission.level());
        }
        assert_eq!(worst, expected, "{apart} {calls} {between} {bursts}");
    }
}

/// CPU-24: that a few calls were refused for long does not make a moment in which most are a lasting one.
#[test]
fn each_level_lasts_for_itself() {
    let mut admission = refuses_all();
    for millis in 0..1_300u64 {
        let room = if millis < 950 {
            millis % 30 != 0
        } else {
            millis % 4 == 0
        };
        let _ = admission.arrive(at(millis), &call(2, 1), room);
        assert!(admission.level() <= Degradation::Conserve, "{millis}");
    }
    assert_eq!(admission.level(), Degradation::Conserve);
}

/// CPU-21: calls of nobody in particular are refused at once under overload as those with cohorts are, about as many as will not be served.
#[test]
fn calls_without_a_cohort_are_refused_at_once() {
    let mut admission = admission();
    for millis in 0..10_000 {
        for _ in 0..10 {
            let request = Request {
                cohort: None,
                ..call(2, 0)
            };
            let _ = admission.arrive(at(millis), &request, false);
        }
        let _ = next(&mut admission, millis);
    }
    let stats = admission.stats();
    assert!(stats.shed_overload > 4 * stats.shed_waited, "{stats:?}");
    assert!(stats.admitted > 9_500, "{stats:?}");
}

/// CPU-21: callers with short deadlines take little of the others' patience.
#[test]
fn short_deadlines_are_their_callers_affair() {
    let mut admission = admission();
    for millis in 0..1_000 {
        let hasty = Request {
            deadline: Some(at(millis + 1)),
            ..call(2, 1)
        };
        let _ = admission.arrive(at(millis), &hasty, true);
    }
    // Those of the usual time wait as long as ever where there is a short queue, of 5 ms.
    for millis in 1_000..2_000 {
        let _ = admission.arrive(at(millis), &call(2, 1), false);
        if millis >= 1_005 {
            let _ = next(&mut admission, millis);
        }
    }
    let stats = admission.stats();
    assert!(!stats.overloaded && stats.shed_waited == 0, "{stats:?}");
}

/// Bursts of 60 calls, every so many milliseconds, of which three find room and the others wait in vain, for so long; somebody looks once a second. The level
/// after each.
fn after_bursts(every: u64, deadline: Duration) -> Vec<Degradation> {
    let mut admission = Admission::new(
        at(0),
        AdmissionConfig {
            deadline,
            ..AdmissionConfig::default()
        },
    )
    .unwrap();
    let waited = deadline.as_millis() as u64 * 3 / 10;
    let mut levels = Vec::new();
    for burst in 0..8 {
        // Refusals may fall into another interval than the calls.
        let began = burst * every + 240;
        for cohort in 0..60 {
            let room = cohort < 3;
            let admit = admission.arrive(at(began), &call(2, cohort), room);
            assert_eq!(admit == Admit::Now, room, "{admit:?}");
        }
        admission.expire(at(began + waited), |_, _| {});
        assert_eq!(admission.stats().waiting, 0);
        for second in 1..every / 1_000 {
            admission.tick(at(began + waited + second * 1_000));
        }
        levels.push(admission.level());
    }
    levels
}

/// CPU-24: where calls come together and nearly all of each burst are refused, so early or late, the level rises as it does for a steady stream of them, and
/// stays. A single burst does not raise it, nor do those that are as far apart as a level takes to end.
#[test]
fn bursts_that_are_refused_raise_the_level() {
    for deadline in [250, 2_500] {
        let levels = after_bursts(7_000, Duration::from_millis(deadline));
        assert_eq!(levels[0], Degradation::Normal, "{deadline}");
        assert_eq!(levels[4..], [Degradation::Survive; 4], "{deadline}");
        let levels = after_bursts(15_000, Duration::from_millis(deadline));
        assert_eq!(levels, [Degradation::Normal; 8], "{deadline}");
    }
}

/// CPU-24: a call that is refused now and then raises no level, however long nobody looks between.
#[test]
fn single_refusals_raise_no_level() {
    let mut admission = refuses_all();
    for minute in 0..100 {
        let admit = admission.arrive(at(1 + minute * 60_000), &call(2, 1), false);
        assert!(matches!(admit, Admit::Shed(_)));
        assert_eq!(admission.level(), Degradation::Normal);
    }
}

/// CPU-21: who cannot be answered in time is not begun; a refusal says when to come back, spread by cohort and bounded.
#[test]
fn deadlines_and_hints() {
    let mut admission = admission();
    admission.note_least_latency(at(100), Duration::from_millis(20));
    let by = |millis: u64| Request {
        deadline: Some(at(millis)),
        ..call(2, 1)
    };
    let reason = |admit: Admit| match admit {
        Admit::Shed(shed) => shed.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        reason(admission.arrive(at(100), &by(100), true)),
        ShedReason::Deadline
    );
    assert_eq!(
        reason(admission.arrive(at(100), &by(110), true)),
        ShedReason::Deadline
    );
    assert_eq!(admission.arrive(at(100), &by(120), true), Admit::Now);
    // Slower calls since then raise what a call takes by and by.
    admission.note_least_latency(at(100), Duration::from_millis(36));
    assert_eq!(
        reason(admission.arrive(at(100), &by(120), true)),
        ShedReason::Deadline
    );
    assert_eq!(admission.arrive(at(100), &by(121), true), Admit::Now);
    admission.note_least_latency(at(100), Duration::from_millis(20));
    let soon = waits(admission.arrive(at(100), &by(125), false));
    let (_, expired) = next(&mut admission, 106);
    assert_eq!(expired, [soon]);

    let mut hints = Vec::new();
    for cohort in 0..30 {
        let ticket = waits(admission.arrive(at(200), &call(2, cohort), false));
        hints.push(admission.cancel(at(200), ticket).unwrap().retry_after);
        assert_eq!(admission.cancel(at(200), ticket), None);
    }
    hints.sort();
    hints.dedup();
    assert!(hints.len() > 25);
    let (least, most) = (hints[0], hints[hints.len() - 1]);
    assert!(
        least >= Duration::from_millis(100) && most <= least * 3,
        "{least:?} {most:?}"
    );
}

/// CPU-21: what calls took while something was slow refuses those with less time for a second at most, as nobody could show otherwise that it is fast again.
#[test]
fn what_was_slow_is_tried_again() {
    let mut admission = admission();
    admission.note_least_latency(at(0), Duration::from_secs(1));
    let hasty = |millis: u64| Request {
        deadline: Some(at(millis + 500)),
        ..call(2, 1)
    };
    for millis in 0..1_000 {
        let admit = admission.arrive(at(millis), &hasty(millis), true);
        assert!(matches!(admit, Admit::Shed(_)), "{millis}");
    }
    assert_eq!(admission.arrive(at(1_000), &hasty(1_000), true), Admit::Now);
    assert_eq!(admission.level(), Degradation::Normal);
}

/// CPU-21: hours after an overload nothing of it is left: a burst comes in while there is room, and waits as long as calls usually may.
#[test]
fn a_burst_after_hours_without_calls() {
    let mut admission = admission();
    let mut refused = 0;
    for millis in 0..5_000 {
        for cohort in 0..10 {
            let admit = admission.arrive(at(millis), &call(2, cohort), false);
            refused += u64::from(matches!(admit, Admit::Shed(_)));
        }
        admission.expire(at(millis), |_, _| {});
    }
    assert!(refused > 10_000 && admission.stats().overloaded);
    assert_ne!(admission.level(), Degradation::Normal);

    let hours = 6 * 3_600_000;
    admission.expire(at(hours), |_, _| {});
    for millis in hours..hours + 20_000 {
        admission.tick(at(millis));
    }
    assert_eq!(admission.level(), Degradation::Normal);
    assert_eq!(admission.stats().waiting, 0);
    let now = hours + 20_000;
    for cohort in 0..100 {
        assert_eq!(
            admission.arrive(at(now), &call(2, cohort), true),
            Admit::Now
        );
    }
    for cohort in 0..100 {
        let Admit::Wait(_, until) = admission.arrive(at(now), &call(2, cohort), false) else {
            panic!("cohort {cohort} is refused")
        };
        assert_eq!(until, at(now + 75));
    }
    assert!(!admission.stats().overloaded);
}

/// CPU-21: on a clock that stands still as many wait as may and the rest is refused, none twice; who has all the time there is waits no longer
/// than the settings say.
#[test]
fn clocks_and_deadlines_at_their_ends() {
    let config = AdmissionConfig {
        queue_max: 50,
        ..AdmissionConfig::default()
    };
    let mut admission = Admission::new(at(7), config).unwrap();
    let with = |deadline| Request {
        deadline: Some(deadline),
        ..call(1, 3)
    };
    for over in [Timestamp::ZERO, at(7)] {
        let Admit::Shed(shed) = admission.arrive(at(7), &with(over), true) else {
            panic!("nothing is left of its time")
        };
        assert_eq!(shed.reason, ShedReason::Deadline);
    }
    let Admit::Wait(first, until) = admission.arrive(at(7), &with(Timestamp::MAX), false) else {
        panic!("it may wait")
    };
    assert!(until <= at(7 + 900), "{until:?}");
    let admitted = (0..1_000)
        .filter(|_| matches!(admission.arrive(at(7), &call(1, 3), false), Admit::Wait(..)))
        .count();
    assert_eq!((admitted, admission.stats().waiting), (49, 50));
    assert_eq!(next(&mut admission, 7), (Some(first), Vec::new()));
    let (none, expired) = next(&mut admission, u64::MAX / MS);
    assert_eq!((none, expired.len()), (None, 49));
}

#[test]
fn settings_are_checked() {
    for config in [
        AdmissionConfig {
            deadline: Duration::ZERO,
            ..AdmissionConfig::default()
        },
        AdmissionConfig {
            deadline_max: Duration::from_millis(1),
            ..AdmissionConfig::default()
        },
        AdmissionConfig {
            queue_max: 1_000_001,
            ..AdmissionConfig::default()
        },
    ] {
        assert!(Admission::new(at(0), config).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// CPU-21: whatever the clock does, no more wait than may, everybody who waits is named exactly once, nobody after the longest wait, and
    /// the more important first.
    #[test]
    fn everybody_who_waits_is_named_once(
        queue_max in 0u32..20,
        events in prop::collection::vec((0u8..6, -1_000i64..100_000, 0u8..9, 0u64..50, prop::option::of(0u64..1_000)), 1..400),
    ) {
        let config = AdmissionConfig { queue_max, ..AdmissionConfig::default() };
        let mut admission = Admission::new(at(0), config).unwrap();
        let mut waiting: BTreeMap<Ticket, (u8, Timestamp)> = BTreeMap::new();
        let mut micros = 0u64;
        for (what, step, priority, cohort, deadline) in events {
            micros = micros.saturating_add_signed(step);
            let now = Timestamp::from_nanos(micros * 1_000);
            let mut expired = Vec::new();
            match what {
                0..=2 => {
                    let deadline = deadline.map(|millis| now.saturating_add_nanos(millis * MS));
                    let request = Request { priority, cohort: (cohort > 5).then_some(cohort), deadline };
                    if let Admit::Wait(ticket, until) = admission.arrive(now, &request, what == 0) {
                        prop_assert!(until >= now);
                        prop_assert_eq!(waiting.insert(ticket, (priority.min(7), until)), None);
                    }
                }
                3 => {
                    let next = admission.next(now, |ticket, shed| expired.push((ticket, shed)));
                    if let Some(ticket) = next {
                        let (priority, until) = waiting.remove(&ticket).unwrap();
                        prop_assert!(now < until);
                        let gone: Vec<_> = expired.iter().map(|(ticket, _)| *ticket).collect();
                        prop_assert!(waiting.iter().all(|(other, (p, _))| *p <= priority || gone.contains(other)));
                    }
                }
                4 => admission.expire(now, |ticket, shed| expired.push((ticket, shed))),
                _ => {
                    if let Some((&ticket, _)) = waiting.iter().nth(cohort as usize) {
                        prop_assert!(admission.cancel(now, ticket).is_some());
                        prop_assert_eq!(admission.cancel(now, ticket), None);
                        waiting.remove(&ticket);
                    }
                }
            }
            for (ticket, shed) in expired {
                prop_assert!(waiting.remove(&ticket).is_some());
                prop_assert!(shed.retry_after <= Duration::from_secs(20));
            }
            let stats = admission.stats();
            prop_assert_eq!(stats.waiting as usize, waiting.len());
            prop_assert!(stats.waiting <= queue_max);
            prop_assert!((0.0..=1.0).contains(&stats.refused_at_once));
        }
    }
}
