//! What people know from GNU parallel: the joblog, and runs that go on where another ended.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use crate::{Folder, finish, flyball, run};

const HEADER: &str = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand";

fn run_in<S: AsRef<OsStr>>(folder: &Folder, arguments: impl IntoIterator<Item = S>) -> crate::Ran {
    finish(
        flyball()
            .current_dir(folder.path(""))
            .arg("run")
            .args(arguments),
    )
}

fn log(folder: &Folder) -> Vec<Vec<String>> {
    let bytes = std::fs::read(folder.path("log")).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(HEADER));
    lines
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

/// Seq, Exitval, Signal and Command, in the order of the first.
fn ends(folder: &Folder) -> Vec<(u64, i32, i32, String)> {
    let mut ends: Vec<_> = log(folder)
        .into_iter()
        .map(|line| {
            assert_eq!((line.len(), line[1].as_str()), (9, ":"));
            let number = |index: usize| line[index].parse().unwrap();
            (number(0) as u64, number(6), number(7), line[8].clone())
        })
        .collect();
    ends.sort();
    ends
}

/// TASK-12: a line for each command, in the columns that tools know.
#[test]
fn the_joblog_has_the_known_columns() {
    let folder = Folder::new("log");
    let ran = run_in(
        &folder,
        [
            "-q",
            "--joblog",
            "log",
            "--timeout",
            "200ms",
            "--kill-after",
            "1ms",
            ":::",
            "printf 12345",
            "exit 7",
            "kill -9 $$",
            "sleep 600",
            "echo 'a\nb' >/dev/null",
        ],
    );
    assert_eq!(ran.code, 1);
    let expected = [
        (1, 0, 0, "printf 12345"),
        (2, 7, 0, "exit 7"),
        (3, 0, 9, "kill -9 $$"),
        (4, -1, 15, "sleep 600"),
        (5, 0, 0, "echo 'a\0b' >/dev/null"),
    ];
    let expected =
        expected.map(|(seq, exit, signal, command)| (seq, exit, signal, command.to_owned()));
    assert_eq!(ends(&folder), expected);
    let first = log(&folder)
        .into_iter()
        .find(|line| line[0] == "1")
        .unwrap();
    assert_eq!((first[4].as_str(), first[5].as_str()), ("0", "5"));
    assert!(first[2].parse::<f64>().unwrap() > 1.6e9 && first[3].trim().parse::<f64>().is_ok());
    // A program that is not there is told as a shell tells it.
    run_in(
        &folder,
        ["-q", "--joblog", "log", "flyball-no-such", ":::", "x y"],
    );
    assert_eq!(
        ends(&folder),
        [(1, 127, 0, "flyball-no-such 'x y'".to_owned())]
    );
}

/// TASK-12: --resume leaves out what ran, --resume-failed what succeeded.
#[test]
fn runs_are_resumed() {
    let folder = Folder::new("resume");
    let exit = |options: &[&str], script: &str, inputs: &[&str]| {
        let all = [
            &["-k", "--joblog", "log"],
            options,
            &[script, ":::"],
            inputs,
        ]
        .concat();
        let ran = run_in(&folder, all);
        (ran.text().to_owned(), ran.code, ran.err)
    };
    let script = "echo {}; exit {}";
    let (out, code, _) = exit(
        &["-j1", "--halt", "soon,fail=1"],
        script,
        &["0", "1", "0", "2"],
    );
    assert_eq!((out.as_str(), code), ("0\n1\n", 1));
    let (out, code, err) = exit(&["--resume"], script, &["0", "1", "0", "2", "0"]);
    assert_eq!((out.as_str(), code), ("0\n2\n0\n", 1), "{err}");
    assert!(err.contains("2 done, 1 failed, 2 left out"), "{err}");
    // The command may have been mended meanwhile.
    let (out, code, err) = exit(
        &["--resume-failed"],
        "echo {}; :",
        &["0", "1", "0", "2", "0", "5"],
    );
    assert_eq!((out.as_str(), code), ("1\n2\n5\n", 0), "{err}");
    let (out, code, err) = exit(
        &["--resume-failed"],
        "echo {}; :",
        &["0", "1", "0", "2", "0", "5"],
    );
    assert_eq!((out.as_str(), code), ("", 0), "{err}");
    let (out, _, _) = exit(
        &["--resume", "--dry-run"],
        script,
        &["0", "1", "0", "2", "0", "5", "6"],
    );
    assert_eq!(out, "echo 6; exit 6\n");
    // Without it the log begins anew.
    exit(&[], script, &["0"]);
    assert_eq!(ends(&folder).len(), 1);
    assert_eq!(run(["--resume", "true", ":::", "1"]).code, 2);
}

/// TASK-12: --retry-failed runs what stands in the log, whatever the inputs were.
#[test]
fn failed_commands_are_run_again_from_the_log() {
    let folder = Folder::new("again");
    let hostile = [
        OsStr::from_bytes(b"a b"),
        OsStr::from_bytes(b"it's $(x) `y` \\ \"z\""),
        OsStr::from_bytes(b"new\nline\ttab"),
        OsStr::from_bytes(b"\xff\xfe"),
        OsStr::from_bytes(b"-n"),
    ];
    let command = [
        "-q",
        "-k",
        "--joblog",
        "log",
        "sh",
        "-c",
        "printf '<%s>' \"$1\"; test -e ok",
        "sh",
        "{}",
        ":::",
    ];
    let ran = run_in(&folder, command.map(OsStr::new).into_iter().chain(hostile));
    assert_eq!(ran.code, 1);
    std::fs::write(folder.path("ok"), "").unwrap();
    let again = run_in(&folder, ["-k", "--retry-failed", "--joblog", "log"]);
    assert_eq!((again.out, again.code), (ran.out, 0), "{}", again.err);
    let nothing = run_in(&folder, ["--retry-failed", "--joblog", "log"]);
    assert_eq!((nothing.text(), nothing.code), ("", 0));
    assert!(
        nothing.err.contains("nothing in the joblog has failed"),
        "{}",
        nothing.err
    );
    let none = run_in(&folder, ["--retry-failed", "--joblog", "other"]);
    assert_eq!(none.code, 2);
    assert!(
        none.err.contains("there is no joblog other"),
        "{}",
        none.err
    );
}

/// TASK-12: the summary's command that reruns is the one that the joblog makes possible, and works.
#[test]
fn the_summary_says_how_to_run_again_from_the_log() {
    let folder = Folder::new("said");
    let ran = run_in(
        &folder,
        [
            "-j1",
            "--joblog",
            "log",
            "test {} -lt 2",
            ":::",
            "1",
            "2",
            "3",
        ],
    );
    let rerun = "flyball run -j 1 --retry-failed --joblog log";
    assert!(
        ran.err
            .contains(&format!("again, only what failed: {rerun}\n")),
        "{}",
        ran.err
    );
    let words: Vec<&str> = rerun.split(' ').skip(2).collect();
    let again = run_in(&folder, words);
    assert!(
        again.err.contains("#2 exit 1") && again.err.contains("#3 exit 1"),
        "{}",
        again.err
    );
}

/// TASK-12: the command that reruns does what failed as it was to be done: every bound and condition of the run is in it.
#[test]
fn the_command_that_reruns_has_the_bounds_of_the_run() {
    let folder = Folder::new("bounds-again");
    let ran = run_in(
        &folder,
        [
            "--alone",
            "-j1",
            "--halt",
            "soon,fail=2",
            "--cpu",
            "90",
            "-X",
            "-s",
            "20",
            "false",
            ":::",
            "one",
            "another",
            "third",
            "fourth",
        ],
    );
    let rerun = "flyball run --alone -j 1 --halt soon,fail=2 --cpu 90% -X -s 20 false ::: one another third fourth";
    assert!(
        ran.err
            .contains(&format!("again, only what failed: {rerun}\n")),
        "{}",
        ran.err
    );
    let again = run_in(&folder, rerun.split(' ').skip(2));
    assert!(again.err.contains(rerun), "{}", again.err);
}

/// TASK-12: a line that was being written when the power went is no line, and is not in the way of the next.
#[test]
fn torn_lines_are_taken_off() {
    let folder = Folder::new("torn");
    let options = ["-q", "-j1", "--joblog", "log"];
    let inputs = ["echo", ":::", "a", "b"];
    run_in(&folder, options.iter().chain(&inputs));
    let mut bytes = std::fs::read(folder.path("log")).unwrap();
    bytes.truncate(bytes.len() - 4);
    std::fs::write(folder.path("log"), &bytes).unwrap();
    let ran = run_in(&folder, options.iter().chain(&["--resume"]).chain(&inputs));
    assert_eq!(ran.text(), "b\n", "{}", ran.err);
    assert_eq!(ends(&folder).len(), 2);
    std::fs::write(folder.path("log"), "something else\n").unwrap();
    let ran = run_in(&folder, options.iter().chain(&["--resume"]).chain(&inputs));
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("line 1 is not one of a joblog"),
        "{}",
        ran.err
    );
    assert_eq!(
        std::fs::read(folder.path("log")).unwrap(),
        b"something else\n"
    );
}

/// TASK-12: after a sudden death nothing that the log has runs again, and nothing is missing.
#[test]
fn a_killed_run_is_resumed_without_loss() {
    let folder = Folder::new("killed");
    let inputs: Vec<String> = (1..=40).map(|number| number.to_string()).collect();
    let mut child = flyball()
        .current_dir(folder.path(""))
        .args(["run", "-q", "-j1", "--joblog", "log"])
        .args(["echo {} >> ran; echo {}; test {} != 20 || sleep 600", ":::"])
        .args(&inputs)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line != "20\n" {
        line.clear();
        out.read_line(&mut line).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let logged = ends(&folder).len();
    assert!((1..=19).contains(&logged), "{logged}");
    let words = [
        "-q",
        "-j1",
        "--joblog",
        "log",
        "--resume",
        "echo {} >> ran",
        ":::",
    ];
    let ran = run_in(
        &folder,
        words.into_iter().chain(inputs.iter().map(String::as_str)),
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let seqs: Vec<u64> = ends(&folder).iter().map(|end| end.0).collect();
    assert_eq!(seqs, (1..=40).collect::<Vec<u64>>());
    let ran = std::fs::read_to_string(folder.path("ran")).unwrap();
    // Once each, but for those that ran and were not in the log yet.
    assert_eq!(ran.lines().count(), 20 + 40 - logged);
}

/// TASK-12: what a killed run had begun of results is taken away when it is resumed; what is another's stays.
#[test]
fn a_resumed_run_takes_away_halves_of_results() {
    let folder = Folder::new("halves");
    // No process has such an id; this one is there.
    let gone = folder.path("out/1/.flyball-4194999-1");
    let others = folder.path(format!("out/1/.flyball-{}-1", std::process::id()));
    let strange = folder.path("out/1/.flyball-4194999-x");
    for path in [&gone, &others, &strange] {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("stdout"), "half").unwrap();
    }
    let words = ["-q", "--joblog", "log", "--results", "out", "--resume"];
    let ran = run_in(&folder, words.into_iter().chain(["echo", ":::", "a"]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!gone.exists());
    assert!(others.exists() && strange.exists());
    assert!(folder.path("out/1/a/stdout").exists());
}

/// TASK-12: what Ctrl-C ended is not in the log, so that it runs when the run is resumed.
#[test]
fn what_was_interrupted_runs_again() {
    let folder = Folder::new("interrupted");
    let mut child = flyball()
        .current_dir(folder.path(""))
        .args([
            "run",
            "-q",
            "-j1",
            "--joblog",
            "log",
            "echo {}; test {} != b || sleep 600",
        ])
        .args([":::", "a", "b", "c"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line != "b\n" {
        line.clear();
        out.read_line(&mut line).unwrap();
    }
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(ends(&folder).len(), 1);
    let ran = run_in(
        &folder,
        [
            "-k", "--joblog", "log", "--resume", "echo", ":::", "a", "b", "c",
        ],
    );
    assert_eq!(ran.lines(), ["b", "c"], "{}", ran.err);
}

/// TASK-12: a joblog that cannot be written ends the run; two runs do not write one.
#[test]
fn a_joblog_that_cannot_be_written_is_said() {
    let folder = Folder::new("full-log");
    for path in ["/nonexistent/log", "/dev/full", "."] {
        let ran = run_in(&folder, ["--joblog", path, "echo", ":::", "a"]);
        assert_eq!((ran.code, ran.text()), (2, ""), "{path}");
        assert!(
            ran.err.contains("joblog") && ran.err.contains(path),
            "{}",
            ran.err
        );
    }
    // A limit on the size of files stands for a full disk.
    let script = format!(
        "trap '' XFSZ; ulimit -f 4; exec {} run -q -j1 --joblog log 'true 1234567890123456789012345678901234567890' ::: $(seq 500)",
        env!("CARGO_BIN_EXE_flyball")
    );
    let ran = finish(
        Command::new("sh")
            .current_dir(folder.path(""))
            .args(["-c", &script]),
    );
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("cannot write the joblog log"),
        "{}",
        ran.err
    );
    let whole = std::fs::read_to_string(folder.path("log")).unwrap();
    assert!(whole.ends_with('\n') && ends(&folder).len() > 5);

    let held = std::fs::File::open(folder.path("log")).unwrap();
    held.lock().unwrap();
    let ran = run_in(&folder, ["--joblog", "log", "--resume", "echo", ":::", "a"]);
    assert_eq!((ran.code, ran.text()), (2, ""));
    assert!(ran.err.contains("another run writes"), "{}", ran.err);
}
