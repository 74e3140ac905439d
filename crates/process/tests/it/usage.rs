//! Figures are the kernel's, for the whole tree, and true.

use std::time::Duration;

use crate::{Test, helper, server, shell, this_program};

pub(crate) const TESTS: &[Test] = &[
    (
        "usage::peak_memory_is_the_childs_own",
        peak_memory_is_the_childs_own,
    ),
    (
        "usage::cpu_time_of_the_tree_is_counted",
        cpu_time_of_the_tree_is_counted,
    ),
    ("usage::io_is_counted", io_is_counted),
];

const MIB: u64 = 1 << 20;

/// TASK-11: a program of 256 MiB does not show in the figures of its children.
fn peak_memory_is_the_childs_own() {
    let mut ballast = vec![0_u8; 256 << 20];
    ballast.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let server = server();
    let small = server
        .spawn(shell("exit 0"))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(small.peak_memory < 16 * MIB, "{}", small.peak_memory);
    let large = server
        .spawn(helper(&["fill", "64"]))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(
        (64 * MIB..96 * MIB).contains(&large.peak_memory),
        "{}",
        large.peak_memory
    );
    std::hint::black_box(&ballast);
}

/// TASK-11: CPU time of a known burner, of two that run below a shell, and of an orphan.
fn cpu_time_of_the_tree_is_counted() {
    let server = server();
    let one = server
        .spawn(helper(&["burn", "100"]))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(
        (95..200).contains(&(one.cpu().as_millis() as u64)),
        "{:?}",
        one.cpu()
    );
    let this = this_program();
    let this = this.display();
    let script = format!("{this} --helper burn 60 & {this} --helper burn 60 & wait");
    let two = server
        .spawn(shell(&script))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(
        (115..250).contains(&(two.cpu().as_millis() as u64)),
        "{:?}",
        two.cpu()
    );
    // The orphan is still burning when its parent ends, and has time to finish.
    let script = format!("trap '' TERM; ({this} --helper burn 60 &)");
    let orphan = server
        .spawn(shell(&script).grace(Duration::from_secs(20)))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(orphan.cpu().as_millis() >= 55, "{orphan:?}");
}

/// TASK-11: bytes read and written.
fn io_is_counted() {
    let exit = server()
        .spawn(shell("head -c 1000000 /dev/zero | cat > /dev/null"))
        .unwrap()
        .wait_blocking()
        .unwrap();
    let io = exit.io.expect("this kernel counts");
    assert!(io.read >= 2_000_000 && io.written >= 2_000_000, "{io:?}");
}
