//! The file: its layout, its lock, its bounds, copies of it.

use super::fixture::{Folder, InFolder, options};
use crate::conformance::testing::{done, request, task};
use crate::conformance::{Fixture, block_on};
use crate::embedded::code::wire::Unsealed;
use crate::embedded::code::{body, head, record};
use crate::embedded::rows::{Added, Fault, Rows, Writes};
use crate::embedded::sqlite::{FILE, SqliteRows, SqliteSettings};
use crate::{
    Batch, Embedded, Error, Filter, Idempotency, ManualClocks, Query, SystemClocks, TaskId,
    TaskQueue,
};
use bytes::Bytes;
use flyball_core::time::WallTime;
use flyball_policy::queue::{Attempts, Record, State};
use std::sync::Arc;
use std::time::Duration;

fn put(queue: &dyn TaskQueue, count: usize, payload: usize) -> Result<Vec<TaskId>, Error> {
    let mut new = task("a");
    new.payload = Bytes::from(vec![b'1'; payload]);
    let accepted = block_on(queue.enqueue(Batch {
        tasks: vec![new; count],
        idempotency: None,
    }))?;
    Ok(accepted.iter().map(|accepted| accepted.id).collect())
}

fn run_all(queue: &dyn TaskQueue) -> usize {
    let mut count = 0;
    loop {
        let leases = block_on(queue.lease(request(1_000))).unwrap();
        if leases.is_empty() {
            return count;
        }
        count += leases.len();
        let ends = leases
            .iter()
            .map(|lease| done(lease.id, lease.token))
            .collect();
        for end in block_on(queue.finish(ends)).unwrap() {
            end.unwrap();
        }
    }
}

/// TASK-6: one answer holds a bounded number of bytes, however large tasks are and however many were asked for; the rest comes with the next ones.
#[test]
fn answers_are_bounded_in_bytes() {
    let fixture = InFolder::new(|_| {});
    let queue = fixture.queue();
    let large = 1 << 20;
    put(&*queue, 20, large).unwrap();
    let mut called = task("called");
    called.head.via = crate::Via::Http;
    called.run = crate::Run::Http(Box::new(crate::HttpSpec {
        method: "POST".to_owned(),
        url: "http://example.org".to_owned(),
        headers: Vec::new(),
        body: Some(Bytes::from(vec![b'1'; large])),
        dependency: None,
        hedge: false,
        remote: false,
    }));
    block_on(queue.enqueue(Batch {
        tasks: vec![called; 20],
        idempotency: None,
    }))
    .unwrap();
    let mut query = Query {
        filter: Filter::default(),
        before: None,
        limit: 1_000,
    };
    let mut seen = 0;
    loop {
        let page = block_on(queue.list(query.clone())).unwrap();
        assert!(page.tasks.len() <= 9, "{}", page.tasks.len());
        seen += page.tasks.len();
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, 40);
    let leases = block_on(queue.lease(request(1_000))).unwrap();
    assert!((1..=9).contains(&leases.len()), "{}", leases.len());
    let ends = leases.iter().map(|lease| done(lease.id, lease.token));
    for end in block_on(queue.finish(ends.collect())).unwrap() {
        end.unwrap();
    }
    // The others went back at no cost, and come with the next answers.
    let rest = 40 - leases.len();
    assert_eq!(run_all(&*queue), rest);
    let page = block_on(queue.list(Query {
        filter: Filter {
            states: vec![State::Completed],
            ..Filter::default()
        },
        before: None,
        limit: 1,
    }));
    assert_eq!(page.unwrap().tasks[0].attempts.counted, 0);
}

fn rows(folder: &Folder, max_bytes: Option<u64>) -> SqliteRows {
    std::fs::create_dir_all(folder.queue()).unwrap();
    SqliteRows::open(&SqliteSettings {
        folder: folder.queue(),
        max_bytes,
    })
    .unwrap()
}

fn added(writes: &mut Writes, id: u64, payload: usize) {
    let id = TaskId(id);
    let new = task("a");
    let rows = Unsealed::new(
        100,
        |put| head::write(put, &new.head),
        |put| body::write(put, &new.run, &vec![b'1'; payload], &[], &[]),
    )
    .seal(id);
    let given = Record {
        state: State::Pending,
        reason: None,
        attempts: Attempts::default(),
        created_at: WallTime::default(),
        ready_at: None,
        backoff: None,
        started_at: None,
        ended_at: None,
        lease: None,
        cancel_requested: false,
        again: false,
        retried: false,
        holds_unique: false,
        waits_for: Vec::new(),
        waits_for_group: false,
        cron_of: None,
        ticked: None,
    };
    let record = writes.part(|row| record::encode(row, &given, id));
    writes.added.push(Added {
        id,
        state: State::Pending,
        rows,
        record,
    });
}

/// TASK-1: a commit that must survive a power cut runs with full synchronisation, after any number of others that did not.
#[test]
fn each_commit_syncs_as_it_is_told() {
    let folder = Folder::new();
    let mut rows = rows(&folder, None);
    for (id, sync) in (1..).zip([true, false, true, false, false, true, true]) {
        let mut writes = Writes::default();
        added(&mut writes, id, 10);
        rows.commit(&writes, sync).unwrap();
        assert_eq!(rows.synchronous(), if sync { 2 } else { 1 });
    }
}

/// TASK-1: an error in a commit leaves nothing of it, and the next one succeeds.
#[test]
fn a_full_file_takes_nothing_of_a_commit() {
    let folder = Folder::new();
    let mut rows = rows(&folder, Some(1 << 20));
    let mut id = 0;
    let full = loop {
        let mut writes = Writes::default();
        added(&mut writes, id + 1, 10_000);
        added(&mut writes, id + 2, 10_000);
        match rows.commit(&writes, true) {
            Ok(()) => id += 2,
            Err(fault) => break fault,
        }
    };
    assert!(matches!(full, Fault::NoSpace(_)), "{full:?}");
    assert!((20..=100).contains(&id), "{id}");
    let mut count = 0;
    rows.load(&mut |_, _, _| count += 1).unwrap();
    assert_eq!(count, id);
    let mut writes = Writes::default();
    writes.removed.extend((1..=id).map(TaskId));
    rows.commit(&writes, true).unwrap();
    let mut writes = Writes::default();
    added(&mut writes, id + 1, 10_000);
    rows.commit(&writes, true).unwrap();
}

/// TASK-1: one daemon has the folder, and the refusal names it.
#[test]
fn a_folder_is_one_daemons() {
    let fixture = InFolder::new(|_| {});
    let second = Embedded::open(fixture.options.clone(), Arc::new(SystemClocks));
    match second {
        Err(Error::Open { why, .. }) => {
            assert_eq!(why, format!("process {} has it open", std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    let check = Embedded::check(&fixture.options.folder);
    assert!(matches!(check, Err(Error::Open { .. })), "{check:?}");
}

/// TASK-1: a store of a later version is refused and left as it is; a file of another program, too.
#[test]
fn later_versions_and_strangers_are_refused() {
    for (sql, expected) in [
        ("PRAGMA user_version = 99", "later version"),
        ("PRAGMA application_id = 1", "another program"),
    ] {
        let mut fixture = InFolder::new(|_| {});
        put(&**fixture.embedded(), 3, 10).unwrap();
        drop(fixture.take());
        let file = fixture.options.folder.join(FILE);
        rusqlite::Connection::open(&file)
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        let before = std::fs::read(&file).unwrap();
        let refused = Embedded::open(fixture.options.clone(), Arc::new(SystemClocks));
        match refused {
            Err(Error::Open { why, .. }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(std::fs::read(&file).unwrap() == before, "{sql}");
    }
}

/// TASK-1: an empty file, as a crash in the first moment of a store leaves it, is brought to the layout of today.
#[test]
fn an_empty_file_is_migrated_forward() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.queue()).unwrap();
    std::fs::write(folder.queue().join(FILE), b"").unwrap();
    let clocks = Arc::new(ManualClocks::default());
    let queue = Embedded::open(options(&folder), clocks).unwrap();
    put(&queue, 1, 10).unwrap();
}

/// TASK-6: the store takes no more than it may, says so, and takes tasks again when others have gone; the file stays bounded over many times its
/// size.
#[test]
fn the_store_is_bounded_by_bytes() {
    let most = 4u64 << 20;
    let fixture = InFolder::new(|options| {
        options.max_bytes = Some(most);
        options.settings.retention = Duration::ZERO;
    });
    let queue = fixture.queue();
    let mut accepted = 0;
    for _ in 0..8 {
        let full = loop {
            match put(&*queue, 20, 10_000) {
                Ok(ids) => accepted += ids.len(),
                Err(error) => break error,
            }
        };
        match full {
            Error::Full { retry_after, .. } => assert!(retry_after > Duration::ZERO),
            other => panic!("{other}"),
        }
        run_all(&*queue);
        fixture.advance(Duration::from_secs(1));
        // Forgetting is done by and by.
        for _ in 0..20 {
            block_on(queue.stats()).unwrap();
        }
    }
    assert!(accepted > 8 * 200, "{accepted}");
    let file = std::fs::metadata(fixture.options.folder.join(FILE))
        .unwrap()
        .len();
    assert!(file <= most, "{file}");
    let stats = block_on(queue.stats()).unwrap();
    assert!(stats.refused >= 8);
    let disk = stats.disk_bytes.unwrap();
    // File, log, and the log's index.
    assert!(disk <= most + (64 << 20) + (1 << 20), "{disk}");
}

/// TASK-6: over any number of tasks the pages of the file stay those that the tasks kept need. `FLYBALL_QUEUE_TASKS` says how many go through:
/// a million on demand.
#[test]
fn the_file_stays_bounded_over_many_tasks() {
    let tasks = std::env::var("FLYBALL_QUEUE_TASKS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(30_000usize);
    let fixture = InFolder::new(|options| options.settings.max_ended = 1_000);
    let queue = fixture.queue();
    let mut sizes = Vec::new();
    let file = fixture.options.folder.join(FILE);
    for _ in 0..tasks / 1_000 {
        put(&*queue, 1_000, 300).unwrap();
        assert_eq!(run_all(&*queue), 1_000);
        sizes.push(std::fs::metadata(&file).unwrap().len());
    }
    let stats = block_on(queue.stats()).unwrap();
    assert!(stats.by_state[&State::Completed] <= 2_000, "{stats:?}");
    // Kept are 1,000 to 2,000 tasks of some 500 bytes, and as many pages again until the log is moved.
    let largest = sizes.iter().max().unwrap();
    assert!(*largest < 8 << 20, "{sizes:?}");
}

/// TASK-19: a copy is taken while the store is written, is consistent, and put back gives the tasks of its instant; leases of then are void.
#[test]
fn a_copy_is_taken_in_use_and_put_back() {
    let mut fixture = InFolder::new(|_| {});
    let ids = put(&**fixture.embedded(), 500, 1_000).unwrap();
    let lease = block_on(fixture.queue().lease(request(1)))
        .unwrap()
        .remove(0);
    let copy = fixture.options.folder.join("copy");
    std::thread::scope(|scope| {
        let queue = fixture.queue();
        let writer = scope.spawn(move || {
            for _ in 0..50 {
                put(&*queue, 10, 1_000).unwrap();
            }
        });
        let bytes = fixture.embedded().back_up(&copy).unwrap();
        assert_eq!(bytes, std::fs::metadata(&copy).unwrap().len());
        writer.join().unwrap();
    });
    let again = fixture.embedded().back_up(&copy);
    assert!(matches!(again, Err(Error::Open { .. })), "{again:?}");
    let held = Embedded::restore(&copy, &fixture.options.folder);
    assert!(matches!(held, Err(Error::Open { .. })), "{held:?}");

    drop(fixture.take());
    let checked = Embedded::restore(&copy, &fixture.options.folder).unwrap();
    assert!(checked.is_sound());
    assert!(
        checked.tasks >= 500 && (checked.tasks - 500).is_multiple_of(10),
        "{checked:?}"
    );
    assert!(fixture.options.folder.join("tasks.db.replaced").exists());
    fixture.open();
    let stale = block_on(fixture.queue().finish(vec![done(lease.id, lease.token)])).unwrap();
    assert!(
        matches!(stale[0], Err(Error::StaleToken { .. })),
        "{stale:?}"
    );
    fixture.advance(Duration::from_secs(120));
    assert_eq!(run_all(&*fixture.queue()) as u64, checked.tasks);
    let seen = block_on(fixture.queue().task(ids[7])).unwrap();
    assert_eq!(seen.payload.len(), 1_000);
}

/// TASK-19, TASK-4: names and tokens that a store gave out after a copy of it was made are not given again by the restored one.
#[test]
fn a_restored_store_gives_new_names_and_tokens() {
    let mut fixture = InFolder::new(|_| {});
    put(&**fixture.embedded(), 2, 10).unwrap();
    let copy = fixture.options.folder.join("copy");
    fixture.embedded().back_up(&copy).unwrap();
    let later = put(&**fixture.embedded(), 3, 10).unwrap();
    let lease = |fixture: &InFolder| {
        block_on(fixture.queue().lease(request(10)))
            .unwrap()
            .remove(0)
    };
    let before = lease(&fixture);
    drop(fixture.take());
    Embedded::restore(&copy, &fixture.options.folder).unwrap();
    fixture.open();
    let new = put(&**fixture.embedded(), 1, 10).unwrap();
    assert!(new[0] > later[2], "{new:?} after {later:?}");
    let after = lease(&fixture);
    assert_eq!(before.id, after.id);
    assert!(after.token > before.token, "{after:?}");
    let stale = block_on(fixture.queue().finish(vec![done(before.id, before.token)])).unwrap();
    assert!(
        matches!(stale[0], Err(Error::StaleToken { .. })),
        "{stale:?}"
    );
}

/// TASK-19: a damaged copy is not put in the place of a store.
#[test]
fn a_damaged_copy_is_refused() {
    let mut fixture = InFolder::new(|_| {});
    put(&**fixture.embedded(), 200, 1_000).unwrap();
    let copy = fixture.options.folder.join("copy");
    fixture.embedded().back_up(&copy).unwrap();
    put(&**fixture.embedded(), 1, 10).unwrap();
    drop(fixture.take());
    let mut bytes = std::fs::read(&copy).unwrap();
    let place = bytes.len() - 3_000;
    bytes[place] ^= 0x40;
    std::fs::write(&copy, &bytes).unwrap();
    let refused = Embedded::restore(&copy, &fixture.options.folder);
    assert!(matches!(refused, Err(Error::Open { .. })), "{refused:?}");
    assert!(!fixture.options.folder.join("tasks.db.restoring").exists());
    fixture.open();
    assert_eq!(run_all(&*fixture.queue()), 201);
}

/// TASK-1: many who ask at once are all answered, and share commits.
#[test]
fn many_threads_ask_at_once() {
    let fixture = InFolder::new(|options| options.settings.max_tasks = 100_000);
    let queue = fixture.queue();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let queue = queue.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    put(&*queue, 5, 100).unwrap();
                    let leases = block_on(queue.lease(request(5))).unwrap();
                    let ends = leases
                        .iter()
                        .map(|lease| done(lease.id, lease.token))
                        .collect();
                    for end in block_on(queue.finish(ends)).unwrap() {
                        end.unwrap();
                    }
                }
            });
        }
    });
    run_all(&*queue);
    let stats = block_on(queue.stats()).unwrap();
    assert_eq!((stats.accepted, stats.completed), (2_000, 2_000));
}

/// TASK-6: a page ends when it is large enough, by bytes, too, and says where the next begins.
#[test]
fn pages_are_bounded_by_bytes() {
    let fixture = InFolder::new(|_| {});
    for _ in 0..20 {
        put(&**fixture.embedded(), 1, 1 << 20).unwrap();
    }
    let mut query = Query {
        filter: Filter::default(),
        before: None,
        limit: 1_000,
    };
    let mut seen = 0;
    loop {
        let page = block_on(fixture.queue().list(query.clone())).unwrap();
        assert!(page.tasks.len() <= 8);
        seen += page.tasks.len();
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, 20);
}

/// TASK-6: requests that bring nothing new, as they are repeated or meet a unique task that waits, take no room.
#[test]
fn what_brings_nothing_takes_no_room() {
    let fixture = InFolder::new(|options| options.max_bytes = Some(2 << 20));
    let queue = fixture.queue();
    let mut new = task("a");
    new.payload = Bytes::from(vec![b'1'; 200_000]);
    let batch = Batch {
        tasks: vec![new],
        idempotency: Some(Idempotency {
            key: "k".into(),
            fingerprint: [1; 32],
        }),
    };
    let first = block_on(queue.enqueue(batch.clone())).unwrap();
    for _ in 0..20 {
        let again = block_on(queue.enqueue(batch.clone())).unwrap();
        assert_eq!(again[0].id, first[0].id);
    }
    put(&*queue, 1, 200_000).unwrap();
}

/// TASK-6: bounds can be changed while the queue is open.
#[test]
fn bounds_can_be_changed() {
    let fixture = InFolder::new(|_| {});
    let queue = fixture.embedded();
    put(&**queue, 5, 10).unwrap();
    let mut settings = fixture.options.settings;
    settings.max_tasks = 5;
    block_on(queue.set_bounds(settings, Some(1 << 20))).unwrap();
    let refused = put(&**queue, 1, 10);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    settings.max_tasks = 1_000;
    block_on(queue.set_bounds(settings, Some(1 << 20))).unwrap();
    put(&**queue, 1, 10).unwrap();
    let refused = put(&**queue, 10, 200_000);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    block_on(queue.set_bounds(settings, None)).unwrap();
    put(&**queue, 10, 200_000).unwrap();
}
