//! Output: bounded, counted, byte for byte.

use std::io::Read;

use crate::{Test, server, shell};

pub(crate) const TESTS: &[Test] = &[
    (
        "output::beyond_the_bound_is_counted",
        beyond_the_bound_is_counted,
    ),
    (
        "output::bytes_are_kept_as_they_are",
        bytes_are_kept_as_they_are,
    ),
    ("output::a_file_takes_what_fits", a_file_takes_what_fits),
    (
        "output::long_output_goes_to_a_file_without_a_name",
        long_output_goes_to_a_file_without_a_name,
    ),
    (
        "output::a_descriptor_is_handed_through",
        a_descriptor_is_handed_through,
    ),
    (
        "output::a_full_disk_does_not_stop_the_command",
        a_full_disk_does_not_stop_the_command,
    ),
];

/// TASK-11: what is beyond the bound is counted and said, and the command is not blocked.
fn beyond_the_bound_is_counted() {
    let exit = server()
        .spawn(
            shell("head -c 300000 /dev/zero; head -c 7 /dev/zero >&2")
                .capture_stdout(1000)
                .capture_stderr(3),
        )
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(exit.success());
    let (out, err) = (exit.stdout.unwrap(), exit.stderr.unwrap());
    assert_eq!(
        (out.written(), out.kept(), out.dropped()),
        (300_000, 1000, 299_000)
    );
    assert_eq!((err.written(), err.kept(), err.dropped()), (7, 3, 4));
    assert_eq!(out.to_bytes().unwrap(), vec![0; 1000]);
}

/// TASK-12: output that is not UTF-8.
fn bytes_are_kept_as_they_are() {
    let command = shell(r"printf '\377\376\000x\n'; printf 'e\200' >&2")
        .capture_stdout(100)
        .capture_stderr(100);
    let exit = server().spawn(command).unwrap().wait_blocking().unwrap();
    assert_eq!(exit.stdout.unwrap().to_bytes().unwrap(), b"\xff\xfe\0x\n");
    assert_eq!(exit.stderr.unwrap().to_bytes().unwrap(), b"e\x80");
}

fn a_file_takes_what_fits() {
    let path = std::env::temp_dir().join(format!("flyball-output-{}", std::process::id()));
    let file = std::fs::File::create(&path).unwrap();
    let exit = server()
        .spawn(shell("head -c 5000 /dev/zero").stdout_file(file, 4096))
        .unwrap()
        .wait_blocking()
        .unwrap();
    let out = exit.stdout.unwrap();
    assert_eq!((out.written(), out.kept()), (5000, 4096));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
    std::fs::remove_file(path).unwrap();
}

fn long_output_goes_to_a_file_without_a_name() {
    let command = shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
        .capture_stdout(1 << 30);
    let exit = server().spawn(command).unwrap().wait_blocking().unwrap();
    let out = exit.stdout.unwrap();
    assert!(!out.in_memory() && out.dropped() == 0);
    let mut text = String::new();
    out.reader().read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 20_000);
    assert!(text.starts_with("line 0\n") && text.ends_with("line 19999\n"));
}

fn a_descriptor_is_handed_through() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (input, mut feed) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut feed, b"through").unwrap();
    drop(feed);
    let exit = server()
        .spawn(shell("cat").stdin(input).stdout(writer))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(exit.success() && exit.stdout.is_none());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

fn a_full_disk_does_not_stop_the_command() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let exit = server()
        .spawn(shell("head -c 5000 /dev/zero").stdout_file(full, 1 << 20))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(exit.success());
    let out = exit.stdout.unwrap();
    assert_eq!((out.written(), out.kept()), (5000, 0));
    assert!(out.error().is_some());
}
