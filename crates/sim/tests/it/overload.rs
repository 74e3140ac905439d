//! A few cells of the overload grid, which `flyball-sim overload` runs whole.

use std::process::Command;

use flyball_sim::overload::{Cell, ClassReport, Grid, Kind, classes, grid};

fn run(names: &[&str], kinds: &[Kind]) -> Grid {
    let cells: Vec<Cell> = Cell::all()
        .into_iter()
        .filter(|cell| names.contains(&cell.name().as_str()))
        .collect();
    assert_eq!(cells.len(), names.len());
    grid(&cells, kinds, 1, &mut |_| {}).unwrap()
}

/// CPU-22: the grid has at least a hundred cells with names of their own, half of them held out.
#[test]
fn half_of_the_grid_is_held_out() {
    let cells = Cell::all();
    let held_out = cells.iter().filter(|cell| cell.held_out).count();
    assert!(cells.len() >= 100 && 2 * held_out == cells.len());
    let mut names: Vec<String> = cells.iter().map(Cell::name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), cells.len());
}

/// CPU-22: without tuning the default does nearly what the best fixed limit does that knows the run beforehand, at twice the capacity
/// and after steps, and refuses next to nothing at four fifths, on services that were not looked at; no limit at all serves nobody.
#[test]
fn the_default_does_nearly_what_the_best_fixed_limit_does() {
    let names = ["bimodal4/steady-0.8x", "cpu2/steady-2x", "pareto6/step"];
    let report = run(&names, &[Kind::RunDelay, Kind::None]);
    let [Some(summary), ..] = &report.summaries["run_delay"] else {
        panic!("no summary")
    };
    assert!(summary.goodput_worst.value >= 0.95, "{summary:?}");
    assert!(
        summary.p99_at_2x_worst.as_ref().unwrap().value <= 1.15,
        "{summary:?}"
    );
    assert!(
        summary.converged_worst_s.as_ref().unwrap().value <= 2.0,
        "{summary:?}"
    );
    assert!(
        summary.refused_at_08_worst.as_ref().unwrap().value < 0.005,
        "{summary:?}"
    );
    let [Some(unlimited), ..] = &report.summaries["none"] else {
        panic!("no summary")
    };
    assert!(unlimited.goodput_worst.value < 0.2, "{unlimited:?}");
}

fn run_classes(names: &[&str]) -> Vec<ClassReport> {
    let cells: Vec<Cell> = Cell::with_classes()
        .into_iter()
        .filter(|cell| names.contains(&cell.name().as_str()))
        .collect();
    assert_eq!(cells.len(), names.len());
    let kinds = [Kind::RunDelay, Kind::None];
    classes(&cells, &kinds, 1, &mut |_| {}).unwrap()
}

fn check_classes(report: &ClassReport) {
    let own = &report.limiters["run_delay"];
    assert!(own.goodput >= 0.95, "{report:?}");
    assert!(own.interactive >= 0.97, "{report:?}");
    let unlimited = &report.limiters["none"];
    assert!(unlimited.interactive < 0.5, "{report:?}");
}

/// CPU-22, CPU-23: whoever matters is answered as if the others were not there, as far as the CPUs reach, at twice and ten times the capacity, whether few
/// calls or most are such; and all together are answered as by the best fixed limit with the same queue. On a service that was not looked at, too.
#[test]
fn who_matters_is_answered_under_any_overload() {
    for report in run_classes(&[
        "small2/steady-10x/interactive-5",
        "small2/steady-10x/interactive-20",
        "bimodal4/steady-2x/interactive-20",
        "bimodal4/steady-2x/interactive-90",
    ]) {
        check_classes(&report);
    }
}

/// CPU-22, CPU-23: a burst of calls that matter is answered from its first call on though lesser calls hold all slots.
#[test]
fn a_burst_of_who_matters_finds_room() {
    for report in run_classes(&[
        "small2/steady-2x/interactive-burst",
        "bimodal4/steady-2x/interactive-burst",
    ]) {
        check_classes(&report);
    }
}

/// A seed is a run, under every limiter; the program prints the same bytes each time.
#[test]
fn a_cell_repeats() {
    let names = ["small2/retry-storm"];
    assert_eq!(run(&names, &Kind::ALL), run(&names, &Kind::ALL));
    let print = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_flyball-sim"))
            .arg("overload")
            .args(arguments)
            .output()
            .unwrap()
    };
    let arguments = ["--cells", "small2/step", "--limiters", "aimd", "--each"];
    let first = print(&arguments);
    assert!(
        first.status.success() && !first.stdout.is_empty(),
        "{first:?}"
    );
    assert_eq!(first.stdout, print(&arguments).stdout);
    for wrong in [
        &["--cells", "nowhere"][..],
        &["--limiters", "luck"],
        &["--seeds", "0"],
    ] {
        let refused = print(wrong);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(refused.stdout.is_empty());
    }
}
