//! `flyball config`: with a daemon and without.

use std::fs;

use serde_json::{Value, json};

use crate::daemon::{Daemon, isolated};
use crate::{Folder, finish, ran};

/// CFG-1: a file is checked without a daemon: every fault, with file, line, column, key and what is expected.
#[test]
fn a_file_is_checked_whole() {
    let folder = Folder::new("check");
    let file = folder.path("flyball.yaml");
    let check = |text: &[u8], more: &[&str]| {
        fs::write(&file, text).unwrap();
        finish(
            isolated(&folder)
                .args(["config", "check"])
                .arg(&file)
                .args(more),
        )
    };
    let name = file.display().to_string();
    let right = check(b"worker_pool: { min_workers: 2 }\n", &[]);
    assert_eq!(
        (right.code, right.text()),
        (0, format!("{name} is right\n").as_str()),
        "{}",
        right.err
    );
    let absent = check(b"cache: { ttl: 2h }\n", &[]);
    assert!(
        absent
            .text()
            .contains("cache.ttl is set, but this build has no cache"),
        "{}",
        absent.text()
    );
    let wrong = check(b"worker_pool:\n  min_worker: 2\n  target_load: 7\n", &[]);
    assert_eq!((wrong.code, wrong.text()), (2, ""));
    assert_eq!(
        wrong.err,
        format!(
            "flyball: the configuration has 2 faults:\n\
             {name}:2:3: worker_pool.min_worker: unknown key; did you mean min_workers?\n  | min_worker: 2\n  | ^\n\
             {name}:3:16: worker_pool.target_load: found 7, expected a number from 0.05 to 1\n  | target_load: 7\n  |              ^\n"
        )
    );
    let as_json: Value = serde_json::from_slice(&check(b"a: 1\n", &["--json"]).out).unwrap();
    assert_eq!(as_json["ok"], false);
    let fault = &as_json["errors"][0];
    assert_eq!(
        (&fault["line"], &fault["column"], &fault["key"]),
        (&json!(1), &json!(1), &json!("a"))
    );
    for hostile in [
        &b"\xff\xfe"[..],
        b"a: \x1b[2J\n",
        b"a: [",
        b"---\n---\n",
        b"x: *y\n",
    ] {
        let ran = check(hostile, &[]);
        assert_eq!(ran.code, 2, "{hostile:?}");
        assert!(!ran.err.contains('\x1b'), "{}", ran.err);
    }
    for missing in [folder.path("absent.yaml"), folder.path("")] {
        let ran = finish(isolated(&folder).args(["config", "check"]).arg(&missing));
        assert_eq!(ran.code, 2, "{}", ran.err);
    }
}

/// CFG-2: the environment counts where it is asked for, and standard input is a file.
#[test]
fn a_check_takes_standard_input_and_the_environment() {
    let folder = Folder::new("check-in");
    let check = |more: &[&str]| {
        let input = folder.path("input");
        fs::write(&input, "cache: {}\n").unwrap();
        let mut command = isolated(&folder);
        command
            .args(["config", "check", "-"])
            .args(more)
            .env("FLYBALL_CACHE_TTL", "never");
        ran(command
            .stdin(fs::File::open(&input).unwrap())
            .output()
            .unwrap())
    };
    assert_eq!(check(&[]).code, 0);
    let strict = check(&["--environment"]);
    assert_eq!(strict.code, 2);
    assert!(strict.err.contains("FLYBALL_CACHE_TTL"), "{}", strict.err);
}

/// The schema needs no daemon, and is what the reference page was made from.
#[test]
fn the_schema_is_the_reference_page() {
    let folder = Folder::new("schema");
    let schema = |more: &[&str]| finish(isolated(&folder).args(["config", "schema"]).args(more));
    let page = include_str!("../../../../docs/configuration.md");
    assert_eq!(schema(&["--markdown"]).text(), page);
    let keys: Vec<Value> = serde_json::from_slice(&schema(&["--json"]).out).unwrap();
    assert!(
        keys.iter()
            .any(|key| key["key"] == "worker_pool.target_load" && key["default"] == "0.7")
    );
    assert!(schema(&[]).text().contains("worker_pool.target_load"));
}

/// CFG-2: what a daemon would have can be seen without one.
#[test]
fn a_file_is_shown_with_its_origins() {
    let folder = Folder::new("show");
    let file = folder.path("flyball.yaml");
    fs::write(&file, "worker_pool: { scale_up_delay: 90s }\n").unwrap();
    let show = |more: &[&str]| {
        let mut command = isolated(&folder);
        command
            .args(["config", "show"])
            .args(more)
            .arg("--config")
            .arg(&file);
        finish(command.env("FLYBALL_WORKER_POOL_TARGET_LOAD", "0.5"))
    };
    let yaml = show(&[]).text().to_owned();
    assert!(
        yaml.contains("  scale_up_delay: 90s\n") && yaml.contains("  target_load: 0.5\n"),
        "{yaml}"
    );
    let origins: Value = serde_json::from_slice(&show(&["--origin", "--json"]).out).unwrap();
    let origin = |key: &str| {
        let items = origins["items"].as_array().unwrap();
        items.iter().find(|item| item["key"] == key).unwrap()["origin"].clone()
    };
    assert_eq!(
        origin("worker_pool.scale_up_delay"),
        format!("{}:1:32", file.display())
    );
    assert_eq!(
        origin("worker_pool.target_load"),
        "FLYBALL_WORKER_POOL_TARGET_LOAD"
    );
}

/// CFG-3: settings change together or not at all; a dry run changes nothing; null goes back; a key that needs a restart says so.
#[test]
fn settings_change_while_the_daemon_runs() {
    let daemon = Daemon::start("set");
    let load = || {
        let shown = daemon.tell(&["config", "show", "--json"]);
        serde_json::from_str::<Value>(&shown).unwrap()["worker_pool"]["target_load"].clone()
    };
    let dry = daemon.tell(&["config", "set", "--dry-run", "worker_pool.target_load=0.5"]);
    assert_eq!(
        dry,
        "nothing was changed; this would be:\nSETTING                  OLD  NEW\nworker_pool.target_load  0.7  0.5\n"
    );
    assert_eq!(load(), 0.7);
    daemon.tell(&[
        "config",
        "set",
        "worker_pool.target_load=0.5",
        "load_balancer.strategy=affinity",
    ]);
    assert_eq!(load(), 0.5);
    let again = daemon.tell(&["config", "set", "worker_pool.target_load=0.5"]);
    assert_eq!(again, "nothing changes: it is so already\n");
    let wrong = daemon.ask(&[
        "config",
        "set",
        "worker_pool.target_load=0.6",
        "worker_pool.min_workers=-1",
        "cash.ttl=1s",
    ]);
    assert_eq!(wrong.code, 4);
    for part in ["worker_pool.min_workers: found -1", "cash: unknown key"] {
        assert!(wrong.err.contains(part), "{}", wrong.err);
    }
    assert_eq!(load(), 0.5);
    let restart = daemon.ask(&[
        "config",
        "set",
        "worker_pool.target_load=0.6",
        "server.listen=127.0.0.1:1",
    ]);
    assert!(
        restart.code == 4 && restart.err.contains("needs a restart"),
        "{}",
        restart.err
    );
    assert_eq!(load(), 0.5);
    daemon.tell(&["config", "set", "worker_pool.target_load=null"]);
    assert_eq!(load(), 0.7);
    let yaml = daemon.tell(&["config", "show"]);
    assert!(
        yaml.contains("load_balancer:\n") && yaml.contains("  strategy: affinity\n"),
        "{yaml}"
    );
}
