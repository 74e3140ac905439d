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

fn room(cpu: u32, gpu: u32) -> Room {
    Room {
        cpu_millis: Some(cpu),
        memory_bytes: None,
        resources: [("gpu".into(), gpu)].into(),
    }
}

fn gpus(count: u32) -> Head {
    let mut head = head("gpu");
    head.needs.resources = [("gpu".into(), count)].into();
    head
}

fn after(parent: TaskId, when: When) -> Head {
    Head {
        after: [Dependency { parent, when }].into(),
        ..head("child")
    }
}

fn unique(on_conflict: UniqueConflict) -> Head {
    Head {
        unique: Some(Box::new(Unique {
            key: "u".into(),
            on_conflict,
        })),
        ..head("a")
    }
}

fn every(seconds: u64, overlap: Overlap, missed: Missed, grace: u64) -> Head {
    Head {
        cron: Some(Box::new(Cron {
            expression: alloc::format!("{seconds}").into(),
            time_zone: "UTC".into(),
            overlap,
            missed,
            grace: secs(grace),
        })),
        ..head("cron")
    }
}

fn rule(name: &str) -> ClassRule {
    ClassRule {
        name: name.into(),
        priority: 4,
        shares: 100,
        concurrency: None,
        key_concurrency: None,
        key_observe: false,
        queue_limit: 1_000,
    }
}

/// TASK-4: a lease that ran out returns the task, the attempt counts, and the old token is refused; a heartbeat keeps it.
#[test]
fn a_lease_runs_out_unless_something_is_heard() {
    let mut bench = Bench::new();
    let id = bench.add(head("a"));
    let first = bench.one();
    bench.at(20.0);
    let beat = Command::Heartbeat {
        id,
        token: first.token,
        lease: Duration::ZERO,
        paused: None,
        stood: Duration::ZERO,
    };
    assert!(matches!(
        bench.apply(beat),
        Reply::Beaten {
            cancelled: false,
            ..
        }
    ));
    assert!(!bench.effects.writes(), "a heartbeat writes nothing");
    bench.at(49.0).tick();
    assert_eq!(bench.state(id), State::Running);
    bench.at(50.0).tick();
    assert_eq!(bench.state(id), State::Pending);
    assert_eq!(
        bench.record(id).attempts,
        Attempts {
            started: 1,
            counted: 1
        }
    );
    let stale = bench.try_apply(beat).unwrap_err();
    assert_eq!(
        stale,
        Refused::StaleToken {
            id,
            state: State::Pending
        }
    );
    let second = bench.one();
    assert!(second.token > first.token);
    assert_eq!(bench.finish(second, DONE), State::Completed);
}

/// TASK-4: the wall clock may jump a day either way: a leased task stays its lessee's.
#[test]
fn the_wall_clock_takes_no_lease_away() {
    for jump in [-86_400.0, 86_400.0] {
        let mut bench = Bench::new();
        let id = bench.add(head("a"));
        let granted = bench.one();
        let wall = at(86_400.0 + 10.0 + jump).wall;
        bench.now = Now {
            mono: at(10.0).mono,
            wall: wall.saturating_sub(secs(86_400)),
        };
        bench.tick();
        assert!(bench.lease(1).is_empty());
        assert_eq!(bench.state(id), State::Running);
        assert_eq!(bench.finish(granted, DONE), State::Completed);
    }
}

/// TASK-4: after a clean end leases go on; after a crash they are void, and the attempt counts. TASK-7: who kills the process each time is
/// dead after its attempts.
#[test]
fn restarts_honour_or_fence_leases() {
    let mut bench = Bench::new();
    let id = bench.add(head("a"));
    let granted = bench.one();
    let reopen = |bench: &Bench, opening| {
        let mut queue = Queue::new(Settings::default(), Box::new(Every));
        queue.restore(id, &bench.queue.head(id).unwrap(), &bench.record(id));
        let mut effects = Effects::default();
        queue.opened(at(100.0), opening, &mut effects);
        queue.check();
        Bench {
            queue,
            now: at(100.0),
            effects,
        }
    };
    let mut clean = reopen(&bench, Opening::Clean { epoch: 2 });
    assert!(clean.lease(1).is_empty());
    assert_eq!(clean.finish(granted, DONE), State::Completed);
    let mut crashed = reopen(&bench, Opening::Crashed { epoch: 2 });
    assert_eq!(crashed.state(id), State::Pending);
    for crash in 2..=3 {
        let granted = crashed.one();
        assert_eq!(granted.attempts.counted, crash - 1);
        crashed = reopen(&crashed, Opening::Crashed { epoch: crash + 1 });
    }
    assert_eq!(crashed.state(id), State::Dead);
    assert_eq!(crashed.record(id).reason, Some(Reason::Crashed));
}

/// TASK-7, TASK-10: of many tasks that run when the process dies, again and again, the one that kills it ends as a dead letter; the others, which run
/// on for as long as it lets them, do not, wherever it stands among them.
#[test]
fn a_crash_loop_takes_nobody_along() {
    const TASKS: usize = 9;
    for deadly in 0..TASKS {
        let mut bench = Bench::new();
        let ids: Vec<TaskId> = (0..TASKS).map(|_| bench.add(head("a"))).collect();
        let mut crashes = 0;
        while bench.state(ids[deadly]) != State::Dead {
            // Everything that is ready runs, and works on, until the deadly one has run.
            let running = bench.lease(TASKS as u32);
            if !running.iter().any(|granted| granted.id == ids[deadly]) {
                bench.now = at((bench.now.mono.as_nanos() as f64 + 1e9) / 1e9);
                bench.apply(Command::Tick);
                continue;
            }
            crashes += 1;
            assert!(crashes <= 3);
            let mut queue = Queue::new(Settings::default(), Box::new(Every));
            for id in &ids {
                queue.restore(*id, &bench.queue.head(*id).unwrap(), &bench.record(*id));
            }
            bench.effects.clear();
            let epoch = crashes + 1;
            queue.opened(bench.now, Opening::Crashed { epoch }, &mut bench.effects);
            queue.check();
            bench.queue = queue;
        }
        assert_eq!(crashes, 3);
        for id in ids.iter().filter(|id| **id != ids[deadly]) {
            assert!(
                !bench.state(*id).is_terminal(),
                "{deadly} took {id:?} along"
            );
        }
    }
}

/// TASK-7: drain and preemption cost no attempt, and the task comes first again.
#[test]
fn a_returned_task_has_lost_nothing() {
    let mut bench = Bench::new();
    let first = bench.add(head("a"));
    bench.add(head("a"));
    for _ in 0..10 {
        let granted = bench.one();
        assert_eq!(granted.id, first);
        assert_eq!(granted.attempts.counted, 0);
        assert_eq!(bench.finish(granted, None), State::Pending);
    }
    assert_eq!(bench.record(first).attempts.started, 10);
}

/// TASK-7: `Retry-After` is respected, and errors that are not retryable are not retried.
#[test]
fn who_fails_says_whether_and_when_to_come_back() {
    let mut bench = Bench::new();
    let id = bench.add(head("a"));
    let granted = bench.one();
    let outcome = Outcome::Failed {
        reason: Reason::Error,
        retryable: true,
        after: Some(secs(100)),
    };
    assert_eq!(bench.finish(granted, Some(outcome)), State::Scheduled);
    bench.at(99.0).tick();
    assert_eq!(bench.state(id), State::Scheduled);
    bench.at(100.0);
    let granted = bench.one();
    let outcome = Outcome::Failed {
        reason: Reason::Panicked,
        retryable: false,
        after: None,
    };
    assert_eq!(bench.finish(granted, Some(outcome)), State::Failed);
    assert_eq!(bench.record(id).reason, Some(Reason::Panicked));
}

/// TASK-7: a wait before the next attempt may be ended early, by who knows for which attempt it was.
#[test]
fn waits_end_early_for_who_knows_them() {
    let mut bench = Bench::new();
    let id = bench.add(head("a"));
    let returned = Some(Outcome::Returned { after: secs(100) });
    let call_back = |bench: &mut Bench, started| match bench.apply(Command::CallBack {
        waits: &[(TaskId(77), 1), (id, started), (id, started)],
    }) {
        Reply::Changed(ids) => ids,
        other => panic!("{other:?}"),
    };
    assert!(call_back(&mut bench, 0).is_empty(), "it does not wait");
    let granted = bench.one();
    assert!(call_back(&mut bench, 1).is_empty(), "it runs");
    assert_eq!(bench.finish(granted, returned), State::Scheduled);
    assert_eq!(call_back(&mut bench, 1), [id]);
    assert_eq!(bench.state(id), State::Pending);
    assert!(bench.effects.ready && bench.record(id).backoff.is_none());
    let granted = bench.one();
    bench.finish(granted, returned);
    assert!(call_back(&mut bench, 1).is_empty(), "it was started since");
    assert!(bench.queue.next_deadline().0.is_some());
    let many = [(id, 2); 1_001];
    let refused = bench.try_apply(Command::CallBack { waits: &many });
    assert!(matches!(refused, Err(Refused::Request { .. })));
    assert_eq!(bench.state(id), State::Scheduled);
}

/// TASK-7: retries are at most a fifth of the calls, and three a second beside; who cannot be afforded waits and is not given up.
#[test]
fn retries_are_a_fifth_of_calls() {
    let mut bench = Bench::with(Settings {
        max_tasks: 10_000,
        ..Settings::default()
    });
    let mut failing = head("a");
    failing.retry = RetryPolicy {
        max_attempts: 1_000,
        base: Duration::ZERO,
        cap: Duration::ZERO,
    };
    for _ in 0..100 {
        bench.add(failing.clone());
    }
    let mut starts = 0;
    loop {
        let granted = bench.lease(10);
        if granted.is_empty() {
            break;
        }
        starts += granted.len();
        for granted in granted {
            assert_eq!(bench.finish(granted, FAILED), State::Pending);
        }
    }
    assert_eq!(starts, 100 + 20 + 3);
    let why = bench.queue.why(TaskId(100), bench.now.mono).unwrap();
    assert_eq!(why, [Waiting::RetryBudget]);
    let (at, _) = bench.queue.next_deadline();
    bench.now.mono = at.unwrap();
    assert_eq!(bench.lease(10).len(), 1);
}

/// CPU-30: a budget that observes lets retries be made, and counts those that would have waited.
#[test]
fn an_observing_budget_of_retries_lets_all_be_made() {
    let mut bench = Bench::with(Settings {
        retry_observe: true,
        ..Settings::default()
    });
    bench.add(Head {
        retry: RetryPolicy {
            max_attempts: 1_000,
            base: Duration::ZERO,
            cap: Duration::ZERO,
        },
        ..head("a")
    });
    for _ in 0..50 {
        let granted = bench.lease(10);
        assert_eq!(granted.len(), 1);
        assert_eq!(bench.finish(granted[0], FAILED), State::Pending);
    }
    // The first is no retry, three are free.
    assert_eq!(bench.queue.figures().retry_excess, 46);
}

/// TASK-5: children wait for the outcome they named; a parent that is being retried has not failed; the rest is skipped or fails.
#[test]
fn children_follow_their_parents_ends() {
    let mut bench = Bench::new();
    let parent = bench.add(head("parent"));
    let good = bench.add(after(parent, When::Success));
    let bad = bench.add(after(parent, When::Failure));
    let any = bench.add(after(parent, When::Any));
    let strict = bench.add(Head {
        on_parent_failure: OnParentFailure::Fail,
        ..after(parent, When::Success)
    });
    let grandchild = bench.add(after(good, When::Success));
    let all = [good, bad, any, strict, grandchild];
    let states = |bench: &Bench| all.map(|id| bench.state(id));
    for wait in [0.0, 100.0] {
        bench.at(wait);
        let granted = bench.one();
        assert_eq!(granted.id, parent);
        assert_eq!(states(&bench), [State::Blocked; 5]);
        assert_eq!(bench.finish(granted, FAILED), State::Scheduled);
        assert_eq!(states(&bench), [State::Blocked; 5]);
    }
    bench.at(200.0);
    let granted = bench.one();
    assert_eq!(bench.finish(granted, FAILED), State::Dead);
    use State::{Failed, Pending, Skipped};
    assert_eq!(states(&bench), [Skipped, Pending, Pending, Failed, Skipped]);
    assert_eq!(bench.record(strict).reason, Some(Reason::Parent));
    // An end that was there before counts as one that comes.
    assert_eq!(
        bench.try_add(&[after(parent, When::Any)]).unwrap()[0].state,
        Pending
    );
    assert_eq!(
        bench.try_add(&[after(parent, When::Success)]).unwrap()[0].state,
        Skipped
    );
}

/// TASK-5: circles, unknown parents and a task's own name are refused, with the place.
#[test]
fn what_is_no_dag_is_refused() {
    let mut bench = Bench::new();
    let one = head("a");
    let mut refused = |parents: &[&[(usize, When)]]| {
        let tasks: Vec<Entering<'_>> = parents
            .iter()
            .map(|parents| Entering {
                head: &one,
                parents,
            })
            .collect();
        let command = Command::Enqueue {
            tasks: &tasks,
            idempotency: None,
        };
        match bench.try_apply(command) {
            Err(Refused::Invalid(invalid)) => (invalid.index, invalid.field),
            other => panic!("{other:?}"),
        }
    };
    let any = When::Any;
    assert_eq!(refused(&[&[(0, any)]]), (0, "after".into()));
    assert_eq!(
        refused(&[&[], &[(2, any)], &[(1, any)]]),
        (1, "after".into())
    );
    assert_eq!(refused(&[&[(7, any)]]), (0, "after".into()));
    assert_eq!(refused(&[&[], &[(0, any), (0, any)]]), (1, "after".into()));
    let unknown = bench.try_add(&[after(TaskId(9), any)]);
    assert!(matches!(unknown, Err(Refused::Invalid(i)) if &*i.field == "after[0]"));
    assert_eq!(bench.queue.live(), 0);
}

/// TASK-5: a group closes with counts when all of its tasks have ended, and starts one last task.
#[test]
fn a_group_closes_and_starts_its_last_task() {
    let mut bench = Bench::new();
    let member = Head {
        group: Some("g".into()),
        ..head("member")
    };
    let last = |when| Head {
        after_group: Some(Box::new(GroupEnd {
            group: "g".into(),
            when,
        })),
        ..head("last")
    };
    let unknown = bench.try_add(&[last(When::Any)]);
    assert!(matches!(unknown, Err(Refused::Invalid(_))));
    bench.try_add(&[member.clone(), member.clone()]).unwrap();
    let any = bench.add(last(When::Any));
    let good = bench.add(last(When::Success));
    let circle = bench.try_add(&[Head {
        group: Some("g".into()),
        ..after(any, When::Any)
    }]);
    assert!(matches!(circle, Err(Refused::Invalid(i)) if &*i.field == "group"));
    let first = bench.one();
    bench.finish(first, DONE);
    assert_eq!(bench.state(any), State::Blocked);
    let why = bench.queue.why(any, bench.now.mono).unwrap();
    let open = Waiting::Group {
        name: "g".into(),
        open: 1,
    };
    assert_eq!(why, [open]);
    bench.apply(Command::Cancel {
        ids: &[TaskId(2)],
        strict: true,
    });
    assert_eq!(bench.effects.closed[0].ended, [1, 0, 1, 0, 0]);
    assert_eq!(bench.state(any), State::Pending);
    assert_eq!(bench.state(good), State::Skipped);
}

/// TASK-4: a repeated request is answered as before; the same key with another body is refused; keys are kept as long as their tasks.
#[test]
fn a_repeated_request_is_answered_as_before() {
    let mut bench = Bench::with(Settings {
        max_ended: 0,
        max_idempotency: 1,
        ..Settings::default()
    });
    let task = head("a");
    let send = |bench: &mut Bench, key, body| {
        let tasks = [Entering {
            head: &task,
            parents: &[],
        }];
        bench.try_apply(Command::Enqueue {
            tasks: &tasks,
            idempotency: Some(RequestKey {
                key,
                fingerprint: [body; 32],
            }),
        })
    };
    let Ok(Reply::Accepted(first)) = send(&mut bench, "k", 1) else {
        panic!("accepted")
    };
    bench.at(5.0);
    let Ok(Reply::Accepted(again)) = send(&mut bench, "k", 1) else {
        panic!("accepted")
    };
    assert_eq!(
        (again[0].id, again[0].created_at),
        (first[0].id, first[0].created_at)
    );
    assert!(again[0].existing && !first[0].existing);
    assert_eq!(send(&mut bench, "k", 2), Err(Refused::KeyReused));
    assert!(matches!(
        send(&mut bench, "l", 1),
        Err(Refused::Full { .. })
    ));
    let granted = bench.one();
    bench.finish(granted, DONE);
    bench.tick();
    assert_eq!(bench.queue.state(first[0].id), None, "forgotten");
    assert!(matches!(send(&mut bench, "l", 1), Ok(Reply::Accepted(_))));
}

/// TASK-14: at most one runs and one waits for a unique key, the one that waits with the newest payload.
#[test]
fn one_runs_and_one_waits_for_a_unique_key() {
    let mut bench = Bench::new();
    let first = bench.add(unique(UniqueConflict::Keep));
    let granted = bench.one();
    let second = bench.add(unique(UniqueConflict::Keep));
    assert_ne!(first, second);
    assert!(bench.lease(5).is_empty());
    let why = bench.queue.why(second, bench.now.mono).unwrap();
    assert_eq!(why[0], Waiting::Unique { by: first });
    let kept = bench.try_add(&[unique(UniqueConflict::Keep)]).unwrap()[0];
    assert_eq!((kept.id, kept.existing), (second, true));
    assert!(!bench.effects.writes());
    let newer = Head {
        priority: 7,
        ..unique(UniqueConflict::Replace)
    };
    assert_eq!(bench.try_add(&[newer]).unwrap()[0].id, second);
    let swapped = Placed {
        id: second,
        body: Body::Batch(0),
    };
    assert_eq!(bench.effects.swapped, [swapped]);
    assert_eq!(bench.queue.head(second).unwrap().priority, 7);
    // Through all of its attempts the one that started holds the key.
    bench.finish(granted, FAILED);
    assert!(bench.lease(5).is_empty());
    bench.at(10.0);
    let granted = bench.one();
    assert_eq!(granted.id, first);
    bench.finish(granted, DONE);
    assert_eq!(bench.one().id, second);
}

/// TASK-14: extending moves the start of the one that waits.
#[test]
fn extending_debounces() {
    let mut bench = Bench::new();
    let mut debounced = unique(UniqueConflict::Extend);
    debounced.not_before = Some(at(10.0).wall);
    let id = bench.add(debounced.clone());
    bench.at(8.0);
    debounced.not_before = Some(at(18.0).wall);
    assert_eq!(bench.add(debounced), id);
    bench.at(17.0);
    assert!(bench.lease(1).is_empty());
    bench.at(18.0);
    assert_eq!(bench.one().id, id);
}

/// TASK-15: a tick makes a task; while the last run goes on it is skipped with an event, waits, or takes the run's place.
#[test]
fn ticks_meet_the_last_run_as_asked() {
    for (overlap, running, made) in [
        (Overlap::Skip, State::Running, 1),
        (Overlap::Queue, State::Running, 2),
        (Overlap::Replace, State::Running, 2),
    ] {
        let mut bench = Bench::new();
        let entry = bench.add(every(10, overlap, Missed::Skip, 5));
        assert_eq!(bench.state(entry), State::Scheduled);
        bench.at(10.0).tick();
        let placed = bench.effects.added[0];
        assert_eq!(placed.body, Body::Copy(entry));
        assert_eq!(bench.record(placed.id).cron_of, Some(entry));
        assert!(!bench.tick(), "one start a tick");
        let granted = bench.one();
        bench.at(20.0).tick();
        assert_eq!(bench.state(granted.id), running);
        assert_eq!(bench.queue.live() - 1, made);
        let skipped = Cause::TickOverlapped(at(20.0).wall);
        let said = bench
            .effects
            .events
            .iter()
            .any(|event| event.cause == skipped);
        assert_eq!(said, overlap == Overlap::Skip);
        assert!(bench.lease(5).is_empty(), "no two at once");
        let end = bench.finish(granted, FAILED);
        match overlap {
            Overlap::Replace => {
                assert_eq!(end, State::Cancelled);
                assert_eq!(bench.record(granted.id).reason, Some(Reason::Replaced));
                assert_eq!(bench.lease(5).len(), 1);
            }
            _ => assert_eq!(end, State::Scheduled),
        }
    }
}

/// TASK-15: ticks at which nobody was there are left out, made up once, or each; never twice when the wall clock goes back.
#[test]
fn missed_ticks_are_made_up_as_asked() {
    for (missed, made) in [(Missed::Skip, 1), (Missed::Once, 2), (Missed::All, 10)] {
        let mut bench = Bench::new();
        bench.add(every(10, Overlap::Queue, missed, 5));
        // The last of ten ticks is in time.
        bench.at(100.0).tick();
        assert_eq!(bench.queue.live() - 1, made, "{missed:?}");
        let mono = bench.now.mono;
        bench.at(0.0);
        bench.now.mono = mono;
        bench.tick();
        bench.at(100.0).tick();
        assert_eq!(bench.queue.live() - 1, made, "none twice");
    }
    // A year of seconds costs no more than a hundred.
    let mut bench = Bench::new();
    bench.add(every(1, Overlap::Queue, Missed::All, 0));
    bench.at(366.0 * 86_400.0).tick();
    assert_eq!(bench.queue.live() - 1, 100);
    let (_, next) = bench.queue.next_deadline();
    assert!(next.unwrap() >= bench.now.wall);
}

/// TASK-3: what must not start before, must have started by.
#[test]
fn not_before_and_deadline_follow_the_wall() {
    let mut bench = Bench::new();
    let mut timed = head("a");
    timed.not_before = Some(at(10.0).wall);
    timed.deadline = Some(at(20.0).wall);
    let started = bench.add(timed.clone());
    let missed = bench.add(timed);
    assert_eq!(bench.queue.next_deadline().1, Some(at(10.0).wall));
    assert!(bench.lease(1).is_empty());
    bench.at(10.0);
    assert_eq!(bench.one().id, started);
    bench.at(20.0).tick();
    assert_eq!(bench.state(started), State::Running);
    assert_eq!(bench.record(missed).reason, Some(Reason::DeadlineMissed));
    assert_eq!(bench.state(missed), State::Failed);
}

/// TASK-11: time paused does not count for timeouts; a lease does not outlast the timeout by more than the grace.
#[test]
fn time_paused_does_not_count() {
    let mut bench = Bench::new();
    let id = bench.add(Head {
        timeout: Some(secs(20)),
        ..head("a")
    });
    let granted = bench.one();
    let beat = |paused| Command::Heartbeat {
        id,
        token: granted.token,
        lease: secs(1_000),
        paused,
        stood: Duration::ZERO,
    };
    bench.at(10.0).apply(beat(Some(true)));
    assert_eq!(bench.state(id), State::Paused);
    bench.at(500.0).apply(beat(Some(false)));
    // Ten seconds are left, and the grace.
    bench.at(539.0).apply(beat(None));
    assert_eq!(bench.state(id), State::Running);
    bench.at(540.0).tick();
    assert_eq!(bench.record(id).reason, Some(Reason::TimedOut));
}

/// CPU-20: time in which a task stood still by turns does not count for its timeout, however long that is; what it ran does.
#[test]
fn time_stood_still_does_not_count() {
    let mut bench = Bench::new();
    let id = bench.add(Head {
        timeout: Some(secs(20)),
        ..head("a")
    });
    let granted = bench.one();
    let beat = |stood| Command::Heartbeat {
        id,
        token: granted.token,
        lease: secs(30),
        paused: None,
        stood: secs(stood),
    };
    // A fiftieth of the time is its own.
    for now in (10..=900).step_by(10) {
        bench.at(f64::from(now)).apply(beat(now as u64 * 49 / 50));
        assert_eq!(bench.state(id), State::Running, "after {now} s");
    }
    // Nothing else is told: it runs since. Two seconds are left, and the grace.
    bench.at(929.0).apply(beat(0));
    bench.at(931.0).apply(beat(0));
    assert_eq!(bench.state(id), State::Running);
    bench.at(932.0).tick();
    assert_eq!(bench.record(id).reason, Some(Reason::TimedOut));
}

/// TASK-17: who does not fit lets others go first; once it has been passed over for long, nobody else is given what it lacks.
#[test]
fn others_do_not_wait_behind_what_does_not_fit_and_it_does_not_starve() {
    let mut bench = Bench::new();
    let idle = room(8_000, 2);
    assert!(bench.lease_with(10, Some(&idle)).is_empty());
    let small = bench.add(gpus(1));
    let held = bench.lease_with(1, Some(&idle));
    assert_eq!(held[0].id, small);
    let big = bench.add(gpus(2));
    let huge = bench.add(gpus(3));
    let other = bench.add(gpus(1));
    let one_left = room(8_000, 1);
    assert_eq!(bench.lease_with(10, Some(&one_left))[0].id, other);
    let why = bench.queue.why(big, bench.now.mono).unwrap();
    let lacks = Waiting::Resource {
        name: "gpu".into(),
        needs: 2,
        free: 1,
        total: 2,
    };
    assert_eq!(why, [lacks]);
    bench.at(29.0);
    let third = bench.add(gpus(1));
    assert_eq!(bench.lease_with(10, Some(&one_left))[0].id, third);
    bench.at(31.0);
    bench.add(gpus(1));
    let plain = bench.add(head("plain"));
    let granted = bench.lease_with(10, Some(&one_left));
    assert_eq!(granted.len(), 1, "what it does not lack is given");
    assert_eq!(granted[0].id, plain);
    let granted = bench.lease_with(1, Some(&idle));
    assert_eq!(granted[0].id, big);
    assert_eq!(
        bench.state(huge),
        State::Pending,
        "there never was room for it"
    );
}

/// TASK-6, TASK-16: pauses of everything, a class and a kind; each is named, and survives.
#[test]
fn what_is_paused_is_not_handed_out() {
    for scope in [
        Scope::All,
        Scope::Class("normal".into()),
        Scope::Kind("a".into()),
    ] {
        let mut bench = Bench::new();
        let pause = Command::Pause {
            scope: &scope,
            by: "me",
        };
        assert_eq!(bench.apply(pause), Reply::Done(true));
        assert!(matches!(&bench.effects.meta[..], [MetaChange::Pause(s, Some(_))] if *s == scope));
        assert_eq!(bench.apply(pause), Reply::Done(false));
        let id = bench.add(head("a"));
        assert!(bench.lease(1).is_empty());
        let why = bench.queue.why(id, bench.now.mono).unwrap();
        assert_eq!(why, [Waiting::Paused(scope.clone())]);
        assert_eq!(
            bench.apply(Command::Resume { scope: &scope }),
            Reply::Done(true)
        );
        assert!(bench.effects.ready);
        assert_eq!(bench.one().id, id);
    }
}

/// TASK-16: that nobody takes a kind is said.
#[test]
fn what_nobody_takes_is_known() {
    let mut bench = Bench::new();
    let id = bench.add(head("rare"));
    let since = at(0.0).wall;
    let why = |bench: &Bench| bench.queue.why(id, bench.now.mono).unwrap();
    assert_eq!(why(&bench), [Waiting::NobodyTakes { since }]);
    assert_eq!(
        bench.queue.untaken(bench.now.mono),
        [("rare", Via::Handler, since, 1)]
    );
    bench.add(Head {
        priority: 1,
        ..head("rare")
    });
    bench.one();
    assert_eq!(why(&bench), [Waiting::Turn { ahead: 0 }]);
    bench.at(61.0).tick();
    assert!(matches!(why(&bench)[0], Waiting::NobodyTakes { .. }));
}

/// TASK-3: limits of a class and of its fairness keys hold, and are given as reasons.
#[test]
fn classes_and_keys_have_limits() {
    let mut bench = Bench::new();
    bench.queue.set_classes(&[ClassRule {
        concurrency: Some(3),
        key_concurrency: Some(2),
        ..rule("normal")
    }]);
    for key in ["a", "a", "a", "b", "b"] {
        bench.add(Head {
            key: Some(key.into()),
            ..head("k")
        });
    }
    let granted = bench.lease(10);
    let ids: Vec<u64> = granted.iter().map(|granted| granted.id.0).collect();
    assert_eq!(ids, [1, 4, 2]);
    let why = bench.queue.why(TaskId(3), bench.now.mono).unwrap();
    let class = Waiting::ClassLimit {
        running: 3,
        limit: 3,
    };
    let key = Waiting::KeyLimit {
        running: 2,
        limit: 2,
    };
    assert_eq!(why, [class, key]);
    bench.finish(granted[1], DONE);
    assert_eq!(bench.ids(10), [5], "the key is full still");
    bench.finish(granted[0], DONE);
    assert_eq!(bench.ids(10), [3]);
}

/// CPU-30: limits of keys that observe hold nobody, are no reason to wait, and count what began beyond them.
#[test]
fn observing_limits_of_keys_hold_nobody() {
    let mut bench = Bench::new();
    let holding = ClassRule {
        key_concurrency: Some(1),
        ..rule("normal")
    };
    bench.queue.set_classes(core::slice::from_ref(&holding));
    for _ in 0..4 {
        bench.add(Head {
            key: Some("a".into()),
            ..head("k")
        });
    }
    assert_eq!(bench.ids(10), [1]);
    assert_eq!(bench.queue.figures().key_excess, 0);
    let observing = ClassRule {
        key_observe: true,
        ..holding.clone()
    };
    bench.queue.set_classes(&[observing]);
    assert_eq!(bench.ids(2), [2, 3]);
    let why = bench.queue.why(TaskId(4), bench.now.mono).unwrap();
    assert!(
        !why.iter()
            .any(|waiting| matches!(waiting, Waiting::KeyLimit { .. }))
    );
    assert_eq!(bench.queue.figures().key_excess, 2);
    bench.queue.set_classes(&[holding]);
    assert!(bench.ids(10).is_empty());
}

/// TASK-3: classes share by weight.
#[test]
fn classes_share_by_weight() {
    let mut bench = Bench::new();
    let classes = [("one", 100), ("three", 300)].map(|(name, shares)| ClassRule {
        shares,
        ..rule(name)
    });
    bench.queue.set_classes(&classes);
    for _ in 0..80 {
        for class in ["one", "three"] {
            bench.add(Head {
                class: class.into(),
                ..head("k")
            });
        }
    }
    let mut counts = [0; 2];
    for _ in 0..80 {
        let granted = bench.one();
        let class = bench.queue.names(granted.id).unwrap().1;
        counts[usize::from(class == "three")] += 1;
        bench.now.mono = bench.now.mono.saturating_add(Duration::from_millis(100));
        bench.finish(granted, DONE);
    }
    assert!((19..=21).contains(&counts[0]), "{counts:?}");
}

/// TASK-6: beyond the bounds of all and of a class tasks are refused, whole batches at once, and ended ones are forgotten.
#[test]
fn the_queue_is_bounded() {
    let mut bench = Bench::with(Settings {
        max_tasks: 5,
        max_ended: 2,
        retention: secs(100),
        ..Settings::default()
    });
    bench.queue.set_classes(&[ClassRule {
        queue_limit: 3,
        ..rule("normal")
    }]);
    let four: Vec<Head> = (0..4).map(|_| head("a")).collect();
    assert!(matches!(bench.try_add(&four), Err(Refused::Full { .. })));
    assert_eq!(bench.queue.live(), 0);
    bench.try_add(&four[..3]).unwrap();
    let granted = bench.lease(3);
    bench.try_add(&four[..2]).unwrap();
    let full = bench.try_add(&four[..1]).unwrap_err();
    assert!(matches!(full, Refused::Full { .. }), "{full}");
    assert_eq!(bench.queue.figures().refused, 2);
    for granted in granted {
        bench.finish(granted, DONE);
    }
    bench.tick();
    assert_eq!(bench.effects.removed, [TaskId(1)]);
    assert_eq!(bench.effects.meta, [MetaChange::LastId(TaskId(5))]);
    bench.at(100.0).tick();
    assert_eq!(bench.effects.removed, [TaskId(2), TaskId(3)]);
    assert_eq!(bench.queue.state(TaskId(2)), None);
}

/// TASK-3: cancelling takes what waits at once, and tells what runs; all or nothing where asked.
#[test]
fn what_runs_is_told_that_it_shall_stop() {
    let mut bench = Bench::new();
    let running = bench.add(head("a"));
    let granted = bench.one();
    let waiting = bench.add(head("a"));
    let cancel = |ids, strict| Command::Cancel { ids, strict };
    let one_unknown = [waiting, TaskId(77)];
    let unknown = bench.try_apply(cancel(&one_unknown, true));
    assert_eq!(unknown, Err(Refused::UnknownTask { id: TaskId(77) }));
    assert_eq!(bench.state(waiting), State::Pending);
    let both = [running, TaskId(77), waiting];
    assert_eq!(
        bench.apply(cancel(&both, false)),
        Reply::Changed([running, waiting].into())
    );
    assert_eq!(bench.state(waiting), State::Cancelled);
    assert_eq!(bench.state(running), State::Running);
    assert!(bench.record(running).cancel_requested);
    let beat = bench.apply(Command::Heartbeat {
        id: running,
        token: granted.token,
        lease: Duration::ZERO,
        paused: None,
        stood: Duration::ZERO,
    });
    assert!(matches!(
        beat,
        Reply::Beaten {
            cancelled: true,
            ..
        }
    ));
    assert_eq!(bench.finish(granted, FAILED), State::Cancelled);
}

/// TASK-5: a parent with many children tells them in parts, and none is left out.
#[test]
fn many_children_are_told_in_parts() {
    let mut bench = Bench::new();
    let parent = bench.add(head("parent"));
    let children: Vec<Head> = (0..500).map(|_| after(parent, When::Success)).collect();
    for _ in 0..5 {
        bench.try_add(&children).unwrap();
    }
    let granted = bench.one();
    bench.finish(granted, DONE);
    let blocked = |bench: &Bench| bench.queue.figures().by_state[State::Blocked as usize];
    assert_eq!(blocked(&bench), 1_500);
    assert_eq!(
        bench.queue.next_deadline().0,
        Some(Timestamp::from_nanos(0))
    );
    bench.tick();
    bench.tick();
    assert_eq!(blocked(&bench), 0);
    // One after the other: the parent of a removed one is pruned.
    let parent = bench.add(head("parent"));
    for _ in 0..300 {
        let id = bench.add(after(parent, When::Success));
        bench.apply(Command::Cancel {
            ids: &[id],
            strict: true,
        });
    }
    let slot = bench.queue.index.get(parent).unwrap();
    let known = bench.queue.tasks[slot]
        .extra
        .as_ref()
        .unwrap()
        .children
        .len();
    assert!(known <= 66, "{known}");
}

/// TASK-3: what is out of range is refused with its field, and changes nothing.
#[test]
fn faulty_heads_are_refused() {
    type Fault = fn(&mut Head);
    let cases: [(&str, Fault); 14] = [
        ("kind", |head| head.kind = "".into()),
        ("kind", |head| head.kind = "a\n".into()),
        ("class", |head| head.class = "c".repeat(65).into()),
        ("key", |head| head.key = Some("".into())),
        ("retry.max_attempts", |head| head.retry.max_attempts = 0),
        ("retry.base", |head| head.retry.base = Duration::MAX),
        ("timeout", |head| head.timeout = Some(Duration::ZERO)),
        ("deadline", |head| {
            head.not_before = Some(at(9.0).wall);
            head.deadline = Some(at(9.0).wall);
        }),
        ("needs.resources.gpu", |head| {
            head.needs.resources = [("gpu".into(), 0)].into();
        }),
        ("needs.resources.a", |head| {
            head.needs.resources = [("b".into(), 1), ("a".into(), 1)].into();
        }),
        ("unique.key", |head| {
            *head = unique(UniqueConflict::Keep);
            head.unique.as_mut().unwrap().key = "".into();
        }),
        ("cron", |head| {
            *head = every(0, Overlap::Skip, Missed::Skip, 0);
        }),
        ("group", |head| {
            *head = every(1, Overlap::Skip, Missed::Skip, 0);
            head.group = Some("g".into());
        }),
        ("after_group.group", |head| {
            head.group = Some("g".into());
            head.after_group = Some(Box::new(GroupEnd {
                group: "g".into(),
                when: When::Any,
            }));
        }),
    ];
    for (field, change) in cases {
        let mut bench = Bench::new();
        let mut faulty = head("a");
        change(&mut faulty);
        match bench.try_add(&[head("a"), faulty]) {
            Err(Refused::Invalid(invalid)) => {
                assert_eq!((invalid.index, &*invalid.field), (1, field));
            }
            other => panic!("{field}: {other:?}"),
        }
        assert_eq!(bench.queue.live(), 0);
    }
}
