//! What clients may do to others, by much or by odd use: nobody is starved, nothing grows without bound, no command does all the work there is.

use super::*;

fn unique(key: &str, on_conflict: UniqueConflict) -> Head {
    Head {
        unique: Some(Box::new(Unique {
            key: key.into(),
            on_conflict,
        })),
        ..head("a")
    }
}

fn of_class(class: &str) -> Head {
    Head {
        class: class.into(),
        ..head("a")
    }
}

fn after(parent: TaskId) -> Head {
    Head {
        after: [Dependency {
            parent,
            when: When::Success,
        }]
        .into(),
        ..head("child")
    }
}

fn rule(name: &str, shares: u32) -> ClassRule {
    ClassRule {
        name: name.into(),
        priority: 4,
        shares,
        concurrency: None,
        key_concurrency: None,
        key_observe: false,
        queue_limit: 10_000,
    }
}

/// How many of so many starts, each of ten seconds, are a class's.
fn starts(bench: &mut Bench, class: &str, of: usize) -> usize {
    (0..of)
        .filter(|_| {
            let granted = bench.one();
            let its = bench.queue.names(granted.id).unwrap().1 == class;
            bench.now.mono = bench.now.mono.saturating_add(secs(10));
            bench.finish(granted, DONE);
            its
        })
        .count()
}

/// TASK-3: a class that could not start anything for long does not shut the others out when it can.
#[test]
fn a_pause_saves_no_time_up() {
    let mut bench = Bench::new();
    bench
        .queue
        .set_classes(&[rule("one", 100), rule("two", 100)]);
    for _ in 0..200 {
        bench.add(of_class("one"));
        bench.add(of_class("two"));
    }
    let scope = Scope::Class("one".into());
    bench.apply(Command::Pause {
        scope: &scope,
        by: "me",
    });
    assert_eq!(starts(&mut bench, "one", 100), 0);
    bench.apply(Command::Resume { scope: &scope });
    let its = starts(&mut bench, "one", 40);
    // Half of them, and six for the minute that may be saved.
    assert!((18..=25).contains(&its), "{its}");
}

/// TASK-3: tasks of one fairness key that may not start now are passed over together, however many priorities they have.
#[test]
fn a_full_key_is_passed_over_as_a_whole() {
    let mut bench = Bench::new();
    bench.queue.set_classes(&[ClassRule {
        key_concurrency: Some(1),
        ..rule("normal", 100)
    }]);
    for priority in 0..500 {
        bench.add(Head {
            key: Some("k".into()),
            priority,
            ..head("a")
        });
    }
    let (_, _, lane) = bench.queue.lines.lanes.iter().next().unwrap();
    assert_eq!(lane.ranks.len(), 1, "one for all priorities");
    for id in (496..=500).rev() {
        let granted = bench.lease(5);
        assert_eq!(granted.len(), 1);
        assert_eq!(granted[0].id, TaskId(id), "the highest first");
        bench.finish(granted[0], DONE);
    }
    let last = bench.one();
    bench.apply(Command::Cancel {
        ids: &[TaskId(494)],
        strict: true,
    });
    bench.finish(last, DONE);
    assert_eq!(bench.ids(5), [493]);
}

/// TASK-6: kinds, classes and requirements that differ are bounded, however they come in.
#[test]
fn what_differs_is_bounded() {
    let mut queue = Queue::new(
        Settings {
            seed: 1,
            ..Settings::default()
        },
        Box::new(Every),
    );
    let mut effects = Effects::default();
    queue.opened(at(0.0), Opening::Clean { epoch: 1 }, &mut effects);
    let mut add = |heads: &[Head]| {
        effects.clear();
        let tasks: Vec<Entering<'_>> = heads
            .iter()
            .map(|head| Entering { head, parents: &[] })
            .collect();
        let command = Command::Enqueue {
            tasks: &tasks,
            idempotency: None,
        };
        queue.apply(at(0.0), command, &mut effects).map(drop)
    };
    let mut number = 0;
    let full = loop {
        let mut some = Vec::new();
        for _ in 0..1_000 {
            number += 1;
            some.push(head(&alloc::format!("kind {number}")));
        }
        if let Err(refused) = add(&some) {
            break refused;
        }
        assert!(number < 20_000, "kinds without bound");
    };
    assert!(matches!(full, Refused::Full { .. }), "{full}");
    add(&[head("kind 1")]).unwrap();
    // Those that take the place of others, too.
    let mut replaced = unique("u", UniqueConflict::Replace);
    replaced.kind = "kind 1".into();
    add(&[replaced.clone()]).unwrap();
    replaced.kind = "kind 2".into();
    add(&[replaced.clone()]).unwrap();
    let full = (0..1_000).find_map(|number| {
        let mut one = replaced.clone();
        one.unique.as_mut().unwrap().key = alloc::format!("u {number}").into();
        add(&[one.clone()]).unwrap();
        one.kind = alloc::format!("new {number}").into();
        add(&[one]).err()
    });
    assert!(matches!(full, Some(Refused::Full { .. })), "{full:?}");
}

/// TASK-6, TASK-14: a task that takes the place of another is counted where it goes.
#[test]
fn a_class_is_not_filled_by_replacing() {
    let mut bench = Bench::new();
    bench.queue.set_classes(&[
        rule("normal", 100),
        ClassRule {
            queue_limit: 1,
            ..rule("few", 100)
        },
    ]);
    for key in ["u", "v"] {
        bench.add(unique(key, UniqueConflict::Replace));
    }
    let few = |key| Head {
        class: "few".into(),
        ..unique(key, UniqueConflict::Replace)
    };
    bench.add(few("u"));
    bench.add(few("u"));
    let refused = bench.try_add(&[few("v")]).unwrap_err();
    assert!(matches!(refused, Refused::Full { .. }), "{refused}");
}

/// TASK-6: what an ask names is bounded, as it is remembered.
#[test]
fn an_ask_names_a_thousand_kinds_at_most() {
    let mut bench = Bench::new();
    let names: Vec<Box<str>> = (0..1_001)
        .map(|number| alloc::format!("k{number}").into())
        .collect();
    let long: Vec<Box<str>> = ["k".repeat(129).into()].into();
    for kinds in [Kinds::Only(names.clone()), Kinds::Except(long)] {
        let ask = Ask {
            worker: "w",
            handlers: &kinds,
            commands: &Kinds::None,
            http: &Kinds::None,
            max: 1,
            lease: secs(1),
            wait: Duration::ZERO,
            room: None,
            above: None,
        };
        let refused = bench.try_apply(Command::Lease(ask)).unwrap_err();
        assert!(
            matches!(refused, Refused::Request { field: "kinds", .. }),
            "{refused}"
        );
    }
}

/// TASK-3: a clock that jumps past thousands of deadlines does not make one command end them all.
#[test]
fn deadlines_are_missed_in_parts() {
    let mut bench = Bench::new();
    for _ in 0..6 {
        let heads: Vec<Head> = (0..1_000)
            .map(|_| Head {
                deadline: Some(at(100.0).wall),
                ..head("a")
            })
            .collect();
        bench.try_add(&heads).unwrap();
    }
    bench.at(86_400.0);
    assert!(bench.lease(1).is_empty());
    assert!(bench.effects.events.len() <= 2_000);
    assert!(bench.effects.ready, "who asks may ask again");
    while bench.tick() {}
    assert_eq!(bench.queue.live(), 0);
}

/// TASK-17: when there is no longer as much as a task needs, no room is kept for it more than once.
#[test]
fn room_that_is_gone_for_good_is_not_waited_for() {
    let gpus = |count: u32| Head {
        needs: Needs {
            resources: [("gpu".into(), count)].into(),
            ..Needs::default()
        },
        ..head("a")
    };
    let room = |free: u32| Room {
        resources: [("gpu".into(), free)].into(),
        ..Room::default()
    };
    let mut bench = Bench::new();
    // There were four once.
    assert!(bench.lease_with(1, Some(&room(4))).is_empty());
    bench.add(gpus(4));
    for _ in 0..200 {
        bench.add(gpus(1));
    }
    let mut given = 0;
    for minute in 0..40 {
        bench.at(f64::from(minute) * 60.0);
        for granted in bench.lease_with(2, Some(&room(2))) {
            given += 1;
            bench.finish(granted, DONE);
        }
    }
    // Ten minutes once, and the minute in which it is noticed.
    assert!(given >= 2 * 27, "{given}");
}

/// TASK-6, TASK-17: no room is kept for what is paused.
#[test]
fn what_is_paused_keeps_no_room() {
    let mut bench = Bench::new();
    let cpus = |kind: &str, cpu_millis| Head {
        needs: Needs {
            cpu_millis,
            ..Needs::default()
        },
        ..head(kind)
    };
    let room = |cpu| Room {
        cpu_millis: Some(cpu),
        ..Room::default()
    };
    bench.lease_with(1, Some(&room(4_000)));
    bench.add(cpus("big", 4_000));
    for _ in 0..10 {
        bench.add(cpus("small", 1_000));
    }
    assert_eq!(bench.lease_with(1, Some(&room(2_000))).len(), 1);
    bench.at(31.0);
    assert!(bench.lease_with(1, Some(&room(2_000))).is_empty(), "kept");
    let scope = Scope::Kind("big".into());
    bench.apply(Command::Pause {
        scope: &scope,
        by: "me",
    });
    assert_eq!(bench.lease_with(2, Some(&room(2_000))).len(), 2);
}

/// TASK-5: children of one parent start in the order in which they came.
#[test]
fn children_start_in_their_order() {
    let mut bench = Bench::new();
    let parent = bench.add(head("parent"));
    for _ in 0..10 {
        bench.add(after(parent));
    }
    let granted = bench.one();
    bench.finish(granted, DONE);
    assert_eq!(bench.ids(20), (2..=11).collect::<Vec<u64>>());
}

/// TASK-5: a child that is cancelled and retried again and again is one child.
#[test]
fn a_child_is_counted_once() {
    let mut bench = Bench::new();
    let parent = bench.add(head("parent"));
    let child = bench.add(after(parent));
    for _ in 0..300 {
        let ids = &[child];
        bench.apply(Command::Cancel { ids, strict: true });
        bench.apply(Command::Retry { ids, strict: true });
    }
    let slot = bench.queue.index.get(parent).unwrap();
    let children = &bench.queue.tasks[slot].extra.as_ref().unwrap().children;
    assert_eq!(children.len(), 1);
}

/// TASK-5, TASK-10: who is retried together with its parents waits for them, though the batch had named it before them.
#[test]
fn retried_children_wait_for_retried_parents() {
    let mut bench = Bench::new();
    let (child, parent) = (head("child"), head("parent"));
    let on = [(1, When::Success)];
    let tasks = [
        Entering {
            head: &child,
            parents: &on,
        },
        Entering {
            head: &parent,
            parents: &[],
        },
    ];
    bench.apply(Command::Enqueue {
        tasks: &tasks,
        idempotency: None,
    });
    let (child, parent) = (TaskId(1), TaskId(2));
    bench.apply(Command::Cancel {
        ids: &[parent],
        strict: true,
    });
    assert_eq!(bench.state(child), State::Skipped);
    bench.apply(Command::Retry {
        ids: &[child, parent],
        strict: true,
    });
    assert_eq!(bench.state(child), State::Blocked);
    let granted = bench.one();
    assert_eq!(granted.id, parent);
    bench.finish(granted, DONE);
    assert_eq!(bench.ids(5), [1]);
}

/// TASK-10, TASK-14: who cannot be retried does not take the unique key of who can.
#[test]
fn a_completed_task_does_not_take_the_key_of_a_failed_one() {
    let mut bench = Bench::new();
    let first = bench.add(unique("u", UniqueConflict::Keep));
    let granted = bench.one();
    bench.finish(granted, DONE);
    let second = bench.add(unique("u", UniqueConflict::Keep));
    bench.apply(Command::Cancel {
        ids: &[second],
        strict: true,
    });
    let reply = bench.apply(Command::Retry {
        ids: &[first, second],
        strict: false,
    });
    assert_eq!(reply, Reply::Changed([second].into()));
}

/// TASK-14: the newer task's times hold, though people had the one retried whose place it takes.
#[test]
fn the_newer_times_hold_after_a_retry() {
    let mut bench = Bench::new();
    let id = bench.add(unique("u", UniqueConflict::Keep));
    let granted = bench.one();
    bench.apply(Command::Cancel {
        ids: &[id],
        strict: true,
    });
    assert_eq!(bench.finish(granted, FAILED), State::Cancelled);
    bench.apply(Command::Retry {
        ids: &[id],
        strict: true,
    });
    bench.add(Head {
        not_before: Some(at(50.0).wall),
        deadline: Some(at(60.0).wall),
        ..unique("u", UniqueConflict::Extend)
    });
    assert_eq!(bench.state(id), State::Scheduled);
    bench.at(50.0).tick();
    assert_eq!(bench.state(id), State::Pending);
    bench.at(60.0).tick();
    assert_eq!(bench.record(id).reason, Some(Reason::DeadlineMissed));
}

/// TASK-1, TASK-5: a child does not run because its parent's row was lost.
#[test]
fn a_lost_parent_has_not_succeeded() {
    for (when, becomes) in [
        (When::Success, State::Skipped),
        (When::Failure, State::Skipped),
        (When::Any, State::Pending),
    ] {
        let mut bench = Bench::new();
        let parent = bench.add(head("parent"));
        let mut child = after(parent);
        child.after[0].when = when;
        let child = bench.add(child);
        let (head, record) = (bench.queue.head(child).unwrap(), bench.record(child));
        let mut queue = Queue::new(Settings::default(), Box::new(Every));
        queue.restore(child, &head, &record);
        let mut effects = Effects::default();
        queue.opened(bench.now, Opening::Crashed { epoch: 2 }, &mut effects);
        queue.check();
        assert_eq!(queue.state(child), Some(becomes), "{when:?}");
        assert!(effects.changed.contains(&child), "and that is written");
    }
}

/// TASK-5: parents are bounded, those of the same batch included.
#[test]
fn parents_are_bounded_together() {
    let mut bench = Bench::new();
    let before = bench.try_add(&[head("a"), head("a")]).unwrap();
    let parent = head("parent");
    let mut child = head("child");
    for taken in before {
        child.after.push(Dependency {
            parent: taken.id,
            when: When::Any,
        });
    }
    let places: Vec<(usize, When)> = (0..999).map(|place| (place, When::Any)).collect();
    let mut tasks = alloc::vec![
        Entering {
            head: &parent,
            parents: &[],
        };
        999
    ];
    tasks.push(Entering {
        head: &child,
        parents: &places,
    });
    let refused = bench.try_apply(Command::Enqueue {
        tasks: &tasks,
        idempotency: None,
    });
    match refused {
        Err(Refused::Invalid(fault)) => assert_eq!((fault.index, &*fault.field), (999, "after")),
        other => panic!("{other:?}"),
    }
}

/// TASK-4: a machine that is made anew while the process lives goes on with its tokens, and takes no lease away.
#[test]
fn tokens_go_on_in_a_machine_made_anew() {
    let mut bench = Bench::new();
    let id = bench.add(head("a"));
    let granted = bench.one();
    let (head, record) = (bench.queue.head(id).unwrap(), bench.record(id));
    let token = bench.queue.next_token();
    assert!(token > granted.token);
    let mut queue = Queue::new(Settings::default(), Box::new(Every));
    queue.restore(id, &head, &record);
    queue.opened(bench.now, Opening::Again { token }, &mut bench.effects);
    bench.queue = queue;
    assert_eq!(bench.queue.next_token(), token);
    assert_eq!(bench.finish(granted, DONE), State::Completed);
}

/// TASK-15: a tick is done a little late always; without any grace it is not missed for that.
#[test]
fn a_tick_is_not_missed_for_milliseconds() {
    let mut bench = Bench::new();
    bench.add(Head {
        cron: Some(Box::new(Cron {
            expression: "10".into(),
            time_zone: "UTC".into(),
            overlap: Overlap::Skip,
            missed: Missed::Skip,
            grace: Duration::ZERO,
        })),
        ..head("cron")
    });
    bench.at(10.02).tick();
    assert_eq!(bench.lease(1).len(), 1);
}
