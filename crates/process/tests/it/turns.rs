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
    (
        "turns::who_stopped_itself_is_not_woken",
        who_stopped_itself_is_not_woken,
    ),
    (
        "turns::nobody_waits_for_a_keeper_that_does_not_listen",
        nobody_waits_for_a_keeper_that_does_not_listen,
    ),
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
fn wait_until(mut is_so: impl FnMut() -> bool) {
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

/// CPU-20: what stopped itself goes on standing still, however often the others of its tree stop and go on.
fn who_stopped_itself_is_not_woken() {
    let server = server();
    let (mut line, writer) = Watchline::new();
    let script = "echo $$ >&2; sh -c 'echo $$ >&2; kill -STOP $$' & exec sleep 600";
    let command = shell(script).stderr(writer).grace(Duration::ZERO);
    let child = server.spawn(command).unwrap();
    let pids = line.pids(2);
    // Which of the two wrote first is not known, but who has the number.
    let root = child.wait_started().unwrap() as i32;
    let stopped = *pids.iter().find(|pid| **pid != root).unwrap();
    wait_until(|| stands(stopped) && !stands(root));
    let mut turns = Turns::new(at(0));
    turns.insert(1, child.control(), 0.5);
    for cycle in 0..5 {
        turns.tick(at(cycle * 100 + 75));
        wait_until(|| stands(root));
        turns.tick(at(cycle * 100 + 110));
        wait_until(|| !stands(root));
        assert!(stands(stopped), "it was let go in cycle {cycle}");
    }
    // Its end reaches it all the same.
    child.kill();
    line.assert_closes();
}

/// CPU-20: a keeper that does not read its orders (stopped itself, or frozen with its control group) makes nobody wait, and its command is neither
/// forgotten nor left standing when it listens again.
fn nobody_waits_for_a_keeper_that_does_not_listen() {
    let server = server();
    let (child, pid) = idler(&server);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1;
    let keeper: i32 = fields.split(' ').nth(1).unwrap().parse().unwrap();
    let mut turns = Turns::new(at(0));
    turns.insert(1, child.control(), 0.5);
    let send = |signal: &str| {
        let mut kill = std::process::Command::new("kill");
        assert!(
            kill.args([signal, &keeper.to_string()])
                .status()
                .unwrap()
                .success()
        );
    };
    send("-STOP");
    wait_until(|| stands(keeper));
    // More orders than a socket holds.
    let (done, waited) = std::sync::mpsc::channel();
    let ticking = std::thread::spawn(move || {
        for cycle in 0..2_000 {
            turns.tick(at(cycle * 100 + 10));
            turns.tick(at(cycle * 100 + 75));
        }
        let _ = done.send(());
        turns
    });
    let in_time = waited.recv_timeout(Duration::from_secs(20)).is_ok();
    send("-CONT");
    assert!(in_time, "an order waited for the keeper");
    let mut turns = ticking.join().unwrap();
    // Heard again, turns go on, and so does the command at their end.
    wait_until(|| !stands(keeper));
    wait_until(|| {
        turns.tick(at(200_075));
        stands(pid)
    });
    turns.set_parts(|_| 1.0);
    assert_eq!(turns.tick(at(200_080)), None);
    assert_eq!(turns.held(), 0);
    wait_until(|| !stands(pid));
}
