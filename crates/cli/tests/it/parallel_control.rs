//! What people know from GNU parallel: when commands start, again or no more, and what comes of it.

use crate::{Folder, finish, flyball, run};

fn run_in(folder: &Folder, arguments: &[&str]) -> crate::Ran {
    finish(
        flyball()
            .current_dir(folder.path(""))
            .arg("run")
            .args(arguments),
    )
}

/// TASK-12: --retries runs again what fails, and the last word counts.
#[test]
fn failures_are_tried_again() {
    let folder = Folder::new("retries");
    // Fails until its third attempt; each leaves a byte.
    let flaky = "printf x >> n{}; echo attempt $(wc -c < n{}); test $(wc -c < n{}) = 3";
    let ran = run_in(&folder, &["-k", "--retries", "3", flaky, ":::", "1", "2"]);
    assert_eq!(
        (ran.lines(), ran.code),
        (vec!["attempt 3", "attempt 3"], 0),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("2 done in"), "{}", ran.err);
    assert!(ran.err.contains("4 attempts failed"), "{}", ran.err);
    let ran = run_in(&folder, &["--retries", "2", "echo no; exit 9", ":::", "1"]);
    assert_eq!((ran.text(), ran.code), ("no\n", 1));
    assert!(ran.err.contains("#1 exit 9, attempt 2"), "{}", ran.err);
    // A timeout is a failure, too; what cannot be there at all is not tried again.
    let ran = run_in(
        &folder,
        &[
            "--retries",
            "2",
            "--timeout",
            "50ms",
            "printf x >> t; sleep 600; :",
            ":::",
            "1",
        ],
    );
    assert!(ran.err.contains("timed out, attempt 2"), "{}", ran.err);
    assert_eq!(std::fs::read(folder.path("t")).unwrap().len(), 2);
    let ran = run_in(&folder, &["--retries", "5", "flyball-no-such", ":::", "1"]);
    assert!(!ran.err.contains("attempt"), "{}", ran.err);
}

/// TASK-12: while one waits for its next attempt, others run.
#[test]
fn attempts_that_wait_hold_no_slot() {
    let folder = Folder::new("backoff");
    let ran = run_in(
        &folder,
        &[
            "-j1",
            "-q",
            "--retries",
            "2",
            "--retry-delay",
            "100ms",
            "echo {} >> order; test {} != a || test $(grep -c a order) = 2",
            ":::",
            "a",
            "b",
            "c",
        ],
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let order = std::fs::read_to_string(folder.path("order")).unwrap();
    assert_eq!(order.lines().collect::<Vec<_>>(), ["a", "b", "c", "a"]);
}

/// TASK-12: --halt counts failures, successes or ends, by number or share, soon or now.
#[test]
fn runs_halt_by_what_is_counted() {
    let script = "echo {}; exit {}";
    let halted = |when: &str, inputs: &[&str]| {
        let ran = run([&["-j1", "--halt", when, script, ":::"], inputs].concat());
        (ran.lines().len(), ran.code)
    };
    let mixed = ["1", "0", "0", "1", "1", "1", "1", "1"];
    assert_eq!(halted("never", &mixed), (8, 1));
    assert_eq!(halted("soon,fail=1", &mixed), (1, 1));
    assert_eq!(halted("1", &mixed), (1, 1));
    assert_eq!(halted("soon,fail=2", &mixed), (4, 1));
    assert_eq!(halted("soon,fail=20%", &mixed), (4, 1));
    assert_eq!(halted("soon,fail=50%", &mixed), (6, 1));
    assert_eq!(halted("soon,success=1", &mixed), (2, 0));
    assert_eq!(halted("soon,success=25%", &mixed), (3, 0));
    assert_eq!(halted("now,done=3", &mixed), (3, 1));
    assert_eq!(halted("soon,done=1", &["0", "1"]), (1, 0));
}

/// TASK-12: the first success ends the others, and is what the run was for.
#[test]
fn the_first_success_can_be_enough() {
    let ran = run([
        "-j3",
        "--halt",
        "now,success=1",
        "test {} = 2 || sleep 600",
        ":::",
        "1",
        "2",
        "3",
        "4",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.contains("1 done, 2 not needed any more, 1 not run"),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains("again"), "{}", ran.err);
}

/// TASK-12: --delay keeps starts apart.
#[test]
fn starts_are_kept_apart() {
    let folder = Folder::new("delay");
    let ran = run_in(
        &folder,
        &[
            "-q", "-j4", "--delay", "0.05", "--joblog", "log", "true", ":::", "1", "2", "3",
        ],
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let log = std::fs::read_to_string(folder.path("log")).unwrap();
    let mut starts: Vec<f64> = log
        .lines()
        .skip(1)
        .map(|line| line.split('\t').nth(2).unwrap().parse().unwrap())
        .collect();
    starts.sort_by(f64::total_cmp);
    // To the millisecond, as the log has it.
    assert!(
        starts.windows(2).all(|pair| pair[1] - pair[0] > 0.03),
        "{starts:?}"
    );
}

/// TASK-12: where commands run, and with which variables.
#[test]
fn folder_and_variables_can_be_set() {
    let folder = Folder::new("where");
    let path = folder.path("").canonicalize().unwrap();
    let ran = run([
        "-q".as_ref(),
        "--workdir".as_ref(),
        path.as_os_str(),
        "--env".as_ref(),
        "FLYBALL_TEST=a b".as_ref(),
        "--env".as_ref(),
        "PATH".as_ref(),
        "pwd; echo \"$FLYBALL_TEST\"; :".as_ref(),
        ":::".as_ref(),
        "1".as_ref(),
    ]);
    assert_eq!(ran.lines(), [path.to_str().unwrap(), "a b"], "{}", ran.err);
    for wrong in [["--wd", "/nonexistent"], ["--env", "=x"]] {
        let ran = run(wrong.into_iter().chain(["true", ":::", "1"]));
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains(wrong[1]), "{}", ran.err);
    }
}

/// TASK-12: what belongs to a later build is refused, and says what is there instead.
#[test]
fn bounds_that_are_not_there_are_refused() {
    let ran = run(["--io", "100M", "echo", ":::", "1"]);
    assert_eq!((ran.code, ran.text()), (2, ""));
    assert!(
        ran.err.contains("--io") && ran.err.contains("later build"),
        "{}",
        ran.err
    );
    for wrong in [
        ["--load", "much"],
        ["--memfree", "0"],
        ["--mem", "-1"],
        ["--mem-each", "x"],
        ["--cpu", "0"],
        ["--cpu", "101%"],
        ["--cpu", "-5"],
        ["--cpu", "NaN"],
    ] {
        let ran = run(wrong.into_iter().chain(["echo", ":::", "1"]));
        assert_eq!((ran.code, ran.text()), (2, ""), "{wrong:?}");
    }
}

/// CPU-20: with a bound on the CPU all commands run to their end, those that stand still for a part of the time included, and the
/// summary says what became of it.
#[test]
fn a_bound_on_the_cpu_lets_everything_end() {
    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo {}";
    // A tenth of a CPU, or of as many as there are the least that can be said: two commands want more.
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    let percent = (10.0 / cpus as f64).max(1.0);
    let asked = format!("{percent}%");
    let ran = run([
        "--cpu", &asked, "--json", "-k", "-j2", busy, ":::", "1", "2", "3",
    ]);
    assert_eq!((ran.code, ran.text()), (0, "1\n2\n3\n"), "{}", ran.err);
    let summary: serde_json::Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
    let bound = &summary["bounds"]["cpu"];
    assert_eq!(
        (&bound["bound_percent"], &bound["hard"]),
        (&percent.into(), &false.into()),
        "{summary}"
    );
    assert!(bound["held_ms"].as_u64() > Some(0), "{summary}");
    let mean = bound["mean_percent"].as_f64().expect("measured");
    assert!(mean < 2.0 * percent, "{summary}");
}

/// TASK-12: numbers of jobs as people write them, and names that other tools have.
#[test]
fn names_of_other_tools_are_understood() {
    for options in [
        &["-P", "2"][..],
        &["--max-procs", "2"],
        &["-j", "50%"],
        &["-j", "+1"],
        &["-j", "-1"],
        &["-r"],
        &["--group"],
        &["--bar"],
        &["--eta"],
        &["--progress"],
        &["--will-cite"],
    ] {
        let ran = run([options, &["-k", "echo", ":::", "a"]].concat());
        assert_eq!(
            (ran.text(), ran.code),
            ("a\n", 0),
            "{options:?}: {}",
            ran.err
        );
    }
    // Seconds without a unit, as others take them.
    assert_eq!(
        run(["--timeout", "20", "--delay", "0", "echo", ":::", "a"]).text(),
        "a\n"
    );
}

/// TASK-12: the exit status says whether all went well.
#[test]
fn the_exit_status_is_0_1_or_2() {
    assert_eq!(run(["exit", ":::", "0"]).code, 1, "exit is no program");
    assert_eq!(run(["exit {}", ":::", "0", "0"]).code, 0);
    assert_eq!(run(["exit {}", ":::", "0", "77"]).code, 1);
    assert_eq!(run(["kill -9 $$; :", ":::", "0"]).code, 1);
    assert_eq!(run(["--no-such-option", "true", ":::", "0"]).code, 2);
}
