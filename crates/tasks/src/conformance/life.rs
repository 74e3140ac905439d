//! In, out, and exactly once.

use super::fixture::{Calls, Make, Wanted, block_on, done, request, task};
use crate::error::Error;
use crate::{Batch, CommandSpec, HttpSpec, Idempotency, Parent, Run};
use bytes::Bytes;
use flyball_policy::queue::{State, Via, When};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

/// TASK-2, TASK-3: all fields of a task come back as they were given, by whatever it runs.
pub fn what_goes_in_comes_out(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut command = task("command");
    command.head.via = Via::Command;
    command.run = Run::Command(Box::new(CommandSpec {
        argv: vec!["echo".into(), OsString::from_vec(vec![0xff, b'a', 0x80])],
        cwd: Some("/tmp".into()),
        env: vec![("PATH".into(), OsString::from_vec(vec![0xfe]))],
        clear_env: true,
        umask: Some(0o027),
        nice: 5,
        retry_on_failure: true,
        ..CommandSpec::default()
    }));
    let mut call = task("call");
    call.head.via = Via::Http;
    call.run = Run::Http(Box::new(HttpSpec {
        method: "POST".to_owned(),
        url: "https://example.org/x?y=1".to_owned(),
        headers: vec![("X-A".to_owned(), "b".to_owned())],
        body: Some(Bytes::from_static(b"\x00\xffbody")),
        dependency: Some("there".into()),
        hedge: true,
        remote: true,
    }));
    let mut handled = task("handled");
    handled.payload = Bytes::from(vec![b'7'; 100_000]);
    handled.labels = vec![("team".into(), "a".into()), ("empty".into(), "".into())];
    handled.secrets = vec!["/password".into()];
    handled.head.timeout = Some(Duration::from_millis(1500));
    handled.head.affinity_key = Some("host".into());
    handled.head.key = Some("customer".into());
    handled.head.group = Some("group".into());
    handled.head.deadline = Some(fixture.wall().saturating_add(Duration::from_secs(3600)));
    let given = [command, call, handled];
    let accepted = fixture.put(given.to_vec());
    let leases = fixture.get(10);
    assert_eq!(leases.len(), 3);
    for (accepted, given) in accepted.iter().zip(&given) {
        assert_eq!(accepted.state, State::Pending);
        assert!(!accepted.existing);
        let lease = leases.iter().find(|lease| lease.id == accepted.id).unwrap();
        assert_eq!(lease.head, given.head);
        assert_eq!(lease.run, given.run);
        assert_eq!(lease.payload, given.payload);
        assert_eq!(lease.attempts.started, 1);
        let seen = fixture.look(accepted.id);
        assert_eq!(seen.head, given.head);
        assert_eq!(seen.run, given.run);
        assert_eq!(seen.payload, given.payload);
        assert_eq!(seen.labels, given.labels);
        assert_eq!(seen.secrets, given.secrets);
        assert_eq!(seen.state, State::Running);
        assert_eq!(seen.worker.as_deref(), Some("worker"));
        assert_eq!(seen.created_at, accepted.created_at);
    }
    let lease = &leases[0];
    let mut end = done(lease.id, lease.token);
    end.result = Some(Bytes::from_static(b"{\"ok\":true}"));
    end.usage.cpu = Some(Duration::from_millis(12));
    end.usage.exit_status = Some(0);
    let brief = fixture.end(end.clone()).unwrap();
    assert_eq!(brief.state, State::Completed);
    let seen = fixture.look(lease.id);
    assert_eq!(seen.result, end.result);
    assert_eq!(seen.usage, end.usage);
    assert!(seen.ended_at.is_some() && seen.worker.is_none());
}

/// TASK-3: inside a class, higher priority first, then the order of arrival.
pub fn higher_priority_and_older_tasks_go_first(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut ids = Vec::new();
    for priority in [0, 5, 0, 5, -1] {
        let mut new = task("a");
        new.head.priority = priority;
        ids.push(fixture.put_one(new));
    }
    let order: Vec<_> = fixture.get(10).iter().map(|lease| lease.id).collect();
    assert_eq!(order, [ids[1], ids[3], ids[0], ids[2], ids[4]]);
}

/// TASK-1: a batch with a task that cannot be taken leaves no trace.
pub fn a_batch_is_taken_whole_or_not_at_all(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let mut orphan = task("b");
    orphan.after = vec![Parent {
        reference: "nobody".into(),
        when: When::Success,
    }];
    let mut circle_a = task("c");
    circle_a.reference = Some("a".into());
    circle_a.after = vec![Parent {
        reference: "b".into(),
        when: When::Success,
    }];
    let mut circle_b = task("c");
    circle_b.reference = Some("b".into());
    circle_b.after = vec![Parent {
        reference: "a".into(),
        when: When::Success,
    }];
    for (bad, index) in [
        (vec![task("a"), orphan], 1),
        (vec![task("a"), circle_a, circle_b], 1),
        (Vec::new(), 0),
    ] {
        let refused = block_on(fixture.queue().enqueue(Batch {
            tasks: bad,
            idempotency: None,
        }));
        match refused {
            Err(Error::Invalid(invalid)) => assert!(invalid.index >= index, "{invalid}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(fixture.get(10).is_empty());
    let accepted = fixture.put(vec![task("a"), task("b")]);
    assert_eq!(accepted.len(), 2);
    assert_eq!(fixture.get(10).len(), 2);
}

/// TASK-4: an idempotency key makes a repeated request one, also after a crash; with another body it is refused.
pub fn a_repeated_request_is_answered_as_before(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    let batch = |fingerprint: u8| Batch {
        tasks: vec![task("a"), task("b")],
        idempotency: Some(Idempotency {
            key: "order 17".into(),
            fingerprint: [fingerprint; 32],
        }),
    };
    let first = block_on(fixture.queue().enqueue(batch(1))).unwrap();
    for crash in [false, true] {
        if crash {
            fixture.crash();
        }
        let again = block_on(fixture.queue().enqueue(batch(1))).unwrap();
        assert_eq!(again.len(), 2);
        for (first, again) in first.iter().zip(&again) {
            assert_eq!(first.id, again.id);
            assert_eq!(first.created_at, again.created_at);
            assert!(again.existing && !first.existing);
        }
        let other = block_on(fixture.queue().enqueue(batch(2)));
        assert!(matches!(other, Err(Error::KeyReused)), "{other:?}");
    }
    assert_eq!(fixture.get(10).len(), 2);
}

/// TASK-4: exactly one completion is acknowledged.
pub fn a_completion_is_acknowledged_once(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let id = fixture.put_one(task("a"));
    let lease = fixture.get_one();
    assert_eq!(
        fixture.end(done(id, lease.token)).unwrap().state,
        State::Completed
    );
    let again = fixture.end(done(id, lease.token));
    assert!(
        matches!(
            again,
            Err(Error::StaleToken {
                state: State::Completed,
                ..
            })
        ),
        "{again:?}"
    );
    assert!(
        block_on(fixture.queue().lease(request(1)))
            .unwrap()
            .is_empty()
    );
}
