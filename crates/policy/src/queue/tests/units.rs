//! Rule by rule.

use super::*;

/// TASK-4: a lease is one lessee's, and its end is acknowledged once.
#[test]
fn a_task_goes_from_pending_to_completed() {
    let mut bench = Bench::new();
    let id = bench.add(head("a"));
    assert_eq!(bench.state(id), State::Pending);
    let granted = bench.one();
    assert_eq!(granted.id, id);
    assert_eq!(bench.state(id), State::Running);
    assert!(bench.lease(10).is_empty());
    assert_eq!(bench.finish(granted, DONE), State::Completed);
    let again = bench.try_apply(Command::Finish {
        id,
        token: granted.token,
        outcome: DONE,
    });
    assert_eq!(
        again,
        Err(Refused::StaleToken {
            id,
            state: State::Completed
        })
    );
}

/// TASK-7, TASK-10: attempts are limited, waits are within the backoff's bounds, and who has none left is a dead letter.
#[test]
fn failures_are_retried_with_growing_waits_until_the_task_is_dead() {
    let mut bench = Bench::new();
    let id = bench.add(head("a"));
    let first = bench.one();
    assert_eq!(bench.finish(first, FAILED), State::Scheduled);
    let record = bench.record(id);
    assert!(record.backoff.unwrap() <= secs(1));
    assert_eq!(
        record.attempts,
        Attempts {
            started: 1,
            counted: 1
        }
    );
    bench.at(1.1).tick();
    let second = bench.one();
    assert!(second.token > first.token);
    assert_eq!(bench.finish(second, FAILED), State::Scheduled);
    assert!(bench.record(id).backoff.unwrap() <= secs(2));
    bench.at(4.0);
    let third = bench.one();
    assert_eq!(bench.finish(third, FAILED), State::Dead);
    assert_eq!(bench.record(id).reason, Some(Reason::Error));
    let changed = bench.apply(Command::Retry {
        ids: &[id],
        strict: true,
    });
    assert_eq!(changed, Reply::Changed([id].into()));
    let fourth = bench.one();
    assert_eq!(
        fourth.attempts,
        Attempts {
            started: 4,
            counted: 0
        }
    );
}

/// TASK-3: in a class higher priorities go first, then keys in turn, then who came first.
#[test]
fn priority_then_keys_in_turn_then_order() {
    let mut bench = Bench::new();
    for (priority, key) in [(0, "a"), (0, "a"), (0, "b"), (0, "b"), (5, "a")] {
        bench.add(Head {
            priority,
            key: Some(key.into()),
            ..head("k")
        });
    }
    assert_eq!(bench.ids(10), [5, 3, 1, 4, 2]);
}
