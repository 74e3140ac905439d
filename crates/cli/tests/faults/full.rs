//! A full disk.

use crate::daemon::{Daemon, Folder, Setup};
use crate::disk::{Disk, alone};
use crate::model::{Shared, compare, drain, numbers_of};
use crate::wait_until;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Takes all space that is left; answers the file that does.
fn fill(mount: &Path) -> PathBuf {
    let path = mount.join("ballast");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .expect("a file can be made");
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
    path
}

fn submit(daemon: &Daemon, shared: &Shared, bytes: usize) -> (u16, Value) {
    let number = shared.model().number();
    let task = json!({"kind": "pull", "payload": {"n": number, "pad": "x".repeat(bytes)}, "retry": {"max_attempts": 1000}});
    let body = task.to_string();
    let (status, answer) = daemon
        .client()
        .send("POST", "/v1/tasks", None, &body)
        .expect("the daemon answers");
    if status == 201 {
        shared.tell(|model| model.accepted(None, &numbers_of(&body), &answer));
    }
    (status, answer)
}

/// Submits a task and leases it, with a checkpoint; token, and where its heartbeats go.
fn hold(daemon: &Daemon) -> (String, String) {
    let task = json!({"kind": "held", "payload": {"n": 0}, "retry": {"max_attempts": 10}, "timeout_ms": 3_600_000});
    daemon.expect("POST", "/v1/tasks", &task.to_string(), 201);
    let ask = json!({"worker": "w", "kinds": ["held"], "lease_ms": 600_000}).to_string();
    let lease = daemon.expect("POST", "/v1/tasks/lease", &ask, 200)["tasks"][0].clone();
    let token = lease["token"].as_str().expect("a token").to_owned();
    let path = format!(
        "/v1/tasks/{}/heartbeat",
        lease["id"].as_str().expect("an id")
    );
    let small = json!({"token": token, "checkpoint": {"at": 1}}).to_string();
    daemon.expect("POST", &path, &small, 200);
    (token, path)
}

/// The lease is as it was, unless the daemon died meanwhile; the checkpoint is the one that was acknowledged.
fn check_held(daemon: &Daemon, (token, heartbeat): &(String, String), died: bool) {
    let body = json!({ "token": token }).to_string();
    let release = heartbeat.replace("heartbeat", "release");
    daemon.expect("POST", &release, &body, if died { 409 } else { 200 });
    let ask = json!({"worker": "w", "kinds": ["held"], "lease_ms": 600_000}).to_string();
    let lease = daemon.expect("POST", "/v1/tasks/lease", &ask, 200)["tasks"][0].clone();
    assert_eq!(lease["checkpoint"], json!({"at": 1}), "{lease}");
    let complete = heartbeat.replace("heartbeat", "complete");
    let body = json!({ "token": lease["token"] }).to_string();
    daemon.expect("POST", &complete, &body, 200);
}

/// Submits until the disk has no more space.
fn submit_until_full(daemon: &Daemon, shared: &Shared) {
    for _ in 0..2_000 {
        let (status, answer) = submit(daemon, shared, 30_000);
        match status {
            201 => {}
            507 => {
                let detail = answer["detail"].as_str().unwrap_or_default();
                assert!(detail.contains("no space"), "{answer}");
                return;
            }
            _ => panic!("{status} {answer}"),
        }
    }
    panic!("the disk is never full");
}

fn expect_reads(daemon: &Daemon) {
    for path in [
        "/v1/tasks?limit=1000",
        "/v1/tasks/1",
        "/v1/tasks/stats",
        "/v1/health",
        "/livez",
    ] {
        daemon.expect("GET", path, "", 200);
    }
}

/// TASK-1, TASK-6: on a full disk tasks are refused (507) and everything can be read; when there is space again it goes on, without a restart; nothing
/// that was accepted is lost, then or after `kill -9` on the full disk.
#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    alone("full::a_full_disk_refuses_and_loses_nothing", || {
        let folder = Folder::new("full");
        let disk = Disk::new(&folder, "disk", 24);
        let mut setup = Setup::new(&folder);
        setup.state = disk.mount.join("state");
        // Its log has no space either.
        setup.log = disk.mount.join("log");
        let shared = Arc::new(Shared::default());
        let mut daemon = setup.start();
        for round in 0..3 {
            submit(&daemon, &shared, 100);
            let held = hold(&daemon);
            let ballast = fill_but(&disk.mount, 1 << 20);
            submit_until_full(&daemon, &shared);
            // To the last page, as smaller tasks may still fit.
            while submit(&daemon, &shared, 10).0 == 201 {}
            expect_reads(&daemon);
            let (status, answer) = submit(&daemon, &shared, 30_000);
            assert_eq!(status, 507, "{answer}");
            let (token, heartbeat) = &held;
            let large = json!({"token": token, "checkpoint": {"at": "y".repeat(60_000)}});
            daemon.expect("POST", heartbeat, &large.to_string(), 507);
            if round == 1 {
                daemon.kill();
            }
            fs::remove_file(ballast).expect("the ballast can be removed");
            if round == 1 {
                daemon = setup.start();
            }
            let (status, answer) = submit(&daemon, &shared, 30_000);
            assert_eq!(status, 201, "space was freed: {answer}");
            check_held(&daemon, &held, round == 1);
        }
        let mut client = daemon.client();
        compare(&shared, &mut client, true).expect("the daemon answers");
        drain(&shared, &mut client).expect("the daemon answers");
        compare(&shared, &mut client, true).expect("the daemon answers");
        let model = shared.model();
        assert!(
            model.wrong.is_empty(),
            "{}\n{}",
            model.wrong.join("\n"),
            setup.log_text()
        );
        println!(
            "full disk: {} tasks accepted and completed",
            model.completed
        );
        assert!(model.accepted > 6 && model.completed == model.accepted);
    });
}

/// TASK-1, TASK-11: a full disk under the outputs of commands: the daemon goes on, the command ends, and what of its output could not be kept is not passed
/// off as all of it.
#[test]
fn a_full_disk_under_outputs_is_told() {
    alone("full::a_full_disk_under_outputs_is_told", || {
        let folder = Folder::new("full-outputs");
        let disk = Disk::new(&folder, "disk", 24);
        let mut setup = Setup::new(&folder);
        setup.state = disk.mount.join("state");
        let daemon = setup.start();
        let command = json!({"kind": "loud", "command": {"argv": ["/bin/sh", "-c", "head -c 12000000 /dev/zero; echo end"]}, "retry": {"max_attempts": 1}});
        let ballast = fill_but(&disk.mount, 300_000);
        let task = daemon.expect("POST", "/v1/tasks", &command.to_string(), 201);
        let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
        let ended = |state: &Value| match state.as_str() {
            Some("running" | "pending") => false,
            Some("completed") => true,
            _ => panic!("{state}"),
        };
        // Its end is written when there is space for it.
        wait_until("the disk is full", || {
            is_full(&disk.mount) || ended(&daemon.expect("GET", &path, "", 200)["state"])
        });
        expect_reads(&daemon);
        fs::remove_file(ballast).expect("the ballast can be removed");
        wait_until("the command ends", || {
            ended(&daemon.expect("GET", &path, "", 200)["state"])
        });
        let output = daemon
            .client()
            .raw("GET", &format!("{path}/output"), None, "");
        let output = output.expect("an answer");
        let kept = output.body.len() as u64;
        let dropped = output.number("flyball-output-dropped");
        println!("{kept} bytes kept, {dropped:?} dropped");
        assert!(
            kept < 1 << 20,
            "the disk was full before the output's bound"
        );
        assert_eq!(dropped.map(|dropped| dropped + kept), Some(12_000_004));
        let again = daemon.expect(
            "POST",
            "/v1/tasks",
            r#"{"kind":"pull","payload":{"n":1}}"#,
            201,
        );
        assert_eq!(again["state"], "pending");
        assert!(
            !setup.log_text().contains("panicked"),
            "{}",
            setup.log_text()
        );
    });
}

fn is_full(mount: &Path) -> bool {
    let probe = mount.join("probe");
    let full = fs::write(&probe, vec![0; 4096]).is_err();
    let _ = fs::remove_file(probe);
    full
}

/// Takes all space but so much.
fn fill_but(mount: &Path, bytes: u64) -> PathBuf {
    let path = fill(mount);
    let file = OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("the ballast is there");
    let length = file.metadata().expect("it has a length").len();
    file.set_len(length.saturating_sub(bytes))
        .expect("it can be cut");
    path
}
