//! Commands that run for a part of the time, as a throttle wants it.

use crate::Test;
use crate::stage::{Stage, quiet, shell};
use flyball_tasks::run::{Phase, RunSettings};
use flyball_tasks::{NewTask, Outcome, State, TaskId};
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    (
        "turns::commands_of_a_class_stand_still_by_turns",
        commands_of_a_class_stand_still_by_turns,
    ),
    (
        "turns::standing_still_ends_nobody",
        standing_still_ends_nobody,
    ),
    ("turns::a_drain_lets_them_finish", a_drain_lets_them_finish),
];

const SPIN: &str = "echo $$; while :; do :; done";

fn batch(script: &str) -> NewTask {
    let mut task = shell(script);
    task.head.class = "batch".into();
    task
}

fn parts(parts: &[(&str, f64)]) -> BTreeMap<Box<str>, f64> {
    parts
        .iter()
        .map(|(name, part)| ((*name).into(), *part))
        .collect()
}

/// The process of a command that names it first.
fn pid(stage: &Stage, id: TaskId) -> u32 {
    stage.queue.wait_state(id, State::Running);
    loop {
        let said =
            stage
                .runners
                .outputs()
                .unwrap()
                .reader(id, flyball_tasks::run::Stream::Stdout, 0);
        if said.is_ok()
            && let Ok(pid) = String::from_utf8(stage.stdout(id)).unwrap().trim().parse()
        {
            return pid;
        }
        std::thread::yield_now();
    }
}

fn stands(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") T ")
}

/// Looks until it is so.
fn wait_until(is_so: impl Fn() -> bool) {
    let (_nobody, silence) = std::sync::mpsc::channel::<()>();
    for _ in 0..20_000 {
        if is_so() {
            return;
        }
        let _ = silence.recv_timeout(Duration::from_millis(1));
    }
    panic!("waited in vain");
}

/// CPU-20: commands of a class that may run for a part of the time stand still and go on in turn, those that begin meanwhile included; others are left alone.
/// They are running all the while, what they use is known by class, and when the class may run always they do.
fn commands_of_a_class_stand_still_by_turns() {
    let stage = Stage::with_slots(quiet(), 3);
    let normal = stage.queue.add(shell(SPIN));
    let first = stage.queue.add(batch(SPIN));
    let (normal, first) = (pid(&stage, normal), pid(&stage, first));
    stage.runners.hold_commands(parts(&[("batch", 0.5)]));
    let second = stage.queue.add(batch(SPIN));
    let second = pid(&stage, second);
    for _ in 0..2 {
        wait_until(|| stands(first) && !stands(second));
        wait_until(|| stands(second) && !stands(first));
    }
    assert!(!stands(normal));
    assert!(stage.runners.commands_held() <= 1);
    let running = stage.runners.running();
    assert!(running.iter().all(|run| run.phase == Phase::Running));
    wait_until(|| stage.runners.commands_cpu()["batch"] > 0);
    assert!(stage.runners.commands_cpu()["normal"] > 0);
    stage.runners.hold_commands(parts(&[]));
    wait_until(|| stage.runners.commands_held() == 0);
    wait_until(|| !stands(first) && !stands(second));
}

/// CPU-20: a command that stands still nearly all of the time is ended neither by its timeout, whose clock stands with it, nor by its lease, which is
/// renewed while the queue is told how long it stood still, which does not count for its timeout there either; let go, it runs past its timeout.
fn standing_still_ends_nobody() {
    let mut settings = RunSettings::default();
    settings.lease = Duration::from_secs(3);
    let stage = Stage::new(settings);
    stage.runners.hold_commands(parts(&[("batch", 0.02)]));
    let mut task = batch(SPIN);
    task.head.timeout = Some(Duration::from_secs(1));
    let id = stage.queue.add(task);
    // A third of the lease apart: longer than its timeout in all.
    let beats = stage.queue.wait(|inner| {
        let task = &inner.tasks[&id.0];
        let stood = |beat: &flyball_tasks::Beat| beat.stood > Duration::from_secs(2);
        let done = task.beats.len() >= 4 && task.beats.iter().any(stood);
        (done || !task.ends.is_empty()).then(|| task.beats.clone())
    });
    assert_eq!(stage.runners.running().len(), 1, "it was ended");
    assert!(beats.iter().all(|beat| beat.paused.is_none()));
    assert!(beats.is_sorted_by_key(|beat| beat.stood), "{beats:?}");
    stage.runners.hold_commands(parts(&[]));
    let end = stage.queue.wait_end(id, 1);
    let failed = |outcome| matches!(outcome, Some(Outcome::Failed { .. }));
    assert!(failed(end.outcome), "{end:?}");
}

/// CPU-20, CPU-18: what runs when the runners end is let go, so that it comes to its end in time.
fn a_drain_lets_them_finish() {
    let stage = Stage::new(quiet());
    stage.runners.hold_commands(parts(&[("batch", 0.001)]));
    let id = stage.queue.add(batch(
        "echo $$; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
    ));
    pid(&stage, id);
    stage.wait_idle();
    let end = stage.queue.wait_end(id, 1);
    assert_eq!(end.outcome, Some(Outcome::Done));
}
