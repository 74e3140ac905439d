//! What people know from GNU parallel: how outputs are printed, and kept.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use crate::{Folder, finish, flyball, run};

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files under a folder, by their paths in it.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap();
                found.push(name.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// TASK-12: tags are inputs, or a text with places, and cannot play with the terminal.
#[test]
fn lines_have_tags() {
    assert_eq!(
        run(["-k", "--tag", "printf", "1\n2\n%.0s", ":::", "a", "b"]).lines(),
        ["a\t1", "a\t2", "b\t1", "b\t2"]
    );
    assert_eq!(
        run(["-k", "--tagstring", "{#}\t{/.}>", "echo", ":::", "d/x.c"]).text(),
        "1\tx>\td/x.c\n"
    );
    assert_eq!(
        run(["--tag", "echo out; echo err >&2; :", ":::", "a\x1b[2Jb"])
            .err
            .lines()
            .next(),
        Some("a?[2Jb\terr")
    );
}

/// TASK-12: --line-buffer prints a line when it is whole, not when its command has ended.
#[test]
fn lines_are_printed_as_they_come() {
    let folder = Folder::new("lines");
    let fifo = folder.path("go");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut child = flyball()
        .current_dir(folder.path(""))
        .args(["run", "-q", "-j2", "--line-buffer", "--tag"])
        .args(["echo first; printf half; cat go; echo; :", ":::", "a"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "a\tfirst\n");
    // The command waits for this; only now its second line becomes whole.
    let mut go = std::fs::File::options().write(true).open(&fifo).unwrap();
    go.write_all(b" and half").unwrap();
    drop(go);
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "a\thalf and half\n");
    assert!(child.wait().unwrap().success());
}

/// TASK-12: whole lines, whatever many commands write at once.
#[test]
fn lines_of_many_commands_never_mix() {
    let ran = run([
        "-q",
        "-j8",
        "--lb",
        "i=0; while [ $i -lt 200 ]; do printf {}; printf '{}{}\\n'; i=$((i+1)); done",
        ":::",
        "a",
        "b",
        "c",
        "d",
    ]);
    let lines = ran.lines();
    assert_eq!((ran.code, lines.len()), (0, 800), "{}", ran.err);
    assert!(
        lines
            .iter()
            .all(|line| ["aaa", "bbb", "ccc", "ddd"].contains(line))
    );
}

/// TASK-12: --ungroup writes straight through; what would have to be held contradicts it.
#[test]
fn ungrouped_output_is_not_held() {
    let ran = run(["-u", "-j2", "echo {}; echo e{} >&2", ":::", "a"]);
    assert_eq!((ran.text(), ran.code), ("a\n", 0));
    for wrong in [
        &["-u", "--tag", "true", ":::", "a"][..],
        &["-u", "--keep-order", "true", ":::", "a"],
        &["-u", "--results", "r", "true", ":::", "a"],
        &["--line-buffer", "-k", "true", ":::", "a"],
    ] {
        assert_eq!(run(wrong).code, 2, "{wrong:?}");
    }
}

/// `flyball run` in a folder.
fn run_in(folder: &Folder, arguments: &[&str]) -> crate::Ran {
    finish(
        flyball()
            .current_dir(folder.path(""))
            .arg("run")
            .args(arguments),
    )
}

/// TASK-12: --results keeps outputs, number and exit of each command, and still prints.
#[test]
fn results_are_kept_for_each_command() {
    let folder = Folder::new("results");
    for (name, option) in [("grouped", "-j2"), ("streamed", "-j1"), ("lines", "--lb")] {
        let ran = run_in(
            &folder,
            &[
                "-q",
                "--results",
                name,
                option,
                "echo {1}{2}; echo err >&2; exit {2}",
                ":::",
                "a",
                "b",
                ":::",
                "0",
                "3",
            ],
        );
        let mut lines = ran.lines();
        lines.sort_unstable();
        assert_eq!(
            (lines, ran.code),
            (vec!["a0", "a3", "b0", "b3"], 1),
            "{name}: {}",
            ran.err
        );
        let root = folder.path(name);
        assert_eq!(tree(&root).len(), 16, "{name}");
        for (seq, letter, exit) in [(1, "a", "0"), (2, "a", "3"), (3, "b", "0"), (4, "b", "3")] {
            let result = root.join("1").join(letter).join("2").join(exit);
            assert_eq!(read(result.join("stdout")), format!("{letter}{exit}\n"));
            assert_eq!(read(result.join("stderr")), "err\n");
            assert_eq!(read(result.join("seq")), seq.to_string());
            assert_eq!(read(result.join("exit")), format!("{exit}\n"));
        }
    }
}

/// TASK-12: no input leaves the folder of results, and alike inputs do not overwrite each other.
#[test]
fn results_have_safe_names() {
    let folder = Folder::new("safe");
    let long = "l".repeat(5000);
    let inputs = [
        "../../up", "..", ".", "", "/etc/x", "a\nb", "-n", "same", "same", &long,
    ];
    let ran = run_in(
        &folder,
        &[
            &["-q", "--results", "out", "printf", "%s", "{}", ":::"],
            &inputs[..],
        ]
        .concat(),
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let found = tree(&folder.path(""));
    assert!(
        found.iter().all(|path| path.starts_with("out/1/")),
        "{found:?}"
    );
    let mut kept: Vec<String> = found
        .iter()
        .filter(|path| path.ends_with("/stdout"))
        .map(|path| read(folder.path(path)))
        .collect();
    let mut expected: Vec<String> = inputs.iter().map(ToString::to_string).collect();
    kept.sort();
    expected.sort();
    assert_eq!(kept, expected);
}

/// TASK-12: names of inputs and places name results; another run replaces them.
#[test]
fn results_can_be_named() {
    let folder = Folder::new("named");
    run_in(
        &folder,
        &[
            "-q",
            "--header",
            ":",
            "--results",
            "h",
            "echo",
            ":::",
            "host",
            "x",
            ":::",
            "n",
            "1",
        ],
    );
    assert_eq!(read(folder.path("h/host/x/n/1/stdout")), "x 1\n");
    for word in ["one", "two"] {
        let ran = run_in(
            &folder,
            &[
                "-q",
                "--results",
                "out/{1/}-{2}",
                "echo",
                word,
                "{1}",
                ":::",
                "d/f",
                ":::",
                "7",
            ],
        );
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    assert_eq!(
        tree(&folder.path("out")),
        ["f-7", "f-7.err", "f-7.exit", "f-7.seq"]
    );
    assert_eq!(read(folder.path("out/f-7")), "two d/f\n");
    run_in(
        &folder,
        &["-q", "--results", "each/{}/", "echo", ":::", "a"],
    );
    assert_eq!(read(folder.path("each/a/stdout")), "a\n");
    let refused = run_in(&folder, &["--results", "all.csv", "echo", ":::", "a"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
}

/// TASK-12: a result that cannot be kept ends the run, and says so.
#[test]
fn results_that_do_not_fit_end_the_run() {
    let folder = Folder::new("full");
    // A limit on the size of files stands for a full disk.
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; exec {} run -q -j1 --joblog log --results out 'head -c 60000 /dev/zero; : {{}}' ::: $(seq 50)",
        env!("CARGO_BIN_EXE_flyball")
    );
    let ran = finish(
        std::process::Command::new("sh")
            .current_dir(folder.path(""))
            .args(["-c", &script]),
    );
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("cannot keep results"), "{}", ran.err);
    // Neither is half of it seen, nor told.
    assert!(tree(&folder.path("out")).is_empty());
    assert_eq!(read(folder.path("log")).lines().count(), 1);
    let nowhere = run(["--results", "/proc/x", "echo", ":::", "a"]);
    assert_eq!(nowhere.code, 2);
    assert!(nowhere.err.contains("/proc/x"), "{}", nowhere.err);
}

/// TASK-12: a full disk behind standard output is an error, not the end of a pipe.
#[test]
fn a_full_disk_behind_the_output_is_said() {
    for option in ["-j2", "--line-buffer"] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut command = flyball();
        command
            .args(["run", "-q", option, "echo", ":::", "a"])
            .stdout(full)
            .stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{option}: {said}");
        assert!(said.contains("cannot write output"), "{option}: {said}");
    }
}

/// TASK-12: -t shows what starts.
#[test]
fn commands_are_shown_as_they_start() {
    let ran = run(["-q", "-j1", "-t", "echo", ":::", "a b", "c"]);
    assert_eq!(ran.err, "echo 'a b'\necho c\n");
}
