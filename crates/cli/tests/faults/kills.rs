//! `kill -9` at any moment.

use crate::daemon::{Daemon, Folder, Setup, marked};
use crate::load::Load;
use crate::model::{Shared, compare, drain};
use crate::{let_pass, seeded, setting, wait_until};
use flyball_core::rng::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A command whose children leave it in every way there is, and that does not end.
const TREE: &str = r#"trap "" TERM
(setsid sh -c 'trap "" TERM; sleep 900 & sleep 900' &)
(sleep 900 & sleep 900 &)
sleep 900 & wait"#;

/// A command that says that it ran, and leaves a child behind.
const SHORT: &str = r#"setsid sleep 900 & echo "$1" >> "$2""#;

/// Short commands by id: their number, and how often they had run when they were first seen completed.
type Shorts = BTreeMap<String, (u64, Option<usize>)>;

fn submit_commands(shared: &Shared, daemon: &Daemon, mark: &str, runs: &Path, shorts: &mut Shorts) {
    let Ok(mut client) = crate::client::Client::connect(&daemon.socket()) else {
        return;
    };
    let (name, value) = mark.split_once('=').expect("a variable");
    let tree = json!({"kind": "tree", "command": {"argv": ["/bin/sh", "-c", TREE], "env": {name: value}}, "timeout_ms": 3_600_000, "retry": {"max_attempts": 2}});
    let number = shared.model().number();
    let argv = [
        "/bin/sh",
        "-c",
        SHORT,
        "sh",
        &number.to_string(),
        &runs.to_string_lossy(),
    ];
    let short = json!({"kind": "short", "command": {"argv": argv, "env": {name: value}}, "timeout_ms": 3_600_000, "retry": {"max_attempts": 1000}});
    for (body, is_short) in [(tree, false), (short, true)] {
        if let Ok((status, answer)) = client.post("/v1/tasks", &body) {
            shared.tell(|model| match status {
                201 => {
                    model.command_accepted(&answer);
                    if is_short {
                        let id = answer["id"].as_str().unwrap_or_default().to_owned();
                        shorts.insert(id, (number, None));
                    }
                }
                _ => model.fault(format!("submitting a command: {status} {answer}")),
            });
        }
    }
}

/// How often each short command ran.
fn runs_of(runs: &Path) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for line in fs::read_to_string(runs).unwrap_or_default().lines() {
        if let Ok(number) = line.parse() {
            *counts.entry(number).or_default() += 1;
        }
    }
    counts
}

/// Looks which short commands are completed; none that was may have run again.
fn look_at_shorts(shared: &Shared, daemon: &Daemon, runs: &Path, shorts: &mut Shorts) {
    let page = daemon.expect(
        "GET",
        "/v1/tasks?kind=short&state=completed&limit=1000",
        "",
        200,
    );
    let counts = runs_of(runs);
    for task in page["items"].as_array().into_iter().flatten() {
        let Some((number, seen)) = shorts.get_mut(task["id"].as_str().unwrap_or_default()) else {
            continue;
        };
        let count = counts.get(number).copied().unwrap_or(0);
        let expected = *seen.get_or_insert(count);
        if count != expected || count == 0 {
            shared.tell(|model| {
                model.fault(format!(
                    "a command that is completed ran {count} times, {expected} before: {task}"
                ));
            });
        }
    }
}

/// Kills a daemon somewhere in its start, or under load.
fn live_and_die(
    shared: &Arc<Shared>,
    setup: &Setup,
    rng: &mut Rng,
    mark: &str,
    runs: &Path,
    shorts: &mut Shorts,
) {
    if rng.chance(0.1) {
        let mut daemon = setup.spawn();
        let_pass(Duration::from_micros(rng.below(150_000)));
        daemon.kill();
        return;
    }
    let mut daemon = setup.start();
    compare(shared, &mut daemon.client(), false).expect("the daemon answers");
    look_at_shorts(shared, &daemon, runs, shorts);
    let load = Load::start(shared, &daemon.socket(), rng);
    submit_commands(shared, &daemon, mark, runs, shorts);
    shared.wait_for(rng.between(1, 60), || false);
    let_pass(Duration::from_micros(rng.below(2_000)));
    daemon.kill();
    load.join();
    let mark = mark.to_owned();
    wait_until("nothing of the commands runs", || marked(&mark).is_empty());
}

fn assert_fine(shared: &Shared, setup: &Setup, round: u64) {
    let model = shared.model();
    assert!(
        model.wrong.is_empty(),
        "after life {round}:\n{}\n\n{}",
        model.wrong.join("\n"),
        setup.log_text()
    );
}

/// TASK-1, TASK-4, TASK-11: killed at any moment, under load, a daemon loses no task that it accepted, brings none back whose completion it acknowledged,
/// refuses every token of before, answers repeated requests as before, and leaves no process of a command. `FLYBALL_KILLS` says how often.
#[test]
fn killed_at_any_moment_nothing_is_lost() {
    let kills = setting("FLYBALL_KILLS", 100);
    let mut rng = seeded("kills");
    let folder = Folder::new("kills");
    let setup = Setup::new(&folder);
    let runs = folder.path("runs");
    let mark = format!("FLYBALL_MARK={}-{}", std::process::id(), rng.next_u32());
    let shared = Arc::new(Shared::default());
    let mut shorts = Shorts::new();
    for round in 1..=kills {
        live_and_die(&shared, &setup, &mut rng, &mark, &runs, &mut shorts);
        assert_fine(&shared, &setup, round);
        if round % 100 == 0 {
            println!("{round} kills: {}", figures(&shared));
        }
    }
    let daemon = setup.start();
    let mut client = daemon.client();
    compare(&shared, &mut client, true).expect("the daemon answers");
    look_at_shorts(&shared, &daemon, &runs, &mut shorts);
    drain(&shared, &mut client).expect("the daemon answers");
    compare(&shared, &mut client, true).expect("the daemon answers");
    assert_fine(&shared, &setup, kills + 1);
    println!("{kills} kills: {}", figures(&shared));
    let stats = daemon.expect("GET", "/v1/tasks/stats", "", 200);
    assert_eq!(stats["damaged"], json!(0), "{stats}");
    drop(daemon);
    wait_until("nothing of the commands runs", || marked(&mark).is_empty());
    let model = shared.model();
    assert!(model.completed > 0 && model.completed == model.accepted);
}

pub(crate) fn figures(shared: &Shared) -> String {
    let model = shared.model();
    format!(
        "{} tasks accepted, {} completions acknowledged, {} stale tokens refused, {} repeatable requests",
        model.accepted,
        model.completed,
        model.refused_tokens,
        model.keyed.len()
    )
}

/// TASK-1: two daemons never share a folder, and the one that has it is not disturbed.
#[test]
fn a_second_daemon_is_refused() {
    let folder = Folder::new("second");
    let setup = Setup::new(&folder);
    let daemon = setup.start();
    let second = setup.spawn().ready().err().expect("it does not start");
    assert!(
        second.contains("another") || second.contains("use"),
        "{second}"
    );
    let task: Value = daemon.expect("POST", "/v1/tasks", r#"{"kind":"a"}"#, 201);
    assert_eq!(task["state"], "pending");
}
