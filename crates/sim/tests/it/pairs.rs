//! Two controllers at once, which `flyball-sim pairs` prints.

use std::process::Command;

use flyball_sim::pairs::{Report, Scene};

fn run(name: &str) -> Report {
    let scenes = Scene::all();
    let scene = scenes.iter().find(|scene| scene.name == name);
    scene.unwrap().run(1).unwrap()
}

fn holds(report: &Report) {
    assert!(report.usage_off.unwrap() <= 3.0, "{report:?}");
}

/// CPU-20, CPU-22: what a throttle holds back waits, and a gate takes waiting for too many calls. Use is held all the same, the limit neither collapses nor
/// swings more than without the throttle, and calls that are not held are answered, through steps of their demand and beside a neighbour.
#[test]
fn a_gate_bears_a_throttle() {
    let alone = run("gate/step");
    for name in ["gate+throttle/step", "gate+throttle/bimodal"] {
        let both = run(name);
        holds(&both);
        assert!(both.interactive.unwrap() >= 0.97, "{both:?}");
        let (least, _) = both.limit.unwrap();
        assert!(least >= 0.4 * alone.limit.unwrap().0, "{both:?} {alone:?}");
        assert!(both.limit_swing.unwrap() <= 2.5, "{both:?} {alone:?}");
    }
}

/// CPU-20, CPU-22: where hardly any use is left to what is held back, and then none, those who are not held are answered.
#[test]
fn who_is_not_held_back_comes_through_the_gate() {
    let report = run("gate+throttle/hardly-any");
    holds(&report);
    assert!(report.interactive.unwrap() >= 0.97, "{report:?}");
}

/// CPU-16, CPU-17, CPU-22: a gate lets in what the workers there are can do, and the pool grows for what waits for them: neither keeps the other small, whichever way
/// the pool is sized, for calls that compute and for calls that block; both settle.
#[test]
fn a_gate_and_a_pools_size_settle() {
    for work in ["computing", "blocking"] {
        let fixed = run(&format!("gate/{work}"));
        for sizing in ["offered", "adaptive"] {
            let both = run(&format!("gate+{sizing}/{work}"));
            let (reached, best) = (both.interactive.unwrap(), fixed.interactive.unwrap());
            assert!(reached >= 0.95 * best, "{both:?} {fixed:?}");
            assert!(both.limit_swing.unwrap() <= 2.0, "{both:?} {fixed:?}");
        }
    }
}

/// CPU-16, CPU-17, CPU-20: a throttle and a pool that sizes itself, with tasks of very unequal length, a step of demand and a neighbour: use is held, and the size
/// rests.
#[test]
fn a_throttle_and_a_pools_size_settle() {
    for sizing in ["classic", "offered", "adaptive"] {
        let report = run(&format!("throttle+{sizing}/bimodal"));
        holds(&report);
        assert!(report.resized <= 3, "{report:?}");
    }
}

/// A seed is a run; the program prints the same bytes each time.
#[test]
fn a_scene_repeats() {
    let print = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_flyball-sim"))
            .arg("pairs")
            .args(arguments)
            .output()
            .unwrap()
    };
    let arguments = ["--scenes", "gate+throttle/step", "--seed", "3"];
    let first = print(&arguments);
    assert!(
        first.status.success() && !first.stdout.is_empty(),
        "{first:?}"
    );
    assert_eq!(first.stdout, print(&arguments).stdout);
    let refused = print(&["--scenes", "nowhere"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}
