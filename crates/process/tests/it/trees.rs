//! Trees end whole, whatever they do.

use std::time::Duration;

use flyball_process::{Command, Ended, Status};

use crate::{Test, Watchline, alive, duplicate, exists, helper, server, shell, this_program};

pub(crate) const TESTS: &[Test] = &[
    (
        "trees::a_timeout_ends_what_forked_twice",
        a_timeout_ends_what_forked_twice,
    ),
    (
        "trees::a_timeout_ends_what_called_setsid",
        a_timeout_ends_what_called_setsid,
    ),
    (
        "trees::a_timeout_ends_what_ignores_sigterm",
        a_timeout_ends_what_ignores_sigterm,
    ),
    (
        "trees::a_kill_ends_what_is_stopped",
        a_kill_ends_what_is_stopped,
    ),
    (
        "trees::what_a_command_leaves_behind_is_ended",
        what_a_command_leaves_behind_is_ended,
    ),
    ("trees::a_dropped_child_is_ended", a_dropped_child_is_ended),
    (
        "trees::kill_9_of_the_program_leaves_nothing",
        kill_9_of_the_program_leaves_nothing,
    ),
    (
        "trees::kill_9_of_a_keeper_leaves_nothing",
        kill_9_of_a_keeper_leaves_nothing,
    ),
    (
        "trees::kill_9_of_the_server_leaves_keepers_in_charge",
        kill_9_of_the_server_leaves_keepers_in_charge,
    ),
    (
        "trees::a_late_kill_does_not_reach_the_next_command",
        a_late_kill_does_not_reach_the_next_command,
    ),
    (
        "trees::dropping_the_server_ends_all",
        dropping_the_server_ends_all,
    ),
    (
        "trees::paused_time_does_not_count_for_the_timeout",
        paused_time_does_not_count_for_the_timeout,
    ),
    (
        "trees::a_tree_that_keeps_forking_is_ended",
        a_tree_that_keeps_forking_is_ended,
    ),
];

const SHORT: Duration = Duration::from_millis(100);

/// Runs a script that writes `count` process ids, lets its timeout pass, and proves that all of them are gone.
fn times_out(script: &str, count: usize, ended: Ended) {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let command = shell(script)
        .stderr(duplicate(&writer))
        .timeout(SHORT)
        .grace(SHORT);
    drop(writer);
    let mut child = server.spawn(command).unwrap();
    let pids = line.pids(count);
    let exit = child.wait_blocking().unwrap();
    assert!(exit.timed_out && !exit.success());
    assert_eq!((exit.ended, exit.survivors), (ended, 0));
    // The report is the proof: nothing is left when it comes.
    for pid in pids {
        assert!(!exists(pid), "process {pid} is left");
    }
    line.assert_closes();
}

/// TASK-11: a child that forked twice is an orphan of the keeper.
fn a_timeout_ends_what_forked_twice() {
    let term = Ended::Signalled {
        signal: 15,
        core: false,
    };
    times_out(
        "(sh -c 'echo $$ >&2; sleep 600' &); echo $$ >&2; sleep 600",
        2,
        term,
    );
}

/// TASK-11: a session of its own does not hide a child.
fn a_timeout_ends_what_called_setsid() {
    let term = Ended::Signalled {
        signal: 15,
        core: false,
    };
    times_out(
        "setsid sh -c 'echo $$ >&2; exec sleep 600' & echo $$ >&2; sleep 600",
        2,
        term,
    );
}

/// TASK-11: after the grace comes SIGKILL.
fn a_timeout_ends_what_ignores_sigterm() {
    let kill = Ended::Signalled {
        signal: 9,
        core: false,
    };
    times_out(
        "trap '' TERM; sh -c 'echo $$ >&2; sleep 600' & echo $$ >&2; while :; do sleep 600; done",
        2,
        kill,
    );
}

/// TASK-11: a stopped child sees SIGTERM after SIGCONT.
fn a_kill_ends_what_is_stopped() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let mut child = server
        .spawn(shell("echo $$ >&2; kill -STOP $$; sleep 600").stderr(writer))
        .unwrap();
    let pid = line.pids(1)[0];
    child.kill();
    let exit = child.wait_blocking().unwrap();
    assert!(exit.killed && !exists(pid));
    assert_eq!(
        exit.ended,
        Ended::Signalled {
            signal: 15,
            core: false
        }
    );
    line.assert_closes();
}

/// TASK-11: no orphan after an ordinary end.
fn what_a_command_leaves_behind_is_ended() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let script = "(setsid sh -c 'echo $$ >&2; exec sleep 600' &); (sh -c 'trap \"\" TERM; echo $$ >&2; sleep 600; :' &)";
    let script = format!("{script}; read -r nothing; exit 3");
    let (stdin, hold) = std::io::pipe().unwrap();
    let command = shell(&script).stderr(writer).stdin(stdin).grace(SHORT);
    let mut child = server.spawn(command).unwrap();
    let pids = line.pids(2);
    drop(hold);
    let exit = child.wait_blocking().unwrap();
    assert_eq!(exit.ended, Ended::Exited(3));
    assert!(exit.leftovers >= 2, "{exit:?}");
    assert!(pids.iter().all(|pid| !exists(*pid)));
    line.assert_closes();
}

fn a_dropped_child_is_ended() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let child = server
        .spawn(shell("echo $$ >&2; sleep 600").stderr(writer))
        .unwrap();
    let _ = line.pids(1);
    drop(child);
    line.assert_closes();
}

/// TASK-11: the death of the program, `kill -9` included, ends every tree, those with stopped and disobedient members too.
fn kill_9_of_the_program_leaves_nothing() {
    let (mut line, writer) = Watchline::new();
    let mut parent = std::process::Command::new(this_program())
        .args(["--helper", "parent"])
        .stdin(std::process::Stdio::piped())
        .stderr(writer)
        .spawn()
        .unwrap();
    let pids = line.pids(5);
    assert!(pids.iter().all(|pid| alive(*pid)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The server and the keepers hold the pipe too: they are gone when it closes.
    line.assert_closes();
    assert!(!pids.iter().any(|pid| alive(*pid)));
}

/// TASK-11: the server takes over what a killed keeper leaves.
fn kill_9_of_a_keeper_leaves_nothing() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let mut child = server
        .spawn(shell("setsid sh -c 'echo $$ >&2; sleep 600' & sleep 600").stderr(writer))
        .unwrap();
    let _ = line.pids(1);
    let keeper = crate::children(server.id())[0];
    let _ = std::process::Command::new("kill")
        .args(["-9", &keeper.to_string()])
        .status();
    assert!(matches!(
        child.wait_blocking().unwrap_err(),
        flyball_process::Error::KeeperLost
    ));
    line.assert_closes();
    assert!(
        server
            .spawn(Command::new("true"))
            .unwrap()
            .wait_blocking()
            .unwrap()
            .success()
    );
}

fn kill_9_of_the_server_leaves_keepers_in_charge() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let mut child = server
        .spawn(shell("echo $$ >&2; sleep 600").stderr(writer))
        .unwrap();
    let _ = line.pids(1);
    let _ = std::process::Command::new("kill")
        .args(["-9", &server.id().to_string()])
        .status();
    child.kill();
    assert!(child.wait_blocking().unwrap().killed);
    line.assert_closes();
}

/// An order that crosses the end of its command is not obeyed by the next.
fn a_late_kill_does_not_reach_the_next_command() {
    let server = server();
    for _ in 0..50 {
        let mut first = server.spawn(Command::new("true")).unwrap();
        let control = first.control();
        first.wait_blocking().unwrap();
        let mut second = server.spawn(shell("exit 0")).unwrap();
        control.kill();
        control.kill_now();
        let exit = second.wait_blocking().unwrap();
        assert!(exit.success() && !exit.killed);
    }
}

fn dropping_the_server_ends_all() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let mut child = server
        .spawn(shell("trap '' TERM; echo $$ >&2; sleep 600; sleep 600").stderr(writer))
        .unwrap();
    let _ = line.pids(1);
    drop(server);
    assert!(matches!(
        child.wait_blocking().unwrap_err(),
        flyball_process::Error::ShuttingDown
    ));
    line.assert_closes();
}

/// TASK-11: the clock of the timeout stands while the tree is stopped.
fn paused_time_does_not_count_for_the_timeout() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let timeout = Duration::from_millis(400);
    let script = "echo $$ >&2; while :; do sleep 0.01; done";
    let mut child = server
        .spawn(shell(script).stderr(writer).timeout(timeout))
        .unwrap();
    let pid = line.pids(1)[0];
    assert!(child.pause());
    assert_eq!(child.status(), Status::Paused);
    // Something that takes longer than the timeout, by the keeper's own clock.
    let longer = server
        .spawn(shell("sleep 600").timeout(timeout * 2))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(longer.timed_out);
    assert!(alive(pid), "a paused command was timed out");
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // `D` is a shell that waits, inside vfork, for a child which was stopped before its exec.
    assert!(state.contains(") T ") || state.contains(") D "), "{state}");
    assert!(child.resume());
    let exit = child.wait_blocking().unwrap();
    assert!(exit.timed_out);
    assert!(exit.paused >= timeout, "{exit:?}");
}

/// A tree that forks while it is killed is pursued until it is gone.
fn a_tree_that_keeps_forking_is_ended() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let script =
        "trap '' TERM; echo $$ >&2; spin() { sh -c : & wait; }; while :; do spin; (spin &) ; done";
    let mut child = server
        .spawn(shell(script).stderr(writer).grace(Duration::ZERO))
        .unwrap();
    let _ = line.pids(1);
    child.kill();
    let exit = child.wait_blocking().unwrap();
    assert_eq!(exit.survivors, 0);
    line.assert_closes();
    assert!(
        server
            .spawn(helper(&["hex", "a"]).null_stdout())
            .unwrap()
            .wait_blocking()
            .unwrap()
            .success()
    );
}
