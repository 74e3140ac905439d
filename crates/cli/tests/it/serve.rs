//! The daemon, from a configuration to a clean end.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::daemon::{Daemon, Manager, isolated};
use crate::{Folder, finish};

const UNIT: &str = include_str!("../../../../deploy/systemd/flyball.service");

/// The value of a setting of the unit.
fn unit(key: &str) -> &'static str {
    let found = UNIT
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("the unit says {key}"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path)
        .expect("it is there")
        .permissions()
        .mode()
        & 0o7777
}

/// API-6: state folder, socket and token are for their owner only, and the line at the start says where to look.
#[test]
fn it_says_where_it_is_and_closes_its_folder() {
    let mut daemon = Daemon::start("ready");
    let socket = daemon.socket();
    assert_eq!(
        daemon.ready,
        format!(
            "flyball is serving on http://{} and unix:{}; `flyball status --server {}` shows how it is\n",
            daemon.address(),
            socket.display(),
            socket.display()
        )
    );
    let first = daemon.log_until("flyball starts").pop().unwrap();
    assert!(
        first.contains("configuration=\"defaults (no --config, no FLYBALL_CONFIG"),
        "{first}"
    );
    assert_eq!(mode(&daemon.folder.path("state")), 0o700);
    assert_eq!(mode(&daemon.folder.path("state/admin.token")), 0o600);
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    assert_eq!(mode(&socket), 0o600);
    daemon.signal("TERM");
    let folder = daemon.folder.path("state");
    let log = daemon.log_until("flyball ends");
    assert!(log.iter().all(|line| !line.contains('\x1b')), "{log:?}");
    assert_eq!(daemon.end().0, Some(0));
    assert!(!folder.join("flyball.sock").exists());
}

/// Where no state folder is named, it is the user's, and the client finds it by the same rules.
#[test]
fn the_usual_folder_is_found_by_both() {
    let folder = Folder::new("usual");
    let mut command = isolated(&folder);
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let daemon = Daemon::run(command, folder);
    assert!(
        daemon
            .ready
            .ends_with("; `flyball status` shows how it is\n"),
        "{}",
        daemon.ready
    );
    assert!(
        daemon
            .folder
            .path("home/.local/state/flyball/lock")
            .exists()
    );
    let ran = finish(isolated(&daemon.folder).arg("status"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.text().starts_with("flyball "), "{}", ran.text());
}

/// One daemon a state folder: the second says who has it, and leaves the first alone.
#[test]
fn a_second_daemon_is_refused() {
    let daemon = Daemon::start("second");
    let ran = daemon.ask(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(ran.code, 4);
    assert!(
        ran.err.contains(&format!(
            "another flyball daemon (process {}) has the state folder",
            daemon.id()
        )),
        "{}",
        ran.err
    );
    daemon.tell(&["status"]);
}

/// CFG-1: every fault of the configuration is told at once, with its line; nothing was started or made.
#[test]
fn a_wrong_configuration_is_told_whole() {
    let folder = Folder::new("wrong");
    let file = folder.path("flyball.yaml");
    fs::write(
        &file,
        "worker_pool:\n  min_worker: 2\n  target_load: .nan\ncache: { ttl: 5 parsecs }\n",
    )
    .unwrap();
    let state = folder.path("state");
    let mut command = isolated(&folder);
    command
        .arg("serve")
        .arg("--config")
        .arg(&file)
        .arg("--state-dir")
        .arg(&state);
    command
        .args(["--log-level", "loud"])
        .env("FLYBALL_WORKER_POOL_MAX_WORKERS", "many");
    let ran = finish(&mut command);
    assert_eq!((ran.code, ran.text()), (2, ""));
    let name = file.display();
    for part in [
        "the configuration has 5 faults:".to_owned(),
        format!("{name}:2:3: worker_pool.min_worker: unknown key; did you mean min_workers?"),
        format!("{name}:3:16: worker_pool.target_load: found .nan"),
        format!("{name}:4:15: cache.ttl: found \"5 parsecs\""),
        "FLYBALL_WORKER_POOL_MAX_WORKERS: worker_pool.max_workers: found \"many\"".to_owned(),
        "--log-level: server.log.level: found \"loud\"".to_owned(),
    ] {
        assert!(ran.err.contains(&part), "{part}\n{}", ran.err);
    }
    assert!(!state.exists());
}

/// API-6: an address that others can reach is refused before anything listens.
#[test]
fn other_addresses_than_loopback_are_refused() {
    let folder = Folder::new("exposed");
    let mut command = isolated(&folder);
    command
        .arg("serve")
        .arg("--state-dir")
        .arg(folder.path("state"))
        .args(["--listen", "0.0.0.0:0"]);
    let ran = finish(&mut command);
    assert_eq!((ran.code, ran.text()), (2, ""));
    assert!(
        ran.err.contains("0.0.0.0:0") && ran.err.contains("behind_tls_proxy"),
        "{}",
        ran.err
    );
}

/// A folder that others may enter is not taken for secrets, nor closed behind their backs.
#[test]
fn an_open_state_folder_is_refused() {
    let folder = Folder::new("open");
    let state = folder.path("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("something"), "").unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = isolated(&folder);
    command
        .arg("serve")
        .arg("--state-dir")
        .arg(&state)
        .args(["--listen", "127.0.0.1:0"]);
    let ran = finish(&mut command);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("chmod 700"), "{}", ran.err);
    assert_eq!(mode(&state), 0o755);
}

/// CFG-2: file, then environment, then flags, then changes at run time; and each says where it comes from.
#[test]
fn later_sources_prevail() {
    let daemon = Daemon::start_with("order", |command, folder| {
        let file = folder.path("flyball.yaml");
        let text = "worker_pool: { min_workers: 3, max_workers: 9, target_load: 0.6 }\nserver: { listen: \"127.0.0.1:1\", log: { level: error } }\n";
        fs::write(&file, text).unwrap();
        command
            .env("FLYBALL_CONFIG", &file)
            .env("FLYBALL_WORKER_POOL_MAX_WORKERS", "7")
            .env("FLYBALL_SERVER_LOG_LEVEL", "warn")
            .args(["--listen", "127.0.0.1:0", "--log-level", "info"]);
    });
    daemon.tell(&["config", "set", "worker_pool.target_load=0.5"]);
    let file = daemon.folder.path("flyball.yaml").display().to_string();
    let shown = daemon.tell(&["config", "show", "--origin"]);
    for (key, origin, value) in [
        ("worker_pool.min_workers", format!("{file}:1:29"), "3"),
        (
            "worker_pool.max_workers",
            "FLYBALL_WORKER_POOL_MAX_WORKERS".to_owned(),
            "7",
        ),
        ("server.log.level", "--log-level".to_owned(), "info"),
        ("server.listen", "--listen".to_owned(), "127.0.0.1:0"),
        ("worker_pool.target_load", "api".to_owned(), "0.5"),
        ("worker_pool.max_idle_time", "default".to_owned(), "60s"),
    ] {
        let line = shown
            .lines()
            .find(|line| line.split_whitespace().next() == Some(key));
        let words: Vec<&str> = line.unwrap().split_whitespace().collect();
        assert_eq!(words, [key, &origin, value]);
    }
}

/// CFG-3: HUP takes a right file over as a whole; a wrong one, or one that needs a restart, is told whole and changes nothing.
#[test]
fn a_reload_is_whole_or_not_at_all() {
    let manager = Manager::new("reload");
    let mut daemon = Daemon::start_with("reload", |command, folder| {
        let file = folder.path("flyball.yaml");
        fs::write(&file, "worker_pool: { target_load: 0.6 }\n").unwrap();
        command
            .arg("--config")
            .arg(&file)
            .env("NOTIFY_SOCKET", &manager.name);
        command.args(["--listen", "127.0.0.1:0"]);
    });
    manager.hear_of("READY=1");
    let file = daemon.folder.path("flyball.yaml");
    let load = |daemon: &Daemon| {
        let shown = daemon.tell(&["config", "show", "--json"]);
        let settings: serde_json::Value = serde_json::from_str(&shown).unwrap();
        settings["worker_pool"]["target_load"].clone()
    };
    let reload = |daemon: &Daemon, text: &str| {
        fs::write(&file, text).unwrap();
        daemon.signal("HUP");
        manager.hear_of("RELOADING=1");
        manager.hear_of("READY=1");
    };
    reload(&daemon, "worker_pool: { target_load: 0.8 }\n");
    assert_eq!(load(&daemon), 0.8);
    reload(
        &daemon,
        "worker_pool: { target_load: 0.5, min_workers: -1 }\ncaches: {}\n",
    );
    assert_eq!(load(&daemon), 0.8);
    let log = daemon
        .log_until("the configuration stays as it was")
        .join("\n");
    for part in [
        "worker_pool.min_workers: found -1",
        "caches: unknown key",
        "faults=2",
    ] {
        assert!(log.contains(part), "{part}\n{log}");
    }
    reload(
        &daemon,
        "worker_pool: { target_load: 0.5 }\nserver: { socket: /elsewhere }\n",
    );
    assert_eq!(load(&daemon), 0.8);
    let log = daemon
        .log_until("the configuration stays as it was")
        .join("\n");
    assert!(
        log.contains("server.socket") && log.contains("needs a restart"),
        "{log}"
    );
    fs::remove_file(&file).unwrap();
    daemon.signal("HUP");
    manager.hear_of("READY=1");
    assert_eq!(load(&daemon), 0.8);
}

/// The unit's own command under its own protocol: ready, fed watchdog, reload, stop. (Where there is no systemd to start it.)
#[test]
fn the_unit_is_served_by_its_protocol() {
    assert_eq!(unit("Type"), "notify");
    assert_eq!(unit("ExecReload"), "/bin/kill -HUP $MAINPID");
    assert_eq!(unit("StateDirectory"), "flyball");
    assert_eq!(unit("StateDirectoryMode"), "0700");
    let words: Vec<&str> = unit("ExecStart").split(' ').collect();
    assert_eq!(&words[..2], ["/usr/bin/flyball", "serve"]);
    let seconds: u64 = unit("WatchdogSec")
        .strip_suffix('s')
        .unwrap()
        .parse()
        .unwrap();
    let manager = Manager::new("unit");
    let folder = Folder::new("unit");
    let state = folder.path("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = isolated(&folder);
    command
        .args(&words[1..])
        .env("STATE_DIRECTORY", &state)
        .env("NOTIFY_SOCKET", &manager.name)
        // A hundredth of the unit's, so that the test is over soon.
        .env("WATCHDOG_USEC", (seconds * 10_000).to_string())
        .env("FLYBALL_SERVER_LISTEN", "127.0.0.1:0")
        // Nothing to sample and nothing to regulate: the loop would sleep for ever, and is alive nevertheless.
        .env("FLYBALL_MONITOR_ENABLED", "false")
        .env("FLYBALL_PERFORMANCE_ENABLED", "false");
    let daemon = Daemon::run(command, folder);
    let ready = manager.hear();
    assert!(
        ready.starts_with("READY=1\nSTATUS=serving on http://127.0.0.1:"),
        "{ready}"
    );
    assert_eq!(
        (manager.hear(), manager.hear()),
        ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned())
    );
    daemon.signal("HUP");
    let reloading = manager.hear_of("RELOADING=1");
    let time = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(
        time.is_some_and(|time| time.parse::<u64>().is_ok()),
        "{reloading}"
    );
    manager.hear_of("READY=1");
    manager.hear_of("WATCHDOG=1");
    daemon.signal("TERM");
    let stopping = manager.hear_of("STOPPING=1");
    let within = stopping
        .lines()
        .find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
    let within: u64 = within.unwrap().parse().unwrap();
    let timeout: u64 = unit("TimeoutStopSec")
        .strip_suffix('s')
        .unwrap()
        .parse()
        .unwrap();
    assert!(timeout * 1_000_000 >= within, "{timeout} s, {within} µs");
    assert_eq!(daemon.end().0, Some(0));
}

/// systemd itself finds nothing to say about the unit, where its checker is installed.
#[test]
fn the_unit_is_right() {
    for absent in ["ProcSubset=pid", "RestrictRealtime="] {
        assert!(!UNIT.lines().any(|line| line.starts_with(absent)));
    }
    let folder = Folder::new("verify");
    let file = folder.path("flyball.service");
    fs::write(
        &file,
        UNIT.replace("/usr/bin/flyball", env!("CARGO_BIN_EXE_flyball")),
    )
    .unwrap();
    match Command::new("systemd-analyze")
        .arg("verify")
        .arg(&file)
        .output()
    {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let about_it: Vec<&str> = said
                .lines()
                .filter(|line| line.contains("flyball"))
                .collect();
            assert!(output.status.success() && about_it.is_empty(), "{said}");
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    }
}

/// The first signal finishes what has begun, the second ends at once.
#[test]
fn a_second_signal_ends_at_once() {
    let manager = Manager::new("twice");
    let daemon = Daemon::start_with("twice", |command, _| {
        command
            .args(["--listen", "127.0.0.1:0"])
            .env("NOTIFY_SOCKET", &manager.name);
    });
    manager.hear_of("READY=1");
    // A request that has begun and does not end keeps the daemon busy.
    let mut half = UnixStream::connect(daemon.socket()).unwrap();
    half.write_all(b"PATCH /v1/config HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
        .unwrap();
    daemon.tell(&["status"]);
    daemon.signal("TERM");
    manager.hear_of("STOPPING=1");
    daemon.signal("INT");
    assert_eq!(daemon.end().0, Some(130));
}

/// The log in JSON is a document a line, from the first to the last.
#[test]
fn the_log_can_be_json() {
    let mut daemon = Daemon::start_with("json", |command, _| {
        command.args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
    });
    let created = daemon.ask(&["classes", "create", "x\u{1b}[2J\ny"]);
    assert_eq!(created.code, 4);
    daemon.tell(&["classes", "create", "reports", "shares=7"]);
    daemon.signal("TERM");
    let log = daemon.log_until("flyball ends");
    for line in &log {
        let read: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            read["timestamp"].is_string() && read["message"].is_string(),
            "{line}"
        );
    }
    assert!(
        log[0].contains("flyball starts") && log.iter().any(|line| line.contains("uid ")),
        "{log:?}"
    );
}

/// A log that nobody reads holds up nothing; when it is read again, it says how much is missing.
#[test]
fn a_stopped_reader_of_the_log_stops_nothing() {
    let mut daemon = Daemon::start("unread");
    let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
    let patience = Some(std::time::Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("it has a timeout");
    // Each is a line of the log; together they are many times what a pipe holds.
    let refused = "POST /v1/knobs/none/unpin HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let mut answers = Vec::new();
    for _ in 0..20 {
        stream
            .write_all(refused.repeat(100).as_bytes())
            .expect("it reads");
        let seen = |bytes: &[u8]| bytes.windows(12).filter(|w| w == b"HTTP/1.1 404").count();
        answers.clear();
        while seen(&answers) < 100 || !answers.ends_with(b"}") {
            let mut space = [0; 16 * 1024];
            let count = stream.read(&mut space).expect("it answers");
            assert!(count > 0, "it closes");
            answers.extend_from_slice(&space[..count]);
        }
    }
    daemon.tell(&["status"]);
    // Somebody reads again: that makes room, and the next line tells.
    daemon.log_until("refused a change");
    daemon.ask(&["knobs", "unpin", "none"]);
    let log = daemon.log_until("lines of the log are lost");
    let last = log.last().expect("there is one");
    assert!(
        last.contains("WARN  lines of the log are lost: nobody read them lines="),
        "{last}"
    );
    assert!(
        log.iter().all(|line| line.starts_with("20")),
        "every line is whole"
    );
    daemon.signal("TERM");
    assert_eq!(daemon.end().0, Some(0));
}

/// TASK-1, CFG-5: the daemon keeps its queue in the state folder, and none where that is switched off.
#[test]
fn the_queue_is_in_the_state_folder() {
    let daemon = Daemon::start("queue");
    assert!(daemon.folder.path("state/queue").is_dir());
    assert_eq!(mode(&daemon.folder.path("state/queue")), 0o700);
    let status: serde_json::Value =
        serde_json::from_str(&daemon.tell(&["status", "--json"])).expect("JSON");
    let parts = status["parts"].as_array().expect("parts");
    let queue = parts.iter().find(|part| part["part"] == "task_queue");
    assert_eq!(queue.expect("listed")["enabled"], true, "{status}");
    daemon.signal("TERM");
    assert_eq!(daemon.end().0, Some(0));

    let off = Daemon::start_with("no-queue", |command, _| {
        command.env("FLYBALL_SCHEDULER_ENABLED", "false");
    });
    assert!(!off.folder.path("state/queue").exists());
    off.signal("TERM");
    assert_eq!(off.end().0, Some(0));
}

/// TASK-1: a store that cannot be opened ends the start, and says where it is.
#[test]
fn a_queue_that_cannot_be_opened_is_told() {
    let folder = Folder::new("bad-queue");
    fs::create_dir_all(folder.path("state")).unwrap();
    fs::set_permissions(folder.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(folder.path("state/queue"), "no folder").unwrap();
    let mut command = isolated(&folder);
    command.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]);
    command.arg(folder.path("state"));
    let ran = finish(&mut command);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("state/queue"), "{}", ran.err);
}

/// TASK-9: asked to end, the daemon goes on answering for the configured time, not ready for new work; a second signal ends that at once.
#[test]
fn it_answers_while_others_look_elsewhere() {
    let mut daemon = Daemon::start_with("drain-delay", |command, _| {
        command.env("FLYBALL_SERVER_DRAIN_DELAY", "10m");
    });
    daemon.signal("TERM");
    daemon.log_until("still answering");
    daemon.tell(&["status"]);
    daemon.signal("TERM");
    assert_eq!(daemon.end().0, Some(130));
}

/// CPU-20, CPU-22: what the configuration names and nothing comes of is told at start and when it is read again, and listed; a fixed limit has nothing to
/// forget.
#[test]
fn what_bounds_nothing_is_told() {
    let mut daemon = Daemon::start_with("unused", |command, folder| {
        let file = folder.path("flyball.yaml");
        let text = "limits: {adaptive: [{name: batch, max: 10}, {name: few, scope: 'class:bacth'}, {name: two, scope: 'class:batch', limit: 2}]}\n\
                    throttling: {throttles: [{name: night, scope: 'class:bacth', threshold_percent: 50}]}\n";
        fs::write(&file, text).unwrap();
        command.arg("--config").arg(&file);
        command.args(["--listen", "127.0.0.1:0"]);
    });
    let words = [
        "limits.adaptive[0] (batch) bounds nothing: no program has made a gate of this name",
        "limits.adaptive[1] (few) bounds nothing: no class is named",
        "throttling.throttles[0] (night) holds nothing back: no class is named",
    ];
    for word in words {
        daemon.log_until(word);
    }
    daemon.signal("HUP");
    daemon.log_until("configuration read again");
    for word in words {
        daemon.log_until(word);
    }
    for arguments in [&["limits"][..], &["limits", "list"]] {
        let shown = daemon.tell(arguments);
        for line in [
            "batch bounds nothing: no program has made a gate",
            "few bounds nothing: no class is named",
        ] {
            assert!(
                shown.lines().any(|shown| shown.starts_with(line)),
                "{shown}"
            );
        }
        assert!(!shown.contains("two bounds"), "{shown}");
    }
    let ran = daemon.ask(&["limits", "reset", "two"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("limit two is fixed"), "{}", ran.err);
}
