//! What becomes of tasks.

use super::fixture::{Calls, Fixture, Make, Wanted, block_on, done, failed, task};
use crate::error::Error;
use crate::{Beat, Filter, Parent, Scope, Selection};
use flyball_policy::queue::{
    Dependency, OnParentFailure, Outcome, Reason, State, TaskId, Unique, UniqueConflict, When,
};
use std::time::Duration;

/// TASK-7, TASK-10: failures are retried after a wait of at most the backoff, and a task without attempts left is dead, with its error.
pub fn failures_are_retried_and_then_dead(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let id = fixture.put_one(task("a"));
    for attempt in 1..=3 {
        let lease = fixture.get_one();
        assert_eq!(lease.attempts.started, attempt);
        let brief = fixture.end(failed(id, lease.token, true)).unwrap();
        if attempt < 3 {
            assert!(
                matches!(brief.state, State::Scheduled | State::Pending),
                "{brief:?}"
            );
            fixture.advance(Duration::from_secs(61));
        } else {
            assert_eq!(brief.state, State::Dead);
        }
    }
    let seen = fixture.look(id);
    assert_eq!(seen.state, State::Dead);
    assert_eq!(seen.reason, Some(Reason::Error));
    assert_eq!(seen.error.as_deref(), Some("it broke"));
    assert_eq!(seen.attempts.counted, 3);
}

/// TASK-7: only errors marked retryable are retried.
pub fn what_may_not_be_retried_fails(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let id = fixture.put_one(task("a"));
    let lease = fixture.get_one();
    let brief = fixture.end(failed(id, lease.token, false)).unwrap();
    assert_eq!(brief.state, State::Failed);
    fixture.advance(Duration::from_secs(3600));
    assert!(fixture.get(1).is_empty());
}

/// TASK-7: drain and preemption cost no attempt.
pub fn returned_attempts_cost_nothing(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let id = fixture.put_one(task("a"));
    for started in 1..=10 {
        let lease = fixture.get_one();
        assert_eq!(lease.attempts.started, started);
        assert_eq!(lease.attempts.counted, 0);
        let mut end = done(id, lease.token);
        end.outcome = None;
        assert_eq!(fixture.end(end).unwrap().state, State::Pending);
    }
}

/// TASK-7: a wait before the next attempt is ended early by who knows for which attempt it was, for good; others go on.
pub fn waits_end_early(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    let (one, other) = (fixture.put_one(task("a")), fixture.put_one(task("a")));
    let after = Duration::from_secs(600);
    for lease in fixture.get(2) {
        let mut end = done(lease.id, lease.token);
        end.outcome = Some(Outcome::Returned { after });
        assert_eq!(fixture.end(end).unwrap().state, State::Scheduled);
    }
    let call_back = |fixture: &dyn Fixture, started| {
        let waits = vec![(one, started), (TaskId(u64::MAX >> 1), started)];
        block_on(fixture.queue().call_back(waits)).unwrap()
    };
    assert!(call_back(&*fixture, 2).is_empty());
    let changed = call_back(&*fixture, 1);
    assert_eq!((changed.len(), changed[0].id), (1, one));
    assert_eq!(changed[0].state, State::Pending);
    fixture.crash();
    let states = (fixture.state(one), fixture.state(other));
    assert_eq!(states, (State::Pending, State::Scheduled));
    let lease = fixture.get_one();
    assert_eq!(lease.id, one);
    assert!(fixture.get(1).is_empty());
    fixture.end(done(one, lease.token)).unwrap();
    fixture.advance(after);
    assert_eq!(fixture.get_one().id, other);
    let most = vec![(other, 1); 1_001];
    assert!(block_on(fixture.queue().call_back(most)).is_err());
}

/// TASK-10: dead letters can be retried, one or by filter, with fresh attempts.
pub fn the_dead_can_be_retried(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let ids: Vec<_> = fixture
        .put((0..3).map(|_| task("a")).collect())
        .iter()
        .map(|accepted| accepted.id)
        .collect();
    for lease in fixture.get(3) {
        fixture.end(failed(lease.id, lease.token, false)).unwrap();
    }
    let one = block_on(fixture.queue().retry(Selection::Ids(vec![ids[0]]))).unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].state, State::Pending);
    let running = block_on(fixture.queue().retry(Selection::Ids(vec![ids[0]])));
    assert!(
        matches!(running, Err(Error::WrongState { .. })),
        "{running:?}"
    );
    let filter = Filter {
        kind: Some("a".into()),
        ..Filter::default()
    };
    let rest = block_on(fixture.queue().retry(Selection::Filter(filter, 100))).unwrap();
    assert_eq!(rest.len(), 2);
    let leases = fixture.get(10);
    assert_eq!(leases.len(), 3);
    assert!(leases.iter().all(|lease| lease.attempts.counted == 0));
}

/// TASK-3: a task does not start before its time.
pub fn not_before_is_waited_for(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    let mut new = task("a");
    new.head.not_before = Some(fixture.wall().saturating_add(Duration::from_secs(100)));
    let id = fixture.put_one(new);
    assert_eq!(fixture.state(id), State::Scheduled);
    assert!(fixture.get(1).is_empty());
    fixture.crash();
    fixture.advance(Duration::from_secs(99));
    assert!(fixture.get(1).is_empty());
    fixture.advance(Duration::from_secs(2));
    assert_eq!(fixture.get_one().id, id);
}

/// TASK-3: a task whose deadline passed before it started fails, for that reason.
pub fn a_deadline_is_kept(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut new = task("a");
    new.head.deadline = Some(fixture.wall().saturating_add(Duration::from_secs(10)));
    let id = fixture.put_one(new);
    fixture.advance(Duration::from_secs(11));
    assert!(fixture.get(1).is_empty());
    let seen = fixture.look(id);
    assert_eq!(seen.state, State::Failed);
    assert_eq!(seen.reason, Some(Reason::DeadlineMissed));
}

/// TASK-5: a task waits for its parents, in its batch and before; also over a crash.
pub fn children_wait_for_parents(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    let first = fixture.put_one(task("first"));
    let mut second = task("second");
    second.reference = Some("second".into());
    second.head.after = vec![Dependency {
        parent: first,
        when: When::Success,
    }];
    let mut third = task("third");
    third.after = vec![Parent {
        reference: "second".into(),
        when: When::Any,
    }];
    let accepted = fixture.put(vec![third, second]);
    let (third, second) = (accepted[0].id, accepted[1].id);
    assert!(accepted.iter().all(|task| task.state == State::Blocked));
    for id in [first, second, third] {
        fixture.crash();
        let lease = fixture.get_one();
        assert_eq!(lease.id, id);
        assert!(fixture.get(1).is_empty());
        fixture.end(done(id, lease.token)).unwrap();
    }
    assert_eq!(
        fixture.look(third).head.after,
        [Dependency {
            parent: second,
            when: When::Any,
        }]
    );
}

/// TASK-5: a parent that is retried has not failed; one that has failed skips its children or has them fail.
pub fn children_of_failures_are_skipped(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let parent = fixture.put_one(task("parent"));
    let after = |when| {
        let mut child = task("child");
        child.head.after = vec![Dependency { parent, when }];
        child
    };
    let skipped = fixture.put_one(after(When::Success));
    let mut strict = after(When::Success);
    strict.head.on_parent_failure = OnParentFailure::Fail;
    let strict = fixture.put_one(strict);
    let rescue = fixture.put_one(after(When::Failure));
    let lease = fixture.get_one();
    fixture.end(failed(parent, lease.token, true)).unwrap();
    assert_eq!(fixture.state(skipped), State::Blocked);
    fixture.advance(Duration::from_secs(61));
    let lease = fixture.get_one();
    fixture.end(failed(parent, lease.token, false)).unwrap();
    let lease = fixture.get_one();
    assert_eq!(lease.id, rescue);
    assert_eq!(fixture.state(skipped), State::Skipped);
    let seen = fixture.look(strict);
    assert_eq!(seen.state, State::Failed);
    assert_eq!(seen.reason, Some(Reason::Parent));
}

/// TASK-14: one task of a unique key runs and one waits, the waiting one with the newest payload.
pub fn one_running_and_one_waiting_of_a_unique_key(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    let unique = |payload: &'static str, on_conflict| {
        let mut new = task("a");
        new.payload = payload.into();
        new.head.unique = Some(Box::new(Unique {
            key: "report".into(),
            on_conflict,
        }));
        new
    };
    let first = fixture.put(vec![unique("1", UniqueConflict::Replace)])[0].clone();
    let running = fixture.get_one();
    assert_eq!(running.id, first.id);
    let second = fixture.put(vec![unique("2", UniqueConflict::Replace)])[0].clone();
    assert!(!second.existing && second.id != first.id);
    assert!(fixture.get(1).is_empty());
    let third = fixture.put(vec![unique("3", UniqueConflict::Replace)])[0].clone();
    assert!(third.existing && third.id == second.id);
    let kept = fixture.put(vec![unique("4", UniqueConflict::Keep)])[0].clone();
    assert!(kept.existing && kept.id == second.id);
    fixture.restart();
    fixture.end(done(first.id, running.token)).unwrap();
    let next = fixture.get_one();
    assert_eq!(next.id, second.id);
    assert_eq!(&next.payload[..], b"3");
}

/// TASK-3: what does not run is cancelled at once, and an ended or unknown task is an error that changes nothing.
pub fn waiting_tasks_are_cancelled_at_once(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let ids: Vec<_> = fixture
        .put(vec![task("a"), task("a"), task("b")])
        .iter()
        .map(|accepted| accepted.id)
        .collect();
    let changed = block_on(
        fixture
            .queue()
            .cancel(Selection::Ids(vec![ids[0]]), "not wanted".to_owned()),
    )
    .unwrap();
    assert_eq!(changed[0].state, State::Cancelled);
    let refused = block_on(
        fixture
            .queue()
            .cancel(Selection::Ids(vec![ids[1], ids[0]]), String::new()),
    );
    assert!(
        matches!(refused, Err(Error::WrongState { .. })),
        "{refused:?}"
    );
    assert_eq!(fixture.state(ids[1]), State::Pending);
    let filter = Filter {
        kind: Some("a".into()),
        ..Filter::default()
    };
    let changed = block_on(
        fixture
            .queue()
            .cancel(Selection::Filter(filter, 100), String::new()),
    )
    .unwrap();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].id, ids[1]);
    assert_eq!(fixture.get_one().id, ids[2]);
}

/// TASK-3: who runs a task learns at its next heartbeat that it shall stop.
pub fn running_tasks_are_asked_to_stop(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let id = fixture.put_one(task("a"));
    let lease = fixture.get_one();
    block_on(
        fixture
            .queue()
            .cancel(Selection::Ids(vec![id]), String::new()),
    )
    .unwrap();
    assert!(fixture.look(id).cancel_requested);
    let beaten = block_on(fixture.queue().heartbeat(id, lease.token, Beat::default())).unwrap();
    assert!(beaten.cancelled);
    let mut end = failed(id, lease.token, true);
    end.error = None;
    assert_eq!(fixture.end(end).unwrap().state, State::Cancelled);
}

/// TASK-6: a class, a kind or everything can be paused and resumed.
pub fn paused_scopes_are_not_handed_out(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let a = fixture.put_one(task("a"));
    let mut other = task("b");
    other.head.class = "batch".into();
    let b = fixture.put_one(other);
    let queue = fixture.queue();
    for (scope, left) in [
        (Scope::Kind("a".into()), vec![b]),
        (Scope::Class("batch".into()), vec![a]),
        (Scope::All, vec![]),
    ] {
        assert!(block_on(queue.pause(scope.clone(), "me".to_owned())).unwrap());
        assert!(!block_on(queue.pause(scope.clone(), "me".to_owned())).unwrap());
        let leases = fixture.get(10);
        assert_eq!(
            leases.iter().map(|lease| lease.id).collect::<Vec<_>>(),
            left
        );
        for lease in leases {
            let mut end = done(lease.id, lease.token);
            end.outcome = None;
            fixture.end(end).unwrap();
        }
        assert!(block_on(queue.resume(scope)).unwrap());
    }
    assert_eq!(fixture.get(10).len(), 2);
}
