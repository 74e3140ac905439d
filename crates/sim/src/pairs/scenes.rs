//! The scenes.

use flyball_policy::sched::pool::Sizing;

use super::{Pool, Scene, Span};
use crate::overload::service::Work;

const fn span(from: usize, to: usize, usage: Option<f64>) -> Span {
    Span { from, to, usage }
}

/// From one value to another between 20 s and 40 s.
fn steps(second: f64, before: f64, within: f64) -> f64 {
    if (20.0..40.0).contains(&second) {
        within
    } else {
        before
    }
}

/// A neighbour that comes and goes each ten seconds.
fn comes_and_goes(second: f64) -> f64 {
    if ((second / 10.0) as u64).is_multiple_of(2) {
        0.05
    } else {
        0.2
    }
}

/// Three seconds after each step.
const HELD_AT_60: [Span; 3] = [
    span(5, 20, Some(60.0)),
    span(23, 40, Some(60.0)),
    span(43, 60, Some(60.0)),
];
/// The same after each change of the neighbour.
const HELD_BESIDE: [Span; 6] = [
    span(5, 10, Some(60.0)),
    span(13, 20, Some(60.0)),
    span(23, 30, Some(60.0)),
    span(33, 40, Some(60.0)),
    span(43, 50, Some(60.0)),
    span(53, 60, Some(60.0)),
];
/// In the middle what is not held back uses more than the threshold by itself.
const HELD_AT_25: [Span; 3] = [
    span(5, 20, Some(25.0)),
    span(23, 40, None),
    span(43, 60, Some(25.0)),
];
const SETTLED: [Span; 2] = [span(40, 80, None), span(120, 160, None)];

/// What the scenes have in common: eight CPUs, interactive calls and more of batch than fits.
const COMMON: Scene = Scene {
    name: "",
    cpus: 8,
    others: |_| 0.0,
    demand: [|second| steps(second, 0.15, 0.4), |_| 1.0],
    work: Work::Exp,
    work_ms: 8.0,
    blocks_ms: 0.0,
    deadline_ms: 250,
    gate: false,
    throttle: None,
    pool: Pool::Fixed(8),
    seconds: 60.0,
    spans: &HELD_AT_60,
};

const fn by(sizing: Sizing, max: u32) -> Pool {
    Pool::By {
        sizing,
        first: 2,
        max,
    }
}

pub(super) fn all() -> Vec<Scene> {
    let held = |name| Scene {
        name,
        gate: true,
        throttle: Some(60.0),
        ..COMMON
    };
    let mut scenes = vec![
        // The same without the throttle: what the limit is then.
        Scene {
            throttle: None,
            ..held("gate/step")
        },
        held("gate+throttle/step"),
        Scene {
            work: Work::Bimodal,
            others: comes_and_goes,
            demand: [|second| steps(second, 0.1, 0.25), |_| 1.0],
            spans: &HELD_BESIDE,
            ..held("gate+throttle/bimodal")
        },
        // Hardly anything is left to batch, then nothing.
        Scene {
            throttle: Some(25.0),
            demand: [|second| steps(second, 0.15, 0.5), |_| 1.0],
            spans: &HELD_AT_25,
            ..held("gate+throttle/hardly-any")
        },
    ];
    let stepping: [super::Curve; 2] = [|second| if second < 80.0 { 0.5 } else { 2.0 }, |_| 0.0];
    let pool = |name, blocks: bool, pool| Scene {
        name,
        cpus: 4,
        work_ms: 10.0,
        blocks_ms: if blocks { 50.0 } else { 0.0 },
        demand: stepping,
        gate: true,
        pool,
        seconds: 160.0,
        spans: &SETTLED,
        ..COMMON
    };
    scenes.extend([
        pool("gate/computing", false, Pool::Fixed(4)),
        pool("gate+classic/computing", false, by(Sizing::Classic, 16)),
        pool("gate+offered/computing", false, by(Sizing::Offered, 16)),
        pool("gate+adaptive/computing", false, by(Sizing::Adaptive, 16)),
        pool("gate/blocking", true, Pool::Fixed(28)),
        pool("gate+classic/blocking", true, by(Sizing::Classic, 64)),
        pool("gate+offered/blocking", true, by(Sizing::Offered, 64)),
        pool("gate+adaptive/blocking", true, by(Sizing::Adaptive, 64)),
    ]);
    let sized = |name, sizing| Scene {
        name,
        work: Work::Bimodal,
        others: comes_and_goes,
        demand: [|_| 0.05, |second| steps(second, 0.7, 1.5)],
        throttle: Some(60.0),
        pool: by(sizing, 32),
        spans: &HELD_BESIDE,
        ..COMMON
    };
    scenes.extend([
        sized("throttle+classic/bimodal", Sizing::Classic),
        sized("throttle+offered/bimodal", Sizing::Offered),
        sized("throttle+adaptive/bimodal", Sizing::Adaptive),
    ]);
    scenes
}
