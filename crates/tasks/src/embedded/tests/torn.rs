//! What a power cut leaves of a log: of what was not synced, any sectors, in any order.

use super::fixture::{Folder, InFolder, options};
use crate::conformance::testing::{done, request, task};
use crate::conformance::{Fixture, block_on};
use crate::embedded::sqlite::FILE;
use crate::{Batch, Beat, Embedded, State, SystemClocks, TaskId};
use flyball_core::rng::Rng;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const SECTOR: usize = 512;
const TASKS: usize = 200;

fn log_of(folder: &Path) -> Vec<u8> {
    fs::read(folder.join(format!("{FILE}-wal"))).unwrap()
}

/// Of each sector either what was synced or what was written since.
fn torn(synced: &[u8], written: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut log = synced.to_vec();
    // The file may have grown, or not.
    let length = rng.between(synced.len() as u64, written.len() as u64) as usize;
    log.resize(length, 0);
    let share = rng.f64();
    for start in (0..length).step_by(SECTOR) {
        let end = (start + SECTOR).min(length);
        if rng.chance(share) {
            log[start..end].copy_from_slice(&written[start..end]);
        }
    }
    log
}

/// TASK-1, TASK-4: leases and heartbeats are not synced; whichever of their sectors a power cut leaves, all tasks that were accepted are there, those
/// that were acknowledged stay so, the others run, and tokens of before are void.
#[test]
fn torn_logs_lose_nothing_that_was_acknowledged() {
    let fixture = InFolder::new(|_| {});
    let queue = fixture.queue();
    let batch = Batch {
        tasks: vec![task("a"); TASKS],
        idempotency: None,
    };
    block_on(queue.enqueue(batch)).unwrap();
    let leases = block_on(queue.lease(request(50))).unwrap();
    let ends = leases.iter().map(|lease| done(lease.id, lease.token));
    block_on(queue.finish(ends.collect())).unwrap();
    let finished: BTreeSet<TaskId> = leases.iter().map(|lease| lease.id).collect();
    let synced = log_of(&fixture.options.folder);
    let file = fs::read(fixture.options.folder.join(FILE)).unwrap();
    let mut held = Vec::new();
    for _ in 0..10 {
        for lease in block_on(queue.lease(request(10))).unwrap() {
            let beat = Beat {
                checkpoint: Some(vec![b'1'; 900].into()),
                ..Beat::default()
            };
            block_on(queue.heartbeat(lease.id, lease.token, beat)).unwrap();
            held.push(lease);
        }
    }
    let written = log_of(&fixture.options.folder);
    assert!(written.len() > synced.len(), "leases are written");
    assert!(written.starts_with(&synced), "the log was not begun anew");
    assert_eq!(file, fs::read(fixture.options.folder.join(FILE)).unwrap());
    for seed in 0..20 {
        let mut rng = Rng::seeded(seed);
        let folder = Folder::new();
        let options = options(&folder);
        fs::create_dir_all(&options.folder).unwrap();
        fs::write(options.folder.join(FILE), &file).unwrap();
        let log = torn(&synced, &written, &mut rng);
        fs::write(options.folder.join(format!("{FILE}-wal")), log).unwrap();
        let queue = Embedded::open(options, Arc::new(SystemClocks)).unwrap();
        let queue: &dyn crate::TaskQueue = &queue;
        let stale = held.iter().map(|lease| done(lease.id, lease.token));
        for end in block_on(queue.finish(stale.collect())).unwrap() {
            assert!(end.is_err(), "seed {seed}: a token of before is taken");
        }
        let mut ran = BTreeSet::new();
        loop {
            let leases = block_on(queue.lease(request(100))).unwrap();
            if leases.is_empty() {
                break;
            }
            for lease in &leases {
                assert!(
                    !finished.contains(&lease.id) && ran.insert(lease.id),
                    "seed {seed}: {} is back",
                    lease.id
                );
            }
            let ends = leases.iter().map(|lease| done(lease.id, lease.token));
            for end in block_on(queue.finish(ends.collect())).unwrap() {
                assert_eq!(end.unwrap().state, State::Completed);
            }
        }
        // Of those that seem to have run at the crash all but one start again a while later.
        let waits = |lease: &&crate::task::Lease| !ran.contains(&lease.id);
        let waiting = held.iter().filter(waits).inspect(|lease| {
            let task = block_on(queue.task(lease.id)).unwrap();
            let waits = matches!(task.state, State::Scheduled | State::Pending);
            assert!(waits, "seed {seed}: {task:?}");
        });
        assert_eq!(
            ran.len() + waiting.count() + finished.len(),
            TASKS,
            "seed {seed}"
        );
    }
}
