//! Dispatch to many workers, smaller than `flyball-sim dispatch` runs it.

use std::process::Command;

use flyball_sim::dispatch::{Dispatch, Row, Size, dispatch, to_text};

fn run(size: Size) -> Dispatch {
    dispatch(size, &mut |_, _| {}).unwrap()
}

fn row<'a>(rows: &'a [Row], name: &str) -> &'a Row {
    rows.iter().find(|row| row.name == name).unwrap()
}

/// CPU-12: late binding is within a tenth of an ideal central queue at the 99th percentile, and half of what two choices by peak EWMA need, on unequal
/// workers with bursts and with work of two kinds.
#[test]
fn late_binding_is_nearly_ideal() {
    let report = run(Size {
        workers: 300,
        tasks: 40_000,
        seeds: 2,
    });
    assert_eq!(report.scenarios.len(), 2);
    for scenario in &report.scenarios {
        let pull = row(&scenario.rows, "flyball/pull");
        assert!(pull.p99_of_ideal.mean <= 1.1, "{pull:?}");
        assert!(pull.p99_of_peak_ewma.mean <= 0.5, "{pull:?}");
        for row in &scenario.rows {
            assert!(row.p99_of_ideal.mean >= 0.999, "better than ideal: {row:?}");
        }
    }
}

/// The comparison repeats, from the program too; sizes out of range are refused.
#[test]
fn it_repeats() {
    let size = Size {
        workers: 20,
        tasks: 2_000,
        seeds: 3,
    };
    let report = run(size);
    assert_eq!(report, run(size));
    let print = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_flyball-sim"))
            .arg("dispatch")
            .args(arguments)
            .output()
            .unwrap()
    };
    let printed = print(&["--workers", "20", "--tasks", "2000", "--seeds", "3"]);
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), to_text(&report));
    for wrong in [
        &["--workers", "0"][..],
        &["--tasks", "0"],
        &["--seeds", "0"],
    ] {
        let refused = print(wrong);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(refused.stdout.is_empty());
    }
}
