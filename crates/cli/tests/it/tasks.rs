//! Durable tasks from the command line: a real daemon, real commands, a real worker.
//!
//! Nothing sleeps: tasks are waited for by `flyball tasks wait`, and what is to hold a task up is a fifo that a test opens.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::daemon::{Daemon, isolated};
use crate::{Folder, Ran, finish};

/// `flyball ARGUMENTS` for a daemon, with its address before what may be a command.
fn of(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = isolated(&daemon.folder);
    let (first, rest) = arguments.split_first().expect("a subcommand");
    command
        .arg(first)
        .arg("--state-dir")
        .arg(daemon.folder.path("state"))
        .args(rest);
    command
}

fn ask(daemon: &Daemon, arguments: &[&str]) -> Ran {
    finish(&mut of(daemon, arguments))
}

fn tell(daemon: &Daemon, arguments: &[&str]) -> String {
    let ran = ask(daemon, arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
    ran.text().to_owned()
}

/// Submits, and answers the id: the only thing on standard output.
fn submit(daemon: &Daemon, arguments: &[&str]) -> String {
    let mut all = vec!["submit"];
    all.extend(arguments);
    let printed = tell(daemon, &all);
    let id = printed.strip_suffix('\n').expect("a line");
    assert!(id.bytes().all(|b| b.is_ascii_digit()), "{printed:?}");
    id.to_owned()
}

fn task(daemon: &Daemon, id: &str) -> Value {
    serde_json::from_str(&tell(daemon, &["tasks", "show", id, "--json"])).expect("JSON")
}

fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    serde_json::from_str(&tell(daemon, arguments)).expect("JSON")
}

fn script(folder: &Folder, name: &str, text: &str) -> PathBuf {
    let path = folder.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn fifo(path: &std::path::Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// TASK-23, TASK-11: a command is run with the arguments, folder, environment and umask of who submits it, whatever bytes they are, and what
/// it wrote can be read byte for byte.
#[test]
fn a_command_runs_as_it_would_here() {
    let daemon = Daemon::start("submit-local");
    let folder = Folder::new("submit-here");
    script(
        &folder,
        "job.sh",
        "pwd; umask; printf '%s|' \"$@\" \"$COLOUR\"; printf '\\377\\000'; echo grumble >&2",
    );
    let mut command = of(&daemon, &["submit", "--", "./job.sh", "a b", "$(no)"]);
    command
        .arg(OsStr::from_bytes(b"\xfe\xff"))
        .env("COLOUR", OsStr::from_bytes(b"bl\xe4u"))
        .current_dir(&folder.0);
    // The umask of this process is what a child has.
    let mut wrapped = Command::new("sh");
    wrapped
        .args(["-c", "umask 027; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(&folder.0);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    let ran = finish(&mut wrapped);
    assert_eq!((ran.code, ran.text()), (0, "1\n"), "{}", ran.err);
    assert_eq!(
        tell(&daemon, &["tasks", "wait", "1"]).split(" in ").next(),
        Some("task 1 completed")
    );
    let output = ask(&daemon, &["tasks", "output", "1"]).out;
    let here = folder.0.canonicalize().unwrap();
    let mut expected = format!("{}\n0027\na b|$(no)|", here.display()).into_bytes();
    expected.extend(b"\xfe\xff|bl\xe4u|\xff\x00");
    assert_eq!(output, expected);
    assert_eq!(
        tell(&daemon, &["tasks", "output", "1", "--stderr"]),
        "grumble\n"
    );
    let shown = task(&daemon, "1");
    assert_eq!(shown["kind"], "job.sh");
    assert_eq!(shown["usage"]["exit_status"], 0);
    assert!(shown["usage"]["peak_memory_bytes"].as_u64() > Some(0));
}

/// API-4, TASK-7: asked to end while a task runs, a daemon answers until that has ended, and neither takes nor starts others meanwhile.
#[test]
fn an_ending_daemon_answers_while_tasks_run() {
    let mut daemon = Daemon::start("submit-drain");
    let go = daemon.folder.path("go");
    let script = format!(
        "while ! test -e '{}'; do sleep 0.05; done; echo over",
        go.display()
    );
    tell(&daemon, &["submit", "--", "sh", "-c", &script]);
    while task(&daemon, "1")["state"] != "running" {}
    let follow = daemon
        .command(&["tasks", "output", "1", "--follow"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    daemon.signal("TERM");
    daemon.log_until("finishing the tasks that run");
    assert_eq!(task(&daemon, "1")["state"], "running");
    let refused = ask(&daemon, &["submit", "--", "true"]);
    assert_eq!(refused.code, 4, "{}", refused.err);
    assert!(refused.err.contains("closing"), "{}", refused.err);
    fs::write(&go, "").unwrap();
    let followed = follow.wait_with_output().unwrap();
    assert_eq!(followed.stdout, b"over\n");
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log:?}");
}

/// TASK-7, TASK-10: with `--wait` the exit status is the command's; a failing exit is retried where that is asked for, and what is left is a
/// dead letter that can be retried.
#[test]
fn waiting_ends_as_the_command_did() {
    let daemon = Daemon::start("submit-wait");
    let status = |arguments: &[&str]| {
        let mut all = vec!["submit", "--wait", "--quiet"];
        all.extend(arguments);
        let ran = ask(&daemon, &all);
        assert_eq!(ran.text(), "", "{}", ran.err);
        (ran.code, ran.err)
    };
    assert_eq!(status(&["--", "true"]), (0, String::new()));
    let (code, why) = status(&["--", "sh", "-c", "echo because >&2; exit 7"]);
    assert_eq!(code, 7);
    assert!(why.contains("task 2 failed: exit 7: because"), "{why}");
    // A word with shell syntax is a script.
    assert_eq!(status(&["kill -9 $$"]).0, 128 + 9);
    let (code, why) = status(&["--", "no-such-program"]);
    assert_eq!(code, 1);
    assert!(why.contains("no-such-program"), "{why}");
    let (code, _) = status(&["--retries", "2", "--retry-delay", "1ms", "--", "false"]);
    assert_eq!(code, 1);
    let dead = task(&daemon, "5");
    assert_eq!(
        (&dead["state"], &dead["attempt"]),
        (&"dead".into(), &2.into())
    );
    assert_eq!(
        tell(&daemon, &["tasks", "list", "--state", "dead", "-q"]),
        "5\n"
    );
    assert_eq!(
        tell(&daemon, &["tasks", "retry", "5"]),
        "task 5 is pending\n"
    );
    let ran = ask(&daemon, &["tasks", "wait", "5", "1"]);
    assert_eq!(ran.code, 1);
    assert!(ran.text().contains("task 5 dead"), "{}", ran.text());
    assert!(ran.text().contains("task 1 completed"), "{}", ran.text());
}

/// TASK-5, TASK-16: a task waits for its parents, says so, and is let go or skipped by how they end.
#[test]
fn tasks_wait_for_their_parents() {
    let daemon = Daemon::start("submit-after");
    let folder = Folder::new("submit-parent");
    let gate = folder.path("gate");
    fifo(&gate);
    let gate = gate.to_str().unwrap();
    let parent = submit(
        &daemon,
        &["--", "sh", "-c", "read word <\"$0\"; exit 3", gate],
    );
    let alarm = submit(
        &daemon,
        &["--after", &format!("{parent}:failure"), "--", "true"],
    );
    let next = submit(&daemon, &["--after", &parent, "--", "true"]);
    let why = tell(&daemon, &["tasks", "why", &next]);
    assert!(why.contains(&format!("task {parent}")), "{why}");
    // Nobody reads until the command has started.
    fs::write(gate, "go\n").unwrap();
    let ran = ask(&daemon, &["tasks", "wait", &parent, &alarm, &next]);
    assert_eq!(ran.code, 1);
    let state = |id: &str| task(&daemon, id)["state"].as_str().unwrap().to_owned();
    assert_eq!(
        [state(&parent), state(&alarm), state(&next)],
        ["failed", "completed", "skipped"]
    );
    let why = tell(&daemon, &["tasks", "why", &next]);
    assert!(why.contains("has ended"), "{why}");
    // TASK-5: a parent that nobody knows is refused, and nothing is taken.
    let ran = ask(&daemon, &["submit", "--after", "99", "--", "true"]);
    assert_eq!((ran.code, ran.text()), (4, ""));
    assert!(ran.err.contains("after"), "{}", ran.err);
}

/// TASK-11: an output is followed from before its start to its end.
#[test]
fn outputs_are_followed() {
    let daemon = Daemon::start("output-follow");
    let folder = Folder::new("output-gate");
    let gate = folder.path("gate");
    fifo(&gate);
    tell(&daemon, &["tasks", "pause", "--all"]);
    let id = submit(
        &daemon,
        &[
            "--",
            "sh",
            "-c",
            "echo one; read word <\"$0\"; echo $word",
            gate.to_str().unwrap(),
        ],
    );
    let early = ask(&daemon, &["tasks", "output", &id]);
    assert_eq!(early.code, 4);
    assert!(early.err.contains("has not started"), "{}", early.err);
    let mut follower = of(&daemon, &["tasks", "output", &id, "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    tell(&daemon, &["tasks", "resume", "--all"]);
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    fs::write(&gate, "two\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    assert!(lines.next().is_none());
    assert!(follower.wait().unwrap().success());
    let none = submit(&daemon, &["--kind", "nobody"]);
    let ran = ask(&daemon, &["tasks", "output", &none]);
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("no command"), "{}", ran.err);
}

/// TASK-6, TASK-16: what is paused is not started, says why, and is shown; resumed it runs.
#[test]
fn pauses_hold_tasks_back() {
    let daemon = Daemon::start("tasks-pause");
    let paused = tell(&daemon, &["tasks", "pause", "--class", "batch"]);
    assert!(
        paused.starts_with("paused\n  class batch: paused by"),
        "{paused}"
    );
    let id = submit(&daemon, &["--class", "batch", "--", "true"]);
    let why = tell(&daemon, &["tasks", "why", &id]);
    assert!(why.contains("\"batch\" is paused"), "{why}");
    let stats = tell(&daemon, &["tasks", "stats"]);
    assert!(stats.contains("paused    class batch"), "{stats}");
    let follow = of(&daemon, &["tasks", "follow", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(
        tell(&daemon, &["tasks", "resume", "--class", "batch"]),
        "resumed\n"
    );
    let shown = follow.wait_with_output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("task {id} ")), "{shown}");
    assert!(shown.trim_end().contains("completed"), "{shown}");
    for wrong in [
        &["tasks", "pause"][..],
        &["tasks", "pause", "--all", "--kind", "x"],
    ] {
        assert_eq!(ask(&daemon, wrong).code, 2);
    }
}

/// TASK-10: many tasks are changed by filter, after a count, and never all by mistake.
#[test]
fn many_are_changed_by_filter() {
    let daemon = Daemon::start("tasks-bulk");
    let mut lines = String::new();
    for number in 0..1500 {
        lines.push_str(&format!(
            "{{\"kind\":\"sum\",\"payload\":{number},\"labels\":{{\"odd\":\"{}\"}}}}\n",
            number % 2
        ));
    }
    let file = daemon.folder.path("tasks.jsonl");
    fs::write(&file, lines).unwrap();
    let ids = tell(&daemon, &["submit", "--file", file.to_str().unwrap()]);
    assert_eq!(ids.lines().count(), 1500);
    let odd = ["--kind", "sum", "--label", "odd=1"];
    let with = |action: &str, more: &[&str]| {
        let mut all = vec!["tasks", action];
        all.extend(odd);
        all.extend(more);
        ask(&daemon, &all)
    };
    let asked = with("cancel", &[]);
    assert_eq!(asked.code, 2);
    assert!(
        asked.err.contains("would cancel 750 tasks; add --yes"),
        "{}",
        asked.err
    );
    assert_eq!(with("cancel", &["--yes"]).text(), "cancelled 750 tasks\n");
    assert_eq!(with("cancel", &["--yes"]).text(), "no task fits\n");
    assert_eq!(with("retry", &["--yes"]).text(), "retrying 750 tasks\n");
    let ran = ask(&daemon, &["tasks", "cancel", "--state", "live", "--yes"]);
    assert_eq!(ran.text(), "cancelled 1500 tasks\n", "{}", ran.err);
    for (wrong, code) in [
        (&["tasks", "cancel"][..], 2),
        (&["tasks", "cancel", "1", "--kind", "sum"], 2),
        (&["tasks", "cancel", "x"], 2),
        (&["tasks", "retry", "1", "99999"], 4),
        (&["tasks", "list", "--state", "undead"], 2),
    ] {
        assert_eq!(ask(&daemon, wrong).code, code, "{wrong:?}");
    }
    // All or none: the one that is known was not touched.
    assert_eq!(task(&daemon, "1")["state"], "cancelled");
}

/// TASK-2, TASK-3, TASK-14, TASK-17: what options say arrives; a repeated request with an idempotency key is one task.
#[test]
fn options_arrive() {
    let daemon = Daemon::start("submit-options");
    let id = submit(
        &daemon,
        &[
            "--kind",
            "resize",
            "--class",
            "batch",
            "--priority",
            "-3",
            "--delay",
            "1h",
            "--deadline",
            "2h",
            "--timeout",
            "90s",
            "--retries",
            "5",
            "--retry-delay",
            "2s",
            "--key",
            "tenant-7",
            "--unique",
            "index:replace",
            "--label",
            "team=video",
            "--memory",
            "1MB",
            "--cpu",
            "0.5",
            "--resource",
            "gpu=2",
            "--group",
            "night",
            "--json-payload",
            "{\"n\": 12345678901234567890123}",
        ],
    );
    let text = tell(&daemon, &["tasks", "show", &id, "--json"]);
    assert!(text.contains("12345678901234567890123"), "{text}");
    let shown = task(&daemon, &id);
    for (pointer, value) in [
        ("/kind", "\"resize\""),
        ("/class", "\"batch\""),
        ("/state", "\"scheduled\""),
        ("/priority", "-3"),
        ("/timeout_ms", "90000"),
        ("/retry/max_attempts", "5"),
        ("/retry/base_ms", "2000"),
        ("/key", "\"tenant-7\""),
        ("/unique/key", "\"index\""),
        ("/unique/on_conflict", "\"replace\""),
        ("/labels/team", "\"video\""),
        ("/memory_bytes", "1000000"),
        ("/cpu", "0.5"),
        ("/resources/gpu", "2"),
        ("/group", "\"night\""),
    ] {
        let found = shown.pointer(pointer).map(Value::to_string);
        assert_eq!(found.as_deref(), Some(value), "{pointer}");
    }
    let again = submit(&daemon, &["--unique", "index:keep", "--kind", "resize"]);
    assert_eq!(again, id, "the one that waits stays");
    let keyed = [
        "--idempotency-key",
        "k1",
        "--kind",
        "once",
        "--payload",
        "text",
    ];
    let first = submit(&daemon, &keyed);
    assert_eq!(submit(&daemon, &keyed), first);
    assert_eq!(task(&daemon, &first)["payload"], "text");
    let ran = ask(
        &daemon,
        &["submit", "--idempotency-key", "k1", "--kind", "other"],
    );
    assert_eq!(ran.code, 4);
    let call = submit(
        &daemon,
        &[
            "--url",
            "http://127.0.0.1:9/hook",
            "--delay",
            "1h",
            "-H",
            "X-A: b",
            "--json-payload",
            "[1]",
        ],
    );
    let call = task(&daemon, &call);
    assert_eq!(call["http"]["method"], "POST");
    assert_eq!(call["http"]["headers"]["X-A"], "b");
    assert_eq!(call["kind"], "127.0.0.1:9");
}

/// Exit status 2 names what is wrong; nothing reaches the daemon.
#[test]
fn wrong_usage_is_told() {
    let folder = Folder::new("submit-usage");
    for (arguments, why) in [
        (&["submit"][..], "what shall be done?"),
        (
            &["submit", "--after", "x", "--", "true"],
            "number of a task",
        ),
        (&["submit", "--after", "1:maybe", "--", "true"], ":failure"),
        (&["submit", "--timeout", "0", "--", "true"], "at least 1ms"),
        (&["submit", "--retries", "0", "--", "true"], "1..=1000"),
        (
            &["submit", "--not-before", "tomorrow", "--", "true"],
            "2027-01-31",
        ),
        (&["submit", "--time-zone", "UTC", "--", "true"], "--cron"),
        (
            &["submit", "--cron", "@daily", "--wait", "--", "true"],
            "cannot be used with",
        ),
        (
            &["submit", "--url", "http://a", "--", "true"],
            "cannot be used with",
        ),
        (&["submit", "--kind", "a", "--json-payload", "{"], "no JSON"),
        (&["submit", "--kind", "a", "--cwd", "/"], "are for commands"),
        (&["submit", "--file", "/nonexistent"], "cannot read"),
        (&["submit", "--env", "=x", "--", "true"], "expected NAME"),
        (
            &["submit", "--idempotency-key", "a\nb", "--", "true"],
            "is no key",
        ),
        (&["tasks", "show"], "required"),
        (&["backup"], "required"),
        (&["restore", "x"], "--state-dir"),
    ] {
        let mut command = isolated(&folder);
        command.env("FLYBALL_STATE_DIR", folder.path("state"));
        let ran = finish(command.args(arguments));
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(why), "{arguments:?}: {}", ran.err);
        assert_eq!(ran.text(), "");
    }
    let mut command = isolated(&folder);
    command.env("FLYBALL_STATE_DIR", folder.path("state"));
    let ran = finish(command.args(["submit", "--", "true"]));
    assert_eq!((ran.code, ran.text()), (3, ""));
}

/// TASK-23: over TCP the allow-list is asked, and only the arguments are sent.
#[test]
fn over_tcp_the_allow_list_is_asked() {
    let daemon = Daemon::start("submit-tcp");
    let server = daemon.address();
    let tcp = |arguments: &[&str]| {
        let mut command = isolated(&daemon.folder);
        command.args(arguments).env("FLYBALL_SERVER", &server).env(
            "FLYBALL_TOKEN_FILE",
            daemon.folder.path("state/admin.token"),
        );
        finish(&mut command)
    };
    let ran = tcp(&["submit", "--", "true"]);
    assert_eq!((ran.code, ran.text()), (4, ""), "{}", ran.err);
    assert!(ran.err.contains("403"), "{}", ran.err);
    let ran = tcp(&["submit", "--kind", "resize"]);
    assert_eq!((ran.code, ran.text()), (0, "1\n"), "{}", ran.err);
}

/// Names and words of tasks cannot play with the terminal.
#[test]
fn what_tasks_say_is_inert() {
    let daemon = Daemon::start("tasks-inert");
    submit(&daemon, &["--wait", "--", "echo", "a\x1b[2Jb\n\u{202e}"]);
    let hostile = [
        "--wait",
        "--quiet",
        "--",
        "sh",
        "-c",
        "printf 'x\\033[31m' >&2; exit 1",
    ];
    let mut all = vec!["submit"];
    all.extend(hostile);
    assert_eq!(ask(&daemon, &all).code, 1);
    for arguments in [
        &["tasks"][..],
        &["tasks", "show", "1", "2"],
        &["tasks", "list"],
    ] {
        let text = tell(&daemon, arguments);
        let odd = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(odd), "{text:?}");
        assert!(text.contains("echo"), "{text}");
    }
}

/// TASK-19: a copy of the queue is taken while it is in use, and what was in it goes on in another folder; a running daemon's folder
/// is left alone, and one with something in it unless that is asked for.
#[test]
fn a_copy_goes_on_elsewhere() {
    let daemon = Daemon::start("tasks-backup");
    let done = submit(&daemon, &["--wait", "--", "true"]);
    let waits = submit(
        &daemon,
        &["--delay", "1h", "--kind", "later", "--payload", "x"],
    );
    let copy = daemon.folder.path("copy.db");
    let copy = copy.to_str().unwrap();
    assert!(tell(&daemon, &["backup", copy]).contains("copy.db: "));
    assert_eq!(
        fs::metadata(copy).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(ask(&daemon, &["backup", copy]).code, 2);
    let restore = |file: &str, folder: PathBuf, more: &[&str]| {
        let mut command = isolated(&daemon.folder);
        command
            .args(["restore", file, "--state-dir"])
            .arg(folder)
            .args(more);
        finish(&mut command)
    };
    let ran = restore(copy, daemon.folder.path("state"), &["--force"]);
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("another flyball daemon"), "{}", ran.err);
    let elsewhere = Folder::new("tasks-restored");
    let state = elsewhere.path("state");
    let damaged = daemon.folder.path("damaged.db");
    let mut bytes = fs::read(copy).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    fs::write(&damaged, bytes).unwrap();
    assert_eq!(
        restore(damaged.to_str().unwrap(), state.clone(), &[]).code,
        1
    );
    assert!(!state.join("queue/tasks.db").exists());
    fs::remove_dir_all(&state).unwrap();
    let ran = restore(copy, state.clone(), &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.text().starts_with("2 tasks restored into "),
        "{}",
        ran.text()
    );
    assert_eq!(restore(copy, state.clone(), &[]).code, 4);
    assert_eq!(restore(copy, state.clone(), &["--force"]).code, 0);
    assert!(state.join("queue/tasks.db.replaced").exists());
    let mut command = isolated(&elsewhere);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(&state);
    let second = Daemon::run(command, elsewhere);
    assert_eq!(task(&second, &done)["state"], "completed");
    assert_eq!(task(&second, &waits)["payload"], "x");
}

/// TASK-8: breakers of what tasks call stand with the limits, and people can decide in their place.
#[test]
fn breakers_are_shown_and_forced() {
    let daemon = Daemon::start("tasks-breakers");
    // Nobody listens on a port that was just let go.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}/");
    let ran = ask(
        &daemon,
        &["submit", "--wait", "--url", &url, "--retries", "1"],
    );
    assert_eq!(ran.code, 1, "{}", ran.err);
    let name = format!("127.0.0.1:{port}");
    let all = json(&daemon, &["limits", "breakers", "--json"]);
    assert_eq!(all["items"][0]["name"], name.as_str(), "{all}");
    let limits = tell(&daemon, &["limits"]);
    assert!(
        limits.contains("LIMIT") && limits.contains(&name),
        "{limits}"
    );
    let no_limit = ask(&daemon, &["limits", "show", &name]);
    assert!(
        no_limit
            .err
            .contains("is a circuit breaker: `flyball limits breakers` shows it"),
        "{}",
        no_limit.err
    );
    let forced = tell(&daemon, &["limits", "force", &name, "open"]);
    assert!(forced.contains("forced open"), "{forced}");
    let waits = submit(&daemon, &["--url", &url, "--kind", "hook"]);
    tell(&daemon, &["limits", "force", &name, "none"]);
    tell(&daemon, &["limits", "reset", &name]);
    tell(&daemon, &["tasks", "cancel", &waits, "--reason", "enough"]);
    assert_eq!(ask(&daemon, &["limits", "force", "nobody", "open"]).code, 4);
}

/// TASK-15: a calendar's entry makes tasks, which can be waited for; it does not end itself.
#[test]
fn calendars_make_tasks() {
    let daemon = Daemon::start("tasks-cron");
    let follow = of(&daemon, &["tasks", "follow", "--kind", "tick"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut follow = Ended(follow);
    let entry = submit(
        &daemon,
        &[
            "--cron",
            "* * * * * *",
            "--kind",
            "tick",
            "--",
            "echo",
            "tock",
        ],
    );
    let mut lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
    let line = lines
        .find(|line| {
            line.as_ref()
                .is_ok_and(|line| line.ends_with("completed") || line.contains("→ completed"))
        })
        .unwrap()
        .unwrap();
    let made = line
        .split("task ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert_eq!(task(&daemon, made)["cron_of"], entry.as_str());
    let ran = ask(&daemon, &["tasks", "wait", &entry]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("calendar"), "{}", ran.err);
    tell(&daemon, &["tasks", "cancel", &entry]);
}

/// A child that is ended with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn worker(daemon: &Daemon, arguments: &[&str]) -> Ended {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/worker.py");
    let child = Command::new("python3")
        .arg(script)
        .args(["--lease", "30"])
        .args(arguments)
        .env("FLYBALL_STATE_DIR", daemon.folder.path("state"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is there");
    Ended(child)
}

/// What a worker says, up to these words.
fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, words: &str) {
    let mut said = Vec::new();
    for line in lines {
        said.push(line.expect("it is text"));
        if said.last().is_some_and(|line| line.contains(words)) {
            return;
        }
    }
    panic!("the worker never says {words:?}:\n{}", said.join("\n"));
}

/// TASK-2, TASK-4, TASK-7: a worker in another language leases, gives signs of life, completes and fails tasks, over the socket and over TCP with the
/// token; asked to end it gives its task back at no cost of an attempt, and the next one goes on from the checkpoint.
#[test]
fn a_worker_in_python_works_tasks() {
    let daemon = Daemon::start("worker-python");
    let mut first = worker(&daemon, &["--name", "first"]);
    let mut said = BufReader::new(first.0.stderr.take().unwrap()).lines();
    let wait = |arguments: &[&str]| {
        let mut all = vec!["submit", "--wait"];
        all.extend(arguments);
        let ran = ask(&daemon, &all);
        (ran.code, ran.text().trim().to_owned(), ran.err)
    };
    let words = "{\"text\": \"to be or not to be\"}";
    let (code, id, why) = wait(&["--kind", "count_words", "--json-payload", words]);
    assert_eq!(code, 0, "{why}");
    assert_eq!(
        task(&daemon, &id)["result"],
        serde_json::json!({"to": 2, "be": 2, "or": 1, "not": 1})
    );
    let (code, id, why) = wait(&["--kind", "flaky", "--json-payload", "{\"succeeds_at\": 2}"]);
    assert_eq!(code, 0, "{why}");
    assert_eq!(task(&daemon, &id)["attempt"], 2);
    let (code, id, why) = wait(&["--kind", "count_words", "--json-payload", "{}"]);
    assert_eq!(code, 1);
    assert!(why.contains("KeyError"), "{why}");
    assert_eq!(task(&daemon, &id)["attempt"], 1, "it was failed for good");
    // A task in hand when the worker is asked to end: two words without a pause would be done at once, so it pauses for an hour.
    let long = "{\"text\": \"a b\", \"pause_s\": 3600}";
    let id = submit(
        &daemon,
        &[
            "--kind",
            "count_words",
            "--timeout",
            "2h",
            "--json-payload",
            long,
        ],
    );
    until(&mut said, &format!("task {id}: count_words, attempt 1"));
    let killed = Command::new("kill")
        .arg(first.0.id().to_string())
        .status()
        .unwrap();
    assert!(killed.success());
    until(&mut said, &format!("task {id}: release"));
    assert!(first.0.wait().unwrap().success());
    let back = task(&daemon, &id);
    assert_eq!(
        (&back["state"], &back["attempts_counted"]),
        (&"pending".into(), &0.into())
    );
    // The next one, over TCP.
    let server = format!("http://{}", daemon.address());
    let mut second = worker(&daemon, &["--name", "second", "--server", &server]);
    let mut said = BufReader::new(second.0.stderr.take().unwrap()).lines();
    until(&mut said, &format!("task {id}: count_words, attempt 2"));
    assert_eq!(task(&daemon, &id)["worker"], "second");
    let cancelled = tell(&daemon, &["tasks", "cancel", &id]);
    assert_eq!(cancelled, format!("task {id} was asked to stop\n"));
    let stopped = Command::new("kill")
        .args(["-s", "INT", &second.0.id().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    let mut rest = String::new();
    for line in said {
        rest.push_str(&line.unwrap());
        rest.push('\n');
    }
    assert!(second.0.wait().unwrap().success(), "{rest}");
    let ran = ask(&daemon, &["tasks", "wait", &id]);
    assert_eq!(ran.code, 1);
    assert_eq!(task(&daemon, &id)["state"], "cancelled");
}

/// TASK-4: a wait goes on through a restart of the daemon, which honours what it took.
#[test]
fn waits_outlast_a_restart() {
    let daemon = Daemon::start("tasks-restart");
    let done = submit(&daemon, &["--wait", "--", "true"]);
    tell(&daemon, &["tasks", "pause", "--all"]);
    let id = submit(&daemon, &["--", "true"]);
    let mut waiting = of(&daemon, &["tasks", "wait", &done, &id])
        .stdout(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    // The one that is done already is said once the daemon has been reached.
    let mut said = BufReader::new(waiting.0.stdout.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    assert!(
        first.starts_with(&format!("task {done} completed")),
        "{first}"
    );
    let state = daemon.folder.path("state");
    let (code, folder) = daemon.stop();
    assert_eq!(code, Some(0));
    let mut command = isolated(&folder);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(&state);
    let daemon = Daemon::run(command, folder);
    tell(&daemon, &["tasks", "resume", "--all"]);
    let last = said.next().unwrap().unwrap();
    assert!(last.starts_with(&format!("task {id} completed")), "{last}");
    assert!(waiting.0.wait().unwrap().success());
}

/// TASK-6, TASK-11, CFG-3: with one slot a command of a higher class has one that may be paused stand still; when there may be two at once from now on, both run.
#[test]
fn slots_are_given_up_and_grow() {
    let daemon = Daemon::start("tasks-slots");
    tell(&daemon, &["config", "set", "scheduler.max_concurrency=1"]);
    let gated = |name: &str, class: &str| {
        let path = daemon.folder.path(name);
        fifo(&path);
        let id = submit(
            &daemon,
            &["--class", class, "--", "cat", path.to_str().unwrap()],
        );
        (id, path)
    };
    // Opened when the command reads it: it runs.
    let open = |path: &PathBuf| fs::OpenOptions::new().write(true).open(path).unwrap();
    let (batch, batch_gate) = gated("batch", "batch");
    let of_batch = open(&batch_gate);
    let (urgent, urgent_gate) = gated("urgent", "interactive");
    let of_urgent = open(&urgent_gate);
    // That it stands still is told the queue a moment later.
    while task(&daemon, &batch)["state"] != "paused" {}
    tell(&daemon, &["config", "set", "scheduler.max_concurrency=2"]);
    // Its end proves that it goes on, while the other is held.
    drop(of_batch);
    tell(&daemon, &["tasks", "wait", &batch]);
    assert_eq!(task(&daemon, &urgent)["state"], "running");
    drop(of_urgent);
    tell(&daemon, &["tasks", "wait", &urgent]);
}
