//! Classes, niceness, jobs, timeouts.

use crate::{finish, flyball, run};

const NICE: &str = "cut -d' ' -f19 /proc/self/stat; : {}";

fn own_nice() -> i32 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(16)
        .unwrap()
        .parse()
        .unwrap()
}

/// CPU-2: the class sets the niceness of its commands; --nice adds.
#[test]
fn classes_set_niceness_and_scheduling() {
    let nice = |extra: i32| (own_nice() + extra).min(19).to_string();
    assert_eq!(
        run(["--class", "normal", NICE, ":::", "1"]).text().trim(),
        nice(0)
    );
    assert_eq!(
        run(["--class", "batch", NICE, ":::", "1"]).text().trim(),
        nice(10)
    );
    assert_eq!(
        run(["--class", "batch", "--nice", "3", NICE, ":::", "1"])
            .text()
            .trim(),
        nice(13)
    );
    const SCHED_IDLE: &str = "5";
    assert_eq!(
        run([
            "--class",
            "idle",
            "cut -d' ' -f41 /proc/self/stat; : {}",
            ":::",
            "1"
        ])
        .text()
        .trim(),
        SCHED_IDLE
    );
}

/// TASK-11, TASK-12: the timeout ends the tree and is told apart.
#[test]
fn a_timeout_ends_the_command_and_is_said() {
    let ran = run([
        "-j2",
        "--timeout",
        "100ms",
        "--kill-after",
        "50ms",
        "trap '' TERM; sleep {} & wait; sleep {}",
        ":::",
        "0",
        "600",
    ]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("1 done, 1 failed (1 timed out)"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("#2 timed out: trap"), "{}", ran.err);
}

/// TASK-12: --halt.
#[test]
fn halt_stops_early() {
    let soon = run([
        "-j1",
        "--halt",
        "soon,fail=2",
        "echo {}; test {} -lt 3",
        ":::",
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
    ]);
    assert_eq!((soon.lines(), soon.code), (vec!["1", "2", "3", "4"], 1));
    assert!(
        soon.err.contains("2 done, 2 failed, 2 not run"),
        "{}",
        soon.err
    );
    let now = run([
        "-j2",
        "--halt",
        "now,fail=1",
        "test {} = 1 || exec sleep 600; exit 5",
        ":::",
        "2",
        "1",
        "3",
    ]);
    assert_eq!(now.code, 1);
    assert!(
        now.err.contains("0 done, 2 failed, 1 not run"),
        "{}",
        now.err
    );
    assert!(
        now.err.contains("exit 5") && now.err.contains("stopped"),
        "{}",
        now.err
    );
}

/// TASK-22: commands at once are told of a jobserver with as many slots; one alone is not.
#[test]
fn commands_share_a_jobserver() {
    let show = "echo {} $MAKEFLAGS";
    let several = run(["-j3", "-k", show, ":::", "a", "b"]);
    for line in several.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), 3, "{line}");
        assert_eq!(words[1], "-j3");
        assert!(words[2].starts_with("--jobserver-auth="), "{line}");
    }
    assert_eq!(several.lines().len(), 2);
    assert_eq!(run(["-j1", show, ":::", "a"]).text(), "a\n");
}

/// TASK-22: slots without a command are tokens, also when no input is left.
#[test]
fn the_last_command_has_all_tokens() {
    let take = "auth=${MAKEFLAGS##*=}; case $auth in fifo:*) auth=${auth#fifo:} ;; *) auth=/dev/fd/${auth%,*} ;; esac; head -c 2 $auth | wc -c; :";
    let ran = run(["-j3", "--timeout", "10s", take, ":::", "a"]);
    assert_eq!((ran.text().trim(), ran.code), ("2", 0), "{}", ran.err);
}

/// TASK-12: no more at once than asked, and as many: two that wait for each other.
#[test]
fn jobs_bound_what_runs_at_once() {
    let script = "mkdir here.{#}; ls -d here.* | wc -l; rmdir here.{#}";
    let folder = crate::Folder::new("jobs");
    let inputs: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    let mut command = flyball();
    command
        .current_dir(folder.path(""))
        .args(["run", "-j3", script, ":::"])
        .args(&inputs);
    let ran = finish(&mut command);
    assert!(
        ran.lines()
            .iter()
            .all(|count| (1..=3).contains(&count.trim().parse().unwrap())),
        "{}",
        ran.text()
    );
    let fifo = folder.path("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let script = format!(
        "test {{}} = read && cat {0} || echo met > {0}",
        fifo.display()
    );
    assert_eq!(
        run(["-j2", &script, ":::", "read", "write"]).text(),
        "met\n"
    );
}

/// TASK-12: a pause between starts does not lose commands.
#[test]
fn delay_spaces_the_starts() {
    let ran = run(["-k", "-j2", "--delay", "1ms", "echo", ":::", "a", "b", "c"]);
    assert_eq!(ran.lines(), ["a", "b", "c"]);
}

/// TASK-11: processes that outlive their command are ended and told of.
#[test]
fn leftovers_are_ended_and_said() {
    let ran = run(["-j2", "setsid sleep 600 & echo {}", ":::", "a"]);
    assert_eq!((ran.text(), ran.code), ("a\n", 0));
    assert!(
        ran.err.contains("1 process outlived its command"),
        "{}",
        ran.err
    );
}
