//! Who has a task, and for how long.

use super::fixture::{Calls, Make, Wanted, block_on, done, poll_once, request, task};
use crate::error::Error;
use crate::{Beat, Kinds, Room};
use bytes::Bytes;
use flyball_policy::queue::{Outcome, State, Via};
use std::collections::BTreeSet;
use std::time::Duration;

/// TASK-4: a task is leased to one lessee, and to no more than were asked for.
pub fn a_lease_is_one_lessees(make: Make<'_>) {
    let fixture = make(Wanted::default());
    fixture.put((0..10).map(|_| task("a")).collect());
    let first = fixture.get(4);
    let second = fixture.get(10);
    assert_eq!((first.len(), second.len()), (4, 6));
    let ids: BTreeSet<_> = first.iter().chain(&second).map(|lease| lease.id).collect();
    assert_eq!(ids.len(), 10);
    let tokens: BTreeSet<_> = first
        .iter()
        .chain(&second)
        .map(|lease| lease.token)
        .collect();
    assert_eq!(tokens.len(), 10);
    assert!(fixture.get(1).is_empty());
}

/// TASK-4: an expired lease returns the task; its token is refused from then on, and the next is greater.
pub fn an_expired_lease_returns_the_task_and_voids_its_token(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut new = task("a");
    new.head.retry.base = Duration::ZERO;
    let id = fixture.put_one(new);
    let first = fixture.get_one();
    fixture.advance(Duration::from_secs(31));
    let second = fixture.get_one();
    assert_eq!(second.id, id);
    assert!(second.token > first.token);
    assert_eq!(second.attempts.started, 2);
    assert_eq!(second.attempts.counted, first.attempts.counted + 1);
    let stale = fixture.end(done(id, first.token));
    assert!(
        matches!(
            stale,
            Err(Error::StaleToken {
                state: State::Running,
                ..
            })
        ),
        "{stale:?}"
    );
    let stale = block_on(fixture.queue().heartbeat(id, first.token, Beat::default()));
    assert!(matches!(stale, Err(Error::StaleToken { .. })), "{stale:?}");
    assert_eq!(
        fixture.end(done(id, second.token)).unwrap().state,
        State::Completed
    );
}

/// TASK-4: a heartbeat extends the lease and carries progress, a line of text and a checkpoint, which the next attempt receives.
pub fn a_heartbeat_extends_and_carries_progress_and_checkpoint(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut new = task("a");
    new.head.retry.base = Duration::ZERO;
    let id = fixture.put_one(new);
    let first = fixture.get_one();
    for step in 1..=3u8 {
        fixture.advance(Duration::from_secs(20));
        let beat = Beat {
            progress: Some(f32::from(step) * 10.0),
            message: Some(format!("step {step}").into()),
            checkpoint: Some(Bytes::from(vec![step; 64 << 10])),
            ..Beat::default()
        };
        let beaten = block_on(fixture.queue().heartbeat(id, first.token, beat)).unwrap();
        assert!(!beaten.cancelled);
        assert!(beaten.expires_at > fixture.wall());
    }
    let seen = fixture.look(id);
    assert_eq!(seen.progress, Some(30.0));
    assert_eq!(seen.message.as_deref(), Some("step 3"));
    let beat = Beat {
        checkpoint: Some(Bytes::from(vec![0; (64 << 10) + 1])),
        ..Beat::default()
    };
    let refused = block_on(fixture.queue().heartbeat(id, first.token, beat));
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    fixture.advance(Duration::from_secs(31));
    let second = fixture.get_one();
    assert_eq!(second.checkpoint, Some(Bytes::from(vec![3; 64 << 10])));
    assert_eq!(fixture.look(id).progress, None);
}

/// TASK-3: who runs a task can say that it is held, and that it goes on.
pub fn a_paused_task_is_held(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let id = fixture.put_one(task("a"));
    let lease = fixture.get_one();
    for (paused, state) in [(true, State::Paused), (false, State::Running)] {
        let beat = Beat {
            paused: Some(paused),
            ..Beat::default()
        };
        block_on(fixture.queue().heartbeat(id, lease.token, beat)).unwrap();
        assert_eq!(fixture.state(id), state);
    }
}

/// CPU-20: time of which it is said that a task stood still does not count for its timeout: its lease is extended for as long as it takes.
pub fn a_task_that_stands_still_keeps_its_lease(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut new = task("a");
    new.head.timeout = Some(Duration::from_secs(3));
    let id = fixture.put_one(new);
    let lease = fixture.get_one();
    let mut stood = Duration::ZERO;
    for _ in 0..6 {
        fixture.advance(Duration::from_secs(20));
        stood += Duration::from_secs(20);
        let beat = Beat {
            stood,
            ..Beat::default()
        };
        block_on(fixture.queue().heartbeat(id, lease.token, beat)).unwrap();
        assert_eq!(fixture.state(id), State::Running);
    }
}

/// TASK-4: ends of one request stand for themselves.
pub fn one_stale_end_does_not_spoil_the_others(make: Make<'_>) {
    let fixture = make(Wanted::default());
    fixture.put((0..3).map(|_| task("a")).collect());
    let leases = fixture.get(3);
    fixture.end(done(leases[1].id, leases[1].token)).unwrap();
    let ends = leases
        .iter()
        .map(|lease| done(lease.id, lease.token))
        .collect();
    let answers = block_on(fixture.queue().finish(ends)).unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert!(matches!(answers[1], Err(Error::StaleToken { .. })));
}

/// TASK-2: who asks for tasks when there are none can wait for one, and no longer than it wants.
pub fn a_lease_waits_for_a_task(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let queue = fixture.queue();
    let mut patient = request(5);
    patient.wait = Duration::from_secs(60);
    let mut waiting = queue.lease(patient.clone());
    assert!(poll_once(&mut waiting).is_none());
    let id = fixture.put_one(task("a"));
    let leases = block_on(waiting).unwrap();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].id, id);
    fixture.end(done(id, leases[0].token)).unwrap();

    let mut waiting = queue.lease(patient);
    assert!(poll_once(&mut waiting).is_none());
    // Asked later, so that the one before has been seen to wait.
    assert!(fixture.get(1).is_empty());
    fixture.advance(Duration::from_secs(61));
    assert!(block_on(waiting).unwrap().is_empty());
}

/// TASK-4: if nobody takes the answer, its tasks come back at once, and at no cost.
pub fn a_lease_that_nobody_awaits_gives_its_tasks_back(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let queue = fixture.queue();
    let mut patient = request(5);
    patient.wait = Duration::from_secs(60);
    let mut gone = queue.lease(patient.clone());
    assert!(poll_once(&mut gone).is_none());
    drop(gone);
    let mut unread = queue.lease(patient.clone());
    assert!(poll_once(&mut unread).is_none());
    // Asked after, so answered after.
    assert!(fixture.get(1).is_empty());
    let id = fixture.put_one(task("a"));
    drop(unread);
    let leases = block_on(queue.lease(patient)).unwrap();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].id, id);
    assert_eq!(leases[0].attempts.counted, 0);
}

/// TASK-2: lessees are given the kinds that they take, and only what runs as they can run it.
pub fn lessees_get_what_they_take(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut command = task("a");
    command.head.via = Via::Command;
    command.run = crate::Run::Command(Box::new(crate::CommandSpec {
        argv: vec!["true".into()],
        ..Default::default()
    }));
    let command = fixture.put_one(command);
    let a = fixture.put_one(task("a"));
    let b = fixture.put_one(task("b"));
    let lease = |handlers: Kinds, commands: Kinds| {
        let mut request = request(10);
        request.handlers = handlers;
        request.commands = commands;
        request.http = Kinds::None;
        let leases = block_on(fixture.queue().lease(request)).unwrap();
        for lease in &leases {
            let mut back = done(lease.id, lease.token);
            back.outcome = None;
            fixture.end(back).unwrap();
        }
        leases.iter().map(|lease| lease.id).collect::<BTreeSet<_>>()
    };
    let only = |kind: &str| Kinds::Only(vec![kind.into()]);
    let except = |kind: &str| Kinds::Except(vec![kind.into()]);
    assert_eq!(lease(only("a"), Kinds::None), [a].into());
    assert_eq!(lease(except("a"), Kinds::None), [b].into());
    assert_eq!(lease(Kinds::None, only("a")), [command].into());
    assert_eq!(lease(Kinds::None, only("b")), [].into());
    assert_eq!(lease(Kinds::All, Kinds::All), [command, a, b].into());
}

/// TASK-3, TASK-17: a task is given when what it needs is free; others do not wait behind it.
pub fn lessees_get_what_fits(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut large = task("a");
    large.head.needs.memory_bytes = 1 << 30;
    large.head.needs.resources = vec![("gpu".into(), 2)];
    let large = fixture.put_one(large);
    let small = fixture.put_one(task("a"));
    let ask = |gpus: u32| {
        let mut request = request(10);
        request.room = Some(Room {
            cpu_millis: None,
            memory_bytes: Some(2 << 30),
            resources: [("gpu".into(), gpus)].into(),
        });
        block_on(fixture.queue().lease(request)).unwrap()
    };
    let leases = ask(1);
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].id, small);
    let leases = ask(2);
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].id, large);
    let mut end = done(large, leases[0].token);
    end.outcome = Some(Outcome::Done);
    fixture.end(end).unwrap();
}
