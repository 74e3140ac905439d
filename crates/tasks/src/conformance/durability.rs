//! What survives.

use super::fixture::{Calls, Make, Wanted, block_on, done, failed, task};
use crate::error::Error;
use crate::{Beat, Scope};
use bytes::Bytes;
use flyball_policy::queue::State;
use std::collections::BTreeSet;
use std::time::Duration;

/// TASK-1: no accepted task is lost in a crash, and all of it is there.
pub fn accepted_tasks_survive_a_crash(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    let mut ids = BTreeSet::new();
    for round in 0..5u8 {
        let mut new = task("a");
        new.payload = Bytes::from(vec![b'0' + round; 10_000]);
        new.labels = vec![("round".into(), round.to_string().into())];
        ids.insert(fixture.put_one(new));
        fixture.crash();
    }
    let leases = fixture.get(10);
    assert_eq!(
        leases.iter().map(|lease| lease.id).collect::<BTreeSet<_>>(),
        ids
    );
    for (round, lease) in (0u8..).zip(&leases) {
        assert_eq!(lease.payload, vec![b'0' + round; 10_000]);
        assert_eq!(lease.attempts.started, 1);
    }
}

/// TASK-1: no acknowledged task comes back after a crash.
pub fn acknowledged_ends_survive_a_crash(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    fixture.put((0..10).map(|_| task("a")).collect());
    let leases = fixture.get(5);
    for lease in &leases {
        let mut end = done(lease.id, lease.token);
        end.result = Some(Bytes::from_static(b"1"));
        fixture.end(end).unwrap();
    }
    fixture.crash();
    for lease in &leases {
        let seen = fixture.look(lease.id);
        assert_eq!(seen.state, State::Completed);
        assert_eq!(seen.result.as_deref(), Some(&b"1"[..]));
    }
    let rest = fixture.get(10);
    assert_eq!(rest.len(), 5);
    assert!(
        rest.iter()
            .all(|lease| leases.iter().all(|ended| ended.id != lease.id))
    );
}

/// TASK-4, TASK-7: after a crash leases of before are void, the attempt counts, and a task that takes the process with it each time ends as a dead letter.
pub fn a_crash_voids_leases_and_counts(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    let mut new = task("a");
    new.head.retry.max_attempts = 3;
    new.head.retry.base = Duration::ZERO;
    let id = fixture.put_one(new);
    let mut last = None;
    for attempt in 1..=3 {
        let lease = fixture.get_one();
        assert_eq!(lease.id, id);
        assert_eq!(lease.attempts.started, attempt);
        assert_eq!(lease.attempts.counted, attempt - 1);
        if let Some(last) = last {
            assert!(lease.token > last);
            let stale = fixture.end(done(id, last));
            assert!(matches!(stale, Err(Error::StaleToken { .. })), "{stale:?}");
        }
        last = Some(lease.token);
        fixture.crash();
        let stale = fixture.end(done(id, lease.token));
        assert!(matches!(stale, Err(Error::StaleToken { .. })), "{stale:?}");
        fixture.advance(Duration::from_secs(120));
    }
    let seen = fixture.look(id);
    assert_eq!(seen.state, State::Dead);
    assert!(fixture.get(1).is_empty());
}

/// TASK-4: a clean restart honours the leases that are out.
pub fn a_clean_restart_honours_leases(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    fixture.put(vec![task("a"), task("b")]);
    let leases = fixture.get(2);
    fixture.restart();
    assert!(fixture.get(1).is_empty());
    block_on(
        fixture
            .queue()
            .heartbeat(leases[0].id, leases[0].token, Beat::default()),
    )
    .unwrap();
    for lease in &leases {
        assert_eq!(
            fixture.end(done(lease.id, lease.token)).unwrap().state,
            State::Completed
        );
    }
}

/// TASK-4: a wall clock that jumps a day either way gives no leased task away, and starts nothing twice.
pub fn the_wall_clock_may_jump(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let id = fixture.put_one(task("a"));
    let lease = fixture.get_one();
    let start = fixture.wall();
    let day = Duration::from_secs(24 * 60 * 60);
    for to in [start.saturating_add(day), start.saturating_sub(day), start] {
        if !fixture.set_wall(to) {
            return;
        }
        assert!(fixture.get(1).is_empty());
        block_on(fixture.queue().heartbeat(id, lease.token, Beat::default())).unwrap();
    }
    fixture.end(done(id, lease.token)).unwrap();
}

/// TASK-6: what people paused stays paused.
pub fn pauses_survive_restarts(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    fixture.put_one(task("a"));
    let kind = Scope::Kind("a".into());
    assert!(block_on(fixture.queue().pause(kind.clone(), "me".to_owned())).unwrap());
    fixture.restart();
    assert!(fixture.get(1).is_empty());
    fixture.crash();
    assert!(fixture.get(1).is_empty());
    let pauses = block_on(fixture.queue().stats()).unwrap().pauses;
    assert_eq!(pauses.get(&kind).map(|(by, _)| &**by), Some("me"));
    assert!(block_on(fixture.queue().resume(kind.clone())).unwrap());
    assert!(!block_on(fixture.queue().resume(kind)).unwrap());
    fixture.restart();
    assert_eq!(fixture.get(1).len(), 1);
}

/// TASK-1: a name is never given twice, whatever happened to the task.
pub fn ids_are_never_given_twice(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    let mut last = None;
    for round in 0..6 {
        let id = fixture.put_one(task("a"));
        assert!(last.is_none_or(|last| id > last), "{id} after {last:?}");
        last = Some(id);
        let lease = fixture.get_one();
        fixture.end(failed(id, lease.token, false)).unwrap();
        if round % 2 == 0 {
            fixture.restart();
        } else {
            fixture.crash();
        }
    }
}
