//! Commands: outputs, figures, environment, allow-list, kills.

use crate::Test;
use crate::stage::{Stage, command, folder, local, quiet, shell};
use flyball_tasks::run::{RunSettings, Stream};
use flyball_tasks::{CommandSpec, IoPriority, Limit, Outcome, Reason, State};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    (
        "commands::a_command_is_run_and_measured",
        a_command_is_run_and_measured,
    ),
    (
        "commands::outputs_are_bytes_bounded_and_followed",
        outputs_are_bytes_bounded_and_followed,
    ),
    (
        "commands::the_environment_says_what_it_may_know",
        the_environment_says_what_it_may_know,
    ),
    (
        "commands::settings_reach_the_process",
        settings_reach_the_process,
    ),
    (
        "commands::failures_are_tried_again_only_where_asked",
        failures_are_tried_again_only_where_asked,
    ),
    (
        "commands::strangers_run_what_is_listed",
        strangers_run_what_is_listed,
    ),
    (
        "commands::a_timeout_ends_trees_that_resist",
        a_timeout_ends_trees_that_resist,
    ),
    (
        "commands::cancelling_ends_trees_that_resist",
        cancelling_ends_trees_that_resist,
    ),
    (
        "commands::a_lost_command_is_killed",
        a_lost_command_is_killed,
    ),
    (
        "commands::a_checkpoint_file_reaches_the_next_attempt",
        a_checkpoint_file_reaches_the_next_attempt,
    ),
    (
        "commands::a_checkpoint_that_is_left_at_once_is_taken",
        a_checkpoint_that_is_left_at_once_is_taken,
    ),
    (
        "commands::no_file_of_a_command_holds_the_others_up",
        no_file_of_a_command_holds_the_others_up,
    ),
    (
        "commands::a_disk_without_room_is_not_the_tasks_fault",
        a_disk_without_room_is_not_the_tasks_fault,
    ),
    (
        "commands::commands_wait_for_process_slots",
        commands_wait_for_process_slots,
    ),
    (
        "commands::the_death_of_the_daemon_ends_its_commands",
        the_death_of_the_daemon_ends_its_commands,
    ),
];

/// TASK-11: exit status, CPU time, memory and I/O of a command are known; its outputs are kept.
fn a_command_is_run_and_measured() {
    let stage = Stage::new(quiet());
    let id = stage.queue.add(shell(
        "echo hello; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo oops >&2",
    ));
    let end = stage.queue.wait_end(id, 1);
    assert_eq!(
        (end.outcome, end.usage.exit_status, end.usage.signal),
        (Some(Outcome::Done), Some(0), None)
    );
    assert!(
        end.usage.cpu.unwrap() > Duration::ZERO && end.usage.peak_memory_bytes.unwrap() > 100_000
    );
    assert_eq!(stage.stdout(id), b"hello\n");
    let status = stage
        .runners
        .outputs()
        .unwrap()
        .status(id, Stream::Stderr)
        .unwrap();
    assert_eq!(
        (status.kept, status.dropped, status.open),
        (5, Some(0), false)
    );
    let killed = stage.queue.add(shell("kill -9 $$"));
    let end = stage.queue.wait_end(killed, 1);
    assert_eq!((end.usage.exit_status, end.usage.signal), (None, Some(9)));
    stage.wait_idle();
    assert_eq!(stage.runners.counts()["command"].completed, 1);
}

/// TASK-11: an output is bytes, read while it is written, cut at its bound with the rest counted, and gone with its task.
fn outputs_are_bytes_bounded_and_followed() {
    let mut settings = quiet();
    settings.outputs.stream_bytes = 1_000;
    let stage = Stage::new(settings);
    let fifo = stage.folder.join("go");
    let script = format!(
        "mkfifo {0}; printf '\\377\\0first'; read x < {0}; yes | head -c 100000",
        fifo.display()
    );
    let id = stage.queue.add(shell(&script));
    stage.queue.wait_state(id, State::Running);
    let outputs = stage.runners.outputs().unwrap().clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let followed = runtime.block_on(async {
        // The queue calls it running a moment before its files are made.
        let mut reader = loop {
            match outputs.reader(id, Stream::Stdout, 0) {
                Ok(reader) => break reader,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut all = Vec::new();
        let mut opened = false;
        let mut chunk = [0; 64];
        loop {
            let count = reader.follow(&mut chunk).await.unwrap();
            if count == 0 {
                break;
            }
            all.extend_from_slice(&chunk[..count]);
            if !opened && all.len() >= 7 {
                assert_eq!(all, b"\xff\0first");
                assert!(reader.is_open());
                std::fs::write(&fifo, "x\n").unwrap();
                opened = true;
            }
        }
        all
    });
    assert_eq!(followed.len(), 1_000);
    stage.queue.wait_state(id, State::Completed);
    let status = outputs.status(id, Stream::Stdout).unwrap();
    assert_eq!((status.kept, status.dropped), (1_000, Some(99_007)));
    assert_eq!(outputs.sweep(|_| false), 1);
    assert!(outputs.status(id, Stream::Stdout).is_err());
}

/// TASK-11, TASK-17: a command knows its task, its attempt and the instances that are its own.
fn the_environment_says_what_it_may_know() {
    let mut settings = quiet();
    settings.resources = [("gpu".into(), 4), ("tape-drive".into(), 1)].into();
    let stage = Stage::new(settings);
    let mut task = shell(
        "echo $FLYBALL_TASK_ID $FLYBALL_TASK_ATTEMPT $FLYBALL_TASK_KIND $CUDA_VISIBLE_DEVICES $FLYBALL_RESOURCE_GPU $FLYBALL_RESOURCE_TAPE_DRIVE $OWN",
    );
    task.head.needs.resources = vec![("gpu".into(), 2), ("tape-drive".into(), 1)];
    if let flyball_tasks::Run::Command(spec) = &mut task.run {
        spec.env = vec![("OWN".into(), "mine".into())];
    }
    let id = stage.queue.add(task);
    assert_eq!(stage.queue.wait_end(id, 1).outcome, Some(Outcome::Done));
    assert_eq!(stage.stdout(id), b"1 1 command 0,1 0,1 0 mine\n");
}

/// TASK-11: folder, mask, niceness, ionice, affinity and limits are the command's; the class adds its niceness.
fn settings_reach_the_process() {
    let stage = Stage::new(quiet());
    let mut task = command(CommandSpec {
        cwd: Some(stage.folder.clone()),
        umask: Some(0o027),
        nice: 3,
        io_priority: Some(IoPriority::Idle),
        affinity: vec![0],
        limits: vec![(Limit::OpenFiles, 77)],
        clear_env: true,
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        ..local(&[
            "sh",
            "-c",
            "pwd; umask; nice; ulimit -n; grep Cpus_allowed_list /proc/self/status; env | grep -c HOME",
        ])
    });
    task.head.class = "batch".into();
    let id = stage.queue.add(task);
    stage.queue.wait_end(id, 1);
    let text = String::from_utf8(stage.stdout(id)).unwrap();
    let real = stage.folder.canonicalize().unwrap();
    let expected = format!(
        "{}\n0027\n13\n77\nCpus_allowed_list:\t0\n0\n",
        real.display()
    );
    assert_eq!(text, expected);
}

/// TASK-7, TASK-11: a failing exit is tried again only where the task says so; what cannot start never is; the end of standard error is told.
fn failures_are_tried_again_only_where_asked() {
    let stage = Stage::new(quiet());
    let plain = stage
        .queue
        .add(shell("echo some; echo 'it is broken' >&2; exit 3"));
    let mut again = command(CommandSpec {
        retry_on_failure: true,
        ..local(&["false"])
    });
    again.head.retry.max_attempts = 3;
    let again = stage.queue.add(again);
    let missing = stage.queue.add(command(CommandSpec {
        retry_on_failure: true,
        ..local(&["flyball-no-such-program"])
    }));
    let end = stage.queue.wait_end(plain, 1);
    assert_eq!(end.error.as_deref(), Some("exit 3: it is broken"));
    assert!(matches!(
        end.outcome,
        Some(Outcome::Failed {
            retryable: false,
            reason: Reason::Error,
            ..
        })
    ));
    stage.queue.wait_state(again, State::Dead);
    assert_eq!(stage.queue.inner().tasks[&again.0].ends.len(), 3);
    let end = stage.queue.wait_end(missing, 1);
    assert!(end.error.unwrap().contains("no such program"));
    assert!(matches!(
        end.outcome,
        Some(Outcome::Failed {
            retryable: false,
            ..
        })
    ));
    stage.wait_idle();
}

/// TASK-11, TASK-23: commands that were not asked for by the local user run only as listed, with a clean environment; that is looked at again at the start.
fn strangers_run_what_is_listed() {
    let mut settings = RunSettings::default();
    let jail = folder();
    settings.commands.programs = vec!["/usr/bin/env".into()];
    settings.commands.folders = vec![jail.clone()];
    settings.commands.env = vec!["APP_*".into()];
    let stage = Stage::new(settings);
    let stranger = |argv: &[&str], env: &[(&str, &str)]| CommandSpec {
        local: false,
        env: env
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..local(argv)
    };
    let fine = stage
        .queue
        .add(command(stranger(&["/usr/bin/env"], &[("APP_X", "1")])));
    let program = stage
        .queue
        .add(command(stranger(&["/bin/sh", "-c", "true"], &[])));
    let variable = stage
        .queue
        .add(command(stranger(&["/usr/bin/env"], &[("LD_PRELOAD", "x")])));
    assert_eq!(stage.queue.wait_end(fine, 1).outcome, Some(Outcome::Done));
    let text = String::from_utf8(stage.stdout(fine)).unwrap();
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    let known =
        |name: &&str| matches!(*name, "PATH" | "APP_X") || name.starts_with("FLYBALL_TASK_");
    assert!(
        names.iter().all(known) && names.contains(&"APP_X"),
        "{names:?}"
    );
    for (id, field) in [(program, "command.argv[0]"), (variable, "command.env[0]")] {
        let end = stage.queue.wait_end(id, 1);
        assert!(end.error.as_deref().unwrap().starts_with(field), "{end:?}");
        assert!(matches!(
            end.outcome,
            Some(Outcome::Failed {
                retryable: false,
                ..
            })
        ));
    }
    std::fs::remove_dir_all(jail).unwrap();
}

/// Forked twice, in a session of its own, deaf to SIGTERM, stopped: all of them hold the pipe whose other end is returned.
fn resisting(fifo: &std::path::Path) -> String {
    format!(
        "exec 3> {}; trap '' TERM; setsid sh -c \"trap '' TERM; echo in >&3; sleep 600 & wait; sleep 600\" & \
         (sh -c 'echo in >&3; kill -STOP $$' &) ; echo in >&3; sleep 600; sleep 600",
        fifo.display()
    )
}

/// Makes a pipe with a name, and answers once its writers are there with a reader that ends when the last of them is gone.
fn fifo(stage: &Stage) -> std::path::PathBuf {
    let path = stage.folder.join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    path
}

fn wait_in(path: &std::path::Path) -> BufReader<std::fs::File> {
    let mut reader = BufReader::new(std::fs::File::open(path).unwrap());
    for _ in 0..3 {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "in\n");
    }
    reader
}

/// TASK-11: a timeout ends the whole tree, also what forked twice, called setsid, ignores SIGTERM or is stopped.
fn a_timeout_ends_trees_that_resist() {
    let stage = Stage::new(quiet());
    let path = fifo(&stage);
    let mut task = shell(&resisting(&path));
    // Long enough for the tree to stand on a busy machine: the end is waited for, not the time.
    task.head.timeout = Some(Duration::from_secs(3));
    let id = stage.queue.add(task);
    let mut rest = wait_in(&path);
    let end = stage.queue.wait_end(id, 1);
    assert!(
        matches!(
            end.outcome,
            Some(Outcome::Failed {
                reason: Reason::TimedOut,
                retryable: false,
                ..
            })
        ),
        "{end:?}"
    );
    // Nobody holds the pipe any more.
    assert_eq!(rest.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert_eq!(stage.slots.free(), 2);
}

/// TASK-11: cancelling does the same, at once.
fn cancelling_ends_trees_that_resist() {
    let stage = Stage::new(quiet());
    let path = fifo(&stage);
    let id = stage.queue.add(shell(&resisting(&path)));
    let mut rest = wait_in(&path);
    stage.queue.cancel_one(id);
    stage.queue.wait_state(id, State::Cancelled);
    assert_eq!(rest.read_to_end(&mut Vec::new()).unwrap(), 0);
    stage.wait_idle();
    assert_eq!(stage.runners.counts()["command"].cancelled, 1);
}

/// TASK-4: who lost the lease of a command kills it at once.
fn a_lost_command_is_killed() {
    let stage = Stage::new(quiet());
    let path = fifo(&stage);
    let id = stage.queue.add(shell(&resisting(&path)));
    let mut rest = wait_in(&path);
    stage.queue.expire(id);
    assert_eq!(rest.read_to_end(&mut Vec::new()).unwrap(), 0);
    stage.wait_idle();
    assert!(stage.queue.inner().tasks[&id.0].ends.is_empty());
}

/// TASK-4: what a command leaves as the first thing it does, of the length of what it found, reaches its next attempt all the same: each of forty counts one on.
fn a_checkpoint_that_is_left_at_once_is_taken() {
    let mut settings = quiet();
    // It fails too often for one.
    settings.circuit_breaker = false;
    let stage = Stage::new(settings);
    let mut task = command(CommandSpec {
        retry_on_failure: true,
        ..local(&[
            "sh",
            "-c",
            "n=10; [ -e $FLYBALL_TASK_CHECKPOINT ] && read n < $FLYBALL_TASK_CHECKPOINT; echo $((n+1)) > $FLYBALL_TASK_CHECKPOINT; exit 1",
        ])
    });
    task.head.retry.max_attempts = 40;
    let id = stage.queue.add(task);
    stage.queue.wait_state(id, State::Dead);
    let left = stage.queue.inner().tasks[&id.0].checkpoint.clone();
    assert_eq!(left.as_deref(), Some(&b"50\n"[..]));
}

/// TASK-11: a command that puts a pipe, a link or a folder in place of the files that are read of it, and fails, holds up nobody, neither while it runs nor when it is
/// tried again: it is reported, and others run.
fn no_file_of_a_command_holds_the_others_up() {
    let stage = Stage::new(quiet());
    for put in ["mkfifo $x", "ln -s /dev/tty $x", "mkdir $x"] {
        let script = format!(
            "f=$FLYBALL_TASK_CHECKPOINT; for x in $f ${{f%.*}}.stderr; do rm -f $x; {put}; done; exit 1"
        );
        let mut task = command(CommandSpec {
            retry_on_failure: true,
            ..local(&["sh", "-c", &script])
        });
        task.head.retry.max_attempts = 2;
        let id = stage.queue.add(task);
        let end = stage.queue.wait_end(id, 1);
        assert_eq!(end.error.as_deref(), Some("exit 1"), "{put}");
        let other = stage.queue.add(shell("true"));
        assert_eq!(stage.queue.wait_end(other, 1).outcome, Some(Outcome::Done));
        stage.queue.wait_end(id, 2);
        stage.queue.wait_state(id, State::Dead);
        assert!(stage.queue.inner().tasks[&id.0].checkpoint.is_none());
    }
    stage.wait_idle();
}

/// TASK-7, TASK-11: a command whose output cannot be kept now has not run; that may pass, so it is tried again, also where its own failures are not.
fn a_disk_without_room_is_not_the_tasks_fault() {
    let stage = Stage::new(quiet());
    let outputs = stage.folder.join("outputs");
    std::fs::remove_dir(&outputs).unwrap();
    let mut task = shell("echo ran");
    task.head.retry.max_attempts = 2;
    let id = stage.queue.add(task);
    let end = stage.queue.wait_end(id, 1);
    let why = end.error.as_deref().unwrap();
    assert!(why.starts_with("cannot keep its output: "), "{why}");
    assert!(matches!(
        end.outcome,
        Some(Outcome::Failed {
            retryable: true,
            ..
        })
    ));
    stage.queue.wait_state(id, State::Dead);
    std::fs::create_dir(&outputs).unwrap();
    let next = stage.queue.add(shell("echo ran"));
    assert_eq!(stage.queue.wait_end(next, 1).outcome, Some(Outcome::Done));
    assert_eq!(stage.stdout(next), b"ran\n");
}

/// TASK-4: what a command leaves in its file is what its next attempt finds there.
fn a_checkpoint_file_reaches_the_next_attempt() {
    let stage = Stage::new(quiet());
    let mut task = command(CommandSpec {
        retry_on_failure: true,
        ..local(&[
            "sh",
            "-c",
            "f=$FLYBALL_TASK_CHECKPOINT; if [ -e $f ]; then cat $f; else echo at 7 > $f; exit 1; fi",
        ])
    });
    task.head.retry.max_attempts = 2;
    let id = stage.queue.add(task);
    assert_eq!(stage.queue.wait_end(id, 2).outcome, Some(Outcome::Done));
    assert_eq!(stage.stdout(id), b"at 7\n");
    assert_eq!(
        stage.queue.inner().tasks[&id.0].checkpoint.as_deref(),
        Some(&b"at 7\n"[..])
    );
}

/// TASK-11: no more commands are taken than there are process slots.
fn commands_wait_for_process_slots() {
    let stage = Stage::with_slots(quiet(), 2);
    let path = stage.folder.join("log");
    let script = format!("echo + >> {0}; echo - >> {0}", path.display());
    let ids: Vec<_> = (0..40).map(|_| stage.queue.add(shell(&script))).collect();
    for id in ids {
        stage.queue.wait_state(id, State::Completed);
    }
    let log = std::fs::read_to_string(&path).unwrap();
    let mut running = 0;
    for line in log.lines() {
        running += if line == "+" { 1 } else { -1 };
        assert!((0..=2).contains(&running), "{log}");
    }
    assert_eq!(log.lines().count(), 80);
    stage.wait_idle();
}

/// TASK-11: the daemon is killed: nothing that its commands started is left.
fn the_death_of_the_daemon_ends_its_commands() {
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--helper", "daemon"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(daemon.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // Held by the spawn server and its keepers, who go last.
    let mut rest = Vec::new();
    daemon
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut rest)
        .unwrap();
}
