//! Flipped bytes in the files of the store.

use crate::daemon::{Daemon, Folder, Setup};
use crate::seeded;
use crate::setting;
use flyball_core::rng::Rng;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const TASKS: u64 = 160;
const FILES: [&str; 2] = ["tasks.db", "tasks.db-wal"];

/// A payload that tells its task.
fn payload(number: u64) -> Value {
    json!({"n": number, "pad": format!("{number}-").repeat(60)})
}

/// Fills a store, half of it in the file and half in the log, and leaves it as `kill -9` does; the task of each id.
fn make(setup: &Setup) -> BTreeMap<u64, u64> {
    let mut known = BTreeMap::new();
    let mut number = 0;
    let mut submit = |daemon: &Daemon, known: &mut BTreeMap<u64, u64>| {
        let mut client = daemon.client();
        for _ in 0..TASKS / 20 {
            let first = number + 1;
            number += 10;
            let tasks: Vec<Value> = (first..=number)
                .map(|number| json!({"kind": "pull", "payload": payload(number)}))
                .collect();
            let (status, answer) = client
                .post("/v1/tasks", &json!({ "tasks": tasks }))
                .expect("an answer");
            assert_eq!(status, 201, "{answer}");
            let ids = answer["tasks"].as_array().into_iter().flatten().map(id_of);
            known.extend(ids.zip(first..));
        }
    };
    let daemon = setup.start();
    submit(&daemon, &mut known);
    // A clean end moves the log into the file.
    assert_eq!(daemon.end(), Some(0));
    let mut daemon = setup.start();
    submit(&daemon, &mut known);
    daemon.kill();
    known
}

fn id_of(task: &Value) -> u64 {
    let id = task["id"].as_str().and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("no id: {task}"))
}

/// Reads everything: pages, each task, and what workers are given. What is answered is right; what cannot be is said. Answers the readable tasks
/// and how many are named as damaged.
fn read_all(
    daemon: &Daemon,
    known: &BTreeMap<u64, u64>,
    what: &str,
) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let mut client = daemon.client();
    let (mut fine, mut damaged) = (BTreeSet::new(), BTreeSet::new());
    let check = |task: &Value| {
        let id = id_of(task);
        let number = known
            .get(&id)
            .unwrap_or_else(|| panic!("{what}: a task that nobody sent: {task}"));
        assert_eq!(task["payload"], payload(*number), "{what}: another payload");
        id
    };
    let mut cursor = String::new();
    loop {
        let (status, page) = client
            .get(&format!("/v1/tasks?limit=50{cursor}"))
            .expect("an answer");
        if status != 200 {
            assert!(
                matches!(status, 500 | 503 | 507) && page["detail"].is_string(),
                "{what}: {status} {page}"
            );
            break;
        }
        fine.extend(page["items"].as_array().into_iter().flatten().map(check));
        let named = page["damaged"].as_array().into_iter().flatten();
        damaged.extend(named.filter_map(|id| id.as_str()?.parse::<u64>().ok()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    for id in known.keys() {
        let (status, task) = client.get(&format!("/v1/tasks/{id}")).expect("an answer");
        match status {
            200 => {
                fine.insert(check(&task));
            }
            _ => {
                assert!(
                    matches!(status, 404 | 500 | 503) && task["detail"].is_string(),
                    "{what}: {status} {task}"
                );
                fine.remove(id);
                if status == 500 {
                    damaged.insert(*id);
                }
            }
        }
    }
    let mut empty = 0;
    while empty < 3 {
        let ask = json!({"worker": "w", "kinds": ["pull"], "max": 50});
        let (status, answer) = client.post("/v1/tasks/lease", &ask).expect("an answer");
        let leases = answer["tasks"].as_array().cloned().unwrap_or_default();
        for lease in &leases {
            check(lease);
        }
        match status {
            200 if leases.is_empty() => empty += 1,
            200 => {}
            // Damage was met, and what was asked with it taken back.
            429 => empty += 1,
            _ => {
                assert!(matches!(status, 503 | 507), "{what}: {status} {answer}");
                break;
            }
        }
    }
    (fine, damaged)
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a folder can be made");
    for name in FILES {
        fs::copy(from.join(name), to.join(name)).expect("the store is copied");
    }
}

fn flip(path: &Path, rng: &mut Rng, anywhere: bool) -> u64 {
    let mut bytes = fs::read(path).expect("the file is there");
    let place = match anywhere {
        true => rng.below(bytes.len() as u64),
        false => rng.below(200),
    };
    bytes[place as usize] ^= rng.between(1, 255) as u8;
    fs::write(path, bytes).expect("the file can be written");
    place
}

/// TASK-1: a byte flipped anywhere in the store's file or its log: the daemon starts or says clearly why not; what it answers is right; what is lost is named; the
/// rest can be read and run. `FLYBALL_FLIPS` says how many bytes.
#[test]
fn a_flipped_byte_is_found_and_never_believed() {
    let flips = setting("FLYBALL_FLIPS", 12);
    let mut rng = seeded("flipped bytes");
    let folder = Folder::new("flips");
    let setup = Setup::new(&folder);
    let queue = setup.state.join("queue");
    let known = make(&setup);
    let sound = folder.path("sound");
    copy(&queue, &sound);
    let (mut refused, mut unharmed, mut named) = (0, 0, 0);
    for round in 0..flips {
        copy(&sound, &queue);
        let name = FILES[round as usize % 2];
        // The first bytes of a file say what it is.
        let place = flip(&queue.join(name), &mut rng, round >= 4);
        let what = format!("{name} at {place}");
        match setup.spawn().ready() {
            Err(log) => {
                refused += 1;
                let last = log.lines().last().unwrap_or_default();
                assert!(
                    last.contains("cannot open the queue's store") && !log.contains("panicked"),
                    "{what}: {log}"
                );
            }
            Ok(daemon) => {
                let (fine, damaged) = read_all(&daemon, &known, &what);
                let stats = daemon.expect("GET", "/v1/tasks/stats", "", 200);
                let counted = stats["damaged"].as_u64().unwrap_or(0);
                let lost = known.keys().filter(|id| !fine.contains(id)).count();
                if lost == 0 {
                    unharmed += 1;
                } else {
                    named += 1;
                    let told = counted > 0 || !damaged.is_empty() || !stats["stopped"].is_null();
                    assert!(told, "{what}: {lost} lost, and nobody says so: {stats}");
                    // Half of them are in each file; the damage in one must not cost the other.
                    assert!(lost as u64 <= TASKS / 2 + 20, "{what}: {lost} lost");
                }
            }
        }
        let log = fs::read_to_string(&setup.log).unwrap_or_default();
        assert!(!log.contains("panicked"), "{what}: {log}");
    }
    println!(
        "{flips} flipped bytes: {refused} refused to start, {unharmed} did no harm, {named} cost tasks that were named"
    );
}
