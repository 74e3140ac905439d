//! Commands that run for a part of the time.

use crate::{Test, Watchline, alive, server, shell};
use flyball_core::time::Timestamp;
use flyball_process::bounds::turns::Turns;
use flyball_process::{Child, SpawnServer, Status};
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    ("turns::they_take_turns", they_take_turns),
    (
        "turns::who_is_paused_has_no_turn",
        who_is_paused_has_no_turn,
    ),
    ("turns::held_commands_end", held_commands_end),
    ("turns::who_goes_is_let_go", who_goes_is_let_go),
];

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

/// A command that does nothing, and its process.
fn idler(server: &SpawnServer) -> (Child, i32) {
    let (mut line, writer) = Watchline::new();
    let command = shell("echo $$ >&2; exec sleep 600").stderr(writer);
    let child = server.spawn(command.grace(Duration::ZERO)).unwrap();
    // Named by its shell, of which the sleep keeps the number.
    let pid = line.pids(1)[0];
    (child, pid)
}

fn stands(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") T ")
}

/// Waits until the orders that were given have been heard.
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

/// CPU-20: of commands that may run half of the time half run, and then the other half; with the whole time all run.
fn they_take_turns() {
    let server = server();
    let commands: Vec<_> = (0..4).map(|_| idler(&server)).collect();
    let mut turns = Turns::new(at(0));
    for (number, (child, _)) in commands.iter().enumerate() {
        turns.insert(number as u64, child.control(), 0.5);
    }
    let running = |turns: &mut Turns, now: Timestamp| -> Vec<bool> {
        assert!(turns.tick(now).is_some_and(|next| next > now));
        assert_eq!(turns.held(), 2);
        let standing = || commands.iter().filter(|(_, pid)| stands(*pid)).count();
        wait_until(|| standing() == 2);
        let held = |(child, _): &(Child, i32)| child.status() == Status::Paused;
        commands.iter().map(|command| !held(command)).collect()
    };
    // Places move on after a second.
    assert_eq!(running(&mut turns, at(10)), [true, true, false, false]);
    assert_eq!(running(&mut turns, at(1_010)), [true, false, false, true]);
    assert_eq!(running(&mut turns, at(2_010)), [false, false, true, true]);
    turns.set_parts(|_| f64::NAN);
    assert_eq!(turns.tick(at(2_020)), None);
    wait_until(|| commands.iter().all(|(_, pid)| !stands(*pid)));
}

/// CPU-20: a command that is paused for another cause stands still until neither holds; meanwhile the others have its turns.
fn who_is_paused_has_no_turn() {
    let server = server();
    let ((one, first), (two, second)) = (idler(&server), idler(&server));
    let mut turns = Turns::new(at(0));
    turns.insert(1, one.control(), 0.5);
    turns.insert(2, two.control(), 0.5);
    turns.tick(at(10));
    wait_until(|| !stands(first) && stands(second));
    // Paused and held; when the pause ends, it stands until its turn comes.
    assert!(two.pause() && two.resume());
    assert_eq!(two.status(), Status::Paused);
    assert!(one.pause());
    turns.tick(at(20));
    wait_until(|| stands(first) && !stands(second));
    assert_eq!(turns.held(), 0);
    // Alone it has a duty cycle.
    turns.tick(at(60));
    wait_until(|| stands(second));
    // The first one's pause is not ended by a turn, nor by the end of all.
    turns.tick(at(110));
    turns.release();
    wait_until(|| !stands(second));
    assert!(stands(first));
    assert!(one.resume());
    wait_until(|| !stands(first));
}

/// CPU-20: a command that stands still can be killed, and ends by its timeout only when it has run for as long.
fn held_commands_end() {
    let server = server();
    let (mut child, pid) = idler(&server);
    let mut turns = Turns::new(at(0));
    turns.insert(1, child.control(), 0.1);
    turns.tick(at(50));
    wait_until(|| stands(pid));
    assert!(alive(pid));
    child.kill();
    let exit = child.wait_blocking().unwrap();
    assert!(exit.killed);
    // It has ended, and nobody minds that it had a turn to come.
    turns.tick(at(101));
    turns.remove(1);
    assert!(turns.is_empty());
}

/// CPU-20: a command that is taken out goes on.
fn who_goes_is_let_go() {
    let server = server();
    let (child, pid) = idler(&server);
    let mut turns = Turns::new(at(0));
    turns.insert(1, child.control(), 0.0);
    // With nothing allowed at all it runs for a moment of each cycle.
    turns.tick(at(1));
    assert_eq!(turns.held(), 0);
    turns.tick(at(50));
    wait_until(|| stands(pid));
    turns.remove(1);
    wait_until(|| !stands(pid));
    assert!(child.control().cpu().is_some());
}
