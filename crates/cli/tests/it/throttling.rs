//! Throttles of a daemon and the commands of its tasks: real processes that want all of a CPU.
//!
//! Nothing sleeps and no time is measured here: what the daemon measures is asked for until it is as it should be.

use std::time::Duration;

use flyball_core::time::{Clock, OsClock};
use serde_json::Value;

use crate::daemon::Daemon;

/// Computes for ever, in a child for each CPU.
const SPIN: &str = "for cpu in $(seq $(nproc)); do (while :; do :; done) & done; wait";

fn throttle(daemon: &Daemon, name: &str) -> Value {
    let all = daemon.tell(&["limits", "throttles", "--json"]);
    let all: Value = serde_json::from_str(&all).expect("JSON");
    let items = all["items"].as_array().expect("a page");
    let found = items.iter().find(|throttle| throttle["name"] == name);
    found.expect("it is there").clone()
}

/// Asks until it is so, and answers what was found.
fn until(daemon: &Daemon, name: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
    let ends = OsClock.now().saturating_add(Duration::from_secs(60));
    loop {
        let found = throttle(daemon, name);
        if is_so(&found) {
            return found;
        }
        assert!(OsClock.now() < ends, "waited in vain: {found}");
        // Asking without a pause would take the CPU from the commands.
        let (_nobody, silence) = std::sync::mpsc::channel::<()>();
        let _ = silence.recv_timeout(Duration::from_millis(100));
    }
}

/// Readings in a row: more than 5 s of them, so that the last is a mean of nothing that the first is of.
const READINGS: usize = 50;
/// Until something has been held back for so long the throttle may still be finding its level.
const BEGIN_MS: u64 = 5_000;

/// Asks until so many readings in a row, of means over 5 s, have been within 3 points of the threshold with something held back; answers those.
fn held(daemon: &Daemon, name: &str, percent: f64) -> Vec<Value> {
    let mut row = Vec::new();
    until(daemon, name, |throttle| {
        let usage = throttle["usage_percent"].as_f64();
        let is_near = usage.is_some_and(|usage| (usage - percent).abs() <= 3.0);
        let holds = throttle["state"] == "active"
            && throttle["throttled_ms"].as_u64() > Some(BEGIN_MS)
            && throttle["commands_run_percent"].as_f64() < Some(100.0);
        match is_near && holds {
            true => row.push(throttle.clone()),
            false => row.clear(),
        }
        row.len() == READINGS
    });
    row
}

/// The difference between the most and the least of a figure.
fn swing(readings: &[Value], figure: &str) -> f64 {
    let figures = || {
        readings
            .iter()
            .filter_map(|reading| reading[figure].as_f64())
    };
    figures().fold(f64::NEG_INFINITY, f64::max) - figures().fold(f64::INFINITY, f64::min)
}

/// CPU-20: commands of a class are held at the threshold of a throttle by standing still by turns, and stay there without a swing, whether it measures the class
/// or the process, of which they count as a part. They are running all the while, and can be cancelled; afterwards the throttle has nothing to hold.
#[test]
fn commands_of_tasks_are_held_at_a_threshold() {
    for (scope, at) in [("class:normal", 10.0), ("process", 15.0)] {
        let daemon = Daemon::start("held-commands");
        let percent = at.to_string();
        daemon.tell(&[
            "limits", "throttle", "few", "--scope", scope, "--at", &percent,
        ]);
        let mut submit = daemon.command(&["submit", "--class", "normal"]);
        submit.args(["--", "sh", "-c", SPIN]);
        let submitted = crate::finish(&mut submit);
        assert_eq!(submitted.code, 0, "{}", submitted.err);
        let id = submitted.text().trim().to_owned();
        let readings = held(&daemon, "few", at);
        let last = &readings[READINGS - 1];
        assert!(last["level"].as_f64() > Some(0.0), "{last}");
        // What is used does not swing, nor does the throttle begin and end. The part of the time for which commands run follows what else is busy here.
        let swings = ["usage_percent", "activations"].map(|figure| swing(&readings, figure));
        assert!(
            swings[0] <= 4.0 && swings[1] == 0.0,
            "{swings:?}: {readings:?}"
        );
        let task: Value =
            serde_json::from_str(&daemon.tell(&["tasks", "show", &id, "--json"])).expect("JSON");
        assert_eq!(task["state"], "running", "{task}");
        daemon.tell(&["tasks", "cancel", &id]);
        let after = until(&daemon, "few", |throttle| throttle["state"] == "idle");
        assert_eq!(after["commands_run_percent"], 100.0, "{after}");
    }
}

/// CPU-30: a throttle that observes decides as ever, and lets commands run.
#[test]
fn an_observing_throttle_lets_commands_run() {
    let daemon = Daemon::start("observed-commands");
    daemon.tell(&[
        "limits",
        "throttle",
        "few",
        "--scope",
        "class:normal",
        "--at",
        "5",
        "--observe",
    ]);
    let mut submit = daemon.command(&["submit", "--class", "normal"]);
    submit.args(["--", "sh", "-c", SPIN]);
    assert_eq!(crate::finish(&mut submit).code, 0);
    let observed = until(&daemon, "few", |throttle| throttle["state"] == "active");
    assert!(observed["level"].as_f64() > Some(0.0), "{observed}");
    assert_eq!(observed["commands_run_percent"], 100.0, "{observed}");
}

/// CPU-20: the daemon's own throttles are switched off and on again and nothing else is; others are added and removed.
#[test]
fn throttles_are_switched_and_removed() {
    let daemon = Daemon::start("switched-throttles");
    daemon.tell(&[
        "limits", "throttle", "few", "--scope", "process", "--at", "90",
    ]);
    for (option, own) in [("--off", false), ("--on", true)] {
        daemon.tell(&["limits", "throttle", "machine", option]);
        assert_eq!(throttle(&daemon, "machine")["enabled"], own);
        assert_eq!(throttle(&daemon, "few")["enabled"], true);
    }
    daemon.tell(&["limits", "throttle", "few", "--remove"]);
    let again = crate::finish(&mut daemon.command(&["limits", "throttle", "few", "--remove"]));
    assert_ne!(again.code, 0);
    assert!(again.err.contains("there is no throttle"), "{}", again.err);
}

/// CPU-20: throttles are shown with all the other limits; whoever takes one for an adaptive limit is told what it is, and what shows it.
#[test]
fn throttles_are_shown_beside_other_limits() {
    let daemon = Daemon::start("shown-throttles");
    let all = daemon.tell(&["limits"]);
    let title = all.lines().find(|line| line.starts_with("THROTTLE "));
    assert!(
        title.is_some_and(|title| title.ends_with("HOLDS BACK")),
        "{all}"
    );
    for own in [["machine", "machine"], ["quota", "quota"]] {
        let words = |line: &str| line.split_whitespace().take(2).eq(own);
        assert!(all.lines().any(words), "{all}");
    }
    for action in ["show", "reset"] {
        let ran = daemon.ask(&["limits", action, "machine"]);
        assert_eq!((ran.code, ran.text()), (4, ""), "{}", ran.err);
        let told = "machine is a throttle: `flyball limits throttles` shows it";
        assert!(ran.err.contains(told), "{}", ran.err);
        let ran = daemon.ask(&["limits", action, "nobody"]);
        assert!(
            ran.code == 4 && !ran.err.contains("shows it"),
            "{}",
            ran.err
        );
    }
}
