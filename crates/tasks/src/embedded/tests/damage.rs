//! Flipped bits in the file.

use super::fixture::InFolder;
use crate::conformance::testing::{done, request, task};
use crate::conformance::{Fixture, block_on};
use crate::embedded::sqlite::FILE;
use crate::{Batch, Embedded, Error, Filter, Query, SystemClocks, TaskId};
use bytes::Bytes;
use flyball_core::rng::Rng;
use std::collections::BTreeSet;
use std::sync::Arc;

const TASKS: u64 = 400;

/// A store of tasks, closed.
fn store() -> InFolder {
    let mut fixture = InFolder::new(|_| {});
    for _ in 0..TASKS / 100 {
        let mut new = task("a");
        new.payload = Bytes::from(vec![b'7'; 600]);
        block_on(fixture.queue().enqueue(Batch {
            tasks: vec![new; 100],
            idempotency: None,
        }))
        .unwrap();
    }
    drop(fixture.take());
    fixture
}

fn damage(fixture: &InFolder, sql: &str) {
    rusqlite::Connection::open(fixture.options.folder.join(FILE))
        .unwrap()
        .execute_batch(sql)
        .unwrap();
}

/// Everything that can be read or run, and what is named as damaged.
fn sweep(fixture: &InFolder) -> (BTreeSet<TaskId>, BTreeSet<TaskId>) {
    let queue = fixture.queue();
    let mut damaged = BTreeSet::new();
    let mut listed = BTreeSet::new();
    let mut query = Query {
        filter: Filter::default(),
        before: None,
        limit: 100,
    };
    loop {
        let page = block_on(queue.list(query.clone())).unwrap();
        listed.extend(page.tasks.iter().map(|task| task.id));
        damaged.extend(page.damaged);
        match page.next {
            Some(next) => {
                assert!(
                    query.before.is_none_or(|before| next < before),
                    "pages go on"
                );
                query.before = Some(next);
            }
            None => break,
        }
    }
    let mut ran = BTreeSet::new();
    for _ in 0..1_000 {
        let leases = match block_on(queue.lease(request(50))) {
            Ok(leases) if leases.is_empty() => break,
            Ok(leases) => leases,
            // Damage was met, and what was asked with it taken back.
            Err(Error::Full { .. }) => continue,
            Err(Error::Stopped { .. } | Error::NoSpace { .. }) => break,
            Err(other) => panic!("{other}"),
        };
        for lease in leases {
            assert_eq!(lease.payload, vec![b'7'; 600]);
            let end = block_on(queue.finish(vec![done(lease.id, lease.token)]));
            if let Ok(end) = end
                && end[0].is_ok()
            {
                assert!(ran.insert(lease.id));
            }
        }
    }
    for id in (1..=TASKS).map(TaskId) {
        match block_on(queue.task(id)) {
            Ok(task) => assert_eq!(task.payload, vec![b'7'; 600]),
            Err(Error::Damaged { id, .. }) => {
                damaged.insert(id);
            }
            Err(other) => panic!("{id}: {other}"),
        }
    }
    (ran, damaged)
}

/// TASK-1: a damaged head, record or body is detected, named everywhere, and all other tasks are read and run.
#[test]
fn damaged_rows_are_named_and_the_rest_runs() {
    for (column, table) in [("head", "tasks"), ("record", "tasks"), ("body", "bodies")] {
        let mut fixture = store();
        damage(
            &fixture,
            &format!(
                "UPDATE {table} SET {column} = CAST(substr({column}, 1, 9) || x'ff' || substr({column}, 11) AS BLOB) WHERE id = 7;"
            ),
        );
        let checked = Embedded::check(&fixture.options.folder).unwrap();
        assert_eq!(checked.damaged, [TaskId(7)], "{column}");
        assert_eq!(checked.tasks, TASKS - 1);
        fixture.open();
        let (ran, damaged) = sweep(&fixture);
        assert_eq!(damaged, [TaskId(7)].into(), "{column}");
        assert_eq!(ran.len() as u64, TASKS - 1);
        assert!(!ran.contains(&TaskId(7)));
        let stats = block_on(fixture.queue().stats()).unwrap();
        assert_eq!((stats.damaged, stats.stopped), (1, None));
        let end = block_on(
            fixture
                .queue()
                .retry(crate::Selection::Ids(vec![TaskId(7)])),
        );
        assert!(end.is_err() || column == "body");
    }
}

/// TASK-1: a row under the wrong id is damage, not another task.
#[test]
fn swapped_rows_are_found() {
    let mut fixture = store();
    damage(
        &fixture,
        "UPDATE bodies SET body = (SELECT body FROM bodies WHERE id = 9) WHERE id = 8;",
    );
    fixture.open();
    let (ran, damaged) = sweep(&fixture);
    assert_eq!(damaged, [TaskId(8)].into());
    assert_eq!(ran.len() as u64, TASKS - 1);
}

/// TASK-1: bits flipped anywhere in the file: the queue opens or says why not, never gives a wrong payload, never panics, and runs what it can. A
/// page of rows that is lost costs the tasks on it.
#[test]
fn flipped_bits_anywhere_lose_little_and_lie_never() {
    let fixture = store();
    let file = fixture.options.folder.join(FILE);
    let sound = std::fs::read(&file).unwrap();
    let mut opened = 0;
    let rounds = 30;
    for seed in 0..rounds {
        let mut rng = Rng::seeded(seed);
        let mut bytes = sound.clone();
        // The first page says what the file is; it has a round of its own.
        let place = if seed == 0 {
            rng.below(4096)
        } else {
            rng.between(4096, bytes.len() as u64 - 1)
        } as usize;
        if seed % 3 == 0 {
            let end = (place + 64).min(bytes.len());
            bytes[place..end].fill(0xff);
        } else {
            bytes[place] ^= 1 << rng.below(8);
        }
        let _ = std::fs::remove_file(fixture.options.folder.join("tasks.db-wal"));
        let _ = std::fs::remove_file(fixture.options.folder.join("tasks.db-shm"));
        std::fs::write(&file, &bytes).unwrap();
        let mut damaged = InFolder::of(&fixture);
        match Embedded::open(fixture.options.clone(), Arc::new(SystemClocks)) {
            Ok(queue) => {
                opened += 1;
                damaged.set(queue);
                let (ran, named) = sweep(&damaged);
                // A page holds some forty records, or six bodies.
                assert!(
                    ran.len() as u64 + 100 >= TASKS || !named.is_empty(),
                    "seed {seed}: {} ran",
                    ran.len()
                );
                drop(damaged.take());
            }
            Err(Error::Open { why, .. }) => assert!(!why.is_empty()),
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(opened > rounds * 3 / 4, "{opened}");
}
