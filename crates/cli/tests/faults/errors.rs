//! A disk that fails: EIO from a write or a sync, at any call.

use crate::client::Client;
use crate::daemon::{Folder, Setup};
use crate::disk::interpose;
use crate::model::{Shared, compare, drain, numbers_of};
use crate::{seeded, setting, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::sync::Arc;

/// Calls of the store among which the one that fails is chosen.
const CALLS: u64 = 240;

/// The daemon's state while its disk fails: every request is refused with 503 and the reason, and so it stays.
fn expect_stopped(client: &mut Client) -> io::Result<()> {
    let new = json!({"kind": "pull", "payload": {"n": 1}});
    let lease = json!({"worker": "w", "kinds": ["pull"]});
    for (path, body) in [
        ("/v1/tasks", &new),
        ("/v1/tasks/lease", &lease),
        ("/v1/tasks", &new),
    ] {
        let (status, answer) = client.post(path, body)?;
        assert_eq!(status, 503, "{path}: {answer}");
        let detail = answer["detail"].as_str().unwrap_or_default();
        assert!(
            detail.contains("stopped") && detail.contains("I/O error"),
            "{answer}"
        );
    }
    let (status, answer) = client.get("/readyz")?;
    assert_eq!(status, 503, "{answer}");
    let (status, _) = client.get("/livez")?;
    assert_eq!(status, 200, "it lives, to say so");
    let (status, health) = client.get("/v1/health")?;
    assert_eq!(status, 200, "{health}");
    let text = health.to_string();
    assert!(
        text.contains("unhealthy") && text.contains("the queue of tasks has stopped"),
        "{text}"
    );
    // What is kept can be read.
    let (status, page) = client.get("/v1/tasks?limit=5")?;
    assert_eq!(status, 200, "{page}");
    Ok(())
}

/// Tasks go in and out, one request at a time, until one is refused; what was acknowledged is in the model.
fn use_until_refused(shared: &Shared, client: &mut Client, most: u64) -> io::Result<Option<Value>> {
    for round in 0..most {
        let number = shared.model().number();
        let task = json!({"kind": "pull", "payload": {"n": number, "pad": "x".repeat(3000)}, "retry": {"max_attempts": 1000, "base_ms": 1, "cap_ms": 1}});
        let body = task.to_string();
        let (status, answer) = client.send("POST", "/v1/tasks", None, &body)?;
        match status {
            201 => shared.tell(|model| model.accepted(None, &numbers_of(&body), &answer)),
            _ => return Ok(Some(answer)),
        }
        if round % 2 == 1 {
            continue;
        }
        let ask = json!({"worker": "w", "kinds": ["pull"], "max": 1, "lease_ms": 600_000});
        let (status, answer) = client.post("/v1/tasks/lease", &ask)?;
        if status != 200 {
            return Ok(Some(answer));
        }
        for lease in answer["tasks"].as_array().into_iter().flatten() {
            let Some((id, token, _)) = shared.model().leased(lease) else {
                continue;
            };
            shared.model().asks(id, &token);
            let end = json!({"token": token, "result": {"by": token}});
            let (status, answer) = client.post(&format!("/v1/tasks/{id}/complete"), &end)?;
            match status {
                200 => shared.tell(|model| model.finished(id, &token, &answer)),
                _ => return Ok(Some(answer)),
            }
        }
    }
    Ok(None)
}

/// TASK-1: when a write or a sync of the store fails, once or from then on, nothing more is acknowledged; API, readiness and health say so with the reason;
/// the next start has all that was acknowledged. `FLYBALL_EIO` says at how many of 240 calls.
#[test]
fn a_failing_disk_stops_the_queue_and_a_restart_recovers_it() {
    let rounds = setting("FLYBALL_EIO", 16);
    let mut rng = seeded("failing disk");
    let folder = Folder::new("errors");
    let mut setup = Setup::new(&folder);
    let shared = Arc::new(Shared::default());
    for round in 0..rounds {
        // Spread over all calls; with as many rounds, each of them.
        let step = (CALLS / rounds).max(1);
        let at = round * CALLS / rounds + rng.between(1, step);
        let how = if round % 2 == 0 { "fail" } else { "broken" };
        let armed = interpose(
            &folder,
            &mut setup,
            "/queue/tasks.db",
            &format!("{how}:{at}"),
        );
        let daemon = setup.start();
        let mut client = daemon.client();
        compare(&shared, &mut client, false).expect("the daemon answers");
        fs::write(armed, "").expect("a file can be made");
        let refused = use_until_refused(&shared, &mut client, 300).expect("the daemon answers");
        let refused = refused.unwrap_or_else(|| panic!("{how} at call {at}: nothing was refused"));
        assert_eq!(refused["status"], 503, "{how} at call {at}: {refused}");
        expect_stopped(&mut client).expect("the daemon answers");
        let wrong = shared.model().wrong.join("\n");
        assert!(wrong.is_empty(), "{how} at call {at}: {wrong}");
        // It ends when it is asked, though its store cannot be closed.
        wait_until("the queue is known to have stopped", || {
            setup.log_text().contains("has stopped")
        });
        let _ = daemon.end();
    }
    interpose(&folder, &mut setup, "/queue/tasks.db", "off");
    let daemon = setup.start();
    let mut client = daemon.client();
    compare(&shared, &mut client, true).expect("the daemon answers");
    drain(&shared, &mut client).expect("the daemon answers");
    compare(&shared, &mut client, true).expect("the daemon answers");
    let model = shared.model();
    assert!(model.wrong.is_empty(), "{}", model.wrong.join("\n"));
    println!(
        "{rounds} failing disks: {} accepted, {} completed",
        model.accepted, model.completed
    );
    assert!(model.accepted > rounds && model.completed == model.accepted);
}

/// TASK-1: a disk that fails while the daemon starts: it says so and does not start, or comes up with all that was acknowledged.
#[test]
fn a_disk_that_fails_at_the_start_is_told() {
    let folder = Folder::new("errors-start");
    let mut setup = Setup::new(&folder);
    let shared = Arc::new(Shared::default());
    let daemon = setup.start();
    use_until_refused(&shared, &mut daemon.client(), 20).expect("the daemon answers");
    drop(daemon);
    let mut refused = 0;
    for at in 1..=setting("FLYBALL_EIO", 16).min(40) / 4 {
        let armed = interpose(&folder, &mut setup, "/queue", &format!("broken:{at}"));
        fs::write(armed, "").expect("a file can be made");
        match setup.spawn().ready() {
            Ok(daemon) => expect_stopped_or_fine(&shared, &mut daemon.client()),
            Err(log) => {
                refused += 1;
                assert!(
                    log.contains("I/O error") || log.contains("Input/output"),
                    "{log}"
                );
                assert!(!log.contains("panicked"), "{log}");
            }
        }
    }
    assert!(refused > 0);
    interpose(&folder, &mut setup, "/queue", "off");
    let daemon = setup.start();
    compare(&shared, &mut daemon.client(), true).expect("the daemon answers");
    let wrong = shared.model().wrong.join("\n");
    assert!(wrong.is_empty(), "{wrong}");
}

fn expect_stopped_or_fine(shared: &Shared, client: &mut Client) {
    let refused = use_until_refused(shared, client, 20).expect("the daemon answers");
    if let Some(answer) = refused {
        assert_eq!(answer["status"], 503, "{answer}");
        expect_stopped(client).expect("the daemon answers");
    }
}
