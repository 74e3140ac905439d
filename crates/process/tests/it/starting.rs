//! Starting the server and commands, and what is said when that fails.

use std::ffi::OsString;
use std::future::Future;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};

use flyball_process::{Command, Ended, Error, Options, SpawnReason, SpawnServer, Stage, Status};

use crate::{Test, helper, helper::NO_INIT, server, shell, this_program};

pub(crate) const TESTS: &[Test] = &[
    (
        "starting::a_program_without_init_gets_a_typed_error",
        a_program_without_init_gets_a_typed_error,
    ),
    (
        "starting::a_program_that_is_no_server_is_not_waited_for",
        a_program_that_is_no_server_is_not_waited_for,
    ),
    (
        "starting::programs_that_cannot_run_are_named_with_the_reason",
        programs_that_cannot_run_are_named_with_the_reason,
    ),
    ("starting::arguments_are_bytes", arguments_are_bytes),
    (
        "starting::a_child_can_be_awaited_without_a_runtime",
        a_child_can_be_awaited_without_a_runtime,
    ),
    ("starting::surroundings_are_set", surroundings_are_set),
    (
        "starting::commands_that_are_none_are_refused",
        commands_that_are_none_are_refused,
    ),
    (
        "starting::children_at_once_are_bounded",
        children_at_once_are_bounded,
    ),
    (
        "starting::two_hundred_children_leave_nothing",
        two_hundred_children_leave_nothing,
    ),
    (
        "starting::the_result_is_handed_out_once",
        the_result_is_handed_out_once,
    ),
];

/// TASK-11: forgetting `init` is an error, not a second copy of the program and not a hang.
fn a_program_without_init_gets_a_typed_error() {
    let output = std::process::Command::new(this_program())
        .env(NO_INIT, "1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("main() must call flyball_process::init()"),
        "{said}"
    );
}

/// TASK-11: a program that never answers, and one that ends at once.
fn a_program_that_is_no_server_is_not_waited_for() {
    for program in ["/bin/cat", "/bin/true", "/bin/sleep"] {
        let mut options = Options::default();
        options.program = Some(program.into());
        options.handshake_timeout = std::time::Duration::from_millis(50);
        let error = SpawnServer::start(options).unwrap_err();
        assert!(
            matches!(error, Error::Handshake { .. }),
            "{program}: {error}"
        );
    }
    let mut options = Options::default();
    options.program = Some("/nonexistent/server".into());
    assert!(matches!(
        SpawnServer::start(options).unwrap_err(),
        Error::Start { .. }
    ));
}

/// TASK-11: not found, a directory, not executable, not a program, a working directory that is none, too long.
fn programs_that_cannot_run_are_named_with_the_reason() {
    let folder = std::env::temp_dir().join(format!("flyball-process-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (plain, garbage) = (folder.join("plain"), folder.join("garbage"));
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&garbage, [1, 2, 3, 4]).unwrap();
    std::fs::set_permissions(&garbage, PermissionsExt::from_mode(0o755)).unwrap();
    let server = server();
    let cases = [
        (
            Command::new("flyball-no-such-program"),
            SpawnReason::NotFound,
            Stage::Exec,
        ),
        (
            Command::new("/nonexistent/program"),
            SpawnReason::NotFound,
            Stage::Exec,
        ),
        (Command::new(&folder), SpawnReason::IsDirectory, Stage::Exec),
        (
            Command::new(&plain),
            SpawnReason::NotExecutable,
            Stage::Exec,
        ),
        (
            Command::new(&garbage),
            SpawnReason::NotAProgram,
            Stage::Exec,
        ),
        (
            Command::new("true").current_dir("/nonexistent"),
            SpawnReason::Directory,
            Stage::Directory,
        ),
        (
            Command::new("true").arg("x".repeat(200_000)),
            SpawnReason::TooLong,
            Stage::Exec,
        ),
    ];
    for (command, expected, at) in cases {
        let name = command.program().to_owned();
        let error = server.spawn(command).unwrap().wait_blocking().unwrap_err();
        let text = error.to_string();
        let Error::Spawn {
            program,
            reason,
            stage,
            source,
        } = error
        else {
            panic!("{name:?}: {text}")
        };
        assert_eq!((reason, stage), (expected, at), "{name:?}: {source}");
        assert_eq!(program, name);
        assert!(source.raw_os_error().is_some());
    }
    // The keeper is as good as before.
    assert!(
        server
            .spawn(Command::new("true"))
            .unwrap()
            .wait_blocking()
            .unwrap()
            .success()
    );
    std::fs::remove_dir_all(folder).unwrap();
}

/// TASK-12: what is not UTF-8, empty, or looks like an option arrives as it is.
fn arguments_are_bytes() {
    let hostile: Vec<Vec<u8>> = vec![
        vec![0xff, 0xfe],
        b"".to_vec(),
        b"-rf".to_vec(),
        b"a\nb".to_vec(),
        b"$(true); ' \"".to_vec(),
    ];
    let mut command = helper(&["hex"]).capture_stdout(1 << 16);
    for argument in &hostile {
        command = command.arg(OsString::from_vec(argument.clone()));
    }
    let exit = server().spawn(command).unwrap().wait_blocking().unwrap();
    let text = String::from_utf8(exit.stdout.unwrap().to_bytes().unwrap()).unwrap();
    let expected: Vec<String> = hostile
        .iter()
        .map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn a_child_can_be_awaited_without_a_runtime() {
    let server = server();
    let mut child = server.spawn(shell("exit 7")).unwrap();
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut wait = pin!(child.wait());
    let exit = loop {
        match wait.as_mut().poll(&mut context) {
            Poll::Ready(exit) => break exit.unwrap(),
            Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(exit.ended, Ended::Exited(7));
}

fn surroundings_are_set() {
    let server = server();
    let script = "pwd; echo $FLYBALL_A-$HOME-${FLYBALL_SPAWN_SERVER-unset}; umask; ps -o pid=,pgid=,ni= -p $$ 2>/dev/null || \
                  cut -d' ' -f1,5,19 /proc/$$/stat";
    let command = shell(script)
        .current_dir("/")
        .env("FLYBALL_A", "x y")
        .env_remove("HOME")
        .umask(0o27)
        .nice(3);
    let exit = server
        .spawn(command.capture_stdout(1 << 16))
        .unwrap()
        .wait_blocking()
        .unwrap();
    let text = String::from_utf8(exit.stdout.unwrap().to_bytes().unwrap()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "/");
    assert_eq!(lines[1], "x y--unset");
    assert_eq!(lines[2], "0027");
    let fields: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!(fields[0], fields[1], "a process group of its own");
    let own = std::fs::read_to_string("/proc/self/stat").unwrap();
    let own_nice: i32 = own
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(16)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        fields[2],
        (own_nice + 3).min(19).to_string(),
        "added to the niceness of the program"
    );
}

fn commands_that_are_none_are_refused() {
    let server = server();
    for command in [
        Command::new(""),
        Command::new("tr\0ue"),
        Command::new("true").arg("a\0b"),
        Command::new("true").env("A=B", "c"),
        Command::new("true").current_dir("/\0"),
    ] {
        assert!(matches!(
            server.spawn(command).unwrap_err(),
            Error::Invalid { .. }
        ));
    }
    let huge = Command::new("true").args(std::iter::repeat_n("x".repeat(100_000), 100));
    assert!(matches!(
        server.spawn(huge).unwrap_err(),
        Error::TooLarge { .. }
    ));
    assert_eq!(server.running(), 0);
}

fn children_at_once_are_bounded() {
    let mut options = Options::default();
    options.children_max = 2;
    let server = SpawnServer::start(options).unwrap();
    let _one = server.spawn(Command::new("sleep").arg("600")).unwrap();
    let two = server.spawn(Command::new("sleep").arg("600")).unwrap();
    assert!(matches!(
        server.spawn(Command::new("true")).unwrap_err(),
        Error::TooManyChildren { limit: 2 }
    ));
    assert!(two.wait_started().is_some());
    let mut two = two;
    two.kill();
    assert_eq!(
        two.wait_blocking().unwrap().ended,
        Ended::Signalled {
            signal: 15,
            core: false
        }
    );
    assert_eq!(two.status(), Status::Ended);
    assert!(
        server
            .spawn(Command::new("true"))
            .unwrap()
            .wait_blocking()
            .unwrap()
            .success()
    );
}

/// TASK-11: no zombie below the server or here, and descriptors back to what they were.
fn two_hundred_children_leave_nothing() {
    let server = server();
    let run = |count: usize| {
        let mut children: Vec<_> = (0..count)
            .map(|_| {
                server
                    .spawn(Command::new("true").capture_stdout(100).capture_stderr(100))
                    .unwrap()
            })
            .collect();
        assert!(
            children
                .iter_mut()
                .all(|child| child.wait_blocking().unwrap().success())
        );
    };
    let before = (
        crate::descriptors(std::process::id()),
        crate::descriptors(server.id()),
    );
    // Ten at once, so that no keeper is let go: the server opens files while it buries one.
    for _ in 0..20 {
        run(10);
    }
    // Sixteen keepers may stay for the next commands, each with a socket here; nothing else may.
    let after = (
        crate::descriptors(std::process::id()),
        crate::descriptors(server.id()),
    );
    assert!(after.0 <= before.0 + 16, "{before:?} {after:?}");
    assert_eq!(after.1, before.1);
    for keeper in crate::children(server.id()) {
        assert_eq!(
            crate::children(keeper),
            Vec::<u32>::new(),
            "a child of keeper {keeper} is left"
        );
        assert!(
            crate::descriptors(keeper) < 12,
            "keeper {keeper} has {} descriptors",
            crate::descriptors(keeper)
        );
    }
    assert_eq!(server.running(), 0);
    let id = server.id() as i32;
    drop(server);
    assert!(!crate::exists(id), "the server is a zombie");
}

fn the_result_is_handed_out_once() {
    let server = server();
    let mut child = server.spawn(Command::new("true")).unwrap();
    assert!(child.wait_blocking().is_ok());
    assert!(matches!(child.wait_blocking().unwrap_err(), Error::Taken));
    assert!(matches!(child.status(), Status::Ended));
}
