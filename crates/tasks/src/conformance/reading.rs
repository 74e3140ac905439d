//! Looking at it.

use super::fixture::{Calls, Make, Wanted, block_on, done, failed, task};
use crate::{Filter, Query, Waiting};
use flyball_policy::queue::{State, TaskId};

/// TASK-3: pages go from the newest to the oldest and hold every task once.
pub fn pages_hold_every_task_once(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut ids: Vec<TaskId> = fixture
        .put((0..25).map(|_| task("a")).collect())
        .iter()
        .map(|accepted| accepted.id)
        .collect();
    ids.reverse();
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = block_on(fixture.queue().list(Query {
            filter: Filter::default(),
            before,
            limit: 10,
        }))
        .unwrap();
        assert!(page.tasks.len() <= 10 && page.damaged.is_empty());
        seen.extend(page.tasks.iter().map(|task| task.id));
        match page.next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ids);
}

/// TASK-3: tasks are found by state, class, kind, group and labels, together.
pub fn filters_select(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let plain = fixture.put_one(task("a"));
    let mut new = task("b");
    new.head.class = "batch".into();
    new.head.group = Some("g".into());
    new.labels = vec![("team".into(), "x".into()), ("env".into(), "prod".into())];
    let labelled = fixture.put_one(new);
    let broken = fixture.put_one(task("c"));
    let leases = fixture.get(10);
    let lease = |id| leases.iter().find(|lease| lease.id == id).unwrap();
    fixture
        .end(failed(broken, lease(broken).token, false))
        .unwrap();
    fixture.end(done(plain, lease(plain).token)).unwrap();
    let find = |filter: Filter| {
        let page = block_on(fixture.queue().list(Query {
            filter,
            before: None,
            limit: 100,
        }))
        .unwrap();
        assert_eq!(page.next, None);
        page.tasks.iter().map(|task| task.id).collect::<Vec<_>>()
    };
    let states = |states: &[State]| Filter {
        states: states.to_vec(),
        ..Filter::default()
    };
    assert_eq!(find(Filter::default()), [broken, labelled, plain]);
    assert_eq!(find(states(&[State::Running])), [labelled]);
    assert_eq!(find(states(&[State::Failed])), [broken]);
    assert_eq!(find(states(&[State::Completed])), [plain]);
    assert_eq!(
        find(states(&[State::Completed, State::Failed])),
        [broken, plain]
    );
    assert_eq!(find(states(&[State::Dead])), []);
    assert_eq!(
        find(Filter {
            class: Some("batch".into()),
            kind: Some("b".into()),
            group: Some("g".into()),
            labels: vec![("env".into(), "prod".into())],
            ..Filter::default()
        }),
        [labelled]
    );
    assert_eq!(
        find(Filter {
            labels: vec![("env".into(), "test".into())],
            ..Filter::default()
        }),
        []
    );
    assert_eq!(
        find(Filter {
            class: Some("batch".into()),
            kind: Some("a".into()),
            ..Filter::default()
        }),
        []
    );
}

/// TASK-16: what a task waits for is told; figures count tasks by state, class and kind.
pub fn figures_count(make: Make<'_>) {
    let fixture = make(Wanted::default());
    fixture.put(vec![task("a"), task("a"), task("b")]);
    let lease = fixture.get_one();
    let why = block_on(fixture.queue().why(lease.id)).unwrap();
    assert_eq!(
        why,
        [Waiting::Running {
            worker: "worker".into()
        }]
    );
    let stats = block_on(fixture.queue().stats()).unwrap();
    assert_eq!(stats.accepted, 3);
    assert_eq!(stats.by_state[&State::Pending], 2);
    assert_eq!(stats.by_state[&State::Running], 1);
    assert_eq!(stats.by_class["normal"][&State::Pending], 2);
    assert_eq!(stats.by_kind["b"][&State::Pending], 1);
    assert_eq!((stats.damaged, stats.stopped), (0, None));
    fixture.end(done(lease.id, lease.token)).unwrap();
    let stats = block_on(fixture.queue().stats()).unwrap();
    assert_eq!(stats.completed, 1);
    assert_eq!(stats.by_state[&State::Completed], 1);
    let why = block_on(fixture.queue().why(lease.id)).unwrap();
    assert_eq!(why, [Waiting::Ended(State::Completed)]);
}

/// TASK-3: every change of state is an event with a time and a reason, in order.
pub fn each_change_is_an_event(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let watch = fixture.queue().watch();
    let before = *watch.borrow();
    let id = fixture.put_one(task("a"));
    let lease = fixture.get_one();
    fixture.end(done(id, lease.token)).unwrap();
    let changes = fixture.queue().changes(before, 100);
    assert_eq!(changes.missed, 0);
    let steps: Vec<_> = changes
        .events
        .iter()
        .map(|event| (event.from, event.to))
        .collect();
    assert_eq!(
        steps,
        [
            (None, State::Pending),
            (Some(State::Pending), State::Running),
            (Some(State::Running), State::Completed),
        ]
    );
    for (number, event) in (before + 1..).zip(&changes.events) {
        assert_eq!(event.number, number);
        assert_eq!((event.id, &*event.kind, &*event.class), (id, "a", "normal"));
        assert!(!event.reason.is_empty());
    }
    assert_eq!(*watch.borrow(), before + 3);
    assert_eq!(fixture.queue().changes(before + 1, 1).events.len(), 1);
    assert!(fixture.queue().changes(before + 3, 100).events.is_empty());
}

/// TASK-3: events are kept within a bound; who comes too late learns how many were missed.
pub fn followers_learn_what_they_missed(make: Make<'_>) {
    let fixture = make(Wanted {
        max_tasks: 1_000_000,
    });
    for _ in 0..12 {
        fixture.put(vec![task("a"); 1_000]);
    }
    let newest = *fixture.queue().watch().borrow();
    let changes = fixture.queue().changes(0, usize::MAX);
    assert_eq!(changes.missed + changes.events.len() as u64, newest);
    assert!(changes.missed > 0);
    assert_eq!(
        changes.events.last().map(|event| event.number),
        Some(newest)
    );
    // A number of another process is none of ours.
    assert_eq!(
        fixture.queue().changes(newest + 1_000, 10),
        crate::Changes::default()
    );
}
