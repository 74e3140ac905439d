//! The arbiter, rule by rule, and against a naive one.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::Error;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn spec(name: &str) -> KnobSpec {
    KnobSpec {
        name: name.to_owned(),
        unit: "workers",
        min: 1.0,
        max: 16.0,
        about: "how many workers there are",
    }
}

fn arbiter() -> (Arbiter, KnobId) {
    let mut arbiter = Arbiter::new();
    let knob = arbiter.add_knob(spec("workers"), 4.0);
    (arbiter, knob)
}

fn wants(knob: KnobId, rank: Rank, part: &'static str, value: f64, hold: u64) -> Proposal {
    Proposal {
        knob,
        value,
        rank,
        part,
        hold: Duration::from_secs(hold),
        reason: format!("{part} has its reasons"),
        evidence: vec![Evidence::new("load", 0.93, "")],
    }
}

fn one(arbiter: &mut Arbiter, now: u64, proposal: Proposal) -> Decision {
    let mut decisions = arbiter.decide(at(now), vec![proposal]);
    assert_eq!(decisions.len(), 1);
    decisions.pop().unwrap()
}

/// DESIGN control loop: the highest rank prevails in a round, the first among equals; every loser is told who did.
#[test]
fn the_highest_rank_prevails() {
    let (mut arbiter, knob) = arbiter();
    let round = vec![
        wants(knob, Rank::Optimizer, "optimizer", 9.0, 0),
        wants(knob, Rank::Throttle, "throttle", 2.0, 30),
        wants(knob, Rank::Throttle, "other", 3.0, 0),
        wants(knob, Rank::Pool, "pool", 6.0, 0),
    ];
    let decisions = arbiter.decide(at(1), round);
    let parts: Vec<_> = decisions.iter().map(|d| (d.number, d.part)).collect();
    assert_eq!(
        parts,
        [(1, "optimizer"), (2, "throttle"), (3, "other"), (4, "pool")],
        "decisions stand where their proposals stood"
    );
    assert!(decisions[1].applied());
    assert_eq!((decisions[1].from, decisions[1].to), (4.0, 2.0));
    assert_eq!(arbiter.value(knob), 2.0);
    for lost in [0, 2, 3] {
        let refusal = Refusal::Outranked {
            by: Rank::Throttle,
            part: "throttle",
            until: at(31),
        };
        assert_eq!(decisions[lost].refusal(), Some(&refusal));
        assert!(!decisions[lost].quiet);
    }
    assert_eq!(
        decisions[3].to_string(),
        "#4 pool: workers from 2 to 6 refused (throttle prevails with rank throttle for 30 s more): pool has its reasons"
    );
    assert_eq!(
        decisions[1].to_string(),
        "#2 throttle: workers from 4 to 2: throttle has its reasons"
    );
    assert_eq!(decisions[3].evidence, [Evidence::new("load", 0.93, "")]);
}

/// DESIGN control loop: a hold keeps lower ranks away until it expires, and neither equals, nor higher ranks, nor the holder.
#[test]
fn holds_expire() {
    let (mut arbiter, knob) = arbiter();
    let held = wants(knob, Rank::Throttle, "throttle", 2.0, 10);
    assert!(one(&mut arbiter, 0, held).applied());
    let pool = |value| wants(knob, Rank::Pool, "pool", value, 0);
    assert!(!one(&mut arbiter, 9, pool(5.0)).applied());
    assert_eq!(
        arbiter.get(knob).held(at(9)).map(|hold| hold.part),
        Some("throttle")
    );
    assert_eq!(arbiter.get(knob).held(at(10)), None, "the end is exclusive");
    assert!(one(&mut arbiter, 10, pool(5.0)).applied());

    let held = wants(knob, Rank::Throttle, "throttle", 2.0, 10);
    assert!(one(&mut arbiter, 20, held.clone()).applied());
    let equal = wants(knob, Rank::Throttle, "second throttle", 3.0, 10);
    assert!(one(&mut arbiter, 21, equal).applied());
    assert!(
        one(&mut arbiter, 22, held).applied(),
        "the hold of the equal does not keep the first away"
    );
    let humble = wants(knob, Rank::Optimizer, "throttle", 8.0, 0);
    assert!(
        one(&mut arbiter, 23, humble).applied(),
        "a part may change what it holds, whatever its rank"
    );
    assert!(
        one(&mut arbiter, 24, pool(5.0)).applied(),
        "the new value came without a hold"
    );
    let for_ever = Proposal {
        hold: Duration::MAX,
        ..wants(knob, Rank::Safety, "memory", 1.0, 0)
    };
    assert!(one(&mut arbiter, 30, for_ever).applied());
    assert!(!one(&mut arbiter, 30 + 3_599, pool(5.0)).applied());
    assert!(one(&mut arbiter, 30 + 3_600, pool(5.0)).applied());
}

/// DESIGN control loop: asking for the value that there is changes nothing and need not be told, but keeps lower ranks away.
#[test]
fn the_same_value_is_refused_quietly_and_still_counts() {
    let (mut arbiter, knob) = arbiter();
    let throttle = || wants(knob, Rank::Throttle, "throttle", 4.0, 10);
    let round = vec![wants(knob, Rank::Pool, "pool", 6.0, 0), throttle()];
    let decisions = arbiter.decide(at(0), round);
    assert_eq!(decisions[1].refusal(), Some(&Refusal::NoChange));
    assert!(decisions[1].quiet);
    assert_eq!(decisions[0].refusal().map(Refusal::code), Some("outranked"));
    assert_eq!(arbiter.value(knob), 4.0);
    for second in 1..1_000 {
        let renewed = one(&mut arbiter, second, throttle());
        assert!(renewed.quiet);
        let pool = wants(knob, Rank::Pool, "pool", 6.0, 0);
        let refused = one(&mut arbiter, second, pool);
        assert!(!refused.applied(), "the hold was renewed");
        assert!(refused.quiet, "the same refusal again");
    }
    let other = wants(knob, Rank::Pool, "pool", 7.0, 0);
    assert!(!one(&mut arbiter, 1_000, other).quiet, "something new");
    assert!(arbiter.get(knob).changed().is_none());
    assert_eq!(arbiter.last_decision(), 2 + 2 * 999 + 1);
}

/// DESIGN control loop: what is no number or out of bounds is refused, not clamped, and does not stand in the way of others.
#[test]
fn bad_values_are_refused() {
    let (mut arbiter, knob) = arbiter();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let bad = wants(knob, Rank::Safety, "memory", value, 10);
        let decision = one(&mut arbiter, 0, bad);
        assert_eq!(decision.refusal(), Some(&Refusal::NotFinite));
        assert_eq!(
            arbiter.pin(knob, value, "ada", at(0)).refusal(),
            Some(&Refusal::NotFinite)
        );
    }
    let bounds = Refusal::OutOfBounds {
        min: 1.0,
        max: 16.0,
    };
    for value in [0.999, 16.001, -1e300] {
        let round = vec![
            wants(knob, Rank::Safety, "memory", value, 10),
            wants(knob, Rank::Optimizer, "optimizer", 4.0, 0),
        ];
        let decisions = arbiter.decide(at(0), round);
        assert_eq!(decisions[0].refusal(), Some(&bounds));
        assert_eq!(decisions[1].refusal(), Some(&Refusal::NoChange));
        assert_eq!(
            arbiter.pin(knob, value, "ada", at(0)).refusal(),
            Some(&bounds)
        );
    }
    assert!(arbiter.get(knob).pin().is_none());
    assert_eq!(arbiter.value(knob), 4.0);
}

/// DESIGN control loop: a pin by a person outranks throttle, pool and optimizer, not safety, and ends when it is taken away.
#[test]
fn pins_stand_until_they_are_taken_away() {
    let (mut arbiter, knob) = arbiter();
    let held = wants(knob, Rank::Throttle, "throttle", 2.0, 100);
    assert!(one(&mut arbiter, 0, held).applied());
    let pinned = arbiter.pin(knob, 8.0, "ada", at(1));
    assert!(pinned.applied(), "a pin outranks the hold of a throttle");
    assert_eq!(arbiter.value(knob), 8.0);
    for (rank, part) in [
        (Rank::Pin, "script"),
        (Rank::Throttle, "throttle"),
        (Rank::Pool, "pool"),
        (Rank::Optimizer, "optimizer"),
    ] {
        let refused = one(&mut arbiter, 2, wants(knob, rank, part, 3.0, 0));
        let who = "ada".to_owned();
        assert_eq!(refused.refusal(), Some(&Refusal::Pinned { who }));
    }
    let anew = arbiter.pin(knob, 9.0, "grace", at(3));
    assert!(anew.applied());
    assert_eq!(
        anew.reason,
        "pinned to 9 by grace; it was pinned to 8 by ada"
    );
    let same = arbiter.pin(knob, 9.0, "grace", at(3));
    assert!(same.applied(), "a pin at the present value is a pin");
    let unpinned = arbiter.unpin(knob, "ada", at(4));
    assert!(unpinned.applied());
    assert_eq!((unpinned.from, unpinned.to), (9.0, 9.0));
    assert!(arbiter.get(knob).pin().is_none());
    let pool = wants(knob, Rank::Pool, "pool", 6.0, 0);
    assert!(one(&mut arbiter, 4, pool).applied());
    assert!(!arbiter.unpin(knob, "ada", at(5)).applied());
}

/// DESIGN control loop: safety overrides a pin for as long as it holds the knob; then the pinned value comes back, once.
#[test]
fn a_pin_comes_back_after_safety() {
    let (mut arbiter, knob) = arbiter();
    assert!(arbiter.pin(knob, 8.0, "ada", at(0)).applied());
    let safety = |value| wants(knob, Rank::Safety, "memory", value, 10);
    assert!(one(&mut arbiter, 1, safety(2.0)).applied());
    assert_eq!(
        arbiter
            .pin(knob, 9.0, "ada", at(2))
            .refusal()
            .map(Refusal::code),
        Some("outranked"),
        "no pin against safety"
    );
    assert_eq!(arbiter.decide(at(10), vec![]), []);
    assert!(one(&mut arbiter, 10, safety(2.0)).quiet, "renewed");
    assert_eq!(arbiter.decide(at(19), vec![]), []);
    let pool = wants(knob, Rank::Pool, "pool", 3.0, 0);
    let mut decisions = arbiter.decide(at(20), vec![pool]);
    assert_eq!(decisions.len(), 2, "one for the proposal, one for the pin");
    assert_eq!(decisions[0].refusal().map(Refusal::code), Some("pinned"));
    let back = &mut decisions[1];
    assert!(back.applied());
    assert_eq!((back.part, back.rank), ("pin", Rank::Pin));
    assert_eq!((back.from, back.to), (2.0, 8.0));
    assert_eq!(
        back.reason,
        "safety no longer holds it: back to 8, as pinned by ada"
    );
    assert!(arbiter.failed(back, "no thread could be started"));
    assert_eq!(arbiter.value(knob), 2.0);
    assert_eq!(
        arbiter.decide(at(21), vec![]),
        [],
        "what failed is not tried for ever"
    );
    assert_eq!(arbiter.get(knob).pin().map(|pin| pin.value), Some(8.0));
}

/// DESIGN control loop: new bounds bring a value to the nearest one as a decision of rank safety; bad bounds are refused.
#[test]
fn bounds_clamp() {
    let (mut arbiter, knob) = arbiter();
    assert_eq!(arbiter.set_bounds(knob, 2.0, 8.0, at(0)), None);
    arbiter.pin(knob, 8.0, "ada", at(0));
    let decision = arbiter.set_bounds(knob, 1.0, 6.0, at(1)).unwrap();
    assert!(decision.applied());
    assert_eq!((decision.from, decision.to), (8.0, 6.0));
    assert_eq!(decision.rank, Rank::Safety);
    assert_eq!(
        decision.reason,
        "the bounds became 1 to 6, and 8 lies outside of them"
    );
    assert_eq!(arbiter.get(knob).pin().map(|pin| pin.value), Some(6.0));
    for (min, max) in [(f64::NAN, 3.0), (1.0, f64::INFINITY), (5.0, 4.0)] {
        let decision = arbiter.set_bounds(knob, min, max, at(2)).unwrap();
        assert_eq!(
            decision.refusal().map(Refusal::code),
            Some("bad_bounds"),
            "{min} {max}"
        );
        assert_eq!((decision.from, decision.to), (6.0, 6.0));
    }
    assert_eq!(arbiter.get(knob).spec().max, 6.0);
    let mut clamped = arbiter.set_bounds(knob, 1.0, 3.0, at(3)).unwrap();
    assert!(arbiter.failed(&mut clamped, "three workers cannot be stopped"));
    assert_eq!(arbiter.value(knob), 6.0);
    assert_eq!(
        arbiter.get(knob).spec().max,
        6.0,
        "bounds that cannot be had are not kept"
    );
    assert_eq!(arbiter.get(knob).pin().map(|pin| pin.value), Some(6.0));
}

/// DESIGN control loop: what could not be acted on leaves the knob as it was, hold and pin included.
#[test]
fn failed_acts_roll_back() {
    let (mut arbiter, knob) = arbiter();
    let held = wants(knob, Rank::Pool, "pool", 6.0, 100);
    assert!(one(&mut arbiter, 0, held).applied());
    let before = arbiter.get(knob).changed();
    let mut failing = one(
        &mut arbiter,
        1,
        wants(knob, Rank::Safety, "memory", 2.0, 50),
    );
    assert!(arbiter.failed(&mut failing, "no such file"));
    let why = "no such file".to_owned();
    assert_eq!(failing.refusal(), Some(&Refusal::ActFailed { why }));
    assert_eq!(arbiter.value(knob), 6.0);
    assert_eq!(arbiter.get(knob).changed(), before);
    assert_eq!(
        arbiter.get(knob).held(at(2)).map(|hold| hold.part),
        Some("pool"),
        "the old hold is back"
    );
    assert!(!arbiter.failed(&mut failing, "again"), "only once");
    assert!(
        failing
            .to_string()
            .contains("acting on it failed: no such file")
    );

    let mut pin = arbiter.pin(knob, 7.0, "ada", at(3));
    assert!(arbiter.failed(&mut pin, "no"));
    assert!(arbiter.get(knob).pin().is_none());

    let mut first = one(&mut arbiter, 4, wants(knob, Rank::Safety, "memory", 3.0, 0));
    let second = one(&mut arbiter, 5, wants(knob, Rank::Safety, "memory", 5.0, 0));
    assert!(!arbiter.failed(&mut first, "too late"));
    assert!(!first.applied() && second.applied());
    assert_eq!(arbiter.value(knob), 5.0, "the later decision stands");
}

/// DESIGN control loop: names and bounds of knobs are checked, texts and evidence are cut to their bounds.
#[test]
fn everything_is_bounded() {
    let mut arbiter = Arbiter::continuing(41);
    let wrong = |change: fn(&mut KnobSpec)| {
        let mut wrong = spec("other");
        change(&mut wrong);
        wrong
    };
    let knob = arbiter.add_knob(spec("workers"), 4.0);
    for (bad, value) in [
        (spec("workers"), 4.0),
        (spec(""), 4.0),
        (spec(&"x".repeat(129)), 4.0),
        (wrong(|spec| spec.min = f64::NAN), 4.0),
        (wrong(|spec| spec.max = f64::INFINITY), 4.0),
        (wrong(|spec| spec.max = 0.0), 4.0),
        (wrong(|_| ()), 17.0),
        (wrong(|_| ()), f64::NAN),
    ] {
        let refused = arbiter.try_add_knob(bad, value);
        assert!(matches!(refused, Err(Error::Knob { .. })), "{refused:?}");
    }
    let long = Proposal {
        reason: "ä".repeat(4_000),
        evidence: vec![Evidence::new("x", 1.0, ""); 100],
        ..wants(knob, Rank::Pool, "pool", 5.0, 0)
    };
    let mut decision = one(&mut arbiter, 0, long);
    assert_eq!(decision.number, 42);
    assert!(decision.reason.len() <= MAX_TEXT && decision.reason.ends_with("ä…"));
    assert_eq!(decision.evidence.len(), MAX_EVIDENCE);
    arbiter.failed(&mut decision, "y".repeat(10_000));
    let Some(Refusal::ActFailed { why }) = decision.refusal() else {
        panic!("{decision:?}");
    };
    assert_eq!(why.len(), MAX_TEXT);
    let pinned = arbiter.pin(knob, 5.0, "z".repeat(10_000), at(0));
    assert!(pinned.reason.len() <= MAX_TEXT);
    assert_eq!(arbiter.get(knob).pin().map(|p| p.who.len()), Some(MAX_TEXT));
    for n in 1..MAX_KNOBS {
        arbiter.add_knob(spec(&format!("k{n}")), 1.0);
    }
    assert_eq!(arbiter.knobs().len(), MAX_KNOBS);
    assert!(arbiter.try_add_knob(spec("one more"), 1.0).is_err());
    assert_eq!(arbiter.knob("k7").map(|k| k.id().index()), Some(7));
    assert!(arbiter.knob("one more").is_none());
    // One that nobody turns any more makes room: of the old one nothing is left.
    assert!(arbiter.replace_knob(knob, spec("k7"), 1.0).is_err());
    assert!(
        arbiter
            .replace_knob(knob, spec("one more"), f64::NAN)
            .is_err()
    );
    assert!(arbiter.get(knob).pin().is_some());
    arbiter.replace_knob(knob, spec("one more"), 1.0).unwrap();
    let replaced = arbiter.knob("one more").unwrap();
    assert_eq!((replaced.id(), replaced.value()), (knob, 1.0));
    assert!(replaced.pin().is_none() && replaced.changed().is_none());
    assert_eq!(arbiter.knobs().len(), MAX_KNOBS);
    assert!(
        arbiter
            .knobs()
            .enumerate()
            .all(|(i, k)| k.id().index() == i && arbiter.get(k.id()).name() == k.name())
    );
}

/// DESIGN control loop: figures and time spans in reasons read as people write them.
#[test]
fn figures_are_readable() {
    for (figure, text) in [
        (0.0, "0"),
        (4.0, "4"),
        (-4.0, "-4"),
        (0.934, "0.93"),
        (120.5, "120.50"),
        (0.000_123_4, "1.23e-4"),
        (1e300, "1.000e300"),
        (f64::NAN, "NaN"),
    ] {
        assert_eq!(Figure(figure).to_string(), text);
    }
    for (millis, text) in [
        (0, "0 µs"),
        (250, "250 ms"),
        (5_000, "5 s"),
        (5_010, "5 s"),
        (5_500, "5.5 s"),
        (90_500, "90 s"),
    ] {
        assert_eq!(Span(Duration::from_millis(millis)).to_string(), text);
    }
}

const PARTS: [&str; 4] = ["ape", "bee", "cat", "dog"];

#[derive(Clone, Debug)]
enum Op {
    /// Proposals (knob, value, rank, part, hold), and of the applied ones those whose act fails (by a bit each).
    Round(Vec<(usize, f64, usize, usize, u64)>, u8),
    Pin(usize, f64),
    Unpin(usize),
    Bounds(usize, f64, f64, bool),
    Wait(u64),
}

/// Mostly whole numbers, so that values meet; some out of bounds or no number.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        10 => (0u32..12).prop_map(f64::from),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => -1e9..1e9,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let proposal = (0usize..2, value(), 0usize..5, 0usize..4, 0u64..6);
    prop_oneof![
        6 => (prop::collection::vec(proposal, 0..7), prop_oneof![3 => Just(0u8), 1 => any::<u8>()])
            .prop_map(|(proposals, fails)| Op::Round(proposals, fails)),
        1 => (0usize..2, value()).prop_map(|(knob, value)| Op::Pin(knob, value)),
        1 => (0usize..2).prop_map(Op::Unpin),
        1 => (0usize..2, value(), value(), any::<bool>()).prop_map(|(k, a, b, f)| Op::Bounds(k, a, b, f)),
        3 => (0u64..5).prop_map(Op::Wait),
    ]
}

/// What the naive arbiter knows of a knob.
#[derive(Clone, Debug, PartialEq)]
struct Naive {
    value: f64,
    min: f64,
    max: f64,
    /// Rank, part, end.
    hold: Option<(usize, usize, u64)>,
    /// Value, and the end of the hold that overrides it.
    pin: Option<(f64, Option<u64>)>,
}

impl Naive {
    fn fits(&self, value: f64) -> bool {
        value.is_finite() && self.min <= value && value <= self.max
    }

    fn may(&self, rank: usize, part: usize, now: u64) -> bool {
        let held = |(by, holder, until)| now < until && by < rank && holder != part;
        (self.pin.is_none() || rank == 0) && !self.hold.is_some_and(held)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// DESIGN control loop: the arbiter decides as a naive one does, whatever is proposed, pinned, bounded and fails.
    #[test]
    fn it_agrees_with_a_naive_arbiter(ops in prop::collection::vec(op(), 1..60)) {
        let mut arbiter = Arbiter::new();
        let ids = [arbiter.add_knob(spec("one"), 4.0), arbiter.add_knob(spec("two"), 5.0)];
        let start = |value| Naive { value, min: 1.0, max: 16.0, hold: None, pin: None };
        let mut naive = [start(4.0), start(5.0)];
        let (mut now, mut number) = (0u64, 0u64);
        for op in ops {
            let mut made: Vec<Decision> = Vec::new();
            match op {
                Op::Wait(seconds) => now += seconds,
                Op::Pin(k, value) => {
                    let knob = &mut naive[k];
                    let safe = matches!(knob.hold, Some((0, _, until)) if now < until);
                    let expected = knob.fits(value) && !safe;
                    if expected {
                        *knob = Naive { value, hold: None, pin: Some((value, None)), ..*knob };
                    }
                    made.push(arbiter.pin(ids[k], value, "ada", at(now)));
                    prop_assert_eq!(made[0].applied(), expected);
                }
                Op::Unpin(k) => {
                    let expected = naive[k].pin.take().is_some();
                    made.push(arbiter.unpin(ids[k], "ada", at(now)));
                    prop_assert_eq!(made[0].applied(), expected);
                }
                Op::Bounds(k, min, max, fails) => {
                    let before = naive[k].clone();
                    let good = min.is_finite() && max.is_finite() && min <= max;
                    let knob = &mut naive[k];
                    if good {
                        (knob.min, knob.max) = (min, max);
                        knob.value = knob.value.max(min).min(max);
                        knob.pin = knob.pin.map(|(v, until)| (v.max(min).min(max), until));
                    }
                    let clamped = knob.value != before.value;
                    let decision = arbiter.set_bounds(ids[k], min, max, at(now));
                    prop_assert_eq!(decision.is_some(), clamped || !good);
                    if let Some(mut decision) = decision {
                        prop_assert_eq!(decision.applied(), good);
                        if fails {
                            prop_assert_eq!(arbiter.failed(&mut decision, "no"), good);
                            naive[k] = before;
                        }
                        made.push(decision);
                    }
                }
                Op::Round(proposals, fails) => {
                    let before = naive.clone();
                    let round = proposals.iter().map(|(k, value, rank, part, hold)| {
                        wants(ids[*k], Rank::ALL[*rank], PARTS[*part], *value, *hold)
                    });
                    made = arbiter.decide(at(now), round.collect());
                    let mut codes: Vec<&str> = vec![""; proposals.len()];
                    let mut backs = Vec::new();
                    for (k, knob) in naive.iter_mut().enumerate() {
                        let mut winner = None;
                        for rank in 0..5 {
                            for (i, p) in proposals.iter().enumerate() {
                                let (of, value, _, part, hold) = *p;
                                if of != k || p.2 != rank {
                                    continue;
                                }
                                codes[i] = if !value.is_finite() {
                                    "not_finite"
                                } else if !knob.fits(value) {
                                    "out_of_bounds"
                                } else if knob.pin.is_some() && rank != 0 {
                                    "pinned"
                                } else if winner.is_some() || !knob.may(rank, part, now) {
                                    "outranked"
                                } else {
                                    winner = Some(i);
                                    knob.hold = Some((rank, part, now + hold));
                                    let code = if knob.value == value { "no_change" } else { "applied" };
                                    knob.value = value;
                                    if let Some((pinned, overridden)) = &mut knob.pin {
                                        *overridden = (*pinned != value).then_some(now + hold);
                                    }
                                    code
                                };
                            }
                        }
                        if winner.is_none()
                            && let Some((pinned, Some(until))) = knob.pin
                            && until <= now
                        {
                            knob.pin = Some((pinned, None));
                            if knob.value != pinned {
                                (knob.value, knob.hold) = (pinned, None);
                                backs.push(k);
                            }
                        }
                    }
                    prop_assert_eq!(made.len(), proposals.len() + backs.len());
                    for (i, decision) in made.iter_mut().enumerate() {
                        let code = codes.get(i).copied().unwrap_or("applied");
                        prop_assert_eq!(decision.refusal().map_or("applied", Refusal::code), code);
                        prop_assert_eq!(code == "no_change" && !decision.quiet, false);
                        let k = proposals.get(i).map_or_else(|| backs[i - proposals.len()], |p| p.0);
                        prop_assert_eq!(&decision.knob, ["one", "two"][k]);
                        if decision.applied() && fails & (1 << (i % 8)) != 0 {
                            prop_assert!(arbiter.failed(decision, "no"));
                            let back = backs.contains(&k);
                            naive[k] = before[k].clone();
                            if back {
                                // A pin that comes back tries once.
                                naive[k].pin = naive[k].pin.map(|(value, _)| (value, None));
                            }
                        }
                    }
                    for name in ["one", "two"] {
                        let applied = made.iter().filter(|d| d.knob == name && d.applied()).count();
                        prop_assert!(applied <= 1, "{applied} applied to {name} in a round");
                    }
                }
            }
            for decision in &made {
                number += 1;
                prop_assert_eq!(decision.number, number);
                prop_assert_eq!(decision.at, at(now));
                prop_assert!(!decision.reason.is_empty());
                prop_assert!(!decision.quiet || !decision.applied());
            }
            for (id, naive) in ids.iter().zip(&naive) {
                let knob = arbiter.get(*id);
                prop_assert_eq!(knob.value(), naive.value);
                prop_assert!(knob.value().is_finite());
                prop_assert!((knob.spec().min..=knob.spec().max).contains(&knob.value()));
                prop_assert_eq!((knob.spec().min, knob.spec().max), (naive.min, naive.max));
                prop_assert_eq!(knob.pin().map(|pin| pin.value), naive.pin.map(|pin| pin.0));
                let held = knob.held(at(now)).map(|h| (h.rank as usize, h.part, h.until));
                let expected = naive.hold.filter(|h| now < h.2).map(|h| (h.0, PARTS[h.1], at(h.2)));
                prop_assert_eq!(held, expected);
            }
        }
    }
}

/// DESIGN control loop: a controller is a plain value behind the trait.
#[test]
fn controllers_are_plain_values() {
    struct Thermostat(KnobId);
    impl Controller for Thermostat {
        type View = f64;
        fn part(&self) -> &'static str {
            "thermostat"
        }
        fn period(&self) -> Duration {
            Duration::from_secs(1)
        }
        fn step(&mut self, _: Timestamp, view: &f64) -> Option<Proposal> {
            (*view > 0.9).then(|| wants(self.0, Rank::Throttle, self.part(), 1.0, 1))
        }
    }
    let (mut arbiter, knob) = arbiter();
    let mut boxed: alloc::boxed::Box<dyn Controller<View = f64>> =
        alloc::boxed::Box::new(Thermostat(knob));
    assert_eq!(boxed.step(at(0), &0.5), None);
    let hot = boxed.step(at(1), &0.95).unwrap();
    assert!(one(&mut arbiter, 1, hot).applied());
    let name: String = arbiter.get(knob).name().to_owned();
    assert_eq!((name.as_str(), arbiter.value(knob)), ("workers", 1.0));
}
